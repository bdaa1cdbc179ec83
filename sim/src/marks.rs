//! Sometimes-marks: named states that are worth reaching, and how often a sweep reached them.
//!
//! A simulator that never gets somewhere proves nothing about that place. The everyday sweep must
//! reach everything in [`EVERYDAY`]; a long one must reach all.

use std::collections::BTreeMap;

/// All marks, each with what it means.
pub const ALL: [(&str, &str); 82] = [
    ("leader changed", "a second term had a leader"),
    ("two leaders at once", "a leader of an old term had not heard of the leader of a later one"),
    ("quorum lost", "a majority of the members was down at once"),
    ("all down", "every member was down at once"),
    ("leader crashed", "the power of a leader failed"),
    ("leader found gone", "a follower found that nobody listens where its leader was"),
    ("crash soon after election", "a leader crashed within 100 ms of its election"),
    ("crash with a write in flight", "the power failed while the log was being written"),
    ("crash at a disk operation", "the power failed right after a chosen disk operation"),
    ("recovered with entries", "a member came up with a log that was not empty"),
    ("recovered uncommitted entries", "a member came up with entries that were not committed"),
    ("log truncated", "a member replaced entries that were durable on it"),
    ("stopped by its disk", "a member stopped because its disk failed"),
    ("refused to start", "a member found its log damaged and refused to start"),
    ("slow sync reported", "a write to the log was outstanding for an election timeout"),
    ("elected while the leader's disk stalled", "leadership moved away from a stalled disk"),
    ("leader replaced while stranded", "a leader that was cut off served on while another led"),
    ("leader replaced while deaf", "a leader that had handed over heard late of its successor"),
    ("unknown write applied", "a write whose outcome was unknown turned out to be applied"),
    ("unknown write lost", "a write whose outcome was unknown was never applied"),
    ("stale serializable read", "a serializable read saw an older state than was acknowledged"),
    ("swap refused", "a compare-and-swap found that somebody else had been faster"),
    ("read of an old revision", "a read asked for a revision that was no longer the newest"),
    ("compacted", "a compaction was acknowledged"),
    ("refused as compacted", "a read asked for a revision that was compacted"),
    ("refused without a leader", "a request was refused because no leader was known"),
    ("refused without room", "a write was refused for a quota, an alarm or a full disk"),
    ("refused as too many", "a member had as many requests waiting as it takes"),
    ("connections reset", "connections between members, and with clients, were reset"),
    ("alarm raised", "a member raised its NOSPACE alarm"),
    ("alarm taken back", "a member took its alarm back because there was room again"),
    ("alarm taken back by hand", "the operator took an alarm back"),
    ("disk full", "a member saw that its disk was full"),
    ("room on a full disk again", "a member saw room on a disk that had been full"),
    ("automatic compaction", "a leader compacted without being asked"),
    ("member joined", "a member that was added at run time had applied its own addition"),
    ("learner promoted", "a learner became a voter"),
    ("member removed", "a voter was removed"),
    ("leader removed", "the member that led was removed"),
    ("member replaced", "a member was lost with its disk, and another one took its place"),
    ("removed member stopped", "a member that was removed heard of it and stopped"),
    ("watcher compacted", "a watcher was canceled because a compaction had overtaken it"),
    ("watcher canceled beside another", "one of two watchers of a stream was canceled"),
    ("lease expired", "a lease ended because its time was up"),
    ("lease revoked", "a lease ended because somebody revoked it"),
    ("lease granted again", "an id was granted again after its lease had ended"),
    ("lease carried over to another leader", "a lease expired under a later leader"),
    ("lease gone under its holder", "a client was told that its lease was gone"),
    ("lock taken", "a client was told that it holds the lock"),
    ("fenced out", "a holder found that its lock had been lost"),
    ("election won", "a client was told that it leads"),
    ("segments rolled", "a disk held more than one segment of the log"),
    ("checkpoint taken", "a checkpoint was durable"),
    ("run rewritten", "a run that was mostly dead was written anew"),
    ("runs merged", "small runs were written as one"),
    ("recovered from a checkpoint", "a member came up with the state of a checkpoint"),
    ("snapshot installed", "a member took over the state of another"),
    (
        "install resumed after a break",
        "a state that was on its way went on where it had broken off",
    ),
    ("crash during an install", "a member ended while another's state was on its way to it"),
    ("second snapshot during an install", "a leader offered its state while one was on its way"),
    (
        "value damaged before it was written down",
        "a value in memory changed just before the checkpoint that would write it down",
    ),
    ("corruption found", "a member found that its state is damaged"),
    ("corruption healed", "a member that was quarantined was trusted again"),
    ("corruption of a leader", "a member found that its state is damaged while it led"),
    ("refused in quarantine", "a member refused a client because its state is damaged"),
    ("log released", "a disk no longer held the first segment of the log"),
    ("cold value read", "a member read a value from a run"),
    ("fell back", "a member started from an older checkpoint, for the newest was damaged"),
    ("came up without a state", "a member started without a checkpoint that could be loaded"),
    (
        "checkpoints lost behind a release",
        "a member lost its checkpoints when its log had just been released to the last segment",
    ),
    (
        "run damaged before it was loaded",
        "a run that another member had sent rotted before its state was loaded",
    ),
    (
        "run damaged as it was asked for",
        "a leader was asked for a state of which a run was damaged",
    ),
    ("run damaged", "a member met a part of a run that does not verify"),
    ("scrub found damage", "the scrub met a run or a manifest that does not verify"),
    ("write at rest timed", "when all was at rest, a write through a follower was timed"),
    ("forced into a new cluster", "a member went on as a cluster of its own"),
    ("forced new cluster compared", "what it served was compared with what it had, to the end"),
    ("old member at a new cluster's door", "one that was left out for good came back"),
    ("write misdirected", "a write to a log or a checkpoint landed in another place"),
    ("value repaired", "a member got a value of a damaged run back from another"),
    ("run repaired", "a whole run took the place of a damaged one"),
    ("backup taken", "a backup was read to its end"),
];

