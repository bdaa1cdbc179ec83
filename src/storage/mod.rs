//! What survives a crash: the write-ahead log, runs of records, and checkpoints, over a
//! [`crate::env::disk::Disk`].
//!
//! The log is the truth. [`wal`] makes batches durable with one sync each; [`frame`] is how a
//! batch stands on the disk and how a torn one is told from a rotten one; [`segment`] is one file
//! of the log; [`replay`] reads a log back. [`data_dir`] knows where all of it lies.
//!
//! A [`run`] holds records in the order of their revisions and never changes; [`run_writer`] makes
//! them and [`run_receiver`] takes them from another member. A [`manifest`] says which runs,
//! together with what else, are the state at which index;
//! [`checkpoint`] puts these together and finds at the start what to begin from.
//!
//! [`verify`] looks at all of it while no member runs. [`bbolt`] is the format of etcd's backups;
//! [`etcd_wal`] looks into a log of etcd's.
//!
//! Every file begins with a magic and a version; a later version is refused. Every byte is under
//! a checksum. `docs/storage-format.md` draws the formats.

pub mod bbolt;
pub mod checkpoint;
pub mod data_dir;
pub mod directory;
pub mod error;
pub mod etcd_wal;
pub mod frame;
pub mod manifest;
pub mod record;
pub mod replay;
pub mod reserve;
pub mod run;
pub mod run_receiver;
pub mod run_writer;
pub mod segment;
pub mod varint;
pub mod verify;
pub mod wal;
pub mod wal_location;
pub mod walk;
