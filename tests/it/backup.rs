//! A backup taken while a server runs, restored into a new database of either kind.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use keyround::clock::{Clock, sleep};
use keyround::jose::jwk::PublicJwk;
use keyround::jose::jwt::verify_access_token_signature;
use serde_json::Value;

use crate::helpers::{START, TestApp, TestDatabase};
use crate::process::keyround;
use crate::rows::Raw;
use crate::sessions::world::{create_user, is_active, log_in};

// For tests alone; the first is that of `helpers::config`.
const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";
const ANOTHER: &str = "9mYv4p0b8i3Jx6s1Qd2LwZc7RkT5uN0eHgAqVnXyBjo=";

/// A person at a shell, with the ledger that lies in this folder.
struct Person<'a> {
    home: &'a TestDatabase,
    ledger: String,
    database: &'a str,
    master_key: &'a str,
}

impl<'a> Person<'a> {
    fn new(home: &'a TestDatabase, database: &'a TestDatabase) -> Self {
        Self {
            home,
            ledger: home.folder.path().join("revoked-kids").display().to_string(),
            database: &database.url,
            master_key: MASTER_KEY,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_DATABASE__URL", self.database),
            ("KEYROUND_KEYS__MASTER_KEY", self.master_key),
            ("KEYROUND_KEYS__LEDGER_FILE", &self.ledger),
        ];
        keyround(self.home.folder.path(), &variables, arguments)
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }
}

fn kids(keys: &Value) -> Vec<String> {
    let keys = keys.as_array().unwrap();
    keys.iter()
        .map(|key| key.as_str().or(key["kid"].as_str()).unwrap().to_owned())
        .collect()
}

/// The kids of one state, as the command line lists them.
fn in_state(person: &Person<'_>, state: &str) -> Vec<String> {
    let mut keys = person.json(&["keys", "list"]);
    keys.as_array_mut().unwrap().retain(|key| key["state"] == state);
    kids(&keys)
}

