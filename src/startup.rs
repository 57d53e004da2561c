//! Application: wires settings, database, actors and servers, and owns the order in which they stop.

mod checks;
mod worker;

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use actix::Addr;
use actix_web_prom::PrometheusMetricsBuilder;
use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    actors::{
        Actors, Threads,
        streams::Drain,
        summary::StopJobs,
        usage::{Flush, UsageRecorder},
    },
    auth::{AdminRule, keys::Keys, providers::Provider},
    bedrock::{Endpoints, credentials},
    cache::{Moment, TypedCache},
    db::{
        self, Pool,
        audit::{self, AuditLogEntry, Event, Origin},
        migrations,
        users::UserRecord,
    },
    health::Health,
    jobs, metrics,
    notify::Notifier,
    pricing::ledger,
    server::{self, Running, Server},
    settings::{self, CacheBackend, Settings, Shutdown, listen_address},
    sockets::Inherited,
    state::{Messages, Shared},
    telemetry::Metrics,
    tls,
    usage::journal::Directory,
};

/// A second signal leaves this long for streams to be told and rows to be written.
const HURRY: Duration = Duration::from_secs(5);
/// What an answer that was cut short needs to reach its client.
const TAIL: Duration = Duration::from_secs(2);

/// The service, listening but not yet accepting.
pub struct Application {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    server: Server,
    metrics_server: Option<Server>,
    shared: Arc<Shared>,
    threads: Threads,
    /// Cancelled when calls that do not stream have had their time.
    cut_calls: CancellationToken,
    closing: watch::Sender<bool>,
    grace: Shutdown,
    notify: Notifier,
}

