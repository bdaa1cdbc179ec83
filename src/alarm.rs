//! The alarms of the cluster, and the arithmetic of the quota.
//!
//! An alarm is replicated state: each member proposes its own, and all of them honour it from the
//! same log index on. It stays until somebody takes it back. The quota is a setting of one member:
//! it decides what that member proposes and never what an entry does.

use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{AlarmMember, AlarmType, PutRequest, RequestOp, TxnRequest};
use std::collections::BTreeSet;

/// What a key costs beyond its bytes, in etcd's estimate.
const KEY_OVERHEAD_BYTES: u64 = 256;
/// What a lease costs, in etcd's estimate.
pub const LEASE_COST_BYTES: u64 = 64;

/// Below this share of the quota, in tenths, a member takes its alarm back.
const RELIEF_TENTHS: u64 = 9;

/// The bytes of live data that one member puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    setting: i64,
}

impl Quota {
    /// Etcd's `--quota-backend-bytes`, its 0 replaced by the default: less than 0 is no quota.
    pub fn new(setting: i64) -> Quota {
        Quota { setting }
    }

    pub fn setting(self) -> i64 {
        self.setting
    }

    fn bytes(self) -> u64 {
        u64::try_from(self.setting).unwrap_or(u64::MAX)
    }

    /// Whether a request of this cost still fits.
    pub fn admits(self, live_bytes: u64, cost_bytes: u64) -> bool {
        live_bytes.saturating_add(cost_bytes) < self.bytes()
    }

    pub fn is_exceeded(self, live_bytes: u64) -> bool {
        !self.admits(live_bytes, 0)
    }

    /// Whether there is room again, with a margin: an alarm that is taken back at the quota's very
    /// edge would be raised by the next write.
    pub fn is_relieved(self, live_bytes: u64) -> bool {
        live_bytes < self.bytes() / 10 * RELIEF_TENTHS
    }
}

/// The raised alarms.
///
/// Invariant: sorted by kind, then member; never of the kind NONE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms(BTreeSet<(i32, u64)>);

impl Alarms {
    /// Raises an alarm for a member; true if it is a further one. A client may ask for an alarm
    /// of no kind: as in etcd that raises nothing.
    pub fn activate(&mut self, member: u64, kind: AlarmType) -> bool {
        kind != AlarmType::None && self.0.insert((kind as i32, member))
    }

    /// Takes an alarm back; true if it was there.
    pub fn deactivate(&mut self, member: u64, kind: AlarmType) -> bool {
        self.0.remove(&(kind as i32, member))
    }

    pub fn is_raised_by(&self, member: u64, kind: AlarmType) -> bool {
        self.0.contains(&(kind as i32, member))
    }

    /// Whether any member has raised this alarm: then it binds all of them.
    pub fn is_raised(&self, kind: AlarmType) -> bool {
        let kind = kind as i32;
        self.0.range((kind, 0)..=(kind, u64::MAX)).next().is_some()
    }

    /// Those of one kind, or all of them for `AlarmType::None`.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let wanted = |of: &i32| kind == AlarmType::None || *of == kind as i32;
        let chosen = self.0.iter().filter(|(of, _)| wanted(of));
        chosen.map(|(alarm, member_id)| alarm_member(*member_id, *alarm)).collect()
    }

    /// For a checkpoint; `restore` is the inverse.
    pub fn to_checkpoint(&self) -> Vec<AlarmMember> {
        self.list(AlarmType::None)
    }

    pub fn restore(alarms: &[AlarmMember]) -> Alarms {
        let mut restored = Alarms::default();
        for alarm in alarms {
            let kind = AlarmType::try_from(alarm.alarm).expect("written by to_checkpoint");
            restored.activate(alarm.member_id, kind);
        }
        restored
    }
}

fn alarm_member(member_id: u64, alarm: i32) -> AlarmMember {
    AlarmMember { member_id, alarm }
}

/// What a put costs against the quota.
pub fn put_cost_bytes(put: &PutRequest) -> u64 {
    KEY_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64
}

/// What a transaction costs: the dearer of its branches, nested ones included. Without any put
/// it costs nothing and passes while NOSPACE is raised.
pub fn txn_cost_bytes(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_cost_bytes).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn op_cost_bytes(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost_bytes(put),
        Some(Request::RequestTxn(txn)) => txn_cost_bytes(txn),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), ..Default::default() }
    }

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn a_quota_is_exceeded_at_its_last_byte_and_relieved_with_a_margin() {
        let quota = Quota::new(1000);
        assert!(quota.admits(700, 299) && !quota.admits(700, 300));
        assert!(!quota.is_exceeded(999) && quota.is_exceeded(1000));
        assert!(quota.is_relieved(899) && !quota.is_relieved(900));
        let none = Quota::new(-1);
        assert!(none.admits(u64::MAX - 1, 0) && none.is_relieved(1 << 60));
    }

    #[test]
    fn one_member_binds_all_until_it_is_taken_back() {
        let mut alarms = Alarms::default();
        assert!(!alarms.is_raised(AlarmType::Nospace));
        assert!(alarms.activate(7, AlarmType::Nospace));
        assert!(!alarms.activate(7, AlarmType::Nospace));
        assert!(!alarms.activate(7, AlarmType::None));
        assert!(alarms.activate(3, AlarmType::Nospace));
        assert!(alarms.is_raised(AlarmType::Nospace));
        assert!(!alarms.is_raised(AlarmType::Corrupt));
        assert!(alarms.deactivate(7, AlarmType::Nospace));
        assert!(!alarms.deactivate(7, AlarmType::Nospace));
        assert!(alarms.is_raised(AlarmType::Nospace));
    }

    #[test]
    fn lists_are_sorted_and_survive_a_checkpoint() {
        let mut alarms = Alarms::default();
        alarms.activate(9, AlarmType::Corrupt);
        alarms.activate(9, AlarmType::Nospace);
        alarms.activate(2, AlarmType::Nospace);
        let all = alarms.list(AlarmType::None);
        let pairs: Vec<_> = all.iter().map(|a| (a.member_id, a.alarm)).collect();
        assert_eq!(pairs, [(2, 1), (9, 1), (9, 2)]);
        assert_eq!(alarms.list(AlarmType::Corrupt).len(), 1);
        assert_eq!(Alarms::restore(&alarms.to_checkpoint()), alarms);
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch() {
        let nested = TxnRequest {
            success: vec![op(Request::RequestPut(put("abc", "0123456789")))],
            ..Default::default()
        };
        let txn = TxnRequest {
            success: vec![op(Request::RequestPut(put("a", "1")))],
            failure: vec![
                op(Request::RequestTxn(nested)),
                op(Request::RequestDeleteRange(Default::default())),
                op(Request::RequestRange(Default::default())),
            ],
            ..Default::default()
        };
        assert_eq!(put_cost_bytes(&put("a", "1")), 258);
        assert_eq!(txn_cost_bytes(&txn), 256 + 13);
        assert_eq!(txn_cost_bytes(&TxnRequest::default()), 0);
    }
}
