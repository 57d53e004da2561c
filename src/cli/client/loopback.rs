//! The end of a browser sign-in on this machine (RFC 8252, section 7.3): a listener that takes one callback.

use std::{io, time::Duration};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use url::form_urlencoded;

use super::plain;

/// The browser's cookies for this machine count, whichever program set them.
const LONGEST_HEAD: usize = 32 << 10;
const LONGEST_LINE: usize = 8 << 10;
/// For reading a request, and again for writing the answer.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 16;

/// What the browser brought.
#[derive(Debug)]
pub enum Callback {
    Code(SecretString),
    /// Why there is no code, as a word for people.
    Refused(String),
}

pub struct Loopback {
    listener: TcpListener,
    port: u16,
}

impl Loopback {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    pub fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}/callback", self.port)
    }

    /// The first callback with this `state`; `None` if it does not come `within` that time.
    pub async fn callback(self, state: &SecretString, within: Duration) -> Option<Callback> {
        let mut conversations = JoinSet::new();
        timeout(within, async {
            loop {
                // A browser opens connections that it may never use: none may hold up another.
                tokio::select! {
                    accepted = self.listener.accept(), if conversations.len() < CONNECTIONS => {
                        match accepted {
                            Ok((stream, _)) => {
                                conversations.spawn(converse(stream, state.clone()));
                            }
                            Err(_) => sleep(Duration::from_millis(50)).await,
                        }
                    }
                    Some(ended) = conversations.join_next() => {
                        if let Ok(Some(callback)) = ended {
                            return callback;
                        }
                    }
                }
            }
        })
        .await
        .ok()
    }
}

/// Answers one request; the callback if it was one.
async fn converse(mut stream: TcpStream, state: SecretString) -> Option<Callback> {
    let head = timeout(PATIENCE, read_head(&mut stream)).await.ok()?.ok()?;
    let judged = judge(&head, state.expose_secret());
    let (status, sentence) = match &judged {
        Ok(Callback::Code(_)) => ("200 OK", "You are signed in."),
        Ok(Callback::Refused(_)) => ("200 OK", "The sign-in was refused."),
        Err(wrong) => (wrong.status(), "This is not the end of a sign-in."),
    };
    let written = timeout(PATIENCE, async {
        stream.write_all(page(status, sentence).as_bytes()).await?;
        stream.shutdown().await
    });
    // The callback counts even if the browser has gone.
    let _unread = written.await;
    judged.ok()
}

/// Reads up to the empty line that ends a head, or to the most that is read.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(2048);
    let mut limited = stream.take(LONGEST_HEAD as u64);
    loop {
        let read = limited.read_buf(&mut head).await?;
        if read == 0 || is_whole(&head) {
            return Ok(head);
        }
    }
}

fn is_whole(head: &[u8]) -> bool {
    memchr::memmem::find(head, b"\r\n\r\n").is_some()
}

#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Place,
    Request,
    TooLong,
}

impl Wrong {
    fn status(&self) -> &'static str {
        match self {
            Self::Place => "404 Not Found",
            Self::Request => "400 Bad Request",
            Self::TooLong => "431 Request Header Fields Too Large",
        }
    }
}

/// The callback in a request's head, if it is the one that is waited for.
fn judge(head: &[u8], state: &str) -> Result<Callback, Wrong> {
    let line = memchr::memmem::find(head, b"\r\n").and_then(|end| head.get(..end));
    let whole = is_whole(head);
    if line.is_some_and(|line| line.len() > LONGEST_LINE) || !whole && head.len() >= LONGEST_HEAD {
        return Err(Wrong::TooLong);
    }
    if !whole {
        return Err(Wrong::Request);
    }
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(Wrong::Request)?;
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = parts.as_slice() else {
        return Err(Wrong::Request);
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if *method != "GET" || path != "/callback" {
        return Err(Wrong::Place);
    }
    let given = single(query, "state")?.ok_or(Wrong::Request)?;
    verify_slices_are_equal(given.as_bytes(), state.as_bytes()).map_err(|_| Wrong::Request)?;
    match (single(query, "code")?, single(query, "error")?) {
        (Some(code), None) if !code.is_empty() => Ok(Callback::Code(code.into())),
        (None, Some(error)) => Ok(Callback::Refused(plain(&error))),
        _ => Err(Wrong::Request),
    }
}

/// The value of a parameter that must not be there twice.
fn single(query: &str, name: &str) -> Result<Option<String>, Wrong> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    match (values.next(), values.next()) {
        (first, None) => Ok(first.map(|(_, value)| value.into_owned())),
        _ => Err(Wrong::Request),
    }
}

/// An answer of fixed text: nothing of the request is in it.
fn page(status: &str, sentence: &str) -> String {
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Bedrock SSO Proxy</title>\n\
         <p>{sentence} You can close this window.</p>\n</html>\n"
    );
    format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n\
         Cache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         Referrer-Policy: no-referrer\r\n\
         X-Content-Type-Options: nosniff\r\n\
         X-Frame-Options: DENY\r\n\
         \r\n\
         {body}",
        body.len()
    )
}

#[cfg(test)]
mod tests;
