//! The timeline as text: what happened, in order, for who reads a terminal.

use crate::timeline::{HANDOVER_MAX, Kind, Timeline, length};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Repetitions of one sentence about one member are told this often and then counted.
const REPEATS_MAX: usize = 3;

/// Tells the timeline.
pub fn story(timeline: &Timeline) -> String {
    let mut out = format!("# {}\n", timeline.title);
    for (name, text) in &timeline.facts {
        line(&mut out, format_args!("{name}: {text}"));
    }
    out.push('\n');
    events(&mut out, timeline);
    out.push('\n');
    leaders(&mut out, timeline);
    clients(&mut out, timeline);
    match &timeline.violation {
        Some(flag) => line(
            &mut out,
            format_args!("BROKEN at {}: {}: {}", length(flag.at), flag.guarantee, flag.words),
        ),
        None if timeline.wall_ms.is_some() => {
            line(&mut out, format_args!("recorded by a real cluster: no guarantee was checked"));
        }
        None => line(&mut out, format_args!("no guarantee was broken")),
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

fn events(out: &mut String, timeline: &Timeline) {
    let mut told: BTreeMap<(Option<usize>, String), usize> = BTreeMap::new();
    let mut flag = timeline.violation.as_ref();
    let mut silent = 0;
    for mark in &timeline.marks {
        if let Some(broken) = flag.filter(|flag| flag.at <= mark.at) {
            violation(out, broken.at, &broken.guarantee);
            flag = None;
        }
        // Numbers differ from one time to the next; the sentence is the same.
        let sentence: String = mark.words.chars().filter(|c| !c.is_ascii_digit()).collect();
        let times = told.entry((mark.member, sentence)).or_default();
        *times += 1;
        let is_news = matches!(mark.kind, Kind::Fault | Kind::Crash | Kind::Election);
        if *times > REPEATS_MAX && !is_news {
            silent += 1;
            continue;
        }
        let who = mark.member.map_or("-", |member| timeline.members[member].name.as_str());
        line(out, format_args!("{:>11}  {who:6} {}", seconds(mark.at), mark.words));
    }
    if let Some(broken) = flag {
        violation(out, broken.at, &broken.guarantee);
    }
    if silent > 0 {
        line(out, format_args!("({silent} more of the kinds that are told above)"));
    }
}

fn violation(out: &mut String, at: u64, guarantee: &str) {
    line(out, format_args!("{:>11}  ***    {guarantee} IS BROKEN", seconds(at)));
}

fn seconds(micros: u64) -> String {
    format!("{}.{:03} s", micros / 1_000_000, micros / 1_000 % 1_000)
}

/// How long nobody led, and what the clients got meanwhile.
fn leaders(out: &mut String, timeline: &Timeline) {
    let gaps = timeline.leaderless(HANDOVER_MAX);
    let total: u64 = gaps.iter().map(|(from, to)| to - from).sum();
    let times = if gaps.len() == 1 { "time" } else { "times" };
    line(out, format_args!("{} {times} without a leader, {} in all", gaps.len(), length(total)));
    for (from, to) in gaps {
        let met = timeline.calls.iter().filter(|call| call.from >= from && call.from < to);
        let (mut done, mut not) = (0, 0);
        met.for_each(|call| if call.answer == "done" { done += 1 } else { not += 1 });
        line(
            out,
            format_args!(
                "  from {} for {}: of the calls made then {done} were answered and {not} were not",
                seconds(from),
                length(to - from)
            ),
        );
    }
}

fn clients(out: &mut String, timeline: &Timeline) {
    for (client, name) in timeline.clients.iter().enumerate() {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for call in timeline.calls.iter().filter(|call| call.client == client) {
            *sums.entry(call.answer).or_default() += 1;
        }
        let sums: Vec<String> = sums.iter().map(|(name, sum)| format!("{sum} {name}")).collect();
        line(out, format_args!("{name}: {}", sums.join(", ")));
    }
}
