//! Facts that contradict each other, and such that do not.

use super::*;

fn broken(facts: &[(usize, Fact)]) -> Guarantee {
    let mut raft = Raft::default();
    let (last, before) = facts.split_last().expect("facts");
    for (i, (member, fact)) in before.iter().enumerate() {
        raft.observe(i as u64, *member, *fact).expect("true so far");
    }
    raft.observe(99, last.0, last.1).expect_err("a contradiction").guarantee
}

fn applied(index: u64, state_hash: u64) -> Fact {
    Fact::Applied { index, term: 1, revision: index as i64, state_hash }
}

#[test]
fn two_leaders_of_a_term_are_seen() {
    let vote = |member| (member, Fact::HardState { term: 3, vote: 7, commit: 0 });
    let leads = |member, id| (member, Fact::Leads { term: 3, id });
    let facts = [vote(0), vote(1), leads(0, 7), leads(0, 7), leads(1, 8)];
    assert_eq!(broken(&facts), Guarantee::ElectionSafety);
}

#[test]
fn a_leader_without_a_quorum_of_durable_votes_is_seen() {
    let voters = (0, Fact::Members { index: 1, voters: 0b111, learners: 0b1000, removed: 0 });
    let applied = (0, applied(1, 1));
    let vote = |member, term, vote| (member, Fact::HardState { term, vote, commit: 0 });
    let leads = (0, Fact::Leads { term: 3, id: 7 });
    // A vote of another term, for somebody else, none at all, and that of a learner.
    for other in [vote(1, 2, 7), vote(1, 3, 8), vote(1, 3, 0), vote(3, 3, 7)] {
        let facts = [voters, applied, vote(0, 3, 7), other, leads];
        assert_eq!(broken(&facts), Guarantee::ElectionSafety);
    }
    let mut raft = Raft::default();
    // Who has gone on to a later term since has voted all the same.
    let later = vote(1, 4, 0);
    for (member, fact) in [voters, applied, vote(0, 3, 7), vote(1, 3, 7), later, leads] {
        raft.observe(0, member, fact).expect("two of three voted for it");
    }
}

#[test]
fn terms_votes_and_commits_do_not_go_back() {
    let state = |term, vote, commit| (0, Fact::HardState { term, vote, commit });
    for last in [state(4, 0, 9), state(5, 2, 9), state(5, 0, 9), state(6, 2, 8)] {
        assert_eq!(broken(&[state(5, 1, 9), last]), Guarantee::MonotonicState);
    }
}

#[test]
fn two_entries_at_a_committed_index_are_seen() {
    let commit = |term, checksum| Fact::Committed { index: 7, term, checksum };
    assert_eq!(broken(&[(0, commit(2, 5)), (1, commit(3, 5))]), Guarantee::LogMatching);
    assert_eq!(broken(&[(0, commit(2, 5)), (1, commit(2, 6))]), Guarantee::LogMatching);
}

#[test]
fn states_that_differ_are_seen_also_across_a_restart() {
    let facts =
        [(0, applied(1, 10)), (0, applied(2, 20)), (1, applied(1, 10)), (1, applied(2, 21))];
    assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
    let facts = [(0, applied(1, 10)), (0, Fact::Started), (0, applied(1, 11))];
    assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
    let facts = [(0, applied(1, 10)), (0, applied(3, 30))];
    assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
}

#[test]
fn a_state_that_was_damaged_on_purpose_is_passed_over_until_it_is_replaced() {
    let loaded = |index, state_hash| Fact::Loaded { index, revision: index as i64, state_hash };
    let mut facts = vec![(0, applied(1, 10)), (0, applied(2, 20)), (0, applied(3, 30))];
    facts.extend([(1, Fact::Corrupted), (1, applied(1, 11)), (1, loaded(1, 11))]);
    facts.extend([(1, applied(2, 21)), (1, loaded(2, 20)), (1, applied(3, 31))]);
    assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
}

#[test]
fn a_checkpoint_with_another_state_is_seen() {
    let loaded =
        |index, state_hash| (1, Fact::Loaded { index, revision: index as i64, state_hash });
    let past = [(0, applied(1, 10)), (0, applied(2, 20))];
    for last in [loaded(2, 21), loaded(3, 30), loaded(1, 20)] {
        assert_eq!(broken(&[past[0], past[1], last]), Guarantee::StateMachineSafety);
    }
    // Whoever goes on from one applies the next entry, and none twice.
    for next in [applied(2, 20), applied(4, 40)] {
        let facts = [past[0], past[1], loaded(2, 20), (1, next)];
        assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
    }
    let mut raft = Raft::default();
    for (member, fact) in [past[0], past[1], loaded(2, 20), (1, applied(3, 30))] {
        raft.observe(0, member, fact).expect("a checkpoint as it should be");
    }
}

