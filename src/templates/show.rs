//! Values as pages show them: short, with the exact figure for whoever points at it. What they write is made of numbers
//! and times alone, and is safe as HTML.

use std::{
    borrow::Borrow,
    fmt::{self, Display, Formatter},
};

use askama::filters::HtmlSafe;
use chrono::{NaiveDate, SecondsFormat};

use crate::{db::Timestamp, pricing::money::dollars};

/// US dollars from nano-dollars.
#[derive(Debug, Clone, Copy)]
pub struct Money(pub i64);

/// A cost that may not be known.
#[derive(Debug, Clone, Copy)]
pub struct Cost(pub Option<i64>);

/// A number of things.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub i64);

/// A number that may not be known.
#[derive(Debug, Clone, Copy)]
pub struct MaybeCount(pub Option<i64>);

/// A duration in milliseconds, if it is known.
#[derive(Debug, Clone, Copy)]
pub struct Millis(pub Option<i64>);

/// A part of a whole, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub part: i64,
    pub whole: i64,
}

/// A moment. In UTC; a script tells it in the reader's zone.
#[derive(Debug, Clone, Copy)]
pub struct When(pub Timestamp);

/// A moment that may not have been.
#[derive(Debug, Clone, Copy)]
pub struct MaybeWhen(pub Option<Timestamp>);

/// A day in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Day(pub NaiveDate);

impl HtmlSafe for Money {}
impl HtmlSafe for Cost {}
impl HtmlSafe for Count {}
impl HtmlSafe for MaybeCount {}
impl HtmlSafe for Millis {}
impl HtmlSafe for Share {}
impl HtmlSafe for When {}
impl HtmlSafe for MaybeWhen {}
impl HtmlSafe for Day {}

// Templates call these, with values and with references alike.

pub fn usd(nano_usd: impl Borrow<i64>) -> Money {
    Money(*nano_usd.borrow())
}

pub fn cost(nano_usd: impl Borrow<Option<i64>>) -> Cost {
    Cost(*nano_usd.borrow())
}

pub fn number(number: impl Borrow<i64>) -> Count {
    Count(*number.borrow())
}

pub fn maybe_number(number: impl Borrow<Option<i64>>) -> MaybeCount {
    MaybeCount(*number.borrow())
}

pub fn duration(ms: impl Borrow<Option<i64>>) -> Millis {
    Millis(*ms.borrow())
}

pub fn share(part: impl Borrow<i64>, whole: impl Borrow<i64>) -> Share {
    Share { part: *part.borrow(), whole: *whole.borrow() }
}

pub fn when(at: impl Borrow<Timestamp>) -> When {
    When(*at.borrow())
}

pub fn maybe_when(at: impl Borrow<Option<Timestamp>>) -> MaybeWhen {
    MaybeWhen(*at.borrow())
}

pub fn day(day: impl Borrow<NaiveDate>) -> Day {
    Day(*day.borrow())
}

const UNKNOWN: &str = "<span class=\"unknown\">unknown</span>";

impl Display for Money {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exact = dollars(self.0);
        write!(f, "<data value=\"{exact}\" title=\"${exact}\">{}</data>", money(self.0))
    }
}

impl Display for Cost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nano_usd) => Money(nano_usd).fmt(f),
            None => f.write_str(UNKNOWN),
        }
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (exact, short) = (grouped(self.0), count(self.0));
        if exact == short {
            return f.write_str(&exact);
        }
        write!(f, "<data value=\"{}\" title=\"{exact}\">{short}</data>", self.0)
    }
}

impl Display for MaybeCount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => Count(number).fmt(f),
            None => f.write_str(UNKNOWN),
        }
    }
}

impl Display for Millis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("–"),
            Some(ms @ ..1000) => write!(f, "{ms} ms"),
            Some(ms) => {
                write!(f, "<data value=\"{ms}\" title=\"{} ms\">{}</data>", grouped(ms), millis(ms))
            }
        }
    }
}

impl Display for Share {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.per_mille() {
            None => f.write_str("–"),
            Some(1..10) => f.write_str("&lt; 1 %"),
            Some(991..1000) => f.write_str("&gt; 99 %"),
            Some(per_mille) => write!(f, "{} %", (per_mille + 5) / 10),
        }
    }
}

impl Share {
    fn per_mille(self) -> Option<i64> {
        let Self { part, whole } = self;
        let exact = (i128::from(part) * 1000).checked_div(i128::from(whole))?;
        // Something is never told as nothing, nor a part as all.
        let least = i128::from(part > 0);
        let most = if part < whole { 999 } else { 1000 };
        i64::try_from(exact.max(least).min(most)).ok()
    }
}

impl Display for When {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exact = self.0.and_utc().to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(f, "<time datetime=\"{exact}\">{} UTC</time>", self.0.format("%Y-%m-%d %H:%M"))
    }
}

impl Display for MaybeWhen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => When(at).fmt(f),
            None => f.write_str("never"),
        }
    }
}

impl Display for Day {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "<time datetime=\"{0}\" data-day>{0}</time>", self.0)
    }
}

