//! Streams of chance: each is derived from a seed and a label, so that drawing more from one, or
//! adding another, leaves the rest as they were.

/// A deterministic generator (splitmix64 steps over a mixed state).
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

/// FNV-1a over bytes: small, stable and written down here, so that labels and traces hash alike
/// on every machine and with every compiler.
pub fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Where an FNV-1a hash begins.
pub const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

impl Stream {
    /// The stream of `label` under `seed`.
    pub fn new(seed: u64, label: &str) -> Stream {
        let mixed = fnv1a(fnv1a(FNV_OFFSET, &seed.to_le_bytes()), label.as_bytes());
        let mut stream = Stream { state: mixed };
        stream.next();
        stream
    }

    /// The next 64 random bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of a 64-bit product is far below anything a simulation could notice.
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low}..={high}");
        low + self.below(high - low + 1)
    }

    /// A number in `low..=high` with every order of magnitude alike in weight.
    pub fn log_between(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "a range without orders of magnitude: {low}..={high}");
        let (bottom, top) = ((low as f64).ln(), (high as f64).ln());
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((bottom + (top - bottom) * unit).exp().round() as u64).clamp(low, high)
    }

    /// True with a probability of `per_mille` in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        assert!(!choices.is_empty(), "nothing to pick from");
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// The index of one of `weights`, each as likely as its weight says.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let total: u64 = weights.iter().sum();
        assert!(total > 0, "all weights are zero");
        let mut left = self.below(total);
        for (i, weight) in weights.iter().enumerate() {
            if left < *weight {
                return i;
            }
            left -= weight;
        }
        unreachable!("a number below the sum of the weights falls into one of them");
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_seed_and_label_only() {
        let draw = |seed, label| {
            let mut s = Stream::new(seed, label);
            (0..8).map(|_| s.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, "nemesis/kill"), draw(7, "nemesis/kill"));
        assert_ne!(draw(7, "nemesis/kill"), draw(8, "nemesis/kill"));
        assert_ne!(draw(7, "nemesis/kill"), draw(7, "nemesis/pause"));
    }

    #[test]
    fn draws_stay_in_their_ranges_and_reach_the_ends() {
        let mut s = Stream::new(1, "t");
        let mut seen = [0u32; 4];
        for _ in 0..4000 {
            seen[s.between(3, 6) as usize - 3] += 1;
            let l = s.log_between(10, 1000);
            assert!((10..=1000).contains(&l), "{l}");
            assert_eq!(s.weighted(&[0, 5, 0]), 1);
        }
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
        let mut items: Vec<u32> = (0..50).collect();
        s.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
