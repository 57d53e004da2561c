//! `GET /auth/callback/{provider}`: a browser comes back from its provider.

use actix_web::{HttpRequest, HttpResponse, http::header, web::Data};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Path, Query},
};
use serde::Deserialize;

use super::{no_such_provider, of_provider, overloaded};
use crate::{
    actors::providers::Finish,
    auth::{
        oauth::profile::Profile,
        random::SessionText,
        sign_in::{NotAdmitted, Pending},
    },
    db::{
        self,
        audit::{Event, Origin},
        one_time_codes::OneTimeCode,
        sessions::SessionRecord,
    },
    limits::Limit,
    routes::{
        cookies,
        error::{ApiError, Code, brief},
        rates, surface,
    },
    state::Worker,
};

/// What the provider sends along.
#[derive(Deserialize, Apiv2Schema)]
pub struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    /// The provider, by its issuer (RFC 9207).
    iss: Option<String>,
    /// Why it refused.
    error: Option<String>,
    error_description: Option<String>,
}

/// Come back from a provider
///
/// 302 to where the sign-in was meant to lead, with a session cookie; or a page that says what went wrong.
#[api_v2_operation(tags(SignIn), operation_id = "callback")]
pub async fn callback(
    request: HttpRequest,
    path: Path<String>,
    query: Query<CallbackQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    rates::check_address(&request, Limit::Callback).await?;
    let (provider, query) = (path.into_inner(), query.into_inner());
    let sign_in = &worker.shared.sign_in;
    if !sign_in.offers.iter().any(|offer| offer.name == provider) {
        return Err(no_such_provider());
    }
    let origin = surface::origin(&request, None);
    let outcome = come_back(&request, &provider, query, &worker, &origin).await;
    let label = match &outcome {
        Ok(_) => "ok",
        Err(failed) => failed.reason,
    };
    worker.shared.metrics.sign_ins.with_label_values(&[&provider, label]).inc();
    match outcome {
        Ok((next, session)) => {
            let session = session.as_str().to_owned();
            Ok(HttpResponse::Found()
                .cookie(cookies::set_session(session, sign_in.secure))
                .cookie(cookies::clear_pending(sign_in.secure))
                .insert_header((header::LOCATION, next))
                .finish())
        }
        Err(Failed { error, reason, who }) => {
            // Anybody can call this address with nothing in hand: that is worth one line a minute.
            let anonymous = reason == NOTHING_PENDING;
            if !anonymous || worker.shared.notes.is_first(reason, surface::subject(&request)) {
                let event = Event {
                    provider: Some(&provider),
                    object: "sign_in".to_owned(),
                    error: Some(reason),
                    metadata: who,
                    ..Event::new(db::now(), "sign_in_failed", &origin)
                };
                surface::note_refusal(&worker, event).await;
            }
            Err(error)
        }
    }
}

/// A browser came without a sign-in that it could come back from.
const NOTHING_PENDING: &str = "no_pending_sign_in";

/// Why a sign-in failed: for the person, and in a word for the audit log and the metric.
struct Failed {
    error: ApiError,
    reason: &'static str,
    /// Who the provider said it is, if it came to that.
    who: serde_json::Value,
}

impl Failed {
    fn new(error: ApiError, reason: &'static str) -> Self {
        Self { error, reason, who: serde_json::json!({}) }
    }

    fn expired(reason: &'static str) -> Self {
        let message = "This sign-in took too long, was finished already, or began in another browser or under another \
                       address of this service. Start again.";
        Self::new(ApiError::new(Code::LoginExpired, message), reason)
    }

    fn refused(reason: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::new(ApiError::new(Code::SignInRefused, message), reason)
    }
}

impl From<db::DbError> for Failed {
    fn from(error: db::DbError) -> Self {
        Self::new(error.into(), "database")
    }
}

