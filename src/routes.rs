//! The whole URL map, and who may call what. Default deny: a route that names no caller and stands not as public in
//! [`ROUTES`] fails the tests.

mod anthropic;
pub mod api;
mod bedrock;
mod body;
mod call;
pub mod docs;
pub mod error;
mod extract;
mod health;
mod relay;
pub mod surface;

use paperclip::actix::web;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Public,
    /// Public while `server.docs` is true, else any credential.
    Docs,
    /// Any API key or access token.
    Caller,
    /// An admin's access token.
    Admin,
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
    ("GET", "/anthropic", Access::Public),
    ("HEAD", "/anthropic", Access::Public),
    ("GET", "/anthropic/", Access::Public),
    ("HEAD", "/anthropic/", Access::Public),
    ("POST", "/anthropic/v1/messages", Access::Caller),
    ("POST", "/anthropic/v1/messages/count_tokens", Access::Caller),
    ("GET", "/anthropic/v1/models", Access::Caller),
    ("GET", "/anthropic/v1/models/{id}", Access::Caller),
    ("GET", "/api/usage/records", Access::Caller),
    ("GET", "/api/admin/models/learned", Access::Admin),
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
            web::resource("/api/admin/models/learned").route(web::get().to(api::models::learned)),
        )
        .service(
            web::resource("/anthropic")
                .route(web::get().to(anthropic::base))
                .route(web::head().to(anthropic::base)),
        )
        .service(
            web::scope("/anthropic")
                .service(
                    web::resource("/")
                        .route(web::get().to(anthropic::base))
                        .route(web::head().to(anthropic::base)),
                )
                .service(web::resource("/v1/messages").route(web::post().to(anthropic::messages)))
                .service(
                    web::resource("/v1/messages/count_tokens")
                        .route(web::post().to(anthropic::count_tokens)),
                )
                .service(web::resource("/v1/models").route(web::get().to(anthropic::models::list)))
                .service(
                    web::resource("/v1/models/{id:.*}")
                        .route(web::get().to(anthropic::models::one)),
                ),
        )
        .service(
            // The id may hold slashes (ARNs), so it takes all that the fixed ends leave.
            web::scope("/bedrock")
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
