//! TypedCache in Redis, with a Redis that is flushed, poisoned, read-only, slow and gone: never a wrong value, every
//! failure counted, and well again without a restart.

use std::{convert::Infallible, time::Duration};

use bedrock_sso_proxy::{
    cache::{Away, CachedObject, MOST, Moment, TypedCache},
    telemetry::{Metrics, causes},
};
use chrono::{DateTime, TimeDelta};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::helpers::{eventually, redis::PrivateRedis};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CachedObject)]
#[cache(name = "person", ttl = 60)]
struct Person {
    id: i64,
    admin: bool,
}

const SOMEBODY: Person = Person { id: 7, admin: true };
const NOBODY: Option<Person> = None;
const MINUTE: Duration = Duration::from_secs(60);

/// One instance's view of the cache, with counters of its own.
struct Instance {
    cache: TypedCache,
    metrics: Metrics,
}

impl Instance {
    fn new(redis: &PrivateRedis) -> Self {
        Self::with_secrets(redis, &[[1; 32]])
    }

    fn with_secrets(redis: &PrivateRedis, secrets: &[[u8; 32]]) -> Self {
        let metrics = Metrics::new().unwrap();
        let cache = TypedCache::in_redis(&redis.url(), "test:", secrets, metrics.clone()).unwrap();
        Self { cache, metrics }
    }

    fn outcomes(&self, outcome: &str) -> u64 {
        self.metrics.cache_requests.with_label_values(&["person", "redis", outcome]).get()
    }
}

fn at(seconds: i64, generation: i64) -> Moment {
    let now = DateTime::UNIX_EPOCH.naive_utc() + TimeDelta::seconds(seconds);
    Moment { now, generation }
}

async fn load(person: Option<Person>) -> Result<Option<Person>, Infallible> {
    Ok(person)
}

#[actix_web::test]
async fn instances_share_values_and_a_late_write_does_not_count() {
    let redis = PrivateRedis::start().await;
    let (one, other) = (Instance::new(&redis), Instance::new(&redis));

    one.cache.put("a", &SOMEBODY, at(0, 5)).await;
    assert_eq!(other.cache.get("a", at(1, 5)).await, Some(SOMEBODY));
    assert_eq!(other.cache.get("a", at(1, 6)).await, NOBODY, "it was read before the change");
    assert_eq!(other.cache.get("a", at(60, 5)).await, NOBODY, "it has ended");

    assert_eq!(other.cache.get_or_load("b", at(1, 5), load(None)).await.unwrap(), NOBODY);
    assert_eq!(one.cache.get_or_load("b", at(2, 5), load(Some(SOMEBODY))).await.unwrap(), NOBODY);
    let later = one.cache.get_or_load("b", at(6, 5), load(Some(SOMEBODY))).await.unwrap();
    assert_eq!(later, Some(SOMEBODY));

    let ends: i64 = redis.command(&["PTTL", &redis.keys().await[0]]).await;
    assert!((50_000..=60_000).contains(&ends), "Redis forgets it by itself: {ends}");
}

#[actix_web::test]
async fn after_a_change_of_secrets_values_of_the_old_one_still_count() {
    let redis = PrivateRedis::start().await;
    let (old, new, stranger) = (
        Instance::new(&redis),
        Instance::with_secrets(&redis, &[[2; 32], [1; 32]]),
        Instance::with_secrets(&redis, &[[3; 32]]),
    );
    old.cache.put("a", &SOMEBODY, at(0, 0)).await;

    assert_eq!(new.cache.get("a", at(1, 0)).await, Some(SOMEBODY));
    assert_eq!(stranger.cache.get("a", at(1, 0)).await, NOBODY);
    assert_eq!(stranger.outcomes("forged"), 1);
}

#[actix_web::test]
async fn a_count_of_all_instances_loses_nothing_and_ends() {
    let redis = PrivateRedis::start().await;
    let instances: Vec<_> = (0..3).map(|_| Instance::new(&redis)).collect();
    let adds = (0..300).map(|n| instances[n % 3].cache.increment("calls", "user 7", MINUTE));
    let mut counts: Vec<u64> = join_all(adds).await.into_iter().map(Result::unwrap).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=300).collect::<Vec<u64>>());

    let keys = redis.keys().await;
    assert_eq!(keys.len(), 1);
    let _changed: bool = redis.command(&["PEXPIRE", &keys[0], "5000"]).await;
    assert_eq!(instances[0].cache.increment("calls", "user 7", MINUTE).await.unwrap(), 301);
    let ends: i64 = redis.command(&["PTTL", &keys[0]]).await;
    assert!((1..=5_000).contains(&ends), "adding does not prolong it: {ends}");
}

