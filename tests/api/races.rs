//! What happens at the same time, and clients that leave in the middle.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::helpers::{Browser, MODEL, TestServer, TestServerBuilder, message, on_both_databases};

const ADMIN: &str = "1001";
const DEVELOPER: &str = "1002";
const STREAM: &str = "invoke-with-response-stream";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().unlimited()
}

/// Sends a request, and breaks the connection without reading.
async fn hang_up(app: &TestServer, request: &str) {
    let mut connection = tokio::net::TcpStream::connect(app.address()).await.unwrap();
    connection.set_zero_linger().unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
}

on_both_databases!(clients_that_hang_up_take_nobody_along, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let cookies = browser.cookies();
    let json = "content-type: application/json\r\ncontent-length: ";
    let body = json!({"grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                      "device_code": "A".repeat(43)}).to_string();
    let requests = [
        format!("GET / HTTP/1.1\r\nhost: localhost\r\ncookie: {cookies}\r\n\r\n"),
        format!("GET /auth/sessions HTTP/1.1\r\nhost: localhost\r\ncookie: {cookies}\r\n\r\n"),
        format!("GET /api/keys HTTP/1.1\r\nhost: localhost\r\ncookie: {cookies}\r\n\r\n"),
        format!("POST /auth/device HTTP/1.1\r\nhost: localhost\r\n{json}2\r\n\r\n{{}}"),
        format!("POST /auth/token HTTP/1.1\r\nhost: localhost\r\n{json}{}\r\n\r\n{body}", body.len()),
        "GET /api/usage/records HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer SSOK_0123456789abcdefghijABCDEFGHIJ01\r\n\r\n".to_owned(),
    ];
    for round in 0..40 {
        let all = requests.iter().map(|request| hang_up(&app, request));
        futures_util::future::join_all(all).await;
        if round % 10 == 0 {
            assert_eq!(browser.get("/auth/me").await.status, 200, "round {round}");
        }
    }

    assert_eq!(browser.get("/").await.status, 200);
    assert_eq!(app.get("/health/live").send().await.status, 200);
    assert!(!app.shared().actors.are_unstable(), "no actor has crashed");
    let made = browser.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await;
    assert_eq!(made.status, 201);
});

on_both_databases!(changes_of_all_kinds_at_once_do_not_wait_for_each_other_in_circles, backend => {
    let app = builder().backend(backend).set("API_KEYS__MAX_KEYS_PER_USER", 1000).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = developer.get("/auth/me").await.json()["id"].clone();
    let state = format!("/api/admin/users/{id}/state");
    let csrf = admin.csrf().await;
    let change = |to: &'static str| {
        let request = admin.request("PUT", &state).header("x-csrf-token", &csrf);
        request.header("content-type", "application/json").json(&json!({"state": to})).send()
    };
    let sign_in = || async {
        let browser = app.browser();
        let reply = browser.sign_in(DEVELOPER).await;
        if reply.status == 302 {
            let made = app.post("/api/keys").header("cookie", browser.cookies());
            let _any = made.send().await;
            let path = "/auth/token";
            let csrf = browser.get("/").await;
            drop(csrf);
            let _any = app.post(path).header("cookie", browser.cookies()).send().await;
        }
        reply.status.as_u16()
    };
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let (off, ins, on, own) = tokio::join!(
            change("disabled"),
            futures_util::future::join_all((0..4).map(|_| sign_in())),
            change("active"),
            admin.sign_in(ADMIN),
        );
        // The admin's own session is another one now.
        statuses.extend([off.status.as_u16(), on.status.as_u16(), own.status.as_u16()]);
        statuses.extend(ins);
    }

    assert!(statuses.iter().all(|status| *status < 500), "{statuses:?}");
    assert!(app.command(&["audit", "verify"]).status.success());
    // Whoever is disabled in the end has no session that counts.
    assert!(app.command(&["user", "list"]).status.success());
});

on_both_databases!(a_disabled_person_is_not_let_in_by_a_sign_in_that_was_under_way, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = developer.get("/auth/me").await.json()["id"].clone();
    for _ in 0..8 {
        let browser = app.browser();
        let at = browser.begin("sso", "/").await;
        let back = browser.consent(&at, &[("person", DEVELOPER)]).await;
        let path = format!("/api/admin/users/{id}/state");
        let (off, _) = (json!({"state": "disabled"}), ());
        let (changed, came) = tokio::join!(admin.api("PUT", &path, Some(&off)), browser.get(&back));
        assert_eq!(changed.status, 200, "{changed:?}");
        assert!(matches!(came.status.as_u16(), 302 | 403), "{came:?}");

        let now = admin.get(&format!("/api/admin/users/{id}")).await.json();

        assert_eq!(now["state"], "disabled");
        assert_eq!(browser.get("/auth/me").await.status, 401);
        admin.api("PUT", &path, Some(&json!({"state": "active"}))).await;
        assert_eq!(browser.get("/auth/me").await.status, 401, "nor afterwards");
    }
});

