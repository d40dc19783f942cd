//! Verifiers on clocks that are off: with the snippets that the pages show, no token of a service or of a person is refused while a clock
//! is off by less than `keys.clock_skew`.

use std::time::Duration;

use keyround::clock::sleep;
use keyround::config::settings;
use keyround::jose::alg::Algorithm;
use serde_json::Value;

use crate::people;
use crate::site::{AUDIENCE, Kind, Site};
use crate::verifier::{Library, Verifier};

/// The shipped policy, and tokens that outlive a clock which is ahead.
const SETTINGS: [(&str, &str); 4] = [
    ("tokens.access_token_ttl", "45s"),
    ("accounts.access_token_ttl", "45s"),
    ("accounts.audience", AUDIENCE),
    ("accounts.bcrypt_cost", "4"),
];
const LIBRARIES: [&str; 2] = ["PyJWT", "jose"];
/// Seconds, as libfaketime takes them.
const OFF_BY: [&str; 4] = ["-30", "-1.2", "+1.2", "+30"];
/// Further behind than the snippets, the server and its `nbf` allow.
const TOO_FAR: &str = "-150";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_verifier_whose_clock_is_off_refuses_no_token() {
    let _shared = crate::MACHINE.read().await;
    // The snippets allow as much as the server takes for possible.
    assert_eq!(settings::find("keys.clock_skew").unwrap().default(), Some(r#""60s""#));
    let site = Site::start("clocks", Kind::Sqlite, 1, &SETTINGS).await;
    people::create(&site, 1);
    let start = |off_by: &'static str| {
        let here = LIBRARIES.map(Library::named).into_iter();
        let here = here.filter(|library| !library.is_left_out());
        let site = &site;
        here.map(move |library| (off_by, Verifier::start_on_clock(library, site, off_by)))
    };
    let mut verifiers: Vec<_> = OFF_BY.into_iter().flat_map(start).collect();
    let mut controls: Vec<_> = start(TOO_FAR).collect();
    let mut tokens = Vec::new();
    for alg in Algorithm::ALL {
        tokens.push(site.token(0, alg).await.text);
        let login = people::login(&reqwest::Client::new(), &site.front.issuer(), 0);
        let body: Value = login.send().await.unwrap().json().await.unwrap();
        tokens.push(body["access_token"].as_str().unwrap().to_owned());
    }
    for token in &tokens {
        let mut all = verifiers.iter_mut().chain(&mut controls);
        all.by_ref().for_each(|(_, verifier)| verifier.hand(token));
    }
    // They see it, or they are not on that clock.
    for (off_by, verifier) in &mut controls {
        let mut waited = Duration::ZERO;
        while verifier.refusals().is_empty() {
            assert!(
                waited < Duration::from_mins(1),
                "{} refuses nothing at {off_by} s",
                verifier.library
            );
            sleep(Duration::from_millis(100)).await;
            waited += Duration::from_millis(100);
        }
        println!("{} at {off_by} s: {}", verifier.library, verifier.refusals()[0]);
    }
    drop(controls);
    for (_, verifier) in &mut verifiers {
        verifier.end_input();
    }
    while !verifiers.iter().all(|(_, verifier)| verifier.is_done()) {
        sleep(Duration::from_millis(100)).await;
    }
    for (off_by, verifier) in &mut verifiers {
        let report = verifier.report();
        let summary = report.summary.clone().unwrap();
        println!("{} at {off_by} s: {summary:?}", verifier.library);
        let first = report.first_refusals();
        assert_eq!(summary.refusals, 0, "{} at {off_by} s: {first}", verifier.library);
        assert_eq!(summary.tokens, tokens.len());
        assert!(summary.verifications >= 2 * tokens.len(), "{summary:?}");
    }
}
