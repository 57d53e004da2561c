//! Faults: what can be wrong with a provider, for one sign-in or for all it does.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

macro_rules! faults {
    ($($place:ident $kind:ident $name:literal $what:literal,)*) => {
        /// What can be wrong with a provider.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault { $(#[doc = $what] $kind,)* }

        /// Every fault: its name, and what it does.
        pub const FAULTS: &[(&str, &str)] = &[$(($name, $what),)*];

        impl Fault {
            /// Every fault, in the order of [`FAULTS`].
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name in forms and ledgers.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            fn place(self) -> Place {
                match self { $(Self::$kind => Place::$place,)* }
            }
        }

        impl FromStr for Fault {
            type Err = UnknownFault;

            fn from_str(name: &str) -> Result<Self, UnknownFault> {
                match name { $($name => Ok(Self::$kind),)* _ => Err(UnknownFault) }
            }
        }
    };
}

faults! {
    IdToken WrongIssuer "wrong_issuer" "The id_token's `iss` is another provider.",
    IdToken WrongAudience "wrong_audience" "The id_token's `aud` is another client.",
    IdToken ExtraAudience "extra_audience" "The id_token's `aud` is this client and another, without `azp`.",
    IdToken WrongAzp "wrong_azp" "The id_token's `azp` is another client.",
    IdToken Expired "expired" "The id_token's `exp` was an hour ago.",
    IdToken IssuedInFuture "issued_in_future" "The id_token's `iat` is in an hour.",
    IdToken NoExp "no_exp" "The id_token has no `exp`.",
    IdToken NoIat "no_iat" "The id_token has no `iat`.",
    IdToken NoSub "no_sub" "The id_token has no `sub`.",
    IdToken WrongNonce "wrong_nonce" "The id_token's `nonce` is that of another sign-in.",
    IdToken NoNonce "no_nonce" "The id_token has no `nonce`.",
    IdToken AlgNone "alg_none" "The id_token is not signed: `alg` is `none`.",
    IdToken Hs256WithClientSecret "hs256_with_client_secret" "The id_token is signed with the client's secret.",
    IdToken Hs256WithPublicKey "hs256_with_public_key" "The id_token is signed with the public key's PEM as a shared secret.",
    IdToken UnknownKid "unknown_kid" "The id_token names a key which is not in the key set.",
    IdToken ForeignKey "foreign_key" "The id_token is signed by a stranger's key, under the name of ours.",
    IdToken TamperedPayload "tampered_payload" "The id_token's `name` was changed after signing.",
    IdToken NoIdToken "no_id_token" "There is no id_token.",
    IdToken EmptySubject "empty_subject" "`sub` is empty, in the id_token and in userinfo.",
    IdToken IntegerSubject "integer_subject" "`sub` is a JSON integer, in the id_token and in userinfo.",
    IdToken UserinfoOtherSubject "userinfo_other_subject" "Userinfo's `sub` is not the id_token's.",
    Profile EmailVerifiedFalse "email_verified_false" "`email_verified` is false.",
    Profile EmailVerifiedMissing "email_verified_missing" "There is no `email_verified`.",
    Profile EmailVerifiedString "email_verified_string" "`email_verified` is the text \"true\".",
    Profile NoEmail "no_email" "There is no e-mail address.",
    Profile TwoAts "two_ats" "The address has two at signs.",
    Profile Homograph "homograph" "The address's domain has a Cyrillic letter.",
    Profile TrailingDot "trailing_dot" "The address's domain ends in a dot.",
    Profile HtmlName "html_name" "The name is HTML, quotes, a spreadsheet formula and control characters.",
    Callback WrongIss "wrong_iss" "The `iss` parameter of the callback is another provider.",
    Callback NoState "no_state" "The callback has no `state`.",
    Callback WrongState "wrong_state" "The callback's `state` is another.",
    Callback ErrorWithHtml "error_with_html" "The callback is an error with 5,000 characters of description and a script.",
    Token TokenError "token_error" "The token endpoint answers 500.",
    Token TokenNotJson "token_not_json" "The token endpoint answers 200 with a page.",
    Token RefreshTemporarilyFails "refresh_temporarily_fails" "Refreshing answers 503 and uses nothing up.",
    Provider Slow "slow" "What the client calls is answered after 30 seconds.",
    Provider Down "down" "What the client calls closes the connection without an answer.",
    Provider RedirectToMetadata "redirect_to_metadata" "What the client calls redirects to a cloud's metadata address.",
    Provider Huge "huge" "What the client calls answers with 100 MB.",
    Provider ManyKeys "many_keys" "The key set has 200 keys, the right ones last.",
    Provider DiscoveryOtherIssuer "discovery_other_issuer" "The discovery document's `issuer` is another provider.",
    Provider DiscoveryPlainHttpEndpoint "discovery_plain_http_endpoint" "The discovery document's token endpoint is a cloud's metadata address, by http.",
    Provider JwksDown "jwks_down" "The key set answers 503.",
    Provider UserinfoDown "userinfo_down" "Userinfo, and GitHub's `/user` and `/user/emails`, answer 503.",
}

/// What a fault is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    IdToken,
    Profile,
    Callback,
    Token,
    /// Not of one sign-in: the provider's state.
    Provider,
}

impl Fault {
    /// Whether it can be asked for in one sign-in; the others are for
    /// [`misbehave`](super::IdentityProvider::misbehave) only.
    pub fn fits_one_sign_in(self) -> bool {
        self.place() != Place::Provider
    }

    /// What it does, in a sentence.
    pub fn description(self) -> &'static str {
        FAULTS.iter().find(|(name, _)| *name == self.name()).map_or("", |(_, what)| what)
    }
}

impl Serialize for Fault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No fault has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such fault")]
pub struct UnknownFault;
