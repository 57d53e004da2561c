//! Model ids: which family answers for an id, and which ids do not exist.

/// Geographic prefixes of inference profiles.
const GEOGRAPHIES: &[&str] = &["us", "eu", "apac", "jp", "au", "global", "us-gov"];
/// Claude models, and the geographies in which there is an inference profile of each (protocol §5).
const PROFILES: &[(&str, &str)] = &[
    ("claude-3-haiku-20240307-v1:0", "us apac"),
    ("claude-3-sonnet-20240229-v1:0", "us"),
    ("claude-3-opus-20240229-v1:0", "us eu"),
    ("claude-3-5-sonnet-20240620-v1:0", "us eu"),
    ("claude-3-5-sonnet-20241022-v2:0", "us eu"),
    ("claude-3-5-haiku-20241022-v1:0", "us eu"),
    ("claude-3-7-sonnet-20250219-v1:0", "us eu apac"),
    ("claude-sonnet-4-20250514-v1:0", "us eu apac global"),
    ("claude-opus-4-20250514-v1:0", "us"),
    ("claude-opus-4-1-20250805-v1:0", "us"),
    ("claude-sonnet-4-5-20250929-v1:0", "us eu jp au global us-gov"),
    ("claude-haiku-4-5-20251001-v1:0", "us eu apac jp au global"),
    ("claude-opus-4-5-20251101-v1:0", "us eu global"),
    ("claude-opus-4-6-v1", "us eu apac jp au global"),
    ("claude-sonnet-4-6", "us eu apac jp au global"),
    ("claude-opus-4-7", "us eu apac jp au global"),
    ("claude-opus-4-8", "us eu apac jp au global us-gov"),
    ("claude-mythos-preview", "us apac au"),
    ("claude-sonnet-5", "us eu apac jp au global us-gov"),
    ("claude-opus-5", "us eu apac jp au global us-gov"),
    ("claude-fable-5", "us eu apac au global"),
    ("claude-mythos-5", "us"),
    ("claude-fable-5-1", "us eu global us-gov"),
    ("claude-mythos-5-1", "us global"),
    ("claude-opus-5-5", "us eu apac jp au global us-gov"),
    ("claude-sonnet-5-5", "us eu apac jp au global us-gov"),
    ("claude-haiku-5-5", "us eu apac jp au global us-gov"),
    ("claude-fable-5-2", ""),
    ("claude-mythos-5-2", ""),
];

/// How a model's InvokeModel bodies look, and where they say what was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Claude,
    Nova,
    TitanText,
    TitanEmbed,
    Llama,
    /// Mistral with a `prompt`: `outputs[]`, no usage in the body.
    MistralPrompt,
    CohereCommand,
    CohereEmbed,
    /// DeepSeek R1: `choices[].text`, no usage in the body.
    DeepSeekR1,
    /// Chat completions as OpenAI shaped them: Jamba, DeepSeek V3, gpt-oss, Qwen, Mistral chat.
    Chat,
}

impl Family {
    /// Whether it only makes vectors.
    pub(super) fn embeds(self) -> bool {
        matches!(self, Self::TitanEmbed | Self::CohereEmbed)
    }
}

/// A model id, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) family: Family,
    /// The provider's id without geography: `anthropic.claude-…`; the whole id if opaque.
    pub(super) bare: String,
    /// Geography of an inference profile.
    pub(super) geography: Option<String>,
    /// Region of an ARN.
    pub(super) region: Option<String>,
}

impl Model {
    /// The model named by a decoded id, or `None` if there is no such thing.
    pub(super) fn of(id: &str) -> Option<Self> {
        let Some(arn) = id.strip_prefix("arn:") else { return Self::of_plain(id, None) };
        let mut fields = arn.splitn(5, ':');
        let (partition, service) = (fields.next()?, fields.next()?);
        let (region, _account, resource) = (fields.next()?, fields.next()?, fields.next()?);
        if !matches!(partition, "aws" | "aws-us-gov" | "aws-cn") || service != "bedrock" {
            return None;
        }
        let (kind, name) = resource.split_once('/')?;
        let region = Some(region.to_owned());
        match kind {
            "foundation-model" | "inference-profile" => Self::of_plain(name, region),
            "application-inference-profile"
            | "provisioned-model"
            | "custom-model-deployment"
            | "prompt-router"
            | "default-prompt-router"
                if !name.is_empty() =>
            {
                let bare = id.to_owned();
                Some(Self { family: Family::Claude, bare, geography: None, region })
            }
            _ => None,
        }
    }

