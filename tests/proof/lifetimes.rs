//! A key never signs a token that it cannot outlive, also while two nodes have different ideas of the longest lifetime.

use std::net::SocketAddr;
use std::time::Duration;

use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;

use crate::child::{Process, register_clients};
use crate::crashes::until_ready;
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::until;
use crate::verifier::{Verifier, kid_of, time_of};

/// A new key every three seconds, published 4 s ahead.
const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "3s"),
    ("keys.prepublish", "4s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "2s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
];

/// A node whose tokens may live as long as this, and do.
async fn start(database: &TestDatabase, verifier: &Verifier, name: &str, lifetime: &str) -> Process {
    let mut settings = POLICY.to_vec();
    settings.extend([
        ("tokens.access_token_ttl", lifetime),
        ("tokens.max_token_ttl", lifetime),
    ]);
    let started = verifier.clock.read().monotonic;
    let mut process = Process::spawn(database, name, &settings);
    until_ready(&mut process, verifier, started).await;
    process
}

/// Takes tokens for some seconds, and until each node has signed some; answers with the longest lifetime among them.
async fn take(verifier: &mut Verifier, raw: &Raw, nodes: [SocketAddr; 2], seconds: u64) -> [i64; 2] {
    let began = verifier.clock.read().monotonic;
    let (mut longest, mut took) = ([0, 0], Duration::ZERO);
    while took < Duration::from_secs(seconds) || (longest.contains(&0) && took < Duration::from_mins(1)) {
        for (node, longest) in nodes.into_iter().zip(&mut longest) {
            let Some(token) = verifier.take_one(node, Algorithm::Es256).await else {
                continue;
            };
            let lifetime = time_of(&token, "exp") - time_of(&token, "iat");
            let allowed = raw
                .number(&format!(
                    "SELECT max_token_ttl FROM signing_keys WHERE kid = '{}'",
                    kid_of(&token)
                ))
                .await;
            assert!(lifetime <= allowed, "a token of {lifetime} s by a key for {allowed} s");
            *longest = lifetime.max(*longest);
        }
        for node in nodes {
            verifier.verify_all(node).await;
        }
        sleep(Duration::from_millis(100)).await;
        took = verifier.clock.read().monotonic.saturating_sub(began);
    }
    longest
}

on_both_databases_at_once!(raised_and_lowered_in_the_middle_of_a_life, |database| {
    let mut settings = POLICY.to_vec();
    settings.extend([("tokens.access_token_ttl", "5s"), ("tokens.max_token_ttl", "5s")]);
    let mut verifier = Verifier::new(register_clients(&database, &settings).await);
    let raw = Raw::open(&database).await;
    let steady = start(&database, &verifier, "steady", "5s").await;
    let mut other = start(&database, &verifier, "other", "5s").await;
    let at = |other: &Process| [steady.address().unwrap(), other.address().unwrap()];
    assert_eq!(take(&mut verifier, &raw, at(&other), 2).await, [5, 5]);
    // Raised on one node: its tokens grow at once, and the keys in the set stay long enough for them on both.
    other.kill();
    other = start(&database, &verifier, "other", "15s").await;
    assert_eq!(take(&mut verifier, &raw, at(&other), 5).await, [5, 15]);
    // Lowered again: what the keys promised holds, until the last long token has expired.
    other.kill();
    other = start(&database, &verifier, "other", "5s").await;
    assert_eq!(take(&mut verifier, &raw, at(&other), 20).await, [5, 5]);
    println!("lifetimes: {}", verifier.figures());
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
    // Then the long-lived keys leave: what is left is for short tokens.
    let long = "SELECT count(*) FROM signing_keys WHERE max_token_ttl > 5 AND sealed IS NOT NULL";
    until("the long-lived keys have left", || async {
        raw.number(long).await == 0
    })
    .await;
});
