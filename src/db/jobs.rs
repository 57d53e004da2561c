//! Runs of jobs, and the leases that keep them from overlapping. A lease is held for a while and renewed; each taking
//! raises its token, and what writes for a job checks the token in its own transaction (a fence), so that an instance
//! which lost its lease without noticing changes nothing.

use chrono::TimeDelta;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp, in_transaction, on_conn,
    schema::{job_leases, job_runs},
};

/// How long a lease lasts without being renewed.
pub const LEASE_SECONDS: i64 = 30;
/// The holder of a lease that was given back: free whatever the clock says, which may have stepped back since.
const NOBODY: &str = "";
/// So often the run of a slot is begun when it dies or is stopped half-way; what it did stays done.
const ATTEMPTS: i64 = 5;

/// A run of a job.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = job_runs)]
pub struct JobRun {
    pub id: i64,
    pub job: String,
    /// The time of the schedule that it is for; `None` = somebody asked for it.
    pub slot: Option<Timestamp>,
    pub attempt: i64,
    pub token: i64,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// `success`, `failed`, `stopped` (a shutdown) or `interrupted` (its process died); `None` = it runs.
    pub outcome: Option<String>,
    /// Rows that it changed; `None` unless it succeeded: what it did until then is done, and not counted.
    pub rows: Option<i64>,
    pub message: Option<String>,
    pub instance: String,
}

/// What became of the wish to run a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    Taken {
        run_id: i64,
        token: i64,
    },
    /// It runs already; by this instance, which must have renewed its lease by this time.
    Running {
        holder: String,
        until: Timestamp,
    },
    /// The slot has had its run.
    SlotDone,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Success,
    Failed,
    Stopped,
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

fn lease_end(now: Timestamp) -> Timestamp {
    now.checked_add_signed(TimeDelta::seconds(LEASE_SECONDS)).unwrap_or(now)
}

/// Takes a job's lease and begins a run, for a slot of its schedule or because somebody asks. Runs that died are noted as
/// `interrupted`.
pub async fn claim(
    conn: &mut Conn,
    job: &str,
    slot: Option<Timestamp>,
    holder: &str,
    now: Timestamp,
) -> Result<Claim, DbError> {
    in_transaction!(conn, c => {
        let free = (
            job_leases::job.eq(job),
            job_leases::token.eq(0),
            job_leases::holder.eq(NOBODY),
            job_leases::expires_at.eq(now),
        );
        diesel::insert_into(job_leases::table).values(free).on_conflict_do_nothing().execute(c).await?;
        // Of several who try, the others wait here for the first, and then find the lease taken.
        let free = job_leases::table
            .find(job)
            .filter(job_leases::expires_at.le(now).or(job_leases::holder.eq(NOBODY)));
        let token: Option<i64> = diesel::update(free)
            .set((
                job_leases::token.eq(job_leases::token + 1),
                job_leases::holder.eq(holder),
                job_leases::expires_at.eq(lease_end(now)),
            ))
            .returning(job_leases::token)
            .get_result(c)
            .await
            .optional()?;
        let Some(token) = token else {
            let lease = job_leases::table.find(job).select((job_leases::holder, job_leases::expires_at));
            let (holder, until) = lease.first(c).await?;
            return Ok::<_, DbError>(Claim::Running { holder, until });
        };
        let known: Option<(i64, i64, Option<String>)> = match slot {
            Some(slot) => {
                job_runs::table
                    .filter(job_runs::job.eq(job).and(job_runs::slot.eq(slot)))
                    .select((job_runs::id, job_runs::attempt, job_runs::outcome))
                    .first(c)
                    .await
                    .optional()?
            }
            None => None,
        };
        let resumed = known.as_ref().filter(|(_, attempt, outcome)| {
            !is_over(outcome.as_deref()) && *attempt < ATTEMPTS
        });
        // Whoever ran without a lease by now is dead.
        let dead = job_runs::table
            .filter(job_runs::job.eq(job).and(job_runs::finished_at.is_null()))
            .filter(job_runs::id.ne(resumed.map_or(0, |(id, ..)| *id)));
        diesel::update(dead)
            .set((job_runs::finished_at.eq(now), job_runs::outcome.eq("interrupted")))
            .execute(c)
            .await?;
        let run_id = match (&known, resumed) {
            (_, Some((id, attempt, _))) => {
                diesel::update(job_runs::table.find(*id))
                    .set((
                        job_runs::finished_at.eq(None::<Timestamp>),
                        job_runs::outcome.eq(None::<String>),
                        job_runs::attempt.eq(attempt + 1),
                        job_runs::token.eq(token),
                        job_runs::started_at.eq(now),
                        job_runs::instance.eq(holder),
                    ))
                    .execute(c)
                    .await?;
                *id
            }
            (Some(_), None) => {
                let release = (job_leases::holder.eq(NOBODY), job_leases::expires_at.eq(now));
                diesel::update(job_leases::table.find(job)).set(release).execute(c).await?;
                return Ok(Claim::SlotDone);
            }
            (None, None) => {
                let run = (
                    job_runs::job.eq(job),
                    job_runs::slot.eq(slot),
                    job_runs::attempt.eq(1),
                    job_runs::token.eq(token),
                    job_runs::started_at.eq(now),
                    job_runs::instance.eq(holder),
                );
                let insert = diesel::insert_into(job_runs::table).values(run).returning(job_runs::id);
                insert.get_result(c).await?
            }
        };
        Ok(Claim::Taken { run_id, token })
    })
}

