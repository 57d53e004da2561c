use chrono::{Datelike, NaiveDate, Timelike};
use chrono_tz::TZ_VARIANTS;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    let read = |form| NaiveDateTime::parse_from_str(text, form).ok();
    read("%Y-%m-%d %H:%M").or_else(|| read("%Y-%m-%d %H:%M:%S%.f")).unwrap()
}

fn schedule(expression: &str, name: &str) -> Schedule {
    Schedule::new(expression, zone(name).unwrap()).unwrap()
}

/// All slots in (`after`, `until`].
fn walk(schedule: &Schedule, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let slots = std::iter::successors(Some(after), |slot| schedule.next_after(*slot)).skip(1);
    slots.take_while(|slot| *slot <= until).collect()
}

/// All slots in (`after`, `until`], in UTC, as `day hour:minute`.
fn runs(expression: &str, zone: &str, after: &str, until: &str) -> Vec<String> {
    let slots = walk(&schedule(expression, zone), at(after), at(until));
    slots.iter().map(|slot| slot.format("%d %H:%M").to_string()).collect()
}

fn refused(expression: &str) -> String {
    Schedule::new(expression, Tz::UTC).unwrap_err().to_string()
}

/// The first three slots after 2027-02-14 (a Sunday) 10:30:17 in UTC, by croniter 7.0.0 with the days as crontab(5) has
/// them. Years of slots of these were compared with it.
const KNOWN: &[(&str, &str)] = &[
    ("*/5 * * * *", "27-02-14 10:35:00, 27-02-14 10:40:00, 27-02-14 10:45:00"),
    ("*/7 * * * *", "27-02-14 10:35:00, 27-02-14 10:42:00, 27-02-14 10:49:00"),
    ("0 * * * *", "27-02-14 11:00:00, 27-02-14 12:00:00, 27-02-14 13:00:00"),
    ("15,45 * * * *", "27-02-14 10:45:00, 27-02-14 11:15:00, 27-02-14 11:45:00"),
    ("5-59/15 * * * *", "27-02-14 10:35:00, 27-02-14 10:50:00, 27-02-14 11:05:00"),
    ("0 0 * * *", "27-02-15 00:00:00, 27-02-16 00:00:00, 27-02-17 00:00:00"),
    ("30 4 * * *", "27-02-15 04:30:00, 27-02-16 04:30:00, 27-02-17 04:30:00"),
    ("0 */2 * * *", "27-02-14 12:00:00, 27-02-14 14:00:00, 27-02-14 16:00:00"),
    ("0 */5 * * *", "27-02-14 15:00:00, 27-02-14 20:00:00, 27-02-15 00:00:00"),
    ("0 9-17/4 * * *", "27-02-14 13:00:00, 27-02-14 17:00:00, 27-02-15 09:00:00"),
    ("0 0,6,12,18 * * *", "27-02-14 12:00:00, 27-02-14 18:00:00, 27-02-15 00:00:00"),
    ("17 3 * * 1-5", "27-02-15 03:17:00, 27-02-16 03:17:00, 27-02-17 03:17:00"),
    ("17 3 * * MON-FRI", "27-02-15 03:17:00, 27-02-16 03:17:00, 27-02-17 03:17:00"),
    ("0 12 * * 7", "27-02-14 12:00:00, 27-02-21 12:00:00, 27-02-28 12:00:00"),
    ("0 12 * * SUN", "27-02-14 12:00:00, 27-02-21 12:00:00, 27-02-28 12:00:00"),
    ("0 12 * * 5-7", "27-02-14 12:00:00, 27-02-19 12:00:00, 27-02-20 12:00:00"),
    ("0 12 * * 6-7", "27-02-14 12:00:00, 27-02-20 12:00:00, 27-02-21 12:00:00"),
    ("0 12 * * 0-6/2", "27-02-14 12:00:00, 27-02-16 12:00:00, 27-02-18 12:00:00"),
    ("0 12 * * */2", "27-02-14 12:00:00, 27-02-16 12:00:00, 27-02-18 12:00:00"),
    ("0 12 * * 0,6", "27-02-14 12:00:00, 27-02-20 12:00:00, 27-02-21 12:00:00"),
    ("0 12 * * sat,sun", "27-02-14 12:00:00, 27-02-20 12:00:00, 27-02-21 12:00:00"),
    ("0 12 * * mon,wed-fri", "27-02-15 12:00:00, 27-02-17 12:00:00, 27-02-18 12:00:00"),
    ("0 12 * * 0-7", "27-02-14 12:00:00, 27-02-15 12:00:00, 27-02-16 12:00:00"),
    ("0 0 1 * *", "27-03-01 00:00:00, 27-04-01 00:00:00, 27-05-01 00:00:00"),
    ("0 0 31 * *", "27-03-31 00:00:00, 27-05-31 00:00:00, 27-07-31 00:00:00"),
    ("0 0 29 2 *", "28-02-29 00:00:00, 32-02-29 00:00:00, 36-02-29 00:00:00"),
    ("0 0 28-31 * *", "27-02-28 00:00:00, 27-03-28 00:00:00, 27-03-29 00:00:00"),
    ("0 0 */2 * *", "27-02-15 00:00:00, 27-02-17 00:00:00, 27-02-19 00:00:00"),
    ("0 0 1-15/7 * *", "27-02-15 00:00:00, 27-03-01 00:00:00, 27-03-08 00:00:00"),
    ("0 0 1 1 *", "28-01-01 00:00:00, 29-01-01 00:00:00, 30-01-01 00:00:00"),
    ("0 0 1 JAN,JUL *", "27-07-01 00:00:00, 28-01-01 00:00:00, 28-07-01 00:00:00"),
    ("0 0 1 */3 *", "27-04-01 00:00:00, 27-07-01 00:00:00, 27-10-01 00:00:00"),
    ("0 0 1 mar-jun *", "27-03-01 00:00:00, 27-04-01 00:00:00, 27-05-01 00:00:00"),
    ("0 0 13 * 5", "27-02-19 00:00:00, 27-02-26 00:00:00, 27-03-05 00:00:00"),
    ("0 0 1,15 * 1", "27-02-15 00:00:00, 27-02-22 00:00:00, 27-03-01 00:00:00"),
    ("0 0 1 * MON", "27-02-15 00:00:00, 27-02-22 00:00:00, 27-03-01 00:00:00"),
    ("5 4 * 6 2", "27-06-01 04:05:00, 27-06-08 04:05:00, 27-06-15 04:05:00"),
    ("30 6 10-20 3,9 6-7", "27-03-06 06:30:00, 27-03-07 06:30:00, 27-03-10 06:30:00"),
    ("0 0 31 2,4,6 3", "27-02-17 00:00:00, 27-02-24 00:00:00, 27-04-07 00:00:00"),
    ("0 0 */2 * 1", "27-02-15 00:00:00, 27-03-01 00:00:00, 27-03-15 00:00:00"),
    ("0 0 */31 * *", "27-03-01 00:00:00, 27-04-01 00:00:00, 27-05-01 00:00:00"),
    ("23 0-20/2 * * *", "27-02-14 12:23:00, 27-02-14 14:23:00, 27-02-14 16:23:00"),
    ("59 23 31 12 *", "27-12-31 23:59:00, 28-12-31 23:59:00, 29-12-31 23:59:00"),
    ("1/20 * * * *", "27-02-14 10:41:00, 27-02-14 11:01:00, 27-02-14 11:21:00"),
    ("0 8/6 * * *", "27-02-14 14:00:00, 27-02-14 20:00:00, 27-02-15 08:00:00"),
    ("0 0 20/4 * *", "27-02-20 00:00:00, 27-02-24 00:00:00, 27-02-28 00:00:00"),
    ("0 0 1 7/2 *", "27-07-01 00:00:00, 27-09-01 00:00:00, 27-11-01 00:00:00"),
    ("0 0 * * 5/2", "27-02-19 00:00:00, 27-02-26 00:00:00, 27-03-05 00:00:00"),
    ("@hourly", "27-02-14 11:00:00, 27-02-14 12:00:00, 27-02-14 13:00:00"),
    ("@daily", "27-02-15 00:00:00, 27-02-16 00:00:00, 27-02-17 00:00:00"),
    ("@weekly", "27-02-21 00:00:00, 27-02-28 00:00:00, 27-03-07 00:00:00"),
    ("@yearly", "28-01-01 00:00:00, 29-01-01 00:00:00, 30-01-01 00:00:00"),
    ("10 30 4 * * *", "27-02-15 04:30:10, 27-02-16 04:30:10, 27-02-17 04:30:10"),
    ("*/15 59 23 * * 5-7", "27-02-14 23:59:00, 27-02-14 23:59:15, 27-02-14 23:59:30"),
];

