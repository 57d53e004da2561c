//! The command line, as an operator uses it.

use bedrock_sso_proxy::simulator::{Simulator, SimulatorConfig};

use crate::helpers::{
    Backend, Database, PERSON, TestServerBuilder, command, environment, on_both_databases,
    spawn_app,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub async fn place(
    backend: Backend,
) -> (Vec<(String, String)>, tempfile::TempDir, Option<Database>, Simulator) {
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
    let (url, database) = match backend {
        Backend::Sqlite => {
            (format!("sqlite://{}/new/folder/test.db", folder.path().display()), None)
        }
        Backend::Postgres => {
            let database = Database::on_postgres().await;
            (database.url.clone(), Some(database))
        }
    };
    (environment(&url, folder.path(), &simulator), folder, database, simulator)
}

on_both_databases!(migrations_go_up_and_down_and_say_where_they_are, backend => {
    let (environment, _folder, _database, _simulator) = place(backend).await;
    let run = |arguments: &[&str]| {
        let output = command(&environment, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };

    assert!(run(&["migrate", "status"]).contains("pending"));
    assert!(run(&["migrate", "up"]).contains("applied"));
    assert!(!run(&["migrate", "status"]).contains("pending"));
    assert_eq!(run(&["migrate", "up"]).trim(), "nothing to apply");
    assert!(run(&["migrate", "down"]).contains("took back"));
    assert!(run(&["init"]).contains("applied"));
    assert!(run(&["init"]).contains("up to date"));
});

on_both_databases!(eight_processes_that_prepare_one_database_at_once_apply_it_once, backend => {
    let (environment, _folder, _database, _simulator) = place(backend).await;

    let threads: Vec<_> = (0..8)
        .map(|_| {
            let environment = environment.clone();
            std::thread::spawn(move || command(&environment, &["init"]))
        })
        .collect();
    let outputs: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();

    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    let applied = outputs.iter().filter(|output| text(&output.stdout).contains("applied")).count();
    assert_eq!(applied, 1);
});

#[actix_web::test]
async fn a_schema_that_is_pending_or_too_new_stops_the_start_and_says_what_to_do() {
    let (environment, folder, _database, _simulator) = place(Backend::Sqlite).await;
    let mut without = environment.clone();
    without.push(("BEDROCK_DATABASE__MIGRATION_ON_STARTUP".into(), "false".into()));
    let pending = command(&without, &["serve"]);
    assert!(!pending.status.success());
    assert!(text(&pending.stderr).contains("migrate up"), "{}", text(&pending.stderr));

    assert!(command(&environment, &["init"]).status.success());
    let path = folder.path().join("new/folder/test.db");
    let future = |version: &str| {
        use diesel::{Connection, connection::SimpleConnection};
        let mut connection = diesel::SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        let sql = format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}')");
        connection.batch_execute(&sql).unwrap();
    };
    future("29990101000000");
    assert!(
        command(&environment, &["user", "list"]).status.success(),
        "one version ahead still works"
    );
    future("29990102000000");
    let newer = command(&environment, &["serve"]);
    assert!(!newer.status.success());
    assert!(text(&newer.stderr).contains("newer release"), "{}", text(&newer.stderr));
}

#[actix_web::test]
async fn people_and_keys_are_made_listed_and_ended() {
    let app = spawn_app().await;
    let run = |arguments: &[&str]| {
        let output = app.command(arguments);
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };

    assert!(run(&["user", "create", PERSON, "--name", "A user"]).0);
    let (again, _, why) = run(&["user", "create", &PERSON.to_uppercase()]);
    assert!(!again && why.contains("already"), "{why}");
    for wrong in ["", "x", "@", "a@b", "a@@example.com", "a b@example.com", "ä@example.com"] {
        assert!(!run(&["user", "create", wrong]).0, "{wrong}");
    }
    let (_, key, note) = run(&["key", "create", PERSON, "--name", "laptop"]);
    assert!(key.trim().starts_with("SSOK_") && key.trim().len() == 37, "{key}");
    assert!(note.contains("shown once"));
    for days in ["0", "366", "4294967295"] {
        let (made, _, why) =
            run(&["key", "create", PERSON, "--name", "x", "--expires-in-days", days]);
        assert!(!made, "{days}: {why}");
    }
    assert!(!run(&["key", "create", PERSON, "--name", "x", "--never-expires"]).0);
    assert!(!run(&["key", "create", "nobody@example.com", "--name", "x"]).0);
    let (_, list, _) = run(&["key", "list", PERSON]);
    assert!(
        list.contains("active") && list.contains("laptop") && !list.contains(key.trim()),
        "{list}"
    );
    assert!(run(&["key", "revoke", "1"]).0);
    assert!(!run(&["key", "revoke", "1"]).0);
    assert!(run(&["key", "list"]).1.contains("revoked"));
    let (_, token, _) = run(&["user", "token", PERSON, "--ttl", "60"]);
    assert_eq!(token.trim().split('.').count(), 3);
    assert!(!run(&["user", "token", PERSON, "--ttl", "3601"]).0);
    assert!(run(&["user", "state", PERSON, "disabled"]).0);
    assert!(run(&["user", "list"]).1.contains("disabled"));
    assert!(!run(&["key", "create", PERSON, "--name", "x"]).0);
}

on_both_databases!(what_an_operator_does_is_in_the_audit_log_with_an_unbroken_chain, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    app.command(&["user", "create", PERSON]);
    app.command(&["key", "create", PERSON, "--name", "x"]);
    app.command(&["user", "token", PERSON]);
    app.command(&["key", "revoke", "1"]);
    app.command(&["user", "state", PERSON, "disabled"]);

    let events: Vec<String> =
        app.audit().await.into_iter().map(|entry| entry.event_type).collect();
    assert_eq!(
        events,
        [
            "migration",
            "prices_seeded",
            "secrets_in_use",
            "user_created",
            "key_created",
            "session_created",
            "key_revoked",
            "user_state_changed"
        ]
    );
    let verdict = app.command(&["audit", "verify"]);
    assert!(verdict.status.success(), "{verdict:?}");
    let told = text(&verdict.stdout);
    assert!(told.starts_with("8 events in ") && told.contains("each is what was written"), "{told}");
    assert!(!told.contains("password"), "{told}");
});

