//! SummaryScheduler: runs jobs by their schedules, once a slot across instances, and when an admin asks. What is due is
//! looked at every second by the wall clock, so that neither a step of the clock nor a pause of the process matters: of
//! all slots that went by, the newest is run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    db::{self, DbError, Pool, Timestamp, jobs as runs},
    jobs::{self, Done, Job, JobError, Rules, Run, Work},
    telemetry::{Metrics, causes},
};

const LOOK: Duration = Duration::from_secs(1);
/// How often a slot is tried that another instance is running, or that the database was away for.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Run a job now. Answers the run's id.
#[derive(Message)]
#[rtype(result = "Result<i64, JobError>")]
pub struct Start(pub Job);

/// Start no more jobs, and let those that run come to their next safe point. Answers how many are still running when the
/// time is over.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct StopJobs {
    pub within: Duration,
}

/// What is known of a job's slots.
#[derive(Default)]
struct Slots {
    /// The newest slot that was dealt with; `None` until the database has told.
    seen: Option<Timestamp>,
    /// A slot whose run is still to be had, or to be seen to its end by whoever has it.
    due: Option<Timestamp>,
    tried: Option<Instant>,
    /// Whether it is being asked for, or runs here.
    busy: bool,
}

pub struct SummaryScheduler {
    pool: Pool,
    rules: Arc<Rules>,
    slots: BTreeMap<Job, Slots>,
    stop: CancellationToken,
    running: usize,
    /// Those who wait for the last run to end.
    waiting: Vec<oneshot::Sender<()>>,
    metrics: Metrics,
}

impl SummaryScheduler {
    pub fn new(pool: Pool, rules: Arc<Rules>, metrics: Metrics) -> Self {
        Self {
            pool,
            rules,
            slots: Job::ALL.into_iter().map(|job| (job, Slots::default())).collect(),
            stop: CancellationToken::new(),
            running: 0,
            waiting: Vec::new(),
            metrics,
        }
    }

    /// Looks what is due.
    fn look(&mut self, context: &mut Context<Self>) {
        if self.stop.is_cancelled() || !self.rules.enabled {
            return;
        }
        let now = db::now();
        for job in Job::ALL {
            let Some(schedule) = self.rules.schedule(job) else { continue };
            let Some(slots) = self.slots.get_mut(&job) else { continue };
            // A clock that was ahead does not keep slots waiting until it is there again; those that had their run are
            // known.
            slots.seen = slots.seen.map(|seen| seen.min(now));
            if let Some(seen) = slots.seen
                && let Some(slot) = schedule.latest_in(seen, now)
            {
                slots.seen = Some(slot);
                slots.due = Some(slot);
                slots.tried = None;
            }
            let rested = slots.tried.is_none_or(|tried| tried.elapsed() >= TRY_AGAIN);
            if slots.busy || !rested {
                continue;
            }
            match (slots.seen, slots.due) {
                (None, _) => self.learn(job, now, context),
                (Some(_), Some(slot)) => self.take(job, slot, context),
                (Some(_), None) => {}
            }
        }
    }

    /// Asks the database for the newest slot that was run. Without any, nothing was missed.
    fn learn(&mut self, job: Job, now: Timestamp, context: &mut Context<Self>) {
        self.set_busy(job);
        let pool = self.pool.clone();
        let asked = async move { runs::last_slot(&mut pool.reader().await?, job.name()).await };
        context.spawn(asked.into_actor(self).map(move |told: Result<_, DbError>, actor, _| {
            let Some(slots) = actor.slots.get_mut(&job) else { return };
            slots.busy = false;
            match told {
                Ok(last) => {
                    slots.seen = Some(last.map_or(now, |(slot, _)| slot));
                    slots.due = last.filter(|(_, over)| !over).map(|(slot, _)| slot);
                    slots.tried = None;
                }
                Err(error) => {
                    tracing::debug!(job = job.name(), %error, "what is due is not known yet");
                }
            }
        }));
    }

