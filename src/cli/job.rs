//! `bedrock_proxy job list | status | run | summaries | cleanup | reprice`: what the scheduler does, by hand or by cron.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, bail};
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{open_existing_database, progress::Teller, serve};
use crate::{
    db::{
        self, Pool, Timestamp, audit::Origin, jobs::LEASE_SECONDS, levels::Level, period::Period,
        summaries::build::Scope,
    },
    jobs::{self, Done, Job, JobError, Rules, Work, clean_up, reprice, summarise},
    settings::Settings,
};

/// As `println!`, for whom nobody needs to read: what was done is done.
macro_rules! say {
    ($($said:tt)*) => {{
        let _nobody_reads = writeln!(std::io::stdout(), $($said)*);
    }};
}

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List what can run, and when it does.
    List,
    /// Show the last and the next run of each job.
    Status,
    /// Run a job as its schedule would.
    #[command(after_help = "Example: bedrock_proxy job run price_check")]
    Run {
        /// A name of `job list`.
        name: String,
    },
    /// Build summaries of usage, and correct those of the last days.
    #[command(
        after_help = "Example: bedrock_proxy job summaries --period daily --days-back 7 --dry-run"
    )]
    Summaries {
        /// Which periods; may be given several times [jobs.usage_summaries.periods].
        #[arg(long, value_enum)]
        period: Vec<PeriodName>,
        /// How far back what is built is built again.
        #[arg(
            long,
            allow_negative_numbers = true, // and then refused, with what may be
            default_value_t = summarise::DAYS_BACK,
            value_parser = clap::value_parser!(u32).range(0..=36_500)
        )]
        days_back: u32,
        /// Only this person's, and only what is built already.
        #[arg(long)]
        user_id: Option<i64>,
        /// Only models with this id or with this in it, and only what is built already.
        #[arg(long)]
        model_id: Option<String>,
        /// Say what would change, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove usage that is older than it is kept.
    #[command(
        after_help = "Example: bedrock_proxy job cleanup --target records --days-back 60 --dry-run"
    )]
    Cleanup {
        /// What; may be given several times [all, by jobs.usage_cleanup].
        #[arg(long, value_enum)]
        target: Vec<Target>,
        /// Keep so many days of it, instead of what the settings say; without --target, of records alone.
        #[arg(
            long,
            allow_negative_numbers = true,
            value_parser = clap::value_parser!(u32).range(0..=36_500)
        )]
        days_back: Option<u32>,
        /// Say what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give calls the costs that the prices say now, after a price was wrong or missing.
    #[command(after_help = "Example: bedrock_proxy job reprice --from 2026-11-01 --dry-run")]
    Reprice {
        /// Calls from this time on: a date (its start in UTC) or RFC 3339.
        #[arg(long, value_parser = time)]
        from: Timestamp,
        /// Show the difference, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask; nobody is asked where there is no terminal.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PeriodName {
    Hourly,
    Daily,
    Weekly,
    Monthly,
}

