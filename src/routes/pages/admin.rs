//! Pages for admins.

mod costs;
mod import;

use actix_web::web;

/// Mounts them.
pub fn configure(config: &mut web::ServiceConfig) {
    config
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
