//! Leadership: it stays where nothing calls for a change, and moves away from who can't lead.

use super::{Guarantee, Violation};
use crate::moment::Nanos;

/// A leader that was elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elected {
    pub at: Nanos,
    pub member: usize,
    pub term: u64,
}

/// A time in which one disk ails and nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ailing {
    pub member: usize,
    pub from: Nanos,
    /// Until the next disk ails, or the run ends.
    pub until: Nanos,
}

/// A leader among `core`, whose members reach each other all the time, is not replaced once it has
/// led for `settled`, whatever the others do. `elected` is in order of time.
pub fn stays(elected: &[Elected], core: &[usize], from: Nanos, settled: Nanos) -> Verdict {
    for pair in elected.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        let led = after.at.saturating_sub(before.at.max(from));
        if core.contains(&before.member) && after.at > from && led > settled {
            let text = format!(
                "member {} led term {} and reached the quorum {core:?} all the time, yet member {} \
                 was elected in term {}",
                before.member, before.term, after.member, after.term
            );
            return Err(Violation::new(Guarantee::StableLeadership, Some(after.at), text));
        }
    }
    Ok(())
}

/// One ailing disk moves leadership once at the most, if it had settled before.
pub fn moves_once(elected: &[Elected], ailing: &Ailing, settled: Nanos) -> Verdict {
    let had_settled =
        elected.iter().rfind(|e| e.at <= ailing.from).is_some_and(|e| e.at + settled < ailing.from);
    let meanwhile: Vec<&Elected> =
        elected.iter().filter(|e| e.at > ailing.from && e.at <= ailing.until).collect();
    match meanwhile[..] {
        [_, second, ..] if had_settled => {
            let text = format!(
                "the disk of member {} ailed once, and leadership moved {} times: {meanwhile:?}",
                ailing.member,
                meanwhile.len()
            );
            Err(Violation::new(Guarantee::StableLeadership, Some(second.at), text))
        }
        _ => Ok(()),
    }
}

/// A member found that its leader's process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub member: usize,
    pub leader: usize,
    pub at: Nanos,
    /// By then it follows that leader no longer.
    pub limit: Nanos,
    /// When it ceased to, if it has.
    pub left: Option<Nanos>,
}

/// Whoever finds that its leader is gone asks for votes at once, in its turn.
pub fn reacts(found: &Found) -> Verdict {
    if found.left.is_some_and(|left| left <= found.limit) {
        return Ok(());
    }
    let Found { member, leader, at, limit, .. } = found;
    let text = format!(
        "member {member} found that its leader, member {leader}, is gone, and followed it for more \
         than {} ms",
        (limit - at) / 1_000_000
    );
    Err(Violation::new(Guarantee::StableLeadership, Some(*at), text))
}

type Verdict = Result<(), Violation>;

#[cfg(test)]
mod tests {
    use super::*;

    fn elected(list: &[(Nanos, usize)]) -> Vec<Elected> {
        let one = |(i, (at, member)): (usize, &(Nanos, usize))| Elected {
            at: *at,
            member: *member,
            term: 2 + i as u64,
        };
        list.iter().enumerate().map(one).collect()
    }

    #[test]
    fn a_leader_of_the_core_that_is_replaced_is_seen() {
        let core = [0, 1, 2];
        stays(&elected(&[(10, 4), (50, 1)]), &core, 20, 5).expect("the first was no core member");
        stays(&elected(&[(10, 0), (22, 1)]), &core, 20, 5).expect("it had not settled");
        stays(&elected(&[(10, 0), (19, 1)]), &core, 20, 5).expect("before the cut");
        stays(&elected(&[(10, 0), (50, 1)]), &core, 20, 5).expect_err("replaced by another");
        stays(&elected(&[(10, 0), (50, 0)]), &core, 20, 5).expect_err("elected again");
        stays(&elected(&[(10, 4), (50, 1), (90, 4)]), &core, 20, 5).expect_err("by an outsider");
    }

    #[test]
    fn a_second_change_in_one_stall_is_seen() {
        let ailing = Ailing { member: 0, from: 100, until: 200 };
        moves_once(&elected(&[(10, 0), (120, 1)]), &ailing, 20).expect("one change");
        moves_once(&elected(&[(10, 0), (120, 1), (201, 2)]), &ailing, 20).expect("the next stall");
        moves_once(&elected(&[(90, 0), (120, 1), (130, 2)]), &ailing, 20).expect("not settled");
        moves_once(&elected(&[(10, 0), (120, 1), (130, 0)]), &ailing, 20).expect_err("twice");
    }

    #[test]
    fn who_goes_on_following_a_leader_that_is_gone_is_seen() {
        let found = |left| Found { member: 1, leader: 0, at: 100, limit: 120, left };
        reacts(&found(Some(120))).expect("in time");
        reacts(&found(Some(121))).expect_err("late");
        reacts(&found(None)).expect_err("never");
    }
}
