//! How long a key that was revoked at one instance is still good at the others.

use std::time::Duration;

use super::{Cluster, WITH_REDIS, WITHOUT, number};

/// Revokes a key, `trials` times, at one instance after the other. Prints how long the others took.
async fn revoked(cluster: &Cluster, trials: usize, bound: Duration, how: &str) {
    let mut delays = Vec::new();
    for trial in 0..trials {
        let key = cluster.key().await;
        assert_eq!(cluster.statuses(&key.text).await, [200; 3], "{trial}");
        delays.extend(cluster.revoke(&key, trial % 3, bound).await);
    }
    delays.sort_unstable();
    let (median, slowest) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!(
        "{trials} keys revoked {how}: the others refuse them after {} ms (median), {} ms (slowest)",
        median.as_millis(),
        slowest.as_millis()
    );
}

#[actix_web::test]
async fn revocation_reaches_every_instance() {
    let cluster = Cluster::start().await;

    revoked(&cluster, number("CLUSTER_REVOCATIONS", 5), WITH_REDIS, "with Redis").await;

    cluster.to_redis.cut();
    revoked(&cluster, 3, WITHOUT, "without Redis").await;
}
