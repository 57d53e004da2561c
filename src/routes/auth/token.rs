//! `POST /auth/token`, `/auth/refresh`, `/auth/device`: tokens for programs (RFC 6749, 7636, 8628).

use actix_web::{HttpRequest, web::Data};
use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use paperclip::actix::{Apiv2Schema, api_v2_operation, web::Json};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::{
    auth::{
        CredentialId, constant_time_eq,
        device::{self, Waiting},
        random::{self, RefreshText},
        sign_in::{Refreshed, Tokens, later},
    },
    cache::Moment,
    db::{
        self,
        one_time_codes::{NewCode, OneTimeCode, Poll},
    },
    limits::Limit,
    routes::{
        body::FormOrJson,
        error::{ApiError, Code},
        extract::Person,
        rates, surface,
    },
    state::Worker,
};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Seconds for which a device waits.
const DEVICE_SECONDS: i64 = 600;
/// Devices that wait at most, in all.
const MOST_DEVICES: i64 = 10_000;

/// What a program asks with.
#[derive(Deserialize, Apiv2Schema)]
pub struct TokenRequest {
    /// authorization_code, urn:ietf:params:oauth:grant-type:device_code or session.
    grant_type: String,
    /// authorization_code: the code of the loopback redirect.
    code: Option<String>,
    code_verifier: Option<String>,
    redirect_uri: Option<String>,
    /// device_code: what /auth/device gave.
    device_code: Option<String>,
    /// As RFC 6749 has it; not needed here.
    #[serde(rename = "client_id")]
    _client_id: Option<String>,
    #[serde(rename = "scope")]
    _scope: Option<String>,
}

/// Tokens for a program.
#[derive(Serialize, Apiv2Schema)]
pub struct TokenAnswer {
    access_token: String,
    token_type: &'static str,
    /// Seconds.
    expires_in: u32,
    /// Good for one refresh.
    refresh_token: String,
    refresh_expires_in: i64,
}

impl From<Tokens> for TokenAnswer {
    fn from(tokens: Tokens) -> Self {
        Self {
            access_token: tokens.access.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: tokens.access_seconds,
            refresh_token: tokens.refresh.as_str().to_owned(),
            refresh_expires_in: tokens.refresh_seconds,
        }
    }
}

fn invalid_grant(message: &'static str) -> ApiError {
    ApiError::new(Code::OAuth("invalid_grant"), message)
}

/// Tokens for a program
///
/// For a code of the command line's sign-in, for a device that was let in, or (`session`) for whoever is signed in with
/// a browser and sends the CSRF token.
#[api_v2_operation(tags(SignIn), operation_id = "token")]
pub async fn token(
    request: HttpRequest,
    body: FormOrJson<TokenRequest>,
    worker: Data<Worker>,
) -> Result<Json<TokenAnswer>, ApiError> {
    let asked = body.read().await?;
    let needed = |field: &'static str, given: Option<String>| {
        given.filter(|text| !text.is_empty()).ok_or_else(|| {
            ApiError::parameter(field, format!("{field} is needed for this grant_type."))
        })
    };
    let (user_id, how, code) = match asked.grant_type.as_str() {
        "authorization_code" => {
            rates::check_address(&request, Limit::Refresh).await?;
            let code = needed("code", asked.code)?;
            let verifier = needed("code_verifier", asked.code_verifier)?;
            let redirect_uri = needed("redirect_uri", asked.redirect_uri)?;
            let digest = worker.shared.keys.codes.digest(&code);
            let user_id = redeem(&request, &worker, &digest, verifier, &redirect_uri).await?;
            (user_id, "browser", Some(digest))
        }
        DEVICE => {
            let code = needed("device_code", asked.device_code)?;
            (poll(&request, &worker, &code).await?, "device", None)
        }
        "session" => {
            rates::check_address(&request, Limit::Refresh).await?;
            (of_session(&request).await?, "session", None)
        }
        _ => {
            let message = "grant_type must be authorization_code, urn:ietf:params:oauth:grant-type:device_code or session.";
            return Err(ApiError::new(Code::OAuth("unsupported_grant_type"), message));
        }
    };
    let shared = &worker.shared;
    let origin = surface::origin(&request, None);
    let mut conn = shared.pool.writer().await?;
    let (rules, code) = (&shared.sign_in.rules, code.as_deref());
    let tokens =
        rules.open_session(&mut conn, &shared.keys, user_id, code, how, db::now(), &origin).await?;
    let tokens = tokens.ok_or_else(|| {
        invalid_grant("The person is not active, or the code came a second time meanwhile.")
    })?;
    Ok(Json(tokens.into()))
}

