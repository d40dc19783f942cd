//! One set-up: servers, the verifiers that fetch from them, and tokens until the keys have rotated often enough.

use std::time::Duration;

use keyround::clock::{self, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use tokio::time::{MissedTickBehavior, interval};

use crate::COMMON;
use crate::forgetful::Forgetful;
use crate::site::{Kind, Site};
use crate::verifier::{Fetches, LIBRARIES, Library, Report, Verifier};
use crate::watch::{Figures, Watch};

/// No rotation takes longer, even when a loaded machine is slow to make the keys.
const PATIENCE_PER_ROTATION: Seconds = Seconds(10);
/// What comes before the first rotation.
const PATIENCE_AT_THE_START: Seconds = Seconds(60);

/// Servers under one policy.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What the tables call it.
    pub name: &'static str,
    /// Where the keys are.
    pub kind: Kind,
    /// How many servers.
    pub nodes: usize,
    /// What it sets beside [`COMMON`].
    pub policy: &'static [(&'static str, &'static str)],
    /// The key set that the verifiers see.
    pub keys: Keys,
    /// The libraries that verify.
    pub libraries: Fetches,
    /// Rotations of each algorithm until it ends.
    pub rotations: usize,
}

/// The key set that the verifiers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Each node's own.
    AsServed,
    /// The first node's, without the keys that have a successor.
    WithoutSuperseded,
}

/// What came of one set-up.
#[derive(Debug)]
pub struct Outcome {
    /// The set-up.
    pub setup: Setup,
    /// The library, the node, and what it said.
    pub verifiers: Vec<(&'static Library, usize, Report)>,
    /// What was seen of the key sets.
    pub figures: Figures,
}

impl Setup {
    /// Starts servers and verifiers, issues tokens until the keys have rotated often enough, and waits until the last expires.
    pub async fn run(self) -> Outcome {
        let site = Site::start(self.name, self.kind, self.nodes, &[&COMMON, self.policy].concat()).await;
        let forgetful = (self.keys == Keys::WithoutSuperseded).then(Forgetful::start);
        let watch = Watch::new();
        if let Some(forgetful) = &forgetful {
            forgetful.take(site.key_set(0).await, &watch);
        }
        let key_set_url = |node| {
            forgetful
                .as_ref()
                .map_or_else(|| site.key_set_url(node), Forgetful::url)
        };
        let libraries = || {
            let of_this_kind = LIBRARIES.iter().filter(|library| library.fetches == self.libraries);
            of_this_kind.filter(|library| !library.is_left_out())
        };
        let mut verifiers: Vec<Verifier> = (0..self.nodes)
            .flat_map(|node| libraries().map(move |library| (library, node)))
            .map(|(library, node)| Verifier::start(library, node, &key_set_url(node)))
            .collect();
        tokio::join!(
            self.issue(&site, &mut verifiers, &watch),
            self.look_until_all_expired(&site, &watch, forgetful.as_ref())
        );
        Outcome {
            setup: self,
            verifiers: reports(verifiers).await,
            figures: watch.figures(),
        }
    }

    fn is_over(&self, watch: &Watch) -> bool {
        watch.fewest_rotations() >= self.rotations
    }

    fn patience(&self) -> Seconds {
        PATIENCE_AT_THE_START + PATIENCE_PER_ROTATION * i64::try_from(self.rotations).unwrap()
    }

    /// A token of each algorithm every second, from each node in turn, handed to every verifier.
    async fn issue(&self, site: &Site, verifiers: &mut [Verifier], watch: &Watch) {
        let deadline = watch.now() + self.patience();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0;
        while !self.is_over(watch) {
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
    async fn look_until_all_expired(&self, site: &Site, watch: &Watch, forgetful: Option<&Forgetful>) {
        let mut quarters = interval(Duration::from_millis(250));
        quarters.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over(watch) || watch.is_any_alive() {
            quarters.tick().await;
            watch.look(site).await;
            if let Some(forgetful) = forgetful {
                forgetful.take(site.key_set(0).await, watch);
            }
        }
    }
}

async fn reports(verifiers: Vec<Verifier>) -> Vec<(&'static Library, usize, Report)> {
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
