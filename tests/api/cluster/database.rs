//! A database that is away, read-only, or without its audit log.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{Cluster, LONG, WITH_REDIS, assert_refused, recovered, statuses};
use crate::helpers::{Reply, eventually};

const CALLS: usize = 60;
const WELL_AGAIN: Duration = Duration::from_secs(15);

/// Many calls with one key at all instances, every one of which is served.
async fn many_are_served(cluster: &Cluster, key: &str) {
    let instances = cluster.instances.iter().cycle().take(CALLS);
    let replies = join_all(instances.map(|instance| instance.call(key).send())).await;
    assert_eq!(statuses(&replies), [200; CALLS]);
}

/// Waits until every call that reached Bedrock has its row, and looks that it has one only.
async fn all_is_recorded(cluster: &Cluster) {
    let calls = cluster.simulator.ledger().calls();
    let expected = i64::try_from(calls.len()).unwrap();
    let written = eventually(LONG, || async { cluster.rows().await >= expected }).await;
    let recorded = cluster.recorded().await;
    let missing = calls.iter().filter(|call| !recorded.contains(&call.request_id)).count();
    assert!(written && missing == 0, "{missing} of {expected} calls have no row");
    assert_eq!(cluster.rows().await, expected);
}

/// Many are served while no row can be written.
async fn usage_waits(cluster: &Cluster, key: &str) {
    let before = cluster.rows().await;
    many_are_served(cluster, key).await;
    assert_eq!(cluster.rows().await, before, "rows wait in the journal");
}

/// What every instance answers to a program that asks for its usage.
async fn records(cluster: &Cluster, key: &str) -> Vec<Reply> {
    let asked = cluster
        .instances
        .iter()
        .map(|instance| instance.request("GET", "/api/usage/records").bearer(key).send());
    join_all(asked).await
}

#[actix_web::test]
async fn database_that_is_away_leaves_those_who_are_known_for_a_while() {
    let cluster = Cluster::start_with(&[("AUTH__IDENTITY_MAX_AGE_SECONDS", "10")]).await;
    let (browser, reply) = cluster.sign_in(0, 1).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    let (known, unknown) = (cluster.key().await.text, cluster.key().await.text);
    cluster.settle_access().await;
    many_are_served(&cluster, &known).await;
    all_is_recorded(&cluster).await;

    cluster.to_database.cut();
    usage_waits(&cluster, &known).await;
    for key in [unknown.as_str(), &format!("SSOK_{}", "b".repeat(32))] {
        for reply in cluster.calls(key).await {
            assert_eq!(
                (reply.status.as_u16(), reply.error_type()),
                (503, "ServiceUnavailableException")
            );
            assert!(reply.message().contains("database"), "{reply:?}");
            assert_eq!(reply.header("retry-after"), Some("5"));
        }
    }
    for page in cluster.pages(&browser).await {
        assert_eq!((page.status.as_u16(), page.header("retry-after")), (503, Some("5")));
    }
    assert_refused(&cluster.changes("disabled").await, "database_unavailable");
    assert_refused(&records(&cluster, &known).await, "database_unavailable");
    let too_old = eventually(LONG, || async {
        let given = cluster.statuses(&known).await;
        assert!(given.iter().all(|status| [200, 503].contains(status)), "{given:?}");
        given == [503; 3]
    });
    assert!(too_old.await, "who was known is so no longer than for that time");

    let healed = Instant::now();
    cluster.to_database.heal();
    let serve = eventually(LONG, || async { cluster.statuses(&known).await == [200; 3] });
    assert!(serve.await);
    all_is_recorded(&cluster).await;
    assert!(eventually(LONG, || cluster.is_well()).await);
    recovered("Database away", healed, WELL_AGAIN);
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);
    assert_eq!(statuses(&cluster.changes("disabled").await), [200; 3]);
    assert_eq!(cluster.statuses(&unknown).await, [200; 3]);
}

