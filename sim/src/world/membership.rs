//! Members that come and go: what operators ask for over the network, and the processes that they
//! start for those who were added.
//!
//! An operator knows what a real one knows: an answer, or none. Where none came, a change may be
//! made yet; no disk is destroyed then, because nobody can say who still votes.

use super::addresses::{client_address, peer_url};
use super::book::SharedBook;
use super::cluster::{Cluster, Stop};
use crate::fault::{Action, Fault};
use crate::random::Stream;
use crate::timer;
use detcd::pb::etcdserverpb::cluster_client::ClusterClient;
use detcd::pb::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// The nodes of the operators come after those of all others.
const OPERATOR_NODES: u64 = 200;
/// How often an operator asks before it gives up.
const ATTEMPTS: u64 = 15;
/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it is looked whether somebody was added.
const LOOK: Duration = Duration::from_millis(20);

/// Starts the process of everybody who was added; runs until the end.
pub async fn enrol(cluster: Cluster) {
    if !cluster.plan().changes_members() {
        return;
    }
    loop {
        for member in cluster.current() {
            if cluster.is_newcomer(member) {
                cluster.enrol(member);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a member stopped because it was removed.
pub fn is_gone(cluster: &Cluster, stop: &Stop) -> bool {
    let told = stop.reason == "Removed" || stop.reason.contains("permanently removed");
    told && cluster.book().lock().is_removed(stop.member)
}

/// Whether a newcomer found nobody who could tell it who the members are. It is started again.
pub fn may_join_later(cluster: &Cluster, stop: &Stop) -> bool {
    const REASONS: [&str; 3] =
        ["cannot fetch cluster info", "error validating peerURLs", "couldn't find local name"];
    let known = REASONS.iter().any(|reason| stop.reason.starts_with(reason));
    stop.at_start && known && cluster.is_newcomer(stop.member)
}

/// A task that ends with whoever waits for it.
pub struct Owned(pub JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries out one change, after those that were begun before.
pub async fn change(cluster: &Cluster, action: &Action) {
    let mut changes = cluster.changes().lock().await;
    changes.operators += 1;
    let node = cluster.client_node(OPERATOR_NODES + changes.operators);
    let label = format!("nemesis/members at {}", action.at_ms);
    let operator = Operator {
        cluster: cluster.clone(),
        book: cluster.book().clone(),
        chance: Stream::new(cluster.plan().seed, &label),
        asks_two: Stream::new(cluster.plan().seed, &format!("{label}, twice")).chance(500),
        doubtful: changes.doubtful.clone(),
    };
    // Only an answer makes it certain again.
    let certain = !std::mem::replace(&mut changes.uncertain, true);
    let (done, answer) = tokio::sync::oneshot::channel();
    let fault = action.fault.clone();
    let work = async move {
        // Nobody listens any more once the faults are over.
        let _over = done.send(operator.carry_out(fault, certain).await);
    };
    let _work = Owned(node.spawn(work));
    if let Ok((is_certain, doubtful)) = answer.await {
        (changes.uncertain, changes.doubtful) = (!(is_certain && certain), doubtful);
    }
}

struct Operator {
    cluster: Cluster,
    book: SharedBook,
    chance: Stream,
    /// Every question goes to two members at once, as where two operators do not know of each
    /// other.
    asks_two: bool,
    /// As in `Changes`.
    doubtful: BTreeSet<usize>,
}

impl Operator {
    /// Says whether it is certain what came of it, and which seats are doubtful then.
    async fn carry_out(mut self, fault: Fault, certain: bool) -> (bool, BTreeSet<usize>) {
        let is_certain = self.change(fault, certain).await;
        (is_certain, self.doubtful)
    }

    async fn change(&mut self, fault: Fault, certain: bool) -> bool {
        match fault {
            Fault::AddMember { seat, learner, promote } => {
                let added = self.add(seat, learner).await;
                if added && learner && promote {
                    return self.promote(seat).await;
                }
                added
            }
            Fault::RemoveMember { target } => {
                let seat = self.cluster.resolve(target);
                self.may_be_removed(seat) && self.remove(seat).await
            }
            Fault::ReplaceMember { target, seat } => {
                let lost = self.cluster.resolve(target);
                if !self.may_be_removed(lost) {
                    return false;
                }
                if certain && self.may_lose(lost) {
                    self.book.line(format_args!("m{lost} is lost with its disk"));
                    self.book.lock().members[lost].out = true;
                    self.cluster.hold_down(lost, true);
                }
                let replaced = self.remove(lost).await && self.add(seat, false).await;
                if replaced {
                    self.book.reach("member replaced");
                }
                replaced
            }
            other => unreachable!("{other:?} changes no members"),
        }
    }

    /// Not as long as it might be added once more, under another id, when it is gone.
    fn may_be_removed(&self, seat: usize) -> bool {
        let is_doubtful = self.doubtful.contains(&seat);
        if is_doubtful {
            self.book.line(format_args!("m{seat} is left alone: it may be added once more"));
        }
        !is_doubtful
    }

    /// Whether a quorum keeps its disks without this member. Who was added and has not come up yet
    /// keeps nothing.
    fn may_lose(&self, lost: usize) -> bool {
        let book = self.book.lock();
        let voters = book.voters();
        let keeps = |m: &&usize| !book.members[**m].out && book.members[**m].persisted > 0;
        let left = voters.iter().filter(|m| **m != lost).filter(keeps).count();
        left > voters.len() / 2
    }

    async fn add(&mut self, seat: usize, is_learner: bool) -> bool {
        let urls = vec![peer_url(seat)];
        for _ in 0..ATTEMPTS {
            let request = MemberAddRequest { peer_ur_ls: urls.clone(), is_learner };
            let add = |mut client: ClusterClient<Channel>| {
                let request = request.clone();
                async move { client.member_add(request).await.map(drop) }
            };
            let (added, is_answered) = self.ask(add).await;
            if !is_answered {
                self.doubtful.insert(seat);
            }
            self.book.line(format_args!("adding m{seat}: {}", Said(&added)));
            match added {
                Ok(()) => return true,
                // The answer to an earlier question was lost.
                Err(status) if status.message().contains("already exist") => return true,
                Err(_) => self.pause().await,
            }
        }
        false
    }

    async fn remove(&mut self, seat: usize) -> bool {
        let Some(id) = self.book.lock().id_of(seat) else { return false };
        for _ in 0..ATTEMPTS {
            let remove = |mut client: ClusterClient<Channel>| async move {
                client.member_remove(MemberRemoveRequest { id }).await.map(drop)
            };
            let (removed, _) = self.ask(remove).await;
            self.book.line(format_args!("removing m{seat}: {}", Said(&removed)));
            match removed {
                Ok(()) => return true,
                Err(status) if status.message().contains("member not found") => return true,
                Err(_) => self.pause().await,
            }
        }
        false
    }

    async fn promote(&mut self, seat: usize) -> bool {
        for _ in 0..ATTEMPTS {
            self.pause().await;
            let Some(id) = self.book.lock().id_of(seat) else { continue };
            let mut client = self.client();
            let request = MemberPromoteRequest { id };
            let promoted = bounded(async { client.member_promote(request).await.map(drop) }).await;
            self.book.line(format_args!("promoting m{seat}: {}", Said(&promoted)));
            match promoted {
                Ok(()) => return true,
                Err(status) if status.message().contains("can only promote a learner member") => {
                    if !status.message().contains("in sync") {
                        return true;
                    }
                }
                Err(_) => {}
            }
        }
        false
    }

    /// Asks, and says what it was told; of two answers, the one that says that it is done. Also
    /// whether every question was answered, so that none of them can have an effect later.
    async fn ask<F>(
        &mut self,
        call: impl Fn(ClusterClient<Channel>) -> F,
    ) -> (Result<(), Status>, bool)
    where
        F: Future<Output = Result<(), Status>>,
    {
        let first = bounded(call(self.client()));
        if !self.asks_two {
            let answer = first.await;
            let is_answered = is_answer(&answer);
            return (answer, is_answered);
        }
        let second = bounded(call(self.client()));
        let (first, second) = futures::join!(first, second);
        let is_answered = is_answer(&first) && is_answer(&second);
        (first.or(second), is_answered)
    }

    /// A way to some member of the moment.
    fn client(&mut self) -> ClusterClient<Channel> {
        let member = *self.chance.pick(&self.cluster.current());
        let uri = format!("http://{}", client_address(member));
        let endpoint = Endpoint::from_shared(uri).expect("an address is a valid URI");
        ClusterClient::new(endpoint.connect_lazy())
    }

    async fn pause(&mut self) {
        let election_ms = self.cluster.plan().options.election_ms;
        let pause = self.chance.between(election_ms / 4, election_ms);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn bounded(call: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    match timer::timeout(PATIENCE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("the operator gave up")),
    }
}

/// Whether this says what came of a question.
fn is_answer(answer: &Result<(), Status>) -> bool {
    let open = [Code::DeadlineExceeded, Code::Unavailable, Code::Unknown, Code::Cancelled];
    answer.as_ref().err().is_none_or(|status| !open.contains(&status.code()))
}

/// An answer in a few words.
struct Said<'a>(&'a Result<(), Status>);

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Ok(()) => f.write_str("done"),
            Err(status) => f.write_str(status.message()),
        }
    }
}
