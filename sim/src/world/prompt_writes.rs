//! When all is at rest, a write takes the ways and the syncs that it needs: who waits for it at a
//! follower hears of its commit at once, and not with the next heartbeat.

use super::client::Caller;
use super::cluster::Cluster;
use super::waiting::wait_for_leader;
use crate::checker::liveness::TimedWrite;
use crate::history::Outcome;
use crate::model::{Put, Request};
use crate::moment::Nanos;
use crate::options::{Mode, Options};
use std::time::Duration;

/// Writes, one after the other. The first one opens connections.
const WRITES: usize = 5;
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// From the client to the follower, to the leader, to whoever makes it durable and back, to the
/// follower, and to the client.
const WAYS: u64 = 6;
/// A batch may wait for the one before it, on the leader and on who follows.
const SYNCS: u64 = 4;
const SLACK_US: u64 = 5_000;

/// Writes through a follower, and says how long it took at the best; nothing where a heartbeat
/// comes as soon as that may take.
pub async fn demand(cluster: &Cluster, core: &[usize]) -> Option<TimedWrite> {
    let plan = cluster.plan();
    let heals_all = matches!(plan.mode, Mode::Safety | Mode::Lite);
    let whole = core.len() > 1 && core.len() == plan.options.members && !plan.changes_members();
    let limit = limit(&plan.options);
    // The clocks may be a tenth fast.
    let heartbeat = plan.options.heartbeat_ms * 900_000;
    if !heals_all || !whole || limit * 4 > heartbeat * 3 {
        return None;
    }
    wait_for_leader(cluster, core).await;
    let leader = cluster.book().lock().members[core[0]].leader;
    let member = core.iter().copied().find(|member| Some(*member) != leader)?;
    let client = plan.workload.clients + cluster.members() as u64 + 1;
    let node = cluster.client_node(client);
    let of_writer = cluster.clone();
    let writer = node.spawn(async move { write(&of_writer, client, member).await });
    let took = writer.await.expect("a writer does not panic")?;
    cluster.book().reach("write at rest timed");
    Some(TimedWrite { member, took, limit })
}

fn limit(options: &Options) -> Nanos {
    (options.latency_us.1 * WAYS + options.fsync_us.1 * SYNCS + SLACK_US) * 1_000
}

/// The shortest time that a write took, of those that worked.
async fn write(cluster: &Cluster, client: u64, member: usize) -> Option<Nanos> {
    let book = cluster.book();
    let mut caller = Caller::new(client, cluster.members(), WRITE_TIMEOUT, book.clone());
    let mut best = None;
    for number in 0..WRITES {
        let begun = book.now();
        let request = Request::Put(Put::of("prompt", format!("prompt-{number}")));
        let outcome = caller.ask(member, request).await;
        if number > 0 && matches!(outcome, Outcome::Done(_)) {
            best = best.into_iter().chain([book.now() - begun]).min();
        }
    }
    best
}
