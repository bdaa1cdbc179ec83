//! Removes what was released of the log, beside the writing: a file system takes some ten
//! milliseconds for a segment, and no write is to wait for that.

use super::shared::{Shared, StopReason};
use crate::storage::wal::Detached;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The task that removes. It ends with this, so that nobody removes files in the directory of a
/// member that has started anew.
pub struct LogRemover {
    queue: mpsc::UnboundedSender<Detached>,
    task: JoinHandle<()>,
}

impl LogRemover {
    pub fn start(shared: Arc<Shared>) -> LogRemover {
        let (queue, mut detached) = mpsc::unbounded_channel::<Detached>();
        let task = tokio::spawn(async move {
            while let Some(segments) = detached.recv().await {
                if let Err(error) = segments.remove().await {
                    shared.stop(StopReason::Disk(error.to_string()));
                    return;
                }
            }
        });
        LogRemover { queue, task }
    }

    /// Puts segments behind those that are being removed.
    pub fn remove(&self, segments: Detached) {
        // After a failure the server is stopping.
        let _stopping = self.queue.send(segments);
    }
}

impl Drop for LogRemover {
    fn drop(&mut self) {
        self.task.abort();
    }
}
