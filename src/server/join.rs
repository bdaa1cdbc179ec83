//! A member without data asks the others who they are: before it founds a cluster, whether it has
//! been a member before; before it joins one, who it is there.
//!
//! Rules and texts are etcd's (`server/etcdserver/bootstrap.go`, `api/membership/cluster.go`).

use super::peers::connect;
use super::server_config::ServerConfig;
use super::start_error::StartError;
use crate::env::Env;
use crate::membership::{Members, member_id};
use crate::pb::raftpb::{InfoRequest, InfoResponse, Member};
use crate::storage::segment::WalMetadata;
use std::collections::BTreeSet;
use std::time::Duration;

/// Where a joining member finds itself.
pub struct Joined {
    pub metadata: WalMetadata,
    /// The members of the cluster, itself among them.
    pub members: Vec<Member>,
}

/// Refuses to found a cluster that knows this member already: without its data it would vote
/// again, and miss what it had acknowledged.
pub async fn check_founding(
    config: &ServerConfig,
    env: &Env,
    metadata: WalMetadata,
) -> Result<(), StartError> {
    for info in ask_others(config, env).await {
        if info.cluster_id != metadata.cluster_id {
            continue;
        }
        let known = info.members.iter().find(|member| member.id == metadata.member_id);
        if known.is_some_and(|member| !member.client_urls.is_empty()) {
            return Err(bootstrapped(config, metadata.member_id));
        }
        if info.removed.contains(&metadata.member_id) {
            return Err(removed(metadata.member_id));
        }
    }
    Ok(())
}

/// Finds out who this member is in the cluster that it is to join.
pub async fn join(config: &ServerConfig, env: &Env) -> Result<Joined, StartError> {
    let own = own_urls(config)?;
    let answers = ask_others(config, env).await;
    let clusters: BTreeSet<u64> = answers.iter().map(|info| info.cluster_id).collect();
    if clusters.len() > 1 {
        let ids: Vec<String> = clusters.iter().map(|id| format!("{id:x}")).collect();
        let ids = ids.join(", ");
        return refuse(format!("the members of initial-cluster are of several clusters: {ids}"));
    }
    // Who has applied most knows best: this member's addition may be new.
    let Some(info) = answers.into_iter().max_by_key(|info| info.applied) else {
        return refuse(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information \
             from the given URLs"
                .to_string(),
        );
    };
    check_members(config, &info.members)?;
    let me = info.members.iter().find(|member| member.peer_urls == own);
    let me = me.expect("all members were found in the initial cluster, and have equal count");
    if !me.client_urls.is_empty() {
        return Err(bootstrapped(config, me.id));
    }
    let metadata = WalMetadata { cluster_id: info.cluster_id, member_id: me.id };
    Ok(Joined { metadata, members: info.members })
}

/// Asks everybody else in the initial cluster who the members of this member's cluster are; nothing
/// when nobody of that cluster answers.
///
/// # Errors
/// When this member was removed.
pub async fn ask_about_members(
    config: &ServerConfig,
    env: &Env,
    me: WalMetadata,
) -> Result<Option<Members>, StartError> {
    let answers = ask_others(config, env).await.into_iter();
    let ours = answers.filter(|info| info.cluster_id == me.cluster_id);
    let Some(info) = ours.max_by_key(|info| info.applied) else { return Ok(None) };
    if info.removed.contains(&me.member_id) {
        return Err(removed(me.member_id));
    }
    Ok(Some(Members::of(info.members)))
}

/// Whether the initial cluster names exactly the members that there are.
fn check_members(config: &ServerConfig, members: &[Member]) -> Result<(), StartError> {
    let named = &config.initial_cluster;
    let list: Vec<String> =
        named.iter().map(|(name, urls)| format!("{name}={}", urls.join(";"))).collect();
    let wrong =
        |what: String| refuse(format!("error validating peerURLs {{{}}}: {what}", list.join(" ")));
    if named.len() != members.len() {
        return wrong("member count is unequal".to_string());
    }
    for member in members {
        let mut urls = member.peer_urls.clone();
        urls.sort_unstable();
        if named.iter().all(|(_, named)| sorted(named) != urls) {
            return wrong(format!(
                "PeerURLs: no match found for existing member ({:x}, [{}])",
                member.id,
                urls.join(" ")
            ));
        }
    }
    Ok(())
}

/// Asks everybody else in the initial cluster, all at once; who does not answer in time is left
/// out.
async fn ask_others(config: &ServerConfig, env: &Env) -> Vec<InfoResponse> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let urls = others.flat_map(|(_, urls)| urls.clone());
    let patience = Duration::from_millis(config.election_ms);
    let questions = urls.map(|url| ask(url, patience, env));
    futures::future::join_all(questions).await.into_iter().flatten().collect()
}

async fn ask(url: String, patience: Duration, env: &Env) -> Option<InfoResponse> {
    let mut client = connect(&url, patience)?;
    tokio::select! {
        biased;
        answer = client.info(InfoRequest::default()) => answer.ok().map(|info| info.into_inner()),
        () = env.clock.sleep(patience) => None,
    }
}

/// Where the others reach this member, as the initial cluster has it.
fn own_urls(config: &ServerConfig) -> Result<Vec<String>, StartError> {
    let own = config.initial_cluster.iter().find(|(name, _)| *name == config.name);
    match own {
        Some((_, urls)) => Ok(sorted(urls)),
        None => refuse(format!(
            "couldn't find local name \"{}\" in the initial cluster configuration",
            config.name
        )),
    }
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort_unstable();
    urls
}

/// The id of a founder.
pub fn founder_id(config: &ServerConfig) -> Result<u64, StartError> {
    Ok(member_id(&own_urls(config)?, &config.initial_cluster_token, None))
}

fn bootstrapped(config: &ServerConfig, id: u64) -> StartError {
    StartError::Config(format!(
        "member {id:x} has already been bootstrapped: {} has lost the data it had under this id; \
         remove the member and add it again, which gives it another one",
        config.name
    ))
}

/// What a member is told that was removed.
pub fn removed(id: u64) -> StartError {
    StartError::Config(format!(
        "the member has been permanently removed from the cluster: {id:x} can't come back; \
         remove its data directory and add it again, which gives it another id"
    ))
}

fn refuse<T>(text: String) -> Result<T, StartError> {
    Err(StartError::Config(text))
}
