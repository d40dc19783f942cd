//! Moving in from another issuer: its tokens, signed by npm `jose` under its own kids, stay valid through the move, ours
//! follow under the same issuer, and its keys leave on time.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyround::clock::{Clock, Seconds, UnixTime, sleep};
use keyround::jose::alg::Algorithm;

use crate::site::{AUDIENCE, Kind, Site};
use crate::verifier::{Library, Report, Verifier};

/// The old issuer's keys, with the kids in their JWKs.
const OLD: [(&str, &str); 2] = [("rsa", "old-issuer:2024/a=1"), ("p256", "old.issuer.2")];
/// Those that hold back longest from a fetch.
const VERIFIERS: [&str; 2] = ["jose", "PyJWT"];
/// How long the old issuer's last token lives after the move.
const OLD_TOKENS_LIVE: Seconds = Seconds(20);
/// Long enough that a busy machine starts three programs within it.
const LATE_TOKENS_LIVE: Seconds = Seconds(15);
const SKEW: Seconds = Seconds(2);

const SETTINGS: [(&str, &str); 9] = [
    ("keys.rotation_period", "1h"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "5s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "2s"),
    ("keys.verifier_cache", "31s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "35s"),
    ("tokens.access_token_ttl", "10s"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_tokens_of_the_old_issuer_stay_valid_through_the_move() {
    let _shared = crate::MACHINE.read().await;
    // Each a task of its own: running a command blocks, and a request of the other that waits for it is given up.
    tokio::try_join!(
        tokio::spawn(move_in("moving_sqlite", Kind::Sqlite, 1)),
        tokio::spawn(move_in("moving_postgres", Kind::Postgres, 2))
    )
    .unwrap();
}

async fn move_in(name: &'static str, kind: Kind, nodes: usize) {
    let site = Site::start(name, kind, nodes, &SETTINGS).await;
    let issuer = site.front.issuer();
    let until = now() + OLD_TOKENS_LIVE;
    let old_tokens: Vec<String> = OLD.iter().map(|(key, _)| old_token(&issuer, key, until)).collect();
    for (key, kid) in OLD {
        let file = fixture(&format!("{key}.public.jwk"));
        let printed = site.keyround(&["keys", "import", &file, "--verify-only", "--until", &until.rfc3339()]);
        assert!(printed.contains(kid), "{printed}");
    }
    for node in 0..nodes {
        wait_until("every node serves the old keys", || async {
            let kids = site.kids(node).await;
            OLD.iter().all(|(_, kid)| kids.contains(*kid))
        })
        .await;
    }

    // Services are pointed at the new key set: the old issuer's tokens and ours, again and again until they expire.
    let mut verifiers: Vec<Verifier> = (0..nodes)
        .flat_map(|node| VERIFIERS.map(|name| Verifier::start(Library::named(name), node, &site)))
        .collect();
    let mut handed = old_tokens.len();
    for verifier in &mut verifiers {
        for token in &old_tokens {
            verifier.hand(token);
        }
    }
    while now() < until {
        for alg in Algorithm::ALL {
            let ours = site.token(handed % nodes, alg).await;
            for verifier in &mut verifiers {
                verifier.hand(&ours.text);
            }
            handed += 1;
        }
        sleep(Duration::from_secs(2)).await;
    }
    for report in reports(verifiers).await {
        let summary = report.summary.clone().unwrap();
        assert_eq!(summary.refusals, 0, "{}", report.first_refusals());
        assert!(
            summary.tokens == handed && summary.verifications >= 2 * handed,
            "{summary:?}"
        );
    }

    // On time: not before the end and the clocks' difference, and a look of each node later.
    for node in 0..nodes {
        wait_until("the old keys leave", || async {
            let kids = site.kids(node).await;
            let left = OLD.iter().all(|(_, kid)| !kids.contains(*kid));
            assert!(!left || now() >= until + SKEW, "the old keys left too early");
            left
        })
        .await;
        assert_eq!(site.kids(node).await.len(), 2, "ours stay");
    }
    // Whoever still has the old private keys can make no token that a service takes.
    let late: Vec<String> = OLD
        .iter()
        .map(|(key, _)| old_token(&issuer, key, now() + LATE_TOKENS_LIVE))
        .collect();
    let mut verifier = Verifier::start(Library::named("jose"), 0, &site);
    for token in &late {
        verifier.hand(token);
    }
    let report = reports(vec![verifier]).await.remove(0);
    assert_eq!(report.summary.unwrap().refused_tokens, OLD.len());
    assert!(
        report
            .refusals
            .iter()
            .all(|refusal| refusal.error.contains("ERR_JWKS_NO_MATCHING_KEY")),
        "{:?}",
        report.refusals
    );
}

fn now() -> UnixTime {
    Clock::system().read().wall
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A token that the old issuer signs.
fn old_token(issuer: &str, key: &str, expires_at: UnixTime) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/javascript/old-issuer.mjs");
    let output = Command::new("node")
        .arg(script)
        .args([
            &fixture(&format!("{key}.jwk")),
            issuer,
            AUDIENCE,
            &expires_at.0.to_string(),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn wait_until<Answer: Future<Output = bool>>(what: &str, holds: impl Fn() -> Answer) {
    for _ in 0..1_200 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it took more than two minutes until {what}");
}

/// What they have said when their last token has expired.
async fn reports(mut verifiers: Vec<Verifier>) -> Vec<Report> {
    verifiers.iter_mut().for_each(Verifier::end_input);
    while !verifiers.iter().all(Verifier::is_done) {
        sleep(Duration::from_millis(100)).await;
    }
    verifiers.iter_mut().map(Verifier::report).collect()
}
