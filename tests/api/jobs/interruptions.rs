//! Runs that do not come to their end: a kill, a stop, a database that goes away. What is half done is finished by the
//! next, and the tables are then those of a run that nothing interrupted.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::{
    db::{self, Pool},
    settings::{Need, Settings},
};

use super::{
    EVERY_SECOND, JOB, dump, ended_runs_of, fill, idle, is_under_way, lapse, past_run, printed,
    runs_of, spoil, text, wrong,
};
use crate::{
    faults::behind_a_relay,
    helpers::{
        Backend, Database, TestServer, TestServerBuilder, command, eventually, on_both_databases,
        request_to,
    },
    lifecycle::Process,
};

const LONG: Duration = Duration::from_secs(60);
const PERIODS: (&str, &str) = ("JOBS__USAGE_SUMMARIES__PERIODS", "hourly,daily,weekly,monthly");
/// Its newest slot is missed when there is an older run, and no other comes while the test goes on.
const MONTHLY: (&str, &str) = ("JOBS__USAGE_SUMMARIES__SCHEDULE", "0 0 1 * *");
const BY_HAND: [&str; 12] = [
    "job",
    "summaries",
    "--days-back",
    "7",
    "--period",
    "hourly",
    "--period",
    "daily",
    "--period",
    "weekly",
    "--period",
    "monthly",
];

/// A command of the real binary that runs on by itself.
fn begun(environment: &[(String, String)], arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bedrock_proxy"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How the runs of [`JOB`] ended.
async fn outcomes(pool: &Pool) -> Vec<Option<String>> {
    runs_of(pool, JOB).await.into_iter().map(|run| run.outcome).collect()
}

fn outcome(text: &str) -> Option<String> {
    Some(text.to_owned())
}

on_both_databases!(a_command_that_is_killed_half_way_is_finished_by_the_next, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 6).await;
    printed(&app, &BY_HAND);
    let wanted = dump(&pool).await;
    spoil(&pool).await;

    let mut killed = begun(&app.environment, &BY_HAND);
    is_under_way(&pool).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(wrong(&pool).await > 0, "it was in the middle");
    assert_eq!(outcomes(&pool).await, [outcome("success"), None]);
    assert!(printed(&app, &["job", "status"]).contains("running"));
    lapse(&pool).await;
    printed(&app, &BY_HAND);

    assert!(dump(&pool).await == wanted, "as if nothing had happened");
    assert_eq!(outcomes(&pool).await, ["success", "interrupted", "success"].map(outcome));
});

on_both_databases!(a_command_that_is_told_to_stop_stops_at_a_safe_point, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 6).await;
    printed(&app, &BY_HAND);
    let wanted = dump(&pool).await;
    spoil(&pool).await;

    let stopped = begun(&app.environment, &BY_HAND);
    is_under_way(&pool).await;
    let began = Instant::now();
    let told = Command::new("kill").args(["-TERM", &stopped.id().to_string()]).status().unwrap();
    let output = stopped.wait_with_output().unwrap();

    assert!(told.success() && began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("stopped, to go on from here next time"), "{output:?}");
    assert!(wrong(&pool).await > 0, "it was in the middle");
    assert_eq!(outcomes(&pool).await, ["success", "stopped"].map(outcome));
    printed(&app, &BY_HAND);
    assert!(dump(&pool).await == wanted, "as if nothing had happened");
});

on_both_databases!(a_scheduled_run_whose_process_is_killed_is_taken_up_by_the_next, backend => {
    let database = match backend {
        Backend::Sqlite => None,
        Backend::Postgres => Some(Database::on_postgres().await),
    };
    let mut given = vec![("BEDROCK_JOBS__ENABLED", "false")];
    given.extend(database.as_ref().map(|database| ("BEDROCK_DATABASE__URL", database.url.as_str())));
    let mut process = Process::start_with(&given).await;
    let settings = Settings::from_layers(None, process.environment.clone().into_iter(), Need::Database).unwrap();
    let pool = Pool::open(&settings.database).unwrap();
    fill(&pool, 6).await;
    assert!(command(&process.environment, &BY_HAND).status.success());
    let wanted = dump(&pool).await;
    spoil(&pool).await;
    past_run(&pool, JOB, "2026-01-01 00:00:00").await;
    for (name, value) in [("JOBS__ENABLED", "true"), PERIODS, MONTHLY] {
        process.environment.push((format!("BEDROCK_{name}"), value.to_owned()));
    }
    process.kill_and_restart();

    is_under_way(&pool).await;
    process.kill_and_restart();
    let left = wrong(&pool).await;
    lapse(&pool).await;

    assert!(left > 0, "it was in the middle");
    let slot_run = async || runs_of(&pool, JOB).await.into_iter().rfind(|run| run.slot.is_some()).unwrap();
    assert!(eventually(LONG, || async { slot_run().await.outcome == outcome("success") && wrong(&pool).await == 0 }).await);
    let run = slot_run().await;
    assert_eq!(run.attempt, 2, "{run:?}");
    assert!(run.instance.ends_with(&format!(":{}", process.child.id())), "{run:?}");
    assert!(dump(&pool).await == wanted, "as if nothing had happened");
    process.signal("-TERM");
    assert_eq!(process.ended(Duration::from_secs(10)).await, Some(0));
});

/// An application that makes up for a missed slot as soon as `jobs.enabled` is true, and what the tables are to be then.
async fn with_work_to_do(app: &TestServer, pool: &Pool) -> super::Dump {
    fill(pool, 6).await;
    printed(app, &BY_HAND);
    let wanted = dump(pool).await;
    spoil(pool).await;
    past_run(pool, JOB, "2026-01-01 00:00:00").await;
    wanted
}

