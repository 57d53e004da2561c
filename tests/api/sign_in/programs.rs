//! The command line's and a device's way in, at the level of HTTP: codes, proofs, guesses.

use bedrock_sso_proxy::{auth::device, cache::Moment, db};
use chrono::TimeDelta;
use serde_json::{Value, json};

use super::*;
use crate::helpers::{field, form, on_both_databases};

/// The pair of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDIRECT: &str = "http://127.0.0.1:8123/callback";
const STATE: &str = "a-state-of-16-or-more";
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A code for the command line, as its page hands it over.
async fn code_for_cli(browser: &Browser) -> String {
    let csrf = browser.csrf().await;
    let page = browser
        .form(
            "/login/cli",
            &[
                ("csrf_token", &csrf),
                ("redirect_uri", REDIRECT),
                ("code_challenge", CHALLENGE),
                ("state", STATE),
                ("action", "allow"),
            ],
        )
        .await;
    assert_eq!(page.status, 200, "{page:?}");
    let html = text(&page);
    let (_, rest) = html.split_once(&format!("href=\"{REDIRECT}?code=")).expect("a link");
    let code = rest.split('&').next().unwrap().to_owned();
    assert_eq!(code.len(), 43);
    code
}

/// Asks for tokens, in a form or in JSON.
async fn ask(app: &TestServer, path: &str, fields: &[(&str, &str)], json: bool) -> Reply {
    let request = app.post(path);
    if json {
        let members = fields.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        let body = Value::Object(members.collect());
        request.header("content-type", JSON).json(&body).send().await
    } else {
        request.header("content-type", FORM).body(form(fields)).send().await
    }
}

async fn exchange(app: &TestServer, code: &str) -> Reply {
    ask(app, "/auth/token", &right(code), false).await
}

fn right(code: &str) -> [(&'static str, &str); 4] {
    [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("code_verifier", VERIFIER),
        ("redirect_uri", REDIRECT),
    ]
}

/// One field wrong: its name, its value (`None` = it is missing), the error, and whether the code is used up.
fn wrong_exchanges() -> Vec<(&'static str, Option<String>, &'static str, bool)> {
    let text = |text: &str| Some(text.to_owned());
    let verifier = |verifier: &str| ("code_verifier", text(verifier), "invalid_request", false);
    vec![
        ("code_verifier", None, "invalid_request", false),
        verifier(""),
        verifier("x"),
        verifier(&VERIFIER[..42]),
        verifier(&"x".repeat(129)),
        verifier(&format!("{VERIFIER} ")),
        verifier(&format!("{VERIFIER}=")),
        verifier(&format!("{VERIFIER}\0")),
        verifier(&format!("{VERIFIER}\u{e9}")),
        ("code_verifier", text(&"x".repeat(43)), "invalid_grant", true),
        ("code_verifier", text(CHALLENGE), "invalid_grant", true),
        ("code_verifier", text(&format!("{VERIFIER}x")), "invalid_grant", true),
        ("code_verifier", text(&VERIFIER.to_lowercase()), "invalid_grant", true),
        ("redirect_uri", None, "invalid_request", false),
        ("redirect_uri", text(""), "invalid_request", false),
        ("redirect_uri", text("http://127.0.0.1:8124/callback"), "invalid_grant", true),
        ("redirect_uri", text("http://127.0.0.1:8123/callback/"), "invalid_grant", true),
        ("redirect_uri", text("http://127.0.0.1:8123/Callback"), "invalid_grant", true),
        ("redirect_uri", text("http://localhost:8123/callback"), "invalid_grant", true),
        ("redirect_uri", text("https://evil.example/"), "invalid_grant", true),
        ("redirect_uri", text("http://127.0.0.1:8123/callback?x"), "invalid_grant", true),
        ("code", None, "invalid_request", false),
        ("code", text(""), "invalid_request", false),
        ("code", text("x"), "invalid_grant", false),
        ("code", text(&"A".repeat(43)), "invalid_grant", false),
        ("code", text(&"A".repeat(50_000)), "invalid_grant", false),
        ("code", text("\0"), "invalid_grant", false),
        ("code", text("' OR 1=1 --"), "invalid_grant", false),
        ("grant_type", None, "invalid_request", false),
        ("grant_type", text(""), "unsupported_grant_type", false),
        ("grant_type", text("password"), "unsupported_grant_type", false),
        ("grant_type", text("client_credentials"), "unsupported_grant_type", false),
        ("grant_type", text("refresh_token"), "unsupported_grant_type", false),
        ("grant_type", text("AUTHORIZATION_CODE"), "unsupported_grant_type", false),
        ("grant_type", text(DEVICE), "invalid_request", false),
        ("client_secret", text("x"), "invalid_request", false),
        ("user_id", text("1"), "invalid_request", false),
    ]
}

on_both_databases!(a_code_without_its_proof_is_worth_nothing, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for (name, value, error, used_up) in wrong_exchanges() {
        for json in [false, true] {
            let case = format!("{name}={:?}, json: {json}", value.as_ref().map(|v| v.chars().take(60).collect::<String>()));
            let code = code_for_cli(&browser).await;
            let mut fields: Vec<(&str, &str)> = right(&code).to_vec();
            fields.retain(|(known, _)| *known != name);
            fields.extend(value.as_deref().map(|value| (name, value)));

            let reply = ask(&app, "/auth/token", &fields, json).await;

            assert_eq!((reply.status.as_u16(), self::code(&reply).as_str()), (400, error), "{case}: {reply:?}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{case}");
            let all = text(&reply);
            assert!(!all.contains(&code) && !all.contains(VERIFIER), "{case}: {all}");
            let after = exchange(&app, &code).await;
            assert_eq!(after.status.as_u16(), if used_up { 400 } else { 200 }, "{case}: {after:?}");
        }
    }
});

