//! When jobs run by themselves: each slot once, whichever instance has it.

use std::{collections::BTreeSet, time::Duration};

use bedrock_sso_proxy::{
    db::{self, Conn, Pool, Timestamp, jobs::JobRun, period::Period},
    jobs::instance,
};
use chrono::{TimeDelta, Timelike};
use diesel_async::SimpleAsyncConnection;
use serde_json::{Value, json};

use super::{EVERY_SECOND, JOB, ended_runs_of, fill, idle, past_run, printed, runs_of};
use crate::{
    helpers::{ADMIN, Backend, TestServer, TestServerBuilder, eventually, on_both_databases},
    lifecycle::Process,
};

const SCHEDULE: &str = "JOBS__USAGE_SUMMARIES__SCHEDULE";
const LONG: Duration = Duration::from_secs(60);

/// What may not happen is waited for as long: more than two looks of the scheduler.
async fn a_while() {
    let end = db::now() + TimeDelta::milliseconds(2500);
    assert!(eventually(LONG, || async { db::now() > end }).await);
}

fn slots(runs: &[JobRun]) -> Vec<Timestamp> {
    runs.iter().filter_map(|run| run.slot).collect()
}

on_both_databases!(a_schedule_of_every_second_runs_each_slot_once, backend => {
    let app = TestServerBuilder::new().backend(backend).set(SCHEDULE, EVERY_SECOND).start().await;
    let pool = app.pool().await;

    assert!(eventually(LONG, || async { ended_runs_of(&pool, JOB).await.len() >= 4 }).await);

    let runs = ended_runs_of(&pool, JOB).await;
    let slots = slots(&runs);
    assert!(slots.is_sorted_by(|earlier, later| earlier < later), "{slots:?}");
    for run in &runs {
        let slot = run.slot.unwrap();
        assert_eq!((run.outcome.as_deref(), run.attempt), (Some("success"), 1), "{run:?}");
        assert_eq!((slot.nanosecond(), &run.instance), (0, &instance()), "{run:?}");
        assert!(run.started_at >= slot && run.finished_at.unwrap() >= run.started_at, "{run:?}");
        assert!(run.message.as_ref().unwrap().contains("daily"), "{run:?}");
    }
    assert!(runs_of(&pool, "usage_cleanup").await.is_empty(), "the others have schedules of their own");
});

/// The ended runs of slots after a time.
async fn since(pool: &Pool, job: &str, from: Timestamp) -> Vec<JobRun> {
    let runs = ended_runs_of(pool, job).await;
    runs.into_iter().filter(|run| run.slot > Some(from)).collect()
}

/// Two instances on one database, and what they are called.
async fn two_instances(
    backend: Backend,
    given: &[(&str, &str)],
) -> (TestServer, Process, [String; 2]) {
    let builder = TestServerBuilder::new().backend(backend);
    let app =
        given.iter().fold(builder, |builder, (name, value)| builder.set(name, value)).start().await;
    let mut environment: Vec<(String, String)> = given
        .iter()
        .map(|(name, value)| (format!("BEDROCK_{name}"), (*value).to_owned()))
        .collect();
    environment.extend(
        app.environment.iter().filter(|(name, _)| name == "BEDROCK_DATABASE__URL").cloned(),
    );
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let second = Process::start_with(&environment).await;
    let own = instance();
    let (host, _) = own.rsplit_once(':').unwrap();
    let other = format!("{host}:{}", second.child.id());
    (app, second, [own, other])
}

/// No slot has two runs, and no run begins before the one before it has ended.
fn assert_one_by_one(runs: &[JobRun], instances: &[String]) {
    let all = slots(runs);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), runs.len(), "{all:?}");
    assert!(runs.iter().all(|run| instances.contains(&run.instance)), "{runs:?}");
    for pair in runs.windows(2) {
        // An instance notes the time before it waits for the database.
        let ended = pair[0].finished_at.unwrap() - TimeDelta::milliseconds(250);
        assert!(ended <= pair[1].started_at, "{pair:?}");
    }
}

