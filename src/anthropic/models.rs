//! Names of models: where a name that a client gives leads on Bedrock, and which names there are. The shipped names are
//! `settings/models.csv`; an operator adds to them with `models.aliases`. Whether a model can be called is Bedrock's to
//! say: nothing is refused here for its age.

mod names;

use std::{cmp::Reverse, collections::BTreeMap, fmt, sync::LazyLock};

use serde::Deserialize;

use self::names::{derived, is_bedrock, prefixes_of, undecorated, without_marker};
use crate::{
    bedrock::model_id::foundation,
    settings::{self, Alias, InferenceProfile, Prefixes},
};

/// A name that is longer leads nowhere: Bedrock's own ids are no longer (AWS docs, "InvokeModel").
const LONGEST: usize = 2048;
/// A name that is longer gets no suggestions: comparing it with each name would cost more than it helps.
const LONGEST_COMPARED: usize = 200;
/// Characters of a name that an error quotes.
const QUOTED: usize = 80;
/// What Anthropic gives for an unknown date of release.
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// The names that lead somewhere. Built once, and shared.
#[derive(Debug)]
pub struct Models {
    aliases: BTreeMap<String, Alias>,
    /// From the target of an alias to its base model.
    bases: BTreeMap<String, String>,
    profile: Profile,
    listed: Vec<Listed>,
}

/// Which inference profile names from the table get, and names derived by rule.
#[derive(Debug)]
enum Profile {
    None,
    /// The region's: a model whose profiles are unknown goes without.
    Region(Vec<String>),
    /// The operator's: a model whose profiles are unknown gets the first.
    Chosen(Vec<String>),
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The id or ARN to be called, with the prefix of its profile.
    pub id: String,
    /// The alias's region.
    pub region: Option<String>,
    /// The alias's base model, else `id`.
    pub billed: String,
    /// `billed` as the id of a foundation model; an ARN that does not say what it runs is itself.
    pub base: String,
    /// The name ended in `[1m]`.
    pub long_context: bool,
    /// By rule, not from a table: worth a warning, since no one has checked that there is such a model.
    pub derived: bool,
}

/// A name that leads nowhere; `asked` is shortened and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct UnknownModel {
    pub asked: String,
    /// At most three names or ids, the nearest first.
    pub nearest: Vec<String>,
}

/// A name for clients to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub display_name: String,
    /// RFC 3339; the epoch if unknown.
    pub created_at: String,
    /// `active` or `deprecated`: what Bedrock has ended, it says itself.
    pub lifecycle: String,
    pub max_input_tokens: Option<u64>,
    pub max_tokens: Option<u64>,
}

/// A line of the table. The first of each id is its canonical name and has the facts of the model.
#[derive(Debug, Deserialize)]
struct Row {
    anthropic_name: String,
    bedrock_id: String,
    geo_prefixes: String,
    display_name: String,
    /// A date; empty if unknown.
    created_at: String,
    max_input_tokens: Option<u64>,
    max_tokens: Option<u64>,
    lifecycle: String,
}

static TABLE: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let text = include_str!("../../settings/models.csv");
    let rows = csv::Reader::from_reader(text.as_bytes()).into_deserialize();
    rows.collect::<Result<_, _>>().expect("settings/models.csv is checked by a test")
});

impl Models {
    /// `mappings` are `aws.region_prefix_mappings`, `region` is the service's own as it was resolved.
    pub fn new(
        settings: &settings::Models,
        mappings: &BTreeMap<String, Prefixes>,
        region: &str,
    ) -> Self {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut profile = match &settings.inference_profile {
            InferenceProfile::None => Profile::None,
            InferenceProfile::Prefixes(chosen) => Profile::Chosen(chosen.clone()),
            InferenceProfile::Auto => Profile::Region(match mappings.get(region) {
                Some(Prefixes(mapped)) => mapped.clone(),
                None => owned(prefixes_of(region)),
            }),
        };
        if let Profile::Region(wanted) | Profile::Chosen(wanted) = &mut profile
            && region.starts_with("us-gov-")
        {
            wanted.retain(|prefix| prefix != "global"); // it leads out of the partition
        }
        let aliases = settings.aliases.clone();
        let bases = aliases
            .values()
            .filter_map(|alias| Some((alias.model.clone(), alias.base_model.clone()?)));
        let mut models = Self { bases: bases.collect(), aliases, profile, listed: Vec::new() };
        models.listed = models.everything();
        models
    }

    /// Where a client's name leads.
    ///
    /// # Errors
    /// [`UnknownModel`].
    pub fn resolve(&self, asked: &str) -> Result<Resolved, UnknownModel> {
        if !is_sane(asked) {
            return Err(UnknownModel { asked: quoted(asked), nearest: Vec::new() });
        }
        let (name, long_context) = without_marker(asked);
        let plain = undecorated(name);
        let (id, alias, derived) = if let Some((_, alias)) = self.alias(asked) {
            (alias.model.clone(), Some(alias), false)
        } else if is_bedrock(plain) {
            (plain.to_owned(), None, false)
        } else if let Some(row) = shipped(plain) {
            (self.profiled(&row.bedrock_id, &row.geo_prefixes), None, false)
        } else if let Some(id) = derived(plain) {
            (self.profiled(&id, ""), None, true)
        } else {
            return Err(UnknownModel { asked: quoted(asked), nearest: self.nearest(plain) });
        };
        let base_model = alias.and_then(|alias| alias.base_model.as_deref());
        let billed = base_model.unwrap_or_else(|| self.billed(&id)).to_owned();
        Ok(Resolved {
            base: foundation(&billed).to_owned(),
            region: alias.and_then(|alias| alias.region.clone()),
            id,
            billed,
            long_context,
            derived,
        })
    }

