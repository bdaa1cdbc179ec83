//! What a leader knows of one follower's log, and how much it may have in flight to it.

use std::collections::VecDeque;

use crate::raft::message::Index;

/// How the leader sends to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// The point of agreement is not known: one message at a time, until one is accepted.
    Probe {
        /// A message is out; the next waits for its answer, or for the answer to a heartbeat.
        sent: bool,
    },
    /// The logs agree: messages leave one after the other without waiting for answers.
    Replicate,
    /// The follower needs the state up to `pending` first. Nothing is sent until the driver
    /// reports how that went, or the follower turns up in the log by itself.
    Snapshot { pending: Index },
}

/// Messages that are out and not yet answered.
///
/// Invariant: `bytes` is the sum over `messages`, whose last indexes never fall.
#[derive(Clone, Debug, Default)]
struct Inflights {
    messages: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Inflights {
    fn add(&mut self, last: Index, bytes: usize) {
        assert!(self.messages.back().is_none_or(|(back, _)| *back <= last));
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// An answer for `index` frees every message that ends at or before it.
    fn free_to(&mut self, index: Index) {
        while let Some((_, bytes)) = self.messages.pop_front_if(|(last, _)| *last <= index) {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }
}

/// The leader's view of one follower.
///
/// Invariants:
/// - `matched < next`;
/// - everything up to `matched` is durable at the follower and equal to the leader's log, and
///   `matched` never falls during a term;
/// - only in `Replicate` is anything in flight.
#[derive(Clone, Debug)]
pub struct Progress {
    pub matched: Index,
    pub next: Index,
    pub state: ProgressState,
    /// Heard from since the last check of the quorum.
    pub recent_active: bool,
    /// The newest read round that the follower has answered.
    pub read_seq: u64,
    /// The highest commit index that was sent in an append.
    pub sent_commit: Index,
    /// Send an append even if it is empty: its answer tells whether something got lost.
    pub nudged: bool,
    inflights: Inflights,
    inflight_messages_max: usize,
    inflight_bytes_max: usize,
}

impl Progress {
    pub fn new(next: Index, messages_max: usize, bytes_max: usize) -> Progress {
        Progress {
            matched: 0,
            next,
            state: ProgressState::Probe { sent: false },
            recent_active: false,
            read_seq: 0,
            sent_commit: 0,
            nudged: false,
            inflights: Inflights::default(),
            inflight_messages_max: messages_max.max(1),
            inflight_bytes_max: bytes_max.max(1),
        }
    }

    fn enter(&mut self, state: ProgressState) {
        self.inflights.clear();
        self.state = state;
        self.nudged = false;
        // What was under way may be lost with the state it was sent in.
        self.sent_commit = self.sent_commit.min(self.matched);
    }

    pub fn become_probe(&mut self) {
        // After a snapshot the follower may have all of it, even if nobody says so.
        let after_snapshot = match self.state {
            ProgressState::Snapshot { pending } => pending + 1,
            ProgressState::Probe { .. } | ProgressState::Replicate => 0,
        };
        self.enter(ProgressState::Probe { sent: false });
        self.next = after_snapshot.max(self.matched + 1);
    }

    pub fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched + 1;
    }

    pub fn become_snapshot(&mut self, pending: Index) {
        self.enter(ProgressState::Snapshot { pending });
    }

    /// The transfer of a snapshot ended. After a failure, wait for a sign of life.
    pub fn snapshot_ended(&mut self, ok: bool) {
        if let ProgressState::Snapshot { pending } = &mut self.state {
            if !ok {
                *pending = 0;
            }
            self.become_probe();
            self.state = ProgressState::Probe { sent: true };
        }
    }

    /// Whether nothing with entries may be sent for the moment.
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe { sent } => sent,
            ProgressState::Replicate => self.is_full(),
            ProgressState::Snapshot { .. } => true,
        }
    }

    fn is_full(&self) -> bool {
        self.inflights.messages.len() >= self.inflight_messages_max
            || self.inflights.bytes >= self.inflight_bytes_max
    }

    /// An append with `count` entries left, and with it the commit index.
    pub fn sent(&mut self, count: usize, bytes: usize, commit: Index) {
        self.nudged = false;
        self.sent_commit = self.sent_commit.max(commit);
        match &mut self.state {
            ProgressState::Probe { sent } => *sent = true,
            ProgressState::Replicate => {
                if count > 0 {
                    self.next += count as u64;
                    self.inflights.add(self.next - 1, bytes);
                }
            }
            ProgressState::Snapshot { .. } => {}
        }
    }

