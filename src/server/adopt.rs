//! A data directory that etcd's own tools restored from a backup becomes one of ours at the first
//! start, so that `etcdctl snapshot restore` can be used as it always was.
//!
//! Only one that no etcd has run on: what a running member's log holds beyond its database would be
//! lost. Any other directory of etcd's is refused, with the command that takes its database.
//!
//! The new files are made aside, then two renames put them in place; etcd's stay as `member.etcd`.

use super::ServerConfig;
use super::restore::{BackupFile, RestoreOptions, restore_as};
use super::start_error::StartError;
use crate::env::disk::Disk;
use crate::membership::Members;
use crate::pb::detcd::raft::Member;
use crate::storage::etcd_wal::{self, FreshLog};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the new files are made, below the data directory.
const ASIDE: &str = "from-etcd";
/// What etcd's files are called then.
const BEFORE: &str = "member.etcd";

/// Takes over a directory of etcd's, if that is what the data directory is.
///
/// # Errors
/// When it is one that can't be taken over.
pub async fn adopt(disk: &Arc<dyn Disk>, config: &ServerConfig) -> Result<(), StartError> {
    let root = &config.data_dir;
    let failed = |error: io::Error| refuse(format!("looking into {}: {error}", root.display()));
    let (member, aside) = (root.join("member"), root.join(ASIDE));
    let database = member.join("snap/db");
    if disk.exists(&database).map_err(failed)? {
        // A log elsewhere is not taken over.
        let wal = member.join("wal");
        let log = match config.wal_dir.is_none() && disk.exists(&wal).map_err(failed)? {
            true => etcd_wal::read_fresh(&**disk, &wal).map_err(failed)?,
            false => None,
        };
        let log = log.ok_or_else(|| refuse(has_run(config, &database)))?;
        make_aside(disk, config, &database, log, aside.clone()).await?;
        disk.rename(&member, &root.join(BEFORE)).map_err(failed)?;
        disk.sync_dir(root).await.map_err(failed)?;
    } else if disk.exists(&member).map_err(failed)?
        || !disk.exists(&root.join(BEFORE)).map_err(failed)?
    {
        return Ok(());
    }
    // Also after a crash between the two renames.
    disk.rename(&aside.join("member"), &member).map_err(failed)?;
    disk.sync_dir(root).await.map_err(failed)?;
    tracing::info!(from = %database.display(), "took over a directory that etcd's tools restored");
    Ok(())
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
        wal_dir: None,
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

/// The text for a directory on which etcd has run, or whose log is elsewhere.
fn has_run(config: &ServerConfig, database: &Path) -> String {
    let mut cluster = Vec::new();
    for (name, urls) in &config.initial_cluster {
        cluster.extend(urls.iter().map(|url| format!("{name}={url}")));
    }
    let wal = config.wal_dir.as_ref().map(|dir| format!(" --wal-dir {}.detcd", dir.display()));
    let own = config.initial_cluster.iter().find(|(name, _)| *name == config.name);
    format!(
        "{root} is the data directory of an etcd that has run, or has its log elsewhere. Save \
         a snapshot while it runs (etcdctl snapshot save FILE), or take its database as \
         it is; what only its log holds is then not in it. Restore either on every member, and \
         start with the new directory:\n  \
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
