//! AWS Signature Version 4 for Bedrock. The canonical request is written here, so that the body is hashed once and
//! the day's key derived once; the key derivation is aws-sigv4's, and a test holds every signature against it.

use std::{cell::RefCell, fmt::Write, time::SystemTime};

use aws_lc_rs::{digest, hmac};
use aws_sigv4::sign::v4::generate_signing_key;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

/// The signing name of Bedrock Runtime; not `bedrock-runtime`.
const SERVICE: &str = "bedrock";

/// AWS access keys; the token belongs to temporary ones.
#[derive(Debug, Clone)]
pub struct AccessKeys {
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
}

/// What is signed. `headers` are lower-case names with trimmed values, sorted by name, without `host`, `x-amz-date`
/// and `x-amz-security-token`.
#[derive(Debug)]
pub struct Request<'a> {
    /// The path exactly as it is sent, percent-encoded; it is encoded once more in the canonical form.
    pub path: &'a str,
    /// With the port, unless it is the scheme's own.
    pub host: &'a str,
    pub region: &'a str,
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

/// The headers that a signature adds.
#[derive(Debug, PartialEq, Eq)]
pub struct Signature {
    pub authorization: String,
    pub date: String,
}

/// Signs with the keys it is given, and keeps the derived key of each region for the day. One per worker.
#[derive(Default)]
pub struct Signer {
    day_keys: RefCell<Vec<DayKey>>,
}

struct DayKey {
    access_key_id: String,
    day: String,
    region: String,
    key: hmac::Key,
}

/// More would mean many regions or keys that change by the minute; then the oldest goes.
const DAY_KEYS: usize = 16;

impl Signer {
    /// AWS docs, "Create a signed AWS API request", steps 1 to 4, with a `POST` and no query.
    pub fn sign(&self, keys: &AccessKeys, request: &Request<'_>, now: DateTime<Utc>) -> Signature {
        let date = now.format("%Y%m%dT%H%M%SZ").to_string();
        let day: String = date.chars().take(8).collect();
        let (canonical, signed_headers) = canonical_request(keys, request, &date);
        let scope = format!("{day}/{}/{SERVICE}/aws4_request", request.region);
        let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(hash));
        let tag = self.with_day_key(keys, request.region, &day, now, |key| {
            hex::encode(hmac::sign(key, to_sign.as_bytes()))
        });
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed_headers}, Signature={tag}",
            keys.access_key_id
        );
        Signature { authorization, date }
    }

    fn with_day_key<T>(
        &self,
        keys: &AccessKeys,
        region: &str,
        day: &str,
        now: DateTime<Utc>,
        sign: impl Fn(&hmac::Key) -> T,
    ) -> T {
        let mut cached = self.day_keys.borrow_mut();
        let found = cached.iter().find(|key| {
            key.region == region && key.day == day && key.access_key_id == keys.access_key_id
        });
        if let Some(found) = found {
            return sign(&found.key);
        }
        let secret = keys.secret_access_key.expose_secret();
        let derived = generate_signing_key(secret, SystemTime::from(now), region, SERVICE);
        let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        let signed = sign(&key);
        cached.truncate(DAY_KEYS - 1);
        cached.insert(
            0,
            DayKey {
                access_key_id: keys.access_key_id.clone(),
                day: day.to_owned(),
                region: region.to_owned(),
                key,
            },
        );
        signed
    }
}

/// Step 1, with the list of signed headers.
fn canonical_request(keys: &AccessKeys, request: &Request<'_>, date: &str) -> (String, String) {
    let token = keys.session_token.as_ref().map(ExposeSecret::expose_secret);
    let mut headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers.push(("host", request.host));
    headers.push(("x-amz-date", date));
    headers.extend(token.map(|token| ("x-amz-security-token", token)));
    headers.sort_unstable_by_key(|(name, _)| *name);
    let mut text = String::with_capacity(512 + request.path.len());
    text.push_str("POST\n");
    encode_path(request.path, &mut text);
    text.push_str("\n\n");
    let mut signed = String::with_capacity(128);
    for (name, value) in headers {
        if !signed.is_empty() {
            signed.push(';');
        }
        signed.push_str(name);
        text.push_str(name);
        text.push(':');
        push_collapsed(value, &mut text);
        text.push('\n');
    }
    let hash = digest::digest(&digest::SHA256, request.body);
    let _infallible = write!(text, "\n{signed}\n{}", hex::encode(hash));
    (text, signed)
}

/// Every service but S3 encodes the path a second time: `%3A` becomes `%253A`, a raw `:` becomes `%3A`.
fn encode_path(path: &str, out: &mut String) {
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
}

/// A header's value in canonical form: trimmed, runs of spaces made one.
fn push_collapsed(value: &str, out: &mut String) {
    let mut space = false;
    for character in value.trim().chars() {
        if !(space && character == ' ') {
            out.push(character);
        }
        space = character == ' ';
    }
}

#[cfg(test)]
mod tests;
