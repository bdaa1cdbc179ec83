//! What the clients ask for: each client draws its requests from a stream of its own.
//!
//! Every written value is unique (`c3-17` is the 17th write of client 3), so that whoever reads it
//! names the write that made it.

use crate::model::{
    Answer, Compare, Delete, NO_LEASE, Operand, Put, Range, Relation, Reply, Request, Span, Txn,
};
use crate::options::Workload;
use crate::random::Stream;
use std::collections::BTreeMap;

/// The requests of one client.
pub struct Generator {
    stream: Stream,
    /// Decides which transactions ask for what may be refused.
    odd: Stream,
    client: u64,
    workload: Workload,
    writes: u64,
    /// The newest version that this client saw of each key; 0 where it saw that there is none.
    seen: BTreeMap<String, i64>,
    /// The value that it saw last of each key.
    values: BTreeMap<String, String>,
    /// The newest revision that this client saw.
    revision: i64,
}

impl Generator {
    pub fn new(seed: u64, client: u64, workload: &Workload) -> Generator {
        Generator {
            stream: Stream::new(seed, &format!("client/{client}")),
            odd: Stream::new(seed, &format!("client/{client}/odd")),
            client,
            workload: workload.clone(),
            writes: 0,
            seen: BTreeMap::new(),
            values: BTreeMap::new(),
            revision: 1,
        }
    }

    /// The next request.
    pub fn request(&mut self) -> Request {
        let w = &self.workload.weights;
        let weights = [w.put, w.get, w.range, w.delete, w.transaction, w.compact];
        match self.stream.weighted(&weights) {
            0 => self.put(),
            1 => self.get(),
            2 => self.range(),
            3 => self.delete(),
            4 => self.transaction(),
            _ => self.compact(),
        }
    }

    /// Learns from an answer, as a client that compares and swaps does.
    pub fn learn(&mut self, request: &Request, reply: &Reply) {
        self.revision = self.revision.max(reply.revision);
        match (request, &reply.answer) {
            (Request::Put(put), _) => {
                self.seen.insert(put.key.clone(), reply.revision);
                self.values.insert(put.key.clone(), put.value.clone());
            }
            (Request::Range(range), Answer::Range { kvs, .. }) if range.revision == 0 => {
                if range.span.end.is_empty() && !range.count_only {
                    self.seen.insert(range.span.key.clone(), 0);
                }
                for kv in kvs {
                    self.seen.insert(kv.key.clone(), kv.mod_revision);
                    if !range.keys_only {
                        self.values.insert(kv.key.clone(), kv.value.clone());
                    }
                }
            }
            (_, _) => {}
        }
    }

    fn key(&mut self) -> String {
        format!("k{:02}", self.stream.below(self.workload.keys))
    }

    fn value(&mut self) -> String {
        self.writes += 1;
        let tag = format!("c{}-{}", self.client, self.writes);
        // Some values are large enough to span sectors and to fill segments.
        match self.stream.below(20) {
            0 => format!("{tag}{}", ".".repeat(self.stream.log_between(200, 3_000) as usize)),
            _ => tag,
        }
    }

    fn span(&mut self) -> Span {
        let (a, b) = (self.key(), self.key());
        match self.stream.below(6) {
            0 => Span::all(),
            1 => Span { key: a, end: "\0".into() },
            2 => Span::one(a),
            _ => Span { key: a.clone().min(b.clone()), end: format!("{}x", a.max(b)) },
        }
    }

    fn put(&mut self) -> Request {
        let prev_kv = self.stream.chance(200);
        Request::Put(Put { prev_kv, ..Put::of(self.key(), self.value()) })
    }

    fn get(&mut self) -> Request {
        let span = Span::one(self.key());
        Request::Range(Range { serializable: self.stream.chance(150), ..Range::of(span) })
    }

    fn range(&mut self) -> Request {
        let mut range = Range::of(self.span());
        range.serializable = self.stream.chance(200);
        if self.stream.chance(250) {
            range.revision = self.old_revision();
        }
        if self.stream.chance(300) {
            range.limit = self.stream.between(1, 5) as i64;
        }
        range.count_only = self.stream.chance(100);
        range.keys_only = !range.count_only && self.stream.chance(100);
        range.descending = self.stream.chance(150);
        Request::Range(range)
    }

