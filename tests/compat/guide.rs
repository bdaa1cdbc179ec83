//! What an operator types: the shell forms of everyday work, and the procedures of three
//! incidents (no leader, space exceeded, data damaged), step by step on three real members.
//!
//! `cargo test --features compat --test guide -- --etcdctl PATH`: of a release that still restores
//! backups (up to 3.5).

use process::{Cluster, free_ports, scratch_dir};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const READY_MAX: Duration = Duration::from_secs(60);
const STEP_MAX: Duration = Duration::from_secs(60);
/// Small enough to be filled by a few hundred puts.
const QUOTA: &str = "--quota-backend-bytes=8388608";

type Outcome<T> = Result<T, String>;

/// Commands of a shell, and what they must print.
type Step = (&'static str, &'static str, &'static [&'static str]);

const EVERYDAY: [Step; 7] = [
    (
        "keys",
        r#"etcdctl put /config/db/url "jdbc:mysql://mysql:3306/orders"
           etcdctl put /config/db/password "secret123"
           etcdctl get /config/db/url
           etcdctl get /config/ --prefix
           etcdctl del /config/db/password"#,
        &["/config/db/url\njdbc:mysql://mysql:3306/orders", "secret123", "\n1\n"],
    ),
    (
        "watch",
        r"timeout 20 etcdctl watch /config/ --prefix > seen.txt & WATCH=$!
          for n in $(seq 100); do
            etcdctl put /config/n $n > put.txt; grep -q /config/n seen.txt && break; sleep 0.1
          done
          kill $WATCH; head -2 seen.txt",
        &["PUT\n/config/n"],
    ),
    (
        "leases",
        r#"LEASE_ID=$(etcdctl lease grant 30 | awk '{print $2}')
           etcdctl put /lock/order "node1" --lease=$LEASE_ID
           timeout 2 etcdctl lease keep-alive $LEASE_ID || true
           etcdctl lease revoke $LEASE_ID
           etcdctl get /lock/order --print-value-only; echo gone"#,
        &["keepalived with TTL(30)", "revoked\ngone"],
    ),
    (
        "members",
        r"etcdctl member list -w table
          # As in etcd, only once all have been connected for 5 s.
          for n in $(seq 100); do
            etcdctl member add etcd4 --peer-urls=http://127.0.0.1:$FREE_PORT \
              > added.txt 2> refused.txt && break; sleep 0.2
          done
          cat added.txt; etcdctl member list
          NEW=$(awk 'NR == 1 { print $2 }' added.txt)
          etcdctl member update $NEW --peer-urls=http://127.0.0.1:$OTHER_PORT
          etcdctl member remove $NEW; etcdctl member list -w table",
        &["| started |   m0 |", "ETCD_NAME=\"etcd4\"", "unstarted", "updated in", "removed from"],
    ),
    (
        "backup",
        r"ETCDCTL_ENDPOINTS=$FIRST etcdctl snapshot save backup-$(date +%Y%m%d).db
          etcdctl snapshot status backup-$(date +%Y%m%d).db -w table",
        &["Snapshot saved at", "TOTAL KEYS"],
    ),
    (
        "compaction",
        r#"REV=$(etcdctl endpoint status --write-out="json" | python3 -c "import sys,json;
print(json.load(sys.stdin)[0]['Status']['header']['revision'])")
           etcdctl compact $((REV - 1))
           etcdctl defrag --cluster"#,
        &["compacted revision", "Finished defragmenting etcd member"],
    ),
    (
        "health",
        r"etcdctl endpoint status --cluster -w table; etcdctl endpoint health --cluster 2>&1",
        &["RAFT TERM", "is healthy"],
    ),
];

const NO_LEADER: Step = (
    "no leader: what is seen",
    r"for n in $(seq 100); do
        curl -s $FIRST/metrics | grep -q '^etcd_server_has_leader 0' && break; sleep 0.1
      done
      ETCDCTL_ENDPOINTS=$FIRST etcdctl --command-timeout=30s put /a b 2>&1 || true
      ETCDCTL_ENDPOINTS=$FIRST etcdctl endpoint status -w table 2>&1
      etcdctl endpoint health --cluster 2>&1 || true
      curl -s $FIRST/metrics | grep '^etcd_server_has_leader'",
    &["etcdserver: no leader", "RAFT TERM", "is unhealthy", "etcd_server_has_leader 0"],
);

const LEADER_AGAIN: Step = (
    "no leader: the members come back",
    r"for n in $(seq 100); do etcdctl put /a b 2>&1 && break; sleep 0.2; done
      etcdctl endpoint health --cluster 2>&1",
    &["OK", "is healthy"],
);

const SPACE_EXCEEDED: Step = (
    "space exceeded: what is seen",
    r"VALUE=$(head -c 60000 /dev/zero | tr '\0' v)
      for n in $(seq 400); do etcdctl put k $VALUE > put.txt 2> refused.txt || break; done
      cat refused.txt
      for n in $(seq 50); do etcdctl alarm list | grep NOSPACE && break; sleep 0.2; done
      etcdctl get k --print-value-only | wc -c",
    &["etcdserver: mvcc: database space exceeded", "alarm:NOSPACE", "60001"],
);

const SPACE_AGAIN: Step = (
    "space exceeded: the cure",
    r#"REV=$(etcdctl endpoint status -w json | python3 -c "import sys,json;
print(json.load(sys.stdin)[0]['Status']['header']['revision'])")
       etcdctl compact $REV
       etcdctl defrag
       etcdctl alarm disarm
       etcdctl alarm list
       etcdctl put again yes"#,
    &["compacted revision", "Finished defragmenting", "OK"],
);

