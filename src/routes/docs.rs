//! The OpenAPI document: what paperclip reads off the handlers, completed by `routes/openapi.yaml`, made once.

use std::sync::LazyLock;

use actix_web::{App, FromRequest, HttpRequest, HttpResponse, dev::Payload, web::Data};
use bytes::Bytes;
use paperclip::{
    actix::{OpenApiExt, api_v2_operation},
    v2::models::{DefaultApiRaw, Info},
};
use serde_json::{Map, Value, json};

use super::{error::ApiError, extract::Caller};
use crate::state::Worker;

/// What the derived document cannot say: the bearer scheme, bodies that are not JSON, errors in Bedrock's shape.
const OVERLAY: &str = include_str!("openapi.yaml");

static DOCUMENT: LazyLock<(Bytes, Bytes)> = LazyLock::new(|| {
    let document = document();
    let json = serde_json::to_vec_pretty(&document).unwrap_or_default();
    let yaml = serde_yaml::to_string(&document).unwrap_or_default();
    (json.into(), yaml.into())
});

/// The API, described
///
/// OpenAPI 3 as JSON.
#[api_v2_operation(tags(Documentation), operation_id = "openapiJson")]
pub async fn json(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    may_read(&request, &worker).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(DOCUMENT.0.clone()))
}

/// The API, described
///
/// OpenAPI 3 as YAML.
#[api_v2_operation(tags(Documentation), operation_id = "openapiYaml")]
pub async fn yaml(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    may_read(&request, &worker).await?;
    Ok(HttpResponse::Ok().content_type("application/yaml").body(DOCUMENT.1.clone()))
}

/// Not for search engines
///
/// Nothing here is.
#[api_v2_operation(tags(Documentation), operation_id = "robots")]
pub async fn robots() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body(include_str!("../../static/robots.txt"))
}

/// `server.docs: false` shows the document to those who are signed in only.
async fn may_read(request: &HttpRequest, worker: &Worker) -> Result<(), ApiError> {
    if !worker.shared.server.docs {
        Caller::from_request(request, &mut Payload::None).await?;
    }
    Ok(())
}

/// What paperclip is told before it looks at the routes.
pub fn defaults() -> DefaultApiRaw {
    DefaultApiRaw {
        info: Info {
            title: "Bedrock SSO Proxy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Info::default()
        },
        ..DefaultApiRaw::default()
    }
}

/// The whole document.
pub fn document() -> Value {
    let mut derived = Value::Null;
    let _app = App::new()
        .wrap_api_with_spec(defaults())
        .configure(super::configure)
        .with_raw_json_spec_v3(|app, document| {
            derived = document;
            app
        })
        .build();
    strip_patterns(&mut derived);
    let overlay: Value = serde_yaml::from_str(OVERLAY).unwrap_or_default();
    merge(&mut derived, overlay);
    complete(&mut derived);
    derived
}

/// `{model_id:.*}` is `{model_id}` to readers.
fn strip_patterns(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    let plain = |path: &str| path.replace(":.*}", "}");
    *paths = std::mem::take(paths).into_iter().map(|(path, item)| (plain(&path), item)).collect();
}

/// Gives every operation an answer that succeeds, which a handler's own response leaves out, and an id of its own,
/// which `HEAD` else shares with `GET`, and a path with the same one and a slash at its end.
fn complete(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut)
                && !responses.keys().any(|status| status.starts_with(['2', '3']))
            {
                let described = json!({ "description": "As described above" });
                responses.insert("200".to_owned(), described);
            }
            if let Some(Value::String(id)) = operation.get_mut("operationId") {
                let slash = path.len() > 1 && path.ends_with('/');
                id.push_str(if slash { "Slash" } else { "" });
                id.push_str(if method == "head" { "Head" } else { "" });
            }
        }
    }
}

/// JSON Merge Patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(&key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), value);
        }
    }
}