on_both_databases!(the_log_of_a_database_that_is_not_there_is_not_found_whole, backend => {
    let (environment, folder, _database, _simulator) = place(backend).await;

    let none = command(&environment, &["audit", "verify"]);

    assert!(!none.status.success(), "{none:?}");
    assert!(!folder.path().join("new").exists(), "nothing was made");
    assert!(command(&environment, &["migrate", "up"]).status.success());
    assert!(command(&environment, &["audit", "verify"]).status.success());
    assert!(command(&environment, &["migrate", "down"]).status.success());
    let behind = command(&environment, &["audit", "verify"]);
    assert!(!behind.status.success(), "{behind:?}");
    let status = command(&environment, &["migrate", "status"]);
    assert!(text(&status.stdout).contains("pending"), "nothing was migrated: {status:?}");
});

on_both_databases!(an_operator_reaches_people_of_every_provider_and_never_the_wrong_one, backend => {
    let app = TestServerBuilder::new().backend(backend).sign_in().start().await;
    let browser = app.signed_in("1002").await;
    let me = browser.get("/auth/me").await.json();
    let (address, id) = (me["email"].as_str().unwrap(), me["id"].to_string());
    let run = |arguments: &[&str]| {
        let output = app.command(arguments);
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };

    let (done, told, why) = run(&["user", "state", &address.to_uppercase(), "disabled"]);
    assert!(done, "{why}");
    assert!(told.contains(&format!("person {id}, sso")), "{told}");
    app.revalidate().await;
    assert_eq!(browser.get("/auth/me").await.status, 401);

    assert!(run(&["user", "create", address]).0);
    let (done, _, why) = run(&["user", "state", address, "active"]);
    assert!(!done, "one of two was taken");
    assert!(why.contains(&format!("{id} (sso)")) && why.contains("(local)"), "{why}");
    let (_, key, _) = run(&["key", "create", address, "--name", "of the one made here"]);
    assert!(key.starts_with("SSOK_") && !run(&["key", "list", &id]).1.contains("active"));
    assert!(run(&["user", "state", &id, "active"]).0);
    assert!(run(&["key", "create", &id, "--name", "x"]).0);
    assert!(run(&["key", "list", &id]).1.contains("active"));
    let (done, _, why) = run(&["user", "state", "4711", "disabled"]);
    assert!(!done && why.contains("there is no person 4711"), "{why}");
});

