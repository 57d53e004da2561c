//! The prices that come with the program, `settings/pricing.csv`. They are from public price lists, and to be checked
//! against those of AWS before anybody is billed on them (protocol reference, 6.3).

use std::sync::LazyLock;

use super::import::{self, Entry};

/// Ids of the table of models that have no price here, and why. Their calls are counted as calls of unknown price until
/// an operator imports one.
pub const UNPRICED: &[(&str, &str)] = &[
    (
        "anthropic.claude-mythos-5",
        "the sources have the price of the profile us. and no other; the bare id would have that of global., which is \
         not to be worked out of a geography's alone",
    ),
    ("anthropic.claude-fable-5-2", "no source has a price of it or of a profile of it"),
    ("anthropic.claude-mythos-5-2", "no source has a price of it or of a profile of it"),
];

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let text = include_str!("../../settings/pricing.csv");
    import::read(text.as_bytes()).expect("settings/pricing.csv is checked by a test")
});

/// The shipped prices, in the order of the file. Read once.
pub fn shipped() -> &'static [Entry] {
    &ENTRIES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::pricing::{Rates, import::Tiers, money::price};

    fn of(region: &str, model_id: &str) -> Tiers {
        let same = |entry: &&Entry| entry.region == region && entry.model_id == model_id;
        let entry = shipped().iter().find(same).unwrap_or_else(|| panic!("{region} {model_id}"));
        (entry.rates, entry.long)
    }

    /// Input, output, cache write, of an hour, cache read; `-` = none.
    fn text(rates: &Rates) -> String {
        let Rates { input, output, cache_write, cache_write_1h, cache_read } = *rates;
        let all = [input, output, cache_write, cache_write_1h, cache_read];
        all.map(|rate| rate.map_or_else(|| "-".to_owned(), price)).join(" ")
    }

    fn is_nova_text(id: &str) -> bool {
        ["micro", "lite", "pro", "premier", "2-lite"]
            .iter()
            .any(|size| id.contains(&format!("amazon.nova-{size}-v1")))
    }

    #[test]
    fn the_file_is_a_good_import() {
        let text = include_str!("../../settings/pricing.csv");

        let entries = import::read(text.as_bytes()).unwrap();

        assert_eq!(entries.len(), 456);
        assert!(entries.iter().all(|entry| entry.valid_from.is_none()));
        assert_eq!(shipped(), entries);
    }

    #[test]
    fn every_model_from_claude_4_5_on_has_a_price_under_each_of_its_ids() {
        #[derive(serde::Deserialize)]
        struct Model {
            anthropic_name: String,
            bedrock_id: String,
            geo_prefixes: String,
        }
        let table = include_str!("../../settings/models.csv");
        let models: Vec<Model> = csv::Reader::from_reader(table.as_bytes())
            .into_deserialize()
            .map(Result::unwrap)
            .collect();
        let first =
            models.iter().position(|model| model.anthropic_name == "claude-sonnet-4-5-20250929");
        let unpriced: BTreeSet<&str> = UNPRICED.iter().map(|(id, _)| *id).collect();
        let priced: BTreeSet<&str> = shipped()
            .iter()
            .filter(|entry| entry.region == "*")
            .map(|entry| entry.model_id.as_str())
            .collect();

        let ids = models[first.unwrap()..].iter().flat_map(|model| {
            let prefixes = model.geo_prefixes.split(';').filter(|prefix| !prefix.is_empty());
            let profiles = prefixes.map(|prefix| format!("{prefix}.{}", model.bedrock_id));
            profiles.chain([model.bedrock_id.clone()])
        });
        let ids: BTreeSet<String> = ids.collect();

        assert!(ids.len() > 100);
        for id in &ids {
            assert!(priced.contains(id.as_str()) != unpriced.contains(id.as_str()), "{id}");
        }
        for (id, reason) in UNPRICED {
            assert!(ids.contains(*id) && !reason.is_empty(), "{id}");
            assert!(shipped().iter().all(|entry| entry.model_id != *id), "{id}");
        }
    }

    #[test]
    fn figures_of_the_seed_are_still_there() {
        for (region, id, rates) in [
            ("ap-northeast-1", "anthropic.claude-instant-v1", "0.0008 0.0024 - - -"),
            ("ap-northeast-2", "amazon.titan-embed-text-v2:0", "0.000024592 0 - - -"),
            ("ap-south-1", "meta.llama3-70b-instruct-v1:0", "0.00318 0.0042 - - -"),
            ("eu-south-1", "amazon.nova-pro-v1:0", "0.00128 0.00521 0 - 0.00032"),
            ("eu-west-1", "mistral.mistral-large-2402-v1:0", "0.0043 0.013 - - -"),
            ("us-east-1", "amazon.nova-premier-v1:0", "0.0025 0.0125 0 - 0.000625"),
            ("us-east-1", "anthropic.claude-3-opus-20240229-v1:0", "0.015 0.075 - - -"),
            (
                "us-east-1",
                "anthropic.claude-3-5-haiku-20241022-v1:0",
                "0.0008 0.004 0.001 0.0016 0.00008",
            ),
            ("us-east-1", "deepseek.r1-v1:0", "0.00135 0.0054 - - -"),
            (
                "us-gov-west-1",
                "anthropic.claude-3-7-sonnet-20250219-v1:0",
                "0.0036 0.018 0.0045 0.0072 0.00036",
            ),
            ("us-west-2", "openai.gpt-oss-20b-1:0", "0.00007 0.0003 - - -"),
            ("*", "amazon.nova-2-lite-v1:0", "0.0003 0.0025 0 - 0.000075"),
            ("*", "amazon.nova-micro-v1:0", "0.000035 0.00014 0 - 0.00000875"),
            ("*", "anthropic.claude-haiku-5-5", "0.0001 0.0005 0.000125 0.0002 0.00001"),
            ("*", "anthropic.claude-mythos-preview", "0.0275 0.1375 0.034375 0.055 0.00275"),
            ("*", "au.anthropic.claude-opus-5-5", "0.0044 0.022 0.0055 0.0088 0.00022"),
            ("*", "global.anthropic.claude-fable-5-1", "0.01 0.05 0.0125 0.02 0.00025"),
            ("*", "us-gov.anthropic.claude-sonnet-5-5", "0.0024 0.012 0.003 0.0048 0.00012"),
            ("*", "us.anthropic.claude-mythos-5", "0.011 0.055 0.01375 0.022 0.0011"),
        ] {
            assert_eq!(text(&of(region, id).0), rates, "{region} {id}");
        }
    }

    #[test]
    fn what_the_seed_lacked_is_derived() {
        for id in ["apac.anthropic.claude-opus-4-6-v1", "jp.anthropic.claude-opus-4-6-v1"] {
            assert_eq!(text(&of("*", id).0), "0.0055 0.0275 0.006875 0.011 0.00055"); // 1.1 × global.
        }
        let (_, long) = of("*", "us.anthropic.claude-sonnet-4-5-20250929-v1:0");
        assert_eq!(text(&long.unwrap()), "0.0066 0.02475 0.00825 0.0132 0.00066");
        let (_, long) = of("us-west-1", "anthropic.claude-sonnet-4-20250514-v1:0");
        assert_eq!(text(&long.unwrap()), "0.006 0.0225 0.0075 0.012 0.0006");
    }

    #[test]
    fn prices_of_a_family_keep_their_ratios() {
        for Entry { region, model_id, rates, long, .. } in shipped() {
            let is_claude = model_id.contains("anthropic.claude-");
            let is_long = ["claude-sonnet-4-20250514", "claude-sonnet-4-5-"]
                .iter()
                .any(|id| model_id.contains(id));
            let input = rates.input.unwrap();

            let hour = rates.cache_write.filter(|_| is_claude).map(|_| 2 * input);
            assert_eq!(rates.cache_write_1h, hour, "{region} {model_id}");
            if is_claude && let Some(write) = rates.cache_write {
                assert_eq!(4 * write, 5 * input, "{region} {model_id}");
            }
            if is_nova_text(model_id) {
                assert_eq!(rates.cache_write, Some(0), "{region} {model_id}");
                assert_eq!(
                    rates.cache_read.map(|read| 4 * read),
                    Some(input),
                    "{region} {model_id}"
                );
            }
            assert_eq!(long.is_some(), is_long, "{region} {model_id}");
            if let Some(long) = long {
                assert_eq!(long.input, Some(2 * input), "{region} {model_id}");
                assert_eq!(
                    long.output,
                    rates.output.map(|output| output * 3 / 2),
                    "{region} {model_id}"
                );
            }
        }
        let claude = |entry: &&Entry| entry.model_id.contains("anthropic.claude-");
        assert_eq!(
            shipped().iter().filter(claude).filter(|e| e.rates.cache_write_1h.is_some()).count(),
            162
        );
        assert_eq!(shipped().iter().filter(|entry| entry.long.is_some()).count(), 29);
        assert_eq!(shipped().iter().filter(|entry| is_nova_text(&entry.model_id)).count(), 60);
    }

    /// Protocol reference, 6.1: from Claude 4.5 on, a profile of a geography costs 1.1 × `global.`, `us-gov.` 1.2 ×.
    #[test]
    fn profiles_of_a_geography_cost_more_than_global_ones() {
        for entry in shipped().iter().filter(|entry| !entry.model_id.contains("sonnet-4-20250514"))
        {
            let Some((prefix, rest)) = entry.model_id.split_once('.') else { continue };
            let global = format!("global.{rest}");
            let Some(global) = shipped().iter().find(|entry| entry.model_id == global) else {
                continue;
            };
            let tenths = match prefix {
                "us-gov" => 12,
                "global" => 10,
                _ => 11,
            };
            let times = |rate: Option<i64>| rate.map(|rate| rate * tenths);
            let tenfold = |rate: Option<i64>| rate.map(|rate| rate * 10);
            let (own, base) = (&entry.rates, &global.rates);
            assert_eq!(tenfold(own.input), times(base.input), "{}", entry.model_id);
            assert_eq!(tenfold(own.output), times(base.output), "{}", entry.model_id);
            assert_eq!(tenfold(own.cache_write), times(base.cache_write), "{}", entry.model_id);
            assert_eq!(tenfold(own.cache_read), times(base.cache_read), "{}", entry.model_id);
        }
        for entry in shipped().iter().filter(|entry| entry.model_id.starts_with("global.")) {
            let bare = entry.model_id.strip_prefix("global.").unwrap();
            assert_eq!(of("*", bare), (entry.rates, entry.long));
        }
    }
}
