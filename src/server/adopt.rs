//! A data directory that etcd's own tools restored from a backup becomes one of ours at the first
//! start, so that `etcdctl snapshot restore` can be used as it always was.
//!
//! Only one that no etcd has run on: what a running member's log holds beyond its database would be
//! lost. Any other directory of etcd's is refused, with the command that takes its database.
//!
//! The new files are made aside, then two renames put them in place; etcd's stay as `member.etcd`.
//! A log that has a directory of its own (`--wal-dir`) is made aside there, and follows last;
//! etcd's stays beside it as `*.wal.etcd`.

use super::restore::{BackupFile, RestoreOptions, restore_as};
use super::server_config::ServerConfig;
use super::start_error::StartError;
use crate::env::disk::Disk;
use crate::membership::Members;
use crate::pb::detcd::raft::Member;
use crate::storage::error::StorageError;
use crate::storage::etcd_wal::{self, FreshLog};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the new files are made, below the data directory and below that of the log.
const ASIDE: &str = "from-etcd";
/// What etcd's files are called then.
const BEFORE: &str = "member.etcd";

/// Takes over a directory of etcd's, if that is what the data directory is.
///
/// # Errors
/// When it is one that can't be taken over, or a log of etcd's stands where this member's would.
pub async fn adopt(disk: &Arc<dyn Disk>, config: &ServerConfig) -> Result<(), StartError> {
    let root = &config.data_dir;
    let failed = |error: io::Error| refuse(format!("looking into {}: {error}", root.display()));
    let (member, aside, before) = (root.join("member"), root.join(ASIDE), root.join(BEFORE));
    let database = member.join("snap/db");
    let wal_dir = config.wal_dir.as_deref();
    let is_etcds = disk.exists(&database).map_err(failed)?;
    let is_begun = disk.exists(&before).map_err(failed)?;
    if is_etcds || is_begun {
        let _lock = lock(&**disk, root)?;
        if is_etcds {
            let log = fresh_log(&**disk, config, &member, &database)?;
            make_aside(disk, config, &database, log, aside.clone()).await?;
            disk.rename(&member, &before).map_err(failed)?;
            disk.sync_dir(root).await.map_err(failed)?;
        }
        // Also after a crash between the two renames, or behind them.
        if !disk.exists(&member).map_err(failed)? {
            disk.rename(&aside.join("member"), &member).map_err(failed)?;
            disk.sync_dir(root).await.map_err(failed)?;
            let from = database.display();
            tracing::info!(%from, "took over a directory that etcd's tools restored");
        }
        if let Some(dir) = wal_dir {
            move_log(&**disk, dir).await.map_err(failed)?;
        }
    }
    match wal_dir {
        Some(dir) if !etcd_wal::segments(&**disk, dir).map_err(failed)?.is_empty() => {
            Err(refuse(log_of_etcd(config, dir)))
        }
        _ => Ok(()),
    }
}

/// Nobody else may be at work where files are about to be moved.
fn lock(disk: &dyn Disk, root: &Path) -> Result<Box<dyn Send + Sync>, StartError> {
    let path = root.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StorageError::Locked { path: root.to_path_buf() }.into(),
        _ => StorageError::io(&path, "locking", error).into(),
    })
}

/// The log that etcd's tools made for this directory, within or where `--wal-dir` says.
fn fresh_log(
    disk: &dyn Disk,
    config: &ServerConfig,
    member: &Path,
    database: &Path,
) -> Result<FreshLog, StartError> {
    let dir = config.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
    let failed = |error: io::Error| refuse(format!("looking into {}: {error}", dir.display()));
    if etcd_wal::segments(disk, &dir).map_err(failed)?.is_empty() {
        return Err(refuse(log_is_elsewhere(config, database, &dir)));
    }
    let log = etcd_wal::read_fresh(disk, &dir).map_err(failed)?;
    log.ok_or_else(|| refuse(has_run(config, database)))
}

/// Puts the log that was made aside in the place of etcd's.
async fn move_log(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let aside = dir.join(ASIDE);
    if !disk.exists(&aside)? {
        return Ok(());
    }
    for name in etcd_wal::segments(disk, dir)? {
        disk.rename(&dir.join(&name), &dir.join(format!("{name}.etcd")))?;
    }
    for name in disk.list(&aside)?.iter().filter(|name| name.ends_with(".wal")) {
        disk.rename(&aside.join(name), &dir.join(name))?;
    }
    disk.sync_dir(dir).await?;
    disk.sync_dir(&aside).await
}

