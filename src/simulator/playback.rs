//! Playing frames into a body, and breaking them on the way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::BodySize;
use bytes::{Bytes, BytesMut};
use tokio::time::Sleep;

use super::frame;
use super::ledger::{Ticket, TokenUsage};
use super::scenario::{Kind, Scenario};
use super::wire::Connection;

/// One piece of a body, and what the client knows once it has it.
#[derive(Debug)]
pub(super) struct Frame {
    /// The event's name; `chunk` if the piece is no event.
    pub(super) name: &'static str,
    pub(super) bytes: Bytes,
    pub(super) usage: Option<TokenUsage>,
}

/// The pieces of a body, made as they are needed.
pub(super) type Frames = Box<dyn Iterator<Item = Frame>>;

/// Plays frames into a body: one chunk each, slowly, all at once or byte by byte, and with a fault.
pub(super) struct Playback {
    frames: Frames,
    /// A frame taken from `frames` before its time.
    upcoming: Option<Frame>,
    size: BodySize,
    fault: Option<Fault>,
    played: u64,
    delay: Option<Duration>,
    /// After how many frames nothing comes for how long.
    silence: Option<(u64, Duration)>,
    sleep: Option<Pin<Box<Sleep>>>,
    coalesce: bool,
    split: bool,
    /// What is left of a frame which goes out byte by byte.
    rest: Bytes,
    stage: Stage,
    connection: Option<Rc<Connection>>,
}

impl fmt::Debug for Playback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Playback").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// Where a playback is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Playing,
    /// Nothing more will come, and the body stays open.
    Silent,
    /// The connection is to be closed as soon as what was handed over is on its way.
    Flushing,
    Cutting,
    Ended {
        complete: bool,
    },
}

/// What goes wrong, and after how many frames.
#[derive(Debug, Clone)]
struct Fault {
    after: u64,
    kind: Kind,
    /// `kind=` or `type=` of the directive.
    variant: Option<String>,
}

impl Playback {
    /// Plays `frames` as `scenario` wants it. `streams` says whether they are events; faults of
    /// framing make no sense otherwise.
    pub(super) fn new(
        frames: Frames,
        scenario: &Scenario,
        size: BodySize,
        streams: bool,
        connection: Option<Rc<Connection>>,
    ) -> Self {
        let fault = scenario.kind.filter(|kind| breaks_off(*kind) || streams && corrupts(*kind));
        let fault = fault.map(|kind| Fault {
            after: scenario.after.unwrap_or(1),
            kind,
            variant: scenario.exception.clone().or_else(|| scenario.variant.clone()),
        });
        let silence = match scenario.kind {
            Some(Kind::Late) => Some(0),
            Some(Kind::Pause) => Some(scenario.after.unwrap_or(1)),
            _ => None,
        };
        let silence =
            silence.map(|after| (after, scenario.delay.unwrap_or(Duration::from_secs(1))));
        let default_delay = (streams && scenario.is(Kind::AbortUsage)).then_some(5);
        let default_delay = default_delay.map(Duration::from_millis);
        let delay = scenario
            .delay
            .or(default_delay)
            .filter(|delay| !delay.is_zero() && !scenario.coalesce && !scenario.is(Kind::Slow))
            .filter(|_| silence.is_none());
        Self {
            frames,
            upcoming: None,
            size,
            fault,
            played: 0,
            delay,
            silence,
            sleep: None,
            coalesce: scenario.coalesce,
            split: scenario.split,
            rest: Bytes::new(),
            stage: Stage::Playing,
            connection,
        }
    }

    pub(super) fn size(&self) -> BodySize {
        self.size
    }

