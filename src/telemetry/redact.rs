//! The last line of defence: whatever looks like a secret is masked when a log line is written (SEC-79).

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::LazyLock,
};

use regex::bytes::Regex;
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::MakeWriter;

static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        SSO[KR]_[0-9A-Za-z_\-]{8,}                          # our keys and refresh tokens
        | eyJ[0-9A-Za-z_\-]{4,}\.[0-9A-Za-z_\-]+\.[0-9A-Za-z_\-]*   # JSON web tokens
        | \b(?:AKIA|ASIA)[0-9A-Z]{12,}                      # AWS access keys
        | (?i:bearer)\s+[0-9A-Za-z._~+/=\-]{8,}
        | //[^/\s:@]+:[^/\s@]+@                             # user and password in a URL
        ",
    )
    .expect("a constant pattern, checked by a test")
});

/// The text with everything that is shaped like a secret masked.
pub fn redact(line: &[u8]) -> Cow<'_, [u8]> {
    SECRETS.replace_all(line, b"[redacted]".as_slice())
}

/// Whether something in a text is shaped like a secret.
pub fn looks_secret(text: &str) -> bool {
    SECRETS.is_match(text.as_bytes())
}

/// Writes lines on, masked.
#[derive(Clone)]
pub struct Redacting {
    inner: NonBlocking,
}

impl Redacting {
    pub fn new(inner: NonBlocking) -> Self {
        Self { inner }
    }
}

impl Write for Redacting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.inner.write_all(&redact(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<'a> MakeWriter<'a> for Redacting {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_shaped_like_a_secret_is_masked_and_nothing_else() {
        for (line, masked) in [
            ("key SSOK_0123456789abcdefghijABCDEFGHIJ01 used", "key [redacted] used"),
            ("SSOR_0123456789-_abcdef", "[redacted]"),
            ("t=eyJhbGciOi.eyJzdWIi.c2ln!", "t=[redacted]!"),
            ("AKIAIOSFODNN7EXAMPLE,ASIAIOSFODNN7EXAMPLE", "[redacted],[redacted]"),
            ("Authorization: Bearer abcdefgh12345", "Authorization: [redacted]"),
            ("postgres://me:pass@host/db", "postgres:[redacted]host/db"),
            ("model us.anthropic.claude-3 status 200 https://host:8080/x", ""),
        ] {
            let wanted = if masked.is_empty() { line } else { masked };
            assert_eq!(String::from_utf8_lossy(&redact(line.as_bytes())), wanted);
        }
    }
}
