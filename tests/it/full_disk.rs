//! A disk that is full for a moment: what was refused meanwhile is refused, and everything goes on as soon as there is room.

use std::fs::{File, remove_file};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use keyround::clock::sleep;
use keyround::store::{Db, StoreError};
use serde_json::Value;

use crate::child::{PROGRAM, Process, register_clients};
use crate::helpers::{TestDatabase, entry};

/// Runs a statement on the connection that writes.
async fn on_writer(db: &Db, sql: &str) {
    let Db::Sqlite { write, .. } = db else {
        panic!("this is for SQLite")
    };
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(write)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_connection_of_a_write_that_failed_is_replaced() {
    let database = TestDatabase::sqlite();
    let db = database.open().await;
    for round in 0..3 {
        // SQLite rolls back by itself, as it does when the disk is full.
        on_writer(&db, "PRAGMA max_page_count = 1").await;
        let error = loop {
            match db.note(&entry("database.pruned", &"x".repeat(2_000))).await {
                Ok(noted) => assert!(noted),
                Err(error) => break error,
            }
        };
        let is_full = matches!(&error, StoreError::Full(_));
        assert!(is_full, "{error}");
        // The new connection knows no such bound.
        for _ in 0..10 {
            db.note(&entry("database.backed_up", &format!("{round}")))
                .await
                .unwrap();
        }
    }
}

/// The checks of `/readyz/issue` that fail; none while no server answers there.
async fn failing(process: &Process) -> Option<Vec<String>> {
    let url = format!("http://{}/readyz/issue", process.admin_address()?);
    let answer: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
    let checks = answer["checks"].as_array()?.iter();
    let failing = checks.filter(|check| check["ok"] == false);
    Some(
        failing
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect(),
    )
}

/// Runs a command that sees the file systems of the server.
fn run_beside(process: &Process, database: &TestDatabase, arguments: &[&str]) -> Output {
    let pid = process.child.id().to_string();
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &pid, "--user", "--preserve-credentials", "--mount"])
        .args(["sh", "-c", "cd \"$0\" && exec \"$@\""])
        .arg(database.folder.path())
        .arg(PROGRAM);
    process.run_by(command, arguments)
}

async fn until(process: &Process, what: &str, met: impl Fn(&[String]) -> bool) {
    for _ in 0..600 {
        if failing(process).await.is_some_and(|failing| met(&failing)) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("never {what}: {}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_disk_was_full_writes_again_as_soon_as_there_is_room() {
    let database = TestDatabase::sqlite();
    register_clients(&database, &[]).await;
    let disk = database.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // A file system of 2 MiB in a mount namespace of the server's own.
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=2m tmpfs \"$0\" && cp keyround.db \"$0\" && exec \"$@\"")
        .arg(&disk)
        .arg(PROGRAM);
    let url = format!("sqlite:{}", disk.join("keyround.db").display());
    let settings = [
        ("database.url", url.as_str()),
        ("keys.replica_refresh", "2s"),
        ("keys.snapshot_max_age", "4s"),
    ];
    let mut process = Process::spawn_by(command, &database, "server", &settings, &[]);
    process.until_it_serves().await;
    until(&process, "ready", <[String]>::is_empty).await;
    let inside = PathBuf::from(format!("/proc/{}/root", process.child.id()));
    let filler = inside.join(disk.join("filler").strip_prefix("/").unwrap());
    let db_check = || {
        let output = run_beside(&process, &database, &["db", "check"]);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), printed + &String::from_utf8_lossy(&output.stderr))
    };
    let writes = |printed: &str| {
        let line = printed.lines().find(|line| line.starts_with("writes"));
        line.unwrap_or_else(|| panic!("{printed}")).to_owned()
    };
    assert!(writes(&db_check().1).contains("ok"));
    for _ in 0..3 {
        let mut file = File::create(&filler).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[0; 1024]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        until(&process, "red", |failing| failing.contains(&"snapshot".to_owned())).await;
        let url = format!("http://{}/readyz/issue", process.admin_address().unwrap());
        let mut told = String::new();
        // A machine that is held up makes the snapshot old before the next try fails.
        for _ in 0..600 {
            told = reqwest::get(&url).await.unwrap().text().await.unwrap();
            if told.contains("the last try failed") {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert!(
            told.contains("the last try failed: no space is left where the database is"),
            "{told}"
        );
        let (code, printed) = db_check();
        let line = writes(&printed);
        assert!(
            code == Some(1) && line.contains("FAILED") && line.contains("no space is left"),
            "{line}"
        );
        drop(file);
        remove_file(&filler).unwrap();
        until(&process, "ready again", <[String]>::is_empty).await;
    }
}

/// A server whose ledger alone lies on a file system of 1 MiB in a mount namespace of its own; the shell runs this before the server.
fn with_small_ledger_disk(database: &TestDatabase, name: &str, before: &str) -> (Process, PathBuf) {
    let disk = database.folder.path().join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size=1m tmpfs \"$0\" && {before} && exec \"$@\""
        ))
        .arg(&disk)
        .arg(PROGRAM);
    let ledger = disk.join("revoked-kids").display().to_string();
    let settings = [
        ("keys.ledger_file", ledger.as_str()),
        ("keys.replica_refresh", "2s"),
        ("keys.snapshot_max_age", "4s"),
    ];
    let process = Process::spawn_by(command, database, name, &settings, &[]);
    (process, disk)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_keeps_room_for_what_is_revoked_on_a_full_disk() {
    let database = TestDatabase::sqlite();
    register_clients(&database, &[]).await;
    let (mut process, disk) = with_small_ledger_disk(&database, "server", "true");
    process.until_it_serves().await;
    until(&process, "ready", <[String]>::is_empty).await;
    let inside = PathBuf::from(format!("/proc/{}/root", process.child.id())).join(disk.strip_prefix("/").unwrap());
    let mut filler = File::create(inside.join("filler")).unwrap();
    while filler.write_all(&[0; 1024]).is_ok() {}
    let keyround = |arguments: &[&str]| run_beside(&process, &database, arguments);
    let keys = keyround(&["keys", "list", "--json"]);
    let keys: Value = serde_json::from_slice(&keys.stdout).unwrap();
    let active = keys.as_array().unwrap().iter().find(|key| key["state"] == "active");
    let kid = active.unwrap()["kid"].as_str().unwrap();
    let revoked = keyround(&["keys", "revoke", kid, "--reason", "leaked", "--yes"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    until(&process, "ready", <[String]>::is_empty).await;
    let ledger = std::fs::read_to_string(inside.join("revoked-kids")).unwrap();
    assert!(ledger.contains(kid), "{ledger}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_finds_no_room_turns_its_check_red() {
    let database = TestDatabase::sqlite();
    register_clients(&database, &[]).await;
    let fill = "touch disk/revoked-kids; cat /dev/zero > disk/filler 2> /dev/null; true";
    let (mut process, disk) = with_small_ledger_disk(&database, "server", fill);
    process.until_it_serves().await;
    until(&process, "red", |failing| failing.contains(&"ledger".to_owned())).await;
    let inside = PathBuf::from(format!("/proc/{}/root", process.child.id())).join(disk.strip_prefix("/").unwrap());
    remove_file(inside.join("filler")).unwrap();
    until(&process, "ready", <[String]>::is_empty).await;
}
