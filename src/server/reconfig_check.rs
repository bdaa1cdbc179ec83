//! Which changes of membership a leader proposes: none that would leave the cluster without a
//! quorum, and no learner as a voter that is far behind.
//!
//! The rules are etcd's (`server/etcdserver/server.go`, `strict-reconfig-check`), with the count
//! of a quorum where etcd 3.5 wants every voter connected (etcd issue 21669).

use crate::error::{Error, Result};
use crate::membership::Members;
use crate::pb::raftpb::{ConfChange, ConfChangeKind};
use crate::raft::message::NodeId;
use std::time::Duration;

/// How a member treats changes that it is asked for while it leads.
#[derive(Clone, Copy, Debug)]
pub struct MembershipOptions {
    /// Refuse what would leave the cluster without a quorum (etcd's `--strict-reconfig-check`).
    pub strict: bool,
    pub max_learners: usize,
    /// How long a member must have been connected to count as healthy.
    pub healthy_after: Duration,
}

impl Default for MembershipOptions {
    fn default() -> MembershipOptions {
        let healthy_after = Duration::from_secs(5);
        MembershipOptions { strict: true, max_learners: 1, healthy_after }
    }
}

/// What the leader knows of another member at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// For how long it has been connected; none if it is not.
    pub connected: Option<Duration>,
    /// The last entry that is durable there; none if it is in no configuration.
    pub matched: Option<u64>,
}

