//! The official SDKs against the real application: boto3 over TLS, Anthropic's over plain HTTP.

use bedrock_sso_proxy::settings::{Need, Settings};
use tokio::process::Command;

use crate::helpers::{PERSON, TestServer, TestServerBuilder, spawn_app};

/// The service twice on one database, and everything that a suite of tests has to know of it.
struct Service {
    environment: Vec<(&'static str, String)>,
    _plain: TestServer,
    _tls: TestServer,
}

impl Service {
    async fn start() -> Self {
        let plain = spawn_app().await;
        // The same service once more, with TLS, on the same database: boto3 sends a bearer token over nothing less.
        let mut second = plain.environment.clone();
        second.retain(|(name, _)| name != "BEDROCK_USAGE__JOURNAL_DIR");
        let mut builder = TestServerBuilder::new().tls();
        for (name, value) in &second {
            builder = builder.set(name.trim_start_matches("BEDROCK_"), value);
        }
        let journal = plain.folder.path().join("journal-of-the-second");
        let tls = builder.set("USAGE__JOURNAL_DIR", journal.display()).start().await;
        let key = plain.create_key(PERSON).await;
        let other = plain.create_key("other@example.com").await;
        let revoked = plain.create_key("other@example.com").await;
        let token = plain.create_token(PERSON).await;
        assert!(plain.command(&["key", "revoke", "3"]).status.success());
        assert!(Settings::from_layers(None, second.into_iter(), Need::Service).is_ok());
        let environment = vec![
            ("PROXY_URL", plain.url.clone()),
            ("PROXY_TLS_URL", tls.url.clone()),
            ("PROXY_CA_FILE", tls.folder.path().join("cert.pem").display().to_string()),
            ("PROXY_KEY", key),
            ("PROXY_OTHER_KEY", other),
            ("PROXY_REVOKED_KEY", revoked),
            ("PROXY_TOKEN", token),
            ("SIMULATOR_URL", plain.simulator.url()),
        ];
        Self { environment, _plain: plain, _tls: tls }
    }

    /// Runs a suite of tests to its end, and answers the line that says how it ended.
    async fn passes(&self, suite: &mut Command) -> String {
        let output = suite
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(self.environment.iter().cloned())
            .output()
            .await
            .expect("the suite's program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text.into_owned()
    }

    async fn passes_pytest(&self, python: &str, tests: &str) {
        let python = std::env::var(python)
            .unwrap_or_else(|_| panic!("{python} has the SDKs; `make test` makes it"));
        let mut suite = Command::new(python);
        suite.args(["-m", "pytest", "-q", tests]).env("PYTHONDONTWRITEBYTECODE", "1");
        let text = self.passes(&mut suite).await;
        assert!(text.contains(" passed"), "{text}");
        println!("{}", text.lines().last().unwrap_or_default());
    }
}

#[actix_web::test]
async fn the_official_python_sdks_work_unchanged() {
    Service::start().await.passes_pytest("TEST_PYTHON", "tests/clients").await;
}

#[actix_web::test]
async fn the_official_typescript_sdk_works_unchanged() {
    let given = |name| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} has the SDK; `make test` makes it"))
    };
    let _packages = given("TEST_NODE_MODULES");
    let mut suite = Command::new(given("TEST_NODE"));
    suite.args(["--test", "--test-reporter=tap", "tests/clients/typescript/messages.test.mjs"]);

    let text = Service::start().await.passes(&mut suite).await;

    let passed = text.lines().find(|line| line.starts_with("# pass ")).unwrap_or_default();
    assert!(!matches!(passed, "" | "# pass 0"), "{text}");
    println!("{passed}");
}

#[actix_web::test]
async fn the_python_sdk_before_1_0_works_unchanged() {
    let tests = "tests/clients/test_messages.py";
    Service::start().await.passes_pytest("TEST_PYTHON_0X", tests).await;
}
