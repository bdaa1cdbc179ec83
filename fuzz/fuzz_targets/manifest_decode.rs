//! Any bytes as a manifest: an error, or a manifest that comes back when it is written and read.
#![no_main]

use detcd::storage::manifest::Manifest;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

/// The checksum at the end of a manifest, without which no changed byte would get any further.
const CRC_BYTES: usize = 4;

fn check(bytes: &[u8]) {
    let path = Path::new("fuzzed");
    if let Ok(manifest) = Manifest::decode(bytes, path) {
        let again = Manifest::decode(&manifest.encode(), path);
        assert_eq!(again.expect("it was just written"), manifest);
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let Some(body) = bytes.len().checked_sub(CRC_BYTES) else { return };
    let mut sealed = bytes.to_vec();
    let crc = crc32c::crc32c(&sealed[..body]);
    sealed[body..].copy_from_slice(&crc.to_le_bytes());
    check(&sealed);
});
