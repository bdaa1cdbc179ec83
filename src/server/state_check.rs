//! Compares this member's state with those of the others, and looks for damage to its memory.
//!
//! Every member judges itself. About once a second it asks the others for the hash of their state
//! after an entry that it has applied itself a while ago. Only a state that differs from an
//! agreeing majority of the voters is damaged: then this member is quarantined, hands leadership
//! over if it has it, and is rebuilt from one that agrees. A leader that has found damage by itself
//! hands over at once, because it sends no checkpoints to those whose answers it waits for. If no
//! majority can agree, nobody knows whose state is right: nothing is rebuilt, and the alarm CORRUPT
//! is raised for the cluster, as in etcd (`etcdserver/corrupt.go`).
//!
//! A member that came up without a state (`lost_state`) is rebuilt first, from any other.

use super::event::Event;
use super::handle::Handle;
use super::lost_state::NO_STATE;
use super::peers::Peers;
use super::shared::Shared;
use crate::apply::request::Op;
use crate::env::recorder::Standing;
use crate::env::yield_now;
use crate::mvcc::revision::Revision;
use crate::mvcc::store::STATE_HASH_VERSION;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::{AlarmRequest, AlarmType};
use crate::pb::raftpb::peer_client::PeerClient;
use crate::pb::raftpb::{InfoRequest, StateHashRequest};
use crate::raft::message::{Index, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;

/// How often states are compared; four times as often while clients wait for the outcome.
const INTERVAL: Duration = Duration::from_secs(1);
/// Rounds in which who has not answered is asked for the same index.
const ROUNDS_MAX: u32 = 3;
/// Leadership goes to whoever is furthest.
const ANYBODY: NodeId = 0;
/// After so many turns without a state it is looked whether there is one to be had.
const LOST_TURNS: usize = 20;
/// Records that are looked at under one hold of the state.
const STEP_RECORDS: usize = 512;

/// A wish to be rebuilt from this member.
#[derive(Clone, Copy, Debug)]
pub struct Rebuild {
    pub from: NodeId,
}

/// What a comparison says of the member that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority of the voters has this state.
    Sound,
    /// A majority of the voters agrees on another state: these have it.
    Damaged(Vec<NodeId>),
    /// Whatever those say who have not answered, there is no majority for any state.
    NoMajority,
    /// Too few have answered.
    Open,
}

/// Judges this member by the voters' hashes at one index; `own` is none if it knows by itself that
/// it is damaged.
pub fn judge(
    voters: &[NodeId],
    me: NodeId,
    own: Option<u64>,
    answers: &BTreeMap<NodeId, u64>,
) -> Verdict {
    let majority = voters.len() / 2 + 1;
    let mut unknown = 0;
    let mut groups: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    for voter in voters {
        let hash = if *voter == me { own } else { answers.get(voter).copied() };
        match hash {
            Some(hash) => groups.entry(hash).or_default().push(*voter),
            None if *voter == me => {}
            None => unknown += 1,
        }
    }
    if let Some((hash, agreeing)) = groups.iter().find(|(_, group)| group.len() >= majority) {
        return match own == Some(*hash) {
            true => Verdict::Sound,
            false => Verdict::Damaged(agreeing.clone()),
        };
    }
    let most = groups.values().map(Vec::len).max().unwrap_or(0);
    if most + unknown >= majority { Verdict::Open } else { Verdict::NoMajority }
}

/// A question that is put to the others, and what they said.
struct Question {
    index: Index,
    own: u64,
    answers: BTreeMap<NodeId, u64>,
    rounds: u32,
    /// The state that it is about.
    swaps: u64,
}

/// Compares states until the server stops.
pub async fn run(shared: Arc<Shared>, peers: Arc<Peers>, rebuilds: mpsc::Sender<Rebuild>) {
    let (clients, question, sound_at, turns) = (BTreeMap::new(), None, 0, 0);
    let mut checker = StateChecker { shared, peers, rebuilds, clients, question, sound_at, turns };
    while checker.shared.stop_reason().is_none() {
        checker.round().await;
        let pause = if checker.shared.is_trusted() { INTERVAL } else { INTERVAL / 4 };
        checker.shared.env.clock.sleep(pause).await;
    }
}

