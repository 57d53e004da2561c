//! Typed settings, one struct a section. `settings/default.yaml` documents every key and its default;
//! [`load`] merges defaults, file and environment, and [`check`] finds what cannot work together.

mod changes;
mod check;
mod load;
pub mod oauth;
pub mod rules;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

use crate::db::period::Period;

pub use changes::Fingerprints;
pub use check::surroundings;
pub use load::{Need, Problem, Problems};

/// The provider of people whom an operator made.
pub const LOCAL_PROVIDER: &str = "local";

/// The effective settings of one process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub server: Server,
    pub jwt: Jwt,
    pub secrets: Secrets,
    pub oauth: oauth::OAuth,
    pub auth: Auth,
    pub api_keys: ApiKeys,
    pub admin: Admin,
    pub audit: Audit,
    pub rate_limits: RateLimits,
    pub aws: Aws,
    pub anthropic: Anthropic,
    pub models: Models,
    pub usage: Usage,
    pub cache: Cache,
    pub database: Database,
    pub jobs: Jobs,
    pub logging: Logging,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    /// What was merged, with secrets masked: the answer of `settings show`.
    #[serde(skip)]
    pub masked: serde_json::Value,
    /// What was merged, to be compared with what is read later.
    #[serde(skip)]
    pub fingerprints: Fingerprints,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub host: String,
    pub port: u16,
    /// Others may listen on the same address.
    pub reuse_port: bool,
    pub public_url: Option<String>,
    /// HTTP worker threads; 0 = one per core.
    pub workers: usize,
    pub max_body_bytes: usize,
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    pub forwarded_header: ForwardedHeader,
    pub allowed_hosts: Vec<String>,
    pub cors_origins: Vec<String>,
    pub docs: bool,
    pub tls: Tls,
    pub limits: Limits,
    pub timeouts: Timeouts,
}

/// Where trusted proxies name the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl ForwardedHeader {
    pub fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub connections: usize,
    pub in_flight_requests: usize,
    pub in_flight_bytes: usize,
    pub request_line_bytes: usize,
    pub header_bytes: usize,
}

/// All in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    pub head_seconds: u64,
    pub body_idle_seconds: u64,
    pub body_total_seconds: u64,
    pub keep_alive_seconds: u64,
    pub write_stall_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    pub secret: Option<SecretString>,
    pub secret_id: Option<String>,
    pub previous_secrets: Vec<PreviousSecret>,
    pub issuer: String,
    pub audience: String,
    /// Seconds; at most 3600.
    pub access_token_ttl: u32,
    /// Seconds from sign-in.
    pub refresh_token_ttl: u32,
    pub refresh_idle_seconds: u32,
    /// At most 10.
    pub refresh_retry_seconds: u32,
}

/// A secret that verifies tokens until a date, and signs none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousSecret {
    /// What `jwt.secret_id` was; `None` = it was not set.
    pub id: Option<String>,
    pub secret: SecretString,
    pub until: DateTime<Utc>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub api_key_pepper: Option<SecretString>,
    pub previous_api_key_peppers: Vec<SecretString>,
    pub encryption_key: Option<SecretString>,
    pub previous_encryption_keys: Vec<SecretString>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub allowed_email_domains: Vec<String>,
    pub session_idle_seconds: u32,
    pub session_max_seconds: u32,
    /// 0 = never.
    pub recheck_seconds: u32,
    /// Seconds a cached identity serves while the database is away; at most 60.
    pub identity_max_age_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeys {
    pub enabled: bool,
    pub default_expiry_days: Option<u32>,
    pub max_expiry_days: Option<u32>,
    pub max_keys_per_user: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub emails: Vec<String>,
    pub providers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub retention_days: u32,
}

