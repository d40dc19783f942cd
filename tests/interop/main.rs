//! Real verifier libraries, with the caching they come with, against running servers whose keys rotate every few seconds: programs that
//! are handed tokens, services that know the issuer's address and are sent requests, and relying parties that browsers are led through.
//!
//! Eight set-ups run side by side, six of them for about three minutes. SQLite with one node and PostgreSQL with two keep a policy that
//! suits the libraries that hold back after a fetch: a period of 5 s. The same two again, with a period of 1 s, for those that fetch at
//! once. Nothing may be refused in any of the four. Two controls take from each kind what it needs, a lead or the superseded keys;
//! there the same harness must see dozens of refusals, or it is blind. The last two suit a library that fetches once in five
//! minutes, so they take eight; they are little work, and the other tests run beside them.
//!
//! Time is in whole seconds, and a key is published anew only when the plan has run, so that what comes of a period of 1 s is a
//! new key of each algorithm every 1.5 to 2.6 s; the tables say how often it was. Both algorithms rotate everywhere:
//! the making of an RSA key takes a tenth of a second, which leaves two cores to the verifiers.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail anywhere")]

mod browser;
mod clocks;
mod copied;
mod emergency;
mod front;
mod gateway;
mod hono_one_key;
#[path = "../it/libfaketime.rs"]
mod libfaketime;
mod libraries;
mod moving_in;
mod people;
#[path = "../it/ports.rs"]
mod ports;
mod relying_parties;
mod service;
mod setup;
mod site;
mod table;
mod verifier;
mod versions;
mod visits;
mod watch;

use libraries::LIBRARIES;
use std::sync::Arc;

use setup::{Keys, Outcome, Setup};
use site::Kind;
use tokio::sync::{Barrier, RwLock};
use verifier::{Fetches, Runs};

/// The machine: shared by the tests that only ask whether, and for one alone where it is asked how soon. Otherwise a cache that has
/// run out stands for one that was not looked at.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// Refusals of each library that show that the harness can see them. A loaded machine sends each token less often.
const SEEN_WHEN_BROKEN: usize = 10;
/// Rotations of each algorithm that the controls go through.
const ROTATIONS_OF_CONTROLS: usize = 24;

/// What all set-ups have in common.
const COMMON: [(&str, &str); 6] = [
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "5s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "2s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
];

