//! `GET /metrics`, on a listener of its own (SEC-61).

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, http::header, web};
use anyhow::{Context, ensure};
use prometheus::TextEncoder;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    auth::constant_time_eq,
    server::{self, Options, Server},
    settings::{self, listen_address},
    state::Shared,
};

/// The metrics' server and where it listens; `None` if they are off.
///
/// # Errors
/// If it cannot listen, or may not listen where the inherited socket does.
pub fn server(
    settings: &settings::Metrics,
    shared: &Arc<Shared>,
    inherited: Option<TcpListener>,
) -> anyhow::Result<Option<(Server, SocketAddr)>> {
    if !settings.enabled {
        return Ok(None);
    }
    let timeouts = shared.server.timeouts.clone();
    let stall = Duration::from_secs(timeouts.write_stall_seconds);
    let listener = match inherited {
        Some(listener) => server::adopt(listener, stall).context("the inherited socket")?,
        None => {
            let address = listen_address(&settings.host, settings.port).context("metrics.host")?;
            server::bind(address, stall, shared.server.reuse_port).with_context(|| {
                format!("cannot listen on {address} (metrics.host, metrics.port)")
            })?
        }
    };
    let address = listener.local_addr()?;
    // Of metrics.host the settings were checked for this; the inherited socket may be any.
    ensure!(
        address.ip().is_loopback() || settings.token.is_some() || settings.allow_anonymous,
        "the inherited socket for metrics ({address}) needs metrics.token, or metrics.allow_anonymous: true"
    );
    let (_, closing) = tokio::sync::watch::channel(false);
    let options = Options { workers: 1, connections: 64, timeouts, tls: None, closing };
    let (token, shared) = (settings.token.clone(), shared.clone());
    let app = move || {
        App::new()
            .app_data(web::Data::new(token.clone()))
            .app_data(web::Data::from(shared.clone()))
            .route("/metrics", web::get().to(metrics))
    };
    Ok(Some((server::serve(listener, options, app), address)))
}

async fn metrics(
    request: HttpRequest,
    token: web::Data<Option<SecretString>>,
    shared: web::Data<Shared>,
) -> HttpResponse {
    if let Some(token) = token.as_ref() {
        let given =
            request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        if !constant_time_eq(given.as_bytes(), token.expose_secret().as_bytes()) {
            return HttpResponse::Unauthorized()
                .insert_header((header::WWW_AUTHENTICATE, "Bearer"))
                .finish();
        }
    }
    match TextEncoder::new().encode_to_string(&shared.metrics.registry.gather()) {
        Ok(text) => HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
