//! Runs seeds, one after the other, until one of them shows that something is wrong.

use super::work;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

/// What names a kill by an assertion.
const ASSERTION: &str = "NoPanic";
/// What names a seed that does not come to its end.
const HANG: &str = "Hang";
/// A seed that works longer than this turns in circles.
const SEED_MAX: Duration = Duration::from_secs(120);
/// How often a seed's work is looked at, and how often at the most: one that does no work waits for
/// itself.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS_MAX: u32 = 1_800;

/// What seeds said of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The n-th seed named a guarantee that was broken.
    Caught {
        seeds: u64,
        guarantee: String,
    },
    Survived {
        seeds: u64,
    },
}

/// Runs the seeds, until a checker names a guarantee or that much time was spent at work; `one`
/// answers with the guarantee and the words. An assertion is reported only if no checker finds
/// anything.
pub fn hunt<F>(seeds: Range<u64>, time: Duration, one: F) -> Verdict
where
    F: Fn(u64) -> Option<(String, String)> + Copy + Send + 'static,
{
    let until = work::used() + time;
    let mut asserted = None;
    for seed in seeds.clone() {
        let (done, answer) = channel();
        let run = Builder::new().spawn(move || done.send(one(seed))).expect("a thread");
        let found = match wait(&answer) {
            Ok(found) => found,
            // The thread stays behind until the process ends.
            Err(RecvTimeoutError::Timeout) => Some((HANG.into(), "a seed without an end".into())),
            Err(RecvTimeoutError::Disconnected) => {
                drop(run);
                Some((ASSERTION.into(), "a panic outside of the run".into()))
            }
        };
        let tried = seed - seeds.start + 1;
        if let Some((guarantee, text)) = found {
            let caught = Verdict::Caught { seeds: tried, guarantee };
            if caught.is_by_checker() || caught.is_hang() {
                println!("seed {seed}: {text}");
                return caught;
            }
            if asserted.is_none() {
                println!("seed {seed}: {text}");
                asserted = Some(caught);
            }
        }
        if work::used() >= until {
            return asserted.unwrap_or(Verdict::Survived { seeds: tried });
        }
    }
    asserted.unwrap_or(Verdict::Survived { seeds: seeds.end - seeds.start })
}

/// Waits for a seed, for as long as it is at work and no longer than it may be.
fn wait<T>(answer: &Receiver<T>) -> Result<T, RecvTimeoutError> {
    let until = work::used() + SEED_MAX;
    for _ in 1..LOOKS_MAX {
        match answer.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) if work::used() < until => {}
            other => return other,
        }
    }
    answer.recv_timeout(LOOK)
}

impl Verdict {
    pub fn is_caught(&self) -> bool {
        matches!(self, Verdict::Caught { .. })
    }

    /// An assertion beside the mutant, or a run that never ends, is nothing to be proud of.
    pub fn is_by_checker(&self) -> bool {
        let silent = |guarantee: &str| [ASSERTION, HANG].contains(&guarantee);
        matches!(self, Verdict::Caught { guarantee, .. } if !silent(guarantee))
    }

    /// What a block says together with the seeds that follow it: the first checker counts, and
    /// without one the first of the others.
    pub fn followed_by(self, rest: Verdict) -> Verdict {
        let before = match &self {
            Verdict::Survived { seeds } => *seeds,
            // How many seeds there were is known only of one that survived.
            Verdict::Caught { .. } => return self,
        };
        match rest {
            Verdict::Caught { seeds, guarantee } => {
                Verdict::Caught { seeds: before + seeds, guarantee }
            }
            Verdict::Survived { seeds } => Verdict::Survived { seeds: before + seeds },
        }
    }

    pub fn is_hang(&self) -> bool {
        matches!(self, Verdict::Caught { guarantee, .. } if guarantee == HANG)
    }

    /// How many seeds it took.
    pub fn seeds(&self) -> Option<u64> {
        match self {
            Verdict::Caught { seeds, .. } => Some(*seeds),
            Verdict::Survived { .. } => None,
        }
    }
}

/// One line, which `parse` reads again.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Caught { seeds, guarantee } => write!(f, "caught {seeds} {guarantee}"),
            Verdict::Survived { seeds } => write!(f, "survived {seeds}"),
        }
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(line: &str) -> Result<Verdict, String> {
        let mut words = line.split(' ');
        let kind = words.next();
        let seeds = words.next().and_then(|word| word.parse().ok());
        match (kind, seeds, words.next()) {
            (Some("caught"), Some(seeds), Some(guarantee)) => {
                Ok(Verdict::Caught { seeds, guarantee: guarantee.to_string() })
            }
            (Some("survived"), Some(seeds), None) => Ok(Verdict::Survived { seeds }),
            _ => Err(format!("{line:?} is no verdict")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(600);

    fn caught(seeds: u64, guarantee: &str) -> Verdict {
        Verdict::Caught { seeds, guarantee: guarantee.into() }
    }

    #[test]
    fn the_first_checker_counts_and_an_assertion_only_without_one() {
        let found = hunt(10..20, TIME, |seed| match seed {
            12 => Some((ASSERTION.into(), String::new())),
            15.. => Some(("Watch".into(), String::new())),
            _ => None,
        });
        assert_eq!(found, caught(6, "Watch"));
        let asserts = |seed| (seed == 12).then(|| (ASSERTION.to_string(), String::new()));
        let found = hunt(10..20, TIME, asserts);
        assert_eq!(found, caught(3, ASSERTION));
        assert!(found.is_caught() && !found.is_by_checker());
        assert_eq!(hunt(10..20, TIME, |_| None), Verdict::Survived { seeds: 10 });
        assert_eq!(hunt(10..20, Duration::ZERO, |_| None), Verdict::Survived { seeds: 1 });
    }

    #[test]
    fn a_block_that_goes_on_counts_all_its_seeds() {
        let survived = |seeds| Verdict::Survived { seeds };
        assert_eq!(survived(500).followed_by(caught(7, "Watch")), caught(507, "Watch"));
        assert_eq!(survived(500).followed_by(survived(1500)), survived(2000));
        assert_eq!(caught(3, ASSERTION).followed_by(survived(9)), caught(3, ASSERTION));
    }

    #[test]
    fn a_verdict_is_a_line() {
        for verdict in [caught(7, "Watch"), Verdict::Survived { seeds: 500 }] {
            assert_eq!(verdict.to_string().parse(), Ok(verdict));
        }
        "survived".parse::<Verdict>().expect_err("no number");
        "thread panicked".parse::<Verdict>().expect_err("no verdict");
    }
}
