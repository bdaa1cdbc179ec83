//! Carries out the faults that damage what is on a platter; [`super::rot`] knows where that may be.

use super::cluster::Cluster;
use super::{overwriters, values};
use crate::fault::{Action, Fault};
use crate::random::Stream;
use std::path::PathBuf;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Carries out one of them.
pub async fn carry_out(cluster: &Cluster, action: &Action) {
    match &action.fault {
        Fault::RunRot { target } => {
            let member = cluster.resolve(*target);
            let place = cluster.rot_checkpoint(member, &mut rot_stream(cluster, action));
            rots(cluster, member, place);
        }
        Fault::ValueRot { target, within_ms } => {
            value_rots(cluster, action, cluster.resolve(*target), *within_ms).await;
        }
        Fault::InstallRot { target, within_ms, down_ms } => {
            let member = cluster.resolve(*target);
            if let Some(down_ms) = *down_ms {
                checkpoints_rot(cluster, action, member, down_ms).await;
            }
            let mut stream = rot_stream(cluster, action);
            let place = cluster.rot_received(member, ms(*within_ms), &mut stream).await;
            if place.is_some() {
                cluster.book().reach("run damaged before it was loaded");
            }
            rots(cluster, member, place);
        }
        Fault::OfferRot { target, within_ms } => {
            let member = cluster.resolve(*target);
            let mut stream = rot_stream(cluster, action);
            let place = cluster.rot_asked_for(member, ms(*within_ms), &mut stream).await;
            if place.is_some() {
                cluster.book().reach("run damaged as it was asked for");
            }
            rots(cluster, member, place);
        }
        Fault::CheckpointRot { target, down_ms } => {
            checkpoints_rot(cluster, action, cluster.resolve(*target), *down_ms).await;
        }
        Fault::ReleasedRot { target, within_ms, down_ms } => {
            let member = cluster.resolve(*target);
            if cluster.log_released(member, ms(*within_ms)).await {
                cluster.book().reach("checkpoints lost behind a release");
            }
            checkpoints_rot(cluster, action, member, *down_ms).await;
        }
        Fault::MisdirectedWrite { target, down_ms } => {
            let member = cluster.resolve(*target);
            cluster.hold_down(member, true);
            let moved = cluster.misdirect(member, &mut rot_stream(cluster, action));
            if let Some(((from, source), (to, target))) = moved {
                let (from, to) = (from.display(), to.display());
                let text = format_args!("m{member}: {source} of {from} is at {target} of {to}");
                cluster.book().line(text);
                cluster.book().reach("write misdirected");
            }
            tokio::time::sleep(ms(*down_ms)).await;
            cluster.release(member);
        }
        Fault::BitRot { target, down_ms } => {
            let member = cluster.resolve(*target);
            cluster.hold_down(member, true);
            rots(cluster, member, cluster.rot(member, &mut rot_stream(cluster, action)));
            tokio::time::sleep(ms(*down_ms)).await;
            cluster.release(member);
        }
        other => unreachable!("{other:?} damages no platter"),
    }
}

async fn value_rots(cluster: &Cluster, action: &Action, member: usize, within_ms: u64) {
    let mut cold = values::cold_within(cluster, member, ms(within_ms)).await;
    let mut stream = rot_stream(cluster, action);
    let Some(struck) = cold.get(stream.below(cold.len().max(1) as u64) as usize) else { return };
    let struck = struck.location;
    rots(cluster, member, cluster.rot_value(member, struck, &mut stream));
    cold.retain(|value| value.location.run == struck.run);
    cold.sort_by_key(|value| value.location.offset.abs_diff(struck.offset));
    overwriters::send(cluster, cold.into_iter().map(|value| value.key).collect());
}

async fn checkpoints_rot(cluster: &Cluster, action: &Action, member: usize, down_ms: u64) {
    cluster.hold_down(member, true);
    for place in cluster.rot_checkpoints(member, &mut rot_stream(cluster, action)) {
        rots(cluster, member, Some(place));
    }
    tokio::time::sleep(ms(down_ms)).await;
    cluster.release(member);
}

fn rot_stream(cluster: &Cluster, action: &Action) -> Stream {
    Stream::new(cluster.plan().seed, &format!("nemesis/rot at {}", action.at_ms))
}

fn rots(cluster: &Cluster, member: usize, place: Option<(PathBuf, u64)>) {
    if let Some((path, offset)) = place {
        let path = path.display();
        cluster.book().line(format_args!("m{member} rots at {offset} of {path}"));
    }
}
