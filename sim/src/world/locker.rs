//! Those who want locks and elections: over the services, and by the recipe that clients carry
//! over KV. Who holds the lock counts, each time in a transaction that is fenced by the creation of
//! its key; who is elected announces.

use super::addresses::client_address;
use super::book::SharedBook;
use super::client::Caller;
use super::cluster::Cluster;
use super::lessee::LeaseCaller;
use super::nodes::LOCKER_NODES;
use crate::checker::lock::{COUNTER, count, counted};
use crate::history::leases::Told;
use crate::history::queues::{Observed, Turn};
use crate::history::{Operation, Outcome};
use crate::model::{
    Answer, Compare, Delete, KeyValue, Operand, Put, Range, Relation, Request, Span, Txn,
};
use crate::moment::Nanos;
use crate::random::Stream;
use crate::timer;
use crate::wire;
use detcd::pb::v3electionpb::ResignRequest;
use detcd::pb::v3electionpb::election_client::ElectionClient;
use detcd::pb::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest};
use detcd::pb::v3lockpb::lock_client::LockClient;
use detcd::pb::v3lockpb::{LockRequest, UnlockRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

const LOCK: &str = "lock";
const ELECTION: &str = "vote";
/// How long somebody waits for its turn.
const PATIENCE_MS: (u64, u64) = (1_000, 6_000);
/// An observer that hears nothing for so long looks elsewhere.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Recipe,
    Election,
    Observer,
}

/// One locker's life, until `until`.
pub async fn run(cluster: Cluster, locker: u64, until: Instant) {
    let plan = cluster.plan().clone();
    let mut chance = Stream::new(plan.seed, &format!("locker/{locker}"));
    let client = LOCKER_NODES + locker;
    let timeout = Duration::from_millis(plan.workload.timeout_ms);
    let kinds = [Kind::Service, Kind::Recipe, Kind::Election, Kind::Observer];
    let kind = kinds[chance.weighted(&[4, 3, 3, 2])];
    let mut life = Life {
        client,
        cluster: cluster.clone(),
        book: cluster.book().clone(),
        keys: Caller::new(client, cluster.members(), timeout, cluster.book().clone()),
        leases: LeaseCaller::new(client, &cluster),
        written: 0,
    };
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(chance.between(20, 400))).await;
        let member = chance.below(cluster.members() as u64) as usize;
        if kind == Kind::Observer {
            life.observe(member, until).await;
        } else {
            life.one_turn(kind, member, &mut chance).await;
        }
    }
}

/// Renews a lease until it is told to stop, or told that the lease is gone.
async fn keep(cluster: Cluster, client: u64, id: i64, ttl: i64, stop: Arc<AtomicBool>) {
    let mut leases = LeaseCaller::new(client, &cluster);
    let mut chance = Stream::new(cluster.plan().seed, &format!("keeper/{client}/{id}"));
    loop {
        tokio::time::sleep(Duration::from_millis(ttl as u64 * 300)).await;
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let member = chance.below(cluster.members() as u64) as usize;
        if leases.renew(member, id, false).await == Told::Gone {
            return;
        }
    }
}

/// A place in a queue.
struct Place {
    queue: Span,
    key: String,
    lease: i64,
    /// The creation revision of the key, where it is known.
    revision: i64,
}

struct Life {
    client: u64,
    cluster: Cluster,
    book: SharedBook,
    keys: Caller,
    leases: LeaseCaller,
    written: u64,
}

impl Life {
    async fn one_turn(&mut self, kind: Kind, member: usize, chance: &mut Stream) {
        let Some((lease, ttl)) = self.leases.grant(member, 0, chance.between(1, 3) as i64).await
        else {
            return;
        };
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = keep(self.cluster.clone(), self.client, lease, ttl, stop.clone());
        let keeper = tokio::spawn(keeper);
        let name = if kind == Kind::Election { ELECTION } else { LOCK };
        let queue = Span { key: format!("{name}/"), end: format!("{name}0") };
        let key = format!("{name}/{lease:x}");
        let place = Place { queue, key, lease, revision: 0 };
        let patience = Duration::from_millis(chance.between(PATIENCE_MS.0, PATIENCE_MS.1));
        match kind {
            Kind::Service => self.lock(place, member, patience, chance).await,
            Kind::Recipe => self.recipe(place, member, patience, chance).await,
            Kind::Election | Kind::Observer => {
                self.campaign(place, member, patience, chance).await;
            }
        }
        // Some only fall silent: then the lease has to end by itself.
        stop.store(true, Ordering::Relaxed);
        keeper.await.expect("a keeper does not panic");
    }

    fn channel(&self, member: usize) -> Channel {
        let uri = format!("http://{}", client_address(member));
        Endpoint::from_shared(uri).expect("an address is a valid URI").connect_lazy()
    }

    /// A unique value.
    fn value(&mut self) -> String {
        self.written += 1;
        format!("c{}-{}", self.client, self.written)
    }

