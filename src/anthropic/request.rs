//! Turns a Messages request into the body of InvokeModel by an edit of its bytes: the members that Bedrock does not
//! take go, a few are put in front, and every other byte stays, in its order (protocol reference §4.2, §4.3).

mod edit;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use bytes::Bytes;

use self::edit::Edit;
use super::{
    learned::Refused,
    outline::{self, Malformed, Outline, text},
    rules::{Mark, Own, Rules},
    splice::{spliced, widened},
};
use crate::settings::rules::Action;

/// The API versions in the body of InvokeModel (protocol reference §0).
pub const OLD: &str = "bedrock-2023-05-31";
pub const NEW: &str = "2026-10-21";
/// As the `anthropic-version` header spells the older one.
const OLD_HEADER: &str = "2023-06-01";
/// Notes that are kept of one request.
const MOST_NOTES: usize = 32;

/// Why a request is not sent; the text names the member, as Anthropic's own errors do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Member(String),
}

/// What the client says in headers.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    pub version: Option<String>,
    /// The flags of `anthropic-beta`, trimmed, in order.
    pub betas: Vec<String>,
    /// `anthropic-user-profile-id`.
    pub profile: Option<String>,
}

/// Whom the request is for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The foundation model's id, by which rules are chosen.
    pub base: &'a str,
    /// The model's name asked for the long context.
    pub long_context: bool,
}

/// A request as it came, read and found good.
#[derive(Debug)]
pub struct Incoming {
    body: Bytes,
    outline: Outline,
    counting: bool,
    /// What reading it has changed.
    notes: Vec<Note>,
}

/// The body for Bedrock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    pub body: Bytes,
    /// The flags in it.
    pub betas: Vec<String>,
    pub new_version: bool,
    pub notes: Vec<Note>,
}

/// One thing that was changed, for the log and the metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub change: Change,
    /// The flag or the place of the member.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    BetaDropped,
    BetaAdded,
    BetaRenamed,
    FieldDropped,
    FieldLifted,
    AttributionDropped,
}

impl Change {
    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BetaDropped => "beta_dropped",
            Self::BetaAdded => "beta_added",
            Self::BetaRenamed => "beta_renamed",
            Self::FieldDropped => "field_dropped",
            Self::FieldLifted => "field_lifted",
            Self::AttributionDropped => "attribution_dropped",
        }
    }
}

impl Incoming {
    /// Reads a request for a message, or with `counting` for the tokens of one.
    ///
    /// # Errors
    /// [`Wrong`]: no JSON object, or a member that is missing or of the wrong type.
    pub fn read(body: Bytes, rules: &Rules, counting: bool) -> Result<Self, Wrong> {
        let mut incoming = Self { counting, ..Self::reread(body, rules)? };
        if let Some((body, notes)) = incoming.lifted(rules) {
            incoming = Self { counting, notes, ..Self::reread(body, rules)? };
        }
        let wrong = |message: &str| Err(Wrong::Member(message.to_owned()));
        match incoming.own(rules, Own::Model).map(text) {
            None => return wrong("model: Field required"),
            Some(Some(name)) if !name.is_empty() => {}
            Some(_) => return wrong("model: Input should be the name of a model"),
        }
        if incoming
            .own(rules, Own::Stream)
            .is_some_and(|value| value != b"true" && value != b"false")
        {
            return wrong("stream: Input should be a valid boolean");
        }
        match incoming.own(rules, Own::Messages) {
            None => return wrong("messages: Field required"),
            Some(value) if !value.starts_with(b"[") => {
                return wrong("messages: Input should be a valid list");
            }
            Some(_) => {}
        }
        match incoming.own(rules, Own::MaxTokens) {
            None if !counting => return wrong("max_tokens: Field required"),
            Some(value) if number(value).is_none() => {
                return wrong("max_tokens: Input should be a valid integer, at least 0");
            }
            _ => {}
        }
        Ok(incoming)
    }

    /// A body for Bedrock, to be edited once more with what was learned since.
    ///
    /// # Errors
    /// None for a body that [`Incoming::edit`] made.
    pub fn reread(edited: Bytes, rules: &Rules) -> Result<Self, Wrong> {
        let outline = outline::read(&edited, &rules.node)?;
        Ok(Self { body: edited, outline, counting: false, notes: Vec::new() })
    }

