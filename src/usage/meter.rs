//! Reads usage out of replies by looking, without rebuilding them: whole bodies, stream events and headers of every
//! model family, into one accumulator. Pure; a value that is no sensible count is left out and counted.

mod said;

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::TokenCounts;
use said::Said;

/// More tokens than any call can have; beyond is nonsense (REL-9).
const MOST: i64 = 1 << 40;
/// Longest stop reason that is kept, in bytes.
const STOP_REASON: usize = 64;

/// What a reply said about itself, so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reading {
    pub tokens: TokenCounts,
    pub stop_reason: Option<String>,
    /// Whether the figures are final: of a whole body, or from the end of a stream.
    pub complete: bool,
    /// Values that were no counts: negative, too large, not a whole number.
    pub nonsense: u32,
    /// The stream said that it is over: `message_stop`.
    stopped: bool,
    /// The output is that of `message_start`: a small number that a later report replaces.
    preliminary: bool,
    /// Nothing more will be said of usage.
    pub ended: bool,
}

/// What the bytes of an event hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// `{"bytes": "<base64 of the model's own event>"}`.
    Invoke,
    /// The event itself.
    Converse,
}

impl Reading {
    /// Reads the body of an answer that does not stream.
    pub fn whole(&mut self, body: &[u8]) {
        if let Ok(said) = serde_json::from_slice::<Said<'_>>(body) {
            self.take(&said);
        }
        self.complete = !self.tokens.is_empty();
    }

    /// Reads a count_tokens answer: it uses none.
    pub fn count_tokens(&mut self) {
        self.complete = true;
    }

    /// Whether a stream that ends now has been cut, though HTTP may call it whole: every stream of Bedrock's ends with
    /// an event that has its metrics, or that says stop.
    pub fn is_unfinished(&self) -> bool {
        !self.stopped && !self.ended
    }

    /// Reads one event of a stream.
    pub fn event(&mut self, kind: StreamKind, payload: &[u8]) {
        match kind {
            StreamKind::Converse => {
                self.ended |= self.model_event(payload); // `metadata`, after `messageStop`, is the one event with usage
            }
            StreamKind::Invoke => {
                // Nearly all events are text deltas; their start, decoded, tells them without decoding the rest.
                #[derive(Deserialize)]
                struct Chunk<'a> {
                    #[serde(borrow)]
                    bytes: Cow<'a, str>,
                }
                let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(payload) else { return };
                if chunk.bytes.starts_with(DELTA) {
                    return;
                }
                if let Ok(event) = STANDARD.decode(chunk.bytes.as_bytes()) {
                    let _usage = self.model_event(&event);
                }
            }
        }
    }

    /// Reads a model's own event, whose `type` is `kind`; most are deltas, which say nothing of usage.
    pub fn decoded(&mut self, kind: Option<&str>, event: &[u8]) {
        if !matches!(
            kind,
            Some("content_block_delta" | "content_block_start" | "content_block_stop" | "ping")
        ) {
            self.model_event(event);
        }
    }

    /// Answers whether the event has a `usage` of its own.
    fn model_event(&mut self, event: &[u8]) -> bool {
        let Ok(said) = serde_json::from_slice::<Said<'_>>(event) else { return false };
        self.take(&said);
        self.stopped |= said.kind.as_deref() == Some("message_stop");
        // `message_start` has preliminary figures; every other report comes at the end.
        let metadata = said.metadata.is_some_and(|metadata| metadata.usage.is_some());
        let last =
            said.metrics.is_some() || metadata || (said.usage.is_some() && said.message.is_none());
        self.complete |= last && self.tokens.output.is_some() && !self.preliminary;
        self.ended |= said.metrics.is_some() || metadata || (self.stopped && self.complete);
        said.usage.is_some()
    }

    /// Reads the counts in the headers of a whole answer, for what the body did not say.
    pub fn headers<'h>(&mut self, header: impl Fn(&str) -> Option<&'h str>) {
        let mut count = |name: &str| {
            let text = header(name)?;
            let value = text.trim().parse::<i64>().ok().filter(|value| (0..=MOST).contains(value));
            self.nonsense += u32::from(value.is_none());
            value
        };
        let cache_write = count("x-amzn-bedrock-cache-write-input-token-count");
        let counts = TokenCounts {
            input: count("x-amzn-bedrock-input-token-count"),
            output: count("x-amzn-bedrock-output-token-count"),
            cache_read: count("x-amzn-bedrock-cache-read-input-token-count"),
            cache_write,
            cache_write_1h: cache_write.map(|_| 0),
        };
        self.fill(counts);
        self.complete |= !self.tokens.is_empty();
    }

    fn take(&mut self, said: &Said<'_>) {
        let mut nonsense = 0;
        if let Some(usage) = said.message.as_ref().and_then(|message| message.usage.as_ref()) {
            let counts = usage.counts(&mut nonsense);
            self.preliminary |= counts.output.is_some() && !self.complete;
            self.replace(counts);
        }
        let begun = std::mem::take(&mut self.preliminary);
        let before = begun.then(|| self.tokens.output.take()).flatten();
        if let Some(usage) = &said.usage {
            self.replace(usage.counts(&mut nonsense));
        }
        if let Some(usage) = said.metadata.as_ref().and_then(|metadata| metadata.usage.as_ref()) {
            self.replace(usage.counts(&mut nonsense));
        }
        self.replace(said.flat_counts(&mut nonsense));
        if let Some(metrics) = &said.metrics {
            self.fill(metrics.counts(&mut nonsense));
        }
        if begun && self.tokens.output.is_none() {
            (self.tokens.output, self.preliminary) = (before, true);
        }
        self.nonsense += nonsense;
        if let Some(reason) = said.stop_reason() {
            self.stop_reason = reason
                .get(..reason.floor_char_boundary(STOP_REASON))
                .map(|reason| reason.chars().filter(|c| !c.is_control()).collect());
        }
    }

    /// The later report wins, field by field; one that is absent erases nothing. A cache count is not erased by a
    /// later 0 either: some streams repeat only the uncached input.
    fn replace(&mut self, later: TokenCounts) {
        let kept = |old: Option<i64>, new: Option<i64>| match (old, new) {
            (Some(old), Some(0)) if old > 0 => Some(old),
            _ => new.or(old),
        };
        let tokens = &mut self.tokens;
        tokens.input = later.input.or(tokens.input);
        tokens.output = later.output.or(tokens.output);
        tokens.cache_write = kept(tokens.cache_write, later.cache_write);
        tokens.cache_write_1h = kept(tokens.cache_write_1h, later.cache_write_1h);
        tokens.cache_read = kept(tokens.cache_read, later.cache_read);
    }

    /// A source of lower rank: only for what nobody reported.
    fn fill(&mut self, other: TokenCounts) {
        let tokens = &mut self.tokens;
        tokens.input = tokens.input.or(other.input);
        tokens.output = tokens.output.or(other.output);
        tokens.cache_write = tokens.cache_write.or(other.cache_write);
        tokens.cache_write_1h = tokens.cache_write_1h.or(other.cache_write_1h);
        tokens.cache_read = tokens.cache_read.or(other.cache_read);
    }
}

/// Base64 of `{"type":"content_block_delta`, a multiple of three bytes long.
const DELTA: &str = "eyJ0eXBlIjoiY29udGVudF9ibG9ja19kZWx0";

#[cfg(test)]
mod tests;
