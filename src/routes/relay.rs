//! The body of a streamed answer: upstream's bytes as they come, no faster than the client reads them. A copy is
//! parsed for usage and for damage. However the stream ends, its call is closed before its last byte leaves, and an
//! end that was none is never made to look like one.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use awc::ClientResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::LocalBoxFuture};
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    actors::streams::StreamTicket,
    bedrock::{
        Limits,
        event_stream::{self, Frame, FrameScanner},
    },
    settings::OnDisconnect,
    state::{Admission, Worker},
    usage::{Outcome, call::OpenCall, meter::StreamKind},
};

/// A pause long enough for the server to write what it holds, before the connection is broken.
const FLUSH: std::time::Duration = std::time::Duration::from_millis(50);
/// Streams that one worker reads to their end after their clients left (`usage.on_disconnect: drain`).
const DRAINS: usize = 64;
/// For how long it does.
const DRAIN_FOR: std::time::Duration = std::time::Duration::from_secs(30);

/// What keeps an eye on a stream; dropped with it.
pub struct Watch {
    pub admission: Admission,
    pub ticket: StreamTicket,
    pub cut: CancellationToken,
    pub limits: Limits,
    /// When the whole call must be over.
    pub deadline: Instant,
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

/// See the module's documentation.
pub struct Relay {
    source: Source,
    state: State,
    limits: Limits,
    idle: Pin<Box<Sleep>>,
    deadline: Instant,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    worker: Arc<Worker>,
    _admission: Admission,
    _ticket: StreamTicket,
}

/// The stream itself, apart from the client: it can be read on without one.
struct Source {
    /// `None` when it was handed to a task that reads it to its end.
    upstream: Option<ClientResponse>,
    meter: Meter,
}

enum State {
    Live,
    /// The last whole piece waits until the call's end is on the disk (`usage.fsync: always`).
    Durable(LocalBoxFuture<'static, ()>, Bytes),
    /// An exception frame of ours went out; the connection is broken once that had time to leave.
    LastWords(Pin<Box<Sleep>>),
    Broken,
    Ended,
}

impl Relay {
    pub fn new(
        upstream: ClientResponse,
        kind: StreamKind,
        call: OpenCall,
        watch: Watch,
        worker: &Arc<Worker>,
    ) -> Self {
        let Watch { admission, ticket, cut, limits, deadline } = watch;
        Self {
            source: Source { upstream: Some(upstream), meter: Meter::new(kind, call) },
            state: State::Live,
            limits,
            idle: Box::pin(sleep_until((Instant::now() + limits.idle).min(deadline).into())),
            deadline,
            cut: Box::pin(cut.cancelled_owned()),
            worker: worker.clone(),
            _admission: admission,
            _ticket: ticket,
        }
    }

    /// One step of a live stream.
    fn poll_live(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if self.cut.as_mut().poll(context).is_ready() {
            let end = End::of(
                Outcome::Shutdown,
                "serviceUnavailableException",
                "The service is stopping. Try again.",
            );
            return Poll::Ready(self.fail(end));
        }
        if Instant::now() >= self.deadline {
            let end = End::of(Outcome::Timeout, "modelTimeoutException", "The call took too long.");
            return Poll::Ready(self.fail(end));
        }
        let Some(upstream) = &mut self.source.upstream else { return Poll::Ready(None) };
        match upstream.poll_next_unpin(context) {
            Poll::Pending => {
                // A client that does not read does not get here, so this measures upstream alone.
                ready!(self.idle.as_mut().poll(context));
                let end = End::of(
                    Outcome::Timeout,
                    "modelTimeoutException",
                    "Bedrock stopped answering.",
                );
                Poll::Ready(self.fail(end))
            }
            Poll::Ready(Some(Ok(piece))) => {
                let next = (Instant::now() + self.limits.idle).min(self.deadline);
                self.idle.as_mut().reset(next.into());
                Poll::Ready(self.pass(piece))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(%error, "a stream broke off");
                Poll::Ready(self.fail(End::cut()))
            }
            Poll::Ready(None) => Poll::Ready(match self.source.meter.ended() {
                Ok(()) => {
                    self.state = State::Ended;
                    None
                }
                Err(end) => self.fail(end),
            }),
        }
    }