struct StateChecker {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    rebuilds: mpsc::Sender<Rebuild>,
    clients: BTreeMap<NodeId, PeerClient<Channel>>,
    question: Option<Question>,
    /// The last index at which this state was found to be sound.
    sound_at: Index,
    /// Counts rebuilds, so that another member is tried each time.
    turns: usize,
}

impl StateChecker {
    /// Puts the question that was chosen a round ago, so that everybody has come that far.
    async fn round(&mut self) {
        if self.shared.state().is_lost() {
            return self.replace_lost().await;
        }
        if let Some(mut question) = self.question.take()
            && question.swaps == self.shared.swaps.get()
        {
            let voters = self.shared.state().members.voters();
            self.ask(&voters, &mut question).await;
            let is_damaged = self.shared.state().store.is_damaged();
            let own = (!is_damaged).then_some(question.own);
            let me = self.shared.member_id;
            // The state may have been replaced meanwhile, and the answer be about the other one.
            if question.swaps == self.shared.swaps.get() {
                let verdict = judge(&voters, me, own, &question.answers);
                question.rounds += 1;
                // Who waits to be trusted tries every new index: others may not remember this one.
                let is_patient = question.rounds < ROUNDS_MAX && self.shared.is_trusted();
                if verdict == Verdict::Open && is_patient {
                    self.question = Some(question);
                } else {
                    self.settle(verdict, question.index).await;
                }
            }
        }
        if self.question.is_none() {
            self.question = self.choose();
        }
    }

    /// There is nothing to compare: whoever has a state will do, and it is compared once it is
    /// here. A leader is in reach, so it is asked first.
    async fn replace_lost(&mut self) {
        let (me, leader) = (self.shared.member_id, self.shared.view().leader);
        let mut others: Vec<NodeId> =
            self.shared.state().members.iter().map(|member| member.id).collect();
        others.retain(|id| *id != me);
        let from = match self.turns.is_multiple_of(2) && others.contains(&leader) {
            true => leader,
            false => others[self.turns / 2 % others.len()],
        };
        self.turns += 1;
        self.heal(from).await;
        if self.turns.is_multiple_of(LOST_TURNS) && self.is_beyond_help(&others).await {
            let index = self.shared.state().applied().index;
            tracing::error!(
                index,
                "no state reaches the entry with which this log begins: without a member that is \
                 not there yet, a backup is the only way (docs/runbooks/corruption.md)"
            );
        }
    }

    /// Whether all others have said that they have no state, or one that is too old to be followed
    /// by this member's log. They may come further yet.
    async fn is_beyond_help(&self, others: &[NodeId]) -> bool {
        let index = self.shared.state().applied().index;
        let answers = others.iter().map(|other| async {
            let mut client = self.peers.client(*other)?;
            let request = InfoRequest { header: Some(self.peers.header(*other)) };
            tokio::select! {
                biased;
                answer = client.info(request) => Some(answer),
                () = self.shared.env.clock.sleep(self.shared.election_timeout) => None,
            }
        });
        futures::future::join_all(answers).await.into_iter().all(|answer| match answer {
            Some(Ok(info)) => info.into_inner().applied < index,
            Some(Err(status)) => status.message() == NO_STATE,
            None => false,
        })
    }

    /// The next question; none while nothing has changed since the last good answer.
    fn choose(&self) -> Option<Question> {
        let swaps = self.shared.swaps.get();
        let hashes = self.shared.hashes();
        let index = hashes.agreed_index(self.sound_at)?;
        let own = hashes.at(index)?;
        let is_known = index == self.sound_at && self.shared.is_trusted();
        (!is_known).then(|| Question { index, own, answers: BTreeMap::new(), rounds: 0, swaps })
    }

