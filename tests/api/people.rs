//! People, for admins; and how soon somebody who lost access has none.

use std::time::Duration;

use bedrock_sso_proxy::actors::providers::Recheck;
use bedrock_sso_proxy::simulator::identity::{Fault, Person};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    helpers::{
        ADMIN as ADMIN_HERE, Browser, MODEL, PERSON, TestServer, TestServerBuilder, command,
        eventually, message, on_both_databases,
    },
    lifecycle::Process,
};

const ADMIN: &str = "1001";
const DEVELOPER: &str = "1002";
const STREAM: &str = "invoke-with-response-stream";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in()
}

async fn id_of(browser: &Browser) -> i64 {
    browser.get("/auth/me").await.json()["id"].as_i64().unwrap()
}

async fn disable(admin: &Browser, id: i64) -> crate::helpers::Reply {
    admin
        .api("PUT", &format!("/api/admin/users/{id}/state"), Some(&json!({"state": "disabled"})))
        .await
}

on_both_databases!(people_are_listed_sorted_and_found, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    for subject in [DEVELOPER, "1003", "1004"] {
        app.signed_in(subject).await;
    }
    app.create_key("local_user@example.com").await;

    let list = admin.get("/api/admin/users?sort=email&order=asc").await.json();
    assert_eq!((&list["total"], &list["total_is_capped"]), (&json!(5), &json!(false)));
    let emails: Vec<&str> = list["users"].as_array().unwrap().iter().filter_map(|u| u["email"].as_str()).collect();
    assert_eq!(emails, ["admin@example.com", "developer@example.com", "local_user@example.com", "unverified@example.com"]);
    let local = list["users"].as_array().unwrap().iter().find(|u| u["provider"] == "local").unwrap();
    assert_eq!((&local["active_keys"], &local["admin"]), (&json!(1), &json!(false)));
    let boss = list["users"].as_array().unwrap().iter().find(|u| u["admin"] == true).unwrap();
    assert_eq!((&boss["email"], &boss["provider_user_id"]), (&json!("admin@example.com"), &json!(ADMIN)));

    for (q, found) in [
        ("DEVELOPER", 1),
        ("example.com", 4),
        ("demo", 2),
        ("1004", 1),
        ("local_user", 1),
        // The wildcards of SQL are letters.
        ("local%user", 0),
        ("%", 0),
        ("_", 1),
        ("\\", 0),
        ("'", 0),
    ] {
        let query = crate::helpers::form(&[("q", q)]);
        let list = admin.get(&format!("/api/admin/users/search?{query}")).await.json();
        assert_eq!(list["total"], found, "{q}: {list}");
    }
    for query in ["users?sort=id", "users?order=up", "users?state=gone", "users?limit=0", "users/search", "users/search?q=", "users/search?q=%00", "users/x", "users/1?x=1"] {
        let status = admin.get(&format!("/api/admin/{query}")).await.status.as_u16();
        assert!(status == 400 || query == "users/1?x=1", "{query}: {status}");
    }
    assert_eq!(admin.get("/api/admin/users/999").await.status, 404);
    assert_eq!(admin.get("/api/admin/users?state=disabled").await.json()["total"], 0);
    let mut seen = Vec::new();
    let mut path = "/api/admin/users?limit=2".to_owned();
    loop {
        let page = admin.get(&path).await.json();
        seen.extend(page["users"].as_array().unwrap().iter().map(|user| user["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/admin/users?limit=2&cursor={cursor}");
    }
    assert_eq!(seen.len(), 5);
});

on_both_databases!(an_admin_sees_and_ends_what_somebody_has, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = id_of(&developer).await;
    let key = developer.api("POST", "/api/keys", Some(&json!({"name": "laptop"}))).await.json();

    let keys = admin.get(&format!("/api/admin/users/{id}/keys")).await.json();
    assert_eq!((&keys["total"], &keys["keys"][0]["name"]), (&json!(1), &json!("laptop")));
    let path = format!("/api/admin/users/{id}/keys/{}", key["id"]);
    let elsewhere = format!("/api/admin/users/{}/keys/{}", id_of(&admin).await, key["id"]);
    assert_eq!(admin.api("DELETE", &elsewhere, None).await.status, 404, "not that person's");
    assert_eq!(admin.api("DELETE", &path, None).await.status, 204);
    let call = app.call(MODEL, "invoke", &message("hi")).bearer(key["key"].as_str().unwrap());
    assert_eq!(call.send().await.status, 401);

    assert_eq!(admin.api("DELETE", &format!("/api/admin/users/{id}/sessions"), None).await.status, 204);
    assert_eq!(developer.get("/auth/me").await.status, 401);
    assert_eq!(app.audited("sessions_ended_by_admin").await, 1);
    let event = app.audit().await.into_iter().rfind(|entry| entry.event_type == "key_revoked").unwrap();
    assert_eq!((event.user_id, event.actor), (Some(id), format!("user:{}", id_of(&admin).await)));
});

