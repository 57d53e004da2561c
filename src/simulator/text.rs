//! What is said: the words of an answer, made-up tool calls, and JSON strings.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::Stop;
use super::request::Inquiry;
use super::scenario::{Kind, Scenario};

const REPLY: &str = "This is a simulated reply from Bedrock; no model was called.";

/// A call of one of the caller's tools.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    pub(super) id: String,
    pub(super) name: String,
    /// JSON text.
    pub(super) input: String,
}

/// The text of an answer, which can be too long to exist at once.
#[derive(Debug, Clone)]
pub(super) enum Text {
    Words(String),
    Numbered(u64),
    /// So many KiB in one piece.
    Blob(u64),
}

impl Text {
    const WORD: &str = "simulated ";

    /// The pieces in which it is streamed.
    pub(super) fn pieces(&self) -> Box<dyn Iterator<Item = String>> {
        match self {
            Self::Words(text) => {
                let words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
                Box::new(words.into_iter())
            }
            Self::Numbered(count) => Box::new((1..=*count).map(|number| format!("word{number} "))),
            Self::Blob(_) => Box::new(std::iter::once(self.whole())),
        }
    }

    pub(super) fn whole(&self) -> String {
        match self {
            Self::Words(text) => text.clone(),
            Self::Numbered(_) => self.pieces().collect(),
            Self::Blob(_) => Self::WORD.repeat(usize::try_from(self.words()).unwrap_or_default()),
        }
    }

    /// Output tokens.
    pub(super) fn words(&self) -> u64 {
        match self {
            Self::Words(text) => text.split_whitespace().count() as u64,
            Self::Numbered(count) => *count,
            Self::Blob(kib) => kib * 1024 / Self::WORD.len() as u64,
        }
    }
}

/// The text and the stop reason which belong together.
pub(super) fn text(inquiry: &Inquiry<'_>, scenario: &Scenario, calls_tool: bool) -> (Text, Stop) {
    if scenario.is(Kind::Large) {
        return (Text::Blob(scenario.kib.unwrap_or(256)), Stop::EndTurn);
    }
    let events = match scenario.kind {
        Some(Kind::Stream) => Some(scenario.events.unwrap_or(20)),
        Some(Kind::AbortUsage) => Some(scenario.events.unwrap_or(2_000)),
        _ => scenario.events,
    };
    if let Some(events) = events {
        return (Text::Numbered(events), Stop::EndTurn);
    }
    if calls_tool {
        return (Text::Words("This tool call is simulated.".to_owned()), Stop::ToolUse);
    }
    let mut words = match inquiry.said.as_str() {
        "" => REPLY.to_owned(),
        said => format!("{REPLY} You said: {said}"),
    };
    let limit = inquiry.max_output.and_then(|limit| usize::try_from(limit).ok());
    match limit.filter(|limit| *limit < words.split_whitespace().count()) {
        None => (Text::Words(words), Stop::EndTurn),
        Some(limit) => {
            words = words.split_whitespace().take(limit).collect::<Vec<_>>().join(" ");
            (Text::Words(words), Stop::MaxTokens)
        }
    }
}

/// A call of the first tool in `tools` (Claude) or `toolConfig` (Converse), with made-up arguments.
pub(super) fn call_first(tools: &str, id: &str) -> Option<Tool> {
    #[derive(Deserialize)]
    struct Config {
        tools: Vec<Value>,
    }
    let tools = serde_json::from_str::<Vec<Value>>(tools)
        .or_else(|_| serde_json::from_str::<Config>(tools).map(|config| config.tools))
        .ok()?;
    let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
    let (spec, name) = tools.iter().find_map(|tool| {
        let spec = tool.get("toolSpec").unwrap_or(tool);
        Some((spec, name(spec)?))
    })?;
    let schema = spec.get("input_schema").or_else(|| spec.pointer("/inputSchema/json"));
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    let made_up = |property: &Value| match property.get("type").and_then(Value::as_str) {
        _ if property.pointer("/enum/0").is_some() => property.pointer("/enum/0").cloned(),
        Some("number" | "integer") => Some(json!(1)),
        Some("boolean") => Some(json!(true)),
        Some("array") => Some(json!([])),
        Some("object") => Some(json!({})),
        _ => Some(json!("simulated")),
    };
    let input: serde_json::Map<String, Value> = properties
        .into_iter()
        .flatten()
        .map(|(name, property)| (name.clone(), made_up(property).unwrap_or_default()))
        .collect();
    let short = id.get(..24).unwrap_or(id);
    Some(Tool { id: format!("toolu_bdrk_{short}"), name, input: Value::Object(input).to_string() })
}

/// Cuts JSON text into pieces as tool inputs are streamed: an empty one, then a few characters each.
pub(super) fn input_pieces(input: &str) -> Vec<String> {
    let characters: Vec<char> = input.chars().collect();
    let pieces = characters.chunks(9).map(|piece| piece.iter().collect());
    std::iter::once(String::new()).chain(pieces).collect()
}

/// Displays text as a JSON string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut written = 0;
        for (at, character) in self.0.char_indices() {
            let escape: Cow<'_, str> = match character {
                '"' => "\\\"".into(),
                '\\' => "\\\\".into(),
                '\n' => "\\n".into(),
                '\r' => "\\r".into(),
                '\t' => "\\t".into(),
                control if control < ' ' => format!("\\u{:04x}", u32::from(control)).into(),
                _ => continue,
            };
            f.write_str(self.0.get(written..at).unwrap_or_default())?;
            f.write_str(&escape)?;
            written = at + character.len_utf8();
        }
        f.write_str(self.0.get(written..).unwrap_or_default())?;
        f.write_char('"')
    }
}
