//! The only place that picks a status code, and the dialects in which clients are told (protocol reference §1.5,
//! §4.7, and the table of our own API).

use std::{borrow::Cow, fmt};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::Next,
};
use paperclip::actix::api_v2_errors;
use serde_json::json;

use super::surface::request_id;
use crate::{
    anthropic::{
        error::{self as anthropic, Told},
        request::Wrong,
    },
    auth::{AuthError, Refusal},
    bedrock::{error::BedrockError, model_id::ModelIdError},
    db::DbError,
    limits::Exceeded,
    pricing::import::BadLine,
    templates::{self, ErrorPage, Kept, KeptPage},
    usage::journal::JournalError,
};

/// What went wrong, from a closed list; clients rely on the spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidParameter,
    InvalidJson,
    InvalidCsv,
    UnknownField,
    /// A sign-in that took too long, came twice, or began in another browser.
    LoginExpired,
    /// A sign-in that the provider or a rule of ours did not allow; the page says which.
    SignInRefused,
    /// As OAuth 2.0 names it (RFC 6749 §5.2, RFC 8628 §3.5).
    OAuth(&'static str),
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    KeyLimitReached,
    RateLimited,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
    RequestTimeout,
    HeadersTooLarge,
    Internal,
    DatabaseUnavailable,
    DatabaseReadOnly,
    AuditUnavailable,
    ProviderUnavailable,
    UsageJournalUnavailable,
    ShuttingDown,
    Overloaded,
    UpstreamUnavailable,
    UpstreamTimeout,
    /// Bedrock's own failure, in Anthropic's words.
    Upstream(Told),
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::InvalidParameter => "invalid_parameter",
            Self::InvalidJson => "invalid_json",
            Self::InvalidCsv => "invalid_csv",
            Self::UnknownField => "unknown_field",
            Self::LoginExpired => "login_expired",
            Self::SignInRefused => "sign_in_refused",
            Self::OAuth(code) => code,
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::KeyLimitReached => "key_limit_reached",
            Self::RateLimited => "rate_limited",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RequestTimeout => "request_timeout",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Internal => "internal",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::DatabaseReadOnly => "database_read_only",
            Self::AuditUnavailable => "audit_unavailable",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::UsageJournalUnavailable => "usage_journal_unavailable",
            Self::ShuttingDown => "shutting_down",
            Self::Overloaded => "overloaded",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Upstream(_) => "upstream_error",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidParameter
            | Self::InvalidJson
            | Self::InvalidCsv
            | Self::UnknownField
            | Self::LoginExpired
            | Self::OAuth(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::SignInRefused => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict | Self::KeyLimitReached => StatusCode::CONFLICT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::DatabaseUnavailable
            | Self::DatabaseReadOnly
            | Self::AuditUnavailable
            | Self::ProviderUnavailable
            | Self::UsageJournalUnavailable
            | Self::ShuttingDown
            | Self::Overloaded
            | Self::UpstreamUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(told) => {
                StatusCode::from_u16(told.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// The same in Anthropic's words.
    pub fn told(self) -> Told {
        match self {
            Self::Upstream(told) => told,
            code => anthropic::of_status(code.status().as_u16()),
        }
    }

    /// The exception that Bedrock would call it.
    fn bedrock(self) -> &'static str {
        match self.status().as_u16() {
            401 => "UnrecognizedClientException",
            403 => "AccessDeniedException",
            404 => "ResourceNotFoundException",
            429 => "ThrottlingException",
            500 => "InternalServerException",
            503 => "ServiceUnavailableException",
            408 | 504 => "ModelTimeoutException",
            _ => "ValidationException",
        }
    }

    /// What OAuth 2.0 calls it.
    fn oauth(self) -> &'static str {
        match self {
            Self::OAuth(code) => code,
            Self::Unauthorized => "invalid_grant",
            Self::Forbidden | Self::SignInRefused => "access_denied",
            code => match code.status().as_u16() {
                429 | 503 => "temporarily_unavailable",
                500.. => "server_error",
                _ => "invalid_request",
            },
        }
    }

    /// A heading for people.
    fn title(self) -> &'static str {
        match self {
            Self::LoginExpired => "This sign-in is over",
            Self::SignInRefused => "You cannot sign in",
            Self::NotFound => "There is nothing here",
            Self::Unauthorized => "You are not signed in",
            Self::Forbidden => "You may not do this",
            Self::RateLimited => "Too many tries",
            code if code.status().is_server_error() => "This does not work at the moment",
            _ => "This did not work",
        }
    }

    /// What a person does about it, where the message and the button do not say.
    fn advice(self) -> &'static str {
        match self {
            Self::InvalidParameter | Self::InvalidJson | Self::InvalidCsv | Self::UnknownField => {
                "Go back, look over what was entered, and send it again."
            }
            Self::NotFound => "Look over the address, or start from the overview.",
            Self::Forbidden => {
                "If you think that you should be allowed to, ask an admin of this service."
            }
            Self::RateLimited => "Wait for that long, then load the page again.",
            Self::DatabaseReadOnly => "You can look at pages meanwhile; nothing can be changed.",
            Self::ProviderUnavailable => "Try again in a few seconds.",
            code if code.status().is_server_error() => {
                "Wait a few seconds, then load the page again."
            }
            _ => "",
        }
    }

    /// Whether signing in, once more, is what a person can do.
    fn is_of_sign_in(self) -> bool {
        matches!(
            self,
            Self::LoginExpired
                | Self::SignInRefused
                | Self::Unauthorized
                | Self::ProviderUnavailable
        )
    }

    /// Seconds after which trying again makes sense.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::DatabaseUnavailable
            | Self::DatabaseReadOnly
            | Self::AuditUnavailable
            | Self::ProviderUnavailable
            | Self::UsageJournalUnavailable => Some(5),
            Self::ShuttingDown | Self::Overloaded => Some(1),
            _ => None,
        }
    }
}

