//! Who is calling: SigV4 and bearer tokens, checked as AWS does, and headers which a proxy must never
//! forward. Pure: the clock is an argument.
//!
//! The signature is recomputed from what arrived, with AWS's own signer, never compared with ours.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use chrono::{DateTime, NaiveDateTime, Utc};

use super::SimulatorConfig;
use super::refusal::Refusal;

/// How far `x-amz-date` may be off.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);
const DATE_FORMAT: &str = "%Y%m%dT%H%M%SZ";
const MISMATCH: &str = "The request signature we calculated does not match the signature you \
    provided. Check your AWS Secret Access Key and signing method. Consult the service \
    documentation for details.";

/// A request as it arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) method: &'a str,
    /// Path and query, undecoded.
    pub(super) target: &'a str,
    /// Header lines in order; names in lower case.
    pub(super) headers: &'a [(String, String)],
    /// Lower-case hexadecimal.
    pub(super) body_sha256: &'a str,
}

impl<'a> Received<'a> {
    /// The value of a header that may come once at most.
    fn only(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (first, None) => Ok(first.map(|(_, value)| value.as_str())),
            _ => Err(Refusal::validation(format!("header `{name}` came more than once"))),
        }
    }
}

/// Refuses headers which belong to the proxy's own client, or to one hop.
pub(super) fn check_headers(received: &Received<'_>, host: &str) -> Result<(), Refusal> {
    for (name, value) in received.headers {
        let refused = match name.as_str() {
            "x-api-key"
            | "cookie"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
            | "proxy-authorization" => true,
            "accept-encoding" => !value.trim().eq_ignore_ascii_case("identity"),
            name => ["x-forwarded-", "anthropic-", "x-stainless-", "x-claude-code-"]
                .iter()
                .any(|prefix| name.starts_with(prefix)),
        };
        if refused {
            let text = format!("simulator: a proxy must not forward the header `{name}`");
            return Err(Refusal::validation(text));
        }
    }
    match received.only("host")? {
        Some(given) if given == host => Ok(()),
        _ => Err(Refusal::validation(format!("simulator: the header `host` must be `{host}`"))),
    }
}

/// Authenticates a request. Answers with the region it is meant for.
pub(super) fn authenticate(
    config: &SimulatorConfig,
    received: &Received<'_>,
    now: SystemTime,
) -> Result<String, Refusal> {
    let missing =
        || Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token");
    let authorization = received.only("authorization")?.ok_or_else(missing)?;
    let (scheme, rest) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return check_bearer(config, received, rest);
    }
    if scheme != "AWS4-HMAC-SHA256" {
        return Err(missing());
    }
    let claim = Claim::read(rest)?;
    let region = claim.check_scope(config)?;
    let time = claim.check_time(received, now)?;
    check_token(config, received)?;
    claim.check_signed_headers(received)?;
    if signature(config, received, &claim, time)? == claim.signature {
        Ok(region)
    } else {
        Err(Refusal::bad_signature(MISMATCH))
    }
}

fn check_bearer(
    config: &SimulatorConfig,
    received: &Received<'_>,
    given: &str,
) -> Result<String, Refusal> {
    for name in ["x-amz-date", "x-amz-security-token", "x-amz-content-sha256"] {
        if received.only(name)?.is_some() {
            let text = format!("simulator: `{name}` must not come with a bearer token");
            return Err(Refusal::validation(text));
        }
    }
    match &config.bearer_token {
        Some(token) if token == given => Ok(config.regions.first().cloned().unwrap_or_default()),
        _ => Err(Refusal::unknown_client()),
    }
}

fn check_token(config: &SimulatorConfig, received: &Received<'_>) -> Result<(), Refusal> {
    if received.only("x-amz-security-token")? == config.session_token.as_deref() {
        Ok(())
    } else {
        Err(Refusal::unknown_client())
    }
}

