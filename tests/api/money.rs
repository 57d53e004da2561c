//! Money from end to end. Calls of every scenario go through the real proxy, their rows are spread over a month and
//! recorded once more, and each cost and each sum that the service answers is compared with `tests/money/oracle.py`,
//! which works all of them out by itself.

mod calls;
mod case;
mod month;

use serde_json::{Value, json};

use crate::helpers::{ADMIN, TestServer, TestServerBuilder, on_both_databases};
use calls::Spoken;
use case::{Case, Depth};
use month::Month;

on_both_databases!(every_call_costs_what_an_independent_computation_says, backend => {
    let mut app = calls::service(backend).start().await;
    let people = people(&app).await;
    let prices = Prices::set(&app, &people).await;
    let spoken = calls::make(&mut app, &people).await;

    let today = Case::of(&app, &people, &prices, Depth::Whole).await.with(&app, &spoken);
    let found = today.work_out().await;

    found.assert_agrees("the calls of today");
    assert!(found.calls > 4 * 700 && found.metered > 600 && found.priced > 4 * 350, "{found:?}");
    assert!(found.answers > 80 && found.groups > 1500, "{found:?}");
    today.assert_has_every_ending();
    println!("today: {found:?}");
    let rows = today.rows();
    drop(app);

    let app = month::service(backend).start().await;
    let people = self::people(&app).await;
    let mut prices = Prices::set(&app, &people).await;
    let mut month = Month::new(rows, &people);
    let first = month.first_part();
    month.replay(&app, first).await;
    let found = month.case(&app, &people, &prices, Depth::Some).await.work_out().await;
    found.assert_agrees("before anything is built");
    println!("first part: {found:?}");

    job(&app, &["summaries"]);
    prices.end(&app, &people).await;
    let late = month.late_part();
    month.replay(&app, late).await;
    let whole = month.case(&app, &people, &prices, Depth::Whole).await;
    let found = whole.work_out().await;
    found.assert_agrees("the whole month, with what came late");
    assert!(found.calls > 4 * 2200 && found.groups > 18_000 && found.answers > 80, "{found:?}");
    println!("whole month: {found:?}");

    let again = job(&app, &["summaries", "--days-back", "45"]);
    assert_eq!(again.matches("0 corrected, 0 removed").count(), 3, "{again}");

    prices.correct(&app, &people).await;
    job(&app, &["reprice", "--from", "2020-01-01", "--yes"]);
    let found = month.case(&app, &people, &prices, Depth::Some).await.work_out().await;
    found.assert_agrees("after a price was corrected");
    println!("repriced: {found:?}");

    job(&app, &["cleanup"]);
    let later = month.part_after_cleanup();
    month.replay(&app, later).await;
    job(&app, &["summaries"]);
    let found = month.kept(&app, &people, &prices).await.work_out().await;
    found.assert_agrees("what is kept after a clean-up");
    assert!(found.groups > 2000, "{found:?}");
    println!("kept: {found:?}");
});

#[actix_web::test]
async fn an_answer_that_is_wrong_is_found() {
    let app = calls::service(crate::helpers::Backend::Sqlite).start().await;
    let people = people(&app).await;
    let prices = Prices::set(&app, &people).await;
    calls::make_some(&app, &people).await;
    let sound = Case::of(&app, &people, &prices, Depth::Whole).await;
    sound.work_out().await.assert_agrees("before it is tampered with");
    type Tamper = fn(&mut Case);
    let ways: [(&str, Tamper); 8] = [
        ("cost", |case| case.first_record()["cost_usd"] = json!("0.000000001")),
        ("cost", |case| case.first_record()["cost_usd"] = Value::Null),
        ("price", |case| case.first_record()["price_id"] = json!(1)),
        ("number of calls", |case| drop(case.records.as_mut().unwrap().pop())),
        ("total_cost_usd", |case| case.first_group()["total_cost_usd"] = json!("0.000000000")),
        ("unpriced_requests", |case| case.first_group()["unpriced_requests"] = json!(7)),
        ("total_output_tokens", |case| case.first_group()["total_output_tokens"] = json!(3)),
        ("number of groups", |case| case.answers[0].drop_one()),
    ];
    for (what, tamper) in ways {
        let mut case = sound.clone();
        tamper(&mut case);

        let found = case.work_out().await;

        assert!(
            found.found > 0 && found.named.iter().any(|name| name.contains(what)),
            "{what}: {found:?}"
        );
    }
}

/// Somebody who calls.
pub struct Person {
    pub id: i64,
    pub token: String,
    /// Ids and texts.
    pub keys: Vec<(i64, String)>,
}

