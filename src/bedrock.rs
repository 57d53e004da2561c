//! Bedrock Runtime, as a client of it: builds each request from a list, signs it, sends it, and tells what came back.
//! One per HTTP worker; connections are kept per worker.

pub mod credentials;
pub mod error;
pub mod event_stream;
pub mod model_id;
pub mod sign;

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use awc::{
    Client, ClientResponse, Connector,
    error::{ConnectError, SendRequestError},
    http::{StatusCode, Uri, header::HeaderMap},
};
use bytes::{Bytes, BytesMut};
use chrono::Utc;
use futures_util::StreamExt;
use prometheus::IntCounter;
use rustls::ClientConfig;
use secrecy::ExposeSecret;

use crate::settings::Aws;
use credentials::Authorization;
use error::BedrockError;
use model_id::{ArnRules, ModelId};
use sign::Signer;

/// Bytes of an answer that does not stream; Bedrock's own are at most 25 MB.
pub const MAX_REPLY: usize = 64 << 20;
/// An error's body is read up to here.
const MAX_ERROR: usize = 1 << 20;
/// A failure later than this was no stale connection: the call may have been served.
const STALE: Duration = Duration::from_secs(1);
/// Idle connections are dropped before the usual idle limits of load balancers (60 s).
const KEEP_ALIVE: Duration = Duration::from_secs(55);

/// The five operations of Bedrock Runtime that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Invoke,
    InvokeStream,
    Converse,
    ConverseStream,
    CountTokens,
}

impl Operation {
    /// The last segment of the path.
    pub fn segment(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::InvokeStream => "invoke-with-response-stream",
            Self::Converse => "converse",
            Self::ConverseStream => "converse-stream",
            Self::CountTokens => "count-tokens",
        }
    }

    /// The spelling of `operation` in rows and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::InvokeStream => "invoke_stream",
            Self::Converse => "converse",
            Self::ConverseStream => "converse_stream",
            Self::CountTokens => "count_tokens",
        }
    }

    pub fn streams(self) -> bool {
        matches!(self, Self::InvokeStream | Self::ConverseStream)
    }
}

/// A call, ready to be signed. `headers` are lower-case, sorted by name, from the allow-list.
#[derive(Debug)]
pub struct Call {
    pub operation: Operation,
    pub model: ModelId,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// A region and where Bedrock answers for it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub region: String,
    /// `https://host[:port]`, without a slash at the end.
    url: String,
    /// As it is sent and signed: with the port unless it is the scheme's own.
    host: String,
}

/// The regions that calls may use; the first is the one for ids without a region.
#[derive(Debug, Clone)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    pub rules: ArnRules,
}

impl Endpoints {
    /// From `aws.region` as it was resolved, and `aws.regions`.
    pub fn new(settings: &Aws, region: &str) -> Self {
        let first = Endpoint::new(region, settings.endpoint_url.as_deref());
        let further = settings.regions.iter().filter(|further| further.name != region);
        let further =
            further.map(|further| Endpoint::new(&further.name, further.endpoint_url.as_deref()));
        let all: Vec<Endpoint> = std::iter::once(first).chain(further).collect();
        let partition = partition(region);
        let regions = all.iter().map(|endpoint| endpoint.region.clone());
        let rules = ArnRules {
            partition,
            regions: regions.filter(|name| self::partition(name) == partition).collect(),
            accounts: settings.allowed_accounts.clone(),
        };
        Self { all, rules }
    }

    /// The region where a call goes that chooses none.
    pub fn home(&self) -> &str {
        self.all.first().map_or("", |endpoint| &endpoint.region)
    }

    /// Where a model is called; only an ARN can choose, and only among these (SEC-63).
    pub fn of(&self, model: &ModelId) -> Option<&Endpoint> {
        match model.region() {
            Some(region) => self.named(region),
            None => self.all.first(),
        }
    }

    /// A region that is configured.
    pub fn named(&self, region: &str) -> Option<&Endpoint> {
        self.all.iter().find(|endpoint| endpoint.region == region)
    }
}

impl Endpoint {
    fn new(region: &str, url: Option<&str>) -> Self {
        let suffix =
            if partition(region) == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
        let default = || format!("https://bedrock-runtime.{region}.{suffix}");
        let url = url.map_or_else(default, |url| url.trim_end_matches('/').to_owned());
        let host = url.split_once("://").map_or(url.as_str(), |(_, host)| host);
        let own_port = if url.starts_with("https") { ":443" } else { ":80" };
        let host = host.strip_suffix(own_port).unwrap_or(host).to_owned();
        Self { region: region.to_owned(), url, host }
    }
}

fn partition(region: &str) -> &'static str {
    if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else if region.starts_with("cn-") {
        "aws-cn"
    } else {
        "aws"
    }
}

/// The head of an answer, and its body still to come.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: ClientResponse,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Limits of time for a call; all are finite (REL-10).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub first_byte: Duration,
    pub idle: Duration,
    pub total: Duration,
}

/// The client of one worker. Not `Send`: its connections belong to the thread.
pub struct Bedrock {
    client: Client,
    signer: Signer,
    pub endpoints: Arc<Endpoints>,
    pub limits: Limits,
    sent: Cell<u64>,
    retried: Cell<u64>,
    retries: IntCounter,
}

