//! `bedrock_proxy job`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::{
    db::{
        self, Conn, Pool,
        jobs::{self as runs, Claim, Ending},
        schema::usage_records,
    },
    jobs::Job,
};
use chrono::TimeDelta;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{HAIKU, JOB, dump, fill, idle, past_run, printed, runs_of, sql, text};
use crate::helpers::{Backend, Database, TestServer, command, on_both_databases};

/// What a command said, and its exit code, when it did not do what it was told.
fn refused(environment: &[(String, String)], arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(environment, arguments);
    (output.status.code(), text(&output.stderr))
}

on_both_databases!(jobs_are_listed_and_run_by_name, backend => {
    let app = idle(backend).set("JOBS__ENABLED", true).start().await;
    let pool = app.pool().await;
    let list = printed(&app, &["job", "list"]);
    let before = printed(&app, &["job", "status"]);

    printed(&app, &["job", "run", JOB]);
    printed(&app, &["job", "run", "usage_cleanup"]);
    printed(&app, &["job", "run", "audit_retention"]);
    let said = printed(&app, &["job", "run", "price_check"]);
    let after = printed(&app, &["job", "status"]);

    for job in Job::ALL {
        let line = list.lines().find(|line| line.starts_with(job.name())).unwrap();
        assert!(line.contains(" * *") && line.contains(":00  "), "{line}");
        assert!(before.contains(&format!("{}: next run 20", job.name())), "{before}");
        assert_eq!(runs_of(&pool, job.name()).await.len(), 1);
    }
    assert_eq!(before.matches("has not run yet").count(), 4, "{before}");
    assert_eq!(after.matches(": success, ").count(), 4, "{after}");
    assert!(said.contains("0 shipped prices added") && after.contains("    0 shipped prices added"), "{said}{after}");
    let (code, message) = refused(&app.environment, &["job", "run", "nothing"]);
    assert_eq!(code, Some(1));
    assert!(Job::ALL.iter().all(|job| message.contains(job.name())), "{message}");
});

#[actix_web::test]
async fn a_run_that_ended_before_it_began_took_no_time() {
    let app = idle(Backend::Sqlite).start().await;
    let pool = app.pool().await;
    past_run(&pool, JOB, "2026-01-01 00:00:00").await;
    sql(&pool, "UPDATE job_runs SET finished_at = '2025-12-31 23:00:00.5'").await;

    let status = printed(&app, &["job", "status"]);

    assert!(status.contains("success, 0.000 s"), "the clock was set back: {status}");
}

/// Makes summaries wrong in each way there is: values, one that is missing, one too many.
async fn falsify(pool: &Pool) {
    sql(
        pool,
        "UPDATE usage_summaries SET requests = requests + 100 WHERE period_type = 'hourly' AND user_id IN (0, 2); \
         UPDATE usage_summaries SET cost_nano_usd = cost_nano_usd + 5 WHERE period_type = 'daily' AND user_id = 1; \
         UPDATE usage_summaries SET cost_nano_usd = cost_nano_usd + 5 \
         WHERE period_type = 'daily' AND user_id = 0 AND model_id LIKE '%sonnet%'; \
         DELETE FROM usage_summaries WHERE period_type = 'weekly' AND user_id = 3; \
         UPDATE usage_summaries SET user_id = 99 WHERE period_type = 'daily' AND user_id = 3 \
         AND period_start = (SELECT MAX(period_start) FROM usage_summaries WHERE period_type = 'daily')",
    )
    .await;
}

/// Takes back that longer periods are built, and leaves a day without usage between them.
async fn unbuild(pool: &Pool) {
    let day = (db::now() - TimeDelta::days(3)).date();
    let next = day + TimeDelta::days(1);
    let lies =
        |column: &str| format!("{column} >= '{day} 00:00:00' AND {column} < '{next} 00:00:00'");
    sql(
        pool,
        &format!(
            "DELETE FROM usage_records WHERE {}; \
             DELETE FROM usage_summaries WHERE period_type <> 'hourly'; \
             DELETE FROM usage_summaries WHERE {}; \
             UPDATE usage_levels SET built_before = '2000-01-01 00:00:00' WHERE level IN ('daily', 'monthly'); \
             UPDATE usage_levels SET built_before = '1999-12-27 00:00:00' WHERE level = 'weekly'",
            lies("request_time"),
            lies("period_start"),
        ),
    )
    .await;
}

