//! `detcd local-cluster`: several members on this machine, for trying things out.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// As many as there are ports for.
const MEMBERS_MAX: u16 = 5;
/// How often the members are looked after.
const WATCH: Duration = Duration::from_millis(100);

/// One member to run.
struct Plan {
    name: String,
    client_url: String,
    peer_url: String,
    data_dir: String,
}

pub fn main(args: &[String]) -> ExitCode {
    let (members, data_dir) = match parse(args) {
        Ok(parsed) => parsed,
        Err(text) => {
            eprintln!("detcd: {text}\nUsage: detcd local-cluster [--members N] [--data-dir DIR]");
            return ExitCode::from(2);
        }
    };
    let plans = plan(members, &data_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&plans)),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("detcd: {text}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<(u16, String), String> {
    let (mut members, mut data_dir) = (3, "local-cluster.etcd".to_string());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (arg.as_str(), args.next().cloned()),
        };
        let value = value.ok_or_else(|| format!("flag needs an argument: {name}"))?;
        match name {
            "--members" => {
                let number = value.parse().ok();
                let number = number.filter(|number| (1..=MEMBERS_MAX).contains(number));
                members = number.ok_or(format!("--members is a number from 1 to {MEMBERS_MAX}"))?;
            }
            "--data-dir" => data_dir = value,
            _ => return Err(format!("flag provided but not defined: {name}")),
        }
    }
    Ok((members, data_dir))
}

/// The ports are those of etcd's own example: 2379, 22379, 32379, and the next for members.
fn plan(members: u16, data_dir: &str) -> Vec<Plan> {
    let member = |number: u16| {
        let port = if number == 1 { 2379 } else { number * 10_000 + 2379 };
        Plan {
            name: format!("m{number}"),
            client_url: format!("http://127.0.0.1:{port}"),
            peer_url: format!("http://127.0.0.1:{}", port + 1),
            data_dir: format!("{data_dir}/m{number}"),
        }
    };
    (1..=members).map(member).collect()
}

fn start(plan: &Plan, cluster: &str) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--log-level", "warn", "--log-format", "console"]);
    command.args(["--name", &plan.name, "--data-dir", &plan.data_dir]);
    command.args(["--listen-client-urls", &plan.client_url]);
    command.args(["--advertise-client-urls", &plan.client_url]);
    command.args(["--listen-peer-urls", &plan.peer_url]);
    command.args(["--initial-advertise-peer-urls", &plan.peer_url]);
    command.args(["--initial-cluster", cluster, "--initial-cluster-token", "local-cluster"]);
    // Ctrl-C at the terminal is for this process alone, which then asks the members to stop.
    command.process_group(0).spawn()
}

async fn run(plans: &[Plan]) -> Result<(), String> {
    let cluster: Vec<String> =
        plans.iter().map(|plan| format!("{}={}", plan.name, plan.peer_url)).collect();
    let endpoints: Vec<&str> = plans.iter().map(|plan| plan.client_url.as_str()).collect();
    let signals = |error| format!("cannot wait for signals: {error}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut children = Vec::new();
    let mut outcome = Ok(());
    for plan in plans {
        match start(plan, &cluster.join(",")) {
            Ok(child) => children.push((plan, child)),
            Err(error) => {
                outcome = Err(format!("cannot start {}: {error}", plan.name));
                break;
            }
        }
        println!(
            "{}: {} ({}), data in {}",
            plan.name, plan.client_url, plan.peer_url, plan.data_dir
        );
    }
    if outcome.is_ok() {
        println!(
            "talk to it: etcdctl --endpoints={} endpoint status -w table",
            endpoints.join(",")
        );
        println!("stop it with ctrl-c; a kill -9 of one member leaves the others running");
        outcome = tokio::select! {
            biased;
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            outcome = look_after(&mut children) => outcome,
        };
    }
    for (_, child) in &mut children {
        stop(child);
    }
    for (plan, mut child) in children {
        if let Err(error) = child.wait() {
            eprintln!("{}: {error}", plan.name);
        }
    }
    outcome
}

/// Reports who ends, and completes when nobody is left.
async fn look_after(children: &mut Vec<(&Plan, Child)>) -> Result<(), String> {
    while !children.is_empty() {
        let mut left = Vec::new();
        for (plan, mut child) in children.drain(..) {
            match child.try_wait() {
                Ok(None) => left.push((plan, child)),
                Ok(Some(status)) => println!("{} ended: {status}", plan.name),
                Err(error) => println!("{} can't be looked after: {error}", plan.name),
            }
        }
        *children = left;
        tokio::time::sleep(WATCH).await;
    }
    Err("no member is left".to_string())
}

fn stop(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    // SAFETY: kill takes no memory; the child is not waited for yet, so the id is still its own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}
