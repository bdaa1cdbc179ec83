//! Whether this member's state may be shown to its clients.
//!
//! A member that is not trusted goes on as before towards the others: it votes, makes the log
//! durable, acknowledges and applies. Its clients are answered `corrupt cluster` wherever an answer
//! would come out of the state, its watchers end, and nobody is sent its checkpoints once it is
//! known to be damaged.

use super::shared::Shared;
use crate::env::recorder::{self, Standing};
use crate::error::{Error, Result};

impl Shared {
    pub fn standing(&self) -> Standing {
        self.standing.get()
    }

    pub fn is_trusted(&self) -> bool {
        self.standing() == Standing::Trusted
    }

    /// Refuses what would show a state that is known or suspected to be damaged.
    pub fn check_trusted(&self) -> Result<()> {
        if self.is_trusted() { Ok(()) } else { Err(Error::Corrupt) }
    }

    /// Changes what this member is held to be. With a quarantine all watchers end.
    pub fn set_standing(&self, standing: Standing) {
        if self.standing() == standing {
            return;
        }
        self.standing.set(standing);
        let index = self.view().applied;
        self.metrics.quarantined.set(i64::from(standing != Standing::Trusted));
        self.env.recorder.record(&recorder::Event::Standing { standing, index });
        match standing {
            Standing::Trusted => tracing::info!(index, "the state of this member is trusted"),
            Standing::Unverified => tracing::info!(index, "the state is yet to be compared"),
            Standing::Quarantined => {
                tracing::error!(index, "the state of this member is damaged: quarantined");
                self.metrics.quarantines_total.inc();
                let revision = self.state().store.revision();
                self.hub().end_all(revision);
            }
        }
    }

    /// Completes once the state may be shown.
    pub async fn trusted(&self) {
        self.standing.wait_for(|standing| *standing == Standing::Trusted).await;
    }
}
