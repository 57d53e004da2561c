use std::collections::{HashMap, HashSet};

use chrono::{Datelike, NaiveDate, Weekday};

use super::*;

fn plan(people: usize, calls: Option<u64>) -> Plan {
    let start = NaiveDate::from_ymd_opt(2025, 11, 27).unwrap();
    let end = NaiveDate::from_ymd_opt(2026, 11, 27).unwrap().and_hms_opt(14, 32, 10).unwrap();
    Plan { people, start, end, calls, seed: 1 }
}

/// People with two keys each, as a database might number them.
fn who(people: usize) -> Vec<Who> {
    let one = |n: i64| Who { user_id: 100 + n, key_ids: vec![1_000 + 2 * n, 1_001 + 2 * n] };
    (0..people).map(|n| one(i64::try_from(n).unwrap())).collect()
}

fn sample(plan: &Plan) -> Sample {
    Sample::new(plan, &who(plan.people))
}

#[test]
fn the_same_plan_gives_the_same_rows() {
    let plan = plan(40, Some(10_000));
    let other = Plan { seed: 2, ..plan.clone() };

    assert!(sample(&plan).eq(sample(&plan)));
    assert_eq!(people(&plan), people(&plan));
    assert!(!sample(&plan).eq(sample(&other)));
}

#[test]
fn rows_are_in_time_order_within_the_plan_and_their_ids_are_unique() {
    let plan = plan(120, Some(205_000));
    let start = plan.start.and_time(NaiveTime::MIN);
    let (mut ids, mut last) = (HashSet::new(), start);

    for row in sample(&plan) {
        assert!(last <= row.request_time && row.request_time < plan.end, "{row:?}");
        last = row.request_time;
        assert!(ids.insert(row.call_id));
    }

    assert_eq!(ids.len(), 205_000);
}

#[test]
fn an_aim_is_met_to_the_call() {
    for aim in [0, 1, 7, 5_000, 50_000] {
        let plan = plan(200, Some(aim));
        assert_eq!(sample(&plan).calls(), aim);
        assert_eq!(sample(&plan).count() as u64, aim);
    }
    let month =
        Plan { start: NaiveDate::from_ymd_opt(2026, 11, 1).unwrap(), ..plan(8, Some(4_000)) };
    assert_eq!(sample(&month).count(), 4_000);
}

#[test]
fn without_people_or_time_there_are_no_rows() {
    let plan = plan(3, Some(100));
    let backwards = Plan { end: timestamp(0), ..plan.clone() };

    assert_eq!(Sample::new(&plan, &[]).count(), 0);
    assert_eq!(sample(&backwards).count(), 0);
    assert_eq!(people(&backwards).len(), 3);
}

#[test]
fn a_year_of_two_hundred_people_is_about_a_million_calls() {
    for seed in 1..=2 {
        let calls = sample(&Plan { seed, ..plan(200, None) }).calls();
        assert!((800_000..1_500_000).contains(&calls), "{calls}");
    }
}

#[test]
fn keys_belong_to_their_person_who_is_there() {
    let plan = plan(60, Some(30_000));
    let (who, people) = (who(60), people(&plan));
    let day = chrono::TimeDelta::days(1);

    for row in sample(&plan) {
        let index = who.iter().position(|it| it.user_id == row.user_id).unwrap();
        assert!(row.key_id.is_none_or(|key| who[index].key_ids.contains(&key)));
        assert!(row.request_time >= people[index].joined - day);
        assert!(people[index].left.is_none_or(|left| row.request_time < left + day));
    }
}

