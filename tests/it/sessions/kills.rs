//! `kill -9` between commit and answer, of real servers.
//!
//! With PostgreSQL the moment is exact: the rows are locked, so that the claims wait in the database; the server is stopped, the
//! locks are let go, the database commits the claims of a server that hears nothing of it, and the server is killed. With SQLite
//! the server itself commits: it is killed as soon as its log says so, while many refreshes are under way, and what counts are
//! those that the file holds and nobody was answered.

use std::process::Command;
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use serde_json::Value;
use tokio::task::JoinSet;

use super::world::{CLIENT, ES256_ALONE, World, create_user, log_in};
use crate::child::Process;
use crate::helpers::TestDatabase;
use crate::rows::Raw;

/// One session: its token, and the generation of it.
struct Family {
    sid: String,
    token: String,
    generation: i64,
}

async fn families(
    database: TestDatabase,
    count: usize,
    settings: &[(&'static str, &'static str)],
) -> (TestDatabase, Raw, Vec<Family>) {
    let World { database, raw, app, .. } = World::start_with_clock(database, settings, Clock::system()).await;
    let user = create_user(&app, "ada").await;
    let mut families = Vec::new();
    for _ in 0..count {
        let tokens = log_in(&app, &user).await.unwrap();
        families.push(Family {
            sid: tokens.sid.to_string(),
            token: tokens.refresh_token.to_string(),
            generation: 1,
        });
    }
    app.running.stop().await;
    (database, raw, families)
}

/// Stops a process, and waits until each of its threads stands still.
async fn stop(process: &Process) {
    let id = process.child.id().to_string();
    let told = Command::new("kill").args(["-STOP", &id]).status();
    assert!(told.unwrap().success());
    let stands = |thread: std::io::Result<std::fs::DirEntry>| {
        // A thread that is gone meanwhile does nothing either.
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    };
    while !std::fs::read_dir(format!("/proc/{id}/task")).unwrap().all(stands) {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Asks for the successor over the wire; an error when the connection ends without an answer.
async fn ask(http: reqwest::Client, url: String, token: String) -> Result<String, reqwest::Error> {
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT),
        ("refresh_token", token.as_str()),
    ];
    // A busy machine may be asked to try again, with the same token.
    for _ in 0..600 {
        let answer = http.post(&url).form(&form).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await?;
        if status == 503 {
            sleep(Duration::from_millis(100)).await;
            continue;
        }
        assert_eq!(status, 200, "{body}");
        return Ok(body["refresh_token"].as_str().unwrap().to_owned());
    }
    panic!("the server asked to try again six hundred times");
}

/// All at once, each on a connection of its own.
fn ask_all(url: &str, families: &[Family]) -> JoinSet<(usize, Result<String, reqwest::Error>)> {
    let mut asking = JoinSet::new();
    let http = reqwest::Client::new();
    for (place, family) in families.iter().enumerate() {
        let (http, url, token) = (http.clone(), url.to_owned(), family.token.clone());
        asking.spawn(async move { (place, ask(http, url, token).await) });
    }
    asking
}

