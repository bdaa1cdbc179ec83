//! What a flight recording consists of: one JSON object a line.
//!
//! A line carries states, counts and durations, and no keys or values. Ids are hexadecimal texts,
//! as everywhere else that a person reads them: JSON numbers lose digits beyond 2^53.

use crate::env::recorder::{RoleName, Standing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the lines; a reader refuses a newer one.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds since the Unix epoch, by the wall clock.
    pub wall_us: u64,
    /// Microseconds since the process began, by the monotonic clock.
    pub mono_us: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A file begins: who writes it.
    Segment(Writer),
    /// The member has read what its disk held.
    Start {
        member: String,
        term: u64,
        last_index: u64,
        commit: u64,
        applied: u64,
    },
    /// Its role, its term or the leader that it knows has changed; an empty text is no leader.
    Role {
        role: String,
        term: u64,
        leader: String,
    },
    /// A term or a vote became durable.
    Vote {
        term: u64,
        vote: String,
    },
    /// What came together since the last one, about a second ago. It is written also when nothing
    /// came, and so says that the member lived.
    Summary(Summary),
    /// A sync took long.
    SlowSync {
        took_us: u64,
    },
    /// A sync has not come back yet.
    SyncOutstanding {
        for_us: u64,
    },
    /// Messages to a member no longer arrive, or it does not answer.
    PeerLost {
        peer: String,
    },
    /// Nobody listens where it was: its process is gone.
    PeerGone {
        peer: String,
    },
    /// It was heard again.
    PeerBack {
        peer: String,
    },
    Alarm {
        member: String,
        alarm: String,
        raised: bool,
    },
    /// The disk has no room for more of the log, or has some again.
    DiskFull {
        full: bool,
    },
    /// The wall clock moved against the monotonic one.
    ClockJump {
        by_us: i64,
    },
    /// The process did not run for so long: it was paused, or starved.
    NotRunning {
        for_us: u64,
    },
    Checkpoint {
        index: u64,
        took_us: u64,
    },
    Installed {
        index: u64,
        term: u64,
    },
    /// What its state is held to be: trusted, unverified or quarantined.
    Standing {
        standing: String,
        index: u64,
    },
    /// A run of records does not verify everywhere.
    Damaged {
        run: String,
    },
    /// A whole run took its place.
    Repaired {
        run: String,
    },
    /// The recorder itself could not write for so long; `lines` were lost.
    NotWritten {
        for_us: u64,
        lines: u64,
        why: String,
    },
    Stop {
        reason: String,
    },
}

/// Who writes a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    pub format: u32,
    pub name: String,
    /// How many members it was told of at its start.
    pub members: usize,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
}

/// Counts and durations of about a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests that this member proposed, here or at the leader.
    pub proposals: u64,
    pub commit: u64,
    pub applied: u64,
    pub revision: i64,
    pub syncs: u64,
    pub sync_mean_us: u64,
    pub sync_max_us: u64,
    /// From this member to others and back, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub round_trips: BTreeMap<String, RoundTrips>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrips {
    pub count: u64,
    pub mean_us: u64,
    pub max_us: u64,
}

/// An id as it is written; 0 is nobody, and an empty text.
pub fn id_text(id: u64) -> String {
    if id == 0 { String::new() } else { format!("{id:x}") }
}

/// The inverse of [`id_text`]; 0 for what is no id.
pub fn id_of(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or(0)
}

/// A role as it is written.
pub fn role_text(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

/// What a state is held to be, as it is written.
pub fn standing_text(standing: Standing) -> &'static str {
    match standing {
        Standing::Trusted => "trusted",
        Standing::Unverified => "unverified",
        Standing::Quarantined => "quarantined",
    }
}

/// The inverse of [`standing_text`].
pub fn standing_of(text: &str) -> Option<Standing> {
    let all = [Standing::Trusted, Standing::Unverified, Standing::Quarantined];
    all.into_iter().find(|standing| standing_text(*standing) == text)
}

/// The inverse of [`role_text`].
pub fn role_of(text: &str) -> Option<RoleName> {
    let roles = [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate, RoleName::Leader];
    roles.into_iter().find(|role| role_text(*role) == text)
}

impl Line {
    /// The line with its line end.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a line consists of what JSON has");
        text.push('\n');
        text
    }

    /// Reads a line; `None` for one that is torn or of a kind that is not known.
    pub fn from_text(text: &str) -> Option<Line> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_its_text_and_a_torn_one_is_none() {
        let round_trips = BTreeMap::from([("8e9e".to_string(), RoundTrips::default())]);
        let summary = Summary { proposals: 3, round_trips, ..Summary::default() };
        for what in [
            What::Segment(Writer { format: FORMAT, name: "m0".into(), ..Writer::default() }),
            What::Summary(summary),
            What::Role { role: "leader".into(), term: 7, leader: id_text(u64::MAX) },
            What::ClockJump { by_us: -5 },
        ] {
            let line = Line { wall_us: u64::MAX, mono_us: 1, what };
            let text = line.to_text();
            assert_eq!(Line::from_text(&text), Some(line), "{text}");
            assert_eq!(Line::from_text(&text[..text.len() / 2]), None);
        }
        assert_eq!(id_of(&id_text(0x8e9e_05c5_2164_694d)), 0x8e9e_05c5_2164_694d);
        assert_eq!((id_of(""), id_text(0)), (0, String::new()));
    }

    #[test]
    fn the_text_is_what_the_documentation_shows() {
        let what = What::Role { role: "leader".into(), term: 7, leader: "8e9e".into() };
        let text = Line { wall_us: 5, mono_us: 2, what }.to_text();
        let shown = r#"{"wall_us":5,"mono_us":2,"kind":"role","role":"leader","term":7,"#;
        assert_eq!(text, format!("{shown}\"leader\":\"8e9e\"}}\n"));
    }
}
