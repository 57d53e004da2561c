use chrono::NaiveDate;

use super::*;
use crate::pricing::{Book, Price};

#[test]
fn what_an_import_would_do_is_told_by_entry() {
    let entries = read_ok(&format!(
        "{HEADER}\n*,same,1,2,,,,,,\n*,new,1,2,,,,,,\n*,other,1,3,,,,,,\n*,longer,1,2,,,,2,3,\neu-west-1,same,1,2,,,,,,\n"
    ));
    let usual = rates([Some(1_000_000_000), Some(2_000_000_000), None, None, None]);
    let current = |entry: &Entry| match (entry.region.as_str(), entry.model_id.as_str()) {
        ("*", "same" | "other" | "longer") => Some((usual, None)),
        _ => None,
    };

    let compared = compare(&entries, current);

    assert_eq!((compared.added, compared.changed, compared.unchanged), (2, 2, 1));
    let told: Vec<_> =
        compared.changes.iter().map(|c| (c.entry.line, c.before.is_some())).collect();
    assert_eq!(told, [(3, false), (4, true), (5, true), (6, false)]);
    let before = compared.changes[1].before.unwrap();
    assert_eq!(
        (before.0.output, entries[2].rates.output),
        (Some(2_000_000_000), Some(3_000_000_000))
    );
}

#[test]
fn what_follows_a_change_of_the_same_key_is_a_change() {
    let entries = read_ok(&format!(
        "{HEADER}\n*,a.b,1,2,,,,,,2026-01-01\n*,a.b,3,4,,,,,,2026-02-01\n*,a.c,3,4,,,,,,2026-02-01\n"
    ));
    let old = |id: i64, model: &str| {
        let rates = rates([Some(3_000_000_000), Some(4_000_000_000), None, None, None]);
        let valid_from = NaiveDate::from_ymd_opt(2025, 1, 1).unwrap().into();
        let price = Price { id, valid_from, ended: false, rates, long: None };
        ("*".to_owned(), model.to_owned(), price)
    };
    let book = Book::new([old(1, "a.b"), old(2, "a.c")]);
    let current = |entry: &Entry| {
        let price = book.find_exact(&entry.region, &entry.model_id, entry.valid_from?)?;
        Some((price.rates, price.long))
    };

    let compared = compare(&entries, current);

    assert_eq!((compared.added, compared.changed, compared.unchanged), (0, 2, 1));
    assert_eq!(compare(&[], current), Comparison::default());
}
