//! Tokens of programs: refreshed once each, ended with their session, and never two for one.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::helpers::{
    Browser, MODEL, Reply, TestServer, TestServerBuilder, eventually, message, on_both_databases,
};

const DEVELOPER: &str = "1002";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().set("RATE_LIMITS__REFRESHES_PER_MINUTE", 0)
}

/// Tokens for whoever is signed in with a browser.
async fn tokens(browser: &Browser) -> Value {
    let reply = browser.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn text<'a>(tokens: &'a Value, name: &str) -> &'a str {
    tokens[name].as_str().unwrap()
}

async fn refresh(app: &TestServer, token: &str) -> Reply {
    let body = json!({"refresh_token": token});
    app.post("/auth/refresh").header("content-type", "application/json").json(&body).send().await
}

async fn status(app: &TestServer, access: &str) -> u16 {
    app.call(MODEL, "invoke", &message("hi")).bearer(access).send().await.status.as_u16()
}

on_both_databases!(a_refresh_gives_new_tokens_and_the_old_one_ends_the_session, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let first = tokens(&browser).await;
    assert_eq!(first["token_type"], "Bearer");
    assert_eq!(first["expires_in"], 3600);
    assert_eq!(first["refresh_expires_in"], 604_800);
    assert_eq!(status(&app, text(&first, "access_token")).await, 200);

    let second = refresh(&app, text(&first, "refresh_token")).await;
    assert_eq!(second.status, 200, "{second:?}");
    let second = second.json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_eq!(status(&app, text(&second, "access_token")).await, 200);
    assert_eq!(status(&app, text(&first, "access_token")).await, 200, "until its own end");

    let reused = refresh(&app, text(&first, "refresh_token")).await;
    assert_eq!((reused.status.as_u16(), &reused.json()["error"]), (400, &json!("invalid_grant")));
    let third = refresh(&app, text(&second, "refresh_token")).await;
    assert_eq!(third.status, 400, "the family has ended");
    for access in [&first, &second] {
        assert_eq!(status(&app, text(access, "access_token")).await, 401);
    }
    assert_eq!(browser.get("/auth/me").await.status, 200, "the browser's session is another");
    assert_eq!(app.audited("refresh_reused").await, 1);
});

on_both_databases!(of_fifty_refreshes_of_one_token_at_once_one_succeeds, backend => {
    let rounds = std::env::var("SOAK_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for round in 0..rounds {
        let first = tokens(&browser).await;

        let all = (0..50).map(|_| refresh(&app, text(&first, "refresh_token")));
        let replies = futures_util::future::join_all(all).await;

        let won: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(won.len(), 1, "round {round}");
        let other = replies.iter().find(|reply| !matches!(reply.status.as_u16(), 200 | 400));
        assert!(other.is_none(), "{other:?}");
        // Forty-nine came a second time: nobody knows who is the thief, so nobody goes on.
        let next = refresh(&app, text(&won[0].json(), "refresh_token")).await;
        assert_eq!(next.status, 400);
    }
    assert_eq!(app.audited("refresh_reused").await, rounds);
});

on_both_databases!(a_lost_answer_may_be_asked_for_again_while_nobody_used_it, backend => {
    let app = builder().backend(backend).set("JWT__REFRESH_RETRY_SECONDS", 10).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let first = tokens(&browser).await;

    let lost = refresh(&app, text(&first, "refresh_token")).await.json();
    let again = refresh(&app, text(&first, "refresh_token")).await;
    assert_eq!(again.status, 200, "{again:?}");
    let again = again.json();
    assert_ne!(lost["refresh_token"], again["refresh_token"]);
    let next = refresh(&app, text(&again, "refresh_token")).await;
    assert_eq!(next.status, 200);
    let late = refresh(&app, text(&first, "refresh_token")).await;
    assert_eq!(late.status, 400, "the successor was used");
    assert_eq!(refresh(&app, text(&next.json(), "refresh_token")).await.status, 400);

    // The answer that was taken for lost is in somebody's hands after all.
    let first = tokens(&browser).await;
    let lost = refresh(&app, text(&first, "refresh_token")).await.json();
    let again = refresh(&app, text(&first, "refresh_token")).await.json();
    assert_eq!(refresh(&app, text(&lost, "refresh_token")).await.status, 400);
    assert_eq!(refresh(&app, text(&again, "refresh_token")).await.status, 400, "nobody goes on");
    assert_eq!(app.audited("refresh_reused").await, 2);
});

