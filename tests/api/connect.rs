//! `/connect`: the lines for tools, and the call that tests the way.

use serde_json::json;

use crate::helpers::{Browser, Reply, TestServer, TestServerBuilder, field};

const DEVELOPER: &str = "1002";
const MODEL: &str = "claude-opus-4-8";
const MODEL_ID: &str = "us.anthropic.claude-opus-4-8";
const NOWHERE: &str = "jp.anthropic.claude-opus-4-1-20250805-v1:0";

fn html(page: &Reply) -> String {
    String::from_utf8_lossy(&page.body).into_owned()
}

async fn start() -> (TestServer, Browser) {
    let app = TestServerBuilder::new().sign_in().unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    (app, browser)
}

async fn test(browser: &Browser, model: &str, way: &str) -> Reply {
    let csrf = browser.csrf().await;
    browser.form("/connect/test", &[("csrf_token", &csrf), ("model", model), ("way", way)]).await
}

async fn rows(app: &TestServer, browser: &Browser) -> Vec<serde_json::Value> {
    app.settle().await;
    browser.get("/api/usage/records").await.json()["records"].as_array().unwrap().clone()
}

#[actix_web::test]
async fn a_test_is_a_call_like_any_other_in_both_ways() {
    let (app, browser) = start().await;
    for (way, operation) in [("anthropic", "invoke"), ("bedrock", "converse")] {
        let reply = test(&browser, MODEL, way).await;

        let page = html(&reply);
        assert_eq!(reply.status, 200, "{page}");
        assert!(page.contains("It works") && page.contains("simulated reply"), "{page}");
        let rows = rows(&app, &browser).await;
        let row = &rows[0];
        assert_eq!(row["endpoint_type"], way);
        assert_eq!(row["operation"], operation, "{row}");
        assert_eq!(row["model_id"], MODEL_ID);
        assert_eq!(row["outcome"], "success");
        assert_eq!(row["key_id"], serde_json::Value::Null);
        assert!(row["input_tokens"].as_i64().is_some_and(|tokens| tokens > 0), "{row}");
        assert_eq!(row["request_id"], reply.header("x-request-id").unwrap());
        assert!(page.contains(row["request_id"].as_str().unwrap()), "{page}");
        // What the browser says of itself is not about the call.
        let call = app.last_call();
        for name in ["content-type", "accept"] {
            let line = call.received_headers.iter().find(|(known, _)| known == name);
            assert_eq!(line.map(|(_, value)| value.as_str()), Some("application/json"), "{name}");
        }
    }
    assert_eq!(rows(&app, &browser).await.len(), 2);
}

#[actix_web::test]
async fn a_failure_is_told_as_a_client_is_told_it() {
    let (app, browser) = start().await;
    for (model, way, status, text) in [
        ("no-such-model", "anthropic", "404", "there is no model"),
        ("no-such-model", "bedrock", "400", ""),
        // Bedrock has no such profile.
        (NOWHERE, "anthropic", "400", "The provided model identifier is invalid."),
        (NOWHERE, "bedrock", "400", "The provided model identifier is invalid."),
        ("<script>alert(1)</script>", "anthropic", "404", "&#60;script&#62;"),
        ("", "anthropic", "400", ""),
        (&"x".repeat(5000), "bedrock", "400", ""),
        ("../../admin", "bedrock", "400", ""),
    ] {
        let reply = test(&browser, model, way).await;

        let page = html(&reply);
        assert_eq!(reply.status, 200, "{model} {way}: {page}");
        assert!(page.contains("It does not work"), "{model} {way}: {page}");
        assert!(page.contains(&format!("<strong>{status} ")), "{model} {way}: {page}");
        assert!(page.contains(text) && !page.contains("<script>alert"), "{model} {way}: {page}");
    }
    let failed = rows(&app, &browser).await;
    assert_eq!(failed.len(), 3, "what came to Bedrock has its row: {failed:?}");
    assert!(failed.iter().all(|row| row["outcome"] == "upstream_error"), "{failed:?}");
}

#[actix_web::test]
async fn the_form_decides_nothing_but_model_and_way() {
    let (app, browser) = start().await;
    let csrf = browser.csrf().await;
    for more in [("prompt", "x"), ("max_tokens", "9999"), ("way", "anthropic"), ("stream", "true")]
    {
        let fields = [("csrf_token", csrf.as_str()), ("model", MODEL), ("way", "anthropic"), more];
        assert_eq!(browser.form("/connect/test", &fields).await.status, 400, "{more:?}");
    }
    let fields = [("csrf_token", csrf.as_str()), ("model", MODEL), ("way", "else")];
    assert_eq!(browser.form("/connect/test", &fields).await.status, 400);
    // Without the token, nothing is called; and a session is good for no inference route.
    let unsigned = browser.form("/connect/test", &[("model", MODEL), ("way", "anthropic")]).await;
    assert_eq!(unsigned.status, 403);
    let body =
        json!({"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]});
    let request = browser.request("POST", "/anthropic/v1/messages").header("x-csrf-token", &csrf);
    assert_eq!(browser.send(request.json(&body)).await.status, 401);
    assert!(app.simulator.ledger().is_empty());
}

#[actix_web::test]
async fn a_test_is_limited_as_calls_are() {
    let app = TestServerBuilder::new()
        .sign_in()
        .set("RATE_LIMITS__INFERENCE_PER_MINUTE_PER_USER", 1)
        .start()
        .await;
    let browser = app.signed_in(DEVELOPER).await;
    assert!(html(&test(&browser, MODEL, "anthropic").await).contains("It works"));

    let limited = test(&browser, MODEL, "bedrock").await;

    assert!(html(&limited).contains("<strong>429 ThrottlingException"), "{}", html(&limited));
}

#[actix_web::test]
async fn the_lines_have_this_services_address_and_the_model_that_was_picked() {
    let (app, browser) = start().await;
    let page = browser.get(&format!("/connect?model={MODEL}")).await;
    let shown = html(&page);
    let base = app.shared().sign_in.public_url.clone();
    for text in [
        format!("bedrock_proxy login {base}"),
        format!("ANTHROPIC_BASE_URL={base}/anthropic"),
        format!("ANTHROPIC_MODEL={MODEL}\n").trim().to_owned(),
        format!("ANTHROPIC_BEDROCK_BASE_URL={base}/bedrock"),
        format!("{base}/bedrock/model/{MODEL_ID}/converse"),
        "refuses to send a key over plain HTTP".to_owned(),
    ] {
        assert!(shown.contains(&text), "{text}: {shown}");
    }
    assert!(!field(&page, "csrf_token").is_empty());

    let unknown = browser.get("/connect?model=%22%3E%3Cscript%3E").await;
    assert_eq!(unknown.status, 400);
    assert!(
        html(&unknown).contains("No model of this name") && !html(&unknown).contains("\"><script>")
    );
    assert_eq!(browser.get("/connect?model=&other=1").await.status, 200);
}
