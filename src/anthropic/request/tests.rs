mod bodies;
mod flags;
mod members;

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use crate::settings::{Need, Settings};

const SONNET_4_5: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";
const OPUS_4_5: &str = "anthropic.claude-opus-4-5-20251101-v1:0";
const OPUS_4_8: &str = "anthropic.claude-opus-4-8";
const HAIKU_3: &str = "anthropic.claude-3-haiku-20240307-v1:0";

static SHIPPED: LazyLock<Settings> = LazyLock::new(|| {
    let secret = ("BEDROCK_JWT__SECRET".to_owned(), "xK3v0Qm8sZp1Lr7TnW5yBd2HfJ9cGu4E".to_owned());
    Settings::from_layers(None, [secret].into_iter(), Need::Database).unwrap()
});
/// The tables as they are shipped.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::new(&SHIPPED.models, &SHIPPED.anthropic));

/// The shipped tables with some rows of an operator's.
fn rules_with(betas: &str, fields: &str) -> Rules {
    let mut models = SHIPPED.models.clone();
    models.betas.append(&mut serde_yaml::from_str(betas).unwrap());
    models.fields.append(&mut serde_yaml::from_str(fields).unwrap());
    Rules::new(&models, &SHIPPED.anthropic)
}

/// A request, most of which is the same in most tests.
struct Asked<'a> {
    base: &'a str,
    long_context: bool,
    headers: Headers,
    learned: Vec<Refused>,
    rules: &'a Rules,
    counting: bool,
}

/// A request to a model with flags in the header.
fn to<'a>(base: &'a str, flags: &[&str]) -> Asked<'a> {
    let betas = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let headers = Headers { betas, ..Headers::default() };
    Asked { base, long_context: false, headers, learned: vec![], rules: &RULES, counting: false }
}

