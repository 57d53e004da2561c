//! UsageRecorder: writes usage rows in batches, keeps them while the database is away, reads back what left memory or
//! belonged to a process that died, and releases in the journal what is committed.

use std::{
    collections::VecDeque, fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf,
    sync::Arc, time::Duration,
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use tokio::sync::oneshot;

use crate::{
    db::{DbError, Pool, usage as rows, usage::NewUsage},
    settings,
    telemetry::Metrics,
    usage::{
        call::Closed,
        journal::{
            Directory, Receipt, Segment,
            recovery::{self, Recovered},
        },
    },
};

/// Rows kept in memory while the database is away; more stay in the journal only.
const KEPT: usize = 20_000;
/// Pauses between attempts on a database that is away.
const BACK_OFF: [u64; 3] = [250, 500, 1000];
/// How long a worker may take to go on in another file.
const SEALED_SOON: Duration = Duration::from_millis(250);
/// How often journals of processes that died, and spilled segments, are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// These calls are closed and in the journal; write them.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Record(pub Vec<Closed>);

/// Write everything, also what only the journal has. Answers how many rows are left unwritten when the database stays
/// away for `within`; those stay in the journal.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Flush {
    pub within: Duration,
}

pub struct UsageRecorder {
    pool: Pool,
    journal: Option<Arc<Directory>>,
    batch_size: usize,
    batch_delay: Duration,
    pending: VecDeque<Closed>,
    writing: bool,
    replaying: bool,
    /// Whether [`SEALED_SOON`] is running.
    will_look: bool,
    failures: usize,
    /// Those who wait for everything to be written.
    waiting: Vec<oneshot::Sender<()>>,
    metrics: Metrics,
}

/// A batch on its way to the database: the rows, and the receipts to release afterwards.
struct Batch {
    rows: Arc<Vec<NewUsage>>,
    receipts: Vec<Receipt>,
}

impl UsageRecorder {
    pub fn new(
        pool: Pool,
        journal: Option<Arc<Directory>>,
        settings: &settings::Usage,
        metrics: Metrics,
    ) -> Self {
        Self {
            pool,
            journal,
            batch_size: settings.batch_size,
            batch_delay: Duration::from_millis(settings.batch_delay_ms),
            pending: VecDeque::new(),
            writing: false,
            replaying: false,
            will_look: false,
            failures: 0,
            waiting: Vec::new(),
            metrics,
        }
    }

    /// Starts a write unless one is under way; a short batch only if `even_short`.
    fn write(&mut self, context: &mut Context<Self>, even_short: bool) {
        let ready =
            self.pending.len() >= self.batch_size || (even_short && !self.pending.is_empty());
        if self.writing || !ready {
            return;
        }
        self.writing = true;
        let take = self.pending.len().min(self.batch_size);
        let (rows, receipts): (Vec<NewUsage>, Vec<Receipt>) = self.pending.drain(..take).unzip();
        let batch = Batch { rows: Arc::new(rows), receipts };
        let (pool, rejects) = (self.pool.clone(), self.rejects());
        let work = async move {
            let written = write_rows(&pool, &batch.rows, rejects).await;
            (written, batch)
        };
        context.spawn(work.into_actor(self).map(|(written, batch), actor, context| {
            actor.writing = false;
            actor.wrote(written, batch, context);
        }));
    }

    fn wrote(
        &mut self,
        written: Result<Written, DbError>,
        batch: Batch,
        context: &mut Context<Self>,
    ) {
        match written {
            Ok(Written { rows, rejected }) => {
                if self.failures > 0 {
                    tracing::info!("usage rows reach the database again");
                }
                self.failures = 0;
                self.metrics.batch_rows.observe(batch.rows.len() as f64);
                self.metrics.rows_written.inc_by(rows as u64);
                self.metrics.rows_rejected.inc_by(rejected as u64);
                batch.receipts.into_iter().for_each(Receipt::release);
                self.write(context, true);
                self.look_back(context);
                self.tell_waiting();
            }
            Err(error) => {
                let pause =
                    BACK_OFF.get(self.failures).or(BACK_OFF.last()).copied().unwrap_or_default();
                if self.failures == 0 {
                    tracing::error!(%error, rows = batch.rows.len(), "usage rows wait for the database");
                }
                self.failures += 1;
                self.metrics.batch_failures.inc();
                let rows = Arc::try_unwrap(batch.rows).unwrap_or_else(|shared| (*shared).clone());
                for call in rows.into_iter().zip(batch.receipts).rev() {
                    self.pending.push_front(call);
                }
                self.spill();
                context.run_later(Duration::from_millis(pause), |actor, context| {
                    actor.write(context, true)
                });
            }
        }
    }

