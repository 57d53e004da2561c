//! Reads `#[cache(…)]` and `#[serde(…)]`.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, Error, LitInt, LitStr, Meta, Result, Token, punctuated::Punctuated, spanned::Spanned,
};

/// How to get out of what cannot be followed.
pub const BY_HAND: &str = "declare a hash by hand, #[cache(hash_by_hand = \"text\")] on the type or field, and change \
                           the text whenever what is inside changes";

/// serde attributes that hand the work to code the macro does not see.
const OUT_OF_SIGHT: [&str; 8] =
    ["with", "serialize_with", "deserialize_with", "from", "try_from", "into", "remote", "getter"];

/// serde attributes whose text says all that they do to a stored value. One that is not here may be new, and is refused.
const FOLLOWED: [&str; 22] = [
    "alias",
    "borrow",
    "bound",
    "content",
    "crate",
    "default",
    "deny_unknown_fields",
    "expecting",
    "field_identifier",
    "flatten",
    "other",
    "rename",
    "rename_all",
    "rename_all_fields",
    "skip",
    "skip_deserializing",
    "skip_serializing",
    "skip_serializing_if",
    "tag",
    "transparent",
    "untagged",
    "variant_identifier",
];

/// What `#[cache(…)]` says.
#[derive(Default)]
pub struct Cache {
    pub name: Option<LitStr>,
    /// Seconds.
    pub ttl: Option<LitInt>,
    pub hash_by_hand: Option<LitStr>,
}

impl Cache {
    pub fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut read = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("cache")) {
            attribute.parse_nested_meta(|meta| {
                let twice = if meta.path.is_ident("name") {
                    read.name.replace(meta.value()?.parse()?).is_some()
                } else if meta.path.is_ident("ttl") {
                    read.ttl.replace(meta.value()?.parse()?).is_some()
                } else if meta.path.is_ident("hash_by_hand") {
                    read.hash_by_hand.replace(meta.value()?.parse()?).is_some()
                } else {
                    return Err(meta.error("expected `name`, `ttl` or `hash_by_hand`"));
                };
                if twice { Err(meta.error("given twice")) } else { Ok(()) }
            })?;
        }
        Ok(read)
    }
}

/// Each serde attribute in its order, spelled so that white space and the way they are grouped make no difference.
/// `by_hand`: the hash is declared, so nothing has to be followed.
pub fn serde(attributes: &[Attribute], by_hand: bool) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let metas = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)?;
        for meta in metas {
            let known = |names: &[&str]| names.iter().any(|name| meta.path().is_ident(name));
            if !by_hand && known(&OUT_OF_SIGHT) {
                let message =
                    "the structural hash cannot follow this attribute into the code it names";
                return Err(Error::new(meta.span(), format!("{message}; {BY_HAND}")));
            }
            if !by_hand && !known(&FOLLOWED) {
                let message = "the structural hash does not know this attribute of serde";
                return Err(Error::new(meta.span(), format!("{message}; {BY_HAND}")));
            }
            let mut text = String::new();
            spell(meta.to_token_stream(), &mut text);
            all.push(text);
        }
    }
    Ok(all)
}

/// Tokens one by one: how compilers space them out differs between versions.
fn spell(tokens: TokenStream, into: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                into.push_str(open);
                spell(group.stream(), into);
                into.push_str(close);
            }
            TokenTree::Punct(punct) => into.push(punct.as_char()),
            TokenTree::Ident(ident) => into.push_str(&format!("{ident} ")),
            TokenTree::Literal(literal) => into.push_str(&format!("{literal} ")),
        }
    }
}
