//! GitHub's way: OAuth 2.0 without tokens that say who somebody is, errors with status 200, a list of addresses.

use bedrock_sso_proxy::simulator::identity::{Fault, Person};

use super::*;
use crate::helpers::on_both_databases;

fn github() -> TestServerBuilder {
    unlimited()
        .set("OAUTH__PROVIDERS__HUB__KIND", "github")
        .set("OAUTH__PROVIDERS__HUB__AUTHORIZATION_URL", "{issuer}/login/oauth/authorize")
        .set("OAUTH__PROVIDERS__HUB__TOKEN_URL", "{issuer}/login/oauth/access_token")
        .set("OAUTH__PROVIDERS__HUB__USER_INFO_URL", "{issuer}/user")
        .set("OAUTH__PROVIDERS__HUB__CLIENT_ID", "demo-client")
        .set("OAUTH__PROVIDERS__HUB__CLIENT_SECRET", "simulated-client-secret-of-the-demo")
        .set("ADMIN__PROVIDERS", "local,sso")
}

async fn sign_in(app: &TestServer, fields: &[(&str, &str)]) -> (Browser, Reply) {
    let browser = app.browser();
    let back = way_back(&browser, "hub", fields).await;
    let end = browser.get(&back).await;
    (browser, end)
}

on_both_databases!(the_number_is_the_subject_and_the_verified_primary_address_counts, backend => {
    let app = github().backend(backend).start().await;

    let (browser, end) = sign_in(&app, &[("person", DEVELOPER)]).await;

    assert_eq!(end.status, 302, "{end:?}");
    let me = browser.get("/auth/me").await.json();
    assert_eq!(me["email"], "developer@example.com", "{me}");
    assert_eq!((&me["email_verified"], &me["provider"]), (&true.into(), &"hub".into()));
    assert!(person(&app, "hub", "1002").await.is_some(), "a number as text");
    let calls = app.identity().ledger().calls();
    assert!(calls.iter().all(|call| call.path != "/token" && call.path != "/userinfo"));
    let asked = calls.iter().find(|call| call.path == "/login/oauth/authorize").unwrap();
    assert_eq!(asked.presented.get("scope").map(String::as_str), Some("read:user user:email"));
    assert!(asked.presented.contains_key("code_challenge"), "PKCE for everybody");
    assert!(calls.iter().all(|call| !call.presented.get("authorization").is_some_and(|a| a.starts_with("Basic"))));
});

#[actix_web::test]
async fn an_address_of_the_admin_s_makes_none_at_a_provider_that_may_not() {
    let app = github().start().await;

    let (browser, end) = sign_in(&app, &[("person", ADMIN_SUBJECT)]).await;

    assert_eq!(end.status, 302, "{end:?}");
    let me = browser.get("/auth/me").await.json();
    assert_eq!((&me["email"], &me["admin"]), (&crate::helpers::ADMIN.into(), &false.into()));
}

/// Faults, and whether the sign-in ends: its status, the reason, and what is said.
const REFUSED: &[(&str, u16, &str, &str)] = &[
    ("token_error", 503, "provider_unavailable", "its token endpoint"),
    ("token_not_json", 503, "provider_unavailable", "its token endpoint"),
    ("no_state", 400, "state_mismatch", "another browser"),
    ("wrong_state", 400, "state_mismatch", "another browser"),
    ("error_with_html", 403, "provider_error", "does not let you in"),
];

