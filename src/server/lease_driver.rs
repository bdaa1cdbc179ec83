//! What the leader does about leases.

use super::shared::Shared;
use crate::error::{Error, Result};
use crate::lease::TimeToLive;
use std::sync::Arc;

/// Renews leases on this member, which must lead.
pub async fn renew_here(_shared: &Shared, _ids: &[i64]) -> Result<Vec<i64>> {
    Err(Error::Unimplemented("lease keep-alive"))
}

/// What this member, which must lead, knows of a lease.
pub fn time_to_live_here(_shared: &Shared, _id: i64) -> Result<Option<TimeToLive>> {
    Err(Error::Unimplemented("lease time-to-live"))
}

/// Ends leases whose time is up, while this member leads.
pub async fn run(_shared: Arc<Shared>) {}
