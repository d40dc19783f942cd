//! The key sets as they are served while tokens live: whether each token's key is in them, and since when it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use keyround::clock::{Clock, UnixTime};
use keyround::jose::alg::Algorithm;

use crate::site::{Site, Token};

/// What was seen of one set-up.
pub struct Watch {
    clock: Clock,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    live: Vec<(String, UnixTime)>,
    /// When each key was first in the sets of all nodes, in time since the start; unknown for those that were there before.
    published: BTreeMap<String, Option<Duration>>,
    /// When each key signed the first token, by algorithm.
    signed: BTreeMap<Algorithm, BTreeMap<String, Duration>>,
    outside: Vec<String>,
    polls: usize,
    largest_set: usize,
    last_poll: Duration,
    longest_gap: Duration,
}

/// The figures of one set-up.
#[derive(Debug)]
pub struct Figures {
    /// How often the signing key changed, by algorithm.
    pub rotations: BTreeMap<Algorithm, usize>,
    /// The mean time from one rotation to the next, where it was longest.
    pub mean_period: Duration,
    /// Tokens whose kid was missing from the set that a node served while they lived, each time it was.
    pub outside: Vec<String>,
    /// How often the sets of all nodes were looked at.
    pub polls: usize,
    /// The longest time between two looks.
    pub longest_gap: Duration,
    /// The most keys in one set.
    pub largest_set: usize,
    /// The most generations of one algorithm that were published and had not signed yet.
    pub most_pending: usize,
    /// The shortest time from a key's appearance on all nodes to its first token.
    pub shortest_lead: Duration,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            clock: Clock::system(),
            seen: Mutex::default(),
        }
    }

    /// The time.
    pub fn now(&self) -> UnixTime {
        self.clock.read().wall
    }

    /// Keeps an eye on this token's key until the token expires.
    pub fn add(&self, token: &Token, alg: Algorithm) {
        let since_start = self.clock.read().monotonic;
        let mut seen = self.seen.lock().unwrap();
        seen.live.push((token.kid.clone(), token.expires_at));
        let signed = seen.signed.entry(alg).or_default();
        signed.entry(token.kid.clone()).or_insert(since_start);
    }

    /// Fetches the set of every node and looks for the key of every token that was issued before and lives on after.
    pub async fn look(&self, site: &Site) {
        let issued_before = self.live();
        let mut on_all: Option<BTreeSet<String>> = None;
        for node in 0..site.nodes() {
            let kids = site.kids(node).await;
            self.compare(&issued_before, &kids, node);
            on_all = Some(match on_all {
                Some(others) => &others & &kids,
                None => kids,
            });
        }
        let since_start = self.clock.read().monotonic;
        let mut seen = self.seen.lock().unwrap();
        let came_now = (seen.polls > 0).then_some(since_start);
        for kid in on_all.unwrap_or_default() {
            seen.published.entry(kid).or_insert(came_now);
        }
        seen.polls += 1;
        if seen.polls > 1 {
            seen.longest_gap = seen.longest_gap.max(since_start.saturating_sub(seen.last_poll));
        }
        seen.last_poll = since_start;
    }

    /// How often the key changed, for the algorithm where it did so least.
    pub fn fewest_rotations(&self) -> usize {
        Algorithm::ALL
            .map(|alg| self.rotations_of(alg))
            .into_iter()
            .min()
            .unwrap_or(0)
    }

    /// How often the key of this algorithm changed.
    pub fn rotations_of(&self, alg: Algorithm) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.signed.get(&alg).map_or(0, |kids| kids.len() - 1)
    }

    /// The keys whose successor has signed.
    pub fn superseded(&self) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        let but_newest = |kids: &BTreeMap<String, Duration>| {
            let newest = kids.values().max().copied();
            let older = kids.iter().filter(move |(_, since)| Some(**since) < newest);
            older.map(|(kid, _)| kid.clone()).collect::<Vec<_>>()
        };
        seen.signed.values().flat_map(but_newest).collect()
    }

    /// Whether any token that was added is still valid.
    pub fn is_any_alive(&self) -> bool {
        !self.live().is_empty()
    }

    /// What all of it comes to.
    pub fn figures(&self) -> Figures {
        let seen = self.seen.lock().unwrap();
        let spans: Vec<Vec<(Duration, Duration)>> = seen.signed.values().map(|kids| seen.waits(kids)).collect();
        let pending_at =
            |spans: &[(Duration, Duration)], at| spans.iter().filter(|(from, to)| (*from..*to).contains(&at)).count();
        let most_pending = spans
            .iter()
            .flat_map(|spans| spans.iter().map(|(from, _)| pending_at(spans, *from)))
            .max();
        Figures {
            rotations: seen.signed.iter().map(|(alg, kids)| (*alg, kids.len() - 1)).collect(),
            mean_period: seen.signed.values().filter_map(mean_period).max().unwrap_or_default(),
            outside: seen.outside.clone(),
            polls: seen.polls,
            longest_gap: seen.longest_gap,
            largest_set: seen.largest_set,
            most_pending: most_pending.unwrap_or(0),
            shortest_lead: spans
                .iter()
                .flatten()
                .map(|(from, to)| to.saturating_sub(*from))
                .min()
                .unwrap_or_default(),
        }
    }

    fn live(&self) -> Vec<(String, UnixTime)> {
        let now = self.now();
        let mut seen = self.seen.lock().unwrap();
        seen.live.retain(|(_, expires_at)| *expires_at > now);
        seen.live.clone()
    }

    fn compare(&self, tokens: &[(String, UnixTime)], kids: &BTreeSet<String>, node: usize) {
        let now = self.now();
        let mut seen = self.seen.lock().unwrap();
        seen.largest_set = seen.largest_set.max(kids.len());
        for (kid, expires_at) in tokens {
            if *expires_at > now && !kids.contains(kid) {
                let left = *expires_at - now;
                seen.outside
                    .push(format!("node {node}, {now}: {kid} of a token that lives {left} more"));
            }
        }
    }
}

impl Seen {
    /// From publication to first token, for each of these keys whose publication was seen.
    fn waits(&self, signed: &BTreeMap<String, Duration>) -> Vec<(Duration, Duration)> {
        signed
            .iter()
            .filter_map(|(kid, first_token)| Some(((*self.published.get(kid)?)?, *first_token)))
            .collect()
    }
}

/// Between the first tokens of two keys, one after the other. The first key signs for as long as its successor is published ahead, so
/// it does not count.
fn mean_period(signed: &BTreeMap<String, Duration>) -> Option<Duration> {
    let first = signed.values().min()?;
    let later: Vec<Duration> = signed.values().filter(|since| *since > first).copied().collect();
    let span = later.iter().max()?.saturating_sub(*later.iter().min()?);
    span.checked_div(u32::try_from(later.len()).ok()?.checked_sub(1)?)
}
