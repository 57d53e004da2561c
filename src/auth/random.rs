//! Random texts that are secrets: cookies, refresh tokens, codes. 32 bytes from the operating system, in base64url.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

use super::Refusal;

/// 32 bytes in base64url without padding.
const LENGTH: usize = 43;
/// What refresh tokens begin with, for scanners of leaked secrets, and for our own logs.
const REFRESH_PREFIX: &str = "SSOR_";
/// Letters and digits that are not taken for one another, and spell no words (RFC 8628, 6.1).
const USER_CODE: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the operating system gives random bytes");
}

/// A new random text.
pub fn text() -> String {
    let mut bytes = [0; 32];
    fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a text has the form of [`text`].
pub fn is_random(text: &str) -> bool {
    text.len() == LENGTH && URL_SAFE_NO_PAD.decode(text).is_ok()
}

/// A code that a person can type: `BCDF-GHJK`, 34 random bits. It lives for minutes, and guesses are counted.
pub fn user_code() -> String {
    let mut code = String::new();
    while code.len() < 9 {
        let mut bytes = [0; 32];
        fill(&mut bytes);
        // 240 is the largest multiple of 20 below 256: bytes from there on would favour some letters.
        for byte in bytes.iter().filter(|byte| **byte < 240) {
            if code.len() == 4 {
                code.push('-');
            }
            if code.len() < 9 {
                code.extend(
                    USER_CODE.get(usize::from(byte % 20)).map(|letter| char::from(*letter)),
                );
            }
        }
    }
    code
}

/// A code as a person typed it: in any case, with or without dashes and spaces.
pub fn read_user_code(typed: &str) -> Option<String> {
    let letters: String = typed
        .chars()
        .filter(|letter| !matches!(letter, '-' | ' '))
        .map(|letter| letter.to_ascii_uppercase())
        .collect();
    let sound = letters.len() == 8 && letters.bytes().all(|letter| USER_CODE.contains(&letter));
    let (first, last) = letters.split_at_checked(4)?;
    sound.then(|| format!("{first}-{last}"))
}

/// The id of a browser's session, as its cookie holds it. Never shown by `Debug`.
#[derive(Debug, Clone)]
pub struct SessionText(SecretString);

impl SessionText {
    pub fn generate() -> Self {
        Self(text().into())
    }

    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if is_random(text) { Ok(Self(text.into())) } else { Err(Refusal::Malformed) }
    }

    pub fn as_str(&self) -> &str {
        self.0.expose_secret()
    }
}

/// A refresh token: `SSOR_` and a random text (SEC-20). Never shown by `Debug`.
#[derive(Debug, Clone)]
pub struct RefreshText(SecretString);

impl RefreshText {
    pub fn generate() -> Self {
        Self(format!("{REFRESH_PREFIX}{}", text()).into())
    }

    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        match text.strip_prefix(REFRESH_PREFIX) {
            Some(random) if is_random(random) => Ok(Self(text.into())),
            _ => Err(Refusal::Malformed),
        }
    }

    pub fn as_str(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_has_the_form_it_is_checked_for() {
        for _ in 0..200 {
            assert!(SessionText::parse(SessionText::generate().as_str()).is_ok());
            assert!(RefreshText::parse(RefreshText::generate().as_str()).is_ok());
            let code = user_code();
            assert_eq!(read_user_code(&code), Some(code.clone()));
            assert_eq!(read_user_code(&code.to_lowercase().replace('-', " ")), Some(code));
        }
        assert_ne!(text(), text());
    }

    #[test]
    fn other_forms_are_refused() {
        let good = text();
        let short = good.get(1..).unwrap();
        for bad in ["", "x", short, &format!("{good}A"), &format!("+{short}")] {
            assert!(SessionText::parse(bad).is_err(), "{bad}");
            assert!(RefreshText::parse(&format!("SSOR_{bad}")).is_err(), "{bad}");
        }
        assert!(RefreshText::parse(&good).is_err());
        for bad in ["", "BCDF", "BCDF-GHJ", "BCDF-GHJA", "BCDF-GHJKL", "ÄCDF-GHJK"] {
            assert!(read_user_code(bad).is_none(), "{bad}");
        }
    }
}
