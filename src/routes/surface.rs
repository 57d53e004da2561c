//! What holds for every request before its handler sees it, and for every response: the request id, limits on the
//! head, the host that was asked for, security headers, and the span under which it is logged.

use std::{net::IpAddr, sync::atomic::Ordering::Relaxed, time::Instant};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::{BodySize, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, Version,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use tracing::{Instrument, Level, Span};
use tracing_actix_web::RootSpanBuilder;
use uuid::Uuid;

use super::error::{ApiError, Code, Dialect, anthropic_id};
use crate::{
    actors::auth::Revalidate,
    auth::Identity,
    db::audit::{self, Event, Origin},
    limits::Subject,
    state::{Worker, client_address},
};

/// What pages may load and do: their own files, and nothing else (SEC-49).
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
/// All features that browsers let a page switch off.
const NO_FEATURES: &str = "accelerometer=(), autoplay=(), camera=(), \
    clipboard-read=(), clipboard-write=(), display-capture=(), encrypted-media=(), fullscreen=(), gamepad=(), \
    geolocation=(), gyroscope=(), hid=(), identity-credentials-get=(), idle-detection=(), keyboard-map=(), \
    local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), picture-in-picture=(), \
    publickey-credentials-create=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), \
    speaker-selection=(), storage-access=(), sync-xhr=(), usb=(), xr-spatial-tracking=()";

/// What is noted of a request on its way, for its access line. Kept beside the request and not in its span: a span's
/// fields are formatted anew whenever one is added.
#[derive(Debug, Clone)]
struct Facts {
    /// The client's `X-Request-Id` if that is a UUID, else a new one (SEC-103).
    id: Uuid,
    started: Instant,
    client: Option<IpAddr>,
    caller: Option<(i64, Option<i64>)>,
    model: Option<String>,
    /// What was changed in the request's body.
    edited: Option<String>,
}

/// The request's id, as text.
pub fn request_id(request: &impl HttpMessage) -> String {
    request.extensions().get::<Facts>().map(|facts| facts.id.to_string()).unwrap_or_default()
}

/// Notes who calls.
pub fn note_caller(request: &HttpRequest, identity: &Identity) {
    if let Some(facts) = request.extensions_mut().get_mut::<Facts>() {
        facts.caller = Some((identity.user_id, identity.credential.key_id()));
    }
}

/// Who does what this request does, and from where, for the audit log.
pub fn origin(request: &HttpRequest, identity: Option<&Identity>) -> Origin {
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let actor = identity.map(|identity| format!("user:{}", identity.user_id));
    Origin {
        actor: actor.unwrap_or_else(|| "anonymous".to_owned()),
        credential: identity.map(|identity| identity.credential.to_string()),
        ip_address: client(request).map(|address| address.to_string()),
        user_agent: agent.map(|text| text.chars().take(256).collect()),
        request_id: Some(request_id(request)),
    }
}

/// The client's address.
fn client(request: &HttpRequest) -> Option<IpAddr> {
    request.extensions().get::<Facts>().and_then(|facts| facts.client)
}

/// The client's address, as limits of rate count it.
pub fn subject(request: &HttpRequest) -> Subject {
    let nowhere = IpAddr::from([0, 0, 0, 0]);
    Subject::address(client(request).unwrap_or(nowhere))
}

/// Writes a refusal into the audit log, best effort: what was refused has changed nothing that would have to be undone.
/// In a task of its own, which ends also if the client hangs up.
pub async fn note_refusal(worker: &Worker, event: Event<'_>) {
    let (pool, lost) = (worker.shared.pool.clone(), worker.shared.metrics.audit_lost.clone());
    let (origin, provider) = (event.origin.clone(), event.provider.map(str::to_owned));
    let error = event.error.map(str::to_owned);
    let Event { at, event_type, user_id, object, metadata, .. } = event;
    let task = actix_web::rt::spawn(async move {
        let event = Event {
            at,
            event_type,
            user_id,
            object,
            metadata,
            provider: provider.as_deref(),
            error: error.as_deref(),
            origin: &origin,
        };
        let written = async { audit::record(&mut pool.writer().await?, event).await };
        if let Err(error) = written.await {
            lost.inc();
            tracing::warn!(%error, "a refusal could not be written into the audit log");
        }
    });
    let _panicked = task.await;
}

/// Access was taken away: this instance forgets what it knows of credentials at once, others within the bound (REL-20).
/// Where that fails, the look of every second does it: what was changed stays changed.
pub async fn revalidate(worker: &Worker) {
    match worker.shared.actors.auth.address().send(Revalidate).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "what is known of credentials is looked over later")
        }
        Err(error) => tracing::warn!(%error, "what is known of credentials is looked over later"),
    }
}

