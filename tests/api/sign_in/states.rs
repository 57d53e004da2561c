//! The way back: it must be the same browser, the same provider, the same sign-in, once.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bedrock_sso_proxy::{
    auth::sign_in::{PENDING_MINUTES, Pending},
    db,
};
use chrono::TimeDelta;

use super::*;
use crate::helpers::on_both_databases;

const COOKIE: &str = "bedrock_login";

/// Sends a way back as a script would, and sees that it was refused before anything left for the provider.
async fn expired(app: &TestServer, name: &str, browser: &Browser, path: &str) {
    let ledger = app.identity().ledger();
    let asked = ledger.token_requests();
    let rows = ["sessions", "audit_logs WHERE event_type = 'sign_in_failed'"];
    let [sessions, failed] = counts(app, rows).await;

    let reply = bare(browser, "GET", path).header("accept", JSON).send().await;

    assert_eq!(reply.status, 400, "{name}: {reply:?}");
    assert_eq!(code(&reply), "login_expired", "{name}");
    assert!(!sets_cookie(&reply, "bedrock_session"), "{name}: {reply:?}");
    assert_eq!(ledger.token_requests(), asked, "{name}: the code went to the provider");
    // Who comes without any sign-in is worth one line a minute, others one each.
    let nothing = count(app, "audit_logs WHERE error_code = 'no_pending_sign_in'").await;
    let [after, failed_after] = counts(app, rows).await;
    assert_eq!(after, sessions, "{name}");
    assert!(failed_after == failed + 1 || nothing == 1, "{name}: one event");
}

on_both_databases!(a_state_that_is_not_this_sign_in_s_is_refused_before_the_code_leaves, backend => {
    let app = two_providers().backend(backend).start().await;
    let browser = app.browser();
    let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    let state = parameter(&back, "state").unwrap();
    let attacker = app.browser();
    let theirs = way_back(&attacker, "sso", &[("person", OTHER_COMPANY)]).await;
    let their_state = parameter(&theirs, "state").unwrap();
    let other = app.browser();
    let elsewhere = way_back(&other, "other", &[("person", DEVELOPER)]).await;
    let (head, tail) = state.split_at(42);
    let flipped = if tail == "A" { "B" } else { "A" };
    let states = [
        ("missing", None),
        ("empty", Some(String::new())),
        ("a space", Some(" ".to_owned())),
        ("of another browser", Some(their_state)),
        ("of another provider's sign-in", parameter(&elsewhere, "state")),
        ("random", Some("A".repeat(43))),
        ("cut", Some(head.to_owned())),
        ("longer", Some(format!("{state}A"))),
        ("with a space", Some(format!("{state} "))),
        ("with a null", Some(format!("{state}\0"))),
        ("with a new line", Some(format!("{state}\n"))),
        ("in another case", Some(state.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect())),
        ("with another last letter", Some(format!("{head}{flipped}"))),
        ("twice", Some(format!("{state}{state}"))),
        ("huge", Some("A".repeat(6000))),
        ("the cookie", browser.cookie(COOKIE)),
        ("unicode", Some("\u{1f511}".to_owned())),
    ];
    for (name, state) in states {
        expired(&app, name, &browser, &with(&back, "state", state.as_deref())).await;
    }
    for (name, path) in [
        ("another browser's answer", theirs.clone()),
        ("another provider's path", back.replace("/callback/sso", "/callback/other")),
        ("another provider's answer", elsewhere.clone()),
        ("another provider's answer, here", elsewhere.replace("/callback/other", "/callback/sso")),
        ("no parameters", "/auth/callback/sso".to_owned()),
        ("an error without a state", "/auth/callback/sso?error=access_denied".to_owned()),
        ("an error with a wrong one", "/auth/callback/sso?error=x&error_description=y&state=z".to_owned()),
    ] {
        expired(&app, name, &browser, &path).await;
    }

    assert_eq!(browser.get(&back).await.status, 302, "it is still good in the right hands");
    expired(&app, "used", &browser, &back).await;
});

