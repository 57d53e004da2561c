//! Schema migrations, compiled in for both databases; one instance at a time applies them.

use std::time::Duration;

use diesel::{
    Connection, ConnectionError, SqliteConnection,
    connection::SimpleConnection,
    migration::{MigrationSource, MigrationVersion},
};
use diesel_async::{AsyncPgConnection, async_connection_wrapper::AsyncConnectionWrapper};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{DbError, Pool, audit};

static POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
static SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Key of the advisory lock on Postgres: "bedrock" in ASCII, as a number.
const LOCK: i64 = 0x0062_6564_726f_636b;
/// How long an instance waits for another one that is migrating.
const LOCK_WAIT_MS: u64 = 30_000;
/// How often the log says that the database is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What to do with the schema.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Apply what is pending.
    Up,
    /// Take back the newest `n`.
    Down(u32),
    /// Change nothing.
    Look,
}

/// The schema after a [`Step`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Versions that the step applied or took back.
    pub changed: Vec<String>,
    pub applied: Vec<String>,
    pub pending: Vec<String>,
    /// Applied versions that this binary does not know: a newer release was here.
    pub unknown: Vec<String>,
}

impl Report {
    /// Whether this binary can work on the schema: nothing pending, and at most one version ahead. A release
    /// first adds, and removes one release later, so that the one before still works during a deploy.
    ///
    /// # Errors
    /// [`DbError::Schema`] says which command helps.
    pub fn usable(&self) -> Result<(), DbError> {
        if let Some(first) = self.pending.first() {
            return Err(DbError::Schema(format!(
                "the schema lacks {} migration(s), from {first}: run `bedrock_proxy migrate up`",
                self.pending.len()
            )));
        }
        if self.unknown.len() > 1 {
            return Err(DbError::Schema(format!(
                "the schema is newer than this binary (it has {}): use the newer release",
                self.unknown.join(", ")
            )));
        }
        Ok(())
    }
}

/// Runs a [`Step`] under a lock that other instances wait for, up to 30 s.
///
/// # Errors
/// [`DbError`] if the database is away, the lock stays taken, or a migration fails; then nothing of it is left.
pub async fn run(pool: &Pool, step: Step) -> Result<Report, DbError> {
    match pool {
        Pool::Sqlite { write, .. } => {
            let mut conn = write.get().await?;
            conn.spawn_blocking(move |connection: &mut SqliteConnection| {
                Ok(on_sqlite(connection, step))
            })
            .await?
        }
        Pool::Postgres { url, tls, .. } => {
            let (url, tls) = (url.to_string(), tls.clone());
            let runtime = tokio::runtime::Handle::current();
            // The wrapper blocks, which a current-thread runtime cannot: it gets a thread and a runtime of its own.
            let work = move || {
                let connected = runtime.block_on(async {
                    runtime.spawn(async move { super::connect_postgres(&url, &tls).await }).await
                });
                let connection = connected
                    .map_err(|error| DbError::Unavailable(error.into()))?
                    .map_err(|error| DbError::Unavailable(error.into()))?;
                on_postgres(connection.into(), step)
            };
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|error| DbError::Unavailable(error.into()))?
        }
    }
}

fn on_sqlite(connection: &mut SqliteConnection, step: Step) -> Result<Report, DbError> {
    if matches!(step, Step::Look) {
        return walk(connection, &SQLITE, step);
    }
    connection.batch_execute(&format!("PRAGMA busy_timeout = {LOCK_WAIT_MS};"))?;
    let report = connection.exclusive_transaction(|connection| walk(connection, &SQLITE, step));
    connection.batch_execute("PRAGMA busy_timeout = 5000;")?;
    report
}

