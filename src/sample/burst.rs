//! A piece of work, one call after the other: a session of Claude Code, a few questions, a run of a program.

use fastrand::Rng;
use uuid::{Builder, Uuid};

use super::{
    HOUR, MINUTE, around,
    crowd::{Habits, Kind},
    mishap::Mishap,
    models::{self, MODELS, Model},
    timestamp,
};
use crate::{bedrock::Operation, db::usage::NewUsage, usage::Outcome};

/// A prompt of Claude Code begins with this much, and is compacted when it comes to that much.
const FIRST_PROMPT: f64 = 19_000.0;
const FULL_PROMPT: i64 = 155_000;
/// The prompt cache forgets after this, unless an hour was paid for.
const CACHE_LIFE: i64 = 5 * MINUTE;
const MOST_OUTPUT: i64 = 32_000;

/// Ordered by its next call, which is why that comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Burst {
    /// When the next call begins, in milliseconds since 1970.
    pub next: i64,
    /// Index of who works.
    pub person: usize,
    /// Calls to come.
    pub left: u32,
    kind: Kind,
    near: usize,
    anywhere: bool,
    model: usize,
    /// Speaks Bedrock's own dialect.
    native: bool,
    key: Option<i64>,
    session: Option<Uuid>,
    agent: Option<Uuid>,
    /// Tokens of the prompt so far, and whether the cache has them.
    context: i64,
    cached: bool,
    cached_for_an_hour: bool,
}

impl Burst {
    pub fn begin(
        rng: &mut Rng,
        person: usize,
        habits: &Habits,
        keys: &[i64],
        next: i64,
        end: i64,
    ) -> Self {
        let kind = habits.kind;
        let (median, sigma) = kind.work().burst;
        let model = models::choose(rng, kind, next, end);
        let codes = kind.uses_claude_code();
        let native = match kind {
            Kind::Chat => rng.u32(..100) < 45,
            Kind::Program => !MODELS[model].is_claude() || rng.u32(..100) < 50,
            Kind::Agents | Kind::Developer => false,
        };
        // What is begun shortly before the end stays short: nobody makes a hundred calls in a minute.
        let room = (end - next) / if kind == Kind::Program { 2_000 } else { 30_000 };
        // Programs use a key if there is one; people as often as not a token of their sign-in.
        let with_key = kind == Kind::Program || rng.bool();
        Self {
            next,
            person,
            left: (around(rng, median, sigma) as u32).clamp(1, 600).min(room as u32 + 1),
            kind,
            near: habits.near,
            anywhere: rng.u32(..100) < 20,
            model,
            native,
            key: if with_key { rng.choice(keys).copied() } else { None },
            session: codes.then(|| random_uuid(rng)),
            agent: (kind == Kind::Agents && rng.u32(..100) < 15).then(|| random_uuid(rng)),
            context: 0,
            cached: false,
            cached_for_an_hour: codes && rng.u32(..100) < 12,
        }
    }

    /// Makes the next call and sets the time of the one after it, before `end` whatever comes.
    pub fn call(&mut self, rng: &mut Rng, user_id: i64, end: i64) -> NewUsage {
        let row = self.row(rng, user_id);
        let pause = row.response_time_ms.unwrap_or_default() + self.think(rng);
        let life = if self.cached_for_an_hour { HOUR } else { CACHE_LIFE };
        self.cached &= pause < life;
        self.left -= 1;
        self.next += pause.min((end - 1 - self.next) / i64::from(self.left.max(1)));
        row
    }

    fn think(&self, rng: &mut Rng) -> i64 {
        let reads_what_was_done = self.kind.uses_claude_code() && rng.u32(..100) < 4;
        let (median, sigma) =
            if reads_what_was_done { (200.0, 0.8) } else { (self.kind.work().pause, 0.9) };
        (around(rng, median, sigma) * 1000.0) as i64
    }

    fn row(&mut self, rng: &mut Rng, user_id: i64) -> NewUsage {
        let dice = if self.session.is_some() { rng.u32(..100) } else { 100 };
        let (aside, counts) = (dice < 6, (6..9).contains(&dice));
        let index = if aside { models::small(rng, self.next) } else { self.model };
        let model = &MODELS[index];
        let operation = self.operation(rng, model, counts);
        let (model_id, region) = model.called_from(self.near, self.anywhere);
        let mut row = NewUsage {
            call_id: call_id(rng, self.next),
            user_id,
            key_id: self.key,
            endpoint_type: if self.native { "bedrock" } else { "anthropic" }.to_owned(),
            operation: operation.as_str().to_owned(),
            model_requested: if self.native { model_id.clone() } else { model.alias.to_owned() },
            model_id,
            region: region.to_owned(),
            request_time: timestamp(self.next),
            streamed: operation.streams(),
            status: Some(200),
            upstream_attempts: 1,
            request_id: text(random_uuid(rng)),
            upstream_request_id: Some(text(random_uuid(rng))),
            client_session_id: self.session.map(text),
            client_agent_id: self.agent.map(text),
            ..NewUsage::default()
        };
        if counts {
            let took = around(rng, 180.0, 0.4) as i64;
            row.response_time_ms = Some(took);
            row.time_to_first_byte_ms = Some(took);
            row.cost_nano_usd = Some(0);
            Outcome::Success.as_str().clone_into(&mut row.outcome);
            return row;
        }
        let mishap = Mishap::draw(rng);
        let outcome = mishap.map_or(Outcome::Success, |mishap| mishap.outcome);
        outcome.as_str().clone_into(&mut row.outcome);
        let answered = match outcome {
            Outcome::Success => true,
            Outcome::UpstreamError | Outcome::Timeout => false,
            _ => row.streamed,
        };
        if answered {
            let tokens = if aside { aside_tokens(rng) } else { self.tokens(rng) };
            answer(rng, &mut row, model, tokens);
        }
        match mishap {
            None => row.stop_reason = Some(self.stop_reason(rng, aside).to_owned()),
            Some(mishap) if answered => mishap.break_off(rng, &mut row),
            Some(mishap) => mishap.prevent(rng, &mut row),
        }
        row
    }

