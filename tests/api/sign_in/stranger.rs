//! A provider that is a stranger: it says what it likes, as long as it likes, and counts what becomes of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bedrock_sso_proxy::simulator::identity::Fault;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::helpers::PERSON;

/// How it answers.
#[derive(Debug, Clone)]
pub enum Manner {
    /// A status and a place to go to.
    Redirect(u16, String),
    /// A body without end, as fast as it is taken.
    Endless,
    /// A byte now and then, without end.
    Drip,
    /// Exactly this.
    Plain(String),
}

pub struct Stranger {
    pub address: SocketAddr,
    /// Requests that came.
    pub requests: Arc<AtomicUsize>,
    /// Bytes that were taken, among them those on their way in the system's buffers.
    pub written: Arc<AtomicUsize>,
}

impl Stranger {
    /// Listens for as long as the test runs.
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, written) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (seen, taken) = (requests.clone(), written.clone());
        actix_web::rt::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                seen.fetch_add(1, SeqCst);
                actix_web::rt::spawn(serve(connection, manner.clone(), taken.clone()));
            }
        });
        Self { address, requests, written }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(mut connection: TcpStream, manner: Manner, written: Arc<AtomicUsize>) {
    let mut head = vec![0; 16 * 1024];
    let Ok(1..) = connection.read(&mut head).await else { return };
    let start = match &manner {
        Manner::Redirect(status, to) => format!(
            "HTTP/1.1 {status} Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ),
        Manner::Endless | Manner::Drip => {
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n6\r\n{\"a\":\"\r\n"
                .to_owned()
        }
        Manner::Plain(body) => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ),
    };
    if connection.write_all(start.as_bytes()).await.is_err() {
        return;
    }
    loop {
        let piece = match manner {
            Manner::Endless => format!("10000\r\n{}\r\n", "a".repeat(1 << 16)),
            Manner::Drip => "1\r\na\r\n".to_owned(),
            _ => return,
        };
        if matches!(manner, Manner::Drip) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if connection.write_all(piece.as_bytes()).await.is_err() {
            return;
        }
        written.fetch_add(piece.len(), SeqCst);
    }
}

/// Plain OAuth 2.0: the browser goes to the good provider, the service to the stranger.
fn with_stranger(token: &str, user_info: &str) -> TestServerBuilder {
    unlimited()
        .set("OAUTH__PROVIDERS__ODD__KIND", "github")
        .set("OAUTH__PROVIDERS__ODD__AUTHORIZATION_URL", "{issuer}/login/oauth/authorize")
        .set("OAUTH__PROVIDERS__ODD__TOKEN_URL", token)
        .set("OAUTH__PROVIDERS__ODD__USER_INFO_URL", user_info)
        .set("OAUTH__PROVIDERS__ODD__CLIENT_ID", "demo-client")
        .set("OAUTH__PROVIDERS__ODD__CLIENT_SECRET", "simulated-client-secret-of-the-demo")
}

#[actix_web::test]
async fn no_redirect_is_followed_with_a_code_or_without() {
    let trap = Stranger::start(Manner::Plain("{}".to_owned())).await;
    for status in [301, 302, 303, 307, 308] {
        let odd = Stranger::start(Manner::Redirect(status, format!("{}/x", trap.url()))).await;
        let app = with_stranger(&format!("{}/token", odd.url()), &format!("{}/user", odd.url()))
            .set("OAUTH__PROVIDERS__FAR__ISSUER", odd.url())
            .set("OAUTH__PROVIDERS__FAR__CLIENT_ID", "demo-client")
            .set("OAUTH__PROVIDERS__FAR__CLIENT_SECRET", "x")
            .start()
            .await;
        let browser = app.browser();

        let discovery = browser.get("/auth/authorize/far").await;
        let back = way_back(&browser, "odd", &[("person", DEVELOPER)]).await;
        let token = browser.get(&back).await;

        for reply in [discovery, token] {
            assert_eq!(reply.status, 503, "{status}: {reply:?}");
            assert!(said(&reply).contains("cannot be used at the moment"), "{}", said(&reply));
        }
        assert_eq!(odd.requests.load(SeqCst), 2, "{status}: discovery and the token, once each");
    }
    assert_eq!(trap.requests.load(SeqCst), 0);
}

#[actix_web::test]
async fn an_answer_without_end_is_given_up_at_its_bound() {
    let odd = Stranger::start(Manner::Endless).await;
    let app = with_stranger(&format!("{}/token", odd.url()), &format!("{}/user", odd.url()))
        .set("OAUTH__PROVIDERS__FAR__ISSUER", odd.url())
        .set("OAUTH__PROVIDERS__FAR__CLIENT_ID", "demo-client")
        .set("OAUTH__PROVIDERS__FAR__CLIENT_SECRET", "x")
        .start()
        .await;
    let key = app.create_key(PERSON).await;
    let browser = app.browser();
    for what in ["discovery", "token"] {
        let before = odd.written.load(SeqCst);

        let reply = match what {
            "discovery" => browser.get("/auth/authorize/far").await,
            _ => {
                let back = way_back(&browser, "odd", &[("person", DEVELOPER)]).await;
                browser.get(&back).await
            }
        };

        assert_eq!(reply.status, 503, "{what}: {reply:?}");
        let taken = odd.written.load(SeqCst) - before;
        assert!(taken < 12 << 20, "{what}: {taken} bytes were taken");
    }
    assert_eq!(app.get("/auth/me").bearer(&key).send().await.status, 200);
}

#[actix_web::test]
async fn what_is_no_document_is_refused_and_named() {
    for (document, says) in [
        ("", "discovery document"),
        ("null", "discovery document"),
        ("[]", "discovery document"),
        ("{}", "discovery document"),
        ("\"text\"", "discovery document"),
        ("{\"issuer\":", "discovery document"),
        ("<!doctype html>", "discovery document"),
        ("{\"issuer\":\"https://evil.example\"}", "discovery document"),
        ("{\"issuer\":1}", "discovery document"),
    ] {
        let odd = Stranger::start(Manner::Plain(document.to_owned())).await;
        let app = unlimited()
            .set("OAUTH__PROVIDERS__FAR__ISSUER", odd.url())
            .set("OAUTH__PROVIDERS__FAR__CLIENT_ID", "demo-client")
            .set("OAUTH__PROVIDERS__FAR__CLIENT_SECRET", "x")
            .start()
            .await;
        let browser = app.browser();

        let reply = browser.get("/auth/authorize/far").await;

        assert_eq!(reply.status, 503, "{document}: {reply:?}");
        assert!(said(&reply).contains(says) && said(&reply).contains("issuer"), "{}", said(&reply));
        assert_eq!(browser.cookie("bedrock_login"), None, "{document}");
    }
}

/// Profiles that a provider of plain OAuth 2.0 may tell, and whether they make a person.
#[actix_web::test]
async fn what_is_no_person_does_not_come_in() {
    let token = Stranger::start(Manner::Plain(
        "{\"access_token\":\"t\",\"token_type\":\"bearer\"}".to_owned(),
    ))
    .await;
    for (profile, let_in) in [
        ("{\"id\":7}", true),
        ("{\"id\":\"7\"}", true),
        ("{\"id\":18446744073709551615}", true),
        ("{\"id\":-1}", true),
        ("{\"id\":1.5}", false),
        ("{\"id\":1e2}", false),
        ("{\"id\":null}", false),
        ("{\"id\":true}", false),
        ("{\"id\":[7]}", false),
        ("{\"id\":{}}", false),
        ("{\"id\":\"\"}", false),
        ("{\"sub\":7}", false),
        ("{}", false),
        ("[]", false),
        ("null", false),
        ("7", false),
        ("", false),
    ] {
        let odd = Stranger::start(Manner::Plain(profile.to_owned())).await;
        let app = with_stranger(&format!("{}/token", token.url()), &format!("{}/user", odd.url()))
            .set("OAUTH__PROVIDERS__ODD__KIND", "custom")
            .set("OAUTH__PROVIDERS__ODD__USER_ID_FIELD", "id")
            .start()
            .await;
        let browser = app.browser();
        let back = way_back(&browser, "odd", &[("person", DEVELOPER)]).await;

        let reply = browser.get(&back).await;

        assert_eq!(reply.status, if let_in { 302 } else { 403 }, "{profile}: {reply:?}");
        assert_eq!(count(&app, "users").await, i64::from(let_in), "{profile}");
        if !let_in {
            assert!(said(&reply).contains("user_id_field"), "{profile}: {}", said(&reply));
        }
    }
}

/// The one slow test: nothing that a provider does takes longer than ten seconds of a browser's time.
#[actix_web::test]
async fn a_provider_that_takes_its_time_is_given_up_after_ten_seconds() {
    let (cold, warm) = (unlimited().start().await, unlimited().start().await);
    let drip = Stranger::start(Manner::Drip).await;
    let dripping = unlimited().set("OAUTH__PROVIDERS__SSO__ISSUER", drip.url()).start().await;
    let key = warm.create_key(PERSON).await;
    let browser = warm.browser();
    let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    for app in [&cold, &warm] {
        app.identity().misbehave(Some(Fault::Slow));
    }
    let started = Instant::now();

    let (cold_browser, drip_browser) = (cold.browser(), dripping.browser());
    let meanwhile = async {
        let reply = warm.get("/auth/me").bearer(&key).send().await;
        (reply.status, started.elapsed())
    };
    let (begun, ended, dripped, (status, after)) = futures_util::join!(
        cold_browser.get("/auth/authorize/sso"),
        browser.get(&back),
        drip_browser.get("/auth/authorize/sso"),
        meanwhile,
    );

    let took = started.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_millis(11_500), "{took:?}");
    assert_eq!(status, 200);
    assert!(after < Duration::from_secs(3), "others wait for nothing: {after:?}");
    for reply in [begun, ended, dripped] {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some());
        assert!(said(&reply).contains("cannot be used at the moment"), "{}", said(&reply));
    }
    for app in [&cold, &warm] {
        app.identity().misbehave(None);
        app.signed_in(DEVELOPER).await;
    }
}
