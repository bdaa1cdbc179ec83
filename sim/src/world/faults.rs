//! Carries out what the nemesis planned, one task a fault; each ends what it began.

use super::cluster::Cluster;
use super::slow_disk;
use super::{burst, corruption, lease_onlookers, membership, onlookers, platters, rot_faults};
use crate::clock::TRUE_RATE;
use crate::fault::{Action, Direction, Fault, Target};
use crate::options::Mode;
use crate::timeline::record::What;
use crate::timeline::words;
use madsim::task::NodeId;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn pause(for_ms: u64) {
    tokio::time::sleep(ms(for_ms)).await;
}

/// Carries out one action whose time has come.
pub async fn carry_out(cluster: Cluster, number: usize, action: Action) {
    let class = action.fault.class();
    cluster.book().line(format_args!("nemesis {class} {}", detail(&action.fault)));
    // Whom it meets is worked out here for the reader; the fault itself does so again.
    let members = words::aimed_at(&action.fault, |target| cluster.resolve(target));
    let text = words::words(&action.fault, &members);
    cluster.book().keep(None, || What::Fault { number, class, words: text, members });
    {
        let at = cluster.book().now();
        let mut book = cluster.book().lock();
        book.figures.faults += 1;
        *book.figures.drawn.entry(class).or_default() += 1;
        book.first_fault.get_or_insert(at);
    }
    match &action.fault {
        Fault::Isolate { .. }
        | Fault::CutLinks { .. }
        | Fault::Flap { .. }
        | Fault::Delay { .. }
        | Fault::Loss { .. }
        | Fault::CutClients { .. }
        | Fault::ResetConnections { .. }
        | Fault::Lag { .. }
        | Fault::LateAnswers { .. }
        | Fault::DeafHandover { .. }
        | Fault::BreakInstall { .. }
        | Fault::Strand { .. } => network(&cluster, &action.fault).await,
        Fault::Kill { .. }
        | Fault::PowerCut { .. }
        | Fault::PowerCutAll { .. }
        | Fault::Pause { .. }
        | Fault::RollingRestart { .. }
        | Fault::CrashAtDiskOperation { .. }
        | Fault::CrashNextLeader { .. } => process(&cluster, &action.fault).await,
        Fault::BitRot { .. }
        | Fault::CheckpointRot { .. }
        | Fault::ReleasedRot { .. }
        | Fault::MisdirectedWrite { .. }
        | Fault::RunRot { .. }
        | Fault::ValueRot { .. }
        | Fault::InstallRot { .. }
        | Fault::OfferRot { .. } => rot_faults::carry_out(&cluster, &action).await,
        Fault::FsyncStall { .. }
        | Fault::FsyncSlow { .. }
        | Fault::WriteError { .. }
        | Fault::FsyncError { .. }
        | Fault::NoSpace { .. } => disk(&cluster, &action.fault).await,
        Fault::Corrupt { .. } => corruption::corrupt(&cluster, &action.fault).await,
        Fault::ClockRate { .. } | Fault::WallJump { .. } | Fault::TransferLeader { .. } => {
            other(&cluster, &action.fault).await;
        }
        Fault::Burst { target, requests } => {
            burst::run(&cluster, number, cluster.resolve(*target), *requests).await;
        }
        Fault::AddMember { .. } | Fault::RemoveMember { .. } | Fault::ReplaceMember { .. } => {
            membership::change(&cluster, &action).await;
        }
    }
    cluster.book().line(format_args!("nemesis {class} is over"));
    cluster.book().keep(None, || What::FaultOver { number });
}

/// What the story says of a fault.
fn detail(fault: &Fault) -> String {
    let text = format!("{fault:?}");
    text.split_once(' ').map(|(_, rest)| rest.to_string()).unwrap_or_default()
}

