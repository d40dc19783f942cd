//! How a running node learns of denied tokens, ended sessions and disabled tenants: by what changed since its last look.

use std::sync::Arc;
use std::time::Duration;

use keyround::clock::{Clock, UnixTime, sleep};
use keyround::keyring::Keyring;
use keyround::values::SessionId;

use crate::helpers::{TestApp, TestDatabase, entry};
use crate::rows::{Held, Raw};

const LONG: i64 = 4_000_000_000;

/// A node whose looks are those of the test and of its own task.
async fn node(database: &TestDatabase) -> (TestApp, Arc<Keyring>) {
    let app = TestApp::start_with_clock(database, &[], Clock::system()).await;
    let keyring = Arc::clone(&app.running.server.keyring);
    (app, keyring)
}

async fn look(keyring: &Keyring) {
    // Beside the node's own looks a look on SQLite may find the file busy.
    for _ in 0..20 {
        if keyring.refresh().await.is_ok() {
            return;
        }
    }
    panic!("no look succeeds");
}

fn deny(jti: &str) -> String {
    format!("INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES ('{jti}', {LONG}, 1)")
}

/// Sessions of one user, the first with the number 1.
fn sessions(raw: &Raw, count: u32, more: &str, value: &str) -> String {
    let sid = match raw {
        Raw::Sqlite(_) => "printf('019a2b3c-4d5e-7f60-8a9b-%012x', i)",
        Raw::Postgres(_) => "'019a2b3c-4d5e-7f60-8a9b-' || lpad(to_hex(i), 12, '0')",
    };
    format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
         expires_at, address, user_agent{more}) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         SELECT {sid}, 'nobody', 'default', '', '', 0, '', '', 1, 1, {LONG}, '', ''{value} FROM n"
    )
}

fn sid(number: u8) -> SessionId {
    format!("019a2b3c-4d5e-7f60-8a9b-{number:012x}").parse().unwrap()
}

async fn commit(held: Held) {
    match held {
        Held::Sqlite(held) => held.commit().await.unwrap(),
        Held::Postgres(held) => held.commit().await.unwrap(),
    }
}

// A transaction that began first commits last: looks that go by the numbers alone have passed it by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_late_is_read() {
    let database = TestDatabase::postgres().await;
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    look(&keyring).await;
    let late = raw.hold(&deny("late")).await;
    for round in 0..5 {
        let jti = format!("early-{round}");
        raw.execute(&deny(&jti)).await;
        look(&keyring).await;
        assert!(keyring.revocations().tokens.contains(&jti));
        assert!(!keyring.revocations().tokens.contains("late"));
    }
    commit(late).await;
    look(&keyring).await;
    assert!(keyring.revocations().tokens.contains("late"));
    raw.close().await;
    app.running.stop().await;
}

crate::on_both_databases!(what_changes_is_read_at_the_next_look, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    look(&keyring).await;
    raw.execute(&deny("by-hand")).await;
    raw.execute(&sessions(&raw, 3, "", "")).await;
    look(&keyring).await;
    let revocations = keyring.revocations();
    assert!(revocations.tokens.contains("by-hand"));
    assert_eq!(revocations.sessions.len(), 0);
    // A version before this one writes so.
    let ended = format!(
        "UPDATE sessions SET revoked_at = {LONG} - 9, revoked_for = 'logout' WHERE sid = '{}'",
        sid(2)
    );
    raw.execute(&ended).await;
    look(&keyring).await;
    assert!(revocations.sessions.contains(&sid(2).to_string()));
    assert_eq!(revocations.sessions.len(), 1);
    // Another node reads everything when it starts.
    let (other, its_keyring) = node(&database).await;
    assert_eq!(
        (
            its_keyring.revocations().tokens.len(),
            its_keyring.revocations().sessions.len()
        ),
        (1, 1)
    );
    other.running.stop().await;
    raw.close().await;
    app.running.stop().await;
});

