//! Settings that are read anew while the service runs.

use std::{sync::Arc, time::Duration};

use bedrock_sso_proxy::{
    reload::Reloader,
    settings::{Need, Settings},
    telemetry::Level,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    helpers::{
        ADMIN, MODEL, PERSON, TestServer, TestServerBuilder, eventually, message,
        on_both_databases, spawn_app,
    },
    lifecycle::Process,
};

/// Somebody whom the simulated identity provider knows.
const DEVELOPER: &str = "1002";

/// Changes what the application's settings would be read from, and reloads them.
struct Changing {
    environment: Arc<std::sync::Mutex<Vec<(String, String)>>>,
    reloader: Mutex<Reloader>,
}

impl Changing {
    fn of(app: &TestServer) -> Self {
        let environment = Arc::new(std::sync::Mutex::new(app.environment.clone()));
        let read = environment.clone();
        let load = move || {
            let environment = read.lock().unwrap().clone();
            Settings::from_layers(None, environment.into_iter(), Need::Service)
        };
        let reloader = Reloader::new(&app.settings, app.shared(), Level::default(), Box::new(load));
        Self { environment, reloader: Mutex::new(reloader) }
    }

    async fn to(&self, changes: &[(&str, &str)]) {
        let changes =
            changes.iter().map(|(name, value)| (format!("BEDROCK_{name}"), (*value).to_owned()));
        self.environment.lock().unwrap().extend(changes);
        self.reloader.lock().await.reload().await;
    }
}

/// What the audit log says of each reload.
async fn reloads(app: &TestServer) -> Vec<Value> {
    let entries = app.audit().await.into_iter();
    let reloads = entries.filter(|entry| entry.event_type == "settings_reloaded");
    reloads
        .map(|entry| serde_json::from_str::<Value>(&entry.metadata).unwrap()["changed"].clone())
        .collect()
}

on_both_databases!(who_is_an_admin_changes_for_those_who_are_signed_in, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    let (former, later) = (app.create_token(ADMIN).await, app.create_token(PERSON).await);
    let status = async |token: &str| {
        app.get("/api/admin/users").bearer(token).send().await.status.as_u16()
    };
    assert_eq!((status(&former).await, status(&later).await), (200, 403));
    let settings = Changing::of(&app);

    settings.to(&[("ADMIN__EMAILS", PERSON)]).await;

    assert_eq!((status(&former).await, status(&later).await), (403, 200));
    assert_eq!(reloads(&app).await, [json!(["admin.emails"])]);
    assert_eq!((app.audited("admin_gained").await, app.audited("admin_lost").await), (1, 1));
});

#[actix_web::test]
async fn limits_change_both_ways() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let status = async || {
        app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await.status.as_u16()
    };
    let settings = Changing::of(&app);

    settings.to(&[("RATE_LIMITS__INFERENCE_PER_MINUTE_PER_KEY", "1")]).await;
    assert_eq!((status().await, status().await), (200, 429));
    settings.to(&[("RATE_LIMITS__INFERENCE_PER_MINUTE_PER_KEY", "0")]).await;
    assert_eq!((status().await, status().await), (200, 200));

    settings.to(&[("SERVER__LIMITS__IN_FLIGHT_REQUESTS", "1")]).await;
    let stream = message("@sim:stream events=200 delay_ms=50");
    let open = app.call(MODEL, "invoke-with-response-stream", &stream).bearer(&key).open().await;
    assert_eq!(status().await, 503);
    settings.to(&[("SERVER__LIMITS__IN_FLIGHT_REQUESTS", "2")]).await;
    assert_eq!(status().await, 200);
    drop(open);
}

#[actix_web::test]
async fn who_may_come_in_changes() {
    let app = TestServerBuilder::new().sign_in().start().await;
    assert_eq!(app.browser().sign_in(DEVELOPER).await.status, 302);
    let settings = Changing::of(&app);

    settings.to(&[("AUTH__ALLOWED_EMAIL_DOMAINS", "elsewhere.example")]).await;
    assert_eq!(app.browser().sign_in(DEVELOPER).await.status, 403);

    settings.to(&[("AUTH__ALLOWED_EMAIL_DOMAINS", "")]).await;
    assert_eq!(app.browser().sign_in(DEVELOPER).await.status, 302);
}

