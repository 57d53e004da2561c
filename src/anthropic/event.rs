//! Turns the events of InvokeModelWithResponseStream into those of the Messages API: server-sent events whose data are
//! the model's own bytes (protocol reference §3.3, §4.4).

use std::{borrow::Cow, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A silence is filled with this; clients ignore it.
pub const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

const METRICS: &str = "\"amazon-bedrock-invocationMetrics\"";

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
    /// Bedrock's own member in it.
    metrics: Option<&'a RawValue>,
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
        #[derive(Deserialize)]
        struct Chunk<'a> {
            #[serde(borrow)]
            bytes: Cow<'a, str>,
        }
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow, rename = "type")]
            kind: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "amazon-bedrock-invocationMetrics")]
            metrics: Option<&'a RawValue>,
        }
        let chunk: Chunk<'_> = serde_json::from_slice(payload).map_err(|_| BadEvent::Chunk)?;
        self.buffer.clear();
        STANDARD
            .decode_vec(chunk.bytes.as_bytes(), &mut self.buffer)
            .map_err(|_| BadEvent::Chunk)?;
        let text = std::str::from_utf8(&self.buffer).map_err(|_| BadEvent::Event)?;
        let Head { kind, metrics } = serde_json::from_str(text).map_err(|_| BadEvent::Event)?;
        let kind = kind.filter(|kind| !kind.is_empty() && !kind.contains(char::is_control));
        Ok(Event { kind, json: text.as_bytes(), metrics })
    }
}

impl Event<'_> {
    /// Writes the event as the client gets it. One without a type is left out.
    pub fn write(&self, out: &mut BytesMut) {
        let Some(kind) = &self.kind else { return };
        out.reserve(kind.len() + self.json.len() + 20);
        out.put_slice(b"event: ");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\ndata: ");
        match self.metrics.and_then(|metrics| member_around(self.json, metrics)) {
            Some(cut) => {
                put_line(self.json.get(..cut.start).unwrap_or_default(), out);
                put_line(self.json.get(cut.end..).unwrap_or_default(), out);
            }
            None => put_line(self.json, out),
        }
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

/// The member that holds `value`, with one of the commas beside it.
fn member_around(json: &[u8], value: &RawValue) -> Option<Range<usize>> {
    let at = (value.get().as_ptr() as usize).checked_sub(json.as_ptr() as usize)?;
    let name = memchr::memmem::rfind(json.get(..at)?, METRICS.as_bytes())?;
    super::request::widened(json, vec![name..at + value.get().len()]).pop()
}

/// An error in the middle of a stream: the last event.
pub fn error(kind: &str, message: &str) -> bytes::Bytes {
    let error = serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
    format!("event: error\ndata: {error}\n\n").into()
}
