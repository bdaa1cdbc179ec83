//! The numbers of the nodes that are no members.

/// The nodes of the watchers come after those of all clients and the operator; then come the
/// others, each kind with room for as many as a plan has. The numbers stand in the history, too.
pub const WATCHER_NODES: u64 = 100;
pub const LESSEE_NODES: u64 = 120;
pub const LOCKER_NODES: u64 = 140;
pub const BACKUP_NODES: u64 = 160;
pub const BURST_NODES: u64 = 180;
