//! Limits of rate, as handlers meet them: a 429 with `Retry-After`, a count, and one line in the audit log.

use actix_web::HttpRequest;

use super::{error::ApiError, extract, surface};
use crate::{
    auth::Identity,
    db::{self, audit::Event},
    limits::{Limit, Subject},
    state::Worker,
};

/// Counts one more for a subject.
///
/// # Errors
/// 429 when it is one too many.
pub async fn check(request: &HttpRequest, limit: Limit, subject: Subject) -> Result<(), ApiError> {
    let worker = extract::worker(request)?;
    let Err(exceeded) = worker.shared.limits.check(limit, subject, db::now()).await else {
        return Ok(());
    };
    // Boxed: those who are let on, nearly all, do not carry the room for this.
    Box::pin(note(request, worker, limit, subject)).await;
    Err(ApiError::rate_limited(&exceeded))
}

async fn note(request: &HttpRequest, worker: &Worker, limit: Limit, subject: Subject) {
    let shared = &worker.shared;
    shared.metrics.rate_limited.with_label_values(&[limit.setting()]).inc();
    if shared.notes.is_first(limit.setting(), subject) {
        let user_id = match subject {
            Subject::User(id) => Some(id),
            Subject::Address(_) | Subject::Key(_) => None,
        };
        let mut origin = surface::origin(request, None);
        if let Some(id) = user_id {
            origin.actor = format!("user:{id}");
        }
        let event = Event {
            user_id,
            object: match subject {
                Subject::Address(address) => format!("address:{address}"),
                Subject::User(id) => format!("user:{id}"),
                Subject::Key(id) => format!("api_key:{id}"),
            },
            error: Some("rate_limited"),
            metadata: serde_json::json!({ "limit": limit.setting() }),
            ..Event::new(db::now(), "rate_limited", &origin)
        };
        surface::note_refusal(worker, event).await;
    }
}

/// Counts one more for the client's address.
///
/// # Errors
/// As [`check`].
pub async fn check_address(request: &HttpRequest, limit: Limit) -> Result<(), ApiError> {
    check(request, limit, surface::subject(request)).await
}

/// Counts an inference call for its person, and for its key.
///
/// # Errors
/// As [`check`].
pub async fn check_inference(request: &HttpRequest, identity: &Identity) -> Result<(), ApiError> {
    if let Some(key_id) = identity.credential.key_id() {
        check(request, Limit::InferenceOfKey, Subject::Key(key_id)).await?;
    }
    check(request, Limit::InferenceOfUser, Subject::User(identity.user_id)).await
}
