//! The route of one request: read it, note it, fail it if that is the provider's fault, answer it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{BytesMut, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use chrono::Utc;
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::fault::Fault;
use super::grants::{Grants, Surface};
use super::request::{Answer, Parameters, Request};
use super::world::World;
use super::{authorize, discovery, token, userinfo};
use crate::simulator::wire::Connection;

/// Largest body which is read.
const MAX_READ: usize = 64 * 1024;
/// How slow the fault `slow` is.
const SLOW: Duration = Duration::from_secs(30);
/// Pieces of the fault `huge`, 100 MB together.
const PIECE: &[u8] = &[b'a'; 50_000];
const PIECES: usize = 2_000;
const METADATA: &str = "http://169.254.169.254/latest/meta-data/";

/// Headers which requests keep.
const KEPT: [&str; 4] = ["accept", "authorization", "content-type", "user-agent"];

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Discovery,
    KeySet,
    Authorize(Surface),
    Token(Surface),
    Userinfo,
    Revoke,
    GitHubUser,
    GitHubEmails,
}

const ROUTES: &[(&str, &[&str], Endpoint)] = &[
    ("/.well-known/openid-configuration", &["GET"], Endpoint::Discovery),
    ("/jwks", &["GET"], Endpoint::KeySet),
    ("/authorize", &["GET", "POST"], Endpoint::Authorize(Surface::OpenId)),
    ("/token", &["POST"], Endpoint::Token(Surface::OpenId)),
    ("/userinfo", &["GET", "POST"], Endpoint::Userinfo),
    ("/revoke", &["POST"], Endpoint::Revoke),
    ("/login/oauth/authorize", &["GET", "POST"], Endpoint::Authorize(Surface::GitHub)),
    ("/login/oauth/access_token", &["POST"], Endpoint::Token(Surface::GitHub)),
    ("/user", &["GET"], Endpoint::GitHubUser),
    ("/user/emails", &["GET"], Endpoint::GitHubEmails),
];

/// Answers any request.
pub(super) async fn serve(
    request: HttpRequest,
    payload: Payload,
    world: Data<World>,
    grants: Data<RefCell<Grants>>,
) -> HttpResponse {
    if request.path() == "/_simulator/ledger" {
        return own_page(&request, &world);
    }
    let Some(body) = read(payload).await else {
        return response(Answer::new(413, "text/plain; charset=utf-8", "too large"));
    };
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    let request = plain(&request, &body);
    let fault = world.fault();
    let row = world.ledger().open(&request, fault);
    let endpoint = find(&request);
    if let (Ok(endpoint), Some(fault)) = (&endpoint, fault)
        && !matches!(endpoint, Endpoint::Authorize(_))
        && let Some(failed) = fail(fault, *endpoint, connection).await
    {
        world.ledger().close(row, |call| {
            call.status = failed.status().as_u16();
            call.outcome = fault.name().to_owned();
        });
        return failed;
    }
    let answer = endpoint.map_or_else(
        |answer| answer,
        |endpoint| answer(endpoint, &world, &mut grants.borrow_mut(), &request),
    );
    world.ledger().close(row, |call| {
        call.status = answer.status;
        call.outcome.clone_from(&answer.outcome);
        call.subject.clone_from(&answer.subject);
        call.fault = answer.fault.or(call.fault);
    });
    response(answer)
}

fn find(request: &Request) -> Result<Endpoint, Answer> {
    let plain = |status, text: &str| Answer::new(status, "text/plain; charset=utf-8", text);
    let Some((_, methods, endpoint)) = ROUTES.iter().find(|(path, ..)| *path == request.path)
    else {
        return Err(plain(404, "not found").outcome("not found"));
    };
    if methods.contains(&request.method.as_str()) {
        Ok(*endpoint)
    } else {
        let answer = plain(405, "method not allowed").with("allow", methods.join(", "));
        Err(answer.outcome("method not allowed"))
    }
}

fn answer(endpoint: Endpoint, world: &World, grants: &mut Grants, request: &Request) -> Answer {
    let now = Utc::now();
    match endpoint {
        Endpoint::Discovery => discovery::document(world),
        Endpoint::KeySet => discovery::key_set(world),
        Endpoint::Authorize(surface) if request.method == "GET" => {
            authorize::show(world, grants, request, surface, now)
        }
        Endpoint::Authorize(surface) => authorize::submit(world, grants, request, surface, now),
        Endpoint::Token(surface) => token::token(world, grants, request, surface, now),
        Endpoint::Userinfo => userinfo::userinfo(world, grants, request, now),
        Endpoint::Revoke => token::revoke(world, grants, request),
        Endpoint::GitHubUser => userinfo::github_user(world, grants, request, now),
        Endpoint::GitHubEmails => userinfo::github_emails(world, grants, request, now),
    }
}

/// What the provider does instead of answering, if `fault` is about that. Browsers are spared: it is
/// the client which must cope.
async fn fail(
    fault: Fault,
    endpoint: Endpoint,
    connection: Option<Rc<Connection>>,
) -> Option<HttpResponse> {
    match (fault, endpoint) {
        (Fault::Slow, _) => {
            tokio::time::sleep(SLOW).await;
            None
        }
        (Fault::Down, _) => {
            if let Some(connection) = connection {
                connection.close();
            }
            std::future::pending().await // until the server sees the closed socket
        }
        (Fault::RedirectToMetadata, _) => Some(response(Answer::found(METADATA))),
        (Fault::Huge, _) => Some(huge()),
        (Fault::JwksDown, Endpoint::KeySet)
        | (
            Fault::UserinfoDown,
            Endpoint::Userinfo | Endpoint::GitHubUser | Endpoint::GitHubEmails,
        ) => Some(response(Answer::json(503, &json!({ "error": "temporarily_unavailable" })))),
        _ => None,
    }
}

/// Valid JSON without end, of a length which is not announced.
fn huge() -> HttpResponse {
    let start = stream::iter([Bytes::from_static(b"{\"padding\":\"")]);
    let middle = stream::iter(std::iter::repeat_n(Bytes::from_static(PIECE), PIECES));
    let body = start.chain(middle).chain(stream::iter([Bytes::from_static(b"\"}")]));
    HttpResponse::Ok().content_type("application/json").streaming(body.map(Ok::<_, Infallible>))
}

/// Reads the whole body, unless it is too large or breaks off.
async fn read(mut payload: Payload) -> Option<BytesMut> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.ok()?;
        if body.len() + piece.len() > MAX_READ {
            return None;
        }
        body.extend_from_slice(&piece);
    }
    Some(body)
}

fn plain(request: &HttpRequest, body: &[u8]) -> Request {
    let text = |name: &&'static str| {
        let value = request.headers().get(*name)?;
        Some((*name, String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    let mut plain = Request {
        method: request.method().as_str().to_owned(),
        path: request.path().to_owned(),
        query: Parameters::read(request.query_string().as_bytes()),
        form: Parameters::default(),
        headers: KEPT.iter().filter_map(text).collect(),
    };
    if plain.is_form() {
        plain.form = Parameters::read(body);
    }
    plain
}

/// For tests in another process.
fn own_page(request: &HttpRequest, world: &World) -> HttpResponse {
    if request.method() == "GET" {
        HttpResponse::Ok().json(world.ledger().calls())
    } else {
        response(Answer::new(405, "text/plain", "method not allowed").with("allow", "GET"))
    }
}

fn response(answer: Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::with_body(status, answer.body).map_into_boxed_body();
    for (name, value) in &answer.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    response
}
