//! Summaries: the sums of their rows to the token and nano-dollar, in whatever order rows, builds and clean-ups come.

use std::{collections::BTreeMap, sync::Arc};

use bedrock_sso_proxy::{
    db::{
        Conn, Pool, Timestamp,
        audit::Origin,
        levels::{self, Level},
        period::Period,
        schema::usage_summaries,
        summaries::{
            EVERYBODY, KEY, Measures, PERSON as OF_A_PERSON, Place, UsageSummary, build::Scope,
        },
        usage::{self, Inserted, NewUsage},
    },
    jobs::{JobError, Work, clean_up, reprice, summarise},
    pricing::ledger::{self, Ledger},
};
use chrono::TimeDelta;
use diesel::{QueryDsl, SelectableHelper};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::helpers::{
    ADMIN, MODEL, PERSON, TestServer, TestServerBuilder, message, on_both_databases,
};

const PERIODS: [Period; 3] = [Period::Daily, Period::Weekly, Period::Monthly];
const KEPT: [(Level, u32); 5] = [
    (Level::Records, 10),
    (Level::Summaries(Period::Hourly), 3),
    (Level::Summaries(Period::Daily), 20),
    (Level::Summaries(Period::Weekly), 60),
    (Level::Summaries(Period::Monthly), 400),
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A small generator of its own, so that a failing seed can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) % below
    }

    fn row(&mut self, from: Timestamp, days: u64) -> NewUsage {
        let ms = self.roll(days * 86_400_000);
        let model = [
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "us.amazon.nova-lite-v1:0",
            "x.unpriced",
        ][self.roll(3) as usize];
        let success = self.roll(10) > 0;
        NewUsage {
            call_id: format!("{:016x}", self.0),
            user_id: 1 + self.roll(3) as i64,
            key_id: Some(self.roll(3) as i64).filter(|key| *key > 0),
            endpoint_type: ["anthropic", "bedrock"][self.roll(2) as usize].to_owned(),
            operation: "invoke".to_owned(),
            model_id: model.to_owned(),
            region: ["us-east-1", "eu-west-1"][self.roll(2) as usize].to_owned(),
            request_time: from + TimeDelta::milliseconds(ms as i64),
            response_time_ms: Some(self.roll(5000) as i64),
            time_to_first_byte_ms: success.then(|| self.roll(900) as i64),
            input_tokens: success.then(|| self.roll(1000) as i64),
            output_tokens: success.then(|| self.roll(1000) as i64),
            cache_write_tokens: success.then(|| 500 + self.roll(500) as i64),
            cache_write_1h_tokens: success.then(|| self.roll(500) as i64),
            cache_read_tokens: success.then(|| self.roll(90_000) as i64),
            outcome: if success { "success" } else { "upstream_error" }.to_owned(),
            estimated: self.roll(20) == 0,
            ..NewUsage::default()
        }
    }
}

/// What was written, as it should be in every summary that still counts.
#[derive(Default)]
struct Truth(BTreeMap<String, NewUsage>);

impl Truth {
    async fn write(&mut self, pool: &Pool, mut rows: Vec<NewUsage>) {
        let mut conn = pool.writer().await.unwrap();
        let ledger = Ledger::read(&mut conn).await.unwrap();
        for row in &mut rows {
            (row.cost_nano_usd, row.price_id) = ledger.price(row);
        }
        let new = rows.iter().filter(|row| !self.0.contains_key(&row.call_id)).count();
        let written = usage::insert_all(&mut conn, Arc::new(rows.clone()), ledger.version).await;
        assert_eq!(written.unwrap(), Inserted::Rows(new));
        for row in rows {
            self.0.entry(row.call_id.clone()).or_insert(row);
        }
    }

