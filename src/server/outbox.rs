//! What waits for one peer, and the stream through which the transport pulls it.
//!
//! The word that something is committed may wait a moment for company: the next append carries it
//! as well, which spares the follower a wakeup. Where somebody waits for it, it leaves at once:
//! each batch says whether that is so at its sender.

use super::wire;
use crate::env::clock::Clock;
use crate::pb::raftpb::PeerBatch;
use crate::raft::message::{Message, Payload};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use prometheus::IntCounter;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages and bytes that leave as one batch.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// How long a commit notice that nobody waits for may wait for company.
const NOTICE_PAUSE: Duration = Duration::from_millis(1);

/// What a stream needs to know of its two ends.
pub struct Ends {
    pub clock: Arc<dyn Clock>,
    /// Somebody at the peer waits for what is committed, as it said last.
    pub peer_awaits: Arc<AtomicBool>,
    /// Whether somebody here does.
    pub we_await: Box<dyn Fn() -> bool + Send>,
    /// Bytes of messages handed to the transport.
    pub sent: IntCounter,
}

/// The messages for one peer, lent to one stream.
///
/// The transport may keep a stream for a while after the call was dropped. What is taken back from
/// it then is safe from it: it ends at the next poll.
pub struct Outbox {
    lent: Arc<Mutex<Lent>>,
}

struct Lent {
    /// None once it was taken back.
    queue: Option<mpsc::Receiver<Message>>,
    /// What goes before all that waits.
    first: Option<Message>,
    /// The peer is owed a sign of life.
    greets: bool,
    /// Nothing was sent since the last look.
    is_quiet: bool,
    /// Who pulls.
    transport: Option<Waker>,
    /// Runs while `first` is a notice that waits for company.
    pause: Option<BoxFuture<'static, ()>>,
    ends: Ends,
}

/// The batches of one stream, each made when the transport asks for it.
pub struct Batches {
    opening: Option<PeerBatch>,
    lent: Arc<Mutex<Lent>>,
}

fn lock(lent: &Mutex<Lent>) -> MutexGuard<'_, Lent> {
    lent.lock().expect("no holder of an outbox panics and goes on")
}

impl Outbox {
    /// Lends a queue to a stream that begins with `opening` and, if there is one, `first`.
    pub fn lend(
        queue: mpsc::Receiver<Message>,
        opening: PeerBatch,
        first: Option<Message>,
        ends: Ends,
    ) -> (Outbox, Batches) {
        let lent = Lent {
            queue: Some(queue),
            first,
            greets: false,
            is_quiet: true,
            transport: None,
            pause: None,
            ends,
        };
        let lent = Arc::new(Mutex::new(lent));
        (Outbox { lent: lent.clone() }, Batches { opening: Some(opening), lent })
    }

    /// Sends an empty batch if nothing was sent since the last call.
    pub fn greet_if_quiet(&self) {
        let transport = {
            let mut lent = lock(&self.lent);
            if !std::mem::replace(&mut lent.is_quiet, true) {
                return;
            }
            lent.greets = true;
            lent.transport.take()
        };
        if let Some(transport) = transport {
            transport.wake();
        }
    }

    /// Ends the stream and gives the queue back.
    pub fn take_back(self) -> mpsc::Receiver<Message> {
        lock(&self.lent).queue.take().expect("only this takes it, once")
    }
}

impl Stream for Batches {
    type Item = PeerBatch;

    fn poll_next(mut self: Pin<&mut Batches>, cx: &mut Context<'_>) -> Poll<Option<PeerBatch>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        lock(&self.lent).poll_batch(cx)
    }
}

