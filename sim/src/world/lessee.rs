//! Those who hold leases: they grant them, attach keys, keep them alive for a while, and then
//! revoke them or let them go.

use super::addresses::client_address;
use super::book::SharedBook;
use super::client::Caller;
use super::cluster::Cluster;
use super::nodes::LESSEE_NODES;
use crate::history::leases::{Ask, LeaseCall, Told};
use crate::history::{Outcome, Refusal};
use crate::model::{Put, Request, Txn};
use crate::random::Stream;
use crate::timer;
use crate::wire;
use detcd::pb::etcdserverpb::lease_client::LeaseClient;
use detcd::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Ids that clients choose for their leases, from 1 on. Few, so that they are granted again.
const CHOSEN_IDS: u64 = 3;

/// A client's way to the leases of all members.
pub struct LeaseCaller {
    client: u64,
    book: SharedBook,
    timeout: Duration,
    channels: Vec<LeaseClient<Channel>>,
    link: Option<Link>,
}

/// A stream of keep-alives that stays open.
struct Link {
    member: usize,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl LeaseCaller {
    pub fn new(client: u64, cluster: &Cluster) -> LeaseCaller {
        let channel = |member| {
            let uri = format!("http://{}", client_address(member));
            let endpoint = Endpoint::from_shared(uri).expect("an address is a valid URI");
            LeaseClient::new(endpoint.connect_lazy())
        };
        LeaseCaller {
            client,
            book: cluster.book().clone(),
            timeout: Duration::from_millis(cluster.plan().workload.timeout_ms),
            channels: (0..cluster.members()).map(channel).collect(),
            link: None,
        }
    }

    /// The same, but it gives up after so long.
    pub fn with_patience(self, timeout: Duration) -> LeaseCaller {
        LeaseCaller { timeout, ..self }
    }

    /// Grants a lease of the id that is given, or of one that the server draws for 0; gives the
    /// id and the seconds.
    pub async fn grant(&mut self, member: usize, id: i64, ttl: i64) -> Option<(i64, i64)> {
        let call = self.begin(member, id, Ask::Grant);
        let asked = self.channels[member].lease_grant(LeaseGrantRequest { ttl, id });
        let answer = timer::timeout(self.timeout, asked).await;
        let (id, told) = match answer {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                (response.id, Told::Alive(response.ttl))
            }
            Ok(Err(status)) => (id, refusal(&status)),
            Err(_) => (id, Told::Unknown("the client gave up".into())),
        };
        let granted = if let Told::Alive(ttl) = told { Some((id, ttl)) } else { None };
        // What became of a lease whose id nobody knows shows in the facts of the members.
        if id != 0 {
            self.book.leased(LeaseCall { id, returned: self.book.now(), told, ..call });
        }
        granted
    }

    /// Keeps a lease alive, over a stream that stays open or one for this once.
    pub async fn renew(&mut self, member: usize, id: i64, once: bool) -> Told {
        let (call, timeout) = (self.begin(member, id, Ask::Renew), self.timeout);
        let book = self.book.clone();
        let asked = book.unless_reset(member, self.ask_renewal(member, id));
        let told = match timer::timeout(timeout, asked).await {
            Ok(Some(Ok(0))) => Told::Gone,
            Ok(Some(Ok(ttl))) => Told::Alive(ttl),
            Ok(Some(Err(status))) => refusal(&status),
            Ok(None) => Told::Unknown("the connection was reset".into()),
            Err(_) => Told::Unknown("the client gave up".into()),
        };
        // A late answer must not be taken for that to the next request.
        if once || matches!(told, Told::Unknown(_)) {
            self.link = None;
        }
        self.end(call, told)
    }

    async fn ask_renewal(&mut self, member: usize, id: i64) -> Result<i64, Status> {
        if self.link.as_ref().is_none_or(|link| link.member != member) {
            let (requests, mut outgoing) = mpsc::channel(8);
            let outgoing = futures::stream::poll_fn(move |cx| outgoing.poll_recv(cx));
            let response = self.channels[member].lease_keep_alive(outgoing).await?;
            self.link = Some(Link { member, requests, answers: response.into_inner() });
        }
        let link = self.link.as_mut().expect("it was just made sure of");
        let _broken = link.requests.send(LeaseKeepAliveRequest { id }).await;
        match link.answers.message().await? {
            Some(answer) => Ok(answer.ttl),
            None => Err(Status::unavailable("the stream has ended")),
        }
    }

    pub async fn revoke(&mut self, member: usize, id: i64) -> Told {
        let call = self.begin(member, id, Ask::Revoke);
        let asked = self.channels[member].lease_revoke(LeaseRevokeRequest { id });
        let told = match timer::timeout(self.timeout, asked).await {
            Ok(Ok(_)) => Told::Revoked,
            Ok(Err(status)) => refusal(&status),
            Err(_) => Told::Unknown("the client gave up".into()),
        };
        self.end(call, told)
    }