#[test]
fn an_install_is_a_promise_like_any_other() {
    let kept = |member| (member, Fact::Persisted { last_index: 9 });
    let commit = (0, Fact::Committed { index: 9, term: 4, checksum: 0 });
    let installed = |term| (1, Fact::Installed { index: 9, term });
    let begun = [kept(0), kept(2), commit];
    assert_eq!(broken(&[begun[0], begun[1], begun[2], installed(3)]), Guarantee::LogMatching);
    let lost = (1, Fact::Recovered { term: 4, last_index: 8, commit: 0 });
    let facts = [begun[0], begun[1], begun[2], installed(4), (1, Fact::Started), lost];
    assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
}

#[test]
fn a_member_that_lost_what_was_durable_is_seen() {
    let up = |term, last_index, commit| (1, Fact::Recovered { term, last_index, commit });
    let state = (1, Fact::HardState { term: 4, vote: 2, commit: 7 });
    let kept = (1, Fact::Persisted { last_index: 9 });
    let commit = (1, Fact::Committed { index: 9, term: 4, checksum: 0 });
    for last in [up(3, 9, 7), up(4, 8, 7), up(4, 9, 6)] {
        let facts = [state, kept, commit, (1, Fact::Started), last];
        assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
    }
    // Another vote in the same term after the restart.
    let other = (1, Fact::HardState { term: 4, vote: 3, commit: 7 });
    let facts = [state, kept, (1, Fact::Started), up(4, 9, 7), other];
    assert_eq!(broken(&facts), Guarantee::MonotonicState);
    let mut raft = Raft::default();
    for (member, fact) in [state, kept, (1, Fact::Damaged), (1, Fact::Started), up(0, 0, 0)] {
        raft.observe(0, member, fact).expect("damage by the harness voids the promises");
    }
}

#[test]
fn a_state_of_anothers_is_durable_unless_it_was_damaged() {
    let up = |last_index| (1, Fact::Recovered { term: 4, last_index, commit: 7 });
    let state = (1, Fact::HardState { term: 4, vote: 2, commit: 7 });
    let kept = (1, Fact::Persisted { last_index: 7 });
    let installed = (1, Fact::Installed { index: 20, term: 4 });
    let facts = [state, kept, installed, (1, Fact::Started), up(7)];
    assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
    let mut raft = Raft::default();
    for (member, fact) in [state, kept, (1, Fact::RunsDamaged), installed, up(7)] {
        raft.observe(0, member, fact).expect("its log is whole");
    }
    // What the log holds behind the state is promised by it.
    let kept = (1, Fact::Persisted { last_index: 20 });
    let facts = [state, (1, Fact::RunsDamaged), installed, kept, up(19)];
    assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
}

#[test]
fn a_commit_before_a_quorum_has_it_durable_is_seen() {
    let kept = |member, last_index| (member, Fact::Persisted { last_index });
    let commit = (0, Fact::Committed { index: 5, term: 1, checksum: 0 });
    assert_eq!(
        broken(&[kept(0, 5), kept(1, 4), kept(2, 4), commit]),
        Guarantee::CommittedIsDurable
    );
    let mut raft = Raft::default();
    for (member, fact) in [kept(0, 5), kept(1, 5), kept(2, 4), commit] {
        raft.observe(0, member, fact).expect("two of three hold it");
    }
}

#[test]
fn a_commit_without_a_quorum_of_platters_is_seen() {
    let mut raft = Raft::default();
    let commit = Fact::Committed { index: 5, term: 1, checksum: 0 };
    raft.observe(0, 1, commit).expect("true");
    let (held, other) = (Platter::Holds { term: 1 }, Platter::Holds { term: 2 });
    let quorum = [held, Platter::EndsAt(4), held];
    raft.check_platters(0, &quorum).expect("a quorum holds it");
    raft.check_platters(0, &[held, other, Platter::EndsAt(4)]).expect_err("one holds it");
    let rotten = [held, Platter::Destroyed, Platter::EndsAt(4)];
    raft.check_platters(0, &rotten).expect("what was destroyed may have held it");
}

