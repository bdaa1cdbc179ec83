//! Leases, locks and watches on one whole server, whose clock goes only as fast as the test lets
//! it: minutes of leases pass in no time, and nothing depends on the machine.

use bytes::Bytes;
use detcd::env::Env;
use detcd::env::clock::{Clock, ManualClock};
use detcd::env::mem_disk::MemDisk;
use detcd::env::recorder::NoRecorder;
use detcd::error::Error;
use detcd::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    WatchCreateRequest, WatchResponse,
};
use detcd::server::Server;
use detcd::server::handle::{Caller, Handle};
use detcd::server::recipes::queue_prefix;
use detcd::server::server_config::ServerConfig;
use detcd::server::watch_stream::WatchSession;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How far the clock goes before everybody else gets a turn.
const STEP: Duration = Duration::from_millis(20);

/// A server and the hand on its clock.
struct World {
    clock: Arc<ManualClock>,
    server: Server,
}

impl World {
    async fn new() -> World {
        let clock = Arc::new(ManualClock::new());
        let env = Env {
            clock: clock.clone(),
            disk: Arc::new(MemDisk::new()),
            seed: 7,
            recorder: Arc::new(NoRecorder),
        };
        let server = Server::start(ServerConfig::default(), env).await.expect("an empty disk");
        let world = World { clock, server };
        world.run(world.server.ready()).await;
        world
    }

    fn handle(&self) -> Handle {
        self.server.handle()
    }

    /// Lets time pass until the work is done.
    async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let pass = async {
            for _ in 0..10_000 {
                self.advance(STEP).await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = pass => panic!("not done after 200 seconds"),
        }
    }

    /// Lets this much time pass, and everybody do what falls due in it.
    async fn pass(&self, time: Duration) {
        let until = self.clock.now() + time;
        while self.clock.now() < until {
            self.advance(STEP).await;
        }
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        for _ in 0..12 {
            tokio::task::yield_now().await;
        }
    }

    async fn grant(&self, ttl: i64) -> i64 {
        let request = LeaseGrantRequest { ttl, id: 0 };
        let granted = self.run(self.handle().lease_grant(&Caller::default(), request)).await;
        granted.expect("a leader is there").id
    }

    async fn put(&self, key: &str, value: &str, lease: i64) -> i64 {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        let request = PutRequest { key, value, lease, ..Default::default() };
        let put = self.run(self.handle().put(&Caller::default(), request)).await;
        put.expect("a leader is there").header.expect("filled in").revision
    }

    async fn count(&self, prefix: &str) -> i64 {
        let key = Bytes::from(prefix.to_owned());
        let range_end = Bytes::from(format!("{prefix}~"));
        let request = RangeRequest { key, range_end, ..Default::default() };
        let range = self.run(self.handle().range(&Caller::default(), request)).await;
        range.expect("a leader is there").count
    }

    async fn next(&self, session: &mut WatchSession) -> WatchResponse {
        self.run(session.next()).await.expect("the stream goes on").expect("without failure")
    }
}

fn watch(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: Bytes::from(key.to_owned()), start_revision, ..Default::default() }
}

