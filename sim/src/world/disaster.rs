//! The last resort: the disks of a majority are lost for good, and an operator makes a cluster of
//! its own out of one member that is left (`--force-new-cluster`).
//!
//! It comes when everything else is judged, because it may lose what was acknowledged: the one that
//! is left may have been cut off before. What it had applied must be served afterwards, it must be
//! alone, learners and members that never started included, and an old member that comes back must
//! not find its way in again.

use super::addresses::{client_address, peer_url};
use super::cluster::Cluster;
use super::waiting::wait_for_leader;
use crate::checker::raft::Fact;
use crate::checker::{Guarantee, Violation};
use crate::fault::Direction;
use crate::plan::Disaster;
use crate::timer;
use detcd::pb::etcdserverpb as pb;
use detcd::pb::etcdserverpb::cluster_client::ClusterClient;
use detcd::pb::etcdserverpb::kv_client::KvClient;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The node of the operator comes after those of all other operators.
const OPERATOR_NODE: u64 = 240;
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(1);

type Judged<T> = Result<T, Violation>;

/// Brings the disaster about that the plan holds, if all members are up and sound.
pub async fn strike(cluster: &Cluster) {
    let Some(disaster) = cluster.plan().disaster else { return };
    let whole = {
        let book = cluster.book().lock();
        let all: Vec<usize> = founders(cluster);
        book.voters() == all && all.iter().all(|m| book.members[*m].up && !cluster.is_rotten(*m))
    };
    if !whole || cluster.book().is_broken() {
        return;
    }
    let scene = Scene { cluster: cluster.clone(), survivor: disaster.survivor };
    let node = cluster.client_node(OPERATOR_NODE);
    let work = node.spawn(async move { scene.play(disaster).await });
    if let Err(violation) = work.await.expect("the operator does not panic") {
        cluster.book().violated(violation);
    }
}

struct Scene {
    cluster: Cluster,
    survivor: usize,
}

/// What a member serves.
#[derive(PartialEq, Eq)]
struct State {
    revision: i64,
    keys: Vec<(Vec<u8>, Vec<u8>, i64)>,
}

impl Scene {
    async fn play(&self, disaster: Disaster) -> Judged<()> {
        let (cluster, book) = (&self.cluster, self.cluster.book());
        let mut others = founders(cluster);
        others.retain(|member| *member != self.survivor);
        if disaster.grows {
            self.grow(others[0]).await?;
        }
        if disaster.learner {
            // One that never starts; whether it is added matters only for what follows.
            let _maybe = self.add(others[0], true).await;
        }
        self.leave_behind(&others, disaster.unheard_writes).await;
        let held = self.answered("what it holds", || self.state(0)).await?;
        let Some(before) = held else { unreachable!("the newest revision is not compacted") };
        let Some((applied, ..)) = book.lock().raft.last_applied(self.survivor) else {
            return Ok(());
        };
        book.line(format_args!("m{others:?} are lost, m{} is left at {applied}", self.survivor));
        others.iter().for_each(|other| cluster.hold_down(*other, true));
        cluster.heal_links(&founders(cluster));
        cluster.hold_down(self.survivor, true);
        book.fact(self.survivor, Fact::Forced { index: applied });
        cluster.set_forced(self.survivor, true);
        cluster.release(self.survivor);
        let mut compared = self.serves(&before, "forced into a cluster of its own").await?;
        self.is_alone().await?;
        cluster.hold_down(self.survivor, disaster.power_cut);
        cluster.set_forced(self.survivor, false);
        cluster.release(self.survivor);
        compared &= self.serves(&before, "started again").await?;
        book.reach("forced into a new cluster");
        // No majority of them is left.
        let back = &others[..disaster.back.min(others.len() / 2)];
        self.come_back(back).await?;
        compared &= self.serves(&before, "with old members at its door").await?;
        self.is_alone().await?;
        if compared {
            book.reach("forced new cluster compared");
        }
        Ok(())
    }

