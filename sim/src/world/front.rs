//! Serves the KV service of a member straight from its handle.

use detcd::api::status::to_status;
use detcd::error::Error;
use detcd::pb::etcdserverpb::kv_server::{Kv, KvServer};
use detcd::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use detcd::server::handle::{Caller, Handle};
use std::net::SocketAddr;
use tonic::{Request, Response, Status};

struct Front(Handle);

pub async fn serve(handle: Handle, address: SocketAddr) -> Result<(), tonic::transport::Error> {
    let service = KvServer::new(Front(handle));
    tonic::transport::Server::builder().add_service(service).serve(address).await
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(to_status)
}

#[tonic::async_trait]
impl Kv for Front {
    async fn range(&self, r: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        answer(self.0.range(&Caller::default(), r.into_inner()).await)
    }

    async fn put(&self, r: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        answer(self.0.put(&Caller::default(), r.into_inner()).await)
    }

    async fn delete_range(
        &self,
        r: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        answer(self.0.delete_range(&Caller::default(), r.into_inner()).await)
    }

    async fn txn(&self, r: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        answer(self.0.txn(&Caller::default(), r.into_inner()).await)
    }

    async fn compact(
        &self,
        r: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        answer(self.0.compact(&Caller::default(), r.into_inner()).await)
    }
}
