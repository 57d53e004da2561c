//! Rates: how often something may be done by one address, person or key. Each instance counts by itself, in buckets that
//! fill up again evenly; what is counted is bounded, whoever asks. Instances that share a cache count together besides, by
//! the minute or hour of the clock; while that is away each goes by its own count alone.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use moka::sync::Cache;

use crate::{cache::TypedCache, db::Timestamp, settings::RateLimits};

/// Addresses, people and keys that are counted at most; the least used are forgotten first.
const SUBJECTS: u64 = 100_000;
/// Whoever has not come for so long starts anew; no quota takes longer to fill up.
const FORGET: Duration = Duration::from_secs(3600);
/// What is worth one note is not worth another one within this.
const NOTE_AGAIN: Duration = Duration::from_secs(60);
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const SKEW_MS: u64 = 5_000;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    SignInStart,
    Callback,
    Refresh,
    DevicePoll,
    FailedCredential,
    KeyCreation,
    AdminWrite,
    InferenceOfUser,
    InferenceOfKey,
}

impl Limit {
    /// The setting that sets it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::SignInStart => "rate_limits.sign_in_starts_per_minute",
            Self::Callback => "rate_limits.callbacks_per_minute",
            Self::Refresh | Self::DevicePoll => "rate_limits.refreshes_per_minute",
            Self::FailedCredential => "rate_limits.failed_credentials_per_minute",
            Self::KeyCreation => "rate_limits.key_creations_per_hour",
            Self::AdminWrite => "rate_limits.admin_writes_per_minute",
            Self::InferenceOfUser => "rate_limits.inference_per_minute_per_user",
            Self::InferenceOfKey => "rate_limits.inference_per_minute_per_key",
        }
    }
}

/// Whom a limit is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Address(IpAddr),
    User(i64),
    Key(i64),
}

impl Subject {
    /// One network of IPv6 is one customer of a provider: it counts as one address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & (u128::MAX << 64);
                Self::Address(IpAddr::V6(network.into()))
            }
            v4 => Self::Address(v4),
        }
    }
}

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    pub limit: Limit,
    pub retry_after: Duration,
}

/// All limits of one instance.
pub struct Limits {
    rates: ArcSwap<RateLimits>,
    cache: TypedCache,
    buckets: Cache<(Limit, Subject), Arc<DefaultDirectRateLimiter>>,
}

impl Limits {
    pub fn new(rates: &RateLimits, cache: TypedCache) -> Self {
        let buckets = Cache::builder().max_capacity(SUBJECTS).time_to_idle(FORGET).build();
        Self { rates: ArcSwap::from_pointee(rates.clone()), cache, buckets }
    }

    /// Other rates from now on; everybody starts anew.
    pub fn set(&self, rates: &RateLimits) {
        self.rates.store(Arc::new(rates.clone()));
        self.buckets.invalidate_all();
    }

    fn quota(&self, limit: Limit) -> Option<Quota> {
        let rates = self.rates.load();
        let per_minute = |count: u32| NonZeroU32::new(count).map(Quota::per_minute);
        match limit {
            Limit::SignInStart => per_minute(rates.sign_in_starts_per_minute),
            Limit::Callback => per_minute(rates.callbacks_per_minute),
            Limit::Refresh => per_minute(rates.refreshes_per_minute),
            // Ten devices at one address, at their own pace.
            Limit::DevicePoll => per_minute(rates.refreshes_per_minute.saturating_mul(4)),
            Limit::FailedCredential => NonZeroU32::new(rates.failed_credentials_per_minute)
                .map(|burst| Quota::per_second(NonZeroU32::MIN).allow_burst(burst)),
            Limit::KeyCreation => {
                NonZeroU32::new(rates.key_creations_per_hour).map(Quota::per_hour)
            }
            Limit::AdminWrite => per_minute(rates.admin_writes_per_minute),
            Limit::InferenceOfUser => per_minute(rates.inference_per_minute_per_user),
            Limit::InferenceOfKey => per_minute(rates.inference_per_minute_per_key),
        }
    }

    /// Counts one more, here and then with other instances.
    ///
    /// # Errors
    /// [`Exceeded`]. What this instance refuses by itself is not counted.
    pub async fn check(
        &self,
        limit: Limit,
        subject: Subject,
        now: Timestamp,
    ) -> Result<(), Exceeded> {
        let Some(quota) = self.quota(limit) else { return Ok(()) };
        let fresh = || Arc::new(DefaultDirectRateLimiter::direct(quota));
        let bucket = self.buckets.get_with((limit, subject), fresh);
        bucket.check().map_err(|not_until| {
            let retry_after = not_until.wait_time_from(DefaultClock::default().now());
            Exceeded { limit, retry_after }
        })?;
        if self.cache.is_shared() {
            // Boxed: without other instances, as nearly always, nobody carries the room for this.
            Box::pin(self.check_together(limit, quota, subject, now)).await?;
        }
        Ok(())
    }

