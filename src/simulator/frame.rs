//! `application/vnd.amazon.eventstream` frames (protocol §3), sound and broken.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

/// What Bedrock pads its events with.
const PADDING: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// An event whose payload is `payload` as it is.
pub(super) fn event(name: &'static str, payload: Vec<u8>) -> Bytes {
    const JSON: &str = "application/json";
    write(&[(":event-type", name), (":content-type", JSON), (":message-type", "event")], payload)
}

/// A `chunk` event around one JSON event of the model, with `padding` characters of `p`.
pub(super) fn chunk(json: &str, padding: usize) -> Bytes {
    let mut payload = String::with_capacity(json.len() / 3 * 4 + padding + 32);
    payload.push_str("{\"bytes\":\"");
    STANDARD.encode_string(json, &mut payload);
    payload.push('"');
    pad(&mut payload, padding);
    payload.push('}');
    event("chunk", payload.into_bytes())
}

/// A Converse event: the member's own JSON object with `p` added to it.
pub(super) fn member(name: &'static str, json: &str, padding: usize) -> Bytes {
    let mut payload = json.strip_suffix('}').unwrap_or(json).to_owned();
    pad(&mut payload, padding);
    payload.push('}');
    event(name, payload.into_bytes())
}

fn pad(payload: &mut String, mut characters: usize) {
    payload.push_str(",\"p\":\"");
    while characters > 0 {
        let piece = PADDING.get(..characters.min(PADDING.len())).unwrap_or(PADDING);
        payload.push_str(piece);
        characters -= piece.len();
    }
    payload.push('"');
}

/// An exception: the last frame of a stream which fails.
pub(super) fn exception(name: &str, message: &str) -> Bytes {
    let payload = format!("{{\"message\":{}}}", super::text::Quoted(message));
    let headers = [
        (":exception-type", name),
        (":content-type", "application/json"),
        (":message-type", "exception"),
    ];
    write(&headers, payload.into_bytes())
}

/// An error without a payload.
pub(super) fn error(code: &str, message: &str) -> Bytes {
    let headers = [(":error-code", code), (":error-message", message), (":message-type", "error")];
    write(&headers, Vec::new())
}

fn write(headers: &[(&'static str, &str)], payload: Vec<u8>) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 160);
    let mut message = Message::new(payload);
    for (name, value) in headers {
        let value = HeaderValue::String((*value).to_owned().into());
        message = message.add_header(Header::new(*name, value));
    }
    // It fails on lengths beyond 32 bits only, which the limits of a scenario exclude.
    match write_message_to(&message, &mut out) {
        Ok(()) => out.freeze(),
        Err(_) => Bytes::new(),
    }
}

/// Flips a bit of the prelude's checksum, or of the message's.
pub(super) fn with_bad_checksum(frame: &Bytes, prelude: bool) -> Bytes {
    let mut broken = BytesMut::from(frame.as_ref());
    let at = if prelude { 8 } else { broken.len().saturating_sub(1) };
    if let Some(byte) = broken.get_mut(at) {
        *byte ^= 0x01;
    }
    broken.freeze()
}

/// A prelude which announces almost 4 GiB, with the checksum that belongs to it.
pub(super) fn absurd_prelude() -> Bytes {
    let mut out = BytesMut::with_capacity(12);
    out.put_u32(0xFFFF_FFF0);
    out.put_u32(0x0000_004B);
    let checksum = crc32fast::hash(&out);
    out.put_u32(checksum);
    out.freeze()
}

/// Bytes which are no frame at all.
pub(super) fn garbage() -> Bytes {
    Bytes::from("This is not an event stream. \u{fffd}\0\r\n\r\n".repeat(120))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = "000000860000004bba8a02430b3a6576656e742d747970650700056368756e6b0d3a636f6e74656e\
        742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d7479706507\
        00056576656e747b226279746573223a2265794a306558426c496a6f6963476c755a794a39222c22\
        70223a2261626364227ddc9d8443";
    const EXCEPTION: &str = "000000b2000000613590d5d30f3a657863657074696f6e2d747970650700137468\
        726f74746c696e67457863657074696f6e0d3a636f6e74656e742d747970650700106170706c69636174696f6e\
        2f6a736f6e0d3a6d6573736167652d74797065070009657863657074696f6e7b226d657373616765223a22546f\
        6f206d616e792072657175657374732c20706c656173652077616974206265666f726520747279696e67206167\
        61696e2e227de8ffb26a";
    const ERROR: &str = "0000005a0000004a8188a08d0b3a6572726f722d636f646507000f496e7465726e616c\
        4661696c7572650e3a6572726f722d6d657373616765070004626f6f6d0d3a6d6573736167652d747970650700\
        056572726f72f8d6999d";

    #[test]
    fn frames_are_those_of_the_specification() {
        assert_eq!(
            hex::encode(exception(
                "throttlingException",
                "Too many requests, please wait before trying again."
            )),
            EXCEPTION
        );
        assert_eq!(hex::encode(error("InternalFailure", "boom")), ERROR);
        let ours = chunk(r#"{"type":"ping"}"#, 4);
        assert_eq!(ours.len(), 134);
        assert_eq!(hex::encode(&ours), CHUNK);
    }

    #[test]
    fn an_absurd_prelude_has_its_own_checksum_right() {
        let prelude = absurd_prelude();

        let (announced, checksum) = prelude.split_at(8);
        assert_eq!(crc32fast::hash(announced).to_be_bytes(), checksum);
    }
}
