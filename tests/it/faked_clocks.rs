//! Real processes on wrong clocks: the server and its PostgreSQL on one, starts on one, and a step while the server runs.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::PublicJwk;
use keyround::jose::jwt::verify_access_token_signature;
use serde_json::Value;
use sqlx::Connection as _;

use crate::child::{Process, register_clients};
use crate::faketime::Wall;
use crate::helpers::{TestApp, TestDatabase};
use crate::libfaketime::library;
use crate::rows::Raw;
use crate::sessions::world::{create_user, log_in};
use crate::token::{client, register};

const HOUR: i64 = 3_600;
/// Further back than the shipped policy publishes a key ahead.
const BACK: i64 = -26 * HOUR;
const ROWS: &str = "SELECT kid || ' ' || published_at || ' ' || activates_at || ' ' || COALESCE(sealed, '') || \
                    COALESCE(CAST(revoked_at AS TEXT), '') FROM signing_keys ORDER BY kid";
/// How long a verifier keeps a key set here.
const CACHED: Duration = Duration::from_secs(20);
/// Every few seconds a node looks at its clock.
const LOOKS: Duration = Duration::from_secs(7);

/// A verifier that keeps key sets, and a client with tokens.
struct Observer {
    http: reqwest::Client,
    clock: Clock,
    secret: String,
    sets: Vec<(Duration, Vec<PublicJwk>)>,
    tokens: Vec<String>,
}

impl Observer {
    fn new(secret: String) -> Self {
        Self {
            http: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
            clock: Clock::system(),
            secret,
            sets: Vec::new(),
            tokens: Vec::new(),
        }
    }

    fn passed(&self) -> Duration {
        self.clock.read().monotonic
    }

    /// Takes a token, if there is one in this moment, and fetches the key set; then every token so far verifies by the set of this moment and
    /// by the one of a while ago.
    async fn look(&mut self, address: SocketAddr) {
        let answer = self
            .http
            .post(format!("http://{address}/oauth2/token"))
            .basic_auth(Algorithm::Es256.name(), Some(&self.secret))
            .form(&[("grant_type", "client_credentials")])
            .send()
            .await
            .unwrap();
        // A database that was read between two clocks is in doubt until the next look.
        if answer.status() != 503 {
            assert_eq!(answer.status(), 200);
            let body: Value = answer.json().await.unwrap();
            self.tokens.push(body["access_token"].as_str().unwrap().to_owned());
        }
        let set = self.key_set(address).await;
        let now = self.passed();
        self.sets.push((now, set.clone()));
        let cached = self.sets.iter().rfind(|(at, _)| *at + CACHED <= now);
        let (_, cached) = cached.or_else(|| self.sets.first()).unwrap();
        for token in &self.tokens {
            for (name, set) in [("now", &set), ("cached", cached)] {
                verify_access_token_signature(token, set).unwrap_or_else(|error| panic!("{name}: {error}: {token}"));
            }
        }
    }

    async fn key_set(&self, address: SocketAddr) -> Vec<PublicJwk> {
        let url = format!("http://{address}/.well-known/jwks.json");
        let set: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let keys = set["keys"].as_array().unwrap().iter();
        keys.map(|key| PublicJwk::parse(&key.to_string()).unwrap()).collect()
    }

    /// Looks again and again.
    async fn look_for(&mut self, address: SocketAddr, length: Duration) {
        let end = self.passed() + length;
        while self.passed() < end {
            self.look(address).await;
            sleep(Duration::from_millis(250)).await;
        }
    }