#[actix_web::test]
async fn a_refresh_token_used_before_a_restart_is_known_after_it() {
    let mut app = builder().start().await;
    let first = tokens(&app.signed_in(DEVELOPER).await).await;
    let second = refresh(&app, text(&first, "refresh_token")).await.json();

    app.restart().await;

    assert_eq!(refresh(&app, text(&first, "refresh_token")).await.status, 400);
    assert_eq!(refresh(&app, text(&second, "refresh_token")).await.status, 400, "the family ended");
}

on_both_databases!(a_family_ends_unused_or_of_age, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for (change, what) in [
        ("UPDATE refresh_tokens SET expires_at = '2020-01-01 00:00:00'", "unused for too long"),
        ("UPDATE sessions SET expires_at = '2020-01-01 00:00:00' WHERE kind = 'cli'", "too old"),
    ] {
        let first = tokens(&browser).await;
        app.sql(change).await;

        let reply = refresh(&app, text(&first, "refresh_token")).await;

        assert_eq!((reply.status.as_u16(), &reply.json()["error"]), (400, &json!("invalid_grant")), "{what}");
    }
    assert_eq!(app.audited("refresh_reused").await, 0);
});

on_both_databases!(a_disabled_person_refreshes_no_more, backend => {
    let app = builder().backend(backend).start().await;
    let (developer, admin) = (app.signed_in(DEVELOPER).await, app.signed_in("1001").await);
    let first = tokens(&developer).await;
    let id = developer.get("/auth/me").await.json()["id"].clone();

    let path = format!("/api/admin/users/{id}/state");
    let reply = admin.api("PUT", &path, Some(&json!({"state": "disabled"}))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (200, &json!("disabled")));

    assert_eq!(refresh(&app, text(&first, "refresh_token")).await.status, 400);
    assert_eq!(status(&app, text(&first, "access_token")).await, 401);
    assert_eq!(developer.get("/auth/me").await.status, 401);
    assert_eq!(developer.get("/").await.status, 303, "to the sign-in page");
});

#[actix_web::test]
async fn a_refresh_applies_the_rules_as_they_are_now() {
    let mut app = builder().start().await;
    let first = tokens(&app.signed_in(DEVELOPER).await).await;
    app.stopped().await;
    app.environment.push(("BEDROCK_AUTH__ALLOWED_EMAIL_DOMAINS".into(), "other.example".into()));
    app.settings = bedrock_sso_proxy::settings::Settings::from_layers(
        None,
        app.environment.clone().into_iter(),
        bedrock_sso_proxy::settings::Need::Service,
    )
    .unwrap();
    app.start_again();

    assert_eq!(refresh(&app, text(&first, "refresh_token")).await.status, 400);
    assert_eq!(app.audited("refresh_refused").await, 1);
}

#[actix_web::test]
async fn a_token_of_one_kind_is_none_of_another() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let first = tokens(&browser).await;
    let cookie = browser.cookie("bedrock_session").unwrap();
    let (access, refresh_token) = (text(&first, "access_token"), text(&first, "refresh_token"));

    for wrong in [refresh_token, cookie.as_str()] {
        assert_eq!(status(&app, wrong).await, 401, "as a bearer");
    }
    for wrong in [access, cookie.as_str(), "SSOR_", "", "x"] {
        assert_eq!(refresh(&app, wrong).await.status, 400, "as a refresh token");
    }
    for wrong in [access, refresh_token] {
        let reply = app.get("/auth/me").header("cookie", format!("bedrock_session={wrong}")).send();
        assert_eq!(reply.await.status, 401, "as a cookie");
    }
}

