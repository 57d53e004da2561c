//! Turns a Messages request into the body of InvokeModel by an edit of its bytes: the members that Bedrock does not
//! take go, a few are put in front, and every other byte stays, in its order (protocol reference §4.2, §4.3).

use std::{borrow::Cow, collections::HashSet, ops::Range};

use bytes::Bytes;

use super::{
    learned::Refused,
    outline::{self, Hit, Malformed, Outline, text},
    rules::{BetaRow, Mark, Own, Rules, holds_for},
};
use crate::settings::rules::{Action, Send};

/// The API versions in the body of InvokeModel (protocol reference §0).
const OLD: &str = "bedrock-2023-05-31";
const NEW: &str = "2026-10-21";
/// As the `anthropic-version` header spells the older one.
const OLD_HEADER: &str = "2023-06-01";
/// How the block begins that Claude Code puts first into `system`.
const ATTRIBUTION: &str = "x-anthropic-billing-header:";
/// What a request that only counts says in place of `max_tokens`, above any thinking budget.
const COUNTED_OUTPUT: u64 = 1024;
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
        let outline = outline::read(&body, &rules.node)?;
        let incoming = Self { body, outline, counting };
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
        Ok(Self { body: edited, outline, counting: false })
    }

    /// The model asked for.
    pub fn model(&self, rules: &Rules) -> Cow<'_, str> {
        self.own(rules, Own::Model).and_then(text).unwrap_or_default()
    }

    /// Whether the answer is to be streamed.
    pub fn streams(&self, rules: &Rules) -> bool {
        self.own(rules, Own::Stream) == Some(b"true")
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
        let fields = learned.iter().filter_map(|refused| match refused {
            Refused::Field(path) => Some(path),
            Refused::Beta(_) | Refused::Version => None,
        });
        if fields.clone().next().is_none() {
            return Edit::new(self, &self.outline, rules, target, learned).apply(headers);
        }
        let rules = rules.with_fields(fields);
        let outline = outline::read(&self.body, &rules.node)?;
        Edit::new(self, &outline, &rules, target, learned).apply(headers)
    }
}

/// One edit under way.
struct Edit<'a> {
    incoming: &'a Incoming,
    outline: &'a Outline,
    rules: &'a Rules,
    target: Target<'a>,
    learned: &'a [Refused],
    /// Where the items that go begin; an item is known by that.
    gone: HashSet<usize>,
    /// How many items of each container go.
    emptied: Vec<usize>,
    cuts: Vec<Range<usize>>,
    /// What takes the place of bytes that go.
    replacements: Vec<(Range<usize>, Vec<u8>)>,
    betas: Vec<String>,
    notes: Vec<Note>,
}

impl<'a> Edit<'a> {
    fn new(
        incoming: &'a Incoming,
        outline: &'a Outline,
        rules: &'a Rules,
        target: Target<'a>,
        learned: &'a [Refused],
    ) -> Self {
        Self {
            incoming,
            outline,
            rules,
            target,
            learned,
            gone: HashSet::new(),
            emptied: vec![0; outline.containers.len()],
            cuts: Vec::new(),
            replacements: Vec::new(),
            betas: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn apply(mut self, headers: &Headers) -> Result<Edited, Wrong> {
        let mut asked = headers.betas.clone();
        let mut version = headers.version.clone();
        let (mut output, mut budget, mut profile) = (None, 0, None);
        for (hit, own) in self.own_hits() {
            let value = self.bytes(&hit.value);
            match own {
                Own::Model | Own::Stream => self.cut(hit),
                Own::Version => {
                    version = version.or_else(|| text(value).map(Cow::into_owned));
                    self.cut(hit);
                }
                Own::Betas => {
                    let flags: Vec<String> = serde_json::from_slice(value).map_err(|_| {
                        Wrong::Member(
                            "anthropic_beta: Input should be a list of strings".to_owned(),
                        )
                    })?;
                    asked.extend(flags);
                    self.cut(hit);
                }
                Own::MaxTokens => output = number(value),
                Own::Thinking => budget = number(value).unwrap_or_default(),
                Own::Profile => profile = Some(()),
                Own::Messages | Own::System | Own::SystemBlock => {}
            }
        }
        self.strip_attribution();
        self.follow_fields()?;
        self.follow_betas(asked);
        let new_version = self.new_version(version.as_deref())?;
        let version = if new_version { NEW } else { OLD };

        let mut first = format!("\"anthropic_version\":\"{version}\"");
        if !self.betas.is_empty() {
            first.push_str(",\"anthropic_beta\":");
            first.push_str(&json(&self.betas));
        }
        if self.incoming.counting && output.is_none() {
            let output = COUNTED_OUTPUT.saturating_add(budget);
            first.push_str(&format!(",\"max_tokens\":{output}"));
        }
        if let (Some(id), None) = (&headers.profile, profile) {
            first.push_str(&format!(",\"user_profile_id\":{}", json(id)));
        }
        let body = self.splice(&first);
        Ok(Edited { body, betas: self.betas, new_version, notes: self.notes })
    }

    fn bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.incoming.body.get(range.clone()).unwrap_or_default()
    }

    fn own_hits(&self) -> Vec<(&'a Hit, Own)> {
        let own = |hit: &'a Hit| match self.rules.marks.get(hit.mark) {
            Some(Mark::Own(own)) => Some((hit, *own)),
            _ => None,
        };
        self.outline.hits.iter().filter_map(own).collect()
    }

