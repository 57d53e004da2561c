//! `/sessions`: where one is signed in, and ending that.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use askama::Template;
use serde::Deserialize;

use super::{Viewer, page, see};
use crate::{
    routes::{
        auth::sessions::{self, SessionEntry},
        csrf::Signed,
        error::ApiError,
    },
    state::Worker,
    templates::{Place, Shell, show},
};

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsPage {
    shell: Shell,
    sessions: Vec<SessionEntry>,
}

/// What was just done.
#[derive(Deserialize)]
pub struct Done {
    pub done: Option<String>,
}

/// `GET /sessions`
pub async fn list(
    viewer: Viewer,
    query: Query<Done>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.shell(&mut conn, &worker, Place::Sessions).await?;
    let ended = query.done.as_deref() == Some("ended");
    let sessions = sessions::of_person(&mut conn, &worker, &viewer.0).await?;
    Ok(page(&SessionsPage {
        shell: shell.with_notice(ended.then_some("The session has ended.")),
        sessions,
    }))
}

/// A form without fields of its own.
#[derive(Deserialize)]
pub struct Nothing {}

/// `POST /sessions/{id}/end`
pub async fn end(
    request: HttpRequest,
    signed: Signed<Nothing>,
    path: Path<String>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    sessions::end_of(&request, &worker, &signed.identity, &path).await?;
    Ok(see("/sessions?done=ended"))
}
