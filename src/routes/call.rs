//! What an inference call goes through in either dialect: admission, its row in the journal, the way upstream and the
//! ways in which that ends.

use std::{sync::Arc, time::SystemTime};

use actix_web::{
    HttpRequest, HttpResponseBuilder,
    http::{StatusCode, header},
    web::Payload,
};
use bytes::Bytes;

use super::{
    body,
    error::{ApiError, Code, Dialect},
    extract, rates, surface,
};
use crate::{
    actors::{
        credentials::{Obtain, Refused},
        streams::{Cut, StreamTicket, Why},
    },
    auth::{Identity, Refusal},
    bedrock::{Call, Operation, Reply, credentials::Authorization, error::BedrockError},
    db::{self, usage::NewUsage},
    state::{Admission, Gate, Worker},
    usage::{Outcome, call::OpenCall},
};

pub const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// A body that took longer is long enough for its caller to lose access meanwhile.
const SLOW_BODY: std::time::Duration = std::time::Duration::from_secs(1);

/// A stream's place with the supervisor, and what cuts it.
pub type Ticket = (StreamTicket, Cut);

/// A call that was let in, with its body.
pub struct Admitted {
    pub admission: Admission,
    pub body: Bytes,
    pub began: tokio::time::Instant,
    /// A page of ours wrote it, for whoever is signed in: what the browser says in headers is not about the call.
    pub by_page: bool,
}

impl Admitted {
    /// What of the request's headers goes upstream.
    ///
    /// # Errors
    /// As [`upstream_headers`].
    pub fn headers(&self, request: &HttpRequest) -> Result<Vec<(String, String)>, ApiError> {
        if self.by_page {
            let json = "application/json".to_owned();
            return Ok(vec![
                ("accept".to_owned(), json.clone()),
                ("content-type".to_owned(), json),
            ]);
        }
        upstream_headers(request)
    }
}

/// Lets a call in and reads its body. That comes first of all: a connection on which a body was left unread cannot be
/// kept.
///
/// # Errors
/// 503 while stopping or with too many calls in flight; 429 for too many of one caller; those of [`body::read`].
pub async fn admit(
    request: &HttpRequest,
    payload: Payload,
    worker: &Worker,
    identity: &Identity,
) -> Result<Admitted, ApiError> {
    let arrived = tokio::time::Instant::now();
    let mut admission = enter(worker)?;
    let began = std::time::Instant::now();
    let body = body::read(request, payload, &mut admission, &worker.shared).await?;
    if began.elapsed() > SLOW_BODY {
        extract::still_let_in(request).await?;
    }
    rates::check_inference(request, identity).await?;
    Ok(Admitted { admission, body, began: arrived, by_page: false })
}

/// Lets a call in that a page of ours makes for somebody.
///
/// # Errors
/// As [`admit`].
pub async fn admit_by_page(
    request: &HttpRequest,
    body: Bytes,
    worker: &Worker,
    identity: &Identity,
) -> Result<Admitted, ApiError> {
    let began = tokio::time::Instant::now();
    let mut admission = enter(worker)?;
    if !admission.hold(body.len()) {
        return Err(too_many());
    }
    rates::check_inference(request, identity).await?;
    Ok(Admitted { admission, body, began, by_page: true })
}

fn enter(worker: &Worker) -> Result<Admission, ApiError> {
    if worker.cut.is_cancelled() {
        return Err(stopping());
    }
    Gate::enter(&worker.shared).ok_or_else(too_many)
}

fn too_many() -> ApiError {
    ApiError::new(Code::Overloaded, "Too many calls at the moment. Try again.")
}

fn stopping() -> ApiError {
    ApiError::new(Code::ShuttingDown, "The service is stopping. Try again.")
}

