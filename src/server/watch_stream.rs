//! A client's stream of watchers, and the task that feeds the watchers that are behind.

use super::handle::Handle;
use super::shared::Shared;
use crate::apply::outcome::RevisionChanges;
use crate::env::clock::Mono;
use crate::env::pace::Pace;
use crate::env::yield_now;
use crate::error::{Error, Result};
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::watch::catch_up::StepBudget;
use crate::watch::hub::{Hub, StreamId};
use futures::future::BoxFuture;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A stream that asked for a leader ends when so many checks in a row found none; they are an
/// election timeout apart (etcd, `v3rpc/interceptor.go`, `maxNoLeaderCnt`).
const LEADERLESS_CHECKS_MAX: u32 = 3;

/// How long the progress timers and the figures are left alone at the least and at the most.
const CHECK_MIN: Duration = Duration::from_millis(10);
const CHECK_MAX: Duration = Duration::from_secs(1);
/// Who is more revisions behind than this is not in a hurry.
const FAR_BEHIND: i64 = 10_000;
/// How long a catch-up of those goes on before it rests.
const CATCH_UP_BURST: Duration = Duration::from_millis(2);

/// One stream of watchers. Dropping it ends them all.
///
/// It is pulled from: nothing is made for a reader that does not ask, and requests of a client
/// that does not read its replies are to be read no further once `is_congested` says so.
pub struct WatchSession {
    shared: Arc<Shared>,
    stream: StreamId,
    generation: u64,
    /// Completes with the reason when the stream has to end.
    ending: BoxFuture<'static, Error>,
    ended: bool,
}

impl Handle {
    /// Opens a stream of watchers.
    ///
    /// # Errors
    /// When the server has stopped, or knows no leader and the client wants one.
    pub fn watch(&self, require_leader: bool) -> Result<WatchSession> {
        let shared = self.shared().clone();
        shared.check_running()?;
        shared.check_trusted()?;
        if require_leader && shared.view().leader == 0 {
            return Err(Error::NoLeader);
        }
        let (stream, generation) = {
            let mut hub = shared.hub();
            (hub.open_stream(), hub.generation())
        };
        let ending = Box::pin(ending(shared.clone(), require_leader));
        Ok(WatchSession { shared, stream, generation, ending, ended: false })
    }
}

impl WatchSession {
    /// The hub, unless all streams of this one's time were ended.
    fn hub(&self) -> Option<MutexGuard<'_, Hub>> {
        Some(self.shared.hub()).filter(|hub| hub.generation() == self.generation)
    }

    /// Begins a watcher; what came of it is the stream's next reply.
    pub fn create(&self, request: &WatchCreateRequest) {
        let now = self.shared.env.clock.now().since_start();
        let behind = {
            let Some(mut hub) = self.hub() else { return };
            hub.create(self.stream, request, now);
            hub.is_behind()
        };
        if behind {
            self.shared.catch_up.notify_one();
        }
    }

    /// Replies that a watcher was not created, and why.
    pub fn refuse(&self, cancel_reason: String) {
        if let Some(mut hub) = self.hub() {
            hub.refuse(self.stream, cancel_reason);
        }
    }

    pub fn cancel(&self, watch_id: i64) {
        let Some(mut hub) = self.hub() else { return };
        hub.cancel(self.stream, watch_id);
        if hub.is_behind() {
            self.shared.catch_up.notify_one();
        }
    }

    pub fn request_progress(&self) {
        if let Some(mut hub) = self.hub() {
            hub.request_progress(self.stream);
        }
    }

    /// Whether so many replies wait that no further request should be read.
    pub fn is_congested(&self) -> bool {
        self.hub().is_some_and(|hub| hub.is_congested(self.stream))
    }

    /// The next response. After an error there is nothing more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<WatchResponse>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled =
            self.hub().map(|mut hub| (hub.poll_next(self.stream, cx.waker()), hub.is_behind()));
        let Some((response, behind)) = polled else {
            self.ended = true;
            return Poll::Ready(Some(Err(Error::Corrupt)));
        };
        if behind {
            // Reading may have made room for watchers that waited for it.
            self.shared.catch_up.notify_one();
        }
        if let Some(mut response) = response {
            let revision = response.header.map_or(0, |header| header.revision);
            response.header = Some(self.shared.header_at(revision));
            return Poll::Ready(Some(Ok(response)));
        }
        let error = ready!(self.ending.as_mut().poll(cx));
        self.ended = true;
        Poll::Ready(Some(Err(error)))
    }

    /// The next response, for readers without a stream of their own.
    pub async fn next(&mut self) -> Option<Result<WatchResponse>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for WatchSession {
    fn drop(&mut self) {
        if let Some(mut hub) = self.hub() {
            hub.close_stream(self.stream);
        }
    }
}