    /// The costs that [`reprice`] gives to those that have a row still.
    async fn price_again(&mut self, pool: &Pool, from: Timestamp) {
        let mut conn = pool.reader().await.unwrap();
        let ledger = Ledger::read(&mut conn).await.unwrap();
        let gone = levels::read(&mut conn).await.unwrap().cleaned_before(Level::Records);
        for row in self.0.values_mut().filter(|row| row.request_time >= from.max(gone)) {
            (row.cost_nano_usd, row.price_id) = ledger.price(row);
        }
    }

    fn of(&self, period: Period) -> BTreeMap<(Timestamp, Place), Measures> {
        let mut sums: BTreeMap<(Timestamp, Place), Measures> = BTreeMap::new();
        for row in self.0.values() {
            let own = Place {
                detail: KEY.to_owned(),
                user_id: row.user_id,
                key_id: row.key_id.unwrap_or(0),
                model_id: row.model_id.clone(),
                region: row.region.clone(),
                endpoint_type: row.endpoint_type.clone(),
            };
            let all = Place { detail: EVERYBODY.to_owned(), user_id: 0, key_id: 0, ..own.clone() };
            let person = Place {
                detail: OF_A_PERSON.to_owned(),
                user_id: row.user_id,
                key_id: 0,
                model_id: String::new(),
                region: String::new(),
                endpoint_type: String::new(),
            };
            for place in [own, all, person] {
                let start = period.floor(row.request_time);
                *sums.entry((start, place)).or_default() += Measures::of(row);
            }
        }
        sums
    }

    /// Whether the tables hold exactly what they should: of each level what is built and not cleaned up.
    async fn check(&self, pool: &Pool, context: &str) {
        let mut conn = pool.reader().await.unwrap();
        let levels = levels::read(&mut conn).await.unwrap();
        let there = dump(&mut conn).await;
        for period in Period::ALL {
            let counts = |start: &Timestamp| levels.takes(period, *start);
            let mut wanted = self.of(period);
            wanted.retain(|(start, _), _| counts(start));
            let found: BTreeMap<(Timestamp, Place), Measures> = there
                .iter()
                .filter(|row| row.period_type == period.as_str())
                .map(|row| ((row.period_start, row.place.clone()), row.measures))
                .collect();
            let stray = found.keys().filter(|(start, _)| !counts(start)).count();
            assert_eq!(stray, 0, "{context}: {} rows of what is cleaned up", period.as_str());
            assert_eq!(found.len(), wanted.len(), "{context}: {}", period.as_str());
            for (key, measures) in &wanted {
                assert_eq!(
                    found.get(key),
                    Some(measures),
                    "{context}: {} {key:?}",
                    period.as_str()
                );
            }
        }
    }
}

async fn dump(conn: &mut Conn) -> Vec<UsageSummary> {
    let query = usage_summaries::table.select(UsageSummary::as_select());
    match conn {
        Conn::Postgres(c) => diesel_async::RunQueryDsl::load(query, c.as_mut()).await.unwrap(),
        Conn::Sqlite(c) => {
            let query = usage_summaries::table.select(UsageSummary::as_select());
            diesel_async::RunQueryDsl::load(query, c.as_mut()).await.unwrap()
        }
    }
}

fn work<'a>(pool: &'a Pool, stop: &CancellationToken) -> Work<'a> {
    Work { pool, fence: None, stop: stop.clone(), progress: &|_progress| {} }
}

async fn summarise_all(pool: &Pool, now: Timestamp) {
    let work = work(pool, &CancellationToken::new());
    summarise::summarise(&work, &PERIODS, 30, &Scope::default(), now).await.unwrap();
}

async fn clean_all(pool: &Pool, now: Timestamp) {
    clean_up::clean_up(&work(pool, &CancellationToken::new()), &KEPT, now, &Origin::operator())
        .await
        .unwrap();
}

/// The application with its own jobs off: here they come when a test says so.
async fn start(backend: crate::helpers::Backend) -> TestServer {
    TestServerBuilder::new().backend(backend).set("JOBS__ENABLED", false).start().await
}

