//! What a call used: token counts, how it ended, and the one place that decides both.

pub mod call;
pub mod journal;
pub mod meter;

use serde::{Deserialize, Serialize};

/// Tokens of one call. `None` = not reported, 0 = reported to be none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Prompt tokens that were neither read from nor written to the cache.
    pub input: Option<i64>,
    pub output: Option<i64>,
    /// All cache writes; `cache_write_1h` is the part of them kept for an hour.
    pub cache_write: Option<i64>,
    pub cache_write_1h: Option<i64>,
    pub cache_read: Option<i64>,
}

impl TokenCounts {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    UpstreamError,
    UpstreamCut,
    Timeout,
    ClientDisconnect,
    Shutdown,
    /// The caller lost access meanwhile.
    Revoked,
    Interrupted,
}

impl Outcome {
    /// The spelling of `outcome` in rows and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamCut => "upstream_cut",
            Self::Timeout => "timeout",
            Self::ClientDisconnect => "client_disconnect",
            Self::Shutdown => "shutdown",
            Self::Revoked => "revoked",
            Self::Interrupted => "interrupted",
        }
    }
}
