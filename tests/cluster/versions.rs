//! Taking a cluster down one minor version, and giving that up.

use crate::client::{bounded, channel, status, wait_writable};
use crate::program;
use detcd::pb::etcdserverpb as pb;
use pb::downgrade_request::DowngradeAction;
use pb::maintenance_client::MaintenanceClient;
use process::Cluster;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(30);

async fn ask(url: &str, action: DowngradeAction, version: &str) -> Result<String, Status> {
    let request = pb::DowngradeRequest { action: action.into(), version: version.to_string() };
    let mut client = MaintenanceClient::new(channel(url));
    bounded(client.downgrade(request)).await.map(|answer| answer.version)
}

/// Waits until a member says that the state is stored in this version.
async fn wait_for(url: &str, version: &str) -> pb::StatusResponse {
    let begin = Instant::now();
    loop {
        let said = status(url).await.expect("it is up");
        if said.storage_version == version {
            return said;
        }
        assert!(begin.elapsed() < LIMIT, "not {version} but {}", said.storage_version);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_downgrade_is_checked_begun_and_given_up() {
    let cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let urls = cluster.endpoints();
    let (one, other) = (&urls[0], &urls[1]);
    assert!(wait_writable(one, LIMIT).await, "a fresh cluster takes writes");
    let refused = |answer: Result<String, Status>, code: Code, text: &str| {
        let status = answer.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text));
    };
    let (validate, enable, cancel) =
        (DowngradeAction::Validate, DowngradeAction::Enable, DowngradeAction::Cancel);
    wait_for(one, "3.6.0").await;
    assert_eq!(ask(one, validate, "3.5").await.expect("possible"), "3.6");
    assert_eq!(ask(one, validate, "3.5.0").await.expect("possible"), "3.6");
    let text = "etcdserver: invalid downgrade target version";
    refused(ask(one, validate, "3.4").await, Code::InvalidArgument, text);
    let text = "etcdserver: wrong downgrade target version format";
    refused(ask(one, enable, "three").await, Code::InvalidArgument, text);
    let none = "etcdserver: no inflight downgrade job";
    refused(ask(one, cancel, "").await, Code::FailedPrecondition, none);

    assert_eq!(ask(one, enable, "3.5").await.expect("possible"), "3.6");
    let info = wait_for(other, "3.5.0").await.downgrade_info.expect("it is always there");
    assert_eq!((info.enabled, info.target_version.as_str()), (true, "3.5.0"));
    let text = "etcdserver: cluster has a downgrade job in progress";
    refused(ask(other, validate, "3.4").await, Code::FailedPrecondition, text);

    ask(other, cancel, "").await.expect("it is under way");
    let info = wait_for(one, "3.6.0").await.downgrade_info.expect("it is always there");
    assert_eq!((info.enabled, info.target_version.as_str()), (false, ""));
}
