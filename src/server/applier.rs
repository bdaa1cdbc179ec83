//! Applies committed entries in order, answers callers, and tells watchers.

use super::count;
use super::event::{Event, Installed, Swap};
use super::shared::Shared;
use super::watch_stream;
use crate::apply::machine::StateMachine;
use crate::apply::outcome::{LeaseFact, Outcome};
use crate::env::pace::Pace;
use crate::env::recorder::{self, Standing};
use crate::error::Error;
use crate::pb::etcdserverpb::{AlarmMember, AlarmType};
use crate::pb::raftpb;
use crate::raft::message::Entry;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Entries applied under one hold of the state, so that reads never wait for longer than that.
const CHUNK_ENTRIES: usize = 64;

/// What the state machine is asked for, in order.
pub enum ApplyJob {
    Entries(Vec<Entry>),
    Install(Box<Swap>),
}

/// Owns the write side of the state machine; runs until the consensus task is gone.
pub async fn run(jobs: mpsc::UnboundedReceiver<ApplyJob>, shared: Arc<Shared>) {
    let mut jobs = Jobs { inbox: jobs, waiting: VecDeque::new() };
    while let Some(job) = jobs.next().await {
        let sent = match job {
            ApplyJob::Entries(entries) => apply_all(&entries, &mut jobs, &shared).await,
            ApplyJob::Install(swap) => {
                let installed = install(*swap, &shared);
                shared.inbox.send(Event::Installed(installed)).await.is_ok()
            }
        };
        if !sent {
            return;
        }
    }
}

/// What is to be done, in order.
struct Jobs {
    inbox: mpsc::UnboundedReceiver<ApplyJob>,
    /// Taken out of the inbox already.
    waiting: VecDeque<ApplyJob>,
}

impl Jobs {
    async fn next(&mut self) -> Option<ApplyJob> {
        match self.waiting.pop_front() {
            Some(job) => Some(job),
            None => self.inbox.recv().await,
        }
    }

    /// Completes once another state waits to take the place of the present one: it includes all
    /// that was handed out before it, so the entries before it are forgotten.
    async fn install_arrived(&mut self) {
        loop {
            let install = |job: &ApplyJob| matches!(job, ApplyJob::Install(_));
            if let Some(position) = self.waiting.iter().position(install) {
                self.waiting.drain(..position);
                return;
            }
            match self.inbox.recv().await {
                Some(job) => self.waiting.push_back(job),
                // The consensus task is gone, and so will be this one.
                None => std::future::pending().await,
            }
        }
    }
}

/// Applies entries; false once nobody wants to know of it any more.
async fn apply_all(entries: &[Entry], jobs: &mut Jobs, shared: &Shared) -> bool {
    for chunk in entries.chunks(CHUNK_ENTRIES) {
        let mut left = chunk;
        while !left.is_empty() {
            let round = shared.runs.damage.round();
            let (done, conf_changes) = apply_chunk(left, shared);
            let (applied, behind) = left.split_at(done);
            left = behind;
            if let Some(index) = applied.last().map(|entry| entry.index) {
                let bytes = applied.iter().map(|entry| entry.data.len() as u64).sum();
                shared.applied(index, bytes);
                if shared.inbox.send(Event::Applied { index, conf_changes }).await.is_err() {
                    return false;
                }
            }
            if !left.is_empty() && wait_for_value(&left[0], round, jobs, shared).await {
                return true;
            }
        }
        crate::env::yield_now().await;
    }
    true
}

/// An entry needs a value that can't be read here: it waits until another member gave it back.
/// True if another state is to be installed instead, which includes the entry.
async fn wait_for_value(entry: &Entry, round: u64, jobs: &mut Jobs, shared: &Shared) -> bool {
    tracing::error!(index = entry.index, "apply waits for a value in a damaged run");
    shared.runs.damage.apply_waits(Some(entry.index));
    let until = shared.env.clock.now() + shared.election_timeout;
    let replaced = tokio::select! {
        biased;
        () = jobs.install_arrived() => true,
        () = shared.repaired_since(round, until) => false,
    };
    if replaced {
        shared.runs.damage.apply_waits(None);
    }
    replaced
}

/// Swaps the state machine. Watchers go on from the history of the other state.
fn install(swap: Swap, shared: &Shared) -> Installed {
    let Swap { state: new, runs, done } = swap;
    let (applied, members) = (new.applied(), new.members.iter().cloned().collect());
    let conf_state = new.image().conf_state;
    let compacted = new.store.compact_revision();
    let before = {
        let mut state = shared.state_mut();
        assert!(
            new.applied().index >= state.applied().index,
            "a snapshot at {:?} in place of a state at {:?}",
            new.applied(),
            state.applied()
        );
        let before = std::mem::replace(&mut *state, new);
        shared.env.recorder.record(&recorder::Event::Installed {
            index: applied.index,
            term: applied.term,
            revision: state.store.revision(),
            state_hash: state.state_hash(),
        });
        shared.env.recorder.record(&members_changed(&state));
        shared.swaps.update(|swaps| *swaps += 1);
        shared.runs.set_current(&runs);
        let mut hashes = shared.hashes();
        hashes.clear();
        hashes.note(applied.index, state.state_hash());
        if shared.is_trusted() {
            shared.hub().snapshot_installed(state.store.revision());
        } else {
            // A damaged state may have been at a later revision; nobody watches it any more.
            shared.hub().end_all(state.store.revision());
        }
        before
    };
    // Outside the hold: a large state takes its time to go.
    drop(before);
    if shared.standing() == Standing::Quarantined {
        shared.set_standing(Standing::Unverified);
    }
    shared.compacted.set(compacted);
    shared.compact.notify_one();
    shared.catch_up.notify_one();
    shared.applied(applied.index, 0);
    Installed { applied, conf_state, members, done }
}

