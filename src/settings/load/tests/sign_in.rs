//! Identity providers, who may sign in, who is an admin.

use super::*;
use crate::settings::oauth::Kind;

/// A provider of this name that nothing is wrong with, and a public URL for it.
fn provider(name: &str, fields: &str) -> String {
    format!(
        "server: {{public_url: 'https://proxy.example.com'}}\noauth: {{providers: {{{name}: {{client_id: id, client_secret: s3cret, {fields}}}}}}}"
    )
}

#[test]
fn each_kind_of_provider_is_set_up_with_what_it_needs() {
    for (name, fields, kind) in [
        ("google", "", Kind::Google),
        ("github", "", Kind::Github),
        ("gitlab", "", Kind::Gitlab),
        ("gitlab", "instance_url: 'https://git.example.com'", Kind::Gitlab),
        ("microsoft", "tenant_id: 11111111-2222-3333-4444-555555555555", Kind::Microsoft),
        ("microsoft", "tenant_id: organizations, allowed_tenants: [a, b]", Kind::Microsoft),
        ("microsoft", "allowed_tenants: a", Kind::Microsoft),
        ("auth0", "domain: example.eu.auth0.com", Kind::Auth0),
        ("okta", "domain: example.okta.com", Kind::Okta),
        ("okta", "issuer: 'https://example.okta.com/oauth2/default'", Kind::Okta),
        ("corp", "issuer: 'https://sso.example.com'", Kind::Custom),
        ("corp", "kind: okta, domain: example.okta.com", Kind::Okta),
        ("corp", "issuer: 'http://127.0.0.1:8080/realms/x'", Kind::Custom),
        (
            "corp",
            "authorization_url: 'https://a.example/1', token_url: 'https://a.example/2', user_info_url: 'https://a.example/3'",
            Kind::Custom,
        ),
    ] {
        let settings = layered(&provider(name, fields), &[])
            .unwrap_or_else(|p| panic!("{name} {fields}: {p}"));

        let (known, given) = settings.oauth.enabled().next().unwrap();
        assert_eq!((known.as_str(), given.kind(known)), (name, kind));
        assert!(given.pkce && given.enabled && !given.email_trusted);
    }
}

#[test]
fn what_is_wrong_with_a_provider_is_named() {
    for (name, fields, key, part) in [
        ("microsoft", "", "tenant_id", "is required"),
        ("microsoft", "tenant_id: common", "tenant_id", "everybody's"),
        ("microsoft", "tenant_id: organizations", "tenant_id", "allowed_tenants"),
        ("microsoft", "tenant_id: 'a/b'", "tenant_id", "directory"),
        ("auth0", "", "domain", "is required"),
        ("okta", "domain: 'https://example.okta.com'", "domain", "without https"),
        ("corp", "", "issuer", "is required"),
        ("corp", "authorization_url: 'https://a.example/'", "issuer", "user_info_url"),
        ("corp", "issuer: 'http://sso.example.com'", "issuer", "https"),
        ("corp", "issuer: 'https://user:pass@sso.example.com'", "issuer", "user"),
        ("corp", "issuer: 'https://sso.example.com/#x'", "issuer", "fragment"),
        ("corp", "issuer: nonsense", "issuer", "https"),
        ("google", "token_url: 'http://169.254.169.254/'", "token_url", "https"),
        ("google", "client_id: ''", "client_id", "is required"),
        ("google", "client_secret: ''", "client_secret", "gives no token without it"),
        ("github", "client_secret: ''", "client_secret", "gives no token without it"),
        ("gitlab", "pkce: false, client_secret: ''", "client_secret", "without pkce"),
    ] {
        let yaml = provider(name, fields).replace("client_id: id, client_secret: s3cret, ", {
            // A key that is given is not given twice.
            if fields.contains("client_id") {
                "client_secret: s3cret, "
            } else if fields.contains("client_secret") {
                "client_id: id, "
            } else {
                "client_id: id, client_secret: s3cret, "
            }
        });
        let found = layered(&yaml, &[]);

        assert_names(&found, &format!("oauth.providers.{name}.{key}"), part);
    }
    for name in ["local", "Google", "a b", "-x", "", "x".repeat(33).as_str()] {
        let yaml = provider(&format!("'{name}'"), "issuer: 'https://sso.example.com'");
        assert!(layered(&yaml, &[]).is_err(), "{name}");
    }
    let unknown = layered(&provider("google", "scope: x"), &[]);
    assert!(unknown.unwrap_err().to_string().contains("scope"));
}

#[test]
fn a_provider_comes_from_variables_as_well() {
    let settings = from_variables(&[
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__CLIENT_ID", "123"),
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__CLIENT_SECRET", "456"),
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__SCOPES", "openid, email"),
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__PKCE", "false"),
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__EMAIL_TRUSTED", "1"),
    ])
    .unwrap();

    let (_, google) = settings.oauth.enabled().next().unwrap();
    assert_eq!(google.client_id, "123");
    assert_eq!(google.client_secret.as_ref().unwrap().expose_secret(), "456");
    assert_eq!(google.scopes, Some(words("openid email")));
    assert!(!google.pkce && google.email_trusted);
    let wrong = from_variables(&[
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__CLIENT_ID", "123"),
        ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__PKCE", "perhaps"),
    ]);
    assert!(wrong.unwrap_err().to_string().contains("true or false"));
}

