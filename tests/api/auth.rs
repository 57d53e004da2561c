//! Credentials at the door: what is accepted, how refusals look, and how soon access ends.

use std::time::Duration;

use bedrock_sso_proxy::{
    auth::keys::Keys,
    db::{self, api_keys::ApiKeyRecord},
    settings::{Need, Settings},
};

use crate::helpers::{
    MODEL, PERSON, SECRET, TestServer, TestServerBuilder, eventually, message, on_both_databases,
    request_to, spawn_app,
};

async fn status(app: &TestServer, credential: &str) -> u16 {
    app.call(MODEL, "invoke", &message("hi")).bearer(credential).send().await.status.as_u16()
}

#[actix_web::test]
async fn a_key_is_taken_from_either_header_in_any_case() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for (name, value) in [
        ("Authorization", format!("Bearer {key}")),
        ("authorization", format!("bEaReR {key}")),
        ("X-API-Key", key.clone()),
        ("x-api-key", key.clone()),
    ] {
        let reply = app.get("/api/usage/records").header(name, &value).send().await;

        assert_eq!(reply.status, 200, "{name}: {value}");
    }
    let both = app.get("/api/usage/records").bearer(&key).header("x-api-key", &key).send().await;
    assert_eq!(both.status, 200);
}

#[actix_web::test]
async fn two_credentials_that_disagree_are_a_400_that_says_what_to_unset() {
    let app = spawn_app().await;
    let (key, other) = (app.create_key(PERSON).await, app.create_key(PERSON).await);
    let body = message("hi");

    let differ =
        app.call(MODEL, "invoke", &body).bearer(&key).header("x-api-key", &other).send().await;
    let twice = app.call(MODEL, "invoke", &body).bearer(&key).bearer(&key).send().await;

    for reply in [differ, twice] {
        assert_eq!((reply.status.as_u16(), reply.error_type()), (400, "ValidationException"));
        let text = reply.message();
        for word in ["Authorization", "X-API-Key", "ANTHROPIC_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"]
        {
            assert!(text.contains(word), "{text}");
        }
    }
}

#[actix_web::test]
async fn every_refusal_looks_the_same() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let token = app.create_token(PERSON).await;
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[2] = parts[2].chars().rev().collect();
    let mut bodies = Vec::new();
    for credential in [
        "x".to_owned(),
        format!("SSOK_{}", "a".repeat(31)),
        format!("SSOK_{}", "a".repeat(32)),
        format!("SSOK_{}!", "a".repeat(31)),
        key.to_lowercase(),
        "a.b.c".to_owned(),
        parts.join("."),
        format!("{}.{}.", parts[0], parts[1]),
        "eyJhbGciOiJub25lIn0.e30.".to_owned(),
        "y".repeat(20_000),
    ] {
        let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&credential).send().await;

        assert_eq!(
            (reply.status.as_u16(), reply.error_type()),
            (401, "UnrecognizedClientException"),
            "{credential:.60}"
        );
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"bedrock-sso-proxy\""));
        bodies.push(reply.message());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    for other in ["Basic dXNlcjpwYXNz", "Bearer", "Token x", ""] {
        let reply =
            app.call(MODEL, "invoke", &message("hi")).header("authorization", other).send().await;

        assert_eq!(reply.status, 401, "{other}");
    }
}

#[actix_web::test]
async fn a_request_signed_with_aws_keys_is_told_about_the_bearer_variable() {
    let app = spawn_app().await;
    let signed = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=00";

    let reply =
        app.call(MODEL, "invoke", &message("hi")).header("authorization", signed).send().await;

    assert_eq!((reply.status.as_u16(), reply.error_type()), (403, "AccessDeniedException"));
    assert!(reply.message().contains("AWS_BEARER_TOKEN_BEDROCK"));
}

#[actix_web::test]
async fn a_key_in_a_query_a_cookie_or_the_body_is_no_credential() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let query = app.get(&format!("/api/usage/records?api_key={key}")).send().await;
    let cookie = app.get("/api/usage/records").header("cookie", format!("key={key}")).send().await;
    let body = app.post(&format!("/bedrock/model/{MODEL}/invoke")).body(key).send().await;

    assert_eq!(
        (query.status.as_u16(), cookie.status.as_u16(), body.status.as_u16()),
        (401, 401, 401)
    );
}