fn members(index: u64, voters: Seats, removed: Seats) -> (usize, Fact) {
    (0, Fact::Members { index, voters, learners: 0, removed })
}

#[test]
fn members_change_one_at_a_time_and_never_come_back() {
    for last in [members(4, 0b101, 0), members(4, 0b1011, 0b10), members(4, 0b11100, 0b1000000)] {
        let applied = [(0, applied(1, 1)), (0, applied(2, 1)), (0, applied(3, 1))];
        let facts = [members(3, 0b111, 0b1000000)].into_iter().chain([last]);
        let facts: Vec<_> = applied.into_iter().chain(facts).collect();
        assert_eq!(broken(&facts), Guarantee::MembershipSafety);
    }
    let facts = [members(3, 0b11, 0b100), (1, members(3, 0b111, 0).1)];
    assert_eq!(broken(&facts), Guarantee::MembershipSafety);
}

#[test]
fn a_promotion_of_a_learner_that_is_far_behind_is_seen() {
    let after = Fact::Members { index: 19, voters: 0b1111, learners: 0, removed: 0 };
    let before = Fact::Members { index: 9, voters: 0b111, learners: 0b1000, removed: 0 };
    let kept = |last_index| (3, Fact::Persisted { last_index });
    let facts = [(0, before), kept(16), (0, after)];
    assert_eq!(broken(&facts), Guarantee::MembershipSafety);
    let mut raft = Raft::default();
    for (member, fact) in [(0, before), kept(17), (0, after)] {
        raft.observe(0, member, fact).expect("nine tenths of 18 entries");
    }
}

#[test]
fn a_change_before_its_time_is_seen() {
    let committed = (0, Fact::Committed { index: 5, term: 3, checksum: 0 });
    let proposed =
        |index, term, applied| (0, Fact::ChangeProposed { index, term, commit: 5, applied });
    assert_eq!(broken(&[committed, proposed(9, 4, 5)]), Guarantee::MembershipSafety);
    assert_eq!(broken(&[proposed(9, 4, 5), committed]), Guarantee::MembershipSafety);
    let two = [committed, proposed(9, 3, 5), proposed(10, 3, 8)];
    assert_eq!(broken(&two), Guarantee::MembershipSafety);
    let mut raft = Raft::default();
    for (member, fact) in [committed, proposed(9, 3, 5), proposed(10, 3, 9)] {
        raft.observe(0, member, fact).expect("one after the other");
    }
}

#[test]
fn a_commit_needs_a_quorum_of_those_who_vote() {
    let kept = |member, last_index| (member, Fact::Persisted { last_index });
    let commit = (0, Fact::Committed { index: 9, term: 1, checksum: 0 });
    // Five voters since entry 4, of which two hold it; the learner's copy does not count.
    let five = (0, Fact::Members { index: 4, voters: 0b11111, learners: 0b100000, removed: 0 });
    let four = (0, Fact::Members { index: 3, voters: 0b1111, learners: 0b100000, removed: 0 });
    let facts = [four, five, kept(0, 9), kept(1, 9), kept(5, 9), commit];
    assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
}

#[test]
fn who_was_forced_to_be_alone_goes_on_from_what_it_had_applied() {
    let commit = |member, index, term| (member, Fact::Committed { index, term, checksum: 0 });
    let kept = |member| (member, Fact::Persisted { last_index: 9 });
    let vote = |member, vote| (member, Fact::HardState { term: 5, vote, commit: 4 });
    let begun = [kept(0), kept(1), commit(0, 4, 1), commit(0, 5, 1), vote(0, 7), vote(1, 7)];
    let leads = |member, id| (member, Fact::Leads { term: 5, id });
    let forced = (2, Fact::Forced { index: 4 });
    let alone = (2, Fact::Members { index: 5, voters: 0b100, learners: 0, removed: 0b11 });
    let mut raft = Raft::default();
    let goes_on = [leads(0, 7), forced, kept(2), commit(0, 6, 1), alone];
    let other = [commit(2, 5, 2), (2, applied(5, 1)), vote(2, 9), leads(2, 9)];
    for (member, fact) in begun.iter().chain(&goes_on).chain(&other) {
        raft.observe(0, *member, *fact).expect("what the others had is lost");
    }
    // What it had applied itself stands.
    let facts: Vec<_> = begun.into_iter().chain([forced, commit(2, 4, 2)]).collect();
    assert_eq!(broken(&facts), Guarantee::LogMatching);
}
