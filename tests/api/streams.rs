//! Streams: every byte passes, every end is told for what it is, and no client holds upstream or memory for nothing.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::helpers::{
    MODEL, PERSON, Reply, TestServer, TestServerBuilder, conversation, message, spawn_app,
};

const STREAM: &str = "invoke-with-response-stream";

async fn stream(app: &TestServer, key: &str, scenario: &str) -> Reply {
    app.call(MODEL, STREAM, &message(&format!("@sim:{scenario}"))).bearer(key).send().await
}

/// The decoded events of an invoke stream.
fn events(reply: &Reply) -> Vec<serde_json::Value> {
    use base64::Engine;
    reply
        .frames()
        .iter()
        .filter(|(kind, _, _)| kind == "event")
        .map(|(_, _, payload)| {
            let chunk: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(chunk["bytes"].as_str().unwrap())
                .unwrap();
            serde_json::from_slice(&bytes).unwrap()
        })
        .collect()
}

#[actix_web::test]
async fn a_stream_arrives_whole_however_upstream_cuts_it_into_pieces() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for pieces in ["", " coalesce=1", " split=1"] {
        let reply = stream(&app, &key, &format!("stream events=30{pieces}")).await;

        assert!(reply.complete, "{pieces}");
        assert_eq!(reply.header("content-type"), Some("application/vnd.amazon.eventstream"));
        assert_eq!(reply.header("x-amzn-bedrock-content-type"), Some("application/json"));
        let events = events(&reply);
        let deltas = events.iter().filter(|event| event["type"] == "content_block_delta").count();
        assert_eq!(deltas, 30);
        assert!(events.last().unwrap()["amazon-bedrock-invocationMetrics"].is_object());
        let usage = app.last_call().usage.unwrap();
        let row = app.row(&key).await;
        assert_eq!(
            (&row["output_tokens"], &row["outcome"]),
            (&json!(usage.output), &json!("success"))
        );
    }
}

#[actix_web::test]
async fn events_are_passed_on_as_they_come() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let request =
        app.call(MODEL, STREAM, &message("@sim:stream events=40 delay_ms=25")).bearer(&key);

    let started = Instant::now();
    let mut response = request.open().await;
    let first = response.next().await.unwrap().unwrap();
    let first_after = started.elapsed();
    while let Some(piece) = response.next().await {
        piece.unwrap();
    }

    assert!(!first.is_empty());
    assert!(
        first_after * 3 < started.elapsed(),
        "the first piece came after {first_after:?} of {:?}",
        started.elapsed()
    );
    let row = app.row(&key).await;
    let (first, whole) =
        (row["time_to_first_byte_ms"].as_i64().unwrap(), row["response_time_ms"].as_i64().unwrap());
    assert!(first * 3 < whole, "{first} of {whole}");
}

#[actix_web::test]
async fn every_usage_of_a_stream_equals_the_ledger() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for scenario in [
        "plain",
        "multidelta",
        "cacheonlystart",
        "cacheonlystop",
        "metricsonly",
        "metricsonly only=1",
        "thinking",
        "tools",
        "oneframe kb=600",
        "large kb=300",
    ] {
        let mut body = message(&format!("@sim:{scenario}"));
        if scenario == "tools" {
            body["tools"] = json!([{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]);
        }
        if scenario == "thinking" {
            body["max_tokens"] = json!(4096);
            body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
        }
        let reply = app.call(MODEL, STREAM, &body).bearer(&key).send().await;

        assert!(reply.complete && reply.status == 200, "{scenario}: {reply:?}");
        let usage = app.last_call().usage.unwrap();
        let row = app.row(&key).await;
        let read = |name: &str| row[name].as_u64().unwrap_or(0);
        assert_eq!(read("input_tokens"), usage.input, "{scenario}: {row}");
        assert_eq!(read("output_tokens"), usage.output, "{scenario}: {row}");
        assert_eq!(read("cache_read_tokens"), usage.cache_read, "{scenario}: {row}");
        assert_eq!(read("cache_write_tokens"), usage.cache_write(), "{scenario}: {row}");
        assert_eq!(
            (&row["outcome"], &row["estimated"]),
            (&json!("success"), &json!(false)),
            "{scenario}: {row}"
        );
    }
    let reply =
        app.call(MODEL, "converse-stream", &conversation("@sim:plain")).bearer(&key).send().await;
    let usage = app.last_call().usage.unwrap();
    let row = app.row(&key).await;
    assert!(reply.complete);
    assert_eq!(
        (&row["output_tokens"], &row["stop_reason"]),
        (&json!(usage.output), &json!("end_turn"))
    );
}

