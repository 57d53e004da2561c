//! Where browsers are sent: by the settings and nothing else.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::helpers::form;

/// Paths that lead away, or might.
const AWAY: &[&str] = &[
    "",
    " ",
    "evil.example",
    "keys",
    "@evil.example",
    ".evil.example",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "//evil.example/%2f..",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/\\/evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/ /evil.example",
    "\u{0}//evil.example",
    "/\u{0}/evil.example",
    "/\u{7f}",
    "/\u{a0}/evil.example",
    "/\u{ff0f}evil.example",
    "\u{ff0f}\u{ff0f}evil.example",
    "https://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "http://localhost/",
    "HTTPS://evil.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "ftp://evil.example",
    "//localhost@evil.example",
    "//evil.example:443",
    "//[::1]",
    "/..//evil.example",
    "/.//evil.example",
    "/a/..//evil.example",
    "/a/../..//evil.example",
    "/%2e%2e//evil.example",
    "/%2e//evil.example",
    "%2f%2fevil.example",
    "%2F%2Fevil.example",
    "%5c%5cevil.example",
    "?//evil.example",
    "#//evil.example",
    "/x\r\nSet-Cookie: a=b",
    "/x\r\nLocation: https://evil.example",
];

/// Paths that look bad and stay here.
const HERE: &[&str] = &[
    "/",
    "/keys",
    "/device?user_code=BCDF-GHJK",
    "/@evil.example",
    "/evil.example",
    "/%2f%2fevil.example",
    "/%2fevil.example",
    "/%5cevil.example",
    "/%09/evil.example",
    "/%0d%0aSet-Cookie:%20a=b",
    "/https://evil.example",
    "/javascript:alert(1)",
    "/x?next=//evil.example",
    "/x?next=https://evil.example",
    "/x#//evil.example",
    "/x//evil.example",
    "/;@evil.example",
    "/:443",
    "/login/cli?redirect_uri=https%3A%2F%2Fevil.example",
];

#[actix_web::test]
async fn a_next_that_leads_away_is_refused_and_shown_to_nobody() {
    let app = unlimited().start().await;
    for next in AWAY {
        let query = form(&[("next", next)]);
        for accept in [HTML, JSON] {
            let path = format!("/auth/authorize/sso?{query}");

            let reply = app.get(&path).header("accept", accept).send().await;

            assert_eq!(reply.status, 400, "{next:?}: {reply:?}");
            assert!(reply.headers.get("set-cookie").is_none(), "{next:?}");
            assert!(reply.headers.get("location").is_none(), "{next:?}");
            assert!(message(&reply, accept).contains("next"), "{next:?}");
        }
        let login = app.browser().get(&format!("/login?{query}")).await;
        assert_eq!(login.status, 200, "{next:?}");
        let html = text(&login);
        // To the name that the provider sends browsers back to, by whatever name they come here.
        let begin = format!("href=\"{}/auth/authorize/sso\"", app.shared().sign_in.public_url);
        assert!(begin.contains("http://localhost:") && html.contains(&begin), "{next:?}: {html}");
        assert!(!html.contains("evil") && !html.contains("alert"), "{next:?}: {html}");
        assert!(!sets_cookie(&login, "a"), "{next:?}");
    }
    assert_eq!(app.identity().ledger().len(), 0, "nobody was sent anywhere");
}

#[actix_web::test]
async fn a_next_that_only_looks_bad_stays_here() {
    let app = unlimited().start().await;
    for next in HERE {
        let browser = app.browser();
        let at = browser.begin("sso", next).await;
        let back = browser.consent(&at, &[("person", DEVELOPER)]).await;

        let end = browser.get(&back).await;

        assert_eq!(end.status, 302, "{next}: {end:?}");
        let place = end.header("location").unwrap();
        assert_eq!(place, *next);
        let base = url::Url::parse(&browser.base).unwrap();
        let read = base.join(place).unwrap();
        assert_eq!(read.origin(), base.origin(), "{next}");
        assert!(!sets_cookie(&end, "a"), "{next}");
    }
}

#[actix_web::test]
async fn what_comes_back_from_the_provider_cannot_change_where_it_goes_on() {
    let app = unlimited().start().await;
    for (name, value) in [
        ("next", "//evil.example"),
        ("redirect_uri", "https://evil.example"),
        ("return_to", "https://evil.example"),
        ("url", "https://evil.example"),
    ] {
        let browser = app.browser();
        let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;

        let end = browser.get(&with(&back, name, Some(value))).await;

        assert_eq!((end.status.as_u16(), end.header("location")), (302, Some("/")), "{name}");
    }
}

