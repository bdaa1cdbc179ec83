//! Requests and their outcomes in a few words, for traces and timelines.

use crate::history::Outcome;
use crate::model::Request;

/// A request in a few words.
pub struct Short<'a>(pub &'a Request);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Request::Range(r) => {
                write!(f, "range {:?}..{:?}", r.span.key, r.span.end)?;
                if r.revision > 0 {
                    write!(f, " at {}", r.revision)?;
                }
                if r.serializable { f.write_str(" serializable") } else { Ok(()) }
            }
            Request::Put(p) => write!(f, "put {}={}", p.key, tag(&p.value)),
            Request::Delete(d) => write!(f, "delete {:?}..{:?}", d.span.key, d.span.end),
            Request::Txn(t) => {
                write!(f, "txn if {} then", t.compares.len())?;
                t.success.iter().try_for_each(|r| write!(f, " [{}]", Short(r)))
            }
            Request::Compact { revision, .. } => write!(f, "compact {revision}"),
        }
    }
}

/// A value without its padding.
fn tag(value: &str) -> &str {
    value.trim_end_matches('.')
}

/// An outcome in a few words.
pub struct ShortOutcome<'a>(pub &'a Outcome);

impl std::fmt::Display for ShortOutcome<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Outcome::Done(reply) => {
                write!(f, "-> revision {}", reply.revision)?;
                let mut shown = 0;
                let mut result = Ok(());
                reply.answer.each_kv(&mut |kv| {
                    shown += 1;
                    if shown <= 3 && result.is_ok() {
                        result = write!(f, " {}={}@{}", kv.key, tag(&kv.value), kv.mod_revision);
                    }
                });
                result
            }
            Outcome::Refused(refusal) => write!(f, "-> refused: {refusal:?}"),
            Outcome::Failed(text) => write!(f, "-> failed: {text}"),
            Outcome::Unknown(text) => write!(f, "-> unknown: {text}"),
        }
    }
}
