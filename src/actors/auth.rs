//! AuthActor: checks credentials, and owns what is known of them. [`Known`] is the cache it fills and every worker
//! reads; a call whose credential is known waits for no other thread.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use chrono::TimeDelta;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use moka::sync::Cache;

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
        self, DbError, Pool, Timestamp, api_keys::ApiKeyRecord, one_time_codes::OneTimeCode,
        sessions::SessionRecord, users,
    },
    settings,
    telemetry::Metrics,
};

/// How often the database is asked whether access was taken away somewhere.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long an unknown credential is remembered, so that repeating it does not reach the database.
const REMEMBER_REFUSAL: Duration = Duration::from_secs(5);
/// The last use of a key or session is written at most this often (SEC-11).
const NOTE_USE_MS: u64 = 60_000;
/// Keys whose end is noted in one go.
const EXPIRED: i64 = 500;

/// Credentials that were checked lately, good and bad.
pub struct Known {
    good: Cache<CredentialDigest, Arc<Entry>>,
    refused: Cache<CredentialDigest, Refusal>,
    start: Instant,
    /// When the database last confirmed that nothing was taken away, in milliseconds since `start`.
    confirmed: AtomicU64,
    max_age_ms: u64,
}

struct Entry {
    identity: Arc<Identity>,
    checked: u64,
    used: AtomicU64,
}

/// What [`Known::get`] can tell.
#[derive(Debug)]
pub enum Lookup {
    /// `note_use`: this use is worth a [`Used`] message.
    Good {
        identity: Arc<Identity>,
        note_use: bool,
    },
    Refused(Refusal),
    Unknown,
}

impl Known {
    pub fn new(cache: &settings::Cache, auth: &settings::Auth) -> Self {
        Self {
            good: Cache::builder()
                .max_capacity(cache.max_entries)
                .time_to_live(Duration::from_secs(cache.validation_ttl))
                .build(),
            refused: Cache::builder()
                .max_capacity(cache.max_entries)
                .time_to_live(REMEMBER_REFUSAL)
                .build(),
            start: Instant::now(),
            confirmed: AtomicU64::new(0),
            max_age_ms: auth.identity_max_age_seconds * 1000,
        }
    }

    /// An entry counts until its credential ends, and no longer than `identity_max_age_seconds` after the database
    /// last confirmed it.
    pub fn get(&self, digest: &CredentialDigest, now: Timestamp) -> Lookup {
        let Some(entry) = self.good.get(digest) else {
            return self.refused.get(digest).map_or(Lookup::Unknown, Lookup::Refused);
        };
        let clock = self.clock();
        let confirmed = entry.checked.max(self.confirmed.load(Relaxed));
        let ended = entry.identity.ends.is_some_and(|end| end <= now);
        if ended || clock.saturating_sub(confirmed) > self.max_age_ms {
            return Lookup::Unknown;
        }
        let used = entry.used.load(Relaxed);
        let due = clock.saturating_sub(used) >= NOTE_USE_MS;
        let note_use = due && entry.used.compare_exchange(used, clock, Relaxed, Relaxed).is_ok();
        Lookup::Good { identity: entry.identity.clone(), note_use }
    }

    /// Identities that are held at the moment, about, and how many there may be.
    pub fn size(&self) -> (u64, u64) {
        let most = self.good.policy().max_capacity().unwrap_or(u64::MAX);
        (self.good.entry_count(), most)
    }

