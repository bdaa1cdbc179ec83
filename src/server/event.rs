//! The one inbox of the consensus task: recording it records the incident.

use crate::apply::machine::{Position, StateMachine};
use crate::error::Result;
use crate::pb::raftpb;
use crate::raft::message::{ConfState, Index, Message, NodeId};
use crate::storage::run::RunMeta;
use bytes::Bytes;
use tokio::sync::oneshot;

/// Everything that can happen to the consensus task.
pub enum Event {
    /// A request of this member's callers, encoded. Its outcome comes from apply.
    Propose {
        id: u64,
        data: Bytes,
    },
    /// A change of membership. Its outcome comes from apply, or at once when it is refused.
    ProposeConfChange {
        id: u64,
        change: raftpb::ConfChange,
    },
    /// A caller wants to read what is committed at this moment; it is told when this member
    /// has applied that much.
    Read(oneshot::Sender<Result<Index>>),
    /// Messages of one peer, in order.
    Peer(Vec<Message>),
    /// A message to this peer could not be sent.
    Unreachable(NodeId),
    /// Nobody listens at the addresses of this peer.
    Gone(NodeId),
    /// Another member says that this one was removed.
    Removed,
    /// One tick of the clock.
    Tick,
    /// The write with this number, and all before it, are durable.
    Persisted {
        seq: u64,
    },
    /// Entries up to this index are applied; changes of membership among them.
    Applied {
        index: Index,
        conf_changes: Vec<raftpb::ConfChange>,
    },
    /// The log up to this index is in a durable checkpoint.
    Checkpointed {
        index: Index,
    },
    /// Hand out no more entries: the state of another member is to take the place of this one's.
    /// Answers how far that state must reach at the least; nothing from a leader, which goes on.
    /// `Install` or `AbortInstall` follows.
    HoldApply {
        reply: oneshot::Sender<Option<Index>>,
    },
    /// A snapshot up to this index was received whole. Answers whether it shall be installed; if
    /// so, `Install` or `AbortInstall` follows.
    PrepareInstall {
        index: Index,
        reply: oneshot::Sender<bool>,
    },
    AbortInstall,
    /// Swap the state machine, once everything that was handed out is applied.
    Install(Box<Swap>),
    /// The state machine was swapped.
    Installed(Installed),
    /// Sending a snapshot to this peer has ended.
    SnapshotSent {
        peer: NodeId,
        ok: bool,
    },
    /// Hand leadership to this member (0: whoever is furthest).
    TransferLeader {
        target: NodeId,
        done: oneshot::Sender<Result<()>>,
    },
    /// The server stops.
    Stop,
}

/// A state machine that takes the place of the present one.
pub struct Swap {
    pub state: StateMachine,
    /// The runs that hold its records, open in the table already.
    pub runs: Vec<RunMeta>,
    pub done: oneshot::Sender<()>,
}

/// What consensus must know of a state machine that was swapped in.
pub struct Installed {
    pub applied: Position,
    pub conf_state: ConfState,
    pub members: Vec<raftpb::Member>,
    pub done: oneshot::Sender<()>,
}