fn on_postgres(
    mut connection: AsyncConnectionWrapper<AsyncPgConnection>,
    step: Step,
) -> Result<Report, DbError> {
    if matches!(step, Step::Look) {
        return walk(&mut connection, &POSTGRES, step);
    }
    connection.batch_execute(&format!(
        "SET lock_timeout = {LOCK_WAIT_MS}; SELECT pg_advisory_lock({LOCK}); SET lock_timeout = 0"
    ))?;
    let report = connection.transaction(|connection| walk(connection, &POSTGRES, step));
    connection.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})"))?;
    report
}

fn walk<C, DB>(
    connection: &mut C,
    source: &'static EmbeddedMigrations,
    step: Step,
) -> Result<Report, DbError>
where
    C: MigrationHarness<DB>,
    DB: diesel::backend::Backend,
    EmbeddedMigrations: MigrationSource<DB>,
{
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        DbError::Schema(format!("a migration failed, and was taken back: {error}"))
    };
    let names = |versions: &[MigrationVersion<'_>]| -> Vec<String> {
        versions.iter().map(ToString::to_string).collect()
    };
    let mut report = Report::default();
    match step {
        Step::Look => {}
        Step::Up => {
            let pending = connection.pending_migrations(Source(source)).map_err(failed)?;
            report.changed = names(&connection.run_migrations(&pending).map_err(failed)?);
        }
        Step::Down(steps) => {
            for _ in 0..steps {
                if connection.applied_migrations().map_err(failed)?.is_empty() {
                    break;
                }
                let reverted = connection.revert_last_migration(Source(source)).map_err(failed)?;
                report.changed.push(reverted.to_string());
            }
        }
    }
    let known: Vec<String> = MigrationSource::<DB>::migrations(source)
        .map_err(failed)?
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    report.applied = names(&connection.applied_migrations().map_err(failed)?);
    report.applied.sort();
    report.pending = known.iter().filter(|v| !report.applied.contains(v)).cloned().collect();
    report.unknown = report.applied.iter().filter(|v| !known.contains(v)).cloned().collect();
    Ok(report)
}

/// The harness takes sources by value, and the embedded ones are not `Copy`.
struct Source(&'static EmbeddedMigrations);

impl<DB: diesel::backend::Backend> MigrationSource<DB> for Source
where
    EmbeddedMigrations: MigrationSource<DB>,
{
    fn migrations(
        &self,
    ) -> diesel::migration::Result<Vec<Box<dyn diesel::migration::Migration<DB>>>> {
        self.0.migrations()
    }
}

/// Brings the database to the schema of this binary, or only checks it, waiting `wait` for a database that is
/// away; not for one that refuses the role, the password or the name.
///
/// # Errors
/// [`DbError`] when it stays away or the schema cannot be used.
pub async fn prepare(pool: &Pool, apply: bool, wait: Duration) -> Result<Report, DbError> {
    let started = tokio::time::Instant::now();
    let mut told = None;
    let step = if apply { Step::Up } else { Step::Look };
    loop {
        match run(pool, step).await {
            Ok(report) => {
                report.usable()?;
                if !report.changed.is_empty() {
                    note(pool, &report).await?;
                }
                return Ok(report);
            }
            Err(DbError::Unavailable(cause))
                if started.elapsed() < wait && !is_refusal(&*cause) =>
            {
                if told.is_none_or(|last: tokio::time::Instant| last.elapsed() > TELL_EVERY) {
                    tracing::warn!(%cause, "waiting for the database");
                    told = Some(tokio::time::Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the server is there and says no to the URL: it would say so until somebody changes one of the two.
fn is_refusal(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(ConnectionError::InvalidConnectionUrl(_)))
}

/// The audit event of a migration; it stands alone, for its table may be what was made.
async fn note(pool: &Pool, report: &Report) -> Result<(), DbError> {
    let origin = audit::Origin::service();
    let event = audit::Event {
        object: "schema".to_owned(),
        metadata: serde_json::json!({ "applied": report.changed }),
        ..audit::Event::new(super::now(), "migration", &origin)
    };
    audit::record(&mut pool.writer().await?, event).await
}
