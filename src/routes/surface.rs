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
use tracing::{Level, Span};
use tracing_actix_web::RootSpanBuilder;
use uuid::Uuid;

use super::error::{ApiError, Code, Dialect, anthropic_id};
use crate::{
    auth::Identity,
    state::{Worker, client_address},
};

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
        facts.caller = Some((identity.user_id, identity.key_id));
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
        let trusted = worker.map_or(&[][..], |worker| &worker.shared.server.trusted_proxies);
        let peer = request.peer_addr().map(|peer| peer.ip());
        let client = peer.map(|peer| client_address(peer, text("x-forwarded-for"), trusted));
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
    let dialect = Dialect::of(request.path());
    let inference = dialect != Dialect::Own;
    let refused =
        worker.as_ref().and_then(|worker| check_head(request.request(), worker, inference).err());
    let mut response = match refused {
        Some(error) => {
            let error = error.on(request.path(), id.clone());
            request.error_response(error).map_into_left_body()
        }
        None => next.call(request).await?.map_into_right_body(),
    };
    let https = worker
        .as_ref()
        .is_some_and(|worker| worker.shared.server.public_url().starts_with("https"));
    let closing = worker.as_ref().is_some_and(|worker| worker.shared.closing.load(Relaxed));
    if closing {
        response.response_mut().head_mut().set_connection_type(actix_http::ConnectionType::Close);
    }
    let headers = response.headers_mut();
    let streamed = headers.contains_key(header::CACHE_CONTROL);
    let mut set = |name: &'static str, value: &'static str| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    };
    set("x-content-type-options", "nosniff");
    if !streamed {
        set("cache-control", "no-store");
    }
    if !inference {
        set("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
        set("x-frame-options", "DENY");
        set("referrer-policy", "no-referrer");
        set("cross-origin-opener-policy", "same-origin");
        set("cross-origin-resource-policy", "same-origin");
        set("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()");
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
        return Err(ApiError::new(Code::MethodNotAllowed, "This method is not served."));
    }
    let mut hosts = request.headers().get_all(header::HOST);
    let host = hosts.next().and_then(|value| value.to_str().ok()).filter(|host| is_host(host));
    if host.is_none()
        && request.version() < Version::HTTP_11
        && !request.headers().contains_key(header::HOST)
    {
        return Ok(()); // HTTP/1.0 knows no Host; probes of some load balancers still speak it
    }
    let (Some(host), None) = (host, hosts.next()) else {
        return Err(ApiError::new(
            Code::InvalidParameter,
            "The request needs exactly one valid Host header.",
        ));
    };
    let checked =
        !inference && ["/api/", "/auth/"].iter().any(|prefix| request.path().starts_with(prefix));
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