/// The shape in which a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Own,
    Bedrock,
    Anthropic,
    /// RFC 6749 §5.2.
    OAuth,
    /// A page, for people.
    Page,
}

impl Dialect {
    /// The dialect for a request: a browser that wants a page is given one, but where programs are at home.
    pub fn of_request(request: &HttpRequest) -> Self {
        let path = request.path();
        let dialect = Self::of(path);
        if dialect != Self::Own || path.starts_with("/api/") {
            return dialect;
        }
        let accept = request.headers().get(header::ACCEPT);
        let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let sign_in = ["/auth/callback/", "/auth/authorize/"].iter().any(|p| path.starts_with(p));
        let page = accept.contains("text/html") || sign_in && !accept.contains("application/json");
        if page { Self::Page } else { Self::Own }
    }

    /// The dialect of the clients that call a path. Decides how they are told, and nothing else.
    pub fn of(path: &str) -> Self {
        let below = |base: &str| {
            path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if below("/bedrock") {
            Self::Bedrock
        } else if below("/anthropic") {
            Self::Anthropic
        } else if matches!(path, "/auth/token" | "/auth/refresh" | "/auth/device") {
            Self::OAuth
        } else {
            Self::Own
        }
    }
}

/// A refusal or a failure: a code and a sentence for the client, the cause for the log.
#[api_v2_errors(
    code = 400,
    description = "The request is malformed; the message names what is wrong",
    code = 401,
    description = "The credential was not accepted",
    code = 403,
    description = "The credential may not do this",
    code = 404,
    description = "There is no such thing, or it is somebody else's",
    code = 409,
    description = "It does not go together with what is there",
    code = 413,
    description = "The body is larger than server.max_body_bytes",
    code = 415,
    description = "The body is compressed",
    code = 429,
    description = "Too many of these; Retry-After says when to try again",
    code = 500,
    description = "The service failed",
    code = 503,
    description = "The service, or a part it needs, is not available; try again",
    code = 504,
    description = "Bedrock did not answer in time"
)]
pub struct ApiError {
    pub code: Code,
    message: Cow<'static, str>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Why a credential was refused: for the log and the metric.
    pub refusal: Option<Refusal>,
    telling: Box<Telling>,
}

