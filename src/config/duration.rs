//! Durations as etcd's flags write them: `1h30m`, `500ms`, `0s`.

use std::time::Duration;

const UNITS: [(&str, u64); 6] = [
    // Longer units first: `ms` is not `m`.
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// Reads a sequence of decimal numbers, each with a unit; a bare `0` needs none.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: f64 = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(unit));
        let (unit, factor) = unit?;
        nanos += number * *factor as f64;
        rest = &rest[digits + unit.len()..];
    }
    // What is longer than the centuries that etcd's own type holds is a mistake.
    (nanos < i64::MAX as f64).then(|| Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_etcd() {
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(parse("500ms"), ms(500));
        assert_eq!(parse("1m30s"), ms(90_000));
        assert_eq!(parse("1.5s"), ms(1500));
        assert_eq!(parse("2h"), ms(7_200_000));
        assert_eq!(parse("0"), ms(0));
        assert_eq!(parse("0s"), ms(0));
        assert_eq!(parse("1500000000ns"), ms(1500));
        for bad in ["", "5", "s", "-1s", "5x", "5s5", "1.2.3s", ".s", "+", "999999999h"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
