//! The calls to the service. A secret in a request or an answer never reaches an error.

use std::{path::Path, sync::Arc, time::Duration};

use awc::{
    Client, Connector, SendClientRequest,
    error::{ConnectError, SendRequestError},
    http::{StatusCode, header},
};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ServiceUrl, plain, tokens::Tokens};
use crate::tls;

const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(15);
/// For what is only good to know: a person or a program waits meanwhile.
const BRIEF: Duration = Duration::from_secs(2);
/// For finding out whether anything is at an address at all.
const LIVE: Duration = Duration::from_secs(10);
const LONGEST_ANSWER: usize = 1 << 20;
/// Before the one other attempt to connect.
const BREATH: Duration = Duration::from_millis(500);
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("the certificate authorities: {0}")]
    Trust(String),
    /// The request was not sent.
    #[error("could not connect to {url}: {why}")]
    Connect { url: ServiceUrl, why: String },
    /// The service may have seen the request.
    #[error("no answer came from {url}: {why}")]
    Lost { url: ServiceUrl, why: String },
    #[error("{url} answered {status}{}{}", said(error), said(description))]
    Refused {
        url: ServiceUrl,
        status: u16,
        /// The code of RFC 6749 or 8628, or empty.
        error: String,
        description: String,
        retry_after: Option<Duration>,
    },
    #[error("the answer of {0} is not one that this bedrock_proxy understands")]
    Malformed(ServiceUrl),
}

/// Why an address is not one to sign in at.
#[derive(Debug, thiserror::Error)]
pub enum NotThere {
    #[error(
        "nothing answers at {url}: {why}; is the address right, and does it begin with https:// or http:// as the \
         service does?"
    )]
    Silent { url: ServiceUrl, why: String },
    #[error("this does not look like a Bedrock SSO Proxy at {url}: /health/live answered {status}")]
    Foreign { url: ServiceUrl, status: u16 },
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl ServiceError {
    /// Whether the service says that the session is over, so that only a new sign-in helps.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Refused { status: 400 | 401, error, .. } if error == "invalid_grant")
    }
}

/// What a person is shown to approve a device (RFC 8628, section 3.2).
#[derive(Debug, Deserialize)]
pub struct DeviceCode {
    pub device_code: SecretString,
    pub user_code: String,
    pub verification_uri: String,
    pub verification_uri_complete: Option<String>,
    /// Seconds.
    pub expires_in: u64,
    /// Seconds.
    #[serde(default = "usual_interval")]
    pub interval: u64,
}

fn usual_interval() -> u64 {
    5
}

/// Whose a token is.
#[derive(Debug, Deserialize)]
pub struct Me {
    pub email: Option<String>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    token_type: String,
    expires_in: i64,
    refresh_token: SecretString,
    refresh_expires_in: i64,
}

impl Granted {
    /// `None` if a token could not be used as one.
    fn tokens(self, asked_at: DateTime<Utc>) -> Option<Tokens> {
        let usable = |token: &SecretString| {
            let token = token.expose_secret();
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let end = |seconds| {
            let life = TimeDelta::try_seconds(seconds).filter(|life| *life > TimeDelta::zero())?;
            asked_at.checked_add_signed(life)
        };
        let sound = self.token_type.eq_ignore_ascii_case("bearer")
            && usable(&self.access_token)
            && usable(&self.refresh_token);
        sound.then_some(())?;
        Some(Tokens {
            access_issued_at: Some(asked_at),
            checked_at: Some(asked_at),
            access_expires_at: end(self.expires_in)?,
            refresh_expires_at: end(self.refresh_expires_in)?,
            access_token: self.access_token,
            refresh_token: self.refresh_token,
        })
    }
}

/// One service, and a client for it.
pub struct Service {
    url: ServiceUrl,
    client: Client,
}

impl Service {
    /// # Errors
    /// [`ServiceError::Trust`], if `ca_file` is not fit.
    pub fn new(url: ServiceUrl, ca_file: Option<&Path>) -> Result<Self, ServiceError> {
        let mut connector = Connector::new().timeout(CONNECT).handshake_timeout(CONNECT);
        if url.is_https() {
            let roots = tls::roots(ca_file).map_err(ServiceError::Trust)?;
            connector = connector.rustls_0_23(Arc::new(tls::client(roots, &["http/1.1"])));
        }
        let client = Client::builder()
            .connector(connector)
            .timeout(TOTAL)
            .disable_redirects()
            .no_default_headers()
            .add_default_header((header::ACCEPT, "application/json"))
            .add_default_header((
                header::USER_AGENT,
                concat!("bedrock_proxy/", env!("CARGO_PKG_VERSION")),
            ))
            .finish();
        Ok(Self { url, client })
    }

