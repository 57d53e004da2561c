//! Tells the service manager how the service is (`NOTIFY_SOCKET`: sd_notify(3)), and that it lives (`WATCHDOG_USEC`).
//! Without one nobody is told.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Arc,
    time::Duration,
};

/// The way to the service manager. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    manager: Option<Arc<UnixDatagram>>,
    /// It takes the service for dead when it hears nothing for so long.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What the environment tells of. A manager that cannot be reached is a warning.
    pub fn from_environment() -> Self {
        let text = |name| std::env::var(name).ok();
        let Some(path) = text("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        let own = std::process::id().to_string();
        let watched = text("WATCHDOG_PID").is_none_or(|process| process == own);
        let micros = text("WATCHDOG_USEC").filter(|_| watched).and_then(|text| text.parse().ok());
        Self::to(&path, micros.map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!(path, %error, "the service manager cannot be reached (NOTIFY_SOCKET)");
            Self::default()
        })
    }

    /// A path, or a name in the abstract namespace (`@…`).
    fn to(path: &str, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let manager = UnixDatagram::unbound()?;
        manager.connect_addr(&address)?;
        manager.set_nonblocking(true)?; // a manager that does not listen holds up nothing
        Ok(Self { manager: Some(Arc::new(manager)), watchdog: watchdog.filter(|w| !w.is_zero()) })
    }

    fn tell(&self, lines: &str) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.send(lines.as_bytes()) {
            tracing::warn!(%error, "the service manager was not told");
        }
    }

    /// It serves; also after [`Self::reloading`].
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// It reads its settings anew; [`Self::ready`] says when it has.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading settings"));
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=waiting for calls and streams to end");
    }

    /// Says that the service lives, twice in the manager's time limit, as long as it is `alive`; for ever.
    pub async fn keep_watch(self, alive: impl Fn() -> bool) {
        let Some(limit) = self.watchdog else { return };
        let mut lived = true;
        loop {
            let lives = alive();
            if lives {
                self.tell("WATCHDOG=1");
            } else if lived {
                tracing::error!(
                    "a part does not answer: the service manager is no longer told that the service lives"
                );
            }
            lived = lives;
            tokio::time::sleep(limit / 2).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use tokio::time::timeout;

    use super::*;

    #[actix_rt::test]
    async fn a_service_that_does_not_live_is_not_said_to() {
        const LONG: Duration = Duration::from_secs(10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
        let limit = Duration::from_millis(20);
        let notifier = Notifier::to(path.to_str().unwrap(), Some(limit)).unwrap();
        let alive = Rc::new(Cell::new(true));
        let told = async |within| {
            let mut message = [0; 64];
            let length = timeout(within, manager.recv(&mut message)).await.ok()?.unwrap();
            Some(String::from_utf8(message[..length].to_vec()).unwrap())
        };

        let lives = alive.clone();
        let watch = actix_rt::spawn(notifier.keep_watch(move || lives.get()));
        for _ in 0..3 {
            assert_eq!(told(LONG).await.as_deref(), Some("WATCHDOG=1"));
        }
        alive.set(false);
        assert_eq!(told(limit * 10).await, None);
        alive.set(true);
        assert_eq!(told(LONG).await.as_deref(), Some("WATCHDOG=1"));
        watch.abort();
    }
}
