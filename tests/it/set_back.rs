//! A database that is set back under a running node, as by a failover to a standby that lacks the last seconds: what a node caches of a
//! table follows the database, and what it must not forget stays.

use keyround::accounts::refresh_token::RefreshToken;
use keyround::accounts::session::EndedBy;
use keyround::store::clients::ClientChange;
use keyround::store::tenants::TenantChange;
use keyround::values::{LONGEST_ACCESS_TOKEN, SessionId};
use serde_json::{Value, json};

use crate::auth::visitor::{PASSWORD, Site, Visitor, email, refused};
use crate::client_assertions::{Pair, keyround, present};
use crate::helpers::{TestApp, TestDatabase, entry};
use crate::introspection::ask;
use crate::rows::Raw;
use crate::token::{claims, client, register};
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;

const GRANT: (&str, &str) = ("grant_type", "client_credentials");

/// What a node keeps in memory of each table.
const TABLES: [(&str, &str); 27] = [
    ("signing_keys", "the snapshot; what was revoked or published stays"),
    ("key_version", "the name of the last change, which heartbeats repeat"),
    ("verifying_keys", "the snapshot; what was revoked or published stays"),
    ("key_uses", "nothing: counts are added"),
    ("secrets", "the key of the digests, which never changes"),
    ("denied_tokens", "all that are in force; denials stay"),
    ("revocation_changes", "how far it has read"),
    ("revocation_readers", "its mark: without it, everything is read again"),
    (
        "clients",
        "rows under the name of the last change; a client that was refused stays disabled",
    ),
    ("client_changes", "the name of the last change"),
    ("client_keys", "nothing"),
    ("client_assertions", "nothing"),
    ("tenants", "the disabled ones in the snapshot; they stay disabled"),
    ("users", "nothing"),
    (
        "identity_providers",
        "nothing; what they publish is kept by its address",
    ),
    ("federated_identities", "nothing"),
    ("federated_logins", "nothing"),
    ("login_sessions", "nothing: their grants end with them"),
    ("sessions", "those that ended lately; they stay ended"),
    (
        "authorization_codes",
        "nothing: one that was redeemed may count again until it expires",
    ),
    ("consents", "nothing"),
    ("resource_servers", "nothing"),
    ("scopes", "nothing"),
    ("limits", "nothing"),
    ("nodes", "nothing"),
    ("clock", "the time that was reached, which never goes back"),
    ("audit", "nothing"),
];

/// Every table as it was.
pub struct Earlier {
    put_back: String,
}

