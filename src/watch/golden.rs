//! Runs the stories in `testdata/`: commands, a line of dashes, and what they print.
//! `REWRITE=1 cargo test` writes down what they print at present.

use super::catch_up::StepBudget;
use super::hub::{Hub, HubOptions, StreamId};
use super::model::{ModelStore, print};
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchResponse};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

struct Story {
    hub: Hub,
    store: ModelStore,
    streams: BTreeMap<String, StreamId>,
    now: Duration,
    woken: Arc<Mutex<Vec<String>>>,
}

impl Story {
    fn new(options: HubOptions) -> Story {
        let (store, streams) = (ModelStore::default(), BTreeMap::new());
        let woken = Arc::default();
        Story { hub: Hub::new(options, 1), store, streams, now: Duration::ZERO, woken }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut out = String::new();
        match words[0] {
            // options queue=2 bytes=100 response=50 fragment=60
            "options" => *self = Story::new(options(&words[1..])),
            "open" => {
                let id = self.hub.open_stream();
                self.streams.insert(words[1].to_owned(), id);
            }
            "close" => {
                let id = self.streams.remove(words[1]).expect("an open stream");
                self.hub.close_stream(id);
            }
            // create s key=a end=b start=2 id=7 prev progress noput nodelete fragment
            "create" => {
                let request = create_request(&words[2..]);
                self.hub.create(self.streams[words[1]], &request, self.now);
            }
            "cancel" => {
                self.hub.cancel(self.streams[words[1]], words[2].parse().expect("a watch id"));
            }
            "progress" => self.hub.request_progress(self.streams[words[1]]),
            // txn a=1 b=2 -c: one revision; each put or delete of it is published
            "txn" => {
                if let Some(revision) = self.store.write(&ops(&words[1..])) {
                    self.hub.publish(revision.main, &revision.changes);
                }
            }
            // missed a=1: a revision that arrives with a snapshot
            "missed" => {
                self.store.write(&ops(&words[1..]));
            }
            "install" => self.hub.snapshot_installed(self.store.revision()),
            "compact" => self.store.compact(words[1].parse().expect("a revision")),
            "step" => {
                let changes = words.get(1).map_or(1000, |n| n.parse().expect("a number"));
                let budget = StepBudget { changes, items: 1000 };
                let more = self.hub.catch_up(&self.store, budget);
                out += &format!("more={more}\n");
            }
            "tick" => {
                self.now += Duration::from_secs(words[1].parse().expect("seconds"));
                self.hub.tick_progress(self.now);
            }
            "next" => {
                let response = self.next(words[1]);
                out += &response.map_or("nothing\n".into(), |r| print(&r) + "\n");
            }
            "drain" => {
                while let Some(response) = self.next(words[1]) {
                    out += &(print(&response) + "\n");
                }
            }
            "stats" => out += &format!("{:?}\n", self.hub.stats()),
            other => panic!("no such command: {other}"),
        }
        let mut woken = self.woken.lock().expect("no reader panics");
        if !woken.is_empty() {
            out += &format!("wakes {}\n", woken.join(" "));
            woken.clear();
        }
        drop(woken);
        out
    }

    fn next(&mut self, stream: &str) -> Option<WatchResponse> {
        let reader = Reader { name: stream.to_owned(), woken: Arc::clone(&self.woken) };
        self.hub.poll_next(self.streams[stream], &Waker::from(Arc::new(reader)))
    }
}

/// Notes that it was woken.
struct Reader {
    name: String,
    woken: Arc<Mutex<Vec<String>>>,
}

impl Wake for Reader {
    fn wake(self: Arc<Self>) {
        self.woken.lock().expect("no reader panics").push(self.name.clone());
    }
}

fn options(words: &[&str]) -> HubOptions {
    let mut options = HubOptions { queue_items_per_watcher: 0, ..HubOptions::default() };
    for word in words {
        let (name, value) = word.split_once('=').expect("name=value");
        let value = value.parse().expect("a number");
        match name {
            "queue" => options.queue_items = value,
            "bytes" => options.queue_bytes = value,
            "response" => options.response_bytes = value,
            "fragment" => options.fragment_bytes = value,
            "progress" => options.progress_interval = Duration::from_secs(value as u64),
            other => panic!("no such option: {other}"),
        }
    }
    options
}

fn create_request(words: &[&str]) -> WatchCreateRequest {
    let mut request = WatchCreateRequest::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let bytes = || Bytes::from(value.replace("\\0", "\0"));
        let number = || value.parse().expect("a number");
        match name {
            "key" => request.key = bytes(),
            "end" => request.range_end = bytes(),
            "start" => request.start_revision = number(),
            "id" => request.watch_id = number(),
            "prev" => request.prev_kv = true,
            "progress" => request.progress_notify = true,
            "noput" => request.filters.push(0),
            "nodelete" => request.filters.push(1),
            "fragment" => request.fragment = true,
            other => panic!("no such option: {other}"),
        }
    }
    request
}

fn ops(words: &[&str]) -> Vec<(Bytes, Option<Bytes>)> {
    let op = |word: &&str| match word.split_once('=') {
        Some((key, value)) => (Bytes::from(key.to_owned()), Some(Bytes::from(value.to_owned()))),
        None => (Bytes::from(word.strip_prefix('-').expect("-key").to_owned()), None),
    };
    words.iter().map(op).collect()
}

/// Runs one file and returns it with the outputs put in.
fn play(text: &str) -> String {
    let mut story = Story::new(HubOptions::default());
    let (mut played, mut out, mut in_output) = (String::new(), String::new(), false);
    for line in text.lines() {
        if in_output {
            in_output = !line.is_empty();
            if in_output {
                continue;
            }
        }
        played += line;
        played += "\n";
        if line == "----" {
            played += &std::mem::take(&mut out);
            in_output = true;
        } else if !line.is_empty() && !line.starts_with('#') {
            out += &story.run(line);
        }
    }
    played
}

#[test]
fn stories() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/watch/testdata");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("the stories are there")
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "stories are missing: {files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable story");
        let played = play(&text);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, played).expect("a writable story");
        } else {
            assert_eq!(text, played, "{}", path.display());
        }
    }
}
