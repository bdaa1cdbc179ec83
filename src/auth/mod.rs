//! Users and roles. The service is not there yet; what a backup of etcd says of them is kept.

pub mod kept;