on_both_databases!(a_code_that_comes_again_ends_what_was_made_of_it, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let code = code_for_cli(&browser).await;
    let tokens = exchange(&app, &code).await.json();
    let access = tokens["access_token"].as_str().unwrap().to_owned();
    let refresh = tokens["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(app.get("/auth/me").bearer(&access).send().await.status, 200);

    let again = exchange(&app, &code).await;

    assert_eq!((again.status.as_u16(), self::code(&again).as_str()), (400, "invalid_grant"));
    assert_eq!(app.get("/auth/me").bearer(&access).send().await.status, 401);
    let renewed = ask(&app, "/auth/refresh", &[("refresh_token", &refresh)], true).await;
    assert_eq!((renewed.status.as_u16(), self::code(&renewed).as_str()), (400, "invalid_grant"));
    assert_eq!(events(&app, "sign_in_code_reused").await.len(), 1);
    assert_eq!(browser.get("/").await.status, 200, "the browser's own session is another");
});

on_both_databases!(of_many_who_bring_one_code_at_once_nobody_goes_on, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for round in 0..3 {
        let code = code_for_cli(&browser).await;

        let replies = futures_util::future::join_all((0..20).map(|_| exchange(&app, &code))).await;

        // The code may have been stolen: whoever was first is turned out by the second.
        let won: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert!(won.len() <= 1, "round {round}");
        for tokens in won {
            let access = tokens.json()["access_token"].as_str().unwrap().to_owned();
            assert_eq!(app.get("/auth/me").bearer(&access).send().await.status, 401);
        }
        assert!(replies.iter().all(|reply| matches!(reply.status.as_u16(), 200 | 400)));
    }
});

on_both_databases!(a_code_is_over_after_its_time_or_when_its_person_is_disabled, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for change in [
        "UPDATE one_time_codes SET expires_at = '2020-01-01 00:00:00'",
        "UPDATE users SET state = 'disabled'",
    ] {
        let code = code_for_cli(&browser).await;
        sql(&app, change).await;

        let reply = exchange(&app, &code).await;

        assert_eq!((reply.status.as_u16(), self::code(&reply).as_str()), (400, "invalid_grant"), "{change}");
    }
    assert_eq!(count(&app, "refresh_tokens").await, 0);
});

