//! What a fault is called, and whom it is aimed at, read off the form in which plans are files.
//!
//! Working on that form, it knows every fault that a plan can hold, also one that is added later.

use crate::fault::{Fault, Target};
use crate::timeline::length;
use serde_json::Value;

/// The members that a fault is aimed at, each as `resolve` finds it; nobody for all.
pub fn aimed_at(fault: &Fault, resolve: impl Fn(Target) -> usize) -> Vec<usize> {
    let fields = fields(fault);
    let mut members = Vec::new();
    for name in ["target", "from", "to"] {
        let target = fields.iter().find(|(field, _)| field == name);
        if let Some(target) = target.and_then(|(_, v)| serde_json::from_value(v.clone()).ok()) {
            members.push(resolve(target));
        }
    }
    for (from, to) in links(&fields) {
        members.extend([from, to]);
    }
    members.sort_unstable();
    members.dedup();
    members
}

/// A fault in a few words, with its lengths in readable units.
pub fn words(fault: &Fault, members: &[usize]) -> String {
    let fields = fields(fault);
    let mut words = fault.class().replace('-', " ");
    let is_cut = !links(&fields).is_empty();
    if !members.is_empty() && !is_cut {
        words.push_str(&format!(" {}", names(members)));
    }
    for (name, value) in &fields {
        let text = match (name.as_str(), value) {
            ("fault" | "target" | "from" | "to", _) => continue,
            ("links", _) => {
                let arrow = |(from, to): &(usize, usize)| format!("m{from}>m{to}");
                let arrows: Vec<String> = links(&fields).iter().map(arrow).collect();
                format!(" {}", arrows.join(" "))
            }
            (name, Value::Number(number)) if name.ends_with("_ms") => {
                let ms = number.as_i64().unwrap_or_default();
                let sign = if ms < 0 { "-" } else { "" };
                let name = name.trim_end_matches("_ms").replace('_', " ");
                format!(", {name} {sign}{}", length(ms.unsigned_abs() * 1_000))
            }
            (_, Value::String(text)) => format!(", {text}"),
            (name, value) => format!(", {} {value}", name.replace('_', " ")),
        };
        words.push_str(&text);
    }
    words
}

fn fields(fault: &Fault) -> Vec<(String, Value)> {
    match serde_json::to_value(fault) {
        Ok(Value::Object(map)) => map.into_iter().collect(),
        other => unreachable!("a fault is a table: {other:?}"),
    }
}

fn links(fields: &[(String, Value)]) -> Vec<(usize, usize)> {
    let links = fields.iter().find(|(name, _)| name == "links");
    links.and_then(|(_, v)| serde_json::from_value(v.clone()).ok()).unwrap_or_default()
}

fn names(members: &[usize]) -> String {
    let names: Vec<String> = members.iter().map(|m| format!("m{m}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Direction, Shape};

    #[test]
    fn a_fault_says_whom_it_strikes_and_for_how_long() {
        let kill = Fault::Kill { target: Target::Leader, down_ms: 4_000 };
        let members = aimed_at(&kill, |_| 2);
        assert_eq!(members, [2]);
        assert_eq!(words(&kill, &members), "kill m2, down 4.00 s");
        let jump = Fault::WallJump { target: Target::Member(1), by_ms: -10_785 };
        assert_eq!(words(&jump, &[1]), "wall jump m1, by -10.78 s");
        let fault =
            Fault::Isolate { target: Target::OldLeader, direction: Direction::In, for_ms: 249 };
        assert_eq!(words(&fault, &[0]), "isolate m0, in, for 249 ms");
        let cut = Fault::CutLinks { shape: Shape::Halves, links: vec![(0, 2), (2, 1)], for_ms: 9 };
        let members = aimed_at(&cut, |_| unreachable!("no target"));
        assert_eq!(members, [0, 1, 2]);
        assert_eq!(words(&cut, &members), "cut links, for 9 ms m0>m2 m2>m1, halves");
        let loss = Fault::Loss { per_mille: 50, for_ms: 700 };
        assert_eq!(words(&loss, &[]), "loss, for 700 ms, per mille 50");
    }
}
