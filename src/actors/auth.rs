//! AuthActor: checks credentials, and owns what is known of them. [`Known`] is the cache it fills and every worker
//! reads; a call whose credential is known waits for no other thread.

mod known;

use std::{cell::Cell, collections::HashMap, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use chrono::TimeDelta;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use known::NOTE_USE_MS;
pub use known::{Known, Lookup};

use super::{
    Place,
    streams::{AccessTaken, StreamSupervisor},
};
use crate::{
    auth::{
        self, AuthError, Checked, Credential, CredentialDigest, CredentialId, Identity, ReDigest,
        Refusal,
        keys::Keys,
        policy::{CurrentPolicy, Policy},
    },
    cache::{Moment, News, TypedCache},
    db::{
        self, DbError, Pool, api_keys::ApiKeyRecord, one_time_codes::OneTimeCode,
        sessions::SessionRecord, users,
    },
    telemetry::Metrics,
};

/// How often the database is asked whether access was taken away somewhere.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Keys whose end is noted in one go.
const EXPIRED: i64 = 500;

/// Check this credential. Answers with the identity behind it.
#[derive(Message)]
#[rtype(result = "Result<Arc<Identity>, AuthError>")]
pub struct Authenticate(pub Credential);

/// A key or session was used; worth writing down.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Used(pub CredentialId);

/// Ask the database now whether access was taken away anywhere, and forget what may be outdated. Answers when that
/// is done; the actor does it every second by itself.
#[derive(Message)]
#[rtype(result = "Result<(), Arc<DbError>>")]
pub struct Revalidate;

/// Another instance saw that access was taken away; the epoch stands at this.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Told {
    pub epoch: i64,
}

type Load = Shared<LocalBoxFuture<'static, Result<Arc<Loaded>, AuthError>>>;

/// What a check came to.
struct Loaded {
    checked: Checked,
    /// Whether the database was asked. What comes from the cache holds for as long as the database confirms its epoch.
    afresh: bool,
}

/// From now on others may come in and be admins. Answers when everything that was known by the rules before is forgotten.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Adopt(pub Policy);

pub struct AuthActor {
    pool: Pool,
    /// What other instances checked, too.
    cache: TypedCache,
    keys: Arc<Keys>,
    /// Only this actor changes it.
    policy: CurrentPolicy,
    known: Arc<Known>,
    streams: Place<StreamSupervisor>,
    /// The supervisor of streams is still to be told that access was taken away.
    untold: bool,
    /// Rises whenever entries are forgotten: a check that began before may not be remembered.
    generation: u64,
    /// The last [`users::epoch`] seen.
    epoch: Option<i64>,
    /// The highest epoch that another instance told of.
    told: i64,
    /// Checks under way, so that a hundred calls with one new key ask the database once.
    loading: HashMap<CredentialDigest, Load>,
    /// How often what is over is cleared away.
    tidy_every: Duration,
    metrics: Metrics,
}

impl AuthActor {
    #[expect(clippy::too_many_arguments, reason = "actors.rs makes each of them for it")]
    pub fn new(
        pool: Pool,
        cache: TypedCache,
        keys: Arc<Keys>,
        policy: CurrentPolicy,
        known: Arc<Known>,
        streams: Place<StreamSupervisor>,
        tidy_every: Duration,
        metrics: Metrics,
    ) -> Self {
        Self {
            pool,
            cache,
            keys,
            policy,
            known,
            streams,
            untold: false,
            generation: 0,
            epoch: None,
            told: 0,
            loading: HashMap::new(),
            tidy_every,
            metrics,
        }
    }

