use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMIT: i64 = 1 << 40;

fn counts(
    input: impl Into<Option<i64>>,
    output: impl Into<Option<i64>>,
    cache_write: impl Into<Option<i64>>,
    cache_write_1h: impl Into<Option<i64>>,
    cache_read: impl Into<Option<i64>>,
) -> TokenCounts {
    TokenCounts {
        input: input.into(),
        output: output.into(),
        cache_write: cache_write.into(),
        cache_write_1h: cache_write_1h.into(),
        cache_read: cache_read.into(),
    }
}

fn plain(input: impl Into<Option<i64>>, output: impl Into<Option<i64>>) -> TokenCounts {
    counts(input, output, None, None, None)
}

/// What a whole body says.
fn whole(body: &Value) -> Reading {
    whole_text(body.to_string())
}

fn whole_text(body: impl AsRef<[u8]>) -> Reading {
    let mut reading = Reading::default();
    reading.whole(body.as_ref());
    reading
}

/// The payload of an invoke chunk, with padding as AWS sends it.
fn chunk(event: impl AsRef<[u8]>) -> Vec<u8> {
    json!({ "bytes": STANDARD.encode(event), "p": "abcdefgh" }).to_string().into_bytes()
}

fn streamed(events: &[Value]) -> Reading {
    let mut reading = Reading::default();
    follow(&mut reading, events);
    reading
}

fn follow(reading: &mut Reading, events: &[Value]) {
    for event in events {
        reading.event(StreamKind::Invoke, &chunk(event.to_string()));
    }
}

fn conversed(events: &[Value]) -> Reading {
    let mut reading = Reading::default();
    for event in events {
        reading.event(StreamKind::Converse, event.to_string().as_bytes());
    }
    reading
}

fn with_headers(mut reading: Reading, headers: &[(&str, &str)]) -> Reading {
    reading.headers(|wanted| {
        headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
    });
    reading
}

const INPUT: &str = "x-amzn-bedrock-input-token-count";
const OUTPUT: &str = "x-amzn-bedrock-output-token-count";
const CACHE_READ: &str = "x-amzn-bedrock-cache-read-input-token-count";
const CACHE_WRITE: &str = "x-amzn-bedrock-cache-write-input-token-count";

fn message_start(usage: Value) -> Value {
    json!({ "type": "message_start", "message": {
        "id": "msg_bdrk_1", "type": "message", "role": "assistant", "model": "claude",
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    } })
}

fn message_delta(usage: Value) -> Value {
    json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": usage })
}

fn message_stop() -> Value {
    json!({ "type": "message_stop" })
}

fn stop_with(metrics: Value) -> Value {
    json!({ "type": "message_stop", "amazon-bedrock-invocationMetrics": metrics })
}

fn text_delta(text: &str) -> Value {
    json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": text } })
}

// Whole bodies, a family at a time

#[test]
fn the_body_of_every_family_that_reports_usage_is_read() {
    let claude = json!({
        "type": "message", "content": [{ "type": "text", "text": "Hello" }], "stop_reason": "end_turn",
        "usage": { "input_tokens": 12, "output_tokens": 36, "service_tier": "standard",
            "server_tool_use": { "web_search_requests": 1 } },
    });
    let nova = json!({
        "output": { "message": { "role": "assistant", "content": [{ "text": "Hello" }] } },
        "stopReason": "end_turn",
        "usage": { "inputTokens": 12, "outputTokens": 36, "totalTokens": 48,
            "cacheReadInputTokenCount": 5, "cacheWriteInputTokenCount": 7 },
    });
    let titan = json!({
        "inputTextTokenCount": 12,
        "results": [
            { "tokenCount": 30, "outputText": "Hello", "completionReason": "FINISH" },
            { "tokenCount": 6, "outputText": "you", "completionReason": "FINISH" },
        ],
    });
    let embedding = json!({ "embedding": [0.25, -0.5], "inputTextTokenCount": 12 });
    let llama = json!({
        "generation": "Hello", "prompt_token_count": 12, "generation_token_count": 36, "stop_reason": "stop",
    });
    let chat = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "chat",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hello" }, "finish_reason": "length" }],
        "usage": { "prompt_tokens": 12, "completion_tokens": 36, "total_tokens": 48 },
    });
    let jurassic = json!({
        "id": 1234, "prompt": { "text": "Hi", "tokens": [{}, {}, {}] },
        "completions": [
            { "data": { "text": "Hello", "tokens": [{}, {}, {}, {}] }, "finishReason": { "reason": "endoftext" } },
            { "data": { "text": "you", "tokens": [[1], null] }, "finishReason": { "reason": "length" } },
        ],
    });
    let converse = json!({
        "output": { "message": { "role": "assistant", "content": [{ "text": "Hello" }] } },
        "stopReason": "max_tokens", "metrics": { "latencyMs": 400 },
        "usage": { "inputTokens": 4, "outputTokens": 832, "totalTokens": 2326,
            "cacheReadInputTokens": 1490, "cacheWriteInputTokens": 0 },
    });
    for (family, body, tokens, reason) in [
        ("Claude", claude, plain(12, 36), Some("end_turn")),
        ("Nova", nova, counts(12, 36, 7, 0, 5), Some("end_turn")),
        ("Titan", titan, plain(12, 36), Some("FINISH")),
        ("Titan Embeddings", embedding, plain(12, None), None),
        ("Llama", llama, plain(12, 36), Some("stop")),
        ("OpenAI-like", chat, plain(12, 36), Some("length")),
        ("Jurassic", jurassic, plain(3, 6), Some("endoftext")),
        ("Converse", converse, counts(4, 832, 0, 0, 1490), Some("max_tokens")),
    ] {
        let reading = whole(&body);

        assert_eq!(reading.tokens, tokens, "{family}");
        assert_eq!(reading.stop_reason.as_deref(), reason, "{family}");
        assert_eq!((reading.complete, reading.nonsense), (true, 0), "{family}");
    }
}

