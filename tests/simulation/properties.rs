//! Properties of the pure functions, for any rows that a line can come to.

use proptest::prelude::*;

use keyround::clock::{Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::key::RsaBits;
use keyround::keys::SigningKey;
use keyround::keys::keyset::KeySet;
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::{self, NewGeneration, Step};
use keyround::keys::policy::{Policy, PolicyError, Windows};
use keyround::keys::state::State;

use crate::store::row;

const EPOCH: i64 = 1_800_000_000;

fn windows() -> impl Strategy<Value = Windows> {
    let lengths = (1..6_i64, 0..31_i64, 2..7_i64, 0..31_i64, 0..11_i64, 1..61_i64);
    let choices = (0..101_i64, 5..201_i64, 0..3_usize, 6..101_usize);
    (lengths, choices).prop_map(
        |((refresh, cache, skew, slack, leeway, ttl), (lead, period, which, most))| {
            let algorithms = [vec![Algorithm::Rs256], vec![Algorithm::Es256], Algorithm::ALL.to_vec()];
            Windows {
                algorithms: algorithms[which].clone(),
                rotation_period: Seconds(period),
                prepublish: Seconds(2 * refresh + cache + skew + lead),
                verifier_cache: Seconds(cache),
                jwks_max_age: Seconds(0),
                replica_refresh: Seconds(refresh),
                snapshot_max_age: Seconds(2 * refresh + slack),
                clock_skew: Seconds(skew),
                verifier_leeway: Seconds(leeway),
                verify_window: None,
                max_token_ttl: Seconds(ttl),
                max_published: most,
                max_set_bytes: most * 470,
                rsa_bits: RsaBits::Bits2048,
            }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    windows().prop_filter_map("refused", |windows| Policy::new(windows).ok())
}

prop_compose! {
    /// A row of any history: pre-published or not, revoked or not, with or without its half, or keyless.
    fn any_row()(
        alg in prop::sample::select(Algorithm::ALL.to_vec()),
        published in -300..100_i64,
        lead in prop_oneof![Just(-3_i64), 0..300_i64],
        prepublish in 5..150_i64,
        ttl in 1..60_i64,
        revoked in prop::option::weighted(0.15, -100..100_i64),
        half in prop::bool::weighted(0.7),
        keyless in prop::bool::weighted(0.1),
    ) -> (SigningKey, bool) {
        let new = NewGeneration {
            alg,
            generation: 0,
            published_at: UnixTime(EPOCH + published),
            activates_at: UnixTime(EPOCH + published + lead),
            prepublish: Seconds(prepublish),
            max_token_ttl: Seconds(ttl),
        };
        let mut row = row(&new, 0, keyless);
        row.revoked_at = revoked.map(|at| UnixTime(EPOCH + at));
        row.has_private_half &= half && revoked.is_none();
        (row, keyless)
    }
}

fn rows() -> impl Strategy<Value = Vec<SigningKey>> {
    prop::collection::vec(any_row(), 1..12).prop_map(|rows| {
        let mut generations = [0_i64; 2];
        let numbered = rows.into_iter().zip(1_u32..).map(|((old, keyless), number)| {
            let generation = &mut generations[usize::from(old.alg == Algorithm::Es256)];
            *generation += 1;
            let new = NewGeneration {
                alg: old.alg,
                generation: *generation,
                published_at: old.published_at,
                activates_at: old.activates_at,
                prepublish: old.prepublish,
                max_token_ttl: old.max_token_ttl,
            };
            SigningKey {
                revoked_at: old.revoked_at,
                has_private_half: old.has_private_half,
                ..row(&new, number, keyless)
            }
        });
        numbered.collect()
    })
}

/// The rows after these steps.
fn applied(rows: &Keys, steps: &[Step]) -> Keys {
    let mut rows: Vec<SigningKey> = rows.iter().cloned().collect();
    let mut number = 1_000 + u32::try_from(rows.len()).expect("few");
    let mut insert = |rows: &mut Vec<SigningKey>, new: &NewGeneration, keyless| {
        number += 1;
        // Numbers of former rounds must not come again.
        while rows.iter().any(|row| crate::store::number(&row.kid) == number) {
            number += 1;
        }
        rows.push(row(new, number, keyless));
    };
    for step in steps {
        match step {
            Step::FirstStart(all) => all.iter().for_each(|new| insert(&mut rows, new, false)),
            Step::Insert(new) => insert(&mut rows, new, false),
            Step::RaiseMaxTokenTtl { kid, to } => {
                rows.iter_mut()
                    .filter(|row| row.kid == *kid)
                    .for_each(|row| row.max_token_ttl = *to);
            }
            Step::DestroyPrivateHalf { kid } => {
                rows.iter_mut()
                    .filter(|row| row.kid == *kid)
                    .for_each(|row| row.has_private_half = false);
            }
            Step::Purge { kid } => rows.retain(|row| row.kid != *kid),
        }
    }
    Keys::new(rows)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_key_of_an_algorithm_signs_at_most(rows in rows(), policy in policy(), at in -400..700_i64) {
        let (keys, now) = (Keys::new(rows), UnixTime(EPOCH + at));
        for alg in Algorithm::ALL {
            let active = keys.line(alg).iter().filter(|key| keys.state(key, &policy, now) == State::Active);
            let kids: Vec<_> = active.map(|key| &key.kid).collect();
            prop_assert!(kids.len() <= 1);
            prop_assert_eq!(kids.first().copied(), keys.active(alg, now).map(|key| &key.kid));
            prop_assert!(keys.active(alg, now).is_none_or(|key| key.has_private_half && key.revoked_at.is_none()));
        }
    }

    #[test]
    fn a_life_goes_one_way(policy in policy(), rows in 1..10_i64, step in 1..40_i64) {
        // A line as the plan makes it; of keys that sign the states only rise.
        let mut keys = Keys::default();
        for round in 0..rows {
            let now = UnixTime(EPOCH + round * policy.windows().rotation_period.0);
            keys = applied(&keys, &plan::plan(&keys, &policy, now).steps);
        }
        let last = Keys::new(keys.iter().cloned().collect());
        for key in last.iter() {
            let times = (0..200).map(|tick| UnixTime(EPOCH + tick * step));
            let states: Vec<State> = times.map(|now| last.state(key, &policy, now)).collect();
            prop_assert!(states.is_sorted(), "{states:?}");
        }
    }

    #[test]
    fn what_was_planned_is_not_due_again(rows in rows(), policy in policy(), at in -100..400_i64) {
        let now = UnixTime(EPOCH + at);
        let mut keys = Keys::new(rows);
        // Generations that were pending may follow one another at one moment; each round inserts the next.
        for _ in 0..40 {
            let plan = plan::plan(&keys, &policy, now);
            if plan.steps.is_empty() {
                prop_assert!(plan.wake_at > now);
                return Ok(());
            }
            keys = applied(&keys, &plan.steps);
        }
        prop_assert!(false, "something is due for ever");
    }

    #[test]
    fn nothing_is_due_before_it_wakes(rows in rows(), policy in policy(), at in -100..400_i64) {
        let now = UnixTime(EPOCH + at);
        let mut keys = Keys::new(rows);
        for _ in 0..40 {
            keys = applied(&keys, &plan::plan(&keys, &policy, now).steps);
        }
        let wake_at = plan::plan(&keys, &policy, now).wake_at;
        for ahead in 1..(wake_at - now).0.min(300) {
            let steps = plan::plan(&keys, &policy, now + Seconds(ahead)).steps;
            prop_assert!(steps.is_empty(), "{steps:?} at {ahead} s, to wake at {} s", (wake_at - now).0);
        }
    }

    #[test]
    fn the_last_half_stays_whatever_the_clock_says(rows in rows(), policy in policy(), at in prop_oneof![-400..700_i64, any::<i32>().prop_map(i64::from)]) {
        let keys = Keys::new(rows);
        let now = UnixTime(EPOCH + at);
        let steps = plan::plan(&keys, &policy, now).steps;
        let after = applied(&keys, &steps);
        for alg in Algorithm::ALL {
            let halves = |keys: &Keys| keys.line(alg).iter().filter(|key| key.has_private_half).count();
            let removed = keys.line(alg).iter().any(SigningKey::is_keyless);
            prop_assert!(halves(&keys) == 0 || removed || halves(&after) > 0);
        }
        for step in steps {
            if let Step::Purge { kid } = step {
                prop_assert!(keys.find(&kid).is_some_and(|key| !key.has_private_half && key.revoked_at.is_none()));
            }
        }
    }

    #[test]
    fn the_set_does_not_depend_on_the_order_of_rows(
        (rows, shuffled) in rows().prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
        policy in policy(),
        at in -400..700_i64,
    ) {
        let now = UnixTime(EPOCH + at);
        let set = KeySet::at(&Keys::new(rows), &policy, now);
        prop_assert_eq!(&set, &KeySet::at(&Keys::new(shuffled), &policy, now));
        prop_assert_eq!(set.to_json().len(), keyround::jose::jwk::set_bytes(set.jwks().iter().map(|jwk| jwk.to_json().len())));
    }

    #[test]
    fn an_accepted_policy_fits_its_limits(policy in policy(), late in 0..3_i64) {
        // A long steady run, every row a little late.
        let mut keys = Keys::default();
        let end = UnixTime(EPOCH + 20 * policy.windows().rotation_period.0 + 500);
        let mut now = UnixTime(EPOCH);
        while now < end {
            let plan = plan::plan(&keys, &policy, now);
            prop_assert!(plan.too_large.is_empty(), "{:?} at {now}", policy.windows());
            let is_done = plan.steps.is_empty();
            keys = applied(&keys, &plan.steps);
            let set = KeySet::at(&keys, &policy, now);
            prop_assert!(set.jwks().len() <= policy.windows().max_published);
            prop_assert!(set.to_json().len() <= policy.windows().max_set_bytes);
            if is_done {
                now = plan.wake_at + Seconds(late);
            }
        }
    }

    #[test]
    fn a_refusal_carries_the_numbers(windows in windows(), short_by in 1..10_i64) {
        let shortest = windows.replica_refresh * 2 + windows.verifier_cache + windows.clock_skew;
        let given = shortest - Seconds(short_by);
        let refused = Policy::new(Windows { prepublish: given, ..windows }).expect_err("too short");
        let named = matches!(&refused, PolicyError::TooShort { setting: "keys.prepublish", .. });
        prop_assert!(named, "{refused:?}");
        let sentence = refused.to_string();
        prop_assert!(sentence.contains(&given.to_string()) && sentence.contains(&shortest.to_string()), "{sentence}");
    }
}
