//! What the "model" answers: the parts every family has in common. `claude`, `converse` and
//! `families` turn an [`Answer`] into bodies and events.

use std::fmt::Write;

use super::event::{Event, Events};
use super::ledger::TokenUsage;
use super::model::{Family, Model};
use super::request::Inquiry;
use super::scenario::{Kind, Scenario};
use super::text::{Text, Tool, call_first, text};
use super::{claude, converse, families};

/// Output tokens which `message_start` admits to.
const PRELIMINARY_OUTPUT: u64 = 1;
/// Cache counts of the scenarios which need some although the prompt has no marker.
const MADE_UP_CACHE: (u64, u64) = (1_000, 200);
const THOUGHT: &str = "This thought is simulated; no model was called.";

/// Everything a family needs to word its answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Letters and digits, unique.
    pub(super) id: String,
    /// The provider's name of the model.
    pub(super) model: String,
    pub(super) thinking: Option<&'static str>,
    pub(super) text: Text,
    pub(super) tool: Option<Tool>,
    pub(super) stop: Stop,
    pub(super) usage: TokenUsage,
    /// Whether usage has cache fields.
    pub(super) cached: bool,
    pub(super) report: Report,
    /// Unix seconds.
    pub(super) created: i64,
    /// Characters of padding of the first text event.
    pub(super) padding: usize,
    pub(super) latency_ms: u64,
}

/// Where usage is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Everywhere,
    Nowhere,
    Nonsense,
    StartOnly,
    MultiDelta,
    CacheOnlyStart,
    CacheOnlyStop,
    /// `only`: nowhere but in the metrics.
    MetricsOnly {
        only: bool,
    },
}

impl Report {
    pub(super) fn at_start(self) -> bool {
        !matches!(self, Self::Nowhere | Self::MetricsOnly { only: true })
    }

    pub(super) fn at_end(self) -> bool {
        self.at_start() && self != Self::StartOnly
    }

    pub(super) fn in_metrics(self) -> bool {
        !matches!(self, Self::Nowhere | Self::StartOnly)
    }
}

/// Why the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    EndTurn,
    MaxTokens,
    ToolUse,
}

impl Stop {
    /// As Claude, Converse and Nova spell it.
    pub(super) fn claude(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::MaxTokens => "max_tokens",
            Self::ToolUse => "tool_use",
        }
    }

    /// One of two words, for families which know only whether the limit was hit.
    pub(super) fn either(self, done: &'static str, limit: &'static str) -> &'static str {
        if self == Self::MaxTokens { limit } else { done }
    }
}

impl Answer {
    /// Makes up an answer. `cache` is what the prompt cache says about the prompt, if it has markers.
    pub(super) fn compose(
        model: &Model,
        inquiry: &Inquiry<'_>,
        scenario: &Scenario,
        cache: Option<TokenUsage>,
        id: String,
    ) -> Self {
        let wants_tool = scenario.is(Kind::Tools);
        let tool = inquiry.tools.filter(|_| wants_tool).and_then(|tools| call_first(tools, &id));
        let thinks = inquiry.thinks || scenario.is(Kind::Thinking);
        let (text, stop) = text(inquiry, scenario, tool.is_some());
        let thinking = thinks.then_some(THOUGHT);
        let report = match scenario.kind {
            Some(Kind::NoUsage) => Report::Nowhere,
            Some(Kind::Nonsense) => Report::Nonsense,
            Some(Kind::AbortUsage) => Report::StartOnly,
            Some(Kind::MultiDelta) => Report::MultiDelta,
            Some(Kind::CacheOnlyStart) => Report::CacheOnlyStart,
            Some(Kind::CacheOnlyStop) => Report::CacheOnlyStop,
            Some(Kind::MetricsOnly) => Report::MetricsOnly { only: scenario.only },
            _ => Report::Everywhere,
        };
        let cached =
            cache.is_some() || matches!(report, Report::CacheOnlyStart | Report::CacheOnlyStop);
        let plain = TokenUsage { input: inquiry.prompt_tokens(), ..TokenUsage::default() };
        let mut usage = cache.unwrap_or(plain);
        if cached && cache.is_none() {
            (usage.cache_read, usage.cache_write_5m) = MADE_UP_CACHE;
        }
        usage.output = text.words()
            + thinking.map_or(0, |thought| thought.split_whitespace().count() as u64)
            + tool.as_ref().map_or(0, |tool| 1 + tool.input.split(',').count() as u64);
        if inquiry.family.embeds() {
            usage.output = 0;
        }
        let padding = match scenario.kind {
            Some(Kind::OneFrame) => scenario.kib.unwrap_or(256) * 1024,
            _ => 0,
        };
        Self {
            model: model.provider_name().to_owned(),
            thinking,
            text,
            tool,
            stop,
            usage,
            cached,
            report,
            created: chrono::Utc::now().timestamp(),
            padding: usize::try_from(padding).unwrap_or_default(),
            latency_ms: 1,
            id,
        }
    }

