//! The loop that follows the database: a node gives a sign of life, reads the keys, publishes them, and notes what time has brought about.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{UnixTime, sleep};
use crate::events::{Entry, Event};
use crate::keyring::Snapshot;
use crate::keys::SigningKey;
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;
use crate::keys::state::State;
use crate::store::StoreError;
use crate::store::outage;
use crate::store::tenants::TenantChange;
use crate::supervision::Pulse;
use crate::tasks::{heartbeat, housekeeping};

use super::rotator::once;
use super::{Rotation, SCHEDULE, stopped};

/// How soon the next look follows one that failed.
const PAUSE_WHILE_AWAY: Duration = Duration::from_secs(1);

impl Rotation {
    pub(super) async fn follow_until(&self, pulse: &Pulse, mut stop: watch::Receiver<bool>) {
        // Twice within the bound, so that a change is served within it.
        let pause = self.rotator.policy.windows().replica_refresh.duration() / 2;
        let patience = self.rotator.policy.windows().snapshot_max_age.duration() / 2;
        let mut next = pause;
        while !stopped(&mut stop, next).await {
            next = match self.follow_unless_silent(patience, pulse).await {
                Ok(()) => {
                    self.note_return();
                    pause
                }
                Err(error) => {
                    self.note_failed_look(&error).await;
                    pause.min(PAUSE_WHILE_AWAY)
                }
            };
            self.followed.notify_one();
            pulse.beat();
        }
    }

    /// A database that went silent must not hold the next look, which may find it back. One that has much to read goes on answering.
    async fn follow_unless_silent(&self, patience: Duration, pulse: &Pulse) -> Result<(), StoreError> {
        let revocations = self.keyring.revocations();
        let mut read = revocations.progress();
        let mut follow = std::pin::pin!(self.follow());
        loop {
            tokio::select! {
                followed = &mut follow => return followed,
                () = sleep(patience) => {
                    if revocations.progress() == read {
                        let silent = StoreError::NoPrimary("the database went silent".to_owned());
                        self.note_look(Some(&silent));
                        return Err(silent);
                    }
                    read = revocations.progress();
                    pulse.beat();
                }
            }
        }
    }

