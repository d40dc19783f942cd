//! A database that hangs for longer than J: no token, the key set all along, and everything recovers by itself.

use std::fs::read_to_string;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;

use crate::child::{Process, register_clients};
use crate::crashes::until_ready;
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::until;
use crate::verifier::Verifier;

const J: Duration = Duration::from_secs(3);

/// A new key every four seconds, published 20 s ahead.
const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "4s"),
    ("keys.prepublish", "20s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "3s"),
    ("keys.clock_skew", "2s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "1m"),
    ("tokens.max_token_ttl", "1m"),
];

/// A PostgreSQL of this test's own, so that it may be stopped whole.
struct Server {
    script: Child,
    url: String,
    postmaster: String,
}

impl Server {
    fn start() -> Self {
        let says = r#"echo "$TEST_POSTGRES_URL"; head -n 1 "$TEST_POSTGRES_SOCKET_FOLDER/data/postmaster.pid"; exec sleep 900"#;
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres.sh"))
            .args(["sh", "-c", says])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("the script says where the server is").unwrap();
        let (url, postmaster) = (line(), line());
        Self {
            script,
            url,
            postmaster,
        }
    }

    /// Sends a signal to all of it: the process that takes connections, and those that serve them.
    fn signal(&self, name: &str) {
        let main = &self.postmaster;
        let told = Command::new("kill").args([name, main]).status();
        assert!(told.unwrap().success());
        let children = read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap();
        // One of them may end meanwhile; the others are told all the same.
        let mut kill = Command::new("kill");
        kill.arg(name).args(children.split_whitespace()).stderr(Stdio::null());
        let _ = kill.status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("-CONT");
        let _ = Command::new("kill").arg(self.script.id().to_string()).status();
        let _ = self.script.wait();
    }
}

/// A process that has all locks of an SQLite file in WAL mode, as one that was stopped while it mended the file.
struct Locks {
    process: Child,
    end: Option<ChildStdin>,
}

impl Locks {
    /// The eight locks of <https://www.sqlite.org/walformat.html#locks>: bytes 120 to 127 of the shared memory.
    fn take(file: &Path) -> Self {
        let program = "import fcntl, sys\nf = open(sys.argv[1], 'r+b')\nfcntl.lockf(f, fcntl.LOCK_EX, 8, 120)\n\
                       print('locked', flush=True)\nsys.stdin.read()";
        let mut process = Command::new("python3")
            .args(["-c", program])
            .arg(file.with_extension("db-shm"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "locked\n");
        let end = process.stdin.take();
        Self { process, end }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        if let Some(mut end) = self.end.take() {
            let _ = end.flush();
        }
        let _ = self.process.wait();
    }
}

/// Servers with a client each, through a time in which `hang` holds the database.
async fn outlive<H>(database: &TestDatabase, nodes: usize, name: &str, hang: impl FnOnce() -> H) {
    let mut verifier = Verifier::new(register_clients(database, POLICY).await);
    let mut processes = Vec::new();
    for node in 0..nodes {
        let started = verifier.clock.read().monotonic;
        let mut process = Process::spawn(database, &format!("node-{node}"), POLICY);
        until_ready(&mut process, &verifier, started).await;
        verifier.take(process.address().unwrap()).await;
        processes.push(process);
    }
    let raw = Raw::open(database).await;
    let newest = || raw.number("SELECT max(generation) FROM signing_keys");
    let before = newest().await;

    let held = hang();
    let began = verifier.clock.read().monotonic;
    let since = |verifier: &Verifier| verifier.clock.read().monotonic.saturating_sub(began);
    let mut sets = Vec::new();
    while since(&verifier) < J * 4 {
        for process in &processes {
            let address = process.address().unwrap();
            let asked = since(&verifier);
            // The key set does not wait for those who wait for tokens.
            let beside = Verifier::new(String::new());
            let clock = verifier.clock.clone();
            let watched = async {
                loop {
                    let asked = clock.read().monotonic;
                    assert!(!beside.key_set(address).await.is_empty());
                    sets.push(clock.read().monotonic.saturating_sub(asked));
                    sleep(Duration::from_millis(50)).await;
                }
            };
            let token = tokio::select! {
                token = verifier.take_one(address, Algorithm::Es256) => token,
                () = watched => unreachable!("it watches for ever"),
            };
            assert!(
                token.is_none() || asked < J,
                "{name}: a token {asked:?} after the database hung"
            );
            verifier.verify_all(address).await;
        }
    }
    let lasted = since(&verifier);
    let failing = verifier.failing_checks(processes[0].admin_address().unwrap()).await;
    assert!(failing.contains(&"snapshot".to_owned()), "{failing:?}");
    drop(held);
    let resumed = verifier.clock.read().monotonic;
    let mut recovered = Duration::ZERO;
    for process in &mut processes {
        recovered = recovered.max(until_ready(process, &verifier, resumed).await);
        assert_eq!(process.child.try_wait().unwrap(), None);
        let address = process.address().unwrap();
        verifier.take(address).await;
        verifier.verify_all(address).await;
    }
    until("rotation goes on", || async { newest().await >= before + 3 }).await;
    sets.sort_unstable();
    let (count, slowest, almost_all) = (sets.len(), sets[sets.len() - 1], sets[sets.len() * 9 / 10]);
    println!(
        "{name}: hung for {lasted:?}, {count} key sets (the slowest after {slowest:?}), ready again after {recovered:?}; {}",
        verifier.figures()
    );
    assert!(verifier.unavailable >= nodes, "nobody was refused");
    // Nine of ten: a busy machine may hold up some.
    assert!(
        almost_all < Duration::from_secs(1),
        "the key set waited for the database: {almost_all:?}"
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_is_stopped_whole() {
    struct Stopped<'a>(&'a Server);
    impl Drop for Stopped<'_> {
        fn drop(&mut self) {
            self.0.signal("-CONT");
        }
    }
    let server = Server::start();
    let database = TestDatabase {
        url: server.url.clone(),
        folder: tempfile::tempdir().unwrap(),
    };
    let stop = || {
        server.signal("-STOP");
        Stopped(&server)
    };
    outlive(&database, 2, "PostgreSQL stopped", stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sqlite_file_that_nobody_can_read() {
    let database = TestDatabase::sqlite();
    let file = database.folder.path().join("keyround.db");
    outlive(&database, 1, "SQLite locked", || Locks::take(&file)).await;
}

on_both_databases_at_once!(a_table_of_keys_that_is_gone, |database| {
    // Clients are found, so it is J alone that ends signing.
    let mut verifier = Verifier::new(register_clients(&database, POLICY).await);
    let started = verifier.clock.read().monotonic;
    let mut process = Process::spawn(&database, "node", POLICY);
    until_ready(&mut process, &verifier, started).await;
    let address = process.address().unwrap();
    verifier.take(address).await;
    let raw = Raw::open(&database).await;
    // It signs until J, and not a moment longer. A machine that is held up has none to ask meanwhile, and tries again.
    let mut last = Duration::ZERO;
    for _ in 0..5 {
        raw.execute("ALTER TABLE signing_keys RENAME TO elsewhere").await;
        let since = verifier.clock.read().monotonic;
        last = Duration::ZERO;
        loop {
            let asked = verifier.clock.read().monotonic.saturating_sub(since);
            if asked > J * 3 {
                break;
            }
            if verifier.take_one(address, Algorithm::Rs256).await.is_some() {
                last = asked;
            }
            verifier.verify_all(address).await;
            sleep(Duration::from_millis(20)).await;
        }
        raw.execute("ALTER TABLE elsewhere RENAME TO signing_keys").await;
        let returned = verifier.clock.read().monotonic;
        let recovered = until_ready(&mut process, &verifier, returned).await;
        verifier.take(address).await;
        verifier.verify_all(address).await;
        println!(
            "no table: the last token after {last:?}, ready again after {recovered:?}; {}",
            verifier.figures()
        );
        assert!(last <= J, "a token came {last:?} after the keys were read last");
        if last > J / 2 {
            break;
        }
    }
    assert!(
        last > J / 2,
        "the last token came {last:?} after the keys were read last"
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
});
