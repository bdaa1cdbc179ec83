//! Any bytes as a request of the log and of a client: decoding and checking give an answer.
#![no_main]

use detcd::api::validate;
use detcd::pb::{etcdserverpb, raftpb};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = raftpb::Request::decode(bytes) {
        let again = raftpb::Request::decode(request.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&request), "what is encoded decodes to the same");
    }
    if let Ok(batch) = raftpb::PeerBatch::decode(bytes) {
        let again = raftpb::PeerBatch::decode(batch.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&batch), "what is encoded decodes to the same");
    }
    if let Ok(request) = etcdserverpb::TxnRequest::decode(bytes) {
        drop(validate::check_txn(&request, 128));
    }
    if let Ok(request) = etcdserverpb::RangeRequest::decode(bytes) {
        drop(validate::check_range(&request));
    }
    if let Ok(request) = etcdserverpb::PutRequest::decode(bytes) {
        drop(validate::check_put(&request));
    }
});
