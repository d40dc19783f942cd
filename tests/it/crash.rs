//! The server as a process: killed while it makes its database, and told to stop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use keyround::clock::{Clock, sleep};

use crate::child::{Process, inspect, random, register_clients};
use crate::helpers::TestDatabase;
use crate::rows::Raw;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_finishes_the_request_under_way_and_exits_with_zero() {
    for _ in 0..10 {
        let answer = finish_what_is_under_way().await;
        // The body came too late: the machine was held up between its two halves.
        if answer.starts_with("HTTP/1.1 408 ") {
            continue;
        }
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("access_token"),
            "{answer}"
        );
        return;
    }
    panic!("no body came in time");
}

async fn finish_what_is_under_way() -> String {
    let database = TestDatabase::sqlite();
    let secret = register_clients(&database, &[]).await;
    let mut process = Process::spawn(&database, "server", &[]);
    let address = process.until_it_serves().await;

    let body = format!("grant_type=client_credentials&client_id=ES256&client_secret={secret}");
    let (first, rest) = body.split_at(20);
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    write!(
        slow,
        "POST /oauth2/token HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    )
    .unwrap();
    // Answered after the slow request's head was sent, so the server is at it.
    assert_eq!(
        reqwest::get(format!("http://{address}/.well-known/jwks.json"))
            .await
            .unwrap()
            .status(),
        200
    );

    process.tell_to_stop();
    while TcpStream::connect(address).is_ok() {
        assert_eq!(process.child.try_wait().unwrap(), None, "{}", process.log());
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        process.child.try_wait().unwrap(),
        None,
        "it did not wait: {}",
        process.log()
    );
    slow.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert_eq!(process.until_it_ends().await.code(), Some(0), "{}", process.log());

    let raw = Raw::open(&database).await;
    assert_eq!(
        raw.number("SELECT count(*) FROM nodes").await,
        0,
        "it did not sign off: {}",
        process.log()
    );
    answer
}

/// Starts it with this master key; it must end by itself, with a sentence that holds `says`, and without having served.
async fn refuses_to_start(database: &TestDatabase, master_key: &[(&str, &str)], code: i32, says: &str) {
    let mut process = Process::spawn(database, "refused", master_key);
    let status = process.until_it_ends().await;
    let log = process.log();
    assert_eq!(status.code(), Some(code), "{log}");
    assert!(log.contains(says), "{log}");
    assert_eq!(process.address(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_master_key_it_ends_before_it_serves() {
    let database = TestDatabase::sqlite();
    let short = &[("keys.master_key", "c2hvcnQ=")];
    let file = database.folder.path().join("keyround.db");
    refuses_to_start(&database, short, 2, "the master key cannot be used").await;
    assert!(!file.exists(), "a database was made");
    // Nobody said which.
    refuses_to_start(&database, &[("keys.master_key", "")], 2, "keys.master_key").await;
    assert!(!file.exists(), "a database was made");

    register_clients(&database, &[]).await;
    let mut process = Process::spawn(&database, "first", &[]);
    process.until_it_serves().await;
    process.tell_to_stop();
    assert_eq!(process.until_it_ends().await.code(), Some(0));
    let before = inspect(&database).await;
    let other = &[("keys.master_key", "9mYv4p0b8i3Jx6s1Qd2LwZc7RkT5uN0eHgAqVnXyBjo=")];
    refuses_to_start(&database, other, 1, "another master key").await;
    assert_eq!(inspect(&database).await, before);
}

/// Counts the rows of the first start.
async fn assert_one_key_an_algorithm(database: &TestDatabase) {
    let raw = Raw::open(database).await;
    let lines = raw
        .texts("SELECT alg || generation FROM signing_keys ORDER BY alg")
        .await;
    assert_eq!(lines, ["ES2561", "RS2561"]);
    assert_eq!(raw.number("SELECT count(*) FROM secrets").await, 1);
    raw.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_makes_its_database_it_starts_the_next_time() {
    let mut state = Clock::system().read().wall.0.unsigned_abs();
    println!("seed {state}");
    for _ in 0..25 {
        let database = TestDatabase::sqlite();
        let mut killed = Process::spawn(&database, "killed", &[]);
        // The moment is what is tested: a migration, the first keys, anything before it serves.
        sleep(Duration::from_millis(random(&mut state, 150))).await;
        killed.kill();
        let mut next = Process::spawn(&database, "next", &[]);
        next.until_it_serves().await;
        assert_one_key_an_algorithm(&database).await;
        inspect(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_that_make_one_database_at_once_all_serve() {
    for _ in 0..5 {
        let database = TestDatabase::sqlite();
        let mut started: Vec<Process> = ["one", "two", "three"]
            .map(|name| Process::spawn(&database, name, &[]))
            .into();
        for process in &mut started {
            process.until_it_serves().await;
        }
        assert_one_key_an_algorithm(&database).await;
    }
}

/// Of three servers one ends at once, or a connection that idles is waited for; a busy machine may hold up the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_idles_does_not_hold_up_the_end() {
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(end_beside_a_connection_that_idles().await);
        if took.last().unwrap() < &Duration::from_secs(5) {
            return;
        }
    }
    panic!("they waited {took:?} for a connection that idles");
}

async fn end_beside_a_connection_that_idles() -> Duration {
    let database = TestDatabase::sqlite();
    let mut process = Process::spawn(&database, "server", &[]);
    let address = process.until_it_serves().await;
    let http = reqwest::Client::new();
    let url = format!("http://{address}/.well-known/jwks.json");
    let read = http.get(url).send().await.unwrap().bytes().await.unwrap();
    assert!(!read.is_empty());
    let clock = Clock::system();
    let before = clock.read().monotonic;
    process.tell_to_stop();
    assert_eq!(process.until_it_ends().await.code(), Some(0), "{}", process.log());
    let took = clock.read().monotonic.saturating_sub(before);
    println!("ended after {took:?}");
    drop(http);
    took
}
