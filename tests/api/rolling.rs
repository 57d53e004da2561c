//! Restarts under load with an inherited socket: no request fails, no connection is refused, no stream is cut, and every
//! call has one row. `ROLLING_RESTARTS` and `ROLLING_STREAMS` set the numbers; `make soak` runs many. What it is made of
//! serves for three instances, too (`cluster::rolling`).

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem::MaybeUninit,
    net::TcpListener,
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::{
    settings::{Need, Settings},
    simulator::{Simulator, SimulatorConfig},
    tls,
};
use diesel_async::RunQueryDsl;
use futures_util::{FutureExt, future::join_all};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;

use crate::{
    helpers::{
        Backend, Database, MODEL, PERSON, Reply, Request, command, message, messages,
        on_both_databases, request_to,
    },
    lifecycle::{heir, logging_environment, serve_by},
};

const STREAM: &str = "invoke-with-response-stream";
const MESSAGES: &str = "/anthropic/v1/messages";
/// Events of a stream and the milliseconds between them: it outlasts the start of an instance.
const EVENTS: &str = "events=8 delay_ms=500";
/// Clients besides the streams, of each kind.
const CLIENTS: usize = 8;

pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A client that keeps its connection as long as it may.
#[derive(Default)]
pub struct Kept {
    connection: Option<TcpStream>,
    /// Requests that met a connection which the service was just closing, unanswered, and were sent again (RFC 9112,
    /// section 9.3.1).
    pub met_a_close: usize,
    pub reused: usize,
}

impl Kept {
    /// `None` = no answer came, also not on a fresh connection.
    async fn send(&mut self, request: &Request) -> Option<Reply> {
        if let Some(mut connection) = self.connection.take().filter(is_open) {
            if let Some(reply) = request.send_on(&mut connection).await {
                self.reused += 1;
                return Some(self.keep(connection, reply));
            }
            self.met_a_close += 1;
        }
        let mut connection = TcpStream::connect(request.host()).await.ok()?;
        let reply = request.send_on(&mut connection).await?;
        Some(self.keep(connection, reply))
    }

    fn keep(&mut self, connection: TcpStream, reply: Reply) -> Reply {
        let closes = reply.header("connection").is_some_and(|text| text == "close");
        self.connection = (reply.complete && !closes).then_some(connection);
        reply
    }
}

