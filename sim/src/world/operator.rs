//! The operator: does about quotas and alarms what a runbook says, while the faults go on and
//! after them.

use super::addresses::client_address;
use super::book::SharedBook;
use super::client::Caller;
use super::cluster::{Cluster, id_of};
use crate::history::Outcome;
use crate::model::{Delete, Request, Span};
use crate::moment::Nanos;
use crate::plan::Plan;
use crate::random::Stream;
use crate::timer;
use detcd::pb::etcdserverpb::alarm_request::AlarmAction;
use detcd::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use detcd::pb::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// How long one request of the operator may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The number under which the operator's requests stand in the history: behind all clients and
/// probes, however many members came later.
pub const CLIENT: u64 = 60;

/// Works until `until`: lists alarms and takes one back, compacts, or deletes everything.
pub async fn run(plan: Plan, book: SharedBook, until: Instant) {
    let mut chance = Stream::new(plan.seed, "operator");
    let members = plan.options.members;
    let mut caller = Caller::new(CLIENT, members, TIMEOUT, book.clone());
    loop {
        let pause = Duration::from_millis(chance.between(300, 3_000));
        if Instant::now() + pause >= until {
            return;
        }
        tokio::time::sleep(pause).await;
        let member = chance.below(members as u64) as usize;
        match chance.below(3) {
            0 => disarm_one(&book, member, &mut chance).await,
            1 => {
                let revision = book.lock().acknowledged_revision;
                caller.ask(member, Request::Compact { revision, physical: false }).await;
            }
            _ => {
                caller.ask(member, delete_all()).await;
            }
        }
    }
}

fn delete_all() -> Request {
    Request::Delete(Delete { span: Span::all(), prev_kv: false })
}

fn maintenance(member: usize) -> MaintenanceClient<Channel> {
    let uri = format!("http://{}", client_address(member));
    let endpoint = Endpoint::from_shared(uri).expect("an address is a valid URI");
    MaintenanceClient::new(endpoint.connect_lazy())
}

/// Asks for a change of alarms, or for a list of them; nothing if there was no answer.
async fn ask(member: usize, action: AlarmAction, alarm: AlarmMember) -> Vec<AlarmMember> {
    let AlarmMember { member_id, alarm } = alarm;
    let request = AlarmRequest { action: action.into(), member_id, alarm };
    let mut client = maintenance(member);
    match timer::timeout(TIMEOUT, client.alarm(request)).await {
        Ok(Ok(answer)) => answer.into_inner().alarms,
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

async fn disarm_one(book: &SharedBook, member: usize, chance: &mut Stream) {
    let raised = ask(member, AlarmAction::Get, AlarmMember::default()).await;
    if raised.is_empty() {
        return;
    }
    let alarm = *chance.pick(&raised);
    let gone = ask(member, AlarmAction::Deactivate, alarm).await;
    book.line(format_args!("the operator disarms {:x} of m{member}: {gone:?}", alarm.member_id));
    book.reach("alarm taken back by hand");
}

/// Makes room as the runbook says and waits until the members of `core` have taken their alarms
/// back. Alarms of members that are lost are taken back by hand.
pub async fn make_room(cluster: &Cluster, core: &[usize], until: Nanos) {
    let node = cluster.client_node(CLIENT + 1);
    let (cluster, core) = (cluster.clone(), core.to_vec());
    let work = node.spawn(async move {
        let book = cluster.book().clone();
        let mut caller = Caller::new(CLIENT, cluster.members(), TIMEOUT, book.clone());
        let raised = |member: usize| {
            let server = cluster.server(member);
            server.map(|s| s.shared().state().alarms.list(AlarmType::Nospace)).unwrap_or_default()
        };
        loop {
            if book.now() > until || book.is_broken() {
                return;
            }
            // A change that was asked for under the faults may have removed somebody since.
            let voters = book.lock().voters();
            let core: Vec<usize> = core.iter().copied().filter(|m| voters.contains(m)).collect();
            let Some(first) = core.first().copied() else { return };
            let own = |alarm: &AlarmMember| core.iter().any(|m| id_of(*m) == alarm.member_id);
            let mut made = false;
            if let Outcome::Done(reply) = caller.ask(first, delete_all()).await {
                let compact = Request::Compact { revision: reply.revision, physical: false };
                let compacted = caller.ask(first, compact).await;
                // A refusal says that this revision was compacted before.
                made = matches!(compacted, Outcome::Done(_) | Outcome::Refused(_));
            }
            for lost in raised(first).into_iter().filter(|alarm| !own(alarm)) {
                ask(first, AlarmAction::Deactivate, lost).await;
            }
            // A member above its quota refuses puts before its alarm is there.
            if made && raised(first).is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    work.await.expect("the operator does not panic");
}
