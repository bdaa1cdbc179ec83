//! The network of the ring: a bag of messages that loses, repeats, delays and reorders.

use std::collections::BTreeSet;

use detcd::raft::message::{Message, NodeId};

use crate::raft_ring::dice::Dice;

/// Messages on their way, and the directed links that are cut.
#[derive(Default)]
pub struct Bag {
    messages: Vec<Message>,
    cut: BTreeSet<(NodeId, NodeId)>,
    pub drop_per_mille: u64,
    pub duplicate_per_mille: u64,
    /// How many of the messages on a cut link are lost when their turn comes; the others wait for
    /// the link, as in a connection that is not given up.
    pub cut_loses_per_mille: u64,
    /// Whether a message may overtake others on its link.
    pub reorder: bool,
}

/// What became of a draw.
pub enum Drawn {
    Nothing,
    Lost(Message),
    Arrives(Message),
}

impl Bag {
    /// Beyond this many the oldest are lost, as in a queue that is full.
    const MESSAGES_MAX: usize = 2000;

    pub fn put(&mut self, message: Message) -> Option<Message> {
        self.messages.push(message);
        (self.messages.len() > Self::MESSAGES_MAX).then(|| self.messages.remove(0))
    }

    pub fn draw(&mut self, dice: &mut Dice) -> Drawn {
        if self.messages.is_empty() {
            return Drawn::Nothing;
        }
        let mut chosen = dice.index(self.messages.len());
        if !self.reorder {
            let link = (self.messages[chosen].from, self.messages[chosen].to);
            let first = self.messages.iter().position(|m| (m.from, m.to) == link);
            chosen = first.expect("the chosen message is on its own link");
        }
        let link = (self.messages[chosen].from, self.messages[chosen].to);
        let is_cut = self.cut.contains(&link);
        if is_cut && !dice.chance(self.cut_loses_per_mille) {
            return Drawn::Nothing;
        }
        if is_cut || dice.chance(self.drop_per_mille) {
            return Drawn::Lost(self.messages.remove(chosen));
        }
        if dice.chance(self.duplicate_per_mille) {
            return Drawn::Arrives(self.messages[chosen].clone());
        }
        Drawn::Arrives(self.messages.remove(chosen))
    }

    /// Everything that is under way, in order, for a network that works.
    pub fn drain(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// Takes out what is under way of some kind, in order.
    pub fn take(&mut self, of_kind: impl Fn(&Message) -> bool) -> Vec<Message> {
        self.messages.extract_if(.., |message| of_kind(message)).collect()
    }

    /// Puts back what was taken out, before all else.
    pub fn put_back(&mut self, messages: Vec<Message>) {
        self.messages.splice(..0, messages);
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }
}
