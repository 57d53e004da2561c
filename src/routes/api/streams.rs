//! `/api/admin/streams`: what streams at the moment, and ending one of them.

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web::Data};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path, Query},
};
use serde::Serialize;

use super::{
    keys::PageQuery,
    page::{Page, write_cursor},
};
use crate::{
    actors::streams::{CutOne, Find, List, LiveStream, LiveStreams},
    auth::Identity,
    cache::{Moment, News},
    db::{
        self, Timestamp,
        audit::{self, Event},
        users::UserRecord,
    },
    routes::{
        error::{ApiError, Code},
        extract::Admin,
        surface,
    },
    state::Worker,
};

/// A live stream.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct StreamEntry {
    pub id: String,
    pub user_id: i64,
    pub email: Option<String>,
    /// As it is priced.
    pub model_id: String,
    pub region: String,
    #[serde(serialize_with = "super::time")]
    pub started_at: Timestamp,
    /// Events from upstream so far.
    pub events: i64,
    /// As upstream reported so far, which most models do at their end; null = not yet.
    pub output_tokens: Option<i64>,
    /// Where it streams.
    pub instance: String,
    /// What people call themselves, for pages.
    #[serde(skip)]
    pub display_name: Option<String>,
}

/// Live streams, newest first.
#[derive(Debug, Default, Serialize, Apiv2Schema)]
pub struct StreamList {
    pub streams: Vec<StreamEntry>,
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
}

/// List live streams
///
/// Those that all instances with the same cache serve at the moment, newest first; other instances' up to a second old,
/// and those of this one alone while Redis is away.
#[api_v2_operation(tags(Administration), operation_id = "listStreams")]
pub async fn list(
    _admin: Admin,
    query: Query<PageQuery>,
    worker: Data<Worker>,
) -> Result<Json<StreamList>, ApiError> {
    of_all(&worker, query.into_inner()).await.map(Json)
}

/// A page of everybody's live streams.
pub async fn of_all(worker: &Worker, query: PageQuery) -> Result<StreamList, ApiError> {
    let page = Page::read(query.limit, query.offset, query.cursor.as_deref())?;
    let place = page.number()?.unwrap_or(page.offset);
    let live = live(worker, None).await?;
    let total = i64::try_from(live.len()).unwrap_or(i64::MAX);
    let next = place.saturating_add(page.limit);
    let [skip, take] = [place, page.limit].map(|count| usize::try_from(count).unwrap_or(0));
    let shown = live.into_iter().skip(skip).take(take).collect();
    Ok(StreamList {
        streams: entries(worker, shown).await?,
        total,
        total_is_capped: false,
        limit: page.limit,
        offset: page.offset,
        next_cursor: (next < total).then(|| write_cursor(next)),
    })
}

/// Somebody's own live streams, newest first.
pub async fn of_person(worker: &Worker, user_id: i64) -> Result<Vec<StreamEntry>, ApiError> {
    let live = live(worker, Some(user_id)).await?;
    entries(worker, live).await
}

/// What streams here, and what other instances say that streams there; newest first.
async fn live(worker: &Worker, user_id: Option<i64>) -> Result<Vec<LiveStream>, ApiError> {
    let mut all = ask(worker, List { user_id }).await?;
    let elsewhere = elsewhere(worker).await;
    if !elsewhere.is_empty() {
        let asked = |stream: &LiveStream| user_id.is_none_or(|id| stream.user_id == id);
        all.extend(elsewhere.into_iter().filter(asked));
        LiveStream::sort(&mut all);
    }
    Ok(all)
}

async fn elsewhere(worker: &Worker) -> Vec<LiveStream> {
    let shared = &worker.shared;
    let posted = shared.cache.posted::<LiveStreams>(moment()).await;
    let others = posted.into_iter().filter(|(name, _)| **name != *shared.actors.here);
    others.flat_map(|(_, of_one)| of_one.streams).collect()
}

fn moment() -> Moment {
    Moment { now: db::now(), generation: 0 }
}

async fn entries(worker: &Worker, live: Vec<LiveStream>) -> Result<Vec<StreamEntry>, ApiError> {
    if live.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<i64> = live.iter().map(|stream| stream.user_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let people = UserRecord::with_ids(&mut worker.shared.pool.reader().await?, &ids).await?;
    let people: HashMap<i64, UserRecord> =
        people.into_iter().map(|person| (person.id, person)).collect();
    let entry = |stream: LiveStream| {
        let person = people.get(&stream.user_id);
        StreamEntry {
            id: spelled(stream.id),
            user_id: stream.user_id,
            email: person.and_then(|person| person.email.clone()),
            display_name: person.and_then(|person| person.display_name.clone()),
            model_id: stream.model,
            region: stream.region,
            started_at: stream.started_at,
            events: i64::try_from(stream.events).unwrap_or(i64::MAX),
            output_tokens: stream.output_tokens,
            instance: stream.instance,
        }
    };
    Ok(live.into_iter().map(entry).collect())
}

/// End a live stream
///
/// Its client is told so, and gets no normal end. A key or token goes on to be good for other calls.
#[api_v2_operation(tags(Administration), operation_id = "cutStream")]
pub async fn cut(
    request: HttpRequest,
    admin: Admin,
    path: Path<String>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    cut_one(&request, &worker, &admin.0, &path).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends a live stream, which is noted first. One that is ending already is left to do so.
pub async fn cut_one(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    id: &str,
) -> Result<(), ApiError> {
    let number = number_of(id).ok_or_else(no_such_stream)?;
    let here = ask(worker, Find(number)).await?;
    let is_here = here.is_some();
    let stream = match here {
        Some(stream) => stream,
        None => {
            let mut elsewhere = elsewhere(worker).await.into_iter();
            elsewhere.find(|stream| stream.id == number).ok_or_else(no_such_stream)?
        }
    };
    if stream.ending {
        return Ok(());
    }
    let origin = surface::origin(request, Some(by));
    let event = Event {
        user_id: Some(stream.user_id),
        object: format!("stream:{}", spelled(number)),
        metadata: serde_json::json!({
            "model_id": stream.model,
            "region": stream.region,
            "started_at": stream.started_at.and_utc().to_rfc3339(),
            "instance": stream.instance,
        }),
        ..Event::new(db::now(), "stream_cut", &origin)
    };
    audit::record(&mut worker.shared.pool.writer().await?, event).await?;
    // Should it have ended meanwhile, there is nothing left to do.
    if is_here {
        let _was_live = ask(worker, CutOne(number)).await?;
        return Ok(());
    }
    let told = worker.shared.cache.tell(&News::CutStream { id: number }, moment()).await;
    told.map_err(|error| {
        let message = "The instance that has this stream cannot be told at the moment. Try again.";
        ApiError::new(Code::Overloaded, message).caused_by(error)
    })
}

async fn ask<M>(worker: &Worker, message: M) -> Result<M::Result, ApiError>
where
    M: actix::Message + Send + 'static,
    M::Result: Send,
    crate::actors::streams::StreamSupervisor: actix::Handler<M>,
{
    let supervisor = worker.shared.actors.streams.address();
    supervisor.send(message).await.map_err(|error| {
        let message = "Live streams cannot be looked at at the moment. Try again.";
        ApiError::new(Code::Overloaded, message).caused_by(error)
    })
}

/// A stream's number as clients see it.
fn spelled(number: u64) -> String {
    format!("{number:016x}")
}

fn number_of(id: &str) -> Option<u64> {
    let plain = id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(id, 16).ok()).flatten()
}

fn no_such_stream() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such live stream; it may have ended.")
}