#[test]
fn slots_are_those_of_another_implementation() {
    for (expression, expected) in KNOWN {
        let schedule = schedule(expression, "UTC");

        let (mut slots, mut last) = (Vec::new(), at("2027-02-14 10:30:17"));
        for _ in 0..3 {
            last = schedule.next_after(last).unwrap();
            slots.push(last.format("%y-%m-%d %H:%M:%S").to_string());
        }

        assert_eq!(slots.join(", "), *expected, "{expression}");
    }
}

#[test]
fn a_day_of_the_week_may_be_a_name_or_a_number() {
    for (number, name) in [
        ("0", "SUN"),
        ("7", "sun"),
        ("5-7", "FRI-SUN"),
        ("5-7", "FRI,SAT,SUN"),
        ("6-7", "SAT-SUN"),
        ("6-0", "Sat,Sun"),
        ("0-6", "*"),
        ("1-7", "*"),
        ("0-0", "SUN"),
        ("0-6/2", "SUN,TUE,THU,SAT"),
        ("*/2", "SUN,TUE,THU,SAT"),
        ("1-7/2", "MON,WED,FRI,SUN"),
        ("5/1", "FRI,SAT"),
        ("7/2", "SUN"),
    ] {
        let slots =
            |days| runs(&format!("0 0 * * {days}"), "UTC", "2026-01-01 00:00", "2026-01-31 00:00");

        assert_eq!(slots(number), slots(name), "{number} {name}");
    }
}

