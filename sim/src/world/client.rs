//! The clients: each on a node of its own, in a closed loop, over gRPC, without hidden retries.

use super::addresses::client_address;
use super::book::SharedBook;
use crate::history::{Operation, Outcome};
use crate::model::Request;
use crate::plan::Plan;
use crate::random::Stream;
use crate::timer;
use crate::wire;
use crate::workload::Generator;
use detcd::pb::etcdserverpb::kv_client::KvClient;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// How many of a thousand reads go to another member than the client's own.
const WANDERS_PER_MILLE: u64 = 300;

/// A client's way to all members.
#[derive(Clone)]
pub struct Caller {
    pub client: u64,
    book: SharedBook,
    timeout: Duration,
    channels: Vec<KvClient<Channel>>,
}

impl Caller {
    pub fn new(client: u64, members: usize, timeout: Duration, book: SharedBook) -> Caller {
        let channel = |member| {
            let uri = format!("http://{}", client_address(member));
            let endpoint = Endpoint::from_shared(uri).expect("an address is a valid URI");
            KvClient::new(endpoint.connect_lazy())
        };
        Caller { client, book, timeout, channels: (0..members).map(channel).collect() }
    }

    /// Asks `member`, once, and enters what came of it.
    pub async fn ask(&mut self, member: usize, request: Request) -> Outcome {
        let called = self.book.now();
        let answer = {
            // Pinned here, because it is large and would be moved at every step.
            let call = pin!(wire::send(&mut self.channels[member], &request));
            let call = pin!(self.book.unless_reset(member, call));
            timer::timeout(self.timeout, call).await
        };
        let outcome = match answer {
            Ok(Some(Ok(reply))) => Outcome::Done(reply),
            Ok(Some(Err(status))) => wire::failure(&status),
            Ok(None) => Outcome::Unknown("the connection was reset".into()),
            Err(_) => Outcome::Unknown("the client gave up".into()),
        };
        let returned = self.book.now();
        let operation = Operation {
            client: self.client,
            member,
            request,
            called,
            returned,
            outcome: outcome.clone(),
        };
        self.book.operation(operation);
        outcome
    }
}

/// One client's life: a request, a pause, the next one, until `until`.
pub async fn run(plan: Plan, client: u64, book: SharedBook, until: Instant) {
    let members = plan.seats();
    let timeout = Duration::from_millis(plan.workload.timeout_ms);
    let mut caller = Caller::new(client, members, timeout, book);
    let mut generator = Generator::new(plan.seed, client, &plan.workload);
    let mut chance = Stream::new(plan.seed, &format!("client/{client}/pace"));
    let pause_us =
        plan.duration_ms * 1000 * plan.workload.clients / plan.workload.operations.max(1);
    let mut member = chance.below(members as u64) as usize;
    let mut next = Instant::now() + Duration::from_micros(chance.below(pause_us + 1));
    while next < until {
        tokio::time::sleep_until(next).await;
        let request = generator.request();
        if matches!(request, Request::Range(_)) && chance.chance(WANDERS_PER_MILLE) {
            // A glance at somebody else, who may be out of date without knowing.
            let other = chance.below(members as u64) as usize;
            caller.timeout = timeout.min(Duration::from_millis(plan.options.election_ms));
            caller.ask(other, request).await;
            caller.timeout = timeout;
            next = Instant::now() + Duration::from_micros(chance.between(1, pause_us));
            continue;
        }
        let outcome = caller.ask(member, request.clone()).await;
        match &outcome {
            Outcome::Done(reply) => generator.learn(&request, reply),
            Outcome::Refused(_) => {}
            // A client that was let down tries its luck elsewhere.
            Outcome::Failed(_) | Outcome::Unknown(_) => {
                member = chance.below(members as u64) as usize;
            }
        }
        if chance.chance(50) {
            member = chance.below(members as u64) as usize;
        }
        let pause = Duration::from_micros(chance.between(pause_us / 2, pause_us * 3 / 2));
        // What was missed is not made up for: an outage must not end in a burst.
        next = (next + pause).max(Instant::now() + Duration::from_micros(100));
    }
}