/// An admin without a key, and three people with some; the same ones in every service.
async fn people(app: &TestServer) -> Vec<Person> {
    let mut people = Vec::new();
    for (email, keys) in
        [(ADMIN, 0), ("ada@example.com", 2), ("bob@example.com", 3), ("cyd@example.com", 1)]
    {
        let token = app.create_token(email).await;
        let mut texts = Vec::new();
        for _ in 0..keys {
            texts.push(app.create_key(email).await);
        }
        let me = app.get("/auth/me").bearer(&token).send().await.json();
        let listed = app.get("/api/keys").bearer(&token).send().await.json();
        let mut ids: Vec<i64> = listed["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["id"].as_i64().unwrap())
            .collect();
        ids.sort_unstable();
        assert_eq!(ids.len(), texts.len());
        people.push(Person {
            id: me["id"].as_i64().unwrap(),
            token,
            keys: ids.into_iter().zip(texts).collect(),
        });
    }
    people
}

/// Runs a job of the real binary; answers what it said.
fn job(app: &TestServer, arguments: &[&str]) -> String {
    let output = app.command(&[&["job"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// What was changed in the price ledger, in order, and which rows it has since.
#[derive(Clone)]
pub struct Prices {
    changes: Vec<Value>,
    /// Region, model and start, by id.
    ids: serde_json::Map<String, Value>,
}

impl Prices {
    /// Prices that change in the middle of the month, in one region, for one ARN, and halves of a nano-dollar.
    async fn set(app: &TestServer, people: &[Person]) -> Self {
        let mut prices = Self { changes: Vec::new(), ids: serde_json::Map::new() };
        let [first, middle, late] = month::price_changes().map(month::shown);
        let next_year = month::shown(month::today() + chrono::TimeDelta::days(365));
        let file = format!(
            "region,model_id,input_per_1k,output_per_1k,cache_write_per_1k,cache_read_per_1k,\
             cache_write_1h_per_1k,input_long_per_1k,output_long_per_1k,valid_from\n\
             *,us.{OPUS},0.006,0.03,0.0075,0.0006,0.012,,,{first}\n\
             *,us.{OPUS},0.0048,0.024,,0.00048,0.0096,,,{middle}\n\
             *,us.{OPUS},9,9,9,9,9,,,{next_year}\n\
             eu-west-1,eu.{SONNET_4},0.0031,0.0157,0.0038,0.00031,0.0063,0.0067,0.0233,{first}\n\
             us-east-1,{UNPRICED},0.00015,0.0006,,,,,,{middle}\n\
             *,{OPAQUE},0.002,0.01,0.0025,0.0002,,,,{late}\n\
             us-east-1,meta.llama3-3-70b-instruct-v1:0,0.00061,0.00083,,,,,,2020-01-01\n"
        );
        let reply = app
            .post("/api/admin/costs")
            .bearer(&people[0].token)
            .header("content-type", "text/csv")
            .body(file.clone())
            .send()
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        prices.changes.push(json!({"kind": "import", "csv": file}));
        let micros = format!("{}678Z", middle.trim_end_matches('Z'));
        for (region, model, body) in [
            // Halves of a nano-dollar: an odd number of tokens is rounded up.
            (
                "us-east-1",
                MISTRAL,
                json!({"input": "0.0000005", "output": 0.0000015, "valid_from": first}),
            ),
            // Of two from the same time the second counts.
            ("us-east-1", TITAN, json!({"input": "0.5", "output": "0.5", "valid_from": middle})),
            (
                "us-east-1",
                TITAN,
                json!({"input": "0.00019", "output": "0.00061", "valid_from": middle}),
            ),
            // A time is one to the millisecond, wherever it is given.
            (
                "*",
                SONNET_TOKYO,
                json!({"input": "0.0034", "output": "0.017", "cache_write": "0.0042",
                "cache_write_1h": "0.0067", "cache_read": "0.00033", "valid_from": micros}),
            ),
            // The price of long prompts ends with its row.
            (
                "us-east-1",
                crate::helpers::MODEL,
                json!({"input": "0.0029", "output": "0.0145", "cache_write": "0.0037",
                "cache_write_1h": "0.0058", "cache_read": "0.00029", "valid_from": late}),
            ),
            // What nobody pays: a cost beyond eight bytes of nano-dollars is not known.
            ("*", DEAR, json!({"input": 1000, "output": "1e3", "valid_from": "2020-01-01"})),
            // An ARN of its own comes before the profile in it.
            (
                "eu-west-1",
                ARN_DUBLIN,
                json!({"input": "0.001", "output": "0.002", "input_long": "0.0017",
                "output_long": "0.0031", "cache_write": "0.00125", "cache_read": "0.0001", "valid_from": middle}),
            ),
        ] {
            prices.put(app, people, region, model, body).await;
        }
        prices.learn(app, people).await;
        prices
    }

    async fn put(
        &mut self,
        app: &TestServer,
        people: &[Person],
        region: &str,
        model: &str,
        short: Value,
    ) {
        let spelt = |name: &String| match name.as_str() {
            "valid_from" => name.clone(),
            _ => format!("{name}_cost_per_1k_tokens"),
        };
        let body: serde_json::Map<String, Value> = short
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (spelt(name), value.clone()))
            .collect();
        let body = Value::Object(body);
        let reply = app
            .get(&format!("/api/admin/costs/{region}/{model}"))
            .method("PUT")
            .bearer(&people[0].token)
            .header("content-type", "application/json")
            .json(&body)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{model}: {reply:?}");
        self.changes
            .push(json!({"kind": "set", "region": region, "model_id": model, "body": body}));
    }

    /// Ends two prices; one leaves another for its model, one none.
    async fn end(&mut self, app: &TestServer, people: &[Person]) {
        for model in [NOVA, COHERE] {
            let path = format!("/api/admin/costs/us-east-1/{model}");
            let reply = app.get(&path).method("DELETE").bearer(&people[0].token).send().await;
            assert_eq!(reply.status, 204, "{reply:?}");
            let at = month::shown(bedrock_sso_proxy::db::now());
            self.changes
                .push(json!({"kind": "end", "region": "us-east-1", "model_id": model, "at": at}));
        }
    }

    /// A price that was wrong all the time.
    async fn correct(&mut self, app: &TestServer, people: &[Person]) {
        let body = json!({"input": "0.00021", "output": "0.00063", "valid_from": "2020-01-01"});
        self.put(app, people, "us-east-1", TITAN, body).await;
        self.learn(app, people).await;
    }

    /// Reads the ids of all rows that there are, as far as they can be read.
    async fn learn(&mut self, app: &TestServer, people: &[Person]) {
        let (mut rows, _) =
            case::pages(app, &people[0].token, "/api/admin/costs?limit=500", "costs").await;
        for (region, model) in [
            ("*", format!("us.{OPUS}").as_str()),
            ("eu-west-1", format!("eu.{SONNET_4}").as_str()),
            ("us-east-1", "meta.llama3-3-70b-instruct-v1:0"),
            ("us-east-1", MISTRAL),
            ("us-east-1", TITAN),
            ("*", SONNET_TOKYO),
        ] {
            let path = format!("/api/admin/costs/{region}/{model}");
            let reply = app.get(&path).bearer(&people[0].token).send().await;
            assert_eq!(reply.status, 200, "{model}: {reply:?}");
            rows.extend(reply.json()["history"].as_array().unwrap().clone());
        }
        for row in rows {
            let named = json!([row["region"], row["model_id"], row["valid_from"]]);
            self.ids.insert(row["id"].to_string(), named);
        }
    }
}

const SONNET_4: &str = "anthropic.claude-sonnet-4-20250514-v1:0";
const SONNET_TOKYO: &str = "jp.anthropic.claude-sonnet-4-5-20250929-v1:0";
const OPUS: &str = "anthropic.claude-opus-4-8";
const HAIKU: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const NOVA: &str = "amazon.nova-lite-v1:0";
const MISTRAL: &str = "mistral.mistral-7b-instruct-v0:2";
const TITAN: &str = "amazon.titan-text-express-v1";
const COHERE: &str = "cohere.command-r-v1:0";
/// Nobody ships a price of it.
const UNPRICED: &str = "qwen.qwen3-32b-v1:0";
const ARN_DUBLIN: &str = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-20250514-v1:0";
const ARN_TOKYO: &str =
    "arn:aws:bedrock:ap-northeast-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0";
/// These do not say what they run; the last is known as an Opus.
const OPAQUE: &str = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/efgh";
const DEAR: &str = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/dear";
const HOUSE: &str = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abcd";

/// The service behind which one simulator answers for three regions.
fn service(backend: crate::helpers::Backend) -> TestServerBuilder {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let further = ["eu-west-1", "ap-northeast-1"];
    let regions = further.map(|name| format!("{{name: {name}, endpoint_url: 'http://{listen}'}}"));
    let aliases = format!(
        "{{tokyo: {{model: {SONNET_TOKYO}, region: ap-northeast-1}}, dublin: {{model: eu.anthropic.claude-sonnet-4-6, \
         region: eu-west-1}}, house: {{model: '{HOUSE}', base_model: {OPUS}}}}}"
    );
    TestServerBuilder::new()
        .backend(backend)
        .unlimited()
        .simulator(|simulator| {
            simulator.listen = listen;
            simulator.regions.extend(further.map(str::to_owned));
        })
        .set("AWS__REGIONS", format!("[{}]", regions.join(", ")))
        .set("MODELS__ALIASES", aliases)
        .set("JOBS__ENABLED", false)
}
