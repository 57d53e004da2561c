//! Logs and metrics. Logs never hold bodies, header values or credentials; metrics have bounded labels.

mod gen_ai;
mod process;
mod redact;

use std::io::{self, IsTerminal, Write};

use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry as Subscriber, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

pub use redact::looks_secret;

use crate::{
    db::usage::NewUsage,
    settings::{LogFormat, Logging},
};

/// Log lines that may wait for a slow reader; further ones are dropped and counted.
const LINES: usize = 16_384;

/// Keeps the log's writer alive; dropped at the end of `main`, it writes out what waits.
pub struct LogGuard {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
    level: Level,
}

impl LogGuard {
    /// Counts the lines that were dropped because whoever reads the log did not.
    pub fn counter(&self) -> ErrorCounter {
        self.dropped.clone()
    }

    /// What changes the level of the log.
    pub fn level(&self) -> Level {
        self.level.clone()
    }
}

/// The level of the log, to be changed while the service runs. The default is that of no log, and changes nothing.
#[derive(Clone, Default)]
pub struct Level(Option<reload::Handle<EnvFilter, Subscriber>>);

impl Level {
    /// # Errors
    /// That `level` is no filter.
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        if let Some(handle) = &self.0 {
            handle.reload(filter(level)?)?;
        }
        Ok(())
    }
}

/// A stream that is cut ends in an error on purpose, which the server would log as its own failure; the HTTP metrics
/// warn, for each request, that a pattern such as `{model_id:.*}` stays as it is.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    Ok(format!("actix_http::h1=off,actix_web_prom=error,{level}").parse()?)
}

/// An error with its causes, in a line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// Starts logging to standard output. A second call in one process changes nothing.
///
/// # Errors
/// That `logging.level` is no filter.
pub fn init(settings: &Logging) -> anyhow::Result<LogGuard> {
    start(settings, io::stdout())
}

/// For a command that changes something: it logs to standard error, as its answer is on standard output, unless that is a
/// terminal, where somebody reads the answer.
///
/// # Errors
/// As [`init`].
pub fn init_command(settings: &Logging) -> anyhow::Result<Option<LogGuard>> {
    let error = io::stderr();
    if error.is_terminal() { Ok(None) } else { start(settings, error).map(Some) }
}

fn start<W>(settings: &Logging, out: W) -> anyhow::Result<LogGuard>
where
    W: Write + IsTerminal + Send + 'static,
{
    let terminal = out.is_terminal();
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(out);
    let dropped = writer.error_counter();
    let redacting = redact::Redacting::new(writer);
    let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
    let json = settings.format.map_or(!terminal, |format| format == LogFormat::Json);
    let layer = if json {
        tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(redacting)
            .boxed()
    } else {
        tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(redacting).boxed()
    };
    let _already_set = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(LogGuard { _writer: guard, dropped, level: Level(Some(handle)) })
}

/// The metrics of one application, besides those of the HTTP middleware. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    calls: IntCounterVec,
    tokens: IntCounterVec,
    gen_ai: gen_ai::GenAi,
    pub live_streams: IntGauge,
    pub calls_in_flight: IntGauge,
    pub journal_depth: IntGauge,
    pub journal_bytes: IntGauge,
    pub journal_refused: IntCounter,
    pub journal_damaged: IntCounter,
    pub batch_rows: Histogram,
    pub rows_written: IntCounter,
    pub rows_rejected: IntCounter,
    pub cost: Counter,
    pub unpriced_calls: IntCounter,
    pub batch_failures: IntCounter,
    pub recorder_queue_full: IntCounter,
    nonsense: IntCounter,
    pub auth: IntCounterVec,
    pub upstream_credentials: IntCounter,
    pub upstream_retries: IntCounter,
    pub request_edits: IntCounterVec,
    pub learned: IntCounterVec,
    pub sign_ins: IntCounterVec,
    pub rate_limited: IntCounterVec,
    pub audit_lost: IntCounter,
    pub log_lines_dropped: IntGauge,
    pub cache_requests: IntCounterVec,
    pub cache_value_bytes: HistogramVec,
    pub cache_entries: IntGauge,
    pub cache_bytes: IntGauge,
    job_runs: IntCounterVec,
    job_success: IntGaugeVec,
}

