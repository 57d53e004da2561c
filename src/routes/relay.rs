//! The body of a streamed answer: what upstream sends, no faster than the client reads it, in the client's [`Wire`]
//! format. However the stream ends, its call is closed before its last byte leaves, and an end that was none is never
//! made to look like one.

pub mod events;
pub mod frames;

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use awc::ClientResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::LocalBoxFuture};
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    actors::streams::{Cut, StreamTicket, Why},
    anthropic::error::{Told, of_exception},
    bedrock::event_stream::{Frame, KEPT},
    settings::OnDisconnect,
    state::{Admission, Worker},
    usage::{Outcome, call::OpenCall, journal::Journal},
};

/// A pause long enough for the server to write what it holds, before the connection is broken.
const FLUSH: Duration = Duration::from_millis(50);
/// Streams that one worker reads to their end after their clients left (`usage.on_disconnect: drain`).
const DRAINS: usize = 64;
/// For how long it does.
const DRAIN_FOR: Duration = Duration::from_secs(30);

/// How a stream is put to its client.
pub trait Wire: 'static {
    /// What fills a silence, in formats that have such a thing.
    const PING: &'static [u8] = b"";

    /// Takes the next piece from upstream, reads usage into `call`, and answers what the client gets of it.
    fn push(&mut self, piece: Bytes, call: &mut Option<OpenCall>) -> Step;

    /// Upstream's body ended as HTTP says it should. Whether the stream did is another matter.
    fn finish(&mut self, call: &mut Option<OpenCall>) -> Step;

    /// Tells the client why the stream ends; empty if it would not be understood any more.
    fn last_words(&self, end: &End) -> Bytes;

    /// Bytes of a frame that is not whole yet.
    fn buffered(&self) -> usize;

    /// Set once nothing is missing that the client needs: how long upstream may take to close.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// What one piece from upstream came to.
pub struct Step {
    /// For the client.
    pub bytes: Bytes,
    pub over: Option<Over>,
}

pub enum Over {
    /// The call is over, and its figures are complete.
    Well(Outcome),
    Badly(End),
}

/// How a stream that did not end well is told to the client and recorded.
pub struct End {
    pub outcome: Outcome,
    /// As Bedrock would call it, in lower camel case.
    pub exception: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// Of a model's own error.
    pub original_status: Option<u16>,
}

impl End {
    fn of(outcome: Outcome, exception: &'static str, message: &'static str) -> Self {
        let (exception, message) = (Cow::Borrowed(exception), Cow::Borrowed(message));
        Self { outcome, exception, message, original_status: None }
    }

    pub fn cut() -> Self {
        Self::of(Outcome::UpstreamCut, "modelStreamErrorException", "Bedrock's answer broke off.")
    }

    pub fn damaged() -> Self {
        let message = "Bedrock's answer arrived damaged.";
        Self::of(Outcome::UpstreamCut, "modelStreamErrorException", message)
    }

    fn silent() -> Self {
        Self::of(Outcome::Timeout, "modelTimeoutException", "Bedrock stopped answering.")
    }

    fn too_long() -> Self {
        Self::of(Outcome::Timeout, "modelTimeoutException", "The call took too long.")
    }

    /// Why the stream was cut from our side.
    fn of_cut(cut: &Cut) -> Self {
        let (outcome, exception, message) = match cut.why() {
            Why::Revoked => (
                Outcome::Revoked,
                "accessDeniedException",
                "The credential is not accepted any more.",
            ),
            // Not one that clients try again by themselves.
            Why::Admin => {
                (Outcome::Revoked, "accessDeniedException", "An administrator ended this stream.")
            }
            Why::Shutdown => (
                Outcome::Shutdown,
                "serviceUnavailableException",
                "The service is stopping. Try again.",
            ),
        };
        Self::of(outcome, exception, message)
    }

    fn too_large() -> Self {
        let message = "Too many large answers at the moment. Try again.";
        Self::of(Outcome::UpstreamCut, "serviceUnavailableException", message)
    }

    /// The same in Anthropic's words.
    pub fn told(&self) -> Told {
        of_exception(&self.exception, 500, self.original_status)
    }

    /// Ends the call of the stream.
    pub fn close(&self, mut call: OpenCall) {
        call.failed(&self.exception, &self.message);
        call.close(self.outcome);
    }
}

