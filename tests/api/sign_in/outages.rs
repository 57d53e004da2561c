//! What is wrong with a provider altogether: the sign-in says so, everything else goes on, and it heals by itself.

use bedrock_sso_proxy::simulator::identity::Fault;

use super::*;
use crate::helpers::{ADMIN, MODEL, PERSON, message as hello};

/// Faults that keep a sign-in from beginning, and what is said.
const COLD: &[(Fault, &str)] = &[
    (Fault::Down, "discovery"),
    (Fault::RedirectToMetadata, "discovery"),
    (Fault::Huge, "discovery"),
    (Fault::ManyKeys, "discovery document"),
    (Fault::DiscoveryOtherIssuer, "issuer"),
    (Fault::DiscoveryPlainHttpEndpoint, "discovery document"),
    (Fault::JwksDown, "its keys"),
];

#[actix_web::test]
async fn a_provider_that_is_away_is_said_to_be_and_comes_back_without_a_restart() {
    for (fault, says) in COLD {
        let app = unlimited().start().await;
        let (key, admin) = (app.create_key(PERSON).await, app.create_token(ADMIN).await);
        app.identity().misbehave(Some(*fault));
        let browser = app.browser();
        for accept in [HTML, JSON, "*/*"] {
            let asked = bare(&browser, "GET", "/auth/authorize/sso").header("accept", accept);

            let reply = asked.send().await;

            assert_eq!(reply.status, 503, "{fault}: {reply:?}");
            assert!(reply.header("retry-after").is_some(), "{fault}");
            assert!(reply.headers.get("set-cookie").is_none(), "{fault}");
            let told = message(&reply, accept);
            assert!(told.contains("identity provider") && told.contains(says), "{fault}: {told}");
            assert!(!text(&reply).contains("169.254") && !text(&reply).contains("127.0.0.1"));
            if accept == JSON {
                assert_eq!(code(&reply), "provider_unavailable");
            }
        }
        let call = app.call(MODEL, "invoke", &hello("hi")).bearer(&key).send().await;
        assert_eq!(call.status, 200, "{fault}: {call:?}");
        assert_eq!(health(&app, &admin).await, "failing", "{fault}");
        let login = text(&app.browser().get("/login").await);
        assert!(login.contains("could not be reached at the last try"), "{fault}: {login}");

        app.identity().misbehave(None);
        app.signed_in(DEVELOPER).await;

        assert_eq!(health(&app, &admin).await, "ok", "{fault}");
        assert_eq!(count(&app, "sessions WHERE kind = 'browser'").await, 1, "{fault}");
    }
}

/// What the check of providers says now.
async fn health(app: &TestServer, admin: &str) -> String {
    app.shared().health.check_all().await;
    let reply = app.get("/health?check=oauth").bearer(admin).send().await;
    assert_eq!(reply.status, 200, "a provider that is away does not end readiness: {reply:?}");
    reply.json()["checks"]["oauth"]["status"].as_str().unwrap().to_owned()
}

/// Faults of a provider that was known already: whose sign-in, and what is said; `None` = it goes on.
const WARM: &[(Fault, &str, Option<&str>)] = &[
    (Fault::Down, DEVELOPER, Some("its token endpoint")),
    (Fault::RedirectToMetadata, DEVELOPER, Some("its token endpoint")),
    (Fault::Huge, DEVELOPER, Some("its token endpoint")),
    (Fault::ManyKeys, DEVELOPER, None),
    (Fault::JwksDown, DEVELOPER, None),
    (Fault::DiscoveryOtherIssuer, DEVELOPER, None),
    (Fault::DiscoveryPlainHttpEndpoint, DEVELOPER, None),
    (Fault::UserinfoDown, DEVELOPER, None),
    (Fault::UserinfoDown, NO_ADDRESS, Some("its user information")),
];

#[actix_web::test]
async fn a_provider_that_fails_on_the_way_back_ends_that_sign_in_alone() {
    let app = unlimited().start().await;
    let (earlier, admin) = (app.signed_in(OTHER_COMPANY).await, app.create_token(ADMIN).await);
    for (fault, subject, says) in WARM {
        let browser = app.browser();
        let back = way_back(&browser, "sso", &[("person", subject)]).await;
        let sessions = count(&app, "sessions").await;
        app.identity().misbehave(Some(*fault));

        let reply = browser.get(&back).await;

        let Some(says) = says else {
            assert_eq!(reply.status, 302, "{fault}: {reply:?}");
            app.identity().misbehave(None);
            continue;
        };
        assert_eq!(reply.status, 503, "{fault}: {reply:?}");
        assert!(reply.header("retry-after").is_some(), "{fault}");
        assert!(said(&reply).contains(says), "{fault}: {}", said(&reply));
        let failed = events(&app, "sign_in_failed").await;
        assert_eq!(failed[0].error_code.as_deref(), Some("provider_unavailable"), "{fault}");
        assert_eq!(count(&app, "sessions").await, sessions, "{fault}");
        assert_eq!(health(&app, &admin).await, "failing", "{fault}");
        assert_eq!(earlier.get("/").await.status, 200, "who is here stays");

        app.identity().misbehave(None);
        let again = bare(&browser, "GET", &back).header("accept", JSON).send().await;
        assert_eq!(code(&again), "login_expired", "{fault}: a state is good for one try");
        assert_eq!(browser.sign_in(subject).await.status, 302, "{fault}");
        assert_eq!(health(&app, &admin).await, "ok", "{fault}");
    }
}

#[actix_web::test]
async fn the_client_s_secret_is_refused_by_the_provider_and_named_to_the_operator() {
    let app =
        unlimited().set("OAUTH__PROVIDERS__SSO__CLIENT_SECRET", "not-the-secret").start().await;

    let reply = app.browser().sign_in(DEVELOPER).await;

    assert_eq!(reply.status, 503, "{reply:?}");
    let told = said(&reply);
    assert!(told.contains("client_id") && told.contains("client_secret"), "{told}");
    assert!(!told.contains("not-the-secret"));
    assert_eq!(
        events(&app, "sign_in_failed").await[0].error_code.as_deref(),
        Some("provider_client")
    );
}
