//! What the types cannot say: ranges, forms, and settings that exclude each other.

mod sign_in;

use awc::http::Uri;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    Alias, Aws, Cache, CacheBackend, Database, InferenceProfile, Jobs, Jwt, Metrics, Models, Need,
    Prefixes, Problem, Secrets, Server, Settings, is_loopback,
    rules::{Action, BetaRule, FieldRule, Send},
};
use crate::{
    anthropic::models::shipped_id,
    bedrock::model_id::{ModelId, ModelIdError, PREFIXES},
    jobs::schedule::{self, Schedule},
};

const MIB: usize = 1 << 20;

/// Values that stand in documentation; a service that ran with one would be open to everybody.
const SAMPLES: &[&str] = &[
    "change-me-change-me-change-me-change-me",
    "your-secret-key-at-least-32-characters-long",
    "replace-with-the-output-of-openssl-rand-base64-48",
];

/// Collects problems; each check is one line at its call.
struct Check(Vec<Problem>);

impl Check {
    fn that(&mut self, holds: bool, key: &str, message: impl Into<String>) {
        if !holds {
            self.0.push(Problem::new(key, message));
        }
    }
}

/// Every problem of settings whose types are right.
pub(super) fn check(settings: &Settings, need: Need) -> Vec<Problem> {
    let mut check = Check(Vec::new());
    database(&mut check, &settings.database);
    let level = &settings.logging.level;
    // A bare word is a level; the filter would take another one for the name of a module, and log nothing.
    let words = level.split(',').filter(|part| !part.contains(['=', '[']) && !part.contains("::"));
    let levels = words
        .map(str::trim)
        .all(|word| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok());
    let sound = levels && level.parse::<tracing_subscriber::EnvFilter>().is_ok();
    check.that(sound, "logging.level", "is not a level or a list of filter directives");
    if need == Need::Service {
        jwt(&mut check, &settings.jwt);
        secrets(&mut check, &settings.secrets, &settings.jwt);
    }
    server(&mut check, &settings.server);
    sign_in::check(&mut check, settings);
    aws(&mut check, &settings.aws);
    models(&mut check, &settings.models, &settings.aws);
    metrics(&mut check, &settings.metrics, &settings.server);
    let auth = settings.auth.identity_max_age_seconds;
    check.that((1..=60).contains(&auth), "auth.identity_max_age_seconds", "must be 1 to 60");
    let anthropic = &settings.anthropic;
    let hold = anthropic.first_event_hold_seconds;
    check.that(hold <= 3600, "anthropic.first_event_hold_seconds", "must be 0 to 3600");
    let ping = (1..=3600).contains(&anthropic.ping_interval_seconds);
    check.that(ping, "anthropic.ping_interval_seconds", "must be 1 to 3600");
    let learn = settings.models.learn_for_seconds <= 604_800;
    check.that(learn, "models.learn_for_seconds", "must be 0 to 604800 (a week)");
    rules(&mut check, &settings.models);
    let usage = &settings.usage;
    let journal = usage.journal_max_bytes >= 16 << 20;
    check.that(journal, "usage.journal_max_bytes", "must be at least 16777216 (16 MiB)");
    check.that((1..=10_000).contains(&usage.batch_size), "usage.batch_size", "must be 1 to 10000");
    let delay = (1..=60_000).contains(&usage.batch_delay_ms);
    check.that(delay, "usage.batch_delay_ms", "must be 1 to 60000");
    cache(&mut check, &settings.cache);
    let cache = &settings.cache;
    check.that(
        (1..=10_000_000).contains(&cache.max_entries),
        "cache.max_entries",
        "must be 1 to 10000000",
    );
    check.that(
        (1..=86_400).contains(&cache.cleanup_interval),
        "cache.cleanup_interval",
        "must be 1 to 86400 seconds",
    );
    check.that(
        (1..=86_400).contains(&cache.validation_ttl),
        "cache.validation_ttl",
        "must be 1 to 86400 seconds",
    );
    let keys = &settings.api_keys;
    for (key, days) in [
        ("api_keys.default_expiry_days", keys.default_expiry_days),
        ("api_keys.max_expiry_days", keys.max_expiry_days),
    ] {
        let message = "0 days is no lifetime; leave it empty for keys without an end";
        check.that(days != Some(0), key, message);
    }
    if let Some(most) = keys.max_expiry_days {
        let within = keys.default_expiry_days.is_some_and(|days| days <= most);
        check.that(within, "api_keys.default_expiry_days", "is more than api_keys.max_expiry_days");
    }
    let longest = 36_500; // a century: dates stay within what both databases hold
    let sane =
        [keys.default_expiry_days, keys.max_expiry_days].iter().flatten().all(|d| *d <= longest);
    check.that(sane, "api_keys.max_expiry_days", format!("must be at most {longest}"));
    jobs(&mut check, &settings.jobs);
    let shutdown = &settings.shutdown;
    for (key, value) in [
        ("shutdown.pre_drain_seconds", shutdown.pre_drain_seconds),
        ("shutdown.timeout_seconds", shutdown.timeout_seconds),
        ("shutdown.streaming_timeout_seconds", shutdown.streaming_timeout_seconds),
        ("shutdown.token_tracking_timeout_seconds", shutdown.token_tracking_timeout_seconds),
        ("shutdown.background_task_timeout_seconds", shutdown.background_task_timeout_seconds),
    ] {
        check.that(value <= 86_400, key, "must be at most 86400 (a day)");
    }
    check.0
}

