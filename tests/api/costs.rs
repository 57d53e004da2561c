//! Prices: listed, set, ended and imported by admins; and what calls cost by them.

mod calls;
mod imports;
mod pages;
mod seeding;

use bedrock_sso_proxy::db::{Conn, prices::ModelCost};
use serde_json::{Value, json};

use crate::helpers::{
    ADMIN, ARN, Backend, MODEL, PERSON, Reply, TestServer, TestServerBuilder, message,
    on_both_databases,
};

/// A Claude that the simulator answers for, and that has no price.
const NEW: &str = "us.anthropic.claude-of-tomorrow-9";
/// An ARN that does not say what it runs.
const OPAQUE: &str = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/team-a";
/// When a first price begins.
const ALWAYS: &str = "2000-01-01T00:00:00.000Z";

/// The five prices, and the five for long prompts, as they are told.
const PRICES: [&str; 10] = [
    "input_cost_per_1k_tokens",
    "output_cost_per_1k_tokens",
    "cache_write_cost_per_1k_tokens",
    "cache_write_1h_cost_per_1k_tokens",
    "cache_read_cost_per_1k_tokens",
    "input_long_cost_per_1k_tokens",
    "output_long_cost_per_1k_tokens",
    "cache_write_long_cost_per_1k_tokens",
    "cache_write_1h_long_cost_per_1k_tokens",
    "cache_read_long_cost_per_1k_tokens",
];

/// The application, and an admin who looks after its prices.
struct Office {
    app: TestServer,
    token: String,
}

impl Office {
    async fn on(backend: Backend) -> Self {
        let app = TestServerBuilder::new().backend(backend).unlimited().start().await;
        let token = app.create_token(ADMIN).await;
        Self { app, token }
    }

    async fn ask(&self, method: &'static str, path: &str, body: Option<&Value>) -> Reply {
        let request = self.app.get(path).method(method).bearer(&self.token);
        match body {
            Some(body) => request.header("content-type", "application/json").json(body),
            None => request,
        }
        .send()
        .await
    }

    async fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, None).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.json()
    }

    async fn show(&self, region: &str, model: &str) -> Reply {
        self.ask("GET", &path(region, model), None).await
    }

    async fn set(&self, region: &str, model: &str, body: &Value) -> Value {
        let reply = self.ask("PUT", &path(region, model), Some(body)).await;
        assert_eq!(reply.status, 200, "{region} {model} {body}: {reply:?}");
        reply.json()
    }

    async fn end(&self, region: &str, model: &str) {
        let reply = self.ask("DELETE", &path(region, model), None).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0), "{region} {model}");
    }

    async fn list(&self, query: &str) -> Value {
        self.get(&format!("/api/admin/costs{query}")).await
    }

    async fn import(&self, query: &str, file: impl Into<Vec<u8>>) -> Reply {
        let request = self.app.post(&format!("/api/admin/costs{query}")).bearer(&self.token);
        request.header("content-type", "text/csv").body(file.into()).send().await
    }

    async fn imported(&self, query: &str, file: impl Into<Vec<u8>>) -> Value {
        let reply = self.import(query, file).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// The whole ledger, the oldest row first.
    async fn ledger(&self) -> Vec<ModelCost> {
        ModelCost::all(&mut self.app.pool().await.reader().await.unwrap()).await.unwrap()
    }

    /// A call whose answer says that it used this; answers its row.
    async fn used(&self, key: &str, model: &str, usage: &Value) -> Value {
        let answer = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
            "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
            "stop_sequence": null, "usage": usage,
        });
        let text = format!("@sim:echo hex={}", hex::encode(answer.to_string()));
        let reply = self.app.call(model, "invoke", &message(&text)).bearer(key).send().await;
        assert_eq!(reply.status, 200, "{model}: {reply:?}");
        self.app.row(key).await
    }

    async fn metrics(&self) -> String {
        let request = awc::Client::default().get(self.app.metrics_url());
        let body = request.send().await.unwrap().body().await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

/// The path of a price, as a careful client writes it.
fn path(region: &str, model: &str) -> String {
    let encoded = |text: &str| text.replace('/', "%2F").replace(':', "%3A").replace('*', "%2A");
    format!("/api/admin/costs/{}/{}", encoded(region), encoded(model))
}

/// What Claude says that it used: all cache writes, and the part of them that is kept for an hour.
fn usage(input: i64, output: i64, write: i64, of_an_hour: i64, read: i64) -> Value {
    json!({
        "input_tokens": input, "output_tokens": output,
        "cache_creation_input_tokens": write, "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": write - of_an_hour, "ephemeral_1h_input_tokens": of_an_hour,
        },
    })
}

