//! `/admin/usage`: what [`pages::usage`](super::super::usage) shows, of everybody.

pub use super::super::usage::{everybodys as list, one::anybodys as one};
