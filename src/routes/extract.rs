//! Authentication as handler parameters: naming one is what makes a route private.

use std::sync::Arc;

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web::Data};
use futures_util::future::LocalBoxFuture;
use paperclip::actix::Apiv2Security;

use super::{
    error::{ApiError, Code},
    surface,
};
use crate::{
    actors::auth::{Authenticate, Lookup, Used},
    auth::{AuthError, Credential, Identity, Refusal},
    db,
    state::Worker,
};

/// Anybody with an API key or an access token.
#[derive(Apiv2Security)]
#[openapi(
    apiKey,
    in = "header",
    name = "Authorization",
    alias = "bearer",
    description = "Bearer: API key or access token"
)]
pub struct Caller(pub Arc<Identity>);

/// An admin with an access token; an admin's API key is not enough (SEC-9).
#[derive(Apiv2Security)]
#[openapi(
    apiKey,
    in = "header",
    name = "Authorization",
    alias = "admin",
    description = "Bearer: an admin's access token"
)]
pub struct Admin;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&request).await.map(Self) })
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let identity = authenticate(&request).await?;
            if identity.admin && identity.key_id.is_none() {
                Ok(Self)
            } else {
                Err(ApiError::new(Code::Forbidden, "This needs an admin's access token."))
            }
        })
    }
}

/// Who is calling. A credential that is known waits for no other thread.
async fn authenticate(request: &HttpRequest) -> Result<Arc<Identity>, ApiError> {
    let worker = request
        .app_data::<Data<Worker>>()
        .ok_or_else(|| ApiError::new(Code::Internal, "Not wired."))?;
    let refused = |kind: &str, refusal: Refusal| {
        worker.shared.metrics.auth.with_label_values(&[kind, refusal.as_str()]).inc();
        ApiError::refused(refusal)
    };
    let text = credential(request)?.ok_or_else(|| refused("none", Refusal::Missing))?;
    let given = Credential::parse(text).map_err(|refusal| refused("unknown", refusal))?;
    let actors = &worker.shared.actors;
    let identity = match actors.known.get(&given.digest(), db::now()) {
        Lookup::Good { identity, note_use } => {
            if note_use && let Some(key_id) = identity.key_id {
                // Best effort: a full mailbox costs a minute of accuracy.
                let _full = actors.auth.address().try_send(Used { key_id });
            }
            worker.shared.metrics.auth.with_label_values(&[given.kind(), "cached"]).inc();
            identity
        }
        Lookup::Refused(refusal) => return Err(refused(given.kind(), refusal)),
        Lookup::Unknown => {
            let answer =
                actors.auth.address().send(Authenticate(given)).await.map_err(|error| {
                    ApiError::new(
                        Code::Overloaded,
                        "Credentials cannot be checked at the moment. Try again.",
                    )
                    .caused_by(error)
                })?;
            answer.map_err(|error: AuthError| ApiError::from(error))?
        }
    };
    surface::note_caller(request, &identity);
    Ok(identity)
}

/// The one credential of a request (SEC-10): `Authorization: Bearer` or `X-API-Key`. Both may be there if they agree.
fn credential(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let disagree = || {
        ApiError::parameter(
            "authorization",
            "Authorization and X-API-Key carry different or several credentials; send one. Unset ANTHROPIC_API_KEY \
             (X-API-Key), or ANTHROPIC_AUTH_TOKEN or AWS_BEARER_TOKEN_BEDROCK (Authorization).",
        )
    };
    let one = |name: header::HeaderName| {
        let mut values = request.headers().get_all(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => {
                Ok(Some(value.to_str().map_err(|_| ApiError::refused(Refusal::Malformed))?.trim()))
            }
            (Some(_), Some(_)) => Err(disagree()),
        }
    };
    let authorization = one(header::AUTHORIZATION)?;
    let api_key = one(header::HeaderName::from_static("x-api-key"))?;
    let bearer = match authorization {
        None => None,
        Some(text) if text.starts_with("AWS4-HMAC-SHA256") => {
            let message = "A request signed with AWS keys cannot be accepted here. Put an API key of this service \
                           into AWS_BEARER_TOKEN_BEDROCK and unset the AWS keys.";
            return Err(ApiError::new(Code::Forbidden, message));
        }
        Some(text) => match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
            _ => return Err(ApiError::refused(Refusal::Malformed)),
        },
    };
    match (bearer, api_key) {
        (Some(bearer), Some(api_key)) if bearer != api_key => Err(disagree()),
        (bearer, api_key) => Ok(bearer.or(api_key)),
    }
}
