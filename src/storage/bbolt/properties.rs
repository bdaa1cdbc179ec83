//! What is written is read, and no file makes the reader panic.

use super::reader::Database;
use super::writer::{Payload, Plan, Writer};
use super::{BboltError, PAGE_BYTES};
use crate::env::disk::{Disk, File};
use crate::env::mem_disk::MemDisk;
use proptest::collection::btree_map;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

type Items = BTreeMap<Vec<u8>, Vec<u8>>;
const NAMES: [&str; 3] = ["alarm", "key", "meta"];

/// Gives the plan, and what was taken now and then.
fn push_all(writer: &mut Writer, buckets: &[Items], is_planning: bool) -> (Plan, Vec<u8>) {
    let mut taken = Vec::new();
    // In another order than that of their names.
    for (name, items) in NAMES.into_iter().zip(buckets).rev() {
        writer.begin(name);
        for (key, value) in items {
            // In two parts, wherever they meet.
            let (one, other) = value.split_at(value.len() / 3);
            match is_planning {
                true => writer.push(key, Payload::Length(value.len())),
                false => writer.push(key, Payload::Parts(&[one, other])),
            }
            taken.extend_from_slice(&writer.take(1 + 37 * value.len()));
        }
        writer.end();
    }
    let plan = writer.finish();
    taken.extend_from_slice(&writer.take(1));
    (plan, taken)
}

fn write(buckets: &[Items]) -> Vec<u8> {
    let (plan, nothing) = push_all(&mut Writer::planning(), buckets, true);
    assert!(nothing.is_empty());
    let (written, bytes) = push_all(&mut Writer::writing(plan), buckets, false);
    assert_eq!(written, plan);
    assert_eq!(bytes.len() as u64, plan.bytes());
    bytes
}

fn file(bytes: Vec<u8>) -> (Arc<dyn File>, u64) {
    let (disk, path, length) = (MemDisk::new(), Path::new("/db"), bytes.len() as u64);
    disk.set_contents(path, bytes);
    (disk.open(path).expect("in memory"), length)
}

fn read(bytes: Vec<u8>) -> Result<Vec<(String, Items)>, BboltError> {
    let (file, length) = file(bytes);
    let database = Database::open(file, length)?;
    let mut read = Vec::new();
    for (name, bucket) in database.buckets()? {
        let mut items = Items::new();
        for item in database.items(&bucket) {
            let (key, value) = item?;
            items.insert(key.to_vec(), value.to_vec());
        }
        read.push((String::from_utf8_lossy(&name).into_owned(), items));
    }
    Ok(read)
}

fn named(buckets: &[Items]) -> Vec<(String, Items)> {
    NAMES.into_iter().map(String::from).zip(buckets.iter().cloned()).collect()
}

/// Items enough for a tree of three levels.
fn many() -> Vec<Items> {
    let item = |n: u32| (n.to_be_bytes().repeat(10), vec![n as u8; 700]);
    let large = Items::from([(b"a".to_vec(), vec![7; 3 * PAGE_BYTES]), (b"b".to_vec(), vec![])]);
    vec![large, (0..20_000).map(item).collect(), Items::new()]
}

#[test]
fn a_tree_of_many_pages_is_read_as_it_was_written() {
    assert_eq!(read(write(&many())).expect("it is whole"), named(&many()));
}

#[test]
fn a_file_that_is_cut_off_is_called_truncated() {
    let bytes = write(&many()[..1]);
    for length in [bytes.len() - 1, bytes.len() / 2, 2 * PAGE_BYTES] {
        let error = read(bytes[..length].to_vec()).expect_err("it was cut");
        assert!(matches!(error, BboltError::Truncated { .. }), "{length}: {error}");
    }
    for length in [0, 1, 79, 100] {
        let error = read(bytes[..length].to_vec()).expect_err("it was cut");
        let expected = matches!(error, BboltError::Foreign(_) | BboltError::Truncated { .. });
        assert!(expected, "{length}: {error}");
    }
}

#[test]
fn another_file_is_called_foreign() {
    let error = read(b"not a database at all".repeat(1000)).expect_err("it is none");
    assert!(error.to_string().contains("magic"), "{error}");
    let mut other = write(&many()[..1]);
    for page in 0..2 {
        other[page * PAGE_BYTES + 20] = 3;
    }
    let error = read(other).expect_err("a version that does not exist");
    assert!(error.to_string().contains("version 3"), "{error}");
}

#[test]
fn the_second_meta_serves_when_the_first_is_broken() {
    let mut bytes = write(&many()[..1]);
    bytes[30] ^= 1;
    assert_eq!(read(bytes.clone()).expect("one meta is left"), named(&many()[..1]));
    bytes[PAGE_BYTES + 30] ^= 1;
    assert!(matches!(read(bytes), Err(BboltError::Foreign(_))));
}

#[test]
fn a_page_that_leads_to_itself_is_found() {
    let mut bytes = write(&many());
    // The first child of every branch becomes the branch itself.
    for page in (0..bytes.len()).step_by(PAGE_BYTES) {
        if bytes[page + 8] == 1
            && bytes[page..page + 8] == ((page / PAGE_BYTES) as u64).to_le_bytes()
        {
            let id = (page / PAGE_BYTES) as u64;
            bytes[page + 24..page + 32].copy_from_slice(&id.to_le_bytes());
        }
    }
    let error = read(bytes).expect_err("a circle");
    assert!(error.to_string().contains("circles"), "{error}");
}

fn items() -> impl Strategy<Value = Items> {
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 1000..9000),
    ];
    btree_map(prop::collection::vec(any::<u8>(), 1..30), value, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(buckets in prop::collection::vec(items(), 3)) {
        prop_assert_eq!(read(write(&buckets)).expect("it is whole"), named(&buckets));
    }

    #[test]
    fn no_damage_makes_the_reader_panic(
        buckets in prop::collection::vec(items(), 3),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut: prop::sample::Index,
    ) {
        let mut bytes = write(&buckets);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        drop(read(bytes.clone()));
        bytes.truncate(cut.index(bytes.len()));
        drop(read(bytes));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
        drop(read(bytes));
    }
}
