//! What can go wrong, from a closed list, and what each dialect calls it.

use actix_web::http::StatusCode;

use crate::anthropic::error::{self as anthropic, Told};

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
    pub fn as_str(self) -> &'static str {
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
    pub fn bedrock(self) -> &'static str {
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
    pub fn oauth(self) -> &'static str {
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
    pub fn title(self) -> &'static str {
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
    pub fn advice(self) -> &'static str {
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
    pub fn is_of_sign_in(self) -> bool {
        matches!(
            self,
            Self::LoginExpired
                | Self::SignInRefused
                | Self::Unauthorized
                | Self::ProviderUnavailable
        )
    }

    /// Seconds after which trying again makes sense.
    pub fn retry_after(self) -> Option<u32> {
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
