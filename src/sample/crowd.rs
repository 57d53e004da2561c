//! Who works when: the people's habits, and how many calls an hour is worth.

use chrono::{Datelike, Weekday};
use fastrand::Rng;

use super::{DAY, HOUR, Plan, around, end_of, start_of, timestamp};

/// Out of 1000 calls of a working day, by local hour.
const OFFICE_HOURS: [u16; 24] =
    [2, 1, 1, 1, 1, 2, 8, 24, 58, 98, 114, 108, 52, 78, 110, 108, 92, 58, 32, 18, 12, 10, 7, 5];
const NIGHT_HOURS: [u16; 24] =
    [120, 150, 150, 140, 110, 70, 30, 10, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 10, 20, 30, 45, 60];
const WEEKEND: f64 = 0.08;

/// Hours from UTC (no daylight saving: nobody will miss it), and which column of `models` is near.
const OFFICES: [(i64, usize); 6] = [(-5, 0), (-5, 0), (-8, 0), (1, 1), (1, 1), (9, 2)];

/// Twenty people are like this, in any order that gives a small team some of each.
#[rustfmt::skip]
const KINDS: [Kind; 20] = {
    use Kind::{Agents, Chat, Developer, Program};
    [
        Agents, Chat, Developer, Chat, Developer, Program, Chat, Chat, Developer, Chat,
        Chat, Developer, Agents, Chat, Developer, Chat, Chat, Developer, Chat, Chat,
    ]
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Claude Code all day, several at a time.
    Agents,
    /// Claude Code now and then.
    Developer,
    /// A question here and there.
    Chat,
    /// Runs at night, with a key.
    Program,
}

/// What people of one kind do; numbers are medians.
pub struct Work {
    /// Calls of a working day at the end of the plan.
    calls: f64,
    /// Calls of one piece of work, and how much that varies.
    pub burst: (f64, f64),
    /// Seconds between an answer and the next call.
    pub pause: f64,
    hours: &'static [u16; 24],
    pub keys: &'static [&'static str],
}

#[rustfmt::skip]
static WORK: [Work; 4] = [
    Work { calls: 160.0, burst: (60.0, 0.9), pause: 3.0, hours: &OFFICE_HOURS, keys: &["laptop", "workstation"] },
    Work { calls: 24.0, burst: (22.0, 0.9), pause: 7.0, hours: &OFFICE_HOURS, keys: &["laptop"] },
    Work { calls: 3.5, burst: (3.0, 0.7), pause: 50.0, hours: &OFFICE_HOURS, keys: &["notebook"] },
    Work { calls: 70.0, burst: (80.0, 1.0), pause: 0.5, hours: &NIGHT_HOURS, keys: &["nightly"] },
];

impl Kind {
    pub fn work(self) -> &'static Work {
        &WORK[self as usize]
    }

    pub fn uses_claude_code(self) -> bool {
        matches!(self, Self::Agents | Self::Developer)
    }
}

/// How one person works.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub kind: Kind,
    /// Calls of a working day at the end of the plan.
    rate: f64,
    hours_from_utc: i64,
    pub near: usize,
    /// Milliseconds since 1970.
    pub joined: i64,
    pub left: Option<i64>,
}

impl Habits {
    pub fn of(plan: &Plan, index: usize) -> Self {
        let mut rng = rng_for(plan.seed, index as u64);
        let (start, end) = (start_of(plan), end_of(plan).max(start_of(plan)));
        let span = end - start;
        let kind = KINDS[index % KINDS.len()];
        let rate = around(&mut rng, kind.work().calls, 0.6);
        let (hours_from_utc, near) = OFFICES[rng.usize(..OFFICES.len())];
        let some_day = start + rng.i64(0..=span / 10 * 9);
        // In a year a quarter joins and a tenth leaves; in a month hardly anybody.
        let years = (span as f64 / (365 * DAY) as f64).min(1.0);
        let fate = rng.f64() / years.max(f64::MIN_POSITIVE);
        let (joined, left) = match fate {
            _ if index == 0 => (start, None),
            ..0.25 => (some_day, None),
            ..0.35 => (start, Some(some_day)),
            _ => (start, None),
        };
        Self { kind, rate, hours_from_utc, near, joined, left }
    }

    /// The part of a working day's calls that falls into the hour at `at`.
    fn share(&self, at: i64) -> f64 {
        if at < self.joined || self.left.is_some_and(|left| at >= left) {
            return 0.0;
        }
        let local = at + self.hours_from_utc * HOUR;
        let hour = (local.rem_euclid(DAY) / HOUR) as usize;
        f64::from(self.kind.work().hours[hour]) / 1000.0
    }
}

/// Everybody, at one hour.
#[derive(Debug)]
pub struct Crowd {
    people: Vec<Habits>,
    seed: u64,
    end: i64,
    /// Running sums over people, of the pieces of work each is expected to begin.
    sums: Vec<f64>,
}

impl Crowd {
    pub fn new(plan: &Plan, people: usize) -> Self {
        let people = (0..people).map(|index| Habits::of(plan, index)).collect();
        Self { people, seed: plan.seed, end: end_of(plan), sums: Vec::new() }
    }

    pub fn habits(&self, index: usize) -> &Habits {
        &self.people[index]
    }

    /// Calls that everybody together makes between two times of one hour.
    pub fn turn_to(&mut self, from: i64, to: i64) -> f64 {
        let days = OFFICES.map(|(hours, _)| (hours, workday(from + hours * HOUR)));
        let before_end = (self.end - from) as f64 / (365 * DAY) as f64;
        let mood = 0.85 + 0.3 * rng_for(self.seed, (from / DAY) as u64).f64();
        // Twice as many calls as a year before.
        let scale = (-before_end).exp2() * mood * (to - from) as f64 / HOUR as f64;
        let (mut calls, mut bursts) = (0.0, 0.0);
        self.sums.clear();
        for person in &self.people {
            let day = match person.kind {
                Kind::Program => 1.0,
                _ => days.iter().find(|(h, _)| *h == person.hours_from_utc).map_or(1.0, |d| d.1),
            };
            let expected = person.rate * person.share(from) * day * scale;
            let (median, sigma) = person.kind.work().burst;
            calls += expected;
            bursts += expected / (median * (sigma * sigma / 2.0).exp()); // the mean of `around`
            self.sums.push(bursts);
        }
        calls
    }

    /// Who begins the next piece of work in this hour.
    pub fn pick(&self, rng: &mut Rng) -> usize {
        let at = rng.f64() * self.sums.last().copied().unwrap_or_default();
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len().saturating_sub(1))
    }
}

/// What a day is worth in an office, by its local time.
fn workday(local: i64) -> f64 {
    let day = timestamp(local).date();
    let season = match (day.month(), day.day()) {
        (12, 24..) | (1, 1) => 0.12,
        (12, 20..) | (1, 2..=5) => 0.5,
        _ => 1.0,
    };
    let week = if matches!(day.weekday(), Weekday::Sat | Weekday::Sun) { WEEKEND } else { 1.0 };
    season * week
}

/// Numbers that depend on nothing but the seed and what they are for.
fn rng_for(seed: u64, what: u64) -> Rng {
    Rng::with_seed(seed ^ what.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
