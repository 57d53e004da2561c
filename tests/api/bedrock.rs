//! The native routes: what goes upstream, what comes back, and how failures are told.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::helpers::{
    ARN, MODEL, PERSON, TestServer, TestServerBuilder, conversation, message, on_both_databases,
    spawn_app,
};

const FOUNDATION: &str = "anthropic.claude-sonnet-4-20250514-v1:0";

fn sha(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

fn received<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

on_both_databases!(every_operation_answers_and_has_its_row, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    let key = app.create_key(PERSON).await;
    let count = json!({"input": {"converse": conversation("hello")}});

    for (model, operation, name, body) in [
        (MODEL, "invoke", "invoke", message("hello")),
        (ARN, "invoke", "invoke", message("hello")),
        (MODEL, "invoke-with-response-stream", "invoke_stream", message("hello")),
        (ARN, "invoke-with-response-stream", "invoke_stream", message("hello")),
        (MODEL, "converse", "converse", conversation("hello")),
        (ARN, "converse-stream", "converse_stream", conversation("hello")),
        (FOUNDATION, "count-tokens", "count_tokens", count),
    ] {
        let reply = app.call(model, operation, &body).bearer(&key).send().await;

        assert_eq!(reply.status, 200, "{operation}: {reply:?}");
        assert!(reply.complete);
        let call = app.last_call();
        let row = app.row(&key).await;
        assert_eq!(row["operation"], name);
        assert_eq!(row["model_id"], model);
        assert_eq!(row["outcome"], "success");
        assert_eq!(row["estimated"], false, "{row}");
        assert_eq!(row["upstream_request_id"], call.request_id.as_str());
        assert_eq!(row["upstream_attempts"], 1);
        assert_eq!(reply.header("x-amzn-requestid"), Some(call.request_id.as_str()));
        match call.usage {
            Some(usage) if name != "count_tokens" => {
                assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(usage.input), &json!(usage.output)));
                assert_eq!(row["stop_reason"], "end_turn");
            }
            _ => assert_eq!(row["input_tokens"], Value::Null),
        }
    }
});

#[actix_web::test]
async fn a_body_goes_upstream_byte_for_byte() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let odd = "{ \"max_tokens\" : 10,\n\t\"anthropic_version\":\"bedrock-2023-05-31\", \"messages\":[{\"content\":\"\\u00e9 \u{1F600} 1.0e0\",\"role\":\"user\"}]  }\r\n";

    let reply =
        app.post(&format!("/bedrock/model/{MODEL}/invoke")).bearer(&key).body(odd).send().await;

    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(app.last_call().body_sha256, sha(odd.as_bytes()));
}

#[actix_web::test]
async fn headers_pass_by_the_list_and_no_credential_does() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let reply = app
        .call(MODEL, "invoke", &message("hello"))
        .bearer(&key)
        .header("x-api-key", &key)
        .header("accept", "application/json")
        .header("x-amzn-bedrock-trace", "ENABLED")
        .header("x-amzn-bedrock-request-metadata", r#"{"team": "one  two"}"#)
        .header("cookie", "a=b")
        .header("anthropic-beta", "x")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-amz-security-token", "stolen")
        .header("x-amz-date", "20200101T000000Z")
        .header("user-agent", "test")
        .header("x-stainless-lang", "python")
        .header("accept-encoding", "gzip")
        .header("connection", "x-amzn-bedrock-service-tier")
        .header("x-amzn-bedrock-service-tier", "flex")
        .send()
        .await;

    assert_eq!(reply.status, 200, "{reply:?}");
    let headers = app.last_call().received_headers;
    let mut names: Vec<String> =
        headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "date", // the HTTP library's own clock
            "host",
            "x-amz-date",
            "x-amzn-bedrock-request-metadata",
            "x-amzn-bedrock-trace"
        ]
    );
    assert_eq!(received(&headers, "content-type"), Some("application/json"));
    assert!(headers.iter().all(|(_, value)| !value.contains(&key)));
}

#[actix_web::test]
async fn response_headers_pass_by_the_list() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let reply = app.call(MODEL, "invoke", &message("@sim:hopheaders")).bearer(&key).send().await;

    assert_eq!(reply.status, 200);
    for name in ["set-cookie", "x-internal", "x-foo", "access-control-allow-origin"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    assert!(reply.header("x-amzn-requestid").is_some());
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert!(reply.header("x-request-id").is_some());
}

