//! `/admin/streams`: what streams at the moment, and cutting it.

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Path, Query},
};
use askama::Template;
use serde::Deserialize;

use super::list::{Part, address, called, number, page_with};
use crate::{
    db::{self, Timestamp},
    routes::{
        api::{
            keys::PageQuery,
            streams::{self, StreamEntry, StreamList},
        },
        csrf::SignedByAdmin,
        error::{ApiError, Code},
        pages::{AdminViewer, Pager, Problem, Viewer, filled, see},
    },
    state::Worker,
    templates::{Place, Shell, show},
};

#[derive(Template)]
#[template(path = "admin/streams.html")]
struct StreamsPage {
    shell: Shell,
    list: StreamList,
    pager: Pager,
    now: Timestamp,
    problem: Problem,
}

/// What the page's address says.
#[derive(Default, Deserialize)]
pub struct Asked {
    #[serde(default, deserialize_with = "filled")]
    limit: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    done: Option<String>,
}

/// `GET /admin/streams`
pub async fn list(
    admin: AdminViewer,
    query: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    show_with(admin.0, &worker, query.into_inner(), None).await
}

async fn show_with(
    viewer: Viewer,
    worker: &Worker,
    asked: Asked,
    problem: Option<Problem>,
) -> Result<HttpResponse, ApiError> {
    let status = if problem.is_some() { StatusCode::CONFLICT } else { StatusCode::BAD_REQUEST };
    let mut problem = problem.unwrap_or_default();
    let (list, pager) = match found(worker, &asked).await {
        Ok(found) => found,
        Err(error) => {
            problem = Problem::of(error)?;
            (StreamList::default(), Pager::default())
        }
    };
    let notice = match asked.done.as_deref() {
        Some("cut") => Some("The stream is cut."),
        _ => None,
    };
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.shell(&mut conn, worker, Place::AdminStreams).await?.with_notice(notice);
    let page = StreamsPage { shell, list, pager, now: db::now(), problem };
    Ok(page_with(&page.problem, status, &page))
}

async fn found(worker: &Worker, asked: &Asked) -> Result<(StreamList, Pager), ApiError> {
    let limit = number("limit", asked.limit.as_deref())?;
    let place = Part::place(limit, None, asked.cursor.as_deref())?;
    let query = PageQuery { limit, offset: None, cursor: asked.cursor.clone() };
    let list = streams::of_all(worker, query).await?;
    let part = Part {
        place,
        shown: list.streams.len(),
        limit: list.limit,
        total: list.total,
        total_is_capped: list.total_is_capped,
    };
    let limit = asked.limit.as_deref();
    let at =
        |cursor: Option<&str>| address("/admin/streams", &[("limit", limit), ("cursor", cursor)]);
    Ok((list, part.pager(at)))
}

impl StreamsPage {
    fn age(&self, stream: &StreamEntry) -> Option<i64> {
        Some((self.now - stream.started_at).num_milliseconds().max(0))
    }
}

impl StreamEntry {
    /// What its person is called.
    pub fn called(&self) -> String {
        called(self.user_id, self.email.as_deref(), self.display_name.as_deref())
    }
}

/// Where to go on.
#[derive(Deserialize)]
pub struct CutForm {
    /// To this person's page; to the list of streams without.
    #[serde(default, deserialize_with = "filled")]
    user_id: Option<String>,
}

/// `POST /admin/streams/{id}/cut`
pub async fn cut(
    request: HttpRequest,
    signed: SignedByAdmin<CutForm>,
    path: Path<String>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let SignedByAdmin { identity, form } = signed;
    let person = number("user_id", form.user_id.as_deref())?;
    match streams::cut_one(&request, &worker, &identity, &path).await {
        Ok(()) => Ok(see(&match person {
            Some(id) => format!("/admin/users/{id}?done=cut"),
            None => "/admin/streams?done=cut".to_owned(),
        })),
        // It ended while somebody thought about it, or the form came twice.
        Err(error) if error.code == Code::NotFound => {
            let message = "This stream has ended already.".to_owned();
            let problem = Problem { field: None, message };
            show_with(Viewer(identity), &worker, Asked::default(), Some(problem)).await
        }
        Err(error) => Err(error),
    }
}
