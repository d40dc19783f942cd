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
use crate::own_postgres::OwnPostgres;

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

/// What a command ended with, and all that it printed.
fn told(output: &Output) -> (Option<i32>, String) {
    let printed = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_without_room_is_told_and_goes_on_once_there_is_some() {
    let postgres = OwnPostgres::start("").await;
    let space = format!("CREATE TABLESPACE small LOCATION '{}'", postgres.small_folder());
    let make = [space.as_str(), "CREATE DATABASE keyround TABLESPACE small"];
    postgres.run("postgres", &make).await.unwrap();
    let database = TestDatabase {
        url: postgres.url("postgres", "keyround"),
        folder: tempfile::tempdir().unwrap(),
    };
    let secret = register_clients(&database, &[]).await;
    let mut process = Process::spawn(&database, "server", &[]);
    let address = process.until_it_serves().await;
    until(&process, "ready", <[String]>::is_empty).await;
    let http = reqwest::Client::new();
    let post = async |path: &str, form: &[(&str, &str)]| {
        let request = http.post(format!("http://{address}/oauth2/{path}"));
        request
            .basic_auth("ES256", Some(&secret))
            .form(form)
            .send()
            .await
            .unwrap()
    };
    let grant = [("grant_type", "client_credentials")];
    let granted: Value = post("token", &grant).await.json().await.unwrap();
    let revocation = [("token", granted["access_token"].as_str().unwrap())];
    let room = async || {
        let url = format!("http://{}/readyz/issue", process.admin_address().unwrap());
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let checks = answer["checks"].as_array().unwrap();
        let room = checks.iter().find(|check| check["name"] == "room").unwrap();
        (room["ok"] == true, room["detail"].as_str().unwrap().to_owned())
    };

    let table = [
        "CREATE TABLE filler (x TEXT)",
        "ALTER TABLE filler ALTER x SET STORAGE PLAIN",
    ];
    postgres.run("keyround", &table).await.unwrap();
    // Many rows at a time, and then page by page, until not one more fits.
    for rows in [200, 1] {
        let insert = format!("INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, {rows})");
        let full = loop {
            if let Err(error) = postgres.run("keyround", &[&insert]).await {
                break error;
            }
        };
        assert_eq!(full.as_database_error().unwrap().code().as_deref(), Some("53100"));
    }
    // Pages that exist take heartbeats, so that nothing was noticed so far.
    assert!(room().await.0);
    // On a busy machine a request may be refused for another reason first.
    let (ok, detail) = loop {
        assert_eq!(post("revoke", &revocation).await.status(), 503);
        let (ok, detail) = room().await;
        if !ok {
            break (ok, detail);
        }
    };
    assert!(
        !ok && detail.contains("no space is left where the database is"),
        "{detail}"
    );
    assert!(
        detail.contains("pg_tblspc") && detail.contains("No space left on device"),
        "{detail}"
    );
    let granted = post("token", &grant).await;
    assert_eq!(granted.status(), 200, "what needs no room goes on");
    let create = ["users", "create", "--email", "ada@example.com", "--name", "Ada"];
    let (code, printed) = told(&process.run(&create));
    assert_eq!(code, Some(1), "{printed}");
    for words in [
        &format!("no space is left for the database {} (", database.url),
        "could not extend file \"pg_tblspc/",
        "No space left on device",
        "make room on its disk and try again; nothing is half written",
    ] {
        assert!(printed.contains(words), "'{words}' is not in: {printed}");
    }
    let (code, printed) = told(&process.run(&["db", "check"]));
    let writes = printed.lines().find(|line| line.starts_with("writes")).unwrap();
    assert!(
        code == Some(1) && writes.contains("FAILED") && writes.contains("no space is left"),
        "{printed}"
    );

    postgres.run("keyround", &["DROP TABLE filler"]).await.unwrap();
    until(&process, "green again", <[String]>::is_empty).await;
    assert_eq!(post("revoke", &revocation).await.status(), 200);
    let (code, printed) = told(&process.run(&create));
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = told(&process.run(&["db", "check"]));
    assert_eq!(code, Some(0), "{printed}");
    assert!(process.child.try_wait().unwrap().is_none());
}
