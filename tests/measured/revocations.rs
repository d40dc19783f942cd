//! What a million denied tokens and a million ended sessions cost a node: at its start, in memory, while it is idle, and for one more.

use std::time::Duration;

use keyround::clock::{Clock, UnixTime, sleep};

use crate::bounds::resident;
use crate::child::Process;
use crate::helpers::{TestDatabase, entry};
use crate::rows::Raw;

const MANY: u64 = 1_000_000;
const IDLE: Duration = Duration::from_secs(60);
/// Denials whose median is compared.
const DENIALS: usize = 200;

/// The time on a processor until now, in hundredths of a second.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap();
    // After the name, which is in brackets, user and system time are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The share of one core that an idle server takes.
async fn idle(process: &Process) -> f64 {
    let before = u32::try_from(ticks(process)).unwrap();
    sleep(IDLE).await;
    let after = u32::try_from(ticks(process)).unwrap();
    f64::from(after - before) / 100.0 / IDLE.as_secs_f64()
}

/// Starts a server; answers with it and the time until it serves.
async fn start(database: &TestDatabase, name: &str) -> (Process, Duration) {
    let clock = Clock::system();
    let before = clock.read().monotonic;
    let mut process = Process::spawn(database, name, &[("log.filter", "warn,keyround::app=info")]);
    process.until_it_serves().await;
    (process, clock.read().monotonic - before)
}

/// The median time of one denial and of the look that finds it.
async fn revocation(database: &TestDatabase, prefix: &str) -> (Duration, Duration) {
    let (db, clock) = (database.open().await, Clock::system());
    let mut known = db.look(None).await.unwrap().revocations.position;
    let (mut denials, mut looks) = (Vec::new(), Vec::new());
    for number in 0..DENIALS {
        let jti = format!("{prefix}-{number}");
        let before = clock.read().monotonic;
        db.deny_token(&jti, UnixTime(4_000_000_000), &entry("token.denied", &jti))
            .await
            .unwrap();
        let denied = clock.read().monotonic;
        let look = db.look(Some(known)).await.unwrap().revocations;
        looks.push(clock.read().monotonic - denied);
        denials.push(denied - before);
        assert!(!look.is_whole && look.revoked.len() <= 2, "{look:?}");
        known = look.position;
    }
    denials.sort_unstable();
    looks.sort_unstable();
    (denials[DENIALS / 2], looks[DENIALS / 2])
}

async fn fill(database: &TestDatabase) {
    let raw = Raw::open(database).await;
    let (numbers, id) = match &raw {
        Raw::Sqlite(_) => (
            format!("WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MANY}) "),
            "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8' || \
             substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))",
        ),
        Raw::Postgres(_) => (
            format!("WITH numbers (n) AS (SELECT generate_series(1, {MANY})) "),
            "CAST(gen_random_uuid() AS TEXT)",
        ),
    };
    raw.execute(&format!(
        "{numbers} INSERT INTO denied_tokens (jti, denied_until, denied_at) SELECT {id}, 4000000000, 1 FROM numbers"
    ))
    .await;
    raw.execute(&format!(
        "{numbers} INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, \
         rotated_at, expires_at, address, user_agent, revoked_at, revoked_for) SELECT {id}, '', 'default', '', '', 1, '', '', 1, 1, \
         4000000000, '', '', 1, 'logout' FROM numbers"
    ))
    .await;
    raw.close().await;
}

async fn measure(database: TestDatabase, kind: &str) {
    let (mut empty, _) = start(&database, "empty").await;
    let (idle_before, memory_before) = (idle(&empty).await, resident(&empty));
    empty.tell_to_stop();
    assert!(empty.until_it_ends().await.success());
    let (deny_before, look_before) = revocation(&database, "before").await;
    fill(&database).await;
    let (mut full, ready) = start(&database, "full").await;
    let (idle_after, memory_after) = (idle(&full).await, resident(&full));
    full.tell_to_stop();
    assert!(full.until_it_ends().await.success());
    let (deny_after, look_after) = revocation(&database, "after").await;
    let names = 2 * MANY;
    let octets = memory_after.saturating_sub(memory_before) / names;
    println!(
        "{kind}: idle {:.2}% of a core with none, {:.2}% with {names}; {octets} bytes for each; ready after {ready:.1?}; a denial {deny_before:.1?} \
         and {deny_after:.1?}, the look that finds it {look_before:.1?} and {look_after:.1?}",
        idle_before * 100.0,
        idle_after * 100.0
    );
    assert!(octets <= 100, "{octets}");
    assert!(deny_after < deny_before * 2 && look_after < look_before * 2);
    // What is not optimised is no measure of it.
    if !cfg!(debug_assertions) {
        assert!(idle_after < 0.01, "{idle_after}");
        assert!(ready < Duration::from_secs(2), "{ready:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_revocations_cost_an_idle_node_nothing_on_sqlite() {
    measure(TestDatabase::sqlite(), "SQLite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_revocations_cost_an_idle_node_nothing_on_postgres() {
    measure(TestDatabase::postgres().await, "PostgreSQL").await;
}
