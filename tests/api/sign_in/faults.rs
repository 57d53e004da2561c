//! What a provider may say wrongly of one sign-in, and of one person.

use bedrock_sso_proxy::simulator::identity::{FAULTS, Fault, Person, SigningAlgorithm};
use serde_json::{Value, json};

use super::*;

/// A fault that must end the sign-in: whose, how it is answered, the reason in the audit log, and what is said of it.
struct Refused {
    fault: &'static str,
    person: &'static str,
    status: u16,
    reason: &'static str,
    says: &'static str,
}

const fn refused(
    fault: &'static str,
    status: u16,
    reason: &'static str,
    says: &'static str,
) -> Refused {
    Refused { fault, person: DEVELOPER, status, reason, says }
}

const REFUSED: &[Refused] = &[
    refused("wrong_issuer", 403, "id_token_invalid", "claim iss is wrong"),
    refused("wrong_audience", 403, "id_token_invalid", "claim aud is wrong"),
    refused("extra_audience", 403, "id_token_invalid", "claim azp is wrong"),
    refused("wrong_azp", 403, "id_token_invalid", "claim azp is wrong"),
    refused("expired", 403, "id_token_invalid", "expired (exp)"),
    refused("issued_in_future", 403, "id_token_invalid", "claim iat is wrong"),
    refused("no_exp", 403, "id_token_invalid", "claim exp is missing"),
    refused("no_iat", 403, "id_token_invalid", "claim iat is missing"),
    refused("no_sub", 403, "id_token_invalid", "claim sub is missing"),
    refused("wrong_nonce", 403, "id_token_invalid", "claim nonce is wrong"),
    refused("no_nonce", 403, "id_token_invalid", "claim nonce is missing"),
    refused("alg_none", 403, "id_token_invalid", "algorithm is not accepted"),
    refused("hs256_with_client_secret", 403, "id_token_invalid", "algorithm is not accepted"),
    refused("hs256_with_public_key", 403, "id_token_invalid", "algorithm is not accepted"),
    refused("unknown_kid", 403, "id_token_invalid", "key that the provider does not publish"),
    refused("foreign_key", 403, "id_token_invalid", "signature is wrong"),
    refused("tampered_payload", 403, "id_token_invalid", "signature is wrong"),
    refused("no_id_token", 403, "answer_incomplete", "no id_token"),
    refused("empty_subject", 403, "id_token_invalid", "claim sub is missing"),
    Refused {
        person: NO_ADDRESS, // only then is the user information asked for
        ..refused("userinfo_other_subject", 403, "profile_invalid", "(sub)")
    },
    refused("wrong_iss", 403, "other_issuer", "(iss)"),
    refused("no_state", 400, "state_mismatch", "began in another browser"),
    refused("wrong_state", 400, "state_mismatch", "began in another browser"),
    refused("error_with_html", 403, "provider_error", "does not let you in"),
    refused("token_error", 503, "provider_unavailable", "its token endpoint"),
    refused("token_not_json", 503, "provider_unavailable", "its token endpoint"),
];

#[actix_web::test]
async fn an_error_that_is_longer_than_a_request_line_is_refused_at_the_door() {
    let app = unlimited().start().await;
    let browser = app.browser();

    let end = browser.sign_in_with(&[("person", DEVELOPER), ("fault", "error_with_html")]).await;

    assert_eq!(end.status, 431, "{end:?}");
    assert!(said(&end).contains("request line") && !text(&end).contains("alert"), "{end:?}");
    assert_eq!(browser.cookie("bedrock_session"), None);
}

/// Faults with which the sign-in goes on: whether there is an address then, and whether it counts as verified.
const LET_IN: &[(&str, bool, bool)] = &[
    ("integer_subject", true, true),
    ("userinfo_other_subject", true, true), // the id_token says all, so nobody asks
    ("email_verified_false", true, false),
    ("email_verified_missing", true, false),
    ("email_verified_string", true, false),
    ("no_email", false, false),
    ("two_ats", false, false),
    ("homograph", false, false),
    ("trailing_dot", false, false),
    ("html_name", true, true),
    ("refresh_temporarily_fails", true, true),
];

