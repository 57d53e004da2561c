//! Scenarios: what a request body asks the simulator to do, with `@sim:NAME key=value …`.
//!
//! The directive is looked for in the raw bytes. It ends at the first byte which fits neither a name
//! nor ` key=value`; names, keys and values are letters, digits and `_`. The last one in a body wins.

use std::time::Duration;

use super::refusal::Refusal;

macro_rules! scenarios {
    ($($kind:ident $name:literal $what:literal,)*) => {
        /// What a directive can ask for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $(#[doc = $what] $kind,)* }

        /// Every scenario: its name, and what it does with which parameters.
        pub const SCENARIOS: &[(&str, &str)] = &[$(($name, $what),)*];

        impl Kind {
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

scenarios! {
    Plain "plain" "An ordinary reply; carries `events`, `delay_ms`, `coalesce=1` or `split=1`.",
    Throttle "throttle" "429 ThrottlingException; `retry_after=N` adds that header.",
    Error "error" "`code=…` with its status, or `status=N`; `uri=1` appends a URI to the type header, \
        `capital=1` writes `Message`, `bare=1` leaves the type header out.",
    Credentials "credentials" "403 UnrecognizedClientException, as if the proxy's key were bad.",
    Html "html" "An HTML page with `status=N`, default 502.",
    BadJson "badjson" "Broken JSON with `status=N`, default 200; in a stream event `after=N`, \
        `kind=payload` (default) or `kind=bytes` for the decoded chunk.",
    Flaky "flaky" "The first `times=N` calls, default 1, with this `key=…` fail with `code=…`, default \
        ThrottlingException; `retry_after=N` adds that header.",
    Refuse "refuse" "400 `PATH: Extra inputs are not permitted` while the body has the member which \
        the path `field=…` begins with; `__` stands for a dot.",
    Echo "echo" "`hex=…`, UTF-8: the whole reply of InvokeModel; streamed, an event a line between \
        the model's first and last ones, or alone with `wrap=0`.",
    Slow "slow" "Waits `delay_ms=N`, default 1000, before the head.",
    Late "late" "A stream whose first event comes `delay_ms=N`, default 1000, after the head.",
    Pause "pause" "A stream which is silent for `delay_ms=N`, default 1000, after `after=N` events.",
    Hang "hang" "Never answers.",
    HangMid "hang_mid" "`after=N` events, then silence.",
    Cut "cut" "`after=N` events, half of the next frame, then the connection closes.",
    CutClean "cut_clean" "`after=N` events, half of the next frame, then the body ends properly.",
    CutBoundary "cut_boundary" "`after=N` events, then the body ends properly.",
    Reset "reset" "Resets the connection before any byte of an answer.",
    Exception "exception" "`after=N` events, then an exception frame; `type=throttlingException`.",
    ErrorFrame "errorframe" "`after=N` events, then an error frame.",
    BadCrc "badcrc" "The frame after `after=N` events has a wrong checksum: `kind=prelude` or \
        `kind=message` (default).",
    BadLength "badlen" "After `after=N` events a prelude with an absurd length and a valid checksum.",
    Garbage "garbage" "After `after=N` events 4 KiB which are no frame; the whole body if not a stream.",
    Stream "stream" "`events=N` text deltas, default 20, `delay_ms=N` before each event but the first.",
    Large "large" "Text of `kb=N` KiB, default 256, in one event if streamed.",
    OneFrame "oneframe" "The first text event is padded to a frame of `kb=N` KiB, default 256.",
    NoUsage "nousage" "No usage anywhere.",
    Nonsense "nonsense" "Usage with negative, huge, fractional and string numbers.",
    AbortUsage "abortusage" "A long stream (`events=2000 delay_ms=5`) with usage only at the start.",
    MultiDelta "multidelta" "Several cumulative `message_delta` events (Claude).",
    CacheOnlyStart "cacheonlystart" "Cache counts only in `message_start`.",
    CacheOnlyStop "cacheonlystop" "Cache counts only in the metrics.",
    MetricsOnly "metricsonly" "A last chunk of nothing but metrics; `only=1`: no usage elsewhere.",
    Redirect "redirect" "302 to http://169.254.169.254/.",
    HopHeaders "hopheaders" "The answer has Set-Cookie, X-Internal, X-Foo and `Connection: x-foo`.",
    Tools "tools" "Calls the first tool of the request, unless its last message is a tool result.",
    Thinking "thinking" "A thinking block before the text.",
}

/// Limits, so that a directive cannot eat the machine.
const MAX_EVENTS: u64 = 1_000_000;
const MAX_KIB: u64 = 64 * 1024;

/// A directive, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scenario {
    /// `None` if the body has no directive.
    pub(super) kind: Option<Kind>,
    pub(super) after: Option<u64>,
    pub(super) events: Option<u64>,
    pub(super) delay: Option<Duration>,
    pub(super) kib: Option<u64>,
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<u64>,
    pub(super) code: Option<String>,
    pub(super) exception: Option<String>,
    pub(super) variant: Option<String>,
    pub(super) coalesce: bool,
    pub(super) split: bool,
    pub(super) uri: bool,
    pub(super) capital: bool,
    pub(super) bare: bool,
    pub(super) only: bool,
    pub(super) times: Option<u64>,
    pub(super) key: Option<String>,
    /// Path of a member.
    pub(super) field: Option<String>,
    pub(super) echoed: Option<String>,
    /// The events which are echoed are the whole stream.
    pub(super) alone: bool,
    /// Where the directive starts in the body.
    pub(super) at: usize,
}

impl Scenario {
    /// Reads the last directive of `body`.
    ///
    /// # Errors
    /// A validation error for a name, key or number nobody knows: a typing mistake in a test should
    /// not pass as an ordinary reply.
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        const MARK: &[u8] = b"@sim:";
        let Some(at) = memchr::memmem::rfind(body, MARK) else { return Ok(Self::default()) };
        let mut rest = body.get(at + MARK.len()..).unwrap_or_default();
        let name = word(&mut rest);
        let kind = Kind::of(name).ok_or_else(|| {
            Refusal::validation(format!("simulator: there is no scenario `{name}`"))
        })?;
        let mut scenario = Self { kind: Some(kind), at, ..Self::default() };
        while let Some((key, value)) = pair(&mut rest) {
            scenario.set(key, value)?;
        }
        let needs = match kind {
            Kind::Refuse if scenario.field.is_none() => "field",
            Kind::Echo if scenario.echoed.is_none() => "hex",
            _ => return Ok(scenario),
        };
        Err(Refusal::validation(format!("simulator: `{name}` needs `{needs}`")))
    }

    pub(super) fn is(&self, kind: Kind) -> bool {
        self.kind == Some(kind)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let wrong = || {
            let start = value.get(..40).unwrap_or(value);
            Refusal::validation(format!("simulator: cannot read `{key}={start}`"))
        };
        let number = || value.parse::<u64>().map_err(|_| wrong());
        match key {
            "after" => self.after = Some(number()?),
            "events" => self.events = Some(number()?.min(MAX_EVENTS)),
            "delay_ms" => self.delay = Some(Duration::from_millis(number()?)),
            "kb" => self.kib = Some(number()?.min(MAX_KIB)),
            "status" => {
                let status = value.parse().ok().filter(|status| (200..600).contains(status));
                self.status = Some(status.ok_or_else(wrong)?);
            }
            "retry_after" => self.retry_after = Some(number()?),
            "code" => self.code = Some(value.to_owned()),
            "type" => self.exception = Some(value.to_owned()),
            "kind" => self.variant = Some(value.to_owned()),
            "coalesce" => self.coalesce = value == "1",
            "split" => self.split = value == "1",
            "uri" => self.uri = value == "1",
            "capital" => self.capital = value == "1",
            "bare" => self.bare = value == "1",
            "only" => self.only = value == "1",
            "times" => self.times = Some(number()?),
            "key" => self.key = Some(value.to_owned()),
            "field" => self.field = Some(value.replace("__", ".")),
            "hex" => {
                let bytes = hex::decode(value).map_err(|_| wrong())?;
                self.echoed = Some(String::from_utf8(bytes).map_err(|_| wrong())?);
            }
            "wrap" => self.alone = value == "0",
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// Takes the letters, digits and `_` off the front.
fn word<'a>(rest: &mut &'a [u8]) -> &'a str {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let end = rest.iter().position(|byte| !fits(byte)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    std::str::from_utf8(word).unwrap_or_default() // ASCII
}

/// Takes ` key=value` off the front, if it is there.
fn pair<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, &'a str)> {
    let mut ahead = rest.strip_prefix(b" ")?;
    let key = word(&mut ahead);
    ahead = ahead.strip_prefix(b"=")?;
    let value = word(&mut ahead);
    if key.is_empty() || value.is_empty() {
        return None;
    }
    *rest = ahead;
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_ends_where_the_text_goes_on() {
        let read = Scenario::read(br#"{"text":"Hi @sim:stream events=200 delay_ms=20 a = b"}"#);

        let read = read.unwrap();
        assert_eq!(read.kind, Some(Kind::Stream));
        assert_eq!(read.events, Some(200));
        assert_eq!(read.delay, Some(Duration::from_millis(20)));
    }

    #[test]
    fn the_last_directive_wins_and_mistakes_are_refused() {
        let read =
            Scenario::read(b"@sim:throttle @sim:error code=AccessDeniedException\"").unwrap();
        assert_eq!(read.code.as_deref(), Some("AccessDeniedException"));

        assert!(Scenario::read(b"@sim:throtle").is_err());
        assert!(Scenario::read(b"@sim:cut afer=3").is_err());
        assert!(Scenario::read(b"@sim:cut after=three").is_err());
        assert!(Scenario::read(b"@sim:").is_err());
        assert_eq!(Scenario::read(b"plain").unwrap(), Scenario::default());
    }
}
