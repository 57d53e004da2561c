//! A month of the calls of a day: their rows, repeated and scrambled, at times around every boundary that there is. They
//! are recorded as those of a process that died: from the journals that it left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bedrock_sso_proxy::{
    db::{self, Timestamp, usage::NewUsage},
    settings::{Fsync, OnFull},
    usage::{
        TokenCounts,
        journal::{Directory, Journal},
    },
};
use chrono::{Datelike, NaiveDate, NaiveTime, SecondsFormat, TimeDelta};
use serde_json::Value;

use super::{
    COHERE, NOVA, Person, Prices,
    case::{Case, Depth},
};
use crate::helpers::{Backend, TestServer, TestServerBuilder, eventually};

const DAYS: i64 = 42;
/// Days for which hours and days are kept in the end.
const HOURS_KEPT: i64 = 12;
const DAYS_KEPT: i64 = 20;
const FIRST: usize = 900;
const LATE: usize = 450;
const AFTER_CLEANUP: usize = 250;

pub fn service(backend: Backend) -> TestServerBuilder {
    let days = "JOBS__USAGE_CLEANUP__SUMMARIES_RETENTION_DAYS";
    super::service(backend)
        .set("JOBS__USAGE_CLEANUP__RAW_RECORDS_DAYS", 9)
        .set(&format!("{days}__HOURLY"), HOURS_KEPT)
        .set(&format!("{days}__DAILY"), DAYS_KEPT)
        .set(&format!("{days}__WEEKLY"), 36_500)
        .set(&format!("{days}__MONTHLY"), 36_500)
}

/// The start of today.
pub fn today() -> Timestamp {
    db::now().date().and_time(NaiveTime::MIN)
}

fn first_of_month() -> Timestamp {
    let today = today();
    today.with_day(1).unwrap_or(today)
}

/// When prices change: at the start of a day, at no particular time, and with the month.
pub fn price_changes() -> [Timestamp; 3] {
    let start = today() - TimeDelta::days(DAYS);
    let middle = start + TimeDelta::days(21) + TimeDelta::milliseconds(48_432_345);
    [start + TimeDelta::days(14), middle, first_of_month()]
}

/// As the API writes times.
pub fn shown(time: Timestamp) -> String {
    time.and_utc().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Numbers that look random and are the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % most as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn number(&mut self, most: usize) -> i64 {
        self.below(most) as i64
    }
}

/// What one record of the journal comes to.
#[derive(Clone)]
pub enum Kept {
    Closed(NewUsage),
    /// The process died before the call ended; some tokens had been noted, or none.
    Open(NewUsage, TokenCounts),
}

pub struct Month {
    models: Vec<NewUsage>,
    /// Everybody with each of their credentials.
    callers: Vec<(i64, Option<i64>)>,
    dice: Dice,
    /// All rows that are to be in the database, in the words of the API, by call.
    sent: BTreeMap<String, Value>,
    early: Vec<Kept>,
}

impl Month {
    pub fn new(models: Vec<NewUsage>, people: &[Person]) -> Self {
        let of = |person: &Person| {
            let keys = person.keys.iter().map(|(id, _)| Some(*id));
            let id = person.id;
            keys.chain([None]).map(move |key| (id, key)).collect::<Vec<_>>()
        };
        let callers = people.iter().flat_map(of).collect();
        Self { models, callers, dice: Dice(20_261_127), sent: BTreeMap::new(), early: Vec::new() }
    }

    /// What is there before anything is built.
    pub fn first_part(&mut self) -> Vec<Kept> {
        // Each call of the day once, and many again.
        let each = (0..self.models.len()).map(|at| self.models[at].clone()).collect::<Vec<_>>();
        let mut part: Vec<Kept> = each.into_iter().map(|row| self.scramble(row, false)).collect();
        part.extend((0..FIRST).map(|_| self.any()));
        part.extend(self.at_each_change());
        self.early = part.iter().step_by(29).cloned().collect();
        part
    }

