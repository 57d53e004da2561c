//! `bedrock_proxy serve`

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use crate::{
    notify::Notifier,
    reload::Reloader,
    settings::{Need, Settings},
    sockets::Inherited,
    startup::Application,
    telemetry::LogGuard,
};

/// Serves until SIGTERM or SIGINT; a second one makes haste. SIGHUP reads the settings anew, from `file` as at the start.
///
/// # Errors
/// Whatever keeps it from starting or running.
pub async fn run(settings: Settings, file: Option<&Path>, log: &LogGuard) -> anyhow::Result<()> {
    let (stop, hurry) = signals()?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut stop = std::pin::pin!(stop);
    let (sockets, notify) = (Inherited::from_environment()?, Notifier::from_environment());
    let mut building =
        Box::pin(Application::build_under(settings.clone(), sockets, notify.clone()));
    let application = tokio::select! {
        built = &mut building => built?,
        () = &mut stop => {
            // It may wait long for its database. A query on SQLite must not be dropped half-way, and all ends in a moment.
            std::mem::forget(building);
            return Ok(());
        }
    };
    let shared = application.shared();
    let file = file.map(PathBuf::from);
    let load = Box::new(move || Settings::load(file.as_deref(), Need::Service));
    let reloader = Reloader::new(&settings, shared.clone(), log.level(), load);
    let asked = async move || {
        hang_up.recv().await;
    };
    actix_rt::spawn(reloader.keep_reloading(asked, notify));
    let dropped = log.counter();
    actix_rt::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            shared
                .metrics
                .log_lines_dropped
                .set(i64::try_from(dropped.dropped_lines()).unwrap_or(i64::MAX));
        }
    });
    application.run_until_stopped(stop, hurry).await?;
    Ok(())
}

/// Two futures: the first SIGTERM or SIGINT, and the second.
///
/// # Errors
/// If the signals cannot be caught.
pub fn signals() -> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let (mut term, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_first, tell_second) = (first.clone(), second.clone());
    actix_rt::spawn(async move {
        for tell in [tell_first, tell_second] {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            tell.notify_one();
        }
    });
    Ok((async move { first.notified().await }, async move { second.notified().await }))
}