#[test]
fn every_fault_of_a_sign_in_has_a_row() {
    for (name, _) in FAULTS {
        let fault: Fault = name.parse().unwrap();
        let known = REFUSED.iter().any(|row| row.fault == *name)
            || LET_IN.iter().any(|(known, ..)| known == name);

        assert_eq!(known, fault.fits_one_sign_in(), "{name}");
    }
}

/// Each refusal, asked for by a browser, by a script, and by who says nothing.
async fn refuses(backend: Backend, signing: SigningAlgorithm) {
    let app = unlimited()
        .backend(backend)
        .identity(|provider| provider.signing = signing)
        .set("SERVER__LIMITS__REQUEST_LINE_BYTES", 32768)
        .start()
        .await;
    app.signed_in(DEVELOPER).await;
    let before = Stock::of(&app).await;
    let mut wrong = Vec::new();
    for row in REFUSED {
        for accept in [HTML, JSON, "*/*"] {
            let name = format!("{} ({accept})", row.fault);
            let browser = app.browser();
            let back =
                way_back(&browser, "sso", &[("person", row.person), ("fault", row.fault)]).await;

            let reply = bare(&browser, "GET", &back).header("accept", accept).send().await;

            let mut check = |good: bool, what: &str| {
                if !good {
                    wrong.push(format!("{name}: {what}: {reply:?}"));
                }
            };
            let told = message(&reply, accept);
            check(reply.status == row.status, "status");
            check(reply.headers.get("set-cookie").is_none(), "a cookie is set");
            check(reply.header("location").is_none(), "it leads elsewhere");
            check(reply.header("cache-control") == Some("no-store"), "it may be cached");
            check((row.status == 503) == reply.header("retry-after").is_some(), "Retry-After");
            check(told.contains(row.says), &format!("it says {told}"));
            check(told.chars().count() <= 300, "it says too much");
            check(!told.contains('<'), "it is not escaped");
            let all = text(&reply);
            let code = parameter(&back, "code").unwrap_or_else(|| "no code".to_owned());
            let state = parameter(&back, "state").unwrap_or_else(|| "no state".to_owned());
            for secret in [&code, &state, "simulated-client-secret", "eyJ", "alert", "127.0.0.1"] {
                check(!all.contains(secret), &format!("it shows {secret}"));
            }
            let failed = events(&app, "sign_in_failed").await;
            let newest = failed.first();
            check(newest.is_some_and(|e| e.error_code.as_deref() == Some(row.reason)), "audit");
            check(
                newest.is_some_and(|e| !e.success && e.provider.as_deref() == Some("sso")),
                "audit",
            );
        }
    }
    let failed = count(&app, "audit_logs WHERE event_type = 'sign_in_failed'").await;
    let after = Stock::of(&app).await;
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(failed as usize, REFUSED.len() * 3, "one event each");
    for what in ["users", "sessions", "sessions WHERE ended_at IS NULL", "refresh_tokens"] {
        assert_eq!(after.0[what], before.0[what], "{what}");
    }
}

use crate::helpers::{Backend, on_both_databases};

on_both_databases!(a_sign_in_that_the_provider_gets_wrong_is_refused_with_a_reason, backend => {
    refuses(backend, SigningAlgorithm::Rs256).await;
});

#[actix_web::test]
async fn it_is_refused_with_signatures_of_elliptic_curves_too() {
    refuses(Backend::Sqlite, SigningAlgorithm::Es256).await;
}

