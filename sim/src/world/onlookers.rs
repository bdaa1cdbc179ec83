//! While one member may be out of date without knowing: somebody reads there all the time, and
//! somebody writes elsewhere, so that a stale answer would show.

use super::client::Caller;
use super::cluster::Cluster;
use super::slow_disk::write_of;
use crate::model::{Range, Request, Span};
use crate::moment::Nanos;
use std::time::Duration;

/// The nodes of the onlookers come after those of the others, two for each fault that has some.
const NODES: u64 = 300;
/// Faults of one run that have onlookers; later ones have none.
const FAULTS_MAX: u64 = 20;

/// Sends a reader to `member` and a writer to the others, for as long as the fault lasts.
pub fn send(cluster: &Cluster, member: usize, for_ms: u64) {
    let number = {
        let mut book = cluster.book().lock();
        book.onlookers += 1;
        book.onlookers - 1
    };
    if number >= FAULTS_MAX {
        return;
    }
    // Every call is answered or given up before the run is healed and judged.
    let options = &cluster.plan().options;
    let last = cluster.plan().duration_ms.saturating_sub(options.election_ms) * 1_000_000;
    let until = last.min(cluster.book().now() + for_ms * 1_000_000);
    let (reader, writer) = (NODES + 2 * number, NODES + 2 * number + 1);
    let life = read(cluster.clone(), reader, member, until);
    drop(cluster.client_node(reader).spawn(life));
    let life = write(cluster.clone(), writer, member, until);
    drop(cluster.client_node(writer).spawn(life));
}

fn caller(cluster: &Cluster, client: u64) -> Caller {
    let patience = Duration::from_millis(cluster.plan().options.election_ms);
    Caller::new(client, cluster.members(), patience, cluster.book().clone())
}

fn pause(cluster: &Cluster) -> Duration {
    Duration::from_millis(cluster.plan().options.heartbeat_ms)
}

/// Asks again and again without waiting for answers: whoever asks late must not be served with what
/// was meant for those who asked early.
async fn read(cluster: Cluster, client: u64, member: usize, until: Nanos) {
    let caller = caller(&cluster, client);
    while cluster.book().now() < until && !cluster.book().is_broken() {
        let mut caller = caller.clone();
        let range = Request::Range(Range::of(Span::one("stall")));
        drop(tokio::spawn(async move { caller.ask(member, range).await }));
        tokio::time::sleep(pause(&cluster)).await;
    }
}

async fn write(cluster: Cluster, client: u64, spared: usize, until: Nanos) {
    let mut caller = caller(&cluster, client);
    let members = cluster.members();
    for attempt in 0.. {
        if cluster.book().now() >= until || cluster.book().is_broken() {
            return;
        }
        let member = (spared + 1 + attempt % (members - 1).max(1)) % members;
        caller.ask(member, write_of(client, attempt)).await;
        tokio::time::sleep(pause(&cluster)).await;
    }
}
