//! People, and what a provider says of them.

use std::borrow::Cow;

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};

use super::fault::Fault;
use super::world::Faults;

/// The letter before `mple` is Cyrillic.
const HOMOGRAPH: &str = "admin@ex\u{430}mple.com";
/// What a page, a log, a spreadsheet and a database may each take badly.
const HTML_NAME: &str = "=HYPERLINK(\"http://evil.example\",'x')<script>alert(\"1\")</script>\
    <img src=x onerror=alert(1)>&amp;\r\nSet-Cookie: a=b\t\u{0}\u{1b}[31m\u{202e}";

/// Someone who can sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// What identifies them: `sub`.
    pub subject: String,
    /// Their address, if they have one.
    pub email: Option<String>,
    /// The claim as it is sent: `true`, `false`, `"true"`, or `null` for no claim at all.
    pub email_verified: Value,
    /// Their name, if they have one.
    pub name: Option<String>,
}

impl Person {
    /// Someone with a verified address.
    pub fn new(subject: &str, email: &str, name: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            email: Some(email.to_owned()),
            email_verified: Value::Bool(true),
            name: Some(name.to_owned()),
        }
    }

    /// Whether `hint` is their subject or their address.
    pub(super) fn is(&self, hint: &str) -> bool {
        self.subject == hint || self.email.as_deref() == Some(hint)
    }

    /// The subject as an integer, as GitHub numbers people: itself if it is one, or else made of
    /// it, always the same.
    pub(super) fn number(&self) -> u64 {
        self.subject.parse().unwrap_or_else(|_| {
            let digest = digest::digest(&digest::SHA256, self.subject.as_bytes());
            let bytes = digest.as_ref().iter().take(6); // 48 bits: exact in any language's numbers
            bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
        })
    }

    /// The name in GitHub's addresses.
    pub(super) fn login(&self) -> String {
        let local = self.email.as_deref().and_then(|email| email.split_once('@'));
        local.map_or_else(|| format!("user-{}", self.number()), |(local, _)| local.to_owned())
    }

    /// `sub`, with the faults which concern it in tokens and userinfo alike.
    pub(super) fn sub(&self, faults: Faults) -> Value {
        if faults.has(Fault::EmptySubject) {
            json!("")
        } else if faults.has(Fault::IntegerSubject) {
            json!(self.number())
        } else {
            json!(self.subject)
        }
    }

    /// The name which the provider tells.
    pub(super) fn told_name(&self, faults: Faults) -> Option<&str> {
        if faults.has(Fault::HtmlName) { Some(HTML_NAME) } else { self.name.as_deref() }
    }

    /// The address which the provider tells, and `email_verified`.
    pub(super) fn told_email(&self, faults: Faults) -> Option<(Cow<'_, str>, Value)> {
        let strange = faults.iter().find_map(|fault| match fault {
            Fault::TwoAts => Some("a@evil.example@example.com"),
            Fault::Homograph => Some(HOMOGRAPH),
            Fault::TrailingDot => Some("a@example.com."),
            _ => None,
        });
        if faults.has(Fault::NoEmail) {
            return None;
        }
        if let Some(strange) = strange {
            return Some((Cow::Borrowed(strange), Value::Bool(true))); // nothing else is wrong
        }
        let verified = faults.iter().find_map(|fault| match fault {
            Fault::EmailVerifiedFalse => Some(Value::Bool(false)),
            Fault::EmailVerifiedMissing => Some(Value::Null),
            Fault::EmailVerifiedString => Some(json!("true")),
            _ => None,
        });
        let verified = verified.unwrap_or_else(|| self.email_verified.clone());
        self.email.as_deref().map(|email| (Cow::Borrowed(email), verified))
    }

    /// The claims which `scopes` allow, without `sub`.
    pub(super) fn claims(&self, scopes: &[String], faults: Faults) -> Map<String, Value> {
        let asked = |scope: &str| scopes.iter().any(|known| known == scope);
        let mut claims = Map::new();
        if asked("profile")
            && let Some(name) = self.told_name(faults)
        {
            claims.insert("name".to_owned(), json!(name));
        }
        if asked("email")
            && let Some((email, verified)) = self.told_email(faults)
        {
            claims.insert("email".to_owned(), json!(email));
            if !verified.is_null() {
                claims.insert("email_verified".to_owned(), verified);
            }
        }
        claims
    }
}

/// Two who may come in, and three whom a careful service refuses.
pub(super) fn test_people() -> Vec<Person> {
    let unverified = Person::new("1003", "unverified@example.com", "Unverified Person");
    vec![
        Person::new("1001", "admin@example.com", "Demo Admin"),
        Person::new("1002", "developer@example.com", "Demo Developer"),
        Person { email_verified: Value::Bool(false), ..unverified },
        Person {
            subject: "1004".to_owned(),
            email: None,
            email_verified: Value::Null,
            name: Some("No Address".to_owned()),
        },
        Person::new("1005", "someone@elsewhere.example", "Other Company"),
    ]
}
