//! `/anthropic`: the Messages API. The request's bytes are edited where Bedrock needs it (`anthropic::request`), the
//! answer's are the model's own.

pub mod models;

use std::{sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::header,
    web::{Data, Payload},
};
use awc::http::header::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::Utc;
use paperclip::actix::api_v2_operation;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    call::{self, Admitted, Asked},
    error::{ApiError, Code, Dialect},
    extract::Caller,
    relay::{Opened, Relay, Watch, events::Events},
    surface,
};
use crate::{
    actors::streams::{Cut, StreamTicket},
    anthropic::{
        complaint::{self, Complaint},
        error::of_exception,
        event,
        learned::Refused,
        models::Resolved,
        request::{Edited, Headers, Incoming, Target, Wrong},
    },
    auth::Identity,
    bedrock::{
        Call, Endpoint, Operation, Reply,
        credentials::Authorization,
        error::{BedrockError, Fault, mask, read_fault},
        model_id::{ModelId, ModelIdError},
    },
    settings::rules::FieldPath,
    state::{Admission, Messages, Worker},
    usage::{Outcome, call::OpenCall},
};

const JSON: &str = "application/json";
/// Flags of `anthropic-beta` that are looked at.
const MOST_BETAS: usize = 64;

/// The Messages API is here
///
/// For clients that ask their base URL before they call it.
#[api_v2_operation(tags(Anthropic), operation_id = "anthropic")]
pub async fn base() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "status": "ok" }))
}

/// Create a message
///
/// The Messages API, over InvokeModel; with `"stream": true` as server-sent events.
#[api_v2_operation(tags(Anthropic), operation_id = "createMessage")]
pub async fn messages(
    Caller(identity): Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    // Boxed, or a stream that waits for its first event would hold the room for all of them.
    let prepared = Box::pin(async {
        let worker = worker.into_inner();
        let admitted = call::admit(&request, payload, &worker, &identity).await?;
        prepare(&identity, &request, admitted, worker, false).await
    });
    let (passage, admission, ticket) = prepared.await?;
    match ticket {
        Some(ticket) => stream(passage, admission, ticket).await,
        None => Box::pin(whole(passage, admission)).await,
    }
}

/// Count the tokens of a message
///
/// By Bedrock; costs nothing. Models that Bedrock cannot count for answer 400.
#[api_v2_operation(tags(Anthropic), operation_id = "countMessageTokens")]
pub async fn count_tokens(
    Caller(identity): Caller,
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let worker = worker.into_inner();
    let admitted = call::admit(&request, payload, &worker, &identity).await?;
    let (passage, admission, _) = prepare(&identity, &request, admitted, worker, true).await?;
    whole(passage, admission).await
}

/// Creates a message for somebody, as a page of ours wrote it: what [`messages`] does for a client, but for the stream.
///
/// # Errors
/// As there.
pub async fn by_page(
    identity: &Identity,
    request: &HttpRequest,
    body: Bytes,
    worker: Arc<Worker>,
) -> Result<HttpResponse, ApiError> {
    let admitted = call::admit_by_page(request, body, &worker, identity).await?;
    let (passage, admission, _) = prepare(identity, request, admitted, worker, false).await?;
    whole(passage, admission).await
}

/// A call that is open, before it is sent.
struct Passage {
    worker: Arc<Worker>,
    call: Call,
    endpoint: Endpoint,
    authorization: Arc<Authorization>,
    edited: Edited,
    resolved: Resolved,
    metered: OpenCall,
    deadline: Instant,
    /// Cancelled when the call must end for a shutdown.
    cut: Cut,
}

