//! The simulator as its clients see it: real sockets, real signatures.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use serde_json::{Value, json};

use super::*;

mod rules;
mod scenarios;

const CLAUDE: &str = "/model/anthropic.claude-3-haiku-20240307-v1%3A0";
/// The oldest model whose cache keeps for an hour.
const SONNET_4_5: &str = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0";
const WAIT: Duration = Duration::from_secs(5);

/// What came back for one request.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// The body ended as HTTP says a body ends.
    complete: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn code(&self) -> &str {
        self.header("x-amzn-errortype").unwrap_or_default()
    }

    /// Message type, event name and payload of each frame; stops at the first broken one.
    fn frames(&self) -> Vec<(String, String, Value)> {
        let mut buffer = BytesMut::from(self.body.as_slice());
        let mut decoder = MessageFrameDecoder::new();
        let mut frames = Vec::new();
        while let Ok(DecodedFrame::Complete(message)) = decoder.decode_frame(&mut buffer) {
            let header = |name: &str| {
                let mut headers = message.headers().iter();
                let found = headers.find(|header| header.name().as_str() == name);
                found.map(|header| header.value().as_string().unwrap().as_str().to_owned())
            };
            let name = header(":event-type").or_else(|| header(":exception-type"));
            let payload = serde_json::from_slice(message.payload()).unwrap_or_default();
            frames.push((header(":message-type").unwrap(), name.unwrap_or_default(), payload));
        }
        frames
    }

    /// The model's own events inside `chunk`s.
    fn chunks(&self) -> Vec<Value> {
        let decode = |payload: &Value| {
            let bytes = STANDARD.decode(payload["bytes"].as_str().unwrap()).unwrap();
            serde_json::from_slice(&bytes).unwrap_or_default()
        };
        let frames = self.frames();
        frames.iter().filter(|frame| frame.1 == "chunk").map(|frame| decode(&frame.2)).collect()
    }
}

