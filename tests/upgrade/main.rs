//! A rolling upgrade and a roll-back under load: real servers of the version before and of this one on one database, `make proof-upgrade`.
//!
//! People refresh, services ask for tokens, and every token that was ever granted is introspected on both nodes, whichever version they are
//! of. Nothing is refused and nobody is logged out; whoever logs out is gone on both.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic, and so may what it stands on"
)]

#[path = "../it/helpers.rs"]
#[allow(dead_code, unused_macros, reason = "the other binaries use the rest")]
mod helpers;
#[path = "../it/ports.rs"]
#[allow(dead_code, reason = "the other binaries use the rest")]
mod ports;
#[path = "../it/process.rs"]
#[allow(dead_code, unused_imports, reason = "the other binaries use the rest")]
mod process;

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyround::clock::sleep;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use helpers::TestDatabase;
use process::{BINARY, Serving};

const ISSUER: &str = "http://127.0.0.1:8080";
const PASSWORD: &str = "a long walk in the rain";
/// `keys.replica_refresh`, within which every node knows of an end, and as much again for a busy machine.
const KNOWN_EVERYWHERE: Duration = Duration::from_secs(10);
const PEOPLE: usize = 6;

/// The binary of the version before, which `tests/before.sh` builds.
#[expect(clippy::disallowed_methods, reason = "the script tells where it is")]
fn before() -> String {
    std::env::var("KEYROUND_BEFORE").expect("KEYROUND_BEFORE: run this by 'make proof-upgrade'")
}