#[actix_web::test]
async fn a_wrong_model_id_is_told_in_bedrock_s_shape_and_goes_nowhere() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let long = "a".repeat(3000);
    for (id, status) in [
        ("..", 400),
        ("%2E%2E", 400),
        (".", 400),
        ("a%2Fb", 400),
        ("a/b", 400),
        ("../../health", 400),
        ("a%00", 400),
        ("a%20b", 400),
        ("a%0d%0ax:y", 400),
        ("%zz", 400),
        ("", 400),
        (";x", 400),
        (long.as_str(), 400),
        ("arn:aws:bedrock:eu-west-1:123456789012:inference-profile/x", 400),
        ("arn:aws-cn:bedrock:us-east-1:123456789012:inference-profile/x", 400),
        ("arn:aws:s3:us-east-1:123456789012:bucket/x", 400),
    ] {
        let reply = app
            .post(&format!("/bedrock/model/{id}/invoke"))
            .bearer(&key)
            .json(&message("hi"))
            .send()
            .await;

        assert_eq!(reply.status, status, "{id}: {reply:?}");
        assert_eq!(reply.error_type(), "ValidationException", "{id}");
        assert!(!reply.message().is_empty());
        assert!(reply.header("x-amzn-requestid").is_some());
    }
    for path in [
        "/bedrock/model/x/inv%6Fke",
        "/bedrock/model/x/other",
        "/bedrock/model/x",
        "/bedrock/model/x/INVOKE",
    ] {
        let reply = app.post(path).bearer(&key).json(&message("hi")).send().await;

        assert_eq!(reply.status, 404, "{path}: {reply:?}");
        assert_eq!(reply.error_type(), "ResourceNotFoundException", "{path}");
    }
    let reply = app.get(&format!("/bedrock/model/{MODEL}/invoke")).bearer(&key).send().await;
    assert_eq!(reply.status, 405, "{reply:?}");
    assert!(app.simulator.ledger().is_empty());
    assert!(app.rows(&key).await.is_empty());
}

#[actix_web::test]
async fn an_arn_with_raw_slashes_works_and_is_sent_as_one_segment() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let reply = app
        .post(&format!("/bedrock/model/{ARN}/invoke"))
        .bearer(&key)
        .json(&message("hi"))
        .send()
        .await;

    assert_eq!(reply.status, 200, "{reply:?}");
    let call = app.last_call();
    assert_eq!(call.model_id, ARN);
    assert!(call.raw_path.starts_with(
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic"
    ));
}

#[actix_web::test]
async fn an_arn_chooses_among_the_configured_regions_and_the_scope_follows() {
    let other = bedrock_sso_proxy::simulator::Simulator::start(
        bedrock_sso_proxy::simulator::SimulatorConfig {
            regions: vec!["eu-west-1".into()],
            ..Default::default()
        },
    )
    .await
    .unwrap();
    let regions = format!("[{{name: eu-west-1, endpoint_url: '{}'}}, us-west-2]", other.url());
    let app = TestServerBuilder::new()
        .set("AWS__REGIONS", regions)
        .set("AWS__ALLOWED_ACCOUNTS", "123456789012,210987654321")
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let arn = ARN.replace("us-east-1", "eu-west-1").replace("/us.", "/eu.");

    let reply = app.call(&arn, "invoke", &message("hi")).bearer(&key).send().await;
    let foreign = app
        .call(&arn.replace("123456789012", "999999999999"), "invoke", &message("hi"))
        .bearer(&key)
        .send()
        .await;

    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(other.ledger().len(), 1);
    let row = app.row(&key).await;
    assert_eq!((&row["region"], &row["model_id"]), (&json!("eu-west-1"), &json!(arn)));
    assert_eq!(foreign.status, 400);
    assert!(foreign.message().contains("allowed_accounts"), "{}", foreign.message());
}

