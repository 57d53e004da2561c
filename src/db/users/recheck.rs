//! Asking a provider again whether it still vouches for somebody (SEC-44): who is due, and what came of it.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::UserRecord;
use crate::db::{
    Conn, DbError, Timestamp,
    audit::{Append, Event, Origin},
    in_audited_transaction, in_transaction, on_conn,
    schema::users,
    steps::{Steps, Which},
};

impl UserRecord {
    /// People of these providers who are to be asked about by now, those who waited longest first, with what is kept of
    /// the refresh token. Each is due again at `next` of the last time that the provider vouched, whatever comes of it.
    pub async fn take_due_for_check(
        conn: &mut Conn,
        providers: &[String],
        now: Timestamp,
        next: impl Fn(Option<Timestamp>) -> Timestamp + Sync,
        limit: i64,
    ) -> Result<Vec<(Self, Vec<u8>)>, DbError> {
        in_transaction!(conn, c => {
            let due: Vec<(Self, Option<Vec<u8>>, Option<Timestamp>)> = users::table
                .filter(users::idp_check_due_at.le(now))
                .filter(users::state.eq("active"))
                .filter(users::provider.eq_any(providers))
                .filter(users::provider_refresh_token.is_not_null())
                .order(users::idp_check_due_at)
                .limit(limit)
                .select((
                    Self::as_select(),
                    users::provider_refresh_token,
                    users::last_idp_check_at,
                ))
                .load(c)
                .await?;
            let mut taken = Vec::new();
            for (user, sealed, last) in due {
                // Another instance may have been quicker.
                let mine = users::table.find(user.id).filter(users::idp_check_due_at.le(now));
                let later = users::idp_check_due_at.eq(next(last));
                let changed = diesel::update(mine).set(later).execute(c).await?;
                taken.extend(sealed.filter(|_| changed > 0).map(|sealed| (user, sealed)));
            }
            Ok::<_, DbError>(taken)
        })
    }

    /// The provider still vouches for a person: what it gave for the next time, and when that is.
    pub async fn confirmed(
        conn: &mut Conn,
        id: i64,
        asked_with: &[u8],
        sealed: Option<&[u8]>,
        now: Timestamp,
        due: Timestamp,
    ) -> Result<(), DbError> {
        // Who signed in meanwhile has a newer token.
        let this = users::table.find(id).filter(users::provider_refresh_token.eq(asked_with));
        let kept = users::provider_refresh_token.eq(sealed.unwrap_or(asked_with));
        let checked = (users::last_idp_check_at.eq(now), users::idp_check_due_at.eq(due), kept);
        let update = diesel::update(this).set(checked);
        on_conn!(conn, c => update.execute(c).await)?;
        Ok(())
    }

    /// The provider, asked with this token, does not vouch for a person any more: all their access ends, until they sign
    /// in again. Answers whether that was news: who signed in meanwhile has a newer token.
    pub async fn expire(
        conn: &mut Conn,
        user: &Self,
        asked_with: &[u8],
        now: Timestamp,
    ) -> Result<bool, DbError> {
        let origin = Origin::service();
        in_audited_transaction!(conn, c => {
            let this = users::table
                .find(user.id)
                .filter(users::state.eq("active"))
                .filter(users::provider_refresh_token.eq(asked_with));
            let changed = diesel::update(this)
                .set((
                    users::state.eq("expired"),
                    users::updated_at.eq(now),
                    users::last_idp_check_at.eq(now),
                    users::provider_refresh_token.eq(None::<Vec<u8>>),
                    users::idp_check_due_at.eq(None::<Timestamp>),
                ))
                .execute(c)
                .await?;
            if changed == 0 {
                return Ok(false);
            }
            let ended = c.end_sessions(user.id, Which::All, now).await?;
            c.bump_epoch().await?;
            c.append(Event {
                user_id: Some(user.id),
                provider: Some(&user.provider),
                object: format!("user:{}", user.id),
                metadata: serde_json::json!({
                    "before": user.state, "after": "expired", "sessions_ended": ended.len(),
                    "reason": "the provider does not vouch for this person any more",
                }),
                ..Event::new(now, "user_state_changed", &origin)
            })
            .await?;
            Ok::<bool, DbError>(true)
        })
    }
}
