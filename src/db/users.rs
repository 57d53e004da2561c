//! People: those that an identity provider vouches for, and those that an operator made.

mod recheck;

use diesel::{prelude::*, sql_types::Text};
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp,
    audit::{self, Append, Event, Origin},
    in_audited_transaction, on_conn,
    schema::{auth_epoch, users},
    sessions::NewSession,
    steps::{Steps, Which},
};

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = users)]
pub struct UserRecord {
    pub id: i64,
    pub provider: String,
    /// Who it is at the provider; together they are the person's identity.
    pub subject: String,
    /// Lower-case.
    pub email: Option<String>,
    pub email_verified: bool,
    pub display_name: Option<String>,
    /// `active`, `disabled` (by an admin) or `expired` (the provider vouches no more; a sign-in ends that).
    pub state: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub last_login_at: Option<Timestamp>,
    /// What the rule for admins said when it was last applied.
    pub admin: bool,
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
    pub admin: bool,
}

/// A person as a provider describes them at a sign-in.
#[derive(Debug, Clone)]
pub struct Described<'a> {
    pub provider: &'a str,
    pub subject: &'a str,
    pub email: Option<&'a str>,
    pub email_verified: bool,
    pub display_name: Option<&'a str>,
    /// What the rule for admins says of this description.
    pub admin: bool,
}

/// Why a transaction about a person was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    #[error("there is no such person")]
    Unknown,
    #[error("the person is disabled")]
    Disabled,
    #[error("it would leave no active admin")]
    LastAdmin,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<diesel::result::Error> for PersonError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error.into())
    }
}

impl From<audit::Unwritten> for PersonError {
    fn from(error: audit::Unwritten) -> Self {
        Self::Db(error.into())
    }
}

/// By what a list of people is sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    Email,
    #[default]
    CreatedAt,
    LastLoginAt,
}

/// Which people to list, and how.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub state: Option<String>,
    /// Part of an address, a name, or a subject; in lower case.
    pub text: Option<String>,
    pub sort: Sort,
    pub ascending: bool,
}

diesel::define_sql_function! {
    /// The text in lower case.
    fn lower(text: diesel::sql_types::Nullable<Text>) -> diesel::sql_types::Nullable<Text>;
}

macro_rules! filtered {
    ($filter:expr) => {{
        let mut query = users::table.into_boxed();
        if let Some(state) = &$filter.state {
            query = query.filter(users::state.eq(state));
        }
        if let Some(text) = &$filter.text {
            let pattern = contains(text);
            query = query.filter(
                lower(users::email)
                    .like(pattern.clone())
                    .escape('\\')
                    .or(lower(users::display_name).like(pattern.clone()).escape('\\'))
                    .or(lower(users::subject.nullable()).like(pattern).escape('\\')),
            );
        }
        query
    }};
}