async fn network(cluster: &Cluster, fault: &Fault) {
    match fault {
        Fault::Isolate { target, direction, for_ms } => {
            let links = cluster.links_around(cluster.resolve(*target), *direction);
            cut_for(cluster, &links, *for_ms).await;
        }
        Fault::CutLinks { links, for_ms, .. } => {
            cut_for(cluster, &cluster.member_links(links), *for_ms).await;
        }
        Fault::Flap { target, period_ms, times } => {
            let links = cluster.links_around(cluster.resolve(*target), Direction::Both);
            for _ in 0..*times {
                cut_for(cluster, &links, *period_ms).await;
                pause(*period_ms).await;
            }
        }
        Fault::Delay { from_ms, to_ms, for_ms } => {
            cluster.net().update_config(|c| c.send_latency = ms(*from_ms)..ms(*to_ms));
            pause(*for_ms).await;
            usual_latency(cluster);
        }
        Fault::Loss { per_mille, for_ms } => {
            cluster.net().update_config(|c| c.packet_loss_rate = *per_mille as f64 / 1000.0);
            pause(*for_ms).await;
            cluster.net().update_config(|c| c.packet_loss_rate = 0.0);
        }
        Fault::CutClients { target, for_ms } => {
            let links = cluster.client_links(cluster.resolve(*target));
            cut_for(cluster, &links, *for_ms).await;
        }
        Fault::ResetConnections { target, times, period_ms } => {
            let member = cluster.resolve(*target);
            for _ in 0..*times {
                cluster.book().reset_connections(member);
                pause(*period_ms).await;
            }
        }
        Fault::Lag { from, to, for_ms } => {
            let link = (cluster.resolve(*from), cluster.resolve(*to));
            if link.0 != link.1 {
                let led = cluster.book().lock().members[link.0].leads;
                onlookers::send(cluster, if led { link.1 } else { link.0 }, *for_ms);
                cut_for(cluster, &cluster.member_links(&[link]), *for_ms).await;
            }
        }
        Fault::Strand { target, per_mille, for_ms } => {
            let member = cluster.resolve(*target);
            let led = cluster.book().lock().members[member].leads;
            cluster.clock(member).set_rate(per_mille * (TRUE_RATE / 1000));
            onlookers::send(cluster, member, *for_ms);
            cut_for(cluster, &cluster.links_around(member, Direction::Both), *for_ms).await;
            usual_rate(cluster, member);
            let book = cluster.book();
            if led && book.lock().leaders[1] != Some(member) {
                book.reach("leader replaced while stranded");
            }
        }
        Fault::LateAnswers { target, .. } => {
            late_answers(cluster, cluster.resolve(*target), fault).await;
        }
        Fault::DeafHandover { deaf_ms } => {
            deaf_handover(cluster, cluster.resolve(Target::Leader), *deaf_ms).await;
        }
        Fault::BreakInstall { pieces, times } => cluster.breaks().add(*pieces, *times),
        other => unreachable!("{other:?} is no fault of the network"),
    }
}

async fn late_answers(cluster: &Cluster, member: usize, fault: &Fault) {
    let Fault::LateAnswers { per_mille, deaf_ms, late_ms, for_ms, .. } = *fault else {
        unreachable!("{fault:?} is another fault");
    };
    let until = cluster.book().now() + for_ms * 1_000_000;
    let inward = cluster.links_around(member, Direction::In);
    let outward = cluster.links_around(member, Direction::Out);
    cluster.clock(member).set_rate(per_mille * (TRUE_RATE / 1000));
    onlookers::send(cluster, member, for_ms);
    cluster.cut(&inward);
    pause(deaf_ms).await;
    cluster.cut(&outward);
    let written = cluster.book().lock().acknowledged_revision;
    let has_gone_on = || {
        let book = cluster.book().lock();
        book.leaders[1] != Some(member) && book.acknowledged_revision > written
    };
    while !has_gone_on() && cluster.book().now() < until {
        pause(cluster.plan().options.heartbeat_ms).await;
    }
    pause(late_ms).await;
    cluster.join(&inward);
    pause(cluster.plan().options.election_ms).await;
    cluster.join(&outward);
    usual_rate(cluster, member);
}

async fn deaf_handover(cluster: &Cluster, member: usize, deaf_ms: u64) {
    let held = lease_onlookers::about_to_end(cluster, member, deaf_ms).await;
    let book = cluster.book();
    let (true, Some(server)) = (book.lock().members[member].leads, cluster.server(member)) else {
        return;
    };
    drop(tokio::spawn(async move {
        // Whoever is furthest takes over.
        let _in_vain = tokio::time::timeout(ms(10_000), server.move_leader(0)).await;
    }));
    if let Some(held) = held {
        held.keep(cluster, member, 4 * cluster.plan().options.election_ms);
    }
    // Its word to the successor is on the way by then, and no answer can have come.
    tokio::time::sleep(Duration::from_micros(cluster.plan().options.latency_us.0)).await;
    cut_for(cluster, &cluster.links_around(member, Direction::In), deaf_ms).await;
    if book.lock().leaders[1] != Some(member) {
        book.reach("leader replaced while deaf");
    }
}

/// Puts the latency of the network back to what the plan drew.
pub fn usual_latency(cluster: &Cluster) {
    let (low, high) = cluster.plan().options.latency_us;
    let latency = Duration::from_micros(low)..Duration::from_micros(high);
    cluster.net().update_config(|c| c.send_latency = latency);
}

/// Puts the clock of a member back to the rate that the plan drew.
fn usual_rate(cluster: &Cluster, member: usize) {
    let usual = cluster.plan().options.clock_rate(member);
    cluster.clock(member).set_rate(usual * (TRUE_RATE / 1000));
}

async fn cut_for(cluster: &Cluster, links: &[(NodeId, NodeId)], for_ms: u64) {
    cluster.cut(links);
    pause(for_ms).await;
    cluster.join(links);
}

async fn down(cluster: &Cluster, member: usize, power_cut: bool, down_ms: u64) {
    cluster.hold_down(member, power_cut);
    if power_cut {
        platters::check(cluster);
    }
    pause(down_ms).await;
    cluster.release(member);
}

