//! The only place that picks a status code, and the dialects in which clients are told (protocol reference §1.5,
//! §4.7, and the table of our own API).

mod causes;
mod code;
mod shape;

use std::{borrow::Cow, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use paperclip::actix::api_v2_errors;
use serde_json::json;

pub use self::{
    causes::{LONGEST_CAUSE, path, query},
    code::Code,
    shape::{Dialect, in_shape},
};
use crate::{
    anthropic::error::Told,
    auth::Refusal,
    limits::Exceeded,
    pricing::import::BadLine,
    telemetry,
    templates::{self, ErrorPage, Kept, KeptPage},
};

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

    /// A method that the path does not take; `pattern` is the router's, if there is such a path.
    pub fn method_not_allowed(pattern: Option<String>) -> Self {
        let mut error = Self::new(Code::MethodNotAllowed, "This path does not take this method.");
        error.telling.allow = super::methods_of(&pattern.unwrap_or_default());
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
        Self::refused(Refusal::Missing).see(&place)
    }

    /// What is meant is at this path of ours.
    fn see(mut self, path: &str) -> Self {
        self.telling.location = Some(path.to_owned());
        self
    }

    /// With what was typed into a form, for a person to send it again.
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
        self.cause.as_deref().map_or_else(String::new, |cause| telemetry::causes(cause))
    }

    /// The body in which its dialect tells it.
    pub(super) fn body(&self) -> serde_json::Value {
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
                // People have no credential in their hands, but a session.
                let message = match self.code {
                    Code::Unauthorized => "Your session is over. Sign in, and try again.",
                    _ => &self.message,
                };
                let error = ErrorPage {
                    title: self.code.title(),
                    message,
                    advice: self.code.advice(),
                    request_id: &self.telling.request_id,
                    sign_in: self.code.is_of_sign_in(),
                };
                return match &self.telling.kept {
                    Some(kept) => templates::answer(response, &KeptPage { kept, error }),
                    None => templates::answer(response, &error),
                };
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
