//! A type without a hash.

#![allow(dead_code, unused_imports)]

extern crate self as bedrock_sso_proxy;
#[path = "../support/cache.rs"]
mod cache;

use bedrock_proxy_derive::Structural;

struct Foreign;

#[derive(Structural)]
struct Holds {
    field: Foreign,
}

fn main() {}
