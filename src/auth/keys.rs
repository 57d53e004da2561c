//! The secrets of one instance: what signs and verifies tokens, the peppers of API keys, what digests sessions and codes,
//! and what seals. Each purpose has its own key (SEC-19); what is not given is derived from `jwt.secret` by HKDF-SHA256,
//! one label a purpose.

use aws_lc_rs::{hkdf, hmac};
use chrono::TimeDelta;
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};

use super::{api_key::ApiKeyText, constant_time_eq, seal::Sealer, sha256};
use crate::{
    db::Timestamp,
    settings::{self, Problem, Problems},
};

const PEPPER: &[u8] = b"bedrock-sso-proxy/api-key-pepper/1";
const SESSION: &[u8] = b"bedrock-sso-proxy/session/1";
const CSRF: &[u8] = b"bedrock-sso-proxy/csrf/1";
const REFRESH: &[u8] = b"bedrock-sso-proxy/refresh-token/1";
const CODE: &[u8] = b"bedrock-sso-proxy/one-time-code/1";
const PENDING: &[u8] = b"bedrock-sso-proxy/pending-sign-in/1";
const CACHE: &[u8] = b"bedrock-sso-proxy/cache/1";
const PROVIDER_TOKEN: &[u8] = b"bedrock-sso-proxy/provider-token/1";

/// Everything that checks credentials.
pub struct Keys {
    pub jwt: JwtKeys,
    /// The current pepper, then previous ones, each with its id.
    peppers: Vec<(String, hmac::Key)>,
    pub api_keys_enabled: bool,
    /// Cookies of browsers.
    pub sessions: Digester,
    pub csrf: Digester,
    pub refresh: Digester,
    pub codes: Digester,
    /// Sign-ins under way.
    pub pending: Sealer,
    /// Identity providers' refresh tokens.
    pub provider_tokens: Sealer,
    sealing_ids: Vec<String>,
    /// What seals cached values, the current one first.
    pub cache: Vec<[u8; 32]>,
    /// How long a browser's session may lie unused.
    pub session_idle: TimeDelta,
}

/// HMAC-SHA-256 under the current key of one purpose, and under those before it.
pub struct Digester(Vec<hmac::Key>);

impl Digester {
    fn new(label: &[u8], secrets: &[&SecretString]) -> Self {
        let key =
            |secret: &&SecretString| hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, label));
        Self(secrets.iter().map(key).collect())
    }

    /// The text's digest under the current key.
    pub fn digest(&self, text: &str) -> Vec<u8> {
        self.all(text).next().unwrap_or_default()
    }

    /// Its digest under each key, the current one first.
    pub fn digests(&self, text: &str) -> Vec<Vec<u8>> {
        self.all(text).collect()
    }

    /// Whether `digest` is the text's under any of the keys, in constant time.
    pub fn matches(&self, text: &str, digest: &[u8]) -> bool {
        self.all(text).fold(false, |found, own| found | constant_time_eq(&own, digest))
    }

    fn all<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
        self.0.iter().map(|key| hmac::sign(key, text.as_bytes()).as_ref().to_vec())
    }
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
            id: key_id(jwt.secret_id.as_ref(), secret),
            key: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
            until: None,
        }];
        verifying.extend(jwt.previous_secrets.iter().map(|previous| VerifyingKey {
            id: key_id(previous.id.as_ref(), &previous.secret),
            key: DecodingKey::from_secret(previous.secret.expose_secret().as_bytes()),
            until: Some(previous.until.naive_utc()),
        }));
        let derived =
            |secret: &SecretString| SecretString::from(hex::encode(derive(secret, PEPPER)));
        let given = &settings.secrets;
        let mut peppers = vec![match &given.api_key_pepper {
            Some(pepper) => pepper.clone(),
            None => derived(secret),
        }];
        peppers.extend(given.previous_api_key_peppers.iter().cloned());
        // Keys made while the pepper was derived stay good after one is set, and after jwt.secret changes.
        peppers.extend(given.api_key_pepper.is_some().then(|| derived(secret)));
        peppers.extend(jwt.previous_secrets.iter().map(|previous| derived(&previous.secret)));
        let all: Vec<&SecretString> =
            std::iter::once(secret).chain(jwt.previous_secrets.iter().map(|p| &p.secret)).collect();
        // What was sealed before there was a key of its own is still opened.
        let sealing: Vec<&SecretString> = given
            .encryption_key
            .iter()
            .chain(&given.previous_encryption_keys)
            .chain(all.iter().copied())
            .collect();
        let sealer = |label: &[u8]| Sealer::new(sealing.iter().map(|secret| derive(secret, label)));
        Ok(Self {
            sessions: Digester::new(SESSION, &all),
            csrf: Digester::new(CSRF, &all),
            refresh: Digester::new(REFRESH, &all),
            codes: Digester::new(CODE, &all),
            sealing_ids: sealing.iter().map(|secret| id_of(b"sealing", secret)).collect(),
            cache: all.iter().map(|secret| derive(secret, CACHE)).collect(),
            pending: sealer(PENDING),
            provider_tokens: sealer(PROVIDER_TOKEN),
            session_idle: TimeDelta::seconds(i64::from(settings.auth.session_idle_seconds)),
            jwt: JwtKeys {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
                ttl: jwt.access_token_ttl,
                signing_id: key_id(jwt.secret_id.as_ref(), secret),
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

    /// The names of the secrets in use, which give nothing of them away: what signs, the current pepper, and what
    /// seals.
    pub fn ids(&self) -> [(&'static str, &str); 3] {
        let pepper = self.peppers.first().map_or("", |(id, _)| id.as_str());
        [
            ("jwt.secret", &self.jwt.signing_id),
            ("secrets.api_key_pepper", pepper),
            ("secrets.encryption_key", self.sealing_ids.first().map_or("", String::as_str)),
        ]
    }

    /// Whether a secret that [`Self::ids`] named once still counts, as the current one or as one before it.
    pub fn knows(&self, setting: &str, id: &str) -> bool {
        match setting {
            "jwt.secret" => self.jwt.verifying.iter().any(|key| key.id == id),
            "secrets.api_key_pepper" => self.peppers.iter().any(|(known, _)| known == id),
            _ => self.sealing_ids.iter().any(|known| known == id),
        }
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

/// The `kid` of tokens that a secret signs.
fn key_id(given: Option<&String>, secret: &SecretString) -> String {
    given.cloned().unwrap_or_else(|| id_of(b"kid", secret))
}

/// Names a secret without giving anything of it away: the start of a hash over a label and the secret.
fn id_of(label: &[u8], secret: &SecretString) -> String {
    let hash = sha256(&[label, b"\0", secret.expose_secret().as_bytes()].concat());
    hex::encode(hash.get(..6).unwrap_or_default())
}

fn derive(secret: &SecretString, label: &[u8]) -> [u8; 32] {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bedrock-sso-proxy");
    let key = salt.extract(secret.expose_secret().as_bytes());
    let info = [label];
    let mut out = [0; 32];
    key.expand(&info, hkdf::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut out))
        .expect("32 bytes are within the limit of HKDF");
    out
}
