//! What the derive refuses by itself.

#![allow(dead_code, unused_imports)]

extern crate self as bedrock_sso_proxy;
#[path = "../support/cache.rs"]
mod cache;

use bedrock_proxy_derive::{CachedObject, Structural};
use serde::{Deserialize, Serialize};

#[derive(Structural)]
struct With {
    #[serde(with = "elsewhere")]
    field: u8,
}

#[derive(Structural)]
#[serde(from = "u8", into = "u8")]
struct From(u8);

#[derive(Structural)]
#[serde(remote = "Duration")]
struct Remote(u8);

#[derive(Structural)]
enum InAVariant {
    #[serde(serialize_with = "elsewhere")]
    Variant(u8),
}

#[derive(Structural)]
#[serde(of_tomorrow)]
struct Unknown(u8);

#[derive(Structural)]
union Union {
    one: u8,
    other: u16,
}

#[derive(Structural)]
struct Object(Box<dyn Send>);

#[derive(Structural)]
struct Function(fn() -> u8);

#[derive(Structural)]
struct List {
    next: Option<Box<List>>,
}

#[derive(Structural)]
enum Tree {
    Branch(Vec<Self>),
}

#[derive(Structural)]
#[cache(hash_by_feet = "1")]
struct Misspelled;

#[derive(Structural)]
struct OnAField {
    #[cache(ttl = 5)]
    field: u8,
}

#[derive(Clone, Serialize, Deserialize, CachedObject)]
struct Unnamed;

#[derive(Clone, Serialize, Deserialize, CachedObject)]
#[cache(name = "Not Plain", ttl = 5)]
struct BadName;

#[derive(Clone, Serialize, Deserialize, CachedObject)]
#[cache(name = "never", ttl = 0)]
struct NoTime;

fn main() {}
