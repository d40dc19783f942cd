//! A node that the network cuts off from its PostgreSQL: it stops, is named, and comes back clean.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyround::jose::alg::Algorithm;
use serde_json::Value;
use tokio::sync::watch;

use crate::child::{PROGRAM, Process, register_clients};
use crate::crashes::until_ready;
use crate::helpers::TestDatabase;
use crate::namespace::Namespace;
use crate::network::{Network, network_at};
use crate::rows::Raw;
use crate::until;
use crate::verifier::{Verifier, kid_of};

const J: Duration = Duration::from_secs(3);

/// A new key every ten seconds, published 40 s ahead.
const POLICY: &[(&str, &str)] = &[
    ("keys.rotation_period", "10s"),
    ("keys.prepublish", "40s"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "3s"),
    // A node that was seen so much longer ago than J still counts as one that lives, and a busy machine may take its time to ask.
    ("keys.clock_skew", "20s"),
    ("keys.verifier_leeway", "0s"),
    ("keys.max_published", "100"),
    ("keys.max_set_bytes", "65536"),
    ("tokens.access_token_ttl", "1m"),
    ("tokens.max_token_ttl", "1m"),
];

/// A database as it looks through a network.
async fn through(database: &TestDatabase, state: watch::Receiver<Network>) -> TestDatabase {
    through_at(Ipv4Addr::LOCALHOST.into(), database, state).await
}

async fn through_at(near: IpAddr, database: &TestDatabase, state: watch::Receiver<Network>) -> TestDatabase {
    TestDatabase {
        url: network_at(near, &database.url, state).await,
        folder: tempfile::tempdir().unwrap(),
    }
}

/// What cuts a node off from its database.
enum Cut {
    /// It has a network of its own, whose wire is pulled.
    Namespace(Namespace),
    /// What stands between them passes nothing on; what was under way is lost when it does again.
    Proxy(watch::Sender<Network>),
}

impl Cut {
    fn off(&self) {
        match self {
            Self::Namespace(namespace) => namespace.pull(),
            Self::Proxy(wire) => drop(wire.send_replace(Network::Closed)),
        }
    }

    fn mend(&self) {
        match self {
            Self::Namespace(namespace) => namespace.put_back(),
            Self::Proxy(wire) => drop(wire.send_replace(Network::Open { era: 1 })),
        }
    }
}

