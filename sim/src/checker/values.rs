//! Values: what a member does not hold in memory stands in a run that it can read, whether or not
//! anybody comes to ask for it.

use super::{Guarantee, Violation};
use crate::moment::Nanos;

/// A value that a member has left to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub revision: i64,
    pub run: u64,
}

/// Judges what `member` has left to runs, of which some are open.
pub fn check(
    at: Nanos,
    member: usize,
    left: impl IntoIterator<Item = Left>,
    is_open: impl Fn(u64) -> bool,
) -> Result<(), Violation> {
    let lost = left.into_iter().find(|left| !is_open(left.run));
    lost.map_or(Ok(()), |Left { revision, run }| {
        let text = format!(
            "the value of revision {revision} stands in run {run}, which member {member} has closed"
        );
        Err(Violation::new(Guarantee::ValuesReachable, Some(at), text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_closed_run_is_seen() {
        let left = |revision, run| Left { revision, run };
        let is_open = |run| run > 3;
        check(0, 1, [left(7, 4), left(8, 5)], is_open).expect("all can be read");
        check(0, 1, [], is_open).expect("all is in memory");
        let broken = check(0, 1, [left(7, 4), left(8, 3)], is_open).expect_err("one is closed");
        assert_eq!(broken.guarantee, Guarantee::ValuesReachable);
    }
}