/// What the everyday sweep must reach.
pub const EVERYDAY: [&str; 44] = [
    "leader changed",
    "two leaders at once",
    "quorum lost",
    "all down",
    "leader crashed",
    "leader found gone",
    "crash soon after election",
    "recovered with entries",
    "recovered uncommitted entries",
    "log truncated",
    "stopped by its disk",
    "leader replaced while stranded",
    "unknown write applied",
    "unknown write lost",
    "stale serializable read",
    "swap refused",
    "refused as compacted",
    "refused without room",
    "refused as too many",
    "connections reset",
    "alarm raised",
    "alarm taken back",
    "disk full",
    "automatic compaction",
    "watcher compacted",
    "watcher canceled beside another",
    "lease expired",
    "lease revoked",
    "lease granted again",
    "lease carried over to another leader",
    "lease gone under its holder",
    "lock taken",
    "election won",
    "log released",
    "install resumed after a break",
    "write at rest timed",
    "forced into a new cluster",
    "forced new cluster compared",
    "old member at a new cluster's door",
    "write misdirected",
    "value damaged before it was written down",
    "checkpoints lost behind a release",
    "cold value read",
    "backup taken",
];

/// How often each mark was reached, by runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<&'static str, u64>);

impl Marks {
    /// Says that `mark` was reached; once or often is the same within a run.
    pub fn reach(&mut self, mark: &'static str) {
        assert!(ALL.iter().any(|(name, _)| *name == mark), "no such mark: {mark}");
        self.0.insert(mark, 1);
    }

    pub fn count(&self, mark: &str) -> u64 {
        self.0.get(mark).copied().unwrap_or(0)
    }

    /// Adds the marks of another run.
    pub fn add(&mut self, other: &Marks) {
        for (mark, count) in &other.0 {
            *self.0.entry(mark).or_default() += count;
        }
    }

    /// Those of `wanted` that were not reached.
    pub fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        wanted.iter().copied().filter(|mark| self.count(mark) == 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_count_runs_and_name_what_is_missing() {
        let mut run = Marks::default();
        run.reach("all down");
        run.reach("all down");
        let mut total = Marks::default();
        total.add(&run);
        total.add(&run);
        assert_eq!(total.count("all down"), 2);
        assert_eq!(total.missing(&["all down", "compacted"]), ["compacted"]);
    }

    #[test]
    fn the_everyday_marks_exist() {
        assert!(EVERYDAY.iter().all(|mark| ALL.iter().any(|(name, _)| name == mark)));
    }
}
