//! The one inbox of the consensus task: recording it records the incident.

use crate::error::Result;
use crate::pb::raftpb;
use crate::raft::message::{Index, Message, NodeId};
use bytes::Bytes;
use tokio::sync::oneshot;

/// Everything that can happen to the consensus task.
pub enum Event {
    /// A request of this member's callers, encoded. Its outcome comes from apply.
    Propose { id: u64, data: Bytes },
    /// A change of membership. Its outcome comes from apply, or at once when it is refused.
    ProposeConfChange { id: u64, change: raftpb::ConfChange },
    /// A caller wants to read what is committed at this moment; it is told when this member
    /// has applied that much.
    Read(oneshot::Sender<Result<Index>>),
    /// Messages of one peer, in order.
    Peer(Vec<Message>),
    /// A message to this peer could not be sent.
    Unreachable(NodeId),
    /// One tick of the clock.
    Tick,
    /// The write with this number, and all before it, are durable.
    Persisted { seq: u64 },
    /// Entries up to this index are applied; changes of membership among them.
    Applied { index: Index, conf_changes: Vec<raftpb::ConfChange> },
    /// Hand leadership to this member (0: whoever is furthest).
    TransferLeader { target: NodeId, done: oneshot::Sender<Result<()>> },
    /// The server stops.
    Stop,
}
