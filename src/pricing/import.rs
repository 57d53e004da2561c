//! A CSV of prices, as `POST /api/admin/costs` takes it and `settings/pricing.csv` is one: read, checked as a whole,
//! and compared with what is there. Writing it down, and the limit in bytes, are its caller's.

mod lines;
mod row;

use std::collections::{HashMap, HashSet};

use csv::{ReaderBuilder, StringRecord};

pub use self::row::{for_long_prompts, is_region, wrong_with_id};
use self::{
    lines::Lines,
    row::{Columns, Row},
};
use super::Rates;
use crate::db::Timestamp;

/// Rows that one file may have (SEC-104).
pub const MOST_ROWS: usize = 20_000;
/// Bad lines that are named; the rest is counted.
const MOST_NAMED: usize = 100;
/// What some programs put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The prices of a row, for calls with short and, where it differs, with long prompts.
pub type Tiers = (Rates, Option<Rates>);

/// A row of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As an editor counts: the header is on line 1.
    pub line: u64,
    /// The name of a region, or `*`.
    pub region: String,
    /// A model id, the id of a profile, or an ARN.
    pub model_id: String,
    /// `None` = from the import on.
    pub valid_from: Option<Timestamp>,
    pub rates: Rates,
    /// For long prompts. The file has only two of these prices; those of the cache are the usual ones in proportion to
    /// the input price, rounded half up: Anthropic prices the cache in multiples of the input price, the same for short
    /// and long prompts (Anthropic docs, "Pricing").
    pub long: Option<Rates>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// As an editor counts; where the line begins, if a quoted field spans several.
    pub line: u64,
    /// The column; empty if it is none in particular.
    pub field: String,
    /// Without a full stop.
    pub message: String,
}

/// What an import would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison<'a> {
    /// How many changes have no price before them.
    pub added: usize,
    /// How many changes have one.
    pub changed: usize,
    pub unchanged: usize,
    /// What is to be written, in the order of the file.
    pub changes: Vec<Change<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a> {
    pub entry: &'a Entry,
    pub before: Option<Tiers>,
}

/// Reads a whole file: UTF-8, a header with the columns in any order, lines that end in LF or CRLF, fields quoted or
/// not. Entries are in the order of the file.
///
/// # Errors
/// Every error in the order of the file; after a hundred, one that says how many more there are. A file is taken as a
/// whole or not at all.
pub fn read(text: &[u8]) -> Result<Vec<Entry>, Vec<BadLine>> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut lines = Lines::of(text);
    let mut report = Report::default();
    let mut entries = Vec::new();
    if let Err(error) = str::from_utf8(text) {
        report.add(lines.at(error.valid_up_to()), "", "the file is not UTF-8 here");
        return report.result(entries);
    }
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let mut columns = None;
    let mut seen = HashMap::new();
    let mut rows = 0;
    for record in reader.records() {
        let Ok(record) = record else {
            report.add(lines.now(), "", "the lines after this one cannot be read");
            break;
        };
        if is_blank(&record) {
            continue;
        }
        let line = lines.begin(&record);
        let Some(columns) = &columns else {
            columns = Columns::read(&record, line, &mut report);
            if columns.is_none() {
                return report.result(entries);
            }
            continue;
        };
        rows += 1;
        if rows > MOST_ROWS {
            report.add(line, "", format!("the file has more than {MOST_ROWS} rows"));
            break;
        }
        if let Some(entry) = Row::new(line, columns, &record).read(&mut report) {
            let key = (entry.region.clone(), entry.model_id.clone(), entry.valid_from);
            match seen.get(&key) {
                Some(first) => report.add(
                    line,
                    "",
                    format!("line {first} has the same region, model_id and valid_from"),
                ),
                None => {
                    seen.insert(key, line);
                    entries.push(entry);
                }
            }
        }
    }
    if rows == 0 {
        let what = if columns.is_none() { "the file is empty" } else { "the file has no prices" };
        report.add(1, "", what);
    }
    report.result(entries)
}

/// Splits a file by what it would change. `current` is the price under exactly the region and model of an entry, at the
/// time from which the entry is valid, such as [`super::Book::find_exact`] has.
///
/// Entries of one region and model (from different times) go together: if one is a change, so are the others. What
/// follows it may be there already, but would end too early with the new price before it.
pub fn compare<'a>(
    entries: &'a [Entry],
    current: impl Fn(&Entry) -> Option<Tiers>,
) -> Comparison<'a> {
    fn key(entry: &Entry) -> (&str, &str) {
        (&entry.region, &entry.model_id)
    }
    let before: Vec<Option<Tiers>> = entries.iter().map(current).collect();
    let pairs = || entries.iter().zip(&before);
    let differs = pairs().filter(|(entry, before)| **before != Some((entry.rates, entry.long)));
    let touched: HashSet<(&str, &str)> = differs.map(|(entry, _)| key(entry)).collect();
    let changes = pairs().filter(|(entry, _)| touched.contains(&key(entry)));
    let changes: Vec<_> =
        changes.map(|(entry, before)| Change { entry, before: *before }).collect();
    let added = changes.iter().filter(|change| change.before.is_none()).count();
    Comparison {
        added,
        changed: changes.len() - added,
        unchanged: entries.len() - changes.len(),
        changes,
    }
}

/// Bad lines as they are found.
#[derive(Debug, Default)]
struct Report {
    bad: Vec<BadLine>,
    found: usize,
}

impl Report {
    fn add(&mut self, line: u64, field: &str, message: impl Into<String>) {
        self.found += 1;
        if self.bad.len() <= MOST_NAMED {
            self.bad.push(BadLine { line, field: field.to_owned(), message: message.into() });
        }
    }

    fn result(mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, Vec<BadLine>> {
        if let Some(first_left_out) = self.bad.get_mut(MOST_NAMED) {
            first_left_out.field.clear();
            let more = self.found - MOST_NAMED;
            first_left_out.message = format!("from here on there are {more} more errors");
        }
        if self.bad.is_empty() { Ok(entries) } else { Err(self.bad) }
    }
}

/// A line without anything but commas and spaces, as spreadsheets leave behind.
fn is_blank(record: &StringRecord) -> bool {
    record.iter().all(|field| field.trim().is_empty())
}

#[cfg(test)]
mod tests;