    /// Keeps memory bounded: the newest rows beyond [`KEPT`] stay in the journal only.
    fn spill(&mut self) {
        while self.pending.len() > KEPT {
            let Some((row, receipt)) = self.pending.pop_back() else { return };
            if !receipt.is_in_journal() {
                // Served without the journal: memory is all there is. The bound is on what can be read back.
                self.pending.push_front((row, receipt));
                return;
            }
            drop((row, receipt));
        }
    }

    /// Replays, one at a time and only while nothing in memory waits: spilled segments, then journals of the dead.
    fn look_back(&mut self, context: &mut Context<Self>) {
        if self.replaying || self.failures > 0 || self.pending.len() >= self.batch_size {
            return;
        }
        let spilled = self.spilled();
        for segment in &spilled {
            segment.want_seal();
        }
        let waiting = !spilled.is_empty();
        let ready = spilled.into_iter().find(|segment| segment.is_ready_to_replay());
        let (pool, rejects) = (self.pool.clone(), self.rejects());
        self.replaying = true;
        if let Some(segment) = ready {
            let work = async move {
                let path = segment.path().to_owned();
                let replayed = replay(&pool, rejects, move || recovery::closed_calls(&path)).await;
                (segment, replayed)
            };
            context.spawn(work.into_actor(self).map(|(segment, replayed), actor, context| {
                if let Some(calls) = actor.replayed(replayed) {
                    segment.forget(calls as u64);
                }
                actor.write(context, true);
                actor.look_back(context);
                actor.tell_waiting();
            }));
            return;
        }
        if waiting {
            // Their workers have been asked to go on in another file.
            self.replaying = false;
            if !std::mem::replace(&mut self.will_look, true) {
                context.run_later(SEALED_SOON, |actor, context| {
                    actor.will_look = false;
                    actor.look_back(context);
                });
            }
            return;
        }
        let Some(journal) = self.journal.clone() else {
            self.replaying = false;
            return;
        };
        let work = async move { replay_orphans(&pool, rejects, journal).await };
        context.spawn(work.into_actor(self).map(|replayed, actor, _| {
            actor.replayed(replayed);
            actor.tell_waiting();
        }));
    }

    /// Counts a replay. Answers the number of calls in it, if it succeeded.
    fn replayed(&mut self, replayed: Result<Replayed, DbError>) -> Option<usize> {
        self.replaying = false;
        match replayed {
            Ok(Replayed { calls, written, damaged }) => {
                self.metrics.rows_written.inc_by(written.rows as u64);
                self.metrics.rows_rejected.inc_by(written.rejected as u64);
                self.metrics.journal_damaged.inc_by(damaged as u64);
                if damaged > 0 {
                    tracing::error!(damaged, "damaged journal records were passed over");
                }
                Some(calls)
            }
            Err(error) => {
                tracing::warn!(%error, "a journal could not be replayed yet");
                None
            }
        }
    }

    /// Segments with rows that left memory.
    fn spilled(&self) -> Vec<Arc<Segment>> {
        self.journal.as_ref().map(|journal| journal.spilled()).unwrap_or_default()
    }

    fn tell_waiting(&mut self) {
        if self.pending.is_empty() && !self.writing && self.spilled().is_empty() && !self.replaying
        {
            for waiting in self.waiting.drain(..) {
                let _gone = waiting.send(());
            }
        }
    }