impl Application {
    /// Binds the ports, opens the database and starts the actors. Accepts nothing until it is run.
    ///
    /// # Errors
    /// Whatever keeps it from starting, with the setting to look at.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        Self::build_under(settings, Inherited::default(), Notifier::default()).await
    }

    /// The same under a service manager: it listens on the sockets that it inherited, and tells how it is.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub async fn build_under(
        mut settings: Settings,
        sockets: Inherited,
        notify: Notifier,
    ) -> anyhow::Result<Self> {
        let inherited = sockets.service.is_some();
        let listener = listener(&settings.server, sockets.service)?;
        let address = listener.local_addr()?;
        // A port that was picked is known from here on, also to those who are told the public URL.
        settings.server.port = address.port();
        let tls = match settings.server.tls.cert.as_ref().zip(settings.server.tls.key.as_ref()) {
            Some((cert, key)) => {
                Some(tls::server(cert, key).map_err(anyhow::Error::msg).context("server.tls")?)
            }
            None => None,
        };

        let statement = Duration::from_secs(settings.database.statement_timeout_seconds);
        let pool = Pool::open(&settings.database)
            .and_then(|pool| pool.apart(settings.database.max_connections, Some(statement)))
            .context("database.url")?;
        // In memory there is nothing yet, so there it is always applied.
        let apply = settings.database.migration_on_startup || !settings.database.enabled;
        let wait = Duration::from_secs(settings.database.wait_seconds);
        let schema = migrations::prepare(&pool, apply, wait)
            .await
            .context("the database cannot be used (database.url)")?;
        if !schema.changed.is_empty() {
            tracing::info!(versions = schema.changed.join(", "), "applied migrations");
        }
        if !schema.unknown.is_empty() {
            tracing::warn!(
                versions = schema.unknown.join(", "),
                "the schema is one version ahead of this binary"
            );
        }
        if !settings.database.enabled {
            tracing::warn!(
                "database.enabled is false: people, keys and usage are in memory and lost at exit"
            );
        }

        if apply {
            seed_prices(&pool).await;
        }

        let metrics = Metrics::new()?;
        let rules = Arc::new(jobs::Rules::new(&settings).context("jobs")?);
        let journal = open_journal(&settings)?;
        let keys = Arc::new(Keys::new(&settings)?);
        let cache = open_cache(&settings.cache, &keys, &metrics)?;
        people(&pool, &settings, &keys).await;
        let region = credentials::region(&settings.aws).await;
        settings.aws.region = Some(region.clone());
        let endpoints = Arc::new(Endpoints::new(&settings.aws, &region));
        let messages = Arc::new(Messages::new(&settings, &region));
        let roots = tls::roots(settings.aws.ca_file.as_deref())
            .map_err(anyhow::Error::msg)
            .context("aws.ca_file")?;
        let client_tls = Arc::new(tls::client(roots, &["http/1.1"]));
        let (actors, threads) = Actors::start(
            &settings,
            &pool,
            &cache,
            &keys,
            journal.clone(),
            &client_tls,
            &rules,
            &metrics,
        )
        .context("database.url")?;
        let health = checks::health(&pool, &cache, &actors, keys.clone(), journal.clone());
        let shared =
            Shared::new(&settings, actors, pool, cache, metrics, health, journal, keys, rules);
        let shared = Arc::new(shared);

        let workers = settings.server.worker_count();
        let cut_calls = CancellationToken::new();
        let (closing, told) = watch::channel(false);
        let grace = settings.shutdown.clone();
        let metrics_server = metrics::server(&settings.metrics, &shared, sockets.metrics)?;
        let options = server::Options {
            workers,
            connections: settings.server.limits.connections,
            timeouts: settings.server.timeouts.clone(),
            tls,
            closing: told,
        };
        let http_metrics = PrometheusMetricsBuilder::new("http")
            .registry(shared.metrics.registry.clone())
            .mask_unmatched_patterns("UNMATCHED")
            .build()
            .map_err(|error| anyhow::anyhow!("metrics: {error}"))?;
        let wiring = worker::Wiring {
            shared: shared.clone(),
            http_metrics,
            usage: settings.usage,
            aws: settings.aws,
            cors_origins: settings.server.cors_origins,
            endpoints,
            messages,
            client_tls,
            cut_calls: cut_calls.clone(),
            workers_so_far: Arc::default(),
        };
        let server = server::serve(listener, options, move || worker::app(&wiring));
        let metrics_address = metrics_server.as_ref().map(|(_, address)| *address);
        let metrics = metrics_address.map(tracing::field::display);
        tracing::info!(%address, metrics, inherited, region, workers, "listening");
        Ok(Self {
            address,
            metrics_address,
            server,
            metrics_server: metrics_server.map(|(server, _)| server),
            shared,
            threads,
            cut_calls,
            closing,
            grace,
            notify,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// What its workers share; for tests that wait for an actor.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Serves until `stop` resolves (SIGTERM), then ends in order (REL-26): readiness, accepting, jobs, calls and streams,
    /// usage rows, database. When `hurry` resolves (a second SIGTERM) it waits no longer. Answers how many streams
    /// and calls were cut.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn run_until_stopped(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> anyhow::Result<usize> {
        let mut server = self.server.start().await.context("the server")?;
        let metrics_server = match self.metrics_server {
            Some(server) => Some(server.start().await.context("the server of metrics")?),
            None => None,
        };
        let checking = actix_rt::spawn(self.shared.health.clone().keep_checking());
        let reviving = actix_rt::spawn(self.shared.actors.clone().keep_alive());
        let listening = {
            let (cache, actors) = (self.shared.cache.clone(), self.shared.actors.clone());
            let now = || Moment { now: db::now(), generation: 0 };
            actix_rt::spawn(cache.listen(now, move |heard| actors.hear(heard)))
        };
        let watching = actix_rt::spawn(keep_told(
            self.notify.clone(),
            self.shared.health.clone(),
            self.address,
        ));
        tokio::select! {
            ended = server.accepting() => { ended?; return Ok(0); }
            () = stop => {}
        }
        let began = Instant::now();
        tracing::info!("stopping");
        self.notify.stopping();
        let shared = self.shared;
        shared.draining.store(true, SeqCst);

        let mut hurry = std::pin::pin!(hurry);
        let mut hurried = tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(self.grace.pre_drain_seconds)) => false,
            () = &mut hurry => true,
        };
        server.stop_accepting().await;
        shared.closing.store(true, SeqCst);
        self.closing.send_replace(true);

        let within = if hurried { Duration::ZERO } else { self.grace.jobs() };
        let jobs = shared.actors.summary.address();
        let jobs_stop = actix_rt::spawn(async move {
            tokio::time::timeout(within + TAIL, jobs.send(StopJobs { within })).await
        });
        let cut = if hurried {
            0
        } else {
            let (calls, streams) = (self.grace.calls(), self.grace.streams());
            tokio::select! {
                cut = end_calls(&server, &shared, &self.cut_calls, calls, streams) => cut,
                () = &mut hurry => { hurried = true; 0 }
            }
        };
        let cut = if hurried {
            tracing::warn!("told a second time: cutting what is left");
            let none = Duration::ZERO;
            cut + end_calls(&server, &shared, &self.cut_calls, none, none).await
        } else {
            cut
        };
        // The last bytes of answers leave; then the workers end.
        if tokio::time::timeout(HURRY, server.closed()).await.is_err() {
            tracing::warn!("connections that would not close are dropped");
        }
        server.end().await;
        if let Ok(Ok(Ok(running @ 1..))) = jobs_stop.await {
            tracing::warn!(running, "jobs are left half-way; they go on at the next start");
        }

        let within = if hurried { HURRY.saturating_sub(TAIL) } else { self.grace.usage_rows() };
        let left = flush(&shared.actors.usage.address(), within).await;
        if let Some(journal) = &shared.journal {
            if left == 0 && journal.depth() == 0 {
                journal.remove_all();
            } else {
                tracing::warn!(
                    rows = left,
                    depth = journal.depth(),
                    "usage rows stay in the journal until the next start"
                );
                journal.leave();
            }
        }
        if let Some(metrics) = metrics_server {
            metrics.end().await;
        }
        for task in [checking, reviving, listening, watching] {
            task.abort();
        }
        self.threads.stop();
        shared.cache.close();
        shared.pool.close();
        tracing::info!(cut, rows_left = left, seconds = began.elapsed().as_secs_f64(), "stopped");
        Ok(cut)
    }
}

