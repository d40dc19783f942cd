//! Everything at once: many who refresh one token, and those who end a session while it is refreshed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyround::accounts::refresh::Refused;
use keyround::accounts::session::EndedBy;
use keyround::clock::Clock;
use keyround::sessions::{CannotBegin, CannotRefresh, SessionTokens};
use keyround::store::users::{StoredUser, UserChange};
use keyround::values::SessionId;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::world::{World, is_active, log_in, log_out, refresh, refused};
use crate::child::random;
use crate::helpers::{TestApp, TestDatabase, entry};

/// How many refresh one token at once.
const AT_ONCE: usize = 64;
/// How many sessions are under way beside each other.
const FAMILIES: usize = 8;

/// Refreshes one token as often as [`AT_ONCE`], on every node in turn; answers with the one successor.
async fn one_round(nodes: &Arc<Vec<TestApp>>, token: &Arc<String>) -> String {
    let mut callers = JoinSet::new();
    for caller in 0..AT_ONCE {
        let (nodes, token) = (Arc::clone(nodes), Arc::clone(token));
        callers.spawn(async move { refresh(&nodes[caller % nodes.len()], &token).await.unwrap() });
    }
    let answers: Vec<SessionTokens> = callers.join_all().await;
    let successors: BTreeSet<&str> = answers.iter().map(|tokens| tokens.refresh_token.as_str()).collect();
    assert_eq!(successors.len(), 1, "the family has forked");
    assert_eq!(answers.len(), AT_ONCE);
    answers[0].refresh_token.to_string()
}

/// Refreshes that come at once share their statements, but not their troubles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_somebody_holds_holds_up_no_other() {
    let world = World::start(TestDatabase::postgres().await, &[]).await;
    let user = world.user("ada").await;
    let World { raw, app, .. } = world;
    let app = Arc::new(app);
    let mut tokens = Vec::new();
    for _ in 0..9 {
        tokens.push(log_in(&app, &user).await.unwrap());
    }
    let held = tokens.remove(4);
    let lock = raw
        .hold(&format!(
            "SELECT sid FROM sessions WHERE sid = '{}' FOR UPDATE",
            held.sid
        ))
        .await;
    let waiting = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { refresh(&app, &held.refresh_token).await })
    };
    for _ in 0..20 {
        let mut others = JoinSet::new();
        for token in tokens.drain(..) {
            let app = Arc::clone(&app);
            others.spawn(async move { refresh(&app, &token.refresh_token).await.unwrap() });
        }
        tokens = timeout(Duration::from_mins(1), others.join_all())
            .await
            .expect("they wait for the one that is held");
    }
    assert!(!waiting.is_finished(), "the lock held nothing");
    lock.let_go().await;
    waiting.await.unwrap().unwrap();
    assert_eq!(
        raw.number("SELECT count(*) FROM sessions WHERE generation = 21").await,
        8
    );
    assert_eq!(
        raw.number("SELECT count(*) FROM sessions WHERE generation = 2").await,
        1
    );
}