on_both_databases!(two_instances_have_each_slot_once_between_them, backend => {
    let given = [(SCHEDULE, EVERY_SECOND), ("JOBS__PRICE_CHECK__SCHEDULE", EVERY_SECOND)];
    let (mut app, mut second, instances) = two_instances(backend, &given).await;
    let pool = app.pool().await;

    let from = db::now();
    assert!(eventually(LONG, || async { since(&pool, "price_check", from).await.len() >= 6 }).await);
    app.stopped().await;
    let alone_from = db::now();
    assert!(eventually(LONG, || async { !since(&pool, JOB, alone_from).await.is_empty() }).await);
    second.signal("-TERM");
    assert_eq!(second.ended(Duration::from_secs(10)).await, Some(0));

    assert!(since(&pool, JOB, alone_from).await.iter().all(|run| run.instance == instances[1]));
    for job in [JOB, "price_check"] {
        assert_one_by_one(&runs_of(&pool, job).await, &instances);
        let mut first = slots(&since(&pool, job, from).await);
        first.truncate(6);
        first.sort_unstable();
        let gaps: Vec<_> = first.windows(2).map(|pair| (pair[1] - pair[0]).num_seconds()).collect();
        assert_eq!(gaps, [1; 5], "{job}: {first:?}");
    }
});

on_both_databases!(runs_that_take_longer_than_from_slot_to_slot_do_not_overlap, backend => {
    let given = [(SCHEDULE, EVERY_SECOND), ("JOBS__USAGE_SUMMARIES__PERIODS", "hourly,daily")];
    let (mut app, mut second, instances) = two_instances(backend, &given).await;
    let pool = app.pool().await;
    fill(&pool, 20).await;

    let from = db::now();
    assert!(eventually(LONG, || async { since(&pool, JOB, from).await.len() >= 2 }).await);
    app.stopped().await;
    second.signal("-TERM");
    assert_eq!(second.ended(Duration::from_secs(10)).await, Some(0));

    let runs = ended_runs_of(&pool, JOB).await;
    assert_one_by_one(&runs, &instances);
    let longest = runs.iter().map(|run| run.finished_at.unwrap() - run.started_at).max().unwrap();
    assert!(longest > TimeDelta::milliseconds(500), "runs of {longest} prove little");
});

on_both_databases!(of_the_slots_that_were_missed_the_newest_is_made_up_once, backend => {
    let mut app = idle(backend)
        .set(SCHEDULE, "0 * * * *")
        .set("JOBS__USAGE_CLEANUP__SCHEDULE", "0 * * * *")
        .start()
        .await;
    let pool = app.pool().await;
    past_run(&pool, JOB, "2026-01-01 00:00:00").await;
    app.settings.jobs.enabled = true;

    let earliest = Period::Hourly.floor(db::now());
    app.restart().await;
    assert!(eventually(LONG, || async { ended_runs_of(&pool, JOB).await.len() == 2 }).await);
    let latest = Period::Hourly.floor(db::now());

    let runs = runs_of(&pool, JOB).await;
    assert!((earliest..=latest).contains(&runs[1].slot.unwrap()), "{runs:?}");
    app.restart().await;
    a_while().await;
    assert_eq!(runs_of(&pool, JOB).await.len(), 2, "one is made up");
    assert!(runs_of(&pool, "usage_cleanup").await.is_empty(), "nothing of what never ran");
});

