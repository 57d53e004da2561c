//! The prompt cache: which prefixes of prompts have been seen, and what that makes of the tokens.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Mutex, PoisonError};

use super::ledger::TokenUsage;
use super::request::{Inquiry, tokens};

/// Prefixes remembered; the oldest go first.
const MAX_PREFIXES: usize = 10_000;

/// Prefixes of prompts which have been seen, as the prompt cache of a region knows them.
#[derive(Debug, Default)]
pub(super) struct PromptCache {
    seen: Mutex<(HashSet<u64>, VecDeque<u64>)>,
}

/// The end of a cached prefix.
#[derive(Debug, Clone, Copy)]
struct Marker {
    hash: u64,
    bytes: usize,
    one_hour: bool,
}

impl PromptCache {
    /// Sorts the prompt's tokens into read, written and plain input, and remembers its prefixes.
    /// `None` if the prompt has no markers.
    pub(super) fn price(&self, model: &str, inquiry: &Inquiry<'_>) -> Option<TokenUsage> {
        let markers = markers(model, &inquiry.sections);
        let last = markers.last()?.bytes;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = markers.iter().rfind(|marker| seen.0.contains(&marker.hash));
        let mut from = known.map_or(0, |marker| marker.bytes);
        let mut usage = TokenUsage { cache_read: tokens(from), ..TokenUsage::default() };
        for marker in &markers {
            let written = tokens(marker.bytes).saturating_sub(tokens(from));
            if marker.bytes > from {
                match marker.one_hour {
                    true => usage.cache_write_1h += written,
                    false => usage.cache_write_5m += written,
                }
                from = marker.bytes;
            }
            if seen.0.insert(marker.hash) {
                seen.1.push_back(marker.hash);
            }
        }
        while seen.1.len() > MAX_PREFIXES {
            if let Some(oldest) = seen.1.pop_front() {
                seen.0.remove(&oldest);
            }
        }
        usage.input = inquiry.prompt_tokens().saturating_sub(tokens(last)).max(1);
        Some(usage)
    }
}

/// Finds `"cache_control":{…}` and `"cachePoint":{…}`; a prefix ends with the block of its marker.
fn markers(model: &str, sections: &[&str]) -> Vec<Marker> {
    let mut hasher = DefaultHasher::new();
    hasher.write(model.as_bytes());
    let (mut found, mut before) = (Vec::new(), 0);
    for section in sections {
        let mut hashed = 0;
        for key in ["\"cache_control\"", "\"cachePoint\""] {
            for at in memchr::memmem::find_iter(section.as_bytes(), key) {
                let after = section.get(at + key.len()..).unwrap_or_default().trim_start();
                let Some(value) = after.strip_prefix(':').map(str::trim_start) else { continue };
                let end = end_of_object(section.as_bytes(), at);
                if end <= hashed || !value.starts_with('{') {
                    continue;
                }
                hasher.write(section.as_bytes().get(hashed..end).unwrap_or_default());
                hashed = end;
                let object = value.split('}').next().unwrap_or_default();
                let one_hour = object.contains("\"1h\"");
                found.push(Marker { hash: hasher.finish(), bytes: before + end, one_hour });
            }
        }
        hasher.write(section.as_bytes().get(hashed..).unwrap_or_default());
        hasher.write_u8(0xFF);
        before += section.len();
    }
    found
}

/// Where the object ends which has a member at `from`.
fn end_of_object(json: &[u8], from: usize) -> usize {
    let (mut depth, mut quoted, mut escaped) = (1_u32, false, false);
    for (at, byte) in json.iter().enumerate().skip(from) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted && depth == 1 => return at + 1,
            b'}' if !quoted => depth -= 1,
            _ => {}
        }
    }
    json.len()
}
