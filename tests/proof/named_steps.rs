//! `kill -9` at every step of a rotation that the log names.
//!
//! The process dies a moment after the line was written; which step was its last the log itself says afterwards.

use std::collections::BTreeMap;

use keyround::clock::{Clock, sleep};
use std::time::Duration;

use crate::child::{Process, inspect, random, register_clients};
use crate::crashes::{ACCELERATED, until_ready};
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::verifier::Verifier;

/// Every step, in its words.
const STEPS: [&str; 12] = [
    "a key pair is about to be made",
    "a key pair is made",
    "a key pair passed its self-test",
    "a private half is sealed",
    "the rows are locked and read anew",
    "a key is published",
    "a key may sign longer tokens",
    "a private half is destroyed",
    "an expired row is purged",
    "the steps are about to be committed",
    "the steps are committed",
    "what was done for the keys is served",
];
/// How often a process must have died with each of them as its last.
const DEATHS: usize = 3;
/// How long a step is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Kills after which it is given up.
const MOST: usize = 400;

/// The last step that a log names.
fn last_step(log: &str) -> Option<&'static str> {
    log.lines().rev().find_map(|line| {
        STEPS
            .into_iter()
            .find(|step| line.contains(&format!("\"message\":\"{step}\"")))
    })
}

/// Kills it as soon as its log names the step for the `nth` time; none when the step does not come.
#[expect(
    clippy::disallowed_methods,
    reason = "it looks far more often than the clock of the tasks ticks"
)]
fn kill_at(process: &mut Process, step: &str, nth: usize, clock: &Clock) -> Option<&'static str> {
    let words = format!("\"message\":\"{step}\"");
    let started = clock.read().monotonic;
    while process.log().matches(&words).count() < nth {
        if clock.read().monotonic.saturating_sub(started) > PATIENCE {
            process.kill();
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    process.kill();
    last_step(&process.log())
}

async fn kill(database: TestDatabase) {
    let name = if database.url.starts_with("sqlite:") {
        "SQLite"
    } else {
        "PostgreSQL"
    };
    let mut verifier = Verifier::new(register_clients(&database, ACCELERATED).await);
    let raw = Raw::open(&database).await;
    let mut state = verifier.clock.read().wall.0.unsigned_abs();
    let mut deaths: BTreeMap<&str, usize> = STEPS.map(|step| (step, 0)).into();
    let (mut kills, mut longest) = (0, 10);
    let mut ready = Duration::ZERO;
    while let Some((&step, _)) = deaths
        .iter()
        .filter(|(_, count)| **count < DEATHS)
        .min_by_key(|(_, count)| **count)
    {
        assert!(kills < MOST, "some steps were never the last: {deaths:?}");
        // A longer lifetime at each start brings the step that raises it.
        if step.contains("longer") {
            longest += 1;
        }
        // The set holds no more keys than a lifetime of half a minute leads to.
        let longest = format!("{}s", longest.min(36));
        let mut settings = ACCELERATED.to_vec();
        settings.extend([
            ("tokens.max_token_ttl", longest.as_str()),
            ("log.filter", "info,keyround::rotation=debug"),
            ("keys.rotation_period", "2s"),
        ]);
        let mut process = Process::spawn(&database, "killed", &settings);
        // Not always the first: those of a start differ from those of the schedule.
        let nth = 1 + usize::try_from(random(&mut state, 3)).unwrap();
        let nth = if step.contains("longer") { 1 } else { nth };
        let clock = verifier.clock.clone();
        let words = step;
        let last = tokio::task::spawn_blocking(move || kill_at(&mut process, words, nth, &clock))
            .await
            .unwrap();
        kills += 1;
        if let Some(last) = last {
            *deaths.get_mut(last).unwrap() += 1;
        }
        // What lies there is whole before anybody mends it: no key without its entry, no entry without its key.
        inspect(&database).await;
        for event in ["created", "published"] {
            let half = raw
                .number(&format!(
                    "SELECT count(*) FROM signing_keys WHERE jwk IS NOT NULL AND kid NOT IN \
                     (SELECT subject FROM audit WHERE event = 'key.{event}')"
                ))
                .await;
            assert_eq!(
                half, 0,
                "{name}: a key is there that was never {event}, after: {last:?}"
            );
        }
        let destroyed = "SELECT count(*) FROM signing_keys WHERE sealed IS NOT NULL AND kid IN \
                         (SELECT subject FROM audit WHERE event = 'key.destroyed')";
        assert_eq!(raw.number(destroyed).await, 0, "{name}: {last:?}");
        let undestroyed = "SELECT count(*) FROM signing_keys WHERE sealed IS NULL AND jwk IS NOT NULL AND kid NOT IN \
                           (SELECT subject FROM audit WHERE event = 'key.destroyed')";
        assert_eq!(raw.number(undestroyed).await, 0, "{name}: {last:?}");
        if kills % 3 == 0 {
            let started = verifier.clock.read().monotonic;
            let mut process = Process::spawn(&database, "after", &settings);
            ready = ready.max(until_ready(&mut process, &verifier, started).await);
            let address = process.address().unwrap();
            verifier.verify_all(address).await;
            verifier.take(address).await;
            sleep(Duration::from_millis(20)).await;
            process.kill();
        }
    }
    println!(
        "{name}: {kills} kills, at most {ready:?} until ready; {}; died after {deaths:#?}",
        verifier.figures()
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
}

on_both_databases_at_once!(servers_killed_at_every_step_lose_nothing, |database| kill(database)
    .await);
