//! Which errors each operation answers, and what they look like: the examples are what the service itself would send.

use serde_json::{Map, Value, json};

use crate::routes::{
    Access,
    error::{ApiError, Code, Dialect},
};

/// An error of every kind that is told by its status, when it comes, and as an example a sentence that is sent then.
const TOLD: [(Code, &str, &str); 14] = [
    (
        Code::InvalidParameter,
        "The request is malformed; the message names what is wrong",
        "limit must be 1 to 500.",
    ),
    (
        Code::Unauthorized,
        "The credential was not accepted",
        "The credential was not accepted. Send an API key or an access token as `Authorization: Bearer …` or \
         `X-API-Key: …`.",
    ),
    (
        Code::Forbidden,
        "The credential may not do this",
        "An API key cannot do this; sign in, or use an access token.",
    ),
    (Code::NotFound, "There is no such thing, or it is somebody else's", "There is no such key."),
    (Code::RequestTimeout, "The body did not arrive in time", "The body did not arrive in time."),
    (Code::Conflict, "It does not go together with what is there", "This person is disabled."),
    (
        Code::PayloadTooLarge,
        "The body is too large",
        "The body is larger than 1048576 bytes, the limit here.",
    ),
    (
        Code::UnsupportedMediaType,
        "The body is compressed, or of another type",
        "This takes JSON (Content-Type: application/json).",
    ),
    (
        Code::RateLimited,
        "Too many of these; Retry-After says when to try again",
        "Too many of these. Try again in 7 s. The limit is rate_limits.key_creations_per_hour.",
    ),
    (
        Code::HeadersTooLarge,
        "The request line or the headers are too large",
        "The headers are too large.",
    ),
    (Code::Internal, "The service failed", "The service failed to answer this request."),
    (
        Code::DatabaseUnavailable,
        "The service, or a part it needs, is not available; try again",
        "The database is away at the moment. Try again.",
    ),
    (Code::UpstreamTimeout, "Bedrock did not answer in time", "Bedrock did not answer in time."),
    (
        Code::MethodNotAllowed,
        "The path does not take this method; Allow says which",
        "This path does not take this method.",
    ),
];
const REQUEST_ID: &str = "01935f6e-7b1a-7c41-9f0e-3b1f0a6d2c55";

/// How the errors of a path are described.
fn dialect(path: &str) -> Dialect {
    match Dialect::of(path) {
        // A browser that wants a page is given one.
        Dialect::Own if !path.starts_with("/api/") => Dialect::Page,
        dialect => dialect,
    }
}

fn name(dialect: Dialect, code: Code) -> String {
    format!("{dialect:?}{code:?}")
}

/// Writes the errors that follow from who may call and how into an operation, in the place of those derived.
pub fn declare(operation: &mut Map<String, Value>, access: Access, method: &str, path: &str) {
    let dialect = dialect(path);
    let private = !matches!(access, Access::Public | Access::Code);
    let inference = access == Access::Caller && method == "post";
    let applies = |code: Code| match code {
        Code::Unauthorized | Code::Forbidden => private,
        Code::NotFound => path.contains('{'),
        Code::RequestTimeout | Code::PayloadTooLarge | Code::UnsupportedMediaType => {
            matches!(method, "post" | "put" | "patch")
        }
        Code::RateLimited => access != Access::Public,
        Code::UpstreamTimeout => inference,
        // Where they come is said by hand.
        Code::Conflict | Code::MethodNotAllowed => false,
        _ => true,
    };
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    let Some(responses) = responses.as_object_mut() else { return };
    responses.retain(|status, _| !status.starts_with(['4', '5']));
    for (code, description, message) in TOLD.iter().filter(|(code, ..)| applies(*code)) {
        let status = ApiError::new(*code, *message).status(dialect).to_string();
        let response = match method {
            "head" => json!({ "description": description }),
            _ => json!({ "$ref": format!("#/components/responses/{}", name(dialect, *code)) }),
        };
        responses.insert(status, response);
    }
    if inference {
        let anything = format!("#/components/responses/{dialect:?}Upstream");
        responses.insert("default".to_owned(), json!({ "$ref": anything }));
    }
}

/// Every error in every dialect, for `components.responses`.
pub fn responses() -> Value {
    use Dialect as D;
    let mut all = Map::new();
    for dialect in [D::Own, D::Page, D::OAuth, D::Bedrock, D::Anthropic] {
        for (code, description, message) in TOLD {
            all.insert(name(dialect, code), response(dialect, code, description, message));
        }
    }
    Value::Object(all)
}

fn response(dialect: Dialect, code: Code, description: &str, message: &'static str) -> Value {
    let error = ApiError::new(code, message).on(dialect, REQUEST_ID.to_owned());
    let schema = match dialect {
        Dialect::Own | Dialect::Page => "Error",
        Dialect::OAuth => "OAuthError",
        Dialect::Bedrock => "BedrockError",
        Dialect::Anthropic => "AnthropicError",
    };
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let mut content = json!({ "application/json": { "schema": schema, "example": error.body() } });
    if dialect == Dialect::Page {
        content["text/html"] = json!({ "schema": { "type": "string" } });
    }
    let mut headers = vec![("x-request-id", "RequestId")];
    match code {
        Code::Unauthorized => headers.push(("www-authenticate", "WwwAuthenticate")),
        Code::MethodNotAllowed => headers.push(("allow", "Allow")),
        Code::RateLimited | Code::DatabaseUnavailable => {
            headers.push(("retry-after", "RetryAfter"));
        }
        _ => {}
    }
    match dialect {
        Dialect::Bedrock => headers.push(("x-amzn-errortype", "AmznErrorType")),
        Dialect::Anthropic => headers.push(("request-id", "AnthropicRequestId")),
        _ => {}
    }
    let reference = |component| json!({ "$ref": format!("#/components/headers/{component}") });
    let headers: Map<String, Value> = headers
        .into_iter()
        .map(|(header, component)| (header.to_owned(), reference(component)))
        .collect();
    json!({ "description": description, "headers": headers, "content": content })
}
