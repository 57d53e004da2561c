//! Claude's Messages replies: the body and the events of protocol §4.4, usage as in §4.5.

use std::fmt::Write;

use super::event::{Event, Events};
use super::ledger::TokenUsage;
use super::reply::{Answer, Report, without_cache};
use super::text::{Quoted, input_pieces};

/// How many `message_delta` events the scenario `multidelta` sends.
const DELTAS: u64 = 3;
const NONSENSE: &str = r#"{"input_tokens":-5,"output_tokens":"twelve","cache_read_input_tokens":99999999999999999999999,"cache_creation_input_tokens":1.5}"#;

/// The body of a reply which is not streamed.
pub(super) fn body(answer: &Answer) -> String {
    let text = answer.text.whole();
    let mut content = String::with_capacity(text.len() + 64);
    if let Some(thought) = answer.thinking {
        let _infallible = write!(
            content,
            "{{\"type\":\"thinking\",\"thinking\":{},\"signature\":\"{}\"}},",
            Quoted(thought),
            signature(answer)
        );
    }
    if !text.is_empty() {
        let _infallible = write!(content, "{{\"type\":\"text\",\"text\":{}}},", Quoted(&text));
    }
    if let Some(tool) = &answer.tool {
        let _infallible = write!(
            content,
            "{{\"type\":\"tool_use\",\"id\":\"{}\",\"name\":{},\"input\":{}}},",
            tool.id,
            Quoted(&tool.name),
            tool.input
        );
    }
    content.truncate(content.len().saturating_sub(1));
    let mut body = format!(
        "{{\"id\":\"msg_bdrk_{}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"{}\",\
         \"content\":[{content}],\"stop_reason\":\"{}\",\"stop_sequence\":null",
        answer.id,
        answer.model,
        answer.stop.claude()
    );
    match answer.report {
        Report::Nowhere => {}
        Report::Nonsense => body.push_str(&format!(",\"usage\":{NONSENSE}")),
        _ => body.push_str(&format!(",\"usage\":{}", usage(&answer.usage, answer.cached))),
    }
    body.push('}');
    body
}

/// The events of a streamed reply.
pub(super) fn events(answer: Answer) -> Events {
    let mut blocks: Vec<Events> = Vec::with_capacity(3);
    if let Some(thought) = answer.thinking {
        let mut deltas: Vec<String> = thought
            .split_inclusive(' ')
            .map(|word| format!("{{\"type\":\"thinking_delta\",\"thinking\":{}}}", Quoted(word)))
            .collect();
        let signature = signature(&answer);
        deltas.push(format!("{{\"type\":\"signature_delta\",\"signature\":\"{signature}\"}}"));
        let open = r#"{"type":"thinking","thinking":"","signature":""}"#.to_owned();
        blocks.push(block(blocks.len(), open, deltas.into_iter(), 0));
    }
    let deltas = answer.text.pieces().filter(|piece| !piece.is_empty());
    let deltas =
        deltas.map(|piece| format!("{{\"type\":\"text_delta\",\"text\":{}}}", Quoted(&piece)));
    let open = r#"{"type":"text","text":""}"#.to_owned();
    blocks.push(block(blocks.len(), open, deltas, answer.padding));
    if let Some(tool) = &answer.tool {
        let open = format!(
            "{{\"type\":\"tool_use\",\"id\":\"{}\",\"name\":{},\"input\":{{}}}}",
            tool.id,
            Quoted(&tool.name)
        );
        let deltas = input_pieces(&tool.input).into_iter().map(|piece| {
            format!("{{\"type\":\"input_json_delta\",\"partial_json\":{}}}", Quoted(&piece))
        });
        blocks.push(block(blocks.len(), open, deltas, 0));
    }
    around(&answer, Box::new(blocks.into_iter().flatten()))
}

/// The events of a streamed reply with these in place of its blocks.
pub(super) fn around(answer: &Answer, blocks: Events) -> Events {
    let start = Event::chunk(message_start(answer)).reporting(at_start(answer));
    Box::new(std::iter::once(start).chain(blocks).chain(ending(answer)))
}

