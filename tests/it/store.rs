//! Every store function on both databases.

use std::time::Duration;

use keyround::accounts::session::EndedBy;
use keyround::accounts::user::UserId;
use keyround::clock::{Clock, Seconds, UnixTime, sleep};
use keyround::events::Event;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::Kid;
use keyround::keys::kept::Kept;
use keyround::keys::plan::NewGeneration;
use keyround::keys::trusted_time::ClockStep;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::{Client, ClientId, Grant};
use keyround::store::clients::{ClientChange, EndedSecret};
use keyround::store::nodes::{Heartbeat, Place};
use keyround::store::sessions::{Ending, SessionEnd};
use keyround::store::signing_keys::{SealedKey, StoredKey};
use keyround::store::{Db, StoreError};
use keyround::values::{Database, SessionId};

use crate::helpers::{START, TestDatabase, entry};
use crate::rows::{Raw, key_pair};

fn generation(alg: Algorithm, generation: i64) -> NewGeneration {
    NewGeneration {
        alg,
        generation,
        published_at: START,
        activates_at: START + Seconds(100 * generation),
        prepublish: Seconds(60),
        max_token_ttl: Seconds(600),
    }
}

/// Writes a generation in a change of its own; answers with its kid.
async fn write(db: &Db, new: &NewGeneration) -> Kid {
    let key = key_pair(new.alg);
    let mut change = db.change_keys().await.unwrap();
    change.insert(new, Some(&key)).await.unwrap();
    change.commit(None, START).await.unwrap();
    key.jwk.kid
}

async fn row(db: &Db, kid: &Kid) -> Option<StoredKey> {
    let stored = db.signing_keys().await.unwrap();
    stored.rows.into_iter().find(|row| row.key.kid == *kid)
}

crate::on_both_databases!(a_generation_is_read_as_it_was_written, |database| {
    let db = database.open().await;
    let empty = db.signing_keys().await.unwrap();
    assert_eq!((empty.version, empty.rows.len()), (0, 0));
    let key = key_pair(Algorithm::Es256);
    let (new, removal) = (generation(Algorithm::Es256, 1), generation(Algorithm::Rs256, 4));
    let mut change = db.change_keys().await.unwrap();
    assert!(change.keys().is_empty());
    assert_eq!(change.version(), 1);
    change.insert(&new, Some(&key)).await.unwrap();
    change.insert(&removal, None).await.unwrap();
    assert_eq!(change.commit(None, START).await.unwrap(), 1);

    let stored = db.signing_keys().await.unwrap();
    assert_eq!(stored.version, 1);
    let keys = stored.keys();
    let [read] = keys.line(Algorithm::Es256) else {
        panic!("one row was written: {keys:?}")
    };
    assert_eq!(read.kid, key.jwk.kid);
    assert_eq!(read.generation, 1);
    assert_eq!(read.jwk.as_ref().unwrap().to_json(), key.jwk.to_json());
    assert_eq!(read.published_at, new.published_at);
    assert_eq!(read.activates_at, new.activates_at);
    assert_eq!(read.prepublish, new.prepublish);
    assert_eq!(read.max_token_ttl, new.max_token_ttl);
    assert_eq!(read.revoked_at, None);
    assert!(read.has_private_half);
    assert_eq!(row(&db, &key.jwk.kid).await.unwrap().sealed, Some(key.sealed));

    let [removed] = keys.line(Algorithm::Rs256) else {
        panic!("one row was written: {keys:?}")
    };
    assert!(removed.is_keyless() && !removed.has_private_half);
    assert_eq!(removed.kid.as_str(), "removed-RS256-4");
});