#[actix_web::test]
async fn nonsense_from_upstream_is_missing_and_not_a_panic() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for (operation, scenario) in
        [(STREAM, "nonsense"), ("invoke", "nonsense"), (STREAM, "nousage"), ("invoke", "nousage")]
    {
        let body = message(&format!("@sim:{scenario}"));
        let reply = app.call(MODEL, operation, &body).bearer(&key).send().await;

        assert!(reply.complete && reply.status == 200, "{scenario}");
        let row = app.row(&key).await;
        assert_eq!(
            (&row["outcome"], &row["estimated"]),
            (&json!("success"), &json!(true)),
            "{scenario}: {row}"
        );
    }
}

#[actix_web::test]
async fn an_exception_in_a_stream_reaches_the_client_and_the_row() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for kind in [
        "throttlingException",
        "modelStreamErrorException",
        "modelTimeoutException",
        "serviceUnavailableException",
        "validationException",
        "internalServerException",
    ] {
        let reply = stream(&app, &key, &format!("exception type={kind} after=3")).await;

        let frames = reply.frames();
        assert_eq!(frames.len(), 4, "{kind}");
        assert_eq!((frames[3].0.as_str(), frames[3].1.as_str()), ("exception", kind));
        let row = app.row(&key).await;
        assert_eq!((&row["outcome"], &row["error_code"]), (&json!("upstream_error"), &json!(kind)));
        assert_eq!(row["input_tokens"], app.last_call().usage.unwrap().input);
        assert_eq!(row["estimated"], true);
    }
    let reply = stream(&app, &key, "errorframe after=2").await;
    assert_eq!(reply.frames()[2].0, "error");
    assert_eq!(app.row(&key).await["outcome"], "upstream_error");
}

#[actix_web::test]
async fn an_end_that_is_none_never_looks_like_one() {
    let app = TestServerBuilder::new().set("AWS__STREAM_IDLE_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    for (scenario, outcome, exception) in [
        ("cut after=3", "upstream_cut", None),
        ("cut_clean after=3", "upstream_cut", None),
        ("cut_boundary after=3", "upstream_cut", Some("modelStreamErrorException")),
        ("hang_mid after=3", "timeout", Some("modelTimeoutException")),
        ("badcrc after=3 kind=message", "upstream_cut", Some("modelStreamErrorException")),
        ("badcrc after=3 kind=prelude", "upstream_cut", Some("modelStreamErrorException")),
        ("badlen after=3", "upstream_cut", Some("modelStreamErrorException")),
        ("garbage after=3", "upstream_cut", Some("modelStreamErrorException")),
        (
            "badcrc after=3 kind=message coalesce=1",
            "upstream_cut",
            Some("modelStreamErrorException"),
        ),
        ("badcrc after=3 kind=message split=1", "upstream_cut", None),
    ] {
        let reply = stream(&app, &key, scenario).await;

        assert!(!reply.complete, "{scenario}: the body must not end as a whole one does");
        let frames = reply.frames();
        let events = frames.iter().filter(|(kind, _, _)| kind == "event").count();
        assert_eq!(events, 3, "{scenario}: the whole frames before are the client's");
        if let Some(exception) = exception {
            let last = frames.last().unwrap();
            assert_eq!((last.0.as_str(), last.1.as_str()), ("exception", exception), "{scenario}");
        }
        let row = app.row(&key).await;
        assert_eq!(
            (&row["outcome"], &row["estimated"]),
            (&json!(outcome), &json!(true)),
            "{scenario}: {row}"
        );
        assert_eq!(row["input_tokens"], app.last_call().usage.unwrap().input, "{scenario}");
    }
    let converse = app
        .call(MODEL, "converse-stream", &conversation("@sim:cut_boundary after=3"))
        .bearer(&key)
        .send()
        .await;
    assert!(!converse.complete, "Converse without metadata has no end either");
}

