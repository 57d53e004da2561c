//! A breaker: after 5 failures within 10 s nothing is tried for 5 s, then one call finds out how it is (REL-12). Times
//! are milliseconds of any clock that only goes forward.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

const FAILURES: usize = 5;
const WITHIN: u64 = 10_000;
const REST: u64 = 5_000;
const NEVER: u64 = u64::MAX;

/// Shared by all who call; it takes no lock.
pub struct Breaker {
    /// When the last failures were, in a ring.
    failed: [AtomicU64; FAILURES],
    next: AtomicUsize,
    /// It rests until then; [`NEVER`] while all is well.
    rests_until: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failed: std::array::from_fn(|_| AtomicU64::new(NEVER)),
            next: AtomicUsize::new(0),
            rests_until: AtomicU64::new(NEVER),
        }
    }
}

impl Breaker {
    /// Whether a call may be tried. After a rest one of all who ask may; if it is never heard of again, another one may
    /// after another rest.
    pub fn lets_through(&self, now: u64) -> bool {
        let until = self.rests_until.load(SeqCst);
        until == NEVER
            || now >= until
                && self.rests_until.compare_exchange(until, now + REST, SeqCst, SeqCst).is_ok()
    }

    fn is_open(&self) -> bool {
        self.rests_until.load(SeqCst) != NEVER
    }

    /// Answers whether this ended a rest.
    pub fn succeeded(&self) -> bool {
        let was_open = self.is_open();
        if was_open {
            self.failed.iter().for_each(|failure| failure.store(NEVER, SeqCst));
            self.rests_until.store(NEVER, SeqCst);
        }
        was_open
    }

    /// Answers whether it rests from now on, and did not before.
    pub fn failed(&self, now: u64) -> bool {
        let at = self.next.fetch_add(1, SeqCst);
        if let Some(slot) = self.failed.get(at % FAILURES) {
            slot.store(now, SeqCst);
        }
        // The slot after the newest has the oldest.
        let oldest = self.failed.get((at + 1) % FAILURES).map_or(NEVER, |slot| slot.load(SeqCst));
        let too_many = oldest != NEVER && now.saturating_sub(oldest) <= WITHIN;
        let was_open = self.is_open();
        if too_many || was_open {
            self.rests_until.store(now + REST, SeqCst);
        }
        too_many && !was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_at(now: u64) -> Breaker {
        let breaker = Breaker::default();
        let opened: Vec<bool> = (0..5).map(|_| breaker.failed(now)).collect();
        assert_eq!(opened, [false, false, false, false, true]);
        breaker
    }

    #[test]
    fn five_failures_in_ten_seconds_open_it() {
        let breaker = Breaker::default();
        for now in [0, 2_000, 4_000, 6_000] {
            breaker.failed(now);
            assert!(breaker.lets_through(now));
        }
        breaker.failed(10_000);
        assert!(!breaker.lets_through(10_000));
    }

    #[test]
    fn failures_that_lie_further_apart_do_not() {
        let breaker = Breaker::default();
        for now in (0..20).map(|number| number * 2_501) {
            breaker.failed(now);
            assert!(breaker.lets_through(now), "{now}");
        }
    }

    #[test]
    fn after_its_rest_one_call_finds_out() {
        let breaker = open_at(1_000);
        assert!(!breaker.lets_through(5_999));
        assert!(breaker.lets_through(6_000));
        assert!(!breaker.lets_through(6_000), "only one");

        assert!(breaker.succeeded() && !breaker.succeeded());
        assert!(breaker.lets_through(6_001) && breaker.lets_through(6_001));
    }

    #[test]
    fn a_failed_try_is_another_rest_and_a_lost_one_too() {
        let breaker = open_at(0);
        assert!(breaker.lets_through(5_000));
        assert!(!breaker.failed(5_100), "it rested already");
        assert!(!breaker.lets_through(10_099));
        assert!(breaker.lets_through(10_100));
        // Nobody says how that went.
        assert!(!breaker.lets_through(15_099));
        assert!(breaker.lets_through(15_100));
    }

    #[test]
    fn once_healed_it_takes_five_failures_again() {
        let breaker = open_at(0);
        assert!(breaker.lets_through(5_000));
        breaker.succeeded();
        for _ in 0..4 {
            breaker.failed(5_001);
            assert!(breaker.lets_through(5_001));
        }
        breaker.failed(5_001);
        assert!(!breaker.lets_through(5_001));
    }
}
