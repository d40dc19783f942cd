//! What was revoked by name while tokens of it may still live: denied tokens and ended sessions.
//!
//! A node reads what is new since its last look, and forgets by time: an idle node does not feel how much there is. The database
//! numbers its revocations in the order of the commits ([`Position`]), so that what is new is all that follows. A database that was set
//! back does not know the node's position; then the node reads everything, keeps what it knew, and says what was lost.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::clock::{Seconds, UnixTime};

/// Between two times that a node looks for names to forget.
const FORGET_EVERY: Seconds = Seconds(60);

/// How far the revocations of a database were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The newest transaction, in the order of the commits.
    pub sequence: i64,
    /// Drawn at random by that transaction: another history of the database has another one.
    pub mark: i64,
}

/// One revocation as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A token, by its `jti`, until this time.
    Token(Name, UnixTime),
    /// A session, by its `sid`.
    Session(Name),
    /// A tenant was disabled or enabled.
    Tenant,
}

/// A `jti` or a `sid`: the ids that Keyround draws take 16 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A UUID in its one canonical spelling.
    Id(Uuid),
    /// Any other name, as those of tokens that another issuer signed.
    Other(Box<str>),
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        let mut canonical = [0; Hyphenated::LENGTH];
        match Uuid::try_parse(text) {
            Ok(id) if id.hyphenated().encode_lower(&mut canonical) == text => Self::Id(id),
            _ => Self::Other(text.into()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.hyphenated().fmt(f),
            Self::Other(name) => f.pad(name),
        }
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How far it read.
    pub position: Position,
    /// Whether it is everything, and not what follows the position that the node knew.
    pub is_whole: bool,
    /// In the order of the commits.
    pub revoked: Vec<Revoked>,
}

impl Reading {
    /// Nothing is new.
    #[must_use]
    pub const fn unchanged(position: Position) -> Self {
        Self {
            position,
            is_whole: false,
            revoked: Vec::new(),
        }
    }

    /// Whether rows that were read after this state of the database hold all that it counted; those of a standby may not.
    #[must_use]
    pub fn reaches(&self, state: Position) -> bool {
        self.position == state || self.position.sequence > state.sequence
    }
}

impl Position {
    /// Whether rows from its sequence on, of which this is the first, continue it: then they hold all that was committed after it.
    /// They do not in a database that was set back, or one that has forgotten so much.
    #[must_use]
    pub fn is_continued_by(self, first: Option<Self>) -> bool {
        first == Some(self)
    }
}

/// The times that a look goes by.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// What expired by now is no longer asked for.
    pub now: UnixTime,
    /// What expired by then may be forgotten by another node, whose clock is ahead.
    pub forgotten_elsewhere: UnixTime,
    /// No access token of a session that has ended by now lives longer.
    pub last_access_token: UnixTime,
    /// No token that is signed by now is accepted longer.
    pub last_token: UnixTime,
}

/// Names, each with the time until which it counts. A table for each kind takes less memory than one for both.
#[derive(Clone, Debug, Default)]
struct Names {
    ids: HashMap<Uuid, UnixTime>,
    others: HashMap<Box<str>, UnixTime>,
}

impl Names {
    fn until(&self, name: &Name) -> Option<UnixTime> {
        match name {
            Name::Id(id) => self.ids.get(id).copied(),
            Name::Other(name) => self.others.get(name).copied(),
        }
    }

    /// Adds it; the later time counts.
    fn insert(&mut self, name: &Name, until: UnixTime) {
        let known = match name {
            Name::Id(id) => self.ids.entry(*id).or_insert(until),
            Name::Other(name) => self.others.entry(name.clone()).or_insert(until),
        };
        *known = until.max(*known);
    }

    fn iter(&self) -> impl Iterator<Item = (Name, UnixTime)> + '_ {
        let ids = self.ids.iter().map(|(&id, &until)| (Name::Id(id), until));
        let others = self
            .others
            .iter()
            .map(|(name, &until)| (Name::Other(name.clone()), until));
        ids.chain(others)
    }

    fn forget(&mut self, now: UnixTime) {
        self.ids.retain(|_, until| *until > now);
        self.others.retain(|_, until| *until > now);
    }

    fn count(&self) -> usize {
        self.ids.len() + self.others.len()
    }
}

