//! How the databases go about the statements that touch `usage_records`: none of them reads the whole table.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bedrock_sso_proxy::{
    db::{self, Conn, Pool, period::Period, summaries::build::Scope, usage},
    jobs::{Work, clean_up, reprice, summarise},
    pricing::ledger::Ledger,
    sample::{self, Plan, Sample, Who},
};
use chrono::TimeDelta;
use diesel::{
    QueryableByName,
    connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation},
    sql_types::Text,
};
use diesel_async::RunQueryDsl;
use tokio_util::sync::CancellationToken;

use crate::helpers::{ADMIN, TestServer, TestServerBuilder, on_both_databases};

/// Every statement of this process so far, as it was prepared.
static STATEMENTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn listen() -> Option<Box<dyn Instrumentation>> {
    Some(Box::new(|event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let text = query.to_string();
            let text = text.split(" -- binds").next().unwrap_or_default();
            if text.contains("usage_records") {
                STATEMENTS.lock().unwrap().insert(text.to_owned());
            }
        }
    }))
}

/// Twenty thousand calls of a year.
async fn fill(pool: &Pool) -> db::Timestamp {
    let now = db::now();
    let start = now.date() - TimeDelta::days(365);
    let plan = Plan { people: 40, start, end: now, calls: Some(20_000), seed: 1 };
    let who = (1..=40).map(|id| Who { user_id: id, key_ids: vec![id, 100 + id] });
    let who: Vec<Who> = who.collect();
    assert_eq!(sample::people(&plan).len(), who.len());
    let mut conn = pool.writer().await.unwrap();
    let ledger = Ledger::read(&mut conn).await.unwrap();
    let mut rows: Vec<_> = Sample::new(&plan, &who).collect();
    for row in &mut rows {
        (row.cost_nano_usd, row.price_id) = ledger.price(row);
    }
    for chunk in rows.chunks(2000) {
        usage::insert_all(&mut conn, Arc::new(chunk.to_vec()), ledger.version).await.unwrap();
    }
    now
}

/// Everything that reads, removes or changes calls.
async fn use_everything(app: &TestServer, pool: &Pool, now: db::Timestamp) {
    let admin = app.create_token(ADMIN).await;
    let (from, to) = (now - TimeDelta::days(20), now - TimeDelta::minutes(90));
    let range = format!("start_date={}Z&end_date={}Z", from.format("%FT%T"), to.format("%FT%T"));
    let filters = [
        String::new(),
        "user_id=3&".to_owned(),
        "model=us.anthropic.claude-sonnet-5&".to_owned(),
        "region=eu-central-1&".to_owned(),
        "key_id=105&".to_owned(),
        "outcome=timeout&".to_owned(),
        "success_only=true&".to_owned(),
        "user_id=3&model=us.anthropic.claude-sonnet-5&region=us-east-1&key_id=3&outcome=timeout&"
            .to_owned(),
    ];
    for filter in filters {
        for rest in ["limit=20".to_owned(), "limit=20&offset=40".to_owned(), range.clone()] {
            let path = format!("/api/admin/usage/records?{filter}{rest}");
            let reply = app.get(&path).bearer(&admin).send().await;
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            if let Some(cursor) = reply.json()["next_cursor"].as_str() {
                let path = format!("{path}&cursor={cursor}").replace("&offset=40", "");
                assert_eq!(app.get(&path).bearer(&admin).send().await.status, 200, "{path}");
            }
        }
        let path = format!("/api/admin/usage/export?{filter}{range}");
        assert_eq!(app.get(&path).bearer(&admin).send().await.status, 200, "{path}");
    }
    // What the pages of usage ask for besides.
    let mut conn = pool.reader().await.unwrap();
    for (user_id, key_id, model, outcome) in [
        (None, None, None, "timeout"),
        (Some(3), None, None, "success"),
        (Some(3), Some(3), None, "timeout"),
        (None, None, Some("us.anthropic.claude-sonnet-5"), "success"),
    ] {
        let filter = usage::Filter {
            user_id,
            key_id,
            model: model.map(str::to_owned),
            outcome: Some(outcome.to_owned()),
            start: Some(from),
            end: Some(to),
            ..usage::Filter::default()
        };
        let newest = usage::newest(&mut conn, &filter, 20).await.unwrap();
        for call in newest.iter().take(1) {
            assert!(usage::find(&mut conn, call.id).await.unwrap().is_some());
        }
    }
    drop(conn);
    for by in ["model", "user", "key,region,endpoint", ""] {
        for who in ["", "&user_id=3"] {
            let path =
                format!("/api/admin/usage/summaries?period_type=total&group_by={by}{who}&{range}");
            assert_eq!(app.get(&path).bearer(&admin).send().await.status, 200, "{path}");
        }
    }
    let work = Work { pool, fence: None, stop: CancellationToken::new(), progress: &|_| {} };
    summarise::summarise(&work, &Period::ALL, 3, &Scope::default(), now).await.unwrap();
    reprice::preview(pool, from, |_| {}).await.unwrap();
    reprice::reprice(&work, from, &db::audit::Origin::operator()).await.unwrap();
    let kept = [(db::levels::Level::Records, 300)];
    clean_up::preview(pool, &kept, now).await.unwrap();
    clean_up::clean_up(&work, &kept, now, &db::audit::Origin::operator()).await.unwrap();
}

