//! What fails besides the database and Redis: journals, the identity provider, Bedrock, a price, whoever reads the log.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::simulator::{Simulator, SimulatorConfig, identity::Fault};
use futures_util::future::join_all;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use super::{Cluster, Instance, LONG, recovered, statuses};
use crate::helpers::{MODEL, Reply, eventually, message, request_to};

const STREAM: &str = "invoke-with-response-stream";
const WELL_AGAIN: Duration = Duration::from_secs(15);

/// What every instance answers to a call that says this.
async fn say(cluster: &Cluster, model: &str, operation: &str, text: &str, key: &str) -> Vec<Reply> {
    let path = format!("/bedrock/model/{model}/{operation}");
    let calls = cluster
        .instances
        .iter()
        .map(|instance| instance.request("POST", &path).json(&message(text)).bearer(key).send());
    join_all(calls).await
}

#[actix_web::test]
async fn journals_that_cannot_be_written_refuse_calls_and_nothing_else() {
    let cluster = Cluster::start().await;
    let (browser, reply) = cluster.sign_in(0, 1).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    let key = cluster.key().await.text;
    assert_eq!(cluster.statuses(&key).await, [200; 3]);
    let fill_disk = |instances: &[Instance], full: bool| {
        for instance in instances {
            // No file may be written to.
            let limit = Rlimit { current: full.then_some(0), maximum: None };
            prlimit(Some(Pid::from_child(&instance.child)), Resource::Fsize, limit).unwrap();
        }
    };

    fill_disk(&cluster.instances[..1], true);
    assert_eq!(cluster.statuses(&key).await, [503, 200, 200], "the others have theirs");
    fill_disk(&cluster.instances, true);
    let before = cluster.simulator.ledger().len();
    for reply in cluster.calls(&key).await {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.message().contains("Usage cannot be recorded"), "{reply:?}");
    }
    assert_eq!(cluster.simulator.ledger().len(), before, "nothing goes to Bedrock");
    let out_of_turn = eventually(LONG, || async {
        let asked = cluster.instances.iter().map(|at| at.request("GET", "/health/ready").send());
        statuses(&join_all(asked).await) == [503; 3]
    });
    assert!(out_of_turn.await, "a balancer leaves them out");
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);
    assert_eq!(statuses(&cluster.changes("disabled").await), [200; 3]);
    let (_, reply) = cluster.sign_in(1, 2).await;
    assert_eq!(reply.status, 302, "{reply:?}");

    let healed = Instant::now();
    fill_disk(&cluster.instances, false);
    let serve = eventually(LONG, || async {
        cluster.statuses(&key).await == [200; 3] && cluster.is_well().await
    });
    assert!(serve.await, "they heal without a restart");
    recovered("Journal unwritable", healed, WELL_AGAIN);
}

#[actix_web::test]
async fn without_the_identity_provider_those_who_are_in_stay_in() {
    let cluster = Cluster::start().await;
    let (browser, reply) = cluster.sign_in(0, 1).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    let key = cluster.key().await.text;

    cluster.provider.misbehave(Some(Fault::Down));
    assert_eq!(cluster.statuses(&key).await, [200; 3]);
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);
    assert_eq!(statuses(&cluster.changes("disabled").await), [200; 3]);
    // The first knows the provider's addresses and sends people there; the third has to ask for them.
    let asked = cluster.browser(2).get("/auth/authorize/sso").await;
    assert_eq!(asked.status, 503, "{asked:?}");
    assert!(asked.header("retry-after").is_some(), "{asked:?}");
    let login = cluster.browser(2).get("/login").await;
    let login = String::from_utf8_lossy(&login.body).into_owned();
    assert!(login.contains("could not be reached at the last try"), "{login}");
    assert_eq!(statuses(&cluster.pages(&browser).await), [200; 3]);

    let healed = Instant::now();
    cluster.provider.misbehave(None);
    let lets_in = eventually(LONG, || async {
        let asked = cluster.browser(2).get("/auth/authorize/sso").await;
        asked.status == 302
    });
    assert!(lets_in.await, "it heals without a restart");
    let (_, reply) = cluster.sign_in(2, 0).await;
    assert_eq!(reply.header("location"), Some("/"), "{reply:?}");
    recovered("Identity provider away", healed, WELL_AGAIN);
}

#[actix_web::test]
async fn bedrock_that_fails_is_told_by_every_instance_as_what_it_is() {
    let mut cluster = Cluster::start_with(&[("AWS__FIRST_BYTE_TIMEOUT_SECONDS", "1")]).await;
    let key = cluster.key().await.text;
    for (scenario, status, code) in [
        ("throttle", 429, "ThrottlingException"),
        ("error code=AccessDeniedException", 403, "AccessDeniedException"),
        ("credentials", 500, "InternalServerException"),
        ("reset", 503, "ServiceUnavailableException"),
        ("hang", 504, "ModelTimeoutException"),
    ] {
        for reply in say(&cluster, MODEL, "invoke", &format!("@sim:{scenario}"), &key).await {
            assert_eq!((reply.status.as_u16(), reply.error_type()), (status, code), "{scenario}");
        }
    }
    for reply in say(&cluster, MODEL, STREAM, "@sim:cut after=3", &key).await {
        assert!(reply.status == 200 && !reply.complete, "{reply:?}");
    }

    cluster.simulator.stop().await;
    for reply in cluster.calls(&key).await {
        assert_eq!(
            (reply.status.as_u16(), reply.error_type()),
            (503, "ServiceUnavailableException")
        );
    }
    assert!(cluster.is_well().await, "instances are ready without it");
    let healed = Instant::now();
    let listen = cluster.simulator.url().strip_prefix("http://").unwrap().parse().unwrap();
    let config = SimulatorConfig { listen, ..SimulatorConfig::default() };
    cluster.simulator = Simulator::start(config).await.unwrap();
    let serve = eventually(LONG, || async { cluster.statuses(&key).await == [200; 3] });
    assert!(serve.await, "it heals without a restart");
    recovered("Bedrock away", healed, WELL_AGAIN);
}

