//! Requests to identity providers, within limits (SEC-41): no redirects, 10 s, 1 MiB, 3 MiB for keys.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use awc::{Client, Connector};
use futures_util::StreamExt;
use oauth2::{HttpRequest, HttpResponse};
use url::{Host, Url};

use crate::settings::is_loopback;

const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(10);
const LARGEST: usize = 1 << 20;
const LARGEST_KEYS: usize = 3 << 20;
/// Keys that nobody knows are asked for so often at most.
const REFETCH: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it did not answer in time")]
    Timeout,
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("its answer broke off")]
    Broken,
}

/// One thread's client for identity providers.
#[derive(Clone)]
pub struct Http {
    client: Client,
    refetched: Rc<RefCell<HashMap<Url, Instant>>>,
}

impl Http {
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        let connector = Connector::new().timeout(CONNECT).rustls_0_23(tls);
        let client = Client::builder()
            .connector(connector)
            .timeout(TOTAL)
            .disable_redirects()
            // GitHub answers nobody who does not say who they are.
            .add_default_header((
                "user-agent",
                concat!("bedrock-sso-proxy/", env!("CARGO_PKG_VERSION")),
            ))
            .finish();
        Self { client, refetched: Rc::default() }
    }

    /// A document, asked for as JSON.
    pub(super) async fn get(&self, url: &Url, bearer: Option<&str>) -> Result<Vec<u8>, FetchError> {
        self.get_within(url, bearer, LARGEST).await
    }

    /// A set of keys.
    pub(super) async fn get_keys(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        self.get_within(url, None, LARGEST_KEYS).await
    }

    async fn get_within(
        &self,
        url: &Url,
        bearer: Option<&str>,
        largest: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let mut headers = vec![("accept", "application/json".to_owned())];
        headers.extend(bearer.map(|token| ("authorization", format!("Bearer {token}"))));
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let (status, _, body) =
            self.send("GET", url.as_str(), &headers, Vec::new(), largest).await?;
        if status == 200 { Ok(body) } else { Err(FetchError::Status(status)) }
    }

    /// Sends a request of the OAuth library.
    pub(super) fn oauth(
        &self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>>>> {
        let http = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let headers: Vec<(&str, &[u8])> = parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_bytes()))
                .collect();
            let url = parts.uri.to_string();
            let (status, content_type, body) =
                http.send(parts.method.as_str(), &url, &headers, body, LARGEST).await?;
            // A failure of the provider is not an answer about the person.
            if status >= 500 || (300..400).contains(&status) {
                return Err(FetchError::Status(status));
            }
            let mut response = HttpResponse::new(body);
            *response.status_mut() =
                oauth2::http::StatusCode::from_u16(status).map_err(|_| FetchError::Broken)?;
            if let Ok(value) = oauth2::http::HeaderValue::from_str(&content_type) {
                response.headers_mut().insert(oauth2::http::header::CONTENT_TYPE, value);
            }
            Ok(response)
        })
    }

    async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &[u8])],
        body: Vec<u8>,
        largest: usize,
    ) -> Result<(u16, String, Vec<u8>), FetchError> {
        let method = method.parse().map_err(|_| FetchError::Broken)?;
        let mut request = self.client.request(method, url).no_decompress();
        for (name, value) in headers {
            request = request.append_header((*name, *value));
        }
        let exchange = async {
            let mut answer = request.send_body(body).await.map_err(|error| match error {
                awc::error::SendRequestError::Timeout => FetchError::Timeout,
                error => FetchError::Unreachable(error.to_string()),
            })?;
            let content_type = answer.headers().get("content-type");
            let content_type =
                content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            let mut whole = Vec::new();
            while let Some(piece) = answer.next().await {
                let piece = piece.map_err(|_| FetchError::Broken)?;
                if whole.len() + piece.len() > largest {
                    return Err(FetchError::TooLarge(largest));
                }
                whole.extend_from_slice(&piece);
            }
            Ok((answer.status().as_u16(), content_type, whole))
        };
        // awc's own limit ends with the head of the answer; a body that trickles in is under this one.
        tokio::time::timeout(TOTAL, exchange).await.unwrap_or(Err(FetchError::Timeout))
    }

    /// Whether keys may be fetched again now; counts as having done so.
    pub(super) fn may_refetch(&self, url: &Url) -> bool {
        let mut refetched = self.refetched.borrow_mut();
        let recently = refetched.get(url).is_some_and(|last| last.elapsed() < REFETCH);
        if !recently {
            refetched.insert(url.clone(), Instant::now());
        }
        !recently
    }
}

/// An address that a provider's document names must be as safe as the document's own: https, and not on this machine or
/// its link, unless the document was there too.
pub(super) fn may_follow(document: &Url, found: &Url) -> Result<(), &'static str> {
    let local = |url: &Url| url.host_str().is_some_and(is_loopback);
    if local(document) && local(found) {
        return Ok(());
    }
    if found.scheme() != "https" {
        return Err("it is not https");
    }
    let inside = match found.host() {
        Some(Host::Ipv4(address)) => {
            address.is_loopback() || address.is_link_local() || address.is_unspecified()
        }
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified()
        }
        Some(Host::Domain(name)) => is_loopback(name),
        None => true,
    };
    if inside { Err("it is on this machine or its link") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_leads_to_https_and_not_into_this_machine() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let (away, here) = (url("https://idp.example/x"), url("http://127.0.0.1:8080/x"));
        for (document, found, good) in [
            (&away, "https://keys.example/jwks", true),
            (&away, "http://idp.example/token", false),
            (&away, "http://169.254.169.254/latest", false),
            (&away, "https://169.254.169.254/latest", false),
            (&away, "https://127.0.0.1/token", false),
            (&away, "https://localhost/token", false),
            (&away, "https://[::1]/token", false),
            (&away, "https://[fe80::1]/token", false),
            (&here, "http://127.0.0.1:8080/token", true),
            (&here, "http://localhost:8080/token", true),
            (&here, "http://169.254.169.254/token", false),
            (&here, "https://169.254.169.254/token", false),
        ] {
            assert_eq!(may_follow(document, &url(found)).is_ok(), good, "{document} {found}");
        }
    }
}