on_both_databases!(a_cookie_that_is_not_this_sign_in_s_is_refused_before_the_code_leaves, backend => {
    let app = two_providers().backend(backend).start().await;
    let browser = app.browser();
    let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    let cookie = browser.cookie(COOKIE).unwrap();
    let other = app.browser();
    way_back(&other, "sso", &[("person", DEVELOPER)]).await;
    let elsewhere = app.browser();
    way_back(&elsewhere, "other", &[("person", DEVELOPER)]).await;
    let session = app.signed_in(OTHER_COMPANY).await.cookie("bedrock_session").unwrap();
    let mut cookies = vec![
        ("of another sign-in".to_owned(), other.cookie(COOKIE).unwrap()),
        ("of another provider's".to_owned(), elsewhere.cookie(COOKIE).unwrap()),
        ("empty".to_owned(), String::new()),
        ("a session".to_owned(), session),
        ("lower case".to_owned(), cookie.to_lowercase()),
        ("doubled".to_owned(), format!("{cookie}{cookie}")),
        ("padded".to_owned(), format!("{cookie}=")),
        ("not base64".to_owned(), "%%%".to_owned()),
    ];
    for place in (0..cookie.len()).step_by(7) {
        let mut letters: Vec<char> = cookie.chars().collect();
        letters[place] = if letters[place] == 'A' { 'B' } else { 'A' };
        cookies.push((format!("altered at {place}"), letters.into_iter().collect()));
        cookies.push((format!("cut at {place}"), cookie[..place].to_owned()));
    }
    // What is sealed for another purpose, by another key, or was good once.
    let keys = keys(&app);
    let now = db::now();
    let pending = Pending::new("sso", "/", now);
    let plain = serde_json::to_vec(&pending).unwrap();
    for whose in ["user:1", "", "Browser"] {
        let sealed = keys.pending.seal(whose, &plain).unwrap();
        cookies.push((format!("sealed for {whose:?}"), URL_SAFE_NO_PAD.encode(sealed)));
    }
    let sealed = keys.provider_tokens.seal("browser", &plain).unwrap();
    cookies.push(("sealed with another key".to_owned(), URL_SAFE_NO_PAD.encode(sealed)));
    cookies.push(("not sealed".to_owned(), URL_SAFE_NO_PAD.encode(&plain)));
    for (name, value) in cookies {
        let thief = app.browser();
        thief.set_cookie(COOKIE, &value);
        let path = match name.starts_with("sealed") || name == "not sealed" {
            true => with(&back, "state", Some(&pending.state)),
            false => back.clone(),
        };
        expired(&app, &format!("cookie: {name}"), &thief, &path).await;
    }
    let forgetful = browser.copy();
    forgetful.forget_cookies();
    expired(&app, "no cookie", &forgetful, &back).await;
    let old = Pending::new("sso", "/", now - TimeDelta::minutes(PENDING_MINUTES));
    let late = app.browser();
    late.set_cookie(COOKIE, &old.seal(&keys.pending).unwrap());
    expired(&app, "too late", &late, &with(&back, "state", Some(&old.state))).await;

    assert_eq!(browser.get(&back).await.status, 302, "it is still good in the right hands");
});

#[actix_web::test]
async fn of_two_sign_ins_in_one_browser_the_later_counts() {
    let app = unlimited().start().await;
    let browser = app.browser();
    let first = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    let second = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;

    expired(&app, "the first", &browser, &first).await;

    assert_eq!(browser.get(&second).await.status, 302);
}

on_both_databases!(what_was_used_stays_used_after_a_restart, backend => {
    let mut app = unlimited().backend(backend).start().await;
    let browser = app.browser();
    let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    let cookie = browser.cookie(COOKIE).unwrap();
    assert_eq!(browser.get(&back).await.status, 302);
    let failed = app.browser();
    let refused = way_back(&failed, "sso", &[("person", DEVELOPER), ("fault", "expired")]).await;
    assert_eq!(failed.copy().get(&refused).await.status, 403);
    let under_way = app.browser();
    let unused = way_back(&under_way, "sso", &[("person", DEVELOPER)]).await;

    app.restart().await;

    for (name, pending, path) in [
        ("used", cookie, &back),
        ("failed", failed.cookie(COOKIE).unwrap(), &refused),
    ] {
        let browser = app.browser();
        browser.set_cookie(COOKIE, &pending);
        expired(&app, name, &browser, path).await;
    }
    // Another key: what was sealed before is nobody's.
    app.settings.jwt.secret = Some("another-secret-with-more-than-32-characters".into());
    app.restart().await;
    let browser = app.browser();
    browser.set_cookie(COOKIE, &under_way.cookie(COOKIE).unwrap());
    expired(&app, "of another key", &browser, &unused).await;
});

