//! Identity providers as the settings give them; `auth::providers` knows what each kind means.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    #[serde(deserialize_with = "super::open_map")]
    pub providers: BTreeMap<String, Provider>,
}

impl OAuth {
    /// Those that are on, with their names.
    pub fn enabled(&self) -> impl Iterator<Item = (&String, &Provider)> {
        self.providers.iter().filter(|(_, provider)| provider.enabled)
    }
}

/// One identity provider. What is not set comes from its kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// `None` = by the provider's name, else custom.
    pub kind: Option<Kind>,
    pub client_id: String,
    pub client_secret: Option<SecretString>,
    pub display_name: Option<String>,
    #[serde(default, deserialize_with = "words")]
    pub scopes: Option<Vec<String>>,
    pub issuer: Option<String>,
    pub authorization_url: Option<String>,
    pub token_url: Option<String>,
    pub user_info_url: Option<String>,
    pub user_id_field: Option<String>,
    pub email_field: Option<String>,
    pub tenant_id: Option<String>,
    #[serde(default, deserialize_with = "words")]
    pub allowed_tenants: Option<Vec<String>>,
    pub instance_url: Option<String>,
    pub domain: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    pub email_trusted: bool,
    #[serde(default = "yes", deserialize_with = "flag")]
    pub pkce: bool,
    #[serde(default = "yes", deserialize_with = "flag")]
    pub enabled: bool,
}

impl Provider {
    /// The kind that is written, or that the name says.
    pub fn kind(&self, name: &str) -> Kind {
        self.kind.unwrap_or(match name {
            "google" => Kind::Google,
            "github" => Kind::Github,
            "microsoft" => Kind::Microsoft,
            "gitlab" => Kind::Gitlab,
            "auth0" => Kind::Auth0,
            "okta" => Kind::Okta,
            _ => Kind::Custom,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Google,
    Github,
    Microsoft,
    Gitlab,
    Auth0,
    Okta,
    Custom,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Github => "github",
            Self::Microsoft => "microsoft",
            Self::Gitlab => "gitlab",
            Self::Auth0 => "auth0",
            Self::Okta => "okta",
            Self::Custom => "custom",
        }
    }
}

fn yes() -> bool {
    true
}

/// A variable gives text where a file gives a truth value.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "true or false")]
    enum Written {
        Flag(bool),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Flag(flag) => Ok(flag),
        Written::Text(text) => match text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(de::Error::custom("true or false")),
        },
    }
}

/// A list, or one text with commas or spaces.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of words")]
    enum Written {
        None,
        Text(String),
        List(Vec<String>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::None => None,
        Written::List(list) => Some(list),
        Written::Text(text) => {
            let words = text.split([',', ' ']).map(str::trim);
            Some(words.filter(|word| !word.is_empty()).map(str::to_owned).collect())
        }
    })
}