    /// The next bytes for the socket.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut ticket: Option<&mut Ticket>,
    ) -> Poll<Option<Bytes>> {
        loop {
            if !self.rest.is_empty() {
                return Poll::Ready(Some(self.rest.split_to(1)));
            }
            match self.stage {
                Stage::Playing => {}
                Stage::Silent => return Poll::Pending,
                Stage::Flushing => {
                    // Pending once, so that the server writes what it has before the cut.
                    self.stage = Stage::Cutting;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Stage::Cutting => {
                    if let Some(ticket) = ticket.as_deref_mut() {
                        ticket.close(false);
                    }
                    if let Some(connection) = &self.connection {
                        connection.close();
                    }
                    self.stage = Stage::Silent;
                    continue;
                }
                Stage::Ended { complete } => {
                    if let Some(ticket) = ticket.as_deref_mut() {
                        ticket.close(complete);
                    }
                    return Poll::Ready(None);
                }
            }
            let played = self.played;
            if let Some((_, silence)) = self.silence.take_if(|(after, _)| *after <= played) {
                self.sleep = Some(Box::pin(tokio::time::sleep(silence)));
            }
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let piece = if self.coalesce { self.everything(&ticket) } else { self.piece(&ticket) };
            if self.stage == Stage::Playing && self.delay.is_some() {
                self.upcoming = self.upcoming.take().or_else(|| self.frames.next());
            }
            if self.stage == Stage::Playing && self.upcoming.is_some() {
                self.sleep = self.delay.map(|delay| Box::pin(tokio::time::sleep(delay)));
            }
            match piece {
                Some(piece) if self.split => self.rest = piece,
                Some(piece) if !piece.is_empty() => return Poll::Ready(Some(piece)),
                _ => {} // an empty piece would end a chunked body
            }
        }
    }

    /// All pieces up to the end or to the fault which stops them.
    fn everything(&mut self, ticket: &Option<&mut Ticket>) -> Option<Bytes> {
        let mut all = BytesMut::new();
        while self.stage == Stage::Playing {
            if let Some(piece) = self.piece(ticket) {
                all.extend_from_slice(&piece);
            }
        }
        Some(all.freeze())
    }

    /// The next piece, sound or not; sets the stage when it was the last.
    fn piece(&mut self, ticket: &Option<&mut Ticket>) -> Option<Bytes> {
        let due = self.fault.as_ref().is_some_and(|fault| fault.after <= self.played);
        let fault = if due { self.fault.take() } else { None };
        let Some(next) = self.upcoming.take().or_else(|| self.frames.next()) else {
            return match fault.or_else(|| self.fault.take()) {
                Some(fault) => self.break_with(&fault, None, ticket), // later than the end: at it
                None => {
                    self.stage = Stage::Ended { complete: true };
                    None
                }
            };
        };
        match fault {
            Some(fault) => self.break_with(&fault, Some(next), ticket),
            None => {
                self.played += 1;
                Some(hand_over(next, ticket))
            }
        }
    }

    fn break_with(
        &mut self,
        fault: &Fault,
        next: Option<Frame>,
        ticket: &Option<&mut Ticket>,
    ) -> Option<Bytes> {
        let variant = fault.variant.as_deref();
        let half =
            |frame: Option<Frame>| frame.map(|frame| frame.bytes.slice(..frame.bytes.len() / 2));
        match fault.kind {
            Kind::HangMid => {
                self.stage = Stage::Silent;
                None
            }
            Kind::Cut => {
                self.stage = Stage::Flushing;
                half(next)
            }
            Kind::CutClean => {
                self.stage = Stage::Ended { complete: false };
                half(next)
            }
            Kind::CutBoundary => {
                self.stage = Stage::Ended { complete: false };
                None
            }
            Kind::Exception => {
                self.stage = Stage::Ended { complete: true };
                let name = variant.unwrap_or("throttlingException");
                let message = match name {
                    "throttlingException" => "Too many requests, please wait before trying again.",
                    _ => "Simulated exception in mid-stream.",
                };
                Some(frame::exception(name, message))
            }
            Kind::ErrorFrame => {
                self.stage = Stage::Ended { complete: true };
                Some(frame::error("InternalFailure", "boom"))
            }
            Kind::BadCrc => {
                let prelude = variant == Some("prelude");
                next.map(|next| frame::with_bad_checksum(&hand_over(next, ticket), prelude))
            }
            Kind::BadJson => {
                let name = next.as_ref().map_or("chunk", |next| next.name);
                let text = "{\"type\":\"content_block_delta\", \"broken";
                self.upcoming = next;
                Some(match variant {
                    Some("bytes") if name == "chunk" => frame::chunk(text, 4),
                    _ => frame::event(name, text.as_bytes().to_vec()),
                })
            }
            Kind::BadLength => {
                self.upcoming = next;
                Some(frame::absurd_prelude())
            }
            _ => {
                self.upcoming = next;
                Some(frame::garbage())
            }
        }
    }
}

fn hand_over(frame: Frame, ticket: &Option<&mut Ticket>) -> Bytes {
    if let (Some(usage), Some(ticket)) = (frame.usage, ticket) {
        ticket.report(usage);
    }
    frame.bytes
}

/// Scenarios which stop a body, streamed or not.
pub(super) fn breaks_off(kind: Kind) -> bool {
    matches!(kind, Kind::HangMid | Kind::Cut | Kind::CutClean | Kind::CutBoundary)
}

/// Scenarios which put something wrong into a stream.
fn corrupts(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Exception
            | Kind::ErrorFrame
            | Kind::BadCrc
            | Kind::BadJson
            | Kind::BadLength
            | Kind::Garbage
    )
}
