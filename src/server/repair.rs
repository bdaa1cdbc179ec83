//! Repairs what is damaged of this member's runs: fetches the values that can't be read from other
//! members, and then writes the run anew.
//!
//! A damaged block is never served. Who reads a value in it waits; so does apply, where the value
//! decides what an entry does. Keys, revisions and leases are in memory, so only values are lost,
//! and memory holds a digest of each: what another member sends counts only if it is the value
//! that the record was written with. Values come back into memory first, by a task that waits for
//! nobody on this member; then the owner of the directory writes a run that takes the place of the
//! damaged one and of all older ones. (As the oldest run it need not hold the tombstones that
//! memory has forgotten, which a damaged block would have lost.)
//!
//! If every other member has compacted a value away that apply waits for, nobody can give it back:
//! then this member gives its whole state up and takes another's, as in `lost_state`.

use super::checkpointer::{Checkpointer, SweepPin};
use super::lost_state::alone;
use super::peers::Peers;
use super::runs::{to_place, to_stored};
use super::shared::{Shared, StopReason};
use crate::env::recorder::{self, Standing};
use crate::env::yield_now;
use crate::mvcc::record::{Record, Value};
use crate::mvcc::revision::Revision;
use crate::pb::raftpb::{FetchValuesRequest, FetchedValue, RecordRevision};
use crate::raft::message::NodeId;
use crate::storage::error::StorageError;
use crate::storage::run::{self, Near, Run, RunMeta};
use crate::storage::run_writer::RunWriter;
use bytes::Bytes;
use std::sync::Arc;

/// Records that are taken under one hold of the state.
const CHUNK_RECORDS: usize = 256;
/// Values asked for at once.
const ASKED_MAX: usize = 1024;
/// How long the values of a run are left alone that nobody could give back, in election timeouts.
const PAUSE_MAX_ELECTIONS: u32 = 4;
/// An answer ends once its values have so many bytes.
const ANSWER_BYTES: usize = 1 << 20;
/// No compaction is at or before it, so every record that memory knows counts.
const NOTHING_COMPACTED: i64 = -1;

/// Brings values back that can't be read; runs until the server stops.
pub async fn run(shared: Arc<Shared>, peers: Arc<Peers>) {
    let damage = &shared.runs.damage;
    let mut pause = shared.election_timeout;
    // The entry that waited when a value was last found to be gone everywhere.
    let mut gone_at = None;
    loop {
        let damaged = damage.wait().await;
        for run in damage.take_unreported() {
            tracing::error!(run = format!("{run:016x}"), "a run is damaged");
            shared.env.recorder.record(&recorder::Event::Damaged { run });
        }
        let mut left = 0;
        let mut gone = None;
        for run in damaged {
            let missing = heal(&shared, &peers, run).await;
            left += missing.values;
            gone = gone.or(missing.gone);
        }
        damage.end_round();
        shared.catch_up.notify_one();
        shared.checkpoint.notify_one();
        if left == 0 {
            pause = shared.election_timeout;
            continue;
        }
        tracing::error!(values = left, "no member has given these values back yet");
        // Apply had all the pause before to go on with what the last round has brought.
        let waiting = damage.waiting_entry().filter(|_| gone.is_some());
        if let Some(error) = gone.filter(|_| waiting.is_some() && waiting == gone_at) {
            give_up(&shared, error);
        }
        gone_at = waiting;
        shared.env.clock.sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX_ELECTIONS * shared.election_timeout);
    }
}

/// A value that apply waits for is nowhere: this state is of no use any more.
fn give_up(shared: &Shared, damage: StorageError) {
    let me = shared.member_id;
    if !shared.state().members.iter().any(|member| member.id != me) {
        shared.stop(StopReason::Disk(alone(damage).to_string()));
        return;
    }
    let index = shared.view().applied;
    let what = "a value is gone everywhere: the state will come from another member";
    tracing::error!(index, %damage, "{what}");
    shared.state_mut().lose();
    shared.set_standing(Standing::Quarantined);
}

