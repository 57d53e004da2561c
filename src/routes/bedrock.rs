//! `POST /bedrock/model/{model_id}/…`: the native Bedrock API. Bodies and frames pass unchanged; headers pass by a
//! list, both ways.

use std::{sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Payload},
};
use paperclip::actix::api_v2_operation;

use super::{
    call::{self, Admitted, Asked},
    error::{ApiError, Code, Dialect},
    extract::Caller,
    relay::{Opened, Relay, Watch, frames::Frames},
    surface,
};
use crate::{
    auth::Identity,
    bedrock::{
        Call, Operation, Reply,
        error::{Fault, read_fault},
        model_id::ModelId,
    },
    state::Worker,
    usage::{Outcome, call::OpenCall, meter::StreamKind},
};

const PREFIX: &str = "/bedrock/model/";

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
    let worker = worker.into_inner();
    let admitted = call::admit(&request, payload, &worker, &identity).await?;
    let model = model_of(&request, operation, &worker)?;
    pass(operation, model, &identity, &request, admitted, worker).await
}

/// Converses with a model for somebody, as a page of ours wrote it: what [`converse`] does for a client.
///
/// # Errors
/// As there.
pub async fn by_page(
    identity: &Identity,
    request: &HttpRequest,
    model: &str,
    body: bytes::Bytes,
    worker: Arc<Worker>,
) -> Result<HttpResponse, ApiError> {
    let admitted = call::admit_by_page(request, body, &worker, identity).await?;
    let model = ModelId::parse(model, &worker.bedrock.endpoints.rules)?;
    pass(Operation::Converse, model, identity, request, admitted, worker).await
}

/// Passes a call on that was let in, and its answer back.
async fn pass(
    operation: Operation,
    model: ModelId,
    identity: &Identity,
    request: &HttpRequest,
    admitted: Admitted,
    worker: Arc<Worker>,
) -> Result<HttpResponse, ApiError> {
    surface::note_model(request, model.as_str());
    let headers = admitted.headers(request)?;
    let Admitted { mut admission, body, began, .. } = admitted;
    let call = Call { operation, model, headers, body };
    let endpoint = worker
        .bedrock
        .endpoints
        .of(&call.model)
        .ok_or(crate::bedrock::model_id::ModelIdError::Region)?;
    let authorization = call::authorization(&worker).await?;

    let asked = Asked {
        endpoint_type: "bedrock",
        model: call.model.as_str(),
        billed: worker.messages.models.billed(call.model.as_str()),
        region: call.model.region(),
        endpoint_region: &endpoint.region,
    };
    let ticket = match operation.streams() {
        true => Some(call::register(&worker, identity, asked)?),
        false => None,
    };
    let cut = call::cut_of(&worker, ticket.as_ref());
    let row = call::first_row(request, identity, &call, asked);
    let mut metered = OpenCall::open(&worker.desk, row, began)?;
    if let Some((ticket, _)) = &ticket {
        metered.shows(ticket.progress());
    }
    metered.durable().await;

    let deadline = Instant::now() + worker.bedrock.limits.total;
    let sent = worker.bedrock.send(&call, endpoint, &authorization, || metered.attempt());
    let reply = tokio::select! {
        biased;
        reply = sent => reply,
        () = cut.token.cancelled() => {
            return Err(call::cut_short(metered, Dialect::Bedrock, &cut));
        }
    };
    let mut reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Err(call::failed(metered, error, Dialect::Bedrock)),
    };
    metered.answered(reply.status.as_u16(), reply.header("x-amzn-requestid"));
    let right_kind = call::is_right_kind(&reply, operation);
    match ticket {
        Some((ticket, cut)) if right_kind => {
            admission.becomes_stream();
            let kind = match operation {
                Operation::ConverseStream => StreamKind::Converse,
                _ => StreamKind::Invoke,
            };
            let mut response = HttpResponse::build(reply.status);
            call::copy_headers(&reply, &mut response);
            let watch = Watch { admission, ticket, cut, deadline, ping: None };
            let opened = Opened::new(reply.body, Frames::new(kind), metered);
            Ok(response.streaming(Relay::new(opened, watch, &worker)))
        }
        _ticket => {
            if right_kind {
                metered.first_byte();
            }
            let read = worker.bedrock.read(&mut reply.body, deadline);
            let body = tokio::select! {
                biased;
                body = read => body,
                () = cut.token.cancelled() => {
                    return Err(call::cut_short(metered, Dialect::Bedrock, &cut));
                }
            };
            let body = match body {
                Ok(body) => body,
                Err(error) => return Err(call::failed(metered, error, Dialect::Bedrock)),
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
            call::copy_headers(&reply, &mut response);
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

/// An answer that is an error: Bedrock's own goes on as it is.
fn refused(
    mut metered: OpenCall,
    reply: &Reply,
    body: bytes::Bytes,
    worker: &Worker,
) -> Result<HttpResponse, ApiError> {
    match read_fault(reply.status.as_u16(), reply.header("x-amzn-errortype"), &body) {
        Fault::Modelled { code, message, body, .. } => {
            metered.failed(&code, &message);
            metered.close(Outcome::UpstreamError);
            let mut response = HttpResponse::build(reply.status);
            call::copy_headers(reply, &mut response);
            Ok(response.body(body))
        }
        Fault::Credentials { code } => Err(call::credentials_refused(metered, &code, worker)),
        Fault::Foreign => Err(call::not_bedrock(metered)),
    }
}
