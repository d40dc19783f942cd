//! One server: its clock, its snapshot of the rows, what it publishes, with which key it signs, what it has planned.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use keyround::clock::{Reading, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::PublicJwk;
use keyround::keys::SigningKey;
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::Step;
use keyround::keys::policy::Policy;
use keyround::keys::state::State;
use keyround::keys::trusted_time::{ClockRecord, Doubt, Reference, TrustedTime};
use keyround::keys::verifying::VerifyingKey;

use crate::sabotage::Without;
use crate::store::{Database, number, numbered};

/// The rows as they were read once.
pub struct Snapshot {
    pub keys: Rc<Keys>,
    pub version: u64,
    /// Both hands of its own clock when it was read.
    pub loaded: Reading,
    /// True time when it was read, which no node knows.
    pub loaded_at: i64,
}

/// Whether the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// Stopped with its memory, until this moment.
    Paused(i64),
    /// Gone with its memory, until this moment.
    Down(i64),
}

/// A step that was planned, and when its transaction reaches the database.
pub struct InFlight {
    pub at: i64,
    pub step: Step,
}

pub struct Node {
    pub policy: Policy,
    pub next_policy: Option<Policy>,
    /// How far the wall clock is ahead of true time, in milliseconds.
    pub offset: i64,
    /// How far the clock that all machines share is ahead of true time, in milliseconds.
    pub common: i64,
    /// When a person or a time server puts a clock right that left its band.
    pub clock_right_at: Option<i64>,
    /// What the monotonic clock missed while the machine was suspended, in milliseconds.
    pub missed: i64,
    /// When the connection to the database returns.
    pub cut_off_until: i64,
    /// What it reads meanwhile: a standby that gets nothing any more answers with the rows of the moment.
    pub standby: Option<(Rc<Keys>, u64)>,
    /// The revoked keys that it learnt of, in its ledger.
    pub ledger: BTreeSet<u32>,
    pub life: Life,
    pub trusted: Option<TrustedTime>,
    pub snapshot: Option<Snapshot>,
    /// The numbers of the kids it publishes, sorted.
    pub served: Vec<u32>,
    /// The keys that it publishes to verify with alone.
    pub aliases: Vec<PublicJwk>,
    /// The keys whose rows are gone before their time, with the time that they stay.
    vanished: BTreeMap<u32, UnixTime>,
    vanished_aliases: Vec<VerifyingKey>,
    /// How often it lost its memory.
    pub forgot: u32,
    pub next_load: i64,
    pub wake_at: UnixTime,
    pub planned_version: Option<u64>,
    pub in_flight: VecDeque<InFlight>,
    /// Since when it could have done all its work without a break.
    pub able_since: Option<i64>,
    is_beside_database: bool,
}

/// A signature that was made.
pub struct Signature {
    pub key: SigningKey,
    pub issued_at: UnixTime,
    /// The time that its keys went by.
    pub keys_at: UnixTime,
    pub lifetime: Seconds,
    pub version: u64,
}

impl Node {
    pub fn new(policy: Policy, offset: i64) -> Self {
        Self {
            policy,
            next_policy: None,
            offset,
            common: 0,
            clock_right_at: None,
            missed: 0,
            cut_off_until: 0,
            standby: None,
            ledger: BTreeSet::new(),
            life: Life::Running,
            trusted: None,
            snapshot: None,
            served: Vec::new(),
            aliases: Vec::new(),
            vanished: BTreeMap::new(),
            vanished_aliases: Vec::new(),
            forgot: 0,
            next_load: 0,
            wake_at: UnixTime(0),
            planned_version: None,
            in_flight: VecDeque::new(),
            able_since: None,
            is_beside_database: false,
        }
    }

    pub fn reading(&self, at: i64) -> Reading {
        Reading {
            wall: UnixTime((at + self.offset + self.common).div_euclid(1000)),
            monotonic: Duration::from_millis(u64::try_from(at - self.missed).expect("after the start")),
        }
    }

    fn skew(&self) -> Seconds {
        self.policy.windows().clock_skew
    }

    /// The time that its tokens go by; none before its first look at the clock.
    pub fn now(&self, at: i64, without: Without) -> Option<UnixTime> {
        let reading = self.reading(at);
        if self.trusts_the_wall(without) {
            return self.trusted.map(|_| reading.wall);
        }
        self.trusted.map(|trusted| trusted.now(reading, self.skew()))
    }