impl Metrics {
    /// # Errors
    /// Only if two metrics had one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let rows = vec![1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
        let vector = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let metrics = Self {
            calls: vector(
                "bedrock_calls_total",
                "Calls that reached upstream, by outcome",
                &["operation", "outcome"],
            )?,
            tokens: vector(
                "bedrock_tokens_total",
                "Tokens reported by upstream, by kind; each is of one kind",
                &["kind"],
            )?,
            gen_ai: gen_ai::GenAi::new()?,
            live_streams: IntGauge::new("bedrock_live_streams", "Streams that are open")?,
            calls_in_flight: IntGauge::new("bedrock_calls_in_flight", "Inference calls in flight")?,
            journal_depth: IntGauge::new(
                "usage_journal_depth",
                "Calls open or not yet in the database",
            )?,
            journal_bytes: IntGauge::new("usage_journal_bytes", "Size of the journal's files")?,
            journal_refused: IntCounter::new(
                "usage_journal_refused_total",
                "Calls that the journal did not take",
            )?,
            journal_damaged: IntCounter::new(
                "usage_journal_damaged_total",
                "Records passed over as damaged",
            )?,
            batch_rows: Histogram::with_opts(
                HistogramOpts::new("usage_batch_rows", "Rows a batch").buckets(rows),
            )?,
            rows_written: IntCounter::new(
                "usage_rows_written_total",
                "Usage rows written to the database",
            )?,
            rows_rejected: IntCounter::new(
                "usage_rows_rejected_total",
                "Rows that the database refused",
            )?,
            cost: Counter::new(
                "usage_cost_usd_total",
                "US dollars of the usage rows written, of those whose cost is known; rows that a replay finds written already may count again",
            )?,
            unpriced_calls: IntCounter::new(
                "usage_unpriced_calls_total",
                "Usage rows written with tokens for which there is no price",
            )?,
            batch_failures: IntCounter::new(
                "usage_batch_failures_total",
                "Batches that failed and were kept",
            )?,
            recorder_queue_full: IntCounter::new(
                "usage_recorder_queue_full_total",
                "Messages that had to wait",
            )?,
            nonsense: IntCounter::new(
                "usage_nonsense_values_total",
                "Token counts that were no counts",
            )?,
            auth: vector(
                "auth_total",
                "Credentials checked, by kind and outcome",
                &["kind", "outcome"],
            )?,
            upstream_credentials: IntCounter::new(
                "bedrock_credential_failures_total",
                "Calls that failed because AWS refused this service's own credentials: an alarm",
            )?,
            upstream_retries: IntCounter::new("bedrock_retries_total", "Calls sent a second time")?,
            request_edits: vector(
                "anthropic_request_edits_total",
                "What was changed in requests of /anthropic, by kind",
                &["change"],
            )?,
            learned: vector(
                "anthropic_learned_total",
                "What Bedrock refused and a second try without it showed, by kind",
                &["kind"],
            )?,
            sign_ins: vector(
                "sign_ins_total",
                "Sign-ins that came back from a provider, by provider and outcome",
                &["provider", "outcome"],
            )?,
            rate_limited: vector(
                "rate_limited_total",
                "Requests refused because they were too many, by limit",
                &["limit"],
            )?,
            audit_lost: IntCounter::new(
                "audit_events_lost_total",
                "Refusals that could not be written into the audit log",
            )?,
            cache_requests: vector(
                "cache_requests_total",
                "What was asked of the cache, by type, backend and outcome (hit, absent, miss, outdated, forged, error, too_large, counted)",
                &["type", "backend", "outcome"],
            )?,
            cache_value_bytes: HistogramVec::new(
                HistogramOpts::new(
                    "cache_value_bytes",
                    "Size of values put into the cache, by type",
                )
                .buckets(vec![
                    128.0,
                    256.0,
                    512.0,
                    1024.0,
                    4096.0,
                    16384.0,
                    65536.0,
                    1_048_576.0,
                ]),
                &["type"],
            )?,
            cache_entries: IntGauge::new("cache_entries", "Values in the cache in memory, about")?,
            cache_bytes: IntGauge::new("cache_bytes", "Their bytes, about")?,
            job_runs: vector(
                "job_runs_total",
                "Runs of jobs by this instance, by job and outcome",
                &["job", "outcome"],
            )?,
            job_success: IntGaugeVec::new(
                Opts::new(
                    "job_last_success_timestamp_seconds",
                    "When a run by this instance last succeeded, by job",
                ),
                &["job"],
            )?,
            log_lines_dropped: IntGauge::new(
                "log_lines_dropped",
                "Log lines dropped because nobody read them",
            )?,
            registry,
        };
        let all: Vec<Box<dyn Collector>> = vec![
            Box::new(metrics.calls.clone()),
            Box::new(metrics.tokens.clone()),
            Box::new(metrics.live_streams.clone()),
            Box::new(metrics.calls_in_flight.clone()),
            Box::new(metrics.journal_depth.clone()),
            Box::new(metrics.journal_bytes.clone()),
            Box::new(metrics.journal_refused.clone()),
            Box::new(metrics.journal_damaged.clone()),
            Box::new(metrics.batch_rows.clone()),
            Box::new(metrics.rows_written.clone()),
            Box::new(metrics.rows_rejected.clone()),
            Box::new(metrics.cost.clone()),
            Box::new(metrics.unpriced_calls.clone()),
            Box::new(metrics.batch_failures.clone()),
            Box::new(metrics.recorder_queue_full.clone()),
            Box::new(metrics.nonsense.clone()),
            Box::new(metrics.auth.clone()),
            Box::new(metrics.upstream_credentials.clone()),
            Box::new(metrics.upstream_retries.clone()),
            Box::new(metrics.request_edits.clone()),
            Box::new(metrics.learned.clone()),
            Box::new(metrics.sign_ins.clone()),
            Box::new(metrics.rate_limited.clone()),
            Box::new(metrics.audit_lost.clone()),
            Box::new(metrics.log_lines_dropped.clone()),
            Box::new(metrics.cache_requests.clone()),
            Box::new(metrics.cache_value_bytes.clone()),
            Box::new(metrics.cache_entries.clone()),
            Box::new(metrics.cache_bytes.clone()),
            Box::new(metrics.job_runs.clone()),
            Box::new(metrics.job_success.clone()),
            Box::new(process::Process::new()?),
        ];
        let all = all.into_iter().chain(metrics.gen_ai.collectors());
        all.into_iter().try_for_each(|collector| metrics.registry.register(collector))?;
        let info = Gauge::with_opts(
            Opts::new("bedrock_proxy_build_info", "Always 1")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        info.set(1.0);
        metrics.registry.register(Box::new(info))?;
        Ok(metrics)
    }

