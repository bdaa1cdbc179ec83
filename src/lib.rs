//! detcd: a distributed key-value store with the etcd v3 API, replicated with Raft, written so
//! that the whole server runs inside a deterministic simulator.
//!
//! The modules, from the ground floor up. A module imports only from floors below its own;
//! `tests/tidy.rs` holds the table.

/// Floor 1: the failures of the whole server, and which of them every replica reaches alike.
pub mod error;
/// Floor 1: the metrics of one server.
pub mod metrics;
/// Floor 1: the messages of the etcd v3 API and of our own log and peer protocol.
pub mod pb;

/// Floor 1: the seams to the world: clock, disk, seed.
pub mod env;
/// Floor 1: consensus, as a function without input or output of its own.
pub mod raft;

/// Floor 2: alarms and the arithmetic of the quota.
pub mod alarm;
/// Floor 2: users, roles, tokens and the one authoriser.
pub mod auth;
/// Floor 2: flags, environment and file, from one table.
pub mod config;
/// Floor 2: leases and the keys attached to them.
pub mod lease;
/// Floor 2: members, learners, ids and versions.
pub mod membership;
/// Floor 2: the multi-version store.
pub mod mvcc;
/// Floor 2: what survives a crash: write-ahead log, runs, checkpoints.
pub mod storage;

/// Floor 3: the replicated state machine: all that a log entry may change.
pub mod apply;
/// Floor 3: watchers, and which events each of them is owed.
pub mod watch;

/// Floor 4: the driver, which turns decisions of the core into input and output.
pub mod server;

/// Floor 5: the gRPC services.
pub mod api;

/// Floor 6: health, metrics and version over plain HTTP, on the port of gRPC.
#[cfg(not(madsim))]
pub mod http;
