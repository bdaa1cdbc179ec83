//! The weather of a history: which faults it has, and how hard they are.

use crate::raft_ring::dice::Dice;

/// Which faults a history has. Each class is on or off for the whole of it, so that some
/// histories go deep where others go wide.
pub struct Weather {
    pub founders: u64,
    pub pre_vote: bool,
    pub check_quorum: bool,
    pub drop_per_mille: u64,
    pub duplicate_per_mille: u64,
    pub reorder: bool,
    pub gather_per_mille: u64,
    pub crashes: bool,
    pub conf_changes: bool,
    pub checkpoints: bool,
    pub transfers: bool,
    pub cuts: bool,
    pub reads: bool,
    /// Of a thousand steps for a member, how many go to its disk and its state machine.
    pub sync_per_mille: u64,
    pub apply_per_mille: u64,
    pub tick_per_mille: u64,
    /// Of a thousand messages on a cut link, how many are lost when they could arrive.
    pub cut_loses_per_mille: u64,
    /// How many times the usual number of steps a history has.
    pub length: usize,
    /// Only a majority comes back after the storm.
    pub loses_a_minority: bool,
    /// Leadership is handed over once more when all is calm.
    pub hands_over: bool,
}

impl Weather {
    pub fn draw(dice: &mut Dice) -> Weather {
        Weather {
            founders: *dice.pick(&[1, 2, 3, 3, 3, 4, 5]),
            pre_vote: dice.chance(700),
            check_quorum: dice.chance(700),
            drop_per_mille: *dice.pick(&[0, 0, 20, 200]),
            duplicate_per_mille: *dice.pick(&[0, 20, 200]),
            reorder: dice.chance(500),
            gather_per_mille: *dice.pick(&[0, 100, 500]),
            crashes: dice.chance(500),
            conf_changes: dice.chance(500),
            checkpoints: dice.chance(500),
            transfers: dice.chance(300),
            cuts: dice.chance(500),
            reads: dice.chance(500),
            sync_per_mille: *dice.pick(&[60, 200, 300]),
            apply_per_mille: *dice.pick(&[30, 100]),
            tick_per_mille: *dice.pick(&[50, 150, 300]),
            cut_loses_per_mille: *dice.pick(&[500, 500, 50, 0]),
            length: *dice.pick(&[1, 1, 1, 1, 6]),
            loses_a_minority: dice.chance(300),
            hands_over: dice.chance(500),
        }
    }
}
