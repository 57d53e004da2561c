//! Steps that several transactions share. Each is written once for both connections, and runs inside a transaction that
//! is open already.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    DbError, SqliteAsync, Timestamp,
    audit::{Append, Event, Origin},
    schema::{auth_epoch, one_time_codes, refresh_tokens, sessions, users},
    users::UserRecord,
};

/// Which sessions of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which<'a> {
    All,
    Browser,
    One(&'a str),
}

pub(crate) trait Steps: Append {
    /// Waits until no other transaction holds this lock, and keeps them waiting. It comes first in a transaction, before
    /// any row is touched: see [`super::in_audited_transaction`].
    async fn serialise(&mut self) -> Result<(), DbError>;

    /// Tells every instance that some access was taken away.
    async fn bump_epoch(&mut self) -> Result<(), DbError>;

    /// Ends sessions of a person, and the refresh tokens that belong to them. Answers the ids of those that were live.
    async fn end_sessions(
        &mut self,
        user_id: i64,
        which: Which<'_>,
        now: Timestamp,
    ) -> Result<Vec<String>, DbError>;

    /// Ends everybody's sessions and refresh tokens, and what would become such. Answers how many sessions were live.
    async fn end_every_session(&mut self, now: Timestamp) -> Result<usize, DbError>;

    /// Writes down whether a person is an admin. A change ends their sessions in browsers: the next has a new id.
    async fn note_admin(
        &mut self,
        user: &UserRecord,
        admin: bool,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<(), DbError>;
}

macro_rules! steps {
    ($($connection:ty),*) => {$(
        impl Steps for $connection {
            async fn serialise(&mut self) -> Result<(), DbError> {
                let lock = diesel::update(auth_epoch::table).set(auth_epoch::id.eq(1));
                lock.execute(self).await?;
                Ok(())
            }

            async fn bump_epoch(&mut self) -> Result<(), DbError> {
                let next = auth_epoch::epoch.eq(auth_epoch::epoch + 1);
                diesel::update(auth_epoch::table).set(next).execute(self).await?;
                Ok(())
            }

            async fn end_sessions(
                &mut self,
                user_id: i64,
                which: Which<'_>,
                now: Timestamp,
            ) -> Result<Vec<String>, DbError> {
                let mut live = sessions::table
                    .filter(sessions::user_id.eq(user_id))
                    .filter(sessions::ended_at.is_null())
                    .filter(sessions::expires_at.gt(now))
                    .select(sessions::id)
                    .into_boxed();
                match which {
                    Which::All => {}
                    Which::Browser => live = live.filter(sessions::kind.eq("browser")),
                    Which::One(id) => live = live.filter(sessions::id.eq(id)),
                }
                let ids: Vec<String> = live.load(self).await?;
                if which == Which::All {
                    // Nor does what was allowed and not yet fetched become a session.
                    let waiting = one_time_codes::table
                        .filter(one_time_codes::user_id.eq(user_id))
                        .filter(one_time_codes::used_at.is_null());
                    let used = one_time_codes::used_at.eq(now);
                    diesel::update(waiting).set(used).execute(self).await?;
                }
                if !ids.is_empty() {
                    diesel::update(sessions::table.filter(sessions::id.eq_any(&ids)))
                        .set(sessions::ended_at.eq(now))
                        .execute(self)
                        .await?;
                    let tokens = refresh_tokens::table
                        .filter(refresh_tokens::family.eq_any(&ids))
                        .filter(refresh_tokens::revoked_at.is_null());
                    let revoked = refresh_tokens::revoked_at.eq(now);
                    diesel::update(tokens).set(revoked).execute(self).await?;
                    self.bump_epoch().await?;
                }
                Ok(ids)
            }

            async fn end_every_session(&mut self, now: Timestamp) -> Result<usize, DbError> {
                let live = sessions::table
                    .filter(sessions::ended_at.is_null())
                    .filter(sessions::expires_at.gt(now));
                let ended = sessions::ended_at.eq(now);
                let count = diesel::update(live).set(ended).execute(self).await?;
                let tokens = refresh_tokens::table.filter(refresh_tokens::revoked_at.is_null());
                let revoked = refresh_tokens::revoked_at.eq(now);
                diesel::update(tokens).set(revoked).execute(self).await?;
                // What was allowed becomes no session: neither what was not fetched yet, nor what is being made of a code.
                let allowed = one_time_codes::table
                    .filter(one_time_codes::kind.ne("state"))
                    .filter(one_time_codes::user_id.is_not_null())
                    .filter(one_time_codes::session_id.is_null());
                let over = (one_time_codes::used_at.eq(now), one_time_codes::denied_at.eq(now));
                diesel::update(allowed).set(over).execute(self).await?;
                self.bump_epoch().await?;
                Ok(count)
            }

            async fn note_admin(
                &mut self,
                user: &UserRecord,
                admin: bool,
                now: Timestamp,
                origin: &Origin,
            ) -> Result<(), DbError> {
                if user.admin == admin {
                    return Ok(());
                }
                diesel::update(users::table.find(user.id))
                    .set((users::admin.eq(admin), users::updated_at.eq(now)))
                    .execute(self)
                    .await?;
                self.end_sessions(user.id, Which::Browser, now).await?;
                self.bump_epoch().await?;
                let event_type = if admin { "admin_gained" } else { "admin_lost" };
                self.append(Event {
                    user_id: Some(user.id),
                    provider: Some(&user.provider),
                    object: format!("user:{}", user.id),
                    metadata: serde_json::json!({ "before": user.admin, "after": admin }),
                    ..Event::new(now, event_type, origin)
                })
                .await?;
                Ok(())
            }
        }
    )*};
}
steps!(diesel_async::AsyncPgConnection, SqliteAsync);
