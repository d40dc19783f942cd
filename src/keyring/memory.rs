//! What this node learnt and answered by, kept until it expires by itself. A standby that was promoted without the last seconds
//! lacks them; a node that was told of a revocation keeps it, and writes it again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Seconds, UnixTime};
use crate::jose::jwk::Kid;
use crate::revocations::Revocations;
use crate::store::{Db, REMEMBERED, StoreError};

use super::Snapshot;

/// How many lost records are named at once, for each of the two kinds: a node writes them again between two looks, and must not be late
/// for the next one.
const NAMED_AT_ONCE: usize = 50;

/// What the database lacks although this node knew it, each with the time until which it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Denied tokens, by `jti`: the first of them.
    pub denied: Vec<(String, UnixTime)>,
    /// Ended sessions, by `sid`: the first of them.
    pub ended: Vec<(String, UnixTime)>,
    /// Keys that sign longer tokens than their rows say, with the lifetime of these.
    pub lifetimes: Vec<(Kid, Seconds)>,
    /// Disabled tenants.
    pub tenants: Vec<String>,
    /// How many tokens and sessions there are in all.
    pub revocations: usize,
}

impl Lost {
    /// How many records.
    #[must_use]
    pub fn count(&self) -> usize {
        self.revocations + self.lifetimes.len() + self.tenants.len()
    }

    pub(super) fn follow(&mut self, revocations: &Revocations) {
        self.denied = revocations.tokens.missing(NAMED_AT_ONCE);
        self.ended = revocations.sessions.missing(NAMED_AT_ONCE);
        self.revocations = revocations.tokens.missing_count() + revocations.sessions.missing_count();
    }
}

/// A tenant that is disabled.
#[derive(Clone, Copy, Debug)]
pub(super) struct DisabledTenant {
    /// The newest audit record about it, when this node saw it become disabled: what may be lost is seconds old.
    newest_record: Option<i64>,
    learnt_at: Duration,
}

/// Gives a new snapshot the disabled tenants, with those that the one before it holds and the database has lost. `disabled` is none when
/// no tenant has changed.
pub(super) async fn follow_tenants(
    db: &Db,
    previous: Option<&Snapshot>,
    next: &mut Snapshot,
    disabled: Option<Vec<String>>,
) -> Result<(), StoreError> {
    let (disabled, previous) = match (disabled, previous) {
        (None, None) => return Ok(()),
        (None, Some(previous)) => {
            next.disabled_tenants = Arc::clone(&previous.disabled_tenants);
            return Ok(());
        }
        (Some(disabled), None) => {
            let disabled = disabled.into_iter().map(|tenant| (tenant, DisabledTenant::EARLIER));
            next.disabled_tenants = Arc::new(disabled.collect());
            return Ok(());
        }
        (Some(disabled), Some(previous)) => (disabled, previous),
    };
    let mut tenants = HashMap::new();
    for tenant in disabled {
        let known = match previous.disabled_tenants.get(&tenant) {
            Some(known) => *known,
            None => DisabledTenant {
                newest_record: db.newest_record_about(&tenant).await?,
                learnt_at: next.loaded.monotonic,
            },
        };
        tenants.insert(tenant, known);
    }
    for (tenant, known) in &*previous.disabled_tenants {
        let is_recent = next.loaded.monotonic.saturating_sub(known.learnt_at) < REMEMBERED;
        if tenants.contains_key(tenant) || !is_recent {
            continue;
        }
        // Whoever enabled it left a record, or did it by hand and left the old ones: a database that was set back has fewer.
        if db.newest_record_about(tenant).await? < known.newest_record {
            tenants.insert(tenant.clone(), *known);
            next.lost.tenants.push(tenant.clone());
        }
    }
    next.disabled_tenants = Arc::new(tenants);
    Ok(())
}

impl DisabledTenant {
    /// One that was disabled before this node looked.
    const EARLIER: Self = Self {
        newest_record: None,
        learnt_at: Duration::ZERO,
    };
}
