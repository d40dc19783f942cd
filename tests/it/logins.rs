//! Who proves to be somebody by a password, on both databases.

use std::sync::mpsc;

use keyround::accounts::client_address::ClientAddress;
use keyround::accounts::password::{Password, RefusedPassword};
use keyround::accounts::password_hash::{HashCost, PasswordHash, Pbkdf2Digest, StoredCosts};
use keyround::accounts::user::UserId;
use keyround::clock::Clock;
use keyround::crypto::keyed_hash::HashKey;
use keyround::hashing::Overflow;
use keyround::logins::{LoginError, Registered};
use keyround::sessions::SessionTokens;
use keyround::store::passwords::COSTS;
use keyround::store::users::UserChange;
use keyround::values::SessionId;
use sqlx::{AssertSqlSafe, Row};

use crate::helpers::{TestApp, TestDatabase};
use crate::rows::Raw;
use crate::sessions::world::{World, claims, device, is_active, refresh};

const PASSWORD: &str = "seven wet umbrellas";
/// Cheap hashes, and people who are told what became of their registration.
const CHEAP: [(&str, &str); 2] = [("accounts.bcrypt_cost", "4"), ("accounts.reveal_taken_email", "true")];

async fn start(database: TestDatabase, settings: &[(&'static str, &'static str)]) -> World {
    let world = World::start(database, settings).await;
    let db = &world.app.running.server.db;
    db.ensure_default_tenant(world.clock.read().wall).await.unwrap();
    world
}

fn home() -> ClientAddress {
    [192, 0, 2, 7].into()
}

fn password(text: &str) -> Password {
    text.to_owned().try_into().unwrap()
}

async fn register(app: &TestApp, email: &str, text: &str) -> Result<Registered, LoginError> {
    let logins = &app.running.server.logins;
    // From an address of its own, so that it uses up nothing that a test counts.
    let address = [198, 51, 100, 1].into();
    let (email, name) = (email.parse().unwrap(), "Ada Lovelace".parse().unwrap());
    logins.register(email, password(text), name, address).await
}

async fn registered(app: &TestApp, email: &str, text: &str) -> UserId {
    match register(app, email, text).await.unwrap() {
        Registered::Account(stored) => stored.user.id,
        Registered::Untold => panic!("it is to be told"),
    }
}

async fn log_in_from(
    app: &TestApp,
    email: &str,
    text: &str,
    address: ClientAddress,
) -> Result<SessionTokens, LoginError> {
    let logins = &app.running.server.logins;
    let email = email.parse().unwrap();
    logins.log_in(&email, password(text), address, &device()).await
}

async fn log_in(app: &TestApp, email: &str, text: &str) -> Result<SessionTokens, LoginError> {
    log_in_from(app, email, text, home()).await
}

/// Why nobody is logged in, as the metrics call it.
async fn refused(app: &TestApp, email: &str, text: &str) -> &'static str {
    match log_in(app, email, text).await {
        Err(error) => error.name(),
        Ok(_) => "right",
    }
}

async fn change(
    app: &TestApp,
    user: UserId,
    current: &str,
    new: &str,
    except: Option<SessionId>,
) -> Result<Vec<SessionId>, LoginError> {
    let logins = &app.running.server.logins;
    logins
        .change_password(user, password(current), password(new), except, home())
        .await
}

async fn stored_hash(world: &World, user: UserId) -> String {
    let sql = format!("SELECT password_hash FROM users WHERE user_id = '{user}'");
    world.raw.texts(&sql).await.remove(0)
}

async fn store_hash(world: &World, user: UserId, hash: &str) {
    let sql = format!("UPDATE users SET password_hash = '{hash}' WHERE user_id = '{user}'");
    assert_eq!(world.raw.execute(&sql).await, 1);
}

