//! Limits of rate, at the door.

use serde_json::json;

use crate::helpers::{MODEL, PERSON, Reply, TestServerBuilder, message, messages};

async fn limited(reply: Reply, what: &str) {
    assert_eq!(reply.status, 429, "{what}: {reply:?}");
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&after), "{what}: {after}");
}

#[actix_web::test]
async fn sign_in_callbacks_refreshes_and_devices_are_limited_by_address() {
    let app = TestServerBuilder::new()
        .sign_in()
        .set("RATE_LIMITS__SIGN_IN_STARTS_PER_MINUTE", 3)
        .set("RATE_LIMITS__CALLBACKS_PER_MINUTE", 2)
        .set("RATE_LIMITS__REFRESHES_PER_MINUTE", 2)
        .start()
        .await;
    let browser = app.browser();
    for _ in 0..3 {
        assert_eq!(browser.get("/auth/authorize/sso").await.status, 302);
    }
    limited(browser.get("/auth/authorize/sso").await, "a sign-in").await;
    limited(app.post("/auth/device").send().await, "a device").await;
    for _ in 0..2 {
        assert_eq!(browser.get("/auth/callback/sso?code=x&state=y").await.status, 400);
    }
    limited(browser.get("/auth/callback/sso?code=x&state=y").await, "a callback").await;
    let refresh = || {
        let body = json!({"refresh_token": "x"});
        app.post("/auth/refresh").header("content-type", "application/json").json(&body).send()
    };
    for _ in 0..2 {
        assert_eq!(refresh().await.status, 400);
    }
    let last = refresh().await;
    assert_eq!(last.json()["error"], "temporarily_unavailable");
    limited(last, "a refresh").await;
    assert_eq!(app.audited("rate_limited").await, 3, "once for each");
}

#[actix_web::test]
async fn failed_credentials_are_slowed_down_and_good_ones_at_the_same_address_are_not() {
    let app =
        TestServerBuilder::new().set("RATE_LIMITS__FAILED_CREDENTIALS_PER_MINUTE", 5).start().await;
    let key = app.create_key(PERSON).await;
    let bad = |number: usize| {
        let text = format!("SSOK_{number:032}");
        app.call(MODEL, "invoke", &message("hi")).bearer(&text).send()
    };
    for number in 0..5 {
        assert_eq!(bad(number).await.status, 401, "{number}");
    }
    let reply = bad(5).await;
    assert_eq!(reply.error_type(), "ThrottlingException");
    limited(reply, "a credential").await;

    let good = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    assert_eq!(good.status, 200, "not known yet, and let in");
    let none = app.get("/api/usage/records").send().await;
    assert_eq!(none.status, 401, "no credential is no failed one");
}

#[actix_web::test]
async fn whom_a_proxy_names_is_counted_and_only_if_the_proxy_is_trusted() {
    for (trusted, wanted) in [("127.0.0.1", 302), ("", 429)] {
        let app = TestServerBuilder::new()
            .sign_in()
            .set("RATE_LIMITS__SIGN_IN_STARTS_PER_MINUTE", 1)
            .set("SERVER__TRUSTED_PROXIES", trusted)
            .start()
            .await;
        let from = |address: &'static str| {
            let request = app.get("/auth/authorize/sso").header("x-forwarded-for", address);
            request.header("accept", "text/html").send()
        };
        assert_eq!(from("192.0.2.1").await.status, 302);
        assert_eq!(from("192.0.2.2").await.status.as_u16(), wanted, "trusted: {trusted}");
        assert_eq!(from("192.0.2.1").await.status, 429);
    }
}

#[actix_web::test]
async fn inference_is_limited_by_person_and_key_when_that_is_asked_for() {
    let app = TestServerBuilder::new()
        .set("RATE_LIMITS__INFERENCE_PER_MINUTE_PER_USER", 4)
        .set("RATE_LIMITS__INFERENCE_PER_MINUTE_PER_KEY", 3)
        .start()
        .await;
    let (one, two) = (app.create_key(PERSON).await, app.create_key(PERSON).await);
    let other = app.create_key("other@example.com").await;
    let bedrock = |key: &str| app.call(MODEL, "invoke", &message("hi")).bearer(key).send();
    for _ in 0..3 {
        assert_eq!(bedrock(&one).await.status, 200);
    }
    limited(bedrock(&one).await, "the key").await;
    assert_eq!(bedrock(&two).await.status, 200);
    let reply = app.post("/anthropic/v1/messages").bearer(&two).json(&messages("hi")).send().await;
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    limited(reply, "the person").await;
    assert_eq!(bedrock(&other).await.status, 200);
    assert_eq!(app.rows(&one).await.len(), 4, "what was refused has no row");
}

#[actix_web::test]
async fn keys_and_what_admins_change_are_limited_by_person() {
    let app = TestServerBuilder::new()
        .sign_in()
        .set("RATE_LIMITS__KEY_CREATIONS_PER_HOUR", 2)
        .set("RATE_LIMITS__ADMIN_WRITES_PER_MINUTE", 2)
        .start()
        .await;
    let (admin, developer) = (app.signed_in("1001").await, app.signed_in("1002").await);
    for _ in 0..2 {
        assert_eq!(
            developer.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.status,
            201
        );
    }
    limited(developer.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await, "a key").await;
    limited(developer.api("POST", "/api/keys/1/rotate", Some(&json!({}))).await, "a rotation")
        .await;
    assert_eq!(admin.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.status, 201);
    let active = json!({"state": "active"});
    let change = || admin.api("PUT", "/api/admin/users/2/state", Some(&active));
    for _ in 0..2 {
        assert_eq!(change().await.status, 200);
    }
    limited(change().await, "a change").await;
    assert_eq!(admin.get("/api/admin/users").await.status, 200, "looking is free");
}
