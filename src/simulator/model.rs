//! Model ids: which family answers for an id, and which ids do not exist.

/// Geographic prefixes of inference profiles.
const GEOGRAPHIES: &[&str] = &["us", "eu", "apac", "jp", "au", "global", "us-gov"];

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
                Some(Self { family: Family::Claude, bare: id.to_owned(), region })
            }
            _ => None,
        }
    }

    fn of_plain(id: &str, region: Option<String>) -> Option<Self> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
        let bare = match id.split_once('.') {
            Some((prefix, rest)) if GEOGRAPHIES.contains(&prefix) => rest,
            _ => id,
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
        Some(Self { family, bare: bare.to_owned(), region })
    }

    /// The name the provider gives it in replies: `claude-3-haiku-20240307`.
    pub(super) fn provider_name(&self) -> &str {
        let name = self.bare.rsplit_once('/').map_or(self.bare.as_str(), |(_, last)| last);
        let name = name.split_once('.').map_or(name, |(_, rest)| rest);
        let name = name.split_once(':').map_or(name, |(before, _)| before);
        ["-v1", "-v2"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
    }

    /// Claude up to 4.6, which does not know the API version of October 2026.
    pub(super) fn is_before_4_7(&self) -> bool {
        self.family == Family::Claude
            && self.bare.contains("claude")
            && (self.bare.contains("-v1") || self.bare.contains("-v2") || self.bare.contains("4-6"))
    }
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
}
