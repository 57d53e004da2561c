//! Canaries: whatever is secret is looked for in logs at their most talkative, in the database, in metrics and in
//! answers that are errors.

use std::collections::BTreeMap;

use bedrock_sso_proxy::simulator::identity::{IdentityConfig, IdentityProvider};
use serde_json::json;

use crate::{
    helpers::{Browser, MODEL, message, messages, request_to},
    lifecycle::Process,
};

const PROMPT: &str = "canary-in-a-prompt-b7c1d2";

#[actix_web::test]
async fn no_secret_is_in_logs_database_metrics_or_errors() {
    let identity = IdentityProvider::start(IdentityConfig::default()).await.unwrap();
    let client_secret = IdentityConfig::default().client_secret;
    let set = BTreeMap::from([
        ("jwt secret", "canary-of-the-jwt-secret-with-32-bytes-or-more"),
        ("pepper", "canary-of-the-pepper-with-32-bytes-or-more-91"),
        ("encryption key", "canary-of-the-encryption-key-with-32-bytes-4"),
        ("metrics token", "canary-of-the-metrics-token-55a1"),
    ]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics_port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let mut process = Process::start_with(&[
        ("BEDROCK_METRICS__PORT", &metrics_port),
        ("BEDROCK_LOGGING__LEVEL", "trace"),
        ("BEDROCK_JWT__SECRET", set["jwt secret"]),
        ("BEDROCK_SECRETS__API_KEY_PEPPER", set["pepper"]),
        ("BEDROCK_SECRETS__ENCRYPTION_KEY", set["encryption key"]),
        ("BEDROCK_METRICS__TOKEN", set["metrics token"]),
        ("BEDROCK_OAUTH__PROVIDERS__SSO__ISSUER", &identity.issuer()),
        ("BEDROCK_OAUTH__PROVIDERS__SSO__CLIENT_ID", &IdentityConfig::default().client_id),
        ("BEDROCK_OAUTH__PROVIDERS__SSO__CLIENT_SECRET", &client_secret),
        ("BEDROCK_OAUTH__PROVIDERS__SSO__SCOPES", "openid,email,profile,offline_access"),
        ("BEDROCK_ADMIN__PROVIDERS", "sso"),
    ])
    .await;
    let mut canaries: Vec<(String, String)> =
        set.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    canaries.push(("client secret".into(), client_secret));
    canaries.push(("prompt".into(), PROMPT.into()));
    let mut note = |name: &str, text: &str| {
        assert!(text.len() >= 8, "{name}: {text}");
        canaries.push((name.to_owned(), text.to_owned()));
    };
    let mut errors: Vec<Vec<u8>> = Vec::new();

    // A sign-in, and all that comes of it.
    let browser = Browser::new(&process.url);
    let at = browser.begin("sso", "/").await;
    note("state", &query(&at, "state"));
    note("nonce", &query(&at, "nonce"));
    note("pending sign-in", &browser.cookie("bedrock_login").unwrap());
    let back = browser.consent(&at, &[("person", "1001")]).await;
    note("provider's code", &query(&back, "code"));
    assert_eq!(browser.get(&back).await.status, 302);
    note("session", &browser.cookie("bedrock_session").unwrap());
    note("csrf token", &browser.csrf().await);
    let key = browser.api("POST", "/api/keys", Some(&json!({"name": "x"}))).await.json();
    note("key", key["key"].as_str().unwrap());
    let tokens =
        browser.api("POST", "/auth/token", Some(&json!({"grant_type": "session"}))).await.json();
    note("access token", tokens["access_token"].as_str().unwrap());
    note("refresh token", tokens["refresh_token"].as_str().unwrap());
    let device = process.get("/auth/device").method("POST").send().await.json();
    note("device code", device["device_code"].as_str().unwrap());
    note("user code", device["user_code"].as_str().unwrap());
    browser.get(&format!("/device?user_code={}", device["user_code"].as_str().unwrap())).await;
    let verifier = "canary-of-a-code-verifier-with-43-letters-or-more";
    note("code verifier", verifier);
    let asked = [
        ("redirect_uri", "http://127.0.0.1:8123/callback"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("state", "canary-of-a-state-of-a-program"),
    ];
    let csrf = browser.csrf().await;
    let fields = [&asked[..], &[("action", "allow"), ("csrf_token", &csrf)]].concat();
    let decided = browser.form("/login/cli", &fields).await;
    let html = String::from_utf8_lossy(&decided.body).into_owned();
    let link = html.split("href=\"http://127.0.0.1:8123").nth(1).unwrap();
    let code = link.split("code=").nth(1).unwrap().split(['&', '"']).next().unwrap();
    note("code of the command line", code);

    // What fails.
    for (grant, name, value) in [
        ("authorization_code", "code", code),
        (
            "urn:ietf:params:oauth:grant-type:device_code",
            "device_code",
            device["device_code"].as_str().unwrap(),
        ),
    ] {
        let body = json!({"grant_type": grant, name: value, "code_verifier": verifier,
                          "redirect_uri": "http://127.0.0.1:1/x"});
        let request = process.get("/auth/token").method("POST");
        let reply = request.header("content-type", "application/json").json(&body).send().await;
        assert_eq!(reply.status, 400);
        errors.push(reply.body.to_vec());
    }
    for (header, value) in [
        ("authorization", format!("Bearer {}x", key["key"].as_str().unwrap())),
        ("authorization", format!("Basic {}", key["key"].as_str().unwrap())),
        ("x-api-key", tokens["access_token"].as_str().unwrap().replace('.', "-")),
        ("authorization", format!("Bearer {}", tokens["refresh_token"].as_str().unwrap())),
        ("cookie", format!("bedrock_session={}x", browser.cookie("bedrock_session").unwrap())),
    ] {
        let reply = process.get("/auth/me").header(header, value).send().await;
        assert_eq!(reply.status, 401);
        errors.push(reply.body.to_vec());
    }
    let again = browser.get(&back).await;
    assert_eq!(again.status, 400);
    errors.push(again.body.to_vec());
    let at = browser.begin("sso", "/").await;
    let back = browser.consent(&at, &[("person", "1002"), ("fault", "wrong_nonce")]).await;
    errors.push(browser.get(&back).await.body.to_vec());
    let wrong = browser.form("/device", &[("csrf_token", "x"), ("user_code", "y")]).await;
    errors.push(wrong.body.to_vec());

    // Calls, good and bad.
    let bearer = key["key"].as_str().unwrap();
    for scenario in ["plain", "throttle", "stream events=3"] {
        let said = format!("{PROMPT} @sim:{scenario}");
        process.call(MODEL, "invoke", &message(&said)).bearer(bearer).send().await;
        let mut body = messages(&said);
        body["stream"] = true.into();
        process
            .get("/anthropic/v1/messages")
            .method("POST")
            .bearer(bearer)
            .json(&body)
            .send()
            .await;
    }
    let refresh = json!({"refresh_token": tokens["refresh_token"]});
    let refreshed = process
        .get("/auth/refresh")
        .method("POST")
        .header("content-type", "application/json")
        .json(&refresh)
        .send()
        .await
        .json();
    note("next refresh token", refreshed["refresh_token"].as_str().unwrap());
    note("next access token", refreshed["access_token"].as_str().unwrap());
    let metrics = request_to("GET", "", &format!("http://127.0.0.1:{metrics_port}/metrics"));
    let metrics = metrics.bearer(set["metrics token"]).send().await;
    assert!(metrics.body.len() > 1000, "{metrics:?}");
    process.signal("-TERM");
    assert_eq!(process.ended(std::time::Duration::from_secs(20)).await, Some(0));

    let mut places: Vec<(String, Vec<u8>)> =
        vec![("the log".into(), process.log()), ("the errors".into(), errors.concat())];
    places.push(("the metrics".into(), metrics.body.to_vec()));
    for entry in walk(process.folder()) {
        places.push((entry.display().to_string(), std::fs::read(&entry).unwrap()));
    }
    assert!(places[0].1.len() > 10_000, "the log is talkative");
    assert!(places.iter().any(|(name, _)| name.ends_with("test.db")));
    assert!(canaries.len() >= 12, "{}", canaries.len());
    for (name, canary) in &canaries {
        for (place, bytes) in &places {
            let found = bytes.windows(canary.len()).position(|window| window == canary.as_bytes());
            let shown = found.map(|at| {
                let around = &bytes[at.saturating_sub(200)..(at + 60).min(bytes.len())];
                String::from_utf8_lossy(around).into_owned()
            });
            assert_eq!(shown, None, "{name} is in {place}");
        }
    }
}

/// A parameter of a URL.
fn query(url: &str, name: &str) -> String {
    let (_, query) = url.split_once('?').unwrap();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.into_owned().find(|(key, _)| key == name).unwrap().1
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
