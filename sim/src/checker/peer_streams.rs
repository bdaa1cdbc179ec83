//! What members say to each other: over one stream it arrives in order, and nothing is missing from
//! its middle.
//!
//! The consensus core survives the opposite, and pays for it with refused appends and another round
//! for each; so no other checker sees it.

use super::{Guarantee, Violation};
use crate::moment::Nanos;

/// What a leader says in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Entries behind `prev`, up to `last`.
    Append {
        prev: u64,
        last: u64,
        commit: u64,
    },
    Heartbeat {
        commit: u64,
        read_seq: u64,
    },
    /// An offer of its state after this entry.
    Offer {
        index: u64,
    },
}

/// What was heard over one stream, in the newest term of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerStream {
    term: u64,
    /// Where the entries end that were sent; nothing before the first append.
    sent: Option<u64>,
    append_commit: u64,
    heartbeat_commit: u64,
    read_seq: u64,
}

impl PeerStream {
    /// Takes in one message. `held` is the last entry that the member may ever have had: the leader
    /// may know so from before this stream.
    pub fn hear(
        &mut self,
        at: Nanos,
        (term, said): (u64, Said),
        held: u64,
    ) -> Result<(), Violation> {
        let fail = |text: String| Err(Violation::new(Guarantee::PeerStreams, Some(at), text));
        if term < self.term {
            return fail(format!("{said:?} of term {term} came behind term {}", self.term));
        }
        if term > self.term {
            *self = PeerStream { term, ..PeerStream::default() };
        }
        match said {
            Said::Append { prev, last, commit } => {
                // What was queued for the stream before may be gone with it, so the first one may
                // follow what was never received.
                if let Some(sent) = self.sent.filter(|sent| prev > held.max(*sent)) {
                    return fail(format!("{said:?} follows entries up to {sent}, {held} held"));
                }
                if commit < self.append_commit {
                    return fail(format!("{said:?} came behind commit {}", self.append_commit));
                }
                self.append_commit = commit;
                self.sent = self.sent.max(Some(last));
            }
            Said::Heartbeat { commit, read_seq } => {
                if commit < self.heartbeat_commit || read_seq < self.read_seq {
                    let (commit, read_seq) = (self.heartbeat_commit, self.read_seq);
                    return fail(format!("{said:?} came behind {commit} and {read_seq}"));
                }
                (self.heartbeat_commit, self.read_seq) = (commit, read_seq);
            }
            // Appends may go on behind it, whatever came of it.
            Said::Offer { index } => self.sent = self.sent.max(Some(index)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(prev: u64, last: u64, commit: u64) -> (u64, Said) {
        (3, Said::Append { prev, last, commit })
    }

    fn heard(all: &[(u64, Said)], held: u64) -> Result<(), Violation> {
        let mut stream = PeerStream::default();
        all.iter().try_for_each(|said| stream.hear(0, *said, held))
    }

    #[test]
    fn appends_follow_one_another_or_go_back() {
        assert_eq!(heard(&[append(9, 11, 4), append(11, 12, 4), append(7, 7, 5)], 0), Ok(()));
        assert_eq!(heard(&[append(3, 3, 1), append(8, 9, 1)], 8), Ok(()), "it had them before");
        let offered = [append(3, 3, 1), (3, Said::Offer { index: 20 }), append(20, 21, 1)];
        assert_eq!(heard(&offered, 3), Ok(()));
        let lost = [append(9, 11, 4), append(12, 13, 4)];
        assert_eq!(heard(&lost, 11).map_err(|v| v.guarantee), Err(Guarantee::PeerStreams));
    }

    #[test]
    fn nothing_overtakes() {
        let beat = |commit, read_seq| (3, Said::Heartbeat { commit, read_seq });
        assert_eq!(heard(&[beat(4, 1), append(4, 5, 9), beat(4, 2)], 0), Ok(()));
        let next_term = (4, Said::Heartbeat { commit: 0, read_seq: 0 });
        assert_eq!(heard(&[beat(4, 7), next_term], 0), Ok(()));
        for overtaken in [
            vec![beat(4, 2), beat(4, 1)],
            vec![beat(4, 2), beat(3, 2)],
            vec![append(4, 5, 5), append(4, 5, 4)],
            vec![next_term, beat(4, 8)],
        ] {
            heard(&overtaken, 9).expect_err("it came out of order");
        }
    }
}
