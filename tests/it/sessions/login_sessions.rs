//! A login session and its grants: one grant ends alone, and all of them end with their login session, on every node, whichever version of
//! Keyround ends it.

use keyround::accounts::session::EndedBy;
use keyround::clock::Seconds;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::TokenType;
use keyround::oauth::scope::Scope;
use keyround::oauth::token::{Granted, GrantedSession};
use keyround::sessions::SessionTokens;
use keyround::store::users::{StoredUser, UserChange};
use keyround::values::SessionId;

use super::world::{CLIENT, World, claims, is_active, log_in, refresh, refused};
use crate::helpers::{TestApp, entry};

/// A grant of the same login for another client, with an access token of it.
async fn second_grant(world: &World, login: &SessionTokens, user: &StoredUser) -> (SessionId, String) {
    let grant = SessionId::generate(world.clock.read().wall);
    let copy = format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
         expires_at, address, user_agent, login_session_id) SELECT '{grant}', user_id, tenant_id, 'dashboard', audience, 1, '', '', \
         created_at, rotated_at, expires_at, address, user_agent, sid FROM sessions WHERE sid = '{}'",
        login.sid
    );
    assert_eq!(world.raw.execute(&copy).await, 1);
    (grant, access_token(&world.app, user, login.sid, Some(grant)))
}

/// An access token of this login session; without a grant, as a version before this one issues it.
fn access_token(app: &TestApp, user: &StoredUser, login: SessionId, grant: Option<SessionId>) -> String {
    let server = &app.running.server;
    let reading = server.clock.read();
    let granted = Granted {
        sub: user.user.id.to_string(),
        client_id: CLIENT.to_owned(),
        audiences: vec![server.issuer.parse().unwrap()],
        scope: Scope::default(),
        alg: Algorithm::Es256,
        token_type: TokenType::AtJwt,
        ttl: Seconds(600),
        session: Some(GrantedSession {
            sid: login.to_string(),
            grant_id: grant.unwrap_or(login).to_string(),
            tid: "default".to_owned(),
            roles: Vec::new(),
        }),
    };
    let issued = server.keyring.issue(&granted, &server.issuer, reading).unwrap();
    if grant.is_some() {
        return issued.token;
    }
    let mut claims = issued.claims;
    claims.session.as_mut().unwrap().grant_id = None;
    let signing = server.keyring.signing(Algorithm::Es256, reading).unwrap();
    signing.sign(TokenType::AtJwt, &claims).unwrap()
}

async fn look(app: &TestApp) {
    // Beside the node's own looks a look on SQLite may find the file busy.
    for _ in 0..20 {
        if app.running.server.keyring.refresh().await.is_ok() {
            return;
        }
    }
    panic!("no look succeeds");
}

async fn ended(world: &World, table: &str, name: &str) -> i64 {
    let column = if table == "sessions" { "sid" } else { "login_session_id" };
    let count = format!("SELECT count(*) FROM {table} WHERE {column} = '{name}' AND revoked_at IS NOT NULL");
    world.raw.number(&count).await
}

crate::on_both_databases!(a_login_begins_one_login_session_with_one_grant, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let tokens = log_in(&world.app, &ada).await.unwrap();
    let said = claims(&tokens.access_token);
    assert_eq!(
        (&said["sid"], &said["grant_id"]),
        (&tokens.sid.to_string().into(), &said["sid"])
    );
    let same = "SELECT count(*) FROM login_sessions l JOIN sessions s ON s.sid = l.login_session_id AND s.login_session_id = s.sid \
                WHERE l.user_id = s.user_id AND l.tenant_id = 'default' AND l.auth_time = s.created_at AND l.amr = 'pwd' \
                AND l.created_at = s.created_at AND l.idle_expires_at = s.created_at + 604800 AND l.expires_at = s.expires_at \
                AND l.address = '192.0.2.7' AND l.user_agent = 'a browser' AND l.revoked_at IS NULL";
    assert_eq!(world.raw.number(same).await, 1);
    // A refresh changes neither.
    let next = refresh(&world.app, &tokens.refresh_token).await.unwrap();
    let next = claims(&next.access_token);
    assert_eq!((&next["sid"], &next["grant_id"]), (&said["sid"], &said["grant_id"]));
    assert_eq!(world.raw.number(same).await, 1);
    world.stop().await;
});

