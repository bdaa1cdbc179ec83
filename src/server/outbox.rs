//! What waits for one peer, and the stream through which the transport pulls it.

use super::wire;
use crate::pb::raftpb::PeerBatch;
use crate::raft::message::Message;
use futures::Stream;
use prometheus::IntCounter;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use tokio::sync::mpsc;

/// Messages and bytes that leave as one batch.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

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
    /// Bytes of messages handed to the transport.
    sent: IntCounter,
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
        sent: IntCounter,
    ) -> (Outbox, Batches) {
        let lent = Lent {
            queue: Some(queue),
            first,
            greets: false,
            is_quiet: true,
            transport: None,
            sent,
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
        let first = match self.first.take() {
            Some(first) => first,
            None => match queue.poll_recv(cx) {
                Poll::Pending if std::mem::take(&mut self.greets) => {
                    return Poll::Ready(Some(PeerBatch::default()));
                }
                Poll::Pending => {
                    match &mut self.transport {
                        Some(waker) => waker.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    return Poll::Pending;
                }
                arrived @ Poll::Ready(_) => match ready!(arrived) {
                    Some(first) => first,
                    None => return Poll::Ready(None),
                },
            },
        };
        let (batch, bytes) = gather(first, queue);
        self.sent.inc_by(bytes as u64);
        (self.is_quiet, self.greets) = (false, false);
        Poll::Ready(Some(batch))
    }
}

/// The message and what waits behind it, up to the size of a batch, and their bytes, about.
fn gather(first: Message, queue: &mut mpsc::Receiver<Message>) -> (PeerBatch, usize) {
    let mut bytes = wire::size_bytes(&first);
    let mut messages = vec![wire::encode(first)];
    while messages.len() < BATCH_MESSAGES
        && bytes < BATCH_BYTES
        && let Ok(message) = queue.try_recv()
    {
        bytes += wire::size_bytes(&message);
        messages.push(wire::encode(message));
    }
    (PeerBatch { header: None, messages }, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::Payload;
    use futures::{FutureExt, StreamExt};

    fn message(term: u64) -> Message {
        let payload = Payload::HeartbeatResponse { read_seq: 0 };
        Message { to: 2, from: 1, term, payload }
    }

    fn next(batches: &mut Batches) -> Option<Option<usize>> {
        batches.next().now_or_never().map(|batch| batch.map(|batch| batch.messages.len()))
    }

    #[test]
    fn what_waits_leaves_as_one_batch_and_silence_as_an_empty_one() {
        let sent = IntCounter::new("sent", "for this test").expect("a good name");
        let (queue, waiting) = mpsc::channel(8);
        let (outbox, mut batches) =
            Outbox::lend(waiting, PeerBatch::default(), Some(message(1)), sent.clone());
        queue.try_send(message(2)).expect("there is room");
        assert_eq!(next(&mut batches), Some(Some(0)), "the opening");
        assert_eq!(next(&mut batches), Some(Some(2)));
        assert!(sent.get() > 0);
        outbox.greet_if_quiet();
        assert_eq!(next(&mut batches), None, "it has just spoken");
        outbox.greet_if_quiet();
        assert_eq!(next(&mut batches), Some(Some(0)));
        assert_eq!(next(&mut batches), None);
    }

    #[test]
    fn a_stream_that_lost_its_queue_ends_and_takes_nothing() {
        let sent = IntCounter::new("sent", "for this test").expect("a good name");
        let (queue, waiting) = mpsc::channel(8);
        let (outbox, mut batches) = Outbox::lend(waiting, PeerBatch::default(), None, sent);
        assert_eq!(next(&mut batches), Some(Some(0)));
        let mut waiting = outbox.take_back();
        queue.try_send(message(1)).expect("there is room");
        assert_eq!(next(&mut batches), Some(None));
        assert!(waiting.try_recv().is_ok());
    }
}
