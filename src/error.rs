//! The failures that a caller of the server can meet, one variant for each of etcd's errors.
//!
//! The variants carry no text: codes and texts stand in one table, `api/status.rs`, where they
//! can be compared with a real etcd's. Source of the list: etcd's `api/v3rpc/rpctypes/error.go`.

use std::fmt;

/// A failure that is answered to a caller. Bugs panic, and broken disks end the process:
/// neither is an `Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    // --- refusals of a request for what it says; every replica reaches them alike ---
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidSortOption,
    /// An enum number that the API does not define; names the field.
    UnknownEnum(&'static str),
    RequestTooLarge,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    NoSpace,
    Corrupt,

    // --- membership ---
    MemberExists,
    PeerUrlExists,
    NotEnoughStartedMembers,
    MemberBadUrls,
    MemberNotFound,
    MemberNotLearner,
    LearnerNotReady,
    TooManyLearners,
    ClusterIdMismatch,
    UnhealthyCluster,
    NotSupportedForLearner,

    // --- auth ---
    RootUserNotExist,
    RootRoleNotExist,
    UserExists,
    UserNotFound,
    UserEmpty,
    RoleExists,
    RoleNotFound,
    RoleEmpty,
    AuthFailed,
    PermissionNotGiven,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    InvalidAuthToken,
    InvalidAuthManagement,
    AuthOldRevision,

    // --- the state of the cluster at this moment; the same request may succeed later ---
    NoLeader,
    NotLeader,
    LeaderChanged,
    NotCapable,
    Stopped,
    /// The outcome is unknown: the request may or may not be applied.
    Timeout,
    TimeoutLeaderFail,
    TimeoutConnectionLost,
    TimeoutWaitAppliedIndex,
    TooManyRequests,
    /// A value lies in a damaged part of this member's disk and is not repaired yet.
    Unreadable,
    /// A backup ended before its end: the state was replaced while it was read.
    BackupInterrupted,
    BadLeaderTransferee,
    Canceled,

    // --- versions ---
    WrongDowngradeFormat,
    InvalidDowngradeTarget,
    NoClusterVersion,
    DowngradeInProcess,
    NoInflightDowngrade,

    /// The call is not there yet; names it.
    Unimplemented(&'static str),
}

impl Error {
    /// Whether every replica that applies the same entry to the same state refuses it alike.
    ///
    /// Only such a failure may come out of apply: any other there is a bug, and the node stops
    /// before replicas diverge.
    pub fn is_deterministic(&self) -> bool {
        !matches!(
            self,
            Error::NoLeader
                | Error::NotLeader
                | Error::LeaderChanged
                | Error::Stopped
                | Error::Timeout
                | Error::TimeoutLeaderFail
                | Error::TimeoutConnectionLost
                | Error::TimeoutWaitAppliedIndex
                | Error::TooManyRequests
                | Error::UnhealthyCluster
                | Error::Unreadable
                | Error::BackupInterrupted
                | Error::Canceled
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}

/// The result of anything that can be refused.
pub type Result<T> = std::result::Result<T, Error>;
