//! `GET /api/usage/records`: own rows alone, filtered and paged, and strict about its parameters.

use serde_json::{Value, json};

use crate::helpers::{
    MODEL, PERSON, TestServerBuilder, conversation, message, on_both_databases, spawn_app,
};

on_both_databases!(rows_are_the_caller_s_own_and_can_be_filtered_and_paged, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    let key = app.create_key(PERSON).await;
    let second = app.create_key(PERSON).await;
    let other = app.create_key("other@example.com").await;
    for _ in 0..3 {
        app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    }
    app.call("us.amazon.nova-lite-v1:0", "converse", &conversation("hi")).bearer(&second).send().await;
    app.call(MODEL, "invoke", &message("@sim:throttle")).bearer(&key).send().await;
    app.call(MODEL, "invoke", &message("hi")).bearer(&other).send().await;
    app.settle().await;
    let list = |query: &str| {
        let request = app.get(&format!("/api/usage/records{query}")).bearer(&key);
        async move {
            let reply = request.send().await;
            assert_eq!(reply.status, 200, "{reply:?}");
            reply.json()
        }
    };
    let count = |page: &Value| (page["records"].as_array().unwrap().len(), page["total"].as_u64().unwrap());

    assert_eq!(count(&list("").await), (5, 5));
    assert_eq!(count(&list("?success_only=true").await), (4, 4));
    assert_eq!(count(&list("?success_only=false").await), (5, 5));
    assert_eq!(count(&list("?outcome=upstream_error").await), (1, 1));
    assert_eq!(count(&list("?model=us.amazon.nova-lite-v1:0").await), (1, 1));
    assert_eq!(count(&list("?region=us-east-1&key_id=2").await), (1, 1));
    assert_eq!(count(&list("?region=eu-west-1").await), (0, 0));
    assert_eq!(count(&list("?start_date=2100-01-01").await), (0, 0));
    assert_eq!(count(&list("?start_date=2020-01-01&end_date=2100-01-01T00:00:00Z").await), (5, 5));
    assert_eq!(count(&list("?limit=2&offset=4").await), (1, 5));

    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = list(&query).await;
        seen.extend(page["records"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let whole = list("").await;
    let in_one: Vec<i64> = whole["records"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
    let times: Vec<&str> = whole["records"].as_array().unwrap().iter().map(|row| row["request_time"].as_str().unwrap()).collect();
    assert_eq!((seen.len(), &seen), (5, &in_one));
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    let theirs = app.rows(&other).await;
    assert_eq!(theirs.len(), 1);
});

#[actix_web::test]
async fn a_parameter_that_is_wrong_is_named() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=501", "limit"),
        ("offset=-1", "offset"),
        ("offset=10001", "offset"),
        ("offset=1&cursor=x", "cursor"),
        ("cursor=junk", "cursor"),
        ("start_date=1999-12-31", "start_date"),
        ("end_date=300000-01-01", "end_date"),
        ("start_date=yesterday", "start_date"),
        ("start_date=2026-02-30", "start_date"),
        ("start_date=2026-02-02&end_date=2026-02-01", "end_date"),
        ("outcome=fine", "outcome"),
        ("outcome=timeout&success_only=true", "success_only"),
    ] {
        let reply = app.get(&format!("/api/usage/records?{query}")).bearer(&key).send().await;

        let error = &reply.json()["error"];
        assert_eq!(reply.status, 400, "{query}");
        assert_eq!(
            (&error["code"], &error["field"]),
            (&json!("invalid_parameter"), &json!(field)),
            "{query}"
        );
        assert_eq!(error["request_id"], reply.header("x-request-id").unwrap());
    }
    for query in [
        "limit=x",
        "limit=99999999999999999999",
        "user_id=1",
        "nonsense=1",
        "success_only=maybe",
        "key_id=1.5",
    ] {
        let reply = app.get(&format!("/api/usage/records?{query}")).bearer(&key).send().await;

        assert_eq!(reply.status, 400, "{query}: {reply:?}");
    }
}

#[actix_web::test]
async fn the_ids_of_a_claude_code_session_are_kept_with_the_row() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let session = "5f1c4a58-6c77-4b2a-9a51-0c8e7a2f1b10";
    let request = app.call(MODEL, "invoke", &message("hi")).bearer(&key);

    request
        .header("x-claude-code-session-id", session)
        .header("x-claude-code-agent-id", "not a uuid")
        .send()
        .await;

    let row = app.row(&key).await;
    assert_eq!(
        (&row["client_session_id"], &row["client_agent_id"]),
        (&json!(session), &Value::Null)
    );
}
