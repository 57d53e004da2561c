//! What is refused of a Messages body, and by which models.

use super::*;

const NEW: &str = "us.anthropic.claude-opus-4-8";
const OPUS_4_6: &str = "us.anthropic.claude-opus-4-6-v1";
const OPUS_4_5: &str = "us.anthropic.claude-opus-4-5-20251101-v1:0";
const SONNET_4_5: &str = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
const SONNET_4: &str = "us.anthropic.claude-sonnet-4-20250514-v1:0";
const SONNET_3_7: &str = "us.anthropic.claude-3-7-sonnet-20250219-v1:0";
const HAIKU_3: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const OPAQUE: &str =
    "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6";

fn path(model: &str, operation: &str) -> String {
    format!("/model/{}/{operation}", model.replace(':', "%3A").replace('/', "%2F"))
}

/// What `model` says to a message with these members; empty if it answers.
fn said_to(simulator: &Simulator, model: &str, members: &Value) -> String {
    let mut body = hello("Hi");
    for (name, value) in members.as_object().unwrap() {
        body[name] = value.clone();
    }
    let answer = post(simulator, &path(model, "invoke"), &body);
    match answer.status {
        200 => String::new(),
        400 => answer.json()["message"].as_str().unwrap().to_owned(),
        other => panic!("{model} {members} {other}"),
    }
}

fn extra(path: &str) -> String {
    format!("{path}: Extra inputs are not permitted")
}

#[actix_web::test]
async fn betas_are_those_which_a_model_knows() {
    let simulator = simulator().await;
    let models = [HAIKU_3, SONNET_3_7, SONNET_4, SONNET_4_5, OPUS_4_5, OPUS_4_6, NEW, OPAQUE];
    for (beta, by) in [
        ("interleaved-thinking-2025-05-14", "11111111"),
        ("fine-grained-tool-streaming-2025-05-14", "11111111"),
        ("computer-use-2025-01-24", "01111001"),
        ("context-management-2025-06-27", "00111111"),
        ("tool-search-tool-2025-10-19", "00111111"),
        ("tool-examples-2025-10-29", "00111111"),
        ("context-1m-2025-08-07", "00110101"),
        ("effort-2025-11-24", "00001111"),
        ("computer-use-2025-11-24", "00001111"),
        ("compact-2026-01-12", "00000111"),
        ("thinking-binding-controls-2026-08-01", "00000011"),
        ("thinking-display-updates-2026-08-18", "00000011"),
        ("mid-conversation-output-config-2026-07-01", "00000011"),
        ("mid-conversation-tool-changes-2026-07-01", "00000011"),
        ("dangerous-tool-use-2026-09-03", "00000000"),
        ("prompt-caching-2024-07-31", "00000000"),
        ("extended-cache-ttl-2025-04-11", "00000000"),
        ("token-efficient-tools-2025-02-19", "00000000"),
        ("claude-code-20250219", "00000000"),
        ("advanced-tool-use-2025-11-20", "00000000"),
    ] {
        for (model, known) in models.iter().zip(by.chars()) {
            let said = said_to(&simulator, model, &json!({"anthropic_beta": [beta]}));
            let wanted = if known == '1' { "" } else { "invalid beta flag" };
            assert_eq!(said, wanted, "{beta} {model}");
        }
    }
}

#[actix_web::test]
async fn members_are_those_which_a_model_knows() {
    let simulator = simulator().await;
    let models = [HAIKU_3, SONNET_4, SONNET_4_5, OPUS_4_5, OPUS_4_6, NEW, OPAQUE];
    for (name, value, by) in [
        ("metadata", json!({"user_id": "x"}), "1111111"),
        ("stop_sequences", json!(["x"]), "1111111"),
        ("context_management", json!({"edits": []}), "0111111"),
        ("output_config", json!({"format": {}}), "0001111"),
        ("user_profile_id", json!("x"), "0000011"),
        ("safeguards", json!({}), "0000000"),
        ("cache_control", json!({"type": "ephemeral"}), "0000000"),
        ("service_tier", json!(null), "0000000"),
        ("invented", json!(1), "0000000"),
    ] {
        for (model, known) in models.iter().zip(by.chars()) {
            let said = said_to(&simulator, model, &json!({name: value}));
            let wanted = if known == '1' { String::new() } else { extra(name) };
            assert_eq!(said, wanted, "{name} {model}");
        }
    }
}

