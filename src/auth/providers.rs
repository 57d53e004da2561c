//! What each kind of identity provider means: where it is, what it is asked for, how it says who somebody is.

use secrecy::SecretString;

use crate::settings::oauth::{Kind, Provider as Written};

/// Microsoft's name for the issuer of any directory.
const TENANT_PLACE: &str = "{tenantid}";

/// An identity provider, as it was set up.
pub struct Provider {
    /// The operator's name for it: part of paths and of people's identity.
    pub name: String,
    pub display_name: String,
    pub kind: Kind,
    pub client_id: String,
    pub client_secret: Option<SecretString>,
    pub protocol: Protocol,
    pub scopes: Vec<String>,
    pub pkce: bool,
    pub email_trusted: bool,
    /// The claim that says who it is.
    pub user_id_field: String,
    pub email_field: String,
    /// What it wants to know besides.
    pub extra: &'static [(&'static str, &'static str)],
}

pub enum Protocol {
    /// OpenID Connect, by discovery.
    OpenId {
        /// What `iss` must be; `{tenantid}` in it stands for one of `tenants`.
        issuer: String,
        discovery: String,
        /// Directories of Microsoft that may sign in; empty = the one in the issuer.
        tenants: Vec<String>,
    },
    /// OAuth 2.0 with an address that tells who the token is for.
    OAuth2 {
        authorization_url: String,
        token_url: String,
        user_info_url: String,
        /// GitHub's list of a person's addresses, with what is verified of them.
        emails_url: Option<String>,
    },
}

impl Provider {
    /// What the settings say, completed by the kind. The settings are checked before.
    pub fn new(name: &str, written: &Written) -> Self {
        let kind = written.kind(name);
        let protocol = protocol(kind, written);
        let open_id = matches!(protocol, Protocol::OpenId { .. });
        let scopes = written.scopes.clone().unwrap_or_else(|| {
            let scopes: &[&str] = match kind {
                Kind::Github => &["read:user", "user:email"],
                Kind::Microsoft | Kind::Okta | Kind::Auth0 => {
                    &["openid", "email", "profile", "offline_access"]
                }
                _ if open_id => &["openid", "email", "profile"],
                _ => &[],
            };
            scopes.iter().map(|scope| (*scope).to_owned()).collect()
        });
        let user_id_field = match kind {
            Kind::Github => "id",
            _ => "sub",
        };
        Self {
            name: name.to_owned(),
            display_name: written.display_name.clone().unwrap_or_else(|| display_name(kind, name)),
            kind,
            client_id: written.client_id.clone(),
            client_secret: written.client_secret.clone(),
            protocol,
            scopes,
            pkce: written.pkce,
            email_trusted: written.email_trusted,
            user_id_field: written
                .user_id_field
                .clone()
                .unwrap_or_else(|| user_id_field.to_owned()),
            email_field: written.email_field.clone().unwrap_or_else(|| "email".to_owned()),
            // Google gives a refresh token for this, and none for the scope that OpenID Connect has.
            extra: if kind == Kind::Google { &[("access_type", "offline")] } else { &[] },
        }
    }

    /// Whether anybody in the world can have an account there.
    pub fn is_public(&self) -> bool {
        match (&self.kind, &self.protocol) {
            (Kind::Google | Kind::Github, _) => true,
            (Kind::Gitlab, Protocol::OpenId { issuer, .. }) => issuer == "https://gitlab.com",
            _ => false,
        }
    }
}

fn display_name(kind: Kind, name: &str) -> String {
    let known = match kind {
        Kind::Google => "Google",
        Kind::Github => "GitHub",
        Kind::Microsoft => "Microsoft",
        Kind::Gitlab => "GitLab",
        Kind::Auth0 => "Auth0",
        Kind::Okta => "Okta",
        Kind::Custom => name,
    };
    known.to_owned()
}

