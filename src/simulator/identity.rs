//! A simulated identity provider: whom people sign in with, in `demo` and in tests.
//!
//! It owns an HTTP/1.1 server on a thread of its own, with two surfaces over the same people: OpenID
//! Connect, and OAuth 2 as GitHub does it. Both are as strict as a good provider, so that a client
//! which works here works there. What a bad provider does, or a hostile one, is a [`Fault`]: asked
//! for on the sign-in page (or with `fault=NAME` in its form) for one sign-in, or by
//! [`IdentityProvider::misbehave`] for all. Every request is a row in the [`IdentityLedger`].
//!
//! It keeps no passwords, nothing on disk, and knows nothing of the proxy.
//!
//! | Module | Holds |
//! |---|---|
//! | `serve` | the route of one request, from HTTP to a plain value and back |
//! | `request` | requests and answers as plain values |
//! | `world` | what all requests share |
//! | `grants` | codes and tokens; they belong to the server's thread alone |
//! | `authorize`, `page` | who consents to what; the pages which ask |
//! | `token`, `id_token` | what a code is exchanged for |
//! | `userinfo`, `person` | what is told of whom |
//! | `discovery`, `keys` | what clients find out by themselves; signatures |
//! | `fault` | what can be wrong |
//! | `ledger` | what arrived and what was answered |

mod authorize;
mod discovery;
mod fault;
mod grants;
mod id_token;
mod keys;
mod ledger;
mod page;
mod person;
mod request;
mod serve;
mod token;
mod userinfo;
mod world;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::{Extensions, Server};
use actix_web::{App, HttpServer, web};
use tokio::sync::oneshot;

pub use self::fault::{FAULTS, Fault, UnknownFault};
use self::grants::Grants;
pub use self::keys::SigningAlgorithm;
pub use self::ledger::{IdentityCall, IdentityLedger};
pub use self::person::Person;
use self::world::World;
use super::wire::Connection;
use super::{Handle, KEEP_ALIVE};

/// Where the provider listens, and who there is.
#[derive(Clone)]
pub struct IdentityConfig {
    /// Address to bind; port 0 picks a free one. It becomes the issuer. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The one client it knows. Default `demo-client`.
    pub client_id: String,
    /// The secret of that client.
    pub client_secret: String,
    /// Where the client may be called back, compared as text. Default none, which stands for every
    /// URI of this machine (`localhost`, `127.0.0.1`, `[::1]`) whose path begins with
    /// `/auth/callback/`: a test starts the provider before its service has a port.
    pub redirect_uris: Vec<String>,
    /// Who can sign in. Default: two who may, and three whom a careful service refuses.
    pub people: Vec<Person>,
    /// How id_tokens are signed. Default RS256.
    pub signing: SigningAlgorithm,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            client_id: "demo-client".to_owned(),
            client_secret: "simulated-client-secret-of-the-demo".to_owned(),
            redirect_uris: Vec::new(),
            people: person::test_people(),
            signing: SigningAlgorithm::default(),
        }
    }
}

impl fmt::Debug for IdentityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityConfig")
            .field("listen", &self.listen)
            .field("client_id", &self.client_id)
            .field("redirect_uris", &self.redirect_uris)
            .finish_non_exhaustive()
    }
}

/// A running provider. Dropping it stops it.
#[derive(Debug)]
pub struct IdentityProvider {
    address: SocketAddr,
    handle: Handle,
    world: Arc<World>,
}

impl IdentityProvider {
    /// Binds `config.listen` and serves from a thread of its own, which no runtime of the caller's
    /// can take down. Ready for requests when it returns.
    ///
    /// # Errors
    /// If the address cannot be bound or the thread cannot be started.
    pub async fn start(config: IdentityConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen)?;
        let address = listener.local_addr()?;
        let world = Arc::new(World::new(config, format!("http://{address}")));
        let (started, starting) = oneshot::channel();
        let for_server = Arc::clone(&world);
        std::thread::Builder::new().name("identity".to_owned()).spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                match server(listener, for_server) {
                    Ok(server) => {
                        // A caller that no longer waits has dropped its interest: do not serve.
                        if started.send(Ok(server.handle())).is_ok() {
                            // An error here is a lost listener; callers see refused connections.
                            let _ended = server.await;
                        }
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        })?;
        let gone = || io::Error::other("the provider's thread ended before it was ready");
        let handle = starting.await.map_err(|_| gone())??;
        Ok(Self { address, handle: Handle(handle), world })
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub fn issuer(&self) -> String {
        self.world.issuer().to_owned()
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived so far. Clone it to keep it after the provider is gone.
    pub fn ledger(&self) -> &IdentityLedger {
        self.world.ledger()
    }

    /// Gives every answer this fault, from now on; `None` ends it. Any fault will do, also those of
    /// single sign-ins. `slow`, `down`, `redirect_to_metadata` and `huge` concern what the client
    /// calls, not the page in the browser.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.world.misbehave(fault);
    }

    /// Closes an account: refreshing says `invalid_grant`, userinfo 401, and the page does not offer
    /// them any more.
    pub fn forget_person(&self, subject: &str) {
        self.world.change_people(|people| people.retain(|person| person.subject != subject));
    }

    /// Replaces the person with the same subject, or adds one.
    pub fn change_person(&self, person: Person) {
        self.world.change_people(|people| {
            match people.iter_mut().find(|known| known.subject == person.subject) {
                Some(known) => known.clone_from(&person),
                None => people.push(person.clone()),
            }
        });
    }

    /// Makes new signing keys with new names; the old ones leave the key set.
    pub fn rotate_keys(&self) {
        self.world.rotate_keys();
    }

    /// Closes the listener and every connection, and returns when that is done.
    pub async fn stop(&self) {
        self.handle.0.stop(false).await;
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        // The command is sent by the call itself; nobody needs to wait for its completion.
        drop(self.handle.0.stop(false));
    }
}

/// Configures the server; nothing is accepted until it is awaited.
fn server(listener: TcpListener, world: Arc<World>) -> io::Result<Server> {
    let world = web::Data::from(world);
    let server = HttpServer::new(move || {
        // Made on the worker's thread, which has them to itself: there is one worker.
        let grants = web::Data::new(RefCell::new(Grants::default()));
        App::new().app_data(world.clone()).app_data(grants).default_service(web::to(serve::serve))
    })
    .workers(1)
    .disable_signals()
    .keep_alive(KEEP_ALIVE)
    .tcp_nodelay(true)
    .h1_allow_half_closed(false)
    .on_connect(|stream, data: &mut Extensions| {
        data.insert(Connection::of(stream));
    })
    .listen(listener)?;
    Ok(server.run())
}
