//! What changes keys: the schedule and the command line use the same, each change in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::{Clock, UnixTime};
use crate::crypto::sealing::{MasterKeyId, MasterKeys};
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::jose::key::{PrivateKey, RsaBits, self_test};
use crate::keyring::{Ledger, binding, node_in_doubt, secret_binding, trusted_time, trusted_time_again};
use crate::keys::SigningKey;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::{self, NewGeneration, Step, plan};
use crate::keys::policy::Policy;
use crate::keys::state::State;
use crate::keys::trusted_time::{Doubt, TrustedTime};
use crate::store::key_change::KeyChange;
use crate::store::signing_keys::SealedKey;
use crate::store::{Db, StoreError};

use super::SCHEDULE;
use super::error::{GenerationError, RotationError};
use super::sealing;

/// What changes keys: the schedule and the command line use the same.
#[derive(Clone)]
pub struct Rotator {
    /// The database.
    pub db: Db,
    /// What seals private halves.
    pub master_key: Arc<MasterKeys>,
    /// The policy.
    pub policy: Arc<Policy>,
    /// The clock.
    pub clock: Clock,
    /// The revoked keys that this machine remembers, whatever the database says.
    pub ledger: Option<Arc<Ledger>>,
}

impl Rotator {
    /// Does what is due by these rows and this look at the clock; answers with the number of steps taken.
    ///
    /// # Errors
    /// The first thing that went wrong; what is due stays due.
    pub async fn apply_due(&self, keys: &Keys, trusted: &TrustedTime) -> Result<usize, RotationError> {
        let now = trusted.reached_at(self.clock.read(), self.policy.windows().clock_skew);
        let steps = plan(keys, &self.policy, now).steps;
        if steps.is_empty() {
            return Ok(0);
        }
        // Made before the transaction: a generation that takes long must not hold the lock, nor age its own stamp.
        let mut answers = Vec::new();
        for alg in needed(&steps) {
            answers.push((alg, self.make(alg, self.scheduled_sealing_key(trusted).await?).await));
        }
        let (mut made, failed) = apart(answers);
        let mut change = self.db.change_keys().await?;
        tracing::debug!("the rows are locked and read anew");
        let trusted = self.look_again(trusted).await?;
        if let Some(doubt) = trusted.doubt() {
            return Err(RotationError::ClockInDoubt(doubt));
        }
        let now = trusted.reached();
        let steps = plan(change.keys(), &self.policy, now).steps;
        let mut taken = 0;
        for step in &steps {
            taken += usize::from(self.take(&mut change, step, &mut made, now).await?);
        }
        if !made.is_empty() {
            tracing::info!("another node has already rotated");
        }
        if taken > 0 {
            let reading = self.clock.read();
            // A machine that slept since has a later wall; one whose wall was set back has gone on by monotonic time.
            let committed_at = reading.wall.max(trusted.now(reading, self.policy.windows().clock_skew));
            tracing::debug!(taken, "the steps are about to be committed");
            change
                .commit(Some(self.commit_deadline(&trusted)), committed_at)
                .await?;
            tracing::debug!(taken, "the steps are committed");
        }
        failed.map_or(Ok(taken), Err)
    }

    /// The master key for what the schedule makes. It goes on where servers list none in common: those that open the key sign with it.
    async fn scheduled_sealing_key(&self, trusted: &TrustedTime) -> Result<MasterKeyId, RotationError> {
        match self.sealing_key(trusted).await {
            Err(RotationError::UnlistedMasterKey(unlisted)) => {
                tracing::error!(nodes = %unlisted.nodes.join(", "), master_key = %unlisted.sealing, "servers do not list the master key that \
                    seals the next key, and will not sign with it");
                Ok(unlisted.sealing)
            }
            answer => answer,
        }
    }

    /// Inserts the next generation of an algorithm now, published ahead like any other.
    ///
    /// # Errors
    /// When the algorithm is not enabled, the set is full, or the clock or the database is not in order.
    pub async fn rotate(
        &self,
        alg: Algorithm,
        actor: &str,
        reason: &str,
    ) -> Result<(Kid, NewGeneration), RotationError> {
        let before = self.db.signing_keys().await?.keys();
        let trusted = self.look().await?;
        refuse_rotation(&before, &self.policy, alg, trusted.reached())?;
        let key = self.make(alg, self.sealing_key(&trusted).await?).await?;
        let trusted = self.look_for_change().await?;
        let mut change = self.db.change_keys().await?;
        let trusted = self.plausible(&trusted).await?;
        let now = trusted.reached();
        refuse_rotation(change.keys(), &self.policy, alg, now)?;
        if !plan::has_room(change.keys(), &self.policy, alg, now) {
            return Err(RotationError::SetFull(alg));
        }
        let new = plan::rotate_early(change.keys(), &self.policy, alg, now);
        insert(&mut change, &new, &key, trusted.checked_at(), actor, reason).await?;
        change
            .commit(Some(self.commit_deadline(&trusted)), self.clock.read().wall)
            .await?;
        Ok((key.jwk.kid, new))
    }