fn jobs(check: &mut Check, jobs: &Jobs) {
    let zone = schedule::zone(&jobs.timezone);
    let wrong = zone.as_ref().err().map(ToString::to_string);
    check.that(wrong.is_none(), "jobs.timezone", wrong.unwrap_or_default());
    for (key, text) in [
        ("jobs.usage_summaries.schedule", &jobs.usage_summaries.schedule),
        ("jobs.usage_cleanup.schedule", &jobs.usage_cleanup.schedule),
        ("jobs.price_check.schedule", &jobs.price_check.schedule),
        ("jobs.audit_retention.schedule", &jobs.audit_retention.schedule),
    ] {
        match Schedule::new(text, zone.clone().unwrap_or_default()) {
            Ok(schedule) => {
                let comes = schedule.next_after(chrono::Utc::now().naive_utc()).is_some();
                check.that(comes, key, "is a time that never comes");
            }
            Err(wrong) => check.that(false, key, wrong.to_string()),
        }
    }
    let kept = &jobs.usage_cleanup.summaries_retention_days;
    for (key, days) in [
        ("jobs.usage_cleanup.raw_records_days", jobs.usage_cleanup.raw_records_days),
        ("jobs.usage_cleanup.summaries_retention_days.hourly", kept.hourly),
        ("jobs.usage_cleanup.summaries_retention_days.daily", kept.daily),
        ("jobs.usage_cleanup.summaries_retention_days.weekly", kept.weekly),
        ("jobs.usage_cleanup.summaries_retention_days.monthly", kept.monthly),
    ] {
        check.that((1..=36_500).contains(&days), key, "must be 1 to 36500 days");
    }
}

/// Rows of the tables that could do nothing but harm.
fn rules(check: &mut Check, models: &Models) {
    const OURS: &[&str] =
        &["anthropic_beta", "anthropic_version", "max_tokens", "messages", "model", "stream"];
    for (path, rule) in &models.fields {
        let (path, key) = (path.to_string(), format!("models.fields.{path}"));
        let ours = !OURS.contains(&path.as_str());
        check.that(ours, &key, "is a member that every request needs, or that is set here");
        let empty =
            matches!(rule, Some(FieldRule { action: Action::Lift(names), .. }) if names.is_empty());
        check.that(!empty, &key, "lifts nothing; name the members");
    }
    for (flag, rule) in &models.betas {
        let key = format!("models.betas.{}", flag.as_str());
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
        };
        check.that(plain(flag.as_str()), &key, "is not a flag");
        let Some(BetaRule { send: Send::As(name), .. }) = rule else { continue };
        let renamed = |name: &str| {
            let row = models.betas.iter().find(|(flag, _)| flag.as_str() == name);
            matches!(row, Some((_, Some(BetaRule { send: Send::As(_), .. }))))
        };
        check.that(plain(name), &key, format!("sends `{name}`, which is not a flag"));
        check.that(!renamed(name), &key, format!("sends `{name}`, which has another name itself"));
    }
}

