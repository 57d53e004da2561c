//! Calls of every scenario, over both dialects, by several people with several credentials, in three regions.

use std::{collections::BTreeMap, time::Duration};

use bedrock_sso_proxy::simulator::SCENARIOS;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    ARN_DUBLIN, ARN_TOKYO, COHERE, DEAR, HAIKU, MISTRAL, NOVA, OPAQUE, OPUS, Person, SONNET_4,
    TITAN, UNPRICED,
};
use crate::helpers::{
    Backend, MODEL, Request, TestServer, TestServerBuilder, conversation, message, messages,
};

const IN_FLIGHT: usize = 24;
const SOON: Duration = Duration::from_secs(10);
const MESSAGES: &str = "/anthropic/v1/messages";
const STREAM: &str = "invoke-with-response-stream";

pub fn service(backend: Backend) -> TestServerBuilder {
    super::service(backend)
        .set("AWS__FIRST_BYTE_TIMEOUT_SECONDS", 3)
        .set("AWS__STREAM_IDLE_TIMEOUT_SECONDS", 2)
        .set("SHUTDOWN__STREAMING_TIMEOUT_SECONDS", 1)
        .set("SHUTDOWN__TIMEOUT_SECONDS", 1)
}

/// What only the test knows of the calls that it made.
#[derive(Default)]
pub struct Spoken {
    /// The tokens that Bedrock was made to name, by request id.
    pub echoed: BTreeMap<String, Value>,
}

/// A call, to be made by anybody.
struct Planned {
    path: String,
    body: Value,
    /// The tokens in the answer that Bedrock is to repeat.
    told: Option<Value>,
}

/// Every scenario with what it takes to end soon; those that never end come first, so that they end beside the others.
const DIRECTIVES: &[&str] = &[
    "hang",
    "hang_mid after=4",
    "slow delay_ms=40",
    "late delay_ms=40",
    "pause after=3 delay_ms=40",
    "plain",
    "plain coalesce=1",
    "throttle",
    "error code=ModelTimeoutException",
    "error status=500",
    "credentials",
    "html",
    "html status=200",
    "badjson",
    "badjson after=4 kind=bytes",
    "flaky times=1",
    "refuse field=top_k",
    "reset",
    "cut after=4",
    "cut after=99",
    "cut_clean after=4",
    "cut_boundary after=4",
    "exception after=4",
    "exception after=1 type=modelStreamErrorException",
    "errorframe after=4",
    "badcrc after=4",
    "badcrc after=2 kind=prelude",
    "badlen after=3",
    "garbage after=3",
    "stream events=30",
    "stream events=20 split=1",
    "large kb=300",
    "oneframe kb=300",
    "nousage",
    "nonsense",
    "abortusage events=30 delay_ms=1",
    "multidelta",
    "cacheonlystart",
    "cacheonlystop",
    "metricsonly",
    "metricsonly only=1",
    "redirect",
    "hopheaders",
    "tools",
    "thinking",
];

/// Makes some hundreds of calls, and awaits that all are recorded.
pub async fn make(app: &mut TestServer, people: &[Person]) -> Spoken {
    for (name, _) in SCENARIOS {
        let is_of = |directive: &&str| directive.split(' ').next() == Some(name);
        assert!(*name == "echo" || DIRECTIVES.iter().any(is_of), "nobody calls `{name}`");
    }
    let mut planned = scenarios();
    planned.extend(families());
    planned.extend(caches());
    planned.extend(counts());
    planned.extend(echoes());
    let spoken = go(app, people, planned).await;
    leave(app, people).await;
    lose_access(app, people).await;
    outlast_the_service(app, people).await;
    assert!(
        app.simulator
            .ledger()
            .wait_for(|calls| calls.iter().all(|call| call.ended_at.is_some()), SOON)
            .await
    );
    app.settle().await;
    spoken
}

/// A few, of models with and without a price.
pub async fn make_some(app: &TestServer, people: &[Person]) {
    let mut planned = caches();
    planned.truncate(8);
    planned.extend(families().into_iter().take(12));
    go(app, people, planned).await;
    app.settle().await;
}

async fn go(app: &TestServer, people: &[Person], planned: Vec<Planned>) -> Spoken {
    let keys = people.iter().flat_map(|person| person.keys.iter().map(|(_, text)| text.as_str()));
    let credentials: Vec<&str> =
        keys.chain([people[0].token.as_str(), people[1].token.as_str()]).collect();
    let calls = planned.into_iter().enumerate().map(|(at, planned)| {
        let request =
            app.post(&planned.path).bearer(credentials[at % credentials.len()]).json(&planned.body);
        async move {
            let reply = request.send().await;
            let id = reply.header("x-amzn-requestid").map(str::to_owned);
            Some((id?, planned.told?))
        }
    });
    let echoed =
        stream::iter(calls).buffer_unordered(IN_FLIGHT).filter_map(std::future::ready).collect();
    Spoken { echoed: echoed.await }
}

