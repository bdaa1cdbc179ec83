//! The keep-alives of leases that wait on this member, and the way to the leader that they took
//! last.

use crate::error::{Error, Result};
use crate::pb::raftpb::peer_client::PeerClient;
use crate::raft::message::NodeId;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tonic::transport::Channel;

/// Keep-alives that may wait on one member; a further one is refused.
const WAITING_MAX: usize = 200_000;

/// Keep-alives that are renewed under one hold of the state.
const BATCH_MAX: usize = 2_000;

/// The keep-alives that wait on one member.
#[derive(Default)]
pub struct KeepAlives {
    waiting: Mutex<Vec<(i64, oneshot::Sender<Result<i64>>)>>,
    /// Wakes the task that renews them.
    pub wake: Notify,
    link: Mutex<Option<Link>>,
}

/// The way to the leader that was used last.
pub struct Link {
    pub leader: NodeId,
    pub client: PeerClient<Channel>,
}

impl KeepAlives {
    pub fn enter(&self, id: i64) -> Result<oneshot::Receiver<Result<i64>>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect("no holder of keep-alives panics");
        if waiting.len() >= WAITING_MAX {
            return Err(Error::TooManyRequests);
        }
        waiting.push((id, reply));
        drop(waiting);
        self.wake.notify_one();
        Ok(answer)
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.waiting.lock().expect("no holder of keep-alives panics").len()
    }

    pub fn take_batch(&self) -> Vec<(i64, oneshot::Sender<Result<i64>>)> {
        let mut waiting = self.waiting.lock().expect("no holder of keep-alives panics");
        let count = waiting.len().min(BATCH_MAX);
        waiting.drain(..count).collect()
    }

    pub fn link(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().expect("no holder of the link panics")
    }
}
