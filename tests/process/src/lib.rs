//! Starts members of a cluster as real processes on loopback, and ends each of them by its id.
//!
//! The program may be detcd or etcd: both are started with the same flags. Nothing here needs
//! more than the standard library, so tests and measurements share it at no cost.

/// The simulator, as a program.
pub mod simulator;
/// What a process used, from `/proc`.
pub mod usage;

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A member says this in its log once it serves clients.
const READY: &str = "ready to serve client requests";
/// How long a member may take to say so.
const READY_MAX: Duration = Duration::from_secs(30);

/// One member: its place in the cluster, and its process while it runs.
pub struct Member {
    pub name: String,
    pub dir: PathBuf,
    pub client_url: String,
    pub peer_url: String,
    /// The members of the cluster that it joins, in the form of `--initial-cluster`; none for a
    /// founder.
    joins: Option<String>,
    child: Option<Child>,
}

/// Some members of one program in a directory of their own.
///
/// Invariant: no process outlives this value, and the directory goes with it.
pub struct Cluster {
    pub members: Vec<Member>,
    program: PathBuf,
    dir: PathBuf,
    extra: Vec<String>,
}

/// Finds ports that are free at this moment, all different.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Makes a directory that no other test uses, below `DETCD_TEST_DIR` if that is set.
pub fn scratch_dir(label: &str) -> io::Result<PathBuf> {
    let base = std::env::var_os("DETCD_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let mut number = 0;
    loop {
        let dir = base.join(format!("detcd-{label}-{}-{number}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|()| dir),
        }
    }
}

impl Cluster {
    /// Starts `count` members with fresh data and waits until all of them serve.
    pub fn start(program: &Path, count: usize, extra: &[&str]) -> io::Result<Cluster> {
        let mut cluster = Cluster::prepare(program, count, extra)?;
        for index in 0..count {
            cluster.spawn(index)?;
        }
        for index in 0..count {
            cluster.wait_ready(index, READY_MAX)?;
        }
        Ok(cluster)
    }

    /// Chooses names, ports and directories, and starts nothing.
    pub fn prepare(program: &Path, count: usize, extra: &[&str]) -> io::Result<Cluster> {
        let dir = scratch_dir("cluster")?;
        let ports = free_ports(2 * count)?;
        let members = (0..count)
            .map(|index| Member {
                name: format!("m{index}"),
                dir: dir.join(format!("m{index}")),
                client_url: format!("http://127.0.0.1:{}", ports[2 * index]),
                peer_url: format!("http://127.0.0.1:{}", ports[2 * index + 1]),
                joins: None,
                child: None,
            })
            .collect();
        let extra = extra.iter().map(|flag| (*flag).to_string()).collect();
        Ok(Cluster { members, program: program.to_path_buf(), dir, extra })
    }

    /// Chooses the names and addresses that another cluster had, which must be gone by then.
    ///
    /// Ids are computed from names and addresses, so both clusters have the same.
    pub fn start_like(program: &Path, other: &[(String, String)]) -> io::Result<Cluster> {
        let mut cluster = Cluster::prepare(program, other.len(), &[])?;
        for (member, (client_url, peer_url)) in cluster.members.iter_mut().zip(other) {
            member.client_url.clone_from(client_url);
            member.peer_url.clone_from(peer_url);
        }
        for index in 0..other.len() {
            cluster.spawn(index)?;
        }
        for index in 0..other.len() {
            cluster.wait_ready(index, READY_MAX)?;
        }
        Ok(cluster)
    }

    /// Makes a place for one more member, and starts nothing.
    pub fn add(&mut self) -> io::Result<usize> {
        let index = self.members.len();
        let ports = free_ports(2)?;
        let name = format!("m{index}");
        self.members.push(Member {
            dir: self.dir.join(&name),
            name,
            client_url: format!("http://127.0.0.1:{}", ports[0]),
            peer_url: format!("http://127.0.0.1:{}", ports[1]),
            joins: None,
            child: None,
        });
        Ok(index)
    }

    /// Starts a member that joins the cluster of `others`, and waits until it serves.
    pub fn join(&mut self, index: usize, others: &[usize]) -> io::Result<()> {
        let all = others.iter().chain([&index]).map(|other| &self.members[*other]);
        let all: Vec<String> = all.map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        self.members[index].joins = Some(all.join(","));
        self.spawn(index)?;
        self.wait_ready(index, READY_MAX)
    }

    /// Takes all data of a member that does not run.
    pub fn wipe(&self, index: usize) -> io::Result<()> {
        assert!(!self.is_running(index), "member {index} runs");
        fs::remove_dir_all(&self.members[index].dir)
    }

    /// The addresses of all members for clients and for peers.
    pub fn addresses(&self) -> Vec<(String, String)> {
        let both = |member: &Member| (member.client_url.clone(), member.peer_url.clone());
        self.members.iter().map(both).collect()
    }

    /// The addresses of all members for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    /// The process ids of the members that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.child.as_ref().map(Child::id)).collect()
    }

    /// The flags of one member, the same for detcd and etcd.
    pub fn flags(&self, index: usize) -> Vec<String> {
        let member = &self.members[index];
        let founders = self.members.iter().filter(|m| m.joins.is_none());
        let peers: Vec<String> = founders.map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        let (state, peers) = match &member.joins {
            Some(joins) => ("existing", joins.clone()),
            None => ("new", peers.join(",")),
        };
        let mut flags = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", member.dir.display()),
            format!("--listen-client-urls={}", member.client_url),
            format!("--advertise-client-urls={}", member.client_url),
            format!("--listen-peer-urls={}", member.peer_url),
            format!("--initial-advertise-peer-urls={}", member.peer_url),
            format!("--initial-cluster={peers}"),
            "--initial-cluster-token=test".to_string(),
            format!("--initial-cluster-state={state}"),
        ];
        flags.extend(self.extra.iter().cloned());
        flags
    }

    /// Starts one member on what its data directory holds; its log file begins anew.
    pub fn spawn(&mut self, index: usize) -> io::Result<()> {
        self.spawn_with(index, &[])
    }

    /// Like `spawn`, with more flags for this start.
    pub fn spawn_with(&mut self, index: usize, more: &[&str]) -> io::Result<()> {
        assert!(self.members[index].child.is_none(), "member {index} runs already");
        let log = File::create(self.log_path(index))?;
        let child = Command::new(&self.program)
            .args(self.flags(index))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.members[index].child = Some(child);
        Ok(())
    }

    /// Waits until the member says that it serves; an early end is an error with its log.
    pub fn wait_ready(&mut self, index: usize, limit: Duration) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            if self.log(index)?.contains(READY) {
                return Ok(());
            }
            let child = self.members[index].child.as_mut().expect("a member that was started");
            let ended = child.try_wait()?;
            if ended.is_some() || begin.elapsed() > limit {
                let text = self.log(index)?;
                let lines: Vec<&str> = text.lines().rev().take(20).collect();
                let tail: Vec<&str> = lines.into_iter().rev().collect();
                let why = format!("member {index} is not ready ({ended:?}):\n{}", tail.join("\n"));
                return Err(io::Error::other(why));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the member's process ends of itself.
    pub fn wait_exit(&mut self, index: usize, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            let child = self.members[index].child.as_mut().expect("a member that was started");
            if let Some(status) = child.try_wait()? {
                self.members[index].child = None;
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    /// Ends one member at once, as kill -9 does; its data stays.
    pub fn kill(&mut self, index: usize) -> io::Result<()> {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks one member to end (SIGTERM) and does not wait for it.
    pub fn terminate(&self, index: usize) -> io::Result<()> {
        let child = self.members[index].child.as_ref().expect("a member that was started");
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        Ok(())
    }

    /// Whether the member has a process.
    pub fn is_running(&self, index: usize) -> bool {
        self.members[index].child.is_some()
    }

    /// What the member printed since its last start.
    pub fn log(&self, index: usize) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.log_path(index))?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("{}.log", self.members[index].name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // The process may have ended of itself: both calls then change nothing.
                drop(child.kill());
                drop(child.wait());
            }
        }
        if std::env::var_os("DETCD_TEST_KEEP").is_none() {
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}
