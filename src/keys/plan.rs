//! What is due: `plan(keys, policy, now)` names the steps and when to look again. It never reads a clock.

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, set_bytes};

use super::SigningKey;
use super::lifecycle::Keys;
use super::policy::Policy;

/// A generation to insert; its key pair is yet to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGeneration {
    /// Its algorithm.
    pub alg: Algorithm,
    /// Its place in the line.
    pub generation: i64,
    /// The stamp of its publication.
    pub published_at: UnixTime,
    /// When it begins to sign.
    pub activates_at: UnixTime,
    /// The lead time in force.
    pub prepublish: Seconds,
    /// The longest token it may sign.
    pub max_token_ttl: Seconds,
}

/// One thing that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The table is empty: every algorithm at once, in one transaction.
    FirstStart(Vec<NewGeneration>),
    /// The next generation, published ahead of its first signature.
    Insert(NewGeneration),
    /// Longer tokens are configured than the row allows.
    RaiseMaxTokenTtl {
        /// The key.
        kid: Kid,
        /// The longest lifetime from now on.
        to: Seconds,
    },
    /// No node signs with it any more.
    DestroyPrivateHalf {
        /// The key.
        kid: Kid,
    },
    /// Nothing depends on the row any more, be it a signing key's or one to verify with. Its name stays in the audit log.
    Purge {
        /// The key.
        kid: Kid,
    },
}

/// What is due now, and when something will be due next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in the order to take them.
    pub steps: Vec<Step>,
    /// Generations that are due but would make the key set too large.
    pub too_large: Vec<Algorithm>,
    /// When to look again at the latest.
    pub wake_at: UnixTime,
}

/// Decides what to do next.
#[must_use]
pub fn plan(keys: &Keys, policy: &Policy, now: UnixTime) -> Plan {
    if keys.is_empty() {
        return Plan {
            steps: vec![Step::FirstStart(first_start(policy, now))],
            too_large: Vec::new(),
            wake_at: now,
        };
    }
    let mut steps = Vec::new();
    let mut too_large = Vec::new();
    let mut room = Room::left(keys, policy, now);
    for alg in continued(keys, policy) {
        let Some(next) = next_generation(keys, policy, alg, now).filter(|next| next.due_at <= now) else {
            continue;
        };
        if room.take(alg, policy) {
            steps.push(Step::Insert(next.generation));
        } else {
            too_large.push(alg);
        }
    }
    steps.extend(raises(keys, policy, now));
    steps.extend(destructions(keys, policy, now));
    steps.extend(purges(keys, policy, now));
    Plan {
        steps,
        too_large,
        wake_at: wake_at(keys, policy, now),
    }
}

/// The algorithms whose lines go on: those that are configured, and those that are only left out of the configuration. A
/// line ends by a removal, which is an explicit act; nodes with different settings therefore agree about every line.
#[must_use]
pub fn continued(keys: &Keys, policy: &Policy) -> Vec<Algorithm> {
    let configured = policy.algorithms().iter().copied();
    // The configured ones come first: the room in the set is theirs.
    let left_out = Algorithm::ALL
        .into_iter()
        .filter(|alg| !policy.algorithms().contains(alg) && keys.has_line(*alg));
    configured.chain(left_out).collect()
}

/// The algorithms that have keys, are not configured and were not removed.
#[must_use]
pub fn left_out(keys: &Keys, policy: &Policy) -> Vec<Algorithm> {
    let is_left_out = |alg: &Algorithm| !policy.algorithms().contains(alg);
    continued(keys, policy).into_iter().filter(is_left_out).collect()
}

/// The algorithms that should have an active key and have none. A new one waits for its first activation; one that was
/// removed and is configured again has no such excuse, for its clients had tokens before.
#[must_use]
pub fn without_active(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
    let has_begun = |alg: Algorithm| {
        let activated = |key: &SigningKey| key.activates_at <= now && !key.is_keyless();
        keys.is_removed(alg, now) || keys.line(alg).iter().any(activated)
    };
    continued(keys, policy)
        .into_iter()
        .filter(|&alg| has_begun(alg) && keys.active(alg, now).is_none())
        .collect()
}

