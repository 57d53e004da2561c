//! API keys: digests, never keys.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp,
    audit::{self, Append, Event, Origin},
    in_audited_transaction, on_conn,
    one_time_codes::{Form, note_made_within, use_form_within},
    schema::{api_keys, one_time_codes, users},
    steps::Steps,
    users::UserRecord,
};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = api_keys)]
pub struct ApiKeyRecord {
    pub id: i64,
    pub user_id: i64,
    /// HMAC-SHA-256 of the key under the pepper `pepper_id`.
    pub digest: Vec<u8>,
    pub pepper_id: String,
    /// The key's last four characters.
    pub hint: String,
    pub name: String,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Debug, Insertable)]
#[diesel(table_name = api_keys)]
pub struct NewApiKey<'a> {
    pub user_id: i64,
    pub digest: &'a [u8],
    pub pepper_id: &'a str,
    pub hint: &'a str,
    pub name: &'a str,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// Why a key was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("there is no live key with this id")]
    Unknown,
    #[error("the person has {0} live keys already, the most allowed")]
    TooMany(i64),
    #[error("the form was used before")]
    Used,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<diesel::result::Error> for CreateError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error.into())
    }
}

impl From<audit::Unwritten> for CreateError {
    fn from(error: audit::Unwritten) -> Self {
        Self::Db(error.into())
    }
}

macro_rules! live_keys_of {
    ($user_id:expr, $now:expr) => {
        api_keys::table
            .filter(api_keys::user_id.eq($user_id))
            .filter(api_keys::revoked_at.is_null())
            .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt($now)))
    };
}

/// Inside an audited transaction, of which there is one at a time: adds a key, unless its owner has `most` live ones.
macro_rules! insert_within {
    ($c:expr, $new:expr, $most:expr) => {{
        let live: i64 = live_keys_of!($new.user_id, $new.created_at).count().get_result($c).await?;
        if live >= $most {
            return Err(CreateError::TooMany(live));
        }
        let key: ApiKeyRecord = diesel::insert_into(api_keys::table)
            .values($new)
            .returning(Self::as_returning())
            .get_result($c)
            .await?;
        key
    }};
}

