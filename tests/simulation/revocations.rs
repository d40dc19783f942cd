//! How nodes learn of revocations, under random schedules: transactions that commit late or never, prepared ones, nodes that pause
//! and are forgotten, looks that other writers come between, databases that are set back, fail over or are copied.
//!
//! The rules are those of `keyround::revocations`, and the memory is the real one; the database is a model of PostgreSQL's. With each rule
//! taken out, a schedule is found in which a node accepts what was revoked before its look began.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyround::clock::{Seconds, UnixTime};
use keyround::revocations::{Followed, Position, RevocationChange, RevocationKind, Revocations, Times};

use crate::random::Random;

const SCHEDULES: u64 = 600;
const STEPS: i64 = 400;
/// After so many steps without a look a node counts as gone.
const GONE_AFTER: i64 = 60;
const UNTIL: UnixTime = UnixTime(1_000_000);

/// The rule that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A change is new as long as the last look did not see its transaction.
    LateCommits,
    /// The position is taken before the reads.
    PositionFirst,
    /// A node goes on only where it finds its mark.
    Marks,
    /// A node goes on only with the server process that it read from.
    Servers,
    /// A node takes its place before it reads everything.
    Places,
    /// A change is forgotten when every place lies beyond it.
    Horizons,
    /// What a node knew and the database lacks is written again.
    WrittenAgain,
}

#[derive(Clone)]
struct Transaction {
    id: i64,
    names: Vec<String>,
    is_prepared: bool,
    by: usize,
}

#[derive(Clone, Default)]
struct Database {
    server: i64,
    next: i64,
    running: Vec<Transaction>,
    changes: Vec<(i64, String)>,
    names: BTreeSet<String>,
    places: BTreeMap<usize, (String, i64)>,
}

impl Database {
    fn begin(&mut self, names: Vec<String>, is_prepared: bool, by: usize) {
        let id = self.next;
        self.next += 1;
        self.running.push(Transaction {
            id,
            names,
            is_prepared,
            by,
        });
    }

    fn commit(&mut self, at: usize) -> Transaction {
        let ended = self.running.swap_remove(at);
        for name in &ended.names {
            self.names.insert(name.clone());
            self.changes.push((ended.id, name.clone()));
        }
        ended
    }

    fn snapshot(&self) -> Position {
        let ids = || self.running.iter().map(|running| running.id);
        let oldest = ids().min().unwrap_or(self.next);
        let list: Vec<String> = ids().map(|id| id.to_string()).collect();
        // As PostgreSQL writes it.
        Position::parse(&format!("{oldest}:{}:{}", self.next, list.join(","))).expect("a snapshot")
    }

    fn forget(&mut self, without: Without) {
        let horizon = match without {
            Without::Horizons => Some(self.snapshot().horizon()),
            _ => self.places.values().map(|(_, horizon)| *horizon).min(),
        };
        let next = self.next;
        self.changes
            .retain(|(id, _)| horizon.is_none_or(|horizon| *id >= horizon) && *id < next);
    }
}

/// A look under way.
struct Look {
    /// What was in the database when it began.
    committed: BTreeSet<String>,
    began: i64,
    goes_on: bool,
    now: Followed,
    pages: usize,
    changes: Vec<RevocationChange>,
}

#[derive(Default)]
struct Node {
    revocations: Revocations,
    followed: Option<Followed>,
    look: Option<Look>,
    looked_at: i64,
    paused_until: i64,
    knows: BTreeSet<String>,
}

struct World {
    random: Random,
    without: Without,
    at: i64,
    database: Database,
    earlier: Vec<Database>,
    nodes: Vec<Node>,
    named: usize,
    looks: usize,
}

fn times(began: i64) -> Times {
    Times {
        now: UnixTime(0),
        skew: Seconds::ZERO,
        began: moment(began),
    }
}

