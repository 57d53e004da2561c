//! The columns of a CSV of prices, and the checks of one row.

use chrono::{DateTime, Datelike, SubsecRound, Timelike};
use csv::StringRecord;

use super::{Entry, Report};
use crate::{
    db::Timestamp,
    pricing::{
        ANY_REGION, Rates,
        money::{HIGHEST, parse_price},
    },
};

const REGION: &str = "region";
const MODEL_ID: &str = "model_id";
const INPUT: &str = "input_per_1k";
const OUTPUT: &str = "output_per_1k";
const CACHE_WRITE: &str = "cache_write_per_1k";
const CACHE_READ: &str = "cache_read_per_1k";
const CACHE_WRITE_1H: &str = "cache_write_1h_per_1k";
const INPUT_LONG: &str = "input_long_per_1k";
const OUTPUT_LONG: &str = "output_long_per_1k";
const VALID_FROM: &str = "valid_from";
/// Of use elsewhere; here only without a value, so that nobody takes them for prices that count.
const INPUT_BATCH: &str = "input_batch_per_1k";
const OUTPUT_BATCH: &str = "output_batch_per_1k";
const TIER: &str = "tier";

/// Every column there is (protocol reference, 6.2).
const KNOWN: [&str; 13] = [
    REGION,
    MODEL_ID,
    INPUT,
    OUTPUT,
    CACHE_WRITE,
    CACHE_READ,
    CACHE_WRITE_1H,
    INPUT_LONG,
    OUTPUT_LONG,
    VALID_FROM,
    INPUT_BATCH,
    OUTPUT_BATCH,
    TIER,
];
const REQUIRED: [&str; 4] = [REGION, MODEL_ID, INPUT, OUTPUT];
const USUAL: [&str; 5] = [INPUT, OUTPUT, CACHE_WRITE, CACHE_READ, CACHE_WRITE_1H];

/// The longest model id or ARN (AWS docs, "InvokeModel").
const LONGEST_ID: usize = 2048;
/// Longer than any region's name will be.
const LONGEST_REGION: usize = 64;
/// Characters of the name of an unknown column that an error quotes.
const QUOTED: usize = 40;

/// The columns of a file, from left to right.
pub struct Columns(Vec<&'static str>);

impl Columns {
    /// Reads the header. `None` if something is wrong with it, which is then in the report.
    pub fn read(header: &StringRecord, line: u64, report: &mut Report) -> Option<Self> {
        let before = report.found;
        if let [Some(only), None] = [header.get(0), header.get(1)]
            && only.matches(';').count() >= 3
        {
            report.add(line, "", "columns are separated by commas, not by semicolons, and decimals written with a point");
            return None;
        }
        let mut columns: Vec<&'static str> = Vec::new();
        for (at, name) in header.iter().map(str::trim).enumerate() {
            match KNOWN.into_iter().find(|known| *known == name) {
                Some(known) if columns.contains(&known) => {
                    report.add(line, known, "the column is there twice");
                }
                Some(known) => columns.push(known),
                None if name.is_empty() => {
                    report.add(line, "", format!("column {} has no name", at + 1));
                }
                None => report.add(line, &quoted(name), "there is no such column"),
            }
        }
        for missing in REQUIRED.into_iter().filter(|required| !columns.contains(required)) {
            report.add(line, missing, "the column is missing");
        }
        (report.found == before).then_some(Self(columns))
    }
}

/// One row under its header.
pub struct Row<'a> {
    line: u64,
    columns: &'a Columns,
    record: &'a StringRecord,
}

impl<'a> Row<'a> {
    pub fn new(line: u64, columns: &'a Columns, record: &'a StringRecord) -> Self {
        Self { line, columns, record }
    }

    /// `None` if something is wrong with the row, which is then in the report.
    pub fn read(&self, report: &mut Report) -> Option<Entry> {
        let before = report.found;
        let (has, wants) = (self.record.len(), self.columns.0.len());
        if has != wants {
            let message = format!("the line has {has} fields where the header has {wants}");
            report.add(self.line, "", message);
            return None;
        }
        let (region, model_id) = (self.cell(REGION), self.cell(MODEL_ID));
        if !is_region(region) {
            let message = "the region is neither * nor a name such as us-east-1";
            report.add(self.line, REGION, message);
        }
        if let Some(message) = wrong_with_id(model_id) {
            report.add(self.line, MODEL_ID, message);
        }
        self.check_unused(report);
        let valid_from = self.valid_from(report);
        let rates = Rates {
            input: self.price(INPUT, report),
            output: self.price(OUTPUT, report),
            cache_write: self.price(CACHE_WRITE, report),
            cache_write_1h: self.price(CACHE_WRITE_1H, report),
            cache_read: self.price(CACHE_READ, report),
        };
        if USUAL.into_iter().all(|column| self.cell(column).is_empty()) {
            report.add(self.line, "", "the row has no price: every one of its five is empty");
        }
        let long = self.long(&rates, report);
        let (region, model_id) = (region.to_owned(), model_id.to_owned());
        let entry = Entry { line: self.line, region, model_id, valid_from, rates, long };
        (report.found == before).then_some(entry)
    }