    /// Takes an item out, and what holds it if that would be left empty.
    fn cut(&mut self, hit: &Hit) {
        let (mut item, mut parent) = (hit.item.clone(), Some(hit.parent));
        while self.gone.insert(item.start) {
            self.cuts.push(item.clone());
            let Some(at) = parent else { return };
            let (Some(container), Some(emptied)) =
                (self.outline.containers.get(at), self.emptied.get_mut(at))
            else {
                return;
            };
            *emptied += 1;
            if *emptied < container.count || container.parent.is_none() {
                return;
            }
            (item, parent) = (container.item.clone(), container.parent);
        }
    }

    /// Whether an item goes, or something that holds it.
    fn is_gone(&self, hit: &Hit) -> bool {
        if self.gone.contains(&hit.item.start) {
            return true;
        }
        let mut at = Some(hit.parent);
        while let Some(container) = at.and_then(|at| self.outline.containers.get(at)) {
            if container.parent.is_some() && self.gone.contains(&container.item.start) {
                return true;
            }
            at = container.parent;
        }
        false
    }

    fn note(&mut self, change: Change, what: &str) {
        let what: String = what.chars().take(80).collect();
        let note = Note { change, what };
        if self.notes.len() < MOST_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Leading blocks of `system` that only say which client is asking: Bedrock refuses them, and as they change from
    /// call to call they would defeat prompt caching.
    fn strip_attribution(&mut self) {
        if !self.rules.strip_attribution {
            return;
        }
        let is_attribution = |block: &[u8]| {
            let said = outline::member(block, "text").and_then(text);
            said.is_some_and(|said| said.starts_with(ATTRIBUTION))
        };
        let blocks: Vec<&Hit> = self
            .own_hits()
            .into_iter()
            .filter_map(|(hit, own)| (own == Own::SystemBlock).then_some(hit))
            .take_while(|hit| is_attribution(self.bytes(&hit.value)))
            .collect();
        for hit in blocks {
            self.cut(hit);
            self.note(Change::AttributionDropped, "system");
        }
        let whole = self.own_hits().into_iter().find(|(_, own)| *own == Own::System);
        if let Some((hit, _)) = whole
            && let Some(said) = text(self.bytes(&hit.value))
            && said.starts_with(ATTRIBUTION)
        {
            match said.split_once('\n').map(|(_, rest)| rest.trim_start_matches('\n')) {
                Some(rest) if !rest.is_empty() => {
                    self.replacements.push((hit.value.clone(), json(rest).into_bytes()));
                }
                _ => self.cut(hit),
            }
            self.note(Change::AttributionDropped, "system");
        }
    }

    /// Members that the table of fields, or what was learned, takes out.
    fn follow_fields(&mut self) -> Result<(), Wrong> {
        let (outline, marks) = (self.outline, self.rules.marks.clone());
        for hit in &outline.hits {
            let Some(Mark::Field { path, rule }) = marks.get(hit.mark) else { continue };
            if !holds_for(&rule.models, self.target.base) || self.is_gone(hit) {
                continue;
            }
            let value = self.bytes(&hit.value);
            match &rule.action {
                Action::Keep => {}
                Action::Refuse if !is_nothing(value) => {
                    return Err(Wrong::Member(refusal(path, value)));
                }
                Action::Drop | Action::Refuse => {
                    self.cut(hit);
                    self.note(Change::FieldDropped, path);
                }
                Action::Lift(names) => {
                    let lifted = names.iter().filter_map(|name| {
                        let value = std::str::from_utf8(outline::member(value, name)?).ok()?;
                        Some(format!("{}:{value}", json(name)))
                    });
                    let lifted: Vec<String> = lifted.collect();
                    if lifted.is_empty() {
                        self.cut(hit);
                    } else {
                        self.replacements.push((hit.item.clone(), lifted.join(",").into_bytes()));
                    }
                    self.note(Change::FieldLifted, path);
                }
            }
        }
        Ok(())
    }

    /// Decides which flags are sent. None goes without a member that needs it, and no such member without its flag.
    fn follow_betas(&mut self, asked: Vec<String>) {
        let (outline, rules) = (self.outline, self.rules);
        let mut paired = vec![false; rules.betas.len()];
        for hit in &outline.hits {
            if let Some(Mark::Paired { row }) = rules.marks.get(hit.mark)
                && !self.is_gone(hit)
                && let Some(there) = paired.get_mut(*row)
            {
                *there = true;
            }
        }
        for flag in asked {
            self.decide(flag, &paired);
        }
        let long_context = self.target.long_context;
        for row in rules.betas.iter().filter(|_| long_context) {
            if row.is_for_long_context_of(self.target.base)
                && let Some(flag) = row.sends()
                && !self.is_refused(flag)
            {
                self.add(flag);
            }
        }
        for hit in &outline.hits {
            let Some(Mark::Paired { row }) = rules.marks.get(hit.mark) else { continue };
            let Some(row) = rules.betas.get(*row).filter(|_| !self.is_gone(hit)) else { continue };
            let flag = row.sends().filter(|flag| self.may_send(row, flag));
            match flag {
                Some(flag) if self.betas.iter().any(|sent| sent == flag) => {}
                Some(flag) if row.is_added_for(self.target.base) => self.add(flag),
                Some(_) => {}
                None => {
                    self.cut(hit);
                    let what = format!("the member of {}", row.flag.as_str());
                    self.note(Change::FieldDropped, &what);
                }
            }
        }
    }

    /// Sends a flag that the client asked for, under its name or another, or drops it.
    fn decide(&mut self, flag: String, paired: &[bool]) {
        let rules = self.rules;
        let mut name = flag.as_str();
        let mut row = rules.beta(name);
        if let Some(Send::As(other)) = row.map(|row| &row.rule.send) {
            self.note(Change::BetaRenamed, name);
            (name, row) = (other, rules.beta(other));
        }
        let needed = row.is_none_or(|row| {
            let at = rules.betas.iter().position(|other| std::ptr::eq(other, row));
            let there = at.and_then(|at| paired.get(at)).copied().unwrap_or_default();
            row.rule.fields.is_empty() || row.rule.alone || there
        });
        let allowed = match row {
            Some(row) => self.may_send(row, name),
            None => !self.is_refused(name),
        };
        if name.is_empty() || !needed || !allowed {
            self.note(Change::BetaDropped, name);
        } else if !self.betas.iter().any(|sent| sent == name) {
            self.betas.push(name.to_owned());
        }
    }

    fn add(&mut self, flag: &str) {
        if !self.betas.iter().any(|sent| sent == flag) {
            self.betas.push(flag.to_owned());
            self.note(Change::BetaAdded, flag);
        }
    }

    fn may_send(&self, row: &BetaRow, flag: &str) -> bool {
        row.rule.send == Send::Forward && row.is_for(self.target.base) && !self.is_refused(flag)
    }

    fn is_refused(&self, flag: &str) -> bool {
        self.learned.iter().any(|refused| matches!(refused, Refused::Beta(name) if name == flag))
    }

    /// Whether the body gets the API version 2026-10-21 (protocol reference §0).
    fn new_version(&self, asked: Option<&str>) -> Result<bool, Wrong> {
        match asked {
            None | Some(OLD_HEADER | OLD) => Ok(false),
            Some(NEW) => Ok(self.rules.takes_new_version(self.target.base)
                && !self.learned.contains(&Refused::Version)),
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                Err(Wrong::Member(format!(
                    "anthropic-version: `{other}` is not known here; {OLD_HEADER} and {NEW} are"
                )))
            }
        }
    }

