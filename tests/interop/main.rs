//! Real verifier libraries, with the caching they come with, against running servers whose keys rotate every few seconds.
//!
//! Three set-ups run side by side in time, for about three minutes: SQLite with one node and PostgreSQL with two keep a policy
//! that suits the libraries, and nothing may be refused. The third publishes its keys as late as a verifier without any cache
//! would allow; there the same harness must see hundreds of refusals, or it is blind.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod moving_in;
mod site;
mod verifier;
mod watch;

use std::time::Duration;

use keyround::clock::{self, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use tokio::time::{MissedTickBehavior, interval};

use site::{Kind, Site};
use verifier::{Library, Report, Verifier};
use watch::{Figures, Watch};

/// Rotations of each algorithm that every set-up goes through.
const ROTATIONS: usize = 24;
/// A set-up that has not rotated so often by then rotates too seldom.
const PATIENCE: Seconds = Seconds(300);
/// Refusals of each library that show that the harness can see them.
const SEEN_WHEN_BROKEN: usize = 100;

/// What all set-ups have in common: a new key of both algorithms every five seconds.
const COMMON: [(&str, &str); 8] = [
    ("keys.rotation_period", "5s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "5s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "2s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "20s"),
];

/// Both libraries fetch again 30 s after their last fetch at the earliest; a second more, and it holds with certainty.
const SUITS_THE_LIBRARIES: [(&str, &str); 4] = [
    ("keys.verifier_cache", "31s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "35s"),
    ("tokens.max_token_ttl", "20s"),
];

/// Right for verifiers that keep nothing: two refreshes and the clocks' difference are all that is left.
const SUITS_NO_CACHE: [(&str, &str); 4] = [
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.prepublish", "4s"),
    ("tokens.max_token_ttl", "20s"),
];

/// What came of one set-up.
struct Outcome {
    name: &'static str,
    verifiers: Vec<(Library, usize, Report)>,
    figures: Figures,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jose_and_pyjwt_verify_every_token_through_real_rotations() {
    let (sqlite, postgres, control) = tokio::join!(
        run("SQLite", Kind::Sqlite, 1, &SUITS_THE_LIBRARIES),
        run("PostgreSQL", Kind::Postgres, 2, &SUITS_THE_LIBRARIES),
        run("no lead", Kind::Sqlite, 1, &SUITS_NO_CACHE),
    );
    let outcomes = [sqlite, postgres, control];
    print_verifiers(&outcomes);
    print_key_sets(&outcomes);
    let [sqlite, postgres, control] = outcomes;
    for outcome in [&sqlite, &postgres] {
        assert_nothing_was_refused(outcome);
    }
    assert_refusals_are_seen(&control);
}

#[test]
fn readme_shows_the_tested_snippets() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let readme = read("README.md");
    for (language, path) in [
        ("js", "tests/interop/javascript/snippet.mjs"),
        ("python", "tests/interop/python/snippet.py"),
    ] {
        let block = format!("```{language}\n{}```\n", read(path));
        assert!(
            readme.contains(&block),
            "README.md does not show {path} verbatim in a ```{language} block"
        );
    }
}

/// Starts servers and verifiers, issues tokens until the keys have rotated often enough, and waits until the last expires.
async fn run(name: &'static str, kind: Kind, nodes: usize, policy: &[(&str, &str)]) -> Outcome {
    let site = Site::start(name, kind, nodes, &[&COMMON, policy].concat()).await;
    let mut verifiers: Vec<Verifier> = (0..nodes)
        .flat_map(|node| Library::ALL.map(|library| Verifier::start(library, node, &site.key_set_url(node))))
        .collect();
    let watch = Watch::new();
    tokio::join!(
        issue(&site, &mut verifiers, &watch),
        look_until_all_expired(&site, &watch)
    );
    Outcome {
        name,
        verifiers: reports(verifiers).await,
        figures: watch.figures(),
    }
}

/// A token of each algorithm every second, from each node in turn, handed to every verifier.
async fn issue(site: &Site, verifiers: &mut [Verifier], watch: &Watch) {
    let deadline = watch.now() + PATIENCE;
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    while watch.fewest_rotations() < ROTATIONS {
        seconds.tick().await;
        for (offset, alg) in Algorithm::ALL.into_iter().enumerate() {
            let token = site.token((turn + offset) % site.nodes(), alg).await;
            watch.add(&token, alg);
            for verifier in &mut *verifiers {
                verifier.hand(&token.text);
            }
        }
        watch.look(site).await;
        turn += 1;
        assert!(
            watch.now() < deadline,
            "{}: too few rotations: {:?}",
            site.name,
            watch.figures()
        );
    }
    for verifier in verifiers {
        verifier.end_input();
    }
}

/// Looks at the key sets four times a second until issuing has ended and the last token has expired.
async fn look_until_all_expired(site: &Site, watch: &Watch) {
    let mut quarters = interval(Duration::from_millis(250));
    quarters.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while watch.fewest_rotations() < ROTATIONS || watch.is_any_alive() {
        quarters.tick().await;
        watch.look(site).await;
    }
}

async fn reports(verifiers: Vec<Verifier>) -> Vec<(Library, usize, Report)> {
    let clock = clock::Clock::system();
    let deadline: UnixTime = clock.read().wall + Seconds(30);
    while !verifiers.iter().all(Verifier::is_done) {
        assert!(
            clock.read().wall < deadline,
            "a verifier did not end after the last token had expired"
        );
        clock::sleep(Duration::from_millis(100)).await;
    }
    verifiers
        .into_iter()
        .map(|mut verifier| (verifier.library, verifier.node, verifier.report()))
        .collect()
}

fn assert_nothing_was_refused(outcome: &Outcome) {
    let name = outcome.name;
    for (library, node, report) in &outcome.verifiers {
        let summary = report.summary.as_ref().unwrap();
        assert_eq!(
            summary.refusals,
            0,
            "{name}, {library} at node {node}: {}",
            report.first_refusals()
        );
        assert!(
            summary.tokens >= 200,
            "{name}, {library}: only {} tokens",
            summary.tokens
        );
        assert!(
            summary.verifications >= 5 * summary.tokens,
            "{name}, {library}: {summary:?}"
        );
    }
    let figures = &outcome.figures;
    assert!(
        figures.outside.is_empty(),
        "{name}: outside the served set: {:?}",
        figures.outside
    );
    assert!(
        figures.rotations.values().all(|&count| count >= ROTATIONS),
        "{name}: {figures:?}"
    );
    assert!(figures.most_pending >= 3, "{name}: {figures:?}");
}

/// The policy without a lead keeps its own promise all the same: no token's key is outside the set.
fn assert_refusals_are_seen(outcome: &Outcome) {
    for (library, _, report) in &outcome.verifiers {
        let refusals = report.summary.as_ref().map_or(0, |summary| summary.refusals);
        assert!(
            refusals >= SEEN_WHEN_BROKEN,
            "blind: {library} refused only {refusals} with no lead"
        );
        assert_eq!(
            refusals,
            report.refusals.len(),
            "each refusal of {library} is told once"
        );
        let unknown =
            |error: &str| error.contains("ERR_JWKS_NO_MATCHING_KEY") || error.contains("Unable to find a signing key");
        let other = report.refusals.iter().find(|refusal| !unknown(&refusal.error));
        assert!(other.is_none(), "{library} refused for another reason: {other:?}");
    }
    assert!(
        outcome.figures.outside.is_empty(),
        "{}: {:?}",
        outcome.name,
        outcome.figures.outside
    );
}

fn print_verifiers(outcomes: &[Outcome]) {
    println!(
        "{:<12} {:<10} {:>6} {:>13} {:>8} {:>14} {:>5} {:>11}",
        "server", "verifier", "tokens", "verifications", "refusals", "refused tokens", "late", "max lag"
    );
    for outcome in outcomes {
        for (library, node, report) in &outcome.verifiers {
            let summary = report.summary.clone().unwrap_or_default();
            println!(
                "{:<12} {:<10} {:>6} {:>13} {:>8} {:>14} {:>5} {:>8} ms",
                outcome.name,
                format!("{library}, {node}"),
                summary.tokens,
                summary.verifications,
                summary.refusals,
                summary.refused_tokens,
                summary.late,
                summary.max_lag_ms
            );
        }
    }
}

fn print_key_sets(outcomes: &[Outcome]) {
    println!(
        "\n{:<12} {:>11} {:>11} {:>7} {:>7} {:>12} {:>13} {:>6} {:>11}",
        "server",
        "RS256 turns",
        "ES256 turns",
        "outside",
        "pending",
        "largest set",
        "shortest lead",
        "looks",
        "longest gap"
    );
    for outcome in outcomes {
        let figures = &outcome.figures;
        let rotations = |alg| figures.rotations.get(&alg).copied().unwrap_or(0);
        println!(
            "{:<12} {:>11} {:>11} {:>7} {:>7} {:>7} keys {:>11.1} s {:>6} {:>8} ms",
            outcome.name,
            rotations(Algorithm::Rs256),
            rotations(Algorithm::Es256),
            figures.outside.len(),
            figures.most_pending,
            figures.largest_set,
            figures.shortest_lead.as_secs_f64(),
            figures.polls,
            figures.longest_gap.as_millis()
        );
    }
}