impl ApiKeyRecord {
    /// `active`, `expired` or `revoked`.
    pub fn status(&self, now: Timestamp) -> &'static str {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(end)) if end <= now => "expired",
            _ => "active",
        }
    }

    /// The key with one of these digests and its owner, in whatever state they are: the caller judges, so that
    /// every kind of refusal takes the same path.
    pub async fn with_owner(
        conn: &mut Conn,
        digests: &[Vec<u8>],
    ) -> Result<Option<(Self, UserRecord)>, DbError> {
        let query =
            api_keys::table.inner_join(users::table).filter(api_keys::digest.eq_any(digests));
        Ok(on_conn!(conn, c => {
            query.select((Self::as_select(), UserRecord::as_select())).first(c).await.optional()
        })?)
    }

    /// Of these keys, those that nobody revoked and whose owner is active.
    pub async fn unrevoked(conn: &mut Conn, ids: &[i64]) -> Result<Vec<i64>, DbError> {
        let query = api_keys::table
            .inner_join(users::table)
            .filter(api_keys::id.eq_any(ids))
            .filter(api_keys::revoked_at.is_null())
            .filter(users::state.eq("active"))
            .select(api_keys::id);
        Ok(on_conn!(conn, c => query.load(c).await)?)
    }

    /// Adds a key with its audit event, unless the owner has `most` live ones; counted in the same transaction. So is
    /// the form used up that asks for it, if it is one: a key that was not made can be asked for again.
    ///
    /// # Errors
    /// [`CreateError::TooMany`], [`CreateError::Used`], or the database's.
    pub async fn create(
        conn: &mut Conn,
        new: &NewApiKey<'_>,
        most: i64,
        form: Option<&Form>,
        event: Event<'_>,
    ) -> Result<Self, CreateError> {
        in_audited_transaction!(conn, c => {
            if let Some(form) = form && !use_form_within!(c, form, event.at) {
                return Err(CreateError::Used);
            }
            let key = insert_within!(c, new, most);
            let object = format!("api_key:{}", key.id);
            if let Some(form) = form {
                note_made_within!(c, form, &object);
            }
            c.append(Event { object, ..event }).await?;
            Ok(key)
        })
    }

    /// A person's keys, newest first; everybody's if `user_id` is `None`.
    pub async fn list(
        conn: &mut Conn,
        user_id: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        Ok(on_conn!(conn, c => {
            let mut query = api_keys::table.into_boxed();
            if let Some(user_id) = user_id {
                query = query.filter(api_keys::user_id.eq(user_id));
            }
            query
                .order(api_keys::id.desc())
                .limit(limit)
                .select(Self::as_select())
                .load(c)
                .await
        })?)
    }

    /// A person's keys, newest first: `limit` of them after passing over `offset`.
    pub async fn page(
        conn: &mut Conn,
        user_id: i64,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        let query = api_keys::table
            .filter(api_keys::user_id.eq(user_id))
            .order(api_keys::id.desc())
            .offset(offset)
            .limit(limit);
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }

    /// The names of these keys.
    pub async fn names(
        conn: &mut Conn,
        ids: &[i64],
    ) -> Result<std::collections::HashMap<i64, String>, DbError> {
        if ids.is_empty() {
            return Ok(std::collections::HashMap::new());
        }
        let query =
            api_keys::table.filter(api_keys::id.eq_any(ids)).select((api_keys::id, api_keys::name));
        let rows: Vec<(i64, String)> = on_conn!(conn, c => query.load(c).await)?;
        Ok(rows.into_iter().collect())
    }

    /// Whose key this is.
    pub async fn owner(conn: &mut Conn, id: i64) -> Result<Option<i64>, DbError> {
        let query = api_keys::table.find(id).select(api_keys::user_id);
        Ok(on_conn!(conn, c => query.first(c).await.optional())?)
    }

    /// How many keys a person has, whatever became of them.
    pub async fn count(conn: &mut Conn, user_id: i64) -> Result<i64, DbError> {
        let query = api_keys::table.filter(api_keys::user_id.eq(user_id)).count();
        Ok(on_conn!(conn, c => query.get_result(c).await)?)
    }

    /// How many live keys each of these people has; who has none is not there.
    pub async fn live_counts(
        conn: &mut Conn,
        user_ids: &[i64],
        now: Timestamp,
    ) -> Result<Vec<(i64, i64)>, DbError> {
        let query = api_keys::table
            .filter(api_keys::user_id.eq_any(user_ids))
            .filter(api_keys::revoked_at.is_null())
            .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(now)))
            .group_by(api_keys::user_id)
            .select((api_keys::user_id, diesel::dsl::count_star()));
        Ok(on_conn!(conn, c => query.load(c).await)?)
    }

    /// Gives one of a person's keys another name. Answers the key as it is then, or `None` if it is not theirs.
    pub async fn rename(
        conn: &mut Conn,
        user_id: i64,
        id: i64,
        name: &str,
        event: Event<'_>,
    ) -> Result<Option<Self>, DbError> {
        in_audited_transaction!(conn, c => {
            let own = api_keys::table.find(id).filter(api_keys::user_id.eq(user_id));
            let before: Option<String> =
                own.select(api_keys::name).first(c).await.optional()?;
            let Some(before) = before else { return Ok(None) };
            let key: Self = diesel::update(own)
                .set(api_keys::name.eq(name))
                .returning(Self::as_returning())
                .get_result(c)
                .await?;
            let metadata = serde_json::json!({ "before": before, "after": name });
            c.append(Event { metadata, ..event }).await?;
            Ok::<Option<Self>, DbError>(Some(key))
        })
    }

    /// Makes a key in the place of one of the same person's live keys, which ends at `old_ends` (or when it would have
    /// ended, if that is sooner). Both count until then. The name of `new` is that of the old one.
    ///
    /// # Errors
    /// [`CreateError::Unknown`], [`CreateError::TooMany`], [`CreateError::Used`], or the database's.
    pub async fn rotate(
        conn: &mut Conn,
        id: i64,
        old_ends: Timestamp,
        new: &NewApiKey<'_>,
        most: i64,
        form: Option<&Form>,
        event: Event<'_>,
    ) -> Result<Self, CreateError> {
        in_audited_transaction!(conn, c => {
            let now = event.at;
            if let Some(form) = form && !use_form_within!(c, form, now) {
                return Err(CreateError::Used);
            }
            let old: Option<Self> = live_keys_of!(new.user_id, now)
                .filter(api_keys::id.eq(id))
                .select(Self::as_select())
                .first(c)
                .await
                .optional()?;
            let old = old.ok_or(CreateError::Unknown)?;
            let ends = old.expires_at.map_or(old_ends, |end| end.min(old_ends));
            // One that ends at once does so before the new one is counted.
            let (revoked_at, ends_at_once) = ((ends <= now).then_some(now), ends <= now);
            // Still live: it may have been revoked since it was read.
            let this = api_keys::table.find(id).filter(api_keys::revoked_at.is_null());
            let changed = diesel::update(this)
                .set((api_keys::expires_at.eq(ends), api_keys::revoked_at.eq(revoked_at)))
                .execute(c)
                .await?;
            if changed == 0 {
                return Err(CreateError::Unknown);
            }
            let new = NewApiKey { name: &old.name, ..*new };
            let key = insert_within!(c, &new, most);
            // What is remembered of the old key does not know its new end.
            c.bump_epoch().await?;
            let metadata = serde_json::json!({
                "replaces": id,
                "old_ends_at": ends.and_utc().to_rfc3339(),
                "expires_at": key.expires_at.map(|end| end.and_utc().to_rfc3339()),
            });
            let object = format!("api_key:{}", key.id);
            if let Some(form) = form {
                note_made_within!(c, form, &object);
            }
            c.append(Event { object, metadata, ..event.clone() }).await?;
            if ends_at_once {
                c.append(Event {
                    user_id: Some(new.user_id),
                    object: format!("api_key:{id}"),
                    metadata: serde_json::json!({ "replaced_by": key.id }),
                    ..Event::new(now, "key_revoked", event.origin)
                })
                .await?;
            }
            Ok(key)
        })
    }

    /// Writes the ends of keys by time into the audit log, each once. Answers how many there were.
    pub async fn note_expired(
        conn: &mut Conn,
        now: Timestamp,
        limit: i64,
    ) -> Result<usize, DbError> {
        let origin = Origin::service();
        in_audited_transaction!(conn, c => {
            let due: Vec<Self> = api_keys::table
                .filter(api_keys::expires_at.le(now))
                .filter(api_keys::revoked_at.is_null())
                .filter(api_keys::expiry_noted.eq(false))
                .order(api_keys::expires_at)
                .limit(limit)
                .select(Self::as_select())
                .load(c)
                .await?;
            let mut noted = 0;
            for key in due {
                let this = api_keys::table.find(key.id).filter(api_keys::expiry_noted.eq(false));
                let done = api_keys::expiry_noted.eq(true);
                if diesel::update(this).set(done).execute(c).await? > 0 {
                    noted += 1;
                    c.append(Event {
                        user_id: Some(key.user_id),
                        object: format!("api_key:{}", key.id),
                        metadata: serde_json::json!({
                            "expired_at": key.expires_at.map(|end| end.and_utc().to_rfc3339()),
                        }),
                        ..Event::new(now, "key_expired", &origin)
                    })
                    .await?;
                }
            }
            Ok::<usize, DbError>(noted)
        })
    }

    /// Revokes a key with its audit event; one of `user_id`'s, if that is given. Answers whether there was a live one.
    pub async fn revoke(
        conn: &mut Conn,
        id: i64,
        user_id: Option<i64>,
        now: Timestamp,
        event: Event<'_>,
    ) -> Result<bool, DbError> {
        in_audited_transaction!(conn, c => {
            let mut live = api_keys::table
                .filter(api_keys::id.eq(id))
                .filter(api_keys::revoked_at.is_null())
                .select(api_keys::user_id)
                .into_boxed();
            if let Some(user_id) = user_id {
                live = live.filter(api_keys::user_id.eq(user_id));
            }
            let owner: Option<i64> = live.first(c).await.optional()?;
            let Some(owner) = owner else { return Ok(false) };
            let this = api_keys::table.find(id).filter(api_keys::revoked_at.is_null());
            let changed =
                diesel::update(this).set(api_keys::revoked_at.eq(now)).execute(c).await?;
            if changed > 0 {
                c.bump_epoch().await?;
                c.append(Event { user_id: Some(owner), ..event }).await?;
            }
            Ok::<bool, DbError>(changed > 0)
        })
    }

    /// One of a person's keys, whatever became of it.
    pub async fn of_person(
        conn: &mut Conn,
        user_id: i64,
        id: i64,
    ) -> Result<Option<Self>, DbError> {
        let query = api_keys::table.find(id).filter(api_keys::user_id.eq(user_id));
        let found = on_conn!(conn, c => query.select(Self::as_select()).first(c).await.optional());
        Ok(found?)
    }

    /// Whether a person has a key with this id.
    pub async fn belongs_to(conn: &mut Conn, id: i64, user_id: i64) -> Result<bool, DbError> {
        let query = api_keys::table.find(id).filter(api_keys::user_id.eq(user_id)).count();
        let count: i64 = on_conn!(conn, c => query.get_result(c).await)?;
        Ok(count > 0)
    }

    /// Notes that a key was used.
    pub async fn touch(conn: &mut Conn, id: i64, now: Timestamp) -> Result<(), DbError> {
        let update = diesel::update(api_keys::table.find(id)).set(api_keys::last_used_at.eq(now));
        on_conn!(conn, c => update.execute(c).await)?;
        Ok(())
    }

    /// Moves a key to the current pepper.
    pub async fn re_digest(
        conn: &mut Conn,
        id: i64,
        digest: &[u8],
        pepper_id: &str,
    ) -> Result<(), DbError> {
        let update = diesel::update(api_keys::table.find(id))
            .set((api_keys::digest.eq(digest), api_keys::pepper_id.eq(pepper_id)));
        on_conn!(conn, c => update.execute(c).await)?;
        Ok(())
    }
}
