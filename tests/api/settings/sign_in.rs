//! Settings of the sign-in: each is set, and its effect seen from outside.

use std::time::Duration;

use bedrock_sso_proxy::actors::providers::Recheck;
use serde_json::json;

use crate::helpers::{PERSON, TestServer, TestServerBuilder, eventually};

const ADMIN: &str = "1001";
const DEVELOPER: &str = "1002";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in()
}

fn sso(field: &str) -> String {
    format!("OAUTH__PROVIDERS__SSO__{field}")
}

/// Stops, changes settings as the environment would, and starts again.
async fn reset(app: &mut TestServer, set: &[(&str, &str)]) {
    use bedrock_sso_proxy::settings::{Need, Settings};
    app.stopped().await;
    for (name, value) in set {
        app.environment.push((format!("BEDROCK_{name}"), (*value).to_owned()));
    }
    app.settings =
        Settings::from_layers(None, app.environment.clone().into_iter(), Need::Service).unwrap();
    app.start_again();
}

#[actix_web::test]
async fn a_provider_is_offered_by_its_name_kind_and_only_while_it_is_on() {
    let app = builder().set(&sso("DISPLAY_NAME"), "Example <Corp>").start().await;
    let listed = app.get("/auth/providers").send().await.json();
    assert_eq!(
        listed,
        json!({"providers": [{"name": "sso", "display_name": "Example <Corp>", "kind": "custom"}]})
    );
    let page = app.browser().get("/login?next=/device").await;
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert!(html.contains("Sign in with Example &#60;Corp&#62;"), "{html}");
    assert!(html.contains("/auth/authorize/sso?next=%2Fdevice\""), "{html}");

    let off = builder().set(&sso("ENABLED"), false).start().await;
    assert_eq!(off.get("/auth/providers").send().await.json(), json!({"providers": []}));
    assert_eq!(off.browser().get("/auth/authorize/sso").await.status, 404);
    assert_eq!(off.browser().get("/auth/callback/sso?code=x&state=y").await.status, 404);
}

#[actix_web::test]
async fn scopes_and_pkce_are_what_the_provider_is_asked_with() {
    let parameters = |url: &str| -> std::collections::BTreeMap<String, String> {
        let (_, query) = url.split_once('?').unwrap();
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    };
    let usual = builder().set(&sso("SCOPES"), "openid,groups").start().await;
    let asked = parameters(&usual.browser().begin("sso", "/").await);
    assert_eq!(asked["scope"], "openid groups");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert_eq!(asked["response_type"], "code");
    assert_eq!(asked["redirect_uri"], format!("{}/auth/callback/sso", usual.browser().base));

    let without = builder().set(&sso("PKCE"), false).start().await;
    let asked = parameters(&without.browser().begin("sso", "/").await);
    assert!(!asked.contains_key("code_challenge"));
}

#[actix_web::test]
async fn other_claims_may_say_who_it_is_and_which_address() {
    let app = builder()
        .set(&sso("USER_ID_FIELD"), "email")
        .set(&sso("EMAIL_FIELD"), "preferred_username")
        .start()
        .await;
    let browser = app.signed_in(DEVELOPER).await;

    let me = browser.get("/auth/me").await.json();

    assert_eq!((&me["email"], &me["display_name"]), (&json!(null), &json!("Demo Developer")));
    let subject = app.command(&["user", "list"]);
    assert!(String::from_utf8_lossy(&subject.stdout).contains("sso"));
    let missing = builder().set(&sso("USER_ID_FIELD"), "employee_number").start().await;
    let page = missing.browser().sign_in(DEVELOPER).await;
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert_eq!(page.status, 403);
    assert!(html.contains("employee_number") && html.contains("user_id_field"), "{html}");
}

#[actix_web::test]
async fn plain_oauth_goes_by_its_three_addresses() {
    let app = builder().start().await;
    let issuer = app.identity().issuer();
    let plain = TestServerBuilder::new()
        .set("OAUTH__PROVIDERS__PLAIN__CLIENT_ID", "demo-client")
        .set(
            "OAUTH__PROVIDERS__PLAIN__CLIENT_SECRET",
            bedrock_sso_proxy::simulator::identity::IdentityConfig::default().client_secret,
        )
        .set(
            "OAUTH__PROVIDERS__PLAIN__AUTHORIZATION_URL",
            format!("{issuer}/login/oauth/authorize"),
        )
        .set("OAUTH__PROVIDERS__PLAIN__TOKEN_URL", format!("{issuer}/login/oauth/access_token"))
        .set("OAUTH__PROVIDERS__PLAIN__USER_INFO_URL", format!("{issuer}/user"))
        .set("OAUTH__PROVIDERS__PLAIN__USER_ID_FIELD", "id")
        .start()
        .await;
    let browser = plain.browser();
    let at = browser.begin("plain", "/").await;
    let back = browser.consent(&at, &[("person", DEVELOPER)]).await;

    let reply = browser.get(&back).await;

    assert_eq!(reply.status, 302, "{reply:?}");
    let me = browser.get("/auth/me").await.json();
    assert_eq!((&me["provider"], &me["email_verified"]), (&json!("plain"), &json!(false)));
}

