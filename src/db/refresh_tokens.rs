//! Refresh tokens: each is used once, and all of one session are a family that ends together.

use chrono::TimeDelta;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp,
    audit::{Append, Event, Origin},
    in_audited_transaction,
    schema::{refresh_tokens, sessions, users},
    sessions::SessionRecord,
    steps::{Steps, Which},
    users::UserRecord,
};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = refresh_tokens)]
pub struct RefreshTokenData {
    pub id: i64,
    /// The session's id.
    pub family: String,
    pub parent: Option<i64>,
    pub user_id: i64,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = refresh_tokens)]
pub struct NewRefreshToken<'a> {
    /// HMAC of the token.
    pub digest: &'a [u8],
    pub family: &'a str,
    pub parent: Option<i64>,
    pub user_id: i64,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// What became of a refresh.
#[derive(Debug)]
pub enum Refresh {
    Renewed {
        user: UserRecord,
        session_id: String,
        /// Of the successor.
        expires_at: Timestamp,
    },
    /// The token had been used: its family and session have ended.
    Reused,
    Refused(&'static str),
}

/// How long a token may lie unused, and for how long after its use a lost answer may be asked for again.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    pub idle: TimeDelta,
    pub retry: TimeDelta,
}

impl RefreshTokenData {
    /// Uses the token with one of these digests and issues its successor, in one transaction. `rule` judges the person
    /// anew: whether they are an admin, or why they may not go on.
    pub async fn refresh(
        conn: &mut Conn,
        digests: &[Vec<u8>],
        successor: &[u8],
        lives: Lives,
        rule: impl Fn(&UserRecord) -> Result<bool, &'static str> + Sync,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Refresh, DbError> {
        in_audited_transaction!(conn, c => {
            let found: Option<(Self, SessionRecord)> = refresh_tokens::table
                .inner_join(sessions::table)
                .filter(refresh_tokens::digest.eq_any(digests))
                .select((Self::as_select(), SessionRecord::as_select()))
                .first(c)
                .await
                .optional()?;
            let Some((token, session)) = found else { return Ok(Refresh::Refused("unknown")) };
            if session.ended_at.is_some() || session.expires_at <= now {
                return Ok(Refresh::Refused("session_ended"));
            }
            let user: UserRecord =
                users::table.find(token.user_id).select(UserRecord::as_select()).first(c).await?;
            let origin = &Origin { actor: format!("user:{}", user.id), ..origin.clone() };
            let unused = refresh_tokens::used_at.is_null().and(refresh_tokens::revoked_at.is_null());
            let claimed = match token.used_at {
                // In a session that goes on, only one that was replaced as lost is revoked: then somebody has it after all.
                _ if token.revoked_at.is_some() => false,
                None if token.expires_at <= now => return Ok(Refresh::Refused("expired")),
                None => {
                    let this = refresh_tokens::table.find(token.id).filter(unused);
                    let used = refresh_tokens::used_at.eq(now);
                    diesel::update(this).set(used).execute(c).await? > 0
                }
                // The answer may have been lost: then nobody has used the successor, which this one replaces.
                // Of two at once, the later one may have looked at its clock first.
                Some(used_at) if (now - used_at).abs() < lives.retry => {
                    let lost = refresh_tokens::table
                        .filter(refresh_tokens::parent.eq(token.id))
                        .filter(unused);
                    let revoked = refresh_tokens::revoked_at.eq(now);
                    diesel::update(lost).set(revoked).execute(c).await? > 0
                }
                Some(_) => false,
            };
            if !claimed {
                c.end_sessions(user.id, Which::One(&session.id), now).await?;
                c.append(Event {
                    user_id: Some(user.id),
                    object: format!("session:{}", session.id),
                    error: Some("refresh_token_reused"),
                    ..Event::new(now, "refresh_reused", origin)
                })
                .await?;
                return Ok(Refresh::Reused);
            }
            let judged = if user.state == "active" { rule(&user) } else { Err("person_not_active") };
            let admin = match judged {
                Ok(admin) => admin,
                Err(reason) => {
                    c.end_sessions(user.id, Which::One(&session.id), now).await?;
                    c.append(Event {
                        user_id: Some(user.id),
                        object: format!("session:{}", session.id),
                        error: Some(reason),
                        ..Event::new(now, "refresh_refused", origin)
                    })
                    .await?;
                    return Ok(Refresh::Refused(reason));
                }
            };
            c.note_admin(&user, admin, now, origin).await?;
            let expires_at = (now + lives.idle).min(session.expires_at);
            diesel::insert_into(refresh_tokens::table)
                .values(NewRefreshToken {
                    digest: successor,
                    family: &session.id,
                    parent: Some(token.id),
                    user_id: user.id,
                    issued_at: now,
                    expires_at,
                })
                .execute(c)
                .await?;
            diesel::update(sessions::table.find(&session.id))
                .set(sessions::last_seen_at.eq(now))
                .execute(c)
                .await?;
            let user = UserRecord { admin, ..user };
            Ok::<Refresh, DbError>(Refresh::Renewed { user, session_id: session.id, expires_at })
        })
    }
}
