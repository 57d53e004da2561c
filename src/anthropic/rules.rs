//! What Bedrock takes of a Messages request: the tables of the settings, ready to be looked up, and what was learned
//! from Bedrock's own refusals.

use std::sync::Arc;

use super::outline::Node;
use crate::settings::{
    self,
    rules::{Action, BetaRule, FieldPath, FieldRule, Glob, Send},
};

/// A place that is looked for in every body, for a reason that is not in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Model,
    Stream,
    MaxTokens,
    Messages,
    Version,
    Betas,
    Profile,
    Thinking,
    System,
    SystemBlock,
}

const OWN: &[(Own, &str)] = &[
    (Own::Model, "model"),
    (Own::Stream, "stream"),
    (Own::MaxTokens, "max_tokens"),
    (Own::Messages, "messages"),
    (Own::Version, "anthropic_version"),
    (Own::Betas, "anthropic_beta"),
    (Own::Profile, "user_profile_id"),
    (Own::Thinking, "thinking.budget_tokens"),
    (Own::System, "system"),
    (Own::SystemBlock, "system[]"),
];

/// What a mark of the outline stands for.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    Own(Own),
    Field {
        path: String,
        rule: FieldRule,
    },
    /// A member that needs the flag of this row.
    Paired {
        row: usize,
        /// The answer would be another one without it.
        essential: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct BetaRow {
    pub flag: Glob,
    pub rule: BetaRule,
}

impl BetaRow {
    pub fn is_for(&self, model: &str) -> bool {
        holds_for(&self.rule.models, model)
    }

    /// The flag as it is sent: exact rows only, patterns stand for many.
    pub fn sends(&self) -> Option<&str> {
        match &self.rule.send {
            Send::Forward if !self.flag.as_str().contains('*') => Some(self.flag.as_str()),
            _ => None,
        }
    }

    /// Whether the flag is added for a member that came without it.
    pub fn is_added_for(&self, model: &str) -> bool {
        self.rule.add.as_ref().is_none_or(|models| holds_for_some(models, model))
    }

    pub fn is_for_long_context_of(&self, model: &str) -> bool {
        holds_for_some(&self.rule.long_context, model)
    }
}

/// The tables, made ready once.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(super) node: Arc<Node>,
    pub(super) marks: Arc<Vec<Mark>>,
    /// The heaviest first, so that the first that matches is the one.
    pub(super) betas: Arc<Vec<BetaRow>>,
    /// Models that do not know the API version 2026-10-21.
    pub(super) old_version: Arc<Vec<Glob>>,
    /// Members that are never left out for having been refused.
    pub(super) essential: Arc<Vec<FieldPath>>,
    /// Members that need a flag.
    pub(super) paired: Arc<Vec<FieldPath>>,
    pub(super) strip_attribution: bool,
}

impl Rules {
    pub fn new(models: &settings::Models, anthropic: &settings::Anthropic) -> Self {
        let rows = models
            .betas
            .iter()
            .filter_map(|(flag, rule)| Some(BetaRow { flag: flag.clone(), rule: rule.clone()? }));
        let mut betas: Vec<BetaRow> = rows.collect();
        betas.sort_by_key(|row| std::cmp::Reverse(row.flag.weight()));
        let (mut node, mut marks) = (Node::default(), Vec::new());
        let mut add = |path: &FieldPath, mark: Mark| {
            node.add(path, marks.len());
            marks.push(mark);
        };
        for (own, path) in OWN {
            if let Ok(path) = path.parse() {
                add(&path, Mark::Own(*own));
            }
        }
        for (path, rule) in &models.fields {
            if let Some(rule) = rule.as_ref().filter(|rule| rule.action != Action::Keep) {
                add(path, Mark::Field { path: path.to_string(), rule: rule.clone() });
            }
        }
        // What the operator wants kept is not left out for having been refused either.
        let keeps = |rule: &Option<FieldRule>| {
            rule.as_ref().is_some_and(|rule| rule.action == Action::Keep)
        };
        let kept = models.fields.iter().filter(|(_, rule)| keeps(rule)).map(|(path, _)| path);
        let essential: Vec<FieldPath> = models.essential.iter().chain(kept).cloned().collect();
        let mut paired = Vec::new();
        for (row, beta) in betas.iter().enumerate() {
            for path in &beta.rule.fields {
                let is_tool = path.0.last().is_some_and(|step| step.items.is_some());
                let is_essential = is_tool && path.0.len() == 1 || essential.contains(path);
                add(path, Mark::Paired { row, essential: is_essential });
                paired.push(path.clone());
            }
        }
        Self {
            node: Arc::new(node),
            marks: Arc::new(marks),
            betas: Arc::new(betas),
            old_version: Arc::new(models.old_version.clone()),
            essential: Arc::new(essential),
            paired: Arc::new(paired),
            strip_attribution: anthropic.strip_attribution_block,
        }
    }

    /// The same rules and what was learned, which removes more members.
    pub(super) fn with_fields<'a>(&self, learned: impl Iterator<Item = &'a FieldPath>) -> Self {
        let (mut node, mut marks) = ((*self.node).clone(), (*self.marks).clone());
        for path in learned {
            node.add(path, marks.len());
            let rule = FieldRule { action: Action::Drop, models: Vec::new() };
            marks.push(Mark::Field { path: path.to_string(), rule });
        }
        Self { node: Arc::new(node), marks: Arc::new(marks), ..self.clone() }
    }

    /// The row of a flag, and its number.
    pub(super) fn beta(&self, flag: &str) -> Option<(usize, &BetaRow)> {
        self.betas.iter().enumerate().find(|(_, row)| row.flag.matches(flag))
    }

    /// Whether a member that a header stands for is left out.
    pub(super) fn leaves_out(&self, member: &str, model: &str) -> bool {
        self.marks.iter().any(|mark| match mark {
            Mark::Field { path, rule } => path == member && holds_for(&rule.models, model),
            Mark::Own(_) | Mark::Paired { .. } => false,
        })
    }

    /// Whether the table names a flag.
    pub fn lists(&self, flag: &str) -> bool {
        self.beta(flag).is_some()
    }

    /// Whether a model takes the API version 2026-10-21. One that nothing is known of gets the older: what is valid
    /// under the new one is valid under it too.
    pub(super) fn takes_new_version(&self, base: &str) -> bool {
        base.starts_with("anthropic.claude-") && !holds_for_some(&self.old_version, base)
    }
}

pub(super) fn holds_for(models: &[Glob], model: &str) -> bool {
    models.is_empty() || holds_for_some(models, model)
}

fn holds_for_some(models: &[Glob], model: &str) -> bool {
    models.iter().any(|glob| glob.matches(model))
}
