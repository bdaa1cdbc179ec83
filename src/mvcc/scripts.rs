//! Golden scripts: stories told to a store, line by line, with what it answers.
//!
//! A line that begins with `> ` is a command; what follows up to the next command is the answer.
//! `REWRITE=1 cargo test` writes the answers anew: read the diff.

use crate::error::{Error, Result};
use crate::mvcc::change::Change;
use crate::mvcc::restore::Restored;
use crate::mvcc::revision::Revision;
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::compare::TargetUnion;
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use crate::pb::mvccpb::KeyValue;
use bytes::Bytes;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// `\0` is a zero byte; nothing else is escaped.
fn bytes(word: &str) -> Bytes {
    Bytes::from(word.replace("\\0", "\0").into_bytes())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\\0")
}

/// Leases below 100 exist.
fn lease_exists(id: i64) -> bool {
    id < 100
}

fn show(kv: &KeyValue) -> String {
    let mut line = format!("{} = \"{}\"", text(&kv.key), text(&kv.value));
    let (create, modified) = (kv.create_revision, kv.mod_revision);
    write!(line, " create {create} mod {modified} version {}", kv.version).unwrap();
    if kv.lease != 0 {
        write!(line, " lease {}", kv.lease).unwrap();
    }
    line
}

fn show_change(change: &Change) -> String {
    let mut line = format!("{}.{} ", change.kv.mod_revision, change.sub);
    if change.deleted {
        write!(line, "delete {}", text(&change.kv.key)).unwrap();
    } else {
        write!(line, "put {}", show(&change.kv)).unwrap();
    }
    if let Some(prev) = &change.prev {
        write!(line, ", before: {}", show(prev)).unwrap();
    }
    line
}

fn show_range(out: &mut String, indent: &str, found: &RangeResponse) {
    let more = if found.more { ", more" } else { "" };
    writeln!(out, "{indent}count {}{more}", found.count).unwrap();
    for kv in &found.kvs {
        writeln!(out, "{indent}{}", show(kv)).unwrap();
    }
}

fn show_txn(out: &mut String, indent: &str, response: &TxnResponse) {
    writeln!(out, "{indent}{}", if response.succeeded { "then" } else { "else" }).unwrap();
    let indent = &format!("{indent}  ");
    for op in &response.responses {
        match op.response.as_ref().unwrap() {
            Response::ResponseRange(found) => {
                let revision = found.header.as_ref().unwrap().revision;
                writeln!(out, "{indent}get at {revision}").unwrap();
                show_range(out, indent, found);
            }
            Response::ResponsePut(put) => {
                let prev = put.prev_kv.as_ref().map(show).unwrap_or_default();
                let revision = put.header.as_ref().unwrap().revision;
                writeln!(out, "{}", format!("{indent}put at {revision} {prev}").trim_end())
                    .unwrap();
            }
            Response::ResponseDeleteRange(delete) => {
                let revision = delete.header.as_ref().unwrap().revision;
                writeln!(out, "{indent}deleted {} at {revision}", delete.deleted).unwrap();
            }
            Response::ResponseTxn(nested) => show_txn(out, indent, nested),
        }
    }
}

/// The words of a command, taken from the front.
struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn next(&mut self) -> &'a str {
        self.0.next().expect("the command goes on")
    }

    /// The words up to the end of an operation.
    fn operands(&mut self) -> Vec<&'a str> {
        let mut words = Vec::new();
        while let Some(word) = self.0.next_if(|word| !matches!(*word, ";" | ")" | "else")) {
            words.push(word);
        }
        words
    }
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn number(words: &[&str], name: &str) -> i64 {
    option(words, name).map_or(0, |value| value.parse().expect("a number"))
}

/// The words that are neither flags nor options.
fn plain<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().copied().filter(|word| !word.starts_with('-') && !word.contains('=')).collect()
}

fn put(words: &[&str]) -> PutRequest {
    let names = plain(words);
    PutRequest {
        key: bytes(names[0]),
        value: names.get(1).map(|value| bytes(value)).unwrap_or_default(),
        lease: number(words, "lease"),
        prev_kv: words.contains(&"-prev"),
        ignore_value: words.contains(&"-ignore-value"),
        ignore_lease: words.contains(&"-ignore-lease"),
    }
}

