//! What can be told from the text of a name, an id or a region alone, without the table and the settings.

use crate::bedrock::model_id::without_prefix;

/// Whose models stand on Bedrock: an id that begins with one of these is passed on unchanged, known or not.
const PROVIDERS: [&str; 20] = [
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "luma",
    "meta",
    "minimax",
    "mistral",
    "moonshot",
    "moonshotai",
    "nvidia",
    "openai",
    "qwen",
    "stability",
    "twelvelabs",
    "writer",
    "xai",
    "zai",
];

/// How Claude Code marks the long context window.
const LONG_CONTEXT: &str = "[1m]";

/// What the models of a region are tried with, in order. me-central-1 is where the list of the AWS CDK has it.
/// A prefix is not the beginning of a region's name: there is no profile `ap`.
pub(super) fn prefixes_of(region: &str) -> &'static [&'static str] {
    match region {
        "us-east-1" | "us-east-2" | "us-west-1" | "us-west-2" | "ca-central-1" | "ca-west-1" => {
            &["us", "global"]
        }
        "eu-central-1" | "eu-central-2" | "eu-north-1" | "eu-south-1" | "eu-south-2"
        | "eu-west-1" | "eu-west-2" | "eu-west-3" => &["eu", "global"],
        "ap-northeast-1" | "ap-northeast-3" => &["jp", "apac", "global"],
        "ap-southeast-2" | "ap-southeast-4" => &["au", "apac", "global"],
        "ap-northeast-2" | "ap-south-1" | "ap-south-2" | "ap-southeast-1" | "ap-southeast-3"
        | "ap-southeast-5" | "ap-southeast-7" | "ap-east-2" | "me-central-1" => &["apac", "global"],
        _ if region.starts_with("us-gov-") => &["us-gov"],
        _ if region.starts_with("cn-") => &[], // a partition of its own, without profiles
        _ => &["global"],
    }
}

/// The name without `[1m]` at its end, and whether it had that.
pub(super) fn without_marker(name: &str) -> (&str, bool) {
    let at = name.len().checked_sub(LONG_CONTEXT.len());
    match at.and_then(|at| name.split_at_checked(at)) {
        Some((rest, end)) if end.eq_ignore_ascii_case(LONG_CONTEXT) => (rest, true),
        _ => (name, false),
    }
}

/// Without the provider that gateways of other makers put before a name.
pub(super) fn undecorated(name: &str) -> &str {
    let gateway = name.strip_prefix("bedrock/").or_else(|| name.strip_prefix("anthropic/"));
    gateway.unwrap_or(name)
}

/// Whether this is an id or ARN already.
pub(super) fn is_bedrock(name: &str) -> bool {
    let id_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".:_-".contains(&byte);
    let provider = || name.split_once('.').filter(|(provider, _)| PROVIDERS.contains(provider));
    name.starts_with("arn:")
        || (name.bytes().all(id_byte)
            && (without_prefix(name) != name
                || provider().is_some_and(|(_, model)| !model.is_empty())))
}

/// The id of a name that is newer than the table: up to Claude 4.5 ids end in the date and `-v1:0`, from 4.6 on they are
/// the name.
pub(super) fn derived(name: &str) -> Option<String> {
    let rest = name.strip_prefix("claude-")?;
    let words: Vec<&str> = rest.split('-').collect();
    let word = |word: &&str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let family = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let number = |word: &str| {
        let digits = (1..=2).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| word.parse::<u8>().ok()).flatten()
    };
    match words.as_slice() {
        [before @ .., date] if !before.is_empty() && is_date(date) => {
            before.iter().all(word).then(|| format!("anthropic.{name}-v1:0"))
        }
        [line, major] if family(line) => {
            number(major).filter(|major| *major >= 5).map(|_| format!("anthropic.{name}"))
        }
        [line, major, minor] if family(line) => {
            let version = (number(major)?, number(minor)?);
            (version >= (4, 6)).then(|| format!("anthropic.{name}"))
        }
        _ => None,
    }
}

/// `YYYYMMDD` of this century.
pub(super) fn is_date(word: &str) -> bool {
    let part = |range| word.get(range).and_then(|digits: &str| digits.parse::<u8>().ok());
    word.len() == 8
        && word.bytes().all(|byte| byte.is_ascii_digit())
        && word.starts_with("20")
        && part(4..6).is_some_and(|month| (1..=12).contains(&month))
        && part(6..8).is_some_and(|day| (1..=31).contains(&day))
}
