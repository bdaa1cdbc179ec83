//! The Lock service: whoever is first in the queue of a name holds the lock.

use crate::api::front::Front;
use crate::api::status::to_status;
use crate::error::Error;
use crate::metrics::Call;
use crate::pb::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest};
use crate::pb::v3lockpb::lock_server::Lock;
use crate::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use crate::server::handle::{Caller, Handle};
use crate::server::recipes::queue_prefix;
use bytes::Bytes;
use tonic::{Request, Response, Status};

/// The seconds of the lease that a caller without one gets (etcd, `concurrency/session.go`).
pub const SESSION_TTL_SECS: i64 = 60;

/// Etcd's word for a waiter whose lease ran out, which its table does not give a code.
const SESSION_EXPIRED: &str = "mutex: session is expired";

pub struct LockService {
    front: Front,
    lock: Call,
    unlock: Call,
}

impl LockService {
    pub fn new(front: Front) -> LockService {
        let call = |name| front.call("v3lockpb.Lock", name);
        LockService { lock: call("Lock"), unlock: call("Unlock"), front }
    }
}

/// The caller's lease, or one of the usual length if it has none.
pub async fn session_lease(handle: &Handle, caller: &Caller, lease: i64) -> Result<i64, Error> {
    if lease != 0 {
        return Ok(lease);
    }
    let request = LeaseGrantRequest { ttl: SESSION_TTL_SECS, id: 0 };
    Ok(handle.lease_grant(caller, request).await?.id)
}

async fn lock(
    handle: &Handle,
    caller: &Caller,
    request: LockRequest,
) -> Result<LockResponse, Status> {
    let lease = session_lease(handle, caller, request.lease).await.map_err(to_status)?;
    let prefix = queue_prefix(&request.name);
    let entered = handle.take_turn(caller, &prefix, lease, Bytes::new()).await;
    let entered = entered.map_err(to_status)?;
    let entered = entered.ok_or_else(|| Status::unknown(SESSION_EXPIRED))?;
    Ok(LockResponse { header: Some(entered.header), key: entered.place.key })
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller: Caller, request| lock(handle, &caller, request).await;
        self.front.unary_status(&self.lock, request, work).await
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller: Caller, request: UnlockRequest| {
            let request = DeleteRangeRequest { key: request.key, ..Default::default() };
            let response = handle.delete_range(&caller, request).await?;
            Ok(UnlockResponse { header: response.header })
        };
        self.front.unary(&self.unlock, request, work).await
    }
}
