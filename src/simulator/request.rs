//! Request bodies: the checks Bedrock makes, how long the prompt is, and what the user said.
//!
//! Members stay raw JSON text; nothing is turned into a tree which does not have to be.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::claude_rules;
use super::members::{Members, Text};
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
    members: Members<'a>,
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
            Family::Claude => claude_rules::check(&members, model)?,
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
        Ok(Self::of(family, members, max_output, thinks))
    }

    /// Reads a Converse body for `model`.
    ///
    /// # Errors
    /// Validation errors as Bedrock words them.
    pub(super) fn of_converse(model: &Model, body: &'a [u8]) -> Result<Self, Refusal> {
        let members = Members::read(body)?;
        if let Some(name) = members.names().find(|name| !CONVERSE.contains(name)) {
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
        Ok(Self::of(model.family, members, limit, thinks))
    }

    fn of(family: Family, members: Members<'a>, max_output: Option<u64>, thinks: bool) -> Self {
        let sections = PROMPT.iter().filter_map(|name| members.get(name)).collect();
        let tools = members.get("tools").or_else(|| members.get("toolConfig"));
        let said = said(&members);
        Self { family, said, sections, max_output, thinks, tools, members }
    }

    /// Whether the body has this member.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.names().any(|known| known == name)
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

/// One turn.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) content: &'a RawValue,
}

/// # Errors
/// Validation errors if there is no message, or one without a role or content.
pub(super) fn read_messages<'a>(members: &Members<'a>) -> Result<Vec<Message<'a>>, Refusal> {
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
