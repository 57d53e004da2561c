//! What a call costs, to the nano-dollar; and calls that are priced afterwards.

use bedrock_sso_proxy::db::usage::NewUsage;

use super::*;
use crate::export::{call, id_of, insert};

const SONNET_4_5: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";
/// `us.` and [`SONNET_4_5`] in nano-dollars per token, as it is shipped.
const INPUT: i64 = 3_300;
const OUTPUT: i64 = 16_500;
const WRITE: i64 = 4_125;
const WRITE_1H: i64 = 6_600;
const READ: i64 = 330;

fn dollars(nano: i64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// A count of a row.
fn count(row: &Value, name: &str) -> i64 {
    row[name].as_i64().unwrap_or_else(|| panic!("{name} in {row}"))
}

on_both_databases!(a_call_costs_what_its_tokens_and_the_price_say, backend => {
    let office = Office::on(backend).await;
    let key = office.app.create_key(PERSON).await;
    let price = office.show("*", MODEL).await.json();

    for (used, cost) in [
        (usage(0, 0, 0, 0, 0), "0.000000000"),
        (usage(1, 0, 0, 0, 0), "0.000003000"),
        (usage(1234, 567, 0, 0, 0), "0.012207000"),
        // 3,702,000 + 8,505,000 + 2000 of 3,750 + 1000 of 6,000 + 15,000 of 300.
        (usage(1234, 567, 3000, 1000, 15_000), "0.030207000"),
        (usage(12, 345, 0, 0, 10), "0.005214000"),
        (usage(0, 0, 1000, 1000, 0), "0.006000000"),
        // Exactly 200,000 tokens of prompt.
        (usage(100_000, 1000, 50_000, 0, 50_000), "0.517500000"),
        // One more: the whole call at the prices for long prompts.
        (usage(100_001, 1000, 50_000, 0, 50_000), "1.027506000"),
        (usage(100_001, 1000, 50_000, 50_000, 50_000), "1.252506000"),
        (usage(1000, 300_000, 0, 0, 0), "4.503000000"),
    ] {
        for model in [MODEL, ARN] {
            let row = office.used(&key, model, &used).await;
            assert_eq!((&row["cost_usd"], &row["price_id"]), (&json!(cost), &price["id"]), "{model} {used}");
        }
    }
});

on_both_databases!(a_fraction_of_a_nano_dollar_is_rounded_half_up_over_the_whole_call, backend => {
    let office = Office::on(backend).await;
    let key = office.app.create_key(PERSON).await;
    let smallest = "0.000000001"; // a pico-dollar a token
    office.set("*", NEW, &json!({"input_cost_per_1k_tokens": smallest, "output_cost_per_1k_tokens": smallest})).await;

    for (input, output, cost) in [
        (499, 0, "0.000000000"),
        (500, 0, "0.000000001"),
        (250, 250, "0.000000001"),
        (1499, 0, "0.000000001"),
        (1499, 1, "0.000000002"),
    ] {
        let row = office.used(&key, NEW, &usage(input, output, 0, 0, 0)).await;
        assert_eq!(row["cost_usd"], cost, "{input} {output}");
    }
});

#[actix_web::test]
async fn what_a_stream_writes_to_the_cache_and_reads_from_it_is_paid() {
    let office = Office::on(Backend::Sqlite).await;
    let key = office.app.create_key(PERSON).await;
    let text = |words: &str, control: Value| json!({"type": "text", "text": words.repeat(500), "cache_control": control});
    let body = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": [
        {"role": "user", "content": [
            text("for an hour ", json!({"type": "ephemeral", "ttl": "1h"})),
            text("for five minutes ", json!({"type": "ephemeral"})),
            {"type": "text", "text": "And now?"},
        ]},
    ]});

    let mut rows = Vec::new();
    for operation in ["invoke-with-response-stream", "invoke"] {
        let profile = format!("us.{SONNET_4_5}");
        let reply = office.app.call(&profile, operation, &body).bearer(&key).send().await;
        assert_eq!(reply.status, 200, "{reply:?}");
        rows.push(office.app.row(&key).await);
    }

    for row in &rows {
        let (write, hour) = (count(row, "cache_write_tokens"), count(row, "cache_write_1h_tokens"));
        let cost = count(row, "input_tokens") * INPUT
            + count(row, "output_tokens") * OUTPUT
            + (write - hour) * WRITE
            + hour * WRITE_1H
            + count(row, "cache_read_tokens") * READ;
        assert_eq!((&row["cost_usd"], &row["estimated"]), (&json!(dollars(cost)), &json!(false)));
    }
    assert!(count(&rows[0], "cache_write_1h_tokens") > 1000, "{rows:?}");
    assert!(count(&rows[0], "cache_write_tokens") > 2000, "{rows:?}");
    assert!(count(&rows[1], "cache_read_tokens") > 2000, "{rows:?}");
}

