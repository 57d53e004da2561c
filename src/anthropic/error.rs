//! How Bedrock's failures are told to clients of the Messages API (protocol reference §4.7).

/// A failure in Anthropic's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Before the stream; in the middle of one only `kind` counts.
    pub status: u16,
    /// `error.type`
    pub kind: &'static str,
    /// Told to SDKs that would decide otherwise by the status.
    pub should_retry: Option<bool>,
}

impl Told {
    const fn new(status: u16, kind: &'static str) -> Self {
        Self { status, kind, should_retry: None }
    }
}

/// What an exception of Bedrock's is called. `status` is that of the answer, or 500 in a stream; `original` is the
/// `originalStatusCode` of a model's own error.
pub fn of_exception(name: &str, status: u16, original: Option<u16>) -> Told {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if is("ServiceQuotaExceededException") {
        // 429 makes SDKs try again at once, which a used-up quota does not deserve.
        return Told { should_retry: Some(false), ..of_status(429) };
    }
    if is("ModelErrorException") || is("ModelStreamErrorException") {
        return of_status(if matches!(original, Some(400..=499)) { 400 } else { 500 });
    }
    let known = [
        ("ValidationException", 400),
        ("AccessDeniedException", 403),
        ("ResourceNotFoundException", 404),
        ("ModelTimeoutException", 504),
        ("ThrottlingException", 429),
        ("ModelNotReadyException", 529),
        ("InternalServerException", 500),
        ("InternalFailure", 500),
        ("ServiceUnavailableException", 529),
    ];
    let status = known.iter().find(|(known, _)| is(known)).map_or(status, |(_, status)| *status);
    of_status(status)
}

/// The type that belongs to a status.
pub fn of_status(status: u16) -> Told {
    match status {
        401 => Told::new(401, "authentication_error"),
        402 => Told::new(402, "billing_error"),
        403 => Told::new(403, "permission_error"),
        404 => Told::new(404, "not_found_error"),
        408 => Told::new(408, "timeout_error"),
        409 => Told::new(409, "conflict_error"),
        413 => Told::new(413, "request_too_large"),
        429 => Told::new(429, "rate_limit_error"),
        503 | 529 => Told::new(529, "overloaded_error"),
        504 => Told::new(504, "timeout_error"),
        405 | 415 | 431 => Told::new(status, "invalid_request_error"),
        400..=499 => Told::new(400, "invalid_request_error"),
        _ => Told::new(500, "api_error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_has_its_status_and_type() {
        for (name, status, original, wanted) in [
            ("ValidationException", 400, None, (400, "invalid_request_error")),
            ("validationException", 500, None, (400, "invalid_request_error")),
            ("ServiceQuotaExceededException", 400, None, (429, "rate_limit_error")),
            ("AccessDeniedException", 403, None, (403, "permission_error")),
            ("ResourceNotFoundException", 404, None, (404, "not_found_error")),
            ("ModelTimeoutException", 408, None, (504, "timeout_error")),
            ("ModelErrorException", 424, Some(400), (400, "invalid_request_error")),
            ("ModelErrorException", 424, Some(500), (500, "api_error")),
            ("ModelErrorException", 424, None, (500, "api_error")),
            ("modelStreamErrorException", 500, Some(422), (400, "invalid_request_error")),
            ("throttlingException", 500, None, (429, "rate_limit_error")),
            ("ModelNotReadyException", 429, None, (529, "overloaded_error")),
            ("InternalServerException", 500, None, (500, "api_error")),
            ("InternalFailure", 500, None, (500, "api_error")),
            ("serviceUnavailableException", 500, None, (529, "overloaded_error")),
            ("FTUFormNotFilled", 404, None, (404, "not_found_error")),
            ("SomethingNew", 418, None, (400, "invalid_request_error")),
            ("SomethingNew", 502, None, (500, "api_error")),
        ] {
            let told = of_exception(name, status, original);

            assert_eq!((told.status, told.kind), wanted, "{name}");
            assert_eq!(told.should_retry.is_some(), name.starts_with("ServiceQuota"), "{name}");
        }
    }
}
