//! InvokeModel replies of the families which only have text or vectors (protocol §6.4).

use super::event::{Event, Events};
use super::ledger::TokenUsage;
use super::model::Family;
use super::reply::{Answer, Report};
use super::text::Quoted;

/// The vector every embedding model answers with.
const VECTOR: &str = "[0.0123,-0.0456,0.0789,-0.1011,0.1213,-0.1415,0.1617,-0.1819]";

/// The body of a reply which is not streamed.
pub(super) fn body(family: Family, answer: &Answer) -> String {
    let counts = Counts::of(answer);
    let (id, model, created, stop) = (&answer.id, &answer.model, answer.created, answer.stop);
    let whole = answer.text.whole();
    let text = Quoted(&whole);
    match family {
        Family::TitanText => {
            let reason = stop.either("FINISH", "LENGTH");
            let (input, output) = (
                counts.member("inputTextTokenCount", &counts.input),
                counts.member("tokenCount", &counts.output),
            );
            let (input, output) = (after(&input), after(&output));
            format!(
                "{{{input}\"results\":[{{{output}\"outputText\":{text},\"completionReason\":\"{reason}\"}}]}}"
            )
        }
        Family::TitanEmbed => {
            let input = before(&counts.member("inputTextTokenCount", &counts.input));
            format!("{{\"embedding\":{VECTOR}{input}}}")
        }
        Family::CohereEmbed => format!(
            "{{\"id\":\"{id}\",\"embeddings\":[{VECTOR}],\"response_type\":\"embeddings_floats\"}}"
        ),
        Family::Llama => {
            let counts = before(&counts.llama());
            let reason = stop.either("stop", "length");
            format!("{{\"generation\":{text}{counts},\"stop_reason\":\"{reason}\"}}")
        }
        Family::MistralPrompt => {
            let reason = stop.either("stop", "length");
            format!("{{\"outputs\":[{{\"text\":{text},\"stop_reason\":\"{reason}\"}}]}}")
        }
        Family::CohereCommand => {
            let reason = stop.either("COMPLETE", "MAX_TOKENS");
            format!(
                "{{\"id\":\"{id}\",\"text\":{text},\"finish_reason\":\"{reason}\",\
                 \"generations\":[{{\"id\":\"{id}\",\"text\":{text},\
                 \"finish_reason\":\"{reason}\"}}]}}"
            )
        }
        Family::DeepSeekR1 => {
            let reason = stop.either("stop", "length");
            format!("{{\"choices\":[{{\"text\":{text},\"stop_reason\":\"{reason}\"}}]}}")
        }
        Family::Chat | Family::Claude | Family::Nova => {
            let reason = stop.either("stop", "length");
            let usage = before(&counts.chat());
            format!(
                "{{\"id\":\"chatcmpl-{id}\",\"object\":\"chat.completion\",\"created\":{created},\
                 \"model\":\"{model}\",\"choices\":[{{\"index\":0,\"message\":{{\
                 \"role\":\"assistant\",\"content\":{text}}},\"finish_reason\":\"{reason}\"}}]\
                 {usage}}}"
            )
        }
    }
}

/// The events of a streamed reply: one per word, and a last one with the metrics.
pub(super) fn events(family: Family, answer: Answer) -> Events {
    let counts = Counts::of(&answer);
    let (report, usage) = (answer.report, answer.usage);
    let (id, model, created) = (answer.id.clone(), answer.model.clone(), answer.created);
    let mut padding = answer.padding;
    let mut said = 0;
    let credible = report.at_end() && report != Report::Nonsense;
    let words = answer.text.pieces().map(move |piece| {
        let text = Quoted(&piece);
        let mut so_far = None;
        let json = match family {
            Family::TitanText => format!(
                "{{\"outputText\":{text},\"index\":0,\"totalOutputTextTokenCount\":null,\
                 \"completionReason\":null,\"inputTextTokenCount\":null}}"
            ),
            Family::Llama => {
                said = usage.output.min(said + 1);
                let counts = Counts { output: said.to_string(), ..counts.clone() };
                so_far = credible.then_some(TokenUsage { output: said, ..usage });
                let counts = if report.at_end() { before(&counts.llama()) } else { String::new() };
                format!("{{\"generation\":{text}{counts},\"stop_reason\":null}}")
            }
            Family::MistralPrompt => {
                format!("{{\"outputs\":[{{\"text\":{text},\"stop_reason\":null}}]}}")
            }
            Family::CohereCommand => format!(
                "{{\"is_finished\":false,\"event_type\":\"text-generation\",\"text\":{text}}}"
            ),
            Family::DeepSeekR1 => {
                format!("{{\"choices\":[{{\"text\":{text},\"stop_reason\":null}}]}}")
            }
            _ => format!(
                "{{\"id\":\"chatcmpl-{id}\",\"object\":\"chat.completion.chunk\",\
                 \"created\":{created},\"model\":\"{model}\",\"choices\":[{{\"index\":0,\
                 \"delta\":{{\"content\":{text}}},\"finish_reason\":null}}]}}"
            ),
        };
        Event::chunk(json).reporting(so_far).padded(std::mem::take(&mut padding))
    });
    Box::new(words.chain(ending(family, &answer)))
}

