//! Signing keys: one RSA and one elliptic, their names, their public halves as a key set.
//!
//! Signatures are made with aws-lc-rs itself rather than with a library for tokens: half of the
//! tokens here are ones which such a library is right not to make.

use std::fmt;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Says why generating and signing cannot fail.
const SOUND: &str = "the system has random numbers, and the keys are our own";

/// Keys every provider of this process begins with: making an RSA key takes longer than most tests.
static FIRST: LazyLock<Arc<Keys>> = LazyLock::new(|| Arc::new(Keys::generate()));
/// Keys of someone else.
static FOREIGN: LazyLock<Arc<Keys>> = LazyLock::new(|| Arc::new(Keys::generate()));

/// How id_tokens are signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    #[default]
    Rs256,
    /// ECDSA on P-256, SHA-256.
    Es256,
}

impl SigningAlgorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// The keys of one time; [`generate`](Self::generate) makes the next.
pub(super) struct Keys {
    rsa: RsaKeyPair,
    elliptic: EcdsaKeyPair,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    pub(super) fn first() -> Arc<Self> {
        Arc::clone(&FIRST)
    }

    pub(super) fn foreign() -> Arc<Self> {
        Arc::clone(&FOREIGN)
    }

    pub(super) fn generate() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect(SOUND),
            elliptic: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect(SOUND),
        }
    }

    /// The name of the key: its thumbprint (RFC 7638), so that another key has another name.
    pub(super) fn kid(&self, algorithm: SigningAlgorithm) -> String {
        let canonical = match algorithm {
            SigningAlgorithm::Rs256 => {
                let (n, e) = self.rsa_parts();
                format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
            }
            SigningAlgorithm::Es256 => {
                let (x, y) = self.point();
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        };
        sha256(canonical.as_bytes())
    }

    pub(super) fn sign(&self, algorithm: SigningAlgorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            SigningAlgorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect(SOUND);
                signature
            }
            SigningAlgorithm::Es256 => {
                self.elliptic.sign(&random, message).expect(SOUND).as_ref().to_vec()
            }
        }
    }

    /// Both public keys, as RFC 7517 writes them.
    pub(super) fn public(&self) -> Vec<Value> {
        let ((n, e), (x, y)) = (self.rsa_parts(), self.point());
        let (rsa, elliptic) = (SigningAlgorithm::Rs256, SigningAlgorithm::Es256);
        vec![
            json!({
                "kty": "RSA", "use": "sig", "alg": rsa.name(), "kid": self.kid(rsa), "n": n, "e": e,
            }),
            json!({
                "kty": "EC", "use": "sig", "alg": elliptic.name(), "kid": self.kid(elliptic),
                "crv": "P-256", "x": x, "y": y,
            }),
        ]
    }

    /// The public key as people write it into files.
    pub(super) fn pem(&self, algorithm: SigningAlgorithm) -> String {
        let der: PublicKeyX509Der<'_> = match algorithm {
            SigningAlgorithm::Rs256 => self.rsa.public_key().as_der().expect(SOUND),
            SigningAlgorithm::Es256 => self.elliptic.public_key().as_der().expect(SOUND),
        };
        let text = STANDARD.encode(der.as_ref());
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        for (at, letter) in text.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem.push_str("\n-----END PUBLIC KEY-----\n");
        pem
    }

    /// Modulus and exponent.
    fn rsa_parts(&self) -> (String, String) {
        let key = self.rsa.public_key();
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        (
            encode(key.modulus().big_endian_without_leading_zero()),
            encode(key.exponent().big_endian_without_leading_zero()),
        )
    }

    /// The two coordinates; aws-lc-rs writes a point as 0x04 and both of them.
    fn point(&self) -> (String, String) {
        let point = self.elliptic.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}

/// Keys which nobody has signed with, to fill a key set.
pub(super) fn filler(count: usize) -> Vec<Value> {
    let key = |_| {
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": random(16), "n": random(256),
            "e": "AQAB",
        })
    };
    (0..count).map(key).collect()
}

pub(super) fn hmac_sha256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// SHA-256 in base64url, as PKCE and thumbprints write it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}

/// As many random bytes, in base64url.
pub(super) fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).expect(SOUND);
    URL_SAFE_NO_PAD.encode(random)
}