/// Codes that are not the provider's, with a state that is right.
#[actix_web::test]
async fn a_code_that_is_none_ends_the_sign_in_and_nothing_else() {
    let app = unlimited().start().await;
    app.signed_in(DEVELOPER).await;
    let huge = "A".repeat(6000);
    for (given, reason) in [
        (None, "no_code"),
        (Some(""), "no_code"),
        (Some(" "), "provider_refused"),
        (Some("wrong"), "provider_refused"),
        (Some("\0"), "provider_refused"),
        (Some("a\r\nSet-Cookie: a=b"), "provider_refused"),
        (Some("<script>alert(1)</script>"), "provider_refused"),
        (Some("../../token"), "provider_refused"),
        (Some("a&grant_type=password"), "provider_refused"),
        (Some("\u{1f511}"), "provider_refused"),
        (Some(huge.as_str()), "provider_refused"),
    ] {
        let browser = app.browser();
        let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;

        let reply = browser.get(&with(&back, "code", given)).await;

        assert_eq!(reply.status, 403, "{given:?}: {reply:?}");
        assert!(said(&reply).contains("Start again"), "{}", said(&reply));
        assert!(!text(&reply).contains("<script>alert") && !sets_cookie(&reply, "a"));
        assert_eq!(browser.cookie("bedrock_session"), None, "{given:?}");
        assert_eq!(events(&app, "sign_in_failed").await[0].error_code.as_deref(), Some(reason));
    }
    assert_eq!(count(&app, "sessions").await, 1);
}

on_both_databases!(a_code_of_another_sign_in_is_worth_nothing_here, backend => {
    let app = two_providers().backend(backend).start().await;
    for (name, provider, subject) in [
        ("the attacker's own", "sso", OTHER_COMPANY),
        ("of another provider", "other", DEVELOPER),
    ] {
        let victim = app.browser();
        let back = way_back(&victim, "sso", &[("person", DEVELOPER)]).await;
        let attacker = app.browser();
        let theirs = way_back(&attacker, provider, &[("person", subject)]).await;
        let stolen = parameter(&theirs, "code");

        let reply = victim.get(&with(&back, "code", stolen.as_deref())).await;

        assert_eq!(reply.status, 403, "{name}: {reply:?}");
        assert_eq!(victim.cookie("bedrock_session"), None, "{name}");
        let failed = events(&app, "sign_in_failed").await;
        assert_eq!(failed[0].error_code.as_deref(), Some("provider_refused"), "{name}");
    }
    assert_eq!(count(&app, "sessions").await, 0);
});

#[actix_web::test]
async fn an_answer_that_names_another_issuer_or_none_where_it_is_promised_keeps_its_code() {
    let app = unlimited().start().await;
    app.signed_in(DEVELOPER).await;
    let issuer = app.identity().issuer();
    let slash = format!("{issuer}/");
    let upper = issuer.to_uppercase();
    let longer = format!("{issuer}.evil.example");
    for iss in [
        None,
        Some(""),
        Some("https://other-provider.example"),
        Some(slash.as_str()),
        Some(upper.as_str()),
        Some(longer.as_str()),
        Some("null"),
    ] {
        let browser = app.browser();
        let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
        let asked = app.identity().ledger().token_requests();

        let reply = browser.get(&with(&back, "iss", iss)).await;

        assert_eq!(reply.status, 403, "{iss:?}: {reply:?}");
        assert!(said(&reply).contains("(iss)"), "{}", said(&reply));
        assert_eq!(app.identity().ledger().token_requests(), asked, "{iss:?}");
    }
}