impl Asked<'_> {
    fn edit(&self, body: impl AsRef<[u8]>) -> Result<Edited, Wrong> {
        let body = Bytes::copy_from_slice(body.as_ref());
        let incoming = Incoming::read(body, self.rules, self.counting)?;
        let target = Target { base: self.base, long_context: self.long_context };
        let edited = incoming.edit(self.rules, &self.headers, target, &self.learned)?;
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&edited.body).is_ok());
        let again = Incoming::reread(edited.body.clone(), self.rules).unwrap();
        let again = again.edit(self.rules, &Headers::default(), target, &self.learned).unwrap();
        assert_eq!(again.body, edited.body, "what is edited needs no edit");
        Ok(edited)
    }

    /// The flags that are sent, and what becomes of `members` in a body that is fine without them.
    #[track_caller]
    fn keeps(&self, members: &str) -> (Vec<String>, String) {
        let comma = if members.is_empty() { "" } else { "," };
        let body = format!(r#"{{"model":"m",{members}{comma}"max_tokens":9,"messages":[]}}"#);
        let edited = self.edit(body).unwrap();
        let flags = match edited.betas.is_empty() {
            true => String::new(),
            false => format!(r#""anthropic_beta":{},"#, json!(edited.betas)),
        };
        let version = if edited.new_version { "2026-10-21" } else { "bedrock-2023-05-31" };
        let text = std::str::from_utf8(&edited.body).unwrap();
        let rest = text.strip_prefix(&format!(r#"{{"anthropic_version":"{version}",{flags}"#));
        let rest = rest.unwrap().strip_suffix(r#""max_tokens":9,"messages":[]}"#).unwrap();
        (edited.betas, rest.strip_suffix(',').unwrap_or(rest).to_owned())
    }
}

/// The text of an error that a request gets.
fn error(body: impl AsRef<[u8]>) -> String {
    to(SONNET_4_5, &[]).edit(body).unwrap_err().to_string()
}

fn refuses(flag: &str) -> Vec<Refused> {
    vec![Refused::Beta(flag.to_owned())]
}

fn field(path: &str) -> Refused {
    Refused::Field { path: path.parse().unwrap(), new_version: false }
}

#[test]
fn the_version_follows_the_client_and_the_model() {
    const NEW_HEADER: Option<&str> = Some("2026-10-21");
    for (asked, base, sent) in [
        (None, OPUS_4_8, OLD),
        (Some("2023-06-01"), OPUS_4_8, OLD),
        (Some("bedrock-2023-05-31"), OPUS_4_8, OLD),
        (NEW_HEADER, OPUS_4_8, NEW),
        (NEW_HEADER, "anthropic.claude-opus-4-7", NEW),
        (NEW_HEADER, "anthropic.claude-mythos-preview", NEW),
        (NEW_HEADER, "anthropic.claude-sonnet-5", NEW),
        (NEW_HEADER, "anthropic.claude-haiku-5-5", NEW),
        (NEW_HEADER, "anthropic.claude-fable-5-1", NEW),
        (NEW_HEADER, "anthropic.claude-opus-4-6-v1", OLD),
        (NEW_HEADER, "anthropic.claude-sonnet-4-6", OLD),
        (NEW_HEADER, "anthropic.claude-sonnet-4-6-v1", OLD),
        (NEW_HEADER, SONNET_4_5, OLD),
        (NEW_HEADER, "anthropic.claude-3-5-sonnet-20241022-v2:0", OLD),
        (NEW_HEADER, "anthropic.claude-v2:1", OLD),
        (NEW_HEADER, "anthropic.claude-instant-v1", OLD),
        (NEW_HEADER, "arn:aws:bedrock:us-east-1::application-inference-profile/x", OLD),
    ] {
        let mut request = to(base, &[]);
        let body = r#"{"model":"m","max_tokens":9,"messages":[]}"#;
        let in_body = format!(r#"{{"anthropic_version":{},"model""#, json!(asked));
        let in_body = body.replace(r#"{"model""#, &in_body);

        let with_body = request.edit(in_body).unwrap();
        request.headers.version = asked.map(str::to_owned);
        let with_header = request.edit(body).unwrap();

        assert_eq!(with_header, with_body);
        let sent = format!(r#"{{"anthropic_version":"{sent}","max_tokens":9,"messages":[]}}"#);
        assert_eq!(with_header.body, sent, "{asked:?} {base}");
        request.learned = vec![Refused::Version];
        assert!(!request.edit(body).unwrap().new_version);
        request.headers.version = Some("2022-01-01".to_owned());
        assert!(
            request
                .edit(body)
                .unwrap_err()
                .to_string()
                .starts_with("anthropic-version: `2022-01-01`")
        );
    }
}

#[test]
fn the_header_s_version_counts_before_the_body_s() {
    let mut request = to(OPUS_4_8, &[]);
    request.headers.version = Some("2023-06-01".to_owned());

    let edited = request
        .edit(r#"{"anthropic_version":"2026-10-21","model":"m","max_tokens":0,"messages":[]}"#);

    assert!(!edited.unwrap().new_version);
}

#[test]
fn a_request_of_claude_code_loses_what_bedrock_refuses() {
    let body = r#"{"model":"claude-sonnet-4-5[1m]","messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral","scope":"x"}}]}],"system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1; cch=1;"},{"type":"text","text":"You are","cache_control":{"type":"ephemeral","ttl":"1h","scope":"global"}}],"tools":[{"name":"Bash","input_schema":{"type":"object"}}],"metadata":{"user_id":"u"},"max_tokens":32000,"thinking":{"budget_tokens":31999,"type":"enabled"},"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"stream":true}"#;
    let flags = [
        "claude-code-20250219",
        "context-1m-2025-08-07",
        "interleaved-thinking-2025-05-14",
        "context-management-2025-06-27",
        "prompt-caching-scope-2026-01-05",
    ];
    let incoming = Incoming::read(Bytes::from(body), &RULES, false).unwrap();
    assert_eq!(
        (incoming.model(&RULES).as_ref(), incoming.streams(&RULES)),
        ("claude-sonnet-4-5[1m]", true)
    );

    let edited = Asked { long_context: true, ..to(SONNET_4_5, &flags) }.edit(body).unwrap();

    insta::assert_snapshot!(std::str::from_utf8(&edited.body).unwrap(), @r#"{"anthropic_version":"bedrock-2023-05-31","anthropic_beta":["context-1m-2025-08-07","interleaved-thinking-2025-05-14"],"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}],"system":[{"type":"text","text":"You are","cache_control":{"type":"ephemeral","ttl":"1h"}}],"tools":[{"name":"Bash","input_schema":{"type":"object"}}],"metadata":{"user_id":"u"},"max_tokens":32000,"thinking":{"budget_tokens":31999,"type":"enabled"}}"#);
    let notes: Vec<String> =
        edited.notes.iter().map(|note| format!("{} {}", note.change.as_str(), note.what)).collect();
    insta::assert_snapshot!(notes.join("\n"), @"
    attribution_dropped system
    field_dropped messages[].content[].cache_control.scope
    field_dropped system[].cache_control.scope
    field_dropped context_management.edits[type!=compact_20260112|clear_tool_uses_20250919]
    beta_dropped claude-code-20250219
    beta_dropped prompt-caching-scope-2026-01-05
    beta_dropped context-management-2025-06-27
    ");
}

#[test]
fn the_attribution_of_claude_code_goes() {
    const BLOCK: &str = r#"{"text":"x-anthropic-billing-header: cc=1","type":"text"}"#;
    for (system, kept) in [
        ("[BLOCK]", ""),
        ("[ BLOCK , BLOCK ]", ""),
        (r#"[BLOCK,{"text":"a"}]"#, r#""system":[{"text":"a"}]"#),
        (r#"[{"text":"a"},BLOCK]"#, r#""system":[{"text":"a"},BLOCK]"#),
        (r#""x-anthropic-billing-header: cc=1""#, ""),
        (r#""x-anthropic-billing-header: \"\\n\n\n""#, ""),
        (
            r#""x-anthropic-billing-header: \"\\n\u00e9 \n\u000AYou \u00e9\n\ud800""#,
            r#""system":"You \u00e9\n\ud800""#,
        ),
        (r#""x-anthropic-billing-header: a\n\\n""#, r#""system":"\\n""#),
        (
            r#""You\nx-anthropic-billing-header: a""#,
            r#""system":"You\nx-anthropic-billing-header: a""#,
        ),
        (r#""""#, r#""system":"""#),
        ("null", r#""system":null"#),
    ] {
        let (members, kept) =
            (format!(r#""system":{system}"#).replace("BLOCK", BLOCK), kept.replace("BLOCK", BLOCK));
        assert_eq!(to(SONNET_4_5, &[]).keeps(&members).1, kept);

        let anthropic = crate::settings::Anthropic {
            strip_attribution_block: false,
            ..SHIPPED.anthropic.clone()
        };
        let rules = Rules::new(&SHIPPED.models, &anthropic);
        assert_eq!(Asked { rules: &rules, ..to(SONNET_4_5, &[]) }.keeps(&members).1, members);
    }
}

#[test]
fn a_count_has_room_for_an_answer() {
    for (members, output) in [
        ("", Some(1024)),
        (r#","thinking":{"type":"enabled","budget_tokens":5000}"#, Some(6024)),
        (r#","thinking":{"type":"enabled","budget_tokens":18446744073709551615}"#, Some(u64::MAX)),
        (r#","thinking":{"type":"adaptive"}"#, Some(1024)),
        (r#","max_tokens":7"#, None),
    ] {
        let body = format!(r#"{{"model":"m","messages":[],"stream":true{members}}}"#);
        let edited = Asked { counting: true, ..to(SONNET_4_5, &[]) }.edit(body).unwrap();

        let added = output.map(|output| format!(r#","max_tokens":{output}"#)).unwrap_or_default();
        let wanted = format!(
            r#"{{"anthropic_version":"bedrock-2023-05-31"{added},"messages":[]{members}}}"#
        );
        assert_eq!(edited.body, wanted);
    }
}

#[test]
fn the_profile_of_the_header_is_a_member_of_the_body() {
    let mut request = to(OPUS_4_8, &[]);
    request.headers.profile = Some("a\"🦀".to_owned());
    let rules = rules_with("{}", "{user_profile_id: {drop: ['anthropic.claude-3-*']}}");
    let edit = |request: &Asked<'_>, members: &str| {
        let edited = request
            .edit(format!(r#"{{"model":"m","max_tokens":0,"messages":[]{members}}}"#))
            .unwrap();
        serde_json::from_slice::<Value>(&edited.body).unwrap().get("user_profile_id").cloned()
    };

    assert_eq!(edit(&request, ""), Some("a\"🦀".into()));
    assert_eq!(edit(&request, r#","user_profile_id":"b""#), Some("b".into()));
    request.rules = &rules;
    assert_eq!(edit(&request, ""), Some("a\"🦀".into()));
    request.base = HAIKU_3;
    assert_eq!(edit(&request, ""), None);
    assert_eq!(edit(&request, r#","user_profile_id":"b""#), None);
    (request.rules, request.learned) = (&RULES, vec![field("user_profile_id")]);
    assert_eq!(edit(&request, ""), None);
}

#[test]
fn a_wrong_request_is_told_what_is_wrong() {
    for (body, message) in [
        (r#"{"max_tokens":1,"messages":[]}"#, "model: Field required"),
        (
            r#"{"model":"","max_tokens":1,"messages":[]}"#,
            "model: Input should be the name of a model",
        ),
        (
            r#"{"model":null,"max_tokens":1,"messages":[]}"#,
            "model: Input should be the name of a model",
        ),
        (
            r#"{"model":"\ud800","max_tokens":1,"messages":[]}"#,
            "model: Input should be the name of a model",
        ),
        (r#"{"model":"m","max_tokens":1}"#, "messages: Field required"),
        (
            r#"{"model":"m","max_tokens":1,"messages":"hi"}"#,
            "messages: Input should be a valid list",
        ),
        (r#"{"model":"m","messages":[]}"#, "max_tokens: Field required"),
        (
            r#"{"model":"m","max_tokens":-1,"messages":[]}"#,
            "max_tokens: Input should be a valid integer, at least 0",
        ),
        (
            r#"{"model":"m","max_tokens":"1","messages":[]}"#,
            "max_tokens: Input should be a valid integer, at least 0",
        ),
        (
            r#"{"model":"m","max_tokens":1,"messages":[],"stream":null}"#,
            "stream: Input should be a valid boolean",
        ),
        (
            r#"{"model":"m","max_tokens":1,"messages":[],"stream":"true"}"#,
            "stream: Input should be a valid boolean",
        ),
        (
            r#"{"model":"m","model":"n","max_tokens":1,"messages":[]}"#,
            "model: the member is there twice.",
        ),
        (r#"[{"model":"m"}]"#, "The body must be a JSON object."),
    ] {
        assert_eq!(error(body), message, "{body}");
    }
    assert!(error("{").starts_with("The body is not valid JSON: EOF"));
    assert!(error(b"{\"\xff\":1}").starts_with("The body is not UTF-8"));
}

#[test]
fn a_body_of_which_nothing_stays_holds_what_is_put_in_front() {
    for body in ["{}", "{ }", r#"{"model":"m"}"#, r#"{ "model":"m" , "stream":true }"#] {
        let incoming = Incoming::reread(Bytes::from(body), &RULES).unwrap();
        let target = Target { base: OPUS_4_8, long_context: false };

        let edited = incoming.edit(&RULES, &Headers::default(), target, &[]).unwrap();

        let text = String::from_utf8(edited.body.to_vec()).unwrap().replace(' ', "");
        assert_eq!(text, r#"{"anthropic_version":"bedrock-2023-05-31"}"#);
    }
}