async fn metric(app: &TestApp, name: &str) -> u64 {
    let metrics = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Keeps every thread that hashes busy until it is dropped.
struct Jam {
    _go_on: Vec<mpsc::Sender<()>>,
}

impl Jam {
    async fn start(app: &TestApp) -> Self {
        let hashing = &app.running.server.logins.hashing;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut senders = Vec::new();
        for _ in 0..threads {
            let (go_on, wait) = mpsc::channel::<()>();
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            let place = hashing.reserve().unwrap();
            tokio::spawn(place.run(move || {
                let _ = begun.send(());
                let _ = wait.recv();
            }));
            has_begun.await.unwrap();
            senders.push(go_on);
        }
        Self { _go_on: senders }
    }
}

crate::on_both_databases!(who_registers_logs_in_by_any_spelling_of_the_address, |database| {
    let world = start(database, &CHEAP).await;
    let app = &world.app;
    // Longer than bcrypt reads, and different only there.
    let long = format!("{PASSWORD} {}", "long ".repeat(30));
    let user = registered(app, "Ada@Example.COM", &format!("{long}a")).await;
    let tokens = log_in(app, " ada@example.com.", &format!("{long}a")).await.unwrap();
    assert!(is_active(app, &tokens.access_token));
    assert_eq!(claims(&tokens.access_token)["sub"], user.to_string());
    assert_eq!(tokens.user, user);
    refresh(app, &tokens.refresh_token).await.unwrap();
    assert!(stored_hash(&world, user).await.starts_with("hmac-sha256$2b$04$"));
    assert_eq!(refused(app, "ada@example.com", &format!("{long}b")).await, "wrong");
    assert_eq!(refused(app, "ada@example.com", "").await, "wrong");
    assert_eq!(refused(app, "nobody@example.com", PASSWORD).await, "wrong");
    assert_eq!(world.noted("user.registered").await, 1);
    world.stop().await;
});

// None of them looks different from a wrong password.
crate::on_both_databases!(who_may_not_log_in_is_told_nothing, |database| {
    let world = start(database, &CHEAP).await;
    let app = &world.app;
    for (name, change) in [
        (
            "suspended",
            "UPDATE users SET suspended_at = 1 WHERE email = 'suspended@example.com'",
        ),
        (
            "passwordless",
            "UPDATE users SET password_hash = NULL WHERE email = 'passwordless@example.com'",
        ),
        (
            "corrupted",
            "UPDATE users SET password_hash = 'hmac-sha256$2b$04$\u{e9}' WHERE email = 'corrupted@example.com'",
        ),
    ] {
        let email = format!("{name}@example.com");
        registered(app, &email, PASSWORD).await;
        log_in(app, &email, PASSWORD).await.unwrap();
        assert_eq!(world.raw.execute(change).await, 1);
        assert_eq!(refused(app, &email, PASSWORD).await, "wrong", "{name}");
    }
    assert_eq!(metric(app, "keyround_unreadable_password_hashes_total").await, 1);
    registered(app, "tenant@example.com", PASSWORD).await;
    world.raw.execute("UPDATE tenants SET disabled_at = 1").await;
    assert_eq!(refused(app, "tenant@example.com", PASSWORD).await, "wrong");
    world.stop().await;
});

// What was decided while the password was being checked stands.
crate::on_both_databases!(
    a_login_under_way_does_not_outrun_a_suspension_or_another_password,
    |database| {
        let world = start(database, &CHEAP).await;
        let app = &world.app;
        for (name, change) in [
            (
                "suspended",
                "UPDATE users SET suspended_at = 1 WHERE email = 'suspended@example.com'",
            ),
            (
                "changed",
                "UPDATE users SET password_hash = 'another' WHERE email = 'changed@example.com'",
            ),
            ("disabled", "UPDATE tenants SET disabled_at = 1"),
        ] {
            let email = format!("{name}@example.com");
            registered(app, &email, PASSWORD).await;
            let jam = Jam::start(app).await;
            let before = app.running.server.logins.hashing.taken();
            let login = log_in(app, &email, PASSWORD);
            let decision = async {
                // Then it reads the user, and stands in the queue before or after this: it is refused either way.
                while world
                    .raw
                    .number("SELECT count(*) FROM limits WHERE bucket LIKE 'pair:%'")
                    .await
                    == 0
                {
                    tokio::task::yield_now().await;
                }
                assert_eq!(app.running.server.logins.hashing.taken(), before + 1);
                world.raw.execute(change).await;
                drop(jam);
            };
            world.raw.execute("DELETE FROM limits").await;
            let (login, ()) = tokio::join!(login, decision);
            assert_eq!(login.err().unwrap().name(), "wrong", "{name}");
        }
        assert_eq!(world.raw.number("SELECT count(*) FROM sessions").await, 0);
        world.stop().await;
    }
);

// Hashes follow the settings, one login at a time.
crate::on_both_databases!(a_login_brings_the_hash_up_to_date, |database| {
    let world = start(database, &CHEAP).await;
    let app = &world.app;
    let user = registered(app, "ada@example.com", PASSWORD).await;
    let imported = [
        "$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
        "$argon2id$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4",
        "$pbkdf2-sha256$i=1500,l=32$AQIDBAUGBwgJCgsMDQ4PEA$PjHuIm8GELaB9W2ntVBBdcn1r2qiay+ao2LiIi8pIqY",
        "$scrypt$ln=4,r=8,p=1$AQIDBAUGBwgJCgsMDQ4PEA$NF7z++FNpLOvV2uLtf/RxRwTx8CEBEFsz0nysP/hBY4",
    ];
    for hash in imported {
        store_hash(&world, user, hash).await;
        assert_eq!(refused(app, "ada@example.com", "Grüße aus dem 8. Stock").await, "wrong");
        assert_eq!(stored_hash(&world, user).await, hash);
        let tokens = log_in(app, "ada@example.com", "Grüße aus dem 7. Stock").await.unwrap();
        assert!(is_active(app, &tokens.access_token), "with the new hash");
        let now = stored_hash(&world, user).await;
        assert!(now.starts_with("hmac-sha256$2b$04$"), "{now}");
        log_in(app, "ada@example.com", "Grüße aus dem 7. Stock").await.unwrap();
        assert_eq!(stored_hash(&world, user).await, now, "and no more");
    }
    for (settings, prefix) in [
        ([("accounts.bcrypt_cost", "6"), CHEAP[1]], "hmac-sha256$2b$06$"),
        (
            [("accounts.password_hash", "argon2id"), CHEAP[1]],
            "hmac-sha256$argon2id$v=19$m=19456,t=2,p=1$",
        ),
    ] {
        let node = world.another_with(&settings).await;
        log_in(&node, "ada@example.com", "Grüße aus dem 7. Stock")
            .await
            .unwrap();
        let hash = stored_hash(&world, user).await;
        assert!(hash.starts_with(prefix), "{hash}");
        node.running.stop().await;
    }
    log_in(app, "ada@example.com", "Grüße aus dem 7. Stock").await.unwrap();
    assert!(stored_hash(&world, user).await.starts_with("hmac-sha256$2b$04$"));
    world.stop().await;
});

// Counted before they are looked at, on two nodes, on every path.
crate::on_both_databases!(registration_is_closed_while_its_tenant_is_disabled, |database| {
    use keyround::store::tenants::TenantChange;

    let world = start(database, &CHEAP).await;
    let app = &world.app;
    registered(app, "ada@example.com", PASSWORD).await;
    let db = &app.running.server.db;
    let tenant = "default".parse().unwrap();
    for (change, event) in [
        (TenantChange::Disable, "tenant.disabled"),
        (TenantChange::Enable, "tenant.enabled"),
    ] {
        db.change_tenant(&tenant, change, &crate::helpers::entry(event, "default"))
            .await
            .unwrap();
        // A taken address and a free one are answered alike.
        for email in ["ada@example.com", "bob@example.com"] {
            let answer = register(app, email, PASSWORD).await;
            let is_closed = matches!(answer, Err(LoginError::RegistrationClosed));
            assert_eq!(is_closed, change == TenantChange::Disable, "{email}");
        }
    }
    world.stop().await;
});

// The query of the costs alone fails: on SQLite by a row that only a look at all accounts meets, on PostgreSQL by a function that no
// other query calls.
crate::on_both_databases!(a_login_goes_on_without_the_costs_of_the_others, |database| {
    let world = start(database, &CHEAP).await;
    let app = &world.app;
    register(app, "ada@example.com", PASSWORD).await.unwrap();
    let breaks = match &world.raw {
        Raw::Sqlite(_) => {
            "ALTER TABLE users RENAME TO people; CREATE VIEW users AS SELECT * FROM people UNION ALL \
             SELECT 'x', 'default', 'x', NULL, 'x', '', json('{'), NULL, 0, NULL"
        }
        Raw::Postgres(_) => "ALTER FUNCTION pg_catalog.rtrim(TEXT, TEXT) RENAME TO gone",
    };
    world.raw.execute(breaks).await;
    let logins = &app.running.server.logins;
    let costs = logins.hash_costs.read(&logins.db, logins.settings.password_hash).await;
    assert_eq!(costs, StoredCosts::Unknown);
    // SQLite computes that row for the beginning of a session too.
    if matches!(&world.raw, Raw::Postgres(_)) {
        assert_eq!(refused(app, "ada@example.com", PASSWORD).await, "right");
    }
    for email in ["ada@example.com", "bob@example.com"] {
        assert_eq!(refused(app, email, "eight dry umbrellas").await, "wrong", "{email}");
    }
    world.stop().await;
});

crate::on_both_databases!(the_costs_of_all_stored_hashes_are_known, |database| {
    let world = start(database, &CHEAP).await;
    let app = &world.app;
    let logins = &app.running.server.logins;
    let parameters = logins.settings.password_hash;
    let costs = async || {
        let StoredCosts::Known(costs) = logins.hash_costs.read(&logins.db, parameters).await else {
            panic!("the costs were not read");
        };
        costs.into_iter().collect::<Vec<_>>()
    };
    let bcrypt = |cost| HashCost::Bcrypt { cost };
    let argon2 = |is_id, memory, passes, lanes| HashCost::Argon2 {
        is_id,
        memory,
        passes,
        lanes,
    };
    assert_eq!(costs().await, [bcrypt(4)], "the cost of new passwords");
    for (name, hash) in [
        ("a", "$2y$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy"),
        (
            "b",
            "hmac-sha256$2b$06$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
        ),
        (
            "c",
            "$argon2id$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4",
        ),
        (
            "d",
            "$argon2i$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4",
        ),
        (
            "e",
            "hmac-sha256$argon2id$v=19$m=64,t=1,p=1$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4",
        ),
        (
            "f",
            "$pbkdf2-sha256$i=1500,l=64$AQIDBAUGBwgJCgsMDQ4PEA$PjHuIm8GELaB9W2ntVBBdcn1r2qiay+ao2LiIi8pIqZ/wohBRT3axiFaBzpOW0Vf7Gurh/3SY7v5QzQHQiq4NA",
        ),
        (
            "g",
            "$scrypt$ln=4,r=8,p=1$AQIDBAUGBwgJCgsMDQ4PEA$NF7z++FNpLOvV2uLtf/RxRwTx8CEBEFsz0nysP/hBY4",
        ),
        ("h", "no hash"),
    ] {
        let user = registered(app, &format!("{name}@example.com"), PASSWORD).await;
        store_hash(&world, user, hash).await;
    }
    let all = [
        bcrypt(4),
        bcrypt(5),
        bcrypt(6),
        argon2(false, 256, 2, 2),
        argon2(true, 64, 1, 1),
        argon2(true, 256, 2, 2),
        HashCost::Pbkdf2 {
            digest: Pbkdf2Digest::Sha256,
            rounds: 3_000,
        },
        HashCost::Scrypt { log_n: 4, r: 8, p: 1 },
    ];
    assert_eq!(costs().await, all);
    // With the last account of a cost the cost goes.
    world
        .raw
        .execute("UPDATE users SET password_hash = NULL WHERE email <> 'a@example.com'")
        .await;
    assert_eq!(costs().await, [bcrypt(4), bcrypt(5)]);
    world.stop().await;
});

// The first wrong password after an import does the work of the new kind, whether it met an account or none.
crate::on_both_databases!(a_kind_that_was_just_imported_tells_no_account, |database| {
    let world = start(database, &CHEAP).await;
    let app = &world.app;
    let clock = Clock::system();
    let now = || clock.read().monotonic;
    let user = registered(app, "ada@example.com", PASSWORD).await;
    assert_eq!(refused(app, "nobody@example.com", "a guess").await, "wrong");
    let hash = "$2y$11$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy";
    let key = HashKey::from_bytes([7; 32]);
    let password = Password::try_from("a guess".to_owned()).unwrap();
    // The shortest of some: a busy machine adds to each.
    let check = |_| {
        let before = now();
        PasswordHash::parse(hash).unwrap().matches(&password, &key).unwrap();
        now().saturating_sub(before)
    };
    let work = (0..5).map(check).min().unwrap();
    store_hash(&world, user, hash).await;
    for email in ["nobody@example.com", "ada@example.com"] {
        let before = now();
        assert_eq!(refused(app, email, "a guess").await, "wrong");
        let took = now().saturating_sub(before);
        // The rest takes a small part of it, and a busy machine only adds to it.
        assert!(took > work / 3, "{email}: {took:?}, where one check takes {work:?}");
    }
    world.stop().await;
});

crate::on_both_databases!(
    the_costs_are_read_by_an_index_however_many_accounts_there_are,
    |database| {
        let world = start(database, &CHEAP).await;
        let plan = format!("EXPLAIN QUERY PLAN {COSTS}");
        let plan: Vec<String> = match &world.raw {
            Raw::Sqlite(pool) => sqlx::query(AssertSqlSafe(plan))
                .fetch_all(pool)
                .await
                .unwrap()
                .iter()
                .map(|row| row.get("detail"))
                .collect(),
            Raw::Postgres(_) => {
                // A planner reads a small table as a whole.
                world
                .raw
                .execute(
                    "INSERT INTO users (user_id, tenant_id, email, name, roles, password_hash, created_at) \
                     SELECT 'user-' || n, 'default', 'user-' || n || '@example.com', 'A', '', \
                     '$2b$' || 10 + n % 2 || '$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy', 0 FROM generate_series(1, 5000) n",
                )
                .await;
                world.raw.execute("ANALYZE users").await;
                world.raw.texts(&format!("EXPLAIN {COSTS}")).await
            }
        };
        let looks = plan
            .iter()
            .filter(|line| line.contains("users_by_password_cost"))
            .count();
        assert!(looks > 0, "{plan:#?}");
        let reads_all =
            |line: &String| line.contains("Seq Scan") || (line.contains("SCAN users") && !line.contains("INDEX"));
        assert!(!plan.iter().any(reads_all), "{plan:#?}");
        world.stop().await;
    }
);

crate::on_both_databases!(of_a_hundred_guesses_at_once_five_are_looked_at, |database| {
    let world = start(database, &CHEAP).await;
    let other = world.another_with(&CHEAP).await;
    let user = registered(&world.app, "ada@example.com", PASSWORD).await;
    let guesses = (0..100).map(|guess| {
        let app = if guess % 2 == 0 { &world.app } else { &other };
        async move {
            match guess % 4 {
                0 | 1 => refused(app, "ada@example.com", &format!("guess {guess}")).await,
                _ => {
                    let guessed = format!("guess {guess}");
                    let changed = change(app, user, &guessed, "another seven umbrellas", None).await;
                    changed.err().unwrap().name()
                }
            }
        }
    });
    let outcomes = futures_of(guesses).await;
    let of = |name: &str| u64::try_from(outcomes.iter().filter(|outcome| **outcome == name).count()).unwrap();
    // A busy machine may give up waiting for some, whose guess then counts or does not.
    let (wrong, limited, given_up) = (of("wrong"), of("limited"), of("store"));
    assert_eq!(wrong + limited + given_up, 100, "{outcomes:?}");
    assert!(wrong <= 5 && wrong + given_up >= 5, "{outcomes:?}");
    assert_eq!(
        refused(&world.app, "ada@example.com", PASSWORD).await,
        "limited",
        "even the right one"
    );
    log_in_from(&other, "ada@example.com", PASSWORD, [203, 0, 113, 9].into())
        .await
        .unwrap();
    let Err(LoginError::Limited { retry_after }) = log_in(&world.app, "ada@example.com", PASSWORD).await else {
        panic!("it is limited")
    };
    assert!((1..=180).contains(&retry_after.0), "{retry_after}");
    for (outcome, count) in [("wrong", wrong), ("limited", limited + 2)] {
        let name = format!("keyround_password_attempts_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metric(&world.app, &name).await + metric(&other, &name).await, count);
    }
    other.running.stop().await;
    world.stop().await;
});

crate::on_both_databases!(who_is_right_is_never_limited, |database| {
    let world = start(database, &CHEAP).await;
    let sessions = &world.app.running.server.sessions;
    registered(&world.app, "ada@example.com", PASSWORD).await;
    for _ in 0..4 {
        assert_eq!(refused(&world.app, "ada@example.com", "a typo").await, "wrong");
    }
    for _ in 0..20 {
        log_in(&world.app, "ada@example.com", PASSWORD).await.unwrap();
    }
    sessions.housekeeping().prune().await.unwrap();
    assert_eq!(refused(&world.app, "ada@example.com", "a typo").await, "wrong");
    assert_eq!(refused(&world.app, "ada@example.com", PASSWORD).await, "limited");

    world.raw.execute("UPDATE limits SET tat = tat - 100000").await;
    sessions.housekeeping().prune().await.unwrap();
    let counted = "SELECT count(*) FROM limits WHERE bucket NOT LIKE 'known:%'";
    assert_eq!(world.raw.number(counted).await, 0, "what has drained is forgotten");
    log_in(&world.app, "ada@example.com", PASSWORD).await.unwrap();
    world.stop().await;
});

// Whoever found an open session must not take the account over, and whoever took it over must be out.
crate::on_both_databases!(
    another_password_needs_the_current_one_and_ends_the_other_sessions,
    |database| {
        let world = start(database, &CHEAP).await;
        let app = &world.app;
        let user = registered(app, "ada@example.com", PASSWORD).await;
        let mut sessions = Vec::new();
        for _ in 0..3 {
            sessions.push(log_in(app, "ada@example.com", PASSWORD).await.unwrap());
        }
        let [this, others @ ..] = sessions.as_slice() else {
            panic!()
        };
        let new = "eight dry umbrellas";
        let wrong = change(app, user, "a guess", new, Some(this.sid)).await;
        assert_eq!(wrong.unwrap_err().name(), "wrong");
        for (weak, refusal) in [
            ("short", RefusedPassword::TooShort { least: 8, found: 5 }),
            ("AdaLovelace", RefusedPassword::Guessable),
            ("ada@example.com", RefusedPassword::Guessable),
        ] {
            match change(app, user, PASSWORD, weak, None).await {
                Err(LoginError::Password(refused)) => assert_eq!(refused, refusal, "{weak}"),
                other => panic!("{weak}: {other:?}"),
            }
        }
        assert!(sessions.iter().all(|tokens| is_active(app, &tokens.access_token)));

        let mut ended = change(app, user, PASSWORD, new, Some(this.sid)).await.unwrap();
        ended.sort_unstable();
        let mut expected: Vec<SessionId> = others.iter().map(|tokens| tokens.sid).collect();
        expected.sort_unstable();
        assert_eq!(ended, expected);
        assert!(is_active(app, &this.access_token));
        assert!(others.iter().all(|tokens| !is_active(app, &tokens.access_token)));
        for tokens in others {
            assert!(refresh(app, &tokens.refresh_token).await.is_err());
        }
        refresh(app, &this.refresh_token).await.unwrap();
        assert_eq!(refused(app, "ada@example.com", PASSWORD).await, "wrong");
        log_in(app, "ada@example.com", new).await.unwrap();
        assert_eq!(world.noted("user.password_changed").await, 1);
        let ends = format!(
            "SELECT count(*) FROM audit WHERE event = 'session.ended' AND subject = '{user}' AND reason = '{} by password_change'",
            others.len()
        );
        assert_eq!(world.raw.number(&ends).await, 1);
        assert_eq!(
            change(app, user, new, PASSWORD, None).await.unwrap().len(),
            2,
            "all of them"
        );
        // The command does the same, and writes nothing of sessions if it ended none.
        let db = &app.running.server.db;
        let set = UserChange::SetPassword { hash: "x".to_owned() };
        let entry = crate::helpers::entry("user.password_changed", &user.to_string());
        let before = world.noted("session.ended").await;
        assert!(db.change_user(user, &set, &entry).await.unwrap().unwrap().is_empty());
        assert_eq!(world.noted("session.ended").await, before);
        world.stop().await;
    }
);

// OWASP: the answer must not tell who has an account.
crate::on_both_databases!(registration_tells_what_it_is_set_to_tell, |database| {
    let world = start(database, &CHEAP).await;
    registered(&world.app, "ada@example.com", PASSWORD).await;
    let taken = register(&world.app, "ADA@example.com", "nine other umbrellas").await;
    assert_eq!(taken.unwrap_err().name(), "email_taken");

    let silent = world.another_with(&[CHEAP[0]]).await;
    for email in ["ada@example.com", "grace@example.com"] {
        let untold = register(&silent, email, "nine other umbrellas").await.unwrap();
        assert!(matches!(untold, Registered::Untold), "{email}");
    }
    assert_eq!(
        refused(&silent, "ada@example.com", "nine other umbrellas").await,
        "wrong"
    );
    log_in(&silent, "ada@example.com", PASSWORD).await.unwrap();
    log_in(&silent, "grace@example.com", "nine other umbrellas")
        .await
        .unwrap();
    let weak = register(&silent, "linus@example.com", "password1").await;
    assert_eq!(weak.unwrap_err().name(), "password_refused");

    let closed = world
        .another_with(&[CHEAP[0], ("accounts.registration", "false")])
        .await;
    let refused = register(&closed, "linus@example.com", PASSWORD).await;
    assert_eq!(refused.unwrap_err().name(), "registration_closed");
    assert_eq!(world.raw.number("SELECT count(*) FROM users").await, 2);
    for node in [silent, closed] {
        node.running.stop().await;
    }
    world.stop().await;
});

// Hashing is bounded: more logins at once must not take the cores from everything else.
crate::on_both_databases!(who_finds_the_queue_full_is_sent_away_and_charged_nothing, |database| {
    let settings = [CHEAP[0], CHEAP[1], ("accounts.hashing_queue", "1")];
    let world = start(database, &settings).await;
    let app = &world.app;
    registered(app, "ada@example.com", PASSWORD).await;
    let jam = Jam::start(app).await;
    let last = app.running.server.logins.hashing.reserve().unwrap();
    for _ in 0..20 {
        match log_in(app, "ada@example.com", "a guess").await {
            Err(LoginError::Busy(Overflow { retry_after })) => assert!(retry_after.0 >= 1),
            other => panic!("{}", other.err().unwrap()),
        }
    }
    drop((jam, last));
    log_in(app, "ada@example.com", PASSWORD).await.unwrap();
    world.stop().await;
});

/// Everything at once, on this task.
pub async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut done) {
            if answer.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *answer = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
