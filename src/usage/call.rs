//! One call on its way: opened in the journal before it goes upstream, closed exactly once, however it ends.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Outcome,
    journal::{Journal, JournalError, Receipt, Slot},
    meter::{Reading, StreamKind},
};
use crate::{db::usage::NewUsage, telemetry::Metrics};

/// How long closed calls wait on their worker for others, before they go to the recorder in one message.
const GATHER: Duration = Duration::from_millis(20);
/// Closed calls that go without waiting.
const GATHER_MOST: usize = 64;
/// Tokens of an open stream are journaled this often (REL-4).
const PROGRESS_EVENTS: u32 = 50;
const PROGRESS_TIME: Duration = Duration::from_secs(1);

const ERROR_MESSAGE: usize = 300;
const SHORT_TEXT: usize = 128;

/// A closed call and what keeps it in the journal.
pub type Closed = (NewUsage, Receipt);

/// Takes closed calls to the recorder; gives them back when its queue is full.
pub type Sink = Box<dyn Fn(Vec<Closed>) -> Result<(), Vec<Closed>>>;

/// One worker's side of metering: its journal, and closed calls that are about to go to the recorder.
pub struct Desk {
    journal: Rc<Journal>,
    metrics: Metrics,
    outbox: RefCell<Vec<Closed>>,
    sink: Sink,
    filled: Notify,
}

impl Desk {
    pub fn new(journal: Rc<Journal>, metrics: Metrics, sink: Sink) -> Rc<Self> {
        let outbox = RefCell::default();
        Rc::new(Self { journal, metrics, outbox, sink, filled: Notify::new() })
    }

    /// Sends closed calls on, for ever. Spawn it on the worker.
    pub async fn keep_sending(self: Rc<Self>) {
        loop {
            if self.outbox.borrow().is_empty() {
                self.filled.notified().await;
            }
            tokio::time::sleep(GATHER).await;
            self.send();
        }
    }

    fn put(&self, closed: Closed) {
        let mut outbox = self.outbox.borrow_mut();
        outbox.push(closed);
        let enough = outbox.len() >= GATHER_MOST;
        drop(outbox);
        if enough {
            self.send();
        } else {
            self.filled.notify_one();
        }
    }

    /// What a full queue gives back stays for the next time; the rows are safe in the journal meanwhile.
    fn send(&self) {
        let calls = std::mem::take(&mut *self.outbox.borrow_mut());
        if !calls.is_empty()
            && let Err(refused) = (self.sink)(calls)
        {
            self.metrics.recorder_queue_full.inc();
            self.outbox.borrow_mut().splice(..0, refused);
        }
    }
}

impl Drop for Desk {
    /// The worker ends; what it gathered goes on without waiting for more.
    fn drop(&mut self) {
        self.send();
    }
}

/// How far a stream is, for whoever looks from another thread. Written by its call alone.
#[derive(Debug)]
pub struct Progress {
    events: AtomicU64,
    /// Negative: not reported yet.
    output_tokens: AtomicI64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { events: AtomicU64::new(0), output_tokens: AtomicI64::new(-1) }
    }
}

impl Progress {
    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Output tokens that were reported so far, if any were.
    pub fn output_tokens(&self) -> Option<i64> {
        Some(self.output_tokens.load(Relaxed)).filter(|tokens| *tokens >= 0)
    }
}

/// A call that is open. Dropped without [`OpenCall::close`], its client has gone.
pub struct OpenCall {
    desk: Rc<Desk>,
    /// `None` once closed.
    slot: Option<Slot>,
    row: NewUsage,
    reading: Reading,
    started: Instant,
    events: u32,
    noted_events: u32,
    noted: Instant,
    /// Set for streams.
    progress: Option<Arc<Progress>>,
}

impl OpenCall {
    /// Opens a call in the journal. `row` holds who, what and when.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot take it; then the call must not go upstream.
    pub fn open(desk: &Rc<Desk>, row: NewUsage, started: Instant) -> Result<Self, JournalError> {
        let slot = desk.journal.open(&row).inspect_err(|_| desk.metrics.journal_refused.inc())?;
        Ok(Self {
            desk: desk.clone(),
            slot: Some(slot),
            row,
            reading: Reading::default(),
            started,
            events: 0,
            noted_events: 0,
            noted: started,
            progress: None,
        })
    }