    /// Asks for the keys of a lease.
    pub async fn time_to_live(&mut self, member: usize, id: i64) -> Told {
        let call = self.begin(member, id, Ask::TimeToLive);
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let asked = self.channels[member].lease_time_to_live(request);
        let told = match timer::timeout(self.timeout, asked).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                let revision = response.header.as_ref().map_or(0, |h| h.revision);
                match response.granted_ttl {
                    0 => Told::Gone,
                    _ => Told::Keys(response.keys.iter().map(wire::text).collect(), revision),
                }
            }
            Ok(Err(status)) => refusal(&status),
            Err(_) => Told::Unknown("the client gave up".into()),
        };
        self.end(call, told)
    }

    fn begin(&self, member: usize, id: i64, ask: Ask) -> LeaseCall {
        let (called, clocks) = (self.book.now(), self.book.clocks());
        let told = Told::Unknown(String::new());
        LeaseCall { client: self.client, member, id, ask, called, clocks, returned: called, told }
    }

    fn end(&self, call: LeaseCall, told: Told) -> Told {
        self.book.leased(LeaseCall { returned: self.book.now(), told: told.clone(), ..call });
        told
    }
}

fn refusal(status: &Status) -> Told {
    match status.message() {
        "etcdserver: requested lease not found" => Told::Gone,
        "etcdserver: lease already exists" => Told::Exists,
        text => Told::Unknown(format!("{:?} {text}", status.code())),
    }
}

/// One lessee's life: lease after lease, until `until`.
pub async fn run(cluster: Cluster, lessee: u64, until: Instant) {
    let plan = cluster.plan().clone();
    let mut chance = Stream::new(plan.seed, &format!("lessee/{lessee}"));
    let client = LESSEE_NODES + lessee;
    let timeout = Duration::from_millis(plan.workload.timeout_ms);
    let mut life = Life {
        leases: LeaseCaller::new(client, &cluster),
        keys: Caller::new(client, cluster.members(), timeout, cluster.book().clone()),
        client,
        members: cluster.members() as u64,
        written: 0,
    };
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(chance.between(10, 500))).await;
        life.one_lease(&mut chance, plan.workload.keys, until).await;
    }
}

struct Life {
    leases: LeaseCaller,
    keys: Caller,
    client: u64,
    members: u64,
    written: u64,
}

impl Life {
    fn member(&self, chance: &mut Stream) -> usize {
        chance.below(self.members) as usize
    }

    async fn one_lease(&mut self, chance: &mut Stream, keys: u64, until: Instant) {
        let asked_id = match chance.below(20) {
            0 => -1,
            1..8 => chance.between(1, CHOSEN_IDS) as i64,
            _ => 0,
        };
        let (member, ttl) = (self.member(chance), chance.between(1, 3) as i64);
        let granted = self.leases.grant(member, asked_id, ttl).await;
        let (id, ttl) = match granted {
            Some(granted) => granted,
            // Somebody may have it already, and then there are two of us.
            None if asked_id > 0 => (asked_id, ttl),
            None => return,
        };
        let rounds = chance.between(1, 12);
        // Some ask at once and from another member, before the grant is applied there.
        let mut pause = if chance.chance(300) { 0 } else { ttl as u64 * 300 };
        for _ in 0..rounds {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = chance.between(ttl as u64 * 150, ttl as u64 * 450);
            if Instant::now() >= until {
                return;
            }
            let member = self.member(chance);
            let gone = match chance.weighted(&[5, 3, 3, 1]) {
                0 => self.leases.renew(member, id, false).await == Told::Gone,
                1 => self.leases.renew(member, id, true).await == Told::Gone,
                2 => self.attach(chance, keys, id).await,
                _ => self.leases.time_to_live(member, id).await == Told::Gone,
            };
            if gone {
                self.leases.book.reach("lease gone under its holder");
                return;
            }
        }
        match chance.below(3) {
            0 => drop(self.leases.revoke(self.member(chance), id).await),
            // Let go: it has to end by itself.
            _ => self.leases.link = None,
        }
    }

    /// Puts a key that goes with the lease; some are shared with everybody else. Whether the
    /// lease is gone.
    async fn attach(&mut self, chance: &mut Stream, keys: u64, id: i64) -> bool {
        self.written += 1;
        let key = match chance.below(2) {
            0 => format!("k{:02}", chance.below(keys)),
            _ => format!("l{}-{}", self.client, chance.below(4)),
        };
        let value = format!("c{}-{}", self.client, self.written);
        let put = Put { lease: id, ..Put::of(key, value) };
        let member = self.member(chance);
        let request = match chance.chance(300) {
            false => Request::Put(put),
            // All of it or nothing, also if the lease is gone.
            true => {
                self.written += 1;
                let value = format!("c{}-{}", self.client, self.written);
                let beside = Put::of(format!("m{}", self.client), value);
                let success = vec![Request::Put(beside), Request::Put(put)];
                Request::Txn(Txn { compares: vec![], success, failure: vec![] })
            }
        };
        let outcome = self.keys.ask(member, request).await;
        matches!(outcome, Outcome::Refused(Refusal::LeaseNotFound))
    }
}
