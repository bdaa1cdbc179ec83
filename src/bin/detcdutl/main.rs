//! detcdutl: what is done with files while no member runs: looks into backups in etcd's format,
//! makes data directories from them, and shows logs. Commands and outputs are those of etcdutl.

mod shown;
mod wal_dump;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use detcd::config::settings::parse_cluster;
use detcd::config::url::Url;
use detcd::env::disk::Disk;
use detcd::env::real_disk::RealDisk;
use detcd::server::restore::{BackupFile, BackupStatus, RestoreOptions, restore};
use detcd::storage::verify::{Looked, verify};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("Error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let file = || Arg::new("file").required(true).value_name("FILE").help("The backup");
    let status = Command::new("status").about("What a backup holds, in numbers").arg(file());
    let snapshot = Command::new("snapshot")
        .about("Backups in etcd's format")
        .subcommand_required(true)
        .subcommand(status)
        .subcommand(restore_command().arg(file()));
    let hashkv = Command::new("hashkv")
        .about("The hash of a backup's keys, as `etcdctl endpoint hashkv` gives it")
        .arg(file())
        .arg(
            Arg::new("rev")
                .long("rev")
                .default_value("0")
                .value_parser(value_parser!(i64))
                .help("The revision up to which keys count; 0 for the last"),
        );
    Command::new("detcdutl")
        .about("Works on backups and data directories while no member runs")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .infer_subcommands(true)
        .arg(
            Arg::new("write-out")
                .short('w')
                .long("write-out")
                .global(true)
                .default_value("simple")
                .value_parser(["simple", "fields", "json", "table"])
                .help("How to print"),
        )
        .subcommand(snapshot)
        .subcommand(hashkv)
        .subcommand(verify_command())
        .subcommand(wal_dump::command())
}

fn verify_command() -> Command {
    Command::new("verify")
        .about("Reads all files of a member that does not run, and says what is damaged")
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The member's data directory"),
        )
}

fn restore_command() -> Command {
    let text = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("restore")
        .about("Makes a member's data directory from a backup of detcd or of etcd 3.4 or later")
        .arg(text("name", "default", "The name of this member"))
        .arg(text(
            "initial-cluster",
            "default=http://localhost:2380",
            "All members of the new cluster",
        ))
        .arg(text("initial-cluster-token", "etcd-cluster", "Tells this cluster from others"))
        .arg(text(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "This member's URLs for the others",
        ))
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .value_parser(value_parser!(PathBuf))
                .help("The directory to make; <name>.etcd if it is not given"),
        )
        .arg(
            Arg::new("wal-dir")
                .long("wal-dir")
                .value_parser(value_parser!(PathBuf))
                .help("A directory of its own for the log; <data-dir>/member/wal if not given"),
        )
        .arg(flag("skip-hash-check", "Take a file that was copied from a data directory"))
        .arg(
            Arg::new("bump-revision")
                .long("bump-revision")
                .default_value("0")
                .value_parser(value_parser!(u64))
                .help("How much to raise the revision, so that no client has seen a later one"),
        )
        .arg(flag("mark-compacted", "Compact at the raised revision (goes with --bump-revision)"))
        .arg(Arg::new("initial-memory-map-size").long("initial-memory-map-size").hide(true))
}

fn run(matches: &ArgMatches) -> Result<(), String> {
    let format = matches.get_one::<String>("write-out").expect("it has a default").as_str();
    match matches.subcommand() {
        Some(("snapshot", snapshot)) => match snapshot.subcommand() {
            Some(("status", args)) => {
                let backup = BackupFile::open(&RealDisk, file(args), true)?;
                print_status(&backup.status()?, format);
                Ok(())
            }
            Some(("restore", args)) => restore_member(args),
            other => unreachable!("clap requires a subcommand: {other:?}"),
        },
        Some(("hashkv", args)) => {
            let backup = BackupFile::open(&RealDisk, file(args), true)?;
            let revision = *args.get_one::<i64>("rev").expect("it has a default");
            let hashed = backup.store()?.hash_kv(revision);
            let (hash, compacted, revision) =
                hashed.map_err(|error| format!("revision {revision}: {error}"))?;
            print_hash(hash, revision, compacted, format);
            Ok(())
        }
        Some(("verify", args)) => verify_member(args),
        Some(("wal", wal)) => match wal.subcommand() {
            Some(("dump", args)) => wal_dump::dump(args, format),
            other => unreachable!("clap requires a subcommand: {other:?}"),
        },
        other => unreachable!("clap requires a subcommand: {other:?}"),
    }
}

