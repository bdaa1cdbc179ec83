//! Moments of a run.

/// A moment of the simulation, in nanoseconds since its start.
pub type Nanos = u64;