#[test]
fn calls_end_as_they_do_in_life() {
    let mut ends: HashMap<String, usize> = HashMap::new();
    let (mut anthropic, mut unpriced) = (0, 0);

    for row in sample(&plan(200, Some(150_000))) {
        let tokens = [row.input_tokens, row.output_tokens, row.cache_write_tokens];
        match row.outcome.as_str() {
            _ if row.operation == "count_tokens" => {
                assert_eq!((tokens, row.cost_nano_usd), ([None; 3], Some(0)), "{row:?}");
            }
            "success" => {
                assert!(tokens.iter().all(Option::is_some) && row.status == Some(200));
                assert!(row.stop_reason.is_some() && !row.estimated, "{row:?}");
            }
            "upstream_error" => {
                assert!(!row.estimated, "{row:?}");
                assert_eq!((tokens, row.time_to_first_byte_ms), ([None; 3], None), "{row:?}");
                assert!(row.error_code.is_some() && row.status > Some(399), "{row:?}");
            }
            "client_disconnect" if row.streamed => {
                assert!(row.estimated && row.output_tokens > Some(0), "{row:?}");
            }
            _ => assert!(row.stop_reason.is_none() && row.estimated, "{row:?}"),
        }
        assert!(row.cache_write_1h_tokens <= row.cache_write_tokens, "{row:?}");
        assert!(
            row.time_to_first_byte_ms.is_none()
                || row.time_to_first_byte_ms <= row.response_time_ms
        );
        anthropic += usize::from(row.endpoint_type == "anthropic");
        unpriced += usize::from(row.model_id == "anthropic.claude-fable-5-2");
        *ends.entry(row.outcome).or_default() += 1;
    }

    assert_eq!(ends.len(), 8, "{ends:?}");
    assert!((146_200..147_800).contains(&ends["success"]), "{ends:?}");
    assert!((112_000..132_000).contains(&anthropic), "{anthropic}");
    assert!((30..3_000).contains(&unpriced), "{unpriced}");
}

#[test]
fn work_is_done_on_working_days_and_grows() {
    let plan = plan(200, Some(100_000));
    let mut days: HashMap<NaiveDate, usize> = HashMap::new();
    let night =
        |row: &NewUsage| Habits::of(&plan, row.user_id as usize - 100).kind == Kind::Program;
    for row in sample(&plan).filter(|row| !night(row)) {
        *days.entry(row.request_time.date()).or_default() += 1;
    }
    let count = |y, m, d, length| -> usize {
        let first = NaiveDate::from_ymd_opt(y, m, d).unwrap();
        first.iter_days().take(length).filter_map(|day| days.get(&day)).sum()
    };

    let (autumn, winter) = (count(2026, 10, 26, 28), count(2025, 12, 1, 14) * 2);
    assert!((17..28).contains(&(autumn * 10 / winter)), "{autumn} {winter}");
    // Sundays alone: in America it is Friday yet when Saturday begins here.
    let on = |weekday: Weekday| -> usize {
        days.iter().filter(|(day, _)| day.weekday() == weekday).map(|(_, calls)| calls).sum()
    };
    let share = on(Weekday::Sun) as f64 / on(Weekday::Wed) as f64;
    assert!((0.05..0.13).contains(&share), "a Sunday is {share} of a Wednesday");
    assert!(count(2025, 12, 24, 7) * 2 < count(2026, 1, 12, 7));
}

#[test]
fn sessions_are_long_and_read_their_cache() {
    let mut sessions: HashMap<String, Vec<NewUsage>> = HashMap::new();
    for row in sample(&plan(200, Some(50_000))) {
        if let Some(session) = row.client_session_id.clone() {
            sessions.entry(session).or_default().push(row);
        }
    }
    let total = |of: fn(&NewUsage) -> Option<i64>| -> i64 {
        sessions.values().flatten().filter_map(of).sum()
    };

    assert!(sessions.values().any(|rows| rows.len() > 200));
    let (read, write) = (total(|row| row.cache_read_tokens), total(|row| row.cache_write_tokens));
    assert!(read > 8 * write && write > 10 * total(|row| row.input_tokens), "{read} {write}");
}

#[test]
fn every_model_is_offered_under_its_profiles() {
    let offered = include_str!("../../settings/models.csv");

    for model in models::MODELS.iter().filter(|model| model.is_claude()) {
        for place in 0..4 {
            let (id, region) = model.called_from(place % 3, place == 3);
            let geo = id.split_once(".anthropic.").map_or("", |(geo, _)| geo);
            let fits = offered.lines().any(|line| {
                let columns: Vec<&str> = line.split(',').collect();
                columns[0] == model.alias
                    && id.ends_with(columns[1])
                    && columns[2].split(';').any(|it| it == geo)
            });
            assert!(fits, "{} as {id} in {region}", model.alias);
        }
    }
}
