//! Access tokens: HS256 and nothing else, strict in every claim (SEC-12..15). Time is an argument.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use jsonwebtoken::{Algorithm, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{Refusal, keys::JwtKeys};
use crate::db::Timestamp;

const TYPE: &str = "at+jwt";
/// Far above what we issue; anything longer is not ours.
const LONGEST: usize = 4096;
/// Seconds; no token lives longer, whoever signed it.
const LONGEST_LIFE: i64 = 3600;

/// Three dotted parts; nothing else is known of it yet.
#[derive(Debug, Clone)]
pub struct JwtText(SecretString);

impl JwtText {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let mut parts = text.split('.');
        let three = parts.clone().count() == 3;
        let sound = parts.all(|part| !part.is_empty() && part.bytes().all(alphabet));
        if three && sound && text.len() <= LONGEST {
            Ok(Self(text.into()))
        } else {
            Err(Refusal::Malformed)
        }
    }

    pub fn as_str(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Exactly the claims that we issue. Serde refuses a missing, repeated or wrongly typed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    /// User id, as text.
    pub sub: String,
    /// Session id.
    pub sid: String,
    pub jti: String,
    /// Seconds since 1970.
    pub iat: i64,
    pub exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
}

impl Claims {
    pub(super) fn ends(&self) -> Timestamp {
        DateTime::from_timestamp(self.exp, 0).unwrap_or(DateTime::UNIX_EPOCH).naive_utc()
    }
}

/// The header, read by ourselves first: a library may not look at all of these.
#[derive(Deserialize)]
struct StrictHeader {
    alg: String,
    typ: String,
    kid: String,
    crit: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    jwk: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
}

/// A token for a session, signed with the current secret.
///
/// # Errors
/// The library's, if it cannot sign.
pub fn issue(
    keys: &JwtKeys,
    user_id: i64,
    session_id: &str,
    ttl_seconds: u32,
    now: Timestamp,
) -> Result<SecretString, jsonwebtoken::errors::Error> {
    let iat = now.and_utc().timestamp();
    let claims = Claims {
        iss: keys.issuer.clone(),
        aud: keys.audience.clone(),
        sub: user_id.to_string(),
        sid: session_id.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        iat,
        exp: iat + i64::from(ttl_seconds),
        nbf: None,
    };
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(keys.signing_id.clone());
    jsonwebtoken::encode(&header, &claims, &keys.signing).map(SecretString::from)
}

/// Whether a token signed with the current secret is accepted: the check behind `/health?check=jwt`.
///
/// # Errors
/// What failed, without any secret.
pub fn sign_and_verify(keys: &JwtKeys, now: Timestamp) -> Result<(), String> {
    let token = issue(keys, 0, "health", 60, now).map_err(|error| error.to_string())?;
    let token =
        JwtText::parse(token.expose_secret()).map_err(|refusal| refusal.as_str().to_owned())?;
    verify(keys, &token, now).map(drop).map_err(|refusal| refusal.as_str().to_owned())
}

/// The claims of a token that holds at `now`.
///
/// # Errors
/// [`Refusal`]: what is wrong, for the log; never for the client.
pub fn verify(keys: &JwtKeys, token: &JwtText, now: Timestamp) -> Result<Claims, Refusal> {
    let header = token.as_str().split('.').next().unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Refusal::Malformed)?;
    let header: StrictHeader = serde_json::from_slice(&header).map_err(|_| Refusal::BadHeader)?;
    let pointers = [&header.crit, &header.jku, &header.jwk, &header.x5u, &header.x5c];
    if header.alg != "HS256" || header.typ != TYPE || pointers.iter().any(|p| p.is_some()) {
        return Err(Refusal::BadHeader);
    }
    let verifying = keys
        .verifying
        .iter()
        .find(|key| key.id == header.kid)
        .filter(|key| key.until.is_none_or(|until| now < until))
        .ok_or(Refusal::BadHeader)?;
    // Times and names are checked below, against our own clock and without leeway.
    let mut signature_only = Validation::new(Algorithm::HS256);
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    signature_only.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token.as_str(), &verifying.key, &signature_only)
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => Refusal::BadSignature,
            _ => Refusal::BadClaims,
        })?
        .claims;
    if claims.iss != keys.issuer || claims.aud != keys.audience {
        return Err(Refusal::BadClaims);
    }
    let now = now.and_utc().timestamp();
    if claims.exp <= now {
        return Err(Refusal::Expired);
    }
    if claims.iat > now || claims.nbf.is_some_and(|nbf| nbf > now) {
        return Err(Refusal::NotYetValid);
    }
    let life = claims.exp.saturating_sub(claims.iat);
    if !(1..=LONGEST_LIFE).contains(&life) {
        return Err(Refusal::BadClaims);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests;
