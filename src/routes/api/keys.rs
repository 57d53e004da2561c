//! `/api/keys`: one's own API keys. A key is shown once, in the answer that makes it.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use chrono::TimeDelta;
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path, Query},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::page::{Page, write_cursor};
use crate::{
    auth::{
        Identity,
        api_key::{self, ApiKeyText, Unfit},
        sign_in::later,
    },
    db::{
        self, Timestamp,
        api_keys::{ApiKeyRecord, CreateError, NewApiKey},
        audit::Event,
        one_time_codes::Form,
    },
    limits::{Limit, Subject},
    routes::{
        body::Body,
        error::{ApiError, Code},
        extract::Person,
        rates, surface,
    },
    state::Worker,
};

/// How long a replaced key may live on, in seconds: an hour unless asked otherwise, a week at most.
const OVERLAP: i64 = 3600;
const LONGEST_OVERLAP: i64 = 604_800;

/// A key as it is kept: never the key itself.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct KeyEntry {
    pub id: i64,
    pub name: String,
    /// Its last four characters.
    pub hint: String,
    #[serde(serialize_with = "super::time")]
    pub created_at: Timestamp,
    #[serde(serialize_with = "super::time_or_null")]
    pub last_used_at: Option<Timestamp>,
    /// null: never.
    #[serde(serialize_with = "super::time_or_null")]
    pub expires_at: Option<Timestamp>,
    #[serde(serialize_with = "super::time_or_null")]
    pub revoked_at: Option<Timestamp>,
    /// active, expired or revoked.
    pub status: &'static str,
}

