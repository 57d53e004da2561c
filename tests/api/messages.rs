//! The Messages API: what of a request goes upstream, what comes back, and how failures are told.

mod events;

use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{
    ADMIN, PERSON, Reply, Request, TestServer, TestServerBuilder, messages, on_both_databases,
    spawn_app,
};

const PATH: &str = "/anthropic/v1/messages";
const SONNET_4_5: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";

fn post(app: &TestServer, key: &str, body: &Value) -> Request {
    app.post(PATH).bearer(key).json(body)
}

/// What upstream was sent last, as text.
fn sent(app: &TestServer) -> String {
    let body = app.simulator.ledger().last_body().expect("upstream was called");
    String::from_utf8(body.to_vec()).unwrap()
}

/// Status, type and message of an error in Anthropic's shape, which it must have in full.
fn told(reply: &Reply) -> (u16, String, String) {
    let body = reply.json();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{reply:?}")).to_owned();
    assert_eq!(body["type"], "error", "{reply:?}");
    assert_eq!(body["request_id"].as_str(), reply.header("request-id"), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    (reply.status.as_u16(), text(&body["error"]["type"]), text(&body["error"]["message"]))
}

#[actix_web::test]
async fn a_request_of_claude_code_goes_through_with_its_bytes_and_its_cache() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let session = "0b9a3c0e-54b4-4c57-8a4d-6d2f0f1c7a11";
    let long = "You are careful. ".repeat(400);
    let said = |build: u32| {
        format!(
            r#"{{"model":"claude-sonnet-4-5-20250929", "system":[{{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.{build}; cch=00000;"}},{{"type":"text","text":"{long}","cache_control":{{"type":"ephemeral","scope":"global"}}}}],"messages":[{{"role":"user","content":[{{"type":"text","text":"Hé 🦀 \ud83e","cache_control":{{"ttl":"5m","type":"ephemeral"}}}}]}}],"tools":[{{"name":"Bash","input_schema":{{"type":"object","scope":1.50}},"eager_input_streaming":true}}],"context_management":{{"edits":[{{"type":"clear_thinking_20251015","keep":"all"}},{{"type":"clear_tool_uses_20250919"}}]}},"metadata":{{"user_id":"u"}},"max_tokens":32000,"temperature":1.0,"stream":true}}"#
        )
    };
    let wanted = format!(
        r#"{{"anthropic_version":"bedrock-2023-05-31","anthropic_beta":["interleaved-thinking-2025-05-14","context-management-2025-06-27","fine-grained-tool-streaming-2025-05-14"], "system":[{{"type":"text","text":"{long}","cache_control":{{"type":"ephemeral"}}}}],"messages":[{{"role":"user","content":[{{"type":"text","text":"Hé 🦀 \ud83e","cache_control":{{"ttl":"5m","type":"ephemeral"}}}}]}}],"tools":[{{"name":"Bash","input_schema":{{"type":"object","scope":1.50}},"eager_input_streaming":true}}],"context_management":{{"edits":[{{"type":"clear_tool_uses_20250919"}}]}},"metadata":{{"user_id":"u"}},"max_tokens":32000,"temperature":1.0}}"#
    );
    for (build, read) in [(1, false), (2, true)] {
        let reply = app
            .post(&format!("{PATH}?beta=true"))
            .bearer(&key)
            .header("x-api-key", &key)
            .header("anthropic-version", "2023-06-01")
            .header("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14")
            .header(
                "anthropic-beta",
                "context-management-2025-06-27, prompt-caching-scope-2026-01-05",
            )
            .header("x-claude-code-session-id", session)
            .header("x-claude-code-agent-id", session)
            .body(said(build))
            .send()
            .await;

        assert!(reply.status == 200 && reply.complete, "{reply:?}");
        assert_eq!(sent(&app), wanted);
        let call = app.last_call();
        assert_eq!(call.model_id, format!("us.{SONNET_4_5}"));
        let names: Vec<&str> =
            call.received_headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!names.iter().any(|name| name.contains("claude-code") || name.contains("api-key")));
        let (usage, row) = (call.usage.unwrap(), app.row(&key).await);
        assert_eq!(usage.cache_read > 0, read, "the changing block must not defeat the cache");
        assert_eq!(row["cache_read_tokens"], usage.cache_read);
        assert_eq!(row["cache_write_tokens"], usage.cache_write());
        assert_eq!(row["client_session_id"], session);
        assert_eq!(row["client_agent_id"], session);
    }
}