on_both_databases!(a_stop_lets_a_run_come_to_its_safe_point_and_the_next_start_takes_it_up, backend => {
    let mut app = idle(backend).set(PERIODS.0, PERIODS.1).set(MONTHLY.0, MONTHLY.1).start().await;
    let pool = app.pool().await;
    let wanted = with_work_to_do(&app, &pool).await;
    app.settings.jobs.enabled = true;
    app.restart().await;

    is_under_way(&pool).await;
    let began = Instant::now();
    app.stopped().await;
    let took = began.elapsed();

    let within = app.settings.shutdown.background_task_timeout_seconds;
    assert!(took < Duration::from_secs(within), "{took:?}");
    assert!(wrong(&pool).await > 0, "it was in the middle");
    let slot_run = async || runs_of(&pool, JOB).await.into_iter().rfind(|run| run.slot.is_some()).unwrap();
    let stopped = slot_run().await;
    assert_eq!((stopped.outcome.as_deref(), stopped.attempt), (Some("stopped"), 1), "{stopped:?}");
    app.start_again();
    // Its lease was given back: nobody waits for it to lapse.
    assert!(eventually(LONG, || async { slot_run().await.outcome == outcome("success") }).await);
    let done = slot_run().await;
    assert_eq!((done.id, done.slot, done.attempt), (stopped.id, stopped.slot, 2));
    assert!(dump(&pool).await == wanted, "as if nothing had happened");
});

#[actix_web::test]
async fn a_run_that_is_left_half_way_holds_up_no_stop() {
    let mut process = Process::start_with(&[
        ("BEDROCK_JOBS__ENABLED", "false"),
        ("BEDROCK_SHUTDOWN__BACKGROUND_TASK_TIMEOUT_SECONDS", "0"),
    ])
    .await;
    let environment = process.environment.clone().into_iter();
    let settings = Settings::from_layers(None, environment, Need::Database).unwrap();
    let pool = Pool::open(&settings.database).unwrap();
    fill(&pool, 6).await;
    spoil(&pool).await;
    past_run(&pool, JOB, "2026-01-01 00:00:00").await;
    for (name, value) in [("JOBS__ENABLED", "true"), PERIODS, MONTHLY] {
        process.environment.push((format!("BEDROCK_{name}"), value.to_owned()));
    }
    process.kill_and_restart();

    is_under_way(&pool).await;
    process.signal("-TERM");

    assert_eq!(process.ended(Duration::from_secs(4)).await, Some(0));
    assert!(wrong(&pool).await > 0, "it was in the middle");
    let left = runs_of(&pool, JOB).await.pop().unwrap();
    assert!(matches!(left.outcome.as_deref(), None | Some("stopped")), "{left:?}");
}

/// Takes the database away during a run and gives it back.
async fn outlives_an_outage(app: &mut TestServer, pool: &Pool, cut: impl Fn(), heal: impl Fn()) {
    let wanted = with_work_to_do(app, pool).await;
    app.settings.jobs.enabled = true;
    app.restart().await;
    let has_failed = async || {
        let metrics = request_to("GET", "", &app.metrics_url()).send().await;
        text(&metrics.body).lines().any(|line| {
            let failed = format!("job_runs_total{{job=\"{JOB}\",outcome=\"failed\"}} ");
            line.strip_prefix(&failed).is_some_and(|count| count != "0")
        })
    };

    is_under_way(pool).await;
    cut();
    assert!(eventually(LONG, || async { has_failed().await }).await, "the run ends");
    heal();
    let healed = db::now();
    assert!(wrong(pool).await > 0, "it was in the middle");
    lapse(pool).await;

    let again = eventually(LONG, || async {
        let run = runs_of(pool, JOB).await.into_iter().rfind(|run| run.slot.is_some());
        run.is_some_and(|run| run.outcome == outcome("success") && run.attempt == 2)
    });
    assert!(again.await, "{:?}", runs_of(pool, JOB).await);
    assert!(dump(pool).await == wanted, "as if nothing had happened");
    let others = eventually(LONG, || async {
        let runs = ended_runs_of(pool, "price_check").await;
        runs.iter().any(|run| run.started_at > healed && run.outcome == outcome("success"))
    });
    assert!(others.await, "the others go on, too");
    assert!(!app.shared().actors.are_unstable());
}

const OTHER: (&str, &str) = ("JOBS__PRICE_CHECK__SCHEDULE", EVERY_SECOND);

#[actix_web::test]
async fn a_run_outlives_a_postgres_that_goes_away() {
    let given = [("JOBS__ENABLED", "false"), PERIODS, MONTHLY, OTHER];
    let (mut app, relay, database) = behind_a_relay(&given).await;
    let mut direct = app.settings.database.clone();
    direct.url = database.url.clone().into();
    let pool = Pool::open(&direct).unwrap();

    outlives_an_outage(&mut app, &pool, || relay.cut(), || relay.heal()).await;
}

#[actix_web::test]
async fn a_run_outlives_a_database_file_that_goes_away() {
    let builder = [PERIODS, MONTHLY, OTHER]
        .iter()
        .fold(TestServerBuilder::new(), |builder, (name, value)| builder.set(name, value));
    let mut app = builder.set("JOBS__ENABLED", false).start().await;
    let pool = app.pool().await;
    let (data, aside) = (app.folder.path().join("data"), app.folder.path().join("aside"));

    let cut = || std::fs::rename(&data, &aside).unwrap();
    outlives_an_outage(&mut app, &pool, cut, || std::fs::rename(&aside, &data).unwrap()).await;
}
