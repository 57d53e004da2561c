//! Reads a request's body within its limits: size, time, and what all calls together may hold; and what is small, as
//! JSON or as a form.

use std::{
    future::{Ready, ready},
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use actix_multipart::Multipart;
use actix_web::{FromRequest, HttpRequest, http::header, web::Payload};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use paperclip::{
    actix::{OperationModifier, web::Json},
    v2::{
        models::{DefaultOperationRaw, DefaultSchemaRaw},
        schema::Apiv2Schema,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

use super::{
    error::{ApiError, Code, LONGEST_CAUSE, brief},
    extract,
};
use crate::state::{Admission, Held, Shared};

/// The largest body elsewhere than on inference routes.
const SMALL: usize = 1 << 20;
/// The largest form, and the largest body of who is not known yet.
pub const SMALLEST: usize = 64 << 10;

/// The whole body, unchanged.
///
/// # Errors
/// 413 beyond `server.max_body_bytes`, 415 for a compressed one, 408 when it stops coming, 503 when all calls together
/// hold too much.
pub async fn read(
    request: &HttpRequest,
    payload: Payload,
    admission: &mut Admission,
    shared: &Shared,
) -> Result<Bytes, ApiError> {
    let most = shared.server.max_body_bytes;
    let limit = Limit { most, setting: " (server.max_body_bytes)" };
    read_within(request, payload, limit, shared, |more| admission.hold(more)).await
}

/// A body that is small.
///
/// # Errors
/// As [`read`], with 413 beyond 1 MiB.
async fn read_small(
    request: &HttpRequest,
    payload: actix_web::dev::Payload,
    most: usize,
    shared: &Arc<Shared>,
) -> Result<Bytes, ApiError> {
    let mut payload = payload;
    let mut held = Held::new(shared);
    let payload = Payload::from_request(request, &mut payload).await.map_err(|error| {
        ApiError::new(Code::InvalidParameter, "The body is malformed.").caused_by(error.to_string())
    })?;
    let limit = Limit { most, setting: "" };
    read_within(request, payload, limit, shared, |more| held.hold(more)).await
}

/// A form.
///
/// # Errors
/// As [`read`], with 413 beyond 64 KiB; those of [`form_fields`].
pub async fn read_form(
    request: &HttpRequest,
    payload: actix_web::dev::Payload,
    shared: &Arc<Shared>,
) -> Result<Map<String, Value>, ApiError> {
    let body = read_small(request, payload, SMALLEST, shared).await?;
    form_fields(request, &body)
}

struct Limit {
    most: usize,
    setting: &'static str,
}

async fn read_within(
    request: &HttpRequest,
    mut payload: Payload,
    Limit { most, setting }: Limit,
    shared: &Shared,
    mut hold: impl FnMut(usize) -> bool,
) -> Result<Bytes, ApiError> {
    let coding = request.headers().get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let message =
            "Compressed request bodies are not accepted; send it without Content-Encoding.";
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    let too_large = || {
        let message = format!("The body is larger than {most} bytes, the limit here{setting}.");
        ApiError::new(Code::PayloadTooLarge, message)
    };
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > most) {
        return Err(too_large());
    }
    let times = &shared.server.timeouts;
    let idle = Duration::from_secs(times.body_idle_seconds);
    let deadline = Instant::now() + Duration::from_secs(times.body_total_seconds);
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut held = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let piece = match timeout(idle.min(left), payload.next()).await {
            Err(_elapsed) => {
                return Err(ApiError::new(
                    Code::RequestTimeout,
                    "The body did not arrive in time.",
                ));
            }
            Ok(None) => break,
            Ok(Some(piece)) => piece.map_err(|error| {
                ApiError::new(Code::InvalidParameter, "The body broke off or is malformed.")
                    .caused_by(error.to_string())
            })?,
        };
        held += piece.len();
        if held > most {
            return Err(too_large());
        }
        if !hold(piece.len()) {
            return Err(ApiError::new(
                Code::Overloaded,
                "Too many large requests at the moment. Try again.",
            ));
        }
        // A body that came in one piece, as most do, is not copied.
        match &first {
            None => first = Some(piece),
            Some(start) => {
                if rest.is_empty() {
                    rest.reserve(length.unwrap_or(0).max(held));
                    rest.extend_from_slice(start);
                }
                rest.extend_from_slice(&piece);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

/// The type of a body, in lower case, without its parameters.
pub fn content_type(request: &HttpRequest) -> String {
    let value = request.headers().get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// JSON as a type. Members that nobody knows are refused, all by name (SEC-73).
///
/// # Errors
/// 400 that names the field at fault.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let known = serde_ignored::Deserializer::new(value, &mut note);
    let read = serde_path_to_error::deserialize(known).map_err(|error| {
        let field = brief(&error.path().to_string(), 64);
        let cause = brief(&error.into_inner().to_string(), LONGEST_CAUSE);
        if field == "." {
            ApiError::new(Code::InvalidParameter, format!("The body is wrong: {cause}."))
        } else {
            ApiError::parameter(field.clone(), format!("`{field}` is wrong: {cause}."))
        }
    })?;
    if unknown.is_empty() { Ok(read) } else { Err(ApiError::unknown_fields(&unknown)) }
}

fn json(body: &[u8]) -> Result<Value, ApiError> {
    // Serde's own limit of depth is 128 (SEC-56).
    let value: Unique = serde_json::from_slice(body).map_err(|error| {
        let cause = brief(&error.to_string(), LONGEST_CAUSE);
        ApiError::new(Code::InvalidJson, format!("The body is not JSON as it is needed: {cause}."))
    })?;
    Ok(value.0)
}

/// JSON in which no member is there twice: which of the two counts must not depend on who reads it.
struct Unique(Value);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Map<String, Value>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut members: A,
            ) -> Result<Self::Value, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if map.contains_key(&name) {
                        let message = format!("`{name}` is there twice");
                        return Err(serde::de::Error::custom(message));
                    }
                    map.insert(name, value);
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Visitor).map(|map| Self(Value::Object(map)))
    }
}

/// The fields of a form, each once.
///
/// # Errors
/// 415 for another type of body, 400 for a field that is there twice.
fn form_fields(request: &HttpRequest, body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if content_type(request) != "application/x-www-form-urlencoded" {
        let message = "This takes a form (Content-Type: application/x-www-form-urlencoded).";
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if fields.insert(name.to_string(), value.into_owned().into()).is_some() {
            let name = brief(&name, 64);
            let message = format!("`{name}` is there twice.");
            return Err(ApiError::parameter(name, message));
        }
    }
    Ok(fields)
}

/// A form with a file in it (RFC 7578): its fields as text, each once. The file is one of them.
///
/// # Errors
/// As [`read`], with 413 beyond `most` bytes; 415 for another type of body, 400 for one that is
/// malformed, is not UTF-8, or has a field twice.
pub async fn read_upload(
    request: &HttpRequest,
    payload: actix_web::dev::Payload,
    most: usize,
    shared: &Arc<Shared>,
) -> Result<Map<String, Value>, ApiError> {
    if content_type(request) != "multipart/form-data" {
        let message = "This takes a form with a file (Content-Type: multipart/form-data).";
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    let body = read_small(request, payload, most, shared).await?;
    let malformed = |cause: String| {
        ApiError::new(Code::InvalidParameter, "The form is malformed.").caused_by(cause)
    };
    let body = futures_util::stream::iter([Ok(body)]);
    let mut parts = Multipart::new(request.headers(), body);
    let mut fields = Map::new();
    while let Some(part) = parts.next().await {
        let mut part = part.map_err(|error| malformed(error.to_string()))?;
        let name = brief(part.name().unwrap_or_default(), 64);
        let mut content = Vec::new();
        while let Some(piece) = part.next().await {
            content.extend_from_slice(&piece.map_err(|error| malformed(error.to_string()))?);
        }
        let text = String::from_utf8(content).map_err(|_| {
            ApiError::parameter(name.clone(), format!("`{name}` is not UTF-8 text."))
        })?;
        if fields.insert(name.clone(), text.into()).is_some() {
            let message = format!("`{name}` is there twice.");
            return Err(ApiError::parameter(name, message));
        }
    }
    Ok(fields)
}

/// A JSON body that is still to be read; none at all has no fields. A handler reads it once it knows who calls: what is wrong with a body is told
/// to nobody who may not send one.
pub struct Body<T> {
    request: HttpRequest,
    payload: actix_web::dev::Payload,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Body<T> {
    /// # Errors
    /// 415 for what is not JSON, 400 for JSON that does not fit, 413 beyond 1 MiB.
    pub async fn read(self) -> Result<T, ApiError> {
        let worker = extract::worker(&self.request)?;
        let body = read_small(&self.request, self.payload, SMALL, &worker.shared).await?;
        if body.is_empty() {
            return typed(Map::new().into());
        }
        if content_type(&self.request) != "application/json" {
            let message = "This takes JSON (Content-Type: application/json).";
            return Err(ApiError::new(Code::UnsupportedMediaType, message));
        }
        typed(json(&body)?)
    }
}

/// A body that is JSON or a form (RFC 6749 says form; programs like JSON better), still to be read. An empty one has no
/// fields.
pub struct FormOrJson<T> {
    request: HttpRequest,
    payload: actix_web::dev::Payload,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> FormOrJson<T> {
    /// # Errors
    /// As [`Body::read`], with 413 beyond 64 KiB.
    pub async fn read(self) -> Result<T, ApiError> {
        let worker = extract::worker(&self.request)?;
        let body = read_small(&self.request, self.payload, SMALLEST, &worker.shared).await?;
        let fields = match content_type(&self.request).as_str() {
            "application/json" => json(&body)?,
            "" if body.is_empty() => Map::new().into(),
            _ => form_fields(&self.request, &body)?.into(),
        };
        typed(fields)
    }
}

/// The largest file (SEC-104).
const FILE: usize = 5 << 20;

/// The largest form with a file in it.
pub const UPLOAD: usize = FILE + SMALLEST;

/// A CSV file, still to be read.
pub struct Csv {
    request: HttpRequest,
    payload: actix_web::dev::Payload,
}

impl Csv {
    /// # Errors
    /// 415 for what does not say that it is CSV, 413 beyond 5 MiB.
    pub async fn read(self) -> Result<Bytes, ApiError> {
        let worker = extract::worker(&self.request)?;
        let body = read_small(&self.request, self.payload, FILE, &worker.shared).await?;
        if content_type(&self.request) != "text/csv" {
            let message = "This takes a CSV file (Content-Type: text/csv).";
            return Err(ApiError::new(Code::UnsupportedMediaType, message));
        }
        Ok(body)
    }
}

impl FromRequest for Csv {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut actix_web::dev::Payload) -> Self::Future {
        ready(Ok(Self { request: request.clone(), payload: payload.take() }))
    }
}

impl Apiv2Schema for Csv {}
impl OperationModifier for Csv {}

macro_rules! json_bodies {
    ($($body:ident),*) => {$(
        impl<T> FromRequest for $body<T> {
            type Error = ApiError;
            type Future = Ready<Result<Self, ApiError>>;

            fn from_request(
                request: &HttpRequest,
                payload: &mut actix_web::dev::Payload,
            ) -> Self::Future {
                let (request, payload) = (request.clone(), payload.take());
                ready(Ok(Self { request, payload, of: PhantomData }))
            }
        }
        impl<T: Apiv2Schema> Apiv2Schema for $body<T> {
            fn name() -> Option<String> {
                T::name()
            }
            fn raw_schema() -> DefaultSchemaRaw {
                T::raw_schema()
            }
        }
        impl<T: Apiv2Schema> OperationModifier for $body<T> {
            fn update_parameter(operation: &mut DefaultOperationRaw) {
                Json::<T>::update_parameter(operation);
            }
        }
    )*};
}
json_bodies!(Body, FormOrJson);
