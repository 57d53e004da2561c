//! The ledger: one row for every request which reached the simulated provider.
//!
//! It tells what was presented by name, and by value only where the value is no secret. A `Mutex`
//! guards it, because tests read it synchronously and from any thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Notify;

use super::fault::Fault;
use super::request::Request;

/// Rows kept; the oldest go first.
const MAX_CALLS: usize = 100_000;
/// Characters kept of a value.
const MAX_VALUE: usize = 500;
/// Parameters and headers whose values are shown; of all others only that they were there.
const SHOWN: &[&str] = &[
    "accept",
    "access_type",
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "content-type",
    "deny",
    "fault",
    "grant_type",
    "login_hint",
    "person",
    "prompt",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "token_type_hint",
    "user-agent",
];

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityCall {
    /// `GET` or `POST`, mostly.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Parameters of query and form, and the headers `accept`, `authorization`, `content-type` and
    /// `user-agent`, by name; `***` in place of secrets, also after the scheme of an authorisation.
    pub presented: BTreeMap<String, String>,
    /// Status of the answer; 0 while there is none, and if there never was one.
    pub status: u16,
    /// `ok`, the `error` which was answered, or another word for what happened. Empty while there
    /// is no answer.
    pub outcome: String,
    /// Whom it was about, once that is known.
    pub subject: Option<String>,
    /// The fault in effect, whether or not it made a difference here.
    pub fault: Option<Fault>,
    /// When it arrived.
    pub at: DateTime<Utc>,
}

/// A handle on the rows; clones share them.
#[derive(Debug, Clone, Default)]
pub struct IdentityLedger {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    rows: Mutex<Rows>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Rows {
    /// Sequence number of the first row kept.
    first: u64,
    calls: VecDeque<IdentityCall>,
}

impl IdentityLedger {
    /// A copy of all rows, oldest first.
    pub fn calls(&self) -> Vec<IdentityCall> {
        self.rows().calls.iter().cloned().collect()
    }

    /// A copy of the newest row.
    pub fn last(&self) -> Option<IdentityCall> {
        self.rows().calls.back().cloned()
    }

    /// Number of rows kept.
    pub fn len(&self) -> usize {
        self.rows().calls.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of requests for `path`, answered or not.
    pub fn count(&self, path: &str) -> usize {
        self.rows().calls.iter().filter(|call| call.path == path).count()
    }

    /// Number of requests to the token endpoints of both surfaces.
    pub fn token_requests(&self) -> usize {
        self.count("/token") + self.count("/login/oauth/access_token")
    }

    /// Number of requests for the discovery document.
    pub fn discovery_requests(&self) -> usize {
        self.count("/.well-known/openid-configuration")
    }

    /// Number of requests for the key set.
    pub fn jwks_requests(&self) -> usize {
        self.count("/jwks")
    }

    /// Number of requests for userinfo; GitHub's `/user` is not among them.
    pub fn userinfo_requests(&self) -> usize {
        self.count("/userinfo")
    }

    /// Forgets all rows.
    pub fn clear(&self) {
        let mut rows = self.rows();
        rows.first += rows.calls.len() as u64;
        rows.calls.clear();
    }

    /// Waits until `predicate` holds for the rows, oldest first, at most for `timeout`. Says
    /// whether it came to hold. The predicate runs after every change and must not call the ledger.
    pub async fn wait_for(
        &self,
        predicate: impl Fn(&[IdentityCall]) -> bool,
        timeout: Duration,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable(); // before the look, or a change in between is lost
            if predicate(self.rows().calls.make_contiguous()) {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return predicate(self.rows().calls.make_contiguous());
            }
        }
    }

    /// Adds a row and returns its number, for [`close`](Self::close).
    pub(super) fn open(&self, request: &Request, fault: Option<Fault>) -> u64 {
        let call = IdentityCall {
            method: request.method.clone(),
            path: request.path.clone(),
            presented: presented(request),
            status: 0,
            outcome: String::new(),
            subject: None,
            fault,
            at: Utc::now(),
        };
        let mut rows = self.rows();
        if rows.calls.len() >= MAX_CALLS {
            rows.calls.pop_front();
            rows.first += 1;
        }
        let number = rows.first + rows.calls.len() as u64;
        rows.calls.push_back(call);
        drop(rows);
        self.shared.changed.notify_waiters();
        number
    }

    /// Amends a row, if it is still kept.
    pub(super) fn close(&self, number: u64, change: impl FnOnce(&mut IdentityCall)) {
        let mut rows = self.rows();
        let at = number.checked_sub(rows.first).and_then(|at| usize::try_from(at).ok());
        if let Some(call) = at.and_then(|at| rows.calls.get_mut(at)) {
            change(call);
        }
        drop(rows);
        self.shared.changed.notify_waiters();
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.shared.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn presented(request: &Request) -> BTreeMap<String, String> {
    let parameters = request.query.pairs().iter().chain(request.form.pairs());
    let parameters = parameters.map(|(name, value)| (name.as_str(), value.as_str()));
    let headers = request.headers.iter().map(|(name, value)| (*name, value.as_str()));
    parameters
        .chain(headers)
        .map(|(name, value)| {
            let value = match name {
                "authorization" => format!("{} ***", value.split(' ').next().unwrap_or_default()),
                name if SHOWN.contains(&name) => value.chars().take(MAX_VALUE).collect(),
                _ => "***".to_owned(),
            };
            (name.to_owned(), value)
        })
        .collect()
}
