//! The database: SQLite or Postgres behind one [`Pool`], each query written once. Row types and their
//! queries live in the children, one file a table; nothing here knows the domain.

pub mod api_keys;
pub mod audit;
pub mod jobs;
pub mod levels;
pub mod migrations;
pub mod one_time_codes;
pub mod period;
mod pool;
pub mod prices;
pub mod refresh_tokens;
pub mod retention;
pub mod schema;
pub mod sessions;
mod steps;
pub mod summaries;
pub mod usage;
pub mod users;

use chrono::{NaiveDateTime, SubsecRound, Utc};
use deadpool::managed::{Object, PoolError};
use diesel::SqliteConnection;
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection,
    pooled_connection::{AsyncDieselConnectionManager, PoolError as SetupError},
    sync_connection_wrapper::SyncConnectionWrapper,
};

pub use pool::{Connections, Pool, PostgresTls, connect_postgres, private_directory};

/// A time in UTC, to the millisecond.
pub type Timestamp = NaiveDateTime;

pub type SqliteAsync = SyncConnectionWrapper<SqliteConnection>;

/// The time now, to the millisecond that both databases keep.
pub fn now() -> Timestamp {
    Utc::now().naive_utc().trunc_subsecs(3)
}

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("the database cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the database is read-only")]
    ReadOnly,
    #[error("the audit log cannot be written")]
    Audit(#[source] Box<Self>),
    #[error("a query failed")]
    Query(#[source] diesel::result::Error),
    #[error("{0}")]
    Schema(String),
    #[error("another instance took over the job {0}")]
    LeaseLost(&'static str),
}

impl From<diesel::result::Error> for DbError {
    /// A constraint speaks of the row, a broken statement of this program; everything else that a database says (a full
    /// disk, a lock, a missing right, a shutdown) is about the database, and passes.
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error};
        match error {
            Error::DatabaseError(Kind::ReadOnlyTransaction, _) => Self::ReadOnly,
            Error::DatabaseError(Kind::Unknown, ref details)
                if details.message() == "attempt to write a readonly database" =>
            {
                Self::ReadOnly
            }
            Error::DatabaseError(
                Kind::UniqueViolation
                | Kind::ForeignKeyViolation
                | Kind::RestrictViolation
                | Kind::NotNullViolation
                | Kind::CheckViolation
                | Kind::ExclusionViolation,
                _,
            ) => Self::Query(error),
            Error::DatabaseError(..) | Error::BrokenTransactionManager => {
                Self::Unavailable(Box::new(error))
            }
            other => Self::Query(other),
        }
    }
}

impl From<PoolError<SetupError>> for DbError {
    fn from(error: PoolError<SetupError>) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A connection on loan from the [`Pool`].
#[expect(clippy::large_enum_variant, reason = "a loan is short, and lives on the stack")]
pub enum Conn {
    Postgres(Object<AsyncDieselConnectionManager<AsyncPgConnection>>),
    Sqlite(Object<AsyncDieselConnectionManager<SqliteAsync>>),
}

/// Expands one diesel expression for both databases: `on_conn!(conn, c => query.load(c).await)`.
macro_rules! on_conn {
    ($conn:expr, $c:ident => $query:expr) => {
        match $conn {
            $crate::db::Conn::Postgres(object) => {
                let $c: &mut diesel_async::AsyncPgConnection = &mut *object;
                $query
            }
            $crate::db::Conn::Sqlite(object) => {
                let $c: &mut $crate::db::SqliteAsync = &mut *object;
                $query
            }
        }
    };
}

/// Runs one async closure body in a transaction on either database; on SQLite it takes the write lock at its
/// start, so that it never fails half-way because another process writes.
macro_rules! in_transaction {
    ($conn:expr, $c:ident => $body:expr) => {
        match $conn {
            $crate::db::Conn::Postgres(object) => {
                let connection: &mut diesel_async::AsyncPgConnection = &mut *object;
                diesel_async::AsyncConnection::transaction(connection, async |$c| $body).await
            }
            $crate::db::Conn::Sqlite(object) => {
                let connection: &mut $crate::db::SqliteAsync = &mut *object;
                connection.immediate_transaction(async |$c| $body).await
            }
        }
    };
}

/// As [`in_transaction`], for reading alone: on SQLite it takes no lock, and a reader can do it.
macro_rules! in_reading_transaction {
    ($conn:expr, $c:ident => $body:expr) => {
        $crate::db::on_conn!($conn, connection => {
            diesel_async::AsyncConnection::transaction(connection, async |$c| $body).await
        })
    };
}

/// A transaction that writes into the audit log, or may. It begins by waiting for all others of its kind, on every
/// instance: they change the same rows in many orders, and would else wait for each other in circles. When it is
/// committed, the log is told whose access it took away.
macro_rules! in_audited_transaction {
    ($conn:expr, $c:ident => $body:expr) => {
        $crate::db::audit::told(async {
            $crate::db::in_transaction!($conn, $c => {
                $crate::db::steps::Steps::serialise($c).await?;
                $body
            })
        })
        .await
    };
}
pub(crate) use {in_audited_transaction, in_reading_transaction, in_transaction, on_conn};

/// The versions of a database: its software's, and its schema's (the newest migration that was applied).
#[derive(Debug, diesel::QueryableByName)]
pub struct Versions {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub software: String,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub schema: Option<String>,
}

/// Asks a database for its versions.
///
/// # Errors
/// The failure of the query.
pub async fn versions(conn: &mut Conn) -> Result<Versions, DbError> {
    use diesel_async::RunQueryDsl;
    const SCHEMA: &str = "(SELECT MAX(version) FROM __diesel_schema_migrations) AS schema";
    let software = match conn {
        Conn::Postgres(_) => "current_setting('server_version')",
        Conn::Sqlite(_) => "sqlite_version()",
    };
    let text = format!("SELECT {software} AS software, {SCHEMA}");
    Ok(on_conn!(conn, c => diesel::sql_query(text).get_result(c).await)?)
}

/// Whether the database answers.
///
/// # Errors
/// The failure of the connection or of `SELECT 1`.
pub async fn ping(pool: &Pool) -> Result<(), DbError> {
    if let Pool::Sqlite { file: Some(file), .. } = pool {
        file.check()?;
    }
    let mut conn = pool.reader().await?;
    on_conn!(&mut conn, c => SimpleAsyncConnection::batch_execute(c, "SELECT 1").await)?;
    Ok(())
}
