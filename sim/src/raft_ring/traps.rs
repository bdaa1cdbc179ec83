//! Which traps a history has, and the one that is laid. `trapping` lays and springs them.

use detcd::raft::message::{Message, NodeId, Term};

use crate::raft_ring::dice::Dice;
use crate::raft_ring::weather::Weather;

/// A kind of trap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A leader that was deposed gets the answers to its last heartbeats when it no longer leads
    /// in truth: they must not confirm a read that began since.
    LateAnswers,
    /// A leader is deposed with a minority that had its entries, everybody takes those of the next
    /// leader, and then it leads again: acknowledgements of the first time must not count.
    LateAcks,
    /// A leader that hears from nobody must give up.
    Deaf,
    /// A member that is alone must not raise its term, with which it would depose a leader later,
    /// nor go on following a leader that it does not hear.
    Alone,
    /// A member holds back what it applies until the state of another takes the place of its own,
    /// and its log goes on meanwhile.
    Rebuild,
}

/// A trap that is laid.
pub struct Laid {
    pub kind: Kind,
    pub leader: NodeId,
    pub term: Term,
    /// Who said it, where that is one member.
    pub partner: NodeId,
    /// What arrives late.
    pub held: Vec<Message>,
    pub steps: u32,
}

/// The traps of one history.
pub struct Traps {
    pub dice: Dice,
    pub kinds: Vec<Kind>,
    pub laid: Option<Laid>,
}

impl Traps {
    /// Each kind is on or off for the whole of a history, as the weather is.
    pub fn draw(seed: u64, weather: &mut Weather) -> Traps {
        let mut dice = Dice::labelled(seed, "traps");
        let kinds = [Kind::LateAnswers, Kind::LateAcks, Kind::Deaf, Kind::Alone, Kind::Rebuild];
        let kinds: Vec<Kind> = kinds.into_iter().filter(|_| dice.chance(250)).collect();
        if kinds.contains(&Kind::LateAcks) {
            // A minority of two needs five.
            weather.founders = 5;
        }
        Traps { dice, kinds, laid: None }
    }
}