on_both_databases!(whatever_the_order_of_rows_builds_and_clean_ups_every_summary_is_the_sum_of_its_rows, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    for seed in 1..=4_u64 {
        app.sql("DELETE FROM usage_records; DELETE FROM usage_summaries;").await;
        app.sql("UPDATE usage_levels SET cleaned_before = '2000-01-01 00:00:00'").await;
        app.sql("UPDATE usage_levels SET built_before = '2000-01-01 00:00:00' WHERE level IN ('daily', 'monthly')").await;
        app.sql("UPDATE usage_levels SET built_before = '1999-12-27 00:00:00' WHERE level = 'weekly'").await;
        let mut dice = Dice(seed * 7919);
        let mut truth = Truth::default();
        let begin = at("2026-08-20T00:00:00");
        let mut now = begin + TimeDelta::days(3);
        for step in 0..24 {
            let context = format!("seed {seed}, step {step}, {now}");
            match dice.roll(6) {
                0 => summarise_all(&pool, now).await,
                1 => clean_all(&pool, now).await,
                2 => {
                    // Rows of the last days, some of which came before.
                    let mut rows: Vec<NewUsage> =
                        (0..60).map(|_| dice.row(now - TimeDelta::days(2), 2)).collect();
                    let recent = |row: &&NewUsage| row.request_time > now - TimeDelta::days(2);
                    rows.extend(truth.0.values().filter(recent).take(20).cloned());
                    truth.write(&pool, rows).await;
                }
                3 => {
                    // Late ones, from any time since the beginning.
                    let days = (now - begin).num_days() as u64;
                    let rows = (0..20).map(|_| dice.row(begin, days)).collect();
                    truth.write(&pool, rows).await;
                }
                4 => {
                    let price = (ledger_rate(dice.roll(5)), None);
                    let mut conn = pool.writer().await.unwrap();
                    let key = ("*", "x.unpriced");
                    ledger::set(&mut conn, key, Some(begin), price, &Origin::operator()).await.unwrap();
                    drop(conn);
                    let from = now - TimeDelta::days(8);
                    reprice::reprice(&work(&pool, &CancellationToken::new()), from, &Origin::operator())
                        .await
                        .unwrap();
                    truth.price_again(&pool, from).await;
                }
                _ => now += TimeDelta::hours(30 + dice.roll(200) as i64),
            }
            truth.check(&pool, &context).await;
        }
        summarise_all(&pool, now).await;
        clean_all(&pool, now).await;
        truth.check(&pool, &format!("seed {seed}, the end")).await;

        let before = dump(&mut pool.reader().await.unwrap()).await;
        summarise_all(&pool, now).await;
        clean_all(&pool, now).await;
        let after = dump(&mut pool.reader().await.unwrap()).await;
        assert_eq!(before.len(), after.len());
        assert!(after.iter().all(|row| before.contains(row)), "a second time changes nothing");
    }
});

fn ledger_rate(input: u64) -> bedrock_sso_proxy::pricing::Rates {
    let rate = Some(1000 * (1 + input as i64));
    bedrock_sso_proxy::pricing::Rates {
        input: rate,
        output: rate,
        cache_write: rate,
        cache_write_1h: rate,
        cache_read: rate,
    }
}

