//! Takes spans out of a JSON text, and puts others in: what stays, stays byte for byte.

use std::ops::Range;

use bytes::Bytes;

/// The body with other bytes in the place of some. Of edits within edits the outer counts.
pub fn spliced(body: &[u8], mut edits: Vec<(Range<usize>, Vec<u8>)>) -> Bytes {
    edits.sort_by_key(|(range, _)| range.start);
    let more: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let mut out = Vec::with_capacity(body.len() + more);
    let mut at = 0;
    for (range, new) in edits {
        if range.start >= at {
            out.extend_from_slice(body.get(at..range.start).unwrap_or_default());
            out.extend_from_slice(&new);
            at = range.end;
        }
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out.into()
}

/// Widens items to the comma that goes with them, and joins what touches.
pub fn widened(body: &[u8], mut items: Vec<Range<usize>>) -> Vec<Range<usize>> {
    // Of items within items the outer comes first, and takes the inner along.
    items.sort_unstable_by_key(|item| (item.start, std::cmp::Reverse(item.end)));
    let mut cuts: Vec<Range<usize>> = Vec::with_capacity(items.len());
    for item in items {
        if cuts.last().is_some_and(|last| item.start < last.end) {
            continue;
        }
        let after = skip_space(body, item.end);
        if body.get(after) == Some(&b',') {
            cuts.push(item.start..after + 1);
            continue;
        }
        // The last of its container: the comma before it goes, wherever the items before it went.
        let mut start = item.start;
        loop {
            if let Some(last) = cuts.last().filter(|last| last.end == skip_space_back(body, start))
            {
                start = last.start;
                cuts.pop();
                continue;
            }
            let before = skip_space_back(body, start);
            if before > 0 && body.get(before - 1) == Some(&b',') {
                start = before - 1;
            }
            break;
        }
        cuts.push(start..item.end);
    }
    cuts
}

fn skip_space(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Where the whitespace before `at` begins.
fn skip_space_back(body: &[u8], mut at: usize) -> usize {
    while at > 0 && body.get(at - 1).is_some_and(u8::is_ascii_whitespace) {
        at -= 1;
    }
    at
}
