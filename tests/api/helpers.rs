//! Starts the real application with the backends a test asks for, and the simulated Bedrock.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use actix_web::http::{StatusCode, header::HeaderMap};
use bedrock_sso_proxy::{
    actors::{auth::Revalidate, usage::Flush},
    auth::{AdminRule, keys::Keys},
    cli::{key, user},
    db::{
        self, Conn, Pool,
        audit::{AuditLogEntry, Filter},
    },
    settings::{LOCAL_PROVIDER, Need, Settings},
    simulator::{
        Call, Simulator, SimulatorConfig,
        identity::{IdentityConfig, IdentityProvider},
    },
    startup::Application,
    state::Shared,
    tls,
};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

mod browser;
pub mod redis;
pub use browser::{Browser, field, form};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

pub const MODEL: &str = "us.anthropic.claude-sonnet-4-20250514-v1:0";
pub const ARN: &str = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0";
pub const SECRET: &str = "an-example-of-a-secret-with-48-characters-in-it-";
pub const PERSON: &str = "user@example.com";
pub const ADMIN: &str = "admin@example.com";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// Writes one test for each database: `on_both_databases!(name, backend => { … })`.
macro_rules! on_both_databases {
    ($name:ident, $backend:ident => $body:block) => {
        mod $name {
            use super::*;

            #[actix_web::test]
            async fn on_sqlite() {
                let $backend = crate::helpers::Backend::Sqlite;
                $body
            }

            #[actix_web::test]
            async fn on_postgres() {
                let $backend = crate::helpers::Backend::Postgres;
                $body
            }
        }
    };
}
pub(crate) use on_both_databases;

/// What a test asks for; everything else is as in production.
pub struct TestServerBuilder {
    backend: Backend,
    settings: Vec<(String, String)>,
    simulator: SimulatorConfig,
    identity: Option<IdentityConfig>,
    tls: bool,
}

/// The application with SQLite and its defaults.
pub async fn spawn_app() -> TestServer {
    TestServerBuilder::new().start().await
}

impl TestServerBuilder {
    pub fn new() -> Self {
        Self {
            backend: Backend::Sqlite,
            settings: Vec::new(),
            simulator: SimulatorConfig::default(),
            identity: None,
            tls: false,
        }
    }

    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Sets one setting as the environment would: `("SERVER__PORT", "0")`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((format!("BEDROCK_{name}"), value.to_string()));
        self
    }

    pub fn simulator(mut self, change: impl FnOnce(&mut SimulatorConfig)) -> Self {
        change(&mut self.simulator);
        self
    }

    /// With a simulated identity provider, called `sso`, whose people may be admins.
    pub fn sign_in(mut self) -> Self {
        self.identity = Some(IdentityConfig::default());
        self.set("ADMIN__PROVIDERS", "local,sso")
            .set("OAUTH__PROVIDERS__SSO__SCOPES", "openid,email,profile,offline_access")
    }

    /// Changes the simulated identity provider of [`Self::sign_in`].
    pub fn identity(mut self, change: impl FnOnce(&mut IdentityConfig)) -> Self {
        change(self.identity.as_mut().expect("sign_in comes first"));
        self
    }

    /// Without limits of rate, and with room for a thousand keys: for tests that make many requests.
    pub fn unlimited(mut self) -> Self {
        for limit in [
            "SIGN_IN_STARTS_PER_MINUTE",
            "CALLBACKS_PER_MINUTE",
            "REFRESHES_PER_MINUTE",
            "FAILED_CREDENTIALS_PER_MINUTE",
            "KEY_CREATIONS_PER_HOUR",
            "ADMIN_WRITES_PER_MINUTE",
        ] {
            self = self.set(&format!("RATE_LIMITS__{limit}"), 0);
        }
        self.set("API_KEYS__MAX_KEYS_PER_USER", 1000)
    }

    /// Serve TLS with a certificate for `localhost`, made for this test.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    pub async fn start(self) -> TestServer {
        self.try_start().await.expect("the application starts")
    }

    /// Starts, or answers what kept it from starting.
    pub async fn try_start(mut self) -> anyhow::Result<TestServer> {
        tls::install_provider();
        let folder = tempfile::tempdir()?;
        let simulator = Simulator::start(self.simulator.clone()).await?;
        let database = match self.backend {
            Backend::Sqlite => Database::on_sqlite(folder.path()),
            Backend::Postgres => Database::on_postgres().await,
        };
        if self.tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
            std::fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
            std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
            for (name, file) in [("SERVER__TLS__CERT", "cert.pem"), ("SERVER__TLS__KEY", "key.pem")]
            {
                self.settings.push((
                    format!("BEDROCK_{name}"),
                    folder.path().join(file).display().to_string(),
                ));
            }
        }
        let identity = match self.identity {
            Some(config) => {
                let provider = IdentityProvider::start(config.clone()).await?;
                let given = [
                    ("ISSUER", provider.issuer()),
                    ("CLIENT_ID", config.client_id),
                    ("CLIENT_SECRET", config.client_secret),
                ];
                let named = given.map(|(field, value)| {
                    (format!("BEDROCK_OAUTH__PROVIDERS__SSO__{field}"), value)
                });
                // A test does not know the address before it is there.
                for (_, value) in &mut self.settings {
                    *value = value.replace("{issuer}", &provider.issuer());
                }
                // A test's own settings go over these.
                self.settings.splice(0..0, named);
                Some(provider)
            }
            None => None,
        };
        let base = environment(&database.url, folder.path(), &simulator);
        let environment: Vec<(String, String)> = base.into_iter().chain(self.settings).collect();
        let settings = Settings::from_layers(None, environment.clone().into_iter(), Need::Service)?;
        let running = Running::start(settings.clone())?;
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.tls { "localhost" } else { "127.0.0.1" };
        let url = format!("{scheme}://{host}:{}", running.address.port());
        Ok(TestServer {
            url,
            settings,
            environment,
            simulator,
            identity,
            running: Some(running),
            database,
            folder,
        })
    }
}