crate::on_both_databases!(a_generation_exists_once, |database| {
    let db = database.open().await;
    let first = write(&db, &generation(Algorithm::Es256, 1)).await;
    let mut change = db.change_keys().await.unwrap();
    let again = change
        .insert(&generation(Algorithm::Es256, 1), Some(&key_pair(Algorithm::Es256)))
        .await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    drop(change);
    // The other algorithm's line counts by itself.
    write(&db, &generation(Algorithm::Rs256, 1)).await;
    let stored = db.signing_keys().await.unwrap();
    assert_eq!((stored.version, stored.rows.len()), (2, 2));
    assert!(stored.keys().find(&first).is_some());
});

crate::on_both_databases!(a_kid_exists_once, |database| {
    let db = database.open().await;
    let key = key_pair(Algorithm::Es256);
    let mut change = db.change_keys().await.unwrap();
    change
        .insert(&generation(Algorithm::Es256, 1), Some(&key))
        .await
        .unwrap();
    let again = change.insert(&generation(Algorithm::Es256, 2), Some(&key)).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
});

crate::on_both_databases!(a_dropped_change_leaves_no_trace, |database| {
    let db = database.open().await;
    let kid = write(&db, &generation(Algorithm::Es256, 1)).await;
    let mut change = db.change_keys().await.unwrap();
    let new = generation(Algorithm::Es256, 2);
    change.insert(&new, Some(&key_pair(new.alg))).await.unwrap();
    change.destroy_private_half(&kid).await.unwrap();
    change.raise_max_token_ttl(&kid, Seconds(9_999)).await.unwrap();
    change.note(&entry("key.created", "dropped")).await.unwrap();
    drop(change);

    let stored = db.signing_keys().await.unwrap();
    assert_eq!((stored.version, stored.rows.len()), (1, 1));
    assert!(stored.rows[0].sealed.is_some());
    assert_eq!(stored.rows[0].key.max_token_ttl, Seconds(600));
    assert_eq!(db.audit(None, 10).await.unwrap(), []);
    // Nor does it keep the lock.
    assert_eq!(db.change_keys().await.unwrap().version(), 2);
});

crate::on_both_databases!(a_late_commit_writes_nothing, |database| {
    let db = database.open().await;
    let clock = Clock::system();
    let new = generation(Algorithm::Es256, 1);
    let key = key_pair(new.alg);
    let mut change = db.change_keys().await.unwrap();
    change.insert(&new, Some(&key)).await.unwrap();
    change.note(&entry("key.created", "late")).await.unwrap();
    let deadline = db.now().await.unwrap() - Seconds(7);
    match change.commit(Some(deadline), clock.read().wall).await {
        Err(StoreError::LateCommit { late_by }) => assert!((7..60).contains(&late_by.0), "{late_by}"),
        other => panic!("a late commit was not refused: {other:?}"),
    }
    let stored = db.signing_keys().await.unwrap();
    assert_eq!((stored.version, stored.rows.len()), (0, 0));
    assert_eq!(db.audit(None, 10).await.unwrap(), []);

    // The same in time.
    let mut change = db.change_keys().await.unwrap();
    change.insert(&new, Some(&key)).await.unwrap();
    let deadline = db.now().await.unwrap() + Seconds(60);
    assert_eq!(change.commit(Some(deadline), clock.read().wall).await.unwrap(), 1);
    assert_eq!(db.signing_keys().await.unwrap().rows.len(), 1);
});

#[tokio::test]
async fn the_deadline_goes_by_the_clock_of_postgres_and_not_by_ours() {
    let db = TestDatabase::postgres().await.open().await;
    let change = db.change_keys().await.unwrap();
    let behind = Clock::manual(UnixTime(0));
    let late = change
        .commit(Some(db.now().await.unwrap() - Seconds(1)), behind.read().wall)
        .await;
    assert!(matches!(late, Err(StoreError::LateCommit { .. })), "{late:?}");
}

