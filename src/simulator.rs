//! A simulated AWS Bedrock Runtime: the outside world for `demo` and for tests.
//!
//! It owns an HTTP/1.1 server on a thread of its own, which answers the five `/model/…` operations
//! the way AWS documents them: it checks every signature, refuses what a proxy must never forward,
//! validates bodies, and writes real event-stream frames. Faults are asked for in the request body
//! (`@sim:throttle`, see [`SCENARIOS`]). Every request is a row in the [`Ledger`].
//!
//! It calls no model, keeps nothing on disk and knows nothing of the proxy.
//!
//! | Module | Holds |
//! |---|---|
//! | `bedrock` | the route of one request, from bytes to answer |
//! | `signature` | SigV4, bearer tokens, headers which must not arrive |
//! | `operation`, `count`, `model` | paths, model ids, and what each operation answers |
//! | `request`, `members` | bodies: validation, prompt size |
//! | `claude_rules`, `claude_blocks` | what Claude's bodies may not have, model by model |
//! | `scenario`, `attempts`, `refusal` | the directive in the body; errors in AWS's words |
//! | `reply`, `text`, `prompt_cache` | what the "model" says, and what that costs |
//! | `claude`, `converse`, `families` | the same as bodies and events of each family |
//! | `event`, `frame`, `playback`, `body`, `wire` | how it reaches the socket, and how it fails to |
//! | `ledger` | what arrived and what was reported |
//! | [`identity`] | a server of its own: whom people sign in with |

mod attempts;
mod bedrock;
mod body;
mod claude;
mod claude_blocks;
mod claude_rules;
mod converse;
mod count;
mod event;
mod families;
mod frame;
pub mod identity;
mod ledger;
mod members;
mod model;
mod operation;
mod playback;
mod prompt_cache;
mod refusal;
mod reply;
mod request;
mod scenario;
mod signature;
mod text;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::{App, HttpServer, web};
use tokio::sync::oneshot;

use self::bedrock::World;
pub use self::ledger::{Call, Ledger, TokenUsage};
pub use self::scenario::SCENARIOS;
use self::wire::Connection;

/// Idle connections are closed after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Where the simulator listens and whom it lets in.
#[derive(Clone)]
pub struct SimulatorConfig {
    /// Address to bind; port 0 picks a free one. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The one access key it knows. Default `AKIDEXAMPLE`.
    pub access_key_id: String,
    /// The secret of that key.
    pub secret_access_key: String,
    /// If set, requests must carry exactly this token; if not, none at all. Default none.
    pub session_token: Option<String>,
    /// If set, `Authorization: Bearer <this>` is accepted besides SigV4. Default none.
    pub bearer_token: Option<String>,
    /// Regions a signature may be scoped to; the first is also that of bearer calls. Default
    /// `us-east-1`.
    pub regions: Vec<String>,
    /// Server threads. Default 1.
    pub workers: usize,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            bearer_token: None,
            regions: vec!["us-east-1".to_owned()],
            workers: 1,
        }
    }
}

impl fmt::Debug for SimulatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatorConfig")
            .field("listen", &self.listen)
            .field("regions", &self.regions)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// A running simulator. Dropping it stops it.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    handle: Handle,
    ledger: Ledger,
}

impl Simulator {
    /// Binds `config.listen` and serves from a thread of its own, which no runtime of the caller's
    /// can take down. Ready for requests when it returns.
    ///
    /// # Errors
    /// If the address cannot be bound or the thread cannot be started.
    pub async fn start(config: SimulatorConfig) -> io::Result<Self> {
        let ledger = Ledger::default();
        let (started, starting) = oneshot::channel();
        let for_server = ledger.clone();
        std::thread::Builder::new().name("simulator".to_owned()).spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                match bind(config, for_server) {
                    Ok((server, address)) => {
                        // A caller that no longer waits has dropped its interest: do not serve.
                        if started.send(Ok((address, server.handle()))).is_ok() {
                            // An error here is a lost listener; callers see refused connections.
                            let _ended = server.await;
                        }
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        })?;
        let gone = || io::Error::other("the simulator's thread ended before it was ready");
        let (address, handle) = starting.await.map_err(|_| gone())??;
        Ok(Self { address, handle: Handle(handle), ledger })
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived so far. Clone it to keep it after the simulator is gone.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Closes the listener and every connection, and returns when that is done.
    pub async fn stop(&self) {
        self.handle.0.stop(false).await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // The command is sent by the call itself; nobody needs to wait for its completion.
        drop(self.handle.0.stop(false));
    }
}

/// [`ServerHandle`] with a `Debug` that says nothing.
struct Handle(ServerHandle);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerHandle")
    }
}

/// Binds and configures the server; nothing is accepted until it is awaited.
fn bind(
    config: SimulatorConfig,
    ledger: Ledger,
) -> io::Result<(actix_web::dev::Server, SocketAddr)> {
    let (listen, workers) = (config.listen, config.workers.max(1));
    let world = Arc::new(World::new(config, ledger));
    let shared = web::Data::from(Arc::clone(&world));
    let server = HttpServer::new(move || {
        App::new().app_data(shared.clone()).default_service(web::to(bedrock::serve))
    })
    .workers(workers)
    .disable_signals()
    .keep_alive(KEEP_ALIVE)
    .tcp_nodelay(true)
    .h1_allow_half_closed(false)
    .on_connect(|stream, data: &mut Extensions| {
        data.insert(Connection::of(stream));
    })
    .bind(listen)?;
    let address = server.addrs().first().copied().ok_or_else(|| io::Error::other("not bound"))?;
    world.listens_on(address);
    Ok((server.run(), address))
}
