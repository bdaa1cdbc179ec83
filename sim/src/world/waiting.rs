//! Waiting for what the members must come to, for no longer than it may take.

use super::cluster::Cluster;
use crate::moment::Nanos;
use crate::options::Options;
use std::time::Duration;

/// Waits until these members follow one leader, for no longer than an election may take.
pub async fn wait_for_leader(cluster: &Cluster, members: &[usize]) {
    let options = &cluster.plan().options;
    let until = cluster.book().now() + limit(options);
    let step = Duration::from_millis((options.heartbeat_ms / 2).max(5));
    wait_until(cluster, until, step, || agreed_leader(cluster, members)).await;
}

/// Whether they all follow one leader, in its term.
pub fn agreed_leader(cluster: &Cluster, core: &[usize]) -> bool {
    let book = cluster.book().lock();
    let Some(leader) = book.members[core[0]].leader else { return false };
    let leading = &book.members[leader];
    leading.up
        && leading.leads
        && core.iter().all(|m| {
            let member = &book.members[*m];
            member.up && member.leader == Some(leader) && member.term == leading.term
        })
}

/// A second for what is not the election's: starting, connecting, a full log's replay.
pub fn limit(options: &Options) -> Nanos {
    (options.election_ms * 10 + 1_000) * 1_000_000
}

/// Polls until `done` holds; says when that was.
pub async fn wait_until(
    cluster: &Cluster,
    until: Nanos,
    step: Duration,
    done: impl Fn() -> bool,
) -> Option<Nanos> {
    loop {
        let now = cluster.book().now();
        if done() {
            return Some(now);
        }
        if now > until || cluster.book().is_broken() {
            return None;
        }
        tokio::time::sleep(step).await;
    }
}
