//! Members come and go while clients are at work: what the clients saw must be linearizable, and
//! who does not belong to the cluster any more must say so and end.

use crate::client::{bounded, channel, kv, leader, put, wait_writable};
use crate::program;
use detcd::pb::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use process::Cluster;
use sim::checker::linearizability::{Ruling, check};
use sim::history::{History, Operation, Outcome};
use sim::model::{Range, Request, Span};
use sim::options::{Mode, Workload};
use sim::wire;
use sim::workload::Generator;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// A change, a start or an end takes no longer than this on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// How long a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CLIENTS: u64 = 4;

/// What the clients share: whom to ask, and what they saw.
struct Load {
    begin: Instant,
    urls: Mutex<Vec<String>>,
    history: Mutex<History>,
    is_over: Mutex<bool>,
}

impl Load {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("a test is short")
    }

    /// Asks one member once and enters what came of it.
    async fn ask(&self, client: u64, member: usize, request: Request) -> Outcome {
        let url = self.urls.lock().expect("no client panics")[member].clone();
        let called = self.now();
        let mut caller = kv(&url);
        let call = wire::send(&mut caller, &request);
        let outcome = match tokio::time::timeout(ANSWER_MAX, call).await {
            Ok(Ok(reply)) => Outcome::Done(reply),
            Ok(Err(status)) => match wire::failure(&status) {
                // On a real network a connection that breaks may have carried the request.
                Outcome::Failed(text) if !text.starts_with("etcdserver") => Outcome::Unknown(text),
                outcome => outcome,
            },
            Err(_) => Outcome::Unknown("the client gave up".to_string()),
        };
        let returned = self.now();
        let known = outcome.clone();
        let operation = Operation { client, member, request, called, returned, outcome: known };
        self.history.lock().expect("no client panics").push(operation);
        outcome
    }
}

