//! What a server says about itself and its cluster.

use super::backup::{self, Pieces};
use super::handle::{Caller, Handle};
use super::versions;
use crate::apply::outcome::Response;
use crate::apply::request::Op;
use crate::error::{Error, Result};
use crate::metrics::ETCD_VERSION;
use crate::pb::etcdserverpb::{self as api, AlarmType, ResponseHeader};
use crate::pb::raftpb;

impl Handle {
    /// The state of this member; never waits for another.
    pub fn status(&self) -> api::StatusResponse {
        let shared = self.shared();
        let view = shared.view();
        let state = shared.state();
        let size = i64::try_from(state.store.live_bytes()).unwrap_or(i64::MAX);
        let mut errors = Vec::new();
        if view.leader == 0 {
            errors.push("etcdserver: no leader".to_string());
        }
        if shared.space.is_disk_full() {
            errors.push("the disk of this member is full".to_string());
        }
        if !shared.is_trusted() {
            errors.push("etcdserver: corrupt cluster".to_string());
        }
        for alarm in state.alarms.list(AlarmType::None) {
            let name = alarm.alarm().as_str_name();
            errors.push(format!("memberID:{} alarm:{name} ", alarm.member_id));
        }
        api::StatusResponse {
            header: Some(shared.header_at(state.store.revision())),
            version: ETCD_VERSION.to_string(),
            db_size: size,
            leader: view.leader,
            raft_index: view.commit,
            raft_term: view.term,
            raft_applied_index: state.applied().index,
            errors,
            db_size_in_use: size,
            is_learner: view.is_learner,
            storage_version: versions::storage(&state.members).to_string(),
            db_size_quota: shared.space.quota().setting(),
            downgrade_info: Some(api::DowngradeInfo {
                enabled: state.members.downgrade_target().is_some(),
                target_version: state.members.downgrade_target().unwrap_or("").to_string(),
            }),
        }
    }

    /// The members, as they stood when this was called if `linearizable`.
    pub async fn members(
        &self,
        linearizable: bool,
    ) -> Result<(ResponseHeader, Vec<raftpb::Member>)> {
        if linearizable {
            self.linearizable_barrier().await?;
        }
        let members = self.shared().state().members.iter().cloned().collect();
        Ok((self.cluster_header(), members))
    }

    /// The version that all members speak; empty until it is decided.
    pub fn cluster_version(&self) -> String {
        self.shared().state().members.cluster_version().to_string()
    }

    /// Lists, raises or clears alarms.
    pub async fn alarm(
        &self,
        caller: &Caller,
        request: api::AlarmRequest,
    ) -> Result<api::AlarmResponse> {
        match self.propose(caller, Op::Alarm(request)).await? {
            Response::Alarms(alarms) => {
                Ok(api::AlarmResponse { header: Some(self.header()), alarms })
            }
            other => unreachable!("a question for alarms was answered with {other:?}"),
        }
    }

    /// The hash of all that is visible at a revision (0: the latest), equal on every member and
    /// to etcd's on the same data.
    pub fn hash_kv(&self, revision: i64) -> Result<api::HashKvResponse> {
        let shared = self.shared();
        let state = shared.state();
        let (hash, compact_revision, hash_revision) = state.store.hash_kv(revision)?;
        Ok(api::HashKvResponse {
            header: Some(shared.header_at(state.store.revision())),
            hash,
            compact_revision,
            hash_revision,
        })
    }

    /// Begins a backup of this member's state as it is now.
    pub fn backup(&self) -> Result<Pieces> {
        backup::begin(self.shared())
    }

    /// The hash of everything that a backup holds.
    pub async fn hash(&self) -> Result<api::HashResponse> {
        let hash = backup::hash(self.shared()).await?;
        Ok(api::HashResponse { header: Some(self.header()), hash })
    }

    /// Refuses what a learner does not serve.
    pub fn check_voter(&self) -> Result<()> {
        match self.view().is_learner {
            true => Err(Error::NotSupportedForLearner),
            false => Ok(()),
        }
    }
}