on_both_databases!(the_first_price_that_fits_counts_and_the_next_when_it_has_ended, backend => {
    let office = Office::on(backend).await;
    let key = office.app.create_key(PERSON).await;
    let bare = NEW.strip_prefix("us.").unwrap();
    let profile = format!("arn:aws:bedrock:us-east-1:123456789012:inference-profile/{NEW}");
    let places = [
        ("us-east-1", profile.as_str(), "0.01"),
        ("*", &profile, "0.02"),
        ("us-east-1", NEW, "0.03"),
        ("*", NEW, "0.04"),
        ("us-east-1", bare, "0.05"),
        ("*", bare, "0.06"),
    ];
    let mut ids = Vec::new();
    for (region, model, price) in places {
        ids.push(office.set(region, model, &input_at(price)).await["id"].clone());
    }
    office.set("eu-west-1", NEW, &input_at("9")).await;
    office.set("*", "eu.anthropic.claude-of-tomorrow-9", &input_at("9")).await;

    for (number, (region, model, price)) in places.into_iter().enumerate() {
        let row = office.used(&key, &profile, &usage(1000, 5, 0, 0, 0)).await;
        let cost = format!("{price}0000000");
        assert_eq!((&row["cost_usd"], &row["price_id"]), (&json!(cost), &ids[number]), "{region} {model}");
        if number < 2 {
            let by_id = office.used(&key, NEW, &usage(1000, 5, 0, 0, 0)).await;
            assert_eq!(by_id["price_id"], ids[2], "an ARN's own price is the ARN's alone");
        }
        office.end(region, model).await;
    }

    let row = office.used(&key, &profile, &usage(1000, 5, 0, 0, 0)).await;
    assert_eq!((&row["cost_usd"], &row["price_id"]), (&Value::Null, &Value::Null));
    // An ARN that does not say what it runs has a price under its own name alone.
    let row = office.used(&key, OPAQUE, &usage(1000, 5, 0, 0, 0)).await;
    assert_eq!(row["cost_usd"], Value::Null);
    let own = office.set("us-east-1", OPAQUE, &input_at("0.07")).await;
    let row = office.used(&key, OPAQUE, &usage(1000, 5, 0, 0, 0)).await;
    assert_eq!((&row["cost_usd"], &row["price_id"]), (&json!("0.070000000"), &own["id"]));
    let over = office.set("us-east-1", MODEL, &input_at("0.08")).await;
    let row = office.used(&key, MODEL, &usage(1000, 5, 0, 0, 0)).await;
    assert_eq!((&row["cost_usd"], &row["price_id"]), (&json!("0.080000000"), &over["id"]), "over what is shipped");
});