    /// The follower has everything up to `index`. Returns whether that is news.
    pub fn accepted(&mut self, index: Index) -> bool {
        self.inflights.free_to(index);
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index + 1);
        true
    }

    /// The follower refused an append that followed `rejected`; the logs may agree at `hint`.
    /// Returns false for an answer to something older than what is known.
    pub fn refused(&mut self, rejected: Index, hint: Index) -> bool {
        match self.state {
            ProgressState::Replicate => {
                if rejected <= self.matched {
                    return false;
                }
                self.become_probe();
                true
            }
            ProgressState::Probe { .. } => {
                if rejected != self.next - 1 {
                    return false;
                }
                self.next = rejected.min(hint + 1).max(self.matched + 1);
                self.state = ProgressState::Probe { sent: false };
                true
            }
            ProgressState::Snapshot { .. } => false,
        }
    }

    /// The follower answered a heartbeat, so it can be asked again whether something got lost.
    pub fn answered_heartbeat(&mut self, last_index: Index) {
        self.recent_active = true;
        match &mut self.state {
            ProgressState::Probe { sent } => {
                *sent = false;
                self.nudged = true;
            }
            ProgressState::Replicate => self.nudged = self.matched < last_index,
            ProgressState::Snapshot { .. } => {}
        }
    }

    /// An election timeout has passed. An offer of a snapshot may be lost, or its answer: make
    /// it again.
    pub fn renew_offer(&mut self) {
        if let ProgressState::Snapshot { .. } = self.state {
            self.nudged = true;
        }
    }
}

/// A follower as the driver and the metrics see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgressView {
    pub matched: Index,
    pub next: Index,
    pub state: ProgressState,
    pub recent_active: bool,
    pub is_learner: bool,
    pub inflight_messages: usize,
    pub inflight_bytes: usize,
}

impl Progress {
    pub fn view(&self, is_learner: bool) -> ProgressView {
        ProgressView {
            matched: self.matched,
            next: self.next,
            state: self.state,
            recent_active: self.recent_active,
            is_learner,
            inflight_messages: self.inflights.messages.len(),
            inflight_bytes: self.inflights.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Send { count: usize, bytes: usize },
        Accept(u64),
        Refuse { rejected: u64, hint: u64 },
        Heartbeat,
        Unreachable,
        Snapshot(u64),
        SnapshotEnded(bool),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0usize..4, 0usize..100).prop_map(|(count, bytes)| Op::Send { count, bytes }),
            4 => (0u64..30).prop_map(Op::Accept),
            1 => (0u64..30, 0u64..30).prop_map(|(rejected, hint)| Op::Refuse { rejected, hint }),
            1 => Just(Op::Heartbeat),
            1 => Just(Op::Unreachable),
            1 => (0u64..30).prop_map(Op::Snapshot),
            1 => any::<bool>().prop_map(Op::SnapshotEnded),
        ]
    }

    proptest! {
        /// The dumb twin keeps every message that was sent and recounts what is in flight.
        #[test]
        fn what_is_in_flight_is_what_was_sent_and_not_answered(
            ops in prop::collection::vec(any_op(), 1..60),
        ) {
            let mut progress = Progress::new(1, 3, 150);
            let mut twin: Vec<(u64, usize)> = Vec::new();
            for op in ops {
                let before = progress.matched;
                match op {
                    Op::Send { count, bytes } if !progress.is_paused() => {
                        progress.sent(count, bytes, 0);
                        if progress.state == ProgressState::Replicate && count > 0 {
                            twin.push((progress.next - 1, bytes));
                        }
                    }
                    Op::Send { .. } => {}
                    Op::Accept(index) => {
                        let index = index.min(progress.next - 1);
                        progress.accepted(index);
                        twin.retain(|(last, _)| *last > index);
                        if matches!(progress.state, ProgressState::Probe { .. }) {
                            progress.become_replicate();
                        }
                    }
                    Op::Refuse { rejected, hint } => {
                        progress.refused(rejected, hint);
                    }
                    Op::Heartbeat => progress.answered_heartbeat(30),
                    Op::Unreachable => progress.become_probe(),
                    Op::Snapshot(pending) => progress.become_snapshot(pending),
                    Op::SnapshotEnded(ok) => progress.snapshot_ended(ok),
                }
                if progress.state != ProgressState::Replicate {
                    twin.clear();
                }
                let view = progress.view(false);
                prop_assert!(progress.matched < progress.next);
                prop_assert!(progress.matched >= before);
                prop_assert_eq!(view.inflight_messages, twin.len());
                prop_assert_eq!(view.inflight_bytes, twin.iter().map(|(_, b)| b).sum::<usize>());
                if progress.state == ProgressState::Replicate {
                    let full = twin.len() >= 3 || view.inflight_bytes >= 150;
                    prop_assert_eq!(progress.is_paused(), full);
                }
            }
        }
    }
}