#[actix_web::test]
async fn a_call_whose_body_took_longer_than_its_caller_s_access_is_refused() {
    use tokio::io::AsyncReadExt;
    let app = builder().start().await;
    let key = app.create_key("slow@example.com").await;
    assert_eq!(app.get("/auth/me").bearer(&key).send().await.status, 200);
    let body = message("hi @sim:stream events=50 delay_ms=100").to_string();
    let (first, rest) = body.split_at(10);
    let mut connection = tokio::net::TcpStream::connect(app.address()).await.unwrap();
    let head = format!(
        "POST /bedrock/model/{MODEL}/{STREAM} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let started = std::time::Instant::now();
    assert!(app.command(&["key", "revoke", "1"]).status.success());
    app.revalidate().await;
    // The service measures how long the body takes: that is what this is about.
    tokio::time::sleep(Duration::from_millis(1100).saturating_sub(started.elapsed())).await;
    connection.write_all(rest.as_bytes()).await.unwrap();

    let mut answer = Vec::new();
    let _reset = connection.read_to_end(&mut answer).await;

    assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&answer));
}

on_both_databases!(what_was_allowed_and_not_fetched_ends_with_the_sessions, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = developer.get("/auth/me").await.json()["id"].clone();
    let device = app.post("/auth/device").send().await.json();
    let csrf = developer.csrf().await;
    let fields = [("csrf_token", csrf.as_str()), ("user_code", device["user_code"].as_str().unwrap()), ("action", "allow")];
    assert_eq!(developer.form("/device", &fields).await.status, 200);

    assert_eq!(admin.api("DELETE", &format!("/api/admin/users/{id}/sessions"), None).await.status, 204);

    let body = json!({"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": device["device_code"]});
    let reply = app.post("/auth/token").header("content-type", "application/json").json(&body).send().await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]), (400, &json!("expired_token")));
});

on_both_databases!(signing_in_as_somebody_else_ends_the_former_session, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(ADMIN).await;
    let former = browser.copy();

    assert_eq!(browser.sign_in(DEVELOPER).await.status, 302);

    assert_eq!(former.get("/auth/me").await.status, 401);
    assert_eq!(browser.get("/auth/me").await.json()["email"], "developer@example.com");
});

on_both_databases!(odd_parameters_are_the_client_s_fault_and_told_in_few_words, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(ADMIN).await;
    for (method, path, status) in [
        ("DELETE", "/auth/sessions/a%00b", 404),
        ("DELETE", "/auth/sessions/x", 404),
        ("GET", "/api/usage/records?model=%00", 400),
        ("GET", "/api/usage/records?region=a%00", 400),
        // 9223372036854775807 and -1, as cursors.
        ("GET", "/api/keys?cursor=OTIyMzM3MjAzNjg1NDc3NTgwNw", 400),
        ("GET", "/api/admin/users?cursor=LTE", 400),
        ("GET", "/api/admin/audit-logs?cursor=OTIyMzM3MjAzNjg1NDc3NTgwNw", 400),
        ("GET", "/api/admin/users/search?q=%E2%80%AE%00", 400),
        ("GET", "/login?next=%00", 200),
        ("GET", "/device?user_code=%00", 200),
    ] {
        let reply = browser.api(method, path, None).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {reply:?}");
    }
    let mut many = serde_json::Map::new();
    for number in 0..1000 {
        many.insert(format!("{}{number}", "x".repeat(500)), Value::Null);
    }
    let reply = browser.api("POST", "/api/keys", Some(&many.into())).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.len() < 4000, "{}", reply.body.len());
});

#[actix_web::test]
async fn a_credential_that_was_good_until_lately_is_no_guess() {
    let app = TestServerBuilder::new()
        .sign_in()
        .set("RATE_LIMITS__FAILED_CREDENTIALS_PER_MINUTE", 2)
        .start()
        .await;
    let (token, key) =
        (app.create_token("x@example.com").await, app.create_key("x@example.com").await);
    app.sql(
        "UPDATE api_keys SET revoked_at = created_at; UPDATE sessions SET ended_at = created_at",
    )
    .await;
    let gone: &Browser = &app.browser();
    gone.set_cookie("bedrock_session", &"A".repeat(43));
    for _ in 0..5 {
        assert_eq!(app.get("/auth/me").bearer(&token).send().await.status, 401);
        assert_eq!(app.get("/auth/me").bearer(&key).send().await.status, 401);
        assert_eq!(gone.get("/").await.status, 303, "to the sign-in page");
    }
    for status in [401, 401, 429] {
        let reply = app.get("/auth/me").bearer(&format!("SSOK_{}", "a".repeat(32))).send().await;
        assert_eq!(reply.status.as_u16(), status);
    }
}