/// A price for input, and nothing for output.
fn input_at(price: &str) -> Value {
    json!({"input_cost_per_1k_tokens": price, "output_cost_per_1k_tokens": 0})
}

/// The prices of a row, as far as it has any.
fn prices(row: &Value) -> Vec<Option<&str>> {
    PRICES.iter().map(|name| row[*name].as_str()).collect()
}

fn list_of(page: &Value) -> Vec<Value> {
    page["costs"].as_array().unwrap().clone()
}

fn shipped_rows() -> usize {
    include_str!("../../settings/pricing.csv").lines().count() - 1
}

fn error_of(reply: &Reply) -> (u16, Value, Value) {
    let error = &reply.json()["error"];
    (reply.status.as_u16(), error["code"].clone(), error["field"].clone())
}

on_both_databases!(shipped_prices_are_there_at_the_first_start, backend => {
    let office = Office::on(backend).await;

    let all = office.list("").await;
    let one = office.list(&format!("?region=*&model_id={MODEL}")).await;

    assert_eq!((&all["total"], &all["limit"], &all["offset"]), (&json!(shipped_rows()), &json!(500), &json!(0)));
    assert_eq!((&all["total_is_capped"], &all["next_cursor"]), (&json!(false), &Value::Null));
    assert_eq!(list_of(&all).len(), shipped_rows());
    assert!(list_of(&all).iter().all(|row| row["source"] == "shipped" && row["valid_from"] == ALWAYS));
    let mut row = list_of(&one)[0].clone();
    let members = row.as_object_mut().unwrap();
    let (id, updated) = (members.remove("id").unwrap(), members.remove("updated_at").unwrap());
    assert!(id.as_i64().unwrap() > 0);
    let updated = chrono::DateTime::parse_from_rfc3339(updated.as_str().unwrap()).unwrap();
    assert!((chrono::Utc::now() - updated.to_utc()).num_minutes() < 5, "{updated}");
    assert_eq!(row, json!({
        "region": "*", "model_id": MODEL,
        "input_cost_per_1k_tokens": "0.003", "output_cost_per_1k_tokens": "0.015",
        "cache_write_cost_per_1k_tokens": "0.00375", "cache_write_1h_cost_per_1k_tokens": "0.006",
        "cache_read_cost_per_1k_tokens": "0.0003",
        "input_long_cost_per_1k_tokens": "0.006", "output_long_cost_per_1k_tokens": "0.0225",
        "cache_write_long_cost_per_1k_tokens": "0.0075", "cache_write_1h_long_cost_per_1k_tokens": "0.012",
        "cache_read_long_cost_per_1k_tokens": "0.0006",
        "valid_from": ALWAYS, "source": "shipped",
    }));
});

on_both_databases!(a_list_is_filtered_and_paged_without_gap_or_repetition, backend => {
    let office = Office::on(backend).await;
    let id = |row: &Value| row["id"].as_i64().unwrap();
    let whole: Vec<i64> = list_of(&office.list("").await).iter().map(id).collect();
    assert!(whole.is_sorted_by(|newer, older| newer > older), "{whole:?}");

    let mut by_cursor = Vec::new();
    let mut query = "?limit=100".to_owned();
    loop {
        let page = office.list(&query).await;
        assert_eq!((&page["total"], &page["limit"]), (&json!(shipped_rows()), &json!(100)));
        by_cursor.extend(list_of(&page).iter().map(id));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=100&cursor={cursor}");
    }
    let mut by_offset = Vec::new();
    for offset in (0..=500).step_by(100) {
        let page = office.list(&format!("?limit=100&offset={offset}")).await;
        by_offset.extend(list_of(&page).iter().map(id));
    }
    let of_region = office.list("?region=us-east-1").await;
    let of_any = office.list("?region=%2A&limit=1").await;
    let of_model = office.list("?model_id=amazon.nova-lite-v1:0").await;

    assert_eq!(by_cursor, whole);
    assert_eq!(by_offset, whole);
    let file = include_str!("../../settings/pricing.csv");
    let rows = |wanted: &dyn Fn(&str) -> bool| json!(file.lines().filter(|line| wanted(line)).count());
    assert_eq!(of_region["total"], rows(&|line| line.starts_with("us-east-1,")));
    assert!(list_of(&of_region).iter().all(|row| row["region"] == "us-east-1"));
    assert_eq!(of_any["total"], rows(&|line| line.starts_with("*,")));
    assert_eq!(of_model["total"], rows(&|line| line.contains(",amazon.nova-lite-v1:0,")));
    assert_eq!(office.list("?region=mars-north-1").await["total"], 0);
    assert_eq!(office.list("?model_id=amazon.nova-lite").await["total"], 0, "exactly");
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("offset=10001", "offset"),
        ("offset=-1", "offset"),
        ("cursor=junk", "cursor"),
        ("cursor=LTE", "cursor"), // -1
        ("cursor=MQ&offset=1", "cursor"),
        ("region=%00", "region"),
        ("model_id=a%00", "model_id"),
    ] {
        let reply = office.ask("GET", &format!("/api/admin/costs?{query}"), None).await;
        assert_eq!(error_of(&reply), (400, json!("invalid_parameter"), json!(field)), "{query}");
    }
    let unknown = office.ask("GET", "/api/admin/costs?model=x", None).await;
    assert_eq!(unknown.status, 400, "{unknown:?}");
});

