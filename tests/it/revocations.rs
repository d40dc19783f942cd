//! What is read of the revocations: what is new, in the order of the commits, whoever wrote it; and everything of a database that was
//! set back.

use std::time::Duration;

use keyround::clock::{UnixTime, sleep};
use keyround::revocations::{Position, Reading, Revoked};
use keyround::store::Db;
use keyround::store::tenants::TenantChange;

use crate::helpers::{START, TestDatabase, entry};
use crate::rows::Raw;

async fn read(db: &Db, known: Option<Position>) -> Reading {
    db.look(known).await.unwrap().revocations
}

async fn deny(db: &Db, jti: &str, until: i64) {
    assert!(
        db.deny_token(jti, UnixTime(until), &entry("token.denied", jti))
            .await
            .unwrap()
    );
}

fn token(jti: &str, until: i64) -> Revoked {
    Revoked::Token(jti.into(), UnixTime(until))
}

/// A session as a person with a database client, or an earlier version, writes it.
fn session(sid: &str) -> String {
    format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
         expires_at, address, user_agent) VALUES ('{sid}', 'somebody', 'default', '', '', 1, '', '', 1, 1, 9, '', '')"
    )
}

crate::on_both_databases!(a_look_reads_what_is_new, |database| {
    let (db, raw) = (database.open().await, Raw::open(&database).await);
    db.ensure_default_tenant(START).await.unwrap();
    let first = read(&db, None).await;
    assert!(first.is_whole);
    deny(&db, "one", 100).await;
    let second = read(&db, Some(first.position)).await;
    assert!(!second.is_whole);
    assert!(second.revoked.ends_with(&[token("one", 100)]), "{second:?}");
    assert_ne!(second.position, first.position);

    let nothing = db.look(Some(second.position)).await.unwrap();
    assert_eq!(nothing.revocations, Reading::unchanged(second.position));
    assert_eq!(nothing.disabled_tenants, None);

    // A longer denial, and what others write.
    deny(&db, "one", 101).await;
    raw.execute(&session("alive")).await;
    raw.execute(&session("over")).await;
    raw.execute("UPDATE sessions SET revoked_at = 5 WHERE sid = 'over'")
        .await;
    raw.execute("UPDATE sessions SET revoked_at = 6 WHERE sid = 'over'")
        .await;
    raw.execute("UPDATE sessions SET rotated_at = 6, revoked_at = NULL WHERE sid = 'alive'")
        .await;
    raw.execute("INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES ('by-hand', 7, 1)")
        .await;
    let third = read(&db, Some(second.position)).await;
    let new: Vec<&Revoked> = third
        .revoked
        .iter()
        .filter(|revoked| !second.revoked.contains(revoked))
        .collect();
    let expected = [token("one", 101), Revoked::Session("over".into()), token("by-hand", 7)];
    assert_eq!(new, expected.iter().collect::<Vec<_>>());

    let acme = "default".parse().unwrap();
    db.change_tenant(&acme, TenantChange::Disable, &entry("tenant.disabled", "default"))
        .await
        .unwrap();
    let disabled = db.look(Some(third.position)).await.unwrap();
    assert_eq!(disabled.disabled_tenants, Some(vec!["default".to_owned()]));
    assert!(disabled.revocations.revoked.contains(&Revoked::Tenant));

    let whole = read(&db, None).await;
    assert!(whole.is_whole && whole.position == disabled.revocations.position);
    for revoked in expected {
        assert!(whole.revoked.contains(&revoked), "{whole:?}");
    }
    raw.close().await;
});