/// What an exception frame says; an error frame says it in its headers.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Said {
    pub message: String,
    pub original_status_code: Option<u16>,
}

fn said(frame: &Frame<'_>) -> Said {
    let said = frame.payload.and_then(|payload| serde_json::from_slice(payload).ok());
    said.unwrap_or_else(|| Said { message: frame.message.to_owned(), original_status_code: None })
}

/// A stream whose head is there.
pub struct Opened<W> {
    upstream: ClientResponse,
    wire: W,
    /// `None` once closed.
    call: Option<OpenCall>,
    journal: Rc<Journal>,
    /// What was read already.
    first: Option<Step>,
    /// Upstream has ended, and must not be asked again.
    ended: bool,
}

impl<W: Wire> Opened<W> {
    pub fn new(upstream: ClientResponse, wire: W, call: OpenCall) -> Self {
        let journal = call.journal();
        Self { upstream, wire, call: Some(call), journal, first: None, ended: false }
    }

    /// Reads until there is something for the client, or it is cut.
    ///
    /// # Errors
    /// Why there never was, and the call to be closed with it.
    pub async fn begin(
        mut self,
        idle: Duration,
        cut: &Cut,
    ) -> Result<Self, (End, Option<OpenCall>)> {
        let mut told = std::pin::pin!(cut.token.cancelled());
        loop {
            let next = tokio::select! {
                biased;
                next = tokio::time::timeout(idle, self.upstream.next()) => next,
                () = &mut told => return Err((End::of_cut(cut), self.call)),
            };
            let step = match next {
                Err(_elapsed) => return Err((End::silent(), self.call)),
                Ok(Some(Err(_broken))) => return Err((End::cut(), self.call)),
                Ok(Some(Ok(piece))) => self.push(piece),
                Ok(None) => {
                    self.ended = true;
                    self.wire.finish(&mut self.call)
                }
            };
            match step {
                Step { bytes, over: Some(Over::Badly(end)) } if bytes.is_empty() => {
                    return Err((end, self.call));
                }
                Step { bytes, over: None } if bytes.is_empty() => {}
                step => return Ok(Self { first: Some(step), ..self }),
            }
        }
    }

    fn push(&mut self, piece: Bytes) -> Step {
        if let Some(call) = &mut self.call {
            call.first_byte();
        }
        self.wire.push(piece, &mut self.call)
    }
}

/// What keeps an eye on a stream; dropped with it.
pub struct Watch {
    pub admission: Admission,
    pub ticket: StreamTicket,
    pub cut: Cut,
    /// When the whole call must be over.
    pub deadline: std::time::Instant,
    /// The longest silence towards the client.
    pub ping: Option<Duration>,
}

/// The connection ends without the terminator of a whole answer.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream broke off")
    }
}

impl std::error::Error for Broken {}

/// A stream that is still to be opened, or the last words if it cannot be.
pub type Opening<W> = LocalBoxFuture<'static, Result<Opened<W>, Bytes>>;

/// See the module's documentation.
pub struct Relay<W: Wire> {
    state: State<W>,
    /// `None` while opening, and once there is nothing more to read.
    source: Option<Opened<W>>,
    timer: Pin<Box<Sleep>>,
    /// When upstream was last heard of, and the client last sent anything.
    heard: Instant,
    spoken: Instant,
    idle: Duration,
    ping: Option<Duration>,
    deadline: Instant,
    cut: Cut,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    worker: Arc<Worker>,
    admission: Admission,
    _ticket: StreamTicket,
}

enum State<W> {
    Opening(Opening<W>),
    Live,
    /// The last whole piece waits until the call's end is on the disk (`usage.fsync: always`).
    Durable(LocalBoxFuture<'static, ()>, Bytes),
    /// The last words went out; the connection is broken once they had time to leave.
    LastWords(Pin<Box<Sleep>>),
    Broken,
    Ended,
}

/// What the clock brings.
enum Due {
    Ping,
    /// Upstream has been silent for too long.
    Silence,
    Deadline,
}

type Polled = Poll<Option<Result<Bytes, Broken>>>;

impl<W: Wire> Relay<W> {
    pub fn new(opened: Opened<W>, watch: Watch, worker: &Arc<Worker>) -> Self {
        let mut relay = Self::starting(State::Live, watch, worker);
        relay.source = Some(opened);
        relay
    }