/// Reads a request that was let in, edits it and opens its call.
async fn prepare(
    identity: &Identity,
    request: &HttpRequest,
    admitted: Admitted,
    worker: Arc<Worker>,
    counting: bool,
) -> Result<(Passage, Admission, Option<StreamTicket>), ApiError> {
    let messages = &worker.messages;
    let incoming = Incoming::read(admitted.body.clone(), &messages.rules, counting)?;
    let asked = incoming.model(&messages.rules).into_owned();
    let resolved = resolve(&asked, &worker)?;
    surface::note_model(request, &asked); // no longer than a name may be
    let operation = match (counting, incoming.streams(&messages.rules)) {
        (true, _) => Operation::CountTokens,
        (false, true) => Operation::InvokeStream,
        (false, false) => Operation::Invoke,
    };
    // Bedrock counts for foundation models only.
    let id = if counting { &resolved.base } else { &resolved.id };
    let endpoints = &worker.bedrock.endpoints;
    let model = ModelId::parse(id, &endpoints.rules)?;
    let endpoint = match (model.region(), &resolved.region) {
        (None, Some(region)) => endpoints.named(region),
        _ => endpoints.of(&model),
    };
    let endpoint = endpoint.ok_or(ModelIdError::Region)?.clone();

    let learned = messages.learned.of(&resolved.base, &endpoint.region, Utc::now());
    let target = Target { base: &resolved.base, long_context: resolved.long_context };
    let said = if admitted.by_page { Headers::default() } else { said_in_headers(request) };
    let edited = incoming.edit(&messages.rules, &said, target, &learned)?;
    drop(incoming);
    surface::note_edits(request, edits(&edited, &worker));
    let headers = upstream_headers(&admitted, request)?;
    let Admitted { mut admission, began, body, .. } = admitted;
    drop(body);
    let call = Call { operation, model, headers, body: upstream_body(operation, &edited) };
    if !admission.holds(call.body.len()) {
        let message = "Too many large requests at the moment. Try again.";
        return Err(ApiError::new(Code::Overloaded, message));
    }
    let authorization = call::authorization(&worker).await?;

    let asked = Asked {
        endpoint_type: "anthropic",
        model: &asked,
        billed: &resolved.billed,
        region: call.model.region().or(resolved.region.as_deref()),
        endpoint_region: &endpoint.region,
    };
    let (ticket, cut) = match operation.streams() {
        true => {
            let (ticket, cut) = call::register(&worker, identity, asked)?;
            (Some(ticket), cut)
        }
        false => (None, worker.cut.clone().into()),
    };
    let row = call::first_row(request, identity, &call, asked);
    let mut metered = OpenCall::open(&worker.desk, row, began)?;
    if let Some(ticket) = &ticket {
        metered.shows(ticket.progress());
    }
    metered.durable().await;
    let deadline = Instant::now() + worker.bedrock.limits.total;
    let passage =
        Passage { worker, call, endpoint, authorization, edited, resolved, metered, deadline, cut };
    Ok((passage, admission, ticket))
}

/// Where the name of a model leads.
fn resolve(asked: &str, worker: &Worker) -> Result<Resolved, ApiError> {
    let found = worker.messages.models.resolve(asked);
    let resolved =
        found.map_err(|unknown| ApiError::new(Code::NotFound, format!("model: {unknown}")))?;
    if resolved.derived {
        tracing::warn!(model = asked, id = resolved.id, "a model that no table knows, by its name");
    }
    if !resolved.base.starts_with("anthropic.") && !resolved.base.starts_with("arn:") {
        let base: String = resolved.base.chars().take(80).collect();
        let message = format!("model: {base} is no Claude model; call it at /bedrock/model/…");
        return Err(ApiError::new(Code::InvalidParameter, message));
    }
    Ok(resolved)
}

