//! What the database must not be believed: a revocation that it forgot, and a row that it lost.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyround::app::Foundation;
use keyround::clock::{Clock, Seconds};
use keyround::jose::alg::Algorithm;
use keyround::jose::key::{PrivateKey, RsaBits};
use keyround::keyring::text_of;
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase, config};
use crate::process::run;
use crate::rows::Raw;

fn ledger(database: &TestDatabase) -> PathBuf {
    database.folder.path().join("revoked-kids")
}

/// What a ledger holds that names this key alone.
fn with(name: &str) -> String {
    text_of([&name.parse().unwrap()])
}

async fn start(database: &TestDatabase, with_ledger: bool) -> TestApp {
    let path = if with_ledger {
        ledger(database)
    } else {
        database.folder.path().join("of-another-machine")
    };
    let settings = [("keys.ledger_file", path.to_str().unwrap())];
    TestApp::start_with_clock(database, &settings, Clock::system()).await
}

fn kid_of(key_set: &Value, alg: &str) -> String {
    let keys = key_set["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["alg"] == alg).unwrap();
    key["kid"].as_str().unwrap().to_owned()
}

fn holds(key_set: &Value, kid: &str) -> bool {
    key_set["keys"].as_array().unwrap().iter().any(|key| key["kid"] == kid)
}

async fn get(app: &TestApp, path: &str) -> (u16, String) {
    let answer = app.http.get(format!("{}{path}", app.admin_url)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

crate::on_both_databases!(a_revocation_outlives_a_database_that_was_set_back, |database| {
    let app = start(&database, true).await;
    let kid = kid_of(&app.key_set().await, "RS256");
    let raw = Raw::open(&database).await;
    let sealed = raw
        .texts(&format!("SELECT sealed FROM signing_keys WHERE kid = '{kid}'"))
        .await
        .remove(0);
    let path = ledger(&database);
    // Somewhere else, where there is no ledger: the server learns of it from the database.
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let revoke = ["keys", "revoke", &kid, "--reason", "test", "--yes"];
    let output = run(database.folder.path(), &variables, &revoke);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), with(&kid));
    assert_eq!(get(&app, "/readyz/issue").await.0, 200);
    app.running.stop().await;

    // The database as it was before the revocation.
    raw.execute(&format!(
        "DELETE FROM signing_keys WHERE alg = 'RS256' AND kid <> '{kid}'"
    ))
    .await;
    raw.execute(&format!(
        "UPDATE signing_keys SET revoked_at = NULL, sealed = '{sealed}' WHERE kid = '{kid}'"
    ))
    .await;
    let believing = start(&database, false).await;
    assert!(holds(&believing.key_set().await, &kid));
    believing.running.stop().await;

    let app = start(&database, true).await;
    let secret = app.create_client("service", None).await;
    let form = [("grant_type", "client_credentials")];
    assert!(!holds(&app.key_set().await, &kid));
    // The server has written the revocation again, and another key signs.
    assert_eq!(app.ask("service", &secret, &form).await.status(), 200);
    let written = format!("SELECT count(*) FROM audit WHERE event = 'key.revocation_restored' AND subject = '{kid}'");
    assert_eq!(raw.number(&written).await, 1);
    let trusted = format!("SELECT count(*) FROM signing_keys WHERE kid = '{kid}' AND revoked_at IS NULL");
    assert_eq!(raw.number(&trusted).await, 0);
    assert!(get(&app, "/metrics").await.1.contains("keyround_distrusted_keys 0\n"));
    assert_eq!(get(&app, "/readyz/issue").await.0, 200);
    assert!(!holds(&app.key_set().await, &kid));
    app.running.stop().await;
});

crate::on_both_databases!(the_command_that_revokes_writes_the_ledger_too, |database| {
    let app = start(&database, false).await;
    let kid = kid_of(&app.key_set().await, "ES256");
    let folder = database.folder.path();
    let master_key = folder.join("master.key");
    let made = run(folder, &[], &["master-key", "generate", "master.key"]);
    assert!(made.status.success());
    std::fs::write(&master_key, "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=\n").unwrap();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", master_key.to_str().unwrap()),
    ];
    let output = run(
        folder,
        &variables,
        &["keys", "revoke", &kid, "--reason", "test", "--yes"],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(ledger(&database)).unwrap(), with(&kid));
    app.running.stop().await;
});

