//! The application of one worker: its own client of Bedrock, its own journal, and the middleware around all routes.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use actix_service::ServiceFactory;
use actix_web::{
    App,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::{Condition, from_fn},
    web::{Data, PathConfig, QueryConfig},
};
use actix_web_prom::PrometheusMetrics;
use paperclip::actix::OpenApiExt;
use tokio_util::sync::CancellationToken;
use tracing_actix_web::TracingLogger;

use crate::{
    actors::usage::Record,
    bedrock::{Bedrock, Endpoints},
    routes::{self, error, surface},
    settings,
    state::{Messages, Shared, Worker},
    usage::{
        call::{Desk, Sink},
        journal::Journal,
    },
};

/// What each worker's application is made of.
#[derive(Clone)]
pub(super) struct Wiring {
    pub shared: Arc<Shared>,
    pub http_metrics: PrometheusMetrics,
    pub usage: settings::Usage,
    pub aws: settings::Aws,
    pub cors_origins: Vec<String>,
    pub endpoints: Arc<Endpoints>,
    pub messages: Arc<Messages>,
    pub client_tls: Arc<rustls::ClientConfig>,
    pub cut_calls: CancellationToken,
    pub workers_so_far: Arc<AtomicUsize>,
}

/// The application of one worker, made on the worker's own thread.
pub(super) fn app(
    wiring: &Wiring,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody + use<>>,
        Error = actix_web::Error,
        InitError = (),
    > + use<>,
> {
    let Wiring { shared, usage, .. } = wiring;
    let number = wiring.workers_so_far.fetch_add(1, SeqCst);
    let journal = Journal::new(shared.journal.clone(), number, usage.fsync, usage.on_full);
    let recorder = shared.actors.usage.clone();
    let sink: Sink = Box::new(move |calls| match recorder.address().try_send(Record(calls)) {
        Ok(()) => Ok(()),
        Err(refused) => Err(refused.into_inner().0),
    });
    let desk = Desk::new(journal.clone(), shared.metrics.clone(), sink);
    actix_rt::spawn(journal.keep_synced());
    actix_rt::spawn(desk.clone().keep_sending());
    let retries = shared.metrics.upstream_retries.clone();
    let worker = Worker {
        bedrock: Bedrock::new(
            &wiring.aws,
            wiring.endpoints.clone(),
            wiring.client_tls.clone(),
            retries,
        ),
        messages: wiring.messages.clone(),
        desk,
        shared: shared.clone(),
        // One for each worker, so that waiting for it takes no lock that another thread takes.
        cut: wiring.cut_calls.child_token(),
        on_disconnect: usage.on_disconnect,
        drains: Rc::new(Cell::new(0)),
    };
    App::new()
        .app_data(Data::new(worker))
        .app_data(QueryConfig::default().error_handler(|error, _| error::query(&error).into()))
        .app_data(
            PathConfig::default()
                .error_handler(|error, request| error::path(&error, request).into()),
        )
        .wrap(from_fn(error::in_shape))
        .wrap(Condition::new(!wiring.cors_origins.is_empty(), cors(&wiring.cors_origins)))
        .wrap(from_fn(surface::guard))
        .wrap(wiring.http_metrics.clone())
        .wrap(TracingLogger::<surface::AccessLog>::new())
        .wrap_api_with_spec(routes::docs::defaults())
        .configure(routes::configure)
        .build()
        .configure(routes::pages::configure)
}

/// SEC-48: listed origins only, exactly, without cookies.
fn cors(origins: &[String]) -> actix_cors::Cors {
    let cors = actix_cors::Cors::default()
        .allowed_methods(["GET", "POST", "PATCH", "PUT", "DELETE"])
        .allow_any_header()
        .expose_headers([
            "request-id",
            "retry-after",
            "x-amzn-errortype",
            "x-amzn-requestid",
            "x-request-id",
            "x-should-retry",
        ])
        .max_age(3600);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