on_both_databases!(access_ends_when_the_application_next_looks, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    let (key, token) = (app.create_key(PERSON).await, app.create_token(PERSON).await);
    let other = app.create_key("other@example.com").await;
    assert_eq!((status(&app, &key).await, status(&app, &token).await), (200, 200));

    assert!(app.command(&["key", "revoke", "1"]).status.success());
    app.revalidate().await;
    assert_eq!((status(&app, &key).await, status(&app, &token).await), (401, 200));

    assert!(app.command(&["user", "state", PERSON, "disabled"]).status.success());
    app.revalidate().await;
    assert_eq!(status(&app, &token).await, 401);
    assert_eq!(status(&app, &other).await, 200);

    // Let in again, their sessions stay ended; their other keys count again.
    let kept = app.create_key("kept@example.com").await;
    assert!(app.command(&["user", "state", "kept@example.com", "disabled"]).status.success());
    app.revalidate().await;
    assert_eq!(status(&app, &kept).await, 401);
    for person in [PERSON, "kept@example.com"] {
        assert!(app.command(&["user", "state", person, "active"]).status.success());
    }
    app.revalidate().await;
    assert_eq!((status(&app, &key).await, status(&app, &token).await), (401, 401));
    assert_eq!(status(&app, &kept).await, 200);
});

#[actix_web::test]
async fn access_ends_by_itself_within_the_bound() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    assert_eq!(status(&app, &key).await, 200);

    assert!(app.command(&["key", "revoke", "1"]).status.success());
    let ended = eventually(Duration::from_secs(5), || async { status(&app, &key).await == 401 });

    assert!(ended.await, "5 s without Redis");
}

#[actix_web::test]
async fn a_key_past_its_end_is_refused_though_it_was_cached() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    assert_eq!(status(&app, &key).await, 200);
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();

    let db::Conn::Sqlite(connection) = &mut conn else { panic!("SQLite") };
    diesel_async::SimpleAsyncConnection::batch_execute(
        connection.as_mut(),
        "UPDATE api_keys SET expires_at = '2020-01-01 00:00:00'; UPDATE auth_epoch SET epoch = epoch + 1;",
    )
    .await
    .unwrap();
    app.revalidate().await;

    assert_eq!(status(&app, &key).await, 401);
}

#[actix_web::test]
async fn the_last_use_of_a_key_is_noted() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    assert_eq!(status(&app, &key).await, 200);
    let pool = app.pool().await;

    let noted = eventually(Duration::from_secs(5), || async {
        let mut conn = pool.reader().await.unwrap();
        ApiKeyRecord::list(&mut conn, None, 1).await.unwrap()[0].last_used_at.is_some()
    });

    assert!(noted.await);
}

#[actix_web::test]
async fn a_key_survives_a_new_pepper_and_moves_to_it_when_used() {
    let mut app = spawn_app().await;
    let (key, other) = (app.create_key(PERSON).await, app.create_key(PERSON).await);
    let pepper = |app: &TestServer, id: i64| {
        let pool = app.settings.database.clone();
        async move {
            let pool = db::Pool::open(&pool).unwrap();
            let keys =
                ApiKeyRecord::list(&mut pool.reader().await.unwrap(), None, 10).await.unwrap();
            keys.into_iter().find(|key| key.id == id).unwrap().pepper_id
        }
    };
    let before = pepper(&app, 1).await;

    app.stopped().await;
    app.environment.push((
        "BEDROCK_SECRETS__API_KEY_PEPPER".into(),
        "a-pepper-of-its-own-with-more-than-32-bytes".into(),
    ));
    app.settings =
        Settings::from_layers(None, app.environment.clone().into_iter(), Need::Service).unwrap();
    app.start_again();

    assert_eq!(status(&app, &key).await, 200);
    let moved = eventually(Duration::from_secs(5), || async { pepper(&app, 1).await != before });
    assert!(moved.await);
    assert_eq!(pepper(&app, 2).await, before, "an unused key stays as it is");
    assert_eq!(status(&app, &other).await, 200);
}