/// One client in a closed loop over the members of the moment.
async fn client(load: Arc<Load>, client: u64) {
    let mut workload = Workload::draw(7, Mode::Safety);
    workload.keys = 5;
    workload.weights.compact = 0;
    let mut generator = Generator::new(7, client, &workload);
    let mut number = 0;
    while !*load.is_over.lock().expect("no client panics") {
        let members = load.urls.lock().expect("no client panics").len();
        let request = generator.request();
        number += 1;
        if let Outcome::Done(reply) = load.ask(client, number % members, request.clone()).await {
            generator.learn(&request, &reply);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn members_of(url: &str) -> ClusterClient<tonic::transport::Channel> {
    ClusterClient::new(channel(url))
}

/// Adds a member; one that was connected for too short a time makes the others wait.
async fn add(url: &str, peer_url: &str, is_learner: bool) -> u64 {
    let begin = Instant::now();
    loop {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_string()], is_learner };
        match bounded(members_of(url).member_add(request)).await {
            Ok(added) => return added.member.expect("the member that was added").id,
            Err(status) if begin.elapsed() < SOON => {
                assert_eq!(status.message(), "etcdserver: unhealthy cluster");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(status) => panic!("{peer_url} can't be added: {status:?}"),
        }
    }
}

async fn promote(url: &str, id: u64) {
    let begin = Instant::now();
    loop {
        let request = pb::MemberPromoteRequest { id };
        match bounded(members_of(url).member_promote(request)).await {
            Ok(_) => return,
            Err(status) => {
                assert!(begin.elapsed() < SOON, "{id:x} can't be promoted: {status:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Removes a member; asked again until nobody has been connected for too short a time.
async fn remove(url: &str, id: u64) {
    let begin = Instant::now();
    loop {
        let request = pb::MemberRemoveRequest { id };
        match bounded(members_of(url).member_remove(request)).await {
            Ok(_) => return,
            // The answer to an earlier question was lost.
            Err(status) if status.code() == Code::NotFound => return,
            Err(status) => {
                assert!(begin.elapsed() < SOON, "{id:x} can't be removed: {status:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn id_of(url: &str, name: &str) -> u64 {
    let request = pb::MemberListRequest { linearizable: true };
    let list = bounded(members_of(url).member_list(request)).await.expect("a list of members");
    let member = list.members.into_iter().find(|member| member.name == name);
    member.unwrap_or_else(|| panic!("{name} is no member")).id
}

/// Adds one member to those at work, as a voter at once or by way of a learner.
async fn grow(cluster: &mut Cluster, load: &Load, at_work: &mut Vec<usize>, by_learner: bool) {
    let url = cluster.members[at_work[0]].client_url.clone();
    let index = cluster.add().expect("free ports");
    let id = add(&url, &cluster.members[index].peer_url, by_learner).await;
    cluster.join(index, at_work).expect("the member joins");
    if by_learner {
        promote(&url, id).await;
    }
    at_work.push(index);
    load.urls.lock().expect("no client panics").push(cluster.members[index].client_url.clone());
}

/// Removes one of those at work, and sees it end.
async fn shrink(cluster: &mut Cluster, load: &Load, at_work: &mut Vec<usize>, victim: usize) {
    let gone = cluster.members[victim].client_url.clone();
    at_work.retain(|index| *index != victim);
    load.urls.lock().expect("no client panics").retain(|url| *url != gone);
    let url = cluster.members[at_work[0]].client_url.clone();
    let id = id_of(&url, &cluster.members[victim].name).await;
    remove(&url, id).await;
    let ended = cluster.wait_exit(victim, SOON).expect("its process can be asked");
    let log = cluster.log(victim).expect("its log");
    assert!(ended.is_some(), "{victim} was removed and goes on:\n{log}");
    assert!(log.contains("removed from the cluster"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_is_linearizable_while_members_come_and_go() {
    let mut cluster = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let load = Arc::new(Load {
        begin: Instant::now(),
        urls: Mutex::new(cluster.endpoints()),
        history: Mutex::default(),
        is_over: Mutex::new(false),
    });
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(load.clone(), number))).collect();
    let mut at_work = vec![0];
    for by_learner in [false, true, false, true] {
        grow(&mut cluster, &load, &mut at_work, by_learner).await;
    }
    // First the leader, then one that follows.
    let urls: Vec<String> = load.urls.lock().expect("no client panics").clone();
    let leads = leader(&urls, SOON).await.expect("a leader");
    let victim = at_work[leads];
    shrink(&mut cluster, &load, &mut at_work, victim).await;
    let last = *at_work.last().expect("four are left");
    shrink(&mut cluster, &load, &mut at_work, last).await;
    assert_eq!(at_work.len(), 3);
    *load.is_over.lock().expect("no client panics") = true;
    for client in clients {
        client.await.expect("a client does not panic");
    }
    // What writes of unknown outcome did shows in the state at the revisions that nobody made.
    let gaps = load.history.lock().expect("no client panics").unexplained_revisions();
    for revision in gaps {
        let range = Range { revision, ..Range::of(Span::all()) };
        load.ask(CLIENTS, 0, Request::Range(range)).await;
    }
    let history = load.history.lock().expect("no client panics").clone();
    println!("{} operations, {} acknowledged", history.operations.len(), history.acknowledged());
    assert!(history.acknowledged() > 500, "the load was no load");
    match check(&history) {
        Ok(ruling) => assert_eq!(ruling, Ruling::Consistent),
        Err(violation) => panic!("{violation:?}"),
    }
}

/// Requires that a member ends of itself, and gives its log.
fn ended(cluster: &mut Cluster, index: usize) -> String {
    let status = cluster.wait_exit(index, SOON).expect("its process can be asked");
    let log = cluster.log(index).expect("its log");
    assert!(status.is_some(), "it goes on:\n{log}");
    log
}

#[tokio::test]
async fn a_member_without_its_data_is_refused_and_replaced() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let url = cluster.members[0].client_url.clone();
    put(&url, "key", "value").await.expect("a put");
    cluster.kill(2).expect("a member dies");
    cluster.wipe(2).expect("its disk is lost");
    cluster.spawn(2).expect("it starts under its old id");
    let log = ended(&mut cluster, 2);
    assert!(log.contains("has already been bootstrapped"), "{log}");

    let id = id_of(&url, "m2").await;
    remove(&url, id).await;
    // A founder's id can be worked out by anybody; it stays refused for good.
    cluster.spawn(2).expect("it starts under its old id again");
    let log = ended(&mut cluster, 2);
    assert!(log.contains("permanently removed from the cluster"), "{log}");
    cluster.wipe(2).expect("what it left");
    let new = add(&url, &cluster.members[2].peer_url, false).await;
    assert_ne!(new, id);
    cluster.join(2, &[0, 1]).expect("it joins under another id");
    let mut newcomer = kv(&cluster.members[2].client_url);
    let request = pb::RangeRequest { key: "key".into(), ..Default::default() };
    let read = bounded(newcomer.range(request)).await.expect("a read");
    assert_eq!(read.kvs.len(), 1);
}

#[tokio::test]
async fn a_member_removed_while_it_was_down_ends_when_it_comes_back() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let url = cluster.members[0].client_url.clone();
    cluster.kill(2).expect("a member dies");
    let id = id_of(&url, "m2").await;
    remove(&url, id).await;
    cluster.spawn(2).expect("it comes back");
    let log = ended(&mut cluster, 2);
    assert!(log.contains("permanently removed from the cluster"), "{log}");
    assert!(wait_writable(&url, SOON).await, "the others go on");
}

#[tokio::test]
async fn a_removed_member_stays_until_a_quorum_of_the_others_knows() {
    let flags = ["--strict-reconfig-check=false"];
    let mut cluster = Cluster::start(&program(), 3, &flags).expect("three members start");
    let leads = leader(&cluster.endpoints(), SOON).await.expect("a leader");
    let (stays, away) = ((leads + 1) % 3, (leads + 2) % 3);
    cluster.kill(away).expect("a member dies");
    let url = cluster.members[leads].client_url.clone();
    let id = id_of(&url, &cluster.members[leads].name).await;
    remove(&url, id).await;
    // One of the two others does not know yet, and might need this member's vote.
    let left = cluster.wait_exit(leads, Duration::from_secs(4)).expect("it can be asked");
    assert!(left.is_none(), "it left before a quorum knew");
    cluster.spawn(away).expect("the other one comes back");
    let log = ended(&mut cluster, leads);
    assert!(log.contains("permanently removed from the cluster"), "{log}");
    assert!(wait_writable(&cluster.members[stays].client_url, SOON).await, "the others go on");
}

/// The checkpoints of a member, newest last.
fn checkpoints(cluster: &Cluster, index: usize) -> Vec<String> {
    let runs = cluster.members[index].dir.join("member/runs");
    let files = std::fs::read_dir(runs).expect("a member has checkpoints");
    let names = files.map(|file| file.expect("a readable directory").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".manifest")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_removed_member_that_is_killed_while_it_waits_comes_back_to_wait() {
    let flags = ["--strict-reconfig-check=false", "--snapshot-count=1"];
    let mut cluster = Cluster::start(&program(), 3, &flags).expect("three members start");
    let leads = leader(&cluster.endpoints(), SOON).await.expect("a leader");
    let (stays, away) = ((leads + 1) % 3, (leads + 2) % 3);
    cluster.kill(away).expect("a member dies");
    let url = cluster.members[leads].client_url.clone();
    let id = id_of(&url, &cluster.members[leads].name).await;
    let before = checkpoints(&cluster, leads);
    remove(&url, id).await;
    let begin = Instant::now();
    while checkpoints(&cluster, leads).last() == before.last() {
        assert!(begin.elapsed() < SOON, "no checkpoint knows of the removal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.kill(leads).expect("the removed one dies");
    cluster.spawn(leads).expect("it starts again");
    let left = cluster.wait_exit(leads, Duration::from_secs(4)).expect("it can be asked");
    let log = cluster.log(leads).expect("its log");
    assert!(left.is_none(), "it does not wait:\n{log}");
    assert!(log.contains("stops once a quorum of the others has applied that"), "{log}");
    assert!(!log.contains("ready to serve client requests"), "{log}");
    cluster.spawn(away).expect("the other one comes back");
    let log = ended(&mut cluster, leads);
    assert!(log.contains("permanently removed from the cluster"), "{log}");
    assert!(wait_writable(&cluster.members[stays].client_url, SOON).await, "the others go on");
    // Now that everybody knows, there is nothing to wait for.
    cluster.spawn(leads).expect("it starts once more");
    let log = ended(&mut cluster, leads);
    assert!(log.contains("permanently removed from the cluster"), "{log}");
}

#[tokio::test]
async fn a_survivor_goes_on_alone_and_the_others_cannot_come_back() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let url = cluster.members[0].client_url.clone();
    let learner = add(&url, "http://127.0.0.1:1", true).await;
    put(&url, "key", "value").await.expect("a put");
    for index in 0..3 {
        cluster.kill(index).expect("a member dies");
    }
    cluster.spawn_with(0, &["--force-new-cluster"]).expect("a survivor starts");
    cluster.wait_ready(0, SOON).expect("it serves alone");
    let request = pb::MemberListRequest { linearizable: true };
    let list = bounded(members_of(&url).member_list(request)).await.expect("a list of members");
    let names: Vec<&str> = list.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["m0"], "the learner {learner:x} is gone too");
    let request = pb::RangeRequest { key: "key".into(), ..Default::default() };
    assert_eq!(bounded(kv(&url).range(request)).await.expect("a read").kvs.len(), 1);
    put(&url, "key", "another value").await.expect("a put");
    cluster.spawn(1).expect("another one comes back");
    let log = ended(&mut cluster, 1);
    assert!(log.contains("permanently removed from the cluster"), "{log}");
}

/// Puts until one is taken, and says how many attempts failed.
async fn failures(url: &str) -> Result<usize, Status> {
    for failed in 0..3 {
        match put(url, "key", "value").await {
            Ok(_) => return Ok(failed),
            Err(status) if failed == 2 => return Err(status),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    unreachable!("the third attempt returns")
}

#[tokio::test]
async fn a_rolling_restart_costs_a_client_a_retry_at_the_most() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], SOON).await, "a fresh cluster takes writes");
    for index in 0..3 {
        cluster.terminate(index).expect("a signal");
        let url = &urls[(index + 1) % 3];
        let begin = Instant::now();
        while cluster
            .wait_exit(index, Duration::from_millis(20))
            .expect("it can be asked")
            .is_none()
            && cluster.is_running(index)
        {
            assert!(begin.elapsed() < SOON, "{index} does not stop");
            let failed = failures(url).await.expect("a write is taken at the second attempt");
            assert!(failed <= 1, "{failed} attempts failed while {index} stopped");
        }
        cluster.spawn(index).expect("it starts again");
        cluster.wait_ready(index, SOON).expect("it serves again");
        let failed = failures(url).await.expect("a write is taken at the second attempt");
        assert!(failed <= 1, "{failed} attempts failed after {index} came back");
    }
}
