//! The provider as its clients see it: real sockets, and tokens checked with a library of others.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use super::*;

mod expiry;
mod faults;
mod flow;
mod github;
mod refusals;

/// The example of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const CALLBACK: &str = "http://localhost:3000/auth/callback/test";
const STATE: &str = "state-of-the-browser";
const NONCE: &str = "nonce-of-the-browser";
const SCOPE: &str = "openid email profile offline_access";

type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// What came back for one request.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: awc::http::header::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Parameters of the callback which a redirect leads to.
    fn callback(&self) -> HashMap<String, String> {
        assert_eq!(self.status, 302, "{self:?}");
        let location = self.header("location");
        assert!(location.starts_with(CALLBACK), "{location}");
        Url::parse(location).unwrap().query_pairs().into_owned().collect()
    }
}

/// A well-behaved client of the provider; each test spoils one thing.
struct Client {
    provider: IdentityProvider,
    http: awc::Client,
}

impl Client {
    async fn start() -> Self {
        Self::of(IdentityConfig::default()).await
    }

    async fn of(config: IdentityConfig) -> Self {
        crate::tls::install_provider();
        let provider = IdentityProvider::start(config).await.unwrap();
        let http = awc::Client::builder().disable_redirects();
        Self { provider, http: http.add_default_header(("user-agent", "test")).finish() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.provider.issuer())
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(self.url(path)), Vec::new()).await
    }

    async fn bearer(&self, path: &str, token: &str) -> Answer {
        self.send(self.http.get(self.url(path)).bearer_auth(token), Vec::new()).await
    }

    async fn post(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        self.send(self.http.post(self.url(path)).content_type(request::FORM), form(pairs)).await
    }

    /// As the client, with its secret in the header.
    async fn post_basic(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let config = self.provider.world.config();
        let request = self.http.post(self.url(path)).content_type(request::FORM);
        let request = request.basic_auth(&config.client_id, &config.client_secret);
        self.send(request, form(pairs)).await
    }

    async fn send(&self, request: awc::ClientRequest, body: Vec<u8>) -> Answer {
        let mut response = request.send_body(body).await.unwrap();
        let body = response.body().limit(1 << 20).await.unwrap().to_vec();
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    /// Signs the person in; `extra` is added to the form.
    async fn callback(&self, person: &str, extra: &[(&str, &str)]) -> Answer {
        let mut pairs = authorization();
        pairs.push(("person", person));
        pairs.extend(extra);
        self.post("/authorize", &pairs).await
    }

    async fn code(&self, person: &str, extra: &[(&str, &str)]) -> String {
        self.callback(person, extra).await.callback().remove("code").unwrap()
    }

    async fn exchange(&self, code: &str) -> Answer {
        self.post_basic("/token", &exchange(code)).await
    }

    /// The token answer of a whole sign-in.
    async fn tokens(&self, person: &str, extra: &[(&str, &str)]) -> Value {
        let answer = self.exchange(&self.code(person, extra).await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn refresh(&self, token: &str) -> Answer {
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.post_basic("/token", &pairs).await
    }

    async fn userinfo(&self, tokens: &Value) -> Answer {
        self.bearer("/userinfo", text(tokens, "access_token")).await
    }

    /// Checks signature and claims with a library, against the published key set.
    async fn verify(&self, tokens: &Value) -> Result<Value, jsonwebtoken::errors::Error> {
        let token = text(tokens, "id_token");
        let keys: JwkSet = serde_json::from_value(self.get("/jwks").await.json()).unwrap();
        let header = jsonwebtoken::decode_header(token)?;
        let unknown = jsonwebtoken::errors::ErrorKind::InvalidKeyFormat;
        let key = header.kid.and_then(|kid| keys.find(&kid).cloned()).ok_or(unknown)?;
        let algorithm: Algorithm = key.common.key_algorithm.unwrap().to_string().parse()?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.set_issuer(&[self.provider.issuer()]);
        validation.set_audience(&[&self.provider.world.config().client_id]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded =
            jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(&key)?, &validation)?;
        Ok(decoded.claims)
    }
}

fn authorization<'a>() -> Pairs<'a> {
    vec![
        ("response_type", "code"),
        ("client_id", "demo-client"),
        ("redirect_uri", CALLBACK),
        ("scope", SCOPE),
        ("state", STATE),
        ("nonce", NONCE),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]
}

fn exchange(code: &str) -> Pairs<'_> {
    vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ]
}

/// The same with `name` as `value`, or without it.
fn with<'a>(mut pairs: Pairs<'a>, name: &'a str, value: Option<&'a str>) -> Pairs<'a> {
    pairs.retain(|(known, _)| *known != name);
    pairs.extend(value.map(|value| (name, value)));
    pairs
}

fn form(pairs: &[(&str, &str)]) -> Vec<u8> {
    query(pairs).into_bytes()
}

fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// A part of a token, unchecked: 0 is the header, 1 the claims.
fn part(token: &str, at: usize) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}
