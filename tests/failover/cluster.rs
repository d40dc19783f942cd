//! Three PostgreSQL members under Patroni with etcd, and two proxies before them: one ends connections to a member that is no
//! longer the primary, one does not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports::free_port;

/// One member: a Patroni that runs a PostgreSQL.
pub struct Member {
    pub name: &'static str,
    pub port: u16,
    rest: u16,
    folder: PathBuf,
    patroni: Option<Child>,
}

pub struct Cluster {
    pub members: Vec<Member>,
    /// Cuts the connections to a member that is no longer the primary.
    pub cutting: u16,
    /// Leaves them.
    pub leaving: u16,
    etcd: Child,
    proxies: Vec<Child>,
    http: reqwest::Client,
    pub clock: Clock,
    folder: TempDir,
}

/// Installed, or unpacked by tests/packages.sh.
fn program(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .into_iter()
        .map(PathBuf::from)
        .chain([root.join("target/tools/usr/sbin"), root.join("target/tools/usr/bin")])
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run 'tests/packages.sh postgres failover'"))
}

fn postgres_binaries() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .unwrap()
        .map(|folder| folder.unwrap().path().join("bin"))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().unwrap()
}

/// PostgreSQL does not run as root.
fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        .arg(program);
    command
}

fn signal(name: &str, pids: &[u32]) {
    for pid in pids {
        let _ = Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .stderr(Stdio::null())
            .status();
    }
}