    /// Whether a service is there, before anything is asked of a person.
    ///
    /// # Errors
    /// [`NotThere`]
    pub async fn live(&self) -> Result<(), NotThere> {
        let silent = |why| NotThere::Silent { url: self.url.clone(), why };
        let sent = self.client.get(self.url.join("/health/live")).timeout(LIVE).send();
        match tokio::time::timeout(LIVE, sent).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => Ok(()),
            Ok(Ok(answer)) => {
                Err(NotThere::Foreign { url: self.url.clone(), status: answer.status().as_u16() })
            }
            Ok(Err(error)) => Err(silent(plain(&error.to_string()))),
            Err(_) => Err(silent(format!("{} s have passed", LIVE.as_secs()))),
        }
    }

    /// Asks whose an access token is, which the service tells only of one that it takes.
    ///
    /// # Errors
    /// That there was no answer soon, or what it was.
    pub async fn me(&self, access_token: &SecretString) -> Result<Me, ServiceError> {
        let request = self.client.get(self.url.join("/auth/me")).timeout(BRIEF);
        let sent = request.bearer_auth(access_token.expose_secret()).send();
        let answer = self.answer(sent, BRIEF).await?;
        serde_json::from_slice(&answer).map_err(|_| ServiceError::Malformed(self.url.clone()))
    }

    /// Trades the code of a browser sign-in.
    ///
    /// # Errors
    /// That there was no answer, or what it was.
    pub async fn trade_code(
        &self,
        code: &SecretString,
        verifier: &SecretString,
        redirect_uri: &str,
    ) -> Result<Tokens, ServiceError> {
        let body = json!({
            "grant_type": "authorization_code",
            "code": code.expose_secret(),
            "code_verifier": verifier.expose_secret(),
            "redirect_uri": redirect_uri,
        });
        self.granted("/auth/token", &body).await
    }

    /// Begins a sign-in on another device.
    ///
    /// # Errors
    /// As above.
    pub async fn device_code(&self) -> Result<DeviceCode, ServiceError> {
        let answer = self.post("/auth/device", &json!({})).await?;
        serde_json::from_slice(&answer).map_err(|_| ServiceError::Malformed(self.url.clone()))
    }

    /// Asks whether the device was approved.
    ///
    /// # Errors
    /// As above; not yet approved is one, too.
    pub async fn trade_device_code(&self, code: &SecretString) -> Result<Tokens, ServiceError> {
        let body = json!({ "grant_type": DEVICE_GRANT, "device_code": code.expose_secret() });
        self.granted("/auth/token", &body).await
    }

    /// Trades the refresh token, which is spent by it. Tries twice only if the first attempt did not connect.
    ///
    /// # Errors
    /// As above.
    pub async fn refresh(&self, token: &SecretString) -> Result<Tokens, ServiceError> {
        let body = json!({ "refresh_token": token.expose_secret() });
        match self.granted("/auth/refresh", &body).await {
            Err(ServiceError::Connect { .. }) => {
                tokio::time::sleep(BREATH).await;
                self.granted("/auth/refresh", &body).await
            }
            other => other,
        }
    }