on_both_databases!(switched_off_nothing_runs_by_itself_but_what_is_asked_for_does, backend => {
    let mut app = idle(backend).set(SCHEDULE, EVERY_SECOND).start().await;
    let pool = app.pool().await;
    past_run(&pool, JOB, "2026-01-01 00:00:00").await;
    app.restart().await;
    let admin = app.create_token(ADMIN).await;

    a_while().await;
    let by_itself = runs_of(&pool, JOB).await.len() - 1;
    let listed = listed(&app, &admin).await;
    let asked = app.post(&format!("/api/admin/jobs/{JOB}/run")).bearer(&admin).send().await;
    let done = eventually(LONG, || async { ended_runs_of(&pool, JOB).await.len() == 2 }).await;
    printed(&app, &["job", "run", "price_check"]);

    assert_eq!(by_itself, 0);
    for job in listed {
        assert_eq!((&job["enabled"], &job["next_run_at"]), (&json!(false), &Value::Null), "{job}");
    }
    assert_eq!((asked.status.as_u16(), done), (202, true), "{asked:?}");
    assert_eq!(ended_runs_of(&pool, "price_check").await.len(), 1);
    assert!(printed(&app, &["job", "list"]).contains("never (jobs.enabled)"));
});

async fn listed(app: &TestServer, admin: &str) -> Vec<Value> {
    let reply = app.get("/api/admin/jobs").bearer(admin).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["jobs"].as_array().unwrap().clone()
}

on_both_databases!(a_slot_that_a_wrong_clock_ran_holds_up_no_other, backend => {
    let mut app = idle(backend).set(SCHEDULE, EVERY_SECOND).start().await;
    let pool = app.pool().await;
    let ahead = db::now() + TimeDelta::hours(1);
    past_run(&pool, JOB, &ahead.format("%Y-%m-%d %H:%M:%S").to_string()).await;
    app.settings.jobs.enabled = true;

    app.restart().await;

    assert!(eventually(LONG, || async { ended_runs_of(&pool, JOB).await.len() > 2 }).await);
});

on_both_databases!(a_slot_that_comes_while_another_is_being_taken_has_its_run, backend => {
    let app = TestServerBuilder::new().backend(backend).set(SCHEDULE, "*/3 * * * * *").start().await;
    let pool = app.pool().await;
    assert!(eventually(LONG, || async { !ended_runs_of(&pool, JOB).await.is_empty() }).await);
    let last = runs_of(&pool, JOB).await.last().unwrap().slot.unwrap();
    let next = [last + TimeDelta::seconds(3), last + TimeDelta::seconds(6)];

    let mut conn = app.pool().await.writer().await.unwrap();
    match &mut conn {
        Conn::Postgres(c) => c.batch_execute("BEGIN; LOCK TABLE job_leases IN EXCLUSIVE MODE").await.unwrap(),
        Conn::Sqlite(c) => c.batch_execute("BEGIN IMMEDIATE").await.unwrap(),
    }
    // The first waits for the lock, and the second comes meanwhile.
    let both_came = next[1] + TimeDelta::milliseconds(1100);
    assert!(eventually(LONG, || async { db::now() > both_came }).await);
    match &mut conn {
        Conn::Postgres(c) => c.batch_execute("COMMIT").await.unwrap(),
        Conn::Sqlite(c) => c.batch_execute("COMMIT").await.unwrap(),
    }

    let had = eventually(Duration::from_millis(1500), || async {
        let ran = slots(&ended_runs_of(&pool, JOB).await);
        next.iter().all(|slot| ran.contains(slot))
    });
    assert!(had.await, "{next:?} are not both in {:?}", slots(&runs_of(&pool, JOB).await));
});

#[actix_web::test]
async fn slots_are_those_of_the_clocks_of_the_time_zone() {
    let app = TestServerBuilder::new()
        .set("JOBS__TIMEZONE", "Europe/Berlin")
        .set(SCHEDULE, "0 12 1 7 *")
        .set("JOBS__USAGE_CLEANUP__SCHEDULE", "0 12 1 1 *")
        .start()
        .await;
    let admin = app.create_token(ADMIN).await;

    let jobs = listed(&app, &admin).await;

    let next = |name: &str| {
        let job = jobs.iter().find(|job| job["name"] == name).unwrap();
        assert_eq!(job["timezone"], "Europe/Berlin");
        job["next_run_at"].as_str().unwrap()[4..].to_owned()
    };
    assert_eq!(next(JOB), "-07-01T10:00:00.000Z", "in summer");
    assert_eq!(next("usage_cleanup"), "-01-01T11:00:00.000Z", "in winter");
}