#[actix_web::test]
async fn a_parameter_that_is_there_twice_is_no_answer() {
    let app = unlimited().start().await;
    let browser = app.browser();
    let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    for name in ["state", "code", "iss"] {
        for value in ["", "x", &parameter(&back, name).unwrap()] {
            let twice = format!("{back}&{name}={value}");

            let reply = bare(&browser, "GET", &twice).header("accept", JSON).send().await;

            assert_eq!(reply.status, 400, "{name}={value}: {reply:?}");
            assert_eq!(app.identity().ledger().token_requests(), 0);
        }
    }
    assert_eq!(browser.get(&back).await.status, 302);
}

/// What a provider may answer in the place of a code.
#[actix_web::test]
async fn an_error_of_the_provider_is_told_in_our_words_or_in_few_of_its_own() {
    let app = unlimited().start().await;
    let long = "<script>alert(1)</script> ".repeat(200);
    for (error, description, says) in [
        ("access_denied", None, "does not let you in"),
        ("access_denied", Some(long.as_str()), "does not let you in"),
        ("login_required", None, "sign in there first"),
        ("interaction_required", Some("x"), "sign in there first"),
        ("consent_required", None, "sign in there first"),
        ("temporarily_unavailable", None, "trouble at the moment"),
        ("server_error", Some("SELECT 1"), "trouble at the moment"),
        ("invalid_scope", None, "scopes"),
        ("unauthorized_client", None, "settings"),
        ("invalid_request", None, "settings"),
        ("unsupported_response_type", None, "settings"),
        ("AADSTS50105", Some("Ask your admin."), "Ask your admin."),
        ("odd", Some(long.as_str()), "script"),
        ("odd", Some("a\u{0}b\u{1b}[31mc\r\nd"), "ab[31mcd"),
        ("odd", Some("' onmouseover='alert(1)"), "alert"),
        ("<script>alert(1)</script>", None, "script"),
        (long.as_str(), None, "script"),
        ("", None, "said"),
    ] {
        for accept in [HTML, JSON] {
            let browser = app.browser();
            let at = browser.begin("sso", "/").await;
            let state = parameter(&at, "state").unwrap();
            let mut fields = vec![("error", error), ("state", &state), ("code", "x")];
            fields.extend(description.map(|text| ("error_description", text)));
            let path = format!("/auth/callback/sso?{}", crate::helpers::form(&fields));

            let reply = bare(&browser, "GET", &path).header("accept", accept).send().await;

            assert_eq!(reply.status, 403, "{error:.40}: {reply:?}");
            let told = message(&reply, accept);
            assert!(told.contains(says), "{error:.40}: {told}");
            if accept == HTML {
                assert!(!told.contains(['<', '>', '"', '\'']), "{error:.40}: {told}");
            }
            let plain = told.replace("&#60;", "<").replace("&#62;", ">").replace("&#39;", "'");
            assert!(plain.chars().count() <= 230, "{error:.40}: {} letters", plain.chars().count());
            assert!(!told.chars().any(char::is_control), "{told:?}");
            let failed = events(&app, "sign_in_failed").await;
            assert_eq!(failed[0].error_code.as_deref(), Some("provider_error"));
        }
    }
    assert_eq!(app.identity().ledger().token_requests(), 0, "a code beside an error goes nowhere");
}

on_both_databases!(of_fifty_callbacks_with_one_state_one_reaches_the_provider, backend => {
    let rounds = std::env::var("SOAK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let app = unlimited().backend(backend).start().await;
    for round in 1..=rounds.unwrap_or(5) {
        let browser = app.browser();
        let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;

        let all = (0..50).map(|_| bare(&browser, "GET", &back).header("accept", JSON).send());
        let replies = futures_util::future::join_all(all).await;

        let won = replies.iter().filter(|reply| reply.status == 302).count();
        let lost = replies.iter().filter(|reply| reply.status == 400).count();
        assert_eq!((won, lost), (1, 49), "round {round}: {replies:?}");
        assert!(replies.iter().filter(|r| r.status == 400).all(|r| code(r) == "login_expired"));
        assert_eq!(app.identity().ledger().token_requests(), round, "round {round}");
        assert_eq!(count(&app, "sessions").await as usize, round, "round {round}");
    }
});
