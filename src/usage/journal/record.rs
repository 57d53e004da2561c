//! Records of the journal: a mark, a length, a checksum, then a kind and JSON. JSON, because a journal written by one
//! release is replayed by the next.

use serde::{Deserialize, Serialize};

use crate::{db::usage::NewUsage, usage::TokenCounts};

/// Begins every record, so that a reader finds its way after a damaged one.
const MARK: [u8; 4] = *b"BUJ1";
const HEADER: usize = 12;
/// No record is longer; a length beyond it is damage.
const LONGEST: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The row to store should the call never be closed.
    Open = 1,
    Progress = 2,
    /// The final row.
    Close = 3,
}

/// What an open stream used so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub call_id: String,
    pub tokens: TokenCounts,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    Open(NewUsage),
    Progress(Progress),
    Close(NewUsage),
}

/// Writes one record into `out`, replacing what was there.
pub fn encode(kind: Kind, payload: &impl Serialize, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; 8]);
    out.push(kind as u8);
    serde_json::to_writer(&mut *out, payload)
        .expect("plain structs become JSON, and a Vec takes all bytes");
    let body = out.get(HEADER..).unwrap_or_default();
    let length = (body.len() as u32).to_le_bytes();
    let checksum = crc32fast::hash(body).to_le_bytes();
    for (place, byte) in out.iter_mut().skip(MARK.len()).zip(length.into_iter().chain(checksum)) {
        *place = byte;
    }
}

/// The records of a file, in order, and the number of damaged places that were passed over. A torn last record is
/// one such place.
pub fn decode(mut bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut damaged) = (Vec::new(), 0);
    while !bytes.is_empty() {
        match next(bytes) {
            Some((record, length)) => {
                records.push(record);
                bytes = bytes.get(length..).unwrap_or_default();
            }
            None => {
                // Zeros are space set aside and never written; anything else was a record once.
                let rest = bytes.get(1..).unwrap_or_default();
                let skip = memchr::memmem::find(rest, &MARK).map_or(bytes.len(), |at| at + 1);
                let skipped = bytes.get(..skip).unwrap_or_default();
                damaged += usize::from(skipped.iter().any(|byte| *byte != 0));
                bytes = bytes.get(skip..).unwrap_or_default();
            }
        }
    }
    (records, damaged)
}

fn next(bytes: &[u8]) -> Option<(Record, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if !bytes.starts_with(&MARK) {
        return None;
    }
    let length = word(4)? as usize;
    let body = bytes.get(HEADER..HEADER + length).filter(|_| length <= LONGEST)?;
    if crc32fast::hash(body) != word(8)? {
        return None;
    }
    let (kind, json) = body.split_first()?;
    let record = match kind {
        1 => Record::Open(serde_json::from_slice(json).ok()?),
        2 => Record::Progress(serde_json::from_slice(json).ok()?),
        3 => Record::Close(serde_json::from_slice(json).ok()?),
        _ => return None,
    };
    Some((record, HEADER + length))
}