impl Lent {
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<PeerBatch>> {
        let Some(queue) = &mut self.queue else { return Poll::Ready(None) };
        let mut messages = Vec::new();
        match self.first.take() {
            Some(first) => messages.push(first),
            None => match queue.poll_recv(cx) {
                Poll::Ready(Some(first)) => messages.push(first),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending if std::mem::take(&mut self.greets) => {}
                Poll::Pending => return self.wait(cx),
            },
        }
        gather(&mut messages, queue);
        if let [Message { payload: Payload::Committed { .. }, .. }] = messages[..]
            && !self.ends.peer_awaits.load(Ordering::Relaxed)
            && let Poll::Pending = queue.poll_recv(cx).map(|next| messages.extend(next))
        {
            let pause = self.pause.get_or_insert_with(|| self.ends.clock.sleep(NOTICE_PAUSE));
            if pause.poll_unpin(cx).is_pending() {
                self.first = messages.pop();
                return self.wait(cx);
            }
        }
        self.pause = None;
        if !messages.is_empty() {
            (self.is_quiet, self.greets) = (false, false);
        }
        Poll::Ready(Some(self.batch(messages)))
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<PeerBatch>> {
        match &mut self.transport {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn batch(&self, messages: Vec<Message>) -> PeerBatch {
        self.ends.sent.inc_by(messages.iter().map(|m| wire::size_bytes(m) as u64).sum());
        let messages = messages.into_iter().map(wire::encode).collect();
        PeerBatch { header: None, messages, awaits_commit: (self.ends.we_await)() }
    }
}

/// Adds what waits, up to the size of a batch.
fn gather(messages: &mut Vec<Message>, queue: &mut mpsc::Receiver<Message>) {
    let mut bytes: usize = messages.iter().map(wire::size_bytes).sum();
    while messages.len() < BATCH_MESSAGES
        && bytes < BATCH_BYTES
        && let Ok(message) = queue.try_recv()
    {
        bytes += wire::size_bytes(&message);
        messages.push(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::clock::ManualClock;
    use futures::StreamExt;

    fn message(term: u64) -> Message {
        let payload = Payload::HeartbeatResponse { read_seq: 0 };
        Message { to: 2, from: 1, term, payload }
    }

    fn notice(index: u64) -> Message {
        Message { to: 2, from: 1, term: 1, payload: Payload::Committed { index, term: 1 } }
    }

    fn next(batches: &mut Batches) -> Option<Option<usize>> {
        batches.next().now_or_never().map(|batch| batch.map(|batch| batch.messages.len()))
    }

    /// A stream, and the hands that a test moves it with.
    struct Bench {
        queue: mpsc::Sender<Message>,
        outbox: Outbox,
        batches: Batches,
        clock: ManualClock,
        peer_awaits: Arc<AtomicBool>,
        we_await: Arc<AtomicBool>,
        sent: IntCounter,
    }

    fn bench(first: Option<Message>) -> Bench {
        let sent = IntCounter::new("sent", "for this test").expect("a good name");
        let (queue, waiting) = mpsc::channel(8);
        let (clock, peer_awaits) = (ManualClock::default(), Arc::new(AtomicBool::new(false)));
        let we_await = Arc::new(AtomicBool::new(false));
        let asked = we_await.clone();
        let ends = Ends {
            clock: Arc::new(clock.clone()),
            peer_awaits: peer_awaits.clone(),
            we_await: Box::new(move || asked.load(Ordering::Relaxed)),
            sent: sent.clone(),
        };
        let (outbox, mut batches) = Outbox::lend(waiting, PeerBatch::default(), first, ends);
        assert_eq!(next(&mut batches), Some(Some(0)), "the opening");
        Bench { queue, outbox, batches, clock, peer_awaits, we_await, sent }
    }

    #[test]
    fn what_waits_leaves_as_one_batch_and_silence_as_an_empty_one() {
        let mut bench = bench(Some(message(1)));
        bench.queue.try_send(message(2)).expect("there is room");
        assert_eq!(next(&mut bench.batches), Some(Some(2)));
        assert!(bench.sent.get() > 0);
        bench.outbox.greet_if_quiet();
        assert_eq!(next(&mut bench.batches), None, "it has just spoken");
        bench.outbox.greet_if_quiet();
        assert_eq!(next(&mut bench.batches), Some(Some(0)));
        assert_eq!(next(&mut bench.batches), None);
    }

    #[test]
    fn a_notice_that_nobody_waits_for_leaves_with_the_next_message_or_after_a_moment() {
        let mut bench = bench(None);
        bench.queue.try_send(notice(1)).expect("there is room");
        assert_eq!(next(&mut bench.batches), None);
        bench.queue.try_send(message(2)).expect("there is room");
        assert_eq!(next(&mut bench.batches), Some(Some(2)), "in company");
        bench.queue.try_send(notice(3)).expect("there is room");
        assert_eq!(next(&mut bench.batches), None);
        bench.clock.advance(NOTICE_PAUSE);
        assert_eq!(next(&mut bench.batches), Some(Some(1)), "alone");
        assert_eq!(next(&mut bench.batches), None);
    }

    #[test]
    fn a_notice_that_is_waited_for_leaves_at_once() {
        let mut bench = bench(None);
        bench.peer_awaits.store(true, Ordering::Relaxed);
        bench.queue.try_send(notice(1)).expect("there is room");
        assert_eq!(next(&mut bench.batches), Some(Some(1)));
        // And whoever waits here says so.
        for awaits in [true, false] {
            bench.we_await.store(awaits, Ordering::Relaxed);
            bench.queue.try_send(message(2)).expect("there is room");
            let batch = bench.batches.next().now_or_never().flatten().expect("one message waits");
            assert_eq!(batch.awaits_commit, awaits);
        }
    }

    #[test]
    fn a_stream_that_lost_its_queue_ends_and_takes_nothing() {
        let bench = bench(None);
        let mut waiting = bench.outbox.take_back();
        bench.queue.try_send(message(1)).expect("there is room");
        let mut batches = bench.batches;
        assert_eq!(next(&mut batches), Some(None));
        assert!(waiting.try_recv().is_ok());
    }
}
