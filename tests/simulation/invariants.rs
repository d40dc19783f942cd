//! The promise of the rotation as six invariants, checked against true time, every node and every verifier. What is computed here is computed
//! from the rows in its own way, not by asking the core.
//!
//! - I1: every unexpired token verifies against the key set of now, and against any set that was served within the last
//!   `keys.verifier_cache` (C), unless its key was revoked. A key that signed at once, as a first key and a replacement do, is held to it
//!   when its lead is over.
//! - I2: no key signs before it has been published for the lead (`keys.prepublish`) that was in force when it was inserted, except at a first
//!   start and in an emergency.
//! - I3: each enabled algorithm has an active key at every instant, a first start of several nodes makes one key for each, and successive
//!   keys sign beside each other no longer than the nodes' refresh and the clocks' difference explain.
//! - I4: a private half is destroyed when nothing signs with it any more, or at the next look after that if no node could run.
//! - I5: nodes that rotate at once make one successor.
//! - I6: the last private half of an algorithm that is not removed is never destroyed, and no row that has one is purged, whatever the
//!   clock says.
//!
//! Verifiers are all there at once: a token must verify for the slowest clock and the longest leeway that are allowed,
//! with every set that any node served within the last C, at every moment until it ends there.

use std::collections::{BTreeMap, BTreeSet};

use keyround::clock::{Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::{Kid, PublicJwk};
use keyround::keys::SigningKey;
use keyround::keys::keyset::KeySet;
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::NewGeneration;
use keyround::keys::policy::{Policy, Windows};
use keyround::keys::trusted_time::ClockStep;

use crate::node::{Node, Signature};
use crate::sabotage::Without;
use crate::store::{Database, number};

#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

#[expect(clippy::unnecessary_wraps, reason = "every caller answers an option")]
fn violated(invariant: &'static str, what: String) -> Option<Violation> {
    Some(Violation { invariant, what })
}

/// What was done, for the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub tokens: u64,
    pub verifications: u64,
    pub rotations: u64,
    pub emergencies: u64,
}

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Some node served a set without it, last at this moment.
    absent_at: i64,
    /// The slowest verifier accepts a token of it until this moment.
    accepted_until: i64,
    /// It signed at once: held to I1 only from this moment.
    held_from: i64,
    at_once: bool,
}

pub struct Watch {
    windows: Windows,
    known: BTreeMap<u32, Known>,
    first_issued: BTreeMap<(Algorithm, i64), UnixTime>,
    /// Kids whose private halves lay in the store during an emergency, with the version of the rows that it wrote.
    distrusted: BTreeMap<u32, Option<u64>>,
    shortest_period: Seconds,
    longest_period: Seconds,
    longest_prepublish: Seconds,
    healthy_since: Option<i64>,
    first_starts: BTreeSet<Algorithm>,
    steps: Vec<(u64, Seconds)>,
    /// The key material that was revoked under one of its kids.
    revoked_materials: Vec<PublicJwk>,
    /// Keys that the database lost with its last seconds.
    lost: BTreeSet<u32>,
    /// Those of them that every node had published, and how often nodes had lost their memory then.
    held: BTreeMap<u32, u32>,
    /// Keys to verify with that every node had published when the database lost them, with the time that they stay.
    held_imports: Vec<(PublicJwk, UnixTime, u32)>,
    pub figures: Figures,
}

#[expect(clippy::unused_self, reason = "all questions go to the one who watches")]
impl Watch {
    pub fn new(policy: &Policy) -> Self {
        let windows = policy.windows().clone();
        Self {
            shortest_period: windows.rotation_period,
            longest_period: windows.rotation_period,
            longest_prepublish: windows.prepublish,
            windows,
            known: BTreeMap::new(),
            first_issued: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            healthy_since: None,
            first_starts: BTreeSet::new(),
            steps: Vec::new(),
            revoked_materials: Vec::new(),
            lost: BTreeSet::new(),
            held: BTreeMap::new(),
            held_imports: Vec::new(),
            figures: Figures::default(),
        }
    }

