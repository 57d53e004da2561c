//! The members of replies that speak of usage, as each model family spells them. A member of an unexpected type is
//! read as absent, so that nothing in a reply can hide the rest.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{MOST, TokenCounts};

/// The members of all families that speak of usage (protocol reference §6.4); everything else is skipped unread.
/// A member of an unexpected type is read as absent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Said<'a> {
    #[serde(rename = "type", borrow, deserialize_with = "text")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(deserialize_with = "object")]
    pub(super) usage: Option<Usage>,
    #[serde(deserialize_with = "object")]
    pub(super) message: Option<Nested>,
    #[serde(deserialize_with = "object")]
    pub(super) metadata: Option<Nested>,
    #[serde(rename = "amazon-bedrock-invocationMetrics", deserialize_with = "object")]
    pub(super) metrics: Option<Metrics>,
    // Titan
    #[serde(rename = "inputTextTokenCount")]
    input_text_token_count: Count,
    #[serde(rename = "totalOutputTextTokenCount")]
    total_output_text_token_count: Count,
    #[serde(deserialize_with = "list")]
    results: Vec<Part<'a>>,
    // Llama, DeepSeek R1 streams
    prompt_token_count: Count,
    generation_token_count: Count,
    // Jurassic
    #[serde(deserialize_with = "object")]
    prompt: Option<JurassicTokens>,
    #[serde(deserialize_with = "list")]
    completions: Vec<Completion<'a>>,
    // Where the families say why they stopped
    #[serde(borrow, deserialize_with = "text")]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(rename = "stopReason", borrow, deserialize_with = "text")]
    stop_reason_camel: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text")]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(rename = "completionReason", borrow, deserialize_with = "text")]
    completion_reason: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "object")]
    delta: Option<Part<'a>>,
    #[serde(rename = "messageStop", borrow, deserialize_with = "object")]
    message_stop: Option<Part<'a>>,
    #[serde(borrow, deserialize_with = "list")]
    outputs: Vec<Part<'a>>,
    #[serde(borrow, deserialize_with = "list")]
    choices: Vec<Part<'a>>,
}