    /// Asks all voters that have not answered yet, at the same time.
    async fn ask(&mut self, voters: &[NodeId], question: &mut Question) {
        let known: BTreeSet<NodeId> = voters.iter().copied().collect();
        self.clients.retain(|id, _| known.contains(id));
        let mut asked = Vec::new();
        for id in known {
            if id == self.shared.member_id || question.answers.contains_key(&id) {
                continue;
            }
            let client = self.clients.remove(&id).or_else(|| self.peers.client(id));
            let Some(client) = client else { continue };
            asked.push(ask(self.shared.clone(), &self.peers, id, client, question.index));
        }
        for (id, answered) in futures::future::join_all(asked).await {
            // Who does not answer may have other addresses by now.
            let Some((client, hash)) = answered else { continue };
            self.clients.insert(id, client);
            if let Some(hash) = hash {
                question.answers.insert(id, hash);
            }
        }
    }

    async fn settle(&mut self, verdict: Verdict, index: Index) {
        match verdict {
            Verdict::Sound => {
                self.sound_at = index;
                self.shared.set_standing(Standing::Trusted);
            }
            Verdict::Damaged(healthy) => {
                tracing::error!(index, "a majority of the voters agrees on another state");
                self.sound_at = 0;
                self.shared.set_standing(Standing::Quarantined);
                let from = healthy[self.turns % healthy.len()];
                self.turns += 1;
                self.heal(from).await;
            }
            Verdict::NoMajority => {
                tracing::error!(index, "no majority of the voters agrees on a state");
                raise_alarm(&self.shared).await;
            }
            Verdict::Open if self.shared.standing() == Standing::Quarantined => {
                // Those who have not answered may lag, and wait for a checkpoint of their leader,
                // which one that is damaged does not send.
                if self.shared.view().is_leader {
                    self.hand_over(ANYBODY).await;
                }
            }
            Verdict::Open => {}
        }
    }

    /// Leads no longer, or else is rebuilt: from a member that has the right state.
    async fn heal(&self, from: NodeId) {
        if self.shared.view().is_leader {
            self.hand_over(from).await;
        } else {
            // One wish may wait; the next verdict repeats it.
            let _waits = self.rebuilds.try_send(Rebuild { from });
        }
    }

    async fn hand_over(&self, target: NodeId) {
        let (done, _unheard) = oneshot::channel();
        // Without the consensus task the server is stopping.
        let _stopping = self.shared.inbox.send(Event::TransferLeader { target, done }).await;
    }
}

/// A member's hash at an index; no hash if it does not remember one, nothing if it does not answer.
async fn ask(
    shared: Arc<Shared>,
    peers: &Peers,
    id: NodeId,
    mut client: PeerClient<Channel>,
    index: Index,
) -> (NodeId, Option<(PeerClient<Channel>, Option<u64>)>) {
    let request = StateHashRequest { header: Some(peers.header(id)), index };
    let answered = tokio::select! {
        biased;
        answer = client.state_hash(request) => answer.ok().map(|answer| answer.into_inner()),
        () = shared.env.clock.sleep(shared.election_timeout) => None,
    };
    let Some(answer) = answered else { return (id, None) };
    // Another way of hashing says nothing about the state.
    let is_comparable = answer.index == index && answer.version == STATE_HASH_VERSION;
    (id, Some((client, is_comparable.then_some(answer.hash))))
}

/// Raises CORRUPT for the whole cluster: member 0, as etcd does where it can't name one.
async fn raise_alarm(shared: &Arc<Shared>) {
    let handle = Handle::new(shared.clone());
    if shared.state().alarms.is_raised(AlarmType::Corrupt) || !handle.has_leader() {
        return;
    }
    let request = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: 0,
        alarm: AlarmType::Corrupt.into(),
    };
    if let Err(error) = handle.propose_admitted(Op::Alarm(request)).await {
        // The next comparison decides anew.
        tracing::warn!(%error, "the CORRUPT alarm was not proposed");
    }
}

