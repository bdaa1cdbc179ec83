//! The rules of the house, as tests: who may import whom, what may not occur and what to write in
//! its place, how long files, functions and lines may be.
//!
//! The rules are read off the text of the tree, with comments and the insides of strings blanked
//! out first. A failure lists every offence with its file and line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors of `src/`, from the ground up. A room imports only from floors below its own, or
/// from itself.
const FLOORS: &[(u8, &[&str])] = &[
    (1, &["raft", "env", "pb", "error", "metrics"]),
    (2, &["storage", "mvcc", "lease", "auth", "membership", "alarm", "config"]),
    (3, &["apply", "watch"]),
    (4, &["server"]),
    (5, &["api"]),
    (6, &["http", "tls"]),
    (7, &["main", "local_cluster", "memory", "bin"]),
];

/// Rooms that must not know each other, whatever their floors.
const STRANGERS: &[(&str, &[&str])] = &[
    ("raft", &["pb", "env", "error", "metrics"]),
    ("mvcc", &["raft", "env", "metrics"]),
    ("lease", &["raft", "env", "metrics"]),
    ("env", &["raft", "pb", "error", "metrics"]),
];

/// What does not occur on floors 1 to 3, `env/` aside: these take inputs and return data.
const IO: &[&str] = &[
    "tokio",
    "tonic",
    "madsim",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant",
    "SystemTime",
    "thread_rng",
];

/// What does not occur in the code of `src/`, where it may after all, and what to write instead.
const BANS: &[(&str, &[&str], &str)] = &[
    (".unwrap()", &[], "expect(\"why it cannot fail\")"),
    ("todo!(", &[], "the code, or Error::Unimplemented"),
    ("unimplemented!(", &[], "the code, or Error::Unimplemented"),
    ("dbg!(", &[], "tracing, or nothing"),
    ("#[ignore", &[], "a test that runs"),
    ("allow(dead_code)", &[], "no dead code"),
    ("static mut", &[], "a field of whoever owns the state"),
    ("lazy_static", &[], "a field of whoever owns the state"),
    ("thread_local!", &[], "a field of whoever owns the state"),
    ("LazyLock", &[], "a field of whoever owns the state"),
    ("OnceLock", &["metrics.rs"], "a field of whoever owns the state"),
    ("futures::select", &[], "tokio::select! with biased;"),
    ("FuturesUnordered", &[], "one task with one inbox"),
    ("JoinSet", &[], "tasks with named owners (the simulator lacks it)"),
    ("timeout_at", &[], "env.clock (the simulator lacks it)"),
    ("tokio::fs", &[], "env.disk"),
    ("std::thread", &["env/sync_thread.rs"], "a task; blocking work goes through env"),
    ("thread_rng", &[], "a stream seeded from env.seed"),
    ("rand::rng(", &[], "a stream seeded from env.seed"),
    ("rand::random", &["main.rs"], "a stream seeded from env.seed"),
    ("fastrand", &[], "a stream seeded from env.seed"),
    ("RandomState", &[], "BTreeMap, or a hasher with fixed keys"),
    ("ahash", &[], "BTreeMap, or a hasher with fixed keys"),
    ("Instant", &["env/"], "env.clock"),
    ("SystemTime", &["env/"], "env.clock"),
    ("tokio::time", &["env/", "local_cluster.rs"], "env.clock"),
    ("spawn_blocking", &["env/", "http/gateway/"], "env.disk"),
    ("std::fs", &["env/", "http/", "main.rs", "bin/"], "env.disk"),
    ("println!", &["main.rs", "local_cluster.rs", "bin/"], "tracing"),
    ("unsafe", &["env/", "local_cluster.rs", "memory.rs"], "safe code"),
    ("cfg(madsim)", &["lib.rs"], "a wider seam in env/"),
    ("cfg(not(madsim))", &["lib.rs"], "a wider seam in env/"),
];

/// Where the two builds may differ, and in how many places.
const MADSIM_BUDGET: &[(&str, usize)] = &[("src/lib.rs", 2), ("sim/", 3), ("tests/", 1)];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// A test that plays a structure against its twin is told in one piece.
const TEST_LINES_MAX: usize = 100;
const LINE_COLUMNS_MAX: usize = 100;

/// Words that say nothing, in the names of files and types.
const EMPTY_WORDS: &[&str] = &["manager", "utils", "util", "common", "helper", "helpers", "misc"];

/// One Rust file of the tree.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
    /// The text with comments and the insides of strings blanked out, line by line in place.
    code: String,
    /// `code` up to its unit tests.
    shipped: String,
}

