//! What applying an entry adds to the metrics.

use crate::apply::outcome::{Outcome, Response};
use crate::metrics::Metrics;
use crate::pb::etcdserverpb::ResponseOp;
use crate::pb::etcdserverpb::response_op::Response as Part;
use std::time::Duration;

/// An apply that takes longer is slow (etcd, `--warning-apply-duration`).
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Operations of one request.
#[derive(Default)]
struct Operations {
    ranges: u64,
    puts: u64,
    deletes: u64,
}

impl Operations {
    fn of(response: &Response) -> Operations {
        match response {
            Response::Put(_) => Operations { puts: 1, ..Operations::default() },
            Response::DeleteRange(_) => Operations { deletes: 1, ..Operations::default() },
            Response::Txn(txn) => {
                let mut operations = Operations::default();
                operations.add(&txn.responses);
                operations
            }
            _ => Operations::default(),
        }
    }

    fn add(&mut self, parts: &[ResponseOp]) {
        for part in parts {
            match &part.response {
                Some(Part::ResponseRange(_)) => self.ranges += 1,
                Some(Part::ResponsePut(_)) => self.puts += 1,
                Some(Part::ResponseDeleteRange(_)) => self.deletes += 1,
                Some(Part::ResponseTxn(txn)) => self.add(&txn.responses),
                None => {}
            }
        }
    }
}

/// Counts an entry that was applied.
pub fn applied(metrics: &Metrics, outcome: &Outcome, took: Duration) {
    if outcome.op.is_empty() {
        return;
    }
    let success = if outcome.result.is_ok() { "true" } else { "false" };
    let labels = ["v3", outcome.op, success];
    metrics.apply_duration_seconds.with_label_values(&labels).observe(took.as_secs_f64());
    if took > SLOW_APPLY {
        metrics.slow_apply_total.inc();
    }
    let Ok(response) = &outcome.result else { return };
    match response {
        Response::LeaseGrant { ttl, .. } => {
            metrics.lease_granted_total.inc();
            metrics.lease_ttl_total.observe(*ttl as f64);
        }
        Response::LeaseRevoke => metrics.lease_revoked_total.inc(),
        _ => {}
    }
    let operations = Operations::of(response);
    metrics.mvcc_range_total.inc_by(operations.ranges);
    metrics.mvcc_put_total.inc_by(operations.puts);
    metrics.mvcc_delete_total.inc_by(operations.deletes);
    if operations.ranges + operations.puts + operations.deletes > 1 {
        metrics.mvcc_txn_total.inc();
    }
    let changes = outcome.revisions.iter().flat_map(|revision| revision.changes.iter());
    let puts = changes.filter(|change| !change.deleted);
    let bytes: usize = puts.map(|change| change.kv.key.len() + change.kv.value.len()).sum();
    metrics.mvcc_total_put_size_in_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb as api;

    #[test]
    fn nested_operations_are_counted_and_more_than_one_is_a_transaction() {
        let metrics = Metrics::new();
        let part = |response| ResponseOp { response: Some(response) };
        let nested = api::TxnResponse {
            responses: vec![
                part(Part::ResponsePut(Default::default())),
                part(Part::ResponseRange(Default::default())),
            ],
            ..Default::default()
        };
        let txn = api::TxnResponse {
            responses: vec![
                part(Part::ResponseTxn(nested)),
                part(Part::ResponseDeleteRange(Default::default())),
            ],
            ..Default::default()
        };
        let mut outcome = Outcome::refusal_or(1, Ok(Response::Txn(txn)));
        outcome.op = "Txn";
        applied(&metrics, &outcome, Duration::from_millis(101));
        let figures = [
            &metrics.mvcc_range_total,
            &metrics.mvcc_put_total,
            &metrics.mvcc_delete_total,
            &metrics.mvcc_txn_total,
            &metrics.slow_apply_total,
        ];
        assert_eq!(figures.map(|figure| figure.get()), [1; 5]);
        let mut put = Outcome::refusal_or(1, Ok(Response::Put(Default::default())));
        put.op = "Put";
        applied(&metrics, &put, Duration::ZERO);
        assert_eq!((metrics.mvcc_put_total.get(), metrics.mvcc_txn_total.get()), (2, 1));
    }
}
