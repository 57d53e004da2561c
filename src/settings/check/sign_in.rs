//! Identity providers, who may sign in, who is an admin, and limits of rate.

use awc::http::Uri;
use secrecy::ExposeSecret;

use super::Check;
use crate::{
    auth::email,
    settings::{
        LOCAL_PROVIDER as LOCAL, Settings, is_loopback,
        oauth::{Kind, Provider},
    },
};

/// Tenants of Microsoft that stand for many directories.
const SHARED_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

pub(super) fn check(check: &mut Check, settings: &Settings) {
    for (name, provider) in &settings.oauth.providers {
        self::provider(check, name, provider);
    }
    people(check, settings);
    admins(check, settings);
    let limits = &settings.rate_limits;
    for (key, value) in [
        ("rate_limits.inference_per_minute_per_user", limits.inference_per_minute_per_user),
        ("rate_limits.inference_per_minute_per_key", limits.inference_per_minute_per_key),
        ("rate_limits.sign_in_starts_per_minute", limits.sign_in_starts_per_minute),
        ("rate_limits.callbacks_per_minute", limits.callbacks_per_minute),
        ("rate_limits.refreshes_per_minute", limits.refreshes_per_minute),
        ("rate_limits.failed_credentials_per_minute", limits.failed_credentials_per_minute),
        ("rate_limits.key_creations_per_hour", limits.key_creations_per_hour),
        ("rate_limits.admin_writes_per_minute", limits.admin_writes_per_minute),
    ] {
        check.that(value <= 1_000_000, key, "must be at most 1000000; 0 = no limit");
    }
    let days = (1..=36_500).contains(&settings.audit.retention_days);
    check.that(days, "audit.retention_days", "must be 1 to 36500");
    // A cookie that goes over the network in clear can be taken by anybody on the way.
    let url = settings.server.public_url();
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let local = host.is_some_and(|host| is_loopback(&host));
    let safe = url.starts_with("https://") || local || settings.oauth.enabled().next().is_none();
    let message =
        "sign-in needs https (plain http only for localhost), because of the session's cookie";
    check.that(safe, "server.public_url", message);
}

fn people(check: &mut Check, settings: &Settings) {
    let auth = &settings.auth;
    for domain in &auth.allowed_email_domains {
        let plain = domain.strip_prefix("*.").unwrap_or(domain);
        let message = format!("`{domain}` is not a domain such as example.com or *.example.com");
        check.that(email::is_domain(plain), "auth.allowed_email_domains", message);
    }
    let idle = (300..=86_400).contains(&auth.session_idle_seconds);
    check.that(idle, "auth.session_idle_seconds", "must be 300 to 86400 seconds");
    let most = (300..=2_592_000).contains(&auth.session_max_seconds);
    check.that(most, "auth.session_max_seconds", "must be 300 to 2592000 seconds (30 days)");
    let recheck = auth.recheck_seconds == 0 || (60..=2_592_000).contains(&auth.recheck_seconds);
    check.that(recheck, "auth.recheck_seconds", "must be 60 to 2592000 seconds, or 0 for never");
}

fn admins(check: &mut Check, settings: &Settings) {
    let admin = &settings.admin;
    for address in &admin.emails {
        let message = format!("`{address}` is not an e-mail address");
        check.that(email::parse(address).is_some(), "admin.emails", message);
    }
    for name in &admin.providers {
        let known = name == LOCAL || settings.oauth.providers.contains_key(name);
        let message = format!("`{name}` is not among oauth.providers, nor `{LOCAL}`");
        check.that(known, "admin.providers", message);
    }
    let several = settings.oauth.enabled().count() > 1;
    let said = !admin.providers.is_empty() || admin.emails.is_empty() || !several;
    let message = "is required when admin.emails is set and there are several oauth.providers";
    check.that(said, "admin.providers", message);
}

fn provider(check: &mut Check, name: &str, provider: &Provider) {
    let key = |field: &str| format!("oauth.providers.{name}.{field}");
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let plain = name.len() <= 32
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || matches!(byte, b'-' | b'_'))
        && name != LOCAL;
    let message = "a name has up to 32 lower-case letters, digits, - and _, and is not `local`";
    check.that(plain, &format!("oauth.providers.{name}"), message);
    check.that(!provider.client_id.is_empty(), &key("client_id"), "is required");
    let secret = provider.client_secret.as_ref().is_some_and(|s| !s.expose_secret().is_empty());
    // A public client proves by PKCE that it is the one that asked.
    check.that(secret || provider.pkce, &key("client_secret"), "is required without pkce");
    let kind = provider.kind(name);
    let confidential = matches!(kind, Kind::Google | Kind::Github);
    let message = "is required: this provider gives no token without it";
    check.that(secret || !provider.pkce || !confidential, &key("client_secret"), message);
    for (field, url) in [
        ("issuer", &provider.issuer),
        ("authorization_url", &provider.authorization_url),
        ("token_url", &provider.token_url),
        ("user_info_url", &provider.user_info_url),
        ("instance_url", &provider.instance_url),
    ] {
        let sound = url.as_ref().is_none_or(|url| is_safe(url));
        let message =
            "must be an https URL without a user, password or fragment (http only to this machine)";
        check.that(sound, &key(field), message);
    }
    if let Some(domain) = &provider.domain {
        check.that(email::is_domain(domain), &key("domain"), "is a host name, without https://");
    }
    match kind {
        Kind::Google | Kind::Github | Kind::Gitlab => {}
        Kind::Microsoft => {
            let tenant = provider.tenant_id.as_deref().unwrap_or("common");
            let one = !SHARED_TENANTS.contains(&tenant);
            let listed = provider.allowed_tenants.as_ref().is_some_and(|list| !list.is_empty());
            let message = "is required: the id of your directory. `organizations` and `common` let in everybody's \
                           people, and need allowed_tenants";
            check.that(one || listed || provider.issuer.is_some(), &key("tenant_id"), message);
            // By its domain a directory is found, but it calls itself by its id.
            let plain = !one || uuid::Uuid::try_parse(tenant).is_ok();
            let message = "must be the id of a directory (11111111-2222-…), not its domain";
            check.that(plain, &key("tenant_id"), message);
            let message = "goes with tenant_id `organizations`, `common` or none";
            check.that(!(one && listed), &key("allowed_tenants"), message);
        }
        Kind::Auth0 | Kind::Okta => {
            let named = provider.domain.is_some() || provider.issuer.is_some();
            check.that(named, &key("domain"), "is required, or issuer");
        }
        Kind::Custom => {
            let plain = provider.authorization_url.is_some()
                && provider.token_url.is_some()
                && provider.user_info_url.is_some();
            let message = "is required, or authorization_url, token_url and user_info_url for plain OAuth 2.0";
            check.that(provider.issuer.is_some() || plain, &key("issuer"), message);
        }
    }
}

/// SEC-41: https, or this machine.
fn is_safe(url: &str) -> bool {
    let Ok(url) = url.parse::<url::Url>() else { return false };
    let clean = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let local = url.host_str().is_some_and(is_loopback);
    clean && (url.scheme() == "https" || (url.scheme() == "http" && local))
}