    /// The body with `first` in front of its members, and without what was cut.
    fn splice(&mut self, first: &str) -> Bytes {
        let body: &[u8] = &self.incoming.body;
        let mut edits = widened(body, std::mem::take(&mut self.cuts));
        let edits_of_cuts: Vec<(Range<usize>, Vec<u8>)> =
            edits.drain(..).map(|cut| (cut, Vec::new())).collect();
        let mut edits = edits_of_cuts;
        edits.append(&mut self.replacements);
        edits.sort_unstable_by_key(|(range, _)| range.start);
        let root = self.outline.containers.first();
        let count = root.map_or(0, |root| root.count);
        let left = count > self.emptied.first().copied().unwrap_or_default();
        let open = root.map_or(0, |root| root.item.start) + 1;

        let more: usize = edits.iter().map(|(_, new)| new.len()).sum();
        let mut out = Vec::with_capacity(body.len() + first.len() + more + 1);
        out.extend_from_slice(body.get(..open).unwrap_or_default());
        out.extend_from_slice(first.as_bytes());
        if left {
            out.push(b',');
        }
        let mut at = open;
        for (range, new) in edits {
            if range.start >= at {
                out.extend_from_slice(body.get(at..range.start).unwrap_or_default());
                out.extend_from_slice(&new);
                at = range.end;
            }
        }
        out.extend_from_slice(body.get(at..).unwrap_or_default());
        out.into()
    }
}

