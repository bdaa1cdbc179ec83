//! Where the log of a member lies, if it has a disk of its own (`--wal-dir`).
//!
//! A log that stands elsewhere is named by a file in the data directory, `member/wal.location`.
//! Without it, a member that is started without the flag once would find no log, begin afresh,
//! and have forgotten whom it voted for.

use crate::env::disk::Disk;
use crate::storage::directory;
use crate::storage::error::StorageError;
use crate::storage::segment::TEMPORARY;
use crate::storage::wal::Wal;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file that names the place, in the directory of a member.
const FILE_NAME: &str = "wal.location";
const VERSION: u32 = 1;
/// Taken by the process that uses a log elsewhere; it also shows that the disk is mounted.
const LOCK_NAME: &str = "lock";

/// What `wal.location` holds, as JSON.
#[derive(Serialize, Deserialize)]
struct Location {
    version: u32,
    wal_dir: PathBuf,
}

/// Where the log of a member is or is to be, and what keeps others from it.
pub struct WalPlace {
    pub dir: PathBuf,
    pub lock: Option<Box<dyn Send + Sync>>,
}

/// Where the log of the member in `member_dir` is.
pub fn find(disk: &dyn Disk, member_dir: &Path) -> Result<PathBuf, StorageError> {
    Ok(read(disk, member_dir)?.unwrap_or_else(|| member_dir.join("wal")))
}

/// Finds the log of the member in `member_dir`, or makes the place for one: `asked`, else where
/// it was before, else below `member_dir`.
///
/// # Errors
/// When a log stands elsewhere than was asked, or its disk is not there.
pub async fn locate(
    disk: &dyn Disk,
    member_dir: &Path,
    asked: Option<&Path>,
) -> Result<WalPlace, StorageError> {
    let inside = member_dir.join("wal");
    let recorded = read(disk, member_dir)?;
    let asked = asked.map(|dir| if is_same(dir, &inside) { inside.as_path() } else { dir });
    let dir = asked.or(recorded.as_deref()).unwrap_or(&inside).to_path_buf();
    for place in recorded.iter().chain([&inside]).filter(|place| **place != dir) {
        if Wal::exists(disk, place)? {
            return Err(StorageError::WalElsewhere { asked: dir, found: place.clone() });
        }
    }
    if dir == inside {
        directory::make_durable(disk, &dir).await?;
        if recorded.is_some() {
            forget(disk, member_dir).await?;
        }
        return Ok(WalPlace { dir, lock: None });
    }
    let lock_path = dir.join(LOCK_NAME);
    let failed = |error| StorageError::io(&lock_path, "locking", error);
    if recorded.as_deref() == Some(&dir) && !disk.exists(&lock_path).map_err(failed)? {
        return Err(StorageError::WalGone { path: dir });
    }
    directory::make_durable(disk, &dir).await?;
    if !disk.exists(&lock_path).map_err(failed)? {
        disk.create(&lock_path).map_err(failed)?;
    }
    let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => StorageError::Locked { path: dir.clone() },
        _ => failed(error),
    })?;
    disk.sync_dir(&dir).await.map_err(|error| StorageError::io(&dir, "syncing", error))?;
    if recorded.as_deref() != Some(&dir) {
        write(disk, member_dir, &dir).await?;
    }
    Ok(WalPlace { dir, lock: Some(lock) })
}

/// Whether two paths name the same place, whichever of them is relative.
fn is_same(one: &Path, other: &Path) -> bool {
    let absolute = |path| std::path::absolute(path).ok();
    one == other || (absolute(one).is_some() && absolute(one) == absolute(other))
}

fn read(disk: &dyn Disk, member_dir: &Path) -> Result<Option<PathBuf>, StorageError> {
    let path = member_dir.join(FILE_NAME);
    let failed = |error| StorageError::io(&path, "reading", error);
    if !disk.exists(&path).map_err(failed)? {
        return Ok(None);
    }
    let file = disk.open_to_read(&path).map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX)];
    file.read_at(0, &mut bytes).map_err(failed)?;
    let location: Location = serde_json::from_slice(&bytes)
        .map_err(|error| StorageError::damaged(&path, 0, error.to_string()))?;
    if location.version > VERSION {
        let (found, supported) = (location.version, VERSION);
        return Err(StorageError::Newer { path, found, supported });
    }
    Ok(Some(location.wal_dir))
}