/// SEC-65: what goes upstream is built from a list. boto3 sends no content type for InvokeModel; Bedrock's default is
/// JSON.
fn upstream_headers(request: &HttpRequest) -> Result<Vec<(String, String)>, ApiError> {
    let dropped = named_by_connection(request.headers());
    let mut headers: Vec<(String, String)> = Vec::with_capacity(4);
    for (name, value) in request.headers() {
        let name = name.as_str();
        let listed =
            matches!(name, "accept" | "content-type") || name.starts_with("x-amzn-bedrock-");
        if !listed || dropped.iter().any(|other| other == name) {
            continue;
        }
        let text = value.to_str().map_err(|_| {
            let message = format!("The header {name} holds characters other than printable ASCII.");
            ApiError::new(Code::InvalidParameter, message)
        })?;
        match headers.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => {
                known.push_str(", ");
                known.push_str(text);
            }
            None => headers.push((name.to_owned(), text.to_owned())),
        }
    }
    if !headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    headers.sort_unstable();
    Ok(headers)
}

/// Lower-case names of the fields that `Connection` makes hop-by-hop (SEC-66).
fn named_by_connection(headers: &header::HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// SEC-67: response headers come from a list too.
pub fn copy_headers(reply: &Reply, response: &mut HttpResponseBuilder) {
    let hop_by_hop = reply.header("connection").unwrap_or_default().to_ascii_lowercase();
    for (name, value) in &reply.headers {
        let name = name.as_str();
        let listed = matches!(
            name,
            "content-type" | "retry-after" | "x-amzn-requestid" | "x-amzn-errortype"
        ) || name.starts_with("x-amzn-bedrock-");
        if listed && !hop_by_hop.split(',').any(|other| other.trim() == name) {
            response.append_header((name, value.as_bytes()));
        }
    }
}

/// Whether a 200 is Bedrock's: a stream must be an event stream, anything else must not be a web page.
pub fn is_right_kind(reply: &Reply, operation: Operation) -> bool {
    let kind = reply.header("content-type").unwrap_or_default();
    let right = if operation.streams() {
        kind.starts_with(EVENT_STREAM)
    } else {
        !kind.starts_with("text/html")
    };
    reply.status == StatusCode::OK && right
}

/// Current credentials; only when there are none does a call wait for the actor that finds them.
pub async fn authorization(worker: &Worker) -> Result<Arc<Authorization>, ApiError> {
    let actors = &worker.shared.actors;
    if let Some(current) =
        actors.authorization.load_full().filter(|held| held.holds_at(SystemTime::now()))
    {
        return Ok(current);
    }
    let neutral =
        || ApiError::new(Code::Internal, "The service cannot reach Bedrock at the moment.");
    match actors.credentials.address().send(Obtain).await {
        Ok(Ok(authorization)) => Ok(authorization),
        Ok(Err(error)) => {
            worker.shared.metrics.upstream_credentials.inc();
            Err(neutral().caused_by(error))
        }
        Err(error) => Err(neutral().caused_by(error)),
    }
}

/// Tells the supervisor of a stream.
///
/// # Errors
/// 503 when its mailbox is full.
pub fn register(
    worker: &Worker,
    identity: &Identity,
    asked: Asked<'_>,
) -> Result<Ticket, ApiError> {
    let shared = &worker.shared;
    StreamTicket::register(
        shared.actors.streams.address(),
        shared.next_stream_id(),
        identity,
        asked.billed,
        asked.endpoint_region,
    )
    .map_err(|error| {
        ApiError::new(Code::Overloaded, "Too many streams begin at the moment. Try again.")
            .caused_by(error.to_string())
    })
}

/// What cuts a call: a stream's own, else that of all plain calls, when a shutdown can wait no longer.
pub fn cut_of(worker: &Worker, ticket: Option<&Ticket>) -> Cut {
    ticket.map_or_else(|| worker.cut.clone().into(), |(_, cut)| cut.clone())
}

/// What was asked for, in the words of the row.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub endpoint_type: &'static str,
    /// As the client named it.
    pub model: &'a str,
    /// As it is priced.
    pub billed: &'a str,
    /// Chosen by an ARN or an alias.
    pub region: Option<&'a str>,
    /// Where the call goes.
    pub endpoint_region: &'a str,
}

