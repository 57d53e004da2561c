//! What instances tell each other at once. Nobody may rely on it: whoever was not told finds out by themselves.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::{
    Backend, CachedObject, Found, Moment, TypedCache,
    redis::{Away, Redis},
};

/// Between two tries to listen.
const AGAIN: Duration = Duration::from_secs(1);
/// After so long without a word it is listened anew: a connection may be dead and not say so.
const SILENCE: Duration = Duration::from_secs(30);

/// A piece of news. It is sealed as values are, and counts for ten seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CachedObject)]
#[cache(name = "news", ttl = 10)]
pub enum News {
    /// Access was taken away from somebody; the database's count of that stands at this.
    AccessTaken { epoch: i64 },
    /// Whoever has this live stream is to cut it, because an admin says so.
    CutStream { id: u64 },
}

/// What a listener hears.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It listens, from now on; what was told before it may have missed.
    Listening,
    News(News),
}

impl TypedCache {
    /// Tells all instances, this one among them. Without Redis there are no others.
    ///
    /// # Errors
    /// If Redis is away.
    pub async fn tell(&self, news: &News, at: Moment) -> Result<(), Away> {
        let Backend::Redis(redis) = &self.backend else { return Ok(()) };
        let channel = self.keys.all_of::<News>();
        let Some(sealed) = self.seal(&channel, Some(news), at) else { return Ok(()) };
        let told = redis.publish(&channel, &sealed).await;
        self.count(News::NAME, if told.is_ok() { "told" } else { "error" });
        told
    }

    /// Hands on what instances tell, for ever, and connects again whenever it has to. Returns at once without Redis.
    pub async fn listen(self, now: impl Fn() -> Moment, hear: impl Fn(Heard)) {
        let Backend::Redis(redis) = &self.backend else { return };
        let redis: &Arc<Redis> = redis;
        let channel = self.keys.all_of::<News>();
        loop {
            match redis.listen(&channel).await {
                Ok(mut told) => {
                    hear(Heard::Listening);
                    // It ends with silence, or with the connection.
                    while let Ok(Some(message)) = tokio::time::timeout(SILENCE, told.next()).await {
                        let sealed = message.get_payload_bytes().to_vec();
                        let found = self.read(&channel, Ok(Some(sealed.into())), now());
                        if let Found::Value(news) = found {
                            hear(Heard::News(news));
                        }
                    }
                }
                Err(error) => {
                    self.count(News::NAME, "error");
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "nothing is heard of other instances"
                    );
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
