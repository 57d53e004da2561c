//! `POST /bedrock/model/{model_id}/…`: the native Bedrock API. Bodies and frames pass unchanged; headers pass by a
//! list, both ways.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{StatusCode, header},
    web::{Data, Payload},
};
use paperclip::actix::api_v2_operation;

use super::{
    body,
    error::{ApiError, Code},
    extract::Caller,
    relay::{Relay, Watch},
    surface,
};
use crate::{
    actors::{
        credentials::{Obtain, Refused},
        streams::StreamTicket,
    },
    auth::Identity,
    bedrock::{
        Call, Operation, Reply,
        credentials::Authorization,
        error::{BedrockError, Fault, read_fault},
        model_id::ModelId,
    },
    db::{self, usage::NewUsage},
    state::{Gate, Worker},
    usage::{Outcome, call::OpenCall, meter::StreamKind},
};

const PREFIX: &str = "/bedrock/model/";
const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// Run a model
///
/// `InvokeModel`: the model's own request and answer, byte for byte.
#[api_v2_operation(tags(Bedrock), operation_id = "invokeModel")]
pub async fn invoke(
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    serve(Operation::Invoke, caller, request, payload, worker).await
}

/// Run a model, streamed
///
/// `InvokeModelWithResponseStream`: an `application/vnd.amazon.eventstream` of the model's own events.
#[api_v2_operation(tags(Bedrock), operation_id = "invokeModelWithResponseStream")]
pub async fn invoke_stream(
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    serve(Operation::InvokeStream, caller, request, payload, worker).await
}

/// Converse with a model
///
/// `Converse`: one request shape for all model families.
#[api_v2_operation(tags(Bedrock), operation_id = "converse")]
pub async fn converse(
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    serve(Operation::Converse, caller, request, payload, worker).await
}

/// Converse with a model, streamed
///
/// `ConverseStream`: an `application/vnd.amazon.eventstream` of Converse events.
#[api_v2_operation(tags(Bedrock), operation_id = "converseStream")]
pub async fn converse_stream(
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    serve(Operation::ConverseStream, caller, request, payload, worker).await
}

/// Count the tokens of a prompt
///
/// `CountTokens`: costs nothing.
#[api_v2_operation(tags(Bedrock), operation_id = "countTokens")]
pub async fn count_tokens(
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    serve(Operation::CountTokens, caller, request, payload, worker).await
}

async fn serve(
    operation: Operation,
    Caller(identity): Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let started = tokio::time::Instant::now();
    let worker = worker.into_inner();
    if worker.cut.is_cancelled() {
        return Err(ApiError::new(Code::ShuttingDown, "The service is stopping. Try again."));
    }
    let mut admission = Gate::enter(&worker.shared).ok_or_else(|| {
        ApiError::new(Code::Overloaded, "Too many calls at the moment. Try again.")
    })?;
    // First of all: a connection on which a body was left unread cannot be kept.
    let body = body::read(&request, payload, &mut admission, &worker.shared).await?;
    let model = model_of(&request, operation, &worker)?;
    surface::note_model(&request, model.as_str());
    let headers = upstream_headers(&request)?;
    let call = Call { operation, model, headers, body };
    let endpoint = worker
        .bedrock
        .endpoints
        .of(&call.model)
        .ok_or(crate::bedrock::model_id::ModelIdError::Region)?;
    let authorization = authorization(&worker).await?;

    let ticket = match operation.streams() {
        true => Some(register(&worker, &identity, &call)?),
        false => None,
    };
    let row = first_row(&request, &identity, &call, &endpoint.region);
    let mut metered = OpenCall::open(&worker.desk, row, started)?;
    metered.durable().await;

    let deadline = Instant::now() + worker.bedrock.limits.total;
    let sent = worker.bedrock.send(&call, endpoint, &authorization, || metered.attempt());
    let reply = tokio::select! {
        biased;
        reply = sent => reply,
        () = cut(&worker, ticket.as_ref()) => return Err(cut_short(metered)),
    };
    let mut reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Err(failed(metered, error)),
    };
    metered.answered(reply.status.as_u16(), reply.header("x-amzn-requestid"));
    let right_kind = is_right_kind(&reply, operation);
    match ticket {
        Some((ticket, token)) if right_kind => {
            admission.becomes_stream();
            let kind = match operation {
                Operation::ConverseStream => StreamKind::Converse,
                _ => StreamKind::Invoke,
            };
            let mut response = HttpResponse::build(reply.status);
            copy_headers(&reply, &mut response);
            let watch =
                Watch { admission, ticket, cut: token, limits: worker.bedrock.limits, deadline };
            Ok(response.streaming(Relay::new(reply.body, kind, metered, watch, &worker)))
        }
        ticket => {
            if right_kind {
                metered.first_byte();
            }
            let read = worker.bedrock.read(&mut reply.body, deadline);
            let body = tokio::select! {
                biased;
                body = read => body,
                () = cut(&worker, ticket.as_ref()) => return Err(cut_short(metered)),
            };
            let body = match body {
                Ok(body) => body,
                Err(error) => return Err(failed(metered, error)),
            };
            if !right_kind {
                return refused(metered, &reply, body, &worker);
            }
            if !admission.hold(body.len()) {
                tracing::warn!("answers in flight hold more than server.limits.in_flight_bytes");
            }
            match operation {
                Operation::CountTokens => metered.reading().count_tokens(),
                _ => {
                    metered.reading().whole(&body);
                    metered.reading().headers(|name| reply.header(name));
                }
            }
            let journal = metered.journal();
            metered.close(Outcome::Success);
            journal.durable().await;
            let mut response = HttpResponse::build(reply.status);
            copy_headers(&reply, &mut response);
            Ok(response.body(body))
        }
    }
}

