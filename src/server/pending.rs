//! Callers that wait for their request to be applied on this member.

use crate::apply::outcome::Response;
use crate::env::clock::Mono;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// A caller that waits.
struct Waiting {
    deadline: Mono,
    /// Whether the request has left this member for the log. One that has not is safe to refuse;
    /// the outcome of one that has is unknown until it is applied.
    sent: bool,
    bytes: usize,
    reply: oneshot::Sender<Result<Response>>,
}

/// The callers that wait, by the id of their request.
///
/// Invariants:
/// - Ids grow, and so do deadlines: the first entry is the next to time out.
/// - `bytes` is the sum of the sizes of all that wait, and bounds what they hold in memory.
pub struct Pending {
    waiting: BTreeMap<u64, Waiting>,
    bytes: usize,
    next_id: u64,
    count_max: usize,
    bytes_max: usize,
}

impl Pending {
    /// `first_id` is drawn by chance for each start of the process, so that an entry proposed
    /// before a restart can't answer a caller after it.
    pub fn new(first_id: u64, count_max: usize, bytes_max: usize) -> Pending {
        Pending { waiting: BTreeMap::new(), bytes: 0, next_id: first_id, count_max, bytes_max }
    }

    /// Enters a caller; refused when too many wait already.
    pub fn enter(
        &mut self,
        bytes: usize,
        deadline: Mono,
    ) -> Result<(u64, oneshot::Receiver<Result<Response>>)> {
        let first = self.waiting.is_empty();
        if self.waiting.len() >= self.count_max || (!first && self.bytes + bytes > self.bytes_max) {
            return Err(Error::TooManyRequests);
        }
        let id = self.next_id;
        self.next_id += 1;
        let (reply, answer) = oneshot::channel();
        self.bytes += bytes;
        self.waiting.insert(id, Waiting { deadline, sent: false, bytes, reply });
        Ok((id, answer))
    }

    /// Notes that the request is on its way into the log.
    pub fn sent(&mut self, id: u64) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.sent = true;
        }
    }

    /// Whether a caller still waits for this request.
    pub fn contains(&self, id: u64) -> bool {
        self.waiting.contains_key(&id)
    }

    /// Answers the caller of this request, if it is one of this member's.
    pub fn answer(&mut self, id: u64, result: Result<Response>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.bytes -= waiting.bytes;
            // A caller that has gone away does not want its answer any more.
            let _gone = waiting.reply.send(result);
        }
    }

    /// Answers everyone whose time is up: `NoLeader` where the request was never sent, `Timeout`
    /// where its outcome is unknown. Returns how many were answered.
    pub fn expire(&mut self, now: Mono) -> usize {
        let mut expired = 0;
        while let Some((&id, waiting)) = self.waiting.first_key_value() {
            if waiting.deadline > now {
                break;
            }
            let error = if waiting.sent { Error::Timeout } else { Error::NoLeader };
            self.answer(id, Err(error));
            expired += 1;
        }
        expired
    }

    /// Answers everyone: the server stops.
    pub fn stop(&mut self) {
        while let Some((&id, _)) = self.waiting.first_key_value() {
            self.answer(id, Err(Error::Stopped));
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The bytes of all that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(secs: u64) -> Mono {
        Mono::default() + Duration::from_secs(secs)
    }

    #[test]
    fn a_request_that_was_never_sent_is_refused_and_one_that_was_is_unknown() {
        let mut pending = Pending::new(7, 10, 1000);
        let (first, mut first_answer) = pending.enter(1, at(5)).expect("room");
        let (_, mut second_answer) = pending.enter(1, at(6)).expect("room");
        pending.sent(first);
        assert_eq!(pending.expire(at(4)), 0);
        assert_eq!(pending.expire(at(6)), 2);
        assert_eq!(first_answer.try_recv().expect("answered"), Err(Error::Timeout));
        assert_eq!(second_answer.try_recv().expect("answered"), Err(Error::NoLeader));
        assert!(pending.is_empty());
    }

    #[test]
    fn too_many_callers_and_too_many_bytes_are_refused() {
        let mut pending = Pending::new(1, 2, 100);
        let (id, _first) = pending.enter(90, at(1)).expect("room");
        assert_eq!(pending.enter(20, at(1)).err(), Some(Error::TooManyRequests));
        let _second = pending.enter(10, at(1)).expect("room");
        assert_eq!(pending.enter(0, at(1)).err(), Some(Error::TooManyRequests));
        pending.answer(id, Ok(Response::Done));
        assert_eq!(pending.len(), 1);
        assert!(pending.enter(20, at(1)).is_ok());
    }
}