on_both_databases!(a_price_is_reached_however_its_path_is_written, backend => {
    let office = Office::on(backend).await;
    let forms = |model: &str| {
        let encoded = |text: &str| text.replace('/', "%2F").replace(':', "%3A");
        [
            model.to_owned(),
            encoded(model),
            encoded(model).to_lowercase().replace("%3a", ":"),
            model.replace(':', "%3A"),
        ]
    };
    for model in ["acme.large-v1:0", OPAQUE, ARN, "acme/odd:name/x-v1:0"] {
        for region in ["us-east-1", "*"] {
            let made = office.set(region, model, &input_at("0.001")).await;
            assert_eq!((&made["region"], &made["model_id"], &made["source"]), (&json!(region), &json!(model), &json!("manual")));
            let regions = if region == "*" { vec!["*", "%2A", "%2a"] } else { vec!["us-east-1", "us%2Deast-1"] };
            for (number, form) in forms(model).iter().enumerate() {
                for region in &regions {
                    let path = format!("/api/admin/costs/{region}/{form}");
                    let shown = office.get(&path).await;
                    assert_eq!(shown["id"], made["id"], "{path}");
                    let again = office.ask("PUT", &path, Some(&input_at("0.001"))).await;
                    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &made["id"]), "{path}");
                }
                // Each form ends it once; then it is made again.
                let path = format!("/api/admin/costs/{}/{form}", regions[number % regions.len()]);
                assert_eq!(office.ask("DELETE", &path, None).await.status, 204, "{path}");
                assert_eq!(office.ask("DELETE", &path, None).await.status, 204, "{path}, again");
                let gone = office.ask("GET", &path, None).await;
                assert_eq!(error_of(&gone), (404, json!("not_found"), Value::Null), "{path}");
                let made_again = office.set(region, model, &input_at("0.001")).await;
                assert!(made_again["id"].as_i64() > made["id"].as_i64());
                office.app.sql(&format!("DELETE FROM model_costs WHERE id > {}", made["id"])).await;
            }
        }
    }
    assert_eq!(office.show("us-east-1", "acme.unknown").await.status, 404);
    assert_eq!(office.show("us-east-1", MODEL).await.status, 404, "exactly this region's");
});

#[actix_web::test]
async fn a_path_that_names_no_region_or_model_is_refused_by_part() {
    let office = Office::on(Backend::Sqlite).await;
    let before = office.ledger().await;
    for (path, field) in [
        ("US-EAST-1/acme.a", "region"),
        ("useast/acme.a", "region"),
        ("**/acme.a", "region"),
        ("us-east-1%00/acme.a", "region"),
        ("%FF/acme.a", "region"),
        ("us-east-1/", "model_id"),
        ("us-east-1/acme%20a", "model_id"),
        ("us-east-1/acme%00a", "model_id"),
        ("us-east-1/%FF", "model_id"),
        ("us-east-1/caf%C3%A9", "model_id"),
        ("us-east-1/a'%3B--", "model_id"),
        // Decoded once, as everywhere.
        ("us-east-1/acme%252Fa", "model_id"),
        ("%252A/acme.a", "region"),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let body = (method == "PUT").then(|| input_at("1"));
            let reply =
                office.ask(method, &format!("/api/admin/costs/{path}"), body.as_ref()).await;

            let wanted = (400, json!("invalid_parameter"), json!(field));
            assert_eq!(error_of(&reply), wanted, "{method} {path}");
        }
    }
    let long = format!("/api/admin/costs/us-east-1/{}", "a".repeat(2049));
    assert_eq!(error_of(&office.ask("GET", &long, None).await).2, "model_id");
    assert_eq!(office.ask("GET", "/api/admin/costs/us-east-1", None).await.status, 404);
    assert_eq!(office.ledger().await, before);
}

