//! `/keys`, as a browser without scripts uses it; and what becomes of a form whose session has ended.

use std::collections::BTreeSet;

use bedrock_sso_proxy::auth::random;

use crate::helpers::{
    Browser, MODEL, Reply, TestServer, TestServerBuilder, field, form, message, on_both_databases,
};

const DEVELOPER: &str = "1002";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().unlimited()
}

fn html(page: &Reply) -> String {
    String::from_utf8_lossy(&page.body).into_owned()
}

/// The key that a page shows.
fn shown(page: &Reply) -> Option<String> {
    let html = html(page);
    let at = html.find(">SSOK_")? + 1;
    Some(html[at..].split('<').next().unwrap().to_owned()).filter(|key| key.len() == 37)
}

/// A form as the page has it, filled in.
async fn filled(browser: &Browser, name: &str) -> Vec<(&'static str, String)> {
    let page = browser.get("/keys").await;
    assert_eq!(page.status, 200, "{page:?}");
    vec![
        ("csrf_token", field(&page, "csrf_token")),
        ("form", field(&page, "form")),
        ("name", name.to_owned()),
        ("expires_in_days", "7".to_owned()),
    ]
}

async fn send(browser: &Browser, path: &str, fields: &[(&'static str, String)]) -> Reply {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
    browser.form(path, &fields).await
}

async fn names(browser: &Browser) -> Vec<String> {
    let list = browser.get("/api/keys").await.json();
    list["keys"].as_array().unwrap().iter().map(|k| k["name"].as_str().unwrap().into()).collect()
}

async fn works(app: &TestServer, key: &str) -> bool {
    app.call(MODEL, "invoke", &message("hi")).bearer(key).send().await.status == 200
}

on_both_databases!(a_form_that_comes_twice_makes_one_key_and_says_which, backend => {
    let app = builder().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let fields = filled(&browser, "laptop").await;

    let first = send(&browser, "/keys", &fields).await;
    let again = send(&browser, "/keys", &fields).await;

    assert_eq!((first.status.as_u16(), first.header("cache-control")), (201, Some("no-store")));
    let key = shown(&first).expect("it is shown");
    assert!(works(&app, &key).await);
    assert_eq!(again.status, 409);
    let said = html(&again);
    assert!(said.contains("already sent") && said.contains(">laptop<"), "{said}");
    assert!(shown(&again).is_none() && !said.contains(&key), "shown once");
    assert_eq!(names(&browser).await, ["laptop"]);

    // The same for a rotation, which that page offers.
    let fields = ["csrf_token", "form", "overlap_seconds"].map(|name| (name, field(&again, name)));
    let path = format!("/keys/{}/rotate", browser.get("/api/keys").await.json()["keys"][0]["id"]);
    let first = send(&browser, &path, &fields).await;
    let again = send(&browser, &path, &fields).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 409));
    assert!(works(&app, &shown(&first).unwrap()).await && !works(&app, &key).await);
    assert_eq!(names(&browser).await.len(), 2);
});

