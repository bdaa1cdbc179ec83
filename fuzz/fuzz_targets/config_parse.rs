//! Any text as a configuration file, as arguments, and as lists of addresses: an error or a value.
#![no_main]

use detcd::config::url::Url;
use detcd::config::{duration, flags, settings, yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = duration::parse(text);
    drop(Url::parse_list(text));
    drop(flags::parse_args(&text.lines().map(str::to_string).collect::<Vec<_>>()));
    if let Ok(given) = yaml::parse(text) {
        drop(settings::Config::new(given));
    }
});
