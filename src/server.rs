//! The HTTP listeners: actix-http's HTTP/1.1 service on threads of their own, and the loop that accepts connections for
//! them. `HttpServer` would do, but for three things: under TLS it offers HTTP/2 whenever any crate turns that on (awc
//! does); it drops connections that it has accepted and not yet begun to serve when it stops; and it closes idle ones at
//! that moment, with whatever their clients are just sending.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, Request};
use actix_rt::Arbiter;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, map_config};
use actix_tls::accept::{
    TlsError,
    rustls_0_23::{Acceptor, TlsStream},
};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{AppConfig, ServiceResponse},
};
use futures_util::future::{FutureExt, LocalBoxFuture};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::settings;

/// How long a connection may take to close once its answer says so, so that the client can read the answer; and a thread to end.
const LINGER: Duration = Duration::from_secs(5);
/// So long after the service began to close, a request that comes over an open connection is still answered; the answer says
/// that the connection closes. Later ones would have too little of the grace period, so connections close after their answers.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// After an error that will not pass at once, such as too many open files, no connection is accepted for so long.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACKLOG: i32 = 2048;

/// What the listener needs to know.
pub struct Options {
    pub workers: usize,
    /// Open connections of all workers; beyond, they wait in the listen queue.
    pub connections: usize,
    pub timeouts: settings::Timeouts,
    /// Serve TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Turns true when connections shall close.
    pub closing: watch::Receiver<bool>,
}

/// Binds an address; with `reuse_port`, also one that another process has bound that way.
///
/// # Errors
/// The system's, such as an address in use.
pub fn bind(
    address: SocketAddr,
    write_stall: Duration,
    reuse_port: bool,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    adopt(socket.into(), write_stall)
}

/// Makes a listening socket ours. A client that stops reading is dropped by the kernel after `write_stall`
/// (`TCP_USER_TIMEOUT`, inherited by every connection accepted from now on).
///
/// # Errors
/// The system's.
pub fn adopt(listener: TcpListener, write_stall: Duration) -> io::Result<TcpListener> {
    SockRef::from(&listener).set_tcp_user_timeout(Some(write_stall))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection that was accepted, and its place among those that may be open.
struct Accepted {
    connection: TcpStream,
    place: OwnedSemaphorePermit,
}

/// What a worker does, on its own thread: serve connections until no more come. It says first whether it could begin.
type Work = dyn Fn(mpsc::UnboundedReceiver<Accepted>, oneshot::Sender<bool>) -> LocalBoxFuture<'static, ()>
    + Send
    + Sync;

/// A server that is ready to be started.
pub struct Server {
    listener: TcpListener,
    workers: usize,
    connections: u32,
    work: Arc<Work>,
}

/// A server for the application that `app` makes, once for each worker.
pub fn serve<F, I, S, B>(listener: TcpListener, options: Options, app: F) -> Server
where
    F: Fn() -> I + Send + Sync + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error>
        + 'static,
    S::InitError: std::fmt::Debug,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let Options { workers, connections, timeouts, tls, closing } = options;
    let work = move |queue, begun| {
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
                    .graceful_shutdown_signal(move || closes(closing.clone()))
                    .h1(map_config(app, |()| AppConfig::default()))
            }};
        }
        match &tls {
            Some(config) => {
                let mut acceptor = Acceptor::new((**config).clone());
                // It would take three seconds: too few when all who waited while the service restarted come at once.
                acceptor.set_handshake_timeout(timeouts.head());
                let service = acceptor
                    .map_err(TlsError::into_service_error)
                    .map(|stream: TlsStream<actix_rt::net::TcpStream>| {
                        let peer = stream.get_ref().0.peer_addr().ok();
                        (stream, peer)
                    })
                    .and_then(http1!().map_err(TlsError::Service));
                work(service, queue, begun).boxed_local()
            }
            None => work(http1!().tcp(), queue, begun).boxed_local(),
        }
    };
    let connections = u32::try_from(connections).unwrap_or(u32::MAX);
    Server { listener, workers, connections, work: Arc::new(work) }
}

/// Resolves when a connection shall close, as soon as no answer is under way on it: the service has been closing for
/// [`LAST_REQUESTS`].
async fn closes(mut closing: watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        std::future::pending::<()>().await; // nobody is left who could say so
    }
    sleep(LAST_REQUESTS).await;
}

async fn work<F>(
    factory: F,
    mut queue: mpsc::UnboundedReceiver<Accepted>,
    begun: oneshot::Sender<bool>,
) where
    F: ServiceFactory<actix_rt::net::TcpStream, Config = (), Response = ()>,
    F::Service: 'static,
    F::Error: std::fmt::Debug,
{
    let service = factory.new_service(()).await.ok();
    let _nobody_waits = begun.send(service.is_some());
    let Some(service) = service else { return };
    while let Some(Accepted { connection, place }) = queue.recv().await {
        let ready = poll_fn(|context| service.poll_ready(context)).await;
        match (ready, actix_rt::net::TcpStream::from_std(connection)) {
            (Ok(()), Ok(connection)) => {
                let served = service.call(connection);
                actix_rt::spawn(async move {
                    let _ended_somehow = served.await;
                    drop(place);
                });
            }
            (Err(error), _) => tracing::error!(?error, "a connection could not be served"),
            (_, Err(error)) => tracing::error!(%error, "a connection could not be served"),
        }
    }
}