#[test]
fn either_day_suffices_if_both_are_restricted() {
    let thirteenth_or_friday = runs("0 0 13 * FRI", "UTC", "2026-01-01 00:00", "2026-01-31 00:00");
    let odd_mondays = runs("0 0 */2 * MON", "UTC", "2026-01-01 00:00", "2026-01-31 00:00");

    assert_eq!(
        thirteenth_or_friday,
        ["02 00:00", "09 00:00", "13 00:00", "16 00:00", "23 00:00", "30 00:00"]
    );
    assert_eq!(odd_mondays, ["05 00:00", "19 00:00"], "a star restricts nothing");
}

#[test]
fn a_day_that_a_month_lacks_is_waited_for() {
    let next = |expression, after| schedule(expression, "UTC").next_after(at(after));

    assert_eq!(next("0 0 31 * *", "2026-03-31 00:00"), Some(at("2026-05-31 00:00")));
    assert_eq!(next("0 0 29 2 *", "2026-01-01 00:00"), Some(at("2028-02-29 00:00")));
    assert_eq!(next("0 0 29 2 *", "2028-02-29 00:00"), Some(at("2032-02-29 00:00")));
    assert_eq!(next("0 * 29 2 *", "2028-02-29 23:00"), Some(at("2032-02-29 00:00")));
    assert_eq!(next("0 0 30 2 *", "2026-01-01 00:00"), None);
    assert_eq!(next("0 * 31 4,6,9,11 *", "2026-01-01 00:00"), None);
}