on_both_databases!(of_forms_that_come_at_once_to_two_instances_one_makes_a_key, backend => {
    let app = builder().backend(backend).start().await;
    let given = app.environment.iter().rfind(|(name, _)| name == "BEDROCK_DATABASE__URL");
    let url = given.unwrap().1.clone();
    let other = builder().set("DATABASE__URL", url).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let mut elsewhere = browser.copy();
    elsewhere.base = other.browser().base;
    for round in 0..5 {
        let fields = filled(&browser, &format!("key {round}")).await;
        let places = [&browser, &elsewhere];

        let sent = (0..8).map(|n| send(places[n % 2], "/keys", &fields));
        let answers = futures_util::future::join_all(sent).await;

        let keys: BTreeSet<String> = answers.iter().filter_map(shown).collect();
        assert_eq!(keys.len(), 1);
        let mut statuses: Vec<u16> = answers.iter().map(|reply| reply.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    }
    assert_eq!(names(&browser).await.len(), 5);
});

#[actix_web::test]
async fn a_form_that_made_no_key_can_be_sent_again() {
    let app = builder().set("API_KEYS__MAX_KEYS_PER_USER", 1).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    assert_eq!(send(&browser, "/keys", &filled(&browser, "one").await).await.status, 201);
    let mut fields = filled(&browser, "two").await;

    let full = send(&browser, "/keys", &fields).await;

    assert_eq!(full.status, 409);
    assert!(html(&full).contains("You have 1 live keys"), "{}", html(&full));
    assert_eq!(field(&full, "form"), fields[1].1, "the same form");
    assert!(html(&full).contains("value=\"two\""), "nothing typed is lost");
    // What is wrong with a field uses no form up either.
    fields[3].1 = "0".to_owned();
    assert_eq!(send(&browser, "/keys", &fields).await.status, 400);
    let id = browser.get("/api/keys").await.json()["keys"][0]["id"].clone();
    let revoked = send(&browser, &format!("/keys/{id}/revoke"), &fields[..1]).await;
    assert_eq!(
        (revoked.status.as_u16(), revoked.header("location")),
        (303, Some("/keys?done=revoked"))
    );
    fields[3].1 = "7".to_owned();
    let made = send(&browser, "/keys", &fields).await;
    assert!(shown(&made).is_some(), "{made:?}");
}

#[actix_web::test]
async fn somebody_elses_form_is_another_form() {
    let app = builder().start().await;
    let (one, two) = (app.signed_in(DEVELOPER).await, app.signed_in("1001").await);
    let form = random::text();
    for browser in [&one, &two] {
        let mut fields = filled(browser, "x").await;
        fields[1].1 = form.clone();

        assert_eq!(send(browser, "/keys", &fields).await.status, 201);
    }
}

#[actix_web::test]
async fn what_is_wrong_is_told_beside_its_field_and_nothing_typed_is_lost() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let long = "x".repeat(1000);
    for (name, days, problem) in [
        ("", "7", "name-problem"),
        ("   ", "7", "name-problem"),
        (long.as_str(), "7", "name-problem"),
        ("a\u{202e}b", "7", "name-problem"),
        ("a\0b", "7", "name-problem"),
        ("ok", "", "days-problem"),
        ("ok", "0", "days-problem"),
        ("ok", "-1", "days-problem"),
        ("ok", "1.5", "days-problem"),
        ("ok", "366", "days-problem"),
        ("ok", "99999999999999999999", "days-problem"),
        ("ok", "seven", "days-problem"),
    ] {
        let mut fields = filled(&browser, name).await;
        fields[3].1 = days.to_owned();

        let reply = send(&browser, "/keys", &fields).await;

        let page = html(&reply);
        assert_eq!(reply.status, 400, "{name} {days}");
        assert!(page.contains(&format!("id=\"{problem}\"")), "{name} {days}: {page}");
        assert!(page.contains(&format!("value=\"{days}\"")), "{page}");
    }
    // Never is no choice here, and a field that nobody knows is none.
    for more in [("never", "yes"), ("role", "admin")] {
        let mut fields = filled(&browser, "x").await;
        fields.push((more.0, more.1.to_owned()));
        assert_eq!(send(&browser, "/keys", &fields).await.status, 400, "{more:?}");
    }
    // No form of ours.
    for form in ["", "x", "A", &"A".repeat(4000)] {
        let mut fields = filled(&browser, "x").await;
        fields[1].1 = form.to_owned();
        assert_eq!(send(&browser, "/keys", &fields).await.status, 400, "{form}");
    }
    assert!(names(&browser).await.is_empty());
    for path in ["/keys?offset=-1", "/keys?offset=x", "/keys?offset=10001"] {
        assert_eq!(browser.get(path).await.status, 400, "{path}");
    }
}

#[actix_web::test]
async fn names_are_shown_as_the_text_that_they_are() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let hostile =
        ["<script>alert(1)</script>", "\"><img src=x>", "=cmd|'/c calc'!A0", "مفتاح 🔑 👨‍👩‍👧"];
    for name in hostile {
        let made = send(&browser, "/keys", &filled(&browser, name).await).await;

        assert_eq!(made.status, 201, "{name}");
        for page in [html(&made), html(&browser.get("/keys").await)] {
            assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{page}");
        }
    }
    let mut wanted: Vec<String> = hostile.map(str::to_owned).into();
    wanted.reverse();
    assert_eq!(names(&browser).await, wanted);
}

#[actix_web::test]
async fn a_long_list_has_pages() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for n in 0..51 {
        let fields = filled(&browser, &format!("key {n}")).await;
        assert_eq!(send(&browser, "/keys", &fields).await.status, 201);
    }

    let (first, second) = (browser.get("/keys").await, browser.get("/keys?offset=50").await);

    assert!(html(&first).contains("1–50 of 51") && html(&first).contains("/keys?offset=50"));
    assert!(!html(&first).contains(">key 0<") && html(&first).contains(">key 50<"));
    assert!(html(&second).contains("51–51 of 51") && html(&second).contains(">key 0<"));
}