/// What the Messages API says in headers.
fn said_in_headers(request: &HttpRequest) -> Headers {
    let text = |name: &str| request.headers().get(name)?.to_str().ok().map(str::trim);
    let owned = |name: &str| text(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let lines = request.headers().get_all("anthropic-beta").filter_map(|line| line.to_str().ok());
    let flags = lines.flat_map(|line| line.split(',')).map(str::trim);
    let betas = flags.filter(|flag| !flag.is_empty()).take(MOST_BETAS).map(str::to_owned).collect();
    let (version, profile) = (owned("anthropic-version"), owned("anthropic-user-profile-id"));
    Headers { version, betas, profile }
}

/// Bedrock's own headers pass; the rest is ours.
fn upstream_headers(
    admitted: &Admitted,
    request: &HttpRequest,
) -> Result<Vec<(String, String)>, ApiError> {
    let mut headers = admitted.headers(request)?;
    headers.retain(|(name, _)| name.starts_with("x-amzn-bedrock-"));
    headers.extend([("accept", JSON), ("content-type", JSON)].map(|(n, v)| (n.into(), v.into())));
    headers.sort_unstable();
    Ok(headers)
}

/// InvokeModel takes the edited body as it is, CountTokens in base64 (protocol reference §4.6).
fn upstream_body(operation: Operation, edited: &Edited) -> Bytes {
    if operation != Operation::CountTokens {
        return edited.body.clone();
    }
    let body = STANDARD.encode(&edited.body);
    format!("{{\"input\":{{\"invokeModel\":{{\"body\":\"{body}\"}}}}}}").into()
}

/// What was changed, counted, as one line for the log.
fn edits(edited: &Edited, worker: &Worker) -> String {
    let mut line = String::new();
    for note in &edited.notes {
        worker.shared.metrics.request_edits.with_label_values(&[note.change.as_str()]).inc();
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&format!("{} {}", note.change.as_str(), note.what));
    }
    line
}

impl Passage {
    /// Sends the call until it is answered. What Bedrock refuses for a flag, a member or the API version is sent once
    /// more without.
    async fn ask(mut self) -> Result<(Self, Reply), ApiError> {
        let mut tried: Option<Vec<Refused>> = None;
        loop {
            let mut reply = match self.send().await {
                Ok(Some(reply)) => reply,
                Ok(None) => {
                    return Err(call::cut_short(self.metered, Dialect::Anthropic, &self.cut));
                }
                Err(error) => return Err(call::failed(self.metered, error, Dialect::Anthropic)),
            };
            self.metered.answered(reply.status.as_u16(), reply.header("x-amzn-requestid"));
            if call::is_right_kind(&reply, self.call.operation) {
                let (model, region) = (&self.resolved.base, &self.endpoint.region);
                self.worker.messages.learned.note_accepted(model, region, &self.edited.betas);
                self.learn(&tried.unwrap_or_default());
                return Ok((self, reply));
            }
            let body = match self.read(&mut reply).await {
                Ok(Some(body)) => body,
                Ok(None) => {
                    return Err(call::cut_short(self.metered, Dialect::Anthropic, &self.cut));
                }
                Err(error) => return Err(call::failed(self.metered, error, Dialect::Anthropic)),
            };
            let kind = reply.header("x-amzn-errortype");
            let fault = read_fault(reply.status.as_u16(), kind, &body);
            if tried.is_none()
                && let Fault::Modelled { code, message, .. } = &fault
                && code.eq_ignore_ascii_case("ValidationException")
                && let Some(refused) = self.diagnose(message)
                && self.edit_again(&refused).unwrap_or(false)
            {
                tracing::info!(
                    model = self.resolved.base,
                    complaint = message,
                    edited = edits(&self.edited, &self.worker),
                    "asking Bedrock once more, without"
                );
                tried = Some(refused);
                continue;
            }
            if let Some(tried) = &tried
                && let Fault::Modelled { message, .. } = &fault
                && self.is_another(message, tried)
            {
                self.learn(tried); // Bedrock got past it
            }
            return Err(self.refused(fault, &reply));
        }
    }

    /// Whether a second complaint is about something else than the first, which `tried` answers.
    fn is_another(&self, message: &str, tried: &[Refused]) -> bool {
        match complaint::read(message) {
            Some(Complaint::Beta(_)) => !tried.iter().any(|one| matches!(one, Refused::Beta(_))),
            Some(Complaint::Fields(_)) => true,
            Some(Complaint::Version) => !tried.contains(&Refused::Version),
            None => false,
        }
    }

