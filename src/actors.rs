//! The actors: who owns which state, how they start, and what the rest of the service holds of them. One that
//! crashes is started again within a second, at the same place.

pub mod auth;
pub mod credentials;
pub mod providers;
pub mod streams;
pub mod summary;
pub mod usage;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, Handler, Message};
use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::{
    auth::{
        keys::Keys,
        policy::{CurrentPolicy, Policy},
        providers::Provider,
        sign_in::Rules,
    },
    bedrock::credentials::{Current, Source},
    cache::{Heard, News, TypedCache},
    db::{DbError, Pool},
    jobs,
    settings::Settings,
    telemetry::Metrics,
    usage::journal::Directory,
};

use auth::{AuthActor, Known, Revalidate, Told};
use credentials::CredentialsActor;
use providers::{ProvidersActor, Reachable};
use streams::{CutOne, StreamSupervisor};
use summary::SummaryScheduler;
use usage::UsageRecorder;

/// Messages that may wait for an actor; a sender that finds its mailbox full is told so.
const MAILBOX: usize = 4096;
/// How often it is looked whether an actor has crashed.
const LOOK: Duration = Duration::from_millis(250);
/// This many crashes within [`CRASH_WINDOW`] end readiness: starting again does not help.
const CRASHES: usize = 3;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// Connections to Postgres for checking credentials and hearing of those that were taken away.
const FOR_AUTH: usize = 2;
/// And for usage rows, for the batch and the prices beside it; a batch that takes longer is tried again.
const FOR_USAGE: usize = 2;
const LONGEST_WRITE: Duration = Duration::from_secs(60);
/// No credential is worth a longer wait than a connection is.
const LONGEST_CHECK: Duration = Duration::from_secs(5);
/// And for jobs, for their work and their leases.
const FOR_JOBS: usize = 4;

/// Are you there?
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ping;

/// Panic, so that a test can see what happens then. Not in release builds.
#[cfg(debug_assertions)]
#[derive(Message)]
#[rtype(result = "()")]
pub struct Crash;

macro_rules! answers_pings {
    ($($actor:ty),*) => {$(
        impl Handler<Ping> for $actor {
            type Result = ();
            fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
        }
        #[cfg(debug_assertions)]
        impl Handler<Crash> for $actor {
            type Result = ();
            fn handle(&mut self, _: Crash, _: &mut Self::Context) {
                panic!("a test asked for it");
            }
        }
    )*};
}
answers_pings!(
    AuthActor,
    CredentialsActor,
    ProvidersActor,
    UsageRecorder,
    StreamSupervisor,
    SummaryScheduler
);

/// Where an actor can be reached, also after it had to be started again.
pub struct Place<A: Actor> {
    current: Arc<ArcSwap<Addr<A>>>,
    start: Arc<dyn Fn() -> Addr<A> + Send + Sync>,
}

impl<A: Actor> Clone for Place<A> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), start: self.start.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> Place<A> {
    /// Starts an actor on a thread; `make` is called again for each new start.
    fn start(thread: ArbiterHandle, make: impl Fn() -> A + Send + Sync + Clone + 'static) -> Self {
        let start = move || {
            let make = make.clone();
            A::start_in_arbiter(&thread, move |context| {
                context.set_mailbox_capacity(MAILBOX);
                make()
            })
        };
        Self { current: Arc::new(ArcSwap::from_pointee(start())), start: Arc::new(start) }
    }

    pub fn address(&self) -> Addr<A> {
        Addr::clone(&self.current.load())
    }

    /// Starts it again if it is gone. Answers whether it was.
    fn revive(&self) -> bool {
        let gone = !self.current.load().connected();
        if gone {
            self.current.store(Arc::new((self.start)()));
        }
        gone
    }
}

/// The actors, and what they publish for reading without a message.
#[derive(Clone)]
pub struct Actors {
    pub auth: Place<AuthActor>,
    pub known: Arc<Known>,
    pub policy: CurrentPolicy,
    pub credentials: Place<CredentialsActor>,
    pub authorization: Current,
    pub providers: Place<ProvidersActor>,
    pub reachable: Reachable,
    pub streams: Place<StreamSupervisor>,
    /// This instance among those that share a cache.
    pub here: Arc<str>,
    pub usage: Place<UsageRecorder>,
    pub summary: Place<SummaryScheduler>,
    unstable: Arc<AtomicBool>,
}

/// The threads that the actors run on; stopped last.
pub struct Threads {
    auth: Arbiter,
    background: Arbiter,
}

impl Threads {
    pub fn stop(&self) {
        self.auth.stop();
        self.background.stop();
    }
}