fn protocol(kind: Kind, written: &Written) -> Protocol {
    if let Some(issuer) = &written.issuer {
        return open_id(issuer.clone(), Vec::new());
    }
    let domain = written.domain.as_deref().unwrap_or_default();
    match kind {
        Kind::Google => open_id("https://accounts.google.com".to_owned(), Vec::new()),
        Kind::Gitlab => {
            let instance = written.instance_url.as_deref().unwrap_or("https://gitlab.com");
            open_id(instance.trim_end_matches('/').to_owned(), Vec::new())
        }
        // Auth0 spells its issuers with a slash at the end.
        Kind::Auth0 => open_id(format!("https://{domain}/"), Vec::new()),
        Kind::Okta => open_id(format!("https://{domain}"), Vec::new()),
        Kind::Microsoft => {
            let base = "https://login.microsoftonline.com";
            let tenants = written.allowed_tenants.clone().unwrap_or_default();
            let tenant = written.tenant_id.as_deref().unwrap_or("organizations");
            if tenants.is_empty() {
                open_id(format!("{base}/{tenant}/v2.0"), tenants)
            } else {
                Protocol::OpenId {
                    issuer: format!("{base}/{TENANT_PLACE}/v2.0"),
                    discovery: format!("{base}/{tenant}/v2.0/.well-known/openid-configuration"),
                    tenants,
                }
            }
        }
        Kind::Github | Kind::Custom => {
            let user_info_url = or(&written.user_info_url, "https://api.github.com/user");
            Protocol::OAuth2 {
                authorization_url: or(
                    &written.authorization_url,
                    "https://github.com/login/oauth/authorize",
                ),
                token_url: or(&written.token_url, "https://github.com/login/oauth/access_token"),
                emails_url: (kind == Kind::Github).then(|| format!("{user_info_url}/emails")),
                user_info_url,
            }
        }
    }
}

fn or(written: &Option<String>, usual: &str) -> String {
    written.clone().unwrap_or_else(|| usual.to_owned())
}

fn open_id(issuer: String, tenants: Vec<String>) -> Protocol {
    let base = issuer.trim_end_matches('/');
    let discovery = format!("{base}/.well-known/openid-configuration");
    Protocol::OpenId { issuer, discovery, tenants }
}

/// Whether `iss` is an issuer as it was set up, for the directory `tid` where there are several.
pub fn is_issuer(issuer: &str, tenants: &[String], iss: &str, tid: Option<&str>) -> bool {
    match tid {
        _ if tenants.is_empty() => iss == issuer,
        Some(tid) => iss == issuer.replace(TENANT_PLACE, tid) && tenants.iter().any(|t| t == tid),
        None => false,
    }
}