    pub fn saw_policy(&mut self, policy: &Policy) {
        let windows = policy.windows();
        self.shortest_period = self.shortest_period.min(windows.rotation_period);
        self.longest_period = self.longest_period.max(windows.rotation_period);
        self.longest_prepublish = self.longest_prepublish.max(windows.prepublish);
    }

    /// The longest time from a plan to its commit that is tried, in milliseconds: past every guard.
    pub fn longest_commit(&self) -> i64 {
        (self.windows.replica_refresh.0 + 2 * self.windows.clock_skew.0) * 1000
    }

    /// The times of keys moved with this version of the rows.
    pub fn stepped(&mut self, step: ClockStep, version: u64) {
        self.steps.push((version, step.to - step.from));
        for first in self.first_issued.values_mut().filter(|first| **first > step.newer_than) {
            *first = *first + (step.to - step.from);
        }
    }

    pub fn unhealthy(&mut self, at: i64) {
        self.healthy_since = Some(at);
    }

    /// A row was committed.
    pub fn committed(&mut self, kid: u32, at_once: bool, policy: &Policy, at: i64) {
        let held_from = if at_once {
            at + policy.shortest_prepublish().0 * 1000
        } else {
            0
        };
        let known = Known {
            absent_at: at,
            accepted_until: 0,
            held_from,
            at_once,
        };
        self.known.insert(kid, known);
        self.figures.rotations += 1;
    }

    /// I1, first half: which keys are missing from a set that is served at this moment.
    pub fn observe(&mut self, nodes: &[Node], database: &Database, at: i64, without: Without) -> Option<Violation> {
        self.let_go_of_what_is_forgotten(nodes, database);
        let serving = || nodes.iter().filter(|node| node.is_running() && node.snapshot.is_some());
        // A balancer fails open when no node is ready. Held to it is an outage for everybody: where each node lost the
        // database for a reason of its own, the sets that are left may be of any age.
        let fails_open = database.down_until > at && !serving().any(|node| node.is_ready(at, without));
        let served: Vec<&Node> = serving()
            .filter(|node| fails_open || node.is_ready(at, without))
            .collect();
        let cache = self.windows.verifier_cache.0 * 1000;
        let propagation = self.windows.replica_refresh.0 * 2000;
        for (&kid, known) in &mut self.known {
            // A node that was cut off cannot know what an emergency inserted, and stays ready for the sake of all others.
            let excused = |node: &Node| {
                let loaded_at = node.snapshot.as_ref().map_or(at, |snapshot| snapshot.loaded_at);
                known.at_once && at - loaded_at > propagation
            };
            if served
                .iter()
                .any(|node| node.served.binary_search(&kid).is_err() && !excused(node))
            {
                known.absent_at = at;
            }
            if known.accepted_until <= at || known.held_from > at {
                continue;
            }
            self.figures.verifications += served.len() as u64;
            if at - known.absent_at <= cache && !database.is_revoked(kid) {
                return violated(
                    "I1",
                    format!(
                        "a token of key {kid} is accepted for {} ms more, but a set was served without the key {} ms ago",
                        known.accepted_until - at,
                        at - known.absent_at
                    ),
                );
            }
        }
        None
    }