/// How an error is told.
#[derive(Clone)]
struct Telling {
    dialect: Dialect,
    request_id: String,
    /// The methods that the path takes instead.
    allow: String,
    /// When trying again makes sense, if it is not by the code.
    retry_after: Option<String>,
    /// Where a browser goes on instead.
    location: Option<String>,
    /// The one at fault.
    field: Option<Cow<'static, str>>,
    /// Several at once.
    details: Vec<Detail>,
    /// What was typed into the form that was refused.
    kept: Option<Kept>,
}

/// One of several things that are wrong.
#[derive(Clone)]
struct Detail {
    /// Of a file.
    line: Option<u64>,
    field: String,
    message: String,
}

impl ApiError {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            cause: None,
            refusal: None,
            telling: Box::new(Telling {
                dialect: Dialect::Own,
                request_id: String::new(),
                allow: String::new(),
                retry_after: None,
                location: None,
                field: None,
                details: Vec::new(),
                kept: None,
            }),
        }
    }

    /// Bedrock's own failure: its words, and its `Retry-After`.
    pub fn upstream(told: Told, message: String, retry_after: Option<&str>) -> Self {
        let mut error = Self::new(Code::Upstream(told), message);
        error.telling.retry_after = retry_after.map(str::to_owned);
        error
    }

    /// To be told to a client in this dialect.
    pub fn on(mut self, dialect: Dialect, request_id: String) -> Self {
        (self.telling.dialect, self.telling.request_id) = (dialect, request_id);
        self
    }

    /// Too many of something, and when it may be tried again.
    pub fn rate_limited(exceeded: &Exceeded) -> Self {
        let setting = exceeded.limit.setting();
        let seconds = exceeded.retry_after.as_secs() + 1;
        let message =
            format!("Too many of these. Try again in {seconds} s. The limit is {setting}.");
        let mut error = Self::new(Code::RateLimited, message);
        error.telling.retry_after = Some(seconds.to_string());
        error
    }

    /// Members of a body that nobody knows, by name.
    pub fn unknown_fields(names: &[String]) -> Self {
        const MOST: usize = 10;
        let names: Vec<String> = names.iter().take(MOST).map(|name| brief(name, 64)).collect();
        let first = names.first().cloned().unwrap_or_default();
        let message = format!("`{first}` is not a field of this request.");
        let details = names.into_iter().map(|field| Detail {
            line: None,
            field,
            message: "This field is not known.".to_owned(),
        });
        let mut error = Self::new(Code::UnknownField, message);
        error.telling.field = Some(first.into());
        error.telling.details = details.collect();
        error
    }

    /// A file of prices with something wrong in it; every bad line is named.
    pub fn csv(bad: Vec<BadLine>) -> Self {
        let message = match bad.as_slice() {
            [one] => format!("Line {} of the file is wrong: {}.", one.line, one.message),
            [one, others @ ..] => format!(
                "The file is wrong, and nothing was changed. Line {}: {}; and {} more, see details.",
                one.line,
                one.message,
                others.len()
            ),
            [] => "The file is wrong.".to_owned(),
        };
        let mut error = Self::new(Code::InvalidCsv, message);
        error.telling.details = bad
            .into_iter()
            .map(|BadLine { line, field, message }| Detail { line: Some(line), field, message })
            .collect();
        error
    }

    /// The status that the client of a dialect is given.
    pub fn status(&self, dialect: Dialect) -> u16 {
        match dialect {
            Dialect::Anthropic => self.code.told().status,
            _ => self.code.status().as_u16(),
        }
    }

    /// A parameter that is wrong, by name.
    pub fn parameter(
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut error = Self::new(Code::InvalidParameter, message);
        error.telling.field = Some(field.into());
        error
    }

    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn refused(refusal: Refusal) -> Self {
        let message = "The credential was not accepted. Send an API key or an access token as \
                       `Authorization: Bearer …` or `X-API-Key: …`.";
        Self { refusal: Some(refusal), ..Self::new(Code::Unauthorized, message) }
    }

    /// Nobody is signed in: to the sign-in page, and on to `next` afterwards.
    pub fn to_sign_in(next: &str) -> Self {
        let encoded = url::form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>();
        let place =
            if next == "/" { "/login".to_owned() } else { format!("/login?next={encoded}") };
        let mut error = Self::refused(Refusal::Missing);
        error.telling.location = Some(place);
        error
    }

    /// With what was typed, for a person to send again.
    pub fn keeping(mut self, kept: Option<Kept>) -> Self {
        self.telling.kept = kept;
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field at fault, if it is one.
    pub fn field(&self) -> Option<&str> {
        self.telling.field.as_deref()
    }

    /// The causes, for the log.
    pub fn causes(&self) -> String {
        let mut text = String::new();
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn std::error::Error);
        while let Some(error) = cause {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    fn body(&self) -> serde_json::Value {
        match self.telling.dialect {
            Dialect::Bedrock => json!({ "message": self.message }),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": { "type": self.code.told().kind, "message": self.message },
                "request_id": anthropic_id(&self.telling.request_id),
            }),
            Dialect::OAuth => json!({
                "error": self.code.oauth(),
                "error_description": self.message,
                "request_id": self.telling.request_id,
            }),
            Dialect::Own | Dialect::Page => {
                let mut error = json!({
                    "code": self.code.as_str(),
                    "message": self.message,
                    "request_id": self.telling.request_id,
                });
                if let Some(members) = error.as_object_mut() {
                    if let Some(field) = &self.telling.field {
                        members.insert("field".to_owned(), field.as_ref().into());
                    }
                    let details = &self.telling.details;
                    if details.len() > 1 || details.iter().any(|detail| detail.line.is_some()) {
                        let detail = |Detail { line, field, message }: &Detail| match line {
                            Some(line) => {
                                json!({ "line": line, "field": field, "message": message })
                            }
                            None => json!({ "field": field, "message": message }),
                        };
                        let details = details.iter().map(detail).collect();
                        members.insert("details".to_owned(), details);
                    }
                }
                json!({ "error": error })
            }
        }
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {}", self.code, self.message, self.causes())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        if self.telling.location.is_some() {
            return StatusCode::SEE_OTHER;
        }
        let status = self.status(self.telling.dialect);
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(place) = &self.telling.location {
            return response.insert_header((header::LOCATION, place.as_str())).finish();
        }
        if self.code == Code::Unauthorized {
            response
                .insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"bedrock-sso-proxy\""));
        }
        if let Some(after) = &self.telling.retry_after {
            response.insert_header((header::RETRY_AFTER, after.as_str()));
        } else if let Some(seconds) = self.code.retry_after() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if !self.telling.allow.is_empty() {
            response.insert_header((header::ALLOW, self.telling.allow.as_str()));
        }
        match self.telling.dialect {
            Dialect::Own | Dialect::OAuth => {}
            Dialect::Page => {
                let request_id = &self.telling.request_id;
                if let Some(kept) = &self.telling.kept {
                    return templates::answer(response, &KeptPage { kept, request_id });
                }
                // People have no credential in their hands, but a session.
                let message = match self.code {
                    Code::Unauthorized => "Your session is over. Sign in, and try again.",
                    _ => &self.message,
                };
                let page = ErrorPage {
                    title: self.code.title(),
                    message,
                    advice: self.code.advice(),
                    request_id,
                    sign_in: self.code.is_of_sign_in(),
                };
                return templates::answer(response, &page);
            }
            Dialect::Bedrock => {
                response.insert_header(("x-amzn-errortype", self.code.bedrock()));
                response.insert_header(("x-amzn-requestid", self.telling.request_id.as_str()));
            }
            Dialect::Anthropic => {
                response.insert_header(("request-id", anthropic_id(&self.telling.request_id)));
                if let Some(retry) = self.code.told().should_retry {
                    response.insert_header(("x-should-retry", retry.to_string()));
                }
            }
        }
        response.content_type("application/json").body(self.body().to_string())
    }
}

