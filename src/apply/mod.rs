//! The replicated state machine: all that a log entry may change.
//!
//! Every member applies the same entries in the same order, so whatever stands here must be a
//! function of the entry and of the state that earlier entries made. Nothing here asks for the
//! time, for chance, or for a local setting: what differs by node or by moment (lease ids,
//! remaining times, tokens) travels inside the request and was decided before it was proposed.
//! The one local thing that passes through is this member's monotonic time, which the lessor
//! uses for deadlines, and deadlines are not part of the replicated state.
//!
//! - `request`: a request as log bytes, and back.
//! - `outcome`: what applying an entry gives: an answer, changes for watchers, a new membership.
//! - `machine`: the state machine; its gates stand in one visible list.
//! - `snapshot`: the state machine as a checkpoint holds it, and back.
//! - `buckets`: the state machine as etcd's database holds it, for backups, and back.
//!
//! A refusal that every replica reaches alike is an answer. Anything else is a bug, and panics
//! before replicas can diverge.

pub mod buckets;
pub mod machine;
pub mod outcome;
pub mod request;
pub mod snapshot;
