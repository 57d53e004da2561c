//! Several instances on one database and one Redis, which act as one; and what is left of that when Redis misbehaves.
//! `SOAK_REVOCATIONS` sets how often access is taken away; `make soak` does it 500 times, and prints how long it took.

use std::time::{Duration, Instant};

use bedrock_sso_proxy::actors::{auth::Revalidate, usage::ForgetPrices};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::helpers::{
    ADMIN, Backend, MODEL, PERSON, TestServer, TestServerBuilder, eventually, message,
    redis::PrivateRedis,
};

const STREAM: &str = "invoke-with-response-stream";
const SLOW: &str = "hi @sim:stream events=2000 delay_ms=50";
/// Access that was taken away ends everywhere within this, with Redis and without (REL-20).
const WITH_REDIS: Duration = Duration::from_secs(2);
const WITHOUT: Duration = Duration::from_secs(5);

/// Two instances on Postgres and a Redis of their own.
struct Two {
    redis: PrivateRedis,
    one: TestServer,
    other: TestServer,
}

impl Two {
    async fn start(builder: TestServerBuilder) -> Self {
        let redis = PrivateRedis::start().await;
        let one = builder
            .backend(Backend::Postgres)
            .set("CACHE__BACKEND", "redis")
            .set("CACHE__REDIS_URL", redis.url())
            .start()
            .await;
        let other = one.another().await;
        for app in [&one, &other] {
            app.revalidate().await;
        }
        let both_listen = eventually(Duration::from_secs(10), || async {
            let channels: Vec<String> = redis.command(&["PUBSUB", "CHANNELS", "*"]).await;
            let Some(channel) = channels.first() else { return false };
            let (_, listeners): (String, i64) = redis.command(&["PUBSUB", "NUMSUB", channel]).await;
            listeners == 2
        });
        assert!(both_listen.await);
        Self { redis, one, other }
    }
}

async fn status(app: &TestServer, credential: &str) -> u16 {
    app.call(MODEL, "invoke", &message("hi")).bearer(credential).send().await.status.as_u16()
}

/// How long it takes until an instance refuses a credential.
async fn refused_after(app: &TestServer, credential: &str, within: Duration) -> Duration {
    let began = Instant::now();
    let refused = eventually(within, || async { status(app, credential).await == 401 });
    assert!(refused.await, "still let in after {within:?}");
    began.elapsed()
}

fn looked_up(app: &TestServer, outcome: &str) -> u64 {
    requests(app, "identity", outcome)
}

fn requests(app: &TestServer, name: &str, outcome: &str) -> u64 {
    app.shared().metrics.cache_requests.with_label_values(&[name, "redis", outcome]).get()
}

async fn disable(app: &TestServer, admin: &str, user: i64, state: &str) {
    let path = format!("/api/admin/users/{user}/state");
    let request = app.post(&path).method("PUT").bearer(admin);
    let reply = request
        .header("content-type", "application/json")
        .json(&json!({"state": state}))
        .send()
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

async fn id_of(app: &TestServer, token: &str) -> i64 {
    app.get("/auth/me").bearer(token).send().await.json()["id"].as_i64().unwrap()
}

async fn streams(app: &TestServer, admin: &str) -> Vec<Value> {
    let reply = app.get("/api/admin/streams").bearer(admin).send().await;
    reply.json()["streams"].as_array().unwrap().clone()
}

#[actix_web::test]
async fn what_one_instance_takes_away_ends_on_the_other_with_its_streams() {
    let two = Two::start(TestServerBuilder::new().unlimited()).await;
    let (one, other) = (&two.one, &two.other);
    let admin = one.create_token(ADMIN).await;
    let token = one.create_token(PERSON).await;
    let user = id_of(one, &token).await;
    let rounds =
        std::env::var("SOAK_REVOCATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut delays = Vec::new();
    for round in 0..rounds {
        let key = one.create_key(PERSON).await;
        assert_eq!((status(one, &key).await, status(other, &key).await), (200, 200), "{round}");
        let mut stream = other.call(MODEL, STREAM, &message(SLOW)).bearer(&key).open().await;
        stream.next().await.unwrap().unwrap();

        disable(one, &admin, user, "disabled").await;
        assert_eq!(status(one, &key).await, 401, "where it was done it is at once");
        delays.push(refused_after(other, &key, WITH_REDIS).await);
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            let mut said = Vec::new();
            while let Some(Ok(piece)) = stream.next().await {
                said.extend_from_slice(&piece);
            }
            said
        });
        let said = ended.await.expect("the stream ends");
        assert!(!String::from_utf8_lossy(&said).contains("message_stop"));

        disable(one, &admin, user, "active").await;
    }
    // It was told, and did not only look every second by itself.
    assert!(requests(other, "news", "hit") >= rounds, "{}", requests(other, "news", "hit"));
    delays.sort_unstable();
    let (median, slowest) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!("access ended on the other instance after {median:?} (median), {slowest:?} (slowest)");
}

