//! A configuration file, as texts by flag name.
//!
//! Keys are the flags' names; those of TLS stand in two sections. Durations are whole numbers of
//! nanoseconds, as etcd has them, or texts as on the command line.

use crate::config::flags::{self, Given, Kind};
use serde_norway::Value;

/// The sections, the prefix of their flags, and what a section calls its keys.
const SECTIONS: [(&str, &str); 2] =
    [("client-transport-security", ""), ("peer-transport-security", "peer-")];

/// Reads a file.
///
/// # Errors
/// What to print when it is not YAML, or not a map.
pub fn parse(text: &str) -> Result<Given, String> {
    let value: Value = serde_norway::from_str(text)
        .map_err(|error| format!("error unmarshaling configuration file: {error}"))?;
    let mut given = Given::default();
    let map = match value {
        Value::Null => return Ok(given),
        Value::Mapping(map) => map,
        _ => return Err("the configuration file is not a map of keys to values".to_string()),
    };
    for (key, value) in map {
        let Value::String(key) = key else {
            return Err(format!("a key of the configuration file is not a text: {key:?}"));
        };
        match SECTIONS.iter().find(|(section, _)| *section == key) {
            Some((_, prefix)) => section(&mut given, &key, prefix, value)?,
            None => set(&mut given, &key, &key, value)?,
        }
    }
    Ok(given)
}

fn section(given: &mut Given, name: &str, prefix: &str, value: Value) -> Result<(), String> {
    let map = match value {
        Value::Null => return Ok(()),
        Value::Mapping(map) => map,
        _ => return Err(format!("{name} is not a map of keys to values")),
    };
    for (key, value) in map {
        let key = key.as_str().unwrap_or_default().to_string();
        // The section for clients has two flags of its own for certificates of the gateway.
        set(given, &format!("{prefix}{key}"), &format!("{name}.{key}"), value)?;
    }
    Ok(())
}

fn set(given: &mut Given, flag: &str, key: &str, value: Value) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let is_duration = flags::find(flag).is_some_and(|flag| flag.kind == Kind::Duration);
    let text = text(&value, is_duration).ok_or_else(|| format!("{key} has a value of no use"))?;
    if !given.set(flag, &text) {
        given.warnings.push(format!("unrecognized key {key} in the configuration file"));
    }
    Ok(())
}

fn text(value: &Value, is_duration: bool) -> Option<String> {
    match value {
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) if is_duration => Some(format!("{number}ns")),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Sequence(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| text(item, false)).collect();
            Some(items?.join(","))
        }
        // A map stands for `name=value` pairs, as in initial-cluster or feature-gates.
        Value::Mapping(map) => {
            let pair =
                |(key, value)| Some(format!("{}={}", text(key, false)?, text(value, false)?));
            let pairs: Option<Vec<String>> = map.iter().map(pair).collect();
            Some(pairs?.join(","))
        }
        Value::Null | Value::Tagged(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_etcd_reads_them() {
        let given = parse(
            "name: m1\n\
             election-timeout: 2000\n\
             pre-vote: false\n\
             watch-progress-notify-interval: 5000000000\n\
             grpc-keepalive-interval: 1h\n\
             feature-gates: {InitialCorruptCheck: true}\n\
             peer-transport-security:\n  cert-file: /a\n  client-cert-auth: true\n\
             client-transport-security:\n  cert-file: /b\n\
             colour: red\n",
        )
        .expect("it is sound");
        assert_eq!(given.values["name"], "m1");
        assert_eq!(given.values["election-timeout"], "2000");
        assert_eq!(given.values["pre-vote"], "false");
        assert_eq!(given.values["watch-progress-notify-interval"], "5000000000ns");
        assert_eq!(given.values["grpc-keepalive-interval"], "1h");
        assert_eq!(given.values["feature-gates"], "InitialCorruptCheck=true");
        assert_eq!(given.values["peer-cert-file"], "/a");
        assert_eq!(given.values["peer-client-cert-auth"], "true");
        assert_eq!(given.values["cert-file"], "/b");
        let unknown = "unrecognized key colour in the configuration file";
        assert!(given.warnings.iter().any(|warning| warning == unknown));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        assert_eq!(parse(""), Ok(Given::default()));
        assert!(parse("- a\n- b\n").is_err());
        assert!(parse("name: [\n").is_err());
        assert!(parse("1: a\n").is_err());
        assert!(parse("peer-transport-security: 3\n").is_err());
    }
}