/// A request's id as clients of the Messages API know it; with its prefix off, it is the `request_id` of the usage row.
pub fn anthropic_id(id: &str) -> String {
    format!("req_{id}")
}

/// A text of a client's, as far as it is told back.
pub fn brief(text: &str, most: usize) -> String {
    let mut brief: String = text.chars().take(most).collect();
    if brief.len() < text.len() {
        brief.push('…');
    }
    brief
}

/// Tells whatever goes wrong in the dialect of the path, and turns a panic into this client's 500 and nobody else's
/// (REL-29).
pub async fn in_shape(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let (path, id) = (request.path().to_owned(), request_id(&request));
    let dialect = Dialect::of_request(request.request());
    let answering =
        futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(next.call(request)));
    let mut answering = Box::pin(answering);
    // A client that hangs up drops this future. A conversation with the database must not be dropped half-way: on SQLite
    // it would take the worker along. Inference has none; there, hanging up is what cancels the call.
    let outcome = match dialect {
        Dialect::Bedrock | Dialect::Anthropic => answering.await,
        // What is answered at once waits for nobody.
        _ => match futures_util::poll!(answering.as_mut()) {
            std::task::Poll::Ready(outcome) => outcome,
            std::task::Poll::Pending => {
                actix_web::rt::spawn(answering).await.unwrap_or_else(|gone| Err(Box::new(gone)))
            }
        },
    };
    let response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(as_api_error(&error).on(dialect, id).into()),
        Err(_panic) => {
            tracing::error!(request_id = id, "a handler panicked");
            let error = ApiError::new(Code::Internal, "The service failed to answer this request.");
            return Err(error.on(dialect, id).into());
        }
    };
    let status = response.status();
    let shaped = match response.response().error() {
        Some(error) => Some(as_api_error(error)),
        // What the framework itself refuses has no body.
        None if status == StatusCode::NOT_FOUND && is_empty(&response) => {
            Some(ApiError::new(Code::NotFound, nothing_at(&path)))
        }
        None if status == StatusCode::METHOD_NOT_ALLOWED && is_empty(&response) => {
            let pattern = response.request().match_pattern().unwrap_or_default();
            let mut error =
                ApiError::new(Code::MethodNotAllowed, "This path does not take this method.");
            error.telling.allow = super::methods_of(&pattern);
            Some(error)
        }
        None => None,
    };
    match shaped {
        Some(error) => {
            let (request, _) = response.into_parts();
            Ok(ServiceResponse::from_err(error.on(dialect, id), request))
        }
        None => Ok(response.map_into_boxed_body()),
    }
}