async fn write(disk: &dyn Disk, member_dir: &Path, dir: &Path) -> Result<(), StorageError> {
    let path = member_dir.join(FILE_NAME);
    let temporary = member_dir.join(format!("{FILE_NAME}{TEMPORARY}"));
    let failed = |error| StorageError::io(&path, "writing", error);
    directory::make_durable(disk, member_dir).await?;
    if disk.exists(&temporary).map_err(failed)? {
        disk.remove(&temporary).map_err(failed)?;
    }
    let location = Location { version: VERSION, wal_dir: dir.to_path_buf() };
    let text = serde_json::to_vec(&location).expect("a path that came as text");
    let file = disk.create(&temporary).map_err(failed)?;
    file.write_at(0, &text).map_err(failed)?;
    file.sync().await.map_err(failed)?;
    disk.rename(&temporary, &path).map_err(failed)?;
    disk.sync_dir(member_dir).await.map_err(failed)
}

async fn forget(disk: &dyn Disk, member_dir: &Path) -> Result<(), StorageError> {
    let path = member_dir.join(FILE_NAME);
    let failed = |error| StorageError::io(&path, "removing", error);
    disk.remove(&path).map_err(failed)?;
    disk.sync_dir(member_dir).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use crate::storage::segment::WalMetadata;
    use crate::storage::wal::WalOptions;
    use futures::executor::block_on;
    use std::sync::Arc;

    const MEMBER: &str = "/data/member";

    fn disk() -> Arc<dyn Disk> {
        let disk = MemDisk::new();
        disk.create_dir_all(Path::new(MEMBER)).expect("in memory");
        Arc::new(disk)
    }

    fn located(disk: &Arc<dyn Disk>, asked: Option<&str>) -> Result<PathBuf, String> {
        let place = block_on(locate(&**disk, Path::new(MEMBER), asked.map(Path::new)));
        place.map(|place| place.dir).map_err(|error| error.to_string())
    }

    fn make_log(disk: &Arc<dyn Disk>, dir: &str) {
        let metadata = WalMetadata { cluster_id: 1, member_id: 2 };
        let options = WalOptions::default();
        let made = block_on(Wal::create(disk.clone(), Path::new(dir), metadata, options));
        made.map(drop).expect("in memory");
    }

    #[test]
    fn a_log_elsewhere_is_found_again_without_the_flag() {
        let disk = disk();
        assert_eq!(located(&disk, Some("/log")), Ok("/log".into()));
        assert_eq!(located(&disk, None), Ok("/log".into()));
        make_log(&disk, "/log");
        assert_eq!(located(&disk, None), Ok("/log".into()));
        let refused = located(&disk, Some("/other")).expect_err("the log is in /log");
        assert!(refused.contains("/log") && refused.contains("/other"), "{refused}");
    }

    #[test]
    fn a_log_that_was_moved_is_taken_where_it_is() {
        let disk = disk();
        located(&disk, Some("/log")).expect("a new place");
        // Its files were moved to /other, none is left in /log.
        make_log(&disk, "/other");
        assert_eq!(located(&disk, Some("/other")), Ok("/other".into()));
        assert_eq!(located(&disk, None), Ok("/other".into()));
    }

    #[test]
    fn a_log_inside_is_not_left_behind() {
        let disk = disk();
        assert_eq!(located(&disk, None), Ok("/data/member/wal".into()));
        // As often as it is asked.
        located(&disk, Some("/log")).expect("there is no log yet");
        assert_eq!(located(&disk, Some("/data/member/wal")), Ok("/data/member/wal".into()));
        assert_eq!(located(&disk, None), Ok("/data/member/wal".into()));
        make_log(&disk, "/data/member/wal");
        let refused = located(&disk, Some("/log")).expect_err("the log is inside");
        assert!(refused.contains("/data/member/wal"), "{refused}");
        assert_eq!(located(&disk, None), Ok("/data/member/wal".into()));
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_no_empty_log() {
        let disk = disk();
        located(&disk, Some("/log")).expect("a new place");
        disk.remove(Path::new("/log/lock")).expect("it was made");
        let refused = located(&disk, None).expect_err("the disk is gone");
        assert!(refused.contains("mounted"), "{refused}");
    }
}
