//! Sample usage of an invented company, for development, benchmarks and the demo: a stream of rows in time order, the
//! same for the same plan. It knows no database: who the people are there is told, and what calls cost is not its
//! business.

mod burst;
mod crowd;
mod mishap;
mod models;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use chrono::{NaiveDate, NaiveTime};
use fastrand::Rng;

use crate::db::{Timestamp, usage::NewUsage};
use burst::Burst;
use crowd::{Crowd, Habits, Kind};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

const GIVEN_NAMES: [&str; 20] = [
    "Alex", "Ariel", "Casey", "Charlie", "Dana", "Eli", "Jamie", "Jo", "Kim", "Lee", "Luca",
    "Mika", "Morgan", "Nico", "Noa", "Robin", "Sam", "Sasha", "Toni", "Yuki",
];

/// What to make up.
#[derive(Debug, Clone)]
pub struct Plan {
    pub people: usize,
    /// The first day, UTC.
    pub start: NaiveDate,
    /// Exclusive; the moment of seeding. The company is largest then.
    pub end: Timestamp,
    /// So many calls exactly; `None` = as many as such people make in that time.
    pub calls: Option<u64>,
    pub seed: u64,
}

/// Somebody to create before there can be rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    pub display_name: String,
    pub email: String,
    /// Names of the API keys; never empty.
    pub keys: &'static [&'static str],
    /// No call is earlier.
    pub joined: Timestamp,
    /// No call begins a piece of work later; `None` = is still there.
    pub left: Option<Timestamp>,
}

/// The same person as the database knows them.
#[derive(Debug, Clone)]
pub struct Who {
    pub user_id: i64,
    /// May be empty; then every call came with a token.
    pub key_ids: Vec<i64>,
}

/// The people of a plan. The first one is there from start to end, and a heavy user.
pub fn people(plan: &Plan) -> Vec<Person> {
    (0..plan.people).map(|index| person(plan, index)).collect()
}

fn person(plan: &Plan, index: usize) -> Person {
    let habits = Habits::of(plan, index);
    let number = index + 1;
    let display_name = match habits.kind {
        Kind::Program => format!("Night program {number}"),
        _ => format!("{} {number:03}", GIVEN_NAMES[index % GIVEN_NAMES.len()]),
    };
    Person {
        display_name,
        email: format!("person-{number:03}@example.com"),
        keys: habits.kind.work().keys,
        joined: timestamp(habits.joined),
        left: habits.left.map(timestamp),
    }
}

/// The rows of a plan, in time order. What it holds are the pieces of work that are under way, never the rows.
#[derive(Debug)]
pub struct Sample {
    rng: Rng,
    crowd: Crowd,
    who: Vec<Who>,
    /// Pieces of work under way, the one with the earliest call on top.
    open: BinaryHeap<Reverse<Burst>>,
    /// Up to here every piece of work has begun that will.
    begun_until: i64,
    end: i64,
    /// Calls in all, and those that belong to a piece of work begun so far.
    calls: u64,
    begun: u64,
    /// The same as the crowd's own measure: expected calls in all, and up to `begun_until`.
    expected: f64,
    passed: f64,
}

impl Sample {
    /// `people` are those of [`people`], in the same order.
    pub fn new(plan: &Plan, people: &[Who]) -> Self {
        let (start, end) = (start_of(plan), end_of(plan));
        let mut crowd = Crowd::new(plan, people.len());
        let mut expected = 0.0;
        let mut from = start;
        while from < end {
            let to = end_of_hour(from).min(end);
            expected += crowd.turn_to(from, to);
            from = to;
        }
        // Nobody there, or no time for it: no calls, whatever was asked for.
        let most = if expected > 0.0 { plan.calls.unwrap_or(expected.round() as u64) } else { 0 };
        Self {
            rng: Rng::with_seed(plan.seed),
            crowd,
            who: people.to_vec(),
            open: BinaryHeap::new(),
            begun_until: start,
            end,
            calls: most,
            begun: 0,
            expected,
            passed: 0.0,
        }
    }

    /// Rows in all.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Begins the work of one more hour: whole pieces, so an hour may run ahead of its share, and later ones wait.
    fn begin_hour(&mut self) {
        let from = self.begun_until;
        let to = end_of_hour(from).min(self.end);
        self.begun_until = to;
        self.passed += self.crowd.turn_to(from, to);
        let share = (self.passed / self.expected * self.calls as f64) as u64;
        let due = if to == self.end { self.calls } else { share.min(self.calls) };
        while self.begun < due {
            let index = self.crowd.pick(&mut self.rng);
            let next = self.rng.i64(from..to);
            let (habits, keys) = (self.crowd.habits(index), &self.who[index].key_ids);
            let mut burst = Burst::begin(&mut self.rng, index, habits, keys, next, self.end);
            // A small sample is not the work of one afternoon.
            let most = (self.calls / 100).max(1).min(self.calls - self.begun);
            burst.left = burst.left.min(u32::try_from(most).unwrap_or(u32::MAX));
            self.begun += u64::from(burst.left);
            self.open.push(Reverse(burst));
        }
    }
}

impl Iterator for Sample {
    type Item = NewUsage;

    fn next(&mut self) -> Option<NewUsage> {
        loop {
            if let Some(mut top) = self.open.peek_mut()
                && top.0.next < self.begun_until
            {
                let user_id = self.who[top.0.person].user_id;
                let row = top.0.call(&mut self.rng, user_id, self.end);
                if top.0.left == 0 {
                    PeekMut::pop(top);
                }
                return Some(row);
            }
            if self.begun_until >= self.end {
                return None;
            }
            self.begin_hour();
        }
    }
}

fn start_of(plan: &Plan) -> i64 {
    plan.start.and_time(NaiveTime::MIN).and_utc().timestamp_millis()
}

fn end_of(plan: &Plan) -> i64 {
    plan.end.and_utc().timestamp_millis()
}

fn end_of_hour(at: i64) -> i64 {
    (at.div_euclid(HOUR) + 1) * HOUR
}

fn timestamp(ms: i64) -> Timestamp {
    chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().naive_utc()
}

/// Around `median`, with the long tail upwards that sizes and waits have: log-normal, nearly.
fn around(rng: &mut Rng, median: f64, sigma: f64) -> f64 {
    let bits = rng.u64(..);
    let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
    let normal = (sum as f64 / 65_536.0 - 2.0) * 1.732; // four uniform numbers are normal enough
    median * (normal * sigma).exp()
}
