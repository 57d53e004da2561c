//! The audit log: whole, or it shows; and nothing happens that it cannot take.

use bedrock_sso_proxy::db::{self, audit};
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::helpers::{Browser, PERSON, TestServer, TestServerBuilder, on_both_databases};

const ADMIN: &str = "1001";

async fn with_history(backend: crate::helpers::Backend) -> (TestServer, Browser) {
    let app = TestServerBuilder::new().backend(backend).sign_in().start().await;
    let admin = app.signed_in(ADMIN).await;
    for name in ["one", "two", "three"] {
        let made = admin.api("POST", "/api/keys", Some(&json!({"name": name}))).await;
        assert_eq!(made.status, 201);
    }
    (app, admin)
}

async fn verdict(admin: &Browser) -> Value {
    admin.get("/api/admin/audit-logs/verify").await.json()
}

on_both_databases!(a_changed_a_removed_and_an_added_event_show, backend => {
    let (app, admin) = with_history(backend).await;
    let whole = verdict(&admin).await;
    assert_eq!((&whole["ok"], &whole["first_bad_id"]), (&json!(true), &Value::Null));
    let count = app.audit().await.len();
    assert_eq!(whole["checked"], count);
    let last = i64::try_from(count).unwrap();

    for (what, change, bad) in [
        ("a byte", "UPDATE audit_logs SET actor = 'user:8' WHERE id = 3", 3),
        ("a type", "UPDATE audit_logs SET event_type = 'sign_out' WHERE id = 4", 4),
        ("a time", "UPDATE audit_logs SET created_at = '2020-01-01 00:00:00' WHERE id = 2", 2),
        ("an outcome", "UPDATE audit_logs SET success = NOT success WHERE id = 5", 5),
        ("an address", "UPDATE audit_logs SET ip_address = '192.0.2.1' WHERE id = 5", 5),
        ("what it says", "UPDATE audit_logs SET metadata = '{}' WHERE id = 4", 4),
        ("a number", "UPDATE audit_logs SET id = 1000 WHERE id = 3", 3),
        ("one removed", "DELETE FROM audit_logs WHERE id = 4", 4),
        ("the first removed", "DELETE FROM audit_logs WHERE id = 1", 1),
        ("one added behind", "INSERT INTO audit_logs SELECT 900, created_at, event_type, user_id, actor, provider, ip_address, user_agent, object, success, error_code, metadata, request_id, hash FROM audit_logs WHERE id = 3", 900),
        ("two swapped", "UPDATE audit_logs SET id = 901 WHERE id = 3; UPDATE audit_logs SET id = 3 WHERE id = 4; UPDATE audit_logs SET id = 4 WHERE id = 901", 3),
        ("the end moved back", "UPDATE audit_chain SET last_id = 3", 4),
        ("the start moved on", "UPDATE audit_chain SET start_id = 2, start_hash = (SELECT hash FROM audit_logs WHERE id = 2); DELETE FROM audit_logs WHERE id <= 2", 2),
    ] {
        app.sql("CREATE TABLE kept_logs AS SELECT * FROM audit_logs").await;
        app.sql("CREATE TABLE kept_chain AS SELECT * FROM audit_chain").await;
        app.sql(change).await;

        let seen = verdict(&admin).await;
        let command = app.command(&["audit", "verify"]);

        assert_eq!((&seen["ok"], &seen["first_bad_id"]), (&json!(false), &json!(bad)), "{what}");
        assert!(!command.status.success(), "{what}");
        app.sql("DELETE FROM audit_logs; INSERT INTO audit_logs SELECT * FROM kept_logs; DROP TABLE kept_logs").await;
        app.sql("DELETE FROM audit_chain; INSERT INTO audit_chain SELECT * FROM kept_chain; DROP TABLE kept_chain").await;
        assert_eq!(verdict(&admin).await["ok"], true, "after {what}");
    }
    app.sql(&format!("DELETE FROM audit_logs WHERE id = {last}")).await;
    assert_eq!(verdict(&admin).await["first_bad_id"], last, "the last removed");
});

on_both_databases!(events_of_many_at_once_are_one_chain, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    app.create_key(PERSON).await;
    // A second instance on the same database.
    let pools = [app.pool().await, app.pool().await];
    let origin = audit::Origin::operator();

    let append = |number: usize| {
        let (pool, origin) = (pools[number % 2].clone(), &origin);
        async move {
            let event = audit::Event {
                object: format!("{number}"),
                ..audit::Event::new(db::now(), "test", origin)
            };
            audit::record(&mut pool.writer().await.unwrap(), event).await.unwrap();
        }
    };
    futures_util::future::join_all((0..100).map(append)).await;

    let verdict = audit::verify(&mut pools[0].reader().await.unwrap()).await.unwrap();
    assert_eq!(verdict.first_bad_id, None);
    assert_eq!(app.audited("test").await, 100);
    let ids: Vec<i64> = app.audit().await.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, (1..=verdict.checked as i64).collect::<Vec<_>>());
});