impl Said<'_> {
    pub(super) fn flat_counts(&self, nonsense: &mut u32) -> TokenCounts {
        let mut first = |counts: [Count; 2]| {
            *nonsense += counts.iter().filter(|count| **count == Count::Nonsense).count() as u32;
            counts.iter().find_map(|count| count.value())
        };
        let input = first([self.input_text_token_count, self.prompt_token_count]);
        let output = first([self.total_output_text_token_count, self.generation_token_count]);
        let wrong = |result: &&Part<'_>| result.token_count == Count::Nonsense;
        *nonsense += self.results.iter().filter(wrong).count() as u32;
        let sum: Option<i64> = self.results.iter().map(|result| result.token_count.value()).sum();
        let titan = sum.filter(|_| !self.results.is_empty()).and_then(|sum| bounded(sum, nonsense));
        let prompt = self.prompt.as_ref().and_then(|prompt| prompt.tokens.0);
        let completed: Option<i64> =
            self.completions.iter().map(|c| c.data.as_ref()?.tokens.0).sum();
        let completed = completed.filter(|_| !self.completions.is_empty());
        TokenCounts {
            input: input.or(prompt),
            output: output.or(titan).or(completed),
            ..TokenCounts::default()
        }
    }

    pub(super) fn stop_reason(&self) -> Option<&str> {
        let direct = [
            &self.stop_reason,
            &self.stop_reason_camel,
            &self.finish_reason,
            &self.completion_reason,
        ];
        let parts = self.delta.iter().chain(&self.message_stop);
        let parts = parts.chain(&self.outputs).chain(&self.choices).chain(&self.results);
        direct.into_iter().find_map(|reason| reason.as_deref()).or_else(|| {
            parts.into_iter().find_map(Part::reason).or_else(|| {
                self.completions.iter().find_map(|c| c.finish_reason.as_ref()?.reason.as_deref())
            })
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Nested {
    #[serde(deserialize_with = "object")]
    pub(super) usage: Option<Usage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part<'a> {
    #[serde(borrow, deserialize_with = "text")]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(rename = "stopReason", borrow, deserialize_with = "text")]
    stop_reason_camel: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text")]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(rename = "completionReason", borrow, deserialize_with = "text")]
    completion_reason: Option<Cow<'a, str>>,
    #[serde(rename = "tokenCount")]
    token_count: Count,
}

impl Part<'_> {
    fn reason(&self) -> Option<&str> {
        [&self.stop_reason, &self.stop_reason_camel, &self.finish_reason, &self.completion_reason]
            .into_iter()
            .find_map(|reason| reason.as_deref())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JurassicTokens {
    tokens: Length,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Completion<'a> {
    #[serde(deserialize_with = "object")]
    data: Option<JurassicTokens>,
    #[serde(rename = "finishReason", borrow, deserialize_with = "object")]
    finish_reason: Option<FinishReason<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FinishReason<'a> {
    #[serde(borrow, deserialize_with = "text")]
    reason: Option<Cow<'a, str>>,
}

/// `usage` as Claude, Converse and Nova, and OpenAI-like models spell it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    input_tokens: Count,
    output_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_read_input_tokens: Count,
    #[serde(deserialize_with = "object")]
    cache_creation: Option<CacheCreation>,
    #[serde(rename = "inputTokens")]
    input: Count,
    #[serde(rename = "outputTokens")]
    output: Count,
    #[serde(rename = "cacheReadInputTokens")]
    cache_read: Count,
    #[serde(rename = "cacheReadInputTokenCount")]
    cache_read_count: Count,
    #[serde(rename = "cacheWriteInputTokens")]
    cache_write: Count,
    #[serde(rename = "cacheWriteInputTokenCount")]
    cache_write_count: Count,
    #[serde(rename = "cacheDetails", deserialize_with = "list")]
    cache_details: Vec<CacheDetail>,
    prompt_tokens: Count,
    completion_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Count,
    ephemeral_1h_input_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheDetail {
    #[serde(deserialize_with = "text_owned")]
    ttl: Option<String>,
    #[serde(rename = "inputTokens")]
    input_tokens: Count,
}

impl Usage {
    pub(super) fn counts(&self, nonsense: &mut u32) -> TokenCounts {
        let mut first = |counts: &[Count]| {
            *nonsense += counts.iter().filter(|count| **count == Count::Nonsense).count() as u32;
            counts.iter().find_map(|count| count.value())
        };
        let cache_write =
            first(&[self.cache_creation_input_tokens, self.cache_write, self.cache_write_count]);
        let parts = self.cache_creation.as_ref().map(|parts| {
            (first(&[parts.ephemeral_5m_input_tokens]), first(&[parts.ephemeral_1h_input_tokens]))
        });
        let hour_is_absent = self
            .cache_creation
            .as_ref()
            .is_some_and(|parts| parts.ephemeral_1h_input_tokens == Count::Absent);
        let detail = self.cache_details.iter().find(|detail| detail.ttl.as_deref() == Some("1h"));
        let one_hour = match (&parts, detail) {
            (Some((short, _)), _) if hour_is_absent => cache_write.or(*short).map(|_| 0),
            (Some((_, hour)), _) => *hour,
            (None, Some(detail)) => first(&[detail.input_tokens]),
            // A breakdown without an hour's part, or no breakdown: all of it is the short kind.
            (None, None) => cache_write.map(|_| 0),
        };
        let input = first(&[self.input_tokens, self.input, self.prompt_tokens]);
        let output = first(&[self.output_tokens, self.output, self.completion_tokens]);
        let cache_read =
            first(&[self.cache_read_input_tokens, self.cache_read, self.cache_read_count]);
        let sum = parts.and_then(|(short, hour)| match (short, hour) {
            (None, None) => None,
            _ => Some(short.unwrap_or(0) + hour.unwrap_or(0)),
        });
        TokenCounts {
            input,
            output,
            cache_write: cache_write.or(sum.and_then(|sum| bounded(sum, nonsense))),
            cache_write_1h: one_hour,
            cache_read,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metrics {
    input_token_count: Count,
    output_token_count: Count,
    cache_read_input_token_count: Count,
    cache_write_input_token_count: Count,
}

impl Metrics {
    pub(super) fn counts(&self, nonsense: &mut u32) -> TokenCounts {
        let mut value = |count: Count| {
            *nonsense += u32::from(count == Count::Nonsense);
            count.value()
        };
        let cache_write = value(self.cache_write_input_token_count);
        TokenCounts {
            input: value(self.input_token_count),
            output: value(self.output_token_count),
            cache_write,
            cache_write_1h: cache_write.map(|_| 0),
            cache_read: value(self.cache_read_input_token_count),
        }
    }
}

/// A token count of any JSON type: whole numbers from 0 to 2^40 count, `null` is absent, the rest is nonsense.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Count {
    #[default]
    Absent,
    Of(i64),
    Nonsense,
}

impl Count {
    fn value(self) -> Option<i64> {
        match self {
            Self::Of(value) => Some(value),
            Self::Absent | Self::Nonsense => None,
        }
    }
}

/// Implements `Visitor` methods that accept, and give the default for, every type that is not wanted.
macro_rules! otherwise {
    ($lifetime:lifetime, $value:expr; $($kind:ident)*) => { $(otherwise!(@$kind $lifetime, $value);)* };
    (@bool $l:lifetime, $v:expr) => { fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok($v) } };
    (@numbers $l:lifetime, $v:expr) => {
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok($v) }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok($v) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok($v) }
    };
    (@unit $l:lifetime, $v:expr) => { fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Default::default()) } };
    (@str $l:lifetime, $v:expr) => { fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok($v) } };
    (@seq $l:lifetime, $v:expr) => {
        fn visit_seq<A: SeqAccess<$l>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($v)
        }
    };
    (@map $l:lifetime, $v:expr) => {
        fn visit_map<A: MapAccess<$l>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($v)
        }
    };
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As it is written: a number that no type holds (1e999) is nonsense, not the end of the reading.
        Ok(match <&RawValue>::deserialize(deserializer)?.get() {
            "null" => Self::Absent,
            text => match text.parse::<i64>() {
                Ok(value) if (0..=MOST).contains(&value) && text != "-0" => Self::Of(value),
                _ => Self::Nonsense,
            },
        })
    }
}

