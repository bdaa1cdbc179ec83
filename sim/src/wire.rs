//! Between the model's requests and the messages of the API.

use crate::history::{Outcome, Refusal};
use crate::model::{
    Answer, Compare, Delete, KeyValue, Operand, Put, Range, Relation, Reply, Request, Txn,
};
use bytes::Bytes;
use detcd::apply::request::Op;
use detcd::pb::etcdserverpb as api;
use detcd::pb::etcdserverpb::kv_client::KvClient;
use detcd::pb::etcdserverpb::{compare, range_request, request_op, response_op};
use detcd::pb::mvccpb;
use tonic::Status;
use tonic::transport::Channel;

/// A write as it stands in the log.
pub fn op(request: &Request) -> Option<Op> {
    match request {
        Request::Put(p) => Some(Op::Put(put(p))),
        Request::Delete(d) => Some(Op::DeleteRange(delete(d))),
        Request::Txn(t) => Some(Op::Txn(txn(t))),
        Request::Range(_) | Request::Compact { .. } => None,
    }
}

pub fn range(range: &Range) -> api::RangeRequest {
    let order = match (range.descending, range.by_creation) {
        (true, _) => range_request::SortOrder::Descend,
        (false, true) => range_request::SortOrder::Ascend,
        (false, false) => range_request::SortOrder::None,
    };
    let target = match range.by_creation {
        true => range_request::SortTarget::Create,
        false => range_request::SortTarget::Key,
    };
    api::RangeRequest {
        key: bytes(&range.span.key),
        range_end: bytes(&range.span.end),
        limit: range.limit,
        revision: range.revision,
        sort_order: order.into(),
        sort_target: target.into(),
        max_create_revision: range.max_create,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..Default::default()
    }
}

pub fn put(put: &Put) -> api::PutRequest {
    api::PutRequest {
        key: bytes(&put.key),
        value: bytes(&put.value),
        prev_kv: put.prev_kv,
        lease: put.lease,
        ..Default::default()
    }
}

pub fn delete(delete: &Delete) -> api::DeleteRangeRequest {
    api::DeleteRangeRequest {
        key: bytes(&delete.span.key),
        range_end: bytes(&delete.span.end),
        prev_kv: delete.prev_kv,
    }
}

pub fn txn(txn: &Txn) -> api::TxnRequest {
    api::TxnRequest {
        compare: txn.compares.iter().map(comparison).collect(),
        success: txn.success.iter().map(operation).collect(),
        failure: txn.failure.iter().map(operation).collect(),
    }
}

fn operation(request: &Request) -> api::RequestOp {
    let request = match request {
        Request::Range(r) => request_op::Request::RequestRange(range(r)),
        Request::Put(p) => request_op::Request::RequestPut(put(p)),
        Request::Delete(d) => request_op::Request::RequestDeleteRange(delete(d)),
        Request::Txn(t) => request_op::Request::RequestTxn(txn(t)),
        Request::Compact { .. } => unreachable!("a transaction holds no compaction"),
    };
    api::RequestOp { request: Some(request) }
}

fn comparison(c: &Compare) -> api::Compare {
    let result = match c.relation {
        Relation::Equal => compare::CompareResult::Equal,
        Relation::Greater => compare::CompareResult::Greater,
        Relation::Less => compare::CompareResult::Less,
        Relation::NotEqual => compare::CompareResult::NotEqual,
    };
    let (target, union) = match &c.operand {
        Operand::Version(n) => (compare::CompareTarget::Version, compare::TargetUnion::Version(*n)),
        Operand::Create(n) => {
            (compare::CompareTarget::Create, compare::TargetUnion::CreateRevision(*n))
        }
        Operand::Mod(n) => (compare::CompareTarget::Mod, compare::TargetUnion::ModRevision(*n)),
        Operand::Value(v) => (compare::CompareTarget::Value, compare::TargetUnion::Value(bytes(v))),
    };
    api::Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(&c.key),
        target_union: Some(union),
        ..Default::default()
    }
}

pub fn range_reply(r: api::RangeResponse) -> Reply {
    let kvs = r.kvs.into_iter().map(key_value).collect();
    reply(&r.header, Answer::Range { kvs, count: r.count, more: r.more })
}

pub fn put_reply(r: api::PutResponse) -> Reply {
    reply(&r.header, Answer::Put { prev: r.prev_kv.map(key_value) })
}

pub fn delete_reply(r: api::DeleteRangeResponse) -> Reply {
    let prevs = r.prev_kvs.into_iter().map(key_value).collect();
    reply(&r.header, Answer::Delete { deleted: r.deleted, prevs })
}

pub fn txn_reply(r: api::TxnResponse) -> Reply {
    let header = r.header;
    let answers = r.responses.into_iter().map(answer).collect();
    reply(&header, Answer::Txn { succeeded: r.succeeded, answers })
}

pub fn compact_reply(r: api::CompactionResponse) -> Reply {
    reply(&r.header, Answer::Compact)
}

fn answer(op: api::ResponseOp) -> Answer {
    match op.response.expect("every operation of a transaction has an answer") {
        response_op::Response::ResponseRange(r) => range_reply(r).answer,
        response_op::Response::ResponsePut(r) => put_reply(r).answer,
        response_op::Response::ResponseDeleteRange(r) => delete_reply(r).answer,
        response_op::Response::ResponseTxn(r) => txn_reply(r).answer,
    }
}

fn reply(header: &Option<api::ResponseHeader>, answer: Answer) -> Reply {
    Reply { revision: header.as_ref().map_or(0, |h| h.revision), answer }
}

pub fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks a member once.
pub async fn send(client: &mut KvClient<Channel>, request: &Request) -> Result<Reply, Status> {
    Ok(match request {
        Request::Range(r) => range_reply(client.range(range(r)).await?.into_inner()),
        Request::Put(p) => put_reply(client.put(put(p)).await?.into_inner()),
        Request::Delete(d) => delete_reply(client.delete_range(delete(d)).await?.into_inner()),
        Request::Txn(t) => txn_reply(client.txn(txn(t)).await?.into_inner()),
        Request::Compact { revision, physical } => {
            let request = api::CompactionRequest { revision: *revision, physical: *physical };
            compact_reply(client.compact(request).await?.into_inner())
        }
    })
}

/// What a client knows after a failure. Only what was certainly never proposed has failed; all
/// else is unknown.
pub fn failure(status: &Status) -> Outcome {
    let message = status.message();
    let never_sent = [
        // madsim's words for a connection that did not come about.
        "transport error",
        "connection refused",
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: corrupt cluster",
        "etcdserver: mvcc: database space exceeded",
    ];
    if message.contains("has been compacted") {
        Outcome::Refused(Refusal::Compacted)
    } else if message.contains("is a future revision") {
        Outcome::Refused(Refusal::FutureRevision)
    } else if message == "etcdserver: requested lease not found" {
        Outcome::Refused(Refusal::LeaseNotFound)
    } else if never_sent.contains(&message) {
        Outcome::Failed(message.to_string())
    } else {
        Outcome::Unknown(format!("{:?} {message}", status.code()))
    }
}
