//! Pages for admins, as they answer: what they show, what they do, and what they make of bad input.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;

use crate::helpers::{
    Backend, Browser, MODEL, Reply, TestServer, TestServerBuilder, eventually, form, message,
    on_both_databases,
};

const ADMIN: &str = "1001";
const DEVELOPER: &str = "1002";
const STREAM: &str = "invoke-with-response-stream";
const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().unlimited()
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.to_vec()).unwrap()
}

async fn shown(admin: &Browser, path: &str) -> String {
    let reply = admin.get(path).await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    text(&reply)
}

async fn id_of(browser: &Browser) -> i64 {
    browser.get("/auth/me").await.json()["id"].as_i64().unwrap()
}

/// Sends a form of a page with its token.
async fn send(admin: &Browser, path: &str, fields: &[(&str, &str)]) -> Reply {
    let token = admin.csrf().await;
    let mut fields = fields.to_vec();
    fields.push(("csrf_token", &token));
    admin.form(path, &fields).await
}

fn went_to(reply: &Reply) -> (u16, Option<&str>) {
    (reply.status.as_u16(), reply.header("location"))
}

/// Adds people, behind the application's back.
async fn add_people(app: &TestServer, count: usize) {
    app.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO users (provider, subject, email, email_verified, display_name, state, created_at, updated_at, admin) \
         SELECT 'sso', 'crowd-' || i, 'crowd' || i || '@example.com', TRUE, 'Crowd ' || i, 'active', \
         '2026-01-01 00:00:00', '2026-01-01 00:00:00', FALSE FROM n"
    ))
    .await;
}

on_both_databases!(people_are_found_sorted_and_paged, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    let developer = app.signed_in(DEVELOPER).await;
    add_people(&app, 5_000).await;

    let all = shown(&admin, "/admin/users").await;
    assert!(all.contains("1–50 of 5,002") && all.contains("admin@example.com"), "{all}");
    assert!(all.contains("aria-sort=\"descending\""));
    let found = shown(&admin, "/admin/users?q=DEVELOPER@").await;
    assert!(found.contains(&format!("/admin/users/{}", id_of(&developer).await)), "{found}");
    assert!(found.contains("1–1 of 1") && !found.contains("crowd1@"), "{found}");
    let nobody = shown(&admin, "/admin/users?q=nobody-at-all").await;
    assert!(nobody.contains("Nobody is found by this"), "{nobody}");
    let disabled = shown(&admin, "/admin/users?state=disabled&q=crowd").await;
    assert!(disabled.contains("Nobody is found by this"));
    let sorted = shown(&admin, "/admin/users?sort=email&order=desc").await;
    assert!(sorted.contains("developer@example.com") && sorted.contains("sort=email&#38;order=asc"), "{sorted}");
    // All pages, one after another, and back.
    let mut path = "/admin/users?q=crowd&limit=500".to_owned();
    let mut pages = 1;
    while let Some(next) = link(&shown(&admin, &path).await, "next") {
        path = next;
        pages += 1;
    }
    let last = shown(&admin, &path).await;
    assert_eq!(pages, 10, "{last}");
    assert!(last.contains("4,501–5,000 of 5,000"));
    assert!(shown(&admin, &link(&last, "prev").unwrap()).await.contains("4,001–4,500 of 5,000"));

    let began = Instant::now();
    for _ in 0..10 {
        shown(&admin, "/admin/users?q=crowd&sort=last_login_at").await;
    }
    // Of a build that is not optimised, on a machine that others use.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
});

/// The address of a link with this relation.
fn link(page: &str, rel: &str) -> Option<String> {
    let tag = page.split("<a ").find(|tag| tag.contains(&format!("rel=\"{rel}\"")))?;
    let address = tag.split("href=\"").nth(1)?.split('"').next()?;
    Some(address.replace("&#38;", "&").replace("&amp;", "&"))
}

