//! Parts that fail while calls go on: the database, the journal. `SOAK_AWAY_CALLS` sets how many calls are made while
//! the database is away; `make soak` makes more than memory keeps.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::helpers::{
    Backend, MODEL, PERSON, TestServer, TestServerBuilder, eventually, message, spawn_app,
};

/// Passes connections on, until it is told to cut them or to be slow.
pub struct Relay {
    pub address: SocketAddr,
    open: Arc<AtomicBool>,
    cut: Arc<Notify>,
    /// Milliseconds by which each answer is late.
    late: Arc<AtomicU64>,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, cut) = (Arc::new(AtomicBool::new(true)), Arc::new(Notify::new()));
        let late = Arc::new(AtomicU64::new(0));
        let (is_open, told, how_late) = (open.clone(), cut.clone(), late.clone());
        // A thread of its own: the test's runtime may be busy.
        listener.set_ttl(64).unwrap();
        let listener = listener.into_std().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    // Whoever cuts from here on cuts this one, too.
                    let cut = told.clone().notified_owned();
                    if !is_open.load(SeqCst) {
                        continue;
                    }
                    let late = how_late.clone();
                    tokio::spawn(async move {
                        let pass = async {
                            let Ok(server) = TcpStream::connect(target).await else { return };
                            // It is no slower than what it stands for.
                            let (_gone, _too) =
                                (client.set_nodelay(true), server.set_nodelay(true));
                            let (asks, hears) = client.into_split();
                            let (answers, asked) = server.into_split();
                            let never = AtomicU64::new(0);
                            tokio::join!(
                                pass_on(asks, asked, &never),
                                pass_on(answers, hears, &late)
                            );
                        };
                        tokio::select! {
                            () = pass => {}
                            () = cut => {}
                        }
                    });
                }
            });
        });
        Self { address, open, cut, late }
    }

    /// To the server of a database; answers the URL that leads through it, too.
    pub async fn to_database(url: &str) -> (Self, String) {
        let url: awc::http::Uri = url.parse().unwrap();
        let target = format!("{}:{}", url.host().unwrap(), url.port_u16().unwrap_or(5432));
        let relay = Self::to(tokio::net::lookup_host(target).await.unwrap().next().unwrap()).await;
        let user = url.authority().unwrap().as_str().split('@').next().unwrap();
        let through = format!("postgres://{user}@{}{}", relay.address, url.path());
        (relay, through)
    }

    /// From now on answers are late by so much.
    pub fn slow(&self, by: Duration) {
        self.late.store(by.as_millis().try_into().unwrap(), SeqCst);
    }

    pub fn cut(&self) {
        self.open.store(false, SeqCst);
        self.cut.notify_waiters();
    }

    pub fn heal(&self) {
        self.late.store(0, SeqCst);
        self.open.store(true, SeqCst);
    }
}

/// Passes on what comes, each piece so many milliseconds late, until it ends.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    late: &AtomicU64,
) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let late = late.load(SeqCst);
        if late > 0 {
            tokio::time::sleep(Duration::from_millis(late)).await;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}

/// The application on Postgres, behind a relay.
pub async fn behind_a_relay(
    more: &[(&str, &str)],
) -> (TestServer, Relay, crate::helpers::Database) {
    let mut builder = TestServerBuilder::new();
    for (name, value) in more {
        builder = builder.set(name, value);
    }
    behind_a_relay_with(builder).await
}

/// The same with what else a test asks for.
pub async fn behind_a_relay_with(
    builder: TestServerBuilder,
) -> (TestServer, Relay, crate::helpers::Database) {
    let database = crate::helpers::Database::on_postgres().await;
    let (relay, through) = Relay::to_database(&database.url).await;
    let builder = builder.backend(Backend::Sqlite).set("DATABASE__URL", through);
    (builder.start().await, relay, database)
}

#[actix_web::test]
async fn with_the_database_away_calls_go_on_and_no_row_is_lost() {
    let calls: usize =
        std::env::var("SOAK_AWAY_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let (app, relay, _database) = behind_a_relay(&[]).await;
    let key = app.create_key(PERSON).await;
    // What was checked before the first look at the database is forgotten at that look.
    app.revalidate().await;
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);
    app.settle().await;

    relay.cut();
    let made = futures_util::stream::iter(0..calls)
        .map(|_| app.call(MODEL, "invoke", &message("hi")).bearer(&key).send())
        .buffer_unordered(16)
        .filter(|reply| std::future::ready(reply.status == 200))
        .count()
        .await;
    let own = app.get("/api/usage/records").bearer(&key).send().await;
    let unknown = app
        .call(MODEL, "invoke", &message("hi"))
        .bearer(&format!("SSOK_{}", "b".repeat(32)))
        .send()
        .await;

    assert!(made >= calls.min(200), "{made} of {calls} calls were served from the cached identity");
    assert_eq!(
        (own.status.as_u16(), &own.json()["error"]["code"]),
        (503, &json!("database_unavailable"))
    );
    assert_eq!(own.header("retry-after"), Some("5"));
    assert_eq!(
        (unknown.status.as_u16(), unknown.error_type()),
        (503, "ServiceUnavailableException")
    );

    relay.heal();
    let started = std::time::Instant::now();
    let total = || async {
        let reply = app.get("/api/usage/records?limit=1").bearer(&key).send().await;
        if reply.status == 200 { reply.json()["total"].as_u64().unwrap() } else { 0 }
    };
    let expected = u64::try_from(made + 1).unwrap();
    let all = eventually(Duration::from_secs(60), || async {
        total().await >= expected.min(10_000) && app.shared().journal.as_ref().unwrap().depth() == 0
    });
    assert!(all.await, "{} of {expected} rows", total().await);
    assert_eq!(rows_in(&app).await, expected);
    println!(
        "{made} calls with the database away, all {expected} rows there {:?} after it came back",
        started.elapsed()
    );
}