on_both_databases!(writers_builders_and_cleaners_at_once_lose_and_double_nothing, backend => {
    let app = start(backend).await;
    let now = at("2026-11-27T12:00:00");
    let rounds = std::env::var("SOAK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8_u64);
    let writer = |seed: u64, pool: Pool| async move {
        let mut truth = Truth::default();
        let mut dice = Dice(seed);
        for _ in 0..rounds {
            let rows = (0..100).map(|_| dice.row(now - TimeDelta::days(40), 40)).collect();
            truth.write(&pool, rows).await;
        }
        truth
    };
    let pools = [app.pool().await, app.pool().await, app.pool().await, app.pool().await];
    let [one, two, three, four] = &pools;
    let builder = async {
        for _ in 0..rounds {
            summarise_all(three, now).await;
        }
    };
    let second = async {
        for _ in 0..rounds {
            summarise_all(four, now).await;
            clean_all(four, now).await;
        }
    };

    let (mut truth, other, (), ()) =
        tokio::join!(writer(11, one.clone()), writer(12, two.clone()), builder, second);
    truth.0.extend(other.0);
    truth.check(one, "at once").await;
    summarise_all(one, now).await;
    clean_all(one, now).await;
    truth.check(one, "afterwards").await;
    assert_eq!(truth.0.len() as u64, rounds * 200);
});

on_both_databases!(a_build_that_is_stopped_anywhere_goes_on_where_it_stood, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let now = at("2026-11-27T12:00:00");
    let mut dice = Dice(5);
    let mut truth = Truth::default();
    let rows = (0..400).map(|_| dice.row(now - TimeDelta::days(40), 40)).collect();
    truth.write(&pool, rows).await;

    let mut stops = 0;
    loop {
        let stop = CancellationToken::new();
        let (steps, until) = (std::cell::Cell::new(0), 1 + dice.roll(6));
        let told = stop.clone();
        let count = move |_: bedrock_sso_proxy::jobs::Progress<'_>| {
            steps.set(steps.get() + 1);
            if steps.get() >= until {
                told.cancel();
            }
        };
        let work = Work { pool: &pool, fence: None, stop, progress: &count };
        // What is built already is not looked at again here: only going on brings it to its end.
        let built = summarise::summarise(&work, &PERIODS, 0, &Scope::default(), now).await;
        truth.check(&pool, &format!("after {stops} stops")).await;
        match built {
            Ok(_) => break,
            Err(JobError::Stopped) => stops += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(stops < 200, "it never comes to its end");
    }

    assert!(stops > 5, "{stops}");
    let levels = levels::read(&mut pool.reader().await.unwrap()).await.unwrap();
    assert_eq!(levels.built_before(Period::Daily), at("2026-11-27T00:00:00"));
    assert_eq!(levels.built_before(Period::Weekly), at("2026-11-23T00:00:00"));
    assert_eq!(levels.built_before(Period::Monthly), at("2026-11-01T00:00:00"));
});

on_both_databases!(what_is_wrong_is_found_by_a_dry_run_and_corrected_within_its_scope, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let now = at("2026-11-27T12:00:00");
    let mut dice = Dice(9);
    let mut truth = Truth::default();
    let rows = (0..300).map(|_| dice.row(now - TimeDelta::days(4), 4)).collect();
    truth.write(&pool, rows).await;
    summarise_all(&pool, now).await;
    app.sql("UPDATE usage_summaries SET requests = requests + 1 WHERE period_type = 'daily' AND user_id = 2").await;
    let wrong = dump(&mut pool.reader().await.unwrap()).await;
    let scope = Scope { user_id: Some(2), model: None };

    let preview = summarise::preview(&pool, &PERIODS, 30, &scope, now).await.unwrap();
    let untouched = dump(&mut pool.reader().await.unwrap()).await;
    let done = summarise::summarise(
        &work(&pool, &CancellationToken::new()), &PERIODS, 30, &scope, now,
    ).await.unwrap();

    let daily = preview.iter().find(|report| report.period == Period::Daily).unwrap();
    let corrupt = wrong.iter().filter(|r| r.period_type == "daily" && r.place.user_id == 2).count();
    assert_eq!((daily.changed.corrected, daily.changed.added, daily.changed.removed), (corrupt, 0, 0));
    assert!(wrong.iter().all(|row| untouched.contains(row)), "a dry run changes nothing");
    assert_eq!(done.rows, corrupt);
    truth.check(&pool, "corrected").await;
});