    /// The time that its keys go by.
    pub fn keys_at(&self, at: i64, without: Without) -> Option<UnixTime> {
        if without == Without::KeysWaitForConfirmation || self.trusts_the_wall(without) {
            return self.now(at, without);
        }
        self.trusted
            .map(|trusted| trusted.reached_at(self.reading(at), self.skew()))
    }

    fn trusts_the_wall(&self, without: Without) -> bool {
        match without {
            Without::JumpDetection => true,
            Without::MonotonicBesideDatabase => self.is_beside_database,
            _ => false,
        }
    }

    /// The time it plans by.
    pub fn planning_time(&self, at: i64, without: Without) -> Option<UnixTime> {
        if without == Without::DoubtStopsPlanning {
            return Some(self.reading(at).wall);
        }
        self.keys_at(at, without)
    }

    pub fn is_running(&self) -> bool {
        self.life == Life::Running
    }

    pub fn reaches(&self, database: &Database, at: i64) -> bool {
        database.down_until <= at && self.cut_off_until <= at
    }

    pub fn may_plan(&self, without: Without) -> bool {
        let ignored = without == Without::DoubtStopsPlanning || self.trusts_the_wall(without);
        ignored || self.trusted.is_some_and(|trusted| trusted.may_plan())
    }

    /// What a crash takes with it.
    pub fn forget(&mut self) {
        self.trusted = None;
        self.snapshot = None;
        self.served.clear();
        self.aliases.clear();
        self.vanished.clear();
        self.vanished_aliases.clear();
        self.forgot += 1;
        self.in_flight.clear();
        self.planned_version = None;
        self.able_since = None;
        self.next_load = 0;
    }

    /// Reads the rows and rebuilds the key set, as every `replica_refresh / 2`.
    pub fn load(&mut self, database: &mut Database, at: i64, without: Without) {
        self.is_beside_database = database.is_shared;
        let mut checked = self.checked(self.trusted, database.record, database, at, without);
        if checked.should_write_record(self.skew()) {
            database.write_record(checked.next_record(), &self.policy, without);
            checked = checked.having_written(database.record);
        }
        self.trusted = Some(checked);
        let mut keys = Rc::clone(&database.keys);
        let keys_at = self.keys_at(at, without).expect("the clock was looked at");
        if checked.record().doubted.is_some() && without != Without::MarksKeepKeys {
            let kept = Keys::clone(&keys).while_doubted(&self.policy, checked.record().doubted, keys_at);
            keys = Rc::new(kept);
        }
        // It writes the longest tokens that it knew again, if the database has lost them.
        let before = self
            .snapshot
            .as_ref()
            .filter(|_| without != Without::KnownLifetimesStay);
        if let Some(before) = before {
            let (raised, shortened) = Keys::clone(&keys).with_lifetimes_of(&before.keys);
            keys = Rc::new(raised);
            for (kid, lifetime) in shortened {
                database.change_row(&kid, |row| row.max_token_ttl = row.max_token_ttl.max(lifetime));
            }
        }
        self.notice_what_vanished(&keys, keys_at);
        let mut served = published(&keys, &self.policy, keys_at, without);
        // What a mark would have kept looks like a row that vanished, and must not stay for that reason when the rule is looked for.
        if !matches!(without, Without::VanishedStay | Without::MarksKeepKeys) {
            served.extend(self.vanished.keys());
            served.sort_unstable();
        }
        if !checked.may_plan() {
            // While the clock is in doubt nothing is dropped, except what was revoked.
            let kept = self.served.iter().filter(|&&kid| !database.is_revoked(kid));
            served.extend(kept.copied());
            served.sort_unstable();
            served.dedup();
        }
        let revoked = keys.iter().filter(|key| key.revoked_at.is_some());
        self.ledger.extend(revoked.map(|key| number(&key.kid)));
        if without != Without::KnownRevocationsStay {
            served.retain(|kid| without == Without::RevokedLeaves || !self.ledger.contains(kid));
        }
        self.served = served;
        self.aliases = aliases(&keys, &self.policy, keys_at, without);
        if without != Without::VanishedImportsStay {
            let vanished = self.vanished_aliases.iter();
            self.aliases.extend(vanished.map(|key| key.jwk.clone()));
        }
        self.standby = None;
        self.snapshot = Some(Snapshot {
            keys,
            version: database.version,
            loaded: self.reading(at),
            loaded_at: at,
        });
    }