crate::on_both_databases!(a_grant_ends_alone_and_with_its_login_session, |database| {
    let world = World::start(database, &[]).await;
    let other = world.another().await;
    let ada = world.user("ada").await;
    let login = log_in(&world.app, &ada).await.unwrap();
    let (first, first_token) = second_grant(&world, &login, &ada).await;
    let (second, second_token) = second_grant(&world, &login, &ada).await;
    let sessions = &world.app.running.server.sessions;

    // One of them by its own name.
    assert!(
        sessions
            .end(first, Some(ada.user.id), EndedBy::Logout, "ada")
            .await
            .unwrap()
    );
    look(&other).await;
    for app in [&world.app, &other] {
        assert!(!is_active(app, &first_token));
        assert!(is_active(app, &second_token) && is_active(app, &login.access_token));
    }
    assert_eq!(ended(&world, "login_sessions", &login.sid.to_string()).await, 0);
    assert_eq!(sessions.list(ada.user.id).await.unwrap().len(), 1);

    // The others with the login session.
    assert!(
        sessions
            .end(login.sid, Some(ada.user.id), EndedBy::Logout, "ada")
            .await
            .unwrap()
    );
    // At once here.
    assert!(!is_active(&world.app, &second_token) && !is_active(&world.app, &login.access_token));
    look(&other).await;
    assert!(!is_active(&other, &second_token) && !is_active(&other, &login.access_token));
    assert_eq!(ended(&world, "sessions", &second.to_string()).await, 1);
    assert_eq!(ended(&world, "login_sessions", &login.sid.to_string()).await, 1);
    // Each end is a change of its own, so that a node that reads only these knows all of them.
    assert!(
        other
            .running
            .server
            .keyring
            .revocations()
            .sessions
            .contains(&second.to_string())
    );
    other.running.stop().await;
    world.stop().await;
});

// Each way in which a login session ends, that of a version before this one among them.
crate::on_both_databases!(whatever_ends_a_login_session_ends_its_grants, |database| {
    let world = World::start(database, &[]).await;
    let other = world.another().await;
    let server = &world.app.running.server;
    for way in [
        "refresh token",
        "access token",
        "earlier version",
        "row",
        "everything",
        "suspension",
    ] {
        let user = world.user(&way.replace(' ', "-")).await;
        let login = log_in(&world.app, &user).await.unwrap();
        let (grant, token) = second_grant(&world, &login, &user).await;
        assert!(is_active(&other, &token), "{way}");
        match way {
            "refresh token" => {
                let ended = server
                    .sessions
                    .end_by_token(&login.refresh_token, CLIENT, EndedBy::Logout);
                assert!(ended.await.unwrap().is_some());
            }
            "access token" => {
                let ended = server.sessions.end_own(login.sid, user.user.id, EndedBy::Logout);
                assert!(ended.await.unwrap());
            }
            "everything" => {
                let ended = server.sessions.end_all(user.user.id, None, EndedBy::Operator, "test");
                assert!(!ended.await.unwrap().is_empty());
            }
            "suspension" => {
                let entry = entry("user.suspended", "test");
                let changed = server.db.change_user(user.user.id, &UserChange::Suspend, &entry);
                assert!(changed.await.unwrap().is_some());
            }
            "earlier version" | "row" => {
                let (table, column) = if way == "row" {
                    ("login_sessions", "login_session_id")
                } else {
                    ("sessions", "sid")
                };
                let now = world.clock.read().wall.0;
                let end = format!(
                    "UPDATE {table} SET revoked_at = {now}, revoked_for = 'logout' WHERE {column} = '{}'",
                    login.sid
                );
                assert_eq!(world.raw.execute(&end).await, 1);
            }
            _ => unreachable!(),
        }
        look(&other).await;
        assert!(
            !is_active(&other, &token) && !is_active(&other, &login.access_token),
            "{way}"
        );
        assert!(matches!(
            refused(&other, &login.refresh_token).await,
            keyround::accounts::refresh::Refused::Ended(_) | keyround::accounts::refresh::Refused::Suspended
        ));
        for (table, name) in [
            ("sessions", grant),
            ("sessions", login.sid),
            ("login_sessions", login.sid),
        ] {
            assert_eq!(ended(&world, table, &name.to_string()).await, 1, "{way}: {table}");
        }
    }
    other.running.stop().await;
    world.stop().await;
});