/// What could not be brought back.
struct Missing {
    values: usize,
    /// Why one of them can't be read here that every other member has compacted away.
    gone: Option<StorageError>,
}

/// A value that a run should give and can't.
struct Wanted {
    revision: Revision,
    /// How many members have compacted it away.
    gone: usize,
}

/// Brings the values of one run back; says what is still missing.
async fn heal(shared: &Arc<Shared>, peers: &Arc<Peers>, id: u64) -> Missing {
    let Some(run) = shared.runs.get(id) else {
        shared.runs.damage.forget(id);
        return Missing { values: 0, gone: None };
    };
    let (mut wanted, error) = unreadable(shared, &run).await;
    let missing = wanted.len();
    let me = shared.member_id;
    let mut others: Vec<NodeId> = shared.state().members.iter().map(|member| member.id).collect();
    others.retain(|id| *id != me);
    for other in &others {
        if !wanted.is_empty() {
            wanted = fetch(shared, peers, *other, wanted).await;
        }
    }
    let values = missing - wanted.len();
    shared.metrics.repaired_values_total.inc_by(values as u64);
    if values > 0 {
        tracing::warn!(run = format!("{id:016x}"), values, "values were fetched from others");
        shared.env.recorder.record(&recorder::Event::ValuesRepaired { run: id, values });
    }
    if wanted.is_empty() {
        shared.runs.damage.healed(id);
    }
    let is_gone = wanted.iter().any(|value| value.gone == others.len());
    Missing { values: wanted.len(), gone: error.filter(|_| is_gone) }
}

/// The values that a run should give and can't, and why.
async fn unreadable(shared: &Arc<Shared>, run: &Run) -> (Vec<Wanted>, Option<StorageError>) {
    let RunMeta { id, first, last, .. } = *run.meta();
    let mut from = Revision::new(first.main, first.sub);
    let mut wanted = Vec::new();
    let mut why = None;
    let mut near = Near::default();
    loop {
        let chunk =
            shared.state().store.records_at(from, last.main, NOTHING_COMPACTED, CHUNK_RECORDS);
        let Some(end) = chunk.last() else { return (wanted, why) };
        from = Revision::new(end.revision.main, end.revision.sub + 1);
        for record in &chunk {
            if let Value::Cold(location) = record.value
                && location.run == id
                && let Err(error) = run.value_near(to_place(location), &mut near)
            {
                wanted.push(Wanted { revision: record.revision, gone: 0 });
                why.get_or_insert(error);
            }
        }
        yield_now().await;
    }
}

/// Asks a member for values, and takes those that verify; returns the others.
async fn fetch(
    shared: &Arc<Shared>,
    peers: &Arc<Peers>,
    from: NodeId,
    mut wanted: Vec<Wanted>,
) -> Vec<Wanted> {
    let Some(mut client) = peers.client(from) else { return wanted };
    let mut missing = Vec::new();
    while !wanted.is_empty() {
        let asked = &wanted[..wanted.len().min(ASKED_MAX)];
        let revision = |Wanted { revision, .. }: &Wanted| RecordRevision {
            main: revision.main,
            sub: revision.sub,
        };
        let revisions = asked.iter().map(revision).collect();
        let request = FetchValuesRequest { header: Some(peers.header(from)), revisions };
        let answer = tokio::select! {
            biased;
            answer = client.fetch_values(request) => answer,
            () = shared.env.clock.sleep(2 * shared.election_timeout) => break,
        };
        let Ok(answer) = answer else { break };
        let values = answer.into_inner().values;
        if values.is_empty() {
            break;
        }
        let answered = values.len().min(asked.len());
        let mut state = shared.state_mut();
        for (value, fetched) in wanted.drain(..answered).zip(&values) {
            if !fetched.found || !state.store.heal(value.revision, &fetched.value) {
                let gone = value.gone + usize::from(fetched.gone);
                missing.push(Wanted { gone, ..value });
            }
        }
    }
    missing.append(&mut wanted);
    missing
}