/// The keyless generation that removes an algorithm. It is announced as long as a new key is, so that every node has read it
/// and clients can be told, and its last key signs until then.
#[must_use]
pub fn removal(keys: &Keys, policy: &Policy, alg: Algorithm, now: UnixTime) -> NewGeneration {
    let prepublish = prepublish_in_force(keys, policy, now);
    new_generation(keys, policy, alg, now, now + prepublish, prepublish)
}

/// Whether the last key before a removal may sign again: its private half is there, and no node drops it from the set before
/// every node has read that the removal was taken back.
#[must_use]
pub fn may_sign_again(keys: &Keys, policy: &Policy, last: &SigningKey, now: UnixTime) -> bool {
    let read_everywhere = now + policy.propagation() + policy.windows().clock_skew;
    let expires_at = keys.expires_at(last, policy);
    last.has_private_half && expires_at.is_some_and(|expires_at| expires_at > read_everywhere)
}

/// The generation that follows in a line, and when its row is to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// When the row is due; the past means now.
    pub due_at: UnixTime,
    /// The row, as it would be inserted at this moment.
    pub generation: NewGeneration,
}

/// What follows in the line of an enabled algorithm; none before the first start.
///
/// A pending key that lies further ahead than any sane plan would put it (a clock had jumped, the period was made
/// shorter) is passed over, so that the generation inserted next outranks it.
#[must_use]
pub fn next_generation(keys: &Keys, policy: &Policy, alg: Algorithm, now: UnixTime) -> Option<Next> {
    if keys.is_empty() {
        return None;
    }
    if let Some((generation, due_at)) = missing_replacement(keys, policy, alg, now) {
        return Some(Next { due_at, generation });
    }
    let prepublish = prepublish_in_force(keys, policy, now);
    let earliest = now + prepublish;
    let (activates_at, due_at) = match last_sane(keys, policy, alg, now) {
        Some(last) => {
            let regular = last.activates_at + policy.windows().rotation_period;
            (regular.max(earliest), regular - prepublish)
        }
        None => (earliest, now),
    };
    Some(Next {
        due_at,
        generation: new_generation(keys, policy, alg, now, activates_at, prepublish),
    })
}

/// The next generation without waiting for the period: what `keys rotate` inserts.
#[must_use]
pub fn rotate_early(keys: &Keys, policy: &Policy, alg: Algorithm, now: UnixTime) -> NewGeneration {
    if let Some((replacement, _)) = missing_replacement(keys, policy, alg, now) {
        return replacement;
    }
    let prepublish = prepublish_in_force(keys, policy, now);
    new_generation(keys, policy, alg, now, now + prepublish, prepublish)
}

/// The key that a revocation was to bring and did not, because it could seal none: nothing signs, so it signs at once like any
/// replacement, whenever the schedule would have its next turn. With it, since when it is due.
fn missing_replacement(
    keys: &Keys,
    policy: &Policy,
    alg: Algorithm,
    now: UnixTime,
) -> Option<(NewGeneration, UnixTime)> {
    if keys.active(alg, now).is_some() || keys.is_removed(alg, now) {
        return None;
    }
    let signed = |key: &&SigningKey| !key.is_keyless() && !key.was_revoked_before_activation();
    let revoked = keys
        .line(alg)
        .iter()
        .filter(signed)
        .filter(|key| key.revoked_at.is_some());
    let last = revoked.max_by_key(|key| key.revoked_at)?;
    let prepublish = prepublish_in_force(keys, policy, now).max(last.prepublish);
    let activates_at = now - policy.windows().clock_skew;
    let replacement = new_generation(keys, policy, alg, now, activates_at, prepublish);
    Some((replacement, last.revoked_at.unwrap_or(now)))
}

/// Whether one more key of this algorithm fits into the set.
#[must_use]
pub fn has_room(keys: &Keys, policy: &Policy, alg: Algorithm, now: UnixTime) -> bool {
    Room::left(keys, policy, now).take(alg, policy)
}

/// Whether a key that is no longer to be made fits into the set, by its own length in bytes.
#[must_use]
pub fn has_room_for(keys: &Keys, policy: &Policy, bytes: usize, now: UnixTime) -> bool {
    Room::left(keys, policy, now).take_bytes(bytes)
}

