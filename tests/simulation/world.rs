//! The world: true time, one database, nodes, and all verifiers at once. It moves in small steps and watches the invariants.

use std::rc::Rc;

use keyround::clock::{Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::Kid;
use keyround::keys::SigningKey;
use keyround::keys::emergency::{self, Response};
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::{self, NewGeneration, Step};
use keyround::keys::policy::Policy;
use keyround::keys::trusted_time::{self, ClockRecord};

use crate::invariants::{Figures, Violation, Watch};
use crate::node::{InFlight, Life, Node};
use crate::random::Random;
use crate::sabotage::Without;
use crate::store::{Database, number};

/// When every schedule begins, in milliseconds of true time.
pub const START: i64 = 1_800_000_000_000;

/// What a standby has that will be promoted.
pub struct Loss {
    pub at: i64,
    pub keys: Rc<Keys>,
    pub record: ClockRecord,
}

pub struct World {
    pub random: Random,
    /// True time, in milliseconds.
    pub at: i64,
    pub database: Database,
    pub nodes: Vec<Node>,
    /// When the database fails over to a standby that lacks the last seconds, and what it has.
    pub loses: Option<Loss>,
    pub without: Without,
    /// Where the nodes' clocks lie while all is well: milliseconds ahead of true time.
    pub band: (i64, i64),
    /// When the clock that all machines share is right again.
    pub common_right_at: Option<i64>,
    /// A node takes up a new configuration once in so many steps.
    pub roll_out_pace: i64,
    pub watch: Watch,
    pub trace: Option<Vec<String>>,
    /// The first violation ends a schedule.
    pub violation: Option<Violation>,
}

impl World {
    pub fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = format!("{:>9.3} {}", Self::since_start(self.at), what(self));
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    fn since_start(at: i64) -> f64 {
        (at - START) as f64 / 1000.0
    }

    pub fn fail(&mut self, violation: Option<Violation>) {
        if self.violation.is_none() {
            self.violation = violation;
        }
    }

    pub fn figures(&self) -> &Figures {
        &self.watch.figures
    }

    /// One step of time: what was served until now, what each node does now, what is served from now on.
    pub fn step(&mut self, milliseconds: i64) {
        self.at += milliseconds;
        self.settle();
        self.fail_over();
        self.observe();
        let first = self.random.index(self.nodes.len());
        for turn in 0..self.nodes.len() {
            self.run_node((first + turn) % self.nodes.len());
        }
        self.sign();
        self.observe();
        self.check();
    }

    fn observe(&mut self) {
        let found = self.watch.observe(&self.nodes, &self.database, self.at, self.without);
        self.fail(found);
    }

    fn check(&mut self) {
        let found = self.watch.check(&self.nodes, &self.database, self.at, self.without);
        self.fail(found);
    }

    /// The database loses its last seconds, whatever was written in them.
    fn fail_over(&mut self) {
        let due = self.loses.take_if(|loss| loss.at <= self.at);
        let Some(Loss { keys, record, .. }) = due else { return };
        // A first start that is lost leaves nothing. Clocks that are wrong beside it are two faults at once.
        let is_same_time = self.database.record.stepped == record.stepped && self.clocks_are_right();
        if keys.is_empty() || !is_same_time {
            return;
        }
        self.note(|_| "the database loses its last seconds".to_owned());
        self.watch.lost(&self.nodes, &self.database, &keys, self.at);
        self.database.set_back(&keys);
        // No transaction outlives its server.
        for node in &mut self.nodes {
            node.in_flight.clear();
            node.planned_version = None;
            // What was done is to be done again.
            node.able_since = None;
        }
    }

    /// Whether no clock is wrong, and none was a moment ago.
    pub fn clocks_are_right(&self) -> bool {
        let right =
            |node: &Node| node.clock_right_at.is_none() && node.trusted.is_none_or(|trusted| trusted.may_plan());
        let record = &self.database.record;
        self.common_right_at.is_none() && record.doubted.is_none() && self.nodes.iter().all(right)
    }

    /// A node that learnt of a revocation writes it again when the database has lost it.
    fn revoke_again(&mut self, index: usize) {
        if self.without == Without::KnownRevocationsStay {
            return;
        }
        let ledger = &self.nodes[index].ledger;
        let lost = self
            .database
            .keys
            .iter()
            .find(|key| key.revoked_at.is_none() && ledger.contains(&number(&key.kid)));
        if let Some(kid) = lost.map(|key| key.kid.clone()) {
            self.revoke(index, &kid);
            let (at, without) = (self.at, self.without);
            self.nodes[index].load(&mut self.database, at, without);
        }
    }

    /// What ends by itself: pauses, restarts, wrong clocks.
    fn settle(&mut self) {
        if self.common_right_at.is_some_and(|right_at| right_at <= self.at) {
            self.set_common_clock(0, None);
        }
        if self.common_right_at.is_some() {
            self.watch.unhealthy(self.at);
        }
        self.confirm_by_hand();
        for node in &mut self.nodes {
            if node.clock_right_at.is_some_and(|right_at| right_at <= self.at) {
                node.clock_right_at = None;
                node.offset = self.random.between(self.band.0, self.band.1);
            }
            match node.life {
                Life::Paused(until) | Life::Down(until) if until <= self.at => node.life = Life::Running,
                _ => {}
            }
            let restarts = node.life == Life::Running && self.random.once_in(self.roll_out_pace);
            if let Some(policy) = node.next_policy.take_if(|_| restarts) {
                self.watch.saw_policy(&policy);
                node.policy = policy;
                node.forget();
                // A person who restarts a node has looked at its clock.
                node.clock_right_at = None;
                node.offset = self.random.between(self.band.0, self.band.1);
                node.life = Life::Down(self.at + self.random.between(0, 3000));
            }
        }
    }

    /// Sets the clock that the database and all nodes share: milliseconds ahead of true time.
    pub fn set_common_clock(&mut self, off_by: i64, right_at: Option<i64>) {
        self.note(|_| format!("the clock of all machines is off by {off_by} ms"));
        self.common_right_at = right_at;
        self.database.off_by = off_by;
        for node in &mut self.nodes {
            node.common = off_by;
            node.able_since = None;
        }
    }

    /// Right clocks that are behind what a wrong clock had reached wait for a person.
    fn confirm_by_hand(&mut self) {
        let right = |node: &Node| {
            node.is_running()
                && node.reaches(&self.database, self.at)
                && node.clock_right_at.is_none()
                && node.is_behind()
        };
        let waiting = self.common_right_at.is_none() && self.nodes.iter().all(right);
        if waiting && self.random.once_in(20) {
            self.confirm(0);
        }
    }

    /// Confirms the clock of this node.
    fn confirm(&mut self, index: usize) {
        let Some(trusted) = self.nodes[index].look(&self.database, self.at, self.without) else {
            return;
        };
        let settled = trusted.may_plan() || !trusted.may_sign();
        if settled || self.database.record.confirmed != trusted.record().confirmed {
            return;
        }
        let step = trusted.step(self.database.record, &self.database.keys, &self.nodes[index].policy);
        self.note(|_| format!("node {index}: the clock is confirmed: {step:?}"));
        self.watch.stepped(step, self.database.version + 1);
        self.database.step(step, self.without);
        // Whoever confirms looks again, and the others soon.
        for node in &mut self.nodes {
            node.next_load = self.at;
        }
    }

    fn confirm_steady_clock(&mut self, index: usize) {
        let node = &self.nodes[index];
        let patience = trusted_time::patience(&self.database.keys, &node.policy);
        let reading = node.reading(self.at);
        if node
            .trusted
            .is_some_and(|trusted| trusted.is_steady_for(reading, patience))
        {
            self.confirm(index);
        }
    }

    /// Denies a token that was signed now, and forgets denials of tokens that have expired.
    fn forget(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(forgets_until) = node.forgets_until(self.at, self.without) else {
            return;
        };
        let at = self.at;
        let early = self
            .database
            .denied
            .iter()
            .find(|(truly, row)| *row <= forgets_until && *truly > at);
        let found = early.map(|(truly, _)| Violation {
            invariant: "denied",
            what: format!(
                "a token was denied that lives for {} ms more, and is accepted again",
                truly - at
            ),
        });
        self.fail(found);
        self.database.denied.retain(|(_, row)| *row > forgets_until);
    }

    fn run_node(&mut self, index: usize) {
        let at = self.at;
        let node = &mut self.nodes[index];
        let reaches = node.reaches(&self.database, at);
        if !node.is_running() || !reaches {
            node.able_since = None;
            if node.is_running() && !node.in_flight.is_empty() {
                node.in_flight.clear();
                node.planned_version = None;
            }
            if node.is_running() && self.without == Without::LooksAreWrites && self.database.down_until <= at {
                node.load_from_standby(at, self.without);
            }
            if node.is_running() && self.without == Without::PublishingOutlivesSigning {
                node.rebuild_without_loading(at, self.without);
            }
            return;
        }
        if node.next_load <= at {
            let before = node.trusted.and_then(|trusted| trusted.doubt());
            node.load(&mut self.database, at, self.without);
            let (after, keys_at) = (
                node.trusted.and_then(|trusted| trusted.doubt()),
                node.keys_at(at, self.without),
            );
            if before.is_some() != after.is_some() {
                self.note(|_| format!("node {index} doubts {after:?}; its keys go by {keys_at:?}"));
            }
            let node = &mut self.nodes[index];
            let half_refresh = node.policy.windows().replica_refresh.0 * 500;
            node.next_load = at + self.random.between(half_refresh / 2, half_refresh);
            if node.may_plan(self.without) {
                self.plan(index);
            } else {
                self.confirm_steady_clock(index);
            }
            self.forget(index);
            let found = self.watch.loaded(&self.nodes[index], &self.database, at);
            self.fail(found);
            self.revoke_again(index);
        }
        if self.nodes[index].may_plan(self.without) {
            self.nodes[index].able_since.get_or_insert(at);
        } else {
            self.nodes[index].able_since = None;
        }
        while let Some(due) = self.nodes[index].in_flight.pop_front_if(|step| step.at <= at) {
            let done = self.apply(index, &due.step);
            let verdict = if done { "commits" } else { "is refused" };
            self.note(|_| format!("node {index} {verdict}: {:?}", due.step));
            if !done {
                self.nodes[index].planned_version = None;
            }
        }
    }

    fn plan(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (Some(now), Some(snapshot)) = (node.planning_time(self.at, self.without), &node.snapshot) else {
            return;
        };
        let unchanged = node.planned_version == Some(snapshot.version) && now < node.wake_at;
        if unchanged || !node.in_flight.is_empty() {
            return;
        }
        let plan = plan::plan(&snapshot.keys, &node.policy, now);
        let steps = sabotaged(plan.steps, &snapshot.keys, &node.policy, now, self.without);
        if !plan.too_large.is_empty() {
            self.watch.unhealthy(self.at);
        }
        node.planned_version = Some(snapshot.version);
        node.wake_at = plan.wake_at;
        let mut commit_at = self.at;
        let longest = self.watch.longest_commit();
        commit_at += match self.random.between(0, 9) {
            0..=5 => 0,
            6 | 7 => self.random.between(0, longest / 4),
            _ => self.random.between(longest / 4, longest),
        };
        for step in steps {
            commit_at += self.random.between(0, 1) * 10;
            node.in_flight.push_back(InFlight { at: commit_at, step });
        }
    }

    /// One transaction: re-reads the rows, decides again, writes. False when it is refused.
    fn apply(&mut self, index: usize, step: &Step) -> bool {
        let node = &self.nodes[index];
        let (Some(now), policy) = (node.planning_time(self.at, self.without), node.policy.clone()) else {
            return false;
        };
        match step {
            Step::FirstStart(generations) => {
                if !self.database.keys.is_empty() && self.without != Without::FirstStartGuard {
                    return false;
                }
                for new in generations {
                    let found = self.watch.first_started(new.alg);
                    self.fail(found);
                    self.insert(new, false, &policy, true);
                }
                true
            }
            Step::Insert(new) => {
                let room = plan::has_room(&self.database.keys, &policy, new.alg, now);
                let blind = matches!(self.without, Without::Room | Without::RoomRechecked);
                if !self.may_insert(index, new, now) || !(room || blind) {
                    return false;
                }
                let found = self.watch.inserted(&self.database.keys, new, self.without);
                self.fail(found);
                self.insert(new, false, &policy, false);
                let found = self.watch.fits(&self.database.keys, &policy, now);
                self.fail(found);
                true
            }
            Step::RaiseMaxTokenTtl { .. } | Step::DestroyPrivateHalf { .. } | Step::Purge { .. } => {
                let again = plan::plan(&self.database.keys, &policy, now).steps;
                let again = sabotaged(again, &self.database.keys, &policy, now, self.without);
                let may = again.contains(step);
                if may {
                    self.change_row(step);
                }
                may
            }
        }
    }

    fn change_row(&mut self, step: &Step) {
        match step {
            Step::RaiseMaxTokenTtl { kid, to } => self.database.change_row(kid, |row| row.max_token_ttl = *to),
            Step::DestroyPrivateHalf { kid } => {
                let found = self.watch.destroying(&self.database, kid);
                self.fail(found);
                self.database.change_row(kid, |row| row.has_private_half = false);
            }
            Step::Purge { kid } if self.database.keys.find_verifying(kid).is_some() => {
                self.database
                    .change_verifying(|rows| rows.retain(|row| row.jwk.kid != *kid));
            }
            Step::Purge { kid } => {
                let found = self.watch.purging(&self.database, kid);
                self.fail(found);
                self.database.change(|rows| rows.retain(|row| row.kid != *kid));
            }
            _ => {}
        }
    }

    /// The guard of an INSERT: the generation is free, and the commit is not late by the database's clock.
    fn may_insert(&self, index: usize, new: &NewGeneration, now: UnixTime) -> bool {
        let node = &self.nodes[index];
        let skew = node.policy.windows().clock_skew;
        // Beside a file the guard has only the machine's clock. The later of its hands counts: a machine that slept between
        // plan and commit shows it on the wall.
        let wall = node.reading(self.at).wall;
        let clock = if self.database.is_shared {
            self.database.clock(self.at).max(now)
        } else {
            now.max(wall)
        };
        let slack = match self.without {
            Without::CommitGuard => Seconds(i64::MAX / 8),
            Without::TightCommitGuard => skew,
            _ => Seconds(skew.0 / 2),
        };
        // The store decides again under its lock, so a row that was planned for another line is not written.
        let newest = self.database.keys.line(new.alg).last();
        let follows = newest.is_none_or(|newest| new.generation <= newest.generation + 1);
        let free = follows && !self.database.has_generation(new.alg, new.generation)
            || self.without == Without::UniqueGeneration;
        free && clock <= new.published_at + node.policy.commit_share() + slack
    }

    fn insert(&mut self, new: &NewGeneration, keyless: bool, policy: &Policy, at_once: bool) {
        let kid = self.database.insert(new, keyless);
        self.watch.committed(kid, at_once, policy, self.at);
    }

    /// What `keys rotate` does on this node.
    pub fn rotate_early(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(now) = self.has_good_time(index) else { return };
        if self.database.keys.is_empty() {
            return;
        }
        let algorithms = plan::continued(&self.database.keys, &node.policy);
        let alg = algorithms[self.random.index(algorithms.len())];
        if self.database.keys.removal(alg).is_some() {
            return;
        }
        let policy = node.policy.clone();
        let new = plan::rotate_early(&self.database.keys, &policy, alg, now);
        let room = plan::has_room(&self.database.keys, &policy, alg, now);
        if room && self.may_insert(index, &new, now) {
            self.note(|_| format!("node {index} rotates early: {new:?}"));
            self.insert(&new, false, &policy, false);
            let found = self.watch.fits(&self.database.keys, &policy, now);
            self.fail(found);
        }
    }

    fn has_good_time(&self, index: usize) -> Option<UnixTime> {
        let node = &self.nodes[index];
        let good = node.is_running() && node.reaches(&self.database, self.at) && node.may_plan(Without::Nothing);
        node.keys_at(self.at, self.without).filter(|_| good)
    }

    /// What `keys revoke` does on this node: one transaction.
    pub fn revoke(&mut self, index: usize, kid: &Kid) {
        let Some(now) = self.has_good_time(index) else { return };
        let policy = self.nodes[index].policy.clone();
        let Ok(Response::Revoke(mut revocation)) = emergency::revoke(&self.database.keys, &policy, kid, now) else {
            return;
        };
        let material = emergency::find_material(&self.database.keys, kid).cloned();
        if self.without == Without::AliasesGoTogether {
            let keys = self.database.keys.clone();
            revocation
                .revoke
                .retain(|other| other == kid || keys.find_verifying(other).is_none());
        }
        let signed = revocation.replacement.is_some();
        match self.without {
            Without::EmergencyRevokesPending => revocation.revoke.retain(|other| other == kid),
            Without::EmergencyDestroysHalves => revocation.destroy.clear(),
            Without::EmergencyReplacement => revocation.replacement = None,
            _ => {}
        }
        let taken = revocation.replacement.as_ref();
        if taken.is_some_and(|new| self.database.has_generation(new.alg, new.generation)) {
            return;
        }
        self.note(|_| format!("node {index} revokes: {revocation:?}"));
        self.watch.figures.emergencies += 1;
        self.watch.unhealthy(self.at);
        if signed {
            self.watch.distrust(&self.database, revocation.alg);
        }
        self.database.change(|rows| {
            for row in rows.iter_mut() {
                if revocation.revoke.contains(&row.kid) && row.revoked_at.is_none() {
                    row.revoked_at = Some(now);
                    row.has_private_half = false;
                }
                if revocation.destroy.contains(&row.kid) {
                    row.has_private_half = false;
                }
            }
            rows.retain(|row| revocation.ends_removal.as_ref() != Some(&row.kid));
        });
        self.database.change_verifying(|rows| {
            for row in rows.iter_mut().filter(|row| revocation.revoke.contains(&row.jwk.kid)) {
                row.revoked_at.get_or_insert(now);
            }
        });
        if let Some(jwk) = material {
            self.watch.revoked_material(jwk);
        }
        if let Some(mut new) = revocation.replacement {
            backdated(&mut new, self.without);
            if self.without == Without::EmergencySignsAtOnce {
                new.activates_at = now + new.prepublish;
            }
            self.insert(&new, false, &policy, true);
        }
        self.watch.distrusted_from(self.database.version);
        let found = self.watch.after_emergency(&self.database);
        self.fail(found);
    }

    /// What `keys remove-algorithm` does on this node: only what every node leaves out is removed.
    pub fn remove_algorithm(&mut self, index: usize) {
        let Some(now) = self.has_good_time(index) else { return };
        let policy = self.nodes[index].policy.clone();
        let keys = self.database.keys.clone();
        let agreed = self
            .nodes
            .iter()
            .all(|node| node.policy == policy && node.next_policy.is_none());
        let left_out = plan::left_out(&keys, &policy);
        let Some(&alg) = left_out.first().filter(|_| agreed) else {
            return;
        };
        let mut new = plan::removal(&keys, &policy, alg, now);
        if self.without == Without::RemovalLead {
            new.activates_at = new.published_at;
        }
        if self.may_insert(index, &new, now) {
            self.note(|_| format!("node {index} removes {alg}: {new:?}"));
            self.insert(&new, true, &policy, false);
            let found = self.watch.announced(&new);
            self.fail(found);
        }
    }

    /// What `keys keep-algorithm` does on this node.
    pub fn keep_algorithm(&mut self, index: usize) {
        let Some(now) = self.has_good_time(index) else { return };
        let policy = self.nodes[index].policy.clone();
        let keys = self.database.keys.clone();
        for alg in Algorithm::ALL {
            let Some((removal, last)) = keys.last_removal(alg) else {
                continue;
            };
            let in_force = removal.activates_at <= now;
            let added_again = in_force && keys.active(alg, now).is_some();
            let in_time = |last: &SigningKey| plan::may_sign_again(&keys, &policy, last, now);
            // Without the rule only what comes too late is taken back, or most schedules would take it back in time.
            let late = self.without == Without::TakenBackInTime;
            let Some(last) = last.filter(|last| !added_again && late != in_time(last)) else {
                continue;
            };
            self.note(|_| format!("node {index} keeps {alg}, whose key {} signs", last.kid));
            self.database.change(|rows| {
                rows.retain(|row| row.kid != removal.kid);
                // A node that does not ask whether the half is there finds one in an old backup.
                if late && let Some(row) = rows.iter_mut().find(|row| row.kid == last.kid) {
                    row.has_private_half = true;
                }
            });
            self.watch.unhealthy(self.at);
        }
    }

    /// What `keys import --verify-only` does with a public half that is here under another kid.
    pub fn import_alias(&mut self, index: usize) {
        let Some(now) = self.has_good_time(index) else { return };
        let policy = self.nodes[index].policy.clone();
        let keys = self.database.keys.clone();
        let fitting: Vec<&SigningKey> = keys
            .published(&policy, now)
            .map(|(key, _)| key)
            .filter(|key| {
                let bytes = key.jwk.as_ref().map_or(0, |jwk| jwk.to_json().len());
                plan::has_room_for_verifying(&keys, &policy, bytes, now)
            })
            .collect();
        if fitting.is_empty() || keys.verifying().len() > 3 {
            return;
        }
        let of = fitting[self.random.index(fitting.len())].kid.clone();
        self.note(|_| format!("node {index} imports an alias of {of}"));
        self.database
            .import_alias(&of, now, now + policy.windows().max_token_ttl * 4);
    }

    fn sign(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if !node.is_running() || self.random.once_in(3) {
                continue;
            }
            for alg in node.policy.algorithms().to_vec() {
                if let Some(signature) = self.nodes[index].sign(alg, self.at, self.without) {
                    if self.random.once_in(10) {
                        let lifetime = signature.lifetime;
                        let truly = self.at.min(signature.issued_at.0 * 1000) + lifetime.0 * 1000 - self.band.1;
                        // The row says what the token says, and leaves room for clocks that differ.
                        let row = signature.issued_at + lifetime + self.nodes[index].policy.windows().clock_skew;
                        self.database.denied.push((truly, row));
                    }
                    let found = self.watch.signed(&signature, &self.database, self.at, self.band.1);
                    if self.violation.is_none() {
                        self.violation = found;
                    }
                    if self.trace.is_some() && self.violation.is_some() {
                        let kid = number(&signature.key.kid);
                        self.note(|_| format!("node {index} signs with {kid} at its {}", signature.issued_at));
                    }
                }
            }
        }
    }
}

/// Changes the activation of keys that sign at once, when their back-dating is taken out.
fn backdated(new: &mut NewGeneration, without: Without) {
    if matches!(without, Without::BackDating | Without::SigningAtOnceOnSlowNodes) {
        new.activates_at = new.published_at;
    }
}

/// The steps as a node takes them that lacks a rule.
fn sabotaged(
    steps: Vec<Step>,
    keys: &keyround::keys::lifecycle::Keys,
    policy: &Policy,
    now: UnixTime,
    without: Without,
) -> Vec<Step> {
    crate::saboteur::steps(steps, keys, policy, now, without, backdated)
}