on_both_databases!(a_fault_that_no_rule_minds_lets_in_and_makes_no_address_verified, backend => {
    let app = unlimited().backend(backend).start().await;
    for (fault, address, verified) in LET_IN {
        let browser = app.browser();

        let end = browser.sign_in_with(&[("person", DEVELOPER), ("fault", fault)]).await;

        assert_eq!(end.status, 302, "{fault}: {end:?}");
        let me = browser.get("/auth/me").await;
        let me = me.json();
        assert_eq!(me["email"].is_string(), *address, "{fault}: {me}");
        assert_eq!(me["email_verified"], *verified, "{fault}: {me}");
        assert_eq!(me["admin"], false, "{fault}: {me}");
        let name = me["display_name"].as_str().unwrap_or_default();
        assert!(name.chars().count() <= 100 && !name.chars().any(char::is_control), "{fault}: {name:?}");
        assert!(!name.contains('\u{202e}'), "{fault}: {name:?}");
        let home = text(&browser.get("/").await);
        assert!(!home.contains("<img src=x") && !home.contains("alert(\"1\")"), "{fault}: {home}");
    }
    // All of them were one person: an integer is the same subject as its digits.
    assert_eq!(count(&app, "users WHERE provider = 'sso'").await, 1);
});

/// With `example.com` alone: who, with which fault, and why they stay outside.
const DOMAIN_RULE: &[(&str, Option<&str>, Option<&str>)] = &[
    (ADMIN_SUBJECT, None, None),
    (DEVELOPER, None, None),
    (DEVELOPER, Some("html_name"), None),
    (DEVELOPER, Some("integer_subject"), None),
    (UNVERIFIED, None, Some("email_not_verified")),
    (NO_ADDRESS, None, Some("email_missing")),
    (OTHER_COMPANY, None, Some("email_domain_not_allowed")),
    (DEVELOPER, Some("email_verified_false"), Some("email_not_verified")),
    (DEVELOPER, Some("email_verified_missing"), Some("email_not_verified")),
    (DEVELOPER, Some("email_verified_string"), Some("email_not_verified")),
    (DEVELOPER, Some("no_email"), Some("email_missing")),
    (DEVELOPER, Some("two_ats"), Some("email_missing")),
    (DEVELOPER, Some("homograph"), Some("email_missing")),
    (DEVELOPER, Some("trailing_dot"), Some("email_missing")),
    (OTHER_COMPANY, Some("two_ats"), Some("email_missing")),
    (ADMIN_SUBJECT, Some("email_verified_string"), Some("email_not_verified")),
];

on_both_databases!(with_a_rule_of_domains_an_address_must_be_verified_and_of_one_of_them, backend => {
    let app = unlimited()
        .backend(backend)
        .set("AUTH__ALLOWED_EMAIL_DOMAINS", "example.com")
        .start()
        .await;
    for (subject, fault, reason) in DOMAIN_RULE {
        let name = format!("{subject} {fault:?}");
        let browser = app.browser();
        let mut fields = vec![("person", *subject)];
        fields.extend(fault.map(|fault| ("fault", fault)));

        let end = browser.sign_in_with(&fields).await;

        let Some(reason) = reason else {
            assert_eq!(end.status, 302, "{name}: {end:?}");
            continue;
        };
        assert_eq!(end.status, 403, "{name}: {end:?}");
        assert!(said(&end).contains("auth.allowed_email_domains"), "{name}: {}", said(&end));
        assert_eq!(browser.cookie("bedrock_session"), None, "{name}");
        let failed = events(&app, "sign_in_failed").await;
        assert_eq!(failed[0].error_code.as_deref(), Some(*reason), "{name}");
    }
    for subject in [UNVERIFIED, NO_ADDRESS, OTHER_COMPANY] {
        assert_eq!(person(&app, "sso", subject).await, None, "{subject} is not even known");
    }
});

