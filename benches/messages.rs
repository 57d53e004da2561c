//! What the Messages API costs besides signing and sending: the edit of a request and the conversion of events, each
//! beside a plain copy of the same bytes, so that the ratio holds on any machine. `scripts/bench messages` runs it.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::{Engine, engine::general_purpose::STANDARD};
use bedrock_sso_proxy::{
    anthropic::{
        event::Decoder,
        request::{Headers, Incoming, Target},
        rules::Rules,
    },
    bedrock::event_stream::FrameScanner,
    settings::{Need, Settings},
};
use bytes::{Bytes, BytesMut};
use serde_json::json;

/// How long each figure is measured; the median of the rounds counts.
const ROUND: Duration = Duration::from_millis(300);
const ROUNDS: usize = 7;
const EVENTS: usize = 2000;
/// As much as a read from a socket brings.
const PIECE: usize = 16 * 1024;
/// Microseconds an event may cost.
const TARGET: f64 = 2.0;

fn main() {
    println!("| Figure | Copy of the same bytes | bedrock_proxy | Ratio | Target |");
    println!("|---|---|---|---|---|");
    let secret = "s".repeat(48);
    let environment = [("BEDROCK_JWT__SECRET".to_owned(), secret)].into_iter();
    let settings = Settings::from_layers(None, environment, Need::Database).expect("the defaults");
    let rules = Rules::new(&settings.models, &settings.anthropic);
    for (name, size) in [("2 KB", 2_000), ("2 MB", 2_000_000)] {
        let body = request(size);
        let copy = median(|| drop(black_box(body.to_vec())));
        let edit = median(|| drop(black_box(edited(&body, &rules))));
        println!(
            "| Edit of a {name} request ({} bytes) | {copy:.2} µs | {edit:.2} µs | {:.1} | – |",
            body.len(),
            edit / copy
        );
    }
    let stream = stream();
    let copy = median(|| drop(black_box(stream.to_vec())));
    for (name, convert) in [
        ("the service's frame scanner", with_scanner as fn(&[u8]) -> usize),
        ("the library's frame decoder", with_library),
    ] {
        let took = median(|| {
            black_box(convert(&stream));
        });
        let each = took / EVENTS as f64;
        let verdict = if each <= TARGET { "met" } else { "**missed**" };
        println!(
            "| Conversion of {EVENTS} events, {name} | {copy:.0} µs | {took:.0} µs, {each:.2} µs an event | {:.1} | ≤ {TARGET} µs an event: {verdict} |",
            took / copy
        );
    }
}

/// Microseconds that one run takes.
fn median(mut run: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (started, mut runs) = (Instant::now(), 0_u32);
            while started.elapsed() < ROUND {
                run();
                runs += 1;
            }
            started.elapsed().as_secs_f64() * 1e6 / f64::from(runs)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// A request as Claude Code sends it: tools, a cached system prompt, and turns of text and tool results.
fn request(size: usize) -> Bytes {
    let tools: Vec<_> = (0..if size > 10_000 { 20 } else { 1 })
        .map(|n| json!({"name": format!("tool{n}"), "description": "Runs it. ".repeat(20),
                        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}))
        .collect();
    let cache = json!({"type": "ephemeral", "scope": "global"});
    let mut body = json!({
        "model": "claude-sonnet-4-5", "max_tokens": 32000, "stream": true, "tools": tools,
        "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.0;"},
                   {"type": "text", "text": "You are careful.", "cache_control": cache}],
        "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
        "messages": [{"role": "user", "content": "Begin."}],
    });
    let line = "    let text = \"a line\\nof code\";\n";
    while body.to_string().len() < size {
        let missing = size - body.to_string().len();
        let text = line.repeat((missing / line.len()).clamp(1, 600));
        let turns = [
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "tool0", "input": {"path": "x"}}]}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]}]}),
        ];
        body["messages"].as_array_mut().expect("a list").extend(turns);
    }
    body.to_string().into()
}

fn edited(body: &Bytes, rules: &Rules) -> Bytes {
    let headers = Headers {
        version: Some("2023-06-01".to_owned()),
        betas: vec![
            "claude-code-20250219".to_owned(),
            "interleaved-thinking-2025-05-14".to_owned(),
        ],
        profile: None,
    };
    let target = Target { base: "anthropic.claude-sonnet-4-5-20250929-v1:0", long_context: false };
    let incoming = Incoming::read(body.clone(), rules, false).expect("a good request");
    incoming.edit(rules, &headers, target, &[]).expect("a good request").body
}

/// The frames of a long answer.
fn stream() -> Vec<u8> {
    let text = |value: &'static str| HeaderValue::String(value.into());
    let mut stream = Vec::new();
    for n in 0..EVENTS {
        let event = json!({"type": "content_block_delta", "index": 0,
                           "delta": {"type": "text_delta", "text": format!(" and so it goes {n}")}});
        let payload = json!({"bytes": STANDARD.encode(event.to_string()), "p": "abcdefghijklmnop"});
        let frame = Message::new(payload.to_string())
            .add_header(Header::new(":event-type", text("chunk")))
            .add_header(Header::new(":content-type", text("application/json")))
            .add_header(Header::new(":message-type", text("event")));
        write_message_to(&frame, &mut stream).expect("a small frame");
    }
    stream
}

fn with_scanner(stream: &[u8]) -> usize {
    let (mut scanner, mut decoder) = (FrameScanner::keeping_all(), Decoder::default());
    let mut written = 0;
    for piece in stream.chunks(PIECE) {
        let mut out = BytesMut::with_capacity(piece.len());
        let scanned = scanner.push(piece, |frame| {
            let payload = frame.payload.expect("a payload");
            decoder.decode(payload).expect("an event").write(&mut out);
        });
        scanned.expect("sound frames");
        written += out.len();
    }
    written
}

fn with_library(stream: &[u8]) -> usize {
    let (mut frames, mut decoder) = (MessageFrameDecoder::new(), Decoder::default());
    let (mut buffer, mut written) = (BytesMut::new(), 0);
    for piece in stream.chunks(PIECE) {
        buffer.extend_from_slice(piece);
        let mut out = BytesMut::with_capacity(piece.len());
        while let DecodedFrame::Complete(message) =
            frames.decode_frame(&mut buffer).expect("sound frames")
        {
            decoder.decode(message.payload()).expect("an event").write(&mut out);
        }
        written += out.len();
    }
    written
}