async fn make_aside(
    disk: &Arc<dyn Disk>,
    config: &ServerConfig,
    database: &Path,
    log: FreshLog,
    data_dir: PathBuf,
) -> Result<(), StartError> {
    let backup = BackupFile::open(&**disk, database, true).map_err(refuse)?;
    let decoded = backup.decode().map_err(refuse)?;
    if decoded.consistent_index != log.founders.len() as u64 {
        return Err(refuse(has_run(config, database)));
    }
    // Who is in the cluster was said to the restore: as in etcd, flags of the start don't count.
    let founders = log.founders.into_iter().map(|founder| Member {
        id: founder.id,
        name: founder.name,
        peer_urls: founder.peer_urls,
        ..Default::default()
    });
    let options = RestoreOptions {
        name: config.name.clone(),
        initial_cluster: config.initial_cluster.clone(),
        initial_cluster_token: config.initial_cluster_token.clone(),
        initial_advertise_peer_urls: Vec::new(),
        data_dir,
        wal_dir: config.wal_dir.as_ref().map(|dir| dir.join(ASIDE)),
        skip_hash_check: true,
        bump_revision: None,
    };
    let members = Members::of(founders);
    let made = restore_as(disk.clone(), &backup, &options, members, log.member_id);
    let made = made.await.map_err(refuse)?;
    if made.cluster_id != log.cluster_id {
        return Err(refuse(format!(
            "{} was restored for cluster {:x}, and its members make it {:x}; remove {}",
            config.data_dir.display(),
            log.cluster_id,
            made.cluster_id,
            options.data_dir.display()
        )));
    }
    Ok(())
}

fn refuse(what: String) -> StartError {
    StartError::Config(what)
}

/// The text for a directory on which etcd has run.
fn has_run(config: &ServerConfig, database: &Path) -> String {
    format!(
        "{} is the data directory of an etcd that has run. {}",
        config.data_dir.display(),
        way_over(config, database)
    )
}

/// The text for a directory without its log.
fn log_is_elsewhere(config: &ServerConfig, database: &Path, dir: &Path) -> String {
    format!(
        "{} is the data directory of an etcd, and its log is not in {}. If etcd's tools made it \
         with --wal-dir, and no etcd has run on it, name that directory in the same way. {}",
        config.data_dir.display(),
        dir.display(),
        way_over(config, database)
    )
}

/// The text for a log whose database is not in the data directory.
fn log_of_etcd(config: &ServerConfig, dir: &Path) -> String {
    format!(
        "{} holds the log of an etcd, and {} is not its data directory: if etcd's tools made both, \
         and no etcd has run on them, name both (--data-dir, --wal-dir). {}",
        dir.display(),
        config.data_dir.display(),
        way_over(config, Path::new("FILE"))
    )
}

/// How to come over from an etcd that has run.
fn way_over(config: &ServerConfig, database: &Path) -> String {
    let mut cluster = Vec::new();
    for (name, urls) in &config.initial_cluster {
        cluster.extend(urls.iter().map(|url| format!("{name}={url}")));
    }
    let wal = config.wal_dir.as_ref().map(|dir| format!(" --wal-dir {}.detcd", dir.display()));
    let own = config.initial_cluster.iter().find(|(name, _)| *name == config.name);
    format!(
        "The way over: save a snapshot while it runs (etcdctl snapshot save FILE), or take its \
         database as it is (member/snap/db; what only its log holds is then not in it). Restore \
         either on every member, and start with the new directory:\n  \
         detcdutl snapshot restore --skip-hash-check {database} --name {name} \
         --initial-cluster {cluster} --initial-cluster-token {token} \
         --initial-advertise-peer-urls {urls} --data-dir {root}.detcd{wal}",
        root = config.data_dir.display(),
        database = database.display(),
        name = config.name,
        cluster = cluster.join(","),
        token = config.initial_cluster_token,
        wal = wal.unwrap_or_default(),
        urls = own.map(|(_, urls)| urls.join(",")).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use crate::storage::segment::WalMetadata;
    use crate::storage::wal::{Wal, WalOptions};
    use futures::executor::block_on;

    /// A checksum of 0, as every segment of etcd's begins.
    const ETCDS: [u8; 16] = [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 16, 0, 0, 0, 0, 0];
    const FIRST: &str = "0000000000000000-0000000000000000.wal";

    #[test]
    fn a_log_elsewhere_moves_once_and_as_often_as_it_takes() {
        let mem = MemDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(mem.clone());
        let (dir, aside) = (Path::new("/log"), Path::new("/log/from-etcd"));
        let metadata = WalMetadata { cluster_id: 1, member_id: 2 };
        let made = Wal::create(disk.clone(), aside, metadata, WalOptions::default());
        block_on(made).map(drop).expect("in memory");
        disk.create(&dir.join(FIRST)).expect("etcd made it");
        mem.set_contents(&dir.join(FIRST), ETCDS.to_vec());
        assert_eq!(etcd_wal::segments(&*disk, dir).expect("in memory"), [FIRST]);
        for _ in 0..2 {
            block_on(move_log(&*disk, dir)).expect("in memory");
            let logs = |name: &String| name.contains(".wal");
            let names: Vec<String> = disk.list(dir).expect("it is there");
            let names: Vec<String> = names.into_iter().filter(logs).collect();
            assert_eq!(names, [&format!("{FIRST}.etcd"), "0000000000000000-0000000000000001.wal"]);
            assert!(etcd_wal::segments(&*disk, dir).expect("in memory").is_empty());
        }
        let opened = block_on(Wal::open(disk, dir, 0, WalOptions::default()));
        assert_eq!(opened.expect("it is whole").1.metadata, metadata);
    }
}
