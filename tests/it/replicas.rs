//! Several nodes on one database: they never talk, and agree all the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyround::app::Foundation;
use keyround::clock::Clock;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::Kid;
use keyround::keyring::trusted_time;
use keyround::keys::trusted_time::TrustedTime;
use keyround::rotation::{RotationError, Rotator};
use keyround::store::StoreError;
use tokio::sync::Barrier;

use crate::helpers::{TestApp, TestDatabase, config};
use crate::rows::Raw;

const ES256_ALONE: &[(&str, &str)] = &[("keys.algorithms", "ES256"), ("tokens.default_algorithm", "ES256")];

/// What makes every row older by one `keys.rotation_period` (30 days): a whole period passes at once.
const A_PERIOD_PASSES: &str = "UPDATE signing_keys SET published_at = published_at - 2592000, \
                               activates_at = activates_at - 2592000";

/// Nodes of their own, each with its own connections, after a first start.
async fn rotators(database: &TestDatabase, count: usize) -> Vec<Rotator> {
    let config = config(database, ES256_ALONE);
    let mut rotators = Vec::new();
    for _ in 0..count {
        rotators.push(Foundation::open(&config, Clock::system()).await.unwrap().rotator);
    }
    apply_due(&rotators[0]).await.unwrap();
    rotators
}

async fn apply_due(rotator: &Rotator) -> Result<usize, RotationError> {
    let keys = rotator.db.signing_keys().await.unwrap().keys();
    rotator.apply_due(&keys, &look(rotator).await).await
}

async fn look(rotator: &Rotator) -> TrustedTime {
    trusted_time(&rotator.db, &rotator.policy, &rotator.clock, None)
        .await
        .unwrap()
}

