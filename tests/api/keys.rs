//! API keys over HTTP.

use serde_json::{Value, json};

use crate::helpers::{Browser, MODEL, TestServer, TestServerBuilder, message, on_both_databases};

const DEVELOPER: &str = "1002";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().set("RATE_LIMITS__KEY_CREATIONS_PER_HOUR", 0)
}

async fn make(browser: &Browser, body: &Value) -> Value {
    let reply = browser.api("POST", "/api/keys", Some(body)).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.json()
}

async fn status(app: &TestServer, key: &Value) -> u16 {
    let key = key["key"].as_str().unwrap();
    app.call(MODEL, "invoke", &message("hi")).bearer(key).send().await.status.as_u16()
}

on_both_databases!(a_key_is_made_shown_once_used_renamed_and_revoked, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;

    let made = make(&browser, &json!({"name": "  laptop ", "expires_in_days": 7})).await;
    let text = made["key"].as_str().unwrap();
    assert!(text.starts_with("SSOK_") && text.len() == 37);
    assert_eq!(made["name"], "laptop");
    assert_eq!(made["hint"], format!("…{}", &text[33..]));
    assert_eq!(status(&app, &made).await, 200);

    let list = browser.get("/api/keys").await;
    assert!(!String::from_utf8_lossy(&list.body).contains(text), "shown once");
    assert_eq!((list.json()["total"].clone(), list.json()["next_cursor"].clone()), (json!(1), Value::Null));
    let path = format!("/api/keys/{}", made["id"]);
    let renamed = browser.api("PATCH", &path, Some(&json!({"name": "desk"}))).await;
    assert_eq!((renamed.status.as_u16(), &renamed.json()["name"]), (200, &json!("desk")));
    assert_eq!(browser.api("DELETE", &path, None).await.status, 204);
    assert_eq!(status(&app, &made).await, 401, "at once");
    assert_eq!(browser.api("DELETE", &path, None).await.status, 204, "again");
    let listed = browser.get("/api/keys").await.json()["keys"][0].clone();
    assert_eq!((&listed["status"], &listed["name"]), (&json!("revoked"), &json!("desk")));
    for (event, count) in [("key_created", 1), ("key_renamed", 1), ("key_revoked", 1)] {
        assert_eq!(app.audited(event).await, count, "{event}");
    }
});