#[actix_web::test]
async fn what_github_gets_wrong_is_refused_with_a_reason() {
    let app = github().set("SERVER__LIMITS__REQUEST_LINE_BYTES", 32768).start().await;
    for (fault, status, reason, says) in REFUSED {
        let (browser, end) = sign_in(&app, &[("person", DEVELOPER), ("fault", fault)]).await;

        assert_eq!(end.status, *status, "{fault}: {end:?}");
        assert!(said(&end).contains(says), "{fault}: {}", said(&end));
        assert_eq!(browser.cookie("bedrock_session"), None, "{fault}");
        let failed = events(&app, "sign_in_failed").await;
        assert_eq!(failed[0].error_code.as_deref(), Some(*reason), "{fault}");
        assert_eq!(failed[0].provider.as_deref(), Some("hub"));
    }
    for fault in [Fault::UserinfoDown, Fault::Down, Fault::RedirectToMetadata, Fault::Huge] {
        let browser = app.browser();
        let back = way_back(&browser, "hub", &[("person", DEVELOPER)]).await;
        app.identity().misbehave(Some(fault));

        let end = browser.get(&back).await;

        app.identity().misbehave(None);
        assert_eq!(end.status, 503, "{fault}: {end:?}");
        assert!(end.header("retry-after").is_some(), "{fault}");
    }
    assert_eq!(count(&app, "sessions").await, 0);
}

#[actix_web::test]
async fn an_error_with_status_200_is_a_refusal() {
    let app = github().start().await;
    let (browser, other) = (app.browser(), app.browser());
    let back = way_back(&browser, "hub", &[("person", DEVELOPER)]).await;
    let stolen = way_back(&other, "hub", &[("person", DEVELOPER)]).await;
    let openid = way_back(&app.browser(), "sso", &[("person", DEVELOPER)]).await;
    let mut code_of = vec!["wrong".to_owned()];
    code_of.extend([parameter(&stolen, "code"), parameter(&openid, "code")].into_iter().flatten());
    for given in code_of {
        let browser = app.browser();
        let back = way_back(&browser, "hub", &[("person", DEVELOPER)]).await;

        let end = browser.get(&with(&back, "code", Some(&given))).await;

        assert_eq!(end.status, 403, "{end:?}");
        assert_eq!(
            events(&app, "sign_in_failed").await[0].error_code.as_deref(),
            Some("provider_refused")
        );
        assert_eq!(app.identity().ledger().last().unwrap().status, 200, "as GitHub does");
    }
    assert_eq!(browser.get(&back).await.status, 302);
}

#[actix_web::test]
async fn a_wrong_secret_is_the_operator_s_matter_though_the_status_is_200() {
    let app = github().set("OAUTH__PROVIDERS__HUB__CLIENT_SECRET", "wrong").start().await;

    let (_, end) = sign_in(&app, &[("person", DEVELOPER)]).await;

    assert_eq!(end.status, 503, "{end:?}");
    assert!(said(&end).contains("client_secret"), "{}", said(&end));
}

/// Addresses as GitHub may list them: none that is not verified is taken, whatever comes first.
#[actix_web::test]
async fn no_address_is_taken_that_is_not_verified() {
    let app = github().start().await;
    for (fault, address) in [
        (None, Some("developer@example.com")),
        (Some("email_verified_false"), None),
        (Some("email_verified_missing"), None),
        (Some("no_email"), None),
        (Some("two_ats"), None),
        (Some("homograph"), None),
        (Some("trailing_dot"), None),
        (Some("html_name"), Some("developer@example.com")),
    ] {
        let mut fields = vec![("person", DEVELOPER)];
        fields.extend(fault.map(|fault| ("fault", fault)));

        let (browser, end) = sign_in(&app, &fields).await;

        assert_eq!(end.status, 302, "{fault:?}: {end:?}");
        let me = browser.get("/auth/me").await.json();
        assert_eq!(me["email"].as_str(), address, "{fault:?}: {me}");
        assert_eq!(me["email_verified"], address.is_some(), "{fault:?}: {me}");
    }
    assert_eq!(count(&app, "users").await, 1);
}

#[actix_web::test]
async fn a_name_is_no_identity_there() {
    let app = github().start().await;
    for subject in ["octocat", "Octocat", "7", "07"] {
        app.identity().change_person(Person::new(subject, "o@example.com", "octocat"));

        let (_, end) = sign_in(&app, &[("person", subject)]).await;

        assert_eq!(end.status, 302, "{subject}: {end:?}");
    }
    assert_eq!(count(&app, "users").await, 3, "7 and 07 are one number");
    assert!(person(&app, "hub", "octocat").await.is_none());
}