    fn load(&mut self, given: &Credential) -> Load {
        let digest = given.digest();
        if let Some(load) = self.loading.get(&digest) {
            return load.clone();
        }
        let (pool, keys, given) = (self.pool.clone(), self.keys.clone(), given.clone());
        let (policy, cache) = (self.policy.load_full(), self.cache.clone());
        let generation = self.cached_from(&given);
        let load = async move {
            let now = db::now();
            let ask = || auth::authenticate(&pool, &keys, &policy.admins, &given, now);
            let asked = Cell::new(false);
            if let Some(generation) = generation {
                let load = async {
                    asked.set(true);
                    ask().await.map(Some)
                };
                let at = Moment { now, generation };
                // Who is an admin is part of it, and other instances may go by another rule, as this one did before.
                let id = [digest, policy.admins.fingerprint()].concat();
                let found = cache.get_or_load::<Checked, _>(id, at, load).await;
                let found = found.map_err(|error| AuthError::clone(&error))?;
                // One that has ended may have been prolonged: the database knows.
                let holds = |checked: &Checked| checked.identity.ends.is_none_or(|end| end > now);
                if let Some(checked) = found.filter(|checked| asked.get() || holds(checked)) {
                    return Ok(Arc::new(Loaded { checked, afresh: asked.get() }));
                }
            }
            Ok(Arc::new(Loaded { checked: ask().await?, afresh: true }))
        };
        let load = load.boxed_local().shared();
        self.loading.insert(digest, load.clone());
        load
    }

    /// The generation of which a cached identity has to be at least; `None` if only the database can say: while it did not
    /// confirm lately that nothing was taken away, and of a kind of credential that is switched off here.
    fn cached_from(&self, given: &Credential) -> Option<i64> {
        let off = matches!(given, Credential::ApiKey(_)) && !self.keys.api_keys_enabled;
        let epoch = self.epoch.filter(|_| !off && self.known.is_confirmed())?;
        Some(epoch.max(self.told))
    }

    /// The only place that fills [`Known`]. What was read before a [`Self::forget_all`] is not written back after it.
    fn remember(
        &self,
        digest: CredentialDigest,
        loaded: &Result<Arc<Loaded>, AuthError>,
        generation: u64,
    ) {
        if generation != self.generation {
            return;
        }
        match loaded {
            Ok(good) => {
                self.known.remember(digest, good.checked.identity.clone(), good.afresh);
            }
            Err(error) => {
                // What is not yet valid may be so in a second.
                let refusal = error.refusal().filter(|refusal| *refusal != Refusal::NotYetValid);
                if let Some(refusal) = refusal {
                    self.known.refuse(digest, refusal);
                }
            }
        }
    }

    fn forget_all(&mut self) {
        self.generation += 1;
        // A check under way still answers those who wait for it, but later calls begin a new one.
        self.loading.clear();
        self.known.forget_all();
    }

    /// Answers the news for other instances, if it is any.
    fn saw_epoch(&mut self, epoch: i64, asked: u64) -> Option<News> {
        let before = self.epoch.replace(epoch);
        if before != Some(epoch) {
            self.forget_all();
        }
        self.known.confirm(asked);
        // A full mailbox is no loss: the supervisor is told at the next look.
        self.untold |= before != Some(epoch);
        if self.untold {
            self.untold = self.streams.address().try_send(AccessTaken).is_err();
        }
        let is_news = before.is_some_and(|before| before < epoch) && self.told < epoch;
        is_news.then_some(News::AccessTaken { epoch })
    }

    /// Tells other instances, in the background: they find out by themselves, a little later.
    fn tell(&self, news: News, context: &mut Context<Self>) {
        let cache = self.cache.clone();
        let told = async move {
            let at = Moment { now: db::now(), generation: 0 };
            if let Err(error) = cache.tell(&news, at).await {
                tracing::warn!(%error, "other instances were not told that access was taken away");
            }
        };
        context.spawn(told.into_actor(self));
    }

    fn write_in_background<F>(&self, context: &mut Context<Self>, what: &'static str, write: F)
    where
        F: AsyncFnOnce(&mut db::Conn) -> Result<(), DbError> + 'static,
    {
        let pool = self.pool.clone();
        let work = async move {
            let written = match pool.writer().await {
                Ok(mut conn) => write(&mut conn).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::warn!(%error, what, "a write in the background failed");
            }
        };
        context.spawn(work.into_actor(self));
    }
}

impl Actor for AuthActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.notify(Revalidate);
        context.run_interval(CHECK_EVERY, |_, context| context.notify(Revalidate));
        context.run_interval(self.tidy_every, |actor, context| {
            actor.known.tidy();
            let now = db::now();
            // Each by itself: one that fails does not keep the others from being done.
            actor.write_in_background(context, "clearing away sessions", async move |conn| {
                SessionRecord::remove_ended(conn, now).await.map(drop)
            });
            actor.write_in_background(context, "clearing away codes", async move |conn| {
                OneTimeCode::remove_ended(conn, now).await.map(drop)
            });
            actor.write_in_background(context, "noting expired keys", async move |conn| {
                ApiKeyRecord::note_expired(conn, now, EXPIRED).await.map(drop)
            });
        });
    }
}

