//! What a member answers when it is alone of three.

use crate::client::{bounded, get_request, kv, put, put_request, status, wait_writable};
use crate::program;
use process::Cluster;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Five seconds and two election timeouts, as etcd waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// The time limits are the server's, the rest is a busy machine's.
const SLACK: Duration = Duration::from_secs(4);
/// "At once" on a busy machine.
const SOON: Duration = Duration::from_secs(1);

/// Waits until the member knows no leader.
async fn without_leader(url: &str) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        if status(url).await.is_ok_and(|status| status.leader == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{url} still believes in a leader");
}

/// Requires code and text, and that the answer took between these times.
fn expect<T: std::fmt::Debug>(
    what: &str,
    answer: Result<T, Status>,
    texts: &[&str],
    took: Duration,
    between: std::ops::Range<Duration>,
) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::Unavailable, "{what}: {status:?}");
    assert!(texts.contains(&status.message()), "{what}: {status:?}");
    assert!(between.contains(&took), "{what} took {took:?}, not {between:?}");
}

#[tokio::test]
async fn a_member_alone_refuses_and_says_why() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let urls = cluster.endpoints();
    let url = urls[0].clone();
    assert!(wait_writable(&url, SLACK + REQUEST_TIMEOUT).await, "a fresh cluster takes writes");
    put(&url, "kept", "value").await.expect("a put with all members");
    cluster.kill(1).expect("a member dies");
    cluster.kill(2).expect("another dies");
    without_leader(&url).await;

    let begin = Instant::now();
    let read = bounded(kv(&url).range(get_request("kept", true))).await;
    assert_eq!(read.expect("a serializable read goes on").kvs.len(), 1);
    let errors = status(&url).await.expect("the status goes on").errors;
    assert!(errors.iter().any(|text| text == "etcdserver: no leader"), "{errors:?}");
    assert!(begin.elapsed() < 2 * SOON, "what needs no quorum does not wait");

    let begin = Instant::now();
    let mut request = tonic::Request::new(put_request("key", "value"));
    request.metadata_mut().insert("hasleader", "true".parse().expect("a metadata value"));
    let answer = bounded(kv(&url).put(request)).await;
    let at_once = Duration::ZERO..SOON;
    expect("hasleader", answer, &["etcdserver: no leader"], begin.elapsed(), at_once);

    let mut reader = kv(&url);
    let begin = Instant::now();
    let waited = REQUEST_TIMEOUT - SOON..REQUEST_TIMEOUT + SLACK;
    let (written, read) = futures::join!(
        put(&url, "key", "value"),
        bounded(reader.range(get_request("kept", false)))
    );
    let took = begin.elapsed();
    expect("a put", written, &["etcdserver: no leader"], took, waited.clone());
    let texts = ["etcdserver: no leader", "etcdserver: request timed out"];
    expect("a linearizable read", read, &texts, took, waited);

    cluster.spawn(1).expect("a member starts again");
    assert!(wait_writable(&url, REQUEST_TIMEOUT + SLACK).await, "two of three take writes");
}
