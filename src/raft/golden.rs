//! Runs the scripts in `testdata/`: a small group of cores, told step by step what arrives, what
//! is synced and what is lost, with the state printed after each step.
//!
//! A line is a command; what follows it, indented by two blanks, is what happened. Commands:
//!
//! ```text
//! group VOTERS [learners=A,B] [joiners=N] [pre_vote] [check_quorum] [uncommitted=BYTES]
//!       [one_entry_per_append] [initial_advance]
//! log NODE term=T TERMS        the node's durable log: one term per entry, before it starts
//! campaign N | tick N COUNT | propose N TEXT... | read N CTX | transfer N TARGET
//! conf N add=ID|learner=ID|promote=ID|remove=ID
//! sync N                       the oldest write of N becomes durable, its messages leave
//! deliver A->B                 everything under way from A to B arrives
//! drop A->B                    everything under way from A to B is lost
//! settle [N...]                sync and deliver among these (default: all) until nothing moves
//! crash N | start N | compact N INDEX | install N INDEX TERM | unreachable N PEER
//! suspect N PEER | disk N stalls|works
//! state                        one line a node
//! # anything                   a remark
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;

use crate::raft::core::{Config, RaftCore, Recovered};
use crate::raft::message::{
    ConfChange, ConfState, Entry, EntryKind, HardState, Message, NodeId, Payload,
};
use crate::raft::ready::Write;

struct Node {
    core: Option<RaftCore>,
    durable: Recovered,
    writes: VecDeque<Write>,
}

#[derive(Default)]
struct Group {
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    options: Vec<String>,
    out: String,
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn entry_text(entry: &Entry) -> String {
    let data = match entry.kind {
        EntryKind::Normal => String::from_utf8_lossy(&entry.data).into_owned(),
        EntryKind::ConfChange => format!("<{}>", String::from_utf8_lossy(&entry.data)),
    };
    format!("{}/{}:{data}", entry.index, entry.term)
}

fn entries_text(entries: &[Entry]) -> String {
    let texts: Vec<String> = entries.iter().map(entry_text).collect();
    format!("[{}]", texts.join(" "))
}

fn message_text(message: &Message) -> String {
    let Message { from, to, term, payload } = message;
    let payload = match payload {
        Payload::Append { prev_index, prev_term, commit, entries } => {
            let entries = entries_text(entries);
            format!("Append after {prev_index}/{prev_term} commit {commit} {entries}")
        }
        Payload::AppendResponse { index, reject: None } => format!("Appended to {index}"),
        Payload::AppendResponse { index, reject: Some(hint) } => {
            format!("AppendRejected {index} hint {}/{}", hint.index, hint.term)
        }
        other => format!("{other:?}"),
    };
    format!("{from}->{to} term {term} {payload}")
}

fn conf_change(text: &str) -> ConfChange {
    let (verb, id) = text.split_once('=').expect("verb=id");
    match verb {
        "add" => ConfChange::AddVoter(number(id)),
        "learner" => ConfChange::AddLearner(number(id)),
        "promote" => ConfChange::Promote(number(id)),
        "remove" => ConfChange::Remove(number(id)),
        other => panic!("no such change: {other}"),
    }
}

impl Group {
    fn say(&mut self, text: &str) {
        writeln!(self.out, "  {text}").expect("a string takes everything");
    }

    fn option(&self, name: &str) -> Option<u64> {
        let prefix = format!("{name}=");
        self.options.iter().find_map(|option| option.strip_prefix(&prefix)).map(number)
    }

    fn form(&mut self, args: &[&str]) {
        self.options = args[1..].iter().map(ToString::to_string).collect();
        let learners = self.options.iter().find_map(|o| o.strip_prefix("learners="));
        let learners = learners.map_or(Vec::new(), |ids| ids.split(',').map(number).collect());
        let voters = number(args[0]);
        let conf_state =
            ConfState { voters: (1..=voters).collect(), learners: learners.into_iter().collect() };
        let members = voters + conf_state.learners.len() as u64;
        for id in 1..=members {
            let durable = Recovered { conf_state: conf_state.clone(), ..Recovered::default() };
            self.nodes.insert(id, Node { core: None, durable, writes: VecDeque::new() });
        }
        for id in members + 1..=members + self.option("joiners").unwrap_or(0) {
            let durable = Recovered { conf_state: conf_state.clone(), ..Recovered::default() };
            self.nodes.insert(id, Node { core: None, durable, writes: VecDeque::new() });
        }
    }

