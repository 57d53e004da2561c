//! Jobs: once a slot, whoever runs it; taken up again after a kill, a stop or an outage; and by hand.

use std::{sync::Arc, time::Duration};

use bedrock_sso_proxy::{
    db::{
        self, Conn, Pool, Timestamp,
        jobs::JobRun,
        period::Period,
        schema::{job_runs, usage_levels, usage_summaries},
        summaries::UsageSummary,
        usage::{self, Inserted, NewUsage},
    },
    pricing::ledger::Ledger,
};
use chrono::TimeDelta;
use diesel::prelude::*;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

use crate::helpers::{Backend, MODEL, TestServer, TestServerBuilder, eventually};

mod command_line;
mod http;
mod interruptions;
mod leases;
mod slots;

/// The job that most tests are about.
const JOB: &str = "usage_summaries";
const EVERY_SECOND: &str = "* * * * * *";
/// A model that the sample calls ask for beside [`MODEL`].
const HAIKU: &str = "us.anthropic.claude-3-5-haiku-20241022-v1:0";

macro_rules! on {
    ($conn:expr, $c:ident => $query:expr) => {
        match $conn {
            Conn::Postgres(object) => {
                let $c: &mut diesel_async::AsyncPgConnection = &mut *object;
                $query
            }
            Conn::Sqlite(object) => {
                let $c: &mut db::SqliteAsync = &mut *object;
                $query
            }
        }
    };
}

/// Nothing runs by itself.
fn idle(backend: Backend) -> TestServerBuilder {
    TestServerBuilder::new().backend(backend).set("JOBS__ENABLED", false)
}

async fn sql(pool: &Pool, text: &str) {
    let mut conn = pool.writer().await.unwrap();
    on!(&mut conn, c => c.batch_execute(text).await).unwrap();
}

/// The runs of a job, in the order in which they had its lease.
async fn runs_of(pool: &Pool, job: &str) -> Vec<JobRun> {
    let query = job_runs::table.filter(job_runs::job.eq(job)).order(job_runs::token);
    let mut conn = pool.reader().await.unwrap();
    on!(&mut conn, c => query.select(JobRun::as_select()).load(c).await).unwrap()
}

async fn ended_runs_of(pool: &Pool, job: &str) -> Vec<JobRun> {
    let runs = runs_of(pool, job).await;
    runs.into_iter().filter(|run| run.finished_at.is_some()).collect()
}

/// A run of a slot in the past, with success.
async fn past_run(pool: &Pool, job: &str, slot: &str) {
    let columns = "job, slot, attempt, token, started_at, finished_at, outcome, instance";
    let values =
        format!("'{job}', '{slot}', 1, 0, '{slot}', '{slot}', 'success', 'an-earlier-one:1'");
    sql(pool, &format!("INSERT INTO job_runs ({columns}) VALUES ({values})")).await;
}

/// Three calls in every hour of the last days, of three people and two models.
async fn fill(pool: &Pool, days: i64) {
    let mut conn = pool.writer().await.unwrap();
    let version = Ledger::read(&mut conn).await.unwrap().version;
    let this_hour = Period::Hourly.floor(db::now());
    let call = |hour: i64, user_id: i64| NewUsage {
        call_id: uuid::Uuid::new_v4().to_string(),
        user_id,
        key_id: (user_id > 1).then_some(user_id),
        endpoint_type: "bedrock".to_owned(),
        operation: "invoke".to_owned(),
        model_requested: "sonnet".to_owned(),
        model_id: if user_id == 3 { HAIKU } else { MODEL }.to_owned(),
        region: "us-east-1".to_owned(),
        request_time: this_hour - TimeDelta::hours(hour) + TimeDelta::minutes(7 * user_id),
        response_time_ms: Some(100 + hour),
        input_tokens: Some(hour),
        output_tokens: Some(user_id),
        outcome: "success".to_owned(),
        upstream_attempts: 1,
        request_id: "of-a-sample".to_owned(),
        cost_nano_usd: Some(1000 * hour),
        ..NewUsage::default()
    };
    let hours = 1..=24 * days;
    let rows: Vec<_> = hours.flat_map(|hour| (1..=3).map(move |user| call(hour, user))).collect();
    let count = rows.len();
    let written = usage::insert_all(&mut conn, Arc::new(rows), version).await.unwrap();
    assert_eq!(written, Inserted::Rows(count));
}

/// Every summary and level.
type Dump = (Vec<UsageSummary>, Vec<(String, Timestamp, Timestamp)>);

async fn dump(pool: &Pool) -> Dump {
    let mut conn = pool.reader().await.unwrap();
    let key = (
        usage_summaries::period_type,
        usage_summaries::period_start,
        usage_summaries::user_id,
        usage_summaries::key_id,
        usage_summaries::model_id,
    );
    let rows = usage_summaries::table.order(key);
    let rows = on!(&mut conn, c => rows.select(UsageSummary::as_select()).load(c).await).unwrap();
    let levels = usage_levels::table.order(usage_levels::level);
    (rows, on!(&mut conn, c => levels.load(c).await).unwrap())
}

/// Makes every hour wrong, and everything that is longer not built.
async fn spoil(pool: &Pool) {
    sql(
        pool,
        "UPDATE usage_summaries SET requests = requests + 100 WHERE period_type = 'hourly'; \
         DELETE FROM usage_summaries WHERE period_type <> 'hourly'; \
         UPDATE usage_levels SET built_before = '2000-01-01 00:00:00' WHERE level IN ('daily', 'monthly'); \
         UPDATE usage_levels SET built_before = '1999-12-27 00:00:00' WHERE level = 'weekly'",
    )
    .await;
}

/// The number of summaries by hour that [`spoil`] made wrong and that still are.
async fn wrong(pool: &Pool) -> i64 {
    let wrong = usage_summaries::table
        .filter(usage_summaries::period_type.eq("hourly"))
        .filter(usage_summaries::requests.ge(100))
        .count();
    on!(&mut pool.reader().await.unwrap(), c => wrong.get_result(c).await).unwrap()
}

/// Awaits that some of what [`spoil`] did is corrected.
async fn is_under_way(pool: &Pool) {
    let all = wrong(pool).await;
    assert!(all > 500, "{all}");
    let began = eventually(Duration::from_secs(60), || async { wrong(pool).await < all - 10 });
    assert!(began.await, "the run begins");
}

/// Lets every lease lapse that is held.
async fn lapse(pool: &Pool) {
    sql(pool, "UPDATE job_leases SET expires_at = '2001-01-01 00:00:00'").await;
}

/// Runs a command on an application's database; answers what it printed.
fn printed(app: &TestServer, arguments: &[&str]) -> String {
    let output = app.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
