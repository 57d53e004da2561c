//! Whether a request that a browser's session authenticates comes from our own pages (SEC-46): the browser says so, and
//! the request carries a token that only our pages know.

use std::sync::Arc;

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tracing::Instrument;

use super::{
    body,
    error::{ApiError, Code, brief},
    extract::{self, Visitor},
    pages::name_of,
};
use crate::{
    auth::{Identity, Refusal, keys::Keys},
    state::Worker,
    templates::{Kept, Place, WhyKept},
};

const HEADER: &str = "x-csrf-token";
const FIELD: &str = "csrf_token";

/// The token of a session's pages.
pub fn token(keys: &Keys, session_id: &str) -> String {
    hex::encode(keys.csrf.digest(session_id))
}

/// For JSON: the token is in a header. Reading needs none.
///
/// # Errors
/// 403 that says what is missing.
pub fn check_header(
    request: &HttpRequest,
    worker: &Worker,
    session_id: &str,
) -> Result<(), ApiError> {
    if request.method().is_safe() {
        return Ok(());
    }
    same_origin(request, worker)?;
    let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
    check_token(worker, session_id, given.unwrap_or_default())
}

fn check_token(worker: &Worker, session_id: &str, given: &str) -> Result<(), ApiError> {
    let given = hex::decode(given).unwrap_or_default();
    if worker.shared.keys.csrf.matches(session_id, &given) {
        return Ok(());
    }
    let message = "The CSRF token is missing or wrong (header X-CSRF-Token, or csrf_token in a form). Load the page again.";
    Err(ApiError::new(Code::Forbidden, message))
}

/// What the browser says of where the request comes from.
fn same_origin(request: &HttpRequest, worker: &Worker) -> Result<(), ApiError> {
    let text = |name: header::HeaderName| {
        request.headers().get(name).map(|value| value.to_str().unwrap_or("-").to_owned())
    };
    let ours = match text(header::HeaderName::from_static("sec-fetch-site")) {
        Some(site) => site == "same-origin" || site == "none",
        // A browser from before that header names the origin.
        None => text(header::ORIGIN)
            .is_some_and(|origin| origin.eq_ignore_ascii_case(&worker.shared.sign_in.public_url)),
    };
    if ours {
        return Ok(());
    }
    let message =
        "This request does not come from a page of this service (Sec-Fetch-Site, Origin).";
    Err(ApiError::new(Code::Forbidden, message))
}

/// A form of our own pages, sent by somebody who is signed in: the only way in which a page changes anything.
pub struct Signed<T> {
    pub identity: Arc<Identity>,
    pub form: T,
}

impl<T: DeserializeOwned + 'static> FromRequest for Signed<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        to_its_end(async move { Self::read(&request, payload).await })
    }
}

/// Reads a form in a task of its own: when another parameter of the handler fails first, such as an id in the path, this
/// one is dropped, and a query on SQLite must not be dropped half-way.
fn to_its_end<T: 'static>(
    reading: impl Future<Output = Result<T, ApiError>> + 'static,
) -> LocalBoxFuture<'static, Result<T, ApiError>> {
    let task = actix_web::rt::spawn(reading.in_current_span());
    Box::pin(async move {
        task.await.unwrap_or_else(|gone| {
            Err(ApiError::new(Code::Internal, "The form could not be read.").caused_by(gone))
        })
    })
}

impl<T: DeserializeOwned> Signed<T> {
    /// For handlers that take more than one kind of body.
    ///
    /// # Errors
    /// 401 without a session, 403 for a form that is not of our pages, 400 and 415 for one that is wrong.
    pub async fn read(request: &HttpRequest, payload: Payload) -> Result<Self, ApiError> {
        let worker = extract::worker(request)?;
        let fields = body::read_form(request, payload, &worker.shared).await?;
        Self::of(request, worker, fields).await
    }

    /// A form whose fields are read.
    async fn of(
        request: &HttpRequest,
        worker: &Worker,
        mut fields: Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let identity = signed(request, worker, &mut fields).await?;
        let form = body::typed(fields.into())?;
        Ok(Self { identity, form })
    }
}

