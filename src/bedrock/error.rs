//! What upstream's failures mean, by the one table for all routes (protocol reference §4.7).

use std::{borrow::Cow, sync::LazyLock};

use awc::error::{ConnectError, SendRequestError};
use bytes::Bytes;
use regex::Regex;
use serde::Deserialize;

/// A call that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum BedrockError {
    #[error("could not reach Bedrock")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("Bedrock did not answer in time")]
    Silent,
    #[error("Bedrock's answer broke off: {0}")]
    Cut(String),
}

impl From<SendRequestError> for BedrockError {
    fn from(error: SendRequestError) -> Self {
        match error {
            SendRequestError::Timeout => Self::Silent,
            SendRequestError::Connect(ConnectError::Timeout) => {
                Self::Unreachable("the connection was not made in time".into())
            }
            other => Self::Unreachable(other.to_string().into()),
        }
    }
}

/// An answer with an error status, told apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bedrock's own error, for the client as it is; `body` has account numbers masked.
    Modelled {
        code: String,
        message: String,
        body: Bytes,
        /// What the model's own endpoint answered, where that failed.
        original_status: Option<u16>,
    },
    /// AWS refused this service's credentials; no business of the client.
    Credentials { code: String },
    /// Not an answer of Bedrock's: an HTML page, a redirect, broken JSON.
    Foreign,
}

/// Codes that speak of a signature, a token or an access key: always the service's own.
const CREDENTIAL_CODES: &[&str] = &[
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Reads an answer whose status is not 200. `error_type` is its `x-amzn-errortype` header.
pub fn read_fault(status: u16, error_type: Option<&str>, body: &Bytes) -> Fault {
    #[derive(Deserialize)]
    struct Body {
        #[serde(alias = "Message")]
        message: Option<String>,
        #[serde(rename = "__type", alias = "code")]
        code: Option<String>,
        #[serde(rename = "originalStatusCode")]
        original_status: Option<u16>,
    }
    let parsed: Option<Body> = serde_json::from_slice(body).ok();
    let from_header = error_type.map(|text| text.split(':').next().unwrap_or(text).trim());
    let from_body = parsed.as_ref().and_then(|body| body.code.as_deref());
    let from_body = from_body.map(|text| text.rsplit('#').next().unwrap_or(text));
    let code = from_header.or(from_body).filter(|code| !code.is_empty()).map(str::to_owned);
    let Some(parsed) =
        parsed.filter(|body| status >= 400 && (code.is_some() || body.message.is_some()))
    else {
        return Fault::Foreign;
    };
    let code = code.unwrap_or_else(|| status.to_string());
    if CREDENTIAL_CODES.iter().any(|known| known.eq_ignore_ascii_case(&code)) {
        return Fault::Credentials { code };
    }
    let message = mask(parsed.message.as_deref().unwrap_or_default()).into_owned();
    let body = match std::str::from_utf8(body).map(mask) {
        Ok(Cow::Owned(masked)) => masked.into(),
        _ => body.clone(),
    };
    Fault::Modelled { code, message, body, original_status: parsed.original_status }
}

/// Account number, and the principal of IAM and STS: `arn:aws:sts::***:***`. Nothing else is touched.
pub fn mask(text: &str) -> Cow<'_, str> {
    static PRINCIPAL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(arn:[a-z-]+:(?:iam|sts):[a-z0-9-]*:)\d{12}:[^\s"\\,;)]+"#)
            .expect("a constant pattern")
    });
    static ACCOUNT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(arn:[a-z-]+:[a-z0-9-]+:[a-z0-9-]*:)\d{12}:").expect("a constant pattern")
    });
    match PRINCIPAL.replace_all(text, "${1}***:***") {
        Cow::Borrowed(text) => ACCOUNT.replace_all(text, "${1}***:"),
        Cow::Owned(text) => Cow::Owned(ACCOUNT.replace_all(&text, "${1}***:").into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: u16, header: Option<&str>, body: &'static str) -> Fault {
        read_fault(status, header, &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn a_modelled_error_keeps_its_bytes_wherever_its_code_stands() {
        let body = r#"{"message": "slow  down"}"#;
        for (header, body) in [
            (Some("ThrottlingException"), body),
            (Some("ThrottlingException:http://internal.amazon.com/"), body),
            (None, r#"{"__type":"com.amazon#ThrottlingException","Message":"slow  down"}"#),
        ] {
            let Fault::Modelled { code, message, body: kept, .. } = fault(429, header, body) else {
                panic!("not modelled");
            };
            assert_eq!((code.as_str(), message.as_str()), ("ThrottlingException", "slow  down"));
            assert_eq!(kept, body);
        }
    }

    #[test]
    fn accounts_and_principals_are_masked_and_nothing_else() {
        let body = r#"{"message":"User: arn:aws:sts::123456789012:assumed-role/proxy/i-0 is not authorized to perform: bedrock:InvokeModel on resource: arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.x, arn:aws:bedrock:us-east-1::foundation-model/y"}"#;
        let Fault::Modelled { body, .. } = fault(403, Some("AccessDeniedException"), body) else {
            panic!("not modelled");
        };
        assert_eq!(
            body,
            r#"{"message":"User: arn:aws:sts::***:*** is not authorized to perform: bedrock:InvokeModel on resource: arn:aws:bedrock:us-east-1:***:inference-profile/us.x, arn:aws:bedrock:us-east-1::foundation-model/y"}"#
        );
    }

    #[test]
    fn our_own_credentials_are_told_apart_from_a_model_s_access() {
        for code in
            ["UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"]
        {
            let fault = fault(403, Some(code), r#"{"message":"The security token is invalid"}"#);
            assert_eq!(fault, Fault::Credentials { code: code.into() });
        }
    }

    #[test]
    fn what_is_not_bedrock_s_is_foreign() {
        assert_eq!(fault(502, None, "<html>Bad Gateway</html>"), Fault::Foreign);
        assert_eq!(fault(500, None, r#"{"message": "#), Fault::Foreign);
        assert_eq!(fault(302, None, ""), Fault::Foreign);
        assert_eq!(fault(500, None, "[]"), Fault::Foreign);
        assert_eq!(fault(500, None, "{}"), Fault::Foreign);
    }
}
