//! A highly available PostgreSQL fails over while servers work on it: `make proof`. An oracle holds every token against every key
//! set, and everything that was acknowledged against what the servers say afterwards.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::format_push_string,
    reason = "a test may panic, and so may what it stands on"
)]

#[path = "../it/child.rs"]
#[allow(dead_code, reason = "the other binaries use the rest")]
mod child;
mod cluster;
#[path = "../it/helpers.rs"]
#[allow(dead_code, unused_macros, reason = "the other binaries use the rest")]
mod helpers;
mod load;
#[path = "../it/ports.rs"]
mod ports;
#[path = "../proof/results.rs"]
mod results;
#[path = "../it/rows.rs"]
#[allow(dead_code, reason = "the other binaries use the rest")]
mod rows;
#[path = "../proof/verifier.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod verifier;

use std::time::Duration;

use keyround::clock::sleep;

use child::{Process, register_clients};
use cluster::Cluster;
use helpers::TestDatabase;
use load::{Load, Node, POLICY, Report};

/// How soon tokens must be given again once there is a new primary.
const TOKENS_AGAIN: Duration = Duration::from_secs(5);
/// How soon every answer must come.
const ANSWER: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(5);

/// What happens to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    PrimaryKilled,
    Switchover,
    PrimaryStoppedAndContinued,
    EtcdAway,
    LastSecondsLost,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_database_fails_over() {
    let mut cluster = Cluster::start().await;
    let ways = [
        (
            "a proxy that cuts connections",
            format!("127.0.0.1:{}", cluster.cutting),
        ),
        (
            "a proxy that leaves connections",
            format!("127.0.0.1:{}", cluster.leaving),
        ),
        ("several hosts in the URL", cluster.hosts()),
    ];
    let folder = || tempfile::tempdir().unwrap();
    let database = |hosts: &str| TestDatabase {
        url: format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write"),
        folder: folder(),
    };
    let secret = register_clients(&database(&ways[2].1), POLICY).await;
    let mut nodes = Vec::new();
    for (way, (name, hosts)) in ways.iter().enumerate() {
        for number in 0..2 {
            let database = database(hosts);
            let ledger = database.folder.path().join("ledger").display().to_string();
            let settings = [POLICY, &[("keys.ledger_file", ledger.as_str())]].concat();
            let mut process = Process::spawn(&database, &format!("node-{number}"), &settings);
            let address = process.until_it_serves().await;
            nodes.push(Node {
                way,
                way_name: (*name).to_owned(),
                address,
                admin: process.admin_address().unwrap(),
                process,
                database,
            });
        }
    }
    let load = Load::start(nodes, secret, cluster.clock.clone());
    let mut table = String::new();
    for happening in [
        Happening::PrimaryKilled,
        Happening::Switchover,
        Happening::PrimaryStoppedAndContinued,
        Happening::EtcdAway,
        Happening::LastSecondsLost,
    ] {
        sleep(WARM_UP).await;
        load.begin();
        let new_primary_at = happen(happening, &mut cluster, &load).await;
        sleep(TOKENS_AGAIN + Duration::from_secs(5)).await;
        let reports = load.end(new_primary_at).await;
        for report in &reports {
            table.push_str(&format!("| {happening:?} | {report} |\n"));
            println!("{happening:?}: {report}");
        }
        check(happening, &reports);
        cluster.until_whole().await;
    }
    let (verified, refused) = load.stop().await;
    assert_eq!(refused, Vec::<String>::new());
    load::write_page(&table, verified);
}

fn check(happening: Happening, reports: &[Report]) {
    for report in reports {
        assert!(report.slowest_answer <= ANSWER, "{happening:?}: {report}");
        assert!(report.tokens_again <= TOKENS_AGAIN, "{happening:?}: {report}");
        assert_eq!(report.forgotten, 0, "{happening:?}: {report}");
        assert!(report.keys_revoked > 0, "{happening:?}: {report}");
    }
    if happening == Happening::LastSecondsLost {
        let restored: u64 = reports.iter().map(|report| report.restored).sum();
        assert!(restored > 0, "nothing was reported as lost");
    }
}

/// Answers with when the new primary was there, by the clock of the cluster.
async fn happen(happening: Happening, cluster: &mut Cluster, load: &Load) -> Duration {
    let primary = cluster.primary().await.unwrap();
    match happening {
        Happening::PrimaryKilled => {
            cluster.members[primary].kill();
            let (_, at) = cluster.until_primary_is_not(Some(primary)).await;
            sleep(Duration::from_secs(2)).await;
            cluster.members[primary].restart();
            at
        }
        Happening::Switchover => {
            cluster.switch_over(primary).await;
            cluster.until_primary_is_not(Some(primary)).await.1
        }
        Happening::PrimaryStoppedAndContinued => {
            cluster.members[primary].stop();
            let (_, at) = cluster.until_primary_is_not(Some(primary)).await;
            sleep(Duration::from_secs(5)).await;
            cluster.members[primary].go_on();
            at
        }
        Happening::EtcdAway => {
            cluster.stop_etcd();
            sleep(Duration::from_secs(40)).await;
            cluster.let_etcd_go_on();
            cluster.until_primary_is_not(None).await.1
        }
        Happening::LastSecondsLost => {
            cluster.replicate_synchronously(false).await;
            cluster.members[primary].stop_sending();
            sleep(Duration::from_secs(4)).await;
            load.pause_changes();
            // What was acknowledged has reached the node that acknowledged it.
            sleep(Duration::from_secs(2)).await;
            cluster.members[primary].kill();
            let (_, at) = cluster.until_primary_is_not(Some(primary)).await;
            load.resume_changes();
            sleep(Duration::from_secs(2)).await;
            cluster.members[primary].restart();
            at
        }
    }
}