fn block(
    index: usize,
    open: String,
    deltas: impl Iterator<Item = String> + 'static,
    padding: usize,
) -> Events {
    let start = Event::chunk(format!(
        "{{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{open}}}"
    ));
    let mut padding = padding;
    let deltas = deltas.map(move |delta| {
        Event::chunk(format!(
            "{{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{delta}}}"
        ))
        .padded(std::mem::take(&mut padding))
    });
    let stop = Event::chunk(format!("{{\"type\":\"content_block_stop\",\"index\":{index}}}"));
    Box::new(std::iter::once(start).chain(deltas).chain(std::iter::once(stop)))
}

fn message_start(answer: &Answer) -> String {
    let cached = answer.cached && answer.report != Report::CacheOnlyStop;
    let usage = match answer.report {
        report if !report.at_start() => String::new(),
        Report::Nonsense => format!(",\"usage\":{NONSENSE}"),
        _ => format!(",\"usage\":{}", usage(&answer.usage_at_start(), cached)),
    };
    format!(
        "{{\"type\":\"message_start\",\"message\":{{\"id\":\"msg_bdrk_{}\",\"type\":\"message\",\
         \"role\":\"assistant\",\"model\":\"{}\",\"content\":[],\"stop_reason\":null,\
         \"stop_sequence\":null{usage}}}}}",
        answer.id, answer.model
    )
}

fn at_start(answer: &Answer) -> Option<TokenUsage> {
    let reports = answer.report.at_start() && answer.report != Report::Nonsense;
    reports.then(|| answer.usage_at_start())
}

/// `message_delta`, as often as asked for, and `message_stop`.
fn ending(answer: &Answer) -> Vec<Event> {
    let output = answer.usage.output;
    let until_stop = match answer.report {
        Report::CacheOnlyStop => without_cache(answer.usage),
        _ => answer.usage,
    };
    let delta = |output: Option<u64>| {
        let usage = match (answer.report, output) {
            (Report::Nonsense, _) => format!(",\"usage\":{NONSENSE}"),
            (_, Some(output)) => format!(",\"usage\":{{\"output_tokens\":{output}}}"),
            (_, None) => String::new(),
        };
        let reported = output.filter(|_| answer.report != Report::Nonsense);
        Event::chunk(format!(
            "{{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{}\",\
             \"stop_sequence\":null}}{usage}}}",
            answer.stop.claude()
        ))
        .reporting(reported.map(|output| TokenUsage { output, ..until_stop }))
    };
    let mut events = match answer.report {
        Report::MultiDelta => {
            (1..=DELTAS).map(|part| delta(Some(output * part / DELTAS))).collect()
        }
        report => vec![delta(report.at_end().then_some(output))],
    };
    let metrics = format!("\"amazon-bedrock-invocationMetrics\":{}", answer.metrics());
    let bare = || Event::chunk(r#"{"type":"message_stop"}"#.to_owned());
    match answer.report {
        Report::MetricsOnly { .. } => {
            events.push(bare());
            let last = Event::chunk(format!("{{{metrics}}}"));
            events.push(last.reporting(answer.reported()));
        }
        report if report.in_metrics() => {
            let stop = Event::chunk(format!("{{\"type\":\"message_stop\",{metrics}}}"));
            events.push(stop.reporting(answer.reported()));
        }
        _ => events.push(bare()),
    }
    events
}

fn usage(usage: &TokenUsage, cached: bool) -> String {
    if !cached {
        let TokenUsage { input, output, .. } = usage;
        return format!("{{\"input_tokens\":{input},\"output_tokens\":{output}}}");
    }
    format!(
        "{{\"input_tokens\":{},\"cache_creation_input_tokens\":{},\"cache_read_input_tokens\":{},\
         \"cache_creation\":{{\"ephemeral_5m_input_tokens\":{},\"ephemeral_1h_input_tokens\":{}}},\
         \"output_tokens\":{}}}",
        usage.input,
        usage.cache_write(),
        usage.cache_read,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.output
    )
}

fn signature(answer: &Answer) -> String {
    format!("simulated{}", answer.id)
}
