//! Work that instances do for each other: journals of those that were killed, and the slots of jobs.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{Cluster, Instance, LONG, id, number, recovered};
use crate::helpers::{MODEL, eventually, message, messages};

/// Who calls each instance at once.
const CLIENTS: usize = 6;
/// Calls of a killed instance have their rows within this.
const PICKED_UP: Duration = Duration::from_secs(15);

/// Calls one instance until it is over, or the instance is gone. Answers with the ids of calls that went well.
async fn keep_calling(
    instance: &Instance,
    number: usize,
    key: &str,
    over: &Cell<bool>,
    finished: &RefCell<Vec<String>>,
) {
    while !over.get() {
        let said = if number.is_multiple_of(2) { "hi" } else { "@sim:stream events=20 delay_ms=5" };
        let request = if number.is_multiple_of(3) {
            let mut body = messages(said);
            body["stream"] = (!number.is_multiple_of(2)).into();
            instance.request("POST", "/anthropic/v1/messages").json(&body)
        } else {
            let operation =
                if number.is_multiple_of(2) { "invoke" } else { "invoke-with-response-stream" };
            let path = format!("/bedrock/model/{MODEL}/{operation}");
            instance.request("POST", &path).json(&message(said))
        };
        match request.bearer(key).try_send().await {
            Some(reply) if reply.complete => finished.borrow_mut().push(id(&reply)),
            _ => return,
        }
    }
}

#[actix_web::test]
async fn journal_of_an_instance_that_was_killed_is_taken_up_by_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal").display().to_string();
    // So long that a kill finds rows which only the journal has.
    let given = [("USAGE__JOURNAL_DIR", journal.as_str()), ("USAGE__BATCH_DELAY_MS", "300")];
    let mut cluster = Cluster::start_with(&given).await;
    let key = cluster.key().await.text;
    let finished = RefCell::default();
    let (mut taken_up, mut kills) = (Vec::new(), 0);
    for trial in 0..number("CLUSTER_KILLS", 2) {
        let victim = trial % 3;
        let over = Cell::new(false);
        let pid = cluster.instances[victim].child.id().to_string();
        let clients = cluster.instances.iter().flat_map(|instance| {
            let (key, over, finished) = (&key, &over, &finished);
            (0..CLIENTS).map(move |number| keep_calling(instance, number, key, over, finished))
        });
        let replayed = || -> usize {
            let others = cluster.instances.iter().enumerate().filter(|(n, _)| *n != victim);
            others.map(|(_, one)| one.said("replayed the journal of a process that is gone")).sum()
        };
        let kill = async {
            let (calls, before) = (finished.borrow().len(), replayed());
            let busy = eventually(LONG, || async { finished.borrow().len() >= calls + 30 });
            assert!(busy.await, "they are under load");
            let killed = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
            assert!(killed.success());
            let killed = Instant::now();
            let seen = eventually(LONG, || async { replayed() > before });
            assert!(seen.await, "another instance takes its journal up");
            over.set(true);
            killed.elapsed()
        };
        let (_, took) = tokio::join!(join_all(clients), kill);
        assert!(took <= PICKED_UP, "{took:?}");
        taken_up.push(took);
        kills += 1;
        cluster.kill_and_restart(victim).await;
        assert!(eventually(LONG, || cluster.is_well()).await);
    }

    let finished = finished.into_inner();
    let began = Instant::now();
    let complete = eventually(LONG, || async {
        let recorded = cluster.recorded().await;
        finished.iter().all(|id| recorded.contains(id))
    });
    let _the_loop_says_what_is_missing = complete.await;
    let text = "SELECT upstream_request_id, outcome, input_tokens, output_tokens FROM usage_records \
                WHERE upstream_request_id IS NOT NULL";
    let mut rows: HashMap<String, (String, [Option<i64>; 2])> = HashMap::new();
    for row in cluster.ask(text).await {
        let before = rows.insert(row.get(0), (row.get(1), [row.get(2), row.get(3)]));
        assert!(before.is_none(), "{before:?} and another row");
    }
    let calls = cluster.simulator.ledger().calls();
    let usage: HashMap<_, _> = calls.iter().map(|call| (&call.request_id, call.usage)).collect();
    for id in &finished {
        let (outcome, tokens) = rows.get(id).unwrap_or_else(|| panic!("call {id} has no row"));
        let used = usage[id].unwrap();
        let expected = [used.input, used.output].map(|count| Some(count.cast_signed()));
        assert_eq!((outcome.as_str(), *tokens), ("success", expected));
    }
    taken_up.sort_unstable();
    println!(
        "{kills} kills under load: {} calls finished, each with its row; journals taken up after {} ms (median), {} ms (slowest)",
        finished.len(),
        taken_up[taken_up.len() / 2].as_millis(),
        taken_up[taken_up.len() - 1].as_millis()
    );
    recovered("Instance killed", began, PICKED_UP);
}

#[actix_web::test]
async fn jobs_run_once_for_each_slot_whichever_instance_has_it() {
    const SLOTS: usize = 10;
    let every_second = ("JOBS__USAGE_SUMMARIES__SCHEDULE", "* * * * * *");
    let cluster = Cluster::start_with(&[every_second]).await;
    let from = cluster.count("SELECT COALESCE(MAX(id), 0) FROM job_runs").await;
    let ended = format!(
        "SELECT COUNT(*) FROM job_runs WHERE job = 'usage_summaries' AND id > {from} AND finished_at IS NOT NULL"
    );
    let wanted = i64::try_from(SLOTS).unwrap();
    assert!(eventually(LONG, || async { cluster.count(&ended).await >= wanted }).await);

    let text = "SELECT EXTRACT(EPOCH FROM slot)::BIGINT, attempt, outcome, instance, \
                COALESCE(started_at + INTERVAL '250 milliseconds' < LAG(finished_at) OVER (ORDER BY token), FALSE) \
                FROM job_runs WHERE job = 'usage_summaries' AND finished_at IS NOT NULL ORDER BY token";
    let mut slots = Vec::new();
    let mut by_instance: BTreeMap<String, usize> = BTreeMap::new();
    for row in cluster.ask(text).await {
        let slot: i64 = row.get(0);
        let (attempt, outcome): (i64, String) = (row.get(1), row.get(2));
        let overlaps: bool = row.get(4);
        assert_eq!((attempt, outcome.as_str(), overlaps), (1, "success", false), "slot {slot}");
        slots.push(slot);
        *by_instance.entry(row.get(3)).or_default() += 1;
    }
    let gaps: Vec<_> = slots[slots.len() - SLOTS..].windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(gaps, [1; SLOTS - 1], "{slots:?}");
    assert!(slots.is_sorted_by(|one, next| one < next), "{slots:?}");
    println!("{} slots, each run once: {:?} by instance", slots.len(), by_instance.values());
}
