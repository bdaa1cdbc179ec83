//! What a client is told of a failure: one table of gRPC codes and etcd's exact texts.
//!
//! Clients compare these texts byte for byte (the Go client turns a text back into its error
//! value, Patroni and jetcd match substrings), so a text is part of the protocol. Source of the
//! list: etcd's `api/v3rpc/rpctypes/error.go` and the map in `server/.../v3rpc/util.go`.
//!
//! Two of etcd's errors leave it with the code Unknown, because its map holds the client's value
//! for them and not the status: "too many requests" (measured on 3.5.30) and "not enough started
//! members". The Go client finds the intended code by the text, so we answer as etcd does.

use crate::error::Error;
use tonic::Code::{
    Cancelled, DataLoss, FailedPrecondition, InvalidArgument, NotFound, OutOfRange,
    PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unknown,
};
use tonic::{Code, Status};

/// The code and the text after `etcdserver: ` of each failure that names nothing further.
const TABLE: [(Error, Code, &str); 62] = [
    (Error::EmptyKey, InvalidArgument, "key is not provided"),
    (Error::KeyNotFound, InvalidArgument, "key not found"),
    (Error::ValueProvided, InvalidArgument, "value is provided"),
    (Error::LeaseProvided, InvalidArgument, "lease is provided"),
    (Error::TooManyOps, InvalidArgument, "too many operations in txn request"),
    (Error::DuplicateKey, InvalidArgument, "duplicate key given in txn request"),
    (Error::InvalidSortOption, InvalidArgument, "invalid sort option"),
    (Error::RequestTooLarge, InvalidArgument, "request is too large"),
    (Error::Compacted, OutOfRange, "mvcc: required revision has been compacted"),
    (Error::FutureRevision, OutOfRange, "mvcc: required revision is a future revision"),
    (Error::LeaseNotFound, NotFound, "requested lease not found"),
    (Error::LeaseExists, FailedPrecondition, "lease already exists"),
    (Error::LeaseTtlTooLarge, OutOfRange, "too large lease TTL"),
    (Error::NoSpace, ResourceExhausted, "mvcc: database space exceeded"),
    (Error::Corrupt, DataLoss, "corrupt cluster"),
    (Error::Unreadable, DataLoss, "corrupt data on the disk of this member, not repaired yet"),
    (Error::MemberExists, FailedPrecondition, "member ID already exist"),
    (Error::PeerUrlExists, FailedPrecondition, "Peer URLs already exists"),
    (
        Error::NotEnoughStartedMembers,
        Unknown,
        "re-configuration failed due to not enough started members",
    ),
    (Error::MemberBadUrls, InvalidArgument, "given member URLs are invalid"),
    (Error::MemberNotFound, NotFound, "member not found"),
    (Error::MemberNotLearner, FailedPrecondition, "can only promote a learner member"),
    (
        Error::LearnerNotReady,
        FailedPrecondition,
        "can only promote a learner member which is in sync with leader",
    ),
    (Error::TooManyLearners, FailedPrecondition, "too many learner members in cluster"),
    (Error::ClusterIdMismatch, FailedPrecondition, "cluster ID mismatch"),
    (Error::UnhealthyCluster, Unavailable, "unhealthy cluster"),
    (Error::NotSupportedForLearner, FailedPrecondition, "rpc not supported for learner"),
    (Error::WrongDowngradeFormat, InvalidArgument, "wrong downgrade target version format"),
    (Error::InvalidDowngradeTarget, InvalidArgument, "invalid downgrade target version"),
    (Error::NoClusterVersion, FailedPrecondition, "cluster version not found during downgrade"),
    (Error::DowngradeInProcess, FailedPrecondition, "cluster has a downgrade job in progress"),
    (Error::NoInflightDowngrade, FailedPrecondition, "no inflight downgrade job"),
    (Error::RootUserNotExist, FailedPrecondition, "root user does not exist"),
    (Error::RootRoleNotExist, FailedPrecondition, "root user does not have root role"),
    (Error::UserExists, FailedPrecondition, "user name already exists"),
    (Error::UserNotFound, FailedPrecondition, "user name not found"),
    (Error::UserEmpty, InvalidArgument, "user name is empty"),
    (Error::RoleExists, FailedPrecondition, "role name already exists"),
    (Error::RoleNotFound, FailedPrecondition, "role name not found"),
    (Error::RoleEmpty, InvalidArgument, "role name is empty"),
    (Error::AuthFailed, InvalidArgument, "authentication failed, invalid user ID or password"),
    (Error::PermissionNotGiven, InvalidArgument, "permission not given"),
    (Error::PermissionDenied, PermissionDenied, "permission denied"),
    (Error::RoleNotGranted, FailedPrecondition, "role is not granted to the user"),
    (Error::PermissionNotGranted, FailedPrecondition, "permission is not granted to the role"),
    (Error::AuthNotEnabled, FailedPrecondition, "authentication is not enabled"),
    (Error::InvalidAuthToken, Unauthenticated, "invalid auth token"),
    (Error::InvalidAuthManagement, InvalidArgument, "invalid auth management"),
    (Error::AuthOldRevision, InvalidArgument, "revision of auth store is old"),
    (Error::NoLeader, Unavailable, "no leader"),
    (Error::NotLeader, FailedPrecondition, "not leader"),
    (Error::LeaderChanged, Unavailable, "leader changed"),
    (Error::NotCapable, FailedPrecondition, "not capable"),
    (Error::Stopped, Unavailable, "server stopped"),
    (Error::Timeout, Unavailable, "request timed out"),
    (
        Error::TimeoutLeaderFail,
        Unavailable,
        "request timed out, possibly due to previous leader failure",
    ),
    (
        Error::TimeoutConnectionLost,
        Unavailable,
        "request timed out, possibly due to connection lost",
    ),
    (
        Error::TimeoutWaitAppliedIndex,
        Unavailable,
        "request timed out, waiting for the applied index took too long",
    ),
    (Error::TooManyRequests, Unknown, "too many requests"),
    (Error::BackupInterrupted, Unavailable, "the state was replaced while it was read, try again"),
    (Error::BadLeaderTransferee, FailedPrecondition, "bad leader transferee"),
    (Error::Canceled, Cancelled, "request canceled"),
];