    fn delete(&mut self) -> Request {
        let span = if self.stream.chance(250) { self.span() } else { Span::one(self.key()) };
        Request::Delete(Delete { span, prev_kv: self.stream.chance(300) })
    }

    fn old_revision(&mut self) -> i64 {
        let newest = self.revision as u64;
        self.stream.between(newest.saturating_sub(30).max(1), newest + 1) as i64
    }

    /// Compares what this client saw of up to three keys, writes them if nothing changed, and reads
    /// them otherwise.
    fn transaction(&mut self) -> Request {
        let mut keys: Vec<String> = (0..self.stream.between(1, 3)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let mut txn = Txn { compares: Vec::new(), success: Vec::new(), failure: Vec::new() };
        for key in keys {
            if let Some(seen) = self.seen.get(&key).filter(|_| self.stream.chance(700)) {
                txn.compares.push(self.compare(key.clone(), *seen));
            }
            let write = match self.stream.below(8) {
                0 => Request::Delete(Delete { span: Span::one(key.clone()), prev_kv: true }),
                1 => Request::Range(Range::of(Span::one(key.clone()))),
                _ => {
                    let prev_kv = self.stream.chance(300);
                    Request::Put(Put { prev_kv, ..Put::of(key.clone(), self.value()) })
                }
            };
            txn.success.push(write);
            txn.failure.push(Request::Range(Range::of(Span::one(key))));
        }
        if self.stream.chance(150) {
            txn.success.push(Request::Range(Range::of(Span::all())));
        }
        match self.odd.below(12) {
            // Refused in whole if that is compacted by then, or not there yet.
            0 => {
                let key = format!("k{:02}", self.odd.below(self.workload.keys));
                let newest = self.revision as u64;
                let revision = self.odd.between(newest.saturating_sub(40).max(1), newest + 1);
                let range = Range { revision: revision as i64, ..Range::of(Span::one(key)) };
                txn.success.push(Request::Range(range));
            }
            // Refused in whole, also what comes before.
            1 => {
                let put = Put::of("odd", format!("o{}-{}", self.client, self.writes));
                txn.success.push(Request::Put(Put { lease: NO_LEASE, ..put }));
            }
            _ => {}
        }
        Request::Txn(txn)
    }

    fn compare(&self, key: String, seen: i64) -> Compare {
        let (relation, operand) = match seen {
            0 => (Relation::Equal, Operand::Create(0)),
            seen if seen % 3 == 0 && self.values.contains_key(&key) => {
                (Relation::Equal, Operand::Value(self.values[&key].clone()))
            }
            seen if seen % 5 == 0 => (Relation::Less, Operand::Mod(seen + 1)),
            seen if seen % 7 == 0 => (Relation::NotEqual, Operand::Version(0)),
            seen => (Relation::Equal, Operand::Mod(seen)),
        };
        Compare { key, relation, operand }
    }

    fn compact(&mut self) -> Request {
        let behind = self.stream.log_between(1, 60) as i64;
        let revision = (self.revision - behind).max(1);
        Request::Compact { revision, physical: self.stream.chance(300) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::options::Mode;
    use std::collections::BTreeSet;

    #[test]
    fn written_values_are_unique_and_swaps_succeed_and_fail() {
        let mut workload = Workload::draw(3, Mode::Safety);
        workload.weights.transaction = 5;
        let mut model = Model::default();
        let mut clients: Vec<_> = (0..3).map(|c| Generator::new(3, c, &workload)).collect();
        let mut values = BTreeSet::new();
        let (mut succeeded, mut failed, mut written) = (0, 0, 0);
        for round in 0..3000 {
            let client = &mut clients[round % 3];
            let request = client.request();
            let reply = model.apply(&request);
            client.learn(&request, &reply);
            match (&request, &reply.answer) {
                (Request::Put(put), _) => {
                    written += 1;
                    values.insert(put.value.clone());
                }
                (_, Answer::Txn { succeeded: true, .. }) => succeeded += 1,
                (_, Answer::Txn { succeeded: false, .. }) => failed += 1,
                (_, _) => {}
            }
        }
        assert_eq!(values.len(), written);
        assert!(succeeded > 50 && failed > 20, "{succeeded} succeeded, {failed} failed");
    }
}
