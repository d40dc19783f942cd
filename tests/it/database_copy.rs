//! `keyround db copy`: everything comes over, nothing is rotated, no person is logged out.

use std::process::Output;
use std::time::Duration;

use keyround::clock::{Clock, UnixTime, sleep};
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::introspection::ask_until_known;
use crate::process::{keyround, run};
use crate::rows::Raw;
use crate::sessions::world::{create_user, is_active, log_in, log_out, refresh, refused};
use crate::token::{claims, client, register};

const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";

fn variables(source: &TestDatabase) -> [(&'static str, &str); 5] {
    [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_DATABASE__URL", source.url.as_str()),
        ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
    ]
}

fn output(source: &TestDatabase, arguments: &[&str]) -> Output {
    run(source.folder.path(), &variables(source), arguments)
}

fn refusal(source: &TestDatabase, code: i32, arguments: &[&str]) -> String {
    let output = output(source, arguments);
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{sentence}");
    sentence
}

fn copy(source: &TestDatabase, target: &TestDatabase) -> Value {
    let output = output(source, &["db", "copy", "--to", &target.url, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rows(copied: &Value, table: &str) -> i64 {
    let tables = copied["tables"].as_array().unwrap().iter();
    let mut of_table = tables.filter(|copied| copied["table"] == table);
    of_table.next().unwrap()["rows"].as_i64().unwrap()
}

/// Every session, key and secret as it is in the table.
async fn all(database: &TestDatabase) -> Vec<String> {
    let raw = Raw::open(database).await;
    let mut texts = Vec::new();
    for query in [
        "SELECT kid || alg || generation || published_at || activates_at || COALESCE(sealed, '-') || COALESCE(jwk, '-') \
         FROM signing_keys ORDER BY alg, generation",
        "SELECT sid || user_id || generation || current_hash || salt || COALESCE(revoked_at, 0) FROM sessions ORDER BY created_at, sid",
        "SELECT name || sealed FROM secrets ORDER BY name",
        "SELECT seq || event || subject || happened_at || reason FROM audit WHERE event <> 'database.copied' ORDER BY seq",
        "SELECT bucket || tat FROM limits ORDER BY tat",
        "SELECT jti || denied_until FROM denied_tokens",
        "SELECT change_id FROM key_version",
    ] {
        texts.extend(raw.texts(query).await);
    }
    raw.close().await;
    texts
}

/// There, and back into a third.
async fn moves(source: TestDatabase, target: TestDatabase, third: TestDatabase) {
    let settings = [("accounts.enabled", "true")];
    let mut app = TestApp::start_with_clock(&source, &settings, Clock::system()).await;
    let secret = register(&app, &client("billing")).await;
    let token = app.token("billing", &secret).await;
    let denied = app.token("billing", &secret).await;
    let user = create_user(&app, "ada").await;
    let (mut session, ended) = (log_in(&app, &user).await.unwrap(), log_in(&app, &user).await.unwrap());
    assert!(log_out(&app, &ended).await);
    let (jti, exp) = (claims(&denied)["jti"].clone(), claims(&denied)["exp"].to_string());
    assert!(
        output(&source, &["token", "deny", jti.as_str().unwrap(), "--until", &exp])
            .status
            .success()
    );
    let sentence = refusal(&source, 1, &["db", "copy", "--to", &target.url]);
    assert!(
        sentence.contains("servers run") && sentence.contains("Stop them first"),
        "{sentence}"
    );

    // A database that was made long ago, so that sessions from before some migration are treated as such.
    let raw = Raw::open(&source).await;
    raw.execute("UPDATE _sqlx_migrations SET installed_on = '2020-01-01 00:00:00' WHERE version = 1")
        .await;
    raw.close().await;
    let unbound_until = app.running.server.db.unbound_sessions_until().await.unwrap();
    assert!(unbound_until > UnixTime(0));

    for (from, to) in [(&source, &target), (&target, &third)] {
        let key_set = app.key_set().await;
        app.running.stop().await;
        let before = all(from).await;
        let copied = copy(from, to);
        assert_eq!(rows(&copied, "sessions"), 2);
        assert_eq!(all(to).await, before);
        // Not a second time, and not over what is there.
        let sentence = refusal(from, 1, &["db", "copy", "--to", &to.url]);
        assert!(sentence.contains("is not empty"), "{sentence}");
        app = TestApp::start_with_clock(to, &settings, Clock::system()).await;
        assert_eq!(app.key_set().await, key_set);
        let db = &app.running.server.db;
        assert_eq!(db.unbound_sessions_until().await.unwrap(), unbound_until);
        let active = async |token: &str| {
            let answer = ask_until_known(&app, "introspect", "billing", &secret, token).await;
            answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
        };
        assert!(active(&token).await && !active(&denied).await);
        assert!(is_active(&app, &session.access_token) && !is_active(&app, &ended.access_token));
        session = refresh(&app, &session.refresh_token).await.unwrap();
        refused(&app, &ended.refresh_token).await;
        // The log goes on counting.
        let raw = Raw::open(to).await;
        let last = raw.number("SELECT MAX(seq) FROM audit").await;
        app.create_client(&format!("client{last}"), None).await;
        let next = "SELECT seq FROM audit WHERE event = 'client.created' ORDER BY seq DESC LIMIT 1";
        // PostgreSQL leaves gaps.
        assert!(raw.number(next).await > last);
        raw.close().await;
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite_to_postgres_and_back() {
    let postgres = TestDatabase::postgres().await;
    Box::pin(moves(TestDatabase::sqlite(), postgres, TestDatabase::sqlite())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_another_of_the_same_kind() {
    let sqlite = [(); 3].map(|()| TestDatabase::sqlite());
    let postgres = [
        TestDatabase::postgres().await,
        TestDatabase::postgres().await,
        TestDatabase::postgres().await,
    ];
    for [source, target, third] in [sqlite, postgres] {
        Box::pin(moves(source, target, third)).await;
    }
}

/// A database with keys, and so many rows that a copy takes a while.
async fn large(database: &TestDatabase, rows: usize) {
    let app = TestApp::start_with_clock(database, &[], Clock::system()).await;
    app.running.stop().await;
    let raw = Raw::open(database).await;
    for from in (0..rows).step_by(500) {
        let values: Vec<String> = (from..from + 500)
            .map(|number| format!("('bucket {number}', {number})"))
            .collect();
        raw.execute(&format!(
            "INSERT INTO limits (bucket, tat) VALUES {}",
            values.join(", ")
        ))
        .await;
    }
    raw.close().await;
}

async fn killed(source: TestDatabase, mut target: TestDatabase) {
    const ROWS: usize = 20_000;
    large(&source, ROWS).await;
    let before = all(&source).await;
    let (mut wait, mut at_work, mut again) = (Duration::from_millis(10), 0, 0);
    // However fast the machine is, some kills must meet it at work.
    while at_work < 3 {
        let arguments = ["db", "copy", "--to", &target.url];
        let mut child = keyround(source.folder.path(), &variables(&source), &arguments)
            .spawn()
            .unwrap();
        sleep(wait).await;
        if child.try_wait().unwrap().is_some() {
            if at_work > 0 {
                break;
            }
            // A machine that was held up did not kill it in time.
            again += 1;
            assert!(again < 20, "no kill met it at work");
            target = if target.url.starts_with("postgres") {
                TestDatabase::postgres().await
            } else {
                TestDatabase::sqlite()
            };
            wait = Duration::from_millis(10);
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        wait += Duration::from_millis(40);
        let is_begun =
            target.url.starts_with("postgres") || std::path::Path::new(&target.url["sqlite:".len()..]).exists();
        let foundation = if is_begun {
            Some(
                keyround::app::open_database(&target.url.parse().unwrap())
                    .await
                    .unwrap(),
            )
        } else {
            None
        };
        let Some(db) = foundation else { continue };
        let is_marked = db.unfinished_copy().await.unwrap().is_some();
        let schema = db.schema_version().await.unwrap();
        db.close().await;
        if is_marked {
            at_work += 1;
            for command in [&["serve"][..], &["clients", "list"]] {
                let sentence = refusal(&target, 1, command);
                assert!(
                    sentence.contains("did not finish") && sentence.contains("db copy"),
                    "{sentence}"
                );
            }
        } else {
            assert_eq!(schema, 0, "neither marked nor empty");
        }
    }
    if all(&source).await == before && !is_whole(&target).await {
        copy(&source, &target);
    }
    assert_eq!(all(&target).await, before);
    let app = TestApp::start_with_clock(&target, &[], Clock::system()).await;
    app.running.stop().await;
}

async fn is_whole(target: &TestDatabase) -> bool {
    let db = keyround::app::open_database(&target.url.parse().unwrap())
        .await
        .unwrap();
    let is_whole = db.unfinished_copy().await.unwrap().is_none() && db.schema_version().await.unwrap() > 0;
    db.close().await;
    is_whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_is_run_again() {
    killed(TestDatabase::sqlite(), TestDatabase::postgres().await).await;
    killed(TestDatabase::postgres().await, TestDatabase::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused() {
    let (source, target) = (TestDatabase::sqlite(), TestDatabase::sqlite());
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.running.stop().await;
    for (arguments, code, says) in [
        (&["db", "copy"][..], 2, "--to"),
        (&["db", "copy", "--to", "mysql://a/b"], 2, "is the URL of MySQL"),
        (&["db", "copy", "--to", "sqlite::memory:"], 2, "is a database in memory"),
        (
            &["db", "copy", "--to", "postgres://ada:swordfish@127.0.0.1:1/k"],
            2,
            "holds a password, which every process of this machine can read; write the URL into a file of mode 0600 and give --to-file",
        ),
        (
            &["db", "copy", "--to", "postgres://ada@127.0.0.1:1/k?password=swordfish"],
            2,
            "holds a password",
        ),
        (&["db", "copy", "--to", &source.url], 2, "name another one"),
    ] {
        let sentence = refusal(&source, code, arguments);
        assert!(sentence.contains(says), "{sentence}");
    }
    // A value that PostgreSQL would not take is found before anything is there.
    let raw = Raw::open(&source).await;
    raw.execute("INSERT INTO limits (bucket, tat) VALUES ('x', 'not a number')")
        .await;
    let sentence = refusal(&source, 1, &["db", "copy", "--to", &target.url]);
    assert!(
        sentence.contains("table limits") && sentence.contains("column tat"),
        "{sentence}"
    );
    raw.execute("DELETE FROM limits").await;
    copy(&source, &target);
    // The password of the other database need not be on the command line.
    let third = TestDatabase::sqlite();
    let file = source.folder.path().join("url");
    std::fs::write(&file, format!("{}\n", third.url)).unwrap();
    let arguments = ["db", "copy", "--to-file", "url"];
    assert!(refusal(&source, 2, &arguments).contains("600"));
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(output(&source, &arguments).status.success());
}

/// A trigger that does this to each row that is written into a table.
async fn spoil(raw: &Raw, table: &str, change: Option<&str>) {
    let statements = match (raw, change) {
        (Raw::Sqlite(_), Some(change)) => vec![format!(
            "CREATE TRIGGER spoilt AFTER INSERT ON {table} BEGIN UPDATE {table} SET {change} WHERE rowid = NEW.rowid; END"
        )],
        (Raw::Sqlite(_), None) => vec![format!(
            "CREATE TRIGGER spoilt BEFORE INSERT ON {table} BEGIN SELECT RAISE(IGNORE); END"
        )],
        (Raw::Postgres(_), change) => {
            let body = change.map_or("RETURN NULL;".to_owned(), |change| {
                let (column, value) = change.split_once(" = ").unwrap();
                format!(
                    "NEW.{column} := {}; RETURN NEW;",
                    value.replace(column, &format!("NEW.{column}"))
                )
            });
            vec![
                format!(
                    "CREATE OR REPLACE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
                ),
                format!("CREATE TRIGGER spoilt BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION spoil()"),
            ]
        }
    };
    for statement in statements {
        raw.execute(&statement).await;
    }
}

async fn repair(raw: &Raw, table: &str) {
    raw.execute(&match raw {
        Raw::Sqlite(_) => "DROP TRIGGER spoilt".to_owned(),
        Raw::Postgres(_) => format!("DROP TRIGGER spoilt ON {table}"),
    })
    .await;
}

async fn spoilt(source: TestDatabase, target: TestDatabase) {
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    register(&app, &client("billing")).await;
    app.running.stop().await;
    let raw = Raw::open(&source).await;
    raw.execute("INSERT INTO limits (bucket, tat) VALUES ('a', 1), ('b', 2)")
        .await;
    let before = all(&source).await;
    target.open().await.close().await;
    for (table, change, rows, arrived) in [
        ("limits", Some("tat = tat + 1"), 2, 2),
        ("limits", None, 2, 0),
        ("clients", Some("scope = 'admin'"), 1, 1),
        ("tenants", None, 1, 0),
    ] {
        // A connection that has an old schema in mind believes that there is such a trigger already.
        let written = Raw::open(&target).await;
        spoil(&written, table, change).await;
        let sentence = refusal(&source, 1, &["db", "copy", "--to", &target.url]);
        let reason = format!(
            "table {table} differs after the copy ({rows} rows in the source, {arrived} in the target); nothing was copied"
        );
        assert!(sentence.contains(&reason), "{change:?}: {sentence}");
        for table in ["limits", "clients", "signing_keys", "audit"] {
            assert_eq!(
                written.number(&format!("SELECT count(*) FROM {table}")).await,
                0,
                "{table}"
            );
        }
        let sentence = refusal(&target, 1, &["serve"]);
        assert!(sentence.contains("did not finish"), "{sentence}");
        written.close().await;
        let written = Raw::open(&target).await;
        repair(&written, table).await;
        written.close().await;
    }
    copy(&source, &target);
    assert_eq!(all(&target).await, before);
    raw.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_not_what_was_read_is_refused() {
    spoilt(TestDatabase::sqlite(), TestDatabase::postgres().await).await;
    spoilt(TestDatabase::postgres().await, TestDatabase::sqlite()).await;
}

/// Whether something waits for a lock in this database.
async fn is_waited_for(raw: &Raw) -> bool {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass";
    raw.number(waiting).await > 0
}

// Otherwise what a server writes meanwhile would be in neither database.
crate::on_both_databases!(the_source_is_locked_while_it_is_copied, |source| {
    source.open().await.close().await;
    let target = TestDatabase::postgres().await;
    target.open().await.close().await;
    let (of_source, of_target) = (Raw::open(&source).await, Raw::open(&target).await);
    // The copy reads the target, and waits as soon as it writes.
    let held = of_target.hold("LOCK TABLE users IN SHARE MODE").await;
    let mut copying = keyround(
        source.folder.path(),
        &variables(&source),
        &["db", "copy", "--to", &target.url],
    )
    .spawn()
    .unwrap();
    while !is_waited_for(&of_target).await {
        assert!(copying.try_wait().unwrap().is_none(), "the copy has ended");
        sleep(Duration::from_millis(50)).await;
    }
    let mut writes = Vec::new();
    match &of_source {
        Raw::Sqlite(pool) => {
            let mut connection = pool.acquire().await.unwrap();
            sqlx::raw_sql("PRAGMA busy_timeout = 0")
                .execute(&mut *connection)
                .await
                .unwrap();
            let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await;
            writes.push(("every table".to_owned(), begun.err().map(|error| error.to_string())));
        }
        Raw::Postgres(pool) => {
            let tables = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT LIKE '\\_sqlx%'";
            for table in of_source.texts(tables).await {
                let lock = format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE NOWAIT");
                let mut tx = pool.begin().await.unwrap();
                let taken = sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *tx).await;
                writes.push((table, taken.err().map(|error| error.to_string())));
            }
        }
    }
    assert!(!writes.is_empty());
    for (table, refusal) in writes {
        let refusal = refusal.unwrap_or_else(|| panic!("{table} can be written"));
        assert!(refusal.contains("lock"), "{table}: {refusal}");
    }
    // It is read as always.
    of_source.number("SELECT count(*) FROM users").await;
    held.let_go().await;
    let copied = copying.wait_with_output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    of_source.execute("UPDATE tenants SET name = name").await;
    of_source.close().await;
    of_target.close().await;
});
