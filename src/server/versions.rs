//! The version of the cluster: the least of its members', and how an operator lowers it.
//!
//! The members tell each other their versions (`prober`); the leader proposes what follows from
//! them (etcd, `etcdserver/version/monitor.go`).

use super::handle::{Caller, Handle};
use crate::apply::request::Op;
use crate::error::{Error, Result};
use crate::membership::Members;
use crate::metrics::{CLUSTER_VERSION, ETCD_VERSION};
use crate::pb::etcdserverpb::downgrade_request::DowngradeAction;
use crate::pb::etcdserverpb::{DowngradeRequest, DowngradeResponse};
use crate::pb::raftpb::{ClusterVersion, Downgrade};
use std::fmt;
use std::time::Duration;

/// How often the leader looks whether the version of the cluster has to change.
const INTERVAL: Duration = Duration::from_secs(4);

/// A version without its patch: what members must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    /// Reads `3.6` or `3.6.5`.
    fn parse(text: &str) -> Option<Version> {
        let numbers: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers?[..] {
            [major, minor] | [major, minor, _] => Some(Version { major, minor }),
            _ => None,
        }
    }

    /// The only version to which a cluster of this one may go down.
    fn one_lower(self) -> Option<Version> {
        self.minor.checked_sub(1).map(|minor| Version { minor, ..self })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version in which the state is stored, in etcd's terms: it goes with that of the cluster.
pub fn storage(members: &Members) -> &str {
    match members.cluster_version() {
        "" => CLUSTER_VERSION,
        version => version,
    }
}

/// What the version of the cluster should be: the target of a downgrade, else the least version
/// of the members once all of them have said theirs.
fn wanted(current: Version, target: Option<Version>, versions: &[Option<Version>]) -> Version {
    if let Some(target) = target {
        return target.min(current);
    }
    let known: Option<Vec<Version>> = versions.iter().copied().collect();
    known.and_then(|known| known.into_iter().min()).unwrap_or(current).max(current)
}

/// Keeps the version of the cluster right while this member leads; runs until the server stops.
pub async fn run(handle: Handle) {
    let shared = handle.shared().clone();
    while shared.stop_reason().is_none() {
        shared.env.clock.sleep(INTERVAL).await;
        if !handle.view().is_leader {
            continue;
        }
        let (current, wanted) = {
            let state = shared.state();
            let said = shared.versions.lock().expect("no holder panics and goes on");
            let version = |id| match id == shared.member_id {
                true => Version::parse(ETCD_VERSION),
                false => said.get(&id).and_then(|version| Version::parse(version)),
            };
            let versions: Vec<_> = state.members.iter().map(|member| version(member.id)).collect();
            let target = state.members.downgrade_target().and_then(Version::parse);
            // Undecided: `publish` decides first.
            let Some(current) = Version::parse(state.members.cluster_version()) else { continue };
            (current, wanted(current, target, &versions))
        };
        if wanted != current {
            tracing::info!(%current, %wanted, "the version of the cluster changes");
            let op = Op::ClusterVersion(ClusterVersion { version: format!("{wanted}.0") });
            // The next look repeats it.
            let _again = handle.propose(&Caller::default(), op).await;
        }
    }
}

impl Handle {
    /// The version in which the state is stored, in etcd's terms.
    pub fn storage_version(&self) -> String {
        storage(&self.shared().state().members).to_string()
    }

    /// Checks, begins or gives up taking the cluster down to a lower version.
    pub async fn downgrade(
        &self,
        caller: &Caller,
        request: &DowngradeRequest,
    ) -> Result<DowngradeResponse> {
        let action = DowngradeAction::try_from(request.action)
            .map_err(|_| Error::UnknownEnum("downgrade action"))?;
        let target = match action {
            DowngradeAction::Cancel => None,
            DowngradeAction::Validate | DowngradeAction::Enable => {
                let target = Version::parse(&request.version);
                Some(target.ok_or(Error::WrongDowngradeFormat)?)
            }
        };
        self.linearizable_barrier().await?;
        let (current, is_under_way) = {
            let state = self.shared().state();
            let current = Version::parse(state.members.cluster_version());
            let is_under_way = state.members.downgrade_target().is_some();
            (current.ok_or(Error::NoClusterVersion)?, is_under_way)
        };
        check(current, target, is_under_way)?;
        if action != DowngradeAction::Validate {
            let downgrade = Downgrade {
                enabled: target.is_some(),
                target_version: target.map(|target| format!("{target}.0")).unwrap_or_default(),
            };
            self.propose(caller, Op::Downgrade(downgrade)).await?;
        }
        let header = Some(self.header());
        Ok(DowngradeResponse { header, version: current.to_string() })
    }
}

/// Whether a downgrade to `target`, or giving one up, is possible.
fn check(current: Version, target: Option<Version>, is_under_way: bool) -> Result<()> {
    match target {
        None if !is_under_way => Err(Error::NoInflightDowngrade),
        None => Ok(()),
        Some(target) if current.one_lower() != Some(target) => Err(Error::InvalidDowngradeTarget),
        Some(_) if is_under_way => Err(Error::DowngradeInProcess),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).expect("a version")
    }

    #[test]
    fn versions_have_two_numbers_or_three() {
        assert_eq!(version("3.6"), version("3.6.5"));
        assert!(version("3.10") > version("3.6"));
        for other in ["", "3", "3.", "v3.5", "3.5.0.1", "3.5.0-rc.0"] {
            assert_eq!(Version::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_cluster_speaks_the_least_version_and_never_less_than_before_unless_told() {
        let (old, new) = (version("3.5"), version("3.6"));
        assert_eq!(wanted(old, None, &[Some(new), Some(new)]), new);
        assert_eq!(wanted(old, None, &[Some(new), Some(old)]), old);
        assert_eq!(wanted(old, None, &[Some(new), None]), old);
        assert_eq!(wanted(new, None, &[Some(new), Some(old)]), new);
        assert_eq!(wanted(new, Some(old), &[Some(new)]), old);
        assert_eq!(wanted(old, Some(old), &[Some(new)]), old);
    }

    #[test]
    fn a_downgrade_goes_one_minor_down_and_one_at_a_time() {
        let now = version("3.6");
        assert_eq!(check(now, Some(version("3.5")), false), Ok(()));
        assert_eq!(check(now, Some(version("3.5")), true), Err(Error::DowngradeInProcess));
        for far in ["3.4", "3.6", "3.7", "2.5"] {
            let checked = check(now, Some(version(far)), true);
            assert_eq!(checked, Err(Error::InvalidDowngradeTarget), "{far}");
        }
        assert_eq!(check(now, None, true), Ok(()));
        assert_eq!(check(now, None, false), Err(Error::NoInflightDowngrade));
    }
}
