//! Applies committed entries in order, answers callers, and tells watchers.

use super::event::Event;
use super::shared::Shared;
use super::watch_stream;
use crate::apply::outcome::Outcome;
use crate::env::recorder;
use crate::pb::raftpb;
use crate::raft::message::Entry;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Entries applied under one hold of the state, so that reads never wait for longer than that.
const CHUNK_ENTRIES: usize = 64;

/// Owns the write side of the state machine; runs until the consensus task is gone.
pub async fn run(mut committed: mpsc::UnboundedReceiver<Vec<Entry>>, shared: Arc<Shared>) {
    while let Some(entries) = committed.recv().await {
        for chunk in entries.chunks(CHUNK_ENTRIES) {
            let conf_changes = apply_chunk(chunk, &shared);
            let index = chunk.last().expect("chunks are not empty").index;
            shared.update_view(|view| view.applied = index);
            if shared.inbox.send(Event::Applied { index, conf_changes }).await.is_err() {
                return;
            }
            crate::env::yield_now().await;
        }
    }
}

/// Applies some entries under one hold of the state; returns the membership changes among them.
fn apply_chunk(chunk: &[Entry], shared: &Shared) -> Vec<raftpb::ConfChange> {
    let now = shared.env.clock.now().since_start();
    let mut conf_changes = Vec::new();
    let mut state = shared.state_mut();
    for entry in chunk {
        shared.env.recorder.record(&recorder::Event::Committed {
            index: entry.index,
            term: entry.term,
            checksum: crc32c::crc32c(&entry.data),
        });
        let mut outcome = state.apply(entry, now);
        shared.env.recorder.record(&recorder::Event::Applied {
            index: entry.index,
            term: entry.term,
            revision: state.store.revision(),
            state_hash: state.state_hash(),
        });
        conf_changes.extend(outcome.conf_change.take());
        deliver(outcome, shared);
    }
    drop(state);
    shared.metrics.proposals_applied_total.set(chunk.last().map_or(0, |e| e.index as i64));
    conf_changes
}

/// Tells watchers first, callers second: a caller that sees its answer finds the event on its way.
fn deliver(outcome: Outcome, shared: &Shared) {
    if !outcome.revisions.is_empty() {
        watch_stream::publish(shared, &outcome.revisions);
    }
    if outcome.compacted {
        shared.compact.notify_one();
        shared.catch_up.notify_one();
    }
    if outcome.request_id != 0 {
        shared.pending().answer(outcome.request_id, outcome.result);
    }
}

/// Removes what compactions have killed, in bounded steps between which everyone else runs.
pub async fn compactor(shared: Arc<Shared>) {
    const STEP_RECORDS: usize = 1_000;
    loop {
        shared.compact.notified().await;
        loop {
            let (more, revision) = {
                let mut state = shared.state_mut();
                (state.store.compact_step(STEP_RECORDS), state.store.compact_revision())
            };
            if !more {
                shared.compacted.set(revision);
                break;
            }
            crate::env::yield_now().await;
        }
    }
}