/// The environment of a service under test, before a test's own settings.
pub fn environment(
    database: &str,
    folder: &std::path::Path,
    simulator: &Simulator,
) -> Vec<(String, String)> {
    let known = SimulatorConfig::default();
    [
        ("SERVER__HOST", "127.0.0.1".to_owned()),
        ("SERVER__PORT", "0".to_owned()),
        ("SERVER__WORKERS", "2".to_owned()),
        ("METRICS__PORT", "0".to_owned()),
        ("JWT__SECRET", SECRET.to_owned()),
        ("DATABASE__URL", database.to_owned()),
        ("USAGE__JOURNAL_DIR", folder.join("journal").display().to_string()),
        ("USAGE__BATCH_DELAY_MS", "20".to_owned()),
        ("AWS__REGION", "us-east-1".to_owned()),
        ("AWS__ACCESS_KEY_ID", known.access_key_id),
        ("AWS__SECRET_ACCESS_KEY", known.secret_access_key),
        ("AWS__ENDPOINT_URL", simulator.url()),
        ("ADMIN__EMAILS", ADMIN.to_owned()),
        ("ADMIN__PROVIDERS", "local".to_owned()),
        ("LOGGING__LEVEL", "off".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("BEDROCK_{name}"), value))
    .collect()
}

/// A database of its own; one on Postgres is dropped in the end.
pub struct Database {
    pub url: String,
    drop: Option<(String, String)>,
}

impl Database {
    pub fn on_sqlite(folder: &std::path::Path) -> Self {
        Self { url: format!("sqlite://{}/data/test.db", folder.display()), drop: None }
    }

    pub async fn on_postgres() -> Self {
        let server = std::env::var("TEST_DATABASE_URL")
            .expect("TEST_DATABASE_URL names a Postgres server; `make test` finds or starts one");
        let name = format!("bedrock_test_{}", uuid::Uuid::new_v4().simple());
        on_server(&server, &format!("CREATE DATABASE {name}")).await;
        let (base, _) = server.rsplit_once('/').expect("postgres://host/name");
        Self { url: format!("{base}/{name}"), drop: Some((server, name)) }
    }
}

async fn on_server(server: &str, sql: &str) {
    let (client, connection) =
        tokio_postgres::connect(server, tokio_postgres::NoTls).await.expect("Postgres answers");
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.expect("the statement runs");
    drop(client);
    let _ended = driver.await;
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some((server, name)) = self.drop.take() {
            let work = move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(on_server(&server, &format!("DROP DATABASE {name} WITH (FORCE)")));
            };
            let _panicked = std::thread::spawn(work).join();
        }
    }
}

/// The application on a thread and runtime of its own, as in `main`.
struct Running {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    hurry: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<usize>>>,
}

