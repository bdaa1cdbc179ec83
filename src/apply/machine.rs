//! The state machine, and the gates that a request passes on its way into it.

use super::outcome::{LeaseFact, Outcome, Response, RevisionChanges};
use super::request::{self, Op};
use crate::alarm::Alarms;
use crate::auth::kept::KeptAuth;
use crate::error::{Error, Result};
use crate::lease::{Grant, Lessor};
use crate::membership::Members;
use crate::mvcc::change::Change;
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb as api;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::{AlarmMember, AlarmType};
use crate::pb::raftpb;
use crate::raft::message::{Entry, EntryKind, Index, Term};
use prost::Message;
use sha1::{Digest, Sha1};
use std::sync::Arc;
use std::time::Duration;

/// How far a state machine is in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub index: Index,
    pub term: Term,
}

/// Everything that the log decides.
///
/// Invariants:
/// - Two members at the same `applied` index have equal `state_hash`es.
/// - A key is attached to a lease exactly if its newest version names that lease.
pub struct StateMachine {
    pub store: Store,
    pub lessor: Lessor,
    pub members: Members,
    pub alarms: Alarms,
    /// Users and roles of the backup that this state began with.
    pub(super) auth: KeptAuth,
    applied: Position,
    is_lost: bool,
    /// The part of the state hash that members and alarms make; they change rarely.
    cluster_hash: u64,
}

impl StateMachine {
    pub fn new(store: Store, lessor: Lessor, members: Members, alarms: Alarms) -> StateMachine {
        StateMachine::at(Position::default(), store, lessor, members, alarms)
    }

    /// A state machine that has applied the log up to `applied` already.
    pub fn at(
        applied: Position,
        store: Store,
        lessor: Lessor,
        members: Members,
        alarms: Alarms,
    ) -> StateMachine {
        let (auth, cluster_hash) = (KeptAuth::default(), 0);
        let is_lost = false;
        let mut machine =
            StateMachine { store, lessor, members, alarms, auth, applied, is_lost, cluster_hash };
        machine.hash_cluster();
        machine
    }

    /// What stands in for the state after an entry when that state is lost: nothing is ever applied
    /// to it, and another state takes its place. The members are those that are known of.
    pub fn lost(applied: Position, members: Members, min_ttl_secs: i64) -> StateMachine {
        let (store, lessor) = (Store::new(), Lessor::new(min_ttl_secs));
        let machine = StateMachine::at(applied, store, lessor, members, Alarms::default());
        StateMachine { is_lost: true, ..machine }
    }

    /// Gives this state up: it lacks something that no other member has, either.
    pub fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Whether this is no state at all any more, and only stands in for one.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub fn applied(&self) -> Position {
        self.applied
    }

    /// An order-free sum over all that is replicated; deadlines are not part of it.
    pub fn state_hash(&self) -> u64 {
        self.store
            .state_hash()
            .wrapping_add(self.lessor.state_hash())
            .wrapping_add(self.cluster_hash)
    }

    pub(super) fn hash_cluster(&mut self) {
        let mut hash = Sha1::new();
        hash.update(self.members.encode());
        for alarm in self.alarms.list(AlarmType::None) {
            hash.update(alarm.member_id.to_be_bytes());
            hash.update(alarm.alarm.to_be_bytes());
        }
        hash.update(self.auth.encode_to_vec());
        let digest = hash.finalize();
        self.cluster_hash =
            u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 has twenty bytes"));
    }

    /// All members, as an answer carries them.
    fn member_list(&self) -> Response {
        Response::Members(self.members.iter().cloned().collect())
    }