    /// A stream whose client has its head already.
    pub fn yet_to_open(opening: Opening<W>, watch: Watch, worker: &Arc<Worker>) -> Self {
        Self::starting(State::Opening(opening), watch, worker)
    }

    fn starting(state: State<W>, watch: Watch, worker: &Arc<Worker>) -> Self {
        let Watch { admission, ticket, cut, deadline, ping } = watch;
        let (now, deadline) = (Instant::now(), deadline.into());
        Self {
            state,
            source: None,
            timer: Box::pin(sleep_until(deadline)),
            heard: now,
            spoken: now,
            idle: worker.bedrock.limits.idle,
            ping,
            deadline,
            told: Box::pin(cut.token.clone().cancelled_owned()),
            cut,
            worker: worker.clone(),
            admission,
            _ticket: ticket,
        }
    }

    /// One step of a live stream.
    fn poll_live(&mut self, context: &mut Context<'_>) -> Polled {
        if self.told.as_mut().poll(context).is_ready() {
            let end = End::of_cut(&self.cut);
            return Poll::Ready(self.give_up(end));
        }
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        if let Some(step) = source.first.take() {
            let ended = source.ended;
            let step = self.take(step);
            if ended {
                self.source = None;
            }
            return Poll::Ready(step);
        }
        match source.upstream.poll_next_unpin(context) {
            // A client that does not read does not get here, so the clock measures upstream alone.
            Poll::Pending => Poll::Ready(match ready!(self.poll_clock(context)) {
                Due::Ping => Some(Ok(Bytes::from_static(W::PING))),
                Due::Silence => self.give_up(End::silent()),
                Due::Deadline => self.give_up(End::too_long()),
            }),
            Poll::Ready(Some(Ok(piece))) => {
                let step = source.push(piece);
                self.heard = Instant::now();
                if self.heard >= self.deadline {
                    return Poll::Ready(self.give_up(End::too_long()));
                }
                Poll::Ready(self.take(step))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(%error, "a stream broke off");
                Poll::Ready(self.give_up(End::cut()))
            }
            Poll::Ready(None) => Poll::Ready(self.finish()),
        }
    }

    /// Waits for what the clock brings next. The timer is only moved when it would be late: it may go off early, and
    /// is then set anew.
    fn poll_clock(&mut self, context: &mut Context<'_>) -> Poll<Due> {
        loop {
            let patience = self.source.as_ref().and_then(|source| source.wire.patience());
            let silence = match &self.state {
                State::Opening(_) => self.deadline, // the opening has limits of its own
                _ => self.heard + patience.unwrap_or(self.idle),
            };
            let mut next = (self.deadline, Due::Deadline);
            if silence < next.0 {
                next = (silence, Due::Silence);
            }
            if let Some(ping) = self.ping.map(|ping| self.spoken + ping).filter(|at| *at < next.0) {
                next = (ping, Due::Ping);
            }
            let (at, due) = next;
            if Instant::now() >= at {
                return Poll::Ready(due);
            }
            if self.timer.is_elapsed() || self.timer.deadline() > at {
                self.timer.as_mut().reset(at);
            }
            ready!(self.timer.as_mut().poll(context));
        }
    }

    /// Passes a step on. One that ends the call is held until the call's end is durable.
    fn take(&mut self, Step { bytes, over }: Step) -> Option<Result<Bytes, Broken>> {
        let Some(source) = &mut self.source else { return None };
        match over {
            Some(Over::Badly(end)) => return self.fail(bytes, &end),
            Some(Over::Well(outcome)) => {
                if let Some(call) = source.call.take() {
                    call.close(outcome);
                    let journal = source.journal.clone();
                    if !journal.is_durable() {
                        let durable = Box::pin(async move { journal.durable().await });
                        self.state = State::Durable(durable, bytes);
                        return Some(Ok(Bytes::new()));
                    }
                }
            }
            None => {}
        }
        let buffered = source.wire.buffered();
        let held = if buffered > KEPT { buffered } else { 0 };
        if !self.admission.holds(held) {
            return self.fail(bytes, &End::too_large());
        }
        Some(Ok(bytes))
    }