on_both_databases!(disabling_somebody_ends_all_that_they_have, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = id_of(&developer).await;
    let key = developer.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.json();
    let tokens = developer.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await.json();
    let call = |bearer: &Value| {
        app.call(MODEL, "invoke", &message("hi")).bearer(bearer.as_str().unwrap()).send()
    };
    assert_eq!((call(&key["key"]).await.status, call(&tokens["access_token"]).await.status), (actix_web::http::StatusCode::OK, actix_web::http::StatusCode::OK));

    let reply = disable(&admin, id).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (200, &json!("disabled")));

    assert_eq!(call(&key["key"]).await.status, 401);
    assert_eq!(call(&tokens["access_token"]).await.status, 401);
    assert_eq!(developer.get("/auth/me").await.status, 401);
    let page = app.browser().sign_in(DEVELOPER).await;
    assert_eq!(page.status, 403, "nor do they come in again");
    assert_eq!(disable(&admin, id).await.status, 200, "again is no change");
    assert_eq!(app.audited("user_state_changed").await, 1);
    let noted = eventually(Duration::from_secs(5), || async { app.audited("key_refused").await == 1 });
    assert!(noted.await, "a key of somebody disabled is noted");

    let path = format!("/api/admin/users/{id}/state");
    assert_eq!(admin.api("PUT", &path, Some(&json!({"state": "active"}))).await.status, 200);
    assert_eq!(call(&key["key"]).await.status, 200, "keys were refused, not revoked");
    assert_eq!(call(&tokens["access_token"]).await.status, 401, "sessions have ended for good");
    for (body, code) in [
        (json!({"state": "expired"}), "invalid_parameter"),
        (json!({"state": "admin"}), "invalid_parameter"),
        (json!({}), "invalid_parameter"),
        (json!({"state": "active", "admin": true}), "unknown_field"),
    ] {
        let reply = admin.api("PUT", &path, Some(&body)).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (400, &json!(code)), "{body}");
    }
});

on_both_databases!(the_last_admin_cannot_be_disabled_even_by_two_at_once, backend => {
    let app = builder()
        .backend(backend)
        .set("ADMIN__EMAILS", "admin@example.com,developer@example.com")
        .start()
        .await;
    let (one, other) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let (one_id, other_id) = (id_of(&one).await, id_of(&other).await);

    let (first, second) = futures_util::join!(disable(&one, other_id), disable(&other, one_id));

    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    // The slower one has lost access meanwhile, or is told that there would be no admin left.
    assert_eq!(statuses[0], 200);
    assert!(matches!(statuses[1], 401 | 403 | 409), "{statuses:?}");
    let (left, id) = if first.status == 200 { (&one, one_id) } else { (&other, other_id) };
    let alone = disable(left, id).await;
    assert_eq!((alone.status.as_u16(), &alone.json()["error"]["code"]), (409, &json!("conflict")));
    assert_eq!(left.get("/api/admin/users").await.status, 200);
});