fn moment(at: i64) -> Duration {
    Duration::from_secs(at.unsigned_abs())
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let mut random = Random::seeded(seed);
        let nodes = std::iter::repeat_with(Node::default)
            .take(random.index(3) + 1)
            .collect();
        let next = random.between(3, 900);
        Self {
            random,
            without,
            at: 0,
            database: Database {
                server: 1,
                next,
                ..Database::default()
            },
            earlier: Vec::new(),
            nodes,
            named: 0,
            looks: 0,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.at += 1;
        if self.at % 7 == 0 {
            self.earlier.push(self.database.clone());
        }
        match self.random.between(0, 99) {
            0..=24 => {
                let count = self.random.index(3) + 1;
                let names = (0..count).map(|_| self.name()).collect();
                let is_prepared = self.random.once_in(8);
                let by = self.random.index(self.nodes.len());
                self.database.begin(names, is_prepared, by);
            }
            25..=49 if !self.database.running.is_empty() => {
                let at = self.random.index(self.database.running.len());
                if self.random.once_in(5) {
                    self.database.running.swap_remove(at);
                } else {
                    let ended = self.database.commit(at);
                    let node = &mut self.nodes[ended.by];
                    for name in ended.names {
                        node.revocations.tokens.commit(&name, UNTIL, moment(self.at));
                        node.knows.insert(name);
                    }
                }
            }
            50..=53 => self.database.forget(self.without),
            54 => {
                let node = self.random.index(self.nodes.len());
                let pause = self.random.between(5, 120);
                self.nodes[node].paused_until = self.at + pause;
                self.nodes[node].look = None;
            }
            55 => self.restart(),
            56 if self.random.once_in(3) => self.set_back(),
            57 if self.random.once_in(3) => self.fail_over(),
            58 if self.random.once_in(3) => self.copy(),
            _ => {
                let node = self.random.index(self.nodes.len());
                if self.nodes[node].paused_until <= self.at {
                    self.look(node)?;
                }
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if self.at - node.looked_at > GONE_AFTER && node.look.is_none() {
                self.database.places.remove(&index);
            }
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        self.named += 1;
        format!("name-{}", self.named)
    }

    /// Another process in the place of one.
    fn restart(&mut self) {
        let index = self.random.index(self.nodes.len());
        self.database.places.remove(&index);
        self.nodes[index] = Node {
            looked_at: self.at,
            ..Node::default()
        };
    }

    /// Rows are put back under a server that goes on; its locks let no look come between.
    fn set_back(&mut self) {
        if self.earlier.is_empty() || self.nodes.iter().any(|node| node.look.is_some()) {
            return;
        }
        let at = self.random.index(self.earlier.len());
        let earlier = self.earlier[at].clone();
        self.database = Database {
            server: self.database.server,
            next: self.database.next,
            running: std::mem::take(&mut self.database.running),
            ..earlier
        };
    }

    /// A standby without the last changes takes over, and gives their numbers again.
    fn fail_over(&mut self) {
        let Some(mut promoted) = self.earlier.pop() else { return };
        promoted.running.retain(|running| running.is_prepared);
        promoted.server = self.at + 1;
        self.database = promoted;
        self.earlier.clear();
        self.end_looks();
    }

    /// A dump is restored into another cluster, whose numbers are its own.
    fn copy(&mut self) {
        self.database.running.clear();
        self.database.server = self.at + 1;
        self.database.next = self.random.between(3, 900);
        self.earlier.clear();
        self.end_looks();
    }

    fn end_looks(&mut self) {
        for node in &mut self.nodes {
            node.look = None;
        }
    }

    /// One step of a look: others may come between any two.
    fn look(&mut self, index: usize) -> Result<(), String> {
        match self.nodes[index].look.take() {
            None => self.begin_look(index),
            Some(look) if look.pages < 2 => self.read(index, look),
            Some(look) => return self.end_look(index, look),
        }
        Ok(())
    }

    fn begin_look(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let database = &mut self.database;
        let mark = format!("{index}-{}", self.at);
        let found = database.places.get(&index).map(|(mark, _)| mark.clone());
        let goes_on = node.followed.as_ref().is_some_and(|followed| {
            let found = match self.without {
                Without::Marks => Some(&*followed.mark),
                _ => found.as_deref(),
            };
            let server = match self.without {
                Without::Servers => followed.server,
                _ => database.server,
            };
            followed.goes_on(found, server)
        });
        if !goes_on {
            if self.without != Without::Places {
                database.places.insert(index, (mark.clone(), 0));
            }
            node.revocations.begin_whole();
        }
        let mut position = database.snapshot();
        if let (Without::LateCommits, Position::Transactions { in_progress, .. }) = (self.without, &mut position) {
            in_progress.clear();
        }
        node.look = Some(Look {
            committed: database.names.clone(),
            began: self.at,
            goes_on,
            now: Followed {
                mark,
                server: database.server,
                position,
            },
            pages: 0,
            changes: Vec::new(),
        });
    }

    /// Everything is read in two pages, and what changed in one.
    fn read(&mut self, index: usize, mut look: Look) {
        let node = &mut self.nodes[index];
        if look.goes_on {
            let followed = node.followed.as_ref().expect("it goes on");
            let new = self.database.changes.iter();
            let new = new.filter(|(id, _)| followed.position.is_new(*id));
            look.changes = new
                .map(|(_, name)| RevocationChange {
                    kind: RevocationKind::Token,
                    name: name.clone(),
                    until: self.database.names.contains(name).then_some(UNTIL),
                })
                .collect();
            look.pages = 2;
        } else {
            let is_of_page =
                |name: &&String| (name.len() + usize::from(name.as_bytes()[name.len() - 1])) % 2 == look.pages;
            for name in self.database.names.iter().filter(is_of_page) {
                node.revocations.tokens.learn(name, UNTIL);
            }
            look.pages += 1;
        }
        node.look = Some(look);
    }

    fn end_look(&mut self, index: usize, mut look: Look) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if self.without == Without::PositionFirst {
            look.now.position = self.database.snapshot();
        }
        // Another one than it began with: its commit comes after all that the look read.
        look.now.mark = format!("{index}-{}", self.at);
        let times = times(look.began);
        let from = node.followed.as_ref().filter(|_| look.goes_on);
        let horizon = from.map_or(&look.now.position, |followed| &followed.position).horizon();
        self.database.places.insert(index, (look.now.mark.clone(), horizon));
        if look.goes_on {
            node.revocations.apply(&look.changes, &times);
        } else {
            node.revocations.end_whole(&times);
        }
        node.revocations.settle(&times);
        node.followed = Some(look.now);
        node.looked_at = self.at;
        self.looks += 1;
        node.knows.extend(look.committed);
        if let Some(name) = node.knows.iter().find(|name| !node.revocations.tokens.contains(name)) {
            return Err(format!("at {} node {index} accepts {name}", self.at));
        }
        if self.without != Without::WrittenAgain {
            for (name, _) in node.revocations.tokens.missing(usize::MAX) {
                self.database.begin(vec![name.clone()], false, index);
                self.database.commit(self.database.running.len() - 1);
                node.revocations.tokens.restored(&name);
            }
        }
        if let Some(name) = node.knows.difference(&self.database.names).next() {
            return Err(format!("at {} no row of {name}, which node {index} knows", self.at));
        }
        Ok(())
    }
}

fn run(seed: u64, without: Without) -> Result<usize, String> {
    let mut world = World::new(seed, without);
    for _ in 0..STEPS {
        world.step().map_err(|violation| format!("seed {seed}: {violation}"))?;
    }
    Ok(world.looks)
}

#[test]
fn nothing_that_was_revoked_before_a_look_is_accepted_after_it() {
    let looks: usize = (0..SCHEDULES)
        .map(|seed| run(seed, Without::Nothing).unwrap_or_else(|violation| panic!("{violation}")))
        .sum();
    assert!(looks > 15_000, "{looks} looks");
    println!("{SCHEDULES} schedules, {looks} looks");
}

macro_rules! rules {
    ($($test:ident: $rule:ident;)+) => {
        $(#[test]
        fn $test() {
            let found = (0..SCHEDULES).find_map(|seed| run(seed, Without::$rule).err());
            println!("without {:?}: {}", Without::$rule, found.expect("no schedule violates anything"));
        })+
    };
}

rules! {
    a_late_commit_is_read: LateCommits;
    the_position_is_taken_first: PositionFirst;
    a_database_without_the_mark_is_read_whole: Marks;
    another_server_is_read_whole: Servers;
    a_place_is_taken_before_everything_is_read: Places;
    no_change_is_forgotten_that_a_node_needs: Horizons;
    what_the_database_lost_is_written_again: WrittenAgain;
}