/// Notes which model is called.
pub fn note_model(request: &HttpRequest, model: &str) {
    if let Some(facts) = request.extensions_mut().get_mut::<Facts>() {
        facts.model = Some(model.to_owned());
    }
}

/// Notes what was changed in the request's body.
pub fn note_edits(request: &HttpRequest, edits: String) {
    if let Some(facts) = request.extensions_mut().get_mut::<Facts>() {
        facts.edited = Some(edits).filter(|edits| !edits.is_empty());
    }
}

/// Opens the span of a request and writes its access line (SEC-81): never the query, never a header's value.
pub struct AccessLog;

impl RootSpanBuilder for AccessLog {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let id = text("x-request-id")
            .and_then(|text| Uuid::try_parse(text).ok())
            .unwrap_or_else(Uuid::now_v7);
        let worker = request.app_data::<Data<Worker>>();
        let peer = request.peer_addr().map(|peer| peer.ip());
        let client = peer.zip(worker).map(|(peer, worker)| {
            let server = &worker.shared.server;
            let header = server.forwarded_header;
            // A line that is no text stops the walk from proxy to proxy, as an address that is none does.
            let lines: Vec<&str> = request
                .headers()
                .get_all(header.name())
                .map(|line| line.to_str().unwrap_or("-"))
                .collect();
            client_address(peer, header, lines.into_iter(), &server.trusted_proxies)
        });
        let started = Instant::now();
        let facts = Facts { id, started, client, caller: None, model: None, edited: None };
        request.extensions_mut().insert(facts);
        tracing::info_span!("request", request_id = %id)
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        let _entered = span.enter();
        let response = match outcome {
            Ok(response) => response,
            Err(error) => return tracing::error!(%error, "a request failed"),
        };
        let request = response.request();
        let extensions = request.extensions();
        let Some(facts) = extensions.get::<Facts>() else { return };
        let status = response.status().as_u16();
        let error = response.response().error().and_then(Error::as_error::<ApiError>);
        macro_rules! access_line {
            ($level:expr, $($rest:tt)+) => {{
                let size = match response.response().body().size() {
                    BodySize::Sized(size) => Some(size),
                    _ => None,
                };
                let length = request.headers().get(header::CONTENT_LENGTH);
                let received = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                tracing::event!(
                    $level,
                    method = request.method().as_str(),
                    route = request.match_pattern().as_deref().unwrap_or("-"),
                    status,
                    received,
                    size,
                    ms = facts.started.elapsed().as_secs_f64() * 1000.0,
                    client = facts.client.map(tracing::field::display),
                    user_id = facts.caller.map(|(user_id, _)| user_id),
                    key_id = facts.caller.and_then(|(_, key_id)| key_id),
                    model = facts.model.as_deref(),
                    edited = facts.edited.as_deref(),
                    $($rest)+
                )
            }};
        }
        match error {
            Some(error) if status >= 500 => {
                access_line!(Level::ERROR, cause = error.causes(), "{error}");
            }
            Some(error) => {
                let refusal = error.refusal.map(|refusal| refusal.as_str());
                access_line!(Level::INFO, cause = error.causes(), refusal, "{error}");
            }
            None if tracing::enabled!(Level::INFO) => access_line!(Level::INFO, "answered"),
            None => {}
        }
    }
}

