//! Those who hold leases where a fault could end them too early, or have them overlooked: while a
//! leader can't apply, while a member is behind, and while leadership goes from one to the other.

use super::cluster::Cluster;
use super::lessee::LeaseCaller;
use crate::history::leases::Told;
use crate::moment::Nanos;
use crate::random::Stream;
use madsim::runtime::NodeHandle;
use std::time::Duration;

/// The nodes of these come after those of all others.
const NODES: u64 = 400;
/// Faults of one run that have some; later ones have none.
const FAULTS_MAX: u64 = 20;
const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;
/// The TTL of leases that are let go at once.
const TTL_SECS: i64 = 2;
/// The longest TTL that is granted to who asks for the shortest.
const SHORTEST_TTL_MS_MAX: u64 = 3_000;
/// Leases that end one after the other.
const HELD: u64 = 4;

/// While a leader can commit and not apply, because its disk stalls: somebody grants leases through
/// the others and asks for them at once. The leader must not say that they are not there.
pub fn send_granter(cluster: &Cluster, leader: usize, for_ms: u64) {
    // By then another one leads.
    let for_ms = for_ms.min(cluster.plan().options.election_ms * 2);
    let until = cluster.book().now() + for_ms * MILLISECOND;
    let Some(client) = enlist(cluster) else { return };
    let life = grant_and_ask(cluster.clone(), client, leader, until);
    drop(cluster.client_node(client).spawn(life));
}

/// While a follower can't apply, because its disk stalls: somebody holds leases that it has not
/// heard of, and asks it to keep them alive when their time is up. It must not say that they are
/// gone.
pub fn send_late_renewer(cluster: &Cluster, behind: usize, for_ms: u64) {
    let until = last_call(cluster).min(cluster.book().now() + for_ms * MILLISECOND);
    if for_ms < SHORTEST_TTL_MS_MAX / 3 {
        return;
    }
    let Some(client) = enlist(cluster) else { return };
    let life = renew_late(cluster.clone(), client, behind, until);
    drop(cluster.client_node(client).spawn(life));
}

/// A place among those who hold leases, if the plan has any and not too many faults had some.
fn enlist(cluster: &Cluster) -> Option<u64> {
    if !cluster.plan().workload.has_leases() || cluster.members() < 2 {
        return None;
    }
    let mut book = cluster.book().lock();
    book.lease_onlookers += 1;
    (book.lease_onlookers <= FAULTS_MAX).then_some(NODES + book.lease_onlookers - 1)
}

/// Every call is answered or given up before the run is healed and judged.
fn last_call(cluster: &Cluster) -> Nanos {
    let plan = cluster.plan();
    plan.duration_ms.saturating_sub(plan.options.election_ms) * MILLISECOND
}

fn caller(cluster: &Cluster, client: u64) -> LeaseCaller {
    let patience = Duration::from_millis(cluster.plan().options.election_ms);
    LeaseCaller::new(client, cluster).with_patience(patience)
}

/// Everybody but one member, by turns.
fn other(cluster: &Cluster, spared: usize, turn: u64) -> usize {
    let members = cluster.members();
    (spared + 1 + turn as usize % (members - 1)) % members
}

/// What the clock of the leader shows, as far as there is one.
fn leaders_clock(cluster: &Cluster) -> Nanos {
    let leader = cluster.book().lock().leaders[1].unwrap_or(0);
    cluster.book().clocks()[leader]
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

async fn grant_and_ask(cluster: Cluster, client: u64, spared: usize, until: Nanos) {
    let mut leases = LeaseCaller::new(client, &cluster);
    for turn in 0.. {
        if cluster.book().now() >= until || cluster.book().is_broken() {
            return;
        }
        let member = other(&cluster, spared, turn);
        if let Some((id, _)) = leases.grant(member, 0, TTL_SECS).await {
            leases.time_to_live(member, id).await;
            leases.revoke(member, id).await;
        }
        pause(cluster.plan().options.heartbeat_ms).await;
    }
}

async fn renew_late(cluster: Cluster, client: u64, behind: usize, until: Nanos) {
    let mut chance = Stream::new(cluster.plan().seed, &format!("lease onlooker/{client}"));
    let mut leases = caller(&cluster, client);
    let over = || cluster.book().now() >= until || cluster.book().is_broken();
    for turn in 0.. {
        if over() {
            return;
        }
        let granted = leases.grant(other(&cluster, behind, turn), 0, 1).await;
        let Some((id, ttl)) = granted else {
            pause(cluster.plan().options.heartbeat_ms).await;
            continue;
        };
        let ttl = ttl.unsigned_abs() * SECOND;
        let mut due = leaders_clock(&cluster) + ttl;
        while !over() {
            let early = chance.below(20) * MILLISECOND;
            if leaders_clock(&cluster) + early < due {
                pause(1).await;
                continue;
            }
            let asked = leaders_clock(&cluster);
            match leases.renew(behind, id, true).await {
                Told::Gone => break,
                Told::Alive(_) => due = asked + ttl,
                _ => {}
            }
        }
    }
}

/// Leases that are about to end on the leader that granted them.
pub struct Held {
    node: NodeHandle,
    leases: Vec<(LeaseCaller, i64)>,
}

/// Grants leases that end on `leader` within so many milliseconds, one after the other, and waits
/// until the first of them is about to. None if nobody holds leases, or there is no time for it.
pub async fn about_to_end(cluster: &Cluster, leader: usize, within_ms: u64) -> Option<Held> {
    let book = cluster.book();
    let needed = (SHORTEST_TTL_MS_MAX + 4 * within_ms) * MILLISECOND;
    if book.now() + needed > last_call(cluster) {
        return None;
    }
    let client = enlist(cluster)?;
    let node = cluster.client_node(client);
    let grant = |nth: u64| {
        let cluster = cluster.clone();
        node.spawn(async move {
            pause(nth * within_ms / HELD).await;
            let mut leases = caller(&cluster, client);
            let (id, ttl) = leases.grant(other(&cluster, leader, nth), 0, 1).await?;
            Some((leases, id, cluster.book().clocks()[leader] + ttl.unsigned_abs() * SECOND))
        })
    };
    let granting: Vec<_> = (0..HELD).map(grant).collect();
    let mut held = Held { node, leases: Vec::new() };
    let mut first = Nanos::MAX;
    for grant in granting {
        if let Some((leases, id, due)) = grant.await.ok().flatten() {
            held.leases.push((leases, id));
            first = first.min(due);
        }
    }
    let early = within_ms * MILLISECOND / 5;
    let leads = || book.lock().members[leader].leads;
    while first < Nanos::MAX && book.clocks()[leader] + early < first && leads() {
        pause(1).await;
    }
    Some(held)
}

impl Held {
    /// Keeps them alive on whoever leads in the place of `before`.
    pub fn keep(self, cluster: &Cluster, before: usize, for_ms: u64) {
        let until = last_call(cluster).min(cluster.book().now() + for_ms * MILLISECOND);
        for (leases, id) in self.leases {
            drop(self.node.spawn(keep(cluster.clone(), leases, id, before, until)));
        }
    }
}

async fn keep(cluster: Cluster, mut leases: LeaseCaller, id: i64, before: usize, until: Nanos) {
    while cluster.book().now() < until && !cluster.book().is_broken() {
        let leader = cluster.book().lock().leaders[1].filter(|leader| *leader != before);
        if let Some(leader) = leader
            && leases.renew(leader, id, true).await == Told::Gone
        {
            return;
        }
        pause((cluster.plan().options.heartbeat_ms / 4).max(1)).await;
    }
}
