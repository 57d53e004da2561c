//! id_tokens: which are believed (OpenID Connect Core 1.0, 3.1.3.7; SEC-34). Pure: keys and time are arguments.
//!
//! The library checks signatures. Its own check of claims does not look at `azp`, and does not know subjects that are
//! numbers, which some providers send.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use openidconnect::{
    JsonWebKey,
    core::{CoreJsonWebKeySet, CoreJsonWebKeyUse, CoreJwsSigningAlgorithm},
};
use serde::{Deserialize, de::IgnoredAny};

use super::profile::Claims;
use crate::auth::providers::{Protocol, Provider, is_issuer};

/// Far above what providers send.
const LONGEST: usize = 64 * 1024;
/// Seconds by which the provider's clock may be ahead of ours.
const CLOCK: i64 = 60;
/// Seconds after which a token that was made for this sign-in is too old for it.
const OLDEST: i64 = 600;

/// Why an id_token is not believed; names the claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    #[error("it is malformed")]
    Malformed,
    #[error("its algorithm is not accepted")]
    Algorithm,
    #[error("it is signed by a key that the provider does not publish")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("its claim {0} is missing or has the wrong type")]
    Missing(&'static str),
    #[error("its claim {0} is wrong")]
    Wrong(&'static str),
    #[error("it has expired (exp)")]
    Expired,
}

/// What a token must say.
pub(super) struct Expected<'a> {
    pub provider: &'a Provider,
    /// That of the sign-in.
    pub nonce: &'a str,
    pub now: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Header {
    alg: CoreJwsSigningAlgorithm,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// The claims of a token that holds.
///
/// # Errors
/// Why it does not.
pub(super) fn verify(
    token: &str,
    keys: &CoreJsonWebKeySet,
    expected: &Expected<'_>,
) -> Result<Claims, IdTokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(IdTokenError::Malformed);
    };
    if token.len() > LONGEST {
        return Err(IdTokenError::Malformed);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| IdTokenError::Malformed);
    let read: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| IdTokenError::Algorithm)?;
    if !is_asymmetric(&read.alg) || read.crit.is_some() {
        return Err(IdTokenError::Algorithm);
    }
    let signed = token.rsplit_once('.').map_or("", |(signed, _)| signed);
    check_signature(keys, &read, signed.as_bytes(), &decode(signature)?)?;
    let claims = Claims::from_json(&decode(payload)?).map_err(|_| IdTokenError::Malformed)?;
    check_claims(&claims, expected)?;
    Ok(claims)
}

/// Keys that both sides know are no proof of who signed.
fn is_asymmetric(algorithm: &CoreJwsSigningAlgorithm) -> bool {
    use CoreJwsSigningAlgorithm as Alg;
    matches!(
        algorithm,
        Alg::RsaSsaPkcs1V15Sha256
            | Alg::RsaSsaPkcs1V15Sha384
            | Alg::RsaSsaPkcs1V15Sha512
            | Alg::RsaSsaPssSha256
            | Alg::RsaSsaPssSha384
            | Alg::RsaSsaPssSha512
            | Alg::EcdsaP256Sha256
            | Alg::EcdsaP384Sha384
            | Alg::EdDsa
    )
}

fn check_signature(
    keys: &CoreJsonWebKeySet,
    header: &Header,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), IdTokenError> {
    let for_signing = |key: &&openidconnect::core::CoreJsonWebKey| {
        key.key_use().is_none_or(|use_| *use_ == CoreJsonWebKeyUse::Signature)
    };
    // Without a kid, any of the provider's keys may have signed.
    let named = |key: &&openidconnect::core::CoreJsonWebKey| {
        header.kid.as_ref().is_none_or(|kid| key.key_id().is_some_and(|id| id.as_str() == kid))
    };
    let mut candidates = keys.keys().iter().filter(for_signing).filter(named).peekable();
    if candidates.peek().is_none() {
        return Err(IdTokenError::UnknownKey);
    }
    let mut holds = candidates.map(|key| key.verify_signature(&header.alg, signed, signature));
    if holds.any(|verdict| verdict.is_ok()) { Ok(()) } else { Err(IdTokenError::Signature) }
}

fn check_claims(claims: &Claims, expected: &Expected<'_>) -> Result<(), IdTokenError> {
    let Expected { provider, nonce, now } = expected;
    let text = |name| claims.text(name).ok_or(IdTokenError::Missing(name));
    let Protocol::OpenId { issuer, tenants, .. } = &provider.protocol else {
        return Err(IdTokenError::Wrong("iss"));
    };
    if !is_issuer(issuer, tenants, text("iss")?, claims.text("tid")) {
        return Err(IdTokenError::Wrong("iss"));
    }
    let audience = claims.audience().ok_or(IdTokenError::Missing("aud"))?;
    if !audience.contains(&provider.client_id.as_str()) {
        return Err(IdTokenError::Wrong("aud"));
    }
    // Others that it is for as well are strangers to us; then it must say that we asked for it.
    let party = claims.has("azp").then(|| text("azp")).transpose()?;
    if party.is_some_and(|party| party != provider.client_id)
        || (audience.len() > 1 && party.is_none())
    {
        return Err(IdTokenError::Wrong("azp"));
    }
    let now = now.timestamp();
    let seconds = |name| claims.seconds(name).ok_or(IdTokenError::Missing(name));
    if seconds("exp")? <= now {
        return Err(IdTokenError::Expired);
    }
    let issued = seconds("iat")?;
    if issued > now + CLOCK || issued < now - OLDEST {
        return Err(IdTokenError::Wrong("iat"));
    }
    if claims.has("nbf") && seconds("nbf")? > now + CLOCK {
        return Err(IdTokenError::Wrong("nbf"));
    }
    if claims.subject("sub").is_none() {
        return Err(IdTokenError::Missing("sub"));
    }
    if text("nonce")? != *nonce {
        return Err(IdTokenError::Wrong("nonce"));
    }
    Ok(())
}