    /// Passes a piece on. One that ends the call is held until the call's end is durable.
    fn pass(&mut self, piece: Bytes) -> Option<Result<Bytes, Broken>> {
        let was_open = self.source.meter.call.is_some();
        match self.source.meter.read(&piece) {
            Ok(()) => {
                let closed_now = was_open && self.source.meter.call.is_none();
                let journal = self.source.meter.journal.clone();
                if closed_now && !journal.is_durable() {
                    self.state =
                        State::Durable(Box::pin(async move { journal.durable().await }), piece);
                    return Some(Ok(Bytes::new()));
                }
                Some(Ok(piece))
            }
            Err(bad) => {
                tracing::warn!(error = %bad.error, "a stream held a bad frame");
                match bad.good {
                    // Whole frames before the bad one are the client's; then our exception says why it ends.
                    Some(good) => {
                        let frame = self.fail(End::damaged());
                        let words = frame.and_then(Result::ok).unwrap_or_default();
                        Some(Ok([&piece.slice(..good)[..], &words].concat().into()))
                    }
                    // The frame has begun to leave: the client's own checks must see its end.
                    None => {
                        self.source.meter.close(End::damaged());
                        self.source.upstream = None;
                        self.state = State::LastWords(Box::pin(tokio::time::sleep(FLUSH)));
                        Some(Ok(piece))
                    }
                }
            }
        }
    }

    /// Ends a stream that did not end well: an exception frame if the client is between two frames, then a break, once
    /// what came before has left.
    fn fail(&mut self, end: End) -> Option<Result<Bytes, Broken>> {
        let (kind, message) = (end.exception, end.message);
        let between_frames = self.source.meter.scanner.at_boundary() || self.source.meter.damaged;
        self.source.meter.close(end);
        self.source.upstream = None; // closes the connection, which cancels the call
        self.state = State::LastWords(Box::pin(tokio::time::sleep(FLUSH)));
        Some(Ok(if between_frames { event_stream::exception(kind, message) } else { Bytes::new() }))
    }
}

impl Stream for Relay {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::Live => {
                    let step = ready!(self.poll_live(context));
                    // An empty piece would end the chunked body; it only means that the state has changed.
                    match step {
                        Some(Ok(piece)) if piece.is_empty() => continue,
                        step => return Poll::Ready(step),
                    }
                }
                State::Durable(durable, piece) => {
                    ready!(durable.as_mut().poll(context));
                    let piece = std::mem::take(piece);
                    self.state = State::Live;
                    return Poll::Ready(Some(Ok(piece)));
                }
                State::LastWords(pause) => {
                    ready!(pause.as_mut().poll(context));
                    self.state = State::Broken;
                }
                State::Broken => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(Broken)));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Relay {
    /// The client has left before the end. Upstream is dropped at once, or read on for its usage.
    fn drop(&mut self) {
        let worker = &self.worker;
        let wanted = worker.on_disconnect == OnDisconnect::Drain
            && !worker.shared.closing.load(std::sync::atomic::Ordering::Relaxed);
        if !wanted || worker.drains.get() >= DRAINS || self.source.meter.call.is_none() {
            return; // the open call, dropped, closes itself
        }
        let (Some(mut upstream), Some(call)) =
            (self.source.upstream.take(), self.source.meter.call.take())
        else {
            return;
        };
        let mut meter = Meter { call: Some(call), ..Meter::resume(&mut self.source.meter) };
        let drains = worker.drains.clone();
        drains.set(drains.get() + 1);
        actix_web::rt::spawn(async move {
            let to_end = async {
                while let Some(Ok(piece)) = upstream.next().await {
                    if meter.read_without_client(&piece).is_err() {
                        break;
                    }
                }
            };
            let _over = tokio::time::timeout(DRAIN_FOR, to_end).await;
            if let Some(call) = meter.call.take() {
                call.close(Outcome::ClientDisconnect);
            }
            drains.set(drains.get().saturating_sub(1));
        });
    }
}

/// How a stream that did not end well is told to the client and recorded.
struct End {
    outcome: Outcome,
    exception: &'static str,
    message: &'static str,
}

impl End {
    fn of(outcome: Outcome, exception: &'static str, message: &'static str) -> Self {
        Self { outcome, exception, message }
    }

