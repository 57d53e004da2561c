//! Request bodies: the checks Bedrock makes, how long the prompt is, and what the user said.
//!
//! Members stay raw JSON text; nothing is turned into a tree which does not have to be.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::model::{Family, Model};
use super::refusal::Refusal;

/// Bytes of prompt which make a token.
const BYTES_PER_TOKEN: usize = 4;
/// Longest piece of the user's text which a reply repeats, in characters.
const MAX_ECHO: usize = 400;

/// Members which make up the prompt, in the order in which Claude caches them.
const PROMPT: &[&str] = &[
    "tools",
    "toolConfig",
    "system",
    "messages",
    "prompt",
    "inputText",
    "inputImage",
    "message",
    "chat_history",
    "texts",
    "inputs",
    "images",
];
/// Claude members which Bedrock does not take (protocol §4.2).
const EXTRA: &[&str] = &[
    "model",
    "stream",
    "service_tier",
    "container",
    "inference_geo",
    "speed",
    "diagnostics",
    "mcp_servers",
    "fallbacks",
    "fallback_credit_token",
    "billing_policy",
    "compaction",
    "thread",
    "workspace_id",
];
/// Betas which Bedrock does not know (protocol §4.3), by prefix.
const UNKNOWN_BETAS: &[&str] = &[
    "claude-code-",
    "oauth-",
    "prompt-caching-scope-",
    "advisor-tool-",
    "code-execution-",
    "fast-mode-",
    "files-api-",
    "mcp-client-",
    "skills-",
    "per-turn-control-",
];
/// Members of a Converse body (protocol §7).
const CONVERSE: &[&str] = &[
    "messages",
    "system",
    "inferenceConfig",
    "toolConfig",
    "guardrailConfig",
    "additionalModelRequestFields",
    "additionalModelResponseFieldPaths",
    "promptVariables",
    "requestMetadata",
    "performanceConfig",
    "serviceTier",
    "outputConfig",
];

/// A JSON object, one level deep.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Members<'a> {
    /// # Errors
    /// A validation error if `json` is not one JSON object.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(json).map_err(|error| {
            Refusal::validation(format!("Malformed input request, please reformat: {error}"))
        })
    }

    /// The raw JSON of a member; a `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.get()).filter(|value| *value != "null")
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Text<'a>>(self.get(name)?).ok().map(|text| text.0)
    }

    fn object(&self, name: &str) -> Option<Members<'a>> {
        serde_json::from_str(self.get(name)?).ok()
    }
}

/// A valid request, as far as a reply needs it.
#[derive(Debug)]
pub(super) struct Inquiry<'a> {
    pub(super) family: Family,
    /// The last text of the user, shortened.
    pub(super) said: String,
    /// Raw JSON of the members which make up the prompt.
    pub(super) sections: Vec<&'a str>,
    /// The caller's limit on output tokens.
    pub(super) max_output: Option<u64>,
    /// Whether thinking was asked for.
    pub(super) thinks: bool,
    /// `tools` or `toolConfig`, raw.
    pub(super) tools: Option<&'a str>,
}

impl<'a> Inquiry<'a> {
    /// Reads an InvokeModel body for `model`.
    ///
    /// # Errors
    /// Validation errors as Bedrock words them.
    pub(super) fn of_invoke(model: &Model, body: &'a [u8]) -> Result<Self, Refusal> {
        let members = Members::read(body)?;
        let mut family = model.family;
        if family == Family::MistralPrompt && members.has("messages") {
            family = Family::Chat;
        }
        match family {
            Family::Claude => check_claude(&members, model)?,
            Family::Nova | Family::Chat => drop(read_messages(&members)?),
            Family::TitanText => need(&members, &["inputText"])?,
            Family::TitanEmbed => need(&members, &["inputText", "inputImage"])?,
            Family::CohereEmbed => {
                need(&members, &["texts", "images", "inputs", "query", "singleEmbeddingParams"])?
            }
            Family::CohereCommand => need(&members, &["prompt", "message"])?,
            Family::DeepSeekR1 => need(&members, &["prompt", "messages"])?,
            Family::Llama | Family::MistralPrompt => need(&members, &["prompt"])?,
        }
        let nested = members.object("inferenceConfig");
        let limits = ["max_tokens", "max_completion_tokens", "max_gen_len", "maxTokens"];
        let limit = |from: &Members<'_>| {
            limits.iter().find_map(|name| from.get(name)).and_then(|raw| raw.parse().ok())
        };
        let max_output = limit(&members).or_else(|| nested.as_ref().and_then(limit));
        let thinks = family == Family::Claude && is_thinking(members.get("thinking"));
        Ok(Self::of(family, &members, max_output, thinks))
    }

    /// Reads a Converse body for `model`.
    ///
    /// # Errors
    /// Validation errors as Bedrock words them.
    pub(super) fn of_converse(model: &Model, body: &'a [u8]) -> Result<Self, Refusal> {
        let members = Members::read(body)?;
        let unknown = members.0.iter().find(|(name, _)| !CONVERSE.contains(&name.as_ref()));
        if let Some((name, _)) = unknown {
            return Err(Refusal::validation(format!("{name}: Extra inputs are not permitted")));
        }
        if model.family.embeds() {
            let text = "This action doesn't support the model that you provided.";
            return Err(Refusal::validation(text));
        }
        for message in read_messages(&members)? {
            if !message.content.get().starts_with('[') {
                let text = "messages.content: a list of content blocks is expected";
                return Err(Refusal::validation(text));
            }
        }
        let limit = members.object("inferenceConfig");
        let limit = limit.and_then(|config| config.get("maxTokens")?.parse().ok());
        let fields = members.object("additionalModelRequestFields");
        let thinks = fields.is_some_and(|fields| {
            is_thinking(fields.get("thinking")) || is_thinking(fields.get("reasoning_config"))
        });
        Ok(Self::of(model.family, &members, limit, thinks))
    }

    fn of(family: Family, members: &Members<'a>, max_output: Option<u64>, thinks: bool) -> Self {
        let sections = PROMPT.iter().filter_map(|name| members.get(name)).collect();
        let tools = members.get("tools").or_else(|| members.get("toolConfig"));
        Self { family, said: said(members), sections, max_output, thinks, tools }
    }

    /// Tokens of the whole prompt, cached or not.
    pub(super) fn prompt_tokens(&self) -> u64 {
        tokens(self.sections.iter().map(|section| section.len()).sum()).max(1)
    }
}