/// Signs for the simulator at `host`, as a well-behaved client.
fn signed(host: &str, path: &str, body: &[u8]) -> Vec<(String, String)> {
    let config = SimulatorConfig::default();
    let (key, secret) = (config.access_key_id, config.secret_access_key);
    let identity = Credentials::new(key, secret, None, None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("bedrock")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let mut headers = vec![
        ("host".to_owned(), host.to_owned()),
        ("content-type".to_owned(), "application/json".to_owned()),
    ];
    let lines: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let url = format!("http://{host}{path}");
    let request =
        SignableRequest::new("POST", url, lines.into_iter(), SignableBody::Bytes(body)).unwrap();
    let (instructions, _) = sign(request, &params).unwrap().into_parts();
    headers.extend(instructions.headers().map(|(n, v)| (n.to_owned(), v.to_owned())));
    headers
}

fn open(simulator: &Simulator, path: &str, headers: &[(String, String)], body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(simulator.address()).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let mut head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    socket.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    socket
}

fn send(simulator: &Simulator, path: &str, headers: &[(String, String)], body: &[u8]) -> Answer {
    let mut reader = std::io::BufReader::new(open(simulator, path, headers, body));
    read_answer(&mut reader)
}

fn read_answer(reader: &mut impl std::io::BufRead) -> Answer {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut answer = Answer { status, head, body: Vec::new(), complete: false };
    let length = answer.header("content-length").and_then(|text| text.parse::<usize>().ok());
    if let Some(length) = length {
        let _cut_short = reader.take(length as u64).read_to_end(&mut answer.body);
        answer.complete = answer.body.len() == length;
        return answer;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 0 {
        let Ok(length) = usize::from_str_radix(line.trim(), 16) else { break };
        let mut chunk = Vec::new();
        if reader.take(length as u64).read_to_end(&mut chunk).is_err() {
            break;
        }
        answer.complete = length == 0;
        answer.body.extend_from_slice(&chunk);
        line.clear();
        if reader.read_line(&mut line).is_err() || answer.complete {
            break;
        }
        line.clear();
    }
    answer
}

fn post(simulator: &Simulator, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let host = simulator.address().to_string();
    send(simulator, path, &signed(&host, path, body.as_bytes()), body.as_bytes())
}

fn hello(text: &str) -> Value {
    json!({
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": text}]
    })
}

fn talk(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": [{"text": text}]}]})
}

async fn simulator() -> Simulator {
    Simulator::start(SimulatorConfig::default()).await.unwrap()
}

fn invoke(simulator: &Simulator, text: &str) -> Answer {
    post(simulator, &format!("{CLAUDE}/invoke"), &hello(text))
}

fn stream(simulator: &Simulator, text: &str) -> Answer {
    post(simulator, &format!("{CLAUDE}/invoke-with-response-stream"), &hello(text))
}

#[actix_web::test]
async fn a_signed_request_is_answered_and_recorded() {
    let simulator = simulator().await;

    let answer = invoke(&simulator, "Hi");

    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let body = answer.json();
    assert!(body["content"][0]["text"].as_str().unwrap().ends_with("You said: Hi"));
    let call = simulator.ledger().last().unwrap();
    let usage = call.usage.unwrap();
    assert_eq!(body["usage"]["input_tokens"], usage.input);
    assert_eq!(body["usage"]["output_tokens"], usage.output);
    assert_eq!(answer.header("x-amzn-bedrock-input-token-count"), Some(&*usage.input.to_string()));
    assert_eq!(answer.header("x-amzn-requestid"), Some(&*call.request_id));
    assert_eq!(
        (call.model_id.as_str(), call.region.as_str(), call.status, call.finished),
        ("anthropic.claude-3-haiku-20240307-v1:0", "us-east-1", 200, true)
    );
    assert_eq!(call.raw_path, format!("{CLAUDE}/invoke"));
    let masked = call.received_headers.iter().find(|(name, _)| name == "authorization").unwrap();
    assert_eq!(masked.1, "AWS4-HMAC-SHA256 ***");
}

#[actix_web::test]
async fn a_changed_byte_or_a_foreign_header_is_refused() {
    let simulator = simulator().await;
    let host = simulator.address().to_string();
    let (path, body) = (format!("{CLAUDE}/invoke"), hello("Hi").to_string());
    let headers = signed(&host, &path, body.as_bytes());
    let with = |name: &str, value: &str| {
        let mut headers = headers.clone();
        headers.retain(|(known, _)| known != name);
        headers.push((name.to_owned(), value.to_owned()));
        send(&simulator, &path, &headers, body.as_bytes())
    };

    assert_eq!(with("accept-encoding", "identity").status, 200);
    assert_eq!(with("authorization", "Bearer x").code(), "ValidationException");
    assert_eq!(with("content-type", "text/plain").code(), "InvalidSignatureException");
    assert_eq!(with("x-amz-security-token", "T").code(), "UnrecognizedClientException");
    assert_eq!(with("x-amz-meta-a", "T").code(), "InvalidSignatureException");
    for name in ["x-api-key", "cookie", "x-forwarded-for", "via", "anthropic-beta", "te"] {
        let refused = with(name, "gzip");
        assert_eq!((refused.status, refused.code()), (400, "ValidationException"), "{name}");
        assert!(refused.json()["message"].as_str().unwrap().contains(name));
    }
    assert_eq!(with("accept-encoding", "gzip").status, 400);
    assert_eq!(with("host", "elsewhere").status, 400);
    let raw = path.replace("%3A", ":");
    assert_eq!(send(&simulator, &raw, &headers, body.as_bytes()).status, 403);
    let shorter = body.replace("Hi", "Ha");
    assert_eq!(send(&simulator, &path, &headers, shorter.as_bytes()).status, 403);
    let none = [("host".to_owned(), host)];
    let refused = send(&simulator, &path, &none, body.as_bytes());
    assert_eq!(refused.code(), "MissingAuthenticationTokenException");
}

#[actix_web::test]
async fn bodies_are_validated_as_bedrock_does() {
    let simulator = simulator().await;
    let message = |path: &str, body: Value| {
        let answer = post(&simulator, path, &body);
        (answer.status, answer.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    let with = |name: &str, value: Value| {
        let mut body = hello("Hi");
        body[name] = value;
        message(&format!("{CLAUDE}/invoke"), body)
    };

    let extra = |name: &str| (400, format!("{name}: Extra inputs are not permitted"));
    assert_eq!(with("model", json!("x")), extra("model"));
    assert_eq!(with("stream", json!(true)), extra("stream"));
    assert!(with("anthropic_version", json!("2023-06-01")).1.starts_with("Invalid API version"));
    assert_eq!(with("max_tokens", json!(-1)).0, 400);
    assert_eq!(with("messages", json!([])).0, 400);
    assert_eq!(with("anthropic_beta", json!(["claude-code-20250219"])).1, "invalid beta flag");
    let converse = format!("{CLAUDE}/converse");
    assert_eq!(message(&converse, json!({"messages": [], "model": "x"})), extra("model"));
    let no_model = (400, "The provided model identifier is invalid.".to_owned());
    assert_eq!(message("/model/gpt-4/invoke", hello("Hi")), no_model);
    assert_eq!(message(&format!("{CLAUDE}/generate"), hello("Hi")).0, 404);
    assert_eq!(
        message("/model/arn:aws:bedrock:us-east-1::foundation-model/a/invoke", json!({})).0,
        400
    );
}

#[actix_web::test]
async fn a_stream_reports_the_same_usage_three_times() {
    let simulator = simulator().await;

    let answer = stream(&simulator, "Hi");

    assert!(answer.complete);
    assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"));
    let chunks = answer.chunks();
    let usage = simulator.ledger().last().unwrap().usage.unwrap();
    let last = chunks.last().unwrap();
    assert_eq!(chunks[0]["message"]["usage"]["input_tokens"], usage.input);
    assert_eq!(chunks[chunks.len() - 2]["usage"]["output_tokens"], usage.output);
    let metrics = &last["amazon-bedrock-invocationMetrics"];
    assert_eq!(metrics["inputTokenCount"], usage.input);
    assert_eq!(metrics["outputTokenCount"], usage.output);
    assert_eq!(last["type"], "message_stop");
    let text: String = chunks.iter().filter_map(|chunk| chunk["delta"]["text"].as_str()).collect();
    assert_eq!(text.split_whitespace().count() as u64, usage.output);
}

#[actix_web::test]
async fn every_family_says_what_it_used_where_the_specification_has_it() {
    let simulator = simulator().await;
    let chat = json!({"messages": [{"role": "user", "content": "Hi there"}]});
    let prompt = json!({"prompt": "Hi there"});
    let families = [
        ("amazon.nova-lite-v1:0", talk("Hi there"), "/usage/inputTokens", "/usage/outputTokens"),
        (
            "amazon.titan-text-express-v1",
            json!({"inputText": "Hi there"}),
            "/inputTextTokenCount",
            "/results/0/tokenCount",
        ),
        (
            "us.meta.llama3-3-70b-instruct-v1:0",
            prompt.clone(),
            "/prompt_token_count",
            "/generation_token_count",
        ),
        ("mistral.mistral-7b-instruct-v0:2", prompt.clone(), "", ""),
        (
            "mistral.mistral-large-2407-v1:0",
            chat.clone(),
            "/usage/prompt_tokens",
            "/usage/completion_tokens",
        ),
        ("cohere.command-r-v1:0", json!({"message": "Hi there"}), "", ""),
        (
            "ai21.jamba-1-5-mini-v1:0",
            chat.clone(),
            "/usage/prompt_tokens",
            "/usage/completion_tokens",
        ),
        ("us.deepseek.r1-v1:0", prompt, "", ""),
        ("deepseek.v3-v1:0", chat.clone(), "/usage/prompt_tokens", "/usage/completion_tokens"),
        (
            "openai.gpt-oss-120b-1:0",
            chat.clone(),
            "/usage/prompt_tokens",
            "/usage/completion_tokens",
        ),
        ("qwen.qwen3-32b-v1:0", chat, "/usage/prompt_tokens", "/usage/completion_tokens"),
    ];
    for (model, body, input, output) in families {
        let path = format!("/model/{}", model.replace(':', "%3A"));
        let answer = post(&simulator, &format!("{path}/invoke"), &body);
        let usage = simulator.ledger().last().unwrap().usage.unwrap();
        let (json, text) = (answer.json(), String::from_utf8(answer.body.clone()).unwrap());
        assert!(text.contains("You said: Hi there"), "{model} {text}");
        assert_eq!(
            answer.header("x-amzn-bedrock-input-token-count"),
            Some(&*usage.input.to_string())
        );
        assert_eq!(
            answer.header("x-amzn-bedrock-output-token-count"),
            Some(&*usage.output.to_string())
        );
        match input {
            "" => assert!(!text.contains("token") && !text.contains("usage"), "{model}"),
            input => {
                assert_eq!(json.pointer(input), Some(&json!(usage.input)), "{model}");
                assert_eq!(json.pointer(output), Some(&json!(usage.output)), "{model}");
            }
        }

        let answer = post(&simulator, &format!("{path}/invoke-with-response-stream"), &body);
        let streamed = simulator.ledger().last().unwrap().usage.unwrap();
        assert_eq!(streamed, usage, "{model}");
        let last = answer.chunks().pop().unwrap();
        let metrics = &last["amazon-bedrock-invocationMetrics"];
        assert_eq!(metrics["inputTokenCount"], usage.input, "{model}");
        assert_eq!(metrics["outputTokenCount"], usage.output, "{model}");
    }
}

#[actix_web::test]
async fn embeddings_have_an_input_count_only() {
    let simulator = simulator().await;
    let titan = "/model/amazon.titan-embed-text-v2%3A0/invoke";
    let answer = post(&simulator, titan, &json!({"inputText": "Hi there"}));
    let usage = simulator.ledger().last().unwrap().usage.unwrap();
    assert_eq!((&answer.json()["inputTextTokenCount"], usage.output), (&json!(usage.input), 0));

    let cohere = "/model/cohere.embed-english-v3/invoke";
    let answer = post(&simulator, cohere, &json!({"texts": ["Hi"], "input_type": "search_query"}));
    assert!(answer.header("x-amzn-bedrock-input-token-count").is_some());
    assert_eq!(answer.header("x-amzn-bedrock-output-token-count"), None);
    assert_eq!(answer.json().pointer("/usage"), None);

    let titan = "/model/amazon.titan-embed-text-v2%3A0/invoke-with-response-stream";
    assert_eq!(post(&simulator, titan, &json!({"inputText": "Hi"})).status, 400);
}

#[actix_web::test]
async fn converse_reports_usage_after_the_message_stops() {
    let simulator = simulator().await;

    let answer = post(&simulator, &format!("{CLAUDE}/converse"), &talk("Hi"));
    let usage = simulator.ledger().last().unwrap().usage.unwrap();
    assert_eq!(answer.json()["usage"]["inputTokens"], usage.input);
    assert_eq!(answer.json()["usage"]["totalTokens"], usage.input + usage.output);

    let answer = post(&simulator, &format!("{CLAUDE}/converse-stream"), &talk("Hi"));
    let frames = answer.frames();
    let names: Vec<&str> = frames.iter().map(|frame| frame.1.as_str()).collect();
    assert_eq!(names.first(), Some(&"messageStart"));
    assert_eq!(names[names.len() - 2..], ["messageStop", "metadata"]);
    assert!(frames.iter().all(|frame| frame.2["p"].is_string()));
    assert_eq!(frames.last().unwrap().2["usage"]["outputTokens"], usage.output);
}

#[actix_web::test]
async fn tokens_are_counted_for_both_kinds_of_body() {
    let simulator = simulator().await;
    let path = "/model/anthropic.claude-3-5-haiku-20241022-v1%3A0/count-tokens";
    let inner = hello("Hi");
    let blob = STANDARD.encode(inner.to_string());

    let answer = post(&simulator, path, &json!({"input": {"invokeModel": {"body": blob}}}));
    let billed = invoke(&simulator, "Hi").json()["usage"]["input_tokens"].clone();
    assert_eq!(answer.json()["inputTokens"], billed);

    let answer = post(&simulator, path, &json!({"input": {"converse": talk("Hi")}}));
    assert!(answer.json()["inputTokens"].as_u64().unwrap() > 0);
    assert_eq!(post(&simulator, path, &json!({"input": {}})).status, 400);
}

#[actix_web::test]
async fn a_cached_prefix_is_written_once_and_read_later() {
    let simulator = simulator().await;
    let mut body = hello("Hi");
    body["system"] = json!([
        {"type": "text", "text": "long ".repeat(100), "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "more ".repeat(50), "cache_control": {"type": "ephemeral"}}
    ]);
    let path = format!("{SONNET_4_5}/invoke");

    let first = post(&simulator, &path, &body).json()["usage"].clone();
    let second = post(&simulator, &path, &body).json()["usage"].clone();

    let (long, short) = (
        first["cache_creation"]["ephemeral_1h_input_tokens"].as_u64().unwrap(),
        first["cache_creation"]["ephemeral_5m_input_tokens"].as_u64().unwrap(),
    );
    assert!(long > 100 && short > 50, "{first}");
    assert_eq!(first["cache_creation_input_tokens"], long + short);
    assert_eq!(first["cache_read_input_tokens"], 0);
    assert_eq!(second["cache_read_input_tokens"], long + short);
    assert_eq!(second["cache_creation_input_tokens"], 0);
    assert_eq!(second["input_tokens"], first["input_tokens"]);
    let recorded = simulator.ledger().last().unwrap().usage.unwrap();
    assert_eq!((recorded.cache_read, recorded.cache_write()), (long + short, 0));
}

#[actix_web::test]
async fn a_prefix_is_cached_by_model_and_by_every_byte_in_front_of_its_marker() {
    let simulator = simulator().await;
    let marker = json!({"type": "ephemeral"});
    let mut body = hello("Hi");
    body["tools"] = json!([{"name": "weather", "description": "long ".repeat(100),
        "input_schema": {"type": "object"}, "cache_control": marker}]);
    body["system"] =
        json!([{"type": "text", "text": "long ".repeat(100), "cache_control": marker}]);
    body["messages"] = json!([{"role": "user", "content": [
        {"type": "text", "text": "long ".repeat(100), "cache_control": marker}]}]);
    let read = |model: &str, body: &Value| {
        post(&simulator, &format!("{model}/invoke"), body);
        let usage = simulator.ledger().last().unwrap().usage.unwrap();
        (usage.cache_read, usage.cache_write())
    };
    let with = |pointer: &str| {
        let mut body = body.clone();
        *body.pointer_mut(pointer).unwrap() = json!("short ".repeat(100));
        body
    };

    let (none, all) = read(SONNET_4_5, &body);
    assert!(none == 0 && all > 375);
    assert_eq!(read(SONNET_4_5, &body), (all, 0));
    assert_eq!(read(CLAUDE, &body), (0, all));
    let of_message = read(SONNET_4_5, &with("/messages/0/content/0/text"));
    let of_system = read(SONNET_4_5, &with("/system/0/text"));
    let of_tool = read(SONNET_4_5, &with("/tools/0/description"));
    assert!(of_message.0 > of_system.0 && of_system.0 > 125, "{of_message:?} {of_system:?}");
    assert_eq!(of_tool.0, 0);
}

#[actix_web::test]
async fn tools_and_thinking_come_as_blocks() {
    let simulator = simulator().await;
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let mut body = hello("@sim:tools");
    body["tools"] = json!([{"name": "weather", "input_schema": schema}]);
    body["max_tokens"] = json!(2048);
    body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});

    let answer = post(&simulator, &format!("{CLAUDE}/invoke"), &body).json();
    assert_eq!(answer["stop_reason"], "tool_use");
    let kinds: Vec<_> =
        answer["content"].as_array().unwrap().iter().map(|block| block["type"].clone()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(answer["content"][2]["input"], json!({"city": "simulated"}));

    let path = format!("{CLAUDE}/invoke-with-response-stream");
    let chunks = post(&simulator, &path, &body).chunks();
    let joined: String =
        chunks.iter().filter_map(|chunk| chunk["delta"]["partial_json"].as_str()).collect();
    assert_eq!(joined, r#"{"city":"simulated"}"#);
    assert!(chunks.iter().any(|chunk| chunk["delta"]["type"] == "signature_delta"));

    let spec = json!({"toolSpec": {"name": "weather", "inputSchema": {"json": schema}}});
    let mut body = talk("@sim:tools");
    body["toolConfig"] = json!({"tools": [spec]});
    let answer = post(&simulator, &format!("{CLAUDE}/converse"), &body).json();
    assert_eq!(answer["stopReason"], "tool_use");
    assert_eq!(answer["output"]["message"]["content"][1]["toolUse"]["name"], "weather");
}

#[actix_web::test]
async fn errors_come_with_the_status_of_their_code() {
    let simulator = simulator().await;

    let answer = invoke(&simulator, "@sim:throttle retry_after=7");
    assert_eq!((answer.status, answer.code()), (429, "ThrottlingException"));
    assert_eq!(answer.header("retry-after"), Some("7"));
    let answer = stream(&simulator, "@sim:error code=AccessDeniedException uri=1");
    assert!(answer.status == 403 && answer.code().starts_with("AccessDeniedException:http"));
    assert!(answer.json()["message"].as_str().unwrap().contains("::123456789012:assumed-role/"));
    let answer = invoke(&simulator, "@sim:error code=ModelErrorException capital=1");
    assert_eq!((answer.status, &answer.json()["originalStatusCode"]), (424, &json!(400)));
    assert!(answer.json()["Message"].is_string());
    assert_eq!(invoke(&simulator, "@sim:credentials").code(), "UnrecognizedClientException");
    assert_eq!(invoke(&simulator, "@sim:html status=503").status, 503);
    assert_eq!(
        invoke(&simulator, "@sim:redirect").header("location"),
        Some("http://169.254.169.254/")
    );
    let broken = invoke(&simulator, "@sim:badjson");
    assert!(broken.status == 200 && serde_json::from_slice::<Value>(&broken.body).is_err());
    assert_eq!(invoke(&simulator, "@sim:nothing").status, 400);
    let call = simulator.ledger().calls().remove(0);
    assert_eq!(
        (call.scenario.as_deref(), call.status, call.finished),
        (Some("throttle"), 429, true)
    );
}

#[actix_web::test]
async fn streams_break_where_they_are_told_to() {
    let simulator = simulator().await;
    let outcome = |text: &str| {
        let answer = stream(&simulator, text);
        let last = simulator.ledger().last().unwrap();
        (answer, last)
    };

    let (answer, call) = outcome("@sim:cut after=3");
    assert_eq!((answer.frames().len(), answer.complete), (3, false));
    assert_eq!((call.finished, call.aborted, call.usage.unwrap().output), (false, false, 1));
    let (answer, call) = outcome("@sim:cut_clean after=3");
    assert_eq!((answer.frames().len(), answer.complete, call.finished), (3, true, false));
    let framed: usize = answer.body.len();
    let (answer, _) = outcome("@sim:cut_boundary after=3");
    assert_eq!((answer.frames().len(), answer.complete), (3, true));
    assert!(framed > answer.body.len() - 100);
    let (answer, call) = outcome("@sim:exception after=2 type=modelStreamErrorException");
    let last = answer.frames().pop().unwrap();
    assert_eq!((last.0.as_str(), last.1.as_str()), ("exception", "modelStreamErrorException"));
    assert!(answer.complete && call.finished);
    let (answer, _) = outcome("@sim:errorframe after=2");
    assert_eq!(answer.frames().pop().unwrap().0, "error");
    for fault in
        ["badcrc after=4", "badcrc after=4 kind=prelude", "badlen after=4", "garbage after=4"]
    {
        let (answer, _) = outcome(&format!("@sim:{fault}"));
        assert_eq!((answer.frames().len(), answer.complete), (4, true), "{fault}");
    }
    let (answer, _) = outcome("@sim:badjson after=4");
    assert!(answer.frames()[4].2.is_null() && answer.frames().len() > 10);
    let answer = stream(&simulator, "@sim:badjson after=4 kind=bytes");
    assert!(answer.chunks()[4].is_null() && answer.chunks().len() > 10);
    let broken = talk("@sim:badjson after=1");
    let answer = post(&simulator, &format!("{CLAUDE}/converse-stream"), &broken);
    assert_eq!(
        (answer.frames()[1].1.as_str(), &answer.frames()[1].2),
        ("contentBlockDelta", &Value::Null)
    );
}

#[actix_web::test]
async fn an_answer_can_stop_before_it_begins() {
    let simulator = simulator().await;

    let answer = invoke(&simulator, "@sim:reset");
    assert_eq!((answer.status, answer.head.as_str()), (0, ""));
    let answer = invoke(&simulator, "@sim:cut after=1");
    assert!(answer.status == 200 && !answer.complete && !answer.body.is_empty());
    let begun = Instant::now();
    assert_eq!(invoke(&simulator, "@sim:slow delay_ms=150").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(150));
}

#[actix_web::test]
async fn a_client_that_goes_away_is_noticed_at_once() {
    let simulator = simulator().await;
    let host = simulator.address().to_string();
    for (operation, text) in [
        ("invoke", "@sim:hang"),
        ("invoke-with-response-stream", "@sim:hang_mid after=3"),
        ("invoke-with-response-stream", "@sim:stream events=100000 delay_ms=50"),
    ] {
        simulator.ledger().clear();
        let (path, body) = (format!("{CLAUDE}/{operation}"), hello(text).to_string());
        let socket =
            open(&simulator, &path, &signed(&host, &path, body.as_bytes()), body.as_bytes());
        let arrived = |calls: &[Call]| calls.len() == 1;
        assert!(simulator.ledger().wait_for(arrived, WAIT).await);
        actix_web::rt::time::sleep(Duration::from_millis(50)).await;
        let left = Instant::now();
        drop(socket);

        let aborted = |calls: &[Call]| calls.iter().any(|call| call.aborted);
        assert!(simulator.ledger().wait_for(aborted, WAIT).await, "{text}");
        assert!(left.elapsed() < Duration::from_millis(500), "{text} {:?}", left.elapsed());
        let call = simulator.ledger().last().unwrap();
        assert_eq!((call.finished, call.usage.is_some()), (false, operation != "invoke"));
    }
}

#[actix_web::test]
async fn usage_scenarios_move_the_counts_around() {
    let simulator = simulator().await;
    let usage = || simulator.ledger().last().unwrap().usage;

    let body = String::from_utf8(invoke(&simulator, "@sim:nousage").body).unwrap();
    assert!(!body.contains("tokens"));
    assert_eq!(usage(), None);
    let chunks = stream(&simulator, "@sim:nousage").chunks();
    assert!(!format!("{chunks:?}").contains("oken"));
    assert_eq!((stream(&simulator, "@sim:nonsense").complete, usage()), (true, None));
    let chunks = stream(&simulator, "@sim:abortusage events=10 delay_ms=0").chunks();
    assert_eq!(usage().unwrap().output, 1);
    assert_eq!(chunks.last().unwrap(), &json!({"type": "message_stop"}));
    let chunks = stream(&simulator, "@sim:multidelta").chunks();
    let deltas: Vec<_> = chunks.iter().filter(|chunk| chunk["type"] == "message_delta").collect();
    assert_eq!(deltas.len(), 3);
    assert_eq!(deltas[2]["usage"]["output_tokens"], usage().unwrap().output);
    let chunks = stream(&simulator, "@sim:cacheonlystart").chunks();
    assert_eq!(chunks[0]["message"]["usage"]["cache_read_input_tokens"], 1000);
    assert!(!chunks.last().unwrap().to_string().contains("ache"));
    assert_eq!(usage().unwrap().cache_read, 1000);
    let chunks = stream(&simulator, "@sim:cacheonlystop").chunks();
    assert!(!chunks[0].to_string().contains("ache"));
    assert_eq!(usage().unwrap().cache_read, 1000);
    let chunks = stream(&simulator, "@sim:metricsonly").chunks();
    assert_eq!(chunks.last().unwrap().as_object().unwrap().len(), 1);
}

#[actix_web::test]
async fn sizes_and_chunking_are_as_asked() {
    let simulator = simulator().await;

    let plain = stream(&simulator, "@sim:stream events=200");
    assert_eq!(
        plain.chunks().iter().filter(|chunk| chunk["delta"]["text"].is_string()).count(),
        200
    );
    assert_eq!(simulator.ledger().last().unwrap().usage.unwrap().output, 200);
    assert_eq!(stream(&simulator, "@sim:plain coalesce=1").frames().len(), 5 + 11);
    assert_eq!(stream(&simulator, "@sim:plain split=1").frames().len(), 5 + 11);
    let large = invoke(&simulator, "@sim:large kb=100").body.len();
    assert!((100 * 1024..103 * 1024).contains(&large), "{large}");
    let huge = stream(&simulator, "@sim:oneframe kb=300");
    assert!(huge.frames().iter().any(|frame| frame.2["p"].as_str().unwrap().len() >= 300 * 1024));
    let hops = invoke(&simulator, "@sim:hopheaders");
    assert_eq!(
        (hops.header("connection"), hops.header("x-internal")),
        (Some("x-foo"), Some("10.0.0.1"))
    );
    assert!(hops.json()["usage"].is_object() && hops.complete);
    assert!(stream(&simulator, "@sim:hopheaders").chunks().len() > 5);
}

#[actix_web::test]
async fn a_delay_comes_between_events_only() {
    let simulator = simulator().await;
    let begun = Instant::now();

    let answer = stream(&simulator, "@sim:stream events=5 delay_ms=20");

    assert_eq!(answer.frames().len(), 10);
    assert!(begun.elapsed() >= Duration::from_millis(9 * 20), "{:?}", begun.elapsed());
}

#[actix_web::test]
async fn size_limits_are_those_of_the_service() {
    let simulator = simulator().await;

    let most = invoke(&simulator, &"x".repeat(24_999_000));
    let more = invoke(&simulator, &"x".repeat(25_000_001));

    assert_eq!((most.status, more.status), (200, 400));
    assert_eq!(simulator.ledger().len(), 2);
}

#[actix_web::test]
async fn bearer_tokens_and_session_tokens_are_accepted_if_configured() {
    let simulator = Simulator::start(SimulatorConfig {
        bearer_token: Some("KEY".to_owned()),
        ..SimulatorConfig::default()
    });
    let simulator = simulator.await.unwrap();
    let (path, body) = (format!("{CLAUDE}/invoke"), hello("Hi").to_string());
    let headers = |key: &str| {
        [
            ("host".to_owned(), simulator.address().to_string()),
            ("authorization".to_owned(), format!("Bearer {key}")),
        ]
    };

    assert_eq!(send(&simulator, &path, &headers("KEY"), body.as_bytes()).status, 200);
    assert_eq!(send(&simulator, &path, &headers("OTHER"), body.as_bytes()).status, 403);
    assert_eq!(simulator.ledger().calls()[0].region, "us-east-1");
}

#[actix_web::test]
async fn other_processes_can_read_the_ledger() {
    let simulator = simulator().await;
    invoke(&simulator, "Hi");
    let get = |method: &str, page: &str| {
        let mut socket = TcpStream::connect(simulator.address()).unwrap();
        let head = format!("{method} /_simulator/{page} HTTP/1.1\r\nhost: x\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        read_answer(&mut std::io::BufReader::new(socket))
    };

    assert_eq!(get("GET", "health").json()["status"], "ok");
    let call = simulator.ledger().last().unwrap();
    let sent = hello("Hi").to_string();
    assert_eq!(get("GET", "last-body").body, sent.as_bytes());
    assert_eq!(get("GET", &format!("body/{}", call.request_id)).body, sent.as_bytes());
    assert_eq!(get("GET", "body/of-nobody").status, 404);
    let rows = get("GET", "ledger").json();
    assert_eq!((rows[0]["operation"].as_str(), &rows[0]["status"]), (Some("invoke"), &json!(200)));
    assert!(!rows.to_string().contains("Signature="));
    assert_eq!(get("DELETE", "ledger").status, 200);
    assert!(simulator.ledger().is_empty() && simulator.ledger().last_body().is_none());
    assert_eq!(get("GET", "else").status, 404);
}

#[test]
fn the_last_bodies_are_kept_within_bounds() {
    let ledger = Ledger::default();

    for number in 0..40 {
        ledger.keep_body(number.to_string(), number.to_string().as_bytes());
    }
    assert_eq!((ledger.body("7"), ledger.body("8").as_deref()), (None, Some(&b"8"[..])));
    assert_eq!(ledger.last_body().as_deref(), Some(&b"39"[..]));

    let large = vec![b' '; 25 * 1024 * 1024];
    for name in ["a", "b", "c"] {
        ledger.keep_body(name.to_owned(), &large);
    }
    assert!(ledger.body("39").is_none() && ledger.body("a").is_none());
    assert!(ledger.body("b").is_some() && ledger.body("c").is_some());
}

#[actix_web::test]
async fn nothing_that_arrives_makes_it_panic() {
    let simulator = simulator().await;
    let host = simulator.address().to_string();
    let bodies: [&[u8]; 12] = [
        b"", b"null", b"[]", b"{", b"{\"messages\":[{}]}", b"\xff\xfe", b"\"text\"",
        b"{\"anthropic_version\":1,\"max_tokens\":1e400,\"messages\":0}", b"@sim:", b"@sim:cut after=",
        b"{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":7}]}],\"system\":{\"cache_control\":{",
        b"{\"input\":{\"invokeModel\":{\"body\":\"@@\"}}}",
    ];
    let operations =
        ["invoke", "invoke-with-response-stream", "converse", "converse-stream", "count-tokens"];
    let models = [
        "anthropic.claude-3-haiku-20240307-v1%3A0",
        "meta.llama3",
        "amazon.nova-pro-v1%3A0",
        "%",
        "%zz",
        "%00",
        "%FF",
        "arn%3Aaws%3A",
        "..",
        "a%2Fb",
        "us.",
        "mistral.x",
    ];
    for body in bodies {
        for operation in operations {
            for model in models {
                let path = format!("/model/{model}/{operation}");
                let status = send(&simulator, &path, &signed(&host, &path, body), body).status;
                assert!((400..500).contains(&status), "{path} {body:?} {status}");
            }
        }
    }
    for authorization in [
        "",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=/,SignedHeaders=;,Signature=,",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/x/us-east-1/bedrock/aws4_request, SignedHeaders=, Signature=x",
    ] {
        let headers = [
            ("host".to_owned(), host.clone()),
            ("authorization".to_owned(), authorization.to_owned()),
            ("x-amz-date".to_owned(), "+99999101T000000Z".to_owned()),
        ];
        let status = send(&simulator, "/model//invoke?%", &headers, b"").status;
        assert!((400..500).contains(&status), "{authorization} {status}");
    }
}

#[test]
fn it_outlives_the_runtime_it_was_started_from_and_stops_when_dropped() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let simulator = runtime.block_on(Simulator::start(SimulatorConfig::default())).unwrap();
    drop(runtime);

    assert_eq!(invoke(&simulator, "Hi").status, 200);

    let address = simulator.address();
    drop(simulator);
    let begun = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(begun.elapsed() < WAIT);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[actix_web::test]
async fn stopping_cuts_open_calls() {
    let simulator = simulator().await;
    let host = simulator.address().to_string();
    let (path, body) = (format!("{CLAUDE}/invoke"), hello("@sim:hang").to_string());
    let headers = signed(&host, &path, body.as_bytes());
    let mut socket = open(&simulator, &path, &headers, body.as_bytes());
    assert!(simulator.ledger().wait_for(|calls| calls.len() == 1, WAIT).await);
    let (begun, ledger) = (Instant::now(), simulator.ledger().clone());

    simulator.stop().await;

    assert!(ledger.wait_for(|calls| calls.iter().all(|call| call.aborted), WAIT).await);
    assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