    fn cut() -> Self {
        Self::of(Outcome::UpstreamCut, "modelStreamErrorException", "Bedrock's answer broke off.")
    }

    fn damaged() -> Self {
        Self::of(
            Outcome::UpstreamCut,
            "modelStreamErrorException",
            "Bedrock's answer arrived damaged.",
        )
    }
}

/// Follows the frames of a stream and closes its call when the terminating one is seen.
struct Meter {
    scanner: FrameScanner,
    kind: StreamKind,
    /// `None` once closed.
    call: Option<OpenCall>,
    journal: Rc<crate::usage::journal::Journal>,
    damaged: bool,
}

impl Meter {
    fn new(kind: StreamKind, call: OpenCall) -> Self {
        let journal = call.journal();
        Self { scanner: FrameScanner::default(), kind, call: Some(call), journal, damaged: false }
    }

    /// The same, for reading on without a client.
    fn resume(other: &mut Self) -> Self {
        Self {
            scanner: std::mem::take(&mut other.scanner),
            kind: other.kind,
            call: None,
            journal: other.journal.clone(),
            damaged: false,
        }
    }

    fn read(&mut self, piece: &[u8]) -> Result<(), event_stream::BadFrame> {
        let mut verdict = None;
        let (kind, call) = (self.kind, &mut self.call);
        if let Some(call) = call {
            call.first_byte();
        }
        let scanned = self.scanner.push(piece, |frame| {
            if let Some(call) = call {
                verdict = follow(kind, call, &frame).or(verdict.take());
            }
        });
        self.damaged = scanned.is_err();
        if let (Some(outcome), Some(call)) = (verdict, self.call.take_if(|_| verdict.is_some())) {
            call.close(outcome);
        }
        scanned
    }

    /// As [`Self::read`]; whatever ends it, the client had left.
    fn read_without_client(&mut self, piece: &[u8]) -> Result<(), event_stream::BadFrame> {
        let (kind, call) = (self.kind, &mut self.call);
        self.scanner.push(piece, |frame| {
            if let Some(call) = call {
                follow(kind, call, &frame);
            }
        })
    }

    /// Upstream's body ended as HTTP says it should. Whether the stream did is another matter.
    fn ended(&mut self) -> Result<(), End> {
        let unfinished = self.call.as_mut().is_some_and(|call| call.reading().is_unfinished());
        if !self.scanner.at_boundary() || unfinished {
            return Err(End::cut());
        }
        if let Some(call) = self.call.take() {
            call.close(Outcome::Success);
        }
        Ok(())
    }

    fn close(&mut self, end: End) {
        if let Some(mut call) = self.call.take() {
            call.failed(end.exception, end.message);
            call.close(end.outcome);
        }
    }
}

/// Looks at one frame; answers the outcome if it is the stream's last.
fn follow(kind: StreamKind, call: &mut OpenCall, frame: &Frame<'_>) -> Option<Outcome> {
    if frame.message_type != "event" {
        #[derive(serde::Deserialize)]
        struct Said {
            message: Option<String>,
        }
        let said = frame.payload.and_then(|payload| serde_json::from_slice::<Said>(payload).ok());
        call.failed(frame.kind, said.and_then(|said| said.message).as_deref().unwrap_or_default());
        return Some(Outcome::UpstreamError);
    }
    call.event(kind, frame.payload);
    call.reading().ended.then_some(Outcome::Success)
}
