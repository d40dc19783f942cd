//! A database that is copied from SQLite to PostgreSQL and back while keys rotate: no token from before is refused after it.

use std::time::Duration;

use keyround::clock::sleep;

use crate::child::{Process, register_clients};
use crate::helpers::TestDatabase;
use crate::set_back::POLICY;
use crate::until;
use crate::verifier::Verifier;

/// How often tokens are taken and verified between two copies, twice a second: longer than a key signs.
const ROUNDS: u32 = 30;

/// As many servers as this database is for, ready to sign.
async fn start(database: &TestDatabase, verifier: &Verifier, name: &str) -> Vec<Process> {
    let count = if database.url.starts_with("sqlite:") { 1 } else { 2 };
    let mut started = Vec::new();
    for node in 0..count {
        let mut process = Process::spawn(database, &format!("{name}-{node}"), POLICY);
        process.until_it_serves().await;
        until("it is ready", || async {
            verifier
                .failing_checks(process.admin_address().unwrap())
                .await
                .is_empty()
        })
        .await;
        started.push(process);
    }
    started
}

async fn newest_generation(database: &TestDatabase) -> i64 {
    let raw = crate::rows::Raw::open(database).await;
    let newest = raw.number("SELECT MAX(generation) FROM signing_keys").await;
    raw.close().await;
    newest
}

/// Copies the database of servers that have stopped. One that could not sign off, because the database was slow, says so, and counts as
/// running until its last heartbeat is old.
async fn copy(stopped: &[Process], next: &TestDatabase) {
    for _ in 0..600 {
        let copied = stopped[0].run(&["db", "copy", "--to", &next.url]);
        if copied.status.success() {
            return;
        }
        let told = String::from_utf8_lossy(&copied.stderr);
        let logs: Vec<_> = stopped.iter().map(Process::log).collect();
        let did_not_sign_off =
            |log: &String| log.contains("this node could not sign off") || log.contains("not everything ended in time");
        assert!(
            told.contains("servers run on") && logs.iter().any(did_not_sign_off),
            "{told} {logs:#?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
    panic!("servers that stopped a minute ago count as running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_token_is_refused_because_the_database_was_copied() {
    let databases = [
        TestDatabase::sqlite(),
        TestDatabase::postgres().await,
        TestDatabase::sqlite(),
    ];
    let mut verifier = Verifier::new(register_clients(&databases[0], POLICY).await);
    let mut generation = 0;
    for (number, database) in databases.iter().enumerate() {
        let mut processes = start(database, &verifier, &format!("server-{number}")).await;
        for _ in 0..ROUNDS {
            for process in &processes {
                let address = process.address().unwrap();
                verifier.take(address).await;
                verifier.verify_all(address).await;
            }
            sleep(Duration::from_millis(500)).await;
        }
        let newest = newest_generation(database).await;
        assert!(newest > generation, "no key rotated");
        generation = newest;
        for process in &mut processes {
            process.tell_to_stop();
            assert_eq!(process.until_it_ends().await.code(), Some(0));
        }
        if let Some(next) = databases.get(number + 1) {
            copy(&processes, next).await;
        }
    }
    println!("{}", verifier.figures());
    assert!(verifier.refused.is_empty(), "{:?}", verifier.refused);
    assert!(verifier.verified > 1_000 && verifier.taken.iter().all(|&taken| taken > 50));
}