crate::on_both_databases!(a_change_waits_for_the_one_before_and_sees_what_it_did, |database| {
    let db = database.open().await;
    let other = database.open().await;
    let mut first = db.change_keys().await.unwrap();
    let second = tokio::spawn(async move {
        let change = other.change_keys().await.unwrap();
        (change.version(), change.keys().iter().count())
    });
    let new = generation(Algorithm::Es256, 1);
    first.insert(&new, Some(&key_pair(new.alg))).await.unwrap();
    keyround::clock::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished(), "two changes were under way at once");
    // A reader does not wait.
    assert_eq!(db.signing_keys().await.unwrap().rows.len(), 0);
    first.commit(None, START).await.unwrap();
    assert_eq!(second.await.unwrap(), (2, 1));
});

crate::on_both_databases!(every_change_raises_the_version, |database| {
    let db = database.open().await;
    for expected in 1..=5 {
        let change = db.change_keys().await.unwrap();
        assert_eq!(change.version(), expected);
        assert_eq!(change.commit(None, START).await.unwrap(), expected);
        assert_eq!(db.signing_keys().await.unwrap().version, expected);
    }
});

crate::on_both_databases!(a_private_half_is_destroyed_and_nothing_else, |database| {
    let db = database.open().await;
    let kid = write(&db, &generation(Algorithm::Es256, 1)).await;
    let other = write(&db, &generation(Algorithm::Es256, 2)).await;
    let before = row(&db, &kid).await.unwrap().key;
    let mut change = db.change_keys().await.unwrap();
    change.destroy_private_half(&kid).await.unwrap();
    change.destroy_private_half(&kid).await.unwrap();
    change.commit(None, START).await.unwrap();
    let after = row(&db, &kid).await.unwrap();
    assert_eq!(after.sealed, None);
    let mut expected = before;
    expected.has_private_half = false;
    assert_eq!(after.key, expected);
    assert!(row(&db, &other).await.unwrap().sealed.is_some());
});

crate::on_both_databases!(a_key_is_revoked_once, |database| {
    let db = database.open().await;
    let kid = write(&db, &generation(Algorithm::Es256, 1)).await;
    let other = write(&db, &generation(Algorithm::Es256, 2)).await;
    for at in [START + Seconds(5), START + Seconds(9)] {
        let mut change = db.change_keys().await.unwrap();
        change.revoke(&kid, at).await.unwrap();
        change.commit(None, START).await.unwrap();
    }
    let revoked = row(&db, &kid).await.unwrap();
    assert_eq!(revoked.key.revoked_at, Some(START + Seconds(5)));
    assert_eq!(revoked.sealed, None);
    assert_eq!(row(&db, &other).await.unwrap().key.revoked_at, None);
});

crate::on_both_databases!(max_token_ttl_grows_and_never_shrinks, |database| {
    let db = database.open().await;
    let kid = write(&db, &generation(Algorithm::Es256, 1)).await;
    let other = write(&db, &generation(Algorithm::Es256, 2)).await;
    for (to, expected) in [(900, 900), (300, 900), (900, 900), (901, 901)] {
        let mut change = db.change_keys().await.unwrap();
        change.raise_max_token_ttl(&kid, Seconds(to)).await.unwrap();
        change.commit(None, START).await.unwrap();
        assert_eq!(row(&db, &kid).await.unwrap().key.max_token_ttl, Seconds(expected));
    }
    assert_eq!(row(&db, &other).await.unwrap().key.max_token_ttl, Seconds(600));
});

crate::on_both_databases!(purge_refuses_private_halves_and_revoked_keys, |database| {
    let db = database.open().await;
    let alive = write(&db, &generation(Algorithm::Es256, 1)).await;
    let revoked = write(&db, &generation(Algorithm::Es256, 2)).await;
    let done = write(&db, &generation(Algorithm::Es256, 3)).await;
    let mut change = db.change_keys().await.unwrap();
    change.revoke(&revoked, START).await.unwrap();
    change.destroy_private_half(&done).await.unwrap();
    for kid in [&alive, &revoked, &done] {
        change.purge(kid).await.unwrap();
    }
    change.commit(None, START).await.unwrap();
    assert!(row(&db, &alive).await.is_some(), "a row with a private half was purged");
    assert!(row(&db, &revoked).await.is_some(), "a revoked row was purged");
    assert!(row(&db, &done).await.is_none());
});