fn nothing_at(path: &str) -> &'static str {
    let below = path.strip_prefix("/anthropic").unwrap_or_default();
    if below.starts_with("/v1/messages/batches") {
        "Message batches are not available: Bedrock has nothing like them at this API."
    } else if below.starts_with("/v1/files") {
        "Files are not available: Bedrock has nothing like them at this API."
    } else if below.starts_with("/v1/complete") {
        "Text completions are not available; use /anthropic/v1/messages."
    } else {
        "There is nothing at this path."
    }
}

fn is_empty<B: MessageBody>(response: &ServiceResponse<B>) -> bool {
    matches!(
        response.response().body().size(),
        actix_web::body::BodySize::None | actix_web::body::BodySize::Sized(0)
    )
}

/// Any error as an [`ApiError`].
fn as_api_error(error: &actix_web::Error) -> ApiError {
    match error.as_error::<ApiError>() {
        Some(known) => ApiError {
            code: known.code,
            message: known.message.clone(),
            cause: Some(known.causes()).filter(|causes| !causes.is_empty()).map(Into::into),
            refusal: known.refusal,
            telling: known.telling.clone(),
        },
        None => {
            let status = error.as_response_error().status_code();
            let (code, message) = match status.as_u16() {
                404 => (Code::NotFound, "There is nothing at this path."),
                405 => (Code::MethodNotAllowed, "This path does not take this method."),
                413 => (Code::PayloadTooLarge, "The body is too large."),
                400..=499 => (Code::InvalidParameter, "The request is malformed."),
                _ => (Code::Internal, "The service failed to answer this request."),
            };
            ApiError::new(code, message).caused_by(error.to_string())
        }
    }
}