/// A code of ours, with the proof that whoever comes with it is who asked for it.
async fn redeem(
    request: &HttpRequest,
    worker: &Worker,
    digest: &[u8],
    verifier: String,
    redirect_uri: &str,
) -> Result<i64, ApiError> {
    let sound = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    if !sound {
        let message = "code_verifier must have 43 to 128 letters, digits, -, ., _ or ~.";
        return Err(ApiError::parameter("code_verifier", message));
    }
    let origin = surface::origin(request, None);
    let mut conn = worker.shared.pool.writer().await?;
    // It is used up by the first try, good or bad: there is no second guess.
    let taken = OneTimeCode::take(&mut conn, digest, db::now(), &origin).await?;
    if taken.is_none() {
        // Should it have been used before, a session has just ended.
        drop(conn);
        surface::revalidate(worker).await;
        return Err(invalid_grant("The code is unknown, was used, or is over."));
    }
    let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier));
    let code = taken.filter(|code| {
        let known = code.challenge.as_deref().unwrap_or_default();
        constant_time_eq(known.as_bytes(), challenge.as_str().as_bytes())
            && code.redirect_uri.as_deref() == Some(redirect_uri)
    });
    code.and_then(|code| code.user_id)
        .ok_or_else(|| invalid_grant("code_verifier or redirect_uri are not those of this code."))
}

async fn poll(request: &HttpRequest, worker: &Worker, code: &str) -> Result<i64, ApiError> {
    // What no device was given does not reach the database, nor does one that asks too often.
    rates::check_address(request, Limit::DevicePoll).await?;
    if !random::is_random(code) {
        rates::check_address(request, Limit::FailedCredential).await?;
        return Err(ApiError::new(Code::OAuth("expired_token"), "This is no device_code."));
    }
    let digest = worker.shared.keys.codes.digest(code);
    let (shared, now) = (&worker.shared, db::now());
    let at = Moment { now, generation: 0 };
    let before: Option<Waiting> = shared.cache.get(&digest, at).await;
    if let Some(slower) = before.as_ref().and_then(|before| before.too_early(now)) {
        shared.cache.put(&digest, &slower, at).await;
        return Err(ApiError::new(Code::OAuth("slow_down"), "Ask 5 seconds less often."));
    }
    let undecided = OneTimeCode::undecided(&mut shared.pool.reader().await?, &digest, now).await?;
    let told = match undecided {
        Some(ends) => Poll::Pending(ends),
        None => OneTimeCode::poll(&mut shared.pool.writer().await?, &digest, now).await?,
    };
    let (error, message) = match told {
        Poll::Approved(user_id) => return Ok(user_id),
        Poll::Pending(ends) => {
            shared.cache.put(&digest, &Waiting::on(before.as_ref(), now, ends), at).await;
            ("authorization_pending", "Nobody has decided yet.")
        }
        Poll::Denied => ("access_denied", "The person did not allow it."),
        Poll::Over => {
            rates::check_address(request, Limit::FailedCredential).await?;
            ("expired_token", "The code is unknown, was used, or is over.")
        }
    };
    Err(ApiError::new(Code::OAuth(error), message))
}

/// Whoever is signed in with a browser; an access token cannot make others.
async fn of_session(request: &HttpRequest) -> Result<i64, ApiError> {
    let Person(identity) = Person::extract_from(request).await?;
    match identity.credential {
        CredentialId::Cookie(_) => Ok(identity.user_id),
        _ => Err(ApiError::new(
            Code::OAuth("unauthorized_client"),
            "This grant_type needs a browser's session.",
        )),
    }
}

/// A refresh token.
#[derive(Deserialize, Apiv2Schema)]
pub struct RefreshRequest {
    refresh_token: String,
    /// As RFC 6749 has it; `refresh_token` if it is there.
    grant_type: Option<String>,
    #[serde(rename = "client_id")]
    _client_id: Option<String>,
    #[serde(rename = "scope")]
    _scope: Option<String>,
}

