//! Whether the time of a refusal tells that an account exists, whatever hash it has stored.

use std::time::Duration;

use keyround::accounts::email::Email;
use keyround::accounts::password::Password;
use keyround::accounts::password_hash::{HashParameters, PasswordHash};
use keyround::accounts::session::Device;
use keyround::accounts::tenant::TenantId;
use keyround::accounts::user::{User, UserId};
use keyround::clock::Clock;
use keyround::logins::LoginError;
use keyround::store::users::StoredUser;

use crate::helpers::{TestApp, TestDatabase, entry};
use crate::rows::Raw;

/// How often each account is tried in one measurement.
const ROUNDS: usize = 61;
/// How far the medians may lie apart.
const APART: f64 = 1.05;
/// A machine that does something else beside may spoil a measurement, but not so many.
const MEASUREMENTS: usize = 4;

fn password(text: &str) -> Password {
    text.to_owned().try_into().unwrap()
}

/// Makes an account with this stored hash.
async fn account(app: &TestApp, name: &str, password_hash: Option<String>) -> Email {
    let now = app.clock.read().wall;
    let email: Email = format!("{name}@example.com").parse().unwrap();
    let user = User {
        id: UserId::generate(now),
        tenant: TenantId::default(),
        email: email.clone(),
        email_verified_at: None,
        name: name.parse().unwrap(),
        roles: Vec::new(),
        created_at: now,
        suspended_at: None,
    };
    let db = &app.running.server.db;
    let stored = StoredUser { user, password_hash };
    assert!(db.create_user(&stored, &entry("user.created", name)).await.unwrap());
    email
}

/// The median times of refusals, of each address in turn so that all see the same machine.
async fn medians(app: &TestApp, addresses: &[Email]) -> Vec<Duration> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); addresses.len()];
    let device = Device::new([192, 0, 2, 7].into(), "a browser");
    for round in 0..ROUNDS {
        for at in 0..addresses.len() {
            let at = (at + round) % addresses.len();
            let before = app.clock.read().monotonic;
            let answer = app
                .running
                .server
                .logins
                .log_in(
                    &addresses[at],
                    password("not the password"),
                    [192, 0, 2, 7].into(),
                    &device,
                )
                .await;
            assert!(matches!(answer, Err(LoginError::Wrong)), "{:?}", answer.err());
            times[at].push(app.clock.read().monotonic.saturating_sub(before));
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_refusal_does_not_tell_whether_an_account_exists() {
    let database = TestDatabase::sqlite();
    let settings = [
        ("keys.algorithms", "ES256"),
        ("tokens.default_algorithm", "ES256"),
        ("accounts.bcrypt_cost", "8"),
        ("accounts.limit_address", "100000/100000s"),
        ("accounts.limit_account", "100000/100000s"),
        ("accounts.limit_address_and_account", "100000/100000s"),
    ];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let key = &app.running.server.hash_key;
    let hashed = |parameters| {
        let hash = PasswordHash::new(&password("the password"), parameters, key).unwrap();
        Some(hash.as_str().to_owned())
    };
    let argon2id = HashParameters::Argon2id {
        memory: 8 * 1024,
        passes: 2,
        lanes: 1,
    };
    let imported = "$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy";
    let suspended = account(&app, "suspended", hashed(HashParameters::Bcrypt { cost: 9 })).await;
    let addresses = [
        account(&app, "usual", hashed(HashParameters::Bcrypt { cost: 8 })).await,
        account(&app, "cheap", Some(imported.to_owned())).await,
        account(&app, "dear", hashed(HashParameters::Bcrypt { cost: 9 })).await,
        account(&app, "other", hashed(argon2id)).await,
        suspended,
        account(&app, "federated", None).await,
        "nobody@example.com".parse().unwrap(),
        "another@example.com".parse().unwrap(),
    ];
    let raw = Raw::open(&database).await;
    raw.execute("UPDATE users SET suspended_at = 1 WHERE email = 'suspended@example.com'")
        .await;
    let mut seen = Vec::new();
    for _ in 0..MEASUREMENTS {
        let medians = medians(&app, &addresses).await;
        let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
        let apart = most.as_secs_f64() / least.as_secs_f64();
        seen.push((apart, medians));
        if apart <= APART {
            break;
        }
    }
    println!("medians of {ROUNDS} refusals: {seen:?}");
    assert!(seen.last().unwrap().0 <= APART, "{addresses:?}: {seen:?}");
    raw.close().await;
    app.running.stop().await;
}

/// How far the medians of refusals by a limit may lie apart: they take less than a millisecond, of which the clock's steps are a part.
const LIMITED_APART: f64 = 1.25;

/// A limit is asked before an account is looked for, so that its refusal takes as long for one that exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_limit_does_not_tell_whether_an_account_exists() {
    let database = TestDatabase::sqlite();
    let settings = [
        ("keys.algorithms", "ES256"),
        ("tokens.default_algorithm", "ES256"),
        ("accounts.bcrypt_cost", "4"),
        ("accounts.limit_address", "100000/100000s"),
        ("accounts.limit_account", "1/100000s"),
        ("accounts.limit_address_and_account", "1/100000s"),
    ];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let key = &app.running.server.hash_key;
    let hash = PasswordHash::new(&password("the password"), HashParameters::Bcrypt { cost: 4 }, key).unwrap();
    let addresses = [
        account(&app, "known", Some(hash.as_str().to_owned())).await,
        account(&app, "federated", None).await,
        "nobody@example.com".parse().unwrap(),
        "another@example.com".parse().unwrap(),
    ];
    let device = Device::new([192, 0, 2, 7].into(), "a browser");
    let log_in = async |address: &Email| {
        let logins = &app.running.server.logins;
        let answer = logins
            .log_in(address, password("not the password"), [192, 0, 2, 7].into(), &device)
            .await;
        answer.err().unwrap()
    };
    for address in &addresses {
        assert!(matches!(log_in(address).await, LoginError::Wrong));
    }
    let mut seen = Vec::new();
    for _ in 0..MEASUREMENTS {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); addresses.len()];
        for round in 0..ROUNDS * 10 {
            for at in 0..addresses.len() {
                let at = (at + round) % addresses.len();
                let before = app.clock.read().monotonic;
                let refused = log_in(&addresses[at]).await;
                times[at].push(app.clock.read().monotonic.saturating_sub(before));
                assert!(matches!(refused, LoginError::Limited { .. }), "{refused}");
            }
        }
        let medians: Vec<Duration> = times
            .into_iter()
            .map(|mut times| {
                times.sort_unstable();
                times[times.len() / 2]
            })
            .collect();
        let (least, most) = (medians.iter().min().unwrap(), medians.iter().max().unwrap());
        let apart = most.as_secs_f64() / least.as_secs_f64();
        seen.push((apart, medians));
        if apart <= LIMITED_APART {
            break;
        }
    }
    println!("medians of {} limits: {seen:?}", ROUNDS * 10);
    assert!(seen.last().unwrap().0 <= LIMITED_APART, "{addresses:?}: {seen:?}");
    app.running.stop().await;
}