    /// A token was signed: I2, the overlap of I3, and the rule that a distrusted half never signs again.
    pub fn signed(&mut self, signature: &Signature, database: &Database, at: i64, fastest: i64) -> Option<Violation> {
        let Signature {
            key,
            issued_at,
            keys_at,
            lifetime,
            version,
        } = signature;
        let kid = number(&key.kid);
        if self.lost.contains(&kid) && !self.held.contains_key(&kid) {
            return None;
        }
        let windows = &self.windows;
        let skew = windows.clock_skew.0 * 1000;
        // A token of a clock that is wrong at a start may be from the future: no verifier that looks at `iat` accepts it then.
        let issued = (issued_at.0 * 1000 - fastest).min(at);
        let accepted_until = issued + (*lifetime + windows.verifier_leeway).0 * 1000 + skew;
        self.figures.tokens += 1;
        let known = self.known.entry(kid).or_default();
        let is_first = known.accepted_until == 0;
        known.accepted_until = known.accepted_until.max(accepted_until);
        // A node that has not read the rows since signs on with it, and its successor has another row.
        if self.lost.contains(&kid) {
            return None;
        }
        // One that has signed before was in time, though a clock may have been set back since.
        if is_first && !known.at_once && *issued_at < key.published_at + key.prepublish {
            return violated(
                "I2",
                format!("key {kid} signs at {issued_at}, published at {}", key.published_at),
            );
        }
        if self
            .distrusted
            .get(&kid)
            .is_some_and(|since| since.is_some_and(|since| *version >= since))
        {
            return violated(
                "emergency",
                format!("key {kid} lay in the store during an emergency, and signs after it"),
            );
        }
        // A node that has not read the rows since a step does not know of it.
        let unknown = self.steps.iter().filter(|(stepped, _)| *stepped > *version);
        let keys_at = unknown.fold(*keys_at, |at, (_, length)| at + *length);
        // In the time that keys go by: it stands still while no node runs and the clock is not confirmed.
        let first = self.first_issued.entry((key.alg, key.generation)).or_insert(keys_at);
        *first = (*first).min(keys_at);
        let tail = windows.snapshot_max_age + windows.clock_skew;
        let later = (key.alg, key.generation + 1)..=(key.alg, i64::MAX);
        let unrevoked = |generation: i64| {
            let row = database
                .keys
                .line(key.alg)
                .iter()
                .find(|row| row.generation == generation);
            row.is_none_or(|row| row.revoked_at.is_none())
        };
        let overlapped = self
            .first_issued
            .range(later)
            .find(|((_, generation), first)| **first + tail < keys_at && unrevoked(*generation));
        if let Some(((_, generation), first)) = overlapped {
            return violated(
                "I3",
                format!(
                    "generation {} signs at {issued_at}, {generation} since {first} (true {at})",
                    key.generation
                ),
            );
        }
        None
    }

    /// The rows were read: no revoked key is published, every sane node has a signer.
    pub fn loaded(&self, node: &Node, database: &Database, at: i64) -> Option<Violation> {
        let is_revoked = |jwk: &&PublicJwk| {
            self.revoked_materials
                .iter()
                .any(|revoked| revoked.parameters == jwk.parameters)
        };
        if let Some(jwk) = node.aliases.iter().find(is_revoked) {
            return violated(
                "alias",
                format!(
                    "key {} is published at {at}, and the same key was revoked under another kid",
                    jwk.kid
                ),
            );
        }
        let now = node.keys_at(at, Without::Nothing)?;
        let is_gone = |(jwk, until, _): &&(PublicJwk, UnixTime, u32)| *until > now && !node.aliases.contains(jwk);
        if let Some((jwk, until, _)) = self.held_imports.iter().find(is_gone) {
            return violated(
                "vanished",
                format!("key {} is not published at {at}, and was to be until {until}", jwk.kid),
            );
        }
        if let Some(kid) = node.served.iter().find(|&&kid| database.is_revoked(kid)) {
            return violated(
                "revoked",
                format!("key {kid} is published at {at} though it was revoked"),
            );
        }
        if let Some(kid) = node.served.iter().find(|kid| node.ledger.contains(kid)) {
            return violated(
                "forgotten",
                format!("key {kid} is published at {at} by a node that knew that it was revoked"),
            );
        }
        None
    }

    /// What must hold at every instant: I3, I4 and that rotation goes on.
    pub fn check(&mut self, nodes: &[Node], database: &Database, at: i64, without: Without) -> Option<Violation> {
        self.active_everywhere(nodes, at, without)
            .or_else(|| self.halves_destroyed(nodes, database, at))
            .or_else(|| self.rotation_goes_on(nodes, database, at))
    }

