//! ID tokens: the claims, the signature, and all that can be wrong with either.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::fault::Fault;
use super::keys::{Keys, hmac_sha256, random};
use super::person::Person;
use super::world::{Faults, OTHER_ISSUER, World};

/// Who is not us.
const OTHER_CLIENT: &str = "other-client";
/// How long an id_token is good for, and how far the faults of time are off.
const HOUR: TimeDelta = TimeDelta::hours(1);

/// What an id_token tells.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub(super) person: &'a Person,
    pub(super) scopes: &'a [String],
    /// Of the authorisation request; not repeated when a token is refreshed.
    pub(super) nonce: Option<&'a str>,
    pub(super) signed_in_at: DateTime<Utc>,
    pub(super) access_token: &'a str,
    pub(super) now: DateTime<Utc>,
    pub(super) faults: Faults,
}

impl Statement<'_> {
    /// The token, or none if that is the fault.
    pub(super) fn token(&self, world: &World) -> Option<String> {
        if self.faults.has(Fault::NoIdToken) {
            return None;
        }
        let mut claims = self.claims(world);
        for fault in self.faults.iter() {
            spoil(&mut claims, fault, self.now);
        }
        Some(signed(&world.keys(), world, claims, self.faults))
    }

    fn claims(&self, world: &World) -> Map<String, Value> {
        let client = &world.config().client_id;
        let mut claims = self.person.claims(self.scopes, self.faults);
        let registered = [
            ("iss", json!(world.issuer())),
            ("sub", self.person.sub(self.faults)),
            ("aud", json!(client)),
            ("azp", json!(client)),
            ("iat", json!(self.now.timestamp())),
            ("exp", json!((self.now + HOUR).timestamp())),
            ("auth_time", json!(self.signed_in_at.timestamp())),
            ("at_hash", json!(half_hash(self.access_token))),
        ];
        claims.extend(registered.map(|(name, value)| (name.to_owned(), value)));
        if let Some(nonce) = self.nonce {
            claims.insert("nonce".to_owned(), json!(nonce));
        }
        claims
    }
}

/// One claim wrong, the others as they should be.
fn spoil(claims: &mut Map<String, Value>, fault: Fault, now: DateTime<Utc>) {
    let mut set = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
    match fault {
        Fault::WrongIssuer => set("iss", json!(OTHER_ISSUER)),
        Fault::WrongAudience => set("aud", json!(OTHER_CLIENT)),
        Fault::WrongAzp => set("azp", json!(OTHER_CLIENT)),
        Fault::Expired => set("exp", json!((now - HOUR).timestamp())),
        Fault::IssuedInFuture => {
            set("iat", json!((now + HOUR).timestamp()));
            set("exp", json!((now + HOUR * 2).timestamp())); // after `iat`, as in any token
        }
        Fault::WrongNonce => set("nonce", json!(random(16))),
        Fault::ExtraAudience => {
            let ours = claims.get("aud").cloned();
            claims.insert("aud".to_owned(), json!([ours, OTHER_CLIENT]));
            claims.remove("azp");
        }
        Fault::NoExp => drop(claims.remove("exp")),
        Fault::NoIat => drop(claims.remove("iat")),
        Fault::NoSub => drop(claims.remove("sub")),
        Fault::NoNonce => drop(claims.remove("nonce")),
        _ => {}
    }
}

/// The three parts, signed as the faults will have it.
fn signed(keys: &Keys, world: &World, mut claims: Map<String, Value>, faults: Faults) -> String {
    let algorithm = world.config().signing;
    let kid = keys.kid(algorithm);
    let headed = |header: Value, claims: &Map<String, Value>| {
        let claims = serde_json::to_vec(claims).unwrap_or_default();
        format!("{}.{}", encoded(header.to_string()), encoded(claims))
    };
    let signing = faults.iter().find(|fault| signs(*fault));
    let header = match signing {
        Some(Fault::AlgNone) => json!({"alg": "none", "typ": "JWT"}),
        Some(Fault::Hs256WithClientSecret) => json!({"alg": "HS256", "typ": "JWT"}),
        Some(Fault::Hs256WithPublicKey) => json!({"alg": "HS256", "typ": "JWT", "kid": kid}),
        Some(Fault::UnknownKid) => {
            json!({"alg": algorithm.name(), "typ": "JWT", "kid": random(16)})
        }
        _ => json!({"alg": algorithm.name(), "typ": "JWT", "kid": kid}),
    };
    let message = headed(header.clone(), &claims);
    let bytes = message.as_bytes();
    let signature = match signing {
        Some(Fault::AlgNone) => Vec::new(),
        Some(Fault::Hs256WithClientSecret) => {
            hmac_sha256(world.config().client_secret.as_bytes(), bytes)
        }
        Some(Fault::Hs256WithPublicKey) => hmac_sha256(keys.pem(algorithm).as_bytes(), bytes),
        Some(Fault::ForeignKey) => Keys::foreign().sign(algorithm, bytes),
        _ => keys.sign(algorithm, bytes),
    };
    let message = if signing == Some(Fault::TamperedPayload) {
        // Not `sub`: a client could then refuse the token for its disagreement with userinfo.
        claims.insert("name".to_owned(), json!("Tampered Name"));
        headed(header, &claims)
    } else {
        message
    };
    format!("{message}.{}", encoded(signature))
}

/// Faults of the header or the signature.
fn signs(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::AlgNone
            | Fault::Hs256WithClientSecret
            | Fault::Hs256WithPublicKey
            | Fault::UnknownKid
            | Fault::ForeignKey
            | Fault::TamperedPayload
    )
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// `at_hash`: the left half of the access token's digest (OpenID Connect Core, 3.1.3.6).
fn half_hash(access_token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, access_token.as_bytes());
    encoded(digest.as_ref().get(..16).unwrap_or_default())
}
