//! The trace of a run: one line an event, with simulated time, and a hash over all of them.

use crate::moment::Nanos;
use crate::random::{FNV_OFFSET, fnv1a};
use std::fmt::Write;

/// How many lines are kept where the whole trace is not wanted: enough to see how a run ended.
const TAIL_LINES: usize = 40;

/// The lines of a run. Every line is hashed; all of them are kept only if that was asked for.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    keep_all: bool,
    kept: std::collections::VecDeque<String>,
    scratch: String,
}

impl Trace {
    pub fn new(keep_all: bool) -> Trace {
        Trace {
            hash: FNV_OFFSET,
            lines: 0,
            keep_all,
            kept: std::collections::VecDeque::new(),
            scratch: String::new(),
        }
    }

    /// Adds one line.
    pub fn line(&mut self, at: Nanos, text: std::fmt::Arguments<'_>) {
        self.scratch.clear();
        write!(self.scratch, "{} ", Clock(at)).expect("a String takes everything");
        self.scratch.write_fmt(text).expect("a String takes everything");
        self.scratch.push('\n');
        self.hash = fnv1a(self.hash, self.scratch.as_bytes());
        self.lines += 1;
        if !self.keep_all && self.kept.len() == TAIL_LINES {
            let mut oldest = self.kept.pop_front().expect("the tail is full");
            std::mem::swap(&mut oldest, &mut self.scratch);
            self.kept.push_back(oldest);
        } else {
            self.kept.push_back(self.scratch.clone());
        }
    }

    /// The hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub fn len(&self) -> u64 {
        self.lines
    }

    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// The lines that were kept, the oldest first, each with its line end.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(String::as_str)
    }
}

struct Clock(Nanos);

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // By hand, because every line of every trace begins with it.
        let mut text = *b"   0.000000";
        let mut left = self.0 / 1000;
        for at in (0..text.len()).rev().filter(|at| *at != 4) {
            if left == 0 && at < 3 {
                break;
            }
            text[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        assert_eq!(left, 0, "a run is shorter than 10,000 s");
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

/// A moment in seconds, to the microsecond.
pub fn clock(at: Nanos) -> String {
    format!("{}s", Clock(at).to_string().trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_stand_in_columns() {
        for at in [0, 999, 1_000, 999_999_999, 9_876_543_210, 600_000_000_000, 9_999_999_999_999] {
            let expected = format!("{:4}.{:06}", at / 1_000_000_000, at / 1000 % 1_000_000);
            assert_eq!(Clock(at).to_string(), expected);
        }
        assert_eq!(clock(1_500_000_000), "1.500000s");
    }

    #[test]
    fn the_hash_covers_lines_that_are_not_kept() {
        let run = |first: &str, keep| {
            let mut t = Trace::new(keep);
            t.line(1_500_000, format_args!("{first}"));
            for i in 0..100 {
                t.line(2_000_000_000 + i, format_args!("line {i}"));
            }
            t
        };
        let (a, b) = (run("x", false), run("x", true));
        assert_eq!(a.hash(), b.hash());
        assert_ne!(a.hash(), run("y", false).hash());
        assert_eq!((a.kept().count(), b.kept().count(), b.len()), (TAIL_LINES, 101, 101));
        assert_eq!(a.kept().last(), b.kept().last());
        assert_eq!(b.kept().next(), Some("   0.001500 x\n"));
    }
}
