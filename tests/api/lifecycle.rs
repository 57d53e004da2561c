//! Start, health, drain, stop; the real process where a signal or a port is the point.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::simulator::{Simulator, SimulatorConfig};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::helpers::{
    ADMIN, MODEL, PERSON, Reply, Request, TestServerBuilder, command, conversation, environment,
    eventually, message, request_to, spawn_app,
};

const STREAM: &str = "invoke-with-response-stream";

/// The real binary, serving; killed when dropped.
pub struct Process {
    pub child: Child,
    pub url: String,
    pub environment: Vec<(String, String)>,
    pub simulator: Simulator,
    folder: tempfile::TempDir,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further variables of the environment.
    pub async fn start_with(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
        let database = format!("sqlite://{}/data/test.db", folder.path().display());
        let mut environment = logging_environment(&database, folder.path(), &simulator);
        environment
            .extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let log = Arc::default();
        let (child, url) = serve(&environment, &log);
        Self { child, url, environment, simulator, folder, log }
    }

    /// Stops it, and starts it on the same files with another environment; by `program`, if that is not the binary.
    pub async fn start_again(&mut self, environment: Vec<(String, String)>, program: Command) {
        self.signal("-TERM");
        assert_eq!(self.ended(Duration::from_secs(10)).await, Some(0));
        self.environment = environment;
        (self.child, self.url) = serve_by(program, &self.environment, &self.log);
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<u8> {
        self.log.lock().unwrap().clone()
    }

    /// Lines of its log with this message.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let log = String::from_utf8(self.log()).unwrap();
        let lines =
            serde_json::Deserializer::from_str(&log).into_iter::<Value>().map(Result::unwrap);
        lines
            .filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message)))
            .collect()
    }

    /// Where it keeps its data.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn create_key(&self) -> String {
        let made = command(&self.environment, &["user", "create", PERSON]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let key = command(&self.environment, &["key", "create", PERSON, "--name", "test"]);
        assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
        String::from_utf8(key.stdout).unwrap().trim().to_owned()
    }

    pub fn get(&self, path: &str) -> Request {
        request_to("GET", &self.url, path)
    }

    pub fn call(&self, model: &str, operation: &str, body: &Value) -> Request {
        request_to("POST", &self.url, &format!("/bedrock/model/{model}/{operation}")).json(body)
    }

    /// Kills it as a crash would, and starts it again on the same files.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.url) = serve(&self.environment, &self.log);
    }

    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself; answers its exit code.
    pub async fn ended(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it still runs after {within:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The environment of a real process, which logs JSON.
pub fn logging_environment(
    database: &str,
    folder: &std::path::Path,
    simulator: &Simulator,
) -> Vec<(String, String)> {
    let mut environment = environment(database, folder, simulator);
    environment.retain(|(name, _)| name != "BEDROCK_LOGGING__LEVEL");
    environment.push(("BEDROCK_LOGGING__FORMAT".into(), "json".into()));
    environment
}

/// The binary, told to serve.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bedrock_proxy"));
    command.arg("serve").stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// The same with inherited sockets; one for metrics, if given, is called so. Told that a file may not grow it sees an error,
/// as with a full disk.
pub fn heir(service: &TcpListener, metrics: Option<&TcpListener>) -> Command {
    let given = |listener: &TcpListener| Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
    let (count, also) = match metrics {
        Some(_) => (2, "4<&2 2>/dev/null"),
        None => (1, ""),
    };
    let script = format!(
        "trap '' XFSZ; exec 3<&0 </dev/null {also}; export LISTEN_FDS={count} LISTEN_PID=$$ LISTEN_FDNAMES=http:metrics; exec \"$0\" serve"
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_bedrock_proxy")]);
    command.stdin(given(service)).stderr(metrics.map_or_else(Stdio::inherit, given));
    command
}

fn serve(environment: &[(String, String)], log: &Arc<Mutex<Vec<u8>>>) -> (Child, String) {
    serve_by(binary(), environment, log)
}

/// Starts the binary and reads from its log where it listens.
pub fn serve_by(
    mut program: Command,
    environment: &[(String, String)],
    log: &Arc<Mutex<Vec<u8>>>,
) -> (Child, String) {
    let mut child = program
        .env_clear()
        .envs(environment.iter().cloned())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .inspect(|line| log.lock().unwrap().extend_from_slice(line.as_bytes()))
        .find_map(|line| {
            let line: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            (line["message"] == "listening").then(|| line["address"].as_str().unwrap().to_owned())
        })
        .expect("it logs where it listens");
    // Somebody must read on, or its log is dropped.
    let log = log.clone();
    std::thread::spawn(move || {
        let read = lines.map_while(Result::ok);
        read.for_each(|line| log.lock().unwrap().extend_from_slice(line.as_bytes()));
    });
    (child, format!("http://{address}"))
}

#[actix_web::test]
async fn a_secret_that_is_replaced_without_the_one_before_it_is_warned_of_at_the_start() {
    let mut process = Process::start().await;
    let warned = |process: &Process| {
        String::from_utf8_lossy(&process.log()).matches("this secret changed").count()
    };
    let mut rotate = async |secret: &str, previous: Option<&str>| {
        process.signal("-TERM");
        assert_eq!(process.ended(Duration::from_secs(10)).await, Some(0));
        process.environment.retain(|(name, _)| !name.starts_with("BEDROCK_JWT__"));
        process.environment.push(("BEDROCK_JWT__SECRET".into(), secret.into()));
        let file = process.folder().join("config.yaml");
        let list = previous.map(|secret| {
            format!(
                "jwt: {{previous_secrets: [{{secret: {secret}, until: 2100-01-01T00:00:00Z}}]}}"
            )
        });
        std::fs::write(&file, list.unwrap_or_default()).unwrap();
        let file = file.display().to_string();
        process.environment.push(("BEDROCK_CONFIG_FILE".into(), file));
        (process.child, process.url) = serve(&process.environment, &process.log);
        warned(&process)
    };

    let (second, third) =
        ("a-second-secret-of-32-bytes-or-more-1", "a-third-secret-of-32-bytes-or-more-23");
    assert_eq!(rotate(second, Some(crate::helpers::SECRET)).await, 0);
    assert!(rotate(third, None).await > 0);
}

#[actix_web::test]
async fn fifty_live_streams_finish_while_the_service_stops() {
    let mut app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let streams: Vec<_> = (0..50)
        .map(|_| {
            let request =
                app.call(MODEL, STREAM, &message("@sim:stream events=40 delay_ms=25")).bearer(&key);
            actix_web::rt::spawn(request.send())
        })
        .collect();
    let ledger = app.simulator.ledger().clone();
    assert!(
        ledger
            .wait_for(
                |calls| calls.len() == 50 && calls.iter().all(|call| call.usage.is_some()),
                Duration::from_secs(10)
            )
            .await
    );

    let cut = app.stopped().await;
    let replies: Vec<Reply> =
        futures_util::future::join_all(streams).await.into_iter().map(Result::unwrap).collect();

    assert_eq!(cut, 0);
    assert!(replies.iter().all(|reply| reply.complete && reply.frames().len() > 40));
    app.start_again();
    let rows = app.rows(&key).await;
    assert_eq!(rows.len(), 50);
    assert!(rows.iter().all(|row| row["outcome"] == "success"));
    let mut output: Vec<_> =
        rows.iter().map(|row| row["output_tokens"].as_u64().unwrap()).collect();
    let mut served: Vec<_> = ledger.calls().iter().map(|call| call.usage.unwrap().output).collect();
    output.sort_unstable();
    served.sort_unstable();
    assert_eq!(output, served);
}

#[actix_web::test]
async fn what_outlasts_the_grace_period_is_cut_with_an_exception_and_a_row() {
    let mut app = TestServerBuilder::new()
        .set("SHUTDOWN__STREAMING_TIMEOUT_SECONDS", 1)
        .set("SHUTDOWN__TIMEOUT_SECONDS", 1)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let endless =
        app.call(MODEL, STREAM, &message("@sim:stream events=5000 delay_ms=20")).bearer(&key);
    let hanging = app.call(MODEL, "invoke", &message("@sim:hang")).bearer(&key);
    let (endless, hanging) =
        (actix_web::rt::spawn(endless.send()), actix_web::rt::spawn(hanging.send()));
    let ledger = app.simulator.ledger().clone();
    assert!(
        ledger
            .wait_for(
                |calls| calls.len() == 2 && calls.iter().any(|call| call.usage.is_some()),
                Duration::from_secs(10)
            )
            .await
    );

    let started = Instant::now();
    let cut = app.stopped().await;

    assert_eq!(cut, 2);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let (stream, plain) = (endless.await.unwrap(), hanging.await.unwrap());
    assert!(!stream.complete);
    let frames = stream.frames();
    let last = frames.last().unwrap();
    assert_eq!((last.0.as_str(), last.1.as_str()), ("exception", "serviceUnavailableException"));
    assert_eq!((plain.status.as_u16(), plain.error_type()), (503, "ServiceUnavailableException"));
    app.start_again();
    let rows = app.rows(&key).await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["outcome"] == "shutdown"), "{rows:?}");
}

#[actix_web::test]
async fn a_second_signal_makes_haste() {
    let mut process = Process::start().await;
    let key = process.create_key();
    let request =
        process.call(MODEL, STREAM, &message("@sim:stream events=5000 delay_ms=20")).bearer(&key);
    let stream = actix_web::rt::spawn(request.send());
    let began = process
        .simulator
        .ledger()
        .wait_for(|calls| calls.iter().any(|c| c.usage.is_some()), Duration::from_secs(10));
    assert!(began.await);

    process.signal("-TERM");
    let refused = eventually(Duration::from_secs(5), || async {
        std::net::TcpStream::connect(process.url.trim_start_matches("http://")).is_err()
    });
    assert!(refused.await, "it stops accepting");
    let started = Instant::now();
    process.signal("-TERM");
    let code = process.ended(Duration::from_secs(6)).await;

    assert_eq!(code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(6));
    assert!(!stream.await.unwrap().complete);
}

#[actix_web::test]
async fn a_process_without_calls_stops_at_once() {
    let mut process = Process::start().await;
    let key = process.create_key();
    let reply = process.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    assert_eq!(reply.status, 200);

    process.signal("-TERM");

    assert_eq!(process.ended(Duration::from_secs(4)).await, Some(0));
}

#[actix_web::test]
async fn a_request_on_its_way_over_an_idle_connection_is_answered_while_it_stops() {
    let mut app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let call = || {
        let call = app.call(MODEL, "invoke", &message("hi")).bearer(&key);
        call.header("connection", "keep-alive")
    };
    let (first, second, third) = (call(), call(), call());
    let mut idle = TcpStream::connect(first.host()).await.unwrap();
    let mut kept = TcpStream::connect(first.host()).await.unwrap();
    let before = first.send_on(&mut kept).await.unwrap();
    assert_eq!((before.status.as_u16(), before.header("connection")), (200, None));

    app.begin_stop();
    let refused = eventually(Duration::from_secs(5), || async {
        TcpStream::connect(first.host()).await.is_err()
    });
    assert!(refused.await, "it accepts no more");
    let (kept_on, fresh) = tokio::join!(second.send_on(&mut kept), third.send_on(&mut idle));

    for reply in [kept_on.unwrap(), fresh.unwrap()] {
        assert_eq!((reply.status.as_u16(), reply.header("connection")), (200, Some("close")));
    }
    assert_eq!(kept.read(&mut [0]).await.unwrap(), 0, "it is closed");
    assert_eq!(app.stopped().await, 0);
}

#[actix_web::test]
async fn during_the_pre_drain_it_serves_and_says_that_it_drains() {
    let mut app = TestServerBuilder::new().set("SHUTDOWN__PRE_DRAIN_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;

    app.begin_stop();
    let draining = eventually(Duration::from_millis(900), || async {
        app.get("/health/ready").send().await.json()["status"] == "draining"
    });
    assert!(draining.await);
    let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    let live = app.get("/health/live").send().await;

    assert_eq!((reply.status.as_u16(), live.status.as_u16()), (200, 200));
    assert_eq!(app.stopped().await, 0);
}

#[actix_web::test]
async fn health_tells_each_part_to_an_admin() {
    let app = spawn_app().await;
    let token = app.create_token(ADMIN).await;
    let ready = eventually(Duration::from_secs(5), || async {
        app.get("/health").send().await.status == 200
    });
    assert!(ready.await);

    let all = app.get("/health?check=all").bearer(&token).send().await;
    let one = app.get("/health?check=database").bearer(&token).send().await;
    let unknown = app.get("/health?check=nothing").bearer(&token).send().await;

    let parts: Vec<_> = all.json()["checks"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(parts, ["actors", "aws", "cache", "database", "journal", "jwt", "oauth"]);
    assert!(
        all.json()["checks"].as_object().unwrap().values().all(|check| check["status"] == "ok"),
        "{:?}",
        all.json()
    );
    assert_eq!(one.json()["checks"].as_object().unwrap().len(), 1);
    assert_eq!(
        (unknown.status.as_u16(), &unknown.json()["error"]["field"]),
        (400, &json!("check"))
    );
}

#[actix_web::test]
async fn metrics_count_what_happened_on_a_listener_of_their_own() {
    let app =
        TestServerBuilder::new().set("METRICS__TOKEN", "a-token-for-the-metrics").start().await;
    let key = app.create_key(PERSON).await;
    app.call(MODEL, STREAM, &message("hi")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    app.get("/api/usage/records").bearer(&format!("SSOK_{}", "a".repeat(32))).send().await;
    app.settle().await;
    let usage = app.last_call().usage.unwrap();

    let metrics_url = app.metrics_url();
    let refused = request_to("GET", "", &metrics_url).send().await;
    let metrics =
        request_to("GET", "", &metrics_url).bearer("a-token-for-the-metrics").send().await;
    let not_here = app.get("/metrics").send().await;

    assert_eq!((refused.status.as_u16(), not_here.status.as_u16()), (401, 404));
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let who = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"aws.bedrock\",\
               gen_ai_request_model=\"anthropic.claude-sonnet-4-20250514-v1:0\"";
    for line in [
        r#"bedrock_calls_total{operation="invoke",outcome="success"} 1"#,
        r#"bedrock_calls_total{operation="invoke_stream",outcome="success"} 1"#,
        &format!("gen_ai_client_operation_time_to_first_chunk_seconds_count{{{who}}} 1"),
        &format!("gen_ai_client_operation_duration_seconds_count{{error_type=\"\",{who}}} 2"),
        &format!(
            "gen_ai_client_token_usage_sum{{{who},gen_ai_token_type=\"input\"}} {}",
            2 * usage.input
        ),
        "process_open_fds ",
        concat!("bedrock_proxy_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        r#"auth_total{kind="api_key",outcome="unknown"} 1"#,
        r#"auth_total{kind="api_key",outcome="ok"} 1"#,
        "bedrock_live_streams 0",
        "bedrock_calls_in_flight 0",
        "usage_rows_written_total 2",
        &format!("bedrock_tokens_total{{kind=\"input\"}} {}", 2 * usage.input),
        r#"endpoint="/bedrock/model/{model_id:.*}/invoke""#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(MODEL), "no label may hold what clients choose");
    let documented = include_str!("../../docs/metrics.md");
    for name in text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()) {
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is not in docs/metrics.md");
    }
}

#[actix_web::test]
async fn a_metric_names_a_model_once_it_has_a_price() {
    let app = spawn_app().await;
    let (key, admin) = (app.create_key(PERSON).await, app.create_token(ADMIN).await);
    let called = async || {
        let reply = app
            .call("amazon.nova-unheard-of-v1:0", "converse", &conversation("hi"))
            .bearer(&key)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        app.settle().await;
        let metrics = request_to("GET", "", &app.metrics_url()).send().await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let count = |model: &str| {
            let labels = format!(",gen_ai_request_model=\"{model}\"}} ");
            let counts = text
                .lines()
                .filter(|line| line.starts_with("gen_ai_client_operation_duration_seconds_count"));
            counts.filter_map(|line| line.split_once(&labels)?.1.parse::<u64>().ok()).sum::<u64>()
        };
        (count("other"), count("amazon.nova-unheard-of-v1:0"))
    };

    assert_eq!(called().await, (1, 0));
    let price = json!({"input_cost_per_1k_tokens": "0.001", "output_cost_per_1k_tokens": "0.002"});
    let path = "/api/admin/costs/*/amazon.nova-unheard-of-v1:0";
    let put = app.get(path).method("PUT").bearer(&admin).header("content-type", "application/json");
    assert!(put.json(&price).send().await.status.is_success());
    // The next batch reads the prices; the call after it is told by its name.
    assert_eq!(called().await, (2, 0));
    assert_eq!(called().await, (2, 1));
}

#[actix_web::test]
async fn a_log_line_is_json_with_a_request_id_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
    let database = format!("sqlite://{}/test.db", folder.path().display());
    let mut environment = environment(&database, folder.path(), &simulator);
    environment.push(("BEDROCK_LOGGING__LEVEL".into(), "trace".into()));
    environment.push(("BEDROCK_SERVER__TRUSTED_PROXIES".into(), "127.0.0.0/8".into()));
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bedrock_proxy"))
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log)
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(
        eventually(Duration::from_secs(10), || async { read().contains("\"listening\"") }).await
    );
    let text = read();
    let line = text.lines().find(|line| line.contains("\"listening\"")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let url = format!("http://{}", line["address"].as_str().unwrap());
    command(&environment, &["user", "create", PERSON]);
    let key = command(&environment, &["key", "create", PERSON, "--name", "x"]).stdout;
    let key = String::from_utf8(key).unwrap().trim().to_owned();
    let id = "0192f0c1-0000-7000-8000-000000000001";
    let prompt = "a canary in the prompt";
    let path = format!("/bedrock/model/{MODEL}/invoke?secret=query-canary");
    let reply = request_to("POST", &url, &path)
        .bearer(&key)
        .header("x-request-id", id)
        .header("x-other", "header-canary")
        .header("x-forwarded-for", "203.0.113.7")
        .json(&message(prompt))
        .send()
        .await;
    assert_eq!((reply.status.as_u16(), reply.header("x-request-id")), (200, Some(id)));
    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success() && child.wait().unwrap().success());

    let text = read();
    let known = SimulatorConfig::default();
    for canary in [
        key.as_str(),
        prompt,
        "query-canary",
        "header-canary",
        &known.secret_access_key,
        crate::helpers::SECRET,
        "simulated reply",
    ] {
        assert!(!text.contains(canary), "the log holds {canary}");
    }
    let access = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["message"] == "answered" && line["status"] == 200)
        .unwrap();
    assert_eq!(access["span"]["request_id"], id);
    assert_eq!(access["model"], MODEL);
    assert_eq!(access["method"], "POST");
    assert_eq!(access["client"], "203.0.113.7", "as the trusted proxy says");
    assert!(access["user_id"].is_number() && access["ms"].is_number());
}

#[actix_web::test]
async fn the_health_command_tells_by_its_exit_code() {
    let mut app = TestServerBuilder::new().tls().start().await;
    let port = app.address().port().to_string();
    let mut environment = app.environment.clone();
    environment.push(("BEDROCK_SERVER__PORT".into(), port));
    assert!(
        eventually(Duration::from_secs(5), || async {
            command(&environment, &["health"]).status.success()
        })
        .await
    );

    app.stopped().await;

    assert_eq!(command(&environment, &["health"]).status.code(), Some(1));
}

#[actix_web::test]
async fn a_crashed_actor_is_started_again_and_loses_nothing() {
    use bedrock_sso_proxy::actors::Crash;
    let app = TestServerBuilder::new().set("USAGE__BATCH_DELAY_MS", 400).start().await;
    let key = app.create_key(PERSON).await;
    let shared = app.shared();
    let ready = || async { app.get("/health/ready").send().await.status == 200 };
    assert!(eventually(Duration::from_secs(5), ready).await);
    let reply = app.call(MODEL, STREAM, &message("hi")).bearer(&key).send().await;
    assert!(reply.complete);

    let fresh = app.create_key(PERSON).await;

    // The row waits in memory, and that memory is lost.
    assert!(shared.actors.usage.address().send(Crash).await.is_err());
    assert!(shared.actors.auth.address().send(Crash).await.is_err());
    let served = eventually(Duration::from_secs(3), || async {
        app.call(MODEL, STREAM, &message("hi")).bearer(&fresh).send().await.status == 200
    });
    assert!(served.await, "a new key is checked by the actor that was started again");
    let written = eventually(Duration::from_secs(15), || async {
        app.get("/api/usage/records").bearer(&key).send().await.json()["total"].as_u64() >= Some(2)
    });
    assert!(written.await, "the row came back from the journal");
    assert!(eventually(Duration::from_secs(5), ready).await);

    assert!(shared.actors.streams.address().send(Crash).await.is_err());
    let unready = eventually(Duration::from_secs(5), || async {
        !ready().await && shared.actors.are_unstable()
    });
    assert!(unready.await, "three crashes within a minute end readiness");
    let reply = app.call(MODEL, STREAM, &message("hi")).bearer(&key).send().await;
    assert!(reply.complete, "but calls are served");
}