#[actix_web::test]
async fn members_need_their_betas_and_betas_their_members() {
    let simulator = simulator().await;
    let refused = "context_management";
    let edit = |kind: &str| json!({"edits": [{"type": kind}]});
    let (compact, clear) = (edit("compact_20260112"), edit("clear_tool_uses_20250919"));
    for (members, model, wanted) in [
        (json!({"anthropic_beta": []}), NEW, "anthropic_beta: List should have at least 1 item"),
        (json!({"anthropic_beta": "x"}), NEW, "anthropic_beta: Input should be a valid list"),
        (json!({"anthropic_beta": ["dangerous-tool-use-2026-09-03"], "safeguards": {}}), NEW, ""),
        (
            json!({"anthropic_beta": ["effort-2025-11-24"], "output_config": {"effort": "low"}}),
            OPUS_4_5,
            "",
        ),
        (json!({"output_config": {"effort": "low"}}), OPUS_4_5, "output_config.effort: +"),
        (json!({"output_config": {"effort": "low"}}), OPUS_4_6, ""),
        (json!({"context_management": compact, "anthropic_beta": ["compact-2026-01-12"]}), NEW, ""),
        (json!({"context_management": compact}), NEW, refused),
        (
            json!({"context_management": clear, "anthropic_beta": ["context-management-2025-06-27"]}),
            SONNET_4,
            "",
        ),
        (
            json!({"context_management": clear, "anthropic_beta": ["compact-2026-01-12"]}),
            NEW,
            refused,
        ),
        (
            json!({"context_management": edit("clear_thinking_20251015"), "anthropic_beta": ["context-management-2025-06-27"]}),
            NEW,
            refused,
        ),
        (json!({"context_management": {}}), NEW, refused),
        (json!({"context_management": {"edits": {}}}), NEW, refused),
        (json!({"context_management": []}), NEW, refused),
    ] {
        let said = said_to(&simulator, model, &members);
        match wanted {
            "context_management" => assert_eq!(said, extra(refused), "{members}"),
            wanted => {
                assert_eq!(said, wanted.replace('+', "Extra inputs are not permitted"), "{members}")
            }
        }
    }
}

#[actix_web::test]
async fn versions_and_thinking_are_those_of_the_model() {
    let simulator = simulator().await;
    let thinking = "thinking.type.enabled: Input should be 'adaptive' or 'disabled'";
    let budget = "max_tokens must be greater than thinking.budget_tokens";
    let enabled = |budget: u64| json!({"thinking": {"type": "enabled", "budget_tokens": budget}});
    for (members, model, wanted) in [
        (json!({"anthropic_version": "2026-10-21"}), NEW, ""),
        (json!({"anthropic_version": "2026-10-21"}), OPAQUE, ""),
        (
            json!({"anthropic_version": "2026-10-21"}),
            OPUS_4_6,
            "Invalid API version \"2026-10-21\" for this model.",
        ),
        (json!({"anthropic_version": "2023-06-01"}), NEW, "Invalid API version \"2023-06-01\"."),
        (
            json!({"anthropic_version": "2026-10-21", "top_k": 1}),
            NEW,
            "top_k: Extra inputs are not permitted",
        ),
        (json!({"top_k": 1}), NEW, ""),
        (enabled(100), OPUS_4_6, ""),
        (enabled(100), OPAQUE, ""),
        (enabled(256), OPUS_4_6, budget),
        (enabled(100), NEW, thinking),
        (json!({"thinking": {"type": "adaptive"}}), NEW, ""),
    ] {
        assert_eq!(said_to(&simulator, model, &members), wanted, "{members} {model}");
    }
}

