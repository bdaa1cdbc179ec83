//! The end of a run, as the watchers are told of it.

/// What the watchers are told when the faults are over.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Open a stream at one of these members, and stay.
    pub core: Vec<usize>,
    /// Everything up to here has to arrive.
    pub owed: i64,
    /// It is too late.
    pub over: bool,
}
