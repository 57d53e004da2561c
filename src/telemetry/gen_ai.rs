//! Calls in the words of OpenTelemetry's conventions for generative AI (semantic conventions 1.43, status: development), as
//! Prometheus spells them: dots are underscores, and a name ends with its unit, if that is seconds. This service is a client
//! of Bedrock's, so `gen_ai.client`; `gen_ai.server` is for those that run models.
//!
//! The conventions know no class of cached tokens and no way of calling: `bedrock_tokens_total` and `bedrock_calls_total`
//! have those.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use arc_swap::ArcSwap;
use prometheus::{HistogramOpts, HistogramVec, core::Collector};

use crate::{bedrock::model_id::foundation, db::usage::NewUsage, pricing::shipped::shipped};

const PROVIDER: &str = "aws.bedrock";
/// A model that nobody here has a price for. Clients choose what they ask for; labels are to be few.
const OTHER: &str = "other";

/// As the conventions recommend, and on, as a call may take an hour.
const SECONDS: [f64; 18] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36, 1310.72,
];
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

#[derive(Clone)]
pub(super) struct GenAi {
    duration: HistogramVec,
    first_chunk: HistogramVec,
    tokens: HistogramVec,
    /// Foundation models that labels may name.
    known: Arc<ArcSwap<HashSet<String>>>,
}

impl GenAi {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: &[f64], label: Option<&str>| {
            let options = HistogramOpts::new(name, help)
                .buckets(buckets.to_vec())
                .const_label("gen_ai_provider_name", PROVIDER);
            let labels = ["gen_ai_operation_name", "gen_ai_request_model"];
            let labels: Vec<&str> = labels.into_iter().chain(label).collect();
            HistogramVec::new(options, &labels)
        };
        let made = Self {
            duration: histogram(
                "gen_ai_client_operation_duration_seconds",
                "From a request to the last byte of its answer; `error_type` says how it failed",
                &SECONDS,
                Some("error_type"),
            )?,
            first_chunk: histogram(
                "gen_ai_client_operation_time_to_first_chunk_seconds",
                "From a request to the first byte of its stream",
                &SECONDS,
                None,
            )?,
            tokens: histogram(
                "gen_ai_client_token_usage",
                "Tokens of a call; input has those written to and read from the prompt cache",
                &TOKENS,
                Some("gen_ai_token_type"),
            )?,
            known: Arc::default(),
        };
        made.know([]);
        Ok(made)
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let all = [&self.duration, &self.first_chunk, &self.tokens];
        all.into_iter().map(|one| Box::new(one.clone()) as Box<dyn Collector>).collect()
    }

    /// From now on labels name the models of the shipped prices and these.
    pub(super) fn know<'a>(&self, priced: impl IntoIterator<Item = &'a str>) {
        let shipped = shipped().iter().map(|entry| entry.model_id.as_str());
        let models = shipped.chain(priced).map(foundation);
        // What an ARN leads to is not known, and it has the number of an account in it.
        let known = models.filter(|model| !model.starts_with("arn:")).map(str::to_owned).collect();
        self.known.store(Arc::new(known));
    }

    pub(super) fn call_ended(&self, row: &NewUsage) {
        let known = self.known.load();
        let foundation = foundation(&row.model_id);
        let model = if known.contains(foundation) { foundation } else { OTHER };
        let operation = operation(&row.operation, foundation);
        let seconds = |ms: i64| ms as f64 / 1000.0;
        if let Some(ms) = row.response_time_ms {
            let labels = [operation, model, &error_type(row)];
            self.duration.with_label_values(&labels).observe(seconds(ms));
        }
        if let Some(ms) = row.time_to_first_byte_ms.filter(|_| row.streamed) {
            self.first_chunk.with_label_values(&[operation, model]).observe(seconds(ms));
        }
        let cached = row.cache_write_tokens.unwrap_or(0) + row.cache_read_tokens.unwrap_or(0);
        let input = row.input_tokens.map(|input| input + cached);
        for (kind, count) in [("input", input), ("output", row.output_tokens)] {
            if let Some(count) = count {
                self.tokens.with_label_values(&[operation, model, kind]).observe(count as f64);
            }
        }
    }
}

/// What is done, as far as the conventions have a name for it.
fn operation(operation: &str, model: &str) -> &'static str {
    let is_any = |parts: &[&str]| parts.iter().any(|part| model.contains(part));
    match operation {
        "count_tokens" => "count_tokens", // none of theirs
        _ if is_any(&["embed"]) => "embeddings",
        _ if is_any(&["stability.", "-image", "-canvas", "-reel"]) => "generate_content",
        _ => "chat",
    }
}