/// Whether `iss` is the issuer of one of several directories.
pub fn is_one_of(issuer: &str, tenants: &[String], iss: &str) -> bool {
    tenants.iter().any(|tenant| is_issuer(issuer, tenants, iss, Some(tenant)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn provider(name: &str, mut written: Value) -> Provider {
        written["client_id"] = "x".into();
        Provider::new(name, &serde_json::from_value(written).unwrap())
    }

    #[test]
    fn each_kind_of_open_id_has_its_issuer_its_document_and_its_scopes() {
        const KNOWN: &str = "/.well-known/openid-configuration";
        let (plain, offline) = ("openid email profile", "openid email profile offline_access");
        let microsoft = "https://login.microsoftonline.com";
        let tenant = "11111111-2222-3333-4444-555555555555";
        for (name, written, issuer, base, scopes, shown, public) in [
            ("google", json!({}), "https://accounts.google.com", "", plain, "Google", true),
            (
                "work",
                json!({"kind": "google"}),
                "https://accounts.google.com",
                "",
                plain,
                "Google",
                true,
            ),
            ("gitlab", json!({}), "https://gitlab.com", "", plain, "GitLab", true),
            (
                "gitlab",
                json!({"instance_url": "https://git.example/"}),
                "https://git.example",
                "",
                plain,
                "GitLab",
                false,
            ),
            (
                "auth0",
                json!({"domain": "acme.eu.auth0.com"}),
                "https://acme.eu.auth0.com/",
                "https://acme.eu.auth0.com",
                offline,
                "Auth0",
                false,
            ),
            (
                "okta",
                json!({"domain": "acme.okta.com"}),
                "https://acme.okta.com",
                "",
                offline,
                "Okta",
                false,
            ),
            (
                "okta",
                json!({"issuer": "https://acme.okta.com/oauth2/default"}),
                "https://acme.okta.com/oauth2/default",
                "",
                offline,
                "Okta",
                false,
            ),
            (
                "microsoft",
                json!({"tenant_id": tenant}),
                &format!("{microsoft}/{tenant}/v2.0"),
                "",
                offline,
                "Microsoft",
                false,
            ),
            (
                "microsoft",
                json!({"tenant_id": "common", "allowed_tenants": tenant}),
                &format!("{microsoft}/{{tenantid}}/v2.0"),
                &format!("{microsoft}/common/v2.0"),
                offline,
                "Microsoft",
                false,
            ),
            (
                "microsoft",
                json!({"allowed_tenants": [tenant]}),
                &format!("{microsoft}/{{tenantid}}/v2.0"),
                &format!("{microsoft}/organizations/v2.0"),
                offline,
                "Microsoft",
                false,
            ),
            (
                "corp",
                json!({"issuer": "https://id.example/x"}),
                "https://id.example/x",
                "",
                plain,
                "corp",
                false,
            ),
        ] {
            let made = provider(name, written.clone());

            let Protocol::OpenId { issuer: read, discovery, .. } = &made.protocol else {
                panic!("{name}: plain OAuth 2.0")
            };
            let base = if base.is_empty() { issuer } else { base };
            assert_eq!(read, issuer, "{written}");
            assert_eq!(*discovery, format!("{base}{KNOWN}"), "{written}");
            assert_eq!(made.scopes.join(" "), scopes, "{written}");
            assert_eq!(
                (made.display_name.as_str(), made.is_public()),
                (shown, public),
                "{written}"
            );
            assert_eq!((made.user_id_field.as_str(), made.email_field.as_str()), ("sub", "email"));
            assert!(made.pkce && !made.email_trusted, "{written}");
            let google = made.kind == Kind::Google;
            assert_eq!(made.extra == [("access_type", "offline")], google, "{written}");
        }
    }

    #[test]
    fn plain_oauth_has_its_addresses_and_github_a_list_of_a_person_s() {
        let github = provider("github", json!({}));
        let Protocol::OAuth2 { authorization_url, token_url, user_info_url, emails_url } =
            &github.protocol
        else {
            panic!("OpenID Connect")
        };
        assert_eq!(authorization_url, "https://github.com/login/oauth/authorize");
        assert_eq!(token_url, "https://github.com/login/oauth/access_token");
        assert_eq!(user_info_url, "https://api.github.com/user");
        assert_eq!(emails_url.as_deref(), Some("https://api.github.com/user/emails"));
        assert_eq!(github.scopes, ["read:user", "user:email"]);
        assert_eq!((github.user_id_field.as_str(), github.is_public()), ("id", true));

        let written = json!({
            "authorization_url": "https://id.example/a", "token_url": "https://id.example/t",
            "user_info_url": "https://id.example/me", "scopes": "a,b", "user_id_field": "uid",
            "email_field": "mail", "display_name": "Corp", "pkce": "false", "email_trusted": "true",
        });
        let custom = provider("corp", written);
        let Protocol::OAuth2 { user_info_url, emails_url, .. } = &custom.protocol else {
            panic!("OpenID Connect")
        };
        assert_eq!((user_info_url.as_str(), emails_url), ("https://id.example/me", &None));
        assert_eq!(custom.scopes, ["a", "b"]);
        assert_eq!((custom.user_id_field.as_str(), custom.email_field.as_str()), ("uid", "mail"));
        assert_eq!(
            (custom.display_name.as_str(), custom.pkce, custom.email_trusted),
            ("Corp", false, true)
        );
        assert!(!custom.is_public());
    }

    #[test]
    fn an_issuer_is_compared_to_the_letter_and_a_directory_must_be_listed() {
        let issuer = "https://login.microsoftonline.com/{tenantid}/v2.0";
        let of = |tenant: &str| format!("https://login.microsoftonline.com/{tenant}/v2.0");
        let listed = ["aaa".to_owned(), "bbb".to_owned()];
        for (iss, tid, good) in [
            (of("aaa"), Some("aaa"), true),
            (of("bbb"), Some("bbb"), true),
            (of("aaa"), Some("bbb"), false),
            (of("ccc"), Some("ccc"), false),
            (of("AAA"), Some("AAA"), false),
            (of("aaa"), Some("AAA"), false),
            (of("aaa"), Some(""), false),
            (of(""), Some(""), false),
            (of("aaa"), None, false),
            (of("{tenantid}"), Some("{tenantid}"), false),
            (of("aaa/../ccc"), Some("aaa/../ccc"), false),
            (format!("{}/", of("aaa")), Some("aaa"), false),
            ("https://evil.example/aaa/v2.0".to_owned(), Some("aaa"), false),
        ] {
            assert_eq!(is_issuer(issuer, &listed, &iss, tid), good, "{iss} {tid:?}");
        }
        for (iss, good) in [
            (of("aaa"), true),
            (of("bbb"), true),
            (of("ccc"), false),
            (of("{tenantid}"), false),
            (of(""), false),
        ] {
            assert_eq!(is_one_of(issuer, &listed, &iss), good, "{iss}");
        }
        let single = "https://id.example";
        for (iss, good) in [
            ("https://id.example", true),
            ("https://id.example/", false),
            ("https://ID.example", false),
            ("http://id.example", false),
            ("https://id.example.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_issuer(single, &[], iss, None), good, "{iss}");
            assert_eq!(is_issuer(single, &[], iss, Some("aaa")), good, "a directory says nothing");
        }
    }
}
