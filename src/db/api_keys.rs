//! API keys: digests, never keys.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp, audit, in_transaction, on_conn,
    schema::{api_keys, users},
    users::{UserRecord, bump_epoch},
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
    #[error("the person has {0} live keys already, the most allowed")]
    TooMany(i64),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<diesel::result::Error> for CreateError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error.into())
    }
}

impl ApiKeyRecord {
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

    /// Adds a key with its audit event, unless the owner has `most` live ones; counted in the same transaction.
    ///
    /// # Errors
    /// [`CreateError::TooMany`], or the database's.
    pub async fn create(
        conn: &mut Conn,
        new: &NewApiKey<'_>,
        most: i64,
        event: audit::Event<'_>,
    ) -> Result<Self, CreateError> {
        in_transaction!(conn, c => {
            // The owner's row is the lock: two creations at once count one after the other.
            diesel::update(users::table.find(new.user_id))
                .set(users::updated_at.eq(new.created_at))
                .execute(c)
                .await?;
            let live: i64 = api_keys::table
                .filter(api_keys::user_id.eq(new.user_id))
                .filter(api_keys::revoked_at.is_null())
                .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(new.created_at)))
                .count()
                .get_result(c)
                .await?;
            if live >= most {
                return Err(CreateError::TooMany(live));
            }
            let key: Self = diesel::insert_into(api_keys::table)
                .values(new)
                .returning(Self::as_returning())
                .get_result(c)
                .await?;
            let object = format!("api_key:{}", key.id);
            audit::append!(c, audit::Event { object, ..event });
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

    /// Revokes a key with its audit event. Answers whether there was a live one.
    pub async fn revoke(
        conn: &mut Conn,
        id: i64,
        now: Timestamp,
        event: audit::Event<'_>,
    ) -> Result<bool, DbError> {
        in_transaction!(conn, c => {
            let live = api_keys::table.find(id).filter(api_keys::revoked_at.is_null());
            let changed =
                diesel::update(live).set(api_keys::revoked_at.eq(now)).execute(c).await?;
            if changed > 0 {
                bump_epoch!(c);
                audit::append!(c, event);
            }
            Ok::<bool, DbError>(changed > 0)
        })
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