on_both_databases!(a_price_is_taken_as_text_or_number_and_told_exactly, backend => {
    let office = Office::on(backend).await;
    for (given, told) in [
        (json!(0.003), "0.003"),
        (json!("0.003"), "0.003"),
        (json!("0.0030000000000"), "0.003"),
        (json!(1e-7), "0.0000001"),
        (json!("1e-7"), "0.0000001"),
        (json!(0.000000001), "0.000000001"),
        (json!(0.0000875), "0.0000875"),
        (json!(" 0.015 "), "0.015"),
        (json!(0), "0"),
        (json!("0.0"), "0"),
        (json!(3), "3"),
        (json!(1000), "1000"),
        (json!(999.999999999), "999.999999999"),
    ] {
        let body = json!({"output_cost_per_1k_tokens": given, "input_cost_per_1k_tokens": null});

        let made = office.set("eu-west-1", "acme.exact", &body).await;
        let shown = office.show("eu-west-1", "acme.exact").await.json();

        let mut wanted = vec![None; 10];
        wanted[1] = Some(told);
        assert_eq!((prices(&made), prices(&shown)), (wanted.clone(), wanted), "{given}");
        assert_eq!(made["id"], shown["id"]);
    }

    let body = json!({
        "input_cost_per_1k_tokens": "0.001", "output_cost_per_1k_tokens": 0.002,
        "cache_write_cost_per_1k_tokens": "0.003", "cache_write_1h_cost_per_1k_tokens": "0.004",
        "cache_read_cost_per_1k_tokens": "0.000000001",
        "input_long_cost_per_1k_tokens": "0.0015", "output_long_cost_per_1k_tokens": 0.005,
    });
    let made = office.set("eu-west-1", "acme.exact", &body).await;
    let all = ["0.001", "0.002", "0.003", "0.004", "0.000000001", "0.0015", "0.005", "0.0045", "0.006", "0.000000002"];
    assert_eq!(prices(&made), all.map(Some), "the cache in proportion, half up");
});

