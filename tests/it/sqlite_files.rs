//! The files of SQLite: who may read them, how large they grow, and what stays in them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use keyround::app::open_database;
use keyround::clock::{Clock, Seconds};
use keyround::store::Db;
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};

use crate::child::Process;
use crate::helpers::{TestApp, TestDatabase, entry};
use crate::logins::futures_of;
use crate::process::run;
use crate::rows::Raw;
use crate::sessions::world::{ES256_ALONE, World, log_in, refresh};

fn path(database: &TestDatabase, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", database.url.strip_prefix("sqlite:").unwrap()))
}

fn mode(database: &TestDatabase, ending: &str) -> u32 {
    path(database, ending).metadata().unwrap().permissions().mode() & 0o777
}

fn size(database: &TestDatabase, ending: &str) -> u64 {
    path(database, ending).metadata().unwrap().len()
}

fn keyround(database: &TestDatabase, arguments: &[&str]) -> String {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let output = run(database.folder.path(), &variables, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_their_owner_reads_them() {
    let database = TestDatabase::sqlite();
    // A folder that exists, and that everybody may look into.
    fs::set_permissions(database.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let mut process = Process::spawn(&database, "server", &[]);
    process.until_it_serves().await;
    for ending in ["", "-wal", "-shm"] {
        assert_eq!(mode(&database, ending), 0o600, "{ending}");
    }
    let core = fs::read_to_string(format!("/proc/{}/limits", process.child.id())).unwrap();
    let core = core
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    process.kill();
    // As an earlier version left them behind; a group that may write was chosen.
    for (before, after) in [(0o644, 0o600), (0o640, 0o600), (0o664, 0o660), (0o600, 0o600)] {
        for ending in ["", "-wal", "-shm"] {
            fs::set_permissions(path(&database, ending), Permissions::from_mode(before)).unwrap();
        }
        let db = open_database(&database.url.parse().unwrap()).await.unwrap();
        db.schema_version().await.unwrap();
        for ending in ["", "-wal", "-shm"] {
            assert_eq!(mode(&database, ending), after, "{ending}");
        }
        // The files beside it stay: as after a crash.
        std::mem::forget(db);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_shrinks_once_a_slow_reader_has_gone() {
    let database = TestDatabase::sqlite();
    let db = database.open().await;
    let mut reader = SqliteConnection::connect(&database.url).await.unwrap();
    let mut slow = reader.begin().await.unwrap();
    let count = "SELECT count(*) FROM audit";
    sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *slow).await.unwrap();
    let text = "x".repeat(50_000);
    let mut number = 0;
    while size(&database, "-wal") < 6_000_000 {
        number += 1;
        db.note(&entry("database.pruned", &format!("{number}{text}")))
            .await
            .unwrap();
    }
    slow.rollback().await.unwrap();
    for number in 0..3 {
        db.note(&entry("database.pruned", &format!("small {number}")))
            .await
            .unwrap();
    }
    let left = size(&database, "-wal");
    assert!(left <= 1_048_576, "{left}");
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_deleted_is_in_no_file() {
    const EMAIL: &str = "ada.of.the.deleted@example.com";
    let database = TestDatabase::sqlite();
    let mut process = Process::spawn(&database, "server", &[]);
    process.until_it_serves().await;
    let create = ["users", "create", "--email", EMAIL, "--name", "Adelaide of the Deleted"];
    keyround(&database, &create);
    for number in 0..30 {
        let email = format!("user{number}@example.com");
        keyround(
            &database,
            &["users", "create", "--email", &email, "--name", "Somebody Else"],
        );
    }
    let found = || {
        ["", "-wal"].iter().any(|ending| {
            let octets = fs::read(path(&database, ending)).unwrap_or_default();
            let has = |text: &[u8]| octets.windows(text.len()).any(|window| window == text);
            has(EMAIL.as_bytes()) || has(b"Adelaide of the Deleted")
        })
    };
    assert!(found());
    keyround(&database, &["users", "delete", EMAIL, "--yes"]);
    assert!(!found());
}

/// A record of this time; one of `START` would put the clocks of the commands in doubt.
async fn note(db: &Db, subject: &str, at: keyround::clock::UnixTime) {
    let mut entry = entry("database.pruned", subject);
    (entry.happened_at, entry.noted_at) = (at, at);
    db.note(&entry).await.unwrap();
}

/// Fills the file with records of 10 kB, written down at this time.
async fn fill(db: &Db, count: usize, noted_at: keyround::clock::UnixTime) {
    let text = "x".repeat(10_000);
    for number in 0..count {
        note(db, &format!("{number}{text}"), noted_at).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_makes_the_file_smaller() {
    let database = TestDatabase::sqlite();
    let db = database.open().await;
    let now = Clock::system().read().wall;
    fill(&db, 300, now - Seconds(86_400 * 500)).await;
    note(&db, "last", now).await;
    let prune = ["db", "prune", "--audit-older-than", "400d"];
    db.empty_log().await.unwrap();
    let before = size(&database, "");
    let told = keyround(&database, &prune);
    assert!(told.contains("deleted 30") && told.contains("octets and had"), "{told}");
    let after = size(&database, "");
    assert!(before > 3_000_000 && after < 600_000, "{before} {after}");
    let raw = Raw::open(&database).await;
    let noted = raw
        .texts("SELECT reason FROM audit WHERE event = 'database.pruned' AND subject = 'database'")
        .await;
    assert!(
        noted.len() == 1 && noted[0].contains("records of the audit log"),
        "{noted:?}"
    );
    raw.close().await;
    // A file from an earlier version cannot give pages back; its first prune rewrites it.
    let raw = Raw::open(&database).await;
    raw.execute("PRAGMA auto_vacuum = NONE; VACUUM").await;
    raw.close().await;
    fill(&db, 300, now - Seconds(86_400 * 500)).await;
    note(&db, "last", now).await;
    keyround(&database, &prune);
    let after = size(&database, "");
    assert!(after < 600_000, "{after}");
    db.close().await;
}

/// A command may hold the only writer of the file for long. Requests wait for it, and for each other, no longer than they are allowed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_time_while_another_process_writes() {
    let world = World::start(TestDatabase::sqlite(), &ES256_ALONE).await;
    let user = world.user("ada").await;
    let mut tokens = Vec::new();
    for _ in 0..6 {
        tokens.push(log_in(&world.app, &user).await.unwrap().refresh_token);
    }
    let held = world.raw.hold("UPDATE clients SET scope = scope").await;
    let clock = Clock::system();
    let (world, user) = (&world, &user);
    let refused = async |token: Option<&str>| {
        let before = clock.read().monotonic;
        let is_refused = match token {
            Some(token) => refresh(&world.app, token).await.is_err(),
            None => log_in(&world.app, user).await.is_err(),
        };
        (is_refused, clock.read().monotonic.saturating_sub(before))
    };
    // Of some rounds, one: a busy machine may hold up the others.
    let mut slowest = Vec::new();
    for _ in 0..5 {
        let asked = tokens.iter().flat_map(|token| [Some(token.as_str()), None]);
        let answers = futures_of(asked.map(&refused)).await;
        assert!(answers.iter().all(|(is_refused, _)| *is_refused));
        slowest.push(answers.into_iter().map(|(_, took)| took).max().unwrap());
        if slowest.last().unwrap() < &Duration::from_secs(3) {
            break;
        }
    }
    assert!(slowest.last().unwrap() < &Duration::from_secs(3), "{slowest:?}");
    held.let_go().await;
    for token in &tokens {
        refresh(&world.app, token).await.unwrap();
    }
    log_in(&world.app, user).await.unwrap();
}

/// A command of a user who may read the files, and not write them: root writes all of them.
fn as_reader(folder: &std::path::Path, arguments: &[&str]) -> String {
    let program = folder.join("keyround");
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program);
    if !rustix::process::geteuid().is_root() {
        command = std::process::Command::new(&program);
    }
    let output = command
        .args(arguments)
        .current_dir(folder)
        .envs([
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_DATABASE__URL", "sqlite:data.db"),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
        ])
        .output()
        .unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_be_written_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", "sqlite:data.db"),
    ];
    assert!(run(folder, &variables, &["db", "migrate"]).status.success());
    // As beside a server: without the files of a log, SQLite reads nothing either where it cannot make them.
    let url = format!("sqlite:{}", folder.join("data.db").display());
    let beside = sqlx::SqlitePool::connect(&url).await.unwrap();
    sqlx::query("SELECT count(*) FROM users")
        .execute(&beside)
        .await
        .unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o444)).unwrap();
    }
    let said = || {
        let check = as_reader(folder, &["db", "check"]);
        let line = check
            .lines()
            .find(|line| line.starts_with("writes"))
            .unwrap_or(&check)
            .to_owned();
        (
            line,
            as_reader(folder, &["db", "copy", "--to", "sqlite:copy.db"]),
            as_reader(folder, &["backup", "-"]),
        )
    };
    fs::copy(env!("CARGO_BIN_EXE_keyround"), folder.join("keyround")).unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o555)).unwrap();
    let (check, copy, backup) = said();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    assert!(
        check.contains("FAILED") && check.contains("this user may not write it or its folder"),
        "{check}"
    );
    assert!(
        copy.contains("copy.db cannot be made") && copy.contains("Permission denied"),
        "{copy}"
    );
    assert!(
        backup.contains("the backup is written and whole, but the audit log"),
        "{backup}"
    );
    assert!(!folder.join("copy.db").exists());
    beside.close().await;
}

