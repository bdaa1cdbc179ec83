//! The multi-version store, without input or output of its own.
//!
//! Every write makes a version of a key at a revision and leaves the versions before it in place,
//! until a compaction. So a reader at a revision sees the same state for as long as that revision
//! is not compacted, however many writes go on meanwhile, and a watcher can be told what it missed.
//!
//! - `log` holds the records in the order of their revisions, 80 bytes each beside the value.
//! - `key_index` lists the revisions of each key, `index` the keys in order, with counts.
//! - `queue` keeps ranges in the order of creation, for locks and elections.
//! - `store` ties these together; `txn`, `compare`, `range`, `compact`, `history`, `hash`,
//!   `recheck` and `restore` are what it can do.
//! - Values may lie in memory or on disk (`record`); nobody above `store` can tell.
//!
//! The semantics are those of etcd 3.5.30, to the revision and to the bit of HashKV.

mod branch;
pub mod change;
mod compact;
mod compare;
mod digest;
pub mod hash;
mod history;
mod index;
mod key_index;
mod leaf;
mod log;
mod owned;
#[cfg(test)]
mod properties;
pub mod queue;
pub mod range;
mod recheck;
pub mod record;
pub mod restore;
pub mod revision;
#[cfg(test)]
mod scripts;
mod sort;
pub mod store;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
pub mod txn;
