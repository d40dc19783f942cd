//! The removal of an algorithm: an explicit act that is announced ahead, and can be taken back while its last key is published.

use crate::clock::{Seconds, UnixTime};
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::{self, NewGeneration};
use crate::store::{Db, StoreError};

use super::error::RotationError;
use super::rotator::Rotator;

/// How many clients are read at once.
const PAGE: u32 = 500;

/// Why an algorithm is not removed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CannotRemove {
    /// A server would give it a new key at once.
    #[error(
        "{0} is among keys.algorithms; leave it out there first and restart every node: that alone removes nothing, and no \
         client gets a token of it any more"
    )]
    Configured(Algorithm),
    /// It has no line of keys.
    #[error("{0} has no key; 'keyround keys list' names every key")]
    NoKeys(Algorithm),
    /// It was removed before.
    #[error("{alg} is removed already, with effect from {at}")]
    Already {
        /// The algorithm.
        alg: Algorithm,
        /// From when on it has no key that signs.
        at: UnixTime,
    },
    /// Clients would get no token.
    #[error("these clients are registered for {alg}: {clients}; change or delete them first")]
    Clients {
        /// The algorithm.
        alg: Algorithm,
        /// Their ids.
        clients: String,
    },
    /// A node may still have it configured.
    #[error(
        "these nodes run with other settings than this command, so they may still have {alg} among keys.algorithms: {nodes}; \
         give every node and this command the same settings first"
    )]
    Nodes {
        /// The algorithm.
        alg: Algorithm,
        /// Their ids.
        nodes: String,
    },
    /// The database, or the clock.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

/// Why a removal is not taken back. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CannotKeep {
    /// It was not removed.
    #[error("{0} was not removed, so there is nothing to take back")]
    NotRemoved(Algorithm),
    /// Another key signs already.
    #[error("{0} was removed and added again, and a new key signs; there is nothing to take back")]
    AddedAgain(Algorithm),
    /// Verifiers have dropped its last key.
    #[error(
        "the last {0} key is not published any more, so the removal cannot be taken back; add {0} to keys.algorithms, and a new \
         key signs once it was published for keys.prepublish"
    )]
    TooLate(Algorithm),
    /// The database, or the clock.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

impl From<StoreError> for CannotRemove {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

impl From<StoreError> for CannotKeep {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

/// A removal that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The generation without a key: from its activation on nothing is signed with the algorithm.
    pub generation: NewGeneration,
    /// Until when the removal can be taken back: every node must have read that before its last key leaves the set.
    pub final_at: UnixTime,
}

/// A removal that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAlgorithm {
    /// The key that signs on.
    pub signs: Kid,
    /// From when on it would not have signed any more.
    pub removed_from: UnixTime,
}

impl Rotator {
    /// Announces the removal of an algorithm that no setting, client or node depends on. Its last key signs until the removal
    /// takes effect, and stays published until every token that it signed has expired. Without `commit` nothing is written.
    ///
    /// # Errors
    /// The reason why it is not removed.
    pub async fn remove_algorithm(
        &self,
        alg: Algorithm,
        actor: &str,
        reason: &str,
        commit: bool,
    ) -> Result<Removed, CannotRemove> {
        if self.policy.algorithms().contains(&alg) {
            return Err(CannotRemove::Configured(alg));
        }
        let trusted = self.look_for_change().await?;
        let mut change = self.db.change_keys().await?;
        let trusted = self.plausible(&trusted).await?;
        let now = trusted.reached();
        let generation = plan::removal(change.keys(), &self.policy, alg, now);
        let final_at = final_at(change.keys(), self, &generation)?;
        // Under the lock of the keys: a node of other settings that starts now reads the removal.
        self.refuse_dependants(alg, now).await?;
        if commit {
            change.insert(&generation, None).await?;
            change
                .note(&about_removal(Event::AlgorithmRemoved, alg, now, actor, reason))
                .await?;
            let committed_at = self.clock.read().wall;
            change
                .commit(Some(self.commit_deadline(&trusted)), committed_at)
                .await?;
            tracing::warn!(key.alg = %alg, at = %generation.activates_at, reason, "the removal of an algorithm is announced");
        }
        Ok(Removed { generation, final_at })
    }

