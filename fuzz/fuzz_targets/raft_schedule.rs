//! A seed for the ring of consensus cores, and how long it runs: no invariant breaks.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Steps of one history: long enough for some elections.
const STEPS_MAX: usize = 4000;

fuzz_target!(|bytes: &[u8]| {
    let mut seed = [0_u8; 8];
    let length = bytes.len().min(8);
    seed[..length].copy_from_slice(&bytes[..length]);
    let steps = 500 + bytes.get(8).map_or(0, |byte| usize::from(*byte) * 16);
    let seed = u64::from_le_bytes(seed);
    if let Err(broken) = sim::raft_ring::run(seed, steps.min(STEPS_MAX)) {
        panic!("seed {seed}, {steps} steps: {broken}");
    }
});
