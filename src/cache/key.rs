//! Names under which values are kept: a prefix with a version, the type's name and structural hash, and the SHA-256 of
//! the id in full (SEC-90). No two types share one, and no id can be read off it.

use aws_lc_rs::digest::{SHA256, digest};

use super::CachedObject;

/// Of the layout of keys and values; another layout has another version.
const VERSION: &str = "v1";

/// Makes keys under one prefix.
#[derive(Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}{VERSION}:") }
    }

    /// Where a value lies.
    pub fn of<T: CachedObject>(&self, id: &[u8]) -> String {
        format!("{}:{}", self.all_of::<T>(), hashed(id))
    }

    /// Where values of one type lie together, each under its own name.
    pub fn all_of<T: CachedObject>(&self) -> String {
        format!("{}{}:{:016x}", self.prefix, T::NAME, T::STRUCT_HASH)
    }

    /// Where something is counted. A hyphen is in no type's name.
    pub fn count(&self, what: &str, id: &[u8]) -> String {
        format!("{}count-{what}:{}", self.prefix, hashed(id))
    }

    /// Where something is written to see whether it can be.
    pub fn probe(&self) -> String {
        format!("{}probe", self.prefix)
    }

    /// Of one among those that lie together, for its seal.
    pub fn beside(together: &str, name: &[u8]) -> String {
        format!("{together}:{}", hashed(name))
    }
}

fn hashed(id: &[u8]) -> String {
    hex::encode(digest(&SHA256, id))
}
