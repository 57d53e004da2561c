//! The API, described: the OpenAPI document, made once, and the page that shows it.

mod document;
mod errors;

use std::sync::LazyLock;

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, web::Data};
use bytes::Bytes;
use paperclip::actix::api_v2_operation;

pub use self::document::{defaults, document};
use super::{error::ApiError, extract::Reader};
use crate::{
    state::Worker,
    templates::{self, DocsPage},
};

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

/// The API, to read and to try
///
/// The document as a page. A key or token that is pasted there goes to this service alone, and is forgotten with the page.
#[api_v2_operation(tags(Documentation), operation_id = "docs")]
pub async fn page(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    may_read(&request, &worker).await?;
    Ok(templates::answer(HttpResponse::Ok(), &DocsPage))
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
        Reader::from_request(request, &mut Payload::None).await?;
    }
    Ok(())
}
