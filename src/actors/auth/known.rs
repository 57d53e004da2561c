//! What is known of credentials, read by every worker and filled by the actor alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;

use crate::{
    auth::{CredentialDigest, Identity, Refusal},
    db::Timestamp,
    settings,
};

/// How long an unknown credential is remembered, so that repeating it does not reach the database.
const REMEMBER_REFUSAL: Duration = Duration::from_secs(5);
/// The last use of a key or session is written at most this often (SEC-11).
pub(super) const NOTE_USE_MS: u64 = 60_000;

/// Credentials that were checked lately, good and bad.
pub struct Known {
    good: Cache<CredentialDigest, Arc<Entry>>,
    refused: Cache<CredentialDigest, Refusal>,
    start: Instant,
    /// When the database last confirmed that nothing was taken away, in milliseconds since `start`.
    confirmed: AtomicU64,
    max_age_ms: u64,
}

struct Entry {
    identity: Arc<Identity>,
    checked: u64,
    used: AtomicU64,
}

/// What [`Known::get`] can tell.
#[derive(Debug)]
pub enum Lookup {
    /// `note_use`: this use is worth a [`super::Used`] message.
    Good {
        identity: Arc<Identity>,
        note_use: bool,
    },
    Refused(Refusal),
    Unknown,
}

impl Known {
    pub fn new(cache: &settings::Cache, auth: &settings::Auth) -> Self {
        Self {
            good: Cache::builder()
                .max_capacity(cache.max_entries)
                .time_to_live(Duration::from_secs(cache.validation_ttl))
                .build(),
            refused: Cache::builder()
                .max_capacity(cache.max_entries)
                .time_to_live(REMEMBER_REFUSAL)
                .build(),
            start: Instant::now(),
            confirmed: AtomicU64::new(0),
            max_age_ms: auth.identity_max_age_seconds * 1000,
        }
    }

    /// An entry counts until its credential ends, and no longer than `identity_max_age_seconds` after the database
    /// last confirmed it.
    pub fn get(&self, digest: &CredentialDigest, now: Timestamp) -> Lookup {
        let Some(entry) = self.good.get(digest) else {
            return self.refused.get(digest).map_or(Lookup::Unknown, Lookup::Refused);
        };
        let clock = self.clock();
        let confirmed = entry.checked.max(self.confirmed.load(Relaxed));
        let ended = entry.identity.ends.is_some_and(|end| end <= now);
        if ended || clock.saturating_sub(confirmed) > self.max_age_ms {
            return Lookup::Unknown;
        }
        let used = entry.used.load(Relaxed);
        let due = clock.saturating_sub(used) >= NOTE_USE_MS;
        let note_use = due && entry.used.compare_exchange(used, clock, Relaxed, Relaxed).is_ok();
        Lookup::Good { identity: entry.identity.clone(), note_use }
    }

    /// Identities that are held at the moment, about, and how many there may be.
    pub fn size(&self) -> (u64, u64) {
        let most = self.good.policy().max_capacity().unwrap_or(u64::MAX);
        (self.good.entry_count(), most)
    }

    pub(super) fn clock(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the database confirmed lately enough that the epoch is what it is.
    pub(super) fn is_confirmed(&self) -> bool {
        let confirmed = self.confirmed.load(Relaxed);
        confirmed > 0 && self.clock().saturating_sub(confirmed) <= self.max_age_ms
    }

    /// `afresh`: the database was asked for it. What comes from the cache counts as long as the database confirms it.
    pub(super) fn remember(&self, digest: CredentialDigest, identity: Identity, afresh: bool) {
        let now = self.clock();
        let (identity, checked) = (Arc::new(identity), if afresh { now } else { 0 });
        // A first use is noted at once, by whoever remembers it.
        let entry = Entry { identity, checked, used: AtomicU64::new(now) };
        self.good.insert(digest, Arc::new(entry));
    }

    pub(super) fn refuse(&self, digest: CredentialDigest, refusal: Refusal) {
        self.good.invalidate(&digest);
        self.refused.insert(digest, refusal);
    }

    /// The database, asked at this time of [`Self::clock`], said that nothing was taken away.
    pub(super) fn confirm(&self, asked: u64) {
        self.confirmed.fetch_max(asked, Relaxed);
    }

    pub(super) fn tidy(&self) {
        self.good.run_pending_tasks();
        self.refused.run_pending_tasks();
    }

    pub(super) fn forget_all(&self) {
        self.good.invalidate_all();
        self.refused.invalidate_all();
    }
}
