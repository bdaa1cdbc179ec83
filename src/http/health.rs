//! What healthy means, check by check; the names are those of etcd's probes.

use crate::api::status::to_status;
use crate::metrics::Metrics;
use crate::pb::etcdserverpb::{AlarmType, RangeRequest};
use crate::server::handle::{Caller, Handle};

/// One check of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

/// The probe and the checks that a path names: all of a probe, or one of them.
pub fn checks_at(path: &str) -> Option<(&'static str, &'static [Check])> {
    let (probe, single) = match path.split_once('/') {
        Some((probe, single)) => (probe, Some(single)),
        None => (path, None),
    };
    let (kind, checks) = match probe {
        "livez" => ("livez", LIVEZ),
        "readyz" => ("readyz", READYZ),
        _ => return None,
    };
    let Some(single) = single else { return Some((kind, checks)) };
    let at = checks.iter().position(|check| check.name() == single)?;
    Some((kind, &checks[at..=at]))
}

impl Check {
    pub fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    /// What is wrong, if anything.
    pub async fn run(self, handle: &Handle) -> Option<String> {
        match self {
            Check::DataCorruption => {
                let corrupt = handle.shared().state().alarms.is_raised(AlarmType::Corrupt);
                if !handle.shared().is_trusted() {
                    return Some("the state of this member is not trusted".to_string());
                }
                corrupt.then(|| "alarm activated: CORRUPT".to_string())
            }
            Check::SerializableRead => read(handle, true).await,
            Check::LinearizableRead => read(handle, false).await,
            Check::NonLearner => {
                let learner = handle.view().is_learner;
                learner.then(|| "not supported for learner".to_string())
            }
        }
    }
}

/// Reads something, and says why that failed.
async fn read(handle: &Handle, serializable: bool) -> Option<String> {
    let key = bytes::Bytes::from_static(b"health");
    let request =
        RangeRequest { key, limit: 1, keys_only: true, serializable, ..Default::default() };
    let answer = handle.range(&Caller::default(), request).await;
    answer.err().map(|error| to_status(error).message().to_string())
}

/// The one answer of `/health`: the first thing that is wrong.
pub async fn sick(handle: &Handle, excluded: &[String], serializable: bool) -> Option<String> {
    let alarms = handle.shared().state().alarms.list(AlarmType::None);
    for alarm in alarms {
        let name = alarm.alarm().as_str_name();
        if !excluded.iter().any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && !handle.has_leader() {
        return Some("RAFT NO LEADER".to_string());
    }
    read(handle, serializable).await.map(|error| format!("RANGE ERROR:{error}"))
}

/// Counts the result of one check.
pub fn record(metrics: &Metrics, kind: &str, name: &str, healthy: bool) {
    metrics.healthcheck.with_label_values(&[kind, name]).set(i64::from(healthy));
    let status = if healthy { "success" } else { "error" };
    metrics.healthchecks_total.with_label_values(&[kind, name, status]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_all_checks_of_a_probe_or_one() {
        assert_eq!(checks_at("livez"), Some(("livez", LIVEZ)));
        assert_eq!(checks_at("readyz"), Some(("readyz", READYZ)));
        let single = checks_at("readyz/non_learner").expect("it is there");
        assert_eq!(single, ("readyz", &[Check::NonLearner][..]));
        for path in ["livez/non_learner", "livez/", "health", "", "readyz/x"] {
            assert_eq!(checks_at(path), None, "{path:?}");
        }
    }
}