async fn until_number(raw: &Raw, sql: &str, expected: i64) {
    for _ in 0..20_000 {
        if raw.number(sql).await == expected {
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
    panic!("never {expected}: {sql}");
}

/// The clients whose answer was lost try again, at a server that knows nothing of the one that is gone.
async fn retry(url: &str, families: &mut [Family]) {
    let answers = ask_all(url, families).join_all().await;
    assert_eq!(answers.len(), families.len());
    for (place, answer) in answers {
        let family = &mut families[place];
        family.token = answer.unwrap_or_else(|error| panic!("no answer to {}: {error:?}", family.sid));
        family.generation += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commits_that_a_killed_server_never_answered_are_found_again_on_postgres() {
    // As many as the server has connections, less those that it needs for itself.
    const AT_ONCE: usize = 16;
    let (database, raw, mut families) = families(TestDatabase::postgres().await, AT_ONCE, &[]).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE sessions%' \
                   AND datname = current_database()";
    let (mut lost, mut kills) = (0, 0);
    let mut owed = false;
    loop {
        let mut process = Process::spawn(&database, "killed", &ES256_ALONE);
        let url = format!("http://{}/oauth2/token", process.until_it_serves().await);
        if owed {
            retry(&url, &mut families).await;
            lost += AT_ONCE;
        }
        if lost >= 1_000 {
            break;
        }
        let held = raw.hold("SELECT sid FROM sessions FOR UPDATE").await;
        let asking = ask_all(&url, &families);
        let all = i64::try_from(AT_ONCE).unwrap();
        until_number(&raw, waiting, all).await;
        stop(&process).await;
        held.let_go().await;
        let ahead = families[0].generation + 1;
        let committed = format!("SELECT count(*) FROM sessions WHERE generation = {ahead}");
        until_number(&raw, &committed, all).await;
        process.kill();
        kills += 1;
        let answers = asking.join_all().await;
        assert!(answers.iter().all(|(_, answer)| answer.is_err()), "an answer was heard");
        owed = true;
    }
    println!("{kills} kills, {lost} of {lost} lost answers were found again");
    assert_eq!(
        raw.number("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
    let replayed = raw
        .number("SELECT count(*) FROM audit WHERE event = 'session.replayed'")
        .await;
    assert_eq!(replayed, i64::try_from(lost).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commits_that_killed_servers_never_answered_are_found_again_on_sqlite() {
    const AT_ONCE: usize = 32;
    const ENOUGH: usize = 1_000;
    // An answer takes its time to be signed, and the kill comes before it.
    let slow = [
        ("keys.algorithms", "RS256"),
        ("tokens.default_algorithm", "RS256"),
        ("keys.rsa_bits", "4096"),
        ("log.filter", "info,keyround::sessions=debug"),
    ];
    let (database, raw, mut families) = families(TestDatabase::sqlite(), AT_ONCE, &slow[..3]).await;
    let (mut lost, mut kills, mut owed) = (0, 0, 0);
    loop {
        assert!(kills < 200, "only {lost} answers were lost");
        let mut process = Process::spawn(&database, "killed", &slow);
        let url = format!("http://{}/oauth2/token", process.until_it_serves().await);
        if kills > 0 {
            // Whether or not it was committed, each client goes on with the token that it has.
            retry(&url, &mut families).await;
            lost += owed;
        }
        if lost >= ENOUGH {
            break;
        }
        let before = claims(&process);
        let asking = ask_all(&url, &families);
        // The first is claimed alone, those who came meanwhile together.
        let nth = 2 + kills % 3;
        for _ in 0..100_000 {
            if claims(&process) >= before + nth {
                break;
            }
            sleep(Duration::from_micros(200)).await;
        }
        process.kill();
        kills += 1;
        owed = 0;
        for (place, answer) in asking.join_all().await {
            let family = &mut families[place];
            let generation = format!("SELECT generation FROM sessions WHERE sid = '{}'", family.sid);
            let committed = raw.number(&generation).await > family.generation;
            assert!(committed || answer.is_err(), "it was answered and not committed");
            match answer {
                Ok(token) => {
                    family.token = token;
                    family.generation += 1;
                }
                Err(_) => owed += usize::from(committed),
            }
        }
    }
    println!("{kills} kills, {lost} of {lost} lost answers were found again");
    for family in &families {
        let generation = format!("SELECT generation FROM sessions WHERE sid = '{}'", family.sid);
        assert_eq!(raw.number(&generation).await, family.generation);
    }
    assert_eq!(raw.texts("PRAGMA integrity_check").await, ["ok"]);
    assert_eq!(
        raw.number("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
}

/// How many commits its log tells of.
fn claims(process: &Process) -> usize {
    process.log().matches("a generation is claimed").count()
}
