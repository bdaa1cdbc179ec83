//! Messages of the consensus core as the peer protocol carries them, and back.

use crate::apply::request;
use crate::pb::raftpb::{self as pb, raft_message::Payload as Wire};
use crate::raft::message::{ConfState, Entry, EntryKind, Message, NodeId, Payload, RejectHint};

/// About how many bytes a message takes on the wire.
pub fn size_bytes(message: &Message) -> usize {
    const FIXED_BYTES: usize = 32;
    FIXED_BYTES
        + match &message.payload {
            Payload::Append { entries, .. } => entries.iter().map(Entry::size_bytes).sum(),
            Payload::Propose { entries } => entries.iter().map(|data| data.len() + 8).sum(),
            _ => 0,
        }
}

/// The sender and the receiver are known from the stream and are not repeated.
pub fn encode(message: Message) -> pb::RaftMessage {
    pb::RaftMessage { term: message.term, payload: Some(encode_payload(message.payload)) }
}

fn encode_payload(payload: Payload) -> Wire {
    match payload {
        Payload::PreVote { last_index, last_term } => {
            Wire::PreVote(pb::LogPosition { last_index, last_term })
        }
        Payload::PreVoteResponse { granted } => Wire::PreVoteResponse(pb::VoteAnswer { granted }),
        Payload::Vote { last_index, last_term, transfer } => {
            Wire::Vote(pb::VoteRequest { last_index, last_term, transfer })
        }
        Payload::VoteResponse { granted } => Wire::VoteResponse(pb::VoteAnswer { granted }),
        Payload::Committed { index, term } => {
            Wire::Committed(pb::LogPosition { last_index: index, last_term: term })
        }
        Payload::Append { prev_index, prev_term, commit, entries } => {
            let entries = entries.into_iter().map(encode_entry).collect();
            Wire::Append(pb::Append { prev_index, prev_term, commit, entries })
        }
        Payload::AppendResponse { index, reject } => Wire::AppendResponse(pb::AppendResponse {
            index,
            rejected: reject.is_some(),
            hint_index: reject.map_or(0, |hint| hint.index),
            hint_term: reject.map_or(0, |hint| hint.term),
        }),
        Payload::Heartbeat { commit, read_seq } => {
            Wire::Heartbeat(pb::Heartbeat { commit, read_seq })
        }
        Payload::HeartbeatResponse { read_seq } => {
            Wire::HeartbeatResponse(pb::HeartbeatResponse { read_seq })
        }
        Payload::Propose { entries } => Wire::Propose(pb::Propose { entries }),
        Payload::ProposeConfChange { data, change: _ } => {
            Wire::ProposeConfChange(pb::ProposeConfChange { data })
        }
        Payload::ReadIndex { ctx } => Wire::ReadIndex(pb::ReadIndex { ctx }),
        Payload::ReadIndexResponse { ctx, index } => {
            Wire::ReadIndexResponse(pb::ReadIndexResponse { ctx, index })
        }
        Payload::TransferLeader { target } => Wire::TransferLeader(pb::TransferLeader { target }),
        Payload::TimeoutNow => Wire::TimeoutNow(pb::TimeoutNow {}),
        Payload::Snapshot { index, term, conf_state } => Wire::Snapshot(pb::SnapshotOffer {
            index,
            term,
            voters: conf_state.voters.into_iter().collect(),
            learners: conf_state.learners.into_iter().collect(),
        }),
    }
}

/// `None` for a message that says nothing this member understands.
pub fn decode(from: NodeId, to: NodeId, message: pb::RaftMessage) -> Option<Message> {
    let payload = decode_payload(message.payload?)?;
    Some(Message { from, to, term: message.term, payload })
}

fn decode_payload(payload: Wire) -> Option<Payload> {
    Some(match payload {
        Wire::PreVote(p) => Payload::PreVote { last_index: p.last_index, last_term: p.last_term },
        Wire::PreVoteResponse(p) => Payload::PreVoteResponse { granted: p.granted },
        Wire::Vote(p) => {
            Payload::Vote { last_index: p.last_index, last_term: p.last_term, transfer: p.transfer }
        }
        Wire::VoteResponse(p) => Payload::VoteResponse { granted: p.granted },
        Wire::Committed(p) => Payload::Committed { index: p.last_index, term: p.last_term },
        Wire::Append(p) => Payload::Append {
            prev_index: p.prev_index,
            prev_term: p.prev_term,
            commit: p.commit,
            entries: p.entries.into_iter().map(decode_entry).collect::<Option<_>>()?,
        },
        Wire::AppendResponse(p) => {
            let hint = RejectHint { index: p.hint_index, term: p.hint_term };
            Payload::AppendResponse { index: p.index, reject: p.rejected.then_some(hint) }
        }
        Wire::Heartbeat(p) => Payload::Heartbeat { commit: p.commit, read_seq: p.read_seq },
        Wire::HeartbeatResponse(p) => Payload::HeartbeatResponse { read_seq: p.read_seq },
        Wire::Propose(p) => Payload::Propose { entries: p.entries },
        Wire::ProposeConfChange(p) => {
            let change = request::core_change(&request::try_decode_conf_change(&p.data)?)?;
            Payload::ProposeConfChange { data: p.data, change }
        }
        Wire::ReadIndex(p) => Payload::ReadIndex { ctx: p.ctx },
        Wire::ReadIndexResponse(p) => Payload::ReadIndexResponse { ctx: p.ctx, index: p.index },
        Wire::TransferLeader(p) => Payload::TransferLeader { target: p.target },
        Wire::TimeoutNow(_) => Payload::TimeoutNow,
        Wire::Snapshot(p) => {
            let conf_state = ConfState {
                voters: p.voters.into_iter().collect(),
                learners: p.learners.into_iter().collect(),
            };
            Payload::Snapshot { index: p.index, term: p.term, conf_state }
        }
    })
}

fn encode_entry(entry: Entry) -> pb::Entry {
    let kind = match entry.kind {
        EntryKind::Normal => pb::EntryKind::Normal,
        EntryKind::ConfChange => pb::EntryKind::ConfChange,
    };
    pb::Entry { term: entry.term, index: entry.index, kind: kind.into(), data: entry.data }
}

fn decode_entry(entry: pb::Entry) -> Option<Entry> {
    let kind = match pb::EntryKind::try_from(entry.kind).ok()? {
        pb::EntryKind::Normal => EntryKind::Normal,
        pb::EntryKind::ConfChange => EntryKind::ConfChange,
    };
    Some(Entry { term: entry.term, index: entry.index, kind, data: entry.data })
}
