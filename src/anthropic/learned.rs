//! What Bedrock was seen to refuse: flags, members and the API version, for each model and region, for a while. Filled
//! by whichever worker meets a refusal, read by all; each entry ends by itself, since Bedrock changes.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use crate::settings::rules::FieldPath;

/// Pairs of model and region that are remembered.
const MOST: usize = 1024;
/// Refusals remembered for one of them.
const MOST_EACH: usize = 64;

/// Something that a model refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Beta(String),
    /// A member, under one of the two API versions: what one refuses the other may take.
    Field {
        path: FieldPath,
        new_version: bool,
    },
    /// The API version 2026-10-21.
    Version,
}

impl Refused {
    /// The label of the metric.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Beta(_) => "beta",
            Self::Field { .. } => "field",
            Self::Version => "version",
        }
    }

    /// The API version under which it is refused; `None` = any.
    pub fn version(&self) -> Option<&'static str> {
        match self {
            Self::Field { new_version: true, .. } => Some(super::request::NEW),
            Self::Field { new_version: false, .. } => Some(super::request::OLD),
            Self::Beta(_) | Self::Version => None,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beta(flag) => f.write_str(flag),
            Self::Field { path, .. } => path.fmt(f),
            Self::Version => f.write_str("2026-10-21"),
        }
    }
}

/// A refusal, remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub refused: Refused,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// Model and region.
type Key = (String, String);

#[derive(Debug, Clone, Default)]
struct Known {
    refused: Vec<Entry>,
    /// Flags that the model was seen to take, so that they are not suspected when Bedrock refuses one without naming it.
    accepted: BTreeSet<String>,
}

/// See the module's documentation. Cloning shares it. Read by every call, changed by few: a change makes a new map.
#[derive(Debug, Clone)]
pub struct Learned {
    known: Arc<ArcSwap<HashMap<Key, Arc<Known>>>>,
    keep: Duration,
}

impl Learned {
    /// `keep` zero: nothing is remembered.
    pub fn new(keep: Duration) -> Self {
        Self { known: Arc::default(), keep }
    }

    /// What `model` refuses in `region` at `now`.
    pub fn of(&self, model: &str, region: &str, now: DateTime<Utc>) -> Vec<Refused> {
        let known = self.known(model, region);
        let live = known.refused.iter().filter(|entry| entry.until > now);
        live.map(|entry| entry.refused.clone()).collect()
    }

    fn known(&self, model: &str, region: &str) -> Arc<Known> {
        let all = self.known.load();
        if all.is_empty() {
            return Arc::default();
        }
        all.get(&(model.to_owned(), region.to_owned())).cloned().unwrap_or_default()
    }

    fn change(&self, model: &str, region: &str, change: impl Fn(&mut Known)) {
        if self.keep.is_zero() {
            return;
        }
        let key = (model.to_owned(), region.to_owned());
        self.known.rcu(|all| {
            let mut all = HashMap::clone(all);
            if all.len() >= MOST && !all.contains_key(&key) {
                all.clear(); // far more than there are models: somebody plays
            }
            change(Arc::make_mut(all.entry(key.clone()).or_default()));
            all
        });
    }

    /// Remembers refusals.
    pub fn note(&self, model: &str, region: &str, refused: &[Refused], now: DateTime<Utc>) {
        let until = now + self.keep;
        self.change(model, region, |known| {
            let entries = &mut known.refused;
            entries.retain(|entry| entry.until > now);
            for refused in refused {
                let before = entries.iter().position(|entry| entry.refused == *refused);
                let since = before.map_or(now, |at| entries.remove(at).since);
                entries.push(Entry { refused: refused.clone(), since, until });
            }
            let surplus = entries.len().saturating_sub(MOST_EACH);
            entries.drain(..surplus);
        });
    }

    /// Remembers flags that a call succeeded with.
    pub fn note_accepted(&self, model: &str, region: &str, flags: &[String]) {
        if flags.is_empty() {
            return;
        }
        let known = self.known(model, region);
        let full = known.accepted.len() >= MOST_EACH;
        if !full && flags.iter().any(|flag| !known.accepted.contains(flag)) {
            let flags = || flags.iter().take(MOST_EACH).cloned();
            self.change(model, region, |known| known.accepted.extend(flags()));
        }
    }

    /// Which of the flags that were `sent` Bedrock may have meant when it refused one: those that it `named`; else those
    /// that it was not seen to take, first of all those that no table `lists`.
    pub fn suspects(
        &self,
        model: &str,
        region: &str,
        sent: &[String],
        named: &[String],
        lists: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let accepted = &self.known(model, region).accepted;
        let tiers: [&dyn Fn(&&String) -> bool; 4] = [
            &|flag| named.contains(*flag),
            &|flag| !accepted.contains(*flag) && !lists(flag),
            &|flag| !accepted.contains(*flag),
            &|_| true,
        ];
        let of = |meant: &&dyn Fn(&&String) -> bool| -> Vec<String> {
            sent.iter().filter(|flag| meant(flag)).cloned().collect()
        };
        tiers.iter().map(of).find(|meant| !meant.is_empty()).unwrap_or_default()
    }

