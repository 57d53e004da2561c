//! What Bedrock means when it refuses a request: a flag, members by their places, or the API version.

use std::sync::LazyLock;

use regex::Regex;

use super::{outline, rules::Rules};
use crate::settings::rules::{FieldPath, Items, Step};

/// Why Bedrock refused a request, as far as another request could do better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// Some flag of `anthropic_beta`; the flags that are named, if any are.
    Beta(Vec<String>),
    /// Members by the places that Bedrock gives.
    Fields(Vec<String>),
    Version,
}

/// Reads the message of a ValidationException.
pub fn read(message: &str) -> Option<Complaint> {
    static FIELD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"([A-Za-z_][A-Za-z0-9_.\-]*): Extra inputs are not permitted")
            .expect("a constant pattern")
    });
    static FLAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[a-z][a-z0-9-]*-20\d\d-\d\d-\d\d").expect("a constant pattern")
    });
    let places: Vec<String> = FIELD
        .captures_iter(message)
        .filter_map(|found| Some(found.get(1)?.as_str().to_owned()))
        .collect();
    if !places.is_empty() {
        return Some(Complaint::Fields(places));
    }
    let lower = message.to_ascii_lowercase();
    if lower.contains("invalid beta flag") || lower.contains("anthropic-beta") {
        let named = FLAG.find_iter(&lower).map(|found| found.as_str().to_owned());
        return Some(Complaint::Beta(named.collect()));
    }
    lower.starts_with("invalid api version").then_some(Complaint::Version)
}

/// The members of `body` that Bedrock means by `place`: numbers are positions in lists, and it puts in names of its own
/// (`tools.0.custom.strict`), which the body does not have. It is one member, or those that it holds if an `essential`
/// one could stand beside them. `None` if there is no such member, or if it is none that may be left out: what was said,
/// what a tool is, and what is `essential` never are.
pub fn locate(body: &[u8], place: &str, rules: &Rules) -> Option<Vec<FieldPath>> {
    let mut value = body;
    let mut steps: Vec<Step> = Vec::new();
    let mut reached = false;
    let mut parts = place.split('.').peekable();
    while let Some(part) = parts.next() {
        reached = false;
        let last = parts.peek().is_none();
        if value.first() == Some(&b'[') {
            let items = part.parse::<usize>().ok().and_then(|at| outline::item(value, at));
            if let (Some(item), Some(step)) = (items, steps.last_mut()) {
                (step.items, value) = (Some(Items::All), item);
            }
        } else if let Some(found) = outline::member(value, part)
            && (last || matches!(found.first(), Some(b'{' | b'[')))
        {
            // A block's type is one of those names, and may also be a member: `text`.
            steps.push(Step { name: part.to_owned(), items: None });
            (value, reached) = (found, true);
        }
    }
    let path = FieldPath(steps);
    let essential =
        |path: &FieldPath| rules.essential.iter().any(|kept| path.0.starts_with(&kept.0));
    if !reached || !may_be_removed(&path, &rules.paired) || essential(&path) {
        return None;
    }
    if !rules.essential.iter().any(|kept| kept.0.starts_with(&path.0)) {
        return Some(vec![path]);
    }
    let inner = outline::members(value).map(|(_, name, _)| {
        let step = Step { name: name.into_owned(), items: None };
        FieldPath([&path.0[..], &[step]].concat())
    });
    let inner: Vec<FieldPath> = inner.collect();
    (!inner.iter().any(essential)).then_some(inner)
}