on_both_databases!(an_admin_disables_and_enables_a_person_and_ends_what_they_have, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = id_of(&developer).await;
    let key = developer.api("POST", "/api/keys", Some(&json!({"name": "laptop"}))).await.json();
    let call = || app.call(MODEL, "invoke", &message("hi")).bearer(key["key"].as_str().unwrap()).send();
    assert_eq!(call().await.status, 200);
    app.settle().await;
    let page = format!("/admin/users/{id}");

    let person = shown(&admin, &page).await;
    for said in ["developer@example.com", "verified", DEVELOPER, "laptop", "All sessions and tokens end", MODEL, "Nothing streams at the moment"] {
        assert!(person.contains(said), "{said}: {person}");
    }
    assert!(!person.contains(key["key"].as_str().unwrap()));
    assert!(person.contains(&format!("/admin/usage?user_id={id}")));

    let state = format!("{page}/state");
    let done = send(&admin, &state, &[("state", "disabled")]).await;
    assert_eq!(went_to(&done), (303, Some(format!("{page}?done=disabled").as_str())));
    assert_eq!(went_to(&send(&admin, &state, &[("state", "disabled")]).await).0, 303, "again is no change");
    assert_eq!(app.audited("user_state_changed").await, 1);
    assert_eq!((call().await.status.as_u16(), developer.get("/auth/me").await.status.as_u16()), (401, 401));
    let person = shown(&admin, &format!("{page}?done=disabled")).await;
    assert!(person.contains("The person is disabled") && person.contains("Nobody is signed in"), "{person}");

    let done = send(&admin, &state, &[("state", "active")]).await;
    assert_eq!(went_to(&done), (303, Some(format!("{page}?done=enabled").as_str())));
    assert_eq!(call().await.status, 200);

    let again = app.signed_in(DEVELOPER).await;
    let done = send(&admin, &format!("{page}/sessions/end"), &[]).await;
    assert_eq!(went_to(&done), (303, Some(format!("{page}?done=sessions").as_str())));
    assert_eq!(again.get("/auth/me").await.status, 401);
    assert_eq!(went_to(&send(&admin, &format!("{page}/sessions/end"), &[]).await).0, 303);
    assert_eq!(app.audited("sessions_ended_by_admin").await, 1);

    let revoke = format!("{page}/keys/{}/revoke", key["id"]);
    let done = send(&admin, &revoke, &[]).await;
    assert_eq!(went_to(&done), (303, Some(format!("{page}?done=key").as_str())));
    assert_eq!(call().await.status, 401);
    assert_eq!(went_to(&send(&admin, &revoke, &[]).await).0, 303, "twice is once");
    assert_eq!(app.audited("key_revoked").await, 1);
});

on_both_databases!(the_last_admin_is_told_on_the_page_that_they_stay, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    let id = id_of(&admin).await;

    let reply = send(&admin, &format!("/admin/users/{id}/state"), &[("state", "disabled")]).await;

    assert_eq!(reply.status, 409);
    assert!(text(&reply).contains("This is the last active admin"), "{}", text(&reply));
    assert!(shown(&admin, &format!("/admin/users/{id}")).await.contains("you will be locked out"));
});