/// Who sent these fields of a form, however they were read, if it is one of our own pages. Takes the token out.
///
/// # Errors
/// 401 without a session, 403 for a form that is not of our pages. Who sent it from a page of ours all the same, since
/// when their session has ended, is told so on a page that keeps what they typed.
async fn signed(
    request: &HttpRequest,
    worker: &Worker,
    fields: &mut Map<String, Value>,
) -> Result<Arc<Identity>, ApiError> {
    let given = fields.remove(FIELD).unwrap_or_default();
    let given = given.as_str().unwrap_or_default();
    // Should the service fail from here on, its page of errors has the form.
    if let Some(kept) = kept(request, fields) {
        let why = WhyKept::Failed { csrf_token: given.to_owned() };
        request.extensions_mut().insert(Kept { why, ..kept });
    }
    let Visitor(visitor) = Visitor::extract(request).await?;
    let ours = same_origin(request, worker);
    let Some(identity) = visitor else {
        let kept = ours.ok().and_then(|()| kept(request, fields));
        return Err(ApiError::refused(Refusal::Missing).keeping(kept));
    };
    ours?;
    let session_id = identity.credential.session_id().unwrap_or_default();
    let Err(error) = check_token(worker, session_id, given) else {
        return Ok(identity);
    };
    let Some(mut kept) = kept(request, fields) else { return Err(error) };
    let person = name_of(&mut worker.shared.pool.reader().await?, &identity).await?;
    kept.why = WhyKept::Older { person, csrf_token: token(&worker.shared.keys, session_id) };
    Err(error.keeping(Some(kept)))
}

/// What is kept of a form in bytes, as it is sent again: as much as a form may have.
const MOST_KEPT: usize = body::SMALLEST - 1024;
/// Nothing is typed there, and what is decided may be over: these pages are better asked for anew.
const NOT_KEPT: [&str; 3] = ["/auth/logout", "/login/cli", "/device"];

/// What was typed into a form, with nobody to send it again; `None` if there is nothing to keep.
fn kept(request: &HttpRequest, fields: &Map<String, Value>) -> Option<Kept> {
    let path = request.path();
    if fields.is_empty() || NOT_KEPT.contains(&path) {
        return None;
    }
    let mut kept = Kept {
        path: request.uri().path().to_owned(),
        multipart: body::content_type(request) == "multipart/form-data",
        back: Place::of(path).href(),
        fields: Vec::new(),
        left_out: Vec::new(),
        why: WhyKept::SignedOut,
    };
    let mut size = 0;
    for (name, value) in fields {
        let value = value.as_str().unwrap_or_default();
        let pair = [name.as_str(), value].map(|text| {
            url::form_urlencoded::byte_serialize(text.as_bytes()).map(str::len).sum::<usize>()
        });
        let more = pair.iter().sum::<usize>() + 2;
        if size + more > MOST_KEPT {
            kept.left_out.push(brief(name, 64));
            continue;
        }
        size += more;
        kept.fields.push((name.clone(), value.to_owned()));
    }
    Some(kept)
}

/// A form of our own pages, sent by an admin.
pub struct SignedByAdmin<T> {
    pub identity: Arc<Identity>,
    pub form: T,
}

impl<T: DeserializeOwned + 'static> FromRequest for SignedByAdmin<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        to_its_end(async move {
            let Signed { identity, form } = Signed::read(&request, payload).await?;
            extract::must_be_admin(&request, &identity).await?;
            Ok(Self { identity, form })
        })
    }
}

/// A form with a file in it, sent by an admin.
pub struct UploadByAdmin<T> {
    pub identity: Arc<Identity>,
    pub form: T,
}

impl<T: DeserializeOwned + 'static> FromRequest for UploadByAdmin<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        to_its_end(async move {
            let worker = extract::worker(&request)?;
            let fields = match Visitor::extract(&request).await? {
                Visitor(Some(visitor)) => {
                    extract::must_be_admin(&request, &visitor).await?;
                    body::read_upload(&request, payload, body::UPLOAD, &worker.shared).await?
                }
                // Of a stranger no more is read than would be kept.
                Visitor(None) => {
                    let small = body::SMALLEST;
                    let read = body::read_upload(&request, payload, small, &worker.shared).await;
                    read.unwrap_or_default()
                }
            };
            let Signed { identity, form } = Signed::of(&request, worker, fields).await?;
            Ok(Self { identity, form })
        })
    }
}