    /// Where rows go that the database refuses for what they are.
    fn rejects(&self) -> PathBuf {
        self.journal
            .as_ref()
            .map(|journal| journal.rejects())
            .unwrap_or_else(|| "rejected.jsonl".into())
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Written {
    rows: usize,
    rejected: usize,
}

/// Writes rows. If the database refuses the batch for one of them, each is tried alone, and the bad one is kept in a
/// file: it must neither be lost nor hold up the others.
async fn write_rows(
    pool: &Pool,
    rows: &Arc<Vec<NewUsage>>,
    rejects: PathBuf,
) -> Result<Written, DbError> {
    let mut conn = pool.writer().await?;
    match rows::insert_all(&mut conn, rows.clone()).await {
        Ok(rows) => return Ok(Written { rows, rejected: 0 }),
        Err(DbError::Query(cause)) => {
            tracing::error!(%cause, "a batch was refused; trying its rows one by one")
        }
        Err(error) => return Err(error),
    }
    let mut written = Written::default();
    for row in rows.iter() {
        match rows::insert_all(&mut conn, Arc::new(vec![row.clone()])).await {
            Ok(count) => written.rows += count,
            Err(DbError::Query(cause)) => {
                tracing::error!(%cause, call_id = row.call_id, file = %rejects.display(), "a usage row was refused");
                keep_rejected(&rejects, row).map_err(|error| DbError::Unavailable(error.into()))?;
                written.rejected += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn keep_rejected(path: &PathBuf, row: &NewUsage) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(row)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(&line)?;
    file.sync_data()
}

#[derive(Debug, Default)]
struct Replayed {
    calls: usize,
    written: Written,
    damaged: usize,
}

/// Reads rows on a blocking thread and writes them in batches.
async fn replay(
    pool: &Pool,
    rejects: PathBuf,
    read: impl FnOnce() -> std::io::Result<Recovered> + Send + 'static,
) -> Result<Replayed, DbError> {
    const BATCH: usize = 500;
    let unreadable = |error: std::io::Error| DbError::Unavailable(error.into());
    let recovered = tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| unreadable(e.into()))?
        .map_err(unreadable)?;
    let mut replayed =
        Replayed { calls: recovered.rows.len(), damaged: recovered.damaged, ..Replayed::default() };
    for rows in recovered.rows.chunks(BATCH) {
        let written = write_rows(pool, &Arc::new(rows.to_vec()), rejects.clone()).await?;
        replayed.written.rows += written.rows;
        replayed.written.rejected += written.rejected;
    }
    Ok(replayed)
}

async fn replay_orphans(
    pool: &Pool,
    rejects: PathBuf,
    journal: Arc<Directory>,
) -> Result<Replayed, DbError> {
    let unreadable = |error: std::io::Error| DbError::Unavailable(error.into());
    let found = tokio::task::spawn_blocking(move || recovery::orphans(&journal)).await;
    let mut all = Replayed::default();
    for orphan in found.map_err(|e| unreadable(e.into()))?.map_err(unreadable)? {
        let orphan = Arc::new(orphan);
        let reader = orphan.clone();
        let replayed = replay(pool, rejects.clone(), move || reader.read()).await?;
        tracing::info!(
            calls = replayed.calls,
            new = replayed.written.rows,
            damaged = replayed.damaged,
            "replayed the journal of a process that is gone"
        );
        all.written.rows += replayed.written.rows;
        all.written.rejected += replayed.written.rejected;
        all.damaged += replayed.damaged;
        if let Some(orphan) = Arc::into_inner(orphan) {
            orphan.remove().map_err(unreadable)?;
        }
    }
    Ok(all)
}

impl Actor for UsageRecorder {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(self.batch_delay, |actor, context| {
            if actor.failures == 0 {
                actor.write(context, true);
            }
            if let Some(journal) = &actor.journal {
                actor.metrics.journal_depth.set(i64::try_from(journal.depth()).unwrap_or(i64::MAX));
                actor.metrics.journal_bytes.set(i64::try_from(journal.bytes()).unwrap_or(i64::MAX));
            }
        });
        self.look_back(context);
        context.run_interval(LOOK, |actor, context| actor.look_back(context));
    }
}

impl Handler<Record> for UsageRecorder {
    type Result = ();

    fn handle(&mut self, Record(calls): Record, context: &mut Self::Context) {
        self.pending.extend(calls);
        if self.failures == 0 {
            self.write(context, false);
        }
        self.spill();
    }
}

impl Handler<Flush> for UsageRecorder {
    type Result = ResponseActFuture<Self, usize>;

    fn handle(&mut self, Flush { within }: Flush, context: &mut Self::Context) -> Self::Result {
        let (done, all_written) = oneshot::channel();
        self.waiting.push(done);
        self.write(context, true);
        self.look_back(context);
        self.tell_waiting();
        let wait = tokio::time::timeout(within, all_written);
        Box::pin(wait.into_actor(self).map(|_, actor, _| actor.pending.len()))
    }
}