/// What is wrong with the files and names outside that the settings point to; they can change between two looks.
pub fn surroundings(settings: &Settings) -> Vec<Problem> {
    let mut check = Check(Vec::new());
    let server = &settings.server;
    if let Some((cert, key)) = server.tls.cert.as_ref().zip(server.tls.key.as_ref())
        && let Err(message) = crate::tls::server(cert, key)
    {
        check.that(false, "server.tls", message);
    }
    let address = super::listen_address(&server.host, server.port);
    check.that(address.is_ok(), "server.host", "is not an address, nor a name that has one");
    if let Some(path) = &settings.aws.ca_file
        && let Err(message) = crate::tls::roots(Some(path))
    {
        check.that(false, "aws.ca_file", message);
    }
    check.0
}

fn database(check: &mut Check, database: &Database) {
    let url = database.url.expose_secret();
    let known = ["sqlite://", "postgres://", "postgresql://"].iter().any(|s| url.starts_with(s));
    check.that(known, "database.url", "must start with sqlite:// or postgres://");
    if let Some(rest) = url.strip_prefix("sqlite://") {
        let (path, query) = rest.split_once('?').unwrap_or((rest, "mode=rwc"));
        check.that(
            !path.is_empty(),
            "database.url",
            "names no file: sqlite://./data/bedrock_sso.db",
        );
        let mode = matches!(query, "mode=rwc" | "mode=rw");
        check.that(mode, "database.url", "the only option of SQLite is ?mode=rwc or ?mode=rw");
    } else if known {
        let parsed = url.parse::<tokio_postgres::Config>();
        check.that(parsed.is_ok(), "database.url", "is not a Postgres connection URL");
    }
    let connections = (1..=1000).contains(&database.max_connections);
    check.that(connections, "database.max_connections", "must be 1 to 1000");
    check.that(
        (1..=600).contains(&database.statement_timeout_seconds),
        "database.statement_timeout_seconds",
        "must be 1 to 600",
    );
    check.that(database.wait_seconds <= 3600, "database.wait_seconds", "must be at most 3600");
}

/// Redis is reached with TLS, unless it is this machine or somebody said otherwise by name (SEC-88).
fn cache(check: &mut Check, cache: &Cache) {
    const URL: &str = "cache.redis_url";
    let prefix = cache.redis_key_prefix.as_str();
    let plain =
        (1..=64).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_graphic());
    check.that(plain, "cache.redis_key_prefix", "must be 1 to 64 visible ASCII characters");
    let url =
        cache.redis_url.as_ref().map(ExposeSecret::expose_secret).filter(|url| !url.is_empty());
    let Some(url) = url else {
        let missing = cache.backend == CacheBackend::Redis;
        check.that(!missing, URL, "is required for cache.backend redis");
        return;
    };
    // The message never quotes it.
    let Some(parsed) =
        Url::parse(url).ok().filter(|url| matches!(url.scheme(), "redis" | "rediss"))
    else {
        return check.that(
            false,
            URL,
            "must be redis://HOST or rediss://HOST, with %-signs for special characters",
        );
    };
    let host = parsed.host_str().unwrap_or_default();
    check.that(!host.is_empty(), URL, "names no host");
    let verified = parsed.scheme() == "redis" || parsed.fragment().is_none();
    check.that(
        verified,
        URL,
        "must not end in a fragment: #insecure would switch off the check of certificates",
    );
    let covered = parsed.scheme() == "rediss" || is_loopback(host) || cache.allow_plaintext;
    check.that(covered, URL, "is not encrypted: use rediss://, or set cache.allow_plaintext");
}

/// SEC-17: a secret that could be guessed stops the start; the message never quotes it.
fn secret(check: &mut Check, key: &str, secret: &SecretString) {
    let text = secret.expose_secret();
    let bytes = text.as_bytes();
    check.that(bytes.len() >= 32, key, "is shorter than 32 bytes: openssl rand -base64 48");
    let sample = SAMPLES.contains(&text) || text.to_ascii_lowercase().starts_with("change-me");
    check.that(!sample, key, "is a sample value; make your own: openssl rand -base64 48");
    let varied = bytes.iter().any(|byte| Some(byte) != bytes.first());
    check.that(varied, key, "is one character repeated: openssl rand -base64 48");
}

