//! The simulator: the shipped server, whole, under faults, from a seed.
//!
//! A seed draws a plan; a plan is data, and running it gives a trace and a verdict. See
//! `docs/simulation.md`. The parts that need the simulated runtime are `world` and what it uses;
//! everything else is plain and is tested in both builds.

/// The checkers, each under the name of its guarantee.
pub mod checker;
/// The clock of one simulated node.
pub mod clock;
/// The disk of one simulated node.
pub mod disk;
/// What the nemesis can do.
pub mod fault;
/// Histories as JSON, for another judge.
pub mod histories;
/// What the clients saw.
pub mod history;
/// Plans in files, with their stories.
pub mod incident;
/// Named states that are worth reaching.
pub mod marks;
/// A sequential model of the key-value service.
pub mod model;
/// Moments of a run.
pub mod moment;
/// The bench that puts known bugs back.
pub mod mutants;
/// Which faults a plan holds.
pub mod nemesis;
/// How a simulated cluster is set up.
pub mod options;
/// What a run gives.
pub mod outcome;
/// A run as data.
pub mod plan;
/// Bare consensus cores, messages in a bag, and a disk that forgets.
pub mod raft_ring;
/// Streams of chance.
pub mod random;
/// The flight recordings of a real cluster.
pub mod recording;
/// Runs one plan, guarded.
pub mod run;
/// Makes a failing plan small.
pub mod shrink;
/// Runs many seeds.
pub mod sweep;
/// A run as a person sees it.
pub mod timeline;
/// Timers that ask the runtime once.
pub mod timer;
/// One line an event, and a hash over all.
pub mod trace;
/// Between the model's requests and the messages of the API.
pub mod wire;
/// What the clients ask for.
pub mod workload;
/// A cluster of real servers in the simulated runtime.
#[cfg(madsim)]
pub mod world;
