//! Reads `application/vnd.amazon.eventstream` from a copy of the bytes on their way to the client: finds the frames,
//! verifies both checksums, and lends each payload to the usage scan. Memory is bounded, whatever the frames claim. Also writes the exception frames that are our own.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::Bytes;
use crc32fast::Hasher;

const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;
/// Limits of AWS's own decoders.
const MAX_HEADERS: usize = 131_072;
const MAX_PAYLOAD: usize = 25_165_824;
/// A frame longer than this is checked but not kept, unless all are; its payload is not read.
pub const KEPT: usize = 256 * 1024;

/// A whole frame whose checksums were right.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `:message-type`: `event`, `exception` or `error`.
    pub message_type: &'a str,
    /// `:event-type`, `:exception-type` or `:error-code`.
    pub kind: &'a str,
    /// `:error-message` of an `error`.
    pub message: &'a str,
    /// `None` if the frame was longer than what is kept.
    pub payload: Option<&'a [u8]>,
}

/// A frame that cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFrame {
    pub error: FrameError,
    /// Bytes of this piece that came before the bad frame; `None` if the frame began in an earlier piece.
    pub good: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the checksum of a frame's prelude is wrong")]
    PreludeChecksum,
    #[error("the lengths in a frame's prelude are impossible")]
    Lengths,
    #[error("the checksum of a frame is wrong")]
    Checksum,
    #[error("the headers of a frame are malformed")]
    Headers,
}

/// Splits a stream into frames. Feed it bytes in whatever pieces they arrive.
#[derive(Debug)]
pub struct FrameScanner {
    /// Frames up to this length are kept.
    keep: usize,
    /// The start of a frame that is not whole yet; of a long one only the prelude and headers.
    held: Vec<u8>,
    /// Set once the prelude of the current frame was read.
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    total: usize,
    headers: usize,
    seen: usize,
    /// Over the bytes seen, without the last four.
    checksum: Hasher,
    /// The frame's own checksum, as far as it has come.
    tail: [u8; CHECKSUM],
}

impl Default for FrameScanner {
    fn default() -> Self {
        Self { keep: KEPT, held: Vec::new(), current: None }
    }
}

impl FrameScanner {
    /// Keeps every frame, however long, until it is whole.
    pub fn keeping_all() -> Self {
        Self { keep: usize::MAX, ..Self::default() }
    }

    /// Bytes of a frame that is not whole yet.
    pub fn buffered(&self) -> usize {
        self.held.len()
    }

    /// Whether every byte so far belonged to a whole frame: a stream may end here, and nowhere else.
    pub fn at_boundary(&self) -> bool {
        self.held.is_empty() && self.current.is_none()
    }

    /// Reads on; calls `each` for every frame that became whole.
    ///
    /// # Errors
    /// [`BadFrame`]; the stream cannot be resumed.
    pub fn push(&mut self, piece: &[u8], mut each: impl FnMut(Frame<'_>)) -> Result<(), BadFrame> {
        let mut rest = piece;
        let mut good = self.at_boundary().then_some(0);
        while !rest.is_empty() {
            rest = self.step(rest, &mut each).map_err(|error| BadFrame { error, good })?;
            if self.at_boundary() {
                good = Some(piece.len() - rest.len());
            }
        }
        Ok(())
    }

    fn step<'b>(
        &mut self,
        bytes: &'b [u8],
        each: &mut impl FnMut(Frame<'_>),
    ) -> Result<&'b [u8], FrameError> {
        match self.at_boundary().then(|| whole_frame(bytes, self.keep)).transpose()?.flatten() {
            Some(frame) => {
                each(read(frame.bytes, frame.headers)?);
                Ok(bytes.get(frame.bytes.len()..).unwrap_or_default())
            }
            None => self.push_part(bytes, each),
        }
    }

