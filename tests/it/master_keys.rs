//! A change of the master key under running servers: by the real binary, killed, run twice at once, and run again.

use std::path::Path;
use std::time::Duration;

use keyround::app::{Foundation, StartError};
use keyround::clock::{Clock, Seconds, sleep};
use keyround::crypto::sealing::{MasterKey, MasterKeys};
use keyround::jose::alg::Algorithm;
use keyround::keys::plan::NewGeneration;
use keyround::rotation::rewrap::{Under, census};
use keyround::store::Db;
use serde_json::Value;

use crate::helpers::{START, TestApp, TestDatabase, config, master_key, private_fixture};
use crate::process::{keyround, run};
use crate::rows::{Raw, key_pair};

// For tests alone; the first is that of `helpers::config`.
const OLD: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";
const NEW: &str = "9mYv4p0b8i3Jx6s1Qd2LwZc7RkT5uN0eHgAqVnXyBjo=";
/// "kept" as an older version sealed it under `OLD` for the secret "old-secret".
const FROM_BEFORE_NAMES: &str = "v1.BwcHBwcHBwcHBwcHsrG94EdMBQa2vVw7wHUDvFiZbaY";

fn both() -> String {
    format!("{NEW}\n{OLD}\n")
}

/// What the real binary finds in its environment.
fn variables<'a>(database: &'a TestDatabase, master_keys: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", &database.url),
        ("KEYROUND_KEYS__MASTER_KEY", master_keys),
    ]
}

