//! Files of prices: shown first, taken as a whole or not at all.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const HEADER: &str = "region,model_id,input_per_1k,output_per_1k";
/// As lists of prices are handed around: six columns, a row that is there, one that differs, one that is new.
const SEED: &str = "region,model_id,input_per_1k,output_per_1k,cache_write_per_1k,cache_read_per_1k
us-east-1,amazon.nova-lite-v1:0,0.00006,0.00024,0,0.000015
us-east-1,anthropic.claude-3-haiku-20240307-v1:0,0.0003,0.00125,,
eu-west-1,acme.large-v1:0,0.001,0.002,0.003,0.0004
";

/// The lines and columns that an import was refused for.
fn bad_lines(reply: &Reply) -> Vec<(u64, String)> {
    assert_eq!(error_of(reply).0, 400, "{reply:?}");
    assert_eq!(error_of(reply).1, "invalid_csv", "{reply:?}");
    let details = reply.json()["error"]["details"].clone();
    let one = |detail: &Value| {
        assert!(detail["message"].as_str().is_some_and(|message| !message.is_empty()), "{detail}");
        (detail["line"].as_u64().unwrap(), detail["field"].as_str().unwrap().to_owned())
    };
    details.as_array().unwrap_or_else(|| panic!("{reply:?}")).iter().map(one).collect()
}

/// The answer to an import of two changes: one counts from now on, the other from the beginning.
fn without_times(mut answer: Value) -> Value {
    let changes = answer["changes"].as_array_mut().unwrap();
    let from: Vec<Value> = changes
        .iter_mut()
        .map(|change| change.as_object_mut().unwrap().remove("valid_from").unwrap())
        .collect();
    assert!(from[0].as_str() > Some("2026") && from[1] == ALWAYS, "{from:?}");
    answer
}

on_both_databases!(an_import_says_what_it_would_change_and_then_changes_it_once, backend => {
    let office = Office::on(backend).await;
    let before = office.ledger().await;
    let mut wanted = json!({
        "applied": false, "added": 1, "changed": 1, "unchanged": 1,
        "changes": [
            {"line": 3, "region": "us-east-1", "model_id": "anthropic.claude-3-haiku-20240307-v1:0",
             "before": {
                "input_cost_per_1k_tokens": "0.00025", "output_cost_per_1k_tokens": "0.00125",
                "cache_write_cost_per_1k_tokens": null, "cache_write_1h_cost_per_1k_tokens": null,
                "cache_read_cost_per_1k_tokens": null,
                "input_long_cost_per_1k_tokens": null, "output_long_cost_per_1k_tokens": null},
             "after": {
                "input_cost_per_1k_tokens": "0.0003", "output_cost_per_1k_tokens": "0.00125",
                "cache_write_cost_per_1k_tokens": null, "cache_write_1h_cost_per_1k_tokens": null,
                "cache_read_cost_per_1k_tokens": null,
                "input_long_cost_per_1k_tokens": null, "output_long_cost_per_1k_tokens": null}},
            {"line": 4, "region": "eu-west-1", "model_id": "acme.large-v1:0",
             "before": null,
             "after": {
                "input_cost_per_1k_tokens": "0.001", "output_cost_per_1k_tokens": "0.002",
                "cache_write_cost_per_1k_tokens": "0.003", "cache_write_1h_cost_per_1k_tokens": null,
                "cache_read_cost_per_1k_tokens": "0.0004",
                "input_long_cost_per_1k_tokens": null, "output_long_cost_per_1k_tokens": null}},
        ],
    });

    assert_eq!(without_times(office.imported("?dry_run=true", SEED).await), wanted);
    assert_eq!(office.ledger().await, before, "a dry run changes nothing");
    assert_eq!(office.app.audited("prices_imported").await, 0);
    wanted["applied"] = json!(true);
    assert_eq!(without_times(office.imported("?dry_run=false", SEED).await), wanted);

    let after = office.ledger().await;
    assert_eq!((after.len(), &after[..before.len()]), (before.len() + 2, before.as_slice()), "added, never changed");
    let haiku = office.show("us-east-1", "anthropic.claude-3-haiku-20240307-v1:0").await.json();
    assert_eq!((&haiku["input_cost_per_1k_tokens"], &haiku["source"]), (&json!("0.0003"), &json!("imported")));
    assert!(haiku["valid_from"].as_str() > Some("2026"), "{haiku}: from now on");
    assert_eq!(haiku["history"].as_array().unwrap().len(), 2);
    let acme = office.show("eu-west-1", "acme.large-v1:0").await.json();
    assert_eq!(acme["valid_from"], ALWAYS, "calls to it had no price so far");
    let nothing = json!({"applied": true, "added": 0, "changed": 0, "unchanged": 3, "changes": []});
    assert_eq!(office.imported("", SEED).await, nothing, "a second time");
    assert_eq!(office.ledger().await.len(), before.len() + 2);
    assert_eq!(office.app.audited("prices_imported").await, 1);
    let ended = ("eu-west-1", "acme.large-v1:0");
    office.end(ended.0, ended.1).await;
    let again = office.imported("", SEED).await;
    assert_eq!((&again["added"], &again["changed"], &again["unchanged"]), (&json!(1), &json!(0), &json!(2)), "what was ended comes back");
    for query in ["?dry_run=maybe", "?dry_run=1", "?dryrun=true"] {
        assert_eq!(office.import(query, SEED).await.status, 400, "{query}");
    }
});

