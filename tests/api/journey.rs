//! What people do, in a real browser in front of the real application: sign in, let the command line or a device in,
//! use what they got, sign out.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::helpers::{TestServer, TestServerBuilder};

/// Runs one file of journeys to its end, over plain HTTP; all of its `tests` have to pass.
async fn passes(file: &str, tests: usize) {
    passes_at(TestServerBuilder::new(), file, tests).await;
}

async fn passes_at(builder: TestServerBuilder, file: &str, tests: usize) {
    let app = started(builder).await;
    passes_on(&app, file, tests).await;
}

/// All browsers come from one address.
async fn started(builder: TestServerBuilder) -> TestServer {
    builder
        .sign_in()
        .set("RATE_LIMITS__SIGN_IN_STARTS_PER_MINUTE", 0)
        .set("RATE_LIMITS__CALLBACKS_PER_MINUTE", 0)
        .start()
        .await
}

async fn passes_on(app: &TestServer, file: &str, tests: usize) {
    let given = |name| std::env::var(name).unwrap_or_else(|_| panic!("`make test` sets {name}"));
    let _needed = (given("TEST_CHROMIUM"), given("TEST_NODE_MODULES"));
    let folder = app.folder.path().join("browser");
    std::fs::create_dir(&folder).unwrap();
    let suite = Command::new(given("TEST_NODE"))
        .args(["--test-reporter=tap", &format!("tests/pages/{file}.test.mjs")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PAGES_SERVICE", app.browser().base)
        .env("PAGES_PROVIDER", app.identity().issuer())
        .env("PAGES_PROVIDER_NAME", "sso")
        .env("PAGES_PROGRAM", env!("CARGO_BIN_EXE_bedrock_proxy"))
        .env("PAGES_SHOWN", Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("pages"))
        .env("PAGES_FOLDER", &folder)
        // Not there without TLS, which is only a warning.
        .env("NODE_EXTRA_CA_CERTS", app.folder.path().join("cert.pem"))
        // What the browser leaves behind goes with the folder.
        .env("HOME", &folder)
        .env("TMPDIR", &folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();

    let ended = tokio::time::timeout(Duration::from_secs(300), suite).await;

    let output = ended.expect("it ends in time").expect("node runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = format!("# pass {tests}");
    assert!(text.lines().any(|line| line == passed), "not {passed}: {text}");
}

#[actix_web::test]
async fn a_person_signs_in_makes_a_key_and_signs_out() {
    passes("session", 3).await;
}

#[actix_web::test]
async fn a_person_does_so_over_tls() {
    passes_at(TestServerBuilder::new().tls(), "session", 3).await;
}

#[actix_web::test]
async fn a_device_is_let_in_or_denied() {
    passes("devices", 2).await;
}

#[actix_web::test]
async fn the_command_line_signs_in_refreshes_once_and_signs_out() {
    passes("command_line", 3).await;
}

#[actix_web::test]
async fn pages_are_sound_and_show_hostile_text_as_text() {
    passes("looks", 8).await;
}

#[actix_web::test]
async fn pages_of_others_cannot_act_in_a_persons_name() {
    passes("cross_site", 2).await;
}

#[actix_web::test]
async fn every_page_is_accessible_small_and_whole_without_scripts() {
    let app = started(TestServerBuilder::new()).await;
    let seeded = app.command(&["seed", "--people", "20", "--days", "35"]);
    assert!(seeded.status.success(), "{seeded:?}");
    passes_on(&app, "every", 6).await;
}

#[actix_web::test]
async fn an_admin_imports_and_changes_prices() {
    passes("prices", 2).await;
}

#[actix_web::test]
async fn an_admin_looks_after_people_streams_jobs_and_the_log() {
    passes("admin", 4).await;
}

#[actix_web::test]
async fn a_person_makes_uses_and_revokes_keys() {
    let builder = TestServerBuilder::new()
        .set("RATE_LIMITS__KEY_CREATIONS_PER_HOUR", 0)
        .set("API_KEYS__MAX_KEYS_PER_USER", 100);
    passes_at(builder, "keys", 6).await;
}

#[actix_web::test]
async fn a_person_points_tools_here_and_tests_the_way() {
    // Bedrock has no such profile.
    let refused = "refused=jp.anthropic.claude-opus-4-1-20250805-v1:0";
    passes_at(TestServerBuilder::new().set("MODELS__ALIASES", refused), "connect", 4).await;
}

#[actix_web::test]
async fn usage_is_narrowed_paged_through_and_taken_away() {
    passes("usage", 3).await;
}

#[actix_web::test]
async fn the_api_is_read_and_tried_in_a_browser() {
    passes("docs", 4).await;
}
