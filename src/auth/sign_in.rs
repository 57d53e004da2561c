//! A sign-in, from the browser that leaves for its provider to the session that it comes back to; and the tokens that
//! programs get of it.

use chrono::TimeDelta;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    constant_time_eq, jwt,
    keys::Keys,
    oauth::profile::Profile,
    policy::{CurrentPolicy, Policy},
    random::{self, RefreshText, SessionText},
    seal::Sealer,
};
use crate::{
    db::{
        Conn, DbError, Timestamp,
        audit::{Event, Origin},
        refresh_tokens::{Lives, NewRefreshToken, Refresh, RefreshTokenData},
        sessions::{NewSession, SessionRecord},
        users::{Described, PersonError, UserRecord},
    },
    settings,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Minutes for which a browser may be away at its provider.
pub const PENDING_MINUTES: i64 = 10;

/// A sign-in under way. It lives in the browser's cookie alone, sealed: beginning one costs the server nothing
/// (SEC-31, SEC-45).
#[derive(Clone, Serialize, Deserialize)]
pub struct Pending {
    pub provider: String,
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    /// The local path to go on to.
    pub next: String,
    /// Seconds since 1970.
    until: i64,
}

impl Pending {
    pub fn new(provider: &str, next: &str, now: Timestamp) -> Self {
        Self {
            provider: provider.to_owned(),
            state: random::text(),
            nonce: random::text(),
            verifier: random::text(),
            next: next.to_owned(),
            until: now.and_utc().timestamp() + PENDING_MINUTES * 60,
        }
    }

    /// As the cookie holds it.
    pub fn seal(&self, sealer: &Sealer) -> Option<String> {
        let plain = serde_json::to_vec(self).ok()?;
        sealer.seal("browser", &plain).map(|sealed| URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What the cookie holds; `None` if it is not ours or its time is over.
    pub fn open(sealer: &Sealer, cookie: &str, now: Timestamp) -> Option<Self> {
        let sealed = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let pending: Self = serde_json::from_slice(&sealer.open("browser", &sealed)?).ok()?;
        (now.and_utc().timestamp() < pending.until).then_some(pending)
    }

    /// Whether an answer belongs to it: from this provider, with this state.
    pub fn fits(&self, provider: &str, state: &str) -> bool {
        self.provider == provider && constant_time_eq(self.state.as_bytes(), state.as_bytes())
    }

    /// When its time is over.
    pub fn until(&self) -> Timestamp {
        chrono::DateTime::from_timestamp(self.until, 0).unwrap_or_default().naive_utc()
    }
}

/// Who may come in, and for how long.
pub struct Rules {
    policy: CurrentPolicy,
    session_max: TimeDelta,
    recheck: Option<TimeDelta>,
    family: TimeDelta,
    lives: Lives,
}

/// Why somebody whom the provider vouches for does not come in.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    #[error("the address is not verified")]
    EmailNotVerified,
    #[error("there is no address")]
    NoEmail,
    #[error("the address is of no domain that may sign in")]
    Domain,
    #[error("the person is disabled")]
    Disabled,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl NotAdmitted {
    /// For the audit log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::EmailNotVerified => "email_not_verified",
            Self::NoEmail => "email_missing",
            Self::Domain => "email_domain_not_allowed",
            Self::Disabled => "disabled",
            Self::Db(_) => "database",
        }
    }
}

/// What a program gets.
pub struct Tokens {
    pub access: SecretString,
    pub access_seconds: u32,
    pub refresh: RefreshText,
    pub refresh_seconds: i64,
}

/// What became of a refresh.
pub enum Refreshed {
    Renewed(Tokens),
    Reused,
    Refused(&'static str),
}

impl Rules {
    pub fn new(settings: &settings::Settings, policy: CurrentPolicy) -> Self {
        let seconds = |seconds: u32| TimeDelta::seconds(i64::from(seconds));
        let (auth, jwt) = (&settings.auth, &settings.jwt);
        Self {
            policy,
            session_max: seconds(auth.session_max_seconds),
            recheck: (auth.recheck_seconds > 0).then(|| seconds(auth.recheck_seconds)),
            family: seconds(jwt.refresh_token_ttl),
            lives: Lives {
                idle: seconds(jwt.refresh_idle_seconds),
                retry: seconds(jwt.refresh_retry_seconds),
            },
        }
    }

    /// How long after the provider vouched for somebody it is asked again.
    pub fn recheck(&self) -> Option<TimeDelta> {
        self.recheck
    }

    /// SEC-36, 37: an address counts when it is verified, and is needed where a rule looks at it.
    fn admit(policy: &Policy, email: Option<&str>, verified: bool) -> Result<(), NotAdmitted> {
        if policy.domains.any() {
            return Ok(());
        }
        match email {
            None => Err(NotAdmitted::NoEmail),
            Some(_) if !verified => Err(NotAdmitted::EmailNotVerified),
            Some(email) if !policy.domains.admit(email) => Err(NotAdmitted::Domain),
            Some(_) => Ok(()),
        }
    }

    /// Lets somebody in whom the provider vouches for: a session for their browser, in the place of `replaced`.
    ///
    /// # Errors
    /// [`NotAdmitted`]; then there is no session.
    #[expect(clippy::too_many_arguments, reason = "who, how, for whom, and what is kept of it")]
    pub async fn let_in(
        &self,
        conn: &mut Conn,
        keys: &Keys,
        provider: &str,
        profile: &Profile,
        replaced: Option<(i64, &str)>,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<(UserRecord, SessionText), NotAdmitted> {
        let (email, verified) = (profile.email.as_deref(), profile.email_verified);
        let policy = self.policy.load_full();
        Self::admit(&policy, email, verified)?;
        let described = Described {
            provider,
            subject: &profile.subject,
            email,
            email_verified: verified,
            display_name: profile.display_name.as_deref(),
            admin: policy.admins.admits(provider, email, verified),
        };
        let text = SessionText::generate();
        let (id, digest) = (uuid::Uuid::new_v4().to_string(), keys.sessions.digest(text.as_str()));
        let ends = later(now, self.session_max);
        let mut session = NewSession::starting(&id, 0, "browser", now, ends, origin);
        session.digest = Some(&digest);
        let kept = profile.refresh_token.as_ref().filter(|_| self.recheck.is_some());
        let seal = |user_id: i64| {
            use secrecy::ExposeSecret;
            keys.provider_tokens.seal(&whose(user_id), kept?.expose_secret().as_bytes())
        };
        let due = later(now, self.recheck.unwrap_or(self.session_max));
        let user =
            UserRecord::sign_in(conn, &described, &session, replaced, seal, due, now, origin).await;
        match user {
            Ok(user) => Ok((user, text)),
            Err(PersonError::Db(error)) => Err(NotAdmitted::Db(error)),
            Err(_) => Err(NotAdmitted::Disabled),
        }
    }

    /// Starts a session for a program of an active person, and answers its first tokens. `code` is the digest of the code
    /// that it is made of; `how` is for the audit log.
    ///
    /// # Errors
    /// The database's.
    #[expect(clippy::too_many_arguments, reason = "for whom, of what, and what is kept of it")]
    pub async fn open_session(
        &self,
        conn: &mut Conn,
        keys: &Keys,
        user_id: i64,
        code: Option<&[u8]>,
        how: &str,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Option<Tokens>, DbError> {
        let id = uuid::Uuid::new_v4().to_string();
        let ends = later(now, self.family);
        let refresh = RefreshText::generate();
        let digest = keys.refresh.digest(refresh.as_str());
        let expires_at = later(now, self.lives.idle).min(ends);
        let token = NewRefreshToken {
            digest: &digest,
            family: &id,
            parent: None,
            user_id,
            issued_at: now,
            expires_at,
        };
        let origin = &Origin { actor: format!("user:{user_id}"), ..origin.clone() };
        let session = NewSession::starting(&id, user_id, "cli", now, ends, origin);
        let event = Event {
            user_id: Some(user_id),
            object: format!("session:{id}"),
            metadata: json!({ "kind": "cli", "how": how }),
            ..Event::new(now, "session_created", origin)
        };
        if !SessionRecord::create(conn, &session, Some(&token), code, event).await? {
            return Ok(None);
        }
        tokens(keys, user_id, &id, refresh, expires_at, now).map(Some)
    }

    /// Uses a refresh token.
    ///
    /// # Errors
    /// The database's.
    pub async fn refresh(
        &self,
        conn: &mut Conn,
        keys: &Keys,
        given: &RefreshText,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Refreshed, DbError> {
        let successor = RefreshText::generate();
        let digest = keys.refresh.digest(successor.as_str());
        let given = keys.refresh.digests(given.as_str());
        let policy = self.policy.load_full();
        let rule = |user: &UserRecord| {
            // People that an operator made have no provider whose rule they could break.
            if user.provider != settings::LOCAL_PROVIDER {
                let admitted = Self::admit(&policy, user.email.as_deref(), user.email_verified);
                admitted.map_err(|refused| refused.as_str())?;
            }
            Ok(policy.admins.admits_user(user))
        };
        let outcome =
            RefreshTokenData::refresh(conn, &given, &digest, self.lives, rule, now, origin).await?;
        Ok(match outcome {
            Refresh::Reused => Refreshed::Reused,
            Refresh::Refused(reason) => Refreshed::Refused(reason),
            Refresh::Renewed { user, session_id, expires_at } => {
                Refreshed::Renewed(tokens(keys, user.id, &session_id, successor, expires_at, now)?)
            }
        })
    }
}

/// The name under which a provider's refresh token is sealed: it opens as nobody else's (SEC-43).
pub fn whose(user_id: i64) -> String {
    format!("user:{user_id}")
}

/// A time so much later; one that no date has is the same time.
pub fn later(now: Timestamp, by: TimeDelta) -> Timestamp {
    now.checked_add_signed(by).unwrap_or(now)
}

fn tokens(
    keys: &Keys,
    user_id: i64,
    session_id: &str,
    refresh: RefreshText,
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<Tokens, DbError> {
    let ttl = keys.jwt.ttl;
    let access = jwt::issue(&keys.jwt, user_id, session_id, ttl, now)
        .map_err(|error| DbError::Schema(format!("a token could not be signed: {error}")))?;
    Ok(Tokens {
        access,
        access_seconds: ttl,
        refresh,
        refresh_seconds: (expires_at - now).num_seconds(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: fn() -> Timestamp = crate::db::now;

    #[test]
    fn a_pending_sign_in_comes_back_from_its_browser_within_its_time() {
        let sealer = Sealer::new([[7; 32]].into_iter());
        let now = NOW();
        let pending = Pending::new("google", "/keys", now);
        let cookie = pending.seal(&sealer).unwrap();

        let back = Pending::open(&sealer, &cookie, now).unwrap();
        assert!(back.fits("google", &pending.state));
        assert!(!back.fits("github", &pending.state), "another provider");
        assert!(!back.fits("google", &random::text()), "another state");
        assert!(!back.fits("google", ""));
        assert_eq!(back.next, "/keys");
        assert!(!cookie.contains(&pending.state));
        let last = now + TimeDelta::minutes(PENDING_MINUTES);
        assert!(Pending::open(&sealer, &cookie, last - TimeDelta::seconds(1)).is_some());
        assert!(Pending::open(&sealer, &cookie, last).is_none());
        assert!(Pending::open(&Sealer::new([[8; 32]].into_iter()), &cookie, now).is_none());
        assert!(Pending::open(&sealer, "", now).is_none());
        assert!(Pending::open(&sealer, &cookie.to_lowercase(), now).is_none());
    }
}
