//! Turns the events of InvokeModelWithResponseStream into those of the Messages API: server-sent events whose data are
//! the model's own bytes (protocol reference §3.3, §4.4).

use std::{borrow::Cow, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, BytesMut};
use serde::de::IgnoredAny;

use super::{
    outline::{self, text},
    splice::widened,
};

/// A silence is filled with this; clients ignore it.
pub const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// A frame whose payload is no event of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    #[error("a chunk is not JSON with base64 bytes")]
    Chunk,
    #[error("the event in a chunk is not a JSON object")]
    Event,
}

/// An event of the model, decoded.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its `type`; `None` if it has none, and is nothing that a client could use.
    pub kind: Option<Cow<'a, str>>,
    /// All of it, for reading usage.
    pub json: &'a [u8],
    /// What of it is Bedrock's own: a member, with one of the commas beside it.
    metrics: Vec<Range<usize>>,
}

/// Decodes chunks one after the other, in one buffer.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// The event in the payload of a `chunk`.
    ///
    /// # Errors
    /// [`BadEvent`]; nothing of it may go on as if it were one.
    pub fn decode(&mut self, payload: &[u8]) -> Result<Event<'_>, BadEvent> {
        let chunk = is_object(payload).then(|| outline::member(payload, "bytes").and_then(text));
        let bytes = chunk.flatten().ok_or(BadEvent::Chunk)?;
        self.buffer.clear();
        STANDARD.decode_vec(bytes.as_bytes(), &mut self.buffer).map_err(|_| BadEvent::Chunk)?;
        let json: &[u8] = &self.buffer;
        if std::str::from_utf8(json).is_err() || !is_object(json) {
            return Err(BadEvent::Event);
        }
        let (mut kind, mut metrics) = (None, Vec::new());
        for (item, name, value) in outline::members(json) {
            match &*name {
                "type" => kind = json.get(value).and_then(text),
                METRICS => metrics.push(item),
                _ => {}
            }
        }
        let kind = kind.filter(|kind| !kind.is_empty() && !kind.contains(char::is_control));
        Ok(Event { kind, json, metrics: widened(json, metrics) })
    }
}

fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
        && serde_json::from_slice::<IgnoredAny>(json).is_ok()
}

impl Event<'_> {
    /// Writes the event as the client gets it. One without a type is left out.
    pub fn write(&self, out: &mut BytesMut) {
        let Some(kind) = &self.kind else { return };
        out.reserve(kind.len() + self.json.len() + 20);
        out.put_slice(b"event: ");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\ndata: ");
        let mut at = 0;
        for cut in &self.metrics {
            put_line(self.json.get(at..cut.start).unwrap_or_default(), out);
            at = cut.end;
        }
        put_line(self.json.get(at..).unwrap_or_default(), out);
        out.put_slice(b"\n\n");
    }
}

/// Line ends can only be space between tokens in JSON; in `data:` they would end the line.
fn put_line(json: &[u8], out: &mut BytesMut) {
    let start = out.len();
    out.put_slice(json);
    if memchr::memchr2(b'\n', b'\r', json).is_some() {
        for byte in out.iter_mut().skip(start).filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
}

/// An error in the middle of a stream: the last event.
pub fn error(kind: &str, message: &str) -> bytes::Bytes {
    let error = serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
    format!("event: error\ndata: {error}\n\n").into()
}

#[cfg(test)]
mod tests;