#[actix_web::test]
async fn a_new_instance_takes_over_what_others_checked() {
    let two = Two::start(TestServerBuilder::new()).await;
    let key = two.one.create_key(PERSON).await;
    two.one.revalidate().await;
    two.other.revalidate().await;
    assert_eq!(status(&two.one, &key).await, 200);
    assert_eq!((looked_up(&two.one, "miss"), looked_up(&two.one, "hit")), (1, 0));

    assert_eq!(status(&two.other, &key).await, 200);
    assert_eq!((looked_up(&two.other, "miss"), looked_up(&two.other, "hit")), (0, 1));
    let kept: Vec<String> = two.redis.keys().await;
    let of_identity: Vec<_> = kept.iter().filter(|key| key.contains(":identity:")).collect();
    assert_eq!(of_identity.len(), 1, "{kept:?}");
    let value: Vec<u8> = two.redis.command(&["GET", of_identity[0]]).await;
    let value = String::from_utf8_lossy(&value).into_owned();
    assert!(
        value.contains("user_id") && !value.contains("example") && !value.contains("SSOK_"),
        "{value}"
    );
    assert!(!kept.concat().contains(&key[5..]), "{kept:?}");

    // A change anywhere outdates it.
    let other = two.one.create_key(PERSON).await;
    assert!(two.one.command(&["key", "revoke", "2"]).status.success());
    two.other.revalidate().await;
    assert_eq!(status(&two.other, &other).await, 401);
    assert_eq!(status(&two.other, &key).await, 200);
    assert!(looked_up(&two.other, "outdated") >= 1);
}

#[actix_web::test]
async fn prices_that_one_instance_read_count_on_the_others_until_they_change() {
    let two = Two::start(TestServerBuilder::new().unlimited()).await;
    let (key, admin) = (two.one.create_key(PERSON).await, two.one.create_token(ADMIN).await);
    let cost = async |app: &TestServer| {
        assert_eq!(status(app, &key).await, 200);
        app.settle().await;
        let row = app.row(&key).await;
        (row["cost_usd"].clone(), row["price_id"].clone())
    };
    let read = |app: &TestServer, outcome: &str| requests(app, "prices", outcome);

    let first = cost(&two.one).await;
    assert_ne!(first.0, Value::Null, "{first:?}");
    assert_eq!(cost(&two.other).await, first);
    assert_eq!((read(&two.one, "miss"), read(&two.other, "hit")), (1, 1));

    let path = format!("/api/admin/costs/us-east-1/{MODEL}");
    let change = two.one.post(&path).method("PUT").bearer(&admin);
    let price = json!({ "input_cost_per_1k_tokens": "0.5", "output_cost_per_1k_tokens": "0.5" });
    let reply = change.header("content-type", "application/json").json(&price).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let second = cost(&two.other).await;
    assert_ne!(second, first);
    assert_eq!(cost(&two.one).await, second);
    assert_eq!((read(&two.other, "miss"), read(&two.one, "hit")), (1, 1));

    // What somebody else wrote there prices nothing, and neither does what was kept before a price was to be read anew.
    for name in two.redis.keys().await.iter().filter(|name| name.contains(":prices:")) {
        two.redis.write(name, b"[]").await;
    }
    for (app, missed) in [(&two.one, "forged"), (&two.other, "outdated"), (&two.one, "outdated")] {
        app.shared().actors.usage.address().send(ForgetPrices).await.unwrap();
        assert_eq!(cost(app).await, second);
        assert!(read(app, missed) >= 1, "{missed}");
    }
}