    fn start(&mut self, id: NodeId) {
        let flag = |name: &str| self.options.iter().any(|option| option == name);
        let config = Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 3,
            max_append_bytes: if flag("one_entry_per_append") { 1 } else { 1 << 20 },
            max_inflight_messages: 4,
            max_inflight_bytes: 1 << 20,
            pre_vote: flag("pre_vote"),
            initial_tick_advance: flag("initial_advance"),
            check_quorum: flag("check_quorum"),
            seed: 7,
            max_uncommitted_bytes: self.option("uncommitted").unwrap_or(1 << 20) as usize,
            max_ready_bytes: 1 << 20,
        };
        let node = self.nodes.get_mut(&id).expect("a node of the group");
        if node.core.is_none() {
            node.core = Some(RaftCore::new(config, node.durable.clone()));
        }
    }

    fn core(&mut self, id: NodeId) -> &mut RaftCore {
        self.start(id);
        self.nodes.get_mut(&id).and_then(|node| node.core.as_mut()).expect("just started")
    }

    /// Takes what the core wants done, says it, and applies what is committed at once.
    fn drain(&mut self, id: NodeId) {
        while self.core(id).has_ready() {
            let ready = self.core(id).ready();
            if let Some(soft) = ready.soft_state {
                let (role, term, leader) = (soft.role, soft.term, soft.leader);
                self.say(&format!("{id} is {role:?} in term {term}, leader {leader}"));
            }
            for message in ready.messages {
                self.send(message, "sends");
            }
            if let Some(write) = ready.write {
                let mut text = format!("{id} writes #{}", write.seq);
                if let Some((index, term)) = write.restart {
                    write!(text, " restart after {index}/{term}").expect("a string");
                }
                if let Some(HardState { term, vote, commit }) = write.hard_state {
                    write!(text, " term {term} vote {vote} commit {commit}").expect("a string");
                }
                if !write.entries.is_empty() {
                    write!(text, " {}", entries_text(&write.entries)).expect("a string");
                }
                self.say(&text);
                for message in &write.messages {
                    self.say(&format!("  then {}", message_text(message)));
                }
                self.nodes.get_mut(&id).expect("a node").writes.push_back(write);
            }
            for read in ready.read_states {
                self.say(&format!("{id} read {} at {:?}", read.ctx, read.index));
            }
            if let Some(offer) = ready.snapshot {
                self.say(&format!("{id} is offered {offer:?}"));
            }
            if !ready.committed.is_empty() {
                self.say(&format!("{id} applies {}", entries_text(&ready.committed)));
            }
            for entry in ready.committed {
                if entry.kind == EntryKind::ConfChange {
                    let text = String::from_utf8_lossy(&entry.data).into_owned();
                    let conf = self.core(id).apply_conf_change(&conf_change(&text));
                    let (voters, learners) = (conf.voters, conf.learners);
                    self.say(&format!("{id} has voters {voters:?} learners {learners:?}"));
                }
                self.core(id).applied(entry.index);
            }
        }
    }

    fn send(&mut self, message: Message, verb: &str) {
        self.say(&format!("{} {verb} {}", message.from, message_text(&message)));
        self.links.entry((message.from, message.to)).or_default().push_back(message);
    }

