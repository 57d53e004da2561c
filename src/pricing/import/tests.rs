mod any;
mod compare;

use super::*;

const HEADER: &str = "region,model_id,input_per_1k,output_per_1k,cache_write_per_1k,cache_read_per_1k,\
                      cache_write_1h_per_1k,input_long_per_1k,output_long_per_1k,valid_from";

/// One error: the line, the column, a part of the message.
type Wrong = (u64, &'static str, &'static str);

fn read_ok(text: &str) -> Vec<Entry> {
    read(text.as_bytes()).unwrap_or_else(|bad| panic!("{bad:?}"))
}

fn assert_bad(text: impl AsRef<[u8]>, expected: &[Wrong]) {
    let bad = read(text.as_ref()).unwrap_err();
    assert_eq!(bad.len(), expected.len(), "{bad:?}");
    for (bad, (line, field, message)) in bad.iter().zip(expected) {
        assert_eq!((bad.line, bad.field.as_str()), (*line, *field), "{bad:?}");
        assert!(bad.message.contains(message), "{bad:?}");
    }
}

/// A row under the four columns that must be there.
fn assert_row(row: &str, field: &'static str, message: &'static str) {
    assert_bad(
        format!("region,model_id,input_per_1k,output_per_1k\n{row}\n"),
        &[(2, field, message)],
    );
}

/// A row under [`HEADER`].
fn assert_full(row: &str, field: &'static str, message: &'static str) {
    assert_bad(format!("{HEADER}\n{row}\n"), &[(2, field, message)]);
}

