//! What people see when something goes wrong: a page that says what, what to do next, and the number of the request.

use bedrock_sso_proxy::routes::{Access, ROUTES};

use crate::{
    faults::behind_a_relay_with,
    helpers::{Browser, Reply, Request, TestServerBuilder, field},
};

const DEVELOPER: &str = "1002";

/// A page of this status that names its request, says this, and leads home.
fn is_page(reply: &Reply, status: u16, says: &[&str]) {
    let html = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, status, "{html}");
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let id = reply.header("x-request-id").expect("a request id");
    assert!(html.contains(&format!("<code>{id}</code>")), "{html}");
    assert!(html.contains("<a class=\"button\" href=\"/\">Home</a>"), "{html}");
    for text in says {
        assert!(html.contains(text), "{text}: {html}");
    }
}

/// The same in JSON, for a program.
async fn as_json(browser: &Browser, path: &str) -> Reply {
    let request = Request::new("GET", format!("{}{path}", browser.base));
    let request = request.header("cookie", browser.cookies()).header("accept", "application/json");
    let reply = request.send().await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply
}

/// The pages of whoever is signed in, as far as their address says all.
fn pages() -> impl Iterator<Item = &'static str> {
    let pages =
        ROUTES.iter().filter(|(method, _, access)| *method == "GET" && *access == Access::Page);
    pages.map(|(_, path, _)| *path).filter(|path| !path.contains('{') && *path != "/login/cli")
}

#[actix_web::test]
async fn a_bad_request_says_what_is_wrong_with_it() {
    let app = TestServerBuilder::new().sign_in().start().await;
    let browser = app.signed_in(DEVELOPER).await;

    let reply = browser.get("/keys?offset=x").await;

    is_page(&reply, 400, &["This did not work", "The query is wrong", "Go back"]);
    assert_eq!(
        as_json(&browser, "/keys?offset=x").await.json()["error"]["code"],
        "invalid_parameter"
    );
}

#[actix_web::test]
async fn what_is_forbidden_says_whom_to_ask() {
    let app = TestServerBuilder::new().sign_in().start().await;
    let browser = app.signed_in(DEVELOPER).await;

    let reply = browser.form("/device", &[("user_code", "x"), ("action", "allow")]).await;

    is_page(&reply, 403, &["You may not do this", "ask an admin"]);
}

#[actix_web::test]
async fn an_address_that_leads_nowhere_says_so_below_every_page() {
    let app = TestServerBuilder::new().sign_in().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for path in pages().filter(|path| *path != "/") {
        let reply = browser.get(&format!("{path}/nowhere/at/all")).await;

        is_page(&reply, 404, &["There is nothing here", "Look over the address"]);
    }
    is_page(&browser.get("/static/nothing.css").await, 404, &[]);
    // Somebody who is not signed in sees the same.
    is_page(&app.browser().get("/nowhere").await, 404, &[]);
    assert_eq!(as_json(&browser, "/nowhere").await.json()["error"]["code"], "not_found");
}

#[actix_web::test]
async fn who_does_too_much_is_told_when_to_go_on() {
    let app = TestServerBuilder::new()
        .sign_in()
        .set("RATE_LIMITS__KEY_CREATIONS_PER_HOUR", 1)
        .start()
        .await;
    let browser = app.signed_in(DEVELOPER).await;
    let mut last = None;
    for _ in 0..2 {
        let page = browser.get("/keys").await;
        let (csrf, form) = (field(&page, "csrf_token"), field(&page, "form"));
        let fields = [
            ("csrf_token", csrf.as_str()),
            ("form", &form),
            ("name", "x"),
            ("expires_in_days", "7"),
        ];
        last = Some(browser.form("/keys", &fields).await);
    }

    let reply = last.unwrap();

    let html = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, 429, "{html}");
    for part in ["Too many tries", "What you typed is kept here", "<button>Send again</button>"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert_eq!((field(&reply, "name"), field(&reply, "expires_in_days")), ("x".into(), "7".into()));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    let said = format!("Try again in {seconds} s");
    assert!(String::from_utf8_lossy(&reply.body).contains(&said), "{said}");
}