#[actix_web::test]
async fn where_keys_may_last_for_ever_one_can_say_so_and_where_they_are_off_the_page_says_that() {
    let app = builder().set("API_KEYS__MAX_EXPIRY_DAYS", "~").start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let mut fields = filled(&browser, "for ever").await;
    fields.push(("never", "yes".to_owned()));
    let made = send(&browser, "/keys", &fields).await;
    assert!(html(&made).contains("It never ends by itself"), "{}", html(&made));

    let off = builder().set("API_KEYS__ENABLED", false).start().await;
    let browser = off.signed_in(DEVELOPER).await;
    let page = browser.get("/keys").await;
    assert!(
        html(&page).contains("API keys are off here") && !html(&page).contains("action=\"/keys\"")
    );
    let csrf = field(&page, "csrf_token");
    let form = random::text();
    let fields =
        [("csrf_token", csrf.as_str()), ("form", &form), ("name", "x"), ("expires_in_days", "7")];
    assert_eq!(browser.form("/keys", &fields).await.status, 403);
}

#[actix_web::test]
async fn what_was_typed_outlives_the_session() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let name = "nightly <b>build</b> \"2\"";
    let fields = filled(&browser, name).await;
    browser.forget_cookies();

    let over = send(&browser, "/keys", &fields).await;

    let page = html(&over);
    assert_eq!(over.status, 401);
    assert!(
        page.contains("What you typed is kept here") && page.contains("/login?next=/keys"),
        "{page}"
    );
    assert!(!page.contains("csrf_token") && !page.contains(&fields[0].1), "{page}");
    assert!(!page.contains("<b>build"), "{page}");
    // Signed in again, in another tab.
    browser.sign_in(DEVELOPER).await;
    let kept = |page: &Reply| ["form", "expires_in_days"].map(|name| (name, field(page, name)));
    let mut again = kept(&over).to_vec();
    again.push(("name", name.to_owned()));
    let asked = send(&browser, "/keys", &again).await;
    assert_eq!(asked.status, 403);
    assert!(html(&asked).contains("developer@example.com"), "{}", html(&asked));
    again = kept(&asked).to_vec();
    again.push(("name", name.to_owned()));
    again.push(("csrf_token", field(&asked, "csrf_token")));
    let made = send(&browser, "/keys", &again).await;
    assert!(shown(&made).is_some(), "{made:?}");
    assert_eq!(names(&browser).await, [name]);
}

#[actix_web::test]
async fn nothing_is_kept_for_pages_of_others_nor_where_it_makes_no_sense() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let fields = [("name", "x"), ("form", "y")];
    let from = |site: &'static str, cookies: bool| {
        let request = app.post("/keys").header("accept", "text/html");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = match site {
            "" => request,
            site if site.starts_with("http") => request.header("origin", site),
            site => request.header("sec-fetch-site", site),
        };
        let request = if cookies { request.header("cookie", browser.cookies()) } else { request };
        request.body(form(&fields)).send()
    };
    for site in ["cross-site", "same-site", "", "https://evil.example"] {
        for (cookies, status) in [(true, 403), (false, 401)] {
            let reply = from(site, cookies).await;

            assert_eq!(reply.status, status, "{site}");
            assert!(!html(&reply).contains("type=\"hidden\""), "{site}: {}", html(&reply));
        }
    }
    for path in ["/device", "/login/cli", "/auth/logout"] {
        let reply = browser.form(path, &[("user_code", "BCDF-GHJK"), ("action", "allow")]).await;
        assert_eq!(reply.status, 403, "{path}");
        assert!(!html(&reply).contains("type=\"hidden\""), "{path}: {}", html(&reply));
    }
}

#[actix_web::test]
async fn what_is_too_large_is_not_kept_and_the_page_says_so() {
    let app = builder().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    // As large as a form may be: what was sent fits, what is sent again would not.
    let large = "x".repeat((64 << 10) - 600);
    let fields = [("name", "small"), ("note", large.as_str())];

    let reply = browser.form("/keys", &fields).await;

    let page = html(&reply);
    assert_eq!(reply.status, 403);
    assert!(page.contains("Too large to be kept") && page.contains("note"), "{page}");
    assert!(page.contains("value=\"small\"") && page.len() < 8192, "{}", page.len());
}
