//! A database that was set back to what it was before an emergency: what was revoked stays revoked.

use std::time::Duration;

use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;

use crate::child::{Process, register_clients};
use crate::crashes::{confirm_clock, until_ready};
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::until;
use crate::verifier::{Verifier, kid_of};

/// How long the set and the signatures are looked at.
const WATCHED_FOR: Duration = Duration::from_secs(6);

/// A new key every ten seconds, published 20 s ahead: two are pending.
pub const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "10s"),
    ("keys.prepublish", "20s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "3s"),
    // A start that comes later than half of this after the last sign of life doubts its clock, and makes no key for more than a minute.
    ("keys.clock_skew", "8s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "1m"),
    ("tokens.max_token_ttl", "1m"),
];

/// A database of which there is a copy; nobody is connected when it is taken or put back.
enum Copied {
    Sqlite(std::path::PathBuf),
    Postgres { server: Raw, name: String },
}

impl Copied {
    async fn take(database: &TestDatabase) -> Self {
        if database.url.starts_with("sqlite:") {
            let file = database.folder.path().join("keyround.db");
            // The last connection has written everything into the file itself.
            assert!(!file.with_extension("db-wal").exists());
            std::fs::copy(&file, file.with_extension("copy")).unwrap();
            return Self::Sqlite(file);
        }
        let (server, name) = database.url.rsplit_once('/').unwrap();
        let server = Raw::open(&TestDatabase {
            url: format!("{server}/postgres"),
            folder: tempfile::tempdir().unwrap(),
        })
        .await;
        server
            .execute(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"))
            .await;
        let name = name.to_owned();
        Self::Postgres { server, name }
    }

    async fn put_back(&self) {
        match self {
            Self::Sqlite(file) => {
                std::fs::copy(file.with_extension("copy"), file).unwrap();
            }
            Self::Postgres { server, name } => {
                server.execute(&format!("DROP DATABASE {name}")).await;
                server
                    .execute(&format!("ALTER DATABASE {name}_copy RENAME TO {name}"))
                    .await;
            }
        }
    }
}

/// As many nodes as this database is for, each on a machine of its own with a ledger of its own.
async fn start(database: &TestDatabase, verifier: &Verifier) -> Vec<Process> {
    let nodes = if database.url.starts_with("sqlite:") { 1 } else { 2 };
    let mut started = Vec::new();
    for node in 0..nodes {
        let ledger = ledger(database, node);
        let settings = [POLICY, &[("keys.ledger_file", ledger.as_str())]].concat();
        let mut process = Process::spawn(database, &format!("node-{node}"), &settings);
        process.until_it_serves().await;
        // The database may be of some time ago.
        confirm_clock(&process);
        until("it follows", || async {
            let failing = verifier.failing_checks(process.admin_address().unwrap()).await;
            failing.is_empty() || failing.contains(&"ledger".to_owned())
        })
        .await;
        started.push(process);
    }
    started
}

fn ledger(database: &TestDatabase, node: usize) -> String {
    let file = database.folder.path().join(format!("revoked-{node}"));
    file.display().to_string()
}

async fn stop(processes: Vec<Process>) {
    for mut process in processes {
        process.tell_to_stop();
        assert_eq!(process.until_it_ends().await.code(), Some(0));
    }
}

fn revoke(process: &Process, kid: &str) -> serde_json::Value {
    let output = process.run(&["keys", "revoke", kid, "--reason", "leaked", "--yes", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn is_served(verifier: &Verifier, process: &Process, kid: &str) -> bool {
    let keys = verifier.key_set(process.address().unwrap()).await;
    keys.iter().any(|key| key.kid.as_str() == kid)
}

on_both_databases_at_once!(a_revoked_key_does_not_come_back, |database| {
    let mut verifier = Verifier::new(register_clients(&database, POLICY).await);
    let nodes = start(&database, &verifier).await;
    let address = nodes[0].address().unwrap();
    let token = verifier.take_one_at_last(address, Algorithm::Es256).await;
    let revoked = kid_of(&token);
    verifier.give_up(&revoked);
    verifier.take_one_at_last(address, Algorithm::Rs256).await;
    stop(nodes).await;
    let copied = Copied::take(&database).await;

    // The emergency, of which the copy knows nothing.
    let nodes = start(&database, &verifier).await;
    let told = revoke(&nodes[0], &revoked);
    assert_eq!(told["revocations"][0]["revoked"][0], revoked.as_str(), "{told}");
    for (number, node) in nodes.iter().enumerate() {
        until("each node has noted it", || async {
            let noted = std::fs::read_to_string(ledger(&database, number)).unwrap_or_default();
            noted
                .lines()
                .any(|line| line.split(' ').next() == Some(revoked.as_str()))
        })
        .await;
        assert!(!is_served(&verifier, node, &revoked).await);
    }
    stop(nodes).await;

    copied.put_back().await;
    let raw = Raw::open(&database).await;
    let trusted = format!(
        "SELECT count(*) FROM signing_keys WHERE kid = '{revoked}' AND revoked_at IS NULL AND sealed IS NOT NULL"
    );
    assert_eq!(
        raw.number(&trusted).await,
        1,
        "the copy does not trust it, so nothing is shown"
    );
    let mut nodes = start(&database, &verifier).await;
    let began = verifier.clock.read().monotonic;
    let mut looks = 0;
    while verifier.clock.read().monotonic.saturating_sub(began) < WATCHED_FOR {
        for node in &nodes {
            assert!(!is_served(&verifier, node, &revoked).await, "it is published again");
            let address = node.address().unwrap();
            if let Some(token) = verifier.take_one(address, Algorithm::Es256).await {
                assert_ne!(kid_of(&token), revoked, "it signs again");
            }
            // The other line signs on, and its tokens from before verify.
            verifier.take_one_at_last(address, Algorithm::Rs256).await;
            verifier.verify_all(address).await;
            looks += 1;
        }
        sleep(Duration::from_millis(100)).await;
    }

    // The nodes have revoked it again, and another key signs everywhere.
    let written = format!("SELECT count(*) FROM signing_keys WHERE kid = '{revoked}' AND revoked_at IS NOT NULL");
    until("the revocation is written again", async || {
        raw.number(&written).await == 1
    })
    .await;
    let since = verifier.clock.read().monotonic;
    for node in &mut nodes {
        until_ready(node, &verifier, since).await;
        let address = node.address().unwrap();
        let token = verifier.take_one_at_last(address, Algorithm::Es256).await;
        assert_ne!(kid_of(&token), revoked);
        assert!(!is_served(&verifier, node, &revoked).await);
        verifier.verify_all(address).await;
    }
    println!("set back: {looks} looks, {} nodes; {}", nodes.len(), verifier.figures());
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
});