/// What a node knows to be revoked.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    position: Option<Position>,
    tokens: Names,
    sessions: Names,
    lost_tokens: HashMap<Name, UnixTime>,
    lost_sessions: HashMap<Name, UnixTime>,
    /// Sequences, each with the time from which no token is accepted that a session up to it could have.
    outlived: VecDeque<(UnixTime, i64)>,
    forgotten_at: Option<UnixTime>,
}

/// Names that were revoked on this node and committed before a look.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Denied tokens.
    pub tokens: Vec<Name>,
    /// Ended sessions.
    pub sessions: Vec<Name>,
}

/// What a database lacks although a node knew it, each name with the time until which it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Denied tokens, by `jti`.
    pub tokens: Vec<(Name, UnixTime)>,
    /// Ended sessions, by `sid`.
    pub sessions: Vec<(Name, UnixTime)>,
}

impl Revocations {
    /// How far the database was read; none before the first look.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether this token was denied. A name stays until nobody accepts its token, so its time need not be asked.
    #[must_use]
    pub fn is_denied(&self, jti: &str) -> bool {
        self.tokens.until(&jti.into()).is_some()
    }

    /// Whether this session has ended.
    #[must_use]
    pub fn has_ended(&self, sid: &str) -> bool {
        self.sessions.until(&sid.into()).is_some()
    }

    /// How many names are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tokens.count() + self.sessions.count()
    }

    /// Adds what a look found. What this node knew stays, and what it revoked itself and the database does not know is lost there.
    pub fn take(&mut self, reading: &Reading, committed: &Committed, times: Times) {
        let before = (reading.is_whole && self.position.is_some())
            .then(|| (std::mem::take(&mut self.tokens), std::mem::take(&mut self.sessions)));
        for revoked in &reading.revoked {
            match revoked {
                Revoked::Token(jti, until) => {
                    self.tokens.insert(jti, *until);
                    self.lost_tokens.remove(jti);
                }
                Revoked::Session(sid) => {
                    // One that this node knew stays for no longer than it had to.
                    let known = before.as_ref().and_then(|(_, sessions)| sessions.until(sid));
                    self.sessions.insert(sid, known.unwrap_or(times.last_access_token));
                    self.lost_sessions.remove(sid);
                }
                Revoked::Tenant => {}
            }
        }
        if let Some((tokens, sessions)) = before {
            keep(&tokens, &mut self.tokens, &mut self.lost_tokens, times);
            keep(&sessions, &mut self.sessions, &mut self.lost_sessions, times);
        }
        for jti in &committed.tokens {
            if self.tokens.until(jti).is_none() {
                self.tokens.insert(jti, times.last_token);
                self.lost_tokens.insert(jti.clone(), times.last_token);
            }
        }
        for sid in &committed.sessions {
            if self.sessions.until(sid).is_none() {
                self.sessions.insert(sid, times.last_access_token);
                self.lost_sessions.insert(sid.clone(), times.last_access_token);
            }
        }
        if self.position != Some(reading.position) {
            if reading.is_whole {
                self.outlived.clear();
            }
            self.outlived
                .push_back((times.last_access_token, reading.position.sequence));
            self.position = Some(reading.position);
        }
    }

    /// What the database lacks although this node knew it.
    #[must_use]
    pub fn lost(&self) -> Lost {
        let list = |lost: &HashMap<Name, UnixTime>| lost.iter().map(|(name, &until)| (name.clone(), until)).collect();
        Lost {
            tokens: list(&self.lost_tokens),
            sessions: list(&self.lost_sessions),
        }
    }

    /// The database has these again.
    pub fn written_again(&mut self, lost: &Lost) {
        let is_among = |name: &Name, written: &[(Name, UnixTime)]| written.iter().any(|(known, _)| known == name);
        self.lost_tokens.retain(|name, _| !is_among(name, &lost.tokens));
        self.lost_sessions.retain(|name, _| !is_among(name, &lost.sessions));
    }

    /// Forgets the names of tokens that nobody accepts any more, now and then. Answers whether it did, and up to which sequence the
    /// database may forget sessions.
    pub fn forget(&mut self, now: UnixTime) -> Option<Forgotten> {
        if self.forgotten_at.is_some_and(|at| at <= now && now < at + FORGET_EVERY) {
            return None;
        }
        self.forgotten_at = Some(now);
        self.tokens.forget(now);
        self.sessions.forget(now);
        let mut sequence = None;
        while let Some((_, outlived)) = self.outlived.pop_front_if(|(from, _)| *from <= now) {
            sequence = Some(outlived);
        }
        Some(Forgotten { sequence })
    }
}

