//! How often a scenario has been asked for, for the one which fails at first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Keys remembered; the oldest go first.
const MAX_KEYS: usize = 10_000;

/// Attempts by key.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    seen: Mutex<(HashMap<String, u64>, VecDeque<String>)>,
}

impl Attempts {
    /// The number of this attempt, from 1.
    pub(super) fn next(&self, key: &str) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (counts, order) = &mut *seen;
        if let Some(count) = counts.get_mut(key) {
            *count += 1;
            return *count;
        }
        if order.len() >= MAX_KEYS
            && let Some(oldest) = order.pop_front()
        {
            counts.remove(&oldest);
        }
        counts.insert(key.to_owned(), 1);
        order.push_back(key.to_owned());
        1
    }
}
