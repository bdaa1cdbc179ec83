//! The share of one record in the state hash.

/// An odd constant with no pattern: the fraction of the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes words and bytes into 64 bits, the same on every machine and in every build.
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn new() -> Digest {
        Digest(SPREAD)
    }

    pub(super) fn word(&mut self, word: u64) {
        // Both halves of a full product: every input bit reaches every output bit in two rounds.
        let product = u128::from(self.0 ^ word) * u128::from(SPREAD | 1);
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(32) ^ word.swap_bytes();
    }

    /// Mixes `data` with its length, so that neighbouring fields cannot trade bytes.
    pub(super) fn bytes(&mut self, data: &[u8]) {
        self.word(data.len() as u64);
        let (words, rest) = data.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    pub(super) fn finish(mut self) -> u64 {
        self.word(SPREAD);
        self.word(SPREAD.rotate_left(17));
        self.0
    }
}
