//! What InvokeModel refuses in a Messages body, model by model (protocol §4.2, §4.3).
//!
//! Lists of what is allowed: the service refuses whatever it does not know. Blocks and tools are
//! looked at in `claude_blocks`.

use std::borrow::Cow;

use serde::Deserialize;

use super::claude_blocks;
use super::members::{Members, Text};
use super::model::Model;
use super::refusal::Refusal;
use super::request::read_messages;

/// `Err` holds what is wrong, behind the path of the member which it is about.
pub(super) type Checked = Result<(), String>;

/// Says whether a model knows something.
type Known = fn(Claude<'_>) -> bool;

const OLD_VERSION: &str = "bedrock-2023-05-31";
const NEW_VERSION: &str = "2026-10-21";

/// Members of a body, and the models which know them.
const MEMBERS: &[(&str, Known)] = &[
    ("anthropic_version", all),
    ("anthropic_beta", all),
    ("messages", all),
    ("max_tokens", all),
    ("system", all),
    ("stop_sequences", all),
    ("temperature", all),
    ("top_p", all),
    ("top_k", all),
    ("tools", all),
    ("tool_choice", all),
    ("thinking", all),
    ("metadata", all),
    ("output_config", since_opus_4_5),
    ("context_management", |it| it.since(4, 0)),
    ("safeguards", |it| it.since(4, 7)),
    ("user_profile_id", |it| it.since(4, 7)),
];
/// Betas, and the models which know them. Those of features which are generally available by now
/// are not among them: a client which still sends one is refused.
const BETAS: &[(&str, Known)] = &[
    ("compact-2026-01-12", |it| it.since(4, 6)),
    ("computer-use-2025-01-24", |it| it.since(3, 7) && it.until(4, 5)),
    ("computer-use-2025-11-24", since_opus_4_5),
    ("context-1m-2025-08-07", |it| it.is("claude-sonnet-4") || it.is("claude-opus-4-6")),
    (CONTEXT_MANAGEMENT, |it| it.since(4, 0)),
    (DANGEROUS_TOOL_USE, |it| it.since(4, 7)),
    (EFFORT, since_opus_4_5),
    ("fine-grained-tool-streaming-2025-05-14", all),
    ("interleaved-thinking-2025-05-14", all),
    ("mid-conversation-output-config-2026-07-01", |it| it.since(4, 7)),
    ("mid-conversation-tool-changes-2026-07-01", |it| it.since(4, 7)),
    ("thinking-binding-controls-2026-08-01", |it| it.since(4, 7)),
    ("thinking-display-updates-2026-08-18", |it| it.since(4, 7)),
    ("tool-examples-2025-10-29", |it| it.since(4, 0)),
    ("tool-search-tool-2025-10-19", |it| it.since(4, 0)),
];
const CONTEXT_MANAGEMENT: &str = "context-management-2025-06-27";
const DANGEROUS_TOOL_USE: &str = "dangerous-tool-use-2026-09-03";
const EFFORT: &str = "effort-2025-11-24";
/// Edits of `context_management`, and the beta which each needs.
const EDITS: &[(&str, &str)] =
    &[("clear_tool_uses_20250919", CONTEXT_MANAGEMENT), ("compact_20260112", "compact-2026-01-12")];

/// A Claude, as far as rules depend on it. One behind an opaque ARN may be any: it passes for new
/// where a rule wants a new one, and for old where it wants an old one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claude<'a> {
    name: &'a str,
    version: Option<(u16, u16)>,
}

impl Claude<'_> {
    pub(super) fn since(self, major: u16, minor: u16) -> bool {
        self.version.is_none_or(|version| version >= (major, minor))
    }

    fn until(self, major: u16, minor: u16) -> bool {
        self.version.is_none_or(|version| version <= (major, minor))
    }

    fn is(self, name: &str) -> bool {
        self.version.is_none() || self.name.starts_with(name)
    }
}

fn all(_: Claude<'_>) -> bool {
    true
}

/// Sonnet 4.5 and Haiku 4.5 are older than Opus 4.5.
fn since_opus_4_5(claude: Claude<'_>) -> bool {
    claude.since(4, 6) || claude.is("claude-opus-4-5")
}

fn knows(list: &[(&str, Known)], name: &str, claude: Claude<'_>) -> bool {
    list.iter().any(|(known, by)| *known == name && by(claude))
}

/// The betas of a request.
#[derive(Debug, Default)]
pub(super) struct Betas<'a>(Vec<Cow<'a, str>>);

impl Betas<'_> {
    pub(super) fn has(&self, beta: &str) -> bool {
        self.0.iter().any(|given| given == beta)
    }
}