    /// The time to show and to compare heartbeats with.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn now(&self) -> Result<UnixTime, StoreError> {
        Ok(self.look().await?.checked_at())
    }

    /// A look at the clock without an earlier one, before a transaction begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn look(&self) -> Result<TrustedTime, StoreError> {
        trusted_time(&self.db, &self.policy, &self.clock, None).await
    }

    /// A look for a change that a person asks for: the rule of the servers holds for it. To a command a clock that jumped ahead while
    /// a server runs looks like the end of a long stop, but the server knows better.
    pub(super) async fn look_for_change(&self) -> Result<TrustedTime, RotationError> {
        let trusted = self.look().await?;
        if trusted.doubt().is_some_and(Doubt::is_harmless)
            && let Some((_, doubt)) = node_in_doubt(&self.db, &self.policy, &trusted).await?
        {
            return Err(RotationError::ClockInDoubt(doubt));
        }
        Ok(trusted)
    }

    /// Another look within the transaction.
    pub(super) async fn look_again(&self, previous: &TrustedTime) -> Result<TrustedTime, StoreError> {
        trusted_time_again(&self.db, &self.policy, &self.clock, previous).await
    }

    /// Another look for a change that a person asks for. It may follow a long stop, for the time that keys go by stands still
    /// meanwhile; it is refused while the clock is behind or disagrees with the database's.
    pub(super) async fn plausible(&self, previous: &TrustedTime) -> Result<TrustedTime, RotationError> {
        let trusted = self.look_again(previous).await?;
        match trusted.doubt().filter(|doubt| !doubt.is_harmless()) {
            Some(doubt) => Err(RotationError::ClockInDoubt(doubt)),
            None => Ok(trusted),
        }
    }

    /// Confirms that the clock is right although it is in doubt. Keys stay what they are: their times move by the length of the
    /// step. Answers with the doubt that ended; none when another node confirmed it in the same moment.
    ///
    /// # Errors
    /// When the clock is not in doubt, differs from the database's, or the database does not answer.
    pub async fn confirm_clock(
        &self,
        previous: &TrustedTime,
        actor: &str,
        reason: &str,
    ) -> Result<Option<Doubt>, RotationError> {
        let mut change = self.db.change_keys().await?;
        let trusted = self.look_again(previous).await?;
        let reached = trusted.record().reached.unwrap_or_else(|| trusted.reached());
        let doubt = match trusted.doubt() {
            Some(doubt @ Doubt::FromDatabase(_)) => return Err(RotationError::ClockInDoubt(doubt)),
            Some(doubt) => doubt,
            // A start tolerates a clock that is behind by more than a node that runs.
            None if reached - trusted.reached() > self.policy.tolerated_difference() => {
                Doubt::Behind(trusted.reached() - reached)
            }
            None => return Err(RotationError::ClockNotInDoubt),
        };
        let record = change.clock_record().await?;
        if (record.confirmed, record.stepped) != (trusted.record().confirmed, trusted.record().stepped) {
            return Ok(None);
        }
        let step = trusted.step(record, change.keys(), &self.policy);
        let (from, to) = (step.from, step.to);
        change.step_clock(step).await?;
        change
            .note(&Entry::new(
                Event::ClockConfirmed,
                "clock",
                to,
                actor,
                format!("{reason} (a step of {} from {from})", to - from),
            ))
            .await?;
        change.commit(None, to).await?;
        tracing::warn!(%from, %to, actor, "the clock is confirmed; the times of the keys move by the step");
        Ok(Some(doubt))
    }

    /// The latest moment, by the database's clock, at which a row stamped at this look may be committed: its share of P, and the
    /// difference that a node which plans may have to that clock.
    pub(super) fn commit_deadline(&self, trusted: &TrustedTime) -> UnixTime {
        let deadline = trusted.reached() + self.policy.commit_share() + self.policy.tolerated_difference();
        if trusted.doubt().is_some() {
            trusted.by_reference(deadline)
        } else {
            deadline
        }
    }

    /// Makes, tests and seals a key pair on a thread of its own.
    pub(super) async fn make(&self, alg: Algorithm, sealing: MasterKeyId) -> Result<SealedKey, RotationError> {
        let master_key = Arc::clone(&self.master_key);
        let bits = self.policy.windows().rsa_bits;
        tokio::task::spawn_blocking(move || generate(alg, bits, &master_key, &sealing))
            .await
            .unwrap_or(Err(GenerationError::Interrupted))
            .map_err(|reason| RotationError::Generation { alg, reason })
    }

    async fn take(
        &self,
        change: &mut KeyChange,
        step: &Step,
        made: &mut HashMap<Algorithm, SealedKey>,
        now: UnixTime,
    ) -> Result<bool, RotationError> {
        match step {
            Step::FirstStart(generations) => {
                // All or none: an algorithm without a key pair would miss its first start.
                for new in generations {
                    let Some(key) = made.remove(&new.alg) else {
                        return Ok(false);
                    };
                    insert(change, new, &key, now, SCHEDULE, "first start").await?;
                }
            }
            Step::Insert(new) => {
                let Some(key) = made.remove(&new.alg) else {
                    return Ok(false);
                };
                insert(change, new, &key, now, SCHEDULE, "next generation").await?;
            }
            Step::RaiseMaxTokenTtl { kid, to } => {
                change.raise_max_token_ttl(kid, *to).await?;
                tracing::debug!(key.kid = %kid, %to, "a key may sign longer tokens");
            }
            Step::DestroyPrivateHalf { kid } => {
                change.destroy_private_half(kid).await?;
                let entry = once(
                    Event::KeyDestroyed,
                    kid,
                    now,
                    now,
                    SCHEDULE,
                    "no node signs with it any more",
                );
                change.note(&entry).await?;
                tracing::debug!(key.kid = %kid, "a private half is destroyed");
            }
            Step::Purge { kid } => {
                // A server that was away when its end came has not noted it yet, and the row will not be there to say so.
                let left_at = change.keys().find_verifying(kid).map(|key| key.leaves_at(&self.policy));
                if let Some(at) = left_at {
                    let entry = once(Event::KeyExpired, kid, at, now, SCHEDULE, "its stated end came");
                    change.note(&entry).await?;
                }
                let is_keyless = change.keys().find(kid).is_some_and(SigningKey::is_keyless);
                if !is_keyless {
                    let entry = once(
                        Event::KeyPurged,
                        kid,
                        now,
                        now,
                        SCHEDULE,
                        "nothing depends on its row any more",
                    );
                    change.note(&entry).await?;
                }
                change.purge(kid).await?;
                tracing::debug!(key.kid = %kid, "an expired row is purged");
            }
        }
        Ok(true)
    }
}