crate::on_both_databases!(a_change_is_forgotten_when_every_node_has_read_it, |database| {
    let (app, keyring) = node(&database).await;
    let db = &app.running.server.db;
    let raw = Raw::open(&database).await;
    let left = "SELECT count(*) FROM revocation_changes WHERE name LIKE 'token%'";
    // A node that is cut off.
    let seen_at = app.clock.read().wall.0;
    raw.execute(&format!(
        "INSERT INTO nodes (node_id, seen_at, version, policy_fingerprint, clock_offset) VALUES ('away', {seen_at}, 1, '', 0)"
    ))
    .await;
    raw.execute("INSERT INTO revocation_readers (node_id, mark, horizon) VALUES ('away', 'a', 1)")
        .await;
    for number in 0..3 {
        raw.execute(&deny(&format!("token-{number}"))).await;
        look(&keyring).await;
    }
    db.forget_revocation_changes(UnixTime(0)).await.unwrap();
    assert_eq!(raw.number(left).await, 3);
    raw.execute("DELETE FROM nodes WHERE node_id = 'away'").await;
    // The place of a look says from where it reads; a transaction of another database of the server holds the changes for as long as it lasts.
    for _ in 0..600 {
        look(&keyring).await;
        db.forget_revocation_changes(UnixTime(0)).await.unwrap();
        if raw.number(left).await == 0 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(raw.number(left).await, 0);
    assert_eq!(
        raw.number("SELECT count(*) FROM revocation_readers WHERE node_id = 'away'")
            .await,
        0
    );
    assert_eq!(keyring.revocations().tokens.len(), 3);
    raw.close().await;
    app.running.stop().await;
});

// More than a look reads one by one.
crate::on_both_databases!(a_burst_is_learnt_at_once, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    look(&keyring).await;
    let read = keyring.revocations().progress();
    raw.execute(
        "INSERT INTO denied_tokens (jti, denied_until, denied_at) \
         WITH RECURSIVE n (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < 25000) \
         SELECT 'burst-' || number, 4000000000, 1 FROM n",
    )
    .await;
    look(&keyring).await;
    assert!(keyring.revocations().tokens.contains("burst-25000"));
    assert_eq!(keyring.revocations().tokens.len(), 25_000);
    assert!(keyring.revocations().progress() >= read + 4, "everything was read");
    // From here on, what changed is read again.
    raw.execute(&deny("token-1")).await;
    look(&keyring).await;
    assert_eq!(keyring.revocations().tokens.len(), 25_001);
    // A name that is corrected by hand.
    raw.execute("UPDATE denied_tokens SET jti = 'token-2' WHERE jti = 'token-1'")
        .await;
    look(&keyring).await;
    assert!(keyring.revocations().tokens.contains("token-2"));
    raw.close().await;
    app.running.stop().await;
});

// A page of names comes as one text, in which some of these letters are written another way.
crate::on_both_databases!(names_of_every_form_are_read_with_everything, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    let names = [
        "\\",
        "\\\\",
        "a\\tb",
        "a\tb",
        "a\nb",
        "a\rb",
        "a\u{8}\u{b}\u{c}b",
        "\"",
        "[\"a\",[1]]",
        "a\\",
        "\\.",
        "\\N",
        " a ",
        "\u{1}",
        "\u{7f}",
        "é\u{1f511}",
    ];
    for name in names {
        raw.execute(&deny(name)).await;
    }
    let ended = format!(", {}, 'logout'", app.clock.read().wall.0);
    raw.execute(&sessions(&raw, 1, ", revoked_at, revoked_for", &ended))
        .await;
    raw.execute("DELETE FROM revocation_readers").await;
    look(&keyring).await;
    let revocations = keyring.revocations();
    for name in names {
        assert!(revocations.tokens.contains(name), "{name:?}");
    }
    assert_eq!(revocations.tokens.len(), names.len());
    assert!(revocations.sessions.contains(&sid(1).to_string()));
    raw.close().await;
    app.running.stop().await;
});

// As after a pause of a day: no change was kept for this node.
crate::on_both_databases!(a_node_that_was_given_up_reads_everything, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    look(&keyring).await;
    let mut missed = 0;
    for number in 0..20 {
        let jti = format!("token-{number}");
        raw.execute(&format!(
            "{}; DELETE FROM nodes; DELETE FROM revocation_readers; DELETE FROM revocation_changes",
            deny(&jti)
        ))
        .await;
        look(&keyring).await;
        missed += i32::from(!keyring.revocations().tokens.contains(&jti));
    }
    assert_eq!(missed, 0);
    raw.close().await;
    app.running.stop().await;
});

