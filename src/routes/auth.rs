//! Sign-in: to a provider and back, and what programs get of it.

pub mod callback;
pub mod sessions;
pub mod token;

use actix_web::{HttpRequest, HttpResponse, http::header, web::Data};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    cookies,
    error::{ApiError, Code},
    extract::Reader,
    rates,
};
use crate::{
    actors::providers::Begin,
    auth::{oauth::ProviderError, redirect, sign_in::Pending},
    db::{self, Timestamp, users::UserRecord},
    limits::Limit,
    state::{Offer, Worker},
};

/// The ways to sign in.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct ProviderList {
    pub providers: Vec<ProviderEntry>,
}

/// An identity provider.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct ProviderEntry {
    name: String,
    display_name: String,
    /// google, github, microsoft, gitlab, auth0, okta or custom.
    kind: &'static str,
}

/// The ways to sign in
///
/// Each can be begun at `/auth/authorize/{name}`.
#[api_v2_operation(tags(SignIn), operation_id = "listProviders")]
pub async fn providers(worker: Data<Worker>) -> Json<ProviderList> {
    let entry = |offer: &Offer| ProviderEntry {
        name: offer.name.clone(),
        display_name: offer.display_name.clone(),
        kind: offer.kind.as_str(),
    };
    Json(ProviderList { providers: worker.shared.sign_in.offers.iter().map(entry).collect() })
}

/// Where to go on after the sign-in.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct NextQuery {
    /// A path of this service; `/` if it is absent.
    next: Option<String>,
}

/// Where the browser is to go.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct AuthorizationUrl {
    authorization_url: String,
}

/// Sign in
///
/// 302 to the provider; with `Accept: application/json` its address. The cookie that comes along has to come back.
#[api_v2_operation(tags(SignIn), operation_id = "authorize")]
pub async fn authorize(
    request: HttpRequest,
    path: Path<String>,
    query: Query<NextQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    rates::check_address(&request, Limit::SignInStart).await?;
    let provider = path.into_inner();
    let sign_in = &worker.shared.sign_in;
    if !sign_in.offers.iter().any(|offer| offer.name == provider) {
        return Err(no_such_provider());
    }
    let next = query.into_inner().next.unwrap_or_else(|| "/".to_owned());
    let next = redirect::local_path(&next).ok_or_else(|| {
        ApiError::parameter("next", "next must be a path of this service, such as /keys.")
    })?;
    let pending = Pending::new(&provider, next, db::now());
    let sealed = pending.seal(&worker.shared.keys.pending);
    let sealed =
        sealed.ok_or_else(|| ApiError::new(Code::Internal, "The sign-in cannot begin."))?;
    let redirect_uri = sign_in.redirect_uri(&provider);
    let begin = Begin { pending, redirect_uri };
    let url = worker.shared.actors.providers.address().send(begin).await;
    let url = url.map_err(|error| overloaded().caused_by(error))?.map_err(|error| {
        tracing::warn!(
            provider,
            error = &*error as &dyn std::error::Error,
            "a sign-in cannot begin"
        );
        of_provider(&error).caused_by(error)
    })?;
    let cookie = cookies::set_pending(sealed, sign_in.secure);
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("application/json")) {
        return Ok(HttpResponse::Ok()
            .cookie(cookie)
            .json(AuthorizationUrl { authorization_url: url }));
    }
    Ok(HttpResponse::Found().cookie(cookie).insert_header((header::LOCATION, url)).finish())
}

fn no_such_provider() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such way to sign in (oauth.providers).")
}

fn overloaded() -> ApiError {
    ApiError::new(Code::Overloaded, "Too many sign-ins at the moment. Try again.")
}

/// What a person is told who cannot sign in because of the provider. The causes are from a fixed set (SEC-42); what the
/// provider wrote is for the log.
fn of_provider(error: &ProviderError) -> ApiError {
    match error {
        ProviderError::Unavailable { what, .. } => ApiError::new(
            Code::ProviderUnavailable,
            format!(
                "The identity provider cannot be used at the moment ({what}). Try again in a minute."
            ),
        ),
        ProviderError::Discovery(_) => ApiError::new(
            Code::ProviderUnavailable,
            "The identity provider's discovery document cannot be used. An operator finds the reason in the log; the \
             setting is `issuer` of this provider.",
        ),
        ProviderError::Client => ApiError::new(
            Code::ProviderUnavailable,
            "The identity provider does not accept this service. An operator has to look at `client_id` and \
             `client_secret` of this provider.",
        ),
        ProviderError::Refused { .. } => ApiError::new(
            Code::SignInRefused,
            "The identity provider refused the code it gave. Start again.",
        ),
        ProviderError::OtherIssuer => ApiError::new(
            Code::SignInRefused,
            "The answer comes from another identity provider (iss). Start again.",
        ),
        ProviderError::Missing(what) => ApiError::new(
            Code::SignInRefused,
            format!(
                "The identity provider's answer holds no {what}. An operator has to look at `scopes` of this provider."
            ),
        ),
        ProviderError::IdToken(why) => ApiError::new(
            Code::SignInRefused,
            format!("The identity provider's token is not believed: {why}."),
        ),
        ProviderError::Profile(why) => ApiError::new(
            Code::SignInRefused,
            format!(
                "The identity provider does not say who you are: {why}. The settings are `user_id_field` and `scopes` of this provider."
            ),
        ),
    }
}

/// Whoever is signed in.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Me {
    id: i64,
    provider: String,
    email: Option<String>,
    email_verified: bool,
    display_name: Option<String>,
    admin: bool,
    state: String,
    #[serde(serialize_with = "super::api::time")]
    created_at: Timestamp,
    #[serde(serialize_with = "super::api::time_or_null")]
    last_login_at: Option<Timestamp>,
}

/// Who am I?
///
/// The person behind the credential.
#[api_v2_operation(tags(SignIn), operation_id = "me")]
pub async fn me(reader: Reader, worker: Data<Worker>) -> Result<Json<Me>, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let user = UserRecord::find(&mut conn, reader.0.user_id).await?;
    let user = user.ok_or_else(|| ApiError::new(Code::NotFound, "There is no such person."))?;
    Ok(Json(Me {
        id: user.id,
        provider: user.provider,
        email: user.email,
        email_verified: user.email_verified,
        display_name: user.display_name,
        admin: reader.0.admin,
        state: user.state,
        created_at: user.created_at,
        last_login_at: user.last_login_at,
    }))
}