on_both_databases!(a_row_says_what_was_asked_and_what_it_became, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    let key = app.create_key(PERSON).await;
    for streamed in [false, true] {
        let mut body = messages("hi");
        body["stream"] = json!(streamed);

        let reply = post(&app, &key, &body).send().await;

        assert!(reply.status == 200 && reply.complete, "{reply:?}");
        let (call, row) = (app.last_call(), app.row(&key).await);
        let usage = call.usage.unwrap();
        assert_eq!(row["endpoint_type"], "anthropic");
        assert_eq!(row["operation"], if streamed { "invoke_stream" } else { "invoke" });
        assert_eq!(row["model_requested"], "claude-sonnet-4-5");
        assert_eq!(row["model_id"], format!("us.{SONNET_4_5}"));
        assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(usage.input), &json!(usage.output)));
        assert_eq!((&row["outcome"], &row["stop_reason"]), (&json!("success"), &json!("end_turn")));
        assert_eq!(row["upstream_request_id"], call.request_id);
        assert_eq!(reply.header("request-id").unwrap(), format!("req_{}", row["request_id"].as_str().unwrap()));
        assert!(row["time_to_first_byte_ms"].is_i64() && row["estimated"] == false);
    }
});

#[actix_web::test]
async fn a_whole_answer_passes_byte_for_byte() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let answer = r#"{ "type":"message","content":[{"type":"hologram","n":1.0e2,"s":"\ud83e 🦀"}],"new":[null],"usage":{"input_tokens":3,"output_tokens":4}}"#;
    let body = messages(&format!("@sim:echo hex={}", hex(answer)));

    let reply = post(&app, &key, &body).send().await;

    assert_eq!(reply.body, answer);
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

