//! What the parts below say went wrong, as an [`ApiError`].

use actix_web::HttpRequest;

use super::{ApiError, Code, Dialect, brief};
use crate::{
    anthropic::request::Wrong,
    auth::AuthError,
    auth::Refusal,
    bedrock::{error::BedrockError, model_id::ModelIdError},
    db::DbError,
    usage::journal::JournalError,
};

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