#[actix_web::test]
async fn a_key_asked_for_wrongly_is_not_made_and_the_field_is_named() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let long = "x".repeat(101);
    for (body, code, field) in [
        (json!({}), "invalid_parameter", None),
        (json!({"name": ""}), "invalid_parameter", Some("name")),
        (json!({"name": "   "}), "invalid_parameter", Some("name")),
        (json!({"name": long}), "invalid_parameter", Some("name")),
        (json!({"name": "a\u{0}b"}), "invalid_parameter", Some("name")),
        (json!({"name": "a\nb"}), "invalid_parameter", Some("name")),
        (json!({"name": "a\u{202e}b"}), "invalid_parameter", Some("name")),
        (json!({"name": format!("my SSOK_{}", "a".repeat(32))}), "invalid_parameter", Some("name")),
        (json!({"name": 7}), "invalid_parameter", Some("name")),
        (json!({"name": null}), "invalid_parameter", Some("name")),
        (json!({"name": "x", "expires_in_days": 0}), "invalid_parameter", Some("expires_in_days")),
        (json!({"name": "x", "expires_in_days": -1}), "invalid_parameter", Some("expires_in_days")),
        (
            json!({"name": "x", "expires_in_days": 366}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (
            json!({"name": "x", "expires_in_days": 4_294_967_295_u64}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (
            json!({"name": "x", "expires_in_days": i64::MAX}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (
            json!({"name": "x", "expires_in_days": u64::MAX}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (
            json!({"name": "x", "expires_in_days": 1.5}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (
            json!({"name": "x", "expires_in_days": "7"}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (
            json!({"name": "x", "expires_in_days": null}),
            "invalid_parameter",
            Some("expires_in_days"),
        ),
        (json!({"name": "x", "role": "admin"}), "unknown_field", Some("role")),
        (json!({"name": "x", "user_id": 1}), "unknown_field", Some("user_id")),
        (json!({"name": "x", "state": "active", "owner": 1}), "unknown_field", Some("owner")),
        (json!([]), "invalid_json", None),
        (json!("x"), "invalid_json", None),
    ] {
        let reply = browser.api("POST", "/api/keys", Some(&body)).await;

        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status.as_u16(), &error["code"]),
            (400, &json!(code)),
            "{body}: {reply:?}"
        );
        if let Some(field) = field {
            assert_eq!(error["field"], field, "{body}");
        }
    }
    let both = browser.api("POST", "/api/keys", Some(&json!({"name": "x", "a": 1, "b": 2}))).await;
    let details = both.json()["error"]["details"].as_array().unwrap().len();
    assert_eq!(details, 2, "every unknown field at once: {both:?}");
    assert_eq!(browser.get("/api/keys").await.json()["total"], 0);
}

#[actix_web::test]
async fn names_are_kept_as_they_are_and_escaped_where_they_are_shown() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for name in
        ["<script>alert(1)</script>", "=1+1", "'; DROP TABLE api_keys; --", "ключ 鍵 🔑", "%_\\"]
    {
        let made = make(&browser, &json!({"name": name})).await;

        assert_eq!(made["name"], name);
    }
    assert_eq!(browser.get("/api/keys").await.json()["total"], 5);
}

#[actix_web::test]
async fn a_key_without_an_end_is_made_where_that_is_allowed() {
    let app = builder()
        .set("API_KEYS__MAX_EXPIRY_DAYS", "")
        .set("API_KEYS__DEFAULT_EXPIRY_DAYS", 30)
        .start()
        .await;
    let browser = app.signed_in(DEVELOPER).await;

    let never = make(&browser, &json!({"name": "x", "expires_in_days": null})).await;
    let usual = make(&browser, &json!({"name": "y"})).await;

    assert_eq!(never["expires_at"], Value::Null);
    assert!(usual["expires_at"].is_string());
}

#[actix_web::test]
async fn a_key_is_rotated_without_a_body_as_with_an_empty_one() {
    let app = TestServerBuilder::new().sign_in().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let mut id =
        browser.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.json()["id"].clone();

    for body in [None, Some(json!({}))] {
        let reply = browser.api("POST", &format!("/api/keys/{id}/rotate"), body.as_ref()).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        assert_eq!(reply.json()["replaces"], id);
        id = reply.json()["id"].clone();
    }

    let nameless = browser.api("POST", "/api/keys", None).await;
    assert_eq!(nameless.status, 400);
    assert!(nameless.json()["error"].to_string().contains("name"), "{nameless:?}");
}

on_both_databases!(a_rotated_key_goes_on_for_its_overlap, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let old = make(&browser, &json!({"name": "ci"})).await;
    let path = format!("/api/keys/{}/rotate", old["id"]);

    let new = browser.api("POST", &path, Some(&json!({"overlap_seconds": 3600}))).await;
    assert_eq!(new.status, 201, "{new:?}");
    let new = new.json();
    assert_eq!((&new["replaces"], &new["name"]), (&old["id"], &json!("ci")));
    assert_eq!((status(&app, &old).await, status(&app, &new).await), (200, 200));
    let listed = browser.get("/api/keys").await.json();
    let ends = listed["keys"][1]["expires_at"].as_str().unwrap();
    assert!(ends < new["expires_at"].as_str().unwrap(), "the old one ends sooner");

    let path = format!("/api/keys/{}/rotate", new["id"]);
    let last = browser.api("POST", &path, Some(&json!({"overlap_seconds": 0}))).await.json();
    assert_eq!((status(&app, &new).await, status(&app, &last).await), (401, 200), "at once");
    let again = browser.api("POST", &path, Some(&json!({}))).await;
    assert_eq!(again.status, 404, "it has ended");
    for (overlap, status) in [(-1, 400), (604_801, 400), (604_800, 201)] {
        let path = format!("/api/keys/{}/rotate", last["id"]);
        let reply = browser.api("POST", &path, Some(&json!({"overlap_seconds": overlap}))).await;
        assert_eq!(reply.status.as_u16(), status, "{overlap}");
    }
});

on_both_databases!(of_fifty_keys_made_at_once_no_more_are_than_the_limit, backend => {
    let rounds = std::env::var("SOAK_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let app = builder().backend(backend).set("API_KEYS__MAX_KEYS_PER_USER", 10).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let csrf = browser.csrf().await;
    let send = |method, path: String, body: Value| {
        let request = browser.request(method, &path).header("x-csrf-token", &csrf);
        request.header("content-type", "application/json").json(&body).send()
    };
    for round in 0..rounds {
        let all = (0..50).map(|n| send("POST", "/api/keys".into(), json!({"name": format!("{n}")})));
        let replies = futures_util::future::join_all(all).await;

        let made: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
        assert_eq!(made.len(), 10, "round {round}");
        let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 201).collect();
        assert!(refused.iter().all(|reply| reply.json()["error"]["code"] == "key_limit_reached"));
        for key in made {
            let path = format!("/api/keys/{}", key.json()["id"]);
            assert_eq!(send("DELETE", path, json!({})).await.status, 204);
        }
    }
});

on_both_databases!(somebody_else_s_key_is_as_good_as_none, backend => {
    let app = builder().backend(backend).start().await;
    let (owner, other) = (app.signed_in(DEVELOPER).await, app.signed_in("1003").await);
    let key = make(&owner, &json!({"name": "x"})).await;
    let path = format!("/api/keys/{}", key["id"]);

    let theirs = [
        other.api("PATCH", &path, Some(&json!({"name": "y"}))).await,
        other.api("DELETE", &path, None).await,
        other.api("POST", &format!("{path}/rotate"), Some(&json!({}))).await,
    ];
    let nobodys = other.api("DELETE", "/api/keys/999999", None).await;

    for reply in theirs {
        assert_eq!(reply.status, 404);
        assert_eq!(reply.json()["error"]["message"], nobodys.json()["error"]["message"]);
    }
    assert_eq!(status(&app, &key).await, 200);
    assert_eq!(other.get("/api/keys").await.json()["total"], 0);
    for id in ["abc", "-", "99999999999999999999", "1.5", "%00"] {
        let reply = other.api("DELETE", &format!("/api/keys/{id}"), None).await;
        assert_eq!(reply.status, 400, "{id}");
    }
});

#[actix_web::test]
async fn a_key_makes_no_keys_and_lists_none_whoever_owns_it() {
    let app = builder().start().await;
    let admin = app.signed_in("1001").await;
    let key = make(&admin, &json!({"name": "x"})).await;
    let bearer = key["key"].as_str().unwrap();
    for (method, path) in [
        ("POST", "/api/keys"),
        ("GET", "/api/keys"),
        ("GET", "/auth/sessions"),
        ("GET", "/api/admin/users"),
        ("GET", "/api/admin/audit-logs"),
    ] {
        let reply = app.get(path).method(method).bearer(bearer).send().await;

        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["code"]),
            (403, &json!("forbidden")),
            "{path}"
        );
    }
    assert_eq!(app.get("/auth/me").bearer(bearer).send().await.status, 200);
    assert_eq!(app.get("/api/usage/records").bearer(bearer).send().await.status, 200);
}

#[actix_web::test]
async fn keys_can_be_turned_off_over_http_too() {
    let app = builder().set("API_KEYS__ENABLED", false).start().await;
    let browser = app.signed_in(DEVELOPER).await;

    let reply = browser.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await;

    assert_eq!(reply.status, 403);
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("api_keys.enabled"));
}

#[actix_web::test]
async fn lists_are_read_page_by_page_within_their_bounds() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for number in 0..5 {
        make(&browser, &json!({"name": format!("{number}")})).await;
    }
    let mut names = Vec::new();
    let mut path = "/api/keys?limit=2".to_owned();
    loop {
        let page = browser.get(&path).await.json();
        names.extend(page["keys"].as_array().unwrap().iter().map(|key| key["name"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/keys?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(names, ["4", "3", "2", "1", "0"]);
    for query in [
        "limit=0",
        "limit=501",
        "limit=x",
        "offset=-1",
        "offset=10001",
        "cursor=!",
        "cursor=eA",
        "offset=0&cursor=MQ",
        "unknown=1",
        "limit=1&limit=2",
    ] {
        assert_eq!(browser.get(&format!("/api/keys?{query}")).await.status, 400, "{query}");
    }
}
