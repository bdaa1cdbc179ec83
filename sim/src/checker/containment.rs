//! Corruption: a damaged state is found in time, is not shown once it is found, and is sound again
//! in the end.
//!
//! Until it is found, a damaged member may answer anything: what it says is taken for unknown.

use super::{Guarantee, Violation};
use crate::history::{Operation, Outcome};
use crate::moment::Nanos;

/// How long damage may go unfound while nothing else is wrong: the memory is looked through every
/// second, and states are compared every second, at an index that was chosen a second before.
pub const FOUND_WITHIN: Nanos = 6_000_000_000;

/// What is known of the damage that one member was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Since when its state is damaged.
    pub since: Option<Nanos>,
    /// When its state was sound again.
    pub until: Nanos,
    /// Since when it holds its state to be damaged, or has yet to compare it.
    pub distrusted: Option<Nanos>,
}

impl Damage {
    /// Whether an answer may have come out of a damaged state.
    pub fn taints(&self, called: Nanos) -> bool {
        self.since.is_some() || called < self.until
    }
}

/// A member that distrusts its own state answers no client out of it.
pub fn check(damage: &Damage, operation: &Operation) -> Result<(), Violation> {
    let is_answered = matches!(operation.outcome, Outcome::Done(_) | Outcome::Refused(_));
    match damage.distrusted {
        Some(since) if is_answered && operation.called > since => {
            let text = format!(
                "member {} was quarantined and answered {:?}",
                operation.member, operation.request
            );
            Err(Violation::new(Guarantee::CorruptionContained, Some(operation.returned), text))
        }
        Some(_) | None => Ok(()),
    }
}

/// The damage of a member went on for too long.
pub fn not_found(at: Nanos, member: usize, damage: &Damage) -> Violation {
    let since = damage.since.map_or(0, |since| at.saturating_sub(since) / 1_000_000);
    let held = match damage.distrusted {
        Some(_) => "is quarantined and not healed",
        None => "was not found out",
    };
    let text = format!("the state of member {member} was damaged {since} ms ago, and it {held}");
    Violation::new(Guarantee::CorruptionContained, Some(at), text)
}

/// A member has written a damaged value into a run, which verifies.
pub fn written_down(at: Nanos, member: usize, revision: i64) -> Violation {
    let text = format!("member {member} has written revision {revision} down as it never was");
    Violation::new(Guarantee::CorruptionContained, Some(at), text)
}

/// A member has told another that its checkpoint is damaged: then who repairs it knows as well.
pub fn told(at: Nanos, member: usize, is_known: bool) -> Result<(), Violation> {
    if is_known {
        return Ok(());
    }
    let text = format!("member {member} refuses its state as damaged, and has nobody repair it");
    Err(Violation::new(Guarantee::CorruptionContained, Some(at), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Answer, Put, Reply, Request};

    fn put(called: Nanos, outcome: Outcome) -> Operation {
        let request = Request::Put(Put::of("k", "v"));
        Operation { client: 1, member: 2, request, called, returned: called + 10, outcome }
    }

    fn done() -> Outcome {
        Outcome::Done(Reply { revision: 5, answer: Answer::Put { prev: None } })
    }

    #[test]
    fn an_answer_out_of_a_quarantine_is_seen() {
        let damage = Damage { since: Some(5), until: 0, distrusted: Some(100) };
        check(&damage, &put(99, done())).expect("called before");
        check(&damage, &put(101, Outcome::Failed("corrupt".into()))).expect("refused");
        check(&damage, &put(101, done())).expect_err("answered");
        check(&Damage { distrusted: None, ..damage }, &put(101, done())).expect("not found yet");
    }

    #[test]
    fn damage_that_nobody_repairs_is_seen() {
        told(5, 1, true).expect("it is being repaired");
        let broken = told(5, 1, false).expect_err("nobody knows of it");
        assert_eq!(broken.guarantee, Guarantee::CorruptionContained);
    }

    #[test]
    fn what_was_asked_before_the_state_was_sound_is_doubtful() {
        let damage = Damage { since: Some(5), until: 0, distrusted: None };
        assert!(damage.taints(3));
        let healed = Damage { since: None, until: 50, distrusted: None };
        assert!(healed.taints(49) && !healed.taints(50));
        assert!(!Damage::default().taints(0));
    }
}
