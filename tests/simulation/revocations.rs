//! Revocations under thousands of random schedules: transactions that are committed in another order than they were begun, nodes that
//! pause, standbys that answer in place of the primary, databases that are set back, clocks that differ.
//!
//! The rule: what was committed before a node's look began, or what a living node knew, is refused by that node from this look on for as
//! long as a token of it may live. As a node looks every R and answers nothing after a longer gap, nothing revoked is accepted for longer
//! than R.

use std::collections::HashMap;

use keyround::clock::UnixTime;
use keyround::revocations::{Committed, Name, Position, Reading, Revocations, Revoked, Times};

use crate::random::Random;

const SCHEDULES: u64 = 3_000;
const STEPS: i64 = 400;
/// S, R, the longest access token of a session and the longest token, in seconds.
const SKEW: i64 = 3;
const REFRESH: i64 = 4;
const ACCESS_TOKEN: i64 = 40;
const TOKEN: i64 = 90;
const START: i64 = 1_800_000_000;

/// What is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A transaction takes its sequence when it begins, and others are committed before it.
    OrderOfCommits,
    /// A sequence of another history counts as the known one.
    Marks,
    /// A standby's rows count as the primary's.
    Completeness,
    /// A node that reads everything forgets what it knew.
    Memory,
}

/// A row that was committed.
#[derive(Clone, Debug)]
struct Row {
    position: Position,
    revoked: Revoked,
    /// True time at which no token of it is accepted any more.
    ends: i64,
}

/// A transaction that was begun.
struct Open {
    row: Row,
    writer: Option<usize>,
}

#[derive(Clone)]
struct Database {
    rows: Vec<Row>,
    sequence: i64,
}

impl Database {
    fn state(&self) -> Position {
        self.rows
            .iter()
            .map(|row| row.position)
            .max_by_key(|position| position.sequence)
            .expect("the newest row stays")
    }

    fn from(&self, sequence: i64) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(|row| row.position.sequence >= sequence)
            .cloned()
            .collect();
        rows.sort_by_key(|row| row.position.sequence);
        rows
    }
}

struct Node {
    knows: Revocations,
    offset: i64,
    looked: i64,
    committed: Vec<(i64, Name, bool)>,
}

struct World {
    random: Random,
    without: Without,
    now: i64,
    database: Database,
    /// The database as it was a moment ago: a standby.
    standby: Database,
    open: Vec<Open>,
    nodes: Vec<Node>,
    drawn: u128,
    /// What a name that was written again ends at, as it did the first time.
    ends: HashMap<Name, i64>,
}