    /// Applies the entry that follows the last one applied.
    ///
    /// `now` is this member's monotonic time; it sets deadlines and decides nothing.
    ///
    /// A result of `Unreadable` says that the entry is not applied: a value that decides what it
    /// does can't be read on this member now.
    pub fn apply(&mut self, entry: &Entry, now: Duration) -> Outcome {
        assert!(!self.is_lost, "entry {} is applied to a lost state", entry.index);
        assert_eq!(
            entry.index,
            self.applied.index + 1,
            "entry {} does not follow the applied index {}",
            entry.index,
            self.applied.index
        );
        assert!(
            entry.term >= self.applied.term,
            "entry {} of term {} follows one of term {}",
            entry.index,
            entry.term,
            self.applied.term
        );
        let before = self.applied;
        self.applied = Position { index: entry.index, term: entry.term };
        let outcome = match entry.kind {
            // The entry with which a leader begins its term.
            EntryKind::Normal if entry.data.is_empty() => {
                Outcome::refusal_or(0, Ok(Response::Done))
            }
            EntryKind::Normal => self.apply_request(request::decode(&entry.data), now),
            EntryKind::ConfChange => {
                self.apply_conf_change(request::decode_conf_change(&entry.data))
            }
        };
        if outcome.result == Err(Error::Unreadable) {
            assert!(outcome.revisions.is_empty(), "entry {} is applied in part", entry.index);
            self.applied = before;
        }
        outcome
    }

    fn apply_request(&mut self, request: raftpb::Request, now: Duration) -> Outcome {
        let mut outcome = Outcome::refusal_or(request.id, Ok(Response::Done));
        let Some(op) = request.op else { return outcome };
        outcome.op = request::name(&op);
        outcome.touches_data = touches_data(&op);
        outcome.result = self.pass_gates(&op).and_then(|()| self.apply_op(op, now, &mut outcome));
        if let Err(error) = &outcome.result {
            let waits = *error == Error::Unreadable;
            assert!(
                waits || error.is_deterministic(),
                "apply failed with the local failure {error:?}"
            );
        }
        outcome
    }

    /// What stands between a request and the state, in order. Gates look at replicated state
    /// only: a local setting here would make members diverge.
    fn pass_gates(&self, op: &Op) -> Result<()> {
        if self.alarms.is_raised(AlarmType::Corrupt) && touches_data(op) {
            return Err(Error::Corrupt);
        }
        if self.alarms.is_raised(AlarmType::Nospace) && request::cost_bytes(op) > 0 {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Refuses reads of data that are known to be damaged.
    pub fn check_readable(&self) -> Result<()> {
        if self.alarms.is_raised(AlarmType::Corrupt) { Err(Error::Corrupt) } else { Ok(()) }
    }

    fn apply_op(&mut self, op: Op, now: Duration, outcome: &mut Outcome) -> Result<Response> {
        match op {
            Op::Put(request) => {
                let lessor = &self.lessor;
                let put = self.store.put(&request, &|lease| lessor.exists(lease))?;
                self.changed(put.changes, outcome);
                let header = self.header();
                let response = api::PutResponse { header, ..put.response };
                Ok(Response::Put(response).or_lost(put.lost))
            }
            Op::DeleteRange(request) => {
                let deleted = self.store.delete_range(&request);
                self.changed(deleted.changes, outcome);
                let header = self.header();
                let response = api::DeleteRangeResponse { header, ..deleted.response };
                Ok(Response::DeleteRange(response).or_lost(deleted.lost))
            }
            Op::Txn(request) => {
                let lessor = &self.lessor;
                let txn = self.store.apply_txn(&request, &|lease| lessor.exists(lease))?;
                self.changed(txn.changes, outcome);
                let header = self.header();
                let response = api::TxnResponse { header, ..txn.response };
                Ok(Response::Txn(response).or_lost(txn.lost))
            }
            Op::Compaction(request) => {
                self.store.compact(request.revision)?;
                outcome.compacted = true;
                Ok(Response::Compaction)
            }
            Op::LeaseGrant(request) => {
                let grant = Grant { id: request.id, index: self.applied.index };
                let ttl = self.lessor.grant(grant, request.ttl, now)?;
                outcome.leases.push(LeaseFact::Granted { id: request.id, ttl });
                Ok(Response::LeaseGrant { id: request.id, ttl })
            }
            Op::LeaseRevoke(request) => {
                self.revoke(request.id, outcome)?;
                Ok(Response::LeaseRevoke)
            }
            Op::LeaseExpire(expire) => Ok(self.expire(expire, outcome)),
            Op::LeaseCheckpoint(checkpoint) => Ok(self.checkpoint_leases(checkpoint)),
            Op::Alarm(request) => Ok(Response::Alarms(self.alarm(&request))),
            Op::MemberAttributes(attributes) => {
                self.members.set_attributes(&attributes);
                self.hash_cluster();
                Ok(Response::Done)
            }
            Op::ClusterVersion(version) => {
                self.members.set_cluster_version(&version.version);
                self.hash_cluster();
                Ok(Response::Done)
            }
            Op::Downgrade(downgrade) => {
                let target = if downgrade.enabled { &*downgrade.target_version } else { "" };
                self.members.set_downgrade_target(target);
                self.hash_cluster();
                Ok(Response::Done)
            }
            Op::MemberUpdate(change) => {
                self.members.validate(&change, usize::MAX)?;
                self.members.apply(&change);
                outcome.conf_change = Some(change);
                self.hash_cluster();
                Ok(self.member_list())
            }
            op => Err(Error::Unimplemented(request::name(&op))),
        }
    }

    /// What apply knows of an answer's header; the member that was asked adds the rest.
    fn header(&self) -> Option<api::ResponseHeader> {
        Some(api::ResponseHeader { revision: self.store.revision(), ..Default::default() })
    }

    /// Accounts for changes of keys: leases lose and gain them, watchers are told.
    fn changed(&mut self, changes: Vec<Change>, outcome: &mut Outcome) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            let before = change.prev.as_ref().map_or(0, |kv| kv.lease);
            let after = if change.deleted { 0 } else { change.kv.lease };
            if before != after {
                self.lessor.detach(&change.kv.key, before);
                self.lessor.attach(&change.kv.key, after);
            }
        }
        let revision = self.store.revision();
        outcome.revisions.push(RevisionChanges { revision, changes: Arc::from(changes) });
    }

