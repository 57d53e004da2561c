//! What InvokeModel refuses inside `system`, `tools` and the content of messages (protocol §4.2).
//!
//! Paths are those of the service's own errors, where a block's or tool's type is a component. What
//! belongs to the caller's tools, `input` and `input_schema`, is nobody's to check.

use super::claude_rules::{Betas, Checked, Claude, extra};
use super::members::Members;

/// Text which may not begin a system prompt.
const RESERVED: &str = "x-anthropic-billing-header:";
/// How the types of tools begin which the service takes, and the beta which each needs. It runs
/// none itself, so those of the provider's own servers are not among them.
const TOOLS: &[(&str, Option<&str>)] = &[
    ("bash_", None),
    ("text_editor_", None),
    ("memory_", None),
    ("computer_20250124", Some("computer-use-2025-01-24")),
    ("computer_20251124", Some("computer-use-2025-11-24")),
    ("tool_search_tool_", Some(TOOL_SEARCH)),
];
/// Members of a tool which it may only have with a beta, if at all.
const TOOL_MEMBERS: &[(&str, Option<&str>)] = &[
    ("custom", None),
    ("defer_loading", Some(TOOL_SEARCH)),
    ("input_examples", Some("tool-examples-2025-10-29")),
    ("eager_input_streaming", Some("fine-grained-tool-streaming-2025-05-14")),
];
const TOOL_SEARCH: &str = "tool-search-tool-2025-10-19";

/// The system prompt: text or blocks.
pub(super) fn check_system(raw: &str, claude: Claude<'_>) -> Checked {
    let check_text = |at: usize, text: &str| match text.starts_with(RESERVED) {
        true => {
            let word = RESERVED.trim_end_matches(':');
            Err(format!("system.{at}.text: {word} is a reserved keyword"))
        }
        false => Ok(()),
    };
    if let Ok(text) = serde_json::from_str::<String>(raw) {
        return check_text(0, &text);
    }
    for (at, block) in objects(raw, "system")?.iter().enumerate() {
        let block = block.as_ref().ok_or_else(|| format!("system.{at}: {NO_OBJECT}"))?;
        check_text(at, &block.text("text").unwrap_or_default())?;
        check_cache_control(block, claude).map_err(|wrong| format!("system.{at}.{wrong}"))?;
    }
    Ok(())
}

/// The content of a message or of a tool result; paths begin with the number of the block.
pub(super) fn check_content(raw: &str, claude: Claude<'_>) -> Checked {
    if !raw.starts_with('[') {
        return Ok(());
    }
    for (at, block) in objects(raw, "")?.iter().enumerate() {
        let block = block.as_ref().ok_or_else(|| format!("{at}: {NO_OBJECT}"))?;
        let kind = block.text("type").unwrap_or_default();
        let mut checked = check_cache_control(block, claude);
        if let Some(inner) = block.get("content").filter(|_| kind == "tool_result") {
            checked = checked.and_then(|()| {
                check_content(inner, claude).map_err(|wrong| format!("content.{wrong}"))
            });
        }
        checked.map_err(|wrong| match kind.as_ref() {
            "" => format!("{at}.{wrong}"),
            kind => format!("{at}.{kind}.{wrong}"),
        })?;
    }
    Ok(())
}

/// The tools, with the betas which they need.
pub(super) fn check_tools(raw: &str, claude: Claude<'_>, betas: &Betas<'_>) -> Checked {
    for (at, tool) in objects(raw, "tools")?.iter().enumerate() {
        let tool = tool.as_ref().ok_or_else(|| format!("tools.{at}: {NO_OBJECT}"))?;
        let kind = tool.text("type").unwrap_or_else(|| "custom".into());
        let has = |beta: Option<&str>| beta.is_none_or(|beta| betas.has(beta));
        let known = |(name, beta): &(&str, Option<&str>)| kind.starts_with(name) && has(*beta);
        if kind != "custom" && !TOOLS.iter().any(known) {
            return Err(format!(
                "tools.{at}: Input tag '{kind}' found using 'type' does not match any of the \
                 expected tags"
            ));
        }
        let allowed = |name: &str| {
            let rule = TOOL_MEMBERS.iter().find(|(known, _)| *known == name);
            rule.is_none_or(|(_, beta)| beta.is_some_and(|beta| betas.has(beta)))
        };
        if let Some(name) = tool.names().find(|name| !allowed(name)) {
            return extra(&format!("tools.{at}.{kind}.{name}"));
        }
        check_cache_control(tool, claude).map_err(|wrong| format!("tools.{at}.{kind}.{wrong}"))?;
    }
    Ok(())
}

fn check_cache_control(holder: &Members<'_>, claude: Claude<'_>) -> Checked {
    let Some(raw) = holder.get("cache_control") else { return Ok(()) };
    let Ok(control) = serde_json::from_str::<Members<'_>>(raw) else {
        return Err(format!("cache_control: {NO_OBJECT}"));
    };
    let known = |name: &str| name == "type" || name == "ttl" && claude.since(4, 5);
    if let Some(name) = control.names().find(|name| !known(name)) {
        return extra(&format!("cache_control.{name}"));
    }
    if !control.has("type") {
        return Err("cache_control.type: Field required".to_owned());
    }
    if control.text("type").as_deref() != Some("ephemeral") {
        return Err("cache_control.type: Input should be 'ephemeral'".to_owned());
    }
    if control.has("ttl") && !matches!(control.text("ttl").as_deref(), Some("5m" | "1h")) {
        return Err("cache_control.ttl: Input should be '5m' or '1h'".to_owned());
    }
    Ok(())
}

const NO_OBJECT: &str = "Input should be a valid dictionary or object to extract fields from";

/// The objects of a list; `None` for an element which is none.
fn objects<'a>(raw: &'a str, path: &str) -> Result<Vec<Option<Members<'a>>>, String> {
    let list: Vec<&serde_json::value::RawValue> =
        serde_json::from_str(raw).map_err(|_| format!("{path}: Input should be a valid list"))?;
    Ok(list.into_iter().map(|element| serde_json::from_str(element.get()).ok()).collect())
}