on_both_databases!(calls_without_a_price_are_counted_told_and_priced_afterwards, backend => {
    let office = Office::on(backend).await;
    let app = &office.app;
    let key = app.create_key(PERSON).await;
    let priced = office.used(&key, MODEL, &usage(1000, 100, 0, 0, 0)).await;
    let unpriced = office.used(&key, NEW, &usage(1000, 100, 10, 0, 0)).await;
    let reprice = |more: &[&str]| {
        let yesterday = (chrono::Utc::now() - chrono::TimeDelta::days(1)).date_naive().to_string();
        let output = app.command(&[&["job", "reprice", "--from", &yesterday], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let summary = |query: &'static str| {
        let request = app.get(&format!("/api/usage/summaries?{query}")).bearer(&key);
        async move {
            let page = request.send().await.json();
            let all = page["summaries"].as_array().unwrap().clone();
            assert_eq!(all.len(), 1, "{query}: {all:?}");
            let one = &all[0];
            (one["total_cost_usd"].clone(), one["unpriced_requests"].as_i64().unwrap())
        }
    };
    let by_model = ["period_type=hourly&model_id=us.anthropic.claude-of-tomorrow-9",
        "period_type=daily&model_id=us.anthropic.claude-of-tomorrow-9",
        "period_type=monthly&model_id=us.anthropic.claude-of-tomorrow-9",
        "period_type=total&model_id=us.anthropic.claude-of-tomorrow-9"];
    let all = "period_type=total&group_by=";

    assert_eq!((&priced["cost_usd"], &unpriced["cost_usd"]), (&json!("0.004500000"), &Value::Null));
    assert_eq!(unpriced["price_id"], Value::Null);
    let metrics = office.metrics().await;
    assert!(metrics.contains("usage_unpriced_calls_total 1\n"), "{metrics}");
    assert_eq!(office.get("/api/admin/models/unpriced").await, json!({"days": 30, "models": [{
        "region": "us-east-1", "model_id": NEW, "reason": "it has no price",
        "unpriced_requests": 1, "total_requests": 1, "total_tokens": 1110,
    }]}));
    for query in by_model {
        assert_eq!(summary(query).await, (Value::Null, 1), "{query}");
    }
    assert_eq!(summary(all).await, (json!("0.004500000"), 1));

    // A price that lacks something is no price of a call that used it.
    let lacking = office.set("*", NEW, &json!({"input_cost_per_1k_tokens": 0.002, "output_cost_per_1k_tokens": 0.01})).await;
    assert_eq!(office.get("/api/admin/models/unpriced").await["models"][0]["reason"], "its price has none for cache writes of five minutes");
    assert!(reprice(&["--dry-run"]).contains("1 of 2 calls would change: 1 calls: 0.000000000 USD becomes 0.000000000 USD; without a known cost 1, then 1"));
    let price = office.set("*", NEW, &json!({
        "input_cost_per_1k_tokens": 0.002, "output_cost_per_1k_tokens": 0.01, "cache_write_cost_per_1k_tokens": "0.004",
        "valid_from": ALWAYS,
    })).await;
    assert!(price["id"].as_i64() > lacking["id"].as_i64());
    let waiting = office.get("/api/admin/models/unpriced").await;
    assert_eq!(waiting["models"][0]["reason"], "it has a price now; `job reprice` gives calls from before their cost");

    let told = reprice(&["--dry-run"]);
    let difference = "1 calls: 0.000000000 USD becomes 0.003040000 USD; without a known cost 1, then 0";
    assert!(told.contains(&format!("{NEW} in us-east-1: {difference}")), "{told}");
    assert!(told.contains(&format!("1 of 2 calls would change: {difference}")), "{told}");
    assert_eq!(app.rows(&key).await, [unpriced.clone(), priced.clone()], "nothing is changed");
    assert_eq!(summary(all).await, (json!("0.004500000"), 1));
    assert_eq!(app.audited("usage_repriced").await, 0);

    let told = reprice(&[]);
    assert!(told.contains("priced 1 calls anew"), "{told}");
    let mut wanted = unpriced.clone();
    (wanted["cost_usd"], wanted["price_id"]) = (json!("0.003040000"), price["id"].clone());
    assert_eq!(app.rows(&key).await, [wanted.clone(), priced.clone()]);
    for query in by_model {
        assert_eq!(summary(query).await, (json!("0.003040000"), 0), "{query}");
    }
    assert_eq!(summary(all).await, (json!("0.007540000"), 0));
    assert_eq!(office.get("/api/admin/models/unpriced").await["models"], json!([]));
    let everybody = office.get("/api/admin/usage/summaries?period_type=total&group_by=").await;
    assert_eq!(everybody["summaries"][0]["total_cost_usd"], "0.007540000");
    assert_eq!(app.audited("usage_repriced").await, 1);

    assert!(reprice(&[]).contains("0 of 2 calls would change"), "again");
    let future = app.command(&["job", "reprice", "--from", "2199-01-01"]);
    assert!(String::from_utf8_lossy(&future.stdout).contains("0 of 0 calls"), "{future:?}");
    // And what is taken away is taken out of the summaries.
    office.end("*", NEW).await;
    app.sql("UPDATE model_costs SET valid_from = '2000-01-01 00:00:00' WHERE ended").await;
    assert!(reprice(&["--yes"]).contains("priced 1 calls anew"));
    assert_eq!(summary(by_model[0]).await, (Value::Null, 1));
    assert_eq!(summary(all).await, (json!("0.004500000"), 1));
    assert_eq!(app.rows(&key).await, [unpriced, priced]);
});

on_both_databases!(a_call_keeps_the_price_that_it_was_made_at, backend => {
    let office = Office::on(backend).await;
    let key = office.app.create_key(PERSON).await;
    let used = usage(1000, 10, 0, 0, 0);

    let shipped = office.used(&key, MODEL, &used).await;
    let dear = office.set("us-east-1", MODEL, &input_at("0.5")).await;
    let at_dear = office.used(&key, MODEL, &used).await;
    let told = office.imported("", format!("region,model_id,input_per_1k,output_per_1k\nus-east-1,{MODEL},0.25,0\n")).await;
    assert_eq!((&told["added"], &told["changed"]), (&json!(0), &json!(1)));
    let at_cheap = office.used(&key, MODEL, &used).await;
    office.end("us-east-1", MODEL).await;
    let ended = office.used(&key, MODEL, &used).await;

    let costs = |row: &Value| row["cost_usd"].as_str().unwrap().to_owned();
    let rows = [&ended, &at_cheap, &at_dear, &shipped];
    assert_eq!(rows.map(costs), ["0.003150000", "0.250000000", "0.500000000", "0.003150000"]);
    assert_eq!((&at_dear["price_id"], &ended["price_id"]), (&dear["id"], &shipped["price_id"]));
    assert_eq!(office.app.rows(&key).await, rows.map(Value::clone));
    // Nor does pricing anew change them: each has the price of its time.
    let output = office.app.command(&["job", "reprice", "--from", "2000-01-01"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 of 4 calls"), "{output:?}");
});

on_both_databases!(a_price_of_the_future_does_not_count_yet, backend => {
    let office = Office::on(backend).await;
    let key = office.app.create_key(PERSON).await;
    let future = json!({"input_cost_per_1k_tokens": 1, "output_cost_per_1k_tokens": 1, "valid_from": "2199-12-31"});

    let only = office.set("us-east-1", NEW, &future).await;
    let over = office.set("*", MODEL, &future).await;

    assert_eq!((&only["valid_from"], &over["input_cost_per_1k_tokens"]), (&json!("2199-12-31T00:00:00.000Z"), &json!("1")));
    assert_eq!(office.show("us-east-1", NEW).await.status, 404);
    assert_eq!(office.list(&format!("?model_id={NEW}")).await["total"], 0);
    let shown = office.show("*", MODEL).await.json();
    assert_eq!((&shown["input_cost_per_1k_tokens"], &shown["history"][0]), (&json!("0.003"), &over));
    assert_eq!(list_of(&office.list(&format!("?region=*&model_id={MODEL}")).await)[0]["id"], shown["id"]);
    assert_eq!(office.used(&key, NEW, &usage(1000, 1, 0, 0, 0)).await["cost_usd"], Value::Null);
    assert_eq!(office.used(&key, MODEL, &usage(1000, 0, 0, 0, 0)).await["cost_usd"], "0.003000000");
    // The first price that counts now begins now: calls that were made had none.
    let now = office.set("us-east-1", NEW, &input_at("0.002")).await;
    let row = office.used(&key, NEW, &usage(1000, 1, 0, 0, 0)).await;
    assert_eq!((&row["cost_usd"], &row["price_id"]), (&json!("0.002000000"), &now["id"]));
});

on_both_databases!(what_used_nothing_costs_nothing_and_what_is_unknown_has_no_cost, backend => {
    let office = Office::on(backend).await;
    let app = &office.app;
    let key = app.create_key(PERSON).await;
    let row_of = |model: &'static str, operation: &'static str, body: Value| {
        let (app, key) = (app, &key);
        async move {
            app.call(model, operation, &body).bearer(key).send().await;
            app.row(key).await
        }
    };

    let refused = row_of(MODEL, "invoke", message("@sim:throttle")).await;
    let refused_new = row_of(NEW, "invoke", message("@sim:error code=AccessDeniedException")).await;
    let counted = row_of(SONNET_4_5, "count-tokens", json!({"input": {"converse": crate::helpers::conversation("hi")}})).await;
    let unknown = row_of(MODEL, "invoke", message("@sim:nousage")).await;
    let unknown_stream = row_of(MODEL, "invoke-with-response-stream", message("@sim:nousage")).await;

    for (row, outcome) in [(&refused, "upstream_error"), (&refused_new, "upstream_error"), (&counted, "success")] {
        assert_eq!((&row["cost_usd"], &row["outcome"]), (&json!("0.000000000"), &json!(outcome)), "{row}");
    }
    assert_eq!((&counted["operation"], &counted["price_id"]), (&json!("count_tokens"), &Value::Null));
    for row in [unknown, unknown_stream] {
        assert_eq!((&row["success"], &row["cost_usd"], &row["total_tokens"]), (&json!(true), &Value::Null, &Value::Null), "{row}");
        assert_eq!(row["estimated"], true);
    }
    let metrics = office.metrics().await;
    assert!(metrics.contains("usage_unpriced_calls_total 0\n"), "no price is missing: {metrics}");
    assert_eq!(office.get("/api/admin/models/unpriced").await["models"], json!([]));
});

on_both_databases!(pricing_anew_moves_summaries_that_are_built_and_leaves_those_whose_rows_are_gone, backend => {
    let office = Office::on(backend).await;
    let app = &office.app;
    app.create_key(PERSON).await;
    let user_id = id_of(app, PERSON).await;
    let day = chrono::Utc::now().naive_utc() - chrono::TimeDelta::days(40);
    let old = |number| NewUsage {
        model_id: NEW.to_owned(),
        request_time: day,
        input_tokens: Some(1000),
        ..call(user_id, number)
    };
    let run = |arguments: &[&str]| {
        let output = app.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let costs = || async {
        let mut costs = Vec::new();
        for period in ["hourly", "daily", "weekly", "monthly", "total"] {
            let query = format!("period_type={period}&group_by=model");
            let page = office.get(&format!("/api/admin/usage/summaries?{query}")).await;
            let one = page["summaries"][0].clone();
            assert_eq!((page["total"].as_u64(), one["total_requests"].as_u64()), (Some(1), Some(2)), "{page}");
            costs.push(one["total_cost_usd"].clone());
        }
        costs
    };
    insert(app, vec![old(1), old(2)]).await;
    run(&["job", "summaries"]);
    assert_eq!(costs().await, vec![Value::Null; 5]);

    office.set("*", NEW, &input_at("0.002")).await;
    let told = run(&["job", "reprice", "--from", "2000-01-01"]);
    assert!(told.contains("priced 2 calls anew") && !told.contains("cleaned up"), "{told}");
    assert_eq!(costs().await, vec![json!("0.004000000"); 5]);

    run(&["job", "cleanup", "--target", "records", "--days-back", "30"]);
    office.set("*", NEW, &json!({"input_cost_per_1k_tokens": 5, "valid_from": ALWAYS})).await;
    let told = run(&["job", "reprice", "--from", "2000-01-01"]);
    assert!(told.contains("0 of 0 calls") && told.contains("their summaries stay as they are"), "{told}");
    assert_eq!(costs().await, vec![json!("0.004000000"); 5]);
});

on_both_databases!(calls_and_changes_at_the_same_time_agree_on_what_counted_when, backend => {
    let office = Office::on(backend).await;
    let key = office.app.create_key(PERSON).await;
    let calls = futures_util::future::join_all((0..8).map(|_| async {
        for _ in 0..10 {
            let reply = office.app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }));
    let changes = async {
        for number in 1..=12 {
            office.set("us-east-1", MODEL, &input_at(&format!("0.{number:03}"))).await;
        }
    };

    futures_util::future::join(calls, changes).await;

    let rows = office.app.rows(&key).await;
    assert_eq!(rows.len(), 80);
    assert!(rows.iter().all(|row| row["cost_usd"].is_string()), "{rows:?}");
    let output = office.app.command(&["job", "reprice", "--from", "2000-01-01", "--dry-run"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 of 80 calls"), "{output:?}");
});