/// Widens items to the comma that goes with them, and joins what touches.
pub(super) fn widened(body: &[u8], mut items: Vec<Range<usize>>) -> Vec<Range<usize>> {
    // Of items within items the outer comes first, and takes the inner along.
    items.sort_unstable_by_key(|item| (item.start, std::cmp::Reverse(item.end)));
    let mut cuts: Vec<Range<usize>> = Vec::with_capacity(items.len());
    for item in items {
        if cuts.last().is_some_and(|last| item.start < last.end) {
            continue;
        }
        let after = skip_space(body, item.end);
        if body.get(after) == Some(&b',') {
            cuts.push(item.start..after + 1);
            continue;
        }
        // The last of its container: the comma before it goes, wherever the items before it went.
        let mut start = item.start;
        loop {
            if let Some(last) = cuts.last().filter(|last| last.end == skip_space_back(body, start))
            {
                start = last.start;
                cuts.pop();
                continue;
            }
            let before = skip_space_back(body, start);
            if before > 0 && body.get(before - 1) == Some(&b',') {
                start = before - 1;
            }
            break;
        }
        cuts.push(start..item.end);
    }
    cuts
}

fn skip_space(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Where the whitespace before `at` begins.
fn skip_space_back(body: &[u8], mut at: usize) -> usize {
    while at > 0 && body.get(at - 1).is_some_and(u8::is_ascii_whitespace) {
        at -= 1;
    }
    at
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A value that asks for nothing.
fn is_nothing(value: &[u8]) -> bool {
    let inner = value.get(1..value.len().saturating_sub(1)).unwrap_or_default();
    value == b"null"
        || (matches!(value.first(), Some(b'[' | b'{')) && inner.iter().all(u8::is_ascii_whitespace))
}

fn refusal(path: &str, value: &[u8]) -> String {
    let kind = outline::member(value, "type").and_then(text);
    match kind.filter(|_| path.contains("[type")) {
        Some(kind) => {
            let list = path.split('[').next().unwrap_or(path);
            let kind: String = kind.chars().take(80).collect();
            format!("{list}: Bedrock has no `{kind}`; leave it out, or run it on the client's side")
        }
        None => format!("{path}: not available on Bedrock; leave it out"),
    }
}

/// JSON of what cannot fail to be written.
fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