/// Addresses, and whether `example.com` and `*.corp.example` let them in.
const ADDRESSES: &[(&str, bool)] = &[
    ("a@example.com", true),
    ("A@EXAMPLE.COM", true),
    ("a+b@example.com", true),
    ("o'neill@example.com", true),
    ("a@x.corp.example", true),
    ("a@X.Corp.Example", true),
    ("a@y.x.corp.example", true),
    ("a@corp.example", false),
    ("a@.corp.example", false),
    ("a@evilcorp.example", false),
    ("a@x.corp.example.evil.org", false),
    ("a@sub.example.com", false),
    ("a@notexample.com", false),
    ("a@example.com.evil.org", false),
    ("a@example.com.", false),
    ("a@example.comx", false),
    ("a@example.co", false),
    ("a@evil.org@example.com", false),
    ("a@evil.org,a@example.com", false),
    ("a@evil.org a@example.com", false),
    ("a@evil.org\na@example.com", false),
    ("a@evil.org\0@example.com", false),
    ("a@example.com\0.evil.org", false),
    ("a@example.com%00.evil.org", false),
    ("a@example.com#@evil.org", false),
    ("a@example.com?@evil.org", false),
    ("a@example.com/.evil.org", false),
    ("\"a@evil.org\"@example.com", false),
    ("<a@example.com>", false),
    ("Ada <a@example.com>", false),
    ("mailto:a@example.com", false),
    ("a@ex\u{430}mple.com", false),
    ("a@example.c\u{3bf}m", false),
    ("\u{430}@example.com", false),
    ("a@xn--xample-9uf.com", false),
    ("a@example\u{3002}com", false),
    ("a@example\u{ff0e}com", false),
    ("a\u{202e}@example.com", false),
    (" a@example.com", false),
    ("a@example.com ", false),
    ("a@ example.com", false),
    ("@example.com", false),
    ("example.com", false),
    ("a@", false),
    ("@", false),
    ("", false),
    ("a@[example.com]", false),
    ("a@-example.com", false),
    ("..@example.com", false),
    ("a@*.corp.example", false),
    ("a@%.corp.example", false),
];