/// The socket of the service: the inherited one, or one of its own.
fn listener(
    settings: &settings::Server,
    inherited: Option<TcpListener>,
) -> anyhow::Result<TcpListener> {
    let stall = Duration::from_secs(settings.timeouts.write_stall_seconds);
    if let Some(inherited) = inherited {
        return server::adopt(inherited, stall).context("the inherited socket");
    }
    let address = listen_address(&settings.host, settings.port).context("server.host")?;
    server::bind(address, stall, settings.reuse_port)
        .with_context(|| format!("cannot listen on {address} (server.host, server.port)"))
}

/// Tells the service manager when the first look at all parts is done, and from then on that they live.
async fn keep_told(notify: Notifier, health: Health, address: SocketAddr) {
    health.looked().await;
    notify.ready(&format!("serving on {address}"));
    notify.keep_watch(|| health.actors_answer()).await;
}

/// Waits until every connection is closed, which each is after the answer that it waits for; calls and streams that outlast
/// their time are cut. Answers how many were.
async fn end_calls(
    server: &Running,
    shared: &Arc<Shared>,
    cut_calls: &CancellationToken,
    calls: Duration,
    streams: Duration,
) -> usize {
    // Whether connections are still open when the time is over.
    let outlast = async |within| tokio::time::timeout(within, server.closed()).await.is_err();
    let plain = async {
        let left = if outlast(calls).await { shared.gate.plain_calls() } else { 0 };
        cut_calls.cancel();
        if left > 0 {
            tracing::warn!(calls = left, "cutting calls: the service is stopping");
            shared.gate.plain_calls_end(TAIL).await;
        }
        left
    };
    let live = async {
        if !outlast(streams).await {
            return 0;
        }
        let drain = Drain { within: Duration::ZERO };
        shared.actors.streams.address().send(drain).await.unwrap_or(0)
    };
    let (left, cut) = tokio::join!(plain, live);
    left + cut
}

/// Rows into the database. Answers how many calls are left to the journal.
async fn flush(recorder: &Addr<UsageRecorder>, within: Duration) -> usize {
    // Whatever keeps the actor from answering, it keeps nobody from ending.
    let written = tokio::time::timeout(within + TAIL, recorder.send(Flush { within }));
    written.await.map_or(usize::MAX, |left| left.unwrap_or(usize::MAX))
}