impl Server {
    /// Starts the workers, then accepts.
    ///
    /// # Errors
    /// If a worker cannot start.
    pub async fn start(self) -> io::Result<Running> {
        let places = Arc::new(Semaphore::new(self.connections as usize));
        let (mut queues, mut threads, mut starting) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.workers {
            let (queue, connections) = mpsc::unbounded_channel();
            let (begun, begins) = oneshot::channel();
            let (worker, work) = (Arbiter::new(), self.work.clone());
            worker.spawn_fn(move || {
                actix_rt::spawn(work(connections, begun));
            });
            queues.push(queue);
            threads.push(worker);
            starting.push(begins);
        }
        for begins in starting {
            if !begins.await.unwrap_or(false) {
                return Err(io::Error::other("a worker cannot start"));
            }
        }
        let (stop, acceptor) = (CancellationToken::new(), Arbiter::new());
        let (over, accepting) = oneshot::channel();
        let accept = accept(self.listener, queues, places.clone(), stop.clone());
        acceptor.spawn(async move {
            let ended = accept.await;
            let _nobody_waits = over.send(ended);
        });
        threads.push(acceptor);
        Ok(Running { stop, accepting, threads, places, connections: self.connections })
    }
}

/// Accepts until `stop`, then who waits already, and closes the listener; each connection goes to the next worker in turn.
async fn accept(
    listener: TcpListener,
    queues: Vec<mpsc::UnboundedSender<Accepted>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let next = async || {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (connection, _) = listener.accept().await?;
        Ok::<_, io::Error>(Accepted { connection: connection.into_std()?, place })
    };
    let mut turns = queues.iter().cycle();
    let mut hand_over = |accepted| {
        let queue = turns.next().ok_or_else(|| io::Error::other("there is no worker"))?;
        queue.send(accepted).map_err(|_| io::Error::other("a worker has ended"))
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next() => accepted,
        };
        match accepted {
            Ok(accepted) => hand_over(accepted)?,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections; trying again");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(BACK_OFF) => {}
                }
            }
        }
    }
    // With a listener of our own, whoever still waits in its queue would be reset.
    let waiting = listener.into_std()?;
    for connection in waiting.incoming().map_while(Result::ok).take(BACKLOG as usize) {
        let Ok(place) = places.clone().try_acquire_owned() else { break };
        connection.set_nonblocking(true)?;
        hand_over(Accepted { connection, place })?;
    }
    Ok(())
}

/// Whether the next connection may well be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | NotConnected)
}

/// A server that serves.
pub struct Running {
    stop: CancellationToken,
    accepting: oneshot::Receiver<io::Result<()>>,
    threads: Vec<Arbiter>,
    places: Arc<Semaphore>,
    connections: u32,
}

impl Running {
    /// Resolves when it accepts no more: with the error that ended it, or after [`Self::stop_accepting`].
    ///
    /// # Errors
    /// Whatever ended it.
    pub async fn accepting(&mut self) -> io::Result<()> {
        let ended = (&mut self.accepting).await;
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread that accepts has ended")))
    }

    /// Accepts no more: when this returns, the listener is closed, and every connection that was accepted is served.
    pub async fn stop_accepting(&mut self) {
        self.stop.cancel();
        if let Err(error) = self.accepting().await {
            tracing::warn!(%error, "accepting had ended before");
        }
    }

    /// Resolves when no connection is open; for a server that accepts no more.
    pub async fn closed(&self) {
        let _all = self.places.acquire_many(self.connections).await;
    }

    /// Ends its threads, and with them whatever is open. One that does not end within [`LINGER`] is left behind.
    pub async fn end(self) {
        for thread in &self.threads {
            thread.stop();
        }
        let (over, ended) = oneshot::channel();
        // A thread of its own: the runtime would wait for its own blocking threads for ever.
        std::thread::spawn(move || {
            let panicked = self.threads.into_iter().map(Arbiter::join).filter(Result::is_err);
            let _nobody_waits = over.send(panicked.count());
        });
        match tokio::time::timeout(LINGER, ended).await {
            Ok(Ok(0)) => {}
            Ok(_) => tracing::error!("a thread of the server has panicked"),
            Err(_elapsed) => tracing::error!("a thread of the server does not end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn whoever_waits_when_it_stops_is_still_accepted_and_nobody_after() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), LINGER, false).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (queue, mut accepted) = mpsc::unbounded_channel();
        let (stop, places) = (CancellationToken::new(), Arc::new(Semaphore::new(9)));
        stop.cancel();

        accept(listener, vec![queue], places, stop).await.unwrap();

        for client in waiting {
            let served = accepted.recv().await.unwrap().connection;
            assert_eq!(served.peer_addr().unwrap(), client.local_addr().unwrap());
        }
        assert!(accepted.recv().await.is_none());
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_connection_has_the_time_limit_of_the_listener_that_was_adopted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stall = Duration::from_secs(7);

        let ours = adopt(listener.try_clone().unwrap(), stall).unwrap();

        let _client = TcpStream::connect(ours.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = ours.accept().unwrap();
        assert_eq!(SockRef::from(&accepted).tcp_user_timeout().unwrap(), Some(stall));
    }
}
