//! Three real processes on one Postgres and one Redis, each of the two behind a relay that is cut, slowed and healed: what
//! every instance does while a part fails (REL-15), and how long after the fault all is as before. That is printed; so is
//! how long access lives on that was taken away. `CLUSTER_KILLS`, `CLUSTER_REVOCATIONS`, `ROLLING_RESTARTS` and
//! `ROLLING_STREAMS` set the numbers of trials.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener},
    process::Child,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bedrock_sso_proxy::{
    auth::{AdminRule, keys::Keys},
    cli::{key, user},
    db::Pool,
    settings::{Need, Settings},
    simulator::{
        Simulator, SimulatorConfig,
        identity::{IdentityConfig, IdentityProvider},
    },
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    faults::Relay,
    helpers::{
        ADMIN, Browser, Database, MODEL, PERSON, Reply, Request, eventually, message,
        redis::PrivateRedis, request_to,
    },
    lifecycle::{heir, logging_environment, serve_by},
    rolling::{listener, number},
};

/// Three instances have up to 30 connections to a Postgres that takes a hundred.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

mod database;
mod outside;
mod redis;
mod revocations;
mod rolling;
mod work;

/// Whom admins disable and let in again.
const BYSTANDER: &str = "bystander@example.com";
/// At the provider.
const DEVELOPER: &str = "1002";
/// Where people find the instances, as if something in front of them led there.
const PUBLIC_URL: &str = "http://localhost:3000";
/// Access that was taken away ends everywhere within this, with Redis and without (REL-20).
const WITH_REDIS: Duration = Duration::from_secs(2);
const WITHOUT: Duration = Duration::from_secs(5);
/// What a busy machine may take for what is done at once on an idle one.
const LONG: Duration = Duration::from_secs(30);

/// Says how long it took to be well again, which may not be longer than the bound.
fn recovered(row: &str, healed: Instant, bound: Duration) {
    let took = healed.elapsed();
    println!("{row}: recovered in {} ms", took.as_millis());
    assert!(took <= bound, "{row}: {took:?} is more than {bound:?}");
}