async fn rows_in(app: &TestServer) -> u64 {
    use bedrock_sso_proxy::db::{Conn, schema::usage_records};
    use diesel::QueryDsl;
    let pool = app.pool().await;
    let Conn::Postgres(connection) = &mut pool.reader().await.unwrap() else { panic!("Postgres") };
    let count: i64 =
        diesel_async::RunQueryDsl::get_result(usage_records::table.count(), connection.as_mut())
            .await
            .unwrap();
    count.try_into().unwrap()
}

#[actix_web::test]
async fn an_identity_is_not_trusted_for_longer_than_its_maximum_age() {
    let (app, relay, _database) = behind_a_relay(&[("AUTH__IDENTITY_MAX_AGE_SECONDS", "1")]).await;
    let key = app.create_key(PERSON).await;
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);

    relay.cut();
    let refused = eventually(Duration::from_secs(20), || async {
        let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
        reply.status == 503 && reply.message().contains("database")
    });
    assert!(refused.await);

    relay.heal();
    let served = eventually(Duration::from_secs(20), || async {
        app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status == 200
    });
    assert!(served.await, "it heals without a restart");
}

#[actix_web::test]
async fn what_is_not_written_when_it_stops_is_written_when_it_starts() {
    let (mut app, relay, _database) =
        behind_a_relay(&[("SHUTDOWN__TOKEN_TRACKING_TIMEOUT_SECONDS", "1")]).await;
    let key = app.create_key(PERSON).await;
    // What was checked before the first look at the database is forgotten at that look.
    app.revalidate().await;
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);
    app.settle().await;
    relay.cut();
    for _ in 0..5 {
        assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);
    }

    let started = std::time::Instant::now();
    app.stopped().await;
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    relay.heal();
    app.start_again();

    let all = eventually(Duration::from_secs(20), || async { rows_in(&app).await == 6 });
    assert!(all.await, "{} rows", rows_in(&app).await);
}

#[actix_web::test]
async fn it_waits_for_a_database_that_comes_late() {
    let database = crate::helpers::Database::on_postgres().await;
    let (relay, through) = Relay::to_database(&database.url).await;
    relay.cut();

    let at_once = TestServerBuilder::new().set("DATABASE__URL", &through).try_start().await;
    let healing = {
        let open = relay.open.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            open.store(true, SeqCst);
        })
    };
    let patient = TestServerBuilder::new()
        .set("DATABASE__URL", &through)
        .set("DATABASE__WAIT_SECONDS", 20)
        .try_start()
        .await;

    assert!(at_once.is_err());
    assert!(patient.is_ok());
    healing.join().unwrap();
}

#[actix_web::test]
async fn a_database_that_refuses_is_not_waited_for() {
    let database = crate::helpers::Database::on_postgres().await;
    let began = std::time::Instant::now();

    let refused = TestServerBuilder::new()
        .set("DATABASE__URL", format!("{}_gone", database.url))
        .set("DATABASE__WAIT_SECONDS", 60)
        .try_start()
        .await;

    let error = format!("{:#}", refused.err().unwrap());
    assert!(error.contains("does not exist"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30), "it waited for a database that is there");
}

#[actix_web::test]
async fn a_journal_that_cannot_be_written_refuses_calls_or_serves_them_as_told() {
    for (on_full, status, ready) in [("strict", 503, 503), ("best_effort", 200, 200)] {
        let app = TestServerBuilder::new().set("USAGE__ON_FULL", on_full).start().await;
        let key = app.create_key(PERSON).await;
        let kept = app.folder.path().join("kept");
        std::fs::rename(app.journal_dir(), &kept).unwrap();

        let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
        let readiness = app.get("/health/ready").send().await;
        assert_eq!(
            (reply.status.as_u16(), readiness.status.as_u16()),
            (status, ready),
            "{on_full}: {reply:?}"
        );
        if on_full == "strict" {
            assert_eq!(reply.error_type(), "ServiceUnavailableException");
            assert!(reply.message().contains("Usage cannot be recorded"));
            assert!(app.simulator.ledger().is_empty());
        } else {
            let written =
                eventually(Duration::from_secs(5), || async { app.rows(&key).await.len() == 1 });
            assert!(written.await, "the row still reaches the database");
        }

        std::fs::rename(&kept, app.journal_dir()).unwrap();
        let again = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
        assert_eq!(again.status, 200, "{on_full}");
        // The worker that refused looks every 200 ms whether it can take calls again; another may have taken this one.
        let ready = eventually(Duration::from_secs(5), || async {
            app.get("/health/ready").send().await.status == 200
        });
        assert!(ready.await, "{on_full}");
    }
}