/// 0 = no limit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    pub inference_per_minute_per_user: u32,
    pub inference_per_minute_per_key: u32,
    pub sign_in_starts_per_minute: u32,
    pub callbacks_per_minute: u32,
    pub refreshes_per_minute: u32,
    pub failed_credentials_per_minute: u32,
    pub key_creations_per_hour: u32,
    pub admin_writes_per_minute: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aws {
    pub region: Option<String>,
    pub regions: Vec<FurtherRegion>,
    /// Region to the prefixes of its inference profiles, in the place of the built-in table.
    #[serde(deserialize_with = "open_map")]
    pub region_prefix_mappings: BTreeMap<String, Prefixes>,
    pub access_key_id: Option<SecretString>,
    pub secret_access_key: Option<SecretString>,
    pub session_token: Option<SecretString>,
    pub profile: Option<String>,
    pub bearer_token: Option<SecretString>,
    pub endpoint_url: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub allowed_accounts: Vec<String>,
    pub connect_timeout_seconds: u64,
    pub first_byte_timeout_seconds: u64,
    pub stream_idle_timeout_seconds: u64,
    pub total_timeout_seconds: u64,
}

/// A region besides `aws.region`: a name, or `{name, endpoint_url}`.
#[derive(Debug, Clone, PartialEq)]
pub struct FurtherRegion {
    pub name: String,
    pub endpoint_url: Option<String>,
}

/// How the Messages API is served.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anthropic {
    pub first_event_hold_seconds: u64,
    pub ping_interval_seconds: u64,
    pub strip_attribution_block: bool,
}

/// Which models there are, how their names are read, and what they take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    #[serde(deserialize_with = "open_map")]
    pub aliases: BTreeMap<String, Alias>,
    pub inference_profile: InferenceProfile,
    pub learn_for_seconds: u64,
    pub old_version: Vec<rules::Glob>,
    pub essential: Vec<rules::FieldPath>,
    #[serde(deserialize_with = "open_map")]
    pub betas: rules::BetaRules,
    #[serde(deserialize_with = "open_map")]
    pub fields: rules::FieldRules,
}

/// Where an operator's own name leads: a Bedrock id or ARN, or `{model, region, base_model}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    pub model: String,
    /// The region to call it in; `None` = the ARN's, or `aws.region`.
    pub region: Option<String>,
    /// What an opaque ARN runs.
    pub base_model: Option<String>,
}

/// Which inference profile a name gets that leads to no profile by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InferenceProfile {
    /// By the region.
    Auto,
    /// The foundation model itself.
    None,
    /// The first of these that the model has.
    Prefixes(Vec<String>),
}

/// Prefixes of inference profiles in the order they are tried: a list, or one text with commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes(pub Vec<String>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    pub journal_dir: Option<PathBuf>,
    pub journal_max_bytes: u64,
    pub fsync: Fsync,
    pub on_full: OnFull,
    pub on_disconnect: OnDisconnect,
    pub batch_size: usize,
    pub batch_delay_ms: u64,
}

/// When journal records reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Every 200 ms; a killed process loses nothing, a power cut up to 200 ms.
    Interval,
    /// Before a call goes on, for up to 2 ms of calls at once.
    Always,
}

/// What a call gets when the journal cannot take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    Strict,
    BestEffort,
}

/// What happens upstream when the client of a stream leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    Cancel,
    Drain,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub backend: CacheBackend,
    /// Holds a password, hence secret.
    pub redis_url: Option<SecretString>,
    /// What every key in Redis begins with.
    pub redis_key_prefix: String,
    /// Redis without TLS on a host that is not this machine.
    pub allow_plaintext: bool,
    /// Seconds a verified credential is kept, never beyond its own end.
    pub validation_ttl: u64,
    pub max_entries: u64,
    /// Seconds between clean-ups.
    pub cleanup_interval: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheBackend {
    Memory,
    Redis,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub enabled: bool,
    /// Holds a password for Postgres, hence secret.
    pub url: SecretString,
    pub max_connections: usize,
    pub statement_timeout_seconds: u64,
    pub migration_on_startup: bool,
    pub wait_seconds: u64,
    pub allow_plaintext: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    pub enabled: bool,
    /// Of the schedules.
    pub timezone: String,
    pub usage_summaries: UsageSummaries,
    pub usage_cleanup: UsageCleanup,
    pub price_check: Scheduled,
    pub audit_retention: Scheduled,
}

/// A job with nothing to say but when.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduled {
    pub schedule: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageSummaries {
    pub schedule: String,
    periods: Vec<PeriodName>,
}