/// How many keys of an algorithm may wait to sign before a person may not add another: the schedule's, and two more.
pub const MAX_WAITING: usize = 3;

/// Refuses to rotate what has no key that signs, and what has keys enough that wait. A removed algorithm gets its next key no earlier by one more.
///
/// # Errors
/// The reason.
pub fn refuse_rotation(keys: &Keys, policy: &Policy, alg: Algorithm, now: UnixTime) -> Result<(), RotationError> {
    if let Some((removal, _)) = keys
        .last_removal(alg)
        .filter(|_| keys.active(alg, now).is_none() || !keys.has_line(alg))
    {
        let at = removal.activates_at;
        return Err(RotationError::Removed { alg, at });
    }
    if !plan::continued(keys, policy).contains(&alg) {
        return Err(RotationError::NotEnabled(alg));
    }
    if keys.is_empty() {
        return Err(RotationError::NoKeys);
    }
    let waiting = || {
        let line = keys.line(alg).iter();
        line.filter(|key| !key.is_keyless() && keys.state(key, policy, now) == State::Pending)
    };
    match (waiting().count(), waiting().map(|key| key.activates_at).min()) {
        (waiting, Some(next)) if waiting >= MAX_WAITING => Err(RotationError::Waiting { alg, waiting, next }),
        _ => Ok(()),
    }
}

/// The algorithms that these steps need a key pair of.
fn needed(steps: &[Step]) -> impl Iterator<Item = Algorithm> {
    let generations = steps.iter().flat_map(|step| match step {
        Step::FirstStart(generations) => generations.as_slice(),
        Step::Insert(generation) => std::slice::from_ref(generation),
        _ => &[],
    });
    generations.map(|generation| generation.alg)
}

/// What could be made, and the last thing that went wrong: one that could not be made does not hold up the others.
fn apart(
    answers: Vec<(Algorithm, Result<SealedKey, RotationError>)>,
) -> (HashMap<Algorithm, SealedKey>, Option<RotationError>) {
    let (mut made, mut failed) = (HashMap::new(), None);
    for (alg, answer) in answers {
        match answer {
            Ok(key) => drop(made.insert(alg, key)),
            Err(error) => failed = Some(error),
        }
    }
    (made, failed)
}

