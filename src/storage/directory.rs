//! Making a directory that is there for good.

use crate::env::disk::Disk;
use crate::storage::error::StorageError;
use std::io;
use std::path::Path;

/// Makes `dir` and those above it, and returns once a power cut can't take them away.
///
/// Also those that exist are synced: the process that made them may have died before it did so.
pub async fn make_durable(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    disk.create_dir_all(dir).map_err(|error| StorageError::io(dir, "making", error))?;
    for above in dir.ancestors().skip(1) {
        // Above a relative path there is the directory that the process runs in.
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match disk.sync_dir(above).await {
            Ok(()) => {}
            // Who may not read a directory can't sync it, and can't have made anything in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StorageError::io(above, "syncing", error)),
        }
    }
    Ok(())
}