#[actix_web::test]
async fn settings_are_shown_without_secrets_and_checked_in_full() {
    let app = spawn_app().await;
    let shown = text(&app.command(&["settings", "show"]).stdout);
    assert!(shown.contains("batch_size: 500") && shown.contains("secret: '********'"), "{shown}");
    assert!(!shown.contains(crate::helpers::SECRET));
    assert!(app.command(&["settings", "check"]).status.success());
    let mut open = app.environment.clone();
    open.extend(
        ["ID", "SECRET"].map(|name| {
            (format!("BEDROCK_OAUTH__PROVIDERS__GOOGLE__CLIENT_{name}"), "x".to_owned())
        }),
    );
    let told = text(&command(&open, &["settings", "check"]).stdout);
    assert!(told.contains("anybody with an account at google may sign in"), "{told}");

    let file = app.folder.path().join("bad.yaml");
    std::fs::write(&file, "server: {prot: 1, port: x}\naws: {region: Nowhere}\n").unwrap();
    let mut environment = app.environment.clone();
    environment.retain(|(name, _)| {
        !["BEDROCK_JWT__SECRET", "BEDROCK_AWS__REGION", "BEDROCK_SERVER__PORT"]
            .contains(&name.as_str())
    });
    let checked = command(&environment, &["-c", file.to_str().unwrap(), "settings", "check"]);
    let problems = text(&checked.stderr);
    assert!(!checked.status.success());
    for part in ["server.prot", "server.port", "aws.region", "jwt.secret"] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    let missing = command(&environment, &["-c", "/nonexistent.yaml", "settings", "show"]);
    assert!(!missing.status.success() && text(&missing.stderr).contains("/nonexistent.yaml"));
}

#[test]
fn every_command_s_help_has_an_example() {
    for command_name in [
        "serve", "demo", "init", "migrate", "settings", "user", "key", "session", "audit",
        "health", "job", "seed", "login", "token", "logout",
    ] {
        let help = command(&[], &[command_name, "--help"]);

        assert!(help.status.success() && text(&help.stdout).contains("Example:"), "{command_name}");
    }
}

#[actix_web::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    app.call(crate::helpers::MODEL, "invoke", &crate::helpers::message("hi"))
        .bearer(&key)
        .send()
        .await;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;

    let data = app.folder.path().join("data");
    assert_eq!((mode(&data), mode(&data.join("test.db"))), (0o700, 0o600));
    assert_eq!(mode(&app.journal_dir()), 0o700);
    for entry in std::fs::read_dir(app.journal_dir()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[actix_web::test]
async fn a_key_lives_for_the_days_that_the_settings_or_the_caller_say() {
    let app = TestServerBuilder::new()
        .set("API_KEYS__DEFAULT_EXPIRY_DAYS", 3)
        .set("API_KEYS__MAX_EXPIRY_DAYS", 5)
        .start()
        .await;
    let make = |more: &[&str]| {
        app.command(&[&["key", "create", PERSON, "--name", "x"], more].concat()).status.success()
    };
    assert!(app.command(&["user", "create", PERSON]).status.success());

    assert!(make(&[]) && make(&["--expires-in-days", "5"]));
    assert!(!make(&["--expires-in-days", "6"]));

    let pool = app.pool().await;
    let keys = bedrock_sso_proxy::db::api_keys::ApiKeyRecord::list(
        &mut pool.reader().await.unwrap(),
        None,
        9,
    )
    .await
    .unwrap();
    let days: Vec<i64> =
        keys.iter().map(|key| (key.expires_at.unwrap() - key.created_at).num_days()).collect();
    assert_eq!(days, [5, 3]);
}