    /// Why the last look at the database failed; none when it succeeded.
    #[must_use]
    pub fn failed_look(&self) -> Option<String> {
        self.failed_look.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_look(&self, error: Option<&StoreError>) {
        *self.failed_look.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
    }

    fn note_return(&self) {
        outage::answered();
        if self.away.swap(false, Ordering::Relaxed) {
            self.returned.notify_one();
        }
    }

    async fn note_failed_look(&self, error: &StoreError) {
        let is_first = !self.away.swap(true, Ordering::Relaxed);
        // The error of a pool says nothing about the servers behind it.
        match self.rotator.db.trouble().await {
            Some(servers) if is_first => {
                tracing::error!(%servers, "no database server accepts writes; the last keys are served");
            }
            _ => {}
        }
        outage::report("the keys could not be read; the last ones are served", error);
    }

    /// Gives a sign of life, reads the keys and notes what time has brought about.
    pub(super) async fn follow(&self) -> Result<(), StoreError> {
        let refreshed = self.keyring.refresh().await;
        self.note_look(refreshed.as_ref().err());
        let snapshot = refreshed?;
        let reached = snapshot.trusted().reached();
        let doubtful = !snapshot.trusted().may_plan();
        if doubtful != self.doubtful.swap(doubtful, Ordering::Relaxed) {
            log_doubt(&snapshot);
        }
        if !doubtful {
            self.note_transitions(&snapshot, reached).await?;
        }
        self.write_lost_again(&snapshot, snapshot.trusted().checked_at())
            .await?;
        self.keyring.write_uses_down().await?;
        let rotator = &self.rotator;
        let differing =
            heartbeat::differing_nodes(&rotator.db, &rotator.policy, snapshot.trusted().checked_at()).await?;
        if self.differing.swap(differing, Ordering::Relaxed) != differing {
            tracing::warn!(differing, "the number of nodes that run with another policy changed");
        }
        housekeeping::forget_read_changes(&rotator.db, (!doubtful).then_some(reached)).await;
        if doubtful {
            return Ok(());
        }
        housekeeping::forget_expired(&rotator.db, &snapshot, &rotator.policy, reached).await
    }

    /// Writes again what the database lacks although this node knew it, and reports it.
    async fn write_lost_again(&self, snapshot: &Snapshot, now: UnixTime) -> Result<(), StoreError> {
        let lost = &snapshot.lost;
        if lost.count() == 0 {
            return Ok(());
        }
        tracing::error!(
            revocations = lost.revocations,
            disabled_tenants = lost.tenants.len(),
            token_lifetimes = lost.lifetimes.len(),
            "the database has lost what this node knew, as after a failover to a standby without the last seconds; it stays in force \
             and is written again, but what no node knew is gone: repeat the last changes"
        );
        let actor = format!("node {}", self.keyring.node_id());
        let entry = |event, subject: &str| Entry::new(event, subject, now, actor.as_str(), "the database had lost it");
        let db = &self.rotator.db;
        let wrote = |is_new: bool| {
            self.restored.fetch_add(is_new.into(), Ordering::Relaxed);
        };
        for (jti, until) in &lost.denied {
            wrote(db.deny_token(jti, *until, &entry(Event::TokenDenied, jti)).await?);
            snapshot.revocations().tokens.restored(jti);
        }
        for (sid, until) in &lost.ended {
            wrote(
                db.end_lost_session(sid, *until, &entry(Event::SessionEnded, sid))
                    .await?,
            );
            snapshot.revocations().sessions.restored(sid);
        }
        if !lost.lifetimes.is_empty() {
            let mut change = db.change_keys().await?;
            for (kid, lifetime) in &lost.lifetimes {
                change.raise_max_token_ttl(kid, *lifetime).await?;
                wrote(true);
            }
            change.commit(None, now).await?;
        }
        for tenant in &lost.tenants {
            if let Ok(id) = tenant.parse() {
                let entry = entry(Event::TenantDisabled, tenant);
                let changed = db.change_tenant(&id, TenantChange::Disable, &entry).await?;
                wrote(changed.is_some());
            }
        }
        Ok(())
    }

    /// How many records were written again that the database had lost.
    #[must_use]
    pub fn restored_records(&self) -> u64 {
        self.restored.load(Ordering::Relaxed)
    }

    /// How many living nodes run with another policy.
    #[must_use]
    pub fn differing_nodes(&self) -> usize {
        self.differing.load(Ordering::Relaxed)
    }

    async fn note_transitions(&self, snapshot: &Snapshot, now: UnixTime) -> Result<(), StoreError> {
        let due: Vec<Entry> = snapshot
            .keys
            .iter()
            .flat_map(|key| transitions(&snapshot.keys, key, now))
            .chain(expiries(&snapshot.keys, &self.rotator.policy, now))
            .collect();
        let name = |entry: &Entry| (entry.subject.clone(), entry.event);
        let is_noted = |entry: &&Entry| {
            let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.contains(&name(entry))
        };
        // Whether another node was faster, or this one before its restart, the table itself knows: it is long, and never read.
        for entry in due.iter().filter(|entry| !is_noted(entry)) {
            if self.rotator.db.note(entry).await? {
                tracing::info!(key.kid = %entry.subject, happened_at = %entry.happened_at, "{}", entry.event);
            }
        }
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = due.iter().map(name).collect();
        Ok(())
    }
}

fn log_doubt(snapshot: &Snapshot) {
    match snapshot.trusted().doubt() {
        None => tracing::info!("the clock is no longer in doubt"),
        Some(doubt) if doubt.is_harmless() => tracing::warn!(%doubt, "the clock is not confirmed yet"),
        Some(doubt) => tracing::error!(%doubt, "the clock is in doubt: the schedule makes, destroys and drops no key"),
    }
}

/// The transitions of a key that time has brought about by now.
fn transitions(keys: &Keys, key: &SigningKey, now: UnixTime) -> Vec<Entry> {
    let superseded_at = keys.superseded_at(key);
    let was_active = !key.is_keyless()
        && !key.was_revoked_before_activation()
        && superseded_at.is_none_or(|superseded_at| superseded_at > key.activates_at);
    let mut entries = Vec::new();
    if was_active && key.activates_at <= now {
        let at = key.activates_at;
        entries.push(once(Event::KeyActivated, &key.kid, at, now, SCHEDULE, "its time came"));
    }
    if let Some(at) = superseded_at.filter(|&at| at <= now && key.revoked_at.is_none() && !key.is_keyless()) {
        entries.push(once(
            Event::KeyRetired,
            &key.kid,
            at,
            now,
            SCHEDULE,
            "a newer generation took over",
        ));
    }
    entries
}

/// The keys to verify with whose end has come.
fn expiries<'a>(keys: &'a Keys, policy: &'a Policy, now: UnixTime) -> impl Iterator<Item = Entry> + 'a {
    keys.verifying()
        .iter()
        .filter(move |key| key.state(policy, now) == State::Expired)
        .map(move |key| {
            let at = key.leaves_at(policy);
            once(
                Event::KeyExpired,
                &key.jwk.kid,
                at,
                now,
                SCHEDULE,
                "its stated end came",
            )
        })
}