impl From<PeriodName> for Period {
    fn from(name: PeriodName) -> Self {
        match name {
            PeriodName::Hourly => Self::Hourly,
            PeriodName::Daily => Self::Daily,
            PeriodName::Weekly => Self::Weekly,
            PeriodName::Monthly => Self::Monthly,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    Records,
    Hourly,
    Daily,
    Weekly,
    Monthly,
}

impl From<Target> for Level {
    fn from(target: Target) -> Self {
        match target {
            Target::Records => Self::Records,
            Target::Hourly => Self::Summaries(Period::Hourly),
            Target::Daily => Self::Summaries(Period::Daily),
            Target::Weekly => Self::Summaries(Period::Weekly),
            Target::Monthly => Self::Summaries(Period::Monthly),
        }
    }
}

/// RFC 3339, or a date that means its start in UTC; between the years 2000 and 2200.
fn time(text: &str) -> Result<Timestamp, String> {
    let date = || Some(text.parse::<NaiveDate>().ok()?.into());
    let time = text.parse::<DateTime<Utc>>().ok().map(|time| time.naive_utc()).or_else(date);
    let sane = time.filter(|time: &Timestamp| (2000..2200).contains(&chrono::Datelike::year(time)));
    sane.ok_or_else(|| {
        "is neither a date such as 2026-11-21 nor RFC 3339, from 2000 to 2199".to_owned()
    })
}

/// # Errors
/// The database's; that the job runs already; that it was stopped.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<()> {
    let rules = Rules::new(settings)?;
    let pool = open_existing_database(&settings.database).await?;
    let now = db::now();
    match args.what {
        What::List => list(&rules, now),
        What::Status => status(&pool, &rules, now).await?,
        What::Run { name } => {
            let Some(job) = Job::named(&name) else {
                let names: Vec<&str> = Job::ALL.into_iter().map(Job::name).collect();
                bail!("there is no job {name}; there are {}", names.join(", "));
            };
            let done = alone(&pool, job.name(), async |work| rules.perform(job, work, now).await);
            say!("{}", done.await?.message);
        }
        What::Summaries { period, days_back, user_id, model_id, dry_run } => {
            let periods: Vec<Period> = if period.is_empty() {
                rules.periods.clone()
            } else {
                period.into_iter().map(Period::from).collect()
            };
            let scope = Scope { user_id, model: model_id };
            if dry_run {
                say!("nothing is changed; it would be:");
                for report in summarise::preview(&pool, &periods, days_back, &scope, now).await? {
                    say!("{report}");
                }
            } else {
                let done = alone(&pool, Job::UsageSummaries.name(), async |work| {
                    summarise::summarise(work, &periods, days_back, &scope, now).await
                });
                say!("{}", done.await?.message);
            }
        }
        What::Cleanup { target, days_back, dry_run } => {
            let kept = kept(&rules, &target, days_back);
            if dry_run {
                say!("nothing is removed; it would be:");
                for report in clean_up::preview(&pool, &kept, now).await? {
                    say!("{report}");
                }
            } else {
                let done = alone(&pool, Job::UsageCleanup.name(), async |work| {
                    clean_up::clean_up(work, &kept, now, &Origin::operator()).await
                });
                say!("{}", done.await?.message);
            }
        }
        What::Reprice { from, dry_run, yes } => {
            let teller = Teller::new();
            let told = |done| teller.tell(jobs::Progress { doing: "calls", done, of: None });
            let preview = reprice::preview(&pool, from, told).await?;
            drop(teller);
            show(&preview, from);
            if dry_run || preview.differences.is_empty() {
                return Ok(());
            }
            if !yes && std::io::stdin().is_terminal() && !agrees()? {
                bail!("nothing was changed");
            }
            let done = alone(&pool, reprice::NAME, async |work| {
                reprice::reprice(work, from, &Origin::operator()).await
            });
            say!("{}", done.await?.message);
        }
    }
    pool.close();
    Ok(())
}

/// Which levels, and how many days of them are kept.
fn kept(rules: &Rules, targets: &[Target], days_back: Option<u32>) -> Vec<(Level, u32)> {
    let wanted: Vec<Level> = match (targets, days_back) {
        ([], Some(_)) => vec![Level::Records],
        ([], None) => Level::ALL.to_vec(),
        (targets, _) => targets.iter().map(|target| Level::from(*target)).collect(),
    };
    let kept = rules.retention().into_iter().filter(|(level, _)| wanted.contains(level));
    kept.map(|(level, days)| (level, days_back.unwrap_or(days))).collect()
}

fn list(rules: &Rules, now: Timestamp) {
    say!("{:<16}  {:<16}  {:<20}  ABOUT", "NAME", "SCHEDULE", "NEXT RUN (UTC)");
    for job in Job::ALL {
        let Some(schedule) = rules.schedule(job) else { continue };
        let next = shown_next(rules, schedule.next_after(now));
        say!("{:<16}  {:<16}  {next:<20}  {}", job.name(), schedule.expression(), job.about());
    }
    say!("schedules are in {}; besides, there is `job reprice`", rules.zone().name());
}

fn shown_next(rules: &Rules, next: Option<Timestamp>) -> String {
    match next {
        _ if !rules.enabled => "never (jobs.enabled)".to_owned(),
        Some(next) => next.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => "never".to_owned(),
    }
}

async fn status(pool: &Pool, rules: &Rules, now: Timestamp) -> anyhow::Result<()> {
    let all = jobs::standing(&mut pool.reader().await?, rules, now).await?;
    for jobs::Standing { job, next_run_at, last_run, .. } in all {
        say!("{}: next run {}", job.name(), shown_next(rules, next_run_at));
        let Some(run) = last_run else {
            say!("  has not run yet");
            continue;
        };
        let started = run.started_at.format("%Y-%m-%d %H:%M:%S");
        let outcome = run.outcome.as_deref().unwrap_or("running");
        let mut line = format!("  last run {started} on {}: {outcome}", run.instance);
        if let Some(finished) = run.finished_at {
            // The clock may have been set back meanwhile.
            let took = (finished - run.started_at).num_milliseconds().max(0);
            line.push_str(&format!(", {}.{:03} s", took / 1000, took % 1000));
        }
        if let Some(rows) = run.rows {
            line.push_str(&format!(", {rows} rows"));
        }
        say!("{line}");
        for line in run.message.unwrap_or_default().lines() {
            say!("    {line}");
        }
    }
    Ok(())
}

/// Runs a job under its lease, with progress, until SIGTERM or Ctrl-C asks it to stop at its next safe point.
async fn alone(
    pool: &Pool,
    job: &'static str,
    work: impl AsyncFnOnce(&Work<'_>) -> Result<Done, JobError>,
) -> anyhow::Result<Done> {
    let stop = CancellationToken::new();
    let (stopped, _) = serve::signals()?;
    let told = stop.clone();
    actix_rt::spawn(async move {
        stopped.await;
        told.cancel();
    });
    let run = loop {
        // A run that died holds its lease for a while.
        let until = std::time::Instant::now() + Duration::from_secs(LEASE_SECONDS as u64 + 5);
        match jobs::begin(pool, job, None).await {
            Ok(Some(run)) => break run,
            Err(JobError::Running { holder, .. }) => {
                eprintln!("{job} runs on {holder}; waiting for it");
                if !frees(pool, job, until, &stop).await {
                    bail!("{job} still runs on {holder}: see `bedrock_proxy job status`");
                }
            }
            Ok(None) => bail!("{job} has nothing to do"),
            Err(error) => return Err(error.into()),
        }
    };
    let teller = Teller::new();
    let tell = |progress: jobs::Progress<'_>| teller.tell(progress);
    let work_of = Work { pool, fence: Some(run.fence()), stop, progress: &tell };
    let ended = run.of(pool, work(&work_of)).await;
    drop(teller);
    ended.with_context(|| format!("{job} was not done"))
}

/// Waits until the job's lease can be had, or the time is over. Answers whether it can.
async fn frees(
    pool: &Pool,
    job: &str,
    until: std::time::Instant,
    stop: &CancellationToken,
) -> bool {
    const LOOK: Duration = Duration::from_millis(500);
    while std::time::Instant::now() < until && !stop.is_cancelled() {
        tokio::time::sleep(LOOK).await;
        let Ok(mut conn) = pool.reader().await else { continue };
        if matches!(db::jobs::is_free(&mut conn, job, db::now()).await, Ok(true)) {
            return true;
        }
    }
    false
}

fn show(preview: &reprice::Preview, from: Timestamp) {
    for ((region, model), difference) in &preview.differences {
        say!("{model} in {region}: {difference}");
    }
    let total = preview.total();
    say!("{} of {} calls would change: {total}", total.calls, preview.looked_at);
    if from < preview.rows_from {
        let rows_from = preview.rows_from.format("%Y-%m-%dT%H:%MZ");
        say!("calls from before {rows_from} are cleaned up: their summaries stay as they are");
    }
}

fn agrees() -> anyhow::Result<bool> {
    print!("Change them? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
