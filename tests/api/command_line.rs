//! `login` and `token`, as a person uses them: the real binary against the real service.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use url::Url;

use crate::helpers::{Browser, Request, TestServer, TestServerBuilder, command};

const ADMIN: &str = "1001";
const DEVELOPER: &str = "1002";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A home with nothing in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn environment(&self) -> Vec<(String, String)> {
        vec![("HOME".to_owned(), self.0.path().display().to_string())]
    }

    fn run(&self, arguments: &[&str]) -> Output {
        command(&self.environment(), arguments)
    }

    /// The token that is printed, in success.
    fn token(&self) -> String {
        let output = self.run(&["token"]);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim().to_owned()
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(".config/bedrock-proxy/tokens.json")
    }

    /// What is kept of the only sign-in.
    fn kept(&self) -> Value {
        let content: Value = serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap();
        content["services"].as_object().unwrap().values().next().unwrap().clone()
    }

    /// Changes what is kept of the only sign-in.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut content: Value =
            serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap();
        change(content["services"].as_object_mut().unwrap().values_mut().next().unwrap());
        std::fs::write(self.file(), content.to_string()).unwrap();
    }

    /// As if the service had last been asked long ago.
    fn make_check_old(&self) {
        self.change(|kept| kept["checked_at"] = ago(61).into());
    }

    /// Signs in through a browser; answers what the program said.
    async fn login(&self, url: &str, browser: &Browser) -> String {
        let mut program = Command::new(env!("CARGO_BIN_EXE_bedrock_proxy"))
            .args(["login", url, "--no-browser", "--timeout", "60"])
            .env_clear()
            .envs(self.environment())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(program.stdout.take().unwrap());
        let mut address = String::new();
        while !address.trim_start().starts_with("http") {
            address.clear();
            assert_ne!(out.read_line(&mut address).unwrap(), 0, "it prints where to sign in");
        }
        allow(browser, address.trim()).await;
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        assert!(program.wait().unwrap().success(), "{said}");
        said
    }
}

/// Allows what the page at this address asks, and goes where it leads.
async fn allow(browser: &Browser, address: &str) {
    let address = Url::parse(address).unwrap();
    let asked: Vec<(String, String)> = address.query_pairs().into_owned().collect();
    let csrf = browser.csrf().await;
    let mut fields = vec![("csrf_token", csrf.as_str()), ("action", "allow")];
    fields.extend(
        asked
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| *name != "code_challenge_method"),
    );
    let page = browser.form("/login/cli", &fields).await;
    assert_eq!(page.status, 200, "{page:?}");
    let html = text(&page.body);
    let (_, rest) = html.split_once("href=\"http://127.0.0.1:").expect("a link");
    let link = rest.split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&");
    let end = Request::new("GET", format!("http://127.0.0.1:{link}")).send().await;
    assert_eq!(end.status, 200, "{end:?}");
}

fn ago(seconds: i64) -> String {
    (chrono::Utc::now() - chrono::TimeDelta::seconds(seconds)).to_rfc3339()
}

async fn service() -> TestServer {
    TestServerBuilder::new().sign_in().unlimited().start().await
}

/// Something that answers every request alike, as long as the test runs.
fn stranger(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _head = stream.read(&mut [0; 4096]);
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    url
}

async fn end_sessions(app: &TestServer, browser: &Browser) {
    let id = browser.get("/auth/me").await.json()["id"].clone();
    let admin = app.signed_in(ADMIN).await;
    let ended = admin.api("DELETE", &format!("/api/admin/users/{id}/sessions"), None).await;
    assert_eq!(ended.status, 204, "{ended:?}");
}

#[actix_web::test]
async fn a_sign_in_says_where_and_as_whom() {
    let (app, home) = (service().await, Home::new());
    let browser = app.signed_in(DEVELOPER).await;
    let email = browser.get("/auth/me").await.json()["email"].as_str().unwrap().to_owned();

    let said = home.login(&app.url, &browser).await;

    assert!(said.contains(&format!("Signed in to {} as {email}.", app.url)), "{said}");
    assert!(home.kept()["checked_at"].is_string());
    assert_eq!(home.kept()["access_token"], home.token());
}