#[test]
fn families_whose_body_says_nothing_are_read_from_the_headers() {
    let mistral = json!({ "outputs": [{ "text": "Hello", "stop_reason": "stop" }] });
    let deepseek = json!({ "choices": [{ "text": "Hello", "stop_reason": "length" }] });
    let cohere = json!({
        "id": "1", "text": "Hello", "finish_reason": "COMPLETE",
        "meta": { "billed_units": { "input_tokens": 1, "output_tokens": 2 } },
    });
    for (family, body, reason) in [
        ("Mistral", mistral, "stop"),
        ("DeepSeek R1", deepseek, "length"),
        ("Cohere", cohere, "COMPLETE"),
    ] {
        let from_body = whole(&body);
        let reading = with_headers(from_body.clone(), &[(INPUT, "12"), (OUTPUT, "36")]);

        assert_eq!((from_body.tokens, from_body.complete), (plain(None, None), false), "{family}");
        assert_eq!((reading.tokens, reading.complete), (plain(12, 36), true), "{family}");
        assert_eq!(reading.stop_reason.as_deref(), Some(reason), "{family}");
    }
    let embedding =
        json!({ "id": "1", "embeddings": [[0.5]], "response_type": "embeddings_floats" });

    let reading = with_headers(whole(&embedding), &[(INPUT, "12")]);

    assert_eq!((reading.tokens, reading.complete), (plain(12, None), true));
}

#[test]
fn the_headers_of_a_cached_prompt_are_read_too() {
    let headers = [(INPUT, " 12 "), (OUTPUT, "0"), (CACHE_READ, "5"), (CACHE_WRITE, "7")];

    let tokens = with_headers(Reading::default(), &headers).tokens;

    let one_hour = tokens.cache_write_1h;
    assert_eq!(tokens, counts(12, 0, 7, one_hour, 5));
}

#[test]
fn cache_writes_of_the_headers_are_of_the_short_kind() {
    // §4.5: without the breakdown everything counts as 5m; the metrics are read so as well.
    let tokens = with_headers(Reading::default(), &[(CACHE_WRITE, "7")]).tokens;

    assert_eq!(tokens.cache_write_1h, Some(0));
}

#[test]
fn headers_that_are_no_counts_are_absent_and_counted() {
    let above = (LIMIT + 1).to_string();
    for text in ["-1", "1.5", "many", "", "0x10", &above, "99999999999999999999999"] {
        let reading = with_headers(Reading::default(), &[(INPUT, text), (OUTPUT, "36")]);

        assert_eq!((reading.tokens, reading.nonsense), (plain(None, 36), 1), "{text:?}");
    }
}

#[test]
fn no_headers_leave_a_reading_as_it_was() {
    assert_eq!(with_headers(Reading::default(), &[]), Reading::default());
}

#[test]
fn a_count_tokens_answer_is_complete_and_has_no_tokens() {
    let mut reading = Reading::default();

    reading.count_tokens();

    assert!(reading.complete && reading.tokens.is_empty());
}

// Which source wins

#[test]
fn the_body_is_preferred_to_the_metrics_and_the_metrics_to_the_headers() {
    let body = json!({
        "usage": { "input_tokens": 1, "output_tokens": 2 },
        "amazon-bedrock-invocationMetrics": {
            "inputTokenCount": 10, "outputTokenCount": 20, "cacheReadInputTokenCount": 30,
        },
    });
    let headers = [(INPUT, "100"), (OUTPUT, "200"), (CACHE_READ, "300"), (CACHE_WRITE, "400")];

    let reading = with_headers(whole(&body), &headers);

    let TokenCounts { input, output, cache_write, cache_read, .. } = reading.tokens;
    assert_eq!((input, output), (Some(1), Some(2)));
    assert_eq!((cache_read, cache_write), (Some(30), Some(400)));
}

#[test]
fn a_zero_in_the_body_is_not_replaced_by_a_header() {
    let body = json!({ "usage": { "input_tokens": 0, "output_tokens": 0 } });

    let reading = with_headers(whole(&body), &[(INPUT, "100"), (OUTPUT, "200")]);

    assert_eq!(reading.tokens, plain(0, 0));
}

#[test]
fn a_header_stands_in_for_nonsense_in_the_body() {
    let body = json!({ "usage": { "input_tokens": -1, "output_tokens": 2 } });

    let reading = with_headers(whole(&body), &[(INPUT, "100"), (OUTPUT, "200")]);

    assert_eq!((reading.tokens, reading.nonsense), (plain(100, 2), 1));
}

// Streams of families other than Claude