#[actix_web::test]
async fn bad_input_shows_the_page_or_the_right_error_page() {
    let app = builder().start().await;
    let admin = app.signed_in(ADMIN).await;
    let long = "x".repeat(201);
    for (path, status, said) in [
        ("/admin/users?state=gone", 400, "state must be active"),
        ("/admin/users?sort=id", 400, "sort must be"),
        ("/admin/users?order=up", 400, "order must be"),
        ("/admin/users?limit=0", 400, "limit must be 1 to 500"),
        ("/admin/users?limit=many", 400, "limit must be a whole number"),
        ("/admin/users?limit=99999999999999999999", 400, "limit must be a whole number"),
        ("/admin/users?offset=-1", 400, "offset must be"),
        ("/admin/users?cursor=!!!", 400, "begin with the first"),
        ("/admin/users?cursor=LTE", 400, "begin with the first"),
        ("/admin/users?q=%00", 400, "q must have 1 to 200 characters"),
        (&format!("/admin/users?q={long}"), 400, "q must have 1 to 200 characters"),
        ("/admin/users?q=%20&whatever=1", 200, "admin@example.com"),
        ("/admin/users/x", 400, "The path is wrong"),
        ("/admin/users/99999999999999999999", 400, "The path is wrong"),
        ("/admin/users/-1", 404, "no such person"),
        ("/admin/users/999", 404, "no such person"),
        ("/admin/users/1?cursor=!!!", 400, "begin with the first"),
        ("/admin/users/1?limit=x", 400, "limit must be a whole number"),
        (
            "/admin/audit?start_date=2026-11-27&end_date=2026-11-26",
            400,
            "end_date is before start_date",
        ),
        ("/admin/audit?start_date=yesterday", 400, "value=\"yesterday\""),
        ("/admin/audit?end_date=1999-01-01", 400, "must be a time"),
        ("/admin/audit?success=perhaps", 400, "success must be true or false"),
        ("/admin/audit?event_type=%3Cb%3E", 400, "event_type is a word"),
        ("/admin/audit?event_type=no_such_event", 200, "There are no such events"),
        ("/admin/audit?user_id=nobody-at-all", 400, "Nobody is found by this"),
        ("/admin/audit?user_id=%00", 400, "This must be an id"),
        ("/admin/audit?limit=1000", 400, "limit must be 1 to 500"),
        ("/admin/audit?offset=10001", 400, "offset must be"),
        ("/admin/audit?cursor=x", 400, "begin with the first"),
        ("/admin/streams?limit=x", 400, "limit must be a whole number"),
        ("/admin/streams?cursor=x", 400, "begin with the first"),
    ] {
        let reply = admin.get(path).await;
        let page = text(&reply);
        assert_eq!(reply.status.as_u16(), status, "{path}: {page}");
        assert!(page.contains(said) && page.contains("<h1"), "{path}: {page}");
    }
    for (path, fields, status) in [
        ("/admin/users/1/state", vec![("state", "expired")], 400),
        ("/admin/users/1/state", vec![], 400),
        ("/admin/users/1/state", vec![("state", "active"), ("admin", "true")], 400),
        ("/admin/users/999/state", vec![("state", "active")], 404),
        ("/admin/users/x/state", vec![("state", "active")], 400),
        ("/admin/users/999/sessions/end", vec![], 404),
        ("/admin/users/1/keys/999/revoke", vec![], 404),
        ("/admin/users/1/keys/x/revoke", vec![], 400),
        ("/admin/jobs/no_such_job/run", vec![], 404),
        ("/admin/streams/0000000000000000/cut", vec![], 409),
        ("/admin/streams/0000000000000000/cut", vec![("user_id", "x")], 400),
    ] {
        let reply = send(&admin, path, &fields).await;
        assert_eq!(reply.status.as_u16(), status, "{path} {fields:?}: {}", text(&reply));
        assert!(text(&reply).contains("<h1"), "{path}");
        let unsigned = admin.form(path, &fields).await;
        assert!(matches!(unsigned.status.as_u16(), 400 | 403), "{path}: {unsigned:?}");
    }
}