    /// The value, without white space around it; empty if there is no such column.
    fn cell(&self, column: &str) -> &'a str {
        let at = self.columns.0.iter().position(|name| *name == column);
        at.and_then(|at| self.record.get(at)).unwrap_or_default().trim()
    }

    fn price(&self, column: &str, report: &mut Report) -> Option<i64> {
        let text = self.cell(column);
        if text.is_empty() {
            return None;
        }
        parse_price(text).map_err(|error| report.add(self.line, column, error.to_string())).ok()
    }

    /// The prices for long prompts, those of the cache derived.
    fn long(&self, rates: &Rates, report: &mut Report) -> Option<Rates> {
        let given = [INPUT_LONG, OUTPUT_LONG].map(|column| !self.cell(column).is_empty());
        let missing = match given {
            [false, false] => return None,
            [true, true] => None,
            [true, false] => Some(OUTPUT_LONG),
            [false, true] => Some(INPUT_LONG),
        };
        if let Some(missing) = missing {
            let message = "the price is missing: the two of long prompts come together";
            report.add(self.line, missing, message);
        }
        if self.cell(INPUT).is_empty() || rates.input == Some(0) {
            let message = "a price for long prompts needs an input price above 0";
            report.add(self.line, INPUT_LONG, message);
        }
        let (input, output) = (self.price(INPUT_LONG, report), self.price(OUTPUT_LONG, report));
        rates.input.filter(|from| *from > 0)?;
        let long = for_long_prompts(rates, input?, output);
        if long.is_none() {
            let message = "the price puts that of the cache above 1000 US dollars per 1,000 tokens";
            report.add(self.line, INPUT_LONG, message);
        }
        long
    }

    /// A time in RFC 3339, or a date that means its start in UTC; to the millisecond, as the database keeps it.
    fn valid_from(&self, report: &mut Report) -> Option<Timestamp> {
        let text = self.cell(VALID_FROM);
        if text.is_empty() {
            return None;
        }
        let day = || DateTime::parse_from_rfc3339(&format!("{text}T00:00:00Z"));
        let time = DateTime::parse_from_rfc3339(text).or_else(|_| day());
        let time = time.ok().map(|time| time.naive_utc());
        let leap_second = |time: &Timestamp| time.nanosecond() >= 1_000_000_000;
        let time = time.filter(|time| (2000..2200).contains(&time.year()) && !leap_second(time));
        if time.is_none() {
            let message = "the time is neither a date such as 2026-11-21 nor RFC 3339 such as \
                           2026-11-21T09:30:00Z, from 2000 to 2199";
            report.add(self.line, VALID_FROM, message);
        }
        time.map(|time| time.trunc_subsecs(3))
    }

    /// Columns that may stand there, but not count.
    fn check_unused(&self, report: &mut Report) {
        for column in [INPUT_BATCH, OUTPUT_BATCH] {
            if !self.cell(column).is_empty() {
                let message = "there are no batch calls here: leave the column empty";
                report.add(self.line, column, message);
            }
        }
        if !matches!(self.cell(TIER), "" | "default") {
            let message = "only the default tier is priced here: leave the row out";
            report.add(self.line, TIER, message);
        }
    }
}

/// The prices for long prompts, of those for input and output. What is cached is priced in proportion to the input, as in
/// the usual tier. `None` without a price for input above 0, or where one of them would be above the highest price.
pub fn for_long_prompts(rates: &Rates, input: i64, output: Option<i64>) -> Option<Rates> {
    let from = rates.input.filter(|from| *from > 0)?;
    let derived = |rate: Option<i64>| match rate {
        None => Some(None),
        Some(rate) => in_proportion(rate, input, from).map(Some),
    };
    Some(Rates {
        input: Some(input),
        output,
        cache_write: derived(rates.cache_write)?,
        cache_write_1h: derived(rates.cache_write_1h)?,
        cache_read: derived(rates.cache_read)?,
    })
}

/// `rate` × `to` ÷ `from`, rounded half up; `None` above the highest price.
fn in_proportion(rate: i64, to: i64, from: i64) -> Option<i64> {
    let from = i128::from(from);
    let rate = (i128::from(rate) * i128::from(to) * 2 + from) / (from * 2);
    i64::try_from(rate).ok().filter(|rate| *rate <= HIGHEST)
}

/// `*`, or a few letters, words and a number, with hyphens between: `us-east-1`, `us-gov-west-1`.
pub fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        [ANY_REGION] => true,
        [first, words @ .., number] => {
            text.len() <= LONGEST_REGION
                && matches!(first.len(), 2 | 4) // eusc-de-east-1
                && letters(first)
                && !words.is_empty()
                && words.iter().all(|word| letters(word))
                && digits(number)
        }
        _ => false,
    }
}

/// What keeps a text from being a model id, the id of a profile or an ARN.
pub fn wrong_with_id(id: &str) -> Option<&'static str> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".:_/-".contains(&byte);
    if id.is_empty() {
        Some("the model id is empty")
    } else if id.len() > LONGEST_ID {
        Some("the model id is longer than 2048 characters")
    } else if !id.bytes().all(known) {
        Some("the model id has a character that is none of letters, digits and . : _ / -")
    } else {
        None
    }
}

fn quoted(name: &str) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut text: String = name.chars().take(QUOTED).map(printable).collect();
    if name.chars().nth(QUOTED).is_some() {
        text.push('…');
    }
    text
}
