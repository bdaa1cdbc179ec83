//! Linearizable reads without a log entry (thesis, section 6.4).
//!
//! The leader notes its commit index and starts a round of heartbeats. Once a quorum has
//! answered that round or a later one, no newer leader can have committed anything before the
//! round began, and every read that waited for it may be served at the noted index. All reads
//! that wait when a round starts share it.

use std::collections::VecDeque;

use crate::raft::message::{Index, NodeId};

/// A read that waits: who asked (the leader itself or a follower), and the asker's name for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub from: NodeId,
    pub ctx: u64,
    /// The tick at which it arrived.
    pub since: u64,
}

struct Round {
    seq: u64,
    index: Index,
    reads: Vec<Waiting>,
}

/// The reads of one leader in one term.
///
/// Invariant: round numbers rise by one and are never used twice in a term. Answers of another
/// term are dropped before they come here, so an answer can't confirm a later read.
#[derive(Default)]
pub struct ReadQueue {
    waiting: Vec<Waiting>,
    rounds: VecDeque<Round>,
    seq: u64,
}

impl ReadQueue {
    pub fn push(&mut self, read: Waiting) {
        self.waiting.push(read);
    }

    /// The newest round, 0 if there was none. Every heartbeat carries it.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.rounds.is_empty()
    }

    /// Starts a round for all that wait, at the leader's commit index. Returns its number.
    pub fn start_round(&mut self, index: Index) -> u64 {
        assert!(!self.waiting.is_empty(), "a round without a read");
        self.seq += 1;
        let reads = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { seq: self.seq, index, reads });
        self.seq
    }

    /// A quorum has answered round `seq`. Returns the reads that may be served, and where.
    pub fn confirm(&mut self, seq: u64) -> Vec<(Waiting, Index)> {
        let mut served = Vec::new();
        while let Some(round) = self.rounds.pop_front_if(|round| round.seq <= seq) {
            served.extend(round.reads.into_iter().map(|read| (read, round.index)));
        }
        served
    }

    /// Takes out the reads that arrived at or before `tick`, to refuse them.
    pub fn expire(&mut self, tick: u64) -> Vec<Waiting> {
        let mut expired = Vec::new();
        for round in &mut self.rounds {
            expired.extend(round.reads.extract_if(.., |read| read.since <= tick));
        }
        self.rounds.retain(|round| !round.reads.is_empty());
        expired.extend(self.waiting.extract_if(.., |read| read.since <= tick));
        expired
    }
}