    async fn failing_checks(&self, process: &Process) -> Vec<String> {
        let url = format!("http://{}/readyz/issue", process.admin_address().unwrap());
        let body: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let checks = body["checks"].as_array().unwrap().iter();
        checks
            .filter(|check| check["ok"] == false)
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What a resource server hears of a token; none while the node says that it cannot tell, as until its next look after a step.
    async fn says(&self, address: SocketAddr, token: &str) -> Option<bool> {
        let answer = self.post(address, "introspect", token).await;
        if answer.status() == 503 {
            return None;
        }
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()["active"].as_bool()
    }

    /// Asks for a few looks' time, and never hears anything else; at the end it is said.
    async fn hears(&self, address: SocketAddr, token: &str, expected: bool, when: &str) {
        let end = self.passed() + LOOKS;
        let mut said = 0;
        while self.passed() < end || said == 0 {
            let answer = self.says(address, token).await;
            assert_ne!(answer, Some(!expected), "{when}");
            said += usize::from(answer.is_some());
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The same, as soon as it can tell.
    async fn says_at_last(&self, address: SocketAddr, token: &str) -> bool {
        for _ in 0..600 {
            if let Some(said) = self.says(address, token).await {
                return said;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("it never can tell");
    }

    async fn post(&self, address: SocketAddr, path: &str, token: &str) -> reqwest::Response {
        let request = self.http.post(format!("http://{address}/oauth2/{path}"));
        let form = [("token", token)];
        request
            .basic_auth("billing", Some(&self.secret))
            .form(&form)
            .send()
            .await
            .unwrap()
    }
}

/// A PostgreSQL of this test's own, on a clock of its own; gone with it.
struct Cluster {
    server: Child,
    folder: tempfile::TempDir,
    wall: Wall,
    library: PathBuf,
    port: u16,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("keyround-clock.")
            .tempdir_in("/tmp")
            .unwrap();
        let data = folder.path().join("data");
        // It does not run as root, and that user reads nothing of ours.
        let own = folder.path().join("libfaketime.so");
        std::fs::copy(library(), &own).unwrap();
        let owner = Command::new("chown")
            .arg("postgres")
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(owner.success(), "PostgreSQL runs as the user postgres");
        let initdb = Self::command(Self::binary("initdb"), folder.path())
            .arg("--pgdata")
            .arg(&data)
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let wall = Wall::within(folder.path(), "machine", 0);
        let port = crate::ports::free_port();
        // The user is changed first: what libfaketime makes belongs to the process's user.
        let variables = wall.variables(&own).map(|(name, value)| format!("{name}={value}"));
        let server = Self::command("env", folder.path())
            .args(variables)
            .arg(Self::binary("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
            ])
            .args(["-c", "logging_collector=off"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut cluster = Self {
            server,
            folder,
            wall,
            library: own,
            port,
        };
        for _ in 0..1_200 {
            if sqlx::PgConnection::connect(&cluster.url()).await.is_ok() {
                return cluster;
            }
            if cluster.server.try_wait().unwrap().is_some() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(cluster.folder.path().join("log"));
        panic!("it does not start: {log:?}");
    }

    /// A program of the newest PostgreSQL that is installed.
    fn binary(name: &str) -> PathBuf {
        let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
        let folders = versions.map(|version| version.unwrap().path().join("bin"));
        folders.max().unwrap().join(name)
    }

    /// A program as the user `postgres`.
    fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(program)
            .current_dir(folder);
        command
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg("-QUIT")
            .arg(self.server.id().to_string())
            .status();
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_its_postgresql_are_26_hours_back_for_nine_seconds() {
    let cluster = Cluster::start().await;
    let database = TestDatabase {
        url: cluster.url(),
        folder: tempfile::tempdir().unwrap(),
    };
    let mut observer = Observer::new(register_clients(&database, &[]).await);
    let raw = Raw::open(&database).await;
    let mut process = Process::spawn_in(&database, "node", &[], &cluster.wall.variables(&cluster.library));
    let address = process.until_it_serves().await;
    observer.look_for(address, LOOKS).await;
    let (rows, set) = (raw.texts(ROWS).await, observer.key_set(address).await);

    cluster.wall.set(BACK);
    let (began, before) = (observer.passed(), observer.tokens.len());
    let mut reds = 0;
    // A machine that is held up looks at its clock less often.
    while observer.passed() < began + Duration::from_secs(9) || reds < 2 {
        assert!(
            observer.passed() < began + Duration::from_mins(2),
            "the check was red {reds} times"
        );
        observer.look_for(address, Duration::from_millis(500)).await;
        reds += usize::from(observer.failing_checks(&process).await.contains(&"clock".to_owned()));
        assert_eq!(raw.texts(ROWS).await, rows);
    }
    assert!(observer.tokens.len() > before, "it signs with the same key meanwhile");
    cluster.wall.set(0);
    observer.look_for(address, CACHED + LOOKS).await;
    assert_eq!(raw.texts(ROWS).await, rows);
    assert_eq!(observer.key_set(address).await, set);
    assert_eq!(observer.failing_checks(&process).await, [""; 0]);
    println!(
        "{} tokens, {} key sets, {reds} red checks",
        observer.tokens.len(),
        observer.sets.len()
    );
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_a_day_behind_and_a_right_one_after_it_keep_the_keys() {
    let database = TestDatabase::sqlite();
    let mut observer = Observer::new(register_clients(&database, &[]).await);
    let wall = Wall::new(&database, "machine", 0);
    let raw = Raw::open(&database).await;
    let mut rows = Vec::new();
    for (name, off_by) in [("first", 0), ("behind", -24 * HOUR), ("further", BACK), ("right", 0)] {
        wall.set(off_by);
        let mut process = wall.spawn(&database, name, &[]);
        let address = process.until_it_serves().await;
        observer.look_for(address, LOOKS).await;
        let now = raw.texts(ROWS).await;
        if rows.is_empty() {
            rows.clone_from(&now);
        }
        assert_eq!(now, rows, "{name}");
        let failing = observer.failing_checks(&process).await;
        assert_eq!(
            failing.contains(&"clock".to_owned()),
            off_by != 0,
            "{name}: {failing:?}"
        );
        process.kill();
    }
    assert_eq!(observer.sets.first().unwrap().1, observer.sets.last().unwrap().1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_person_and_an_ended_session_stay_refused_across_18_minutes() {
    let database = TestDatabase::sqlite();
    let settings = [("accounts.audience", "https://api.example.com")];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let mut billing = client("billing");
    billing.serves = vec!["https://api.example.com".parse().unwrap()];
    let secret = register(&app, &billing).await;
    let mut tokens = Vec::new();
    for name in ["ada", "grace", "alan"] {
        let user = create_user(&app, name).await;
        tokens.push((user.user.id.to_string(), log_in(&app, &user).await.unwrap()));
    }
    app.running.stop().await;
    let observer = Observer::new(secret);
    let wall = Wall::new(&database, "machine", 0);
    let mut process = wall.spawn(&database, "node", &settings);
    let address = process.until_it_serves().await;
    for (_, tokens) in &tokens {
        assert!(observer.says_at_last(address, &tokens.access_token).await);
    }
    let suspended = process.run(&["users", "suspend", &tokens[0].0, "--reason", "a test", "--yes"]);
    assert!(
        suspended.status.success(),
        "{}",
        String::from_utf8_lossy(&suspended.stderr)
    );
    let logged_out = process.run(&["users", "end-sessions", &tokens[1].0, "--reason", "a test", "--yes"]);
    assert!(
        logged_out.status.success(),
        "{}",
        String::from_utf8_lossy(&logged_out.stderr)
    );
    sleep(LOOKS).await;
    for (name, off_by) in [("before", 0), ("ahead", 18 * 60), ("back", 0)] {
        wall.set(off_by);
        let hears = |place: usize| observer.hears(address, &tokens[place].1.access_token, place == 2, name);
        tokio::join!(hears(0), hears(1), hears(2));
    }
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_two_hours_ahead_forgets_no_denied_token() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = register(&app, &client("billing")).await;
    let (token, denied) = (app.token("billing", &secret).await, app.token("billing", &secret).await);
    app.running.stop().await;
    let observer = Observer::new(secret);
    let wall = Wall::new(&database, "machine", 0);
    let raw = Raw::open(&database).await;
    for (name, off_by) in [("first", 0), ("ahead", 2 * HOUR), ("right", 0)] {
        wall.set(off_by);
        let mut process = wall.spawn(&database, name, &[]);
        let address = process.until_it_serves().await;
        if name == "first" {
            assert!(observer.says_at_last(address, &denied).await);
            assert_eq!(observer.post(address, "revoke", &denied).await.status(), 200);
        }
        let hears = |token, expected| observer.hears(address, token, expected, name);
        tokio::join!(hears(&denied, false), hears(&token, off_by == 0));
        assert_eq!(raw.number("SELECT count(*) FROM denied_tokens").await, 1, "{name}");
        process.kill();
    }
}
