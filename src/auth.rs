//! Who is calling: credentials as they arrive, the identities behind them, and why one is refused.

pub mod api_key;
pub mod jwt;
pub mod keys;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    db::{
        DbError, Pool, Timestamp, api_keys::ApiKeyRecord, sessions::SessionRecord,
        users::UserRecord,
    },
    settings,
};

use api_key::ApiKeyText;
use jwt::{Claims, JwtText};
use keys::Keys;

/// A caller that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user_id: i64,
    /// The API key that was used; `None` for an access token.
    pub key_id: Option<i64>,
    pub admin: bool,
    /// When the credential ends by itself.
    pub ends: Option<Timestamp>,
}

/// A credential of the right form, not yet checked.
#[derive(Debug, Clone)]
pub enum Credential {
    ApiKey(ApiKeyText),
    Jwt(JwtText),
}

/// The name under which a credential is cached: SHA-256 over a type tag and the whole text (SEC-90).
pub type CredentialDigest = [u8; 32];

impl Credential {
    /// Reads a credential by its form alone (SEC-2): no cache, no database.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.starts_with(api_key::PREFIX) {
            ApiKeyText::parse(text).map(Self::ApiKey)
        } else {
            JwtText::parse(text).map(Self::Jwt)
        }
    }

    pub fn digest(&self) -> CredentialDigest {
        let (tag, text) = match self {
            Self::ApiKey(key) => (b'k', key.as_str()),
            Self::Jwt(token) => (b'j', token.as_str()),
        };
        let mut context = aws_lc_rs::digest::Context::new(&SHA256);
        context.update(&[tag]);
        context.update(text.as_bytes());
        context.finish().as_ref().try_into().unwrap_or_else(|_| unreachable!("SHA-256 is 32 bytes"))
    }

    /// `api_key` or `jwt`, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ApiKey(_) => "api_key",
            Self::Jwt(_) => "jwt",
        }
    }
}

/// Why a credential was not accepted. The client learns none of this (SEC-77); logs and metrics do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Missing,
    Malformed,
    Unknown,
    Revoked,
    Expired,
    OwnerNotActive,
    Disabled,
    BadHeader,
    BadSignature,
    BadClaims,
    NotYetValid,
}

impl Refusal {
    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::OwnerNotActive => "owner_not_active",
            Self::Disabled => "disabled",
            Self::BadHeader => "bad_header",
            Self::BadSignature => "bad_signature",
            Self::BadClaims => "bad_claims",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

/// What became of a check.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    #[error("the credential was refused: {0:?}")]
    Refused(Refusal),
    #[error("the credential could not be checked")]
    Unavailable(#[source] Arc<DbError>),
}

impl From<DbError> for AuthError {
    fn from(error: DbError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

/// Who is an admin (SEC-38): a verified address on the list, by a provider that may make one.
#[derive(Debug, Clone)]
pub struct AdminRule {
    emails: Vec<String>,
    providers: Vec<String>,
}

impl AdminRule {
    pub fn new(settings: &settings::Admin) -> Self {
        let emails = settings.emails.iter().map(|email| email.to_ascii_lowercase()).collect();
        Self { emails, providers: settings.providers.clone() }
    }

    pub fn admits(&self, user: &UserRecord) -> bool {
        let email = user.email.as_deref().filter(|_| user.email_verified);
        self.providers.contains(&user.provider)
            && email.is_some_and(|email| self.emails.contains(&email.to_ascii_lowercase()))
    }
}

/// A key found under a pepper that is no longer current: it moves to the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReDigest {
    pub key_id: i64,
    pub digest: Vec<u8>,
    pub pepper_id: String,
}

/// Checks a credential against the database.
///
/// # Errors
/// [`AuthError::Refused`] for every reason alike; [`AuthError::Unavailable`] if the database is away.
pub async fn authenticate(
    pool: &Pool,
    keys: &Keys,
    admins: &AdminRule,
    given: &Credential,
    now: Timestamp,
) -> Result<(Identity, Option<ReDigest>), AuthError> {
    match given {
        Credential::ApiKey(key) => by_api_key(pool, keys, admins, key, now).await,
        Credential::Jwt(token) => {
            let claims = jwt::verify(&keys.jwt, token, now).map_err(AuthError::Refused)?;
            by_claims(pool, admins, &claims, now).await.map(|identity| (identity, None))
        }
    }
}

async fn by_api_key(
    pool: &Pool,
    keys: &Keys,
    admins: &AdminRule,
    key: &ApiKeyText,
    now: Timestamp,
) -> Result<(Identity, Option<ReDigest>), AuthError> {
    let candidates = keys.digests(key);
    let digests: Vec<Vec<u8>> = candidates.iter().map(|(_, digest)| digest.clone()).collect();
    let found = ApiKeyRecord::with_owner(&mut pool.reader().await?, &digests).await?;
    let Some((record, owner)) = found else {
        return Err(AuthError::Refused(Refusal::Unknown));
    };
    // The database compared by index; the last word is a comparison in constant time (SEC-6).
    let matched = candidates
        .iter()
        .position(|(_, digest)| constant_time_eq(digest, &record.digest))
        .ok_or(AuthError::Refused(Refusal::Unknown))?;
    let refusal = if !keys.api_keys_enabled {
        Some(Refusal::Disabled)
    } else if record.revoked_at.is_some() {
        Some(Refusal::Revoked)
    } else if record.expires_at.is_some_and(|end| end <= now) {
        Some(Refusal::Expired)
    } else if owner.state != "active" {
        Some(Refusal::OwnerNotActive)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Err(AuthError::Refused(refusal));
    }
    let identity = Identity {
        user_id: owner.id,
        key_id: Some(record.id),
        admin: admins.admits(&owner),
        ends: record.expires_at,
    };
    let current = candidates.first().filter(|_| matched > 0);
    let re_digest = current.map(|(pepper_id, digest)| ReDigest {
        key_id: record.id,
        digest: digest.clone(),
        pepper_id: pepper_id.clone(),
    });
    Ok((identity, re_digest))
}

async fn by_claims(
    pool: &Pool,
    admins: &AdminRule,
    claims: &Claims,
    now: Timestamp,
) -> Result<Identity, AuthError> {
    let found = SessionRecord::with_owner(&mut pool.reader().await?, &claims.sid).await?;
    let Some((session, owner)) = found.filter(|(_, owner)| owner.id.to_string() == claims.sub)
    else {
        return Err(AuthError::Refused(Refusal::Unknown));
    };
    let refusal = if session.ended_at.is_some() {
        Some(Refusal::Revoked)
    } else if session.expires_at <= now {
        Some(Refusal::Expired)
    } else if owner.state != "active" {
        Some(Refusal::OwnerNotActive)
    } else {
        None
    };
    match refusal {
        Some(refusal) => Err(AuthError::Refused(refusal)),
        None => Ok(Identity {
            user_id: owner.id,
            key_id: None,
            admin: admins.admits(&owner),
            ends: Some(claims.ends().min(session.expires_at)),
        }),
    }
}

pub(crate) fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
}

/// SHA-256, in full.
pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}