#[actix_web::test]
async fn a_token_of_an_ended_session_is_not_printed() {
    let (app, home) = (service().await, Home::new());
    let browser = app.signed_in(DEVELOPER).await;
    home.login(&app.url, &browser).await;
    end_sessions(&app, &browser).await;
    home.token(); // the service's word of a moment ago counts
    home.make_check_old();

    let output = home.run(&["token"]);

    let why = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{why}");
    assert!(why.contains(&format!("Sign in again: bedrock_proxy login {}", app.url)), "{why}");
}

#[actix_web::test]
async fn a_refused_token_is_traded_once_among_many() {
    let (app, home) = (service().await, Home::new());
    home.login(&app.url, &app.signed_in(DEVELOPER).await).await;
    let refused = format!("{}x", home.token());
    home.change(|kept| {
        kept["access_token"] = refused.clone().into();
        kept.as_object_mut().unwrap().remove("checked_at");
    });

    let mut printed: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..12).map(|_| scope.spawn(|| home.token())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });

    printed.dedup();
    assert_eq!(printed.len(), 1);
    assert_ne!(printed[0], refused);
    assert_eq!(app.get("/auth/me").bearer(&printed[0]).send().await.status, 200);
    assert_eq!(home.kept()["access_token"], printed[0]);
}

#[actix_web::test]
async fn a_good_token_is_checked_and_the_check_is_kept() {
    let (app, home) = (service().await, Home::new());
    home.login(&app.url, &app.signed_in(DEVELOPER).await).await;
    home.make_check_old();
    let before = home.kept();

    let token = home.token();

    let after = home.kept();
    assert_eq!((&before["access_token"], &after["access_token"]), (&json!(token), &json!(token)));
    assert_eq!(before["refresh_token"], after["refresh_token"]);
    assert!(after["checked_at"].as_str() > before["checked_at"].as_str(), "{after}");
}

#[actix_web::test]
async fn a_service_that_cannot_answer_says_nothing_about_the_token() {
    let (mut app, home) = (service().await, Home::new());
    home.login(&app.url, &app.signed_in(DEVELOPER).await).await;
    home.make_check_old();
    let kept = home.kept();
    app.stopped().await;
    assert_eq!(kept["access_token"], home.token(), "it is down");

    for answer in [
        "HTTP/1.1 500 Wrong\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 503 Wrong\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 429 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 302 Away\r\nlocation: /login\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nHi!\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
        "SSH-2.0\r\n",
    ] {
        let content = json!({ "version": 1, "services": { stranger(answer): kept } });
        std::fs::write(home.file(), content.to_string()).unwrap();
        let asked = Instant::now();

        assert_eq!(kept["access_token"], home.token(), "{answer}");

        assert!(asked.elapsed() < Duration::from_secs(5), "{answer}");
        assert_eq!(home.kept(), kept, "{answer}");
    }
}

#[actix_web::test]
async fn a_sign_in_where_no_service_is_fails_at_once() {
    let (app, home) = (service().await, Home::new());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lost = stranger("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let scheme = "does it begin with https:// or http:// as the service does?";
    for (url, what, fix) in [
        (format!("http://{free}"), "nothing answers at", scheme),
        (app.url.replace("http://", "https://"), "nothing answers at", scheme),
        (lost, "this does not look like a Bedrock SSO Proxy at", "404"),
    ] {
        for more in [&["--no-browser"][..], &["--device"]] {
            let asked = Instant::now();

            let output = home.run(&[&["login", &url], more].concat());

            let why = text(&output.stderr);
            assert_eq!(
                (output.status.code(), text(&output.stdout).as_str()),
                (Some(1), ""),
                "{why}"
            );
            assert!(why.contains(&format!("{what} {url}")) && why.contains(fix), "{why}");
            assert!(asked.elapsed() < Duration::from_secs(9), "{url} {more:?}");
        }
    }
    let without = text(&home.run(&["login", "localhost:3555"]).stderr);
    assert!(without.contains("https:// (http:// for localhost)"), "{without}");
}