/// Whether the leader, whose log ends at `last_index`, proposes a change of these members.
pub fn check(
    change: &ConfChange,
    members: &Members,
    (me, last_index): (NodeId, u64),
    options: MembershipOptions,
    health: impl Fn(NodeId) -> Health,
) -> Result<()> {
    let id = change.member.as_ref().map_or(0, |member| member.id);
    let voters = members.voters();
    let is_healthy = |id: NodeId| id == me || health(id).connected >= Some(options.healthy_after);
    let healthy = || voters.iter().filter(|voter| is_healthy(**voter)).count();
    match change.kind() {
        ConfChangeKind::AddVoter if options.strict => {
            if !members.may_add_voter() {
                return Err(Error::NotEnoughStartedMembers);
            }
            // The newcomer counts as down. A single member has no other way to grow.
            let wanted = if voters.len() == 1 { 1 } else { voters.len().div_ceil(2) + 1 };
            let wanted = wanted.min(quorum(voters.len() + 1));
            if healthy() < wanted { Err(Error::UnhealthyCluster) } else { Ok(()) }
        }
        ConfChangeKind::AddLearner => {
            if options.strict && healthy() < quorum(voters.len()) {
                return Err(Error::UnhealthyCluster);
            }
            let full = members.learners().len() >= options.max_learners;
            if full { Err(Error::TooManyLearners) } else { Ok(()) }
        }
        ConfChangeKind::Promote => {
            let matched = health(id).matched;
            if members.get(id).is_none() {
                return Err(Error::MemberNotFound);
            }
            // Nine tenths of the leader's log, as in etcd.
            if members.learners().contains(&id)
                && u128::from(matched.unwrap_or(0)) * 10 < u128::from(last_index) * 9
            {
                return Err(Error::LearnerNotReady);
            }
            let safe = !options.strict || members.may_promote();
            if safe { Ok(()) } else { Err(Error::NotEnoughStartedMembers) }
        }
        ConfChangeKind::Remove if options.strict && voters.contains(&id) => {
            if !members.may_remove(id) {
                return Err(Error::NotEnoughStartedMembers);
            }
            // Who is down is no part of the quorum that works, and may go.
            let is_down = id != me && health(id).connected.is_none();
            let left = healthy() - usize::from(is_healthy(id));
            let safe = is_down || left >= quorum(voters.len() - 1);
            if safe { Ok(()) } else { Err(Error::UnhealthyCluster) }
        }
        ConfChangeKind::AddVoter | ConfChangeKind::Remove | ConfChangeKind::Update => Ok(()),
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::raftpb::{Member, MemberAttributes};

    const LONG: Health = Health { connected: Some(Duration::from_secs(9)), matched: Some(100) };
    const DOWN: Health = Health { connected: None, matched: Some(0) };

    /// Members with ids from 1 on, all voters and all started.
    fn started(count: u64) -> Members {
        let mut members = Members::default();
        for id in 1..=count {
            let url = format!("http://10.0.0.{id}:2380");
            let member = Member { id, peer_urls: vec![url], ..Default::default() };
            members.apply(&ConfChange { id: 0, kind: 0, member: Some(member) });
            start(&mut members, id);
        }
        members
    }

    fn start(members: &mut Members, id: u64) {
        let name = format!("m{id}");
        members.set_attributes(&MemberAttributes { id, name, ..Default::default() });
    }

    fn change(kind: ConfChangeKind, id: u64) -> ConfChange {
        let member = Member { id, ..Default::default() };
        ConfChange { id: 0, kind: kind.into(), member: Some(member) }
    }

    fn asked(kind: ConfChangeKind, id: u64, members: &Members, down: &[u64]) -> Result<()> {
        let health = |id| if down.contains(&id) { DOWN } else { LONG };
        check(&change(kind, id), members, (1, 100), MembershipOptions::default(), health)
    }

    #[test]
    fn a_voter_is_added_only_where_a_quorum_remains_without_it() {
        let add = ConfChangeKind::AddVoter;
        assert_eq!(asked(add, 9, &started(1), &[]), Ok(()));
        assert_eq!(asked(add, 9, &started(3), &[]), Ok(()));
        assert_eq!(asked(add, 9, &started(3), &[2]), Err(Error::UnhealthyCluster));
        assert_eq!(asked(add, 9, &started(2), &[2]), Err(Error::UnhealthyCluster));
        // With four of five at work the sixth can do no harm (etcd issue 21669).
        assert_eq!(asked(add, 9, &started(5), &[2]), Ok(()));
        assert_eq!(asked(add, 9, &started(5), &[2, 3]), Err(Error::UnhealthyCluster));
    }

    #[test]
    fn who_was_connected_a_moment_ago_is_not_healthy_yet() {
        let fresh = Health { connected: Some(Duration::from_secs(4)), matched: Some(100) };
        let add = change(ConfChangeKind::AddVoter, 9);
        let ask = |options| check(&add, &started(2), (1, 100), options, |_| fresh);
        assert_eq!(ask(MembershipOptions::default()), Err(Error::UnhealthyCluster));
        let loose = MembershipOptions { strict: false, ..MembershipOptions::default() };
        assert_eq!(ask(loose), Ok(()));
    }

    #[test]
    fn a_learner_needs_no_more_than_a_quorum_and_room() {
        let add = ConfChangeKind::AddLearner;
        let mut members = started(3);
        assert_eq!(asked(add, 9, &members, &[2]), Ok(()));
        assert_eq!(asked(add, 9, &members, &[2, 3]), Err(Error::UnhealthyCluster));
        members.apply(&change(add, 8));
        assert_eq!(asked(add, 9, &members, &[]), Err(Error::TooManyLearners));
    }

    #[test]
    fn a_learner_is_promoted_once_it_has_nine_tenths_of_the_log() {
        let promote = ConfChangeKind::Promote;
        let mut members = started(3);
        members.apply(&change(ConfChangeKind::AddLearner, 9));
        let at = |matched, members: &Members| {
            let health = |_| Health { connected: None, matched };
            check(&change(promote, 9), members, (1, 100), MembershipOptions::default(), health)
        };
        assert_eq!(at(None, &members), Err(Error::LearnerNotReady));
        assert_eq!(at(Some(89), &members), Err(Error::LearnerNotReady));
        assert_eq!(at(Some(90), &members), Ok(()));
        assert_eq!(asked(promote, 7, &members, &[]), Err(Error::MemberNotFound));
        // One that votes already is refused where the change is applied.
        assert_eq!(asked(promote, 2, &members, &[]), Ok(()));
    }

    #[test]
    fn a_voter_is_removed_only_where_a_quorum_remains() {
        let remove = ConfChangeKind::Remove;
        assert_eq!(asked(remove, 1, &started(1), &[]), Err(Error::NotEnoughStartedMembers));
        assert_eq!(asked(remove, 2, &started(3), &[]), Ok(()));
        assert_eq!(asked(remove, 2, &started(3), &[2]), Ok(()), "it is down already");
        assert_eq!(asked(remove, 1, &started(3), &[2]), Err(Error::UnhealthyCluster));
        assert_eq!(asked(remove, 1, &started(5), &[2]), Ok(()));
        let mut members = started(2);
        members.apply(&change(ConfChangeKind::AddVoter, 9));
        assert_eq!(asked(remove, 9, &members, &[9]), Ok(()));
        assert_eq!(asked(remove, 1, &members, &[9]), Err(Error::NotEnoughStartedMembers));
    }
}