fn rates(of: [Option<i64>; 5]) -> Rates {
    let [input, output, cache_write, cache_write_1h, cache_read] = of;
    Rates { input, output, cache_write, cache_write_1h, cache_read }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_row_is_read_with_all_it_says() {
    let row = "us-gov-west-1,us.anthropic.claude-sonnet-4-5-20250929-v1:0,0.003,0.015,0.00375,0.0003,0.006,0.006,0.0225,2026-11-21";

    let entries = read_ok(&format!("{HEADER}\n{row}\n"));

    let usual = [3_000_000, 15_000_000, 3_750_000, 6_000_000, 300_000];
    let long = [6_000_000, 22_500_000, 7_500_000, 12_000_000, 600_000];
    let entry = Entry {
        line: 2,
        region: "us-gov-west-1".to_owned(),
        model_id: "us.anthropic.claude-sonnet-4-5-20250929-v1:0".to_owned(),
        valid_from: Some(time("2026-11-21T00:00:00")),
        rates: rates(usual.map(Some)),
        long: Some(rates(long.map(Some))),
    };
    assert_eq!(entries, [entry]);
}

#[test]
fn empty_is_unknown_and_zero_is_free() {
    let entries = read_ok(&format!("{HEADER}\n*,amazon.nova-micro-v1:0,0.000035,,0,,,,,\n"));

    assert_eq!(entries[0].rates, rates([Some(35_000), None, Some(0), None, None]));
    assert_eq!((entries[0].long, entries[0].valid_from), (None, None));
}

#[test]
fn the_shape_of_the_file_does_not_matter() {
    let plain = read_ok(
        "region,model_id,input_per_1k,output_per_1k\n*,a.b,0.003,0.015\neu-west-1,a.b,1,2\n",
    );

    for text in [
        "region,model_id,input_per_1k,output_per_1k\n*,a.b,0.003,0.015\neu-west-1,a.b,1,2",
        "\u{feff}region,model_id,input_per_1k,output_per_1k\n*,a.b,0.003,0.015\neu-west-1,a.b,1,2\n",
        "region,model_id,input_per_1k,output_per_1k\r\n*,a.b,0.003,0.015\r\neu-west-1,a.b,1,2\r\n",
        "region,model_id,input_per_1k,output_per_1k\n*,a.b,3e-3,0.0150\neu-west-1,a.b,1.0,2\n\n\n",
        "region,model_id,input_per_1k,output_per_1k\r\n*,a.b,0.003,0.015\r\neu-west-1,a.b,1,2\r\n,,,\r\n  \r\n\r\n",
        "\"region\",\"model_id\",\"input_per_1k\",\"output_per_1k\"\n\"*\",\"a.b\",\"0.003\",\"0.015\"\neu-west-1,a.b,1,2\n",
        "output_per_1k, input_per_1k ,model_id,region\n0.015, 0.003,a.b,*\n2,1, a.b ,eu-west-1\n",
        "region,tier,model_id,input_per_1k,output_per_1k,input_batch_per_1k\n*,default,a.b,0.003,0.015,\neu-west-1,,a.b,1,2,\n",
    ] {
        assert_eq!(read_ok(text), plain, "{text}");
    }
}

#[test]
fn lines_are_those_of_an_editor() {
    for end in ["\n", "\r\n"] {
        let lines = [
            "",
            "region,model_id,input_per_1k,output_per_1k", // 2
            "*,a.b,1,2",
            "",
            "",
            "x,a.b,1,2", // 6
            "*,\"a",     // 7, to line 9
            "",
            "b\",1,2",
            "*,a.c,-1,2", // 10
            ",,,",
            "*,a.d,1", // 12
            "*,a.b,1,2",
        ];
        assert_bad(
            lines.join(end),
            &[
                (6, "region", "neither"),
                (7, "model_id", "character"),
                (10, "input_per_1k", "negative"),
                (12, "", "has 3 fields where the header has 4"),
                (13, "", "line 3 has the same region, model_id and valid_from"),
            ],
        );
        let good = "region,model_id,input_per_1k,output_per_1k\n\n*,a.b,1,2\n*,a.c,1,2\n"
            .replace('\n', end);
        let lines: Vec<u64> = read_ok(&good).iter().map(|entry| entry.line).collect();
        assert_eq!(lines, [3, 4]);
    }
}

#[test]
fn a_file_that_is_none_is_refused() {
    assert_bad("", &[(1, "", "empty")]);
    assert_bad("\u{feff}\r\n\n", &[(1, "", "empty")]);
    assert_bad("region,model_id,input_per_1k,output_per_1k\n\n", &[(1, "", "no prices")]);
    assert_bad(
        b"region,model_id,input_per_1k,output_per_1k\n*,a.b,1,2\n*,a\xff,1,2\n",
        &[(3, "", "UTF-8")],
    );
    assert_bad(b"\xff\xfer\0e\0", &[(1, "", "UTF-8")]); // UTF-16
}

#[test]
fn a_header_must_have_known_columns_once_each() {
    assert_bad(
        "region,model_id,input,region,output_per_1k,\n*,a.b,1,2,3,\n",
        &[
            (1, "input", "no such column"),
            (1, "region", "twice"),
            (1, "", "column 6 has no name"),
            (1, "input_per_1k", "missing"),
        ],
    );
    assert_bad(
        "*,a.b,1,2\n*,a.c,1,2\n",
        &[
            (1, "*", "no such column"),
            (1, "a.b", "no such column"),
            (1, "1", "no such column"),
            (1, "2", "no such column"),
            (1, "region", "missing"),
            (1, "model_id", "missing"),
            (1, "input_per_1k", "missing"),
            (1, "output_per_1k", "missing"),
        ],
    );
    let bad = read(format!("{HEADER},{}\u{7}\n", "x".repeat(39)).as_bytes()).unwrap_err();
    assert_eq!(bad[0].field, format!("{}\u{fffd}", "x".repeat(39)));
    let bad = read(format!("{HEADER},{}\n", "ä".repeat(4000)).as_bytes()).unwrap_err();
    assert_eq!(bad[0].field, format!("{}…", "ä".repeat(40)));
}

#[test]
fn prices_must_be_prices() {
    assert_row("*,a.b,-0.1,2", "input_per_1k", "negative");
    assert_row("*,a.b,NaN,2", "input_per_1k", "no number");
    assert_row("*,a.b,1,inf", "output_per_1k", "no number");
    assert_row("*,a.b,1,0x1", "output_per_1k", "no number");
    assert_row("*,a.b,1,\"1,000\"", "output_per_1k", "no number");
    assert_row("*,a.b,1,1000.1", "output_per_1k", "above 1000");
    assert_row("*,a.b,1,1e30", "output_per_1k", "above 1000");
    assert_row("*,a.b,1,0.0000000001", "output_per_1k", "nine decimal places");
    assert_row("*,a.b,,", "", "no price");
    assert_full("*,a.b,1,2,-1,,,,,", "cache_write_per_1k", "negative");
    assert_full("*,a.b,1,2,,x,,,,", "cache_read_per_1k", "no number");
    assert_full("*,a.b,1,2,,,y,,,", "cache_write_1h_per_1k", "no number");
}

#[test]
fn regions_and_ids_must_look_like_them() {
    for region in [
        "",
        "**",
        "us",
        "us-east",
        "us-1",
        "US-EAST-1",
        "usa-east-1",
        "us-east-",
        "us--1",
        "us-east-1a",
        "us_east_1",
        "é-east-1",
    ] {
        assert_row(&format!("{region},a.b,1,2"), "region", "neither * nor a name");
    }
    for region in
        ["*", "us-east-1", "us-gov-west-1", "ap-southeast-2", "us-iso-east-1", "mx-central-1"]
    {
        read_ok(&format!("region,model_id,input_per_1k,output_per_1k\n{region},a.b,1,2"));
    }
    assert_row("*,,1,2", "model_id", "empty");
    for id in ["a b", "a%3A", "é", "a\tb", "a\"b", "=1+1", "a\u{0}"] {
        assert_row(&format!("*,{id},1,2"), "model_id", "character");
    }
    assert_row(&format!("*,{},1,2", "a".repeat(2049)), "model_id", "longer than 2048");
    let arn = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc_D-1";
    for id in [arn, &"a".repeat(2048)] {
        read_ok(&format!("region,model_id,input_per_1k,output_per_1k\n*,{id},1,2"));
    }
}

#[test]
fn a_time_is_a_date_or_rfc_3339() {
    let read = |from: &str| read_ok(&format!("{HEADER}\n*,a.b,1,2,,,,,,{from}\n"))[0].valid_from;

    assert_eq!(read(""), None);
    assert_eq!(read("2000-01-01"), Some(time("2000-01-01T00:00:00")));
    assert_eq!(read("2199-12-31T23:59:59Z"), Some(time("2199-12-31T23:59:59")));
    assert_eq!(read("2026-11-21T09:30:00.1234Z"), Some(time("2026-11-21T09:30:00.123")));
    assert_eq!(read("2026-11-21T09:30:00+02:00"), Some(time("2026-11-21T07:30:00")));
    for from in [
        "x",
        "2026-13-01",
        "2026-02-30",
        "1999-12-31",
        "2200-01-01",
        "21.11.2026",
        "2026-11-21T09:30:00",
        "2026-11-21T23:59:60Z",
        "+2026-01-1",
        "0",
        "2026",
        "99999-01-01",
    ] {
        assert_full(&format!("*,a.b,1,2,,,,,,{from}"), "valid_from", "2000 to 2199");
    }
}

#[test]
fn batch_prices_and_other_tiers_are_not_ignored() {
    let text = |row: &str| {
        format!(
            "region,model_id,input_per_1k,output_per_1k,input_batch_per_1k,output_batch_per_1k,tier\n{row}"
        )
    };

    assert_eq!(read_ok(&text("*,a.b,1,2,,,\n*,a.c,1,2,,,default")).len(), 2);
    assert_bad(
        text("*,a.b,1,2,0.5,1,"),
        &[
            (2, "input_batch_per_1k", "no batch calls"),
            (2, "output_batch_per_1k", "no batch calls"),
        ],
    );
    assert_bad(text("*,a.b,1,2,,,flex"), &[(2, "tier", "only the default tier")]);
}

#[test]
fn prices_of_long_prompts_come_together_and_with_an_input_price() {
    assert_full("*,a.b,1,2,,,,3,,", "output_long_per_1k", "missing");
    assert_full("*,a.b,1,2,,,,,3,", "input_long_per_1k", "missing");
    assert_full("*,a.b,,2,,,,3,3,", "input_long_per_1k", "needs an input price");
    assert_full("*,a.b,0,2,,,,3,3,", "input_long_per_1k", "needs an input price");
    assert_full("*,a.b,1,2,,,,x,3,", "input_long_per_1k", "no number");
    assert_full("*,a.b,x,2,,,,3,3,", "input_per_1k", "no number");
    assert_full("*,a.b,0.000000001,2,1,,,1000,3,", "input_long_per_1k", "above 1000");
}

#[test]
fn long_prices_of_the_cache_are_in_proportion_rounded_half_up() {
    let long = |row: &str| read_ok(&format!("{HEADER}\n{row}\n"))[0].long.unwrap();

    // 4, 5, 5 and 7 pico-dollars, times 3 by 2: 7.5 is 8, and 10.5 is 11.
    let odd = "*,a.b,2e-9,1,5e-9,4e-9,7e-9,3e-9,1,";
    assert_eq!(long(odd), rates([Some(3), Some(1_000_000_000), Some(8), Some(11), Some(6)]));
    let thirds = "*,a.b,3e-9,1,4e-9,2e-9,,4e-9,1,"; // 5.33 and 2.67
    assert_eq!(long(thirds), rates([Some(4), Some(1_000_000_000), Some(5), None, Some(3)]));
    let free = "*,a.b,1,1,0,,,0,0,";
    assert_eq!(long(free), rates([Some(0), Some(0), Some(0), None, None]));
}

#[test]
fn the_same_key_may_stand_there_from_different_times() {
    let rows = "*,a.b,1,2,,,,,,\n*,a.b,1,2,,,,,,2026-01-01\n*,a.b,1,2,,,,,,2026-01-02\neu-west-1,a.b,1,2,,,,,,\n";
    assert_eq!(read_ok(&format!("{HEADER}\n{rows}")).len(), 4);

    let again = format!("{HEADER}\n{rows}*,a.b,3,4,,,,,,2026-01-02T00:00:00Z\n");
    assert_bad(again, &[(6, "", "line 4 has the same")]);
}
