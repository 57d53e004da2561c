//! Values in Redis (or what speaks its protocol): pooled connections that pipeline what is asked at once, short limits of
//! time, and a breaker in front, so that a Redis that is away or slow costs a moment and not every call.
//!
//! It uses no script, and no command that is younger than Redis 2.6.12; it was tried with 7.0. A value is never read further
//! than [`MOST`] bytes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use deadpool::{
    Runtime,
    managed::{Manager as Manages, Metrics, Pool, PoolError, QueueMode, RecycleResult},
};
use deadpool_redis::{
    Manager,
    redis::{
        AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo,
        Pipeline, RedisError, ServerErrorKind,
        aio::{MultiplexedConnection, PubSubStream},
        cmd,
        io::tcp::TcpSettings,
        pipe,
    },
};
use tokio::runtime::Handle;

use super::breaker::Breaker;
use crate::telemetry::causes;

/// The largest value that is written or read, in bytes.
pub const MOST: usize = 1 << 20;
/// Each of them pipelines, so that few do for many calls.
const CONNECTIONS: usize = 2;
/// To connect, with TLS and signing in.
const CONNECT: Duration = Duration::from_secs(1);
/// For an answer.
const ANSWER: Duration = Duration::from_millis(250);

pub struct Redis {
    pool: Pool<Driven>,
    /// For connections that listen.
    client: Client,
    breaker: Breaker,
    /// What the last failure was, with its causes.
    failure: ArcSwap<String>,
    start: Instant,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// With what it failed last.
    #[error("{0}; it is tried again in a moment")]
    Resting(Arc<String>),
    #[error("Redis cannot be reached")]
    Unreachable(#[source] PoolError<RedisError>),
    #[error("Redis did not do it")]
    Failed(#[source] RedisError),
    #[error("a value in Redis is longer than any of ours")]
    TooLong,
    #[error("a count in Redis is none")]
    NoCount,
}

impl Redis {
    /// No connection is made until one is needed. Call it on the runtime that lives longest: connections are driven by
    /// tasks there.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn open(url: &str) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let place = url.into_connection_info()?;
        let place = place.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(place.clone())?;
        let driven = Driven {
            manager: Arc::new(Manager::new_with_config(place, config)?),
            runtime: Handle::current(),
        };
        let pool = Pool::builder(driven)
            .max_size(CONNECTIONS)
            .queue_mode(QueueMode::Fifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ANSWER))
            .create_timeout(Some(CONNECT))
            .build();
        let pool = pool.map_err(|error| {
            RedisError::from((ErrorKind::InvalidClientConfig, "pool", error.to_string()))
        })?;
        Ok(Self {
            pool,
            client,
            breaker: Breaker::default(),
            failure: ArcSwap::default(),
            start: Instant::now(),
        })
    }

