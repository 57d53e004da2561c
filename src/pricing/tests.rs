use chrono::NaiveDate;
use proptest::prelude::*;

use super::*;

fn day(day: u32) -> Timestamp {
    NaiveDate::from_ymd_opt(2026, 11, day).unwrap().and_hms_opt(0, 0, 0).unwrap()
}

fn price(id: i64, from: u32) -> Price {
    let rates = Rates { input: Some(id), ..Rates::default() };
    Price { id, valid_from: day(from), ended: false, rates, long: None }
}

fn end(id: i64, from: u32) -> Price {
    Price { ended: true, rates: Rates::default(), ..price(id, from) }
}

fn book(rows: &[(&str, &str, Price)]) -> Book {
    Book::new(
        rows.iter()
            .map(|(region, id, price)| ((*region).to_owned(), (*id).to_owned(), price.clone())),
    )
}

fn found(book: &Book, region: &str, id: &str, at: Timestamp) -> Option<i64> {
    book.find(region, id, at).map(|price| price.id)
}

const BARE: &str = "anthropic.claude-sonnet-4-6";
const FULL: &str = "us.anthropic.claude-sonnet-4-6";
const ARN: &str =
    "arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.anthropic.claude-sonnet-4-6";

#[test]
fn the_region_comes_before_any_and_the_full_id_before_the_bare_one() {
    let rows = [
        ("us-east-1", FULL, price(1, 1)),
        ("*", FULL, price(2, 1)),
        ("us-east-1", BARE, price(3, 1)),
        ("*", BARE, price(4, 1)),
    ];

    for first in 0..rows.len() {
        let left = book(&rows[first..]);
        assert_eq!(found(&left, "us-east-1", FULL, day(2)), Some(rows[first].2.id));
    }
    let all = book(&rows);
    assert_eq!(found(&all, "us-west-2", FULL, day(2)), Some(2));
    assert_eq!(found(&all, "us-east-1", BARE, day(2)), Some(3));
    assert_eq!(found(&all, "us-west-2", BARE, day(2)), Some(4));
    assert_eq!(found(&all, "us-west-2", "eu.anthropic.claude-sonnet-4-6", day(2)), Some(4));
    assert_eq!(found(&all, "us-east-1", "anthropic.claude-sonnet-9", day(2)), None);
    assert_eq!(found(&Book::default(), "us-east-1", FULL, day(2)), None);
}

#[test]
fn an_arn_is_itself_then_the_id_in_it_then_the_bare_id() {
    let rows = [
        ("us-east-1", ARN, price(1, 1)),
        ("*", ARN, price(2, 1)),
        ("us-east-1", FULL, price(3, 1)),
        ("*", FULL, price(4, 1)),
        ("us-east-1", BARE, price(5, 1)),
        ("*", BARE, price(6, 1)),
    ];

    for first in 0..rows.len() {
        let left = book(&rows[first..]);
        assert_eq!(found(&left, "us-east-1", ARN, day(2)), Some(rows[first].2.id));
    }
    let model = "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-6";
    assert_eq!(found(&book(&rows), "us-east-1", model, day(2)), Some(5));
}

#[test]
fn an_opaque_arn_has_only_a_price_of_its_own() {
    let opaque = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/\
                  anthropic.claude-sonnet-4-6";
    let provisioned = "arn:aws:bedrock:us-east-1:111122223333:provisioned-model/abc";
    let mut rows =
        vec![("*", BARE, price(1, 1)), ("*", "abc", price(2, 1)), ("*", "", price(3, 1))];

    assert_eq!(found(&book(&rows), "us-east-1", opaque, day(2)), None);
    assert_eq!(found(&book(&rows), "us-east-1", provisioned, day(2)), None);
    rows.push(("*", opaque, price(4, 1)));
    rows.push(("us-east-1", provisioned, price(5, 1)));
    assert_eq!(found(&book(&rows), "us-east-1", opaque, day(2)), Some(4));
    assert_eq!(found(&book(&rows), "us-east-1", provisioned, day(2)), Some(5));
}

#[test]
fn the_price_is_that_of_the_time_of_the_call() {
    let second = chrono::TimeDelta::seconds(1);
    let prices = book(&[
        ("*", BARE, price(9, 20)), // later, though written first
        ("*", BARE, price(1, 10)),
        ("*", BARE, price(3, 20)),
    ]);

    assert_eq!(found(&prices, "us-east-1", BARE, day(10) - second), None);
    assert_eq!(found(&prices, "us-east-1", BARE, day(10)), Some(1));
    assert_eq!(found(&prices, "us-east-1", BARE, day(20) - second), Some(1));
    assert_eq!(found(&prices, "us-east-1", BARE, day(20)), Some(9)); // the newest row of equals
    assert_eq!(found(&prices, "us-east-1", BARE, day(30)), Some(9));
}