pub fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[actix_web::test]
async fn failures_are_told_in_anthropic_s_words_with_those_of_aws() {
    let app = TestServerBuilder::new().set("AWS__FIRST_BYTE_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let validation = "Simulated ValidationException from Bedrock.";
    for (scenario, status, kind, message) in [
        ("error code=ValidationException", 400, "invalid_request_error", validation),
        ("error code=ServiceQuotaExceededException", 429, "rate_limit_error", "Simulated"),
        ("error code=AccessDeniedException", 403, "permission_error", "arn:aws:sts::***:***"),
        ("error code=ResourceNotFoundException", 404, "not_found_error", "The specified"),
        ("error code=FTUFormNotFilled", 404, "not_found_error", "Model use case details"),
        ("error code=ModelTimeoutException", 504, "timeout_error", "Simulated"),
        ("error code=ModelErrorException", 400, "invalid_request_error", "Simulated"),
        ("error code=ModelStreamErrorException", 500, "api_error", "Simulated"),
        ("throttle retry_after=7", 429, "rate_limit_error", "Too many requests, please wait"),
        ("error code=ModelNotReadyException", 529, "overloaded_error", "The model is not ready"),
        ("error code=InternalServerException", 500, "api_error", "Simulated"),
        ("error code=ServiceUnavailableException", 529, "overloaded_error", "The service isn't"),
        ("credentials", 500, "api_error", "The service cannot use Bedrock"),
        ("error code=ExpiredTokenException", 500, "api_error", "The service cannot use Bedrock"),
        ("html", 529, "overloaded_error", "Bedrock could not be reached"),
        ("html status=200", 529, "overloaded_error", "Bedrock could not be reached"),
        ("badjson status=500", 529, "overloaded_error", "Bedrock could not be reached"),
        ("badjson status=200", 529, "overloaded_error", "Bedrock"),
        ("redirect", 529, "overloaded_error", "Bedrock could not be reached"),
        ("reset", 529, "overloaded_error", "Bedrock"),
        ("hang", 504, "timeout_error", "Bedrock did not answer in time"),
        ("exception after=0", 429, "rate_limit_error", "Too many requests, please wait"),
        ("exception after=0 type=validationException", 400, "invalid_request_error", "Simulated"),
        ("exception after=0 type=modelTimeoutException", 504, "timeout_error", "Simulated"),
        ("errorframe after=0", 500, "api_error", "boom"),
        ("cut after=0", 529, "overloaded_error", "Bedrock's answer broke off"),
        ("cut_boundary after=0", 529, "overloaded_error", "Bedrock's answer broke off"),
        ("badcrc after=0", 529, "overloaded_error", "Bedrock's answer arrived damaged"),
    ] {
        for streamed in [true, false] {
            if !streamed && scenario.contains("after=") {
                continue;
            }
            let mut body = messages(&format!("@sim:{scenario}"));
            body["stream"] = json!(streamed);

            let reply = post(&app, &key, &body).send().await;

            let (code, name, text) = told(&reply);
            assert_eq!((code, name.as_str()), (status, kind), "{scenario} {streamed}: {reply:?}");
            assert!(text.starts_with(message) || text.contains(message), "{scenario}: {text}");
            let retry = scenario.contains("Quota").then_some("false");
            assert_eq!(reply.header("x-should-retry"), retry, "{scenario}");
            let after = scenario.contains("retry_after").then_some("7");
            assert_eq!(reply.header("retry-after"), after, "{scenario}");
            assert!(!text.contains("123456789012"), "{text}");
        }
    }
    let rows = app.rows(&key).await;
    assert!(rows.iter().all(|row| row["success"] == false && row["error_code"].is_string()));
    let metrics = crate::helpers::request_to("GET", &app.metrics_url(), "").send().await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("bedrock_credential_failures_total 4"), "{text}");
}