    /// The model asked for.
    pub fn model(&self, rules: &Rules) -> Cow<'_, str> {
        self.own(rules, Own::Model).and_then(text).unwrap_or_default()
    }

    /// Whether the answer is to be streamed.
    pub fn streams(&self, rules: &Rules) -> bool {
        self.own(rules, Own::Stream) == Some(b"true")
    }

    /// The body with members in the place of the objects that wrap them, before anything else is decided about them.
    /// `None` if there are none.
    fn lifted(&self, rules: &Rules) -> Option<(Bytes, Vec<Note>)> {
        let (mut cuts, mut edits, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken: HashMap<usize, HashSet<Cow<'_, str>>> = HashMap::new();
        for hit in &self.outline.hits {
            let Some(Mark::Field { path, rule }) = rules.marks.get(hit.mark) else { continue };
            let Action::Lift(names) = &rule.action else { continue };
            let taken = taken.entry(hit.parent).or_insert_with(|| {
                let holder = self.outline.containers.get(hit.parent);
                let holder = holder.and_then(|holder| self.body.get(holder.value.clone()));
                outline::members(holder.unwrap_or_default()).map(|(_, name, _)| name).collect()
            });
            let wrapper = self.body.get(hit.value.clone()).unwrap_or_default();
            let lifted: Vec<&[u8]> = outline::members(wrapper)
                .filter(|(_, name, _)| names.iter().any(|lifts| lifts == name))
                .filter_map(|(item, name, _)| wrapper.get(item).filter(|_| taken.insert(name)))
                .collect();
            match lifted.is_empty() {
                true => cuts.push(hit.item.clone()),
                false => edits.push((hit.item.clone(), lifted.join(&b','))),
            }
            add_note(&mut notes, Change::FieldLifted, path);
        }
        edits.extend(widened(&self.body, cuts).into_iter().map(|cut| (cut, Vec::new())));
        (!edits.is_empty()).then(|| (spliced(&self.body, edits), notes))
    }

    fn own(&self, rules: &Rules, wanted: Own) -> Option<&[u8]> {
        let hit = self.outline.hits.iter().find(
            |hit| matches!(rules.marks.get(hit.mark), Some(Mark::Own(own)) if *own == wanted),
        )?;
        self.body.get(hit.value.clone())
    }

    /// The body for Bedrock.
    ///
    /// # Errors
    /// [`Wrong`] for an API version that nobody knows, and for members that Bedrock has not and that change the answer.
    pub fn edit(
        &self,
        rules: &Rules,
        headers: &Headers,
        target: Target<'_>,
        learned: &[Refused],
    ) -> Result<Edited, Wrong> {
        let new_version = self.new_version(rules, headers, target, learned)?;
        let fields = learned.iter().filter_map(|refused| match refused {
            Refused::Field { path, new_version: under } if *under == new_version => Some(path),
            _ => None,
        });
        if fields.clone().next().is_none() {
            let edit = Edit::new(self, &self.outline, rules, target, learned);
            return edit.apply(headers, new_version);
        }
        let rules = rules.with_fields(fields);
        let outline = outline::read(&self.body, &rules.node)?;
        Edit::new(self, &outline, &rules, target, learned).apply(headers, new_version)
    }

    /// Whether the body gets the API version 2026-10-21 (protocol reference §0).
    fn new_version(
        &self,
        rules: &Rules,
        headers: &Headers,
        target: Target<'_>,
        learned: &[Refused],
    ) -> Result<bool, Wrong> {
        let inside = self.own(rules, Own::Version).and_then(text);
        match headers.version.as_deref().or(inside.as_deref()) {
            None | Some(OLD_HEADER | OLD) => Ok(false),
            Some(NEW) => {
                Ok(rules.takes_new_version(target.base) && !learned.contains(&Refused::Version))
            }
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                Err(Wrong::Member(format!(
                    "anthropic-version: `{other}` is not known here; {OLD_HEADER} and {NEW} are"
                )))
            }
        }
    }
}

fn add_note(notes: &mut Vec<Note>, change: Change, what: &str) {
    let what: String = what.chars().take(80).collect();
    let note = Note { change, what };
    if notes.len() < MOST_NOTES && !notes.contains(&note) {
        notes.push(note);
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
