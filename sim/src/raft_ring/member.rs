//! One member of the ring: a core, its disk, its state machine and what is under way between.

use std::collections::VecDeque;

use bytes::Bytes;
use detcd::raft::core::{Config, RaftCore};
use detcd::raft::message::{ConfChange, Entry, EntryKind, Index, NodeId};

use crate::raft_ring::dice::Dice;
use crate::raft_ring::disk::{Disk, Manifest};

/// A snapshot that arrived and waits to be installed.
pub struct PendingInstall {
    pub from: NodeId,
    pub state: Manifest,
    pub prepared: bool,
}

/// Everything a member is. `core` is None while it is down.
pub struct Member {
    config: Config,
    pub core: Option<RaftCore>,
    pub disk: Disk,
    /// The state machine: only its position and configuration matter here.
    pub machine: Manifest,
    pub applying: VecDeque<Entry>,
    pub handed_out: Index,
    pub last_written: Index,
    pub install: Option<PendingInstall>,
}

impl Member {
    pub fn new(config: Config) -> Member {
        Member {
            config,
            core: None,
            disk: Disk::default(),
            machine: Manifest::default(),
            applying: VecDeque::new(),
            handed_out: 0,
            last_written: 0,
            install: None,
        }
    }

    /// A founder begins with the founders' configuration.
    pub fn found(&mut self, manifest: Manifest) {
        let image = &mut self.disk.image;
        image.base = manifest.index;
        image.base_term = manifest.term;
        image.hard.term = manifest.term;
        image.hard.commit = manifest.index;
        image.manifest = manifest;
    }

    pub fn start(&mut self, seed: u64) {
        let config = Config { seed, ..self.config.clone() };
        let core = RaftCore::new(config, self.disk.image.recover());
        self.machine = self.disk.image.manifest.clone();
        self.handed_out = self.machine.index;
        self.last_written = core.last_index();
        self.core = Some(core);
    }

    pub fn crash(&mut self, dice: &mut Dice) {
        self.core = None;
        self.disk.power_fail(dice);
        self.applying.clear();
        self.install = None;
    }

    /// Applies up to `count` entries. Returns how many changes of membership were among them.
    pub fn apply(&mut self, count: usize) -> u64 {
        let Some(core) = &mut self.core else { return 0 };
        let mut changes = 0;
        for _ in 0..count {
            let Some(entry) = self.applying.pop_front() else { break };
            self.machine.index = entry.index;
            self.machine.term = entry.term;
            if entry.kind == EntryKind::ConfChange {
                let change = decode(&entry.data).expect("the ring encoded it");
                self.machine.conf = core.apply_conf_change(&change);
                changes += 1;
            }
        }
        core.applied(self.machine.index);
        changes
    }

    /// Writes a checkpoint, and perhaps lets go of the log before it.
    pub fn checkpoint(&mut self, dice: &mut Dice) {
        let Some(core) = &mut self.core else { return };
        self.disk.put_manifest(self.machine.clone());
        let keep = dice.below(4);
        let upto = self.machine.index.saturating_sub(keep);
        if dice.chance(700) {
            core.compact(upto);
        }
        if dice.chance(700) {
            self.disk.release(upto);
        }
    }

    /// Goes on with an install. Returns the sender and whether it was installed, when it ended.
    pub fn step_install(&mut self, dice: &mut Dice) -> Option<(NodeId, bool)> {
        let core = self.core.as_mut()?;
        let pending = self.install.as_mut()?;
        let from = pending.from;
        if !pending.prepared {
            pending.prepared = core.prepare_install(pending.state.index);
            if !pending.prepared {
                self.install = None;
                return Some((from, false));
            }
            if dice.chance(500) {
                return None;
            }
        }
        // What was handed out before must be applied before the state is swapped.
        self.apply(usize::MAX);
        let PendingInstall { state, .. } = self.install.take()?;
        let Manifest { index, term, ref conf } = state;
        self.disk.put_manifest(state.clone());
        let core = self.core.as_mut()?;
        core.install_snapshot(index, term, conf.clone());
        self.handed_out = index;
        self.last_written = core.last_index();
        self.machine = state;
        Some((from, true))
    }
}

/// The content of a ConfChange entry of the ring.
pub fn encode(change: &ConfChange) -> Bytes {
    let (kind, node) = match *change {
        ConfChange::AddVoter(node) => (0, node),
        ConfChange::AddLearner(node) => (1, node),
        ConfChange::Promote(node) => (2, node),
        ConfChange::Remove(node) => (3, node),
    };
    Bytes::from(vec![kind, node as u8])
}

fn decode(data: &Bytes) -> Option<ConfChange> {
    match data[..] {
        [0, node] => Some(ConfChange::AddVoter(node.into())),
        [1, node] => Some(ConfChange::AddLearner(node.into())),
        [2, node] => Some(ConfChange::Promote(node.into())),
        [3, node] => Some(ConfChange::Remove(node.into())),
        _ => None,
    }
}