#[actix_web::test]
async fn a_client_that_leaves_ends_the_call_within_a_second() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for scenario in ["stream events=5000 delay_ms=20", "hang_mid after=2", "hang"] {
        let request = app.call(MODEL, STREAM, &message(&format!("@sim:{scenario}"))).bearer(&key);
        let before = app.simulator.ledger().len();
        let ledger = app.simulator.ledger().clone();
        let mut opened = Box::pin(request.open());
        if scenario == "hang" {
            tokio::select! {
                _ = &mut opened => panic!("nothing answers"),
                here = ledger.wait_for(move |calls| calls.len() > before, Duration::from_secs(5)) => assert!(here),
            }
            drop(opened);
        } else {
            let mut response = opened.await;
            response.next().await.unwrap().unwrap();
            drop(response);
        }

        let left = Instant::now();
        let aborted =
            ledger.wait_for(|calls| calls.last().unwrap().aborted, Duration::from_secs(5)).await;

        assert!(
            aborted && left.elapsed() < Duration::from_secs(1),
            "{scenario}: {:?}",
            left.elapsed()
        );
        let row = app.row(&key).await;
        assert_eq!(row["outcome"], "client_disconnect", "{scenario}: {row}");
        let seen = app.last_call().usage.map(|usage| usage.input);
        assert_eq!(row["input_tokens"].as_u64(), seen, "{scenario}");
        assert_eq!(row["estimated"], true, "{scenario}");
        assert_eq!(
            row["cost_usd"].is_null(),
            seen.is_none(),
            "{scenario}: what is unknown has no cost"
        );
    }
}

#[actix_web::test]
async fn with_drain_a_stream_is_read_to_its_end_without_its_client() {
    let app = TestServerBuilder::new().set("USAGE__ON_DISCONNECT", "drain").start().await;
    let key = app.create_key(PERSON).await;
    let request =
        app.call(MODEL, STREAM, &message("@sim:stream events=30 delay_ms=10")).bearer(&key);

    let mut response = request.open().await;
    response.next().await.unwrap().unwrap();
    drop(response);
    let finished = app
        .simulator
        .ledger()
        .wait_for(|calls| calls.last().unwrap().finished, Duration::from_secs(5))
        .await;

    assert!(finished);
    let row = app.row(&key).await;
    assert_eq!(row["outcome"], "client_disconnect");
    assert_eq!(row["output_tokens"], app.last_call().usage.unwrap().output);
    assert_eq!(row["estimated"], false);
}

#[actix_web::test]
async fn a_reader_that_stops_holds_a_bounded_amount_and_nobody_up() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let body = message("@sim:oneframe kb=20000").to_string();
    let mut slow = TcpStream::connect(app.address()).await.unwrap();
    let head = format!(
        "POST /bedrock/model/{MODEL}/{STREAM} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(body.as_bytes()).await.unwrap();
    let mut start = [0; 1024];
    slow.read_exact(&mut start).await.unwrap();
    let before = resident_kib();

    for _ in 0..20 {
        let reply = stream(&app, &key, "plain").await;
        assert!(reply.complete);
    }

    let call = app.simulator.ledger().calls().into_iter().next().unwrap();
    assert!(!call.finished, "20 MB cannot have been handed on to a client that reads 1 KiB");
    assert!(resident_kib() < before + 8 * 1024, "grew from {before} to {} KiB", resident_kib());
    let (mut read, mut piece) = (0, vec![0; 1 << 16]);
    while read < 20_000_000 {
        let count = slow.read(&mut piece).await.unwrap();
        assert!(count > 0, "the stream goes on when the client does");
        read += count;
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[actix_web::test]
async fn with_fsync_always_streams_and_answers_wait_for_the_disk_and_end_as_usual() {
    let app = TestServerBuilder::new().set("USAGE__FSYNC", "always").start().await;
    let key = app.create_key(PERSON).await;

    for operation in ["invoke", STREAM] {
        let calls = (0..8).map(|_| app.call(MODEL, operation, &message("hi")).bearer(&key).send());
        for reply in futures_util::future::join_all(calls).await {
            assert!(reply.complete && reply.status == 200, "{reply:?}");
        }
    }

    assert_eq!(app.rows(&key).await.len(), 16);
}