on_both_databases!(hostile_text_is_shown_as_the_text_that_it_is, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    let long = "W".repeat(1_000);
    let names = [HOSTILE, long.as_str(), "\u{202e}txt.exe אבגדה", "🦀👩‍👩‍👧‍👦", "=cmd()|' /C calc'!A0"];
    let quoted = |name: &str| name.replace('\'', "''");
    for (number, name) in names.iter().enumerate() {
        let name = quoted(name);
        app.sql(&format!(
            "INSERT INTO users (provider, subject, email, email_verified, display_name, state, created_at, updated_at, admin) \
             VALUES ('sso', 'hostile-{number}', NULL, FALSE, '{name}', 'active', '2026-01-01 00:00:00', '2026-01-01 00:00:00', FALSE)"
        ))
        .await;
        app.sql(&format!(
            "INSERT INTO api_keys (user_id, digest, pepper_id, hint, name, created_at, expiry_noted) \
             SELECT id, {}, 'x', 'wxyz', '{name}', '2026-01-01 00:00:00', FALSE FROM users WHERE subject = 'hostile-{number}'",
            if backend == Backend::Postgres { format!("'\\x0{number}'") } else { format!("X'0{number}'") }
        ))
        .await;
        app.sql(&format!(
            "INSERT INTO sessions (id, user_id, kind, created_at, last_seen_at, expires_at, user_agent) \
             SELECT '00000000-0000-4000-8000-00000000000{number}', id, 'cli', '2026-01-01 00:00:00', '2026-01-01 00:00:00', \
             '2199-01-01 00:00:00', '{name}' FROM users WHERE subject = 'hostile-{number}'"
        ))
        .await;
    }
    let ids: Vec<i64> = admin.get("/api/admin/users/search?q=hostile").await.json()["users"]
        .as_array().unwrap().iter().map(|user| user["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), names.len());
    for id in &ids {
        send(&admin, &format!("/admin/users/{id}/state"), &[("state", "disabled")]).await;
        send(&admin, &format!("/admin/users/{id}/state"), &[("state", "active")]).await;
    }

    let mut paths = vec!["/admin/users".to_owned(), "/admin/audit".to_owned()];
    paths.push(format!("/admin/users?{}", form(&[("q", HOSTILE)])));
    paths.extend(ids.iter().map(|id| format!("/admin/users/{id}")));
    let mut seen = String::new();
    for path in &paths {
        let page = shown(&admin, path).await;
        assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{path}");
        seen.push_str(&page);
    }
    for given in [&form(&[("event_type", HOSTILE)]), &form(&[("start_date", HOSTILE)]), &form(&[("success", HOSTILE)]), &form(&[("user_id", HOSTILE)])] {
        let page = text(&admin.get(&format!("/admin/audit?{given}")).await);
        assert!(page.contains("&#60;script") && !page.contains("<script>alert"), "{given}: {page}");
    }
    for name in &names[1..4] {
        assert!(seen.contains(name), "{name}");
    }
    assert!(seen.contains("=cmd()|&#39; /C calc"), "no cell of a table of numbers, but text");
});

on_both_databases!(the_audit_log_is_filtered_and_verified, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = id_of(&developer).await;
    developer.api("POST", "/api/keys", Some(&json!({"name": "laptop"}))).await;
    assert_eq!(developer.get("/admin/audit").await.status, 403);
    let refused = eventually(Duration::from_secs(5), || async { app.audited("admin_denied").await == 1 });
    assert!(refused.await);

    // The names stand in the select, too.
    let entry = |kind: &str| format!("<strong>{kind}</strong>");
    let all = shown(&admin, "/admin/audit").await;
    for kind in ["sign_in", "key_created", "admin_denied", "secrets_in_use"] {
        assert!(all.contains(&entry(kind)), "{kind}");
    }
    for said in ["Credential", "Request", "Hash", "refused", "developer@example.com", "laptop"] {
        assert!(all.contains(said), "{said}");
    }
    for who in [id.to_string(), "developer".to_owned(), "Developer@Example.com".to_owned()] {
        let theirs = shown(&admin, &format!("/admin/audit?{}", form(&[("user_id", &who)]))).await;
        assert!(theirs.contains(&entry("key_created")) && !theirs.contains(&entry("secrets_in_use")), "{who}");
    }
    let several = admin.get("/admin/audit?user_id=example.com").await;
    assert_eq!(several.status, 400);
    assert!(text(&several).contains("Who is meant?") && text(&several).contains(&format!("/admin/audit?user_id={id}")), "{}", text(&several));
    let refusals = shown(&admin, "/admin/audit?success=false").await;
    assert!(refusals.contains(&entry("admin_denied")) && !refusals.contains(&entry("key_created")));
    let keys = shown(&admin, "/admin/audit?event_type=key_created&start_date=2020-01-01&end_date=2199-01-01").await;
    assert!(keys.contains(&entry("key_created")) && !keys.contains(&entry("sign_in")));
    assert!(shown(&admin, "/admin/audit?end_date=2020-01-01").await.contains("There are no such events"));
    let mut path = "/admin/audit?limit=1".to_owned();
    let mut pages = 1;
    while let Some(next) = link(&shown(&admin, &path).await, "next") {
        path = next;
        pages += 1;
    }
    assert_eq!(pages, app.audit().await.len());
    assert!(link(&shown(&admin, &path).await, "prev").is_some());

    let whole = shown(&admin, "/admin/audit/verify").await;
    assert!(whole.contains("The log is whole") && whole.contains(&format!("{pages} events were checked")), "{whole}");
    app.sql("UPDATE audit_logs SET actor = 'user:99' WHERE id = 2").await;
    let broken = shown(&admin, "/admin/audit/verify").await;
    assert!(broken.contains("not whole") && broken.contains("the event 2 is not"), "{broken}");
});

