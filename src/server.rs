//! The HTTP listeners: actix-http's HTTP/1.1 service in actix-server's workers. `HttpServer` would do, but for two
//! things: under TLS it offers HTTP/2 whenever any crate turns that on (awc does), and the moment at which idle
//! connections are told to close is its own, not the shutdown's.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, Request};
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, map_config};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{AppConfig, ServiceResponse},
};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::settings;

/// How long a connection may take to close once its answer says so, so that the client can read the answer.
const LINGER: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 2048;

/// What the listener needs to know.
pub struct Options {
    pub workers: usize,
    pub connections: usize,
    pub timeouts: settings::Timeouts,
    /// Serve TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// After this long a graceful stop ends whatever still runs.
    pub shutdown: Duration,
    /// Turns true when idle connections shall close.
    pub closing: watch::Receiver<bool>,
}

/// Binds an address. A client that stops reading is dropped by the kernel after `write_stall` (`TCP_USER_TIMEOUT`,
/// inherited by every accepted connection).
///
/// # Errors
/// The system's, such as an address in use.
pub fn bind(address: SocketAddr, write_stall: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_user_timeout(Some(write_stall))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A server for the application that `app` makes, once for each worker.
///
/// # Errors
/// The system's.
pub fn serve<F, I, S, B>(listener: TcpListener, options: Options, app: F) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error>
        + 'static,
    S::InitError: std::fmt::Debug,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let Options { workers, connections, timeouts, tls, shutdown, closing } = options;
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections.div_ceil(workers))
        .shutdown_timeout(shutdown.as_secs())
        .disable_signals();
    macro_rules! http1 {
        () => {{
            let closing = closing.clone();
            let app = app().into_factory().map_err(|error: Error| error.error_response());
            HttpService::build()
                .keep_alive(timeouts.keep_alive())
                .client_request_timeout(timeouts.head())
                .client_disconnect_timeout(LINGER)
                // Else the silent stream of a client that left would go on, and be paid for.
                .h1_allow_half_closed(false)
                .tcp_nodelay(true)
                .graceful_shutdown_signal(move || {
                    let mut closing = closing.clone();
                    async move {
                        if closing.wait_for(|closing| *closing).await.is_err() {
                            std::future::pending::<()>().await; // nobody is left who could say so
                        }
                    }
                })
                .h1(map_config(app, |()| AppConfig::default()))
        }};
    }
    Ok(match tls {
        Some(config) => {
            builder.listen("https", listener, move || http1!().rustls_0_23((*config).clone()))?
        }
        None => builder.listen("http", listener, move || http1!().tcp())?,
    }
    .run())
}
