//! `/`: the overview of somebody's own usage.

use actix_web::{HttpResponse, web::Data};
use askama::Template;

use super::{Viewer, page};
use crate::{
    routes::error::ApiError,
    state::Worker,
    templates::{Place, Shell},
};

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage<'a> {
    shell: Shell,
    /// The address of this service.
    service: &'a str,
}

/// `GET /`
pub async fn show(viewer: Viewer, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.shell(&mut conn, &worker, Place::Overview).await?;
    Ok(page(&HomePage { shell, service: &worker.shared.sign_in.public_url }))
}
