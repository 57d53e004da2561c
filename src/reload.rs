//! Takes the settings anew while the service runs (SIGHUP): the log's level, limits, who may come in and who is an admin;
//! and what is cached of prices. Everything else waits for a restart, and is named.

use std::sync::Arc;

use serde_json::json;

use crate::{
    actors::{auth::Adopt, usage::ForgetPrices},
    auth::policy::Policy,
    db::{
        self, DbError,
        audit::{self, Event, Origin},
        users::UserRecord,
    },
    notify::Notifier,
    settings::{Fingerprints, Problems, Settings, oauth::OAuth},
    state::Shared,
    telemetry::Level,
};

/// What is taken without a restart: settings, and sections of which all are.
const TAKEN: &[&str] = &[
    "admin",
    "auth.allowed_email_domains",
    "logging.level",
    "rate_limits",
    "server.limits.in_flight_bytes",
    "server.limits.in_flight_requests",
];

/// Reads the settings as they were read at the start.
pub type Load = Box<dyn Fn() -> Result<Settings, Problems>>;

pub struct Reloader {
    load: Load,
    shared: Arc<Shared>,
    level: Level,
    /// The providers there are; others come with a restart.
    oauth: OAuth,
    /// What the process began with, and what of it holds now.
    started: Fingerprints,
    taken: Fingerprints,
}

impl Reloader {
    /// `settings` are those that the service was started with.
    pub fn new(settings: &Settings, shared: Arc<Shared>, level: Level, load: Load) -> Self {
        let started = settings.fingerprints.clone();
        Self { load, shared, level, oauth: settings.oauth.clone(), taken: started.clone(), started }
    }

    /// Reloads as often as `asked` says, for ever, and tells the service manager around each.
    pub async fn keep_reloading(mut self, mut asked: impl AsyncFnMut(), notify: Notifier) {
        loop {
            asked().await;
            if self.shared.draining.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            notify.reloading();
            let counts = self.reload().await;
            notify.ready(if counts {
                "serving; settings were read anew"
            } else {
                "serving; settings were read anew and do not count, the log says why"
            });
        }
    }

    /// Reads the settings and takes what can be taken. Settings with a problem change nothing. Answers whether what was
    /// read counts now.
    pub async fn reload(&mut self) -> bool {
        match (self.load)() {
            Ok(settings) => self.take(settings).await,
            Err(problems) => {
                tracing::error!(%problems, "the settings were read anew and are not sound: nothing changed");
                false
            }
        }
    }

    async fn take(&mut self, new: Settings) -> bool {
        let later = &new.fingerprints;
        let waiting: Vec<_> =
            self.started.changed(later).into_iter().filter(|key| !is_taken(key)).collect();
        if !waiting.is_empty() {
            let settings = waiting.join(", ");
            tracing::warn!(settings, "these settings changed; they wait for a restart");
        }
        // First, and whatever becomes of the rest: it may be needed to see why the database does not answer.
        if let Err(error) = self.level.set(&new.logging.level) {
            tracing::error!(%error, "the level of the log could not be changed");
        }
        // The next batch of usage reads them.
        if self.shared.actors.usage.address().send(ForgetPrices).await.is_err() {
            tracing::warn!(
                "prices were not read anew: their actor is being started again, which does the same"
            );
        }
        let changed: Vec<_> =
            self.taken.changed(later).into_iter().filter(|key| is_taken(key)).collect();
        if changed.is_empty() {
            tracing::info!(
                "settings were read anew; none that counts without a restart has changed"
            );
            return true;
        }
        let policy = Policy::new(&new.admin, &self.oauth, &new.auth);
        match self.write(&policy, &changed).await {
            Ok(0) => tracing::warn!(
                "nobody is an admin now: none of admin.emails has signed in with a provider of admin.providers"
            ),
            Ok(_) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "the new settings could not be written down: of them, only the level of the log counts; reload again"
                );
                return false;
            }
        }
        if self.shared.actors.auth.address().send(Adopt(policy)).await.is_err() {
            tracing::error!("who is an admin and who may come in did not change; reload again");
            return false;
        }
        self.shared.limits.set(&new.rate_limits);
        self.shared.gate.set(&new.server.limits);
        self.taken = new.fingerprints;
        tracing::info!(
            settings = changed.join(", "),
            "settings were read anew and count from now on"
        );
        true
    }

    /// Appends the event, and notes who is an admin by the new rule. Answers how many active ones there are.
    async fn write(&self, policy: &Policy, changed: &[String]) -> Result<i64, DbError> {
        let mut conn = self.shared.pool.writer().await?;
        let origin = Origin::service();
        let event = Event {
            object: "settings".to_owned(),
            metadata: json!({ "changed": changed }),
            ..Event::new(db::now(), "settings_reloaded", &origin)
        };
        audit::record(&mut conn, event).await?;
        let admits = |user: &UserRecord| policy.admins.admits_user(user);
        UserRecord::apply_admin_rule(&mut conn, policy.admins.emails(), admits, db::now()).await
    }
}

fn is_taken(key: &str) -> bool {
    TAKEN.iter().any(|taken| {
        key.strip_prefix(taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}