impl Actors {
    /// Starts them: authentication, credentials and identity providers on one thread, usage, streams and jobs on another, so
    /// that a slow write never delays a sign-in. Credentials, usage and jobs have connections of their own to the
    /// database, so that requests never delay them. `tls` verifies identity providers.
    ///
    /// # Errors
    /// The database's, if there can be no connections to it.
    #[expect(clippy::too_many_arguments, reason = "startup makes each of them for it")]
    pub fn start(
        settings: &Settings,
        pool: &Pool,
        cache: &TypedCache,
        keys: &Arc<Keys>,
        journal: Option<Arc<Directory>>,
        tls: &Arc<rustls::ClientConfig>,
        rules: &Arc<jobs::Rules>,
        metrics: &Metrics,
    ) -> Result<(Self, Threads), DbError> {
        let threads = Threads { auth: Arbiter::new(), background: Arbiter::new() };
        let known = Arc::new(Known::new(&settings.cache, &settings.auth));
        let policy = Policy::current(settings);
        let authorization = Current::default();
        let here: Arc<str> = Uuid::new_v4().simple().to_string().into();

        let streams = {
            let (pool, gauge) = (pool.clone(), metrics.live_streams.clone());
            let (cache, here) = (cache.clone(), here.clone());
            Place::start(threads.background.handle(), move || {
                StreamSupervisor::new(pool.clone(), cache.clone(), here.clone(), gauge.clone())
            })
        };
        let auth = {
            let pool = pool.apart(FOR_AUTH, Some(LONGEST_CHECK))?;
            let (keys, known) = (keys.clone(), known.clone());
            let (streams, metrics, cache) = (streams.clone(), metrics.clone(), cache.clone());
            let policy = policy.clone();
            let tidy_every = Duration::from_secs(settings.cache.cleanup_interval);
            Place::start(threads.auth.handle(), move || {
                AuthActor::new(
                    pool.clone(),
                    cache.clone(),
                    keys.clone(),
                    policy.clone(),
                    known.clone(),
                    streams.clone(),
                    tidy_every,
                    metrics.clone(),
                )
            })
        };
        let reachable = Reachable::default();
        let providers = {
            let (pool, keys, tls) = (pool.clone(), keys.clone(), tls.clone());
            let (recheck, reachable) =
                (Rules::new(settings, policy.clone()).recheck(), reachable.clone());
            let written = settings.oauth.clone();
            Place::start(threads.auth.handle(), move || {
                let enabled = written.enabled().map(|(name, given)| Provider::new(name, given));
                ProvidersActor::new(
                    enabled.collect(),
                    tls.clone(),
                    pool.clone(),
                    keys.clone(),
                    recheck,
                    reachable.clone(),
                )
            })
        };
        let credentials = {
            let (source, current) = (Source::new(&settings.aws), authorization.clone());
            Place::start(threads.auth.handle(), move || {
                CredentialsActor::new(source.clone(), current.clone())
            })
        };
        let usage = {
            let pool = pool.apart(FOR_USAGE, Some(LONGEST_WRITE))?;
            let (settings, metrics) = (settings.usage.clone(), metrics.clone());
            let cache = cache.clone();
            Place::start(threads.background.handle(), move || {
                UsageRecorder::new(
                    pool.clone(),
                    cache.clone(),
                    journal.clone(),
                    &settings,
                    metrics.clone(),
                )
            })
        };
        let summary = {
            let pool = pool.apart(FOR_JOBS, None)?;
            let (rules, metrics) = (rules.clone(), metrics.clone());
            Place::start(threads.background.handle(), move || {
                SummaryScheduler::new(pool.clone(), rules.clone(), metrics.clone())
            })
        };
        let unstable = Arc::default();
        let actors = Self {
            auth,
            known,
            policy,
            credentials,
            authorization,
            providers,
            reachable,
            streams,
            here,
            usage,
            summary,
            unstable,
        };
        Ok((actors, threads))
    }

    /// What another instance told. Whoever is too busy for it finds out by themselves, or is asked again.
    pub fn hear(&self, heard: Heard) {
        let full = match heard {
            Heard::Listening => self.auth.address().try_send(Revalidate).is_err(),
            Heard::News(News::AccessTaken { epoch }) => {
                self.auth.address().try_send(Told { epoch }).is_err()
            }
            Heard::News(News::CutStream { id }) => {
                self.streams.address().try_send(CutOne(id)).is_err()
            }
        };
        if full {
            tracing::warn!("an actor has no room for what another instance told");
        }
    }

    /// Starts crashed actors again, for ever (REL-29).
    pub async fn keep_alive(self) {
        let mut crashes: VecDeque<Instant> = VecDeque::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let revived = [
                ("auth", self.auth.revive()),
                ("credentials", self.credentials.revive()),
                ("providers", self.providers.revive()),
                ("usage", self.usage.revive()),
                ("streams", self.streams.revive()),
                ("summary", self.summary.revive()),
            ];
            for (actor, _) in revived.iter().filter(|(_, revived)| *revived) {
                tracing::error!(actor, "an actor had crashed and was started again");
                crashes.push_back(Instant::now());
            }
            while crashes.front().is_some_and(|crash| crash.elapsed() > CRASH_WINDOW) {
                crashes.pop_front();
            }
            self.unstable.store(crashes.len() >= CRASHES, SeqCst);
        }
    }

    /// Whether actors crash again and again.
    pub fn are_unstable(&self) -> bool {
        self.unstable.load(SeqCst)
    }
}