on_both_databases!(signing_out_ends_the_session_and_what_stands_on_it, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let (kept, ended) = (tokens(&browser).await, tokens(&browser).await);
    let old = browser.copy();

    // As curl says it of an empty body.
    let request = app.post("/auth/logout").bearer(text(&ended, "access_token"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let reply = request.send().await;
    assert_eq!(reply.status, 204);
    assert_eq!(status(&app, text(&ended, "access_token")).await, 401);
    assert_eq!(refresh(&app, text(&ended, "refresh_token")).await.status, 400);
    assert_eq!(status(&app, text(&kept, "access_token")).await, 200);

    let csrf = browser.csrf().await;
    let reply = browser.form("/auth/logout", &[("csrf_token", &csrf)]).await;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (303, Some("/login")));
    assert_eq!(browser.cookie("bedrock_session"), None);
    assert_eq!(old.get("/auth/me").await.status, 401, "the cookie is worth nothing");
    assert_eq!(app.audited("sign_out").await, 2);
});

on_both_databases!(sessions_are_listed_and_ended_by_their_owner_alone, backend => {
    let app = builder().backend(backend).start().await;
    let (browser, other) = (app.signed_in(DEVELOPER).await, app.signed_in("1001").await);
    let program = tokens(&browser).await;

    let list = browser.get("/auth/sessions").await.json();
    let sessions = list["sessions"].as_array().unwrap();
    let kinds: Vec<_> = sessions.iter().map(|s| (s["kind"].as_str().unwrap(), s["current"].as_bool().unwrap())).collect();
    assert_eq!(sessions.len(), 2);
    assert!(kinds.contains(&("browser", true)) && kinds.contains(&("cli", false)), "{kinds:?}");
    assert!(sessions.iter().all(|s| s["ip_address"].is_string() && s["last_seen_at"].is_string()));

    let id = sessions.iter().find(|s| s["kind"] == "cli").unwrap()["id"].as_str().unwrap();
    let path = format!("/auth/sessions/{id}");
    assert_eq!(other.api("DELETE", &path, None).await.status, 404, "somebody else's");
    assert_eq!(status(&app, text(&program, "access_token")).await, 200);
    assert_eq!(browser.api("DELETE", &path, None).await.status, 204);
    assert_eq!(status(&app, text(&program, "access_token")).await, 401);
    assert_eq!(browser.api("DELETE", &path, None).await.status, 204, "again");
    assert_eq!(browser.get("/auth/sessions").await.json()["total"], 1);
});