impl Handler<Authenticate> for AuthActor {
    type Result = ResponseActFuture<Self, Result<Arc<Identity>, AuthError>>;

    fn handle(&mut self, Authenticate(given): Authenticate, _: &mut Self::Context) -> Self::Result {
        let (digest, generation, kind) = (given.digest(), self.generation, given.kind());
        let load = self.load(&given);
        Box::pin(load.into_actor(self).map(move |checked, actor, context| {
            // Of all who waited, the first one back does this.
            if generation == actor.generation && actor.loading.remove(&digest).is_some() {
                actor.remember(digest, &checked, generation);
                if let Ok(good) = checked.as_ref().map(|loaded| &loaded.checked) {
                    // After a change everybody is looked up anew; not every look is worth a write.
                    let lately = db::now() - TimeDelta::milliseconds(NOTE_USE_MS.cast_signed());
                    if good.last_used.is_none_or(|last| last < lately) {
                        context.notify(Used(good.identity.credential.clone()));
                    }
                    if let Some(ReDigest { key_id, digest, pepper_id }) = good.re_digest.clone() {
                        actor.write_in_background(
                            context,
                            "moving a key to the current pepper",
                            async move |conn| {
                                ApiKeyRecord::re_digest(conn, key_id, &digest, &pepper_id).await
                            },
                        );
                    }
                }
            }
            let outcome = match &checked {
                Ok(_) => "ok",
                Err(error) => error.refusal().map_or("unavailable", Refusal::as_str),
            };
            actor.metrics.auth.with_label_values(&[kind, outcome]).inc();
            checked.map(|good| Arc::new(good.checked.identity.clone()))
        }))
    }
}

impl Handler<Used> for AuthActor {
    type Result = ();

    fn handle(&mut self, Used(credential): Used, context: &mut Self::Context) {
        self.write_in_background(
            context,
            "noting a last use",
            async move |conn| match credential {
                CredentialId::ApiKey(id) => ApiKeyRecord::touch(conn, id, db::now()).await,
                CredentialId::Token(id) | CredentialId::Cookie(id) => {
                    SessionRecord::touch(conn, &id, db::now()).await
                }
            },
        );
    }
}

impl Handler<Adopt> for AuthActor {
    type Result = ();

    fn handle(&mut self, Adopt(policy): Adopt, _: &mut Self::Context) {
        self.policy.store(Arc::new(policy));
        self.forget_all();
        self.untold = true; // the next look at the database tells the supervisor of streams
    }
}

impl Handler<Revalidate> for AuthActor {
    type Result = ResponseActFuture<Self, Result<(), Arc<DbError>>>;

    fn handle(&mut self, _: Revalidate, _: &mut Self::Context) -> Self::Result {
        let (pool, asked) = (self.pool.clone(), self.known.clock());
        let ask = async move { users::epoch(&mut pool.reader().await?).await };
        Box::pin(ask.into_actor(self).map(move |epoch, actor, context| {
            let epoch = epoch.map_err(Arc::new)?;
            if let Some(news) = actor.saw_epoch(epoch, asked) {
                actor.tell(news, context);
            }
            Ok(())
        }))
    }
}

impl Handler<Told> for AuthActor {
    type Result = ();

    fn handle(&mut self, Told { epoch }: Told, context: &mut Self::Context) {
        self.told = self.told.max(epoch);
        if self.epoch.is_some_and(|known| known < epoch) {
            context.notify(Revalidate);
        }
    }
}

#[cfg(test)]
mod tests;