on_both_databases!(the_streams_of_somebody_who_lost_access_end, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = id_of(&developer).await;
    let key = developer.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.json();
    let tokens = developer.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await.json();
    let (key, access) = (key["key"].as_str().unwrap(), tokens["access_token"].as_str().unwrap());
    let other = app.create_key("other@example.com").await;
    let slow = "hi @sim:stream events=100 delay_ms=100";
    let open = |bearer: &str| app.call(MODEL, STREAM, &message(slow)).bearer(bearer).open();
    let anthropic = app.post("/anthropic/v1/messages").bearer(access).json(&json!({
        "model": "claude-sonnet-4-5", "max_tokens": 1000, "stream": true,
        "messages": [{"role": "user", "content": slow}],
    }));
    let (mut by_key, mut by_token, mut others) = (open(key).await, anthropic.open().await, open(&other).await);
    for stream in [&mut by_key, &mut by_token, &mut others] {
        stream.next().await.unwrap().unwrap();
    }

    let began = std::time::Instant::now();
    assert_eq!(disable(&admin, id).await.status, 200);
    let mut said = Vec::new();
    for stream in [&mut by_key, &mut by_token] {
        let mut bytes = Vec::new();
        while let Some(Ok(piece)) = stream.next().await {
            bytes.extend_from_slice(&piece);
        }
        said.push(String::from_utf8_lossy(&bytes).into_owned());
    }

    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(said[0].contains("accessDeniedException"), "{}", said[0]);
    assert!(said[1].contains("event: error") && said[1].contains("permission_error"), "{}", said[1]);
    assert!(others.next().await.unwrap().is_ok(), "nobody else's");
    drop(others);
    app.settle().await;
    let outcomes = app.rows(&other).await;
    assert_ne!(outcomes[0]["outcome"], "revoked");
    let path = format!("/api/admin/users/{id}/state");
    admin.api("PUT", &path, Some(&json!({"state": "active"}))).await;
    let rows = app.rows(key).await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["outcome"] == "revoked"), "{rows:?}");
});

#[actix_web::test]
async fn a_stream_goes_on_when_its_token_ends_by_itself_and_ends_with_its_key() {
    let app = builder().set("JWT__ACCESS_TOKEN_TTL", 1).start().await;
    let developer = app.signed_in(DEVELOPER).await;
    let tokens =
        developer.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await.json();
    let slow = message("hi @sim:stream events=40 delay_ms=100");
    let mut stream = app
        .call(MODEL, STREAM, &slow)
        .bearer(tokens["access_token"].as_str().unwrap())
        .open()
        .await;
    stream.next().await.unwrap().unwrap();

    // Somebody else's access is taken away, so that all streams are looked at, once the token is over.
    let other = app.create_key("other@example.com").await;
    let over = eventually(Duration::from_secs(5), || async {
        let call = app.get("/auth/me").bearer(tokens["access_token"].as_str().unwrap());
        call.send().await.status == 401
    });
    assert!(over.await);
    let mut ended = app.call(MODEL, STREAM, &slow).bearer(&other).open().await;
    ended.next().await.unwrap().unwrap();
    let key = app.command(&["key", "list", "other@example.com"]);
    let listed = String::from_utf8(key.stdout).unwrap();
    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(app.command(&["key", "revoke", &id]).status.success());
    app.revalidate().await;

    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = ended.next().await {
        bytes.extend_from_slice(&piece);
    }
    assert!(String::from_utf8_lossy(&bytes).contains("accessDeniedException"));
    let mut whole = true;
    while let Some(piece) = stream.next().await {
        whole &= piece.is_ok();
    }
    assert!(whole);
}