    fn operation(&self, rng: &mut Rng, model: &Model, counts: bool) -> Operation {
        let streams = match self.kind {
            Kind::Agents | Kind::Developer => true,
            Kind::Chat => rng.u32(..100) < 75,
            Kind::Program => false,
        };
        let converse = self.native && (self.kind == Kind::Chat || !model.is_claude());
        match (converse, streams) {
            _ if counts => Operation::CountTokens,
            (true, true) => Operation::ConverseStream,
            (true, false) => Operation::Converse,
            (false, true) => Operation::InvokeStream,
            (false, false) => Operation::Invoke,
        }
    }

    /// What a call of this piece of work uses; its prompt grows by that.
    fn tokens(&mut self, rng: &mut Rng) -> Tokens {
        match self.kind {
            Kind::Agents | Kind::Developer => self.session_tokens(rng),
            Kind::Chat => {
                let input = self.context + around(rng, 260.0, 1.1) as i64 + 20;
                let output = output(rng, 330.0, 0.9);
                self.context = input + output;
                [input, output, 0, 0, 0]
            }
            Kind::Program => {
                [around(rng, 1_600.0, 0.7) as i64 + 10, output(rng, 130.0, 0.8), 0, 0, 0]
            }
        }
    }

    fn session_tokens(&mut self, rng: &mut Rng) -> Tokens {
        if self.context == 0 || self.context > FULL_PROMPT {
            self.context = around(rng, FIRST_PROMPT, 0.2) as i64;
            self.cached = false;
        }
        let fresh = around(rng, 850.0, 1.1) as i64;
        let read = if self.cached { self.context } else { 0 };
        let write = self.context - read + fresh;
        let for_an_hour = if self.cached_for_an_hour { write } else { 0 };
        let output = output(rng, 190.0, 1.1);
        self.context += fresh + output;
        self.cached = true;
        [rng.i64(3..14), output, write, for_an_hour, read]
    }

    fn stop_reason(&self, rng: &mut Rng, aside: bool) -> &'static str {
        match (self.session.is_some() && !aside, rng.u32(..100)) {
            (_, 0) => "max_tokens",
            (true, 1..80) => "tool_use",
            _ => "end_turn",
        }
    }
}

/// A title for the session, a summary of a page.
fn aside_tokens(rng: &mut Rng) -> Tokens {
    [around(rng, 700.0, 0.9) as i64 + 10, output(rng, 35.0, 0.6), 0, 0, 0]
}

fn output(rng: &mut Rng, median: f64, sigma: f64) -> i64 {
    (around(rng, median, sigma) as i64).clamp(1, MOST_OUTPUT)
}

/// Input, output, cache writes, those of them for an hour, cache reads.
type Tokens = [i64; 5];

/// An answer takes longer to begin the more is read for it, and then as long as it is.
fn answer(rng: &mut Rng, row: &mut NewUsage, model: &Model, tokens: Tokens) {
    let [input, output, write, write_1h, read] = tokens;
    let reading = (input + write) / 50 + read / 400;
    let begins = around(rng, 45.0 * model.ms_per_token as f64, 0.35) as i64 + reading;
    let took = begins + around(rng, (output * model.ms_per_token) as f64, 0.2) as i64;
    row.response_time_ms = Some(took);
    row.time_to_first_byte_ms = Some(if row.streamed { begins } else { took });
    row.input_tokens = Some(input);
    row.output_tokens = Some(output);
    row.cache_write_tokens = Some(write);
    row.cache_write_1h_tokens = Some(write_1h);
    row.cache_read_tokens = Some(read);
}

/// Version 7: its first part is the time, so that rows are written in the order of their index.
fn call_id(rng: &mut Rng, at: i64) -> String {
    let mut tail = [0; 10];
    rng.fill(&mut tail);
    text(Builder::from_unix_timestamp_millis(at.max(0).cast_unsigned(), &tail).into_uuid())
}

fn random_uuid(rng: &mut Rng) -> Uuid {
    Builder::from_random_bytes(rng.u128(..).to_le_bytes()).into_uuid()
}

fn text(id: Uuid) -> String {
    let mut buffer = Uuid::encode_buffer();
    id.hyphenated().encode_lower(&mut buffer).to_owned()
}
