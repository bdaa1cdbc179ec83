//! `detcdutl wal dump`: what the log of a member holds, in the order in which it was written, as
//! `etcd-dump-logs` shows that of etcd.

use crate::shown::{Shown, conf_change, request};
use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};
use detcd::env::real_disk::RealDisk;
use detcd::pb::raftpb;
use detcd::raft::message::{Entry, EntryKind, HardState};
use detcd::storage::frame::Record;
use detcd::storage::segment::SegmentHeader;
use detcd::storage::walk::{End, Step, walk};
use detcd::storage::{etcd_wal, wal_location};
use prost::Message;
use serde_json::json;
use std::io::{self, BufWriter, Write};
use std::ops::{ControlFlow, RangeInclusive};
use std::path::PathBuf;

/// The command line of it.
pub fn command() -> Command {
    let dir = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_parser(value_parser!(PathBuf)).help(help)
    };
    let index = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_parser(value_parser!(u64)).help(help)
    };
    let dump = Command::new("dump")
        .about("Shows the records of a log as they were written, and changes nothing")
        .long_about(
            "Shows the records of a log as they were written, and changes nothing. Entries that \
             were overwritten later stand there too. Ends at the first record that does not \
             verify. Under a member that runs the end may look torn.",
        )
        .arg(dir("data-dir", "The member's data directory; its log is found wherever it is"))
        .arg(dir("wal-dir", "The directory of the log itself"))
        .group(ArgGroup::new("place").args(["data-dir", "wal-dir"]).required(true))
        .arg(index("start-index", "The first index that is shown"))
        .arg(index("end-index", "The last index that is shown"));
    Command::new("wal").about("The log of a member").subcommand_required(true).subcommand(dump)
}

/// Prints the log; `format` is that of `--write-out`.
///
/// # Errors
/// With the file and the byte of the first damage.
pub fn dump(args: &ArgMatches, format: &str) -> Result<(), String> {
    let dir = place(args)?;
    let index = |name: &str| args.get_one::<u64>(name).copied();
    let (start, end) = (index("start-index"), index("end-index"));
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        is_json: format == "json",
        is_bounded: start.is_some() || end.is_some(),
        indexes: start.unwrap_or(0)..=end.unwrap_or(u64::MAX),
        entries: 0,
        has_begun: false,
    };
    let mut failed = Ok(());
    let walked = walk(&RealDisk, &dir, |step| match printer.print(step) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Err(error);
            ControlFlow::Break(())
        }
    });
    match failed.and_then(|()| printer.out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        printed => printed.map_err(|error| format!("cannot print: {error}"))?,
    }
    let shown = printer.entries;
    let end = walked.map_err(|error| format!("after {shown} entries: {error}"))?;
    if let Some(End { path, offset, torn }) = end {
        let path = path.display();
        match torn {
            None => eprintln!("{shown} entries; the log ends at byte {offset} of {path}"),
            Some(why) => eprintln!(
                "{shown} entries; at byte {offset} of {path} stands a torn batch ({why}), which \
                 the next start of the member cuts off"
            ),
        }
    }
    Ok(())
}

/// The directory of the log.
fn place(args: &ArgMatches) -> Result<PathBuf, String> {
    let named = args.get_one::<PathBuf>("wal-dir").cloned();
    let dir = match args.get_one::<PathBuf>("data-dir") {
        Some(data_dir) => wal_location::find(&RealDisk, &data_dir.join("member"))
            .map_err(|error| error.to_string())?,
        None => named.expect("clap wants one of the two"),
    };
    let etcds = etcd_wal::segments(&RealDisk, &dir);
    if etcds.is_ok_and(|segments| !segments.is_empty()) {
        return Err(format!("{} holds the log of an etcd; etcd-dump-logs shows it", dir.display()));
    }
    Ok(dir)
}