/// How much of a parser's complaint, which may quote the client, is told.
pub const LONGEST_CAUSE: usize = 200;

/// A query string that does not fit the parameters of its route.
pub fn query(error: &actix_web::error::QueryPayloadError) -> ApiError {
    let cause = match error {
        actix_web::error::QueryPayloadError::Deserialize(cause) => cause.to_string(),
        other => other.to_string(),
    };
    let message = format!("The query is wrong: {}.", brief(&cause, LONGEST_CAUSE));
    ApiError::new(Code::InvalidParameter, message)
}

/// A part of the path that is not what stands in its place, such as an id that is no number (SEC-101).
pub fn path(error: &actix_web::error::PathError, request: &HttpRequest) -> ApiError {
    if Dialect::of_request(request) == Dialect::Page {
        let message =
            "The path is wrong: there is something in it where a number or a name should be.";
        return ApiError::new(Code::InvalidParameter, message);
    }
    let cause = match error {
        actix_web::error::PathError::Deserialize(cause) => cause.to_string(),
        other => other.to_string(),
    };
    let message = format!("The path is wrong: {}.", brief(&cause, LONGEST_CAUSE));
    ApiError::new(Code::InvalidParameter, message)
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Refused(refusal) => Self::refused(refusal),
            AuthError::OwnerOfKey { .. } => Self::refused(Refusal::OwnerNotActive),
            AuthError::Unavailable(cause) => Self::new(
                Code::DatabaseUnavailable,
                "The credential cannot be checked at the moment because the database is away. Try again.",
            )
            .caused_by(cause),
        }
    }
}

impl From<Wrong> for ApiError {
    fn from(error: Wrong) -> Self {
        Self::new(Code::InvalidParameter, error.to_string())
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        let (code, message) = match &error {
            DbError::Unavailable(_) => {
                (Code::DatabaseUnavailable, "The database is away at the moment. Try again.")
            }
            DbError::ReadOnly => {
                (Code::DatabaseReadOnly, "The database is read-only at the moment.")
            }
            DbError::Audit(_) => (
                Code::AuditUnavailable,
                "The audit log cannot be written at the moment, so nothing was changed. Try again.",
            ),
            DbError::Query(_) | DbError::Schema(_) | DbError::LeaseLost(_) => {
                (Code::Internal, "The service failed to answer this request.")
            }
        };
        Self::new(code, message).caused_by(error)
    }
}

impl From<ModelIdError> for ApiError {
    fn from(error: ModelIdError) -> Self {
        let message = error.to_string();
        let mut letters = message.chars();
        let first =
            letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
        Self::parameter("model_id", format!("{first}{}.", letters.as_str()))
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        let message =
            "Usage cannot be recorded at the moment, so no call is made. Try again later.";
        Self::new(Code::UsageJournalUnavailable, message).caused_by(error)
    }
}

impl From<BedrockError> for ApiError {
    fn from(error: BedrockError) -> Self {
        let (code, message) = match &error {
            BedrockError::Unreachable(_) => {
                (Code::UpstreamUnavailable, "Bedrock could not be reached.")
            }
            BedrockError::Cut(_) => (Code::UpstreamUnavailable, "Bedrock's answer broke off."),
            BedrockError::Silent => (Code::UpstreamTimeout, "Bedrock did not answer in time."),
        };
        Self::new(code, message).caused_by(error)
    }
}