#[test]
fn a_slot_is_after_and_may_be_until() {
    let schedule = schedule("30 15 10 * * *", "UTC");
    let slot = at("2026-05-01 10:15:30");

    assert_eq!(schedule.next_after(at("2026-05-01 10:15:29.999")), Some(slot));
    assert_eq!(schedule.next_after(slot), Some(at("2026-05-02 10:15:30")));
    assert_eq!(schedule.next_after(at("2026-05-01 10:15:30.001")), Some(at("2026-05-02 10:15:30")));
    assert_eq!(schedule.latest_in(at("2026-05-01 10:15:29.999"), slot), Some(slot));
    assert_eq!(schedule.latest_in(slot, at("2026-05-01 23:00")), None);
    assert_eq!(schedule.latest_in(at("2026-05-01 00:00"), at("2026-05-01 10:15:29.999")), None);
    assert_eq!(schedule.latest_in(at("2026-05-03 00:00"), at("2026-05-01 00:00")), None);
}

#[test]
fn years_of_missed_slots_are_one_at_once() {
    let (after, until) = (at("1970-01-01 00:00"), at("2099-06-01 00:00:00.5"));
    for (expression, newest) in [
        ("* * * * * *", "2099-06-01 00:00"),
        ("59 59 * * * *", "2099-05-31 23:59:59"),
        ("0 12 * * *", "2099-05-31 11:00"),
        ("0 * 29 2 *", "2096-02-29 22:00"),
    ] {
        let found = schedule(expression, "Africa/Lagos").latest_in(after, until);

        assert_eq!(found, Some(at(newest)), "{expression}");
    }
}

#[test]
fn a_time_that_is_skipped_is_made_up_for_at_once() {
    let berlin =
        |expression| runs(expression, "Europe/Berlin", "2026-03-28 12:00", "2026-03-30 12:00");
    assert_eq!(berlin("30 2 * * *"), ["29 01:00", "30 00:30"]);
    assert_eq!(berlin("*/10 2 29 3 *"), ["29 01:00"], "once, for all of them");
    assert_eq!(berlin("0 2,3 29 3 *"), ["29 01:00"], "it is three o'clock already");
    assert_eq!(berlin("59 1 29 3 *"), ["29 00:59"]);

    let york = runs("30 2 * * *", "America/New_York", "2026-03-07 12:00", "2026-03-09 12:00");
    assert_eq!(york, ["08 07:00", "09 06:30"]);
    let lord_howe =
        runs("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", "2026-10-04 23:00");
    assert_eq!(lord_howe, ["03 15:30", "04 15:15"]);
    let midnight = runs("0 0 * * *", "America/Santiago", "2026-09-05 12:00", "2026-09-07 12:00");
    assert_eq!(midnight, ["06 04:00", "07 03:00"]);
    let midnight = runs("0 0 * * *", "Africa/Cairo", "2026-04-23 12:00", "2026-04-25 12:00");
    assert_eq!(midnight, ["23 22:00", "24 21:00"]);
    let whole_day = runs("0 8 * * *", "Pacific/Apia", "2011-12-29 12:00", "2012-01-01 12:00");
    assert_eq!(whole_day, ["29 18:00", "30 10:00", "30 18:00", "31 18:00"]);
}

