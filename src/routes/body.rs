//! Reads a request's body within its limits: size, time, and what all calls together may hold.

use std::time::Duration;

use actix_web::{HttpRequest, http::header, web::Payload};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use super::error::{ApiError, Code};
use crate::state::{Admission, Shared};

/// The whole body, unchanged.
///
/// # Errors
/// 413 beyond `server.max_body_bytes`, 415 for a compressed one, 408 when it stops coming, 503 when all calls together
/// hold too much.
pub async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    admission: &mut Admission,
    shared: &Shared,
) -> Result<Bytes, ApiError> {
    let coding = request.headers().get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let message =
            "Compressed request bodies are not accepted; send it without Content-Encoding.";
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    let most = shared.server.max_body_bytes;
    let too_large = || {
        let message = format!(
            "The body is larger than {most} bytes, the limit here (server.max_body_bytes)."
        );
        ApiError::new(Code::PayloadTooLarge, message)
    };
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > most) {
        return Err(too_large());
    }
    let times = &shared.server.timeouts;
    let idle = Duration::from_secs(times.body_idle_seconds);
    let deadline = Instant::now() + Duration::from_secs(times.body_total_seconds);
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut held = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let piece = match timeout(idle.min(left), payload.next()).await {
            Err(_elapsed) => {
                return Err(ApiError::new(
                    Code::RequestTimeout,
                    "The body did not arrive in time.",
                ));
            }
            Ok(None) => break,
            Ok(Some(piece)) => piece.map_err(|error| {
                ApiError::new(Code::InvalidParameter, "The body broke off or is malformed.")
                    .caused_by(error.to_string())
            })?,
        };
        held += piece.len();
        if held > most {
            return Err(too_large());
        }
        if !admission.hold(piece.len()) {
            return Err(ApiError::new(
                Code::Overloaded,
                "Too many large requests at the moment. Try again.",
            ));
        }
        // A body that came in one piece, as most do, is not copied.
        match &first {
            None => first = Some(piece),
            Some(start) => {
                if rest.is_empty() {
                    rest.reserve(length.unwrap_or(0).max(held));
                    rest.extend_from_slice(start);
                }
                rest.extend_from_slice(&piece);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}
