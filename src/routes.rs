//! The whole URL map, and who may call what. Default deny: a route that names no caller and stands not as public in
//! [`ROUTES`] fails the tests.

mod anthropic;
pub mod api;
mod auth;
mod bedrock;
mod body;
mod call;
mod cookies;
mod csrf;
pub mod docs;
pub mod error;
mod extract;
mod health;
pub mod pages;
mod rates;
mod relay;
pub mod surface;

use paperclip::actix::web;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Public,
    /// Public while `server.docs` is true, else for any credential or session.
    Docs,
    /// Whoever brings a code or token that is good for it; a signed-in browser may ask, too.
    Code,
    /// Any API key or access token.
    Caller,
    /// Those, or a browser's session.
    Reader,
    /// An access token or a browser's session.
    Person,
    /// An admin's access token or session.
    Admin,
    /// A page that anybody may see.
    PublicPage,
    /// A page of whoever is signed in with a browser; others are led to the sign-in page.
    Page,
    /// What such a page sends.
    PageForm,
    /// A page for admins.
    AdminPage,
    /// What such a page sends.
    AdminForm,
}

/// Every route: method, path, who may call it (SEC-71). Tests walk this list with every kind of credential, and hold
/// it against the OpenAPI document.
pub const ROUTES: &[(&str, &str, Access)] = &[
    ("HEAD", "/", Access::PublicPage),
    ("GET", "/", Access::Page),
    ("GET", "/login", Access::PublicPage),
    ("GET", "/login/cli", Access::Page),
    ("POST", "/login/cli", Access::PageForm),
    ("GET", "/device", Access::Page),
    ("POST", "/device", Access::PageForm),
    ("GET", "/connect", Access::Page),
    ("POST", "/connect/test", Access::PageForm),
    ("GET", "/keys", Access::Page),
    ("POST", "/keys", Access::PageForm),
    ("POST", "/keys/{key_id}/rename", Access::PageForm),
    ("POST", "/keys/{key_id}/rotate", Access::PageForm),
    ("POST", "/keys/{key_id}/revoke", Access::PageForm),
    ("GET", "/usage", Access::Page),
    ("GET", "/usage/calls/{id}", Access::Page),
    ("GET", "/admin", Access::AdminPage),
    ("GET", "/admin/usage", Access::AdminPage),
    ("GET", "/admin/usage/calls/{id}", Access::AdminPage),
    ("GET", "/sessions", Access::Page),
    ("POST", "/sessions/{id}/end", Access::PageForm),
    ("GET", "/admin/costs", Access::AdminPage),
    ("GET", "/admin/costs/new", Access::AdminPage),
    ("POST", "/admin/costs/new", Access::AdminForm),
    ("GET", "/admin/costs/import", Access::AdminPage),
    ("POST", "/admin/costs/import", Access::AdminForm),
    ("GET", "/admin/costs/{region}/{model_id}", Access::AdminPage),
    ("POST", "/admin/costs/{region}/{model_id}", Access::AdminForm),
    ("GET", "/static/{file}", Access::PublicPage),
    ("GET", "/admin/users", Access::AdminPage),
    ("GET", "/admin/users/{id}", Access::AdminPage),
    ("POST", "/admin/users/{id}/state", Access::AdminForm),
    ("POST", "/admin/users/{id}/sessions/end", Access::AdminForm),
    ("POST", "/admin/users/{id}/keys/{key_id}/revoke", Access::AdminForm),
    ("GET", "/admin/audit", Access::AdminPage),
    ("GET", "/admin/audit/verify", Access::AdminPage),
    ("GET", "/admin/jobs", Access::AdminPage),
    ("POST", "/admin/jobs/{name}/run", Access::AdminForm),
    ("GET", "/admin/streams", Access::AdminPage),
    ("POST", "/admin/streams/{id}/cut", Access::AdminForm),
    ("GET", "/admin/health", Access::AdminPage),
    ("GET", "/health", Access::Public),
    ("HEAD", "/health", Access::Public),
    ("GET", "/health/live", Access::Public),
    ("HEAD", "/health/live", Access::Public),
    ("GET", "/health/ready", Access::Public),
    ("HEAD", "/health/ready", Access::Public),
    ("GET", "/robots.txt", Access::Public),
    ("GET", "/docs", Access::Docs),
    ("GET", "/openapi.json", Access::Docs),
    ("GET", "/openapi.yaml", Access::Docs),
    ("GET", "/auth/providers", Access::Public),
    ("GET", "/auth/authorize/{provider}", Access::Public),
    ("GET", "/auth/callback/{provider}", Access::Public),
    ("POST", "/auth/token", Access::Code),
    ("POST", "/auth/refresh", Access::Code),
    ("POST", "/auth/device", Access::Public),
    ("POST", "/auth/logout", Access::Person),
    ("GET", "/auth/me", Access::Reader),
    ("GET", "/auth/sessions", Access::Person),
    ("DELETE", "/auth/sessions/{id}", Access::Person),
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
    ("POST", "/api/keys", Access::Person),
    ("GET", "/api/keys", Access::Person),
    ("PATCH", "/api/keys/{key_id}", Access::Person),
    ("DELETE", "/api/keys/{key_id}", Access::Person),
    ("POST", "/api/keys/{key_id}/rotate", Access::Person),
    ("GET", "/api/usage/records", Access::Reader),
    ("GET", "/api/usage/summaries", Access::Reader),
    ("GET", "/api/usage/export", Access::Reader),
    ("GET", "/api/admin/usage/records", Access::Admin),
    ("GET", "/api/admin/usage/summaries", Access::Admin),
    ("GET", "/api/admin/usage/export", Access::Admin),
    ("GET", "/api/admin/costs", Access::Admin),
    ("POST", "/api/admin/costs", Access::Admin),
    ("GET", "/api/admin/costs/{region}/{model_id}", Access::Admin),
    ("PUT", "/api/admin/costs/{region}/{model_id}", Access::Admin),
    ("DELETE", "/api/admin/costs/{region}/{model_id}", Access::Admin),
    ("GET", "/api/admin/users", Access::Admin),
    ("GET", "/api/admin/users/search", Access::Admin),
    ("GET", "/api/admin/users/{id}", Access::Admin),
    ("PUT", "/api/admin/users/{id}/state", Access::Admin),
    ("DELETE", "/api/admin/users/{id}/sessions", Access::Admin),
    ("GET", "/api/admin/users/{id}/keys", Access::Admin),
    ("DELETE", "/api/admin/users/{id}/keys/{key_id}", Access::Admin),
    ("GET", "/api/admin/audit-logs", Access::Admin),
    ("GET", "/api/admin/audit-logs/verify", Access::Admin),
    ("GET", "/api/admin/models/learned", Access::Admin),
    ("GET", "/api/admin/models/unpriced", Access::Admin),
    ("GET", "/api/admin/streams", Access::Admin),
    ("DELETE", "/api/admin/streams/{id}", Access::Admin),
    ("GET", "/api/admin/jobs", Access::Admin),
    ("POST", "/api/admin/jobs/{name}/run", Access::Admin),
];