on_both_databases!(a_good_file_is_taken_whatever_program_wrote_it, backend => {
    let office = Office::on(backend).await;
    let shipped = include_str!("../../../settings/pricing.csv");

    let whole = office.imported("", shipped).await;
    assert_eq!((&whole["added"], &whole["changed"], &whole["unchanged"]), (&json!(0), &json!(0), &json!(shipped_rows())));
    assert_eq!(office.ledger().await.len(), shipped_rows());

    for (number, file) in [
        format!("\u{feff}{HEADER}\r\n*,acme.0,0.003,0.015\r\n"),
        format!("{HEADER}\r\n\"*\",\"acme.1\",\"0.003\",\"0.015\"\r\n\r\n"),
        "output_per_1k,valid_from,model_id,region,input_per_1k,tier\n0.015,,acme.2,*,3e-3,default\n,,,,,\n".to_owned(),
        format!("{HEADER},cache_write_1h_per_1k,input_batch_per_1k\n *, acme.3 ,0.0030, .015,,"),
    ].into_iter().enumerate() {
        let told = office.imported("", file).await;
        let row = office.show("*", &format!("acme.{number}")).await.json();
        assert_eq!((&told["added"], &told["changed"]), (&json!(1), &json!(0)), "{number}");
        assert_eq!(prices(&row)[..5], [Some("0.003"), Some("0.015"), None, None, None], "{number}");
    }
    let tiers = format!("{HEADER},cache_write_1h_per_1k,input_long_per_1k,output_long_per_1k\n*,acme.long,0.002,0.01,0.004,0.003,0.02\n");
    office.imported("", tiers).await;
    let long = office.show("*", "acme.long").await.json();
    assert_eq!(prices(&long), [Some("0.002"), Some("0.01"), None, Some("0.004"), None, Some("0.003"), Some("0.02"), None, Some("0.006"), None]);
});

on_both_databases!(rows_of_other_times_stand_beside_each_other, backend => {
    let office = Office::on(backend).await;
    let file = format!("{HEADER},valid_from\n*,acme.a,0.001,0.001,2020-01-01\n*,acme.a,0.002,0.002,2021-01-01T00:00:00Z\n*,acme.a,0.003,0.003,2199-01-01T01:00:00+01:00\n");

    let first = office.imported("", file.clone()).await;
    let second = office.imported("", file).await;

    assert_eq!((&first["added"], &first["changed"]), (&json!(3), &json!(0)));
    assert_eq!((&second["unchanged"], &second["changes"]), (&json!(3), &json!([])));
    let shown = office.show("*", "acme.a").await.json();
    assert_eq!(shown["input_cost_per_1k_tokens"], "0.002");
    let times: Vec<&str> = shown["history"].as_array().unwrap().iter().map(|row| row["valid_from"].as_str().unwrap()).collect();
    assert_eq!(times, ["2199-01-01T00:00:00.000Z", "2021-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000Z"]);
});