    async fn check_together(
        &self,
        limit: Limit,
        quota: Quota,
        subject: Subject,
        now: Timestamp,
    ) -> Result<(), Exceeded> {
        let (most, window) = within_a_window(quota);
        let milliseconds = u64::try_from(now.and_utc().timestamp_millis()).unwrap_or_default();
        let (number, gone) = (milliseconds / window, milliseconds % window);
        let who = format!("{limit:?} {subject:?} {number}");
        // It outlives its window a little: clocks differ.
        let lives = Duration::from_millis(window + SKEW_MS);
        match self.cache.increment("rates", who, lives).await {
            Ok(count) if count > most => {
                Err(Exceeded { limit, retry_after: Duration::from_millis(window - gone) })
            }
            // An error is counted there.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// How many may pass in a window of so many milliseconds: what a full bucket holds and what flows into it meanwhile, but
/// for a bucket that takes the whole window to fill: that holds for the window.
fn within_a_window(quota: Quota) -> (u64, u64) {
    let burst = u64::from(quota.burst_size().get());
    let fill = u64::try_from(quota.burst_size_replenished_in().as_millis()).unwrap_or(u64::MAX);
    let window = fill.clamp(MINUTE_MS, HOUR_MS);
    (burst.saturating_mul(window.div_ceil(fill.max(1))), window)
}

/// Remembers for a minute what was noted, so that whoever knocks a thousand times is one line in the audit log.
pub struct Notes(Cache<(&'static str, Subject), ()>);

impl Default for Notes {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(SUBJECTS).time_to_live(NOTE_AGAIN).build())
    }
}

impl Notes {
    /// Whether this was not noted in the last minute; it is then.
    pub fn is_first(&self, what: &'static str, subject: Subject) -> bool {
        self.0.entry((what, subject)).or_insert(()).is_fresh()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db,
        settings::{Need, Settings},
        telemetry::Metrics,
    };

    fn limits() -> Limits {
        let settings = Settings::from_layers(None, std::iter::empty(), Need::Database).unwrap();
        let cache = TypedCache::in_memory(100, 1 << 20, &[[1; 32]], Metrics::new().unwrap());
        Limits::new(&settings.rate_limits, cache)
    }

    #[tokio::test]
    async fn each_address_has_its_own_count_and_is_told_when_to_come_back() {
        let limits = limits();
        let (one, other) = (
            Subject::address("192.0.2.1".parse().unwrap()),
            Subject::address("192.0.2.2".parse().unwrap()),
        );
        for _ in 0..20 {
            assert!(limits.check(Limit::SignInStart, one, db::now()).await.is_ok());
        }

        let exceeded = limits.check(Limit::SignInStart, one, db::now()).await.unwrap_err();

        assert!(exceeded.retry_after <= Duration::from_secs(3), "{exceeded:?}");
        assert!(limits.check(Limit::SignInStart, other, db::now()).await.is_ok());
        assert!(
            limits.check(Limit::Callback, one, db::now()).await.is_ok(),
            "limits are counted apart"
        );
    }

    #[tokio::test]
    async fn nothing_is_counted_where_there_is_no_limit() {
        let limits = limits();
        for _ in 0..1000 {
            assert!(limits.check(Limit::InferenceOfKey, Subject::Key(1), db::now()).await.is_ok());
        }
        assert_eq!(limits.buckets.entry_count(), 0);
    }

    #[test]
    fn what_happens_again_is_noted_once() {
        let notes = Notes::default();

        assert!(notes.is_first("rate_limited", Subject::User(1)));
        assert!(!notes.is_first("rate_limited", Subject::User(1)));
        assert!(notes.is_first("rate_limited", Subject::User(2)));
        assert!(notes.is_first("admin_denied", Subject::User(1)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_subject() {
        let address = |text: &str| Subject::address(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[tokio::test]
    async fn a_million_addresses_stay_within_the_bound() {
        let limits = limits();
        for number in 0..150_000_u32 {
            let address = Subject::Address(IpAddr::V4(number.into()));
            let _counted = limits.check(Limit::SignInStart, address, db::now()).await;
        }
        limits.buckets.run_pending_tasks();
        assert!(limits.buckets.entry_count() <= SUBJECTS);
    }

    #[test]
    fn instances_count_together_what_one_lets_through_in_a_minute_or_an_hour() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let slowly = Quota::per_second(NonZeroU32::MIN);
        for (quota, most, window) in [
            (Quota::per_minute(number(20)), 20, MINUTE_MS),
            (Quota::per_minute(number(100_000)), 100_000, MINUTE_MS),
            (Quota::per_hour(number(10)), 10, HOUR_MS),
            (slowly.allow_burst(number(30)), 60, MINUTE_MS),
            (slowly.allow_burst(number(60)), 60, MINUTE_MS),
        ] {
            assert_eq!(within_a_window(quota), (most, window), "{quota:?}");
        }
    }
}
