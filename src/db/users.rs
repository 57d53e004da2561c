//! People.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp, audit, in_transaction, on_conn,
    schema::{auth_epoch, users},
};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = users)]
pub struct UserRecord {
    pub id: i64,
    pub provider: String,
    pub subject: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub display_name: Option<String>,
    /// `active`, `disabled` or `expired`.
    pub state: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub last_login_at: Option<Timestamp>,
}

#[derive(Debug, Insertable)]
#[diesel(table_name = users)]
pub struct NewUser<'a> {
    pub provider: &'a str,
    pub subject: &'a str,
    pub email: Option<&'a str>,
    pub email_verified: bool,
    pub display_name: Option<&'a str>,
    pub state: &'a str,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl UserRecord {
    /// The person with this id at this provider.
    pub async fn by_subject(
        conn: &mut Conn,
        provider: &str,
        subject: &str,
    ) -> Result<Option<Self>, DbError> {
        let query =
            users::table.filter(users::provider.eq(provider)).filter(users::subject.eq(subject));
        let found = on_conn!(conn, c => query.select(Self::as_select()).first(c).await.optional());
        Ok(found?)
    }

    /// Everybody, oldest first, `limit` from `after` (an id) on.
    pub async fn list(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<Self>, DbError> {
        let query = users::table.filter(users::id.gt(after)).order(users::id).limit(limit);
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }

    /// Adds a person and the audit event for it, in one transaction.
    ///
    /// # Errors
    /// [`DbError::Query`] with a unique violation if the subject is known already.
    pub async fn create(
        conn: &mut Conn,
        new: &NewUser<'_>,
        event: audit::Event<'_>,
    ) -> Result<Self, DbError> {
        in_transaction!(conn, c => {
            let user: Self = diesel::insert_into(users::table)
                .values(new)
                .returning(Self::as_returning())
                .get_result(c)
                .await?;
            audit::append!(c, audit::Event { user_id: Some(user.id), ..event });
            Ok(user)
        })
    }

    /// Sets a person's state, with the audit event; taking access away bumps the epoch in the same transaction.
    pub async fn set_state(
        conn: &mut Conn,
        id: i64,
        state: &str,
        now: Timestamp,
        event: audit::Event<'_>,
    ) -> Result<(), DbError> {
        in_transaction!(conn, c => {
            diesel::update(users::table.find(id))
                .set((users::state.eq(state), users::updated_at.eq(now)))
                .execute(c)
                .await?;
            bump_epoch!(c);
            audit::append!(c, audit::Event { user_id: Some(id), ..event });
            Ok::<(), DbError>(())
        })
    }
}

/// Inside a transaction: tells every instance that some access was taken away.
macro_rules! bump_epoch {
    ($c:expr) => {
        diesel_async::RunQueryDsl::execute(
            diesel::update($crate::db::schema::auth_epoch::table).set(
                $crate::db::schema::auth_epoch::epoch.eq($crate::db::schema::auth_epoch::epoch + 1),
            ),
            $c,
        )
        .await?
    };
}
pub(crate) use bump_epoch;

/// The number of changes that took access away, so far.
pub async fn epoch(conn: &mut Conn) -> Result<i64, DbError> {
    let query = auth_epoch::table.select(auth_epoch::epoch);
    Ok(on_conn!(conn, c => query.first(c).await)?)
}
