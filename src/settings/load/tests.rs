use std::io::Write;

use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use tempfile::NamedTempFile;

use super::*;
use crate::settings::rules::{Action, Glob, Send};
use crate::settings::{Alias, Fsync, FurtherRegion, InferenceProfile, LogFormat, OnFull, Prefixes};

mod sign_in;

/// A secret that nothing is wrong with.
const SOUND: &str = "xK3v0Qm8sZp1Lr7TnW5yBd2HfJ9cGu4E";
/// Stands in secrets; no output may hold it.
const CANARY: &str = "canary-5f1c9b7e2a4d8063-canary-5f1c9b7e2a4d8063";

fn environment<'a>(
    given: &'a [(&'a str, &'a str)],
) -> impl Iterator<Item = (String, String)> + use<'a> {
    given.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
}

/// A file that only its owner can read.
fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn path_of(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// What the service reads from a file and from variables; `jwt.secret` is given.
fn layered(yaml: &str, given: &[(&str, &str)]) -> Result<Settings, Problems> {
    let file = file(yaml);
    let secret = [("BEDROCK_JWT__SECRET", SOUND)];
    let given = environment(&secret).chain(environment(given));
    Settings::from_layers(Some(file.path()), given, Need::Service)
}

/// As [`layered`], from variables alone.
fn from_variables(given: &[(&str, &str)]) -> Result<Settings, Problems> {
    layered("", given)
}

/// As [`layered`], from a file alone; `jwt.secret` is in `yaml` if it is to be there.
fn from_yaml(yaml: &str) -> Result<Settings, Problems> {
    Settings::from_layers(Some(file(yaml).path()), std::iter::empty(), Need::Service)
}

#[track_caller]
fn assert_names(found: &Result<Settings, Problems>, key: &str, part: &str) {
    let Err(Problems(problems)) = found else { panic!("no problem; {key}: {part} was expected") };
    let named = problems.iter().any(|p| p.key == key && p.message.contains(part));
    assert!(named, "{key}: {part} is not among {problems:?}");
}

fn names(Problems(problems): &Problems) -> Vec<&str> {
    problems.iter().map(|problem| problem.key.as_str()).collect()
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// `{section: {field: value}}` for `section.field`.
fn yaml_of(key: &str, value: &str) -> String {
    let (opened, depth) = (key.replace('.', ": {"), key.matches('.').count());
    format!("{opened}: {value}{}", "}".repeat(depth))
}

trait Exposed {
    fn exposed(&self) -> &str;
}

impl Exposed for String {
    fn exposed(&self) -> &str {
        self
    }
}

impl Exposed for SecretString {
    fn exposed(&self) -> &str {
        self.expose_secret()
    }
}

fn exposed(settings: &Settings, secret: &str) -> Option<String> {
    let text = match secret {
        "jwt.secret" => settings.jwt.secret.as_ref()?.expose_secret(),
        "secrets.api_key_pepper" => settings.secrets.api_key_pepper.as_ref()?.expose_secret(),
        "secrets.encryption_key" => settings.secrets.encryption_key.as_ref()?.expose_secret(),
        "aws.access_key_id" => settings.aws.access_key_id.as_ref()?.exposed(),
        "aws.secret_access_key" => settings.aws.secret_access_key.as_ref()?.expose_secret(),
        "aws.session_token" => settings.aws.session_token.as_ref()?.expose_secret(),
        "aws.bearer_token" => settings.aws.bearer_token.as_ref()?.expose_secret(),
        "cache.redis_url" => settings.cache.redis_url.as_ref()?.expose_secret(),
        "database.url" => settings.database.url.expose_secret(),
        "metrics.token" => settings.metrics.token.as_ref()?.expose_secret(),
        other => panic!("{other} is a secret without a line here"),
    };
    Some(text.to_owned())
}

/// What must stand beside a secret for the whole to be sound.
fn companions(secret: &str) -> Vec<(&'static str, &'static str)> {
    let (id, key) =
        (("BEDROCK_AWS__ACCESS_KEY_ID", "id"), ("BEDROCK_AWS__SECRET_ACCESS_KEY", "key"));
    let jwt = ("BEDROCK_JWT__SECRET", SOUND);
    match secret {
        "jwt.secret" => vec![],
        "aws.access_key_id" => vec![jwt, key],
        "aws.secret_access_key" => vec![jwt, id],
        "aws.session_token" => vec![jwt, id, key],
        _ => vec![jwt],
    }
}

fn sound_value(secret: &str) -> &'static str {
    match secret {
        "cache.redis_url" => "rediss://user:password@cache.example.com",
        "database.url" => "postgres://user:password@localhost/usage",
        _ => "a-Sound-value-of-more-than-32-bytes-7",
    }
}

// Defaults

#[test]
fn the_defaults_and_a_jwt_secret_are_enough() {
    let given = [("BEDROCK_JWT__SECRET", SOUND)];

    let settings = Settings::from_layers(None, environment(&given), Need::Service).unwrap();

    assert_eq!((settings.server.host.as_str(), settings.server.port), ("0.0.0.0", 3000));
    assert_eq!(settings.server.max_body_bytes, 10 << 20);
    assert_eq!(settings.database.url.expose_secret(), "sqlite://./data/bedrock_sso.db");
    assert_eq!((settings.usage.fsync, settings.usage.on_full), (Fsync::Interval, OnFull::Strict));
    assert_eq!(settings.aws.region, None);
    assert_eq!(exposed(&settings, "jwt.secret").as_deref(), Some(SOUND));
}

#[test]
fn the_defaults_and_the_types_have_the_same_keys() {
    // An unknown key in a section makes serde name all keys that the section's type has.
    fn compare(section: &Value, path: &[&str]) {
        let Some(members) = section.as_object() else { return };
        if OPEN.contains(&path.join(".").as_str()) {
            return;
        }
        let mut tree = defaults();
        let probe = [path, &["zzz"]].concat();
        set(&mut tree, &probe, Value::Bool(true));
        let error = serde_json::from_value::<Settings>(tree).unwrap_err().to_string();
        let (first, rest) = error.split_once("expected").unwrap();
        let mut of_type: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        of_type.sort_unstable();
        let mut of_defaults: Vec<&str> = members.keys().map(String::as_str).collect();
        of_defaults.sort_unstable();
        assert!(first.contains("`zzz`"), "{error}");
        assert_eq!(of_type, of_defaults, "in `{}`", path.join("."));
        for (key, value) in members {
            compare(value, &[path, &[key.as_str()]].concat());
        }
    }

    compare(&defaults(), &[]);
}

#[test]
fn every_default_is_explained_by_a_comment_in_its_block() {
    let mut explained: Vec<bool> = Vec::new(); // by depth
    let (mut keys, mut alone) = (0, Vec::new());
    let mut inside = usize::MAX; // of a list, or of an open map: what is below is a part of its value
    for line in DEFAULTS.lines().filter(|line| !line.trim().is_empty()) {
        let text = line.trim_start();
        let depth = (line.len() - text.len()) / 2;
        if depth > inside {
            continue;
        }
        inside = usize::MAX;
        explained.resize(depth + 1, false);
        let begins_value = ["essential:", "old_version:", "betas:", "fields:"].contains(&text);
        if text.starts_with('#') {
            explained[depth] = true;
        } else if begins_value || !text.ends_with(':') {
            inside = if begins_value { depth } else { usize::MAX };
            keys += 1;
            if !explained[depth] {
                alone.push(line);
            }
        }
    }
    let mut listed = Vec::new();
    list_keys(&defaults(), "", &mut listed);

    assert_eq!(alone, Vec::<&str>::new());
    assert_eq!(keys, listed.len());
}

// Layers

#[test]
fn a_file_overrides_the_defaults_and_the_environment_overrides_the_file() {
    let yaml = "server: {port: 4000, host: 127.0.0.1, limits: {connections: 7}}\n\
                aws: {allowed_accounts: ['111111111111'], region: eu-west-1}";
    let given = [
        ("BEDROCK_SERVER__PORT", "5000"),
        ("BEDROCK_AWS__ALLOWED_ACCOUNTS", "222222222222,333333333333"),
    ];

    let settings = layered(yaml, &given).unwrap();

    assert_eq!(settings.server.port, 5000);
    assert_eq!(settings.server.host, "127.0.0.1");
    assert_eq!(settings.server.limits.connections, 7);
    assert_eq!(settings.server.limits.header_bytes, 32768);
    assert_eq!(settings.aws.allowed_accounts, ["222222222222", "333333333333"]);
    assert_eq!(settings.aws.region.as_deref(), Some("eu-west-1"));
}

#[test]
fn an_empty_file_changes_nothing() {
    for yaml in ["", "# only a comment\n", "---\n{}\n"] {
        assert_eq!(layered(yaml, &[]).map(|settings| settings.server.port), Ok(3000), "{yaml:?}");
    }
}

#[test]
fn lists_from_the_environment_are_comma_separated() {
    let settings = from_variables(&[
        ("BEDROCK_AWS__ALLOWED_ACCOUNTS", "123456789012, 000000000001 ,"),
        ("BEDROCK_AWS__REGIONS", "eu-west-1,us-west-2"),
        ("BEDROCK_ADMIN__EMAILS", "user@example.com,other@example.com"),
        ("BEDROCK_ADMIN__PROVIDERS", "local"),
        ("BEDROCK_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1, fd00::/8, ::1"),
        ("BEDROCK_SERVER__ALLOWED_HOSTS", "proxy.example.com,proxy.example.com:8443"),
        ("BEDROCK_SERVER__CORS_ORIGINS", "https://app.example.com,http://localhost:5173"),
        ("BEDROCK_SECRETS__PREVIOUS_API_KEY_PEPPERS", &format!("{SOUND}a,{SOUND}b")),
    ])
    .unwrap();

    let region = |name: &str| FurtherRegion { name: name.to_owned(), endpoint_url: None };
    let proxies: Vec<String> =
        settings.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(settings.aws.allowed_accounts, ["123456789012", "000000000001"]);
    assert_eq!(settings.aws.regions, [region("eu-west-1"), region("us-west-2")]);
    assert_eq!(settings.admin.emails, ["user@example.com", "other@example.com"]);
    assert_eq!(settings.admin.providers, ["local"]);
    assert_eq!(proxies, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8", "::1/128"]);
    assert_eq!(settings.server.allowed_hosts, ["proxy.example.com", "proxy.example.com:8443"]);
    assert_eq!(settings.server.cors_origins, ["https://app.example.com", "http://localhost:5173"]);
    assert_eq!(settings.secrets.previous_api_key_peppers.len(), 2);
}

#[test]
fn a_list_in_brackets_is_read_as_yaml() {
    let previous = format!("[{{id: old, secret: {SOUND}-previous, until: 2027-01-31T00:00:00Z}}]");
    let regions = r#" [eu-west-1, {"name": "us-west-2", "endpoint_url": "https://vpce.example"}]"#;

    let settings = from_variables(&[
        ("BEDROCK_JWT__PREVIOUS_SECRETS", &previous),
        ("BEDROCK_AWS__REGIONS", regions),
        ("BEDROCK_ADMIN__EMAILS", "[]"),
    ])
    .unwrap();

    let old = &settings.jwt.previous_secrets[0];
    assert_eq!(
        (old.id.as_deref().unwrap(), old.until.to_rfc3339().as_str()),
        ("old", "2027-01-31T00:00:00+00:00")
    );
    assert_eq!(old.secret.expose_secret(), format!("{SOUND}-previous"));
    assert_eq!(settings.aws.regions[1].endpoint_url.as_deref(), Some("https://vpce.example"));
    assert_eq!(settings.admin.emails, Vec::<String>::new());
}

#[test]
fn a_list_in_brackets_that_is_no_yaml_names_the_variable_and_quotes_nothing() {
    let text = format!("[{{id: old, secret: {CANARY}");

    let found = from_variables(&[("BEDROCK_JWT__PREVIOUS_SECRETS", &text)]);

    assert_names(&found, "BEDROCK_JWT__PREVIOUS_SECRETS", "is not a list");
    assert!(!found.unwrap_err().to_string().contains("canary"));
}

#[test]
fn numbers_booleans_and_words_are_read_from_the_environment() {
    let settings = from_variables(&[
        ("BEDROCK_SERVER__PORT", " 8080 "),
        ("BEDROCK_USAGE__JOURNAL_MAX_BYTES", "9007199254740993"),
        ("BEDROCK_SERVER__DOCS", "false"),
        ("BEDROCK_METRICS__ENABLED", "0"),
        ("BEDROCK_DATABASE__ALLOW_PLAINTEXT", "1"),
        ("BEDROCK_API_KEYS__ENABLED", "true"),
        ("BEDROCK_USAGE__ON_FULL", "best_effort"),
        ("BEDROCK_LOGGING__FORMAT", "json"),
        ("BEDROCK_USAGE__JOURNAL_DIR", "/var/lib/journal"),
    ])
    .unwrap();

    assert_eq!(settings.server.port, 8080);
    assert_eq!(settings.usage.journal_max_bytes, 9_007_199_254_740_993);
    assert!(!settings.server.docs);
    assert!(!settings.metrics.enabled);
    assert!(settings.database.allow_plaintext);
    assert!(settings.api_keys.enabled);
    assert_eq!(settings.usage.on_full, OnFull::BestEffort);
    assert_eq!(settings.logging.format, Some(LogFormat::Json));
    assert_eq!(settings.usage.journal_dir.as_deref(), Some(Path::new("/var/lib/journal")));
}

#[test]
fn text_that_is_no_number_or_boolean_names_the_variable() {
    for (name, text, part) in [
        ("BEDROCK_SERVER__PORT", "http", "a whole number"),
        ("BEDROCK_SERVER__PORT", "80.5", "a whole number"),
        ("BEDROCK_USAGE__BATCH_SIZE", "99999999999999999999", "a whole number"),
        ("BEDROCK_SERVER__DOCS", "yes", "true or false"),
        ("BEDROCK_METRICS__ENABLED", "2", "true or false"),
    ] {
        assert_names(&from_variables(&[(name, text)]), name, part);
    }
    for (name, text, key) in [
        ("BEDROCK_SERVER__PORT", "70000", "server.port"),
        ("BEDROCK_SERVER__PORT", "-1", "server.port"),
        ("BEDROCK_USAGE__FSYNC", "sometimes", "usage.fsync"),
        ("BEDROCK_LOGGING__FORMAT", "xml", "logging.format"),
        ("BEDROCK_CACHE__BACKEND", "disk", "cache.backend"),
        ("BEDROCK_SERVER__TRUSTED_PROXIES", "10.0.0.0/99", "server.trusted_proxies"),
    ] {
        assert_names(&from_variables(&[(name, text)]), key, "");
    }
}

#[test]
fn an_empty_variable_means_not_set() {
    let yaml = "aws: {region: eu-west-1}\nadmin: {emails: [user@example.com]}\n\
                server: {public_url: 'https://proxy.example.com'}";

    let settings = layered(
        yaml,
        &[
            ("BEDROCK_AWS__REGION", ""),
            ("BEDROCK_ADMIN__EMAILS", ""),
            ("BEDROCK_SERVER__PUBLIC_URL", ""),
            ("BEDROCK_SERVER__TLS__CERT", ""),
            ("BEDROCK_METRICS__TOKEN", ""),
            ("BEDROCK_API_KEYS__DEFAULT_EXPIRY_DAYS", ""),
            ("BEDROCK_API_KEYS__MAX_EXPIRY_DAYS", ""),
        ],
    )
    .unwrap();

    assert_eq!(settings.aws.region, None);
    assert_eq!(settings.admin.emails, Vec::<String>::new());
    assert_eq!(settings.server.public_url, None);
    assert_eq!(settings.server.tls.cert, None);
    assert!(settings.metrics.token.is_none());
    assert_eq!(settings.api_keys.default_expiry_days, None);
    assert_eq!(settings.api_keys.max_expiry_days, None);
}

#[test]
fn a_setting_that_must_have_a_value_cannot_be_emptied() {
    assert_names(&from_variables(&[("BEDROCK_SERVER__PORT", "")]), "server.port", "null");
    assert_names(&layered("server: {port: ~}", &[]), "server.port", "null");
    assert_names(&from_variables(&[("BEDROCK_LOGGING__LEVEL", "")]), "logging.level", "null");
}

#[test]
fn a_secret_of_digits_stays_text() {
    let digits = "01234567890123456789012345678901";
    let given = [("BEDROCK_JWT__SECRET", digits), ("BEDROCK_METRICS__TOKEN", "007")];

    let settings = Settings::from_layers(None, environment(&given), Need::Service).unwrap();

    assert_eq!(exposed(&settings, "jwt.secret").as_deref(), Some(digits));
    assert_eq!(exposed(&settings, "metrics.token").as_deref(), Some("007"));
}

#[test]
fn two_underscores_go_down_one_level_each() {
    let settings = from_variables(&[
        ("BEDROCK_SERVER__TLS__CERT", "/etc/tls/cert.pem"),
        ("BEDROCK_SERVER__TLS__KEY", "/etc/tls/key.pem"),
        ("BEDROCK_SERVER__TIMEOUTS__HEAD_SECONDS", "3"),
    ])
    .unwrap();

    assert_eq!(settings.server.tls.cert.as_deref(), Some(Path::new("/etc/tls/cert.pem")));
    assert_eq!(settings.server.tls.key.as_deref(), Some(Path::new("/etc/tls/key.pem")));
    assert_eq!(settings.server.timeouts.head_seconds, 3);
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let settings = from_variables(&[
        ("BEDROCK_CONFIG_FILE", "/nowhere/config.yaml"),
        ("BEDROCK_API_KEY", "abc"),
        ("BEDROCK_MODEL_ID", "x"),
        ("BEDROCK_", "x"),
        ("BEDROCK", "x"),
        ("AWS_REGION", "eu-west-1"),
        ("SERVER__PORT", "1"),
        ("PATH", "/bin"),
    ]);

    assert_eq!(settings.map(|settings| settings.server.port), Ok(3000));
}

#[test]
fn one_underscore_is_a_problem_that_names_the_variable_with_two() {
    for (name, meant) in [
        ("BEDROCK_SERVER_PORT", "BEDROCK_SERVER__PORT"),
        ("BEDROCK_JWT_SECRET", "BEDROCK_JWT__SECRET"),
        ("BEDROCK_JWT_SECRET_FILE", "BEDROCK_JWT__SECRET_FILE"),
        ("BEDROCK_API_KEYS_ENABLED", "BEDROCK_API_KEYS__ENABLED"),
        ("BEDROCK_AWS_REGION", "BEDROCK_AWS__REGION"),
    ] {
        let found = from_variables(&[(name, CANARY)]);

        assert_names(&found, name, meant);
        assert!(!found.unwrap_err().to_string().contains("canary"), "{name}");
    }
}

#[test]
fn one_underscore_everywhere_names_a_setting_that_exists() {
    let mut keys = Vec::new();
    list_keys(&defaults(), "", &mut keys);

    for key in keys {
        let flat = format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase());
        let Err(Problems(problems)) = from_variables(&[(&flat, "1")]) else {
            panic!("{flat} was accepted");
        };
        let ends = |problem: &Problem| problem.message.ends_with(&format!(" {}", variable(&key)));
        assert!(problems.iter().any(ends), "{flat}: {problems:?}");
    }
}

// Open maps

fn alias(model: &str) -> Alias {
    Alias { model: model.to_owned(), region: None, base_model: None }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

const HAIKU: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";
const PROFILE: &str = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/team";

#[test]
fn members_of_an_open_map_keep_their_names_and_need_not_be_known() {
    let yaml = format!(
        "aws: {{region: us-east-1, regions: [us-west-2]}}\n\
         models:\n  aliases:\n    gpt-4.1: {HAIKU}\n    GPT-4.1: anthropic.claude-v2\n    'a b[1m]/c__d': \
         anthropic.claude-v2\n    4: anthropic.claude-v2\n    big:\n      model: {PROFILE}\n      region: us-west-2\n      \
         base_model: anthropic.claude-opus-4-8\n"
    );

    let settings = layered(&yaml, &[]).unwrap();

    let big = Alias {
        model: PROFILE.to_owned(),
        region: Some("us-west-2".to_owned()),
        base_model: Some("anthropic.claude-opus-4-8".to_owned()),
    };
    let old = || alias("anthropic.claude-v2");
    let expected = [
        ("4", old()),
        ("GPT-4.1", old()),
        ("a b[1m]/c__d", old()),
        ("big", big),
        ("gpt-4.1", alias(HAIKU)),
    ];
    let expected = expected.map(|(name, alias)| (name.to_owned(), alias));
    assert_eq!(settings.models.aliases.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(settings.masked["models"]["aliases"]["gpt-4.1"], HAIKU);
}

#[test]
fn an_open_map_without_members_is_empty() {
    for yaml in
        ["models: {aliases: ~}", "models:\n  aliases:\n    # fast: x\n", "models: {aliases: {}}"]
    {
        let aliases = layered(yaml, &[]).map(|settings| settings.models.aliases.len());
        assert_eq!(aliases, Ok(0), "{yaml}");
    }
    let yaml = format!("models: {{aliases: {{fast: {HAIKU}}}}}");
    let unchanged = layered(&yaml, &[("BEDROCK_MODELS__ALIASES", "")]);
    assert_eq!(unchanged.map(|settings| settings.models.aliases.len()), Ok(1));
}

#[test]
fn an_open_map_from_the_environment_adds_to_the_files() {
    let yaml = format!("models: {{aliases: {{slow: {HAIKU}}}}}");
    for text in [
        format!("{{Fast: {HAIKU}, gpt-4.1: {{model: {PROFILE}}}}}"),
        format!(r#" {{"Fast": "{HAIKU}", "gpt-4.1": "{PROFILE}"}}"#),
        format!("Fast={HAIKU}, gpt-4.1 = {PROFILE},"),
    ] {
        let settings = layered(&yaml, &[("BEDROCK_MODELS__ALIASES", &text)]).unwrap();

        let expected = [("Fast", HAIKU), ("gpt-4.1", PROFILE), ("slow", HAIKU)];
        let expected = expected.map(|(name, model)| (name.to_owned(), alias(model)));
        assert_eq!(settings.models.aliases, expected.into(), "{text}");
    }
}

#[test]
fn shipped_rules_are_overridden_row_by_row() {
    let yaml = "models:\n  betas: {mine-2027-01-01: drop, claude-code-*: ~, fast-mode-*: {send: forward}}\n  \
                fields: {speed: keep, 'tools[].mine': {drop: [anthropic.claude-3-*]}, \
                'system[].cache_control.ttl': {refuse: [x]}}";

    let rules = layered(yaml, &[("BEDROCK_MODELS__BETAS", "{skills-*: forward}")]).unwrap().models;

    let beta = |flag: &str| rules.betas[&Glob::new(flag)].clone().map(|rule| rule.send);
    assert_eq!(beta("mine-2027-01-01"), Some(Send::Drop));
    assert_eq!(beta("claude-code-*"), None);
    assert_eq!(beta("skills-*"), Some(Send::Forward));
    assert_eq!(beta("oauth-*"), Some(Send::Drop), "the others stay");
    let fast = rules.betas[&Glob::new("fast-mode-*")].clone().unwrap();
    assert_eq!((fast.send, fast.fields), (Send::Forward, vec![]), "a row is replaced as a whole");
    let field = |path: &str| rules.fields[&path.parse().unwrap()].clone().unwrap();
    assert_eq!(field("speed").action, Action::Keep);
    assert_eq!(field("tools[].mine").models, [Glob::new("anthropic.claude-3-*")]);
    assert_eq!(field("system[].cache_control.ttl").action, Action::Refuse);
    assert_eq!(field("service_tier").action, Action::Drop);
}

#[test]
fn a_rule_that_cannot_be_read_is_named() {
    for (yaml, key, message) in [
        ("{betas: {x-1: [1]}}", "models.betas.x-1", "forward"),
        ("{betas: {x-1: forwrd}}", "models.betas.x-1", "forward"),
        ("{betas: {x-1: {filds: [a]}}}", "models.betas.x-1", "send, models, fields"),
        ("{betas: {x-1: {fields: ['a[']}}}", "models.betas.x-1", "send, models, fields"),
        ("{fields: {x: forbid}}", "models.fields.x", "refuse"),
        ("{fields: {'x[': drop}}", "models.fields.x[", "is not the place of a member"),
        ("{fields: {messages: drop}}", "models.fields.messages", "every request needs"),
        ("{fields: {x: {lift: []}}}", "models.fields.x", "lifts nothing"),
        ("{betas: {'a b': drop}}", "models.betas.a b", "is not a flag"),
        ("{betas: {a-1: {send: ''}}}", "models.betas.a-1", "is not a flag"),
        ("{betas: {a-1: {send: b-1}, b-1: {send: a-1}}}", "models.betas.a-1", "another name"),
        ("{old_version: 3}", "models.old_version", "sequence"),
        ("{learn_for_seconds: -1}", "models.learn_for_seconds", "u64"),
    ] {
        let found = layered(&format!("models: {yaml}"), &[]);

        assert_names(&found, key, message);
    }
}

#[test]
fn prefixes_of_a_region_are_a_list_or_text_with_commas() {
    for yaml in [
        "{eu-west-1: [eu, global], sa-east-1: us, me-south-1: []}",
        "{eu-west-1: 'eu, global', sa-east-1: [us], me-south-1: ''}",
    ] {
        let by_file = layered(&yaml_of("aws.region_prefix_mappings", yaml), &[]).unwrap();
        let by_variable = from_variables(&[("BEDROCK_AWS__REGION_PREFIX_MAPPINGS", yaml)]).unwrap();

        for settings in [by_file, by_variable] {
            let mappings = settings.aws.region_prefix_mappings;
            assert_eq!(mappings["eu-west-1"], Prefixes(words("eu global")));
            assert_eq!(mappings["sa-east-1"], Prefixes(words("us")));
            assert_eq!(mappings["me-south-1"], Prefixes(vec![]));
        }
    }
    let pairs = "eu-west-1=eu,global, ap-south-1=apac";
    let settings = from_variables(&[("BEDROCK_AWS__REGION_PREFIX_MAPPINGS", pairs)]).unwrap();
    let expected = [("ap-south-1", "apac"), ("eu-west-1", "eu global")]
        .map(|(region, prefixes)| (region.to_owned(), Prefixes(words(prefixes))));
    assert_eq!(settings.aws.region_prefix_mappings, expected.into());
}

#[test]
fn the_inference_profile_is_a_word_or_a_list() {
    let prefixes = |text| InferenceProfile::Prefixes(words(text));
    for (text, expected) in [
        ("auto", InferenceProfile::Auto),
        ("none", InferenceProfile::None),
        ("global", prefixes("global")),
        ("eu", prefixes("eu")),
        ("us-gov", prefixes("us-gov")),
        ("eu,global", prefixes("eu global")),
        ("[eu, global]", prefixes("eu global")),
    ] {
        let yaml = if text == "eu,global" { "'eu,global'" } else { text };
        let by_file = layered(&yaml_of("models.inference_profile", yaml), &[]).unwrap();
        let by_variable = from_variables(&[("BEDROCK_MODELS__INFERENCE_PROFILE", text)]).unwrap();

        assert_eq!(by_file.models.inference_profile, expected, "{text}");
        assert_eq!(by_variable.models.inference_profile, expected, "{text}");
    }
    assert_eq!(from_variables(&[]).unwrap().models.inference_profile, InferenceProfile::Auto);
}

#[test]
fn a_variable_that_is_no_map_is_named() {
    for (name, text) in [
        ("BEDROCK_MODELS__ALIASES", "fast"),
        ("BEDROCK_MODELS__ALIASES", "{fast: [}"),
        ("BEDROCK_AWS__REGION_PREFIX_MAPPINGS", "eu,global"),
    ] {
        assert_names(&from_variables(&[(name, text)]), name, "is not a map: name=value");
    }
}

#[test]
fn every_wrong_member_of_an_open_map_is_told_once_by_its_name() {
    let yaml = format!(
        "models: {{inference_profile: {{}}, aliases: {{gpt-4.1: 5, a.b.c: [x], '': ~, 'x[0].y': true, fine: {HAIKU}, \
         typo: {{model: {HAIKU}, base-model: x}}, half: {{region: us-east-1}}}}}}\n\
         aws: {{region_prefix_mappings: {{eu-west-1: 1, eu-west-2: {{a: b}}}}, connect_timeout_seconds: soon}}"
    );

    let found = layered(&yaml, &[]);

    assert_names(&found, "models.aliases.gpt-4.1", "wants a Bedrock id or ARN, or {model");
    assert_names(&found, "models.aliases.typo", "unknown field `base-model`");
    assert_names(&found, "models.aliases.half", "missing field `model`");
    assert_names(&found, "aws.region_prefix_mappings.eu-west-1", "a list of them");
    let problems = found.unwrap_err();
    let mut keys = names(&problems);
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "aws.connect_timeout_seconds",
            "aws.region_prefix_mappings.eu-west-1",
            "aws.region_prefix_mappings.eu-west-2",
            "models.aliases.",
            "models.aliases.a.b.c",
            "models.aliases.gpt-4.1",
            "models.aliases.half",
            "models.aliases.typo",
            "models.aliases.x[0].y",
            "models.inference_profile",
        ]
    );
}

#[test]
fn something_else_in_the_place_of_an_open_map_is_told_once() {
    for value in ["[a]", "5", "text"] {
        let found = layered(&yaml_of("models.aliases", value), &[]);

        assert_names(&found, "models.aliases", "expected a map");
        assert_eq!(found.unwrap_err().0.len(), 1, "{value}");
    }
}

#[test]
fn an_alias_that_cannot_work_is_named() {
    for (alias, part) in [
        ("''", "names no model"),
        ("'anthropic.claude v2'", "that Bedrock ids do not have"),
        ("'anthropic/claude'", "holds a character"),
        ("'arn:aws:bedrock:us-east-1:123:x/y'", "is malformed"),
        ("'arn:aws:s3:::bucket/key'", "is malformed"),
        ("'arn:moon:bedrock:us-east-1:123456789012:x/y'", "is malformed"),
        ("claude-haiku-4-5", "Bedrock's id is anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("{model: anthropic.claude-v2, region: Dublin}", "is not a region name"),
        ("{model: anthropic.claude-v2, region: eu-west-3}", "neither aws.region nor among"),
        (&format!("{{model: '{PROFILE}', region: us-east-1}}"), "another than the one in the ARN"),
        (&format!("{{model: '{PROFILE}', base_model: '{PROFILE}'}}"), "is not an id such as"),
        (&format!("{{model: '{PROFILE}', base_model: claude-opus-4-8}}"), "is not an id such as"),
        (&format!("{{model: '{PROFILE}', base_model: 'a.b c'}}"), "is not an id such as"),
    ] {
        let yaml = format!(
            "aws: {{region: us-east-1, regions: [us-west-2]}}\nmodels: {{aliases: {{gpt-4.1: {alias}}}}}"
        );
        assert_names(&layered(&yaml, &[]), "models.aliases.gpt-4.1", part);
    }
    let twice = format!(
        "models: {{aliases: {{a: {{model: '{PROFILE}', base_model: meta.x}}, b: '{PROFILE}', \
         c: {{model: '{PROFILE}', base_model: meta.y}}}}}}"
    );
    assert_names(&layered(&twice, &[]), "models.aliases.a", "another base_model");
    let nameless = layered("models: {aliases: {'': meta.x}}", &[]);
    assert_names(&nameless, "models.aliases.", "1 to 256 bytes");
}

#[test]
fn an_aliass_region_is_believed_while_the_services_own_is_unknown() {
    let alias = "models: {aliases: {fast: {model: anthropic.claude-v2, region: eu-west-3}}}";

    assert!(layered(alias, &[]).is_ok());
    assert!(layered(&format!("{alias}\naws: {{region: eu-west-3}}"), &[]).is_ok());
    assert!(layered(&format!("{alias}\naws: {{region: eu-west-1}}"), &[]).is_err());
    let further = format!("{alias}\naws: {{region: eu-west-1, regions: [eu-west-3]}}");
    assert!(layered(&further, &[]).is_ok());
}

// Unknown keys and wrong types

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (unknown, near) in [
        ("server.prot", "server.port"),
        ("server.tls.certificate", "server.tls.cert"),
        ("jwt.secert", "jwt.secret"),
        ("aws.allowed_account", "aws.allowed_accounts"),
        ("database.max_connection", "database.max_connections"),
        ("shutdown.timeout", "shutdown.timeout_seconds"),
    ] {
        let message = format!("did you mean {near}?");
        assert_names(&layered(&yaml_of(unknown, CANARY), &[]), unknown, &message);
        assert_names(&from_variables(&[(&variable(unknown), CANARY)]), unknown, &message);
    }
}

#[test]
fn an_unknown_section_is_told_once_with_the_nearest_setting() {
    let found = layered("serverr: {port: 1, host: 127.0.0.1}", &[]);

    assert_names(&found, "serverr", "did you mean server.port?");
    assert_eq!(found.unwrap_err().0.len(), 1);
}

#[test]
fn a_key_like_no_other_is_unknown_without_a_guess() {
    let found = layered("qqq: 1", &[]);

    assert_names(&found, "qqq", "unknown setting");
    assert!(!found.unwrap_err().to_string().contains("did you mean"));
}

#[test]
fn problems_of_different_kinds_are_told_at_once() {
    let yaml = "server: {prot: 1, port: many, tls: {cert: /cert.pem}}\n\
                auth: {identity_max_age_seconds: 61}\nusage: {batch_size: [1], fsync: never}";

    let found = Settings::from_layers(
        Some(file(yaml).path()),
        environment(&[("BEDROCK_SERVER__DOCS", "perhaps"), ("BEDROCK_AWS_REGION", "eu-west-1")]),
        Need::Service,
    );

    let problems = found.unwrap_err();
    let mut keys = names(&problems);
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "BEDROCK_AWS_REGION",
            "BEDROCK_SERVER__DOCS",
            "auth.identity_max_age_seconds",
            "jwt.secret",
            "server.port",
            "server.prot",
            "server.tls",
            "usage.batch_size",
            "usage.fsync",
        ]
    );
    assert!(problems.to_string().starts_with("9 problems in the settings:\n  "));
}

