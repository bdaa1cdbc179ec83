//! Those who overwrite what has just been damaged, and ask for the version before: the member that
//! can't read it meets the damage while it applies a write, which it has to apply like all others.

use super::client::Caller;
use super::cluster::Cluster;
use crate::model::{Delete, Put, Range, Request, Span, Txn};
use crate::moment::Nanos;
use crate::random::Stream;
use std::time::Duration;

/// The nodes of these come after those of the onlookers.
const NODES: u64 = 450;
/// Faults of one run that have some; later ones have none.
const FAULTS_MAX: u64 = 20;
/// Keys that are overwritten.
const KEYS_MAX: usize = 6;

/// Sends somebody to overwrite these keys, the first ones of them.
pub fn send(cluster: &Cluster, keys: Vec<String>) {
    let number = {
        let mut book = cluster.book().lock();
        book.overwriters += 1;
        book.overwriters - 1
    };
    if number >= FAULTS_MAX {
        return;
    }
    // Every call is answered or given up before the run is healed and judged.
    let election_ms = cluster.plan().options.election_ms;
    let until = cluster.plan().duration_ms.saturating_sub(election_ms) * 1_000_000;
    let client = NODES + number;
    let life = overwrite(cluster.clone(), client, keys, until);
    drop(cluster.client_node(client).spawn(life));
}

/// One write a key, at any member, each shown what it overwrites.
async fn overwrite(cluster: Cluster, client: u64, keys: Vec<String>, until: Nanos) {
    let patience = Duration::from_millis(cluster.plan().options.election_ms);
    let mut caller = Caller::new(client, cluster.members(), patience, cluster.book().clone());
    let mut stream = Stream::new(cluster.plan().seed, &format!("client/{client}/overwrites"));
    for (n, key) in keys.into_iter().take(KEYS_MAX).enumerate() {
        if cluster.book().now() >= until || cluster.book().is_broken() {
            return;
        }
        let span = Span::one(key.clone());
        let put = Put::of(key, format!("c{client}-{n}"));
        let request = match stream.below(4) {
            0 => Request::Delete(Delete { span, prev_kv: true }),
            1 => Request::Txn(Txn {
                compares: Vec::new(),
                success: vec![Request::Range(Range::of(span)), Request::Put(put)],
                failure: Vec::new(),
            }),
            _ => Request::Put(Put { prev_kv: true, ..put }),
        };
        let member = stream.below(cluster.members() as u64) as usize;
        caller.ask(member, request).await;
    }
}
