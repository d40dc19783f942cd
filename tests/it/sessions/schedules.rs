//! Random schedules against a small model: whatever happens, at most one refresh token of a family is live.

use std::time::Duration;

use keyround::accounts::refresh::{PresentedRefresh, Refused, Verdict, judge};
use keyround::accounts::refresh_token::RefreshToken;
use keyround::accounts::session::EndedBy;
use keyround::clock::{Seconds, UnixTime, sleep};
use keyround::sessions::{CannotRefresh, SessionTokens};
use keyround::store::Db;
use keyround::store::users::UserChange;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::crash::dropped_after;
use super::world::{CLIENT, World, create_user, is_active, log_in, log_out, refresh_as};
use crate::helpers::{TestApp, TestDatabase, entry};

/// Boundaries that real time, which passes on PostgreSQL while a schedule runs, does not cross: steps are multiples of twelve.
const SETTINGS: [(&str, &str); 3] = [
    ("accounts.session_idle", "3606s"),
    ("accounts.session_absolute", "7206s"),
    ("accounts.refresh_grace", "30s"),
];
const IDLE: i64 = 3_606;
const ABSOLUTE: i64 = 7_206;
const GRACE: i64 = 30;
/// From then on a node that begins may forget the session, and nobody could tell any more that it has expired.
const FORGOTTEN: i64 = ABSOLUTE + 24;

#[derive(Clone, Debug)]
enum Step {
    /// A token that was seen, so many before the newest, at one of the nodes, so many times at once.
    Refresh {
        back: usize,
        node: usize,
        at_once: usize,
    },
    /// The newest token that was seen; the server goes away after so many steps of its own.
    Crash {
        node: usize,
        polls: u64,
    },
    /// Another client with the newest token.
    Stranger {
        node: usize,
    },
    /// A node begins anew, with nothing in its memory.
    Restart {
        node: usize,
    },
    /// Time passes, or the database's clock goes back.
    Clock {
        twelves: i64,
    },
    Logout {
        node: usize,
    },
    Suspend {
        node: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..2_usize;
    let step = prop_oneof![
        12 => (prop_oneof![6 => Just(0_usize), 3 => Just(1), 1 => 2..5_usize], node(), prop_oneof![4 => Just(1_usize), 1 => Just(5)])
            .prop_map(|(back, node, at_once)| Step::Refresh { back, node, at_once }),
        4 => (node(), 1..9_u64).prop_map(|(node, polls)| Step::Crash { node, polls }),
        1 => node().prop_map(|node| Step::Stranger { node }),
        1 => node().prop_map(|node| Step::Restart { node }),
        4 => prop_oneof![4 => 1..3_i64, 2 => Just(5), 1 => Just(300), 2 => -2..0_i64].prop_map(|twelves| Step::Clock { twelves }),
        1 => node().prop_map(|node| Step::Logout { node }),
        1 => node().prop_map(|node| Step::Suspend { node }),
    ];
    prop::collection::vec(step, 1..25)
}

/// What a client may expect.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Next,
    SameAgain,
    Refused(Refused),
}

/// A family in a few numbers.
struct Model {
    now: i64,
    rotated_at: i64,
    generation: usize,
    ended: Option<EndedBy>,
}

impl Model {
    /// What the token of this generation gets, and what becomes of the family.
    fn present(&mut self, generation: usize) -> Expected {
        let age = self.now - self.rotated_at;
        if let Some(by) = self.ended {
            return Expected::Refused(Refused::Ended(by));
        }
        if self.now >= ABSOLUTE {
            return Expected::Refused(Refused::Expired);
        }
        if generation == self.generation {
            if age >= IDLE {
                return Expected::Refused(Refused::Idle);
            }
            self.generation += 1;
            self.rotated_at = self.now;
            return Expected::Next;
        }
        if generation + 1 == self.generation && age <= GRACE {
            return if age < 0 {
                Expected::Refused(Refused::TooEarly)
            } else {
                Expected::SameAgain
            };
        }
        self.ended = Some(EndedBy::Reuse);
        Expected::Refused(Refused::Reused)
    }
}

struct Schedule<'w> {
    world: &'w World,
    nodes: &'w mut [TestApp; 2],
    login: SessionTokens,
    /// By generation from 1 on, as far as anybody was told.
    tokens: Vec<Option<String>>,
    model: Model,
}

