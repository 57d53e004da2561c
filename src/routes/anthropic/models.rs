//! `GET /anthropic/v1/models`: the models there are, in the shape of the Messages API.

use actix_web::{HttpRequest, web::Data};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Query},
};
use serde::{Deserialize, Serialize};

use crate::{
    anthropic::models::Listed,
    routes::{
        error::{ApiError, Code},
        extract::Caller,
    },
    state::Worker,
};

const MOST: usize = 1000;
const PAGE: usize = 20;

/// Which models to list. Parameters that are not known are passed over, as Anthropic's API does.
#[derive(Debug, Default, Deserialize, Apiv2Schema)]
pub struct ListQuery {
    /// Models a page, 1 to 1000. Default 20.
    limit: Option<usize>,
    /// The page after this id.
    after_id: Option<String>,
    /// The page before this id.
    before_id: Option<String>,
}

/// A page of models, the operator's own names first, then the newest.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Page {
    pub data: Vec<Model>,
    pub has_more: bool,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
}

/// A model.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Model {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    display_name: String,
    /// RFC 3339; 1970-01-01T00:00:00Z if unknown.
    created_at: String,
    /// active or deprecated.
    lifecycle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
}

impl From<Listed> for Model {
    fn from(listed: Listed) -> Self {
        let Listed { id, display_name, created_at, lifecycle, max_input_tokens, max_tokens } =
            listed;
        let kind = "model";
        Self { kind, id, display_name, created_at, lifecycle, max_input_tokens, max_tokens }
    }
}

/// What is listed unless asked otherwise.
pub fn offered(worker: &Worker) -> impl Iterator<Item = &Listed> {
    worker.messages.models.list().iter().filter(|listed| listed.lifecycle != "retired")
}

/// List the models
///
/// Names that `model` may have. Whether the AWS account has access to each, only a call tells.
#[api_v2_operation(tags(Anthropic), operation_id = "listModels")]
pub async fn list(
    _caller: Caller,
    request: HttpRequest,
    query: Query<ListQuery>,
    worker: Data<Worker>,
) -> Result<Json<Page>, ApiError> {
    let ListQuery { limit, after_id, before_id } = query.into_inner();
    let limit = limit.unwrap_or(PAGE);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::parameter("limit", "limit must be 1 to 1000."));
    }
    let stages = stages(request.query_string())?;
    let all: Vec<&Listed> = match stages.as_slice() {
        [] => offered(&worker).collect(),
        stages => {
            let listed = worker.messages.models.list().iter();
            listed.filter(|listed| stages.contains(&listed.lifecycle)).collect()
        }
    };
    let place = |name: &'static str, id: &str| {
        all.iter()
            .position(|listed| listed.id == id)
            .ok_or_else(|| ApiError::parameter(name, format!("{name} is no id of this list.")))
    };
    let (from, to) = match (&after_id, &before_id) {
        (Some(_), Some(_)) => {
            return Err(ApiError::parameter("after_id", "Give after_id or before_id, not both."));
        }
        (Some(id), None) => {
            let from = place("after_id", id)? + 1;
            (from, all.len().min(from + limit))
        }
        (None, Some(id)) => {
            let to = place("before_id", id)?;
            (to.saturating_sub(limit), to)
        }
        (None, None) => (0, all.len().min(limit)),
    };
    let has_more = if before_id.is_some() { from > 0 } else { to < all.len() };
    let page = all.get(from..to).unwrap_or_default();
    Ok(Json(Page {
        first_id: page.first().map(|listed| listed.id.clone()),
        last_id: page.last().map(|listed| listed.id.clone()),
        data: page.iter().map(|listed| Model::from((*listed).clone())).collect(),
        has_more,
    }))
}

/// One model
///
/// By any of its names.
#[api_v2_operation(tags(Anthropic), operation_id = "getModel")]
pub async fn one(
    _caller: Caller,
    request: HttpRequest,
    worker: Data<Worker>,
) -> Result<Json<Model>, ApiError> {
    let name = request.match_info().query("id");
    // The router leaves an encoded slash or percent sign as it is.
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    match worker.messages.models.find(&name) {
        Some(listed) => Ok(Json(listed.into())),
        None => {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
            Err(ApiError::new(Code::NotFound, format!("model: {shown}")))
        }
    }
}

/// The stages of life asked for: `lifecycle=a&lifecycle=b`, `lifecycle[]=a`, `lifecycle=a,b`.
fn stages(query: &str) -> Result<Vec<String>, ApiError> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(name, _)| {
        matches!(*name, "lifecycle" | "lifecycle[]" | "lifecycle%5B%5D" | "lifecycle%5b%5d")
    });
    let words = values.flat_map(|(_, value)| value.split(',').flat_map(|value| value.split("%2C")));
    words
        .map(|word| match word {
            "active" | "deprecated" | "retired" => Ok(word.to_owned()),
            _ => Err(ApiError::parameter(
                "lifecycle",
                "lifecycle must be active, deprecated or retired.",
            )),
        })
        .collect()
}
