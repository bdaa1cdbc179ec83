//! What a restored backup says of users and roles, as it stood in etcd's database: no request reads
//! it yet, and a later backup gives it back.

use bytes::Bytes;
use prost::Message;

/// Three buckets of etcd's database, item for item.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeptAuth {
    /// Whether authentication is on, and how often users and roles have changed.
    #[prost(message, repeated, tag = "1")]
    pub auth: Vec<KeptItem>,
    #[prost(message, repeated, tag = "2")]
    pub users: Vec<KeptItem>,
    #[prost(message, repeated, tag = "3")]
    pub roles: Vec<KeptItem>,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeptItem {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl KeptAuth {
    pub fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.users.is_empty() && self.roles.is_empty()
    }
}