/// Empty (which is as if it were not there) for a success, Bedrock's status for its refusals, else the outcome in the row.
fn error_type(row: &NewUsage) -> Cow<'_, str> {
    match (row.outcome.as_str(), row.status) {
        ("success", _) => Cow::Borrowed(""),
        ("upstream_error", Some(status @ 400..=599)) => Cow::Owned(status.to_string()),
        (outcome, _) => Cow::Borrowed(outcome),
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;

    fn row(model_id: &str) -> NewUsage {
        NewUsage {
            operation: "converse_stream".to_owned(),
            model_id: model_id.to_owned(),
            streamed: true,
            outcome: "success".to_owned(),
            status: Some(200),
            response_time_ms: Some(1500),
            time_to_first_byte_ms: Some(400),
            input_tokens: Some(10),
            output_tokens: Some(7),
            cache_write_tokens: Some(100),
            cache_write_1h_tokens: Some(40),
            cache_read_tokens: Some(1000),
            ..NewUsage::default()
        }
    }

    fn text(of: &GenAi) -> String {
        let registry = Registry::new();
        of.collectors().into_iter().for_each(|one| registry.register(one).unwrap());
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn a_call_is_told_with_the_names_and_labels_of_the_conventions() {
        let metrics = GenAi::new().unwrap();

        metrics.call_ended(&row("us.anthropic.claude-sonnet-4-20250514-v1:0"));

        let text = text(&metrics);
        let who = |error: &str| {
            format!(
                "{error}gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"aws.bedrock\",\
                 gen_ai_request_model=\"anthropic.claude-sonnet-4-20250514-v1:0\""
            )
        };
        let (done, any) = (who("error_type=\"\","), who(""));
        for line in [
            format!("gen_ai_client_operation_duration_seconds_sum{{{done}}} 1.5"),
            format!("gen_ai_client_operation_duration_seconds_bucket{{{done},le=\"1.28\"}} 0"),
            format!("gen_ai_client_operation_duration_seconds_bucket{{{done},le=\"2.56\"}} 1"),
            format!("gen_ai_client_operation_time_to_first_chunk_seconds_sum{{{any}}} 0.4"),
            format!("gen_ai_client_token_usage_sum{{{any},gen_ai_token_type=\"input\"}} 1110"),
            format!("gen_ai_client_token_usage_sum{{{any},gen_ai_token_type=\"output\"}} 7"),
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_label_names_what_has_a_price_and_never_what_a_client_makes_up() {
        let metrics = GenAi::new().unwrap();
        let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3";
        metrics.know(["eu.acme.large-v1:0", arn]);

        for made_up in ["acme.small-v1:0", "anthropic.claude-of-my-own", arn] {
            metrics.call_ended(&row(made_up));
        }
        let profile = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/us.acme.large-v1:0";
        metrics.call_ended(&row(profile));

        let text = text(&metrics);
        let counted = |model: &str, count: usize| {
            let end = format!("gen_ai_request_model=\"{model}\"}} {count}\n");
            text.contains(&end)
        };
        assert!(counted("other", 3) && counted("acme.large-v1:0", 1), "{text}");
        for hidden in ["acme.small", "of-my-own", "arn:", "123456789012"] {
            assert!(!text.contains(hidden), "{hidden} is in\n{text}");
        }
    }

    #[test]
    fn how_a_call_failed_is_one_of_few() {
        let failed = |outcome: &str, status| {
            let row = NewUsage { outcome: outcome.to_owned(), status, ..NewUsage::default() };
            error_type(&row).into_owned()
        };

        assert_eq!(failed("success", Some(200)), "");
        assert_eq!(failed("upstream_error", Some(429)), "429");
        // An exception within a stream, and a status that is none.
        assert_eq!(failed("upstream_error", Some(200)), "upstream_error");
        assert_eq!(failed("upstream_error", Some(9999)), "upstream_error");
        assert_eq!(failed("upstream_error", None), "upstream_error");
        assert_eq!(failed("client_disconnect", Some(200)), "client_disconnect");
        assert_eq!(failed("timeout", Some(504)), "timeout");
    }

    #[test]
    fn operations_have_the_names_of_the_conventions() {
        for (given, model, name) in [
            ("invoke", "anthropic.claude-sonnet-4-20250514-v1:0", "chat"),
            ("converse_stream", "amazon.nova-pro-v1:0", "chat"),
            ("invoke", "amazon.titan-embed-text-v2:0", "embeddings"),
            ("invoke", "cohere.embed-multilingual-v3", "embeddings"),
            ("invoke", "amazon.nova-canvas-v1:0", "generate_content"),
            ("invoke", "amazon.titan-image-generator-v2:0", "generate_content"),
            ("count_tokens", "anthropic.claude-sonnet-4-20250514-v1:0", "count_tokens"),
        ] {
            assert_eq!(operation(given, model), name, "{given} {model}");
        }
    }
}
