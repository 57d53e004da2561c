//! What clients find out by themselves: the discovery document and the key set.

use serde_json::json;

use super::fault::Fault;
use super::keys::filler;
use super::request::Answer;
use super::world::{OTHER_ISSUER, World};

/// Keys in the set with the fault `many_keys`.
const MANY_KEYS: usize = 200;

/// `GET /.well-known/openid-configuration` (OpenID Connect Discovery, 3).
pub(super) fn document(world: &World) -> Answer {
    let (issuer, fault) = (world.issuer(), world.fault());
    let at = |path: &str| format!("{issuer}{path}");
    let told_issuer =
        if fault == Some(Fault::DiscoveryOtherIssuer) { OTHER_ISSUER } else { issuer };
    let token_endpoint = if fault == Some(Fault::DiscoveryPlainHttpEndpoint) {
        "http://169.254.169.254/token".to_owned()
    } else {
        at("/token")
    };
    let document = json!({
        "issuer": told_issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": token_endpoint,
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/jwks"),
        "revocation_endpoint": at("/revoke"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256"],
        "scopes_supported": ["openid", "email", "profile", "offline_access"],
        "claims_supported": [
            "iss", "sub", "aud", "azp", "iat", "exp", "auth_time", "nonce", "at_hash", "email",
            "email_verified", "name",
        ],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "authorization_response_iss_parameter_supported": true,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
    });
    Answer::json(200, &document)
}

/// `GET /jwks` (RFC 7517).
pub(super) fn key_set(world: &World) -> Answer {
    let keys = world.keys().public();
    let mut all = match world.fault() {
        Some(Fault::ManyKeys) => filler(MANY_KEYS - keys.len()),
        _ => Vec::new(),
    };
    all.extend(keys);
    Answer::json(200, &json!({ "keys": all }))
}