impl Schedule<'_> {
    /// The generation of the token so many before the newest that was seen.
    fn seen(&self, back: usize) -> usize {
        let seen: Vec<usize> = (0..self.tokens.len()).filter(|&at| self.tokens[at].is_some()).collect();
        seen[seen.len() - 1 - back.min(seen.len() - 1)] + 1
    }

    fn token(&self, generation: usize) -> String {
        self.tokens[generation - 1].clone().unwrap()
    }

    /// Holds an answer against what was expected, and remembers the token that it brought.
    fn check(&mut self, presented: usize, expected: &Expected, answer: Result<SessionTokens, CannotRefresh>) {
        let answer = match answer {
            Ok(tokens) => tokens,
            Err(CannotRefresh::Refused(refused)) => return assert_eq!(*expected, Expected::Refused(refused)),
            Err(error) => panic!("{error}"),
        };
        assert!(
            !matches!(expected, Expected::Refused(_)),
            "{expected:?}, but it was refreshed"
        );
        self.tokens.resize(self.model.generation.max(self.tokens.len()), None);
        let known = &mut self.tokens[presented];
        assert!(
            known
                .as_deref()
                .is_none_or(|known| known == answer.refresh_token.as_str()),
            "the family has forked"
        );
        *known = Some(answer.refresh_token.to_string());
    }

    async fn take(&mut self, step: Step) {
        let newest = self.seen(0);
        match step {
            Step::Refresh { back, node, at_once } => {
                let generation = self.seen(back);
                let token = self.token(generation);
                let racing = (0..at_once).map(|caller| refresh_as(&self.nodes[(node + caller) % 2], &token, CLIENT));
                let answers = join_all(racing.collect()).await;
                // One of them came first, and which one is nobody's business.
                let mut expected: Vec<Expected> = answers.iter().map(|_| self.model.present(generation)).collect();
                let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
                expected.sort_by_key(|expected| matches!(expected, Expected::Refused(_)));
                if bad.len() > 1 && expected[0] == Expected::Refused(Refused::Reused) {
                    // All of them noticed, or some found it noticed.
                    for answer in bad {
                        let Err(CannotRefresh::Refused(refused)) = answer else {
                            panic!("an error of another kind")
                        };
                        assert!(
                            matches!(refused, Refused::Reused | Refused::Ended(EndedBy::Reuse)),
                            "{refused}"
                        );
                    }
                    return;
                }
                for (answer, expected) in good.into_iter().chain(bad).zip(&expected) {
                    self.check(generation, expected, answer);
                }
            }
            Step::Crash { node, polls } => {
                let token = self.token(newest);
                let answer = dropped_after(polls, Box::pin(refresh_as(&self.nodes[node], &token, CLIENT))).await;
                if let Some(answer) = answer {
                    let expected = self.model.present(newest);
                    return self.check(newest, &expected, answer);
                }
                // The statement that was under way goes on without its client; once it is over, it has happened or not.
                settle(&self.nodes[node].running.server.db).await;
                let (generation, ended) = self.row().await;
                let mut after = Model { ..self.model };
                after.present(newest);
                if (generation, ended) == (after.generation, after.ended) {
                    self.model = after;
                } else {
                    assert_eq!((generation, ended), (self.model.generation, self.model.ended));
                }
            }
            Step::Stranger { node } => {
                let answer = refresh_as(&self.nodes[node], &self.token(newest), "another-app").await;
                assert!(matches!(answer, Err(CannotRefresh::Refused(Refused::WrongClient))));
            }
            Step::Restart { node } => {
                let next = self.world.another().await;
                std::mem::replace(&mut self.nodes[node], next).running.stop().await;
            }
            Step::Clock { twelves } => {
                let seconds = 12 * twelves;
                if self.model.now + seconds > FORGOTTEN {
                    return;
                }
                self.model.now += seconds;
                let older = format!(
                    "UPDATE sessions SET created_at = created_at - {seconds}, rotated_at = rotated_at - {seconds}, \
                     expires_at = expires_at - {seconds} WHERE sid = '{}'",
                    self.login.sid
                );
                self.world.raw.execute(&older).await;
            }
            Step::Logout { node } => {
                assert_eq!(
                    log_out(&self.nodes[node], &self.login).await,
                    self.model.ended.is_none()
                );
                self.model.ended.get_or_insert(EndedBy::Logout);
            }
            Step::Suspend { node } => {
                let server = &self.nodes[node].running.server;
                let user = self.login.user;
                for change in [UserChange::Suspend, UserChange::Resume] {
                    let ended = server
                        .db
                        .change_user(user, &change, &entry("user.roles_changed", "x"))
                        .await;
                    server
                        .sessions
                        .have_ended(&ended.unwrap().unwrap(), EndedBy::Suspension);
                }
                self.model.ended.get_or_insert(EndedBy::Suspension);
            }
        }
    }

    async fn family(&self) -> (keyround::accounts::refresh::Family, UnixTime) {
        let server = &self.nodes[0].running.server;
        let now = server.clock.read().wall;
        server.db.family(self.login.sid, now).await.unwrap().unwrap()
    }

    async fn row(&self) -> (usize, Option<EndedBy>) {
        let (family, _) = self.family().await;
        (
            usize::try_from(family.generation).unwrap(),
            family.session.ended.map(|(_, by)| by),
        )
    }

    /// Of all tokens that were ever seen, at most one gets a new generation, and at most one gets the current token again.
    async fn assert_one_is_live(&self) {
        let (family, now) = self.family().await;
        assert_eq!(usize::try_from(family.generation).unwrap(), self.model.generation);
        assert_eq!(family.session.ended.map(|(_, by)| by), self.model.ended);
        let server = &self.nodes[0].running.server;
        let limits = keyround::accounts::refresh::Limits {
            idle: Seconds(IDLE),
            grace: Seconds(GRACE),
        };
        let verdicts: Vec<Verdict> = self
            .tokens
            .iter()
            .flatten()
            .map(|text| {
                let token = RefreshToken::open(text, &server.hash_key).unwrap();
                let presented = PresentedRefresh {
                    token: &token,
                    client_id: CLIENT,
                    audiences: &[],
                };
                judge(&family, &presented, &server.hash_key, now, &limits)
            })
            .collect();
        let count = |verdict: Verdict| verdicts.iter().filter(|&&other| other == verdict).count();
        assert!(
            count(Verdict::Rotate) <= 1 && count(Verdict::Replay) <= 1,
            "{verdicts:?}"
        );
        if self.model.ended.is_some() {
            assert_eq!(count(Verdict::Rotate) + count(Verdict::Replay), 0, "{verdicts:?}");
        }
    }
}