on_both_databases!(what_is_no_price_is_refused_and_changes_nothing, backend => {
    let office = Office::on(backend).await;
    let before = office.ledger().await;
    let (input, output) = ("input_cost_per_1k_tokens", "output_cost_per_1k_tokens");
    let (long_input, long_output) = ("input_long_cost_per_1k_tokens", "output_long_cost_per_1k_tokens");
    let wrong = [
        json!(-1), json!(-0.001), json!("-0.003"), json!("NaN"), json!("nan"), json!("inf"), json!("Infinity"),
        json!(""), json!("0,003"), json!("$1"), json!("0x1"), json!("1 000"), json!(true), json!([]), json!({}),
        json!(1001), json!(1e300), json!("1e300"), json!(u64::MAX), json!("1000.000000001"),
        json!("9".repeat(5000)), json!(1e-10), json!("0.0000000001"), json!(0.1234567891),
    ];
    for value in wrong {
        for field in [input, "cache_write_1h_cost_per_1k_tokens", long_output] {
            let body = json!({output: 1, field: value});
            let reply = office.ask("PUT", &path("*", "acme.bad"), Some(&body)).await;
            assert_eq!(error_of(&reply), (400, json!("invalid_parameter"), json!(field)), "{value}");
            assert!(reply.body.len() < 1000, "{value}");
        }
    }
    for (body, code, field) in [
        (json!({}), "invalid_parameter", input),
        (json!({input: null, output: null}), "invalid_parameter", input),
        (json!({"valid_from": "2026-01-01"}), "invalid_parameter", input),
        (json!({input: 1, "price": 2}), "unknown_field", "price"),
        (json!({input: 1, "region": "*"}), "unknown_field", "region"),
        (json!({input: 1, "cache_read_long_cost_per_1k_tokens": "1"}), "unknown_field", "cache_read_long_cost_per_1k_tokens"),
        (json!({input: 1, long_input: 2}), "invalid_parameter", long_input),
        (json!({input: 1, long_output: 2}), "invalid_parameter", long_input),
        (json!({output: 1, long_input: 2, long_output: 2}), "invalid_parameter", long_input),
        (json!({input: 0, long_input: 2, long_output: 2}), "invalid_parameter", long_input),
        (json!({input: 0.001, "cache_read_cost_per_1k_tokens": 1000, long_input: 0.002, long_output: 1}), "invalid_parameter", long_input),
        (json!({input: 1, "valid_from": "yesterday"}), "invalid_parameter", "valid_from"),
        (json!({input: 1, "valid_from": "2026-02-30"}), "invalid_parameter", "valid_from"),
        (json!({input: 1, "valid_from": "1999-12-31T23:59:59Z"}), "invalid_parameter", "valid_from"),
        (json!({input: 1, "valid_from": "2200-01-01"}), "invalid_parameter", "valid_from"),
        (json!({input: 1, "valid_from": 20260101}), "invalid_parameter", "valid_from"),
    ] {
        let reply = office.ask("PUT", &path("*", "acme.bad"), Some(&body)).await;
        assert_eq!(error_of(&reply), (400, json!(code), json!(field)), "{body}");
    }
    for (body, kind, status) in [
        (r#"{"input_cost_per_1k_tokens": NaN}"#, "application/json", 400),
        (r#"{"input_cost_per_1k_tokens": 1e999}"#, "application/json", 400),
        (r#"{"input_cost_per_1k_tokens": 1, "input_cost_per_1k_tokens": 2}"#, "application/json", 400),
        ("[1]", "application/json", 400),
        ("1", "application/json", 400),
        (r#"{"input_cost_per_1k_tokens": 1}"#, "text/csv", 415),
    ] {
        let request = office.app.get(&path("*", "acme.bad")).method("PUT").bearer(&office.token);
        let reply = request.header("content-type", kind).body(body).send().await;
        assert_eq!(reply.status, status, "{body}: {reply:?}");
    }

    assert_eq!(office.ledger().await, before);
    assert_eq!(office.app.audited("price_set").await, 0);
});

on_both_databases!(setting_a_price_to_what_it_is_changes_nothing, backend => {
    let office = Office::on(backend).await;
    let first = office.set("us-east-1", NEW, &input_at("0.001")).await;
    assert_eq!(first["valid_from"], ALWAYS, "calls to it had no price so far");

    let again = office.set("us-east-1", NEW, &json!({"input_cost_per_1k_tokens": 0.001, "output_cost_per_1k_tokens": "0.0"})).await;
    let shipped = office.set("*", "amazon.nova-lite-v1:0", &json!({
        "input_cost_per_1k_tokens": "0.00006", "output_cost_per_1k_tokens": "0.00024",
        "cache_write_cost_per_1k_tokens": 0, "cache_read_cost_per_1k_tokens": 0.000015,
    })).await;

    assert_eq!(again, first);
    assert_eq!(shipped["source"], "shipped");
    assert_eq!(office.ledger().await.len(), shipped_rows() + 1);
    let second = office.set("us-east-1", NEW, &input_at("0.002")).await;
    assert!(second["valid_from"].as_str() > Some("2026"), "{second}: from now on");
    // A time is kept to the millisecond, whatever was given.
    let dated = json!({"input_cost_per_1k_tokens": 3, "valid_from": "2199-01-01T00:00:00.123456789Z"});
    let third = office.set("us-east-1", NEW, &dated).await;
    let third_again = office.set("us-east-1", NEW, &dated).await;
    assert_eq!((&third["valid_from"], &third_again), (&json!("2199-01-01T00:00:00.123Z"), &third));

    let shown = office.show("us-east-1", NEW).await.json();
    assert_eq!(shown["id"], second["id"], "what counts now");
    let history: Vec<&Value> = shown["history"].as_array().unwrap().iter().collect();
    assert_eq!(history, [&third, &second, &first], "what is valid latest first");
    assert_eq!(office.app.audited("price_set").await, 3);
});

on_both_databases!(an_ended_price_stays_in_the_history, backend => {
    let office = Office::on(backend).await;
    let first = office.set("*", NEW, &input_at("0.001")).await;
    office.end("*", NEW).await;
    office.end("*", NEW).await;
    assert_eq!(office.show("*", NEW).await.status, 404);
    assert_eq!(office.list(&format!("?model_id={NEW}")).await["total"], 0);
    let all = office.list(&format!("?model_id={NEW}&history=true")).await;
    assert_eq!((&all["total"], &all["costs"][0]["ended"], &all["costs"][1]), (&json!(2), &json!(true), &first));
    assert_eq!(office.list("").await["total"], shipped_rows());

    let second = office.set("*", NEW, &input_at("0.001")).await;

    let shown = office.show("*", NEW).await.json();
    let history = shown["history"].as_array().unwrap();
    assert_eq!((history.len(), &history[0], &history[2]), (3, &second, &first));
    assert_eq!((&history[1]["ended"], prices(&history[1])), (&json!(true), vec![None; 10]));
    assert_eq!(second["ended"], Value::Null, "only where it is true");
    assert!(second["valid_from"].as_str() >= history[1]["valid_from"].as_str());
    assert_eq!(office.list(&format!("?model_id={NEW}")).await["costs"], json!([second]));
    assert_eq!(office.app.audited("price_ended").await, 1, "the second time nothing happened");
    // One that is shipped, too.
    office.end("*", MODEL).await;
    assert_eq!(office.show("*", MODEL).await.status, 404);
    assert_eq!(office.list("").await["total"], shipped_rows());
});

on_both_databases!(prices_are_for_admins_in_person, backend => {
    let office = Office::on(backend).await;
    let app = &office.app;
    let before = office.ledger().await;
    let (token, key) = (app.create_token(PERSON).await, app.create_key(ADMIN).await);
    let file = "region,model_id,input_per_1k,output_per_1k\n*,acme.a,1,1\n";
    for (method, path, kind, body) in [
        ("GET", "/api/admin/costs", "", ""),
        ("GET", "/api/admin/models/unpriced", "", ""),
        ("GET", "/api/admin/costs/us-east-1/amazon.nova-lite-v1:0", "", ""),
        ("PUT", "/api/admin/costs/*/acme.a", "application/json", r#"{"input_cost_per_1k_tokens": 1}"#),
        ("PUT", "/api/admin/costs/*/acme.a", "application/json", "nonsense"),
        ("DELETE", "/api/admin/costs/us-east-1/amazon.nova-lite-v1:0", "", ""),
        ("POST", "/api/admin/costs", "text/csv", file),
        ("POST", "/api/admin/costs?dry_run=true", "text/csv", file),
    ] {
        let ask = || app.get(path).method(method).header("content-type", kind).body(body);
        for (who, request, status) in [
            ("nobody", ask(), 401),
            ("a person", ask().bearer(&token), 403),
            ("an admin's key", ask().bearer(&key), 403),
        ] {
            let reply = request.send().await;
            assert_eq!(reply.status, status, "{who}: {method} {path}: {reply:?}");
        }
    }
    assert_eq!(office.ledger().await, before);
});

on_both_databases!(each_change_is_in_the_audit_log_with_what_was_before_and_after, backend => {
    let office = Office::on(backend).await;
    let me = office.get("/auth/me").await["id"].clone();
    office.set("us-east-1", OPAQUE, &input_at("0.001")).await;
    let long = json!({"input_cost_per_1k_tokens": 0.002, "output_cost_per_1k_tokens": "0.01",
        "input_long_cost_per_1k_tokens": 0.004, "output_long_cost_per_1k_tokens": 0.02});
    office.set("us-east-1", OPAQUE, &long).await;
    office.end("us-east-1", OPAQUE).await;
    office.imported("?dry_run=true", "region,model_id,input_per_1k,output_per_1k\n*,acme.a,1,1\n").await;
    office.imported("", "region,model_id,input_per_1k,output_per_1k\n*,acme.a,1,1\n*,amazon.nova-lite-v1:0,1,\n").await;

    let events: Vec<_> = office.app.audit().await.into_iter().filter(|event| event.event_type.starts_with("price")).collect();
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["prices_seeded", "price_set", "price_set", "price_ended", "prices_imported"]);
    let told: Vec<Value> = events.iter().map(|event| serde_json::from_str(&event.metadata).unwrap()).collect();
    let object = format!("price:us-east-1/{OPAQUE}");
    for event in &events[1..4] {
        assert_eq!((&event.object, event.success), (&object, true));
    }
    for event in &events[1..] {
        assert_eq!(event.actor, format!("user:{me}"));
        assert!(event.request_id.is_some() && event.ip_address.is_some());
    }
    let unit = "USD per 1,000 tokens";
    let cheap = json!({"unit": unit, "prices": {"input": "0.001", "output": "0", "cache_write": null, "cache_write_1h": null, "cache_read": null}, "long": null});
    let dear = json!({
        "unit": unit,
        "prices": {"input": "0.002", "output": "0.01", "cache_write": null, "cache_write_1h": null, "cache_read": null},
        "long": {"input": "0.004", "output": "0.02", "cache_write": null, "cache_write_1h": null, "cache_read": null},
    });
    assert_eq!((&told[1]["before"], &told[1]["after"]), (&Value::Null, &cheap));
    assert_eq!((&told[2]["before"], &told[2]["after"]), (&cheap, &dear));
    assert_eq!(told[3]["before"], dear);
    assert_eq!((&told[4]["added"], &told[4]["changed"], &told[4]["unchanged"]), (&json!(1), &json!(1), &json!(0)));
    let verdict = office.app.command(&["audit", "verify"]);
    assert!(verdict.status.success(), "{verdict:?}");
    assert_eq!(office.get("/api/admin/audit-logs/verify").await["ok"], true);
});

on_both_databases!(a_change_that_cannot_be_written_down_does_not_happen, backend => {
    let office = Office::on(backend).await;
    office.set("*", NEW, &input_at("0.001")).await;
    let before = office.ledger().await;
    office.app.sql("ALTER TABLE audit_logs RENAME TO audit_away").await;

    let replies = [
        office.ask("PUT", &path("*", NEW), Some(&input_at("0.002"))).await,
        office.ask("DELETE", &path("*", NEW), None).await,
        office.import("", "region,model_id,input_per_1k,output_per_1k\n*,acme.a,1,1\n").await,
    ];

    for reply in replies {
        assert_eq!(error_of(&reply), (503, json!("audit_unavailable"), Value::Null));
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    assert_eq!(office.ledger().await, before);
    office.app.sql("ALTER TABLE audit_away RENAME TO audit_logs").await;
    let after = office.set("*", NEW, &input_at("0.002")).await;
    assert_eq!(after["input_cost_per_1k_tokens"], "0.002");
    assert_eq!(office.get("/api/admin/audit-logs/verify").await["ok"], true);
});

on_both_databases!(changes_at_the_same_time_all_count_once, backend => {
    let office = Office::on(backend).await;

    let same = futures_util::future::join_all((0..10).map(|_| async {
        office.set("*", "acme.same", &input_at("0.001")).await
    }));
    let other = futures_util::future::join_all((0..10).map(|number| {
        let model = format!("acme.model-{number}");
        let office = &office;
        async move { office.set("*", &model, &input_at("0.001")).await }
    }));
    let (same, other) = futures_util::future::join(same, other).await;

    assert!(same.iter().all(|row| row == &same[0]), "one of ten adds it: {same:?}");
    assert_eq!(other.len(), 10);
    assert_eq!(office.ledger().await.len(), shipped_rows() + 11);
    assert_eq!(office.app.audited("price_set").await, 11);
    assert_eq!(office.get("/api/admin/audit-logs/verify").await["ok"], true);
});

#[actix_web::test]
async fn a_client_that_hangs_up_stops_no_change_half_way() {
    use diesel_async::SimpleAsyncConnection;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let office = Office::on(Backend::Sqlite).await;
    let pool = office.app.pool().await;
    let mut holder = pool.writer().await.unwrap();
    let Conn::Sqlite(held) = &mut holder else { panic!("SQLite was asked for") };
    held.batch_execute("BEGIN IMMEDIATE").await.unwrap();
    let mut connection = tokio::net::TcpStream::connect(office.app.address()).await.unwrap();
    let body = input_at("0.007").to_string();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        path("*", NEW),
        office.token,
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = connection.read_u8();
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), answer).await;
    assert!(waited.is_err(), "it waits for the database: {waited:?}");

    drop(connection);
    held.batch_execute("ROLLBACK").await.unwrap();

    let set = crate::helpers::eventually(std::time::Duration::from_secs(10), || async {
        office.show("*", NEW).await.status == 200
    });
    assert!(set.await, "the price that was sent is there");
    assert_eq!(office.app.audited("price_set").await, 1);
}