async fn rounds_of_64(database: TestDatabase, rounds: usize) {
    let world = World::start(database, &[]).await;
    let clock = Clock::system();
    let before = clock.read().monotonic;
    let user = world.user("ada").await;
    let other = world.another().await;
    let World { raw, app, .. } = world;
    let nodes = Arc::new(vec![app, other]);
    let mut families = JoinSet::new();
    for _ in 0..FAMILIES {
        let (nodes, user) = (Arc::clone(&nodes), user.clone());
        families.spawn(async move {
            let first = log_in(&nodes[0], &user).await.unwrap();
            let mut token = Arc::new(first.refresh_token.to_string());
            for _ in 0..rounds / FAMILIES {
                token = Arc::new(one_round(&nodes, &token).await);
            }
        });
    }
    families.join_all().await;
    let generations = raw
        .number("SELECT CAST(sum(generation - 1) AS BIGINT) FROM sessions")
        .await;
    assert_eq!(generations, i64::try_from(rounds).unwrap());
    assert_eq!(
        raw.number("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
    assert_eq!(
        raw.number("SELECT count(*) FROM audit WHERE event = 'session.replayed'")
            .await,
        generations
    );
    println!(
        "{rounds} rounds of {AT_ONCE} in {:?}",
        clock.read().monotonic.saturating_sub(before)
    );
    for node in Arc::into_inner(nodes).unwrap() {
        node.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_refreshes_on_two_nodes_make_one_successor_in_1000_rounds() {
    rounds_of_64(TestDatabase::postgres().await, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_refreshes_on_one_sqlite_file_make_one_successor_in_1000_rounds() {
    rounds_of_64(TestDatabase::sqlite(), 1_000).await;
}

/// Nodes on one database whose snapshots are read only when the test says so, where time allows.
async fn two_nodes(world: &World) -> [TestApp; 2] {
    [world.another().await, world.another().await]
}

/// Lets others go first, a random number of times.
async fn dawdle(state: &mut u64) {
    for _ in 0..random(state, 6) {
        tokio::task::yield_now().await;
    }
}

crate::on_both_databases!(
    a_logout_that_races_refreshes_leaves_nothing_in_1000_interleavings,
    |database| {
        let world = World::start(database, &[]).await;
        let nodes = two_nodes(&world).await;
        let ada = world.user("ada").await;
        let mut state = world.clock.read().wall.0.unsigned_abs();
        let (mut refreshed, mut gone) = (0, Vec::new());
        for round in 0..1_000 {
            let first = log_in(&world.app, &ada).await.unwrap();
            let (here, there) = (&nodes[round % 2], &nodes[usize::from(random(&mut state, 2) == 0)]);
            let (mut one, mut two) = (state, state.rotate_left(7));
            let (answer, ()) = tokio::join!(
                async {
                    dawdle(&mut one).await;
                    refresh(there, &first.refresh_token).await
                },
                async {
                    dawdle(&mut two).await;
                    assert!(log_out(here, &first).await);
                    // At once where it was done.
                    assert!(!is_active(here, &first.access_token), "round {round}");
                }
            );
            let mut tokens = vec![first];
            match answer {
                Ok(next) => {
                    refreshed += 1;
                    tokens.push(next);
                }
                Err(CannotRefresh::Refused(Refused::Ended(_))) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
            for tokens in tokens {
                assert!(!is_active(here, &tokens.access_token), "round {round}");
                for node in &nodes {
                    let refused = refused(node, &tokens.refresh_token).await;
                    assert!(matches!(refused, Refused::Ended(_)), "round {round}: {refused}");
                }
                gone.push(tokens);
            }
        }
        // Within R on the other: its next look.
        for node in &nodes {
            node.running.server.keyring.refresh().await.unwrap();
            assert!(gone.iter().all(|tokens| !is_active(node, &tokens.access_token)));
        }
        println!("{refreshed} of 1,000 refreshes came before their logout");
        for node in nodes {
            node.running.stop().await;
        }
        world.stop().await;
    }
);

crate::on_both_databases!(
    a_suspension_that_races_logins_leaves_nothing_in_1000_interleavings,
    |database| {
        let world = World::start(database, &[]).await;
        let nodes = two_nodes(&world).await;
        let ada = world.user("ada").await;
        let mut state = world.clock.read().wall.0.unsigned_abs();
        let (mut began, mut gone) = (0, Vec::new());
        for round in 0..1_000 {
            let before = log_in(&world.app, &ada).await.unwrap();
            let (here, there) = (&nodes[round % 2], &nodes[usize::from(random(&mut state, 2) == 0)]);
            let (mut one, mut two) = (state, state.rotate_left(7));
            let (answer, ended) = tokio::join!(
                async {
                    dawdle(&mut one).await;
                    log_in(there, &ada).await
                },
                async {
                    dawdle(&mut two).await;
                    let ended = change(here, &ada, &UserChange::Suspend).await.unwrap();
                    assert!(!is_active(here, &before.access_token), "round {round}");
                    ended
                }
            );
            assert!(ended.contains(&before.sid));
            let mut tokens = vec![before];
            match answer {
                Ok(login) => {
                    began += 1;
                    assert!(
                        ended.contains(&login.sid),
                        "round {round}: a login came after the suspension"
                    );
                    tokens.push(login);
                }
                Err(CannotBegin::AccountChanged) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
            assert!(matches!(log_in(there, &ada).await, Err(CannotBegin::AccountChanged)));
            // Lifting it brings none of them back.
            assert!(change(here, &ada, &UserChange::Resume).await.is_some());
            for tokens in tokens {
                assert!(!is_active(here, &tokens.access_token), "round {round}");
                for node in &nodes {
                    let refused = refused(node, &tokens.refresh_token).await;
                    assert_eq!(refused, Refused::Ended(EndedBy::Suspension), "round {round}");
                }
                gone.push(tokens);
            }
            assert!(
                world
                    .app
                    .running
                    .server
                    .sessions
                    .list(ada.user.id)
                    .await
                    .unwrap()
                    .is_empty()
            );
        }
        for node in &nodes {
            node.running.server.keyring.refresh().await.unwrap();
            assert!(gone.iter().all(|tokens| !is_active(node, &tokens.access_token)));
        }
        println!("{began} of 1,000 logins came before the suspension");
        for node in nodes {
            node.running.stop().await;
        }
        world.stop().await;
    }
);

/// What an operator does to an account, on this server.
async fn change(app: &TestApp, user: &StoredUser, change: &UserChange) -> Option<Vec<SessionId>> {
    let server = &app.running.server;
    let entry = entry("user.roles_changed", "ada");
    let ended = server.db.change_user(user.user.id, change, &entry).await.unwrap()?;
    server.sessions.have_ended(&ended, EndedBy::Suspension);
    Some(ended)
}
