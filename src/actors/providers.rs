//! ProvidersActor: talks to identity providers. It owns what is known of each (discovery, keys) and the connections to
//! them; nothing of a sign-in outlives its message. Besides, it asks them now and then whether they still vouch for the
//! people who are here.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use arc_swap::ArcSwap;
use chrono::{TimeDelta, Utc};
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    auth::{
        keys::Keys,
        oauth::{self, Discovered, ProviderError, Start, http::Http, profile::Profile},
        providers::Provider,
        sign_in::{Pending, later, whose},
    },
    db::{self, Pool, Timestamp, users::UserRecord},
};

/// What was discovered is good for so long; keys are looked up anew when one is not known.
const REDISCOVER: Duration = Duration::from_secs(3600);
/// How often it is looked whether somebody is to be asked about.
const LOOK: Duration = Duration::from_secs(30);
/// People who are asked about in one go.
const MOST: i64 = 20;
/// A provider that gives no answer about somebody is asked again after so long, at least and at most.
const BACK_OFF: (TimeDelta, TimeDelta) = (TimeDelta::minutes(1), TimeDelta::hours(1));

/// Where is the browser to go? Answers the provider's address.
#[derive(Message)]
#[rtype(result = "Result<String, Arc<ProviderError>>")]
pub struct Begin {
    pub pending: Pending,
    pub redirect_uri: String,
}

/// A browser came back with a code. Answers who it is for.
#[derive(Message)]
#[rtype(result = "Result<Profile, Arc<ProviderError>>")]
pub struct Finish {
    pub pending: Pending,
    pub redirect_uri: String,
    pub code: String,
    /// Whose answer it is, if the provider says so.
    pub iss: Option<String>,
}

/// Ask about everybody who is due. Answers how many are not vouched for any more; it happens every half minute anyway.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Recheck;

/// What the last conversation with each provider came to, for the health check.
pub type Reachable = Arc<ArcSwap<HashMap<String, Result<(), String>>>>;

type Discovery = Shared<LocalBoxFuture<'static, Result<Rc<Discovered>, Arc<ProviderError>>>>;

pub struct ProvidersActor {
    providers: HashMap<String, Rc<Provider>>,
    http: Http,
    pool: Pool,
    keys: Arc<Keys>,
    /// How long a provider's word holds; `None` = for ever.
    recheck: Option<TimeDelta>,
    discovered: HashMap<String, (Discovery, Instant)>,
    reachable: Reachable,
}

impl ProvidersActor {
    /// `tls` verifies the providers' certificates.
    pub fn new(
        providers: Vec<Provider>,
        tls: Arc<rustls::ClientConfig>,
        pool: Pool,
        keys: Arc<Keys>,
        recheck: Option<TimeDelta>,
        reachable: Reachable,
    ) -> Self {
        let named =
            providers.into_iter().map(|provider| (provider.name.clone(), Rc::new(provider)));
        Self {
            providers: named.collect(),
            http: Http::new(tls),
            pool,
            keys,
            recheck,
            discovered: HashMap::new(),
            reachable,
        }
    }

    fn provider(&self, name: &str) -> Result<Rc<Provider>, Arc<ProviderError>> {
        let found = self.providers.get(name).cloned();
        found.ok_or_else(|| Arc::new(ProviderError::Missing("such provider")))
    }

    /// What is known of a provider; asked for once by all who need it.
    fn discover(&mut self, provider: &Rc<Provider>) -> Discovery {
        if let Some((discovery, since)) = self.discovered.get(&provider.name) {
            let failed = discovery.peek().is_some_and(Result::is_err);
            if !failed && since.elapsed() < REDISCOVER {
                return discovery.clone();
            }
        }
        let (http, asked) = (self.http.clone(), provider.clone());
        let discovery =
            async move { oauth::discover(&http, &asked).await.map(Rc::new).map_err(Arc::new) };
        let discovery = discovery.boxed_local().shared();
        self.discovered.insert(provider.name.clone(), (discovery.clone(), Instant::now()));
        discovery
    }