/// One process; killed when dropped.
struct Instance {
    child: Child,
    url: String,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Instance {
    async fn start(environment: Vec<(String, String)>, socket: &TcpListener) -> Self {
        let log = Arc::default();
        let lines = Arc::clone(&log);
        let program = heir(socket, None);
        let started =
            tokio::task::spawn_blocking(move || serve_by(program, &environment, &lines)).await;
        let (child, url) = started.unwrap();
        Self { child, url, log }
    }

    fn request(&self, method: &'static str, path: &str) -> Request {
        request_to(method, &self.url, path)
    }

    fn call(&self, key: &str) -> Request {
        let path = format!("/bedrock/model/{MODEL}/invoke");
        self.request("POST", &path).json(&message("hi")).bearer(key)
    }

    async fn status(&self, key: &str) -> u16 {
        self.call(key).send().await.status.as_u16()
    }

    /// Changes a person's state, as an admin does.
    async fn change(&self, admin: &str, user: i64, state: &str) -> Reply {
        let request = self.request("PUT", &format!("/api/admin/users/{user}/state"));
        let request = request.bearer(admin).header("content-type", "application/json");
        request.json(&json!({ "state": state })).send().await
    }

    /// What it has logged so far.
    fn said(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

struct Key {
    id: i64,
    text: String,
}

/// Three instances, and everything around them.
struct Cluster {
    instances: Vec<Instance>,
    /// Which the instances inherited. Without them connections to one that is gone are refused.
    sockets: Vec<TcpListener>,
    /// Dropped after the instances.
    _alone: SemaphorePermit<'static>,
    environments: Vec<Vec<(String, String)>>,
    to_database: Relay,
    to_redis: Relay,
    redis: PrivateRedis,
    simulator: Simulator,
    provider: IdentityProvider,
    /// As operators reach the database: past the relay.
    settings: Settings,
    keys: Keys,
    pool: Pool,
    admin: String,
    person: String,
    bystander: i64,
    database: Database,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further settings. All three start at the same moment, on an empty database.
    async fn start_with(more: &[(&str, &str)]) -> Self {
        let mut cluster = Self::start_on_sockets(more).await;
        cluster.sockets.clear();
        cluster
    }

    /// The same, and their sockets live on whichever of them ends.
    async fn start_on_sockets(more: &[(&str, &str)]) -> Self {
        let alone = ONE_AT_A_TIME.acquire().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let database = Database::on_postgres().await;
        let (to_database, through) = Relay::to_database(&database.url).await;
        let redis = PrivateRedis::start().await;
        let at: SocketAddr = redis.url().strip_prefix("redis://").unwrap().parse().unwrap();
        let to_redis = Relay::to(at).await;
        let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
        let sign_in = IdentityConfig::default();
        let provider = IdentityProvider::start(sign_in.clone()).await.unwrap();

        let sockets: Vec<_> = (0..3).map(|_| listener()).collect();
        let ports = sockets.iter().map(|socket| socket.local_addr().unwrap().port());
        let hosts: Vec<_> = ports
            .flat_map(|port| ["localhost", "127.0.0.1"].map(|name| format!("{name}:{port}")))
            .collect();

        let mut shared = logging_environment(&database.url, folder.path(), &simulator);
        let mut set = |name: &str, value: &str| {
            shared.push((format!("BEDROCK_{name}"), value.to_owned()));
        };
        set("CACHE__BACKEND", "redis");
        set("CACHE__REDIS_URL", &format!("redis://{}", to_redis.address));
        set("SERVER__PUBLIC_URL", PUBLIC_URL);
        set("SERVER__ALLOWED_HOSTS", &hosts.join(","));
        set("ADMIN__PROVIDERS", "local,sso");
        set("OAUTH__PROVIDERS__SSO__ISSUER", &provider.issuer());
        set("OAUTH__PROVIDERS__SSO__CLIENT_ID", &sign_in.client_id);
        set("OAUTH__PROVIDERS__SSO__CLIENT_SECRET", &sign_in.client_secret);
        set("API_KEYS__MAX_KEYS_PER_USER", "1000");
        for limit in ["FAILED_CREDENTIALS_PER_MINUTE", "ADMIN_WRITES_PER_MINUTE"] {
            set(&format!("RATE_LIMITS__{limit}"), "0");
        }
        more.iter().for_each(|(name, value)| set(name, value));

        let settings =
            Settings::from_layers(None, shared.clone().into_iter(), Need::Service).unwrap();
        let environments: Vec<_> = (0..3)
            .map(|number| {
                let journal = folder.path().join(format!("journal-{number}")).display().to_string();
                let mut environment = shared.clone();
                environment.push(("BEDROCK_DATABASE__URL".into(), through.clone()));
                environment.push(("BEDROCK_DATABASE__MAX_CONNECTIONS".into(), "2".into()));
                // One that they share is asked for by name.
                if !more.iter().any(|(name, _)| *name == "USAGE__JOURNAL_DIR") {
                    environment.push(("BEDROCK_USAGE__JOURNAL_DIR".into(), journal));
                }
                environment
            })
            .collect();
        let starting = environments.iter().cloned().zip(&sockets);
        let starting = starting.map(|(environment, socket)| Instance::start(environment, socket));
        let instances = join_all(starting).await;

        let (keys, pool) = (Keys::new(&settings).unwrap(), Pool::open(&settings.database).unwrap());
        let mut cluster = Self {
            instances,
            sockets,
            _alone: alone,
            environments,
            to_database,
            to_redis,
            redis,
            simulator,
            provider,
            settings,
            keys,
            pool,
            admin: String::new(),
            person: String::new(),
            bystander: 0,
            database,
            _folder: folder,
        };
        cluster.admin = cluster.token(ADMIN).await;
        cluster.person = cluster.token(PERSON).await;
        cluster.token(BYSTANDER).await;
        cluster.bystander =
            cluster.count(&format!("SELECT id FROM users WHERE email = '{BYSTANDER}'")).await;
        assert!(eventually(LONG, || cluster.is_well()).await, "they start");
        cluster.settle_access().await;
        cluster
    }

    /// Starts one that was killed again, in the same place.
    async fn restart(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        instance.child.wait().unwrap();
        let place = instance.url.strip_prefix("http://").unwrap().to_owned();
        let socket = TcpListener::bind(place).unwrap();
        *instance = Instance::start(self.environments[number].clone(), &socket).await;
    }

    /// A person with this address, and an access token for them.
    async fn token(&self, email: &str) -> String {
        let mut conn = self.pool.writer().await.unwrap();
        let admins = AdminRule::new(&self.settings.admin, &self.settings.oauth);
        user::create(&mut conn, email, None, &admins).await.unwrap();
        user::token(&mut conn, email, 3600, &self.keys).await.unwrap()
    }

    /// A key that no instance has seen yet.
    async fn key(&self) -> Key {
        let mut conn = self.pool.writer().await.unwrap();
        let rules = &self.settings.api_keys;
        let made = key::create(&mut conn, PERSON, "test", Some(1), rules, &self.keys).await;
        let id = self.count("SELECT MAX(id) FROM api_keys").await;
        Key { id, text: made.unwrap().as_str().to_owned() }
    }

    /// Asks the database, past the relay, as somebody who may write even while it is read-only for others.
    async fn ask(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let mut config: tokio_postgres::Config = self.database.url.parse().unwrap();
        config.options("-c default_transaction_read_only=off");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let rows = client.query(sql, &[]).await.unwrap();
        drop(client);
        driver.await.unwrap().unwrap();
        rows
    }

    /// The one number that is the answer.
    async fn count(&self, sql: &str) -> i64 {
        self.ask(sql).await[0].get(0)
    }

    async fn rows(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM usage_records").await
    }

    /// What every instance answers to a call with this credential.
    async fn calls(&self, key: &str) -> Vec<Reply> {
        join_all(self.instances.iter().map(|instance| instance.call(key).send())).await
    }

    async fn statuses(&self, key: &str) -> Vec<u16> {
        self.calls(key).await.iter().map(|reply| reply.status.as_u16()).collect()
    }

    /// What every instance answers to an admin who changes something.
    async fn changes(&self, state: &str) -> Vec<Reply> {
        let changes = self.instances.iter().map(|instance| {
            let (admin, user) = (&self.admin, self.bystander);
            async move { instance.change(admin, user, state).await }
        });
        join_all(changes).await
    }

    /// Whether all are ready, say that their cache works, and hear what the others tell.
    async fn is_well(&self) -> bool {
        let channels: Vec<String> = self.redis.command(&["PUBSUB", "CHANNELS", "*"]).await;
        let [channel] = channels.as_slice() else { return false };
        let (_, listeners): (String, i64) =
            self.redis.command(&["PUBSUB", "NUMSUB", channel]).await;
        let asked = self.instances.iter().map(|instance| async {
            let request = instance.request("GET", "/health?check=cache").bearer(&self.admin);
            let reply = request.send().await;
            reply.status == 200 && reply.json()["checks"]["cache"]["status"] == "ok"
        });
        listeners == 3 && join_all(asked).await.into_iter().all(|well| well)
    }

    /// Takes a key away at one instance. Answers how long after that was asked for each of the others refuses it, which
    /// must be within the bound; until then they serve it.
    async fn revoke(&self, key: &Key, at: usize, bound: Duration) -> Vec<Duration> {
        let began = Instant::now();
        let request = self.instances[at].request("DELETE", &format!("/api/keys/{}", key.id));
        let reply = request.bearer(&self.person).send().await;
        assert_eq!(reply.status, 204, "{reply:?}");
        assert_eq!(self.instances[at].status(&key.text).await, 401, "where it was done");
        let others = self.instances.iter().enumerate().filter(|(number, _)| *number != at);
        let refused = others.map(|(number, instance)| async move {
            let refused = eventually(bound, || async {
                let status = instance.status(&key.text).await;
                assert!([200, 401].contains(&status), "{status} by instance {number}");
                status == 401
            });
            assert!(refused.await, "instance {number} still lets it in after {bound:?}");
            let took = began.elapsed();
            assert!(took <= bound, "instance {number}: {took:?}");
            took
        });
        join_all(refused).await
    }

    /// Every instance has seen what was taken away until now, and remembers whom it checks from here on.
    async fn settle_access(&self) {
        let key = self.key().await;
        assert_eq!(self.statuses(&key.text).await, [200; 3]);
        self.revoke(&key, 0, LONG).await;
    }

    /// A browser that looks at one instance.
    fn browser(&self, at: usize) -> Browser {
        Browser::new(&self.instances[at].url)
    }

    /// The same cookies at another instance.
    fn moved(&self, browser: &Browser, to: usize) -> Browser {
        let mut moved = browser.copy();
        moved.base = self.browser(to).base;
        moved
    }

    /// Signs in somebody who begins at one instance and comes back from the provider to another one.
    async fn sign_in(&self, from: usize, to: usize) -> (Browser, Reply) {
        let browser = self.browser(from);
        let at = browser.begin("sso", "/").await;
        let back = browser.consent(&at, &[("person", DEVELOPER)]).await;
        let back = back.strip_prefix(PUBLIC_URL).expect("back to the service").to_owned();
        let browser = self.moved(&browser, to);
        let reply = browser.get(&back).await;
        (browser, reply)
    }

    /// What every instance answers to somebody who is signed in and looks at their usage.
    async fn pages(&self, browser: &Browser) -> Vec<Reply> {
        let looked = (0..self.instances.len()).map(|number| {
            let browser = self.moved(browser, number);
            async move { browser.get("/usage").await }
        });
        join_all(looked).await
    }

    /// The upstream's ids in all rows of calls that went well; no id is there twice.
    async fn recorded(&self) -> HashSet<String> {
        let text = "SELECT upstream_request_id FROM usage_records WHERE outcome = 'success'";
        let rows = self.ask(text).await;
        let mut ids = HashSet::new();
        for row in rows {
            let id: String = row.get(0);
            assert!(ids.insert(id.clone()), "{id} has two rows");
        }
        ids
    }
}

fn statuses(replies: &[Reply]) -> Vec<u16> {
    replies.iter().map(|reply| reply.status.as_u16()).collect()
}

/// All were refused with 503, for this reason, and told when to try again.
fn assert_refused(replies: &[Reply], code: &str) {
    for reply in replies {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert_eq!(reply.header("retry-after"), Some("5"), "{reply:?}");
        assert_eq!(reply.json()["error"]["code"], code, "{reply:?}");
    }
}
