//! Secrets that work once, by digest: states of sign-ins and forms that came back, codes for the command line, and device
//! codes. A form is kept as a state is: from the moment when it is used up.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp,
    audit::{Append, Event, Origin},
    in_audited_transaction, in_transaction, on_conn,
    schema::one_time_codes,
    steps::{Steps, Which},
};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = one_time_codes)]
pub struct OneTimeCode {
    pub digest: Vec<u8>,
    pub challenge: Option<String>,
    pub redirect_uri: Option<String>,
    pub user_id: Option<i64>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub denied_at: Option<Timestamp>,
    pub used_at: Option<Timestamp>,
    /// What was made of it.
    pub session_id: Option<String>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
}

#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = one_time_codes)]
pub struct NewCode<'a> {
    pub digest: &'a [u8],
    pub kind: &'a str,
    pub user_code: Option<&'a [u8]>,
    pub challenge: Option<&'a str>,
    pub redirect_uri: Option<&'a str>,
    pub user_id: Option<i64>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub ip_address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

/// A form that may be used once, by somebody.
#[derive(Debug, Clone)]
pub struct Form {
    pub user_id: i64,
    pub digest: Vec<u8>,
    /// Until when it is remembered that it was used.
    pub until: Timestamp,
}

/// What a device is told when it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Nothing is decided; the code is over at this time.
    Pending(Timestamp),
    Denied,
    /// Unknown, used, or over.
    Over,
    Approved(i64),
}

macro_rules! waiting {
    ($user_code:expr, $now:expr) => {
        one_time_codes::table
            .filter(one_time_codes::user_code.eq_any($user_code))
            .filter(one_time_codes::kind.eq("device"))
            .filter(one_time_codes::expires_at.gt($now))
            .filter(one_time_codes::user_id.is_null())
            .filter(one_time_codes::denied_at.is_null())
            .filter(one_time_codes::used_at.is_null())
    };
}

/// A device's code that is good.
macro_rules! of_device {
    ($digest:expr, $now:expr) => {
        one_time_codes::table
            .filter(one_time_codes::digest.eq($digest))
            .filter(one_time_codes::kind.eq("device"))
            .filter(one_time_codes::used_at.is_null())
            .filter(one_time_codes::expires_at.gt($now))
    };
}

/// Inside a transaction: uses a form up. Answers whether it was not used before: of any number of callers, one is told
/// so, and the others wait for it to be kept or given back.
macro_rules! use_form_within {
    ($c:expr, $form:expr, $now:expr) => {{
        let form: &$crate::db::one_time_codes::Form = $form;
        diesel::insert_into(one_time_codes::table)
            .values((
                one_time_codes::digest.eq(&form.digest),
                one_time_codes::kind.eq("state"),
                one_time_codes::user_id.eq(form.user_id),
                one_time_codes::created_at.eq($now),
                one_time_codes::expires_at.eq(form.until),
                one_time_codes::used_at.eq($now),
            ))
            .on_conflict(one_time_codes::digest)
            .do_nothing()
            .execute($c)
            .await?
            > 0
    }};
}
/// Inside the same transaction: notes what was made of a form.
macro_rules! note_made_within {
    ($c:expr, $form:expr, $made:expr) => {{
        let form: &$crate::db::one_time_codes::Form = $form;
        diesel::update(one_time_codes::table.find(&form.digest))
            .set(one_time_codes::session_id.eq($made))
            .execute($c)
            .await?;
    }};
}
pub(super) use {note_made_within, use_form_within};

impl OneTimeCode {
    /// What was made of a form, such as `api_key:7`; `None` if it was not used yet.
    pub async fn made_of(conn: &mut Conn, form: &Form) -> Result<Option<String>, DbError> {
        let query = one_time_codes::table
            .find(&form.digest)
            .filter(one_time_codes::user_id.eq(form.user_id))
            .select(one_time_codes::session_id);
        let made: Option<Option<String>> = on_conn!(conn, c => query.first(c).await.optional())?;
        Ok(made.map(Option::unwrap_or_default))
    }

