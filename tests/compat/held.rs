//! A client that holds a lock while the leader is killed: it must still hold it afterwards.

use detcd::pb::etcdserverpb as pb;
use pb::maintenance_client::MaintenanceClient;
use process::Cluster;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tonic::transport::Endpoint;

/// A member that was killed serves again within this time.
const READY_MAX: Duration = Duration::from_secs(30);

/// Runs the part `held` of a program; none if it has no such part.
pub fn run(program: &Path, cluster: &mut Cluster) -> Result<Option<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", program.display());
    let mut command = Command::new(program);
    command.args(["held", &cluster.endpoints().join(",")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut text = String::new();
    // The program bounds its own time, so a read ends.
    stdout.read_line(&mut text).map_err(failed)?;
    if text != "locked\n" {
        child.wait().map_err(failed)?;
        return Ok(None);
    }
    let victim = leader(&cluster.endpoints())?;
    cluster.kill(victim).map_err(failed)?;
    writeln!(stdin, "killed").map_err(failed)?;
    stdout.read_to_string(&mut text).map_err(failed)?;
    let status = child.wait().map_err(failed)?;
    cluster.spawn(victim).map_err(failed)?;
    cluster.wait_ready(victim, READY_MAX).map_err(failed)?;
    Ok(Some(format!("{text}ended with {:?}\n", status.code())))
}

/// Which member says of itself that it leads.
fn leader(urls: &[String]) -> Result<usize, String> {
    let ask = async {
        for (index, url) in urls.iter().enumerate() {
            let endpoint = Endpoint::from_shared(url.clone()).expect("an address of a member");
            let mut client = MaintenanceClient::new(endpoint.connect_lazy());
            let Ok(status) = client.status(pb::StatusRequest::default()).await else { continue };
            let status = status.into_inner();
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(index);
            }
        }
        Err("no member leads".to_string())
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime").block_on(ask)
}
