//! After the faults: heals what the mode says, and demands that the healed core works.

use super::bounds;
use super::client::Caller;
use super::cluster::Cluster;
use super::faults::usual_latency;
use super::membership::Owned;
use super::waiting::{agreed_leader, limit, wait_until};
use super::{corruption, departure, handover, operator, prompt_writes};
use crate::checker::lease::Closing;
use crate::checker::liveness::{CoreMember, Healing};
use crate::fault::{Direction, Fault};
use crate::history::Outcome;
use crate::model::{Put, Range, Request, Span};
use crate::moment::Nanos;
use crate::options::Mode;
use crate::plan::Plan;
use crate::random::Stream;
use crate::timeline::record::What;
use std::time::Duration;

/// How long one attempt of a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a message may be on its way after its link was healed: the network's longest pause
/// between two tries.
const DELAYED_MS_MAX: u64 = 10_000;
/// What a damaged state takes to be found, replaced and compared, beside the election.
const CORRUPTION_MS_MAX: u64 = 12_000;
/// The longest TTL that is granted in a run.
const LEASE_MS_MAX: u64 = 3_000;
/// Old states that are read at the most, to explain writes of unknown outcome.
const OLD_STATES_MAX: usize = 300;

/// Heals and watches; the answer is what `checker::liveness` judges.
pub async fn heal(cluster: &Cluster) -> Healing {
    let mut core = choose_core(cluster);
    cluster.book().line(format_args!("the faults are over; the core is {core:?}"));
    cluster.book().keep(None, || What::Healed);
    cluster.net().update_config(|c| c.packet_loss_rate = 0.0);
    usual_latency(cluster);
    cluster.breaks().clear();
    match cluster.plan().mode {
        Mode::PartialCut => {}
        Mode::Liveness => {
            let all: Vec<usize> = (0..cluster.members()).collect();
            cluster.heal_links(&all);
            lose_the_others(cluster, &core);
        }
        Mode::Safety | Mode::SlowDisk | Mode::Lite => free_all(cluster),
    }
    for member in &core {
        cluster.heal_member(*member);
    }
    note_reads(cluster);
    cluster.book().ending().update(|ending| ending.core = core.clone());
    let options = &cluster.plan().options;
    let mut healing = begin(cluster);
    let until = healing.healed_at + healing.limit;
    let step = Duration::from_millis((options.heartbeat_ms / 2).max(5));
    let mut _widening = None;
    if cluster.plan().changes_members() {
        core = settle(cluster, until, step, core).await;
        _widening = Some(Owned(tokio::spawn(widen(cluster.clone(), core.clone(), step))));
    }
    healing.leader_at = wait_until(cluster, until, step, || agreed_leader(cluster, &core)).await;
    if healing.leader_at.is_none() {
        return healing;
    }
    if cluster.plan().corrupts() {
        let until = cluster.book().now() + healing.limit + CORRUPTION_MS_MAX * 1_000_000;
        wait_until(cluster, until, step, || corruption::is_over(cluster, &core)).await;
        corruption::report(cluster, &core);
        healing.healed_at = cluster.book().now();
        healing.leader_at = Some(healing.healed_at);
    }
    // Room is waited for apart: what is demanded of the members begins there.
    wait_for_room(cluster, &core, step).await;
    healing.healed_at = cluster.book().now();
    healing.leader_at = Some(healing.healed_at);
    if !options.quotas.is_empty() {
        make_room(cluster, &core, &mut healing).await;
    }
    healing.core = probe_all(cluster, &core, healing.limit).await;
    wait_for_leases(cluster, step).await;
    let until = cluster.book().now() + healing.limit;
    wait_until(cluster, until, step, || at_rest(cluster, &core)).await;
    for member in &mut healing.core {
        member.state = cluster.book().lock().raft.last_applied(member.member);
    }
    // Who was removed since takes no part.
    let voters = cluster.book().lock().voters();
    let standing: Vec<usize> = core.iter().copied().filter(|m| voters.contains(m)).collect();
    healing.timed = prompt_writes::demand(cluster, &standing).await;
    healing.handover = handover::demand(cluster, &standing).await;
    healing.departure = departure::demand(cluster, &standing).await;
    if cluster.plan().mode == Mode::Liveness {
        // Everybody outside of the core hears from nobody.
        let until = healing.healed_at + healing.limit;
        wait_until(cluster, until, step, || leads_outside(cluster, &core).is_none()).await;
        healing.deaf_leader = leads_outside(cluster, &core);
    }
    if cluster.plan().mode != Mode::PartialCut {
        read_old_states(cluster, core[0]).await;
    }
    // Who was removed since owes nothing.
    let voters = cluster.book().lock().voters();
    healing.core.retain(|member| voters.contains(&member.member));
    healing
}