/// Where no program of this machine waits.
const NOT_LOOPBACK: &[&str] = &[
    "",
    "/callback",
    "http://localhost:8123/callback",
    "http://LOCALHOST:8123/callback",
    "http://127.0.0.1/callback",
    "https://127.0.0.1:8123/callback",
    "http://127.0.0.1:8123/callback?x=y",
    "http://127.0.0.1:8123/callback#x",
    "http://127.0.0.1:8123",
    "http://user@127.0.0.1:8123/callback",
    "http://user:pass@127.0.0.1:8123/callback",
    "http://127.0.0.1:8123@evil.example/callback",
    "http://127.0.0.1:8123\\@evil.example/callback",
    "http://127.0.0.1:8123%40evil.example/callback",
    "http://127.0.0.1.evil.example:8123/callback",
    "http://evil.example:8123/callback",
    "http://evil.example/127.0.0.1:8123",
    "http://0.0.0.0:8123/callback",
    "http://0:8123/callback",
    "http://127.1:8123/callback",
    "http://0x7f000001:8123/callback",
    "http://0177.0.0.1:8123/callback",
    "http://2130706433:8123/callback",
    "http://[::]:8123/callback",
    "http://[::ffff:127.0.0.1]:8123/callback",
    "http://[::1%25lo]:8123/callback",
    "http://169.254.169.254:80/latest",
    "http://10.0.0.1:8123/callback",
    "http:127.0.0.1:8123/callback",
    "http:///127.0.0.1:8123/callback",
    "//127.0.0.1:8123/callback",
    " http://127.0.0.1:8123/callback",
    "http://127.0.0.1:8123/callback ",
    "http://127.0.0.1:8123/call\tback",
    "http://127.0.0.1:8123/call\r\nback",
    "http://127.0.0.1:99999/callback",
    "http://127.0.0.1:-1/callback",
    "http://127.0.0.1:8123/\u{e4}",
    "http://\u{ff11}27.0.0.1:8123/callback",
    "javascript:alert(1)",
    "data:text/html,x",
    "file:///etc/passwd",
    "myapp://callback",
    "urn:ietf:wg:oauth:2.0:oob",
];

#[actix_web::test]
async fn a_code_goes_to_a_program_of_this_machine_or_nowhere() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let stranger = app.browser();
    let csrf = browser.csrf().await;
    for redirect in NOT_LOOPBACK {
        let fields = [("redirect_uri", *redirect), ("code_challenge", CHALLENGE), ("state", STATE)];
        let asked = format!("/login/cli?code_challenge_method=S256&{}", form(&fields));
        for (who, browser) in [("signed in", &browser), ("nobody", &stranger)] {
            let page = browser.get(&asked).await;

            assert_eq!(page.status, 400, "{redirect:?} {who}: {page:?}");
            assert!(page.headers.get("location").is_none(), "{redirect:?}");
            assert!(!text(&page).contains("evil.example"), "{redirect:?}");
        }
        for action in ["allow", "deny"] {
            let fields = [&fields[..], &[("action", action), ("csrf_token", &csrf)]].concat();

            let page = browser.form("/login/cli", &fields).await;

            assert_eq!(page.status, 400, "{redirect:?} {action}: {page:?}");
            assert!(!text(&page).contains("evil.example"), "{redirect:?}");
        }
    }
    assert_eq!(count(&app, "one_time_codes WHERE kind = 'code'").await, 0);
}