on_both_databases!(no_statement_reads_all_of_the_usage_records, backend => {
    set_default_instrumentation(listen).unwrap();
    let app = TestServerBuilder::new().backend(backend).set("JOBS__ENABLED", false).start().await;
    let pool = app.pool().await;
    let now = fill(&pool).await;
    app.sql("ANALYZE").await;

    use_everything(&app, &pool, now).await;

    // Each database writes names in quotes of its own.
    let quote = match backend {
        crate::helpers::Backend::Postgres => '"',
        crate::helpers::Backend::Sqlite => '`',
    };
    let all: Vec<String> = STATEMENTS.lock().unwrap().iter().cloned().collect();
    let name = format!("{quote}usage_records{quote}");
    let ours = all.into_iter().filter(|text| {
        let reads = ["SELECT", "UPDATE", "DELETE"].iter().any(|verb| text.starts_with(verb));
        let plain = text.contains("FROM usage_records ") && text.contains("request_time >= $1");
        reads && (text.contains(&name) || plain)
    });
    let ours: Vec<String> = ours.collect();
    let mut bad = Vec::new();
    for text in &ours {
        let plan = explain(&pool, text).await;
        // Walking an index in the order that is asked for ends at the limit.
        let walks = text.contains("ORDER BY") && text.contains("LIMIT");
        let scans = plan.lines().any(|line| {
            line.contains("Seq Scan on usage_records")
                || (line.contains("SCAN usage_records") && !(walks && line.contains("USING")))
        });
        // How many rows a clean-up would remove is told by reading those, however many they are.
        let counts_what_goes = text.starts_with("SELECT COUNT(*)") && !text.contains("LIMIT");
        if scans && !counts_what_goes {
            bad.push(format!("{text}\n{plan}"));
        }
    }
    assert!(ours.len() >= 20, "{} statements", ours.len());
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), ours.len(), bad.join("\n\n"));
});

/// The plan of a statement whatever the values: on Postgres the generic one.
async fn explain(pool: &Pool, text: &str) -> String {
    let lines: Vec<String> = match &mut pool.writer().await.unwrap() {
        Conn::Sqlite(c) => {
            #[derive(QueryableByName)]
            struct Step {
                #[diesel(sql_type = Text)]
                detail: String,
            }
            let steps: Vec<Step> = diesel::sql_query(format!("EXPLAIN QUERY PLAN {text}"))
                .load(c.as_mut())
                .await
                .unwrap();
            steps.into_iter().map(|step| step.detail).collect()
        }
        Conn::Postgres(c) => {
            use diesel_async::SimpleAsyncConnection;
            let highest = (1..100).rev().find(|n| text.contains(&format!("${n}"))).unwrap_or(0);
            let values = vec!["NULL"; highest].join(", ");
            let call = if highest == 0 { "probe".to_owned() } else { format!("probe({values})") };
            let prepare = format!(
                "SET plan_cache_mode = force_generic_plan; DEALLOCATE ALL; PREPARE probe AS {text}"
            );
            c.batch_execute(&prepare).await.unwrap_or_else(|error| panic!("{error}: {text}"));
            // `EXPLAIN` cannot be a subquery; its one column has a name of its own.
            #[derive(QueryableByName)]
            struct Plan {
                #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
                line: String,
            }
            let plan: Vec<Plan> = diesel::sql_query(format!("EXPLAIN EXECUTE {call}"))
                .load(c.as_mut())
                .await
                .unwrap();
            plan.into_iter().map(|plan| plan.line).collect()
        }
    };
    lines.join("\n")
}
