//! Clocks that are wrong, by libfaketime: the wall alone moves, and the server is the real one.

use std::time::Duration;

use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;

use crate::child::{Process, register_clients};
use crate::crashes::until_ready;
use crate::faketime::Wall;
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::until;
use crate::verifier::{Verifier, kid_of, time_of};

/// S: half of it is the most that a clock that is believed may be off.
const SKEW: i64 = 12;
/// How long a clock stays where it jumped to.
const JUMPED_FOR: Duration = Duration::from_secs(5);
const HOUR: i64 = 3_600;
const YEAR: i64 = 31_536_000;

/// A new key every four seconds, published 16 s ahead: at any moment some are between publication and activation.
const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "4s"),
    ("keys.prepublish", "16s"),
    ("keys.verifier_cache", "1s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "3s"),
    ("keys.clock_skew", "12s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "30s"),
    ("tokens.max_token_ttl", "30s"),
];

/// Takes a token, if there is one, and holds it against the true time: its key was not used early, nor was it written late.
async fn take_in_time(verifier: &mut Verifier, process: &Process, raw: &Raw) -> Option<String> {
    let asked = verifier.clock.read().wall.0;
    let token = verifier.take_one(process.address().unwrap(), Algorithm::Es256).await?;
    // It was signed at some time between the two.
    let now = verifier.clock.read().wall.0;
    let kid = kid_of(&token);
    let activates_at = raw
        .number(&format!("SELECT activates_at FROM signing_keys WHERE kid = '{kid}'"))
        .await;
    let early = activates_at - now;
    assert!(early <= SKEW / 2, "{kid} signed {early} s before its time");
    let stamped = time_of(&token, "iat");
    let off_by = stamped - stamped.clamp(asked, now);
    assert!(off_by.abs() <= SKEW / 2 + 1, "a token was stamped {off_by} s off");
    Some(token)
}

/// The same, as soon as the node can sign: a busy machine may have held it up for longer than `keys.snapshot_max_age`.
async fn take_in_time_at_last(verifier: &mut Verifier, process: &Process, raw: &Raw) -> String {
    for _ in 0..1_200 {
        if let Some(token) = take_in_time(verifier, process, raw).await {
            return token;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not sign: {}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_5_seconds_off_and_one_60() {
    let database = TestDatabase::postgres().await;
    let mut verifier = Verifier::new(register_clients(&database, POLICY).await);
    let raw = Raw::open(&database).await;
    let mut nodes = Vec::new();
    for (name, off_by) in [("right", 0), ("fast", 5), ("slow", -5), ("wrong", 60)] {
        let wall = Wall::new(&database, name, off_by);
        let mut process = wall.spawn(&database, name, POLICY);
        process.until_it_serves().await;
        nodes.push(process);
    }
    let wrong = nodes.pop().unwrap();
    let (mut refusals, mut kids) = (0, std::collections::BTreeSet::new());
    let began = verifier.clock.read().monotonic;
    while verifier.clock.read().monotonic.saturating_sub(began) < Duration::from_secs(25) {
        for node in &nodes {
            // One that is nearly right signs.
            kids.insert(kid_of(&take_in_time_at_last(&mut verifier, node, &raw).await));
        }
        assert!(
            take_in_time(&mut verifier, &wrong, &raw).await.is_none(),
            "it is a minute off, and signs"
        );
        refusals += 1;
        // Every token verifies everywhere, also where the clock is a minute off.
        for node in nodes.iter().chain([&wrong]) {
            verifier.verify_all(node.address().unwrap()).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    until("the clock alone is what is wrong", || async {
        verifier.failing_checks(wrong.admin_address().unwrap()).await == ["clock"]
    })
    .await;
    println!(
        "clocks 0, +5, -5, +60 s: {} keys signed, {refusals} refusals of the last; {}",
        kids.len(),
        verifier.figures()
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
    assert!(kids.len() >= 3, "too few rotations were seen: {kids:?}");
}

on_both_databases_at_once!(a_clock_that_jumps_an_hour_or_a_year_and_comes_back, |database| {
    let sqlite = database.url.starts_with("sqlite:");
    let mut verifier = Verifier::new(register_clients(&database, POLICY).await);
    let raw = Raw::open(&database).await;
    let wall = Wall::new(&database, "node", 0);
    let mut process = wall.spawn(&database, "node", POLICY);
    let started = verifier.clock.read().monotonic;
    until_ready(&mut process, &verifier, started).await;
    let address = process.address().unwrap();
    for jump in [HOUR, -HOUR, YEAR, -YEAR] {
        // A key is pending for the next seconds, and another one retires.
        let now = verifier.clock.read().wall.0;
        let pending = format!("SELECT count(*) FROM signing_keys WHERE activates_at > {now}");
        until("two keys are pending", || async { raw.number(&pending).await >= 2 }).await;
        take_in_time_at_last(&mut verifier, &process, &raw).await;
        let rows = raw.texts("SELECT kid FROM signing_keys ORDER BY kid").await;
        let before = verifier.key_set(address).await;

        wall.set(jump);
        let jumped = verifier.clock.read().monotonic;
        while verifier.clock.read().monotonic.saturating_sub(jumped) < JUMPED_FOR {
            take_in_time(&mut verifier, &process, &raw).await;
            verifier.verify_all(address).await;
            let served = verifier.key_set(address).await;
            let lost = before.iter().find(|jwk| !served.contains(jwk));
            assert!(lost.is_none(), "{lost:?} left the set after a jump of {jump} s");
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            raw.texts("SELECT kid FROM signing_keys ORDER BY kid").await,
            rows,
            "a row came or went after a jump of {jump} s"
        );
        until("the check of the clock is red", || async {
            let failing = verifier.failing_checks(process.admin_address().unwrap()).await;
            failing.contains(&"clock".to_owned())
        })
        .await;
        // Beside a file it goes by the last good time; one that disagrees with PostgreSQL does not sign.
        if sqlite {
            take_in_time_at_last(&mut verifier, &process, &raw).await;
        } else {
            assert!(take_in_time(&mut verifier, &process, &raw).await.is_none());
        }

        wall.set(0);
        let returned = verifier.clock.read().monotonic;
        until_ready(&mut process, &verifier, returned).await;
        take_in_time_at_last(&mut verifier, &process, &raw).await;
        verifier.verify_all(address).await;
        until("rotation goes on", || async {
            raw.texts("SELECT kid FROM signing_keys ORDER BY kid").await != rows
        })
        .await;
    }
    println!(
        "jumps on {}: {}",
        if sqlite { "SQLite" } else { "PostgreSQL" },
        verifier.figures()
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
});
