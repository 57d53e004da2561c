//! Converse replies (protocol §7), and those of Nova, whose own format is much the same.

use super::event::{Event, Events};
use super::ledger::TokenUsage;
use super::reply::{Answer, Report};
use super::text::{Quoted, input_pieces};

const NONSENSE: &str = r#"{"inputTokens":-5,"outputTokens":"twelve","totalTokens":99999999999999999999999,"cacheReadInputTokens":1.5}"#;

/// The body of Converse.
pub(super) fn body(answer: &Answer) -> String {
    let usage = match usage(answer, false) {
        Some(usage) => format!(",\"usage\":{usage}"),
        None => String::new(),
    };
    format!(
        "{{\"metrics\":{{\"latencyMs\":{}}},\"output\":{},\"stopReason\":\"{}\"{usage}}}",
        answer.latency_ms,
        output(answer),
        answer.stop.claude()
    )
}

/// The body of InvokeModel for Nova.
pub(super) fn nova_body(answer: &Answer) -> String {
    let usage = match usage(answer, true) {
        Some(usage) => format!(",\"usage\":{usage}"),
        None => String::new(),
    };
    let (output, stop) = (output(answer), answer.stop.claude());
    format!("{{\"output\":{output},\"stopReason\":\"{stop}\"{usage}}}")
}

/// The events of ConverseStream. Usage comes with `metadata`, after `messageStop`.
pub(super) fn events(answer: Answer) -> Events {
    let metadata = usage(&answer, false);
    let reports = answer.report != Report::StartOnly;
    let latency = answer.latency_ms;
    let json = match metadata {
        Some(usage) => format!("{{\"usage\":{usage},\"metrics\":{{\"latencyMs\":{latency}}}}}"),
        None => format!("{{\"metrics\":{{\"latencyMs\":{latency}}}}}"),
    };
    let last = Event { name: "metadata", json, usage: answer.reported(), padding: 0 };
    Box::new(conversation(&answer).chain(reports.then_some(last)))
}

/// The same, as Nova's chunks: objects keyed by the event's name, and metrics in the last.
pub(super) fn nova_events(answer: Answer) -> Events {
    let reported = answer.reported();
    let mut last = match usage(&answer, true) {
        Some(usage) if answer.report.at_end() => {
            format!("{{\"metadata\":{{\"usage\":{usage},\"metrics\":{{}}}}")
        }
        _ => "{\"metadata\":{\"metrics\":{}}".to_owned(),
    };
    let metrics = format!("\"amazon-bedrock-invocationMetrics\":{}", answer.metrics());
    let mut ending = Vec::with_capacity(2);
    match answer.report {
        Report::MetricsOnly { .. } => {
            ending.push(Event::chunk(format!("{last}}}")));
            ending.push(Event::chunk(format!("{{{metrics}}}")).reporting(reported));
        }
        report if report.in_metrics() => {
            last.push_str(&format!(",{metrics}}}"));
            ending.push(Event::chunk(last).reporting(reported));
        }
        _ => ending.push(Event::chunk(format!("{last}}}"))),
    }
    let wrapped = conversation(&answer).map(|event| {
        let json = format!("{{\"{}\":{}}}", event.name, event.json);
        Event { name: "chunk", json, ..event }
    });
    Box::new(wrapped.chain(ending))
}

