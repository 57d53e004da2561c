//! CountTokens: what it is asked to count, and which models can.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::members::Members;
use super::model::{Family, Model};
use super::operation::MAX_BODY;
use super::refusal::Refusal;
use super::request::Inquiry;

/// What CountTokens is asked to count.
pub(super) enum Counted<'a> {
    Invoke(Vec<u8>),
    Converse(&'a str),
}

pub(super) fn counted(body: &[u8]) -> Result<Counted<'_>, Refusal> {
    let wrong = || Refusal::validation("input: exactly one of invokeModel, converse is expected");
    let input = Members::read(body)?.get("input").ok_or_else(wrong)?;
    let input = Members::read(input.as_bytes())?;
    match (input.get("invokeModel"), input.get("converse")) {
        (Some(invoke), None) => {
            let blob = Members::read(invoke.as_bytes())?.get("body").ok_or_else(wrong)?;
            let text = serde_json::from_str::<String>(blob).map_err(|_| wrong())?;
            let inner = STANDARD.decode(text);
            Ok(Counted::Invoke(inner.map_err(|_| Refusal::validation("body: not base64"))?))
        }
        (None, Some(converse)) => Ok(Counted::Converse(converse)),
        _ => Err(wrong()),
    }
}

/// Passes what is to be counted for `model` to `then`, once it is known to be valid.
///
/// # Errors
/// What the operation which is asked about would refuse, and models which cannot count: they are
/// older than 3.5, or named by the id of an inference profile.
pub(super) fn count<T>(
    model: &Model,
    body: &[u8],
    then: impl FnOnce(&Inquiry<'_>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let too_old = model.version().is_some_and(|version| version < (3, 5));
    let is_profile = model.geography.is_some() && model.region.is_none();
    if model.family != Family::Claude || too_old || is_profile {
        let text = "The provided model doesn't support counting tokens.";
        return Err(Refusal::validation(text));
    }
    match counted(body)? {
        Counted::Invoke(inner) if inner.len() > MAX_BODY => {
            Err(Refusal::validation("The request body is larger than 25000000 bytes."))
        }
        Counted::Invoke(inner) => then(&Inquiry::of_invoke(model, &inner)?),
        Counted::Converse(inner) => then(&Inquiry::of_converse(model, inner.as_bytes())?),
    }
}
