//! Room on the disk that is set aside for the day on which there is no other.
//!
//! A file without contents takes it. Nothing depends on the file: it is made again when it is
//! missing, and a crash may leave it in any length.

use crate::env::disk::Disk;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What the file is called, in the directory of a member.
pub const FILE_NAME: &str = "reserve";

/// The reserve of one member.
pub struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf, bytes: u64) -> Reserve {
        Reserve { disk, path, bytes }
    }

    /// How much room has still to be set aside.
    pub fn missing_bytes(&self) -> io::Result<u64> {
        let held = self.bytes == 0
            || (self.disk.exists(&self.path)? && self.disk.open(&self.path)?.len()? >= self.bytes);
        Ok(if held { 0 } else { self.bytes })
    }

    /// Gives the room back to the file system; false if there was none to give.
    pub fn spend(&self) -> io::Result<bool> {
        let held = self.disk.exists(&self.path)?;
        if held {
            self.disk.remove(&self.path)?;
        }
        Ok(held)
    }

    /// Sets the room aside; false if the disk has none, and then it is as before.
    pub fn restore(&self) -> io::Result<bool> {
        if self.missing_bytes()? == 0 {
            return Ok(true);
        }
        self.spend()?;
        let file = self.disk.create(&self.path)?;
        match file.allocate(self.bytes) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.disk.remove(&self.path)?;
                if error.kind() == io::ErrorKind::StorageFull { Ok(false) } else { Err(error) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use std::path::Path;

    #[test]
    fn a_reserve_is_held_spent_and_restored() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        disk.create_dir_all(Path::new("/m")).expect("memory has room");
        let reserve = Reserve::new(disk.clone(), PathBuf::from("/m/reserve"), 4096);
        let sound = |result: io::Result<bool>| result.expect("memory does not fail");
        let missing = |reserve: &Reserve| reserve.missing_bytes().expect("memory does not fail");
        assert!(missing(&reserve) == 4096 && !sound(reserve.spend()));
        assert!(sound(reserve.restore()) && missing(&reserve) == 0);
        // What a crash left is too short.
        disk.open(Path::new("/m/reserve")).and_then(|f| f.set_len(9)).expect("it is there");
        assert_eq!(missing(&reserve), 4096);
        assert!(sound(reserve.restore()) && missing(&reserve) == 0);
        assert!(sound(reserve.spend()) && missing(&reserve) == 4096);
        let none = Reserve::new(disk, PathBuf::from("/m/other"), 0);
        assert!(missing(&none) == 0 && sound(none.restore()) && !sound(none.spend()));
    }
}
