//! Who is calling: credentials as they arrive, the identities behind them, and why one is refused.

pub mod api_key;
pub mod device;
pub mod email;
pub mod jwt;
pub mod keys;
pub mod oauth;
pub mod policy;
pub mod providers;
pub mod random;
pub mod redirect;
pub mod seal;
pub mod sign_in;

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::{
    cache::{CachedObject, Structural},
    db::{
        DbError, Pool, Timestamp, api_keys::ApiKeyRecord, sessions::SessionRecord,
        users::UserRecord,
    },
    settings,
};

use api_key::ApiKeyText;
use jwt::{Claims, JwtText};
use keys::Keys;
use random::SessionText;

/// A caller that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Structural)]
pub struct Identity {
    pub user_id: i64,
    pub credential: CredentialId,
    pub admin: bool,
    /// When the credential ends by itself.
    pub ends: Option<Timestamp>,
}

/// What a caller was let in by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Structural)]
pub enum CredentialId {
    ApiKey(i64),
    /// An access token, by its session.
    Token(String),
    /// A browser's cookie, by its session.
    Cookie(String),
}

impl CredentialId {
    pub fn key_id(&self) -> Option<i64> {
        match self {
            Self::ApiKey(id) => Some(*id),
            Self::Token(_) | Self::Cookie(_) => None,
        }
    }

    pub fn session_id(&self) -> Option<&str> {
        match self {
            Self::ApiKey(_) => None,
            Self::Token(id) | Self::Cookie(id) => Some(id),
        }
    }
}

impl std::fmt::Display for CredentialId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::Token(id) | Self::Cookie(id) => write!(f, "session:{id}"),
        }
    }
}

/// A credential of the right form, not yet checked.
#[derive(Debug, Clone)]
pub enum Credential {
    ApiKey(ApiKeyText),
    Jwt(JwtText),
    Session(SessionText),
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
            Self::Session(session) => (b's', session.as_str()),
        };
        let mut context = aws_lc_rs::digest::Context::new(&SHA256);
        context.update(&[tag]);
        context.update(text.as_bytes());
        context.finish().as_ref().try_into().unwrap_or_else(|_| unreachable!("SHA-256 is 32 bytes"))
    }

    /// `api_key`, `jwt` or `session`, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ApiKey(_) => "api_key",
            Self::Jwt(_) => "jwt",
            Self::Session(_) => "session",
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
    /// A good key of somebody who may not come in; for the client one refusal among others.
    #[error("the key's owner is not active")]
    OwnerOfKey { key_id: i64, user_id: i64 },
    #[error("the credential could not be checked")]
    Unavailable(#[source] Arc<DbError>),
}

impl From<DbError> for AuthError {
    fn from(error: DbError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

impl AuthError {
    /// Why it was refused; `None` if it could not be checked.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(*refusal),
            Self::OwnerOfKey { .. } => Some(Refusal::OwnerNotActive),
            Self::Unavailable(_) => None,
        }
    }
}

/// Who is an admin (SEC-38): a verified address on the list, by a provider that may make one.
#[derive(Debug, Clone)]
pub struct AdminRule {
    emails: Vec<String>,
    providers: Vec<String>,
}

impl AdminRule {
    /// Without `admin.providers`, the only provider there is.
    pub fn new(admin: &settings::Admin, oauth: &settings::oauth::OAuth) -> Self {
        let emails = admin.emails.iter().map(|email| email.to_ascii_lowercase()).collect();
        let mut providers = admin.providers.clone();
        if providers.is_empty() {
            let mut configured = oauth.enabled().map(|(name, _)| name.clone());
            providers.extend(configured.next().filter(|_| configured.next().is_none()));
        }
        Self { emails, providers }
    }

    /// Tells this rule from any other: whoever shares what was found by it must go by the same one.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut text = Context::new(&SHA256);
        for list in [&self.emails, &self.providers] {
            text.update(&list.len().to_be_bytes());
            for name in list {
                text.update(&name.len().to_be_bytes());
                text.update(name.as_bytes());
            }
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(text.finish().as_ref());
        fingerprint
    }

    /// The addresses that make an admin, in lower case.
    pub fn emails(&self) -> &[String] {
        &self.emails
    }

    pub fn admits(&self, provider: &str, email: Option<&str>, verified: bool) -> bool {
        let email = email.filter(|_| verified);
        self.providers.iter().any(|name| name == provider)
            && email.is_some_and(|email| self.emails.contains(&email.to_ascii_lowercase()))
    }

    /// The same of a person as they are known.
    pub fn admits_user(&self, user: &UserRecord) -> bool {
        self.admits(&user.provider, user.email.as_deref(), user.email_verified)
    }
}

/// A key found under a pepper that is no longer current: it moves to the current one.
#[derive(Debug, Clone, PartialEq, Eq, Structural)]
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
) -> Result<Checked, AuthError> {
    let (checked, owner) = match given {
        Credential::ApiKey(key) => by_api_key(pool, keys, key, now).await?,
        Credential::Jwt(token) => {
            let claims = jwt::verify(&keys.jwt, token, now).map_err(AuthError::Refused)?;
            by_claims(pool, &claims, now).await?
        }
        Credential::Session(session) => by_session(pool, keys, session, now).await?,
    };
    // What was written down and the rule as it is now must both say so.
    let admin = owner.admin && admins.admits_user(&owner);
    Ok(Checked { identity: Identity { admin, ..checked.identity }, ..checked })
}