/// Fetched again 30 s after the last fetch at the earliest; a second more, and it holds with certainty.
const SUITS_HOLDING_BACK: [(&str, &str); 6] = [
    ("keys.rotation_period", "5s"),
    ("keys.verifier_cache", "31s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "35s"),
    ("tokens.access_token_ttl", "20s"),
    ("tokens.max_token_ttl", "20s"),
];

/// Right for verifiers that keep nothing: two refreshes and the clocks' difference are all that is left.
const SUITS_NO_CACHE: [(&str, &str); 6] = [
    ("keys.rotation_period", "5s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.prepublish", "4s"),
    ("tokens.access_token_ttl", "20s"),
    ("tokens.max_token_ttl", "20s"),
];

/// Fetched at once, so that nothing would be needed; two seconds are for a machine that stands still.
const SUITS_FETCHING_AT_ONCE: [(&str, &str); 6] = [
    ("keys.rotation_period", "1s"),
    ("keys.verifier_cache", "2s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.prepublish", "6s"),
    ("tokens.access_token_ttl", "10s"),
    ("tokens.max_token_ttl", "10s"),
];

/// Fetched again five minutes after the last fetch at the earliest; a second more, and it holds with certainty. A set holds at most
/// 100 keys, so they are fewer.
const SUITS_ONCE_IN_FIVE_MINUTES: [(&str, &str); 6] = [
    ("keys.rotation_period", "7s"),
    ("keys.verifier_cache", "301s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "305s"),
    ("tokens.access_token_ttl", "10s"),
    ("tokens.max_token_ttl", "10s"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn the_libraries_verify_every_token_through_real_rotations() {
    let shared = MACHINE.read().await;
    let slow = Setup {
        name: "SQLite",
        kind: Kind::Sqlite,
        nodes: 1,
        policy: &SUITS_HOLDING_BACK,
        keys: Keys::AsServed,
        libraries: &[Fetches::AfterHoldingBack],
        rotations: rotations(24),
    };
    let fast = Setup {
        name: "SQLite fast",
        policy: &SUITS_FETCHING_AT_ONCE,
        libraries: &[Fetches::AtOnce],
        rotations: rotations(60),
        ..slow
    };
    let five_minutes = Setup {
        name: "SQLite 5 min",
        policy: &SUITS_ONCE_IN_FIVE_MINUTES,
        libraries: &[Fetches::OnceInFiveMinutes],
        ..slow
    };
    let on_postgres = |setup: Setup, name| Setup {
        name,
        kind: Kind::Postgres,
        nodes: 2,
        ..setup
    };
    let no_lead = Setup {
        name: "no lead",
        policy: &SUITS_NO_CACHE,
        libraries: &[Fetches::AfterHoldingBack, Fetches::OnceInFiveMinutes],
        rotations: ROTATIONS_OF_CONTROLS,
        ..slow
    };
    let forgetful = Setup {
        name: "forgetful",
        keys: Keys::WithoutSuperseded,
        rotations: ROTATIONS_OF_CONTROLS,
        ..fast
    };
    let together = Arc::new(Barrier::new(8));
    // Each a task of its own: starting a process blocks, and a request of another set-up that waits for it is given up.
    let run = |setup: Setup| tokio::spawn(setup.run(Arc::clone(&together)));
    let five_minutes = [run(five_minutes), run(on_postgres(five_minutes, "PostgreSQL 5 min"))];
    let (sqlite, postgres, sqlite_fast, postgres_fast, no_lead, forgetful) = tokio::try_join!(
        run(slow),
        run(on_postgres(slow, "PostgreSQL")),
        run(fast),
        run(on_postgres(fast, "PostgreSQL fast")),
        run(no_lead),
        run(forgetful),
    )
    .unwrap();
    // What goes on is little work: the others may have the machine.
    drop(shared);
    let [sqlite_five_minutes, postgres_five_minutes] = five_minutes;
    let (sqlite_five_minutes, postgres_five_minutes) =
        tokio::try_join!(sqlite_five_minutes, postgres_five_minutes).unwrap();
    let sound = [
        sqlite,
        postgres,
        sqlite_fast,
        postgres_fast,
        sqlite_five_minutes,
        postgres_five_minutes,
    ];
    let controls = [no_lead, forgetful];
    table::print(sound.iter().chain(&controls));
    table::write(&sound);
    // The last lines of the output are the ones that are kept.
    for line in sound.iter().flat_map(first_refusals) {
        println!("{line}");
    }
    sound.iter().for_each(assert_nothing_was_refused);
    controls.iter().for_each(assert_refusals_are_seen);
}

/// How often the keys rotate: this often, or as often as `make soak` asks.
#[expect(
    clippy::disallowed_methods,
    reason = "the person who runs the tests says so by the environment"
)]
fn rotations(usually: usize) -> usize {
    std::env::var("TEST_ROTATIONS").map_or(usually, |asked| asked.parse().unwrap())
}

fn text(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn documents_show_the_tested_snippets() {
    let page = "docs/verify-tokens.md";
    let logins = "docs/log-in/relying-parties.md";
    for (document, language, path) in [
        (page, "js", "tests/interop/javascript/snippet.mjs"),
        (page, "python", "tests/interop/python/snippet.py"),
        (page, "java", "tests/interop/spring/AccessTokens.java"),
        (page, "go", "tests/interop/go/snippet.go"),
        (page, "rust", "tests/interop/rust/src/keys.rs"),
        (page, "js", "tests/interop/javascript/hono.mjs"),
        (page, "js", "tests/interop/javascript/express.mjs"),
        (page, "js", "tests/interop/javascript/get-jwks.mjs"),
        (logins, "js", "tests/interop/relying-parties/node/app.mjs"),
        (logins, "python", "tests/interop/relying-parties/python/app.py"),
        (
            logins,
            "properties",
            "tests/interop/relying-parties/spring/application.properties",
        ),
        (logins, "java", "tests/interop/relying-parties/spring/Application.java"),
        (logins, "java", "tests/interop/relying-parties/spring/Es256.java"),
        (
            logins,
            "toml",
            "tests/interop/relying-parties/oauth2-proxy/oauth2-proxy.cfg",
        ),
    ] {
        let block = format!("```{language}\n{}```\n", text(path));
        assert!(
            text(document).contains(&block),
            "{document} does not show {path} verbatim in a ```{language} block"
        );
    }
    // Their first lines are the server's own.
    for (document, path, first) in [
        (page, "tests/interop/apache/httpd.conf", "# The module takes"),
        (
            logins,
            "tests/interop/relying-parties/apache/httpd.conf",
            "OIDCProviderMetadataURL",
        ),
    ] {
        let apache = text(path);
        let from = apache.find(first).unwrap();
        assert!(text(document).contains(&format!("```apache\n{}```\n", &apache[from..])));
    }
    let version = versions::Version::SpringBoot.read();
    assert!(text(page).contains(&format!("Tested with Spring Boot {version}.")));
    let version = versions::Version::SpringBootLogin.read();
    assert!(text(logins).contains(&format!("Tested with Spring Boot {version} ")));
}

/// The values are those of a site; the names are those of the tested files.
#[test]
fn the_properties_for_spring_are_the_tested_ones() {
    let page = text("docs/verify-tokens.md");
    let (_, rest) = page.split_once("```properties\n").unwrap();
    let tested = text("tests/interop/spring/application.properties")
        + &text("tests/interop/spring/application-at-jwt.properties");
    let shown = rest.split_once("```").unwrap().0;
    for line in shown.lines() {
        let (name, _) = line.split_once('=').unwrap();
        assert!(
            tested.lines().any(|line| line.starts_with(&format!("{name}=${{"))),
            "{name}"
        );
    }
    assert_eq!(shown.lines().count(), 2);
}

#[test]
fn the_proof_shows_the_soak_of_every_library() {
    let page = text("docs/how-it-works/proof.md");
    let (_, after) = page.split_once("\n<!-- soak -->\n").unwrap();
    let (shown, _) = after.split_once("<!-- /soak -->\n").unwrap();
    assert!(shown.starts_with(table::HEADER), "run make soak: {shown}");
    for library in &LIBRARIES {
        let rows = shown.lines().filter(|line| table::is_of(line, library)).count();
        assert_eq!(
            rows, 1,
            "the page must have one row of {library}; make soak writes it:\n{shown}"
        );
    }
}

/// A line for each verifier that refused a token, with the reason of the first refusal.
fn first_refusals(outcome: &Outcome) -> Vec<String> {
    let refused = outcome.verifiers.iter().filter_map(|(library, node, report)| {
        let first = report.refusals.first()?.to_string();
        let first: String = first.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = first.chars().take(300).collect();
        let count = report.refusals.len();
        let name = outcome.setup.name;
        Some(format!("REFUSED {count}: {name}, {library} at node {node}: {short}"))
    });
    refused.collect()
}

fn assert_nothing_was_refused(outcome: &Outcome) {
    let Outcome {
        setup,
        verifiers,
        figures,
    } = outcome;
    let name = setup.name;
    for (library, node, report) in verifiers {
        let summary = report.summary.as_ref().unwrap();
        assert_eq!(
            summary.refusals,
            0,
            "{name}, {library} at node {node}: {}",
            first_refusals(outcome).join("\n")
        );
        assert!(
            summary.tokens > 2 * setup.rotations,
            "{name}, {library}: only {} tokens",
            summary.tokens
        );
        // A service is slower than a program, and a loaded machine makes it slower still.
        let times = if matches!(library.runs, Runs::Service(_)) { 2 } else { 4 };
        assert!(
            summary.verifications >= times * summary.tokens,
            "{name}, {library}: the machine was too slow to send each token {times} times, and nothing was refused: {summary:?}"
        );
    }
    assert!(
        figures.outside.is_empty(),
        "{name}: outside the served set: {:?}",
        figures.outside
    );
    assert!(
        figures.rotations.values().all(|&count| count >= setup.rotations),
        "{name}: {figures:?}"
    );
    assert!(figures.most_pending >= 2, "{name}: {figures:?}");
}

/// The servers keep their own promise all the same: no token's key is outside the set that they serve.
fn assert_refusals_are_seen(outcome: &Outcome) {
    let Outcome {
        setup,
        verifiers,
        figures,
    } = outcome;
    let name = setup.name;
    for (library, _, report) in verifiers {
        let refusals = report.summary.as_ref().map_or(0, |summary| summary.refusals);
        assert!(
            refusals >= SEEN_WHEN_BROKEN,
            "blind: {library} refused only {refusals} in the set-up {name}"
        );
        assert_eq!(
            refusals,
            report.refusals.len(),
            "each refusal of {library} is told once"
        );
        let unknown = |error: &str| library.unknown_key.iter().any(|known| error.contains(known));
        let other = report.refusals.iter().find(|refusal| !unknown(&refusal.error));
        assert!(other.is_none(), "{library} refused for another reason: {other:?}");
    }
    assert!(figures.outside.is_empty(), "{name}: {:?}", figures.outside);
}
