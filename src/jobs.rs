//! Jobs: work that is done on a schedule or because somebody asks, each by one instance at a time. What they do is here
//! and in the children, shared by `actors::summary`, the command line and the routes; when, is `schedule`'s.

pub mod clean_up;
pub mod reprice;
pub mod schedule;
pub mod summarise;
pub mod upkeep;

use std::time::Duration;

use chrono_tz::Tz;
use tokio_util::sync::CancellationToken;

use crate::{
    db::{
        self, Conn, DbError, Pool, Timestamp,
        audit::Origin,
        jobs::{self as runs, Claim, Ending, JobRun, LEASE_SECONDS},
        levels::{Fence, Level},
        period::Period,
        summaries::build::Scope,
    },
    settings::{self, Settings},
    telemetry::causes,
};
use schedule::Schedule;

/// A lease is renewed three times before it would end.
const RENEW: Duration = Duration::from_secs(LEASE_SECONDS as u64 / 3);
/// Longest message that a run keeps, in characters.
const LONGEST_MESSAGE: usize = 1000;

/// What can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    UsageSummaries,
    UsageCleanup,
    PriceCheck,
    AuditRetention,
}

impl Job {
    pub const ALL: [Self; 4] =
        [Self::UsageSummaries, Self::UsageCleanup, Self::PriceCheck, Self::AuditRetention];

    /// The spelling in settings, tables and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::UsageSummaries => "usage_summaries",
            Self::UsageCleanup => "usage_cleanup",
            Self::PriceCheck => "price_check",
            Self::AuditRetention => "audit_retention",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.name() == name)
    }

    /// What it does, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::UsageSummaries => "build daily, weekly and monthly summaries of usage",
            Self::UsageCleanup => "remove rows and summaries that are older than they are kept",
            Self::PriceCheck => {
                "add shipped prices that are missing, and look for models without one"
            }
            Self::AuditRetention => "remove audit events that are older than audit.retention_days",
        }
    }
}

/// A job was not done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("stopped, to go on from here next time")]
    Stopped,
    #[error("{job} runs already, on {holder}")]
    Running { job: &'static str, holder: String },
}

/// What a job did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Done {
    /// Rows that it changed.
    pub rows: usize,
    /// The same for people.
    pub message: String,
}

/// How far a job is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    pub doing: &'a str,
    pub done: u64,
    /// `None` = not known beforehand.
    pub of: Option<u64>,
}

/// What a job needs while it runs.
pub struct Work<'a> {
    pub pool: &'a Pool,
    pub fence: Option<Fence>,
    /// Cancelled when it is to stop at its next safe point.
    pub stop: CancellationToken,
    pub progress: &'a dyn Fn(Progress<'_>),
}

impl Work<'_> {
    /// A safe point: everything so far is committed. Answers a connection to go on with; it is given back at the next,
    /// so that usage is written meanwhile.
    ///
    /// # Errors
    /// [`JobError::Stopped`]; the database's.
    pub async fn writer(&self) -> Result<Conn, JobError> {
        // Whoever waits for the connection gets it first.
        tokio::task::yield_now().await;
        if self.stop.is_cancelled() {
            return Err(JobError::Stopped);
        }
        Ok(self.pool.writer().await?)
    }

    fn tell(&self, doing: &str, done: u64, of: Option<u64>) {
        (self.progress)(Progress { doing, done, of });
    }
}

/// What the scheduled jobs are to do, by the settings.
#[derive(Debug, Clone)]
pub struct Rules {
    pub enabled: bool,
    zone: Tz,
    schedules: Vec<(Job, Schedule)>,
    pub periods: Vec<Period>,
    retention: settings::UsageCleanup,
    audit_days: u32,
}

impl Rules {
    /// # Errors
    /// What is wrong with a schedule or the time zone; [`Settings::load`] has checked them.
    pub fn new(settings: &Settings) -> Result<Self, schedule::ScheduleError> {
        let jobs = &settings.jobs;
        let zone = schedule::zone(&jobs.timezone)?;
        let schedules = [
            (Job::UsageSummaries, &jobs.usage_summaries.schedule),
            (Job::UsageCleanup, &jobs.usage_cleanup.schedule),
            (Job::PriceCheck, &jobs.price_check.schedule),
            (Job::AuditRetention, &jobs.audit_retention.schedule),
        ];
        let schedules = schedules.map(|(job, text)| Ok((job, Schedule::new(text, zone)?)));
        Ok(Self {
            enabled: jobs.enabled,
            zone,
            schedules: schedules.into_iter().collect::<Result<_, _>>()?,
            periods: jobs.usage_summaries.periods(),
            retention: jobs.usage_cleanup.clone(),
            audit_days: settings.audit.retention_days,
        })
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }

    pub fn schedule(&self, job: Job) -> Option<&Schedule> {
        self.schedules.iter().find(|(known, _)| *known == job).map(|(_, schedule)| schedule)
    }