fn ending(family: Family, answer: &Answer) -> Vec<Event> {
    let counts = if answer.report.at_end() { Counts::of(answer) } else { Counts::none() };
    let (id, model, created, stop) = (&answer.id, &answer.model, answer.created, answer.stop);
    let reason = stop.either("stop", "length");
    let mut last = match family {
        Family::TitanText => {
            let reason = stop.either("FINISH", "LENGTH");
            let input = before(&counts.member("inputTextTokenCount", &counts.input));
            let output = before(&counts.member("totalOutputTextTokenCount", &counts.output));
            format!(
                "{{\"outputText\":\"\",\"index\":0,\"completionReason\":\"{reason}\"{input}{output}"
            )
        }
        Family::Llama => {
            let counts = before(&counts.llama());
            format!("{{\"generation\":\"\"{counts},\"stop_reason\":\"{reason}\"")
        }
        Family::MistralPrompt => {
            format!("{{\"outputs\":[{{\"text\":\"\",\"stop_reason\":\"{reason}\"}}]")
        }
        Family::CohereCommand => {
            let reason = stop.either("COMPLETE", "MAX_TOKENS");
            format!(
                "{{\"is_finished\":true,\"event_type\":\"stream-end\",\"finish_reason\":\"{reason}\""
            )
        }
        Family::DeepSeekR1 => {
            format!("{{\"choices\":[{{\"text\":\"\",\"stop_reason\":\"{reason}\"}}]")
        }
        _ => {
            let usage = before(&counts.chat());
            format!(
                "{{\"id\":\"chatcmpl-{id}\",\"object\":\"chat.completion.chunk\",\
                 \"created\":{created},\"model\":\"{model}\",\"choices\":[{{\"index\":0,\
                 \"delta\":{{}},\"finish_reason\":\"{reason}\"}}]{usage}"
            )
        }
    };
    let metrics = format!("\"amazon-bedrock-invocationMetrics\":{}", answer.metrics());
    match answer.report {
        Report::MetricsOnly { .. } => {
            let metrics = Event::chunk(format!("{{{metrics}}}")).reporting(answer.reported());
            vec![Event::chunk(format!("{last}}}")), metrics]
        }
        report if report.in_metrics() => {
            last.push_str(&format!(",{metrics}}}"));
            vec![Event::chunk(last).reporting(answer.reported())]
        }
        _ => vec![Event::chunk(format!("{last}}}"))],
    }
}

/// Counts as JSON text; empty if nothing is to be reported.
#[derive(Debug, Clone)]
struct Counts {
    input: String,
    output: String,
    total: String,
}

impl Counts {
    fn of(answer: &Answer) -> Self {
        let (input, output) = (answer.usage.input, answer.usage.output);
        match answer.report {
            Report::Nowhere | Report::MetricsOnly { only: true } => Self::none(),
            Report::Nonsense => Self {
                input: "-5".to_owned(),
                output: "\"twelve\"".to_owned(),
                total: "99999999999999999999999".to_owned(),
            },
            _ => Self {
                input: input.to_string(),
                output: output.to_string(),
                total: (input + output).to_string(),
            },
        }
    }

    fn none() -> Self {
        Self { input: String::new(), output: String::new(), total: String::new() }
    }

    fn member(&self, name: &str, value: &str) -> String {
        if value.is_empty() { String::new() } else { format!("\"{name}\":{value}") }
    }

    fn llama(&self) -> String {
        if self.input.is_empty() {
            return String::new();
        }
        let (input, output) = (&self.input, &self.output);
        format!("\"prompt_token_count\":{input},\"generation_token_count\":{output}")
    }

    fn chat(&self) -> String {
        if self.input.is_empty() {
            return String::new();
        }
        format!(
            "\"usage\":{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{}}}",
            self.input, self.output, self.total
        )
    }
}

/// A member with the comma it needs in front, if there is a member.
fn before(member: &str) -> String {
    if member.is_empty() { String::new() } else { format!(",{member}") }
}

/// The same with the comma behind.
fn after(member: &str) -> String {
    if member.is_empty() { String::new() } else { format!("{member},") }
}
