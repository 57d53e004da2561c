//! Streams of the Messages API: every event arrives as the model sent it, every end is told for what it is.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{PATH, hex, post, told};
use crate::helpers::{PERSON, Reply, Request, TestServer, TestServerBuilder, messages, spawn_app};

fn request(app: &TestServer, key: &str, scenario: &str) -> Request {
    let mut body = messages(&format!("@sim:{scenario}"));
    body["stream"] = json!(true);
    post(app, key, &body)
}

/// The events of a stream: name and data, which must be one line each.
fn events(body: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(body).expect("events are text");
    let blocks = text.split_terminator("\n\n");
    let event = |block: &str| {
        let (name, data) = block.split_once('\n').unwrap_or_else(|| panic!("{block:?}"));
        let name = name.strip_prefix("event: ").unwrap_or_else(|| panic!("{block:?}"));
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("{block:?}"));
        assert!(!data.contains(['\n', '\r']), "{data:?}");
        (name.to_owned(), data.to_owned())
    };
    blocks.map(event).collect()
}

fn names(reply: &Reply) -> Vec<String> {
    events(&reply.body).into_iter().map(|(name, _)| name).collect()
}

fn is_ended(reply: &Reply) -> bool {
    names(reply).iter().any(|name| name == "message_stop")
}

#[actix_web::test]
async fn events_arrive_as_the_model_sent_them_however_upstream_cuts_them_into_pieces() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let odd = [
        r#"{"type":"content_block_start","index":7,"content_block":{"type":"hologram","x":[1.50,-0,1e400]}}"#,
        r#"{ "index":7, "delta":{"type":"odour_delta","é":"🦀 \ud83e\\"} , "type":"content_block_delta"}"#,
        r#"{"type":"something_new","amazon":"amazon-bedrock-invocationMetrics","deep":{"type":"ping"}}"#,
        r#"{"type":"content_block_stop","index":7}"#,
    ];
    for pieces in ["", " coalesce=1", " split=1"] {
        let scenario = format!("echo hex={}{pieces}", hex(&odd.join("\n")));

        let reply = request(&app, &key, &scenario).send().await;

        assert!(reply.complete && reply.status == 200, "{reply:?}");
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(reply.header(name), Some(value));
        }
        let events = events(&reply.body);
        for (name, data) in &events {
            assert!(data.contains(&format!(r#""type":"{name}""#)), "{name} {data}");
            assert!(!data.contains("inputTokenCount"), "{data}");
        }
        let data: Vec<&str> = events.iter().map(|(_, data)| data.as_str()).collect();
        assert!(data.windows(odd.len()).any(|part| part == odd), "{data:?}");
        assert_eq!(data.last(), Some(&r#"{"type":"message_stop"}"#));
    }
}

#[actix_web::test]
async fn every_usage_equals_the_ledger_to_the_token() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for scenario in [
        "plain",
        "stream events=120",
        "multidelta",
        "cacheonlystart",
        "cacheonlystop",
        "metricsonly",
        "metricsonly only=1",
        "thinking",
        "oneframe kb=900",
    ] {
        let reply = request(&app, &key, scenario).send().await;

        assert!(reply.complete && is_ended(&reply), "{scenario}: {:?}", names(&reply));
        let (usage, row) = (app.last_call().usage.unwrap(), app.row(&key).await);
        for (member, count) in [
            ("input_tokens", usage.input),
            ("output_tokens", usage.output),
            ("cache_read_tokens", usage.cache_read),
            ("cache_write_tokens", usage.cache_write()),
        ] {
            assert_eq!(row[member].as_u64().unwrap_or_default(), count, "{scenario}: {row}");
        }
        assert_eq!((&row["outcome"], &row["estimated"]), (&json!("success"), &json!(false)));
    }
    for scenario in ["nousage", "nonsense"] {
        let reply = request(&app, &key, scenario).send().await;

        assert!(reply.complete && is_ended(&reply), "{scenario}");
        let row = app.row(&key).await;
        assert_eq!((&row["outcome"], &row["estimated"]), (&json!("success"), &json!(true)));
    }
}

#[actix_web::test]
async fn whatever_goes_wrong_at_whatever_place_no_stream_looks_as_if_it_had_ended_well() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    // message_start, content_block_start, 4 deltas, content_block_stop, message_delta: eight before the end.
    for after in [1, 2, 4, 6, 7, 8] {
        for (fault, kind, outcome) in [
            ("exception", "rate_limit_error", "upstream_error"),
            ("exception type=modelTimeoutException", "timeout_error", "upstream_error"),
            ("exception type=serviceUnavailableException", "overloaded_error", "upstream_error"),
            ("exception type=validationException", "invalid_request_error", "upstream_error"),
            ("exception type=internalServerException", "api_error", "upstream_error"),
            ("exception type=modelStreamErrorException", "api_error", "upstream_error"),
            ("errorframe", "api_error", "upstream_error"),
            ("cut", "api_error", "upstream_cut"),
            ("cut_clean", "api_error", "upstream_cut"),
            ("cut_boundary", "api_error", "upstream_cut"),
            ("badcrc kind=prelude", "api_error", "upstream_cut"),
            ("badcrc", "api_error", "upstream_cut"),
            ("badlen", "api_error", "upstream_cut"),
            ("garbage", "api_error", "upstream_cut"),
            ("badjson", "api_error", "upstream_cut"),
            ("badjson kind=bytes", "api_error", "upstream_cut"),
        ] {
            let (name, rest) = fault.split_once(' ').unwrap_or((fault, ""));
            let scenario = format!("{name} after={after} events=4 {rest}");

            let reply = request(&app, &key, scenario.trim()).send().await;

            assert!(reply.status == 200 && !reply.complete, "{scenario}: {reply:?}");
            assert!(!is_ended(&reply), "{scenario}");
            let events = events(&reply.body);
            assert_eq!(events.len(), after + 1, "{scenario}: what came before is the client's");
            let (name, data) = events.last().unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")), "{scenario}");
            assert_eq!(data["error"]["type"], kind, "{scenario}: {data}");
            let row = app.row(&key).await;
            assert_eq!(row["outcome"], outcome, "{scenario}: {row}");
            assert_eq!(row["input_tokens"], app.last_call().usage.unwrap().input, "{scenario}");
        }
    }
}

#[actix_web::test]
async fn a_silence_is_filled_with_pings_before_the_first_event_and_after() {
    let app = TestServerBuilder::new()
        .set("ANTHROPIC__FIRST_EVENT_HOLD_SECONDS", 0)
        .set("ANTHROPIC__PING_INTERVAL_SECONDS", 1)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    for (scenario, place) in
        [("slow delay_ms=1500", 0), ("late delay_ms=1500", 0), ("pause after=3 delay_ms=1500", 3)]
    {
        let reply = request(&app, &key, scenario).send().await;

        let names = names(&reply);
        assert!(reply.complete && is_ended(&reply), "{scenario}: {names:?}");
        assert_eq!(names.iter().position(|name| name == "ping"), Some(place), "{scenario}");
        assert_eq!(names.iter().filter(|name| *name == "ping").count(), 1, "{scenario}");
        assert_eq!(app.row(&key).await["outcome"], "success", "{scenario}");
    }
    for (scenario, kind) in [
        ("error code=ThrottlingException", "rate_limit_error"),
        ("credentials", "api_error"),
        ("html", "overloaded_error"),
        ("exception after=0", "rate_limit_error"),
    ] {
        let reply = request(&app, &key, scenario).send().await;

        assert!(reply.status == 200 && !reply.complete, "{scenario}: the head had left");
        let (name, data) = events(&reply.body).pop().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!(kind)), "{scenario}");
        assert_eq!(app.row(&key).await["outcome"], "upstream_error", "{scenario}");
    }
}