on_both_databases!(a_dry_run_counts_what_the_run_then_does, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let now = at("2026-11-27T12:00:00");
    let mut dice = Dice(21);
    let mut truth = Truth::default();
    let rows = (0..500).map(|_| dice.row(now - TimeDelta::days(70), 70)).collect();
    truth.write(&pool, rows).await;

    let preview = summarise::preview(&pool, &Period::ALL, 30, &Scope::default(), now).await.unwrap();
    let expected: usize = preview.iter().map(|report| report.changed.rows()).sum();
    let done = summarise::summarise(
        &work(&pool, &CancellationToken::new()), &Period::ALL, 30, &Scope::default(), now,
    ).await.unwrap();
    assert_eq!(done.rows, expected);
    assert!(expected > 500, "{expected}");
    truth.check(&pool, "built").await;

    let preview = clean_up::preview(&pool, &KEPT, now).await.unwrap();
    let expected: u64 = preview.iter().map(|report| report.rows).sum();
    let done = clean_up::clean_up(&work(&pool, &CancellationToken::new()), &KEPT, now, &Origin::operator()).await.unwrap();
    assert_eq!(done.rows as u64, expected);
    assert!(expected > 400, "{expected}");
    truth.check(&pool, "cleaned").await;

    let left = summarise::preview(&pool, &PERIODS, 60, &Scope::default(), now).await.unwrap();
    let daily = left.iter().find(|report| report.period == Period::Daily).unwrap();
    assert!(daily.to_string().contains("left as they are"), "{daily}");
});

on_both_databases!(rows_that_are_not_summed_up_yet_are_never_removed, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let now = at("2026-11-27T12:00:00");
    let mut truth = Truth::default();
    let mut dice = Dice(3);
    let rows = (0..200).map(|_| dice.row(now - TimeDelta::days(90), 90)).collect();
    truth.write(&pool, rows).await;

    clean_all(&pool, now).await;

    let levels = levels::read(&mut pool.reader().await.unwrap()).await.unwrap();
    assert_eq!(levels.cleaned_before(Level::Records), at("2026-11-17T12:00:00"));
    for period in [Period::Hourly, Period::Daily] {
        let kept = levels.cleaned_before(Level::Summaries(period));
        assert_eq!(kept, at("2000-01-01T00:00:00"), "no day, week and month is built: {period:?}");
    }
    truth.check(&pool, "without any build").await;
    summarise_all(&pool, now).await;
    clean_all(&pool, now).await;
    truth.check(&pool, "with one").await;
    let levels = levels::read(&mut pool.reader().await.unwrap()).await.unwrap();
    assert_eq!(levels.cleaned_before(Level::Summaries(Period::Hourly)), at("2026-11-24T00:00:00"));
});

on_both_databases!(rows_from_before_there_were_summaries_are_in_their_hours, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let mut truth = Truth::default();
    let mut dice = Dice(17);
    let rows = (0..200).map(|_| dice.row(at("2026-11-20T00:00:00"), 7)).collect();
    truth.write(&pool, rows).await;

    let down = app.command(&["migrate", "down", "--steps", "1", "--yes"]);
    let up = app.command(&["migrate", "up"]);

    assert!(down.status.success() && up.status.success(), "{down:?} {up:?}");
    truth.check(&pool, "as the migration makes them").await;
    summarise_all(&pool, at("2026-11-27T12:00:00")).await;
    truth.check(&pool, "and what is built of them").await;
});

