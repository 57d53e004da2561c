//! What holds on every backend, shown on memory; `tests/api/cache.rs` shows it on Redis, and what becomes of it when Redis
//! misbehaves.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use chrono::{DateTime, TimeDelta};
use futures_util::{FutureExt, future::join_all};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CachedObject)]
#[cache(name = "person", ttl = 60)]
struct Person {
    id: i64,
    admin: bool,
}

/// The same name and contents in another shape.
mod newer {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CachedObject)]
    #[cache(name = "person", ttl = 60)]
    pub struct Person {
        pub id: i64,
        #[serde(default)]
        pub admin: bool,
    }
}

const SOMEBODY: Person = Person { id: 7, admin: true };

fn cache() -> TypedCache {
    TypedCache::in_memory(1000, 1 << 20, &[[1; 32]], Metrics::new().unwrap())
}

/// So many milliseconds after the tests' beginning of time.
fn at(milliseconds: i64, generation: i64) -> Moment {
    let now = DateTime::UNIX_EPOCH.naive_utc() + TimeDelta::milliseconds(milliseconds);
    Moment { now, generation }
}

async fn nobody() -> Result<Option<Person>, Infallible> {
    Ok(None)
}

#[tokio::test]
async fn a_value_counts_until_its_end() {
    let cache = cache();
    cache.put("a", &SOMEBODY, at(1_000, 0)).await;

    assert_eq!(cache.get("a", at(1_000, 0)).await, Some(SOMEBODY));
    assert_eq!(cache.get("a", at(60_999, 0)).await, Some(SOMEBODY));
    assert_eq!(cache.get::<Person>("a", at(61_000, 0)).await, None);
    assert_eq!(cache.get::<Person>("b", at(1_000, 0)).await, None);
    // By a clock that is far behind the writer's it would live for ever.
    assert_eq!(cache.get::<Person>("a", at(-10_000, 0)).await, None);
}

#[tokio::test]
async fn what_was_read_before_a_change_does_not_count_after_it() {
    let cache = cache();
    let before = at(0, 5);
    // The change comes, and with it generation 6; the late writer still puts what it read.
    cache.put("a", &SOMEBODY, before).await;

    assert_eq!(cache.get::<Person>("a", at(1, 6)).await, None);
    assert_eq!(cache.get("a", at(1, 5)).await, Some(SOMEBODY), "who does not know of it yet");

    cache.put("a", &Person { admin: false, ..SOMEBODY }, at(2, 6)).await;
    let seen = cache.get("a", at(3, 5)).await;
    assert_eq!(seen, Some(Person { admin: false, ..SOMEBODY }), "newer than it has to be");
}

#[tokio::test]
async fn a_changed_type_never_reads_an_old_value() {
    let cache = cache();
    cache.put("a", &SOMEBODY, at(0, 0)).await;
    assert_eq!(cache.get::<newer::Person>("a", at(1, 0)).await, None);
}

#[tokio::test]
async fn one_of_all_who_ask_at_once_loads() {
    let (cache, loads, go) = (cache(), AtomicUsize::new(0), Notify::new());
    let load = || async {
        loads.fetch_add(1, SeqCst);
        go.notified().await;
        Ok::<_, Infallible>(Some(SOMEBODY))
    };
    let all = join_all((0..100).map(|_| cache.get_or_load("a", at(0, 0), load())));
    let (loaded, ()) = tokio::join!(all, async { go.notify_one() });

    assert!(loaded.iter().all(|loaded| *loaded.as_ref().unwrap() == Some(SOMEBODY)));
    assert_eq!(loads.load(SeqCst), 1);
    let kept = cache.get_or_load("a", at(1, 0), nobody()).await.unwrap();
    assert_eq!(kept, Some(SOMEBODY));
    let anew = cache.get_or_load("a", at(1, 1), nobody()).await.unwrap();
    assert_eq!(anew, None, "a later generation loads anew");
}

#[tokio::test]
async fn a_load_whose_caller_hangs_up_is_taken_over() {
    let cache = cache();
    let never = std::future::pending::<Result<Option<Person>, Infallible>>();
    let mut first = Box::pin(cache.get_or_load("a", at(0, 0), never));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second =
        Box::pin(cache.get_or_load("a", at(0, 0), async { Ok::<_, Infallible>(Some(SOMEBODY)) }));
    assert!(second.as_mut().now_or_never().is_none(), "it waits for the first");

    drop(first);

    assert_eq!(second.await.unwrap(), Some(SOMEBODY));
}

#[tokio::test]
async fn absence_is_kept_for_five_seconds() {
    let (cache, loads) = (cache(), AtomicUsize::new(0));
    let load = || async {
        loads.fetch_add(1, SeqCst);
        nobody().await
    };
    for (milliseconds, so_far) in [(0, 1), (4_999, 1), (5_000, 2)] {
        let loaded = cache.get_or_load("a", at(milliseconds, 0), load()).await.unwrap();
        assert_eq!((loaded, loads.load(SeqCst)), (None, so_far), "{milliseconds}");
    }
    assert_eq!(cache.get::<Person>("a", at(5_001, 0)).await, None);
}

#[tokio::test]
async fn a_load_that_fails_is_not_kept() {
    let cache = cache();
    let failed =
        cache.get_or_load::<Person, _>("a", at(0, 0), async { Err("away") }).await.unwrap_err();
    assert_eq!(*failed, "away");
    let load = async { Ok::<_, Infallible>(Some(SOMEBODY)) };
    assert_eq!(cache.get_or_load("a", at(0, 0), load).await.unwrap(), Some(SOMEBODY));
}

#[tokio::test]
async fn counts_are_kept_apart() {
    let cache = cache();
    let minute = Duration::from_secs(60);
    for (what, id, count) in [("a", "1", 1), ("a", "1", 2), ("a", "2", 1), ("b", "1", 1)] {
        assert_eq!(cache.increment(what, id, minute).await.unwrap(), count, "{what} {id}");
    }
}

#[tokio::test]
async fn every_look_is_counted_by_type_and_outcome() {
    let cache = cache();
    let outcome = |outcome| {
        cache.metrics.cache_requests.with_label_values(&["person", "memory", outcome]).get()
    };
    cache.get::<Person>("a", at(0, 0)).await;
    cache.put("a", &SOMEBODY, at(0, 0)).await;
    cache.get::<Person>("a", at(0, 0)).await;
    cache.get::<Person>("a", at(0, 1)).await;
    cache.tidy().await;

    assert_eq!((outcome("miss"), outcome("hit"), outcome("outdated")), (1, 1, 1));
    assert_eq!(cache.metrics.cache_entries.get(), 1);
    assert!(cache.metrics.cache_bytes.get() > 0);
    let sizes = cache.metrics.cache_value_bytes.with_label_values(&["person"]);
    assert_eq!(sizes.get_sample_count(), 1);
}

/// The keys of one type, its ids and a count are never the same, whatever the ids are.
#[test]
fn keys_are_whole_digests_under_the_type() {
    let keys = Keys::new("prefix:");
    let key = keys.of::<Person>(b"a");
    let hash = Person::STRUCT_HASH;
    let digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert_eq!(key, format!("prefix:v1:person:{hash:016x}:{digest}"));
    assert_eq!(keys.count("person", b"a"), format!("prefix:v1:count-person:{digest}"));
    assert_ne!(keys.of::<newer::Person>(b"a"), key);
}