impl Bedrock {
    /// `tls` must offer HTTP/1.1 only: a dropped stream then cancels at once.
    pub fn new(
        settings: &Aws,
        endpoints: Arc<Endpoints>,
        tls: Arc<ClientConfig>,
        retries: IntCounter,
    ) -> Self {
        let connector = Connector::new()
            .rustls_0_23(tls)
            .timeout(Duration::from_secs(settings.connect_timeout_seconds))
            .handshake_timeout(Duration::from_secs(settings.connect_timeout_seconds))
            .conn_keep_alive(KEEP_ALIVE)
            .conn_lifetime(Duration::from_secs(600))
            .limit(65_535);
        let client = Client::builder()
            .connector(connector)
            .disable_timeout()
            .disable_redirects()
            .no_default_headers()
            .finish();
        Self {
            client,
            signer: Signer::default(),
            endpoints,
            limits: Limits {
                first_byte: Duration::from_secs(settings.first_byte_timeout_seconds),
                idle: Duration::from_secs(settings.stream_idle_timeout_seconds),
                total: Duration::from_secs(settings.total_timeout_seconds),
            },
            sent: Cell::new(0),
            retried: Cell::new(0),
            retries,
        }
    }

    /// Signs and sends; answers when the head of the reply is there. `attempt` is called for each time it is sent:
    /// a connection that fails at once is tried a second time (REL-16).
    ///
    /// # Errors
    /// [`BedrockError`] for whatever is not an answer.
    pub async fn send(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        authorization: &Authorization,
        mut attempt: impl FnMut(),
    ) -> Result<Reply, BedrockError> {
        let path = format!("/model/{}/{}", call.model.encoded(), call.operation.segment());
        let uri: Uri = format!("{}{path}", endpoint.url)
            .parse()
            .map_err(|_| BedrockError::Unreachable("the endpoint is not a URL".into()))?;
        self.sent.set(self.sent.get() + 1);
        let within = tokio::time::timeout(self.limits.first_byte.min(self.limits.total), async {
            attempt();
            let started = Instant::now();
            match self.send_once(call, endpoint, authorization, &path, uri.clone()).await {
                Err(error) if is_retriable(&error, started.elapsed()) && self.may_retry() => {
                    tracing::info!(%error, region = endpoint.region, "sending a call once more");
                    attempt();
                    self.send_once(call, endpoint, authorization, &path, uri).await
                }
                done => done,
            }
        });
        match within.await {
            Err(_elapsed) => Err(BedrockError::Silent),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    async fn send_once(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        authorization: &Authorization,
        path: &str,
        uri: Uri,
    ) -> Result<Reply, SendRequestError> {
        let mut request =
            self.client.post(uri).no_decompress().insert_header(("host", endpoint.host.as_str()));
        for (name, value) in &call.headers {
            request = request.append_header((name.as_str(), value.as_str()));
        }
        let request = match authorization {
            Authorization::Bearer(token) => request
                .insert_header(("authorization", format!("Bearer {}", token.expose_secret()))),
            Authorization::Keys { keys, .. } => {
                let signed = sign::Request {
                    path,
                    host: &endpoint.host,
                    region: &endpoint.region,
                    headers: &call.headers,
                    body: &call.body,
                };
                let signature = self.signer.sign(keys, &signed, Utc::now());
                let request = request
                    .insert_header(("x-amz-date", signature.date))
                    .insert_header(("authorization", signature.authorization));
                match &keys.session_token {
                    Some(token) => {
                        request.insert_header(("x-amz-security-token", token.expose_secret()))
                    }
                    None => request,
                }
            }
        };
        let body = request.send_body(call.body.clone()).await?;
        Ok(Reply { status: body.status(), headers: body.headers().clone(), body })
    }

    /// At most every tenth call, so that an outage is not made worse.
    fn may_retry(&self) -> bool {
        let allowed = self.retried.get() * 10 <= self.sent.get();
        if allowed {
            self.retried.set(self.retried.get() + 1);
            self.retries.inc();
        }
        allowed
    }

    /// The whole body of an answer that does not stream, up to [`MAX_REPLY`] (an error's: 1 MiB).
    ///
    /// # Errors
    /// [`BedrockError`] when it ends early, is too long, or stops coming.
    pub async fn read(
        &self,
        reply: &mut ClientResponse,
        deadline: Instant,
    ) -> Result<Bytes, BedrockError> {
        let length = reply
            .headers()
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let most = if reply.status().is_success() { MAX_REPLY } else { MAX_ERROR };
        let mut whole = BytesMut::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = tokio::time::timeout(self.limits.idle.min(left), reply.next()).await;
            match next.map_err(|_elapsed| BedrockError::Silent)? {
                None if is_whole(&whole, length) => return Ok(whole.freeze()),
                None => return Err(BedrockError::Cut("the connection was closed".into())),
                Some(Err(error)) => return Err(BedrockError::Cut(error.to_string())),
                Some(Ok(piece)) if whole.len() + piece.len() > most => {
                    return Err(BedrockError::Cut("the answer is too long".into()));
                }
                Some(Ok(piece)) => whole.extend_from_slice(&piece),
            }
        }
    }
}

/// awc takes a connection that is closed in the middle of a body for the body's end. A body with a length is whole
/// when it has that length; one without, which Bedrock does not send, when it is whole JSON.
fn is_whole(body: &[u8], length: Option<usize>) -> bool {
    match length {
        Some(length) => body.len() == length,
        None => serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok(),
    }
}

/// A connection that could not be made, or that was closed under the request: most likely an idle one that upstream
/// had given up in the same moment.
fn is_retriable(error: &SendRequestError, after: Duration) -> bool {
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) | SendRequestError::Send(_) => {
            after < STALE
        }
        SendRequestError::Connect(ConnectError::Timeout) => false,
        SendRequestError::Connect(_) => after < STALE,
        _ => false,
    }
}
