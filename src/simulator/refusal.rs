//! Errors as AWS words them: a status, a code for `x-amzn-ErrorType`, and a message.

/// Codes of protocol §1.5 with their statuses, and those about the caller's credentials.
const STATUSES: &[(&str, u16)] = &[
    ("ValidationException", 400),
    ("ServiceQuotaExceededException", 400),
    ("ConflictException", 400),
    ("AccessDeniedException", 403),
    ("ResourceNotFoundException", 404),
    ("ModelTimeoutException", 408),
    ("ModelErrorException", 424),
    ("ModelStreamErrorException", 424),
    ("ThrottlingException", 429),
    ("ModelNotReadyException", 429),
    ("InternalServerException", 500),
    ("ServiceUnavailableException", 503),
    ("IncompleteSignature", 400),
    ("IncompleteSignatureException", 400),
    ("InternalFailure", 500),
    ("FTUFormNotFilled", 404),
    ("UnrecognizedClientException", 403),
    ("InvalidSignatureException", 403),
    ("ExpiredTokenException", 403),
    ("MissingAuthenticationToken", 403),
    ("MissingAuthenticationTokenException", 403),
    ("UnknownOperationException", 404),
];

/// What is answered instead of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let status = STATUSES.iter().find(|(known, _)| *known == code).map_or(500, |found| found.1);
        Self { status, code, message: message.into() }
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    pub(super) fn bad_signature(message: impl Into<String>) -> Self {
        Self::new("InvalidSignatureException", message)
    }

    pub(super) fn unknown_client() -> Self {
        Self::new(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )
    }

    /// The answer to `@sim:error code=…`, worded as AWS does; `None` for an unknown code.
    pub(super) fn of_code(code: &str, action: &str, model: &str, region: &str) -> Option<Self> {
        let (code, _) = STATUSES.iter().find(|(known, _)| *known == code)?;
        let message = match *code {
            "AccessDeniedException" => format!(
                "User: arn:aws:sts::123456789012:assumed-role/BedrockProxyRole/i-0abc1234567890def \
                 is not authorized to perform: bedrock:{action} on resource: \
                 arn:aws:bedrock:{region}::foundation-model/{model} because no identity-based \
                 policy allows the bedrock:{action} action"
            ),
            "ThrottlingException" => {
                "Too many requests, please wait before trying again.".to_owned()
            }
            "ModelNotReadyException" => {
                "The model is not ready to serve inference requests.".to_owned()
            }
            "ResourceNotFoundException" => "The specified resource ARN was not found.".to_owned(),
            "ServiceUnavailableException" => {
                "The service isn't currently available. Try again later.".to_owned()
            }
            "FTUFormNotFilled" => {
                "Model use case details have not been submitted for this account.".to_owned()
            }
            "ExpiredTokenException" => {
                "The security token included in the request is expired".to_owned()
            }
            "UnrecognizedClientException" => return Some(Self::unknown_client()),
            other => format!("Simulated {other} from Bedrock."),
        };
        Some(Self::new(code, message))
    }

    /// The JSON body; `capital` spells the key as some AWS front ends do.
    pub(super) fn body(&self, capital: bool) -> String {
        let extras = match self.code {
            "ModelErrorException" => {
                r#","originalStatusCode":400,"resourceName":"simulated-endpoint""#
            }
            "ModelStreamErrorException" => {
                r#","originalStatusCode":500,"originalMessage":"simulated""#
            }
            _ => "",
        };
        let key = if capital { "Message" } else { "message" };
        format!("{{\"{key}\":{}{extras}}}", super::text::Quoted(&self.message))
    }
}
