//! Calls as a file: whole, each once, safe for a spreadsheet; and never looking whole when it is not.

use std::{sync::Arc, time::Duration};

use bedrock_sso_proxy::db::{
    Timestamp, prices,
    usage::{Inserted, NewUsage, insert_all},
};
use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::helpers::{
    ADMIN, Backend, MODEL, PERSON, Reply, TestServer, TestServerBuilder, conversation, message,
    on_both_databases,
};

const OTHER: &str = "other@example.com";
/// The names of a record, in order.
const COLUMNS: [&str; 33] = [
    "id",
    "call_id",
    "user_id",
    "key_id",
    "endpoint_type",
    "operation",
    "model_requested",
    "model_id",
    "region",
    "request_time",
    "response_time_ms",
    "time_to_first_byte_ms",
    "streamed",
    "input_tokens",
    "output_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "total_tokens",
    "estimated",
    "success",
    "outcome",
    "status",
    "error_code",
    "error_message",
    "upstream_attempts",
    "request_id",
    "stop_reason",
    "cost_usd",
    "price_id",
    "upstream_request_id",
    "client_session_id",
    "client_agent_id",
];

async fn start(backend: Backend) -> TestServer {
    TestServerBuilder::new().backend(backend).start().await
}

async fn fetch(app: &TestServer, credential: &str, path: &str) -> Reply {
    let reply = app.get(path).bearer(credential).send().await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    assert!(reply.complete, "{path}");
    reply
}

/// A CSV as its header and its rows.
fn csv(reply: &Reply) -> (Vec<String>, Vec<Vec<String>>) {
    let texts = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect();
    let mut reader = csv::Reader::from_reader(reply.body.as_ref());
    let header = texts(reader.headers().unwrap());
    (header, reader.records().map(|record| texts(&record.unwrap())).collect())
}