#[actix_web::test]
async fn the_simulator_refuses_a_wrong_signature_and_the_client_sees_a_neutral_500() {
    let app =
        TestServerBuilder::new().set("AWS__SECRET_ACCESS_KEY", "not-the-secret").start().await;
    let key = app.create_key(PERSON).await;

    let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!(app.last_call().status, 403);
    assert_eq!((reply.status.as_u16(), reply.error_type()), (500, "InternalServerException"));
    assert!(!reply.message().to_lowercase().contains("signature"), "{}", reply.message());
    let metrics = metrics(&app).await;
    assert!(metrics.contains("bedrock_credential_failures_total 1"), "{metrics}");
    assert_eq!(app.row(&key).await["error_code"], "InvalidSignatureException");
}

async fn metrics(app: &TestServer) -> String {
    let response =
        awc::Client::default().get(app.metrics_url()).send().await.unwrap().body().await.unwrap();
    String::from_utf8(response.to_vec()).unwrap()
}

#[actix_web::test]
async fn temporary_keys_and_bedrock_api_keys_authorise_too() {
    let session = TestServerBuilder::new()
        .set("AWS__SESSION_TOKEN", "TOKEN/with+signs=")
        .simulator(|config| config.session_token = Some("TOKEN/with+signs=".into()))
        .start()
        .await;
    let bearer = TestServerBuilder::new()
        .set("AWS__ACCESS_KEY_ID", "")
        .set("AWS__SECRET_ACCESS_KEY", "")
        .set("AWS__BEARER_TOKEN", "bedrock-api-key-of-ours")
        .simulator(|config| config.bearer_token = Some("bedrock-api-key-of-ours".into()))
        .start()
        .await;
    for app in [session, bearer] {
        let key = app.create_key(PERSON).await;

        let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[actix_web::test]
async fn bedrock_s_own_errors_keep_status_words_and_retry_after() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for (scenario, status, code) in [
        ("throttle retry_after=7", 429, "ThrottlingException"),
        ("error code=ValidationException", 400, "ValidationException"),
        ("error code=ServiceQuotaExceededException", 400, "ServiceQuotaExceededException"),
        ("error code=AccessDeniedException", 403, "AccessDeniedException"),
        ("error code=ResourceNotFoundException", 404, "ResourceNotFoundException"),
        ("error code=ModelTimeoutException", 408, "ModelTimeoutException"),
        ("error code=ModelErrorException", 424, "ModelErrorException"),
        ("error code=ModelNotReadyException", 429, "ModelNotReadyException"),
        ("error code=InternalServerException", 500, "InternalServerException"),
        ("error code=ServiceUnavailableException", 503, "ServiceUnavailableException"),
    ] {
        for operation in ["invoke", "invoke-with-response-stream"] {
            let reply = app
                .call(MODEL, operation, &message(&format!("@sim:{scenario}")))
                .bearer(&key)
                .send()
                .await;

            assert_eq!(
                (reply.status.as_u16(), reply.error_type()),
                (status, code),
                "{operation} {scenario}"
            );
            assert!(!reply.message().is_empty());
            assert_eq!(
                reply.header("retry-after"),
                scenario.starts_with("throttle").then_some("7"),
                "{scenario}"
            );
            let row = app.row(&key).await;
            assert_eq!(
                (&row["outcome"], &row["error_code"]),
                (&json!("upstream_error"), &json!(code))
            );
            assert_eq!(row["status"], status);
        }
    }
}

#[actix_web::test]
async fn an_account_number_in_an_error_is_masked() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;

    let reply = app
        .call(MODEL, "invoke", &message("@sim:error code=AccessDeniedException"))
        .bearer(&key)
        .send()
        .await;

    let text = reply.message();
    assert!(text.contains("arn:aws:") && text.contains("***"), "{text}");
    assert!(!text.contains("123456789012") && !text.contains("role/"), "{text}");
}