impl Running {
    fn start(settings: Settings) -> anyhow::Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (hurry, hurried) = oneshot::channel::<()>();
        let (started, starting) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let application = match Application::build(settings).await {
                    Ok(application) => application,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return Ok(0);
                    }
                };
                let facts =
                    (application.address(), application.metrics_address(), application.shared());
                let _ = started.send(Ok(facts));
                let stop = async move { drop(stopped.await) };
                let hurry = async move {
                    if hurried.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                application.run_until_stopped(stop, hurry).await
            })
        });
        let (address, metrics, shared) = starting.recv()??;
        Ok(Self {
            address,
            metrics,
            shared,
            stop: Some(stop),
            hurry: Some(hurry),
            thread: Some(thread),
        })
    }
}

pub struct TestServer {
    pub url: String,
    pub settings: Settings,
    pub environment: Vec<(String, String)>,
    pub simulator: Simulator,
    identity: Option<IdentityProvider>,
    running: Option<Running>,
    database: Database,
    pub folder: tempfile::TempDir,
}

/// Further instances of one service: the same settings and database, and journals and ports of their own.
impl TestServer {
    pub async fn another(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = self.environment.clone();
        environment.push((
            "BEDROCK_USAGE__JOURNAL_DIR".to_owned(),
            folder.path().join("journal").display().to_string(),
        ));
        let given = environment.clone().into_iter();
        let settings = Settings::from_layers(None, given, Need::Service).unwrap();
        let running = Running::start(settings.clone()).expect("it starts");
        let url = format!("http://127.0.0.1:{}", running.address.port());
        let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
        let database = Database { url: self.database.url.clone(), drop: None };
        let running = Some(running);
        Self { url, settings, environment, simulator, identity: None, running, database, folder }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    /// The identity provider of [`TestServerBuilder::sign_in`].
    pub fn identity(&self) -> &IdentityProvider {
        self.identity.as_ref().expect("it was asked for")
    }

    /// A browser that knows nothing yet.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.url)
    }

    /// A browser in which somebody is signed in.
    pub async fn signed_in(&self, subject: &str) -> Browser {
        let browser = self.browser();
        let end = browser.sign_in(subject).await;
        assert_eq!(end.status, 302, "{end:?}");
        browser
    }

    pub fn address(&self) -> SocketAddr {
        self.running().address
    }

