//! Events of a streamed answer, before they are framed.

use bytes::Bytes;

use super::frame;
use super::ledger::TokenUsage;

/// One event before it is framed.
#[derive(Debug)]
pub(super) struct Event {
    /// `chunk`, or the Converse member.
    pub(super) name: &'static str,
    pub(super) json: String,
    /// What has been reported once this event is out, if it reports anything.
    pub(super) usage: Option<TokenUsage>,
    /// Least characters of padding.
    pub(super) padding: usize,
}

impl Event {
    pub(super) fn chunk(json: String) -> Self {
        Self { name: "chunk", json, usage: None, padding: 0 }
    }

    pub(super) fn reporting(mut self, usage: Option<TokenUsage>) -> Self {
        self.usage = usage;
        self
    }

    pub(super) fn padded(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// The frame of the event, with padding of a length that `noise` decides.
    pub(super) fn frame(&self, noise: u64) -> Bytes {
        let padding = self.padding + usize::try_from(noise % 40).unwrap_or_default();
        match self.name {
            "chunk" => frame::chunk(&self.json, padding),
            name => frame::member(name, &self.json, padding),
        }
    }
}

/// The events of a stream, made as they are needed.
pub(super) type Events = Box<dyn Iterator<Item = Event>>;
