//! The whole URL map, and who may call what. Default deny: a route that names no caller and stands not as public in
//! [`ROUTES`] fails the tests.

pub mod api;
mod bedrock;
mod body;
pub mod docs;
pub mod error;
mod extract;
mod health;
mod relay;
pub mod surface;

use actix_web::middleware::from_fn;
use paperclip::actix::web;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Public,
    /// Public while `server.docs` is true, else any credential.
    Docs,
    /// Any API key or access token.
    Caller,
}

/// Every route: method, path, who may call it (SEC-71). Tests walk this list with every kind of credential, and hold
/// it against the OpenAPI document.
pub const ROUTES: &[(&str, &str, Access)] = &[
    ("HEAD", "/", Access::Public),
    ("GET", "/health", Access::Public),
    ("HEAD", "/health", Access::Public),
    ("GET", "/health/live", Access::Public),
    ("HEAD", "/health/live", Access::Public),
    ("GET", "/health/ready", Access::Public),
    ("HEAD", "/health/ready", Access::Public),
    ("GET", "/robots.txt", Access::Public),
    ("GET", "/openapi.json", Access::Docs),
    ("GET", "/openapi.yaml", Access::Docs),
    ("POST", "/bedrock/model/{model_id}/invoke", Access::Caller),
    ("POST", "/bedrock/model/{model_id}/invoke-with-response-stream", Access::Caller),
    ("POST", "/bedrock/model/{model_id}/converse", Access::Caller),
    ("POST", "/bedrock/model/{model_id}/converse-stream", Access::Caller),
    ("POST", "/bedrock/model/{model_id}/count-tokens", Access::Caller),
    ("GET", "/api/usage/records", Access::Caller),
];

/// The methods that a path takes, for `Allow`; `pattern` is the router's.
fn methods_of(pattern: &str) -> String {
    let path = pattern.replace(":.*}", "}");
    let methods: Vec<&str> =
        ROUTES.iter().filter(|(_, known, _)| *known == path).map(|(method, ..)| *method).collect();
    methods.join(", ")
}

/// Mounts the routes; through paperclip, so that each documents itself.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/").route(web::head().to(health::probe)))
        .service(
            web::resource("/health")
                .route(web::get().to(health::health))
                .route(web::head().to(health::health)),
        )
        .service(
            web::resource("/health/live")
                .route(web::get().to(health::live))
                .route(web::head().to(health::live)),
        )
        .service(
            web::resource("/health/ready")
                .route(web::get().to(health::ready))
                .route(web::head().to(health::ready)),
        )
        .service(web::resource("/robots.txt").route(web::get().to(docs::robots)))
        .service(web::resource("/openapi.json").route(web::get().to(docs::json)))
        .service(web::resource("/openapi.yaml").route(web::get().to(docs::yaml)))
        .service(web::resource("/api/usage/records").route(web::get().to(api::usage::records)))
        .service(
            // The id may hold slashes (ARNs), so it takes all that the fixed ends leave.
            web::scope("/bedrock")
                .wrap(from_fn(error::in_bedrock_shape))
                .service(
                    web::resource("/model/{model_id:.*}/invoke")
                        .route(web::post().to(bedrock::invoke)),
                )
                .service(
                    web::resource("/model/{model_id:.*}/invoke-with-response-stream")
                        .route(web::post().to(bedrock::invoke_stream)),
                )
                .service(
                    web::resource("/model/{model_id:.*}/converse")
                        .route(web::post().to(bedrock::converse)),
                )
                .service(
                    web::resource("/model/{model_id:.*}/converse-stream")
                        .route(web::post().to(bedrock::converse_stream)),
                )
                .service(
                    web::resource("/model/{model_id:.*}/count-tokens")
                        .route(web::post().to(bedrock::count_tokens)),
                ),
        );
}