    fn revoke(&mut self, id: i64, outcome: &mut Outcome) -> Result<()> {
        self.end_lease(id, false, outcome)
    }

    /// Ends a lease and deletes its keys, in one revision; without keys the revision stays.
    fn end_lease(&mut self, id: i64, expired: bool, outcome: &mut Outcome) -> Result<()> {
        let keys = self.lessor.revoke(id)?;
        let changes = self.store.delete_keys(&keys);
        let keys = changes.len();
        self.changed(changes, outcome);
        let revision = self.store.revision();
        outcome.leases.push(LeaseFact::Ended { id, keys, revision, expired });
        Ok(())
    }

    /// Ends leases whose time was up on the leader of a term. An entry of a later term carries
    /// it in vain: that leader may have renewed them (etcd issues 12528 and 15247).
    fn expire(&mut self, expire: raftpb::LeaseExpire, outcome: &mut Outcome) -> Response {
        let named = expire.ids.into_iter().zip(expire.granted_at);
        let due: Vec<Grant> = named.map(|(id, index)| Grant { id, index }).collect();
        if expire.term == self.applied.term {
            for grant in due {
                // Somebody may have revoked it while the proposal was under way, and granted
                // another lease under its id.
                if self.lessor.holds(grant) {
                    let ended = self.end_lease(grant.id, true, outcome);
                    ended.expect("the lease was just seen to exist");
                }
            }
        } else {
            self.lessor.not_expired(&due);
        }
        Response::Done
    }

    fn checkpoint_leases(&mut self, checkpoint: raftpb::LeaseCheckpoint) -> Response {
        if checkpoint.term == self.applied.term {
            for lease in checkpoint.leases {
                let grant = Grant { id: lease.id, index: lease.granted_at };
                self.lessor.checkpoint(grant, lease.remaining_ttl);
            }
        }
        Response::Done
    }

    /// Raises or clears alarms; answers with those that the request was about.
    fn alarm(&mut self, request: &api::AlarmRequest) -> Vec<AlarmMember> {
        let (member_id, kind) = (request.member_id, request.alarm());
        let about = vec![AlarmMember { member_id, alarm: kind.into() }];
        let answer = match request.action() {
            AlarmAction::Get => self.alarms.list(kind),
            AlarmAction::Activate => {
                self.alarms.activate(member_id, kind);
                about
            }
            AlarmAction::Deactivate => match self.alarms.deactivate(member_id, kind) {
                true => about,
                false => Vec::new(),
            },
        };
        self.hash_cluster();
        answer
    }

