//! What the servers do meanwhile, and the oracle that compares it with what they said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyround::clock::{Clock, Seconds, sleep};
use keyround::jose::alg::Algorithm;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::child::Process;
use crate::helpers::TestDatabase;
use crate::results;
use crate::verifier::{Verifier, time_of};

/// What `keys.replica_refresh` is below.
const REFRESH: Duration = Duration::from_secs(2);

/// A new key each minute, a snapshot of up to 10 s.
pub const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "1m"),
    ("keys.prepublish", "1m"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "2s"),
    ("keys.snapshot_max_age", "10s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "2m"),
    ("tokens.max_token_ttl", "2m"),
    ("accounts.access_token_ttl", "2m"),
    ("accounts.bcrypt_cost", "4"),
    ("log.filter", "warn,keyround::app=info"),
];

const PASSWORD: &str = "correct horse battery staple";

/// A server, and the way by which it reaches the database.
pub struct Node {
    pub way: usize,
    pub way_name: String,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub process: Process,
    pub database: TestDatabase,
}

/// What a server said that it did.
#[derive(Clone, Debug)]
enum Acknowledged {
    Denied { token: String, client: &'static str },
    LoggedOut { token: String },
    Disabled { client: String },
    Revoked { kid: String },
}

struct Change {
    way: usize,
    what: Acknowledged,
}

/// What was seen since [`Load::begin`].
#[derive(Default)]
struct Seen {
    slowest: BTreeMap<usize, Duration>,
    unavailable: BTreeMap<usize, usize>,
    /// When each node gave a token.
    given: BTreeMap<SocketAddr, Vec<Duration>>,
    changes: Vec<Change>,
}

struct Shared {
    nodes: Vec<Node>,
    secret: String,
    clock: Clock,
    http: reqwest::Client,
    seen: Mutex<Seen>,
    refused: Mutex<Vec<String>>,
    verified: Mutex<usize>,
    stopped: AtomicBool,
    changes_paused: AtomicBool,
}

pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What one way through a happening was like.
pub struct Report {
    pub way: String,
    pub tokens_again: Duration,
    pub slowest_answer: Duration,
    pub unavailable: usize,
    pub acknowledged: usize,
    /// How many of them are revoked keys.
    pub keys_revoked: usize,
    pub forgotten: usize,
    pub restored: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} | {:.1} s | {:.1} s | {} | {} | {} | {} | {}",
            self.way,
            self.tokens_again.as_secs_f64(),
            self.slowest_answer.as_secs_f64(),
            self.unavailable,
            self.acknowledged,
            self.keys_revoked,
            self.forgotten,
            self.restored
        )
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Sends a request, notes how long its answer took, and answers with its status and body.
    async fn timed(&self, node: &Node, request: reqwest::RequestBuilder) -> (u16, Value) {
        let began = self.clock.read().monotonic;
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.json().await.unwrap_or(Value::Null);
        let took = self.clock.read().monotonic.saturating_sub(began);
        let mut seen = self.seen.lock().unwrap();
        let slowest = seen.slowest.entry(node.way).or_default();
        *slowest = (*slowest).max(took);
        *seen.unavailable.entry(node.way).or_default() += usize::from(status == 503);
        (status, body)
    }

    async fn token(&self, node: &Node, client: &str, secret: &str) -> (u16, Value) {
        let request = self
            .http
            .post(format!("http://{}/oauth2/token", node.address))
            .basic_auth(client, Some(secret))
            .form(&[("grant_type", "client_credentials")]);
        self.timed(node, request).await
    }

    async fn about(&self, node: &Node, path: &str, client: &str, token: &str) -> (u16, Value) {
        let request = self
            .http
            .post(format!("http://{}/oauth2/{path}", node.address))
            .basic_auth(client, Some(&self.secret))
            .form(&[("token", token)]);
        self.timed(node, request).await
    }

    async fn person(&self, node: &Node, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("http://{}{path}", node.address)).json(body);
        self.timed(node, request).await
    }

    /// Takes tokens of this node, verifies each with the set of every node until it expires, and asks nodes about them.
    async fn use_tokens(self: Arc<Self>, place: usize) {
        let mut verifier = Verifier::new(self.secret.clone());
        let node = &self.nodes[place];
        for round in 0_usize.. {
            if self.is_stopped() {
                break;
            }
            let alg = Algorithm::ALL[round % 2];
            let began = self.clock.read().monotonic;
            let taken = verifier.take_one(node.address, alg).await;
            let now = self.clock.read().monotonic;
            {
                let mut seen = self.seen.lock().unwrap();
                let slowest = seen.slowest.entry(node.way).or_default();
                *slowest = (*slowest).max(now.saturating_sub(began));
                match &taken {
                    Some(_) => seen.given.entry(node.address).or_default().push(now),
                    None => *seen.unavailable.entry(node.way).or_default() += 1,
                }
            }
            if let Some(token) = &taken {
                let other = &self.nodes[(place + round) % self.nodes.len()];
                let (status, body) = self.about(other, "introspect", alg.name(), token).await;
                if status != 503 && (status != 200 || body["active"] != true) {
                    let refused = format!("{} says {status} {body} of {token}", other.way_name);
                    self.refused.lock().unwrap().push(refused);
                }
            }
            if round % 8 == 0 {
                let other = &self.nodes[(place + round / 8) % self.nodes.len()];
                verifier.verify_all(other.address).await;
            }
            sleep(Duration::from_millis(250)).await;
        }
        *self.verified.lock().unwrap() += verifier.verified;
        self.refused.lock().unwrap().extend(verifier.refused);
    }

    /// Revokes tokens, logs out and disables clients at this node, and notes what was acknowledged.
    async fn make_changes(self: Arc<Self>, place: usize) {
        let node = &self.nodes[place];
        let email = format!("ada{place}@example.com");
        for round in 0_usize.. {
            if self.is_stopped() {
                return;
            }
            sleep(Duration::from_millis(400)).await;
            if self.changes_paused.load(Ordering::Relaxed) {
                continue;
            }
            let client = Algorithm::ALL[round % 2].name();
            let (status, body) = self.token(node, client, &self.secret).await;
            if let (200, Some(token)) = (status, body["access_token"].as_str()) {
                let (status, _) = self.about(node, "revoke", client, token).await;
                if status == 200 {
                    let token = token.to_owned();
                    self.acknowledge(node, Acknowledged::Denied { token, client });
                }
            }
            let login = json!({ "email": email, "password": PASSWORD, "token_delivery": "body" });
            let (status, body) = self.person(node, "/auth/login", &login).await;
            if status == 200 {
                let refresh = json!({ "refresh_token": body["refresh_token"], "token_delivery": "body" });
                let (status, _) = self.person(node, "/auth/logout", &refresh).await;
                if status == 204 {
                    let token = body["access_token"].as_str().unwrap().to_owned();
                    self.acknowledge(node, Acknowledged::LoggedOut { token });
                }
            }
            if round % 4 == 0 {
                self.disable_a_client(place, round).await;
            }
        }
    }

    async fn disable_a_client(self: &Arc<Self>, place: usize, round: usize) {
        let client = format!("client-{place}-{round}");
        let (shared, id) = (Arc::clone(self), client.clone());
        let changed = tokio::task::spawn_blocking(move || {
            let process = &shared.nodes[place].process;
            let create = [
                "clients",
                "create",
                &id,
                "--scope",
                "read",
                "--audience",
                "https://api.example.com",
                "--json",
            ];
            let created = process.run(&create);
            if !created.status.success() {
                return None;
            }
            let said: Value = serde_json::from_slice(&created.stdout).ok()?;
            let secret = said["client_secret"].as_str()?.to_owned();
            let disabled = process.run(&["clients", "disable", &id]);
            disabled.status.success().then_some(secret)
        })
        .await
        .unwrap();
        // The node refuses the client, so that it knows.
        if let Some(secret) = changed {
            sleep(Duration::from_millis(200)).await;
            let node = &self.nodes[place];
            if self.token(node, &client, &secret).await.0 == 401 {
                let client = format!("{client}:{secret}");
                self.acknowledge(node, Acknowledged::Disabled { client });
            }
        }
    }

    /// Takes in keys of another issuer at this node and revokes them, so that no token of ours is concerned.
    async fn revoke_keys(self: Arc<Self>, place: usize) {
        for round in 0_usize.. {
            if self.is_stopped() {
                return;
            }
            sleep(Duration::from_secs(2)).await;
            if self.changes_paused.load(Ordering::Relaxed) {
                continue;
            }
            let kid = format!("another-{place}-{round}");
            let node = &self.nodes[place];
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
            let pem = EcKey::generate(&group).unwrap().public_key_to_pem().unwrap();
            std::fs::write(node.database.folder.path().join("another.pem"), pem).unwrap();
            let until = (self.clock.read().wall + Seconds(600)).rfc3339();
            let import = [
                "keys",
                "import",
                "--verify-only",
                "--kid",
                &kid,
                "--until",
                &until,
                "another.pem",
            ];
            if !self.run(place, &import).await {
                continue;
            }
            // Every server shows it before it is revoked.
            sleep(Duration::from_secs(2)).await;
            let revoked = self
                .run(place, &["keys", "revoke", &kid, "--reason", "leaked", "--yes"])
                .await;
            if revoked {
                self.acknowledge(node, Acknowledged::Revoked { kid });
            }
        }
    }

    /// Runs a command with the settings of a node; whether it succeeded.
    async fn run(self: &Arc<Self>, place: usize, arguments: &[&str]) -> bool {
        let shared = Arc::clone(self);
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            shared.nodes[place].process.run(&arguments).status.success()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// The kids that this node publishes.
    async fn published(&self, node: &Node) -> Vec<String> {
        let url = format!("http://{}/.well-known/jwks.json", node.address);
        let (_, set) = self.timed(node, self.http.get(url)).await;
        let keys = set["keys"].as_array().into_iter().flatten();
        keys.filter_map(|key| key["kid"].as_str().map(str::to_owned)).collect()
    }

    fn acknowledge(&self, node: &Node, what: Acknowledged) {
        self.seen.lock().unwrap().changes.push(Change { way: node.way, what });
    }

    /// Whether any node acts as if it had not been done.
    async fn is_forgotten(&self, what: &Acknowledged) -> bool {
        for node in &self.nodes {
            let now = self.clock.read().wall.0;
            let forgotten = match what {
                Acknowledged::Denied { token, client } => {
                    let (_, body) = self.about(node, "introspect", client, token).await;
                    body["active"] == true
                }
                Acknowledged::LoggedOut { token } => {
                    let request = self
                        .http
                        .get(format!("http://{}/auth/me", node.address))
                        .bearer_auth(token);
                    self.timed(node, request).await.0 == 200 && time_of(token, "exp") > now
                }
                Acknowledged::Disabled { client } => {
                    let (id, secret) = client.split_once(':').unwrap();
                    self.token(node, id, secret).await.0 == 200
                }
                Acknowledged::Revoked { kid } => self.published(node).await.contains(kid),
            };
            if forgotten {
                println!("{} forgot {what:?}", node.way_name);
                return true;
            }
        }
        false
    }

    async fn restored(&self, node: &Node) -> u64 {
        let answer = self
            .http
            .get(format!("http://{}/metrics", node.admin))
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("keyround_restored_records "));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

impl Load {
    pub fn start(nodes: Vec<Node>, secret: String, clock: Clock) -> Self {
        let shared = Arc::new(Shared {
            nodes,
            secret,
            clock,
            http: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
            seen: Mutex::default(),
            refused: Mutex::default(),
            verified: Mutex::default(),
            stopped: AtomicBool::new(false),
            changes_paused: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for place in 0..shared.nodes.len() {
            let node = &shared.nodes[place];
            let password = node.database.folder.path().join("password");
            std::fs::write(&password, PASSWORD).unwrap();
            std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
            let email = format!("ada{place}@example.com");
            let create = [
                "users",
                "create",
                "--email",
                &email,
                "--name",
                "Ada",
                "--password-file",
                "password",
            ];
            let created = node.process.run(&create);
            assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
            tasks.push(tokio::spawn(Arc::clone(&shared).use_tokens(place)));
            tasks.push(tokio::spawn(Arc::clone(&shared).make_changes(place)));
            if place == 0 || shared.nodes[place - 1].way != node.way {
                tasks.push(tokio::spawn(Arc::clone(&shared).revoke_keys(place)));
            }
        }
        Self { shared, tasks }
    }

    pub fn begin(&self) {
        *self.shared.seen.lock().unwrap() = Seen::default();
    }

    pub fn pause_changes(&self) {
        self.shared.changes_paused.store(true, Ordering::Relaxed);
    }

    pub fn resume_changes(&self) {
        self.shared.changes_paused.store(false, Ordering::Relaxed);
    }

    /// What was seen, by the ways; the new primary was there at this moment.
    pub async fn end(&self, new_primary_at: Duration) -> Vec<Report> {
        let shared = &self.shared;
        let seen = std::mem::take(&mut *shared.seen.lock().unwrap());
        let now = shared.clock.read().monotonic;
        // What was acknowledged a moment ago reaches the other servers within `keys.replica_refresh`.
        sleep(REFRESH + Duration::from_secs(1)).await;
        let mut reports = Vec::new();
        let ways = shared.nodes.iter().map(|node| node.way).max().unwrap() + 1;
        for way in 0..ways {
            let nodes: Vec<&Node> = shared.nodes.iter().filter(|node| node.way == way).collect();
            let again = nodes.iter().map(|node| {
                let given = seen.given.get(&node.address);
                let first = given.and_then(|given| given.iter().find(|at| **at >= new_primary_at));
                first.unwrap_or(&now).saturating_sub(new_primary_at)
            });
            let mut forgotten = 0;
            let changes: Vec<&Change> = seen.changes.iter().filter(|change| change.way == way).collect();
            for change in &changes {
                forgotten += usize::from(shared.is_forgotten(&change.what).await);
            }
            let mut restored = 0;
            for node in &nodes {
                restored += shared.restored(node).await;
            }
            reports.push(Report {
                way: nodes[0].way_name.clone(),
                tokens_again: again.max().unwrap(),
                slowest_answer: seen.slowest.get(&way).copied().unwrap_or_default(),
                unavailable: seen.unavailable.get(&way).copied().unwrap_or_default(),
                acknowledged: changes.len(),
                keys_revoked: changes
                    .iter()
                    .filter(|change| matches!(change.what, Acknowledged::Revoked { .. }))
                    .count(),
                forgotten,
                restored,
            });
        }
        reports
    }

    /// How often tokens were verified, and which were refused.
    pub async fn stop(self) -> (usize, Vec<String>) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let refused = std::mem::take(&mut *self.shared.refused.lock().unwrap());
        let verified = *self.shared.verified.lock().unwrap();
        (verified, refused)
    }
}

/// The results, with the commit and the day that they are of.
pub fn write_page(table: &str, verified: usize) {
    let page = format!(
        "# Failover\n\nWhat `make proof` saw when PostgreSQL failed over, {}: three members under Patroni with etcd, \
         and two servers for each way to the database, under load all the time. Every token was verified with the key set of every \
         server until it expired: {verified} verifications, 0 refused.\n\n\
         *Tokens again*: how long after the new primary each server gave a token. *Slowest answer*: of any request. *503*: requests \
         that were answered so. *Acknowledged*: revoked tokens, logouts, disabled clients and revoked keys that were answered with success; \
         *keys*: of those, revoked keys; *forgotten*: of all, how many any server acted against afterwards. *Restored*: records that the promoted standby lacked \
         and that servers had written again by then.\n\n\
         | Happening | Way | Tokens again | Slowest answer | 503 | Acknowledged | Keys | Forgotten | Restored |\n\
         |---|---|---|---|---|---|---|---|---|\n{table}",
        results::of_now(),
    );
    results::write("failover.md", &page);
}