#[test]
fn an_ended_price_leaves_the_call_to_the_next_key() {
    let prices = book(&[
        ("us-east-1", FULL, price(1, 1)),
        ("us-east-1", FULL, end(2, 10)),
        ("us-east-1", FULL, price(3, 20)),
        ("*", BARE, price(4, 1)),
    ]);

    assert_eq!(found(&prices, "us-east-1", FULL, day(9)), Some(1));
    assert_eq!(found(&prices, "us-east-1", FULL, day(10)), Some(4));
    assert_eq!(found(&prices, "us-east-1", FULL, day(20)), Some(3));
    assert_eq!(prices.find_exact("us-east-1", FULL, day(10)), None);
    let ended_at_once = book(&[("*", BARE, price(1, 1)), ("*", BARE, end(2, 1))]);
    assert_eq!(found(&ended_at_once, "us-east-1", BARE, day(5)), None);
    let again_at_once = book(&[("*", BARE, price(3, 1)), ("*", BARE, end(2, 1))]);
    assert_eq!(found(&again_at_once, "us-east-1", BARE, day(5)), Some(3));
}

/// Rates and counts in the order input, output, cache writes, of an hour, cache reads.
fn rates(of: [Option<i64>; 5]) -> Rates {
    let [input, output, cache_write, cache_write_1h, cache_read] = of;
    Rates { input, output, cache_write, cache_write_1h, cache_read }
}

fn counts(of: [i64; 5]) -> TokenCounts {
    let [input, output, cache_write, cache_write_1h, cache_read] = of.map(Some);
    TokenCounts { input, output, cache_write, cache_write_1h, cache_read }
}

fn of_rates(rates: Rates, long: Option<Rates>) -> Price {
    Price { rates, long, ..price(1, 1) }
}

/// Sonnet 4.5 by its global profile: 3, 15, 3.75, 6 and 0.3 dollars per million tokens, long 6, 22.5, 7.5, 12 and 0.6.
fn sonnet() -> Price {
    let short = [3_000_000, 15_000_000, 3_750_000, 6_000_000, 300_000];
    let long = [6_000_000, 22_500_000, 7_500_000, 12_000_000, 600_000];
    of_rates(rates(short.map(Some)), Some(rates(long.map(Some))))
}

#[test]
fn costs_agree_with_those_worked_out_by_hand() {
    for (tokens, nano) in [
        ([0, 0, 0, 0, 0], 0),
        ([1, 0, 0, 0, 0], 3_000), // 3 millionths of a dollar
        ([0, 1, 0, 0, 0], 15_000),
        ([0, 0, 1, 0, 0], 3_750),
        ([0, 0, 1, 1, 0], 6_000), // the one write is of an hour
        ([0, 0, 0, 0, 1], 300),
        ([1_000_000, 0, 0, 0, 0], 6_000_000_000), // long: six dollars
        ([200_000, 1_000, 0, 0, 0], 615_000_000), // 0.6 + 0.015
        ([200_001, 1_000, 0, 0, 0], 1_222_506_000), // 1.200006 + 0.0225
        ([0, 200_001, 0, 0, 0], 3_000_015_000),   // output is no prompt
        ([100_000, 0, 50_000, 20_000, 50_000], 547_500_000), // 0.3 + 0.1125 + 0.12 + 0.015; 200,000 in all
        ([100_000, 0, 50_000, 20_000, 50_001], 1_095_000_600), // twice that, and one read of 0.0000006
        ([12, 345, 2_000, 0, 15_000], 17_211_000), // 0.000036 + 0.005175 + 0.0075 + 0.0045
        ([12, 345, 2_000, 500, 15_000], 18_336_000), // 500 at 0.000006 for 0.00000375: 0.001125 more
        ([0, 0, 1_000, 1_000, 0], 6_000_000),
        ([0, 0, 400, 1_000, 0], 6_000_000), // more of an hour than in all: none of five minutes
        ([-5, -1, -1, -1, -1], 0),
        ([-5, 2, 0, 0, 0], 30_000),
        ([1 << 40, 0, 0, 0, 0], 6_597_069_766_656_000), // 1,099,511,627,776 at 6,000 nano-dollars
        ([1 << 40, 1 << 40, 0, 0, 1 << 40], 31_995_788_368_281_600), // 6,000 + 22,500 + 600 = 29,100
    ] {
        assert_eq!(cost(&counts(tokens), Some(&sonnet())), Some(nano), "{tokens:?}");
    }
}

#[test]
fn the_sum_is_rounded_half_up_and_once() {
    let fine = |input, output| of_rates(rates([Some(input), Some(output), None, None, None]), None);
    for (tokens, input, output, nano) in [
        ([1, 0], 499, 0, 0),
        ([1, 0], 500, 0, 1), // exactly half
        ([1, 0], 501, 0, 1),
        ([3, 0], 500, 0, 2),            // one and a half
        ([1, 1], 499, 1, 1),            // half only together
        ([1, 1], 400, 400, 1),          // each alone would be nothing
        ([1, 1], 500, 500, 1),          // each alone would be one
        ([5, 3], 1_100, 1_000, 9),      // 5.5 + 3 = 8.5
        ([4_001, 0], 8_750, 0, 35_009), // 35,008.75
        ([1_001, 0], 1_499, 0, 1_500),  // 1,500.499
    ] {
        let tokens = counts([tokens[0], tokens[1], 0, 0, 0]);
        assert_eq!(
            cost(&tokens, Some(&fine(input, output))),
            Some(nano),
            "{tokens:?} {input} {output}"
        );
    }
}