fn jwt(check: &mut Check, jwt: &Jwt) {
    match &jwt.secret {
        Some(given) => secret(check, "jwt.secret", given),
        None => check.that(
            false,
            "jwt.secret",
            "is required, at least 32 bytes: BEDROCK_JWT__SECRET=$(openssl rand -base64 48)",
        ),
    }
    let ttl = (1..=3600).contains(&jwt.access_token_ttl);
    check.that(ttl, "jwt.access_token_ttl", "must be 1 to 3600 seconds");
    let family = (60..=31_536_000).contains(&jwt.refresh_token_ttl);
    check.that(family, "jwt.refresh_token_ttl", "must be 60 to 31536000 seconds (a year)");
    let idle = (60..=jwt.refresh_token_ttl).contains(&jwt.refresh_idle_seconds);
    check.that(idle, "jwt.refresh_idle_seconds", "must be 60 seconds to jwt.refresh_token_ttl");
    let retry = jwt.refresh_retry_seconds <= 10;
    check.that(retry, "jwt.refresh_retry_seconds", "must be 0 to 10 seconds");
    check.that(!jwt.issuer.is_empty(), "jwt.issuer", "must not be empty");
    check.that(!jwt.audience.is_empty(), "jwt.audience", "must not be empty");
    let mut ids: Vec<&str> = jwt.secret_id.iter().map(String::as_str).collect();
    for previous in &jwt.previous_secrets {
        secret(check, "jwt.previous_secrets", &previous.secret);
        if let Some(id) = &previous.id {
            let new = !ids.contains(&id.as_str());
            check.that(new, "jwt.previous_secrets", format!("the id `{id}` is used twice"));
            ids.push(id);
        }
        let same = jwt.secret.as_ref().map(SecretString::expose_secret)
            == Some(previous.secret.expose_secret());
        check.that(!same, "jwt.previous_secrets", "holds the current secret too");
    }
}

fn secrets(check: &mut Check, secrets: &Secrets, jwt: &Jwt) {
    if let Some(pepper) = &secrets.api_key_pepper {
        secret(check, "secrets.api_key_pepper", pepper);
        let same =
            jwt.secret.as_ref().map(SecretString::expose_secret) == Some(pepper.expose_secret());
        check.that(!same, "secrets.api_key_pepper", "must differ from jwt.secret");
    }
    if let Some(key) = &secrets.encryption_key {
        secret(check, "secrets.encryption_key", key);
        let jwt = jwt.secret.as_ref().map(SecretString::expose_secret);
        let pepper = secrets.api_key_pepper.as_ref().map(SecretString::expose_secret);
        let own = jwt != Some(key.expose_secret()) && pepper != Some(key.expose_secret());
        let message = "must differ from jwt.secret and secrets.api_key_pepper";
        check.that(own, "secrets.encryption_key", message);
    }
    for pepper in &secrets.previous_api_key_peppers {
        secret(check, "secrets.previous_api_key_peppers", pepper);
    }
    for key in &secrets.previous_encryption_keys {
        secret(check, "secrets.previous_encryption_keys", key);
    }
}