/// A pattern for `LIKE` that finds a text anywhere; its own wildcards are letters like others (SEC-102).
pub(super) fn contains(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

impl UserRecord {
    /// The person with this id.
    pub async fn find(conn: &mut Conn, id: i64) -> Result<Option<Self>, DbError> {
        let query = users::table.find(id);
        let found = on_conn!(conn, c => query.select(Self::as_select()).first(c).await.optional());
        Ok(found?)
    }

    /// Those of these ids that there are.
    pub async fn with_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<Self>, DbError> {
        let query = users::table.filter(users::id.eq_any(ids));
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }

    /// When the provider was last asked about a person, if it was.
    pub async fn last_check(conn: &mut Conn, id: i64) -> Result<Option<Timestamp>, DbError> {
        let query = users::table.find(id).select(users::last_idp_check_at);
        let found: Option<Option<Timestamp>> =
            on_conn!(conn, c => query.first(c).await.optional())?;
        Ok(found.flatten())
    }

    /// What these people are called: see [`Self::called`].
    pub async fn names(
        conn: &mut Conn,
        ids: &[i64],
    ) -> Result<std::collections::HashMap<i64, String>, DbError> {
        if ids.is_empty() {
            return Ok(std::collections::HashMap::new());
        }
        let query = users::table.filter(users::id.eq_any(ids));
        let found: Vec<Self> = on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?;
        Ok(found.into_iter().map(|user| (user.id, user.called())).collect())
    }

    /// What pages call somebody: the address, or else the name.
    pub fn called(self) -> String {
        let id = self.id;
        self.email.or(self.display_name).unwrap_or_else(|| format!("person {id}"))
    }

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

    /// Everybody with this address, in any spelling of its letters, proven or not.
    pub async fn with_email(conn: &mut Conn, email: &str) -> Result<Vec<Self>, DbError> {
        on_conn!(conn, c => users::table
            .filter(lower(users::email).eq(email.to_ascii_lowercase()))
            .order(users::id)
            .select(Self::as_select())
            .load(c)
            .await
            .map_err(DbError::from))
    }

    /// Everybody, oldest first, `limit` from `after` (an id) on.
    pub async fn list(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<Self>, DbError> {
        let query = users::table.filter(users::id.gt(after)).order(users::id).limit(limit);
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }

    /// A page of those who pass the filter; whoever lacks what it is sorted by comes last.
    pub async fn page(
        conn: &mut Conn,
        filter: &Filter,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        Ok(on_conn!(conn, c => {
            let mut query = filtered!(filter);
            query = match (filter.sort, filter.ascending) {
                (Sort::Email, true) => {
                    query.order((users::email.is_null(), users::email.asc(), users::id.asc()))
                }
                (Sort::Email, false) => {
                    query.order((users::email.is_null(), users::email.desc(), users::id.desc()))
                }
                (Sort::CreatedAt, true) => query.order((users::created_at.asc(), users::id.asc())),
                (Sort::CreatedAt, false) => {
                    query.order((users::created_at.desc(), users::id.desc()))
                }
                (Sort::LastLoginAt, true) => query.order((
                    users::last_login_at.is_null(),
                    users::last_login_at.asc(),
                    users::id.asc(),
                )),
                (Sort::LastLoginAt, false) => query.order((
                    users::last_login_at.is_null(),
                    users::last_login_at.desc(),
                    users::id.desc(),
                )),
            };
            query.offset(offset).limit(limit).select(Self::as_select()).load(c).await
        })?)
    }

    /// How many pass the filter.
    pub async fn count(conn: &mut Conn, filter: &Filter) -> Result<i64, DbError> {
        Ok(on_conn!(conn, c => filtered!(filter).count().get_result(c).await)?)
    }

    /// Adds a person and the audit event for it, in one transaction.
    ///
    /// # Errors
    /// [`DbError::Query`] with a unique violation if the subject is known already.
    pub async fn create(
        conn: &mut Conn,
        new: &NewUser<'_>,
        event: Event<'_>,
    ) -> Result<Self, DbError> {
        in_audited_transaction!(conn, c => {
            let user: Self = diesel::insert_into(users::table)
                .values(new)
                .returning(Self::as_returning())
                .get_result(c)
                .await?;
            c.append(Event { user_id: Some(user.id), ..event }).await?;
            Ok(user)
        })
    }

    /// A sign-in that a provider vouches for: the person as described now, added if new, and a session, in the place of
    /// `replaced` (the id of one that the same browser had). `seal` makes of the person's id what is kept of the
    /// provider's refresh token; `check_due` is when the provider is to be asked again.
    ///
    /// # Errors
    /// [`PersonError::Disabled`]: then nothing has changed.
    #[expect(clippy::too_many_arguments, reason = "one transaction, and all that goes into it")]
    pub async fn sign_in(
        conn: &mut Conn,
        described: &Described<'_>,
        session: &NewSession<'_>,
        replaced: Option<(i64, &str)>,
        seal: impl Fn(i64) -> Option<Vec<u8>> + Sync,
        check_due: Timestamp,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Self, PersonError> {
        in_audited_transaction!(conn, c => {
            let known: Option<Self> = users::table
                .filter(users::provider.eq(described.provider))
                .filter(users::subject.eq(described.subject))
                .select(Self::as_select())
                .first(c)
                .await
                .optional()?;
            let user: Self = match known {
                Some(user) if user.state == "disabled" => return Err(PersonError::Disabled),
                Some(user) => user,
                None => {
                    // Two first sign-ins at once: the second finds what the first one made.
                    let added: Option<Self> = diesel::insert_into(users::table)
                        .values(NewUser {
                            provider: described.provider,
                            subject: described.subject,
                            email: described.email,
                            email_verified: described.email_verified,
                            display_name: described.display_name,
                            state: "active",
                            created_at: now,
                            updated_at: now,
                            admin: false,
                        })
                        .on_conflict((users::provider, users::subject))
                        .do_nothing()
                        .returning(Self::as_returning())
                        .get_result(c)
                        .await
                        .optional()?;
                    match added {
                        Some(user) => {
                            c.append(Event {
                                user_id: Some(user.id),
                                provider: Some(described.provider),
                                object: format!("user:{}", user.id),
                                metadata: serde_json::json!({ "email": described.email }),
                                ..Event::new(now, "user_created", origin)
                            })
                            .await?;
                            user
                        }
                        None => users::table
                            .filter(users::provider.eq(described.provider))
                            .filter(users::subject.eq(described.subject))
                            .select(Self::as_select())
                            .first(c)
                            .await?,
                    }
                }
            };
            let origin = &Origin { actor: format!("user:{}", user.id), ..origin.clone() };
            let was = user.state;
            // It may have been disabled since it was read.
            let this = users::table.find(user.id).filter(users::state.ne("disabled"));
            let user: Option<Self> = diesel::update(this)
                .set((
                    users::email.eq(described.email),
                    users::email_verified.eq(described.email_verified),
                    users::display_name.eq(described.display_name),
                    users::state.eq("active"),
                    users::updated_at.eq(now),
                    users::last_login_at.eq(now),
                    users::last_idp_check_at.eq(now),
                    users::idp_check_due_at.eq(check_due),
                ))
                .returning(Self::as_returning())
                .get_result(c)
                .await
                .optional()?;
            let user = user.ok_or(PersonError::Disabled)?;
            if was != "active" {
                // Keys that were refused meanwhile are remembered as such.
                c.bump_epoch().await?;
                c.append(Event {
                    user_id: Some(user.id),
                    provider: Some(described.provider),
                    object: format!("user:{}", user.id),
                    metadata: serde_json::json!({ "before": was, "after": "active" }),
                    ..Event::new(now, "user_state_changed", origin)
                })
                .await?;
            }
            if let Some(sealed) = seal(user.id) {
                let kept = users::provider_refresh_token.eq(sealed);
                diesel::update(users::table.find(user.id)).set(kept).execute(c).await?;
            }
            c.note_admin(&user, described.admin, now, origin).await?;
            if let Some((whose, id)) = replaced {
                c.end_sessions(whose, Which::One(id), now).await?;
            }
            let session = NewSession { user_id: user.id, ..session.clone() };
            diesel::insert_into(super::schema::sessions::table).values(&session).execute(c).await?;
            c.append(Event {
                user_id: Some(user.id),
                provider: Some(described.provider),
                object: format!("session:{}", session.id),
                metadata: serde_json::json!({ "kind": session.kind, "email": described.email }),
                ..Event::new(now, "sign_in", origin)
            })
            .await?;
            Ok(Self { admin: described.admin, ..user })
        })
    }

    /// Sets a person's state, with the audit event. Taking access away ends their sessions in the same transaction;
    /// `spare_last_admin` refuses to do so to the only active admin. Answers the person as they are then.
    ///
    /// # Errors
    /// [`PersonError::Unknown`], [`PersonError::LastAdmin`].
    pub async fn set_state(
        conn: &mut Conn,
        id: i64,
        state: &str,
        spare_last_admin: bool,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Self, PersonError> {
        in_audited_transaction!(conn, c => {
            let before: Option<Self> =
                users::table.find(id).select(Self::as_select()).first(c).await.optional()?;
            let before = before.ok_or(PersonError::Unknown)?;
            if before.state == state {
                return Ok(before);
            }
            if spare_last_admin && before.admin && state != "active" {
                let others: i64 = users::table
                    .filter(users::admin.eq(true))
                    .filter(users::state.eq("active"))
                    .filter(users::id.ne(id))
                    .count()
                    .get_result(c)
                    .await?;
                if others == 0 {
                    return Err(PersonError::LastAdmin);
                }
            }
            let after: Self = diesel::update(users::table.find(id))
                .set((users::state.eq(state), users::updated_at.eq(now)))
                .returning(Self::as_returning())
                .get_result(c)
                .await?;
            let mut ended = Vec::new();
            if state != "active" {
                ended = c.end_sessions(id, Which::All, now).await?;
            }
            c.bump_epoch().await?;
            c.append(Event {
                user_id: Some(id),
                object: format!("user:{id}"),
                metadata: serde_json::json!({
                    "before": before.state, "after": state, "sessions_ended": ended.len(),
                }),
                ..Event::new(now, "user_state_changed", origin)
            })
            .await?;
            Ok(after)
        })
    }

    /// Applies the rule for admins to all whom it may concern: who is an admin by the last look, and who has one of
    /// these addresses. Answers how many active admins there are then.
    pub async fn apply_admin_rule(
        conn: &mut Conn,
        emails: &[String],
        admits: impl Fn(&Self) -> bool + Sync,
        now: Timestamp,
    ) -> Result<i64, DbError> {
        let origin = Origin::service();
        in_audited_transaction!(conn, c => {
            let concerned: Vec<Self> = users::table
                .filter(users::admin.eq(true).or(users::email.eq_any(emails)))
                .select(Self::as_select())
                .load(c)
                .await?;
            for user in &concerned {
                c.note_admin(user, admits(user), now, &origin).await?;
            }
            let active = users::table
                .filter(users::admin.eq(true))
                .filter(users::state.eq("active"))
                .count()
                .get_result(c)
                .await?;
            Ok::<i64, DbError>(active)
        })
    }
}

/// The number of changes that took access away, so far.
pub async fn epoch(conn: &mut Conn) -> Result<i64, DbError> {
    let query = auth_epoch::table.select(auth_epoch::epoch);
    Ok(on_conn!(conn, c => query.first(c).await)?)
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn the_wildcards_of_a_search_are_letters() {
        assert_eq!(contains(r"a_b%c\d"), r"%a\_b\%c\\d%");
    }
}