/// New tokens for a refresh token
///
/// Each is good for one refresh. One that comes a second time ends its session (`jwt.refresh_retry_seconds` makes an
/// exception for answers that were lost).
#[api_v2_operation(tags(SignIn), operation_id = "refresh")]
pub async fn refresh(
    request: HttpRequest,
    body: FormOrJson<RefreshRequest>,
    worker: Data<Worker>,
) -> Result<Json<TokenAnswer>, ApiError> {
    rates::check_address(&request, Limit::Refresh).await?;
    let asked = body.read().await?;
    if asked.grant_type.is_some_and(|kind| kind != "refresh_token") {
        let message = "grant_type must be refresh_token here.";
        return Err(ApiError::new(Code::OAuth("unsupported_grant_type"), message));
    }
    let ended =
        || invalid_grant("The refresh token is unknown, was used, or is over. Sign in again.");
    let given = RefreshText::parse(&asked.refresh_token).map_err(|_| ended())?;
    let (shared, origin) = (&worker.shared, surface::origin(&request, None));
    let outcome = {
        let mut conn = shared.pool.writer().await?;
        let rules = &shared.sign_in.rules;
        rules.refresh(&mut conn, &shared.keys, &given, db::now(), &origin).await?
    };
    match outcome {
        Refreshed::Renewed(tokens) => Ok(Json(tokens.into())),
        Refreshed::Reused => {
            tracing::warn!(
                client = origin.ip_address,
                "a refresh token came a second time: its session has ended"
            );
            surface::revalidate(&worker).await;
            Err(ended())
        }
        Refreshed::Refused(reason) => {
            tracing::info!(reason, "a refresh was refused");
            Err(ended())
        }
    }
}

/// A device that cannot open a browser.
#[derive(Debug, Deserialize, Apiv2Schema)]
pub struct DeviceRequest {
    /// As RFC 8628 has them; not needed here.
    #[serde(rename = "client_id")]
    _client_id: Option<String>,
    #[serde(rename = "scope")]
    _scope: Option<String>,
}

/// What the device shows, and what it asks with.
#[derive(Serialize, Apiv2Schema)]
pub struct DeviceAnswer {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    /// Seconds.
    expires_in: i64,
    /// Seconds between two questions, at least.
    interval: i64,
}

/// Begin on a device without a browser
///
/// Show the person `user_code` and `verification_uri`, then ask /auth/token until they have decided.
#[api_v2_operation(tags(SignIn), operation_id = "device")]
pub async fn device(
    request: HttpRequest,
    body: FormOrJson<DeviceRequest>,
    worker: Data<Worker>,
) -> Result<Json<DeviceAnswer>, ApiError> {
    rates::check_address(&request, Limit::SignInStart).await?;
    let _known = body.read().await?;
    let (shared, now) = (&worker.shared, db::now());
    let (device_code, user_code) = (random::text(), random::user_code());
    let (digest, typed) =
        (shared.keys.codes.digest(&device_code), shared.keys.codes.digest(&user_code));
    let origin = surface::origin(&request, None);
    let code = NewCode {
        digest: &digest,
        kind: "device",
        user_code: Some(&typed),
        challenge: None,
        redirect_uri: None,
        user_id: None,
        created_at: now,
        expires_at: later(now, chrono::TimeDelta::seconds(DEVICE_SECONDS)),
        ip_address: origin.ip_address.as_deref(),
        user_agent: origin.user_agent.as_deref(),
    };
    let mut conn = shared.pool.writer().await?;
    if !OneTimeCode::create(&mut conn, &code, MOST_DEVICES, None).await? {
        let message = "Too many devices wait at the moment. Try again in some minutes.";
        return Err(ApiError::new(Code::Overloaded, message));
    }
    let page = format!("{}/device", shared.sign_in.public_url);
    Ok(Json(DeviceAnswer {
        verification_uri_complete: format!("{page}?user_code={user_code}"),
        verification_uri: page,
        device_code,
        user_code,
        expires_in: DEVICE_SECONDS,
        interval: device::PAUSE,
    }))
}
