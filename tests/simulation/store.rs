//! The one database: rows that change only in guarded transactions, as the real store changes them.

use std::rc::Rc;

use keyround::clock::{Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::{KeyParameters, Kid, PublicJwk};
use keyround::keys::SigningKey;
use keyround::keys::kept::Kept;
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::NewGeneration;
use keyround::keys::policy::Policy;
use keyround::keys::trusted_time::{ClockRecord, ClockStep};
use keyround::keys::verifying::VerifyingKey;

use crate::sabotage::Without;

pub struct Database {
    pub keys: Rc<Keys>,
    pub version: u64,
    pub down_until: i64,
    /// One server that all nodes share and whose clock they read, or a file beside a single node.
    pub is_shared: bool,
    /// How far its clock is ahead of true time, in milliseconds.
    pub off_by: i64,
    pub record: ClockRecord,
    kept: Option<Kept>,
    /// Tokens that were denied: when they truly expire, in milliseconds, and until when the row says that they are denied.
    pub denied: Vec<(i64, UnixTime)>,
    next_kid: u32,
    revoked: Vec<u32>,
}

impl Database {
    pub fn new(is_shared: bool) -> Self {
        Self {
            keys: Rc::default(),
            version: 0,
            down_until: 0,
            is_shared,
            off_by: 0,
            record: ClockRecord::default(),
            kept: None,
            denied: Vec::new(),
            next_kid: 1,
            revoked: Vec::new(),
        }
    }

    /// Writes, and gives the rows a new version.
    pub fn change(&mut self, change: impl FnOnce(&mut Vec<SigningKey>)) {
        let mut rows: Vec<SigningKey> = self.keys.iter().cloned().collect();
        change(&mut rows);
        let verifying = self.keys.verifying().to_vec();
        self.replace(rows, verifying);
    }

    /// The same for the keys that only verify.
    pub fn change_verifying(&mut self, change: impl FnOnce(&mut Vec<VerifyingKey>)) {
        let rows = self.keys.iter().cloned().collect();
        let mut verifying = self.keys.verifying().to_vec();
        change(&mut verifying);
        self.replace(rows, verifying);
    }

    /// The rows of before, and no clock of before: it never goes back.
    pub fn set_back(&mut self, before: &Keys) {
        let rows: Vec<SigningKey> = before.iter().cloned().collect();
        self.replace(rows, before.verifying().to_vec());
    }

    fn replace(&mut self, rows: Vec<SigningKey>, verifying: Vec<VerifyingKey>) {
        let revoked = rows.iter().filter(|row| row.revoked_at.is_some());
        self.revoked = revoked.map(|row| number(&row.kid)).collect();
        self.keys = Rc::new(Keys::new(rows).with_verifying(verifying).with_kept(self.kept));
        self.version += 1;
    }

    pub fn change_row(&mut self, kid: &Kid, change: impl FnOnce(&mut SigningKey)) {
        self.change(|rows| {
            if let Some(row) = rows.iter_mut().find(|row| row.kid == *kid) {
                change(row);
            }
        });
    }

    /// Inserts a generation under a kid of its own, which it answers.
    pub fn insert(&mut self, new: &NewGeneration, keyless: bool) -> u32 {
        let number = self.next_kid;
        self.next_kid += 1;
        let row = row(new, number, keyless);
        self.change(|rows| rows.push(row));
        number
    }

    /// Takes the public half of a key in under a kid of its own, to verify with, as when keys move in.
    pub fn import_alias(&mut self, of: &Kid, at: UnixTime, until: UnixTime) {
        let kid: Kid = format!("alias-{}", self.next_kid).parse().expect("a kid");
        self.next_kid += 1;
        let Some(mut jwk) = self.keys.find(of).and_then(|key| key.jwk.clone()) else {
            return;
        };
        jwk.kid = kid;
        self.change_verifying(|rows| {
            rows.push(VerifyingKey {
                jwk,
                published_at: at,
                expires_at: until,
                revoked_at: None,
            });
        });
    }

    pub fn has_generation(&self, alg: Algorithm, generation: i64) -> bool {
        self.keys.line(alg).iter().any(|key| key.generation == generation)
    }

    pub fn is_revoked(&self, kid: u32) -> bool {
        self.revoked.contains(&kid)
    }

    /// A node writes down how far time has come. One that is sure ends the mark of one in doubt: its keys are kept from now on.
    pub fn write_record(&mut self, next: ClockRecord, policy: &Policy, without: Without) {
        let is_sure = next.doubted.is_none();
        if let Some(doubted) = self
            .record
            .doubted
            .filter(|_| is_sure && without != Without::LeapsKeepKeys)
        {
            self.keep(self.keys.keeping(policy, doubted, next.confirmed));
        }
        self.record = next;
    }

    fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
        self.keys = Rc::new(Keys::clone(&self.keys).with_kept(self.kept));
    }

    /// Its clock, right or wrong.
    pub fn clock(&self, at: i64) -> UnixTime {
        Self::time(at + self.off_by)
    }

    /// Confirms a step of the clock.
    pub fn step(&mut self, step: ClockStep, without: Without) {
        let is_counted = without != Without::StepsAreCounted;
        let length = Some(step.to - step.from).filter(|_| is_counted);
        let moves_keys = without != Without::StepsMoveKeys;
        self.record = ClockRecord {
            reached: Some(step.to),
            confirmed: step.to,
            doubted: None,
            stepped: self.record.stepped + length.unwrap_or(Seconds::ZERO),
            ..self.record
        };
        if without != Without::StepsKeepKeys {
            self.keep(step.kept);
        }
        self.change(|rows| {
            let moved = rows
                .iter_mut()
                .filter(|row| moves_keys && row.revoked_at.is_none() && row.activates_at > step.newer_than);
            for row in moved {
                row.published_at = row.published_at + (step.to - step.from);
                row.activates_at = row.activates_at + (step.to - step.from);
            }
        });
    }

    pub fn time(at: i64) -> UnixTime {
        UnixTime(at.div_euclid(1000))
    }
}

/// A row as the store makes it, with public parameters of the real length.
pub fn row(new: &NewGeneration, number: u32, keyless: bool) -> SigningKey {
    let kid: Kid = format!("{number:043}").parse().expect("digits");
    let parameters = match new.alg {
        Algorithm::Rs256 => KeyParameters::Rsa {
            n: format!("{number:n>342}"),
            e: "AQAB".to_owned(),
        },
        Algorithm::Es256 => KeyParameters::P256 {
            x: format!("{number:x>43}"),
            y: "y".repeat(43),
        },
    };
    SigningKey {
        kid: kid.clone(),
        alg: new.alg,
        generation: new.generation,
        jwk: (!keyless).then_some(PublicJwk {
            kid,
            alg: new.alg,
            parameters,
        }),
        published_at: new.published_at,
        activates_at: new.activates_at,
        prepublish: new.prepublish,
        max_token_ttl: new.max_token_ttl,
        revoked_at: None,
        has_private_half: !keyless,
    }
}

/// The same of a kid that may be an alias.
pub fn numbered(kid: &Kid) -> Option<u32> {
    kid.as_str().parse().ok()
}

/// The number that a kid was made of.
pub fn number(kid: &Kid) -> u32 {
    kid.as_str().parse().expect("made of a number")
}
