//! Clients in memory: what is given holds at once, what is taken holds no longer than the count of changes is believed.

use keyround::clock::{Clock, Seconds};
use keyround::oauth::client::ClientId;
use keyround::registry::Registry;

use crate::helpers::{START, TestApp, TestDatabase};
use crate::rows::Raw;

const GRANT: (&str, &str) = ("grant_type", "client_credentials");

// On every node, whoever changed the row.
crate::on_both_databases!(what_is_taken_from_a_client_by_any_hand_is_known, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let db = database.open().await;
    app.create_client("billing", None).await;
    let raw = Raw::open(&database).await;
    let clock = Clock::manual(START);
    let registry = Registry::new(db.clone(), clock.clone());
    let id: ClientId = "billing".parse().unwrap();
    let scope = async || {
        registry
            .find(&id)
            .await
            .unwrap()
            .map(|stored| stored.client.scope.to_string())
    };
    let first = scope().await;
    assert!(first.is_some());

    raw.execute("UPDATE clients SET scope = 'less' WHERE client_id = 'billing'")
        .await;
    assert_eq!(
        scope().await,
        first,
        "the count of changes was asked for although it is believed"
    );
    assert_eq!(
        registry.find_anew(&id).await.unwrap().unwrap().client.scope.to_string(),
        "less"
    );
    assert_eq!(scope().await.as_deref(), Some("less"));

    raw.execute("UPDATE clients SET scope = 'least' WHERE client_id = 'billing'")
        .await;
    clock.advance(Seconds(1));
    assert_eq!(scope().await.as_deref(), Some("least"));

    raw.execute("UPDATE clients SET disabled_at = 1 WHERE client_id = 'billing'")
        .await;
    clock.advance(Seconds(1));
    assert_eq!(
        registry
            .find(&id)
            .await
            .unwrap()
            .unwrap()
            .client
            .disabled_at
            .map(|at| at.0),
        Some(1)
    );
    raw.execute("UPDATE clients SET disabled_at = NULL WHERE client_id = 'billing'")
        .await;
    assert_eq!(
        registry.find(&id).await.unwrap().unwrap().client.disabled_at,
        None,
        "not at once"
    );

    raw.execute("DELETE FROM clients WHERE client_id = 'billing'").await;
    clock.advance(Seconds(1));
    assert_eq!(scope().await, None);
    raw.close().await;
    app.running.stop().await;
});

// A secret that was given a moment ago is good, and a client that was made a moment ago is known.
crate::on_both_databases!(what_is_given_to_a_client_holds_at_once, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let raw = Raw::open(&database).await;
    let other = app.create_client("other", None).await;
    for id in ["one", "two", "three"] {
        assert_eq!(app.ask(id, "none", &[GRANT]).await.status(), 401);
        let secret = app.create_client(id, None).await;
        app.token(id, &secret).await;
        let theirs = "UPDATE clients SET secret_digest = (SELECT secret_digest FROM clients WHERE client_id = 'other') \
                      WHERE client_id = ";
        raw.execute(&format!("{theirs}'{id}'")).await;
        app.token(id, &other).await;
    }
    raw.close().await;
    app.running.stop().await;
});

// A row that was read before a change and kept after it must not outlive the next look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_read_while_they_change_are_not_kept() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    app.create_client("billing", None).await;
    let raw = Raw::open(&database).await;
    let clock = Clock::manual(START);
    let registry = std::sync::Arc::new(Registry::new(database.open().await, clock.clone()));
    let id: ClientId = "billing".parse().unwrap();
    for round in 0..100 {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (registry, id) = (std::sync::Arc::clone(&registry), id.clone());
                tokio::spawn(async move { registry.find_anew(&id).await.map(|_| ()) })
            })
            .collect();
        raw.execute(&format!(
            "UPDATE clients SET scope = 'r{round}' WHERE client_id = 'billing'"
        ))
        .await;
        for reader in readers {
            reader.await.unwrap().unwrap();
        }
        clock.advance(Seconds(1));
        let stored = registry.find(&id).await.unwrap().unwrap();
        assert_eq!(stored.client.scope.to_string(), format!("r{round}"));
    }
    raw.close().await;
    app.running.stop().await;
}