on_both_databases!(an_operator_ends_everybody_s_sessions_and_no_key, backend => {
    let app = builder().backend(backend).start().await;
    let (browser, other) = (app.signed_in(DEVELOPER).await, app.signed_in("1001").await);
    let (program, others) = (tokens(&browser).await, tokens(&other).await);
    let key = app.create_key("keyed@example.com").await;
    let slow = message("hi @sim:stream events=100 delay_ms=100");
    let stream = |bearer: &str| app.call(MODEL, "invoke-with-response-stream", &slow).bearer(bearer).open();
    let (mut of_session, mut of_key) = (stream(text(&program, "access_token")).await, stream(&key).await);
    for stream in [&mut of_session, &mut of_key] {
        stream.next().await.unwrap().unwrap();
    }

    let ended = app.command(&["session", "end", "--all"]);

    // Nobody tells the service: it looks every second.
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!((ended.status.code(), said.trim()), (Some(0), "4 sessions ended, of everybody"));
    let noticed = eventually(Duration::from_secs(5), || async {
        status(&app, text(&program, "access_token")).await == 401
    });
    assert!(noticed.await);
    for (browser, tokens) in [(&browser, &program), (&other, &others)] {
        assert_eq!(browser.get("/auth/me").await.status, 401);
        assert_eq!(refresh(&app, text(tokens, "refresh_token")).await.status, 400);
        assert_eq!(status(&app, text(tokens, "access_token")).await, 401);
    }
    let mut last_words = Vec::new();
    while let Some(Ok(piece)) = of_session.next().await {
        last_words.extend_from_slice(&piece);
    }
    assert!(String::from_utf8_lossy(&last_words).contains("accessDeniedException"));
    assert_eq!(status(&app, &key).await, 200, "keys go on");
    assert!(of_key.next().await.unwrap().is_ok(), "and so do their streams");
    assert_eq!(app.audited("refresh_reused").await, 0);
    let event = app.audit().await.into_iter().find(|entry| entry.event_type == "sessions_ended_by_operator");
    let event = event.unwrap();
    assert_eq!((event.actor.as_str(), event.object.as_str(), event.user_id), ("operator", "sessions", None));
    assert_eq!(event.metadata, r#"{"sessions_ended":4}"#);
    assert!(app.command(&["audit", "verify"]).status.success());
    assert_eq!(app.signed_in(DEVELOPER).await.get("/auth/me").await.status, 200, "who signs in again is in");
});

on_both_databases!(an_operator_ends_one_person_s_sessions, backend => {
    let app = builder().backend(backend).start().await;
    let (browser, other) = (app.signed_in(DEVELOPER).await, app.signed_in("1001").await);
    let (program, others) = (tokens(&browser).await, tokens(&other).await);
    let me = browser.get("/auth/me").await.json();
    let end = |who: &str| app.command(&["session", "end", "--user", who]);

    let ended = end(me["email"].as_str().unwrap());

    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(said.trim().ends_with(": 2 sessions ended"), "{said}");
    app.revalidate().await;
    assert_eq!(browser.get("/auth/me").await.status, 401);
    assert_eq!(status(&app, text(&program, "access_token")).await, 401);
    assert_eq!(refresh(&app, text(&program, "refresh_token")).await.status, 400);
    assert_eq!(other.get("/auth/me").await.status, 200);
    assert_eq!(refresh(&app, text(&others, "refresh_token")).await.status, 200);
    let again = end(&me["id"].to_string());
    assert!(String::from_utf8(again.stdout).unwrap().trim().ends_with(": 0 sessions ended"));
    assert!(!end("nobody@example.com").status.success());
    let events: Vec<_> = app.audit().await.into_iter().filter(|entry| entry.event_type == "sessions_ended_by_operator").collect();
    assert_eq!(events.len(), 1, "what changed nothing is no event");
    assert_eq!((events[0].user_id, &events[0].actor), (me["id"].as_i64(), &"operator".to_owned()));
    assert!(app.command(&["audit", "verify"]).status.success());
});

#[actix_web::test]
async fn whose_sessions_end_has_to_be_said_and_a_database_has_to_be_there() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;

    for wrong in
        [&["session", "end"][..], &["session", "end", "--all", "--user", "1"], &["session"]]
    {
        assert!(!app.command(wrong).status.success(), "{wrong:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none.db");
    let url = ("BEDROCK_DATABASE__URL".to_owned(), format!("sqlite://{}", nowhere.display()));
    let elsewhere = crate::helpers::command(&[url], &["session", "end", "--all"]);

    let why = String::from_utf8(elsewhere.stderr).unwrap();
    assert!(!elsewhere.status.success() && why.contains("there is no database"), "{why}");
    assert!(!nowhere.exists());
    app.revalidate().await;
    assert_eq!(browser.get("/auth/me").await.status, 200, "nothing has ended");
}

on_both_databases!(a_browser_s_session_ends_unused_or_of_age, backend => {
    let app = builder().backend(backend).start().await;
    for (change, what) in [
        ("UPDATE sessions SET last_seen_at = '2020-01-01 00:00:00'", "unused"),
        ("UPDATE sessions SET expires_at = '2020-01-01 00:00:00'", "of age"),
    ] {
        let browser = app.signed_in(DEVELOPER).await;
        // Not looked at yet, so not known yet.
        app.sql(change).await;

        assert_eq!(browser.get("/auth/me").await.status, 401, "{what}");
    }
});

#[actix_web::test]
async fn a_session_is_another_one_after_each_sign_in() {
    let app = builder().start().await;
    let browser = app.browser();
    // Somebody put a session there before.
    browser.set_cookie("bedrock_session", &"A".repeat(43));
    assert_eq!(browser.sign_in(DEVELOPER).await.status, 302);
    let first = browser.cookie("bedrock_session").unwrap();
    assert_ne!(first, "A".repeat(43));
    let old = browser.copy();

    assert_eq!(browser.sign_in(DEVELOPER).await.status, 302);

    assert_ne!(browser.cookie("bedrock_session").unwrap(), first);
    assert_eq!(old.get("/auth/me").await.status, 401, "the former session has ended");
    assert_eq!(browser.get("/auth/sessions").await.json()["total"], 1);
}

#[actix_web::test]
async fn an_access_token_holds_the_claims_it_should_and_no_other() {
    use base64::Engine;
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let access = tokens(&browser).await["access_token"].as_str().unwrap().to_owned();
    let claims = access.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Map<String, Value> = serde_json::from_slice(&claims).unwrap();

    let mut names: Vec<&str> = claims.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["aud", "exp", "iat", "iss", "jti", "sid", "sub"]);
    assert!(claims["sub"].is_string());
}

