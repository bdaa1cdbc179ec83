//! The flight recordings of a real cluster: read, merged into one record, and turned into a plan
//! with the same faults.
//!
//! A recording is what `detcd` leaves in `<data-dir>/flight/`; those of some members are enough,
//! for each also tells what it saw of the others.

/// From recordings to what a timeline is made of.
pub mod merge;
/// From what went wrong to a plan.
pub mod replan;
#[cfg(test)]
mod tests;
/// What went wrong, when and for how long.
pub mod trouble;

use detcd::env::flight::line::{FORMAT, Line, What, Writer, id_of};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Microseconds since the Unix epoch.
pub type WallMicros = u64;

/// One line with the moment at which it was written.
///
/// The moment is that of the monotonic clock, moved to the wall's at the start of the process, so
/// that a jump of the wall clock moves nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub at: WallMicros,
    pub what: What,
}

/// One process of a member, from its first line to its last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// The moment at which the process's monotonic clock showed 0.
    pub origin: WallMicros,
    pub lines: Vec<Said>,
}

/// What one member recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    pub writer: Writer,
    /// 0 until it says so.
    pub id: u64,
    pub lives: Vec<Life>,
}

impl Life {
    pub fn from(&self) -> WallMicros {
        self.lines.first().map_or(0, |said| said.at)
    }

    pub fn to(&self) -> WallMicros {
        self.lines.last().map_or(0, |said| said.at)
    }

    /// Whether the process said that it stops.
    pub fn said_goodbye(&self) -> bool {
        self.lines.iter().any(|said| matches!(said.what, What::Stop { .. }))
    }
}

/// Reads recordings: files, or directories that hold them, also a data directory.
pub fn read(paths: &[String]) -> Result<Vec<Recording>, String> {
    let mut files = Vec::new();
    for path in paths {
        let found = files_of(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
        if found.is_empty() {
            return Err(format!("{path} holds no recording (*.jsonl)"));
        }
        files.extend(found);
    }
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        texts.push(text);
    }
    parse(&texts)
}

fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let below = path.join("flight");
    let dir = if below.is_dir() { below } else { path.to_path_buf() };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.path();
        if file.extension().is_some_and(|end| end == "jsonl") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the segments of any members, in any order of members; those of one in their own order.
pub fn parse(segments: &[String]) -> Result<Vec<Recording>, String> {
    let mut recordings: BTreeMap<String, Recording> = BTreeMap::new();
    for text in segments {
        let lines: Vec<Line> = text.lines().filter_map(Line::from_text).collect();
        let Some(Line { what: What::Segment(writer), mono_us, .. }) = lines.first() else {
            return Err("a recording begins with a line of kind \"segment\"".to_string());
        };
        if writer.format > FORMAT {
            let format = writer.format;
            return Err(format!("a recording of format {format} is newer than {FORMAT}"));
        }
        let recording = recordings.entry(writer.name.clone()).or_default();
        recording.writer = writer.clone();
        recording.take(&lines, *mono_us);
    }
    match recordings.is_empty() {
        true => Err("no recordings were given".to_string()),
        false => Ok(recordings.into_values().collect()),
    }
}

impl Recording {
    fn take(&mut self, lines: &[Line], mono_us: u64) {
        let starts = lines.iter().any(|line| matches!(line.what, What::Start { .. }));
        // A new process counts its time from 0 again, and says what it starts with.
        let goes_on = self.lives.last().is_some_and(|life| {
            let started = life.lines.iter().any(|said| matches!(said.what, What::Start { .. }));
            mono_us >= life.to() - life.origin && !(starts && started)
        });
        if !goes_on {
            let origin = lines.first().map_or(0, |line| line.wall_us.saturating_sub(line.mono_us));
            self.lives.push(Life { origin, ..Life::default() });
        }
        let life = self.lives.last_mut().expect("one was there, or was just pushed");
        for line in lines {
            if let What::Start { member, .. } = &line.what {
                self.id = id_of(member);
            }
            life.lines.push(Said { at: life.origin + line.mono_us, what: line.what.clone() });
        }
    }
}

#[cfg(test)]
mod reading {
    use super::*;

    fn segment(name: &str, wall_us: u64, mono_us: u64, whats: &[What]) -> String {
        let writer = Writer { format: FORMAT, name: name.into(), ..Writer::default() };
        let lines = std::iter::once(What::Segment(writer)).chain(whats.iter().cloned());
        lines.map(|what| Line { wall_us, mono_us, what }.to_text()).collect()
    }

    fn start() -> What {
        What::Start { member: "8e".into(), term: 1, last_index: 3, commit: 3, applied: 0 }
    }

    #[test]
    fn segments_of_one_process_are_one_life_and_a_restart_is_another() {
        let segments = [
            segment("m1", 1_000, 100, &[start()]),
            // The wall clock has jumped by then.
            segment("m1", 9_000_000, 500, &[What::ClockJump { by_us: 8_998_600 }]),
            segment("m0", 5, 5, &[]),
            segment("m1", 9_500_000, 40, &[start()]),
        ];
        let read = parse(&segments).expect("recordings");
        let names: Vec<&str> = read.iter().map(|r| r.writer.name.as_str()).collect();
        assert_eq!(names, ["m0", "m1"]);
        assert_eq!((read[1].id, read[1].lives.len()), (0x8e, 2));
        let ats: Vec<u64> = read[1].lives[0].lines.iter().map(|said| said.at).collect();
        assert_eq!(ats, [1_000, 1_000, 1_400, 1_400]);
    }

    #[test]
    fn a_torn_line_is_left_out_and_what_is_no_recording_is_refused() {
        let mut text = segment("m0", 1_000, 100, &[start()]);
        text.push_str("{\"wall_us\":17,\"mono");
        let read = parse(&[text]).expect("a recording");
        assert_eq!(read[0].lives[0].lines.len(), 2);
        assert!(parse(&["hello".into()]).is_err());
        let newer = segment("m0", 1, 1, &[]).replace("\"format\":1", "\"format\":2");
        assert!(parse(&[newer]).is_err_and(|text| text.contains("newer")));
    }
}