/// Dollars with as many places as matter: `$12,345`, `$12.35`, `$0.123`, `$0.0012`.
pub fn money(nano_usd: i64) -> String {
    let sign = if nano_usd < 0 { "−" } else { "" };
    let nano = nano_usd.unsigned_abs();
    // Rounded half up at the last place that is told.
    let told = |places: u32| {
        let unit = 10u64.pow(9 - places);
        let rounded = (nano + unit / 2) / unit;
        let (whole, rest) = (rounded / 10u64.pow(places), rounded % 10u64.pow(places));
        let whole = grouped(i64::try_from(whole).unwrap_or(i64::MAX));
        match places {
            0 => format!("{sign}${whole}"),
            places => format!("{sign}${whole}.{rest:0width$}", width = places as usize),
        }
    };
    match nano {
        0 => "$0".to_owned(),
        1..100_000 => format!("{}<$0.0001", sign).replace('<', "&lt; "),
        100_000..10_000_000 => told(4),
        10_000_000..1_000_000_000 => told(3),
        1_000_000_000..1_000_000_000_000 => told(2),
        _ => told(0),
    }
}

/// A number with three digits that matter: `999`, `12.3k`, `4.56M`.
pub fn count(number: i64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
    let (sign, size) = (if number < 0 { "−" } else { "" }, number.unsigned_abs());
    if size < 10_000 {
        return grouped(number);
    }
    // 999,950 is a million, not 1000k.
    let unit = UNITS.into_iter().find(|(unit, _)| size >= unit - unit / 2_000);
    let Some((unit, name)) = unit else { return grouped(number) };
    let places = match size / unit {
        ..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    let scale = 10u128.pow(places);
    let rounded = (u128::from(size) * scale + u128::from(unit) / 2) / u128::from(unit);
    match places {
        0 => format!("{sign}{rounded}{name}"),
        places => {
            let width = places as usize;
            format!("{sign}{}.{:0width$}{name}", rounded / scale, rounded % scale)
        }
    }
}

/// A duration: `412 ms`, `2.31 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn millis(ms: i64) -> String {
    let seconds = ms / 1000;
    match ms {
        ..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{}.{:02} s", seconds, ms % 1000 / 10),
        10_000..60_000 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600_000..86_400_000 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `1,234,567`.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('−');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_as_many_places_as_matter() {
        for (nano_usd, told) in [
            (0, "$0"),
            (1, "&lt; $0.0001"),
            (99_999, "&lt; $0.0001"),
            (100_000, "$0.0001"),
            (1_234_567, "$0.0012"),
            (123_456_789, "$0.123"),
            (999_999_999, "$1.000"),
            (1_000_000_000, "$1.00"),
            (12_345_678_901, "$12.35"),
            (1_234_567_890_123, "$1,235"),
            (-12_345_678_901, "−$12.35"),
            (i64::MAX, "$9,223,372,037"),
        ] {
            assert_eq!(money(nano_usd), told, "{nano_usd}");
        }
    }

    #[test]
    fn counts_are_short_from_ten_thousand_on() {
        for (number, told) in [
            (0, "0"),
            (999, "999"),
            (9_999, "9,999"),
            (10_000, "10.0k"),
            (12_345, "12.3k"),
            (99_950, "100.0k"),
            (123_456, "123k"),
            (999_499, "999k"),
            (999_950, "1.00M"),
            (1_234_567, "1.23M"),
            (12_345_678, "12.3M"),
            (1_234_567_890, "1.23B"),
            (-12_345, "−12.3k"),
            (i64::MAX, "9223372T"),
        ] {
            assert_eq!(count(number), told, "{number}");
        }
    }

    #[test]
    fn durations_are_told_in_two_units() {
        for (ms, told) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (2_310, "2.31 s"),
            (12_340, "12.3 s"),
            (200_000, "3 min 20 s"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(millis(ms), told, "{ms}");
        }
    }

    #[test]
    fn a_share_is_never_nothing_for_something_nor_all_for_a_part() {
        for (part, whole, told) in [
            (0, 10, "0 %"),
            (1, 1_000_000, "&lt; 1 %"),
            (1, 3, "33 %"),
            (999_999, 1_000_000, "&gt; 99 %"),
            (10, 10, "100 %"),
            (0, 0, "–"),
            (i64::MAX, i64::MAX, "100 %"),
        ] {
            assert_eq!(Share { part, whole }.to_string(), told, "{part} of {whole}");
        }
    }

    #[test]
    fn the_exact_figure_is_there_too() {
        assert_eq!(
            Money(1_234_567).to_string(),
            "<data value=\"0.001234567\" title=\"$0.001234567\">$0.0012</data>"
        );
        assert_eq!(
            Count(1_234_567).to_string(),
            "<data value=\"1234567\" title=\"1,234,567\">1.23M</data>"
        );
        assert_eq!(Count(7).to_string(), "7");
        let at = "2026-11-27T09:30:15".parse().unwrap();
        assert_eq!(
            When(at).to_string(),
            "<time datetime=\"2026-11-27T09:30:15Z\">2026-11-27 09:30 UTC</time>"
        );
    }
}
