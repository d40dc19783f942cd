//! `kill -9` at 500 random moments of accelerated rotation, half of them on each database.

use std::time::Duration;

use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;

use crate::child::{Process, inspect, random, register_clients};
use crate::helpers::TestDatabase;
use crate::verifier::Verifier;

/// Kills on each database.
const KILLS: usize = 250;
/// A server that was killed is ready again within this time: one of four at least, for a busy machine holds up the others. The median is
/// printed.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// The same 99 times of 100, with room for a machine on which a build without optimization shares two cores with all the
/// servers, databases and tests beside it; the figure that is printed tells what it was.
const READY_WITHIN_AT_WORST: Duration = Duration::from_secs(30);

/// The fastest policy that holds: a key of each algorithm every second, several generations pending.
pub const ACCELERATED: &[(&str, &str)] = &[
    ("keys.rotation_period", "1s"),
    ("keys.prepublish", "10s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "2s"),
    // A start that comes later than half of this after the last sign of life doubts its clock, and makes no key.
    ("keys.clock_skew", "8s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "10s"),
    ("tokens.max_token_ttl", "10s"),
];

/// Waits until it says that it can sign; answers with the time since its start.
pub async fn until_ready(process: &mut Process, verifier: &Verifier, started: Duration) -> Duration {
    process.until_it_serves().await;
    let url = format!("http://{}/readyz/issue", process.admin_address().unwrap());
    loop {
        let answer = verifier.http.get(&url).send().await;
        let took = verifier.clock.read().monotonic.saturating_sub(started);
        if answer.is_ok_and(|answer| answer.status() == 200) {
            return took;
        }
        assert!(took < Duration::from_mins(3), "it is not ready: {}", process.log());
        sleep(Duration::from_millis(5)).await;
    }
}

/// The longest of these times when the worst one of a hundred is left out.
pub fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// Takes and verifies until it is cut off.
async fn traffic(verifier: &mut Verifier, process: &mut Process) {
    let address = process.until_it_serves().await;
    loop {
        verifier.verify_all(address).await;
        verifier.take(address).await;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Ends a doubt, as the operator does after a start that came too late; false if there is none. A node in doubt makes no key, and no
/// server lives long enough here to become sure by itself.
pub fn confirm_clock(process: &Process) -> bool {
    let confirmed = process.run(&["clock", "confirm", "--reason", "the servers were killed", "--yes"]);
    let error = String::from_utf8(confirmed.stderr).unwrap();
    assert!(
        confirmed.status.success() || error.contains("the clock is not in doubt"),
        "{error}"
    );
    confirmed.status.success()
}

/// Kills servers on this database again and again; what was lost shows.
async fn kill(database: &TestDatabase) {
    let name = if database.url.starts_with("sqlite:") {
        "SQLite"
    } else {
        "PostgreSQL"
    };
    let mut verifier = Verifier::new(register_clients(database, ACCELERATED).await);
    let clock = verifier.clock.clone();
    let mut state = clock.read().wall.0.unsigned_abs();
    println!("{name}: seed {state}");
    let (mut ready, mut newest, mut rises, mut confirmed) = (Vec::new(), vec![0, 0], 0, 0);
    // How long a start took lately, in milliseconds.
    let mut start = 300;
    for cycle in 0..KILLS {
        let started = clock.read().monotonic;
        let mut process = Process::spawn(database, "killed", ACCELERATED);
        // Every third one dies while it starts. The others are waited for, however long they take, or the slow ones would be
        // missing in the measure.
        let mut longest = start;
        if cycle % 3 != 0 {
            let took = until_ready(&mut process, &verifier, started).await;
            start = u64::try_from(took.as_millis()).unwrap().max(100);
            ready.push(took);
            longest = 300;
        }
        tokio::select! {
            // The moment is what is tested: any point of a start, a rotation, a request.
            () = sleep(Duration::from_millis(random(&mut state, longest))) => {}
            () = traffic(&mut verifier, &mut process) => {}
        }
        process.kill();
        // Otherwise the server itself is the first to open what the crash left behind.
        if cycle % 5 == 4 {
            let now_newest = inspect(database).await;
            rises += usize::from(now_newest.iter().zip(&newest).all(|(now, before)| now > before));
            newest = now_newest;
            confirmed += usize::from(confirm_clock(&process));
        }
    }
    let after_crashes = inspect(database).await;
    let mut process = Process::spawn(database, "last", ACCELERATED);
    let address = process.until_it_serves().await;
    let since = clock.read().monotonic;
    loop {
        verifier.verify_all(address).await;
        verifier.take(address).await;
        newest = inspect(database).await;
        if newest
            .iter()
            .zip(&after_crashes)
            .all(|(now, before)| *now >= before + 3)
        {
            break;
        }
        let waited = clock.read().monotonic.saturating_sub(since);
        assert!(
            waited < Duration::from_mins(1),
            "rotation does not resume: {}",
            process.log()
        );
        sleep(Duration::from_millis(200)).await;
    }
    let (count, p99) = (ready.len(), p99(&mut ready));
    println!(
        "{name}: {KILLS} kills, {count} starts measured, ready again p50 {:?} p99 {p99:?}; {}; generations {newest:?}, rose in \
         {rises} of {} looks; the clock was confirmed {confirmed} times",
        ready[count / 2],
        verifier.figures(),
        KILLS / 5
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
    assert!(rises >= KILLS / 20, "too little happened between the crashes");
    assert!(
        verifier.taken.iter().all(|&taken| taken >= KILLS / 4),
        "{:?}",
        verifier.taken
    );
    assert!(
        ready[count / 4] <= READY_WITHIN,
        "ready again after {:?}",
        ready[count / 4]
    );
    assert!(p99 <= READY_WITHIN_AT_WORST, "ready again after {p99:?}");
    for alg in Algorithm::ALL {
        verifier.take_one_at_last(address, alg).await;
    }
    process.tell_to_stop();
    assert_eq!(process.until_it_ends().await.code(), Some(0));
}

on_both_databases_at_once!(servers_killed_at_500_random_moments_lose_nothing, |database| kill(
    &database
)
.await);