on_both_databases!(a_bad_file_changes_nothing_and_each_bad_line_is_named, backend => {
    let office = Office::on(backend).await;
    let before = office.ledger().await;
    let good = "*,acme.good,0.001,0.002";
    let one = |row: &str| format!("{HEADER}\n{good}\n{row}\n");
    for (file, wanted) in [
        (String::new(), vec![(1, "")]),
        (format!("{HEADER}\n"), vec![(1, "")]),
        ("region,model_id,input_per_1k\n*,acme.a,1\n".to_owned(), vec![(1, "output_per_1k")]),
        (format!("{HEADER},colour\n*,acme.a,1,1,red\n"), vec![(1, "colour")]),
        (format!("{HEADER},region\n*,acme.a,1,1,*\n"), vec![(1, "region")]),
        ("[{\"region\": \"*\"}]".to_owned(), vec![(1, "[{\"region\": \"*\"}]"), (1, "region"), (1, "model_id"), (1, "input_per_1k"), (1, "output_per_1k")]),
        (one("*,acme.a,-1,0.002"), vec![(3, "input_per_1k")]),
        (one("*,acme.a,0.001,NaN"), vec![(3, "output_per_1k")]),
        (one("*,acme.a,inf,-inf"), vec![(3, "input_per_1k"), (3, "output_per_1k")]),
        (one("*,acme.a,1001,1e300"), vec![(3, "input_per_1k"), (3, "output_per_1k")]),
        (one("*,acme.a,0.0000000001,0.002"), vec![(3, "input_per_1k")]),
        (one("*,acme.a,0.001"), vec![(3, "")]),
        (one("*,acme.a,0.001,0.002,1"), vec![(3, "")]),
        (one("*,acme.a,,"), vec![(3, "")]),
        (one("mars,acme.a,1,1"), vec![(3, "region")]),
        (one("*,acme a,1,1"), vec![(3, "model_id")]),
        (one("*,=cmd|' /C calc'!A0,1,1"), vec![(3, "model_id")]),
        (one(",,1,1"), vec![(3, "region"), (3, "model_id")]),
        (one(good), vec![(3, "")]),
        (format!("{HEADER},valid_from\n*,acme.a,1,1,2026-11-21\n\n*,acme.a,1,1,2026-11-21T00:00:00Z\n"), vec![(4, "")]),
        (format!("{HEADER},valid_from\n*,acme.a,1,1,soon\n"), vec![(2, "valid_from")]),
        (format!("{HEADER},tier\n*,acme.a,1,1,priority\n"), vec![(2, "tier")]),
        (format!("{HEADER},input_batch_per_1k\n*,acme.a,1,1,1\n"), vec![(2, "input_batch_per_1k")]),
        (format!("{HEADER},input_long_per_1k,output_long_per_1k\n*,acme.a,1,1,2,\n"), vec![(2, "output_long_per_1k")]),
        (format!("{HEADER}\n\"*\",\"acme\n.a\",1,1\n*,acme.b,x,1\n"), vec![(2, "model_id"), (4, "input_per_1k")]),
        (format!("{HEADER}\r\n*,acme.a,x,1\r\n*,acme.b,1,y\r\n"), vec![(2, "input_per_1k"), (3, "output_per_1k")]),
    ] {
        for query in ["", "?dry_run=true"] {
            let reply = office.import(query, file.clone()).await;
            let wanted: Vec<(u64, String)> = wanted.iter().map(|(line, field)| (*line, (*field).to_owned())).collect();
            assert_eq!(bad_lines(&reply), wanted, "{file}");
        }
    }
    let latin = [HEADER.as_bytes(), b"\n*,acme.\xe4,1,1\n"].concat();
    assert_eq!(bad_lines(&office.import("", latin).await), [(2, String::new())]);
    let many: String = (0..150).map(|number| format!("*,acme.{number},x,1\n")).collect();
    let many = bad_lines(&office.import("", format!("{HEADER}\n{many}")).await);
    assert_eq!((many.len(), &many[99], &many[100]), (101, &(101, "input_per_1k".to_owned()), &(102, String::new())), "a hundred, and how many more");

    assert_eq!(office.ledger().await, before);
    assert_eq!(office.app.audited("prices_imported").await, 0);
});

#[actix_web::test]
async fn a_file_has_at_most_20_000_rows() {
    let office = Office::on(Backend::Sqlite).await;
    let rows = |count: usize| -> String {
        let rows = (0..count).map(|number| format!("*,acme.{number},0.001,0.002\n"));
        std::iter::once(format!("{HEADER}\n")).chain(rows).collect()
    };

    let most = office.imported("?dry_run=true", rows(20_000)).await;
    let more = office.import("", rows(20_001)).await;

    assert_eq!(most["added"], 20_000);
    assert_eq!(bad_lines(&more), [(20_002, String::new())]);
    assert!(more.json()["error"]["message"].as_str().unwrap().contains("20000"), "{more:?}");
    assert_eq!(office.ledger().await.len(), shipped_rows());
}

#[actix_web::test]
async fn a_file_that_is_too_large_or_no_csv_is_refused_unread() {
    let office = Office::on(Backend::Sqlite).await;
    let app = &office.app;
    let size = 6 << 20;
    let head = format!(
        "POST /api/admin/costs HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\n\
         content-type: text/csv\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n",
        office.token
    );

    // It answers before the body is there, so the two go at the same time.
    let (mut answers, mut asks) = TcpStream::connect(app.address()).await.unwrap().into_split();
    let send = async {
        asks.write_all(head.as_bytes()).await.unwrap();
        let _refused = asks.write_all(&vec![b'\n'; size]).await;
    };
    let read = async {
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = answers.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
        }
        String::from_utf8(answer).unwrap()
    };
    let within = std::time::Duration::from_secs(30);
    let both = tokio::time::timeout(within, futures_util::future::join(send, read));
    let ((), answer) = both.await.expect("it answers");
    let post = |kind: &str| {
        let request = app.post("/api/admin/costs").bearer(&office.token);
        request.header("content-type", kind).body(SEED).send()
    };

    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"payload_too_large\""), "{answer}");
    for kind in ["application/json", "multipart/form-data; boundary=x", "text/plain", ""] {
        let reply = post(kind).await;
        assert_eq!(error_of(&reply), (415, json!("unsupported_media_type"), Value::Null), "{kind}");
    }
    let gzip =
        app.post("/api/admin/costs").bearer(&office.token).header("content-type", "text/csv");
    assert_eq!(gzip.header("content-encoding", "gzip").body(SEED).send().await.status, 415);
    assert_eq!(office.ledger().await.len(), shipped_rows());
    assert_eq!(post("text/csv; charset=utf-8").await.status, 200);
}