impl Earlier {
    pub async fn take(raw: &Raw) -> Self {
        let tables = match raw {
            Raw::Sqlite(_) => {
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\' \
                 AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'kept\\_%' ESCAPE '\\'"
            }
            Raw::Postgres(_) => {
                "SELECT CAST(tablename AS TEXT) FROM pg_catalog.pg_tables WHERE schemaname = current_schema() \
                 AND tablename NOT LIKE '\\_sqlx%' AND tablename NOT LIKE 'kept\\_%'"
            }
        };
        let tables = raw.texts(tables).await;
        let mut statements = Vec::new();
        for table in &tables {
            raw.execute(&format!("DROP TABLE IF EXISTS kept_{table}")).await;
            raw.execute(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"))
                .await;
        }
        // Signs of life of this very node are no part of what was lost.
        let tables: Vec<&String> = tables.iter().filter(|table| *table != "nodes").collect();
        match raw {
            Raw::Sqlite(_) => {
                // What triggers do besides is a part of what was lost.
                let triggers = raw.texts("SELECT name FROM sqlite_master WHERE type = 'trigger'").await;
                let made = raw.texts("SELECT sql FROM sqlite_master WHERE type = 'trigger'").await;
                statements.extend(["PRAGMA foreign_keys = OFF".to_owned(), "BEGIN IMMEDIATE".to_owned()]);
                statements.extend(triggers.iter().map(|name| format!("DROP TRIGGER {name}")));
                statements.extend(tables.iter().map(|table| format!("DELETE FROM {table}")));
                statements.extend(
                    tables
                        .iter()
                        .map(|table| format!("INSERT INTO {table} SELECT * FROM kept_{table}")),
                );
                statements.extend(made);
            }
            Raw::Postgres(_) => {
                statements.extend([
                    "BEGIN".to_owned(),
                    "SET LOCAL session_replication_role = replica".to_owned(),
                ]);
                statements.extend(tables.iter().map(|table| format!("DELETE FROM {table}")));
                statements.extend(
                    tables
                        .iter()
                        .map(|table| format!("INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM kept_{table}")),
                );
            }
        }
        statements.push("COMMIT".to_owned());
        Self {
            put_back: statements.join(";\n"),
        }
    }

    pub async fn put_back(&self, raw: &Raw) {
        raw.execute(&self.put_back).await;
    }
}

fn run(database: &TestDatabase, arguments: &[&str]) -> Value {
    let (code, out, err) = keyround(database, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn kids(key_set: &Value) -> Vec<String> {
    let keys = key_set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn newest(raw: &Raw) -> String {
    let newest = "SELECT kid FROM signing_keys WHERE alg = 'ES256' ORDER BY generation DESC LIMIT 1";
    raw.texts(newest).await.remove(0)
}

/// Whether the token is active, as `billing` is told.
async fn is_active(app: &TestApp, secret: &str, token: &str) -> bool {
    let mut answer = ask(app, "introspect", "billing", secret, token).await;
    // A busy machine may have let the last look grow too old.
    while answer.status() == 503 {
        app.running.server.keyring.refresh().await.unwrap();
        answer = ask(app, "introspect", "billing", secret, token).await;
    }
    assert_eq!(answer.status(), 200);
    answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
}

crate::on_both_databases!(it_is_known_of_each_table_what_a_node_keeps_of_it, |database| {
    database.open().await.close().await;
    let raw = Raw::open(&database).await;
    Earlier::take(&raw).await;
    let tables = match &raw {
        Raw::Sqlite(_) => "SELECT substr(name, 6) FROM sqlite_master WHERE name LIKE 'kept\\_%' ESCAPE '\\'",
        Raw::Postgres(_) => "SELECT substr(tablename, 6) FROM pg_catalog.pg_tables WHERE tablename LIKE 'kept\\_%'",
    };
    let mut tables = raw.texts(tables).await;
    let mut known: Vec<&str> = TABLES.iter().map(|(table, _)| *table).collect();
    tables.sort_unstable();
    known.sort_unstable();
    assert_eq!(
        tables, known,
        "say of a new table what a node caches of it, and set it back in a test"
    );
    raw.close().await;
});

// A rotation is lost and the next one has its number: both keys stay published, and the node says which rows it serves.
crate::on_both_databases!(a_lost_rotation_is_not_mistaken_for_the_next_one, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = register(&app, &client("billing")).await;
    let raw = Raw::open(&database).await;
    let keyring = &app.running.server.keyring;
    let tick = async || {
        app.running.server.rotation.tick().await.unwrap();
        let snapshot = keyring.snapshot();
        (snapshot.version, snapshot.change)
    };
    let token = app.token("billing", &secret).await;
    let before = tick().await;
    let earlier = Earlier::take(&raw).await;
    run(&database, &["keys", "rotate", "--algorithm", "ES256"]);
    let lost = newest(&raw).await;
    let after_lost = tick().await;
    assert!(kids(&app.key_set().await).contains(&lost) && after_lost != before);

    earlier.put_back(&raw).await;
    assert_eq!(tick().await, before, "the rows of before have their name of before");
    assert!(kids(&app.key_set().await).contains(&lost), "it was published");
    run(&database, &["keys", "rotate", "--algorithm", "ES256"]);
    let next = newest(&raw).await;
    let after_next = tick().await;
    assert_ne!(next, lost);
    assert_eq!(after_next.0, after_lost.0, "the count repeats");
    assert_ne!(after_next.1, after_lost.1, "the name does not");
    let said = raw.texts("SELECT change_id FROM nodes").await;
    assert_eq!(said, [after_next.1.to_string()]);
    let published = kids(&app.key_set().await);
    assert!(published.contains(&lost) && published.contains(&next), "{published:?}");
    assert!(is_active(&app, &secret, &token).await);
    raw.close().await;
    app.running.stop().await;
});

// Beside PostgreSQL there is no ledger here: what the node has in memory is all there is.
crate::on_both_databases!(a_revoked_key_stays_revoked, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let raw = Raw::open(&database).await;
    if matches!(raw, Raw::Postgres(_)) {
        assert!(app.running.server.keyring.ledger().is_none());
    }
    let mut billing = client("billing");
    billing.serves = vec!["https://api.example.com".parse().unwrap()];
    let secret = register(&app, &billing).await;
    let (revoked, token) = (newest(&raw).await, app.token("billing", &secret).await);
    let mut of_revoked = client("of-revoked");
    of_revoked.alg = Some(Algorithm::Es256);
    let its_secret = register(&app, &of_revoked).await;
    let bad = app.token("of-revoked", &its_secret).await;
    assert!(is_active(&app, &secret, &bad).await);
    app.running.server.rotation.tick().await.unwrap();
    let earlier = Earlier::take(&raw).await;
    run(&database, &["keys", "revoke", &revoked, "--reason", "leaked", "--yes"]);
    app.running.server.rotation.tick().await.unwrap();
    let replacement = app.token("of-revoked", &its_secret).await;
    assert!(!kids(&app.key_set().await).contains(&revoked));

    earlier.put_back(&raw).await;
    for _ in 0..3 {
        app.running.server.rotation.tick().await.unwrap();
        assert!(!kids(&app.key_set().await).contains(&revoked), "it is published again");
        assert!(!is_active(&app, &secret, &bad).await, "its tokens are valid again");
        assert!(is_active(&app, &secret, &token).await);
        assert!(
            is_active(&app, &secret, &replacement).await,
            "the replacement was published"
        );
    }
    let signed = app.token("of-revoked", &its_secret).await;
    assert_ne!(crate::token::header(&signed)["kid"], revoked.as_str());
    let trusted = format!("SELECT count(*) FROM signing_keys WHERE kid = '{revoked}' AND revoked_at IS NULL");
    assert_eq!(raw.number(&trusted).await, 0, "it is written again");
    raw.close().await;
    app.running.stop().await;
});

// Everything at once: a denied token, an ended session, a disabled tenant and a disabled client.
crate::on_both_databases!(what_was_denied_stays_denied, |database| {
    let site = Site::start(database, &[("accounts.audience", "https://api.example.com")]).await;
    let (app, raw) = (&site.app, &site.raw);
    let mut gateway = client("billing");
    gateway.serves = vec!["https://api.example.com".parse().unwrap()];
    let secret = register(app, &gateway).await;
    let stopped = register(app, &client("stopped")).await;
    let (token, denied) = (app.token("billing", &secret).await, app.token("billing", &secret).await);
    let (ada, eve) = (site.person("ada").await, site.person("eve").await);
    let db = &app.running.server.db;
    app.running.server.rotation.tick().await.unwrap();
    let earlier = Earlier::take(raw).await;

    assert_eq!(ask(app, "revoke", "billing", &secret, &denied).await.status(), 200);
    assert_eq!(
        ada.bearer(reqwest::Method::POST, "/auth/logout")
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    crate::token::change(app, "stopped", ClientChange::Disable).await;
    assert_eq!(app.ask("stopped", &stopped, &[GRANT]).await.status(), 401);
    app.running.server.rotation.tick().await.unwrap();
    assert!(is_active(app, &secret, &eve.access_token).await);
    let tenant = "default".parse().unwrap();
    let disabled = entry("tenant.disabled", "default");
    db.change_tenant(&tenant, TenantChange::Disable, &disabled)
        .await
        .unwrap();
    app.running.server.rotation.tick().await.unwrap();

    earlier.put_back(raw).await;
    for _ in 0..3 {
        app.until_clients_are_read_anew().await;
        app.running.server.rotation.tick().await.unwrap();
        for refused in [&denied, &ada.access_token, &eve.access_token] {
            assert!(!is_active(app, &secret, refused).await);
        }
        assert!(is_active(app, &secret, &token).await);
        assert_eq!(app.ask("stopped", &stopped, &[GRANT]).await.status(), 401);
    }
    for (what, count) in [
        ("denied_tokens", 1),
        ("tenants WHERE disabled_at IS NOT NULL", 1),
        ("clients WHERE disabled_at IS NOT NULL", 1),
        // The tenant's other session ended with it.
        ("sessions WHERE revoked_at IS NOT NULL", 2),
    ] {
        assert_eq!(
            raw.number(&format!("SELECT count(*) FROM {what}")).await,
            count,
            "{what}"
        );
    }
    site.stop().await;
});

/// The status of a login, and the roles in its token.
async fn log_in(site: &Site, password: &str) -> (u16, Value) {
    let body = json!({ "email": email("ada"), "password": password, "token_delivery": "body" });
    let answer = site
        .visitor()
        .json(reqwest::Method::POST, "/auth/login", &body)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let roles = body["access_token"]
        .as_str()
        .map(|token| claims(token)["roles"].clone());
    (status, roles.unwrap_or_default())
}

crate::on_both_databases!(roles_passwords_clients_and_their_keys_follow_the_database, |database| {
    let site = Site::start(database, &[]).await;
    let (app, raw) = (&site.app, &site.raw);
    site.register("ada").await;
    site.register("eve").await;
    let secret = register(app, &client("narrowed")).await;
    let (old, new) = (Pair::new(Algorithm::Es256, "old"), Pair::new(Algorithm::Es256, "new"));
    crate::client_assertions::create(&site.database, &[&old]);
    let scope = async || {
        app.until_clients_are_read_anew().await;
        claims(&app.token("narrowed", &secret).await)["scope"].clone()
    };
    let accepts = async |pair: &Pair| present(app, &pair.assertion(app, |_, _| {})).await.0 == 200;
    let look = async || {
        let (status, roles) = log_in(&site, PASSWORD).await;
        (status, roles, scope().await, accepts(&old).await, accepts(&new).await)
    };
    let first = look().await;
    assert_eq!(
        (first.0, &first.2, first.3, first.4),
        (200, &json!("read write"), true, false)
    );
    let earlier = Earlier::take(raw).await;
    for scope in ["read", "write"] {
        let jwks = format!(r#"{{"keys":[{}]}}"#, new.jwk.to_json());
        for change in [
            format!("UPDATE users SET roles = '{scope}er'"),
            format!("UPDATE clients SET scope = '{scope}' WHERE client_id = 'narrowed'"),
            format!("UPDATE client_keys SET jwks = '{jwks}'"),
        ] {
            raw.execute(&change).await;
        }
        let changed = look().await;
        let roles = json!([format!("{scope}er")]);
        assert_eq!(changed, (200, roles, json!(scope), false, true));
        raw.execute("UPDATE users SET password_hash = NULL").await;
        assert_eq!(log_in(&site, PASSWORD).await.0, 401);
        earlier.put_back(raw).await;
        assert_eq!(look().await, first, "set back after {scope}");
    }
    site.stop().await;
});

/// Two nodes on a database that has lost sessions, and tokens of these.
struct LostSessions {
    site: Site,
    /// It knows of the sessions nothing but their tokens.
    other: TestApp,
}

impl LostSessions {
    async fn start(database: TestDatabase) -> Self {
        let site = Site::start(database, &[]).await;
        let settings = [("keys.algorithms", "ES256"), ("tokens.default_algorithm", "ES256")];
        let other = TestApp::start_with_clock(&site.database, &settings, site.app.clock.clone()).await;
        site.register("ada").await;
        Self { site, other }
    }

    /// The access token and the refresh token of a login, and the id of the session, whose row is gone.
    async fn log_in(&self, name: &str) -> (Visitor<'_>, String) {
        let body = json!({ "email": email(name), "password": PASSWORD, "token_delivery": "body" });
        let mut visitor = self.site.visitor();
        let answer = visitor.json(reqwest::Method::POST, "/auth/login", &body).send().await;
        let tokens: Value = answer.unwrap().json().await.unwrap();
        visitor.access_token = tokens["access_token"].as_str().unwrap().to_owned();
        let sid = &claims(&visitor.access_token)["sid"];
        sid.as_str().unwrap().clone_into(&mut visitor.sid);
        let lost = format!("DELETE FROM sessions WHERE sid = '{}'", visitor.sid);
        self.site.raw.execute(&lost).await;
        (visitor, tokens["refresh_token"].as_str().unwrap().to_owned())
    }

    /// Whether each of the two nodes accepts the token after a look.
    async fn accept(&self, token: &str) -> [bool; 2] {
        let mut accepted = [false; 2];
        for (accepted, app) in accepted.iter_mut().zip([&self.site.app, &self.other]) {
            let keyring = &app.running.server.keyring;
            keyring.refresh().await.unwrap();
            let verified = keyring.verify(token, "http://127.0.0.1:8080", app.clock.read());
            *accepted = verified.unwrap().is_ok();
        }
        accepted
    }

    async fn stop(self) {
        self.other.running.stop().await;
        self.site.stop().await;
    }
}

// A token that is still accepted proves that there was a session. Its end is written down without its row.
crate::on_both_databases!(a_session_that_the_database_lost_can_be_ended, |database| {
    let nodes = LostSessions::start(database).await;
    let post = reqwest::Method::POST;
    for way in [
        "/auth/logout",
        "/auth/logout by access token",
        "/auth/logout-all",
        "/oauth2/revoke",
    ] {
        let (visitor, refresh_token) = nodes.log_in("ada").await;
        assert_eq!(nodes.accept(&visitor.access_token).await, [true; 2], "{way}");
        let client_id = nodes.site.app.running.server.sessions.client.id.as_str();
        let request = match way {
            "/auth/logout" => visitor.json(post.clone(), way, &json!({ "refresh_token": refresh_token })),
            "/oauth2/revoke" => visitor
                .bare(post.clone(), way)
                .form(&[("token", refresh_token.as_str()), ("client_id", client_id)]),
            way => visitor.bearer(post.clone(), way.split(' ').next().unwrap()),
        };
        assert!(request.send().await.unwrap().status().is_success(), "{way}");
        assert_eq!(visitor.me().await, refused(401, "session_ended"), "{way}: at once");
        assert_eq!(nodes.accept(&visitor.access_token).await, [false; 2], "{way}");
        let noted = format!(
            "SELECT count(*) FROM audit WHERE event = 'session.ended' AND subject = '{}'",
            visitor.sid
        );
        assert_eq!(nodes.site.raw.number(&noted).await, 1, "{way}");
    }
    // A session that ran out long ago has no access token, and none is written down for it.
    let (_, refresh_token) = nodes.log_in("ada").await;
    let before = nodes.site.raw.number("SELECT count(*) FROM sessions").await;
    let sessions = &nodes.site.app.running.server.sessions;
    let old = refresh_token_of(nodes.site.app.clock.read().wall - sessions.settings.absolute, &nodes);
    let ended = sessions.end_by_token(&old, sessions.client.id.as_str(), EndedBy::Logout);
    assert_eq!(ended.await.unwrap(), None);
    // Nor may another client end what it has only found.
    let ended = sessions.end_by_token(&refresh_token, "billing", EndedBy::Revocation);
    assert_eq!(ended.await.unwrap(), None);
    assert_eq!(nodes.site.raw.number("SELECT count(*) FROM sessions").await, before);
    nodes.stop().await;
});

// Nor does what was ended come back with its tenant. Of what was not ended, the page says for how long its access token is accepted.
crate::on_both_databases!(
    a_tenant_that_is_enabled_again_brings_back_what_was_lost_alone,
    |database| {
        let nodes = LostSessions::start(database).await;
        let post = reqwest::Method::POST;
        let log_out = async |visitor: &Visitor<'_>, token: &str| {
            let body = json!({ "refresh_token": token });
            let answer = visitor.json(post.clone(), "/auth/logout", &body).send().await;
            assert_eq!(answer.unwrap().status(), 204);
        };
        let change = async |change: TenantChange, what: &str| {
            let tenant = "default".parse().unwrap();
            let db = &nodes.site.app.running.server.db;
            let changed = db.change_tenant(&tenant, change, &entry(what, "default")).await;
            assert!(changed.unwrap().is_some());
        };
        let (before, token) = nodes.log_in("ada").await;
        log_out(&before, &token).await;
        let (meanwhile, token) = nodes.log_in("ada").await;
        let (never, kept) = nodes.log_in("ada").await;
        change(TenantChange::Disable, "tenant.disabled").await;
        for visitor in [&before, &meanwhile, &never] {
            assert_eq!(nodes.accept(&visitor.access_token).await, [false; 2]);
        }
        log_out(&meanwhile, &token).await;
        change(TenantChange::Enable, "tenant.enabled").await;
        for visitor in [&before, &meanwhile] {
            assert_eq!(nodes.accept(&visitor.access_token).await, [false; 2]);
        }
        assert_eq!(nodes.accept(&never.access_token).await, [true; 2]);
        let body = json!({ "refresh_token": kept, "token_delivery": "body" });
        let refreshed = never.json(post.clone(), "/auth/refresh", &body).send().await;
        assert_eq!(refreshed.unwrap().status(), 401);
        let claims = claims(&never.access_token);
        let lives = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert!(lives <= LONGEST_ACCESS_TOKEN.0, "{lives}");
        nodes.stop().await;
    }
);

/// The first refresh token of a session that began then.
fn refresh_token_of(began: UnixTime, nodes: &LostSessions) -> String {
    let key = &nodes.site.app.running.server.sessions.hash_key;
    let token = RefreshToken::first(SessionId::generate(began)).unwrap();
    token.write(key).to_string()
}

// Tokens that were signed since live longer than the row says: the key must not leave before them.
crate::on_both_databases!(the_longest_token_of_a_key_stays_known, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let raw = Raw::open(&database).await;
    let kid = newest(&raw).await;
    let longest = format!("SELECT max_token_ttl FROM signing_keys WHERE kid = '{kid}'");
    let before = raw.number(&longest).await;
    let tick = async || app.running.server.rotation.tick().await.unwrap();
    tick().await;
    let earlier = Earlier::take(&raw).await;
    // A node with a longer setting raises it, and signs.
    let mut change = app.running.server.db.change_keys().await.unwrap();
    let named = kid.parse().unwrap();
    change.raise_max_token_ttl(&named, Seconds(before * 3)).await.unwrap();
    change.commit(None, app.clock.read().wall).await.unwrap();
    tick().await;
    earlier.put_back(&raw).await;
    assert_eq!(raw.number(&longest).await, before);
    for _ in 0..2 {
        tick().await;
        let snapshot = app.running.server.keyring.snapshot();
        assert_eq!(snapshot.keys.find(&named).unwrap().max_token_ttl, Seconds(before * 3));
        assert_eq!(raw.number(&longest).await, before * 3, "it is written again");
    }
    raw.close().await;
    app.running.stop().await;
});
