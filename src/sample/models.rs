//! Which model a piece of work uses: each family's newest takes over within weeks of its release.

use chrono::NaiveDate;
use fastrand::Rng;

use super::{DAY, crowd::Kind, timestamp};

/// How long a new model takes to be everybody's.
const ADOPTION_DAYS: f64 = 75.0;
/// How long the newest one, which has no price, has been tried at the end of a plan.
const TRIAL: i64 = 14 * DAY;

pub struct Model {
    /// The name on the Anthropic endpoint.
    pub alias: &'static str,
    id: &'static str,
    released: NaiveDate,
    /// In front of the id: near America, Europe, Japan; for those who do not mind where.
    profiles: [&'static str; 4],
    pub ms_per_token: i64,
}

const US_ONLY: [&str; 4] = ["us."; 4];
const EVERYWHERE: [&str; 4] = ["us.", "eu.", "jp.", "global."];
const NO_JAPAN: [&str; 4] = ["us.", "eu.", "global.", "global."];
const APAC: [&str; 4] = ["us.", "eu.", "apac.", "global."];
const BARE: [&str; 4] = [""; 4];

/// Families, oldest model first; in step with `settings/models.csv` and the shipped prices.
#[rustfmt::skip]
pub static MODELS: [Model; 18] = [
    model("claude-sonnet-4-20250514", "anthropic.claude-sonnet-4-20250514-v1:0", (2025, 5, 22), APAC, 14),
    model("claude-sonnet-4-5-20250929", "anthropic.claude-sonnet-4-5-20250929-v1:0", (2025, 9, 29), EVERYWHERE, 14),
    model("claude-sonnet-4-6", "anthropic.claude-sonnet-4-6", (2026, 2, 17), EVERYWHERE, 13),
    model("claude-sonnet-5", "anthropic.claude-sonnet-5", (2026, 6, 30), EVERYWHERE, 12),
    model("claude-sonnet-5-5", "anthropic.claude-sonnet-5-5", (2026, 9, 28), EVERYWHERE, 11),
    model("claude-opus-4-1-20250805", "anthropic.claude-opus-4-1-20250805-v1:0", (2025, 8, 5), US_ONLY, 22),
    model("claude-opus-4-5-20251101", "anthropic.claude-opus-4-5-20251101-v1:0", (2025, 11, 24), NO_JAPAN, 19),
    model("claude-opus-4-6", "anthropic.claude-opus-4-6-v1", (2026, 2, 5), EVERYWHERE, 18),
    model("claude-opus-4-8", "anthropic.claude-opus-4-8", (2026, 5, 28), EVERYWHERE, 17),
    model("claude-opus-5", "anthropic.claude-opus-5", (2026, 7, 24), EVERYWHERE, 17),
    model("claude-opus-5-5", "anthropic.claude-opus-5-5", (2026, 9, 21), EVERYWHERE, 16),
    model("claude-3-5-haiku-20241022", "anthropic.claude-3-5-haiku-20241022-v1:0", (2024, 10, 22), US_ONLY, 9),
    model("claude-haiku-4-5-20251001", "anthropic.claude-haiku-4-5-20251001-v1:0", (2025, 10, 15), EVERYWHERE, 7),
    model("claude-haiku-5-5", "anthropic.claude-haiku-5-5", (2026, 10, 7), EVERYWHERE, 6),
    model("amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0", (2024, 12, 3), BARE, 5),
    model("amazon.nova-micro-v1:0", "amazon.nova-micro-v1:0", (2024, 12, 3), BARE, 4),
    model("amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0", (2024, 12, 3), BARE, 9),
    // No price was shipped for it, so that lists of what has none are not empty.
    model("claude-fable-5-2", "anthropic.claude-fable-5-2", (2026, 11, 9), BARE, 20),
];
const SONNET: (usize, usize) = (0, 5);
const OPUS: (usize, usize) = (5, 11);
const HAIKU: (usize, usize) = (11, 14);
const NOVA_LITE: usize = 14;
const NOVA_MICRO: usize = 15;
const NOVA_PRO: usize = 16;
const UNPRICED: usize = 17;

impl Model {
    pub fn is_claude(&self) -> bool {
        self.id.starts_with("anthropic.")
    }

    /// The id with its profile, and the region it is called in by people in this place.
    pub fn called_from(&self, near: usize, anywhere: bool) -> (String, &'static str) {
        let profile = self.profiles[if anywhere { 3 } else { near }];
        let region = match (profile, near) {
            ("us.", _) | ("" | "global.", 0) => "us-east-1",
            ("eu.", _) | ("" | "global.", 1) => "eu-central-1",
            _ => "ap-northeast-1",
        };
        let mut id = String::with_capacity(profile.len() + self.id.len());
        id.push_str(profile);
        id.push_str(self.id);
        (id, region)
    }
}

/// An index into [`MODELS`]. `end` is that of the plan.
pub fn choose(rng: &mut Rng, kind: Kind, at: i64, end: i64) -> usize {
    if kind != Kind::Program && at >= end - TRIAL && rng.u32(..20) == 0 {
        return UNPRICED;
    }
    match (kind, rng.u32(..100)) {
        (Kind::Agents, ..60) | (Kind::Developer, ..25) => newest(rng, OPUS, at),
        (Kind::Agents | Kind::Developer, _) | (Kind::Chat, ..70) => newest(rng, SONNET, at),
        (Kind::Program, ..50) => NOVA_LITE,
        (Kind::Program, 50..65) => NOVA_MICRO,
        (Kind::Program, 65..70) => NOVA_PRO,
        (Kind::Chat | Kind::Program, _) => newest(rng, HAIKU, at),
    }
}

/// The model that Claude Code gives small tasks.
pub fn small(rng: &mut Rng, at: i64) -> usize {
    newest(rng, HAIKU, at)
}

/// The newest of a family that this piece of work has come to. Goes from the newest down; a model is passed over the
/// likelier the younger it is.
fn newest(rng: &mut Rng, (first, after): (usize, usize), at: i64) -> usize {
    let today = timestamp(at).date();
    let adopted = |model: &Model| (today - model.released).num_days() as f64 / ADOPTION_DAYS;
    let taken = (first..after).rev().find(|index| rng.f64() < adopted(&MODELS[*index]).min(0.98));
    taken.unwrap_or(first)
}

const fn model(
    alias: &'static str,
    id: &'static str,
    (year, month, day): (i32, u32, u32),
    profiles: [&'static str; 4],
    ms_per_token: i64,
) -> Model {
    let released = match NaiveDate::from_ymd_opt(year, month, day) {
        Some(date) => date,
        None => NaiveDate::MIN,
    };
    Model { alias, id, released, profiles, ms_per_token }
}