#[actix_web::test]
async fn what_is_not_bedrock_s_answer_is_told_as_unavailable() {
    let app = TestServerBuilder::new().set("AWS__FIRST_BYTE_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    for (scenario, status, code, outcome, attempts) in [
        ("html status=502", 503, "ServiceUnavailableException", "upstream_error", 1),
        ("html status=200", 503, "ServiceUnavailableException", "upstream_error", 1),
        ("badjson status=500", 503, "ServiceUnavailableException", "upstream_error", 1),
        ("redirect", 503, "ServiceUnavailableException", "upstream_error", 1),
        ("reset", 503, "ServiceUnavailableException", "upstream_error", 2),
        ("credentials", 500, "InternalServerException", "upstream_error", 1),
        ("hang", 504, "ModelTimeoutException", "timeout", 1),
    ] {
        let reply = app
            .call(MODEL, "invoke", &message(&format!("@sim:{scenario}")))
            .bearer(&key)
            .send()
            .await;

        assert_eq!(
            (reply.status.as_u16(), reply.error_type()),
            (status, code),
            "{scenario}: {reply:?}"
        );
        let row = app.row(&key).await;
        assert_eq!(
            (&row["outcome"], &row["upstream_attempts"]),
            (&json!(outcome), &json!(attempts)),
            "{scenario}"
        );
        assert_eq!(row["input_tokens"], Value::Null);
        // What was never answered may have used anything.
        let unknown = outcome != "upstream_error";
        assert_eq!(
            (&row["estimated"], row["cost_usd"].is_null()),
            (&json!(unknown), unknown),
            "{scenario}"
        );
    }
    let half = app.call(MODEL, "invoke", &message("@sim:cut after=1")).bearer(&key).send().await;
    assert_eq!((half.status.as_u16(), half.error_type()), (503, "ServiceUnavailableException"));
    assert_eq!(app.row(&key).await["outcome"], "upstream_cut");
}

#[actix_web::test]
async fn an_upstream_that_is_down_is_a_503_and_a_row() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    app.simulator.stop().await;

    let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!(
        (reply.status.as_u16(), reply.error_type()),
        (503, "ServiceUnavailableException"),
        "{reply:?}"
    );
    assert_eq!(app.row(&key).await["outcome"], "upstream_error");
}

#[actix_web::test]
async fn a_body_over_the_limit_or_compressed_is_refused_before_upstream() {
    let app = TestServerBuilder::new().set("SERVER__MAX_BODY_BYTES", 100_000).start().await;
    let key = app.create_key(PERSON).await;
    let path = format!("/bedrock/model/{MODEL}/invoke");
    let fits = message(&"x".repeat(99_000)).to_string();

    let at_limit = app.post(&path).bearer(&key).body(fits).send().await;
    let over = app.post(&path).bearer(&key).body(vec![b' '; 100_001]).send().await;
    let compressed =
        app.post(&path).bearer(&key).header("content-encoding", "gzip").body("x").send().await;

    assert_eq!(at_limit.status, 200, "{at_limit:?}");
    assert_eq!((over.status.as_u16(), over.error_type()), (413, "ValidationException"));
    assert!(over.message().contains("max_body_bytes"));
    assert_eq!((compressed.status.as_u16(), compressed.error_type()), (415, "ValidationException"));
    assert_eq!(app.simulator.ledger().len(), 1);
}

#[actix_web::test]
async fn calls_beyond_the_caps_are_told_to_come_again() {
    let app = TestServerBuilder::new().set("SERVER__LIMITS__IN_FLIGHT_REQUESTS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let first = app.call(MODEL, "invoke", &message("@sim:slow delay_ms=600")).bearer(&key);
    let second = app.call(MODEL, "invoke", &message("hi")).bearer(&key);

    let ledger = app.simulator.ledger().clone();
    let (first, second) = tokio::join!(first.send(), async {
        assert!(ledger.wait_for(|calls| calls.len() == 1, Duration::from_secs(5)).await);
        second.send().await
    });
    let third = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!((first.status.as_u16(), third.status.as_u16()), (200, 200));
    assert_eq!((second.status.as_u16(), second.error_type()), (503, "ServiceUnavailableException"));
    assert_eq!(second.header("retry-after"), Some("1"));
}

#[actix_web::test]
async fn every_family_is_metered_to_the_token_streamed_and_not() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let prompt = json!({"prompt": "hello there"});
    let chat = json!({"messages": [{"role": "user", "content": "hello there"}]});
    let nova = json!({"messages": [{"role": "user", "content": [{"text": "hello there"}]}]});
    let text = json!({"inputText": "hello there"});
    let embed = json!({"texts": ["hello", "there"], "input_type": "search_query"});
    for (model, body, streams) in [
        (MODEL, message("hello"), true),
        ("amazon.nova-lite-v1:0", nova, true),
        ("amazon.titan-text-express-v1", text.clone(), true),
        ("amazon.titan-embed-text-v2:0", text, false),
        ("meta.llama3-8b-instruct-v1:0", prompt.clone(), true),
        ("mistral.mistral-7b-instruct-v0:2", prompt.clone(), true),
        ("mistral.mistral-large-2407-v1:0", chat.clone(), true),
        ("cohere.command-r-v1:0", json!({"message": "hello there"}), true),
        ("cohere.embed-english-v3", embed, false),
        ("ai21.jamba-1-5-mini-v1:0", chat.clone(), true),
        ("deepseek.r1-v1:0", prompt, true),
        ("deepseek.v3-v1:0", chat.clone(), true),
        ("openai.gpt-oss-20b-1:0", chat.clone(), true),
        ("qwen.qwen3-32b-v1:0", chat, true),
    ] {
        for operation in ["invoke", "invoke-with-response-stream"] {
            if !streams && operation != "invoke" {
                continue;
            }
            let reply = app.call(model, operation, &body).bearer(&key).send().await;

            assert_eq!(reply.status, 200, "{model} {operation}: {reply:?}");
            let usage =
                app.last_call().usage.unwrap_or_else(|| panic!("{model} {operation} used tokens"));
            let row = app.row(&key).await;
            assert_eq!(row["input_tokens"], usage.input, "{model} {operation}: {row}");
            if streams {
                assert_eq!(row["output_tokens"], usage.output, "{model} {operation}: {row}");
            }
            assert_eq!(
                (&row["outcome"], &row["estimated"]),
                (&json!("success"), &json!(false)),
                "{model} {operation}"
            );
        }
    }
}