#[actix_web::test]
async fn blocks_and_tools_have_nothing_that_is_not_known() {
    let simulator = simulator().await;
    let scoped = json!({"type": "ephemeral", "scope": "global"});
    let hour = json!({"type": "ephemeral", "ttl": "1h"});
    let text = |control: &Value| json!({"type": "text", "text": "x", "cache_control": control});
    let system =
        |control: &Value| json!({"system": [{"type": "text", "text": "x"}, text(control)]});
    let message = |blocks: Value| json!({"messages": [{"role": "user", "content": blocks}]});
    let tools = |tool: Value| json!({"tools": [tool]});
    let schema = json!({"type": "object", "cache_control": {"scope": 1}, "custom": 1});
    let result =
        |block: Value| json!({"type": "tool_result", "tool_use_id": "x", "content": [block]});
    for (members, model, wanted) in [
        (system(&hour), SONNET_4_5, ""),
        (system(&json!({"type": "ephemeral"})), HAIKU_3, ""),
        (system(&scoped), NEW, "system.1.cache_control.scope: +"),
        (system(&hour), SONNET_4, "system.1.cache_control.ttl: +"),
        (
            system(&json!({"type": "x"})),
            NEW,
            "system.1.cache_control.type: Input should be 'ephemeral'",
        ),
        (system(&json!({})), NEW, "system.1.cache_control.type: Field required"),
        (
            system(&json!({"type": "ephemeral", "ttl": "1d"})),
            NEW,
            "system.1.cache_control.ttl: Input should be '5m' or '1h'",
        ),
        (
            json!({"system": "x-anthropic-billing-header: cc_version=2"}),
            NEW,
            "system.0.text: x-anthropic-billing-header is a reserved keyword",
        ),
        (
            json!({"system": [{"type": "text", "text": "x-anthropic-billing-header: a"}]}),
            NEW,
            "system.0.text: x-anthropic-billing-header is a reserved keyword",
        ),
        (json!({"system": "No x-anthropic-billing-header: here"}), NEW, ""),
        (
            message(json!([{"type": "text", "text": "x"}, text(&scoped)])),
            NEW,
            "messages.0.content.1.text.cache_control.scope: +",
        ),
        (message(json!([text(&hour)])), SONNET_4, "messages.0.content.0.text.cache_control.ttl: +"),
        (
            message(json!([result(text(&scoped))])),
            NEW,
            "messages.0.content.0.tool_result.content.0.text.cache_control.scope: +",
        ),
        (message(json!([{"type": "tool_use", "id": "x", "name": "x", "input": schema}])), NEW, ""),
        (tools(json!({"name": "x", "input_schema": schema})), NEW, ""),
        (
            tools(json!({"name": "x", "cache_control": scoped})),
            NEW,
            "tools.0.custom.cache_control.scope: +",
        ),
        (
            tools(json!({"name": "x", "cache_control": hour})),
            SONNET_4,
            "tools.0.custom.cache_control.ttl: +",
        ),
        (tools(json!({"name": "x", "custom": {}})), NEW, "tools.0.custom.custom: +"),
    ] {
        let wanted = wanted.replace('+', "Extra inputs are not permitted");
        assert_eq!(said_to(&simulator, model, &members), wanted, "{members} {model}");
    }
}

