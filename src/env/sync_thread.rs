//! A thread that writes and syncs one file.

use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use tokio::sync::oneshot;

/// Belongs to one open file and ends with it.
///
/// The log syncs after every batch, and at a low load the hops to and from that sync are a large
/// part of what a write costs. This thread is woken by one system call and has the lock to itself
/// then; the blocking pool wakes its threads while it holds their lock, so that they stop again.
pub struct SyncThread {
    queue: Arc<Queue>,
}

struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    ended: bool,
}

struct Job {
    offset: u64,
    data: Bytes,
    done: oneshot::Sender<io::Result<()>>,
}

impl SyncThread {
    /// Starts the thread.
    pub fn start(file: Arc<File>) -> io::Result<SyncThread> {
        let queue = Arc::new(Queue { jobs: Mutex::default(), changed: Condvar::new() });
        let jobs = queue.clone();
        thread::Builder::new().name("sync".to_string()).spawn(move || {
            while let Some(Job { offset, data, done }) = jobs.next() {
                // Who no longer waits does not learn of it.
                let _gone = done.send(write_and_sync(&file, offset, data));
            }
        })?;
        Ok(SyncThread { queue })
    }

    /// Has the bytes written at `offset` and the file made durable.
    pub fn write_and_sync(&self, offset: u64, data: Bytes) -> Synced {
        let (done, result) = oneshot::channel();
        self.queue.change(|jobs| jobs.waiting.push_back(Job { offset, data, done }));
        Synced(result)
    }
}

/// A write that is on its way to the device.
pub struct Synced(oneshot::Receiver<io::Result<()>>);

impl Synced {
    /// Waits until it is durable.
    pub async fn done(self) -> io::Result<()> {
        self.0.await.unwrap_or_else(|_| Err(io::Error::other("the thread that syncs has ended")))
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.queue.change(|jobs| jobs.ended = true);
    }
}

impl Queue {
    fn change(&self, change: impl FnOnce(&mut Jobs)) {
        change(&mut self.jobs.lock().expect("nobody panics with the lock"));
        self.changed.notify_one();
    }

    /// The next job; none after the file was closed.
    fn next(&self) -> Option<Job> {
        let jobs = self.jobs.lock().expect("nobody panics with the lock");
        let idle = |jobs: &mut Jobs| jobs.waiting.is_empty() && !jobs.ended;
        let woken = self.changed.wait_while(jobs, idle);
        woken.expect("nobody panics with the lock").waiting.pop_front()
    }
}

fn write_and_sync(file: &File, offset: u64, data: Bytes) -> io::Result<()> {
    file.write_all_at(&data, offset)?;
    // The caller reuses the buffer once it is the only holder of it.
    drop(data);
    file.sync_data()
}