    /// Everything that counts at `now`: model, region and entry.
    pub fn all(&self, now: DateTime<Utc>) -> Vec<(String, String, Entry)> {
        let mut all = Vec::new();
        for ((model, region), known) in self.known.load().iter() {
            for entry in known.refused.iter().filter(|entry| entry.until > now) {
                all.push((model.clone(), region.clone(), entry.clone()));
            }
        }
        all.sort_by(|(model, region, a), (other, other_region, b)| {
            (model, region, a.since).cmp(&(other, other_region, b.since))
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_was_taken_before_is_not_suspected() {
        let learned = Learned::new(Duration::from_secs(3600));
        let flags = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<String>>();
        let suspects = |named: &str| {
            let named = if named.is_empty() { Vec::new() } else { flags(named) };
            let lists = |flag: &str| flag.starts_with("listed");
            learned.suspects("m", "r", &flags("listed-1 listed-2 new-1 new-2"), &named, lists)
        };

        assert_eq!(suspects("listed-2 other"), flags("listed-2"));
        assert_eq!(suspects(""), flags("new-1 new-2"));
        learned.note_accepted("m", "r", &flags("new-1 listed-1"));
        assert_eq!(suspects(""), flags("new-2"));
        learned.note_accepted("m", "r", &flags("new-2"));
        assert_eq!(suspects(""), flags("listed-2"));
        learned.note_accepted("m", "r", &flags("listed-2"));
        assert_eq!(suspects(""), flags("listed-1 listed-2 new-1 new-2"), "one of them it was");
    }

    #[test]
    fn what_was_learned_is_forgotten_in_time() {
        let learned = Learned::new(Duration::from_secs(3600));
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let beta = Refused::Beta("x-2026-01-01".into());
        learned.note("m", "r", std::slice::from_ref(&beta), now);
        learned.note("m", "r", &[Refused::Version], now + chrono::TimeDelta::minutes(30));

        let later = now + chrono::TimeDelta::minutes(61);

        assert_eq!(learned.of("m", "r", now), [beta, Refused::Version]);
        assert_eq!(learned.of("m", "r", later), [Refused::Version]);
        assert_eq!(learned.of("m", "other", now), []);
        assert_eq!(learned.all(later).len(), 1);
        let off = Learned::new(Duration::ZERO);
        off.note("m", "r", &[Refused::Version], now);
        assert_eq!(off.of("m", "r", now), []);
    }

    fn refused(name: &str) -> Refused {
        Refused::Beta(name.to_owned())
    }

    #[test]
    fn what_is_seen_again_counts_once_and_from_its_first_time() {
        let learned = Learned::new(Duration::from_secs(3600));
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |minutes| start + chrono::TimeDelta::minutes(minutes);
        learned.note("m", "r", &[refused("a"), refused("a"), refused("b")], start);
        learned.note("m", "r", &[refused("a")], at(30));

        let all = learned.all(at(80));
        learned.note("m", "r", &[refused("b")], at(80));
        learned.note("m", "a", &[refused("c")], at(80));

        let entry = |name: &str, since, until| Entry { refused: refused(name), since, until };
        assert_eq!(all, [("m".into(), "r".into(), entry("a", start, at(90)))]);
        let all: Vec<_> = learned.all(at(89)).into_iter().map(|(_, _, entry)| entry).collect();
        let again = entry("b", at(80), at(140)); // the first time was forgotten
        assert_eq!(all, [entry("c", at(80), at(140)), entry("a", start, at(90)), again]);
        learned.note("m", "r", &[], at(90));
        assert_eq!(learned.of("m", "r", at(90)), [refused("b")]);
    }

    #[test]
    fn the_oldest_make_room() {
        let learned = Learned::new(Duration::from_secs(60));
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();

        for at in 0..=MOST_EACH {
            learned.note("m", "r", &[refused(&at.to_string())], now);
        }

        let known = learned.of("m", "r", now);
        assert_eq!((known.len(), known.first()), (MOST_EACH, Some(&refused("1"))));
    }

    #[test]
    fn what_two_learn_at_once_is_kept_of_both() {
        let learned = Learned::new(Duration::from_secs(60));
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let half = MOST_EACH / 2;

        std::thread::scope(|threads| {
            for thread in ["a", "b"] {
                let learned = learned.clone();
                threads.spawn(move || {
                    for at in 0..half {
                        learned.note("m", "r", &[refused(&format!("{thread}{at}"))], now);
                    }
                });
            }
        });

        assert_eq!(learned.of("m", "r", now).len(), 2 * half);
    }
}