#[test]
fn the_stream_of_every_other_family_is_read() {
    let metrics = json!({
        "inputTokenCount": 12, "outputTokenCount": 36, "invocationLatency": 1180, "firstByteLatency": 412,
    });
    let nova = vec![
        json!({ "messageStart": { "role": "assistant" } }),
        json!({ "contentBlockDelta": { "delta": { "text": "Hello" }, "contentBlockIndex": 0 } }),
        json!({ "contentBlockStop": { "contentBlockIndex": 0 } }),
        json!({ "messageStop": { "stopReason": "end_turn" } }),
        json!({ "metadata": { "usage": { "inputTokens": 12, "outputTokens": 36, "totalTokens": 48,
            "cacheReadInputTokenCount": 5, "cacheWriteInputTokenCount": 7 }, "metrics": {} } }),
    ];
    let titan = vec![
        json!({ "outputText": "Hello", "index": 0, "totalOutputTextTokenCount": null,
            "completionReason": null, "inputTextTokenCount": 12 }),
        json!({ "outputText": "", "index": 0, "totalOutputTextTokenCount": 36,
            "completionReason": "LENGTH", "inputTextTokenCount": null,
            "amazon-bedrock-invocationMetrics": metrics }),
    ];
    let llama = vec![
        json!({ "generation": "Hel", "prompt_token_count": 12, "generation_token_count": 1, "stop_reason": null }),
        json!({ "generation": "lo", "prompt_token_count": null, "generation_token_count": 36, "stop_reason": "stop",
            "amazon-bedrock-invocationMetrics": metrics }),
    ];
    let mistral = vec![
        json!({ "outputs": [{ "text": "Hello", "stop_reason": null }] }),
        json!({ "outputs": [{ "text": "", "stop_reason": "stop" }], "amazon-bedrock-invocationMetrics": metrics }),
    ];
    let chat = vec![
        json!({ "object": "chat.completion.chunk",
            "choices": [{ "index": 0, "delta": { "content": "Hello" }, "finish_reason": null }] }),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }],
            "usage": { "prompt_tokens": 12, "completion_tokens": 36, "total_tokens": 48 },
            "amazon-bedrock-invocationMetrics": metrics }),
    ];
    let deepseek = vec![
        json!({ "choices": [{ "text": "Hello", "stop_reason": null }],
            "prompt_token_count": 12, "generation_token_count": 1 }),
        json!({ "choices": [{ "text": "", "stop_reason": "length" }],
            "prompt_token_count": 12, "generation_token_count": 36,
            "amazon-bedrock-invocationMetrics": metrics }),
    ];
    let cohere = vec![
        json!({ "is_finished": false, "event_type": "text-generation", "text": "Hello" }),
        json!({ "is_finished": true, "event_type": "stream-end", "finish_reason": "COMPLETE",
            "amazon-bedrock-invocationMetrics": metrics }),
    ];
    let unknown = vec![
        json!({ "something": { "new": "Hello" } }),
        json!({ "amazon-bedrock-invocationMetrics": metrics }),
    ];
    for (family, events, tokens, reason) in [
        ("Nova", nova, counts(12, 36, 7, 0, 5), Some("end_turn")),
        ("Titan", titan, plain(12, 36), Some("LENGTH")),
        ("Llama", llama, plain(12, 36), Some("stop")),
        ("Mistral", mistral, plain(12, 36), Some("stop")),
        ("OpenAI-like", chat, plain(12, 36), Some("tool_calls")),
        ("DeepSeek R1", deepseek, plain(12, 36), Some("length")),
        ("Cohere", cohere, plain(12, 36), Some("COMPLETE")),
        ("an unknown one", unknown, plain(12, 36), None),
    ] {
        let (last, before) = events.split_last().unwrap();
        let mut reading = streamed(before);
        assert!(!reading.complete && !reading.ended, "{family}");

        follow(&mut reading, std::slice::from_ref(last));

        assert_eq!(reading.tokens, tokens, "{family}");
        assert_eq!(reading.stop_reason.as_deref(), reason, "{family}");
        assert_eq!((reading.complete, reading.nonsense), (true, 0), "{family}");
        assert!(!reading.is_unfinished(), "{family}");
    }
}

#[test]
fn metrics_with_cache_counts_are_read_in_full() {
    let metrics = json!({ "inputTokenCount": 4, "outputTokenCount": 36,
        "cacheReadInputTokenCount": 1490, "cacheWriteInputTokenCount": 200 });

    let reading = streamed(&[json!({ "amazon-bedrock-invocationMetrics": metrics })]);

    assert_eq!(reading.tokens, counts(4, 36, 200, 0, 1490));
}

#[test]
fn a_stream_of_any_family_is_cut_until_its_metrics_are_there() {
    let mut reading = streamed(&[json!({ "generation": "Hel", "generation_token_count": 1 })]);
    let before = reading.is_unfinished();

    follow(
        &mut reading,
        &[
            json!({ "amazon-bedrock-invocationMetrics": { "inputTokenCount": 12, "outputTokenCount": 1 } }),
        ],
    );

    assert_eq!((before, reading.is_unfinished()), (true, false));
    assert!(Reading::default().is_unfinished(), "nothing came at all");
}

// Claude's streams (§4.5)

#[test]
fn message_delta_replaces_the_preliminary_output() {
    let mut reading = streamed(&[message_start(json!({ "input_tokens": 12, "output_tokens": 1 }))]);
    assert_eq!((reading.tokens, reading.complete), (plain(12, 1), false));

    follow(&mut reading, &[text_delta("Hello"), message_delta(json!({ "output_tokens": 36 }))]);

    assert_eq!((reading.tokens, reading.complete), (plain(12, 36), true));
    assert_eq!(reading.stop_reason.as_deref(), Some("end_turn"));
}

#[test]
fn counts_of_several_message_deltas_are_totals_and_are_not_added() {
    let reading = streamed(&[
        message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
        message_delta(json!({ "output_tokens": 10 })),
        message_delta(json!({ "output_tokens": 20, "input_tokens": 15 })),
        message_delta(json!({ "output_tokens": 36 })),
        message_stop(),
    ]);

    assert_eq!(reading.tokens, plain(15, 36));
}

