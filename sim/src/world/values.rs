//! Looks, whenever runs have taken the place of others, at whether all values can still be read.

use super::cluster::Cluster;
use crate::checker::Violation;
use crate::checker::values::{self, Left};
use detcd::mvcc::record::Value;
use detcd::mvcc::revision::Revision;
use std::time::Duration;

/// How often it is looked for new runs.
const LOOK: Duration = Duration::from_millis(100);

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
