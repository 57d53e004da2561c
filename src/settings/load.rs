//! Merges the layers of settings and reports everything that is wrong with them at once.

use std::{
    fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use config::{Config, File, FileFormat};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::{Database, Fingerprints, Settings, check};

/// `settings/default.yaml`, compiled in: the defaults, and the list of known keys.
pub const DEFAULTS: &str = include_str!("../../settings/default.yaml");

const PREFIX: &str = "BEDROCK_";
const MASK: &str = "********";

/// Settings whose values are never printed and may be given as `<key>_file`.
const SECRETS: &[&str] = &[
    "jwt.secret",
    "secrets.api_key_pepper",
    "secrets.encryption_key",
    "aws.access_key_id",
    "aws.secret_access_key",
    "aws.session_token",
    "aws.bearer_token",
    "cache.redis_url",
    "database.url",
    "metrics.token",
];

/// Maps whose members are the operator's: any key is known in them.
const OPEN: &[&str] = &[
    "aws.region_prefix_mappings",
    "models.aliases",
    "models.betas",
    "models.fields",
    "oauth.providers",
];

/// What a command needs of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Everything, secrets included.
    Service,
    /// The database alone: migrations work without a secret.
    Database,
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting (`server.port`), the variable or the file at fault.
    pub key: String,
    pub message: String,
}

impl Problem {
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// Every problem found; never empty when it is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} problem{} in the settings:", if count == 1 { "" } else { "s" })?;
        for Problem { key, message } in &self.0 {
            write!(f, "\n  {key}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Settings {
    /// Defaults, then the YAML `file` (or `config.yaml` in the working directory if it is there), then
    /// the environment.
    ///
    /// # Errors
    /// [`Problems`] with every unknown key, wrong type, bad value and impossible combination.
    pub fn load(file: Option<&Path>, need: Need) -> Result<Self, Problems> {
        let fallback = PathBuf::from("config.yaml");
        let file = file.or_else(|| fallback.is_file().then_some(fallback.as_path()));
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self::from_layers(file, environment, need)
    }

    /// As [`Settings::load`], with the environment as an argument.
    pub fn from_layers(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        need: Need,
    ) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let defaults = defaults();
        let mut tree = match merge_file(file) {
            Ok(tree) => tree,
            Err(problem) => return Err(Problems(vec![problem])),
        };
        apply_environment(&mut tree, &defaults, environment, &mut problems);
        read_secret_files(&mut tree, &defaults, &mut problems);
        remove_unknown(&mut tree, &defaults, "", &mut problems);
        let (masked, fingerprints) = (mask(tree.clone()), Fingerprints::of(&tree));
        let mut settings = typed(tree, &defaults, &mut problems);
        if let Some(settings) = &mut settings {
            settings.masked = masked;
            settings.fingerprints = fingerprints;
            // A secret whose file could not be read is not missing besides.
            let told = |key: &str| problems.iter().any(|told| told.key == format!("{key}_file"));
            let mut found = check::check(settings, need);
            found.retain(|problem| !told(&problem.key));
            problems.extend(found);
        }
        match settings {
            Some(settings) if problems.is_empty() => Ok(settings),
            _ => Err(Problems(problems)),
        }
    }
}

fn defaults() -> Value {
    serde_yaml::from_str(DEFAULTS).expect("settings/default.yaml is checked by a test")
}

fn merge_file(file: Option<&Path>) -> Result<Value, Problem> {
    let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Yaml));
    let name = file.map_or_else(String::new, |path| path.display().to_string());
    let mut own = Value::Null;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Problem::new(&name, format!("cannot be read: {error}")))?;
        // What config cannot read, it says itself.
        own = serde_yaml::from_str(&text).unwrap_or_default();
        builder = builder.add_source(File::from_str(&text, FileFormat::Yaml));
    }
    let merged = builder.build().and_then(Config::try_deserialize);
    let mut tree: Value = merged.map_err(|error| Problem::new(&name, error.to_string()))?;
    replace_members(&mut tree, &own);
    Ok(tree)
}

