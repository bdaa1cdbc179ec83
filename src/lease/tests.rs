//! Leases as a client, a leader and a checkpoint see them.

use super::*;
use proptest::prelude::*;

const MIN: i64 = 2;

/// The grant of a lease that the log holds at its id plus 100.
fn nth(id: i64) -> Grant {
    Grant { id, index: id.cast_unsigned().wrapping_add(100) }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_grant_is_refused_for_what_it_says() {
    let mut lessor = Lessor::new(MIN);
    assert_eq!(lessor.granted_ttl(-5), 2);
    assert_eq!(lessor.granted_ttl(60), 60);
    assert_eq!(lessor.grant(nth(7), 60, secs(0)), Ok(60));
    assert_eq!(lessor.grant(nth(7), 60, secs(0)), Err(Error::LeaseExists));
    assert_eq!(lessor.grant(nth(8), TTL_SECS_MAX + 1, secs(0)), Err(Error::LeaseTtlTooLarge));
    assert_eq!(lessor.grant(nth(0), 60, secs(0)), Err(Error::LeaseNotFound));
    assert_eq!(lessor.grant(nth(-3), 60, secs(0)), Err(Error::LeaseNotFound));
    assert_eq!(lessor.revoke(9), Err(Error::LeaseNotFound));
}

#[test]
fn keys_go_with_their_lease_in_order() {
    let mut lessor = Lessor::new(MIN);
    lessor.grant(nth(7), 60, secs(0)).expect("it is the first");
    for key in ["b", "a", "c", "a"] {
        lessor.attach(&Bytes::from(key), 7);
    }
    lessor.detach(&Bytes::from("c"), 7);
    lessor.detach(&Bytes::from("c"), 99);
    assert_eq!(lessor.revoke(7), Ok(vec![Bytes::from("a"), Bytes::from("b")]));
    assert!(!lessor.exists(7));
    assert_eq!(lessor.state_hash(), 0);
}

#[test]
fn only_the_leader_counts_time_and_an_end_in_flight_stops_renewal() {
    let mut lessor = Lessor::new(MIN);
    lessor.grant(nth(1), 10, secs(0)).expect("granted");
    assert_eq!(lessor.renew(1, secs(1)), Err(RenewError::NotPrimary));
    assert_eq!(lessor.expired(secs(1000), 10), Vec::<Grant>::new());
    assert_eq!(lessor.time_to_live(1, secs(0)).expect("it is there").remaining, None);

    lessor.promote(secs(100), secs(1));
    assert_eq!(lessor.next_deadline(), Some(secs(111)));
    assert_eq!(
        lessor.renew(1, secs(105)),
        Ok(Renewed { ttl: 10, grant: nth(1), must_reset: false })
    );
    assert_eq!(lessor.renew(2, secs(105)), Err(RenewError::NotFound));
    assert_eq!(lessor.expired(secs(114), 10), Vec::<Grant>::new());
    assert_eq!(lessor.time_to_live(1, secs(106)).expect("there").remaining, Some(9));
    assert_eq!(lessor.renew(1, secs(115)), Err(RenewError::Expiring), "due, not yet proposed");
    assert_eq!(lessor.expired(secs(115), 10), vec![nth(1)]);
    assert_eq!(lessor.expired(secs(115), 10), Vec::<Grant>::new(), "it is in flight");
    assert_eq!(lessor.renew(1, secs(115)), Err(RenewError::Expiring));
    assert_eq!(lessor.time_to_live(1, secs(117)).expect("there").remaining, Some(-2));
    lessor.not_expired(&[nth(1), nth(44)]);
    assert_eq!(lessor.expired(secs(115), 10), vec![nth(1)]);
    assert_eq!(lessor.revoke(1), Ok(vec![]));
    assert_eq!(lessor.next_deadline(), None);
}

#[test]
fn what_was_decided_about_one_grant_does_not_reach_the_next_of_the_same_id() {
    let mut lessor = Lessor::new(MIN);
    lessor.promote(secs(0), secs(0));
    lessor.grant(nth(1), 1000, secs(0)).expect("granted");
    lessor.revoke(1).expect("granted above");
    let again = Grant { id: 1, index: 500 };
    lessor.grant(again, 1000, secs(5)).expect("the first is gone");
    assert!(lessor.holds(again) && !lessor.holds(nth(1)));
    lessor.checkpoint(nth(1), 10);
    assert!(!lessor.renew(1, secs(6)).expect("it lives").must_reset, "a remainder of the old");
    assert_eq!(lessor.expired(secs(2000), 10), vec![again]);
    lessor.not_expired(&[nth(1)]);
    assert_eq!(lessor.expired(secs(2000), 10), vec![], "its end is still in flight");
}

#[test]
fn a_remainder_is_carried_over_to_the_next_leader() {
    let mut lessor = Lessor::new(MIN);
    lessor.promote(secs(0), secs(0));
    lessor.grant(nth(1), 1000, secs(0)).expect("granted");
    lessor.grant(nth(2), 300, secs(0)).expect("granted");
    assert_eq!(lessor.due_checkpoints(secs(299), 10), vec![]);
    assert_eq!(lessor.due_checkpoints(secs(300), 10), vec![(nth(1), 700)], "2 is short");
    lessor.checkpoint(nth(1), 700);
    let mut next = lessor.clone();
    next.demote();
    next.promote(secs(5000), secs(3));
    assert_eq!(next.expired(secs(5303), 10), vec![nth(2)]);
    assert_eq!(next.expired(secs(5702), 10), Vec::<Grant>::new());
    assert_eq!(next.expired(secs(5703), 10), vec![nth(1)]);

    let renewed = lessor.renew(1, secs(301)).expect("it lives");
    assert_eq!(renewed, Renewed { ttl: 1000, grant: nth(1), must_reset: true });
    lessor.checkpoint(nth(1), 0);
    assert!(!lessor.renew(1, secs(302)).expect("it lives").must_reset);
    assert_eq!(lessor.due_checkpoints(secs(602), 10), vec![(nth(1), 700)]);
}

#[test]
fn fifty_thousand_ends_in_one_second_come_out_in_batches() {
    let mut lessor = Lessor::new(MIN);
    lessor.promote(secs(0), secs(0));
    for id in 1..=100_000 {
        lessor.grant(nth(id), 10 + (id % 2) * 100, secs(0)).expect("granted");
    }
    let mut gone = 0;
    loop {
        let batch = lessor.expired(secs(10), 1000);
        if batch.is_empty() {
            break;
        }
        for due in batch {
            lessor.revoke(due.id).expect("it was there");
            gone += 1;
        }
    }
    assert_eq!((gone, lessor.len()), (50_000, 50_000));
}

#[test]
fn damaged_bytes_are_refused() {
    let mut lessor = Lessor::new(MIN);
    lessor.grant(nth(1), 10, secs(0)).expect("granted");
    lessor.attach(&Bytes::from("key"), 1);
    let whole = lessor.encode();
    for len in 0..whole.len() {
        assert!(Lessor::restore(MIN, &Bytes::copy_from_slice(&whole[..len])).is_err());
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(Lessor::restore(MIN, &Bytes::from(longer)).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    Revoke(i64),
    Attach(u8, i64),
    Detach(u8, i64),
    Checkpoint(i64, i64),
    Renew(i64),
    Expire(usize),
    Refuse,
    Wait(u64),
    Promote,
    Demote,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 1..6i64;
    prop_oneof![
        (id.clone(), 1..20i64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        id.clone().prop_map(Step::Revoke),
        (0..5u8, id.clone()).prop_map(|(key, id)| Step::Attach(key, id)),
        (0..5u8, id.clone()).prop_map(|(key, id)| Step::Detach(key, id)),
        (id.clone(), 0..30i64).prop_map(|(id, left)| Step::Checkpoint(id, left)),
        id.prop_map(Step::Renew),
        (1..3usize).prop_map(Step::Expire),
        Just(Step::Refuse),
        (0..5u64).prop_map(Step::Wait),
        Just(Step::Promote),
        Just(Step::Demote),
    ]
}

/// A lease of the twin: ttl, remainder, keys, deadline, in flight.
#[derive(Clone, Default)]
struct Twin {
    ttl: i64,
    remaining: i64,
    keys: BTreeSet<Bytes>,
    deadline: u64,
    in_flight: bool,
}

proptest! {
    #[test]
    fn agrees_with_a_dumb_twin(steps in prop::collection::vec(step(), 1..80)) {
        let mut lessor = Lessor::new(1);
        let mut twin: BTreeMap<i64, Twin> = BTreeMap::new();
        let (mut now, mut primary) = (0u64, false);
        for step in steps {
            let key = |k: u8| Bytes::from(vec![b'a' + k]);
            match step {
                Step::Grant(id, ttl) => {
                    let got = lessor.grant(nth(id), ttl, secs(now));
                    prop_assert_eq!(got.is_ok(), !twin.contains_key(&id));
                    let deadline = now + ttl as u64;
                    twin.entry(id).or_insert(Twin { ttl, deadline, ..Twin::default() });
                }
                Step::Revoke(id) => {
                    let keys = twin.remove(&id).map(|t| t.keys.into_iter().collect());
                    prop_assert_eq!(lessor.revoke(id).ok(), keys);
                }
                Step::Attach(k, id) => if let Some(lease) = twin.get_mut(&id) {
                    lease.keys.insert(key(k));
                    lessor.attach(&key(k), id);
                },
                Step::Detach(k, id) => {
                    lessor.detach(&key(k), id);
                    if let Some(lease) = twin.get_mut(&id) { lease.keys.remove(&key(k)); }
                }
                Step::Checkpoint(id, left) => {
                    lessor.checkpoint(nth(id), left);
                    if let Some(lease) = twin.get_mut(&id) {
                        lease.remaining = left.min(lease.ttl);
                    }
                }
                Step::Renew(id) => {
                    let expected = match twin.get_mut(&id) {
                        _ if !primary => Err(RenewError::NotPrimary),
                        None => Err(RenewError::NotFound),
                        Some(l) if l.in_flight || l.deadline <= now => {
                            Err(RenewError::Expiring)
                        }
                        Some(l) => {
                            l.deadline = now + l.ttl as u64;
                            Ok(Renewed {
                                ttl: l.ttl,
                                grant: nth(id),
                                must_reset: l.remaining > 0,
                            })
                        }
                    };
                    prop_assert_eq!(lessor.renew(id, secs(now)), expected);
                }
                Step::Expire(max) => {
                    let mut due: Vec<(u64, i64)> = twin.iter()
                        .filter(|(_, l)| primary && !l.in_flight && l.deadline <= now)
                        .map(|(&id, l)| (l.deadline, id)).collect();
                    due.sort_unstable();
                    due.truncate(max);
                    let due: Vec<Grant> = due.into_iter().map(|(_, id)| nth(id)).collect();
                    due.iter().for_each(|g| twin.get_mut(&g.id).unwrap().in_flight = true);
                    prop_assert_eq!(lessor.expired(secs(now), max), due);
                }
                Step::Refuse => {
                    let grants: Vec<Grant> = twin.keys().map(|id| nth(*id)).collect();
                    lessor.not_expired(&grants);
                    twin.values_mut().for_each(|l| l.in_flight = false);
                }
                Step::Wait(more) => now += more,
                Step::Promote => {
                    primary = true;
                    lessor.promote(secs(now), secs(1));
                    for l in twin.values_mut() {
                        let left = if l.remaining > 0 { l.remaining } else { l.ttl };
                        (l.deadline, l.in_flight) = (now + 1 + left as u64, false);
                    }
                }
                Step::Demote => {
                    primary = false;
                    lessor.demote();
                    twin.values_mut().for_each(|l| l.in_flight = false);
                }
            }
            let encoded = Bytes::from(lessor.encode());
            let again = Lessor::restore(1, &encoded).expect("it was encoded just above");
            prop_assert_eq!(again.encode(), lessor.encode());
            prop_assert_eq!(again.state_hash(), lessor.state_hash());
            prop_assert_eq!(lessor.leases(), twin.keys().copied().collect::<Vec<_>>());
            for (&id, l) in &twin {
                let got = lessor.time_to_live(id, secs(now)).expect("both have it");
                prop_assert_eq!(got.granted, l.ttl);
                let left = l.deadline as i64 - now as i64;
                prop_assert_eq!(got.remaining, primary.then_some(left));
                prop_assert_eq!(got.keys, l.keys.iter().cloned().collect::<Vec<_>>());
            }
        }
    }
}