    /// Tries to have the run of a slot.
    fn take(&mut self, job: Job, slot: Timestamp, context: &mut Context<Self>) {
        self.set_busy(job);
        let pool = self.pool.clone();
        let begun = async move { jobs::begin(&pool, job.name(), Some(slot)).await };
        context.spawn(begun.into_actor(self).map(move |begun, actor, context| match begun {
            Ok(Some(run)) => actor.run(job, run, Some(slot), context),
            Ok(None) => actor.rest(job, Some(slot)),
            Err(error) => {
                tracing::debug!(job = job.name(), %error, "a slot will be tried again");
                actor.rest(job, None);
            }
        }));
    }

    fn set_busy(&mut self, job: Job) {
        if let Some(slots) = self.slots.get_mut(&job) {
            slots.busy = true;
            slots.tried = Some(Instant::now());
        }
    }

    /// The job does not run here any more; `over` is the slot that needs no more looking after.
    fn rest(&mut self, job: Job, over: Option<Timestamp>) {
        if let Some(slots) = self.slots.get_mut(&job) {
            slots.busy = false;
            if over.is_some() {
                // Another that came meanwhile has not been tried yet.
                slots.tried = None;
                slots.due = slots.due.filter(|due| Some(*due) != over);
            }
        }
    }

    /// `slot`: what it is the run of; `None` = somebody asked for it.
    fn run(&mut self, job: Job, run: Run, slot: Option<Timestamp>, context: &mut Context<Self>) {
        self.set_busy(job);
        self.running += 1;
        let (pool, rules, stop) = (self.pool.clone(), self.rules.clone(), self.stop.clone());
        let work = async move {
            let work =
                Work { pool: &pool, fence: Some(run.fence()), stop, progress: &|_progress| {} };
            let began = Instant::now();
            let ended = run.of(&pool, rules.perform(job, &work, db::now())).await;
            (ended, began.elapsed())
        };
        context.spawn(work.into_actor(self).map(move |(ended, took), actor, context| {
            actor.ended(job, slot, &ended, took);
            actor.look(context);
        }));
    }

    fn ended(
        &mut self,
        job: Job,
        slot: Option<Timestamp>,
        ended: &Result<Done, JobError>,
        took: Duration,
    ) {
        let (name, seconds) = (job.name(), took.as_secs_f64());
        let outcome = match ended {
            Ok(Done { rows, message }) => {
                tracing::info!(job = name, rows, seconds, message, "a job is done");
                "success"
            }
            Err(JobError::Stopped) => "stopped",
            Err(error) => {
                let error = causes(error);
                tracing::error!(job = name, error, seconds, "a job failed");
                "failed"
            }
        };
        self.metrics.job_ended(name, outcome, db::now().and_utc().timestamp());
        // After an outage the run may still be open, and is taken up again; one that failed is over.
        let lost = matches!(ended, Err(JobError::Database(DbError::Unavailable(_))));
        self.rest(job, slot.filter(|_| !lost));
        self.running -= 1;
        if self.running == 0 {
            for waiting in self.waiting.drain(..) {
                let _gone = waiting.send(());
            }
        }
    }
}

impl Actor for SummaryScheduler {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.look(context);
        context.run_interval(LOOK, Self::look);
    }
}

impl Handler<Start> for SummaryScheduler {
    type Result = ResponseActFuture<Self, Result<i64, JobError>>;

    fn handle(&mut self, Start(job): Start, _: &mut Self::Context) -> Self::Result {
        let (pool, stopping) = (self.pool.clone(), self.stop.is_cancelled());
        let begun = async move {
            if stopping {
                return Err(JobError::Stopped);
            }
            jobs::begin(&pool, job.name(), None).await
        };
        Box::pin(begun.into_actor(self).map(move |begun, actor, context| {
            // Without a slot there is none that had its run already.
            let run = begun?.ok_or(JobError::Stopped)?;
            let id = run.id;
            actor.run(job, run, None, context);
            Ok(id)
        }))
    }
}

impl Handler<StopJobs> for SummaryScheduler {
    type Result = ResponseActFuture<Self, usize>;

    fn handle(&mut self, StopJobs { within }: StopJobs, _: &mut Self::Context) -> Self::Result {
        self.stop.cancel();
        let (done, all_ended) = oneshot::channel();
        if self.running == 0 {
            let _waits = done.send(());
        } else {
            self.waiting.push(done);
        }
        let wait = tokio::time::timeout(within, all_ended);
        Box::pin(wait.into_actor(self).map(|_, actor, _| actor.running))
    }
}