/// The row as it stands should the process die before the call ends.
pub fn first_row(
    request: &HttpRequest,
    identity: &Identity,
    call: &Call,
    asked: Asked<'_>,
) -> NewUsage {
    NewUsage {
        call_id: uuid::Uuid::now_v7().to_string(),
        user_id: identity.user_id,
        key_id: identity.credential.key_id(),
        endpoint_type: asked.endpoint_type.to_owned(),
        operation: call.operation.as_str().to_owned(),
        model_requested: asked.model.to_owned(),
        model_id: asked.billed.to_owned(),
        region_requested: asked.region.map(str::to_owned),
        region: asked.endpoint_region.to_owned(),
        request_time: db::now(),
        streamed: call.operation.streams(),
        // Counting is free; the cost of everything else waits for its tokens and their prices.
        cost_nano_usd: (call.operation == Operation::CountTokens).then_some(0),
        outcome: Outcome::Interrupted.as_str().to_owned(),
        request_id: surface::request_id(request),
        client_session_id: uuid_header(request, "x-claude-code-session-id"),
        client_agent_id: uuid_header(request, "x-claude-code-agent-id"),
        ..NewUsage::default()
    }
}

fn uuid_header(request: &HttpRequest, name: &str) -> Option<String> {
    let text = request.headers().get(name)?.to_str().ok()?;
    uuid::Uuid::try_parse(text).ok().map(|id| id.to_string())
}

/// The call is cut before the answer is there: the service stops, the caller lost access, or an admin ends it.
pub fn cut_short(mut metered: OpenCall, dialect: Dialect, cut: &Cut) -> ApiError {
    let (error, code, outcome) = match cut.why() {
        Why::Revoked => (ApiError::refused(Refusal::Revoked), "revoked", Outcome::Revoked),
        Why::Admin => {
            let error = ApiError::new(Code::Forbidden, "An administrator ended this stream.");
            (error, "cut_by_admin", Outcome::Revoked)
        }
        Why::Shutdown => (stopping(), "shutting_down", Outcome::Shutdown),
    };
    metered.told(error.status(dialect));
    metered.failed(code, error.message());
    metered.close(outcome);
    error
}

/// No answer, or only half of one.
pub fn failed(mut metered: OpenCall, error: BedrockError, dialect: Dialect) -> ApiError {
    let outcome = match &error {
        BedrockError::Unreachable(_) => Outcome::UpstreamError,
        BedrockError::Silent => Outcome::Timeout,
        BedrockError::Cut(_) => Outcome::UpstreamCut,
    };
    let text = error.to_string();
    let error = ApiError::from(error);
    metered.told(error.status(dialect));
    metered.failed(
        if outcome == Outcome::Timeout { "timeout" } else { "upstream_unavailable" },
        &text,
    );
    metered.close(outcome);
    error
}

/// AWS refused this service's own credentials: no business of the client, and an alarm (SEC-76).
pub fn credentials_refused(mut metered: OpenCall, code: &str, worker: &Worker) -> ApiError {
    tracing::error!(code, "AWS refused this service's credentials");
    worker.shared.metrics.upstream_credentials.inc();
    let _full = worker.shared.actors.credentials.address().try_send(Refused);
    let error = ApiError::new(Code::Internal, "The service cannot use Bedrock at the moment.");
    metered.failed(code, error.message());
    metered.close(Outcome::UpstreamError);
    error
}

/// Something answered that is not Bedrock.
pub fn not_bedrock(mut metered: OpenCall) -> ApiError {
    let message = "Bedrock could not be reached: something else answered.";
    let error = ApiError::new(Code::UpstreamUnavailable, message);
    metered.failed("not_bedrock", error.message());
    metered.close(Outcome::UpstreamError);
    error
}