fn reading(rows: Vec<Row>, state: Position, is_whole: bool) -> Reading {
    Reading {
        position: rows.last().map_or(state, |row| row.position),
        is_whole,
        revoked: rows.into_iter().map(|row| row.revoked).collect(),
    }
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let mut random = Random::seeded(seed);
        let first = Row {
            position: Position { sequence: 1, mark: 1 },
            revoked: Revoked::Tenant,
            ends: START,
        };
        let database = Database {
            rows: vec![first],
            sequence: 1,
        };
        let nodes = (0..3)
            .map(|_| Node {
                knows: Revocations::default(),
                offset: random.between(-SKEW, SKEW),
                looked: START - 1,
                committed: Vec::new(),
            })
            .collect();
        Self {
            random,
            without,
            now: START,
            standby: database.clone(),
            database,
            open: Vec::new(),
            nodes,
            drawn: 0,
            ends: HashMap::new(),
        }
    }

    fn take_position(&mut self) -> Position {
        self.database.sequence += 1;
        let mark = if self.without == Without::Marks {
            1
        } else {
            self.random.between(1, i64::MAX - 1)
        };
        Position {
            sequence: self.database.sequence,
            mark,
        }
    }

    fn begin(&mut self) {
        self.drawn += 1;
        let name = if self.random.once_in(5) {
            Name::Other(format!("token-{}", self.drawn).into())
        } else {
            Name::Id(uuid::Uuid::from_u128(self.drawn))
        };
        let (revoked, ends) = if self.random.once_in(2) {
            let until = self.now + self.random.between(5, TOKEN);
            (Revoked::Token(name, UnixTime(until)), until)
        } else {
            (Revoked::Session(name), self.now + ACCESS_TOKEN)
        };
        let position = if self.without == Without::OrderOfCommits {
            self.take_position()
        } else {
            Position { sequence: 0, mark: 0 }
        };
        let writer = self.random.once_in(2).then(|| self.random.index(3));
        self.open.push(Open {
            row: Row {
                position,
                revoked,
                ends,
            },
            writer,
        });
    }

    fn commit(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let index = self.random.index(self.open.len());
        let Open { mut row, writer } = self.open.swap_remove(index);
        if self.without != Without::OrderOfCommits {
            row.position = self.take_position();
        }
        // Access tokens were given out until this moment.
        if let Revoked::Session(_) = row.revoked {
            row.ends = self.now + ACCESS_TOKEN;
        }
        if let Some(writer) = writer {
            let (name, is_token) = named(&row.revoked).expect("a name");
            self.nodes[writer].committed.push((self.now, name, is_token));
        }
        if let Some((name, _)) = named(&row.revoked) {
            self.ends.insert(name, row.ends);
        }
        self.database.rows.push(row);
    }

    fn look(&mut self, index: usize) -> Result<(), String> {
        let known = self.nodes[index].knows.position();
        let state = self.database.state();
        let must_know: Vec<Row> = self.database.rows.clone();
        // Others go on between the two reads.
        while self.random.once_in(3) {
            self.commit();
        }
        let answers = if self.random.once_in(20) {
            &self.standby
        } else {
            &self.database
        };
        let continued = known.filter(|known| *known != state).and_then(|known| {
            let rows = answers.from(known.sequence);
            known
                .is_continued_by(rows.first().map(|row| row.position))
                .then(|| reading(rows, state, false))
        });
        let mut found = match continued {
            Some(found) => found,
            None if known == Some(state) => Reading::unchanged(state),
            None => reading(answers.from(i64::MIN), state, true),
        };
        if !found.reaches(state) {
            if self.without != Without::Completeness {
                return Ok(());
            }
            found.position = state;
        }
        let now = self.now + self.nodes[index].offset;
        let times = Times {
            now: UnixTime(now),
            forgotten_elsewhere: UnixTime(now + SKEW + REFRESH),
            last_access_token: UnixTime(now + ACCESS_TOKEN + 2 * SKEW),
            last_token: UnixTime(now + TOKEN + SKEW),
        };
        let node = &mut self.nodes[index];
        let mut committed = Committed::default();
        for (_, name, is_token) in node.committed.drain(..) {
            if is_token {
                &mut committed.tokens
            } else {
                &mut committed.sessions
            }
            .push(name);
        }
        if self.without == Without::Memory && found.is_whole {
            node.knows = Revocations::default();
        }
        node.knows.take(&found, &committed, times);
        node.looked = self.now;
        self.write_lost_again(index);
        let node = &self.nodes[index];
        for row in must_know.iter().filter(|row| is_accepted(row, self.now + node.offset)) {
            if !refuses(&node.knows, &row.revoked) {
                return Err(format!(
                    "node {index} does not know {row:?}; it knew {known:?}, read {found:?}"
                ));
            }
        }
        Ok(())
    }

    fn write_lost_again(&mut self, index: usize) {
        let lost = self.nodes[index].knows.lost();
        // The write may fail; then it is tried at the next look.
        if self.random.once_in(4) {
            return;
        }
        for (name, until) in &lost.tokens {
            let position = self.take_position();
            self.database.rows.push(Row {
                position,
                revoked: Revoked::Token(name.clone(), *until),
                ends: self.ends[name],
            });
        }
        for (name, _) in &lost.sessions {
            let position = self.take_position();
            self.database.rows.push(Row {
                position,
                revoked: Revoked::Session(name.clone()),
                ends: self.ends[name],
            });
        }
        self.nodes[index].knows.written_again(&lost);
    }

    fn forget(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let now = UnixTime(self.now + node.offset);
        let Some(forgotten) = node.knows.forget(now) else {
            return;
        };
        let newest = self.database.state().sequence;
        self.database.rows.retain(|row| {
            let is_over = match &row.revoked {
                Revoked::Token(_, until) => *until <= now,
                _ => forgotten
                    .sequence
                    .is_some_and(|sequence| row.position.sequence <= sequence),
            };
            !is_over || row.position.sequence == newest
        });
    }

    /// What a living node knew stays in force on it.
    fn set_back(&mut self) -> Vec<Vec<Row>> {
        let known = self.nodes.iter().map(|node| {
            let rows = self.database.rows.iter();
            rows.filter(|row| refuses(&node.knows, &row.revoked)).cloned().collect()
        });
        let known = known.collect();
        self.database = self.standby.clone();
        self.open.clear();
        known
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += self.random.between(0, 1);
        match self.random.between(1, 12) {
            1..=3 => self.begin(),
            4..=6 => self.commit(),
            7..=10 => {
                let index = self.random.index(3);
                // A node that pauses looks later.
                if !self.random.once_in(6) {
                    self.look(index)?;
                    self.forget(index);
                }
            }
            11 => self.standby = self.database.clone(),
            _ if self.random.once_in(8) => {
                let known = self.set_back();
                for (index, known) in known.into_iter().enumerate() {
                    self.look(index)?;
                    let node = &self.nodes[index];
                    let living = known.iter().filter(|row| is_accepted(row, self.now + node.offset));
                    for row in living {
                        if !refuses(&node.knows, &row.revoked) {
                            return Err(format!("node {index} forgot {row:?} when the database was set back"));
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn named(revoked: &Revoked) -> Option<(Name, bool)> {
    match revoked {
        Revoked::Token(name, _) => Some((name.clone(), true)),
        Revoked::Session(name) => Some((name.clone(), false)),
        Revoked::Tenant => None,
    }
}

/// Whether a node whose clock shows this time accepts a token of it. The tokens of a session may be from a node whose clock is ahead.
fn is_accepted(row: &Row, now: i64) -> bool {
    match row.revoked {
        Revoked::Session(_) => row.ends + SKEW > now,
        _ => row.ends > now,
    }
}

fn refuses(knows: &Revocations, revoked: &Revoked) -> bool {
    match revoked {
        Revoked::Token(name, _) => knows.is_denied(&name.to_string()),
        Revoked::Session(name) => knows.has_ended(&name.to_string()),
        Revoked::Tenant => true,
    }
}

fn run(seed: u64, without: Without) -> Result<(), String> {
    let mut world = World::new(seed, without);
    for _ in 0..STEPS {
        world.step()?;
    }
    Ok(())
}

#[test]
fn nothing_revoked_is_accepted_longer_than_said() {
    for seed in 0..SCHEDULES {
        if let Err(violation) = run(seed, Without::Nothing) {
            panic!("seed {seed}: {violation}");
        }
    }
}

/// Without the rule, some schedule is violated.
fn is_found(without: Without) {
    let found = (0..SCHEDULES).find_map(|seed| Some((seed, run(seed, without).err()?)));
    let (seed, violation) =
        found.unwrap_or_else(|| panic!("{SCHEDULES} schedules without {without:?} violate nothing"));
    println!("{without:?}: after {} schedules: {violation}", seed + 1);
}

#[test]
fn sequences_follow_the_commits() {
    is_found(Without::OrderOfCommits);
}

#[test]
fn marks_tell_histories_apart() {
    is_found(Without::Marks);
}

#[test]
fn fewer_rows_than_counted_are_no_answer() {
    is_found(Without::Completeness);
}

#[test]
fn a_node_keeps_what_a_database_lost() {
    is_found(Without::Memory);
}