/// An answer, read without the helpers: they write a Host of their own.
struct Raw {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Raw {
    async fn ask(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> Self {
        let mut head = format!("{line} HTTP/1.1\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _reset = connection.read_to_string(&mut answer).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status, headers, body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn cookies(&self) -> Vec<&str> {
        let lines = self.headers.iter().filter(|(name, _)| name == "set-cookie");
        lines.map(|(_, value)| value.as_str()).collect()
    }
}

/// Headers in which somebody may claim that the service is elsewhere.
const CLAIMS: &[(&str, &str)] = &[
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "8443"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-server", "evil.example"),
    ("x-forwarded-for", "192.0.2.1"),
    ("forwarded", "for=192.0.2.1;host=evil.example;proto=https"),
    ("x-original-url", "/auth/authorize/evil"),
    ("x-rewrite-url", "/auth/authorize/evil"),
    ("x-host", "evil.example"),
    ("x-http-host-override", "evil.example"),
    ("origin", "https://evil.example"),
    ("referer", "https://evil.example/"),
    ("x-real-ip", "192.0.2.1"),
];

#[actix_web::test]
async fn no_header_changes_where_the_provider_sends_browsers_or_where_codes_are_typed() {
    for trusted in ["", "127.0.0.1"] {
        let app = unlimited().set("SERVER__TRUSTED_PROXIES", trusted).start().await;
        let own = format!("localhost:{}", app.address().port());
        let own_url = format!("http://{own}");
        for host in [own.as_str(), "evil.example", "evil.example:443"] {
            for claim in CLAIMS {
                let name = format!("{host} {claim:?}, trusted: {trusted}");
                let headers = [("host", host), *claim, ("content-length", "0")];
                let ask = |line: &'static str| Raw::ask(app.address(), line, &headers);

                let begun = ask("GET /auth/authorize/sso").await;
                let device = ask("POST /auth/device").await;

                assert_eq!(begun.status, 302, "{name}");
                let place = begun.header("location").unwrap();
                assert!(place.starts_with(&app.identity().issuer()), "{name}: {place}");
                let redirect = parameter(place, "redirect_uri").unwrap();
                assert_eq!(redirect, format!("{own_url}/auth/callback/sso"), "{name}");
                assert!(!begun.cookies()[0].contains("Domain"), "{name}");
                assert_eq!(device.status, 200, "{name}: {}", device.body);
                let told: serde_json::Value = serde_json::from_str(&device.body).unwrap();
                assert_eq!(told["verification_uri"], format!("{own_url}/device"), "{name}");
                let complete = told["verification_uri_complete"].as_str().unwrap();
                assert!(complete.starts_with(&format!("{own_url}/device?")), "{name}: {complete}");
            }
        }
        // The same in the request line, which goes over the Host header.
        let begun = Raw::ask(
            app.address(),
            "GET http://evil.example/auth/authorize/sso",
            &[("host", "evil.example")],
        )
        .await;
        if begun.status == 302 {
            let redirect = parameter(begun.header("location").unwrap(), "redirect_uri").unwrap();
            assert_eq!(redirect, format!("{own_url}/auth/callback/sso"));
        } else {
            assert_eq!(begun.status, 400);
        }
    }
}

#[actix_web::test]
async fn a_query_cannot_change_what_the_provider_is_asked() {
    let app = unlimited().start().await;
    for query in [
        "redirect_uri=https://evil.example",
        "scope=admin",
        "state=x",
        "nonce=x",
        "client_id=x",
        "response_type=token",
        "code_challenge=x",
        "response_mode=form_post",
        "prompt=none",
        "next=/&redirect_uri=https://evil.example",
    ] {
        let reply = app.get(&format!("/auth/authorize/sso?{query}")).send().await;

        assert_eq!(reply.status, 400, "{query}: {reply:?}");
        assert!(reply.headers.get("set-cookie").is_none(), "{query}");
    }
    let reply = app.get("/auth/authorize/sso").send().await;
    let place = reply.header("location").unwrap();
    for (name, wanted) in [
        ("response_type", Some("code")),
        ("client_id", Some("demo-client")),
        ("code_challenge_method", Some("S256")),
        ("response_mode", None),
        ("prompt", None),
    ] {
        assert_eq!(parameter(place, name).as_deref(), wanted, "{name}");
    }
    for name in ["state", "nonce", "code_challenge"] {
        assert_eq!(parameter(place, name).unwrap().len(), 43, "{name}");
    }
    assert!(!place.contains("simulated-client-secret"));
}

#[actix_web::test]
async fn names_that_are_no_provider_are_not_found() {
    let app = unlimited().start().await;
    for name in [
        "SSO",
        "sso%00",
        "sso%20",
        "nobody",
        "local",
        "%2e%2e",
        "sso.evil",
        "sso%2f..",
        "%73%73%6f%0a",
        "<script>",
        "'",
        "sso;x",
        "*",
    ] {
        for at in ["authorize", "callback"] {
            let name = name.replace('<', "%3C").replace('>', "%3E");
            let path = format!("/auth/{at}/{name}?state=x");

            let reply = app.get(&path).header("accept", HTML).send().await;

            assert!(matches!(reply.status.as_u16(), 400 | 404), "{path}: {reply:?}");
            assert!(!text(&reply).contains("<script>"), "{path}");
            assert!(reply.headers.get("set-cookie").is_none(), "{path}");
        }
    }
    assert_eq!(app.identity().ledger().len(), 0);
}

#[actix_web::test]
async fn over_https_cookies_belong_to_this_host_alone() {
    let app = unlimited()
        .identity(|provider| {
            provider.redirect_uris = vec!["https://proxy.example.com/auth/callback/sso".to_owned()];
        })
        .set("SERVER__PUBLIC_URL", "https://proxy.example.com")
        .start()
        .await;
    let host = ("host", "proxy.example.com");
    let attributes = |line: &str| {
        let mut parts: Vec<String> = line.split("; ").skip(1).map(str::to_owned).collect();
        parts.sort();
        parts.join("; ")
    };

    let begun = Raw::ask(app.address(), "GET /auth/authorize/sso?next=/keys", &[host]).await;

    let cookie = begun.cookies()[0].to_owned();
    assert!(cookie.starts_with("__Host-bedrock_login="), "{cookie}");
    assert_eq!(attributes(&cookie), "HttpOnly; Max-Age=600; Path=/; SameSite=Lax; Secure");
    let place = begun.header("location").unwrap();
    assert_eq!(
        parameter(place, "redirect_uri").as_deref(),
        Some("https://proxy.example.com/auth/callback/sso")
    );
    let back = app.browser().consent(place, &[("person", DEVELOPER)]).await;
    let back = back.strip_prefix("https://proxy.example.com").unwrap().to_owned();
    let pending = cookie.split(';').next().unwrap().to_owned();
    // The name without its prefix, which anybody beside this host could have set, is not read.
    let weak = pending.replace("__Host-", "");
    let refused = Raw::ask(app.address(), &format!("GET {back}"), &[host, ("cookie", &weak)]).await;
    assert_eq!(refused.status, 400, "{}", refused.body);

    let end = Raw::ask(app.address(), &format!("GET {back}"), &[host, ("cookie", &pending)]).await;

    assert_eq!((end.status, end.header("location")), (302, Some("/keys")), "{}", end.body);
    let lines = end.cookies();
    let session = lines.iter().find(|line| line.starts_with("__Host-bedrock_session=")).unwrap();
    assert_eq!(attributes(session), "HttpOnly; Path=/; SameSite=Lax; Secure");
    let gone = lines.iter().find(|line| line.starts_with("__Host-bedrock_login=;")).unwrap();
    assert_eq!(attributes(gone), "HttpOnly; Max-Age=0; Path=/; SameSite=Lax; Secure");
    assert_eq!(lines.len(), 2);
    let session = session.split(';').next().unwrap();
    let weak = session.replace("__Host-", "");
    for (cookie, status) in [(session, 200), (weak.as_str(), 303)] {
        let home = Raw::ask(app.address(), "GET /", &[host, ("cookie", cookie)]).await;
        assert_eq!(home.status, status, "{cookie}");
    }
    // Any other host is not this service, whatever a header says.
    for (host, claim) in [
        ("evil.example", ("x-forwarded-host", "proxy.example.com")),
        ("evil.example", ("forwarded", "host=proxy.example.com")),
        ("proxy.example.com.evil.example", ("x-a", "b")),
        ("proxy.example.com:8443", ("x-a", "b")),
        ("localhost", ("x-forwarded-host", "proxy.example.com")),
    ] {
        for line in ["GET /auth/authorize/sso", "GET /", "GET /login", "POST /auth/device"] {
            let headers = [("host", host), claim, ("content-length", "0")];
            let reply = Raw::ask(app.address(), line, &headers).await;
            assert_eq!(reply.status, 400, "{line} at {host}");
        }
    }
    let device =
        Raw::ask(app.address(), "POST /auth/device", &[host, ("content-length", "0")]).await;
    assert!(device.body.contains("https://proxy.example.com/device\""), "{}", device.body);
}

#[actix_web::test]
async fn a_cookie_does_not_go_over_the_network_in_clear() {
    for (url, starts) in [
        ("http://proxy.example.com", false),
        ("http://192.0.2.1:3000", false),
        ("http://localhost.evil.example", false),
        ("http://127.0.0.1.evil.example", false),
        ("ftp://proxy.example.com", false),
        ("proxy.example.com", false),
        ("https://proxy.example.com/path", false),
        ("https://user@proxy.example.com", false),
        ("http://localhost:3000", true),
        ("http://127.0.0.1:3000", true),
        ("https://proxy.example.com", true),
    ] {
        let started = unlimited().set("SERVER__PUBLIC_URL", url).try_start().await;

        assert_eq!(started.is_ok(), starts, "{url}: {:?}", started.err());
    }
}