fn server(check: &mut Check, server: &Server) {
    let body = (1..=36 * MIB).contains(&server.max_body_bytes);
    check.that(body, "server.max_body_bytes", "must be 1 to 37748736 (36 MiB)");
    check.that(server.workers <= 1024, "server.workers", "must be at most 1024");
    let both = server.tls.cert.is_some() == server.tls.key.is_some();
    check.that(both, "server.tls", "cert and key go together");
    if let Some(url) = &server.public_url {
        check.that(origin(url).is_some(), "server.public_url", "must be http(s)://host[:port]");
    }
    for written in &server.cors_origins {
        let exact = origin(written).is_some_and(|origin| origin == *written);
        let message = format!("`{written}` is not an origin such as https://app.example.com");
        check.that(exact, "server.cors_origins", message);
    }
    for host in &server.allowed_hosts {
        let plain = !host.is_empty() && !host.contains(['/', '*', '@', ' ']);
        let message = format!("`{host}` is not a host name with an optional port");
        check.that(plain, "server.allowed_hosts", message);
    }
    let limits = &server.limits;
    for (key, value, least) in [
        ("server.limits.connections", limits.connections, 1),
        ("server.limits.in_flight_requests", limits.in_flight_requests, 1),
        ("server.limits.in_flight_bytes", limits.in_flight_bytes, server.max_body_bytes),
        ("server.limits.request_line_bytes", limits.request_line_bytes, 256),
        ("server.limits.header_bytes", limits.header_bytes, 1024),
    ] {
        check.that(value >= least, key, format!("must be at least {least}"));
    }
    let times = &server.timeouts;
    for (key, value) in [
        ("server.timeouts.head_seconds", times.head_seconds),
        ("server.timeouts.body_idle_seconds", times.body_idle_seconds),
        ("server.timeouts.body_total_seconds", times.body_total_seconds),
        ("server.timeouts.keep_alive_seconds", times.keep_alive_seconds),
        ("server.timeouts.write_stall_seconds", times.write_stall_seconds),
    ] {
        check.that((1..=86_400).contains(&value), key, "must be 1 to 86400 seconds");
    }
}

fn aws(check: &mut Check, aws: &Aws) {
    let keys = aws.access_key_id.is_some();
    let pair = keys == aws.secret_access_key.is_some();
    check.that(
        pair,
        "aws.access_key_id",
        "aws.access_key_id and aws.secret_access_key go together",
    );
    let token = aws.session_token.is_none() || keys;
    check.that(token, "aws.session_token", "needs aws.access_key_id and aws.secret_access_key");
    let sources = usize::from(keys) + usize::from(aws.bearer_token.is_some());
    check.that(sources <= 1, "aws.bearer_token", "set together with aws.access_key_id; keep one");
    let single = !(sources == 1 && aws.profile.is_some());
    check.that(single, "aws.profile", "set together with explicit credentials; keep one");
    let regions = aws.regions.iter().map(|region| ("aws.regions", &region.name));
    for (key, name) in aws.region.iter().map(|name| ("aws.region", name)).chain(regions) {
        let message = format!("`{name}` is not a region name such as eu-central-1");
        check.that(is_region(name), key, message);
    }
    for (region, Prefixes(mapped)) in &aws.region_prefix_mappings {
        let key = format!("aws.region_prefix_mappings.{region}");
        check.that(is_region(region), &key, "is not a region name such as eu-central-1");
        prefixes(check, &key, mapped, Some(region));
    }
    let endpoints = aws.endpoint_url.iter().map(|url| ("aws.endpoint_url", url));
    let further = aws.regions.iter().filter_map(|region| region.endpoint_url.as_ref());
    for (key, url) in endpoints.chain(further.map(|url| ("aws.regions", url))) {
        let parsed = url.parse::<Uri>().ok().filter(is_plain_endpoint);
        let host = parsed.as_ref().and_then(Uri::host).unwrap_or_default();
        let scheme = parsed.as_ref().and_then(Uri::scheme_str).unwrap_or_default();
        check.that(
            scheme == "https" || (scheme == "http" && is_loopback(host)),
            key,
            "must be https://host[:port], without a path, user or password (plain http only to this machine)",
        );
    }
    for account in &aws.allowed_accounts {
        let digits = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let message = format!("`{account}` is not an account number of 12 digits");
        check.that(digits, "aws.allowed_accounts", message);
    }
    for (key, value) in [
        ("aws.connect_timeout_seconds", aws.connect_timeout_seconds),
        ("aws.first_byte_timeout_seconds", aws.first_byte_timeout_seconds),
        ("aws.stream_idle_timeout_seconds", aws.stream_idle_timeout_seconds),
        ("aws.total_timeout_seconds", aws.total_timeout_seconds),
    ] {
        check.that((1..=86_400).contains(&value), key, "must be 1 to 86400 seconds");
    }
}

