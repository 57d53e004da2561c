//! Answers on their way out: as responses with a row in the ledger, or past HTTP altogether.

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::BodySize;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::rt::net::TcpStream;
use bytes::{Bytes, BytesMut};

use super::body::SimBody;
use super::ledger::{Ticket, TokenUsage};
use super::playback::{Frame, Frames, Playback, breaks_off};
use super::refusal::Refusal;
use super::scenario::Scenario;

pub(super) const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";
pub(super) const JSON: &str = "application/json";

/// A client's connection: a second handle on its socket, to do to it what HTTP has no word for.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    socket: Option<socket2::Socket>,
}

impl Connection {
    pub(super) fn of(stream: &dyn Any) -> Rc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stream = stream.downcast_ref::<TcpStream>();
        let socket = stream.and_then(|stream| socket2::SockRef::from(stream).try_clone().ok());
        Rc::new(Self { number, socket })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Closes it after what was written; the server notices and gives the call up.
    pub(super) fn close(&self) {
        if let Some(socket) = &self.socket {
            let _already_closed = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Closes it with a reset.
    pub(super) fn reset(&self) {
        if let Some(socket) = &self.socket {
            let _already_closed = socket.set_linger(Some(Duration::ZERO));
            let _already_closed = socket.shutdown(std::net::Shutdown::Read);
        }
    }

    /// Writes bytes behind the server's back, as far as the socket takes them.
    pub(super) fn write(&self, mut bytes: &[u8]) {
        while let Some(socket) = &self.socket
            && let Ok(written @ 1..) = socket.send(bytes)
        {
            bytes = bytes.get(written..).unwrap_or_default();
        }
    }
}

/// An answer before it is sent.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) content: Content,
}

/// What an answer consists of.
pub(super) enum Content {
    Whole(Bytes, Option<TokenUsage>),
    Frames(Frames),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

impl Reply {
    pub(super) fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, content: Content::Whole(body.into(), None) }
    }
}

/// An error as AWS sends it.
pub(super) fn refused(refusal: &Refusal, scenario: &Scenario) -> Reply {
    let mut reply = Reply::whole(refusal.status, JSON, refusal.body(scenario.capital));
    let uri =
        if scenario.uri { ":http://internal.amazon.com/coral/com.amazon.bedrock/" } else { "" };
    if !scenario.bare {
        reply.headers.push(("x-amzn-errortype", format!("{}{uri}", refusal.code)));
    }
    if let Some(seconds) = scenario.retry_after {
        reply.headers.push(("retry-after", seconds.to_string()));
    }
    reply
}

/// Turns an answer into a response which keeps its row of the ledger.
pub(super) fn send(
    reply: Reply,
    call: Option<(Ticket, Scenario)>,
    id: &str,
    connection: Option<Rc<Connection>>,
) -> HttpResponse<SimBody> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some((ticket, _)) = &call {
        ticket.note(|call| call.status = reply.status);
    }
    let body = match (reply.content, call) {
        (Content::Whole(bytes, usage), None) => SimBody::whole(bytes, usage, None),
        (Content::Whole(bytes, usage), Some((ticket, scenario))) => {
            if scenario.kind.is_some_and(breaks_off) {
                let size = BodySize::Sized(bytes.len() as u64);
                let frames = Box::new(quarters(bytes, usage).into_iter());
                let playback = Playback::new(frames, &scenario, size, false, connection);
                SimBody::played(playback, ticket)
            } else {
                SimBody::whole(bytes, usage, Some(ticket))
            }
        }
        (Content::Frames(frames), Some((ticket, scenario))) => {
            let size = BodySize::Stream;
            let playback = Playback::new(frames, &scenario, size, true, connection);
            SimBody::played(playback, ticket)
        }
        (Content::Frames(_), None) => SimBody::whole(Bytes::new(), None, None),
    };
    let mut response = HttpResponse::with_body(status, body);
    let headers = response.headers_mut();
    for (name, value) in &reply.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), id);
    }
    response
}

/// A body cut in four, so that there is something to break off.
fn quarters(bytes: Bytes, usage: Option<TokenUsage>) -> Vec<Frame> {
    let step = bytes.len().div_ceil(4).max(1);
    let ends = (0..bytes.len()).step_by(step).map(|from| (from, bytes.len().min(from + step)));
    let frame = |(from, to)| Frame {
        name: "chunk",
        bytes: bytes.slice(from..to),
        usage: usage.filter(|_| to == bytes.len()),
    };
    ends.map(frame).collect()
}

/// The answer as bytes on the wire, with headers which a proxy must not pass on.
pub(super) fn with_hop_headers(reply: Reply, id: &str) -> (Vec<u8>, Option<TokenUsage>) {
    let (body, usage) = match reply.content {
        Content::Whole(bytes, usage) => (bytes, usage),
        Content::Frames(frames) => {
            let (mut all, mut usage) = (BytesMut::new(), None);
            for frame in frames {
                all.extend_from_slice(&frame.bytes);
                usage = frame.usage.or(usage);
            }
            (all.freeze(), usage)
        }
    };
    let mut head = format!("HTTP/1.1 {} OK\r\nx-amzn-RequestId: {id}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!(
        "Connection: x-foo\r\nX-Foo: one hop\r\nKeep-Alive: timeout=5\r\n\
         Set-Cookie: simulated=1; Path=/\r\nX-Internal: 10.0.0.1\r\nServer: simulator\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    ));
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    (bytes, usage)
}