    /// Asks about one person, and writes down the answer. Answers whether it was no.
    async fn ask_about(
        ask: LocalBoxFuture<'static, Result<Option<SecretString>, Arc<ProviderError>>>,
        reachable: Reachable,
        pool: Pool,
        keys: Arc<Keys>,
        (user, asked_with): (UserRecord, Vec<u8>),
        recheck: TimeDelta,
    ) -> bool {
        let answer = ask.await;
        note(&reachable, &user.provider, answer.as_ref().err().map(AsRef::as_ref));
        let now = db::now();
        let written = async {
            let mut conn = pool.writer().await?;
            match &answer {
                Ok(next) => {
                    let seal = |token: &SecretString| {
                        let plain = token.expose_secret().as_bytes();
                        keys.provider_tokens.seal(&whose(user.id), plain)
                    };
                    let sealed = next.as_ref().and_then(seal);
                    let due = later(now, recheck);
                    let sealed = sealed.as_deref();
                    UserRecord::confirmed(&mut conn, user.id, &asked_with, sealed, now, due)
                        .await?;
                    Ok(false)
                }
                Err(error) if is_no(error) => {
                    tracing::warn!(user_id = user.id, provider = user.provider, %error, "the provider does not vouch for somebody any more");
                    UserRecord::expire(&mut conn, &user, &asked_with, now).await
                }
                Err(error) => {
                    tracing::warn!(user_id = user.id, provider = user.provider, %error, "the provider could not be asked about somebody; trying again later");
                    Ok(false)
                }
            }
        };
        written.await.unwrap_or_else(|error: db::DbError| {
            tracing::warn!(user_id = user.id, %error, "a provider's answer could not be written");
            false
        })
    }
}

/// Notes what came of a conversation with a provider.
fn note(reachable: &Reachable, provider: &str, failed: Option<&ProviderError>) {
    let outcome = match failed {
        None => Ok(()),
        // Its answer about somebody says nothing about the provider.
        Some(
            error @ (ProviderError::Unavailable { .. }
            | ProviderError::Discovery(_)
            | ProviderError::Client),
        ) => Err(error.to_string()),
        Some(_) => return,
    };
    let mut all = HashMap::clone(&reachable.load());
    all.insert(provider.to_owned(), outcome);
    reachable.store(Arc::new(all));
}

/// Whether an answer says for certain that the provider does not vouch for somebody any more (SEC-44).
fn is_no(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Refused { code } if code == "invalid_grant")
}

/// When somebody is asked about again whose provider gave no answer: the longer that lasts, the later.
fn next_try(last: Option<Timestamp>, now: Timestamp, recheck: TimeDelta) -> Timestamp {
    let overdue = last.map_or(TimeDelta::zero(), |last| now - last - recheck);
    later(now, (overdue / 4).clamp(BACK_OFF.0, BACK_OFF.1))
}

impl Actor for ProvidersActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if self.recheck.is_some() && !self.providers.is_empty() {
            context.run_interval(LOOK, |_, context| context.notify(Recheck));
        }
    }
}

impl Handler<Begin> for ProvidersActor {
    type Result = ResponseActFuture<Self, Result<String, Arc<ProviderError>>>;

    fn handle(
        &mut self,
        Begin { pending, redirect_uri }: Begin,
        _: &mut Self::Context,
    ) -> Self::Result {
        let found = self.provider(&pending.provider);
        let known = found.map(|provider| (self.discover(&provider), provider));
        let work = async move {
            let (discovery, provider) = known?;
            let start = start(&pending, &redirect_uri);
            let url =
                discovery.await.map(|known| known.authorize_url(&provider, &start).to_string());
            Ok::<_, Arc<ProviderError>>((provider.name.clone(), url))
        };
        Box::pin(work.into_actor(self).map(|outcome, actor, _| {
            let (provider, url) = outcome?;
            note(&actor.reachable, &provider, url.as_ref().err().map(AsRef::as_ref));
            url
        }))
    }
}

impl Handler<Finish> for ProvidersActor {
    type Result = ResponseActFuture<Self, Result<Profile, Arc<ProviderError>>>;

