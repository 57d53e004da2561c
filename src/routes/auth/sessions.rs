//! `POST /auth/logout`, `GET /auth/sessions`, `DELETE /auth/sessions/{id}`: one's own sessions.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{Data, Payload},
};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path},
};
use serde::Serialize;

use crate::{
    auth::Identity,
    db::{self, Conn, Timestamp, audit::Event, sessions::SessionRecord},
    routes::{
        cookies,
        csrf::Signed,
        error::{ApiError, Code},
        extract::Person,
        surface,
    },
    state::Worker,
};

/// Sessions that are listed at most.
const LISTED: i64 = 500;

/// One's own sessions, the last seen first.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct SessionList {
    pub sessions: Vec<SessionEntry>,
    pub total: usize,
}

/// A session: a browser, or a program's sign-in.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct SessionEntry {
    pub id: String,
    /// browser or cli.
    pub kind: String,
    #[serde(serialize_with = "crate::routes::api::time")]
    pub created_at: Timestamp,
    #[serde(serialize_with = "crate::routes::api::time")]
    pub last_seen_at: Timestamp,
    #[serde(serialize_with = "crate::routes::api::time")]
    pub expires_at: Timestamp,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// List your sessions
///
/// Browsers and programs that are signed in as you.
#[api_v2_operation(tags(SignIn), operation_id = "listSessions")]
pub async fn list(person: Person, worker: Data<Worker>) -> Result<Json<SessionList>, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let sessions = of_person(&mut conn, &worker, &person.0).await?;
    Ok(Json(SessionList { total: sessions.len(), sessions }))
}

/// Somebody's own live sessions, the last seen first.
pub async fn of_person(
    conn: &mut Conn,
    worker: &Worker,
    identity: &Identity,
) -> Result<Vec<SessionEntry>, ApiError> {
    live_of(conn, worker, identity.user_id, identity.credential.session_id()).await
}

/// A person's live sessions, the last seen first; `current` is the one that asks.
pub async fn live_of(
    conn: &mut Conn,
    worker: &Worker,
    user_id: i64,
    current: Option<&str>,
) -> Result<Vec<SessionEntry>, ApiError> {
    let now = db::now();
    let mut sessions = SessionRecord::live(conn, user_id, now, LISTED).await?;
    let idle = worker.shared.keys.session_idle;
    sessions.retain(|session| session.kind != "browser" || now - session.last_seen_at < idle);
    let entry = |session: SessionRecord| SessionEntry {
        current: current == Some(session.id.as_str()),
        id: session.id,
        kind: session.kind,
        created_at: session.created_at,
        last_seen_at: session.last_seen_at,
        expires_at: session.expires_at,
        ip_address: session.ip_address,
        user_agent: session.user_agent,
    };
    Ok(sessions.into_iter().map(entry).collect())
}

/// End one of your sessions
///
/// With all that stands on it: its access tokens, its refresh tokens, and live streams. One that is over is 204 too.
#[api_v2_operation(tags(SignIn), operation_id = "endSession")]
pub async fn end(
    request: HttpRequest,
    person: Person,
    path: Path<String>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    end_of(&request, &worker, &person.0, &path).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends one of somebody's own sessions.
pub async fn end_of(
    request: &HttpRequest,
    worker: &Worker,
    identity: &Identity,
    id: &str,
) -> Result<(), ApiError> {
    let id = uuid::Uuid::try_parse(id).map_err(|_| no_such_session())?.to_string();
    let mut conn = worker.shared.pool.writer().await?;
    let known = SessionRecord::with_owner(&mut conn, &id).await?;
    if known.is_none_or(|(session, _)| session.user_id != identity.user_id) {
        return Err(no_such_session());
    }
    let origin = surface::origin(request, Some(identity));
    let event = Event::new(db::now(), "session_ended", &origin);
    SessionRecord::end(&mut conn, identity.user_id, Some(&id), event).await?;
    drop(conn);
    surface::revalidate(worker).await;
    Ok(())
}

fn no_such_session() -> ApiError {
    ApiError::new(Code::NotFound, "You have no such session.")
}

/// Sign out
///
/// Ends the session of the credential, with its access tokens and refresh tokens. Pages send a form with `csrf_token`,
/// and are led to the sign-in page.
#[api_v2_operation(tags(SignIn), operation_id = "logout")]
pub async fn logout(
    request: HttpRequest,
    payload: Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    // Who brings a token is a program, whatever else its request says of itself.
    let form = !request.headers().contains_key(header::AUTHORIZATION)
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let identity = if form {
        Signed::<serde_json::Map<String, serde_json::Value>>::read(&request, payload.into_inner())
            .await?
            .identity
    } else {
        Person::extract_from(&request).await?.0
    };
    let id = identity.credential.session_id().unwrap_or_default().to_owned();
    let origin = surface::origin(&request, Some(&identity));
    {
        let mut conn = worker.shared.pool.writer().await?;
        let event = Event::new(db::now(), "sign_out", &origin);
        SessionRecord::end(&mut conn, identity.user_id, Some(&id), event).await?;
    }
    surface::revalidate(&worker).await;
    let mut response = if form { HttpResponse::SeeOther() } else { HttpResponse::NoContent() };
    if form {
        response.insert_header((header::LOCATION, "/login"));
    }
    Ok(response.cookie(cookies::clear_session(worker.shared.sign_in.secure)).finish())
}