    /// `None` if the service stops first.
    async fn send(&mut self) -> Result<Option<Reply>, BedrockError> {
        let Self { worker, call, endpoint, authorization, metered, cut, .. } = self;
        let sent = worker.bedrock.send(call, endpoint, authorization, || metered.attempt());
        tokio::select! {
            biased;
            reply = sent => reply.map(Some),
            () = cut.token.cancelled() => Ok(None),
        }
    }

    /// `None` if the service stops first.
    async fn read(&self, reply: &mut Reply) -> Result<Option<Bytes>, BedrockError> {
        tokio::select! {
            biased;
            body = self.worker.bedrock.read(&mut reply.body, self.deadline) => body.map(Some),
            () = self.cut.token.cancelled() => Ok(None),
        }
    }

    /// What of the request Bedrock's complaint is about.
    fn diagnose(&self, message: &str) -> Option<Vec<Refused>> {
        let sent = &self.edited.betas;
        let refused: Vec<Refused> = match complaint::read(message)? {
            Complaint::Version => {
                self.edited.new_version.then_some(Refused::Version).into_iter().collect()
            }
            Complaint::Fields(places) => {
                let (body, new_version) = (&self.edited.body, self.edited.new_version);
                let rules = &self.worker.messages.rules;
                let meant = places.iter().map(|place| complaint::locate(body, place, rules));
                // All, or it would be refused again.
                let meant: Vec<Vec<FieldPath>> = meant.collect::<Option<_>>()?;
                let refused = |path| Refused::Field { path, new_version };
                meant.into_iter().flatten().map(refused).collect()
            }
            Complaint::Beta(named) => {
                let Messages { learned, rules, .. } = &*self.worker.messages;
                let (model, region) = (&self.resolved.base, &self.endpoint.region);
                let suspects =
                    learned.suspects(model, region, sent, &named, |flag| rules.lists(flag));
                suspects.into_iter().map(Refused::Beta).collect()
            }
        };
        (!refused.is_empty()).then_some(refused)
    }

    /// Takes out what was refused. Answers whether that changed anything.
    fn edit_again(&mut self, refused: &[Refused]) -> Result<bool, Wrong> {
        let rules = &self.worker.messages.rules;
        let target = Target { base: &self.resolved.base, long_context: false };
        let incoming = Incoming::reread(self.edited.body.clone(), rules)?;
        let edited = incoming.edit(rules, &Headers::default(), target, refused)?;
        let changed = edited.body != self.edited.body;
        self.call.body = upstream_body(self.call.operation, &edited);
        self.edited = edited;
        Ok(changed)
    }

    /// Bedrock took the call once `refused` was left out.
    fn learn(&self, refused: &[Refused]) {
        let (learned, region) = (&self.worker.messages.learned, &self.endpoint.region);
        for refused in refused {
            self.worker.shared.metrics.learned.with_label_values(&[refused.kind()]).inc();
            let (kind, name) = (refused.kind(), refused.to_string());
            tracing::warn!(model = self.resolved.base, region, kind, name, "learned: refused");
        }
        if !refused.is_empty() {
            learned.note(&self.resolved.base, region, refused, Utc::now());
        }
    }

    /// An answer that is an error, in Anthropic's words (protocol reference §4.7).
    fn refused(mut self, fault: Fault, reply: &Reply) -> ApiError {
        match fault {
            Fault::Modelled { code, message, original_status, .. } => {
                self.metered.failed(&code, &message);
                self.metered.close(Outcome::UpstreamError);
                let told = of_exception(&code, reply.status.as_u16(), original_status);
                let message = if message.is_empty() { code } else { message };
                ApiError::upstream(told, message, reply.header("retry-after"))
            }
            Fault::Credentials { code } => {
                call::credentials_refused(self.metered, &code, &self.worker)
            }
            Fault::Foreign => call::not_bedrock(self.metered),
        }
    }