crate::on_both_databases!(a_password_change_leaves_the_login_session_it_came_from, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let (kept, gone) = (
        log_in(&world.app, &ada).await.unwrap(),
        log_in(&world.app, &ada).await.unwrap(),
    );
    let (_, kept_token) = second_grant(&world, &kept, &ada).await;
    let (_, gone_token) = second_grant(&world, &gone, &ada).await;
    let db = &world.app.running.server.db;
    let changed = db
        .change_password(
            &ada,
            "another hash",
            Some(kept.sid),
            &entry("user.password_changed", "ada"),
        )
        .await
        .unwrap();
    assert!(changed.is_some());
    look(&world.app).await;
    assert!(is_active(&world.app, &kept_token) && is_active(&world.app, &kept.access_token));
    assert!(!is_active(&world.app, &gone_token) && !is_active(&world.app, &gone.access_token));
    world.stop().await;
});

// What a version before this one wrote, and what it issues beside this one.
crate::on_both_databases!(a_grant_without_a_login_session_counts_as_its_own, |database| {
    let world = World::start(database, &[]).await;
    let other = world.another().await;
    let ada = world.user("ada").await;
    for ends_at in ["this", "before"] {
        let login = log_in(&world.app, &ada).await.unwrap();
        world.raw.execute("DELETE FROM login_sessions").await;
        world.raw.execute("UPDATE sessions SET login_session_id = NULL").await;
        let before = access_token(&world.app, &ada, login.sid, None);
        assert!(claims(&before).get("grant_id").is_none());
        assert!(is_active(&world.app, &before) && is_active(&other, &before));
        let next = refresh(&other, &login.refresh_token).await.unwrap();
        let said = claims(&next.access_token);
        assert_eq!(
            (&said["sid"], &said["grant_id"]),
            (&login.sid.to_string().into(), &said["sid"])
        );
        let listed = world.app.running.server.sessions.list(ada.user.id).await.unwrap();
        assert_eq!(
            listed.iter().map(|session| session.sid).collect::<Vec<_>>(),
            [login.sid]
        );
        if ends_at == "this" {
            let sessions = &world.app.running.server.sessions;
            assert!(
                sessions
                    .end(login.sid, Some(ada.user.id), EndedBy::Logout, "ada")
                    .await
                    .unwrap()
            );
        } else {
            let now = world.clock.read().wall.0;
            let end = format!(
                "UPDATE sessions SET revoked_at = {now}, revoked_for = 'logout' WHERE sid = '{}'",
                login.sid
            );
            assert_eq!(world.raw.execute(&end).await, 1);
        }
        look(&other).await;
        for token in [&before, &login.access_token, &next.access_token] {
            assert!(!is_active(&other, token), "{ends_at}");
        }
    }
    other.running.stop().await;
    world.stop().await;
});

crate::on_both_databases!(
    a_login_session_is_forgotten_with_its_limit_and_its_account,
    |database| {
        let world = World::start(database, &[]).await;
        let ada = world.user("ada").await;
        log_in(&world.app, &ada).await.unwrap();
        let devices = "SELECT count(*) FROM login_sessions WHERE address <> '' OR user_agent <> ''";
        assert_eq!(world.raw.number(devices).await, 1);
        // A version before this one deletes no more than this.
        world
            .raw
            .execute(&format!("DELETE FROM users WHERE user_id = '{}'", ada.user.id))
            .await;
        assert_eq!(world.raw.number(devices).await, 0);
        let all = "SELECT count(*) FROM login_sessions";
        let (db, clock) = (&world.app.running.server.db, &world.clock);
        let expires = keyround::clock::UnixTime(world.raw.number("SELECT expires_at FROM login_sessions").await);
        keyround::tasks::housekeeping::prune(db, expires - Seconds(1), clock)
            .await
            .unwrap();
        assert_eq!(world.raw.number(all).await, 1);
        keyround::tasks::housekeeping::prune(db, expires, clock).await.unwrap();
        assert_eq!(world.raw.number(all).await, 0);
        world.stop().await;
    }
);
