//! What the derives write against: the service's own trait, without the rest of the service.

#[path = "../../../src/cache/structural.rs"]
mod structural;

pub use bedrock_proxy_derive::{CachedObject, Structural};
pub use structural::*;