fn delete(words: &[&str]) -> DeleteRangeRequest {
    let names = plain(words);
    DeleteRangeRequest {
        key: bytes(names[0]),
        range_end: names.get(1).map(|end| bytes(end)).unwrap_or_default(),
        prev_kv: words.contains(&"-prev"),
    }
}

fn range(words: &[&str]) -> RangeRequest {
    let names = plain(words);
    let target = match option(words, "sort") {
        None | Some("key") => 0,
        Some("version") => 1,
        Some("create") => 2,
        Some("mod") => 3,
        Some("value") => 4,
        Some(_) => 9,
    };
    let ordered = words.contains(&"-ascend");
    RangeRequest {
        key: bytes(names[0]),
        range_end: names.get(1).map(|end| bytes(end)).unwrap_or_default(),
        limit: number(words, "limit"),
        revision: number(words, "rev"),
        sort_order: if words.contains(&"-descend") { 2 } else { i32::from(ordered) },
        sort_target: target,
        serializable: false,
        keys_only: words.contains(&"-keys-only"),
        count_only: words.contains(&"-count-only"),
        min_mod_revision: number(words, "min-mod"),
        max_mod_revision: number(words, "max-mod"),
        min_create_revision: number(words, "min-create"),
        max_create_revision: number(words, "max-create"),
    }
}

/// `target(key)=operand` or `target(key,end)=operand`, with `=`, `!`, `<` or `>`.
fn compare(word: &str) -> Compare {
    let (target, rest) = word.split_once('(').expect("target(key)");
    let (keys, rest) = rest.split_once(')').expect("target(key)");
    let (key, end) = keys.split_once(',').unwrap_or((keys, ""));
    let (operator, operand) = rest.split_at(1);
    let parse = || operand.parse().expect("a number");
    let (target, union) = match target {
        "version" => (0, TargetUnion::Version(parse())),
        "create" => (1, TargetUnion::CreateRevision(parse())),
        "mod" => (2, TargetUnion::ModRevision(parse())),
        "value" => (3, TargetUnion::Value(bytes(operand))),
        "lease" => (4, TargetUnion::Lease(parse())),
        other => panic!("no compare target {other}"),
    };
    let result = "=><!".find(operator).expect("an operator") as i32;
    let (key, range_end) = (bytes(key), bytes(end));
    Compare { result, target, key, range_end, target_union: Some(union) }
}

/// `if COMPARE... then OP ; OP else OP ; OP`; an operation may be `( if ... )`.
fn txn(words: &mut Words<'_>) -> TxnRequest {
    let mut request = TxnRequest::default();
    assert_eq!(words.next(), "if");
    loop {
        match words.next() {
            "then" => break,
            word => request.compare.push(compare(word)),
        }
    }
    request.success = ops(words);
    if words.0.next_if_eq(&"else").is_some() {
        request.failure = ops(words);
    }
    request
}

fn ops(words: &mut Words<'_>) -> Vec<RequestOp> {
    let mut ops = Vec::new();
    while let Some(name) = words.0.next_if(|word| !matches!(*word, "else" | ")")) {
        let request = match name {
            "put" => Some(Request::RequestPut(put(&words.operands()))),
            "del" => Some(Request::RequestDeleteRange(delete(&words.operands()))),
            "get" => Some(Request::RequestRange(range(&words.operands()))),
            "nothing" => None,
            "(" => {
                let nested = txn(words);
                assert_eq!(words.next(), ")");
                Some(Request::RequestTxn(nested))
            }
            other => panic!("no operation {other}"),
        };
        ops.push(RequestOp { request });
        words.0.next_if_eq(&";");
    }
    ops
}

fn changes(out: &mut String, store: &Store, quiet: bool, changes: &[Change]) {
    writeln!(out, "revision {}", store.revision()).unwrap();
    for change in changes.iter().filter(|_| !quiet) {
        writeln!(out, "  {}", show_change(change)).unwrap();
    }
}

fn history(out: &mut String, store: &Store, words: &[&str]) {
    let from = plain(words)[0].parse().expect("a revision");
    let max = option(words, "max").map_or(usize::MAX, |max| max.parse().expect("a number"));
    let chunk = store.history(from, max, usize::MAX).expect("in memory");
    for (_, changes) in &chunk.revisions {
        changes.iter().for_each(|change| writeln!(out, "{}", show_change(change)).unwrap());
    }
    writeln!(out, "next {}{}", chunk.next, if chunk.done { "" } else { ", more" }).unwrap();
}

