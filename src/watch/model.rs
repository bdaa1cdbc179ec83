//! The simplest store that watchers can be tested on, and a plain way to print responses.

use super::history::{History, Revision};
use crate::mvcc::change::Change;
use crate::pb::etcdserverpb::WatchResponse;
use crate::pb::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

#[derive(Default)]
pub struct ModelStore {
    live: BTreeMap<Bytes, KeyValue>,
    pub past: Vec<Revision>,
    pub compacted: i64,
}

impl ModelStore {
    pub fn revision(&self) -> i64 {
        1 + self.past.len() as i64
    }

    /// Applies a transaction; None if it changes nothing.
    pub fn write(&mut self, ops: &[(Bytes, Option<Bytes>)]) -> Option<Revision> {
        let main = self.revision() + 1;
        let mut changes = Vec::new();
        for (key, value) in ops {
            let prev = self.live.remove(key);
            if value.is_none() && prev.is_none() {
                continue;
            }
            let mut kv = KeyValue { key: key.clone(), mod_revision: main, ..Default::default() };
            if let Some(value) = value {
                kv.create_revision = prev.as_ref().map_or(main, |prev| prev.create_revision);
                kv.version = prev.as_ref().map_or(1, |prev| prev.version + 1);
                kv.value = value.clone();
                self.live.insert(key.clone(), kv.clone());
            }
            changes.push(Change {
                kv,
                prev,
                deleted: value.is_none(),
                prev_is_cold: false,
                sub: changes.len() as i64,
            });
        }
        if changes.is_empty() {
            return None;
        }
        self.past.push(Revision { main, changes: Arc::from(changes) });
        self.past.last().cloned()
    }

    pub fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }
}

impl History for ModelStore {
    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn history(
        &self,
        from: i64,
        to: i64,
        max_changes: usize,
    ) -> crate::error::Result<Vec<Revision>> {
        assert!(from >= self.compacted, "asked for {from}, compacted at {}", self.compacted);
        assert!(to <= self.revision(), "asked for the future");
        let mut found = Vec::new();
        let mut changes = 0;
        for revision in &self.past {
            if revision.main >= from && revision.main <= to && changes < max_changes {
                changes += revision.changes.len();
                found.push(revision.clone());
            }
        }
        Ok(found)
    }
}

/// One line for a response, with all that is not at its default.
pub fn print(response: &WatchResponse) -> String {
    let revision = response.header.as_ref().expect("the hub sets it").revision;
    let mut line = format!("w{} rev={revision}", response.watch_id);
    if response.created {
        line += " created";
    }
    if response.canceled {
        line += " canceled";
    }
    if response.compact_revision != 0 {
        write!(line, " compact={}", response.compact_revision).expect("to a string");
    }
    if !response.cancel_reason.is_empty() {
        write!(line, " reason={:?}", response.cancel_reason).expect("to a string");
    }
    if response.fragment {
        line += " fragment";
    }
    for event in &response.events {
        line += &print_event(event);
    }
    line
}

fn print_event(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a kv");
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let mut line = if event.r#type == 1 {
        format!(" [del {}@{}", text(&kv.key), kv.mod_revision)
    } else {
        format!(" [put {}={}@{} v{}", text(&kv.key), text(&kv.value), kv.mod_revision, kv.version)
    };
    if let Some(prev) = &event.prev_kv {
        write!(line, " was {}@{}", text(&prev.value), prev.mod_revision).expect("to a string");
    }
    line + "]"
}
