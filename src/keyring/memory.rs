//! What this node learnt and answered by, kept until it expires by itself. A standby that was promoted without the last seconds
//! lacks them; a node that was told of a revocation keeps it, and writes it again.

use std::collections::HashMap;
use std::time::Duration;

use crate::accounts::session::LONGEST_ACCESS_TOKEN;
use crate::keys::policy::Policy;
use crate::keys::trusted_time::TrustedTime;
use crate::revocations::{self, Committed, Name, Times};
use crate::store::{Db, REMEMBERED, StoreError};

use super::Snapshot;

/// What the database lacks although this node knew it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Denied tokens and ended sessions.
    pub names: revocations::Lost,
    /// Disabled tenants.
    pub tenants: Vec<String>,
}

impl Lost {
    /// How many records.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.tokens.len() + self.names.sessions.len() + self.tenants.len()
    }
}

/// A tenant that is disabled.
#[derive(Clone, Copy, Debug)]
pub(super) struct DisabledTenant {
    /// The newest audit record about it, when this node saw it become disabled: what may be lost is seconds old.
    newest_record: Option<i64>,
    learnt_at: Duration,
}

/// What was committed on this node since the last look, each with the moment.
#[derive(Default)]
pub(super) struct Here {
    pub(super) ended: HashMap<String, Duration>,
    pub(super) denied: HashMap<String, Duration>,
}

impl Here {
    /// What was committed before this moment: a look that began then must find it.
    pub(super) fn committed_before(&self, moment: Duration) -> Committed {
        let before = |known: &HashMap<String, Duration>| -> Vec<Name> {
            let before = known.iter().filter(|(_, at)| **at < moment);
            before.map(|(name, _)| name.as_str().into()).collect()
        };
        Committed {
            tokens: before(&self.denied),
            sessions: before(&self.ended),
        }
    }
}

/// The times that a look at the revocations goes by.
pub(super) fn times(trusted: &TrustedTime, policy: &Policy) -> Times {
    let windows = policy.windows();
    let now = trusted.checked_at();
    // By the time that was reached, which no wrong clock moves ahead. Twice S: the session was ended by another clock, and its token's
    // end is compared with a third.
    let reached = trusted.reached().max(now);
    Times {
        now,
        forgotten_elsewhere: now + windows.clock_skew + windows.replica_refresh,
        last_access_token: reached + LONGEST_ACCESS_TOKEN + windows.clock_skew * 2,
        last_token: reached + windows.max_token_ttl + windows.verifier_leeway,
    }
}

/// Adds to a new snapshot the tenants that the one before it knew to be disabled and that the database has lost.
pub(super) async fn remember_tenants(db: &Db, previous: &Snapshot, next: &mut Snapshot) -> Result<(), StoreError> {
    for (tenant, known) in &mut next.disabled_tenants {
        *known = match previous.disabled_tenants.get(tenant) {
            Some(known) => *known,
            None => DisabledTenant {
                newest_record: db.newest_record_about(tenant).await?,
                learnt_at: next.loaded.monotonic,
            },
        };
    }
    for (tenant, known) in &previous.disabled_tenants {
        let is_recent = next.loaded.monotonic.saturating_sub(known.learnt_at) < REMEMBERED;
        if next.disabled_tenants.contains_key(tenant) || !is_recent {
            continue;
        }
        // Whoever enabled it left a record, or did it by hand and left the old ones: a database that was set back has fewer.
        if db.newest_record_about(tenant).await? < known.newest_record {
            next.disabled_tenants.insert(tenant.clone(), *known);
            next.lost.tenants.push(tenant.clone());
        }
    }
    Ok(())
}

impl DisabledTenant {
    /// One that was disabled before this node looked.
    pub(super) const EARLIER: Self = Self {
        newest_record: None,
        learnt_at: Duration::ZERO,
    };
}
