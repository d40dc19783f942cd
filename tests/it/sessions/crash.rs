//! An answer that never comes: the refresh is committed, and its client knows nothing of it.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use keyround::sessions::SessionTokens;

use super::world::{World, is_active, log_in, refresh};

/// Polls a future this often, and drops it where it stands; what it answers with, if it ends before that.
pub async fn dropped_after<T>(polls: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

crate::on_both_databases!(a_request_dropped_at_any_step_is_found_again_1000_times, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let mut last = log_in(&world.app, &ada).await.unwrap();
    let (mut committed, mut rounds, mut before) = (0, 0, 1);
    while committed < 1_000 {
        // Which poll is the last is all that differs.
        let answer = dropped_after(1 + rounds % 8, Box::pin(refresh(&world.app, &last.refresh_token))).await;
        rounds += 1;
        assert!(rounds < 20_000, "only {committed} were committed and not answered");
        // What the database was told it may still do.
        let next: SessionTokens = refresh(&world.app, &last.refresh_token).await.unwrap();
        let after = world.raw.number("SELECT generation FROM sessions").await;
        assert_eq!(after, before + 1, "round {rounds}");
        if let Some(answer) = &answer {
            assert_eq!(*answer.as_ref().unwrap().refresh_token, *next.refresh_token);
        }
        let retried = format!("SELECT count(*) FROM audit WHERE once = 'session.replayed {before}'");
        if answer.is_none() && world.raw.number(&retried).await == 1 {
            committed += 1;
        }
        assert!(is_active(&world.app, &next.access_token));
        (last, before) = (next, after);
    }
    println!("{rounds} requests were dropped, 1,000 of them after their commit");
    assert_eq!(
        world
            .raw
            .number("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
    world.stop().await;
});