    fn clock(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the database confirmed lately enough that the epoch is what it is.
    fn is_confirmed(&self) -> bool {
        let confirmed = self.confirmed.load(Relaxed);
        confirmed > 0 && self.clock().saturating_sub(confirmed) <= self.max_age_ms
    }

    fn forget_all(&self) {
        self.good.invalidate_all();
        self.refused.invalidate_all();
    }
}

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
                let now = self.known.clock();
                let identity = Arc::new(good.checked.identity.clone());
                let checked = if good.afresh { now } else { 0 };
                // A first use is noted at once, by whoever remembers it.
                let entry = Entry { identity, checked, used: AtomicU64::new(now) };
                self.known.good.insert(digest, Arc::new(entry));
            }
            Err(error) => {
                // What is not yet valid may be so in a second.
                let refusal = error.refusal().filter(|refusal| *refusal != Refusal::NotYetValid);
                if let Some(refusal) = refusal {
                    self.known.good.invalidate(&digest);
                    self.known.refused.insert(digest, refusal);
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
        self.known.confirmed.fetch_max(asked, Relaxed);
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
            actor.known.good.run_pending_tasks();
            actor.known.refused.run_pending_tasks();
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
mod tests {
    use super::*;
    use crate::settings::{Need, Settings};

    const NOW: fn() -> Timestamp = db::now;

    async fn actor() -> AuthActor {
        let secret =
            ("BEDROCK_JWT__SECRET".to_owned(), "a-secret-for-this-test-with-32-bytes".to_owned());
        let memory = ("BEDROCK_DATABASE__ENABLED".to_owned(), "false".to_owned());
        let settings =
            Settings::from_layers(None, [secret, memory].into_iter(), Need::Service).unwrap();
        let known = Arc::new(Known::new(&settings.cache, &settings.auth));
        let keys = Arc::new(Keys::new(&settings).unwrap());
        let pool = Pool::open(&settings.database).unwrap();
        let policy = Policy::current(&settings);
        let tidy_every = Duration::from_secs(settings.cache.cleanup_interval);
        let metrics = Metrics::new().unwrap();
        let gauge = metrics.live_streams.clone();
        let supervised = pool.clone();
        let cache = TypedCache::in_memory(100, 1 << 20, &keys.cache, metrics.clone());
        let shared = cache.clone();
        let streams = Place::start(actix::Arbiter::new().handle(), move || {
            StreamSupervisor::new(supervised.clone(), shared.clone(), "here".into(), gauge.clone())
        });
        AuthActor::new(pool, cache, keys, policy, known, streams, tidy_every, metrics)
    }

    fn loaded(ends: Option<Timestamp>, afresh: bool) -> Result<Arc<Loaded>, AuthError> {
        let credential = CredentialId::ApiKey(3);
        let identity = Identity { user_id: 7, credential, admin: false, ends };
        let checked = Checked { identity, re_digest: None, last_used: None };
        Ok(Arc::new(Loaded { checked, afresh }))
    }

    fn good(ends: Option<Timestamp>) -> Result<Arc<Loaded>, AuthError> {
        loaded(ends, true)
    }

    #[actix_rt::test]
    async fn what_others_checked_holds_as_long_as_the_database_confirms_it() {
        let mut actor = actor().await;
        let given = Credential::parse(&format!("SSOK_{}", "a".repeat(32))).unwrap();
        assert_eq!(actor.cached_from(&given), None, "nothing is known of the database yet");
        actor.remember([5; 32], &loaded(None, false), actor.generation);
        actor.known.confirmed.store(1, Relaxed);
        assert!(matches!(actor.known.get(&[5; 32], NOW()), Lookup::Good { .. }));

        actor.saw_epoch(5, 1);
        assert_eq!(actor.cached_from(&given), Some(5));
        actor.told = 7;
        assert_eq!(actor.cached_from(&given), Some(7), "another instance knows of more");

        actor.known = Arc::new(Known { max_age_ms: 0, ..known_of(&actor) });
        actor.known.confirmed.store(1, Relaxed);
        while actor.known.clock() < 2 {
            std::hint::spin_loop();
        }
        assert_eq!(actor.cached_from(&given), None, "that is too long ago");
        actor.remember([6; 32], &loaded(None, false), actor.generation);
        assert!(matches!(actor.known.get(&[6; 32], NOW()), Lookup::Unknown));
    }

    /// The same, empty.
    fn known_of(actor: &AuthActor) -> Known {
        let (_, most) = actor.known.size();
        let cache = || Cache::builder().max_capacity(most).build();
        let (good, refused) = (cache(), Cache::builder().max_capacity(most).build());
        Known { good, refused, start: Instant::now(), confirmed: AtomicU64::new(0), max_age_ms: 0 }
    }

    #[actix_rt::test]
    async fn only_what_is_new_is_told() {
        let mut actor = actor().await;
        assert_eq!(actor.saw_epoch(5, 0), None, "the first look");
        assert_eq!(actor.saw_epoch(5, 0), None);
        assert_eq!(actor.saw_epoch(6, 0), Some(News::AccessTaken { epoch: 6 }));
        actor.told = 8;
        assert_eq!(actor.saw_epoch(8, 0), None, "another instance told of it");
    }

    #[actix_rt::test]
    async fn a_check_that_began_before_access_was_taken_away_is_not_remembered_after() {
        let mut actor = actor().await;
        let (digest, began) = ([1; 32], actor.generation);
        actor.saw_epoch(5, 0);
        let later = actor.generation;

        actor.remember(digest, &good(None), began);
        assert!(matches!(actor.known.get(&digest, NOW()), Lookup::Unknown));

        actor.remember(digest, &good(None), later);
        assert!(matches!(actor.known.get(&digest, NOW()), Lookup::Good { .. }));
        actor.saw_epoch(5, 0);
        assert!(
            matches!(actor.known.get(&digest, NOW()), Lookup::Good { .. }),
            "nothing was taken away"
        );
        actor.saw_epoch(6, 0);
        assert!(matches!(actor.known.get(&digest, NOW()), Lookup::Unknown));
    }

    #[actix_rt::test]
    async fn an_identity_ends_with_its_credential() {
        let actor = actor().await;
        let end = NOW() + chrono::TimeDelta::seconds(60);

        actor.remember([2; 32], &good(Some(end)), actor.generation);

        assert!(matches!(
            actor.known.get(&[2; 32], end - chrono::TimeDelta::milliseconds(1)),
            Lookup::Good { .. }
        ));
        assert!(matches!(actor.known.get(&[2; 32], end), Lookup::Unknown));
    }

    #[actix_rt::test]
    async fn a_refusal_is_remembered_and_a_database_that_is_away_is_not() {
        let actor = actor().await;
        let away = DbError::Unavailable("away".into());

        actor.remember([3; 32], &Err(AuthError::Refused(Refusal::Unknown)), actor.generation);
        actor.remember([4; 32], &Err(AuthError::from(away)), actor.generation);

        assert!(matches!(actor.known.get(&[3; 32], NOW()), Lookup::Refused(Refusal::Unknown)));
        assert!(matches!(actor.known.get(&[4; 32], NOW()), Lookup::Unknown));
    }

    #[actix_rt::test]
    async fn many_who_ask_at_once_share_one_check() {
        let mut actor = actor().await;
        let given = Credential::parse(&format!("SSOK_{}", "a".repeat(32))).unwrap();

        let (first, second) = (actor.load(&given), actor.load(&given));

        assert!(first.ptr_eq(&second));
        assert_eq!(actor.loading.len(), 1);
    }
}
