//! UsageRecorder: writes usage rows in batches, keeps them while the database is away, reads back what left memory or
//! belonged to a process that died, and releases in the journal what is committed.

use std::{
    collections::{HashSet, VecDeque},
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::{
    cache::{Moment, TypedCache},
    db::{self, DbError, Pool, usage as rows, usage::Inserted, usage::NewUsage},
    pricing::ledger::Ledger,
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
/// A batch is priced anew when the price ledger changed meanwhile; so often, and then it waits.
const LEDGER_CHANGES: usize = 10;
/// Models without a price that are warned of; their number is the operator's affair, memory is ours.
const MODELS_WARNED_OF: usize = 1000;
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

/// Whatever is known of prices may be outdated: the next batch reads them.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ForgetPrices;

pub struct UsageRecorder {
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
    writer: Writer,
    /// Models without a price that were warned of.
    unpriced: HashSet<(String, String)>,
    metrics: Metrics,
}

/// A batch on its way to the database: the rows, and the receipts to release afterwards.
struct Batch {
    rows: Vec<NewUsage>,
    receipts: Vec<Receipt>,
}

impl UsageRecorder {
    pub fn new(
        pool: Pool,
        cache: TypedCache,
        journal: Option<Arc<Directory>>,
        settings: &settings::Usage,
        metrics: Metrics,
    ) -> Self {
        // Where rows go that the database refuses for what they are.
        let rejects = journal.as_ref().map_or_else(|| "rejected.jsonl".into(), |j| j.rejects());
        Self {
            writer: Writer {
                pool,
                cache,
                prices: Arc::default(),
                forgot: Arc::default(),
                rejects,
                metrics: metrics.clone(),
            },
            unpriced: HashSet::new(),
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
        let mut batch = Batch { rows, receipts };
        let writer = self.writer.clone();
        let work = async move {
            let written = writer.write(&mut batch.rows).await;
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
            Ok(written) => {
                if self.failures > 0 {
                    tracing::info!("usage rows reach the database again");
                }
                self.failures = 0;
                self.metrics.batch_rows.observe(batch.rows.len() as f64);
                self.count(written);
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
                for call in batch.rows.into_iter().zip(batch.receipts).rev() {
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
        let writer = self.writer.clone();
        self.replaying = true;
        if let Some(segment) = ready {
            let work = async move {
                let path = segment.path().to_owned();
                let replayed = replay(&writer, move || recovery::closed_calls(&path)).await;
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
        let work = async move { replay_orphans(&writer, journal).await };
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
                self.count(written);
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

    /// Counts what was written; a model without a price is warned of once.
    fn count(&mut self, written: Written) {
        self.metrics.rows_written.inc_by(written.rows as u64);
        self.metrics.rows_rejected.inc_by(written.rejected as u64);
        self.metrics.cost.inc_by(written.nano_usd as f64 / 1e9);
        self.metrics.unpriced_calls.inc_by(written.unpriced as u64);
        for (region, model) in written.without_price {
            if self.unpriced.len() < MODELS_WARNED_OF
                && self.unpriced.insert((region.clone(), model.clone()))
            {
                tracing::warn!(region, model, "price missing: the cost of its calls is not known");
            }
        }
    }
}

#[derive(Debug, Default)]
struct Written {
    rows: usize,
    rejected: usize,
    /// Of the calls whose cost is known.
    nano_usd: i64,
    /// Calls that used tokens for which there is no price.
    unpriced: usize,
    /// Their regions and models.
    without_price: HashSet<(String, String)>,
}

impl Written {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.rejected += other.rejected;
        self.nano_usd += other.nano_usd;
        self.unpriced += other.unpriced;
        self.without_price.extend(other.without_price);
    }

    fn note_costs(&mut self, rows: &[NewUsage]) {
        for row in rows {
            let counts = [
                row.input_tokens,
                row.output_tokens,
                row.cache_write_tokens,
                row.cache_read_tokens,
            ];
            match row.cost_nano_usd {
                Some(nano) => self.nano_usd += nano,
                None if counts.iter().flatten().any(|count| *count > 0) => {
                    self.unpriced += 1;
                    self.without_price.insert((row.region.clone(), row.model_id.clone()));
                }
                None => {}
            }
        }
    }
}

/// What it takes to write rows, and goes along with each write.
#[derive(Clone)]
struct Writer {
    pool: Pool,
    cache: TypedCache,
    prices: Arc<ArcSwap<Ledger>>,
    /// When prices were to be forgotten, in milliseconds: what was read before that does not count.
    forgot: Arc<AtomicI64>,
    rejects: PathBuf,
    metrics: Metrics,
}

impl Writer {
    /// Prices rows and writes them. If the database refuses the batch for one of them, each is tried alone, and the bad
    /// one is kept in a file: it must neither be lost nor hold up the others.
    async fn write(&self, rows: &mut Vec<NewUsage>) -> Result<Written, DbError> {
        match self.write_priced(rows).await {
            Err(DbError::Query(cause)) => {
                tracing::error!(%cause, "a batch was refused; trying its rows one by one")
            }
            other => return other,
        }
        let mut written = Written::default();
        for row in rows.iter() {
            let mut one = vec![row.clone()];
            match self.write_priced(&mut one).await {
                Ok(more) => written.add(more),
                Err(DbError::Query(cause)) => {
                    tracing::error!(%cause, call_id = row.call_id, file = %self.rejects.display(), "a usage row was refused");
                    keep_rejected(&self.rejects, row)
                        .map_err(|error| DbError::Unavailable(error.into()))?;
                    written.rejected += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Rows get the costs of the ledger as it is when they are written: should it have changed, they are priced again.
    async fn write_priced(&self, rows: &mut Vec<NewUsage>) -> Result<Written, DbError> {
        let mut conn = self.pool.writer().await?;
        for _ in 0..LEDGER_CHANGES {
            let ledger = self.prices.load_full();
            for row in rows.iter_mut() {
                (row.cost_nano_usd, row.price_id) = ledger.price(row);
            }
            let batch = Arc::new(std::mem::take(rows));
            let inserted = rows::insert_all(&mut conn, batch.clone(), ledger.version).await;
            *rows = Arc::try_unwrap(batch).unwrap_or_else(|shared| (*shared).clone());
            match inserted? {
                Inserted::Rows(count) => {
                    let mut written = Written { rows: count, ..Written::default() };
                    written.note_costs(rows);
                    return Ok(written);
                }
                Inserted::OldPrices => {
                    let at = Moment { now: db::now(), generation: self.forgot.load(Relaxed) };
                    let ledger = Ledger::read_shared(&mut conn, &self.cache, at).await?;
                    self.metrics.know_models(ledger.models());
                    self.prices.store(Arc::new(ledger));
                }
            }
        }
        Err(DbError::Unavailable("the prices change faster than rows can be written".into()))
    }
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
    writer: &Writer,
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
        replayed.written.add(writer.write(&mut rows.to_vec()).await?);
    }
    Ok(replayed)
}

async fn replay_orphans(writer: &Writer, journal: Arc<Directory>) -> Result<Replayed, DbError> {
    let unreadable = |error: std::io::Error| DbError::Unavailable(error.into());
    let found = tokio::task::spawn_blocking(move || recovery::orphans(&journal)).await;
    let mut all = Replayed::default();
    for orphan in found.map_err(|e| unreadable(e.into()))?.map_err(unreadable)? {
        let orphan = Arc::new(orphan);
        let reader = orphan.clone();
        let replayed = replay(writer, move || reader.read()).await?;
        tracing::info!(
            calls = replayed.calls,
            new = replayed.written.rows,
            damaged = replayed.damaged,
            "replayed the journal of a process that is gone"
        );
        all.written.add(replayed.written);
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

impl Handler<ForgetPrices> for UsageRecorder {
    type Result = ();

    fn handle(&mut self, _: ForgetPrices, _: &mut Self::Context) {
        self.writer.forgot.store(db::now().and_utc().timestamp_millis(), Relaxed);
        self.writer.prices.store(Arc::default());
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