#[actix_web::test]
async fn an_address_of_another_domain_does_not_pass_for_one_of_ours() {
    let app =
        unlimited().set("AUTH__ALLOWED_EMAIL_DOMAINS", "example.com,*.corp.example").start().await;
    let mut wrong = Vec::new();
    for (number, (address, let_in)) in ADDRESSES.iter().enumerate() {
        let subject = format!("address-{number}");
        app.identity().change_person(Person::new(&subject, address, "Somebody"));

        let end = app.browser().sign_in(&subject).await;

        if (end.status == 302) != *let_in || (!let_in && end.status != 403) {
            wrong.push(format!("{address:?}: {end:?}"));
        }
        let known = person(&app, "sso", &subject).await;
        if known.is_some() != *let_in || known.is_some_and(|known| known.admin) {
            wrong.push(format!("{address:?} is known"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[actix_web::test]
async fn a_star_alone_is_no_domain_and_none_is_forgotten_in_a_list() {
    for list in ["*", "*.", "*.com*", "exa mple.com", "@example.com", "https://example.com", "."] {
        let started = unlimited().set("AUTH__ALLOWED_EMAIL_DOMAINS", list).try_start().await;

        let why = started.err().unwrap_or_else(|| panic!("{list} is taken"));
        assert!(format!("{why:#}").contains("auth.allowed_email_domains"), "{list}: {why:#}");
    }
}

/// What a provider may send in the place of a truth value.
fn truth_values() -> Vec<(Value, bool)> {
    vec![
        (json!(true), true),
        (json!(false), false),
        (json!(null), false),
        (json!("true"), false),
        (json!("True"), false),
        (json!("1"), false),
        (json!("yes"), false),
        (json!(""), false),
        (json!(1), false),
        (json!(0), false),
        (json!(1.0), false),
        (json!([true]), false),
        (json!({"value": true}), false),
        (json!({}), false),
    ]
}

#[actix_web::test]
async fn nothing_but_true_is_true_and_an_admin_needs_it() {
    let app = unlimited().start().await;
    for (number, (value, verified)) in truth_values().into_iter().enumerate() {
        let subject = format!("truth-{number}");
        let admin = Person::new(&subject, crate::helpers::ADMIN, "Somebody");
        app.identity().change_person(Person { email_verified: value.clone(), ..admin });
        let browser = app.signed_in(&subject).await;

        let me = browser.get("/auth/me").await.json();

        assert_eq!(
            (&me["email_verified"], &me["admin"]),
            (&json!(verified), &json!(verified)),
            "{value}"
        );
    }
}

#[actix_web::test]
async fn an_address_that_no_rule_asks_for_is_kept_only_if_it_is_one() {
    let app = unlimited().start().await;
    for (number, (address, _)) in ADDRESSES.iter().enumerate() {
        let subject = format!("kept-{number}");
        app.identity().change_person(Person::new(&subject, address, "Somebody"));
        let browser = app.signed_in(&subject).await;

        let me = browser.get("/auth/me").await.json();

        let sound = bedrock_sso_proxy::auth::email::parse(address).is_some();
        assert_eq!(me["email"].is_string(), sound, "{address:?}: {me}");
        assert_eq!(me["email_verified"], sound, "{address:?}: {me}");
        assert!(me["email"].as_str().is_none_or(|email| email.is_ascii()), "{me}");
    }
}

#[actix_web::test]
async fn a_subject_is_kept_to_the_letter_or_refused() {
    let app = unlimited().start().await;
    let long = "s".repeat(255);
    let longer = "s".repeat(256);
    for (subject, let_in) in [
        ("2001", true),
        (" 2001", true),
        ("2001 ", true),
        ("02001", true),
        ("2001.0", true),
        ("a", true),
        ("A", true),
        ("\u{e4}", true),
        ("a\u{308}", true),
        ("'; DROP TABLE users; --", true),
        ("%", true),
        ("_", true),
        ("../../etc/passwd", true),
        ("<script>alert(1)</script>", true),
        ("null", true),
        ("\u{202e}evil", true),
        (long.as_str(), true),
        (longer.as_str(), false),
        ("a\0b", false),
        ("a\nb", false),
        ("a\tb", false),
        ("\u{7f}", false),
    ] {
        app.identity().change_person(Person::new(subject, "same@example.com", "Somebody"));
        let before = count(&app, "users").await;

        let end = app.browser().sign_in(subject).await;

        assert_eq!(end.status == 302, let_in, "{subject:?}: {end:?}");
        assert_eq!(count(&app, "users").await - before, i64::from(let_in), "{subject:?}");
        if let_in {
            assert!(person(&app, "sso", subject).await.is_some(), "{subject:?}");
        } else {
            assert_eq!(end.status, 403, "{subject:?}");
            assert!(said(&end).contains("sub"), "{}", said(&end));
        }
    }
}

#[actix_web::test]
async fn a_name_is_shown_as_text_and_nothing_else() {
    let app = unlimited().start().await;
    for (number, name) in [
        "<script>alert(\"1\")</script>",
        "\"><img src=x onerror=alert(1)>",
        "'-alert(1)-'",
        "{{ 7 * 7 }}",
        "</title><script>alert(1)</script>",
        "&lt;b&gt;",
        "=HYPERLINK(\"http://evil.example\")",
        "\u{202e}txt.exe",
        "a\u{0}b\u{1b}[31m\r\nSet-Cookie: a=b",
    ]
    .into_iter()
    .enumerate()
    {
        let subject = format!("name-{number}");
        let nobody = Person::new(&subject, "", name);
        app.identity().change_person(Person { email: None, ..nobody });
        let browser = app.signed_in(&subject).await;

        for path in ["/", "/device"] {
            let page = browser.get(path).await;

            // Our own script stands in the head, under a name with its digest.
            let (before, after) = text(&page)
                .split_once("<script src=\"/static/")
                .map(|(before, after)| (before.to_owned(), after.to_owned()))
                .unwrap_or((text(&page), String::new()));
            let html = before + after.split_once("\" defer></script>").map_or("", |(_, rest)| rest);
            for bad in
                ["<script", "<img src=x", "onerror=alert(1)>", "\u{202e}", "\0", "\u{1b}", ">49"]
            {
                assert!(!html.contains(bad), "{name:?} on {path}: {html}");
            }
            assert_eq!(page.headers.get("a"), None);
            assert!(!sets_cookie(&page, "a"), "{name:?}");
        }
    }
}