fn verify_member(args: &ArgMatches) -> Result<(), String> {
    let data_dir = args.get_one::<PathBuf>("data-dir").expect("it is required");
    let looked = block_on(verify(&RealDisk, data_dir))?.map_err(|error| error.to_string())?;
    let mut damaged = 0;
    for Looked { what, damage } in looked {
        match damage {
            None => println!("ok       {what}"),
            Some(error) => {
                damaged += 1;
                println!("DAMAGED  {what}: {error}");
            }
        }
    }
    if damaged > 0 {
        return Err(format!("{damaged} of them are damaged in {}", data_dir.display()));
    }
    Ok(())
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(work))
}

fn file(args: &ArgMatches) -> &Path {
    Path::new(args.get_one::<String>("file").expect("it is required"))
}

fn restore_member(args: &ArgMatches) -> Result<(), String> {
    let text = |name: &str| args.get_one::<String>(name).expect("it has a default").clone();
    let bump = *args.get_one::<u64>("bump-revision").expect("it has a default");
    if (bump > 0) != args.get_flag("mark-compacted") {
        return Err(
            "--mark-compacted required if --bump-revision is set, and disallowed otherwise"
                .to_string(),
        );
    }
    let name = text("name");
    let data_dir = args.get_one::<PathBuf>("data-dir").cloned();
    let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));
    let wal_dir = args.get_one::<PathBuf>("wal-dir").map(std::path::absolute).transpose();
    let wal_dir = wal_dir.map_err(|error| format!("--wal-dir: {error}"))?;
    let urls = text("initial-advertise-peer-urls");
    let urls = urls.split(',').map(|url| Url::parse(url).map(|url| url.text));
    let urls = urls.collect::<Result<Vec<_>, _>>();
    let options = RestoreOptions {
        name,
        initial_cluster: parse_cluster(&text("initial-cluster"))?,
        initial_cluster_token: text("initial-cluster-token"),
        initial_advertise_peer_urls: urls
            .map_err(|error| format!("--initial-advertise-peer-urls: {error}"))?,
        data_dir,
        wal_dir,
        skip_hash_check: args.get_flag("skip-hash-check"),
        bump_revision: (bump > 0).then_some(bump),
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let backup = BackupFile::open(&*disk, file(args), options.skip_hash_check)?;
    let made = block_on(restore(disk, &backup, &options))??;
    println!(
        "restored {} records up to revision {} (compacted: {}) as member {:x} of cluster {:x} \
         in {}",
        made.records,
        made.revision,
        made.compact_revision,
        made.member_id,
        made.cluster_id,
        options.data_dir.display()
    );
    Ok(())
}

fn print_status(status: &BackupStatus, format: &str) {
    let BackupStatus { hash, revision, total_key, total_size } = *status;
    let row = [
        format!("{hash:x}"),
        revision.to_string(),
        total_key.to_string(),
        bytes_for_people(total_size),
    ];
    match format {
        "json" => println!(
            "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{total_key},\
             \"totalSize\":{total_size}}}"
        ),
        "fields" => println!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_key}\n\
             \"Size\" : {total_size}"
        ),
        "table" => print_table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"], row),
        _ => println!("{}", row.join(", ")),
    }
}

fn print_hash(hash: u32, revision: i64, compacted: i64, format: &str) {
    match format {
        "json" => println!(
            "{{\"hash\":{hash},\"hashRevision\":{revision},\"compactRevision\":{compacted}}}"
        ),
        "fields" => println!(
            "\"Hash\" : {hash}\n\"Hash revision\" : {revision}\n\"Compact revision\" : {compacted}"
        ),
        "table" => print_table(
            ["HASH", "HASH REVISION", "COMPACT REVISION"],
            [hash.to_string(), revision.to_string(), compacted.to_string()],
        ),
        _ => println!("{hash}, {revision}, {compacted}"),
    }
}

fn print_table<const N: usize>(head: [&str; N], row: [String; N]) {
    let widths: Vec<usize> = head.iter().zip(&row).map(|(h, r)| h.len().max(r.len())).collect();
    let rule = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+");
    let line = |cells: &mut dyn Iterator<Item = String>| {
        println!("|{}|", cells.collect::<Vec<_>>().join("|"));
    };
    println!("+{rule}+");
    line(&mut head.iter().zip(&widths).map(|(h, width)| format!(" {h:^width$} ")));
    println!("+{rule}+");
    line(&mut row.iter().zip(&widths).map(|(r, width)| format!(" {r:>width$} ")));
    println!("+{rule}+");
}

/// Bytes in powers of a thousand, as etcdutl prints them.
fn bytes_for_people(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let size = (size * 10.0).round() / 10.0;
    if unit == 0 || size >= 10.0 {
        format!("{size:.0} {}", UNITS[unit])
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}
