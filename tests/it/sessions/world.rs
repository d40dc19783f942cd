//! What the tests of sessions stand on: a server or two, a user, and time that passes when it is told to.

use std::time::Duration;

use keyround::accounts::session::{Device, EndedBy, LoginMethod};
use keyround::accounts::user::{User, UserId};
use keyround::clock::{Clock, Seconds};
use keyround::keyring::CannotVerify;
use keyround::sessions::{CannotBegin, CannotRefresh, RefreshRequest, SessionTokens};
use keyround::store::users::StoredUser;
use serde_json::Value;

use crate::helpers::{START, TestApp, TestDatabase, entry};
use crate::rows::Raw;

/// One key, made in no time.
pub const ES256_ALONE: [(&str, &str); 2] = [("keys.algorithms", "ES256"), ("tokens.default_algorithm", "ES256")];

/// The client of first-party logins.
pub const CLIENT: &str = "first-party";

/// A database with a server on it.
pub struct World {
    /// The database.
    pub database: TestDatabase,
    /// A connection beside the server's.
    pub raw: Raw,
    /// The clock of every server here.
    pub clock: Clock,
    /// The first server.
    pub app: TestApp,
    settings: Vec<(&'static str, &'static str)>,
}

impl World {
    /// A server on this database with these settings besides.
    pub async fn start(database: TestDatabase, settings: &[(&'static str, &'static str)]) -> Self {
        // PostgreSQL's clock is real.
        let clock = if database.url.starts_with("sqlite:") {
            Clock::manual(START)
        } else {
            Clock::system()
        };
        Self::start_with_clock(database, settings, clock).await
    }

    /// The same with this clock, for servers in processes of their own beside it.
    pub async fn start_with_clock(
        database: TestDatabase,
        settings: &[(&'static str, &'static str)],
        clock: Clock,
    ) -> Self {
        let app = node(&database, &clock, settings).await;
        Self {
            raw: Raw::open(&database).await,
            database,
            clock,
            app,
            settings: settings.to_vec(),
        }
    }

    /// One more server on the same database.
    pub async fn another(&self) -> TestApp {
        node(&self.database, &self.clock, &self.settings).await
    }

    /// One more server on the same database, with these settings besides.
    pub async fn another_with(&self, settings: &[(&str, &str)]) -> TestApp {
        node(&self.database, &self.clock, settings).await
    }

    /// A user who may log in.
    pub async fn user(&self, name: &str) -> StoredUser {
        create_user(&self.app, name).await
    }

    /// Lets time pass for the sessions: by the manual clock, or by making every row older.
    pub async fn pass(&self, seconds: i64) {
        match &self.raw {
            Raw::Sqlite(_) => {
                self.clock.advance(Seconds(seconds));
                self.app.running.server.rotation.tick().await.unwrap();
            }
            Raw::Postgres(_) => {
                let older = format!(
                    "UPDATE sessions SET created_at = created_at - {seconds}, rotated_at = rotated_at - {seconds}, \
                     expires_at = expires_at - {seconds}, revoked_at = revoked_at - {seconds}"
                );
                self.raw.execute(&older).await;
                let older = format!(
                    "UPDATE login_sessions SET auth_time = auth_time - {seconds}, created_at = created_at - {seconds}, \
                     idle_expires_at = idle_expires_at - {seconds}, expires_at = expires_at - {seconds}"
                );
                self.raw.execute(&older).await;
            }
        }
    }

    /// Another server in the place of the first, with nothing in its memory.
    pub async fn restart(&mut self) {
        let next = self.another().await;
        std::mem::replace(&mut self.app, next).running.stop().await;
    }

    /// How often this event was written down.
    pub async fn noted(&self, event: &str) -> i64 {
        self.raw
            .number(&format!("SELECT count(*) FROM audit WHERE event = '{event}'"))
            .await
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.app.running.stop().await;
    }
}

/// A user who may log in.
pub async fn create_user(app: &TestApp, name: &str) -> StoredUser {
    let db = &app.running.server.db;
    let now = app.clock.read().wall;
    db.ensure_default_tenant(now).await.unwrap();
    let user = StoredUser {
        user: User {
            id: UserId::generate(now),
            tenant: "default".parse().unwrap(),
            email: format!("{name}@example.com").parse().unwrap(),
            email_verified_at: None,
            name: name.parse().unwrap(),
            roles: vec!["reader".parse().unwrap(), "billing-admin".parse().unwrap()],
            created_at: now,
            suspended_at: None,
        },
        password_hash: Some("a hash".to_owned()),
    };
    let created = db.create_user(&user, &entry("user.created", name)).await;
    assert!(created.unwrap());
    user
}

async fn node(database: &TestDatabase, clock: &Clock, settings: &[(&str, &str)]) -> TestApp {
    let settings: Vec<(&str, &str)> = ES256_ALONE.iter().chain(settings).copied().collect();
    TestApp::start_with_clock(database, &settings, clock.clone()).await
}

/// Where everything comes from here.
pub fn device() -> Device {
    Device::new([192, 0, 2, 7].into(), "a browser")
}

/// A login.
pub async fn log_in(app: &TestApp, user: &StoredUser) -> Result<SessionTokens, CannotBegin> {
    app.running
        .server
        .sessions
        .begin(user, LoginMethod::Password, &device())
        .await
}

/// A refresh by the client of first-party logins.
pub async fn refresh(app: &TestApp, token: &str) -> Result<SessionTokens, CannotRefresh> {
    refresh_as(app, token, CLIENT).await
}

/// A refresh by any client.
pub async fn refresh_as(app: &TestApp, token: &str, client_id: &str) -> Result<SessionTokens, CannotRefresh> {
    let request = RefreshRequest {
        token,
        client_id,
        client: &app.running.server.sessions.client,
        scope: None,
        audiences: &[],
        device: &device(),
    };
    app.running.server.sessions.refresh(&request).await
}

/// Why a refresh token gets nothing.
pub async fn refused(app: &TestApp, token: &str) -> keyround::accounts::refresh::Refused {
    match refresh(app, token).await {
        Err(CannotRefresh::Refused(refused)) => refused,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was refreshed"),
    }
}

/// Whether this server takes an access token for valid.
pub fn is_active(app: &TestApp, access_token: &str) -> bool {
    let server = &app.running.server;
    for _ in 0..6_000 {
        let verdict = server.keyring.verify(access_token, &server.issuer, server.clock.read());
        match verdict {
            Ok(verdict) => return verdict.is_ok(),
            // A busy machine has not read the database in time; the next look is under way.
            Err(CannotVerify::Stale { .. }) => wait(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the database is not read any more");
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is asked is answered at once, or when another thread has read the database"
)]
fn wait(time: Duration) {
    tokio::task::block_in_place(|| std::thread::sleep(time));
}

/// A logout.
pub async fn log_out(app: &TestApp, tokens: &SessionTokens) -> bool {
    app.running
        .server
        .sessions
        .end(
            tokens.sid,
            Some(tokens.user),
            EndedBy::Logout,
            &format!("user {}", tokens.user),
        )
        .await
        .unwrap()
}

/// What an access token says.
pub fn claims(access_token: &str) -> Value {
    crate::token::claims(access_token)
}
