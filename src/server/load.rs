//! What waits in a server at a moment: the figures of its queues, whose bounds stand in `mod.rs`.

use super::shared::Shared;

/// How much waits where. All but `log_entries` is 0 on a server that nobody asks for anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait for their outcome, and their bytes.
    pub pending_requests: usize,
    pub pending_bytes: usize,
    /// Events before the consensus task.
    pub inbox: usize,
    /// Linearizable reads that wait for their index.
    pub readers: usize,
    /// Keep-alives of leases that wait for the leader.
    pub keep_alives: usize,
    /// Places in queues whose callers went away.
    pub abandoned: usize,
    /// Entries that are committed and not yet applied.
    pub apply_lag: u64,
    pub watch_streams: usize,
    pub watchers: usize,
    /// Revisions that wait in watch streams.
    pub watch_items: usize,
    /// Entries of the log that are in memory.
    pub log_entries: u64,
    /// Checkpoints on their way to other members, and backups.
    pub sent: usize,
    pub backups: usize,
}

impl Shared {
    /// What waits here at this moment.
    pub fn load(&self) -> Load {
        let (pending_requests, pending_bytes) = {
            let pending = self.pending();
            (pending.len(), pending.bytes())
        };
        let watch = self.hub().stats();
        let view = self.view();
        Load {
            pending_requests,
            pending_bytes,
            inbox: self.inbox.max_capacity() - self.inbox.capacity(),
            readers: view.readers,
            keep_alives: self.keep_alives.count(),
            abandoned: self.abandoned.count(),
            apply_lag: view.commit.saturating_sub(view.applied),
            watch_streams: watch.streams,
            watchers: watch.watchers,
            watch_items: watch.pending,
            log_entries: view.log_entries,
            sent: self.sent.count(),
            backups: self.backups.get(),
        }
    }
}