/// The methods that a path takes, for `Allow`; `pattern` is the router's.
fn methods_of(pattern: &str) -> String {
    let path = pattern.replace(":.*}", "}");
    let known = ROUTES.iter().filter(|(_, known, _)| *known == path);
    let mut methods: Vec<&str> = known.clone().map(|(method, ..)| *method).collect();
    if is_page(&path) && !methods.contains(&"HEAD") {
        methods.push("HEAD");
    }
    methods.join(", ")
}

/// Whether this is the path of a page, which is asked for with GET or HEAD.
fn is_page(path: &str) -> bool {
    ROUTES.iter().any(|(method, known, access)| {
        let page = matches!(access, Access::Page | Access::PublicPage | Access::AdminPage);
        *method == "GET" && *known == path && page
    })
}

/// Mounts the routes; through paperclip, so that each documents itself.
pub fn configure(config: &mut web::ServiceConfig) {
    config
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
        .service(web::resource("/docs").route(web::get().to(docs::page)))
        .service(web::resource("/openapi.json").route(web::get().to(docs::json)))
        .service(web::resource("/openapi.yaml").route(web::get().to(docs::yaml)))
        .service(web::resource("/auth/providers").route(web::get().to(auth::providers)))
        .service(web::resource("/auth/authorize/{provider}").route(web::get().to(auth::authorize)))
        .service(
            web::resource("/auth/callback/{provider}")
                .route(web::get().to(auth::callback::callback)),
        )
        .service(web::resource("/auth/token").route(web::post().to(auth::token::token)))
        .service(web::resource("/auth/refresh").route(web::post().to(auth::token::refresh)))
        .service(web::resource("/auth/device").route(web::post().to(auth::token::device)))
        .service(web::resource("/auth/logout").route(web::post().to(auth::sessions::logout)))
        .service(web::resource("/auth/me").route(web::get().to(auth::me)))
        .service(web::resource("/auth/sessions").route(web::get().to(auth::sessions::list)))
        .service(web::resource("/auth/sessions/{id}").route(web::delete().to(auth::sessions::end)))
        .service(
            web::resource("/api/keys")
                .route(web::post().to(api::keys::create))
                .route(web::get().to(api::keys::list)),
        )
        .service(
            web::resource("/api/keys/{key_id}")
                .route(web::patch().to(api::keys::rename))
                .route(web::delete().to(api::keys::revoke)),
        )
        .service(
            web::resource("/api/keys/{key_id}/rotate").route(web::post().to(api::keys::rotate)),
        )
        .service(web::resource("/api/usage/records").route(web::get().to(api::usage::records)))
        .service(
            web::resource("/api/usage/summaries").route(web::get().to(api::summaries::summaries)),
        )
        .service(web::resource("/api/usage/export").route(web::get().to(api::usage::export)))
        .service(
            web::resource("/api/admin/usage/records").route(web::get().to(api::usage::all_records)),
        )
        .service(
            web::resource("/api/admin/usage/summaries")
                .route(web::get().to(api::summaries::all_summaries)),
        )
        .service(
            web::resource("/api/admin/usage/export").route(web::get().to(api::usage::export_all)),
        )
        .service(
            web::resource("/api/admin/costs")
                .route(web::get().to(api::costs::list))
                .route(web::post().to(api::costs::import)),
        )
        .service(
            web::resource("/api/admin/costs/{region}/{model_id:.*}")
                .route(web::get().to(api::costs::show))
                .route(web::put().to(api::costs::set))
                .route(web::delete().to(api::costs::end)),
        )
        .service(web::resource("/api/admin/streams").route(web::get().to(api::streams::list)))
        .service(
            web::resource("/api/admin/streams/{id}").route(web::delete().to(api::streams::cut)),
        )
        .service(web::resource("/api/admin/jobs").route(web::get().to(api::jobs::list)))
        .service(web::resource("/api/admin/jobs/{name}/run").route(web::post().to(api::jobs::run)))
        .service(
            web::resource("/api/admin/models/unpriced").route(web::get().to(api::costs::unpriced)),
        )
        .service(web::resource("/api/admin/users").route(web::get().to(api::users::list)))
        .service(web::resource("/api/admin/users/search").route(web::get().to(api::users::search)))
        .service(web::resource("/api/admin/users/{id}").route(web::get().to(api::users::show_one)))
        .service(
            web::resource("/api/admin/users/{id}/state")
                .route(web::put().to(api::users::set_state)),
        )
        .service(
            web::resource("/api/admin/users/{id}/sessions")
                .route(web::delete().to(api::users::end_sessions)),
        )
        .service(web::resource("/api/admin/users/{id}/keys").route(web::get().to(api::users::keys)))
        .service(
            web::resource("/api/admin/users/{id}/keys/{key_id}")
                .route(web::delete().to(api::users::revoke_key)),
        )
        .service(web::resource("/api/admin/audit-logs").route(web::get().to(api::audit::list)))
        .service(
            web::resource("/api/admin/audit-logs/verify").route(web::get().to(api::audit::verify)),
        )
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