/// `region` is the one they are meant for, if that is known.
fn prefixes(check: &mut Check, key: &str, prefixes: &[String], region: Option<&str>) {
    for prefix in prefixes {
        let message = format!(
            "`{prefix}` is not a prefix of inference profiles; they are {}",
            PREFIXES.join(", ")
        );
        check.that(PREFIXES.contains(&prefix.as_str()), key, message);
        let leaves = prefix == "global" && region.is_some_and(|name| name.starts_with("us-gov-"));
        check.that(!leaves, key, "`global` leads out of AWS GovCloud; use us-gov");
    }
}

fn models(check: &mut Check, models: &Models, aws: &Aws) {
    if let InferenceProfile::Prefixes(chosen) = &models.inference_profile {
        let key = "models.inference_profile";
        check.that(!chosen.is_empty(), key, "is empty; `none` calls models without a profile");
        prefixes(check, key, chosen, aws.region.as_deref());
    }
    for (name, alias) in &models.aliases {
        let key = format!("models.aliases.{name}");
        let sound = (1..=256).contains(&name.len()) && !name.chars().any(char::is_control);
        check.that(sound, &key, "a name has 1 to 256 bytes and no control characters");
        target(check, &key, alias);
        if let Some(region) = &alias.region {
            let message = format!("`{region}` is not a region name such as eu-central-1");
            check.that(is_region(region), &key, message);
            // Unset, aws.region comes from the environment and may be this one.
            let known = aws.region.as_ref().is_none_or(|own| own == region)
                || aws.regions.iter().any(|further| further.name == *region);
            let message = format!("`{region}` is neither aws.region nor among aws.regions");
            check.that(known, &key, message);
        }
        // Calls to an ARN are billed by the ARN, whichever name led to it.
        let others = models.aliases.values().filter(|other| other.model == alias.model);
        let bases = || others.clone().filter_map(|other| other.base_model.as_ref());
        let one = bases().zip(bases().skip(1)).all(|(one, other)| one == other);
        check.that(one, &key, "another alias gives the same model another base_model");
    }
}

/// What an alias leads to, and what that runs.
fn target(check: &mut Check, key: &str, alias: &Alias) {
    let Alias { model, region, base_model } = alias;
    match ModelId::parse_anywhere(model) {
        Err(ModelIdError::Empty) => check.that(false, key, "names no model"),
        Err(error) => check.that(false, key, error.to_string()),
        Ok(id) => {
            let same =
                region.is_none() || id.region().is_none() || id.region() == region.as_deref();
            check.that(same, key, "`region` is another than the one in the ARN");
        }
    }
    if let Some(id) = shipped_id(model) {
        let message = format!("`{model}` is a name that is resolved already; Bedrock's id is {id}");
        check.that(false, key, message);
    }
    if let Some(base) = base_model {
        let id = !base.starts_with("arn:")
            && base.contains('.')
            && ModelId::parse_anywhere(base).is_ok();
        let message = format!(
            "the base_model `{base}` is not an id such as anthropic.claude-3-haiku-20240307-v1:0"
        );
        check.that(id, key, message);
    }
}

fn metrics(check: &mut Check, metrics: &Metrics, server: &Server) {
    if !metrics.enabled {
        return;
    }
    let empty = metrics.token.as_ref().is_some_and(|token| token.expose_secret().is_empty());
    check.that(!empty, "metrics.token", "must not be empty");
    check.that(
        metrics.is_loopback() || metrics.token.is_some() || metrics.allow_anonymous,
        "metrics.host",
        "an address other than loopback needs metrics.token, or metrics.allow_anonymous: true",
    );
    check.that(
        metrics.port == 0 || metrics.port != server.port,
        "metrics.port",
        "must differ from server.port",
    );
}

/// A URL of a scheme, a host and perhaps a port.
fn is_plain_endpoint(uri: &Uri) -> bool {
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    uri.path() == "/" && uri.query().is_none() && !user
}

/// A region's name: lower-case letters, digits and dashes.
pub fn is_region(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (4..=32).contains(&name.len()) && name.contains('-') && name.bytes().all(allowed)
}

/// `scheme://host[:port]` of an http or https URL without a path.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    (uri.path() == "/" && uri.query().is_none()).then(|| format!("{scheme}://{authority}"))
}
