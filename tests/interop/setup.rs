//! One set-up: servers, the verifiers that fetch from them, and tokens until the keys have rotated often enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keyround::clock::{self, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::TokenType;
use tokio::sync::Barrier;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::COMMON;
use crate::front::Address;
use crate::libraries::LIBRARIES;
use crate::site::{Kind, Site, Token};
use crate::verifier::{Fetches, Library, Report, Runs, Verifier};
use crate::watch::{Figures, Watch};

/// No rotation takes longer, even when a loaded machine is slow to make the keys.
const PATIENCE_PER_ROTATION: Seconds = Seconds(20);
/// What comes before the first rotation, beside the lead of the longest policy.
const PATIENCE_AT_THE_START: Seconds = Seconds(400);
/// All servers start within this time, and all services.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_mins(5);
/// How long tokens are under way where the key set forgets, so that those that keep single keys miss some, too.
const UNDER_WAY: Seconds = Seconds(4);

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
    pub libraries: &'static [Fetches],
    /// Rotations of each algorithm until it ends.
    pub rotations: usize,
}

/// The key set that the verifiers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Each node's own.
    AsServed,
    /// The first node's, without the keys that have a successor; tokens are some seconds under way.
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
    /// The set-ups wait for each other before they start verifiers and before they issue tokens: starting takes the whole machine.
    pub async fn run(self, together: Arc<Barrier>) -> Outcome {
        let settings = [&COMMON, self.policy].concat();
        let address = match self.keys {
            Keys::AsServed => Address::Http,
            Keys::WithoutSuperseded => Address::Forgetful,
        };
        let site = Site::start_at(self.name, self.kind, self.nodes, &settings, address).await;
        self.wait_for_the_others(&together).await;
        let watch = Watch::new();
        if site.front.forgets() {
            site.front.take(site.key_set(0).await, &watch);
        }
        let mut verifiers = self.verifiers(&site);
        for verifier in &mut verifiers {
            verifier.wait_until_it_serves().await;
        }
        self.wait_for_the_others(&together).await;
        site.wait_until_every_node_signs().await;
        hold_the_type(&site, &verifiers).await;
        tokio::join!(
            self.issue(&site, &mut verifiers, &watch),
            self.look_until_all_expired(&site, &watch)
        );
        let verifiers = reports(verifiers).await;
        let refusals = verifiers
            .iter()
            .filter_map(|(.., report)| Some(report.summary.as_ref()?.refusals));
        println!("{} is over, refusals: {}", self.name, refusals.sum::<usize>());
        Outcome {
            setup: self,
            verifiers,
            figures: watch.figures(),
        }
    }

    async fn wait_for_the_others(&self, together: &Barrier) {
        let waited = timeout(PATIENCE_WITH_OTHERS, together.wait()).await;
        assert!(waited.is_ok(), "{}: another set-up did not start", self.name);
    }

    /// A program beside each node, a service behind the issuer's address.
    fn verifiers(&self, site: &Site) -> Vec<Verifier> {
        let of_this_kind = LIBRARIES
            .iter()
            .filter(|library| self.libraries.contains(&library.fetches));
        of_this_kind
            .filter(|library| !library.is_left_out())
            .flat_map(|library| {
                let count = match library.runs {
                    Runs::Program => self.nodes,
                    Runs::Service(_) => 1,
                };
                (0..count).map(move |node| Verifier::start(library, node, site))
            })
            .collect()
    }

    fn is_over(&self, watch: &Watch) -> bool {
        watch.fewest_rotations() >= self.rotations
    }

    fn patience(&self) -> Seconds {
        PATIENCE_AT_THE_START + PATIENCE_PER_ROTATION * i64::try_from(self.rotations).unwrap()
    }

    /// A token of each algorithm and type every second, from each node in turn, handed to every verifier that accepts the type.
    async fn issue(&self, site: &Site, verifiers: &mut [Verifier], watch: &Watch) {
        let deadline = watch.now() + self.patience();
        let under_way = if site.front.forgets() { UNDER_WAY } else { Seconds::ZERO };
        let mut sent: VecDeque<(UnixTime, TokenType, Token)> = VecDeque::new();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0;
        while !self.is_over(watch) {
            seconds.tick().await;
            for token_type in TokenType::ALL {
                if !verifiers.iter().any(|verifier| verifier.library.accepts == token_type) {
                    continue;
                }
                for (offset, alg) in Algorithm::ALL.into_iter().enumerate() {
                    let token = site
                        .token_of_type((turn + offset) % site.nodes(), alg, token_type)
                        .await;
                    watch.add(&token, alg);
                    sent.push_back((watch.now() + under_way, token_type, token));
                }
            }
            while let Some((_, token_type, token)) = sent.pop_front_if(|(arrives, ..)| *arrives <= watch.now()) {
                for verifier in verifiers
                    .iter_mut()
                    .filter(|verifier| verifier.library.accepts == token_type)
                {
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
    async fn look_until_all_expired(&self, site: &Site, watch: &Watch) {
        let mut quarters = interval(Duration::from_millis(250));
        quarters.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over(watch) || watch.is_any_alive() {
            quarters.tick().await;
            watch.look(site).await;
            if site.front.forgets() {
                site.front.take(site.key_set(0).await, watch);
            }
        }
    }
}

/// What a service does not accept as it is set up here, it refuses: otherwise its row would say nothing about the type.
async fn hold_the_type(site: &Site, verifiers: &[Verifier]) {
    for token_type in TokenType::ALL {
        let token = site.token_of_type(0, Algorithm::Rs256, token_type).await;
        let others = verifiers.iter().filter(|verifier| {
            let library = verifier.library;
            library.accepts != token_type && library.checks_type && matches!(library.runs, Runs::Service(_))
        });
        for verifier in others {
            let answer = verifier.send(&token.text).await;
            assert!(
                answer.is_err(),
                "{} accepts a token of the type {token_type}",
                verifier.library
            );
        }
    }
}

async fn reports(verifiers: Vec<Verifier>) -> Vec<(&'static Library, usize, Report)> {
    let clock = clock::Clock::system();
    let deadline: UnixTime = clock.read().wall + Seconds(120);
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