crate::on_both_databases!(a_database_that_was_set_back_is_read_whole, |database| {
    let (db, raw) = (database.open().await, Raw::open(&database).await);
    for number in 0..5 {
        deny(&db, &format!("token-{number}"), 100).await;
    }
    let known = read(&db, None).await.position;
    // The last two are lost, and two others come in their place.
    raw.execute("DELETE FROM revocations WHERE name IN ('token-3', 'token-4')")
        .await;
    raw.execute("DELETE FROM denied_tokens WHERE jti IN ('token-3', 'token-4')")
        .await;
    raw.execute(
        "UPDATE revocation_state SET sequence = (SELECT max(sequence) FROM revocations), \
         mark = (SELECT mark FROM revocations ORDER BY sequence DESC LIMIT 1)",
    )
    .await;
    let back = read(&db, Some(known)).await;
    assert!(
        back.is_whole && back.revoked.contains(&token("token-2", 100)),
        "{back:?}"
    );
    for number in 5..8 {
        deny(&db, &format!("token-{number}"), 100).await;
    }
    // The sequence is higher than the one that was known; its history is another one.
    let whole = read(&db, Some(known)).await;
    assert!(whole.is_whole && whole.position.sequence > known.sequence);
    assert!(whole.revoked.contains(&token("token-5", 100)), "{whole:?}");
    raw.close().await;
});

crate::on_both_databases!(what_is_forgotten_leaves_the_newest, |database| {
    let (db, raw) = (database.open().await, Raw::open(&database).await);
    deny(&db, "old", 50).await;
    raw.execute(&session("over")).await;
    raw.execute("UPDATE sessions SET revoked_at = 5").await;
    deny(&db, "long", 200).await;
    deny(&db, "newest", 50).await;
    let known = read(&db, None).await;
    db.prune_revocations(UnixTime(50), None).await.unwrap();
    let left = read(&db, None).await.revoked;
    assert!(
        !left.contains(&token("old", 50)) && left.contains(&Revoked::Session("over".into())),
        "{left:?}"
    );
    db.prune_revocations(UnixTime(49), Some(known.position.sequence))
        .await
        .unwrap();
    let left = read(&db, None).await;
    assert_eq!(left.revoked, [token("long", 200), token("newest", 50)]);
    assert_eq!(left.position, known.position);
    let new = read(&db, Some(known.position)).await;
    assert_eq!(new, Reading::unchanged(known.position));
    deny(&db, "another", 60).await;
    assert!(!read(&db, Some(known.position)).await.is_whole);
    raw.close().await;
});

// Whoever takes the next sequence holds it until the commit: a lower one never appears after a higher one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_sequence_waits_for_an_earlier_commit() {
    let database = TestDatabase::postgres().await;
    let db = database.open().await;
    let known = read(&db, None).await.position;
    let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
    let mut slow = pool.begin().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES ('slow', 9, 1); SET CONSTRAINTS ALL IMMEDIATE",
    )
    .execute(&mut *slow)
    .await
    .unwrap();
    let quick = tokio::spawn({
        let db = db.clone();
        async move { deny(&db, "quick", 9).await }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap() == 0 {
        assert!(!quick.is_finished(), "the later one did not wait");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(read(&db, Some(known)).await, Reading::unchanged(known));
    slow.commit().await.unwrap();
    quick.await.unwrap();
    let new = read(&db, Some(known)).await;
    assert!(new.revoked.ends_with(&[token("slow", 9), token("quick", 9)]), "{new:?}");
    pool.close().await;
}

// A transaction has one sequence for all its rows, and the next one has its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_takes_one_sequence() {
    let database = TestDatabase::postgres().await;
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let known = read(&db, None).await.position;
    raw.execute(
        "INSERT INTO denied_tokens (jti, denied_until, denied_at) SELECT 'token-' || n, 9, 1 FROM generate_series(1, 1000) AS n",
    )
    .await;
    let many = read(&db, Some(known)).await;
    assert_eq!(many.position.sequence, known.sequence + 1);
    assert!(many.revoked.len() >= 1000);
    deny(&db, "next", 9).await;
    assert_eq!(
        read(&db, Some(many.position)).await.position.sequence,
        known.sequence + 2
    );
    raw.close().await;
}
