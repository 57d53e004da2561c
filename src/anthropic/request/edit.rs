//! One edit under way: which members go, which flags are sent, and the body that is left.

use std::{collections::HashSet, ops::Range};

use bytes::Bytes;

use super::{Change, Edited, Headers, Incoming, NEW, Note, OLD, Target, Wrong, add_note, number};
use crate::{
    anthropic::{
        learned::Refused,
        outline::{self, Hit, Outline, text},
        rules::{BetaRow, Mark, Own, Rules, holds_for},
        splice::{spliced, widened},
    },
    settings::rules::{Action, Send},
};

/// How the block begins that Claude Code puts first into `system`, as every serializer spells it.
const ATTRIBUTION: &[u8] = b"\"x-anthropic-billing-header:";
/// The member that the header `anthropic-user-profile-id` stands for.
const PROFILE: &str = "user_profile_id";
/// What a request that only counts says in place of `max_tokens`, above any thinking budget.
const COUNTED_OUTPUT: u64 = 1024;
/// Flags of the body that are looked at.
pub(super) const MOST_FLAGS: usize = 512;

/// One edit under way.
pub(super) struct Edit<'a> {
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
    /// A part of `system` that goes.
    attribution: Option<Range<usize>>,
    /// Flags that an essential member needs.
    indispensable: Vec<&'a str>,
    betas: Vec<String>,
    notes: Vec<Note>,
}

