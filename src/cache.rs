//! TypedCache: values of known types, in memory or in Redis, for a while. The database is the truth; whatever cannot be
//! read, is not genuine or may be outdated is a miss, never a wrong value and never an error.
//!
//! A type that is cached derives [`CachedObject`], and the types inside it [`Structural`]: the hash of its shape is part
//! of every key. A value carries an end and the *generation* that its writer knew before it read the value; whoever knows
//! of a later one does not take it. So what was read before a change can be put back after it, and does no harm.

mod breaker;
mod envelope;
mod key;
mod memory;
mod news;
mod redis;
mod structural;

use std::{
    any::{Any, TypeId},
    future::Future,
    sync::Arc,
    time::Duration,
};

pub use bedrock_proxy_derive::{CachedObject, Structural};
use bytes::Bytes;
use chrono::NaiveDateTime;
pub use deadpool_redis::redis::RedisError;
use moka::future::Cache as Flights;
pub use structural::{CachedObject, Shape, Storable, Structural};

use crate::telemetry::Metrics;
use envelope::{Contents, Sealer};
use key::Keys;
use memory::Memory;
pub use news::{Heard, News};
use redis::Redis;
pub use redis::{Away, MOST};

/// That there is no such value is remembered for so long at most.
const ABSENT: Duration = Duration::from_secs(5);
/// How far the clocks of instances may be apart.
const SKEW: Duration = Duration::from_secs(5);
/// What a load leaves behind if nobody waits for its end.
const FORGET_FLIGHT: Duration = Duration::from_secs(1);

/// When something is asked, and what is known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// UTC.
    pub now: NaiveDateTime,
    /// Rises with each change that outdates values; 0 where there are none.
    pub generation: i64,
}

/// A cache of values by type and id. Cloning shares it.
#[derive(Clone)]
pub struct TypedCache {
    backend: Backend,
    keys: Keys,
    sealer: Arc<Sealer>,
    flights: Flights<(TypeId, String, i64), Loaded>,
    metrics: Metrics,
}

#[derive(Clone)]
enum Backend {
    Memory(Memory),
    Redis(Arc<Redis>),
}

/// An `Option<T>`, whatever the type is.
type Loaded = Arc<dyn Any + Send + Sync>;

enum Found<T> {
    Value(T),
    Absent,
    Nothing,
}

impl<T> Found<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Nothing => None,
        }
    }
}

impl TypedCache {
    /// In this process, with bounds on the number of values and on their bytes. `secrets` seal values: the current one,
    /// then those before it.
    pub fn in_memory(entries: u64, bytes: u64, secrets: &[[u8; 32]], metrics: Metrics) -> Self {
        Self::new(Backend::Memory(Memory::new(entries, bytes)), "", secrets, metrics)
    }