#[actix_web::test]
async fn bad_requests_are_refused_before_bedrock_hears_of_them() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let deep = format!(
        r#"{{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[{}{}]}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let with = |members: &str| {
        format!(
            r#"{{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[{{"role":"user","content":"hi"}}]{members}}}"#
        )
    };
    for (body, status, message) in [
        ("", 400, "not valid JSON: EOF"),
        ("{", 400, "not valid JSON: EOF"),
        ("[]", 400, "must be a JSON object"),
        ("{} x", 400, "trailing characters at line 1 column 4"),
        ("{}", 400, "model: Field required"),
        (r#"{"model":3}"#, 400, "model: Input should be"),
        (r#"{"model":""}"#, 400, "model: Input should be"),
        (r#"{"model":"claude-sonnet-4-5"}"#, 400, "messages: Field required"),
        (r#"{"model":"claude-sonnet-4-5","messages":{}}"#, 400, "messages: Input should be"),
        (r#"{"model":"claude-sonnet-4-5","messages":[]}"#, 400, "max_tokens: Field required"),
        (&with(r#","stream":"yes""#), 400, "stream: Input should be a valid boolean"),
        (&with(r#","model":"claude-opus-4-8""#), 400, "model: the member is there twice"),
        (&with(r#","mcp_servers":[{"url":"x"}]"#), 400, "mcp_servers: not available on Bedrock"),
        (&with(r#","tools":[{"type":"web_search_20250305"}]"#), 400, "web_search_20250305"),
        (&with(r#","anthropic_beta":7"#), 400, "anthropic_beta: "),
        (&deep, 400, "nested deeper than 128"),
        (r#"{"model":"claude-sonet","max_tokens":1,"messages":[]}"#, 404, "claude-sonnet-"),
        (
            r#"{"model":"gpt-4","max_tokens":1,"messages":[]}"#,
            404,
            "no model `gpt-4`; the nearest are",
        ),
        (
            r#"{"model":"us.amazon.nova-lite-v1:0","max_tokens":1,"messages":[]}"#,
            400,
            "/bedrock/model",
        ),
        (r#"{"model":"arn:aws:s3:::x","max_tokens":1,"messages":[]}"#, 400, "ARN is malformed"),
    ] {
        let reply = app.post(PATH).bearer(&key).body(body.to_owned()).send().await;

        let (code, kind, text) = told(&reply);
        let wanted = if status == 404 { "not_found_error" } else { "invalid_request_error" };
        assert_eq!((code, kind.as_str()), (status, wanted), "{body}: {reply:?}");
        assert!(text.contains(message), "{body}: {text}");
    }
    let not_text = app.post(PATH).bearer(&key).body(&b"{\"model\":\"\xff\"}"[..]).send().await;
    assert!(told(&not_text).2.contains("not UTF-8: byte 10"), "{not_text:?}");
    let unknown = post(&app, &key, &messages("hi")).header("anthropic-version", "2030-01-01");
    assert!(told(&unknown.send().await).2.contains("2030-01-01"));
    assert!(app.simulator.ledger().is_empty());
    assert!(app.rows(&key).await.is_empty(), "what never went upstream has no row");
}

#[actix_web::test]
async fn every_refusal_on_the_way_has_anthropic_s_shape() {
    let app = TestServerBuilder::new()
        .set("SERVER__MAX_BODY_BYTES", 100_000)
        .set("SERVER__LIMITS__IN_FLIGHT_BYTES", 200_000)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let large = format!(r#"{{"model":"{}"}}"#, "x".repeat(100_000));
    for (request, status, kind) in [
        (app.post(PATH).json(&messages("hi")), 401, "authentication_error"),
        (app.post(PATH).bearer("SSOK_no").json(&messages("hi")), 401, "authentication_error"),
        (post(&app, &key, &json!(1)).header("x-api-key", "other"), 400, "invalid_request_error"),
        (app.post(PATH).bearer(&key).body(large), 413, "request_too_large"),
        (
            post(&app, &key, &messages("hi")).header("content-encoding", "gzip"),
            415,
            "invalid_request_error",
        ),
        (app.get(PATH).bearer(&key), 405, "invalid_request_error"),
        (app.post("/anthropic/v1/messages/batches").bearer(&key), 404, "not_found_error"),
        (app.get("/anthropic/v1/files").bearer(&key), 404, "not_found_error"),
        (app.post("/anthropic/v1/complete").bearer(&key), 404, "not_found_error"),
        (app.get("/anthropic/x").bearer(&key), 404, "not_found_error"),
        (app.get("/anthropic").header("x-long", "x".repeat(40_000)), 431, "invalid_request_error"),
        (app.get("/anthropic/v1/models/nothing").bearer(&key), 404, "not_found_error"),
        (app.get("/anthropic/v1/models?limit=0").bearer(&key), 400, "invalid_request_error"),
        (app.get("/anthropic/v1/models?limit=x").bearer(&key), 400, "invalid_request_error"),
    ] {
        let reply = request.send().await;

        let (code, name, _) = told(&reply);
        assert_eq!((code, name.as_str()), (status, kind), "{reply:?}");
    }
    for method in ["GET", "HEAD"] {
        for path in ["/anthropic", "/anthropic/"] {
            assert_eq!(app.get(path).method(method).send().await.status, 200, "{method} {path}");
        }
    }
}

#[actix_web::test]
async fn names_lead_to_models_regions_and_prices() {
    let arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abcd";
    let aliases = format!(
        "{{fast: us.anthropic.claude-haiku-4-5-20251001-v1:0, ours: {{model: {arn}, base_model: \
         anthropic.claude-opus-4-8}}, Europe.1: {{model: eu.{SONNET_4_5}, region: eu-west-1}}}}"
    );
    let app = TestServerBuilder::new().set("MODELS__ALIASES", aliases);
    let app = app.simulator(|simulator| simulator.regions.push("eu-west-1".to_owned()));
    // One simulator answers for both regions.
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let app = app
        .simulator(|simulator| simulator.listen = listen)
        .set("AWS__REGIONS", format!("[{{name: eu-west-1, endpoint_url: 'http://{listen}'}}]"))
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let sonnet = format!("us.{SONNET_4_5}");
    for (name, id, billed, region) in [
        ("claude-sonnet-4-5", sonnet.as_str(), sonnet.as_str(), "us-east-1"),
        ("claude-sonnet-4-5-20250929[1m]", &sonnet, &sonnet, "us-east-1"),
        (
            "claude-opus-4-8",
            "us.anthropic.claude-opus-4-8",
            "us.anthropic.claude-opus-4-8",
            "us-east-1",
        ),
        (
            &format!("global.{SONNET_4_5}"),
            &format!("global.{SONNET_4_5}"),
            &format!("global.{SONNET_4_5}"),
            "us-east-1",
        ),
        (
            "fast",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "us-east-1",
        ),
        ("ours", arn, "anthropic.claude-opus-4-8", "eu-west-1"),
        ("Europe.1", &format!("eu.{SONNET_4_5}"), &format!("eu.{SONNET_4_5}"), "eu-west-1"),
    ] {
        let mut body = messages("hi");
        body["model"] = json!(name);

        let reply = post(&app, &key, &body).send().await;

        assert_eq!(reply.status, 200, "{name}: {reply:?}");
        let (call, row) = (app.last_call(), app.row(&key).await);
        assert_eq!((call.model_id.as_str(), call.region.as_str()), (id, region), "{name}");
        assert_eq!(row["model_requested"], name);
        assert_eq!((&row["model_id"], &row["region"]), (&json!(billed), &json!(region)), "{name}");
        let flagged = sent(&app).contains("context-1m-2025-08-07");
        assert_eq!(flagged, name.ends_with("[1m]"), "{name}");
    }
}

#[actix_web::test]
async fn the_api_version_is_the_newest_that_client_and_model_both_know() {
    let app = TestServerBuilder::new()
        .set("MODELS__ALIASES", "{wrong: {model: global.anthropic.claude-sonnet-4-6, base_model: anthropic.claude-opus-4-8}}")
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let old = "bedrock-2023-05-31";
    for (model, header, version, attempts) in [
        ("claude-opus-4-8", None, old, 1),
        ("claude-opus-4-8", Some("2023-06-01"), old, 1),
        ("claude-opus-4-8", Some("2026-10-21"), "2026-10-21", 1),
        ("claude-sonnet-4-5", Some("2026-10-21"), old, 1),
        ("claude-sonnet-4-6", Some("2026-10-21"), old, 1),
        ("claude-opus-4-6", Some("2026-10-21"), old, 1),
        // The operator was wrong about this one; Bedrock says so, once.
        ("wrong", Some("2026-10-21"), old, 2),
        ("wrong", Some("2026-10-21"), old, 1),
    ] {
        let mut body = messages("hi");
        body["model"] = json!(model);
        let mut request = post(&app, &key, &body);
        if let Some(version) = header {
            request = request.header("anthropic-version", version);
        }

        let reply = request.send().await;

        assert_eq!(reply.status, 200, "{model} {header:?}: {reply:?}");
        assert!(sent(&app).contains(&format!(r#""anthropic_version":"{version}""#)), "{model}");
        assert_eq!(app.row(&key).await["upstream_attempts"], attempts, "{model} {header:?}");
    }
}

#[actix_web::test]
async fn what_bedrock_refuses_is_left_out_once_learned_and_admins_see_it() {
    let app = spawn_app().await;
    let (key, admin) = (app.create_key(PERSON).await, app.create_token(ADMIN).await);
    let mut unknown_member = messages("hi");
    unknown_member["experiment"] = json!({"deep": [1]});
    let mut effort = messages("hi");
    effort["output_config"] = json!({"effort": "low"});
    for (body, betas, refused, kept) in [
        (
            &messages("hi"),
            "totally-new-2027-01-01,interleaved-thinking-2025-05-14",
            "totally-new",
            "interleaved-thinking",
        ),
        (&unknown_member, "interleaved-thinking-2025-05-14", "experiment", "interleaved-thinking"),
        (&effort, "effort-2025-11-24", "effort", "messages"),
    ] {
        for attempts in [2, 1] {
            for _streamed in [false, true] {
                let reply = post(&app, &key, body).header("anthropic-beta", betas).send().await;

                assert_eq!(reply.status, 200, "{betas}: {reply:?}");
                assert!(!sent(&app).contains(refused), "{}", sent(&app));
                assert!(sent(&app).contains(kept), "{}", sent(&app));
                let row = app.row(&key).await;
                assert_eq!(
                    (&row["upstream_attempts"], &row["outcome"]),
                    (&json!(attempts), &json!("success")),
                    "{betas}"
                );
                if attempts == 2 {
                    break;
                }
            }
        }
    }

    let learned = app.get("/api/admin/models/learned").bearer(&admin).send().await.json();
    let names: Vec<(&str, &str)> = learned["learned"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            assert_eq!(
                (&one["model_id"], &one["region"]),
                (&json!(SONNET_4_5), &json!("us-east-1"))
            );
            (one["kind"].as_str().unwrap(), one["name"].as_str().unwrap())
        })
        .collect();
    assert!(names.contains(&("beta", "totally-new-2027-01-01")), "{names:?}");
    assert!(names.contains(&("field", "experiment")), "{names:?}");
    let mut other = unknown_member.clone();
    other["model"] = json!("claude-opus-4-5");
    assert_eq!(post(&app, &key, &other).send().await.status, 200);
    assert_eq!(app.row(&key).await["upstream_attempts"], 2, "learned for one model alone");
}

#[actix_web::test]
async fn what_would_change_the_answer_is_never_left_out_for_having_been_refused() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let with = |model: &str, member: &str, value: Value| {
        let mut body = messages("hi");
        body["model"] = json!(model);
        body[member] = value;
        body
    };
    let format = json!({"format": {"type": "json_schema", "schema": {}}, "effort": "low"});
    for (body, member) in [
        (with("claude-opus-4-8", "temperature", json!(0.5)), "temperature"),
        (with("claude-sonnet-4-5", "output_config", format.clone()), "output_config"),
        (with("claude-sonnet-4-5", "experiment", json!(1)), ""),
        (with("claude-sonnet-4-5", "output_config", json!({"effort": "low"})), ""),
        (with("claude-sonnet-4-5", "output_config", format), "output_config"),
    ] {
        let reply = post(&app, &key, &body).header("anthropic-version", "2026-10-21").send().await;

        if member.is_empty() {
            assert_eq!(reply.status, 200, "{reply:?}");
        } else {
            let (status, _, message) = told(&reply);
            assert_eq!(status, 400, "{body}");
            assert!(message.starts_with(&format!("{member}: Extra inputs")), "{message}");
        }
    }
}

#[actix_web::test]
async fn a_refused_flag_takes_no_tool_and_nothing_essential_along() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let mut guarded = messages("hi");
    (guarded["model"], guarded["safeguards"]) = (json!("claude-sonnet-5"), json!({"x": 1}));
    let mut tool = messages("hi");
    tool["tools"] = json!([{"type": "computer_20251124", "name": "computer"},
                           {"name": "a", "input_schema": {"type": "object"}}]);
    let with =
        |body: &Value, flag: &str| post(&app, &key, body).header("anthropic-beta", flag).send();

    assert_eq!(post(&app, &key, &guarded).send().await.status, 200);
    assert_eq!(with(&guarded, "new-1-2027-01-01").await.status, 200, "the other flag was it");
    assert!(sent(&app).contains("safeguards") && sent(&app).contains("dangerous-tool-use"));
    for _ in 0..2 {
        let (status, _, message) = told(&with(&tool, "computer-use-2025-11-24").await);
        assert_eq!((status, message.as_str()), (400, "invalid beta flag"));
        assert!(sent(&app).contains("computer_20251124"), "{}", sent(&app));
    }
}

#[actix_web::test]
async fn of_two_refusals_the_first_is_learned_so_that_the_next_call_gets_further() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let mut body = messages("hi");
    body["new_thing"] = json!({"a": 1});
    let ask = || post(&app, &key, &body).header("anthropic-beta", "new-1-2027-01-01").send();

    assert_eq!(told(&ask().await).0, 400);
    assert_eq!(ask().await.status, 200);
    assert!(!sent(&app).contains("new_thing") && !sent(&app).contains("new-1"));
}

#[actix_web::test]
async fn what_one_version_of_the_api_refuses_the_other_may_take() {
    let app = TestServerBuilder::new()
        .set("MODELS__ESSENTIAL", "thinking") // else the temperature would not be left out at all
        .start()
        .await;
    let (key, admin) = (app.create_key(PERSON).await, app.create_token(ADMIN).await);
    let mut body = messages("hi");
    (body["model"], body["temperature"]) = (json!("claude-opus-4-8"), json!(0.5));
    for (version, kept, attempts) in
        [("2026-10-21", false, 2), ("2023-06-01", true, 1), ("2026-10-21", false, 1)]
    {
        let reply = post(&app, &key, &body).header("anthropic-version", version).send().await;

        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(sent(&app).contains("temperature"), kept, "{version}");
        assert_eq!(app.row(&key).await["upstream_attempts"], attempts, "{version}");
    }
    let learned = app.get("/api/admin/models/learned").bearer(&admin).send().await.json();
    assert_eq!(learned["learned"][0]["anthropic_version"], "2026-10-21");
}

#[actix_web::test]
async fn nothing_is_remembered_if_the_operator_says_so_and_the_second_refusal_is_told() {
    let app = TestServerBuilder::new().set("MODELS__LEARN_FOR_SECONDS", 0).start().await;
    let key = app.create_key(PERSON).await;
    let mut body = messages("hi");
    body["experiment"] = json!(1);
    for _ in 0..2 {
        assert_eq!(post(&app, &key, &body).send().await.status, 200);
        assert_eq!(app.row(&key).await["upstream_attempts"], 2);
    }
    let stubborn = messages("@sim:error code=ValidationException");
    assert_eq!(post(&app, &key, &stubborn).send().await.status, 400);
    assert_eq!(app.row(&key).await["upstream_attempts"], 1, "there was nothing to leave out");
}

#[actix_web::test]
async fn tables_are_the_operator_s() {
    let app = TestServerBuilder::new()
        .set("MODELS__BETAS", "{mine-2027-01-01: drop, fast-mode-*: ~}")
        .set("MODELS__FIELDS", "{metadata: drop, speed: keep, experiment: refuse}")
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let mut body = messages("hi");
    body["metadata"] = json!({"user_id": "x"});
    let reply =
        post(&app, &key, &body).header("anthropic-beta", "mine-2027-01-01,claude-code-1").send();
    assert_eq!(reply.await.status, 200);
    assert!(!sent(&app).contains("metadata") && !sent(&app).contains("anthropic_beta"));
    assert_eq!(app.row(&key).await["upstream_attempts"], 1);
    body["experiment"] = json!(1);
    assert!(told(&post(&app, &key, &body).send().await).2.starts_with("experiment: not available"));
}

#[actix_web::test]
async fn tokens_are_counted_by_bedrock_or_not_at_all() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let count = |model: &str, more: Value| {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": "How many?"}],
                              "thinking": {"type": "enabled", "budget_tokens": 5000}});
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        app.post(&format!("{PATH}/count_tokens?beta=true")).bearer(&key).json(&body).send()
    };

    let counted = count("claude-sonnet-4-5", json!({})).await;
    let refused = count("claude-3-haiku", json!({"thinking": null})).await;

    assert_eq!(counted.status, 200, "{counted:?}");
    let (call, whole) = (&app.simulator.ledger().calls()[0], counted.json());
    assert!(whole["input_tokens"].as_u64().unwrap() > 0 && whole.as_object().unwrap().len() == 1);
    assert_eq!((call.operation.as_str(), call.model_id.as_str()), ("count-tokens", SONNET_4_5));
    let (status, kind, message) = told(&refused);
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
    assert!(message.contains("doesn't support counting tokens"), "{message}");
    let rows = app.rows(&key).await;
    for row in &rows {
        assert_eq!(
            (&row["operation"], &row["cost_usd"]),
            (&json!("count_tokens"), &json!("0.000000000"))
        );
        assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(rows.len(), 2);
}

#[actix_web::test]
async fn models_are_listed_page_by_page_and_found_by_any_name() {
    let app = TestServerBuilder::new()
        .set("MODELS__ALIASES", "{claude-ours: us.anthropic.claude-opus-4-8}")
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let list = |query: String| {
        let request = app.get(&format!("/anthropic/v1/models{query}")).bearer(&key);
        async move { request.send().await.json() }
    };
    let ids = |page: &Value| -> Vec<String> {
        let data = page["data"].as_array().unwrap().iter();
        data.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };

    let whole = list("?limit=1000".to_owned()).await;
    let all = ids(&whole);
    let (mut paged, mut query) = (Vec::new(), "?limit=7".to_owned());
    loop {
        let page = list(query).await;
        assert_eq!(page["last_id"], page["data"].as_array().unwrap().last().unwrap()["id"]);
        paged.extend(ids(&page));
        if page["has_more"] == false {
            break;
        }
        query = format!("?limit=7&after_id={}", page["last_id"].as_str().unwrap());
    }
    let before = list(format!("?limit=2&before_id={}", all[5])).await;

    assert_eq!((all.len() > 20, &paged), (true, &all));
    assert_eq!((ids(&before), &before["has_more"]), (all[3..5].to_vec(), &json!(true)));
    assert_eq!(ids(&list(String::new()).await).len(), 20);
    assert_eq!((all[0].as_str(), &whole["has_more"]), ("claude-ours", &json!(false)));
    let retired = list("?lifecycle=retired".to_owned()).await;
    assert_eq!(retired, json!({"data": [], "has_more": false, "first_id": null, "last_id": null}));
    let deprecated = list("?lifecycle[]=deprecated".to_owned()).await;
    assert!(
        deprecated["data"].as_array().unwrap().iter().all(|one| one["lifecycle"] == "deprecated")
    );
    for (name, id) in [
        ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        ("claude-ours", "claude-ours"),
        ("claude-opus-4-8[1m]", "claude-opus-4-8"),
        ("anthropic%2Fclaude-opus-4-8", "claude-opus-4-8"),
    ] {
        let one = app.get(&format!("/anthropic/v1/models/{name}")).bearer(&key).send().await;
        let model = one.json();
        assert_eq!((&model["id"], &model["type"]), (&json!(id), &json!("model")), "{name}");
        assert!(model["created_at"].as_str().unwrap().ends_with("T00:00:00Z"));
    }
}

#[actix_web::test]
async fn a_body_of_the_largest_size_passes_and_one_byte_more_does_not() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let frame = messages("").to_string().len();
    for (more, status) in [(0, 200), (1, 413)] {
        let body = messages(&"x".repeat(10 * 1024 * 1024 - frame + more)).to_string();
        assert_eq!(body.len(), 10 * 1024 * 1024 + more);

        let reply = app.post(PATH).bearer(&key).body(body).send().await;

        assert_eq!(reply.status.as_u16(), status, "{reply:?}");
    }
    let free = crate::helpers::eventually(Duration::from_secs(5), || async {
        app.shared().gate.plain_calls() == 0
    });
    assert!(free.await);
}
