//! The five operations: which one a path names, and what each answers once a request was let in.

use std::time::Instant;

use actix_web::HttpRequest;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::attempts::Attempts;
use super::converse;
use super::count::count;
use super::model::{Family, Model};
use super::playback::Frame;
use super::prompt_cache::PromptCache;
use super::refusal::Refusal;
use super::reply::Answer;
use super::request::Inquiry;
use super::scenario::{Kind, Scenario};
use super::wire::{Content, EVENT_STREAM, JSON, Reply, refused};

/// Largest body an operation takes (the `Body` shape).
pub(super) const MAX_BODY: usize = 25_000_000;

/// One of the five operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Invoke,
    InvokeStream,
    Converse,
    ConverseStream,
    CountTokens,
}

impl Operation {
    pub(super) fn of(segment: &str) -> Option<Self> {
        Some(match segment {
            "invoke" => Self::Invoke,
            "invoke-with-response-stream" => Self::InvokeStream,
            "converse" => Self::Converse,
            "converse-stream" => Self::ConverseStream,
            "count-tokens" => Self::CountTokens,
            _ => return None,
        })
    }

    fn converses(self) -> bool {
        matches!(self, Self::Converse | Self::ConverseStream)
    }

    fn streams(self) -> bool {
        matches!(self, Self::InvokeStream | Self::ConverseStream)
    }

    /// The IAM action, as it stands in an AccessDenied message.
    fn action(self) -> &'static str {
        match self {
            Self::Invoke | Self::Converse => "InvokeModel",
            Self::InvokeStream | Self::ConverseStream => "InvokeModelWithResponseStream",
            Self::CountTokens => "CountTokens",
        }
    }
}

/// Operation and decoded model id of a raw path.
pub(super) fn address(method: &str, path: &str) -> Result<(Operation, String), Refusal> {
    let unknown = || Refusal::new("UnknownOperationException", "Unknown operation");
    let rest = path.strip_prefix("/model/").filter(|_| method == "POST").ok_or_else(unknown)?;
    let (label, operation) = rest.rsplit_once('/').ok_or_else(unknown)?;
    let operation = Operation::of(operation).ok_or_else(unknown)?;
    if label.contains('/') {
        return Err(Refusal::validation("simulator: modelId must be one encoded path segment"));
    }
    let mut escapes = label.split('%').skip(1);
    let sound = |escape: &str| {
        escape.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let decoded = percent_decode_str(label).decode_utf8();
    match decoded {
        Ok(id) if escapes.all(sound) && !id.is_empty() && !id.contains(char::is_control) => {
            Ok((operation, id.into_owned()))
        }
        _ => Err(Refusal::validation("The provided model identifier is invalid.")),
    }
}

/// A request which was let in.
pub(super) struct Task<'a> {
    pub(super) operation: Operation,
    pub(super) model_id: &'a str,
    pub(super) region: &'a str,
    pub(super) id: Uuid,
    pub(super) started: Instant,
    pub(super) prompts: &'a PromptCache,
    pub(super) attempts: &'a Attempts,
}

