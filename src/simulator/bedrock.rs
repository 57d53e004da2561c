//! The route of one request: read it, authenticate it, check it, do what its scenario says, answer.

use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::{Bytes, BytesMut};
use chrono::Utc;
use futures_util::StreamExt;
use uuid::Uuid;

use super::SimulatorConfig;
use super::attempts::Attempts;
use super::body::SimBody;
use super::count::{Counted, counted};
use super::ledger::{Call, Ledger, Ticket};
use super::operation::{Operation, Task, address};
use super::prompt_cache::PromptCache;
use super::refusal::Refusal;
use super::scenario::{Kind, Scenario};
use super::signature::{Received, authenticate, check_headers};
use super::wire::{Connection, JSON, Reply, refused, send, with_hop_headers};

/// Largest body which is read at all.
const MAX_READ: usize = 40 * 1024 * 1024;

/// What all workers share.
#[derive(Debug)]
pub(super) struct World {
    config: SimulatorConfig,
    ledger: Ledger,
    prompts: PromptCache,
    attempts: Attempts,
    host: OnceLock<String>,
}

impl World {
    pub(super) fn new(config: SimulatorConfig, ledger: Ledger) -> Self {
        let (prompts, attempts) = (PromptCache::default(), Attempts::default());
        Self { config, ledger, prompts, attempts, host: OnceLock::new() }
    }

    pub(super) fn listens_on(&self, address: std::net::SocketAddr) {
        let _only_once = self.host.set(address.to_string());
    }

    fn host(&self) -> &str {
        self.host.get().map_or("", String::as_str)
    }
}

/// Answers any request.
pub(super) async fn serve(
    request: HttpRequest,
    payload: Payload,
    world: Data<World>,
) -> HttpResponse<SimBody> {
    if let Some(page) = request.path().strip_prefix("/_simulator/") {
        return own_page(request.method().as_str(), page, &world);
    }
    let body = match read(payload).await {
        Ok(body) => body,
        Err(refusal) => return send(refused(&refusal, &Scenario::default()), None, "", None),
    };
    let (started, id) = (Instant::now(), Uuid::new_v4());
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    let (ticket, admitted) = admit(&request, &body, &world, id, connection.as_deref());
    let answered = admitted.and_then(|Admitted { operation, model_id, region, scenario }| {
        let (prompts, attempts) = (&world.prompts, &world.attempts);
        let (model_id, region) = (&model_id, &region);
        let task = Task { operation, model_id, region, id, started, prompts, attempts };
        let reply = task.answer(&body, &scenario, &request)?;
        Ok((reply, scenario))
    });
    let id = id.to_string();
    match answered {
        Ok((reply, scenario)) => play(reply, scenario, ticket, &id, connection).await,
        Err(refusal) => {
            let plain = Scenario::default();
            send(refused(&refusal, &plain), Some((ticket, plain)), &id, connection)
        }
    }
}

/// A request which may be answered.
struct Admitted {
    operation: Operation,
    model_id: String,
    region: String,
    scenario: Scenario,
}

/// Opens the row of the ledger, and finds out who is calling and what for.
fn admit(
    request: &HttpRequest,
    body: &Bytes,
    world: &World,
    id: Uuid,
    connection: Option<&Connection>,
) -> (Ticket, Result<Admitted, Refusal>) {
    let path = request.uri().path();
    let headers = header_lines(request);
    let body_sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body));
    let received = Received {
        method: request.method().as_str(),
        target: request.uri().path_and_query().map_or(path, |target| target.as_str()),
        headers: &headers,
        body_sha256: &body_sha256,
    };
    let addressed = address(received.method, path);
    let caller = check_headers(&received, world.host())
        .and_then(|()| authenticate(&world.config, &received, SystemTime::now()));
    let segment = path.rsplit('/').next().unwrap_or_default();
    let scenario = scenario_of(body, segment);
    let named = scenario.as_ref().ok().and_then(|scenario| scenario.kind);
    if matches!(segment, "invoke" | "invoke-with-response-stream" | "count-tokens") {
        world.ledger.keep_body(id.to_string(), body); // before the row which tells of it
    }
    let ticket = world.ledger.open(Call {
        request_id: id.to_string(),
        connection: connection.map_or(0, Connection::number),
        operation: Operation::of(segment).map_or("unknown", |_| segment).to_owned(),
        model_id: addressed.as_ref().map(|found| found.1.clone()).unwrap_or_default(),
        region: caller.as_ref().cloned().unwrap_or_default(),
        scenario: named.map(|kind| kind.name().to_owned()),
        status: 0,
        finished: false,
        aborted: false,
        usage: None,
        raw_path: received.target.to_owned(),
        received_headers: headers,
        body_sha256,
        body_bytes: body.len(),
        started_at: Utc::now(),
        ended_at: None,
    });
    let admitted = caller.and_then(|region| {
        let ((operation, model_id), scenario) = (addressed?, scenario?);
        Ok(Admitted { operation, model_id, region, scenario })
    });
    (ticket, admitted)
}

