//! The pool of connections: how each database is opened and reached, and what is set on a connection.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use deadpool::managed::{Hook, HookError, Metrics, PoolBuilder};
use diesel::{Connection, ConnectionError, SqliteConnection, connection::SimpleConnection};
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, PoolError as SetupError, RecyclingMethod,
        deadpool::Pool as AsyncPool,
    },
    sync_connection_wrapper::SyncConnectionWrapper,
};
use secrecy::ExposeSecret;
use tokio_postgres::error::SqlState;

use super::{Conn, DbError, SqliteAsync};
use crate::settings::{self, Database};

/// After this long without an acknowledgement a connection to Postgres is dead.
const DEAD_PEER: Duration = Duration::from_secs(15);
/// How long a query waits for a free connection.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// Connections to the one database of this instance.
#[derive(Clone)]
pub enum Pool {
    Postgres {
        pool: AsyncPool<AsyncPgConnection>,
        url: Arc<str>,
        tls: PostgresTls,
    },
    /// Readers, and the one writer. In memory there is a single connection for both.
    Sqlite {
        read: AsyncPool<SqliteAsync>,
        write: AsyncPool<SqliteAsync>,
        /// `None` in memory.
        file: Option<Arc<SqliteFile>>,
    },
}

/// The file that was opened. One that is removed or replaced can still be written to, for nobody to read.
pub struct SqliteFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SqliteFile {
    fn at(path: PathBuf) -> std::io::Result<Self> {
        let identity = Self::identity(&path)?;
        Ok(Self { path, identity })
    }

    fn identity(path: &std::path::Path) -> std::io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path)?;
        Ok((found.dev(), found.ino()))
    }

    pub(super) fn check(&self) -> Result<(), DbError> {
        match Self::identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            _ => Err(DbError::Unavailable(
                "the database file was removed or replaced; restart".into(),
            )),
        }
    }
}

/// How to reach Postgres: with TLS and a verified certificate, or in clear.
#[derive(Clone)]
pub enum PostgresTls {
    Clear,
    Verified(Arc<rustls::ClientConfig>),
}

impl Database {
    /// The file of a SQLite database; `None` for Postgres.
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        let path = self.url.expose_secret().strip_prefix("sqlite://")?;
        Some(PathBuf::from(path.split('?').next().unwrap_or(path)))
    }
}

impl Pool {
    /// Opens the pool; no connection is made for Postgres until one is needed. Call it on the runtime that
    /// lives longest: Postgres connections are driven by tasks there.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if the SQLite file or its directory cannot be made.
    pub fn open(settings: &Database) -> Result<Self, DbError> {
        if !settings.enabled {
            let only = sqlite_pool(":memory:", 1, "")?;
            return Ok(Self::Sqlite { read: only.clone(), write: only, file: None });
        }
        let url = settings.url.expose_secret();
        match settings.sqlite_path() {
            Some(path) => {
                create_private(&path, !url.ends_with("mode=rw"))?;
                let file = path.to_string_lossy();
                Ok(Self::Sqlite {
                    read: sqlite_pool(&file, settings.max_connections, "PRAGMA query_only = ON;")?,
                    write: sqlite_pool(&file, 1, "")?,
                    file: Some(Arc::new(
                        SqliteFile::at(path.clone())
                            .map_err(|error| DbError::Unavailable(error.into()))?,
                    )),
                })
            }
            None => {
                let tls = postgres_tls(settings)?;
                let pool = postgres_pool(url, settings.max_connections, tls.clone(), None)?;
                Ok(Self::Postgres { pool, url: url.into(), tls })
            }
        }
    }

    /// Connections of its own to the same database: who has them waits for nobody else's. Each statement may take so long,
    /// if that is said. On SQLite it is the same pool, which has one writer for all.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if there can be none.
    pub fn apart(&self, connections: usize, longest: Option<Duration>) -> Result<Self, DbError> {
        match self {
            Self::Postgres { url, tls, .. } => Ok(Self::Postgres {
                pool: postgres_pool(url, connections, tls.clone(), longest)?,
                url: url.clone(),
                tls: tls.clone(),
            }),
            Self::Sqlite { .. } => Ok(self.clone()),
        }
    }

    /// A connection to read with.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if none is free or can be made within 5 s.
    pub async fn reader(&self) -> Result<Conn, DbError> {
        Ok(match self {
            Self::Postgres { pool, .. } => Conn::Postgres(pool.get().await?),
            Self::Sqlite { read, .. } => Conn::Sqlite(read.get().await?),
        })
    }

