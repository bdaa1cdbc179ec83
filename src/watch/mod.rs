//! WATCH: who is owed which event, as a function without input or output of its own.
//!
//! A client opens a stream and creates watchers on it. A watcher is *synced* if it gets each
//! revision as it is published, and *behind* if it must be fed from history first: because it
//! began in the past, because its reader lags and the bounded queue of its stream was full, or
//! because a snapshot replaced the store under it.
//!
//! What is promised, whatever happens:
//! - Ordered: events of a watcher come in order of revision, and of change within a revision.
//! - Unique: none comes twice.
//! - Atomic: all events of one revision for one watcher are in one response, fragments aside.
//! - Reliable: none is left out between two that came.
//! - Resumable: a watcher from revision R gets all since R, or word that R is compacted.
//! - Bookmarkable: a report of progress at R comes after all events up to R.
//!
//! `hub.rs` is where to begin; `catch_up.rs` reads the past; `ranges.rs` finds watchers by key.

/// The past, for those behind.
pub mod history;
/// All watchers of one member.
pub mod hub;
/// Which watchers a key concerns.
pub mod ranges;

/// Steps through history for those behind.
pub mod catch_up;
mod stream;
mod watcher;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod model;
#[cfg(test)]
mod twin;