/// What a node has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// No token lives whose session ended up to here.
    pub sequence: Option<i64>,
}

/// Keeps what was known and the database does not say any more.
fn keep(before: &Names, now: &mut Names, lost: &mut HashMap<Name, UnixTime>, times: Times) {
    for (name, until) in before.iter() {
        if until <= times.now || now.until(&name).is_some() {
            continue;
        }
        now.insert(&name, until);
        if until > times.forgotten_elsewhere {
            lost.insert(name, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000);
    const ID: &str = "01a22759-cf98-716b-ad37-8c3741be941f";

    fn times(now: UnixTime) -> Times {
        Times {
            now,
            forgotten_elsewhere: now + Seconds(5),
            last_access_token: now + Seconds(900),
            last_token: now + Seconds(3_600),
        }
    }

    fn reading(sequence: i64, is_whole: bool, revoked: &[Revoked]) -> Reading {
        Reading {
            position: Position {
                sequence,
                mark: sequence,
            },
            is_whole,
            revoked: revoked.to_vec(),
        }
    }

    fn token(jti: &str, until: i64) -> Revoked {
        Revoked::Token(jti.into(), UnixTime(until))
    }

    #[test]
    fn each_spelling_of_an_id_is_a_name_of_its_own() {
        assert_eq!(size_of::<(Uuid, UnixTime)>(), 24);
        assert!(matches!(Name::from(ID), Name::Id(_)));
        for other in [
            &ID.to_uppercase(),
            &ID.replace('-', ""),
            &format!("{{{ID}}}"),
            &format!("urn:uuid:{ID}"),
            "",
            "token",
        ] {
            assert_eq!(Name::from(other), Name::Other(other.into()));
            assert_eq!(Name::from(other).to_string(), *other);
        }
        assert_eq!(Name::from(ID).to_string(), ID);
    }

    #[test]
    fn the_longest_denial_counts_and_is_forgotten_within_a_minute() {
        let mut known = Revocations::default();
        let none = Committed::default();
        known.take(
            &reading(1, true, &[token(ID, 1_200), Revoked::Session("s".into())]),
            &none,
            times(NOW),
        );
        known.take(&reading(2, false, &[token(ID, 1_100)]), &none, times(NOW));
        assert_eq!(known.forget(NOW), Some(Forgotten { sequence: None }));
        assert_eq!(known.forget(NOW + Seconds(59)), None);
        known.forget(NOW + Seconds(199));
        assert!(known.is_denied(ID) && !known.is_denied(&ID.to_uppercase()) && known.has_ended("s"));
        known.forget(NOW + Seconds(260));
        assert!(!known.is_denied(ID) && known.has_ended("s"));
        let all = Some(Forgotten { sequence: Some(2) });
        assert_eq!(known.forget(NOW + Seconds(900)), all);
        assert_eq!((known.has_ended("s"), known.count()), (false, 0));
    }

    #[test]
    fn what_a_database_lost_is_named_until_it_is_written_again() {
        let mut known = Revocations::default();
        let here = Committed {
            tokens: vec!["here".into()],
            sessions: vec!["s".into()],
        };
        known.take(
            &reading(1, true, &[token("old", 2_000), token("over", 1_002)]),
            &here,
            times(NOW),
        );
        let lost = |known: &Revocations| {
            let Lost { tokens, sessions } = known.lost();
            let mut names: Vec<String> = tokens
                .into_iter()
                .chain(sessions)
                .map(|(name, _)| name.to_string())
                .collect();
            names.sort();
            names
        };
        assert_eq!(lost(&known), ["here", "s"]);
        known.take(
            &reading(2, false, &[token("here", 3_000)]),
            &Committed::default(),
            times(NOW),
        );
        assert_eq!(lost(&known), ["s"]);
        // Set back. What expires within the difference of clocks may have been forgotten by another node.
        known.take(&reading(1, true, &[]), &Committed::default(), times(NOW));
        assert_eq!(lost(&known), ["here", "old", "s"]);
        assert!(known.is_denied("over"));
        let all = known.lost();
        known.written_again(&all);
        assert!(lost(&known).is_empty() && known.is_denied("old") && known.has_ended("s"));
    }
}