/// What is settled about people before anybody comes: who is an admin by the rule as it is now, and what the audit log
/// has to know of secrets. A database that cannot be written to does not keep the service from starting.
async fn people(pool: &Pool, settings: &Settings, keys: &Keys) {
    let admins = AdminRule::new(&settings.admin, &settings.oauth);
    let work = async {
        let mut conn = pool.writer().await?;
        let active = UserRecord::apply_admin_rule(
            &mut conn,
            admins.emails(),
            |user| admins.admits_user(user),
            db::now(),
        )
        .await?;
        if active == 0 && !admins.emails().is_empty() {
            tracing::warn!(
                "nobody is an admin yet: none of admin.emails has signed in with a provider of admin.providers"
            );
        }
        let ids: serde_json::Map<String, serde_json::Value> =
            keys.ids().iter().map(|(name, id)| ((*name).to_owned(), (*id).into())).collect();
        let metadata = serde_json::Value::Object(ids);
        let newest = AuditLogEntry::newest(&mut conn, "secrets_in_use").await?;
        let known: Option<serde_json::Value> =
            newest.and_then(|newest| serde_json::from_str(&newest.metadata).ok());
        if known.as_ref() != Some(&metadata) {
            for (setting, id) in known.iter().filter_map(serde_json::Value::as_object).flatten() {
                if !id.as_str().is_some_and(|id| keys.knows(setting, id)) {
                    tracing::warn!(
                        setting,
                        "this secret changed, and the one before it is not among the previous ones: what was made \
                         with it is refused (access tokens, sessions and keys, or providers' tokens)"
                    );
                }
            }
            let origin = Origin::service();
            let event = Event {
                object: "secrets".to_owned(),
                metadata,
                ..Event::new(db::now(), "secrets_in_use", &origin)
            };
            audit::record(&mut conn, event).await?;
        }
        Ok::<(), db::DbError>(())
    };
    if let Err(error) = work.await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "who is an admin could not be looked over"
        );
    }
    for note in notes(settings) {
        tracing::warn!("{note}");
    }
}

/// What an operator should know of settings that are sound.
pub fn notes(settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    let open = settings.auth.allowed_email_domains.is_empty();
    for (name, given) in settings.oauth.enabled() {
        if open && Provider::new(name, given).is_public() {
            notes.push(format!(
                "anybody with an account at {name} may sign in: auth.allowed_email_domains is empty"
            ));
        }
        if !given.pkce {
            notes.push(format!("{name} signs in without PKCE (oauth.providers.{name}.pkce)"));
        }
    }
    notes
}

/// Adds shipped prices that are missing. A database that cannot be written to does not keep the service from starting.
async fn seed_prices(pool: &Pool) {
    let work = async { ledger::seed(&mut pool.writer().await?, false, &Origin::service()).await };
    match work.await {
        Ok(seeded) if seeded.added > 0 => {
            tracing::info!(prices = seeded.added, "added shipped prices")
        }
        Ok(_) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "shipped prices could not be looked over");
        }
    }
}

fn open_journal(settings: &Settings) -> anyhow::Result<Option<Arc<Directory>>> {
    if !settings.database.enabled {
        return Ok(None);
    }
    let path = settings.usage.journal_dir(&settings.database);
    let journal = Directory::open(&path, settings.usage.journal_max_bytes).with_context(|| {
        format!("the usage journal cannot be kept in {} (usage.journal_dir)", path.display())
    })?;
    Ok(Some(journal))
}

/// In memory it is bounded by this many bytes, besides `cache.max_entries`.
const CACHE_BYTES: u64 = 32 << 20;

fn open_cache(
    settings: &settings::Cache,
    keys: &Keys,
    metrics: &Metrics,
) -> anyhow::Result<TypedCache> {
    let (secrets, metrics) = (&keys.cache, metrics.clone());
    match (settings.backend, &settings.redis_url) {
        (CacheBackend::Redis, Some(url)) => {
            TypedCache::in_redis(url.expose_secret(), &settings.redis_key_prefix, secrets, metrics)
                .context("cache.redis_url")
        }
        _ => Ok(TypedCache::in_memory(settings.max_entries, CACHE_BYTES, secrets, metrics)),
    }
}