/// A member of an open map is a value of its own, not a section to be merged with what was there by that name.
fn replace_members(tree: &mut Value, own: &Value) {
    for path in OPEN {
        let pointer = format!("/{}", path.replace('.', "/"));
        let (Some(map), Some(Value::Object(members))) =
            (tree.pointer_mut(&pointer).and_then(Value::as_object_mut), own.pointer(&pointer))
        else {
            continue;
        };
        map.extend(members.clone());
    }
}

/// `BEDROCK_SERVER__TLS__CERT=x` sets `server.tls.cert`. The type of the default decides how the text is read,
/// so that a secret of digits stays text.
fn apply_environment(
    tree: &mut Value,
    defaults: &Value,
    environment: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) {
    for (name, text) in environment {
        let Some(path) = name.strip_prefix(PREFIX).filter(|_| name != "BEDROCK_CONFIG_FILE") else {
            continue;
        };
        let path = path.to_ascii_lowercase();
        if !path.contains("__") {
            if let Some((section, field)) = defaults.as_object().and_then(|sections| {
                let rest =
                    |section| Some((section, path.strip_prefix(section)?.strip_prefix('_')?));
                sections.keys().find_map(|section| rest(section.as_str()))
            }) {
                let mut known = Vec::new();
                list_keys(defaults, "", &mut known);
                let exact = known.iter().find(|key| key.replace('.', "_") == path);
                let meant = exact.map(|key| key.replace('.', "__"));
                let meant = meant.unwrap_or_else(|| format!("{section}__{field}"));
                let meant = format!("{PREFIX}{meant}").to_ascii_uppercase();
                problems.push(Problem::new(
                    name,
                    format!(
                        "not a setting; section and field are parted by two underscores: {meant}"
                    ),
                ));
            }
            continue;
        }
        let keys: Vec<&str> = path.split("__").collect();
        let default = keys.iter().try_fold(defaults, |value, key| value.get(key));
        let read = if OPEN.contains(&keys.join(".").as_str()) {
            read_map(&text)
        } else {
            read_text(&text, default.unwrap_or(&Value::Null))
        };
        match read {
            // As a file does, it adds to the map.
            Ok(Value::Object(members)) => {
                for (member, value) in members {
                    set(tree, &[&keys[..], &[&member]].concat(), value);
                }
            }
            Ok(value) => set(tree, &keys, value),
            Err(wanted) => problems.push(Problem::new(name, format!("is not {wanted}"))),
        }
    }
}

fn read_text(text: &str, default: &Value) -> Result<Value, &'static str> {
    Ok(match default {
        _ if text.is_empty() && !default.is_array() => Value::Null,
        Value::Bool(_) => match text {
            "true" | "1" => Value::Bool(true),
            "false" | "0" => Value::Bool(false),
            _ => return Err("true or false"),
        },
        Value::Number(_) => match text.trim().parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) if text == "null" || text == "~" => Value::Null,
            Err(_) => return Err("a whole number"),
        },
        Value::Array(_) if text.trim_start().starts_with('[') => {
            serde_yaml::from_str(text).map_err(|_| "a list: a,b or [a, b]")?
        }
        Value::Array(_) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(Value::from)
            .collect(),
        _ => Value::String(text.to_owned()),
    })
}

/// An open map: `{name: value}`, or `name=value,name=value`. A piece without `=` goes on with the value before it, so
/// that a value may be a list: `eu-west-1=eu,global,ap-south-1=apac`.
fn read_map(text: &str) -> Result<Value, &'static str> {
    const WANTED: &str = "a map: name=value,name=value or {name: value}";
    if text.trim_start().starts_with('{') {
        let map: Map<String, Value> = serde_yaml::from_str(text).map_err(|_| WANTED)?;
        return Ok(Value::Object(map));
    }
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
        match (piece.split_once('='), pairs.last_mut()) {
            (Some((name, value)), _) => pairs.push((name.trim(), value.trim().to_owned())),
            (None, Some((_, value))) => value.extend([",", piece]),
            (None, None) => return Err(WANTED),
        }
    }
    let members = pairs.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value)));
    Ok(Value::Object(members.collect()))
}

