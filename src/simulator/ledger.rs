//! The ledger: one row for every request which reached the simulated Bedrock, and the last bodies.
//!
//! Tests compare it, token by token, with what the proxy has recorded. Secrets are masked before a
//! row is stored. A `Mutex` guards it, because tests read it synchronously and from any thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Notify;

/// Rows kept; the oldest go first.
const MAX_CALLS: usize = 200_000;
/// Rows which still have their headers.
const MAX_WITH_HEADERS: usize = 2_000;
/// Bodies kept, and the bytes of them all; the oldest go first.
const MAX_BODIES: usize = 32;
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Tokens by class. The classes never overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TokenUsage {
    /// Prompt tokens which neither came from nor went to the cache.
    pub input: u64,
    /// Tokens produced, thinking included.
    pub output: u64,
    /// Prompt tokens read from the cache.
    pub cache_read: u64,
    /// Prompt tokens written to the cache for five minutes.
    pub cache_write_5m: u64,
    /// Prompt tokens written to the cache for an hour.
    pub cache_write_1h: u64,
}

impl TokenUsage {
    /// Tokens written to the cache, for either time.
    pub fn cache_write(&self) -> u64 {
        self.cache_write_5m + self.cache_write_1h
    }
}

/// One request and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// `x-amzn-RequestId` of the answer.
    pub request_id: String,
    /// Number of the connection it came on, from 1.
    pub connection: u64,
    /// `invoke`, `invoke-with-response-stream`, `converse`, `converse-stream`, `count-tokens`, or
    /// `unknown`.
    pub operation: String,
    /// Decoded model id; empty if the path had none.
    pub model_id: String,
    /// Region of the signature's scope; empty if authentication failed.
    pub region: String,
    /// Name of the scenario, if the body had a directive.
    pub scenario: Option<String>,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
    /// The whole body, with the last event, was handed to the socket. Stays false for the
    /// scenarios which break off.
    pub finished: bool,
    /// The client went away before that.
    pub aborted: bool,
    /// What was reported to the client so far; `None` if nothing (credible) was.
    pub usage: Option<TokenUsage>,
    /// Header lines as received, names in lower case, secrets masked; empty for old rows.
    pub received_headers: Vec<(String, String)>,
    /// Lower-case hexadecimal SHA-256 of the body as received.
    pub body_sha256: String,
    /// Length of that body in bytes.
    pub body_bytes: usize,
    /// Path and query exactly as received.
    pub raw_path: String,
    /// When the body had arrived.
    pub started_at: DateTime<Utc>,
    /// When the answer was complete, broken off or given up.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A handle on the rows; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
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
    calls: VecDeque<Call>,
    /// Bodies by request id.
    bodies: VecDeque<(String, Bytes)>,
    /// Bytes of them all.
    body_bytes: usize,
}

impl Rows {
    fn position(&self, sequence: u64) -> Option<usize> {
        sequence.checked_sub(self.first).and_then(|at| usize::try_from(at).ok())
    }
}

impl Ledger {
    /// A copy of all rows, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.rows().calls.iter().cloned().collect()
    }

    /// A copy of the newest row.
    pub fn last(&self) -> Option<Call> {
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

    /// The body of an Invoke or CountTokens request, if it is one of the last.
    pub fn body(&self, request_id: &str) -> Option<Bytes> {
        let rows = self.rows();
        let found = rows.bodies.iter().rfind(|(known, _)| known == request_id);
        found.map(|(_, body)| body.clone())
    }

    /// The newest of these bodies.
    pub fn last_body(&self) -> Option<Bytes> {
        self.rows().bodies.back().map(|(_, body)| body.clone())
    }

    /// Forgets all rows, also those of calls under way, and all bodies.
    pub fn clear(&self) {
        let mut rows = self.rows();
        rows.first += rows.calls.len() as u64;
        rows.calls.clear();
        rows.bodies.clear();
        rows.body_bytes = 0;
        drop(rows);
        self.shared.changed.notify_waiters();
    }

    /// Waits until `predicate` holds for the rows, oldest first, at most for `timeout`. Says
    /// whether it came to hold. The predicate runs after every change and must not call the ledger.
    pub async fn wait_for(&self, predicate: impl Fn(&[Call]) -> bool, timeout: Duration) -> bool {
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

    /// Adds a row; the ticket amends and closes it.
    pub(super) fn open(&self, mut call: Call) -> Ticket {
        mask(&mut call.received_headers);
        let mut rows = self.rows();
        if rows.calls.len() >= MAX_CALLS {
            rows.calls.pop_front();
            rows.first += 1;
        }
        if let Some(old) = rows.calls.len().checked_sub(MAX_WITH_HEADERS)
            && let Some(old) = rows.calls.get_mut(old)
        {
            old.received_headers = Vec::new();
        }
        let sequence = rows.first + rows.calls.len() as u64;
        rows.calls.push_back(call);
        drop(rows);
        self.shared.changed.notify_waiters();
        Ticket { ledger: self.clone(), sequence, open: true }
    }

    /// Keeps a copy, because `body` may hold on to a larger buffer than it shows.
    pub(super) fn keep_body(&self, request_id: String, body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        let mut rows = self.rows();
        rows.body_bytes += body.len();
        rows.bodies.push_back((request_id, body));
        while rows.bodies.len() > MAX_BODIES || rows.body_bytes > MAX_BODY_BYTES {
            let Some((_, oldest)) = rows.bodies.pop_front() else { break };
            rows.body_bytes -= oldest.len();
        }
    }

    fn amend(&self, sequence: u64, change: impl FnOnce(&mut Call)) {
        let mut rows = self.rows();
        if let Some(call) = rows.position(sequence).and_then(|at| rows.calls.get_mut(at)) {
            change(call);
        }
        drop(rows);
        self.shared.changed.notify_waiters();
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.shared.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to amend one row. Dropped while open, it marks the row as aborted by the client.
#[derive(Debug)]
pub(super) struct Ticket {
    ledger: Ledger,
    sequence: u64,
    open: bool,
}

impl Ticket {
    pub(super) fn note(&self, change: impl FnOnce(&mut Call)) {
        self.ledger.amend(self.sequence, change);
    }

    pub(super) fn report(&self, usage: TokenUsage) {
        self.note(|call| call.usage = Some(usage));
    }

    /// Ends the call; `finished` says whether the client was given everything.
    pub(super) fn close(&mut self, finished: bool) {
        if std::mem::take(&mut self.open) {
            self.note(|call| {
                call.finished = finished;
                call.ended_at = Some(Utc::now());
            });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            self.note(|call| {
                call.aborted = true;
                call.ended_at = Some(Utc::now());
            });
        }
    }
}

/// Leaves of a credential no more than its scheme.
fn mask(headers: &mut [(String, String)]) {
    for (name, value) in headers {
        match name.as_str() {
            "authorization" | "proxy-authorization" => {
                let scheme = value.split_whitespace().next().unwrap_or_default();
                let one_word = scheme.len() == value.len();
                *value = if one_word { "***".to_owned() } else { format!("{scheme} ***") };
            }
            "x-amz-security-token" | "x-api-key" | "cookie" => *value = "***".to_owned(),
            _ => {}
        }
    }
}
