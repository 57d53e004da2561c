//! The actors: who owns which state, how they start, and what the rest of the service holds of them.

pub mod auth;
pub mod credentials;
pub mod streams;
pub mod usage;

use std::sync::Arc;

use actix::{Actor, Addr, Arbiter, Supervisor};

use crate::{
    auth::{AdminRule, keys::Keys},
    bedrock::credentials::{Current, Source},
    db::Pool,
    settings::Settings,
    telemetry::Metrics,
    usage::journal::Directory,
};

use auth::{AuthActor, Known};
use credentials::CredentialsActor;
use streams::StreamSupervisor;
use usage::UsageRecorder;

/// Messages that may wait for an actor; a sender that finds its mailbox full is told so.
const MAILBOX: usize = 4096;

/// The addresses, and what the actors publish for reading without a message.
#[derive(Clone)]
pub struct Actors {
    pub auth: Addr<AuthActor>,
    pub known: Arc<Known>,
    pub credentials: Addr<CredentialsActor>,
    pub authorization: Current,
    pub streams: Addr<StreamSupervisor>,
    pub usage: Addr<UsageRecorder>,
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
    /// Starts them: authentication and credentials on one thread, usage and streams on another, so that a slow write
    /// never delays a sign-in.
    pub fn start(
        settings: &Settings,
        pool: &Pool,
        keys: Keys,
        journal: Option<Arc<Directory>>,
        metrics: &Metrics,
    ) -> (Self, Threads) {
        let threads = Threads { auth: Arbiter::new(), background: Arbiter::new() };
        let known = Arc::new(Known::new(&settings.cache, &settings.auth));
        let authorization = Current::default();

        let (db, admins, cache) =
            (pool.clone(), AdminRule::new(&settings.admin), settings.cache.clone());
        let (fills, counts) = (known.clone(), metrics.clone());
        let auth = Supervisor::start_in_arbiter(&threads.auth.handle(), move |context| {
            context.set_mailbox_capacity(MAILBOX);
            AuthActor::new(db, keys, admins, fills, &cache, counts)
        });
        let (source, current) = (Source::new(&settings.aws), authorization.clone());
        let credentials = Supervisor::start_in_arbiter(&threads.auth.handle(), move |context| {
            context.set_mailbox_capacity(MAILBOX);
            CredentialsActor::new(source, current)
        });
        let actor = UsageRecorder::new(pool.clone(), journal, &settings.usage, metrics.clone());
        let usage = Supervisor::start_in_arbiter(&threads.background.handle(), move |context| {
            context.set_mailbox_capacity(MAILBOX);
            actor
        });
        let gauge = metrics.live_streams.clone();
        let streams =
            StreamSupervisor::start_in_arbiter(&threads.background.handle(), move |context| {
                context.set_mailbox_capacity(MAILBOX);
                StreamSupervisor::new(gauge)
            });
        (Self { auth, known, credentials, authorization, streams, usage }, threads)
    }
}
