//! Backups: what one holds is the state at its revision, whatever went on while it was read.

use crate::checker::{Guarantee, Violation};
use crate::history::backups::{Backup, Versions};
use crate::model::{KeyValue, Model};

/// Compares a backup with the true state at its revision.
pub fn check(model: &Model, backup: &Backup) -> Result<(), Violation> {
    let broken = |text: String| {
        let text =
            format!("a backup of member {} at revision {}: {text}", backup.member, backup.revision);
        Err(Violation::new(Guarantee::BackupIsExact, Some(backup.at), text))
    };
    if backup.revision > model.revision() {
        return broken(format!("the newest revision is {}", model.revision()));
    }
    if backup.revision > backup.begun {
        return broken(format!("it was {} when the backup began", backup.begun));
    }
    if let Some(unknown) = backup.keys.keys().find(|key| model.versions(key).is_empty()) {
        return broken(format!("nobody ever wrote {unknown}"));
    }
    let nothing = Versions::new();
    for key in model.keys() {
        let expected = kept(model.versions(key), backup.revision, backup.compacted);
        let found = backup.keys.get(key).unwrap_or(&nothing);
        if *found != expected {
            let compacted = backup.compacted;
            return broken(format!(
                "{key} is {found:?} instead of {expected:?}, compacted at {compacted}"
            ));
        }
    }
    Ok(())
}

/// What is left of the versions up to a revision by a compaction: all behind it, and of the others
/// the newest, a deletion only if it is exactly there.
fn kept(versions: &[(i64, Option<KeyValue>)], revision: i64, compacted: i64) -> Versions {
    let there = &versions[..versions.partition_point(|(at, _)| *at <= revision)];
    let behind = there.partition_point(|(at, _)| *at <= compacted);
    let newest = there[..behind].last();
    let survives = newest.filter(|(at, kv)| kv.is_some() || *at == compacted);
    survives.into_iter().chain(&there[behind..]).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delete, Put, Request, Span};

    /// a is written at 2 and 4, b at 3 and deleted at 5.
    fn model() -> Model {
        let mut model = Model::default();
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            model.apply(&Request::Put(Put::of(key, value)));
        }
        model.apply(&Request::Delete(Delete { span: Span::one("b"), prev_kv: false }));
        model
    }

    fn backup(model: &Model, revision: i64, compacted: i64) -> Backup {
        let versions = |key: &str| kept(model.versions(key), revision, compacted);
        let keys = ["a", "b"].map(|key| (key.to_string(), versions(key)));
        let keys = keys.into_iter().filter(|(_, versions)| !versions.is_empty()).collect();
        Backup { member: 0, at: 0, begun: revision, revision, compacted, keys }
    }

    #[test]
    fn a_compaction_leaves_the_newest_and_the_deletion_at_its_own_revision() {
        let model = model();
        let count = |revision, compacted| {
            backup(&model, revision, compacted).keys.values().map(Vec::len).sum::<usize>()
        };
        assert_eq!([count(5, -1), count(4, -1), count(1, -1)], [4, 3, 0]);
        assert_eq!([count(5, 3), count(5, 4), count(5, 5)], [4, 3, 2]);
    }

    #[test]
    fn what_is_exact_passes_and_any_other_backup_does_not() {
        let model = model();
        for (revision, compacted) in [(5, -1), (4, 2), (5, 4), (5, 5), (1, -1)] {
            let exact = backup(&model, revision, compacted);
            assert_eq!(check(&model, &exact), Ok(()), "{exact:?}");
            for key in exact.keys.keys() {
                for number in 0..exact.keys[key].len() {
                    let mut lacking = exact.clone();
                    lacking.keys.get_mut(key).expect("it is there").remove(number);
                    assert!(check(&model, &lacking).is_err(), "{lacking:?}");
                }
            }
        }
        let later = Backup { revision: 6, ..backup(&model, 5, -1) };
        assert!(check(&model, &later).is_err());
        let since = Backup { begun: 4, ..backup(&model, 5, -1) };
        assert!(check(&model, &since).is_err());
        let mut strange = backup(&model, 5, -1);
        strange.keys.insert("c".to_string(), vec![(3, None)]);
        assert!(check(&model, &strange).is_err());
        let mut earlier = backup(&model, 5, -1);
        earlier.revision = 4;
        assert!(check(&model, &earlier).is_err());
    }
}