    /// What the rows of before have and these lack, and what vanished before and has not come back.
    fn notice_what_vanished(&mut self, keys: &Keys, now: UnixTime) {
        if let Some(before) = &self.snapshot {
            // Another node whose clock is ahead may have purged a row that expires within S.
            let purged = now + self.skew();
            let signing = before.keys.published(&self.policy, now).map(|(key, _)| {
                let as_if_superseded = now + self.policy.verify_window(key.max_token_ttl);
                let until = before.keys.expires_at(key, &self.policy).unwrap_or(as_if_superseded);
                (number(&key.kid), until)
            });
            let gone = signing.filter(|(_, until)| *until > purged);
            for (kid, until) in gone {
                self.vanished.entry(kid).or_insert(until);
            }
            let verifying = before.keys.verifying().iter();
            let gone = verifying.filter(|key| key.revoked_at.is_none() && key.leaves_at(&self.policy) > purged);
            for key in gone {
                if self.vanished_aliases.iter().all(|known| known.jwk.kid != key.jwk.kid) {
                    self.vanished_aliases.push(key.clone());
                }
            }
        }
        self.vanished
            .retain(|kid, until| *until > now && keys.jwks().all(|(jwk, _)| numbered(&jwk.kid) != Some(*kid)));
        self.vanished_aliases.retain(|key| {
            let is_back = keys.jwks().any(|(jwk, _)| jwk.kid == key.jwk.kid);
            key.leaves_at(&self.policy) > now && !is_back && !keys.revokes(&key.jwk)
        });
    }

    /// Another look at the clock, which leaves the record alone.
    pub fn look(&self, database: &Database, at: i64, without: Without) -> Option<TrustedTime> {
        let previous = self.trusted?;
        Some(self.checked(Some(previous), previous.record(), database, at, without))
    }

    fn checked(
        &self,
        previous: Option<TrustedTime>,
        mut record: ClockRecord,
        database: &Database,
        at: i64,
        without: Without,
    ) -> TrustedTime {
        let reading = self.reading(at);
        let reference = if database.is_shared {
            Reference::Database(database.clock(at))
        } else {
            Reference::Monotonic
        };
        let trusts_the_wall = self.trusts_the_wall(without);
        let previous = previous.filter(|_| !trusts_the_wall);
        if trusts_the_wall || (without == Without::StartsAreCompared && previous.is_none()) {
            record = ClockRecord::default();
        }
        TrustedTime::check(previous.as_ref(), record, reading, reference, self.skew())
    }

    /// Until when denials are forgotten; none while nothing may be forgotten.
    pub fn forgets_until(&self, at: i64, without: Without) -> Option<UnixTime> {
        if without == Without::DoubtStopsForgetting {
            return Some(self.reading(at).wall);
        }
        let keeps = |now: UnixTime| {
            let snapshot = self.snapshot.as_ref();
            snapshot.is_some_and(|snapshot| snapshot.keys.is_keeping(&self.policy, now))
        };
        self.keys_at(at, without)
            .filter(|&now| self.may_plan(without) && (without == Without::LeapsKeepDenials || !keeps(now)))
    }

    /// Whether the clock is behind what was reached.
    pub fn is_behind(&self) -> bool {
        self.trusted
            .is_some_and(|trusted| matches!(trusted.doubt(), Some(Doubt::Behind(_))))
    }

    /// What a node does that takes the answers of a standby for a look: the rows are old, and the snapshot counts as new.
    pub fn load_from_standby(&mut self, at: i64, without: Without) {
        let (Some((keys, version)), Some(now)) = (&self.standby, self.keys_at(at, without)) else {
            return;
        };
        self.served = published(keys, &self.policy, now, without);
        self.snapshot = Some(Snapshot {
            keys: Rc::clone(keys),
            version: *version,
            loaded: self.reading(at),
            loaded_at: at,
        });
    }

    /// What a node does that breaks the rule to publish what it has while it cannot load.
    pub fn rebuild_without_loading(&mut self, at: i64, without: Without) {
        if let (Some(snapshot), Some(now)) = (&self.snapshot, self.keys_at(at, without)) {
            let current = published(&snapshot.keys, &self.policy, now, without);
            self.served.retain(|kid| current.contains(kid));
        }
    }

    /// The age of the snapshot, by the larger of wall and monotonic time. The wall is taken as it reads, believed or not:
    /// after a suspension it alone knows how long the machine slept.
    pub fn snapshot_age(&self, at: i64) -> Option<Seconds> {
        let loaded = self.snapshot.as_ref()?.loaded;
        let reading = self.reading(at);
        let monotonic = reading.monotonic.saturating_sub(loaded.monotonic);
        let by_monotonic = Seconds(i64::try_from(monotonic.as_millis().div_ceil(1000)).expect("small"));
        Some(by_monotonic.max(reading.wall - loaded.wall))
    }