#[test]
fn free_cache_writes_cost_nothing() {
    // Nova Micro: 0.035, 0.14, free, not offered and 0.00875 dollars per million tokens.
    let nova = of_rates(rates([Some(35_000), Some(140_000), Some(0), None, Some(8_750)]), None);

    assert_eq!(cost(&counts([0, 0, 5_000, 0, 0]), Some(&nova)), Some(0));
    assert_eq!(cost(&counts([100, 10, 5_000, 0, 3]), Some(&nova)), Some(4_926)); // 3,500 + 1,400 + 26.25
    assert_eq!(cost(&counts([0, 0, 5_000, 1, 0]), Some(&nova)), None); // an hour is not offered
    assert_eq!(cost(&counts([300_000, 0, 0, 0, 0]), Some(&nova)), Some(10_500_000)); // long, as any
}

#[test]
fn a_class_with_tokens_needs_a_price_and_one_without_needs_none() {
    let text_only = of_rates(rates([Some(1_000), Some(2_000), None, None, None]), None);

    assert_eq!(cost(&counts([1, 1, 0, 0, 0]), Some(&text_only)), Some(3));
    assert_eq!(cost(&counts([1, 1, 0, 0, 1]), Some(&text_only)), None);
    assert_eq!(cost(&counts([1, 1, 1, 0, 0]), Some(&text_only)), None);
    assert_eq!(cost(&counts([1, 0, 0, 0, 0]), None), None);
    assert_eq!(cost(&counts([0, 0, 0, 0, 0]), None), Some(0));
    assert_eq!(cost(&TokenCounts::default(), None), Some(0));
    assert_eq!(cost(&TokenCounts::default(), Some(&text_only)), Some(0));
    let only = TokenCounts { output: Some(7), ..TokenCounts::default() };
    assert_eq!(cost(&only, Some(&text_only)), Some(14));
    let of_an_hour = TokenCounts { cache_write_1h: Some(10), ..TokenCounts::default() };
    assert_eq!(cost(&of_an_hour, Some(&sonnet())), Some(60_000));
}

#[test]
fn a_long_call_has_no_price_from_the_short_one() {
    let long = rates([Some(6), Some(6), None, None, None]);
    let price = of_rates(rates([Some(1_000); 5]), Some(long));

    assert_eq!(cost(&counts([199_999, 0, 0, 0, 1]), Some(&price)), Some(200_000));
    assert_eq!(cost(&counts([200_000, 0, 0, 0, 1]), Some(&price)), None);
}

#[test]
fn huge_counts_are_exact_or_unknown() {
    let dear = of_rates(rates([Some(money::HIGHEST); 5]), None);
    let dollar = of_rates(rates([Some(1_000_000_000); 5]), None);
    let beyond = of_rates(rates([Some(i64::MAX); 5]), None);

    let input_only = |count| counts([count, 0, 0, 0, 0]);
    assert_eq!(cost(&input_only(9_000_000_000), Some(&dear)), Some(9_000_000_000_000_000_000));
    assert_eq!(cost(&input_only(1 << 40), Some(&dear)), None);
    assert_eq!(cost(&counts([1 << 41; 5]), Some(&dear)), None);
    let four = counts([1 << 40, 1 << 40, 1 << 40, 0, 1 << 40]); // 4 * 2^40 at 1,000,000 nano-dollars
    assert_eq!(cost(&four, Some(&dollar)), Some(4_398_046_511_104_000_000));
    assert_eq!(cost(&counts([i64::MAX; 5]), Some(&beyond)), None);
}

proptest! {
    #[test]
    fn the_cost_is_that_of_a_plain_sum(
        of in prop::array::uniform5(0..=1_i64 << 32),
        at in prop::array::uniform5(0..=1_000_000_000_i64),
        long in prop::array::uniform5(0..=1_000_000_000_i64),
    ) {
        let [input, output, write, hour, read] = of.map(i128::from);
        let write = write.max(hour);
        let mut tokens = counts(of);
        tokens.cache_write = i64::try_from(write).ok();
        let price = of_rates(rates(at.map(Some)), Some(rates(long.map(Some))));

        let paid = if input + write + read > 200_000 { long } else { at }.map(i128::from);
        let pico = input * paid[0] + output * paid[1] + (write - hour) * paid[2] + hour * paid[3] + read * paid[4];
        let nano = pico / 1000 + i128::from(pico % 1000 >= 500);
        prop_assert_eq!(cost(&tokens, Some(&price)).map(i128::from), Some(nano));
    }

    #[test]
    fn any_counts_and_rates_have_a_cost_or_none(
        of in any::<[Option<i64>; 5]>(),
        at in any::<[Option<i64>; 5]>(),
    ) {
        let [input, output, cache_write, cache_write_1h, cache_read] = of;
        let tokens = TokenCounts { input, output, cache_write, cache_write_1h, cache_read };
        let price = of_rates(rates(at), None);
        let _ = cost(&tokens, Some(&price));
    }
}