/// Holds a lease for longer. Answers whether it is still held.
pub async fn renew(
    conn: &mut Conn,
    job: &str,
    token: i64,
    now: Timestamp,
) -> Result<bool, DbError> {
    let held = job_leases::table.find(job).filter(job_leases::token.eq(token));
    let longer = job_leases::expires_at.eq(lease_end(now));
    let renewed = on_conn!(conn, c => diesel::update(held).set(longer).execute(c).await)?;
    Ok(renewed > 0)
}

/// Ends a run, and gives its lease back. A run that lost its lease stays as whoever took it over left it.
pub async fn finish(
    conn: &mut Conn,
    job: &str,
    run_id: i64,
    token: i64,
    (ending, rows, message): (Ending, Option<i64>, &str),
    now: Timestamp,
) -> Result<(), DbError> {
    in_transaction!(conn, c => {
        let run = job_runs::table
            .filter(job_runs::id.eq(run_id).and(job_runs::token.eq(token)))
            .filter(job_runs::finished_at.is_null());
        diesel::update(run)
            .set((
                job_runs::finished_at.eq(now),
                job_runs::outcome.eq(ending.as_str()),
                job_runs::rows.eq(rows),
                job_runs::message.eq(message),
            ))
            .execute(c)
            .await?;
        let held = job_leases::table.find(job).filter(job_leases::token.eq(token));
        let release = (job_leases::holder.eq(NOBODY), job_leases::expires_at.eq(now));
        diesel::update(held).set(release).execute(c).await?;
        Ok::<(), DbError>(())
    })
}

/// The newest run of a job.
pub async fn last_run(conn: &mut Conn, job: &str) -> Result<Option<JobRun>, DbError> {
    let query = job_runs::table.filter(job_runs::job.eq(job)).order(job_runs::id.desc());
    let found = on_conn!(conn, c => query.select(JobRun::as_select()).first(c).await.optional());
    Ok(found?)
}

/// The newest runs of all jobs.
pub async fn recent(conn: &mut Conn, limit: i64) -> Result<Vec<JobRun>, DbError> {
    let query = job_runs::table.order(job_runs::id.desc()).limit(limit);
    Ok(on_conn!(conn, c => query.select(JobRun::as_select()).load(c).await)?)
}

/// A run by its id.
pub async fn run(conn: &mut Conn, id: i64) -> Result<Option<JobRun>, DbError> {
    let query = job_runs::table.find(id);
    Ok(on_conn!(conn, c => query.select(JobRun::as_select()).first(c).await.optional())?)
}

/// Whether a run with this outcome needs no other. One that failed does not: it would fail again.
fn is_over(outcome: Option<&str>) -> bool {
    !matches!(outcome, None | Some("stopped" | "interrupted"))
}

/// The newest slot of a job that has had a run, and whether that is over.
pub async fn last_slot(conn: &mut Conn, job: &str) -> Result<Option<(Timestamp, bool)>, DbError> {
    let query = job_runs::table
        .filter(job_runs::job.eq(job).and(job_runs::slot.is_not_null()))
        .order(job_runs::slot.desc())
        .select((job_runs::slot, job_runs::outcome));
    let found: Option<(Option<Timestamp>, Option<String>)> =
        on_conn!(conn, c => query.first(c).await.optional())?;
    Ok(found.and_then(|(slot, outcome)| Some((slot?, is_over(outcome.as_deref())))))
}

/// Removes runs that began before `end`, but the newest of each job. Answers how many.
pub async fn forget_before(conn: &mut Conn, job: &str, end: Timestamp) -> Result<usize, DbError> {
    let Some(newest) = last_run(conn, job).await? else { return Ok(0) };
    let slot = last_slot(conn, job).await?.map(|(slot, _)| slot);
    let old = job_runs::table
        .filter(job_runs::job.eq(job).and(job_runs::id.ne(newest.id)))
        .filter(job_runs::started_at.lt(end))
        .filter(job_runs::slot.is_null().or(job_runs::slot.lt(slot.unwrap_or(end))));
    Ok(on_conn!(conn, c => diesel::delete(old).execute(c).await)?)
}

/// Whether a job's lease could be taken.
pub async fn is_free(conn: &mut Conn, job: &str, now: Timestamp) -> Result<bool, DbError> {
    let query = job_leases::table.find(job).select((job_leases::holder, job_leases::expires_at));
    let held: Option<(String, Timestamp)> = on_conn!(conn, c => query.first(c).await.optional())?;
    Ok(held.is_none_or(|(holder, until)| holder == NOBODY || until <= now))
}