fn kid_of(token: &str) -> String {
    let header = token.split('.').next().unwrap();
    let header = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

/// Whether the token verifies by a key of this set.
fn verifies(token: &str, key_set: &Value) -> bool {
    let kid = kid_of(token);
    key_set["keys"].as_array().unwrap().iter().any(|key| {
        let key = PublicJwk::parse(&key.to_string()).unwrap();
        key.kid.as_str() == kid && verify_access_token_signature(token, std::slice::from_ref(&key)).is_ok()
    })
}

async fn moves(source: TestDatabase, target: TestDatabase) {
    let person = Person::new(&source, &source);
    let settings = [("keys.ledger_file", person.ledger.as_str())];
    let app = TestApp::start_with_clock(&source, &settings, Clock::system()).await;
    let secret = app.create_client("service", None).await;
    let token = app.token("service", &secret).await;
    app.create_client("keyed", None).await;
    let ada = create_user(&app, "ada").await;
    let left_behind = log_in(&app, &ada).await.unwrap();
    assert!(is_active(&app, &left_behind.access_token));
    // The ids of sessions and the time of a restore are compared in whole seconds.
    let begun = app.clock.read().wall;
    while app.clock.read().wall == begun {
        sleep(std::time::Duration::from_millis(50)).await;
    }
    let raw = Raw::open(&source).await;
    raw.execute("INSERT INTO client_keys (client_id, jwks) VALUES ('keyed', '{\"keys\":[]}')")
        .await;
    raw.close().await;
    person.json(&["keys", "rotate", "--algorithm", "RS256"]);
    let (pending, active) = (in_state(&person, "pending"), in_state(&person, "active"));
    assert_eq!((pending.len(), active.len()), (1, 2));

    person.json(&["backup", "backup.jsonl"]);
    let file = source.folder.path().join("backup.jsonl");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&secret) && !text.contains(MASTER_KEY));
    assert!(person.refusal(&["backup", "backup.jsonl"]).contains("exists"));
    // Revoked after the backup was taken: only the ledger knows it later.
    let revoked = active.iter().find(|kid| **kid != kid_of(&token)).unwrap();
    person.json(&["keys", "revoke", revoked, "--reason", "test", "--yes"]);
    let restore = ["restore", "backup.jsonl"];
    assert!(person.refusal(&restore).contains("is not empty"));
    app.running.stop().await;

    let mut person = Person::new(&source, &target);
    std::fs::write(&file, text.replacen("RS256", "ES256", 1)).unwrap();
    assert!(person.refusal(&restore).contains("cut short or changed"));
    std::fs::write(&file, &text).unwrap();
    person.master_key = ANOTHER;
    assert!(person.refusal(&restore).contains("which is not listed"));
    person.master_key = MASTER_KEY;
    let restored = person.json(&restore);
    let signs_now = kids(&restored["signs_now"]);
    let raw = Raw::open(&target).await;
    assert_eq!(raw.number("SELECT count(*) FROM client_keys").await, 1);
    raw.close().await;
    assert_eq!(signs_now.len(), 2);
    let mut expected = vec![revoked.clone(), pending[0].clone()];
    let mut told = kids(&restored["revoked"]);
    expected.sort();
    told.sort();
    assert_eq!(told, expected);
    assert!(person.refusal(&restore).contains("is not empty"));

    // No private half of the backup is there, and none ever signs.
    let raw = Raw::open(&target).await;
    let mut with_half = raw.texts("SELECT kid FROM signing_keys WHERE sealed IS NOT NULL").await;
    with_half.sort();
    let mut new = signs_now.clone();
    new.sort();
    assert_eq!(with_half, new);
    let settings = [("keys.ledger_file", person.ledger.as_str())];
    let app = TestApp::start_with_clock(&target, &settings, Clock::system()).await;
    let key_set = app.key_set().await;
    assert!(verifies(&token, &key_set));
    let fresh = app.token("service", &secret).await;
    assert!(signs_now.contains(&kid_of(&fresh)) && verifies(&fresh, &key_set));
    let served = kids(&key_set["keys"]);
    assert!(!served.contains(revoked) && !served.contains(&pending[0]));
    assert!(app.running.server.keyring.snapshot().distrusted.is_empty());
    // No session is in a backup, so nobody could log out of one from before.
    assert!(!is_active(&app, &left_behind.access_token));
    let begun = log_in(&app, &ada).await.unwrap();
    assert!(is_active(&app, &begun.access_token));

    // The log goes on where it was.
    let events = raw.texts("SELECT event FROM audit ORDER BY seq").await;
    let at = |event: &str| events.iter().position(|noted| noted == event);
    assert!(
        at("client.created").unwrap() < at("database.restored").unwrap(),
        "{events:?}"
    );
    assert!(at("key.destroyed").is_some() && at("key.revoked").is_some());
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_to_sqlite() {
    moves(TestDatabase::sqlite(), TestDatabase::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_to_postgres() {
    moves(TestDatabase::postgres().await, TestDatabase::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_to_postgres() {
    moves(TestDatabase::sqlite(), TestDatabase::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_to_sqlite() {
    moves(TestDatabase::postgres().await, TestDatabase::sqlite()).await;
}

crate::on_both_databases!(every_row_of_every_table_comes_over_as_it_was, |source| {
    let target = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.create_client("service", None).await;
    app.running.stop().await;
    Person::new(&source, &source).json(&["backup", "backup.jsonl"]);
    Person::new(&source, &target).json(&["restore", "backup.jsonl"]);
    let (before, after) = (source.open().await, target.open().await);
    let (before, after) = (before.dump(START).await.unwrap(), after.dump(START).await.unwrap());
    for table in ["clients", "secrets"] {
        let rows = |dump: &keyround::store::dump::Dump| -> Vec<_> { dump.table(table).cloned().collect() };
        assert!(!rows(&before).is_empty());
        assert_eq!(rows(&before), rows(&after));
    }
});

/// The first line of a file as the version before wrote it.
const OLDER: &str = "{\"format\":\"keyround-backup-1\",\"schema\":9,\"taken_at\":1800000000}\n";

crate::on_both_databases!(what_others_put_into_the_schema_is_not_in_the_way, |source| {
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.create_client("service", None).await;
    let raw = Raw::open(&source).await;
    let on_postgres = matches!(raw, Raw::Postgres(_));
    raw.execute("CREATE TABLE \"Not Ours\" (id BIGINT, \"a'b\" TEXT, amount REAL); INSERT INTO \"Not Ours\" VALUES (1, 'x', 1.5)")
        .await;
    raw.execute("CREATE VIEW users_of_reports AS SELECT user_id, email FROM users")
        .await;
    raw.execute("ALTER TABLE clients ADD COLUMN cost_center REAL").await;
    raw.execute("UPDATE clients SET cost_center = 2.5").await;
    if on_postgres {
        raw.execute("CREATE TABLE parts (id BIGINT) PARTITION BY RANGE (id)")
            .await;
        raw.execute("CREATE MATERIALIZED VIEW kids AS SELECT kid FROM signing_keys")
            .await;
        raw.execute("CREATE FUNCTION hello() RETURNS BIGINT LANGUAGE sql AS 'SELECT 1'")
            .await;
        raw.execute("CREATE EXTENSION pg_trgm; CREATE INDEX ON users USING gin (email gin_trgm_ops)")
            .await;
    }
    raw.close().await;
    app.running.stop().await;
    let person = Person::new(&source, &source);
    person.json(&["backup", "backup.jsonl"]);
    let text = std::fs::read_to_string(source.folder.path().join("backup.jsonl")).unwrap();
    assert!(!text.contains("Not Ours") && !text.contains("users_of_reports") && !text.contains("cost_center"));
    for target in [TestDatabase::sqlite(), TestDatabase::postgres().await] {
        Person::new(&source, &target).json(&["restore", "backup.jsonl"]);
        let raw = Raw::open(&target).await;
        assert_eq!(raw.texts("SELECT client_id FROM clients").await, ["service"]);
        raw.close().await;
    }
});

crate::on_both_databases!(a_restore_without_a_ledger_warns_and_goes_on, |source| {
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.running.stop().await;
    let person = Person::new(&source, &source);
    let path = person.ledger.clone();
    person.json(&["backup", "backup.jsonl"]);
    for exists in [false, true] {
        let target = if source.url.starts_with("postgres") {
            TestDatabase::postgres().await
        } else {
            TestDatabase::sqlite()
        };
        let person = Person::new(&source, &target);
        if exists {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap_or_default();
        }
        let output = person.output(&["restore", "backup.jsonl"]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        let missing = format!(
            "warning: there is no ledger at {path}: keys that were revoked after this backup was taken come back"
        );
        assert_eq!(told.contains(&missing), !exists, "{told}");
        assert_eq!(told.is_empty(), exists, "{told}");
        // With PostgreSQL and a master key that is not in a file, no place is known.
        if !exists && source.url.starts_with("postgres") {
            let unnamed = TestDatabase::postgres().await;
            let mut command = Person::new(&source, &unnamed).command(&["restore", "backup.jsonl"]);
            let output = command.env_remove("KEYROUND_KEYS__LEDGER_FILE").output().unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(
                output.status.success() && told.contains("keys.ledger_file is not set"),
                "{told}"
            );
        }
    }
});

crate::on_both_databases!(a_database_that_cannot_be_restored_gives_no_backup, |source| {
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.create_client("service", None).await;
    app.running.stop().await;
    let raw = Raw::open(&source).await;
    let mut person = Person::new(&source, &source);
    person.master_key = ANOTHER;
    let sentence = person.refusal(&["backup", "backup.jsonl"]);
    assert!(
        sentence.contains("could not be restored") && sentence.contains("does not open"),
        "{sentence}"
    );
    person.master_key = MASTER_KEY;
    raw.execute("UPDATE signing_keys SET alg = 'XX1' WHERE alg = 'RS256'")
        .await;
    let sentence = person.refusal(&["backup", "backup.jsonl"]);
    assert!(
        sentence.contains("could not be restored") && sentence.contains("XX1"),
        "{sentence}"
    );
    raw.execute("UPDATE signing_keys SET alg = 'RS256' WHERE alg = 'XX1'")
        .await;
    // Nothing is left that stands in the way of the next one.
    let files = std::fs::read_dir(source.folder.path()).unwrap();
    let left: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("backup"))
        .collect();
    assert_eq!(left, [""; 0]);
    person.json(&["backup", "backup.jsonl"]);
});

crate::on_both_databases!(a_backup_of_the_older_form_is_restored_only_when_asked_for, |target| {
    let person = Person::new(&target, &target);
    let role = |roles: &str| {
        let row = |table: &str, row: &str| format!("{{\"table\":\"{table}\",\"row\":{row}}}\n");
        let tenant = row(
            "tenants",
            r#"{"tenant_id":"t","name":"T","created_at":1,"disabled_at":null}"#,
        );
        let user = row(
            "users",
            &format!(
                r#"{{"user_id":"u","tenant_id":"t","email":"ada@example.com","name":"Ada","roles":"{roles}","created_at":1}}"#
            ),
        );
        let foreign = row("spatial_ref_sys", r#"{"srid":1.5}"#);
        format!("{OLDER}{tenant}{user}{foreign}")
    };
    let body = role("admin");
    let digest = keyround::jose::jwk::sha256_base64url(body.as_bytes());
    let file = target.folder.path().join("older.jsonl");
    std::fs::write(&file, format!("{body}{{\"rows\":3,\"sha256\":\"{digest}\"}}\n")).unwrap();
    let sentence = person.refusal(&["restore", "older.jsonl"]);
    assert!(sentence.contains("--unauthenticated"), "{sentence}");
    let restored = person.json(&["restore", "older.jsonl", "--unauthenticated"]);
    assert_eq!(restored["left_out"]["spatial_ref_sys"], 1);
    assert_eq!(restored["rows"]["users"], 1);
});

#[tokio::test]
async fn a_changed_role_is_found_whatever_digest_stands_below() {
    let (source, target) = (TestDatabase::sqlite(), TestDatabase::sqlite());
    let person = Person::new(&source, &source);
    source.open().await.close().await;
    let raw = Raw::open(&source).await;
    raw.execute("INSERT INTO tenants VALUES ('t', 'T', 1, NULL)").await;
    raw.execute(
        "INSERT INTO users (user_id, tenant_id, email, name, roles, created_at) \
         VALUES ('u', 't', 'ada@example.com', 'Ada', 'reader', 1)",
    )
    .await;
    raw.close().await;
    person.json(&["backup", "backup.jsonl"]);
    let file = source.folder.path().join("backup.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replacen("\"reader\"", "\"admin\"", 1);
    assert_ne!(changed, text);
    let body = changed.rsplit_once("{\"rows\"").unwrap().0;
    let older = body.replacen("keyround-backup-2", "keyround-backup-1", 1).replacen(
        &text[text.find(",\"master_key\"").unwrap()..text.find('}').unwrap()],
        "",
        1,
    );
    let count = body.lines().count() - 1;
    let person = Person::new(&source, &target);
    for (body, foot) in [(body, "hmac_sha256"), (body, "sha256"), (older.as_str(), "sha256")] {
        let digest = keyround::jose::jwk::sha256_base64url(body.as_bytes());
        std::fs::write(&file, format!("{body}{{\"rows\":{count},\"{foot}\":\"{digest}\"}}\n")).unwrap();
        let sentence = person.refusal(&["restore", "backup.jsonl"]);
        let told = sentence.contains("cut short or changed") || sentence.contains("--unauthenticated");
        assert!(told, "{sentence}");
    }
    std::fs::write(&file, &text).unwrap();
    person.json(&["restore", "backup.jsonl"]);
}

#[tokio::test]
async fn a_backup_of_a_later_version_is_refused_with_both_versions() {
    let (source, target) = (TestDatabase::sqlite(), TestDatabase::sqlite());
    let mut dump = source.open().await.dump(START).await.unwrap();
    dump.schema = 9999;
    let answer = target
        .open()
        .await
        .begin_restore(&dump, dump.taken_at)
        .await
        .map(|_| ());
    let sentence = answer.unwrap_err().to_string();
    assert!(
        sentence.contains("schema 9999") && sentence.contains("up to"),
        "{sentence}"
    );
}

/// Killed at any moment, a backup leaves nothing that keeps the next one from its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_was_killed_does_not_block_the_next() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let person = Person::new(&database, &database);
    let clock = Clock::system();
    let before = clock.read().monotonic;
    person.json(&["backup", "first.jsonl"]);
    let whole = clock.read().monotonic.saturating_sub(before);
    let folder = database.folder.path();
    let is_unfinished = |name: &str| name.starts_with(".backup.jsonl.");
    let names = || {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    let mut left = 0;
    for round in 0..40_u32 {
        let mut backup = person.command(&["backup", "backup.jsonl"]).spawn().unwrap();
        if round % 2 == 0 {
            sleep(whole * round / 40).await;
        } else {
            while !names().iter().any(|name| is_unfinished(name)) && backup.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        }
        backup.kill().unwrap();
        backup.wait().unwrap();
        left += names().iter().filter(|name| is_unfinished(name)).count();
        // One that had its name already is whole.
        if folder.join("backup.jsonl").exists() {
            let new = TestDatabase::sqlite();
            Person::new(&database, &new).json(&["restore", "backup.jsonl"]);
            std::fs::remove_file(folder.join("backup.jsonl")).unwrap();
        }
    }
    assert!(left > 0, "no kill came between");
    person.json(&["backup", "backup.jsonl"]);
    assert!(!names().iter().any(|name| is_unfinished(name)), "{:?}", names());
    app.running.stop().await;
}
