//! The Maintenance service: how a member is, and what operators do to it.

use crate::api::front::Front;
use crate::api::status::to_status;
use crate::error::Error;
use crate::metrics::Call;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::maintenance_server::Maintenance;
use crate::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, ResponseHeader, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use crate::server::backup::{Piece, Pieces};
use crate::server::handle::{Caller, Handle};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tonic::{Request, Response, Status};

/// The version whose schema a backup has, as the client prints it.
const BACKUP_VERSION: &str = "3.5.0";
/// Records that are hashed in one hold of the state.
const HASH_STEP_RECORDS: usize = 2_000;

pub struct MaintenanceService {
    front: Front,
    alarm: Call,
    status: Call,
    defragment: Call,
    hash: Call,
    hash_kv: Call,
    snapshot: Call,
    move_leader: Call,
    downgrade: Call,
}

impl MaintenanceService {
    pub fn new(front: Front) -> MaintenanceService {
        let call = |name| front.call("etcdserverpb.Maintenance", name);
        MaintenanceService {
            alarm: call("Alarm"),
            status: call("Status"),
            defragment: call("Defragment"),
            hash: call("Hash"),
            hash_kv: call("HashKV"),
            snapshot: call("Snapshot"),
            move_leader: call("MoveLeader"),
            downgrade: call("Downgrade"),
            front,
        }
    }
}

/// A backup on its way to a client.
struct SnapshotSession {
    pieces: Pieces,
    call: Call,
    header: ResponseHeader,
    code: i32,
}

impl SnapshotSession {
    async fn next(mut self) -> Option<(Result<SnapshotResponse, Status>, SnapshotSession)> {
        let response = match self.pieces.recv().await? {
            Ok(Piece { remaining, bytes }) => {
                let response = SnapshotResponse {
                    header: Some(self.header),
                    remaining_bytes: remaining,
                    blob: bytes,
                    version: BACKUP_VERSION.to_string(),
                };
                self.call.sent(response.encoded_len());
                Ok(response)
            }
            Err(error) => {
                let status = to_status(error);
                self.code = status.code() as i32;
                Err(status)
            }
        };
        Some((response, self))
    }
}

impl Drop for SnapshotSession {
    fn drop(&mut self) {
        self.call.end(self.code);
    }
}

/// The wish as one that the state machine knows: nothing unknown goes into the log.
fn check_alarm(request: &AlarmRequest) -> Result<(), Error> {
    if AlarmAction::try_from(request.action).is_err() {
        return Err(Error::UnknownEnum("alarm action"));
    }
    if AlarmType::try_from(request.alarm).is_err() {
        return Err(Error::UnknownEnum("alarm type"));
    }
    Ok(())
}

/// Like `Handle::hash_kv`, in steps, so that writes go on beside it.
async fn hash_kv(handle: &Handle, revision: i64) -> Result<HashKvResponse, Error> {
    let begun = handle.shared().env.clock.now();
    let mut cursor = handle.shared().state().store.open_hash(revision)?;
    loop {
        let step = handle
            .when_repaired(|state| state.store.hash_step(&mut cursor, HASH_STEP_RECORDS))
            .await?;
        if let Some(result) = step {
            let took = (handle.shared().env.clock.now() - begun).as_secs_f64();
            handle.metrics().mvcc_hash_rev_duration_seconds.observe(took);
            return Ok(HashKvResponse {
                header: Some(handle.header()),
                hash: result.hash,
                compact_revision: result.compact_revision,
                hash_revision: result.hash_revision,
            });
        }
        crate::env::yield_now().await;
    }
}

async fn move_leader(handle: &Handle, target: u64) -> Result<MoveLeaderResponse, Error> {
    if !handle.view().is_leader {
        return Err(Error::NotLeader);
    }
    if !handle.shared().state().members.voters().contains(&target) {
        return Err(Error::BadLeaderTransferee);
    }
    handle.move_leader(target).await?;
    Ok(MoveLeaderResponse::default())
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = BoxStream<'static, Result<SnapshotResponse, Status>>;

    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let work = |caller: Caller, request: AlarmRequest| async move {
            self.front.handle.check_voter()?;
            check_alarm(&request)?;
            self.front.handle.alarm(&caller, request).await
        };
        self.front.unary(&self.alarm, request, work).await
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let work = |_: Caller, _: StatusRequest| async { Ok(self.front.handle.status()) };
        self.front.unary(&self.status, request, work).await
    }

    /// There is nothing to defragment: files are written once, and merged in the background.
    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let work = |_: Caller, _: DefragmentRequest| async {
            self.front.handle.check_voter()?;
            Ok(DefragmentResponse::default())
        };
        self.front.unary(&self.defragment, request, work).await
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let work = |_: Caller, _: HashRequest| async {
            self.front.handle.check_voter()?;
            self.front.handle.hash().await
        };
        self.front.unary(&self.hash, request, work).await
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let work = |_: Caller, request: HashKvRequest| async move {
            self.front.handle.check_voter()?;
            hash_kv(&self.front.handle, request.revision).await
        };
        self.front.unary(&self.hash_kv, request, work).await
    }

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.front.admit("stream", request.metadata())?;
        let pieces = self.front.handle.backup().map_err(to_status)?;
        self.snapshot.begin();
        self.snapshot.received(request.get_ref().encoded_len());
        let header = self.front.handle.header();
        let session = SnapshotSession { pieces, call: self.snapshot.clone(), header, code: 0 };
        Ok(Response::new(futures::stream::unfold(session, SnapshotSession::next).boxed()))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let work = |_: Caller, request: MoveLeaderRequest| async move {
            move_leader(&self.front.handle, request.target_id).await
        };
        self.front.unary(&self.move_leader, request, work).await
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let work = |caller: Caller, request: DowngradeRequest| async move {
            self.front.handle.check_voter()?;
            self.front.handle.downgrade(&caller, &request).await
        };
        self.front.unary(&self.downgrade, request, work).await
    }
}