#[actix_web::test]
async fn a_token_of_a_previous_secret_holds_until_its_end_date() {
    let mut app = spawn_app().await;
    let token = app.create_token(PERSON).await;
    let id = {
        use base64::Engine;
        let header = token.split('.').next().unwrap();
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
        serde_json::from_slice::<serde_json::Value>(&header).unwrap()["kid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let named = format!("id: {id}, ");
    for (id, until, wanted) in [
        (named.as_str(), "2100-01-01T00:00:00Z", 200),
        ("", "2100-01-01T00:00:00Z", 200),
        ("", "2020-01-01T00:00:00Z", 401),
    ] {
        app.stopped().await;
        app.environment.retain(|(name, _)| !name.starts_with("BEDROCK_JWT__"));
        let previous = format!("[{{{id}secret: {SECRET}, until: '{until}'}}]");
        app.environment.push(("BEDROCK_JWT__PREVIOUS_SECRETS".into(), previous));
        app.environment.push((
            "BEDROCK_JWT__SECRET".into(),
            "another-secret-with-more-than-32-characters".into(),
        ));
        app.settings =
            Settings::from_layers(None, app.environment.clone().into_iter(), Need::Service)
                .unwrap();
        app.start_again();

        assert_eq!(status(&app, &token).await, wanted, "until {until}");
    }
}

#[actix_web::test]
async fn keys_can_be_turned_off() {
    let mut app = spawn_app().await;
    let (key, token) = (app.create_key(PERSON).await, app.create_token(PERSON).await);
    app.settings.api_keys.enabled = false;
    app.restart().await;

    assert_eq!((status(&app, &key).await, status(&app, &token).await), (401, 200));
    let refused = app.command(&["key", "create", PERSON, "--name", "x"]);
    assert!(refused.status.success(), "the environment still allows it");
}

#[actix_web::test]
async fn at_most_so_many_live_keys_a_person_even_when_made_at_once() {
    let app = TestServerBuilder::new().set("API_KEYS__MAX_KEYS_PER_USER", 5).start().await;
    app.create_token(PERSON).await;
    let keys = Keys::new(&app.settings).unwrap();
    let pool = app.pool().await;

    let made = futures_util::future::join_all((0..20).map(|_| async {
        let mut conn = pool.writer().await.unwrap();
        let made = bedrock_sso_proxy::cli::key::create(
            &mut conn,
            PERSON,
            "x",
            Some(1),
            &app.settings.api_keys,
            &keys,
        )
        .await;
        made.is_ok()
    }))
    .await;

    assert_eq!(made.iter().filter(|made| **made).count(), 5);
}

#[actix_web::test]
async fn a_hundred_calls_with_a_new_key_at_once_are_all_let_in() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let replies = (0..100).map(|_| app.get("/api/usage/records?limit=1").bearer(&key).send());
    let replies = futures_util::future::join_all(replies).await;

    assert!(replies.iter().all(|reply| reply.status == 200));
}

#[actix_web::test]
async fn a_host_that_is_not_ours_is_refused_on_the_api_and_nowhere_else() {
    let app = TestServerBuilder::new()
        .set("SERVER__PUBLIC_URL", "https://proxy.example.com")
        .set("SERVER__ALLOWED_HOSTS", "other.example.com:8443")
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let raw = |host: &str, path: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
        );
        raw_status(app.address(), request)
    };

    assert_eq!(raw("proxy.example.com", "/api/usage/records").await, 200);
    assert_eq!(raw("OTHER.example.com:8443", "/api/usage/records").await, 200);
    assert_eq!(raw("evil.example.com", "/api/usage/records").await, 400);
    assert_eq!(raw("evil.example.com", "/health/live").await, 200);
    assert_eq!(raw("a b", "/health/live").await, 400);
    let records = |host: &str| format!("http://{host}/api/usage/records");
    assert_eq!(raw("proxy.example.com", &records("proxy.example.com")).await, 200);
    assert_eq!(raw("proxy.example.com", &records("evil.example.com")).await, 400);
    let reply = app.get("/health/live").send().await;
    assert_eq!(
        reply.header("strict-transport-security"),
        Some("max-age=31536000; includeSubDomains")
    );
}

async fn raw_status(address: std::net::SocketAddr, request: String) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _reset = connection.read_to_string(&mut answer).await;
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("{answer:?}"))
}

#[actix_web::test]
async fn malformed_requests_are_refused_by_the_framing() {
    let app = spawn_app().await;
    for request in [
        "GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost : x\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n",
        "POST /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let closing = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        assert!(matches!(raw_status(app.address(), closing).await, 400 | 405), "{request:?}");
    }
    let long = format!(
        "GET /health?{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "a".repeat(9000)
    );
    assert_eq!(raw_status(app.address(), long).await, 431);
    let fat = format!(
        "GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\nconnection: close\r\n\r\n",
        "a".repeat(40_000)
    );
    assert_eq!(raw_status(app.address(), fat).await, 431);
    assert_eq!(request_to("GET", &app.url, "/health/live").send().await.status, 200);
}

#[actix_web::test]
async fn pages_of_listed_origins_alone_may_call_from_a_browser() {
    let app = TestServerBuilder::new()
        .set("SERVER__CORS_ORIGINS", "https://app.example.com")
        .start()
        .await;
    let ask = |origin: &'static str| {
        let request = app.get("/api/usage/records").method("OPTIONS").header("origin", origin);
        request.header("access-control-request-method", "GET").send()
    };

    let listed = ask("https://app.example.com").await;
    let other = ask("https://evil.example.com").await;

    assert_eq!(listed.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(listed.header("access-control-allow-credentials"), None);
    assert_eq!(other.header("access-control-allow-origin"), None);
}

#[actix_web::test]
async fn probes_that_speak_http_1_0_or_ask_for_the_head_alone_are_answered() {
    let app = spawn_app().await;
    let ready = eventually(Duration::from_secs(5), || async {
        app.get("/health/ready").send().await.status == 200
    });
    assert!(ready.await);

    assert_eq!(
        raw_status(app.address(), "GET /health/ready HTTP/1.0\r\n\r\n".to_owned()).await,
        200
    );
    let head = app.get("/health/ready").method("HEAD").send().await;
    let wrong = app.post("/health/ready").send().await;

    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, Some("GET, HEAD")));
}