/// Whether a dry run says what the real one then does; that and all else starts from the same state each time.
async fn is_foretold(app: &TestServer, pool: &Pool, arguments: &[&str]) {
    let before = dump(pool).await;
    let all_runs = runs_of(pool, JOB).await;
    let arguments = [&["job", "summaries"], arguments].concat();

    let dry = printed(app, &[arguments.as_slice(), &["--dry-run"]].concat());
    assert!(dump(pool).await == before && runs_of(pool, JOB).await == all_runs, "{arguments:?}");
    let real = printed(app, &arguments);

    let (first, foretold) = dry.split_once('\n').unwrap();
    assert!(first.contains("nothing is changed"), "{dry}");
    assert_eq!(foretold, real, "{arguments:?}");
    // What was said is what was done: nothing is left to be done.
    let again = printed(app, &arguments);
    for line in again.lines() {
        assert!(line.contains("rows: 0 added, 0 corrected, 0 removed"), "{arguments:?}: {line}");
        assert!(line.contains(": 0 built, "), "{arguments:?}: {line}");
    }
    sql(
        pool,
        "DELETE FROM usage_summaries; INSERT INTO usage_summaries SELECT * FROM kept_summaries; \
         DELETE FROM usage_levels; INSERT INTO usage_levels SELECT * FROM kept_levels",
    )
    .await;
    assert!(dump(pool).await == before);
}

const ALL_PERIODS: [&str; 8] =
    ["--period", "hourly", "--period", "daily", "--period", "weekly", "--period", "monthly"];
const KEEP: &str = "CREATE TABLE kept_summaries AS SELECT * FROM usage_summaries; \
                    CREATE TABLE kept_levels AS SELECT * FROM usage_levels";

on_both_databases!(a_dry_run_of_summaries_foretells_what_the_real_one_corrects, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 12).await;
    printed(&app, &["job", "summaries"]);
    falsify(&pool).await;
    sql(&pool, KEEP).await;

    is_foretold(&app, &pool, &[]).await;
    is_foretold(&app, &pool, &[&ALL_PERIODS[..], &["--days-back", "4"]].concat()).await;
    is_foretold(&app, &pool, &["--period", "daily", "--days-back", "5"]).await;
    is_foretold(&app, &pool, &["--period", "hourly", "--days-back", "0"]).await;
    is_foretold(&app, &pool, &["--user-id", "1"]).await;
    is_foretold(&app, &pool, &["--model-id", "haiku", "--period", "daily", "--period", "weekly"]).await;
    let both = ["--days-back", "4", "--user-id", "2", "--model-id", "sonnet"];
    is_foretold(&app, &pool, &[&ALL_PERIODS[..], &both].concat()).await;
    is_foretold(&app, &pool, &["--user-id", "12345"]).await;
});

on_both_databases!(a_dry_run_of_summaries_foretells_what_the_real_one_builds, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 12).await;
    unbuild(&pool).await;
    sql(&pool, KEEP).await;

    is_foretold(&app, &pool, &[]).await;
    is_foretold(&app, &pool, &["--days-back", "3", "--period", "daily"]).await;
    is_foretold(&app, &pool, &[&ALL_PERIODS[..], &["--days-back", "4"]].concat()).await;
});

async fn records(pool: &Pool) -> i64 {
    let mut conn = pool.reader().await.unwrap();
    let count = usage_records::table.count();
    match &mut conn {
        Conn::Postgres(c) => count.get_result(c.as_mut()).await.unwrap(),
        Conn::Sqlite(c) => count.get_result(c.as_mut()).await.unwrap(),
    }
}

