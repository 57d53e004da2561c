//! `/connect`: how tools are pointed here, and a small call to see that it works.

mod lines;

use std::time::Instant;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    body::MessageBody,
    web::{Data, Query},
};
use askama::Template;
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::lines::Lines;
use super::{Viewer, filled, page};
use crate::{
    routes::{
        anthropic::{self, models::offered},
        bedrock,
        csrf::Signed,
        error::{ApiError, Dialect, brief},
        surface,
    },
    state::Worker,
    templates::{self, Place, Shell, show},
};

/// What the test asks, and how much it may be told.
const PROMPT: &str = "Say hello in five words.";
const MOST_TOKENS: u64 = 32;
/// Characters of an answer or a failure that are shown.
const MOST_SHOWN: usize = 2000;

#[derive(Template)]
#[template(path = "connect.html")]
struct ConnectPage<'a> {
    shell: Shell,
    choices: Vec<Choice>,
    lines: Lines,
    /// A model that was asked for and is not offered.
    unknown: Option<&'a str>,
    keys: bool,
}

/// The page that shows what came of a test.
#[derive(Template)]
#[template(path = "test.html")]
struct TestPage {
    shell: Shell,
    choices: Vec<Choice>,
    asked: String,
    bedrock: bool,
    path: &'static str,
    status: u16,
    outcome: Outcome,
    millis: Option<i64>,
    request_id: String,
}

/// A model that people may choose.
#[derive(Debug)]
pub struct Choice {
    pub name: String,
    pub label: String,
    pub chosen: bool,
}

impl Choice {
    /// All of them. The one that was asked for is chosen, else the operator's first, else the newest Sonnet: of the newest
    /// models there are, some are for few accounts.
    pub fn all(worker: &Worker, asked: Option<&str>) -> Vec<Self> {
        let label = |name: &str, display: &str| match name == display {
            true => name.to_owned(),
            false => format!("{display} ({name})"),
        };
        let choice = |listed: &crate::anthropic::models::Listed| Self {
            chosen: asked == Some(listed.id.as_str()),
            label: label(&listed.id, &listed.display_name),
            name: listed.id.clone(),
        };
        let mut choices: Vec<Self> = offered(worker).map(choice).collect();
        if !choices.iter().any(|choice| choice.chosen) {
            let usual =
                |choice: &Self| choice.label == choice.name || choice.name.contains("sonnet");
            let usual = choices.iter().position(usual).unwrap_or(0);
            if let Some(usual) = choices.get_mut(usual) {
                usual.chosen = true;
            }
        }
        choices
    }

    pub fn chosen(choices: &[Self]) -> &str {
        choices.iter().find(|choice| choice.chosen).map_or("", |choice| &choice.name)
    }
}

impl Lines {
    /// For a model that is offered here.
    pub fn new(worker: &Worker, model: &str, key: &str) -> Self {
        let resolved = worker.messages.models.resolve(model).ok();
        let region = resolved.as_ref().and_then(|resolved| resolved.region.clone());
        Self {
            base: worker.shared.sign_in.public_url.clone(),
            model: model.to_owned(),
            model_id: resolved.map_or_else(|| model.to_owned(), |resolved| resolved.id),
            region: region.unwrap_or_else(|| worker.bedrock.endpoints.home().to_owned()),
            key: key.to_owned(),
        }
    }
}

#[derive(Deserialize)]
pub struct ConnectQuery {
    #[serde(default, deserialize_with = "filled")]
    model: Option<String>,
}

/// `GET /connect`
pub async fn show(
    viewer: Viewer,
    query: Query<ConnectQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let asked = query.model.as_deref();
    let choices = Choice::all(&worker, asked);
    let chosen = Choice::chosen(&choices);
    let unknown = asked.filter(|asked| *asked != chosen);
    let lines = Lines::new(&worker, chosen, lines::SOME_KEY);
    let shell = {
        let mut conn = worker.shared.pool.reader().await?;
        viewer.shell(&mut conn, &worker, Place::Connect).await?
    };
    let keys = worker.shared.api_keys.enabled;
    let shown = ConnectPage { shell, choices, lines, unknown, keys };
    let response = if unknown.is_some() { HttpResponse::BadRequest() } else { HttpResponse::Ok() };
    Ok(templates::answer(response, &shown))
}

