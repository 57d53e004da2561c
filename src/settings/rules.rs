//! What Bedrock takes of a Messages request, as data: rules for beta flags and for members of the body. Only their
//! shape; `anthropic::rules` applies them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// Rows by flag; a name may end in `*`. A row that is `~` is taken out.
pub type BetaRules = BTreeMap<Glob, Option<BetaRule>>;
/// Rows by the place of the member.
pub type FieldRules = BTreeMap<FieldPath, Option<FieldRule>>;

/// A name, or the start of one and a `*`; a `*` may also stand in the middle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Glob(String);

impl Glob {
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
            return false;
        };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }

    /// An exact name beats a pattern, a longer pattern a shorter one.
    pub fn weight(&self) -> usize {
        self.0.len() + if self.0.contains('*') { 0 } else { 1 << 16 }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What becomes of a beta flag.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BetaRule {
    pub send: Send,
    /// The models it is sent to; empty = all.
    pub models: Vec<Glob>,
    /// The members that need the flag: without it they are removed, and without them it is not sent.
    pub fields: Vec<FieldPath>,
    /// The flag means something without `fields` too.
    pub alone: bool,
    /// The models for which the flag is added when one of `fields` comes without it; `None` = all.
    pub add: Option<Vec<Glob>>,
    /// The models for which it is added when the model's name ends in `[1m]`.
    pub long_context: Vec<Glob>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Send {
    #[default]
    Forward,
    Drop,
    /// Under another name.
    As(String),
}

/// What becomes of a member, for the models of the list (empty = all).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRule {
    pub action: Action,
    pub models: Vec<Glob>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Keep,
    /// Removed: the answer is the same without it, or nearly.
    Drop,
    /// 400 unless it is empty: without it the answer would be another one.
    Refuse,
    /// The members named take the place of the object that holds them.
    Lift(Vec<String>),
}

/// The place of a member: `service_tier`, `tools[].custom`, `context_management.edits[type=a|b*]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(pub Vec<Step>);

/// A member, or with `items` the items of the list that it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    pub name: String,
    pub items: Option<Items>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Items {
    All,
    /// Those whose `type` matches one; only as the last step.
    Typed(Vec<Glob>),
    /// Those whose `type` matches none.
    NotTyped(Vec<Glob>),
}

impl FromStr for FieldPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not the place of a member: name.name, name[].name, name[type=a|b*] or name[type!=a|b*]"
            )
        };
        let mut steps: Vec<Step> = Vec::new();
        for part in text.split('.') {
            let (name, selector) = match part.split_once('[') {
                Some((name, rest)) => (name, Some(rest.strip_suffix(']').ok_or_else(wrong)?)),
                None => (part, None),
            };
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            let ended =
                steps.last().is_some_and(|step| !matches!(step.items, None | Some(Items::All)));
            if name.is_empty() || !name.bytes().all(plain) || ended {
                return Err(wrong());
            }
            let globs = |list: &str| list.split('|').map(Glob::new).collect::<Vec<_>>();
            let items = match selector {
                None => None,
                Some("") => Some(Items::All),
                Some(selector) => Some(match selector.split_once("!=") {
                    Some(("type", list)) => Items::NotTyped(globs(list)),
                    _ => Items::Typed(globs(selector.strip_prefix("type=").ok_or_else(wrong)?)),
                }),
            };
            steps.push(Step { name: name.to_owned(), items });
        }
        Ok(Self(steps))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |globs: &[Glob]| globs.iter().map(Glob::as_str).collect::<Vec<_>>().join("|");
        for (at, Step { name, items }) in self.0.iter().enumerate() {
            let dot = if at == 0 { "" } else { "." };
            write!(f, "{dot}{name}")?;
            match items {
                None => {}
                Some(Items::All) => f.write_str("[]")?,
                Some(Items::Typed(globs)) => write!(f, "[type={}]", list(globs))?,
                Some(Items::NotTyped(globs)) => write!(f, "[type!={}]", list(globs))?,
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for BetaRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "`forward`, `drop`, or {send, models, fields, alone, add, long_context}"
        )]
        enum Written {
            Word(Word),
            Full(Full),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            Forward,
            Drop,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            send: Option<String>,
            #[serde(default)]
            models: Vec<Glob>,
            #[serde(default)]
            fields: Vec<FieldPath>,
            #[serde(default)]
            alone: bool,
            add: Option<Vec<Glob>>,
            #[serde(default)]
            long_context: Vec<Glob>,
        }
        let send = |text: &str| match text {
            "forward" => Send::Forward,
            "drop" => Send::Drop,
            other => Send::As(other.to_owned()),
        };
        Ok(match Written::deserialize(deserializer)? {
            Written::Word(Word::Forward) => Self::default(),
            Written::Word(Word::Drop) => Self { send: Send::Drop, ..Self::default() },
            Written::Full(Full { send: name, models, fields, alone, add, long_context }) => {
                let send = name.as_deref().map_or(Send::Forward, send);
                Self { send, models, fields, alone, add, long_context }
            }
        })
    }
}

impl<'de> Deserialize<'de> for FieldRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "`keep`, `drop`, `refuse`, {drop: [models]}, {refuse: [models]} or {lift: [members]}"
        )]
        enum Written {
            Word(Word),
            Full(Full),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            Keep,
            Drop,
            Refuse,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Full {
            Drop(Vec<Glob>),
            Refuse(Vec<Glob>),
            Lift(Vec<String>),
        }
        let everywhere = |action| Self { action, models: Vec::new() };
        Ok(match Written::deserialize(deserializer)? {
            Written::Word(Word::Keep) => everywhere(Action::Keep),
            Written::Word(Word::Drop) => everywhere(Action::Drop),
            Written::Word(Word::Refuse) => everywhere(Action::Refuse),
            Written::Full(Full::Drop(models)) => Self { action: Action::Drop, models },
            Written::Full(Full::Refuse(models)) => Self { action: Action::Refuse, models },
            Written::Full(Full::Lift(members)) => everywhere(Action::Lift(members)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_its_text_around_the_stars() {
        for (pattern, text, matches) in [
            ("a-b", "a-b", true),
            ("a-b", "a-bc", false),
            ("a-*", "a-", true),
            ("a-*", "a-b", true),
            ("a-*", "b-a-", false),
            ("*-v1*", "x-v1:0", true),
            ("*-v1*", "x-v2:0", false),
            ("*a*b", "xaxb", true),
            ("*a*b", "xab", true),
            ("*a*b", "xbxa", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), matches, "{pattern} {text}");
        }
        assert!(Glob::new("a-1").weight() > Glob::new("a-long-pattern-*").weight());
    }

    #[test]
    fn places_are_read_and_written_the_same() {
        for text in [
            "service_tier",
            "output_config.effort",
            "tools[].cache_control.scope",
            "context_management.edits[type!=compact_20260112|clear_tool_uses_20250919]",
            "tools[type=web_search_*]",
        ] {
            assert_eq!(text.parse::<FieldPath>().unwrap().to_string(), text);
        }
        for wrong in ["", ".", "a..b", "a[", "a]", "a[0]", "a[type=x].b", "a b", "a[kind=x]"] {
            assert!(wrong.parse::<FieldPath>().is_err(), "{wrong}");
        }
    }
}