impl UsageSummaries {
    pub fn periods(&self) -> Vec<Period> {
        self.periods.iter().map(|PeriodName(period)| *period).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct PeriodName(Period);

impl<'de> Deserialize<'de> for PeriodName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

/// Days that each level of usage is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageCleanup {
    pub schedule: String,
    pub raw_records_days: u32,
    pub summaries_retention_days: SummariesRetentionDays,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SummariesRetentionDays {
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    pub level: String,
    pub format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub enabled: bool,
    pub host: String,
    pub port: u16,
    pub token: Option<SecretString>,
    pub allow_anonymous: bool,
}

/// Grace periods after SIGTERM, in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    pub pre_drain_seconds: u64,
    pub timeout_seconds: u64,
    pub streaming_timeout_seconds: u64,
    pub token_tracking_timeout_seconds: u64,
    pub background_task_timeout_seconds: u64,
}

impl Server {
    /// `server.public_url` or `http://localhost:PORT`, without a trailing slash.
    pub fn public_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if self.tls.cert.is_some() => format!("https://localhost:{}", self.port),
            None => format!("http://localhost:{}", self.port),
        }
    }

    /// HTTP worker threads.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}

impl Timeouts {
    pub fn head(&self) -> Duration {
        Duration::from_secs(self.head_seconds)
    }
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_seconds)
    }
}

impl Shutdown {
    pub fn calls(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
    pub fn streams(&self) -> Duration {
        Duration::from_secs(self.streaming_timeout_seconds)
    }
    pub fn usage_rows(&self) -> Duration {
        Duration::from_secs(self.token_tracking_timeout_seconds)
    }
    pub fn jobs(&self) -> Duration {
        Duration::from_secs(self.background_task_timeout_seconds)
    }
}

impl Usage {
    /// `usage.journal_dir`, else `journal` beside the SQLite file, else `./data/journal`.
    pub fn journal_dir(&self, database: &Database) -> PathBuf {
        self.journal_dir.clone().unwrap_or_else(|| match database.sqlite_path() {
            Some(file) => file.parent().unwrap_or(&file).join("journal"),
            None => PathBuf::from("./data/journal"),
        })
    }
}

impl Metrics {
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Whether a host as written in a setting names this machine: `localhost` or a loopback address.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl<'de> Deserialize<'de> for FurtherRegion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a region name, or {name, endpoint_url}")]
        enum Written {
            Name(String),
            Full(Full),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            name: String,
            endpoint_url: Option<String>,
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Name(name) => Self { name, endpoint_url: None },
            Written::Full(Full { name, endpoint_url }) => Self { name, endpoint_url },
        })
    }
}

impl<'de> Deserialize<'de> for Alias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            model: String,
            region: Option<String>,
            base_model: Option<String>,
        }
        // By way of a value rather than an untagged enum, whose error would not say which member is wrong.
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(model) => Ok(Self { model, region: None, base_model: None }),
            full @ serde_json::Value::Object(_) => {
                let Full { model, region, base_model } =
                    Full::deserialize(full).map_err(de::Error::custom)?;
                Ok(Self { model, region, base_model })
            }
            _ => {
                Err(de::Error::custom("wants a Bedrock id or ARN, or {model, region, base_model}"))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a prefix such as eu, or a list of them")]
        enum Written {
            Text(String),
            List(Vec<String>),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::List(list) => list,
            // A variable gives text, also where it spells a list as YAML does.
            Written::Text(text) => {
                let text = text.trim();
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let words = inner.unwrap_or(text).split(',').map(str::trim);
                words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
            }
        }))
    }
}

impl<'de> Deserialize<'de> for InferenceProfile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Prefixes(words) = Prefixes::deserialize(deserializer)?;
        Ok(match words.as_slice() {
            [word] if word == "auto" => Self::Auto,
            [word] if word == "none" => Self::None,
            _ => Self::Prefixes(words),
        })
    }
}

/// A map whose members are the operator's. `~` is the empty one: YAML reads a key whose members are all commented
/// out as that.
fn open_map<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Networks as CIDR, or single addresses.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let written = Vec::<String>::deserialize(deserializer)?;
    written
        .iter()
        .map(|text| {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
                .map_err(|_| {
                    de::Error::custom(format!(
                        "`{text}` is not an address or network (10.0.0.0/8; 0.0.0.0/0 and ::/0 for all)"
                    ))
                })
        })
        .collect()
}

/// Where `server.host` and `server.port` listen.
pub fn listen_address(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, port).to_socket_addrs()?.next().ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::NotFound, format!("`{host}` has no address"))
    })
}