#[actix_web::test]
async fn settings_with_a_problem_change_nothing() {
    let app = spawn_app().await;
    let admin = app.create_token(ADMIN).await;
    let settings = Changing::of(&app);

    settings.to(&[("ADMIN__EMAILS", PERSON), ("ADMIN__EMIALS", "x"), ("SERVER__PORT", "x")]).await;

    assert_eq!(app.get("/api/admin/users").bearer(&admin).send().await.status, 200);
    assert_eq!(reloads(&app).await, Vec::<Value>::new());
}

#[actix_web::test]
async fn what_cannot_be_written_down_does_not_count() {
    let app = spawn_app().await;
    let (admin, key) = (app.create_token(ADMIN).await, app.create_key(PERSON).await);
    let settings = Changing::of(&app);
    app.sql("ALTER TABLE audit_logs RENAME TO audit_logs_away").await;

    let changes = [("ADMIN__EMAILS", PERSON), ("RATE_LIMITS__INFERENCE_PER_MINUTE_PER_KEY", "1")];
    settings.to(&changes).await;
    let calls = async || {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let call = app.call(MODEL, "invoke", &message("hi")).bearer(&key);
            statuses.push(call.send().await.status.as_u16());
        }
        statuses
    };
    assert_eq!(app.get("/api/admin/users").bearer(&admin).send().await.status, 200);
    assert_eq!(calls().await, [200, 200]);

    // What did not count is tried again.
    app.sql("ALTER TABLE audit_logs_away RENAME TO audit_logs").await;
    settings.to(&[]).await;
    assert_eq!(app.get("/api/admin/users").bearer(&admin).send().await.status, 403);
    assert_eq!(calls().await, [200, 429]);
}

#[actix_web::test]
async fn prices_that_were_changed_behind_its_back_count_from_the_next_call() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let cost = async || {
        app.call(MODEL, "invoke", &message("hi")).bearer(&key).send().await;
        app.row(&key).await["cost_usd"].clone()
    };
    let before = cost().await;
    assert!(before.as_str().is_some(), "{before}");
    app.sql("UPDATE model_costs SET input = NULL, output = NULL").await;
    assert_eq!(cost().await, before, "they are kept");
    let settings = Changing::of(&app);

    settings.to(&[]).await;

    assert_eq!(cost().await, Value::Null);
}

#[actix_web::test]
async fn a_hangup_reloads_the_file_and_the_log_says_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("logging: {level: info}");
    let path = file.display().to_string();
    let process = Process::start_with(&[("BEDROCK_CONFIG_FILE", &path)]).await;
    let told = async |message: &str, times: usize| {
        process.signal("-HUP");
        let told = eventually(Duration::from_secs(20), || async {
            process.logged(message).len() == times
        });
        assert!(told.await, "{message}");
    };
    let traced = |process: &Process| {
        String::from_utf8(process.log()).unwrap().matches("\"level\":\"TRACE\"").count()
    };
    assert_eq!(traced(&process), 0);

    let secret = "a-secret-that-nobody-may-read-in-a-log";
    write(&format!(
        "logging: {{level: trace}}\nserver: {{reuse_port: true}}\nmetrics: {{token: {secret}}}\nrate_limits: {{admin_writes_per_minute: 7}}"
    ));
    told("count from now on", 1).await;
    let taken = process.logged("count from now on");
    assert_eq!(taken[0]["settings"], "logging.level, rate_limits.admin_writes_per_minute");
    let waiting = process.logged("they wait for a restart");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0]["settings"], "metrics.token, server.reuse_port");
    assert_eq!(process.logged("nobody is an admin now").len(), 1);
    process.get("/health").send().await;
    assert!(eventually(Duration::from_secs(10), || async { traced(&process) > 0 }).await);

    write("logging: {level: loud}\nserver: {prot: 1}");
    told("nothing changed", 1).await;
    let refused = &process.logged("nothing changed")[0];
    let problems = refused["problems"].as_str().unwrap();
    assert_eq!(refused["level"], "ERROR");
    assert!(problems.starts_with("2 problems"), "{problems}");
    assert!(problems.contains("logging.level") && problems.contains("server.port?"), "{problems}");
    assert_eq!(process.logged("count from now on").len(), 1);

    std::fs::remove_file(&file).unwrap();
    told("nothing changed", 2).await;
    assert_eq!(process.get("/health/live").send().await.status, 200);
    assert!(!String::from_utf8(process.log()).unwrap().contains(secret));
}
