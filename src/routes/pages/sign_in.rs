//! Pages of one card: sign in, let the command line or a device in.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Query},
};
use chrono::TimeDelta;
use serde::Deserialize;

use super::{Viewer, page};
use crate::{
    auth::{random, redirect, sign_in::later},
    db::{
        self,
        audit::{self, Event},
        one_time_codes::{NewCode, OneTimeCode},
    },
    limits::{Limit, Subject},
    routes::{
        csrf::Signed,
        error::{ApiError, Code},
        rates, surface,
    },
    state::Worker,
    templates::{CliPage, DecidedPage, DevicePage, LoginPage, ProviderLink, Waiting},
};

/// Seconds within which the command line has to bring its code.
const CODE_SECONDS: i64 = 60;
/// Codes that wait at most, in all.
const MOST_CODES: i64 = 10_000;

#[derive(Deserialize)]
pub struct LoginQuery {
    next: Option<String>,
}

pub async fn login(query: Query<LoginQuery>, worker: Data<Worker>) -> HttpResponse {
    // A path that leads elsewhere is as good as none.
    let next = query.next.as_deref().and_then(redirect::local_path);
    let reachable = worker.shared.actors.reachable.load();
    let link = |offer: &'_ crate::state::Offer| {
        // By the name that the provider sends browsers back to: a cookie of another (127.0.0.1 for localhost) does not
        // come along.
        let begin = format!("{}/auth/authorize/{}", worker.shared.sign_in.public_url, offer.name);
        match next {
            Some(next) => {
                let next =
                    url::form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>();
                format!("{begin}?next={next}")
            }
            None => begin,
        }
    };
    let providers = worker.shared.sign_in.offers.iter().map(|offer| ProviderLink {
        display_name: &offer.display_name,
        failing: reachable.get(&offer.name).is_some_and(Result::is_err),
        url: link(offer),
    });
    page(&LoginPage { providers: providers.collect(), next })
}

/// A program of the browser's machine that wants to come in.
#[derive(Deserialize)]
pub struct CliQuery {
    redirect_uri: String,
    code_challenge: String,
    code_challenge_method: String,
    state: String,
}