#[test]
fn a_count_that_a_later_event_leaves_out_or_has_as_null_is_kept() {
    let full = json!({ "input_tokens": 12, "output_tokens": 36, "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 7,
        "cache_creation": { "ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4 } });
    for later in [
        json!({}),
        json!({ "output_tokens": null, "input_tokens": null, "cache_read_input_tokens": null,
            "cache_creation_input_tokens": null, "cache_creation": null }),
        json!(null),
    ] {
        let reading = streamed(&[message_start(full.clone()), message_delta(later.clone())]);

        assert_eq!((reading.tokens, reading.nonsense), (counts(12, 36, 7, 4, 5), 0), "{later}");
    }
}

#[test]
fn an_explicit_zero_erases_no_cache_count_of_message_start() {
    let reading = streamed(&[
        message_start(
            json!({ "input_tokens": 12, "output_tokens": 1, "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 7,
            "cache_creation": { "ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4 } }),
        ),
        message_delta(json!({ "input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_creation": { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 } })),
    ]);

    assert_eq!(reading.tokens, counts(0, 0, 7, 4, 5));
}

#[test]
fn a_later_positive_cache_count_replaces_an_earlier_one() {
    let reading = streamed(&[
        message_start(
            json!({ "input_tokens": 12, "output_tokens": 1, "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 7 }),
        ),
        message_delta(json!({ "output_tokens": 36, "cache_read_input_tokens": 6,
            "cache_creation_input_tokens": 9, "cache_creation": {
                "ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 8 } })),
    ]);

    assert_eq!(reading.tokens, counts(12, 36, 9, 8, 6));
}

#[test]
fn a_zero_that_was_always_zero_stays_zero() {
    let usage = json!({ "input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0 });

    let reading = streamed(&[message_start(usage.clone()), message_delta(usage)]);

    assert_eq!(reading.tokens, counts(0, 0, 0, 0, 0));
}

#[test]
fn cache_writes_are_split_by_their_breakdown() {
    for (usage, written) in [
        (json!({ "cache_creation_input_tokens": 7 }), (Some(7), Some(0))),
        (json!({ "cache_creation_input_tokens": 7, "cache_creation": null }), (Some(7), Some(0))),
        (
            json!({ "cache_creation_input_tokens": 7, "cache_creation": {
            "ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4 } }),
            (Some(7), Some(4)),
        ),
        (
            json!({ "cache_creation": {
            "ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4 } }),
            (Some(7), Some(4)),
        ),
        (json!({ "cache_creation": { "ephemeral_1h_input_tokens": 4 } }), (Some(4), Some(4))),
        (
            json!({ "cache_creation_input_tokens": 0, "cache_creation": {
            "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 } }),
            (Some(0), Some(0)),
        ),
        (json!({}), (None, None)),
    ] {
        let tokens = whole(&json!({ "usage": usage })).tokens;

        assert_eq!((tokens.cache_write, tokens.cache_write_1h), written, "{usage}");
    }
}

#[test]
fn a_breakdown_without_an_hours_part_is_all_of_the_short_kind() {
    for usage in [
        json!({ "cache_creation_input_tokens": 7, "cache_creation": { "ephemeral_5m_input_tokens": 7 } }),
        json!({ "cache_creation_input_tokens": 7, "cache_creation": {} }),
        json!({ "cache_creation": { "ephemeral_5m_input_tokens": 7 } }),
    ] {
        let tokens = whole(&json!({ "usage": usage })).tokens;

        assert_eq!((tokens.cache_write, tokens.cache_write_1h), (Some(7), Some(0)), "{usage}");
    }
}

#[test]
fn the_metrics_are_read_when_no_usage_was_seen() {
    let metrics =
        json!({ "inputTokenCount": 12, "outputTokenCount": 36, "invocationLatency": 1180 });
    let start = json!({ "type": "message_start", "message": { "content": [] } });
    let delta = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" } });

    let reading = streamed(&[start, delta, stop_with(metrics)]);

    assert_eq!((reading.tokens, reading.complete, reading.ended), (plain(12, 36), true, true));
}

#[test]
fn a_chunk_of_nothing_but_metrics_is_read() {
    let metrics = json!({ "inputTokenCount": 12, "outputTokenCount": 36 });

    let mut reading =
        streamed(&[json!({ "type": "message_start", "message": {} }), message_stop()]);
    let before = (reading.complete, reading.ended);
    follow(&mut reading, &[json!({ "amazon-bedrock-invocationMetrics": metrics })]);

    assert_eq!(before, (false, false));
    assert_eq!((reading.tokens, reading.complete, reading.ended), (plain(12, 36), true, true));
}

#[test]
fn usage_is_preferred_to_metrics_that_disagree() {
    let reading = streamed(&[
        message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
        message_delta(json!({ "output_tokens": 36 })),
        stop_with(json!({ "inputTokenCount": 99, "outputTokenCount": 98 })),
    ]);

    assert_eq!(reading.tokens, plain(12, 36));
}

#[test]
fn the_preliminary_output_gives_way_to_the_metrics_when_no_delta_has_usage() {
    // §4.5: the output of `message_start` is a small preliminary number.
    let reading = streamed(&[
        message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" } }),
        stop_with(json!({ "inputTokenCount": 12, "outputTokenCount": 36 })),
    ]);

    assert_eq!((reading.tokens, reading.complete), (plain(12, 36), true));
}

#[test]
fn a_final_usage_without_an_output_leaves_the_figures_preliminary() {
    for usage in [json!({}), json!({ "input_tokens": 12 }), json!({ "output_tokens": -5 })] {
        let reading = streamed(&[
            message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
            message_delta(usage.clone()),
            message_stop(),
        ]);

        assert!(!reading.complete, "{usage}");
    }
}

#[test]
fn cache_counts_in_message_start_alone_are_kept() {
    let reading = streamed(&[
        message_start(
            json!({ "input_tokens": 12, "output_tokens": 1, "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 200 }),
        ),
        message_delta(json!({ "output_tokens": 36 })),
        stop_with(json!({ "inputTokenCount": 12, "outputTokenCount": 36 })),
    ]);

    assert_eq!(reading.tokens, counts(12, 36, 200, 0, 1000));
}

#[test]
fn cache_counts_in_the_metrics_alone_are_taken() {
    let reading = streamed(&[
        message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
        message_delta(json!({ "output_tokens": 36 })),
        stop_with(json!({ "inputTokenCount": 12, "outputTokenCount": 36,
            "cacheReadInputTokenCount": 1000, "cacheWriteInputTokenCount": 200 })),
    ]);

    assert_eq!(reading.tokens, counts(12, 36, 200, 0, 1000));
}

#[test]
fn usage_in_message_stop_itself_is_taken() {
    let reading = streamed(&[
        message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
        json!({ "type": "message_stop", "usage": { "output_tokens": 36, "cache_read_input_tokens": 5 } }),
    ]);

    assert_eq!(reading.tokens, counts(12, 36, None, None, 5));
    assert!(reading.complete && reading.ended);
}

#[test]
fn each_stage_of_a_claude_stream_tells_whether_more_is_to_come() {
    let stages = [
        (json!({ "type": "ping" }), (false, false, true)),
        (message_start(json!({ "input_tokens": 12, "output_tokens": 1 })), (false, false, true)),
        (json!({ "type": "ping" }), (false, false, true)),
        (
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            (false, false, true),
        ),
        (text_delta("Hello"), (false, false, true)),
        (json!({ "type": "content_block_stop", "index": 0 }), (false, false, true)),
        (message_delta(json!({ "output_tokens": 36 })), (true, false, true)),
        (message_stop(), (true, true, false)),
    ];
    let mut reading = Reading::default();
    for (event, expected) in stages {
        follow(&mut reading, std::slice::from_ref(&event));

        let stage = (reading.complete, reading.ended, reading.is_unfinished());
        assert_eq!(stage, expected, "after {event}");
    }
}

#[test]
fn a_claude_stream_without_any_usage_is_finished_by_message_stop() {
    let reading = streamed(&[json!({ "type": "message_start", "message": {} }), message_stop()]);

    assert_eq!((reading.complete, reading.ended, reading.is_unfinished()), (false, false, false));
}

// Text deltas

#[test]
fn the_start_of_a_text_delta_is_the_prefix_that_is_passed_over() {
    let delta = r#"{"type":"content_block_delta","index":0,"usage":{"output_tokens":5}}"#;
    let other = r#"{"type":"content_block_start","index":0,"usage":{"output_tokens":5}}"#;
    let (mut skipped, mut read) = (Reading::default(), Reading::default());

    skipped.event(StreamKind::Invoke, &chunk(delta));
    read.event(StreamKind::Invoke, &chunk(other));

    assert!(STANDARD.encode(delta).starts_with(DELTA));
    assert_eq!(skipped, Reading::default());
    assert_eq!(read.tokens, plain(None, 5));
}

#[test]
fn text_deltas_in_any_order_of_keys_and_spacing_change_nothing() {
    let start = streamed(&[message_start(json!({ "input_tokens": 12, "output_tokens": 1 }))]);
    for delta in [
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
        r#"{"index":0,"delta":{"text":"Hello","type":"text_delta"},"type":"content_block_delta"}"#,
        r#"{ "type": "content_block_delta", "delta": { "type": "thinking_delta", "thinking": "Hm" } }"#,
        r#"{"delta":{"type":"input_json_delta","partial_json":"{\"usage\":{\"output_tokens\":9"},"type":"content_block_delta"}"#,
    ] {
        let mut reading = start.clone();

        reading.event(StreamKind::Invoke, &chunk(delta));

        assert_eq!(reading, start, "{delta}");
    }
}

#[test]
fn a_chunk_is_read_whatever_surrounds_its_bytes() {
    let event = STANDARD
        .encode(message_delta(json!({ "output_tokens": 36, "note": "???>>>" })).to_string());
    let escaped = event.replace('/', "\\/");
    let unicode = event.replacen('e', "\\u0065", 1);
    let long = "x".repeat(5000);
    for payload in [
        format!(r#"{{"bytes":"{event}"}}"#),
        format!(r#"{{"p":"abc","bytes":"{event}"}}"#),
        format!(r#" {{ "bytes" : "{event}" , "p" : "{long}" , "more" : [1,{{}}] }} "#),
        format!(r#"{{"bytes":"{escaped}","p":""}}"#),
        format!(r#"{{"bytes":"{unicode}"}}"#),
    ] {
        let mut reading = Reading::default();

        reading.event(StreamKind::Invoke, payload.as_bytes());

        assert_eq!(reading.tokens.output, Some(36), "{payload}");
    }
    assert_ne!(escaped, event, "the case needs a slash");
}

// Converse

#[test]
fn each_stage_of_a_converse_stream_tells_whether_more_is_to_come() {
    let stages = [
        (json!({ "role": "assistant", "p": "abc" }), (false, false, true)),
        (
            json!({ "contentBlockIndex": 0, "delta": { "text": "Hello" }, "p": "abcdef" }),
            (false, false, true),
        ),
        (json!({ "contentBlockIndex": 0 }), (false, false, true)),
        (json!({ "stopReason": "guardrail_intervened", "p": "a" }), (false, false, true)),
        (
            json!({ "usage": { "inputTokens": 4, "outputTokens": 832, "totalTokens": 836 },
            "metrics": { "latencyMs": 400 }, "p": "abcd" }),
            (true, true, false),
        ),
    ];
    let mut reading = Reading::default();
    for (event, expected) in stages {
        reading.event(StreamKind::Converse, event.to_string().as_bytes());

        let stage = (reading.complete, reading.ended, reading.is_unfinished());
        assert_eq!(stage, expected, "after {event}");
    }
    assert_eq!(reading.tokens, plain(4, 832));
    assert_eq!(reading.stop_reason.as_deref(), Some("guardrail_intervened"));
}

#[test]
fn the_second_names_of_cache_counts_are_not_added() {
    let usage = json!({ "inputTokens": 4, "outputTokens": 832, "totalTokens": 2526,
        "cacheReadInputTokens": 1490, "cacheReadInputTokenCount": 1490,
        "cacheWriteInputTokens": 200, "cacheWriteInputTokenCount": 200 });

    for reading in [whole(&json!({ "usage": usage })), conversed(&[json!({ "usage": usage })])] {
        assert_eq!(reading.tokens, counts(4, 832, 200, 0, 1490));
    }
}

#[test]
fn the_hours_part_of_converse_cache_writes_is_in_the_details() {
    for (details, one_hour) in [
        (json!([{ "ttl": "5m", "inputTokens": 150 }, { "ttl": "1h", "inputTokens": 50 }]), 50),
        (json!([{ "ttl": "1h", "inputTokens": 200 }]), 200),
        (json!([{ "ttl": "5m", "inputTokens": 200 }]), 0),
        (json!([]), 0),
        (json!(null), 0),
        (json!("1h"), 0),
        (json!([null, 7, "1h", { "ttl": 1 }]), 0),
    ] {
        let usage = json!({ "inputTokens": 4, "outputTokens": 832, "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 200, "cacheDetails": details });

        let tokens = whole(&json!({ "usage": usage })).tokens;

        assert_eq!(tokens, counts(4, 832, 200, one_hour, 0), "{details}");
    }
}

#[test]
fn a_converse_stream_whose_final_count_is_nonsense_is_over_all_the_same() {
    let reading = conversed(&[
        json!({ "role": "assistant" }),
        json!({ "stopReason": "end_turn" }),
        json!({ "usage": { "inputTokens": 4, "outputTokens": -1, "totalTokens": 3 } }),
    ]);

    assert_eq!((reading.tokens, reading.nonsense, reading.complete), (plain(4, None), 1, false));
    assert!(!reading.is_unfinished());
}

// Stop reasons

#[test]
fn a_stop_reason_that_is_no_text_is_absent_and_hides_no_usage() {
    for reason in [json!(null), json!(7), json!(["end_turn"]), json!({ "a": 1 }), json!(true)] {
        let reading = whole(&json!({
            "stop_reason": reason, "usage": { "input_tokens": 12, "output_tokens": 36 },
        }));

        assert_eq!((reading.stop_reason, reading.tokens), (None, plain(12, 36)), "{reason}");
    }
}

#[test]
fn the_stop_reason_of_a_stream_survives_later_events_without_one() {
    let reading = streamed(&[
        message_start(json!({ "input_tokens": 12, "output_tokens": 1 })),
        json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 2 } }),
        json!({ "type": "message_delta", "delta": { "stop_reason": null }, "usage": { "output_tokens": 36 } }),
        message_stop(),
    ]);

    assert_eq!(reading.stop_reason.as_deref(), Some("tool_use"));
}

#[test]
fn a_stop_reason_holds_no_control_characters() {
    let reading = whole(&json!({ "stop_reason": "end\u{0}_\nturn\u{7f}" }));

    assert_eq!(reading.stop_reason.as_deref(), Some("end_turn"));
}

#[test]
fn a_long_stop_reason_is_cut() {
    let reading = whole(&json!({ "stop_reason": "x".repeat(1000) }));

    assert_eq!(reading.stop_reason, Some("x".repeat(STOP_REASON)));
}

#[test]
fn a_long_stop_reason_is_cut_to_bytes_not_characters() {
    let reading = whole(&json!({ "stop_reason": "\u{1f6d1}".repeat(1000) }));

    let length = reading.stop_reason.unwrap_or_default().len();
    assert!(length <= STOP_REASON, "{length} bytes");
}

// What is not usage

#[test]
fn usage_inside_content_does_not_count() {
    let forged = json!({ "usage": { "input_tokens": 1, "output_tokens": 1 }, "inputTextTokenCount": 1,
        "amazon-bedrock-invocationMetrics": { "inputTokenCount": 1, "outputTokenCount": 1 },
        "stop_reason": "forged" });
    let body = json!({
        "content": [{ "type": "tool_use", "id": "1", "name": "f", "input": forged }],
        "output": { "message": { "content": [{ "toolUse": { "input": forged } }] } },
        "choices": [{ "message": { "content": forged.to_string(), "usage": forged } }],
        "generation": forged.to_string(),
    });
    let start = json!({ "type": "content_block_start", "index": 0,
        "content_block": { "type": "tool_use", "id": "1", "name": "f", "input": forged } });
    let delta = json!({ "type": "content_block_delta", "index": 0,
        "delta": { "type": "text_delta", "text": forged.to_string(), "usage": forged } });
    let nova = json!({ "contentBlockDelta": { "delta": { "text": forged.to_string() }, "usage": forged } });

    let (from_body, from_stream) = (whole(&body), streamed(&[start.clone(), delta.clone(), nova]));

    assert_eq!((from_body.tokens, from_body.stop_reason), (plain(None, None), None));
    assert_eq!(from_stream, Reading::default());
    assert_eq!(conversed(&[start, delta]).tokens, plain(None, None));
}

// Nonsense (REL-9)

/// Values that are no counts.
fn nonsense() -> Vec<Value> {
    vec![
        json!(-1),
        json!(i64::MIN),
        json!(LIMIT + 1),
        json!(LIMIT * 2),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1.5),
        json!(12.0),
        json!(1e30),
        json!("12"),
        json!("twelve"),
        json!(true),
        json!([12]),
        json!([]),
        json!({ "value": 12 }),
        json!({}),
    ]
}

/// A place for a count in the body of each family, and the counts if it is 7.
fn places(value: &Value) -> Vec<(Value, TokenCounts)> {
    let usage = |name: &str| json!({ "usage": { name: value } });
    let metrics = |name: &str| json!({ "amazon-bedrock-invocationMetrics": { name: value } });
    vec![
        (usage("input_tokens"), plain(7, None)),
        (usage("output_tokens"), plain(None, 7)),
        (usage("cache_creation_input_tokens"), counts(None, None, 7, 0, None)),
        (usage("cache_read_input_tokens"), counts(None, None, None, None, 7)),
        (
            json!({ "usage": { "cache_creation": { "ephemeral_1h_input_tokens": value } } }),
            counts(None, None, 7, 7, None),
        ),
        (usage("inputTokens"), plain(7, None)),
        (usage("outputTokens"), plain(None, 7)),
        (usage("cacheReadInputTokens"), counts(None, None, None, None, 7)),
        (usage("cacheReadInputTokenCount"), counts(None, None, None, None, 7)),
        (usage("cacheWriteInputTokens"), counts(None, None, 7, 0, None)),
        (usage("cacheWriteInputTokenCount"), counts(None, None, 7, 0, None)),
        (usage("prompt_tokens"), plain(7, None)),
        (usage("completion_tokens"), plain(None, 7)),
        (json!({ "message": { "usage": { "input_tokens": value } } }), plain(7, None)),
        (json!({ "metadata": { "usage": { "inputTokens": value } } }), plain(7, None)),
        (metrics("inputTokenCount"), plain(7, None)),
        (metrics("outputTokenCount"), plain(None, 7)),
        (metrics("cacheReadInputTokenCount"), counts(None, None, None, None, 7)),
        (metrics("cacheWriteInputTokenCount"), counts(None, None, 7, 0, None)),
        (json!({ "inputTextTokenCount": value }), plain(7, None)),
        (json!({ "totalOutputTextTokenCount": value }), plain(None, 7)),
        (json!({ "prompt_token_count": value }), plain(7, None)),
        (json!({ "generation_token_count": value }), plain(None, 7)),
    ]
}

#[test]
fn a_value_that_is_no_count_is_absent_and_counted_wherever_it_stands() {
    for value in nonsense() {
        for (body, _) in places(&value) {
            let (from_body, from_stream) = (whole(&body), streamed(std::slice::from_ref(&body)));

            assert_eq!((from_body.tokens, from_body.nonsense), (plain(None, None), 1), "{body}");
            assert!(!from_body.complete, "{body}");
            assert_eq!(
                (from_stream.tokens, from_stream.nonsense),
                (plain(None, None), 1),
                "{body}"
            );
        }
    }
}

#[test]
fn null_is_absent_and_no_nonsense() {
    for (body, _) in places(&Value::Null) {
        let reading = whole(&body);

        assert_eq!((reading.tokens, reading.nonsense), (plain(None, None), 0), "{body}");
    }
}

#[test]
fn whole_numbers_up_to_the_limit_are_counts_wherever_they_stand() {
    for (body, expected) in places(&json!(7)) {
        assert_eq!(whole(&body).tokens, expected, "{body}");
    }
    for value in [0, 1, i64::from(u32::MAX), LIMIT] {
        for (body, _) in places(&json!(value)) {
            let TokenCounts { input, output, cache_write, cache_read, .. } = whole(&body).tokens;

            let found = input.or(output).or(cache_write).or(cache_read);
            assert_eq!(found, Some(value), "{body}");
        }
    }
}

#[test]
fn a_value_that_is_no_count_spoils_none_beside_it() {
    for value in nonsense() {
        let usage =
            json!({ "input_tokens": value, "output_tokens": 36, "cache_read_input_tokens": value });

        let reading = whole(&json!({ "usage": usage, "stop_reason": "end_turn" }));

        assert_eq!((reading.tokens, reading.nonsense), (plain(None, 36), 2), "{value}");
        assert_eq!(reading.stop_reason.as_deref(), Some("end_turn"));
    }
}

#[test]
fn nonsense_in_a_later_event_erases_no_count() {
    let reading = streamed(&[
        message_start(
            json!({ "input_tokens": 12, "output_tokens": 1, "cache_read_input_tokens": 5 }),
        ),
        message_delta(
            json!({ "input_tokens": -5, "output_tokens": 36, "cache_read_input_tokens": "x" }),
        ),
        message_stop(),
    ]);

    assert_eq!((reading.tokens, reading.nonsense), (counts(12, 36, None, None, 5), 2));
}

#[test]
fn a_number_beyond_all_floats_spoils_no_count_beside_it() {
    let body = r#"{"usage":{"input_tokens":1e999,"output_tokens":36},"stop_reason":"end_turn"}"#;

    let reading = whole_text(body);

    assert_eq!((reading.tokens, reading.nonsense), (plain(None, 36), 1));
}

#[test]
fn nonsense_in_the_results_of_titan_is_counted() {
    for value in [json!(-1), json!(1.5), json!("12")] {
        let body = json!({ "inputTextTokenCount": 12, "results": [{ "tokenCount": value }] });

        let reading = whole(&body);

        assert_eq!((reading.tokens, reading.nonsense), (plain(12, None), 1), "{body}");
    }
}

#[test]
fn nonsense_in_the_cache_details_of_converse_is_counted() {
    let usage = json!({ "inputTokens": 4, "outputTokens": 832, "cacheWriteInputTokens": 200,
        "cacheDetails": [{ "ttl": "1h", "inputTokens": -1 }] });

    let reading = whole(&json!({ "usage": usage }));

    assert_eq!((reading.tokens.cache_write, reading.nonsense), (Some(200), 1));
}

#[test]
fn a_sum_beyond_the_limit_is_no_count() {
    let results = json!({ "results": [{ "tokenCount": LIMIT }, { "tokenCount": LIMIT }] });
    let parts = json!({ "usage": { "cache_creation": {
        "ephemeral_5m_input_tokens": LIMIT, "ephemeral_1h_input_tokens": LIMIT } } });

    assert_eq!(whole(&results).tokens.output, None);
    assert_eq!(whole(&parts).tokens.cache_write, None);
}

#[test]
fn a_result_of_titan_without_a_count_leaves_the_sum_unknown() {
    let body = json!({ "inputTextTokenCount": 12, "results": [{ "tokenCount": 30 }, { "outputText": "x" }] });

    assert_eq!(whole(&body).tokens, plain(12, None));
}

#[test]
fn usage_that_is_no_object_is_absent_and_hides_nothing_beside_it() {
    for value in [
        json!(null),
        json!("usage"),
        json!([{ "input_tokens": 1 }]),
        json!(12),
        json!(false),
        json!(1.5),
    ] {
        for name in [
            "usage",
            "message",
            "metadata",
            "amazon-bedrock-invocationMetrics",
            "results",
            "prompt",
            "completions",
            "delta",
            "messageStop",
            "outputs",
            "choices",
            "type",
        ] {
            let body = json!({ name: value, "prompt_token_count": 12, "stop_reason": "stop" });

            let reading = whole(&body);

            assert_eq!((reading.tokens, reading.nonsense), (plain(12, None), 0), "{body}");
            assert_eq!(reading.stop_reason.as_deref(), Some("stop"), "{body}");
        }
    }
}

#[test]
fn lists_with_foreign_items_are_read_for_the_others() {
    let body = json!({
        "prompt": { "tokens": "abc" }, "completions": [null, 7, "x", { "data": [], "finishReason": "stop" }],
        "choices": [null, [], { "finish_reason": 7 }, { "finish_reason": "stop" }], "outputs": [[[]]],
    });

    let reading = whole(&body);

    assert_eq!((reading.tokens, reading.stop_reason.as_deref()), (plain(None, None), Some("stop")));
}

#[test]
fn a_body_that_is_no_json_object_says_nothing() {
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "null",
        "12",
        "\"text\"",
        "[]",
        "{",
        "{\"usage\":",
        "<html></html>",
        &deep,
        "\u{feff}{}",
    ] {
        let reading = whole_text(body);

        assert_eq!(reading.tokens, plain(None, None));
        assert!(!reading.complete);
    }
    assert_eq!(whole_text([0xff, 0xfe, 0x00]).tokens, plain(None, None));
}

#[test]
fn keys_given_twice_never_add_up() {
    for body in [
        r#"{"usage":{"input_tokens":1},"usage":{"input_tokens":2}}"#,
        r#"{"usage":{"input_tokens":1,"input_tokens":2}}"#,
        r#"{"inputTextTokenCount":1,"inputTextTokenCount":2}"#,
    ] {
        let input = whole_text(body).tokens.input;

        assert!(matches!(input, None | Some(1 | 2)), "{body}: {input:?}");
    }
}

#[test]
fn deep_nesting_hides_no_usage() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let objects = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
    for inner in [deep, objects] {
        let body = format!(
            r#"{{"content":[{{"input":{inner}}}],"usage":{{"input_tokens":12,"x":{inner},"output_tokens":36}}}}"#
        );
        let as_count = format!(r#"{{"usage":{{"input_tokens":{inner},"output_tokens":36}}}}"#);

        assert_eq!(whole_text(body).tokens, plain(12, 36));
        assert_eq!(whole_text(as_count).tokens, plain(None, 36));
    }
}

#[test]
fn chunks_that_cannot_be_read_change_nothing() {
    let event = STANDARD.encode(message_delta(json!({ "output_tokens": 36 })).to_string());
    let start = streamed(&[message_start(json!({ "input_tokens": 12, "output_tokens": 1 }))]);
    for payload in [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        r#"{"bytes":null}"#.to_owned(),
        r#"{"bytes":12}"#.to_owned(),
        r#"{"bytes":""}"#.to_owned(),
        r#"{"bytes":"%%%%"}"#.to_owned(),
        r#"{"bytes":"\ud800"}"#.to_owned(),
        format!(r#"{{"bytes":"{}"}}"#, event.trim_end_matches('=').get(1..).unwrap()),
        format!(r#"{{"bytes":"{event}"#),
        format!(r#"{{"bytes":"{event}","bytes":"{event}"}}"#),
        format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode([0xff, 0x00, 0x7b])),
        format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode("not json")),
        format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode("[1,2]")),
        message_delta(json!({ "output_tokens": 36 })).to_string(),
    ] {
        let mut reading = start.clone();

        reading.event(StreamKind::Invoke, payload.as_bytes());

        assert_eq!(reading, start, "{payload}");
    }
}

// Properties

/// JSON of any form, of the keys that are looked at and others.
fn anything() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "type",
        "usage",
        "message",
        "metadata",
        "amazon-bedrock-invocationMetrics",
        "inputTextTokenCount",
        "totalOutputTextTokenCount",
        "results",
        "prompt_token_count",
        "generation_token_count",
        "prompt",
        "completions",
        "stop_reason",
        "stopReason",
        "finish_reason",
        "delta",
        "messageStop",
        "outputs",
        "choices",
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_creation",
        "cache_read_input_tokens",
        "ephemeral_1h_input_tokens",
        "ephemeral_5m_input_tokens",
        "inputTokens",
        "outputTokens",
        "cacheDetails",
        "ttl",
        "tokens",
        "data",
        "tokenCount",
        "inputTokenCount",
        "outputTokenCount",
        "finishReason",
        "reason",
        "other",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..100i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["", "message_start", "message_stop", "1h", "12"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|members| {
                members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

fn assert_sane(reading: &Reading) -> Result<(), TestCaseError> {
    let TokenCounts { input, output, cache_write, cache_write_1h, cache_read } = reading.tokens;
    for count in [input, output, cache_write, cache_write_1h, cache_read].into_iter().flatten() {
        // Sums of a few parts have a test of their own.
        prop_assert!((0..=8 * LIMIT).contains(&count), "{reading:?}");
    }
    prop_assert!(!(reading.ended && reading.is_unfinished()));
    Ok(())
}

/// A Claude stream with every kind of report, as the payloads of its chunks.
fn claude_stream() -> Vec<Vec<u8>> {
    [
        message_start(json!({ "input_tokens": 12, "output_tokens": 1, "cache_read_input_tokens": 5 })),
        text_delta("Hello"),
        message_delta(json!({ "output_tokens": 36 })),
        stop_with(json!({ "inputTokenCount": 12, "outputTokenCount": 36, "cacheWriteInputTokenCount": 7 })),
    ]
    .iter()
    .map(|event| chunk(event.to_string()))
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn json_of_any_form_gives_sensible_counts_or_none(values in prop::collection::vec(anything(), 1..4)) {
        let mut readings = vec![streamed(&values), conversed(&values)];
        readings.extend(values.iter().map(whole));

        for reading in &readings {
            assert_sane(reading)?;
        }
    }

    #[test]
    fn bytes_of_any_kind_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut reading = whole_text(&bytes);

        reading.event(StreamKind::Invoke, &bytes);
        reading.event(StreamKind::Converse, &bytes);
        reading.event(StreamKind::Invoke, &chunk(&bytes));
        let text = String::from_utf8_lossy(&bytes);
        let reading = with_headers(reading, &[(INPUT, text.as_ref()), (OUTPUT, text.as_ref())]);

        assert_sane(&reading)?;
    }

    #[test]
    fn a_cut_or_changed_event_gives_sensible_counts_or_none(
        which in 0..4usize,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let stream = claude_stream();
        let at = at.index(stream[which].len());
        let (mut cut, mut changed) = (stream.clone(), stream);
        cut[which].truncate(at);
        changed[which][at] = byte;

        for stream in [cut, changed] {
            let mut reading = Reading::default();
            for payload in stream {
                reading.event(StreamKind::Invoke, &payload);
            }
            assert_sane(&reading)?;
        }
    }

    #[test]
    fn a_whole_body_cut_anywhere_says_nothing_or_all(at in any::<prop::sample::Index>()) {
        let body = json!({ "content": [{ "text": "Hello" }], "stop_reason": "end_turn",
            "usage": { "input_tokens": 12, "output_tokens": 36 } }).to_string();

        let reading = whole_text(&body.as_bytes()[..at.index(body.len())]);

        prop_assert_eq!(reading, Reading::default());
    }

    #[test]
    fn the_last_of_any_number_of_cumulative_outputs_is_the_output(
        outputs in prop::collection::vec(0..LIMIT, 1..8),
    ) {
        let deltas = outputs.iter().map(|output| message_delta(json!({ "output_tokens": output })));
        let start = message_start(json!({ "input_tokens": 12, "output_tokens": 1 }));
        let events: Vec<Value> = std::iter::once(start).chain(deltas).chain([message_stop()]).collect();

        let reading = streamed(&events);

        prop_assert_eq!(reading.tokens, plain(12, *outputs.last().unwrap()));
        prop_assert!(reading.complete && reading.ended);
    }
}
