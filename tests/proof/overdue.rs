//! Rotation that cannot happen: `/readyz/issue` says so before it hurts, and nothing else suffers.

use std::time::Duration;

use keyround::clock::sleep;

use crate::child::{Process, register_clients};
use crate::crashes::until_ready;
use crate::rows::Raw;
use crate::verifier::Verifier;

/// The next key is due two seconds after the first start, overdue two seconds later, and signs after eighteen.
const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "20s"),
    ("keys.prepublish", "16s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "10s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "1m"),
    ("tokens.max_token_ttl", "1m"),
];

on_both_databases_at_once!(it_is_told_before_it_hurts, |database| {
    let mut verifier = Verifier::new(register_clients(&database, POLICY).await);
    let mut process = Process::spawn(&database, "node", POLICY);
    let started = verifier.clock.read().monotonic;
    until_ready(&mut process, &verifier, started).await;
    let (address, admin) = (process.address().unwrap(), process.admin_address().unwrap());
    let raw = Raw::open(&database).await;
    let held = raw.hold("UPDATE key_version SET version = version").await;
    let hurts_at = raw.number("SELECT min(activates_at) FROM signing_keys").await + 20;
    let mut failing = Vec::new();
    while failing.is_empty() {
        // All the while it signs and publishes.
        verifier.take(address).await;
        verifier.verify_all(address).await;
        let left = hurts_at - verifier.clock.read().wall.0;
        assert!(left > 0, "nobody was told before the next key should have signed");
        sleep(Duration::from_millis(100)).await;
        failing = verifier.failing_checks(admin).await;
    }
    let left = hurts_at - verifier.clock.read().wall.0;
    assert_eq!(failing, ["rotation"]);
    assert!(left >= 8, "it was told only {left} s before");
    assert_eq!(raw.number("SELECT max(generation) FROM signing_keys").await, 1);
    held.let_go().await;
    let released = verifier.clock.read().monotonic;
    let recovered = until_ready(&mut process, &verifier, released).await;
    verifier.take(address).await;
    verifier.verify_all(address).await;
    // Late as it is, the next key is published for as long as every other one before it signs.
    let rushed = "SELECT count(*) FROM signing_keys WHERE generation > 1 AND activates_at - published_at < 16";
    assert_eq!(raw.number(rushed).await, 0);
    assert_eq!(
        raw.number("SELECT count(*) FROM signing_keys WHERE generation = 2")
            .await,
        2
    );
    println!(
        "overdue: told {left} s before it hurts, on time again after {recovered:?}; {}",
        verifier.figures()
    );
    // A busy machine may hold up one of ten.
    let taken: usize = verifier.taken.iter().sum();
    assert!(verifier.unavailable * 10 <= taken, "{}", verifier.figures());
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
});