    /// Enters what a service writes on our behalf: a write like any other, whose outcome shows.
    async fn on_behalf<T>(
        &mut self,
        member: usize,
        request: Request,
        patience: Duration,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Option<T> {
        let called = self.book.now();
        let answer = timer::timeout(patience, call).await;
        let said = match &answer {
            Ok(Ok(_)) => "a service has done it".to_string(),
            Ok(Err(status)) => format!("{:?} {}", status.code(), status.message()),
            Err(_) => "the client gave up".into(),
        };
        let (client, returned) = (self.client, self.book.now());
        let outcome = Outcome::Unknown(said);
        self.book.operation(Operation { client, member, request, called, returned, outcome });
        answer.ok()?.ok()
    }

    /// A service that could not give us our turn gives up our place, at some point.
    fn gave_up(&self, place: &Place, member: usize, called: Nanos) {
        let span = Span::one(place.key.clone());
        let request = Request::Delete(Delete { span, prev_kv: false });
        let (client, returned) = (self.client, self.book.now());
        let outcome = Outcome::Unknown("a service may give the place up".into());
        self.book.operation(Operation { client, member, request, called, returned, outcome });
    }

    fn took_turn(&self, place: &Place, revision: i64) {
        let (client, at) = (self.client, self.book.now());
        let (queue, key) = (place.queue.clone(), place.key.clone());
        self.book.took_turn(Turn { client, queue, key, revision, at });
    }

    // --- the Lock service ---

    async fn lock(
        &mut self,
        mut place: Place,
        member: usize,
        patience: Duration,
        chance: &mut Stream,
    ) {
        let mut service = LockClient::new(self.channel(member));
        let request = LockRequest { name: wire::bytes(LOCK), lease: place.lease };
        let call = async { Ok(service.lock(request).await?.into_inner()) };
        let (write, called) = (enter(&place, String::new()), self.book.now());
        let Some(locked) = self.on_behalf(member, write, patience, call).await else {
            return self.gave_up(&place, member, called);
        };
        self.took_turn(&place, locked.header.map_or(0, |header| header.revision));
        self.book.reach("lock taken");
        let own = Request::Range(Range::of(Span::one(place.key.clone())));
        let Some(kv) = first(self.keys.ask(member, own).await) else { return };
        place.revision = kv.create_revision;
        if !self.count_up(&place, chance).await || chance.chance(200) {
            return;
        }
        let mut service = LockClient::new(self.channel(member));
        let request = UnlockRequest { key: wire::bytes(&place.key) };
        let call = async { Ok(service.unlock(request).await?.into_inner()) };
        let span = Span::one(place.key.clone());
        let write = Request::Delete(Delete { span, prev_kv: false });
        self.on_behalf(member, write, patience, call).await;
    }

    // --- the recipe over KV ---

    async fn recipe(
        &mut self,
        mut place: Place,
        member: usize,
        patience: Duration,
        chance: &mut Stream,
    ) {
        let until = Instant::now() + patience;
        let entered = self.keys.ask(member, enter(&place, self.client.to_string())).await;
        let Outcome::Done(reply) = entered else { return };
        let Answer::Txn { succeeded, answers } = &reply.answer else { return };
        place.revision = match (*succeeded, &answers[0]) {
            (false, Answer::Range { kvs, .. }) => kvs.first().map_or(0, |kv| kv.create_revision),
            (_, _) => reply.revision,
        };
        let before = Range {
            descending: true,
            max_create: place.revision - 1,
            ..Range::first_created(place.queue.clone())
        };
        let own = Range::of(Span::one(place.key.clone()));
        loop {
            let success = vec![Request::Range(own.clone()), Request::Range(before.clone())];
            let both = Txn { compares: vec![], success, failure: vec![] };
            let outcome = self.keys.ask(member, Request::Txn(both)).await;
            if let Outcome::Done(reply) = &outcome
                && let Answer::Txn { answers, .. } = &reply.answer
            {
                match (found(&answers[0]), found(&answers[1])) {
                    (Some(own), None) if own.create_revision == place.revision => {
                        self.took_turn(&place, reply.revision);
                        break;
                    }
                    (None, _) => return,
                    (Some(_), _) => {}
                }
            }
            if Instant::now() > until {
                return;
            }
            tokio::time::sleep(Duration::from_millis(chance.between(20, 200))).await;
        }
        self.book.reach("lock taken");
        if self.count_up(&place, chance).await && chance.chance(800) {
            self.keys.ask(member, leave(&place)).await;
        }
    }

    /// Counts, fenced by the creation of the key; says whether the lock is still ours.
    async fn count_up(&mut self, place: &Place, chance: &mut Stream) -> bool {
        for _ in 0..chance.between(1, 4) {
            let member = chance.below(self.cluster.members() as u64) as usize;
            let read = Request::Range(Range::of(Span::one(COUNTER)));
            let outcome = self.keys.ask(member, read).await;
            let Outcome::Done(reply) = &outcome else { return false };
            let number = found(&reply.answer).and_then(|kv| counted(&kv.value));
            tokio::time::sleep(Duration::from_millis(chance.log_between(1, 300))).await;
            let tag = self.value();
            let value = count(number.map_or(0, |(n, _)| n) + 1, place.revision, &tag);
            let write = fenced(place, vec![Request::Put(Put::of(COUNTER, value))]);
            match self.keys.ask(member, write).await {
                Outcome::Done(reply) if reply.answer.wrote() => {}
                Outcome::Done(_) => {
                    self.book.reach("fenced out");
                    return false;
                }
                // It may land later, as long as the key is there; who goes on counting would
                // not know from where.
                Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown(_) => return false,
            }
        }
        true
    }

    // --- the Election service ---

    async fn campaign(
        &mut self,
        mut place: Place,
        member: usize,
        patience: Duration,
        chance: &mut Stream,
    ) {
        let mut service = ElectionClient::new(self.channel(member));
        let value = self.value();
        let (name, lease) = (wire::bytes(ELECTION), place.lease);
        let request = CampaignRequest { name, lease, value: wire::bytes(&value) };
        let call = async { Ok(service.campaign(request).await?.into_inner()) };
        let (write, called) = (enter(&place, value), self.book.now());
        let Some(won) = self.on_behalf(member, write, patience, call).await else {
            return self.gave_up(&place, member, called);
        };
        let Some(leader) = won.leader else { return };
        place.revision = leader.rev;
        self.took_turn(&place, won.header.map_or(0, |header| header.revision));
        self.book.reach("election won");
        for _ in 0..chance.below(4) {
            tokio::time::sleep(Duration::from_millis(chance.log_between(5, 500))).await;
            if !self.proclaim(&place, &leader, member, patience).await {
                return;
            }
        }
        if chance.chance(800) {
            let mut service = ElectionClient::new(self.channel(member));
            let request = ResignRequest { leader: Some(leader) };
            let call = async { Ok(service.resign(request).await?.into_inner()) };
            self.on_behalf(member, leave(&place), patience, call).await;
        }
    }

    async fn proclaim(
        &mut self,
        place: &Place,
        leader: &LeaderKey,
        member: usize,
        patience: Duration,
    ) -> bool {
        let mut service = ElectionClient::new(self.channel(member));
        let value = self.value();
        let (leader, value_bytes) = (Some(leader.clone()), wire::bytes(&value));
        let request = ProclaimRequest { leader, value: value_bytes };
        let call = async { Ok(service.proclaim(request).await?.into_inner()) };
        let put = Put { lease: place.lease, ..Put::of(place.key.clone(), value) };
        let write = fenced(place, vec![Request::Put(put)]);
        self.on_behalf(member, write, patience, call).await.is_some()
    }

    async fn observe(&mut self, member: usize, until: Instant) {
        let mut service = ElectionClient::new(self.channel(member));
        let request = LeaderRequest { name: wire::bytes(ELECTION) };
        let Ok(Ok(response)) = timer::timeout(SILENCE, service.observe(request)).await else {
            return;
        };
        let mut announced = response.into_inner();
        let mut observed = Observed { client: self.client, leaders: Vec::new() };
        while Instant::now() < until {
            match timer::timeout(SILENCE, announced.message()).await {
                Ok(Ok(Some(response))) => {
                    let kv = response.kv.map(wire::key_value);
                    let at = self.book.now();
                    observed.leaders.extend(kv.map(|kv| (at, kv)));
                }
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        self.book.observed(observed);
    }
}

/// Enters a queue, or finds the place that the lease has in it.
fn enter(place: &Place, value: String) -> Request {
    let key = place.key.clone();
    let put = Put { lease: place.lease, ..Put::of(key.clone(), value) };
    let first = Request::Range(Range::first_created(place.queue.clone()));
    Request::Txn(Txn {
        compares: vec![created(&key, 0)],
        success: vec![Request::Put(put), first.clone()],
        failure: vec![Request::Range(Range::of(Span::one(key))), first],
    })
}

/// Writes as long as the place is still the one that was entered.
fn fenced(place: &Place, success: Vec<Request>) -> Request {
    let compares = vec![created(&place.key, place.revision)];
    Request::Txn(Txn { compares, success, failure: vec![] })
}

fn leave(place: &Place) -> Request {
    let span = Span::one(place.key.clone());
    fenced(place, vec![Request::Delete(Delete { span, prev_kv: false })])
}

fn created(key: &str, revision: i64) -> Compare {
    let operand = Operand::Create(revision);
    Compare { key: key.into(), relation: Relation::Equal, operand }
}

fn found(answer: &Answer) -> Option<&KeyValue> {
    match answer {
        Answer::Range { kvs, .. } => kvs.first(),
        _ => None,
    }
}

fn first(outcome: Outcome) -> Option<KeyValue> {
    match outcome {
        Outcome::Done(reply) => found(&reply.answer).cloned(),
        Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
    }
}