#[actix_web::test]
async fn a_failure_of_ours_says_nothing_of_its_cause() {
    let app = TestServerBuilder::new().sign_in().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let made = browser.api("POST", "/api/keys", Some(&serde_json::json!({"name": "x"}))).await;
    assert_eq!(made.status, 201);
    app.sql("UPDATE api_keys SET created_at = 'no moment'").await;

    let reply = browser.get("/keys").await;

    is_page(&reply, 500, &["This does not work at the moment", "load the page again"]);
    assert!(!String::from_utf8_lossy(&reply.body).contains("moment'"));
    assert!(!String::from_utf8_lossy(&reply.body).contains("created_at"));
}

#[actix_web::test]
async fn with_the_database_away_every_page_says_when_to_come_back() {
    let (app, relay, _database) = behind_a_relay_with(TestServerBuilder::new().sign_in()).await;
    let browser = app.signed_in(DEVELOPER).await;
    app.revalidate().await;
    assert_eq!(browser.get("/sessions").await.status, 200);

    relay.cut();

    for path in pages() {
        let reply = browser.get(path).await;

        is_page(
            &reply,
            503,
            &["This does not work at the moment", "The database is away", "load the page again"],
        );
        assert_eq!(reply.header("retry-after"), Some("5"), "{path}");
        let json = as_json(&browser, path).await;
        assert_eq!(json.json()["error"]["code"], "database_unavailable", "{path}");
        assert_eq!(json.header("retry-after"), Some("5"), "{path}");
    }
    relay.heal();
    assert!(is_back(&browser).await, "it heals by itself");
}

async fn is_back(browser: &Browser) -> bool {
    let answers = || async { browser.get("/sessions").await.status == 200 };
    crate::helpers::eventually(std::time::Duration::from_secs(20), answers).await
}

#[actix_web::test]
async fn a_form_that_meets_no_database_is_kept_and_makes_its_key_once_it_is_back() {
    let (app, relay, _database) = behind_a_relay_with(TestServerBuilder::new().sign_in()).await;
    let browser = app.signed_in(DEVELOPER).await;
    let page = browser.get("/keys").await;
    let (csrf, number) = (field(&page, "csrf_token"), field(&page, "form"));
    let name = "nightly <b>build</b>";
    let fields = [
        ("csrf_token", csrf.as_str()),
        ("form", &number),
        ("name", name),
        ("expires_in_days", "7"),
    ];

    relay.cut();
    let away = browser.form("/keys", &fields).await;

    let html = String::from_utf8_lossy(&away.body);
    assert_eq!(away.status, 503, "{html}");
    for part in ["The database is away", "What you typed is kept here", "nightly &#60;b&#62;build"]
    {
        assert!(html.contains(part), "{part}: {html}");
    }
    relay.heal();
    assert!(is_back(&browser).await);
    let kept = ["csrf_token", "form", "expires_in_days"].map(|name| (name, field(&away, name)));
    let mut again: Vec<_> = kept.iter().map(|(name, value)| (*name, value.as_str())).collect();
    again.push(("name", name));
    assert_eq!(browser.form("/keys", &again).await.status, 201);
    let keys = browser.api("GET", "/api/keys", None).await.json();
    assert_eq!(keys["keys"][0]["name"], name, "{keys}");
}

#[actix_web::test]
async fn pages_are_asked_for_their_heads_and_found_with_a_slash_too_many() {
    let app = TestServerBuilder::new().sign_in().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for path in pages() {
        let whole = browser.get(path).await;
        let head = browser.send(browser.request("HEAD", path)).await;

        assert_eq!(head.status, 200, "{path}");
        assert!(head.body.is_empty(), "{path}");
        assert_eq!(head.header("content-type").is_some(), path != "/", "{path}");
        assert_eq!(whole.status, 200, "{path}");
        if path != "/" {
            let reply = browser.get(&format!("{path}/")).await;
            assert_eq!((reply.status.as_u16(), reply.header("location")), (303, Some(path)));
        }
    }
    assert_eq!(app.browser().get("/admin/users/").await.header("location"), Some("/admin/users"));
    let narrowed = browser.get("/usage/?model=x%26y").await;
    assert_eq!(narrowed.header("location"), Some("/usage?model=x%26y"));
    // Only pages of ours are led to.
    assert_eq!(browser.get("//evil.example/").await.header("location"), None);
    assert_eq!(browser.form("/keys/", &[]).await.status, 404);
    let refused = browser.send(browser.request("DELETE", "/keys")).await;
    assert_eq!((refused.status.as_u16(), refused.header("allow")), (405, Some("GET, POST, HEAD")));
}
