use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings},
    sign::v4,
};
use proptest::prelude::*;

use super::*;

const HOST: &str = "bedrock-runtime.us-east-1.amazonaws.com";
const BODY: &str = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":16,"messages":[{"role":"user","content":"Hi"}]}"#;

fn keys(token: Option<&str>) -> AccessKeys {
    AccessKeys {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
        session_token: token.map(SecretString::from),
    }
}

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

fn sign(keys: &AccessKeys, path: &str, headers: &[(String, String)], body: &[u8]) -> String {
    let request = Request { path, host: HOST, region: "us-east-1", headers, body };
    let signature = Signer::default().sign(keys, &request, now());
    assert_eq!(signature.date, "20260102T030405Z");
    signature.authorization.rsplit_once("Signature=").unwrap().1.to_owned()
}

#[test]
fn the_first_vector_is_signed_as_botocore_does() {
    let path = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke";
    let headers =
        [header("accept", "application/json"), header("content-type", "application/json")];
    let request =
        Request { path, host: HOST, region: "us-east-1", headers: &headers, body: BODY.as_bytes() };
    let (canonical, signed) = canonical_request(&keys(None), &request, "20260102T030405Z");

    assert_eq!(signed, "accept;content-type;host;x-amz-date");
    assert_eq!(
        hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes())),
        "b5290359e58605d2e94fe1fd49252f90bd48385cb72e55883bfd6e97861c911a"
    );
    assert_eq!(
        sign(&keys(None), path, &headers, BODY.as_bytes()),
        "37e6d18b6cb0e3c496d43c358512839ba1c4bc4ed41d4a4a4b7c0e084647287e"
    );
    assert_eq!(
        sign(&keys(None), &path.replace("%3A", ":"), &headers, BODY.as_bytes()),
        "f35dc3718c3dea21e780e83485bc32a14dd53c7025b6eca016f94db58f72af37"
    );
}

#[test]
fn the_second_vector_with_an_arn_and_a_session_token() {
    let path = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic.claude-sonnet-4-20250514-v1%3A0/converse";
    let headers = [header("content-type", "application/json")];
    let keys = keys(Some("TOKEN"));
    let request =
        Request { path, host: HOST, region: "us-east-1", headers: &headers, body: BODY.as_bytes() };
    let (canonical, signed) = canonical_request(&keys, &request, "20260102T030405Z");

    assert_eq!(signed, "content-type;host;x-amz-date;x-amz-security-token");
    assert_eq!(
        hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes())),
        "431bb854c294996e03e2fd37b624232c64eee379576342cf6d9a33b70e852147"
    );
    assert_eq!(
        sign(&keys, path, &headers, BODY.as_bytes()),
        "29edc22d1cacfb6ab3fb9bbfd2467e1f1a9d8679b2e073fcf38436104bcbb3c7"
    );
}

#[test]
fn a_cached_day_key_is_dropped_with_its_day_region_and_keys() {
    let signer = Signer::default();
    let headers = [header("content-type", "application/json")];
    let mut seen = Vec::new();
    for (day, region, key) in [
        ("2026-01-02T03:04:05Z", "us-east-1", "AKIDEXAMPLE"),
        ("2026-01-03T03:04:05Z", "us-east-1", "AKIDEXAMPLE"),
        ("2026-01-02T03:04:05Z", "eu-west-1", "AKIDEXAMPLE"),
        ("2026-01-02T03:04:05Z", "us-east-1", "AKIDOTHER"),
    ] {
        let request =
            Request { path: "/model/x/invoke", host: HOST, region, headers: &headers, body: b"{}" };
        let keys = AccessKeys { access_key_id: key.into(), ..keys(None) };
        let first = signer.sign(&keys, &request, day.parse().unwrap());
        let again = signer.sign(&keys, &request, day.parse().unwrap());
        let fresh = Signer::default().sign(&keys, &request, day.parse().unwrap());
        assert_eq!(first, again);
        assert_eq!(first, fresh);
        seen.push(first.authorization);
    }
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

/// The same request, signed by aws-sigv4 from end to end.
fn reference(keys: &AccessKeys, path: &str, headers: &[(String, String)], body: &[u8]) -> String {
    let credentials = Credentials::new(
        &keys.access_key_id,
        keys.secret_access_key.expose_secret(),
        keys.session_token.as_ref().map(|token| token.expose_secret().to_owned()),
        None,
        "test",
    );
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name(SERVICE)
        .time(now().into())
        .settings(SigningSettings::default())
        .build()
        .unwrap();
    let uri = format!("https://{HOST}{path}");
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let request = SignableRequest::new("POST", &uri, pairs, SignableBody::Bytes(body)).unwrap();
    aws_sigv4::http_request::sign(request, &params.into()).unwrap().into_parts().1
}

proptest! {
    #[test]
    fn every_signature_equals_the_library_s(
        id in "[A-Za-z0-9][A-Za-z0-9.:_-]{0,60}",
        value in "[ -~]{0,40}",
        token in proptest::option::of("[A-Za-z0-9/+=]{1,40}"),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let path = format!("/model/{}/invoke", id.replace(':', "%3A"));
        let headers = [
            header("content-type", "application/json"),
            header("x-amzn-bedrock-request-metadata", value.trim()),
        ];
        let keys = keys(token.as_deref());
        prop_assert_eq!(sign(&keys, &path, &headers, &body), reference(&keys, &path, &headers, &body));
    }
}