crate::on_both_databases!(one_transaction_that_ends_many_sessions_holds_nothing_up, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    raw.execute(&sessions(&raw, 60_000, "", "")).await;
    look(&keyring).await;
    let ended = format!("UPDATE sessions SET revoked_at = {LONG} - 9, revoked_for = 'logout'");
    if let Raw::Postgres(_) = raw {
        let many = raw.hold(&ended).await;
        app.running
            .server
            .db
            .deny_token("meanwhile", UnixTime(LONG), &entry("token.denied", "meanwhile"))
            .await
            .unwrap();
        look(&keyring).await;
        assert!(keyring.revocations().tokens.contains("meanwhile"));
        commit(many).await;
    } else {
        raw.execute(&ended).await;
    }
    look(&keyring).await;
    assert_eq!(keyring.revocations().sessions.len(), 60_000);
    raw.close().await;
    app.running.stop().await;
});

// So many that writing them all would make the node late for its next look.
crate::on_both_databases!(what_was_lost_is_written_again_bit_by_bit, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    let rotation = &app.running.server.rotation;
    let values = (0..300)
        .map(|number| format!("('token-{number}', {LONG}, 1)"))
        .collect::<Vec<_>>()
        .join(", ");
    raw.execute(&format!(
        "INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES {values}"
    ))
    .await;
    look(&keyring).await;
    raw.execute("DELETE FROM denied_tokens").await;
    let count = "SELECT count(*) FROM denied_tokens";
    let mut before = 0;
    for _ in 0..40 {
        // Two looks and, beside them, those of the node's own task.
        rotation.tick().await.unwrap();
        let now = raw.number(count).await;
        assert!(now - before <= 400, "{before} and then {now}");
        assert_eq!(keyring.revocations().tokens.len(), 300);
        before = now;
    }
    assert_eq!(before, 300);
    assert_eq!(keyring.snapshot().lost.count(), 0);
    let noted = raw
        .number("SELECT count(*) FROM audit WHERE reason = 'the database had lost it'")
        .await;
    assert_eq!(noted, 300, "each once");
    raw.close().await;
    app.running.stop().await;
});

crate::on_both_databases!(what_has_expired_is_forgotten_everywhere, |database| {
    let (app, keyring) = node(&database).await;
    let raw = Raw::open(&database).await;
    let until = Clock::system().read().wall;
    raw.execute(&format!(
        "INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES ('old', {}, 1)",
        until.0
    ))
    .await;
    raw.execute(&deny("new")).await;
    look(&keyring).await;
    for _ in 0..70 {
        app.running.server.rotation.tick().await.unwrap();
    }
    assert_eq!(raw.texts("SELECT jti FROM denied_tokens").await, ["new"]);
    let tokens = &keyring.revocations().tokens;
    assert!(tokens.contains("new") && !tokens.contains("old"));
    assert_eq!(keyring.snapshot().lost.count(), 0);
    raw.close().await;
    app.running.stop().await;
});

// An administrator may have made the stricter level the default of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_isolation_of_the_database_does_not_matter() {
    for level in ["repeatable read", "serializable"] {
        let database = TestDatabase::postgres().await;
        let (_, name) = database.url.rsplit_once('/').unwrap();
        let raw = Raw::open(&database).await;
        raw.execute(&format!(
            "ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'"
        ))
        .await;
        raw.close().await;
        let raw = Raw::open(&database).await;
        assert_eq!(raw.texts("SHOW default_transaction_isolation").await, [level]);
        let (app, keyring) = node(&database).await;
        let db = &app.running.server.db;
        let denied: Vec<_> = (0..40)
            .map(|number| {
                let (db, jti) = (db.clone(), format!("token-{number}"));
                tokio::spawn(async move {
                    db.deny_token(&jti, UnixTime(LONG), &entry("token.denied", &jti))
                        .await
                        .unwrap();
                })
            })
            .collect();
        for one in denied {
            one.await.unwrap();
            keyring.refresh().await.unwrap();
        }
        assert_eq!(keyring.revocations().tokens.len(), 40);
        raw.close().await;
        app.running.stop().await;
    }
}
