//! The event stream as Bedrock sends it, byte for byte; a copy is parsed for usage and for damage.

use bytes::Bytes;

use super::{End, Over, Step, Wire};
use crate::{
    bedrock::event_stream::{self, Frame, FrameScanner},
    usage::{Outcome, call::OpenCall, meter::StreamKind},
};

pub struct Frames {
    scanner: FrameScanner,
    kind: StreamKind,
    damaged: bool,
    /// The start of a bad frame has gone out; nothing that follows would be understood.
    speechless: bool,
}

impl Frames {
    pub fn new(kind: StreamKind) -> Self {
        Self { scanner: FrameScanner::default(), kind, damaged: false, speechless: false }
    }
}

impl Wire for Frames {
    fn push(&mut self, piece: Bytes, call: &mut Option<OpenCall>) -> Step {
        let (kind, mut over) = (self.kind, None);
        let scanned = self.scanner.push(&piece, |frame| {
            if let Some(call) = call.as_mut() {
                over = follow(kind, call, &frame).or(over.take());
            }
        });
        match scanned {
            Ok(()) => Step { bytes: piece, over: over.map(Over::Well) },
            Err(bad) => {
                tracing::warn!(error = %bad.error, "a stream held a bad frame");
                // Whole frames before the bad one are the client's. If the bad one has begun to leave, the client's
                // own checks must see its end.
                (self.damaged, self.speechless) = (true, bad.good.is_none());
                let bytes = bad.good.map_or(piece.clone(), |good| piece.slice(..good));
                Step { bytes, over: Some(Over::Badly(End::damaged())) }
            }
        }
    }

    fn finish(&mut self, call: &mut Option<OpenCall>) -> Step {
        let unfinished = call.as_mut().is_some_and(|call| call.reading().is_unfinished());
        let over = match self.scanner.at_boundary() && !unfinished {
            true => Over::Well(Outcome::Success),
            false => Over::Badly(End::cut()),
        };
        Step { bytes: Bytes::new(), over: Some(over) }
    }

    /// An exception frame, if the client is between two frames.
    fn last_words(&self, end: &End) -> Bytes {
        let between_frames = self.damaged || self.scanner.at_boundary();
        if self.speechless || !between_frames {
            return Bytes::new();
        }
        event_stream::exception(&end.exception, &end.message)
    }

    fn buffered(&self) -> usize {
        self.scanner.buffered()
    }
}

/// Looks at one frame; answers the outcome if it is the stream's last.
fn follow(kind: StreamKind, call: &mut OpenCall, frame: &Frame<'_>) -> Option<Outcome> {
    if frame.message_type != "event" {
        let said = super::said(frame);
        call.failed(frame.kind, &said.message);
        return Some(Outcome::UpstreamError);
    }
    call.event(kind, frame.payload);
    call.reading().ended.then_some(Outcome::Success)
}
