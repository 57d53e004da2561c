//! What arrives and what is answered, as plain values: the endpoints know no HTTP server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use url::form_urlencoded;

use super::fault::Fault;

/// Media type of a form.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// A request, read whole.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Parameters,
    /// Empty if the body is no form.
    pub(super) form: Parameters,
    /// Those which matter here; names in lower case.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Request {
    /// The header's value, if there is one.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the body says that it is a form.
    pub(super) fn is_form(&self) -> bool {
        let media_type = self.header("content-type").and_then(|text| text.split(';').next());
        media_type.is_some_and(|text| text.trim().eq_ignore_ascii_case(FORM))
    }

    /// What follows `scheme` in the authorisation header.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (given, rest) = self.header("authorization")?.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then(|| rest.trim())
    }

    /// User name and password of RFC 7617; in OAuth both are encoded as in forms (RFC 6749, 2.3.1).
    pub(super) fn basic(&self) -> Option<Result<(String, String), NotReadable>> {
        let read = |text: &str| {
            let bytes = STANDARD.decode(text).map_err(|_| NotReadable)?;
            let text = String::from_utf8(bytes).map_err(|_| NotReadable)?;
            let (name, password) = text.split_once(':').ok_or(NotReadable)?;
            Ok((form_decoded(name), form_decoded(password)))
        };
        self.authorization("basic").map(read)
    }
}

/// An authorisation header which says nothing.
#[derive(Debug)]
pub(super) struct NotReadable;

/// One value of a form. Neither `=` nor `&` can be in what was encoded; if they are, they stand
/// for themselves.
fn form_decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// Names and values in the order of their arrival.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn read(text: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(text);
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// Both, one after the other.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value; an empty one counts as none (RFC 6749, 3.1).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A name which is there twice; no parameter may be (RFC 6749, 3.1).
    pub(super) fn repeated(&self) -> Option<&str> {
        let mut rest = self.0.iter();
        while let Some((name, _)) = rest.next() {
            if rest.clone().any(|(other, _)| other == name) {
                return Some(name);
            }
        }
        None
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
    /// For the ledger.
    pub(super) outcome: String,
    pub(super) subject: Option<String>,
    /// The fault of the sign-in in question, for the ledger.
    pub(super) fault: Option<Fault>,
}

impl Answer {
    pub(super) fn new(status: u16, media_type: &str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("content-type", media_type.to_owned())],
            body: body.into(),
            outcome: "ok".to_owned(),
            subject: None,
            fault: None,
        }
    }

    /// A page.
    pub(super) fn html(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    /// A redirection of the browser.
    pub(super) fn found(location: impl Into<String>) -> Self {
        Self::new(302, "text/plain; charset=utf-8", "")
            .with("location", location)
            .with("cache-control", "no-store")
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn outcome(mut self, outcome: impl Into<String>) -> Self {
        self.outcome = outcome.into();
        self
    }

    pub(super) fn about(mut self, subject: &str, fault: Option<Fault>) -> Self {
        self.subject = Some(subject.to_owned());
        self.fault = fault;
        self
    }
}