/// Runs a command that must succeed; answers with the JSON that it printed.
fn json(database: &TestDatabase, master_keys: &str, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let output = run(database.folder.path(), &variables(database, master_keys), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sentence of a refusal.
fn refusal(database: &TestDatabase, master_keys: &str, arguments: &[&str]) -> String {
    let output = run(database.folder.path(), &variables(database, master_keys), arguments);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

fn id(text: &str) -> String {
    MasterKey::parse(text).unwrap().id().to_string()
}

/// Superseded keys whose private halves still lie there, far in the past.
async fn insert_old_keys(db: &Db, count: i64) {
    let mut change = db.change_keys().await.unwrap();
    for generation in 1..=count {
        let at = START - Seconds(10_000_000 - generation);
        let new = NewGeneration {
            alg: Algorithm::Es256,
            generation,
            published_at: at,
            activates_at: at,
            prepublish: Seconds(60),
            max_token_ttl: Seconds(60),
        };
        change.insert(&new, Some(&key_pair(Algorithm::Es256))).await.unwrap();
    }
    change.commit(None, START).await.unwrap();
}

crate::on_both_databases!(
    servers_sign_on_while_every_row_moves_under_a_new_master_key,
    |database| {
        let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
        let secret = app.create_client("service", None).await;
        let db = app.running.server.db.clone();
        db.secret_or_insert("old-secret", FROM_BEFORE_NAMES, START)
            .await
            .unwrap();
        let (before, key_set) = (db.signing_keys().await.unwrap(), app.key_set().await);

        let status = json(&database, &both(), &["master-key", "status"]);
        assert_eq!(status[0]["master_key"], id(NEW));
        assert_eq!((&status[0]["role"], &status[0]["rows"]), (&"seals".into(), &0.into()));
        assert_eq!(
            (&status[1]["master_key"], &status[1]["rows"]),
            (&id(OLD).into(), &4.into())
        );

        // A server that lists the old one alone could not start again: nothing is moved while it lives.
        let sentence = refusal(&database, &both(), &["master-key", "rewrap"]);
        let node = app.running.server.keyring.node_id().to_owned();
        assert!(
            sentence.contains("no row was moved") && sentence.contains(&node),
            "{sentence}"
        );
        assert_eq!(json(&database, &both(), &["master-key", "status"])[1]["rows"], 4);
        app.running.stop().await;
        let settings = [("keys.master_key", &*both())];
        let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
        let db = app.running.server.db.clone();

        let done = json(&database, &both(), &["master-key", "rewrap"]);
        assert_eq!((&done["moved"], &done["before"][1]["rows"]), (&4.into(), &4.into()));
        assert_eq!(
            (&done["after"][0]["rows"], &done["after"][1]["rows"]),
            (&4.into(), &0.into())
        );
        // Again it has nothing to do.
        assert_eq!(json(&database, &both(), &["master-key", "rewrap"])["moved"], 0);
        let events: Vec<String> = db
            .audit(None, 2)
            .await
            .unwrap()
            .into_iter()
            .map(|record| record.event)
            .collect();
        assert_eq!(events, ["master_key.rewrapped", "master_key.rewrap_started"]);

        // The server goes on with what it has opened.
        app.running.server.rotation.tick().await.unwrap();
        app.token("service", &secret).await;
        assert_eq!(app.key_set().await, key_set);
        app.running.stop().await;

        // The old one opens nothing any more; the new one alone opens all.
        let answer = Foundation::open(&config(&database, &[]), Clock::system())
            .await
            .map(|_| ());
        assert!(matches!(answer, Err(StartError::MasterKeyNotListed(_))), "{answer:?}");
        let sentence = refusal(&database, OLD, &["serve"]);
        assert!(
            sentence.contains(&format!("4 rows need the master key {}", id(NEW))),
            "{sentence}"
        );
        let after = TestApp::start_with_clock(&database, &[("keys.master_key", NEW)], Clock::system()).await;
        after.token("service", &secret).await;
        assert_eq!(after.key_set().await, key_set);
        assert!(after.running.server.keyring.snapshot().unopened.is_empty());
        let kids = |rows: &[keyround::store::signing_keys::StoredKey]| -> Vec<String> {
            rows.iter().map(|row| row.key.kid.to_string()).collect()
        };
        let rows = after.running.server.db.signing_keys().await.unwrap().rows;
        assert_eq!(kids(&rows), kids(&before.rows));
        after.running.stop().await;
    }
);

crate::on_both_databases!(a_master_key_that_rows_still_need_cannot_be_dropped, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.running.stop().await;
    let sentence = refusal(&database, NEW, &["serve"]);
    assert!(
        sentence.contains(&format!("3 rows need the master key {}", id(OLD))),
        "{sentence}"
    );
    assert!(
        sentence.contains("no key was made or changed") && !sentence.contains("serving"),
        "{sentence}"
    );
    let sentence = refusal(&database, NEW, &["master-key", "rewrap"]);
    assert!(sentence.contains("3 rows could not be moved"), "{sentence}");

    // A damaged row is no reason not to start where its master key is listed: it is reported, and counted where it lies.
    let raw = Raw::open(&database).await;
    raw.execute("UPDATE signing_keys SET sealed = sealed || 'x' WHERE alg = 'ES256'")
        .await;
    let sentence = refusal(&database, &both(), &["master-key", "rewrap"]);
    assert!(sentence.contains("1 rows could not be moved"), "{sentence}");
    let app = TestApp::start_with_clock(&database, &[("keys.master_key", &both())], Clock::system()).await;
    assert_eq!(app.running.server.keyring.snapshot().unopened.len(), 1);
    app.running.stop().await;
});

/// How many rows open under the new master key; all must open under one of the two.
async fn moved(db: &Db) -> usize {
    let master_keys = MasterKeys::parse(&both()).unwrap();
    let census = census(db, &master_keys).await.unwrap();
    let (old, new) = (
        Under::Listed(master_key().id()),
        Under::Listed(master_keys.sealing_id()),
    );
    assert!(census.keys().all(|under| *under == old || *under == new), "{census:?}");
    census.get(&new).copied().unwrap_or(0)
}

async fn killed_after(folder: &Path, variables: &[(&str, &str)], wait: Duration) {
    let mut child = keyround(folder, variables, &["master-key", "rewrap"]).spawn().unwrap();
    sleep(wait).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

crate::on_both_databases!(killed_at_any_moment_or_run_twice_at_once_it_ends_well, |database| {
    const ROWS: usize = 200;
    let db = database.open().await;
    insert_old_keys(&db, ROWS.try_into().unwrap()).await;
    let master_keys = both();
    let variables = variables(&database, &master_keys);
    let raw = Raw::open(&database).await;
    // However fast the machine is, or held up, some kills must meet it at work.
    let (mut wait, mut at_work, mut last, mut again) = (Duration::from_millis(5), 0, 0, 0);
    while at_work < 3 && (last < ROWS || at_work == 0) {
        if last == ROWS {
            again += 1;
            assert!(again < 50, "no kill met it at work");
            raw.execute("DELETE FROM signing_keys").await;
            insert_old_keys(&db, ROWS.try_into().unwrap()).await;
            last = 0;
        }
        killed_after(database.folder.path(), &variables, wait).await;
        let now = moved(&db).await;
        assert!(now >= last);
        if now > last && now < ROWS {
            at_work += 1;
        } else if now == last {
            wait += Duration::from_millis(5);
        }
        last = now;
        assert!(wait < Duration::from_secs(5), "it moves nothing");
    }
    raw.close().await;

    let two = [(); 2].map(|()| {
        let mut command = keyround(database.folder.path(), &variables, &["master-key", "rewrap"]);
        command.spawn().unwrap()
    });
    for child in two {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(moved(&db).await, ROWS);
});

crate::on_both_databases!(
    a_private_half_destroyed_in_the_meantime_does_not_come_back,
    |database| {
        let db = database.open().await;
        insert_old_keys(&db, 1).await;
        let row = db.sealed_rows().await.unwrap().remove(0);
        let kid = row.name.parse().unwrap();
        assert!(!db.replace_sealed(&row, "v2.other", |_| false).await.unwrap());
        assert_eq!(db.sealed_rows().await.unwrap()[0].sealed, row.sealed);
        let mut change = db.change_keys().await.unwrap();
        change.destroy_private_half(&kid).await.unwrap();
        change.commit(None, START).await.unwrap();
        assert!(!db.replace_sealed(&row, "v2.other", |_| true).await.unwrap());
        assert!(db.sealed_rows().await.unwrap().is_empty());
    }
);

/// The kid by which a token is signed.
fn kid(token: &str) -> String {
    let header = token.split('.').next().unwrap();
    let header = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

/// A token that is signed with this key, as soon as the server serves it.
async fn until_signed_with(app: &TestApp, secret: &str, expected: &str) {
    for _ in 0..600 {
        if kid(&app.token("service", secret).await) == expected {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{expected} never signs");
}

/// How many rows lie under this master key.
fn rows_under(database: &TestDatabase, master_key: &str) -> Value {
    let status = json(database, &both(), &["master-key", "status"]);
    let row = status.as_array().unwrap().iter();
    let row = row.clone().find(|row| row["master_key"] == id(master_key)).unwrap();
    row["rows"].clone()
}

/// It stays seen for the whole test, and does not hold up a revocation.
async fn beat_of_an_older_node(db: &Db) {
    let seen_at = Clock::system().read().wall;
    db.beat(&keyround::store::nodes::Heartbeat {
        node_id: "an-older-node".to_owned(),
        seen_at: seen_at.0,
        version: i64::MAX,
        change_id: None,
        policy_fingerprint: String::new(),
        clock_offset: 0,
        master_keys: String::new(),
        place: keyround::store::nodes::Place::default(),
    })
    .await
    .unwrap();
}

fn revoke(kid: &str) -> [&str; 6] {
    ["keys", "revoke", kid, "--reason", "it leaked", "--yes"]
}

crate::on_both_databases!(what_commands_seal_opens_on_every_running_server, |database| {
    let secret_of_provider = database.folder.path().join("provider-secret");
    std::fs::write(&secret_of_provider, "9f8Ks71hLq0Zt4Wd").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret_of_provider, mode).unwrap();
    let create_provider = |name| {
        let mut command = vec!["providers", "create", name, "--issuer", "https://id.example/"];
        command.extend(["--client-id", "a", "--client-secret-file"]);
        command.push(secret_of_provider.to_str().unwrap());
        json(&database, &both(), &command);
    };

    // The server lists the old one alone. Commands that list the new one first seal under the old one.
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = app.create_client("service", None).await;
    // One of an earlier version does not say what it lists. While there is one master key, it has opened what lies under it.
    let db = app.running.server.db.clone();
    beat_of_an_older_node(&db).await;
    json(&database, OLD, &["keys", "rotate"]);
    db.leave("an-older-node").await.unwrap();
    json(
        &database,
        &both(),
        &["keys", "import", &private_fixture("p256.pkcs8.pem")],
    );
    create_provider("one");
    let signing = kid(&app.token("service", &secret).await);
    let done = json(&database, &both(), &revoke(&signing));
    let replacement = done["revocations"][0]["signs_now"].as_str().unwrap().to_owned();
    until_signed_with(&app, &secret, &replacement).await;
    assert_eq!(rows_under(&database, NEW), 0);
    assert!(app.running.server.keyring.snapshot().unopened.is_empty());
    app.running.stop().await;

    // Once it lists both, they seal under the first.
    let settings = [("keys.master_key", &*both())];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    json(&database, &both(), &["keys", "rotate"]);
    create_provider("two");
    assert_eq!(rows_under(&database, NEW), 3);

    // A server of an earlier version does not say what it lists: nothing is sealed while the master key changes.
    let db = app.running.server.db.clone();
    beat_of_an_older_node(&db).await;
    let before = db.signing_keys().await.unwrap().rows.len();
    let rsa = private_fixture("rsa.pkcs8.pem");
    let provider = secret_of_provider.to_str().unwrap();
    for command in [
        &["keys", "rotate", "--algorithm", "RS256"][..],
        &["keys", "import", &rsa],
        &["providers", "set-secret", "one", "--client-secret-file", provider],
    ] {
        beat_of_an_older_node(&db).await;
        let sentence = refusal(&database, &both(), command);
        for part in ["nothing was changed", "an-older-node", &id(NEW), "keys.master_key_file"] {
            assert!(sentence.contains(part), "{command:?}: {sentence}");
        }
    }
    assert_eq!(db.signing_keys().await.unwrap().rows.len(), before);
    // The key that leaked is revoked all the same, and the server makes another one, also long before the schedule would: this key has
    // just begun to sign.
    let signing = kid(&app.token("service", &secret).await);
    beat_of_an_older_node(&db).await;
    let foreseen = json(&database, &both(), &["keys", "revoke", &signing, "--dry-run"]);
    let foreseen = &foreseen["revocations"][0];
    assert_eq!(foreseen["made_by"], "server", "{foreseen}");
    assert_eq!(foreseen["signs_then"], Value::Null, "{foreseen}");
    assert!(
        foreseen["servers_without_master_key"][0]
            .as_str()
            .unwrap()
            .contains("an-older-node"),
        "{foreseen}"
    );
    let told = run(
        database.folder.path(),
        &variables(&database, &both()),
        &["keys", "revoke", &signing, "--dry-run"],
    );
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("no RS256 key would sign until a running server has made a new one, within "),
        "{told}"
    );
    let output = run(
        database.folder.path(),
        &variables(&database, &both()),
        &revoke(&signing),
    );
    let (said, failed) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{said} {failed}");
    assert!(said.contains(&format!("key {signing} is revoked")), "{said}");
    assert!(
        said.contains("no replacement of the RS256 key was sealed by this command: these servers do not list"),
        "{said}"
    );
    let line = said
        .lines()
        .find(|line| line.ends_with(", which a server made, signs now"));
    let successor = line.unwrap().split_whitespace().nth(2).unwrap().trim_end_matches(',');
    assert_ne!(successor, signing);
    until_signed_with(&app, &secret, successor).await;
    // What was foreseen is what happened, and the lists say it.
    let keys = json(&database, &both(), &["keys", "list"]);
    let named = |kid: &str| {
        keys.as_array()
            .unwrap()
            .iter()
            .find(|key| key["kid"] == kid)
            .unwrap()
            .clone()
    };
    let revoked: Vec<Value> = foreseen["revoked"].as_array().unwrap().clone();
    assert!(
        revoked
            .iter()
            .all(|kid| named(kid.as_str().unwrap())["state"] == "revoked"),
        "{keys}"
    );
    let new = named(successor);
    assert_eq!(new["state"], "active", "{keys}");
    let time = |name: &str| new[name].as_str().unwrap().to_owned();
    assert!(time("activates_at") < time("published_at"), "it signs at once: {new}");
    let plan = json(&database, &both(), &["keys", "plan"]);
    let is_wrong = |event: &Value| event["kid"] == successor && event["event"] == "activate";
    assert!(!plan["events"].as_array().unwrap().iter().any(is_wrong), "{plan}");
    assert!(app.running.server.keyring.snapshot().unopened.is_empty());

    // Without a server that runs no key is made, and the command says so; the next server that starts makes one.
    app.running.stop().await;
    let other = database.open().await;
    beat_of_an_older_node(&other).await;
    other.close().await;
    let signing = successor.to_owned();
    let output = run(
        database.folder.path(),
        &variables(&database, &both()),
        &revoke(&signing),
    );
    let failed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{failed}");
    assert!(
        failed.contains("the key is revoked, but no server has made another one yet, so no RS256 token is signed"),
        "{failed}"
    );
    assert!(
        json(&database, &both(), &["keys", "show", &signing])["revoked_at"].is_string(),
        "it is revoked"
    );
    // The plan says that the next key signs at once, not after its lead time.
    let plan = json(&database, &both(), &["keys", "plan"]);
    let event = |name: &str| {
        let events = plan["events"].as_array().unwrap().iter();
        let mut of_rs256 = events.filter(|event| event["alg"] == "RS256" && event["kid"].is_null());
        of_rs256.find(|event| event["event"] == name).unwrap()["at"].clone()
    };
    assert_eq!(
        (event("publish"), event("activate")),
        (plan["now"].clone(), plan["now"].clone()),
        "{plan}"
    );
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    for _ in 0..600 {
        if app
            .ask("service", &secret, &[("grant_type", "client_credentials")])
            .await
            .status()
            == 200
        {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(kid(&app.token("service", &secret).await), signing);
    app.running.stop().await;
});

/// Between the look at the servers and the last row that moves a server may start with the old master key alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_during_a_rewrap_is_named() {
    let database = TestDatabase::postgres().await;
    let first = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    first.running.stop().await;
    let raw = Raw::open(&database).await;
    // No row can move, and each can be read.
    let held = raw
        .hold("SELECT 1 FROM signing_keys FOR UPDATE; SELECT 1 FROM secrets FOR UPDATE")
        .await;
    let master_keys = both();
    let mut rewrapping = keyround(
        database.folder.path(),
        &variables(&database, &master_keys),
        &["master-key", "rewrap"],
    )
    .spawn()
    .unwrap();
    while raw.number("SELECT count(*) FROM pg_locks WHERE NOT granted").await == 0 {
        assert!(rewrapping.try_wait().unwrap().is_none(), "it has ended");
        sleep(Duration::from_millis(50)).await;
    }
    let late = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    held.let_go().await;
    let output = rewrapping.wait_with_output().unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{sentence}");
    for part in [
        "these servers that started meanwhile do not list",
        late.running.server.keyring.node_id(),
        &id(NEW),
        "cannot start again",
    ] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    // The rows have moved all the same.
    assert_eq!(rows_under(&database, OLD), 0);
    late.running.stop().await;
    raw.close().await;
}
