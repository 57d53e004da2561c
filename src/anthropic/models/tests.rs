use proptest::prelude::*;

use super::{names::is_date, *};
use crate::bedrock::model_id::ModelId;
use crate::bedrock::model_id::{PREFIXES, without_prefix};

const REGIONS: [&str; 7] = [
    "us-east-1",
    "eu-west-1",
    "ap-northeast-1",
    "ap-southeast-2",
    "us-gov-west-1",
    "ca-central-1",
    "sa-east-1",
];

/// The names of a model, its id, and the prefix it gets in each of [`REGIONS`]; "" = none.
type Expected = (&'static [&'static str], &'static str, [&'static str; 7]);

#[rustfmt::skip]
const SHIPPED: &[Expected] = &[
    (&["claude-3-haiku-20240307", "claude-3-haiku"], "anthropic.claude-3-haiku-20240307-v1:0", ["us", "", "apac", "apac", "", "us", ""]),
    (&["claude-3-sonnet-20240229", "claude-3-sonnet"], "anthropic.claude-3-sonnet-20240229-v1:0", ["us", "", "", "", "", "us", ""]),
    (&["claude-3-opus-20240229", "claude-3-opus-latest", "claude-3-opus"], "anthropic.claude-3-opus-20240229-v1:0", ["us", "eu", "", "", "", "us", ""]),
    (&["claude-3-5-sonnet-20240620"], "anthropic.claude-3-5-sonnet-20240620-v1:0", ["us", "eu", "", "", "", "us", ""]),
    (&["claude-3-5-sonnet-20241022", "claude-3-5-sonnet-latest", "claude-3-5-sonnet"], "anthropic.claude-3-5-sonnet-20241022-v2:0", ["us", "eu", "", "", "", "us", ""]),
    (&["claude-3-5-haiku-20241022", "claude-3-5-haiku-latest", "claude-3-5-haiku"], "anthropic.claude-3-5-haiku-20241022-v1:0", ["us", "eu", "", "", "", "us", ""]),
    (&["claude-3-7-sonnet-20250219", "claude-3-7-sonnet-latest"], "anthropic.claude-3-7-sonnet-20250219-v1:0", ["us", "eu", "apac", "apac", "", "us", ""]),
    (&["claude-sonnet-4-20250514", "claude-sonnet-4-0", "claude-4-sonnet-20250514"], "anthropic.claude-sonnet-4-20250514-v1:0", ["us", "eu", "apac", "apac", "", "us", "global"]),
    (&["claude-opus-4-20250514", "claude-opus-4-0", "claude-4-opus-20250514"], "anthropic.claude-opus-4-20250514-v1:0", ["us", "", "", "", "", "us", ""]),
    (&["claude-opus-4-1-20250805", "claude-opus-4-1"], "anthropic.claude-opus-4-1-20250805-v1:0", ["us", "", "", "", "", "us", ""]),
    (&["claude-sonnet-4-5-20250929", "claude-sonnet-4-5"], "anthropic.claude-sonnet-4-5-20250929-v1:0", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-haiku-4-5-20251001", "claude-haiku-4-5"], "anthropic.claude-haiku-4-5-20251001-v1:0", ["us", "eu", "jp", "au", "", "us", "global"]),
    (&["claude-opus-4-5-20251101", "claude-opus-4-5"], "anthropic.claude-opus-4-5-20251101-v1:0", ["us", "eu", "global", "global", "", "us", "global"]),
    (&["claude-opus-4-6"], "anthropic.claude-opus-4-6-v1", ["us", "eu", "jp", "au", "", "us", "global"]),
    (&["claude-sonnet-4-6"], "anthropic.claude-sonnet-4-6", ["us", "eu", "jp", "au", "", "us", "global"]),
    (&["claude-opus-4-7"], "anthropic.claude-opus-4-7", ["us", "eu", "jp", "au", "", "us", "global"]),
    (&["claude-opus-4-8"], "anthropic.claude-opus-4-8", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-mythos-preview"], "anthropic.claude-mythos-preview", ["us", "", "apac", "au", "", "us", ""]),
    (&["claude-sonnet-5"], "anthropic.claude-sonnet-5", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-opus-5"], "anthropic.claude-opus-5", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-fable-5"], "anthropic.claude-fable-5", ["us", "eu", "apac", "au", "", "us", "global"]),
    (&["claude-mythos-5"], "anthropic.claude-mythos-5", ["us", "", "", "", "", "us", ""]),
    (&["claude-fable-5-1"], "anthropic.claude-fable-5-1", ["us", "eu", "global", "global", "us-gov", "us", "global"]),
    (&["claude-mythos-5-1"], "anthropic.claude-mythos-5-1", ["us", "global", "global", "global", "", "us", "global"]),
    (&["claude-opus-5-5"], "anthropic.claude-opus-5-5", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-sonnet-5-5"], "anthropic.claude-sonnet-5-5", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-haiku-5-5"], "anthropic.claude-haiku-5-5", ["us", "eu", "jp", "au", "us-gov", "us", "global"]),
    (&["claude-fable-5-2"], "anthropic.claude-fable-5-2", ["", "", "", "", "", "", ""]),
    (&["claude-mythos-5-2"], "anthropic.claude-mythos-5-2", ["", "", "", "", "", "", ""]),
];