#[actix_web::test]
async fn a_program_that_proves_nothing_is_not_asked_about() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let csrf = browser.csrf().await;
    let long = "s".repeat(129);
    for (name, value) in [
        ("code_challenge", None),
        ("code_challenge", Some("")),
        ("code_challenge", Some(&CHALLENGE[..42])),
        ("code_challenge", Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cMx")),
        ("code_challenge", Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM")),
        ("code_challenge", Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-c=")),
        ("code_challenge_method", None),
        ("code_challenge_method", Some("plain")),
        ("code_challenge_method", Some("s256")),
        ("code_challenge_method", Some("")),
        ("state", None),
        ("state", Some("")),
        ("state", Some("short")),
        ("state", Some("a state of 16 or more")),
        ("state", Some("<script>alert(1)</script>")),
        ("state", Some(long.as_str())),
        ("redirect_uri", None),
    ] {
        let mut fields = vec![
            ("redirect_uri", REDIRECT),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", STATE),
        ];
        fields.retain(|(known, _)| *known != name);
        fields.extend(value.map(|value| (name, value)));

        let page = browser.get(&format!("/login/cli?{}", form(&fields))).await;

        assert_eq!(page.status, 400, "{name}={value:?}: {page:?}");
        assert!(!text(&page).contains("<script>alert"));
        if name == "code_challenge_method" {
            continue; // the form has no such field
        }
        fields.retain(|(known, _)| *known != "code_challenge_method");
        fields.extend([("action", "allow"), ("csrf_token", csrf.as_str())]);
        let page = browser.form("/login/cli", &fields).await;
        assert_eq!(page.status, 400, "{name}={value:?}: {page:?}");
    }
    assert_eq!(count(&app, "one_time_codes WHERE kind = 'code'").await, 0);
}

#[actix_web::test]
async fn what_was_denied_gives_no_code() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let csrf = browser.csrf().await;
    let page = browser
        .form(
            "/login/cli",
            &[
                ("csrf_token", &csrf),
                ("redirect_uri", REDIRECT),
                ("code_challenge", CHALLENGE),
                ("state", STATE),
                ("action", "deny"),
            ],
        )
        .await;

    assert!(text(&page).contains("error=access_denied"), "{page:?}");
    assert_eq!(count(&app, "one_time_codes WHERE kind = 'code'").await, 0);
}

struct Waiting {
    device_code: String,
    user_code: String,
}

async fn begin(app: &TestServer) -> Waiting {
    let reply = ask(app, "/auth/device", &[("client_id", "x")], false).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let told = reply.json();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    Waiting { device_code: text("device_code"), user_code: text("user_code") }
}

async fn poll(app: &TestServer, device_code: &str) -> Reply {
    ask(app, "/auth/token", &[("grant_type", DEVICE), ("device_code", device_code)], false).await
}

async fn decide(browser: &Browser, user_code: &str, action: &str) -> Reply {
    let csrf = browser.csrf().await;
    let fields = [("csrf_token", csrf.as_str()), ("user_code", user_code), ("action", action)];
    browser.form("/device", &fields).await
}

on_both_databases!(a_device_is_let_in_once_by_who_typed_its_code, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let device = begin(&app).await;
    let page = browser.get(&format!("/device?user_code={}", device.user_code)).await;
    assert_eq!(field(&page, "user_code"), device.user_code);

    assert_eq!(decide(&browser, &device.user_code.to_lowercase().replace('-', " "), "allow").await.status, 200);
    let again = decide(&browser, &device.user_code, "allow").await;
    let other = decide(&app.signed_in(OTHER_COMPANY).await, &device.user_code, "allow").await;
    let denied = decide(&browser, &device.user_code, "deny").await;

    for reply in [again, other, denied] {
        assert_eq!(reply.status, 400, "it waits no more: {reply:?}");
    }
    let tokens = poll(&app, &device.device_code).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let access = tokens.json()["access_token"].as_str().unwrap().to_owned();
    let me = app.get("/auth/me").bearer(&access).send().await.json();
    assert_eq!(me["email"], "developer@example.com");
    for _ in 0..2 {
        let second = poll(&app, &device.device_code).await;
        assert_eq!((second.status.as_u16(), code(&second).as_str()), (400, "expired_token"));
    }
    assert_eq!(count(&app, "sessions WHERE kind = 'cli'").await, 1);
});

on_both_databases!(what_was_allowed_and_not_fetched_ends_with_everybody_s_sessions, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let (allowed, waiting) = (begin(&app).await, begin(&app).await);
    assert_eq!(decide(&browser, &allowed.user_code, "allow").await.status, 200);
    let fetched_not = code_for_cli(&browser).await;

    assert!(app.command(&["session", "end", "--all"]).status.success());

    app.revalidate().await;
    assert_eq!(poll(&app, &allowed.device_code).await.status, 400);
    assert_eq!(exchange(&app, &fetched_not).await.status, 400);
    // Nobody has decided on this one: whoever does has signed in since.
    let again = app.signed_in(DEVELOPER).await;
    assert_eq!(decide(&again, &waiting.user_code, "allow").await.status, 200);
    assert_eq!(poll(&app, &waiting.device_code).await.status, 200);
});

