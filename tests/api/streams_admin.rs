//! Live streams, for admins: who streams what, and ending it.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::helpers::{
    Browser, MODEL, PERSON, TestServer, TestServerBuilder, eventually, message, on_both_databases,
};

const ADMIN: &str = "1001";
const STREAM: &str = "invoke-with-response-stream";
const SLOW: &str = "hi @sim:stream events=2000 delay_ms=50";

fn builder() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().unlimited()
}

async fn streams(admin: &Browser) -> Vec<Value> {
    admin.get("/api/admin/streams").await.json()["streams"].as_array().unwrap().clone()
}

async fn cut(admin: &Browser, id: &str) -> u16 {
    admin.api("DELETE", &format!("/api/admin/streams/{id}"), None).await.status.as_u16()
}

/// Opens a stream of Bedrock's own and reads its beginning.
async fn begin(app: &TestServer, key: &str) -> awc::ClientResponse {
    let mut stream = app.call(MODEL, STREAM, &message(SLOW)).bearer(key).open().await;
    stream.next().await.unwrap().unwrap();
    stream
}

/// What is left of a stream.
async fn rest(stream: &mut awc::ClientResponse) -> String {
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

on_both_databases!(an_admin_sees_live_streams_and_cuts_one, backend => {
    let app = builder().backend(backend).start().await;
    let admin = app.signed_in(ADMIN).await;
    let (key, other) = (app.create_key(PERSON).await, app.create_key("other@example.com").await);
    let empty = admin.get("/api/admin/streams").await.json();
    assert_eq!(empty, json!({"streams": [], "total": 0, "total_is_capped": false, "limit": 50, "offset": 0, "next_cursor": null}));
    let (mut first, mut second) = (begin(&app, &key).await, begin(&app, &other).await);

    let counted = eventually(Duration::from_secs(10), || async {
        streams(&admin).await.iter().filter(|stream| stream["events"].as_i64() > Some(2)).count() == 2
    });
    assert!(counted.await, "{:?}", streams(&admin).await);
    let live = streams(&admin).await;
    let mine = live.iter().find(|stream| stream["email"] == PERSON).unwrap();
    assert_eq!((&mine["model_id"], &mine["region"]), (&json!(MODEL), &json!("us-east-1")));
    assert!(mine["output_tokens"].is_i64() || mine["output_tokens"].is_null());
    assert!(mine["started_at"].as_str().unwrap().ends_with('Z') && mine["user_id"].is_i64());
    assert_eq!(mine["instance"], bedrock_sso_proxy::jobs::instance());
    let id = mine["id"].as_str().unwrap();
    assert_ne!(live[0]["id"], live[1]["id"]);
    let page = admin.get("/api/admin/streams?limit=1").await.json();
    let next = admin.get(&format!("/api/admin/streams?limit=1&cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    assert_eq!((&page["total"], &next["streams"][0]["id"]), (&json!(2), &live[1]["id"]));

    assert_eq!(cut(&admin, id).await, 204);
    let again = cut(&admin, id).await;
    assert!(matches!(again, 204 | 404), "{again}");

    let said = rest(&mut first).await;
    assert!(said.contains("accessDeniedException") && said.contains("An administrator ended"), "{said}");
    assert!(!said.contains("message_stop"));
    assert!(second.next().await.unwrap().is_ok(), "nobody else's");
    drop(second);
    let row = app.row(&key).await;
    assert_eq!((&row["outcome"], &row["success"]), (&json!("revoked"), &json!(false)), "{row}");
    assert_eq!(row["error_message"], "An administrator ended this stream.");
    let gone = eventually(Duration::from_secs(10), || async { streams(&admin).await.is_empty() });
    assert!(gone.await);
    assert_eq!(cut(&admin, id).await, 404);
    let events: Vec<_> = app.audit().await.into_iter().filter(|entry| entry.event_type == "stream_cut").collect();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((event.user_id, event.object.as_str()), (mine["user_id"].as_i64(), format!("stream:{id}").as_str()));
    assert!(event.actor.starts_with("user:") && event.metadata.contains(MODEL), "{event:?}");
    let call = app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
    assert_eq!(call.status, 200, "the key stays good");
});

#[actix_web::test]
async fn a_stream_of_the_messages_api_that_is_cut_ends_with_an_error_event() {
    let app = builder().start().await;
    let admin = app.signed_in(ADMIN).await;
    let key = app.create_key(PERSON).await;
    let mut body = crate::helpers::messages(SLOW);
    body["stream"] = json!(true);
    let whole = app.post("/anthropic/v1/messages").bearer(&key).json(&body).send();
    let cutting = async {
        let live = eventually(Duration::from_secs(10), || async {
            streams(&admin).await.iter().any(|stream| stream["events"].as_i64() > Some(2))
        });
        assert!(live.await);
        let live = streams(&admin).await;
        cut(&admin, live[0]["id"].as_str().unwrap()).await
    };

    let (reply, status) = futures_util::join!(whole, cutting);

    assert_eq!((status, reply.status.as_u16()), (204, 200));
    let said = String::from_utf8_lossy(&reply.body);
    assert!(said.contains("event: error") && said.contains("permission_error"), "{said}");
    assert!(!reply.complete && !said.contains("message_stop"), "{said}");
    assert_eq!(app.row(&key).await["outcome"], "revoked");
}

#[actix_web::test]
async fn a_stream_that_has_not_begun_can_be_cut_too() {
    let app = builder().start().await;
    let admin = app.signed_in(ADMIN).await;
    let key = app.create_key(PERSON).await;
    let waiting = app.call(MODEL, STREAM, &message("hi @sim:hang")).bearer(&key).send();
    let cutting = async {
        let live =
            eventually(Duration::from_secs(10), || async { streams(&admin).await.len() == 1 });
        assert!(live.await);
        let live = streams(&admin).await;
        assert_eq!((&live[0]["events"], &live[0]["output_tokens"]), (&json!(0), &json!(null)));
        cut(&admin, live[0]["id"].as_str().unwrap()).await
    };

    let (reply, status) = futures_util::join!(waiting, cutting);

    assert_eq!((status, reply.status.as_u16()), (204, 403), "{reply:?}");
    let row = app.row(&key).await;
    assert_eq!((&row["outcome"], &row["error_code"]), (&json!("revoked"), &json!("cut_by_admin")));
}

#[actix_web::test]
async fn what_is_no_stream_is_not_found() {
    let app = builder().start().await;
    let admin = app.signed_in(ADMIN).await;
    for id in [
        "1",
        "x",
        "0000000000000000",
        "ffffffffffffffff",
        "FFFFFFFFFFFFFFFF",
        "+fffffffffffffff",
        "%00",
    ] {
        assert_eq!(cut(&admin, id).await, 404, "{id}");
    }
    assert_eq!(app.audited("stream_cut").await, 0);
    for query in ["limit=0", "limit=501", "limit=x", "cursor=!", "x=1"] {
        let reply = admin.get(&format!("/api/admin/streams?{query}")).await;
        assert_eq!(reply.status, 400, "{query}");
    }
}