impl KeyEntry {
    pub fn new(key: ApiKeyRecord, now: Timestamp) -> Self {
        Self {
            status: key.status(now),
            id: key.id,
            name: key.name,
            hint: format!("…{}", key.hint),
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// Keys, newest first.
#[derive(Debug, Default, Serialize, Apiv2Schema)]
pub struct KeyList {
    pub keys: Vec<KeyEntry>,
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
}

/// Which part of a list.
#[derive(Debug, Default, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Rows a page, 1 to 500. Default 50.
    pub limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    pub offset: Option<i64>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// What a key is to be.
#[derive(Debug, Deserialize, Apiv2Schema)]
pub struct NewKey {
    pub name: String,
    /// Days it lives; absent: the default. null: for ever, where that is allowed.
    #[serde(default, deserialize_with = "given")]
    pub expires_in_days: Option<Option<i64>>,
}

/// Tells a null from a member that is not there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A key that was just made: the only time that it is shown.
#[derive(Serialize, Apiv2Schema)]
pub struct CreatedKey {
    pub id: i64,
    pub key: String,
    pub name: String,
    pub hint: String,
    #[serde(serialize_with = "super::time")]
    pub created_at: Timestamp,
    #[serde(serialize_with = "super::time_or_null")]
    pub expires_at: Option<Timestamp>,
    /// The key that it takes the place of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<i64>,
}

impl From<Unfit> for ApiError {
    fn from(unfit: Unfit) -> Self {
        let field = match unfit {
            Unfit::Name | Unfit::Secret => "name",
            Unfit::NoLife | Unfit::TooLong(_) | Unfit::BeyondDates => "expires_in_days",
        };
        Self::parameter(field, unfit.to_string())
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Unknown => no_such_key(),
            CreateError::TooMany(live) => Self::new(
                Code::KeyLimitReached,
                format!(
                    "You have {live} live keys, the most allowed (api_keys.max_keys_per_user). Revoke one first, or rotate one with overlap_seconds 0."
                ),
            ),
            CreateError::Used => Self::new(Code::Conflict, "This form was sent before."),
            CreateError::Db(error) => error.into(),
        }
    }
}

fn no_such_key() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such key.")
}

/// Make a key
///
/// The key itself is in this answer and nowhere else.
#[api_v2_operation(tags(Keys), operation_id = "createKey")]
pub async fn create(
    request: HttpRequest,
    person: Person,
    body: Body<NewKey>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (Person(identity), asked) = (person, body.read().await?);
    let key = make(&request, &worker, &identity, &asked, None).await?;
    Ok(HttpResponse::Created().json(key))
}

/// Makes a key for somebody; by a form, if it is given, which makes no other.
///
/// # Errors
/// 400 for what a key cannot be, 403 where there are none, 409 with too many of them or for a form that was used, 429.
pub async fn make(
    request: &HttpRequest,
    worker: &Worker,
    identity: &Identity,
    asked: &NewKey,
    form: Option<&Form>,
) -> Result<CreatedKey, ApiError> {
    let (rules, now) = (&worker.shared.api_keys, db::now());
    let default = rules.default_expiry_days.map(i64::from);
    let days = asked.expires_in_days.unwrap_or(default);
    let name = api_key::name(&asked.name)?;
    let expires_at = api_key::end(days, rules, now)?;
    may_make(request, worker, identity).await?;
    let origin = surface::origin(request, Some(identity));
    let event = Event {
        user_id: Some(identity.user_id),
        metadata: serde_json::json!({
            "name": name, "expires_at": expires_at.map(|end| end.and_utc().to_rfc3339()),
        }),
        ..Event::new(now, "key_created", &origin)
    };
    let text = ApiKeyText::generate();
    let (digest, pepper_id) = digest(worker, &text)?;
    let new = NewApiKey {
        user_id: identity.user_id,
        digest: &digest,
        pepper_id: &pepper_id,
        hint: text.hint(),
        name: &name,
        created_at: now,
        expires_at,
    };
    let most = i64::from(rules.max_keys_per_user);
    let mut conn = worker.shared.pool.writer().await?;
    let key = ApiKeyRecord::create(&mut conn, &new, most, form, event).await?;
    Ok(created(key, &text, None))
}

/// Whether keys are made at all, and by this person now.
async fn may_make(
    request: &HttpRequest,
    worker: &Worker,
    identity: &Identity,
) -> Result<(), ApiError> {
    if !worker.shared.api_keys.enabled {
        return Err(ApiError::new(Code::Forbidden, "API keys are off here (api_keys.enabled)."));
    }
    rates::check(request, Limit::KeyCreation, Subject::User(identity.user_id)).await
}

fn digest(worker: &Worker, text: &ApiKeyText) -> Result<(Vec<u8>, String), ApiError> {
    let current = worker.shared.keys.digests(text).into_iter().next();
    let (pepper_id, digest) =
        current.ok_or_else(|| ApiError::new(Code::Internal, "A key cannot be made."))?;
    Ok((digest, pepper_id))
}

fn created(key: ApiKeyRecord, text: &ApiKeyText, replaces: Option<i64>) -> CreatedKey {
    CreatedKey {
        id: key.id,
        key: text.as_str().to_owned(),
        name: key.name,
        hint: format!("…{}", key.hint),
        created_at: key.created_at,
        expires_at: key.expires_at,
        replaces,
    }
}

/// List your keys
///
/// Live ones and those that have ended, newest first.
#[api_v2_operation(tags(Keys), operation_id = "listKeys")]
pub async fn list(
    person: Person,
    query: Query<PageQuery>,
    worker: Data<Worker>,
) -> Result<Json<KeyList>, ApiError> {
    of_person(&worker, person.0.user_id, query.into_inner()).await.map(Json)
}

/// A page of somebody's keys.
pub async fn of_person(
    worker: &Worker,
    user_id: i64,
    query: PageQuery,
) -> Result<KeyList, ApiError> {
    let page = Page::read(query.limit, query.offset, query.cursor.as_deref())?;
    let place = page.number()?.unwrap_or(page.offset);
    let mut conn = worker.shared.pool.reader().await?;
    let keys = ApiKeyRecord::page(&mut conn, user_id, place, page.limit).await?;
    let total = ApiKeyRecord::count(&mut conn, user_id).await?;
    let (now, next) = (db::now(), place + page.limit);
    Ok(KeyList {
        keys: keys.into_iter().map(|key| KeyEntry::new(key, now)).collect(),
        total,
        total_is_capped: false,
        limit: page.limit,
        offset: page.offset,
        next_cursor: (next < total).then(|| write_cursor(next)),
    })
}

/// What of a key can be changed.
#[derive(Debug, Deserialize, Apiv2Schema)]
pub struct KeyChange {
    name: String,
}

/// Give a key another name
///
/// Nothing else about a key changes: to have another end, make another key.
#[api_v2_operation(tags(Keys), operation_id = "renameKey")]
pub async fn rename(
    request: HttpRequest,
    person: Person,
    path: Path<i64>,
    body: Body<KeyChange>,
    worker: Data<Worker>,
) -> Result<Json<KeyEntry>, ApiError> {
    let (Person(identity), asked) = (person, body.read().await?);
    rename_of(&request, &worker, &identity, path.into_inner(), &asked.name).await.map(Json)
}

/// Gives one of somebody's own keys another name.
///
/// # Errors
/// 400 for what is no name, 404 for a key that is not theirs.
pub async fn rename_of(
    request: &HttpRequest,
    worker: &Worker,
    identity: &Identity,
    id: i64,
    name: &str,
) -> Result<KeyEntry, ApiError> {
    let (name, now) = (api_key::name(name)?, db::now());
    let origin = surface::origin(request, Some(identity));
    let event = Event {
        user_id: Some(identity.user_id),
        object: format!("api_key:{id}"),
        ..Event::new(now, "key_renamed", &origin)
    };
    let mut conn = worker.shared.pool.writer().await?;
    let key = ApiKeyRecord::rename(&mut conn, identity.user_id, id, &name, event).await?;
    key.map(|key| KeyEntry::new(key, now)).ok_or_else(no_such_key)
}

/// How a key is replaced.
#[derive(Debug, Default, Deserialize, Apiv2Schema)]
pub struct Rotation {
    /// Seconds for which the old key goes on, 0 to 604800 (a week). Default 3600.
    overlap_seconds: Option<i64>,
}

/// Replace a key
///
/// A new key with the same name and the default lifetime; the old one ends after the overlap, in which both count.
#[api_v2_operation(tags(Keys), operation_id = "rotateKey")]
pub async fn rotate(
    request: HttpRequest,
    person: Person,
    path: Path<i64>,
    body: Body<Rotation>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (Person(identity), id) = (person, path.into_inner());
    let overlap = body.read().await?.overlap_seconds.unwrap_or(OVERLAP);
    let key = replace(&request, &worker, &identity, id, overlap, None).await?;
    Ok(HttpResponse::Created().json(key))
}

/// Makes a key in the place of one of somebody's own, which lives on for `overlap` seconds; by a form, if it is given,
/// which makes no other.
///
/// # Errors
/// As [`make`]; 404 for a key that is not theirs, or has ended.
pub async fn replace(
    request: &HttpRequest,
    worker: &Worker,
    identity: &Identity,
    id: i64,
    overlap: i64,
    form: Option<&Form>,
) -> Result<CreatedKey, ApiError> {
    let now = db::now();
    if !(0..=LONGEST_OVERLAP).contains(&overlap) {
        let message = "overlap_seconds must be 0 to 604800 (a week).";
        return Err(ApiError::parameter("overlap_seconds", message));
    }
    let rules = &worker.shared.api_keys;
    let expires_at = api_key::end(rules.default_expiry_days.map(i64::from), rules, now)?;
    may_make(request, worker, identity).await?;
    let origin = surface::origin(request, Some(identity));
    let event =
        Event { user_id: Some(identity.user_id), ..Event::new(now, "key_created", &origin) };
    let text = ApiKeyText::generate();
    let (digest, pepper_id) = digest(worker, &text)?;
    let new = NewApiKey {
        user_id: identity.user_id,
        digest: &digest,
        pepper_id: &pepper_id,
        hint: text.hint(),
        name: "",
        created_at: now,
        expires_at,
    };
    let old_ends = later(now, TimeDelta::seconds(overlap));
    let most = i64::from(rules.max_keys_per_user);
    let key = {
        let mut conn = worker.shared.pool.writer().await?;
        ApiKeyRecord::rotate(&mut conn, id, old_ends, &new, most, form, event).await?
    };
    surface::revalidate(worker).await;
    Ok(created(key, &text, Some(id)))
}

/// Revoke a key
///
/// It ends at once here, and on every instance within seconds, with its live streams. One that has ended is 204 too.
#[api_v2_operation(tags(Keys), operation_id = "revokeKey")]
pub async fn revoke(
    request: HttpRequest,
    person: Person,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let Person(identity) = person;
    revoke_of(&request, &worker, &identity, identity.user_id, path.into_inner()).await
}

/// Revokes a key of somebody's.
pub async fn revoke_of(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    user_id: i64,
    id: i64,
) -> Result<HttpResponse, ApiError> {
    let (origin, now) = (surface::origin(request, Some(by)), db::now());
    {
        let mut conn = worker.shared.pool.writer().await?;
        if !ApiKeyRecord::belongs_to(&mut conn, id, user_id).await? {
            return Err(no_such_key());
        }
        let event =
            Event { object: format!("api_key:{id}"), ..Event::new(now, "key_revoked", &origin) };
        ApiKeyRecord::revoke(&mut conn, id, Some(user_id), now, event).await?;
    }
    surface::revalidate(worker).await;
    Ok(HttpResponse::NoContent().finish())
}