/// Nobody stays cut off or paused, also who takes no part any more, as a member that was removed: a
/// connection of which the first message is on its way for ever holds up all others at whom it asks
/// for one, since the simulated transport accepts them one after the other.
fn free_all(cluster: &Cluster) {
    let all: Vec<usize> = (0..cluster.members()).collect();
    cluster.heal_links(&all);
    for member in all {
        while cluster.is_paused(member) {
            cluster.resume(member);
        }
    }
}

/// Whether somebody has read values from its disk.
fn note_reads(cluster: &Cluster) {
    let servers = (0..cluster.members()).filter_map(|member| cluster.server(member));
    if servers.into_iter().any(|server| server.shared().runs.reads() > 0) {
        cluster.book().reach("cold value read");
    }
}

/// Nothing is seen yet.
fn begin(cluster: &Cluster) -> Healing {
    let options = &cluster.plan().options;
    Healing {
        healed_at: cluster.book().now(),
        limit: limit(options),
        leader_at: None,
        core: Vec::new(),
        deaf_leader: None,
        timed: None,
        handover: None,
        departure: Vec::new(),
    }
}

/// Those that must work: in liveness mode some quorum, under a partial cut the members that are
/// connected with each other in full, else everybody whose disk is not destroyed.
fn choose_core(cluster: &Cluster) -> Vec<usize> {
    let book = cluster.book().lock();
    // A member whose log rotted may yet refuse to start; nothing is demanded of one that has not
    // come up since.
    let can_start = |m: &usize| {
        let member = &book.members[*m];
        let comes_back = cluster.disk(*m).has_crashed();
        !member.out && (!cluster.is_log_rotten(*m) || (member.persisted > 0 && !comes_back))
    };
    let voters = book.voters();
    let quorum = voters.len() / 2 + 1;
    let alive: Vec<usize> = voters.into_iter().filter(can_start).collect();
    drop(book);
    let plan = cluster.plan();
    match plan.mode {
        Mode::Safety | Mode::SlowDisk | Mode::Lite => alive,
        Mode::PartialCut => connected(plan, quorum).unwrap_or(alive),
        Mode::Liveness => {
            let mut core = alive;
            // One that lost its state can't lead, and it may have the longest log of a bare quorum.
            let may_lose = |m: &usize| cluster.is_rotten(*m);
            if core.iter().filter(|m| !may_lose(m)).count() >= quorum {
                core.retain(|m| !may_lose(m));
            }
            Stream::new(plan.seed, "core").shuffle(&mut core);
            core.truncate(quorum);
            core.sort_unstable();
            core
        }
    }
}

/// Waits until those who vote agree on a leader and have applied all that there is: a change of
/// the members that was under way when the faults ended may be made yet.
async fn settle(cluster: &Cluster, until: Nanos, step: Duration, core: Vec<usize>) -> Vec<usize> {
    let mut core = core;
    let settled = |core: &[usize]| agreed_leader(cluster, core) && at_rest(cluster, core);
    while cluster.book().now() < until && !cluster.book().is_broken() {
        let now = choose_core(cluster);
        if now == core && settled(&core) {
            break;
        }
        cluster.heal_links(&now);
        for member in now.iter().filter(|member| !core.contains(member)) {
            cluster.heal_member(*member);
        }
        core = now;
        tokio::time::sleep(step).await;
    }
    cluster.book().line(format_args!("the core is {core:?} now"));
    cluster.book().ending().update(|ending| ending.core = core.clone());
    core
}