    /// What comes when all that is over is built; some of it twice, and some that is there already.
    pub fn late_part(&mut self) -> Vec<Kept> {
        let mut part: Vec<Kept> = (0..LATE).map(|_| self.any()).collect();
        let again: Vec<Kept> = part.iter().step_by(17).cloned().collect();
        // Two prices have ended a moment ago.
        for at in 0..40 {
            let ended = [NOVA, COHERE][at % 2];
            let of: Vec<NewUsage> =
                self.models.iter().filter(|row| row.model_id == ended).cloned().collect();
            let row = NewUsage { request_time: db::now(), ..self.dice.of(&of).clone() };
            let row = self.as_new(row);
            part.push(self.close(row));
        }
        part.extend(again);
        part.append(&mut self.early);
        part
    }

    pub fn part_after_cleanup(&mut self) -> Vec<Kept> {
        (0..AFTER_CLEANUP).map(|_| self.any()).collect()
    }

    /// A call of each model in each region, in the millisecond before each change of prices, and in the first one of it.
    fn at_each_change(&mut self) -> Vec<Kept> {
        let priced = self.models.iter().filter(|row| row.outcome == "success");
        let by_place: BTreeMap<(String, String), NewUsage> =
            priced.map(|row| ((row.model_id.clone(), row.region.clone()), row.clone())).collect();
        let mut rows = Vec::new();
        for row in by_place.into_values() {
            for change in price_changes() {
                for at in [change - TimeDelta::milliseconds(1), change] {
                    let row = self.as_new(NewUsage { request_time: at, ..row.clone() });
                    rows.push(self.close(row));
                }
            }
        }
        rows
    }

    fn any(&mut self) -> Kept {
        let row = self.dice.of(&self.models).clone();
        self.scramble(row, true)
    }

    /// The same call at another time; perhaps in another region, by somebody else, with other figures.
    fn scramble(&mut self, row: NewUsage, freely: bool) -> Kept {
        let mut row = NewUsage { request_time: self.time(), ..row };
        (row.user_id, row.key_id) = *self.dice.of(&self.callers);
        if freely && !row.model_id.starts_with("arn:") && self.dice.below(3) == 0 {
            let region = *self.dice.of(&["us-east-1", "eu-west-1", "ap-northeast-1"]);
            region.clone_into(&mut row.region);
        }
        let mut more = |known: &mut Option<i64>, most| {
            if let Some(count) = known.as_mut().filter(|count| **count < 1_000_000_000) {
                *count += self.dice.number(most);
            }
        };
        if freely {
            more(&mut row.input_tokens, 999);
            more(&mut row.output_tokens, 99);
            more(&mut row.cache_read_tokens, 7);
        }
        // The largest of all are only there once: sums are to stay below what eight bytes hold.
        if freely && row.output_tokens.is_some_and(|count| count > 1_000_000_000) {
            row.output_tokens = Some(3);
            (row.input_tokens, row.cache_read_tokens) = (Some(5), Some(1 << 40));
        }
        let row = self.as_new(row);
        if freely && self.dice.below(40) == 0 { self.leave_open(row) } else { self.close(row) }
    }

    fn time(&mut self) -> Timestamp {
        let start = today() - TimeDelta::days(DAYS);
        let now = db::now() - TimeDelta::seconds(60);
        let some_ms = TimeDelta::milliseconds(self.dice.number(5) - 2);
        let time = match self.dice.below(10) {
            // Around midnight, an hour, a change of prices, and where years, leap days and weeks of two years end.
            0..=1 => start + TimeDelta::days(self.dice.number(DAYS as usize + 1)) + some_ms,
            2 => start + TimeDelta::hours(self.dice.number(24 * DAYS as usize)) + some_ms,
            3 => *self.dice.of(&price_changes()) + some_ms,
            4 => {
                let dates =
                    [(2021, 1, 4), (2024, 2, 29), (2024, 3, 1), (2025, 12, 29), (2026, 1, 1)];
                let (year, month, day) = *self.dice.of(&dates);
                let date = NaiveDate::from_ymd_opt(year, month, day).unwrap();
                date.and_time(NaiveTime::MIN) + some_ms
            }
            _ => start + TimeDelta::milliseconds(self.dice.number(DAYS as usize * 86_400_000)),
        };
        time.min(now)
    }

    fn as_new(&mut self, row: NewUsage) -> NewUsage {
        let id =
            uuid::Builder::from_random_bytes(std::array::from_fn(|_| self.dice.below(256) as u8));
        NewUsage { call_id: id.into_uuid().to_string(), cost_nano_usd: None, price_id: None, ..row }
    }