#[test]
fn a_time_that_is_shown_twice_counts_once() {
    let berlin =
        |expression| runs(expression, "Europe/Berlin", "2026-10-24 12:00", "2026-10-26 12:00");
    assert_eq!(berlin("30 2 * * *"), ["25 00:30", "26 01:30"]);
    assert_eq!(berlin("*/30 2 25 10 *"), ["25 00:00", "25 00:30"]);
    assert_eq!(berlin("0 3 25 10 *"), ["25 02:00"]);

    let york = runs("30 1 * * *", "America/New_York", "2026-10-31 12:00", "2026-11-02 12:00");
    assert_eq!(york, ["01 05:30", "02 06:30"]);
    let lord_howe =
        runs("45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00", "2026-04-05 23:00");
    assert_eq!(lord_howe, ["04 14:45", "05 15:15"]);
    let before_midnight =
        runs("30 23 * * *", "America/Santiago", "2026-04-04 12:00", "2026-04-06 12:00");
    assert_eq!(before_midnight, ["05 02:30", "06 03:30"]);
}

#[test]
fn what_runs_every_so_often_follows_real_time() {
    let hourly = |zone, after, until| runs("0 * * * *", zone, after, until);

    let spring = hourly("Europe/Berlin", "2026-03-28 23:30", "2026-03-29 03:00");
    assert_eq!(spring, ["29 00:00", "29 01:00", "29 02:00", "29 03:00"]);
    let autumn = hourly("Europe/Berlin", "2026-10-24 23:30", "2026-10-25 03:00");
    assert_eq!(autumn, ["25 00:00", "25 01:00", "25 02:00", "25 03:00"]);
    let half = runs("*/30 * * * *", "Australia/Lord_Howe", "2026-04-04 14:00", "2026-04-04 16:00");
    assert_eq!(half, ["04 14:30", "04 15:00", "04 15:30", "04 16:00"]);
    let no_such_time = hourly("Australia/Lord_Howe", "2026-10-03 14:00", "2026-10-03 17:30");
    assert_eq!(no_such_time, ["03 14:30", "03 16:00", "03 17:00"], "after 01:00 comes 03:00");
    let second_hours = runs("0 */2 * * *", "Europe/Berlin", "2026-10-24 21:30", "2026-10-25 04:00");
    assert_eq!(
        second_hours,
        ["24 22:00", "25 00:00", "25 01:00", "25 03:00"],
        "two is shown twice"
    );
    let no_such_day = runs("0 */12 30 * *", "Pacific/Apia", "2011-12-01 00:00", "2012-01-31 00:00");
    assert_eq!(no_such_day, ["29 10:00", "29 22:00"], "of January");
    let shown_again =
        runs("30 * 4 4 *", "America/Santiago", "2026-04-05 02:00", "2027-04-04 05:00");
    assert_eq!(shown_again, ["05 02:30", "05 03:30", "04 04:30"], "and then a year later");
}

