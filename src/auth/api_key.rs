//! The text of an API key: `SSOK_` and 32 characters of base62, about 190 random bits (SEC-1).

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use chrono::{NaiveDate, NaiveTime, TimeDelta};
use secrecy::{ExposeSecret, SecretString};

use super::Refusal;
use crate::{db::Timestamp, settings::ApiKeys, telemetry::looks_secret};

pub const PREFIX: &str = "SSOK_";
const RANDOM: usize = 32;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a key cannot be made as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "A name has 1 to 100 characters, none of them control characters or marks that turn text around."
    )]
    Name,
    /// It would be in lists and in the audit log for everybody to read.
    #[error(
        "This looks like a key itself, which nobody else may see. Give the key a name, such as laptop."
    )]
    Secret,
    #[error("A key lives at least one day.")]
    NoLife,
    #[error("A key must end within {0} days (api_keys.max_expiry_days).")]
    TooLong(u32),
    #[error("That is too many days.")]
    BeyondDates,
}

/// A name for a key, without space around it. People see it, so nothing in it may act on a screen.
///
/// # Errors
/// [`Unfit::Name`], [`Unfit::Secret`].
pub fn name(text: &str) -> Result<String, Unfit> {
    let name = text.trim();
    let acts = |letter: char| letter.is_control() || turns_text(letter);
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(acts) {
        return Err(Unfit::Name);
    }
    if looks_secret(name) {
        return Err(Unfit::Secret);
    }
    Ok(name.to_owned())
}

/// Characters that turn the direction of text around, and make a name look like another one.
pub(super) fn turns_text(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// When a key ends that is made `now` to live for `days`; `None` = never (SEC-7).
///
/// # Errors
/// A lifetime that is none, or that the rules do not allow.
pub fn end(days: Option<i64>, rules: &ApiKeys, now: Timestamp) -> Result<Option<Timestamp>, Unfit> {
    let Some(days) = days else {
        return rules.max_expiry_days.map_or(Ok(None), |most| Err(Unfit::TooLong(most)));
    };
    if days < 1 {
        return Err(Unfit::NoLife);
    }
    if let Some(most) = rules.max_expiry_days.filter(|most| days > i64::from(*most)) {
        return Err(Unfit::TooLong(most));
    }
    // Dates beyond it are of no use to anybody, and some databases refuse them.
    let latest = NaiveDate::from_ymd_opt(2200, 1, 1).unwrap_or_default().and_time(NaiveTime::MIN);
    TimeDelta::try_days(days)
        .and_then(|life| now.checked_add_signed(life))
        .filter(|end| *end < latest)
        .map(Some)
        .ok_or(Unfit::BeyondDates)
}

/// A key of the right form. Never shown by `Debug`; cleared from memory when dropped.
#[derive(Debug, Clone)]
pub struct ApiKeyText(SecretString);

impl ApiKeyText {
    /// # Errors
    /// [`Refusal::Malformed`] for another prefix, length or alphabet (SEC-2).
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let random = text.strip_prefix(PREFIX).ok_or(Refusal::Malformed)?;
        let sound =
            random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if sound { Ok(Self(text.into())) } else { Err(Refusal::Malformed) }
    }

    /// A new key from the operating system's random source.
    pub fn generate() -> Self {
        let mut text = String::with_capacity(PREFIX.len() + RANDOM);
        text.push_str(PREFIX);
        let mut bytes = [0; 64];
        while text.len() < PREFIX.len() + RANDOM {
            SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
            // 248 is the largest multiple of 62 below 256: bytes from there on would favour some characters.
            let fair = bytes.iter().filter(|byte| **byte < 248);
            let wanted = PREFIX.len() + RANDOM - text.len();
            text.extend(
                fair.filter_map(|b| BASE62.get(usize::from(b % 62)))
                    .take(wanted)
                    .map(|b| *b as char),
            );
        }
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        self.0.expose_secret()
    }

    /// The last four characters, for people to recognise a key by.
    pub fn hint(&self) -> &str {
        self.as_str().get(PREFIX.len() + RANDOM - 4..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_has_the_form_it_is_checked_for() {
        for _ in 0..1000 {
            let key = ApiKeyText::generate();
            assert_eq!(key.as_str().len(), 37);
            assert!(ApiKeyText::parse(key.as_str()).is_ok());
            assert_eq!(key.hint().len(), 4);
        }
    }

    #[test]
    fn every_malformed_key_is_refused() {
        let body = "a".repeat(32);
        for text in [
            String::new(),
            "SSOK_".into(),
            format!("SSOK_{}", "a".repeat(31)),
            format!("SSOK_{}", "a".repeat(33)),
            format!("ssok_{body}"),
            format!(" SSOK_{body}"),
            format!("SSOK_{body} "),
            format!("SSOK-{body}"),
            format!("SSOR_{body}"),
            format!("SSOK_{}-", "a".repeat(31)),
            format!("SSOK_{}é", "a".repeat(30)),
            format!("SSOK_{}\0", "a".repeat(31)),
            format!("SSOK_{}", "ａ".repeat(32)),
        ] {
            assert!(ApiKeyText::parse(&text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_the_key() {
        let key = ApiKeyText::generate();
        assert!(!format!("{key:?}").contains(key.hint()));
    }
}