on_both_databases!(a_job_is_run_and_its_run_is_listed, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    let before = shown(&admin, "/admin/jobs").await;
    for said in ["usage_summaries", "0 2 * * *", "UTC", "never"] {
        assert!(before.contains(said), "{said}: {before}");
    }

    let done = send(&admin, "/admin/jobs/price_check/run", &[]).await;
    assert_eq!(went_to(&done), (303, Some("/admin/jobs?done=started")));
    assert!(shown(&admin, "/admin/jobs?done=started").await.contains("The job is started"));
    let over = eventually(Duration::from_secs(10), || async {
        let page = shown(&admin, "/admin/jobs").await;
        page.contains("badge good\">success") && !page.contains("data-refresh")
    });
    assert!(over.await, "{}", shown(&admin, "/admin/jobs").await);
    assert!(shown(&admin, "/admin/jobs").await.contains(&bedrock_sso_proxy::jobs::instance()));
    assert_eq!(app.audited("job_run_asked").await, 1);

    // Somebody else runs it.
    app.sql("UPDATE job_leases SET holder = 'elsewhere', expires_at = '2199-01-01 00:00:00' WHERE job = 'price_check'").await;
    let refused = send(&admin, "/admin/jobs/price_check/run", &[]).await;
    assert_eq!(refused.status, 409);
    assert!(text(&refused).contains("This job runs already, on elsewhere."), "{}", text(&refused));
    app.sql("UPDATE job_runs SET finished_at = NULL, outcome = NULL").await;
    let running = shown(&admin, "/admin/jobs").await;
    assert!(running.contains("data-refresh") && running.contains(">running<"), "{running}");
});

on_both_databases!(streams_are_seen_and_cut_from_pages, backend => {
    let app = builder().backend(backend).start().await;
    let (admin, developer) = (app.signed_in(ADMIN).await, app.signed_in(DEVELOPER).await);
    let id = id_of(&developer).await;
    let key = developer.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.json();
    assert!(shown(&admin, "/admin/streams").await.contains("Nothing streams at the moment"));
    let slow = message("hi @sim:stream events=2000 delay_ms=50");
    let mut stream = app.call(MODEL, STREAM, &slow).bearer(key["key"].as_str().unwrap()).open().await;
    stream.next().await.unwrap().unwrap();

    let page = shown(&admin, "/admin/streams").await;
    assert!(page.contains("developer@example.com") && page.contains(MODEL), "{page}");
    let theirs = shown(&admin, &format!("/admin/users/{id}")).await;
    let path = theirs.split("action=\"").find(|rest| rest.starts_with("/admin/streams/")).unwrap();
    let path = path.split('"').next().unwrap();
    assert!(page.contains(path));
    assert!(!shown(&admin, &format!("/admin/users/{}", id_of(&admin).await)).await.contains("/admin/streams/"), "of nobody else");

    let cut = send(&admin, path, &[("user_id", &id.to_string())]).await;
    assert_eq!(went_to(&cut), (303, Some(format!("/admin/users/{id}?done=cut").as_str())));
    while let Some(Ok(_piece)) = stream.next().await {}
    let gone = eventually(Duration::from_secs(10), || async {
        shown(&admin, "/admin/streams").await.contains("Nothing streams at the moment")
    });
    assert!(gone.await);
    let again = send(&admin, path, &[]).await;
    assert_eq!(again.status, 409);
    assert!(text(&again).contains("This stream has ended already"));
    assert_eq!(app.audited("stream_cut").await, 1);
});

on_both_databases!(health_tells_of_every_part_and_no_secret, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    let checked = eventually(Duration::from_secs(10), || async {
        shown(&admin, "/admin/health").await.contains(">database</th>")
    });
    assert!(checked.await);

    let page = shown(&admin, "/admin/health").await;
    for said in ["actors", "aws", "jwt", "oauth", "journal", "Up for", "Workers", "Rows waiting", "Identities", "Schema", env!("CARGO_PKG_VERSION")] {
        assert!(page.contains(said), "{said}: {page}");
    }
    assert!(page.contains(if backend == Backend::Postgres { "postgres" } else { "sqlite" }));
    for secret in ["postgres://", "sqlite://", crate::helpers::SECRET] {
        assert!(!page.contains(secret), "{secret}");
    }
});