fn json_lines(reply: &Reply) -> Vec<Value> {
    let text = std::str::from_utf8(&reply.body).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A record as the cells of a CSV.
fn cells(record: &Value) -> Vec<String> {
    let cell = |name: &&str| match &record[*name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    COLUMNS.iter().map(cell).collect()
}

pub async fn id_of(app: &TestServer, email: &str) -> i64 {
    let token = app.create_token(email).await;
    app.get("/auth/me").bearer(&token).send().await.json()["id"].as_i64().unwrap()
}

/// A call like any other. Of three that follow each other, the times are the same.
pub fn call(user_id: i64, number: i64) -> NewUsage {
    let start: Timestamp = "2026-11-01T00:00:00".parse().unwrap();
    NewUsage {
        call_id: format!("call-{user_id}-{number}"),
        user_id,
        endpoint_type: "anthropic".to_owned(),
        operation: "invoke".to_owned(),
        model_requested: "claude-sonnet-4".to_owned(),
        model_id: MODEL.to_owned(),
        region: "us-east-1".to_owned(),
        request_time: start + TimeDelta::milliseconds(number / 3),
        outcome: "success".to_owned(),
        upstream_attempts: 1,
        request_id: format!("request-{number}"),
        ..NewUsage::default()
    }
}

/// Writes calls as the recorder does.
pub async fn insert(app: &TestServer, calls: Vec<NewUsage>) {
    let mut conn = app.pool().await.writer().await.unwrap();
    let version = prices::newest(&mut conn).await.unwrap().map_or(0, |(id, _)| id);
    let count = calls.len();
    let written = insert_all(&mut conn, Arc::new(calls), version).await.unwrap();
    assert_eq!(written, Inserted::Rows(count));
}

on_both_databases!(a_file_has_what_the_list_has, backend => {
    let app = start(backend).await;
    let key = app.create_key(PERSON).await;
    let other = app.create_key(OTHER).await;
    app.call(MODEL, "invoke", &message("hi")).bearer(&key).header("x-claude-code-session-id", "5f1c4a58-6c77-4b2a-9a51-0c8e7a2f1b10").send().await;
    app.call(MODEL, "invoke-with-response-stream", &message("hi")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("@sim:throttle")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("@sim:nousage")).bearer(&key).send().await;
    app.call("us.amazon.nova-lite-v1:0", "converse", &conversation("hi")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("hi")).bearer(&other).send().await;
    let records = app.rows(&key).await;

    let as_csv = fetch(&app, &key, "/api/usage/export?format=csv").await;
    let as_lines = fetch(&app, &key, "/api/usage/export?format=jsonl").await;

    assert_eq!(records.len(), 5);
    let (header, rows) = csv(&as_csv);
    assert_eq!(header, COLUMNS);
    assert_eq!(rows, records.iter().map(cells).collect::<Vec<_>>());
    assert_eq!(json_lines(&as_lines), records);
    let mut names: Vec<&String> = records[0].as_object().unwrap().keys().collect();
    let mut wanted: Vec<&str> = COLUMNS.to_vec();
    names.sort();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    let first = String::from_utf8_lossy(&as_lines.body);
    let places: Vec<usize> = COLUMNS.iter().map(|name| first.find(&format!("\"{name}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "in the order of the columns");
    let day = chrono::Utc::now().date_naive();
    for (reply, kind, extension) in [(&as_csv, "text/csv; charset=utf-8; header=present", "csv"), (&as_lines, "application/jsonl; charset=utf-8", "jsonl")] {
        assert_eq!(reply.header("content-type"), Some(kind));
        let name = reply.header("content-disposition").unwrap();
        let today = format!("attachment; filename=\"usage-{day}.{extension}\"");
        assert!(name == today || day < chrono::Utc::now().date_naive(), "{name}");
    }
    // CSV is what there is without a word, and the list gives the same files.
    for (export, list) in [
        ("export", "records?format=csv"),
        ("export?success_only=true", "records?success_only=true&format=csv"),
        ("export?outcome=upstream_error&format=csv", "records?format=csv&outcome=upstream_error"),
        ("export?format=jsonl", "records?format=jsonl"),
    ] {
        let export = fetch(&app, &key, &format!("/api/usage/{export}")).await;
        let listed = fetch(&app, &key, &format!("/api/usage/{list}")).await;
        assert_eq!(export.body, listed.body, "{list}");
        assert_eq!(export.header("content-type"), listed.header("content-type"));
    }
    assert_eq!(fetch(&app, &key, "/api/usage/export").await.body, as_csv.body);
});

on_both_databases!(a_file_is_of_the_caller_and_an_admin_s_of_everybody_or_one_person, backend => {
    let app = start(backend).await;
    let (key, other) = (app.create_key(PERSON).await, app.create_key(OTHER).await);
    let second = app.create_key(PERSON).await;
    let admin = app.create_token(ADMIN).await;
    for (key, model, operation, body) in [
        (&key, MODEL, "invoke", message("hi")),
        (&second, "us.amazon.nova-lite-v1:0", "converse", conversation("hi")),
        (&key, MODEL, "invoke", message("@sim:throttle")),
        (&other, MODEL, "invoke", message("hi")),
    ] {
        app.call(model, operation, &body).bearer(key).send().await;
    }
    let (own, theirs) = (app.rows(&key).await, app.rows(&other).await);
    let (me, them) = (own[0]["user_id"].clone(), theirs[0]["user_id"].clone());
    let count = |path: String, credential: &str| {
        let request = app.get(&path).bearer(credential);
        async move {
            let reply = request.send().await;
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            json_lines(&reply).len()
        }
    };

    let all = json_lines(&fetch(&app, &admin, "/api/admin/usage/export?format=jsonl").await);
    let of_them = json_lines(&fetch(&app, &admin, &format!("/api/admin/usage/export?format=jsonl&user_id={them}")).await);

    assert_eq!((own.len(), theirs.len(), all.len()), (3, 1, 4));
    assert!(own.iter().chain(&theirs).all(|row| all.contains(row)));
    assert_eq!(of_them, theirs);
    let second_id = own.iter().find(|row| row["operation"] == "converse").unwrap()["key_id"].clone();
    for (filter, mine, of_all) in [
        ("model=us.amazon.nova-lite-v1:0", 1, 1),
        (&format!("model={MODEL}"), 2, 3),
        ("region=us-east-1", 3, 4),
        ("region=eu-west-1", 0, 0),
        (&format!("key_id={second_id}"), 1, 1),
        ("outcome=upstream_error", 1, 1),
        ("success_only=true", 2, 3),
        ("success_only=false", 3, 4),
        ("start_date=2020-01-01&end_date=2100-01-01T00:00:00Z", 3, 4),
        ("start_date=2100-01-01", 0, 0),
        ("end_date=2020-01-01", 0, 0),
    ] {
        assert_eq!(count(format!("/api/usage/export?format=jsonl&{filter}"), &key).await, mine, "{filter}");
        assert_eq!(count(format!("/api/admin/usage/export?format=jsonl&{filter}"), &admin).await, of_all, "{filter}");
        assert_eq!(count(format!("/api/admin/usage/export?format=jsonl&user_id={me}&{filter}"), &admin).await, mine, "{filter}");
    }
    assert_eq!(count("/api/admin/usage/export?format=jsonl&user_id=4711".to_owned(), &admin).await, 0);
    for (path, credential, status) in [
        ("/api/usage/export", None, 401),
        ("/api/admin/usage/export", None, 401),
        ("/api/admin/usage/export", Some(&key), 403),
        ("/api/admin/usage/records?format=csv", Some(&key), 403),
    ] {
        let request = app.get(path);
        let request = credential.iter().fold(request, |request, key| request.bearer(key));
        assert_eq!(request.send().await.status, status, "{path}");
    }
});

#[actix_web::test]
async fn what_no_file_can_be_made_of_is_refused_by_name() {
    let app = start(Backend::Sqlite).await;
    let key = app.create_key(PERSON).await;
    for (query, field) in [
        ("export?format=xml", "format"),
        ("export?format=json", "format"),
        ("export?format=CSV", "format"),
        ("export?format=", "format"),
        ("records?format=xml", "format"),
        ("records?format=csv&limit=10", "format"),
        ("records?format=csv&offset=0", "format"),
        ("records?format=jsonl&limit=500", "format"),
        ("records?format=csv&cursor=MTox", "format"),
        ("export?outcome=fine", "outcome"),
        ("export?start_date=2026-02-02&end_date=2026-02-01", "end_date"),
        ("export?start_date=1999-01-01", "start_date"),
        ("export?model=%00", "model"),
    ] {
        let reply = app.get(&format!("/api/usage/{query}")).bearer(&key).send().await;

        let error = &reply.json()["error"];
        assert_eq!(reply.status, 400, "{query}");
        let told = (&error["code"], &error["field"]);
        assert_eq!(told, (&json!("invalid_parameter"), &json!(field)), "{query}");
    }
    for query in ["user_id=1", "limit=1", "cursor=MTox", "nonsense=1", "key_id=x"] {
        let reply = app.get(&format!("/api/usage/export?{query}")).bearer(&key).send().await;
        assert_eq!(reply.status, 400, "{query}: {reply:?}");
    }
    let page = app.get("/api/usage/records?format=json&limit=1").bearer(&key).send().await;
    assert_eq!((page.status.as_u16(), &page.json()["limit"]), (200, &json!(1)));
}

on_both_databases!(a_file_of_nothing_has_a_header_alone, backend => {
    let app = start(backend).await;
    let key = app.create_key(PERSON).await;
    let admin = app.create_token(ADMIN).await;
    let header = COLUMNS.join(",") + "\n";

    for (credential, path) in [
        (&key, "/api/usage/export?format=csv"),
        (&key, "/api/usage/records?format=csv"),
        (&admin, "/api/admin/usage/export"),
        (&admin, "/api/admin/usage/records?format=csv"),
    ] {
        assert_eq!(fetch(&app, credential, path).await.body, header, "{path}");
    }
    for path in ["/api/usage/export?format=jsonl", "/api/usage/records?format=jsonl"] {
        let reply = fetch(&app, &key, path).await;
        assert_eq!((reply.body.len(), reply.header("content-type")), (0, Some("application/jsonl; charset=utf-8")));
    }
});

on_both_databases!(no_cell_is_a_formula_and_nothing_is_lost, backend => {
    let app = start(backend).await;
    let key = app.create_key(PERSON).await;
    let user_id = id_of(&app, PERSON).await;
    let text = |text: &str| Some(text.to_owned());
    let bad = NewUsage {
        model_requested: "=HYPERLINK(\"http://example.com\",\"x\")".to_owned(),
        model_id: "@SUM(1+1)*cmd|' /C calc'!A0".to_owned(),
        error_code: text("+1"),
        error_message: text("-2+3"),
        stop_reason: text("\t=1"),
        upstream_request_id: text("\r=1"),
        client_session_id: text("=1"),
        client_agent_id: text("@x"),
        request_id: "-request".to_owned(),
        call_id: "+call".to_owned(),
        ..call(user_id, 1)
    };
    let odd = NewUsage {
        model_requested: "a=b".to_owned(),
        error_code: text("'=1"),
        error_message: text("says \"no\", and\nstops; ä €"),
        stop_reason: text(""),
        client_session_id: text(" =1"),
        ..call(user_id, 2)
    };
    insert(&app, vec![bad.clone(), odd.clone()]).await;

    let reply = fetch(&app, &key, "/api/usage/export").await;
    let lines = json_lines(&fetch(&app, &key, "/api/usage/export?format=jsonl").await);

    let (_, rows) = csv(&reply);
    let cell = |row: usize, name: &str| {
        let at = COLUMNS.iter().position(|column| *column == name).unwrap();
        rows[row][at].clone()
    };
    let neutral = |row: usize, name: &str, text: &str| {
        assert_eq!(cell(row, name), format!("'{text}"), "{name}");
        assert_eq!(lines[row][name], text, "{name}");
    };
    let same = |row: usize, name: &str, text: &str| {
        assert_eq!((cell(row, name).as_str(), &lines[row][name]), (text, &json!(text)), "{name}");
    };
    assert_eq!(rows.len(), 2);
    neutral(1, "model_requested", &bad.model_requested);
    neutral(1, "model_id", &bad.model_id);
    neutral(1, "error_code", "+1");
    neutral(1, "error_message", "-2+3");
    neutral(1, "stop_reason", "\t=1");
    neutral(1, "upstream_request_id", "\r=1");
    neutral(1, "client_session_id", "=1");
    neutral(1, "client_agent_id", "@x");
    neutral(1, "request_id", "-request");
    neutral(1, "call_id", "+call");
    same(0, "model_requested", "a=b");
    same(0, "error_code", "'=1");
    same(0, "error_message", odd.error_message.as_deref().unwrap());
    same(0, "stop_reason", "");
    same(0, "client_session_id", " =1");
    for row in &rows {
        assert!(row.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r'])), "{row:?}");
    }
    // The list is for programs: it says what is so.
    assert_eq!(app.rows(&key).await, lines);
});

on_both_databases!(many_rows_come_whole_each_once_the_newest_first, backend => {
    let app = start(backend).await;
    let key = app.create_key(PERSON).await;
    let admin = app.create_token(ADMIN).await;
    app.create_key(OTHER).await;
    let (me, them) = (id_of(&app, PERSON).await, id_of(&app, OTHER).await);
    insert(&app, (0..100).map(|number| call(them, number * 37)).collect()).await;
    let mut count = 0;

    // Two whole pages of the export's, then more than that.
    for more in [4000, 1001] {
        insert(&app, (count..count + more).map(|number| call(me, number)).collect()).await;
        count += more;

        let lines = json_lines(&fetch(&app, &key, "/api/usage/export?format=jsonl").await);
        let (header, rows) = csv(&fetch(&app, &key, "/api/usage/export").await);

        assert_eq!(header, COLUMNS);
        let numbers: Vec<i64> = lines.iter().map(|line| line["call_id"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap()).collect();
        // Their ids tell those apart whose times are the same.
        let wanted: Vec<i64> = (0..count).rev().collect();
        assert_eq!(numbers.len(), wanted.len());
        assert!(numbers == wanted, "{:?}", numbers.iter().zip(&wanted).find(|(has, wants)| has != wants));
        assert_eq!(rows.len(), lines.len());
        assert!(rows.iter().zip(&lines).all(|(row, line)| *row == cells(line)));
    }
    let part = json_lines(&fetch(&app, &key, "/api/usage/export?format=jsonl&end_date=2026-11-01T00:00:01Z").await);
    assert_eq!(part.len(), 3000, "a filter goes for every page");
    let everybody = json_lines(&fetch(&app, &admin, "/api/admin/usage/export?format=jsonl").await);
    assert_eq!(everybody.len(), 5101);
    assert!(everybody.is_sorted_by(|newer, older| {
        let place = |row: &Value| (row["request_time"].as_str().unwrap().to_owned(), row["id"].as_i64());
        place(newer) > place(older)
    }));
});

/// A client that takes no more than it is made to.
async fn slow_client(app: &TestServer, path: &str, credential: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut connection = socket.connect(app.address()).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {credential}\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

/// Reads until the connection ends or is broken.
async fn rest_of(connection: &mut TcpStream, answer: &mut Vec<u8>) {
    let read = async {
        let mut piece = vec![0; 1 << 16];
        while let Ok(count @ 1..) = connection.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
        }
    };
    let within = Duration::from_secs(60);
    tokio::time::timeout(within, read).await.expect("a file that broke off ends its connection");
}

on_both_databases!(a_file_that_breaks_off_does_not_look_whole, backend => {
    let app = start(backend).await;
    let key = app.create_key(PERSON).await;
    let me = id_of(&app, PERSON).await;
    // More than lies in the buffers of both ends and in the page that is read ahead.
    let count = 12_000;
    let long = |number| NewUsage { error_message: Some("x".repeat(300)), ..call(me, number) };
    for start in (0..count).step_by(4000) {
        insert(&app, (start..start + 4000).map(long).collect()).await;
    }

    for path in ["/api/usage/export?format=jsonl", "/api/usage/records?format=csv"] {
        let mut connection = slow_client(&app, path, &key).await;
        let mut answer = vec![0; 512];
        connection.read_exact(&mut answer).await.unwrap();
        app.sql("ALTER TABLE usage_records RENAME TO usage_away").await;

        rest_of(&mut connection, &mut answer).await;

        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("transfer-encoding: chunked"), "{}", &text[..512]);
        assert!(!text.ends_with("0\r\n\r\n"), "{path}: it says that it is whole");
        let rows = text.matches("request-").count();
        assert!((1..count as usize).contains(&rows), "{path}: {rows}");
        app.sql("ALTER TABLE usage_away RENAME TO usage_records").await;
    }

    let page = fetch(&app, &key, "/api/usage/records?limit=1").await.json();
    assert_eq!(page["total"], 10_000);
    let whole = fetch(&app, &key, "/api/usage/export?end_date=2026-11-01T00:00:00.100Z").await;
    assert_eq!(csv(&whole).1.len(), 300, "the service goes on");
});

on_both_databases!(a_client_that_leaves_or_is_slow_keeps_nobody_from_the_database, backend => {
    let app = start(backend).await;
    let key = app.create_key(PERSON).await;
    let me = id_of(&app, PERSON).await;
    let long = |number| NewUsage { error_message: Some("x".repeat(300)), ..call(me, number) };
    insert(&app, (0..9000).map(long).collect()).await;

    // More of them than the pool has connections.
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut connection = slow_client(&app, "/api/usage/export?format=jsonl", &key).await;
        let mut answer = vec![0; 8192];
        connection.read_exact(&mut answer).await.unwrap();
        slow.push((connection, answer));
    }

    let page = fetch(&app, &key, "/api/usage/records?limit=1").await.json();
    assert_eq!(page["total"], 9000);
    app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    assert_eq!(app.rows(&key).await.len(), 500);
    let (mut connection, mut answer) = slow.swap_remove(5);
    drop(slow);
    rest_of_chunks(&mut connection, &mut answer).await;
    assert_eq!(String::from_utf8(answer).unwrap().matches("\"request-").count(), 9000, "slow, but whole");
});

/// Reads to the last chunk.
async fn rest_of_chunks(connection: &mut TcpStream, answer: &mut Vec<u8>) {
    let read = async {
        let mut piece = vec![0; 1 << 16];
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            let count = connection.read(&mut piece).await.unwrap();
            assert!(count > 0, "it ends before its last chunk");
            answer.extend_from_slice(&piece[..count]);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("it comes to its end");
}