/// What the `Authorization` header claims.
#[derive(Debug)]
struct Claim<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Claim<'a> {
    fn read(rest: &'a str) -> Result<Self, Refusal> {
        let part = |name: &str| {
            let mut parts = rest.split(',').filter_map(|part| part.trim().split_once('='));
            let found = parts.find(|(known, _)| *known == name).map(|(_, value)| value);
            found.filter(|value| !value.is_empty()).ok_or_else(|| {
                let text = format!("Authorization header requires '{name}' parameter.");
                Refusal::new("IncompleteSignature", text)
            })
        };
        let (credential, signed) = (part("Credential")?, part("SignedHeaders")?);
        let signature = part("Signature")?;
        let mut scope = credential.rsplitn(5, '/');
        let mut next = || {
            scope.next().ok_or_else(|| {
                let text = "Credential must have exactly 5 slash-delimited elements";
                Refusal::new("IncompleteSignature", text)
            })
        };
        let (terminator, service, region, date, access_key) =
            (next()?, next()?, next()?, next()?, next()?);
        let signed = signed.split(';').collect();
        Ok(Self { access_key, date, region, service, terminator, signed, signature })
    }

    fn check_scope(&self, config: &SimulatorConfig) -> Result<String, Refusal> {
        if self.access_key != config.access_key_id {
            return Err(Refusal::unknown_client());
        }
        if !config.regions.iter().any(|region| region == self.region) {
            let text = "Credential should be scoped to a valid region.";
            return Err(Refusal::bad_signature(text));
        }
        if self.service != "bedrock" {
            let text = "Credential should be scoped to correct service: 'bedrock'.";
            return Err(Refusal::bad_signature(text));
        }
        if self.terminator != "aws4_request" {
            let text = "Credential should be scoped with a valid terminator: 'aws4_request'.";
            return Err(Refusal::bad_signature(text));
        }
        Ok(self.region.to_owned())
    }

    fn check_time(&self, received: &Received<'_>, now: SystemTime) -> Result<SystemTime, Refusal> {
        let given = received.only("x-amz-date")?.ok_or_else(|| {
            Refusal::new("IncompleteSignature", "Authorization header requires 'X-Amz-Date'.")
        })?;
        let time = NaiveDateTime::parse_from_str(given, DATE_FORMAT).map_err(|_| {
            let text = "Date must be in ISO-8601 'basic format'.";
            Refusal::new("IncompleteSignature", text)
        })?;
        if !given.starts_with(self.date) || self.date.len() != 8 {
            let text = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of \
                date from HTTP";
            return Err(Refusal::bad_signature(text));
        }
        let time = SystemTime::from(time.and_utc());
        let text = |time: SystemTime| DateTime::<Utc>::from(time).format(DATE_FORMAT).to_string();
        let late = now.duration_since(time).unwrap_or_default() > MAX_SKEW;
        let early = time.duration_since(now).unwrap_or_default() > MAX_SKEW;
        match (late, early) {
            (false, false) => Ok(time),
            (true, _) => Err(Refusal::bad_signature(format!(
                "Signature expired: {given} is now earlier than {} ({} - 5 min.)",
                text(now - MAX_SKEW),
                text(now)
            ))),
            (false, true) => Err(Refusal::bad_signature(format!(
                "Signature not yet current: {given} is still later than {} ({} + 5 min.)",
                text(now + MAX_SKEW),
                text(now)
            ))),
        }
    }

    fn check_signed_headers(&self, received: &Received<'_>) -> Result<(), Refusal> {
        let present = |name: &str| received.headers.iter().any(|(known, _)| known == name);
        if !self.signed.is_sorted_by(|a, b| a < b) {
            return Err(Refusal::bad_signature(
                "SignedHeaders must be sorted and without repeats.",
            ));
        }
        if let Some(absent) = self.signed.iter().find(|name| !present(name)) {
            let text = format!("The signed header '{absent}' is not in the request.");
            return Err(Refusal::bad_signature(text));
        }
        let names = received.headers.iter().map(|(name, _)| name.as_str());
        let must = names
            .filter(|name| matches!(*name, "host" | "content-type") || name.starts_with("x-amz-"));
        for name in must {
            if !self.signed.contains(&name) {
                let text = format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.");
                return Err(Refusal::bad_signature(text));
            }
        }
        match received.only("x-amz-content-sha256")? {
            Some(hash) if hash != received.body_sha256 => Err(Refusal::bad_signature(
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )),
            _ => Ok(()),
        }
    }
}

