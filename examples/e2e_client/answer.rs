//! Reads an answer: a whole message, server-sent events, or the frames of an AWS event stream. The events in both
//! streams are the same.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bedrock_sso_proxy::{
    anthropic::event::Decoder,
    bedrock::event_stream::{Frame, FrameScanner},
};
use serde_json::{Map, Value};

pub const JSON: &str = "application/json";
pub const SSE: &str = "text/event-stream";
pub const FRAMES: &str = "application/vnd.amazon.eventstream";

/// Turns the bytes of a stream into events, in whatever pieces they arrive.
pub enum Reader {
    Sse(Lines),
    Frames(FrameScanner, Decoder),
}

impl Reader {
    /// `None` if such an answer is no stream.
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type {
            SSE => Some(Self::Sse(Lines::default())),
            FRAMES => Some(Self::Frames(FrameScanner::keeping_all(), Decoder::default())),
            _ => None,
        }
    }

    /// The events that became whole; an error is the last.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<anyhow::Result<Value>> {
        let mut events = Vec::new();
        match self {
            Self::Sse(lines) => lines.push(bytes, |data| {
                events.push(serde_json::from_str(data).context("an event is not JSON"));
            }),
            Self::Frames(scanner, decoder) => {
                let each = |frame: Frame<'_>| events.extend(read(&frame, decoder).transpose());
                if let Err(bad) = scanner.push(bytes, each) {
                    events.push(Err(bad.error.into()));
                }
            }
        }
        events
    }
}

/// Splits server-sent events (HTML Standard, 9.2.6). Their names are not needed: the type is in the data as well.
#[derive(Default)]
pub struct Lines {
    line: Vec<u8>,
    data: String,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                return; // the line goes on in the next piece
            }
            let line = String::from_utf8_lossy(&self.line);
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data);
            } else if line.is_empty() && !self.data.is_empty() {
                each(&self.data);
                self.data.clear();
            }
            self.line.clear();
        }
    }
}

/// The event in a frame, if the frame is of a kind that has one.
fn read(frame: &Frame<'_>, decoder: &mut Decoder) -> anyhow::Result<Option<Value>> {
    let payload = frame.payload.unwrap_or_default();
    match (frame.message_type, frame.kind) {
        ("event", "chunk") => Ok(Some(serde_json::from_slice(decoder.decode(payload)?.json)?)),
        ("event", _) => Ok(None),
        ("exception", kind) => bail!("{kind}: {}", error_message(payload)),
        (_, code) => bail!("{code}: {}", frame.message),
    }
}

/// What a body says of an error, in any of the shapes there are.
pub fn error_message(body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = said["error"]["message"].as_str().or(said["message"].as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// As `print!`, but a pipe that was closed is an error and no panic.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// An answer, as far as it has come.
pub struct Answer {
    pub text: String,
    pub request_id: String,
    usage: Map<String, Value>,
    stop_reason: Option<String>,
    began: Instant,
    first_token: Option<Duration>,
    /// `None` until its end has come.
    total: Option<Duration>,
}

impl Answer {
    /// The clock runs from here.
    pub fn begin() -> Self {
        Self {
            text: String::new(),
            request_id: String::new(),
            usage: Map::new(),
            stop_reason: None,
            began: Instant::now(),
            first_token: None,
            total: None,
        }
    }

    pub fn is_whole(&self) -> bool {
        self.total.is_some()
    }

    /// Takes the next event of a stream; prints its text.
    pub fn take(&mut self, event: &Value) -> anyhow::Result<()> {
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.count(&event["message"]["usage"]),
            "content_block_delta" => {
                self.first_token.get_or_insert_with(|| self.began.elapsed());
                self.say(&event["delta"])?;
            }
            "message_delta" => {
                self.ended_by(&event["delta"]);
                self.count(&event["usage"]);
            }
            "message_stop" => self.total = Some(self.began.elapsed()),
            "error" => {
                let kind = event["error"]["type"].as_str().unwrap_or("error");
                bail!("{kind}: {}", error_message(event.to_string().as_bytes()));
            }
            _ => {} // others may come at any time
        }
        Ok(())
    }

    /// Takes an answer that does not stream; prints its text.
    pub fn take_whole(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let message: Value = serde_json::from_slice(body).context("the answer is not JSON")?;
        for block in message["content"].as_array().context("the answer has no content")? {
            self.say(block)?;
        }
        self.ended_by(&message);
        self.count(&message["usage"]);
        self.total = Some(self.began.elapsed());
        Ok(())
    }

    fn say(&mut self, block: &Value) -> io::Result<()> {
        let text = block["text"].as_str().unwrap_or_default();
        self.text.push_str(text);
        print(text)
    }

    fn ended_by(&mut self, part: &Value) {
        if let Some(reason) = part["stop_reason"].as_str() {
            self.stop_reason = Some(reason.to_owned());
        }
    }

    /// Counts are cumulative: the latest holds.
    fn count(&mut self, usage: &Value) {
        let counts = usage.as_object().into_iter().flatten().filter(|(_, count)| count.is_u64());
        self.usage.extend(counts.map(|(name, count)| (name.clone(), count.clone())));
    }

    /// Tokens, and the time to the first of them.
    pub fn summary(&self) -> String {
        let count = |name| self.usage.get(name).map_or("-".to_owned(), Value::to_string);
        format!(
            "tokens: input {}, output {}, cache write {}, cache read {}; first token: {}",
            count("input_tokens"),
            count("output_tokens"),
            count("cache_creation_input_tokens"),
            count("cache_read_input_tokens"),
            seconds(self.first_token),
        )
    }

    pub fn report(&self) -> String {
        let (summary, total, id) = (self.summary(), seconds(self.total), &self.request_id);
        let reason = self.stop_reason.as_deref().unwrap_or("-");
        format!("{summary}; total: {total}\nstop reason: {reason}; request id: {id}")
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.3} s", time.as_secs_f64()))
}