    /// Marks a state as used. Answers whether it was not before: of any number of callers, one is told so.
    pub async fn use_state(
        conn: &mut Conn,
        digest: &[u8],
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, DbError> {
        let insert = diesel::insert_into(one_time_codes::table)
            .values((
                one_time_codes::digest.eq(digest),
                one_time_codes::kind.eq("state"),
                one_time_codes::created_at.eq(now),
                one_time_codes::expires_at.eq(expires_at),
                one_time_codes::used_at.eq(now),
            ))
            .on_conflict(one_time_codes::digest)
            .do_nothing();
        Ok(on_conn!(conn, c => insert.execute(c).await)? > 0)
    }

    /// Adds a code, unless there are `most` live ones of its kind, with an audit event if somebody decided on it. Answers
    /// whether it did.
    pub async fn create(
        conn: &mut Conn,
        new: &NewCode<'_>,
        most: i64,
        event: Option<Event<'_>>,
    ) -> Result<bool, DbError> {
        let live = one_time_codes::table
            .filter(one_time_codes::kind.eq(new.kind))
            .filter(one_time_codes::expires_at.gt(new.created_at))
            .filter(one_time_codes::used_at.is_null())
            .count();
        let insert = diesel::insert_into(one_time_codes::table).values(new);
        in_audited_transaction!(conn, c => {
            let live: i64 = live.get_result(c).await?;
            if live >= most {
                return Ok(false);
            }
            insert.execute(c).await?;
            if let Some(event) = event {
                c.append(event).await?;
            }
            Ok::<bool, DbError>(true)
        })
    }

    /// Takes a code for the command line; of any number of callers, one gets it. Who comes with a code that was taken
    /// ends the session that was made of it, or keeps it from being made: the code may have been stolen.
    pub async fn take(
        conn: &mut Conn,
        digest: &[u8],
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Option<Self>, DbError> {
        in_audited_transaction!(conn, c => {
            let code = one_time_codes::table
                .filter(one_time_codes::digest.eq(digest))
                .filter(one_time_codes::kind.eq("code"));
            let unused = code
                .filter(one_time_codes::used_at.is_null())
                .filter(one_time_codes::expires_at.gt(now));
            let taken: Option<Self> = diesel::update(unused)
                .set(one_time_codes::used_at.eq(now))
                .returning(Self::as_returning())
                .get_result(c)
                .await
                .optional()?;
            if taken.is_some() {
                return Ok(taken);
            }
            let reused = diesel::update(code).set(one_time_codes::denied_at.eq(now));
            let used: Option<Self> =
                reused.returning(Self::as_returning()).get_result(c).await.optional()?;
            if let Some(Self { user_id: Some(user_id), session_id, .. }) = used {
                if let Some(id) = &session_id {
                    c.end_sessions(user_id, Which::One(id), now).await?;
                }
                c.append(Event {
                    user_id: Some(user_id),
                    object: session_id.map_or("code".to_owned(), |id| format!("session:{id}")),
                    error: Some("code_reused"),
                    ..Event::new(now, "sign_in_code_reused", origin)
                })
                .await?;
            }
            Ok::<Option<Self>, DbError>(None)
        })
    }

    /// The device that waits under a code which a person typed.
    pub async fn waiting(
        conn: &mut Conn,
        user_code: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<Option<Self>, DbError> {
        let query = waiting!(user_code, now);
        let found = on_conn!(conn, c => query.select(Self::as_select()).first(c).await.optional());
        Ok(found?)
    }

    /// A person lets the waiting device in, or not. Answers whether it still waited.
    pub async fn decide(
        conn: &mut Conn,
        user_code: &[Vec<u8>],
        user_id: i64,
        approve: bool,
        now: Timestamp,
        event: Event<'_>,
    ) -> Result<bool, DbError> {
        in_audited_transaction!(conn, c => {
            let changed = if approve {
                let approved = one_time_codes::user_id.eq(user_id);
                diesel::update(waiting!(user_code, now)).set(approved).execute(c).await?
            } else {
                let denied = one_time_codes::denied_at.eq(now);
                diesel::update(waiting!(user_code, now)).set(denied).execute(c).await?
            };
            if changed > 0 {
                c.append(event).await?;
            }
            Ok::<bool, DbError>(changed > 0)
        })
    }

    /// Until when a device's code waits for a decision; `None` if there is one, or no such code. It changes nothing.
    pub async fn undecided(
        conn: &mut Conn,
        digest: &[u8],
        now: Timestamp,
    ) -> Result<Option<Timestamp>, DbError> {
        let query = of_device!(digest, now)
            .filter(one_time_codes::user_id.is_null())
            .filter(one_time_codes::denied_at.is_null())
            .select(one_time_codes::expires_at);
        Ok(on_conn!(conn, c => query.first(c).await.optional())?)
    }

    /// A device asks for what was decided. An approval is given out once.
    pub async fn poll(conn: &mut Conn, digest: &[u8], now: Timestamp) -> Result<Poll, DbError> {
        in_transaction!(conn, c => {
            let code = of_device!(digest, now);
            let found: Option<Self> =
                code.select(Self::as_select()).first(c).await.optional()?;
            let Some(found) = found else { return Ok(Poll::Over) };
            if found.denied_at.is_some() {
                diesel::update(code).set(one_time_codes::used_at.eq(now)).execute(c).await?;
                return Ok(Poll::Denied);
            }
            let Some(user_id) = found.user_id else { return Ok(Poll::Pending(found.expires_at)) };
            let used = one_time_codes::used_at.eq(now);
            let mine = diesel::update(code).set(used).execute(c).await? > 0;
            Ok::<Poll, DbError>(if mine { Poll::Approved(user_id) } else { Poll::Over })
        })
    }

    /// Removes codes whose time was over before `now`. Answers how many.
    pub async fn remove_ended(conn: &mut Conn, now: Timestamp) -> Result<usize, DbError> {
        let over = one_time_codes::table.filter(one_time_codes::expires_at.lt(now));
        Ok(on_conn!(conn, c => diesel::delete(over).execute(c).await)?)
    }
}