on_both_databases!(retention_removes_old_events_and_leaves_a_chain_that_holds, backend => {
    let (app, admin) = with_history(backend).await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();
    let now = db::now();

    assert_eq!(audit::retain(&mut conn, now - TimeDelta::days(365), now).await.unwrap(), 0);
    let before = app.audit().await;
    let removed = audit::retain(&mut conn, before[3].created_at, now).await.unwrap();
    assert!(removed > 0);
    // Later on, once more.
    drop(conn);
    admin.api("POST", "/api/keys", Some(&json!({"name": "four"}))).await;
    let mut conn = pool.writer().await.unwrap();
    let again = audit::retain(&mut conn, db::now() + TimeDelta::seconds(1), db::now()).await.unwrap();
    assert!(again > 0);
    drop(conn);

    let left = app.audit().await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].event_type, "audit_retention");
    let seen = verdict(&admin).await;
    assert_eq!((&seen["ok"], &seen["checked"]), (&json!(true), &json!(1)));
    app.sql("UPDATE audit_chain SET start_id = start_id - 1").await;
    assert_eq!(verdict(&admin).await["ok"], false);
});

on_both_databases!(what_cannot_be_written_down_does_not_happen, backend => {
    let (app, admin) = with_history(backend).await;
    let at = admin.begin("sso", "/").await;
    let back = admin.consent(&at, &[("person", "1002")]).await;
    app.sql("ALTER TABLE audit_logs RENAME TO audit_away").await;

    let made = admin.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await;
    let key = admin.api("DELETE", "/api/keys/1", None).await;
    let state = admin.api("PUT", "/api/admin/users/1/state", Some(&json!({"state": "disabled"}))).await;
    let signed_in = app.get(&back).header("cookie", admin.cookies());
    let signed_in = signed_in.header("accept", "application/json").send().await;

    for reply in [made, key, signed_in] {
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status.as_u16(), &error["code"]), (503, &json!("audit_unavailable")), "{reply:?}");
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    assert_eq!(state.status, 409, "the last admin, audit or not");
    app.sql("ALTER TABLE audit_away RENAME TO audit_logs").await;
    let keys = admin.get("/api/keys").await.json();
    assert_eq!(keys["total"], 3);
    assert!(keys["keys"].as_array().unwrap().iter().all(|key| key["status"] == "active"));
    assert_eq!(admin.get("/api/admin/users").await.json()["total"], 1);
    assert_eq!(verdict(&admin).await["ok"], true);
});

on_both_databases!(events_are_listed_by_what_is_asked_for, backend => {
    let (app, admin) = with_history(backend).await;
    app.browser().get("/auth/callback/sso?state=x&code=y").await;
    let me = admin.get("/auth/me").await.json()["id"].clone();
    let list = |query: &str| {
        let path = format!("/api/admin/audit-logs?{query}");
        let admin = &admin;
        async move { admin.get(&path).await.json() }
    };

    let keys = list("event_type=key_created").await;
    assert_eq!(keys["total"], 3);
    let event = &keys["logs"][0];
    assert_eq!((&event["user_id"], &event["metadata"]["name"], &event["success"]), (&me, &json!("three"), &json!(true)));
    assert_eq!((&event["actor"], &event["object"]), (&json!(format!("user:{me}")), &json!("api_key:3")));
    assert!(event["metadata"]["credential"].as_str().unwrap().starts_with("session:"));
    assert!(event["request_id"].is_string() && event["ip_address"].is_string());
    assert_eq!(event["hash"].as_str().unwrap().len(), 64);
    let failed = list("success=false").await;
    assert_eq!((&failed["total"], &failed["logs"][0]["error_code"]), (&json!(1), &json!("no_pending_sign_in")));
    assert_eq!(list(&format!("user_id={me}&event_type=sign_in")).await["total"], 1);
    assert_eq!(list("end_date=2020-01-01").await["total"], 0);
    assert_eq!(list("start_date=2020-01-01&event_type=sign_in").await["logs"][0]["provider"], "sso");
    let all = list("limit=500").await["logs"].as_array().unwrap().clone();
    let mut paged = Vec::new();
    let mut query = "limit=3".to_owned();
    loop {
        let page = list(&query).await;
        paged.extend(page["logs"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=3&cursor={cursor}");
    }
    assert_eq!(paged, all);
    for query in ["event_type=DROP", "success=maybe", "user_id=x", "start_date=1999-01-01", "start_date=2026-02-01&end_date=2026-01-01", "limit=501"] {
        assert_eq!(admin.get(&format!("/api/admin/audit-logs?{query}")).await.status, 400, "{query}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let reply = admin.api(method, "/api/admin/audit-logs", None).await;
        assert_eq!(reply.status, 405, "{method}: nothing changes the log");
    }
});

#[actix_web::test]
async fn a_key_that_ends_by_time_and_secrets_in_use_are_noted_once() {
    let mut app = TestServerBuilder::new().sign_in().start().await;
    app.create_key(PERSON).await;
    app.sql("UPDATE api_keys SET expires_at = '2026-01-01 00:00:00'").await;
    let mut conn = app.pool().await.writer().await.unwrap();
    for noted in [1, 0] {
        let count =
            db::api_keys::ApiKeyRecord::note_expired(&mut conn, db::now(), 10).await.unwrap();
        assert_eq!(count, noted);
    }
    drop(conn);
    assert_eq!(app.audited("key_expired").await, 1);
    assert_eq!(app.audited("secrets_in_use").await, 1);

    app.restart().await;
    assert_eq!(app.audited("secrets_in_use").await, 1, "the same");
    app.stopped().await;
    app.environment.push((
        "BEDROCK_SECRETS__API_KEY_PEPPER".into(),
        "a-pepper-of-its-own-with-more-than-32-bytes".into(),
    ));
    app.settings = bedrock_sso_proxy::settings::Settings::from_layers(
        None,
        app.environment.clone().into_iter(),
        bedrock_sso_proxy::settings::Need::Service,
    )
    .unwrap();
    app.start_again();

    assert_eq!(app.audited("secrets_in_use").await, 2, "another pepper");
}
