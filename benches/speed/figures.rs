//! What was measured, and what follows from it.

use std::collections::HashMap;

use keyround::jose::alg::Algorithm;

use crate::limits::Limits;
use crate::load::{Load, Seen};

/// What every round saw, by the name of the load.
#[derive(Default)]
pub struct Rounds {
    pub limits: Vec<Limits>,
    seen: HashMap<&'static str, Vec<Seen>>,
}

impl Rounds {
    /// Runs every load once, in one order and then in the other.
    pub fn measure(&mut self, loads: &[(&'static str, Load)], round: usize) {
        let mut order: Vec<_> = loads.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (name, load) in order {
            self.seen.entry(name).or_default().push(load.run());
        }
    }

    fn rates(&self, name: &str) -> Vec<f64> {
        self.seen[name].iter().map(|seen| seen.rate).collect()
    }

    fn p50s(&self, name: &str) -> Vec<f64> {
        self.seen[name].iter().map(|seen| seen.p50).collect()
    }

    /// The rate of a handler that also took so many microseconds for each answer.
    fn with(&self, name: &str, more: impl Fn(&Limits) -> f64) -> Vec<f64> {
        let rates = self.rates(name).into_iter().zip(&self.limits);
        rates.map(|(rate, limits)| 1e6 / (1e6 / rate + more(limits))).collect()
    }
}

/// What a ratio has to be.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// So far from 1 at most, in either direction.
    Within(f64),
}

/// One of our figures beside another.
pub struct Comparison {
    pub what: String,
    pub unit: &'static str,
    pub ours: Vec<f64>,
    /// What it is held against.
    pub other: String,
    pub others: Vec<f64>,
    pub ratios: Vec<f64>,
    pub target: Target,
}

impl Comparison {
    /// A rate beside that of a limit or a rival, round by round.
    pub fn new(what: impl Into<String>, ours: Vec<f64>, other: &str, others: &[f64], target: Target) -> Self {
        Self {
            what: what.into(),
            unit: "/s",
            ratios: ours.iter().zip(others).map(|(ours, other)| ours / other).collect(),
            ours,
            other: other.to_owned(),
            others: others.to_owned(),
            target,
        }
    }

    pub fn in_microseconds(self) -> Self {
        Self { unit: "µs", ..self }
    }

    /// A figure with an upper bound.
    pub fn alone(what: &str, ours: Vec<f64>, unit: &'static str, bound: f64) -> Self {
        let others = vec![bound; ours.len()];
        Self {
            unit,
            ..Self::new(what, ours, "the bound", &others, Target::AtMost(1.0))
        }
    }

    pub fn ratio(&self) -> f64 {
        median(&self.ratios)
    }

    pub fn is_met(&self) -> bool {
        match self.target {
            Target::AtLeast(bound) => self.ratio() >= bound,
            Target::AtMost(bound) => self.ratio() <= bound,
            Target::Within(bound) => (self.ratio() - 1.0).abs() <= bound,
        }
    }
}

pub fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_owned();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The loads of one algorithm: tokens by us and by the reference, by us and by the rival, introspections by us and by nobody,
/// forward authentications by us and by nobody.
pub fn names_of(alg: Algorithm) -> [&'static str; 8] {
    match alg {
        Algorithm::Rs256 => [
            "RS256 token",
            "RS256 token, reference",
            "RS256 token, beside the rival",
            "RS256 token, rival",
            "RS256 introspection",
            "RS256 introspection, empty",
            "RS256 forward authentication",
            "RS256 forward authentication, empty",
        ],
        Algorithm::Es256 => [
            "ES256 token",
            "ES256 token, reference",
            "ES256 token, beside the rival",
            "ES256 token, rival",
            "ES256 introspection",
            "ES256 introspection, empty",
            "ES256 forward authentication",
            "ES256 forward authentication, empty",
        ],
    }
}

pub fn speed(rounds: &Rounds) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for alg in Algorithm::ALL {
        let [
            token,
            reference,
            beside_rival,
            rival,
            introspection,
            empty,
            forward,
            forward_empty,
        ] = names_of(alg);
        let (least, times) = match alg {
            Algorithm::Rs256 => (0.90, 2.0),
            Algorithm::Es256 => (0.85, 6.0),
        };
        let signature = |limits: &Limits| match alg {
            Algorithm::Rs256 => limits.rs256_signature,
            Algorithm::Es256 => limits.es256_signature,
        };
        let verification = |limits: &Limits| match alg {
            Algorithm::Rs256 => limits.rs256_verification,
            Algorithm::Es256 => limits.es256_verification,
        };
        comparisons.extend([
            Comparison::new(
                format!("{alg} tokens"),
                rounds.rates(token),
                "reference handler and one signature",
                &rounds.with(reference, signature),
                Target::AtLeast(least),
            ),
            Comparison::new(
                format!("{alg} tokens"),
                rounds.rates(beside_rival),
                "npm oidc-provider",
                &rounds.rates(rival),
                Target::AtLeast(times),
            ),
            Comparison::new(
                format!("introspections of {alg} tokens"),
                rounds.rates(introspection),
                "empty handler and one verification",
                &rounds.with(empty, verification),
                Target::AtLeast(0.70),
            ),
            Comparison::new(
                format!("forward authentications of {alg} tokens"),
                rounds.rates(forward),
                "empty handler and one verification",
                &rounds.with(forward_empty, verification),
                Target::AtLeast(0.70),
            ),
        ]);
    }
    let key_sets = || rounds.rates("key set");
    comparisons.extend([
        Comparison::new(
            "key sets",
            key_sets(),
            "actix handler with the same bytes",
            &rounds.rates("key set, actix"),
            Target::AtLeast(0.95),
        ),
        Comparison::new(
            "key sets, 304",
            rounds.rates("key set, 304"),
            "the same with 200",
            &rounds.rates("key set, 200"),
            Target::AtLeast(1.0),
        ),
        Comparison::new(
            "key sets",
            key_sets(),
            "nginx with the file",
            &rounds.rates("key set, nginx"),
            Target::AtLeast(1.0),
        ),
        Comparison::new(
            "key sets",
            key_sets(),
            "npm oidc-provider",
            &rounds.rates("key set, rival"),
            Target::AtLeast(6.0),
        ),
    ]);
    comparisons
}

pub fn growth(rounds: &Rounds) -> Vec<Comparison> {
    let p50 = |what: &str, name: &str, other: &str, others: &str| {
        let comparison = Comparison::new(
            what,
            rounds.p50s(name),
            other,
            &rounds.p50s(others),
            Target::AtMost(1.05),
        );
        comparison.in_microseconds()
    };
    vec![
        p50(
            "ES256 token with 10,000 clients, p50",
            "token, many clients",
            "with 1 client",
            "token",
        ),
        p50(
            "ES256 token with 16 published keys, p50",
            "token, many keys",
            "with 2 keys",
            "token",
        ),
        p50(
            "ES256 introspection with 16 published keys, p50",
            "introspection, many keys",
            "with 2 keys",
            "introspection",
        ),
        // Not beside a key set of 2 keys, which has an eighth of the bytes.
        p50(
            "key set of 16 keys, p50",
            "key set, many keys",
            "actix handler with the same bytes",
            "key set, many keys, actix",
        ),
    ]
}
