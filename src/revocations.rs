//! What is refused before its time: denied tokens and ended sessions, and how a node learns of new ones.
//!
//! A look at the database reads the names that changed since the last look. The rule for late commits: **a change is new as long as
//! the last look did not see its transaction.** PostgreSQL numbers transactions when they begin to write, and they commit in another
//! order, so a look keeps which numbers its snapshot saw: all below [`Position::Transactions`]' `next`, but those in progress. SQLite
//! has one writer, so there the number of the last change is enough.
//!
//! A position counts only for the history that it was read in. Each look leaves a random mark in its own row; the commit of the mark
//! comes after everything that the look read, so a database that lost any of that has lost the mark too, and the node reads everything
//! again. So does one that talks to another server process, whose numbers may be others, as those of a copy are.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use uuid::Uuid;

use crate::clock::{Seconds, UnixTime};
use crate::values::LONGEST_ACCESS_TOKEN;

/// The names are spread over so many maps: a change or a sweep of one does not hold up the readers of the others.
const SHARDS: usize = 64;

/// Which changes a look has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// All up to this number: commits come in its order.
    Sequence(i64),
    /// All of the transactions that a snapshot saw.
    Transactions {
        /// No transaction below it was in progress.
        oldest: i64,
        /// No transaction from it on had ended.
        next: i64,
        /// Those between the two that were in progress; a prepared transaction is one of them.
        in_progress: Vec<i64>,
    },
}

impl Position {
    /// Reads a snapshot as PostgreSQL writes it: `oldest:next:1,2,3`.
    #[must_use]
    pub fn parse(snapshot: &str) -> Option<Self> {
        let mut parts = snapshot.split(':');
        let oldest = parts.next()?.parse().ok()?;
        let next = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let numbers = list.split(',').filter(|number| !number.is_empty());
        let in_progress = numbers.map(|number| number.parse().ok()).collect::<Option<_>>()?;
        Some(Self::Transactions {
            oldest,
            next,
            in_progress,
        })
    }

    /// Whether a change of this number is to be read after this position.
    #[must_use]
    pub fn is_new(&self, number: i64) -> bool {
        match self {
            Self::Sequence(last) => number > *last,
            Self::Transactions { next, in_progress, .. } => number >= *next || in_progress.contains(&number),
        }
    }

    /// The least number that can be new after it.
    #[must_use]
    pub const fn horizon(&self) -> i64 {
        match self {
            Self::Sequence(last) => last.saturating_add(1),
            Self::Transactions { oldest, .. } => *oldest,
        }
    }
}

/// How far this node has read, and in which history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// What the look wrote.
    pub mark: String,
    /// When the server process started that answered; 0 for SQLite.
    pub server: i64,
    /// What it has read.
    pub position: Position,
}

impl Followed {
    /// Whether the next look may go on from here, by the mark that it found in this node's row and the server that answers.
    #[must_use]
    pub fn goes_on(&self, mark: Option<&str>, server: i64) -> bool {
        mark == Some(&*self.mark) && server == self.server
    }
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationKind {
    /// A token, by its `jti`.
    Token,
    /// A session, by its `sid`.
    Session,
}

/// For how long an end of sessions counts. Clocks differ by S, and it is compared by another clock than the one that wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Endings {
    /// S.
    pub skew: Seconds,
}

impl Endings {
    /// Until when a session is refused that ended then. No access token outlives its session.
    #[must_use]
    pub fn of_session(self, ended: UnixTime, expires: UnixTime) -> UnixTime {
        (ended + LONGEST_ACCESS_TOKEN).min(expires) + self.skew * 2
    }

    /// For how long an access token may live after its session ended.
    #[must_use]
    pub fn outlived_for(self) -> Seconds {
        LONGEST_ACCESS_TOKEN + self.skew * 2
    }
}

/// A name that changed, as the database has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationChange {
    /// What it names.
    pub kind: RevocationKind,
    /// The name.
    pub name: String,
    /// Until when it is refused; none if the database does not refuse it.
    pub until: Option<UnixTime>,
}

/// The times that a look goes by.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The time of the look.
    pub now: UnixTime,
    /// S, by which clocks may differ.
    pub skew: Seconds,
    /// The look began at this moment of the monotonic clock; what was committed before it, the look has seen.
    pub began: Duration,
}

