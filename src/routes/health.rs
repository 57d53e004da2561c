//! Probes, answered from what the checks found last: no outbound call, no wait.

use std::sync::atomic::Ordering::Relaxed;

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, web::Data};
use paperclip::actix::api_v2_operation;
use serde_json::json;

use super::{error::ApiError, extract::Admin};
use crate::{state::Shared, state::Worker};

/// Is the service ready?
///
/// 200 or 503. With `?check=all` or the name of a part, details for admins.
#[api_v2_operation(tags(Health), operation_id = "health")]
pub async fn health(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let condition = condition(&worker.shared);
    let mut body = json!({ "status": condition, "version": env!("CARGO_PKG_VERSION") });
    if let Some(wanted) = query_value(&request, "check") {
        Admin::from_request(&request, &mut Payload::None).await?;
        let health = &worker.shared.health;
        if wanted != "all" && !health.names().any(|name| name == wanted) {
            let names: Vec<_> = health.names().collect();
            return Err(ApiError::parameter(
                "check",
                format!("check must be all, {}.", names.join(", ")),
            ));
        }
        let results = health.results();
        let shown = results.iter().filter(|(name, _)| wanted == "all" || **name == wanted);
        let shown: serde_json::Map<_, _> =
            shown.map(|(name, result)| ((*name).to_owned(), json!(result))).collect();
        if let Some(members) = body.as_object_mut() {
            members.insert("checks".to_owned(), shown.into());
        }
    }
    Ok(answer(condition == "ok", &body))
}

/// Ready to take calls?
///
/// 503 while starting or draining, when the database is away for longer than its grace time, and when the journal
/// refuses calls.
#[api_v2_operation(tags(Health), operation_id = "ready")]
pub async fn ready(worker: Data<Worker>) -> HttpResponse {
    let condition = condition(&worker.shared);
    answer(condition == "ok", &json!({ "status": condition, "version": env!("CARGO_PKG_VERSION") }))
}

/// Alive?
///
/// 200 as long as the event loop and the actors answer.
#[api_v2_operation(tags(Health), operation_id = "live")]
pub async fn live(worker: Data<Worker>) -> HttpResponse {
    let alive = worker.shared.health.actors_answer();
    let status = if alive { "ok" } else { "unavailable" };
    answer(alive, &json!({ "status": status, "version": env!("CARGO_PKG_VERSION") }))
}

fn answer(good: bool, body: &serde_json::Value) -> HttpResponse {
    if good { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

pub(super) fn condition(shared: &Shared) -> &'static str {
    let health = &shared.health;
    let refusing =
        shared.strict && shared.journal.as_ref().is_some_and(|journal| journal.is_refusing());
    if shared.draining.load(Relaxed) {
        "draining"
    } else if health.is_starting() {
        "starting"
    } else if refusing
        || !health.actors_answer()
        || shared.actors.are_unstable()
        || !health.database_in_grace()
    {
        "unavailable"
    } else {
        "ok"
    }
}

fn query_value(request: &HttpRequest, name: &str) -> Option<String> {
    let pairs =
        actix_web::web::Query::<Vec<(String, String)>>::from_query(request.query_string()).ok()?;
    pairs.into_inner().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}