#[test]
fn every_key_of_the_wrong_type_is_named_and_the_others_are_still_read() {
    let mut keys = Vec::new();
    list_keys(&defaults(), "", &mut keys);
    let mut tree = Value::Null;
    for key in &keys {
        let path: Vec<&str> = key.split('.').collect();
        set(&mut tree, &path, serde_json::json!({ "wrong": { "type": [] } }));
    }

    let found = from_yaml(&tree.to_string());

    let problems = found.unwrap_err();
    let unnamed: Vec<&String> = keys
        .iter()
        .filter(|key| !names(&problems).iter().any(|name| name.starts_with(key.as_str())))
        .collect();
    assert_eq!(unnamed, Vec::<&String>::new());
}

#[test]
fn a_secret_of_the_wrong_type_is_named_and_not_quoted() {
    for secret in SECRETS {
        for value in [format!("[{CANARY}]"), format!("{{a: {CANARY}}}"), "12345678987654321".into()]
        {
            let found = layered(&yaml_of(secret, &value), &[]);
            let found =
                if *secret == "jwt.secret" { from_yaml(&yaml_of(secret, &value)) } else { found };

            assert_names(&found, secret, "has the wrong type");
            let text = found.unwrap_err().to_string();
            assert!(!text.contains("canary") && !text.contains("12345678987654321"), "{text}");
        }
    }
    for (key, value) in [
        ("jwt.previous_secrets", format!("[{CANARY}]")),
        ("jwt.previous_secrets", format!("{{a: {CANARY}}}")),
        ("jwt.previous_secrets", format!("[{{id: a, secret: [{CANARY}]}}]")),
        ("jwt.previous_secrets", format!("[{{id: a, secret: {CANARY}, until: {CANARY}}}]")),
        ("secrets.previous_api_key_peppers", format!("[{{a: {CANARY}}}]")),
        ("secrets.previous_api_key_peppers", CANARY.to_owned()),
    ] {
        let text = layered(&yaml_of(key, &value), &[]).unwrap_err().to_string();
        assert!(text.contains(key), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn text_in_place_of_a_section_with_secrets_is_not_quoted() {
    for section in ["jwt", "secrets", "aws", "cache", "database", "metrics"] {
        let text = from_yaml(&format!("{section}: 'postgres://user:{CANARY}@host/db'"))
            .unwrap_err()
            .to_string();

        assert!(text.contains(section), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

// Secrets in files

#[test]
fn every_secret_can_be_read_from_a_file_named_in_yaml_or_the_environment() {
    for secret in SECRETS {
        let value = sound_value(secret);
        let holder = file(&format!("{value}\n"));
        let key = format!("{secret}_file");
        let beside = companions(secret);
        let yaml = file(&yaml_of(&key, path_of(&holder)));
        let name = variable(&key);
        let mut with_variable = beside.clone();
        with_variable.push((&name, path_of(&holder)));

        let by_file =
            Settings::from_layers(Some(yaml.path()), environment(&beside), Need::Service).unwrap();
        let by_variable =
            Settings::from_layers(None, environment(&with_variable), Need::Service).unwrap();

        assert_eq!(exposed(&by_file, secret).as_deref(), Some(value), "{secret}");
        assert_eq!(exposed(&by_variable, secret).as_deref(), Some(value), "{secret}");
        let pointer = format!("/{}", key.replace('.', "/"));
        assert_eq!(by_file.masked.pointer(&pointer), None, "{secret}");
    }
}

#[test]
fn line_ends_at_the_end_of_a_secret_file_are_no_part_of_the_secret() {
    for (end, kept) in [("", ""), ("\n", ""), ("\r\n", ""), ("\n\n", ""), (" \n", " ")] {
        let holder = file(&format!("{SOUND}{end}"));
        let given = [("BEDROCK_JWT__SECRET_FILE", path_of(&holder))];

        let settings = Settings::from_layers(None, environment(&given), Need::Service).unwrap();

        assert_eq!(exposed(&settings, "jwt.secret"), Some(format!("{SOUND}{kept}")), "{end:?}");
    }
}

#[test]
fn a_secret_file_that_others_can_touch_is_refused() {
    for (mode, accepted) in [
        (0o400, true),
        (0o600, true),
        (0o640, true),
        (0o604, false),
        (0o644, false),
        (0o602, false),
        (0o601, false),
    ] {
        let holder = file(SOUND);
        std::fs::set_permissions(holder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let given = [("BEDROCK_JWT__SECRET_FILE", path_of(&holder))];

        let found = Settings::from_layers(None, environment(&given), Need::Service);

        assert_eq!(found.is_ok(), accepted, "mode {mode:o}");
        if !accepted {
            assert_names(&found, "jwt.secret_file", &format!("(mode {mode:o}): chmod o="));
            assert_names(&found, "jwt.secret_file", path_of(&holder));
            assert_eq!(
                found.unwrap_err().0.len(),
                1,
                "that it is missing besides goes without saying"
            );
        }
    }
}

#[test]
fn a_secret_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let missing = folder.path().join("missing");
    let bytes = NamedTempFile::new().unwrap();
    std::fs::write(bytes.path(), [0xff, 0xfe, 0x00]).unwrap();

    for path in [missing.as_path(), folder.path(), bytes.path()] {
        let path = path.to_str().unwrap();
        let found = from_variables(&[("BEDROCK_METRICS__TOKEN_FILE", path)]);

        assert_names(&found, "metrics.token_file", &format!("{path} cannot be read"));
    }
}

#[test]
fn a_secret_file_whose_path_is_no_text_is_named() {
    for value in ["[a]", "{a: b}", "1", "true"] {
        let found = layered(&yaml_of("metrics.token_file", value), &[]);

        assert_names(&found, "metrics.token_file", "is not the path of a file");
    }
}

#[test]
fn a_secret_file_setting_that_is_empty_is_not_set() {
    let by_variable = from_variables(&[("BEDROCK_METRICS__TOKEN_FILE", "")]);
    let by_file = layered("metrics: {token_file: ~}", &[]);

    assert_eq!(by_variable.map(|settings| settings.metrics.token.is_none()), Ok(true));
    assert_eq!(by_file.map(|settings| settings.metrics.token.is_none()), Ok(true));
}

fn given_twice(secret: &str) -> Result<Settings, Problems> {
    let holder = file(sound_value(secret));
    let yaml = file(&yaml_of(secret, &format!("'{}'", sound_value(secret))));
    let name = variable(&format!("{secret}_file"));
    let mut given = companions(secret);
    given.push((&name, path_of(&holder)));
    Settings::from_layers(Some(yaml.path()), environment(&given), Need::Service)
}

#[test]
fn a_secret_given_both_as_text_and_as_a_file_is_refused() {
    for secret in SECRETS.iter().filter(|secret| **secret != "database.url") {
        let found = given_twice(secret);

        let message = format!("set together with {secret}");
        assert_names(&found, &format!("{secret}_file"), &message);
        assert!(!found.unwrap_err().to_string().contains(sound_value(secret)));
    }
}

#[test]
fn a_database_url_given_both_as_text_and_as_a_file_is_refused() {
    let found = given_twice("database.url");

    assert_names(&found, "database.url_file", "set together with database.url");
}

#[test]
fn a_guessable_secret_in_a_file_is_refused_too() {
    let holder = file("short\n");
    let given = [("BEDROCK_JWT__SECRET_FILE", path_of(&holder))];

    let found = Settings::from_layers(None, environment(&given), Need::Service);

    assert_names(&found, "jwt.secret", "is shorter than 32 bytes");
}

// SEC-17

#[test]
fn a_guessable_secret_is_refused_by_name_and_never_quoted() {
    let weak = [
        ("Sh0rt-but-v4ried-secret-31-byte", "is shorter than 32 bytes"),
        ("x", "is shorter than 32 bytes"),
        ("change-me-change-me-change-me-change-me", "is a sample value"),
        ("Change-Me-please-this-is-long-enough-to-pass", "is a sample value"),
        ("your-secret-key-at-least-32-characters-long", "is a sample value"),
        ("replace-with-the-output-of-openssl-rand-base64-48", "is a sample value"),
        ("zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "is one character repeated"),
    ];
    for (value, part) in weak {
        for (key, yaml) in [
            ("jwt.secret", format!("jwt: {{secret: {value}}}")),
            (
                "secrets.api_key_pepper",
                format!("jwt: {{secret: {SOUND}}}\nsecrets: {{api_key_pepper: {value}}}"),
            ),
            (
                "secrets.previous_api_key_peppers",
                format!(
                    "jwt: {{secret: {SOUND}}}\nsecrets: {{previous_api_key_peppers: [{SOUND}p, {value}]}}"
                ),
            ),
            (
                "jwt.previous_secrets",
                format!(
                    "jwt: {{secret: {SOUND}, previous_secrets: \
                     [{{id: a, secret: {value}, until: 2027-01-31T00:00:00Z}}]}}"
                ),
            ),
        ] {
            let found = from_yaml(&yaml);

            assert_names(&found, key, part);
            let text = found.unwrap_err().to_string();
            assert!(value.len() < 2 || !text.contains(value), "{text}");
        }
    }
}

#[test]
fn a_secret_of_exactly_32_varied_bytes_is_accepted() {
    for secret in ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "ääääääääääääääääöö"] {
        assert!(from_yaml(&format!("jwt: {{secret: {secret}}}")).is_ok(), "{secret}");
    }
}

// Ranges, forms and combinations

#[test]
fn values_outside_their_range_or_form_are_named() {
    let until = "until: 2027-01-31T00:00:00Z";
    let twice =
        format!("[{{id: a, secret: {SOUND}1, {until}}}, {{id: a, secret: {SOUND}2, {until}}}]");
    let current = format!("[{{id: a, secret: {SOUND}, {until}}}]");
    let rows = [
        ("auth.identity_max_age_seconds", "0", "must be 1 to 60"),
        ("auth.identity_max_age_seconds", "61", "must be 1 to 60"),
        ("usage.journal_max_bytes", "16777215", "at least 16777216"),
        ("usage.batch_size", "0", "must be 1 to 10000"),
        ("usage.batch_size", "10001", "must be 1 to 10000"),
        ("usage.batch_delay_ms", "0", "must be 1 to 60000"),
        ("usage.batch_delay_ms", "60001", "must be 1 to 60000"),
        ("cache.max_entries", "0", "must be 1 to"),
        ("cache.cleanup_interval", "0", "must be 1 to"),
        ("cache.validation_ttl", "0", "must be 1 to"),
        ("cache.validation_ttl", "9223372036854775807", "must be 1 to"),
        ("api_keys.default_expiry_days", "0", "no lifetime"),
        ("api_keys.default_expiry_days", "366", "more than api_keys.max_expiry_days"),
        ("api_keys.default_expiry_days", "~", "more than api_keys.max_expiry_days"),
        ("api_keys.max_expiry_days", "36501", "at most 36500"),
        ("admin.emails", "[nobody]", "`nobody` is not an e-mail"),
        ("admin.emails", "['user@']", "is not an e-mail"),
        ("admin.emails", "['@example.com']", "is not an e-mail"),
        ("admin.emails", "['user@example.com@example.com']", "is not an e-mail"),
        ("shutdown.pre_drain_seconds", "86401", "at most 86400"),
        ("shutdown.timeout_seconds", "86401", "at most 86400"),
        ("shutdown.streaming_timeout_seconds", "86401", "at most 86400"),
        ("shutdown.token_tracking_timeout_seconds", "86401", "at most 86400"),
        ("logging.level", "info=loud", "is not a level"),
        ("database.url", "mysql://localhost/usage", "must start with"),
        ("database.url", "./usage.db", "must start with"),
        ("database.url", "'sqlite://'", "names no file"),
        ("database.url", "'sqlite://?mode=rwc'", "names no file"),
        ("database.url", "'sqlite://usage.db?mode=ro'", "the only option"),
        ("database.url", "'sqlite://usage.db?mode=memory'", "the only option"),
        ("database.url", "'sqlite://usage.db?cache=shared'", "the only option"),
        ("database.url", "'sqlite://usage.db?mode=rwc&cache=shared'", "the only option"),
        ("database.url", "'sqlite://usage.db?'", "the only option"),
        ("database.url", "'postgres://user:password@host:port/db'", "is not a Postgres"),
        ("database.max_connections", "0", "must be 1 to 1000"),
        ("database.max_connections", "1001", "must be 1 to 1000"),
        ("database.wait_seconds", "3601", "at most 3600"),
        ("database.statement_timeout_seconds", "0", "1 to 600"),
        ("database.statement_timeout_seconds", "601", "1 to 600"),
        ("jwt.access_token_ttl", "0", "must be 1 to 3600"),
        ("jwt.access_token_ttl", "3601", "must be 1 to 3600"),
        ("jwt.issuer", "''", "must not be empty"),
        ("jwt.audience", "''", "must not be empty"),
        ("jwt.previous_secrets", &twice, "the id `a` is used twice"),
        ("jwt.previous_secrets", &current, "holds the current secret"),
        ("secrets.api_key_pepper", SOUND, "must differ from jwt.secret"),
        ("server.max_body_bytes", "0", "must be 1 to 37748736"),
        ("server.max_body_bytes", "37748737", "must be 1 to 37748736"),
        ("server.workers", "1025", "at most 1024"),
        ("server.public_url", "'ftp://proxy.example.com'", "must be http"),
        ("server.public_url", "proxy.example.com", "must be http"),
        ("server.public_url", "'https://proxy.example.com/path'", "must be http"),
        ("server.public_url", "'https://proxy.example.com/?a=b'", "must be http"),
        ("server.public_url", "'https://user@proxy.example.com'", "must be http"),
        ("server.public_url", "''", "must be http"),
        ("server.cors_origins", "['*']", "`*` is not an origin"),
        ("server.cors_origins", "['https://app.example.com/']", "is not an origin"),
        ("server.cors_origins", "[app.example.com]", "is not an origin"),
        ("server.cors_origins", "['null']", "is not an origin"),
        ("server.allowed_hosts", "['']", "is not a host name"),
        ("server.allowed_hosts", "['*.example.com']", "is not a host name"),
        ("server.allowed_hosts", "['https://proxy.example.com']", "is not a host name"),
        ("server.limits.connections", "0", "at least 1"),
        ("server.limits.in_flight_requests", "0", "at least 1"),
        ("server.limits.in_flight_bytes", "10485759", "at least 10485760"),
        ("server.limits.request_line_bytes", "255", "at least 256"),
        ("server.limits.header_bytes", "1023", "at least 1024"),
        ("server.timeouts.head_seconds", "0", "must be 1 to 86400"),
        ("server.timeouts.head_seconds", "86401", "must be 1 to 86400"),
        ("server.timeouts.body_idle_seconds", "0", "must be 1 to 86400"),
        ("server.timeouts.body_total_seconds", "0", "must be 1 to 86400"),
        ("server.timeouts.keep_alive_seconds", "86401", "must be 1 to 86400"),
        ("server.timeouts.write_stall_seconds", "0", "must be 1 to 86400"),
        ("aws.access_key_id", "id", "go together"),
        ("aws.session_token", "token", "needs aws.access_key_id"),
        ("aws.region", "Frankfurt", "is not a region name"),
        ("aws.region", "eu_central_1", "is not a region name"),
        ("aws.region", "'-'", "is not a region name"),
        ("aws.endpoint_url", "'http://vpce.example.com'", "must be https"),
        ("aws.endpoint_url", "vpce.example.com", "must be https"),
        ("aws.endpoint_url", "'https://vpce.example.com/?a=b'", "must be https"),
        ("aws.endpoint_url", "not a url", "must be https"),
        (
            "aws.regions",
            "[{name: eu-west-1, endpoint_url: 'http://vpce.example.com'}]",
            "must be https",
        ),
        (
            "aws.regions",
            "[{name: eu-west-1, endpoint: 'https://vpce.example.com'}]",
            "a region name, or",
        ),
        ("aws.allowed_accounts", "['12345678901']", "is not an account number"),
        ("aws.allowed_accounts", "[12345678901a]", "is not an account number"),
        ("aws.connect_timeout_seconds", "0", "must be 1 to 86400"),
        ("aws.first_byte_timeout_seconds", "86401", "must be 1 to 86400"),
        ("aws.stream_idle_timeout_seconds", "0", "must be 1 to 86400"),
        ("aws.total_timeout_seconds", "86401", "must be 1 to 86400"),
        ("aws.region_prefix_mappings", "{eu_west_1: eu}", "is not a region name"),
        ("aws.region_prefix_mappings", "{eu-west-1: ap}", "`ap` is not a prefix"),
        ("aws.region_prefix_mappings", "{us-gov-west-1: [us-gov, global]}", "out of AWS GovCloud"),
        ("models.inference_profile", "ap", "`ap` is not a prefix"),
        ("models.inference_profile", "[auto, eu]", "`auto` is not a prefix"),
        ("models.inference_profile", "[eu, none]", "`none` is not a prefix"),
        ("models.inference_profile", "[]", "is empty"),
        ("models.inference_profile", "~", "a prefix such as eu"),
        ("metrics.host", "0.0.0.0", "needs metrics.token"),
        ("metrics.port", "3000", "must differ from server.port"),
    ];
    for (key, value, part) in rows {
        let Err(Problems(problems)) = layered(&yaml_of(key, value), &[]) else {
            panic!("{key}: {value} was accepted");
        };
        let named = problems.iter().any(|p| p.key.starts_with(key) && p.message.contains(part));
        assert!(named, "{key}: {value}: {part} is not among {problems:?}");
    }
}

#[test]
fn values_at_the_edge_of_their_range_are_accepted() {
    for (key, value) in [
        ("auth.identity_max_age_seconds", "1"),
        ("auth.identity_max_age_seconds", "60"),
        ("usage.journal_max_bytes", "16777216"),
        ("usage.batch_size", "10000"),
        ("usage.batch_delay_ms", "60000"),
        ("api_keys.default_expiry_days", "365"),
        ("api_keys.max_expiry_days", "36500"),
        ("api_keys.max_expiry_days", "~"),
        ("admin.emails", "['user@example.com']"),
        ("shutdown.timeout_seconds", "86400"),
        ("shutdown.timeout_seconds", "0"),
        ("logging.level", "'info,bedrock_sso_proxy=debug'"),
        ("database.url", "'sqlite://usage.db'"),
        ("database.url", "'sqlite:///var/lib/usage.db?mode=rw'"),
        ("database.url", "'postgresql://user:password@host:5432/db'"),
        ("database.max_connections", "1000"),
        ("database.wait_seconds", "3600"),
        ("database.statement_timeout_seconds", "600"),
        ("jwt.access_token_ttl", "3600"),
        ("server.port", "0"),
        ("server.max_body_bytes", "37748736"),
        ("server.public_url", "'https://proxy.example.com:8443/'"),
        ("server.cors_origins", "['http://localhost:5173']"),
        ("server.allowed_hosts", "['proxy.example.com:8443']"),
        ("server.limits.in_flight_bytes", "10485760"),
        ("server.timeouts.head_seconds", "86400"),
        ("aws.region", "us-gov-west-1"),
        ("aws.regions", "[eu-west-1, {name: us-west-2}]"),
        ("aws.endpoint_url", "'http://localhost:4566'"),
        ("aws.endpoint_url", "'http://127.0.0.1:4566'"),
        ("aws.endpoint_url", "'http://[::1]:4566'"),
        ("aws.allowed_accounts", "['012345678901']"),
        ("aws.total_timeout_seconds", "86400"),
        ("metrics.host", "localhost"),
        ("metrics.host", "'::1'"),
        ("metrics.port", "0"),
    ] {
        if let Err(problems) = layered(&yaml_of(key, value), &[]) {
            panic!("{key}: {value}: {problems}");
        }
    }
}

#[test]
fn settings_that_exclude_each_other_are_named() {
    let keys = "access_key_id: id, secret_access_key: key";
    for (yaml, key, part) in [
        ("server: {tls: {cert: /cert.pem}}".to_owned(), "server.tls", "go together"),
        ("server: {tls: {key: /key.pem}}".to_owned(), "server.tls", "go together"),
        ("aws: {secret_access_key: key}".to_owned(), "aws.access_key_id", "go together"),
        (format!("aws: {{{keys}, bearer_token: t}}"), "aws.bearer_token", "keep one"),
        (format!("aws: {{{keys}, profile: p}}"), "aws.profile", "keep one"),
        ("aws: {bearer_token: t, profile: p}".to_owned(), "aws.profile", "keep one"),
        (
            format!(
                "jwt: {{secret_id: a, previous_secrets: \
                 [{{id: a, secret: {SOUND}1, until: 2027-01-31T00:00:00Z}}]}}"
            ),
            "jwt.previous_secrets",
            "the id `a` is used twice",
        ),
        (
            "aws: {region: us-gov-west-1}\nmodels: {inference_profile: global}".to_owned(),
            "models.inference_profile",
            "out of AWS GovCloud",
        ),
        (
            "server: {max_body_bytes: 20, limits: {in_flight_bytes: 19}}".to_owned(),
            "server.limits.in_flight_bytes",
            "at least 20",
        ),
    ] {
        assert_names(&layered(&yaml, &[]), key, part);
    }
    for yaml in [
        format!("aws: {{{keys}, session_token: t}}"),
        "aws: {bearer_token: t}".to_owned(),
        "aws: {profile: p}".to_owned(),
        "aws: {region: us-gov-west-1}\nmodels: {inference_profile: us-gov}".to_owned(),
        "server: {tls: {cert: /cert.pem, key: /key.pem}}".to_owned(),
        "metrics: {host: 0.0.0.0, token: t}".to_owned(),
        "metrics: {host: 0.0.0.0, allow_anonymous: true}".to_owned(),
        "metrics: {host: 0.0.0.0, port: 3000, enabled: false}".to_owned(),
    ] {
        if let Err(problems) = layered(&yaml, &[]) {
            panic!("{yaml}: {problems}");
        }
    }
}

#[test]
fn a_bad_name_among_the_further_regions_is_found_under_their_key() {
    for value in ["[Dublin]", "[{name: Dublin}]"] {
        let found = layered(&yaml_of("aws.regions", value), &[]);

        assert_names(&found, "aws.regions", "`Dublin` is not a region name");
    }
}

#[test]
fn a_longest_lifetime_of_no_days_is_found_under_its_own_key() {
    let found = layered("api_keys: {default_expiry_days: 0, max_expiry_days: 0}", &[]);

    assert_names(&found, "api_keys.max_expiry_days", "no lifetime");
}

#[test]
fn an_empty_metrics_token_protects_nothing_and_is_refused() {
    // SEC-61: beyond loopback a bearer token is required, and "" is what a client without one gives.
    let found = layered("metrics: {host: 0.0.0.0, token: ''}", &[]);

    assert!(found.is_err());
}

// What a command needs

#[test]
fn the_database_alone_needs_no_secret() {
    let settings = Settings::from_layers(None, std::iter::empty(), Need::Database).unwrap();

    assert!(settings.jwt.secret.is_none());
}

#[test]
fn the_database_alone_still_needs_everything_else_to_be_right() {
    let given = [("BEDROCK_DATABASE__URL", "sqlite://x?mode=ro"), ("BEDROCK_SERVER__PROT", "1")];

    let found = Settings::from_layers(None, environment(&given), Need::Database);

    assert_eq!(names(&found.unwrap_err()), ["server.prot", "database.url"]);
}

#[test]
fn the_service_does_not_start_without_a_jwt_secret() {
    let found = Settings::from_layers(None, std::iter::empty(), Need::Service);

    assert_names(&found, "jwt.secret", "BEDROCK_JWT__SECRET=");
    assert_eq!(found.unwrap_err().to_string().lines().next(), Some("1 problem in the settings:"));
}

#[test]
fn redis_elsewhere_needs_tls_unless_allowed_by_name() {
    let of = |url: &str, more: &[(&str, &str)]| {
        let given = [("BEDROCK_CACHE__BACKEND", "redis"), ("BEDROCK_CACHE__REDIS_URL", url)];
        from_variables(&[&given, more].concat())
    };
    for url in [
        "redis://127.0.0.1",
        "redis://[::1]:7000/2",
        "redis://:pass@localhost",
        "rediss://cache.example.com",
    ] {
        assert!(of(url, &[]).is_ok(), "{url}: {:?}", of(url, &[]));
    }
    let allowed = [("BEDROCK_CACHE__ALLOW_PLAINTEXT", "true")];
    assert!(of("redis://cache.example.com", &allowed).is_ok());
    for (url, part) in [
        ("redis://cache.example.com", "cache.allow_plaintext"),
        ("redis://127.0.0.1.example.com", "cache.allow_plaintext"),
        ("redis://127.0.0.1@cache.example.com", "cache.allow_plaintext"),
        ("rediss://cache.example.com/#insecure", "fragment"),
        ("http://127.0.0.1", "redis://HOST"),
        ("127.0.0.1:6379", "redis://HOST"),
        ("", "is required"),
    ] {
        assert_names(&of(url, &[]), "cache.redis_url", part);
    }
    let secret = of("canary://canary", &[]).unwrap_err().to_string();
    assert!(!secret.contains("canary"), "{secret}");
    assert_names(
        &of("redis://localhost", &[("BEDROCK_CACHE__REDIS_KEY_PREFIX", "a b")]),
        "cache.redis_key_prefix",
        "visible",
    );
}

// What is printed

/// Settings with a canary in every secret; sound as a whole but for the credentials that exclude each other.
fn with_canaries() -> Settings {
    let numbered = |number: usize| format!("{CANARY}{number}");
    let yaml = format!(
        "jwt: {{secret: {}, previous_secrets: [{{id: old, secret: {}, until: 2027-01-31T00:00:00Z}}]}}\n\
         secrets: {{api_key_pepper: {}, previous_api_key_peppers: [{}]}}\n\
         aws: {{access_key_id: {}, secret_access_key: {}, session_token: {}}}\n\
         database: {{url: 'postgres://user:{}@db.example.com/usage'}}\n\
         cache: {{redis_url: 'rediss://user:{}@cache.example.com:6380/1'}}\n\
         metrics: {{token: {}}}",
        numbered(1),
        numbered(2),
        numbered(3),
        numbered(4),
        numbered(5),
        numbered(6),
        numbered(7),
        numbered(8),
        numbered(9),
        numbered(10),
    );
    from_yaml(&yaml).unwrap()
}

#[test]
fn masked_settings_hide_every_secret_and_show_the_rest() {
    let masked = with_canaries().masked;

    let text = serde_yaml::to_string(&masked).unwrap();
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(masked["jwt"]["secret"], MASK);
    assert_eq!(masked["jwt"]["previous_secrets"][0]["secret"], MASK);
    assert_eq!(masked["jwt"]["previous_secrets"][0]["id"], "old");
    assert_eq!(masked["secrets"]["previous_api_key_peppers"][0], MASK);
    assert_eq!(masked["database"]["url"], format!("postgres://user:{MASK}@db.example.com/usage"));
    assert_eq!(
        masked["cache"]["redis_url"],
        format!("rediss://user:{MASK}@cache.example.com:6380/1")
    );
    assert_eq!(masked["aws"]["bearer_token"], Value::Null);
    assert_eq!(masked["server"]["port"], 3000);
}

#[test]
fn a_secret_from_a_file_or_a_variable_is_masked_as_well() {
    let holder = file(CANARY);
    let bearer =
        [("BEDROCK_AWS__BEARER_TOKEN", CANARY), ("BEDROCK_JWT__SECRET_FILE", path_of(&holder))];

    let settings = Settings::from_layers(None, environment(&bearer), Need::Service).unwrap();

    assert_eq!(settings.masked["jwt"]["secret"], MASK);
    assert_eq!(settings.masked["aws"]["bearer_token"], MASK);
    assert!(!settings.masked.to_string().contains("canary"));
}

#[test]
fn the_password_of_a_database_is_masked_wherever_the_url_has_it() {
    for url in [
        format!("postgres://user:{CANARY}@host/db"),
        format!("postgresql://user:%40:{CANARY}@host:5432/db?sslmode=require"),
        format!("postgres://user:{CANARY}@host/db?application_name=a@b"),
        format!("postgres://:{CANARY}@host/db"),
    ] {
        let masked = layered(&yaml_of("database.url", &format!("'{url}'")), &[]).unwrap().masked;

        assert!(!masked.to_string().contains("canary"), "{}", masked["database"]["url"]);
    }
}

#[test]
fn the_password_among_the_parameters_of_a_database_url_is_masked() {
    for url in [
        format!("postgres://host/db?user=user&password={CANARY}"),
        format!("postgres://user@host/db?password={CANARY}"),
    ] {
        let settings = layered(&yaml_of("database.url", &format!("'{url}'")), &[]).unwrap();

        let parsed: tokio_postgres::Config = url.parse().unwrap();
        assert_eq!(parsed.get_password(), Some(CANARY.as_bytes()));
        assert!(!settings.masked.to_string().contains("canary"), "{}", settings.masked["database"]);
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let settings = with_canaries();

    let text = format!("{settings:?}");

    let shown: Vec<&str> = text.split(", ").filter(|part| part.contains("canary")).collect();
    assert_eq!(shown, Vec::<&str>::new());
}

// The file itself

#[test]
fn a_named_file_that_is_missing_is_an_error_that_names_it() {
    let missing = Path::new("/nowhere/config.yaml");

    let found = Settings::from_layers(Some(missing), std::iter::empty(), Need::Service);

    assert_names(&found, "/nowhere/config.yaml", "cannot be read");
}

#[test]
fn a_file_that_is_no_yaml_mapping_is_an_error_that_names_it() {
    for yaml in [
        "server: {port: 1",
        "server:\n\tport: 1",
        "server: port: 1",
        "- a\n- b",
        "just text",
        "a: 1\n---\nb: 2",
        "? [a]\n: b",
    ] {
        let file = file(yaml);

        let found = Settings::from_layers(Some(file.path()), std::iter::empty(), Need::Service);

        assert_names(&found, path_of(&file), "");
        assert_eq!(found.unwrap_err().0.len(), 1, "{yaml}");
    }
}

#[test]
fn a_file_with_a_syntax_error_near_a_secret_does_not_quote_it() {
    for yaml in [
        format!("jwt: {{secret: {CANARY}"),
        format!("jwt:\n  secret: {CANARY}\n bad: 1"),
        format!("jwt:\n  secret: \"{CANARY}"),
        format!("jwt:\n  secret: @{CANARY}"),
    ] {
        let text = from_yaml(&yaml).unwrap_err().to_string();

        assert!(!text.contains("canary"), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_variable_makes_loading_panic_or_quotes_a_secret(
        name in "(SERVER|JWT|AWS|SECRETS|X|)(_|__|___)(SECRET|PORT|TLS__CERT|REGIONS|PREVIOUS_SECRETS|[A-Z_]{0,6})(__X)?",
        text in "\\PC{0,12}|\\[\\PC{0,12}|-?[0-9]{1,25}",
    ) {
        let name = format!("BEDROCK_{name}");
        let found = from_variables(&[(&name, &text), ("BEDROCK_JWT__SECRET__X", CANARY)]);

        let text = found.unwrap_err().to_string();

        prop_assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn no_file_makes_loading_panic(yaml in "(server|jwt|aws|a|)(:|: |\n|)[ \\[{~'\"]?\\PC{0,24}") {
        let _either = from_yaml(&yaml);
    }
}
