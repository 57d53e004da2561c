//! The checks behind `/health`: what each asks.

use std::sync::Arc;

use crate::{
    actors::{Actors, Ping},
    auth::{jwt, keys::Keys},
    cache::TypedCache,
    db::{self, Pool},
    health::{Checks, Health},
    telemetry::causes,
    usage::journal::Directory,
};

/// What health is made of: each part, and how to ask it.
pub(super) fn health(
    pool: &Pool,
    cache: &TypedCache,
    actors: &Actors,
    keys: Arc<Keys>,
    journal: Option<Arc<Directory>>,
) -> Health {
    let mut checks = Checks::default();
    let database = pool.clone();
    checks.register("database", move || {
        let pool = database.clone();
        async move { db::ping(&pool).await.map_err(|error| error.to_string()) }
    });
    let cache = cache.clone();
    checks.register("cache", move || {
        let cache = cache.clone();
        async move {
            cache.tidy().await;
            cache.ping().await.map_err(|error| causes(&error))
        }
    });
    let asked = actors.clone();
    checks.register("actors", move || {
        let actors = asked.clone();
        async move {
            let answers = tokio::join!(
                actors.auth.address().send(Ping),
                actors.credentials.address().send(Ping),
                actors.providers.address().send(Ping),
                actors.streams.address().send(Ping),
                actors.usage.address().send(Ping),
                actors.summary.address().send(Ping)
            );
            let (auth, credentials, providers, streams, usage, summary) = answers;
            let named = [
                ("auth", auth),
                ("credentials", credentials),
                ("providers", providers),
                ("streams", streams),
                ("usage", usage),
                ("summary", summary),
            ];
            let silent: Vec<_> =
                named.iter().filter(|(_, answer)| answer.is_err()).map(|(name, _)| *name).collect();
            if silent.is_empty() {
                Ok(())
            } else {
                Err(format!("no answer from {}", silent.join(", ")))
            }
        }
    });
    let authorization = actors.authorization.clone();
    checks.register("aws", move || {
        let held = authorization.load().as_ref().is_some_and(|held| held.holds_at(std::time::SystemTime::now()));
        async move { if held { Ok(()) } else { Err("no AWS credentials at the moment".to_owned()) } }
    });
    checks.register("jwt", move || {
        let signed = jwt::sign_and_verify(&keys.jwt, db::now());
        async move { signed }
    });
    let reachable = actors.reachable.clone();
    checks.register("oauth", move || {
        let last = reachable.load_full();
        async move {
            let failing = last.iter().filter_map(|(name, outcome)| {
                outcome.as_ref().err().map(|error| format!("{name}: {error}"))
            });
            let failing: Vec<String> = failing.collect();
            if failing.is_empty() { Ok(()) } else { Err(failing.join("; ")) }
        }
    });
    if let Some(journal) = journal {
        checks.register("journal", move || {
            let refusing = journal.is_refusing();
            async move {
                if refusing { Err("the usage journal takes no calls".to_owned()) } else { Ok(()) }
            }
        });
    }
    checks.finish()
}
