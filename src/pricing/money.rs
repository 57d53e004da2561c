//! Money as text and back, exactly and without floating point. Text is US dollars; numbers are whole pico-dollars per
//! token for a price and whole nano-dollars for a cost.

/// The highest price: 1,000 US dollars per 1,000 tokens, in pico-dollars per token. Prices of today are under a
/// thousandth of it; 2^41 tokens of each class at this price are far inside an `i128`.
pub const HIGHEST: i64 = 1_000 * PER_DOLLAR;

/// A price of one dollar per 1,000 tokens in pico-dollars per token, and the nano-dollars of a dollar.
const PER_DOLLAR: i64 = 1_000_000_000;
/// Decimal places that a price and a cost have.
const PLACES: i64 = 9;
/// Digits of [`HIGHEST`].
const DIGITS: i64 = 13;

/// Why a text is no price. The text itself is left out: it may be long, and who sent it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("the price is empty")]
    Empty,
    #[error("the price is negative")]
    Negative,
    #[error("the price is no number: write it like 0.003")]
    NotANumber,
    #[error("the price has more than nine decimal places")]
    TooFine,
    #[error("the price is above 1000 US dollars per 1,000 tokens")]
    TooHigh,
}

/// A price in pico-dollars per token, from 0 to [`HIGHEST`], of dollars per 1,000 tokens: `0.003`, `.5`, `3`, `1.5E-3`
/// (as numbers of JSON may print), with white space around it or not. Zeros at its end are no decimal places.
///
/// # Errors
/// [`PriceError`].
pub fn parse_price(text: &str) -> Result<i64, PriceError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(PriceError::Empty);
    }
    let number = text.strip_prefix('-').unwrap_or(text);
    let Some((whole, fraction, exponent)) = parts(number) else {
        return Err(PriceError::NotANumber);
    };
    if number.len() < text.len() {
        return Err(PriceError::Negative);
    }
    let digits = format!("{whole}{fraction}");
    let to_the_end = digits.trim_start_matches('0');
    let digits = to_the_end.trim_end_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    let zeros = length(to_the_end) - length(digits);
    // The price is `digits` with so many zeros behind them, and less than none of them are places too many.
    let shift = exponent.saturating_add(PLACES - length(fraction) + zeros);
    if shift < 0 {
        return Err(PriceError::TooFine);
    }
    if shift.saturating_add(length(digits)) > DIGITS {
        return Err(PriceError::TooHigh);
    }
    let factor = u32::try_from(shift).ok().and_then(|shift| 10_i64.checked_pow(shift));
    let price = digits.parse::<i64>().ok().zip(factor).and_then(|(n, by)| n.checked_mul(by));
    price.filter(|price| *price <= HIGHEST).ok_or(PriceError::TooHigh)
}

/// The same of dollars per million tokens, as providers print them and pages show them. No exponents.
///
/// # Errors
/// [`PriceError`], whose limits are those of dollars per 1,000 tokens.
pub fn parse_price_per_million(text: &str) -> Result<i64, PriceError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(PriceError::Empty);
    }
    if text.contains(['e', 'E']) {
        return Err(PriceError::NotANumber);
    }
    parse_price(&format!("{text}e-3"))
}

/// A price in pico-dollars per token as dollars per million tokens, such as `3`, `0.25` or `18.75`.
pub fn price_per_million(pico: i64) -> String {
    let (dollars, rest) = (pico / 1_000_000, pico % 1_000_000);
    let text = format!("{dollars}.{rest:06}");
    let shortest = text.trim_end_matches('0').trim_end_matches('.');
    shortest.to_owned()
}

/// A price in pico-dollars per token as dollars per 1,000 tokens: the shortest text that [`parse_price`] reads back, such
/// as `0.003`, `12.5` or `0`.
pub fn price(pico: i64) -> String {
    let text = dollars(pico);
    let shortest = text.trim_end_matches('0').trim_end_matches('.');
    shortest.to_owned()
}

/// Nano-dollars as dollars with nine places: `0.001234000`.
pub fn dollars(nano: i64) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let (nano, per_dollar) = (nano.unsigned_abs(), PER_DOLLAR.unsigned_abs());
    format!("{sign}{}.{:09}", nano / per_dollar, nano % per_dollar)
}

/// The digits before the point, those after it, and the exponent; `None` if the text is not of that form.
fn parts(number: &str) -> Option<(&str, &str, i64)> {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let some = !(whole.is_empty() && fraction.is_empty());
    (some && all_digits(whole) && all_digits(fraction)).then_some((whole, fraction, exponent))
}