fn set(tree: &mut Value, keys: &[&str], value: Value) {
    let [first, rest @ ..] = keys else {
        *tree = value;
        return;
    };
    if !tree.is_object() {
        *tree = Value::Object(Map::new());
    }
    if let Value::Object(members) = tree {
        set(members.entry(*first).or_insert(Value::Null), rest, value);
    }
}

/// Takes a member out of an open map, if `keys` leads into one; answers whether it was there.
fn remove_member(tree: &mut Value, keys: &[&str]) -> bool {
    let open = (1..keys.len()).find(|length| OPEN.contains(&keys[..*length].join(".").as_str()));
    let Some((map, [member, ..])) = open.map(|length| keys.split_at(length)) else { return false };
    let members = map.iter().try_fold(tree, |value, key| value.get_mut(key));
    members.and_then(Value::as_object_mut).is_some_and(|map| map.remove(*member).is_some())
}

/// The places of all secrets: those that every installation has, and those of its identity providers.
fn secret_places(tree: &Value) -> Vec<Vec<String>> {
    let fixed = SECRETS.iter().map(|key| key.split('.').map(str::to_owned).collect());
    let providers = tree.pointer("/oauth/providers").and_then(Value::as_object);
    let names = providers.into_iter().flat_map(Map::keys);
    let of_provider =
        |name: &String| ["oauth", "providers", name, "client_secret"].map(str::to_owned).to_vec();
    fixed.chain(names.map(of_provider)).collect()
}

/// Replaces `<secret>_file: PATH` by the secret that the file holds.
fn read_secret_files(tree: &mut Value, defaults: &Value, problems: &mut Vec<Problem>) {
    for place in secret_places(tree) {
        let secret = place.join(".");
        let Some((field, section)) = place.split_last() else { continue };
        let from = format!("{field}_file");
        let members = section.iter().try_fold(&mut *tree, |value, key| value.get_mut(key));
        let Some(members) = members.and_then(Value::as_object_mut) else { continue };
        let Some(path) = members.remove(&from).filter(|path| !path.is_null()) else { continue };
        let key = format!("{}.{from}", section.join("."));
        let Value::String(path) = path else {
            problems.push(Problem::new(key, "is not the path of a file"));
            continue;
        };
        let default = place.iter().try_fold(defaults, |value, key| value.get(key));
        if members.get(field).is_some_and(|given| Some(given) != default) {
            problems.push(Problem::new(&key, format!("set together with {secret}; keep one")));
        }
        match secret_file(Path::new(&path)) {
            Ok(text) => {
                members.insert(field.to_owned(), Value::String(text));
            }
            Err(message) => problems.push(Problem::new(key, message)),
        }
    }
}