fn generate(
    alg: Algorithm,
    rsa_bits: RsaBits,
    master_keys: &MasterKeys,
    sealing: &MasterKeyId,
) -> Result<SealedKey, GenerationError> {
    tracing::debug!(key.alg = %alg, "a key pair is about to be made");
    let key = PrivateKey::generate(alg, rsa_bits)?;
    tracing::debug!(key.alg = %alg, "a key pair is made");
    seal(&key, master_keys, sealing)
}

/// Tests a key pair and seals it.
pub(super) fn seal(
    key: &PrivateKey,
    master_keys: &MasterKeys,
    sealing: &MasterKeyId,
) -> Result<SealedKey, GenerationError> {
    let jwk = key.public_jwk()?;
    self_test(key, &jwk.to_json())?;
    tracing::debug!(key.kid = %jwk.kid, "a key pair passed its self-test");
    let sealed = master_keys.seal_under(sealing, &binding(&jwk.kid, jwk.alg), &key.to_pkcs8_der()?)?;
    tracing::debug!(key.kid = %jwk.kid, "a private half is sealed");
    Ok(SealedKey { jwk, sealed })
}

/// `at` is when it is done; the generation's own times are those that keys go by, which differ while a clock is in doubt.
pub(super) async fn insert(
    change: &mut KeyChange,
    new: &NewGeneration,
    key: &SealedKey,
    at: UnixTime,
    actor: &str,
    reason: &str,
) -> Result<(), StoreError> {
    change.insert(new, Some(key)).await?;
    let kid = &key.jwk.kid;
    change
        .note(&once(Event::KeyCreated, kid, at, at, actor, reason))
        .await?;
    change
        .note(&once(Event::KeyPublished, kid, at, at, actor, reason))
        .await?;
    tracing::info!(
        key.kid = %kid, key.alg = %new.alg, key.generation = new.generation, key.activates_at = %new.activates_at,
        reason, "a key is published"
    );
    Ok(())
}

pub(super) fn once(
    event: Event,
    kid: &Kid,
    happened_at: UnixTime,
    noted_at: UnixTime,
    actor: &str,
    reason: &str,
) -> Entry {
    Entry::new(event, kid.as_str(), noted_at, actor, reason)
        .that_happened_at(happened_at)
        .once()
}

impl Rotator {
    /// The master key that seals something new: the first of those listed that every running server lists too.
    ///
    /// # Errors
    /// [`RotationError::UnlistedMasterKey`] if there is none, or when the database does not answer.
    pub async fn sealing_key(&self, trusted: &TrustedTime) -> Result<MasterKeyId, RotationError> {
        Ok(sealing::sealing_key(&self.db, &self.policy, &self.master_key, trusted).await??)
    }

    /// Seals a secret that running servers must open.
    ///
    /// # Errors
    /// [`RotationError::UnlistedMasterKey`], or when the database or OpenSSL fails.
    pub async fn seal_secret(&self, name: &str, secret: &[u8]) -> Result<String, RotationError> {
        let sealing = self.sealing_key(&self.look().await?).await?;
        let sealed = self.master_key.seal_under(&sealing, &secret_binding(name), secret);
        Ok(sealed?)
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Seconds;
    use crate::crypto::sealing::MasterKey;

    use super::*;

    #[test]
    fn a_key_pair_that_cannot_be_made_holds_up_no_other() {
        let master_keys = MasterKeys::from(MasterKey::generate().unwrap());
        let new = |alg| NewGeneration {
            alg,
            generation: 2,
            published_at: UnixTime(0),
            activates_at: UnixTime(60),
            prepublish: Seconds(60),
            max_token_ttl: Seconds(60),
        };
        let steps = [Algorithm::Rs256, Algorithm::Es256].map(|alg| Step::Insert(new(alg)));
        let answers = needed(&steps).map(|alg| {
            let answer = match alg {
                Algorithm::Rs256 => Err(GenerationError::Interrupted),
                Algorithm::Es256 => generate(alg, RsaBits::Bits2048, &master_keys, &master_keys.sealing_id()),
            };
            (alg, answer.map_err(|reason| RotationError::Generation { alg, reason }))
        });
        let (made, failed) = apart(answers.collect());
        assert_eq!(made.keys().collect::<Vec<_>>(), [&Algorithm::Es256]);
        let failed = failed.unwrap().to_string();
        assert!(failed.contains("no RS256 key pair could be made"), "{failed}");
    }
}
