//! Listening sockets that whoever starts the service has opened for it (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`:
//! sd_listen_fds(3)). They outlive the service: connections that come during a restart wait in their queue.

use std::net::TcpListener;

use listenfd::ListenFd;
use socket2::SockRef;

/// The name of the socket for metrics; any other one is the service's.
const METRICS: &str = "metrics";

/// What was inherited; none of it must be.
#[derive(Debug, Default)]
pub struct Inherited {
    pub service: Option<TcpListener>,
    pub metrics: Option<TcpListener>,
}

#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    #[error("the inherited socket number {number} ({name}) is no TCP socket")]
    NotTcp { number: usize, name: String, source: std::io::Error },
    #[error("the inherited socket number {number} ({name}) does not listen")]
    NotListening { number: usize, name: String },
    #[error(
        "more than one socket is inherited for {what} (LISTEN_FDNAMES={names}); [::]:PORT takes IPv4 too, and the one for \
         metrics is called `metrics`"
    )]
    TooMany { what: &'static str, names: String },
}

impl Inherited {
    /// Takes the sockets that the environment tells of, once: whoever asks a second time gets none.
    ///
    /// # Errors
    /// [`InheritError`] if one of them is of no use.
    pub fn from_environment() -> Result<Self, InheritError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self::take(ListenFd::from_env(), &names)
    }

    /// `names` are separated by colons, in the order of the sockets.
    fn take(mut sockets: ListenFd, names: &str) -> Result<Self, InheritError> {
        let mut inherited = Self::default();
        let mut named = names.split(':');
        for number in 0..sockets.len() {
            let name = named.next().unwrap_or_default();
            let shown = || if name.is_empty() { "without a name" } else { name }.to_owned();
            let listener = sockets
                .take_tcp_listener(number)
                .map_err(|source| InheritError::NotTcp { number, name: shown(), source })?;
            let Some(listener) = listener else { continue };
            if !SockRef::from(&listener).is_listener().unwrap_or(false) {
                return Err(InheritError::NotListening { number, name: shown() });
            }
            let (place, what) = match name {
                METRICS => (&mut inherited.metrics, "metrics"),
                _ => (&mut inherited.service, "the service"),
            };
            if place.replace(listener).is_some() {
                return Err(InheritError::TooMany { what, names: names.to_owned() });
            }
        }
        Ok(inherited)
    }
}