crate::on_both_databases!(what_happens_once_is_noted_once, |database| {
    let db = database.open().await;
    let other = database.open().await;
    let mut once = entry("key.activated", "kid-1");
    once.once = true;
    let mut later = once.clone();
    later.noted_at = START + Seconds(60);
    assert!(db.note(&once).await.unwrap());
    assert!(!other.note(&later).await.unwrap());
    let mut change = db.change_keys().await.unwrap();
    assert!(!change.note(&later).await.unwrap());
    assert!(change.note(&entry("key.published", "kid-1")).await.unwrap());
    change.commit(None, START).await.unwrap();
    // Another event, another subject, and what may happen again.
    let (mut retired, mut elsewhere) = (once.clone(), entry("key.activated", "kid-2"));
    retired.event = Event::KeyRetired;
    elsewhere.once = true;
    let again = entry("client.secret_changed", "kid-1");
    for (entry, expected) in [(&retired, true), (&elsewhere, true), (&again, true), (&again, true)] {
        assert_eq!(db.note(entry).await.unwrap(), expected);
    }
    let records = db.audit(None, 100).await.unwrap();
    let activated: Vec<_> = records
        .iter()
        .filter(|record| record.event == "key.activated" && record.subject == "kid-1")
        .collect();
    let [first] = activated[..] else {
        panic!("noted {} times", activated.len())
    };
    assert_eq!((first.happened_at, first.noted_at), (START.0, START.0));
    assert_eq!((first.actor.as_str(), first.reason.as_str()), ("test", "test"));
});

