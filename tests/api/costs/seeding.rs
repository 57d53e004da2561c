//! `bedrock_proxy init` and the prices that come with the program.

use std::collections::BTreeSet;

use bedrock_sso_proxy::{
    db::Pool,
    settings::{Need, Settings},
};

use super::*;
use crate::{cli::place, helpers::command};

async fn pool(environment: &[(String, String)]) -> Pool {
    let layers = environment.iter().cloned();
    let settings = Settings::from_layers(None, layers, Need::Database).unwrap();
    Pool::open(&settings.database).unwrap()
}

async fn ledger(environment: &[(String, String)]) -> Vec<ModelCost> {
    let pool = pool(environment).await;
    ModelCost::all(&mut pool.reader().await.unwrap()).await.unwrap()
}

fn told(environment: &[(String, String)], arguments: &[&str]) -> String {
    let output = command(environment, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

on_both_databases!(init_adds_prices_once_and_leaves_them_out_when_asked, backend => {
    let (environment, _folder, _database, _simulator) = place(backend).await;

    let without = told(&environment, &["init", "--skip-costs"]);
    assert!(!without.contains("prices"), "{without}");
    assert_eq!(ledger(&environment).await, []);
    let first = told(&environment, &["init"]);
    assert!(first.contains(&format!("prices: {} added, 0 brought", shipped_rows())), "{first}");
    let rows = ledger(&environment).await;
    assert_eq!(rows.len(), shipped_rows());
    for arguments in [vec!["init"], vec!["init", "--skip-costs"], vec!["init", "--force-seed"], vec!["init"]] {
        let again = told(&environment, &arguments);
        assert!(!again.contains("prices") || again.contains("prices: 0 added, 0 brought"), "{again}");
        assert!(!again.contains("differ"), "{again}");
        assert_eq!(ledger(&environment).await, rows, "{arguments:?}");
    }
    let both = command(&environment, &["init", "--skip-costs", "--force-seed"]);
    assert!(!both.status.success(), "{both:?}");
    assert!(told(&environment, &["audit", "verify"]).contains("each is what was written"));
});

on_both_databases!(force_seed_refreshes_what_was_shipped_and_keeps_everything_else, backend => {
    let office = Office::on(backend).await;
    let app = &office.app;
    let (old, by_hand, imported, ended) = (
        "anthropic.claude-3-haiku-20240307-v1:0",
        "anthropic.claude-3-opus-20240229-v1:0",
        "amazon.nova-lite-v1:0",
        "amazon.nova-pro-v1:0",
    );
    let region = "us-east-1";
    app.sql(&format!("UPDATE model_costs SET input = 1 WHERE region = '{region}' AND model_id = '{old}'")).await;
    office.set(region, by_hand, &input_at("0.001")).await;
    office.imported("", format!("region,model_id,input_per_1k,output_per_1k\n{region},{imported},1,1\n")).await;
    office.end(region, ended).await;
    let before = office.ledger().await;
    let init = |arguments: &[&str]| told(&app.environment, arguments);

    let plain = init(&["init"]);
    assert!(plain.contains("prices: 0 added") && plain.contains("1 shipped prices differ"), "{plain}");
    assert!(plain.contains("--force-seed"), "{plain}");
    assert_eq!(office.ledger().await, before);
    let forced = init(&["init", "--force-seed"]);

    assert!(forced.contains("prices: 0 added, 1 brought up"), "{forced}");
    let after = office.ledger().await;
    assert_eq!((after.len(), &after[..before.len()]), (before.len() + 1, before.as_slice()), "a new row, no changed one");
    let fresh = office.show(region, old).await.json();
    assert_eq!((&fresh["input_cost_per_1k_tokens"], &fresh["source"]), (&json!("0.00025"), &json!("shipped")));
    assert_eq!(fresh["history"].as_array().unwrap().len(), 2);
    assert!(fresh["valid_from"].as_str() > Some("2026"), "calls that were made keep theirs: {fresh}");
    assert_eq!(office.show(region, by_hand).await.json()["source"], "manual");
    assert_eq!(office.show(region, imported).await.json()["source"], "imported");
    assert_eq!(office.show(region, ended).await.status, 404);
    assert!(init(&["init", "--force-seed"]).contains("prices: 0 added, 0 brought up"));
    assert_eq!(office.ledger().await, after);
    assert_eq!(app.audited("prices_seeded").await, 2, "at the start, and now");

    // What is not there at all comes back; so it does when the service starts.
    app.sql(&format!("DELETE FROM model_costs WHERE region = '{region}' AND model_id = '{by_hand}'")).await;
    assert!(init(&["init"]).contains("prices: 1 added"));
    assert_eq!(office.show(region, by_hand).await.json()["source"], "shipped");
});

on_both_databases!(many_that_prepare_one_database_at_once_add_each_price_once, backend => {
    let (environment, _folder, _database, _simulator) = place(backend).await;

    let threads: Vec<_> = ["init", "init", "init --force-seed", "init", "init --force-seed", "init"]
        .into_iter()
        .map(|line| {
            let environment = environment.clone();
            std::thread::spawn(move || command(&environment, &line.split(' ').collect::<Vec<_>>()))
        })
        .collect();
    let outputs: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();

    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    let added = format!("prices: {} added", shipped_rows());
    let adding = outputs.iter().filter(|output| String::from_utf8_lossy(&output.stdout).contains(&added));
    assert_eq!(adding.count(), 1, "{outputs:?}");
    let rows = ledger(&environment).await;
    let keys: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.region.as_str(), row.model_id.as_str())).collect();
    assert_eq!((rows.len(), keys.len()), (shipped_rows(), shipped_rows()));
    assert!(told(&environment, &["audit", "verify"]).contains("each is what was written"));
});