    /// Asks for a stream and waits for its first event: what fails until then is an error of HTTP, which SDKs try again.
    async fn begin(self) -> Result<(Opened<Events>, HeaderMap), ApiError> {
        let (Self { worker, metered, cut, .. }, reply) = self.ask().await?;
        let opened = Opened::new(reply.body, Events::default(), metered);
        let begun = opened.begin(worker.bedrock.limits.idle, &cut).await;
        begun.map(|opened| (opened, reply.headers)).map_err(|(end, call)| {
            let message = mask(&end.message).into_owned();
            let error = match end.outcome {
                Outcome::UpstreamCut => ApiError::new(Code::UpstreamUnavailable, message),
                _ => ApiError::upstream(end.told(), message, None),
            };
            if let Some(call) = call {
                end.close(call);
            }
            error
        })
    }
}

/// An answer that does not stream.
async fn whole(passage: Passage, mut admission: Admission) -> Result<HttpResponse, ApiError> {
    let (mut passage, mut reply) = passage.ask().await?;
    passage.metered.first_byte();
    let body = match passage.read(&mut reply).await {
        Ok(Some(body)) => body,
        Ok(None) => return Err(call::cut_short(passage.metered, Dialect::Anthropic, &passage.cut)),
        Err(error) => return Err(call::failed(passage.metered, error, Dialect::Anthropic)),
    };
    if !admission.holds(body.len()) {
        tracing::warn!("answers in flight hold more than server.limits.in_flight_bytes");
    }
    let answer = match passage.call.operation {
        Operation::CountTokens => counted(&body),
        _ => serde_json::from_slice::<IgnoredAny>(&body).ok().map(|_json| body.clone()),
    };
    let Some(answer) = answer else {
        let error = BedrockError::Cut("it is no JSON".to_owned());
        return Err(call::failed(passage.metered, error, Dialect::Anthropic));
    };
    let reading = passage.metered.reading();
    match passage.call.operation {
        Operation::CountTokens => reading.count_tokens(),
        _ => {
            reading.whole(&body);
            reading.headers(|name| reply.header(name));
        }
    }
    let journal = passage.metered.journal();
    passage.metered.close(Outcome::Success);
    journal.durable().await;
    let mut response = respond(Some(&reply.headers));
    Ok(response.content_type(JSON).body(answer))
}

/// Bedrock's count in the words of the Messages API.
fn counted(body: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Counted {
        input_tokens: u64,
    }
    let Counted { input_tokens } = serde_json::from_slice(body).ok()?;
    Some(serde_json::json!({ "input_tokens": input_tokens }).to_string().into())
}

/// An answer that streams. Its head waits for the first event, up to `anthropic.first_event_hold_seconds`.
async fn stream(
    passage: Passage,
    mut admission: Admission,
    ticket: StreamTicket,
) -> Result<HttpResponse, ApiError> {
    let (worker, cut, deadline) = (passage.worker.clone(), passage.cut.clone(), passage.deadline);
    let ping = Some(worker.messages.ping);
    let hold = worker.messages.hold;
    let mut opening = Box::pin(passage.begin());
    let opened = match hold.is_zero() {
        true => None,
        false => tokio::time::timeout(hold, &mut opening).await.ok().transpose()?,
    };
    admission.becomes_stream();
    let watch = Watch { admission, ticket, cut, deadline, ping };
    let mut response = respond(opened.as_ref().map(|(_, headers)| headers));
    response
        .insert_header((header::CONTENT_TYPE, "text/event-stream; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"));
    let relay = match opened {
        Some((opened, _)) => Relay::new(opened, watch, &worker),
        None => {
            let opening = async move {
                let opened = opening.await.map(|(opened, _)| opened);
                opened.map_err(|error| event::error(error.code.told().kind, error.message()))
            };
            Relay::yet_to_open(Box::pin(opening), watch, &worker)
        }
    };
    Ok(response.streaming(relay))
}

/// The head of an answer, with Bedrock's own headers.
fn respond(upstream: Option<&HeaderMap>) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    for (name, value) in upstream.into_iter().flatten() {
        let name = name.as_str();
        if name == "x-amzn-requestid"
            || name.starts_with("x-amzn-bedrock-") && !name.ends_with("content-type")
        {
            response.append_header((name, value.as_bytes()));
        }
    }
    response
}