#[actix_web::test]
async fn a_row_that_the_database_refuses_is_kept_aside_and_holds_up_no_other() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let pool = app.pool().await;
    let bedrock_sso_proxy::db::Conn::Sqlite(connection) = &mut pool.writer().await.unwrap() else {
        panic!("SQLite")
    };
    diesel_async::SimpleAsyncConnection::batch_execute(
        connection.as_mut(),
        "CREATE TABLE picky (value TEXT NOT NULL); \
         CREATE TRIGGER refuse BEFORE INSERT ON usage_records WHEN NEW.operation = 'converse' \
         BEGIN INSERT INTO picky VALUES (NULL); END",
    )
    .await
    .unwrap();

    app.call(MODEL, "converse", &crate::helpers::conversation("hi")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    let rows = app.rows(&key).await;

    assert_eq!(rows.len(), 1);
    let rejected = std::fs::read_to_string(app.journal_dir().join("rejected.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(rejected.lines().next().unwrap()).unwrap();
    assert_eq!((&row["operation"], rejected.lines().count()), (&json!("converse"), 1));
}

#[actix_web::test]
async fn a_journal_whose_files_were_removed_takes_no_further_calls() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);

    std::fs::remove_dir_all(app.journal_dir()).unwrap();
    let refused = eventually(Duration::from_secs(5), || async {
        app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status == 503
    });

    assert!(refused.await);
    assert_eq!(app.get("/health/ready").send().await.status, 503);
}

#[actix_web::test]
async fn rows_are_not_written_into_a_database_file_that_was_removed() {
    let mut app =
        TestServerBuilder::new().set("SHUTDOWN__TOKEN_TRACKING_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);
    app.settle().await;
    let (data, aside) = (app.folder.path().join("data"), app.folder.path().join("aside"));

    std::fs::rename(&data, &aside).unwrap();
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);
    app.stopped().await;
    std::fs::rename(&aside, &data).unwrap();
    app.start_again();

    let both = eventually(Duration::from_secs(15), || async {
        app.get("/api/usage/records").bearer(&key).send().await.json()["total"] == 2
    });
    assert!(both.await, "the second row waited in the journal");
}

/// A transaction that holds a table, so that whoever asks it hangs.
async fn hold(app: &TestServer, table: &str) -> bedrock_sso_proxy::db::Conn {
    let mut conn = app.pool().await.writer().await.unwrap();
    let bedrock_sso_proxy::db::Conn::Postgres(c) = &mut conn else { panic!("Postgres") };
    let text = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    diesel_async::SimpleAsyncConnection::batch_execute(c.as_mut(), &text).await.unwrap();
    conn
}

#[actix_web::test]
async fn a_statement_that_hangs_is_given_up() {
    let app = TestServerBuilder::new()
        .backend(Backend::Postgres)
        .set("DATABASE__STATEMENT_TIMEOUT_SECONDS", 1)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    assert_eq!(app.get("/api/usage/records").bearer(&key).send().await.status, 200);
    let held = hold(&app, "usage_records").await;

    let began = std::time::Instant::now();
    let reply = app.get("/api/usage/records").bearer(&key).send().await;

    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["code"], "database_unavailable");
    let took = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    drop(held);
}

#[actix_web::test]
async fn requests_that_hold_every_connection_keep_no_usage_row_waiting() {
    let app = TestServerBuilder::new()
        .backend(Backend::Postgres)
        .set("DATABASE__MAX_CONNECTIONS", 2)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);
    app.settle().await;
    let admin = app.create_token(crate::helpers::ADMIN).await;
    assert_eq!(app.get("/api/admin/jobs").bearer(&admin).send().await.status, 200);
    let held = hold(&app, "job_runs").await;
    let stuck = (0..4).map(|_| {
        let request = app.get("/api/admin/jobs").bearer(&admin);
        actix_web::rt::spawn(request.send())
    });
    let stuck: Vec<_> = stuck.collect();
    let pool = &app.shared().pool;
    let full = || async { pool.connections()[0].1.waiting > 0 };
    assert!(eventually(Duration::from_secs(5), full).await, "requests wait for a connection");

    assert_eq!(app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status, 200);

    // All is written while they wait.
    app.settle().await;
    assert!(pool.connections()[0].1.waiting > 0 || stuck.iter().any(|one| !one.is_finished()));
    drop(held);
    for request in stuck {
        assert!([200, 503].contains(&request.await.unwrap().status.as_u16()));
    }
}