/// Whether the other side has not closed a connection, as far as is known here.
fn is_open(connection: &TcpStream) -> bool {
    let read = SockRef::from(connection).peek(&mut [MaybeUninit::uninit()]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// What a client asks for, over and over.
#[derive(Clone, Copy)]
enum Asks {
    Plain,
    Stream,
}

/// Clients of one address, until it is over.
pub struct Load {
    url: String,
    key: String,
    pub over: Cell<bool>,
    /// The upstream's id of each call that was answered well.
    answered: RefCell<Vec<String>>,
    failures: RefCell<Vec<String>>,
}

impl Load {
    pub fn new(url: String, key: String) -> Self {
        let (over, answered, failures) = (Cell::default(), RefCell::default(), RefCell::default());
        Self { url, key, over, answered, failures }
    }

    /// So many who stream, and others; half of them keep their connections.
    pub async fn run(&self, streams: usize) -> Vec<Kept> {
        let none = Duration::ZERO;
        let streaming = (0..streams).map(|n| self.keep_calling(Asks::Stream, n, n % 4 < 2, none));
        let calling = (0..2 * CLIENTS).map(|n| self.keep_calling(Asks::Plain, n, n % 4 < 2, none));
        // These rest between calls, some for longer than an idle connection stays open.
        let rest = |n: usize| Duration::from_millis(100 + (n as u64 * 337) % 2600);
        let resting = (0..CLIENTS).map(|n| self.keep_calling(Asks::Plain, n, true, rest(n)));
        let all = streaming.map(FutureExt::boxed_local).chain(calling.map(FutureExt::boxed_local));
        join_all(all.chain(resting.map(FutureExt::boxed_local))).await
    }

    /// Nothing failed. Answers how many calls were answered.
    pub fn answered_all(&self) -> usize {
        let failures = self.failures.borrow();
        let shown = &failures[..failures.len().min(20)];
        assert!(failures.is_empty(), "{} failures: {shown:#?}", failures.len());
        self.answered.borrow().len()
    }

    fn request(&self, asks: Asks, number: usize) -> Request {
        let said = match asks {
            Asks::Plain => format!("@sim:slow delay_ms={}", 20 + number % 7 * 10),
            Asks::Stream => format!("@sim:stream {EVENTS}"),
        };
        let request = if number.is_multiple_of(2) {
            let mut body = messages(&said);
            body["stream"] = matches!(asks, Asks::Stream).into();
            request_to("POST", &self.url, MESSAGES).json(&body)
        } else {
            let operation = if matches!(asks, Asks::Stream) { STREAM } else { "invoke" };
            let path = format!("/bedrock/model/{MODEL}/{operation}");
            request_to("POST", &self.url, &path).json(&message(&said))
        };
        request.bearer(&self.key)
    }

    /// Calls until the load is over, on one connection after the other; `rest` between two calls.
    async fn keep_calling(&self, asks: Asks, number: usize, keeps: bool, rest: Duration) -> Kept {
        let mut client = Kept::default();
        while !self.over.get() {
            let request = self.request(asks, number);
            let reply = if keeps {
                client.send(&request.header("connection", "keep-alive")).await
            } else {
                request.try_send().await
            };
            let kind = if matches!(asks, Asks::Stream) { "stream" } else { "call" };
            match reply {
                Some(reply) if reply.complete && reply.status == 200 => {
                    self.answered
                        .borrow_mut()
                        .push(reply.header("x-amzn-requestid").unwrap().to_owned());
                }
                Some(reply) => self.failures.borrow_mut().push(format!(
                    "{kind} {number}: {} {} {}",
                    reply.status,
                    if reply.complete { "whole" } else { "cut" },
                    String::from_utf8_lossy(&reply.body)
                )),
                None => self.failures.borrow_mut().push(format!("{kind} {number}: no answer")),
            }
            tokio::time::sleep(rest).await;
        }
        client
    }
}

/// One instance on the inherited socket.
struct Instance {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Instance {
    async fn start(socket: &TcpListener, environment: &[(String, String)]) -> Self {
        let log = Arc::default();
        let (heir, environment, lines) =
            (heir(socket, None), environment.to_vec(), Arc::clone(&log));
        // It reads the log until the instance listens; the load goes on meanwhile.
        let started = tokio::task::spawn_blocking(move || serve_by(heir, &environment, &lines));
        let (child, _) = started.await.unwrap();
        Self { child, log }
    }

    async fn stop(mut self) -> Duration {
        stop(&mut self.child, &self.log).await
    }
}

/// The end of a log.
fn end_of(log: &Mutex<Vec<u8>>) -> String {
    let log = String::from_utf8_lossy(&log.lock().unwrap()).replace("}{", "}\n{");
    let lines: Vec<_> = log.lines().filter(|line| !line.contains("\"answered\"")).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Sends SIGTERM and waits for the end, which cuts nothing. Answers how long that took.
pub async fn stop(child: &mut Child, log: &Mutex<Vec<u8>>) -> Duration {
    let began = Instant::now();
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end: {}", end_of(log));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(ended.success() && end_of(log).contains("\"cut\":0"), "{}", end_of(log));
    began.elapsed()
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

on_both_databases!(restarts_under_load_fail_no_request_and_cut_no_stream, backend => {
    let (restarts, streams) = (number("ROLLING_RESTARTS", 2), number("ROLLING_STREAMS", 40));
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
    let database = match backend {
        Backend::Postgres => Database::on_postgres().await,
        Backend::Sqlite => Database::on_sqlite(folder.path()),
    };
    let environment = logging_environment(&database.url, folder.path(), &simulator);
    // This process listens, and never accepts.
    let socket = listener();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let mut instance = Instance::start(&socket, &environment).await;
    let load = Load::new(url, key(&environment));

    let restarting = async {
        let mut stops = Vec::new();
        for _ in 0..restarts {
            let next = Instance::start(&socket, &environment).await;
            stops.push(std::mem::replace(&mut instance, next).stop().await);
        }
        load.over.set(true);
        stops
    };
    let (clients, stops) = tokio::join!(load.run(streams), restarting);
    instance.stop().await;

    let answered = load.answered_all();
    each_has_its_row(answered, &simulator, &environment).await;
    let reused: usize = clients.iter().map(|client| client.reused).sum();
    let met_a_close: usize = clients.iter().map(|client| client.met_a_close).sum();
    assert!(reused > 0, "connections were kept");
    let longest = stops.iter().max().unwrap();
    println!(
        "{backend:?}: {restarts} restarts under {streams} streams: {answered} calls answered, each with its row; {reused} on kept \
         connections, {met_a_close} of them sent again; the longest stop took {longest:?}",
    );
    // A client that looks before it sends rarely meets a close that it could not see.
    let chances = (restarts + 1) * clients.len();
    assert!(met_a_close * 20 <= chances, "{met_a_close}, when {chances} connections were closed");
});

/// Trusts this certificate alone.
fn client_of(certificate: &Path) -> awc::Client {
    let config = tls::client(tls::roots(Some(certificate)).unwrap(), &["http/1.1"]);
    let connector = awc::Connector::new().rustls_0_23(Arc::new(config));
    awc::Client::builder().connector(connector).timeout(Duration::from_secs(30)).finish()
}

#[actix_web::test]
async fn a_socket_with_tls_changes_hands_under_load_and_no_call_fails() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
    let database = Database::on_sqlite(folder.path());
    let mut environment = logging_environment(&database.url, folder.path(), &simulator);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = file("cert.pem", made.cert.pem());
    let private = file("key.pem", made.signing_key.serialize_pem());
    for (name, path) in [("CERT", &certificate), ("KEY", &private)] {
        environment.push((format!("BEDROCK_SERVER__TLS__{name}"), path.display().to_string()));
    }
    let socket = listener();
    let mut instance = Instance::start(&socket, &environment).await;
    let key = key(&environment);
    let port = socket.local_addr().unwrap().port();
    let client = client_of(&certificate);
    let ask = async |operation: &str, text: &str| {
        let url = format!("https://localhost:{port}/bedrock/model/{MODEL}/{operation}");
        let request = client.post(url).bearer_auth(&key).force_close();
        let mut reply = request.send_json(&message(text)).await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.body().limit(1 << 20).await.unwrap()
    };

    let over = Cell::new(false);
    let calling = join_all((0..CLIENTS).map(|_| async {
        let mut calls = 0;
        while !over.get() {
            ask("invoke", "@sim:slow delay_ms=20").await;
            calls += 1;
        }
        calls
    }));
    let streaming =
        join_all((0..CLIENTS).map(|_| ask(STREAM, "@sim:stream events=8 delay_ms=300")));
    let restarting = async {
        let next = Instance::start(&socket, &environment).await;
        std::mem::replace(&mut instance, next).stop().await;
        over.set(true);
    };
    let (calls, streams, ()) = tokio::join!(calling, streaming, restarting);
    instance.stop().await;

    let answered = calls.into_iter().sum::<usize>() + streams.len();
    assert!(answered > 2 * CLIENTS, "{answered}");
    each_has_its_row(answered, &simulator, &environment).await;
}

/// So many calls reached Bedrock, and each has one row with its tokens.
pub async fn each_has_its_row(
    answered: usize,
    simulator: &Simulator,
    environment: &[(String, String)],
) {
    let (rows, calls) = (rows(environment).await, simulator.ledger().calls());
    assert_eq!((rows.len(), calls.len()), (answered, answered));
    let mut by_id: HashMap<&str, &Row> =
        rows.iter().map(|row| (row.upstream_request_id.as_deref().unwrap(), row)).collect();
    for call in &calls {
        let row = by_id.remove(call.request_id.as_str()).expect("one row for each call");
        let usage = call.usage.unwrap();
        assert_eq!(row.outcome, "success");
        assert_eq!(
            (row.input_tokens, row.output_tokens),
            (Some(usage.input.cast_signed()), Some(usage.output.cast_signed()))
        );
    }
}

/// A key of a new person.
fn key(environment: &[(String, String)]) -> String {
    let made = command(environment, &["user", "create", PERSON]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = command(environment, &["key", "create", PERSON, "--name", "test"]).stdout;
    String::from_utf8(key).unwrap().trim().to_owned()
}

/// With room for all who come while nobody accepts.
pub fn listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    upstream_request_id: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Text)]
    outcome: String,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    input_tokens: Option<i64>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    output_tokens: Option<i64>,
}

/// All usage rows that there are.
async fn rows(environment: &[(String, String)]) -> Vec<Row> {
    use bedrock_sso_proxy::db::{Conn, Pool};
    let environment = environment.iter().cloned();
    let settings = Settings::from_layers(None, environment, Need::Service).unwrap();
    let pool = Pool::open(&settings.database).unwrap();
    let query = diesel::sql_query(
        "SELECT upstream_request_id, outcome, input_tokens, output_tokens FROM usage_records",
    );
    match &mut pool.reader().await.unwrap() {
        Conn::Postgres(c) => query.load(c).await.unwrap(),
        Conn::Sqlite(c) => query.load(c).await.unwrap(),
    }
}