#[actix_web::test]
async fn cache_tokens_are_kept_apart() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let cached = |ttl: &str| {
        json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100,
               "system": [{"type": "text", "text": format!("{ttl} {}", "long ".repeat(400)),
                           "cache_control": {"type": "ephemeral", "ttl": ttl}}],
               "messages": [{"role": "user", "content": "hi"}]})
    };
    let model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"; // older ones have no choice
    for ttl in ["5m", "1h"] {
        for operation in ["invoke", "invoke-with-response-stream"] {
            let reply = app.call(model, operation, &cached(ttl)).bearer(&key).send().await;

            assert_eq!(reply.status, 200);
            let usage = app.last_call().usage.unwrap();
            let row = app.row(&key).await;
            assert_eq!(row["cache_write_tokens"], usage.cache_write(), "{ttl} {operation}");
            assert_eq!(row["cache_write_1h_tokens"], usage.cache_write_1h, "{ttl} {operation}");
            assert_eq!(row["cache_read_tokens"], usage.cache_read, "{ttl} {operation}");
            assert_eq!(row["input_tokens"], usage.input);
            let total = usage.input + usage.output + usage.cache_write() + usage.cache_read;
            assert_eq!(row["total_tokens"], total);
        }
    }
}

#[actix_web::test]
async fn the_standard_chain_of_credentials_works_from_a_profile_file() {
    let folder = tempfile::tempdir().unwrap();
    let known = bedrock_sso_proxy::simulator::SimulatorConfig::default();
    let file = folder.path().join("credentials");
    let text = format!(
        "[work]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        known.access_key_id, known.secret_access_key
    );
    std::fs::write(&file, text).unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, "[profile work]\nregion = us-east-1\n").unwrap();
    let app = crate::lifecycle::Process::start_with(&[
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("BEDROCK_AWS__PROFILE", "work"),
        ("BEDROCK_AWS__ACCESS_KEY_ID", ""),
        ("BEDROCK_AWS__SECRET_ACCESS_KEY", ""),
        ("BEDROCK_AWS__REGION", ""),
    ])
    .await;
    let key = app.create_key();

    let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(app.simulator.ledger().last().unwrap().region, "us-east-1");
}

#[actix_web::test]
async fn without_credentials_the_service_starts_and_says_500_not_403() {
    let app = crate::lifecycle::Process::start_with(&[
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
        ("AWS_CONFIG_FILE", "/nonexistent"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("BEDROCK_AWS__ACCESS_KEY_ID", ""),
        ("BEDROCK_AWS__SECRET_ACCESS_KEY", ""),
    ])
    .await;
    let key = app.create_key();

    let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!(
        (reply.status.as_u16(), reply.error_type()),
        (500, "InternalServerException"),
        "{reply:?}"
    );
    assert_eq!(app.get("/health/ready").send().await.status, 200);
}