    /// Ends the session of an access token; one that has ended is no error.
    ///
    /// # Errors
    /// As above.
    pub async fn logout(&self, access_token: &SecretString) -> Result<(), ServiceError> {
        let request = self.client.post(self.url.join("/auth/logout"));
        match self.answer(request.bearer_auth(access_token.expose_secret()).send(), TOTAL).await {
            Ok(_) | Err(ServiceError::Refused { status: 401, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn granted(&self, path: &str, body: &Value) -> Result<Tokens, ServiceError> {
        let asked_at = Utc::now();
        let answer = self.post(path, body).await?;
        let granted: Option<Granted> = serde_json::from_slice(&answer).ok();
        granted
            .and_then(|granted| granted.tokens(asked_at))
            .ok_or_else(|| ServiceError::Malformed(self.url.clone()))
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Bytes, ServiceError> {
        self.answer(self.client.post(self.url.join(path)).send_json(body), TOTAL).await
    }

    /// The body of a success that comes `within` that time.
    async fn answer(
        &self,
        sent: SendClientRequest,
        within: Duration,
    ) -> Result<Bytes, ServiceError> {
        let lost = |why: String| ServiceError::Lost { url: self.url.clone(), why };
        let answered = tokio::time::timeout(within, async {
            let answer = sent.await.map_err(|error| self.unsent(&error))?;
            let mut answer = answer.timeout(within);
            let seconds = answer.headers().get(header::RETRY_AFTER);
            let retry_after = seconds.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let body = answer.body().limit(LONGEST_ANSWER).await;
            let body = body.map_err(|error| lost(error.to_string()))?;
            judge(&self.url, answer.status(), retry_after.map(Duration::from_secs), &body)?;
            Ok(body)
        });
        answered.await.unwrap_or_else(|_| Err(lost(format!("{} s have passed", within.as_secs()))))
    }

    fn unsent(&self, error: &SendRequestError) -> ServiceError {
        let (url, why) = (self.url.clone(), error.to_string());
        match error {
            // awc says this of a connection that is closed before an answer, too.
            SendRequestError::Connect(ConnectError::Disconnected) => {
                ServiceError::Lost { url, why: "the connection was closed".to_owned() }
            }
            SendRequestError::Connect(_) => ServiceError::Connect { url, why },
            _ => ServiceError::Lost { url, why },
        }
    }
}

/// Nothing for a success, else what the answer says.
fn judge(
    url: &ServiceUrl,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Result<(), ServiceError> {
    if status.is_success() {
        return Ok(());
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: Option<&Value>| plain(value.and_then(Value::as_str).unwrap_or_default());
    // `/auth/token` and its like answer as OAuth does, the rest of the service as its API does.
    let own = body.get("error").filter(|error| error.is_object());
    Err(ServiceError::Refused {
        url: url.clone(),
        status: status.as_u16(),
        error: text(own.map_or(body.get("error"), |own| own.get("code"))),
        description: text(own.map_or(body.get("error_description"), |own| own.get("message"))),
        retry_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> ServiceUrl {
        "https://proxy.example.com".parse().unwrap()
    }

    fn refused(status: u16, body: &str) -> ServiceError {
        judge(&url(), StatusCode::from_u16(status).unwrap(), None, body.as_bytes()).unwrap_err()
    }

    fn granted(change: impl FnOnce(&mut Value)) -> Option<Tokens> {
        let mut answer = json!({
            "access_token": "eyJ.a.b", "token_type": "Bearer", "expires_in": 3600,
            "refresh_token": "SSOR_x", "refresh_expires_in": 2_592_000,
        });
        change(&mut answer);
        let granted: Granted = serde_json::from_value(answer).ok()?;
        granted.tokens("2026-11-21T09:30:00Z".parse().unwrap())
    }

    #[test]
    fn ends_are_reckoned_from_when_the_tokens_were_asked_for() {
        let tokens = granted(|_| {}).unwrap();

        assert_eq!(tokens.access_issued_at, Some("2026-11-21T09:30:00Z".parse().unwrap()));
        assert_eq!(tokens.access_expires_at.to_rfc3339(), "2026-11-21T10:30:00+00:00");
        assert_eq!(tokens.refresh_expires_at.to_rfc3339(), "2026-12-21T09:30:00+00:00");
    }

    #[test]
    fn tokens_that_are_of_no_use_are_refused() {
        assert!(granted(|answer| answer["token_type"] = "bearer".into()).is_some());
        for (member, value) in [
            ("access_token", json!("")),
            ("access_token", json!("two\nlines")),
            ("access_token", json!("ünicode")),
            ("access_token", json!(7)),
            ("refresh_token", json!("a b")),
            ("refresh_token", json!(null)),
            ("token_type", json!("mac")),
            ("expires_in", json!(0)),
            ("expires_in", json!(-1)),
            ("expires_in", json!(i64::MAX)),
            ("refresh_expires_in", json!(9_000_000_000_000_000i64)),
        ] {
            assert!(
                granted(|answer| answer[member] = value.clone()).is_none(),
                "{member}: {value}"
            );
        }
    }

    #[test]
    fn only_invalid_grant_ends_a_sign_in() {
        assert!(
            refused(400, r#"{"error":"invalid_grant","error_description":"spent"}"#).has_ended()
        );
        assert!(!refused(400, r#"{"error":"invalid_request"}"#).has_ended());
        assert!(!refused(400, "<html>invalid_grant</html>").has_ended());
        assert!(!refused(503, r#"{"error":"invalid_grant"}"#).has_ended());
        assert!(!refused(401, r#"{"error":{"code":"unauthorized","message":"no"}}"#).has_ended());
    }

    #[test]
    fn a_refusal_is_told_in_one_safe_line() {
        let oauth =
            refused(400, r#"{"error":"access_denied","error_description":"no\u001b[2J\n"}"#);
        assert_eq!(
            oauth.to_string(),
            "https://proxy.example.com answered 400: access_denied: no[2J"
        );
        let own = refused(503, r#"{"error":{"code":"overloaded","message":"later"}}"#);
        assert_eq!(own.to_string(), "https://proxy.example.com answered 503: overloaded: later");
        assert_eq!(refused(302, "").to_string(), "https://proxy.example.com answered 302");
    }

    #[test]
    fn debug_shows_no_token() {
        let shown = format!("{:?}", granted(|_| {}).unwrap());

        assert!(!shown.contains("eyJ") && !shown.contains("SSOR_"), "{shown}");
    }
}
