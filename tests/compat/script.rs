//! Scripts of etcdctl commands, and the transcript of what they printed.
//!
//! A line is a command in the shell's way of quoting. `| text` below it is its input. Before the
//! command may stand: `~`, what it prints is compared with figures masked and lines sorted;
//! `= NAME`, the second word it prints becomes `$NAME`; `@ NAME FIELD`, so does this field of what
//! it prints with `-w fields`; `& NAME`, it runs in the background until
//! `stop NAME LINES`, which waits for so many lines. `#` begins a comment. `RUN` in any place is a
//! word of this run, for keys that no other run touched.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A command in the foreground takes no longer, and so long a background one may stay silent.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// A command in the background, with what it printed so far.
struct Background {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

/// A script under way.
struct Run<'a> {
    etcdctl: &'a Path,
    endpoints: &'a str,
    names: BTreeMap<String, String>,
    background: BTreeMap<String, Background>,
    transcript: String,
}

/// Runs a script and gives its transcript.
pub fn run(path: &Path, etcdctl: &Path, endpoints: &str, run: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let text = text.replace("RUN", run);
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut run = Run {
        etcdctl,
        endpoints,
        names: BTreeMap::new(),
        background: BTreeMap::new(),
        transcript: String::new(),
    };
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        let mut input = String::new();
        while let Some(more) = lines.get(at).and_then(|line| line.strip_prefix('|')) {
            input.push_str(more.strip_prefix(' ').unwrap_or(more));
            input.push('\n');
            at += 1;
        }
        run.line(line, &input)?;
    }
    for (_, mut background) in std::mem::take(&mut run.background) {
        end(&mut background.child);
    }
    Ok(run.transcript)
}

/// Ends a process that we started; it may have ended of itself.
fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