/// A sum of counts, unless it is more than any call can have.
fn bounded(sum: i64, nonsense: &mut u32) -> Option<i64> {
    *nonsense += u32::from(sum > MOST);
    (sum <= MOST).then_some(sum)
}

/// The length of a list; whatever is in it.
#[derive(Debug, Default, Clone, Copy)]
struct Length(Option<i64>);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;
        impl<'de> Visitor<'de> for Counting {
            type Value = Option<i64>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut length = 0;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Some(length))
            }
            otherwise!('de, None; bool numbers unit str map);
        }
        deserializer.deserialize_any(Counting).map(Self)
    }
}

/// An object, or nothing if it is anything else.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Some)
        }
        otherwise!('de, None; bool numbers unit str seq);
    }
    from.deserialize_any(Object(std::marker::PhantomData))
}

/// An item of a list: an object, or nothing.
struct Lenient<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// The objects of a list, or an empty one if it is anything else.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(Lenient(item)) = seq.next_element()? {
                items.extend(item);
            }
            Ok(items)
        }
        otherwise!('de, Vec::new(); bool numbers unit str map);
    }
    from.deserialize_any(List(std::marker::PhantomData))
}

/// Text, or nothing if it is anything else. Borrowed where it has no escapes.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = Option<Cow<'de, str>>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("text")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Some(Cow::Borrowed(text)))
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(Cow::Owned(text.to_owned())))
        }
        otherwise!('de, None; bool numbers unit seq map);
    }
    from.deserialize_any(Text)
}

fn text_owned<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(text(from)?.map(Cow::into_owned))
}