/// Whether a key to verify with fits into the set beside all that the schedule will ever publish at once, so that it
/// holds up no rotation while it stays.
#[must_use]
pub fn has_room_for_verifying(keys: &Keys, policy: &Policy, bytes: usize, now: UnixTime) -> bool {
    let per_algorithm = policy.published_per_algorithm();
    let scheduled = continued(keys, policy)
        .into_iter()
        .flat_map(|alg| std::iter::repeat_n(policy.jwk_bytes(alg), per_algorithm));
    let verifying = keys
        .verifying()
        .iter()
        .filter(|key| key.state(policy, now).is_published())
        .map(|key| key.jwk.to_json().len());
    let lengths: Vec<usize> = scheduled.chain(verifying).chain([bytes]).collect();
    let count = lengths.len();
    has_room_for(keys, policy, bytes, now)
        && count <= policy.windows().max_published
        && set_bytes(lengths.into_iter()) <= policy.windows().max_set_bytes
}

/// The algorithms whose next row is late by more than an eighth of the lead time: rotation does not work.
#[must_use]
pub fn overdue(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
    let patience = policy.propagation().max(Seconds(policy.windows().prepublish.0 / 8));
    continued(keys, policy)
        .into_iter()
        .filter(|&alg| next_generation(keys, policy, alg, now).is_some_and(|next| next.due_at + patience < now))
        .collect()
}

/// The lead time an insert must use: a shorter policy must not outrun nodes that still trust the longer one.
#[must_use]
pub fn prepublish_in_force(keys: &Keys, policy: &Policy, now: UnixTime) -> Seconds {
    keys.iter()
        .filter(|key| key.revoked_at.is_none())
        .filter(|key| keys.superseded_at(key).is_none_or(|superseded_at| superseded_at > now))
        .map(|key| key.prepublish)
        .max()
        .unwrap_or(Seconds::ZERO)
        .max(policy.windows().prepublish)
}

/// The row that the next one follows: walking up the line, the last that is not implausibly far ahead. None when the
/// algorithm has no key yet, or none any more.
fn last_sane<'a>(keys: &'a Keys, policy: &Policy, alg: Algorithm, now: UnixTime) -> Option<&'a SigningKey> {
    let prepublish = prepublish_in_force(keys, policy, now);
    let slack = policy.windows().clock_skew + policy.propagation();
    keys.line(alg)
        .iter()
        .filter(|key| key.revoked_at.is_none())
        .fold(None, |last: Option<&SigningKey>, key| {
            if key.is_keyless() {
                return None;
            }
            let earliest = now + prepublish;
            let latest = last.map_or(earliest, |last| {
                earliest.max(last.activates_at + policy.windows().rotation_period)
            });
            if key.activates_at <= latest + slack {
                Some(key)
            } else {
                last
            }
        })
}

fn first_start(policy: &Policy, now: UnixTime) -> Vec<NewGeneration> {
    // Back-dated, so that a node whose clock is behind signs with them too.
    let activates_at = now - policy.windows().clock_skew;
    let prepublish = policy.windows().prepublish;
    let empty = Keys::default();
    policy
        .algorithms()
        .iter()
        .map(|&alg| new_generation(&empty, policy, alg, now, activates_at, prepublish))
        .collect()
}

pub(super) fn new_generation(
    keys: &Keys,
    policy: &Policy,
    alg: Algorithm,
    now: UnixTime,
    activates_at: UnixTime,
    prepublish: Seconds,
) -> NewGeneration {
    NewGeneration {
        alg,
        generation: keys.line(alg).last().map_or(1, |newest| newest.generation + 1),
        published_at: now,
        activates_at,
        prepublish,
        max_token_ttl: policy.windows().max_token_ttl,
    }
}