fn children(parent: u32) -> Vec<u32> {
    let output = Command::new("pgrep")
        .args(["-P", &parent.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}

impl Member {
    fn postmaster(&self) -> Option<u32> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok()
    }

    /// Patroni, the postmaster and its children.
    fn processes(&self) -> Vec<u32> {
        let patroni = self.patroni.as_ref().map(Child::id);
        let postmaster = self.postmaster();
        let backends = postmaster.map_or_else(Vec::new, children);
        patroni.into_iter().chain(postmaster).chain(backends).collect()
    }

    fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("patroni.log"))
            .unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let child = as_postgres("/usr/bin/python3")
            .args(["-m", "patroni"])
            .arg(self.folder.join("patroni.yml"))
            .env("PYTHONPATH", root.join("target/tools/usr/lib/python3/dist-packages"))
            .current_dir(&self.folder)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.patroni = Some(child);
    }

    /// A machine that loses its power.
    pub fn kill(&mut self) {
        let pids = self.processes();
        signal("KILL", &pids);
        if let Some(mut patroni) = self.patroni.take() {
            patroni.wait().unwrap();
        }
    }

    pub fn restart(&mut self) {
        self.start();
    }

    /// A machine that is suspended.
    pub fn stop(&self) {
        signal("STOP", &self.processes());
    }

    pub fn go_on(&self) {
        signal("CONT", &self.processes());
    }

    /// The processes that send the log to the standbys stop: the members go on, and the standbys get nothing any more.
    pub fn stop_sending(&self) {
        let Some(postmaster) = self.postmaster() else { return };
        let sends = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("walsender")
        };
        let senders: Vec<u32> = children(postmaster).into_iter().filter(sends).collect();
        assert!(!senders.is_empty(), "nothing is replicated");
        signal("STOP", &senders);
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("keyround-failover")
            .tempdir_in("/tmp")
            .unwrap();
        let path = folder.path().to_owned();
        run("chmod", &["755", path.to_str().unwrap()]);
        let (client, peer) = (free_port(), free_port());
        let etcd = Command::new(program("etcd"))
            .args(["--name", "one", "--data-dir"])
            .arg(path.join("etcd"))
            .args([
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster=one=http://127.0.0.1:{peer}"),
            ])
            .stdout(Stdio::null())
            .stderr(File::create(path.join("etcd.log")).unwrap())
            .spawn()
            .unwrap();
        let mut members = Vec::new();
        for name in ["a", "b", "c"] {
            let folder = path.join(name);
            fs::create_dir(&folder).unwrap();
            let mut member = Member {
                name,
                port: free_port(),
                rest: free_port(),
                folder,
                patroni: None,
            };
            fs::write(
                member.folder.join("patroni.yml"),
                configuration(&member, client).to_string(),
            )
            .unwrap();
            run("chown", &["-R", "postgres", member.folder.to_str().unwrap()]);
            member.start();
            members.push(member);
        }
        let mut proxies = Vec::new();
        let mut ports = Vec::new();
        for cuts in [true, false] {
            let port = free_port();
            let file = path.join(format!("haproxy-{cuts}.cfg"));
            fs::write(&file, proxy(port, &members, cuts)).unwrap();
            proxies.push(
                Command::new(program("haproxy"))
                    .arg("-db")
                    .arg("-f")
                    .arg(&file)
                    .stdout(Stdio::null())
                    .stderr(File::create(path.join(format!("haproxy-{cuts}.log"))).unwrap())
                    .spawn()
                    .unwrap(),
            );
            ports.push(port);
        }
        let cluster = Self {
            members,
            cutting: ports[0],
            leaving: ports[1],
            etcd,
            proxies,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(1))
                .build()
                .unwrap(),
            clock: Clock::system(),
            folder,
        };
        cluster.until_whole().await;
        cluster
    }

    /// The URL of every member, in their order.
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.port))
            .collect();
        hosts.join(",")
    }

    async fn answers(&self, member: &Member, path: &str) -> bool {
        let url = format!("http://127.0.0.1:{}/{path}", member.rest);
        self.http
            .get(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    }

    pub async fn primary(&self) -> Option<usize> {
        for (place, member) in self.members.iter().enumerate() {
            if member.patroni.is_some() && self.answers(member, "primary").await {
                return Some(place);
            }
        }
        None
    }

    /// Waits for a primary other than this one; answers with when it was seen, by this cluster's clock.
    pub async fn until_primary_is_not(&self, former: Option<usize>) -> (usize, Duration) {
        for _ in 0..3_000 {
            if let Some(place) = self.primary().await.filter(|place| Some(*place) != former) {
                return (place, self.clock.read().monotonic);
            }
            sleep(Duration::from_millis(30)).await;
        }
        panic!("no other member became the primary; see {}", self.kept());
    }

    /// Waits until one is the primary and the others follow it; with synchronous replication, one of them synchronously.
    pub async fn until_whole(&self) {
        for _ in 0..1_200 {
            let mut replicas = 0;
            for member in &self.members {
                replicas += usize::from(self.answers(member, "replica?lag=1MB").await);
            }
            if replicas == self.members.len() - 1 && self.primary().await.is_some() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("the cluster is not whole; see {}", self.kept());
    }

    fn kept(&self) -> String {
        let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/failover");
        let _ = fs::create_dir_all(&logs);
        for member in &self.members {
            let _ = fs::copy(
                member.folder.join("patroni.log"),
                logs.join(format!("{}.log", member.name)),
            );
        }
        logs.display().to_string()
    }

    pub async fn switch_over(&self, from: usize) {
        let member = &self.members[from];
        let url = format!("http://127.0.0.1:{}/switchover", member.rest);
        let slow = reqwest::Client::new();
        let answer = slow
            .post(url)
            .json(&json!({ "leader": member.name }))
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{status} {text}");
    }

    pub async fn replicate_synchronously(&self, synchronously: bool) {
        let primary = self.primary().await.unwrap();
        let url = format!("http://127.0.0.1:{}/config", self.members[primary].rest);
        let change = json!({ "synchronous_mode": synchronously });
        let answer = self.http.patch(url).json(&change).send().await.unwrap();
        assert!(answer.status().is_success());
        for _ in 0..300 {
            let mut synchronous = 0;
            for member in &self.members {
                synchronous += usize::from(self.answers(member, "synchronous").await);
            }
            if (synchronous > 0) == synchronously {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("replication did not change; see {}", self.kept());
    }

    pub fn stop_etcd(&self) {
        signal("STOP", &[self.etcd.id()]);
    }

    pub fn let_etcd_go_on(&self) {
        signal("CONT", &[self.etcd.id()]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the members wrote is in {}", self.kept());
        }
        for member in &mut self.members {
            member.go_on();
            member.kill();
        }
        signal("CONT", &[self.etcd.id()]);
        for child in self.proxies.iter_mut().chain([&mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

fn run(program: &str, arguments: &[&str]) {
    assert!(
        Command::new(program).args(arguments).status().unwrap().success(),
        "{program}"
    );
}

/// JSON is YAML.
fn configuration(member: &Member, etcd: u16) -> Value {
    let folder = member.folder.display().to_string();
    json!({
        "scope": "keyround",
        "name": member.name,
        "restapi": {
            "listen": format!("127.0.0.1:{}", member.rest),
            "connect_address": format!("127.0.0.1:{}", member.rest),
        },
        "etcd3": { "host": format!("127.0.0.1:{etcd}") },
        "bootstrap": {
            "dcs": {
                "ttl": 20,
                "loop_wait": 2,
                "retry_timeout": 5,
                "master_start_timeout": 0,
                "maximum_lag_on_failover": 1_073_741_824,
                "synchronous_mode": true,
                "postgresql": { "use_pg_rewind": true, "parameters": { "max_connections": 300, "wal_log_hints": "on" } },
            },
            "initdb": [{ "encoding": "UTF8" }, { "locale": "C" }, { "auth": "trust" }],
            "pg_hba": [
                "local all all trust",
                "host all all 127.0.0.1/32 trust",
                "host replication all 127.0.0.1/32 trust",
            ],
        },
        "postgresql": {
            "listen": format!("127.0.0.1:{}", member.port),
            "connect_address": format!("127.0.0.1:{}", member.port),
            "data_dir": format!("{folder}/data"),
            "bin_dir": postgres_binaries(),
            "pgpass": format!("{folder}/pgpass"),
            "authentication": {
                "superuser": { "username": "postgres" },
                "replication": { "username": "postgres" },
                "rewind": { "username": "postgres" },
            },
            "parameters": { "unix_socket_directories": folder },
        },
        "tags": {},
    })
}

/// As Patroni's documentation has it.
fn proxy(port: u16, members: &[Member], cuts: bool) -> String {
    let cut = if cuts { " on-marked-down shutdown-sessions" } else { "" };
    let mut text = format!(
        "global\n    maxconn 1000\ndefaults\n    mode tcp\n    retries 2\n    timeout connect 1s\n    timeout client 30m\n    \
         timeout server 30m\n    timeout check 1s\nlisten primary\n    bind 127.0.0.1:{port}\n    option httpchk GET /primary\n    \
         http-check expect status 200\n    default-server inter 500ms fall 2 rise 1{cut}\n"
    );
    for Member { name, port, rest, .. } in members {
        text.push_str(&format!(
            "    server {name} 127.0.0.1:{port} maxconn 300 check port {rest}\n"
        ));
    }
    text
}