#[actix_web::test]
async fn a_device_keeps_its_pace_whichever_instance_it_asks() {
    let two = Two::start(TestServerBuilder::new()).await;
    let ask = async |app: &TestServer, path: &str, body: &str| {
        let request = app.post(path).header("content-type", "application/x-www-form-urlencoded");
        request.body(body.to_owned()).send().await.json()
    };
    let code = ask(&two.one, "/auth/device", "").await["device_code"].as_str().unwrap().to_owned();
    let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
    let question = format!("grant_type={grant}&device_code={code}");

    let told = ask(&two.one, "/auth/token", &question).await;
    assert_eq!(told["error"], "authorization_pending", "{told}");
    let told = ask(&two.other, "/auth/token", &question).await;
    assert_eq!(told["error"], "slow_down", "{told}");

    // Redis loses the pace, and nothing else.
    let _flushed: String = two.redis.command(&["FLUSHALL"]).await;
    let told = ask(&two.other, "/auth/token", &question).await;
    assert_eq!(told["error"], "authorization_pending", "{told}");
}

#[actix_web::test]
async fn limits_count_on_all_instances_together() {
    // By the hour, so that none ends in the middle of this, or hardly ever.
    let builder = TestServerBuilder::new()
        .set("API_KEYS__MAX_KEYS_PER_USER", 100)
        .set("RATE_LIMITS__KEY_CREATIONS_PER_HOUR", 6);
    let mut two = Two::start(builder).await;
    let (one, other) = (two.one.create_token(PERSON).await, two.one.create_token(ADMIN).await);
    let make = async |app: &TestServer, token: &str| {
        let request = app.post("/api/keys").bearer(token);
        let body = json!({"name": "x"});
        request.header("content-type", "application/json").json(&body).send().await.status.as_u16()
    };
    let mut made = Vec::new();
    for _ in 0..6 {
        made.extend([make(&two.one, &one).await, make(&two.other, &one).await]);
    }
    // Each instance by itself lets 6 through.
    assert_eq!(made, [[201; 6], [429; 6]].concat());

    // Without Redis each goes by its own count, and nobody is refused for it.
    two.redis.go();
    for app in [&two.one, &two.other] {
        for number in 0..5 {
            assert_eq!(make(app, &other).await, 201, "{number}");
        }
    }
}