#[actix_web::test]
async fn a_provider_that_vouches_for_all_its_addresses_can_be_trusted() {
    for (trusted, status) in [(true, 302), (false, 403)] {
        let app = builder()
            .set(&sso("EMAIL_TRUSTED"), trusted)
            .set("AUTH__ALLOWED_EMAIL_DOMAINS", "example.com")
            .start()
            .await;

        let reply = app.browser().sign_in("1003").await;

        assert_eq!(reply.status.as_u16(), status, "trusted: {trusted}");
    }
}

#[actix_web::test]
async fn without_admin_providers_the_only_provider_makes_admins() {
    let app = builder().set("ADMIN__PROVIDERS", "").start().await;
    assert_eq!(app.signed_in(ADMIN).await.get("/api/admin/users").await.status, 200);
    let token = app.create_token(crate::helpers::ADMIN).await;
    let local = app.get("/api/admin/users").bearer(&token).send().await;
    assert_eq!(local.status, 403, "the same address, made by an operator");
}

#[actix_web::test]
async fn sessions_last_as_long_as_they_are_set_to() {
    use bedrock_sso_proxy::db::sessions::SessionRecord;
    let app = builder().set("AUTH__SESSION_MAX_SECONDS", 600).start().await;
    app.signed_in(DEVELOPER).await;
    let mut conn = app.pool().await.reader().await.unwrap();
    let live = SessionRecord::live(&mut conn, 1, bedrock_sso_proxy::db::now(), 10).await.unwrap();
    assert_eq!((live[0].expires_at - live[0].created_at).num_seconds(), 600);

    // Known to the service, and idle since: it is looked up again when its idle time is over.
    let idle = builder().set("AUTH__SESSION_IDLE_SECONDS", 300).start().await;
    let browser = idle.signed_in(DEVELOPER).await;
    let seen = bedrock_sso_proxy::db::now() - chrono::TimeDelta::seconds(301);
    idle.sql(&format!("UPDATE sessions SET last_seen_at = '{seen}'")).await;
    assert_eq!(browser.get("/auth/me").await.status, 401);
}

#[actix_web::test]
async fn refresh_tokens_live_as_long_as_they_are_set_to() {
    let app = builder()
        .set("JWT__REFRESH_TOKEN_TTL", 1000)
        .set("JWT__REFRESH_IDLE_SECONDS", 500)
        .set("JWT__ACCESS_TOKEN_TTL", 60)
        .start()
        .await;
    let browser = app.signed_in(DEVELOPER).await;
    let tokens = browser.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await;
    let tokens = tokens.json();
    assert_eq!((&tokens["expires_in"], &tokens["refresh_expires_in"]), (&json!(60), &json!(500)));
    let started = bedrock_sso_proxy::db::now() + chrono::TimeDelta::seconds(100);
    app.sql(&format!("UPDATE sessions SET expires_at = '{started}' WHERE kind = 'cli'")).await;

    let body = json!({"refresh_token": tokens["refresh_token"]});
    let next = app.post("/auth/refresh").header("content-type", "application/json").json(&body);
    let next = next.send().await.json();

    let left = next["refresh_expires_in"].as_i64().unwrap();
    assert!((95..=100).contains(&left), "no longer than its session: {left}");
}

#[actix_web::test]
async fn a_recheck_of_zero_keeps_nothing_of_the_provider() {
    let app = builder().set("AUTH__RECHECK_SECONDS", 0).start().await;
    app.signed_in(DEVELOPER).await;
    app.sql("UPDATE users SET idp_check_due_at = '2020-01-01 00:00:00'").await;
    app.identity().forget_person(DEVELOPER);
    let before = app.identity().ledger().token_requests();

    let gone = app.shared().actors.providers.address().send(Recheck).await.unwrap();

    assert_eq!((gone, app.identity().ledger().token_requests()), (0, before));
}