#[actix_web::test]
async fn the_head_waits_for_the_first_event_and_no_longer_than_it_may() {
    let app = TestServerBuilder::new().set("ANTHROPIC__FIRST_EVENT_HOLD_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    for (scenario, least, most) in [
        ("late delay_ms=400", 350, 950),
        ("late delay_ms=3000", 950, 2500),
        ("slow delay_ms=3000", 950, 2500),
    ] {
        let started = Instant::now();
        let response = request(&app, &key, scenario).open().await;

        let waited = started.elapsed();
        assert_eq!(response.status(), 200);
        let within = Duration::from_millis(least)..Duration::from_millis(most);
        assert!(within.contains(&waited), "{scenario}: {waited:?}");
    }
}

#[actix_web::test]
async fn a_silent_upstream_is_given_up_before_the_first_event_and_after() {
    let app = TestServerBuilder::new()
        .set("AWS__STREAM_IDLE_TIMEOUT_SECONDS", 1)
        .set("AWS__FIRST_BYTE_TIMEOUT_SECONDS", 1)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    for scenario in ["hang", "hang_mid after=0"] {
        let reply = request(&app, &key, scenario).send().await;

        assert_eq!((told(&reply).0, told(&reply).1.as_str()), (504, "timeout_error"), "{scenario}");
        assert_eq!(app.row(&key).await["outcome"], "timeout", "{scenario}");
    }
    let reply = request(&app, &key, "hang_mid after=4").send().await;
    let (name, data) = events(&reply.body).pop().unwrap();
    assert!(!reply.complete && name == "error" && data.contains("timeout_error"), "{data}");
    assert_eq!(app.row(&key).await["outcome"], "timeout");
}

