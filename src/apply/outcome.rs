//! What applying one entry gives.

use crate::error::Result;
use crate::mvcc::change::Change;
use crate::pb::{etcdserverpb as api, raftpb};
use std::sync::Arc;

/// The answer to the caller of a request. Headers are filled in by the member that was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Put(api::PutResponse),
    DeleteRange(api::DeleteRangeResponse),
    Txn(api::TxnResponse),
    Compaction,
    LeaseGrant {
        id: i64,
        ttl: i64,
    },
    LeaseRevoke,
    Alarms(Vec<api::AlarmMember>),
    Members(Vec<raftpb::Member>),
    /// The entry was applied, and a value that its answer shows can't be read on this member.
    Lost,
    /// The entry was applied and there is nothing to say about it.
    Done,
}

impl Response {
    /// This answer, unless it lacks a value that can't be read.
    pub(super) fn or_lost(self, lost: bool) -> Response {
        if lost { Response::Lost } else { self }
    }
}

/// Events of one revision, shared by everyone who is told of them.
#[derive(Clone, Debug)]
pub struct RevisionChanges {
    pub revision: i64,
    pub changes: Arc<[Change]>,
}

/// What an entry did to a lease, for those who listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseFact {
    Granted {
        id: i64,
        ttl: i64,
    },
    /// So many keys went with it, in `revision` if there were any.
    Ended {
        id: i64,
        keys: usize,
        revision: i64,
        expired: bool,
    },
}

/// The outcome of one entry.
#[derive(Debug)]
pub struct Outcome {
    /// The request's id; 0 for an entry that nobody waits for.
    pub request_id: u64,
    /// What was asked for, in etcd's names; empty for the first entry of a term.
    pub op: &'static str,
    /// It was about keys or leases, and its answer comes out of them.
    pub touches_data: bool,
    pub result: Result<Response>,
    /// What watchers must be told, one element for each revision that was made, in order.
    pub revisions: Vec<RevisionChanges>,
    /// What became of leases, in order.
    pub leases: Vec<LeaseFact>,
    /// The compact revision moved; physical removal has work to do.
    pub compacted: bool,
    /// A change of membership that was accepted, for the consensus core and the transport.
    pub conf_change: Option<raftpb::ConfChange>,
}

impl Outcome {
    pub fn refusal_or(request_id: u64, result: Result<Response>) -> Outcome {
        Outcome {
            request_id,
            op: "",
            touches_data: false,
            result,
            revisions: Vec::new(),
            leases: Vec::new(),
            compacted: false,
            conf_change: None,
        }
    }
}
