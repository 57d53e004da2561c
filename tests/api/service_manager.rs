//! What a service manager gives a service that it starts: listening sockets, and a socket to be told how it is.

use std::{
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::simulator::{Simulator, SimulatorConfig};

use crate::{
    helpers::{MODEL, eventually, message, request_to},
    lifecycle::{Process, binary, heir, logging_environment},
};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    environment: (&'static str, String),
    _folder: Option<tempfile::TempDir>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let environment = ("NOTIFY_SOCKET", path.display().to_string());
        Self { socket, environment, _folder: Some(folder) }
    }

    /// One that is reached by a name instead of a path.
    fn without_a_path() -> Self {
        let name = format!("bedrock-proxy-test-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self { socket, environment: ("NOTIFY_SOCKET", format!("@{name}")), _folder: None }
    }

    /// The next thing that it is told, within this time.
    fn told(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut message = vec![0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// Passes over what else it is told, up to this; 20 seconds at most.
    fn hears(&self, wanted: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let told = self.told(deadline.saturating_duration_since(Instant::now()) + TICK);
            let told = told.unwrap_or_else(|| panic!("it is not told {wanted}"));
            if told.contains(wanted) {
                return told;
            }
        }
    }

    /// Passes over what it was told so far.
    fn forget(&self) {
        while self.told(TICK).is_some() {}
    }
}

const TICK: Duration = Duration::from_millis(1);

#[actix_web::test]
async fn it_tells_when_it_serves_reloads_and_stops_and_that_it_lives_as_long_as_it_does() {
    let manager = Manager::new();
    let mut process = Process::start_with(&[
        (manager.environment.0, &manager.environment.1),
        ("WATCHDOG_USEC", "400000"),
    ])
    .await;

    let ready = manager.hears("READY=1");
    assert!(ready.contains("STATUS=serving on 127.0.0.1:"), "{ready}");
    assert_eq!(process.get("/health/ready").send().await.status, 200);
    for _ in 0..3 {
        assert_eq!(manager.told(Duration::from_secs(10)).as_deref(), Some("WATCHDOG=1"));
    }

    process.signal("-HUP");
    let reloading = manager.hears("RELOADING=1");
    let micros = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0);
    manager.hears("READY=1");

    // A process that stands still answers nobody, and so does not say that it lives.
    process.signal("-STOP");
    let stopped = eventually(Duration::from_secs(10), || async {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    });
    assert!(stopped.await);
    manager.forget();
    assert_eq!(manager.told(Duration::from_secs(1)), None);
    process.signal("-CONT");
    manager.hears("WATCHDOG=1");

    process.signal("-TERM");
    manager.hears("STOPPING=1");
    assert_eq!(process.ended(Duration::from_secs(10)).await, Some(0));
}

#[actix_web::test]
async fn another_process_s_watchdog_is_not_fed() {
    let manager = Manager::without_a_path();
    let _process = Process::start_with(&[
        (manager.environment.0, &manager.environment.1),
        ("WATCHDOG_USEC", "200000"),
        ("WATCHDOG_PID", "1"),
    ])
    .await;

    manager.hears("READY=1");

    assert_eq!(manager.told(Duration::from_secs(1)), None);
}

#[actix_web::test]
async fn it_serves_on_the_sockets_that_it_inherits_and_leaves_them_open() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = service.local_addr().unwrap();
    let mut process = Process::start().await;
    let key = process.create_key();
    // Neither of them is bound.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut environment = process.environment.clone();
    environment.push(("BEDROCK_SERVER__PORT".into(), port));
    process.start_again(environment, heir(&service, Some(&metrics))).await;

    let reply = process.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    let scraped =
        request_to("GET", &format!("http://{}", metrics.local_addr().unwrap()), "/metrics");
    let scraped = scraped.send().await;

    assert_eq!(process.url, format!("http://{address}"));
    assert_eq!((reply.status.as_u16(), scraped.status.as_u16()), (200, 200));
    let log = String::from_utf8(process.log()).unwrap();
    assert!(log.contains("\"inherited\":true"), "{log}");

    // Who comes while nobody serves waits for the next one.
    process.signal("-TERM");
    assert_eq!(process.ended(Duration::from_secs(10)).await, Some(0));
    let call = process.call(MODEL, "invoke", &message("hi")).bearer(&key);
    let waiting = actix_web::rt::spawn(async move { call.send().await });
    let connects =
        eventually(Duration::from_secs(5), || async { TcpStream::connect(address).is_ok() });
    assert!(connects.await);
    let environment = process.environment.clone();
    (process.child, process.url) =
        crate::lifecycle::serve_by(heir(&service, None), &environment, &Default::default());
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[actix_web::test]
async fn an_inherited_socket_of_no_use_keeps_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
    let database = format!("sqlite://{}/test.db", folder.path().display());
    let environment = logging_environment(&database, folder.path(), &simulator);
    let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (connected, _) = {
        let client = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        (client, listening.accept().unwrap())
    };
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();

    let said = |socket: OwnedFd, count: usize, names: &str| {
        let script = format!(
            "exec 3<&0 4<&0 </dev/null; export LISTEN_FDS={count} LISTEN_PID=$$ LISTEN_FDNAMES={names}; exec \"$0\" serve"
        );
        let output = Command::new("/bin/sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_bedrock_proxy")])
            .env_clear()
            .envs(environment.iter().cloned())
            .stdin(Stdio::from(socket))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };

    let of_unix = said(unix.into(), 1, "http");
    assert!(of_unix.contains("socket number 0 (http) is no TCP socket"), "{of_unix}");
    let of_connection = said(connected.into(), 1, "");
    assert!(
        of_connection.contains("socket number 0 (without a name) does not listen"),
        "{of_connection}"
    );
    let of_two = said(listening.into(), 2, "http:https");
    assert!(of_two.contains("more than one socket is inherited for the service"), "{of_two}");
    let of_metrics = said(everywhere.into(), 1, "metrics");
    assert!(of_metrics.contains("needs metrics.token"), "{of_metrics}");
}

#[actix_web::test]
async fn two_instances_share_a_port_if_they_may() {
    let mut first = Process::start_with(&[("BEDROCK_SERVER__REUSE_PORT", "true")]).await;
    let key = first.create_key();
    let port = first.url.rsplit(':').next().unwrap().to_owned();
    let mut environment = first.environment.clone();
    environment.push(("BEDROCK_SERVER__PORT".into(), port));
    let refused = {
        let mut environment = environment.clone();
        environment.push(("BEDROCK_SERVER__REUSE_PORT".into(), "false".into()));
        binary().env_clear().envs(environment).stderr(Stdio::piped()).output().unwrap()
    };
    assert_eq!(refused.status.code(), Some(1));
    let (mut second, url) = crate::lifecycle::serve_by(binary(), &environment, &Default::default());
    assert_eq!(url, first.url);

    first.signal("-TERM");
    assert_eq!(first.ended(Duration::from_secs(10)).await, Some(0));
    let reply = first.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!(reply.status, 200);
    second.kill().unwrap();
    second.wait().unwrap();
}