fn alias(model: &str) -> Alias {
    Alias { model: model.to_owned(), region: None, base_model: None }
}

struct Given {
    aliases: Vec<(&'static str, Alias)>,
    profile: InferenceProfile,
    mappings: Vec<(&'static str, &'static [&'static str])>,
}

impl Given {
    fn nothing() -> Self {
        Self { aliases: Vec::new(), profile: InferenceProfile::Auto, mappings: Vec::new() }
    }

    fn aliases(aliases: Vec<(&'static str, Alias)>) -> Self {
        Self { aliases, ..Self::nothing() }
    }

    fn profile(chosen: &[&str]) -> Self {
        let chosen = chosen.iter().map(|prefix| (*prefix).to_owned()).collect();
        Self { profile: InferenceProfile::Prefixes(chosen), ..Self::nothing() }
    }

    fn at(self, region: &str) -> Models {
        let aliases = self.aliases.into_iter().map(|(name, alias)| (name.to_owned(), alias));
        let settings = settings::Models {
            aliases: aliases.collect(),
            inference_profile: self.profile,
            learn_for_seconds: 0,
            old_version: Vec::new(),
            essential: Vec::new(),
            betas: BTreeMap::new(),
            fields: BTreeMap::new(),
        };
        let owned =
            |words: &[&str]| Prefixes(words.iter().map(|word| (*word).to_owned()).collect());
        let mappings = self.mappings.iter().map(|(name, list)| ((*name).to_owned(), owned(list)));
        Models::new(&settings, &mappings.collect(), region)
    }
}

fn at(region: &str) -> Models {
    Given::nothing().at(region)
}

#[track_caller]
fn id(models: &Models, name: &str) -> String {
    models.resolve(name).unwrap().id
}

// The table

#[test]
fn every_shipped_name_leads_to_its_model_in_every_region() {
    for (column, region) in REGIONS.iter().enumerate() {
        let models = at(region);
        for (names, bare, prefixes) in SHIPPED {
            let expected = match prefixes[column] {
                "" => (*bare).to_owned(),
                prefix => format!("{prefix}.{bare}"),
            };
            for name in *names {
                let found = models.resolve(name).unwrap();

                assert_eq!(found.id, expected, "{name} in {region}");
                assert_eq!((found.billed.as_str(), found.base.as_str()), (&*expected, *bare));
                assert_eq!((found.region, found.long_context, found.derived), (None, false, false));
            }
        }
    }
}

#[test]
fn the_table_has_no_names_but_these_and_no_name_twice() {
    let mut expected: Vec<&str> = SHIPPED.iter().flat_map(|(names, ..)| *names).copied().collect();
    let mut found: Vec<&str> = TABLE.iter().map(|row| row.anthropic_name.as_str()).collect();
    expected.sort_unstable();
    found.sort_unstable();

    assert_eq!(found, expected);
    found.dedup();
    assert_eq!(found.len(), expected.len());
}

#[test]
fn the_facts_of_a_model_stand_on_its_first_line_and_are_sound() {
    for row in TABLE.iter() {
        let name = &row.anthropic_name;
        let canonical = std::ptr::eq(row, row.canonical());
        assert_eq!(canonical, !row.display_name.is_empty(), "{name}");
        assert_eq!(canonical, !row.lifecycle.is_empty(), "{name}");
        assert!(canonical || row.created_at.is_empty(), "{name}");
        assert_eq!(row.geo_prefixes, row.canonical().geo_prefixes, "{name}");
        let prefixes = row.geo_prefixes.split(';').filter(|prefix| !prefix.is_empty());
        assert!(prefixes.into_iter().all(|prefix| PREFIXES.contains(&prefix)), "{name}");
        assert!(matches!(row.lifecycle.as_str(), "" | "active" | "deprecated"), "{name}");
        let date = row.created_at.replace('-', "");
        assert!(date.is_empty() || (is_date(&date) && row.created_at.len() == 10), "{name}");
        assert_eq!(foundation(&row.bedrock_id), row.bedrock_id, "{name}");
        assert_eq!(*name, name.to_ascii_lowercase(), "names are also looked up in lower case");
    }
}

#[test]
fn a_shipped_name_may_be_decorated_or_in_capitals() {
    let models = at("us-east-1");
    for (name, long_context) in [
        ("claude-sonnet-4-5", false),
        ("claude-sonnet-4-5[1m]", true),
        ("claude-sonnet-4-5[1M]", true),
        ("anthropic/claude-sonnet-4-5", false),
        ("bedrock/claude-sonnet-4-5[1m]", true),
        ("Claude-Sonnet-4-5", false),
    ] {
        let found = models.resolve(name).unwrap();

        assert_eq!(found.id, "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "{name}");
        assert_eq!((found.long_context, found.derived), (long_context, false), "{name}");
    }
}

// Ids

#[test]
fn an_id_or_arn_is_used_unchanged() {
    for given in [Given::nothing(), Given::profile(&["eu"])] {
        let models = given.at("eu-west-1");
        for (name, base) in [
            ("anthropic.claude-opus-4-6-v1", "anthropic.claude-opus-4-6-v1"),
            ("us.anthropic.claude-opus-4-6-v1", "anthropic.claude-opus-4-6-v1"),
            ("us-gov.anthropic.claude-opus-4-8", "anthropic.claude-opus-4-8"),
            ("jp.newcomer.model-1", "newcomer.model-1"),
            ("amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0"),
            (
                "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-opus-4-8",
                "anthropic.claude-opus-4-8",
            ),
            (
                "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-v2:1",
                "anthropic.claude-v2:1",
            ),
            (
                "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc",
                "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc",
            ),
            (
                "arn:aws:bedrock:eu-west-1:123456789012:custom-model/anthropic.claude-v2:1/abc",
                "arn:aws:bedrock:eu-west-1:123456789012:custom-model/anthropic.claude-v2:1/abc",
            ),
        ] {
            for (asked, long_context) in [
                (name.to_owned(), false),
                (format!("{name}[1m]"), true),
                (format!("bedrock/{name}"), false),
            ] {
                let expected = Resolved {
                    id: name.to_owned(),
                    region: None,
                    billed: name.to_owned(),
                    base: base.to_owned(),
                    long_context,
                    derived: false,
                };
                assert_eq!(models.resolve(&asked), Ok(expected), "{asked}");
            }
        }
    }
}

#[test]
fn a_prefix_is_taken_off_only_where_a_provider_follows() {
    for (id, without) in [
        ("us.anthropic.claude-v2:1", "anthropic.claude-v2:1"),
        ("us-gov.anthropic.claude-opus-4-8", "anthropic.claude-opus-4-8"),
        ("global.amazon.nova-2-lite-v1:0", "amazon.nova-2-lite-v1:0"),
        ("sa.meta.llama4", "meta.llama4"),
        ("anthropic.claude-v2:1", "anthropic.claude-v2:1"),
        ("us.claude-3.5", "us.claude-3.5"),
        ("us.anthropic", "us.anthropic"),
        ("us.anthropic.", "us.anthropic."),
        ("us..x", "us..x"),
        ("ap.anthropic.claude-v2", "ap.anthropic.claude-v2"),
        ("us.us.anthropic.x", "us.anthropic.x"),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/x.y",
            "arn:aws:bedrock:us-east-1::foundation-model/x.y",
        ),
        ("", ""),
    ] {
        assert_eq!(without_prefix(id), without);
    }
}

// Names by rule

#[test]
fn a_name_newer_than_the_table_follows_the_rule_and_says_so() {
    let models = at("us-east-1");
    for (name, expected) in [
        ("claude-opus-4-9", "anthropic.claude-opus-4-9"),
        ("claude-opus-4-10", "anthropic.claude-opus-4-10"),
        ("claude-haiku-6", "anthropic.claude-haiku-6"),
        ("claude-sonnet-10-1", "anthropic.claude-sonnet-10-1"),
        ("claude-sonnet-4-2-20250701", "anthropic.claude-sonnet-4-2-20250701-v1:0"),
        ("claude-3-9-opus-20250101[1m]", "anthropic.claude-3-9-opus-20250101-v1:0"),
        ("anthropic/claude-fable-7-1", "anthropic.claude-fable-7-1"),
    ] {
        let found = models.resolve(name).unwrap();

        assert_eq!((found.id.as_str(), found.derived), (expected, true), "{name}");
    }
}

#[test]
fn what_follows_no_rule_leads_nowhere() {
    let models = at("us-east-1");
    for name in [
        "",
        "[1m]",
        "claude",
        "claude-",
        "claude-haiku",
        "claude-haiku-4",
        "claude-opus-4-4",
        "claude-opus-4.7",
        "claude-opus-100",
        "claude-opus-5-5-5",
        "claude-Opus-9",
        "claude-opus-5-",
        "claude-20250101",
        "claude-opus-4-20251301",
        "claude-opus-4-20250132",
        "claude-opus-4-19990101",
        "claude-o/../pus-4-20250101",
        "claude-ö-7",
        "gpt-4o",
        "us.claude",
        "anthropic.",
        "anthropic.claude opus",
        "-.anthropic.x",
        "ap.anthropic.claude-opus-4-8",
        "anthropic/anthropic/claude-opus-4-8",
        " claude-opus-4-8",
    ] {
        assert!(models.resolve(name).is_err(), "{name}");
    }
}

// Profiles

#[test]
fn an_operators_geography_is_never_left_for_global_unless_it_is_named() {
    let opus = "anthropic.claude-opus-4-5-20251101-v1:0"; // us, eu, global
    for (chosen, expected) in [
        (&["eu"][..], format!("eu.{opus}")),
        (&["global"], format!("global.{opus}")),
        (&["jp"], opus.to_owned()),
        (&["jp", "global"], format!("global.{opus}")),
        (&["eu", "global"], format!("eu.{opus}")),
    ] {
        let models = Given::profile(chosen).at("ap-northeast-1");

        assert_eq!(id(&models, "claude-opus-4-5"), expected, "{chosen:?}");
    }
    let none = Given { profile: InferenceProfile::None, ..Given::nothing() }.at("us-east-1");
    assert_eq!(id(&none, "claude-opus-4-5"), opus);
    assert_eq!(id(&none, "claude-opus-9"), "anthropic.claude-opus-9");
}

#[test]
fn a_model_whose_profiles_are_unknown_gets_the_chosen_one_and_else_none() {
    for name in ["claude-fable-5-2", "claude-opus-9"] {
        let bare = format!("anthropic.{name}");
        assert_eq!(id(&at("us-east-1"), name), bare);
        assert_eq!(id(&Given::profile(&["eu", "global"]).at("x"), name), format!("eu.{bare}"));
    }
}

#[test]
fn a_mapping_takes_the_place_of_the_regions_own_prefixes() {
    let mapped = || Given {
        mappings: vec![
            ("sa-east-1", &["us", "global"]),
            ("eu-west-1", &["eu"]),
            ("me-south-1", &[]),
        ],
        ..Given::nothing()
    };
    let haiku = "anthropic.claude-haiku-4-5-20251001-v1:0";

    assert_eq!(id(&mapped().at("sa-east-1"), "claude-haiku-4-5"), format!("us.{haiku}"));
    assert_eq!(id(&mapped().at("me-south-1"), "claude-haiku-4-5"), haiku);
    assert_eq!(
        id(&mapped().at("eu-west-2"), "claude-mythos-5-1"),
        "global.anthropic.claude-mythos-5-1"
    );
    assert_eq!(id(&mapped().at("eu-west-1"), "claude-mythos-5-1"), "anthropic.claude-mythos-5-1");
    let chosen = Given { profile: Given::profile(&["jp"]).profile, ..mapped() };
    assert_eq!(id(&chosen.at("sa-east-1"), "claude-haiku-4-5"), format!("jp.{haiku}"));
}

#[test]
fn no_setting_leads_out_of_govcloud() {
    let haiku = "anthropic.claude-haiku-4-5-20251001-v1:0"; // has global, not us-gov
    let mapped =
        Given { mappings: vec![("us-gov-east-1", &["us-gov", "global"])], ..Given::nothing() };
    for given in [Given::nothing(), mapped, Given::profile(&["global"])] {
        let models = given.at("us-gov-east-1");

        assert_eq!(id(&models, "claude-haiku-4-5"), haiku);
        assert_eq!(id(&models, "claude-opus-9"), "anthropic.claude-opus-9");
    }
}

// Aliases

const PROFILE: &str = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/team";

#[test]
fn an_alias_is_used_as_it_is_and_goes_before_everything() {
    let models = Given {
        aliases: vec![
            ("gpt-4.1", alias("anthropic.claude-haiku-4-5-20251001-v1:0")),
            ("claude-sonnet-4-5", alias("eu.anthropic.claude-sonnet-5")),
            ("anthropic.claude-v2", alias("anthropic.claude-v2:1")),
            ("marked[1m]", alias("anthropic.claude-opus-4-8")),
        ],
        ..Given::profile(&["us"])
    }
    .at("us-east-1");

    for (name, expected, long_context) in [
        ("gpt-4.1", "anthropic.claude-haiku-4-5-20251001-v1:0", false),
        ("gpt-4.1[1m]", "anthropic.claude-haiku-4-5-20251001-v1:0", true),
        ("claude-sonnet-4-5", "eu.anthropic.claude-sonnet-5", false),
        ("claude-sonnet-4-5[1m]", "eu.anthropic.claude-sonnet-5", true),
        ("anthropic.claude-v2", "anthropic.claude-v2:1", false),
        ("marked[1m]", "anthropic.claude-opus-4-8", true),
    ] {
        let found = models.resolve(name).unwrap();

        assert_eq!((found.id.as_str(), found.long_context), (expected, long_context), "{name}");
    }
    assert!(models.resolve("GPT-4.1").is_err(), "aliases are matched as they are written");
    assert!(models.resolve("marked").is_err());
}

#[test]
fn an_alias_says_where_it_is_called_and_what_it_is_billed_as() {
    let base = "us.anthropic.claude-opus-4-8";
    let big = Alias {
        model: PROFILE.to_owned(),
        region: Some("us-west-2".to_owned()),
        base_model: Some(base.to_owned()),
    };
    let models = Given::aliases(vec![("big", big), ("same", alias(PROFILE))]).at("us-east-1");

    let found = models.resolve("big").unwrap();

    assert_eq!((found.id.as_str(), found.region.as_deref()), (PROFILE, Some("us-west-2")));
    assert_eq!((found.billed.as_str(), found.base.as_str()), (base, "anthropic.claude-opus-4-8"));
    for name in ["same", PROFILE] {
        let found = models.resolve(name).unwrap();
        assert_eq!((found.billed.as_str(), found.region), (base, None), "{name}");
    }
    assert_eq!(models.billed(PROFILE), base);
    assert_eq!(models.billed("anthropic.claude-v2"), "anthropic.claude-v2");
}

// Lists

#[test]
fn models_are_listed_once_the_newest_first_after_the_aliases() {
    let big = Alias { base_model: Some("us.anthropic.claude-opus-4-8".into()), ..alias(PROFILE) };
    let models = Given::aliases(vec![
        ("zeta", alias("meta.llama4")),
        ("big", big),
        ("claude-opus-5-5", alias("eu.anthropic.claude-opus-5")),
    ])
    .at("us-east-1");

    let list = models.list();

    let ids: Vec<&str> = list.iter().map(|listed| listed.id.as_str()).collect();
    assert_eq!(ids[..3], ["big", "claude-opus-5-5", "zeta"]);
    assert_eq!(ids[3..6], ["claude-mythos-5-2", "claude-fable-5-2", "claude-haiku-5-5"]);
    assert_eq!(ids.len(), 2 + SHIPPED.len(), "an alias takes the place of the name it hides");
    assert!(list[3..].is_sorted_by(|one, other| one.created_at >= other.created_at));
    assert_eq!(
        list[0],
        Listed {
            id: "big".into(),
            display_name: "big".into(),
            created_at: EPOCH.into(),
            lifecycle: "active".into(),
            max_input_tokens: Some(1_000_000),
            max_tokens: Some(128_000),
        }
    );
    assert_eq!((list[2].max_input_tokens, list[2].max_tokens), (None, None));
    for listed in list {
        assert_eq!(models.find(&listed.id).as_ref(), Some(listed));
        assert!(models.resolve(&listed.id).is_ok());
        assert!(chrono::DateTime::parse_from_rfc3339(&listed.created_at).is_ok());
    }
}

#[test]
fn a_model_is_found_by_any_of_its_names() {
    let models = at("us-east-1");
    for name in [
        "claude-sonnet-4-5-20250929",
        "claude-sonnet-4-5",
        "claude-sonnet-4-5[1m]",
        "anthropic/claude-sonnet-4-5",
    ] {
        assert_eq!(
            models.find(name),
            Some(Listed {
                id: "claude-sonnet-4-5-20250929".into(),
                display_name: "Claude Sonnet 4.5".into(),
                created_at: "2025-09-29T00:00:00Z".into(),
                lifecycle: "deprecated".into(),
                max_input_tokens: Some(200_000),
                max_tokens: Some(64_000),
            }),
            "{name}"
        );
    }
    for name in ["", "gpt-4o", "claude-opus-9", "anthropic.claude-v2", "claude-opus-5\n"] {
        assert_eq!(models.find(name), None, "{name}");
    }
}

// Unknown names

#[test]
fn an_unknown_name_is_told_with_the_nearest_known() {
    let models = Given::aliases(vec![("my-haiku", alias("meta.llama4"))]).at("us-east-1");
    let message = |name: &str| models.resolve(name).unwrap_err().to_string();

    insta::assert_snapshot!(message("claude-sonet-4-5"), @"there is no model `claude-sonet-4-5`; the nearest are claude-sonnet-4-5, claude-sonnet-5-5, claude-sonnet-4-6");
    insta::assert_snapshot!(message("claude-haiku"), @"there is no model `claude-haiku`; the nearest are claude-3-haiku, claude-haiku-5-5, claude-haiku-4-5");
    assert!(
        message("my-haku").starts_with("there is no model `my-haku`; the nearest are my-haiku, ")
    );
    insta::assert_snapshot!(message("antropic.claude-opus-5-5"), @"there is no model `antropic.claude-opus-5-5`; the nearest are anthropic.claude-opus-5-5, anthropic.claude-opus-4-8, anthropic.claude-opus-4-7");
    assert!(message("gpt-4o").starts_with("there is no model `gpt-4o`; the nearest are "));
}

#[test]
fn a_long_name_is_shortened_and_a_control_character_is_not_repeated() {
    let models = at("us-east-1");
    let long = "claude-opus-5-5".repeat(100_000);
    for (asked, shown) in [
        ("claude-opus-5-5\r\nx-evil: 1", "claude-opus-5-5\u{fffd}\u{fffd}x-evil: 1".to_owned()),
        ("\u{85}", "\u{fffd}".to_owned()),
        (&long, format!("{}…", long.get(..79).unwrap())),
        (&"é".repeat(100), format!("{}…", "é".repeat(79))),
        (&"x".repeat(80), "x".repeat(80)),
    ] {
        let unknown = models.resolve(asked).unwrap_err();

        assert_eq!(unknown.asked, shown);
        assert!(unknown.asked.chars().count() <= 80);
    }
    assert!(models.resolve(&format!("anthropic.{}", "x".repeat(2038))).is_ok());
    assert!(models.resolve(&format!("anthropic.{}", "x".repeat(2039))).is_err());
}

proptest! {
    #[test]
    fn no_name_panics_and_what_it_leads_to_is_an_id(
        name in "\\PC{0,30}|(bedrock/|anthropic/|us\\.|us-gov\\.)?(anthropic\\.|claude-|arn:)[a-z0-9.:/-]{0,24}(\\[1[mM]\\])?|claude-[a-z]{1,6}(-[0-9]{1,3}){1,3}|[\\x00-\\x7f]{0,12}",
        region in 0..REGIONS.len(),
    ) {
        let models = at(REGIONS[region]);

        let found = models.resolve(&name);

        prop_assert_eq!(models.find(&name).is_some(), found.as_ref().is_ok_and(|found| {
            !found.derived && !is_bedrock(undecorated(without_marker(&name).0))
        }));
        match found {
            Ok(found) => {
                prop_assert!(found.id.starts_with("arn:") || ModelId::parse_anywhere(&found.id).is_ok());
                prop_assert!(!found.base.is_empty());
                prop_assert_eq!(without_prefix(&found.base), foundation(&found.base));
            }
            Err(unknown) => prop_assert!(unknown.nearest.len() <= 3),
        }
    }
}
