//! Receiving a run from another member, and reading a whole run to see that it is one.

use crate::env::disk::{Disk, File};
use crate::env::yield_now;
use crate::storage::error::StorageError;
use crate::storage::run::{self, Run, RunMeta};
use crate::storage::run_writer::{CHUNK_BYTES, SYNC_BYTES, create_afresh, publish};
use crate::storage::segment::TEMPORARY;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run that another member sends in pieces.
///
/// The file has a temporary name until all of it has verified, so a transfer that breaks off
/// leaves nothing that is taken for a run.
pub struct RunReceiver {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    file: Arc<dyn File>,
    expected: RunMeta,
    received: u64,
    synced: u64,
}

impl RunReceiver {
    /// Begins to receive a run that is to become `expected`, under the sender's id.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        expected: RunMeta,
    ) -> Result<RunReceiver, StorageError> {
        let path = dir.join(format!("{}{TEMPORARY}", run::file_name(expected.id)));
        let file = create_afresh(&*disk, &path)?;
        let dir = dir.to_path_buf();
        Ok(RunReceiver { disk, dir, path, file, expected, received: 0, synced: 0 })
    }

    /// How much there is: where the sender goes on after a break.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How much is still to come.
    pub fn missing(&self) -> u64 {
        self.expected.bytes - self.received
    }

    /// Adds the piece that begins at `received()`.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        let failed = |error| StorageError::io(&self.path, "writing", error);
        self.file.write_at(self.received, piece).map_err(failed)?;
        self.received += piece.len() as u64;
        if self.received - self.synced >= SYNC_BYTES {
            self.file.sync().await.map_err(failed)?;
            self.synced = self.received;
        }
        Ok(())
    }

    /// Verifies every block and gives the file its name. What does not verify is removed.
    pub async fn finish(self) -> Result<Run, StorageError> {
        match self.verify().await {
            Ok(()) => {}
            Err(error) => {
                // Best effort: a leftover with a temporary name is removed at the next start.
                self.disk.remove(&self.path).ok();
                return Err(error);
            }
        }
        publish(&*self.disk, &self.dir, &self.path, &*self.file, self.expected.id).await?;
        Run::open(&*self.disk, &self.dir, self.expected.id)
    }

    async fn verify(&self) -> Result<(), StorageError> {
        let run = Run::read(self.path.clone(), self.file.clone(), self.expected.id)?;
        let found = RunMeta { live_bytes: self.expected.live_bytes, ..*run.meta() };
        if found != self.expected {
            let what = format!("received {found:?} instead of {:?}", self.expected);
            return Err(StorageError::damaged(&self.path, 0, what));
        }
        verify_run(&run).await
    }
}

/// Reads all of a run, for scrubbing it or before trusting it.
pub async fn verify_run(run: &Run) -> Result<(), StorageError> {
    let mut read = 0;
    let mut scan = run.scan();
    while let Some((record, _)) = scan.next_view()? {
        read += record.key.len() + record.value.len();
        if read >= CHUNK_BYTES {
            read = 0;
            yield_now().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use crate::storage::record::Record;
    use crate::storage::run_writer::write_run;
    use bytes::Bytes;
    use futures::executor::block_on;

    fn dir() -> &'static Path {
        Path::new("/runs")
    }

    fn disk() -> Arc<dyn Disk> {
        let disk = MemDisk::new();
        disk.create_dir_all(dir()).expect("in memory");
        Arc::new(disk)
    }

    fn record(main: i64) -> Record {
        Record {
            main,
            sub: 0,
            tombstone: false,
            key: Bytes::from(format!("key {main}")),
            create_revision: main,
            version: 1,
            lease: 0,
            value: Bytes::from(vec![main as u8; 100]),
        }
    }

    #[test]
    fn a_run_travels_in_pieces() {
        let sender = disk();
        let run = write_run(&sender, dir(), 6, (1..900).map(record), |_, _| {});
        let meta = block_on(run).expect("in memory").expect("there are records");
        let run = Run::open(&*sender, dir(), 6).expect("it was written");
        let disk = disk();
        let send = |spoil: bool| {
            let mut receiver = RunReceiver::new(disk.clone(), dir(), meta)?;
            while receiver.received() < meta.bytes {
                let mut piece = run.raw(receiver.received(), 10_000)?.to_vec();
                if spoil && receiver.received() == 30_000 {
                    piece[5] ^= 1;
                }
                block_on(receiver.push(&piece))?;
            }
            block_on(receiver.finish())
        };
        assert!(send(true).is_err(), "a spoilt piece was taken");
        assert_eq!(disk.list(dir()).expect("in memory"), Vec::<String>::new());
        let received = send(false).expect("it is whole");
        let records = received.scan().map(|stored| stored.expect("it verified").record);
        assert!(records.eq((1..900).map(record)));
    }
}
