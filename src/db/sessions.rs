//! Sessions: what an access token or a browser's cookie stands on.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp, audit, in_transaction, on_conn,
    schema::{sessions, users},
    users::UserRecord,
};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = sessions)]
pub struct SessionRecord {
    pub id: String,
    pub user_id: i64,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

#[derive(Debug, Insertable)]
#[diesel(table_name = sessions)]
pub struct NewSession<'a> {
    pub id: &'a str,
    pub user_id: i64,
    pub kind: &'a str,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub expires_at: Timestamp,
}

impl SessionRecord {
    /// The session with this id and its person, in whatever state they are.
    pub async fn with_owner(
        conn: &mut Conn,
        id: &str,
    ) -> Result<Option<(Self, UserRecord)>, DbError> {
        let query = sessions::table.inner_join(users::table).filter(sessions::id.eq(id));
        Ok(on_conn!(conn, c => {
            query.select((Self::as_select(), UserRecord::as_select())).first(c).await.optional()
        })?)
    }

    /// Starts a session, with its audit event.
    pub async fn create(
        conn: &mut Conn,
        new: &NewSession<'_>,
        event: audit::Event<'_>,
    ) -> Result<(), DbError> {
        in_transaction!(conn, c => {
            diesel::insert_into(sessions::table).values(new).execute(c).await?;
            audit::append!(c, event);
            Ok::<(), DbError>(())
        })
    }

    /// Removes sessions that ended before `now`. Answers how many.
    pub async fn remove_ended(conn: &mut Conn, now: Timestamp) -> Result<usize, DbError> {
        let over = sessions::table.filter(sessions::expires_at.lt(now));
        Ok(on_conn!(conn, c => diesel::delete(over).execute(c).await)?)
    }
}