/// Answers of a list, page by page.
async fn pages(app: &TestServer, credential: &str, query: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    for _ in 0..1000 {
        let path = format!("{query}&limit={limit}{cursor}");
        let reply = app.get(&path).bearer(credential).send().await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        let page = reply.json();
        all.extend(page["summaries"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
    panic!("the list has no end");
}

on_both_databases!(a_list_is_the_same_however_it_is_paged_and_however_much_of_it_is_built, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let admin = app.create_token(ADMIN).await;
    let now = bedrock_sso_proxy::db::now();
    let mut dice = Dice(33);
    let mut truth = Truth::default();
    let rows = (0..300).map(|_| dice.row(now - TimeDelta::days(45), 45)).collect();
    truth.write(&pool, rows).await;
    let base = "/api/admin/usage/summaries?";
    let queries = [
        "period_type=daily&group_by=user,model,region,endpoint,key",
        "period_type=hourly&group_by=model",
        "period_type=weekly&group_by=user",
        "period_type=monthly&group_by=",
        "period_type=daily&group_by=region&user_id=2",
        "period_type=weekly&model_id=x.unpriced",
    ];
    let mut unbuilt = Vec::new();
    for query in queries {
        unbuilt.push(pages(&app, &admin, &format!("{base}{query}"), 500).await);
    }

    summarise_all(&pool, now - TimeDelta::days(9)).await;
    for (query, wanted) in queries.iter().zip(&unbuilt) {
        let found = pages(&app, &admin, &format!("{base}{query}"), 7).await;
        assert_eq!(&found, wanted, "half built: {query}");
    }
    summarise_all(&pool, now).await;
    for (query, wanted) in queries.iter().zip(&unbuilt) {
        let found = pages(&app, &admin, &format!("{base}{query}"), 11).await;
        assert_eq!(&found, wanted, "built: {query}");
        let whole = app.get(&format!("{base}{query}&limit=500")).bearer(&admin).send().await.json();
        assert_eq!(whole["total"], wanted.len());
        let by_offset = app.get(&format!("{base}{query}&limit=5&offset=3")).bearer(&admin).send().await.json();
        let expected: Vec<&Value> = wanted.iter().skip(3).take(5).collect();
        assert_eq!(by_offset["summaries"].as_array().unwrap().iter().collect::<Vec<_>>(), expected);
    }

    let requests: i64 = unbuilt[3].iter().map(|month| month["total_requests"].as_i64().unwrap()).sum();
    assert_eq!(requests, 300);
});

on_both_databases!(a_total_is_exact_to_the_millisecond_where_rows_are_left_and_widened_where_not, backend => {
    let app = start(backend).await;
    let pool = app.pool().await;
    let admin = app.create_token(ADMIN).await;
    let now = at("2026-11-27T12:00:00");
    let mut dice = Dice(44);
    let mut truth = Truth::default();
    let rows = (0..600).map(|_| dice.row(at("2026-09-10T00:00:00"), 78)).collect();
    truth.write(&pool, rows).await;
    summarise_all(&pool, now).await;
    let total = |start: &str, end: &str| {
        let path = format!("/api/admin/usage/summaries?period_type=total&group_by=&start_date={start}&end_date={end}");
        let request = app.get(&path).bearer(&admin);
        async move {
            let answer = request.send().await.json();
            let sums = answer["summaries"].as_array().unwrap();
            sums.first().cloned().unwrap_or(json!({"total_requests": 0}))
        }
    };
    let counted = |start: &str, end: &str| {
        let (start, end) = (at(start), at(end));
        let inside = truth.0.values().filter(|row| row.request_time >= start && row.request_time < end);
        inside.count()
    };
    for (start, end) in [
        ("2026-10-01T00:00:00", "2026-11-01T00:00:00"),
        ("2026-09-12T07:31:12.345", "2026-11-26T23:59:59.999"),
        ("2026-11-26T22:10:00", "2026-11-27T00:40:00"),
        ("2026-11-20T10:20:00", "2026-11-20T10:25:00"),
        ("2026-10-31T23:30:00", "2026-11-01T00:30:00"),
    ] {
        let found = total(&format!("{start}Z"), &format!("{end}Z")).await;
        assert_eq!(found["total_requests"], counted(start, end), "{start} to {end}");
    }

    clean_all(&pool, now).await;
    let exact = total("2026-11-20T10:20:00Z", "2026-11-27T00:40:00Z").await;
    assert_eq!(exact["total_requests"], counted("2026-11-20T00:00:00", "2026-11-27T00:40:00"));
    assert_eq!(exact["period_start"], "2026-11-20T00:00:00.000Z", "only days are left of then");
    let months = total("2026-10-10T00:00:00Z", "2026-11-27T00:00:00Z").await;
    assert_eq!(months["period_start"], "2026-10-01T00:00:00.000Z", "only months are left of then");
    assert_eq!(months["total_requests"], counted("2026-10-01T00:00:00", "2026-11-27T00:00:00"));
});

#[actix_web::test]
async fn a_summary_has_the_members_that_clients_rely_on() {
    let app = TestServerBuilder::new().start().await;
    let key = app.create_key(PERSON).await;
    let token = app.create_token(PERSON).await;
    app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("@sim:throttle")).bearer(&key).send().await;
    app.call("us.x.unknown-model", "converse", &crate::helpers::conversation("hi"))
        .bearer(&token)
        .send()
        .await;
    app.settle().await;
    let row = app.rows(&key).await.into_iter().find(|row| row["success"] == true).unwrap();

    let path = "/api/usage/summaries?period_type=daily&group_by=user,model,region,endpoint,key";
    let page = app.get(path).bearer(&key).send().await.json();

    let summaries = page["summaries"].as_array().unwrap();
    let summary = summaries.iter().find(|summary| summary["model_id"] == MODEL).unwrap();
    let mut names: Vec<&str> = summary.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "avg_response_time_ms",
            "avg_time_to_first_byte_ms",
            "endpoint_type",
            "estimated_requests",
            "key_id",
            "model_id",
            "period_end",
            "period_start",
            "period_type",
            "region",
            "successful_requests",
            "total_cache_read_tokens",
            "total_cache_write_1h_tokens",
            "total_cache_write_tokens",
            "total_cost_usd",
            "total_input_tokens",
            "total_output_tokens",
            "total_requests",
            "total_tokens",
            "unpriced_requests",
            "user_id",
        ]
    );
    assert_eq!(
        (&summary["total_requests"], &summary["successful_requests"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(summary["total_cost_usd"], row["cost_usd"]);
    assert_eq!(summary["total_tokens"], row["total_tokens"]);
    assert_eq!((&summary["key_id"], &summary["user_id"]), (&row["key_id"], &row["user_id"]));
    let day = bedrock_sso_proxy::db::now().date();
    assert_eq!(summary["period_start"], format!("{day}T00:00:00.000Z"));
    let plain = app.get("/api/usage/summaries?period_type=total").bearer(&key).send().await.json();
    assert!(
        plain["summaries"][0].get("user_id").is_none()
            && plain["summaries"][0]["model_id"].is_string()
    );
}

#[actix_web::test]
async fn a_parameter_of_summaries_that_is_wrong_is_named() {
    let app = TestServerBuilder::new().start().await;
    let key = app.create_key(PERSON).await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1000000000", "limit"),
        ("offset=10001", "offset"),
        ("offset=1&cursor=x", "cursor"),
        ("cursor=junk", "cursor"),
        ("period_type=yearly", "period_type"),
        ("group_by=day", "group_by"),
        ("group_by=,", "group_by"),
        ("group_by=user,,key", "group_by"),
        ("group_by=user;DROP TABLE users", "group_by"),
        ("start_date=300000-01-01", "start_date"),
        ("start_date=2026-02-02&end_date=2026-02-01", "end_date"),
        ("model_id=a%00b", "model_id"),
    ] {
        let query = query.replace(' ', "%20");
        let reply = app.get(&format!("/api/usage/summaries?{query}")).bearer(&key).send().await;

        assert_eq!(reply.status, 400, "{query}: {reply:?}");
        assert_eq!(reply.json()["error"]["field"], field, "{query}");
    }
    for query in ["user_id=1", "nonsense=1", "limit=99999999999999999999"] {
        let reply = app.get(&format!("/api/usage/summaries?{query}")).bearer(&key).send().await;
        assert_eq!(reply.status, 400, "{query}");
    }
}
