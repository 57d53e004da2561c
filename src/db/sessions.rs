//! Sessions: what an access token or a browser's cookie stands on.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp,
    audit::{Append, Event, Origin},
    in_audited_transaction, in_transaction, on_conn,
    refresh_tokens::NewRefreshToken,
    schema::{one_time_codes, refresh_tokens, sessions, users},
    steps::{Steps, Which},
    users::UserRecord,
};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = sessions)]
pub struct SessionRecord {
    pub id: String,
    pub user_id: i64,
    /// `browser` or `cli`.
    pub kind: String,
    /// HMAC of the browser's cookie; `None` for the command line.
    pub digest: Option<Vec<u8>>,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
}

#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = sessions)]
pub struct NewSession<'a> {
    pub id: &'a str,
    pub user_id: i64,
    pub kind: &'a str,
    pub digest: Option<&'a [u8]>,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub expires_at: Timestamp,
    pub ip_address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

impl<'a> NewSession<'a> {
    /// A session that begins now, for whoever `origin` says.
    pub fn starting(
        id: &'a str,
        user_id: i64,
        kind: &'a str,
        now: Timestamp,
        expires_at: Timestamp,
        origin: &'a Origin,
    ) -> Self {
        Self {
            id,
            user_id,
            kind,
            digest: None,
            created_at: now,
            last_seen_at: now,
            expires_at,
            ip_address: origin.ip_address.as_deref(),
            user_agent: origin.user_agent.as_deref(),
        }
    }
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

    /// The session with one of these digests and its person, in whatever state they are.
    pub async fn by_digest(
        conn: &mut Conn,
        digests: &[Vec<u8>],
    ) -> Result<Option<(Self, UserRecord)>, DbError> {
        let query =
            sessions::table.inner_join(users::table).filter(sessions::digest.eq_any(digests));
        Ok(on_conn!(conn, c => {
            query.select((Self::as_select(), UserRecord::as_select())).first(c).await.optional()
        })?)
    }

    /// Of these sessions, those that somebody ended, or whose person is not active.
    pub async fn taken_away(conn: &mut Conn, ids: &[&str]) -> Result<Vec<String>, DbError> {
        let query = sessions::table
            .inner_join(users::table)
            .filter(sessions::id.eq_any(ids))
            .filter(sessions::ended_at.is_not_null().or(users::state.ne("active")))
            .select(sessions::id);
        Ok(on_conn!(conn, c => query.load(c).await)?)
    }

    /// A person's live sessions, the last seen first.
    pub async fn live(
        conn: &mut Conn,
        user_id: i64,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        let query = sessions::table
            .filter(sessions::user_id.eq(user_id))
            .filter(sessions::ended_at.is_null())
            .filter(sessions::expires_at.gt(now))
            .order((sessions::last_seen_at.desc(), sessions::id))
            .limit(limit);
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }

    /// Starts a session of an active person, with its first refresh token if it has one, and its audit event. `code` is
    /// the digest of the code that it is made of, which must not have come a second time meanwhile. Answers whether it
    /// was started.
    pub async fn create(
        conn: &mut Conn,
        new: &NewSession<'_>,
        refresh: Option<&NewRefreshToken<'_>>,
        code: Option<&[u8]>,
        event: Event<'_>,
    ) -> Result<bool, DbError> {
        in_audited_transaction!(conn, c => {
            let state: Option<String> =
                users::table.find(new.user_id).select(users::state).first(c).await.optional()?;
            if state.as_deref() != Some("active") {
                return Ok(false);
            }
            if let Some(code) = code {
                let sound =
                    one_time_codes::table.find(code).filter(one_time_codes::denied_at.is_null());
                let became = one_time_codes::session_id.eq(new.id);
                if diesel::update(sound).set(became).execute(c).await? == 0 {
                    return Ok(false);
                }
            }
            diesel::insert_into(sessions::table).values(new).execute(c).await?;
            if let Some(refresh) = refresh {
                diesel::insert_into(refresh_tokens::table).values(refresh).execute(c).await?;
            }
            c.append(event).await?;
            Ok::<bool, DbError>(true)
        })
    }

    /// Ends one of a person's sessions, or all of them, with everything that stands on them. Answers how many were live;
    /// without any there is no event.
    pub async fn end(
        conn: &mut Conn,
        user_id: i64,
        one: Option<&str>,
        event: Event<'_>,
    ) -> Result<usize, DbError> {
        in_audited_transaction!(conn, c => {
            let which = one.map_or(Which::All, Which::One);
            let ended = c.end_sessions(user_id, which, event.at).await?;
            if !ended.is_empty() {
                let object = match ended.as_slice() {
                    [id] => format!("session:{id}"),
                    _ => format!("user:{user_id}"),
                };
                let metadata = serde_json::json!({ "sessions_ended": ended.len() });
                c.append(Event { object, metadata, user_id: Some(user_id), ..event }).await?;
            }
            Ok::<usize, DbError>(ended.len())
        })
    }

    /// Ends all sessions of everybody, with everything that stands on them. Answers how many were live; there is an event
    /// in any case, as what is allowed and was not fetched yet ends, too.
    pub async fn end_every(conn: &mut Conn, event: Event<'_>) -> Result<usize, DbError> {
        in_audited_transaction!(conn, c => {
            let ended = c.end_every_session(event.at).await?;
            let metadata = serde_json::json!({ "sessions_ended": ended });
            c.append(Event { object: "sessions".to_owned(), metadata, ..event }).await?;
            Ok::<usize, DbError>(ended)
        })
    }

    /// Notes that a session is in use.
    pub async fn touch(conn: &mut Conn, id: &str, now: Timestamp) -> Result<(), DbError> {
        let update = diesel::update(sessions::table.find(id)).set(sessions::last_seen_at.eq(now));
        on_conn!(conn, c => update.execute(c).await)?;
        Ok(())
    }

    /// Removes sessions whose time was over before `now`, and their refresh tokens. Answers how many.
    pub async fn remove_ended(conn: &mut Conn, now: Timestamp) -> Result<usize, DbError> {
        in_transaction!(conn, c => {
            let over = sessions::table.filter(sessions::expires_at.lt(now));
            let tokens = refresh_tokens::table
                .filter(refresh_tokens::family.eq_any(over.select(sessions::id)));
            diesel::delete(tokens).execute(c).await?;
            Ok::<usize, DbError>(diesel::delete(over).execute(c).await?)
        })
    }
}
