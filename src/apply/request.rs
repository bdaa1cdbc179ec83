//! A request as the log holds it, and back.

use crate::alarm::{LEASE_COST_BYTES, put_cost_bytes, txn_cost_bytes};
use crate::pb::raftpb::{self, ConfChangeKind};
use crate::raft::message::ConfChange;
use bytes::Bytes;
use prost::Message;

pub use crate::pb::raftpb::request::Op;

/// Builds the bytes of a log entry of kind Normal.
pub fn encode(id: u64, op: Op) -> Bytes {
    let request = raftpb::Request { id, op: Some(op), ..Default::default() };
    Bytes::from(request.encode_to_vec())
}

/// Reads a log entry of kind Normal.
///
/// The bytes were checksummed by the log and by the transport, so what does not decode was
/// written by something that is not this program: every replica would stop at it alike.
pub fn decode(data: &Bytes) -> raftpb::Request {
    raftpb::Request::decode(data.clone()).unwrap_or_else(|error| {
        panic!("a log entry of {} bytes does not decode: {error}", data.len())
    })
}

/// What an operation costs against the quota; one that costs nothing passes while NOSPACE is
/// raised (etcd, `etcdserver/apply`, `quotaApplier`).
pub fn cost_bytes(op: &Op) -> u64 {
    match op {
        Op::Put(put) => put_cost_bytes(put),
        Op::Txn(txn) => txn_cost_bytes(txn),
        Op::LeaseGrant(_) => LEASE_COST_BYTES,
        _ => 0,
    }
}

/// The name of an operation, as etcd's metrics have it.
pub fn name(op: &Op) -> &'static str {
    match op {
        Op::Put(_) => "Put",
        Op::DeleteRange(_) => "DeleteRange",
        Op::Txn(_) => "Txn",
        Op::Compaction(_) => "Compaction",
        Op::LeaseGrant(_) => "LeaseGrant",
        Op::LeaseRevoke(_) => "LeaseRevoke",
        Op::LeaseExpire(_) => "LeaseExpire",
        Op::LeaseCheckpoint(_) => "LeaseCheckpoint",
        Op::Alarm(_) => "Alarm",
        Op::MemberAttributes(_) => "ClusterMemberAttrSet",
        Op::ClusterVersion(_) => "ClusterVersionSet",
        Op::Downgrade(_) => "DowngradeInfoSet",
        Op::MemberUpdate(_) => "MemberUpdate",
        _ => "Auth",
    }
}

/// Builds the bytes of a log entry of kind ConfChange.
pub fn encode_conf_change(change: &raftpb::ConfChange) -> Bytes {
    Bytes::from(change.encode_to_vec())
}

/// Reads a log entry of kind ConfChange; the same rule as for [`decode`].
pub fn decode_conf_change(data: &Bytes) -> raftpb::ConfChange {
    raftpb::ConfChange::decode(data.clone())
        .unwrap_or_else(|error| panic!("a membership entry does not decode: {error}"))
}

/// Reads a change of membership that another member hands on; `None` if it says nothing.
pub fn try_decode_conf_change(data: &Bytes) -> Option<raftpb::ConfChange> {
    raftpb::ConfChange::decode(data.clone()).ok()
}

/// The change of the consensus core's configuration that a change of membership brings: none
/// for a change of addresses, or for one that does not say whom it is about.
pub fn core_change(change: &raftpb::ConfChange) -> Option<ConfChange> {
    let id = change.member.as_ref()?.id;
    match ConfChangeKind::try_from(change.kind).ok()? {
        ConfChangeKind::AddVoter => Some(ConfChange::AddVoter(id)),
        ConfChangeKind::AddLearner => Some(ConfChange::AddLearner(id)),
        ConfChangeKind::Promote => Some(ConfChange::Promote(id)),
        ConfChangeKind::Remove => Some(ConfChange::Remove(id)),
        ConfChangeKind::Update => None,
    }
}
