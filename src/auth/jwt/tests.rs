use serde_json::{Value, json};

use super::*;
use crate::auth::keys::Keys;
use crate::settings::{Need, Settings};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OLD: &str = "fedcba9876543210fedcba9876543210";

fn keys() -> Keys {
    let file = std::env::temp_dir().join(format!("jwt-{}.yaml", uuid::Uuid::new_v4()));
    let text = format!(
        "jwt: {{secret: {SECRET}, secret_id: now, previous_secrets: \
         [{{id: old, secret: {OLD}, until: 2026-06-01T00:00:00Z}}]}}"
    );
    std::fs::write(&file, text).unwrap();
    let settings = Settings::from_layers(Some(&file), std::iter::empty(), Need::Service).unwrap();
    Keys::new(&settings).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    DateTime::from_timestamp(seconds, 0).unwrap().naive_utc()
}

const NOW: i64 = 1_767_225_600; // 2026-01-01

fn claims() -> Value {
    json!({"iss": "bedrock-sso-proxy", "aud": "bedrock-sso-proxy", "sub": "7", "sid": "s", "jti": "j",
           "iat": NOW, "exp": NOW + 600})
}

/// A token with any header and claims as text, signed by HMAC-SHA-256 as the real thing is.
fn token(header: &str, claims: &str, secret: &str) -> JwtText {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    JwtText::parse(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))).unwrap()
}

const HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt","kid":"now"}"#;

fn verdict(header: &str, claims: &str, secret: &str, now: i64) -> Result<Claims, Refusal> {
    verify(&keys().jwt, &token(header, claims, secret), at(now))
}

#[test]
fn an_issued_token_holds_until_the_second_named_by_exp() {
    let keys = keys();
    let issued = issue(&keys.jwt, 7, "session", 600, at(NOW)).unwrap();
    let token = JwtText::parse(issued.expose_secret()).unwrap();

    assert_eq!(verify(&keys.jwt, &token, at(NOW)).unwrap().sub, "7");
    assert!(verify(&keys.jwt, &token, at(NOW + 599)).is_ok());
    assert_eq!(verify(&keys.jwt, &token, at(NOW + 600)), Err(Refusal::Expired));
    assert_eq!(verify(&keys.jwt, &token, at(NOW - 1)), Err(Refusal::NotYetValid));
}

#[test]
fn every_other_header_is_refused() {
    for header in [
        r#"{"alg":"none","typ":"at+jwt","kid":"now"}"#,
        r#"{"alg":"HS512","typ":"at+jwt","kid":"now"}"#,
        r#"{"alg":"RS256","typ":"at+jwt","kid":"now"}"#,
        r#"{"alg":"hs256","typ":"at+jwt","kid":"now"}"#,
        r#"{"alg":"HS256","typ":"JWT","kid":"now"}"#,
        r#"{"alg":"HS256","kid":"now"}"#,
        r#"{"alg":"HS256","typ":"at+jwt"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"other"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"../../etc/passwd"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"NOW"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":7}"#,
        r#"{"alg":"none","alg":"HS256","typ":"at+jwt","kid":"now"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"now","crit":["exp"]}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"now","jku":"https://evil.example"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"now","jwk":{}}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"now","x5u":"https://evil.example"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"now","x5c":[]}"#,
        "[]",
        "not json",
    ] {
        let verdict = verdict(header, &claims().to_string(), SECRET, NOW);
        assert_eq!(verdict, Err(Refusal::BadHeader), "{header}");
    }
    assert!(verdict(HEADER, &claims().to_string(), SECRET, NOW).is_ok());
}

#[test]
fn a_claim_that_is_missing_wrong_or_repeated_is_refused() {
    for name in ["iss", "aud", "sub", "sid", "jti", "iat", "exp"] {
        for wrong in [Value::Null, json!([]), json!({}), json!(true), json!(1.5)] {
            let mut claims = claims();
            claims[name] = wrong;
            let text = claims.to_string();
            assert!(verdict(HEADER, &text, SECRET, NOW).is_err(), "{text}");
        }
        let mut missing = claims();
        missing.as_object_mut().unwrap().remove(name);
        assert!(verdict(HEADER, &missing.to_string(), SECRET, NOW).is_err(), "no {name}");
        let member = claims()[name].to_string();
        let twice = claims().to_string().replacen('{', &format!("{{\"{name}\":{member},"), 1);
        assert!(verdict(HEADER, &twice, SECRET, NOW).is_err(), "{twice}");
    }
    for (name, value) in [
        ("iss", json!("someone")),
        ("aud", json!("someone")),
        ("aud", json!(["bedrock-sso-proxy"])),
        ("exp", json!(NOW + 3601)),
        ("exp", json!(NOW)),
        ("exp", json!(i64::MAX)),
        ("iat", json!(NOW + 1)),
        ("iat", json!(i64::MIN)),
        ("nbf", json!(NOW + 1)),
        ("exp", json!((NOW + 60).to_string())),
        ("sub", json!(7)),
    ] {
        let mut claims = claims();
        claims[name] = value;
        assert!(verdict(HEADER, &claims.to_string(), SECRET, NOW).is_err(), "{claims}");
    }
}

#[test]
fn another_secret_or_a_changed_byte_is_a_bad_signature() {
    let claims = claims().to_string();
    assert_eq!(verdict(HEADER, &claims, OLD, NOW), Err(Refusal::BadSignature));
    let good = token(HEADER, &claims, SECRET);
    let other = token(HEADER, &claims.replace("\"7\"", "\"8\""), SECRET);
    let mut parts: Vec<&str> = good.as_str().split('.').collect();
    parts[1] = other.as_str().split('.').nth(1).unwrap();
    let mixed = JwtText::parse(&parts.join(".")).unwrap();
    assert_eq!(verify(&keys().jwt, &mixed, at(NOW)), Err(Refusal::BadSignature));
}

#[test]
fn a_previous_secret_verifies_until_its_end_date() {
    let old = r#"{"alg":"HS256","typ":"at+jwt","kid":"old"}"#;
    let end = 1_780_272_000; // 2026-06-01
    let mut late = claims();
    late["iat"] = json!(end - 10);
    late["exp"] = json!(end + 600);

    assert!(verdict(old, &claims().to_string(), OLD, NOW).is_ok());
    assert!(verdict(old, &late.to_string(), OLD, end - 1).is_ok());
    assert_eq!(verdict(old, &late.to_string(), OLD, end), Err(Refusal::BadHeader));
}

#[test]
fn text_that_is_not_three_dotted_parts_is_not_a_token() {
    for text in ["", ".", "..", "a.b", "a.b.c.d", "a..c", "a.b.c=", "a b.c.d", "é.b.c"] {
        assert!(JwtText::parse(text).is_err(), "{text:?}");
    }
    assert!(JwtText::parse(&format!("{}.b.c", "a".repeat(5000))).is_err());
}