async fn etag(app: &TestApp) -> String {
    let answer = app.http.get(format!("{}/.well-known/jwks.json", app.url)).send().await;
    answer.unwrap().headers()["etag"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_that_start_at_once_make_one_key_an_algorithm() {
    for _ in 0..5 {
        let database = Arc::new(TestDatabase::postgres().await);
        let starting: Vec<_> = (0..5)
            .map(|_| {
                let database = Arc::clone(&database);
                tokio::spawn(async move { TestApp::start_with_clock(&database, &[], Clock::system()).await })
            })
            .collect();
        let mut apps = Vec::new();
        for app in starting {
            apps.push(app.await.unwrap());
        }
        let mut etags = BTreeSet::new();
        for app in &apps {
            etags.insert(etag(app).await);
            assert_eq!(app.key_set().await["keys"].as_array().unwrap().len(), 2);
        }
        assert_eq!(etags.len(), 1, "the nodes serve different bytes: {etags:?}");

        let raw = Raw::open(&database).await;
        let lines = raw
            .texts("SELECT alg || generation FROM signing_keys ORDER BY alg")
            .await;
        assert_eq!(lines, ["ES2561", "RS2561"]);
        assert_eq!(raw.number("SELECT count(*) FROM secrets").await, 1);
        assert_eq!(raw.number("SELECT count(*) FROM nodes").await, 5);
        let events = "SELECT event || ' ' || count(*) FROM audit GROUP BY event ORDER BY event";
        assert_eq!(
            raw.texts(events).await,
            ["key.activated 2", "key.created 2", "key.published 2"]
        );

        // A client that one node registers gets its token at every other, at once.
        let secret = apps[0].create_client("billing", None).await;
        for app in &apps {
            app.token("billing", &secret).await;
        }
        for app in apps {
            app.running.stop().await;
        }
        assert_eq!(
            raw.number("SELECT count(*) FROM nodes").await,
            0,
            "a node did not sign off"
        );
    }
}

/// Lets `nodes` rotate at once, with the same snapshot, as often as `rounds`; each round must bring one successor.
async fn rotate_at_once(database: TestDatabase, nodes: usize, rounds: i64) {
    let rotators = rotators(&database, nodes).await;
    let raw = Raw::open(&database).await;
    for round in 1..=rounds {
        raw.execute(A_PERIOD_PASSES).await;
        let keys = Arc::new(rotators[0].db.signing_keys().await.unwrap().keys());
        let trusted = look(&rotators[0]).await;
        let together = Arc::new(Barrier::new(nodes));
        let racing: Vec<_> = rotators
            .iter()
            .cloned()
            .map(|rotator| {
                let (keys, together) = (Arc::clone(&keys), Arc::clone(&together));
                tokio::spawn(async move {
                    together.wait().await;
                    rotator.apply_due(&keys, &trusted).await
                })
            })
            .collect();
        let mut taken = 0;
        for answer in racing {
            match answer.await.unwrap() {
                Ok(steps) => taken += steps,
                Err(RotationError::Store(StoreError::Conflict)) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        assert!(taken >= 1, "round {round}: nobody rotated");
        let newest = raw.number("SELECT max(generation) FROM signing_keys").await;
        assert_eq!(newest, round + 1, "round {round} did not bring one successor");
        let created = raw
            .number("SELECT count(*) FROM audit WHERE event = 'key.created'")
            .await;
        assert_eq!(created, round + 1, "round {round}: a key was created beside the line");
    }
    let stored = rotators[0].db.signing_keys().await.unwrap().keys();
    let line: Vec<i64> = stored.line(Algorithm::Es256).iter().map(|key| key.generation).collect();
    assert!(line.windows(2).all(|pair| pair[1] == pair[0] + 1), "{line:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_that_rotate_at_once_make_one_successor_in_200_rounds() {
    rotate_at_once(TestDatabase::postgres().await, 5, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_on_one_sqlite_file_make_one_successor_in_50_rounds() {
    rotate_at_once(TestDatabase::sqlite(), 3, 50).await;
}

/// The key that signs, when it is the only one that still has a private half and is not revoked.
async fn only_signer(rotator: &Rotator) -> Kid {
    let keys = rotator.db.signing_keys().await.unwrap().keys();
    let active = keys.active(Algorithm::Es256, rotator.clock.read().wall).unwrap();
    let able: Vec<_> = keys
        .iter()
        .filter(|key| key.has_private_half)
        .map(|key| &key.kid)
        .collect();
    assert_eq!(able, [&active.kid], "another private half is left");
    assert_eq!(active.revoked_at, None);
    let generations: Vec<i64> = keys.iter().map(|key| key.generation).collect();
    assert!(
        generations.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{generations:?}"
    );
    active.kid.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_emergency_from_two_nodes_brings_one_replacement_and_both_report_it() {
    let database = TestDatabase::postgres().await;
    let rotators = rotators(&database, 2).await;
    for round in 0..20 {
        let kid = only_signer(&rotators[0]).await;
        let racing: Vec<_> = rotators
            .iter()
            .cloned()
            .map(|rotator| {
                let kid = kid.clone();
                tokio::spawn(async move { rotator.revoke(&kid, "test", "leaked").await.unwrap() })
            })
            .collect();
        let mut reports = Vec::new();
        for report in racing {
            reports.push(report.await.unwrap());
        }
        let replacement = only_signer(&rotators[0]).await;
        assert_ne!(replacement, kid);
        reports.sort_by_key(|report| report.revoked.len());
        let [late, first] = &reports[..] else { unreachable!() };
        assert_eq!(
            (late.revoked.as_slice(), first.revoked.as_slice()),
            (&[][..], &[kid][..])
        );
        for report in [late, first] {
            assert_eq!(report.signs_now.as_ref(), Some(&replacement), "round {round}");
        }
        assert_eq!((late.at, late.version), (first.at, first.version), "round {round}");
        let generations = rotators[1].db.signing_keys().await.unwrap().rows.len();
        assert_eq!(generations, round + 2);
    }
}

crate::on_both_databases!(an_emergency_that_races_a_rotation_leaves_one_signer, |database| {
    let rotators = rotators(&database, 2).await;
    let raw = Raw::open(&database).await;
    let mut pending_was_revoked = 0;
    for round in 0..20 {
        let kid = only_signer(&rotators[0]).await;
        raw.execute(A_PERIOD_PASSES).await;
        let before = raw.number("SELECT count(*) FROM signing_keys").await;
        let (scheduled, emergency) = (rotators[0].clone(), rotators[1].clone());
        let scheduled = tokio::spawn(async move { apply_due(&scheduled).await });
        let revoked = kid.clone();
        let emergency = tokio::spawn(async move { emergency.revoke(&revoked, "test", "leaked").await });
        match scheduled.await.unwrap() {
            Ok(_) | Err(RotationError::Store(StoreError::Conflict)) => {}
            Err(error) => panic!("round {round}: {error}"),
        }
        let report = emergency.await.unwrap().unwrap();
        let replacement = only_signer(&rotators[0]).await;
        assert_eq!(report.signs_now, Some(replacement));
        assert!(report.revoked.contains(&kid));
        let added = raw.number("SELECT count(*) FROM signing_keys").await - before;
        assert_eq!(usize::try_from(added).unwrap(), report.revoked.len(), "round {round}");
        pending_was_revoked += added - 1;
    }
    println!("the rotation was first in {pending_was_revoked} of 20 rounds");
});