#[actix_web::test]
async fn whose_access_was_taken_away_by_whom_is_in_the_log_by_ids_alone() {
    let process = Process::start().await;
    let run = |arguments: &[&str]| {
        let output = command(&process.environment, arguments);
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let admin = run(&["user", "create", ADMIN_HERE]).0.trim().to_owned();
    let person = run(&["user", "create", PERSON]).0.trim().to_owned();
    let token = run(&["user", "token", ADMIN_HERE]).0.trim().to_owned();
    for name in ["a-first-key", "a-second-key"] {
        run(&["key", "create", PERSON, "--name", name]);
    }
    run(&["user", "token", PERSON]);
    let ask = async |method: &'static str, path: &str, body: Option<Value>| {
        let request = process.get(&format!("/api/admin/users/{person}{path}")).method(method);
        let request = request.bearer(&token).header("content-type", "application/json");
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.status.as_u16()
    };

    assert_eq!(ask("DELETE", "/keys/1", None).await, 204);
    assert_eq!(ask("DELETE", "/keys/99", None).await, 404);
    assert_eq!(ask("DELETE", "/sessions", None).await, 204);
    for state in ["disabled", "active"] {
        assert_eq!(ask("PUT", "/state", Some(json!({"state": state}))).await, 200);
    }
    let (said, logged_by_command) = run(&["key", "revoke", "2"]);

    let all_told = eventually(Duration::from_secs(5), || async {
        process.logged("access was taken away").len() == 3
    });
    assert!(all_told.await, "{:?}", process.logged("access was taken away"));
    let (id, by) = (person.parse::<i64>().unwrap(), format!("user:{admin}"));
    let mut lines = process.logged("access was taken away");
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.retain(|name, _| !["timestamp", "target", "span", "message"].contains(&name.as_str()));
    }
    assert_eq!(
        lines,
        [
            json!({"level": "INFO", "event": "key_revoked", "object": "api_key:1", "user_id": id, "by": by}),
            json!({"level": "INFO", "event": "sessions_ended_by_admin", "object": lines[1]["object"],
                   "user_id": id, "by": by, "sessions": 1}),
            json!({"level": "INFO", "event": "user_state_changed", "object": format!("user:{id}"),
                   "user_id": id, "by": by, "state": "disabled", "sessions": 0}),
        ]
    );
    assert!(lines[1]["object"].as_str().unwrap().starts_with("session:"));
    // A command answers on standard output, and logs on standard error.
    assert_eq!(said.trim(), "key 2 is revoked");
    let line: Value = serde_json::from_str(&logged_by_command).unwrap();
    assert_eq!(
        (&line["event"], &line["object"], &line["by"], &line["user_id"]),
        (&json!("key_revoked"), &json!("api_key:2"), &json!("operator"), &json!(id))
    );
    let everything = String::from_utf8(process.log()).unwrap() + &logged_by_command;
    for personal in [PERSON, ADMIN_HERE, "a-first-key", "a-second-key", &token] {
        assert!(!everything.contains(personal), "{personal}");
    }
}

async fn recheck(app: &TestServer) -> usize {
    app.sql("UPDATE users SET idp_check_due_at = '2020-01-01 00:00:00'").await;
    app.shared().actors.providers.address().send(Recheck).await.unwrap()
}

on_both_databases!(whom_the_provider_does_not_vouch_for_any_more_loses_access_until_they_sign_in, backend => {
    let app = builder().backend(backend).start().await;
    let (developer, other) = (app.signed_in(DEVELOPER).await, app.signed_in("1003").await);
    let key = developer.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.json();
    let tokens = developer.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await.json();
    assert_eq!(recheck(&app).await, 0, "both are vouched for");
    assert_eq!(recheck(&app).await, 0, "with the refresh token of the last time");

    // A provider in trouble says nothing about anybody.
    for fault in [Fault::RefreshTemporarilyFails, Fault::TokenError, Fault::TokenNotJson, Fault::Down] {
        app.identity().misbehave(Some(fault));
        assert_eq!(recheck(&app).await, 0, "{fault}");
    }
    let failing = || async { app.shared().actors.reachable.load()["sso"].is_err() };
    assert!(failing().await, "the health check tells");
    app.identity().misbehave(None);
    assert_eq!(recheck(&app).await, 0, "both are vouched for again");
    assert!(!failing().await);
    assert_eq!(developer.get("/auth/me").await.status, 200);

    app.identity().forget_person(DEVELOPER);
    assert_eq!(recheck(&app).await, 1);
    app.revalidate().await;
    assert_eq!(developer.get("/auth/me").await.status, 401);
    assert_eq!(other.get("/auth/me").await.status, 200);
    let call = |bearer: &Value| app.call(MODEL, "invoke", &message("hi")).bearer(bearer.as_str().unwrap()).send();
    assert_eq!(call(&key["key"]).await.status, 401);
    assert_eq!(call(&tokens["access_token"]).await.status, 401);
    assert_eq!(app.audited("user_state_changed").await, 1);

    app.identity().change_person(Person::new(DEVELOPER, "developer@example.com", "Demo Developer"));
    let again = app.signed_in(DEVELOPER).await;
    assert_eq!(again.get("/auth/me").await.json()["state"], "active");
    assert_eq!(call(&key["key"]).await.status, 200);
});