/// Keeps the core a quorum of those who vote, until it is dropped: a member may make a change that
/// was asked for under the faults for as long as a request may wait.
async fn widen(cluster: Cluster, mut core: Vec<usize>, step: Duration) {
    loop {
        let mut added = choose_core(&cluster);
        added.retain(|member| !core.contains(member));
        if !added.is_empty() {
            cluster.book().line(format_args!("the core is joined by {added:?}"));
            core.extend(&added);
            cluster.heal_links(&core);
            for member in &added {
                cluster.heal_member(*member);
            }
        }
        tokio::time::sleep(step).await;
    }
}

/// Puts everybody outside of the core out of reach for good: dead, cut off, or deaf. A deaf member
/// still talks, and must not disturb the core.
fn lose_the_others(cluster: &Cluster, core: &[usize]) {
    let mut chance = Stream::new(cluster.plan().seed, "core/others");
    for other in (0..cluster.members()).filter(|m| !core.contains(m)) {
        let fate = chance.below(3);
        cluster
            .book()
            .line(format_args!("m{other} is lost: {}", ["dead", "cut off", "deaf"][fate as usize]));
        match fate {
            0 => cluster.hold_down(other, true),
            1 => cluster.cut(&cluster.links_around(other, Direction::Both)),
            _ => cluster.cut(&cluster.links_around(other, Direction::In)),
        }
    }
}

/// Some quorum whose links no action of the plan cuts.
pub fn connected(plan: &Plan, quorum: usize) -> Option<Vec<usize>> {
    let cut = |a: usize, b: usize| {
        plan.actions.iter().any(|action| match &action.fault {
            Fault::CutLinks { links, .. } => links.contains(&(a, b)) || links.contains(&(b, a)),
            _ => false,
        })
    };
    let members = plan.options.members;
    (0..1usize << members)
        .map(|set| (0..members).filter(|m| set >> m & 1 == 1).collect::<Vec<_>>())
        .filter(|core| core.len() == quorum)
        .find(|core| core.iter().all(|a| core.iter().all(|b| a == b || !cut(*a, *b))))
}

/// Waits until the members take requests again: those whose way was lost wait for their time to be
/// up, and a member that takes few at once may be full of them.
async fn wait_for_room(cluster: &Cluster, core: &[usize], step: Duration) {
    let has_room = |member: &usize| {
        let Some(server) = cluster.server(*member) else { return true };
        let pending = server.shared().load().pending_requests;
        pending < server.limits().max_pending_requests
    };
    let patience = u64::try_from(bounds::request_timeout(cluster.plan()).as_nanos());
    let until = cluster.book().now() + patience.expect("a short time");
    wait_until(cluster, until, step, || core.iter().all(has_room)).await;
}

/// Makes room below the quotas. What a member said about its alarm may have been lost with a
/// leader, and it waits for that as long as any request does before it says so again.
async fn make_room(cluster: &Cluster, core: &[usize], healing: &mut Healing) {
    let patience = u64::try_from(bounds::request_timeout(cluster.plan()).as_nanos());
    let patience = patience.expect("a short time");
    let until = healing.healed_at + healing.limit + patience;
    operator::make_room(cluster, core, until).await;
    let now = cluster.book().now();
    // What is demanded of the members begins here. Where no room could be made, that is too late.
    healing.leader_at = Some(now);
    if now <= until {
        healing.healed_at = now;
    }
}