impl<'a> Edit<'a> {
    pub(super) fn new(
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
            attribution: None,
            indispensable: Vec::new(),
            betas: Vec::new(),
            notes: incoming.notes.clone(),
        }
    }

    pub(super) fn apply(mut self, headers: &Headers, new_version: bool) -> Result<Edited, Wrong> {
        let mut asked = headers.betas.clone();
        let (mut output, mut budget) = (None, 0);
        let mut profile = headers.profile.as_ref();
        for (hit, own) in self.own_hits() {
            let value = self.bytes(&hit.value);
            match own {
                Own::Model | Own::Stream | Own::Version => self.cut(hit),
                Own::Betas => {
                    let flags: Vec<String> = serde_json::from_slice(value).map_err(|_| {
                        Wrong::Member(
                            "anthropic_beta: Input should be a list of strings".to_owned(),
                        )
                    })?;
                    asked.extend(flags.into_iter().take(MOST_FLAGS));
                    self.cut(hit);
                }
                Own::MaxTokens => output = number(value),
                Own::Thinking => budget = number(value).unwrap_or_default(),
                Own::Profile => profile = None,
                Own::Messages | Own::System | Own::SystemBlock => {}
            }
        }
        self.strip_attribution();
        self.follow_fields()?;
        self.follow_betas(asked);
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
        if let Some(id) = profile {
            match self.rules.leaves_out(PROFILE, self.target.base) {
                true => self.note(Change::FieldDropped, PROFILE),
                false => first.push_str(&format!(",\"{PROFILE}\":{}", json(id))),
            }
        }
        let body = self.splice(first);
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
        add_note(&mut self.notes, change, what);
    }

    /// Leading blocks of `system` that only say which client is asking: Bedrock refuses them, and as they change from
    /// call to call they would defeat prompt caching.
    fn strip_attribution(&mut self) {
        if !self.rules.strip_attribution {
            return;
        }
        let is_attribution = |block: &[u8]| {
            outline::member(block, "text").is_some_and(|said| said.starts_with(ATTRIBUTION))
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
        if let Some((hit, _)) =
            whole.filter(|(hit, _)| self.bytes(&hit.value).starts_with(ATTRIBUTION))
        {
            let said = self.bytes(&hit.value);
            let rest = second_line(said);
            match said.get(rest..) {
                Some(b"\"") | None => self.cut(hit),
                Some(_) => self.attribution = Some(hit.value.start + 1..hit.value.start + rest),
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
                Action::Keep | Action::Lift(_) => {}
                Action::Refuse if !is_nothing(value) => {
                    return Err(Wrong::Member(refusal(path, value)));
                }
                Action::Drop | Action::Refuse => {
                    self.cut(hit);
                    self.note(Change::FieldDropped, path);
                }
            }
        }
        Ok(())
    }

    /// Decides which flags are sent. None goes without a member that needs it, and no such member without its flag.
    fn follow_betas(&mut self, asked: Vec<String>) {
        let (rules, base) = (self.rules, self.target.base);
        self.indispensable = self.flags_of_essential_members();
        let asked = self.allowed(asked);
        let may_stay = |row: &BetaRow| {
            !row.is_added_for(base)
                || row.sends().is_some_and(|flag| self.may_send(row, flag))
                || asked.iter().any(|flag| row.flag.matches(flag))
        };
        let may_stay: Vec<bool> = rules.betas.iter().map(may_stay).collect();
        for (hit, at) in self.paired() {
            if may_stay.get(at) == Some(&false) && !self.is_gone(hit) {
                self.cut(hit);
                let flag = rules.betas.get(at).map_or("", |row| row.flag.as_str());
                self.note(Change::FieldDropped, &format!("the member of {flag}"));
            }
        }
        let paired = self.paired().into_iter().filter(|(hit, _)| !self.is_gone(hit));
        let needed: HashSet<usize> = paired.map(|(_, at)| at).collect();

        for flag in asked {
            let idle = rules.beta(&flag).is_some_and(|(at, row)| {
                !row.rule.fields.is_empty() && !row.rule.alone && !needed.contains(&at)
            });
            match idle {
                true => self.note(Change::BetaDropped, &flag),
                false => self.betas.push(flag),
            }
        }
        for (at, row) in rules.betas.iter().enumerate() {
            let wanted = needed.contains(&at) && row.is_added_for(base)
                || self.target.long_context && row.is_for_long_context_of(base);
            if wanted
                && let Some(flag) = row.sends().filter(|flag| self.may_send(row, flag))
                && !self.betas.iter().any(|sent| sent == flag)
            {
                self.betas.push(flag.to_owned());
                self.note(Change::BetaAdded, flag);
            }
        }
    }

    /// The flags asked for that Bedrock may get, as it calls them, each once.
    fn allowed(&mut self, asked: Vec<String>) -> Vec<String> {
        let rules = self.rules;
        let mut allowed = Vec::new();
        for mut flag in asked {
            let mut row = rules.beta(&flag);
            if let Some(Send::As(other)) = row.map(|(_, row)| &row.rule.send) {
                self.note(Change::BetaRenamed, &flag);
                flag.clone_from(other);
                row = rules.beta(other);
            }
            let may_go = match row {
                Some((_, row)) => self.may_send(row, &flag),
                None => !self.is_refused(&flag),
            };
            if flag.is_empty() || !may_go {
                self.note(Change::BetaDropped, &flag);
            } else if !allowed.contains(&flag) {
                allowed.push(flag);
            }
        }
        allowed
    }

    /// The members that need a flag, and the numbers of its rows.
    fn paired(&self) -> Vec<(&'a Hit, usize)> {
        let row = |hit: &'a Hit| match self.rules.marks.get(hit.mark) {
            Some(Mark::Paired { row, .. }) => Some((hit, *row)),
            _ => None,
        };
        self.outline.hits.iter().filter_map(row).collect()
    }

    fn may_send(&self, row: &BetaRow, flag: &str) -> bool {
        row.rule.send == Send::Forward && row.is_for(self.target.base) && !self.is_refused(flag)
    }

    /// Whether a flag is left out for what was learned. Not if an essential member would go with it: then Bedrock's
    /// refusal is the answer.
    fn is_refused(&self, flag: &str) -> bool {
        self.learned.iter().any(|refused| matches!(refused, Refused::Beta(name) if name == flag))
            && !self.indispensable.contains(&flag)
    }

    fn flags_of_essential_members(&self) -> Vec<&'a str> {
        let flag = |hit: &Hit| match self.rules.marks.get(hit.mark) {
            Some(Mark::Paired { row, essential: true }) if !self.is_gone(hit) => {
                self.rules.betas.get(*row).and_then(BetaRow::sends)
            }
            _ => None,
        };
        self.outline.hits.iter().filter_map(flag).collect()
    }

    /// The body with `first` in front of its members, and without what was cut.
    fn splice(&mut self, mut first: String) -> Bytes {
        let body: &[u8] = &self.incoming.body;
        let Some((root, emptied)) = self.outline.containers.first().zip(self.emptied.first())
        else {
            return Bytes::new();
        };
        if root.count > *emptied {
            first.push(',');
        }
        let open = root.value.start + 1;
        let mut edits = vec![(open..open, first.into_bytes())];
        let cuts = widened(body, std::mem::take(&mut self.cuts));
        edits.extend(cuts.into_iter().chain(self.attribution.take()).map(|cut| (cut, Vec::new())));
        spliced(body, edits)
    }
}

/// Where the text of a JSON string goes on, after its first line and the line ends behind it.
fn second_line(string: &[u8]) -> usize {
    let (mut at, mut is_over) = (1, false);
    loop {
        at += match string.get(at..).unwrap_or_default() {
            [b'"', ..] | [] => return at,
            [b'\\', b'n', ..] => {
                is_over = true;
                2
            }
            [b'\\', b'u', b'0', b'0', b'0', b'a' | b'A', ..] => {
                is_over = true;
                6
            }
            _ if is_over => return at,
            [b'\\', ..] => 2,
            _ => 1,
        };
    }
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