#[test]
fn a_provider_s_secret_is_masked_and_may_be_in_a_file() {
    let secret = file(CANARY);
    let path = path_of(&secret);
    let fields = format!("client_secret_file: '{path}'");
    let yaml = provider("google", &fields).replace("client_secret: s3cret, ", "");
    for settings in [
        layered(&yaml, &[]).unwrap(),
        layered(&provider("google", "").replace("s3cret", CANARY), &[]).unwrap(),
        from_variables(&[
            ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__CLIENT_ID", "id"),
            ("BEDROCK_OAUTH__PROVIDERS__GOOGLE__CLIENT_SECRET_FILE", path),
        ])
        .unwrap(),
    ] {
        let google = settings.oauth.providers.get("google").unwrap();
        assert_eq!(google.client_secret.as_ref().unwrap().expose_secret(), CANARY);
        assert!(!settings.masked.to_string().contains(CANARY));
        assert!(!format!("{settings:?}").contains(CANARY));
        assert_eq!(settings.masked["oauth"]["providers"]["google"]["client_secret"], MASK);
    }
    let both = layered(&provider("google", &fields), &[]);
    assert_names(&both, "oauth.providers.google.client_secret_file", "keep one");
}

#[test]
fn cookies_of_a_sign_in_go_over_https_or_stay_on_this_machine() {
    let with =
        |url: &str| layered(&provider("google", "").replace("https://proxy.example.com", url), &[]);
    for good in [
        "https://proxy.example.com",
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
    ] {
        assert!(with(good).is_ok(), "{good}");
    }
    assert_names(&with("http://proxy.example.com"), "server.public_url", "https");
    let none = from_yaml(&format!(
        "jwt: {{secret: {SOUND}}}\nserver: {{public_url: 'http://proxy.example.com'}}"
    ));
    assert!(none.is_ok(), "without sign-in, keys and tokens work over http: {none:?}");
    let off = layered(
        &provider("google", "enabled: false").replace("https://proxy", "http://proxy"),
        &[],
    );
    assert!(off.is_ok(), "one that is off counts as none: {off:?}");
}

#[test]
fn who_makes_admins_must_be_clear() {
    let two = "server: {public_url: 'https://proxy.example.com'}\noauth: {providers: {google: {client_id: a, client_secret: b}, github: {client_id: a, client_secret: b}}}\n";
    let admins = "admin: {emails: [admin@example.com]}\n";
    assert_names(&layered(&format!("{two}{admins}"), &[]), "admin.providers", "several");
    assert!(layered(two, &[]).is_ok(), "no admins, no question");
    let said = "admin: {emails: [admin@example.com], providers: [google, local]}\n";
    assert!(layered(&format!("{two}{said}"), &[]).is_ok());
    let one = provider("google", "");
    assert!(layered(&format!("{one}\n{admins}"), &[]).is_ok(), "the only one there is");
    let unknown = "admin: {providers: [gogle]}\n";
    assert_names(&layered(&format!("{two}{unknown}"), &[]), "admin.providers", "gogle");
    for address in ["admin", "a@b@example.com", "@example.com", "a@example", "ä@example.com"] {
        let found = from_variables(&[("BEDROCK_ADMIN__EMAILS", address)]);
        assert_names(&found, "admin.emails", "is not an e-mail address");
    }
}

#[test]
fn domains_and_times_out_of_range_are_named() {
    for (key, value, part) in [
        ("auth.allowed_email_domains", "example", "is not a domain"),
        ("auth.allowed_email_domains", "@example.com", "is not a domain"),
        ("auth.allowed_email_domains", "*example.com", "is not a domain"),
        ("auth.session_idle_seconds", "299", "300"),
        ("auth.session_max_seconds", "2592001", "2592000"),
        ("auth.recheck_seconds", "59", "0 for never"),
        ("jwt.refresh_token_ttl", "59", "60"),
        ("jwt.refresh_idle_seconds", "2592001", "jwt.refresh_token_ttl"),
        ("jwt.refresh_retry_seconds", "11", "10"),
        ("audit.retention_days", "0", "36500"),
        ("rate_limits.callbacks_per_minute", "1000001", "1000000"),
        ("secrets.encryption_key", "short", "32 bytes"),
        ("secrets.previous_encryption_keys", "short", "32 bytes"),
        ("secrets.encryption_key", SOUND, "must differ"),
    ] {
        assert_names(&from_variables(&[(&variable(key), value)]), key, part);
    }
    let edges = from_variables(&[
        ("BEDROCK_AUTH__ALLOWED_EMAIL_DOMAINS", "example.com,*.example.org"),
        ("BEDROCK_AUTH__SESSION_IDLE_SECONDS", "300"),
        ("BEDROCK_AUTH__RECHECK_SECONDS", "0"),
        ("BEDROCK_JWT__REFRESH_RETRY_SECONDS", "10"),
        ("BEDROCK_RATE_LIMITS__CALLBACKS_PER_MINUTE", "0"),
        ("BEDROCK_SERVER__FORWARDED_HEADER", "forwarded"),
    ]);
    assert!(edges.is_ok(), "{edges:?}");
}