/// Answers another member with values, as long as the answer is not too long.
pub fn values(shared: &Shared, revisions: &[RecordRevision]) -> Vec<FetchedValue> {
    let mut values = Vec::new();
    let mut bytes = 0;
    let state = shared.state();
    for revision in revisions {
        let known = state.store.value_of(Revision::new(revision.main, revision.sub));
        let gone = known.is_none() && revision.main <= state.store.revision();
        let value = known.and_then(Result::ok);
        bytes += value.as_ref().map_or(0, Bytes::len);
        let found = value.is_some();
        values.push(FetchedValue { found, value: value.unwrap_or_default(), gone });
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    values
}

impl Checkpointer {
    /// Puts whole files in the place of damaged ones whose values are safe.
    ///
    /// # Errors
    /// When the disk fails otherwise than by damage.
    pub async fn repair(&mut self) -> Result<(), StorageError> {
        let shared = self.shared.clone();
        let damage = &shared.runs.damage;
        while let Some(id) = damage.next_healed() {
            let position = self.shared.runs.metas().iter().position(|meta| meta.id == id);
            if let Some(position) = position {
                let rebuilt = self.rebuild(position).await;
                if !self.is_whole(rebuilt)? {
                    // An older run has to be healed first: this one waits for it with the fetcher,
                    // who pauses, and is not tried again at once.
                    damage.report(id);
                    return Ok(());
                }
                tracing::warn!(run = format!("{id:016x}"), "a damaged run was replaced");
                self.shared.env.recorder.record(&recorder::Event::RunRepaired { run: id });
            }
            damage.forget(id);
        }
        self.take().await
    }

    /// Notes damage that a scan of runs met; false if it met some.
    pub(super) fn is_whole(&self, done: Result<(), StorageError>) -> Result<bool, StorageError> {
        match done {
            Ok(()) => Ok(true),
            Err(StorageError::Damaged { path, offset, what }) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                let Some(id) = name.as_deref().and_then(run::parse_name) else {
                    return Err(StorageError::Damaged { path, offset, what });
                };
                self.shared.runs.damage.report(id);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes all runs up to this one as a new one, from what memory knows.
    async fn rebuild(&mut self, position: usize) -> Result<(), StorageError> {
        let up_to = self.shared.runs.metas()[position].last.main;
        let id = self.next_run();
        let mut writer = RunWriter::new(self.disk(), &self.dir, id)?;
        let mut from = Revision::default();
        let mut near = Near::default();
        // What is swept meanwhile would be missing from the new run while a reader asks for it.
        let pin = {
            let _state = self.shared.state();
            SweepPin::new(&self.shared)
        };
        loop {
            let records = {
                let state = self.shared.state();
                state.store.records_at(from, up_to, NOTHING_COMPACTED, CHUNK_RECORDS)
            };
            let Some(last) = records.last() else { break };
            from = Revision::new(last.revision.main, last.revision.sub + 1);
            for record in records {
                let value = self.value(&record, &mut near)?;
                writer.push(&to_stored(record, value)).await?;
            }
            yield_now().await;
        }
        let written = writer.finish().await?;
        if written.is_some() {
            self.shared.runs.open(Run::open(&*self.disk(), &self.dir, id)?);
            self.moved(id).await?;
        }
        drop(pin);
        self.shared.runs.replace(0..position + 1, written.map(|meta| meta.id));
        // What came from others is in memory, below what was let go.
        self.evicted = Revision::default();
        Ok(())
    }

    fn value(&self, record: &Record, near: &mut Near) -> Result<Bytes, StorageError> {
        let location = match &record.value {
            Value::Resident(value) => return Ok(value.clone()),
            Value::Cold(location) => *location,
        };
        let run = self.shared.runs.get(location.run).expect("a cold value stands in an open run");
        run.value_near(to_place(location), near)
    }
}
