//! Sessions of watchers on top of the hub.

use super::shared::Shared;
use crate::apply::outcome::RevisionChanges;
use std::sync::Arc;

/// Tells the hub of revisions that were just applied, in order.
pub fn publish(_shared: &Shared, _revisions: &[RevisionChanges]) {}

/// Feeds watchers that lag from history, in bounded steps.
pub async fn catch_up(_shared: Arc<Shared>) {}