fn secret_file(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        let mode = mode & 0o777;
        return Err(format!(
            "{} can be read by others (mode {mode:o}): chmod o= it",
            path.display()
        ));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Takes out every key that the defaults do not have, and names the nearest one that they do. Open maps keep theirs.
fn remove_unknown(tree: &mut Value, defaults: &Value, path: &str, problems: &mut Vec<Problem>) {
    if OPEN.contains(&path) {
        return;
    }
    let (Value::Object(members), Value::Object(known)) = (tree, defaults) else { return };
    members.retain(|key, value| {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match known.get(key) {
            Some(default) => {
                remove_unknown(value, default, &full, problems);
                true
            }
            None => {
                let message = match nearest(&full) {
                    Some(near) => format!("unknown setting; did you mean {near}?"),
                    None => "unknown setting".to_owned(),
                };
                problems.push(Problem::new(full, message));
                false
            }
        }
    });
}

fn nearest(unknown: &str) -> Option<String> {
    let mut keys = Vec::new();
    list_keys(&defaults(), "", &mut keys);
    let score = |key: &String| (strsim::jaro_winkler(unknown, key) * 1000.0) as u32;
    keys.into_iter().max_by_key(score).filter(|key| score(key) > 700)
}

/// The full names of all settings: `server.tls.cert`. An open map is one of them.
pub fn list_keys(tree: &Value, path: &str, keys: &mut Vec<String>) {
    match tree {
        Value::Object(members) if !members.is_empty() && !OPEN.contains(&path) => {
            for (key, value) in members {
                let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                list_keys(value, &full, keys);
            }
        }
        _ => keys.push(path.to_owned()),
    }
}

/// Reads the tree into types. A value of the wrong type is reported and replaced by its default, or taken out of its
/// open map, so that the others are looked at too.
fn typed(mut tree: Value, defaults: &Value, problems: &mut Vec<Problem>) -> Option<Settings> {
    const MOST: usize = 300; // each round mends one value; there are fewer of them than this
    for _ in 0..MOST {
        let error = match serde_path_to_error::deserialize::<_, Settings>(tree.clone()) {
            Ok(settings) => return Some(settings),
            Err(error) => error,
        };
        let path = error.path().to_string();
        // A type error quotes the value; a secret must not be quoted.
        let inside =
            |secret: &&str| secret.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.'));
        let secret = SECRETS.iter().any(|secret| path.starts_with(secret) || inside(secret))
            || path.contains("secret");
        let told = error.inner().to_string();
        let message = if secret && !told.starts_with("missing field `") {
            "has the wrong type".to_owned()
        } else {
            told
        };
        problems.push(Problem::new(&path, message));
        // By segment: a key of an open map may hold dots itself. Lists are replaced as a whole.
        let segments = error.path().iter().map_while(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        let keys: Vec<&str> = segments.collect();
        if remove_member(&mut tree, &keys) {
            continue;
        }
        let known = (1..=keys.len()).rev().find_map(|length| {
            let keys = keys.get(..length)?;
            let value = keys.iter().try_fold(defaults, |value, key| value.get(key))?;
            Some((keys, value.clone()))
        })?;
        set(&mut tree, known.0, known.1);
    }
    None
}

fn mask(mut tree: Value) -> Value {
    for place in secret_places(&tree) {
        let pointer = format!("/{}", place.join("/"));
        if let Some(value) = tree.pointer_mut(&pointer).filter(|value| !value.is_null()) {
            *value = match value.as_str() {
                Some(url) if place.last().is_some_and(|field| field.ends_with("url")) => {
                    Value::String(mask_url(url))
                }
                _ => Value::String(MASK.to_owned()),
            };
        }
    }
    for pointer in ["/secrets/previous_api_key_peppers", "/secrets/previous_encryption_keys"] {
        if let Some(Value::Array(list)) = tree.pointer_mut(pointer) {
            list.iter_mut().for_each(|secret| *secret = Value::String(MASK.to_owned()));
        }
    }
    if let Some(Value::Array(list)) = tree.pointer_mut("/jwt/previous_secrets") {
        for secret in list.iter_mut().filter_map(|entry| entry.get_mut("secret")) {
            *secret = Value::String(MASK.to_owned());
        }
    }
    tree
}

impl Database {
    /// Its URL as it may be shown: without a password.
    pub fn shown_url(&self) -> String {
        mask_url(self.url.expose_secret())
    }
}

/// A URL of Postgres or Redis with the password and all parameters masked: one of them may be a password too.
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| *scheme != "sqlite")
    else {
        return url.to_owned();
    };
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => {
            let name = user.split([':', '/', '?']).next().unwrap_or_default();
            (format!("{name}:{MASK}@"), place)
        }
        None => (String::new(), rest),
    };
    match place.split_once('?') {
        Some((place, _)) => format!("{scheme}://{user}{place}?{MASK}"),
        None => format!("{scheme}://{user}{place}"),
    }
}

#[cfg(test)]
mod tests;
