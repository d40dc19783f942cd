//! Expired sessions leave a few at a time, while the others are refreshed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyround::accounts::refresh::Refused;
use keyround::clock::{Clock, Seconds};

use super::world::{World, log_in, refresh, refused};

const EXPIRED: i64 = 50_000;

/// Sessions that ended a day ago, in one statement; only their number matters.
fn expired(count: i64, now: i64) -> String {
    format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
         expires_at, address, user_agent) WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < \
         {count}) SELECT 'expired-' || n, 'nobody-' || n, 'default', 'first-party', 'https://api.example.com', 1, 'digest', 'salt', \
         {now} - 700000, {now} - 100000, {now} - 86400 - n % 3600, '192.0.2.7', 'a browser' FROM numbers"
    )
}

/// The 99th percentile and the longest.
fn tail(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() * 99 / 100], *times.last().unwrap())
}

crate::on_both_databases!(expired_sessions_leave_while_others_are_refreshed, |database| {
    let world = World::start(database, &[]).await;
    let user = world.user("ada").await;
    let now = world.clock.read().wall.0;
    let mut token = log_in(&world.app, &user).await.unwrap().refresh_token;
    world.raw.execute(&expired(EXPIRED, now)).await;
    // As old as the live one, but not quite expired.
    world
        .raw
        .execute(&format!(
            "UPDATE sessions SET expires_at = {now} + 3600 WHERE sid IN ('expired-1', 'expired-2')"
        ))
        .await;
    let clock = Clock::system();
    let mut refresh_once = async || {
        let before = clock.read().monotonic;
        let next = refresh(&world.app, &token).await.unwrap();
        token = next.refresh_token;
        clock.read().monotonic.saturating_sub(before)
    };
    let mut before = Vec::new();
    for _ in 0..300 {
        before.push(refresh_once().await);
    }
    let sessions = Arc::clone(&world.app.running.server.sessions);
    let done = Arc::new(AtomicBool::new(false));
    let pruning = {
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let pruned = sessions.housekeeping().prune().await.unwrap();
            done.store(true, Ordering::Release);
            pruned
        })
    };
    let mut during = Vec::new();
    while !done.load(Ordering::Acquire) {
        during.push(refresh_once().await);
    }
    let pruned = pruning.await.unwrap();
    // The scheduled task may have taken some of them first.
    let (left, noted) = (
        world.raw.number("SELECT count(*) FROM sessions").await,
        world.app.running.server.metrics.encode(),
    );
    println!(
        "{pruned} pruned; refresh p99 and longest: before {:?}, during {:?} ({} refreshes)",
        tail(before),
        tail(during.clone()),
        during.len()
    );
    assert_eq!(left, 3);
    assert!(
        noted.contains(&format!("keyround_sessions_pruned_total {}", EXPIRED - 2)),
        "{noted}"
    );
    assert!(!during.is_empty());
    assert!(refresh(&world.app, &token).await.is_ok());
    world.stop().await;
});

crate::on_both_databases!(a_session_stays_until_no_clock_takes_its_tokens_for_valid, |database| {
    let world = World::start(database, &[("accounts.session_absolute", "1h")]).await;
    let user = world.user("ada").await;
    let session = log_in(&world.app, &user).await.unwrap();
    let skew = world.app.config.keys.policy.windows().clock_skew;
    let at_its_end = world.clock.read().wall + Seconds(3_600);
    let db = &world.app.running.server.db;
    assert_eq!(db.prune_sessions(at_its_end - Seconds(60), 10).await.unwrap(), 0);
    world.pass(3_600 + 2 * skew.0 - 30).await;
    let sessions = &world.app.running.server.sessions;
    assert_eq!(sessions.housekeeping().prune().await.unwrap(), 0);
    world.pass(40).await;
    assert_eq!(sessions.housekeeping().prune().await.unwrap(), 1);
    assert_eq!(refused(&world.app, &session.refresh_token).await, Refused::Unknown);
    world.stop().await;
});