    fn close(&mut self, row: NewUsage) -> Kept {
        self.expect(&row);
        Kept::Closed(row)
    }

    fn leave_open(&mut self, row: NewUsage) -> Kept {
        let noted = match self.dice.below(2) {
            0 => TokenCounts::default(),
            _ => TokenCounts {
                input: row.input_tokens,
                output: row.output_tokens,
                cache_write: row.cache_write_tokens,
                cache_write_1h: row.cache_write_1h_tokens,
                cache_read: row.cache_read_tokens,
            },
        };
        let open = NewUsage {
            input_tokens: None,
            output_tokens: None,
            cache_write_tokens: None,
            cache_write_1h_tokens: None,
            cache_read_tokens: None,
            response_time_ms: None,
            time_to_first_byte_ms: None,
            estimated: false,
            ..row
        };
        self.expect(&NewUsage {
            input_tokens: noted.input,
            output_tokens: noted.output,
            cache_write_tokens: noted.cache_write,
            cache_write_1h_tokens: noted.cache_write_1h,
            cache_read_tokens: noted.cache_read,
            estimated: true,
            outcome: "interrupted".to_owned(),
            ..open.clone()
        });
        Kept::Open(open, noted)
    }

    fn expect(&mut self, row: &NewUsage) {
        let mut told = serde_json::to_value(row).unwrap();
        told["request_time"] = shown(row.request_time).into();
        for ours in ["region_requested", "cost_nano_usd", "price_id"] {
            told.as_object_mut().unwrap().remove(ours);
        }
        self.sent.insert(row.call_id.clone(), told);
    }

    /// Leaves the part in the journal of a process that is gone, in scrambled order, and awaits that it is recorded.
    pub async fn replay(&mut self, app: &TestServer, mut part: Vec<Kept>) {
        for at in (1..part.len()).rev() {
            part.swap(at, self.dice.below(at + 1));
        }
        let directory = Directory::open(&app.journal_dir(), 1 << 30).unwrap();
        let journals = [0, 1].map(|worker| {
            Journal::new(Some(directory.clone()), worker, Fsync::Interval, OnFull::Strict)
        });
        for (at, kept) in part.iter().enumerate() {
            let journal = &journals[at % 2];
            match kept {
                Kept::Closed(row) => {
                    let slot = journal.open(row).unwrap();
                    drop(journal.close(slot, row));
                }
                Kept::Open(row, noted) => {
                    let slot = journal.open(row).unwrap();
                    if !noted.is_empty() {
                        journal.progress(&slot, &row.call_id, *noted);
                    }
                }
            }
        }
        directory.leave();
        drop((journals, directory));
        let left = || {
            let files = std::fs::read_dir(app.journal_dir()).unwrap();
            files
                .filter(|file| {
                    file.as_ref().unwrap().path().extension().is_some_and(|end| end == "lock")
                })
                .count()
        };
        // One lock is that of the service itself.
        let replayed = eventually(Duration::from_secs(60), || async {
            app.settle().await;
            left() == 1
        });
        assert!(replayed.await, "the journal is still there");
    }

    /// The case of all that was sent so far.
    pub async fn case(
        &self,
        app: &TestServer,
        people: &[Person],
        prices: &Prices,
        depth: Depth,
    ) -> Case {
        let mut case = Case::of(app, people, prices, depth).await;
        case.sent = Some(self.sent.values().cloned().collect());
        case
    }

    /// The same when single calls, and short periods of long ago, are not kept any more.
    pub async fn kept(&self, app: &TestServer, people: &[Person], prices: &Prices) -> Case {
        let today = today();
        let monday = today - TimeDelta::days(i64::from(today.weekday().num_days_from_monday()));
        let days = (today - TimeDelta::days(DAYS_KEPT)).min(monday).min(first_of_month());
        let kept = [("hourly", today - TimeDelta::days(HOURS_KEPT)), ("daily", days)];
        let kept = kept.map(|(period, from)| (period, shown(from)));
        let mut case = Case::of_summaries(app, people, prices, BTreeMap::from(kept)).await;
        case.sent = Some(self.sent.values().cloned().collect());
        let endings: BTreeSet<&str> =
            self.sent.values().map(|row| row["outcome"].as_str().unwrap()).collect();
        assert_eq!(endings.len(), 8, "{endings:?}");
        case
    }
}
