use proptest::prelude::*;

use super::*;

#[test]
fn a_file_has_twenty_thousand_rows_at_most() {
    let rows = |n: usize| -> String { (0..n).map(|i| format!("*,a.m{i},1,2\n")).collect() };
    let text = |n| format!("region,model_id,input_per_1k,output_per_1k\n{}", rows(n));

    assert_eq!(read_ok(&text(20_000)).len(), 20_000);
    assert_bad(text(20_001), &[(20_002, "", "more than 20000 rows")]);
}

#[test]
fn a_hundred_bad_lines_are_named_and_the_rest_counted() {
    let text =
        |n| format!("region,model_id,input_per_1k,output_per_1k\n{}", "x,a.b,1,2\n".repeat(n));

    let hundred = read(text(100).as_bytes()).unwrap_err();
    let more = read(text(350).as_bytes()).unwrap_err();

    assert_eq!(hundred.len(), 100);
    assert_eq!(hundred[99].field, "region");
    assert_eq!(more.len(), 101);
    assert_eq!(more[..100], hundred);
    let message = "from here on there are 250 more errors".to_owned();
    assert_eq!(more[100], BadLine { line: 102, field: String::new(), message });
}

#[test]
fn a_hostile_file_is_read_to_its_end() {
    let size = 1 << 20; // quadratic work would not end
    for text in [
        ",".repeat(size),
        "\n".repeat(size),
        "\"".repeat(size),
        "\r\n".repeat(size / 2),
        format!("{HEADER}\n{}", ",".repeat(size)),
        format!("{HEADER}\n{}", "x\n".repeat(size / 2)),
        format!("{HEADER}\n*,a.b,{}", "9".repeat(size)),
        format!("{HEADER}\n*,a.b,0.{}1", "0".repeat(size)),
        format!("{HEADER}\n*,\"{}", "\r\n".repeat(size / 2)),
    ] {
        assert!(read(text.as_bytes()).unwrap_err().len() <= MOST_NAMED + 1);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
    }

    #[test]
    fn any_rows_are_read_or_refused(
        end in "\r|\n|\r\n",
        rows in prop::collection::vec("([*a-z0-9.,\"\r\n -]{0,12},){0,12}", 0..12),
    ) {
        let text = format!("{HEADER}{end}{}", rows.join(&end));
        match read(text.as_bytes()) {
            Ok(entries) => prop_assert!(!entries.is_empty()),
            Err(bad) => prop_assert!(!bad.is_empty()),
        }
    }

    #[test]
    fn a_record_is_on_the_line_where_it_stands(
        end in "\n|\r\n",
        gaps in prop::collection::vec(0..3_usize, 1..20),
    ) {
        let mut text = "region,model_id,input_per_1k,output_per_1k".to_owned();
        let mut expected = Vec::new();
        for (at, gap) in gaps.iter().enumerate() {
            text.push_str(&end.repeat(gap + 1));
            expected.push(u64::try_from(text.matches('\n').count()).unwrap() + 1);
            text.push_str(&format!("*,a.m{at},\"{}1\",2", end.repeat(*gap)));
        }

        let lines: Vec<u64> = read(text.as_bytes()).unwrap().iter().map(|entry| entry.line).collect();

        prop_assert_eq!(lines, expected);
    }
}