crate::on_both_databases!(the_audit_log_is_read_in_pages_newest_first, |database| {
    let db = database.open().await;
    let subjects: Vec<String> = (0..7).map(|number| format!("client-{number}")).collect();
    for subject in &subjects {
        db.note(&entry("client.created", subject)).await.unwrap();
    }
    let mut read = Vec::new();
    let mut before = None;
    loop {
        let page = db.audit(before, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        before = Some(last.seq);
        read.extend(page.into_iter().map(|record| record.subject));
    }
    read.reverse();
    assert_eq!(read, subjects);
});

crate::on_both_databases!(nodes_beat_leave_and_are_forgotten, |database| {
    let db = database.open().await;
    let beat = |node: &str, seen_at: i64, version: i64| Heartbeat {
        node_id: node.to_owned(),
        seen_at,
        version,
        change_id: Some(format!("change-{version}")),
        policy_fingerprint: format!("policy-{version}"),
        clock_offset: -version,
        master_keys: String::new(),
        place: Place::default(),
    };
    for heartbeat in [
        beat("a", 100, 1),
        beat("b", 200, 1),
        beat("c", 300, 1),
        beat("a", 400, 2),
    ] {
        db.beat(&heartbeat).await.unwrap();
    }
    let db = &db;
    let seen = |now: i64, memory: i64| async move { db.living_nodes(UnixTime(now), Seconds(memory)).await.unwrap() };
    let all = || async { db.all_nodes().await.unwrap() };
    assert_eq!(all().await, [beat("a", 400, 2), beat("b", 200, 1), beat("c", 300, 1)]);
    assert_eq!(seen(400, 400).await, all().await);
    assert_eq!(seen(400, 100).await, [beat("a", 400, 2), beat("c", 300, 1)]);
    // A heartbeat of the future is no sign of life, but clocks of nodes differ.
    assert_eq!(seen(350, 50).await, [beat("a", 400, 2), beat("c", 300, 1)]);
    assert_eq!(seen(349, 50).await, [beat("c", 300, 1)]);
    assert_eq!(seen(100, 99).await, []);
    assert_eq!(seen(i64::MAX, 99).await, []);
    // Also one that was last seen by a clock that was far ahead.
    db.beat(&beat("d", 900_000, 1)).await.unwrap();
    db.forget_nodes(UnixTime(300), UnixTime(86_400)).await.unwrap();
    assert_eq!(all().await, [beat("a", 400, 2), beat("c", 300, 1)]);
    db.leave("a").await.unwrap();
    db.leave("nobody").await.unwrap();
    assert_eq!(all().await, [beat("c", 300, 1)]);
});

crate::on_both_databases!(a_confirmed_step_back_forgets_the_heartbeats_of_the_future, |database| {
    let db = database.open().await;
    let (from, to) = (START + Seconds(7_200), START);
    for (node_id, seen_at) in [
        ("ahead", from),
        ("second", to + Seconds(1)),
        ("right", to),
        ("before", to - Seconds(9)),
    ] {
        let heartbeat = Heartbeat {
            node_id: node_id.to_owned(),
            seen_at: seen_at.0,
            version: 1,
            change_id: None,
            policy_fingerprint: String::new(),
            clock_offset: 0,
            master_keys: String::new(),
            place: Place::default(),
        };
        db.beat(&heartbeat).await.unwrap();
    }
    for (from, to, left) in [
        (to - Seconds(9), to, &["ahead", "before", "right", "second"][..]),
        (from, to, &["before", "right"]),
    ] {
        let mut change = db.change_keys().await.unwrap();
        let kept = Kept { from, at: to };
        let step = ClockStep {
            from,
            to,
            newer_than: from,
            kept,
        };
        change.step_clock(step).await.unwrap();
        change.commit(None, to).await.unwrap();
        let nodes = db.all_nodes().await.unwrap();
        let names: Vec<&str> = nodes.iter().map(|node| node.node_id.as_str()).collect();
        assert_eq!(names, left, "a step from {from} to {to}");
    }
});

crate::on_both_databases!(a_secret_is_written_once, |database| {
    let (db, other) = (database.open().await, database.open().await);
    assert_eq!(db.secret("a").await.unwrap(), None);
    assert_eq!(db.secret_or_insert("a", "first", START).await.unwrap(), "first");
    assert_eq!(other.secret_or_insert("a", "second", START).await.unwrap(), "first");
    assert_eq!(db.secret_or_insert("b", "second", START).await.unwrap(), "second");
    assert_eq!(other.secret("a").await.unwrap().as_deref(), Some("first"));
});

fn client(id: &str) -> Client {
    Client {
        id: id.parse().unwrap(),
        kind: keyround::oauth::client::ClientKind::Confidential(None),
        party: keyround::oauth::client::Party::Third,
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
        name: None,
        id_token_alg: None,
        scope_claims: ScopeClaims::Userinfo,
        roles_claim: None,
        is_pkce_optional: false,
        grants: vec![Grant::ClientCredentials],
        scope: "read write".parse().unwrap(),
        audiences: ["https://b.example", "https://a.example?x=1"]
            .map(|audience| audience.parse().unwrap())
            .to_vec(),
        serves: Vec::new(),
        alg: Some(Algorithm::Es256),
        token_type: keyround::jose::jwt::TokenType::AtJwt,
        token_ttl: Some(Seconds(300)),
        created_at: START,
        disabled_at: None,
    }
}

crate::on_both_databases!(a_client_is_read_as_it_was_written, |database| {
    let (db, other) = (database.open().await, database.open().await);
    let full = client("full");
    let mut bare = client("bare");
    (bare.alg, bare.token_ttl, bare.scope) = (None, None, "".parse().unwrap());
    for client in [&full, &bare] {
        assert_eq!(db.client(&client.id).await.unwrap().map(|stored| stored.client), None);
        assert!(
            db.create_client(client, "digest", &entry("client.created", client.id.as_str()))
                .await
                .unwrap()
        );
        // At once, and on another node too.
        let stored = other.client(&client.id).await.unwrap().unwrap();
        assert_eq!(stored.client, *client);
        assert_eq!(
            (stored.secrets.current.as_str(), stored.secrets.previous),
            ("digest", None)
        );
    }
    let taken = db
        .create_client(&full, "other", &entry("client.created", "full"))
        .await
        .unwrap();
    assert!(!taken);
    assert_eq!(db.client(&full.id).await.unwrap().unwrap().secrets.current, "digest");
    assert_eq!(
        db.audit(None, 10).await.unwrap().len(),
        2,
        "what was not done was audited"
    );
});

crate::on_both_databases!(clients_are_listed_by_id_in_pages, |database| {
    let db = database.open().await;
    for id in ["d", "b", "a", "c", "e"] {
        db.create_client(&client(id), "digest", &entry("client.created", id))
            .await
            .unwrap();
    }
    let list = |after: Option<ClientId>| {
        let db = &db;
        async move {
            let page = db.clients(after.as_ref(), 2).await.unwrap();
            page.iter()
                .map(|stored| stored.client.id.to_string())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(list(None).await, ["a", "b"]);
    assert_eq!(list(Some("b".parse().unwrap())).await, ["c", "d"]);
    assert_eq!(list(Some("d".parse().unwrap())).await, ["e"]);
    assert!(list(Some("e".parse().unwrap())).await.is_empty());
});

crate::on_both_databases!(a_client_is_changed, |database| {
    let db = database.open().await;
    let id: ClientId = "billing".parse().unwrap();
    db.create_client(&client("billing"), "one", &entry("client.created", "billing"))
        .await
        .unwrap();
    let change = |change: ClientChange, expected: bool| {
        let (db, id) = (&db, &id);
        async move {
            let changed = db
                .change_client(id, &change, &entry("client.updated", "billing"))
                .await
                .unwrap();
            assert_eq!(changed, expected, "{change:?}");
            db.client(id).await.unwrap()
        }
    };
    let disabled = change(ClientChange::Disable, true).await.unwrap();
    assert_eq!(disabled.client.disabled_at, Some(START));
    change(ClientChange::Disable, false).await;
    let enabled = change(ClientChange::Enable, true).await.unwrap();
    assert_eq!(enabled.client, client("billing"));
    change(ClientChange::Enable, false).await;
    // Two secrets are valid at once. A third one ends the one that it is to end.
    let secret = |digest: &str, ends| ClientChange::ChangeSecret {
        digest: digest.to_owned(),
        ends,
    };
    for (digest, ends, valid) in [
        ("two", EndedSecret::None, ["two", "one"]),
        ("three", EndedSecret::Previous, ["three", "two"]),
        ("four", EndedSecret::Newest, ["four", "two"]),
    ] {
        let stored = change(secret(digest, ends), true).await.unwrap();
        assert_eq!(stored.secrets.iter().collect::<Vec<_>>(), valid);
        change(secret("x", EndedSecret::None), false).await;
    }
    assert!(change(ClientChange::Delete, true).await.is_none());
    for gone in [ClientChange::Delete, ClientChange::Disable, ClientChange::Enable] {
        change(gone, false).await;
    }
    for ends in [EndedSecret::None, EndedSecret::Previous, EndedSecret::Newest] {
        change(secret("x", ends), false).await;
    }
    // The registration and the six changes that were made.
    assert_eq!(db.audit(None, 100).await.unwrap().len(), 7);
});

fn assert_corrupt<T: std::fmt::Debug>(answer: Result<T, StoreError>, expected: &'static str, why: &str) {
    match answer {
        Err(StoreError::Corrupt { table, .. }) => assert_eq!(table, expected, "{why}"),
        other => panic!("{why}: {other:?}"),
    }
}

crate::on_both_databases!(a_key_that_cannot_be_read_is_told_and_not_passed_over, |database| {
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let kid = write(&db, &generation(Algorithm::Es256, 1)).await;
    let SealedKey { jwk: stranger, .. } = key_pair(Algorithm::Es256);
    let jwk = row(&db, &kid).await.unwrap().key.jwk.unwrap().to_json();
    for (why, broken, mended) in [
        ("a JWK that is none", "jwk = '{}'".to_owned(), format!("jwk = '{jwk}'")),
        (
            "another key's JWK",
            format!("jwk = '{}'", stranger.to_json()),
            format!("jwk = '{jwk}'"),
        ),
        (
            "an algorithm that is none",
            "alg = 'none'".to_owned(),
            "alg = 'ES256'".to_owned(),
        ),
        ("a kid that is none", "kid = 'a b'".to_owned(), format!("kid = '{kid}'")),
    ] {
        raw.execute(&format!("UPDATE signing_keys SET {broken}")).await;
        assert_corrupt(db.signing_keys().await, "signing_keys", why);
        assert_corrupt(db.change_keys().await.map(|_| ()), "signing_keys", why);
        raw.execute(&format!("UPDATE signing_keys SET {mended}")).await;
        assert_eq!(db.signing_keys().await.unwrap().rows.len(), 1);
    }
});

crate::on_both_databases!(used_assertions_are_forgotten_when_they_are_due, |database| {
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let id: ClientId = "billing".parse().unwrap();
    db.create_client(&client("billing"), "one", &entry("client.created", "billing"))
        .await
        .unwrap();
    assert!(db.use_assertion(&id, "early", UnixTime(100)).await.unwrap());
    assert!(!db.use_assertion(&id, "early", UnixTime(100)).await.unwrap());
    assert!(db.use_assertion(&id, "late", UnixTime(200)).await.unwrap());
    // While none is due, a look at them waits for no other writer.
    let held = raw.hold("UPDATE clients SET scope = scope").await;
    assert_eq!(db.forget_assertions(UnixTime(100)).await.unwrap(), 0);
    held.let_go().await;
    assert_eq!(db.forget_assertions(UnixTime(101)).await.unwrap(), 1);
    assert_eq!(raw.texts("SELECT jti FROM client_assertions").await, ["late"]);
});

crate::on_both_databases!(a_client_that_cannot_be_read_is_told, |database| {
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let id: ClientId = "billing".parse().unwrap();
    db.create_client(&client("billing"), "one", &entry("client.created", "billing"))
        .await
        .unwrap();
    for (broken, mended) in [
        ("grants = 'password'", "grants = 'client_credentials'"),
        ("audiences = ':'", "audiences = 'https://a.example'"),
        ("alg = 'HS256'", "alg = 'ES256'"),
        ("scope = 'a\"b'", "scope = 'read'"),
    ] {
        raw.execute(&format!("UPDATE clients SET {broken}")).await;
        assert_corrupt(db.client(&id).await, "clients", broken);
        assert_corrupt(db.clients(None, 10).await, "clients", broken);
        raw.execute(&format!("UPDATE clients SET {mended}")).await;
        assert!(db.client(&id).await.unwrap().is_some());
    }
});

/// How long connecting to this URL takes to fail.
async fn time_to_fail(url: &str) -> Duration {
    let clock = Clock::system();
    let before = clock.read().monotonic;
    let answer = Db::connect(&url.parse::<Database>().unwrap()).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_) | StoreError::NoPrimary(_))),
        "{answer:?}"
    );
    clock.read().monotonic.saturating_sub(before)
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Someone listens there, and never says a word.
    let silent = time_to_fail(&format!("postgres://keyround@127.0.0.1:{port}/keyround")).await;
    assert!(silent < Duration::from_secs(5), "{silent:?}");
    drop(listener);
    let refused = time_to_fail(&format!("postgres://keyround@127.0.0.1:{port}/keyround")).await;
    assert!(refused < Duration::from_secs(5), "{refused:?}");
    let no_folder = time_to_fail("sqlite:/nonexistent/folder/keyround.db").await;
    assert!(no_folder < Duration::from_secs(5), "{no_folder:?}");
}