fn raises(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Step> {
    let to = policy.windows().max_token_ttl;
    keys.iter()
        .filter(|key| key.revoked_at.is_none() && !key.is_keyless() && key.max_token_ttl < to)
        .filter(|key| keys.superseded_at(key).is_none_or(|superseded_at| superseded_at > now))
        .map(|key| Step::RaiseMaxTokenTtl {
            kid: key.kid.clone(),
            to,
        })
        .collect()
}

/// When a private half is due for destruction: no node signs with it any more. None while it must stay, above all when
/// it is the last one of its algorithm, whatever the clock says. The last half before a removal stays as long as its key is
/// published, so that the removal can be taken back.
#[must_use]
pub fn destruction_due(keys: &Keys, policy: &Policy, key: &SigningKey, now: UnixTime) -> Option<UnixTime> {
    if !key.has_private_half || key.revoked_at.is_some() {
        return None;
    }
    let newer_can_sign = keys
        .line(key.alg)
        .iter()
        .any(|newer| newer.generation > key.generation && newer.has_private_half && newer.revoked_at.is_none());
    let mut later = keys
        .line(key.alg)
        .iter()
        .filter(|later| later.generation > key.generation);
    let is_before_removal = later
        .find(|later| later.revoked_at.is_none())
        // A generation that is only foreseen has no public half yet either.
        .is_some_and(|next| next.is_keyless() && !next.has_private_half);
    if is_before_removal {
        return keys.expires_at(key, policy);
    }
    if !newer_can_sign && !keys.is_removed(key.alg, now) {
        return None;
    }
    keys.superseded_at(key)
        .map(|superseded_at| superseded_at + policy.signing_tail())
}

fn destructions(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Step> {
    keys.iter()
        .filter(|key| destruction_due(keys, policy, key, now).is_some_and(|due| due <= now))
        .map(|key| Step::DestroyPrivateHalf { kid: key.kid.clone() })
        .collect()
}

/// Oldest first: a row's end follows from the rows after it.
fn purges(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Step> {
    let expired = |key: &&SigningKey| {
        !key.has_private_half && keys.expires_at(key, policy).is_some_and(|expires_at| expires_at <= now)
    };
    Algorithm::ALL
        .into_iter()
        .flat_map(|alg| {
            keys.line(alg)
                .iter()
                .filter(|key| key.revoked_at.is_none())
                .take_while(expired)
        })
        .map(|key| &key.kid)
        .chain(verifying_purges(keys, policy, now))
        .map(|kid| Step::Purge { kid: kid.clone() })
        .collect()
}

fn verifying_purges<'a>(keys: &'a Keys, policy: &'a Policy, now: UnixTime) -> impl Iterator<Item = &'a Kid> {
    keys.verifying()
        .iter()
        .filter(move |key| key.revoked_at.is_none() && key.purged_at(policy) <= now)
        .map(|key| &key.jwk.kid)
}

fn wake_at(keys: &Keys, policy: &Policy, now: UnixTime) -> UnixTime {
    let inserts = continued(keys, policy)
        .into_iter()
        .filter_map(|alg| next_generation(keys, policy, alg, now))
        .map(|next| next.due_at);
    let changes = keys.iter().filter(|key| key.revoked_at.is_none()).flat_map(|key| {
        [
            Some(key.activates_at),
            destruction_due(keys, policy, key, now),
            keys.expires_at(key, policy),
        ]
    });
    let leavings = keys
        .verifying()
        .iter()
        .filter(|key| key.revoked_at.is_none())
        .flat_map(|key| [key.leaves_at(policy), key.purged_at(policy)]);
    inserts
        .chain(changes.flatten())
        .chain(leavings)
        .filter(|&time| time > now)
        .min()
        .unwrap_or(UnixTime::FAR_FUTURE)
}

/// What still fits into the key set.
struct Room {
    keys: usize,
    bytes: usize,
}

impl Room {
    fn left(keys: &Keys, policy: &Policy, now: UnixTime) -> Self {
        let lengths: Vec<usize> = keys
            .published_jwks(policy, now)
            .map(|jwk| jwk.to_json().len())
            .collect();
        Self {
            keys: policy.windows().max_published.saturating_sub(lengths.len()),
            bytes: policy
                .windows()
                .max_set_bytes
                .saturating_sub(set_bytes(lengths.into_iter())),
        }
    }

    fn take(&mut self, alg: Algorithm, policy: &Policy) -> bool {
        self.take_bytes(policy.jwk_bytes(alg))
    }

    fn take_bytes(&mut self, bytes: usize) -> bool {
        let with_comma = bytes + 1;
        let fits = self.keys >= 1 && self.bytes >= with_comma;
        if fits {
            self.keys -= 1;
            self.bytes -= with_comma;
        }
        fits
    }
}
