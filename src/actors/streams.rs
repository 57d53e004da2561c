//! StreamSupervisor: knows every live stream, and ends those that a shutdown cannot wait for, those whose caller has
//! lost access, and those that an admin cuts.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult,
    ResponseActFuture, WrapFuture, dev::SendError,
};
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{self, CredentialId, Identity},
    cache::{CachedObject, Moment, Structural, TypedCache},
    db::{self, Pool, Timestamp},
    jobs,
    usage::call::Progress,
};

/// How long streams have to say their last words once they are cut.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Looking for streams of those who lost access is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often an instance tells others what streams here.
const TELL: Duration = Duration::from_secs(1);
/// So many streams of one instance are told to others at most, the newest.
const TOLD: usize = 2_000;
/// A stream may be opened by a call that was let in so long before somebody lost access.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// What cuts a stream, and says why.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    pub token: CancellationToken,
    why: Arc<AtomicU8>,
}

/// Why a stream is cut from our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The service stops.
    Shutdown,
    /// The caller lost access.
    Revoked,
    /// An admin ended this one stream.
    Admin,
}

impl From<CancellationToken> for Cut {
    fn from(token: CancellationToken) -> Self {
        Self { token, ..Self::default() }
    }
}

impl Cut {
    /// Why, once it is.
    pub fn why(&self) -> Why {
        match self.why.load(SeqCst) {
            1 => Why::Revoked,
            2 => Why::Admin,
            _ => Why::Shutdown,
        }
    }

    /// Cuts; who is first says why.
    fn now(&self, why: Why) {
        if self.token.is_cancelled() {
            return;
        }
        let number = match why {
            Why::Shutdown => 0,
            Why::Revoked => 1,
            Why::Admin => 2,
        };
        self.why.store(number, SeqCst);
        self.token.cancel();
    }
}

/// A stream began.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Opened {
    pub id: u64,
    pub user_id: i64,
    pub credential: CredentialId,
    /// As it is priced.
    pub model: String,
    /// Where the call goes.
    pub region: String,
    pub progress: Arc<Progress>,
    pub cut: Cut,
}

/// Which streams are live? Those of one person, if it is given; the newest first.
#[derive(Message)]
#[rtype(result = "Vec<LiveStream>")]
pub struct List {
    pub user_id: Option<i64>,
}

/// Is this stream live?
#[derive(Message)]
#[rtype(result = "Option<LiveStream>")]
pub struct Find(pub u64);

/// Cut this stream, because an admin says so. Answers whether it was live.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct CutOne(pub u64);

/// What streams on one instance, for the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize, CachedObject)]
#[cache(name = "streams", ttl = 5)]
pub struct LiveStreams {
    /// The newest first.
    pub streams: Vec<LiveStream>,
}

/// A live stream, as it is at the moment.
#[derive(Debug, Clone, Serialize, Deserialize, Structural)]
pub struct LiveStream {
    pub id: u64,
    pub user_id: i64,
    pub model: String,
    pub region: String,
    /// Where it streams, as leases and runs name it.
    pub instance: String,
    pub started_at: Timestamp,
    /// Events from upstream so far.
    pub events: u64,
    /// As upstream reported so far; `None` = it has not yet.
    pub output_tokens: Option<i64>,
    /// It is being cut already.
    pub ending: bool,
}

impl LiveStream {
    /// The newest first.
    pub fn sort(streams: &mut [Self]) {
        streams.sort_unstable_by_key(|stream| std::cmp::Reverse((stream.started_at, stream.id)));
    }
}

/// Somebody lost access: look whose streams are live.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AccessTaken;

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
    credential: CredentialId,
    model: String,
    region: String,
    since: Instant,
    started_at: Timestamp,
    progress: Arc<Progress>,
    cut: Cut,
}

impl Live {
    fn told(&self, id: u64) -> LiveStream {
        LiveStream {
            id,
            user_id: self.user_id,
            model: self.model.clone(),
            region: self.region.clone(),
            instance: jobs::instance(),
            started_at: self.started_at,
            events: self.progress.events(),
            output_tokens: self.progress.output_tokens(),
            ending: self.cut.token.is_cancelled(),
        }
    }
}

pub struct StreamSupervisor {
    pool: Pool,
    /// Where other instances look what streams here, under this name.
    cache: TypedCache,
    here: Arc<str>,
    /// What they were told last was that nothing does.
    told_of_none: bool,
    /// When it was last told that somebody lost access.
    taken: Option<Instant>,
    /// It is being looked who did; what is told meanwhile is for the next look.
    looking: bool,
    again: bool,
    live: HashMap<u64, Live>,
    /// The number of live streams, for those who wait for it to fall.
    count: watch::Sender<usize>,
    gauge: IntGauge,
}

impl StreamSupervisor {
    pub fn new(pool: Pool, cache: TypedCache, here: Arc<str>, gauge: IntGauge) -> Self {
        Self {
            pool,
            cache,
            here,
            told_of_none: true,
            taken: None,
            looking: false,
            again: false,
            live: HashMap::new(),
            count: watch::Sender::new(0),
            gauge,
        }
    }

    fn counted(&self) {
        self.count.send_replace(self.live.len());
        self.gauge.set(i64::try_from(self.live.len()).unwrap_or(i64::MAX));
    }

