//! What has been granted: sign-ins, and the codes and tokens which stand for them. Time is an
//! argument.
//!
//! There is one client, so that whoever may redeem anything is the client which it was made for.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};

use super::fault::Fault;
use super::keys::random;

/// How long a code waits to be redeemed.
pub(super) const CODE_LIFE: TimeDelta = TimeDelta::seconds(60);
/// How long an access token of the OpenID surface lives; GitHub's do not end.
pub(super) const ACCESS_LIFE: TimeDelta = TimeDelta::hours(1);
/// Codes and tokens kept of each kind; the oldest go first.
const MAX_KEPT: usize = 20_000;
/// Bytes of chance in a code or token.
const RANDOM: usize = 32;

/// Which provider is being played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    /// OpenID Connect.
    OpenId,
    /// OAuth 2 as GitHub does it.
    GitHub,
}

/// One person's consent.
#[derive(Debug)]
pub(super) struct SignIn {
    pub(super) surface: Surface,
    pub(super) subject: String,
    pub(super) scopes: Vec<String>,
    /// The client may have a refresh token.
    pub(super) offline: bool,
    pub(super) nonce: Option<String>,
    pub(super) redirect_uri: String,
    /// PKCE, S256.
    pub(super) challenge: Option<String>,
    pub(super) fault: Option<Fault>,
    pub(super) at: DateTime<Utc>,
}

/// What an access token opens.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) sign_in: Rc<SignIn>,
    pub(super) scopes: Vec<String>,
    ends: Option<DateTime<Utc>>,
}

impl Access {
    pub(super) fn allows(&self, scope: &str) -> bool {
        self.scopes.iter().any(|known| known == scope)
    }
}

#[derive(Debug)]
struct Code {
    sign_in: Rc<SignIn>,
    ends: DateTime<Utc>,
    used: bool,
}

/// Why a code is not redeemed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeRefused {
    Unknown,
    Expired,
    /// The tokens which were made from it are revoked.
    UsedBefore,
}

/// All codes and tokens.
#[derive(Debug, Default)]
pub(super) struct Grants {
    codes: Shelf<Code>,
    access: Shelf<Access>,
    refresh: Shelf<Rc<SignIn>>,
}

impl Grants {
    /// A code for a sign-in.
    pub(super) fn code(&mut self, sign_in: SignIn, now: DateTime<Utc>) -> String {
        let code = random(RANDOM);
        let kept = Code { sign_in: Rc::new(sign_in), ends: now + CODE_LIFE, used: false };
        self.codes.put(code.clone(), kept);
        code
    }

    /// Uses a code up. A second use revokes what the first one gave (RFC 6749, 4.1.2).
    pub(super) fn redeem(
        &mut self,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<Rc<SignIn>, CodeRefused> {
        let kept = self.codes.items.get_mut(code).ok_or(CodeRefused::Unknown)?;
        if std::mem::replace(&mut kept.used, true) {
            let sign_in = Rc::clone(&kept.sign_in);
            self.revoke_all(&sign_in);
            return Err(CodeRefused::UsedBefore);
        }
        if now >= kept.ends { Err(CodeRefused::Expired) } else { Ok(Rc::clone(&kept.sign_in)) }
    }

    pub(super) fn access_token(
        &mut self,
        sign_in: &Rc<SignIn>,
        scopes: Vec<String>,
        now: DateTime<Utc>,
    ) -> String {
        let (prefix, ends) = match sign_in.surface {
            Surface::OpenId => ("", Some(now + ACCESS_LIFE)),
            Surface::GitHub => ("gho_", None),
        };
        let token = format!("{prefix}{}", random(RANDOM));
        self.access.put(token.clone(), Access { sign_in: Rc::clone(sign_in), scopes, ends });
        token
    }

    pub(super) fn refresh_token(&mut self, sign_in: &Rc<SignIn>) -> String {
        let token = random(RANDOM);
        self.refresh.put(token.clone(), Rc::clone(sign_in));
        token
    }

    /// What a live access token opens.
    pub(super) fn access(&self, token: &str, now: DateTime<Utc>) -> Option<Access> {
        let access = self.access.items.get(token)?;
        access.ends.is_none_or(|ends| now < ends).then(|| access.clone())
    }

    /// The sign-in of a refresh token which was not used yet.
    pub(super) fn refreshable(&self, token: &str) -> Option<Rc<SignIn>> {
        self.refresh.items.get(token).cloned()
    }

    /// Uses a refresh token up.
    pub(super) fn spend(&mut self, refresh_token: &str) {
        self.refresh.items.remove(refresh_token);
    }

    /// Revokes one token; with a refresh token goes all which came of the sign-in (RFC 7009, 2.1).
    pub(super) fn revoke(&mut self, token: &str) {
        match self.refreshable(token) {
            Some(sign_in) => self.revoke_all(&sign_in),
            None => drop(self.access.items.remove(token)),
        }
    }

    fn revoke_all(&mut self, sign_in: &Rc<SignIn>) {
        self.access.items.retain(|_, access| !Rc::ptr_eq(&access.sign_in, sign_in));
        self.refresh.items.retain(|_, of| !Rc::ptr_eq(of, sign_in));
    }
}

/// A map which forgets the oldest when it is full.
#[derive(Debug)]
struct Shelf<T> {
    items: HashMap<String, T>,
    /// Also of those which were taken since.
    order: VecDeque<String>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { items: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Shelf<T> {
    fn put(&mut self, name: String, item: T) {
        self.order.push_back(name.clone());
        self.items.insert(name, item);
        if self.order.len() > MAX_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.items.remove(&oldest);
        }
    }
}
