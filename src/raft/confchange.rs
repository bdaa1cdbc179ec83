//! How membership changes, one server at a time.
//!
//! A change takes effect when its entry is applied. Three rules make that safe:
//!
//! 1. A leader proposes a change only once every earlier change in its log is applied here, and
//!    once an entry of its own term is committed (Ongaro, raft-dev 2015).
//! 2. Nobody campaigns while a committed change waits to be applied here.
//! 3. A second change in a log proves that the first is committed, by rule 1; `Log` therefore
//!    commits up to the first when it sees the second, and rule 2 holds the node back. So a
//!    candidate's configuration is at most one change behind its log, and majorities of
//!    neighbouring configurations share a member.

use crate::raft::message::{ConfChange, ConfState};

/// The configuration after `change`. Total and deterministic: what makes no sense changes
/// nothing, alike on every replica.
pub fn changed(conf: &ConfState, change: &ConfChange) -> ConfState {
    let mut conf = conf.clone();
    match *change {
        ConfChange::AddVoter(node) => {
            if node != 0 {
                conf.learners.remove(&node);
                conf.voters.insert(node);
            }
        }
        ConfChange::AddLearner(node) => {
            if node != 0 && !conf.voters.contains(&node) {
                conf.learners.insert(node);
            }
        }
        ConfChange::Promote(node) => {
            if conf.learners.remove(&node) {
                conf.voters.insert(node);
            }
        }
        ConfChange::Remove(node) => {
            let last_voter = conf.voters.len() == 1 && conf.voters.contains(&node);
            if !last_voter {
                conf.voters.remove(&node);
                conf.learners.remove(&node);
            }
        }
    }
    assert!(conf.voters.is_disjoint(&conf.learners), "both voter and learner: {conf:?}");
    conf
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::quorum::majority;

    fn any_change() -> impl Strategy<Value = ConfChange> {
        (0u64..7, 0..4).prop_map(|(node, kind)| match kind {
            0 => ConfChange::AddVoter(node),
            1 => ConfChange::AddLearner(node),
            2 => ConfChange::Promote(node),
            _ => ConfChange::Remove(node),
        })
    }

    proptest! {
        #[test]
        fn majorities_of_neighbouring_configurations_meet(
            changes in prop::collection::vec(any_change(), 1..20),
        ) {
            let mut conf = ConfState { voters: [1].into(), learners: [].into() };
            for change in changes {
                let next = changed(&conf, &change);
                let union = conf.voters.union(&next.voters).count();
                prop_assert!(majority(conf.voters.len()) + majority(next.voters.len()) > union);
                prop_assert!(!next.voters.is_empty());
                conf = next;
            }
        }
    }
}