#[tokio::test]
async fn a_lease_ends_when_nobody_keeps_it_alive_and_not_before() {
    let world = World::new().await;
    let lease = world.grant(5).await;
    let put = world.put("key", "value", lease).await;
    let mut session = world.handle().watch(true).expect("a leader is there");
    session.create(&watch("key", put + 1));
    assert!(world.next(&mut session).await.created);

    for _ in 0..10 {
        world.pass(Duration::from_secs(4)).await;
        let ttl = world.run(world.handle().lease_renew(lease)).await;
        assert_eq!(ttl, Ok(5));
    }
    world.pass(Duration::from_millis(4900)).await;
    assert_eq!(world.count("key").await, 1);
    world.pass(Duration::from_millis(700)).await;
    assert_eq!(world.count("key").await, 0);
    let event = world.next(&mut session).await.events.remove(0);
    assert_eq!((event.r#type, event.kv.expect("a key").mod_revision), (1, put + 1));
    assert_eq!(world.run(world.handle().lease_renew(lease)).await, Ok(0));
    let gone = LeaseTimeToLiveRequest { id: lease, keys: true };
    let gone = world.run(world.handle().lease_time_to_live(gone)).await.expect("answered");
    assert_eq!((gone.ttl, gone.granted_ttl), (-1, 0));
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_ends_nothing() {
    let world = World::new().await;
    let lease = world.grant(60).await;
    world.clock.set_wall(Duration::from_secs(4_000_000_000));
    world.pass(Duration::from_secs(10)).await;
    world.clock.set_wall(Duration::ZERO);
    let request = LeaseTimeToLiveRequest { id: lease, keys: false };
    let left = world.run(world.handle().lease_time_to_live(request)).await.expect("answered");
    assert!((48..=50).contains(&left.ttl), "{} seconds left", left.ttl);
}

#[tokio::test]
async fn requests_for_leases_are_answered_as_etcd_answers_them() {
    let world = World::new().await;
    let (handle, caller) = (world.handle(), Caller::default());
    let grant = |ttl, id| handle.lease_grant(&caller, LeaseGrantRequest { ttl, id });
    assert_eq!(world.run(grant(1, 4711)).await.expect("granted").ttl, 2);
    assert_eq!(world.run(grant(60, 4711)).await, Err(Error::LeaseExists));
    assert_eq!(world.run(grant(9_000_000_001, 0)).await, Err(Error::LeaseTtlTooLarge));
    let given = world.run(grant(-5, 0)).await.expect("granted");
    assert!(given.id > 0 && given.ttl == 2);
    let listed = world.run(handle.lease_leases()).await.expect("listed").leases;
    assert_eq!(listed.len(), 2);
    let revoke = handle.lease_revoke(&caller, LeaseRevokeRequest { id: 99 });
    assert_eq!(world.run(revoke).await, Err(Error::LeaseNotFound));
}

#[tokio::test]
async fn leases_that_fall_due_together_are_gone_soon_and_writes_go_on() {
    const LEASES: i64 = 1_000;
    let world = World::new().await;
    let (handle, caller) = (world.handle(), Caller::default());
    let grants = (1..=LEASES).map(|id| {
        let (handle, caller) = (&handle, &caller);
        async move {
            let request = LeaseGrantRequest { ttl: 30, id };
            handle.lease_grant(caller, request).await.expect("granted");
            let key = Bytes::from(format!("leased/{id}"));
            let put = PutRequest { key, lease: id, ..Default::default() };
            handle.put(caller, put).await.expect("attached");
        }
    });
    world.run(futures::future::join_all(grants)).await;
    assert_eq!(world.count("leased/").await, LEASES);
    world.pass(Duration::from_secs(30)).await;
    let before = world.clock.now();
    while world.count("leased/").await > 0 {
        world.put("other", "write", 0).await;
        assert!(world.clock.now() - before < Duration::from_secs(5), "leases linger");
    }
    assert!(world.run(handle.lease_leases()).await.expect("listed").leases.is_empty());
}

#[tokio::test]
async fn locks_are_handed_on_in_order_and_given_up_by_who_goes_away() {
    let world = World::new().await;
    let (handle, caller) = (world.handle(), Caller::default());
    let prefix = queue_prefix(&Bytes::from("lock"));
    let leases = [world.grant(600).await, world.grant(600).await, world.grant(600).await];
    let turn = |n: usize| handle.take_turn(&caller, &prefix, leases[n], Bytes::new());

    let first = world.run(turn(0)).await.expect("answered").expect("it is alone");
    assert!(!first.waits);
    let mut second = Box::pin(turn(1));
    let mut third = Box::pin(turn(2));
    let settled = async {
        while world.handle().shared().hub().stats().watchers < 4 {
            tokio::task::yield_now().await;
        }
    };
    let waiting = world.run(async {
        tokio::select! {
            biased;
            _ = &mut second => "second",
            _ = &mut third => "third",
            () = settled => "nobody",
        }
    });
    assert_eq!(waiting.await, "nobody", "the lock is held");
    assert_eq!(world.count("lock/").await, 3);

    // Who goes away while it waits leaves no key behind, and wakes nobody.
    drop(second);
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(world.count("lock/").await, 2);
    world.run(handle.leave(&caller, &first.place)).await.expect("left");
    let third = world.run(third).await.expect("answered").expect("its turn");
    assert!(third.place.revision > first.place.revision);

    // A lease that asks again keeps its place.
    let again = world.run(turn(2)).await.expect("answered").expect("it holds the lock");
    assert_eq!(again.place, third.place);
}

#[tokio::test]
async fn a_waiter_whose_lease_ran_out_is_refused_at_once() {
    let world = World::new().await;
    let (handle, caller) = (world.handle(), Caller::default());
    let prefix = queue_prefix(&Bytes::from("lock"));
    let (holder, waiter) = (world.grant(600).await, world.grant(3).await);
    let held = handle.take_turn(&caller, &prefix, holder, Bytes::new());
    world.run(held).await.expect("answered").expect("it is alone");
    let began = world.clock.now();
    let refused = handle.take_turn(&caller, &prefix, waiter, Bytes::new());
    assert!(world.run(refused).await.expect("answered").is_none());
    assert!(world.clock.now() - began < Duration::from_secs(5));
    let unknown = handle.take_turn(&caller, &prefix, 12345, Bytes::new());
    assert_eq!(world.run(unknown).await.err(), Some(Error::LeaseNotFound));
}

#[tokio::test]
async fn a_watch_of_the_past_meets_the_present() {
    let world = World::new().await;
    let mut last = 0;
    for n in 0..300 {
        last = world.put("key", &n.to_string(), 0).await;
    }
    let mut session = world.handle().watch(false).expect("no leader is asked for");
    session.create(&watch("key", 2));
    let created = world.next(&mut session).await;
    let header = created.header.expect("filled in");
    assert!(created.created && header.revision == last && header.member_id != 0);
    world.put("key", "present", 0).await;
    let mut revisions = Vec::new();
    while revisions.len() < 301 {
        let response = world.next(&mut session).await;
        revisions.extend(response.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision));
    }
    assert_eq!(revisions, (2..=last + 1).collect::<Vec<_>>());
    session.request_progress();
    let progress = world.next(&mut session).await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, last + 1));
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let world = World::new().await;
    let mut session = world.handle().watch(true).expect("a leader is there");
    session.create(&watch("key", 0));
    assert!(world.next(&mut session).await.created);
    let handle = world.handle();
    world.server.stop().await;
    assert_eq!(session.next().await, Some(Err(Error::Stopped)));
    assert_eq!(session.next().await, None);
    assert_eq!(handle.lease_renew(1).await, Err(Error::Stopped));
}
