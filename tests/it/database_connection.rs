//! A PostgreSQL that cannot be used: every command ends soon, and says where it is, which setting gives it, why, and what to do.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use sqlx::{Connection, PgConnection};

use crate::own_postgres::OwnPostgres;
use crate::process::{Serving, keyround, run};

/// No message repeats it.
const PASSWORD: &str = "swordfish";

/// Within this time a command ends that finds no database: one host has 2 s, and a busy machine starts nine processes in the rest.
const SOON: Duration = Duration::from_secs(20);

const COMMANDS: [&[&str]; 9] = [
    &["serve"],
    &["clients", "list"],
    &["users", "list"],
    &["keys", "list"],
    &["keys", "rotate", "--reason", "x"],
    &["db", "check"],
    &["db", "migrate"],
    &["backup", "copy.json"],
    &["config", "check", "--connect"],
];

fn variables(url: &str) -> [(&str, &str); 5] {
    [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_DATABASE__URL", url),
    ]
}

/// Runs every command, all at once, and looks for these words in the last sentence of each.
fn check(folder: &Path, url: &str, words: &[&str]) {
    let run_one = |arguments: &'static [&'static str]| {
        let clock = Clock::system();
        let began = clock.read().monotonic;
        let output = run(folder, &variables(url), arguments);
        let took = clock.read().monotonic.saturating_sub(began);
        let error = String::from_utf8(output.stderr).unwrap();
        let printed = format!("{}{error}", String::from_utf8_lossy(&output.stdout));
        assert!(took < SOON, "{arguments:?} took {took:?}: {printed}");
        let sentence = error.lines().last().unwrap_or_default();
        let code = if arguments[0] == "config" { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
        for words in words.iter().chain(&["database.url"]) {
            assert!(
                sentence.contains(words),
                "{arguments:?}: '{words}' is not in: {sentence}"
            );
        }
        for words in [PASSWORD, "pool", "PoolTimedOut", "panicked"] {
            assert!(!printed.contains(words), "{arguments:?}: {printed}");
        }
    };
    std::thread::scope(|scope| {
        let runs = COMMANDS.map(|arguments| scope.spawn(move || run_one(arguments)));
        for run in runs {
            run.join().unwrap();
        }
    });
}

/// How it is admitted, and as whom.
const ADMISSION: &str = "host all with_password 127.0.0.1/32 scram-sha-256\nhost all without_room 127.0.0.1/32 trust\n\
                         host all without_role 127.0.0.1/32 trust\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reason_is_told_with_its_place_setting_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = OwnPostgres::start(ADMISSION).await;
    let roles = [
        "CREATE ROLE with_password LOGIN PASSWORD 'another'",
        "CREATE ROLE without_room LOGIN CONNECTION LIMIT 0",
        "CREATE ROLE not_admitted LOGIN",
        "CREATE DATABASE keyround",
    ];
    postgres.run("postgres", &roles).await.unwrap();
    // It accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let closed = crate::ports::free_port();
    // Longer than a label of DNS, so that the resolver need not ask anybody.
    let unknown = format!("{}.example", "a".repeat(64));
    // A busy machine needs longer than 2 s for a password.
    let as_role = |role: &str, database: &str| {
        let url = postgres.url(&format!("{role}:{PASSWORD}"), database);
        format!("{url}?connect_timeout=15")
    };
    let place = format!("127.0.0.1:{}", postgres.port());
    let place = place.as_str();
    let cases: [(String, &[&str]); 8] = [
        (
            format!("postgres://kr:{PASSWORD}@{silent}/keyround"),
            &[
                &silent.to_string(),
                "did not answer within 2 s",
                "look whether PostgreSQL listens there",
            ],
        ),
        (
            format!("postgres://kr:{PASSWORD}@127.0.0.1:{closed}/keyround"),
            &[&format!("127.0.0.1:{closed}"), "refused", "start it there"],
        ),
        (
            format!("postgres://kr:{PASSWORD}@{unknown}:6000/keyround"),
            &[
                &format!("{unknown}:6000"),
                "failed to lookup address",
                "correct the name of the host",
            ],
        ),
        (
            as_role("postgres", "nowhere"),
            &[
                place,
                "database \"nowhere\" does not exist",
                "make it by CREATE DATABASE",
            ],
        ),
        (
            as_role("without_room", "keyround"),
            &[
                place,
                "too many connections for role \"without_room\"",
                "raise max_connections or the CONNECTION LIMIT",
            ],
        ),
        (
            as_role("with_password", "keyround"),
            &[
                place,
                "password authentication failed",
                "give the role's password in the URL",
            ],
        ),
        (
            as_role("not_admitted", "keyround"),
            &[place, "no pg_hba.conf entry", "let a line of pg_hba.conf admit it"],
        ),
        (
            as_role("without_role", "keyround"),
            &[
                place,
                "role \"without_role\" does not exist",
                "make the role by CREATE ROLE",
            ],
        ),
    ];
    for (url, words) in &cases {
        tokio::task::block_in_place(|| check(folder.path(), url, words));
    }
    // A connection that is open holds up a stop that waits for it.
    let open = PgConnection::connect(&postgres.url("postgres", "postgres"))
        .await
        .unwrap();
    postgres.signal("TERM");
    while PgConnection::connect(&postgres.url("postgres", "postgres"))
        .await
        .is_ok()
    {
        sleep(Duration::from_millis(20)).await;
    }
    let words = [
        place,
        "the database system is shutting down",
        "wait until it accepts connections, then try again",
    ];
    tokio::task::block_in_place(|| check(folder.path(), &as_role("postgres", "keyround"), &words));
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_server_stops_says_so_and_a_server_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = OwnPostgres::start("").await;
    postgres.run("postgres", &["CREATE DATABASE keyround"]).await.unwrap();
    let url = postgres.url(&format!("postgres:{PASSWORD}"), "keyround");
    let served = tokio::task::block_in_place(|| Serving::start(folder.path(), &variables(&url), &["serve"]));
    // The command waits for this lock when its connection is ended.
    let mut holder = PgConnection::connect(&postgres.url("postgres", "keyround"))
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE users")
        .execute(&mut holder)
        .await
        .unwrap();
    let list = keyround(folder.path(), &variables(&url), &["users", "list"])
        .spawn()
        .unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted";
    while sqlx::query_scalar::<_, i64>(waiting)
        .fetch_one(&mut holder)
        .await
        .unwrap()
        == 0
    {
        sleep(Duration::from_millis(20)).await;
    }
    postgres.signal("INT");
    let output = tokio::task::block_in_place(|| list.wait_with_output()).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for words in [
        &format!("127.0.0.1:{}", postgres.port()),
        "database.url",
        "terminating connection due to administrator command",
        "wait until it accepts connections, then try again",
    ] {
        assert!(error.contains(words), "'{words}' is not in: {error}");
    }
    assert!(!error.contains(PASSWORD), "{error}");
    let failing = async || {
        let answer = reqwest::get(format!("{}/readyz/issue", served.admin_url))
            .await
            .unwrap();
        answer.text().await.unwrap().contains("\"ok\":false")
    };
    while !failing().await {
        sleep(Duration::from_millis(50)).await;
    }
    postgres.start_again().await;
    while failing().await {
        sleep(Duration::from_millis(50)).await;
    }
    let (status, log, _) = served.stop();
    assert!(status.success());
    assert!(!log.concat().contains(PASSWORD));
}
