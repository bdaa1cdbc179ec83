//! Changes of membership, on whichever member is asked. The leader judges and proposes them,
//! because only the leader knows who is connected and how far a learner has come; any other
//! member asks it.

use super::event::Event;
use super::handle::{Caller, Handle};
use super::keep_alive::leader_client;
use super::node::Node;
use super::peers::Peers;
use super::reconfig_check::{Health, check};
use super::shared::Shared;
use crate::apply::outcome::Response;
use crate::env::clock::Mono;
use crate::env::recorder;
use crate::error::{Error, Result};
use crate::membership::member_id;
use crate::pb::raftpb::{self, ChangeRefusal, ConfChange, ConfChangeKind, Member};
use crate::raft::core::{ProposeRefused, RaftCore};
use std::sync::Arc;
use std::time::Duration;

/// The pause before a leader is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Takes up a change that this member's callers, or another member, want.
    pub(super) fn enter_conf_change(&mut self, id: u64, change: ConfChange) {
        self.conf_changes.push_back((id, change));
    }

    /// Proposes the changes that wait, one at a time: a second one waits until the first is
    /// applied, and all of them until an entry of this leader's own term is committed.
    pub(super) fn propose_conf_changes(&mut self) {
        while let Some((id, change)) = self.conf_changes.front() {
            let id = *id;
            if self.core.is_leader() && !self.core.may_change_conf() {
                return;
            }
            match propose(&mut self.core, &self.shared, &self.outlets.peers, change) {
                Ok(()) => {
                    self.shared.pending().sent(id);
                    self.shared.env.recorder.record(&recorder::Event::ChangeProposed {
                        index: self.core.last_index(),
                        term: self.core.term(),
                        commit: self.core.commit_index(),
                        applied: self.core.applied_index(),
                    });
                }
                // It is over within an election timeout.
                Err(Error::LeaderChanged) => return,
                Err(refusal) => self.shared.pending().answer(id, Err(refusal)),
            }
            self.conf_changes.pop_front();
        }
    }
}

fn propose(core: &mut RaftCore, shared: &Shared, peers: &Peers, change: &ConfChange) -> Result<()> {
    if !core.is_leader() {
        return Err(Error::NotLeader);
    }
    let progress = core.progress();
    let health = |id| Health {
        connected: peers.connected_for(id),
        matched: progress.get(&id).map(|progress| progress.matched),
    };
    let me = (core.id(), core.last_index());
    check(change, &shared.state().members, me, shared.membership, health)?;
    let data = crate::apply::request::encode_conf_change(change);
    let Some(core_change) = crate::apply::request::core_change(change) else {
        return Err(Error::MemberNotFound);
    };
    core.propose_conf_change(data, core_change).map_err(|refused| match refused {
        ProposeRefused::NoLeader => Error::NotLeader,
        ProposeRefused::Transferring | ProposeRefused::ConfChangePending => Error::LeaderChanged,
        ProposeRefused::Overloaded => Error::TooManyRequests,
    })
}

/// Makes a change on this member, which must lead; answers with the members after it.
///
/// # Errors
/// `NotLeader` when nothing was proposed because this member does not lead; a refusal; `Timeout`
/// when the outcome is unknown.
pub async fn change_here(shared: &Arc<Shared>, mut change: ConfChange) -> Result<Vec<Member>> {
    let handle = Handle::new(shared.clone());
    let (id, answer) = handle.enter(prost::Message::encoded_len(&change))?;
    change.id = id;
    handle.send(Event::ProposeConfChange { id, change }).await?;
    match answer.await.map_err(|_| Error::Stopped)?? {
        Response::Members(members) => Ok(members),
        other => unreachable!("a change of membership was answered with {other:?}"),
    }
}