    /// Asks the survivor until it answers, for as long as an election and a write may take.
    async fn answered<T, A>(&self, asked: &str, ask: impl Fn() -> A) -> Judged<T>
    where
        A: Future<Output = Result<T, Status>>,
    {
        let begun = self.cluster.book().now();
        let until = begun + (self.election(10).as_nanos() as u64) + 2_000_000_000;
        loop {
            let refusal = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            if self.cluster.book().now() > until {
                let text = format!("m{} does not answer {asked}: {refusal:?}", self.survivor);
                return Err(self.broken(Guarantee::Liveness, text));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn election(&self, times: u64) -> Duration {
        Duration::from_millis(self.cluster.plan().options.election_ms * times)
    }

    /// With one of five down, four can take a sixth in: a quorum of six is left.
    async fn grow(&self, down: usize) -> Judged<()> {
        let asked = self.survivor;
        let all = founders(&self.cluster);
        if all.len() < 5 {
            return Ok(());
        }
        self.cluster.hold_down(down, false);
        let up: Vec<usize> = all.iter().copied().filter(|m| *m != down).collect();
        wait_for_leader(&self.cluster, &up).await;
        let mut added = Err(Status::unavailable("nobody was asked"));
        // A member counts as healthy once it has been connected for an election timeout.
        for _ in 0..10 {
            tokio::time::sleep(self.election(1)).await;
            added = self.add(asked, false).await;
            let is_in = |status: &Status| status.message().contains("already exist");
            if added.is_ok() || added.as_ref().is_err_and(is_in) {
                break;
            }
        }
        self.cluster.release(down);
        wait_for_leader(&self.cluster, &all).await;
        match added {
            Err(status) if status.message().contains("unhealthy cluster") => {
                let text = format!("four of five work, and adding one is refused: {status:?}");
                Err(self.broken(Guarantee::MembershipSafety, text))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Cuts the survivor off for as long as there are others, and lets them go on without it for a
    /// few writes.
    async fn leave_behind(&self, others: &[usize], writes: u64) {
        if writes == 0 {
            return;
        }
        let links = self.cluster.links_around(self.survivor, Direction::Both);
        self.cluster.cut(&links);
        wait_for_leader(&self.cluster, others).await;
        for number in 0..writes {
            let value = format!("unheard-{number}");
            // A write that fails is as good as one that is lost.
            let _maybe = self.put(others[number as usize % others.len()], &value).await;
        }
        self.cluster.book().line(format_args!("m{} was left behind", self.survivor));
    }

    /// The survivor takes a write, and serves what it had; false if that is compacted.
    async fn serves(&self, before: &State, when: &str) -> Judged<bool> {
        let write = format!("a write, {when}");
        self.answered(&write, || self.put(self.survivor, when)).await?;
        let read = format!("a read at revision {}, {when}", before.revision);
        let held = self.answered(&read, || self.state(before.revision)).await?;
        let Some(now) = held else { return Ok(false) };
        if now.keys == before.keys {
            return Ok(true);
        }
        let (was, is) = (before.keys.len(), now.keys.len());
        let text = format!(
            "m{}, {when}, serves other keys at revision {} than before: {is}, there were {was}",
            self.survivor, before.revision
        );
        Err(self.broken(Guarantee::Linearizability, text))
    }

    /// Nobody else is a member.
    async fn is_alone(&self) -> Judged<()> {
        let urls = self.answered("who its members are", || self.members()).await?;
        if urls == [peer_url(self.survivor)] {
            return Ok(());
        }
        let text = format!("m{} was forced to be alone, and has {urls:?}", self.survivor);
        Err(self.broken(Guarantee::MembershipSafety, text))
    }

    /// Where the members listen, as the survivor says.
    async fn members(&self) -> Result<Vec<String>, Status> {
        let mut client = ClusterClient::new(channel(self.survivor));
        let request = pb::MemberListRequest { linearizable: true };
        let listed = bounded(async { client.member_list(request).await }).await?.into_inner();
        Ok(listed.members.into_iter().flat_map(|member| member.peer_ur_ls).collect())
    }

    /// Old members start with the disks that they had.
    async fn come_back(&self, back: &[usize]) -> Judged<()> {
        if back.is_empty() {
            return Ok(());
        }
        back.iter().for_each(|member| self.cluster.release(*member));
        let book = self.cluster.book();
        let until = book.now() + self.election(8).as_nanos() as u64;
        while book.now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let views = book.lock().members.clone();
            let follows = |m: &&usize| views[**m].up && views[**m].leader == Some(self.survivor);
            if let Some(member) = back.iter().find(follows) {
                let text = format!("m{member} was left out for good, and follows again");
                return Err(self.broken(Guarantee::MembershipSafety, text));
            }
            if back.iter().any(|m| views[*m].leads) || !views[self.survivor].leads {
                let text = format!("m{back:?} took leadership from m{}", self.survivor);
                return Err(self.broken(Guarantee::MembershipSafety, text));
            }
        }
        book.reach("old member at a new cluster's door");
        Ok(())
    }

    /// What the survivor holds, at a revision or now; nothing if that is compacted.
    async fn state(&self, revision: i64) -> Result<Option<State>, Status> {
        let mut client = KvClient::new(channel(self.survivor));
        let request = pb::RangeRequest {
            key: b"\0".to_vec().into(),
            range_end: b"\0".to_vec().into(),
            revision,
            serializable: true,
            ..Default::default()
        };
        let answer = match bounded(async { client.range(request).await }).await {
            Ok(answer) => answer.into_inner(),
            Err(refusal) if refusal.message().contains("compacted") => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let keys = answer.kvs.into_iter();
        let keys = keys.map(|kv| (kv.key.to_vec(), kv.value.to_vec(), kv.mod_revision)).collect();
        let header = answer.header.ok_or_else(|| Status::internal("an answer without a header"))?;
        Ok(Some(State { revision: header.revision, keys }))
    }

    async fn put(&self, member: usize, value: &str) -> Result<(), Status> {
        let mut client = KvClient::new(channel(member));
        let request = pb::PutRequest {
            key: b"disaster".to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            ..Default::default()
        };
        bounded(async { client.put(request).await.map(drop) }).await
    }

    /// Adds a member that never starts, in a place behind all others.
    async fn add(&self, asked: usize, is_learner: bool) -> Result<(), Status> {
        let seat = self.cluster.plan().seats() + usize::from(is_learner);
        let mut client = ClusterClient::new(channel(asked));
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url(seat)], is_learner };
        bounded(async { client.member_add(request).await.map(drop) }).await
    }

    fn broken(&self, guarantee: Guarantee, text: String) -> Violation {
        Violation::new(guarantee, Some(self.cluster.book().now()), text)
    }
}

fn founders(cluster: &Cluster) -> Vec<usize> {
    (0..cluster.plan().options.members).collect()
}

fn channel(member: usize) -> Channel {
    let uri = format!("http://{}", client_address(member));
    Endpoint::from_shared(uri).expect("an address is a valid URI").connect_lazy()
}

async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timer::timeout(PATIENCE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("the operator gave up")),
    }
}