on_both_databases!(a_dry_run_of_a_clean_up_foretells_what_the_real_one_removes, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 12).await;
    past_run(&pool, "price_check", "2026-01-01 00:00:00").await;
    past_run(&pool, "price_check", "2026-01-02 00:00:00").await;
    let all = records(&pool).await;
    let cleaned = async |arguments: &[&str]| {
        let arguments = [&["job", "cleanup"], arguments].concat();
        let before = (dump(&pool).await, records(&pool).await);
        let dry = printed(&app, &[arguments.as_slice(), &["--dry-run"]].concat());
        assert!((dump(&pool).await, records(&pool).await) == before, "{arguments:?}");
        let real = printed(&app, &arguments);
        let (first, foretold) = dry.split_once('\n').unwrap();
        assert!(first.contains("nothing is removed"), "{dry}");
        assert_eq!(foretold, real.replace("removed ", ""), "{arguments:?}");
        real
    };
    let removed = |line: &str| line.split(' ').nth(2).unwrap().parse::<i64>().unwrap();

    let waits = cleaned(&["--target", "hourly", "--days-back", "5"]).await;
    let some = cleaned(&["--target", "records", "--days-back", "5"]).await;
    let left = records(&pool).await;
    let more = cleaned(&["--days-back", "2"]).await;
    printed(&app, &["job", "summaries"]);
    let several = cleaned(&["--target", "daily", "--target", "hourly", "--days-back", "1"]).await;
    let by_the_settings = cleaned(&[]).await;

    assert!(waits.contains("hourly: 0 ") && waits.contains("waits"), "{waits}");
    assert_eq!((removed(&some), left), (all - left, 5 * 24 * 3), "{some}");
    assert_eq!((removed(&more), records(&pool).await), (3 * 24 * 3, 2 * 24 * 3), "{more}");
    assert!(several.lines().next().unwrap().starts_with("removed hourly: ") && removed(&several) > 0, "{several}");
    assert_eq!(by_the_settings.lines().count(), 5, "{by_the_settings}");
    let kept: Vec<_> = runs_of(&pool, "price_check").await.into_iter().map(|run| run.slot.unwrap().date().to_string()).collect();
    assert_eq!(kept, ["2026-01-02"], "of runs that are long over the newest is kept");
});

#[actix_web::test]
async fn arguments_that_are_wrong_are_named_with_what_may_be() {
    let nowhere = [("BEDROCK_DATABASE__URL".to_owned(), "sqlite:///nowhere/x.db".to_owned())];
    for (arguments, part) in [
        ("summaries --days-back -1", "-1 is not in 0..=36500"),
        ("summaries --days-back 36501", "36501 is not in 0..=36500"),
        ("summaries --days-back many", "invalid digit"),
        ("summaries --period yearly", "[possible values: hourly, daily, weekly, monthly]"),
        ("summaries --user-id ada", "invalid digit"),
        ("cleanup --days-back -1", "-1 is not in 0..=36500"),
        (
            "cleanup --target everything",
            "[possible values: records, hourly, daily, weekly, monthly]",
        ),
        ("reprice", "--from <FROM>"),
        ("reprice --from nonsense", "a date such as 2026-11-21"),
        ("reprice --from 300000-01-01", "from 2000 to 2199"),
        ("reprice --from 2026-02-30", "a date such as 2026-11-21"),
        ("reprice --from 1999-12-31", "from 2000 to 2199"),
        ("run", "<NAME>"),
        ("nothing", "unrecognized subcommand"),
    ] {
        let words: Vec<&str> = ["job"].into_iter().chain(arguments.split(' ')).collect();
        let (code, message) = refused(&nowhere, &words);

        assert_eq!(code, Some(2), "{arguments}: {message}");
        assert!(message.contains(part), "{arguments}: {message}");
    }
}

/// The command, when it has said that it waits.
fn waiting(app: &TestServer, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bedrock_proxy"))
        .args(arguments)
        .env_clear()
        .envs(app.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("runs on another:7; waiting for it"), "{line}");
    (child, lines)
}

on_both_databases!(a_command_waits_for_a_run_that_goes_on_elsewhere, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    let claim = async || {
        let mut conn = pool.writer().await.unwrap();
        match runs::claim(&mut conn, JOB, None, "another:7", db::now()).await.unwrap() {
            Claim::Taken { run_id, token } => (run_id, token),
            other => panic!("{other:?}"),
        }
    };
    let finish = async |(run_id, token)| {
        let mut conn = pool.writer().await.unwrap();
        runs::finish(&mut conn, JOB, run_id, token, (Ending::Success, Some(0), ""), db::now()).await.unwrap();
    };

    let held = claim().await;
    let (mut child, _) = waiting(&app, &["job", "summaries"]);
    assert_eq!(child.try_wait().unwrap(), None);
    finish(held).await;
    assert!(child.wait().unwrap().success());
    let newest = runs_of(&pool, JOB).await.pop().unwrap();
    assert_eq!((newest.outcome.as_deref(), newest.attempt), (Some("success"), 1));

    let held = claim().await;
    let (mut child, mut said) = waiting(&app, &["job", "run", JOB]);
    let began = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(5));
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("still runs on another:7"), "{line}");
    finish(held).await;
    assert_eq!(runs_of(&pool, JOB).await.len(), 3);
    // Looking ahead waits for nobody.
    claim().await;
    printed(&app, &["job", "summaries", "--dry-run"]);
});