/// Lets nobody write from the next connection on, or everybody again.
async fn set_read_only(cluster: &Cluster, on: bool) {
    let name = cluster.database.url.rsplit_once('/').unwrap().1;
    cluster.ask(&format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}")).await;
}

#[actix_web::test]
async fn database_that_is_read_only_serves_all_who_change_nothing() {
    let cluster = Cluster::start().await;
    let (browser, reply) = cluster.sign_in(1, 2).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    let (known, unknown) = (cluster.key().await.text, cluster.key().await.text);
    cluster.settle_access().await;
    assert_eq!(cluster.statuses(&known).await, [200; 3]);
    all_is_recorded(&cluster).await;

    set_read_only(&cluster, true).await;
    let others = "datname = current_database() AND pid <> pg_backend_pid()";
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}");
    cluster.ask(&end).await;
    // The first who meets a connection that was ended is told that the database is away.
    let noticed = eventually(LONG, || async {
        let replies = cluster.changes("disabled").await;
        assert_eq!(statuses(&replies), [503; 3], "{replies:?}");
        replies.iter().all(|reply| reply.json()["error"]["code"] == "database_read_only")
            && statuses(&cluster.pages(&browser).await) == [200; 3]
    });
    assert!(noticed.await);
    usage_waits(&cluster, &known).await;
    assert_eq!(cluster.statuses(&unknown).await, [200; 3], "keys can be looked up");
    assert_eq!(statuses(&records(&cluster, &known).await), [200; 3]);
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);
    assert_refused(&cluster.changes("disabled").await, "database_read_only");
    let (_, reply) = cluster.sign_in(0, 1).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("5")));

    let healed = Instant::now();
    set_read_only(&cluster, false).await;
    let written = eventually(LONG, || async {
        let given = statuses(&cluster.changes("disabled").await);
        assert!(given.iter().all(|status| [200, 503].contains(status)), "{given:?}");
        given == [200; 3]
    });
    assert!(written.await, "it heals without a restart");
    all_is_recorded(&cluster).await;
    recovered("Database read-only", healed, WELL_AGAIN);
}

#[actix_web::test]
async fn without_the_audit_log_calls_are_served_and_nothing_is_changed() {
    let cluster = Cluster::start().await;
    let (browser, reply) = cluster.sign_in(2, 0).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    let key = cluster.key().await;
    cluster.settle_access().await;
    let state =
        format!("SELECT COUNT(*) FROM users WHERE id = {} AND state = 'active'", cluster.bystander);
    let people = cluster.count("SELECT COUNT(*) FROM users").await;
    let sessions = cluster.count("SELECT COUNT(*) FROM sessions").await;

    cluster.ask("ALTER TABLE audit_logs RENAME TO audit_away").await;
    many_are_served(&cluster, &key.text).await;
    all_is_recorded(&cluster).await;
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);
    assert_refused(&cluster.changes("disabled").await, "audit_unavailable");
    let revoked = cluster.instances.iter().map(|instance| {
        let request = instance.request("DELETE", &format!("/api/keys/{}", key.id));
        request.bearer(&cluster.person).send()
    });
    assert_refused(&join_all(revoked).await, "audit_unavailable");
    let (_, reply) = cluster.sign_in(0, 1).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("5")));
    assert_eq!(cluster.statuses(&key.text).await, [200; 3]);
    assert_eq!(cluster.count(&state).await, 1);
    assert_eq!(cluster.count("SELECT COUNT(*) FROM users").await, people);
    assert_eq!(cluster.count("SELECT COUNT(*) FROM sessions").await, sessions);

    let healed = Instant::now();
    cluster.ask("ALTER TABLE audit_away RENAME TO audit_logs").await;
    let written =
        eventually(LONG, || async { statuses(&cluster.changes("disabled").await) == [200; 3] });
    assert!(written.await, "it heals without a restart");
    recovered("Audit unwritable", healed, WELL_AGAIN);
    assert_eq!(cluster.count(&state).await, 0);
    cluster.revoke(&key, 0, WITH_REDIS).await;
}