#[actix_web::test]
async fn what_is_kept_of_a_provider_s_token_is_sealed_and_shown_by_nobody() {
    use bedrock_sso_proxy::db::{Conn, schema::users};
    use diesel::QueryDsl;
    let app = builder().start().await;
    let admin = app.signed_in(ADMIN).await;
    let Conn::Sqlite(c) = &mut app.pool().await.reader().await.unwrap() else { panic!("SQLite") };
    let query = users::table.select(users::provider_refresh_token);
    let sealed: Option<Vec<u8>> =
        diesel_async::RunQueryDsl::first(query, c.as_mut()).await.unwrap();
    let sealed = sealed.unwrap();

    assert!(sealed.len() > 40, "nonce, text and tag");
    assert!(std::str::from_utf8(&sealed).is_err(), "it is no text");
    let shown = admin.get("/api/admin/users/1").await;
    assert!(!String::from_utf8_lossy(&shown.body).contains("token"));
}

on_both_databases!(who_is_an_admin_follows_the_settings, backend => {
    let mut app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    assert_eq!(admin.get("/api/admin/users").await.status, 200);
    assert_eq!(developer.get("/api/admin/users").await.status, 403);
    assert_eq!(developer.get("/api/admin/users").await.status, 403);
    assert_eq!(app.audited("admin_denied").await, 1, "once a minute");

    app.stopped().await;
    app.environment.push(("BEDROCK_ADMIN__EMAILS".into(), "Developer@Example.com".into()));
    app.settings = bedrock_sso_proxy::settings::Settings::from_layers(
        None,
        app.environment.clone().into_iter(),
        bedrock_sso_proxy::settings::Need::Service,
    )
    .unwrap();
    app.start_again();

    let path = |browser: &Browser| {
        let cookies = browser.cookies();
        app.get("/api/admin/users").header("cookie", cookies).send()
    };
    // Whose rights changed signs in again: the session has another id then.
    assert_eq!((path(&admin).await.status.as_u16(), path(&developer).await.status.as_u16()), (401, 401));
    assert_eq!((app.audited("admin_gained").await, app.audited("admin_lost").await), (2, 1));
    let verdict = app.command(&["audit", "verify"]);
    assert!(verdict.status.success(), "{verdict:?}");
});

on_both_databases!(without_the_database_pages_and_sign_in_say_so, backend => {
    let app = builder().backend(backend).start().await;
    let developer = app.signed_in(DEVELOPER).await;
    let at = developer.begin("sso", "/").await;
    let back = developer.consent(&at, &[("person", DEVELOPER)]).await;
    app.sql("ALTER TABLE sessions RENAME TO sessions_away").await;
    app.sql("UPDATE auth_epoch SET epoch = epoch + 1").await;
    app.revalidate().await;

    let page = developer.get("/").await;
    assert_eq!((page.status.as_u16(), page.header("retry-after")), (503, Some("5")), "{page:?}");
    assert!(String::from_utf8_lossy(&page.body).contains("<h1>"));
    let api = app.get("/auth/me").header("cookie", developer.cookies()).send().await;
    assert_eq!((api.status.as_u16(), &api.json()["error"]["code"]), (503, &json!("database_unavailable")));
    let callback = developer.get(&back).await;
    assert_eq!(callback.status, 503, "{callback:?}");

    app.sql("ALTER TABLE sessions_away RENAME TO sessions").await;
    assert_eq!(developer.get("/auth/me").await.status, 200, "it heals by itself");
});