/// What of it has to be right before anybody is asked (SEC-40).
fn check_cli(
    redirect_uri: &str,
    challenge: &str,
    method: &str,
    state: &str,
) -> Result<url::Url, ApiError> {
    let random = |text: &str, least: usize| {
        (least..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if method != "S256" || challenge.len() != 43 || !random(challenge, 43) {
        let message =
            "code_challenge must be a SHA-256 in base64url, and code_challenge_method S256.";
        return Err(ApiError::parameter("code_challenge", message));
    }
    if !random(state, 16) {
        let message = "state must have 16 to 128 letters, digits, - or _.";
        return Err(ApiError::parameter("state", message));
    }
    redirect::loopback(redirect_uri).ok_or_else(|| {
        let message = "redirect_uri must be http://127.0.0.1:PORT/… or http://[::1]:PORT/… .";
        ApiError::parameter("redirect_uri", message)
    })
}

pub async fn ask_for_cli(
    viewer: Result<Viewer, ApiError>,
    query: Query<CliQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let CliQuery { redirect_uri, code_challenge, code_challenge_method, state } =
        query.into_inner();
    let url = check_cli(&redirect_uri, &code_challenge, &code_challenge_method, &state)?;
    let viewer = viewer?;
    let person = viewer.name(&mut worker.shared.pool.reader().await?).await?;
    Ok(page(&CliPage {
        person: &person,
        csrf_token: &viewer.csrf_token(&worker),
        port: url.port().unwrap_or_default(),
        redirect_uri: &redirect_uri,
        code_challenge: &code_challenge,
        state: &state,
    }))
}

/// What a person decided.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Deserialize)]
pub struct CliForm {
    redirect_uri: String,
    code_challenge: String,
    state: String,
    action: Action,
}

pub async fn decide_for_cli(
    request: HttpRequest,
    signed: Signed<CliForm>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let Signed { identity, form, .. } = signed;
    let mut url = check_cli(&form.redirect_uri, &form.code_challenge, "S256", &form.state)?;
    let answer = match form.action {
        Action::Allow => {
            let (code, now) = (random::text(), db::now());
            let digest = worker.shared.keys.codes.digest(&code);
            let new = NewCode {
                digest: &digest,
                kind: "code",
                user_code: None,
                challenge: Some(&form.code_challenge),
                redirect_uri: Some(&form.redirect_uri),
                user_id: Some(identity.user_id),
                created_at: now,
                expires_at: later(now, TimeDelta::seconds(CODE_SECONDS)),
                ip_address: None,
                user_agent: None,
            };
            rates::check(&request, Limit::SignInStart, Subject::User(identity.user_id)).await?;
            let origin = surface::origin(&request, Some(&identity));
            let event = Event {
                user_id: Some(identity.user_id),
                object: "command_line".to_owned(),
                ..Event::new(now, "command_line_allowed", &origin)
            };
            let mut conn = worker.shared.pool.writer().await?;
            if !OneTimeCode::create(&mut conn, &new, MOST_CODES, Some(event)).await? {
                let message = "Too many sign-ins at the moment. Try again in a minute.";
                return Err(ApiError::new(Code::Overloaded, message));
            }
            ("code", code)
        }
        Action::Deny => ("error", "access_denied".to_owned()),
    };
    url.query_pairs_mut().append_pair(answer.0, &answer.1).append_pair("state", &form.state);
    let (title, message) = match form.action {
        Action::Allow => ("Allowed", "Go back to the command line; this link takes it the answer."),
        Action::Deny => {
            ("Denied", "The command line is not let in; this link takes it the answer.")
        }
    };
    Ok(page(&DecidedPage { title, message, link: Some(url.as_str()) }))
}

#[derive(Deserialize)]
pub struct DeviceQuery {
    user_code: Option<String>,
}

pub async fn device(
    request: HttpRequest,
    viewer: Viewer,
    query: Query<DeviceQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let shared = &worker.shared;
    let typed = query.user_code.as_deref().filter(|typed| !typed.is_empty());
    let code = typed.and_then(random::read_user_code);
    if typed.is_some() {
        // 34 bits are enough only if guesses are few (RFC 8628, 5.1).
        rates::check(&request, Limit::FailedCredential, Subject::User(viewer.0.user_id)).await?;
    }
    let mut conn = shared.pool.reader().await?;
    let found = match &code {
        Some(code) => {
            let digests = shared.keys.codes.digests(code);
            OneTimeCode::waiting(&mut conn, &digests, db::now()).await?
        }
        None => None,
    };
    let person = viewer.name(&mut conn).await?;
    let unknown =
        "No device waits under this code. Codes last ten minutes; start again on the device.";
    Ok(page(&DevicePage {
        person: &person,
        csrf_token: &viewer.csrf_token(&worker),
        problem: typed.filter(|_| found.is_none()).map(|_| unknown),
        waiting: found.as_ref().zip(code.as_deref()).map(|(found, user_code)| Waiting {
            user_code,
            ip_address: found.ip_address.as_deref().unwrap_or("unknown"),
            user_agent: found.user_agent.as_deref().unwrap_or("unknown"),
            minutes_ago: (db::now() - found.created_at).num_minutes().max(0),
        }),
    }))
}

#[derive(Deserialize)]
pub struct DeviceForm {
    user_code: String,
    action: Action,
}

pub async fn decide_device(
    request: HttpRequest,
    signed: Signed<DeviceForm>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let Signed { identity, form, .. } = signed;
    let (shared, now) = (&worker.shared, db::now());
    rates::check(&request, Limit::FailedCredential, Subject::User(identity.user_id)).await?;
    let code = random::read_user_code(&form.user_code)
        .ok_or_else(|| ApiError::parameter("user_code", "This is no code."))?;
    let approve = matches!(form.action, Action::Allow);
    let origin = surface::origin(&request, Some(&identity));
    let digests = shared.keys.codes.digests(&code);
    let mut conn = shared.pool.writer().await?;
    let device = OneTimeCode::waiting(&mut conn, &digests, now).await?;
    let event = audit::Event {
        user_id: Some(identity.user_id),
        object: "device".to_owned(),
        metadata: serde_json::json!({
            "device_address": device.as_ref().and_then(|device| device.ip_address.as_deref()),
            "device_agent": device.as_ref().and_then(|device| device.user_agent.as_deref()),
        }),
        error: (!approve).then_some("access_denied"),
        ..Event::new(now, "device_decided", &origin)
    };
    let user_id = identity.user_id;
    if !OneTimeCode::decide(&mut conn, &digests, user_id, approve, now, event).await? {
        let message = "No device waits under this code any more. Start again on the device.";
        return Err(ApiError::new(Code::LoginExpired, message));
    }
    let (title, message) = if approve {
        ("The device is let in", "Go back to it; it goes on by itself. You can close this window.")
    } else {
        ("The device is not let in", "You can close this window.")
    };
    Ok(page(&DecidedPage { title, message, link: None }))
}
