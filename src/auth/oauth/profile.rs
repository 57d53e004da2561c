//! Who a provider says somebody is: claims, and what is believed of them.

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::auth::{email, providers::Provider};

/// Longest subject and name that are kept, in characters.
const LONGEST_SUBJECT: usize = 255;
const LONGEST_NAME: usize = 100;

/// A person, as their provider describes them.
#[derive(Debug, Clone)]
pub struct Profile {
    pub subject: String,
    /// Lower-case; only one that is an address by our rules.
    pub email: Option<String>,
    pub email_verified: bool,
    pub display_name: Option<String>,
    pub refresh_token: Option<SecretString>,
}

/// Why claims make no person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("the provider's answer is no JSON object")]
    NotAnObject,
    #[error("the claim {0} is missing, empty, or neither text nor a number")]
    NoSubject(String),
    #[error("the user information is about somebody else than the id_token (sub)")]
    OtherSubject,
}

/// What a provider said, from the id_token and from its user information.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// # Errors
    /// [`ProfileError::NotAnObject`].
    pub fn from_json(text: &[u8]) -> Result<Self, ProfileError> {
        serde_json::from_slice(text).map(Self).map_err(|_| ProfileError::NotAnObject)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    pub fn seconds(&self, name: &str) -> Option<i64> {
        let value = self.0.get(name)?;
        // Some providers write times with a fraction.
        value.as_i64().or_else(|| value.as_f64().filter(|s| s.abs() < 1e15).map(|s| s as i64))
    }

    /// `aud`, which is one text or a list of them.
    pub fn audience(&self) -> Option<Vec<&str>> {
        match self.0.get("aud")? {
            Value::String(one) => Some(vec![one]),
            Value::Array(all) => all.iter().map(Value::as_str).collect(),
            _ => None,
        }
    }

    /// A claim that says who somebody is: text that is not empty, or a whole number (SEC-35).
    pub fn subject(&self, name: &str) -> Option<String> {
        let subject = match self.0.get(name)? {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => return None,
        };
        let sound = !subject.is_empty()
            && subject.chars().count() <= LONGEST_SUBJECT
            && !subject.chars().any(char::is_control);
        sound.then_some(subject)
    }

    /// These claims and those of the user information, which must be about the same subject (SEC-34).
    ///
    /// # Errors
    /// [`ProfileError::OtherSubject`], [`ProfileError::NotAnObject`].
    pub fn with(mut self, user_info: &[u8]) -> Result<Self, ProfileError> {
        let told = Self::from_json(user_info)?;
        if self.has("sub") && self.subject("sub") != told.subject("sub") {
            return Err(ProfileError::OtherSubject);
        }
        for (name, value) in told.0 {
            // What was signed stands.
            self.0.entry(name).or_insert(value);
        }
        Ok(self)
    }

    /// Puts the verified address of a list of GitHub's in the place of whatever was there: the primary one, else the
    /// first that is verified.
    ///
    /// # Errors
    /// [`ProfileError::NotAnObject`].
    pub fn with_verified_address(mut self, list: &[u8]) -> Result<Self, ProfileError> {
        #[derive(serde::Deserialize)]
        struct Address {
            email: String,
            #[serde(default)]
            primary: bool,
            #[serde(default)]
            verified: bool,
        }
        let list: Vec<Address> =
            serde_json::from_slice(list).map_err(|_| ProfileError::NotAnObject)?;
        let mut verified = list.into_iter().filter(|address| address.verified);
        let first = verified.next();
        let chosen = match first {
            Some(first) if !first.primary => verified.find(|a| a.primary).or(Some(first)),
            first => first,
        };
        self.0.insert("email_verified".to_owned(), chosen.is_some().into());
        self.0.insert("email".to_owned(), chosen.map(|address| address.email).into());
        Ok(self)
    }

    /// The person that the claims describe.
    ///
    /// # Errors
    /// [`ProfileError::NoSubject`].
    pub fn profile(
        &self,
        provider: &Provider,
        refresh_token: Option<SecretString>,
    ) -> Result<Profile, ProfileError> {
        let field = &provider.user_id_field;
        let subject = self.subject(field).ok_or_else(|| ProfileError::NoSubject(field.clone()))?;
        let address = self.text(&provider.email_field).and_then(email::parse);
        let email = address.map(|(local, domain)| format!("{local}@{domain}"));
        // Nothing but `true` is true (SEC-36): a text or a number is somebody's mistake, or trick.
        let said = self.0.get("email_verified") == Some(&Value::Bool(true));
        // It speaks of `email`, and of no other claim.
        let said = said && provider.email_field == "email";
        Ok(Profile {
            email_verified: email.is_some() && (said || provider.email_trusted),
            subject,
            email,
            display_name: ["name", "login"].iter().find_map(|name| self.text(name)).and_then(shown),
            refresh_token,
        })
    }
}

/// A name without what acts on a screen, of bounded length.
fn shown(name: &str) -> Option<String> {
    let plain = name
        .chars()
        .filter(|letter| !letter.is_control() && !crate::auth::api_key::turns_text(*letter));
    let name: String = plain.take(LONGEST_NAME).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_text_or_a_whole_number() {
        let claims = |json: &str| Claims::from_json(json.as_bytes()).unwrap();
        for (json, subject) in [
            (r#"{"sub":"abc"}"#, Some("abc")),
            (r#"{"sub":1234567}"#, Some("1234567")),
            (r#"{"sub":18446744073709551615}"#, Some("18446744073709551615")),
            (r#"{"sub":1.5}"#, None),
            (r#"{"sub":1e3}"#, None),
            (r#"{"sub":""}"#, None),
            (r#"{"sub":null}"#, None),
            (r#"{"sub":true}"#, None),
            (r#"{"sub":["a"]}"#, None),
            (r#"{"sub":"a\u0000"}"#, None),
            (r#"{}"#, None),
        ] {
            assert_eq!(claims(json).subject("sub").as_deref(), subject, "{json}");
        }
    }

    #[test]
    fn of_githubs_addresses_the_verified_primary_one_counts() {
        let chosen = |list: &str| {
            let claims = Claims::from_json(br#"{"email":"public@example.com"}"#).unwrap();
            let claims = claims.with_verified_address(list.as_bytes()).unwrap();
            (claims.text("email").map(str::to_owned), claims.0["email_verified"].clone())
        };
        let list = r#"[{"email":"a@x.example","primary":true,"verified":false},
            {"email":"b@x.example","primary":false,"verified":true},
            {"email":"c@x.example","primary":true,"verified":true}]"#;
        assert_eq!(chosen(list), (Some("c@x.example".into()), true.into()));
        let list =
            r#"[{"email":"b@x.example","verified":true},{"email":"c@x.example","verified":true}]"#;
        assert_eq!(chosen(list), (Some("b@x.example".into()), true.into()));
        assert_eq!(chosen(r#"[{"email":"a@x.example","primary":true}]"#), (None, false.into()));
        assert_eq!(chosen("[]"), (None, false.into()));
    }

    #[test]
    fn names_lose_what_acts_on_a_screen() {
        assert_eq!(shown("  a\u{202e}b\u{0}c\n ").as_deref(), Some("abc"));
        assert_eq!(shown("\u{7}"), None);
        assert_eq!(shown(&"x".repeat(500)).unwrap().len(), 100);
        assert_eq!(shown("<b>=1+1</b>").as_deref(), Some("<b>=1+1</b>"), "templates escape it");
    }
}
