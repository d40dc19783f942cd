//! A client is one thing: what the schema refuses, how a client proves itself, and the client of the accounts.

use keyround::app::{Foundation, Running, StartError};
use keyround::clock::{Clock, UnixTime};
use keyround::events::Entry;
use keyround::oauth::client::{AuthenticationMethod, Client, ClientKind, Consent, Party};

use crate::helpers::{TestApp, TestDatabase, config, entry};
use crate::rows::Raw;
use crate::sessions::world::{CLIENT, ES256_ALONE, World};
use crate::token::{client, register};

/// A program on a person's device, which the operator has made.
fn app_of_operator(id: &str) -> Client {
    Client {
        kind: ClientKind::Public,
        party: Party::First {
            since: UnixTime(7),
            consent: Consent::None,
        },
        redirect_uris: ["https://app.example.com/callback", "http://127.0.0.1/callback"]
            .map(|uri| uri.parse().unwrap())
            .to_vec(),
        grants: Vec::new(),
        ..client(id)
    }
}

crate::on_both_databases!(a_client_is_read_as_it_was_registered, |database| {
    let db = database.open().await;
    let confidential = Client {
        kind: ClientKind::Confidential(Some(AuthenticationMethod::ClientSecretPost)),
        ..client("service")
    };
    for (registered, digest) in [(app_of_operator("app"), ""), (confidential, "digest")] {
        let id = registered.id.as_str();
        assert!(
            db.create_client(&registered, digest, &entry("client.created", id))
                .await
                .unwrap()
        );
        assert_eq!(db.client(&registered.id).await.unwrap().unwrap().client, registered);
    }
});

/// Whether the database takes this change.
async fn takes(database: &TestDatabase, change: &str) -> bool {
    let change = sqlx::AssertSqlSafe(change.to_owned());
    match Raw::open(database).await {
        Raw::Sqlite(pool) => sqlx::raw_sql(change).execute(&pool).await.is_ok(),
        Raw::Postgres(pool) => sqlx::raw_sql(change).execute(&pool).await.is_ok(),
    }
}

crate::on_both_databases!(the_schema_refuses_a_client_that_contradicts_itself, |database| {
    let db = database.open().await;
    let app = app_of_operator("app");
    assert!(
        db.create_client(&app, "", &entry("client.created", "app"))
            .await
            .unwrap()
    );
    for contradiction in [
        "kind = 'secret'",
        "secret_digest = 'a'",
        "previous_secret_digest = 'a'",
        "grants = 'client_credentials'",
        "auth_method = NULL",
        "auth_method = 'client_secret_basic'",
        "auth_method = 'tls_client_auth'",
        "kind = 'confidential'",
        "consent = 'later'",
        "first_party_since = NULL",
    ] {
        let change = format!("UPDATE clients SET {contradiction}");
        assert!(!takes(&database, &change).await, "{contradiction}");
    }
    for change in [
        "consent = 'ask', first_party_since = NULL",
        "kind = 'confidential', auth_method = NULL, grants = 'client_credentials', secret_digest = 'a'",
        "auth_method = 'private_key_jwt'",
    ] {
        assert!(
            takes(&database, &format!("UPDATE clients SET {change}")).await,
            "{change}"
        );
    }
});

crate::on_both_databases!(a_client_proves_itself_by_the_method_of_its_registration, |database| {
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, Clock::system()).await;
    for (id, method, by_header, by_form) in [
        ("any", None, 200, 200),
        ("basic", Some(AuthenticationMethod::ClientSecretBasic), 200, 401),
        ("post", Some(AuthenticationMethod::ClientSecretPost), 401, 200),
        ("signed", Some(AuthenticationMethod::PrivateKeyJwt), 401, 401),
    ] {
        let registered = Client {
            kind: ClientKind::Confidential(method),
            ..client(id)
        };
        let secret = register(&app, &registered).await;
        let grant = ("grant_type", "client_credentials");
        let request = app.http.post(format!("{}/oauth2/token", app.url)).form(&[grant]);
        let answer = request.basic_auth(id, Some(&secret)).send().await.unwrap();
        assert_eq!(answer.status(), by_header, "{id}");
        let form = [grant, ("client_id", id), ("client_secret", &secret)];
        let request = app.http.post(format!("{}/oauth2/token", app.url)).form(&form);
        assert_eq!(request.send().await.unwrap().status(), by_form, "{id}");
    }
    app.running.stop().await;
});

crate::on_both_databases!(the_client_of_the_accounts_may_be_a_row, |database| {
    let own = Client {
        audiences: vec!["https://registered.example.com".parse().unwrap()],
        ..app_of_operator(CLIENT)
    };
    // What is registered counts, whatever the settings describe.
    let world = World::start(database, &[("accounts.audience", "https://api.example.com")]).await;
    let now = world.clock.read().wall;
    let entry = Entry {
        happened_at: now,
        noted_at: now,
        ..entry("client.created", CLIENT)
    };
    let db = &world.app.running.server.db;
    assert!(db.create_client(&own, "", &entry).await.unwrap());
    let app = world.another().await;
    let ada = world.user("ada").await;
    let tokens = crate::sessions::world::log_in(&app, &ada).await.unwrap();
    let claims = crate::token::claims(&tokens.access_token);
    assert_eq!(
        (&claims["aud"], &claims["client_id"]),
        (&"https://registered.example.com".into(), &CLIENT.into())
    );
    assert!(
        crate::sessions::world::refresh(&app, &tokens.refresh_token)
            .await
            .is_ok()
    );

    // Only such a row: the tokens of a service would look like those of people.
    for other in ["consent = 'ask', first_party_since = NULL", "disabled_at = 1"] {
        let was = "first_party_since = 7, consent = 'none', disabled_at = NULL";
        world.raw.execute(&format!("UPDATE clients SET {was}")).await;
        world.raw.execute(&format!("UPDATE clients SET {other}")).await;
        let config = config(&world.database, &ES256_ALONE);
        let foundation = Foundation::open(&config, world.clock.clone()).await.unwrap();
        let refused = Running::start(&config, foundation).await.err();
        assert!(
            matches!(refused, Some(StartError::FirstPartyClient(_))),
            "{other}: {refused:?}"
        );
    }
    app.running.stop().await;
    world.stop().await;
});