/// Inside of what was said and of tools, one refused item would speak for all others of other types; so there it is only
/// what a table knows to go with a flag, and the details of a cache mark, never the mark.
fn may_be_removed(path: &FieldPath, paired: &[FieldPath]) -> bool {
    const WHOLE: &[&str] =
        &["messages", "system", "tools", "max_tokens", "anthropic_version", "anthropic_beta"];
    let names: Vec<&str> = path.0.iter().map(|step| step.name.as_str()).collect();
    match names.as_slice() {
        [] => false,
        [only] => !WHOLE.contains(only),
        ["messages" | "system" | "tools", .., _] if paired.contains(path) => true,
        ["messages" | "system" | "tools", marked @ .., _] => marked.contains(&"cache_control"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Need, Settings};

    #[test]
    fn bedrock_s_complaints_are_understood() {
        let fields = |places: &[&str]| {
            Some(Complaint::Fields(places.iter().map(|place| (*place).to_owned()).collect()))
        };
        for (message, meant) in [
            ("invalid beta flag", Some(Complaint::Beta(vec![]))),
            (
                "Unexpected value(s) `foo-2026-01-01` for the `anthropic-beta` header.",
                Some(Complaint::Beta(vec!["foo-2026-01-01".into()])),
            ),
            ("context_management: Extra inputs are not permitted", fields(&["context_management"])),
            (
                "tools.0.custom.strict: Extra inputs are not permitted, x: Extra inputs are not permitted",
                fields(&["tools.0.custom.strict", "x"]),
            ),
            ("Invalid API version \"2026-10-21\".", Some(Complaint::Version)),
            (
                "messages.0.content.1.tool-use.x_y: Extra inputs are not permitted",
                fields(&["messages.0.content.1.tool-use.x_y"]),
            ),
            (
                "Invalid Beta Flag: a-b-2026-01-01, c-2026-02-02",
                Some(Complaint::Beta(vec!["a-b-2026-01-01".into(), "c-2026-02-02".into()])),
            ),
            ("Extra inputs are not permitted", None),
            ("", None),
            ("max_tokens: Field required", None),
            ("messages: the text says invalid api version", None),
        ] {
            assert_eq!(read(message), meant, "{message}");
        }
    }

    #[test]
    fn a_place_is_found_past_the_names_that_bedrock_puts_in() {
        let body = br#"
            {"model":"x","speed":"fast","tools":[{"name":"a"},{"name":"b","strict":true,"defer_loading":true,
            "cache_control":{"type":"ephemeral","scope":"x"}}],
            "messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"ttl":"1h"}}]}]}"#;
        let environment = [("BEDROCK_JWT__SECRET".to_owned(), "s".repeat(48))].into_iter();
        let settings = Settings::from_layers(None, environment, Need::Database).unwrap();
        let rules = Rules::new(&settings.models, &settings.anthropic);
        for (place, found) in [
            ("speed", Some("speed")),
            ("tools.1.custom.strict", None),
            ("tools.1.custom.cache_control", None),
            ("tools.1.custom.defer_loading", Some("tools[].defer_loading")),
            ("tools.1.custom.cache_control.scope", Some("tools[].cache_control.scope")),
            (
                "messages.0.content.0.text.cache_control.ttl",
                Some("messages[].content[].cache_control.ttl"),
            ),
            ("messages.0.content.0.text.text", None),
            ("messages", None),
            ("max_tokens", None),
            ("messages.0.content.0.text.cache_control", None),
            ("messages.0.content.0.text.cache_control.ttl.x", None),
            ("messages.0.role", None),
            ("messages.0.content", None),
            ("messages.9.content.0.cache_control", None),
            ("tools", None),
            ("tools.1", None),
            ("tools.0.strict", None),
            ("tools.custom.1.strict", None),
            ("thinking.display", None),
            ("tool_choice.none.disable_parallel_tool_use", None),
            ("tools.1.custom.name", None),
            ("tools.1.cache_control", None),
            ("speed.x", None),
            ("x.speed", Some("speed")),
            ("anthropic_version", None),
            ("0", None),
            ("...", None),
            ("tools.7.strict", None),
            ("nothing", None),
            ("", None),
        ] {
            let path = locate(body, place, &rules).map(|paths| paths[0].to_string());
            assert_eq!(path.as_deref(), found, "{place}");
        }
    }
}
