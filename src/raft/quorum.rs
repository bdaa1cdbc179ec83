//! Majorities: which value a quorum has reached, and how a vote stands.

use std::collections::{BTreeMap, BTreeSet};

use crate::raft::message::NodeId;

/// How many members of `voters` make a quorum. Any two quorums share a member.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority has reached, given one value for each voter.
///
/// Sorts `values` in place. No voters, no agreement: 0.
pub fn agreed(values: &mut [u64]) -> u64 {
    if values.is_empty() {
        return 0;
    }
    values.sort_unstable();
    values[values.len() - majority(values.len())]
}

/// How a vote stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tally {
    /// Neither side has a majority, and the missing answers could still decide.
    Pending,
    Won,
    /// A majority can't be reached any more.
    Lost,
}

/// Counts the answers of voters. Answers of anybody else don't count.
pub fn tally(voters: &BTreeSet<NodeId>, votes: &BTreeMap<NodeId, bool>) -> Tally {
    if voters.is_empty() {
        return Tally::Lost;
    }
    let granted = voters.iter().filter(|voter| votes.get(voter) == Some(&true)).count();
    let refused = voters.iter().filter(|voter| votes.get(voter) == Some(&false)).count();
    let needed = majority(voters.len());
    if granted >= needed {
        Tally::Won
    } else if voters.len() - refused < needed {
        Tally::Lost
    } else {
        Tally::Pending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The dumb twin: try every value, count who has reached it.
    fn agreed_by_counting(values: &[u64]) -> u64 {
        let reached = |value: u64| values.iter().filter(|v| **v >= value).count();
        let quorum = values.len() / 2 + 1;
        values.iter().copied().filter(|v| reached(*v) >= quorum).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn agreed_is_what_counting_says(mut values in prop::collection::vec(0u64..20, 0..9)) {
            let expected = agreed_by_counting(&values);
            prop_assert_eq!(agreed(&mut values), expected);
        }

        #[test]
        fn tally_decides_exactly_when_no_answer_can_change_it(
            voters in prop::collection::btree_set(1u64..9, 0..8),
            votes in prop::collection::btree_map(1u64..12, any::<bool>(), 0..10),
        ) {
            // The dumb twin: fill in the missing answers both ways and look at the outcomes.
            let granted_if = |missing: bool| {
                let yes = voters
                    .iter()
                    .filter(|v| votes.get(v).copied().unwrap_or(missing))
                    .count();
                yes * 2 > voters.len()
            };
            let expected = match (granted_if(false), granted_if(true)) {
                (true, _) => Tally::Won,
                (false, true) => Tally::Pending,
                (false, false) => Tally::Lost,
            };
            prop_assert_eq!(tally(&voters, &votes), expected);
        }
    }
}