impl Task<'_> {
    /// The reply, or what the scenario puts in its place.
    ///
    /// # Errors
    /// What Bedrock refuses.
    pub(super) fn answer(
        &self,
        body: &Bytes,
        scenario: &Scenario,
        request: &HttpRequest,
    ) -> Result<Reply, Refusal> {
        let model = self.model()?;
        check_options(request)?;
        if body.len() > MAX_BODY && self.operation != Operation::CountTokens {
            return Err(Refusal::validation("The request body is larger than 25000000 bytes."));
        }
        if self.operation == Operation::CountTokens {
            return count(&model, body, |inquiry| {
                let counted = format!("{{\"inputTokens\":{}}}", inquiry.prompt_tokens());
                let instead = self.instead(scenario, inquiry)?;
                Ok(instead.unwrap_or_else(|| Reply::whole(200, JSON, counted)))
            });
        }
        let converses = self.operation.converses();
        let inquiry = match converses {
            true => Inquiry::of_converse(&model, body)?,
            false => Inquiry::of_invoke(&model, body)?,
        };
        if inquiry.family.embeds() && self.operation.streams() {
            return Err(Refusal::validation("The model is unsupported for streaming."));
        }
        if let Some(reply) = self.instead(scenario, &inquiry)? {
            return Ok(reply);
        }
        let caches = converses || matches!(inquiry.family, Family::Claude | Family::Nova);
        let cache = if caches { self.prompts.price(self.model_id, &inquiry) } else { None };
        // A tool result after the directive answers the call which the directive asked for.
        let answered = |marker: &str| {
            memchr::memmem::rfind(body, marker.as_bytes()).is_some_and(|at| at > scenario.at)
        };
        let mut scenario = scenario.clone();
        if scenario.is(Kind::Tools) && (answered("\"tool_result\"") || answered("\"toolResult\"")) {
            scenario.kind = Some(Kind::Plain);
        }
        let id = self.id.simple().to_string();
        let mut answer = Answer::compose(&model, &inquiry, &scenario, cache, id);
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        answer.latency_ms = elapsed.max(1);
        let mut reply = self.worded(answer, inquiry.family, &scenario);
        for name in [SERVICE_TIER, LATENCY] {
            if let Some(value) = request.headers().get(name).and_then(|value| value.to_str().ok()) {
                reply.headers.push((name, value.to_owned()));
            }
        }
        Ok(reply)
    }

    fn model(&self) -> Result<Model, Refusal> {
        let wrong = || Refusal::validation("The provided model identifier is invalid.");
        let longest = if self.operation == Operation::CountTokens { 256 } else { 2048 };
        let model = Model::of(self.model_id).filter(|_| self.model_id.len() <= longest);
        let model = model.ok_or_else(wrong)?;
        if model.region.as_ref().is_some_and(|region| region != self.region) {
            return Err(wrong());
        }
        let invokes = matches!(self.operation, Operation::Invoke | Operation::InvokeStream);
        if invokes && model.lacks_profile() {
            return Err(Refusal::validation(format!(
                "Invocation of model ID {} with on-demand throughput isn’t supported. Retry your \
                 request with the ID or ARN of an inference profile that contains this model.",
                self.model_id
            )));
        }
        Ok(model)
    }

    /// What the scenario answers in place of the model.
    fn instead(
        &self,
        scenario: &Scenario,
        inquiry: &Inquiry<'_>,
    ) -> Result<Option<Reply>, Refusal> {
        let of_code = |code: &str| {
            Refusal::of_code(code, self.operation.action(), self.model_id, self.region)
        };
        let of_named = |default: &str| {
            let code = scenario.code.as_deref().unwrap_or(default);
            of_code(code)
                .ok_or_else(|| Refusal::validation(format!("simulator: there is no code `{code}`")))
        };
        let stands = !self.operation.streams();
        let reply = match scenario.kind {
            Some(Kind::Throttle) => of_code("ThrottlingException").map(|it| refused(&it, scenario)),
            Some(Kind::Credentials) => Some(refused(&Refusal::unknown_client(), scenario)),
            Some(Kind::Error) => {
                let mut refusal = of_named("InternalServerException")?;
                refusal.status = scenario.status.unwrap_or(refusal.status);
                Some(refused(&refusal, scenario))
            }
            Some(Kind::Flaky) => {
                let refusal = of_named("ThrottlingException")?;
                let attempt = self.attempts.next(scenario.key.as_deref().unwrap_or_default());
                let fails = attempt <= scenario.times.unwrap_or(1);
                fails.then(|| refused(&refusal, scenario))
            }
            Some(Kind::Refuse) => {
                let path = scenario.field.as_deref().unwrap_or_default();
                if inquiry.has(path.split('.').next().unwrap_or_default()) {
                    let text = format!("{path}: Extra inputs are not permitted");
                    return Err(Refusal::validation(text));
                }
                None
            }
            Some(Kind::Echo) if self.operation.converses() => {
                return Err(Refusal::validation("simulator: `echo` is for InvokeModel"));
            }
            Some(Kind::Html) => Some(Reply::whole(
                scenario.status.unwrap_or(502),
                "text/html",
                "<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>",
            )),
            Some(Kind::BadJson) if stands || scenario.status.is_some() => Some(Reply::whole(
                scenario.status.unwrap_or(200),
                JSON,
                r#"{"id":"msg_bdrk_simulated","type":"message","content":[{"type":"te"#,
            )),
            Some(Kind::Garbage) if stands => Some(Reply::whole(200, JSON, super::frame::garbage())),
            Some(Kind::Redirect) => {
                let mut reply = Reply::whole(302, "text/html", "<html>Found</html>");
                reply.headers.push(("location", "http://169.254.169.254/".to_owned()));
                Some(reply)
            }
            _ => None,
        };
        Ok(reply)
    }

    fn worded(&self, answer: Answer, family: Family, scenario: &Scenario) -> Reply {
        let usage = answer.reported();
        let echoed = scenario.echoed.clone().filter(|_| scenario.is(Kind::Echo));
        match self.operation {
            Operation::Invoke | Operation::CountTokens => {
                let mut headers = answer.headers(family);
                headers.push(("content-type", JSON.to_owned()));
                let body = echoed.unwrap_or_else(|| answer.invoke_body(family));
                let body = Bytes::from(body);
                Reply { status: 200, headers, content: Content::Whole(body, usage) }
            }
            Operation::Converse => {
                let body = Bytes::from(converse::body(&answer));
                let headers = vec![("content-type", JSON.to_owned())];
                Reply { status: 200, headers, content: Content::Whole(body, usage) }
            }
            Operation::InvokeStream | Operation::ConverseStream => {
                let mut headers = vec![("content-type", EVENT_STREAM.to_owned())];
                let events = if self.operation == Operation::InvokeStream {
                    headers.push(("x-amzn-bedrock-content-type", JSON.to_owned()));
                    match echoed {
                        None => answer.invoke_events(family),
                        Some(events) => {
                            answer.echo_events(&events, family == Family::Claude && !scenario.alone)
                        }
                    }
                } else {
                    converse::events(answer)
                };
                let mut noise = self.id.as_u64_pair().1 | 1;
                let frames = events.map(move |event| {
                    noise ^= noise << 13; // xorshift: padding lengths need no better randomness
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    Frame { name: event.name, bytes: event.frame(noise), usage: event.usage }
                });
                Reply { status: 200, headers, content: Content::Frames(Box::new(frames)) }
            }
        }
    }
}

const SERVICE_TIER: &str = "x-amzn-bedrock-service-tier";
const LATENCY: &str = "x-amzn-bedrock-performanceconfig-latency";

/// Checks the headers which have a closed set of values (protocol §1.3).
fn check_options(request: &HttpRequest) -> Result<(), Refusal> {
    let options: [(&str, &[&str]); 3] = [
        (SERVICE_TIER, &["priority", "default", "flex", "reserved"]),
        (LATENCY, &["standard", "optimized"]),
        ("x-amzn-bedrock-trace", &["ENABLED", "DISABLED", "ENABLED_FULL"]),
    ];
    for (name, values) in options {
        let given = request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        if let Some(given) = given.filter(|given| !values.contains(given)) {
            return Err(Refusal::validation(format!("{name}: `{given}` is not a valid value")));
        }
    }
    Ok(())
}
