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

/// Mounts the pages for admins.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/admin").route(web::get().to(overview::show)))
        .service(web::resource("/admin/usage").route(web::get().to(usage::list)))
        .service(web::resource("/admin/usage/calls/{id}").route(web::get().to(usage::one)))
        .service(web::resource("/admin/users").route(web::get().to(people::list)))
        .service(web::resource("/admin/users/{id}").route(web::get().to(person::show)))
        .service(web::resource("/admin/users/{id}/state").route(web::post().to(person::set_state)))
        .service(
            web::resource("/admin/users/{id}/sessions/end")
                .route(web::post().to(person::end_sessions)),
        )
        .service(
            web::resource("/admin/users/{id}/keys/{key_id}/revoke")
                .route(web::post().to(person::revoke_key)),
        )
        .service(web::resource("/admin/audit").route(web::get().to(audit::list)))
        .service(web::resource("/admin/audit/verify").route(web::get().to(audit::verify)))
        .service(web::resource("/admin/jobs").route(web::get().to(jobs::list)))
        .service(web::resource("/admin/jobs/{name}/run").route(web::post().to(jobs::run)))
        .service(web::resource("/admin/streams").route(web::get().to(streams::list)))
        .service(web::resource("/admin/streams/{id}/cut").route(web::post().to(streams::cut)))
        .service(web::resource("/admin/health").route(web::get().to(health::show)))
        .service(web::resource("/admin/costs").route(web::get().to(costs::list)))
        .service(
            web::resource("/admin/costs/new")
                .route(web::get().to(costs::ask_for_new))
                .route(web::post().to(costs::create)),
        )
        .service(
            web::resource("/admin/costs/import")
                .route(web::get().to(import::ask))
                .route(web::post().to(import::take)),
        )
        .service(
            web::resource("/admin/costs/{region}/{model_id:.*}")
                .route(web::get().to(costs::show))
                .route(web::post().to(costs::change)),
        );
}