    /// The oldest write becomes durable. False if there is none.
    fn sync(&mut self, id: NodeId) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node of the group");
        let Some(write) = node.writes.pop_front() else { return false };
        let durable = &mut node.durable;
        if let Some((index, term)) = write.restart {
            durable.entries.clear();
            (durable.snapshot_index, durable.snapshot_term) = (index, term);
        }
        durable.hard_state = write.hard_state.unwrap_or(durable.hard_state);
        if let Some(first) = write.entries.first() {
            durable.entries.retain(|entry| entry.index < first.index);
        }
        durable.entries.extend(write.entries);
        for message in write.messages {
            self.send(message, "after sync sends");
        }
        self.core(id).persisted(write.seq);
        self.drain(id);
        true
    }

    fn deliver(&mut self, from: NodeId, to: NodeId) -> bool {
        let messages = self.links.remove(&(from, to)).unwrap_or_default();
        let any = !messages.is_empty();
        for message in messages {
            if self.nodes[&to].core.is_some() {
                self.core(to).step(message);
                self.drain(to);
            }
        }
        any
    }

    fn settle(&mut self, ids: &[NodeId]) {
        loop {
            let mut moved = false;
            for &id in ids {
                while self.nodes[&id].core.is_some() && self.sync(id) {
                    moved = true;
                }
            }
            for (from, to) in self.links.keys().copied().collect::<Vec<_>>() {
                if ids.contains(&from) && ids.contains(&to) {
                    moved |= self.deliver(from, to);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn set_log(&mut self, args: &[&str]) {
        let id = number(args[0]);
        let term = number(args[1].strip_prefix("term=").expect("term=T"));
        let node = self.nodes.get_mut(&id).expect("a node of the group");
        node.durable.hard_state = HardState { term, vote: 0, commit: 0 };
        let entries = args[2..].iter().enumerate().map(|(position, term)| Entry {
            term: number(term),
            index: position as u64 + 1,
            kind: EntryKind::Normal,
            data: Bytes::from(format!("t{term}")),
        });
        node.durable.entries = entries.collect();
    }

    fn state(&mut self) {
        let mut lines = Vec::new();
        for (id, node) in &self.nodes {
            let Some(core) = &node.core else {
                lines.push(format!("{id}: down"));
                continue;
            };
            let HardState { term, vote, commit } = core.hard_state();
            let (first, last) = (core.first_index(), core.last_index());
            let terms: Vec<String> = (first..=last)
                .map(|index| core.term_at(index).expect("in the log").to_string())
                .collect();
            lines.push(format!(
                "{id}: {:?} term {term} vote {vote} commit {commit} persisted {} \
                 log {first}..{last} terms {}",
                core.role(),
                core.persisted_index(),
                terms.join(" ")
            ));
            for (peer, progress) in core.progress() {
                let (matched, next, state) = (progress.matched, progress.next, progress.state);
                lines.push(format!("   {peer} matched {matched} next {next} {state:?}"));
            }
        }
        for line in lines {
            self.say(&line);
        }
    }

    fn outcome<T: std::fmt::Debug, E: std::fmt::Debug>(&mut self, result: Result<T, E>) {
        if let Err(refused) = result {
            self.say(&format!("refused: {refused:?}"));
        }
    }

    /// The verbs that talk to one node.
    fn tell(&mut self, verb: &str, id: NodeId, args: &[&str]) {
        match verb {
            "campaign" => self.core(id).campaign(),
            "tick" => {
                for _ in 0..number(args[0]) {
                    self.core(id).tick();
                    self.drain(id);
                }
            }
            "propose" => {
                let batch = args.iter().map(|text| Bytes::from(text.to_string())).collect();
                let result = self.core(id).propose(batch);
                self.outcome(result);
            }
            "conf" => {
                let data = Bytes::from(args[0].to_string());
                let result = self.core(id).propose_conf_change(data, conf_change(args[0]));
                self.outcome(result);
            }
            "read" => {
                let result = self.core(id).read_index(number(args[0]));
                self.outcome(result);
            }
            "transfer" => {
                let result = self.core(id).transfer_leader(number(args[0]));
                self.outcome(result);
            }
            "compact" => self.core(id).compact(number(args[0])),
            "disk" => self.core(id).set_disk_stalled(args[0] == "stalls"),
            "suspect" => self.core(id).suspect(number(args[0])),
            "unreachable" => self.core(id).report_unreachable(number(args[0])),
            "install" => {
                let (index, term) = (number(args[0]), number(args[1]));
                let conf = self.nodes[&1].durable.conf_state.clone();
                assert!(self.core(id).prepare_install(index), "nothing to install");
                self.core(id).install_snapshot(index, term, conf);
            }
            "start" => {}
            other => panic!("no such command: {other}"),
        }
        self.drain(id);
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, args) = words.split_first().expect("a line has a word");
        let link = |text: &str| {
            let (from, to) = text.split_once("->").expect("A->B");
            (number(from), number(to))
        };
        match *verb {
            "group" => self.form(args),
            "log" => self.set_log(args),
            "state" => self.state(),
            "sync" => {
                if !self.sync(number(args[0])) {
                    self.say("nothing to sync");
                }
            }
            "deliver" => {
                let (from, to) = link(args[0]);
                if !self.deliver(from, to) {
                    self.say("nothing under way");
                }
            }
            "drop" => {
                let lost = self.links.remove(&link(args[0])).unwrap_or_default();
                self.say(&format!("{} lost", lost.len()));
            }
            "settle" => {
                let all: Vec<NodeId> = self.nodes.keys().copied().collect();
                let some: Vec<NodeId> = args.iter().map(|id| number(id)).collect();
                self.settle(if some.is_empty() { &all } else { &some });
            }
            "crash" => {
                let node = self.nodes.get_mut(&number(args[0])).expect("a node of the group");
                node.core = None;
                node.writes.clear();
            }
            _ => self.tell(verb, number(args[0]), &args[1..]),
        }
    }
}

/// Runs the commands of a script and returns it with what happened.
fn replay(script: &str) -> String {
    let mut group = Group::default();
    let mut result = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        result.push_str(line);
        result.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            group.run(line);
            result.push_str(&std::mem::take(&mut group.out));
        }
    }
    result
}

#[test]
fn scripts_tell_what_they_told_before() {
    let folder = std::env::var("RAFT_TESTDATA")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/src/raft/testdata").to_string());
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of the scripts")
        .map(|file| file.expect("a file of the folder").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 12, "only {} scripts in {folder}", paths.len());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a readable script");
        assert!(script.starts_with("# "), "{path:?} does not say why it exists");
        let told = replay(&script);
        assert_eq!(told, replay(&script), "{path:?}: the same inputs, another story");
        if std::env::var("REWRITE").is_ok() {
            std::fs::write(&path, told).expect("a writable script");
        } else {
            assert!(told == script, "{path:?} tells another story:\n{told}");
        }
    }
}