    /// In Redis, for all instances with the same prefix and secrets. It connects when it is first used, and again when it
    /// has to. Call it on the runtime that lives longest.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn in_redis(
        url: &str,
        prefix: &str,
        secrets: &[[u8; 32]],
        metrics: Metrics,
    ) -> Result<Self, RedisError> {
        let redis = Backend::Redis(Arc::new(Redis::open(url)?));
        Ok(Self::new(redis, prefix, secrets, metrics))
    }

    fn new(backend: Backend, prefix: &str, secrets: &[[u8; 32]], metrics: Metrics) -> Self {
        Self {
            backend,
            keys: Keys::new(prefix),
            sealer: Arc::new(Sealer::new(secrets)),
            flights: Flights::builder().time_to_live(FORGET_FLIGHT).build(),
            metrics,
        }
    }

    /// The value with this id, if there is one that counts.
    pub async fn get<T: CachedObject>(&self, id: impl AsRef<[u8]>, at: Moment) -> Option<T> {
        self.look(&self.keys.of::<T>(id.as_ref()), at).await.value()
    }

    /// Keeps a value for the time of its type. `at.generation` is what was known *before* the value was read.
    pub async fn put<T: CachedObject>(&self, id: impl AsRef<[u8]>, value: &T, at: Moment) {
        self.store(&self.keys.of::<T>(id.as_ref()), Some(value), at).await;
    }

    /// The value with this id; if there is none that counts, what `load` answers, which is then kept. That there is none
    /// is kept, too, for 5 s. Of all who ask this instance at once, one looks and loads for all.
    ///
    /// # Errors
    /// What `load` failed with; nothing is kept then.
    pub async fn get_or_load<T: CachedObject, E: Send + Sync + 'static>(
        &self,
        id: impl AsRef<[u8]>,
        at: Moment,
        load: impl Future<Output = Result<Option<T>, E>>,
    ) -> Result<Option<T>, Arc<E>> {
        let key = self.keys.of::<T>(id.as_ref());
        let flight = (TypeId::of::<T>(), key.clone(), at.generation);
        let work = async {
            let value = match self.look::<T>(&key, at).await {
                Found::Value(value) => Some(value),
                Found::Absent => None,
                Found::Nothing => {
                    let value = load.await?;
                    self.store(&key, value.as_ref(), at).await;
                    value
                }
            };
            Ok(Arc::new(value) as Loaded)
        };
        let loaded = self.flights.try_get_with(flight.clone(), work).await;
        self.flights.invalidate(&flight).await;
        // It is of this type, as the type is part of the flight's name.
        Ok(loaded?.downcast_ref::<Option<T>>().cloned().flatten())
    }

    /// Adds one to a count, which begins at nothing and is forgotten `lives` after it began. Redis adds by itself, so
    /// that a count carries no seal: whoever can write to Redis can change it.
    ///
    /// # Errors
    /// If Redis is away.
    pub async fn increment(
        &self,
        what: &'static str,
        id: impl AsRef<[u8]>,
        lives: Duration,
    ) -> Result<u64, Away> {
        let key = self.keys.count(what, id.as_ref());
        let counted = match &self.backend {
            Backend::Memory(memory) => Ok(memory.increment(key, lives).await),
            Backend::Redis(redis) => redis.increment(&key, lives).await,
        };
        let outcome = if counted.is_ok() { "counted" } else { "error" };
        self.count(what, outcome);
        counted
    }

    /// Puts a value beside those that others of its type put, under a name of its own. Without Redis there are no others.
    pub async fn post<T: CachedObject>(&self, name: &str, value: &T, at: Moment) {
        let Backend::Redis(redis) = &self.backend else { return };
        let together = self.keys.all_of::<T>();
        let key = Keys::beside(&together, name.as_bytes());
        if let Some(sealed) = self.seal(&key, Some(value), at) {
            self.note(T::NAME, redis.post(&together, name, &sealed, T::TTL).await);
        }
    }

    /// The values of a type that were put beside each other and count, with their names. Those that are over are removed.
    pub async fn posted<T: CachedObject>(&self, at: Moment) -> Vec<(String, T)> {
        let Backend::Redis(redis) = &self.backend else { return Vec::new() };
        let together = self.keys.all_of::<T>();
        let all = redis.posted(&together).await.unwrap_or_else(|error| {
            self.note(T::NAME, Err(error));
            Vec::new()
        });
        let mut values = Vec::new();
        for (name, sealed) in all {
            let key = Keys::beside(&together, &name);
            match (self.read(&key, Ok(Some(sealed.into())), at), String::from_utf8(name)) {
                (Found::Value(value), Ok(name)) => values.push((name, value)),
                (_, name) => {
                    let name = name.map_or_else(|error| error.into_bytes(), String::into_bytes);
                    self.note(T::NAME, redis.unpost(&together, &name).await);
                }
            }
        }
        values
    }

    /// Whether other instances see what this one puts.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Redis(_))
    }

    /// Can it be written to?
    ///
    /// # Errors
    /// What Redis says instead.
    pub async fn ping(&self) -> Result<(), Away> {
        match &self.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.ping(&self.keys.probe()).await,
        }
    }

    /// What it is, as settings name it.
    pub fn kind(&self) -> &'static str {
        match &self.backend {
            Backend::Memory(_) => "memory",
            Backend::Redis(_) => "redis",
        }
    }

    /// Does what is due, and tells the metrics how large it is.
    pub async fn tidy(&self) {
        if let Backend::Memory(memory) = &self.backend {
            memory.tidy().await;
            let (entries, bytes) = memory.size();
            self.metrics.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
            self.metrics.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Closes every connection. What is asked afterwards is a miss.
    pub fn close(&self) {
        if let Backend::Redis(redis) = &self.backend {
            redis.close();
        }
    }

    async fn look<T: CachedObject>(&self, key: &str, at: Moment) -> Found<T> {
        let got = match &self.backend {
            Backend::Memory(memory) => Ok(memory.get(key).await),
            Backend::Redis(redis) => redis.get(key).await,
        };
        self.read(key, got, at)
    }

    fn read<T: CachedObject>(
        &self,
        key: &str,
        got: Result<Option<Bytes>, Away>,
        at: Moment,
    ) -> Found<T> {
        let (outcome, found) = match got {
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a cached value was not read"
                );
                ("error", Found::Nothing)
            }
            Ok(None) => ("miss", Found::Nothing),
            Ok(Some(sealed)) => match self.sealer.open(key, &sealed) {
                Err(envelope::Forged) => ("forged", Found::Nothing),
                Ok(contents) if !counts::<T>(&contents, at) => ("outdated", Found::Nothing),
                Ok(Contents { value: None, .. }) => ("absent", Found::Absent),
                Ok(Contents { value: Some(bytes), .. }) => match serde_json::from_slice(bytes) {
                    Ok(value) => ("hit", Found::Value(value)),
                    Err(_) => ("error", Found::Nothing),
                },
            },
        };
        self.count(T::NAME, outcome);
        found
    }

    async fn store<T: CachedObject>(&self, key: &str, value: Option<&T>, at: Moment) {
        let Some(sealed) = self.seal(key, value, at) else { return };
        let lives = lives::<T>(value.is_some());
        let put = match &self.backend {
            Backend::Memory(memory) => {
                memory.put(key.to_owned(), sealed.into(), lives).await;
                Ok(())
            }
            Backend::Redis(redis) => redis.put(key, &sealed, lives).await,
        };
        self.note(T::NAME, put);
    }

    /// `None` if it cannot be stored, which is noted.
    fn seal<T: CachedObject>(&self, key: &str, value: Option<&T>, at: Moment) -> Option<Vec<u8>> {
        let json = match value.map(serde_json::to_vec).transpose() {
            Ok(json) => json,
            Err(error) => {
                tracing::warn!(%error, name = T::NAME, "a value cannot be cached");
                self.count(T::NAME, "error");
                return None;
            }
        };
        let lives = lives::<T>(value.is_some());
        let contents = Contents {
            ends: milliseconds(at.now).saturating_add(span(lives)),
            generation: at.generation,
            value: json.as_deref(),
        };
        let sealed = self.sealer.close(key, contents);
        if sealed.len() > MOST {
            self.count(T::NAME, "too_large");
            return None;
        }
        self.metrics.cache_value_bytes.with_label_values(&[T::NAME]).observe(sealed.len() as f64);
        Some(sealed)
    }

    fn note(&self, name: &str, done: Result<(), Away>) {
        if let Err(error) = done {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                name,
                "a cached value was not changed"
            );
            self.count(name, "error");
        }
    }

    fn count(&self, name: &str, outcome: &str) {
        self.metrics.cache_requests.with_label_values(&[name, self.kind(), outcome]).inc();
    }
}

/// Whether a genuine value is to be believed: it has not ended, and does not claim to live longer than any of its type;
/// and its writer knew of every change that is known here.
fn counts<T: CachedObject>(contents: &Contents<'_>, at: Moment) -> bool {
    let left = contents.ends.saturating_sub(milliseconds(at.now));
    left > 0 && left <= span(T::TTL + SKEW) && contents.generation >= at.generation
}

fn lives<T: CachedObject>(is_there: bool) -> Duration {
    if is_there { T::TTL } else { T::TTL.min(ABSENT) }
}

fn milliseconds(time: NaiveDateTime) -> i64 {
    time.and_utc().timestamp_millis()
}

impl Structural for NaiveDateTime {
    const STRUCT_HASH: u64 = Shape::new("NaiveDateTime").finish();
}

fn span(lives: Duration) -> i64 {
    i64::try_from(lives.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