crate::on_both_databases!(a_row_that_vanishes_is_no_revocation, |database| {
    let app = start(&database, true).await;
    let (before, secret) = (app.key_set().await, app.create_client("service", None).await);
    let kid = kid_of(&before, "ES256");
    let raw = Raw::open(&database).await;
    raw.execute("DELETE FROM signing_keys WHERE alg = 'ES256'").await;
    for _ in 0..3 {
        app.running.server.rotation.tick().await.unwrap();
        assert!(holds(&app.key_set().await, &kid));
    }
    let (status, body) = get(&app, "/readyz/issue").await;
    assert!(
        body.contains(&format!("gone before their time, and still published: {kid}")),
        "{body}"
    );
    // The check is red, and the node stays in service: every other node sees the same rows.
    let answer: Value = serde_json::from_str(&body).unwrap();
    let rows = answer["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "rows");
    let rows = rows.unwrap();
    assert_eq!(
        (&rows["ok"], &rows["advisory"]),
        (&false.into(), &true.into()),
        "{body}"
    );
    assert_eq!((status, &answer["status"]), (200, &"failing".into()), "{body}");
    assert!(get(&app, "/metrics").await.1.contains("keyround_vanished_keys 1\n"));
    app.token("service", &secret).await;
    assert_eq!(std::fs::read_to_string(ledger(&database)).unwrap(), "");
    app.running.stop().await;
});

crate::on_both_databases!(
    a_key_to_verify_with_that_vanishes_stays_published_and_a_revoked_one_does_not,
    |database| {
        let app = start(&database, true).await;
        let raw = Raw::open(&database).await;
        let insert = |kid: &str, x: &str| {
            let jwk =
                format!(r#"{{"kty":"EC","use":"sig","alg":"ES256","kid":"{kid}","crv":"P-256","x":"{x}","y":"{Y}"}}"#);
            let values = format!("('{kid}', 'ES256', '{jwk}', 1, 9000000000)");
            format!("INSERT INTO verifying_keys (kid, alg, jwk, published_at, expires_at) VALUES {values}")
        };
        raw.execute(&insert("vanishes", X)).await;
        app.running.server.rotation.tick().await.unwrap();
        raw.execute("DELETE FROM verifying_keys").await;
        app.running.server.rotation.tick().await.unwrap();
        assert!(holds(&app.key_set().await, "vanishes"));
        // The same key is revoked under another name.
        raw.execute(&insert("other-name", X)).await;
        raw.execute("UPDATE verifying_keys SET revoked_at = 5").await;
        app.running.server.rotation.tick().await.unwrap();
        assert!(!holds(&app.key_set().await, "vanishes"));
        // The ledger knows it by its thumbprint, and takes it out under a third name when the database has lost everything.
        raw.execute("DELETE FROM verifying_keys").await;
        raw.execute(&insert("third-name", X)).await;
        app.running.server.rotation.tick().await.unwrap();
        assert!(!holds(&app.key_set().await, "third-name"));
        let revoked = "SELECT count(*) FROM verifying_keys WHERE kid = 'third-name' AND revoked_at IS NOT NULL";
        assert_eq!(raw.number(revoked).await, 1);
        app.running.stop().await;
    }
);

crate::on_both_databases!(a_ledger_that_cannot_be_written_turns_every_check_red, |database| {
    let folder = database.folder.path();
    let (state, ledger) = (folder.join("state"), folder.join("state/revoked-kids"));
    let settings = [("keys.ledger_file", ledger.to_str().unwrap())];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        (
            "KEYROUND_SERVER__ADMIN_LISTEN",
            app.admin_url.strip_prefix("http://").unwrap(),
        ),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_KEYS__LEDGER_FILE", ledger.to_str().unwrap()),
    ];
    let code = |arguments: &[&str]| run(folder, &variables, arguments).status.code().unwrap();
    let checks: [&[&str]; 3] = [&["healthcheck"], &["healthcheck", "--issue"], &["db", "check"]];
    // They wait for 3 s, and a busy machine may be held up for longer.
    let are_green = || (0..10).any(|_| checks.map(&code) == [0, 0, 0]);
    assert!(are_green());

    // A file where the folder was, as when a mount is gone; the modes of files do not hinder root.
    std::fs::rename(&state, folder.join("away")).unwrap();
    std::fs::write(&state, "").unwrap();
    app.running.server.rotation.tick().await.unwrap();
    let (status, body) = get(&app, "/readyz/issue").await;
    assert!(status == 503 && body.contains("keys.ledger_file"), "{body}");
    assert_eq!(get(&app, "/readyz").await.0, 200, "the key set is served as before");
    assert!(
        get(&app, "/metrics")
            .await
            .1
            .contains("keyround_check{check=\"ledger\"} 0\n")
    );
    assert_eq!(checks.map(&code), [1, 1, 1]);

    // The machine of the command has a ledger that it cannot write either.
    let kid = kid_of(&app.key_set().await, "ES256");
    let set = "keys.ledger_file=/proc/keyround/revoked-kids";
    let output = run(
        folder,
        &variables,
        &["--set", set, "keys", "revoke", &kid, "--reason", "test", "--yes"],
    );
    let (printed, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(printed.contains(&format!("ES256 key {kid} is revoked")), "{printed}");
    assert!(
        told.contains("the key is revoked, but this machine could not note it"),
        "{told}"
    );
    app.running.server.rotation.tick().await.unwrap();
    assert!(!holds(&app.key_set().await, &kid));
    assert!(
        get(&app, "/metrics")
            .await
            .1
            .contains("keyround_unwritten_revocations 1\n")
    );

    // Tried again at every look.
    std::fs::remove_file(&state).unwrap();
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(std::fs::read_to_string(&ledger).unwrap(), with(&kid));
    assert!(are_green());
    assert!(
        get(&app, "/metrics")
            .await
            .1
            .contains("keyround_unwritten_revocations 0\n")
    );
    app.running.stop().await;
});

crate::on_both_databases!(
    a_server_whose_ledger_is_on_a_read_only_file_system_starts_red,
    |database| {
        let settings = [("keys.ledger_file", "/proc/keyround/revoked-kids")];
        let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
        let (status, body) = get(&app, "/readyz/issue").await;
        assert!(status == 503 && body.contains("/proc/keyround/revoked-kids"), "{body}");
        app.running.stop().await;
    }
);

crate::on_both_databases!(db_check_names_a_revocation_that_the_database_has_lost, |database| {
    let app = start(&database, true).await;
    let kid = kid_of(&app.key_set().await, "RS256");
    app.running.stop().await;
    std::fs::write(ledger(&database), format!("{kid}\n")).unwrap();
    let path = ledger(&database).display().to_string();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_KEYS__LEDGER_FILE", path.as_str()),
    ];
    let output = run(database.folder.path(), &variables, &["db", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains(&format!("key {kid} was revoked, but the database trusts it")),
        "{printed}"
    );
});

crate::on_both_databases!(a_copy_is_refused_while_a_revocation_is_lost, |database| {
    let app = start(&database, true).await;
    let kid = kid_of(&app.key_set().await, "RS256");
    app.running.stop().await;
    std::fs::write(ledger(&database), with(&kid)).unwrap();
    let path = ledger(&database).display().to_string();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_KEYS__LEDGER_FILE", path.as_str()),
    ];
    let folder = database.folder.path();
    let copy = ["db", "copy", "--to", "sqlite:copy.db"];
    let output = run(folder, &variables, &copy);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for words in [
        &format!("key {kid} was revoked, but the database trusts it: run 'keyround keys revoke {kid}'"),
        "start a server with that ledger",
        "the runbook revocation-lost",
    ] {
        assert!(told.contains(words), "'{words}' is not in: {told}");
    }
    assert!(!folder.join("copy.db").exists());
    // The cure that it names.
    let revoke = ["keys", "revoke", &kid, "--reason", "test", "--yes"];
    let output = run(folder, &variables, &revoke);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run(folder, &variables, &copy);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
});

crate::on_both_databases!(a_key_whose_row_is_gone_is_revoked_by_its_public_half, |database| {
    let app = start(&database, true).await;
    let key_set = app.key_set().await;
    let kid = kid_of(&key_set, "ES256");
    let raw = Raw::open(&database).await;
    raw.execute("DELETE FROM signing_keys WHERE alg = 'ES256'").await;
    app.running.server.rotation.tick().await.unwrap();
    assert!(holds(&app.key_set().await, &kid));
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let folder = database.folder.path();
    let revoke = ["keys", "revoke", &kid, "--reason", "test", "--yes"];
    for arguments in [&revoke[..], &["keys", "revoke", &kid, "--dry-run"]] {
        let output = run(folder, &variables, arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(&format!("no key is called '{kid}'"))
                && told.contains("keys import FILE --kid NEW-KID --verify-only --until TIME"),
            "{told}"
        );
    }
    let keys = key_set["keys"].as_array().unwrap();
    let mut lost = keys.iter().find(|key| key["kid"] == kid.as_str()).unwrap().clone();
    lost.as_object_mut().unwrap().remove("kid");
    std::fs::write(folder.join("lost.jwk"), lost.to_string()).unwrap();
    let import = [
        "keys",
        "import",
        "lost.jwk",
        "--kid",
        "lost-1",
        "--verify-only",
        "--until",
        "2100-01-01T00:00:00Z",
    ];
    let revoke = ["keys", "revoke", "lost-1", "--reason", "test", "--yes"];
    for arguments in [&import[..], &revoke] {
        let output = run(folder, &variables, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    app.running.server.rotation.tick().await.unwrap();
    assert!(!holds(&app.key_set().await, &kid));
    assert_eq!(std::fs::read_to_string(ledger(&database)).unwrap(), with(&kid));
    app.running.stop().await;
});

/// What lies where the ledger should be.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Folder,
    Loop,
    Garbage,
    DamagedLine,
    MayBeWrittenByOthers,
    TornLine,
    CutLine,
    FlippedBit,
    Zeros,
}

/// A thumbprint of which one bit was flipped after it was written with its checksum.
const FLIPPED: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xr 2fc34706\n";

impl Fault {
    const ALL: [Self; 9] = [
        Self::Folder,
        Self::Loop,
        Self::Garbage,
        Self::DamagedLine,
        Self::MayBeWrittenByOthers,
        Self::TornLine,
        Self::CutLine,
        Self::FlippedBit,
        Self::Zeros,
    ];

    /// Makes it; `named` is a name that the ledger holds if it holds any.
    fn make(self, path: &Path, named: &str) {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_dir(path);
        let line = with(named).into_bytes();
        let content = match self {
            Self::Folder => return std::fs::create_dir(path).unwrap(),
            Self::Loop => return std::os::unix::fs::symlink(path, path).unwrap(),
            Self::Garbage => b"\x00\x9f\x92\x96\nno ledger at all\n".to_vec(),
            Self::DamagedLine => [b"\x00\x00\xff\xfe\n".as_slice(), &line].concat(),
            Self::MayBeWrittenByOthers => line,
            Self::TornLine => [line.as_slice(), b"NzbLsXh8uDCcd-\x00\x00\x00"].concat(),
            Self::CutLine => [line.as_slice(), b"NzbLsXh8uDCcd-\n"].concat(),
            Self::FlippedBit => [line.as_slice(), FLIPPED.as_bytes()].concat(),
            Self::Zeros => [line.as_slice(), &[0; 4_096]].concat(),
        };
        std::fs::write(path, content).unwrap();
        let mode = if matches!(self, Self::MayBeWrittenByOthers) {
            0o666
        } else {
            0o600
        };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    const fn is_repaired(self) -> bool {
        matches!(self, Self::Zeros)
    }

    const fn hides_all(self) -> bool {
        matches!(self, Self::Folder | Self::Loop | Self::Garbage)
    }
}

crate::on_both_databases!(a_ledger_that_is_not_in_order_hinders_no_emergency, |database| {
    let app = start(&database, false).await;
    app.running.stop().await;
    let path = ledger(&database);
    let shown = path.display().to_string();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_KEYS__LEDGER_FILE", shown.as_str()),
    ];
    let folder = database.folder.path();
    let raw = Raw::open(&database).await;
    for fault in Fault::ALL {
        fault.make(&path, "of-another-key");
        let expected = Some(i32::from(!fault.is_repaired()));

        let checked = run(folder, &variables, &["db", "check", "--json"]);
        let findings: Vec<Value> = serde_json::from_slice(&checked.stdout).unwrap();
        assert!(findings.len() > 10, "{fault:?}: {findings:?}");
        for finding in &findings {
            let ok = finding["name"] != "ledger" || fault.is_repaired();
            assert_eq!(finding["ok"], ok, "{fault:?}: {finding}");
            assert!(ok || finding["detail"].as_str().unwrap().contains(&shown), "{finding}");
        }
        assert_eq!(checked.status.code(), expected, "{fault:?}");

        let kid = raw
            .texts("SELECT kid FROM signing_keys WHERE alg = 'ES256' AND revoked_at IS NULL ORDER BY generation DESC")
            .await
            .remove(0);
        let revoked = run(
            folder,
            &variables,
            &["keys", "revoke", &kid, "--reason", "test", "--yes"],
        );
        let told = String::from_utf8_lossy(&revoked.stderr);
        assert_eq!(revoked.status.code(), expected, "{fault:?}: {told}");
        let printed = String::from_utf8_lossy(&revoked.stdout);
        assert!(
            printed.contains(&format!("ES256 key {kid} is revoked")),
            "{fault:?}: {printed}"
        );
        let written = format!("SELECT count(*) FROM signing_keys WHERE kid = '{kid}' AND revoked_at IS NOT NULL");
        assert_eq!(raw.number(&written).await, 1, "{fault:?}");
        if !fault.is_repaired() {
            assert!(
                told.contains(&shown) && told.contains("the key is revoked"),
                "{fault:?}: {told}"
            );
        }
        if let Ok(content) = std::fs::read(&path) {
            let noted = with(&kid);
            let is_noted = content.ends_with(noted.split_once('\n').unwrap().1.as_bytes());
            assert!(is_noted, "{fault:?}: {content:?}");
        }
    }
});

crate::on_both_databases!(a_start_reads_of_a_ledger_what_can_be_read, |database| {
    let app = start(&database, false).await;
    let kid = kid_of(&app.key_set().await, "RS256");
    app.running.stop().await;
    let path = ledger(&database);
    let settings = [("keys.ledger_file", path.to_str().unwrap())];
    let raw = Raw::open(&database).await;
    for fault in Fault::ALL {
        // The database does not know it, as after it was set back.
        raw.execute(&format!(
            "UPDATE signing_keys SET revoked_at = NULL WHERE kid = '{kid}'"
        ))
        .await;
        fault.make(&path, &kid);
        let opened = Foundation::open(&config(&database, &settings), Clock::system()).await;
        if fault.hides_all() {
            let refusal = opened.map(|_| ()).unwrap_err().to_string();
            let cures = ["by keys.ledger_file", "take them out"];
            assert!(cures.iter().any(|cure| refusal.contains(cure)), "{fault:?}: {refusal}");
            assert!(refusal.contains(path.to_str().unwrap()), "{refusal}");
            continue;
        }
        let app = start(&database, true).await;
        assert!(!holds(&app.key_set().await, &kid), "{fault:?}");
        let (status, body) = get(&app, "/readyz/issue").await;
        assert_eq!(status, if fault.is_repaired() { 200 } else { 503 }, "{fault:?}: {body}");
        assert_eq!(get(&app, "/readyz").await.0, 200, "{fault:?}");
        if fault.is_repaired() {
            let text = std::fs::read_to_string(&path).unwrap();
            let is_whole = text.starts_with(&with(&kid)) && text.ends_with('\n') && !text.contains('\0');
            assert!(is_whole, "{text:?}");
        } else {
            assert!(body.contains(path.to_str().unwrap()), "{body}");
        }
        // What is damaged while the server runs is forgotten by no server that knew it.
        Fault::Garbage.make(&path, "");
        app.running.server.rotation.tick().await.unwrap();
        assert!(!holds(&app.key_set().await, &kid), "{fault:?}");
        assert_eq!(get(&app, "/readyz/issue").await.0, 503, "{fault:?}");
        app.running.stop().await;
    }
});

crate::on_both_databases!(an_import_needs_to_know_what_the_ledger_says, |database| {
    let app = start(&database, false).await;
    app.running.stop().await;
    let path = ledger(&database);
    Fault::Folder.make(&path, "");
    let settings = [("keys.ledger_file", path.to_str().unwrap())];
    let foundation = Foundation::open_for_command(&config(&database, &settings), Clock::system()).await;
    let key = PrivateKey::generate(Algorithm::Es256, RsaBits::Bits2048).unwrap();
    let import = foundation.unwrap().rotator.import_signing(&key, "test", "test").await;
    let refusal = import.map(|_| ()).unwrap_err().to_string();
    assert!(refusal.contains("is not a regular file"), "{refusal}");
});

/// A point on P-256: the coordinates of RFC 7515 appendix A.3.
const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

#[tokio::test]
async fn a_vanished_key_leaves_when_its_last_token_is_gone_and_not_before() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let kid = kid_of(&app.key_set().await, "ES256");
    let raw = Raw::open(&database).await;
    raw.execute("DELETE FROM signing_keys WHERE alg = 'ES256'").await;
    app.running.server.rotation.tick().await.unwrap();
    // J + T + L + S with the defaults: 30s + 1h + 5m + 60s.
    let window = Seconds(30 + 3_600 + 300 + 60);
    app.pass(window - Seconds(1), Seconds(10)).await;
    assert!(holds(&app.key_set().await, &kid));
    app.pass(Seconds(1), Seconds(10)).await;
    assert!(!holds(&app.key_set().await, &kid));
    assert!(app.running.server.keyring.snapshot().vanished.is_empty());
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn db_check_names_the_ledger_of_an_earlier_version_too() {
    let database = TestDatabase::sqlite();
    let app = start(&database, true).await;
    app.running.stop().await;
    let folder = database.folder.path();
    std::fs::create_dir(folder.join("keys")).unwrap();
    crate::helpers::private_file(
        folder.join("keys/master.key"),
        "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
    );
    let path = ledger(&database);
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", "keys/master.key"),
        ("KEYROUND_KEYS__LEDGER_FILE", path.to_str().unwrap()),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
    ];
    let line = || {
        let output = tokio::task::block_in_place(|| run(folder, &variables, &["db", "check"]));
        let printed = String::from_utf8(output.stdout).unwrap();
        let line = printed.lines().find(|line| line.starts_with("ledger ")).unwrap();
        line.to_owned()
    };
    let without = line();
    assert!(
        without.contains("of the 0 keys that") && without.ends_with("revoked-kids names"),
        "{without}"
    );
    // Beside the master key, as the first versions had it.
    crate::helpers::private_file(folder.join("keys/revoked-kids"), with("of-an-earlier-version"));
    let told = line();
    for words in [
        "of the 1 keys that",
        " and keys/revoked-kids, which an earlier version wrote, name",
    ] {
        assert!(told.contains(words), "{told}");
    }
}
