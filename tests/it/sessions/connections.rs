//! The connections that are kept for refreshes: what becomes of them when PostgreSQL or the network ends them.

use std::time::Duration;

use keyround::clock::{Clock, sleep};
use tokio::sync::watch;
use tokio::time::timeout;

use super::schedules::join_all;
use super::world::{World, log_in, refresh};
use crate::helpers::TestDatabase;
use crate::network::{Network, network};

/// Much longer than one refresh may take: three seconds for a connection that is kept, and as long for another. A connection that died
/// unheard would be waited for without an end.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_does_not_notice_that_postgresql_ended_its_connections() {
    let world = World::start(TestDatabase::postgres().await, &[]).await;
    let user = world.user("ada").await;
    let mut tokens = Vec::new();
    for _ in 0..8 {
        tokens.push(log_in(&world.app, &user).await.unwrap());
    }
    for round in 0..20 {
        world
            .raw
            .execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
            )
            .await;
        // Alone, and as one of several that share their statements.
        let last = tokens.pop().unwrap();
        tokens.push(refresh(&world.app, &last.refresh_token).await.unwrap());
        let app = &world.app;
        let all = tokens.iter().map(|token| refresh(app, &token.refresh_token)).collect();
        let all = join_all(all).await;
        tokens = all
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|error| panic!("round {round}: {error}")))
            .collect();
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_unheard_is_given_up() {
    let database = TestDatabase::postgres().await;
    let (open, is_open) = watch::channel(Network::Open { era: 0 });
    let through = TestDatabase {
        url: network(&database.url, is_open).await,
        folder: tempfile::tempdir().unwrap(),
    };
    let world = World::start_with_clock(through, &[], Clock::system()).await;
    let user = world.user("ada").await;
    let mut last = log_in(&world.app, &user).await.unwrap();
    last = refresh(&world.app, &last.refresh_token).await.unwrap();

    open.send_replace(Network::Open { era: 1 });
    let answered = timeout(PATIENCE, refresh(&world.app, &last.refresh_token)).await;
    let mut answered = answered.expect("it waits for a connection that died");
    for _ in 0..600 {
        if answered.is_ok() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        answered = timeout(PATIENCE, refresh(&world.app, &last.refresh_token))
            .await
            .expect("it waits for a connection that died");
    }
    assert!(answered.is_ok(), "no other connection is tried");
    // Not stopped: that waits for the connections that died.
}
