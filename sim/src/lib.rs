//! The simulator.

/// The clock of one simulated node.
pub mod clock;
/// The disk of one simulated node.
pub mod disk;
/// Streams of chance.
pub mod random;
