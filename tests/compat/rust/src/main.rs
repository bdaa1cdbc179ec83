//! Drives a server with the etcd-client crate; prints what it sees, without what differs by server.
//!
//! `compat-rust PART ENDPOINT,ENDPOINT...`

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LeaseGrantOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [part, endpoints] = words.as_slice() else {
        println!("PART ENDPOINTS");
        return ExitCode::FAILURE;
    };
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    let work = async {
        let client = Client::connect(endpoints, None).await?;
        match part.as_str() {
            "kv" => kv(client).await,
            "lease" => lease(client).await,
            "watch" => watch(client).await,
            "lock" => lock(client).await,
            "election" => election(client).await,
            other => Err(Error::InvalidArgs(format!("no part {other}"))),
        }
    };
    match tokio::time::timeout(std::time::Duration::from_secs(60), work).await {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Error::InvalidArgs(text))) => {
            println!("{text}");
            ExitCode::from(64)
        }
        Ok(Err(error)) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("failed: not done after a minute");
            ExitCode::FAILURE
        }
    }
}

async fn kv(mut client: Client) -> Result<(), Error> {
    for number in 0..5 {
        client.put(format!("/rust/{number}"), format!("value {number}"), None).await?;
    }
    let sorted = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Key, SortOrder::Descend)
        .with_limit(3);
    let got = client.get("/rust/", Some(sorted)).await?;
    println!("get {} {}", got.count(), got.more());
    for kv in got.kvs() {
        println!("  {} = {}, version {}", kv.key_str()?, kv.value_str()?, kv.version());
    }
    let txn = Txn::new()
        .when([Compare::value("/rust/0", CompareOp::Equal, "value 0")])
        .and_then([TxnOp::put("/rust/0", "zero", None), TxnOp::get("/rust/0", None)])
        .or_else([TxnOp::get("/rust/1", None)]);
    let txn = client.txn(txn).await?;
    println!("txn {} {}", txn.succeeded(), txn.op_responses().len());
    let options = PutOptions::new().with_prev_key();
    let put = client.put("/rust/0", "again", Some(options)).await?;
    println!("before: {:?}", put.prev_key().map(|kv| kv.value_str()).transpose()?);
    let deleted = client.delete("/rust/", Some(DeleteOptions::new().with_prefix())).await?;
    println!("deleted {}", deleted.deleted());
    if let Err(Error::GRpcStatus(status)) = client.put("", "x", None).await {
        println!("empty key: {:?} {}", status.code(), status.message());
    }
    Ok(())
}

async fn lease(mut client: Client) -> Result<(), Error> {
    let lease = client.lease_grant(600, Some(LeaseGrantOptions::new())).await?;
    let options = PutOptions::new().with_lease(lease.id());
    client.put("/rust/leased", "x", Some(options)).await?;
    let (mut keeper, mut stream) = client.lease_keep_alive(lease.id()).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let answer = stream.message().await?.ok_or(Error::WatchError("ended".into()))?;
        println!("kept alive {}", answer.ttl());
    }
    client.lease_revoke(lease.id()).await?;
    println!("after revoke {}", client.get("/rust/leased", None).await?.count());
    if let Err(Error::GRpcStatus(status)) = client.lease_revoke(lease.id()).await {
        println!("revoked twice: {:?} {}", status.code(), status.message());
    }
    Ok(())
}

async fn watch(mut client: Client) -> Result<(), Error> {
    let first = client.put("/rust/w/0", "start", None).await?;
    let from = first.header().map_or(0, |header| header.revision());
    client.put("/rust/w/1", "a", None).await?;
    client.delete("/rust/w/1", None).await?;
    let options = WatchOptions::new().with_prefix().with_start_revision(from).with_prev_key();
    let (mut watcher, mut stream) = client.watch("/rust/w/", Some(options)).await?;
    client.put("/rust/w/2", "b", None).await?;
    let mut seen = 0;
    while seen < 4 {
        let answer = stream.message().await?.ok_or(Error::WatchError("ended".into()))?;
        for event in answer.events() {
            seen += 1;
            let kv = event.kv().ok_or(Error::WatchError("no key".into()))?;
            let kind = match event.event_type() {
                EventType::Put => "put",
                EventType::Delete => "delete",
            };
            println!("{kind} {} {}", kv.key_str()?, kv.value_str()?);
        }
    }
    watcher.cancel().await?;
    let answer = stream.message().await?.ok_or(Error::WatchError("ended".into()))?;
    println!("canceled {}", answer.canceled());
    Ok(())
}

async fn lock(mut client: Client) -> Result<(), Error> {
    let held = client.lock("/rust/lock", None).await?;
    println!("key has the name: {}", held.key().starts_with(b"/rust/lock/"));
    let got = client.get(held.key(), None).await?;
    println!("and exists: {}", got.count());
    client.unlock(held.key()).await?;
    println!("and then not: {}", client.get(held.key(), None).await?.count());
    Ok(())
}

async fn election(mut client: Client) -> Result<(), Error> {
    let lease = client.lease_grant(600, None).await?.id();
    let campaign = client.campaign("/rust/election", "first", lease).await?;
    println!("leads: {}", campaign.leader().is_some());
    let leader = client.leader("/rust/election").await?;
    println!("leader {:?}", leader.kv().map(|kv| kv.value_str()).transpose()?);
    client.proclaim("second", None).await.map(drop).unwrap_or_else(|error| {
        println!("proclaim without a key: {}", matches!(error, Error::GRpcStatus(_)));
    });
    let key = campaign.leader().cloned();
    let options = key.map(|key| etcd_client::ResignOptions::new().with_leader(key));
    client.resign(options).await?;
    match client.leader("/rust/election").await {
        Err(Error::GRpcStatus(status)) => println!("{:?} {}", status.code(), status.message()),
        other => println!("{other:?}"),
    }
    client.lease_revoke(lease).await?;
    Ok(())
}
