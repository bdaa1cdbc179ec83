//! What slow-disk mode demands while one disk stalls and nothing else is wrong: the others go on,
//! and a stalled leader is replaced.

use super::client::Caller;
use super::cluster::Cluster;
use crate::checker::leadership::Ailing;
use crate::checker::{Guarantee, Violation};
use crate::history::Outcome;
use crate::model::{Delete, Put, Request, Span};
use crate::moment::Nanos;
use std::time::Duration;

/// The nodes of those who write during a stall come after those of the watchers.
const PROBE_NODES: u64 = 150;
/// What is granted for requests to travel, beside the election timeouts.
const SLACK_MS: u64 = 500;

/// A disk begins to ail: the one before has to have caused no more than one change of leaders.
pub fn begins(cluster: &Cluster, member: usize) {
    let from = cluster.book().now();
    let mut book = cluster.book().lock();
    if let Some(before) = book.ailing.last_mut() {
        before.until = from;
    }
    book.ailing.push(Ailing { member, from, until: Nanos::MAX });
}

/// Stays with a stall until it ends: a write through another member works within three election
/// timeouts, and by then the stalled member no longer leads.
pub async fn attend(cluster: &Cluster, member: usize, for_ms: u64) {
    begins(cluster, member);
    let stall_began = cluster.book().now();
    // Clocks may be a tenth slow.
    let limit_ms = cluster.plan().options.election_ms * 33 / 10 + SLACK_MS;
    let led = is_settled_leader(cluster, member, stall_began);
    let number = cluster.book().lock().ailing.len() as u64;
    let node = cluster.client_node(PROBE_NODES + number);
    let demand = Demand {
        stalled: member,
        limit: stall_began + limit_ms * 1_000_000,
        until: stall_began + for_ms * 1_000_000,
        is_due: led.is_some(),
    };
    let writer = node.spawn(write_on(cluster.clone(), PROBE_NODES + number, demand));
    tokio::time::sleep(Duration::from_millis(for_ms.min(limit_ms))).await;
    let still_leads = led == Some(true) && cluster.book().lock().members[member].leads;
    if still_leads && for_ms > limit_ms && !cluster.book().is_broken() {
        let text = format!("member {member} leads {limit_ms} ms after its disk has stalled");
        let at = Some(cluster.book().now());
        cluster.book().violated(Violation::new(Guarantee::StableLeadership, at, text));
    }
    writer.await.expect("a writer does not panic");
    let left = Duration::from_nanos(
        (stall_began + for_ms * 1_000_000).saturating_sub(cluster.book().now()),
    );
    tokio::time::sleep(left).await;
}

/// What is demanded of the members whose disks work.
struct Demand {
    stalled: usize,
    /// Until when the first write has to work, if that is due at all.
    limit: Nanos,
    is_due: bool,
    /// When the stall is over.
    until: Nanos,
}

/// Whether the member leads, if anybody has led for two election timeouts: before, nothing is
/// demanded.
fn is_settled_leader(cluster: &Cluster, member: usize, now: Nanos) -> Option<bool> {
    let settled = cluster.plan().options.election_ms * 2_000_000;
    let book = cluster.book().lock();
    let leader = book.leaders[1].filter(|leader| {
        let view = &book.members[*leader];
        view.leads && view.elected_at + settled < now
    })?;
    Some(leader == member)
}

/// Writes through the other members until the stall is over; the first write has to work in time.
async fn write_on(cluster: Cluster, client: u64, demand: Demand) {
    let book = cluster.book().clone();
    let members = cluster.members();
    let election = Duration::from_millis(cluster.plan().options.election_ms);
    let mut caller = Caller::new(client, members, election, book.clone());
    let mut worked = !demand.is_due;
    for attempt in 0.. {
        // Every write is answered or given up before the stall is over.
        if book.now() + election.as_nanos() as Nanos > demand.until || book.is_broken() {
            return;
        }
        let member = (demand.stalled + 1 + attempt % (members - 1)) % members;
        let outcome = caller.ask(member, write_of(client, attempt)).await;
        worked |= matches!(outcome, Outcome::Done(_)) && book.now() <= demand.limit;
        if !worked && book.now() > demand.limit && !book.is_broken() {
            let stalled = demand.stalled;
            let text = format!("no write worked in time after the disk of {stalled} stalled");
            book.violated(Violation::new(Guarantee::Liveness, Some(book.now()), text));
            return;
        }
        tokio::time::sleep(election / 4).await;
    }
}

/// Puts, and deletes for a store whose space is exceeded: it takes those still.
pub fn write_of(client: u64, attempt: usize) -> Request {
    if attempt / 2 % 2 == 1 {
        return Request::Delete(Delete { span: Span::one("stall"), prev_kv: false });
    }
    Request::Put(Put::of("stall", format!("stall-{client}-{attempt}")))
}