/// Applies some entries under one hold of the state; returns how many, and the membership changes
/// among them. It ends early before an entry that needs a value which can't be read now.
fn apply_chunk(chunk: &[Entry], shared: &Shared) -> (usize, Vec<raftpb::ConfChange>) {
    let now = shared.env.clock.now().since_start();
    let mut conf_changes = Vec::new();
    let mut state = shared.state_mut();
    let mut hashes = shared.hashes();
    let alarms = state.alarms.list(AlarmType::None);
    let mut done = 0;
    // Nothing is applied to a state that was given up.
    let chunk = if state.is_lost() { &[] } else { chunk };
    for entry in chunk {
        shared.env.recorder.record(&recorder::Event::Committed {
            index: entry.index,
            term: entry.term,
            checksum: crc32c::crc32c(&entry.data),
        });
        let begun = shared.env.clock.now();
        let mut outcome = state.apply(entry, now);
        if outcome.result == Err(Error::Unreadable) {
            break;
        }
        done += 1;
        let took = shared.env.clock.now() - begun;
        count::applied(&shared.metrics, &outcome, took);
        let state_hash = state.state_hash();
        hashes.note(entry.index, state_hash);
        shared.env.recorder.record(&recorder::Event::Applied {
            index: entry.index,
            term: entry.term,
            revision: state.store.revision(),
            state_hash,
        });
        report_leases(entry, &outcome, state.store.revision(), shared);
        if let Some(change) = outcome.conf_change.take() {
            shared.env.recorder.record(&members_changed(&state));
            conf_changes.push(change);
        }
        deliver(outcome, shared);
    }
    if done > 0 {
        shared.runs.damage.apply_waits(None);
    }
    let alarmed = state.alarms.is_raised_by(shared.member_id, AlarmType::Nospace);
    shared.space.applied(state.store.live_bytes(), alarmed);
    let alarms_after = state.alarms.list(AlarmType::None);
    drop((state, hashes));
    note_alarms(shared, &alarms, &alarms_after);
    if let Some(last) = chunk[..done].last() {
        shared.metrics.proposals_applied_total.set(last.index as i64);
    }
    (done, conf_changes)
}

/// Reports the alarms that came and went.
fn note_alarms(shared: &Shared, before: &[AlarmMember], after: &[AlarmMember]) {
    let note = |alarm: &AlarmMember, raised| {
        let (member, alarm) = (alarm.member_id, alarm.alarm().as_str_name());
        shared.env.recorder.record(&recorder::Event::Alarm { member, alarm, raised });
    };
    after.iter().filter(|alarm| !before.contains(alarm)).for_each(|alarm| note(alarm, true));
    before.iter().filter(|alarm| !after.contains(alarm)).for_each(|alarm| note(alarm, false));
}

fn members_changed(state: &StateMachine) -> recorder::Event {
    let seen = |member: &raftpb::Member| {
        let url = member.peer_urls.first().cloned().unwrap_or_default();
        (member.id, !member.is_learner, url)
    };
    recorder::Event::MembersChanged {
        index: state.applied().index,
        members: state.members.iter().map(seen).collect(),
        removed: state.members.removed().collect(),
    }
}

fn report_leases(entry: &Entry, outcome: &Outcome, now_at: i64, shared: &Shared) {
    for fact in &outcome.leases {
        let (index, term) = (entry.index, entry.term);
        shared.env.recorder.record(&match *fact {
            LeaseFact::Granted { id, ttl } => {
                recorder::Event::LeaseGranted { index, id, ttl, revision: now_at }
            }
            LeaseFact::Ended { id, keys, revision, expired } => {
                recorder::Event::LeaseEnded { index, term, id, keys, revision, expired }
            }
        });
    }
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
        // What a damaged state answers may be false; that it was applied is true elsewhere.
        let is_doubtful = outcome.touches_data && !shared.is_trusted();
        let result = if is_doubtful { Err(Error::Timeout) } else { outcome.result };
        shared.pending().answer(outcome.request_id, result);
    }
}

/// Removes what compactions have killed, in bounded steps between which everyone else runs.
pub async fn compactor(shared: Arc<Shared>) {
    /// Some tenth of a millisecond.
    const STEP_RECORDS: usize = 250;
    let metrics = &shared.metrics;
    let ms_since = |begin| (shared.env.clock.now() - begin).as_secs_f64() * 1000.0;
    loop {
        shared.compact.notified().await;
        let begun = shared.env.clock.now();
        let mut pace = Pace::new(shared.env.clock.clone());
        loop {
            let (more, revision) = {
                shared.sweep_pins.wait_for(|pins| *pins == 0).await;
                let held = shared.env.clock.now();
                let mut state = shared.state_mut();
                let more = state.store.compact_step(STEP_RECORDS);
                let swept = state.store.take_swept();
                let count = swept.len() as u64;
                shared.runs.count_swept(swept);
                metrics.mvcc_db_compaction_keys_total.inc_by(count);
                metrics.mvcc_db_compaction_pause_duration_milliseconds.observe(ms_since(held));
                (more, state.store.compact_revision())
            };
            if !more {
                shared.compacted.set(revision);
                let took = ms_since(begun);
                metrics.mvcc_db_compaction_total_duration_milliseconds.observe(took);
                let wall = shared.env.clock.wall().as_secs();
                metrics.mvcc_db_compaction_last.set(i64::try_from(wall).unwrap_or(i64::MAX));
                break;
            }
            pace.rest().await;
        }
    }
}
