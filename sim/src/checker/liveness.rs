//! Liveness: once the faults are over, the healed members elect, write, read and agree.

use super::leadership::{self, Found};
use super::{Guarantee, Violation};
use crate::moment::Nanos;

/// What was seen of the healed core between the end of the faults and the end of the run.
#[derive(Clone, Debug, Default)]
pub struct Healing {
    pub healed_at: Nanos,
    /// The time that is granted for each of the steps.
    pub limit: Nanos,
    /// When all members of the core named the same leader.
    pub leader_at: Option<Nanos>,
    pub core: Vec<CoreMember>,
    /// Who hears from nobody for good, and leads nevertheless.
    pub deaf_leader: Option<usize>,
    /// How long a write took at rest.
    pub timed: Option<TimedWrite>,
    /// Why leadership did not go where it was sent, when all was healed.
    pub handover: Option<String>,
    /// Who found the leader gone when its process ended once more.
    pub departure: Vec<Found>,
}

/// The shortest of some writes through a follower, when all was at rest.
#[derive(Clone, Copy, Debug)]
pub struct TimedWrite {
    pub member: usize,
    pub took: Nanos,
    /// As long as its ways and syncs may take.
    pub limit: Nanos,
}

/// What one member of the healed core did.
#[derive(Clone, Debug, Default)]
pub struct CoreMember {
    pub member: usize,
    pub wrote_at: Option<Nanos>,
    pub read_at: Option<Nanos>,
    /// Applied index, revision and state hash, once nothing is in flight.
    pub state: Option<(u64, i64, u64)>,
    /// The last failure of its write or read, for the reader of a verdict.
    pub last_failure: String,
}

/// Judges the time after the faults.
pub fn check(healing: &Healing) -> Result<(), Violation> {
    let late = |what: String| {
        let limit = healing.limit / 1_000_000;
        let text = format!("{what} within {limit} ms after the faults were over");
        Err(Violation::new(Guarantee::Liveness, Some(healing.healed_at), text))
    };
    let in_time =
        |at: Option<Nanos>, since: Nanos| at.is_some_and(|at| at <= since + healing.limit);
    if !in_time(healing.leader_at, healing.healed_at) {
        return late("the healed members did not agree on a leader".into());
    }
    let led = healing.leader_at.unwrap_or(healing.healed_at);
    for member in &healing.core {
        let name = member.member;
        let why = &member.last_failure;
        if !in_time(member.wrote_at, led) {
            return late(format!("member {name} accepted no write (last failure: {why})"));
        }
        if !in_time(member.read_at, led) {
            return late(format!("member {name} answered no linearizable read (last: {why})"));
        }
    }
    if let Some(member) = healing.deaf_leader {
        let limit = healing.limit / 1_000_000;
        let text = format!("member {member} hears from nobody, and leads after {limit} ms");
        return Err(Violation::new(Guarantee::StableLeadership, Some(healing.healed_at), text));
    }
    if let Some(failure) = &healing.handover {
        let text = format!("all is healed, and {failure}");
        return Err(Violation::new(Guarantee::StableLeadership, Some(healing.healed_at), text));
    }
    healing.timed.iter().try_for_each(is_prompt)?;
    healing.departure.iter().try_for_each(leadership::reacts)?;
    agree(&healing.core)
}

/// Who waits for a write hears of its commit at once.
fn is_prompt(write: &TimedWrite) -> Result<(), Violation> {
    let TimedWrite { member, took, limit } = write;
    if took <= limit {
        return Ok(());
    }
    let (took, limit) = (took / 1_000, limit / 1_000);
    let text = format!(
        "at rest, no write through member {member} took less than {took} us, and \
                        its ways and syncs take {limit} us at the most"
    );
    Err(Violation::new(Guarantee::PromptWrites, None, text))
}

fn agree(core: &[CoreMember]) -> Result<(), Violation> {
    let Some(first) = core.first() else { return Ok(()) };
    for member in core {
        if member.state.is_none() || member.state != first.state {
            let text = format!(
                "at rest, member {} is at (index, revision, state) {:x?}, member {} at {:x?}",
                first.member, first.state, member.member, member.state
            );
            return Err(Violation::new(Guarantee::ReplicasAgree, None, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Healing {
        let member = |member| CoreMember {
            member,
            wrote_at: Some(1_500),
            read_at: Some(1_600),
            state: Some((9, 4, 77)),
            last_failure: String::new(),
        };
        Healing {
            healed_at: 1_000,
            limit: 1_000,
            leader_at: Some(1_200),
            core: vec![member(0), member(1), member(2)],
            deaf_leader: None,
            timed: Some(TimedWrite { member: 1, took: 30, limit: 30 }),
            handover: None,
            departure: Vec::new(),
        }
    }

    #[test]
    fn a_healed_core_passes_and_each_failing_is_seen() {
        check(&good()).expect("all in time");
        let fails = |guarantee, change: &dyn Fn(&mut Healing)| {
            let mut healing = good();
            change(&mut healing);
            assert_eq!(check(&healing).expect_err("a failing").guarantee, guarantee);
        };
        fails(Guarantee::Liveness, &|h| h.leader_at = None);
        fails(Guarantee::Liveness, &|h| h.leader_at = Some(2_001));
        fails(Guarantee::Liveness, &|h| h.core[1].wrote_at = None);
        fails(Guarantee::Liveness, &|h| h.core[2].read_at = Some(9_999));
        fails(Guarantee::ReplicasAgree, &|h| h.core[2].state = Some((9, 4, 78)));
        fails(Guarantee::ReplicasAgree, &|h| h.core[0].state = None);
        fails(Guarantee::StableLeadership, &|h| h.deaf_leader = Some(4));
        fails(Guarantee::StableLeadership, &|h| h.handover = Some("nobody moved".into()));
        let slow = TimedWrite { member: 1, took: 31, limit: 30 };
        fails(Guarantee::PromptWrites, &|h| h.timed = Some(slow));
        let found = Found { member: 1, leader: 0, at: 9, limit: 10, left: None };
        fails(Guarantee::StableLeadership, &|h| h.departure = vec![found]);
    }
}
