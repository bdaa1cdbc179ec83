//! The values that a member does not hold in memory. Looks, whenever runs have taken the place of
//! others, at whether all of them can still be read.

use super::cluster::Cluster;
use crate::checker::Violation;
use crate::checker::values::{self, Left};
use detcd::mvcc::record::{Location, Value};
use detcd::mvcc::revision::Revision;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked for new runs.
const LOOK: Duration = Duration::from_millis(100);
/// How often by who would be there first.
const LOOK_OFTEN: Duration = Duration::from_millis(5);

/// Looks at the members until the run is over.
pub async fn watch(cluster: Cluster) {
    let mut seen = vec![0; cluster.members()];
    loop {
        tokio::time::sleep(LOOK).await;
        for (member, seen) in seen.iter_mut().enumerate() {
            let rewrites = cluster.book().lock().members[member].rewrites;
            if std::mem::replace(seen, rewrites) == rewrites {
                continue;
            }
            if let Err(violation) = check(&cluster, member) {
                cluster.book().violated(violation);
                return;
            }
        }
    }
}

fn check(cluster: &Cluster, member: usize) -> Result<(), Violation> {
    let Some(server) = cluster.server(member) else { return Ok(()) };
    let shared = server.shared();
    let state = shared.state();
    let (first, compacted) = (Revision::default(), state.store.compact_revision());
    let records = state.store.records_at(first, i64::MAX, compacted, usize::MAX);
    let left = records.iter().filter_map(|record| match &record.value {
        Value::Cold(location) => Some(Left { revision: record.revision.main, run: location.run }),
        Value::Resident(_) => None,
    });
    values::check(cluster.book().now(), member, left, |run| shared.runs.get(run).is_some())
}

/// A key of the workload whose newest value only a run holds.
pub struct Cold {
    pub key: String,
    pub location: Location,
}

/// Waits until a member has such keys in a run that is new, and that hardly anybody can have read
/// yet, and gives them; none if that does not happen in time.
pub async fn cold_within(cluster: &Cluster, member: usize, within: Duration) -> Vec<Cold> {
    let until = Instant::now() + within;
    let mut known = runs(cluster, member);
    while Instant::now() < until {
        tokio::time::sleep(LOOK_OFTEN).await;
        let now = runs(cluster, member);
        let mut new = now.iter().filter(|run| !known.contains(run)).peekable();
        if new.peek().is_some() {
            let new: Vec<u64> = new.copied().collect();
            let mut cold = cold(cluster, member);
            cold.retain(|value| new.contains(&value.location.run));
            if !cold.is_empty() {
                return cold;
            }
        }
        known = now;
    }
    Vec::new()
}

fn runs(cluster: &Cluster, member: usize) -> Vec<u64> {
    let server = cluster.server(member);
    let metas = server.map(|server| server.shared().runs.metas()).unwrap_or_default();
    metas.iter().map(|run| run.id).collect()
}

fn cold(cluster: &Cluster, member: usize) -> Vec<Cold> {
    let Some(server) = cluster.server(member) else { return Vec::new() };
    let state = server.shared().state();
    let (first, compacted) = (Revision::default(), state.store.compact_revision());
    let records = state.store.records_at(first, i64::MAX, compacted, usize::MAX);
    let mut newest = BTreeMap::new();
    for record in records.iter().filter(|record| record.key.starts_with(b"k")) {
        let location = match record.value {
            Value::Cold(location) if !record.tombstone => Some(location),
            Value::Cold(_) | Value::Resident(_) => None,
        };
        newest.insert(String::from_utf8_lossy(&record.key).into_owned(), location);
    }
    let cold = |(key, location)| Some(Cold { key, location: location? });
    newest.into_iter().filter_map(cold).collect()
}