pub(super) fn extra(path: &str) -> Checked {
    Err(format!("{path}: Extra inputs are not permitted"))
}

/// Checks a body for `model`.
///
/// # Errors
/// Validation errors as Bedrock words them.
pub(super) fn check(members: &Members<'_>, model: &Model) -> Result<(), Refusal> {
    let claude = Claude { name: model.provider_name(), version: model.version() };
    check_envelope(members, claude).map_err(Refusal::validation)?;
    for (at, message) in read_messages(members)?.iter().enumerate() {
        let checked = claude_blocks::check_content(message.content.get(), claude);
        checked.map_err(|wrong| Refusal::validation(format!("messages.{at}.content.{wrong}")))?;
    }
    Ok(())
}

/// Everything but the messages.
fn check_envelope(members: &Members<'_>, claude: Claude<'_>) -> Checked {
    if let Some(name) = members.names().find(|name| !knows(MEMBERS, name, claude)) {
        return extra(name);
    }
    check_version(members, claude)?;
    let max_tokens = match members.get("max_tokens") {
        None => return Err("max_tokens: Field required".to_owned()),
        Some(raw) => raw
            .parse::<u64>()
            .map_err(|_| "max_tokens: Input should be a valid integer, at least 0".to_owned())?,
    };
    let betas = read_betas(members, claude)?;
    if members.has("safeguards") && !betas.has(DANGEROUS_TOOL_USE) {
        return extra("safeguards");
    }
    if let Some(config) = members.object("output_config")
        && config.has("effort")
        && !(claude.since(4, 6) || betas.has(EFFORT))
    {
        return extra("output_config.effort");
    }
    if let Some(raw) = members.get("context_management")
        && !are_known_edits(raw, &betas)
    {
        return extra("context_management");
    }
    if let Some(thinking) = members.object("thinking") {
        if thinking.text("type").is_some_and(|kind| kind == "enabled") && !claude.until(4, 6) {
            return Err(
                "thinking.type.enabled: Input should be 'adaptive' or 'disabled'".to_owned()
            );
        }
        let budget = thinking.get("budget_tokens").and_then(|raw| raw.parse::<u64>().ok());
        if budget.is_some_and(|budget| budget >= max_tokens) {
            return Err("max_tokens must be greater than thinking.budget_tokens".to_owned());
        }
    }
    if let Some(system) = members.get("system") {
        claude_blocks::check_system(system, claude)?;
    }
    if let Some(tools) = members.get("tools") {
        claude_blocks::check_tools(tools, claude, &betas)?;
    }
    Ok(())
}

/// The version, and what it takes away (protocol §0).
fn check_version(members: &Members<'_>, claude: Claude<'_>) -> Checked {
    let Some(version) = members.text("anthropic_version") else {
        return Err("anthropic_version: Field required".to_owned());
    };
    match version.as_ref() {
        OLD_VERSION => Ok(()),
        NEW_VERSION if !claude.since(4, 7) => {
            Err(format!("Invalid API version \"{version}\" for this model."))
        }
        NEW_VERSION => {
            match ["temperature", "top_p", "top_k"].iter().find(|name| members.has(name)) {
                Some(name) => extra(name),
                None => Ok(()),
            }
        }
        _ => Err(format!("Invalid API version \"{version}\".")),
    }
}

fn read_betas<'a>(members: &Members<'a>, claude: Claude<'_>) -> Result<Betas<'a>, String> {
    let Some(raw) = members.get("anthropic_beta") else { return Ok(Betas::default()) };
    let betas = serde_json::from_str::<Vec<Text<'a>>>(raw)
        .map_err(|_| "anthropic_beta: Input should be a valid list".to_owned())?;
    let betas = Betas(betas.into_iter().map(|beta| beta.0).collect());
    if betas.0.is_empty() {
        return Err("anthropic_beta: List should have at least 1 item".to_owned());
    }
    let unknown = betas.0.iter().any(|beta| !knows(BETAS, beta, claude));
    if unknown || betas.has(DANGEROUS_TOOL_USE) && !members.has("safeguards") {
        return Err("invalid beta flag".to_owned());
    }
    Ok(betas)
}

fn are_known_edits(raw: &str, betas: &Betas<'_>) -> bool {
    #[derive(Deserialize)]
    struct Edit {
        r#type: String,
    }
    #[derive(Deserialize)]
    struct Management {
        edits: Vec<Edit>,
    }
    let known =
        |edit: &Edit| EDITS.iter().any(|(name, beta)| *name == edit.r#type && betas.has(beta));
    serde_json::from_str(raw).is_ok_and(|Management { edits }| edits.iter().all(known))
}
