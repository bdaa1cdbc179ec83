//! The files of a flight recording: a ring of segments, of which the oldest goes when a new one
//! comes.
//!
//! Nothing is ever synced: what the page cache has survives the death of the process, and the
//! recording must not compete with the log for the device.

use crate::env::disk::{Disk, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segments that a ring consists of.
const SEGMENTS: u64 = 8;
const SUFFIX: &str = ".jsonl";

/// Appends to the newest segment.
///
/// Invariant: at most `SEGMENTS` files, none longer than `segment_bytes` plus one write.
pub struct Ring {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    number: u64,
    open: Option<(Arc<dyn File>, u64)>,
}

impl Ring {
    /// A ring of about `bytes` in `dir`. It goes on after the segments that are there.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> Ring {
        let segment_bytes = (bytes / SEGMENTS).max(1);
        Ring { disk, dir: dir.to_path_buf(), segment_bytes, number: 0, open: None }
    }

    /// Appends lines. A segment begins with what `opening` gives.
    ///
    /// # Errors
    /// When the file system refuses; the next call begins a new segment.
    pub fn append(&mut self, lines: &[u8], opening: impl FnOnce() -> Vec<u8>) -> io::Result<()> {
        let is_full = |(_, len): &(Arc<dyn File>, u64)| *len >= self.segment_bytes;
        if self.open.as_ref().is_none_or(is_full) {
            self.begin_segment(&opening())?;
        }
        let Some((file, len)) = self.open.take() else {
            return Err(io::Error::other("a segment was just begun"));
        };
        file.write_at(len, lines)?;
        self.open = Some((file, len + lines.len() as u64));
        Ok(())
    }

    fn begin_segment(&mut self, opening: &[u8]) -> io::Result<()> {
        self.open = None;
        self.disk.create_dir_all(&self.dir)?;
        let numbers = self.numbers()?;
        self.number = numbers.last().copied().unwrap_or(0).max(self.number) + 1;
        let keep_from = (self.number + 1).saturating_sub(SEGMENTS);
        for old in numbers.into_iter().filter(|number| *number < keep_from) {
            self.disk.remove(&self.path(old))?;
        }
        let file = self.disk.create(&self.path(self.number))?;
        file.write_at(0, opening)?;
        self.open = Some((file, opening.len() as u64));
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}{SUFFIX}"))
    }

    /// The segments that are there, the oldest first.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let names = self.disk.list(&self.dir)?;
        let number = |name: &String| name.strip_suffix(SUFFIX)?.parse().ok();
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;

    fn names(disk: &MemDisk) -> Vec<String> {
        disk.list(Path::new("/flight")).expect("the directory was made")
    }

    #[test]
    fn the_oldest_segment_goes_when_a_ninth_comes() {
        let disk = MemDisk::new();
        let mut ring = Ring::new(Arc::new(disk.clone()), Path::new("/flight"), 800);
        for number in 0..300 {
            let line = format!("{number:09}\n");
            ring.append(line.as_bytes(), || b"who\n".to_vec()).expect("the disk works");
        }
        let names = names(&disk);
        assert_eq!(names.len(), 8, "{names:?}");
        let total: usize = names
            .iter()
            .filter_map(|name| disk.contents(&Path::new("/flight").join(name)))
            .map(|bytes| {
                assert!(bytes.starts_with(b"who\n"));
                bytes.len()
            })
            .sum();
        assert!((400..=900).contains(&total), "{total} bytes");
    }

    #[test]
    fn a_restart_goes_on_in_a_segment_of_its_own() {
        let disk = MemDisk::new();
        for _ in 0..3 {
            let mut ring = Ring::new(Arc::new(disk.clone()), Path::new("/flight"), 800);
            ring.append(b"a\n", Vec::new).expect("the disk works");
            ring.append(b"b\n", Vec::new).expect("the disk works");
        }
        assert_eq!(names(&disk), ["00000001.jsonl", "00000002.jsonl", "00000003.jsonl"]);
        let newest = disk.contents(Path::new("/flight/00000003.jsonl"));
        assert_eq!(newest.as_deref(), Some(&b"a\nb\n"[..]));
    }

    #[test]
    fn after_a_failure_a_new_segment_begins() {
        let disk = MemDisk::new();
        let mut ring = Ring::new(Arc::new(disk.clone()), Path::new("/flight"), 800);
        ring.append(b"a\n", Vec::new).expect("the disk works");
        disk.fail_after(0, io::ErrorKind::StorageFull);
        assert!(ring.append(b"b\n", Vec::new).is_err());
        assert!(ring.append(b"c\n", Vec::new).is_err());
        disk.heal();
        ring.append(b"d\n", Vec::new).expect("the disk works again");
        let newest = names(&disk).pop().expect("a segment");
        let bytes = disk.contents(&Path::new("/flight").join(newest));
        assert_eq!(bytes.as_deref(), Some(&b"d\n"[..]));
    }
}