struct Printer<W: Write> {
    out: W,
    is_json: bool,
    /// Only entries of certain indexes are wanted.
    is_bounded: bool,
    indexes: RangeInclusive<u64>,
    entries: u64,
    has_begun: bool,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Segment(header) => self.begin(header),
            Step::Record { segment, offset, batch, record } => match record {
                Record::Entry(entry) if self.indexes.contains(&entry.index) => {
                    self.entries += 1;
                    self.entry(segment, offset, batch, &entry)
                }
                Record::HardState(state) if !self.is_bounded => self.hard_state(&state),
                Record::Reset { index, term } if self.indexes.contains(&index) => {
                    self.reset(index, term)
                }
                Record::Entry(_) | Record::HardState(_) | Record::Reset { .. } => Ok(()),
            },
        }
    }

    fn begin(&mut self, header: &SegmentHeader) -> io::Result<()> {
        let (name, metadata) = (header.name.file_name(), header.metadata);
        let (member, cluster) =
            (format!("{:x}", metadata.member_id), format!("{:x}", metadata.cluster_id));
        if self.is_json {
            let HardState { term, vote, commit } = header.hard_state;
            let line = json!({
                "type": "segment", "segment": name, "firstIndex": header.name.first_index,
                "nodeID": member, "clusterID": cluster,
                "term": term, "vote": format!("{vote:x}"), "commit": commit,
            });
            return writeln!(self.out, "{line}");
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            writeln!(self.out, "WAL metadata: nodeID={member} clusterID={cluster}")?;
            writeln!(self.out, "{:>6} {:>10}  {:<5} {:>9}  data", "term", "index", "type", "size")?;
        }
        writeln!(self.out, "# {name}")
    }

    fn entry(
        &mut self,
        segment: &SegmentHeader,
        offset: u64,
        batch: u64,
        entry: &Entry,
    ) -> io::Result<()> {
        let said = Said::of(entry);
        let kind = match entry.kind {
            EntryKind::Normal => "norm",
            EntryKind::ConfChange => "conf",
        };
        let (term, index, size) = (entry.term, entry.index, entry.data.len());
        if !self.is_json {
            return writeln!(self.out, "{term:>6} {index:>10}  {kind:<5} {size:>9}  {said}");
        }
        let mut line = json!({
            "type": kind, "term": term, "index": index, "size": size,
            "segment": segment.name.file_name(), "offset": offset, "batch": batch,
        });
        match said {
            Said::Nothing => {}
            Said::Request { id, shown } => {
                line["id"] = format!("{id:x}").into();
                line["request"] = shown.to_json();
            }
            Said::Change(shown) => line["change"] = shown.to_json(),
            Said::Unknown(error) => line["error"] = error.into(),
        }
        writeln!(self.out, "{line}")
    }

    fn hard_state(&mut self, state: &HardState) -> io::Result<()> {
        let HardState { term, vote, commit } = *state;
        if self.is_json {
            let vote = format!("{vote:x}");
            let line = json!({ "type": "state", "term": term, "vote": vote, "commit": commit });
            return writeln!(self.out, "{line}");
        }
        writeln!(self.out, "{term:>6} {:>10}  state {:>9}  vote={vote:x} commit={commit}", "", "")
    }

    fn reset(&mut self, index: u64, term: u64) -> io::Result<()> {
        if self.is_json {
            let line = json!({ "type": "reset", "term": term, "index": index });
            return writeln!(self.out, "{line}");
        }
        let what = "a checkpoint takes the place of the log up to here";
        writeln!(self.out, "{term:>6} {index:>10}  reset {:>9}  {what}", "")
    }
}

/// What the data of an entry says.
enum Said {
    /// The first entry of a leader.
    Nothing,
    Request {
        id: u64,
        shown: Shown,
    },
    Change(Shown),
    Unknown(String),
}

impl Said {
    fn of(entry: &Entry) -> Said {
        let said = match entry.kind {
            _ if entry.data.is_empty() => Ok(Said::Nothing),
            EntryKind::Normal => raftpb::Request::decode(entry.data.clone()).map(|decoded| {
                let shown = decoded.op.as_ref().map_or(Shown::Fields(Vec::new()), request);
                Said::Request { id: decoded.id, shown }
            }),
            EntryKind::ConfChange => raftpb::ConfChange::decode(entry.data.clone())
                .map(|change| Said::Change(conf_change(&change))),
        };
        said.unwrap_or_else(|error| Said::Unknown(error.to_string()))
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Said::Nothing => f.write_str("(empty: a leader's first)"),
            Said::Request { id, shown } => write!(f, "ID={id:x} {shown}"),
            Said::Change(shown) => write!(f, "{shown}"),
            Said::Unknown(error) => write!(f, "(does not decode: {error})"),
        }
    }
}