#[actix_web::test]
async fn an_admin_sees_and_cuts_streams_of_all_instances() {
    let two = Two::start(TestServerBuilder::new().unlimited()).await;
    let (one, other) = (&two.one, &two.other);
    let admin = one.create_token(ADMIN).await;
    let key = one.create_key(PERSON).await;
    let mut here = one.call(MODEL, STREAM, &message(SLOW)).bearer(&key).open().await;
    here.next().await.unwrap().unwrap();
    let mut there = other.call(MODEL, STREAM, &message(SLOW)).bearer(&key).open().await;
    there.next().await.unwrap().unwrap();

    for app in [one, other] {
        let both =
            eventually(Duration::from_secs(5), || async { streams(app, &admin).await.len() == 2 });
        assert!(both.await, "{:?}", streams(app, &admin).await);
    }
    let newest = &streams(one, &admin).await[0];
    assert_eq!((&newest["email"], &newest["model_id"]), (&json!(PERSON), &json!(MODEL)));
    let id = newest["id"].as_str().unwrap();
    let cut = |id: String| {
        one.post(&format!("/api/admin/streams/{id}")).method("DELETE").bearer(&admin).send()
    };
    assert_eq!(cut(id.to_owned()).await.status, 204);

    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        let mut said = Vec::new();
        while let Some(Ok(piece)) = there.next().await {
            said.extend_from_slice(&piece);
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let said = ended.await.expect("the stream on the other instance ends");
    assert!(said.contains("An administrator ended"), "{said}");
    assert!(here.next().await.unwrap().is_ok(), "the one here goes on");
    let one_left = eventually(Duration::from_secs(5), || async {
        streams(one, &admin).await.len() == 1 && streams(other, &admin).await.len() == 1
    });
    assert!(one_left.await);
    assert_eq!(one.audited("stream_cut").await, 1);
    assert_eq!(cut(id.to_owned()).await.status, 404);
    let posted: Vec<String> = two.redis.keys().await;
    let posted = posted.iter().find(|key| key.contains(":streams:")).unwrap();
    let told: Vec<Vec<u8>> = two.redis.command(&["HVALS", posted]).await;
    let told = String::from_utf8_lossy(&told.concat()).into_owned();
    assert!(!told.contains("example") && !told.contains("SSOK_"), "{told}");
}

#[actix_web::test]
async fn without_redis_everything_goes_on_and_access_ends_a_little_later() {
    let mut two = Two::start(TestServerBuilder::new().unlimited()).await;
    let (admin, token) = (two.one.create_token(ADMIN).await, two.one.create_token(PERSON).await);
    let user = id_of(&two.one, &token).await;
    let key = two.one.create_key(PERSON).await;
    assert_eq!((status(&two.one, &key).await, status(&two.other, &key).await), (200, 200));

    two.redis.go();
    let fresh = two.one.create_key(PERSON).await;
    for app in [&two.one, &two.other] {
        assert_eq!((status(app, &key).await, status(app, &fresh).await), (200, 200));
        assert_eq!(app.get("/health/ready").send().await.status, 200);
        assert_eq!(streams(app, &admin).await, Vec::<Value>::new());
    }
    disable(&two.one, &admin, user, "disabled").await;
    refused_after(&two.other, &key, WITHOUT).await;

    two.redis.come_back().await;
    for app in [&two.one, &two.other] {
        let well = eventually(Duration::from_secs(15), || async {
            let health = app.get("/health?check=cache").bearer(&admin).send().await.json();
            health["checks"]["cache"]["status"] == "ok"
        });
        assert!(well.await, "it heals without a restart");
    }
    disable(&two.one, &admin, user, "active").await;
    let back = eventually(WITHOUT, || async { status(&two.other, &key).await == 200 });
    assert!(back.await);
}

#[actix_web::test]
async fn a_redis_that_is_flushed_poisoned_or_asleep_lets_in_whom_the_database_does() {
    let two = Two::start(TestServerBuilder::new().unlimited()).await;
    let (one, other) = (&two.one, &two.other);
    let (key, revoked) = (one.create_key(PERSON).await, one.create_key(PERSON).await);
    assert_eq!((status(one, &key).await, status(one, &revoked).await), (200, 200));
    let _flushed: String = two.redis.command(&["FLUSHALL"]).await;
    assert_eq!((status(other, &key).await, status(other, &revoked).await), (200, 200));

    // What was genuine for the one key, brought back after it was revoked, also in place of another.
    let kept = two.redis.keys().await;
    let identities: Vec<_> = kept.into_iter().filter(|key| key.contains(":identity:")).collect();
    assert_eq!(identities.len(), 2);
    let mut values = Vec::new();
    for name in &identities {
        let value: Vec<u8> = two.redis.command(&["GET", name]).await;
        values.push(value);
    }
    assert!(one.command(&["key", "revoke", "2"]).status.success());
    for app in [one, other] {
        app.shared().actors.auth.address().send(Revalidate).await.unwrap().unwrap();
    }
    for (name, value) in
        identities.iter().zip(values.iter().rev()).chain(identities.iter().zip(&values))
    {
        two.redis.write(name, value).await;
        for app in [one, other] {
            assert_eq!((status(app, &key).await, status(app, &revoked).await), (200, 401));
        }
    }

    two.redis.fall_asleep();
    let began = Instant::now();
    let (fresh, token) = (one.create_key(PERSON).await, one.create_token(PERSON).await);
    for app in [one, other] {
        assert_eq!((status(app, &fresh).await, status(app, &token).await), (200, 200));
        assert_eq!((status(app, &key).await, status(app, &revoked).await), (200, 401));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    two.redis.wake_up();
}