    pub fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.running().metrics.expect("metrics are on"))
    }

    pub fn has_metrics(&self) -> bool {
        self.running().metrics.is_some()
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.running().shared.clone()
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.settings.usage.journal_dir(&self.settings.database)
    }

    /// A connection of the test's own, beside the application's.
    pub async fn pool(&self) -> Pool {
        Pool::open(&self.settings.database).expect("the database opens")
    }

    /// Makes a person if there is none, and a key for them.
    pub async fn create_key(&self, email: &str) -> String {
        let pool = self.pool().await;
        let mut conn = pool.writer().await.unwrap();
        self.ensure_person(&mut conn, email).await;
        let keys = Keys::new(&self.settings).unwrap();
        let key = key::create(&mut conn, email, "test", Some(1), &self.settings.api_keys, &keys)
            .await
            .unwrap();
        key.as_str().to_owned()
    }

    /// Makes a person if there is none, and an access token for them.
    pub async fn create_token(&self, email: &str) -> String {
        let pool = self.pool().await;
        let mut conn = pool.writer().await.unwrap();
        self.ensure_person(&mut conn, email).await;
        user::token(&mut conn, email, 600, &Keys::new(&self.settings).unwrap()).await.unwrap()
    }

    async fn ensure_person(&self, conn: &mut Conn, email: &str) {
        let known = db::users::UserRecord::by_subject(conn, LOCAL_PROVIDER, email).await.unwrap();
        if known.is_none() {
            let admins = AdminRule::new(&self.settings.admin, &self.settings.oauth);
            user::create(conn, email, None, &admins).await.unwrap();
        }
    }

    /// Runs one command of the real binary on this application's database.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        command(&self.environment, arguments)
    }

    /// The audit log, oldest first.
    pub async fn audit(&self) -> Vec<AuditLogEntry> {
        let mut conn = self.pool().await.reader().await.unwrap();
        let mut all =
            AuditLogEntry::list(&mut conn, &Filter::default(), None, 0, 10_000).await.unwrap();
        all.reverse();
        all
    }

    /// How many events of a type there are.
    pub async fn audited(&self, event_type: &str) -> usize {
        self.audit().await.iter().filter(|entry| entry.event_type == event_type).count()
    }

    /// Runs SQL on the application's database, behind its back.
    pub async fn sql(&self, sql: &str) {
        use diesel_async::SimpleAsyncConnection;
        match &mut self.pool().await.writer().await.unwrap() {
            Conn::Postgres(c) => c.batch_execute(sql).await.unwrap(),
            Conn::Sqlite(c) => c.batch_execute(sql).await.unwrap(),
        }
    }

    /// Awaits the look at the database that the application takes every second by itself.
    pub async fn revalidate(&self) {
        self.shared().actors.auth.address().send(Revalidate).await.unwrap().unwrap();
    }

    /// Awaits that every closed call is in the database, and answers the rows of `/api/usage/records`, newest first.
    pub async fn rows(&self, credential: &str) -> Vec<Value> {
        self.settle().await;
        let reply = self.get("/api/usage/records?limit=500").bearer(credential).send().await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        reply.json()["records"].as_array().unwrap().clone()
    }

    /// Awaits that no call is in flight and that every row is written.
    pub async fn settle(&self) {
        let shared = self.shared();
        let journal = shared.journal.clone();
        let quiet = eventually(Duration::from_secs(10), || async {
            shared
                .actors
                .usage
                .address()
                .send(Flush { within: Duration::from_secs(5) })
                .await
                .unwrap();
            journal.as_ref().is_none_or(|journal| journal.depth() == 0)
        });
        assert!(quiet.await, "usage rows are still on their way");
    }

    pub async fn row(&self, credential: &str) -> Value {
        let rows = self.rows(credential).await;
        rows.into_iter().next().expect("there is a row")
    }

    pub fn last_call(&self) -> Call {
        self.simulator.ledger().last().expect("upstream was called")
    }

    pub fn get(&self, path: &str) -> Request {
        Request::new("GET", format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str) -> Request {
        Request::new("POST", format!("{}{path}", self.url))
    }

    /// A call of one of the operations.
    pub fn call(&self, model: &str, operation: &str, body: &Value) -> Request {
        self.post(&format!("/bedrock/model/{}/{operation}", model.replace('/', "%2F"))).json(body)
    }

    /// Sends the first SIGTERM; answers at once.
    pub fn begin_stop(&mut self) {
        let running = self.running.as_mut().expect("it runs");
        let _already = running.stop.take().map(|stop| stop.send(()));
    }

    /// Waits for the end; answers how many calls and streams were cut.
    pub async fn stopped(&mut self) -> usize {
        self.begin_stop();
        let mut running = self.running.take().expect("it runs");
        let thread = running.thread.take().expect("it has a thread");
        let ended = tokio::task::spawn_blocking(move || thread.join()).await.unwrap();
        drop(running);
        ended.expect("the application does not panic").expect("it stops in order")
    }

    /// Stops, and starts again with the same database and settings.
    pub async fn restart(&mut self) {
        self.stopped().await;
        self.start_again();
    }

    pub fn start_again(&mut self) {
        let running = Running::start(self.settings.clone()).expect("it starts again");
        self.url = format!("http://127.0.0.1:{}", running.address.port());
        self.running = Some(running);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _already = running.stop.take().map(|stop| stop.send(()));
            // A test that failed half-way does not wait for its streams.
            let _already = running.hurry.take().map(|hurry| hurry.send(()));
            let _panicked = running.thread.take().map(std::thread::JoinHandle::join);
        }
        let _kept_until_the_end = &self.database;
    }
}

/// Runs the real binary to its end.
pub fn command(environment: &[(String, String)], arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_bedrock_proxy"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Looks until it holds, or until the time is over.
pub async fn eventually<F: Future<Output = bool>>(within: Duration, holds: impl Fn() -> F) -> bool {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(within, look).await.is_ok()
}

/// A message for Claude.
pub fn message(text: &str) -> Value {
    json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1000,
           "messages": [{"role": "user", "content": text}]})
}

/// A message for the Messages API.
pub fn messages(text: &str) -> Value {
    json!({"model": "claude-sonnet-4-5", "max_tokens": 1000,
           "messages": [{"role": "user", "content": text}]})
}

/// A message for Converse.
pub fn conversation(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": [{"text": text}]}]})
}

/// One HTTP request.
pub struct Request {
    method: &'static str,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// What came back; `complete` is false if the body broke off.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub complete: bool,
}