    /// From now on the call tells there how far it is.
    pub fn shows(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    /// Resolves when what was written is as durable as `usage.fsync` asks.
    pub async fn durable(&self) {
        self.desk.journal.durable().await;
    }

    /// The same, without the call, for one that was closed.
    pub fn journal(&self) -> Rc<Journal> {
        self.desk.journal.clone()
    }

    pub fn attempt(&mut self) {
        self.row.upstream_attempts += 1;
    }

    /// Upstream answered with this status.
    pub fn answered(&mut self, status: u16, upstream_request_id: Option<&str>) {
        self.row.status = Some(i32::from(status));
        self.row.upstream_request_id = upstream_request_id.map(|id| plain(id, SHORT_TEXT));
    }

    /// The first byte of the answer's body is here.
    pub fn first_byte(&mut self) {
        if self.row.time_to_first_byte_ms.is_none() {
            self.row.time_to_first_byte_ms = Some(self.elapsed_ms());
        }
    }

    pub fn failed(&mut self, code: &str, message: &str) {
        self.row.error_code = Some(plain(code, SHORT_TEXT));
        self.row.error_message = Some(plain(message, ERROR_MESSAGE));
    }

    /// The status that our client was given, where upstream gave none.
    pub fn told(&mut self, status: u16) {
        self.row.status = Some(i32::from(status));
    }

    /// What the answer says of its usage.
    pub fn reading(&mut self) -> &mut Reading {
        &mut self.reading
    }

    /// One event of a stream went by; its payload is `None` if it was too long to look at.
    pub fn event(&mut self, kind: StreamKind, payload: Option<&[u8]>) {
        if let Some(payload) = payload {
            self.reading.event(kind, payload);
        }
        self.note_progress();
    }

    /// The same for an event of a model's own, decoded; `kind` is its `type`.
    pub fn decoded_event(&mut self, kind: Option<&str>, event: &[u8]) {
        self.reading.decoded(kind, event);
        self.note_progress();
    }

    fn note_progress(&mut self) {
        self.events += 1;
        if let Some(progress) = &self.progress {
            progress.events.store(u64::from(self.events), Relaxed);
            progress.output_tokens.store(self.reading.tokens.output.unwrap_or(-1), Relaxed);
        }
        let due = self.events - self.noted_events >= PROGRESS_EVENTS
            || self.noted.elapsed() >= PROGRESS_TIME;
        if due
            && !self.reading.tokens.is_empty()
            && let Some(slot) = &self.slot
        {
            self.desk.journal.progress(slot, &self.row.call_id, self.reading.tokens);
            self.noted_events = self.events;
            self.noted = Instant::now();
        }
    }

    /// Closes the call: its final record is in the journal when this returns.
    pub fn close(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(slot) = self.slot.take() else { return };
        let mut row = std::mem::take(&mut self.row);
        row.response_time_ms = Some(self.elapsed_ms());
        outcome.as_str().clone_into(&mut row.outcome);
        let Reading { tokens, stop_reason, complete, nonsense, .. } =
            std::mem::take(&mut self.reading);
        row.input_tokens = tokens.input;
        row.output_tokens = tokens.output;
        row.cache_write_tokens = tokens.cache_write;
        row.cache_write_1h_tokens = tokens.cache_write_1h;
        row.cache_read_tokens = tokens.cache_read;
        row.stop_reason = stop_reason;
        // A refusal before the answer began used nothing. A call that was sent and whose answer nobody saw the beginning or
        // the end of may have used anything. Counting uses nothing.
        let refused = outcome == Outcome::UpstreamError
            && tokens.is_empty()
            && row.time_to_first_byte_ms.is_none();
        let sent = row.upstream_attempts > 0 && row.operation != "count_tokens";
        row.estimated = sent && !refused && !complete;
        self.desk.metrics.call_ended(&row, nonsense);
        let receipt = self.desk.journal.close(slot, &row);
        self.desk.put((row, receipt));
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let outcome =
            if std::thread::panicking() { Outcome::Interrupted } else { Outcome::ClientDisconnect };
        self.finish(outcome);
    }
}

/// Text from outside, without control characters (Postgres takes no NUL) and of bounded length.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}
