//! How each missing rule changes the steps that the core decided on.

use keyround::clock::{Seconds, UnixTime};
use keyround::keys::SigningKey;
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::{self, NewGeneration, Step};
use keyround::keys::policy::Policy;

use crate::sabotage::Without;

pub fn steps(
    steps: Vec<Step>,
    keys: &Keys,
    policy: &Policy,
    now: UnixTime,
    without: Without,
    backdated: fn(&mut NewGeneration, Without),
) -> Vec<Step> {
    let mut steps: Vec<Step> = steps
        .into_iter()
        .filter(|step| match step {
            Step::DestroyPrivateHalf { kid } => {
                let removed = keys.find(kid).is_some_and(|key| keys.is_removed(key.alg, now));
                without != Without::Destruction && !(removed && without == Without::RemovedHalvesDestroyed)
            }
            _ => true,
        })
        .map(|mut step| {
            match &mut step {
                Step::Insert(new) => insertion(new, keys, policy, now, without),
                Step::FirstStart(all) => all.iter_mut().for_each(|new| backdated(new, without)),
                _ => {}
            }
            step
        })
        .collect();
    match without {
        Without::OneKeyAfterGap | Without::Outranking => {
            steps.retain(|step| !matches!(step, Step::Insert(_)));
            steps.extend(insertions(keys, policy, now, without));
        }
        Without::Room => {
            let too_large = plan::plan(keys, policy, now).too_large;
            let next = |alg| plan::next_generation(keys, policy, alg, now);
            steps.extend(
                too_large
                    .into_iter()
                    .filter_map(next)
                    .map(|next| Step::Insert(next.generation)),
            );
        }
        Without::PurgeOrder => steps.reverse(),
        _ => {}
    }
    if without == Without::LeftOutGoesOn {
        // As if to leave an algorithm out were to forget it.
        let of_left_out = |step: &Step| matches!(step, Step::Insert(new) if !policy.algorithms().contains(&new.alg));
        steps.retain(|step| !of_left_out(step));
    }
    steps.extend(row_changes(keys, policy, now, without));
    steps
}

fn insertion(new: &mut NewGeneration, keys: &Keys, policy: &Policy, now: UnixTime, without: Without) {
    let windows = policy.windows();
    let short_by = match without {
        Without::PropagationInPrepublish => policy.propagation(),
        Without::CacheInPrepublish => windows.verifier_cache,
        Without::SkewInPrepublish => windows.clock_skew,
        Without::LongerPrepublishHonoured => new.prepublish - windows.prepublish,
        _ => Seconds::ZERO,
    };
    // Only a lead that is the shortest possible shows a missing summand.
    if new.activates_at == new.published_at + new.prepublish {
        new.activates_at = new.activates_at - short_by;
    }
    new.prepublish = new.prepublish - short_by;
    let added = keys
        .line(new.alg)
        .iter()
        .all(|key| key.revoked_at.is_some() || key.is_keyless());
    if without == Without::Prepublication || (added && without == Without::AddedAlgorithmPrepublished) {
        new.activates_at = now;
    }
}

/// The next generations of a plan that follows the newest row, wherever it lies.
fn insertions(keys: &Keys, policy: &Policy, now: UnixTime, without: Without) -> Vec<Step> {
    let windows = policy.windows();
    let next = |alg| {
        let next = plan::next_generation(keys, policy, alg, now)?;
        let newest = keys.line(alg).iter().rev().find(|key| key.revoked_at.is_none())?;
        if newest.is_keyless() {
            return (next.due_at <= now).then_some(next.generation);
        }
        let regular = newest.activates_at + windows.rotation_period;
        let mut generation = next.generation;
        generation.activates_at = match without {
            Without::OneKeyAfterGap => regular,
            _ => regular.max(now + generation.prepublish),
        };
        (regular - generation.prepublish <= now).then_some(generation)
    };
    plan::continued(keys, policy)
        .into_iter()
        .filter_map(next)
        .map(Step::Insert)
        .collect()
}

/// Changes of rows that a rule would forbid.
fn row_changes(keys: &Keys, policy: &Policy, now: UnixTime, without: Without) -> Vec<Step> {
    let superseded = |key: &SigningKey| {
        keys.superseded_at(key)
            .is_some_and(|superseded_at| superseded_at <= now)
    };
    let living = || keys.iter().filter(|key| key.revoked_at.is_none() && !key.is_keyless());
    let destroy = |key: &SigningKey| Step::DestroyPrivateHalf { kid: key.kid.clone() };
    let purge = |key: &SigningKey| Step::Purge { kid: key.kid.clone() };
    let ended = |key: &SigningKey| keys.expires_at(key, policy).is_some_and(|expires_at| expires_at <= now);
    match without {
        Without::DelayedDestruction => living()
            .filter(|key| key.has_private_half && superseded(key))
            .map(destroy)
            .collect(),
        Without::LastHalfKept => {
            // Age alone decides.
            let age = policy.windows().rotation_period + policy.signing_tail();
            let old = |key: &&SigningKey| key.has_private_half && key.activates_at + age <= now;
            living().filter(old).map(destroy).collect()
        }
        Without::LeftOutGoesOn => {
            let old = |key: &&SigningKey| key.has_private_half && !policy.algorithms().contains(&key.alg);
            living().filter(old).map(destroy).collect()
        }
        Without::PurgeWithoutHalf => {
            let old = |key: &&SigningKey| key.has_private_half && superseded(key);
            living().filter(old).map(purge).collect()
        }
        Without::PurgeExpiredOnly => {
            let early = |key: &&SigningKey| !key.has_private_half && superseded(key) && !ended(key);
            living().filter(early).map(purge).collect()
        }
        Without::PurgeOrder => {
            let out_of_turn = |key: &&SigningKey| !key.has_private_half && ended(key);
            living()
                .filter(out_of_turn)
                .map(purge)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect()
        }
        Without::LifetimeNeverShrinks => {
            let to = policy.windows().max_token_ttl;
            let longer = living().filter(|key| key.max_token_ttl > to);
            longer
                .map(|key| Step::RaiseMaxTokenTtl {
                    kid: key.kid.clone(),
                    to,
                })
                .collect()
        }
        _ => Vec::new(),
    }
}
