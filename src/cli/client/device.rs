//! When to ask again whether a device was approved (RFC 8628, section 3.5).

use std::time::Duration;

use super::service::ServiceError;

/// What `slow_down` adds.
const SLOWER: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Schedule {
    interval: Duration,
}

impl Schedule {
    pub fn new(interval: Duration) -> Self {
        Self { interval: interval.clamp(SHORTEST, LONGEST) }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How long to wait after this answer; `None` if asking again is of no use.
    pub fn after(&mut self, answer: &ServiceError) -> Option<Duration> {
        match answer {
            ServiceError::Connect { .. } => Some(self.interval),
            ServiceError::Lost { .. } => {
                self.interval = (self.interval * 2).min(LONGEST);
                Some(self.interval)
            }
            ServiceError::Refused { status: 429 | 500..=599, retry_after, .. } => {
                Some(retry_after.unwrap_or_default().max(self.interval))
            }
            ServiceError::Refused { error, .. } => match error.as_str() {
                "authorization_pending" => Some(self.interval),
                "slow_down" => {
                    self.interval += SLOWER;
                    Some(self.interval)
                }
                _ => None,
            },
            ServiceError::Trust(_) | ServiceError::Malformed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::ServiceUrl;

    fn url() -> ServiceUrl {
        "https://proxy.example.com".parse().unwrap()
    }

    fn refused(status: u16, error: &str, retry_after: Option<u64>) -> ServiceError {
        ServiceError::Refused {
            url: url(),
            status,
            error: error.to_owned(),
            description: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn seconds(waited: Option<Duration>) -> Option<u64> {
        waited.map(|waited| waited.as_secs())
    }

    #[test]
    fn pending_waits_the_interval_and_slow_down_lengthens_it_for_good() {
        let mut schedule = Schedule::new(Duration::from_secs(5));
        assert_eq!(seconds(schedule.after(&refused(400, "authorization_pending", None))), Some(5));
        assert_eq!(seconds(schedule.after(&refused(400, "slow_down", None))), Some(10));
        assert_eq!(seconds(schedule.after(&refused(400, "slow_down", None))), Some(15));
        assert_eq!(seconds(schedule.after(&refused(400, "authorization_pending", None))), Some(15));
    }

    #[test]
    fn a_busy_service_says_how_long() {
        let mut schedule = Schedule::new(Duration::from_secs(5));
        assert_eq!(seconds(schedule.after(&refused(429, "", Some(30)))), Some(30));
        assert_eq!(seconds(schedule.after(&refused(503, "", Some(1)))), Some(5));
        assert_eq!(seconds(schedule.after(&refused(502, "", None))), Some(5));
    }

    #[test]
    fn trouble_on_the_way_is_tried_again() {
        let mut schedule = Schedule::new(Duration::from_secs(5));
        let why = String::new;
        let unconnected = ServiceError::Connect { url: url(), why: why() };
        assert_eq!(seconds(schedule.after(&unconnected)), Some(5));
        for wait in [10, 20, 40, 60, 60] {
            let lost = ServiceError::Lost { url: url(), why: why() };
            assert_eq!(seconds(schedule.after(&lost)), Some(wait));
        }
    }

    #[test]
    fn a_definite_answer_ends_it() {
        let mut schedule = Schedule::new(Duration::from_secs(5));
        for error in ["access_denied", "expired_token", "invalid_grant", ""] {
            assert_eq!(schedule.after(&refused(400, error, None)), None, "{error}");
        }
        assert_eq!(schedule.after(&ServiceError::Malformed(url())), None);
    }

    #[test]
    fn an_interval_out_of_reason_is_not_followed() {
        assert_eq!(Schedule::new(Duration::ZERO).interval(), SHORTEST);
        assert_eq!(Schedule::new(Duration::from_secs(100_000)).interval(), LONGEST);
    }
}