impl Request {
    pub fn new(method: &'static str, url: String) -> Self {
        Self { method, url, headers: Vec::new(), body: Bytes::new() }
    }

    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn bearer(self, credential: &str) -> Self {
        self.header("authorization", format!("Bearer {credential}"))
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it, and answers when the head is there.
    pub async fn open(self) -> awc::ClientResponse {
        self.try_open().await.expect("the service answers")
    }

    async fn try_open(self) -> Option<awc::ClientResponse> {
        let mut request =
            client().request(self.method.parse().unwrap(), self.url.as_str()).no_decompress();
        for (name, value) in &self.headers {
            request = request.append_header((name.as_str(), value.as_str()));
        }
        request.send_body(self.body).await.ok()
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Reply {
        self.try_send().await.expect("the service answers")
    }

    /// As [`Self::send`], for a service that may be gone. Over plain HTTP it reads the connection itself: awc would take
    /// a connection that is closed in the middle of a body for the body's end.
    pub async fn try_send(self) -> Option<Reply> {
        let mut connection = TcpStream::connect(self.host()).await.ok()?;
        self.send_on(&mut connection).await
    }

    pub fn host(&self) -> &str {
        self.split().0
    }

    fn split(&self) -> (&str, &str) {
        self.url.strip_prefix("http://").expect("plain HTTP").split_once('/').expect("a path")
    }

    /// Sends it on a connection and reads the answer. `None` = none came.
    pub async fn send_on(&self, connection: &mut TcpStream) -> Option<Reply> {
        let (host, path) = self.split();
        let mut head = format!("{} /{path} HTTP/1.1\r\nhost: {host}\r\n", self.method);
        if !self.headers.iter().any(|(name, _)| name == "connection") {
            head.push_str("connection: close\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        connection.write_all(&[head.as_bytes(), &self.body].concat()).await.ok()?;
        let mut answer = Vec::new();
        let mut piece = vec![0; 1 << 16];
        // A broken connection ends the answer as a closed one does; what came before counts.
        while let Ok(count @ 1..) = connection.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
            if self.method != "HEAD" && Reply::parse(&answer).is_some_and(|reply| reply.complete) {
                break;
            }
        }
        Reply::parse(&answer)
    }
}

/// The bytes of a chunked body, and whether its last chunk came.
fn unchunk(mut body: &[u8]) -> (Bytes, bool) {
    let mut whole = BytesMut::new();
    while let Some(line) = body.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&body[..line])
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.expect("the size of a chunk");
        if size == 0 {
            return (whole.freeze(), true);
        }
        let data = &body[line + 2..];
        whole.extend_from_slice(&data[..size.min(data.len())]);
        match data.get(size + 2..) {
            Some(rest) => body = rest,
            None => break,
        }
    }
    (whole.freeze(), false)
}

/// A request to any address.
pub fn request_to(method: &'static str, base: &str, path: &str) -> Request {
    Request::new(method, format!("{base}{path}"))
}

/// A client without limits of time, for answers that are read piece by piece.
fn client() -> awc::Client {
    tls::install_provider();
    awc::Client::builder().disable_timeout().disable_redirects().no_default_headers().finish()
}

impl Reply {
    /// Reads an HTTP/1.1 answer; `None` while its head is not whole.
    fn parse(answer: &[u8]) -> Option<Self> {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&answer[..end]).expect("a head in ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            headers.append(name.parse().expect("a name"), value.parse().expect("a value"));
        }
        let body = &answer[end + 4..];
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (body, complete) =
            match text("content-length").and_then(|length| length.parse::<usize>().ok()) {
                Some(length) => {
                    (Bytes::copy_from_slice(&body[..length.min(body.len())]), body.len() >= length)
                }
                None if text("transfer-encoding") == Some("chunked") => unchunk(body),
                None => (Bytes::new(), true),
            };
        Some(Self { status, headers, body, complete })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The text of an error in Bedrock's shape.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().expect("a message").to_owned()
    }

    pub fn error_type(&self) -> &str {
        self.header("x-amzn-errortype").unwrap_or_default()
    }

    /// The frames of an event stream: message type, kind, payload.
    pub fn frames(&self) -> Vec<(String, String, Vec<u8>)> {
        let mut scanner = bedrock_sso_proxy::bedrock::event_stream::FrameScanner::default();
        let mut frames = Vec::new();
        let _bad = scanner.push(&self.body, |frame| {
            let payload = frame.payload.unwrap_or_default().to_vec();
            frames.push((frame.message_type.to_owned(), frame.kind.to_owned(), payload));
        });
        frames
    }
}