#[actix_web::test]
async fn tools_need_their_betas() {
    let simulator = simulator().await;
    let search = "tool-search-tool-2025-10-19";
    for (tool, beta, refusal) in [
        (
            json!({"name": "x", "defer_loading": true}),
            search,
            extra("tools.0.custom.defer_loading"),
        ),
        (
            json!({"name": "x", "type": "custom", "input_examples": []}),
            "tool-examples-2025-10-29",
            extra("tools.0.custom.input_examples"),
        ),
        (
            json!({"name": "x", "eager_input_streaming": true}),
            "fine-grained-tool-streaming-2025-05-14",
            extra("tools.0.custom.eager_input_streaming"),
        ),
        (json!({"name": "x", "type": "tool_search_tool_regex_20251119"}), search, String::new()),
        (
            json!({"name": "x", "type": "computer_20250124"}),
            "computer-use-2025-01-24",
            String::new(),
        ),
        (
            json!({"name": "x", "type": "computer_20251124"}),
            "computer-use-2025-11-24",
            String::new(),
        ),
    ] {
        let refusal = match tool["type"].as_str() {
            Some(kind) if refusal.is_empty() => format!(
                "tools.0: Input tag '{kind}' found using 'type' does not match any of the expected tags"
            ),
            _ => refusal,
        };
        let with = json!({"tools": [tool], "anthropic_beta": [beta]});
        assert_eq!(said_to(&simulator, OPUS_4_5, &json!({"tools": [tool]})), refusal);
        assert_eq!(said_to(&simulator, OPUS_4_5, &with), "", "{tool}");
    }
    for kind in ["bash_20250124", "text_editor_20250728", "memory_20250818", "custom"] {
        let tools = json!({"tools": [{"type": kind, "name": "x"}]});
        assert_eq!(said_to(&simulator, NEW, &tools), "", "{kind}");
    }
    for kind in
        ["web_search_20250305", "web_fetch_1", "code_execution_1", "mcp_toolset", "advisor_1"]
    {
        let tools = json!({"tools": [{"type": kind, "name": "x"}]});
        assert!(said_to(&simulator, NEW, &tools).contains(&format!("Input tag '{kind}'")));
    }
}

#[actix_web::test]
async fn a_count_is_refused_for_what_a_call_is_refused_for() {
    let simulator = simulator().await;
    let count = |model: &str, name: &str, value: Value| {
        let mut body = hello("Hi");
        body[name] = value;
        let body = json!({"input": {"invokeModel": {"body": STANDARD.encode(body.to_string())}}});
        let answer = post(&simulator, &path(model, "count-tokens"), &body);
        (answer.status, answer.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    let bare = "anthropic.claude-opus-4-8";
    let profile =
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-8";
    let unsupported = (400, "The provided model doesn't support counting tokens.".to_owned());

    for model in [bare, profile, OPAQUE, "anthropic.claude-3-5-sonnet-20240620-v1:0"] {
        assert_eq!(count(model, "metadata", json!({})).0, 200, "{model}");
    }
    for model in [NEW, HAIKU_3, "anthropic.claude-3-opus-20240229-v1:0", "amazon.nova-lite-v1:0"] {
        assert_eq!(count(model, "metadata", json!({})), unsupported, "{model}");
    }
    assert_eq!(count(bare, "stream", json!(true)), (400, extra("stream")));
    assert_eq!(count(bare, "anthropic_beta", json!(["x"])), (400, "invalid beta flag".to_owned()));
}

#[actix_web::test]
async fn newer_models_are_invoked_through_profiles_which_exist() {
    let simulator = simulator().await;
    for (model, wanted) in [
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", ""),
        ("anthropic.claude-sonnet-4-20250514-v1:0", "on-demand"),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-opus-4-8", "on-demand"),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", ""),
        ("jp.anthropic.claude-opus-4-1-20250805-v1:0", "The provided model identifier is invalid."),
    ] {
        let wanted = match wanted {
            "on-demand" => format!(
                "Invocation of model ID {model} with on-demand throughput isn’t supported. Retry \
                 your request with the ID or ARN of an inference profile that contains this model."
            ),
            wanted => wanted.to_owned(),
        };
        assert_eq!(said_to(&simulator, model, &json!({})), wanted);
    }
}