    /// Whether a balancer sends verifiers here: the snapshot is not so old that a key it lacks may sign already.
    pub fn is_ready(&self, at: i64, without: Without) -> bool {
        let Some(snapshot) = &self.snapshot else {
            return false;
        };
        if without == Without::Readiness {
            return true;
        }
        if self.served.is_empty() {
            return false;
        }
        let newest = Algorithm::ALL
            .into_iter()
            .filter_map(|alg| snapshot.keys.line(alg).last());
        let trusted = newest
            .map(|key| key.prepublish)
            .chain([self.policy.windows().prepublish])
            .min();
        let windows = self.policy.windows();
        let mut limit = trusted.unwrap_or(Seconds::ZERO) - windows.verifier_cache - windows.clock_skew;
        if without != Without::CommitShareInReadiness {
            limit = limit - self.policy.commit_share();
        }
        self.snapshot_age(at).is_some_and(|age| age <= limit)
    }

    /// Signs a token of the longest lifetime, if the three questions are answered well.
    pub fn sign(&self, alg: Algorithm, at: i64, without: Without) -> Option<Signature> {
        let now = self.now(at, without)?;
        let doubts = !self.trusted.is_some_and(|trusted| trusted.may_sign());
        if doubts && !matches!(without, Without::DoubtStopsSigning | Without::DoubtStopsPlanning) {
            return None;
        }
        let now = if without == Without::DoubtStopsSigning {
            self.reading(at).wall
        } else {
            now
        };
        let young = self.snapshot_age(at)? < self.policy.windows().snapshot_max_age;
        if !young && without != Without::SnapshotAge {
            return None;
        }
        let snapshot = self.snapshot.as_ref()?;
        let keys_at = match without {
            Without::DoubtStopsSigning => now,
            _ => self.keys_at(at, without)?,
        };
        let key = active(&snapshot.keys, alg, keys_at, without)?;
        if self.ledger.contains(&number(&key.kid)) && without != Without::KnownRevocationsStay {
            return None;
        }
        let wanted = self.policy.windows().max_token_ttl;
        let allowed = if without == Without::RowLimitsLifetime {
            wanted
        } else {
            key.max_token_ttl
        };
        Some(Signature {
            key: key.clone(),
            issued_at: now,
            keys_at,
            lifetime: wanted.min(allowed),
            version: snapshot.version,
        })
    }
}

/// The key that signs.
pub fn active(keys: &Keys, alg: Algorithm, now: UnixTime, without: Without) -> Option<&SigningKey> {
    let found = keys.active(alg, now);
    match without {
        Without::FirstKeyWaits => found.or_else(|| {
            let line = keys.line(alg);
            line.iter().find(|key| key.has_private_half && key.generation == 1)
        }),
        Without::SigningAtOnceOnSlowNodes => found.filter(|key| key.activates_at <= now),
        _ => found,
    }
}

/// What is published to verify with alone.
fn aliases(keys: &Keys, policy: &Policy, now: UnixTime, without: Without) -> Vec<PublicJwk> {
    let published = keys
        .verifying()
        .iter()
        .filter(|key| key.state(policy, now).is_published());
    published
        // The second net, for rows that an older version left; without it the transaction alone decides.
        .filter(|key| without == Without::AliasesGoTogether || !keys.revokes(&key.jwk))
        .map(|key| key.jwk.clone())
        .collect()
}

/// The numbers of the published kids, sorted.
fn published(keys: &Keys, policy: &Policy, now: UnixTime, without: Without) -> Vec<u32> {
    let windows = policy.windows();
    let short_by = match without {
        Without::SnapshotAgeInWindow => windows.snapshot_max_age,
        Without::TokenLifetimeInWindow => windows.max_token_ttl,
        Without::LeewayInWindow => windows.verifier_leeway,
        Without::SkewInWindow => windows.clock_skew,
        _ => Seconds::ZERO,
    };
    let left = |key: &SigningKey| {
        let expires_at = keys.expires_at(key, policy);
        expires_at.is_some_and(|expires_at| expires_at - short_by <= now)
    };
    let mut numbers: Vec<u32> = keys
        .published(policy, now)
        .filter(|(key, state)| short_by == Seconds::ZERO || *state != State::Retired || !left(key))
        .map(|(key, _)| number(&key.kid))
        .collect();
    if without == Without::RevokedLeaves {
        numbers.extend(
            keys.iter()
                .filter(|key| key.revoked_at.is_some())
                .map(|key| number(&key.kid)),
        );
    }
    numbers.sort_unstable();
    numbers
}