/// The answer to a caller whose request failed.
pub fn to_status(error: Error) -> Status {
    match error {
        Error::UnknownEnum(field) => {
            Status::new(InvalidArgument, format!("etcdserver: unknown value of {field}"))
        }
        Error::Unimplemented(call) => {
            Status::new(Code::Unimplemented, format!("{call} is not there yet"))
        }
        error => {
            let row = TABLE.iter().find(|(known, _, _)| *known == error);
            let (_, code, text) = row.expect("a test compares the table with the enum");
            Status::new(*code, format!("etcdserver: {text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The variants as `error.rs` spells them, so that a variant without a row is found.
    fn variants() -> BTreeSet<String> {
        let source = include_str!("../error.rs");
        let body = source.split("pub enum Error {").nth(1).expect("the enum is there");
        let body = body.split("\n}").next().expect("the enum ends");
        let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        lines
            .filter_map(|line| line.strip_suffix(','))
            .map(|line| line.split('(').next().expect("split gives one part").to_string())
            .collect()
    }

    #[test]
    fn every_failure_has_exactly_one_answer() {
        let mut rows: Vec<String> = TABLE.iter().map(|(e, _, _)| format!("{e:?}")).collect();
        rows.extend(["UnknownEnum".to_string(), "Unimplemented".to_string()]);
        let set: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(set.len(), rows.len(), "a failure stands twice in the table");
        assert_eq!(set, variants());
    }

    #[test]
    fn texts_are_distinct_and_so_reversible() {
        let texts: BTreeSet<&str> = TABLE.iter().map(|(_, _, text)| *text).collect();
        assert_eq!(texts.len(), TABLE.len());
    }

    /// Measured on etcd 3.5.30, call by call.
    #[test]
    fn answers_equal_those_measured() {
        let measured = [
            (Error::EmptyKey, 3, "etcdserver: key is not provided"),
            (Error::KeyNotFound, 3, "etcdserver: key not found"),
            (Error::ValueProvided, 3, "etcdserver: value is provided"),
            (Error::LeaseProvided, 3, "etcdserver: lease is provided"),
            (Error::TooManyOps, 3, "etcdserver: too many operations in txn request"),
            (Error::DuplicateKey, 3, "etcdserver: duplicate key given in txn request"),
            (Error::RequestTooLarge, 3, "etcdserver: request is too large"),
            (Error::Compacted, 11, "etcdserver: mvcc: required revision has been compacted"),
            (Error::FutureRevision, 11, "etcdserver: mvcc: required revision is a future revision"),
            (Error::LeaseNotFound, 5, "etcdserver: requested lease not found"),
            (Error::LeaseExists, 9, "etcdserver: lease already exists"),
            (Error::LeaseTtlTooLarge, 11, "etcdserver: too large lease TTL"),
            (Error::NoSpace, 8, "etcdserver: mvcc: database space exceeded"),
            (Error::MemberNotFound, 5, "etcdserver: member not found"),
            (Error::MemberBadUrls, 3, "etcdserver: given member URLs are invalid"),
            (Error::BadLeaderTransferee, 9, "etcdserver: bad leader transferee"),
            (Error::RootUserNotExist, 9, "etcdserver: root user does not exist"),
            (Error::AuthNotEnabled, 9, "etcdserver: authentication is not enabled"),
            (Error::UserEmpty, 3, "etcdserver: user name is empty"),
            (Error::UserNotFound, 9, "etcdserver: user name not found"),
            (Error::RoleEmpty, 3, "etcdserver: role name is empty"),
            (Error::RoleNotFound, 9, "etcdserver: role name not found"),
            (Error::NoLeader, 14, "etcdserver: no leader"),
            (Error::Timeout, 14, "etcdserver: request timed out"),
            (Error::TooManyRequests, 2, "etcdserver: too many requests"),
        ];
        for (error, code, text) in measured {
            let status = to_status(error);
            assert_eq!((status.code() as i32, status.message()), (code, text));
        }
    }

    #[test]
    fn a_missing_call_is_unimplemented_so_that_clients_fall_back() {
        assert_eq!(to_status(Error::Unimplemented("MoveLeader")).code(), Code::Unimplemented);
    }
}
