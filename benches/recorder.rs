//! How many rows a second the recorder takes: through the journal and the actor, priced, summed up and committed. Run by
//! `scripts/bench-data`.

use std::{rc::Rc, time::Instant};

use bedrock_sso_proxy::{
    actors::usage::{Flush, Record, UsageRecorder},
    cache::TypedCache,
    db::{self, Pool, audit::Origin, migrations},
    pricing::ledger,
    sample::{Plan, Sample, Who},
    settings::{Need, Settings},
    telemetry::Metrics,
    tls,
    usage::journal::{Directory, Journal},
};

/// Closed calls that reach the recorder in one message, as a busy worker sends them.
const MESSAGE: usize = 64;
/// Calls that may wait to be written.
const MOST_WAITING: u64 = 5_000;

fn main() {
    let Ok(url) = std::env::var("BENCH_DATABASE_URL") else { return };
    let rows = std::env::var("BENCH_RECORDED").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let journal = std::env::var("BENCH_JOURNAL").expect("BENCH_JOURNAL names a folder");
    tls::install_provider();
    let environment = [
        ("BEDROCK_DATABASE__URL".to_owned(), url),
        ("BEDROCK_USAGE__JOURNAL_DIR".to_owned(), journal),
    ];
    let settings = Settings::from_layers(None, environment.into_iter(), Need::Database);
    let settings = settings.expect("the settings are sound");
    actix_rt::System::new().block_on(record(settings, rows));
}

async fn record(settings: Settings, calls: u64) {
    let pool = Pool::open(&settings.database).expect("the database opens");
    migrations::prepare(&pool, true, std::time::Duration::ZERO).await.expect("the schema is there");
    let mut conn = pool.writer().await.expect("the database answers");
    ledger::seed(&mut conn, false, &Origin::service()).await.expect("there are prices");
    drop(conn);
    let now = db::now();
    let people: Vec<Who> =
        (1..=200).map(|id| Who { user_id: id, key_ids: vec![id, 1000 + id] }).collect();
    let start = now.date() - chrono::TimeDelta::days(2);
    let plan = Plan { people: people.len(), start, end: now, calls: Some(calls), seed: 7 };
    let rows: Vec<_> = Sample::new(&plan, &people).collect();

    let path = settings.usage.journal_dir(&settings.database);
    let directory = Directory::open(&path, settings.usage.journal_max_bytes).expect("a journal");
    let usage = &settings.usage;
    let journal: Rc<Journal> = Journal::new(Some(directory.clone()), 0, usage.fsync, usage.on_full);
    let metrics = Metrics::new().expect("metrics");
    let cache = TypedCache::in_memory(100, 1 << 20, &[[1; 32]], metrics.clone());
    let recorder = {
        let (pool, usage, directory) = (pool.clone(), usage.clone(), directory.clone());
        let arbiter = actix::Arbiter::new();
        actix::Actor::start_in_arbiter(&arbiter.handle(), move |_| {
            UsageRecorder::new(pool, cache, Some(directory), &usage, metrics)
        })
    };
    let began = Instant::now();
    for chunk in rows.chunks(MESSAGE) {
        let closed = chunk.iter().map(|row| {
            let slot = journal.open(row).expect("the journal takes it");
            (row.clone(), journal.close(slot, row))
        });
        recorder.send(Record(closed.collect())).await.expect("the recorder runs");
        // No faster than it writes: what it cannot hold it would have to read back.
        while directory.depth() > MOST_WAITING {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    let within = std::time::Duration::from_secs(600);
    let left = recorder.send(Flush { within }).await.expect("the recorder runs");
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(left, 0, "rows are left");
    let written = count(&pool).await;
    assert_eq!(written, calls, "rows in the database");
    println!("recorder, rows/s: {:.1}", calls as f64 / seconds);
    directory.remove_all();
}

async fn count(pool: &Pool) -> u64 {
    let mut conn = pool.reader().await.expect("the database answers");
    let end = db::now() + chrono::TimeDelta::days(1);
    let counted = db::retention::count(&mut conn, db::levels::Level::Records, end).await;
    counted.expect("rows can be counted") as u64
}
