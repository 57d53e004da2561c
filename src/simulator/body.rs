//! Response bodies which keep the ledger up to date.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use super::ledger::{Ticket, TokenUsage};
use super::playback::Playback;

/// A response body which keeps the ledger up to date. Dropped early, it marks the call as aborted.
#[derive(Debug)]
pub(super) struct SimBody {
    content: Content,
    /// None for the simulator's own pages.
    ticket: Option<Ticket>,
}

#[derive(Debug)]
enum Content {
    Whole { bytes: Bytes, usage: Option<TokenUsage> },
    Played(Box<Playback>),
}

impl SimBody {
    /// A body in one piece.
    pub(super) fn whole(bytes: Bytes, usage: Option<TokenUsage>, ticket: Option<Ticket>) -> Self {
        let mut body = Self { content: Content::Whole { bytes, usage }, ticket };
        if body.size() == BodySize::Sized(0) {
            body.handed_over(None, true); // nobody will ask for it
        }
        body
    }

    pub(super) fn played(playback: Playback, ticket: Ticket) -> Self {
        Self { content: Content::Played(Box::new(playback)), ticket: Some(ticket) }
    }

    fn handed_over(&mut self, usage: Option<TokenUsage>, finished: bool) {
        if let Some(ticket) = &mut self.ticket {
            if let Some(usage) = usage {
                ticket.report(usage);
            }
            ticket.close(finished);
        }
    }
}

impl MessageBody for SimBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        match &self.content {
            Content::Whole { bytes, .. } => BodySize::Sized(bytes.len() as u64),
            Content::Played(playback) => playback.size(),
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        match &mut this.content {
            Content::Whole { bytes, .. } if bytes.is_empty() => Poll::Ready(None),
            Content::Whole { bytes, usage } => {
                let (bytes, usage) = (std::mem::take(bytes), usage.take());
                this.handed_over(usage, true);
                Poll::Ready(Some(Ok(bytes)))
            }
            Content::Played(playback) => {
                playback.poll(cx, this.ticket.as_mut()).map(|piece| piece.map(Ok))
            }
        }
    }
}