/// Tokens which so many bytes of prompt make.
pub(super) fn tokens(bytes: usize) -> u64 {
    (bytes / BYTES_PER_TOKEN) as u64
}

fn check_claude(members: &Members<'_>, model: &Model) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::validation(text));
    if let Some((name, _)) = members.0.iter().find(|(name, _)| EXTRA.contains(&name.as_ref())) {
        return refuse(format!("{name}: Extra inputs are not permitted"));
    }
    let Some(version) = members.text("anthropic_version") else {
        return refuse("anthropic_version: Field required".to_owned());
    };
    let is_new = version == "2026-10-21";
    if !(is_new || version == "bedrock-2023-05-31") {
        return refuse(format!("Invalid API version \"{version}\"."));
    }
    if is_new && model.is_before_4_7() {
        return refuse(format!("Invalid API version \"{version}\" for this model."));
    }
    if let Some(name) = ["temperature", "top_p", "top_k"].iter().find(|name| members.has(name))
        && is_new
    {
        return refuse(format!("{name}: Extra inputs are not permitted"));
    }
    match members.get("max_tokens") {
        None => return refuse("max_tokens: Field required".to_owned()),
        Some(raw) if raw.parse::<u64>().is_err() => {
            return refuse("max_tokens: Input should be a valid integer, at least 0".to_owned());
        }
        Some(_) => {}
    }
    if let Some(betas) = members.get("anthropic_beta") {
        let Ok(betas) = serde_json::from_str::<Vec<Text<'_>>>(betas) else {
            return refuse("anthropic_beta: Input should be a valid list".to_owned());
        };
        let unknown = |beta: &Text<'_>| UNKNOWN_BETAS.iter().any(|known| beta.0.starts_with(known));
        if betas.iter().any(unknown) {
            return refuse("invalid beta flag".to_owned());
        }
    }
    if members.get("context_management").is_some_and(|raw| raw.contains("clear_thinking_")) {
        return refuse("context_management: Extra inputs are not permitted".to_owned());
    }
    read_messages(members).map(drop)
}

fn need(members: &Members<'_>, any_of: &[&str]) -> Result<(), Refusal> {
    if any_of.iter().any(|name| members.has(name)) {
        return Ok(());
    }
    let name = any_of.first().copied().unwrap_or_default();
    Err(Refusal::validation(format!(
        "Malformed input request: #: required key [{name}] not found, please reformat your input \
         and try again."
    )))
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: &'a RawValue,
}

fn read_messages<'a>(members: &Members<'a>) -> Result<Vec<Message<'a>>, Refusal> {
    let Some(raw) = members.get("messages") else {
        return Err(Refusal::validation("messages: Field required"));
    };
    let messages: Vec<Message<'a>> = serde_json::from_str(raw)
        .map_err(|error| Refusal::validation(format!("messages: {error}")))?;
    if messages.is_empty() {
        return Err(Refusal::validation("messages: at least one message is required"));
    }
    for (at, message) in messages.iter().enumerate() {
        let known = ["user", "assistant", "system", "developer", "tool"];
        if !known.contains(&message.role.as_ref()) {
            let text = format!("messages.{at}.role: Input should be 'user' or 'assistant'");
            return Err(Refusal::validation(text));
        }
        if !message.content.get().starts_with(['[', '"', 'n']) {
            let text = format!("messages.{at}.content: Input should be a valid list");
            return Err(Refusal::validation(text));
        }
    }
    Ok(messages)
}

fn is_thinking(raw: Option<&str>) -> bool {
    raw.is_some_and(|raw| raw.contains("\"enabled\"") || raw.contains("\"adaptive\""))
}

/// The last text of the user without a directive, shortened.
fn said(members: &Members<'_>) -> String {
    let alone = || {
        let names = ["prompt", "inputText", "message"];
        names.iter().find_map(|name| members.text(name)).map(Cow::into_owned)
    };
    let text = last_text(members).or_else(alone).unwrap_or_default();
    let text = text.split("@sim:").next().unwrap_or_default().trim();
    match text.char_indices().nth(MAX_ECHO) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn last_text(members: &Members<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Block {
        text: Option<String>,
    }
    let messages = serde_json::from_str::<Vec<Message<'_>>>(members.get("messages")?).ok()?;
    let content = messages.iter().rfind(|message| message.role == "user")?.content.get();
    if let Ok(text) = serde_json::from_str::<Text<'_>>(content) {
        return Some(text.0.into_owned());
    }
    let blocks = serde_json::from_str::<Vec<Block>>(content).ok()?;
    blocks.into_iter().rev().find_map(|block| block.text)
}