impl Handle {
    /// Adds a member at these addresses, which is to be started afterwards.
    pub async fn member_add(
        &self,
        caller: &Caller,
        mut peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<(Member, Vec<Member>)> {
        peer_urls.sort_unstable();
        let now = self.shared().env.clock.wall().as_secs();
        // The cluster's token is no part of it, as in etcd.
        let id = member_id(&peer_urls, "", Some(now));
        let member = Member { id, peer_urls, is_learner, ..Default::default() };
        let kind = match is_learner {
            true => ConfChangeKind::AddLearner,
            false => ConfChangeKind::AddVoter,
        };
        let members = self.change_members(caller, kind, member.clone()).await?;
        Ok((member, members))
    }

    pub async fn member_remove(&self, caller: &Caller, id: u64) -> Result<Vec<Member>> {
        let member = Member { id, ..Default::default() };
        self.change_members(caller, ConfChangeKind::Remove, member).await
    }

    pub async fn member_promote(&self, caller: &Caller, id: u64) -> Result<Vec<Member>> {
        let member = Member { id, ..Default::default() };
        let promoted = self.change_members(caller, ConfChangeKind::Promote, member).await;
        let metrics = self.metrics();
        match &promoted {
            Ok(_) => metrics.learner_promote_successes.inc(),
            Err(error) => {
                let reason = format!("{error:?}");
                metrics.learner_promote_failures.with_label_values(&[&reason]).inc();
            }
        }
        promoted
    }

    /// Gives a member other addresses. The configuration stays as it is, so this is an entry like
    /// any other.
    pub async fn member_update(
        &self,
        caller: &Caller,
        id: u64,
        mut peer_urls: Vec<String>,
    ) -> Result<Vec<Member>> {
        peer_urls.sort_unstable();
        let member = Member { id, peer_urls, ..Default::default() };
        let kind = ConfChangeKind::Update.into();
        let change = ConfChange { id: 0, kind, member: Some(member) };
        let op = crate::apply::request::Op::MemberUpdate(change);
        match self.propose(caller, op).await? {
            Response::Members(members) => Ok(members),
            other => unreachable!("an update of a member was answered with {other:?}"),
        }
    }

    /// Has the leader make a change, and waits until this member has applied it too.
    async fn change_members(
        &self,
        caller: &Caller,
        kind: ConfChangeKind,
        member: Member,
    ) -> Result<Vec<Member>> {
        self.admit_write(caller)?;
        let shared = self.shared();
        let deadline = shared.env.clock.now() + shared.request_timeout();
        let removes_me = kind == ConfChangeKind::Remove && member.id == shared.member_id;
        let change = ConfChange { id: 0, kind: kind.into(), member: Some(member) };
        loop {
            shared.check_running()?;
            let changed = match shared.view().is_leader {
                true => change_here(shared, change.clone()).await,
                false => ask_leader(shared, change.clone(), deadline).await,
            };
            match changed {
                Err(Error::NotLeader) => {}
                Ok(members) if !shared.view().is_leader && !removes_me => {
                    // Made it is; whoever looks at this member next shall see it.
                    let _slow = self.linearizable_barrier().await;
                    return Ok(members);
                }
                changed => return changed,
            }
            if shared.env.clock.now() >= deadline {
                let known = shared.view().leader != 0;
                return Err(if known { Error::Timeout } else { Error::NoLeader });
            }
            shared.env.clock.sleep(RETRY_PAUSE).await;
        }
    }
}

/// Asks the leader for a change. `NotLeader` if nothing was proposed for want of one.
async fn ask_leader(
    shared: &Arc<Shared>,
    change: ConfChange,
    deadline: Mono,
) -> Result<Vec<Member>> {
    let (mut client, header) = leader_client(shared).map_err(|_| Error::NotLeader)?;
    let hello = raftpb::InfoRequest { header: Some(header.clone()) };
    // A change whose answer is lost may be made or not, and is never sent twice. A question that
    // does no harm goes first, so that most losses are met before anything was sent.
    tokio::select! {
        biased;
        answer = client.info(hello) => answer.map_err(|_| Error::NotLeader)?,
        () = shared.env.clock.sleep(shared.election_timeout) => return Err(Error::NotLeader),
    };
    let request = raftpb::ChangeMembersRequest { header: Some(header), change: Some(change) };
    let answer = tokio::select! {
        biased;
        answer = client.change_members(request) => answer.map_err(|_| Error::Timeout)?,
        () = shared.env.clock.sleep_until(deadline) => return Err(Error::Timeout),
    };
    let answer = answer.into_inner();
    match refused(answer.refusal()) {
        Some(error) => Err(error),
        None => Ok(answer.members),
    }
}

/// The answer to a member that asked this one for a change.
pub fn answer(changed: Result<Vec<Member>>) -> raftpb::ChangeMembersResponse {
    match changed {
        Ok(members) => raftpb::ChangeMembersResponse { members, ..Default::default() },
        Err(error) => {
            let known = REFUSALS.iter().find(|(_, known)| *known == error);
            let refusal = known.map_or(ChangeRefusal::TimedOut, |(refusal, _)| *refusal);
            raftpb::ChangeMembersResponse { refusal: refusal.into(), ..Default::default() }
        }
    }
}

const REFUSALS: [(ChangeRefusal, Error); 10] = [
    (ChangeRefusal::NotLeader, Error::NotLeader),
    (ChangeRefusal::MemberExists, Error::MemberExists),
    (ChangeRefusal::PeerUrlExists, Error::PeerUrlExists),
    (ChangeRefusal::NotEnoughStartedMembers, Error::NotEnoughStartedMembers),
    (ChangeRefusal::MemberNotFound, Error::MemberNotFound),
    (ChangeRefusal::MemberNotLearner, Error::MemberNotLearner),
    (ChangeRefusal::LearnerNotReady, Error::LearnerNotReady),
    (ChangeRefusal::TooManyLearners, Error::TooManyLearners),
    (ChangeRefusal::UnhealthyCluster, Error::UnhealthyCluster),
    (ChangeRefusal::TooManyRequests, Error::TooManyRequests),
];

fn refused(refusal: ChangeRefusal) -> Option<Error> {
    if refusal == ChangeRefusal::NotRefused {
        return None;
    }
    let known = REFUSALS.iter().find(|(known, _)| *known == refusal);
    // What was not refused at once may have been made.
    Some(known.map_or(Error::Timeout, |(_, error)| error.clone()))
}