/// Checks the head, and puts the headers on the response that every response has.
pub async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let worker = request.app_data::<Data<Worker>>().cloned();
    let id = request_id(&request);
    let dialect = Dialect::of_request(request.request());
    let inference = matches!(dialect, Dialect::Bedrock | Dialect::Anthropic);
    let is_probe = request.path().starts_with("/health");
    let refused =
        worker.as_ref().and_then(|worker| check_head(request.request(), worker, inference).err());
    let mut response = match refused {
        Some(error) => {
            let error = error.on(dialect, id.clone());
            request.error_response(error).map_into_left_body()
        }
        // A client that leaves cancels its inference call. Anything else but a probe, which asks no database, runs to its
        // end: it is short, may change something, and a query on SQLite must not be dropped half-way.
        None if inference || is_probe => next.call(request).await?.map_into_right_body(),
        None => actix_rt::spawn(next.call(request).in_current_span())
            .await
            .map_err(actix_web::error::ErrorInternalServerError)??
            .map_into_right_body(),
    };
    let https = worker
        .as_ref()
        .is_some_and(|worker| worker.shared.server.public_url().starts_with("https"));
    let closing = worker.as_ref().is_some_and(|worker| worker.shared.closing.load(Relaxed));
    if closing {
        response.response_mut().head_mut().set_connection_type(actix_http::ConnectionType::Close);
    }
    let headers = response.headers_mut();
    let caching_said = headers.contains_key(header::CACHE_CONTROL);
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let page = kind.is_some_and(|kind| kind.starts_with("text/html"));
    let mut set = |name: &'static str, value: &'static str| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    };
    set("x-content-type-options", "nosniff");
    if !caching_said {
        set("cache-control", "no-store");
    }
    if !inference {
        set("content-security-policy", if page { PAGE_POLICY } else { POLICY });
        set("x-frame-options", "DENY");
        set("referrer-policy", "no-referrer");
        set("cross-origin-opener-policy", "same-origin");
        set("cross-origin-resource-policy", "same-origin");
        set("permissions-policy", NO_FEATURES);
        if https {
            set("strict-transport-security", "max-age=31536000; includeSubDomains");
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    if dialect == Dialect::Anthropic
        && let Ok(value) = HeaderValue::from_str(&anthropic_id(&id))
    {
        headers.insert(HeaderName::from_static("request-id"), value);
    }
    Ok(response)
}

/// SEC-54, SEC-56: one valid host, the right one where it matters, and a head of bounded size.
fn check_head(request: &HttpRequest, worker: &Worker, inference: bool) -> Result<(), ApiError> {
    let limits = &worker.shared.server.limits;
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if request.method().as_str().len() + target + " HTTP/1.1 ".len() > limits.request_line_bytes {
        return Err(ApiError::new(Code::HeadersTooLarge, "The request line is too long."));
    }
    let size: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > limits.header_bytes {
        return Err(ApiError::new(Code::HeadersTooLarge, "The headers are too large."));
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(ApiError::method_not_allowed(request.match_pattern()));
    }
    let mut hosts = request.headers().get_all(header::HOST);
    let host = hosts.next().and_then(|value| value.to_str().ok()).filter(|host| is_host(host));
    if host.is_none()
        && request.version() < Version::HTTP_11
        && !request.headers().contains_key(header::HOST)
        && (inference || request.path().starts_with("/health"))
    {
        return Ok(()); // HTTP/1.0 knows no Host; probes of some load balancers still speak it
    }
    let (Some(host), None) = (host, hosts.next()) else {
        return Err(ApiError::new(
            Code::InvalidParameter,
            "The request needs exactly one valid Host header.",
        ));
    };
    // RFC 9112, section 3.2.2: an authority in the target goes before Host. Where both are there, both are this.
    let target = request.uri().authority().map(|authority| authority.as_str());
    if target.is_some_and(|target| !target.eq_ignore_ascii_case(host)) {
        let message = "The request's target and its Host header name different hosts.";
        return Err(ApiError::new(Code::InvalidParameter, message));
    }
    // Probes and balancers call by address.
    let checked = !inference && !request.path().starts_with("/health");
    let known = &worker.shared.hosts;
    if checked && !known.is_empty() && !known.contains(&host.to_ascii_lowercase()) {
        let message = "The Host header names no host of this service (server.public_url, server.allowed_hosts).";
        return Err(ApiError::new(Code::InvalidParameter, message));
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']' | b'_')
    };
    !host.is_empty() && host.bytes().all(allowed)
}
