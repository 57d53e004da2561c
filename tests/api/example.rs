//! The example client, `examples/e2e_client.rs`, as people check an installation with it.

use std::{path::Path, process::Stdio, sync::LazyLock};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::helpers::{PERSON, TestServer, TestServerBuilder, spawn_app};

/// The example, built. `cargo test` has done so already; with `--test api` it has not.
static CLIENT: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_BIN_EXE_bedrock_proxy")).parent().unwrap();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{folder:?} names no profile"),
    };
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--offline", "--example", "e2e_client"])
        .args(["--profile", profile, "--target-dir"])
        .arg(folder.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    folder.join("examples/e2e_client")
});

/// How the client ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn run(app: &TestServer, key: &str, arguments: &[&str], input: &str) -> Ended {
    let mut client = Command::new(CLIENT.as_path())
        .args(arguments)
        .env_clear()
        .env("PROXY_URL", &app.url)
        .env("PROXY_KEY", key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = client.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[actix_web::test]
async fn health_is_told_over_plain_http_and_tls() {
    let plain = spawn_app().await;
    let tls = TestServerBuilder::new().tls().start().await;
    let certificate = tls.folder.path().join("cert.pem").display().to_string();

    let well = run(&plain, "", &["health"], "").await;
    let trusted = run(&tls, "", &["health", "--ca-file", &certificate], "").await;
    let unknown = run(&tls, "", &["health"], "").await;
    let other = run(&plain, "", &["health", "--url", &plain.simulator.url()], "").await;

    let said = format!("ok, version {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((well.code, &well.out), (Some(0), &said), "{well:?}");
    assert_eq!((trusted.code, &trusted.out), (Some(0), &said), "{trusted:?}");
    assert_eq!((unknown.code, other.code), (Some(1), Some(1)), "{unknown:?} {other:?}");
    assert!(unknown.err.contains("certificate"), "{unknown:?}");
}

#[actix_web::test]
async fn a_message_goes_over_both_routes_whole_and_streamed() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for (arguments, operation, id) in [
        (&[][..], "invoke", "request id: req_"),
        (&["--stream"][..], "invoke-with-response-stream", "request id: req_"),
        (&["--bedrock"][..], "invoke", "request id: "),
        (&["--bedrock", "--stream"][..], "invoke-with-response-stream", "request id: "),
    ] {
        let ended =
            run(&app, &key, &[&["message", "--text", "Hello"], arguments].concat(), "").await;

        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.ends_with("You said: Hello\n"), "{ended:?}");
        assert_eq!(app.last_call().operation, operation);
        let row = app.row(&key).await;
        let tokens = format!("input {}, output {}", row["input_tokens"], row["output_tokens"]);
        for part in [&tokens, "stop reason: end_turn", id] {
            assert!(ended.err.contains(part), "{part}: {ended:?}");
        }
        assert_eq!(ended.err.contains("first token: -"), !operation.ends_with("stream"));
    }
}

#[actix_web::test]
async fn a_conversation_is_kept_until_it_is_reset() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    for arguments in [&["chat", "--system", "Be brief"][..], &["chat", "--bedrock"]] {
        let first = "This is a simulated reply from Bedrock; no model was called. You said: One";
        let user = |text: &str| json!({"role": "user", "content": text});
        let kept = json!([user("One"), {"role": "assistant", "content": first}, user("Two")]);

        let ended = run(&app, &key, arguments, "One\n\nTwo").await;

        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.starts_with(first) && ended.out.ends_with("Two\n"), "{ended:?}");
        assert_eq!(ended.err.matches("[tokens: input ").count(), 2, "{ended:?}");
        assert!(!ended.err.contains('>'), "a prompt is for terminals: {ended:?}");
        let body: Value =
            serde_json::from_slice(&app.simulator.ledger().last_body().unwrap()).unwrap();
        assert_eq!(body["messages"], kept);
        assert_eq!(body["system"].is_null(), arguments.contains(&"--bedrock"));

        let ended = run(&app, &key, arguments, "One\n/reset\nTwo\n/quit\nThree\n").await;

        assert_eq!(ended.code, Some(0), "{ended:?}");
        let body: Value =
            serde_json::from_slice(&app.simulator.ledger().last_body().unwrap()).unwrap();
        assert_eq!(body["messages"], json!([user("Two")]));
    }
}

#[actix_web::test]
async fn what_fails_is_said_and_is_exit_code_1() {
    let app = spawn_app().await;
    let key = app.create_key(PERSON).await;
    let cases = [
        ("@sim:cut after=3", true, ["broke off", "broke off"]),
        ("@sim:cut_boundary after=3", true, ["broke off", "broke off"]),
        ("@sim:exception after=3", true, ["rate_limit_error: Too", "throttlingException: Too"]),
        ("@sim:errorframe after=3", true, ["api_error: boom", "InternalFailure: boom"]),
        ("@sim:throttle", true, ["429: Too many", "429: Too many"]),
        ("@sim:throttle", false, ["429: Too many", "429: Too many"]),
        ("@sim:cut after=3", false, ["529: ", "503: "]),
    ];
    for (text, stream, said) in cases {
        for (bedrock, said) in [false, true].into_iter().zip(said) {
            let mut arguments = vec!["message", "--text", text];
            arguments.extend(stream.then_some("--stream"));
            arguments.extend(bedrock.then_some("--bedrock"));
            let ended = run(&app, &key, &arguments, "").await;

            assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
            assert!(ended.err.starts_with("error: request "), "{arguments:?}: {ended:?}");
            assert!(ended.err.contains(said), "{arguments:?}: {ended:?}");
        }
    }
    let chat = run(&app, &key, &["chat"], "One @sim:throttle\nTwo\n").await;
    assert!(chat.code == Some(1) && chat.out.is_empty(), "{chat:?}");
}

#[actix_web::test]
async fn a_key_that_is_wrong_or_missing_is_said_and_never_shown() {
    let app = spawn_app().await;
    let wrong = "SSOK_abcdefghijklmnopqrstuvwxyz012345";
    for route in [&[][..], &["--stream"], &["--bedrock"], &["--bedrock", "--stream"]] {
        let ended = run(&app, wrong, &[&["message", "--text", "x"], route].concat(), "").await;

        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("401: The credential was not accepted"), "{ended:?}");
        assert!(!format!("{ended:?}").contains(wrong), "{ended:?}");
    }
    let help = run(&app, wrong, &["message", "--help"], "").await;
    assert!(help.out.contains("Example:") && !help.out.contains(wrong), "{help:?}");
}
