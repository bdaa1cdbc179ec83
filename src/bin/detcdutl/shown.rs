//! What an entry of the log says: as text for people, and as JSON with bytes in base64, as etcd
//! has it.

use base64::prelude::{BASE64_STANDARD, Engine};
use detcd::apply::request::{Op, name};
use detcd::pb::etcdserverpb as pb;
use detcd::pb::raftpb::{ConfChange, Member};
use pb::compare::TargetUnion;
use pb::request_op::Request;
use serde_json::{Map, Value};
use std::fmt;

/// Bytes of a value that people are shown.
const TEXT_BYTES: usize = 64;

/// Something that can be shown either way.
pub enum Shown {
    Bytes(Vec<u8>),
    Text(String),
    Number(i128),
    List(Vec<Shown>),
    /// Only what differs from nothing.
    Fields(Vec<(&'static str, Shown)>),
}

impl Shown {
    fn is_nothing(&self) -> bool {
        match self {
            Shown::Bytes(bytes) => bytes.is_empty(),
            Shown::Text(text) => text.is_empty(),
            Shown::Number(number) => *number == 0,
            Shown::List(list) => list.is_empty(),
            Shown::Fields(_) => false,
        }
    }

    pub fn to_json(&self) -> Value {
        match self {
            Shown::Bytes(bytes) => Value::String(BASE64_STANDARD.encode(bytes)),
            Shown::Text(text) => Value::String(text.clone()),
            Shown::Number(number) => match i64::try_from(*number) {
                Ok(number) => number.into(),
                Err(_) => u64::try_from(*number).map_or(Value::Null, Value::from),
            },
            Shown::List(list) => list.iter().map(Shown::to_json).collect(),
            Shown::Fields(fields) => {
                let fields = fields.iter().map(|(name, shown)| (name.to_string(), shown.to_json()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Bytes(bytes) if bytes.len() > TEXT_BYTES => {
                let (begin, length) = (bytes[..TEXT_BYTES].escape_ascii(), bytes.len());
                write!(f, "\"{begin}\"... ({length} bytes)")
            }
            Shown::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Shown::Text(text) => write!(f, "{text}"),
            Shown::Number(number) => write!(f, "{number}"),
            Shown::List(list) => {
                let list: Vec<String> = list.iter().map(Shown::to_string).collect();
                write!(f, "[{}]", list.join(", "))
            }
            Shown::Fields(fields) => {
                let field = |(name, shown): &(&str, Shown)| match shown {
                    Shown::Fields(_) => format!("{name} {{ {shown} }}"),
                    _ => format!("{name}={shown}"),
                };
                let fields: Vec<String> = fields.iter().map(field).collect();
                write!(f, "{}", fields.join(" "))
            }
        }
    }
}

impl From<&[u8]> for Shown {
    fn from(bytes: &[u8]) -> Shown {
        Shown::Bytes(bytes.to_vec())
    }
}

impl From<&bytes::Bytes> for Shown {
    fn from(bytes: &bytes::Bytes) -> Shown {
        Shown::Bytes(bytes.to_vec())
    }
}

impl From<&str> for Shown {
    fn from(text: &str) -> Shown {
        Shown::Text(text.to_string())
    }
}

impl From<&String> for Shown {
    fn from(text: &String) -> Shown {
        Shown::Text(text.clone())
    }
}

impl From<i64> for Shown {
    fn from(number: i64) -> Shown {
        Shown::Number(number.into())
    }
}

impl From<u64> for Shown {
    fn from(number: u64) -> Shown {
        Shown::Number(number.into())
    }
}

impl From<bool> for Shown {
    fn from(flag: bool) -> Shown {
        Shown::Number(flag.into())
    }
}

fn list<T>(items: &[T], shown: impl Fn(&T) -> Shown) -> Shown {
    Shown::List(items.iter().map(shown).collect())
}

/// Fields without those that say nothing.
fn fields<const N: usize>(all: [(&'static str, Shown); N]) -> Shown {
    Shown::Fields(all.into_iter().filter(|(_, shown)| !shown.is_nothing()).collect())
}

/// A request. Of those of authentication it says which one it is: they hold hashes of passwords.
pub fn request(op: &Op) -> Shown {
    let one = |name, shown| Shown::Fields(vec![(name, shown)]);
    match op {
        Op::Put(put) => one("put", put_fields(put)),
        Op::DeleteRange(delete) => one("delete_range", delete_fields(delete)),
        Op::Txn(txn) => one("txn", txn_fields(txn)),
        Op::Compaction(compaction) => one(
            "compaction",
            fields([
                ("revision", compaction.revision.into()),
                ("physical", compaction.physical.into()),
            ]),
        ),
        Op::LeaseGrant(grant) => {
            one("lease_grant", fields([("ID", grant.id.into()), ("TTL", grant.ttl.into())]))
        }
        Op::LeaseRevoke(revoke) => one("lease_revoke", fields([("ID", revoke.id.into())])),
        Op::LeaseExpire(expire) => one(
            "lease_expire",
            fields([("term", expire.term.into()), ("IDs", list(&expire.ids, |id| (*id).into()))]),
        ),
        Op::LeaseCheckpoint(checkpoint) => {
            let lease = |lease: &detcd::pb::raftpb::LeaseRemaining| {
                let remaining = lease.remaining_ttl.into();
                Shown::Fields(vec![("ID", lease.id.into()), ("remaining_TTL", remaining)])
            };
            one("lease_checkpoint", fields([("leases", list(&checkpoint.leases, lease))]))
        }
        Op::Alarm(alarm) => one(
            "alarm",
            fields([
                ("action", alarm.action().as_str_name().into()),
                ("memberID", alarm.member_id.into()),
                ("alarm", alarm.alarm().as_str_name().into()),
            ]),
        ),
        Op::MemberAttributes(attributes) => one(
            "cluster_member_attr_set",
            fields([
                ("member_ID", hex(attributes.id)),
                ("name", (&attributes.name).into()),
                ("client_urls", list(&attributes.client_urls, |url| url.into())),
            ]),
        ),
        Op::ClusterVersion(set) => {
            one("cluster_version_set", fields([("ver", (&set.version).into())]))
        }
        Op::Downgrade(set) => one(
            "downgrade_info_set",
            fields([("enabled", set.enabled.into()), ("ver", (&set.target_version).into())]),
        ),
        Op::MemberUpdate(change) => one("member_update", conf_change(change)),
        other => one("auth", name(other).into()),
    }
}

/// A change of the members.
pub fn conf_change(change: &ConfChange) -> Shown {
    let member = change.member.as_ref().map_or(Shown::List(Vec::new()), member);
    fields([("kind", change.kind().as_str_name().into()), ("member", member)])
}

fn member(member: &Member) -> Shown {
    fields([
        ("ID", hex(member.id)),
        ("name", (&member.name).into()),
        ("peer_urls", list(&member.peer_urls, |url| url.into())),
        ("is_learner", member.is_learner.into()),
    ])
}

fn hex(id: u64) -> Shown {
    Shown::Text(format!("{id:x}"))
}

fn put_fields(put: &pb::PutRequest) -> Shown {
    fields([
        ("key", (&put.key).into()),
        ("value", (&put.value).into()),
        ("lease", put.lease.into()),
        ("prev_kv", put.prev_kv.into()),
        ("ignore_value", put.ignore_value.into()),
        ("ignore_lease", put.ignore_lease.into()),
    ])
}

fn delete_fields(delete: &pb::DeleteRangeRequest) -> Shown {
    fields([
        ("key", (&delete.key).into()),
        ("range_end", (&delete.range_end).into()),
        ("prev_kv", delete.prev_kv.into()),
    ])
}

fn range_fields(range: &pb::RangeRequest) -> Shown {
    fields([
        ("key", (&range.key).into()),
        ("range_end", (&range.range_end).into()),
        ("limit", range.limit.into()),
        ("revision", range.revision.into()),
        ("keys_only", range.keys_only.into()),
        ("count_only", range.count_only.into()),
    ])
}

fn txn_fields(txn: &pb::TxnRequest) -> Shown {
    fields([
        ("compare", list(&txn.compare, compare)),
        ("success", list(&txn.success, operation)),
        ("failure", list(&txn.failure, operation)),
    ])
}

fn operation(operation: &pb::RequestOp) -> Shown {
    let one = |name, shown| Shown::Fields(vec![(name, shown)]);
    match &operation.request {
        Some(Request::RequestPut(put)) => one("request_put", put_fields(put)),
        Some(Request::RequestDeleteRange(delete)) => {
            one("request_delete_range", delete_fields(delete))
        }
        Some(Request::RequestRange(range)) => one("request_range", range_fields(range)),
        Some(Request::RequestTxn(txn)) => one("request_txn", txn_fields(txn)),
        None => Shown::Fields(Vec::new()),
    }
}

fn compare(compare: &pb::Compare) -> Shown {
    let figure = match &compare.target_union {
        Some(TargetUnion::Version(number)) => ("version", (*number).into()),
        Some(TargetUnion::CreateRevision(number)) => ("create_revision", (*number).into()),
        Some(TargetUnion::ModRevision(number)) => ("mod_revision", (*number).into()),
        Some(TargetUnion::Lease(number)) => ("lease", (*number).into()),
        Some(TargetUnion::Value(value)) => ("value", value.into()),
        None => ("version", 0_i64.into()),
    };
    fields([
        ("result", compare.result().as_str_name().into()),
        ("target", compare.target().as_str_name().into()),
        ("key", (&compare.key).into()),
        ("range_end", (&compare.range_end).into()),
        figure,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_shows_what_it_holds_and_no_more() {
        let put =
            pb::PutRequest { key: "k".into(), value: vec![0xff].into(), ..Default::default() };
        let request_put = pb::RequestOp { request: Some(Request::RequestPut(put)) };
        let compare = pb::Compare {
            key: "k".into(),
            target_union: Some(TargetUnion::Version(3)),
            ..Default::default()
        };
        let txn =
            pb::TxnRequest { compare: vec![compare], success: vec![request_put], failure: vec![] };
        let shown = request(&Op::Txn(txn));
        assert_eq!(
            shown.to_string(),
            "txn { compare=[result=EQUAL target=VERSION key=\"k\" version=3] \
             success=[request_put { key=\"k\" value=\"\\xff\" }] }"
        );
        assert_eq!(
            shown.to_json().to_string(),
            concat!(
                r#"{"txn":{"compare":[{"key":"aw==","result":"EQUAL","target":"VERSION","#,
                r#""version":3}],"success":[{"request_put":{"key":"aw==","value":"/w=="}}]}}"#
            )
        );
    }
}