/// The kids that are served there.
async fn served(verifier: &Verifier, address: SocketAddr) -> Vec<String> {
    let keys = verifier.key_set(address).await;
    keys.iter().map(|key| key.kid.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_network_that_swallows_everything_is_named_stops_signing_and_returns_clean() {
    let database = TestDatabase::postgres().await;
    let (wire, state) = watch::channel(Network::Open { era: 0 });
    let behind = through(&database, state).await;
    cut_off(&database, &Cut::Proxy(wire), |policy| {
        Process::spawn(&behind, "far", policy)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_wire_is_pulled_is_named_stops_signing_and_returns_clean() {
    let Some(namespace) = Namespace::new() else {
        println!("NO NETWORK NAMESPACE on this machine: only the other test of this module cuts a node off");
        return;
    };
    let database = TestDatabase::postgres().await;
    // Never closed: PostgreSQL itself listens where the wire does not end.
    let (_open, state) = watch::channel(Network::Open { era: 0 });
    let behind = through_at(namespace.database(), &database, state).await;
    let (command, listen) = (namespace.run(PROGRAM), format!("{}:0", namespace.node()));
    cut_off(&database, &Cut::Namespace(namespace), |policy| {
        let own = [("server.listen", &*listen), ("server.admin_listen", &*listen)];
        Process::spawn_by(command, &behind, "far", &[policy, &own].concat(), &[])
    })
    .await;
}

/// One node near its database, and one that is cut off from it.
async fn cut_off(database: &TestDatabase, cut: &Cut, spawn_far: impl FnOnce(&[(&str, &str)]) -> Process) {
    let mut verifier = Verifier::new(register_clients(database, POLICY).await);
    let mut near = Process::spawn(database, "near", POLICY);
    let started = verifier.clock.read().monotonic;
    until_ready(&mut near, &verifier, started).await;
    let mut far = spawn_far(POLICY);
    until_ready(&mut far, &verifier, started).await;
    let (near_at, far_at) = (near.address().unwrap(), far.address().unwrap());
    verifier.take(near_at).await;
    verifier.take(far_at).await;
    let token = verifier.take_one_at_last(far_at, Algorithm::Es256).await;
    let revoked = kid_of(&token);

    // Both have been seen; now one of them is cut off.
    let raw = Raw::open(database).await;
    until("both have been seen", || async {
        raw.number("SELECT count(*) FROM nodes").await == 2
    })
    .await;
    cut.off();
    let since = verifier.clock.read().monotonic;
    let output = near.run(&["keys", "revoke", &revoked, "--reason", "leaked", "--yes", "--json"]);
    // It is revoked, and one node has not confirmed it.
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told_after = verifier.clock.read().monotonic.saturating_sub(since);
    assert_eq!(told["nodes"]["living"], 2, "{told}");
    let unconfirmed = told["nodes"]["unconfirmed"].as_array().unwrap();
    let [unconfirmed] = &unconfirmed[..] else {
        panic!("{told}")
    };
    let named = unconfirmed["node_id"].as_str().unwrap().to_owned();
    let versions = raw
        .texts(&format!(
            "SELECT node_id FROM nodes WHERE version = (SELECT min(version) FROM nodes) AND node_id = '{named}'"
        ))
        .await;
    assert_eq!(versions.len(), 1, "the one that is behind is another: {told}");
    let signs_now = told["revocations"][0]["signs_now"].as_str().unwrap().to_owned();

    // The near one signs with the replacement. The far one signs nothing any more once J has passed, and serves on.
    assert_eq!(
        kid_of(&verifier.take_one_at_last(near_at, Algorithm::Es256).await),
        signs_now
    );
    let mut refusals = 0;
    while verifier.clock.read().monotonic.saturating_sub(since) < J * 4 {
        let asked = verifier.clock.read().monotonic.saturating_sub(since);
        let token = verifier.take_one(far_at, Algorithm::Es256).await;
        assert!(
            token.is_none() || asked < J,
            "a node that was cut off signed after {asked:?}"
        );
        refusals += usize::from(token.is_none());
        assert!(served(&verifier, far_at).await.contains(&revoked));
    }
    assert!(!served(&verifier, near_at).await.contains(&revoked));

    // What it had under way is lost without a word; it finds its way all the same, without a restart.
    cut.mend();
    let returned = verifier.clock.read().monotonic;
    let took = until_ready(&mut far, &verifier, returned).await;
    assert!(!served(&verifier, far_at).await.contains(&revoked));
    let token = verifier.take_one_at_last(far_at, Algorithm::Es256).await;
    assert_eq!(kid_of(&token), signs_now);
    until("both have confirmed", || async {
        let behind = "SELECT count(*) FROM nodes WHERE version < (SELECT version FROM key_version)";
        raw.number(behind).await == 0 && raw.number("SELECT count(*) FROM nodes").await == 2
    })
    .await;
    verifier.give_up(&revoked);
    verifier.verify_all(near_at).await;
    verifier.verify_all(far_at).await;
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
    println!(
        "cut off: named after {told_after:?}, {refusals} refusals, ready {took:?} after the return; {}",
        verifier.figures()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_whose_connection_died_without_a_word_is_tried_again() {
    let database = TestDatabase::postgres().await;
    let mut verifier = Verifier::new(register_clients(&database, POLICY).await);
    let (wire, state) = watch::channel(Network::Open { era: 0 });
    let behind = through(&database, state).await;
    let mut far = Process::spawn(&behind, "far", POLICY);
    let started = verifier.clock.read().monotonic;
    until_ready(&mut far, &verifier, started).await;
    let address = far.address().unwrap();
    let raw = Raw::open(&database).await;
    let newest = || raw.number("SELECT max(generation) FROM signing_keys");

    // A rotation waits for the lock of the rows when its connection dies.
    let blocker = raw.hold("UPDATE key_version SET version = version").await;
    until("it waits for the lock", || async {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        raw.number(waiting).await > 0
    })
    .await;
    wire.send_replace(Network::Closed);
    wire.send_replace(Network::Open { era: 1 });
    raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .await;
    blocker.let_go().await;
    let before = newest().await;
    let since = verifier.clock.read().monotonic;
    until("it rotates again", || async { newest().await > before }).await;
    let took = verifier.clock.read().monotonic.saturating_sub(since);
    verifier.take(address).await;
    until_ready(&mut far, &verifier, since).await;
    verifier.take(address).await;
    verifier.verify_all(address).await;
    println!(
        "a dead connection: rotation resumed after {took:?}; {}",
        verifier.figures()
    );
    assert!(verifier.refused.is_empty(), "{:#?}", verifier.refused);
}