fn variables(database: &TestDatabase) -> Vec<(&'static str, String)> {
    [
        ("KEYROUND_SERVER__ISSUER", ISSUER),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_DATABASE__URL", &database.url),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_ACCOUNTS__BCRYPT_COST", "4"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

fn command(binary: &str, database: &TestDatabase, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .current_dir(database.folder.path())
        .env_clear()
        .env("PATH", process::PATH)
        .envs(variables(database))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(binary: &str, database: &TestDatabase, arguments: &[&str]) -> Output {
    let output = command(binary, database, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

fn serve(binary: &str, database: &TestDatabase) -> Serving {
    Serving::start_by(command(binary, database, &["serve"]), &[])
}

/// One who is logged in, and every access token of theirs.
struct Person {
    refresh_token: String,
    access_tokens: Vec<String>,
}

/// Two nodes, and everything that was granted.
struct Site {
    http: reqwest::Client,
    urls: Mutex<[String; 2]>,
    secret: String,
    people: Mutex<Vec<Person>>,
    service_tokens: Mutex<Vec<String>>,
    next: AtomicUsize,
    refreshes: AtomicUsize,
    introspections: AtomicUsize,
}

impl Site {
    /// Sends a request as a balancer does: to the other node when one does not answer, or is not ready.
    async fn send(&self, request: impl Fn(&str) -> reqwest::RequestBuilder) -> (u16, Value) {
        for _ in 0..600 {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let url = self.urls.lock().await[turn % 2].clone();
            match request(&url).send().await {
                Ok(answer) if answer.status() != 503 => {
                    let status = answer.status().as_u16();
                    return (status, answer.json().await.unwrap_or(Value::Null));
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("no node answers");
    }

    async fn log_in(&self) -> Person {
        let body = json!({ "email": "ada@example.com", "password": PASSWORD, "token_delivery": "body" });
        let (status, told) = self
            .send(|url| self.http.post(format!("{url}/auth/login")).json(&body))
            .await;
        assert_eq!(status, 200, "{told}");
        Person {
            refresh_token: told["refresh_token"].as_str().unwrap().to_owned(),
            access_tokens: vec![told["access_token"].as_str().unwrap().to_owned()],
        }
    }

    /// A refused refresh is somebody who is logged out.
    async fn refresh(&self, person: &mut Person) {
        let body = json!({ "refresh_token": person.refresh_token });
        let (status, told) = self
            .send(|url| self.http.post(format!("{url}/auth/refresh")).json(&body))
            .await;
        assert_eq!(status, 200, "logged out: {told}");
        told["refresh_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut person.refresh_token);
        person
            .access_tokens
            .push(told["access_token"].as_str().unwrap().to_owned());
        self.refreshes.fetch_add(1, Ordering::Relaxed);
    }

    async fn service_token(&self) {
        let form = [("grant_type", "client_credentials")];
        let (status, told) = self
            .send(|url| {
                let request = self.http.post(format!("{url}/oauth2/token")).form(&form);
                request.basic_auth("billing", Some(&self.secret))
            })
            .await;
        assert_eq!(status, 200, "{told}");
        let token = told["access_token"].as_str().unwrap().to_owned();
        self.service_tokens.lock().await.push(token);
    }

    /// Whether this node takes the token for valid.
    async fn is_active(&self, node: usize, token: &str) -> bool {
        for _ in 0..600 {
            let url = self.urls.lock().await[node].clone();
            let request = self
                .http
                .post(format!("{url}/oauth2/introspect"))
                .form(&[("token", token)]);
            match request.basic_auth("billing", Some(&self.secret)).send().await {
                Ok(answer) if answer.status() == 200 => {
                    self.introspections.fetch_add(1, Ordering::Relaxed);
                    let told: Value = answer.json().await.unwrap();
                    return told["active"].as_bool().unwrap();
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("node {node} does not answer");
    }

    /// Every token on every node; a session goes on at both; and who logs out at either is gone at both.
    async fn check(&self, phase: &str) {
        for node in 0..2 {
            let mut tokens = self.service_tokens.lock().await.clone();
            for person in &*self.people.lock().await {
                tokens.extend(person.access_tokens.iter().cloned());
            }
            for token in tokens {
                assert!(
                    self.is_active(node, &token).await,
                    "{phase}: node {node} refuses a token"
                );
            }
        }
        for node in 0..2 {
            let mut leaver = self.log_in().await;
            self.refresh(&mut leaver).await;
            let url = self.urls.lock().await[node].clone();
            let last = leaver.access_tokens.last().unwrap();
            let answer = self
                .http
                .post(format!("{url}/auth/logout"))
                .bearer_auth(last)
                .send()
                .await;
            assert_eq!(answer.unwrap().status(), 204, "{phase}");
            for token in &leaver.access_tokens {
                assert!(
                    !self.is_active(node, token).await,
                    "{phase}: accepted where it was ended"
                );
            }
            sleep(KNOWN_EVERYWHERE).await;
            for token in &leaver.access_tokens {
                assert!(
                    !self.is_active(1 - node, token).await,
                    "{phase}: accepted on the other node"
                );
            }
            let url = self.urls.lock().await[1 - node].clone();
            let body = json!({ "refresh_token": leaver.refresh_token });
            let answer = self.http.post(format!("{url}/auth/refresh")).json(&body).send().await;
            assert_eq!(answer.unwrap().status(), 401, "{phase}: refreshed after the logout");
        }
        // Whoever logged in at this mixture goes on through the next ones.
        let newcomer = self.log_in().await;
        self.people.lock().await.push(newcomer);
    }
}

async fn upgrade_and_roll_back(database: TestDatabase) {
    let before = before();
    let mut nodes = [serve(&before, &database), serve(&before, &database)];
    let created = run(
        &before,
        &database,
        &[
            "--json",
            "clients",
            "create",
            "--id",
            "billing",
            "--grant",
            "client_credentials",
            "--audience",
            "https://api.example.com",
            "--serves",
            ISSUER,
        ],
    );
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let site = Arc::new(Site {
        http: reqwest::Client::new(),
        urls: Mutex::new([nodes[0].url.clone(), nodes[1].url.clone()]),
        secret: created["client_secret"].as_str().unwrap().to_owned(),
        people: Mutex::default(),
        service_tokens: Mutex::default(),
        next: AtomicUsize::new(0),
        refreshes: AtomicUsize::new(0),
        introspections: AtomicUsize::new(0),
    });
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "name": "Ada", "token_delivery": "body" });
    let (status, told) = site
        .send(|url| site.http.post(format!("{url}/auth/register")).json(&body))
        .await;
    assert_eq!(status, 202, "{told}");
    for _ in 0..PEOPLE {
        let person = site.log_in().await;
        site.people.lock().await.push(person);
        site.service_token().await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (site, done) = (Arc::clone(&site), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let count = site.people.lock().await.len();
                for place in 0..count {
                    site.refresh(&mut site.people.lock().await[place]).await;
                    // Within `accounts.refresh_limit_session`.
                    sleep(Duration::from_millis(300)).await;
                }
                site.service_token().await;
            }
        })
    };
    site.check("both before").await;
    let foreseen = run(BINARY, &database, &["db", "check", "--for-upgrade"]);
    let foreseen = String::from_utf8(foreseen.stdout).unwrap();
    for line in [
        "2 run, and go on beside this version",
        "may be put back afterwards",
        "works since 0028 login sessions",
    ] {
        assert!(foreseen.contains(line), "{foreseen}");
    }
    for (node, binary, phase) in [
        (0, BINARY, "one upgraded"),
        (1, BINARY, "both upgraded"),
        (0, &before, "one put back"),
        (1, &before, "both put back"),
    ] {
        nodes[node].terminate();
        let next = serve(binary, &database);
        site.urls.lock().await[node].clone_from(&next.url);
        let (status, log, _) = std::mem::replace(&mut nodes[node], next).stop();
        assert!(status.success(), "{log:#?}");
        site.check(phase).await;
        assert!(!load.is_finished(), "{phase}");
    }
    done.store(true, Ordering::Relaxed);
    load.await.unwrap();
    println!(
        "{} people, {} refreshes, {} introspections; 0 refused, 0 logged out",
        site.people.lock().await.len(),
        site.refreshes.load(Ordering::Relaxed),
        site.introspections.load(Ordering::Relaxed)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_an_upgrade_and_a_roll_back_on_sqlite() {
    upgrade_and_roll_back(TestDatabase::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_an_upgrade_and_a_roll_back_on_postgres() {
    upgrade_and_roll_back(TestDatabase::postgres().await).await;
}