/// Which way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Anthropic,
    Bedrock,
}

/// All that the form decides: what is asked is ours.
#[derive(Deserialize)]
pub struct TestForm {
    model: String,
    way: Way,
}

/// What came of a call.
enum Outcome {
    Answer { text: String, model: String, input_tokens: Option<i64>, output_tokens: Option<i64> },
    Failure { kind: String, message: String },
}

/// `POST /connect/test`: a real call in the name of whoever is signed in, as a client of theirs would make it: admitted,
/// limited, journaled, metered. Its row has no key.
pub async fn test(
    request: HttpRequest,
    signed: Signed<TestForm>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let Signed { identity, form } = signed;
    let request_id = surface::request_id(&request);
    let began = Instant::now();
    let called = worker.clone().into_inner();
    let (called, dialect, path) = match form.way {
        Way::Anthropic => {
            let body = json!({
                "model": form.model,
                "max_tokens": MOST_TOKENS,
                "messages": [{"role": "user", "content": PROMPT}],
            });
            let call = anthropic::by_page(&identity, &request, body.to_string().into(), called);
            (Box::pin(call).await, Dialect::Anthropic, "/anthropic/v1/messages")
        }
        Way::Bedrock => {
            let body = json!({
                "messages": [{"role": "user", "content": [{"text": PROMPT}]}],
                "inferenceConfig": {"maxTokens": MOST_TOKENS},
            });
            let resolved = worker.messages.models.resolve(&form.model);
            let id = resolved.map_or_else(|_| form.model.clone(), |resolved| resolved.id);
            let call = bedrock::by_page(&identity, &request, &id, body.to_string().into(), called);
            (Box::pin(call).await, Dialect::Bedrock, "/bedrock/model/…/converse")
        }
    };
    // A failure in the words in which a client is told it.
    let answer =
        called.unwrap_or_else(|error| error.on(dialect, request_id.clone()).error_response());
    let millis = i64::try_from(began.elapsed().as_millis()).ok();
    let status = answer.status().as_u16();
    let kind = answer.headers().get("x-amzn-errortype").and_then(|kind| kind.to_str().ok());
    let kind = kind.map(str::to_owned);
    let body = answer.into_body().try_into_bytes().unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let outcome = Outcome::read(status, kind, &body, &form.model);
    let viewer = Viewer(identity);
    let shell = {
        let mut conn = worker.shared.pool.reader().await?;
        viewer.shell(&mut conn, &worker, Place::Connect).await?
    };
    let choices = Choice::all(&worker, Some(&form.model));
    let asked = brief(&form.model, 100);
    let bedrock = form.way == Way::Bedrock;
    Ok(page(&TestPage {
        shell,
        choices,
        asked,
        bedrock,
        path,
        status,
        outcome,
        millis,
        request_id,
    }))
}

impl Outcome {
    /// Reads an answer in either dialect.
    fn read(status: u16, kind: Option<String>, body: &Value, asked: &str) -> Self {
        let text = |value: &Value| brief(value.as_str().unwrap_or_default(), MOST_SHOWN);
        if status != 200 {
            let error = body.get("error").unwrap_or(body);
            let kind = kind.unwrap_or_else(|| text(&error["type"]));
            return Self::Failure { kind, message: text(&error["message"]) };
        }
        let converse = &body["output"]["message"]["content"];
        let blocks = if converse.is_array() { converse } else { &body["content"] };
        let texts = blocks.as_array().into_iter().flatten();
        let texts: Vec<&str> = texts.filter_map(|block| block["text"].as_str()).collect();
        let usage = |names: [&str; 2]| names.iter().find_map(|name| body["usage"][*name].as_i64());
        Self::Answer {
            text: brief(&texts.join(""), MOST_SHOWN),
            model: brief(body["model"].as_str().unwrap_or(asked), 200),
            input_tokens: usage(["input_tokens", "inputTokens"]),
            output_tokens: usage(["output_tokens", "outputTokens"]),
        }
    }
}
