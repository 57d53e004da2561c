//! `kill -9` at any moment: every call that upstream finished and the client got has exactly one row.
//! `SOAK_KILLS` sets the number of trials; `make soak` runs many.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use crate::{
    helpers::{MODEL, Reply, eventually, message, messages},
    lifecycle::Process,
};

const STREAM: &str = "invoke-with-response-stream";
const MESSAGES: &str = "/anthropic/v1/messages";

#[actix_web::test]
async fn no_finished_call_is_lost_or_doubled_when_the_process_is_killed() {
    let trials: u64 =
        std::env::var("SOAK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut process = Process::start_with(&[("BEDROCK_USAGE__BATCH_DELAY_MS", "300")]).await;
    let key = process.create_key();
    let mut finished: Vec<String> = Vec::new();
    let mut kills = 0;
    // On a busy machine few calls finish before a kill: then there are more of them, up to five times as many.
    for trial in 0..trials * 5 {
        if trial >= trials && finished.len() as u64 > trials {
            break;
        }
        // The moments are spread, and differ from trial to trial.
        let patience = Duration::from_millis(20 + (trial * 37) % 400);
        let load = futures_util::future::join_all((0..24).map(|number| {
            let (operation, scenario) = match number % 6 {
                0 => ("invoke", "plain"),
                1 => (STREAM, "stream events=20 delay_ms=2"),
                2 => (STREAM, "stream events=60 delay_ms=8"),
                3 => (MESSAGES, "plain"),
                4 => (MESSAGES, "stream events=20 delay_ms=2"),
                _ => (MESSAGES, "stream events=60 delay_ms=8"),
            };
            let process = &process;
            let key = &key;
            async move {
                let mut done = Vec::new();
                loop {
                    let said = format!("@sim:{scenario}");
                    let request = if operation == MESSAGES {
                        let mut body = messages(&said);
                        body["stream"] = (scenario != "plain").into();
                        process.get(MESSAGES).method("POST").json(&body)
                    } else {
                        process.call(MODEL, operation, &message(&said))
                    };
                    match request.bearer(key).try_send().await {
                        Some(reply) if is_whole(&reply) => {
                            done.push(reply.header("x-amzn-requestid").unwrap().to_owned())
                        }
                        _ => return done,
                    }
                }
            }
        }));
        let pid = process.child.id().to_string();
        let kill = async {
            tokio::time::sleep(patience).await;
            let killed = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
            assert!(killed.success());
        };
        let (done, ()) = tokio::join!(load, kill);
        finished.extend(done.into_iter().flatten());
        process.kill_and_restart();
        kills += 1;
    }

    let rows = all_rows(&process, &key, &finished).await;
    let ledger: HashMap<String, _> = process
        .simulator
        .ledger()
        .calls()
        .into_iter()
        .map(|call| (call.request_id.clone(), call))
        .collect();
    let mut seen: HashMap<&str, &Value> = HashMap::new();
    for row in &rows {
        if let Some(id) = row["upstream_request_id"].as_str() {
            assert!(seen.insert(id, row).is_none(), "call {id} has two rows");
        }
    }
    for id in &finished {
        let row =
            seen.get(id.as_str()).unwrap_or_else(|| panic!("the finished call {id} has no row"));
        let usage = ledger[id].usage.unwrap();
        assert_eq!(row["outcome"], "success", "{row}");
        assert_eq!(
            (row["input_tokens"].as_u64(), row["output_tokens"].as_u64()),
            (Some(usage.input), Some(usage.output))
        );
    }
    let interrupted = rows.iter().filter(|row| row["outcome"] == "interrupted").count();
    assert!(
        rows.len() <= ledger.len() + interrupted,
        "{} rows for {} calls",
        rows.len(),
        ledger.len()
    );
    assert!(
        finished.len() as u64 > trials,
        "{} calls in {kills} trials prove little",
        finished.len()
    );
    println!(
        "{kills} kills: {} calls finished, none lost or doubled; {} rows in all, {interrupted} interrupted; {} calls reached upstream",
        finished.len(),
        rows.len(),
        ledger.len()
    );
}

fn is_whole(reply: &Reply) -> bool {
    reply.complete && reply.status == 200
}

/// Every row, once the journals of all killed processes have been replayed.
async fn all_rows(process: &Process, key: &str, finished: &[String]) -> Vec<Value> {
    let read = || async {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = process
                .get(&format!("/api/usage/records?limit=500{cursor}"))
                .bearer(key)
                .send()
                .await
                .json();
            rows.extend(page["records"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    };
    let complete = eventually(Duration::from_secs(20), || async {
        let rows = read().await;
        let known: std::collections::HashSet<_> =
            rows.iter().filter_map(|row| row["upstream_request_id"].as_str()).collect();
        finished.iter().all(|id| known.contains(id.as_str()))
    });
    let _the_caller_says_what_is_missing = complete.await;
    read().await
}