    /// Takes what belongs to the current frame; answers the rest.
    fn push_part<'b>(
        &mut self,
        bytes: &'b [u8],
        each: &mut impl FnMut(Frame<'_>),
    ) -> Result<&'b [u8], FrameError> {
        let Some(current) = &mut self.current else {
            let (prelude, rest) = split(bytes, PRELUDE - self.held.len());
            self.held.extend_from_slice(prelude);
            if self.held.len() == PRELUDE {
                let (total, headers) = check_prelude(&self.held)?;
                let mut checksum = Hasher::new();
                checksum.update(&self.held);
                let tail = [0; CHECKSUM];
                self.current = Some(Current { total, headers, seen: PRELUDE, checksum, tail });
            }
            return Ok(rest);
        };
        let (part, rest) = split(bytes, current.total - current.seen);
        let covered = current.total - CHECKSUM;
        let (counted, own) = split(part, covered.saturating_sub(current.seen));
        current.checksum.update(counted);
        let at = (current.seen + counted.len()).saturating_sub(covered);
        for (place, byte) in current.tail.iter_mut().skip(at).zip(own) {
            *place = *byte;
        }
        let keep =
            if current.total <= self.keep { current.total } else { PRELUDE + current.headers };
        self.held.extend_from_slice(split(part, keep.saturating_sub(current.seen)).0);
        current.seen += part.len();
        if current.seen == current.total {
            let right = current.checksum.clone().finalize().to_be_bytes() == current.tail;
            let headers = current.headers;
            self.current = None;
            let held = std::mem::take(&mut self.held);
            if !right {
                return Err(FrameError::Checksum);
            }
            each(read(&held, headers)?);
            if held.capacity() <= KEPT {
                self.held = held; // its allocation serves the next frame
                self.held.clear();
            }
        }
        Ok(rest)
    }
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at(at.min(bytes.len()))
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// Total and header length, once the prelude's own checksum was right.
fn check_prelude(prelude: &[u8]) -> Result<(usize, usize), FrameError> {
    let (Some(total), Some(headers), Some(checksum)) =
        (be_u32(prelude, 0), be_u32(prelude, 4), be_u32(prelude, 8))
    else {
        return Err(FrameError::Lengths);
    };
    if crc32fast::hash(prelude.get(..8).unwrap_or_default()) != checksum {
        return Err(FrameError::PreludeChecksum);
    }
    let (total, headers) = (total as usize, headers as usize);
    let payload = total.checked_sub(headers + PRELUDE + CHECKSUM).ok_or(FrameError::Lengths)?;
    if headers > MAX_HEADERS || payload > MAX_PAYLOAD {
        return Err(FrameError::Lengths);
    }
    Ok((total, headers))
}

struct Whole<'a> {
    bytes: &'a [u8],
    headers: usize,
}

/// The fast path: a frame that lies in the piece as a whole is read where it lies.
fn whole_frame(bytes: &[u8], keep: usize) -> Result<Option<Whole<'_>>, FrameError> {
    let Some(prelude) = bytes.get(..PRELUDE) else { return Ok(None) };
    let (total, headers) = check_prelude(prelude)?;
    let Some(frame) = bytes.get(..total).filter(|_| total <= keep) else { return Ok(None) };
    let (covered, checksum) = split(frame, total - CHECKSUM);
    if be_u32(checksum, 0) != Some(crc32fast::hash(covered)) {
        return Err(FrameError::Checksum);
    }
    Ok(Some(Whole { bytes: frame, headers }))
}

/// Reads the headers of a frame whose checksums were right; `bytes` of a long frame end after its headers.
fn read(bytes: &[u8], headers: usize) -> Result<Frame<'_>, FrameError> {
    let end = PRELUDE + headers;
    let mut rest = bytes.get(PRELUDE..end).ok_or(FrameError::Headers)?;
    let (mut message_type, mut kind, mut message) = ("", "", "");
    while let Some((length, after)) = rest.split_first() {
        let (name, after) = take(after, usize::from(*length))?;
        let (value_type, after) = after.split_first().ok_or(FrameError::Headers)?;
        let (size, after) = match value_type {
            0 | 1 => (0, after),
            2 => (1, after),
            3 => (2, after),
            4 => (4, after),
            5 | 8 => (8, after),
            9 => (16, after),
            6 | 7 => {
                let (length, after) = take(after, 2)?;
                let length = <[u8; 2]>::try_from(length).map_err(|_| FrameError::Headers)?;
                (usize::from(u16::from_be_bytes(length)), after)
            }
            _ => return Err(FrameError::Headers),
        };
        let (value, after) = take(after, size)?;
        let place = match name {
            b":message-type" => Some(&mut message_type),
            b":event-type" | b":exception-type" | b":error-code" => Some(&mut kind),
            b":error-message" => Some(&mut message),
            b"" => return Err(FrameError::Headers),
            _ => None,
        };
        if let Some(place) = place {
            if *value_type != 7 || !place.is_empty() {
                return Err(FrameError::Headers);
            }
            *place = std::str::from_utf8(value).map_err(|_| FrameError::Headers)?;
        }
        rest = after;
    }
    let payload = bytes.get(end..bytes.len().saturating_sub(CHECKSUM));
    Ok(Frame { message_type, kind, message, payload: payload.filter(|_| bytes.len() > end) })
}

fn take(bytes: &[u8], count: usize) -> Result<(&[u8], &[u8]), FrameError> {
    if count > bytes.len() { Err(FrameError::Headers) } else { Ok(bytes.split_at(count)) }
}

/// An exception frame of our own: `kind` in lower camel case, as Bedrock sends it.
pub fn exception(kind: &str, message: &str) -> Bytes {
    let text = |value: &str| HeaderValue::String(value.to_owned().into());
    let payload = serde_json::json!({ "message": message }).to_string();
    let frame = Message::new(payload)
        .add_header(Header::new(":exception-type", text(kind)))
        .add_header(Header::new(":content-type", text("application/json")))
        .add_header(Header::new(":message-type", text("exception")));
    let mut bytes = Vec::with_capacity(256);
    // Fails only for headers beyond 64 KiB; then the connection ends without a frame, which clients notice too.
    match write_message_to(&frame, &mut bytes) {
        Ok(()) => bytes.into(),
        Err(_) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests;