    /// I3: a node that may sign has a key for each enabled algorithm.
    fn active_everywhere(&self, nodes: &[Node], at: i64, without: Without) -> Option<Violation> {
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            let (Some(now), Some(snapshot)) = (node.keys_at(at, without), &node.snapshot) else {
                continue;
            };
            let sane = node.trusted.is_some_and(|trusted| trusted.may_sign());
            let young = node
                .snapshot_age(at)
                .is_some_and(|age| age < self.windows.snapshot_max_age);
            // One that knows of a lost revocation signs with nothing until it has written it again and read the new key.
            let knows_better = snapshot
                .keys
                .iter()
                .any(|key| key.revoked_at.is_none() && node.ledger.contains(&number(&key.kid)));
            if !sane || !young || knows_better {
                continue;
            }
            // Left out of the settings or not: only a removal ends an algorithm.
            for alg in Algorithm::ALL {
                if self.is_enabled(&snapshot.keys, alg, now) && node.sign(alg, at, without).is_none() {
                    return violated("I3", format!("node {index} has no active key for {alg} at its {now}"));
                }
            }
        }
        None
    }

    /// An algorithm is enabled from the first activation of a key after its last removal.
    fn is_enabled(&self, keys: &Keys, alg: Algorithm, now: UnixTime) -> bool {
        let line = keys.line(alg);
        // An announced removal ends nothing before its time.
        let in_force = |key: &SigningKey| key.is_keyless() && key.activates_at <= now;
        let after_removal = line.iter().rposition(in_force).map_or(0, |last| last + 1);
        line[after_removal..].iter().any(|key| {
            let at_once = self.known.get(&number(&key.kid)).is_some_and(|known| known.at_once);
            let signed = key.revoked_at.is_none_or(|revoked_at| revoked_at >= key.activates_at);
            signed && (at_once || key.activates_at <= now)
        })
    }

    /// I4: a node that could work all the time since the half was due has destroyed it.
    fn halves_destroyed(&self, nodes: &[Node], database: &Database, at: i64) -> Option<Violation> {
        // By the time that the machines agree on.
        let (elapsed, at) = (at, at + database.off_by);
        let grace = 3 * self.longest_commit() + self.windows.replica_refresh.0 * 1000;
        let able = nodes.iter().filter_map(|node| node.able_since).min()?;
        if elapsed - able < grace {
            return None;
        }
        let tail = self.windows.snapshot_max_age + self.windows.clock_skew;
        for key in database.keys.iter().filter(|key| key.has_private_half) {
            let later = || {
                database
                    .keys
                    .line(key.alg)
                    .iter()
                    .filter(|later| later.generation > key.generation)
            };
            let replaced = later().any(|later| later.revoked_at.is_none());
            // The last half before a removal stays as long as its key is published.
            let next = later().find(|later| later.revoked_at.is_none());
            let superseded_at = superseded_at(&database.keys, key);
            let due = superseded_at.map(|superseded_at| {
                if !next.is_some_and(SigningKey::is_keyless) {
                    return superseded_at + tail;
                }
                let published = tail + self.windows.verifier_leeway + key.max_token_ttl;
                let kept = database.keys.kept().map(|kept| kept.at + self.windows.clock_skew);
                kept.map_or(superseded_at, |kept| kept.max(superseded_at)) + published
            });
            let overdue = due.is_some_and(|due| due.0 * 1000 + self.windows.clock_skew.0 * 500 + grace < at);
            if replaced && overdue {
                return violated(
                    "I4",
                    format!("the private half of {} was due since {superseded_at:?}", key.kid),
                );
            }
        }
        None
    }

    /// Not one of the six, but what the house is for: while all is well, every key is followed within its period.
    fn rotation_goes_on(&mut self, nodes: &[Node], database: &Database, at: i64) -> Option<Violation> {
        let policy = &nodes[0].policy;
        let well = nodes
            .iter()
            .all(|node| node.able_since.is_some() && node.policy == *policy);
        if !well || database.keys.is_empty() {
            self.healthy_since = None;
            return None;
        }
        let healthy_since = *self.healthy_since.get_or_insert(at);
        let period = policy.windows().rotation_period;
        let slack = policy.propagation() + self.windows.clock_skew * 3 + Seconds(4 * self.longest_commit() / 1000);
        let patience = self.longest_prepublish + period + slack;
        if (at - healthy_since) / 1000 < patience.0 {
            return None;
        }
        let now = Database::time(at);
        for &alg in policy.algorithms() {
            if database.keys.removal(alg).is_some() {
                continue;
            }
            let age = database.keys.active(alg, now).map(|key| now - key.activates_at);
            if age.is_none_or(|age| age > period + slack) {
                return violated(
                    "rotation",
                    format!("the key of {alg} is {age:?} old, the period is {period}"),
                );
            }
        }
        None
    }

    /// I5, before an insert: a successor comes a period after its predecessor, or outranks one that lay too far ahead.
    pub fn inserted(&self, keys: &Keys, new: &NewGeneration, without: Without) -> Option<Violation> {
        let line = keys.line(new.alg);
        if line.iter().any(|key| key.generation == new.generation) {
            return violated(
                "I5",
                format!("generation {} of {} has two rows", new.generation, new.alg),
            );
        }
        let previous = line.iter().rev().find(|key| key.revoked_at.is_none())?;
        let gap = new.activates_at - previous.activates_at;
        // A lead that was shortened on purpose is not what this looks for.
        let regular = !without.shortens_the_lead();
        if regular && !previous.is_keyless() && gap > Seconds::ZERO && gap < self.shortest_period {
            return violated("I5", format!("{new:?} follows its predecessor after {gap}"));
        }
        None
    }

    /// After an insert: the set is what caches hold.
    pub fn fits(&self, keys: &Keys, policy: &Policy, now: UnixTime) -> Option<Violation> {
        let set = KeySet::at(keys, policy, now);
        let (count, bytes) = (set.jwks().len(), set.to_json().len());
        let (most, longest) = (policy.windows().max_published, policy.windows().max_set_bytes);
        if count > most || bytes > longest {
            return violated("size", format!("{count} keys of {most}, {bytes} bytes of {longest}"));
        }
        None
    }

    /// I6, before a destruction: another half of the algorithm can sign, unless the algorithm was removed.
    pub fn destroying(&self, database: &Database, kid: &Kid) -> Option<Violation> {
        let key = database.keys.find(kid)?;
        let line = database.keys.line(key.alg);
        let removed = line
            .iter()
            .any(|later| later.generation > key.generation && later.is_keyless());
        let others = line.iter().any(|other| other.kid != key.kid && other.has_private_half);
        if !removed && !others {
            return violated(
                "I6",
                format!("the last private half of {}, of key {kid}, is destroyed", key.alg),
            );
        }
        None
    }

    /// I6, before a purge: no row with a private half.
    pub fn purging(&self, database: &Database, kid: &Kid) -> Option<Violation> {
        let key = database.keys.find(kid)?;
        if key.has_private_half {
            return violated("I6", format!("key {kid} is purged with its private half"));
        }
        let line = database.keys.line(key.alg);
        let before = line
            .iter()
            .find(|other| other.generation < key.generation && other.revoked_at.is_none());
        if let Some(before) = before {
            return violated("purge order", format!("key {kid} is purged before {}", before.kid));
        }
        None
    }

    /// Before an emergency: everything that lies in the store.
    pub fn distrust(&mut self, database: &Database, alg: Algorithm) {
        let halves = database.keys.line(alg).iter().filter(|key| key.has_private_half);
        let kids: Vec<u32> = halves.map(|key| number(&key.kid)).collect();
        for kid in kids {
            self.distrusted.entry(kid).or_insert(None);
        }
    }

    /// The database lost its last seconds: what only they held is not promised.
    pub fn lost(&mut self, nodes: &[Node], before: &Database, left: &Keys, at: i64) {
        self.unhealthy(at);
        let forgot = forgot(nodes);
        let all_published = |kid: u32| nodes.iter().all(|node| node.is_running() && node.served.contains(&kid));
        // Nor are tokens of a key whose revocation was lost: whoever learnt of it keeps it out.
        let is_lost = |key: &&SigningKey| {
            left.find(&key.kid)
                .is_none_or(|row| row.revoked_at.is_none() && key.revoked_at.is_some())
        };
        for key in before.keys.iter().filter(is_lost) {
            let kid = number(&key.kid);
            if key.revoked_at.is_none() && all_published(kid) {
                self.held.insert(kid, forgot);
            } else {
                self.known.remove(&kid);
            }
            self.lost.insert(kid);
            self.first_issued.remove(&(key.alg, key.generation));
        }
        let imported = before.keys.verifying().iter();
        for key in imported.filter(|key| left.find_verifying(&key.jwk.kid).is_none() && key.revoked_at.is_none()) {
            let published = |node: &Node| node.is_running() && node.aliases.contains(&key.jwk);
            if nodes.iter().all(published) {
                self.held_imports.push((key.jwk.clone(), key.expires_at, forgot));
            }
        }
        self.distrusted.clear();
        self.revoked_materials.clear();
    }

    /// What was lost and lay in the memory of a node that crashed or was restarted is not promised any more, nor is what was revoked.
    fn let_go_of_what_is_forgotten(&mut self, nodes: &[Node], database: &Database) {
        let forgot = forgot(nodes);
        let gone: Vec<u32> = self
            .held
            .iter()
            .filter(|(_, since)| **since != forgot)
            .map(|(kid, _)| *kid)
            .collect();
        for kid in gone {
            self.held.remove(&kid);
            self.known.remove(&kid);
        }
        self.held_imports
            .retain(|(jwk, _, since)| *since == forgot && !database.keys.revokes(jwk));
    }

    /// The version of the rows that the emergency wrote.
    pub fn distrusted_from(&mut self, version: u64) {
        for since in self.distrusted.values_mut().filter(|since| since.is_none()) {
            *since = Some(version);
        }
    }

    /// After an emergency: none of the distrusted halves is left.
    pub fn after_emergency(&self, database: &Database) -> Option<Violation> {
        let left = database
            .keys
            .iter()
            .find(|key| key.has_private_half && self.distrusted.contains_key(&number(&key.kid)))?;
        violated("emergency", format!("the private half of {} is still there", left.kid))
    }

    /// After a removal: it takes effect when every node has read it, at the earliest.
    pub fn announced(&self, new: &NewGeneration) -> Option<Violation> {
        let spread = self.windows.replica_refresh * 2 + self.windows.verifier_cache + self.windows.clock_skew;
        let lead = new.activates_at - new.published_at;
        if lead < spread {
            return violated(
                "announced",
                format!("{new:?} is announced {lead} ahead, and its spreading takes {spread}"),
            );
        }
        None
    }

    /// A key was revoked under one of its kids.
    pub fn revoked_material(&mut self, jwk: PublicJwk) {
        self.revoked_materials.push(jwk);
    }

    /// I3: a first start makes one key per algorithm.
    pub fn first_started(&mut self, alg: Algorithm) -> Option<Violation> {
        if self.first_starts.insert(alg) {
            return None;
        }
        violated("I3", format!("a second first key for {alg}"))
    }
}

/// How often nodes have lost their memory.
fn forgot(nodes: &[Node]) -> u32 {
    nodes.iter().map(|node| node.forgot).sum()
}

/// As design.md says it, written a second time.
fn superseded_at(keys: &Keys, key: &SigningKey) -> Option<UnixTime> {
    let later = keys
        .line(key.alg)
        .iter()
        .filter(|later| later.generation > key.generation);
    let mut earliest = None;
    for later in later {
        let never_active = later
            .revoked_at
            .is_some_and(|revoked_at| revoked_at < later.activates_at);
        let takes_over = later.activates_at.max(later.published_at);
        if !never_active && earliest.is_none_or(|earliest| takes_over < earliest) {
            earliest = Some(takes_over);
        }
    }
    earliest
}