const SAVE: Step = (
    "data damaged: the latest backup",
    r"etcdctl put /registry/pods/default/my-pod running
      ETCDCTL_ENDPOINTS=$FIRST etcdctl snapshot save latest.db",
    &["Snapshot saved at"],
);

const RESTORED: Step = (
    "data damaged: after the restore",
    r"for n in $(seq 100); do etcdctl endpoint health --cluster > health.txt 2>&1 && break
        sleep 0.2; done
      cat health.txt
      etcdctl get /registry/ --prefix; etcdctl put /registry/more yes; etcdctl member list",
    &["is healthy", "/registry/pods/default/my-pod\nrunning", "OK", "started, m2"],
);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.as_slice() {
        [option, etcdctl] if option == "--etcdctl" => run(Path::new(etcdctl)),
        _ => Err("name an etcdctl: --etcdctl PATH".to_string()),
    };
    match outcome {
        Ok(steps) => {
            println!("test result: ok. {steps} passed; 0 failed;");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}\ntest result: FAILED. 0 passed; 1 failed;");
            ExitCode::FAILURE
        }
    }
}

/// A shell beside a cluster: `etcdctl` is on its path and knows the endpoints.
struct Shell<'a> {
    etcdctl: &'a Path,
    dir: PathBuf,
    done: usize,
}

impl Shell<'_> {
    /// Does a step; an error says what it printed.
    fn step(&mut self, cluster: &Cluster, (name, script, expected): Step) -> Outcome<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let tools = self.etcdctl.parent().unwrap_or(Path::new(".")).display();
        let ports = free_ports(2).map_err(text)?;
        let endpoints = cluster.endpoints();
        let begin = Instant::now();
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(&self.dir)
            .env("PATH", format!("{tools}:{path}"))
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoints.join(","))
            .env("FIRST", &endpoints[0])
            .env("FREE_PORT", ports[0].to_string())
            .env("OTHER_PORT", ports[1].to_string())
            .output()
            .map_err(text)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        println!("== {name}, {:.1?}\n{printed}{errors}", begin.elapsed());
        if begin.elapsed() > STEP_MAX {
            return Err(format!("{name}: took {:?}", begin.elapsed()));
        }
        if !output.status.success() {
            return Err(format!("{name}: ended with {}", output.status));
        }
        for part in expected {
            if !printed.contains(part) {
                return Err(format!("{name}: {part:?} was not printed"));
            }
        }
        self.done += 1;
        Ok(())
    }

    /// The last incident: all members are stopped, and each gets a data directory made from the
    /// backup in the place of its own.
    fn restore(&mut self, cluster: &mut Cluster) -> Outcome<()> {
        for index in 0..cluster.members.len() {
            cluster.terminate(index).map_err(text)?;
        }
        for index in 0..cluster.members.len() {
            let ended = cluster.wait_exit(index, READY_MAX).map_err(text)?;
            ended.ok_or_else(|| format!("member {index} does not stop"))?;
        }
        let of = |m: &process::Member| format!("{}={}", m.name, m.peer_url);
        let all: Vec<String> = cluster.members.iter().map(of).collect();
        for member in &cluster.members {
            let new = self.dir.join(format!("{}-new", member.name));
            let output = Command::new(self.etcdctl)
                .current_dir(&self.dir)
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore", "latest.db", "--name", &member.name])
                .args(["--initial-cluster", &all.join(",")])
                .args(["--initial-cluster-token", "etcd-cluster-1"])
                .args(["--initial-advertise-peer-urls", &member.peer_url])
                .arg("--data-dir")
                .arg(&new)
                .output()
                .map_err(text)?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            let broken = self.dir.join(format!("{}-broken", member.name));
            std::fs::rename(&member.dir, broken).map_err(text)?;
            std::fs::rename(&new, &member.dir).map_err(text)?;
        }
        start(cluster, &[0, 1, 2])
    }
}

fn start(cluster: &mut Cluster, indexes: &[usize]) -> Outcome<()> {
    for &index in indexes {
        cluster.spawn(index).map_err(text)?;
    }
    for &index in indexes {
        cluster.wait_ready(index, READY_MAX).map_err(text)?;
    }
    Ok(())
}

/// Everything in turn; how many steps there were.
fn run(etcdctl: &Path) -> Outcome<usize> {
    let detcd = Path::new(env!("CARGO_BIN_EXE_detcd"));
    let dir = scratch_dir("guide").map_err(text)?;
    let mut shell = Shell { etcdctl, dir, done: 0 };
    let mut cluster = Cluster::start(detcd, 3, &[]).map_err(text)?;
    for step in EVERYDAY {
        shell.step(&cluster, step)?;
    }
    for index in [1, 2] {
        cluster.kill(index).map_err(text)?;
    }
    shell.step(&cluster, NO_LEADER)?;
    start(&mut cluster, &[1, 2])?;
    shell.step(&cluster, LEADER_AGAIN)?;
    drop(cluster);

    let mut cluster = Cluster::start(detcd, 3, &[QUOTA]).map_err(text)?;
    shell.step(&cluster, SPACE_EXCEEDED)?;
    shell.step(&cluster, SPACE_AGAIN)?;
    shell.step(&cluster, SAVE)?;
    shell.restore(&mut cluster)?;
    shell.step(&cluster, RESTORED)?;
    std::fs::remove_dir_all(&shell.dir).map_err(text)?;
    Ok(shell.done)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