impl Source {
    fn new(root: &Path, file: &Path) -> Source {
        let text = fs::read_to_string(file).expect("sources are readable UTF-8");
        let path = file.strip_prefix(root).expect("below the root");
        let path = path.to_str().expect("names are ASCII").replace('\\', "/");
        let code = blank(&text);
        let tests = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
        let shipped = code[..tests].to_string();
        Source { path, text, code, shipped }
    }

    fn in_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// The path below the root of its crate, and that root: of the server or of the simulator.
    fn in_crate(&self) -> Option<(&str, &str)> {
        let below = |root| Some((root, self.path.strip_prefix(root)?));
        below("src/").or(below("sim/src/"))
    }

    /// The room: the folder below `src/`, or the name of a file that stands there.
    fn room(&self) -> Option<&str> {
        let path = self.in_src()?;
        Some(path.split('/').next().expect("split gives one part").trim_end_matches(".rs"))
    }

    fn line_of(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
}

/// All Rust files of ours; those of `src/` that are unit tests as a whole are not shipped.
fn sources() -> Vec<Source> {
    let root = root();
    let mut files = vec![root.join("build.rs")];
    for dir in ["src", "sim", "tests", "benches", "fuzz"] {
        collect(&root.join(dir), &mut files);
    }
    files.sort();
    assert!(files.len() > 50, "the tree was not found below {}", root.display());
    let mut sources: Vec<Source> = files.iter().map(|file| Source::new(&root, file)).collect();
    let tests: BTreeSet<String> = sources.iter().flat_map(test_files).collect();
    for source in &mut sources {
        if tests.contains(&source.path) {
            source.shipped = String::new();
        }
    }
    sources
}

/// The files that this one declares with `#[cfg(test)] mod name;`.
fn test_files(source: &Source) -> Vec<String> {
    let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let own = source.path.trim_end_matches(".rs");
    let folder = if own.ends_with("/mod") || own.ends_with("/lib") { folder } else { own };
    let declared = source.code.split("#[cfg(test)]\nmod ").skip(1);
    let names = declared.filter_map(|rest| rest.split_once(';').map(|(name, _)| name));
    let names = names.filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    names.map(|name| format!("{folder}/{name}.rs")).collect()
}

/// Blanks out comments and the insides of strings and characters; every line stays in its place.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => at + line_end(&bytes[at..]),
            [b'/', b'*', ..] => at + find(&bytes[at..], b"*/") + 2,
            [b'r', b'"' | b'#', ..] if !is_word(bytes, at) => at + raw_string(&bytes[at..]),
            [b'"', ..] => at + 1 + quoted(&bytes[at + 1..], b'"'),
            [b'\'', b'\\', ..] => at + 3 + quoted(&bytes[at + 3..], b'\''),
            [b'\'', _, b'\'', ..] => at + 3,
            _ => at + 1,
        };
        let end = end.min(bytes.len());
        if end > at + 1 {
            for byte in &mut out[at..end] {
                *byte = if *byte == b'\n' { b'\n' } else { b' ' };
            }
        }
        at = end;
    }
    // Letters beyond ASCII occur in comments and strings only, or fail their own test.
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line_end(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|part| part == what).unwrap_or(bytes.len())
}

