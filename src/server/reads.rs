//! Callers that wait to read what is committed at the moment they asked.
//!
//! All callers who wait at one moment share one ReadIndex round; whoever comes while a round is
//! under way joins the next one, because a round confirms only what was committed when it began
//! (Ongaro's thesis, section 6.4).

use crate::env::clock::Mono;
use crate::error::{Error, Result};
use crate::raft::message::Index;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

type Reply = oneshot::Sender<Result<Index>>;

struct Reader {
    deadline: Mono,
    reply: Reply,
}

struct Round {
    ctx: u64,
    retry_at: Mono,
    readers: Vec<Reader>,
}

/// The readers of one member, in the three places where a reader can be.
///
/// Invariant: a reader is in `waiting`, in `round`, or under one index of `ready`, and every
/// round has a number of its own, also when it only repeats one that was lost.
pub struct Reads {
    waiting: Vec<Reader>,
    round: Option<Round>,
    /// Readers whose index is known and not yet applied here.
    ready: BTreeMap<Index, Vec<Reply>>,
    next_ctx: u64,
    /// Rounds that were lost and not yet asked for.
    lost: u64,
}

/// After this long a round is taken to be lost and is asked again, under a new number.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl Reads {
    /// `first_ctx` is drawn by chance for each start of the process: the late answer to a round
    /// of the process before must not confirm one of this.
    pub fn new(first_ctx: u64) -> Reads {
        let next_ctx = first_ctx >> 1;
        Reads { waiting: Vec::new(), round: None, ready: BTreeMap::new(), next_ctx, lost: 0 }
    }

    pub fn enter(&mut self, deadline: Mono, reply: Reply) {
        self.waiting.push(Reader { deadline, reply });
    }

    /// Whether nobody waits for a round, neither one under way nor the next.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none()
    }

    /// The number of a round to begin, if readers wait and none is under way or it was lost.
    pub fn begin(&mut self, now: Mono) -> Option<u64> {
        let mut readers = match self.round.take() {
            Some(round) if round.retry_at > now => {
                self.round = Some(round);
                return None;
            }
            Some(lost) => {
                self.lost += 1;
                lost.readers
            }
            None => Vec::new(),
        };
        readers.append(&mut self.waiting);
        if readers.is_empty() {
            return None;
        }
        let ctx = self.next_ctx;
        self.next_ctx += 1;
        self.round = Some(Round { ctx, retry_at: now + RETRY_AFTER, readers });
        Some(ctx)
    }

    /// The round could not be asked or was refused: its readers wait for the next one.
    pub fn refused(&mut self, ctx: u64) {
        if let Some(round) = self.round.take_if(|round| round.ctx == ctx) {
            let later = std::mem::replace(&mut self.waiting, round.readers);
            self.waiting.extend(later);
        }
    }

    /// The round is confirmed: its readers may read once `index` is applied.
    pub fn confirmed(&mut self, ctx: u64, index: Index, applied: Index) {
        let Some(round) = self.round.take_if(|round| round.ctx == ctx) else { return };
        let replies = round.readers.into_iter().map(|reader| reader.reply);
        if index <= applied {
            replies.for_each(|reply| answer(reply, Ok(applied)));
        } else {
            self.ready.entry(index).or_default().extend(replies);
        }
    }

    /// Entries up to `applied` are applied.
    pub fn applied(&mut self, applied: Index) {
        while let Some(first) = self.ready.first_entry()
            && *first.key() <= applied
        {
            first.remove().into_iter().for_each(|reply| answer(reply, Ok(applied)));
        }
    }

    /// Answers those whose time is up and who have no index yet: nothing was promised to them.
    pub fn expire(&mut self, now: Mono, error: &Error) -> usize {
        let mut expired = 0;
        let round = self.round.iter_mut().map(|round| &mut round.readers);
        for readers in round.chain(std::iter::once(&mut self.waiting)) {
            for reader in readers.extract_if(.., |reader| reader.deadline <= now) {
                answer(reader.reply, Err(error.clone()));
                expired += 1;
            }
        }
        expired
    }

    /// How many rounds were lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// How many readers wait.
    pub fn count(&self) -> usize {
        let round = self.round.as_ref().map_or(0, |round| round.readers.len());
        self.waiting.len() + round + self.ready.values().map(Vec::len).sum::<usize>()
    }
}

/// A reader that has gone away does not want its answer any more.
fn answer(reply: Reply, result: Result<Index>) {
    let _gone = reply.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::new(Duration::from_millis(millis))
    }

    fn reader(reads: &mut Reads) -> oneshot::Receiver<Result<Index>> {
        let (reply, answer) = oneshot::channel();
        reads.enter(at(7000), reply);
        answer
    }

    #[test]
    fn a_reader_who_comes_during_a_round_waits_for_the_next() {
        let mut reads = Reads::new(7);
        let mut first = reader(&mut reads);
        let ctx = reads.begin(at(0)).expect("a reader waits");
        let mut second = reader(&mut reads);
        assert_eq!(reads.begin(at(1)), None);
        reads.confirmed(ctx, 5, 5);
        assert_eq!(first.try_recv().expect("answered"), Ok(5));
        assert!(second.try_recv().is_err());
        let next = reads.begin(at(2)).expect("the second waits");
        assert_ne!(next, ctx);
        reads.confirmed(next, 9, 5);
        assert!(second.try_recv().is_err());
        reads.applied(9);
        assert_eq!(second.try_recv().expect("answered"), Ok(9));
        assert_eq!(reads.count(), 0);
    }

    #[test]
    fn a_lost_round_is_asked_again_under_a_new_number_and_its_late_answer_is_ignored() {
        let mut reads = Reads::new(7);
        let mut answer = reader(&mut reads);
        let lost = reads.begin(at(0)).expect("a reader waits");
        let again = reads.begin(at(500)).expect("the round was lost");
        assert_ne!(lost, again);
        assert_eq!((reads.take_lost(), reads.take_lost()), (1, 0));
        reads.confirmed(lost, 1, 1);
        assert!(answer.try_recv().is_err());
        reads.refused(again);
        assert_eq!(reads.expire(at(7000), &Error::NoLeader), 1);
        assert_eq!(answer.try_recv().expect("answered"), Err(Error::NoLeader));
    }
}
