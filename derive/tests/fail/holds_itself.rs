//! A type that holds itself by way of another, which only the compiler can see.

#![allow(dead_code, unused_imports)]

extern crate self as bedrock_sso_proxy;
#[path = "../support/cache.rs"]
mod cache;

use bedrock_proxy_derive::Structural;

#[derive(Structural)]
struct Parent {
    child: To<Child>,
}

#[derive(Structural)]
struct Child {
    parent: To<Parent>,
}

#[derive(Structural)]
struct To<T>(#[cache(hash_by_hand = "one")] Box<T>);

fn main() {
    let _hash = <Parent as cache::Structural>::STRUCT_HASH;
}