#[actix_web::test]
async fn a_model_without_a_price_is_served_and_listed_until_it_has_one() {
    let cluster = Cluster::start().await;
    let (key, model) = (cluster.key().await.text, "anthropic.claude-fable-5-2");
    let priced = async |calls: i64| {
        let replies = say(&cluster, model, "invoke", "hi", &key).await;
        assert_eq!(statuses(&replies), [200; 3], "{replies:?}");
        let rows = format!("FROM usage_records WHERE model_id = '{model}'");
        let all = format!("SELECT COUNT(*) {rows}");
        assert!(eventually(LONG, || async { cluster.count(&all).await == calls }).await);
        cluster.count(&format!("SELECT COUNT(cost_nano_usd) {rows}")).await
    };

    assert_eq!(priced(3).await, 0, "their cost is not known");
    for instance in &cluster.instances {
        let request = instance.request("GET", "/api/admin/models/unpriced");
        let listed = request.bearer(&cluster.admin).send().await.json();
        assert!(listed.to_string().contains(model), "{listed}");
    }

    let healed = Instant::now();
    let path = format!("/api/admin/costs/us-east-1/{model}");
    let request = cluster.instances[0].request("PUT", &path).bearer(&cluster.admin);
    let price = json!({ "input_cost_per_1k_tokens": "0.01", "output_cost_per_1k_tokens": "0.05" });
    let reply = request.header("content-type", "application/json").json(&price).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(priced(6).await, 3, "every instance knows the price at once");
    recovered("Price missing", healed, WELL_AGAIN);
}

/// Nobody reads a log until what this answers is dropped.
fn unread(log: &Arc<Mutex<Vec<u8>>>) -> mpsc::Sender<()> {
    let (read_on, until) = mpsc::channel();
    let (log, (held, is_held)) = (Arc::clone(log), mpsc::channel());
    std::thread::spawn(move || {
        let _lines = log.lock().unwrap();
        held.send(()).unwrap();
        let _dropped = until.recv();
    });
    is_held.recv().unwrap();
    read_on
}

/// Lines of its log that an instance has dropped.
async fn dropped(metrics: &str) -> i64 {
    let reply = request_to("GET", metrics, "/metrics").send().await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("log_lines_dropped "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[actix_web::test]
async fn a_log_that_nobody_reads_holds_up_no_call() {
    const AT_ONCE: usize = 30;
    // So that the memory for lines is soon full.
    let cluster = Cluster::start_with(&[("LOGGING__LEVEL", "trace")]).await;
    let key = cluster.key().await.text;
    assert_eq!(cluster.statuses(&key).await, [200; 3]);
    let (before, mut calls) = (cluster.rows().await, 0);
    let metrics: Vec<_> = cluster
        .instances
        .iter()
        .map(|instance| {
            let said = instance.said();
            let address = said.split_once("\"metrics\":\"").unwrap().1.split('"').next().unwrap();
            format!("http://{address}")
        })
        .collect();

    let held: Vec<_> = cluster.instances.iter().map(|instance| unread(&instance.log)).collect();
    let full = Instant::now();
    loop {
        let many = cluster.instances.iter().cycle().take(AT_ONCE);
        let replies = join_all(many.map(|instance| instance.call(&key).send())).await;
        assert_eq!(statuses(&replies), [200; AT_ONCE]);
        calls += i64::try_from(AT_ONCE).unwrap();
        if join_all(metrics.iter().map(|at| dropped(at))).await.into_iter().all(|lines| lines > 0) {
            break;
        }
        assert!(full.elapsed() < 3 * LONG, "no line was dropped in {calls} calls");
    }
    assert_eq!(cluster.statuses(&key).await, [200; 3], "with full memory for lines, too");
    assert!(cluster.is_well().await);

    let healed = Instant::now();
    drop(held);
    let written = eventually(LONG, || async { cluster.rows().await >= before + calls + 3 });
    assert!(written.await, "every call has its row");
    let logs = eventually(LONG, || async {
        let lengths =
            || cluster.instances.iter().map(|instance| instance.log.lock().unwrap().len());
        let before: Vec<_> = lengths().collect();
        assert_eq!(cluster.statuses(&key).await, [200; 3]);
        lengths().zip(before).all(|(now, before)| now > before)
    });
    assert!(logs.await, "they log again");
    recovered("Log not read", healed, WELL_AGAIN);
}