on_both_databases!(of_many_polls_at_once_one_gets_the_approval, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    for round in 0..3 {
        let device = begin(&app).await;
        assert_eq!(decide(&browser, &device.user_code, "allow").await.status, 200);

        let polls = (0..20).map(|_| poll(&app, &device.device_code));
        let replies = futures_util::future::join_all(polls).await;

        let won = replies.iter().filter(|reply| reply.status == 200).count();
        assert_eq!(won, 1, "round {round}: {replies:?}");
        assert_eq!(count(&app, "sessions WHERE kind = 'cli'").await, round + 1);
    }
});

on_both_databases!(who_asks_too_often_is_told_to_slow_down_and_waits_longer, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let device = begin(&app).await;
    assert_eq!(code(&poll(&app, &device.device_code).await), "authorization_pending");
    assert_eq!(code(&poll(&app, &device.device_code).await), "slow_down");
    assert_eq!(decide(&browser, &device.user_code, "allow").await.status, 200);
    assert_eq!(code(&poll(&app, &device.device_code).await), "slow_down", "even then");

    // As if it had last asked an hour ago.
    let (shared, now) = (app.shared(), db::now());
    let waiting = device::Waiting::on(None, now - TimeDelta::hours(1), now + TimeDelta::minutes(5));
    let digest = shared.keys.codes.digest(&device.device_code);
    shared.cache.put(digest, &waiting, Moment { now, generation: 0 }).await;

    assert_eq!(poll(&app, &device.device_code).await.status, 200);
});

on_both_databases!(a_device_that_was_denied_or_whose_time_is_over_is_told_so, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let denied = begin(&app).await;
    assert_eq!(decide(&browser, &denied.user_code, "deny").await.status, 200);
    assert_eq!(code(&poll(&app, &denied.device_code).await), "access_denied");
    assert_eq!(code(&poll(&app, &denied.device_code).await), "expired_token");

    // Over before it was decided, and after.
    for decided in [false, true] {
        let device = begin(&app).await;
        if decided {
            assert_eq!(decide(&browser, &device.user_code, "allow").await.status, 200);
        }
        sql(&app, "UPDATE one_time_codes SET expires_at = '2020-01-01 00:00:00'").await;

        let page = browser.get(&format!("/device?user_code={}", device.user_code)).await;

        assert!(text(&page).contains("No device waits"), "{page:?}");
        assert_eq!(decide(&browser, &device.user_code, "allow").await.status, 400);
        assert_eq!(code(&poll(&app, &device.device_code).await), "expired_token");
    }
    // Disabled between the approval and the poll.
    let device = begin(&app).await;
    assert_eq!(decide(&browser, &device.user_code, "allow").await.status, 200);
    sql(&app, "UPDATE users SET state = 'disabled'").await;
    assert_eq!(code(&poll(&app, &device.device_code).await), "invalid_grant");
    assert_eq!(count(&app, "sessions WHERE kind = 'cli'").await, 0);
});

#[actix_web::test]
async fn what_is_no_code_finds_no_device() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let device = begin(&app).await;
    let last = if device.user_code.ends_with('B') { 'C' } else { 'B' };
    let near = format!("{}{last}", &device.user_code[..8]);
    for typed in [
        near.as_str(),
        &device.user_code[..8],
        "BCDF",
        "AEIO-UAEI",
        "1234-5678",
        "%%%%-%%%%",
        "____-____",
        "' OR 1=1 --",
        "<script>alert(1)</script>",
        "BCDF-GHJK-LMNP",
        "\u{412}CDF-GHJK",
        "BCDF-GHJK\0",
        &device.device_code,
    ] {
        let page = browser.get(&format!("/device?{}", form(&[("user_code", typed)]))).await;
        let decided = decide(&browser, typed, "allow").await;

        assert!(text(&page).contains("No device waits"), "{typed:?}: {page:?}");
        assert!(!text(&page).contains("<script>alert"), "{typed:?}");
        assert_eq!(decided.status, 400, "{typed:?}: {decided:?}");
        assert!(!text(&decided).contains("<script>alert"), "{typed:?}");
    }
    let reply = poll(&app, &device.user_code).await;
    assert_eq!(code(&reply), "expired_token", "the typed code is not the device's");
    assert_eq!(code(&poll(&app, &device.device_code).await), "authorization_pending");
}

