//! Consensus as a function: inputs go in through the verbs of `RaftCore`, decisions come out as
//! data in a `Ready`. No socket, no file, no clock, no runtime; a seed is the only chance.
//!
//! Read in this order:
//!
//! 1. `message`: the words (term, index, entry) and what members say to each other.
//! 2. `quorum`: majorities, the only arithmetic of consensus.
//! 3. `log`: the entries in memory and the marks on them: written, persisted, committed, applied.
//! 4. `progress`: what a leader knows of one follower, and how much it may have in flight to it.
//! 5. `confchange`: how membership changes, one server at a time.
//! 6. `read_index`: linearizable reads without a log entry.
//! 7. `ready`: what the driver must do, and the order in which it must do it.
//! 8. `state`, then `follower`, `candidate`, `leader`: the rules of the paper, role by role.
//! 9. `step`: what becomes of a message, by its term and its content.
//! 10. `core`: `RaftCore`, the verbs the driver calls.
//!
//! `docs/raft.md` tells the same as a story, and says what differs from etcd/raft.

pub mod message;

pub mod log;
pub mod progress;
pub mod quorum;

pub mod confchange;
pub mod read_index;
pub mod ready;

pub mod state;

mod candidate;
mod follower;
mod leader;
mod step;

pub mod core;

#[cfg(test)]
mod golden;