/// The exponent; one that is far too large for a price is as large as fits.
fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !all_digits(digits) {
        return None;
    }
    // Half of what fits, so that a sum with the length of a text cannot wrap.
    let size = digits.parse::<i64>().unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
    Some(if text.starts_with('-') { -size } else { size })
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// In bytes, which are digits here.
fn length(digits: &str) -> i64 {
    i64::try_from(digits.len()).expect("a text is no longer than isize::MAX")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prices_per_million_read_back_exactly() {
        for (text, pico) in [
            ("3", 3_000_000),
            ("0.25", 250_000),
            (" 18.75 ", 18_750_000),
            ("0.000001", 1),
            ("0", 0),
        ] {
            assert_eq!(parse_price_per_million(text), Ok(pico), "{text}");
            assert_eq!(price_per_million(pico), text.trim());
            assert_eq!(parse_price(&price(pico)), Ok(pico));
        }
        for (text, error) in [
            ("", PriceError::Empty),
            ("3e2", PriceError::NotANumber),
            ("NaN", PriceError::NotANumber),
            ("-1", PriceError::Negative),
            ("0.0000001", PriceError::TooFine),
            ("1000001", PriceError::TooHigh),
        ] {
            assert_eq!(parse_price_per_million(text), Err(error), "{text}");
        }
        assert_eq!(parse_price_per_million("1000000"), Ok(HIGHEST));
    }

    #[test]
    fn a_price_is_read_exactly() {
        for (text, pico) in [
            ("0.003", 3_000_000),
            ("0.0030000000000000", 3_000_000),
            ("  0.015\t", 15_000_000),
            ("3", 3_000_000_000),
            ("3.", 3_000_000_000),
            (".5", 500_000_000),
            ("0003.50", 3_500_000_000),
            ("1e-7", 100),
            ("1E-9", 1),
            ("1.5E-3", 1_500_000),
            ("1.5e+1", 15_000_000_000),
            ("25e1", 250_000_000_000),
            ("0.00000875", 8_750),
            ("0.000000001", 1),
            ("10000e-13", 1),
            ("0.1375", 137_500_000),
            ("0", 0),
            ("0.0", 0),
            ("0e99999999999999999999999", 0),
            ("1000", HIGHEST),
            ("999.999999999", HIGHEST - 1),
        ] {
            assert_eq!(parse_price(text), Ok(pico), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused_by_name() {
        for (text, error) in [
            ("", PriceError::Empty),
            (" \t", PriceError::Empty),
            ("-1", PriceError::Negative),
            ("-0.0", PriceError::Negative),
            ("--1", PriceError::NotANumber),
            ("- 1", PriceError::NotANumber),
            ("-x", PriceError::NotANumber),
            ("+1", PriceError::NotANumber),
            ("NaN", PriceError::NotANumber),
            ("inf", PriceError::NotANumber),
            ("-inf", PriceError::NotANumber),
            ("0x1", PriceError::NotANumber),
            ("1,000", PriceError::NotANumber),
            ("1_000", PriceError::NotANumber),
            ("1 000", PriceError::NotANumber),
            ("0,003", PriceError::NotANumber),
            ("$1", PriceError::NotANumber),
            ("1.2.3", PriceError::NotANumber),
            (".", PriceError::NotANumber),
            ("e5", PriceError::NotANumber),
            ("1e", PriceError::NotANumber),
            ("1e+", PriceError::NotANumber),
            ("1e1.5", PriceError::NotANumber),
            ("1e5e5", PriceError::NotANumber),
            ("١", PriceError::NotANumber),
            ("0.0000000001", PriceError::TooFine),
            ("0.1234567891", PriceError::TooFine),
            ("1e-10", PriceError::TooFine),
            ("1e-99999999999999999999999", PriceError::TooFine),
            ("1000.000000001", PriceError::TooHigh),
            ("1001", PriceError::TooHigh),
            ("9999", PriceError::TooHigh),
            ("1e4", PriceError::TooHigh),
            ("1e99999999999999999999999", PriceError::TooHigh),
            ("123456789012345678901234567890", PriceError::TooHigh),
        ] {
            assert_eq!(parse_price(text), Err(error), "{text}");
        }
        let long = format!("0.{}1", "0".repeat(100_000));
        assert_eq!(parse_price(&long), Err(PriceError::TooFine));
    }

    #[test]
    fn a_price_is_as_short_as_it_can_be() {
        for (pico, text) in [
            (3_000_000, "0.003"),
            (8_750, "0.00000875"),
            (1, "0.000000001"),
            (0, "0"),
            (10_000_000_000, "10"),
            (12_500_000_000, "12.5"),
            (HIGHEST, "1000"),
            (-3_000_000, "-0.003"),
        ] {
            assert_eq!(price(pico), text);
        }
    }

    #[test]
    fn dollars_have_nine_places() {
        assert_eq!(dollars(1_234_000), "0.001234000");
        assert_eq!(dollars(0), "0.000000000");
        assert_eq!(dollars(17_211_000), "0.017211000");
        assert_eq!(dollars(12_000_000_001), "12.000000001");
        assert_eq!(dollars(-1_500_000_000), "-1.500000000");
        assert_eq!(dollars(i64::MAX), "9223372036.854775807");
        assert_eq!(dollars(i64::MIN), "-9223372036.854775808");
    }

    proptest! {
        #[test]
        fn a_price_comes_back_as_it_was(pico in 0..=HIGHEST) {
            prop_assert_eq!(parse_price(&price(pico)), Ok(pico));
            prop_assert_eq!(parse_price(&dollars(pico)), Ok(pico)); // with the zeros
            prop_assert_eq!(parse_price(&format!("{pico}e-9")), Ok(pico));
        }

        #[test]
        fn the_point_may_stand_anywhere(pico in 0..=HIGHEST, places in 0..40_usize) {
            let digits = format!("{pico:0>50}");
            let (whole, fraction) = digits.split_at(digits.len() - places);
            let exponent = i64::try_from(places).unwrap() - 9;

            prop_assert_eq!(parse_price(&format!("{whole}.{fraction}e{exponent}")), Ok(pico));
        }

        #[test]
        fn what_is_read_is_written_and_read_again(text in "[0-9]{0,5}[.]?[0-9]{0,11}([eE][+-]?[0-9]{1,2})?") {
            if let Ok(pico) = parse_price(&text) {
                prop_assert!((0..=HIGHEST).contains(&pico));
                prop_assert_eq!(parse_price(&price(pico)), Ok(pico));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = parse_price(&text);
        }
    }
}