    fn apply_conf_change(&mut self, change: raftpb::ConfChange) -> Outcome {
        let result = self.members.validate(&change, usize::MAX);
        let mut outcome = Outcome::refusal_or(change.id, Ok(Response::Done));
        outcome.result = result.map(|()| {
            self.members.apply(&change);
            outcome.conf_change = Some(change);
            self.hash_cluster();
            self.member_list()
        });
        outcome
    }

    /// Answers a transaction that only reads, without the log.
    pub fn read_txn(&mut self, request: &api::TxnRequest) -> Result<api::TxnResponse> {
        self.check_readable()?;
        let txn = self.store.apply_txn(request, &|_| false)?;
        assert!(txn.changes.is_empty(), "a transaction that only reads changed {:?}", txn.changes);
        if txn.lost {
            return Err(Error::Unreadable);
        }
        Ok(api::TxnResponse { header: self.header(), ..txn.response })
    }
}

/// Whether an operation reads or writes data, which a damaged member must not do.
pub fn touches_data(op: &Op) -> bool {
    matches!(
        op,
        Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compaction(_)
            | Op::LeaseGrant(_)
            | Op::LeaseRevoke(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A machine that takes requests, each as the next entry of term 1.
    struct Log {
        machine: StateMachine,
    }

    impl Log {
        fn new() -> Log {
            let founders = [("a".to_string(), vec!["http://a:1".to_string()])];
            let members = Members::bootstrap(&founders, "t");
            let (store, lessor) = (Store::new(), Lessor::new(1));
            Log { machine: StateMachine::new(store, lessor, members, Alarms::default()) }
        }

        fn apply(&mut self, term: Term, op: Op) -> Outcome {
            let index = self.machine.applied().index + 1;
            let data = request::encode(index, op);
            self.machine
                .apply(&Entry { index, term, kind: EntryKind::Normal, data }, Duration::ZERO)
        }

        fn grant(&mut self, id: i64) -> u64 {
            let op = Op::LeaseGrant(api::LeaseGrantRequest { id, ttl: 60 });
            self.apply(1, op).result.expect("a free id");
            self.machine.applied().index
        }

        fn put(&mut self, key: &'static str, lease: i64) -> Outcome {
            let key = Bytes::from_static(key.as_bytes());
            self.apply(1, Op::Put(api::PutRequest { key, lease, ..Default::default() }))
        }
    }

    fn expiry(term: Term, id: i64, granted_at: u64) -> Op {
        Op::LeaseExpire(raftpb::LeaseExpire { term, ids: vec![id], granted_at: vec![granted_at] })
    }

    #[test]
    fn a_late_expiry_spares_a_new_lease_under_the_same_id() {
        let mut log = Log::new();
        let first = log.grant(7);
        log.apply(1, Op::LeaseRevoke(api::LeaseRevokeRequest { id: 7 })).result.expect("granted");
        let second = log.grant(7);
        log.put("a", 7).result.expect("the lease is there");
        assert_eq!(log.apply(1, expiry(1, 7, first)).leases, []);
        assert_eq!(log.apply(1, expiry(2, 7, second)).leases, [], "decided in another term");
        assert!(log.machine.lessor.exists(7));
        let ended = LeaseFact::Ended { id: 7, keys: 1, revision: 3, expired: true };
        assert_eq!(log.apply(1, expiry(1, 7, second)).leases, [ended]);
    }

    #[test]
    fn the_end_of_a_lease_takes_a_revision_only_with_keys() {
        let mut log = Log::new();
        log.grant(7);
        log.grant(8);
        log.put("a", 7).result.expect("the lease is there");
        log.put("b", 7).result.expect("the lease is there");
        log.put("b", 8).result.expect("a key moves to another lease");
        let ended = log.apply(1, Op::LeaseRevoke(api::LeaseRevokeRequest { id: 7 }));
        let gone: Vec<_> = ended.revisions[0].changes.iter().map(|c| c.kv.key.clone()).collect();
        assert_eq!((ended.revisions[0].revision, gone), (5, vec![Bytes::from("a")]));
        log.grant(9);
        let ended = log.apply(1, Op::LeaseRevoke(api::LeaseRevokeRequest { id: 9 }));
        assert!(ended.revisions.is_empty());
        assert_eq!(log.machine.store.revision(), 5);
        assert_eq!(log.put("c", 9).result, Err(Error::LeaseNotFound));
    }
}