    /// # Errors
    /// [`Away`], as from all of these.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Away> {
        let read: Vec<u8> = self.ask(cmd("GETRANGE").arg(key).arg(0).arg(MOST)).await?;
        // Redis gives an empty text for what is not there; none of our values is empty.
        match read.len() {
            0 => Ok(None),
            length if length > MOST => Err(Away::TooLong),
            _ => Ok(Some(read.into())),
        }
    }

    pub async fn put(&self, key: &str, bytes: &[u8], lives: Duration) -> Result<(), Away> {
        self.ask(cmd("SET").arg(key).arg(bytes).arg("PX").arg(milliseconds(lives))).await
    }

    /// Adds one; a count that is new lives so long, whatever is added to it.
    pub async fn increment(&self, key: &str, lives: Duration) -> Result<u64, Away> {
        let mut both = pipe();
        both.atomic();
        both.cmd("SET").arg(key).arg(0).arg("PX").arg(milliseconds(lives)).arg("NX").ignore();
        both.cmd("INCR").arg(key);
        let (count,): (i64,) = self.ask_all(&both).await?;
        u64::try_from(count).map_err(|_| Away::NoCount)
    }

    /// Puts a value beside others, under a name of its own; they are forgotten together.
    pub async fn post(
        &self,
        key: &str,
        name: &str,
        bytes: &[u8],
        lives: Duration,
    ) -> Result<(), Away> {
        let mut both = pipe();
        both.cmd("HSET").arg(key).arg(name).arg(bytes).ignore();
        both.cmd("PEXPIRE").arg(key).arg(milliseconds(lives)).ignore();
        self.ask_all(&both).await
    }

    /// All that was put beside each other, with their names.
    pub async fn posted(&self, key: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Away> {
        self.ask(cmd("HGETALL").arg(key)).await
    }

    pub async fn unpost(&self, key: &str, name: &[u8]) -> Result<(), Away> {
        self.ask(cmd("HDEL").arg(key).arg(name)).await
    }

    /// Tells all who listen.
    pub async fn publish(&self, channel: &str, bytes: &[u8]) -> Result<(), Away> {
        self.ask(cmd("PUBLISH").arg(channel).arg(bytes)).await
    }

    /// What is told from here on, until the connection breaks.
    pub async fn listen(&self, channel: &str) -> Result<PubSubStream, Away> {
        let connect = async {
            let mut listening = self.client.get_async_pubsub().await?;
            listening.subscribe(channel).await?;
            Ok(listening.into_on_message())
        };
        let connected = tokio::time::timeout(CONNECT, connect).await;
        let late = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        connected.map_err(late).flatten().map_err(Away::Failed)
    }

    /// Does it answer?
    /// Writes under this key: a Redis that is full, or follows another one, answers a ping and keeps nothing.
    pub async fn ping(&self, key: &str) -> Result<(), Away> {
        self.ask(cmd("SET").arg(key).arg(1).arg("PX").arg(milliseconds(CONNECT))).await
    }

    pub fn close(&self) {
        self.pool.close();
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        self.with_connection(async |connection| command.query_async(connection).await).await
    }

    async fn ask_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Away> {
        self.with_connection(async |connection| commands.query_async(connection).await).await
    }

    async fn with_connection<T>(
        &self,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        if !self.breaker.lets_through(self.clock()) {
            return Err(Away::Resting(self.failure.load_full()));
        }
        // Given back at once: others may ask on the same connection while this waits for its answer.
        let connection = self.pool.get().await.map(|lent| MultiplexedConnection::clone(&lent));
        let outcome = match connection {
            Ok(mut connection) => ask(&mut connection).await.map_err(Away::Failed),
            Err(error) => Err(Away::Unreachable(error)),
        };
        match &outcome {
            Err(Away::Failed(error)) if answered(error) => self.is_well(),
            Err(error) => {
                let failure = causes(error);
                self.failure.store(Arc::new(failure.clone()));
                if self.breaker.failed(self.clock()) {
                    tracing::warn!(
                        error = failure,
                        "Redis fails; it is left alone for a moment, and values come from the database"
                    );
                }
                // What broke one of them may have broken all.
                self.pool.retain(|_, _| false);
            }
            Ok(_) => self.is_well(),
        }
        outcome
    }

    fn is_well(&self) {
        if self.breaker.succeeded() {
            tracing::info!("Redis is well again");
        }
    }

    fn clock(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether Redis is there and works, though not for this command or key.
fn answered(error: &RedisError) -> bool {
    use ServerErrorKind::{ExecAbort, NoPerm, ReadOnly, ResponseError};
    match error.kind() {
        ErrorKind::UnexpectedReturnType | ErrorKind::Extension => true,
        ErrorKind::Server(kind) => {
            matches!(kind, ResponseError | ExecAbort | ReadOnly | NoPerm)
        }
        _ => false,
    }
}

fn milliseconds(lives: Duration) -> u64 {
    u64::try_from(lives.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Makes connections on one runtime, whoever asks: a connection's task must not die with the worker that happened to ask
/// first.
struct Driven {
    manager: Arc<Manager>,
    runtime: Handle,
}

impl Manages for Driven {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        let manager = self.manager.clone();
        let made = self.runtime.spawn(async move { manager.create().await });
        made.await.map_err(|error| RedisError::from(std::io::Error::other(error)))?
    }

    /// Nothing is asked: a connection that broke shows it at its next use, and is dropped then.
    async fn recycle(
        &self,
        _: &mut MultiplexedConnection,
        _: &Metrics,
    ) -> RecycleResult<RedisError> {
        Ok(())
    }
}
