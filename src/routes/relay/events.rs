//! The event stream as server-sent events of the Messages API (protocol reference §4.4).

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{End, Over, Step, Wire, said};
use crate::{
    anthropic::event::{self, Decoder},
    bedrock::{
        error::mask,
        event_stream::{Frame, FrameScanner},
    },
    usage::{Outcome, call::OpenCall},
};

/// How long a stream that said stop may take to say what it used, and to close.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Events {
    scanner: FrameScanner,
    converter: Converter,
}

#[derive(Default)]
struct Converter {
    decoder: Decoder,
    /// `message_stop` was there.
    stopped: bool,
    /// It waits here while the figures are still to come: it must not leave before the call is closed.
    held: BytesMut,
}

impl Default for Events {
    fn default() -> Self {
        Self { scanner: FrameScanner::keeping_all(), converter: Converter::default() }
    }
}

impl Wire for Events {
    const PING: &'static [u8] = event::PING;

    fn push(&mut self, piece: Bytes, call: &mut Option<OpenCall>) -> Step {
        let mut out = BytesMut::with_capacity(piece.len());
        let mut over = None;
        let converter = &mut self.converter;
        let scanned = self.scanner.push(&piece, |frame| {
            if !matches!(over, Some(Over::Badly(_))) {
                over = converter.frame(&frame, call, &mut out).or(over.take());
            }
        });
        if let Err(bad) = scanned
            && !matches!(over, Some(Over::Badly(_)))
            && !self.converter.stopped
        {
            tracing::warn!(error = %bad.error, "a stream held a bad frame");
            over = Some(Over::Badly(End::damaged()));
        }
        Step { bytes: out.freeze(), over }
    }

    fn finish(&mut self, _: &mut Option<OpenCall>) -> Step {
        let over = match self.converter.stopped {
            true => Over::Well(Outcome::Success),
            false => Over::Badly(End::cut()),
        };
        Step { bytes: self.converter.held.split().freeze(), over: Some(over) }
    }

    fn last_words(&self, end: &End) -> Bytes {
        event::error(end.told().kind, &mask(&end.message))
    }

    fn buffered(&self) -> usize {
        self.scanner.buffered()
    }

    fn patience(&self) -> Option<Duration> {
        self.converter.stopped.then_some(PATIENCE)
    }
}

impl Converter {
    /// Converts one frame, and reads what it says of usage.
    fn frame(
        &mut self,
        frame: &Frame<'_>,
        call: &mut Option<OpenCall>,
        out: &mut BytesMut,
    ) -> Option<Over> {
        let call = call.as_mut()?; // over: what still comes is of no use to anybody
        if frame.message_type != "event" {
            let (said, exception) = (said(frame), frame.kind.to_owned().into());
            let (message, original_status) = (said.message.into(), said.original_status_code);
            let outcome = Outcome::UpstreamError;
            return Some(Over::Badly(End { outcome, exception, message, original_status }));
        }
        if frame.kind != "chunk" {
            return None; // `initial-response`, or what later versions may bring
        }
        let event = match self.decoder.decode(frame.payload.unwrap_or_default()) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "a stream held a bad event");
                return Some(Over::Badly(End::damaged()));
            }
        };
        let kind = event.kind.as_deref();
        call.decoded_event(kind, event.json);
        self.stopped |= kind == Some("message_stop");
        if !self.stopped {
            event.write(out);
            return None;
        }
        event.write(&mut self.held);
        let complete = call.reading().ended;
        complete.then(|| {
            out.unsplit(self.held.split());
            Over::Well(Outcome::Success)
        })
    }
}
