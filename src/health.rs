//! Is every part answering? Each part registers its own check; they run every second, and probes read the results.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use serde::Serialize;

use crate::db::{self, Timestamp};

const EVERY: Duration = Duration::from_secs(1);
/// How often those who wait for the first round look.
const LOOK: Duration = Duration::from_millis(10);
/// A check that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(5);
/// A database that is away for less does not end readiness: cached identities serve meanwhile.
const DATABASE_GRACE: Duration = Duration::from_secs(10);

/// What one part said last.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    pub status: &'static str,
    pub latency_ms: u64,
    pub message: Option<String>,
    #[serde(serialize_with = "crate::routes::api::time")]
    pub checked_at: Timestamp,
    #[serde(skip)]
    failing_since: Option<Instant>,
}

type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks and their last results.
#[derive(Clone)]
pub struct Health {
    checks: Arc<Vec<(&'static str, Check)>>,
    results: Arc<ArcSwap<BTreeMap<&'static str, CheckResult>>>,
}

/// Collects checks while the service is wired.
#[derive(Default)]
pub struct Checks(Vec<(&'static str, Check)>);

impl Checks {
    /// Adds a part's check. Its error is for admins; it holds no secret.
    pub fn register<F, R>(&mut self, name: &'static str, check: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.0.push((name, Box::new(move || check().boxed())));
    }

    pub fn finish(self) -> Health {
        Health { checks: Arc::new(self.0), results: Arc::default() }
    }
}

impl Health {
    /// Runs all checks every second, for ever.
    pub async fn keep_checking(self) {
        loop {
            self.check_all().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Runs all checks once, at the same time.
    pub async fn check_all(&self) {
        let before = self.results.load_full();
        let running = self.checks.iter().map(|(name, check)| {
            let before = before.get(name).and_then(|result| result.failing_since);
            async move {
                let started = Instant::now();
                let answer = tokio::time::timeout(LONGEST, check()).await;
                let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let failing_since = answer.is_err().then(|| before.unwrap_or(started));
                let status = if answer.is_ok() { "ok" } else { "failing" };
                let result = CheckResult {
                    status,
                    latency_ms,
                    message: answer.err(),
                    checked_at: db::now(),
                    failing_since,
                };
                (*name, result)
            }
        });
        let results: BTreeMap<_, _> = join_all(running).await.into_iter().collect();
        self.results.store(Arc::new(results));
    }

    /// The names that have a check.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.checks.iter().map(|(name, _)| *name)
    }

    /// The last results; empty until the first round is done.
    pub fn results(&self) -> Arc<BTreeMap<&'static str, CheckResult>> {
        self.results.load_full()
    }

    /// Whether the first round is still to come.
    pub fn is_starting(&self) -> bool {
        self.results.load().is_empty()
    }

    /// Resolves when the first round is done.
    pub async fn looked(&self) {
        while self.is_starting() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether all actors answer.
    pub fn actors_answer(&self) -> bool {
        self.results.load().get("actors").is_none_or(|result| result.failing_since.is_none())
    }

    /// Whether the database answers, or has been away for a short time only.
    pub fn database_in_grace(&self) -> bool {
        let results = self.results.load();
        let since = results.get("database").and_then(|result| result.failing_since);
        since.is_none_or(|since| since.elapsed() < DATABASE_GRACE)
    }
}