/// Holds every value in memory against its digest, once in each interval; runs until the server
/// stops. Values on disk are verified as they are read.
pub async fn recheck(shared: Arc<Shared>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    while shared.stop_reason().is_none() {
        shared.env.clock.sleep(interval).await;
        recheck_once(&shared).await;
    }
}

/// Looks at all records once. What differs makes the state hash differ as well.
pub async fn recheck_once(shared: &Shared) {
    let swaps = shared.swaps.get();
    let mut next = Some(Revision::default());
    let mut damage = 0_u64;
    while let Some(from) = next {
        {
            let state = shared.state();
            if shared.swaps.get() != swaps {
                return;
            }
            let step = state.store.recheck(from, STEP_RECORDS);
            damage = damage.wrapping_add(step.damage);
            next = step.next;
        }
        yield_now().await;
    }
    {
        let mut state = shared.state_mut();
        if shared.swaps.get() != swaps {
            return;
        }
        state.store.set_damage(damage);
        if damage == 0 {
            return;
        }
        // What was noted before is not the hash of what is in memory.
        let mut hashes = shared.hashes();
        hashes.clear();
        hashes.note(state.applied().index, state.state_hash());
    }
    tracing::error!("a value in memory differs from what was written there");
    shared.set_standing(Standing::Quarantined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(voters: u64, own: Option<u64>, answers: &[(u64, u64)]) -> Verdict {
        let voters: Vec<NodeId> = (1..=voters).collect();
        judge(&voters, 1, own, &answers.iter().copied().collect())
    }

    #[test]
    fn only_an_agreeing_majority_of_the_voters_decides() {
        let good = Some(7);
        assert_eq!(verdict(1, good, &[]), Verdict::Sound);
        assert_eq!(verdict(3, good, &[]), Verdict::Open);
        assert_eq!(verdict(3, good, &[(2, 7)]), Verdict::Sound);
        assert_eq!(verdict(3, good, &[(2, 8)]), Verdict::Open);
        assert_eq!(verdict(3, good, &[(2, 8), (3, 8)]), Verdict::Damaged(vec![2, 3]));
        assert_eq!(verdict(3, good, &[(2, 8), (3, 9)]), Verdict::NoMajority);
        assert_eq!(verdict(2, good, &[(2, 8)]), Verdict::NoMajority);
        assert_eq!(verdict(5, good, &[(2, 8), (3, 8), (4, 7)]), Verdict::Open);
        assert_eq!(verdict(5, good, &[(2, 8), (3, 8), (4, 9)]), Verdict::Open);
        assert_eq!(verdict(5, good, &[(2, 8), (3, 9), (4, 6)]), Verdict::NoMajority);
        let others = [(2, 8), (3, 8), (4, 7), (5, 8)];
        assert_eq!(verdict(5, good, &others), Verdict::Damaged(vec![2, 3, 5]));
    }

    #[test]
    fn who_knows_itself_to_be_damaged_does_not_vote() {
        assert_eq!(verdict(1, None, &[]), Verdict::NoMajority);
        assert_eq!(verdict(3, None, &[(2, 7)]), Verdict::Open);
        assert_eq!(verdict(3, None, &[(2, 7), (3, 7)]), Verdict::Damaged(vec![2, 3]));
        assert_eq!(verdict(3, None, &[(2, 7), (3, 8)]), Verdict::NoMajority);
    }

    #[test]
    fn a_learner_is_judged_and_does_not_vote() {
        let voters = [2, 3, 4];
        let judged = |own, hash| {
            let answers = BTreeMap::from([(2, hash), (3, hash)]);
            judge(&voters, 1, Some(own), &answers)
        };
        assert_eq!(judged(7, 7), Verdict::Sound);
        assert_eq!(judged(7, 8), Verdict::Damaged(vec![2, 3]));
        assert_eq!(judge(&voters, 1, Some(7), &BTreeMap::from([(2, 7)])), Verdict::Open);
    }
}
