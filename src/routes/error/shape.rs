//! In which dialect a client is told, and the layer that tells it whatever goes wrong.

use actix_web::{
    HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::Next,
};

use super::{ApiError, Code};
use crate::{routes::surface::request_id, templates::Kept};

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
            let error = ApiError::new(Code::NotFound, nothing_at(&path));
            Some(match path.strip_suffix('/').filter(|page| crate::routes::is_page(page)) {
                Some(page) if response.request().method().is_safe() => {
                    let query = response.request().query_string();
                    let mark = if query.is_empty() { "" } else { "?" };
                    error.see(&format!("{page}{mark}{query}"))
                }
                _ => error,
            })
        }
        None if status == StatusCode::METHOD_NOT_ALLOWED && is_empty(&response) => {
            Some(ApiError::method_not_allowed(response.request().match_pattern()))
        }
        None => None,
    };
    match shaped {
        Some(mut error) => {
            let (request, _) = response.into_parts();
            let ours = error.code == Code::RateLimited || error.code.status().is_server_error();
            if dialect == Dialect::Page && ours && error.telling.kept.is_none() {
                let kept = request.extensions_mut().remove::<Kept>();
                error = error.keeping(kept);
            }
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
