//! Authentication as handler parameters: naming one is what makes a route private, and says which credentials it takes.
//!
//! | Parameter | Takes |
//! |---|---|
//! | [`Caller`] | an API key or an access token |
//! | [`Reader`] | those, or a browser's session |
//! | [`Person`] | an access token or a browser's session |
//! | [`Admin`] | the same, of an admin |
//! | [`Visitor`] | a browser's session, or nobody |

use std::sync::Arc;

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web::Data};
use futures_util::future::LocalBoxFuture;
use paperclip::actix::Apiv2Security;

use super::{
    cookies, csrf,
    error::{ApiError, Code},
    rates, surface,
};
use crate::{
    actors::auth::{Authenticate, Lookup, Used},
    auth::{AuthError, Credential, CredentialId, Identity, Refusal, random::SessionText},
    db::{self, audit::Event},
    limits::{Limit, Subject},
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

/// Anybody, whatever they bring.
#[derive(Apiv2Security)]
#[openapi(
    apiKey,
    in = "header",
    name = "Authorization",
    alias = "bearer",
    description = "Bearer: API key or access token"
)]
pub struct Reader(pub Arc<Identity>);

/// Somebody in person: an access token or a browser's session. A key is not enough (SEC-9).
#[derive(Apiv2Security)]
#[openapi(
    apiKey,
    in = "header",
    name = "Authorization",
    alias = "person",
    description = "Bearer: an access token; or a browser's session"
)]
pub struct Person(pub Arc<Identity>);

/// An admin with an access token or a browser's session; an admin's API key is not enough (SEC-9).
#[derive(Apiv2Security)]
#[openapi(
    apiKey,
    in = "header",
    name = "Authorization",
    alias = "admin",
    description = "Bearer: an admin's access token; or an admin's session in a browser"
)]
pub struct Admin(pub Arc<Identity>);

/// Whoever looks at a page; `None` without a session in force. For reading only: what a page changes goes through
/// [`csrf::Signed`].
pub struct Visitor(pub Option<Arc<Identity>>);

macro_rules! extracts {
    ($parameter:ident, $request:ident => $let_in:expr) => {
        impl FromRequest for $parameter {
            type Error = ApiError;
            type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                let $request = request.clone();
                Box::pin(async move { $let_in.await.map(Self) })
            }
        }
    };
}
extracts!(Caller, request => authenticate(&request, false));
extracts!(Reader, request => authenticate(&request, true));
extracts!(Person, request => in_person(&request));
extracts!(Admin, request => as_admin(&request));
extracts!(Visitor, request => visit(&request));

impl Person {
    /// For handlers that take more than one kind of caller, and decide which by the request.
    ///
    /// # Errors
    /// As the parameter.
    pub async fn extract_from(request: &HttpRequest) -> Result<Self, ApiError> {
        in_person(request).await.map(Self)
    }
}

async fn in_person(request: &HttpRequest) -> Result<Arc<Identity>, ApiError> {
    let identity = authenticate(request, true).await?;
    if identity.credential.key_id().is_some() {
        let message = "An API key cannot do this; sign in, or use an access token.";
        return Err(ApiError::new(Code::Forbidden, message));
    }
    Ok(identity)
}

async fn as_admin(request: &HttpRequest) -> Result<Arc<Identity>, ApiError> {
    let identity = authenticate(request, true).await?;
    must_be_admin(request, &identity).await?;
    Ok(identity)
}

/// Whether somebody may do what admins do; that somebody else tried is noted.
///
/// # Errors
/// 403, and 429 for an admin who changes too much too fast.
pub async fn must_be_admin(request: &HttpRequest, identity: &Identity) -> Result<(), ApiError> {
    let worker = worker(request)?;
    if !identity.admin || identity.credential.key_id().is_some() {
        let origin = surface::origin(request, Some(identity));
        let what = Subject::User(identity.user_id);
        if worker.shared.notes.is_first("admin_denied", what) {
            let event = Event {
                user_id: Some(identity.user_id),
                object: request.match_pattern().unwrap_or_default(),
                error: Some("forbidden"),
                ..Event::new(db::now(), "admin_denied", &origin)
            };
            surface::note_refusal(worker, event).await;
        }
        return Err(ApiError::new(
            Code::Forbidden,
            "This needs an admin's access token or session.",
        ));
    }
    if !request.method().is_safe() {
        rates::check(request, Limit::AdminWrite, Subject::User(identity.user_id)).await?;
    }
    Ok(())
}

async fn visit(request: &HttpRequest) -> Result<Option<Arc<Identity>>, ApiError> {
    let worker = worker(request)?;
    // A session that is over is as good as none: the page shows where to sign in.
    let Some(given) = cookies::session(request, worker.shared.sign_in.secure)
        .and_then(|text| SessionText::parse(&text).ok())
    else {
        return Ok(None);
    };
    match known(request, worker, Credential::Session(given)).await {
        Ok(identity) => Ok(Some(identity)),
        Err(NotKnown::Refused(_)) => Ok(None),
        Err(NotKnown::Else(error)) => Err(*error),
    }
}