impl Run<'_> {
    fn line(&mut self, line: &str, input: &str) -> Result<(), String> {
        self.transcript.push_str(&format!("> {line}\n"));
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["~", command @ ..] => {
                let (_, printed) = self.foreground(command, input)?;
                let named = self.with_names(&printed);
                self.transcript.push_str(&mask(&named));
            }
            ["=", name, command @ ..] => {
                let (_, printed) = self.foreground(command, input)?;
                let word = printed.split_whitespace().nth(1).unwrap_or("nothing");
                self.names.insert((*name).to_string(), word.to_string());
                self.print(&printed);
            }
            ["@", name, field, command @ ..] => {
                let (_, printed) = self.foreground(command, input)?;
                let mark = format!("\"{field}\" : ");
                let value = printed.split(&mark).nth(1).and_then(|rest| rest.lines().next());
                let value = value.unwrap_or("nothing");
                self.names.insert((*name).to_string(), value.to_string());
            }
            ["&", name, command @ ..] => self.start(name, command)?,
            ["stop", name, count] => {
                let count = count.parse().map_err(|_| format!("{line}: no number"))?;
                self.stop(name, count)?;
            }
            command => {
                let (status, printed) = self.foreground(command, input)?;
                self.print(&printed);
                if status != Some(0) {
                    self.transcript.push_str(&format!("status {status:?}\n"));
                }
            }
        }
        Ok(())
    }

    /// Adds to the transcript what is the same on every server.
    fn print(&mut self, printed: &str) {
        let named = self.with_names(printed);
        self.transcript.push_str(&scrub(&named));
    }

    /// Puts the names in the place of their values, which some formats print in decimal.
    fn with_names(&self, printed: &str) -> String {
        let mut printed = printed.to_string();
        // Short values are revisions, which are the same on both and part of other figures.
        for (name, value) in self.names.iter().filter(|(_, value)| value.len() > 8) {
            printed = printed.replace(value, &format!("${name}"));
            if let Ok(number) = u64::from_str_radix(value, 16) {
                printed = printed.replace(&number.to_string(), &format!("${name}"));
            }
        }
        printed
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.etcdctl);
        for word in words {
            let value = word.strip_prefix('$').and_then(|name| self.names.get(name));
            let named = word
                .split_once("=$")
                .and_then(|(flag, name)| Some(format!("{flag}={}", self.names.get(name)?)));
            command.arg(named.as_deref().or(value.map(String::as_str)).unwrap_or(word));
        }
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", self.endpoints);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn foreground(&self, words: &[&str], input: &str) -> Result<(Option<i32>, String), String> {
        let failed = |error: std::io::Error| format!("{words:?}: {error}");
        let mut child = self.command(words).spawn().map_err(failed)?;
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command that reads nothing may be gone by then.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = collect(&mut child);
        let begin = Instant::now();
        while child.try_wait().map_err(failed)?.is_none() {
            if begin.elapsed() > COMMAND_MAX {
                child.kill().map_err(failed)?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut errors = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut errors).map_err(failed)?;
        let status = child.wait().map_err(failed)?.code();
        let _ = output.1.join();
        let output = output.0.lock().expect("the reader does not panic");
        let mut printed = String::from_utf8_lossy(&output).into_owned();
        // The client's own log carries times and addresses of its process.
        for line in errors.lines().filter(|line| !line.starts_with('{')) {
            printed.push_str(&format!("{line}\n"));
        }
        Ok((status, printed))
    }

    fn start(&mut self, name: &str, words: &[&str]) -> Result<(), String> {
        let mut child = self.command(words).spawn().map_err(|e| format!("{words:?}: {e}"))?;
        let (output, _) = collect(&mut child);
        self.background.insert(name.to_string(), Background { child, output });
        Ok(())
    }

    fn stop(&mut self, name: &str, lines: usize) -> Result<(), String> {
        let mut background =
            self.background.remove(name).ok_or(format!("{name} was not started"))?;
        let begin = Instant::now();
        let printed = loop {
            let output = background.output.lock().expect("the reader does not panic").clone();
            let printed = String::from_utf8_lossy(&output).into_owned();
            if printed.lines().count() >= lines || begin.elapsed() > COMMAND_MAX {
                break printed;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        end(&mut background.child);
        self.print(&printed);
        Ok(())
    }
}

type Reader = std::thread::JoinHandle<()>;

/// Reads what a process prints, as it comes.
fn collect(child: &mut Child) -> (Arc<Mutex<Vec<u8>>>, Reader) {
    let mut stdout = child.stdout.take().expect("a pipe");
    let output = Arc::new(Mutex::new(Vec::new()));
    let sink = output.clone();
    let read = move || {
        let mut chunk = [0_u8; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut chunk) {
            sink.lock().expect("no panic here").extend_from_slice(&chunk[..count]);
        }
    };
    let reader = std::thread::Builder::new().spawn(read).expect("a thread to read with");
    (output, reader)
}

/// Takes out who leads and since which term: chance decides both.
fn scrub(printed: &str) -> String {
    let mut printed = printed.to_string();
    for mark in ["\"raft_term\":", "\"RaftTerm\" : ", "\"leader\":", "\"Leader\" : "] {
        let mut parts = printed.split(mark);
        let mut scrubbed = parts.next().unwrap_or_default().to_string();
        for part in parts {
            scrubbed.push_str(mark);
            scrubbed.push('_');
            scrubbed.push_str(part.trim_start_matches(|letter: char| letter.is_ascii_digit()));
        }
        printed = scrubbed;
    }
    printed
}

/// Figures, units and truth become signs, and the order of lines is left aside.
fn mask(printed: &str) -> String {
    let mut lines: Vec<String> = scrub(printed).lines().map(mask_line).collect();
    lines.sort();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn mask_line(line: &str) -> String {
    let mut masked = String::new();
    let mut word = String::new();
    for letter in line.chars().chain([' ']) {
        if letter.is_alphanumeric() || letter == '.' {
            word.push(letter);
            continue;
        }
        let figure = word.starts_with(|c: char| c.is_ascii_digit()) || word.contains('.');
        let varies = ["kB", "MB", "B", "ms", "s", "true", "false"].contains(&word.as_str());
        // Ids are computed from addresses, and so must be the same: they stay.
        let id = word.len() >= 15 && word.chars().all(|c| c.is_ascii_hexdigit());
        masked.push_str(if (figure || varies) && !id { "_" } else { &word });
        word.clear();
        // The width of a table follows its figures.
        if !((letter == ' ' || letter == '-') && masked.ends_with(letter)) {
            masked.push(letter);
        }
    }
    masked.trim_end().replace("_ _", "_").replace("__", "_")
}

/// Splits as a shell does: spaces part words, quotes keep them together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut any = false;
    for letter in line.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            ' ' if !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => {
                word.push(other);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}
