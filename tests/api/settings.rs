//! Settings that no other test shows: each is set, and its effect seen from outside.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use bedrock_sso_proxy::settings::{Need, Settings};
use futures_util::StreamExt;

use crate::helpers::{
    Backend, MODEL, PERSON, TestServer, TestServerBuilder, eventually, message, spawn_app,
};

mod sign_in;

async fn counted(app: &TestServer, line: &str) -> bool {
    let metrics = bedrock_metrics(app).await;
    metrics.lines().any(|found| found == line)
}

async fn bedrock_metrics(app: &TestServer) -> String {
    String::from_utf8(
        crate::helpers::request_to("GET", "", &app.metrics_url()).send().await.body.to_vec(),
    )
    .unwrap()
}

/// Sends raw bytes, and reads until the service closes.
fn raw(app: &TestServer, bytes: &[u8]) -> (String, Duration) {
    let mut connection = TcpStream::connect(app.address()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    connection.write_all(bytes).unwrap();
    let (started, mut answer) = (Instant::now(), Vec::new());
    let _reset = connection.read_to_end(&mut answer);
    (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
}

#[actix_web::test]
async fn server_workers_is_the_number_of_journals() {
    let app = TestServerBuilder::new().set("SERVER__WORKERS", 3).start().await;
    let key = app.create_key(PERSON).await;
    let calls = (0..60).map(|_| app.call(MODEL, "invoke", &message("hi")).bearer(&key).send());
    futures_util::future::join_all(calls).await;

    let mut workers: Vec<String> = std::fs::read_dir(app.journal_dir())
        .unwrap()
        .filter_map(|entry| {
            Some(
                entry
                    .unwrap()
                    .file_name()
                    .to_str()?
                    .strip_suffix(".journal")?
                    .split('-')
                    .nth(1)?
                    .to_owned(),
            )
        })
        .collect();
    workers.sort();
    workers.dedup();

    assert_eq!(workers, ["000", "001", "002"]);
}

#[actix_web::test]
async fn server_timeouts_end_slow_requests_and_idle_connections() {
    let app = TestServerBuilder::new()
        .set("SERVER__TIMEOUTS__HEAD_SECONDS", 1)
        .set("SERVER__TIMEOUTS__BODY_IDLE_SECONDS", 1)
        .set("SERVER__TIMEOUTS__KEEP_ALIVE_SECONDS", 1)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let body = format!(
        "POST /bedrock/model/x/invoke HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 9\r\n\r\nx"
    );

    let (head, after_head) = raw(&app, b"GET /health HTTP/1.1\r\nhost: ");
    let (stalled, after_body) = raw(&app, body.as_bytes());
    let (idle, after_idle) = raw(&app, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n");

    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(stalled.starts_with("HTTP/1.1 408"), "{stalled}");
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
    for elapsed in [after_head, after_body, after_idle] {
        assert!(elapsed < Duration::from_secs(8), "{elapsed:?}");
    }
}

#[actix_web::test]
async fn server_timeouts_head_counts_for_the_handshake_of_tls() {
    let app = TestServerBuilder::new().tls().set("SERVER__TIMEOUTS__HEAD_SECONDS", 5).start().await;

    let (answer, after) = raw(&app, b"");

    assert!(answer.is_empty(), "{answer}");
    assert!(after > Duration::from_secs(4), "a slow handshake was given up after {after:?}");
    assert!(after < Duration::from_secs(9), "{after:?}");
}

#[actix_web::test]
async fn server_timeouts_body_total_ends_a_body_that_trickles() {
    let app = TestServerBuilder::new().set("SERVER__TIMEOUTS__BODY_TOTAL_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let mut connection = TcpStream::connect(app.address()).unwrap();
    let head = format!(
        "POST /bedrock/model/x/invoke HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 900\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();

    let started = Instant::now();
    let mut answer = [0; 12];
    while connection.read_exact(&mut answer).is_err() {
        assert!(started.elapsed() < Duration::from_secs(8));
        let _closed = connection.write_all(b" ");
    }

    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[actix_web::test]
async fn server_timeouts_write_stall_drops_a_client_that_does_not_read() {
    let app =
        TestServerBuilder::new().set("SERVER__TIMEOUTS__WRITE_STALL_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let body = message("@sim:oneframe kb=20000").to_string();
    let mut connection = TcpStream::connect(app.address()).unwrap();
    let head = format!(
        "POST /bedrock/model/{MODEL}/invoke-with-response-stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(head.as_bytes()).unwrap();

    let dropped = app
        .simulator
        .ledger()
        .wait_for(|calls| calls.iter().any(|call| call.aborted), Duration::from_secs(20))
        .await;

    assert!(dropped);
    assert_eq!(app.row(&key).await["outcome"], "client_disconnect");
}

#[actix_web::test]
async fn server_limits_connections_makes_further_ones_wait() {
    let app = TestServerBuilder::new()
        .set("SERVER__WORKERS", 1)
        .set("SERVER__LIMITS__CONNECTIONS", 1)
        .start()
        .await;
    let held = TcpStream::connect(app.address()).unwrap();
    let mut first = &held;
    first.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).unwrap();

    let second = app.get("/health/live").send();
    let mut second = Box::pin(second);
    let waits = tokio::time::timeout(Duration::from_millis(300), &mut second).await.is_err();
    drop(held);
    let served = tokio::time::timeout(Duration::from_secs(5), second).await.unwrap();

    assert!(waits);
    assert_eq!(served.status, 200);
}

#[actix_web::test]
async fn server_limits_bytes_and_heads_are_what_they_say() {
    let app = TestServerBuilder::new()
        .set("SERVER__MAX_BODY_BYTES", 100_000)
        .set("SERVER__LIMITS__IN_FLIGHT_BYTES", 100_000)
        .set("SERVER__LIMITS__REQUEST_LINE_BYTES", 300)
        .set("SERVER__LIMITS__HEADER_BYTES", 2000)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let big = "x".repeat(80_000);
    let slow = app
        .call(MODEL, "invoke", &message(&format!("@sim:slow delay_ms=700 {big}")))
        .bearer(&key)
        .send();
    let ledger = app.simulator.ledger().clone();

    let (slow, refused) = tokio::join!(slow, async {
        assert!(ledger.wait_for(|calls| calls.len() == 1, Duration::from_secs(5)).await);
        app.call(MODEL, "invoke", &message(&big)).bearer(&key).send().await
    });
    let line = app.get(&format!("/health?{}", "a".repeat(300))).send().await;
    let head = app.get("/health").header("x", "a".repeat(2000)).send().await;

    assert_eq!((slow.status.as_u16(), refused.status.as_u16()), (200, 503), "{refused:?}");
    assert_eq!((line.status.as_u16(), head.status.as_u16()), (431, 431));
}

#[actix_web::test]
async fn jwt_settings_decide_which_tokens_hold() {
    let mut app = TestServerBuilder::new()
        .set("JWT__SECRET_ID", "mine")
        .set("JWT__ACCESS_TOKEN_TTL", 120)
        .start()
        .await;
    let token = app.create_token(PERSON).await;
    assert_eq!(app.get("/api/usage/records").bearer(&token).send().await.status, 200);
    assert!(!app.command(&["user", "token", PERSON, "--ttl", "121"]).status.success());
    for (name, other) in [("JWT__ISSUER", "x"), ("JWT__AUDIENCE", "x"), ("JWT__SECRET_ID", "x")] {
        let mut environment = app.environment.clone();
        environment.push((format!("BEDROCK_{name}"), other.to_owned()));
        app.stopped().await;
        app.settings = Settings::from_layers(None, environment.into_iter(), Need::Service).unwrap();
        app.start_again();

        assert_eq!(app.get("/api/usage/records").bearer(&token).send().await.status, 401, "{name}");
    }
}

#[actix_web::test]
async fn a_previous_pepper_still_finds_its_keys_and_a_forgotten_one_does_not() {
    let (old, new) = (
        "an-old-pepper-with-at-least-32-bytes-in-it",
        "a-new-pepper-with-at-least-32-bytes-in-it-",
    );
    let mut app = TestServerBuilder::new().set("SECRETS__API_KEY_PEPPER", old).start().await;
    let keys = [app.create_key(PERSON).await, app.create_key(PERSON).await];
    for (previous, key, wanted) in [(old, &keys[0], 200), ("", &keys[1], 401)] {
        let mut environment = app.environment.clone();
        environment.push(("BEDROCK_SECRETS__API_KEY_PEPPER".into(), new.into()));
        environment.push(("BEDROCK_SECRETS__PREVIOUS_API_KEY_PEPPERS".into(), previous.into()));
        app.stopped().await;
        app.settings = Settings::from_layers(None, environment.into_iter(), Need::Service).unwrap();
        app.start_again();

        assert_eq!(app.get("/api/usage/records").bearer(key).send().await.status, wanted);
    }
}

#[actix_web::test]
async fn aws_ca_file_is_trusted_and_nothing_else_is() {
    let upstream = TestServerBuilder::new().tls().start().await;
    let cert = upstream.folder.path().join("cert.pem");
    let with = TestServerBuilder::new()
        .set("AWS__ENDPOINT_URL", &upstream.url)
        .set("AWS__CA_FILE", cert.display())
        .start()
        .await;
    let without = TestServerBuilder::new().set("AWS__ENDPOINT_URL", &upstream.url).start().await;
    let mut messages = Vec::new();
    for app in [with, without] {
        let key = app.create_key(PERSON).await;
        let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
        assert_eq!(reply.status, 503);
        messages.push(reply.message());
    }
    // What answers there is no Bedrock; but only one of them got as far as an answer.
    assert!(messages[0].contains("something else answered"), "{messages:?}");
    assert!(!messages[1].contains("something else answered"), "{messages:?}");
}

#[actix_web::test]
async fn aws_total_timeout_ends_a_stream_that_never_ends() {
    let app = TestServerBuilder::new().set("AWS__TOTAL_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let body = message("@sim:stream events=500 delay_ms=20");

    let reply = app.call(MODEL, "invoke-with-response-stream", &body).bearer(&key).send().await;

    assert!(!reply.complete);
    assert_eq!(reply.frames().last().unwrap().1, "modelTimeoutException");
    assert_eq!(app.row(&key).await["outcome"], "timeout");
}

#[actix_web::test]
async fn aws_connect_timeout_ends_a_connection_that_is_never_made() {
    // A listener whose queue is full drops what comes further.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let full: Vec<_> =
        (0..3).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200))).collect();
    let app = TestServerBuilder::new()
        .set("AWS__ENDPOINT_URL", format!("http://{address}"))
        .set("AWS__CONNECT_TIMEOUT_SECONDS", 1)
        .start()
        .await;
    let key = app.create_key(PERSON).await;

    let started = Instant::now();
    let reply = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;

    assert_eq!((reply.status.as_u16(), reply.error_type()), (503, "ServiceUnavailableException"));
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
    drop(full);
}

#[actix_web::test]
async fn usage_batches_fill_by_size_or_by_time() {
    let app = TestServerBuilder::new()
        .set("USAGE__BATCH_SIZE", 2)
        .set("USAGE__BATCH_DELAY_MS", 60_000)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let call = || app.call(MODEL, "invoke", &message("hi")).bearer(&key).send();
    call().await;
    call().await;

    let two = eventually(Duration::from_secs(5), || async {
        counted(&app, "usage_rows_written_total 2").await
    });

    assert!(two.await, "two rows fill a batch");
    call().await;
    assert!(!counted(&app, "usage_rows_written_total 3").await, "the third waits for a minute");
    assert_eq!(app.rows(&key).await.len(), 3, "or for a flush");
}

#[actix_web::test]
async fn cache_settings_bound_what_is_remembered() {
    let short = TestServerBuilder::new().set("CACHE__VALIDATION_TTL", 1).start().await;
    let key = short.create_key(PERSON).await;
    let twice = eventually(Duration::from_secs(10), || async {
        short.get("/api/usage/records").bearer(&key).send().await;
        counted(&short, r#"auth_total{kind="api_key",outcome="ok"} 2"#).await
    });
    assert!(twice.await, "after a second the credential is checked anew");

    let swept = TestServerBuilder::new().set("CACHE__CLEANUP_INTERVAL", 1).start().await;
    assert!(swept.command(&["user", "create", PERSON]).status.success());
    assert!(swept.command(&["user", "token", PERSON, "--ttl", "1"]).status.success());
    let pool = swept.pool().await;
    let gone = eventually(Duration::from_secs(10), || async {
        use bedrock_sso_proxy::db::{Conn, schema::sessions};
        use diesel::QueryDsl;
        let Conn::Sqlite(c) = &mut pool.reader().await.unwrap() else { panic!("SQLite") };
        let count: i64 = diesel_async::RunQueryDsl::get_result(sessions::table.count(), c.as_mut())
            .await
            .unwrap();
        count == 0
    });
    assert!(gone.await, "an ended session is removed");

    let small = TestServerBuilder::new().set("CACHE__MAX_ENTRIES", 1).start().await;
    let keys = [small.create_key(PERSON).await, small.create_key(PERSON).await];
    let forgets = eventually(Duration::from_secs(10), || async {
        for key in &keys {
            assert_eq!(small.get("/api/usage/records").bearer(key).send().await.status, 200);
        }
        let metrics = bedrock_metrics(&small).await;
        let checked = metrics
            .lines()
            .find_map(|line| line.strip_prefix(r#"auth_total{kind="api_key",outcome="ok"} "#));
        checked.unwrap().parse::<u32>().unwrap() > 4
    });
    assert!(forgets.await, "one entry cannot hold two keys");
}

#[actix_web::test]
async fn database_enabled_false_serves_from_memory() {
    let app = TestServerBuilder::new().set("DATABASE__ENABLED", false).start().await;

    let reply = app
        .call(MODEL, "invoke", &message("hi"))
        .bearer(&format!("SSOK_{}", "a".repeat(32)))
        .send()
        .await;

    assert_eq!(reply.status, 401, "{reply:?}");
    assert!(!app.folder.path().join("data").exists());
    assert!(!app.journal_dir().exists());
}

#[actix_web::test]
async fn database_max_connections_bounds_the_pool() {
    let app = TestServerBuilder::new()
        .backend(Backend::Postgres)
        .set("DATABASE__MAX_CONNECTIONS", 2)
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let replies = (0..30).map(|_| app.get("/api/usage/records").bearer(&key).send());

    let replies = futures_util::future::join_all(replies).await;

    assert!(replies.iter().all(|reply| reply.status == 200));
    let bedrock_sso_proxy::db::Pool::Postgres { pool, .. } = &app.shared().pool else {
        panic!("Postgres")
    };
    assert!(pool.status().size <= 2);
}

#[actix_web::test]
async fn database_url_mode_rw_does_not_create_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/none.db?mode=rw", folder.path().display());

    let started = TestServerBuilder::new().set("DATABASE__URL", url).try_start().await;

    assert!(started.is_err());
}

#[actix_web::test]
async fn postgres_elsewhere_needs_tls_unless_allowed_by_name() {
    // `127.1` is this machine to the resolver, but not a loopback address as it is written.
    let database = crate::helpers::Database::on_postgres().await;
    let elsewhere = database.url.replace("127.0.0.1", "127.1").replace("localhost", "127.1");
    assert!(elsewhere.contains("127.1"), "the tests' Postgres is on loopback: {elsewhere}");

    let refused = TestServerBuilder::new().set("DATABASE__URL", &elsewhere).try_start().await;
    let allowed = TestServerBuilder::new()
        .set("DATABASE__URL", &elsewhere)
        .set("DATABASE__ALLOW_PLAINTEXT", true)
        .try_start()
        .await;

    assert!(refused.is_err());
    assert!(allowed.is_ok(), "{:?}", allowed.err());
}

#[actix_web::test]
async fn metrics_can_be_turned_off() {
    let app = TestServerBuilder::new().set("METRICS__ENABLED", false).start().await;

    assert_eq!(app.get("/health/live").send().await.status, 200);
    assert!(!app.has_metrics());
}

#[actix_web::test]
async fn a_port_that_is_taken_is_named() {
    let taken = spawn_app().await;

    let started =
        TestServerBuilder::new().set("SERVER__PORT", taken.address().port()).try_start().await;

    let text = format!("{:#}", started.err().unwrap());
    assert!(
        text.contains("server.port") && text.contains(&taken.address().port().to_string()),
        "{text}"
    );
}

#[actix_web::test]
async fn a_stream_that_is_being_read_slowly_outlives_the_idle_limit() {
    let app = TestServerBuilder::new().set("AWS__STREAM_IDLE_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let body = message("@sim:stream events=200 delay_ms=10");

    let mut response =
        app.call(MODEL, "invoke-with-response-stream", &body).bearer(&key).open().await;
    let mut whole = 0;
    while let Some(piece) = response.next().await {
        whole += piece.unwrap().len();
    }

    assert!(whole > 0);
    assert_eq!(app.row(&key).await["outcome"], "success");
}

#[actix_web::test]
async fn server_tls_speaks_http_1_1_though_a_client_offers_more() {
    let app = TestServerBuilder::new().tls().start().await;
    let roots = bedrock_sso_proxy::tls::roots(Some(&app.folder.path().join("cert.pem"))).unwrap();
    let config = bedrock_sso_proxy::tls::client(roots, &["h2", "http/1.1"]);
    let name = "localhost".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut connection = TcpStream::connect(app.address()).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut connection);

    stream
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).unwrap();

    assert_eq!(&status, b"HTTP/1.1 200 OK");
    assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
}

#[actix_web::test]
async fn aws_total_timeout_binds_though_upstream_never_pauses() {
    let app = TestServerBuilder::new().set("AWS__TOTAL_TIMEOUT_SECONDS", 1).start().await;
    let key = app.create_key(PERSON).await;
    let body = message("@sim:stream events=2000000");

    let reply = app.call(MODEL, "invoke-with-response-stream", &body).bearer(&key).send().await;

    assert!(!reply.complete);
    assert_eq!(app.row(&key).await["outcome"], "timeout");
}