    fn handle(&mut self, finish: Finish, _: &mut Self::Context) -> Self::Result {
        let Finish { pending, redirect_uri, code, iss } = finish;
        let found = self.provider(&pending.provider);
        let known = found.map(|provider| (self.discover(&provider), provider));
        let http = self.http.clone();
        let work = async move {
            let (discovery, provider) = known?;
            let start = start(&pending, &redirect_uri);
            let profile = match discovery.await {
                Ok(known) => {
                    let now = Utc::now();
                    let finished =
                        known.finish(&http, &provider, &start, &code, iss.as_deref(), now).await;
                    finished.map_err(Arc::new)
                }
                Err(error) => Err(error),
            };
            Ok::<_, Arc<ProviderError>>((provider.name.clone(), profile))
        };
        Box::pin(work.into_actor(self).map(|outcome, actor, _| {
            let (provider, profile) = outcome?;
            note(&actor.reachable, &provider, profile.as_ref().err().map(AsRef::as_ref));
            profile
        }))
    }
}

fn start<'a>(pending: &'a Pending, redirect_uri: &'a str) -> Start<'a> {
    Start {
        redirect_uri,
        state: &pending.state,
        nonce: &pending.nonce,
        verifier: &pending.verifier,
    }
}

impl Handler<Recheck> for ProvidersActor {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, _: Recheck, _: &mut Self::Context) -> Self::Result {
        let Some(recheck) = self.recheck else { return Box::pin(async { 0 }) };
        let providers: Vec<(Rc<Provider>, Discovery)> = {
            let all: Vec<Rc<Provider>> = self.providers.values().cloned().collect();
            all.into_iter().map(|provider| (provider.clone(), self.discover(&provider))).collect()
        };
        let (pool, keys, http) = (self.pool.clone(), self.keys.clone(), self.http.clone());
        let reachable = self.reachable.clone();
        Box::pin(async move {
            let names: Vec<String> = providers.iter().map(|(p, _)| p.name.clone()).collect();
            let now = db::now();
            let next = |last| next_try(last, now, recheck);
            let due = async {
                let mut conn = pool.writer().await?;
                UserRecord::take_due_for_check(&mut conn, &names, now, next, MOST).await
            };
            let due = match due.await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, "it could not be looked who is to be asked about");
                    return 0;
                }
            };
            let mut asked = Vec::new();
            for (user, sealed) in due {
                let Some((provider, discovery)) =
                    providers.iter().find(|(provider, _)| provider.name == user.provider).cloned()
                else {
                    continue;
                };
                let Some(token) = keys
                    .provider_tokens
                    .open(&whose(user.id), &sealed)
                    .and_then(|plain| String::from_utf8(plain).ok())
                    .map(SecretString::from)
                else {
                    tracing::warn!(
                        user_id = user.id,
                        "what is kept of a provider's token cannot be opened; secrets.previous_encryption_keys lacks its key"
                    );
                    continue;
                };
                let http = http.clone();
                let ask = async move {
                    let known = discovery.await?;
                    known.recheck(&http, &provider, &token).await.map_err(Arc::new)
                };
                let ask = ask.boxed_local();
                asked.push(Self::ask_about(
                    ask,
                    reachable.clone(),
                    pool.clone(),
                    keys.clone(),
                    (user, sealed),
                    recheck,
                ));
            }
            let answers = futures_util::future::join_all(asked).await;
            answers.into_iter().filter(|no| *no).count()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_without_an_answer_is_asked_ever_less_often() {
        let now = db::now();
        let day = TimeDelta::days(1);
        let wait = |overdue: TimeDelta| next_try(Some(now - day - overdue), now, day) - now;

        assert_eq!(wait(TimeDelta::zero()), TimeDelta::minutes(1));
        assert_eq!(wait(TimeDelta::minutes(40)), TimeDelta::minutes(10));
        assert_eq!(wait(TimeDelta::days(3)), TimeDelta::hours(1));
        assert_eq!(next_try(None, now, day) - now, TimeDelta::minutes(1));
    }

    #[test]
    fn only_a_definite_answer_is_a_no() {
        let refused = |code: &str| ProviderError::Refused { code: code.to_owned() };
        assert!(is_no(&refused("invalid_grant")));
        assert!(!is_no(&refused("temporarily_unavailable")));
        assert!(!is_no(&ProviderError::Client));
        assert!(!is_no(&ProviderError::Unavailable { what: "x", cause: None }));
    }
}
