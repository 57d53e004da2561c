//! CredentialsActor: obtains the service's own AWS credentials, renews them before they end, and publishes them for
//! every worker to read without waiting.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use aws_credential_types::provider::SharedCredentialsProvider;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};

use crate::{
    bedrock::credentials::{self, Authorization, CredentialsError, Current, Source},
    telemetry::causes,
};

/// A chain that finds nothing is not asked more often.
const AGAIN: Duration = Duration::from_secs(5);
/// The chain may ask several services; none may hang the first call for longer.
const LONGEST: Duration = Duration::from_secs(15);
/// How often it is looked whether a renewal is due.
const LOOK: Duration = Duration::from_secs(10);

/// Give me credentials that hold. Answers from what is there, else when the chain has answered.
#[derive(Message)]
#[rtype(result = "Result<Arc<Authorization>, Arc<CredentialsError>>")]
pub struct Obtain;

/// AWS refused these; look for new ones.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Refused;

type Load = Shared<LocalBoxFuture<'static, Result<Arc<Authorization>, Arc<CredentialsError>>>>;

pub struct CredentialsActor {
    source: Source,
    provider: Option<SharedCredentialsProvider>,
    current: Current,
    loading: Option<Load>,
    failed: Option<(Instant, Arc<CredentialsError>)>,
    refreshed: Option<Instant>,
}

impl CredentialsActor {
    pub fn new(source: Source, current: Current) -> Self {
        Self { source, provider: None, current, loading: None, failed: None, refreshed: None }
    }

    /// The load under way, or a new one.
    fn load(&mut self) -> Load {
        if let Some(load) = &self.loading {
            return load.clone();
        }
        let (source, provider) = (self.source.clone(), self.provider.clone());
        let load = async move {
            if let Source::Fixed(authorization) = source {
                return Ok(Arc::new(authorization));
            }
            let ask = async {
                let provider = match provider {
                    Some(provider) => provider,
                    None => source
                        .provider()
                        .await
                        .ok_or_else(|| CredentialsError("the chain is empty".into()))?,
                };
                credentials::obtain(&provider).await
            };
            let found = tokio::time::timeout(LONGEST, ask).await;
            let found = found.unwrap_or_else(|elapsed| Err(CredentialsError(elapsed.into())));
            found.map(Arc::new).map_err(Arc::new)
        };
        let load = load.boxed_local().shared();
        self.loading = Some(load.clone());
        load
    }

    fn loaded(&mut self, found: &Result<Arc<Authorization>, Arc<CredentialsError>>) {
        if self.loading.take().is_none() {
            return; // another waiter was back first
        }
        match found {
            Ok(authorization) => {
                self.current.store(Some(authorization.clone()));
                self.failed = None;
                self.refreshed = Some(Instant::now());
            }
            Err(error) => {
                tracing::error!(error = %causes(error), "no AWS credentials could be obtained");
                self.failed = Some((Instant::now(), error.clone()));
            }
        }
    }

    fn refresh(&mut self, context: &mut Context<Self>) {
        if self.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < AGAIN) {
            return;
        }
        let load = self.load();
        context.spawn(load.into_actor(self).map(|found, actor, _| actor.loaded(&found)));
    }
}

impl Actor for CredentialsActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        // The provider keeps connections and parsed files; it is made once.
        let source = self.source.clone();
        let made = async move { source.provider().await };
        context.spawn(made.into_actor(self).map(|provider, actor, context| {
            actor.provider = provider;
            actor.refresh(context);
        }));
        context.run_interval(LOOK, |actor, context| {
            let renew_at = actor.current.load().as_ref().map(|current| current.renew_at());
            let due = renew_at.is_none_or(|at| at.is_some_and(|at| at <= SystemTime::now()));
            if due {
                actor.refresh(context);
            }
        });
    }
}

impl Handler<Obtain> for CredentialsActor {
    type Result = ResponseActFuture<Self, Result<Arc<Authorization>, Arc<CredentialsError>>>;

    fn handle(&mut self, _: Obtain, _: &mut Self::Context) -> Self::Result {
        let held = self.current.load_full().filter(|current| current.holds_at(SystemTime::now()));
        let failed = self
            .failed
            .as_ref()
            .filter(|(at, _)| at.elapsed() < AGAIN)
            .map(|(_, error)| error.clone());
        let answer: LocalBoxFuture<'static, _> = match (held, failed) {
            (Some(current), _) => Box::pin(std::future::ready(Ok(current))),
            (None, Some(error)) => Box::pin(std::future::ready(Err(error))),
            (None, None) => {
                let load = self.load();
                return Box::pin(load.into_actor(self).map(|found, actor, _| {
                    actor.loaded(&found);
                    found
                }));
            }
        };
        Box::pin(answer.into_actor(self))
    }
}

impl Handler<Refused> for CredentialsActor {
    type Result = ();

    fn handle(&mut self, _: Refused, context: &mut Self::Context) {
        if self.refreshed.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.refresh(context);
        }
    }
}