/// Waits until every lease has ended, as each must once nobody renews it.
async fn wait_for_leases(cluster: &Cluster, step: Duration) {
    if !cluster.plan().workload.has_leases() {
        return;
    }
    let options = &cluster.plan().options;
    // The holders end with the faults, but for their last calls.
    let last_calls = cluster.plan().workload.timeout_ms;
    // A new leader may be elected, the deadlines are looked at twice a second, and a renewal may
    // still be on its way from before the links were healed.
    let margin_ms = options.election_ms * 4 + 1_000 + DELAYED_MS_MAX;
    let book = cluster.book();
    let healed_at = book.now();
    let wait_ms = last_calls + LEASE_MS_MAX + margin_ms + 1_000;
    let until = healed_at + wait_ms * 1_000_000;
    let none_left = || book.lock().history.leases.alive().next().is_none();
    tokio::time::sleep(Duration::from_millis(last_calls.min(1_000))).await;
    wait_until(cluster, until, step, none_left).await;
    let (at, margin) = (book.now(), margin_ms * 1_000_000);
    book.lock().closing = Some(Closing { at, healed_at, margin });
}

fn at_rest(cluster: &Cluster, core: &[usize]) -> bool {
    let book = cluster.book().lock();
    let committed = book.raft.highest_committed();
    core.iter().all(|m| book.members[*m].applied == committed)
}

/// Who runs, does not belong to the core, and leads.
fn leads_outside(cluster: &Cluster, core: &[usize]) -> Option<usize> {
    let book = cluster.book().lock();
    let leads = |m: &usize| book.members[*m].up && book.members[*m].leads;
    (0..cluster.members()).filter(|m| !core.contains(m) && !cluster.is_paused(*m)).find(leads)
}

/// Writes and reads through all members of the core at once.
async fn probe_all(cluster: &Cluster, core: &[usize], limit: Nanos) -> Vec<CoreMember> {
    let mut probes = Vec::new();
    for member in core.iter().copied() {
        let cluster = cluster.clone();
        let node = cluster.client_node(cluster.plan().workload.clients + member as u64);
        probes.push(node.spawn(async move { probe(cluster, member, limit).await }));
    }
    let mut seen = Vec::new();
    for probe in probes {
        seen.push(probe.await.expect("a probe does not panic"));
    }
    seen
}

/// Writes through a member and reads through it, until both have worked.
async fn probe(cluster: Cluster, member: usize, limit: Nanos) -> CoreMember {
    let book = cluster.book().clone();
    let client = cluster.plan().workload.clients + member as u64;
    let mut caller = Caller::new(client, cluster.members(), PROBE_TIMEOUT, book.clone());
    let mut seen = CoreMember { member, ..CoreMember::default() };
    let until = book.now() + limit;
    let mut attempt = 0;
    while book.now() < until && seen.read_at.is_none() && !book.is_broken() {
        attempt += 1;
        let request = if seen.wrote_at.is_none() {
            let value = format!("probe-{member}-{attempt}");
            Request::Put(Put::of("probe", value))
        } else {
            Request::Range(Range::of(Span::one("probe")))
        };
        match caller.ask(member, request).await {
            Outcome::Done(_) if seen.wrote_at.is_none() => seen.wrote_at = Some(book.now()),
            Outcome::Done(_) => seen.read_at = Some(book.now()),
            other => {
                seen.last_failure = format!("{other:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    seen
}

/// Reads the state at every revision that no acknowledged write explains: what a write of unknown
/// outcome did shows there.
async fn read_old_states(cluster: &Cluster, member: usize) {
    let gaps = cluster.book().lock().history.unexplained_revisions();
    let client = cluster.plan().workload.clients + cluster.members() as u64;
    let node = cluster.client_node(client);
    let cluster = cluster.clone();
    let reader = node.spawn(async move {
        let book = cluster.book().clone();
        let mut caller = Caller::new(client, cluster.members(), PROBE_TIMEOUT, book.clone());
        for revision in gaps.into_iter().rev().take(OLD_STATES_MAX) {
            if book.is_broken() {
                return;
            }
            let range = Range { revision, ..Range::of(Span::all()) };
            caller.ask(member, Request::Range(range)).await;
        }
    });
    reader.await.expect("the reader does not panic");
}