/// The model from the raw path: everything between `/bedrock/model/` and the operation, decoded once by us. The
/// router's own decoding would let a spelling decide where the id ends.
fn model_of(
    request: &HttpRequest,
    operation: Operation,
    worker: &Worker,
) -> Result<ModelId, ApiError> {
    let label = request
        .uri()
        .path()
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_suffix(operation.segment()))
        .and_then(|rest| rest.strip_suffix('/'))
        .ok_or_else(|| ApiError::new(Code::NotFound, "There is no such operation."))?;
    Ok(ModelId::from_label(label, &worker.bedrock.endpoints.rules)?)
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
fn copy_headers(reply: &Reply, response: &mut HttpResponseBuilder) {
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
fn is_right_kind(reply: &Reply, operation: Operation) -> bool {
    let kind = reply.header("content-type").unwrap_or_default();
    let right = if operation.streams() {
        kind.starts_with(EVENT_STREAM)
    } else {
        !kind.starts_with("text/html")
    };
    reply.status == StatusCode::OK && right
}

/// Current credentials; only when there are none does a call wait for the actor that finds them.
async fn authorization(worker: &Worker) -> Result<Arc<Authorization>, ApiError> {
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

type Ticket = (StreamTicket, tokio_util::sync::CancellationToken);

fn register(worker: &Worker, identity: &Identity, call: &Call) -> Result<Ticket, ApiError> {
    let shared = &worker.shared;
    StreamTicket::register(
        shared.actors.streams.address(),
        shared.next_stream_id(),
        identity.user_id,
        call.model.as_str(),
    )
    .map_err(|error| {
        ApiError::new(Code::Overloaded, "Too many streams begin at the moment. Try again.")
            .caused_by(error.to_string())
    })
}

/// Resolves when a shutdown can wait no longer: for a stream when it is told, else when plain calls are.
async fn cut(worker: &Worker, ticket: Option<&Ticket>) {
    match ticket {
        Some((_, token)) => token.cancelled().await,
        None => worker.cut.cancelled().await,
    }
}

/// The row as it stands should the process die before the call ends.
fn first_row(request: &HttpRequest, identity: &Identity, call: &Call, region: &str) -> NewUsage {
    NewUsage {
        call_id: uuid::Uuid::now_v7().to_string(),
        user_id: identity.user_id,
        key_id: identity.key_id,
        endpoint_type: "bedrock".to_owned(),
        operation: call.operation.as_str().to_owned(),
        model_requested: call.model.as_str().to_owned(),
        model_id: call.model.as_str().to_owned(),
        region_requested: call.model.region().map(str::to_owned),
        region: region.to_owned(),
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

fn cut_short(mut metered: OpenCall) -> ApiError {
    let error = ApiError::new(Code::ShuttingDown, "The service is stopping. Try again.");
    metered.told(error.code.status().as_u16());
    metered.failed("shutting_down", error.message());
    metered.close(Outcome::Shutdown);
    error
}

/// No answer, or only half of one.
fn failed(mut metered: OpenCall, error: BedrockError) -> ApiError {
    let outcome = match &error {
        BedrockError::Unreachable(_) => Outcome::UpstreamError,
        BedrockError::Silent => Outcome::Timeout,
        BedrockError::Cut(_) => Outcome::UpstreamCut,
    };
    let text = error.to_string();
    let error = ApiError::from(error);
    metered.told(error.code.status().as_u16());
    metered.failed(
        if outcome == Outcome::Timeout { "timeout" } else { "upstream_unavailable" },
        &text,
    );
    metered.close(outcome);
    error
}

/// An answer that is an error: Bedrock's own goes on as it is; what concerns our credentials does not (SEC-76).
fn refused(
    mut metered: OpenCall,
    reply: &Reply,
    body: bytes::Bytes,
    worker: &Worker,
) -> Result<HttpResponse, ApiError> {
    match read_fault(reply.status.as_u16(), reply.header("x-amzn-errortype"), &body) {
        Fault::Modelled { code, message, body } => {
            metered.failed(&code, &message);
            metered.close(Outcome::UpstreamError);
            let mut response = HttpResponse::build(reply.status);
            copy_headers(reply, &mut response);
            Ok(response.body(body))
        }
        Fault::Credentials { code } => {
            tracing::error!(code, "AWS refused this service's credentials");
            worker.shared.metrics.upstream_credentials.inc();
            let _full = worker.shared.actors.credentials.address().try_send(Refused);
            let error =
                ApiError::new(Code::Internal, "The service cannot use Bedrock at the moment.");
            metered.failed(&code, error.message());
            metered.close(Outcome::UpstreamError);
            Err(error)
        }
        Fault::Foreign => {
            let error = ApiError::new(
                Code::UpstreamUnavailable,
                "Bedrock could not be reached: something else answered.",
            );
            metered.failed("not_bedrock", error.message());
            metered.close(Outcome::UpstreamError);
            Err(error)
        }
    }
}