async fn process(cluster: &Cluster, fault: &Fault) {
    match fault {
        Fault::Kill { target, down_ms } => {
            down(cluster, cluster.resolve(*target), false, *down_ms).await;
        }
        Fault::PowerCut { target, down_ms } => {
            down(cluster, cluster.resolve(*target), true, *down_ms).await;
        }
        Fault::PowerCutAll { down_ms } => {
            let members = cluster.current();
            for member in &members {
                cluster.hold_down(*member, true);
            }
            platters::check(cluster);
            pause(*down_ms).await;
            for member in members {
                cluster.release(member);
            }
        }
        Fault::Pause { target, for_ms } => {
            let member = cluster.resolve(*target);
            cluster.pause(member);
            pause(*for_ms).await;
            cluster.resume(member);
        }
        Fault::RollingRestart { gap_ms, power_cut } => {
            for member in cluster.current() {
                down(cluster, member, *power_cut, gap_ms / 4 + 1).await;
                pause(*gap_ms).await;
            }
        }
        Fault::CrashAtDiskOperation { target, nth, down_ms } => {
            let member = cluster.resolve(*target);
            cluster.set_down_ms(member, *down_ms);
            cluster.disk(member).arm_crash(*nth);
        }
        Fault::CrashNextLeader { after_ms, down_ms } => {
            let member = cluster.book().next_leader().await;
            pause(*after_ms).await;
            down(cluster, member, true, *down_ms).await;
        }
        other => unreachable!("{other:?} is no fault of a process"),
    }
}

async fn disk(cluster: &Cluster, fault: &Fault) {
    match fault {
        Fault::FsyncStall { target, for_ms } => {
            let member = cluster.resolve(*target);
            let led = cluster.book().lock().members[member].leads;
            // A stall can't be taken back, so it ends with the run's faults at the latest.
            let now_ms = cluster.book().now() / 1_000_000;
            let left = cluster.plan().duration_ms.saturating_sub(now_ms);
            let for_ms = left.min(*for_ms);
            cluster.disk(member).stall(ms(for_ms));
            match led {
                true => lease_onlookers::send_granter(cluster, member, for_ms),
                false => lease_onlookers::send_late_renewer(cluster, member, for_ms),
            }
            if cluster.plan().mode == Mode::SlowDisk {
                slow_disk::attend(cluster, member, for_ms).await;
            } else {
                pause(for_ms).await;
            }
            let book = cluster.book();
            if led && book.lock().leaders[1] != Some(member) {
                book.reach("elected while the leader's disk stalled");
            }
        }
        Fault::FsyncSlow { target, from_ms, to_ms, for_ms } => {
            let member = cluster.resolve(*target);
            let latency = ms(*from_ms)..ms(*to_ms);
            cluster.disk(member).set_faults(|faults| faults.sync_latency = latency);
            if cluster.plan().mode == Mode::SlowDisk {
                slow_disk::begins(cluster, member);
            }
            pause(*for_ms).await;
            cluster.mend_disk(member);
        }
        Fault::WriteError { target, down_ms } => {
            let member = cluster.resolve(*target);
            cluster.set_down_ms(member, *down_ms);
            cluster.disk(member).set_faults(|faults| faults.write_error_per_mille = 1000);
            pause(*down_ms).await;
            cluster.mend_disk(member);
        }
        Fault::FsyncError { target, down_ms } => {
            let member = cluster.resolve(*target);
            cluster.set_down_ms(member, *down_ms);
            cluster.disk(member).set_faults(|faults| faults.sync_error_per_mille = 1000);
            pause(*down_ms).await;
            cluster.mend_disk(member);
        }
        Fault::NoSpace { target, slack_bytes, for_ms } => {
            let member = cluster.resolve(*target);
            cluster.set_down_ms(member, *for_ms);
            let capacity = cluster.disk(member).used_bytes() + slack_bytes;
            cluster.disk(member).set_faults(|faults| faults.capacity_bytes = capacity);
            pause(*for_ms).await;
            cluster.mend_disk(member);
        }
        other => unreachable!("{other:?} is no fault of a disk"),
    }
}

async fn other(cluster: &Cluster, fault: &Fault) {
    match fault {
        Fault::ClockRate { target, per_mille, for_ms } => {
            let member = cluster.resolve(*target);
            cluster.clock(member).set_rate(per_mille * (TRUE_RATE / 1000));
            pause(*for_ms).await;
            usual_rate(cluster, member);
        }
        Fault::WallJump { target, by_ms } => {
            let clock = cluster.clock(cluster.resolve(*target));
            let by = ms(by_ms.unsigned_abs());
            if *by_ms > 0 { clock.jump_forward(by) } else { clock.jump_back(by) }
        }
        Fault::TransferLeader { to } => {
            let to = cluster.resolve(*to);
            let target = cluster.book().lock().id_of(to);
            let leader = cluster.resolve(Target::Leader);
            if let (Some(server), Some(target)) = (cluster.server(leader), target) {
                let moved = tokio::time::timeout(ms(10_000), server.move_leader(target)).await;
                cluster.book().line(format_args!("m{leader} hands over: {moved:?}"));
            }
        }
        other => unreachable!("{other:?} is of another kind"),
    }
}
