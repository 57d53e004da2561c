//! Redis that is away, slow, emptied, or full of lies.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{Cluster, LONG, WITH_REDIS, WITHOUT, recovered, statuses};
use crate::helpers::eventually;

/// What one instance by itself lets a person make in an hour, and all together with Redis.
const KEYS_PER_HOUR: usize = 4;
/// After a rest of the breaker one call finds out that Redis is back.
const WELL_AGAIN: Duration = Duration::from_secs(15);

/// How many keys a new person gets at each instance, asking them in turn until all have refused.
async fn keys_made(cluster: &Cluster, email: &str) -> Vec<usize> {
    let token = cluster.token(email).await;
    let mut made = vec![0; 3];
    for _ in 0..=KEYS_PER_HOUR {
        for (instance, made) in cluster.instances.iter().zip(&mut made) {
            let request = instance.request("POST", "/api/keys").bearer(&token);
            let request = request.header("content-type", "application/json");
            let reply = request.json(&json!({ "name": "x" })).send().await;
            assert!([201, 429].contains(&reply.status.as_u16()), "{reply:?}");
            *made += usize::from(reply.status == 201);
        }
    }
    made
}

/// Everybody is served by every instance, and who lost access is not, a little later.
async fn all_is_served(cluster: &Cluster, known: &str) {
    assert_eq!(cluster.statuses(known).await, [200; 3]);
    let fresh = cluster.key().await;
    assert_eq!(cluster.statuses(&fresh.text).await, [200; 3]);

    let (browser, reply) = cluster.sign_in(0, 1).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);

    for state in ["disabled", "active"] {
        assert_eq!(statuses(&cluster.changes(state).await), [200; 3], "{state}");
    }
    assert_eq!(cluster.statuses(&fresh.text).await, [200; 3]);
    let delays = cluster.revoke(&fresh, 2, WITHOUT).await;
    println!("without Redis a key is refused by the others after {delays:?}");
    assert_eq!(cluster.statuses(known).await, [200; 3]);
}

/// Without a restart all hear of each other again, and count together.
async fn heals(cluster: &Cluster, row: &str, person: &str) {
    let healed = Instant::now();
    cluster.to_redis.heal();
    assert!(eventually(LONG, || cluster.is_well()).await, "{row}");
    recovered(row, healed, WELL_AGAIN);

    let key = cluster.key().await;
    assert_eq!(cluster.statuses(&key.text).await, [200; 3]);
    cluster.revoke(&key, 1, WITH_REDIS).await;
    let made = keys_made(cluster, person).await;
    assert_eq!(made.iter().sum::<usize>(), KEYS_PER_HOUR, "{made:?}");
}

#[actix_web::test]
async fn redis_that_is_away_or_slow_costs_nobody_an_answer() {
    let limit = KEYS_PER_HOUR.to_string();
    let cluster = Cluster::start_with(&[("RATE_LIMITS__KEY_CREATIONS_PER_HOUR", &limit)]).await;
    let known = cluster.key().await.text;
    let made = keys_made(&cluster, "one@example.com").await;
    assert_eq!(made.iter().sum::<usize>(), KEYS_PER_HOUR, "{made:?}");

    cluster.to_redis.cut();
    all_is_served(&cluster, &known).await;
    assert_eq!(keys_made(&cluster, "two@example.com").await, [KEYS_PER_HOUR; 3]);
    heals(&cluster, "Redis away", "three@example.com").await;

    cluster.to_redis.slow(Duration::from_secs(2));
    all_is_served(&cluster, &known).await;
    assert_eq!(keys_made(&cluster, "four@example.com").await, [KEYS_PER_HOUR; 3]);
    heals(&cluster, "Redis slow", "five@example.com").await;
}

/// Names of what is kept of credentials.
async fn identities(cluster: &Cluster) -> Vec<String> {
    let all = cluster.redis.keys().await;
    all.into_iter().filter(|name| name.contains(":identity:")).collect()
}

/// How often Redis was asked for a value.
async fn reads(cluster: &Cluster) -> u64 {
    let told: String = cluster.redis.command(&["INFO", "commandstats"]).await;
    let line = told.lines().find_map(|line| line.strip_prefix("cmdstat_getrange:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Where Redis keeps what is known of a key that was used just now, and which no instance had seen before.
async fn name_of(cluster: &Cluster, key: &str) -> String {
    let before = identities(cluster).await;
    assert_eq!(cluster.statuses(key).await, [200; 3]);
    let mut new = identities(cluster).await;
    new.retain(|name| !before.contains(name));
    assert_eq!(new.len(), 1, "{new:?}");
    new.remove(0)
}

#[actix_web::test]
async fn redis_that_lost_everything_or_lies_lets_in_whom_the_database_does() {
    let cluster = Cluster::start().await;
    let (redis, good, bad) = (&cluster.redis, cluster.key().await, cluster.key().await);
    let good_name = name_of(&cluster, &good.text).await;
    let bad_name = name_of(&cluster, &bad.text).await;
    let once_true: Vec<u8> = redis.command(&["GET", &bad_name]).await;
    cluster.revoke(&bad, 0, WITH_REDIS).await;
    let as_the_database_says = async |what: &str| {
        assert_eq!(cluster.statuses(&bad.text).await, [401; 3], "{what}");
        assert_eq!(cluster.statuses(&good.text).await, [200; 3], "{what}");
    };

    let _flushed: String = redis.command(&["FLUSHALL"]).await;
    let healed = Instant::now();
    cluster.settle_access().await;
    as_the_database_says("lost").await;
    assert!(identities(&cluster).await.contains(&good_name), "it is filled anew");
    assert!(eventually(LONG, || cluster.is_well()).await);
    recovered("Redis lost", healed, WELL_AGAIN);

    for lie in ["true once", "true of another", "garbage", "no text"] {
        // Nobody remembers anything from here on, and one instance writes what is true now.
        cluster.settle_access().await;
        assert_eq!(cluster.instances[0].status(&good.text).await, 200);
        let of_good: Vec<u8> = redis.command(&["GET", &good_name]).await;
        match lie {
            "true once" => redis.write(&bad_name, &once_true).await,
            "true of another" => redis.write(&bad_name, &of_good).await,
            "garbage" => {
                redis.write(&bad_name, b"{\"user_id\":1,\"admin\":true}").await;
                redis.write(&good_name, b"{\"user_id\":1,\"admin\":true}").await;
            }
            _ => {
                for name in [&good_name, &bad_name] {
                    let _gone: i64 = redis.command(&["DEL", name]).await;
                    let _pushed: i64 = redis.command(&["LPUSH", name, "x"]).await;
                }
            }
        }
        let before = reads(&cluster).await;
        as_the_database_says(lie).await;
        let asked = reads(&cluster).await - before;
        assert!(asked >= 5, "{lie}: of five lookups Redis was asked {asked} times");
    }

    let healed = Instant::now();
    let names = redis.keys().await;
    join_all(names.iter().map(|name| redis.write(name, b"garbage"))).await;
    cluster.settle_access().await;
    as_the_database_says("garbage everywhere").await;
    assert!(eventually(LONG, || cluster.is_well()).await);
    let key = cluster.key().await;
    assert_eq!(cluster.statuses(&key.text).await, [200; 3]);
    cluster.revoke(&key, 2, WITH_REDIS).await;
    recovered("Redis wrong", healed, WELL_AGAIN);
}