    /// The newest first.
    fn list(&self, user_id: Option<i64>) -> Vec<LiveStream> {
        let asked = |live: &Live| user_id.is_none_or(|user_id| live.user_id == user_id);
        let live = self.live.iter().filter(|(_, live)| asked(live));
        let mut streams: Vec<LiveStream> = live.map(|(id, live)| live.told(*id)).collect();
        LiveStream::sort(&mut streams);
        streams
    }

    /// Tells other instances what streams here.
    fn tell(&mut self, context: &mut Context<Self>) {
        let none = self.live.is_empty();
        if std::mem::replace(&mut self.told_of_none, none) && none {
            return;
        }
        let mut streams = self.list(None);
        streams.truncate(TOLD);
        let (cache, here) = (self.cache.clone(), self.here.clone());
        let told = async move {
            let at = Moment { now: db::now(), generation: 0 };
            cache.post(&here, &LiveStreams { streams }, at).await;
        };
        context.spawn(told.into_actor(self));
    }

    /// Looks once for all who hold live streams, whoever asks meanwhile.
    fn look(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.looking, true) {
            self.again = true;
            return;
        }
        let mut held: Vec<(i64, CredentialId)> = Vec::new();
        for stream in self.live.values() {
            let holder = (stream.user_id, stream.credential.clone());
            if !held.contains(&holder) {
                held.push(holder);
            }
        }
        let pool = self.pool.clone();
        let look = async move { auth::lost_access(&pool, held).await };
        context.spawn(look.into_actor(self).map(|lost, actor, context| {
            actor.looking = false;
            match lost {
                Ok(lost) => actor.cut_revoked(&lost),
                Err(error) => {
                    tracing::warn!(%error, "live streams could not be checked; trying again");
                    context.notify_later(AccessTaken, LOOK_AGAIN);
                }
            }
            if std::mem::take(&mut actor.again) {
                actor.look(context);
            }
        }));
    }

    fn cut_revoked(&self, lost: &[(i64, CredentialId)]) {
        let revoked = |stream: &Live| {
            lost.iter().any(|(user, credential)| {
                *user == stream.user_id && *credential == stream.credential
            })
        };
        for (id, stream) in self.live.iter().filter(|(_, stream)| revoked(stream)) {
            let credential = stream.credential.to_string();
            tracing::warn!(
                stream = id,
                user_id = stream.user_id,
                credential,
                "ending a stream: its caller lost access"
            );
            stream.cut.now(Why::Revoked);
        }
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
            stream.cut.now(Why::Shutdown);
        }
        self.live.len()
    }
}

impl Actor for StreamSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if self.cache.is_shared() {
            context.run_interval(TELL, Self::tell);
        }
    }
}

impl Handler<Opened> for StreamSupervisor {
    type Result = ();

    fn handle(&mut self, opened: Opened, context: &mut Self::Context) {
        let Opened { id, user_id, credential, model, region, progress, cut } = opened;
        let (since, started_at) = (Instant::now(), db::now());
        let live = Live { user_id, credential, model, region, since, started_at, progress, cut };
        self.live.insert(id, live);
        self.counted();
        if self.taken.is_some_and(|taken| taken.elapsed() < ON_ITS_WAY) {
            self.look(context);
        }
    }
}

impl Handler<AccessTaken> for StreamSupervisor {
    type Result = ();

    fn handle(&mut self, _: AccessTaken, context: &mut Self::Context) {
        self.taken = Some(Instant::now());
        self.look(context);
    }
}

impl Handler<Closed> for StreamSupervisor {
    type Result = ();

    fn handle(&mut self, Closed(id): Closed, _: &mut Self::Context) {
        self.live.remove(&id);
        self.counted();
    }
}

impl Handler<List> for StreamSupervisor {
    type Result = MessageResult<List>;

    fn handle(&mut self, List { user_id }: List, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.list(user_id))
    }
}

impl Handler<Find> for StreamSupervisor {
    type Result = Option<LiveStream>;

    fn handle(&mut self, Find(id): Find, _: &mut Self::Context) -> Self::Result {
        self.live.get(&id).map(|live| live.told(id))
    }
}

impl Handler<CutOne> for StreamSupervisor {
    type Result = bool;

    fn handle(&mut self, CutOne(id): CutOne, _: &mut Self::Context) -> Self::Result {
        let Some(stream) = self.live.get(&id) else { return false };
        tracing::warn!(
            stream = id,
            user_id = stream.user_id,
            model = stream.model,
            "ending a stream: an admin cuts it"
        );
        stream.cut.now(Why::Admin);
        true
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
    progress: Arc<Progress>,
    supervisor: Addr<StreamSupervisor>,
}

impl StreamTicket {
    /// Registers a stream. Answers what cuts it.
    ///
    /// # Errors
    /// If the supervisor's mailbox is full.
    pub fn register(
        supervisor: Addr<StreamSupervisor>,
        id: u64,
        identity: &Identity,
        model: &str,
        region: &str,
    ) -> Result<(Self, Cut), Box<SendError<Opened>>> {
        let (cut, progress) = (Cut::default(), Arc::<Progress>::default());
        let opened = Opened {
            id,
            user_id: identity.user_id,
            credential: identity.credential.clone(),
            model: model.to_owned(),
            region: region.to_owned(),
            progress: progress.clone(),
            cut: cut.clone(),
        };
        supervisor.try_send(opened).map_err(Box::new)?;
        Ok((Self { id, progress, supervisor }, cut))
    }

    /// Where the call tells how far it is.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }
}

impl Drop for StreamTicket {
    fn drop(&mut self) {
        self.supervisor.do_send(Closed(self.id)); // Drop cannot await, and this must not be lost
    }
}
