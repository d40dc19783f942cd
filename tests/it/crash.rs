//! The server as a process: killed at random moments, restarted at once, and told to stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use keyround::app::Foundation;
use keyround::clock::{Clock, UnixTime, sleep};
use keyround::config::settings;
use keyround::http::token::CLIENT_SECRET_PURPOSE;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::PublicJwk;
use keyround::jose::jwt::verify_access_token_signature;
use keyround::jose::key::PrivateKey;
use keyround::jose::seal::random_secret;
use keyround::keyring::binding;
use keyround::oauth::client::{Client, Grant};
use keyround::store::Db;
use serde_json::Value;

use crate::helpers::{TestDatabase, config, entry, master_key};
use crate::rows::Raw;

/// The fastest policy that holds: a key of each algorithm every second, several generations pending.
const ACCELERATED: &[(&str, &str)] = &[
    ("keys.rotation_period", "1s"),
    ("keys.prepublish", "4s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "2s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "10s"),
    ("tokens.max_token_ttl", "10s"),
];

/// A `keyround serve` under way; killed when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the server on free ports; everything it needs is in its environment. Of two settings
    /// the later counts; an empty one is left out.
    fn spawn(database: &TestDatabase, name: &str, more: &[(&str, &str)]) -> Self {
        let log = database.folder.path().join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let always = [
            ("server.issuer", "http://127.0.0.1:8080"),
            ("server.listen", "127.0.0.1:0"),
            ("server.admin_listen", "127.0.0.1:0"),
            ("keys.master_key", "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U="),
            ("log.format", "json"),
            ("database.url", &database.url),
        ];
        let settings: BTreeMap<_, _> = always.iter().chain(more).copied().collect();
        let variables = settings
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (settings::find(name).unwrap().variable(), value));
        let child = Command::new(env!("CARGO_BIN_EXE_keyround"))
            .arg("serve")
            .current_dir(database.folder.path())
            .env_clear()
            .envs(variables)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Where it serves, once it does.
    fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let after = log.split(r#""public":""#).nth(1)?;
        after.split('"').next()?.parse().ok()
    }

    async fn until_it_serves(&mut self) -> SocketAddr {
        for _ in 0..3_000 {
            if let Some(address) = self.address() {
                return address;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not serve: {}", self.log());
    }

    fn tell_to_stop(&self) {
        let kill = Command::new("kill")
            .arg("-TERM")
            .arg(self.child.id().to_string())
            .status();
        assert!(kill.unwrap().success());
    }

    async fn until_it_ends(&mut self) -> ExitStatus {
        for _ in 0..3_000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not end: {}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Registers a client for each algorithm before anything runs; answers with their common secret.
async fn register_clients(database: &TestDatabase, settings: &[(&str, &str)]) -> String {
    let foundation = Foundation::open(&config(database, settings), Clock::system())
        .await
        .unwrap();
    let secret = random_secret().unwrap();
    for alg in Algorithm::ALL {
        let client = Client {
            id: alg.name().parse().unwrap(),
            grants: vec![Grant::ClientCredentials],
            scope: "read".parse().unwrap(),
            audiences: vec!["https://api.example.com".parse().unwrap()],
            serves: Vec::new(),
            alg: Some(alg),
            token_ttl: None,
            created_at: UnixTime(0),
            disabled_at: None,
        };
        let digest = foundation.hash_key.digest(CLIENT_SECRET_PURPOSE, &secret);
        let entry = entry("client.created", alg.name());
        let created = foundation.rotator.db.create_client(&client, &digest, &entry).await;
        assert!(created.unwrap());
    }
    foundation.rotator.db.close().await;
    secret.to_string()
}

struct Held {
    token: String,
    exp: i64,
}

/// What lives through all the crashes: a verifier that never gives up a token before it expires.
struct Verifier {
    http: reqwest::Client,
    clock: Clock,
    secret: String,
    held: Vec<Held>,
    taken: [usize; 2],
    unavailable: usize,
    verified: usize,
    refused: Vec<String>,
}

impl Verifier {
    /// Holds every token that has not expired against the set that is served now.
    async fn verify_all(&mut self, address: SocketAddr) {
        let url = format!("http://{address}/.well-known/jwks.json");
        let set: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let keys: Vec<PublicJwk> = set["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| PublicJwk::parse(&key.to_string()).unwrap())
            .collect();
        let now = self.clock.read().wall.0;
        self.held.retain(|held| held.exp > now);
        for held in &self.held {
            self.verified += 1;
            if let Err(error) = verify_access_token_signature(&held.token, &keys) {
                self.refused
                    .push(format!("{error} at {now}, exp {}: {}", held.exp, held.token));
            }
        }
    }

    /// Takes a token of each algorithm; a server that has just come back may say "in a few seconds".
    async fn take(&mut self, address: SocketAddr) {
        for (index, alg) in Algorithm::ALL.into_iter().enumerate() {
            let answer = self
                .http
                .post(format!("http://{address}/oauth2/token"))
                .basic_auth(alg.name(), Some(&self.secret))
                .form(&[("grant_type", "client_credentials")])
                .send()
                .await
                .unwrap();
            if answer.status() == 503 {
                self.unavailable += 1;
                continue;
            }
            assert_eq!(answer.status(), 200);
            let body: Value = answer.json().await.unwrap();
            let exp = self.clock.read().wall.0 + body["expires_in"].as_i64().unwrap();
            let token = body["access_token"].as_str().unwrap().to_owned();
            // `exp` is at most a second off when the second turned in between: take the earlier.
            self.held.push(Held { token, exp: exp - 1 });
            self.taken[index] += 1;
        }
    }

    /// Takes and verifies until it is cut off; says when the server began to serve.
    async fn traffic(&mut self, process: &mut Process, served: &mut Option<Duration>) {
        let address = process.until_it_serves().await;
        *served = Some(self.clock.read().monotonic);
        loop {
            self.verify_all(address).await;
            self.take(address).await;
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The newest generation of each algorithm, after a look at everything that a crash could have broken.
async fn inspect(database: &TestDatabase) -> Vec<i64> {
    let raw = Raw::open(database).await;
    assert_eq!(raw.texts("PRAGMA integrity_check").await, ["ok"]);
    raw.close().await;
    let db = Db::connect(&database.url.parse().unwrap()).await.unwrap();
    let stored = db.signing_keys().await.unwrap();
    db.close().await;
    let keys = stored.keys();
    if keys.is_empty() {
        return vec![0, 0];
    }
    for row in &stored.rows {
        let (kid, alg) = (&row.key.kid, row.key.alg);
        let Some(sealed) = &row.sealed else { continue };
        let der = master_key().open(&binding(kid, alg), sealed).unwrap();
        let half = PrivateKey::from_pkcs8_der(alg, &der).unwrap();
        assert_eq!(half.public_jwk().unwrap().kid, *kid);
    }
    let now = Clock::system().read().wall;
    Algorithm::ALL
        .into_iter()
        .map(|alg| {
            let line = keys.line(alg);
            assert!(keys.active(alg, now).is_some(), "no {alg} key is active: {line:?}");
            let generations: Vec<i64> = line.iter().map(|key| key.generation).collect();
            assert!(
                generations.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "{generations:?}"
            );
            *generations.last().unwrap()
        })
        .collect()
}

/// The next number of a xorshift generator, below `bound`.
fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % bound
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_it_is_killed_100_times() {
    let database = TestDatabase::sqlite();
    let clock = Clock::system();
    let seed = clock.read().wall.0.unsigned_abs();
    println!("seed {seed}");
    let mut state = seed;
    let mut verifier = Verifier {
        http: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
        clock: clock.clone(),
        secret: register_clients(&database, ACCELERATED).await,
        held: Vec::new(),
        taken: [0, 0],
        unavailable: 0,
        verified: 0,
        refused: Vec::new(),
    };
    let (mut served_in, mut newest, mut rises) = (0, vec![0, 0], 0);
    // How long a start took lately, in milliseconds.
    let mut start = 300;
    for cycle in 0..100 {
        let mut process = Process::spawn(&database, &format!("cycle-{cycle}"), ACCELERATED);
        let mut served = None;
        // Every third one dies while it starts, the others at any time; a slow machine needs longer for both.
        let longest = if cycle % 3 == 0 { start } else { 2 * start + 1_000 };
        let moment = Duration::from_millis(random(&mut state, longest));
        let spawned = clock.read().monotonic;
        tokio::select! {
            // The moment is what is tested: any point of a start, a rotation, a request.
            () = sleep(moment) => {}
            () = verifier.traffic(&mut process, &mut served) => {}
        }
        assert_eq!(
            process.child.try_wait().unwrap(),
            None,
            "seed {seed}: it ended by itself: {}",
            process.log()
        );
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        if let Some(at) = served {
            served_in += 1;
            start = u64::try_from(at.saturating_sub(spawned).as_millis()).unwrap().max(100);
        }
        // Every other time the server itself is the first to open what the crash left behind.
        if cycle % 2 == 1 {
            let now_newest = inspect(&database).await;
            rises += usize::from(now_newest.iter().zip(&newest).all(|(now, before)| now > before));
            newest = now_newest;
        }
    }
    let after_crashes = inspect(&database).await;
    let mut process = Process::spawn(&database, "last", ACCELERATED);
    let address = process.until_it_serves().await;
    loop {
        verifier.verify_all(address).await;
        verifier.take(address).await;
        let newest = inspect(&database).await;
        if newest
            .iter()
            .zip(&after_crashes)
            .all(|(now, before)| *now >= before + 3)
        {
            break;
        }
        let since = clock.read().wall.0.unsigned_abs() - seed;
        assert!(since < 600, "rotation does not resume: {}", process.log());
        sleep(Duration::from_millis(200)).await;
    }
    println!(
        "{served_in} of 100 served before the kill; tokens {:?}, {} verifications, {} refused, {} times unavailable; \
         generations {newest:?}, rose in {rises} of 50 looks",
        verifier.taken,
        verifier.verified,
        verifier.refused.len(),
        verifier.unavailable
    );
    assert!(verifier.refused.is_empty(), "seed {seed}: {:#?}", verifier.refused);
    assert!(
        served_in >= 20 && rises >= 10,
        "too little happened between the crashes"
    );
    assert!(verifier.taken.iter().all(|&taken| taken >= 100), "{:?}", verifier.taken);
    process.tell_to_stop();
    assert_eq!(process.until_it_ends().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_finishes_the_request_under_way_and_exits_with_zero() {
    let database = TestDatabase::sqlite();
    let secret = register_clients(&database, &[]).await;
    let mut process = Process::spawn(&database, "server", &[]);
    let address = process.until_it_serves().await;

    let body = format!("grant_type=client_credentials&client_id=ES256&client_secret={secret}");
    let (first, rest) = body.split_at(20);
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
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
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("access_token"),
        "{answer}"
    );
    assert_eq!(process.until_it_ends().await.code(), Some(0), "{}", process.log());

    let raw = Raw::open(&database).await;
    assert_eq!(raw.number("SELECT count(*) FROM nodes").await, 0, "it did not sign off");
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
    refuses_to_start(&database, short, 1, "the master key cannot be used").await;
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
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_idles_does_not_hold_up_the_end() {
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
    assert!(
        took < Duration::from_secs(5),
        "it waited {took:?} for a connection that idles"
    );
    drop(http);
}
