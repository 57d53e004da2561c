//! How calls end that do not end well.

use fastrand::Rng;

use super::around;
use crate::{db::usage::NewUsage, usage::Outcome};

/// A call that does not end well.
pub struct Mishap {
    /// Out of 100 000 calls.
    share: u32,
    pub outcome: Outcome,
    /// What the client was told, if the answer had not begun.
    status: Option<i32>,
    code: &'static str,
    message: &'static str,
}

#[rustfmt::skip]
static MISHAPS: [Mishap; 9] = [
    mishap(750, Outcome::UpstreamError, Some(429), "ThrottlingException", "Too many requests, please wait before trying again."),
    mishap(250, Outcome::UpstreamError, Some(503), "ServiceUnavailableException", "Bedrock is unable to process your request."),
    mishap(200, Outcome::UpstreamError, Some(400), "ValidationException", "Input is too long for requested model."),
    mishap(500, Outcome::ClientDisconnect, None, "", ""),
    mishap(100, Outcome::Timeout, Some(504), "timeout", "Bedrock did not answer in time"),
    mishap(80, Outcome::UpstreamCut, Some(503), "upstream_unavailable", "Bedrock's answer broke off."),
    mishap(30, Outcome::Shutdown, Some(503), "shutting_down", "The service is stopping. Try again."),
    mishap(20, Outcome::Interrupted, None, "", ""),
    mishap(8, Outcome::Revoked, Some(401), "revoked", "Access was withdrawn."),
];

impl Mishap {
    /// What goes wrong with one call; mostly nothing.
    pub fn draw(rng: &mut Rng) -> Option<&'static Self> {
        let mut at = rng.u32(..100_000);
        for mishap in &MISHAPS {
            if at < mishap.share {
                return Some(mishap);
            }
            at -= mishap.share;
        }
        None
    }

    /// The answer was under way, and part of it is all there is.
    pub fn break_off(&self, rng: &mut Rng, row: &mut NewUsage) {
        let part = rng.f64();
        let of = |whole: i64| ((whole as f64 * part) as i64).max(1);
        row.estimated = true;
        row.output_tokens = row.output_tokens.map(of);
        let begins = row.time_to_first_byte_ms.unwrap_or_default();
        row.response_time_ms = row.response_time_ms.map(|took| begins + of(took - begins));
        self.explain(row);
    }

    /// There was no answer.
    pub fn prevent(&self, rng: &mut Rng, row: &mut NewUsage) {
        let refused = self.outcome == Outcome::UpstreamError;
        if refused && self.status != Some(400) {
            row.upstream_attempts = rng.i32(1..=3);
        }
        row.response_time_ms = Some(match self.outcome {
            Outcome::UpstreamError => {
                i64::from(row.upstream_attempts) * around(rng, 240.0, 0.5) as i64
            }
            Outcome::Timeout => 900_000,
            _ => around(rng, 2_500.0, 0.7) as i64,
        });
        // What was sent and not answered may have used anything; what was refused has used nothing.
        row.estimated = !refused;
        row.status = self.status;
        row.upstream_request_id = row.upstream_request_id.take().filter(|_| refused);
        self.explain(row);
    }

    fn explain(&self, row: &mut NewUsage) {
        row.error_code = Some(self.code.to_owned()).filter(|code| !code.is_empty());
        row.error_message = Some(self.message.to_owned()).filter(|message| !message.is_empty());
        if self.outcome == Outcome::Interrupted {
            // The process died: its journal has the tokens so far, not how long it took.
            row.estimated = true;
            (row.response_time_ms, row.time_to_first_byte_ms) = (None, None);
            (row.status, row.upstream_request_id) = (None, None);
        }
    }
}

const fn mishap(
    share: u32,
    outcome: Outcome,
    status: Option<i32>,
    code: &'static str,
    message: &'static str,
) -> Mishap {
    Mishap { share, outcome, status, code, message }
}