#[actix_web::test]
async fn guesses_at_codes_are_few() {
    for way in ["page", "form", "poll"] {
        let app = unlimited().set("RATE_LIMITS__FAILED_CREDENTIALS_PER_MINUTE", 3).start().await;
        let browser = app.signed_in(DEVELOPER).await;
        let csrf = browser.csrf().await;
        let mut limited = None;
        for guess in 0..40 {
            let typed = format!("BCDF-GH{}{}", letter(guess / 20), letter(guess));
            let fields =
                [("csrf_token", csrf.as_str()), ("user_code", &typed), ("action", "allow")];
            let reply = match way {
                "page" => browser.get(&format!("/device?user_code={typed}")).await,
                "form" => browser.form("/device", &fields).await,
                _ => poll(&app, &typed).await,
            };
            if reply.status == 429 {
                assert!(reply.header("retry-after").is_some());
                limited = Some(guess);
                break;
            }
        }

        let limited = limited.unwrap_or_else(|| panic!("{way}: forty guesses"));
        assert!(limited >= 3, "{way}: {limited}");
        assert_eq!(events(&app, "rate_limited").await.len(), 1, "{way}");
    }
}

fn letter(number: usize) -> char {
    "BCDFGHJKLMNPQRSTVWXZ".chars().nth(number % 20).unwrap()
}

on_both_databases!(a_refresh_token_that_is_none_gives_nothing, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let code = code_for_cli(&browser).await;
    let tokens = exchange(&app, &code).await.json();
    let access = tokens["access_token"].as_str().unwrap();
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let session = browser.cookie("bedrock_session").unwrap();
    for given in [
        "",
        " ",
        "x",
        access,
        &session,
        &format!("SSOR_{session}"),
        &format!("SSOR_{}", "A".repeat(43)),
        &format!("{refresh}A"),
        &refresh[..47],
        &refresh.to_uppercase(),
        &refresh.replace("SSOR_", "SSOK_"),
        &refresh.replace("SSOR_", ""),
        "\0",
        "' OR 1=1 --",
    ] {
        for json in [false, true] {
            let reply = ask(&app, "/auth/refresh", &[("refresh_token", given)], json).await;

            assert_eq!((reply.status.as_u16(), self::code(&reply).as_str()), (400, "invalid_grant"), "{given}");
        }
        // Nor is it a credential.
        let reply = app.get("/auth/me").bearer(refresh).send().await;
        assert_eq!(reply.status, 401);
    }
    let renewed = ask(&app, "/auth/refresh", &[("refresh_token", refresh)], true).await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
});

#[actix_web::test]
async fn tokens_of_the_browser_s_session_need_its_page() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let key = app.create_key("user@example.com").await;
    let token = app.create_token("user@example.com").await;
    let body = json!({"grant_type": "session"});
    let asked = |request: Request| request.header("content-type", JSON).json(&body).send();

    let plain = asked(bare(&browser, "POST", "/auth/token")).await;
    let with_key = asked(app.post("/auth/token").bearer(&key)).await;
    let with_token = asked(app.post("/auth/token").bearer(&token)).await;
    let nobody = asked(app.post("/auth/token")).await;

    let statuses = [plain, with_key, with_token, nobody].map(|reply| reply.status.as_u16());
    assert_eq!(statuses, [403, 403, 400, 401]);
    assert_eq!(count(&app, "refresh_tokens").await, 0);
    let good = browser.api("POST", "/auth/token", Some(&body)).await;
    assert_eq!(good.status, 200, "{good:?}");
}