/// Sends an answer, or does to the connection what the scenario wants before there is one.
async fn play(
    reply: Reply,
    scenario: Scenario,
    mut ticket: Ticket,
    id: &str,
    connection: Option<Rc<Connection>>,
) -> HttpResponse<SimBody> {
    match (scenario.kind, &connection) {
        (Some(Kind::Slow), _) => {
            tokio::time::sleep(scenario.delay.unwrap_or(Duration::from_secs(1))).await;
        }
        (Some(Kind::Hang), _) => std::future::pending().await,
        (Some(Kind::Reset), Some(connection)) => {
            ticket.close(false);
            connection.reset();
            return std::future::pending().await; // until the server sees the closed socket
        }
        (Some(Kind::HopHeaders), Some(connection)) => {
            let status = reply.status;
            let (bytes, usage) = with_hop_headers(reply, id);
            connection.write(&bytes);
            ticket.note(|call| (call.status, call.usage) = (status, usage));
            ticket.close(true);
            connection.close();
            return std::future::pending().await;
        }
        _ => {}
    }
    send(reply, Some((ticket, scenario)), id, connection)
}

/// Reads the whole body.
async fn read(mut payload: Payload) -> Result<Bytes, Refusal> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| Refusal::validation(format!("body: {error}")))?;
        if first.is_empty() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        if all.len() + piece.len() > MAX_READ {
            return Err(Refusal::validation("The request body is too large."));
        }
        all.extend_from_slice(&piece);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// One pair a line, names in lower case; lines of one name stay in order.
fn header_lines(request: &HttpRequest) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = request.headers().iter();
    headers.map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect()
}

/// The scenario of a body; CountTokens may have it inside its base64.
fn scenario_of(body: &Bytes, operation: &str) -> Result<Scenario, Refusal> {
    let scenario = Scenario::read(body)?;
    if operation != "count-tokens" || scenario.kind.is_some() {
        return Ok(scenario);
    }
    match counted(body) {
        Ok(Counted::Invoke(inner)) => Scenario::read(&inner),
        _ => Ok(scenario),
    }
}

/// The simulator's own pages: its health, and for tests in another process its ledger and the
/// bodies which arrived last.
fn own_page(method: &str, page: &str, world: &World) -> HttpResponse<SimBody> {
    let reply = match (method, page) {
        ("GET", "health") => Reply::whole(
            200,
            JSON,
            format!("{{\"status\":\"ok\",\"calls\":{}}}", world.ledger.len()),
        ),
        ("GET", "ledger") => {
            let calls = serde_json::to_vec(&world.ledger.calls()).unwrap_or_default();
            Reply::whole(200, JSON, calls)
        }
        ("GET", "last-body") => bytes_page(world.ledger.last_body()),
        ("GET", page) if page.starts_with("body/") => {
            bytes_page(world.ledger.body(page.trim_start_matches("body/")))
        }
        ("DELETE", "ledger") => {
            world.ledger.clear();
            Reply::whole(200, JSON, "[]")
        }
        _ => no_page(),
    };
    send(reply, None, "", None)
}

fn bytes_page(bytes: Option<Bytes>) -> Reply {
    bytes.map_or_else(no_page, |bytes| Reply::whole(200, "application/octet-stream", bytes))
}

fn no_page() -> Reply {
    Reply::whole(404, JSON, r#"{"message":"no such page"}"#)
}
