//! Pages for admins: everybody's usage, prices, people, what was done, what runs and what streams, and how the service is.

mod audit;
mod costs;
mod health;
mod import;
mod jobs;
mod list;
mod overview;
mod people;
mod person;
mod streams;
mod usage;

use actix_web::web;

use super::get;

/// Mounts the pages for admins.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/admin").route(get().to(overview::show)))
        .service(web::resource("/admin/usage").route(get().to(usage::list)))
        .service(web::resource("/admin/usage/calls/{id}").route(get().to(usage::one)))
        .service(web::resource("/admin/users").route(get().to(people::list)))
        .service(web::resource("/admin/users/{id}").route(get().to(person::show)))
        .service(web::resource("/admin/users/{id}/state").route(web::post().to(person::set_state)))
        .service(
            web::resource("/admin/users/{id}/sessions/end")
                .route(web::post().to(person::end_sessions)),
        )
        .service(
            web::resource("/admin/users/{id}/keys/{key_id}/revoke")
                .route(web::post().to(person::revoke_key)),
        )
        .service(web::resource("/admin/audit").route(get().to(audit::list)))
        .service(web::resource("/admin/audit/verify").route(get().to(audit::verify)))
        .service(web::resource("/admin/jobs").route(get().to(jobs::list)))
        .service(web::resource("/admin/jobs/{name}/run").route(web::post().to(jobs::run)))
        .service(web::resource("/admin/streams").route(get().to(streams::list)))
        .service(web::resource("/admin/streams/{id}/cut").route(web::post().to(streams::cut)))
        .service(web::resource("/admin/health").route(get().to(health::show)))
        .service(web::resource("/admin/costs").route(get().to(costs::list)))
        .service(
            web::resource("/admin/costs/new")
                .route(get().to(costs::ask_for_new))
                .route(web::post().to(costs::create)),
        )
        .service(
            web::resource("/admin/costs/import")
                .route(get().to(import::ask))
                .route(web::post().to(import::take)),
        )
        .service(
            web::resource("/admin/costs/{region}/{model_id:.*}")
                .route(get().to(costs::show))
                .route(web::post().to(costs::change)),
        );
}