crate::on_both_databases!(a_closed_database_is_unavailable_at_once, |database| {
    let db = database.open().await;
    db.close().await;
    assert!(matches!(db.signing_keys().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(
        db.change_keys().await.map(|_| ()),
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(db.now().await, Err(StoreError::Unavailable(_))));
});

crate::on_both_databases!(the_database_tells_the_time, |database| {
    let db = database.open().await;
    let ours = Clock::system().read().wall;
    let theirs = db.now().await.unwrap();
    assert!((theirs - ours).abs() <= Seconds(2), "{theirs} and {ours}");
});

/// What was revoked before costs a revocation nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reads_no_more_than_itself() {
    let database = TestDatabase::postgres().await;
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let ended = |column: &str, count: i64| {
        format!(
            "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
             expires_at, revoked_at, revoked_for, address, user_agent) SELECT {column} || n, {column} || n, 'default', '', '', 1, '', '', \
             1, 1, 9000000000, {}, 'logout', '', '' FROM generate_series(1, {count}) n",
            START.0
        )
    };
    for rows in [
        "INSERT INTO denied_tokens (jti, denied_until, denied_at) SELECT 'token' || n, 9000000000, 1 FROM generate_series(1, 20000) n"
            .to_owned(),
        "INSERT INTO audit (event, subject, happened_at, noted_at, actor, reason) \
         SELECT 'token.denied', 'token' || n, 1, 1, 'a', 'b' FROM generate_series(1, 20000) n"
            .to_owned(),
        ended("'session'", 20_000),
    ] {
        raw.execute(&rows).await;
    }
    raw.execute("ANALYZE").await;
    let read =
        "SELECT CAST(SUM(COALESCE(seq_tup_read, 0) + COALESCE(idx_tup_fetch, 0)) AS BIGINT) FROM pg_stat_user_tables";
    let noted = "SELECT CAST(n_tup_ins AS BIGINT) FROM pg_stat_user_tables WHERE relname = 'audit'";
    let now = Clock::system().read().wall;
    let (user, sid) = (UserId::generate(now), SessionId::generate(now));
    raw.execute(
        &ended("'x'", 1)
            .replace("'x' || n, 'x' || n", &format!("'{sid}', '{user}'"))
            .replace(&format!("{}, 'logout'", START.0), "NULL, NULL"),
    )
    .await;
    for what in ["a token", "a session", "all sessions of a person"] {
        // What this test asks for is counted too, in other connections' time.
        let before = (raw.number(noted).await, raw.number(read).await);
        match what {
            "a token" => assert!(
                db.deny_token("new", now + Seconds(60), &entry("token.denied", "new"))
                    .await
                    .unwrap()
            ),
            "a session" => {
                let ending = Ending {
                    sid,
                    of: Some(user),
                    by: EndedBy::Logout,
                    is_proven: true,
                };
                let ended = db.end_session(&ending, &entry("session.ended", "new")).await;
                assert_eq!(ended.unwrap(), SessionEnd::New);
                raw.execute(&format!("UPDATE sessions SET revoked_at = NULL WHERE sid = '{sid}'"))
                    .await;
            }
            _ => {
                let noted = entry("session.ended", "");
                let ended = db.end_some_sessions_of(user, None, EndedBy::Logout, &noted);
                assert_eq!(ended.await.unwrap(), [sid]);
            }
        }
        // PostgreSQL tells it within a second.
        while raw.number(noted).await == before.0 {
            sleep(Duration::from_millis(50)).await;
        }
        let rows = raw.number(read).await - before.1;
        assert!(rows < 1_000, "{what}: {rows} rows were read");
    }
    raw.close().await;
}