/// Signs what arrived with the configured key, over the headers that the claim names.
fn signature(
    config: &SimulatorConfig,
    received: &Received<'_>,
    claim: &Claim<'_>,
    time: SystemTime,
) -> Result<String, Refusal> {
    let unusable = || Refusal::bad_signature(MISMATCH);
    let identity = Credentials::new(
        config.access_key_id.as_str(),
        config.secret_access_key.as_str(),
        config.session_token.clone(),
        None,
        "simulator",
    )
    .into();
    let mut settings = SigningSettings::default();
    settings.excluded_headers = None; // the claim decides which headers are signed
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(claim.region)
        .name("bedrock")
        .time(time)
        .settings(settings)
        .build()
        .map_err(|_| unusable())?
        .into();
    let named = |(name, _): &&(String, String)| claim.signed.contains(&name.as_str());
    let headers = received.headers.iter().filter(named);
    let request = SignableRequest::new(
        received.method,
        format!("http://simulator{}", received.target), // `host` is among the headers
        headers.map(|(name, value)| (name.as_str(), value.as_str())),
        SignableBody::Precomputed(received.body_sha256.to_owned()),
    )
    .map_err(|_| unusable())?;
    Ok(sign(request, &params).map_err(|_| unusable())?.into_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":16,"messages":[{"role":"user","content":"Hi"}]}"#;
    const HOST: &str = "bedrock-runtime.us-east-1.amazonaws.com";
    const SCOPE: &str = "Credential=AKIDEXAMPLE/20260102/us-east-1/bedrock/aws4_request";
    const INVOKE: &str = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke";
    const SIGNED: &str = "37e6d18b6cb0e3c496d43c358512839ba1c4bc4ed41d4a4a4b7c0e084647287e";

    struct Case {
        target: String,
        headers: Vec<(String, String)>,
        body: String,
        token: Option<&'static str>,
        minutes: u64,
    }

    impl Case {
        fn new(target: &str, others: &[(&str, &str)], signature: &str) -> Self {
            let mut names = vec!["content-type", "host", "x-amz-date"];
            names.extend(others.iter().map(|(name, _)| *name));
            names.sort_unstable();
            let names = names.join(";");
            let authorization =
                format!("AWS4-HMAC-SHA256 {SCOPE}, SignedHeaders={names}, Signature={signature}");
            let mut headers = vec![
                ("authorization", authorization.as_str()),
                ("content-type", "application/json"),
                ("host", HOST),
                ("x-amz-date", "20260102T030405Z"),
                ("user-agent", "not signed"),
            ];
            headers.extend(others);
            let owned = headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let headers = owned.collect();
            Self { target: target.into(), headers, body: BODY.into(), token: None, minutes: 0 }
        }

        fn invoke() -> Self {
            Self::new(INVOKE, &[("accept", "application/json")], SIGNED)
        }

        fn check(&self) -> Result<String, Refusal> {
            let config = SimulatorConfig {
                session_token: self.token.map(str::to_owned),
                ..SimulatorConfig::default()
            };
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.body.as_bytes());
            let body_sha256 = hex::encode(hash);
            let received = Received {
                method: "POST",
                target: &self.target,
                headers: &self.headers,
                body_sha256: &body_sha256,
            };
            let now = NaiveDateTime::parse_from_str("20260102T030405Z", DATE_FORMAT).unwrap();
            let now = SystemTime::from(now.and_utc()) + Duration::from_secs(self.minutes * 60);
            authenticate(&config, &received, now)
        }

        fn code(&self) -> &'static str {
            self.check().unwrap_err().code
        }
    }

    #[test]
    fn the_vectors_of_the_specification_verify() {
        assert_eq!(Case::invoke().check().as_deref(), Ok("us-east-1"));

        let raw = INVOKE.replace("%3A", ":");
        let signature = "f35dc3718c3dea21e780e83485bc32a14dd53c7025b6eca016f94db58f72af37";
        assert!(Case::new(&raw, &[("accept", "application/json")], signature).check().is_ok());

        let profile = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile\
            %2Fus.anthropic.claude-sonnet-4-20250514-v1%3A0/converse";
        let signature = "29edc22d1cacfb6ab3fb9bbfd2467e1f1a9d8679b2e073fcf38436104bcbb3c7";
        let mut case = Case::new(profile, &[("x-amz-security-token", "TOKEN")], signature);
        assert_eq!(case.code(), "UnrecognizedClientException");
        case.token = Some("TOKEN");
        assert!(case.check().is_ok());
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused() {
        let mut case = Case::invoke();
        case.body = BODY.replace("Hi", "Ho");
        assert_eq!(case.code(), "InvalidSignatureException");
        let mut case = Case::invoke();
        case.target = INVOKE.replace("haiku", "haikv");
        assert_eq!(case.code(), "InvalidSignatureException");
        case.target = INVOKE.replace("%3A", ":");
        assert_eq!(case.code(), "InvalidSignatureException");
        case.target = format!("{INVOKE}?beta=true");
        assert_eq!(case.code(), "InvalidSignatureException");
        for header in ["accept", "content-type", "host"] {
            let mut case = Case::invoke();
            let found = case.headers.iter_mut().find(|(name, _)| name == header).unwrap();
            found.1.push('x');
            assert_eq!(case.code(), "InvalidSignatureException", "{header}");
        }
    }

    #[test]
    fn clock_scope_and_signed_headers_are_checked() {
        let mut case = Case::invoke();
        case.minutes = 5;
        assert!(case.check().is_ok());
        case.minutes = 6;
        assert!(case.check().unwrap_err().message.starts_with("Signature expired: 20260102T0304"));
        let replaced = |from: &str, to: &str| {
            let mut case = Case::invoke();
            let found = &mut case.headers[0].1;
            *found = found.replace(from, to);
            case.check().unwrap_err()
        };
        assert_eq!(replaced("AKIDEXAMPLE", "AKIDOTHER").code, "UnrecognizedClientException");
        assert!(replaced("us-east-1", "us-west-2").message.contains("valid region"));
        assert!(replaced("/bedrock/", "/bedrock-runtime/").message.contains("correct service"));
        assert!(replaced("20260102/", "20260103/").message.starts_with("Date in Credential"));
        assert!(replaced("content-type;", "").message.contains("'content-type' must be"));
        assert!(replaced("host;", "").message.contains("'host' must be"));
        assert!(replaced("host;", "host;x-absent;").message.contains("'x-absent' is not in"));
        assert_eq!(replaced("Signature=", "Sig=").code, "IncompleteSignature");
        assert_eq!(replaced("AWS4-HMAC", "Basic").code, "MissingAuthenticationTokenException");
        let mut case = Case::invoke();
        case.headers.push(("x-amz-extra".into(), "1".into()));
        assert_eq!(case.code(), "InvalidSignatureException");
    }

    #[test]
    fn a_bearer_token_has_to_be_the_configured_one() {
        let headers = [("authorization".to_owned(), "Bearer KEY".to_owned())];
        let received =
            Received { method: "POST", target: INVOKE, headers: &headers, body_sha256: "" };
        let with = |token: Option<&str>| {
            let bearer_token = token.map(str::to_owned);
            let config = SimulatorConfig { bearer_token, ..SimulatorConfig::default() };
            authenticate(&config, &received, SystemTime::UNIX_EPOCH).is_ok()
        };
        assert!(with(Some("KEY")));
        assert!(!with(Some("OTHER")) && !with(None));
    }
}