/// The worker of a request.
pub fn worker(request: &HttpRequest) -> Result<&Arc<Worker>, ApiError> {
    let worker = request.app_data::<Data<Worker>>();
    worker.map(|data| &**data).ok_or_else(|| ApiError::new(Code::Internal, "Not wired."))
}

/// Whether a caller is still let in, after a while in which access may have been taken away.
///
/// # Errors
/// As the parameter.
pub async fn still_let_in(request: &HttpRequest) -> Result<(), ApiError> {
    authenticate(request, false).await.map(drop)
}

/// Who is calling. A credential that is known waits for no other thread. `cookies`: a browser's session counts too, and
/// with it the checks that a request which changes something comes from our own pages.
async fn authenticate(request: &HttpRequest, cookies: bool) -> Result<Arc<Identity>, ApiError> {
    let worker = worker(request)?;
    // One credential is used, and the one that was put there on purpose goes first (SEC-29).
    let given = match credential(request)? {
        Some(text) => Credential::parse(text),
        None => {
            let secure = worker.shared.sign_in.secure;
            let cookie = if cookies { cookies::session(request, secure) } else { None };
            let Some(text) = cookie else {
                count(worker, "none", Refusal::Missing);
                return Err(ApiError::refused(Refusal::Missing));
            };
            SessionText::parse(&text).map(Credential::Session)
        }
    };
    let identity = match given {
        Ok(given) => known(request, worker, given).await,
        Err(refusal) => {
            count(worker, "unknown", refusal);
            Err(NotKnown::Refused(AuthError::Refused(refusal)))
        }
    };
    let identity = match identity {
        Ok(identity) => identity,
        Err(NotKnown::Else(error)) => return Err(*error),
        // Boxed: those who are let in, nearly all, do not carry the room for this.
        Err(NotKnown::Refused(error)) => {
            return Err(Box::pin(refused(request, worker, error)).await);
        }
    };
    if let CredentialId::Cookie(session_id) = &identity.credential {
        csrf::check_header(request, worker, session_id)?;
    }
    Ok(identity)
}

/// Why nobody is let in by a credential.
enum NotKnown {
    Refused(AuthError),
    /// It could not be checked.
    Else(Box<ApiError>),
}

async fn known(
    request: &HttpRequest,
    worker: &Worker,
    given: Credential,
) -> Result<Arc<Identity>, NotKnown> {
    let (actors, kind) = (&worker.shared.actors, given.kind());
    let identity = match actors.known.get(&given.digest(), db::now()) {
        Lookup::Good { identity, note_use } => {
            if note_use {
                // Best effort: a full mailbox costs a minute of accuracy.
                let used = Used(identity.credential.clone());
                let _full = actors.auth.address().try_send(used);
            }
            worker.shared.metrics.auth.with_label_values(&[kind, "cached"]).inc();
            identity
        }
        Lookup::Refused(refusal) => {
            count(worker, kind, refusal);
            return Err(NotKnown::Refused(AuthError::Refused(refusal)));
        }
        Lookup::Unknown => match actors.auth.address().send(Authenticate(given)).await {
            Ok(Ok(identity)) => identity,
            // The actor has counted it.
            Ok(Err(error)) if error.refusal().is_some() => return Err(NotKnown::Refused(error)),
            Ok(Err(error)) => return Err(NotKnown::Else(Box::new(error.into()))),
            Err(error) => {
                let message = "Credentials cannot be checked at the moment. Try again.";
                let error = ApiError::new(Code::Overloaded, message).caused_by(error);
                return Err(NotKnown::Else(Box::new(error)));
            }
        },
    };
    surface::note_caller(request, &identity);
    Ok(identity)
}

fn count(worker: &Worker, kind: &str, refusal: Refusal) {
    worker.shared.metrics.auth.with_label_values(&[kind, refusal.as_str()]).inc();
}

/// A credential was refused. Whoever tries one after another is told to slow down (SEC-60); one that was good until
/// lately is no try. It is looked at only now: at the same address, a good one is let in all the while.
async fn refused(request: &HttpRequest, worker: &Worker, error: AuthError) -> ApiError {
    if let AuthError::OwnerOfKey { key_id, user_id } = error
        && worker.shared.notes.is_first("key_refused", Subject::Key(key_id))
    {
        let origin = surface::origin(request, None);
        let event = Event {
            user_id: Some(user_id),
            object: format!("api_key:{key_id}"),
            error: Some(Refusal::OwnerNotActive.as_str()),
            ..Event::new(db::now(), "key_refused", &origin)
        };
        surface::note_refusal(worker, event).await;
    }
    let guess = matches!(
        error.refusal(),
        Some(Refusal::Unknown | Refusal::Malformed | Refusal::BadSignature | Refusal::BadHeader)
    );
    if guess && let Err(exceeded) = rates::check_address(request, Limit::FailedCredential).await {
        return exceeded;
    }
    error.into()
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