#[test]
fn a_file_that_is_no_database_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = folder.join("notes.txt");
    std::fs::write(&file, "not a database, but long enough to be taken for one").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", "sqlite:notes.txt"),
    ];
    for command in [&["db", "check"][..], &["db", "migrate"]] {
        assert!(!run(folder, &variables, command).status.success(), "{command:?}");
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o644,
            "{command:?}"
        );
    }
}

/// Whether the check `file` of a server is green, and its detail.
async fn check_of_file(app: &TestApp) -> (bool, String) {
    // What was found holds for a second.
    app.clock.advance(Seconds(2));
    let answer = app.http.get(format!("{}/readyz/issue", app.admin_url)).send().await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    let checks = answer["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "file").unwrap();
    (check["ok"] == true, check["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_longer_at_its_path_turns_the_check_red() {
    for (what, told) in [
        ("replaced by a copy", "another file is at"),
        ("replaced by another one", "another file is at"),
        ("deleted", "is gone from there"),
        ("moved", "is gone from there"),
        ("deleted -wal", "-wal, which this server has open, was deleted"),
        ("deleted -shm", "-shm, which this server has open, was deleted"),
        ("moved -wal", "-wal, which this server has open, was moved to "),
        ("moved -shm", "-shm, which this server has open, was moved to "),
        ("replaced -wal", "-wal, which this server has open, was deleted"),
    ] {
        let database = TestDatabase::sqlite();
        let app = TestApp::start(&database, &[]).await;
        app.running.server.keyring.refresh().await.unwrap();
        let (is_green, detail) = check_of_file(&app).await;
        assert!(is_green, "{what}: {detail}");
        let (what, ending) = what
            .split_once(" -")
            .map_or((what, String::new()), |(what, ending)| (what, format!("-{ending}")));
        let (file, beside) = (path(&database, &ending), path(&database, ".other"));
        match what {
            "replaced by a copy" => {
                fs::copy(&file, &beside).unwrap();
                fs::rename(&beside, &file).unwrap();
            }
            "replaced" | "replaced by another one" => {
                fs::write(&beside, "").unwrap();
                fs::rename(&beside, &file).unwrap();
            }
            "moved" => fs::rename(&file, &beside).unwrap(),
            _ => fs::remove_file(&file).unwrap(),
        }
        let (is_green, detail) = check_of_file(&app).await;
        assert!(!is_green && detail.contains(told), "{what}: {detail}");
        assert!(detail.contains("is lost when the server stops"), "{what}: {detail}");
        let answer = app.http.get(format!("{}/readyz/issue", app.admin_url)).send().await;
        assert_eq!(answer.unwrap().status(), 503, "{what}");
        // The key set is served on.
        let answer = app.http.get(format!("{}/readyz", app.admin_url)).send().await;
        assert_eq!(answer.unwrap().status(), 200, "{what}");
        if what == "moved" {
            fs::rename(&beside, &file).unwrap();
            let (is_green, detail) = check_of_file(&app).await;
            assert!(is_green, "moved back: {detail}");
        }
        app.running.stop().await;
    }
}

/// A server whose database is behind a link to a folder `a`, beside which there is a folder `b` with another database.
async fn behind_a_link() -> (TestDatabase, TestApp) {
    let mut database = TestDatabase::sqlite();
    let folder = database.folder.path();
    for name in ["a", "b"] {
        let one = TestDatabase {
            url: format!("sqlite:{}", folder.join(name).join("keyround.db").display()),
            folder: tempfile::tempdir().unwrap(),
        };
        one.open().await.close().await;
    }
    symlink("a", folder.join("cur")).unwrap();
    database.url = format!("sqlite:{}", folder.join("cur/keyround.db").display());
    let app = TestApp::start(&database, &[]).await;
    (database, app)
}

fn turn(database: &TestDatabase, folder: &str) {
    let (link, beside) = (database.folder.path().join("cur"), database.folder.path().join("next"));
    symlink(folder, &beside).unwrap();
    fs::rename(beside, link).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_turned_turns_the_check_red_and_no_connection_follows_it() {
    let (database, app) = behind_a_link().await;
    let (is_green, detail) = check_of_file(&app).await;
    assert!(is_green, "{detail}");
    turn(&database, "b");
    let (is_green, detail) = check_of_file(&app).await;
    assert!(!is_green && detail.contains("leads to another file than"), "{detail}");
    let Db::Sqlite { read, write, .. } = &app.running.server.db else {
        unreachable!()
    };
    // The connections that a start opens are one of each: the others are new.
    for (pool, connections) in [(read, 4), (write, 1)] {
        let mut opened = Vec::new();
        for _ in 0..connections {
            let mut connection = pool.acquire().await.unwrap();
            let row: (i64, String, String) = sqlx::query_as("PRAGMA database_list")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert!(row.2.ends_with("/a/keyround.db"), "{row:?}");
            opened.push(connection);
        }
    }
    turn(&database, "a");
    let (is_green, detail) = check_of_file(&app).await;
    assert!(is_green, "turned back: {detail}");
    fs::remove_file(database.folder.path().join("cur")).unwrap();
    let (is_green, detail) = check_of_file(&app).await;
    assert!(!is_green && detail.contains("no longer leads to"), "{detail}");
    app.running.stop().await;
}

/// A connection that is given back is idle a moment later.
async fn until_idle(pool: &sqlx::SqlitePool) {
    while pool.num_idle() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_opened_to_a_file_that_replaced_the_first_one() {
    let database = TestDatabase::sqlite();
    let db = database.open().await;
    let (file, beside) = (path(&database, ""), path(&database, ".other"));
    let Db::Sqlite { read, .. } = &db else { unreachable!() };
    let first = read.acquire().await.unwrap();
    fs::copy(&file, &beside).unwrap();
    fs::rename(&beside, &file).unwrap();
    assert!(read.acquire().await.is_err());
    drop(first);
    until_idle(read).await;
    assert!(read.acquire().await.is_ok());
    until_idle(read).await;
    fs::remove_file(&file).unwrap();
    let first = read.acquire().await.unwrap();
    assert!(read.acquire().await.is_err());
    drop(first);
    // The connection that writes makes no new file either.
    let Db::Sqlite { write, .. } = &db else { unreachable!() };
    write.acquire().await.unwrap().close().await.unwrap();
    assert!(write.acquire().await.is_err());
    assert!(!file.exists());
}