    /// What `message_start` and its kin report: everything but the output.
    pub(super) fn usage_at_start(&self) -> TokenUsage {
        let usage = TokenUsage { output: PRELIMINARY_OUTPUT.min(self.usage.output), ..self.usage };
        if self.report == Report::CacheOnlyStop { without_cache(usage) } else { usage }
    }

    /// What the ledger has to hold at the end; `None` if nothing credible was reported.
    pub(super) fn reported(&self) -> Option<TokenUsage> {
        match self.report {
            Report::Nowhere | Report::Nonsense => None,
            _ => Some(self.usage),
        }
    }

    /// The value of `amazon-bedrock-invocationMetrics`.
    pub(super) fn metrics(&self) -> String {
        let usage = &self.usage;
        if self.report == Report::Nonsense {
            return r#"{"inputTokenCount":-1,"outputTokenCount":"seven","invocationLatency":null,"firstByteLatency":1e308}"#.to_owned();
        }
        let mut out = format!(
            "{{\"inputTokenCount\":{},\"outputTokenCount\":{},\"invocationLatency\":{},\
             \"firstByteLatency\":{}",
            usage.input, usage.output, self.latency_ms, self.latency_ms
        );
        if self.cached && self.report != Report::CacheOnlyStart {
            let (read, write) = (usage.cache_read, usage.cache_write());
            let _infallible = write!(
                out,
                ",\"cacheReadInputTokenCount\":{read},\"cacheWriteInputTokenCount\":{write}"
            );
        }
        out.push('}');
        out
    }

    /// Token count headers of an answer which is not streamed.
    pub(super) fn headers(&self, family: Family) -> Vec<(&'static str, String)> {
        const INPUT: &str = "x-amzn-bedrock-input-token-count";
        const OUTPUT: &str = "x-amzn-bedrock-output-token-count";
        let usage = &self.usage;
        let mut headers = match self.report {
            Report::Nowhere => return Vec::new(),
            Report::Nonsense => {
                return vec![(INPUT, "-5".to_owned()), (OUTPUT, "many".to_owned())];
            }
            _ => vec![(INPUT, usage.input.to_string())],
        };
        headers.push(("x-amzn-bedrock-invocation-latency", self.latency_ms.to_string()));
        if !family.embeds() {
            headers.push((OUTPUT, usage.output.to_string()));
        }
        if self.cached {
            let read = "x-amzn-bedrock-cache-read-input-token-count";
            headers.push((read, usage.cache_read.to_string()));
            let write = "x-amzn-bedrock-cache-write-input-token-count";
            headers.push((write, usage.cache_write().to_string()));
        }
        headers
    }

    /// The body of InvokeModel.
    pub(super) fn invoke_body(&self, family: Family) -> String {
        match family {
            Family::Claude => claude::body(self),
            Family::Nova => converse::nova_body(self),
            _ => families::body(family, self),
        }
    }

    /// An event for each line of `events`, with Claude's first and last ones around them if asked.
    pub(super) fn echo_events(self, events: &str, wrapped: bool) -> Events {
        let events = events.split('\n').filter(|event| !event.is_empty());
        let events: Vec<_> = events.map(|event| Event::chunk(event.to_owned())).collect();
        let events = Box::new(events.into_iter());
        if wrapped { claude::around(&self, events) } else { events }
    }

    /// The events of InvokeModelWithResponseStream; all are `chunk`s.
    pub(super) fn invoke_events(self, family: Family) -> Events {
        match family {
            Family::Claude => claude::events(self),
            Family::Nova => converse::nova_events(self),
            _ => families::events(family, self),
        }
    }
}

pub(super) fn without_cache(usage: TokenUsage) -> TokenUsage {
    TokenUsage { cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, ..usage }
}