    /// Upstream has nothing more to say.
    fn finish(&mut self) -> Option<Result<Bytes, Broken>> {
        let source = self.source.as_mut()?;
        let step = source.wire.finish(&mut source.call);
        if let Some(Over::Badly(end)) = &step.over {
            return self.fail(step.bytes, end);
        }
        let last = self.take(step);
        self.source = None;
        last
    }

    /// The stream cannot go on. If nothing is missing that the client needs, that is no matter.
    fn give_up(&mut self, end: End) -> Option<Result<Bytes, Broken>> {
        let complete = self.source.as_ref().is_some_and(|source| source.wire.patience().is_some());
        if complete { self.finish() } else { self.fail(Bytes::new(), &end) }
    }

    /// Ends a stream that did not end well: last words, then a break, once what came before has left.
    fn fail(&mut self, bytes: Bytes, end: &End) -> Option<Result<Bytes, Broken>> {
        let mut words = Bytes::new();
        // Dropping the source closes the connection, which cancels the call.
        if let Some(Opened { wire, call, .. }) = self.source.take() {
            words = wire.last_words(end);
            if let Some(call) = call {
                end.close(call);
            }
        }
        self.break_off();
        Some(Ok(if bytes.is_empty() { words } else { [&bytes[..], &words].concat().into() }))
    }

    fn break_off(&mut self) {
        self.state = State::LastWords(Box::pin(tokio::time::sleep(FLUSH)));
    }
}

impl<W: Wire> Unpin for Relay<W> {}

impl<W: Wire> Stream for Relay<W> {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let step = match &mut self.state {
                State::Opening(opening) => match opening.as_mut().poll(context) {
                    Poll::Ready(Ok(opened)) => {
                        self.source = Some(opened);
                        self.heard = Instant::now();
                        self.state = State::Live;
                        continue;
                    }
                    Poll::Ready(Err(words)) => {
                        self.break_off();
                        Some(Ok(words))
                    }
                    Poll::Pending => match ready!(self.poll_clock(context)) {
                        Due::Ping => Some(Ok(Bytes::from_static(W::PING))),
                        // The opening ends itself in time; should it not, the client is not kept.
                        Due::Silence | Due::Deadline => {
                            self.state = State::Broken;
                            continue;
                        }
                    },
                },
                State::Live => ready!(self.poll_live(context)),
                State::Durable(durable, bytes) => {
                    ready!(durable.as_mut().poll(context));
                    let bytes = std::mem::take(bytes);
                    self.state = State::Live;
                    Some(Ok(bytes))
                }
                State::LastWords(pause) => {
                    ready!(pause.as_mut().poll(context));
                    self.state = State::Broken;
                    continue;
                }
                State::Broken => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(Broken)));
                }
                State::Ended => return Poll::Ready(None),
            };
            // An empty piece would end the chunked body; it only means that the state has changed.
            if matches!(&step, Some(Ok(bytes)) if bytes.is_empty()) {
                continue;
            }
            self.spoken = Instant::now();
            return Poll::Ready(step);
        }
    }
}

impl<W: Wire> Drop for Relay<W> {
    /// The client has left before the end. Upstream is dropped at once, or read on for its usage.
    fn drop(&mut self) {
        let worker = &self.worker;
        let wanted = worker.on_disconnect == OnDisconnect::Drain
            && !worker.shared.closing.load(Relaxed)
            && worker.drains.get() < DRAINS;
        let open = |source: &Opened<W>| wanted && source.call.is_some();
        let Some(mut source) = self.source.take().filter(open) else {
            return; // the open call, dropped, closes itself
        };
        let drains = worker.drains.clone();
        drains.set(drains.get() + 1);
        actix_web::rt::spawn(async move {
            let to_end = async {
                while let Some(Ok(piece)) = source.upstream.next().await {
                    if let Some(Over::Badly(_)) = source.push(piece).over {
                        break;
                    }
                }
            };
            let _over = tokio::time::timeout(DRAIN_FOR, to_end).await;
            if let Some(call) = source.call.take() {
                call.close(Outcome::ClientDisconnect);
            }
            drains.set(drains.get().saturating_sub(1));
        });
    }
}
