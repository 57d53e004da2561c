//! StreamSupervisor: knows every live stream, and ends those that a shutdown cannot wait for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, Addr, Context, Handler, Message, ResponseActFuture, WrapFuture,
    dev::SendError,
};
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long streams have to say their last words once they are cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A stream began.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Opened {
    pub id: u64,
    pub user_id: i64,
    pub model: String,
    pub cut: CancellationToken,
}

/// A stream ended, however it did.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Closed(pub u64);

/// Wait for the streams to end, and cut those that are left when `within` is over. Answers how many were cut.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Drain {
    pub within: Duration,
}

struct Live {
    user_id: i64,
    model: String,
    since: Instant,
    cut: CancellationToken,
}

pub struct StreamSupervisor {
    live: HashMap<u64, Live>,
    /// The number of live streams, for those who wait for it to fall.
    count: watch::Sender<usize>,
    gauge: IntGauge,
}

impl StreamSupervisor {
    pub fn new(gauge: IntGauge) -> Self {
        Self { live: HashMap::new(), count: watch::Sender::new(0), gauge }
    }

    fn counted(&self) {
        self.count.send_replace(self.live.len());
        self.gauge.set(i64::try_from(self.live.len()).unwrap_or(i64::MAX));
    }

    fn cut_all(&self) -> usize {
        for (id, stream) in &self.live {
            tracing::warn!(
                stream = id,
                user_id = stream.user_id,
                model = stream.model,
                age_seconds = stream.since.elapsed().as_secs(),
                "cutting a stream: the service is stopping"
            );
            stream.cut.cancel();
        }
        self.live.len()
    }
}

impl Actor for StreamSupervisor {
    type Context = Context<Self>;
}

impl Handler<Opened> for StreamSupervisor {
    type Result = ();

    fn handle(&mut self, Opened { id, user_id, model, cut }: Opened, _: &mut Self::Context) {
        self.live.insert(id, Live { user_id, model, since: Instant::now(), cut });
        self.counted();
    }
}

impl Handler<Closed> for StreamSupervisor {
    type Result = ();

    fn handle(&mut self, Closed(id): Closed, _: &mut Self::Context) {
        self.live.remove(&id);
        self.counted();
    }
}

impl Handler<Drain> for StreamSupervisor {
    type Result = ResponseActFuture<Self, usize>;

    fn handle(&mut self, Drain { within }: Drain, _: &mut Self::Context) -> Self::Result {
        let none_left = |mut count: watch::Receiver<usize>, within: Duration| async move {
            let ended = tokio::time::timeout(within, count.wait_for(|count| *count == 0)).await;
            ended.is_ok()
        };
        tracing::info!(streams = self.live.len(), "waiting for live streams");
        let receiver = self.count.subscribe();
        let last = self.count.subscribe();
        Box::pin(none_left(receiver, within).into_actor(self).then(move |ended, actor, _| {
            let cut = if ended { 0 } else { actor.cut_all() };
            async move {
                if cut > 0 {
                    none_left(last, LAST_WORDS).await;
                }
                cut
            }
            .into_actor(actor)
        }))
    }
}

/// Held by a stream's response body; dropping it tells the supervisor, however the stream ended.
pub struct StreamTicket {
    id: u64,
    supervisor: Addr<StreamSupervisor>,
}

impl StreamTicket {
    /// Registers a stream. Answers the token that is cancelled to cut it.
    ///
    /// # Errors
    /// If the supervisor's mailbox is full.
    pub fn register(
        supervisor: Addr<StreamSupervisor>,
        id: u64,
        user_id: i64,
        model: &str,
    ) -> Result<(Self, CancellationToken), SendError<Opened>> {
        let cut = CancellationToken::new();
        supervisor.try_send(Opened { id, user_id, model: model.to_owned(), cut: cut.clone() })?;
        Ok((Self { id, supervisor }, cut))
    }
}

impl Drop for StreamTicket {
    fn drop(&mut self) {
        self.supervisor.do_send(Closed(self.id)); // Drop cannot await, and this must not be lost
    }
}
