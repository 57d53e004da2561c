//! The official SDKs against the real application: boto3 over TLS, AnthropicBedrock over plain HTTP.

use bedrock_sso_proxy::settings::{Need, Settings};

use crate::helpers::{PERSON, TestServerBuilder, spawn_app};

#[actix_web::test]
async fn the_official_python_sdks_work_unchanged() {
    let python =
        std::env::var("TEST_PYTHON").expect("TEST_PYTHON has the SDKs; `make test` makes it");
    let plain = spawn_app().await;
    // The same service once more, with TLS, on the same database: boto3 sends a bearer token over nothing less.
    let mut second = plain.environment.clone();
    second.retain(|(name, _)| name != "BEDROCK_USAGE__JOURNAL_DIR");
    let mut builder = TestServerBuilder::new().tls();
    for (name, value) in &second {
        builder = builder.set(name.trim_start_matches("BEDROCK_"), value);
    }
    let tls = builder
        .set("USAGE__JOURNAL_DIR", plain.folder.path().join("journal-of-the-second").display())
        .start()
        .await;
    let key = plain.create_key(PERSON).await;
    let other = plain.create_key("other@example.com").await;
    let revoked = plain.create_key("other@example.com").await;
    let token = plain.create_token(PERSON).await;
    assert!(plain.command(&["key", "revoke", "3"]).status.success());
    assert!(Settings::from_layers(None, second.into_iter(), Need::Service).is_ok());

    let output = tokio::process::Command::new(python)
        .args(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/clients"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PROXY_URL", &plain.url)
        .env("PROXY_TLS_URL", &tls.url)
        .env("PROXY_CA_FILE", tls.folder.path().join("cert.pem"))
        .env("PROXY_KEY", key)
        .env("PROXY_OTHER_KEY", other)
        .env("PROXY_REVOKED_KEY", revoked)
        .env("PROXY_TOKEN", token)
        .env("SIMULATOR_URL", plain.simulator.url())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .await
        .unwrap();

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" passed"), "{text}");
    println!("{}", text.lines().last().unwrap_or_default());
}