/// Waits until no connection of this server is in use.
async fn settle(db: &Db) {
    match db {
        // The one that writes takes one statement after another.
        Db::Sqlite { .. } => assert_eq!(db.prune_sessions(UnixTime(0), 1).await.unwrap(), 0),
        Db::Postgres { pool, kept, .. } => {
            while pool.num_idle() + kept.idle() < pool.size() as usize {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// All of them, begun in this order.
pub async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, answer) in &mut futures {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *answer = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, answer)| answer).collect()
}

async fn run(world: &World, nodes: &mut [TestApp; 2], number: usize, steps: Vec<Step>) {
    let user = create_user(&world.app, &format!("user-{number}")).await;
    let login = log_in(&world.app, &user).await.unwrap();
    let mut schedule = Schedule {
        world,
        nodes,
        tokens: vec![Some(login.refresh_token.to_string())],
        login,
        model: Model {
            now: 0,
            rotated_at: 0,
            generation: 1,
            ended: None,
        },
    };
    for step in steps {
        Box::pin(schedule.take(step)).await;
        schedule.assert_one_is_live().await;
    }
    if schedule.model.ended.is_some() {
        for node in &*schedule.nodes {
            node.running.server.keyring.refresh().await.unwrap();
            assert!(!is_active(node, &schedule.login.access_token));
        }
    }
}

fn schedules(database: impl Future<Output = TestDatabase>, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (world, nodes) = runtime.block_on(async {
        let world = World::start(database.await, &SETTINGS).await;
        let nodes = [world.another().await, world.another().await];
        (world, nodes)
    });
    let nodes = std::cell::RefCell::new(nodes);
    let number = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&steps(), |steps| {
        number.set(number.get() + 1);
        runtime.block_on(run(&world, &mut nodes.borrow_mut(), number.get(), steps));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    runtime.block_on(async {
        for node in nodes.into_inner() {
            node.running.stop().await;
        }
        world.stop().await;
    });
}

#[test]
fn at_most_one_refresh_token_is_live_on_sqlite() {
    schedules(async { TestDatabase::sqlite() }, 150);
}

#[test]
fn at_most_one_refresh_token_is_live_on_postgres() {
    schedules(TestDatabase::postgres(), 40);
}