fn execute(store: &mut Store, quiet: &mut bool, out: &mut String, command: &str) -> Result<()> {
    let mut words = Words(command.split_whitespace().peekable());
    let name = words.next();
    if name == "txn" {
        let outcome = store.apply_txn(&txn(&mut words), &lease_exists)?;
        show_txn(out, "", &outcome.response);
        changes(out, store, *quiet, &outcome.changes);
        return Ok(());
    }
    let words: Vec<&str> = words.0.collect();
    let first = words.first().and_then(|word| word.parse::<i64>().ok());
    match name {
        "put" => {
            let outcome = store.put(&put(&words), &lease_exists)?;
            changes(out, store, *quiet, &outcome.changes);
            if let Some(prev) = outcome.response.prev_kv {
                writeln!(out, "prev_kv {}", show(&prev)).unwrap();
            }
        }
        "del" => {
            let outcome = store.delete_range(&delete(&words));
            writeln!(out, "deleted {}", outcome.response.deleted).unwrap();
            changes(out, store, *quiet, &outcome.changes);
            for prev in outcome.response.prev_kvs {
                writeln!(out, "prev_kv {}", show(&prev)).unwrap();
            }
        }
        "revoke" => {
            let keys: Vec<Bytes> = words.iter().map(|word| bytes(word)).collect();
            let deleted = store.delete_keys(&keys);
            changes(out, store, *quiet, &deleted);
        }
        "get" => {
            let found = store.range(&range(&words))?;
            let (kvs, more, count) = (found.kvs, found.more, found.count);
            show_range(out, "", &RangeResponse { header: None, kvs, more, count });
        }
        "compact" => store.compact(first.expect("a revision"))?,
        // From here on, writes tell their revision alone.
        "quiet" => *quiet = true,
        "sweep" => while store.compact_step(1) {},
        "history" => history(out, store, &words),
        "value" => match store.value_at(words[0].as_bytes(), words[1].parse().expect("a number")) {
            Some(kv) => writeln!(out, "{}", show(&kv)).unwrap(),
            None => writeln!(out, "nothing").unwrap(),
        },
        "hash" => {
            let (hash, compacted, at) = store.hash_kv(first.unwrap_or(0))?;
            writeln!(out, "hash {hash} compact revision {compacted} at {at}").unwrap();
        }
        "restore" => {
            let (revision, compact_revision) = (store.revision(), store.compact_revision());
            let before = store.state_hash();
            let records: Vec<_> = store.records(Revision::default()).collect();
            *store = Store::restore(records.into_iter(), Restored { revision, compact_revision });
            assert_eq!(store.state_hash(), before);
        }
        "state" => {
            let (revision, compacted) = (store.revision(), store.compact_revision());
            let (keys, bytes) = (store.key_count(), store.live_bytes());
            write!(out, "revision {revision} compact revision {compacted} keys {keys}").unwrap();
            writeln!(out, " records {} live bytes {bytes}", store.record_count()).unwrap();
        }
        other => panic!("no command {other}"),
    }
    Ok(())
}

/// Tells the story to an empty store, and writes it down again with the answers.
fn tell(script: &str) -> String {
    let mut store = Store::new();
    let mut told = String::new();
    let mut answering = false;
    let mut quiet = false;
    for line in script.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            if line.is_empty() || line.starts_with('#') {
                answering = false;
            }
            if !answering {
                writeln!(told, "{line}").unwrap();
            }
            continue;
        };
        answering = true;
        writeln!(told, "{line}").unwrap();
        if let Err(error) = execute(&mut store, &mut quiet, &mut told, command) {
            let error: Error = error;
            writeln!(told, "refused: {error}").unwrap();
        }
    }
    told
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mvcc/testdata")
}

#[test]
fn the_scripts_come_out_as_written() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("# "), "{path:?} does not say why it exists");
        let told = tell(&script);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, &told).unwrap();
        } else {
            assert_eq!(told, script, "{path:?}");
        }
        count += 1;
    }
    assert!(count >= 12, "only {count} scripts were found");
}
