//! `GET /api/admin/models/learned`: what Bedrock was seen to refuse.

use actix_web::web::Data;
use paperclip::actix::{Apiv2Schema, api_v2_operation, web::Json};
use serde::Serialize;

use crate::{
    db::Timestamp,
    routes::{error::ApiError, extract::Admin},
    state::Worker,
};

/// What is left out of requests on /anthropic because Bedrock refused it.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct LearnedList {
    pub learned: Vec<Learned>,
    pub total: usize,
}

/// One refusal.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Learned {
    /// The foundation model.
    model_id: String,
    region: String,
    /// beta, field or version.
    kind: &'static str,
    /// The flag, the place of the member, or the API version.
    name: String,
    /// The API version of the requests that it is left out of; null: of any.
    anthropic_version: Option<&'static str>,
    #[serde(serialize_with = "super::time")]
    first_refused_at: Timestamp,
    /// When it is tried again.
    #[serde(serialize_with = "super::time")]
    forgotten_at: Timestamp,
}

/// What was learned of models
///
/// By this instance, from Bedrock's refusals; each is forgotten after `models.learn_for_seconds`. To keep one, put it
/// into `models.betas` or `models.fields`.
#[api_v2_operation(tags(Administration), operation_id = "listLearned")]
pub async fn learned(_admin: Admin, worker: Data<Worker>) -> Result<Json<LearnedList>, ApiError> {
    let all = worker.messages.learned.all(chrono::Utc::now()).into_iter();
    let learned = all.map(|(model_id, region, entry)| Learned {
        model_id,
        region,
        kind: entry.refused.kind(),
        name: entry.refused.to_string(),
        anthropic_version: entry.refused.version(),
        first_refused_at: entry.since.naive_utc(),
        forgotten_at: entry.until.naive_utc(),
    });
    let learned: Vec<Learned> = learned.collect();
    Ok(Json(LearnedList { total: learned.len(), learned }))
}
