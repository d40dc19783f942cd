//! What an operator sees: a revocation foreseen, a second server on one file, who acted, and a log without the words of a library.

use serde_json::Value;

use crate::helpers::TestDatabase;
use crate::process::{Serving, run};
use crate::rows::Raw;

fn variables(database: &TestDatabase) -> Vec<(&str, &str)> {
    vec![
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ]
}

/// Runs a command; answers with what it printed.
fn keyround(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = run(database.folder.path(), &variables(database), arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn json(database: &TestDatabase, arguments: &[&str]) -> Value {
    serde_json::from_str(&keyround(database, &[arguments, &["--json"]].concat())).unwrap()
}

fn serve(database: &TestDatabase, more: &[(&'static str, &'static str)]) -> Serving {
    let variables = [&variables(database)[..], more].concat();
    Serving::start(database.folder.path(), &variables, &["serve"])
}

/// Everything that a revocation would change.
async fn rows(database: &TestDatabase) -> String {
    let raw = Raw::open(database).await;
    let keys = raw.texts("SELECT kid || ' ' || COALESCE(CAST(revoked_at AS TEXT), '-') || ' ' || COALESCE(sealed, '-') FROM signing_keys ORDER BY kid");
    let keys = keys.await;
    let audit = raw
        .texts("SELECT event || ' ' || subject FROM audit ORDER BY seq")
        .await;
    format!("{keys:?} {audit:?}")
}

crate::on_both_databases!(a_revocation_is_foreseen_and_nothing_is_written, |database| {
    assert!(serve(&database, &[]).stop().0.success());
    let listed = json(&database, &["keys", "list"]);
    let signing = |alg: &str| -> String {
        let keys = listed.as_array().unwrap().iter();
        let mut active = keys.filter(|key| key["alg"] == alg && key["state"] == "active");
        active.next().unwrap()["kid"].as_str().unwrap().to_owned()
    };
    let (rsa, ec) = (signing("RS256"), signing("ES256"));
    let before = rows(&database).await;
    let told = keyround(&database, &["keys", "revoke", &rsa, "--dry-run"]);
    for words in [
        &format!("RS256 key {rsa} would be revoked"),
        "a new RS256 key would be made and sign at once",
        "may still accept a revoked key until",
        "Nothing was changed.",
    ] {
        assert!(told.contains(words), "'{words}' is not in: {told}");
    }
    assert!(!told.contains(&ec), "{told}");
    let foreseen = json(&database, &["keys", "revoke", &rsa, "--dry-run", "--all-algorithms"]);
    assert_eq!(foreseen["dry_run"], true);
    let lines = foreseen["revocations"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{foreseen}");
    assert!(lines[0]["revoked"].as_array().unwrap().contains(&rsa.as_str().into()));
    assert!(lines[1]["revoked"].as_array().unwrap().contains(&ec.as_str().into()));
    assert!(lines.iter().all(|line| line["makes_key"] == true), "{foreseen}");
    let unknown = run(
        database.folder.path(),
        &variables(&database),
        &["keys", "revoke", "nothing", "--dry-run"],
    );
    assert!(
        String::from_utf8(unknown.stderr)
            .unwrap()
            .contains("no key is called 'nothing'")
    );
    assert_eq!(rows(&database).await, before, "a dry run writes nothing");
    // Without --dry-run a reason is needed.
    let output = run(
        database.folder.path(),
        &variables(&database),
        &["keys", "revoke", &rsa, "--yes"],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--reason"));
    // What was foreseen comes true.
    let done = json(&database, &["keys", "revoke", &rsa, "--reason", "a test", "--yes"]);
    let revoked = &done["revocations"][0];
    assert_eq!(revoked["revoked"], lines[0]["revoked"]);
    let again = keyround(&database, &["keys", "revoke", &rsa, "--dry-run"]);
    assert!(
        again.contains("is revoked already") && again.contains("would sign"),
        "{again}"
    );
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_one_file_is_named() {
    let database = TestDatabase::sqlite();
    let first = serve(&database, &[]);
    let second = serve(&database, &[]);
    let (status, log, _) = second.stop();
    assert!(status.success());
    let warned = |log: &[String]| {
        log.iter()
            .any(|line| line.contains("WARN") && line.contains("another server uses the SQLite file"))
    };
    assert!(warned(&log), "{log:#?}");
    let line = log.iter().find(|line| line.contains("another server")).unwrap();
    assert!(
        line.contains("keyround.db") && line.contains("keyround db copy"),
        "{line}"
    );
    let (status, log, _) = first.stop();
    assert!(status.success() && !warned(&log), "{log:#?}");
    // Both have said goodbye.
    let (_, log, _) = serve(&database, &[]).stop();
    assert!(!warned(&log), "{log:#?}");
}

crate::on_both_databases!(the_log_of_a_start_has_no_words_of_a_library, |database| {
    for start in ["first", "second"] {
        let (status, log, _) = serve(&database, &[]).stop();
        assert!(status.success());
        let foreign: Vec<&String> = log
            .iter()
            .filter(|line| line.contains("sqlx") || line.contains("skipping"))
            .collect();
        assert!(foreign.is_empty(), "{start}: {foreign:#?}");
    }
});

crate::on_both_databases!(the_audit_log_names_who_acted_and_misses_no_number, |database| {
    for _ in 0..2 {
        assert!(serve(&database, &[]).stop().0.success());
    }
    let create = [
        "clients",
        "create",
        "--id",
        "a",
        "--grant",
        "client_credentials",
        "--audience",
        "https://a.example",
    ];
    keyround(&database, &create);
    let sudo = [&variables(&database)[..], &[("SUDO_USER", "ada) on elsewhere\n")]].concat();
    assert!(
        run(database.folder.path(), &sudo, &["clients", "disable", "a"])
            .status
            .success()
    );
    for _ in 0..2 {
        assert!(serve(&database, &[]).stop().0.success());
    }
    let records = json(&database, &["audit", "list", "--limit", "1000"]);
    let records = records.as_array().unwrap();
    let actor = |event: &str| {
        let record = records.iter().find(|record| record["event"] == event).unwrap();
        record["actor"].as_str().unwrap().to_owned()
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let created = actor("client.created");
    assert!(
        created.starts_with("command line (") && created.ends_with(&format!(" on {})", host.trim())),
        "{created}"
    );
    let disabled = actor("client.disabled");
    if created.contains("(root on") {
        assert!(disabled.contains("(ada??on?elsewhere? as root on"), "{disabled}");
    } else {
        // Another user than root can write what it likes there.
        assert_eq!(disabled, created);
    }
    let mut numbers: Vec<i64> = records.iter().map(|record| record["seq"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    let expected: Vec<i64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "numbers without gaps");
});