on_both_databases!(the_address_of_the_database_is_all_that_a_job_needs, backend => {
    let app = idle(backend).start().await;
    let mut environment = app.environment.clone();
    environment.retain(|(name, _)| name == "BEDROCK_DATABASE__URL");
    assert_eq!(environment.len(), 1);

    for arguments in [
        &["job", "list"][..],
        &["job", "status"],
        &["job", "run", "price_check"],
        &["job", "summaries"],
        &["job", "cleanup", "--dry-run"],
        &["job", "reprice", "--from", "2026-11-01", "--dry-run"],
    ] {
        let output = command(&environment, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
});

#[actix_web::test]
async fn on_a_database_that_is_not_there_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new/test.db");
    let empty = Database::on_postgres().await;
    let (server, _) = empty.url.rsplit_once('/').unwrap();
    let absent = format!("{server}/there_is_no_such_database");
    for (url, part) in [
        (format!("sqlite://{}", place.display()), "there is no database"),
        (absent, "database"),
        (empty.url.clone(), "migrat"),
    ] {
        let environment = [("BEDROCK_DATABASE__URL".to_owned(), url.clone())];
        for arguments in [
            &["job", "summaries"][..],
            &["job", "run", "usage_cleanup"],
            &["job", "status"],
            &["job", "list"],
        ] {
            let (code, message) = refused(&environment, arguments);

            assert_eq!(code, Some(1), "{url}: {arguments:?}: {message}");
            assert!(message.contains(part), "{url}: {arguments:?}: {message}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let environment = [("BEDROCK_DATABASE__URL".to_owned(), empty.url.clone())];
    let status = command(&environment, &["migrate", "status"]);
    assert!(!text(&status.stdout).contains("applied"), "{status:?}");
}

#[actix_web::test]
async fn settings_of_jobs_that_cannot_work_are_named() {
    let app = idle(Backend::Sqlite).start().await;
    for (key, value, part) in [
        ("jobs.timezone", "Mars/Olympus", "Europe/Berlin"),
        ("jobs.usage_summaries.schedule", "61 * * * *", "minute"),
        ("jobs.usage_cleanup.schedule", "* * *", "five fields"),
        ("jobs.price_check.schedule", "0 4 * * ?", "day of week"),
        ("jobs.audit_retention.schedule", "@never", "@daily"),
        ("jobs.usage_cleanup.raw_records_days", "0", "1 to 36500"),
        ("jobs.usage_cleanup.raw_records_days", "36501", "1 to 36500"),
        ("jobs.usage_cleanup.summaries_retention_days.hourly", "0", "1 to 36500"),
        ("jobs.usage_cleanup.summaries_retention_days.daily", "0", "1 to 36500"),
        ("jobs.usage_cleanup.summaries_retention_days.weekly", "0", "1 to 36500"),
        ("jobs.usage_cleanup.summaries_retention_days.monthly", "-1", ""),
        ("jobs.usage_summaries.periods", "daily,yearly", "hourly, daily, weekly, monthly"),
        ("jobs.enabled", "perhaps", "true"),
    ] {
        let mut environment = app.environment.clone();
        let variable = key.replace('.', "__").to_ascii_uppercase();
        environment.push((format!("BEDROCK_{variable}"), value.to_owned()));

        let (code, message) = refused(&environment, &["settings", "check"]);

        assert_eq!(code, Some(1), "{key}: {message}");
        let named = message.to_lowercase().contains(key) || message.contains(&variable);
        assert!(named && message.contains(part), "{key}: {message}");
    }
}

on_both_databases!(the_price_check_adds_what_is_missing_and_tells_of_models_without_a_price, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 2).await;
    sql(
        &pool,
        &format!(
            "DELETE FROM model_costs WHERE id = (SELECT MIN(id) FROM model_costs); \
             UPDATE usage_summaries SET model_id = 'acme.unheard-of-v1:0', unpriced = requests, cost_nano_usd = 0 \
             WHERE model_id = '{HAIKU}'"
        ),
    )
    .await;

    let first = printed(&app, &["job", "run", "price_check"]);
    let second = printed(&app, &["job", "run", "price_check"]);

    assert!(first.starts_with("1 shipped prices added"), "{first}");
    assert!(second.starts_with("0 shipped prices added"), "{second}");
    let line = second.lines().find(|line| line.contains("acme.unheard-of-v1:0")).unwrap();
    assert!(line.contains("in us-east-1") && line.contains("48 calls of the last 30 days"), "{line}");
    assert_eq!(second.lines().count(), 2, "{second}");
    assert!(printed(&app, &["job", "status"]).contains("acme.unheard-of-v1:0"));
});