    /// A connection to write with.
    ///
    /// # Errors
    /// As [`Pool::reader`].
    pub async fn writer(&self) -> Result<Conn, DbError> {
        Ok(match self {
            Self::Postgres { pool, .. } => Conn::Postgres(pool.get().await?),
            Self::Sqlite { write, file, .. } => {
                file.as_ref().map_or(Ok(()), |file| file.check())?;
                Conn::Sqlite(write.get().await?)
            }
        })
    }

    /// What it is, as settings name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "postgres",
            Self::Sqlite { file: Some(_), .. } => "sqlite",
            Self::Sqlite { file: None, .. } => "sqlite in memory",
        }
    }

    /// How its connections stand, by what they are for.
    pub fn connections(&self) -> Vec<(&'static str, Connections)> {
        match self {
            Self::Postgres { pool, .. } => vec![("all", Connections::of(pool.status()))],
            Self::Sqlite { read, write, file: Some(_) } => vec![
                ("reading", Connections::of(read.status())),
                ("writing", Connections::of(write.status())),
            ],
            Self::Sqlite { read, .. } => vec![("all", Connections::of(read.status()))],
        }
    }

    /// Closes every connection.
    pub fn close(&self) {
        match self {
            Self::Postgres { pool, .. } => pool.close(),
            Self::Sqlite { read, write, .. } => {
                read.close();
                write.close();
            }
        }
    }
}

/// How a pool's connections stand.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    pub open: usize,
    pub idle: usize,
    pub most: usize,
    /// Who waits for one.
    pub waiting: usize,
}

impl Connections {
    fn of(status: deadpool::Status) -> Self {
        let deadpool::Status { max_size, size, available, waiting } = status;
        Self { open: size, idle: available, most: max_size, waiting }
    }
}

/// Makes the database file with mode 0600, in a directory of mode 0700 (SEC-87).
fn create_private(path: &std::path::Path, create: bool) -> Result<(), DbError> {
    use std::os::unix::fs::OpenOptionsExt;
    let cannot = |error: std::io::Error| {
        let message = format!("{}: {error}", path.display());
        DbError::Unavailable(std::io::Error::new(error.kind(), message).into())
    };
    if create && let Some(directory) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        private_directory(directory).map_err(cannot)?;
    }
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(cannot)
}

