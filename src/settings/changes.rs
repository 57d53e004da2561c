//! Which settings differ between two looks at them. Values are compared by hashes that mean nothing outside this
//! process, so that no secret is kept for it.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use serde_json::Value;

use super::load::list_keys;

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The name of each setting, and the hash of its value.
#[derive(Debug, Clone, Default)]
pub struct Fingerprints(BTreeMap<String, u64>);

impl Fingerprints {
    pub(super) fn of(tree: &Value) -> Self {
        let mut keys = Vec::new();
        list_keys(tree, "", &mut keys);
        let hash = |key: &String| {
            let value = tree.pointer(&format!("/{}", key.replace('.', "/")));
            HASHER.hash_one(value.map(Value::to_string))
        };
        Self(keys.into_iter().map(|key| (key.clone(), hash(&key))).collect())
    }

    /// The names of the settings that are others in `later`, in the order of the alphabet.
    pub fn changed(&self, later: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(later.0.keys()).collect();
        let differs = |key: &&&String| self.0.get(**key) != later.0.get(**key);
        keys.iter().filter(differs).map(|key| (*key).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::{Need, Settings};

    #[test]
    fn what_changed_is_named_and_no_value_is_kept() {
        let read = |given: &[(&str, &str)]| {
            let given =
                given.iter().map(|(name, value)| (format!("BEDROCK_{name}"), (*value).to_owned()));
            Settings::from_layers(None, given, Need::Database).unwrap().fingerprints
        };
        let secret = "a-secret-of-more-than-thirty-two-bytes";
        let before = read(&[("JWT__SECRET", secret), ("ADMIN__EMAILS", "a@example.com")]);

        let later = read(&[
            ("JWT__SECRET", "another-secret-of-more-than-thirty-two"),
            ("ADMIN__EMAILS", "a@example.com,b@example.com"),
            ("MODELS__ALIASES", "fast=us.anthropic.claude-haiku-4-5-20251001-v1:0"),
            ("SERVER__PORT", "3000"), // as it is by default
        ]);

        assert_eq!(before.changed(&later), ["admin.emails", "jwt.secret", "models.aliases"]);
        assert_eq!(later.changed(&before), before.changed(&later));
        assert!(later.changed(&later).is_empty());
        assert!(!format!("{before:?}").contains(secret));
    }
}