    /// Takes the removal of an algorithm back while its last key is published: that key signs on, or again.
    ///
    /// # Errors
    /// The reason why it is not taken back.
    pub async fn keep_algorithm(&self, alg: Algorithm, actor: &str, reason: &str) -> Result<KeptAlgorithm, CannotKeep> {
        let trusted = self.look_for_change().await?;
        let mut change = self.db.change_keys().await?;
        let trusted = self.plausible(&trusted).await?;
        let now = trusted.reached();
        let keys = change.keys();
        let (removal, last) = keys.last_removal(alg).ok_or(CannotKeep::NotRemoved(alg))?;
        let in_force = removal.activates_at <= now;
        if in_force && keys.active(alg, now).is_some() {
            return Err(CannotKeep::AddedAgain(alg));
        }
        let last = last
            .filter(|last| plan::may_sign_again(keys, &self.policy, last, now))
            .ok_or(CannotKeep::TooLate(alg))?;
        let kept = KeptAlgorithm {
            signs: last.kid.clone(),
            removed_from: removal.activates_at,
        };
        let kid = removal.kid.clone();
        change.purge(&kid).await?;
        change
            .note(&about_removal(Event::AlgorithmKept, alg, now, actor, reason))
            .await?;
        change.commit(None, now).await?;
        tracing::warn!(key.alg = %alg, key.kid = %kept.signs, reason, "the removal of an algorithm is taken back");
        Ok(kept)
    }

    async fn refuse_dependants(&self, alg: Algorithm, now: UnixTime) -> Result<(), CannotRemove> {
        let clients = clients_of(&self.db, alg).await?;
        if !clients.is_empty() {
            let clients = clients.join(", ");
            return Err(CannotRemove::Clients { alg, clients });
        }
        let memory = self.policy.windows().snapshot_max_age.max(Seconds(60));
        let own = self.policy.fingerprint();
        let nodes: Vec<String> = self
            .db
            .living_nodes(now, memory)
            .await?
            .into_iter()
            .filter(|node| node.policy_fingerprint != own)
            .map(|node| node.to_string())
            .collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let nodes = nodes.join(", ");
        Err(CannotRemove::Nodes { alg, nodes })
    }
}

/// Until when this removal can be taken back.
fn final_at(keys: &Keys, rotator: &Rotator, removal: &NewGeneration) -> Result<UnixTime, CannotRemove> {
    let alg = removal.alg;
    if let Some(removal) = keys.removal(alg) {
        let at = removal.activates_at;
        return Err(CannotRemove::Already { alg, at });
    }
    let last = keys.line(alg).iter().rfind(|key| key.revoked_at.is_none());
    let last = last.ok_or(CannotRemove::NoKeys(alg))?;
    let policy = &rotator.policy;
    let leaves_at = removal.activates_at + policy.verify_window(last.max_token_ttl);
    Ok(leaves_at - policy.propagation() - policy.windows().clock_skew)
}

async fn clients_of(db: &Db, alg: Algorithm) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    let mut page = db.clients(None, PAGE).await?;
    while let Some(last) = page.last() {
        let of_it = page.iter().filter(|stored| stored.client.alg == Some(alg));
        found.extend(of_it.map(|stored| stored.client.id.to_string()));
        page = db.clients(Some(&last.client.id), PAGE).await?;
    }
    Ok(found)
}

pub(super) fn about_removal(event: Event, alg: Algorithm, now: UnixTime, actor: &str, reason: &str) -> Entry {
    Entry::new(event, alg.name(), now, actor, reason)
}