    /// What clients may choose from: the operator's aliases, then one name a model, the newest first.
    pub fn list(&self) -> &[Listed] {
        &self.listed
    }

    /// Any name that [`Models::resolve`] takes from the aliases or the table; the entry has the canonical name.
    pub fn find(&self, name: &str) -> Option<Listed> {
        if !is_sane(name) {
            return None;
        }
        match self.alias(name) {
            Some((name, alias)) => Some(self.of_alias(name, alias)),
            None => {
                shipped(undecorated(without_marker(name).0)).map(|row| row.canonical().listed())
            }
        }
    }

    /// What a call to this id is billed and ruled as: the base model of an alias whose target it is, else itself.
    pub fn billed<'a>(&'a self, id: &'a str) -> &'a str {
        self.bases.get(id).map_or(id, String::as_str)
    }

    fn alias(&self, asked: &str) -> Option<(&str, &Alias)> {
        let found = self.aliases.get_key_value(asked);
        let found = found.or_else(|| self.aliases.get_key_value(without_marker(asked).0));
        found.map(|(name, alias)| (name.as_str(), alias))
    }

    /// The id with the prefix of the profile that is wanted and, as far as is known, exists. A model that has profiles,
    /// but none of those wanted, is called in the region alone: data must not leave a geography because a list is short.
    fn profiled(&self, id: &str, known: &str) -> String {
        let first = |wanted: &[String]| {
            wanted.iter().find(|prefix| known.split(';').any(|has| has == *prefix)).cloned()
        };
        let prefix = match &self.profile {
            Profile::None => None,
            Profile::Chosen(wanted) if known.is_empty() => wanted.first().cloned(),
            Profile::Region(wanted) | Profile::Chosen(wanted) => first(wanted),
        };
        prefix.map_or_else(|| id.to_owned(), |prefix| format!("{prefix}.{id}"))
    }

    fn everything(&self) -> Vec<Listed> {
        let canonical = TABLE.iter().filter(|row| !row.display_name.is_empty());
        let free = canonical.filter(|row| !self.aliases.contains_key(&row.anthropic_name));
        let mut shipped: Vec<Listed> = free.rev().map(Row::listed).collect();
        shipped.sort_by_key(|listed| Reverse(listed.created_at.clone()));
        let aliases = self.aliases.iter().map(|(name, alias)| self.of_alias(name, alias));
        aliases.chain(shipped).collect()
    }

    /// The entry of an alias: what is known of its model but the date, which is not the alias's.
    fn of_alias(&self, name: &str, alias: &Alias) -> Listed {
        let billed = alias.base_model.as_deref().unwrap_or_else(|| self.billed(&alias.model));
        let base = foundation(billed);
        let row = TABLE.iter().find(|row| row.bedrock_id == base);
        Listed {
            id: name.to_owned(),
            display_name: name.to_owned(),
            created_at: EPOCH.to_owned(),
            lifecycle: "active".to_owned(),
            max_input_tokens: row.and_then(|row| row.max_input_tokens),
            max_tokens: row.and_then(|row| row.max_tokens),
        }
    }

    fn nearest(&self, name: &str) -> Vec<String> {
        if name.len() > LONGEST_COMPARED {
            return Vec::new();
        }
        let name = name.to_ascii_lowercase();
        let newest_first = TABLE.iter().rev();
        let shipped = newest_first.clone().map(|row| row.anthropic_name.as_str());
        let ids = newest_first.filter(|row| !row.display_name.is_empty());
        let ids = ids.map(|row| row.bedrock_id.as_str());
        let known = self.aliases.keys().map(String::as_str).chain(shipped).chain(ids);
        let scored = known.map(|known| (strsim::normalized_levenshtein(&name, known), known));
        let mut scored: Vec<(f64, &str)> = scored.collect();
        scored.sort_by(|(one, _), (other, _)| other.total_cmp(one)); // stable: newer names before older
        scored.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
    }
}

impl Row {
    fn canonical(&self) -> &Self {
        TABLE.iter().find(|row| row.bedrock_id == self.bedrock_id).unwrap_or(self)
    }

    fn listed(&self) -> Listed {
        let created_at = match self.created_at.as_str() {
            "" => EPOCH.to_owned(),
            date => format!("{date}T00:00:00Z"),
        };
        Listed {
            id: self.anthropic_name.clone(),
            display_name: self.display_name.clone(),
            created_at,
            lifecycle: self.lifecycle.clone(),
            max_input_tokens: self.max_input_tokens,
            max_tokens: self.max_tokens,
        }
    }
}

impl fmt::Display for UnknownModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no model `{}`", self.asked)?;
        match self.nearest.as_slice() {
            [] => Ok(()),
            [one] => write!(f, "; the nearest is {one}"),
            several => write!(f, "; the nearest are {}", several.join(", ")),
        }
    }
}

/// The Bedrock id that a shipped name leads to.
pub fn shipped_id(name: &str) -> Option<&'static str> {
    shipped(name).map(|row| row.bedrock_id.as_str())
}

/// As it is written, else in lower case.
fn shipped(name: &str) -> Option<&'static Row> {
    let find = |name: &str| TABLE.iter().find(|row| row.anthropic_name == name);
    find(name).or_else(|| find(&name.to_ascii_lowercase()))
}

fn is_sane(name: &str) -> bool {
    name.len() <= LONGEST && !name.chars().any(char::is_control)
}

fn quoted(asked: &str) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut text: String = asked.chars().map(printable).take(QUOTED).collect();
    if asked.chars().nth(QUOTED).is_some() {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