/// A credential that holds. Cached by the credential's digest: ids alone, and nothing that lets anybody in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CachedObject)]
#[cache(name = "identity", ttl = 60)]
pub struct Checked {
    pub identity: Identity,
    #[serde(skip)]
    pub re_digest: Option<ReDigest>,
    /// When its use was last written down.
    pub last_used: Option<Timestamp>,
}

impl Checked {
    fn new(
        owner: &UserRecord,
        credential: CredentialId,
        ends: Option<Timestamp>,
        last_used: Option<Timestamp>,
    ) -> Self {
        let identity = Identity { user_id: owner.id, credential, admin: false, ends };
        Self { identity, re_digest: None, last_used }
    }
}

async fn by_api_key(
    pool: &Pool,
    keys: &Keys,
    key: &ApiKeyText,
    now: Timestamp,
) -> Result<(Checked, UserRecord), AuthError> {
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
    if !keys.api_keys_enabled {
        return Err(AuthError::Refused(Refusal::Disabled));
    }
    if record.revoked_at.is_some() {
        return Err(AuthError::Refused(Refusal::Revoked));
    }
    if record.expires_at.is_some_and(|end| end <= now) {
        return Err(AuthError::Refused(Refusal::Expired));
    }
    if owner.state != "active" {
        return Err(AuthError::OwnerOfKey { key_id: record.id, user_id: owner.id });
    }
    let current = candidates.first().filter(|_| matched > 0);
    let re_digest = current.map(|(pepper_id, digest)| ReDigest {
        key_id: record.id,
        digest: digest.clone(),
        pepper_id: pepper_id.clone(),
    });
    let credential = CredentialId::ApiKey(record.id);
    let checked = Checked::new(&owner, credential, record.expires_at, record.last_used_at);
    Ok((Checked { re_digest, ..checked }, owner))
}

async fn by_claims(
    pool: &Pool,
    claims: &Claims,
    now: Timestamp,
) -> Result<(Checked, UserRecord), AuthError> {
    let found = SessionRecord::with_owner(&mut pool.reader().await?, &claims.sid).await?;
    let (session, owner) = found
        .filter(|(_, owner)| owner.id.to_string() == claims.sub)
        .ok_or(AuthError::Refused(Refusal::Unknown))?;
    in_force(&session, &owner, session.expires_at, now)?;
    let ends = Some(claims.ends().min(session.expires_at));
    let credential = CredentialId::Token(session.id);
    Ok((Checked::new(&owner, credential, ends, Some(session.last_seen_at)), owner))
}

async fn by_session(
    pool: &Pool,
    keys: &Keys,
    given: &SessionText,
    now: Timestamp,
) -> Result<(Checked, UserRecord), AuthError> {
    let digests = keys.sessions.digests(given.as_str());
    let found = SessionRecord::by_digest(&mut pool.reader().await?, &digests).await?;
    let (session, owner) = found
        .filter(|(session, _)| {
            let stored = session.digest.as_deref().unwrap_or_default();
            session.kind == "browser" && keys.sessions.matches(given.as_str(), stored)
        })
        .ok_or(AuthError::Refused(Refusal::Unknown))?;
    let ends = session.expires_at.min(idle_end(session.last_seen_at, keys.session_idle));
    in_force(&session, &owner, ends, now)?;
    let credential = CredentialId::Cookie(session.id);
    Ok((Checked::new(&owner, credential, Some(ends), Some(session.last_seen_at)), owner))
}

/// Of those who hold open streams, the ones who would not be let in now. An access token that has ended by itself is no
/// loss of access.
///
/// # Errors
/// The database's.
pub async fn lost_access(
    pool: &Pool,
    held: Vec<(i64, CredentialId)>,
) -> Result<Vec<(i64, CredentialId)>, DbError> {
    if held.is_empty() {
        return Ok(held);
    }
    let keys: Vec<i64> = held.iter().filter_map(|(_, by)| by.key_id()).collect();
    let sessions: Vec<&str> = held.iter().filter_map(|(_, by)| by.session_id()).collect();
    let mut conn = pool.reader().await?;
    let good = ApiKeyRecord::unrevoked(&mut conn, &keys).await?;
    // A session that is not there any more ended by itself, and was cleared away.
    let ended = SessionRecord::taken_away(&mut conn, &sessions).await?;
    let lost = |(_, by): &(i64, CredentialId)| match by {
        CredentialId::ApiKey(id) => !good.contains(id),
        CredentialId::Token(id) | CredentialId::Cookie(id) => ended.contains(id),
    };
    Ok(held.into_iter().filter(lost).collect())
}

fn idle_end(seen: Timestamp, idle: TimeDelta) -> Timestamp {
    seen.checked_add_signed(idle).unwrap_or(seen)
}

/// Whether a session of somebody counts that ends at `ends`.
fn in_force(
    session: &SessionRecord,
    owner: &UserRecord,
    ends: Timestamp,
    now: Timestamp,
) -> Result<(), AuthError> {
    let refusal = if session.ended_at.is_some() {
        Refusal::Revoked
    } else if ends <= now {
        Refusal::Expired
    } else if owner.state != "active" {
        Refusal::OwnerNotActive
    } else {
        return Ok(());
    };
    Err(AuthError::Refused(refusal))
}

pub(crate) fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
}

/// SHA-256, in full.
pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}