/// A directory of mode 0700, with its parents; one that is there stays as it is.
pub fn private_directory(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sqlite_pool(
    file: &str,
    size: usize,
    extra: &'static str,
) -> Result<AsyncPool<SqliteAsync>, DbError> {
    let mut config = ManagerConfig::<SqliteAsync>::default();
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(move |file| {
        let file = file.to_owned();
        Box::pin(async move {
            let opened = tokio::task::spawn_blocking(move || {
                let mut connection = SqliteConnection::establish(&file)?;
                connection
                    .batch_execute(&format!(
                        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                         PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; {extra}"
                    ))
                    .map_err(ConnectionError::CouldntSetupConfiguration)?;
                Ok::<_, ConnectionError>(connection)
            });
            let connection = opened
                .await
                .map_err(|error| ConnectionError::BadConnection(error.to_string()))??;
            Ok(SyncConnectionWrapper::new(connection))
        })
    });
    let pool = builder(AsyncDieselConnectionManager::new_with_config(file, config), size).build();
    pool.map_err(|error| DbError::Unavailable(Box::new(error)))
}

fn postgres_pool(
    url: &str,
    size: usize,
    tls: PostgresTls,
    longest: Option<Duration>,
) -> Result<AsyncPool<AsyncPgConnection>, DbError> {
    let runtime = tokio::runtime::Handle::current();
    let mut config = ManagerConfig::<AsyncPgConnection>::default();
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(move |url| {
        let (url, tls) = (url.to_owned(), tls.clone());
        // The connection's task must not die with the worker that happened to ask first.
        let task = runtime.spawn(async move {
            let mut connection = connect_postgres(&url, &tls).await?;
            if let Some(longest) = longest {
                // A statement that hangs, or a transaction that was left open, would keep others waiting for ever.
                let ms = longest.as_millis();
                let text = format!(
                    "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}"
                );
                connection
                    .batch_execute(&text)
                    .await
                    .map_err(ConnectionError::CouldntSetupConfiguration)?;
            }
            Ok(connection)
        });
        Box::pin(async move {
            task.await.map_err(|error| ConnectionError::BadConnection(error.to_string()))?
        })
    });
    // A connection that was made while the database was read-only can stay so when it no longer is; those are used once.
    // Of them this is known: when the last one was made, in microseconds from here.
    let (start, last) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let made = move |metrics: &Metrics| {
        let after = metrics.created.saturating_duration_since(start);
        u64::try_from(after.as_micros()).unwrap_or(u64::MAX)
    };
    let seen = last.clone();
    let look = Hook::async_fn(move |connection: &mut AsyncPgConnection, metrics: &Metrics| {
        let (seen, made) = (seen.clone(), made(metrics));
        Box::pin(async move {
            let only_read = is_read_only(connection).await;
            if only_read.map_err(|error| HookError::Backend(SetupError::QueryError(error)))? {
                seen.fetch_max(made, Relaxed);
            }
            Ok(())
        })
    });
    let leave = Hook::sync_fn(move |_: &mut AsyncPgConnection, metrics: &Metrics| {
        if made(metrics) > last.load(Relaxed) {
            return Ok(());
        }
        Err(HookError::message("it may be read-only for ever"))
    });
    let manager = AsyncDieselConnectionManager::new_with_config(url, config);
    let pool = builder(manager, size).post_create(look).pre_recycle(leave).build();
    pool.map_err(|error| DbError::Unavailable(Box::new(error)))
}

/// Whether a connection to Postgres can change nothing: the database was set so, or follows another one.
async fn is_read_only(connection: &mut AsyncPgConnection) -> Result<bool, diesel::result::Error> {
    use diesel_async::RunQueryDsl;
    let asked = diesel::dsl::sql::<diesel::sql_types::Bool>(
        "SELECT current_setting('transaction_read_only')::BOOLEAN",
    );
    asked.get_result(connection).await
}

/// One connection of its own, outside the pool.
///
/// # Errors
/// [`ConnectionError::InvalidConnectionUrl`] if the server refuses the role, the password or the database that the URL
/// names, which no wait mends; else [`ConnectionError::BadConnection`].
pub async fn connect_postgres(
    url: &str,
    tls: &PostgresTls,
) -> Result<AsyncPgConnection, ConnectionError> {
    let bad = |error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        let text = format!("{error}{}", cause.unwrap_or_default());
        match error.code() {
            Some(code)
                if code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME =>
            {
                ConnectionError::InvalidConnectionUrl(text)
            }
            _ => ConnectionError::BadConnection(text),
        }
    };
    let mut config: tokio_postgres::Config = url.parse().map_err(bad)?;
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(POOL_WAIT);
    }
    config.application_name("bedrock_proxy");
    // A server that vanished without a word is noticed by the kernel, not by a call that hangs.
    config.tcp_user_timeout(DEAD_PEER);
    match tls {
        PostgresTls::Clear => {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(bad)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
        PostgresTls::Verified(client_config) => {
            let connector =
                tokio_postgres_rustls::MakeRustlsConnect::new(client_config.as_ref().clone());
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            let (client, connection) = config.connect(connector).await.map_err(bad)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
    }
}

/// SEC-88: clear text only on this machine, or where it is allowed by name.
fn postgres_tls(settings: &Database) -> Result<PostgresTls, DbError> {
    use tokio_postgres::config::{Host, SslMode};
    let config: tokio_postgres::Config = settings
        .url
        .expose_secret()
        .parse()
        .map_err(|error: tokio_postgres::Error| DbError::Unavailable(error.into()))?;
    let local = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => settings::is_loopback(name),
    });
    if (local || settings.allow_plaintext) && config.get_ssl_mode() != SslMode::Require {
        return Ok(PostgresTls::Clear);
    }
    let roots = crate::tls::roots(None)
        .map_err(|error| DbError::Unavailable(std::io::Error::other(error).into()))?;
    Ok(PostgresTls::Verified(Arc::new(crate::tls::client(roots, &[]))))
}

fn builder<C>(
    manager: AsyncDieselConnectionManager<C>,
    size: usize,
) -> PoolBuilder<AsyncDieselConnectionManager<C>>
where
    C: diesel_async::pooled_connection::PoolableConnection + 'static,
    AsyncDieselConnectionManager<C>:
        deadpool::managed::Manager<Type = C, Error = SetupError> + Send + Sync,
{
    AsyncPool::builder(manager)
        .max_size(size)
        .runtime(deadpool::Runtime::Tokio1)
        .wait_timeout(Some(POOL_WAIT))
        .create_timeout(Some(POOL_WAIT))
}