/// Tells watchers of revisions that were just applied, in order. The caller holds the state, so
/// that no step through history comes in between.
pub fn publish(shared: &Shared, revisions: &[RevisionChanges]) {
    if revisions.is_empty() {
        return;
    }
    let mut hub = shared.hub();
    for revision in revisions {
        hub.publish(revision.revision, &revision.changes);
    }
    if hub.is_behind() {
        shared.catch_up.notify_one();
    }
}

/// Waits until a stream has to end.
async fn ending(shared: Arc<Shared>, require_leader: bool) -> Error {
    let mut leaderless_checks = 0;
    loop {
        if !require_leader {
            shared.stopped().await;
            return Error::Stopped;
        }
        let pause = shared.env.clock.sleep(shared.election_timeout);
        tokio::select! {
            biased;
            _ = shared.stopped() => return Error::Stopped,
            () = pause => {}
        }
        leaderless_checks = if shared.view().leader == 0 { leaderless_checks + 1 } else { 0 };
        if leaderless_checks >= LEADERLESS_CHECKS_MAX {
            return Error::NoLeader;
        }
    }
}

/// Feeds the watchers that are behind and lets the progress timers strike; runs until the server
/// stops. Between two steps everyone else runs, writers first of all.
pub async fn catch_up(shared: Arc<Shared>) {
    // The first strike for a new watcher is an interval away, so no look comes too late for it.
    let pause = shared.hub().progress_interval().clamp(CHECK_MIN, CHECK_MAX);
    let mut check_at: Mono = shared.env.clock.now() + pause;
    let mut events = 0;
    loop {
        let timer = shared.env.clock.sleep_until(check_at);
        tokio::select! {
            biased;
            () = timer => {
                let now = shared.env.clock.now();
                let strike = shared.hub().tick_progress(now.since_start()).map(Mono::new);
                check_at = strike.map_or(now + pause, |at| at.clamp(now + CHECK_MIN, now + pause));
                measure(&shared, &mut events);
            }
            () = shared.catch_up.notified() => catch_up_all(&shared).await,
        }
    }
}

/// Steps through history until nobody is behind who has room. While somebody is far behind, a rest
/// follows each step, so that a million revisions take half of the processor at the most. What a
/// step has queued is encoded and sent by others before the rest, and counts as work.
async fn catch_up_all(shared: &Shared) {
    let mut pace = None;
    while step(shared) {
        yield_now().await;
        if shared.hub().farthest_behind() > FAR_BEHIND {
            let pace = pace
                .get_or_insert_with(|| Pace::with_bursts(shared.env.clock.clone(), CATCH_UP_BURST));
            pace.rest().await;
        }
    }
}

/// Publishes the figures of the hub; `events` is what was counted before.
fn measure(shared: &Shared, events: &mut u64) {
    let stats = shared.hub().stats();
    let metrics = &shared.metrics;
    metrics.mvcc_watch_stream_total.set(stats.streams as i64);
    metrics.mvcc_watcher_total.set(stats.watchers as i64);
    metrics.mvcc_slow_watcher_total.set(stats.slow_watchers as i64);
    metrics.mvcc_pending_events_total.set(stats.pending as i64);
    metrics.mvcc_events_total.inc_by(stats.events - *events);
    *events = stats.events;
}

fn step(shared: &Shared) -> bool {
    let state = shared.state();
    let changes = shared.limits.catch_up_changes;
    shared.hub().catch_up(&state.store, StepBudget { changes, ..StepBudget::default() })
}
