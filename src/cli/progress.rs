//! How far long work is: one line that changes on a terminal, a line now and then elsewhere. On standard error, so that
//! standard output has the result alone.

use std::{
    cell::Cell,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::jobs::Progress;

const ON_TERMINAL: Duration = Duration::from_millis(100);
const ELSEWHERE: Duration = Duration::from_secs(5);

pub struct Teller {
    terminal: bool,
    told: Cell<Option<Instant>>,
    shown: Cell<bool>,
}

impl Teller {
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        // The first lines are for work that takes longer than a moment.
        Self { terminal, told: Cell::new(Some(Instant::now())), shown: Cell::new(false) }
    }

    pub fn tell(&self, Progress { doing, done, of }: Progress<'_>) {
        let pause = if self.terminal { ON_TERMINAL } else { ELSEWHERE };
        if self.told.get().is_some_and(|told| told.elapsed() < pause) {
            return;
        }
        self.told.set(Some(Instant::now()));
        self.shown.set(true);
        let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
        let line = format!("{doing}: {done}{of}");
        let mut out = std::io::stderr().lock();
        let written = if self.terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
        let _nobody_reads = written;
    }
}

impl Drop for Teller {
    /// The result stands where the progress was.
    fn drop(&mut self) {
        if self.terminal && self.shown.get() {
            let _nobody_reads = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