#[actix_web::test]
async fn a_previous_encryption_key_still_opens_what_it_sealed() {
    let (first, second) =
        ("the-first-key-of-32-bytes-or-more-7Qx", "the-second-key-of-32-bytes-or-more-8R");
    let mut app = builder().set("SECRETS__ENCRYPTION_KEY", first).start().await;
    app.signed_in(DEVELOPER).await;
    reset(
        &mut app,
        &[("SECRETS__ENCRYPTION_KEY", second), ("SECRETS__PREVIOUS_ENCRYPTION_KEYS", first)],
    )
    .await;
    app.sql("UPDATE users SET idp_check_due_at = '2020-01-01 00:00:00'").await;
    let before = app.identity().ledger().token_requests();
    app.shared().actors.providers.address().send(Recheck).await.unwrap();
    assert_eq!(
        app.identity().ledger().token_requests(),
        before + 1,
        "it was opened, and asked with"
    );

    // Sealed anew under the second key; the first is not needed any more. Under a third, it cannot be opened.
    reset(&mut app, &[("SECRETS__PREVIOUS_ENCRYPTION_KEYS", "")]).await;
    app.sql("UPDATE users SET idp_check_due_at = '2020-01-01 00:00:00'").await;
    app.shared().actors.providers.address().send(Recheck).await.unwrap();
    assert_eq!(app.identity().ledger().token_requests(), before + 2);
    reset(&mut app, &[("SECRETS__ENCRYPTION_KEY", "a-third-key-of-32-bytes-or-more-9S-0")]).await;
    app.sql("UPDATE users SET idp_check_due_at = '2020-01-01 00:00:00'").await;
    app.shared().actors.providers.address().send(Recheck).await.unwrap();
    assert_eq!(app.identity().ledger().token_requests(), before + 2);
    let me = app.signed_in(DEVELOPER).await.get("/auth/me").await;
    assert_eq!(me.json()["state"], "active", "nobody is locked out by that");
}

#[actix_web::test]
async fn the_audit_log_and_what_is_over_are_cleared_away_by_age() {
    let app = builder().set("AUDIT__RETENTION_DAYS", 30).set("CACHE__CLEANUP_INTERVAL", 1);
    let app = app.set("JOBS__AUDIT_RETENTION__SCHEDULE", "* * * * * *").start().await;
    app.signed_in(DEVELOPER).await;
    app.create_key(PERSON).await;
    let old = bedrock_sso_proxy::db::now() - chrono::TimeDelta::days(31);
    app.sql(&format!("UPDATE audit_logs SET created_at = '{old}' WHERE id <= 3")).await;
    app.sql("UPDATE sessions SET expires_at = '2020-01-01 00:00:00'").await;
    app.sql("UPDATE one_time_codes SET expires_at = '2020-01-01 00:00:00'").await;

    let cleared = eventually(Duration::from_secs(10), || async {
        app.audit().await.first().is_some_and(|first| first.id > 3)
    });

    assert!(cleared.await);
    assert_eq!(app.audited("audit_retention").await, 1);
    assert!(app.command(&["audit", "verify"]).status.success());
    use bedrock_sso_proxy::db::{
        Conn,
        schema::{one_time_codes, sessions},
    };
    use diesel::QueryDsl;
    let gone = eventually(Duration::from_secs(10), || async {
        let Conn::Sqlite(c) = &mut app.pool().await.reader().await.unwrap() else { return false };
        let left: i64 = diesel_async::RunQueryDsl::get_result(sessions::table.count(), c.as_mut())
            .await
            .unwrap();
        let codes: i64 =
            diesel_async::RunQueryDsl::get_result(one_time_codes::table.count(), c.as_mut())
                .await
                .unwrap();
        left + codes == 0
    });
    assert!(gone.await, "sessions and codes");
}

#[actix_web::test]
async fn the_standard_forwarded_header_is_read_if_it_is_the_one() {
    let app = builder()
        .set("SERVER__TRUSTED_PROXIES", "127.0.0.1")
        .set("SERVER__FORWARDED_HEADER", "forwarded")
        .start()
        .await;
    let reply = app
        .get("/auth/callback/sso?state=x&code=y")
        .header("forwarded", "for=\"[2001:db8::7]:9\";proto=https")
        .header("x-forwarded-for", "192.0.2.66")
        .send()
        .await;
    assert_eq!(reply.status, 400);

    let event = app.audit().await.pop().unwrap();

    assert_eq!(event.ip_address.as_deref(), Some("2001:db8::7"));
}