    /// How many days each level of usage is kept, in the order of clean-up.
    pub fn retention(&self) -> Vec<(Level, u32)> {
        let kept = &self.retention.summaries_retention_days;
        let days =
            [self.retention.raw_records_days, kept.hourly, kept.daily, kept.weekly, kept.monthly];
        Level::ALL.into_iter().zip(days).collect()
    }

    /// Does a job as its schedule would.
    ///
    /// # Errors
    /// [`JobError`].
    pub async fn perform(
        &self,
        job: Job,
        work: &Work<'_>,
        now: Timestamp,
    ) -> Result<Done, JobError> {
        match job {
            Job::UsageSummaries => {
                let everything = Scope::default();
                let days = summarise::DAYS_BACK;
                summarise::summarise(work, &self.periods, days, &everything, now).await
            }
            Job::UsageCleanup => {
                clean_up::clean_up(work, &self.retention(), now, &Origin::service()).await
            }
            Job::PriceCheck => upkeep::check_prices(work, &Origin::service(), now).await,
            Job::AuditRetention => upkeep::retain_audit(work, self.audit_days, now).await,
        }
    }
}

/// A run that has begun: its lease is held.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: i64,
    job: &'static str,
    token: i64,
}

/// Who this process is, in leases and runs.
pub fn instance() -> String {
    use std::sync::LazyLock;
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host.chars().filter(|c| !c.is_control()).take(64).collect();
        format!("{host}:{}", std::process::id())
    });
    NAME.clone()
}

/// Begins a run, unless the job runs already or its slot has had its run.
///
/// # Errors
/// The database's; [`JobError::Running`].
pub async fn begin(
    pool: &Pool,
    job: &'static str,
    slot: Option<Timestamp>,
) -> Result<Option<Run>, JobError> {
    let mut conn = pool.writer().await?;
    match runs::claim(&mut conn, job, slot, &instance(), db::now()).await? {
        Claim::Taken { run_id, token } => Ok(Some(Run { id: run_id, job, token })),
        Claim::SlotDone => Ok(None),
        Claim::Running { holder, .. } => Err(JobError::Running { job, holder }),
    }
}

impl Run {
    /// What everything that it writes is checked against.
    pub fn fence(&self) -> Fence {
        Fence { job: self.job, token: self.token }
    }

    async fn renew(&self, pool: &Pool) -> Result<bool, DbError> {
        runs::renew(&mut pool.writer().await?, self.job, self.token, db::now()).await
    }

    /// Does the work with the lease renewed, and notes how it ended.
    ///
    /// # Errors
    /// The work's; the database's.
    pub async fn of(
        self,
        pool: &Pool,
        work: impl Future<Output = Result<Done, JobError>>,
    ) -> Result<Done, JobError> {
        let ended = {
            let mut work = std::pin::pin!(work);
            loop {
                tokio::select! {
                    ended = &mut work => break ended,
                    () = tokio::time::sleep(RENEW) => {}
                }
                let mut renewing = std::pin::pin!(self.renew(pool));
                let held = tokio::select! {
                    held = &mut renewing => held,
                    ended = &mut work => {
                        // A query on SQLite that is dropped half-way panics.
                        let _over = renewing.await;
                        break ended;
                    }
                };
                match held {
                    Ok(true) => {}
                    // The fence stops it at its next transaction; to drop it could drop a query.
                    Ok(false) => break work.await,
                    Err(error) => {
                        tracing::warn!(
                            job = self.job,
                            error = &error as &dyn std::error::Error,
                            "a lease could not be renewed"
                        );
                    }
                }
            }
        };
        let (ending, rows, message) = match &ended {
            Ok(done) => (Ending::Success, Some(done.rows), done.message.clone()),
            Err(error @ JobError::Stopped) => (Ending::Stopped, None, error.to_string()),
            Err(error) => (Ending::Failed, None, causes(error)),
        };
        let message: String = message.chars().take(LONGEST_MESSAGE).collect();
        let rows = rows.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
        let noted = async {
            let mut conn = pool.writer().await?;
            let how = (ending, rows, message.as_str());
            runs::finish(&mut conn, self.job, self.id, self.token, how, db::now()).await
        };
        if let Err(error) = noted.await {
            // The lease ends by itself, and the run is then noted as interrupted.
            tracing::warn!(
                job = self.job,
                error = &error as &dyn std::error::Error,
                "the end of a run could not be noted"
            );
        }
        ended
    }
}

/// How a job stands: its schedule and its newest run.
#[derive(Debug, Clone)]
pub struct Standing {
    pub job: Job,
    pub schedule: String,
    pub next_run_at: Option<Timestamp>,
    pub last_run: Option<JobRun>,
}

/// How all jobs stand.
///
/// # Errors
/// The database's.
pub async fn standing(
    conn: &mut Conn,
    rules: &Rules,
    now: Timestamp,
) -> Result<Vec<Standing>, DbError> {
    let mut all = Vec::new();
    for (job, schedule) in &rules.schedules {
        all.push(Standing {
            job: *job,
            schedule: schedule.expression().to_owned(),
            next_run_at: schedule.next_after(now).filter(|_| rules.enabled),
            last_run: runs::last_run(conn, job.name()).await?,
        });
    }
    Ok(all)
}