#[actix_web::test]
async fn a_flushed_redis_is_filled_again() {
    let redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    instance.cache.put("a", &SOMEBODY, at(0, 0)).await;
    let _done: String = redis.command(&["FLUSHALL"]).await;

    assert_eq!(instance.cache.get("a", at(1, 0)).await, NOBODY);
    let loaded = instance.cache.get_or_load("a", at(1, 0), load(Some(SOMEBODY))).await.unwrap();
    assert_eq!(loaded, Some(SOMEBODY));
    assert_eq!(instance.cache.get("a", at(2, 0)).await, Some(SOMEBODY));
    assert_eq!(instance.outcomes("error"), 0, "that is no failure");
}

#[actix_web::test]
async fn a_poisoned_redis_makes_nobody_anything() {
    let redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    let user = Person { id: 8, admin: false };
    instance.cache.put("user", &user, at(0, 3)).await;
    let of_user = redis.keys().await[0].clone();
    instance.cache.put("admin", &SOMEBODY, at(0, 3)).await;
    let of_admin = redis.keys().await.into_iter().find(|key| *key != of_user).unwrap();
    let genuine: Vec<u8> = redis.command(&["GET", &of_user]).await;
    let of_another: Vec<u8> = redis.command(&["GET", &of_admin]).await;
    let mut raised = genuine.clone();
    let at_admin = raised.windows(5).position(|window| window == b"false").unwrap();
    raised.splice(at_admin..at_admin + 5, *b"true ");
    let mut prolonged = genuine.clone();
    prolonged[2] ^= 1;
    let mut rejuvenated = genuine.clone();
    rejuvenated[17] ^= 4;

    let forgeries: &[(&str, &[u8])] = &[
        ("another's value", &of_another),
        ("raised", &raised),
        ("prolonged", &prolonged),
        ("of a later generation", &rejuvenated),
        ("cut", &genuine[..genuine.len() - 1]),
        ("only a seal", &genuine[genuine.len() - 32..]),
        ("plain JSON", br#"{"id":8,"admin":true}"#),
        ("a byte", b"\0"),
        ("zeros", &[0; 50]),
    ];
    for (what, forged) in forgeries {
        redis.write(&of_user, forged).await;
        assert_eq!(instance.cache.get("user", at(1, 3)).await, NOBODY, "{what}");
    }
    assert_eq!(instance.outcomes("forged"), forgeries.len() as u64);

    // What was once genuine, and is brought back when it is over.
    redis.write(&of_user, &genuine).await;
    assert_eq!(instance.cache.get("user", at(1, 3)).await, Some(user));
    assert_eq!(instance.cache.get("user", at(60, 3)).await, NOBODY);
    assert_eq!(instance.cache.get("user", at(1, 4)).await, NOBODY);
    assert_eq!(instance.outcomes("outdated"), 2);

    // Other kinds of things, and too much of one.
    redis.write(&of_user, &vec![7; MOST + 1]).await;
    assert_eq!(instance.cache.get("user", at(1, 3)).await, NOBODY);
    for command in [&["LPUSH", &of_user, "x"][..], &["HSET", &of_user, "admin", "true"]] {
        let _removed: i64 = redis.command(&["DEL", &of_user]).await;
        let _made: i64 = redis.command(command).await;
        for _ in 0..6 {
            assert_eq!(instance.cache.get("user", at(1, 3)).await, NOBODY, "{command:?}");
        }
        let loaded = instance.cache.get_or_load("user", at(1, 3), load(Some(SOMEBODY))).await;
        assert_eq!(loaded.unwrap(), Some(SOMEBODY));
    }
    instance.cache.put("user", &SOMEBODY, at(1, 3)).await;
    assert_eq!(
        instance.cache.get("user", at(2, 3)).await,
        Some(SOMEBODY),
        "it works all the while"
    );

    let count = redis.keys().await.len();
    instance.cache.increment("calls", "a", MINUTE).await.unwrap();
    let keys = redis.keys().await;
    assert_eq!(keys.len(), count + 1);
    let of_count = keys.iter().find(|key| key.contains("count-calls")).unwrap();
    for no_count in ["-5", "many", "9223372036854775807"] {
        redis.write(of_count, no_count.as_bytes()).await;
        assert!(instance.cache.increment("calls", "a", MINUTE).await.is_err(), "{no_count}");
    }
}

#[actix_web::test]
async fn a_read_only_redis_is_read() {
    let redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    instance.cache.put("a", &SOMEBODY, at(0, 0)).await;
    let _done: String = redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;

    for id in 0..10 {
        instance.cache.put(format!("{id}"), &SOMEBODY, at(0, 0)).await;
    }
    assert_eq!(instance.outcomes("error"), 10);
    assert_eq!(instance.cache.get("a", at(1, 0)).await, Some(SOMEBODY));
    assert!(instance.cache.increment("calls", "a", MINUTE).await.is_err());
    let said = causes(&instance.cache.ping().await.unwrap_err());
    assert!(said.contains("read only"), "{said}");

    let _done: String = redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(instance.cache.increment("calls", "a", MINUTE).await.unwrap(), 1);
}

#[actix_web::test]
async fn a_password_that_is_missing_is_named_however_often_it_was_tried() {
    let redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    let _done: String = redis.command(&["CONFIG", "SET", "requirepass", "x"]).await;

    for _ in 0..10 {
        let said = causes(&instance.cache.ping().await.unwrap_err());
        assert!(said.contains("Authentication required"), "{said}");
    }
}

/// What must hold while Redis does not answer: quick misses, values from the loader, and then no tries at all.
async fn copes(instance: &Instance) {
    let began = std::time::Instant::now();
    for number in 0..50 {
        let got = instance.cache.get::<Person>("a", at(1, 0)).await;
        assert_eq!(got, NOBODY);
        let id = format!("{number}");
        let loaded = instance.cache.get_or_load(&id, at(1, 0), load(Some(SOMEBODY))).await.unwrap();
        assert_eq!(loaded, Some(SOMEBODY));
    }
    assert!(instance.outcomes("error") >= 100, "{}", instance.outcomes("error"));
    let away = instance.cache.increment("calls", "a", MINUTE).await.unwrap_err();
    assert!(matches!(away, Away::Resting(_)), "{away:?}");
    // Five failures at their slowest, and not one more.
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

async fn heals(instance: &Instance) {
    let back =
        eventually(Duration::from_secs(10), || async { instance.cache.ping().await.is_ok() });
    assert!(back.await, "it is well again without a restart");
    instance.cache.put("a", &SOMEBODY, at(0, 0)).await;
    assert_eq!(instance.cache.get("a", at(1, 0)).await, Some(SOMEBODY));
}

#[actix_web::test]
async fn a_redis_that_is_gone_costs_a_moment_and_comes_back() {
    let mut redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    instance.cache.put("a", &SOMEBODY, at(0, 0)).await;

    redis.go();
    copes(&instance).await;
    redis.come_back().await;
    heals(&instance).await;
}

#[actix_web::test]
async fn a_redis_that_is_not_there_yet_is_found_later() {
    let mut redis = PrivateRedis::start().await;
    redis.go();
    let instance = Instance::new(&redis);
    copes(&instance).await;
    redis.come_back().await;
    heals(&instance).await;
}

#[actix_web::test]
async fn a_redis_that_does_not_answer_costs_a_moment_and_wakes_up() {
    let redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    instance.cache.put("a", &SOMEBODY, at(0, 0)).await;

    redis.fall_asleep();
    copes(&instance).await;
    redis.wake_up();
    heals(&instance).await;
}

#[actix_web::test]
async fn a_redis_whose_certificate_nobody_vouches_for_is_not_used() {
    bedrock_sso_proxy::tls::install_provider();
    let (_redis, url) = PrivateRedis::start_with_tls().await;
    let metrics = Metrics::new().unwrap();
    let cache = TypedCache::in_redis(&url, "test:", &[[1; 32]], metrics).unwrap();

    let said = causes(&cache.ping().await.unwrap_err());

    assert!(said.contains("certificate"), "{said}");
}

/// A worker that ends takes no connection along.
#[actix_web::test]
async fn connections_outlive_the_runtime_that_asked_first() {
    let redis = PrivateRedis::start().await;
    let instance = Instance::new(&redis);
    let cache = instance.cache.clone();
    let asked_elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            cache.put("a", &SOMEBODY, at(0, 0)).await;
            cache.put("b", &SOMEBODY, at(0, 0)).await;
        });
    });
    tokio::task::spawn_blocking(|| asked_elsewhere.join()).await.unwrap().unwrap();

    for id in ["a", "b", "a", "b"] {
        assert_eq!(instance.cache.get(id, at(1, 0)).await, Some(SOMEBODY), "{id}");
    }
    assert_eq!(instance.outcomes("error"), 0);
    let connected: String = redis.command(&["INFO", "stats"]).await;
    let made = connected.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    let made: u32 = made.unwrap().trim().parse().unwrap();
    assert!(made <= 5, "two for the cache, and those of this test: {made}");
}