/// An expression and, told apart from it, the times that it means.
type Meant = (&'static str, fn(NaiveDateTime) -> bool);

const MEANT: [Meant; 14] = [
    ("* * * * *", |_| true),
    ("*/25 * * * *", |time| time.minute().is_multiple_of(25)),
    ("0 * * * *", |time| time.minute() == 0),
    ("30 */2 * * *", |time| time.minute() == 30 && time.hour().is_multiple_of(2)),
    ("15 */5 * * 0", |time| {
        time.minute() == 15
            && time.hour().is_multiple_of(5)
            && time.weekday().number_from_sunday() == 1
    }),
    ("0 0 * * *", |time| (time.hour(), time.minute()) == (0, 0)),
    ("30 2 * * *", |time| (time.hour(), time.minute()) == (2, 30)),
    ("15 0,1,2,3 * * *", |time| time.hour() < 4 && time.minute() == 15),
    ("* 2 * * *", |time| time.hour() == 2),
    ("*/20 0-23 * * *", |time| time.minute().is_multiple_of(20)),
    ("59 23 * * 6,7", |time| {
        (time.hour(), time.minute()) == (23, 59) && time.weekday().number_from_monday() > 5
    }),
    ("45 1-3/2 * * *", |time| time.minute() == 45 && matches!(time.hour(), 1 | 3)),
    ("30 23 30 * *", |time| (time.hour(), time.minute(), time.day()) == (23, 30, 30)),
    ("0 12 30 * SUN", |time| {
        (time.hour(), time.minute()) == (12, 0)
            && (time.day() == 30 || time.weekday().number_from_sunday() == 1)
    }),
];

const CHANGES: [(&str, &str); 17] = [
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("America/Santiago", "2026-04-05"),
    ("America/Santiago", "2026-09-06"),
    ("Africa/Cairo", "2026-04-24"),
    ("Africa/Cairo", "2026-10-30"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Africa/Casablanca", "2026-03-22"),
    ("Antarctica/Troll", "2026-10-25"),
    ("Asia/Kathmandu", "1986-01-01"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("UTC", "2028-02-29"),
];

/// The slots around a change, found by looking at the clock once a minute.
fn seen(zone: Tz, (expression, meant): Meant, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let minute = TimeDelta::minutes(1);
    let shown = |at: Timestamp| zone.from_utc_datetime(&at).naive_local();
    let every_hour = expression.split(' ').nth(1).unwrap().starts_with('*');
    let (mut slots, mut at, mut latest) = (Vec::new(), from, shown(from));
    while at < to {
        at += minute;
        let mut due = every_hour && meant(shown(at));
        while latest < shown(at) {
            latest += minute;
            due |= !every_hour && meant(latest);
        }
        slots.extend(due.then_some(at));
    }
    slots
}

#[test]
fn slots_around_a_change_are_those_of_a_person_who_watches_the_clock() {
    for (name, day) in CHANGES {
        let noon =
            NaiveDate::parse_from_str(day, "%Y-%m-%d").unwrap().and_hms_opt(12, 0, 0).unwrap();
        let (from, to) = (noon - TimeDelta::days(2), noon + TimeDelta::days(2));
        for meant in MEANT {
            let schedule = schedule(meant.0, name);
            let slots = seen(schedule.zone(), meant, from, to);

            assert_eq!(walk(&schedule, from, to), slots, "{schedule:?} {day}");

            let mut start = from;
            while start < to {
                let next = slots.iter().find(|slot| **slot > start).copied();
                let newest = slots.iter().rev().find(|slot| **slot <= start).copied();
                let found = schedule.next_after(start).filter(|slot| *slot <= to);
                assert_eq!(found, next, "{schedule:?} {start}");
                assert_eq!(schedule.latest_in(from, start), newest, "{schedule:?} {start}");
                start += TimeDelta::seconds(4567);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    let star = "use `*`, numbers from 0 to 59, ranges such as 0-59, steps such as */2, and lists of these with commas; \
                `?`, `L`, `W` and `#` are not known here";
    assert_eq!(refused("60 * * * *"), format!("minute: \"60\" is wrong: {star}"));
    assert_eq!(refused("1,, * * * *"), format!("minute: \"\" is wrong: {star}"));
    assert_eq!(
        refused("*/90 * * * *"),
        "minute: \"*/90\" is wrong: a step is a number from 1 to 59"
    );
    assert_eq!(refused("*/0 * * * *"), "minute: \"*/0\" is wrong: a step is a number from 1 to 59");
    assert_eq!(
        refused("0 22-2 * * *"),
        "hour: \"22-2\" is wrong: a range goes from the lower to the higher; write two, with a comma"
    );
    assert!(refused("0 0 * JANUARY *").contains("numbers from 1 to 12 or names from JAN to DEC"));
    assert_eq!(
        refused("0 0 1 1 * 2030 *"),
        "a cron expression has five fields (minute, hour, day of month, month, day of week), or six with seconds \
         first; this has 7: leave out the year"
    );
    assert!(refused("").ends_with("this has 0"));
    assert!(refused("@reboot").starts_with("\"@reboot\" is unknown: use @hourly"));
    assert_eq!(refused(&"*".repeat(257)), "a cron expression may have 256 bytes; this has 257");
    assert_eq!(
        zone("Berlin").unwrap_err().to_string(),
        "the time zone \"Berlin\" is unknown: use a name of the tz database, such as UTC or Europe/Berlin"
    );
}

#[test]
fn what_unix_cron_lacks_is_refused() {
    for expression in [
        "0 0 ? * 1",
        "0 0 L * *",
        "0 0 15W * *",
        "0 0 * * 5L",
        "0 0 * * 5#3",
        "0 0 * * MON#1",
        "0 0 32 * *",
        "0 0 0 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "0 24 * * *",
        "+5 * * * *",
        "-5 * * * *",
        "5- * * * *",
        "1-2-3 * * * *",
        "*/2/3 * * * *",
        "/5 * * * *",
        "*-5 * * * *",
        "** * * * *",
        "4294967301 * * * *",
        "0 0 * * FRI-MON",
        "0 0 * * MONDAY",
        "JAN * * * *",
        "60 * * * * *",
        "0 0 ä * *",
        "@Daily",
        "@",
    ] {
        assert!(Schedule::new(expression, Tz::UTC).is_err(), "{expression}");
    }
}

#[test]
fn a_schedule_shows_what_it_was_made_from() {
    let schedule = schedule(" 0  9 * * MON-FRI\t", "Europe/Berlin");

    assert_eq!(schedule.expression(), "0  9 * * MON-FRI");
    assert_eq!(schedule.zone(), Tz::Europe__Berlin);
    assert_eq!(format!("{schedule:?}"), "Schedule(\"0  9 * * MON-FRI\" in Europe/Berlin)");
}

#[test]
fn no_time_is_too_early_or_too_late_to_ask() {
    for expression in ["* * * * * *", "0 12 * * *"] {
        let schedule = schedule(expression, "Pacific/Kiritimati");
        let (earliest, latest) = (NaiveDateTime::MIN, NaiveDateTime::MAX);

        assert_eq!(schedule.next_after(earliest).unwrap().year(), 1970);
        assert_eq!(schedule.next_after(latest), None);
        assert_eq!(schedule.latest_in(earliest, latest).unwrap().year(), 2099);
        assert_eq!(schedule.latest_in(latest, earliest), None);
    }
}

/// Fields that are right, of numbers that are in range.
fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let item = prop_oneof![
        3 => Just("*".to_owned()),
        1 => (1..=high).prop_map(|step| format!("*/{step}")),
        3 => (low..=high).prop_map(|number| number.to_string()),
        1 => (low..=high, low..=high, 1..=high)
            .prop_map(|(one, other, step)| format!("{}-{}/{step}", one.min(other), one.max(other))),
    ];
    prop::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

fn expression() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))
        .prop_map(|fields| [fields.0, fields.1, fields.2, fields.3, fields.4, fields.5].join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,40}|[0-9*/,?LW#A-Z@ -]{0,60}|([0-9*/,-]{1,4} ){4}[0-9A-Z*/,-]{1,4}") {
        if let Ok(schedule) = Schedule::new(&text, Tz::Europe__Berlin) {
            let _slot = schedule.next_after(at("2026-01-01 00:00"));
        }
        let _zone = zone(&text);
    }

    #[test]
    fn slots_grow_and_the_latest_is_the_last_of_them(
        expression in expression(),
        zone in prop::sample::select(&TZ_VARIANTS[..]),
        start in 0_i64..2_200_000_000,
    ) {
        let schedule = Schedule::new(&expression, zone).unwrap();
        let start = DateTime::from_timestamp(start, 0).unwrap().naive_utc();

        let (mut last, mut newest) = (start, None);
        for _ in 0..30 {
            let Some(slot) = schedule.next_after(last) else { break };
            prop_assert!(slot > last, "{:?} {} {}", schedule, last, slot);
            prop_assert_eq!(schedule.latest_in(start, slot - ONE_SECOND), newest);
            prop_assert_eq!(schedule.latest_in(start, slot), Some(slot));
            (last, newest) = (slot, Some(slot));
        }
    }
}
