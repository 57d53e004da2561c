//! The pace of a device that waits for a person's decision (RFC 8628, section 3.5). It is kept in the cache: what was
//! decided the database says, and a device asks a hundred times for each decision.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::{cache::CachedObject, db::Timestamp};

/// Seconds between two questions, at first.
pub const PAUSE: i64 = 5;
/// What a question that comes too early adds to the pause.
const SLOWER: i64 = 5;

/// A device whose code was good when it last asked in time, and about which nothing was decided then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CachedObject)]
#[cache(name = "device", ttl = 600)]
pub struct Waiting {
    asked_at: Timestamp,
    /// Seconds.
    pause: i64,
    /// When its code is over.
    ends: Timestamp,
}

impl Waiting {
    /// It asked in time and waits on, with the pause that it had before.
    pub fn on(before: Option<&Self>, now: Timestamp, ends: Timestamp) -> Self {
        Self { asked_at: now, pause: before.map_or(PAUSE, |before| before.pause), ends }
    }

    /// What to remember of it if it asks too early: a longer pause, from now on. `None` = it asks in time, or about a code
    /// that is over.
    pub fn too_early(&self, now: Timestamp) -> Option<Self> {
        let early = now - self.asked_at < TimeDelta::seconds(self.pause) && now < self.ends;
        early.then(|| Self {
            asked_at: now,
            pause: self.pause.saturating_add(SLOWER),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        chrono::DateTime::UNIX_EPOCH.naive_utc() + TimeDelta::seconds(seconds)
    }

    #[test]
    fn each_question_that_comes_too_early_makes_the_pause_longer() {
        let mut known = Waiting::on(None, at(0), at(600));

        for (seconds, early) in [(4, true), (13, true), (28, false), (42, true), (62, false)] {
            let slower = known.too_early(at(seconds));
            assert_eq!(slower.is_some(), early, "after {seconds} s: {known:?}");
            known = slower.unwrap_or_else(|| Waiting::on(Some(&known), at(seconds), at(600)));
        }

        assert_eq!(known, Waiting { asked_at: at(62), pause: 20, ends: at(600) });
    }

    #[test]
    fn whether_a_code_is_over_the_database_is_asked_at_any_pace() {
        let waiting = Waiting::on(None, at(599), at(600));

        assert_eq!(waiting.too_early(at(600)), None);
    }
}
