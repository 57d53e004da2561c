//! The client side, on a person's own machine: it reads no settings of the service. What `login`, `token` and
//! `logout` share: the service's address, the tokens' file, the calls.

pub mod check;
pub mod device;
pub mod loopback;
pub mod pkce;
pub mod service;
pub mod store;
pub mod tokens;

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use self::{
    service::{Service, ServiceError},
    tokens::Tokens,
};

/// A token with less to live is renewed before the service is asked to end its session.
const ENOUGH_TO_LOG_OUT: TimeDelta = TimeDelta::seconds(30);
/// Characters of a foreign text that are shown.
const SHOWN: usize = 200;

#[derive(Debug, Parser)]
pub struct Trust {
    /// PEM file of certificate authorities to trust, besides the system's.
    #[arg(long, value_name = "PEM", env = "BEDROCK_PROXY_CA_FILE")]
    pub ca_file: Option<PathBuf>,
}

/// The origin of a service: `https://proxy.example.com`, with a port unless it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceUrl(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a URL such as https://proxy.example.com")]
    Malformed,
    #[error("it must begin with https:// (http:// for localhost)")]
    Scheme,
    #[error("plain http would show the tokens to the network; only this machine is reached by it")]
    PlainHttp,
    #[error("it must be the service's base: no path, query, fragment or user")]
    NotABase,
}

impl FromStr for ServiceUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text.trim()).map_err(|_| UrlError::Malformed)?;
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(url.host()) => {}
            "http" => return Err(UrlError::PlainHttp),
            _ => return Err(UrlError::Scheme),
        }
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if bare { Ok(Self(url.origin().ascii_serialization())) } else { Err(UrlError::NotABase) }
    }
}

impl TryFrom<String> for ServiceUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<ServiceUrl> for String {
    fn from(url: ServiceUrl) -> Self {
        url.0
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl ServiceUrl {
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// The address of `path`, which begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

fn is_loopback(host: Option<Host<&str>>) -> bool {
    match host {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// A text from elsewhere, for a terminal: one line, short, no control characters.
pub fn plain(text: &str) -> String {
    let shown = text.chars().filter(|character| !character.is_control());
    shown.take(SHOWN).collect()
}

/// Ends the session on the service; one that has ended already is no error.
///
/// # Errors
/// That the service could not be asked, or what it answered.
pub async fn end_session(
    service: &Service,
    tokens: &Tokens,
    now: DateTime<Utc>,
) -> Result<(), ServiceError> {
    if tokens.access_expires_at - now > ENOUGH_TO_LOG_OUT {
        return service.logout(&tokens.access_token).await;
    }
    match service.refresh(&tokens.refresh_token).await {
        Ok(fresh) => service.logout(&fresh.access_token).await,
        Err(error) if error.has_ended() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, UrlError> {
        text.parse().map(|url: ServiceUrl| url.to_string())
    }

    #[test]
    fn a_base_is_kept_as_its_origin() {
        for (text, kept) in [
            ("https://proxy.example.com", "https://proxy.example.com"),
            ("https://proxy.example.com/", "https://proxy.example.com"),
            ("https://Proxy.Example.com:443/", "https://proxy.example.com"),
            ("https://proxy.example.com:8443", "https://proxy.example.com:8443"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(kept), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_base_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", UrlError::Malformed),
            ("proxy.example.com", UrlError::Malformed),
            ("https://", UrlError::Malformed),
            ("localhost:3555", UrlError::Scheme),
            ("ftp://proxy.example.com", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Scheme),
            ("http://proxy.example.com", UrlError::PlainHttp),
            ("http://10.0.0.1:3000", UrlError::PlainHttp),
            ("http://localhost.example.com", UrlError::PlainHttp),
            ("https://proxy.example.com/anthropic", UrlError::NotABase),
            ("https://proxy.example.com/?a=b", UrlError::NotABase),
            ("https://proxy.example.com/#top", UrlError::NotABase),
            ("https://me@proxy.example.com/", UrlError::NotABase),
            ("https://me:secret@proxy.example.com/", UrlError::NotABase),
        ] {
            assert_eq!(parse(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_foreign_text_cannot_command_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\r\n\u{9b}c"), "a[2Jbc");
        assert_eq!(plain(&"ä".repeat(1000)).chars().count(), 200);
    }
}