fn native(model: &str, operation: &str, body: Value) -> Planned {
    let path = format!("/bedrock/model/{}/{operation}", model.replace('/', "%2F"));
    Planned { path, body, told: None }
}

/// Over the Messages API.
fn anthropic(model: &str, text: &str, streamed: bool) -> Planned {
    let mut body = messages(text);
    body["model"] = json!(model);
    body["stream"] = json!(streamed);
    Planned { path: MESSAGES.to_owned(), body, told: None }
}

/// Every scenario in every operation of both dialects; models and regions take turns.
fn scenarios() -> Vec<Planned> {
    let profile = format!("us.{OPUS}");
    let native_models = [MODEL, ARN_DUBLIN, &profile, ARN_TOKYO, OPAQUE];
    let names =
        ["claude-sonnet-4-5", "tokyo", "dublin", "house", "claude-opus-4-8", "claude-fable-5-2"];
    let mut planned = Vec::new();
    for (at, directive) in DIRECTIVES.iter().enumerate() {
        let key = if directive.starts_with("flaky") { " key=" } else { "" };
        let said = |operation: usize| match key {
            "" => format!("Call {at} of {operation} @sim:{directive}"),
            _ => format!("Call {at} @sim:{directive}{key}k{operation}"),
        };
        let model = native_models[at % native_models.len()];
        let name = names[at % names.len()];
        for (number, operation) in ["invoke", STREAM].into_iter().enumerate() {
            let mut body = message(&said(number));
            body["tools"] = json!([{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]);
            if directive.starts_with("refuse") {
                body["top_k"] = json!(5);
            }
            planned.push(native(model, operation, body));
        }
        for (number, operation) in ["converse", "converse-stream"].into_iter().enumerate() {
            let mut body = conversation(&said(2 + number));
            let schema =
                json!({"json": {"type": "object", "properties": {"city": {"type": "string"}}}});
            body["toolConfig"] =
                json!({"tools": [{"toolSpec": {"name": "weather", "inputSchema": schema}}]});
            planned.push(native(model, operation, body));
        }
        for streamed in [false, true] {
            let mut call = anthropic(name, &said(4 + usize::from(streamed)), streamed);
            if directive.starts_with("refuse") {
                call.body["top_k"] = json!(5);
            }
            planned.push(call);
        }
    }
    planned
}

/// Every family of models, with its usage in every place where it can be.
fn families() -> Vec<Planned> {
    let chat = |text: &str| json!({"messages": [{"role": "user", "content": text}]});
    let prompt = |text: &str| json!({"prompt": text});
    type Body<'a> = &'a dyn Fn(&str) -> Value;
    let families: [(&str, Body<'_>); 12] = [
        (NOVA, &conversation),
        ("us.amazon.nova-pro-v1:0", &conversation),
        ("us.meta.llama3-3-70b-instruct-v1:0", &prompt),
        (TITAN, &|text| json!({"inputText": text})),
        (MISTRAL, &prompt),
        (COHERE, &|text| json!({"message": text})),
        ("us.deepseek.r1-v1:0", &prompt),
        ("ai21.jamba-1-5-large-v1:0", &chat),
        (UNPRICED, &chat),
        (HAIKU, &message),
        (&format!("global.{OPUS}"), &message),
        (OPAQUE, &message),
    ];
    let mut planned = Vec::new();
    for directive in [
        "plain",
        "nousage",
        "nonsense",
        "metricsonly",
        "metricsonly only=1",
        "cut after=3",
        "large kb=3",
    ] {
        for (model, body) in &families {
            let said = format!("Say something of some length about {directive}. @sim:{directive}");
            planned.push(native(model, "invoke", body(&said)));
            // A Llama counts as it goes, also where it ends in nonsense; the simulator takes none of that for credible.
            if !(model.contains("llama") && directive == "nonsense") {
                planned.push(native(model, STREAM, body(&said)));
            }
            planned.push(native(model, "converse", conversation(&said)));
            planned.push(native(model, "converse-stream", conversation(&said)));
        }
    }
    for text in ["A", "Some more text to embed, so that there is something to round."] {
        let embeds = json!({"inputText": text});
        planned.push(native("amazon.titan-embed-text-v2:0", "invoke", embeds));
        let embeds = json!({"texts": [text], "input_type": "search_query"});
        planned.push(native("cohere.embed-english-v3", "invoke", embeds));
    }
    planned
}

/// Prompts that are kept for five minutes, for an hour, and for both, written once and then read.
fn caches() -> Vec<Planned> {
    let mark = |ttl: &str| json!({"type": "ephemeral", "ttl": ttl});
    let mut planned = Vec::new();
    for (number, ttls) in [["5m", "5m"], ["1h", "1h"], ["1h", "5m"]].into_iter().enumerate() {
        let text = |part: usize| {
            format!("Prompt {number}, part {part}: {}", "long ".repeat(1500 + 700 * number))
        };
        let system: Vec<Value> = ttls
            .iter()
            .enumerate()
            .map(|(part, ttl)| json!({"type": "text", "text": text(part), "cache_control": mark(ttl)}))
            .collect();
        let points: Vec<Value> = ttls
            .iter()
            .enumerate()
            .flat_map(|(part, ttl)| {
                [
                    json!({"text": text(part)}),
                    json!({"cachePoint": {"type": "default", "ttl": ttl}}),
                ]
            })
            .collect();
        for model in [format!("us.{OPUS}"), format!("global.{OPUS}")] {
            for operation in ["invoke", STREAM, STREAM, "invoke"] {
                let mut body = message("Hi");
                body["system"] = json!(system);
                planned.push(native(&model, operation, body));
            }
            for operation in ["converse", "converse-stream", "converse"] {
                let mut body = conversation("Hi");
                body["system"] = json!(points);
                planned.push(native(&model, operation, body));
            }
        }
        for name in ["house", "claude-opus-4-8", "tokyo"] {
            for streamed in [true, false, true] {
                let mut call = anthropic(name, "Hi", streamed);
                call.body["system"] = json!(system);
                planned.push(call);
            }
        }
    }
    planned
}

/// Counting, which costs nothing, also where it fails.
fn counts() -> Vec<Planned> {
    let mut planned = Vec::new();
    for said in ["Hi", "@sim:throttle"] {
        let input = json!({"input": {"converse": conversation(said)}});
        planned.push(native(SONNET_4, "count-tokens", input.clone()));
        planned.push(native(ARN_DUBLIN, "count-tokens", input));
        let mut call = anthropic("claude-sonnet-4-5", said, false);
        call.path.push_str("/count_tokens");
        for member in ["stream", "max_tokens"] {
            call.body.as_object_mut().unwrap().remove(member);
        }
        planned.push(call);
    }
    planned
}

/// Answers with usage that no simulated prompt would make: input, output, cache read, written for five minutes and for an
/// hour.
fn echoes() -> Vec<Planned> {
    const MOST: u64 = 1 << 40;
    let profile = format!("us.{OPUS}");
    let mut planned = Vec::new();
    for (model, [input, output, cache_read, five_minutes, hour]) in [
        // As long as a prompt may be at the usual price, and one token more.
        (MODEL, [150_000, 9_999, 20_000, 10_000, 20_000]),
        (MODEL, [150_000, 9_999, 20_001, 10_000, 20_000]),
        (MODEL, [200_000, 1, 0, 0, 0]),
        (MODEL, [200_001, 1, 0, 0, 0]),
        (MODEL, [1, 7, 900_000, 0, 0]),
        (MODEL, [1, 250_001, 0, 0, 0]),
        (ARN_DUBLIN, [3, 11, 0, 180_001, 20_001]),
        (ARN_DUBLIN, [123_457, 54_321, 76_543, 13, 17]),
        (&profile, [0, 0, 0, 0, 0]),
        (&profile, [0, 1, 0, 0, 1]),
        (&profile, [0, 0, 0, 1, 0]),
        (&profile, [1, 0, 1, 1_000_003, 2_000_003]),
        (&profile, [MOST, MOST, MOST, MOST / 2, MOST / 2]),
        (DEAR, [MOST, 1, 0, 0, 0]),
        (DEAR, [3, 1, 0, 0, 0]),
        (OPAQUE, [5, 5, 5, 5, 0]),
        (OPAQUE, [5, 5, 5, 5, 5]),
    ] {
        let told = json!({"input": input, "output": output, "cache_read": cache_read,
            "cache_write_5m": five_minutes, "cache_write_1h": hour});
        let usage = |output: u64| {
            json!({"input_tokens": input, "output_tokens": output, "cache_read_input_tokens": cache_read,
                "cache_creation_input_tokens": five_minutes + hour,
                "cache_creation": {"ephemeral_5m_input_tokens": five_minutes, "ephemeral_1h_input_tokens": hour}})
        };
        let whole = json!({"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage(output)});
        let events = [
            json!({"type": "message_start", "message": {"type": "message", "content": [], "usage": usage(1)}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}}),
            json!({"type": "message_stop"}),
        ];
        let lines = events.map(|event| event.to_string()).join("\n");
        for (operation, more, said) in
            [("invoke", "", whole.to_string()), (STREAM, " wrap=0", lines)]
        {
            let body = message(&format!("@sim:echo hex={}{more}", hex::encode(said)));
            planned.push(Planned { told: Some(told.clone()), ..native(model, operation, body) });
        }
    }
    planned
}

/// Clients that leave: before there is an answer, and in the middle of one.
async fn leave(app: &TestServer, people: &[Person]) {
    let ledger = app.simulator.ledger().clone();
    let llama = "us.meta.llama3-3-70b-instruct-v1:0";
    for (at, planned) in [
        native(MODEL, "invoke", message("@sim:hang")),
        native(ARN_DUBLIN, "converse", conversation("@sim:slow delay_ms=2500")),
        native(MODEL, STREAM, message("@sim:hang")),
        anthropic("tokyo", "@sim:hang", false),
        anthropic("house", "@sim:slow delay_ms=2500", true),
    ]
    .into_iter()
    .enumerate()
    {
        let before = ledger.len();
        tokio::select! {
            _ = by(app, people, at, &planned).send() => panic!("it was not to answer"),
            here = ledger.wait_for(|calls| calls.len() > before, SOON) => assert!(here),
        }
    }
    for (at, planned) in [
        native(MODEL, STREAM, message("@sim:stream events=400 delay_ms=10")),
        native(ARN_DUBLIN, STREAM, message("@sim:hang_mid after=6")),
        native(&format!("us.{OPUS}"), STREAM, message("@sim:abortusage")),
        native(llama, STREAM, json!({"prompt": "@sim:stream events=400 delay_ms=10"})),
        native(NOVA, "converse-stream", conversation("@sim:stream events=400 delay_ms=10")),
        anthropic("tokyo", "@sim:stream events=400 delay_ms=10", true),
        anthropic("claude-opus-4-8", "@sim:hang_mid after=6", true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut answer = by(app, people, at, &planned).open().await;
        let first = answer.next().await;
        assert!(first.is_some_and(|piece| piece.is_ok()));
    }
}

fn by(app: &TestServer, people: &[Person], at: usize, planned: &Planned) -> Request {
    let person = &people[1 + at % 3];
    app.post(&planned.path).bearer(&person.keys[0].1).json(&planned.body)
}

/// A key is revoked while a stream of it runs.
async fn lose_access(app: &TestServer, people: &[Person]) {
    let (id, key) = people[2].keys.last().unwrap();
    let mut answers = Vec::new();
    for planned in [
        native(MODEL, STREAM, message("@sim:stream events=5000 delay_ms=20")),
        anthropic("dublin", "@sim:stream events=5000 delay_ms=20", true),
    ] {
        let mut answer = app.post(&planned.path).bearer(key).json(&planned.body).open().await;
        assert!(answer.next().await.is_some_and(|piece| piece.is_ok()));
        answers.push(answer);
    }
    assert!(app.command(&["key", "revoke", &id.to_string()]).status.success());
    app.revalidate().await;
    for mut answer in answers {
        let drained = async { while let Some(Ok(_)) = answer.next().await {} };
        assert!(tokio::time::timeout(SOON, drained).await.is_ok(), "the stream goes on");
    }
}

/// Calls that are not over when the service stops; it starts again afterwards.
async fn outlast_the_service(app: &mut TestServer, people: &[Person]) {
    let ledger = app.simulator.ledger().clone();
    let before = ledger.len();
    let calls = [
        native(MODEL, STREAM, message("@sim:stream events=5000 delay_ms=20")),
        anthropic("tokyo", "@sim:stream events=5000 delay_ms=20", true),
        native(ARN_DUBLIN, "converse-stream", conversation("@sim:stream events=5000 delay_ms=20")),
    ];
    let calls: Vec<_> = calls
        .iter()
        .enumerate()
        .map(|(at, planned)| actix_web::rt::spawn(by(app, people, at, planned).try_send()))
        .collect();
    assert!(ledger.wait_for(|calls| calls.len() >= before + 3, SOON).await);
    app.stopped().await;
    for call in calls {
        call.await.unwrap();
    }
    app.start_again();
}