    /// Models for which there is a price; of others no metric says the name.
    pub fn know_models<'a>(&self, priced: impl IntoIterator<Item = &'a str>) {
        self.gen_ai.know(priced);
    }

    /// A run of a job ended, at this time in seconds since 1970.
    pub fn job_ended(&self, job: &str, outcome: &str, at: i64) {
        self.job_runs.with_label_values(&[job, outcome]).inc();
        if outcome == "success" {
            self.job_success.with_label_values(&[job]).set(at);
        }
    }

    /// A call ended with this row.
    pub fn call_ended(&self, row: &NewUsage, nonsense: u32) {
        self.calls.with_label_values(&[row.operation.as_str(), row.outcome.as_str()]).inc();
        self.gen_ai.call_ended(row);
        let for_an_hour = row.cache_write_1h_tokens;
        let written = row.cache_write_tokens.map(|all| all - for_an_hour.unwrap_or(0));
        for (kind, count) in [
            ("input", row.input_tokens),
            ("output", row.output_tokens),
            ("cache_write", written),
            ("cache_write_1h", for_an_hour),
            ("cache_read", row.cache_read_tokens),
        ] {
            if let Some(count) =
                count.and_then(|count| u64::try_from(count).ok()).filter(|count| *count > 0)
            {
                self.tokens.with_label_values(&[kind]).inc_by(count);
            }
        }
        self.nonsense.inc_by(u64::from(nonsense));
    }
}