    fn of_plain(id: &str, region: Option<String>) -> Option<Self> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
        let (geography, bare) = match id.split_once('.') {
            Some((prefix, rest)) if GEOGRAPHIES.contains(&prefix) => (Some(prefix), rest),
            _ => (None, id),
        };
        let (provider, name) = bare.split_once('.')?;
        if name.is_empty() || !name.chars().all(valid) {
            return None;
        }
        let family = match provider {
            "anthropic" => Family::Claude,
            "amazon" if name.starts_with("titan-embed") => Family::TitanEmbed,
            "amazon" if name.starts_with("titan") => Family::TitanText,
            "amazon" if name.contains("embed") => Family::CohereEmbed, // Nova: header only as well
            "amazon" => Family::Nova,
            "meta" => Family::Llama,
            "mistral" => Family::MistralPrompt,
            "cohere" if name.starts_with("command") => Family::CohereCommand,
            "cohere" => Family::CohereEmbed,
            "deepseek" if name.starts_with("r1") => Family::DeepSeekR1,
            "ai21" | "deepseek" | "openai" | "qwen" => Family::Chat,
            _ => return None,
        };
        let missing = |geography| profiles(bare).is_some_and(|known| !lists(known, geography));
        if geography.is_some_and(missing) {
            return None;
        }
        let geography = geography.map(str::to_owned);
        Some(Self { family, bare: bare.to_owned(), geography, region })
    }

    /// The name the provider gives it in replies: `claude-3-haiku-20240307`.
    pub(super) fn provider_name(&self) -> &str {
        let name = self.bare.rsplit_once('/').map_or(self.bare.as_str(), |(_, last)| last);
        let name = name.split_once('.').map_or(name, |(_, rest)| rest);
        let name = name.split_once(':').map_or(name, |(before, _)| before);
        ["-v1", "-v2"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
    }

    /// Major and minor version of a Claude; `None` if the id does not tell.
    pub(super) fn version(&self) -> Option<(u16, u16)> {
        let name = self.bare.strip_prefix("anthropic.claude")?;
        if name == "-mythos-preview" {
            return Some((4, 9)); // it came between 4.8 and 5
        }
        // A date is a number as well, but none that fits.
        let mut parts = name.split('-').map(|part| part.parse::<u16>().ok());
        match parts.find_map(|part| part) {
            Some(major) => Some((major, parts.next().flatten().unwrap_or(0))),
            None => name.contains("-v").then_some((2, 0)), // `claude-v2`, `claude-instant-v1`
        }
    }

    /// Whether it answers through an inference profile only, and the id names none.
    pub(super) fn lacks_profile(&self) -> bool {
        let has_some = profiles(&self.bare).is_some_and(|known| !known.is_empty());
        self.geography.is_none() && has_some && self.version().is_some_and(|it| it >= (4, 0))
    }
}

/// The geographies of a model; `None` if nothing is known about it.
fn profiles(bare: &str) -> Option<&'static str> {
    let name = bare.strip_prefix("anthropic.")?;
    PROFILES.iter().find(|(known, _)| *known == name).map(|(_, geographies)| *geographies)
}

fn lists(geographies: &str, geography: &str) -> bool {
    geographies.split(' ').any(|known| known == geography)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(id: &str) -> Option<Family> {
        Model::of(id).map(|model| model.family)
    }

    #[test]
    fn ids_profiles_and_arns_find_their_family() {
        assert_eq!(family("anthropic.claude-3-haiku-20240307-v1:0"), Some(Family::Claude));
        assert_eq!(family("us-gov.anthropic.claude-opus-5"), Some(Family::Claude));
        assert_eq!(family("global.amazon.nova-2-lite-v1:0"), Some(Family::Nova));
        assert_eq!(family("amazon.titan-embed-text-v2:0"), Some(Family::TitanEmbed));
        assert_eq!(family("deepseek.v3-v1:0"), Some(Family::Chat));
        assert_eq!(family("us.deepseek.r1-v1:0"), Some(Family::DeepSeekR1));
        let profile = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.meta.llama3";
        assert_eq!(family(profile), Some(Family::Llama));
        let opaque = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcd";
        assert_eq!(family(opaque), Some(Family::Claude));
        for wrong in
            ["gpt-4", "claude-3", "xx.anthropic.claude", "anthropic.", "", "arn:aws:s3:::a"]
        {
            assert_eq!(family(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn replies_carry_the_providers_name() {
        let name = |id| Model::of(id).map(|model| model.provider_name().to_owned()).unwrap();
        assert_eq!(name("us.anthropic.claude-3-haiku-20240307-v1:0"), "claude-3-haiku-20240307");
        assert_eq!(name("anthropic.claude-opus-4-6-v1"), "claude-opus-4-6");
    }

    #[test]
    fn versions_are_read_from_names() {
        for (id, version) in [
            ("anthropic.claude-v2:1", Some((2, 0))),
            ("anthropic.claude-3-haiku-20240307-v1:0", Some((3, 0))),
            ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", Some((3, 5))),
            ("anthropic.claude-opus-4-20250514-v1:0", Some((4, 0))),
            ("anthropic.claude-opus-4-5-20251101-v1:0", Some((4, 5))),
            ("anthropic.claude-opus-4-6-v1", Some((4, 6))),
            ("anthropic.claude-mythos-preview", Some((4, 9))),
            ("global.anthropic.claude-sonnet-5-5", Some((5, 5))),
            ("anthropic.claude-next", None),
            ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/claude-3", None),
        ] {
            assert_eq!(Model::of(id).unwrap().version(), version, "{id}");
        }
    }

    #[test]
    fn profiles_are_those_which_exist() {
        for (id, exists) in [
            ("us.anthropic.claude-opus-4-1-20250805-v1:0", true),
            ("jp.anthropic.claude-opus-4-1-20250805-v1:0", false),
            ("us-gov.anthropic.claude-sonnet-4-6", false),
            ("us.anthropic.claude-fable-5-2", false),
            ("jp.anthropic.claude-of-tomorrow-9", true),
        ] {
            let arn = format!("arn:aws:bedrock:us-east-1:123456789012:inference-profile/{id}");
            assert_eq!(Model::of(id).is_some(), exists, "{id}");
            assert_eq!(Model::of(&arn).is_some(), exists, "{arn}");
        }
        for (id, lacks) in [
            ("anthropic.claude-3-7-sonnet-20250219-v1:0", false),
            ("anthropic.claude-sonnet-4-20250514-v1:0", true),
            ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-opus-4-8", true),
            ("us.anthropic.claude-opus-4-8", false),
            ("anthropic.claude-fable-5-2", false),
            ("anthropic.claude-of-tomorrow-9", false),
        ] {
            assert_eq!(Model::of(id).unwrap().lacks_profile(), lacks, "{id}");
        }
    }
}
