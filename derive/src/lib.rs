//! `#[derive(CachedObject)]` and `#[derive(Structural)]`: a hash of what a type is made of, so that a value that was
//! cached under another shape of the type is never read. `docs/decisions/0010` says why and what it covers.
//!
//! What goes into the hash: the type's name, its generic arguments, and in their order the fields and variants with
//! names, kinds, types and serde attributes. Types count by their own hash, not by how they are spelled, so an alias or
//! a longer path changes nothing. Comments, visibility and other attributes do not count.

mod attributes;
mod shape;

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

/// A value that `bedrock_sso_proxy::cache::TypedCache` can hold.
///
/// `#[cache(name = "identity", ttl = 60)]` is required: the name in keys and metrics (`a-z`, `0-9`, `_`), and how long
/// a value lives, in seconds. Implements `Structural`, too.
#[proc_macro_derive(CachedObject, attributes(cache, serde))]
pub fn cached_object(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let both = shape::cached(&input).and_then(|cached| Ok((cached, shape::structural(&input)?)));
    match both {
        Ok((cached, structural)) => quote!(#structural #cached).into(),
        Err(error) => error.into_compile_error().into(),
    }
}

/// A type inside a cached one.
///
/// What cannot be followed (serde's `with` and the like, foreign types, types that hold themselves) is a compile
/// error, unless `#[cache(hash_by_hand = "text")]` stands on the type or field: the text then stands for what is inside,
/// and has to be changed with it.
#[proc_macro_derive(Structural, attributes(cache, serde))]
pub fn structural(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    shape::structural(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