impl Times {
    /// What is refused for longer than until here is missing if the database does not have it. Another node, whose clock is ahead, may
    /// have forgotten what is refused until an earlier time.
    fn forgotten_until(&self) -> UnixTime {
        self.now + self.skew
    }
}

/// Everything that is refused before its time. It is read at each verification.
#[derive(Default)]
pub struct Revocations {
    /// Denied tokens.
    pub tokens: Names<TokenForm>,
    /// Ended sessions.
    pub sessions: Names<SessionForm>,
    /// The pages that were read of everything.
    pages: AtomicUsize,
}

impl Revocations {
    /// Takes in what changed.
    pub fn apply(&self, changes: &[RevocationChange], times: &Times) {
        for RevocationChange { kind, name, until } in changes {
            match (kind, until) {
                (RevocationKind::Token, Some(until)) => self.tokens.learn(name, *until),
                (RevocationKind::Token, None) => self.tokens.miss(name, times),
                (RevocationKind::Session, Some(until)) => self.sessions.learn(name, *until),
                (RevocationKind::Session, None) => self.sessions.miss(name, times),
            }
        }
    }

    /// A page of everything was read.
    pub fn note_progress(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// How many pages were read of everything so far: a database that goes on answering has not gone silent.
    #[must_use]
    pub fn progress(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Begins to read everything: what is not learnt before [`Revocations::end_whole`] is not in the database.
    pub fn begin_whole(&self) {
        self.tokens.begin_whole();
        self.sessions.begin_whole();
    }

    /// Everything was read.
    pub fn end_whole(&self, times: &Times) {
        self.tokens.end_whole(times);
        self.sessions.end_whole(times);
    }

    /// What was committed here before the look began, the look has seen; otherwise the database has lost it.
    pub fn settle(&self, times: &Times) {
        self.tokens.settle(times);
        self.sessions.settle(times);
    }

    /// Forgets some of what no token can be accepted for any more; called again and again, it comes round to everything.
    pub fn forget_some(&self, reached: UnixTime) {
        self.tokens.forget_some(reached);
        self.sessions.forget_some(reached);
    }
}

/// How a name is kept in 16 octets, if it is one of ours.
pub trait PackedName {
    /// The 16 octets of a name that they give back exactly.
    fn pack(name: &str) -> Option<[u8; 16]>;
    /// The name of 16 octets.
    fn unpack(octets: &[u8; 16]) -> String;
}

/// A `jti` of ours: 128 random bits in base64url.
#[derive(Default)]
pub struct TokenForm;

impl PackedName for TokenForm {
    fn pack(name: &str) -> Option<[u8; 16]> {
        // The decoder wants room for whole groups of letters. It is strict about the last bits, so each value has one name.
        let mut octets = [0; 18];
        if name.len() != 22 || BASE64URL.decode_slice(name, &mut octets).ok()? != 16 {
            return None;
        }
        octets[..16].try_into().ok()
    }

    fn unpack(octets: &[u8; 16]) -> String {
        BASE64URL.encode(octets)
    }
}

/// A `sid`: a UUID in lower case.
#[derive(Default)]
pub struct SessionForm;

impl PackedName for SessionForm {
    fn pack(name: &str) -> Option<[u8; 16]> {
        let uuid = Uuid::try_parse(name).ok()?;
        let mut buffer = Uuid::encode_buffer();
        (uuid.hyphenated().encode_lower(&mut buffer) == name).then(|| uuid.into_bytes())
    }

    fn unpack(octets: &[u8; 16]) -> String {
        Uuid::from_bytes(*octets).to_string()
    }
}

/// Names that are refused, each until its time.
pub struct Names<F> {
    shards: Vec<RwLock<Shard>>,
    /// The next shard that is swept.
    swept: AtomicUsize,
    /// What was committed on this node and no look has seen yet, each with the moment.
    committed: Mutex<HashMap<Key, Duration>>,
    /// What this node knows and the database lacks.
    missing: Mutex<BTreeSet<Key>>,
    form: std::marker::PhantomData<F>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Packed([u8; 16]),
    Text(Box<str>),
}

#[derive(Clone, Copy)]
struct RevocationEntry {
    until: UnixTime,
    /// Whether the database has been seen to have it.
    is_stored: bool,
}

#[derive(Default)]
struct Shard {
    packed: HashMap<[u8; 16], RevocationEntry>,
    /// Names that others chose.
    texts: HashMap<Box<str>, RevocationEntry>,
}

impl Shard {
    fn get(&self, key: &Key) -> Option<&RevocationEntry> {
        match key {
            Key::Packed(octets) => self.packed.get(octets),
            Key::Text(text) => self.texts.get(text),
        }
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut RevocationEntry> {
        match key {
            Key::Packed(octets) => self.packed.get_mut(octets),
            Key::Text(text) => self.texts.get_mut(text),
        }
    }

    fn insert(&mut self, key: Key, entry: RevocationEntry) {
        match key {
            Key::Packed(octets) => self.packed.insert(octets, entry),
            Key::Text(text) => self.texts.insert(text, entry),
        };
    }

    fn retain(&mut self, mut keep: impl FnMut(&dyn Fn() -> Key, &mut RevocationEntry) -> bool) {
        self.packed
            .retain(|octets, entry| keep(&|| Key::Packed(*octets), entry));
        self.texts
            .retain(|text, entry| keep(&|| Key::Text(text.clone()), entry));
        // A burst must not keep its room after it was forgotten.
        if self.packed.capacity() > self.packed.len().saturating_mul(4).max(64) {
            self.packed.shrink_to_fit();
        }
    }
}

impl Key {
    fn shard(&self) -> usize {
        // The last octets of a UUIDv7 and of a `jti` are random.
        let octet = match self {
            Self::Packed(octets) => octets[15],
            Self::Text(text) => text.bytes().fold(0, u8::wrapping_add),
        };
        usize::from(octet) % SHARDS
    }

    fn name<F: PackedName>(&self) -> String {
        match self {
            Self::Packed(octets) => F::unpack(octets),
            Self::Text(text) => text.to_string(),
        }
    }
}

impl<F> Default for Names<F> {
    fn default() -> Self {
        Self {
            shards: std::iter::repeat_with(RwLock::default).take(SHARDS).collect(),
            swept: AtomicUsize::new(0),
            committed: Mutex::default(),
            missing: Mutex::default(),
            form: std::marker::PhantomData,
        }
    }
}

impl<F: PackedName> Names<F> {
    fn key(name: &str) -> Key {
        F::pack(name).map_or_else(|| Key::Text(name.into()), Key::Packed)
    }

    fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Shard) -> T) -> T {
        change(&mut self.shards[key.shard()].write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the name is refused. An entry stays until no token of its name is accepted, so its time need not be asked.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let key = Self::key(name);
        let shard = self.shards[key.shard()].read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&key).is_some()
    }

    /// How many names are refused.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = |shard: &RwLock<Shard>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.packed.len() + shard.texts.len()
        };
        self.shards.iter().map(count).sum()
    }

    /// Whether no name is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The database has this name.
    pub fn learn(&self, name: &str, until: UnixTime) {
        let key = Self::key(name);
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.change(&key.clone(), |shard| {
            shard.insert(key, RevocationEntry { until, is_stored: true });
        });
    }

    /// A name was committed on this node; a look that begins after this moment must find it in the database.
    pub fn commit(&self, name: &str, until: UnixTime, now: Duration) {
        let key = Self::key(name);
        // First: a look that ends in between must not take it for lost.
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        committed.insert(key.clone(), now);
        let is_stored = self.change(&key, |shard| {
            if let Some(entry) = shard.get_mut(&key) {
                entry.until = entry.until.max(until);
                return entry.is_stored;
            }
            let is_stored = false;
            shard.insert(key.clone(), RevocationEntry { until, is_stored });
            is_stored
        });
        if is_stored {
            committed.remove(&key);
        }
    }

    /// The database does not refuse this name any more; what this node knew stays refused until its time.
    fn miss(&self, name: &str, times: &Times) {
        let key = Self::key(name);
        let until = self.change(&key, |shard| {
            shard.get_mut(&key).map(|entry| {
                entry.is_stored = false;
                entry.until
            })
        });
        // After the name was found: a commit is noted before its name is. The next look decides.
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        if committed.get(&key).is_some_and(|at| *at >= times.began) {
            return;
        }
        drop(committed);
        if until.is_some_and(|until| until > times.forgotten_until()) {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        }
    }

    fn begin_whole(&self) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let Shard { packed, texts } = &mut *shard;
            for entry in packed.values_mut().chain(texts.values_mut()) {
                entry.is_stored = false;
            }
        }
    }

    fn end_whole(&self, times: &Times) {
        let unseen: BTreeSet<Key> = {
            let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
            let later = committed.iter().filter(|(_, at)| **at >= times.began);
            later.map(|(key, _)| key.clone()).collect()
        };
        let mut missing = BTreeSet::new();
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|key, entry| {
                if entry.is_stored {
                    return true;
                }
                if entry.until > times.forgotten_until() {
                    let key = key();
                    if !unseen.contains(&key) {
                        missing.insert(key);
                    }
                }
                entry.until > times.now
            });
        }
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    fn settle(&self, times: &Times) {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        committed.retain(|key, at| {
            if *at >= times.began {
                return true;
            }
            let shard = self.shards[key.shard()].read().unwrap_or_else(PoisonError::into_inner);
            if shard
                .get(key)
                .is_some_and(|entry| !entry.is_stored && entry.until > times.forgotten_until())
            {
                missing.insert(key.clone());
            }
            false
        });
    }

    /// At most so many of the names that the database lacks, each with the time until which it is refused.
    #[must_use]
    pub fn missing(&self, most: usize) -> Vec<(String, UnixTime)> {
        let keys: Vec<Key> = {
            let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.iter().take(most).cloned().collect()
        };
        let until = |key: &Key| {
            let shard = self.shards[key.shard()].read().unwrap_or_else(PoisonError::into_inner);
            shard.get(key).map(|entry| entry.until)
        };
        keys.iter()
            .filter_map(|key| Some((key.name::<F>(), until(key)?)))
            .collect()
    }

    /// How many names the database lacks.
    #[must_use]
    pub fn missing_count(&self) -> usize {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A name that was missing is in the database again.
    pub fn restored(&self, name: &str) {
        let key = Self::key(name);
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.change(&key, |shard| {
            if let Some(entry) = shard.get_mut(&key) {
                entry.is_stored = true;
            }
        });
    }

    fn forget_some(&self, reached: UnixTime) {
        let next = self.swept.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut gone = Vec::new();
        {
            let mut shard = self.shards[next].write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|key, entry| {
                let stays = entry.until > reached;
                if !stays && !entry.is_stored {
                    gone.push(key());
                }
                stays
            });
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        for key in gone {
            missing.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Seconds = Seconds(30);
    const ENDINGS: Endings = Endings { skew: S };
    const SID: &str = "019a2b3c-4d5e-7f60-8a9b-000000000001";

    fn times(now: i64, began: u64) -> Times {
        Times {
            now: UnixTime(now),
            skew: S,
            began: Duration::from_secs(began),
        }
    }

    #[test]
    fn a_session_whose_row_expired_is_not_missing() {
        let (ended, expires) = (UnixTime(990), UnixTime(1_000));
        let is_missing = |now: i64| {
            let revocations = Revocations::default();
            let until = ENDINGS.of_session(ended, expires);
            revocations.sessions.learn(SID, until);
            revocations.begin_whole();
            revocations.end_whole(&times(now, 1));
            revocations.sessions.missing_count() == 1
        };
        assert!(is_missing(1_029));
        // Another node, whose clock is ahead by S, forgets the row twice S after it expired.
        assert!(!is_missing(1_030));
        assert_eq!(
            ENDINGS.of_session(ended, UnixTime(9_000)),
            ended + ENDINGS.outlived_for()
        );
    }

    // It is neither there nor lost: its look began before it.
    #[test]
    fn what_is_committed_during_a_look_is_not_missing() {
        let revocations = Revocations::default();
        let sessions = &revocations.sessions;
        let gone = RevocationChange {
            kind: RevocationKind::Session,
            name: SID.to_owned(),
            until: None,
        };
        sessions.commit(SID, UnixTime(2_000), Duration::from_secs(5));
        let missing = |began| {
            revocations.apply(std::slice::from_ref(&gone), &times(1_000, began));
            revocations.settle(&times(1_000, began));
            (sessions.contains(SID), sessions.missing_count())
        };
        assert_eq!(missing(4), (true, 0));
        assert_eq!(missing(6), (true, 1));
    }
}