/// The bytes up to and with the closing quote.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The bytes of a raw string, or one byte where none begins.
fn raw_string(bytes: &[u8]) -> usize {
    let hashes = bytes[1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(1 + hashes) != Some(&b'"') {
        return 1;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    2 + hashes + find(&bytes[2 + hashes..], &close) + close.len()
}

fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

/// The paths after each `crate::` and `super::` of a file's shipped code, as lists of names from
/// the crate's root on. `use crate::{a, b}` is taken apart.
fn imports(source: &Source) -> Vec<(usize, Vec<String>)> {
    let (Some((_, path)), code) = (source.in_crate(), &source.shipped) else { return Vec::new() };
    let folder: Vec<&str> = path.split('/').collect();
    let folder = &folder[..folder.len() - 1];
    let above = &folder[..folder.len().saturating_sub(1)];
    let parent = if path.ends_with("/mod.rs") { above } else { folder };
    let mut found = Vec::new();
    for (word, base) in [("crate::", &[][..]), ("super::", parent)] {
        for (at, _) in code.match_indices(word) {
            if is_word(code.as_bytes(), at) || code[..at].ends_with(':') {
                continue;
            }
            for names in branches(&code[at + word.len()..]) {
                let base = base.iter().map(|name| name.to_string());
                found.push((source.line_of(at), base.chain(names).collect()));
            }
        }
    }
    found
}

/// The first two names of each path at the start of `code`: `a::b`, `{a::b, c}`, `a::{b, c}`.
fn branches(code: &str) -> Vec<Vec<String>> {
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_string()
    };
    if let Some(inside) = code.strip_prefix('{') {
        return split_braces(inside).into_iter().flat_map(branches).collect();
    }
    let first = word(code);
    let Some(rest) = code[first.len()..].strip_prefix("::") else { return vec![vec![first]] };
    match rest.strip_prefix('{') {
        Some(inside) => split_braces(inside)
            .into_iter()
            .map(|branch| vec![first.clone(), word(branch)])
            .collect(),
        None => vec![vec![first.clone(), word(rest)]],
    }
}

/// The parts between the commas of a list in braces, which begins behind its brace.
fn split_braces(inside: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(inside[from..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(inside[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, rooms)| rooms.contains(&room)).map(|(floor, _)| *floor)
}

#[test]
fn nothing_imports_upward() {
    let mut offences = Vec::new();
    for source in sources() {
        let Some(room) = source.room().filter(|room| *room != "lib") else { continue };
        let Some(own) = floor(room) else {
            offences.push(format!("{}: {room} stands on no floor", source.path));
            continue;
        };
        for (line, names) in imports(&source) {
            let target = names[0].as_str();
            let Some(its) = floor(target).filter(|_| target != room) else { continue };
            let strangers = STRANGERS.iter().find(|(of, _)| *of == room);
            let strange = strangers.is_some_and(|(_, others)| others.contains(&target));
            if its >= own || strange {
                offences.push(format!("{}:{line}: {room} imports {target}", source.path));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn no_files_import_in_circles() {
    let sources = sources();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let files: BTreeSet<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    for source in &sources {
        let Some((root, _)) = source.in_crate() else { continue };
        for (_, names) in imports(source) {
            // The file is named by the most names that lead to one; the rest are in it.
            let files_of = |count: usize| {
                let path = format!("{root}{}", names[..count].join("/"));
                [format!("{path}.rs"), format!("{path}/mod.rs")]
            };
            let candidates = (1..=names.len()).rev().flat_map(files_of);
            let target = candidates.into_iter().find(|file| files.contains(file.as_str()));
            if let Some(target) = target.filter(|target| *target != source.path) {
                edges.entry(source.path.clone()).or_default().insert(target);
            }
        }
    }
    assert!(edges.len() > 200, "only {} files import anything", edges.len());
    let circled = edges.keys().filter(|file| reaches(&edges, file, file));
    let offences = circled.map(|file| {
        let others = edges[file].iter().filter(|other| reaches(&edges, other, file));
        format!("{file} imports itself by way of {:?}", others.collect::<Vec<_>>())
    });
    assert_none(offences.collect());
}

fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(file) = waiting.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                waiting.push(next);
            }
        }
    }
    false
}

/// Whether a ban's word occurs there by itself, not as a part of a longer name.
fn occurs_at(code: &str, at: usize, word: &str) -> bool {
    let starts = word.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends = word.ends_with(|c: char| c.is_ascii_alphanumeric());
    let after = code.as_bytes().get(at + word.len());
    let after = after.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let before = is_word(code.as_bytes(), at);
    !(starts && before || ends && after)
}

#[test]
fn floors_1_to_3_know_no_io() {
    let mut offences = Vec::new();
    for source in sources() {
        let room = source.room().unwrap_or("lib");
        if floor(room).is_none_or(|floor| floor > 3) || ["env", "pb"].contains(&room) {
            continue;
        }
        for word in IO {
            for (at, _) in source.shipped.match_indices(word) {
                if occurs_at(&source.shipped, at, word) {
                    let line = source.line_of(at);
                    offences.push(format!("{}:{line}: {word} on floor 1 to 3", source.path));
                }
            }
        }
    }
    assert_none(offences);
}

#[test]
fn what_is_banned_does_not_occur() {
    let mut offences = Vec::new();
    for source in sources() {
        let Some(path) = source.in_src() else { continue };
        for (word, allowed, instead) in BANS {
            if allowed.iter().any(|place| path.starts_with(place)) {
                continue;
            }
            for (at, _) in source.shipped.match_indices(word) {
                if occurs_at(&source.shipped, at, word) {
                    let line = source.line_of(at);
                    offences.push(format!("{}:{line}: {word}: write {instead}", source.path));
                }
            }
        }
    }
    assert_none(offences);
}

/// Unbiased, the order of its branches would differ from one process to the next.
#[test]
fn every_select_is_biased() {
    let mut offences = Vec::new();
    for source in sources() {
        for (at, word) in source.code.match_indices("select!") {
            let body = source.code[at + word.len()..].trim_start();
            let body = body.strip_prefix('{').map(str::trim_start);
            if body.is_some_and(|body| !body.starts_with("biased;")) {
                let line = source.line_of(at);
                offences.push(format!("{}:{line}: select! without biased;", source.path));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn the_two_builds_differ_in_few_places() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources() {
        let uses = source.code.matches("cfg(madsim)").count()
            + source.code.matches("cfg(not(madsim))").count();
        let budget = MADSIM_BUDGET.iter().find(|(place, _)| source.path.starts_with(place));
        let place = budget.map_or("elsewhere", |(place, _)| place);
        *counts.entry(place).or_default() += uses;
    }
    for (place, count) in counts {
        let budget = MADSIM_BUDGET.iter().find(|(of, _)| *of == place).map_or(0, |(_, n)| *n);
        assert!(count <= budget, "cfg(madsim) occurs {count} times in {place}, of {budget}");
    }
}

#[test]
fn files_open_with_a_sentence_and_stay_short() {
    let mut offences = Vec::new();
    for source in sources() {
        let (path, lines) = (&source.path, source.text.lines().count());
        if !source.text.starts_with("//! ") {
            offences.push(format!("{path}: opens without a sentence on what it is"));
        }
        if lines > FILE_LINES_MAX {
            offences.push(format!("{path}: {lines} lines, of {FILE_LINES_MAX}"));
        }
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
        if EMPTY_WORDS.iter().any(|word| name.split('_').any(|part| part == *word)) {
            offences.push(format!("{path}: the name says nothing"));
        }
        for word in ["TODO", "FIXME", "XXX"] {
            // This file has to name them.
            if path != "tests/tidy.rs" && source.text.contains(word) {
                offences.push(format!("{path}: {word}: do it, or file an issue"));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn lines_are_narrow_and_ascii() {
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let (path, number) = (&source.path, number + 1);
            if !line.is_ascii() {
                offences.push(format!("{path}:{number}: a letter beyond ASCII"));
            }
            if line.chars().count() > LINE_COLUMNS_MAX {
                offences.push(format!("{path}:{number}: over {LINE_COLUMNS_MAX} columns"));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn functions_fit_a_screen() {
    let mut offences = Vec::new();
    for source in sources() {
        let code = &source.code;
        for (at, _) in code.match_indices("fn ") {
            if is_word(code.as_bytes(), at) {
                continue;
            }
            let Some(end) = body_end(&code[at..]) else { continue };
            let lines = code[at..at + end].matches('\n').count() + 1;
            let is_shipped = at < source.shipped.len() && source.in_src().is_some();
            let most = if is_shipped { FUNCTION_LINES_MAX } else { TEST_LINES_MAX };
            if lines > most {
                let (path, line) = (&source.path, source.line_of(at));
                offences.push(format!("{path}:{line}: {lines} lines, of {most}"));
            }
        }
    }
    assert_none(offences);
}

/// Where the body of the function at the start ends; none for a declaration or a type.
fn body_end(code: &str) -> Option<usize> {
    let mut depth = 0_i32;
    let mut in_body = false;
    for (at, c) in code.char_indices() {
        match c {
            '{' if depth == 0 => {
                in_body = true;
                depth += 1;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ';' | ',' | '=' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
        if in_body && depth == 0 {
            return Some(at);
        }
    }
    None
}

#[test]
fn blanking_keeps_lines_and_hides_words() {
    let text = "let a = \"x{\\\"}\"; // }\nlet b = 'x'; let c: &'static str = r#\"{\"#;\n/* { */ d";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches('\n').count(), 2);
    assert!(!code.contains(['{', '}', '"']));
    assert!(code.contains("&'static str") && code.ends_with(" d"));
}

#[test]
fn imports_are_found_in_every_shape() {
    let two = |names: &[[&str; 2]]| {
        names.iter().map(|pair| pair.map(str::to_string).to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(branches("a::b::c;"), two(&[["a", "b"]]));
    assert_eq!(branches("{a::b, c::{d, e::f}};"), two(&[["a", "b"], ["c", "d"], ["c", "e"]]));
    assert_eq!(branches("a::{b, c};"), two(&[["a", "b"], ["a", "c"]]));
    assert_eq!(branches("a;"), [["a"]]);
}
