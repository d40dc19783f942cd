//! What this node learnt and answered by, kept until it expires by itself. A standby that was promoted without the last seconds
//! lacks them; a node that was told of a revocation keeps it, and writes it again.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::{Seconds, UnixTime};
use crate::jose::jwk::Kid;
use crate::keys::policy::Policy;
use crate::store::{Db, REMEMBERED, StoreError};
use crate::values::LONGEST_ACCESS_TOKEN;

use super::Snapshot;

/// What the database lacks although this node knew it, each with the time until which it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Denied tokens, by `jti`.
    pub denied: Vec<(String, UnixTime)>,
    /// Ended sessions, by `sid`.
    pub ended: Vec<(String, UnixTime)>,
    /// Keys that sign longer tokens than their rows say, with the lifetime of these.
    pub lifetimes: Vec<(Kid, Seconds)>,
    /// Disabled tenants.
    pub tenants: Vec<String>,
}

impl Lost {
    /// How many records.
    #[must_use]
    pub fn count(&self) -> usize {
        self.denied.len() + self.ended.len() + self.lifetimes.len() + self.tenants.len()
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

/// Adds to a new snapshot what the one before it and this node's own endings hold and the database does not.
pub(super) async fn remember(
    db: &Db,
    previous: &Snapshot,
    next: &mut Snapshot,
    here: &Here,
    policy: &Policy,
) -> Result<(), StoreError> {
    let skew = policy.windows().clock_skew;
    let now = next.trusted.checked_at();
    // Another node whose clock is ahead may have forgotten what expires within S.
    let pruned = now + skew;
    let committed = |known: &HashMap<String, Duration>| -> Vec<String> {
        let before = known.iter().filter(|(_, at)| **at < next.loaded.monotonic);
        before.map(|(name, _)| name.clone()).collect()
    };
    let (denied_here, ended_here) = (committed(&here.denied), committed(&here.ended));
    let longest = next.loaded.wall + policy.windows().max_token_ttl + policy.windows().verifier_leeway;
    let known = previous.denied.iter().map(|(jti, &until)| (jti.clone(), until));
    for (jti, until) in known.chain(denied_here.into_iter().map(|jti| (jti, longest))) {
        if until > now && !next.denied.contains_key(&jti) {
            next.denied.insert(jti.clone(), until);
            if until > pruned {
                next.lost.denied.push((jti, until));
            }
        }
    }
    // An ending that was committed a moment ago stands in no earlier snapshot.
    let until = next.loaded.wall + LONGEST_ACCESS_TOKEN + skew * 2;
    let just_now = ended_here.iter().map(|sid| (sid, until));
    let known = previous.ended.iter().map(|(sid, &until)| (sid, until));
    let ended: Vec<(String, UnixTime)> = known.chain(just_now).map(|(sid, until)| (sid.clone(), until)).collect();
    for (sid, until) in ended {
        if until > now && !next.ended.contains_key(&sid) {
            next.ended.insert(sid.clone(), until);
            if until > pruned {
                next.lost.ended.push((sid, until));
            }
        }
    }
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
