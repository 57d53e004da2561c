//! Work that instances do for each other: journals of those that were killed, and the slots of jobs.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};

use super::{Cluster, Instance, LONG, number, recovered};
use crate::helpers::{MODEL, eventually, message, messages};

/// Who calls each instance at once.
const CLIENTS: usize = 6;
/// Another instance has the journal of one that was killed within this.
const PICKED_UP: Duration = Duration::from_secs(15);

/// Calls one instance until it is over, or the instance is gone; notes the upstream's ids of whole answers.
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
            Some(reply) if reply.complete => {
                assert_eq!(reply.status, 200, "{reply:?}");
                let id = reply.header("x-amzn-requestid").unwrap();
                finished.borrow_mut().push(id.to_owned());
            }
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
    let kills = number("CLUSTER_KILLS", 2);
    for trial in 0..kills {
        let victim = trial % 3;
        let over = Cell::new(false);
        let clients = cluster.instances.iter().flat_map(|instance| {
            let (key, over, finished) = (&key, &over, &finished);
            (0..CLIENTS).map(move |number| keep_calling(instance, number, key, over, finished))
        });
        let kill = async {
            let (calls, before) = (finished.borrow().len(), replayed(&cluster).len());
            let busy = eventually(LONG, || async { finished.borrow().len() >= calls + 30 });
            assert!(busy.await, "they are under load");
            kill_process(Pid::from_child(&cluster.instances[victim].child), Signal::KILL).unwrap();
            let killed = Instant::now();
            let seen = eventually(LONG, || async { replayed(&cluster).len() > before });
            assert!(seen.await, "another instance takes its journal up");
            recovered("Instance killed", killed, PICKED_UP);
            over.set(true);
        };
        tokio::join!(join_all(clients), kill);
        cluster.restart(victim).await;
        assert!(eventually(LONG, || cluster.is_well()).await);
    }

    let finished = finished.into_inner();
    let complete = eventually(LONG, || async {
        let recorded = cluster.recorded().await;
        finished.iter().all(|id| recorded.contains(id))
    });
    let _the_loop_says_what_is_missing = complete.await;
    let text = "SELECT upstream_request_id, outcome, input_tokens, output_tokens \
                FROM usage_records WHERE upstream_request_id IS NOT NULL";
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
    let from_journals: usize = replayed(&cluster).iter().sum();
    println!(
        "{kills} kills under load: {} calls finished, each with its one row; {from_journals} rows or more came out of journals",
        finished.len(),
    );
    assert!(from_journals > 0, "rows that only a journal had");
}

/// Of each journal that an instance took up, how many rows were new.
fn replayed(cluster: &Cluster) -> Vec<usize> {
    let logs = cluster.instances.iter().map(|instance| instance.said());
    let found = |log: String| {
        let told = log.split("replayed the journal of a process that is gone").skip(1);
        let new = told.map(|rest| rest.split_once("\"new\":").unwrap().1.to_owned());
        new.map(|rest| rest.split([',', '}']).next().unwrap().parse().unwrap()).collect::<Vec<_>>()
    };
    logs.flat_map(found).collect()
}

#[actix_web::test]
async fn jobs_run_once_for_each_slot_whichever_instance_has_it() {
    const SLOTS: usize = 10;
    let every_second = ("JOBS__USAGE_SUMMARIES__SCHEDULE", "* * * * * *");
    let cluster = Cluster::start_with(&[every_second]).await;
    // Without one that was missed because this machine had better things to do.
    let in_a_row = eventually(2 * LONG, || async {
        let text = "SELECT COUNT(*) FROM (SELECT slot - ROW_NUMBER() OVER (ORDER BY slot) * INTERVAL '1 second' AS first \
                    FROM job_runs WHERE job = 'usage_summaries' AND finished_at IS NOT NULL) AS runs \
                    GROUP BY first ORDER BY 1 DESC LIMIT 1";
        let longest = cluster.ask(text).await.first().map_or(0, |row| row.get::<_, i64>(0));
        longest >= i64::try_from(SLOTS).unwrap()
    });
    assert!(in_a_row.await);

    // An instance notes the time before it waits for the database.
    let text = "SELECT slot::TEXT, attempt, outcome, instance, COALESCE( \
                    started_at + INTERVAL '250 milliseconds' < LAG(finished_at) OVER (ORDER BY token), FALSE) \
                FROM job_runs WHERE job = 'usage_summaries' AND finished_at IS NOT NULL ORDER BY token";
    let mut slots: Vec<String> = Vec::new();
    let mut by_instance: BTreeMap<String, usize> = BTreeMap::new();
    for row in cluster.ask(text).await {
        let (slot, attempt, outcome, overlaps): (String, i64, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(4));
        assert_eq!((attempt, outcome.as_str(), overlaps), (1, "success", false), "slot {slot}");
        slots.push(slot);
        *by_instance.entry(row.get(3)).or_default() += 1;
    }
    assert!(slots.is_sorted_by(|one, next| one < next), "{slots:?}");
    println!("{} slots, each run once: {:?} by instance", slots.len(), by_instance.values());
}
