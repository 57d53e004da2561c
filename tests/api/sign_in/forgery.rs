//! Requests that other pages make a browser send: none of them changes anything.

use bedrock_sso_proxy::routes::ROUTES;
use serde_json::json;

use super::*;
use crate::helpers::{Request, field, form, on_both_databases};

/// A request that changes something, made ready with what it acts on.
struct Write {
    browser: Browser,
    method: &'static str,
    path: String,
    body: Body,
    /// The status when it is let through.
    done: u16,
}

enum Body {
    None,
    Json(serde_json::Value),
    Form(Vec<(&'static str, String)>),
}

/// Every write that a cookie authenticates.
const WRITES: &[&str] = &[
    "make a key",
    "rename a key",
    "revoke a key",
    "rotate a key",
    "end a session",
    "sign out by form",
    "sign out by script",
    "let a device in",
    "let the command line in",
    "take tokens",
    "disable somebody",
    "end somebody's sessions",
    "revoke somebody's key",
];

const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

async fn prepare(app: &TestServer, what: &str) -> Write {
    let browser = app.signed_in(ADMIN_SUBJECT).await;
    let write = |method, path: String, body, done| (method, path, body, done);
    let key = async || {
        let made = browser.api("POST", "/api/keys", Some(&json!({"name": "first"}))).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json()["id"].as_i64().unwrap()
    };
    let (method, path, body, done) = match what {
        "make a key" => {
            write("POST", "/api/keys".to_owned(), Body::Json(json!({"name": "x"})), 201)
        }
        "rename a key" => {
            let path = format!("/api/keys/{}", key().await);
            write("PATCH", path, Body::Json(json!({"name": "x"})), 200)
        }
        "revoke a key" => write("DELETE", format!("/api/keys/{}", key().await), Body::None, 204),
        "rotate a key" => {
            let path = format!("/api/keys/{}/rotate", key().await);
            write("POST", path, Body::Json(json!({})), 201)
        }
        "end a session" => {
            app.signed_in(ADMIN_SUBJECT).await;
            let listed = browser.get("/auth/sessions").await.json();
            let sessions = listed["sessions"].as_array().unwrap();
            let other = sessions.iter().find(|session| session["current"] == false).unwrap();
            let path = format!("/auth/sessions/{}", other["id"].as_str().unwrap());
            write("DELETE", path, Body::None, 204)
        }
        "sign out by form" => write("POST", "/auth/logout".to_owned(), Body::Form(vec![]), 303),
        "sign out by script" => write("POST", "/auth/logout".to_owned(), Body::None, 204),
        "let a device in" => {
            let told = app.post("/auth/device").send().await.json();
            let code = told["user_code"].as_str().unwrap().to_owned();
            let form = vec![("user_code", code), ("action", "allow".to_owned())];
            write("POST", "/device".to_owned(), Body::Form(form), 200)
        }
        "let the command line in" => {
            let form = vec![
                ("redirect_uri", "http://127.0.0.1:8123/callback".to_owned()),
                ("code_challenge", CHALLENGE.to_owned()),
                ("state", "a-state-of-16-or-more".to_owned()),
                ("action", "allow".to_owned()),
            ];
            write("POST", "/login/cli".to_owned(), Body::Form(form), 200)
        }
        "take tokens" => {
            let body = Body::Json(json!({"grant_type": "session"}));
            write("POST", "/auth/token".to_owned(), body, 200)
        }
        "disable somebody" | "end somebody's sessions" | "revoke somebody's key" => {
            let other = app.signed_in(DEVELOPER).await;
            let id = person(app, "sso", DEVELOPER).await.unwrap().id;
            let base = format!("/api/admin/users/{id}");
            match what {
                "disable somebody" => {
                    let body = Body::Json(json!({"state": "disabled"}));
                    write("PUT", format!("{base}/state"), body, 200)
                }
                "end somebody's sessions" => {
                    write("DELETE", format!("{base}/sessions"), Body::None, 204)
                }
                _ => {
                    let made = other.api("POST", "/api/keys", Some(&json!({"name": "y"}))).await;
                    let key = made.json()["id"].as_i64().unwrap();
                    write("DELETE", format!("{base}/keys/{key}"), Body::None, 204)
                }
            }
        }
        other => panic!("{other}"),
    };
    Write { browser, method, path, body, done }
}

/// What a request says of where it comes from.
#[derive(Debug)]
struct Told {
    csrf: Option<String>,
    site: Option<&'static str>,
    origin: Option<String>,
}

impl Write {
    fn request(&self, told: &Told) -> Request {
        let mut request = bare(&self.browser, self.method, &self.path);
        if let Some(site) = told.site {
            request = request.header("sec-fetch-site", site);
        }
        if let Some(origin) = &told.origin {
            request = request.header("origin", origin);
        }
        match &self.body {
            Body::Form(fields) => {
                let mut fields: Vec<(&str, &str)> =
                    fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                fields.extend(told.csrf.as_deref().map(|token| ("csrf_token", token)));
                request.header("content-type", FORM).body(form(&fields))
            }
            body => {
                if let Some(csrf) = &told.csrf {
                    request = request.header("x-csrf-token", csrf);
                }
                match body {
                    Body::Json(json) => request.header("content-type", JSON).json(json),
                    _ => request,
                }
            }
        }
    }
}

/// What other pages, and pages of another session, can say; all of it is to be refused.
fn forged(token: &str, other_token: &str, base: &str) -> Vec<Told> {
    let own = |csrf: Option<String>| Told { csrf, site: Some("same-origin"), origin: None };
    let site = |site| Told { csrf: Some(token.to_owned()), site: Some(site), origin: None };
    let origin = |origin: Option<String>| Told { csrf: Some(token.to_owned()), site: None, origin };
    let (scheme, host) = base.split_once("://").unwrap();
    let mut all = vec![
        own(None),
        own(Some(String::new())),
        own(Some("x".to_owned())),
        own(Some("0".repeat(64))),
        own(Some(other_token.to_owned())),
        own(Some(token[..62].to_owned())),
        own(Some(format!("{token}00"))),
        own(Some(token.chars().rev().collect())),
        own(Some(format!("{token} {other_token}"))),
        Told { origin: Some(base.to_owned()), ..own(None) },
        Told { site: None, origin: Some(base.to_owned()), csrf: None },
        Told { site: None, origin: None, csrf: None },
    ];
    all.extend(
        ["cross-site", "same-site", "garbage", "", "*", "SAME-ORIGIN", "same-origin, cross-site"]
            .map(site),
    );
    // What the browser says of the site goes over what it says of the origin.
    all.push(Told { origin: Some(base.to_owned()), ..site("cross-site") });
    all.extend(
        [
            None,
            Some("null".to_owned()),
            Some(String::new()),
            Some("https://evil.example".to_owned()),
            Some(format!("{base}.evil.example")),
            Some(format!("{base}/")),
            Some(format!("{base}@evil.example")),
            Some(format!("https://{host}")),
            Some(format!("{scheme}://evil.example/{host}")),
            Some("http://localhost".to_owned()),
            Some(base.replace("localhost", "127.0.0.1")),
            Some(format!("{base} {base}")),
        ]
        .map(origin),
    );
    all
}

on_both_databases!(a_write_that_does_not_come_from_our_page_is_refused_without_effect, backend => {
    let app = unlimited().backend(backend).start().await;
    let other_token = app.signed_in(ADMIN_SUBJECT).await.csrf().await;
    let mut wrong = Vec::new();
    for what in WRITES {
        let write = prepare(&app, what).await;
        let token = write.browser.csrf().await;
        let before = Stock::of(&app).await;
        for told in forged(&token, &other_token, &write.browser.base) {
            let reply = write.request(&told).send().await;

            if reply.status != 403 {
                wrong.push(format!("{what}, {told:?}: {reply:?}"));
            }
        }
        assert_eq!(Stock::of(&app).await, before, "{what}");
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
});

#[actix_web::test]
async fn a_write_of_our_own_page_is_carried_out() {
    let app = unlimited().start().await;
    for what in WRITES {
        for way in ["same-origin", "none", "an old browser", "in capitals"] {
            // Whoever was disabled by the last one is let in again.
            sql(&app, "UPDATE users SET state = 'active'").await;
            let write = prepare(&app, what).await;
            let base = write.browser.base.clone();
            let (site, origin) = match way {
                "an old browser" => (None, Some(base)),
                "in capitals" => (None, Some(base.to_uppercase())),
                "none" => (Some("none"), None),
                _ => (Some("same-origin"), None),
            };
            let told = Told { csrf: Some(write.browser.csrf().await), site, origin };
            let before = Stock::of(&app).await;

            let reply = write.request(&told).send().await;

            assert_eq!(reply.status.as_u16(), write.done, "{what}, {way}: {reply:?}");
            assert_ne!(Stock::of(&app).await, before, "{what}, {way}: it has an effect");
        }
    }
}

/// Routes that take JSON, forms, or both.
const BODIES: &[(&str, &str, &str)] = &[
    ("POST", "/api/keys", "json"),
    ("PATCH", "/api/keys/1", "json"),
    ("POST", "/api/keys/1/rotate", "json"),
    ("PUT", "/api/admin/users/1/state", "json"),
    ("POST", "/device", "form"),
    ("POST", "/login/cli", "form"),
    ("POST", "/auth/token", "both"),
    ("POST", "/auth/refresh", "both"),
    ("POST", "/auth/device", "both"),
];

const TYPES: &[&str] = &[
    "text/plain",
    "text/plain; charset=application/json",
    "text/json",
    "text/html",
    "application/xml",
    "application/jsonx",
    "application/json-patch+json",
    "application/vnd.api+json",
    "application/octet-stream",
    "multipart/form-data; boundary=x",
    "multipart/mixed; boundary=x",
    "json",
    "*/*",
];

#[actix_web::test]
async fn a_body_of_another_type_is_not_read() {
    let app = unlimited().start().await;
    let browser = app.signed_in(ADMIN_SUBJECT).await;
    let made = browser.api("POST", "/api/keys", Some(&json!({"name": "first"}))).await;
    assert_eq!(made.json()["id"], 1);
    let csrf = browser.csrf().await;
    let before = Stock::of(&app).await;
    for (method, path, takes) in BODIES {
        let mut types = TYPES.to_vec();
        match *takes {
            "json" => types.extend([FORM, "application/x-www-form-urlencoded; charset=utf-8", ""]),
            "form" => types.extend([JSON, "application/json; charset=utf-8", ""]),
            _ => types.push(""),
        }
        for kind in types {
            for body in
                [r#"{"name":"x","state":"disabled"}"#, "name=x&user_code=BCDF-GHJK&action=allow"]
            {
                let mut request = browser.request(method, path).header("x-csrf-token", &csrf);
                if !kind.is_empty() {
                    request = request.header("content-type", kind);
                }

                let reply = request.header("accept", JSON).body(body).send().await;

                assert_eq!(reply.status, 415, "{method} {path} {kind:?}: {reply:?}");
            }
        }
        for coding in ["gzip", "br", "deflate", "zstd", "x"] {
            let request = browser.request(method, path).header("x-csrf-token", &csrf);
            let kind = if *takes == "form" { FORM } else { JSON };
            let request = request.header("content-type", kind).header("content-encoding", coding);

            let reply = request.body("{}").send().await;

            assert_eq!(reply.status, 415, "{method} {path} {coding}: {reply:?}");
        }
    }
    assert_eq!(Stock::of(&app).await, before);
}

#[actix_web::test]
async fn no_header_and_no_field_makes_one_method_into_another() {
    let app = unlimited().start().await;
    let browser = app.signed_in(ADMIN_SUBJECT).await;
    let made = browser.api("POST", "/api/keys", Some(&json!({"name": "first"}))).await;
    assert_eq!(made.status, 201);
    app.signed_in(ADMIN_SUBJECT).await;
    let listed = browser.get("/auth/sessions").await.json();
    let session = listed["sessions"][1]["id"].as_str().unwrap().to_owned();
    let csrf = browser.csrf().await;
    let before = Stock::of(&app).await;
    let paths = [
        format!("/auth/sessions/{session}"),
        "/api/keys/1".to_owned(),
        "/api/keys".to_owned(),
        "/auth/logout".to_owned(),
        "/auth/sessions".to_owned(),
        "/api/admin/users/1/sessions".to_owned(),
        "/device".to_owned(),
    ];
    for path in &paths {
        for header in ["x-http-method-override", "x-http-method", "x-method-override", "_method"] {
            for wanted in ["DELETE", "POST", "delete"] {
                let request = browser.request("GET", path).header(header, wanted);
                let request = request.header("x-csrf-token", &csrf);

                let reply = request.send().await;

                assert!(
                    matches!(reply.status.as_u16(), 200 | 404 | 405),
                    "{path} {header}: {reply:?}"
                );
            }
        }
        for query in ["_method=DELETE", "method=DELETE", "_method=POST&name=x", "action=allow"] {
            let reply = browser.get(&format!("{path}?{query}&csrf_token={csrf}")).await;

            assert!(
                matches!(reply.status.as_u16(), 200 | 400 | 404 | 405),
                "{path}?{query}: {reply:?}"
            );
        }
        for (method, body) in [("POST", json!({"_method": "DELETE", "name": "x"}))] {
            if path == "/auth/logout" {
                continue; // it reads no body
            }
            let reply = browser.api(method, path, Some(&body)).await;

            assert!(matches!(reply.status.as_u16(), 400 | 404 | 405 | 415), "{path}: {reply:?}");
        }
    }
    assert_eq!(Stock::of(&app).await, before);
}

on_both_databases!(looking_changes_nothing, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(ADMIN_SUBJECT).await;
    let made = browser.api("POST", "/api/keys", Some(&json!({"name": "first"}))).await;
    assert_eq!(made.status, 201);
    let device = app.post("/auth/device").send().await.json();
    let user_code = device["user_code"].as_str().unwrap();
    let id = person(&app, "sso", ADMIN_SUBJECT).await.unwrap().id;
    let listed = browser.get("/auth/sessions").await.json();
    let session = listed["sessions"][0]["id"].as_str().unwrap();
    let (stock, audit) = (Stock::of(&app).await, count(&app, "audit_logs").await);
    let mut looked = 0;
    for (method, path, _) in ROUTES.iter().filter(|(method, ..)| matches!(*method, "GET" | "HEAD")) {
        let mut path = path
            .replace("/models/{id}", "/models/claude-sonnet-4-5")
            .replace("/sessions/{id}", &format!("/sessions/{session}"))
            .replace("{id}", &id.to_string())
            .replace("{provider}", "sso")
            .replace("{file}", "app.css");
        match path.as_str() {
            "/device" => path = format!("/device?user_code={user_code}&action=allow"),
            "/login/cli" => path = format!("/login/cli?redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fc&code_challenge={CHALLENGE}&code_challenge_method=S256&state=a-state-of-16-or-more"),
            "/api/admin/users/search" => path.push_str("?q=example"),
            _ => {}
        }
        // Only this one leaves a line, once a minute: nobody came back from a provider.
        let failed = i64::from(path.starts_with("/auth/callback/"));
        let before = count(&app, "audit_logs").await;
        for site in ["same-origin", "cross-site"] {
            for _ in 0..2 {
                let request = bare(&browser, method, &path).header("sec-fetch-site", site);

                let reply = request.header("accept", HTML).send().await;

                assert!(reply.status.as_u16() < 500, "{method} {path}: {reply:?}");
                looked += 1;
            }
        }
        assert_eq!(count(&app, "audit_logs").await, before + failed, "{method} {path}");
    }
    assert!(looked > 100, "{looked}");
    assert_eq!(Stock::of(&app).await, stock);
    assert_eq!(count(&app, "audit_logs").await, audit + 1);
    let page = browser.get(&format!("/device?user_code={user_code}")).await;
    assert_eq!(field(&page, "user_code"), user_code, "it still waits");
});

#[actix_web::test]
async fn no_page_may_be_framed_or_run_what_is_not_ours() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for path in
        ["/", "/login", "/device", "/auth/callback/sso", "/auth/authorize/nobody", "/nothing"]
    {
        let page = browser.get(path).await;

        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(page.header("cache-control"), Some("no-store"), "{path}");
        let html = text(&page);
        assert!(!html.contains(" style=") && !html.contains(" onclick="), "{path}");
    }
}
