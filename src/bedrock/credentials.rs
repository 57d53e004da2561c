//! What calls to AWS are authorised with: explicit settings, or whatever the standard chain of aws-config finds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use aws_config::{BehaviorVersion, Region, meta::region::ProvideRegion};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use secrecy::{ExposeSecret, SecretString};

use super::sign::AccessKeys;
use crate::settings::Aws;

/// Temporary keys are renewed this long before they end.
pub const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// How a request is authorised. Never logged, shown or cached elsewhere (SEC-69).
#[derive(Debug, Clone)]
pub enum Authorization {
    Keys {
        keys: AccessKeys,
        expires: Option<SystemTime>,
    },
    /// A Bedrock API key, in place of a signature.
    Bearer(SecretString),
}

impl Authorization {
    pub fn holds_at(&self, now: SystemTime) -> bool {
        match self {
            Self::Keys { expires, .. } => expires.is_none_or(|end| now < end),
            Self::Bearer(_) => true,
        }
    }

    /// When to look for new ones; `None` = these do not end.
    pub fn renew_at(&self) -> Option<SystemTime> {
        match self {
            Self::Keys { expires, .. } => expires.map(|end| end - RENEW_BEFORE),
            Self::Bearer(_) => None,
        }
    }
}

/// The current authorisation, read by every worker without waiting; written by one actor.
pub type Current = Arc<ArcSwapOption<Authorization>>;

/// Where authorisations come from.
#[derive(Debug, Clone)]
pub enum Source {
    Fixed(Authorization),
    Chain { profile: Option<String>, region: Option<String> },
}

#[derive(Debug, thiserror::Error)]
#[error("no AWS credentials could be obtained")]
pub struct CredentialsError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl Source {
    pub fn new(settings: &Aws) -> Self {
        let explicit = settings.access_key_id.as_ref().zip(settings.secret_access_key.as_ref());
        if let Some(token) = &settings.bearer_token {
            Self::Fixed(Authorization::Bearer(token.clone()))
        } else if let Some((id, secret)) = explicit {
            let keys = AccessKeys {
                access_key_id: id.expose_secret().to_owned(),
                secret_access_key: secret.clone(),
                session_token: settings.session_token.clone(),
            };
            Self::Fixed(Authorization::Keys { keys, expires: None })
        } else {
            Self::Chain { profile: settings.profile.clone(), region: settings.region.clone() }
        }
    }

    /// The provider of the standard chain; `None` if the authorisation is fixed. It is not cached: each use asks.
    pub async fn provider(&self) -> Option<SharedCredentialsProvider> {
        match self {
            Self::Fixed(_) => None,
            Self::Chain { profile, region } => {
                let mut loader = aws_config::defaults(BehaviorVersion::latest());
                if let Some(profile) = profile {
                    loader = loader.profile_name(profile);
                }
                // Else the chain would ask the machine's metadata service for a region too.
                if let Some(region) = region {
                    loader = loader.region(Region::new(region.clone()));
                }
                loader.load().await.credentials_provider()
            }
        }
    }
}

/// Asks the chain once.
///
/// # Errors
/// [`CredentialsError`] with what each link of the chain said.
pub async fn obtain(
    provider: &SharedCredentialsProvider,
) -> Result<Authorization, CredentialsError> {
    let found =
        provider.provide_credentials().await.map_err(|error| CredentialsError(error.into()))?;
    let keys = AccessKeys {
        access_key_id: found.access_key_id().to_owned(),
        secret_access_key: found.secret_access_key().into(),
        session_token: found.session_token().map(SecretString::from),
    };
    Ok(Authorization::Keys { keys, expires: found.expiry() })
}

/// `aws.region`, else `AWS_REGION`, else the profile's, else us-east-1. Reads files and the environment only.
pub async fn region(settings: &Aws) -> String {
    if let Some(region) = &settings.region {
        return region.clone();
    }
    let environment = aws_config::environment::region::EnvironmentVariableRegionProvider::new();
    if let Some(region) = environment.region().await {
        return region.to_string();
    }
    let mut profile = aws_config::profile::region::Builder::default();
    if let Some(name) = &settings.profile {
        profile = profile.profile_name(name);
    }
    let region = profile.build().region().await;
    region.map_or_else(|| "us-east-1".to_owned(), |region| region.to_string())
}