/// Everything up to `messageStop`.
fn conversation(answer: &Answer) -> impl Iterator<Item = Event> + use<> {
    let plain = |name, json| Event { name, json, usage: None, padding: 0 };
    let delta = move |index: usize, delta: String| {
        let json = format!("{{\"contentBlockIndex\":{index},\"delta\":{delta}}}");
        plain("contentBlockDelta", json)
    };
    let stop =
        move |index: usize| plain("contentBlockStop", format!("{{\"contentBlockIndex\":{index}}}"));
    let mut before = vec![plain("messageStart", r#"{"role":"assistant"}"#.to_owned())];
    let mut index = 0;
    if let Some(thought) = answer.thinking {
        for word in thought.split_inclusive(' ') {
            let text = format!("{{\"reasoningContent\":{{\"text\":{}}}}}", Quoted(word));
            before.push(delta(index, text));
        }
        let signature = format!("{{\"reasoningContent\":{{\"signature\":\"sim{}\"}}}}", answer.id);
        before.push(delta(index, signature));
        before.push(stop(index));
        index += 1;
    }
    let text_index = index;
    let mut padding = answer.padding;
    let text = answer.text.pieces().map(move |piece| {
        let event = delta(text_index, format!("{{\"text\":{}}}", Quoted(&piece)));
        event.padded(std::mem::take(&mut padding))
    });
    let mut after = vec![stop(text_index)];
    if let Some(tool) = &answer.tool {
        index += 1;
        after.push(plain(
            "contentBlockStart",
            format!(
                "{{\"contentBlockIndex\":{index},\"start\":{{\"toolUse\":{{\"toolUseId\":\"{}\",\
                 \"name\":{}}}}}}}",
                tool.id,
                Quoted(&tool.name)
            ),
        ));
        for piece in input_pieces(&tool.input) {
            let input = format!("{{\"toolUse\":{{\"input\":{}}}}}", Quoted(&piece));
            after.push(delta(index, input));
        }
        after.push(stop(index));
    }
    let reason = format!("{{\"stopReason\":\"{}\"}}", answer.stop.claude());
    after.push(plain("messageStop", reason));
    before.into_iter().chain(text).chain(after)
}

fn output(answer: &Answer) -> String {
    let mut blocks = Vec::with_capacity(3);
    if let Some(thought) = answer.thinking {
        blocks.push(format!(
            "{{\"reasoningContent\":{{\"reasoningText\":{{\"text\":{},\"signature\":\"sim{}\"}}}}}}",
            Quoted(thought),
            answer.id
        ));
    }
    blocks.push(format!("{{\"text\":{}}}", Quoted(&answer.text.whole())));
    if let Some(tool) = &answer.tool {
        blocks.push(format!(
            "{{\"toolUse\":{{\"toolUseId\":\"{}\",\"name\":{},\"input\":{}}}}}",
            tool.id,
            Quoted(&tool.name),
            tool.input
        ));
    }
    format!("{{\"message\":{{\"role\":\"assistant\",\"content\":[{}]}}}}", blocks.join(","))
}

/// `usage`; Nova spells the cache fields with `Count` and always has them.
fn usage(answer: &Answer, nova: bool) -> Option<String> {
    match answer.report {
        Report::Nowhere => return None,
        Report::MetricsOnly { only: true } if nova => return None,
        Report::Nonsense => return Some(NONSENSE.to_owned()),
        _ => {}
    }
    let TokenUsage { input, output, cache_read, cache_write_5m, cache_write_1h } = answer.usage;
    let write = answer.usage.cache_write();
    let total = input + output + cache_read + write;
    let mut out =
        format!("{{\"inputTokens\":{input},\"outputTokens\":{output},\"totalTokens\":{total}");
    if nova {
        out.push_str(&format!(
            ",\"cacheReadInputTokenCount\":{cache_read},\"cacheWriteInputTokenCount\":{write}"
        ));
    } else if answer.cached {
        out.push_str(&format!(
            ",\"cacheReadInputTokens\":{cache_read},\"cacheWriteInputTokens\":{write}"
        ));
        let details: Vec<String> = [("5m", cache_write_5m), ("1h", cache_write_1h)]
            .iter()
            .filter(|(_, tokens)| *tokens > 0)
            .map(|(ttl, tokens)| format!("{{\"ttl\":\"{ttl}\",\"inputTokens\":{tokens}}}"))
            .collect();
        if !details.is_empty() {
            out.push_str(&format!(",\"cacheDetails\":[{}]", details.join(",")));
        }
    }
    out.push('}');
    Some(out)
}