async fn come_back(
    request: &HttpRequest,
    provider: &str,
    query: CallbackQuery,
    worker: &Worker,
    origin: &Origin,
) -> Result<(String, SessionText), Failed> {
    let (shared, now) = (&worker.shared, db::now());
    // Before anything is sent anywhere: this browser began it, with this provider, lately (SEC-31).
    let cookie = cookies::pending(request, shared.sign_in.secure);
    let pending = cookie.and_then(|cookie| Pending::open(&shared.keys.pending, &cookie, now));
    let pending = pending.ok_or(Failed::expired(NOTHING_PENDING))?;
    if !pending.fits(provider, query.state.as_deref().unwrap_or_default()) {
        return Err(Failed::expired("state_mismatch"));
    }
    let digest = shared.keys.codes.digest(&pending.state);
    {
        let mut conn = shared.pool.writer().await?;
        if !OneTimeCode::use_state(&mut conn, &digest, pending.until(), now).await? {
            return Err(Failed::expired("state_used"));
        }
    }
    if let Some(code) = &query.error {
        return Err(provider_said(code, query.error_description.as_deref(), provider));
    }
    let code = query.code.filter(|code| !code.is_empty());
    let code =
        code.ok_or(Failed::refused("no_code", "The identity provider sent no code. Start again."))?;
    let next = pending.next.clone();
    let finish = Finish {
        redirect_uri: shared.sign_in.redirect_uri(provider),
        pending,
        code,
        iss: query.iss,
    };
    let profile = shared.actors.providers.address().send(finish).await;
    let profile = profile
        .map_err(|error| Failed::new(overloaded().caused_by(error), "overloaded"))?
        .map_err(|error| {
            tracing::warn!(
                provider,
                error = &*error as &dyn std::error::Error,
                "a sign-in could not be finished with the provider"
            );
            let reason = error.as_str();
            Failed::new(of_provider(&error).caused_by(error), reason)
        })?;
    let session = let_in(request, worker, provider, &profile, origin).await.map_err(|refused| {
        let who = serde_json::json!({ "subject": profile.subject, "email": profile.email });
        Failed { who, ..not_admitted(refused) }
    })?;
    // Who was locked out by their provider is let in again, with all their keys.
    surface::revalidate(worker).await;
    Ok((next, session))
}

async fn let_in(
    request: &HttpRequest,
    worker: &Worker,
    provider: &str,
    profile: &Profile,
    origin: &Origin,
) -> Result<SessionText, NotAdmitted> {
    let shared = &worker.shared;
    let mut conn = shared.pool.writer().await?;
    // A browser that was signed in already leaves that session behind.
    let former = cookies::session(request, shared.sign_in.secure);
    let former = match former.map(|text| shared.keys.sessions.digests(&text)) {
        Some(digests) => SessionRecord::by_digest(&mut conn, &digests).await?,
        None => None,
    };
    let former = former.map(|(session, _)| session);
    let replaced = former.as_ref().map(|session| (session.user_id, session.id.as_str()));
    let (now, rules) = (db::now(), &shared.sign_in.rules);
    let (user, session) =
        rules.let_in(&mut conn, &shared.keys, provider, profile, replaced, now, origin).await?;
    tracing::info!(user_id = user.id, provider, "signed in");
    Ok(session)
}

fn provider_said(code: &str, description: Option<&str>, provider: &str) -> Failed {
    let (code, description) = (brief(code, 100), description.map(|text| brief(text, 200)));
    tracing::info!(provider, code, description, "the provider refused a sign-in");
    let code = code.as_str();
    let known = match code {
        "access_denied" => "You did not allow it, or the identity provider does not let you in.",
        "login_required" | "interaction_required" | "consent_required" => {
            "The identity provider wants you to sign in there first."
        }
        "temporarily_unavailable" | "server_error" => {
            "The identity provider has trouble at the moment. Try again in a minute."
        }
        "invalid_scope" => {
            "The identity provider does not know what is asked of it. An operator has to look at `scopes`."
        }
        "unauthorized_client" | "invalid_request" | "unsupported_response_type" => {
            "The identity provider does not accept this service's request. An operator has to look at this provider's settings."
        }
        _ => {
            let said = description.as_deref().unwrap_or(code);
            let said: String = said.chars().filter(|letter| !letter.is_control()).collect();
            return Failed::refused(
                "provider_error",
                format!("The identity provider said: {said}"),
            );
        }
    };
    Failed::refused("provider_error", known)
}

fn not_admitted(refused: NotAdmitted) -> Failed {
    let reason = refused.as_str();
    match refused {
        NotAdmitted::Db(error) => Failed::new(error.into(), reason),
        NotAdmitted::Disabled => {
            Failed::refused(reason, "Your account here is disabled. An admin can let you in again.")
        }
        NotAdmitted::NoEmail => Failed::refused(
            reason,
            "The identity provider told no e-mail address (the claim is `email_field`, and `scopes` decide whether it \
             is told), and only some addresses may sign in here (auth.allowed_email_domains).",
        ),
        NotAdmitted::EmailNotVerified => Failed::refused(
            reason,
            "The identity provider does not say that your e-mail address is verified (email_verified), and only \
             verified addresses of some domains may sign in here (auth.allowed_email_domains). Where the provider \
             vouches for all its addresses, an operator can set `email_trusted`.",
        ),
        NotAdmitted::Domain => Failed::refused(
            reason,
            "Your e-mail address is of no domain that may sign in here (auth.allowed_email_domains).",
        ),
    }
}
