//! The secrets of one instance: what signs and verifies tokens, and the peppers of API keys. Each purpose has its
//! own key (SEC-19); what is not given is derived from `jwt.secret` by HKDF-SHA256, one label a purpose.

use aws_lc_rs::{hkdf, hmac};
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};

use super::{api_key::ApiKeyText, sha256};
use crate::{
    db::Timestamp,
    settings::{self, Problem, Problems},
};

const PEPPER_LABEL: &[u8] = b"bedrock-sso-proxy/api-key-pepper/1";

/// Everything that checks credentials.
pub struct Keys {
    pub jwt: JwtKeys,
    /// The current pepper, then previous ones, each with its id.
    peppers: Vec<(String, hmac::Key)>,
    pub(super) api_keys_enabled: bool,
}

/// Secrets of access tokens: one signs, all verify.
pub struct JwtKeys {
    pub issuer: String,
    pub audience: String,
    /// Seconds.
    pub ttl: u32,
    pub(super) signing_id: String,
    pub(super) signing: EncodingKey,
    pub(super) verifying: Vec<VerifyingKey>,
}

pub(super) struct VerifyingKey {
    pub id: String,
    pub key: DecodingKey,
    /// The secret's end date; `None` for the current one.
    pub until: Option<Timestamp>,
}

impl Keys {
    /// # Errors
    /// That `jwt.secret` is missing.
    pub fn new(settings: &settings::Settings) -> Result<Self, Problems> {
        let jwt = &settings.jwt;
        let secret = jwt
            .secret
            .as_ref()
            .ok_or_else(|| Problems(vec![Problem::new("jwt.secret", "is required")]))?;
        let mut verifying = vec![VerifyingKey {
            id: jwt.secret_id.clone().unwrap_or_else(|| id_of(b"kid", secret)),
            key: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
            until: None,
        }];
        verifying.extend(jwt.previous_secrets.iter().map(|previous| VerifyingKey {
            id: previous.id.clone(),
            key: DecodingKey::from_secret(previous.secret.expose_secret().as_bytes()),
            until: Some(previous.until.naive_utc()),
        }));
        let derived = |secret: &SecretString| derive(secret, PEPPER_LABEL);
        let given = &settings.secrets;
        let mut peppers = vec![match &given.api_key_pepper {
            Some(pepper) => pepper.clone(),
            None => derived(secret),
        }];
        peppers.extend(given.previous_api_key_peppers.iter().cloned());
        // Keys made while the pepper was derived stay good after one is set, and after jwt.secret changes.
        peppers.extend(given.api_key_pepper.is_some().then(|| derived(secret)));
        peppers.extend(jwt.previous_secrets.iter().map(|previous| derived(&previous.secret)));
        Ok(Self {
            jwt: JwtKeys {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
                ttl: jwt.access_token_ttl,
                signing_id: jwt.secret_id.clone().unwrap_or_else(|| id_of(b"kid", secret)),
                signing: EncodingKey::from_secret(secret.expose_secret().as_bytes()),
                verifying,
            },
            peppers: peppers
                .iter()
                .map(|pepper| {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose_secret().as_bytes());
                    (id_of(b"pepper", pepper), key)
                })
                .collect(),
            api_keys_enabled: settings.api_keys.enabled,
        })
    }

    /// The key's digest under each pepper, with the pepper's id; the current one first.
    pub fn digests(&self, key: &ApiKeyText) -> Vec<(String, Vec<u8>)> {
        self.peppers
            .iter()
            .map(|(id, pepper)| {
                (id.clone(), hmac::sign(pepper, key.as_str().as_bytes()).as_ref().to_vec())
            })
            .collect()
    }
}

/// Names a secret without giving anything of it away: the start of a hash over a label and the secret.
fn id_of(label: &[u8], secret: &SecretString) -> String {
    let hash = sha256(&[label, b"\0", secret.expose_secret().as_bytes()].concat());
    hex::encode(hash.get(..6).unwrap_or_default())
}

fn derive(secret: &SecretString, label: &[u8]) -> SecretString {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bedrock-sso-proxy");
    let key = salt.extract(secret.expose_secret().as_bytes());
    let info = [label];
    let mut out = [0; 32];
    key.expand(&info, hkdf::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut out))
        .expect("32 bytes are within the limit of HKDF");
    hex::encode(out).into()
}