#[actix_web::test]
async fn a_client_that_leaves_at_any_place_ends_the_call_within_a_second() {
    let app = TestServerBuilder::new().set("ANTHROPIC__FIRST_EVENT_HOLD_SECONDS", 0).start().await;
    let key = app.create_key(PERSON).await;
    let ledger = app.simulator.ledger().clone();
    for (scenario, read) in [
        ("hang", 0),
        ("late delay_ms=60000", 0),
        ("stream events=5000 delay_ms=20", 1),
        ("stream events=5000 delay_ms=20", 9),
        ("hang_mid after=2", 2),
        ("abortusage", 3),
    ] {
        let before = ledger.len();
        let mut response = request(&app, &key, scenario).open().await;
        let mut seen = Vec::new();
        while seen.iter().filter(|byte| **byte == b'\n').count() < 3 * read {
            seen.extend_from_slice(&response.next().await.unwrap().unwrap());
        }
        let here = ledger.wait_for(move |calls| calls.len() > before, Duration::from_secs(5)).await;
        assert!(here, "{scenario}");
        drop(response);

        let left = Instant::now();
        let aborted =
            ledger.wait_for(|calls| calls.last().unwrap().aborted, Duration::from_secs(5)).await;

        assert!(aborted && left.elapsed() < Duration::from_secs(1), "{scenario}");
        let (usage, row) = (app.last_call().usage, app.row(&key).await);
        assert_eq!(row["outcome"], "client_disconnect", "{scenario}: {row}");
        assert_eq!(row["input_tokens"].as_u64(), usage.map(|usage| usage.input), "{scenario}");
        assert_eq!(row["estimated"], true, "{scenario}");
        assert_eq!(row["cost_usd"].is_null(), usage.is_none(), "{scenario}");
    }
}

#[actix_web::test]
async fn a_stop_ends_streams_with_an_error_event_and_a_row_wherever_they_are() {
    for (hold, scenario) in [
        (20, "stream events=5000 delay_ms=20"),
        (0, "hang"),
        (0, "late delay_ms=60000"),
        (20, "late delay_ms=60000"),
    ] {
        let mut app = TestServerBuilder::new()
            .set("ANTHROPIC__FIRST_EVENT_HOLD_SECONDS", hold)
            .set("SHUTDOWN__STREAMING_TIMEOUT_SECONDS", 1)
            .start()
            .await;
        let key = app.create_key(PERSON).await;
        let ledger = app.simulator.ledger().clone();
        let calling = actix_rt::spawn(request(&app, &key, scenario).send());
        assert!(ledger.wait_for(|calls| !calls.is_empty(), Duration::from_secs(5)).await);

        let cut = app.stopped().await;

        let reply = calling.await.unwrap();
        assert_eq!(cut, 1, "{scenario}");
        if hold > 0 && scenario.starts_with("late") {
            assert_eq!(told(&reply).1, "overloaded_error");
        } else {
            let (name, data) = events(&reply.body).pop().unwrap();
            assert!(!reply.complete && name == "error", "{scenario}: {reply:?}");
            assert!(data.contains("overloaded_error"), "{scenario}: {data}");
        }
        app.start_again();
        assert_eq!(app.row(&key).await["outcome"], "shutdown", "{hold} {scenario}");
    }
}

#[actix_web::test]
async fn a_stream_that_is_nothing_but_its_end_is_that() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let scenario = format!("echo wrap=0 hex={}", hex(r#"{"type":"message_stop"}"#));
    let reply = request(&app, &key, &scenario).send().await;

    assert!(reply.complete && is_ended(&reply), "{reply:?}");
    assert_eq!(app.row(&key).await["outcome"], "success");
}

#[actix_web::test]
async fn a_frame_that_would_hold_too_much_memory_ends_its_stream() {
    let app = TestServerBuilder::new()
        .set("SERVER__LIMITS__IN_FLIGHT_BYTES", 4 << 20)
        .set("SERVER__MAX_BODY_BYTES", 1 << 20)
        .start()
        .await;
    let key = app.create_key(PERSON).await;

    let large = request(&app, &key, "oneframe kb=8000").send().await;
    let small = request(&app, &key, "oneframe kb=2000").send().await;

    let (name, data) = events(&large.body).pop().unwrap();
    assert!(!large.complete && name == "error" && data.contains("overloaded_error"), "{data}");
    assert!(small.complete && is_ended(&small), "what was held is given back");
}

#[actix_web::test]
async fn with_fsync_always_the_last_event_waits_for_the_disk() {
    let app = TestServerBuilder::new().set("USAGE__FSYNC", "always").start().await;
    let key = app.create_key(PERSON).await;
    for scenario in ["plain", "metricsonly only=1", "nousage"] {
        let reply = request(&app, &key, scenario).send().await;

        assert!(reply.complete && is_ended(&reply), "{scenario}");
    }
    assert_eq!(app.rows(&key).await.len(), 3);
    assert!(app.post(PATH).bearer(&key).json(&messages("hi")).send().await.complete);
}