#[actix_web::test]
async fn wrong_requests_for_tokens_are_told_as_oauth_does() {
    let app = builder().start().await;
    let post = |path: &str, kind: &str, body: &str| {
        app.post(path).header("content-type", kind).body(body.to_owned()).send()
    };
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    for (path, kind, body, status, error) in [
        ("/auth/token", json, "{}", 400, "invalid_request"),
        ("/auth/token", json, "{\"grant_type\":\"password\"}", 400, "unsupported_grant_type"),
        ("/auth/token", form, "grant_type=password", 400, "unsupported_grant_type"),
        ("/auth/token", form, "grant_type=a&grant_type=b", 400, "invalid_request"),
        ("/auth/token", json, "{\"grant_type\":\"authorization_code\"}", 400, "invalid_request"),
        ("/auth/token", json, "{\"grant_type\":\"session\",\"extra\":1}", 400, "invalid_request"),
        ("/auth/token", json, "{", 400, "invalid_request"),
        ("/auth/token", json, "[]", 400, "invalid_request"),
        ("/auth/token", "text/plain", "grant_type=session", 415, "invalid_request"),
        ("/auth/refresh", json, "{}", 400, "invalid_request"),
        ("/auth/refresh", json, "{\"refresh_token\":7}", 400, "invalid_request"),
        (
            "/auth/refresh",
            json,
            "{\"refresh_token\":\"a\",\"refresh_token\":\"b\"}",
            400,
            "invalid_request",
        ),
        ("/auth/refresh", form, "refresh_token=x", 400, "invalid_grant"),
        (
            "/auth/refresh",
            form,
            "refresh_token=x&grant_type=password",
            400,
            "unsupported_grant_type",
        ),
    ] {
        let reply = post(path, kind, body).await;

        assert_eq!(reply.status.as_u16(), status, "{path} {body}: {reply:?}");
        assert_eq!(reply.json()["error"], error, "{path} {body}");
        assert!(reply.json()["error_description"].is_string(), "{path} {body}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let reply = post("/auth/token", json, &format!("{{\"grant_type\":{deep}}}")).await;
    assert_eq!(reply.status, 400);
    let large = format!("{{\"grant_type\":\"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(post("/auth/token", json, &large).await.status, 413);
}
