//! How many refreshes a second a node does, and what pruning a million expired sessions costs meanwhile: `cargo bench --bench
//! refresh`, beside a throw-away PostgreSQL (`TEST_POSTGRES_DURABLE=yes tests/postgres.sh cargo bench --bench refresh`), else on
//! SQLite alone.
//!
//! The limit is the database's own with the very statements of a refresh: on PostgreSQL `pgbench`, prepared, each client in turn
//! one SELECT and one UPDATE; on SQLite the same through the driver, with the server's own readers and its one writer. What is held
//! against it is the whole refresh but for HTTP: it opens and checks the token, makes the successor, and signs an ES256 access
//! token. Both run in turn, several times, and the median of the ratios counts: only the ratio carries over to another machine.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures time, and is told by the environment where PostgreSQL is"
)]
#![expect(clippy::unwrap_used, reason = "a benchmark may end loudly")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyround::accounts::session::{Device, LoginMethod};
use keyround::accounts::user::{User, UserId};
use keyround::app::Foundation;
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::config::{Config, Sources};
use keyround::crypto::sealing::MasterKey;
use keyround::events::{Entry, Event};
use keyround::jose::alg::Algorithm;
use keyround::keyring::Keyring;
use keyround::oauth::client::Client;
use keyround::rotation::Rotation;
use keyround::sessions::{Grouped, RefreshRequest, Replays, Sessions};
use keyround::store::Db;
use keyround::store::sessions::{Claim, POSTGRES_CLAIM, POSTGRES_FAMILY};
use keyround::store::users::StoredUser;
use keyround::telemetry::SessionMetrics;
use keyround::values::SessionId;
use sqlx::AssertSqlSafe;

const ROUNDS: usize = 7;
const CONCURRENCY: [usize; 4] = [1, 8, 32, 64];
const LENGTH: Duration = Duration::from_secs(2);
/// Each task goes round its own sessions.
const SESSIONS_OF_EACH: usize = 25;
const EXPIRED: i64 = 1_000_000;
/// The ratio that a refresh is to reach.
const TARGET: f64 = 0.8;

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn device() -> Device {
    Device::new(
        [192, 0, 2, 7].into(),
        "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0",
    )
}

async fn sessions(url: &str, alg: Algorithm) -> Arc<Sessions> {
    let flags: BTreeMap<String, String> = [
        ("server.issuer", "http://127.0.0.1:8080"),
        ("server.listen", "127.0.0.1:0"),
        ("server.admin_listen", "127.0.0.1:0"),
        ("keys.master_key", &MasterKey::generate().unwrap().to_base64()),
        ("database.url", url),
        // The first look at the keys serves until the end.
        ("keys.snapshot_max_age", "1d"),
        ("keys.replica_refresh", "1h"),
        ("keys.prepublish", "2d"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let config = Config::load(&Sources {
        flags,
        ..Sources::default()
    })
    .unwrap();
    let Foundation { rotator, hash_key, .. } = Foundation::open(&config, Clock::system()).await.unwrap();
    let (master_key, policy) = (Arc::clone(&rotator.master_key), Arc::clone(&rotator.policy));
    let keyring = Keyring::load(rotator.db.clone(), master_key, policy, rotator.clock.clone(), None)
        .await
        .unwrap();
    let keyring = Arc::new(keyring);
    Rotation::new(rotator.clone(), Arc::clone(&keyring))
        .tick()
        .await
        .unwrap();
    rotator.db.ensure_default_tenant(UnixTime(0)).await.unwrap();
    Arc::new(Sessions {
        db: rotator.db,
        keyring,
        hash_key: Arc::new(hash_key),
        clock: rotator.clock,
        issuer: "http://127.0.0.1:8080".to_owned(),
        client: Client::of_accounts(&config.accounts.client, UnixTime(0)).unwrap(),
        alg,
        access_token_ttl: Seconds(600),
        settings: config.accounts.sessions,
        metrics: SessionMetrics::default(),
        replays: Replays::default(),
        families: Grouped::default(),
        claims: Grouped::default(),
    })
}

async fn user(db: &Db) -> StoredUser {
    let user = StoredUser {
        user: User {
            id: UserId::generate(UnixTime(1_800_000_000)),
            tenant: "default".parse().unwrap(),
            email: "ada@example.com".parse().unwrap(),
            email_verified_at: None,
            name: "Ada".parse().unwrap(),
            roles: vec!["reader".parse().unwrap()],
            created_at: UnixTime(0),
            suspended_at: None,
        },
        password_hash: None,
    };
    let entry = Entry::new(Event::UserCreated, user.user.id, UnixTime(0), "benchmark", "benchmark");
    assert!(db.create_user(&user, &entry).await.unwrap());
    user
}

/// A login's newest token.
type Token = zeroize::Zeroizing<String>;

async fn log_in(sessions: &Sessions, user: &StoredUser, count: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(
            sessions
                .begin(user, LoginMethod::Password, &device())
                .await
                .unwrap()
                .refresh_token,
        );
    }
    tokens
}

async fn refresh(sessions: &Sessions, token: &mut Token) {
    let request = RefreshRequest {
        token,
        client_id: "first-party",
        client: &sessions.client,
        scope: None,
        audiences: &[],
        device: &device(),
    };
    *token = sessions.refresh(&request).await.unwrap().refresh_token;
}

/// Refreshes a second, by so many tasks.
async fn refreshes(sessions: &Arc<Sessions>, tokens: &mut Vec<Vec<Token>>, concurrency: usize) -> f64 {
    let started = Instant::now();
    let tasks: Vec<_> = tokens
        .drain(..concurrency)
        .map(|mut own| {
            let sessions = Arc::clone(sessions);
            tokio::spawn(async move {
                let mut count = 0_u64;
                while started.elapsed() < LENGTH {
                    let place = usize::try_from(count).unwrap() % own.len();
                    refresh(&sessions, &mut own[place]).await;
                    count += 1;
                }
                (own, count)
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        let (own, count) = task.await.unwrap();
        tokens.push(own);
        total += count;
    }
    total as f64 / started.elapsed().as_secs_f64()
}

/// The statements of a refresh alone, through the driver: what the server's readers and its one writer can do.
async fn statements(db: &Db, sids: &[SessionId], concurrency: usize) -> f64 {
    let started = Instant::now();
    let total = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..concurrency)
        .map(|task| {
            let (db, total) = (db.clone(), Arc::clone(&total));
            let own: Vec<SessionId> = sids[task * SESSIONS_OF_EACH..(task + 1) * SESSIONS_OF_EACH].to_vec();
            tokio::spawn(async move {
                let device = device();
                let mut count = 0;
                while started.elapsed() < LENGTH {
                    let sid = own[count % own.len()];
                    let now = UnixTime(1_800_000_000);
                    let (family, _) = db.family(sid, now).await.unwrap().unwrap();
                    let claim = Claim {
                        sid,
                        generation: family.generation,
                        successor_hash: "nFxaPgB6X9Hy0NPTR8hZB0N8wGz0m1g0B4V6kN8wGz0".to_owned(),
                        salt: "nFxaPgB6X9Hy0NPTR8hZB0N8wGz0m1g0B4V6kN8wGz0".to_owned(),
                        device: device.clone(),
                    };
                    assert!(db.claim_generation(&claim, now).await.unwrap());
                    count += 1;
                }
                total.fetch_add(count as u64, Ordering::Relaxed);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    total.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

/// What `pgbench`, which is to be installed, does a second with the text of the server's own statements.
fn pgbench(url: &str, script: &std::path::Path, concurrency: usize) -> f64 {
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--time"])
        .arg(LENGTH.as_secs().to_string())
        .args([
            "--client",
            &concurrency.to_string(),
            "--jobs",
            &concurrency.min(2).to_string(),
            "--file",
        ])
        .arg(script)
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    tps.split(' ').next().unwrap().parse().unwrap()
}

/// The server's statements with its parameters as `pgbench` names them. The sessions that it goes round have numbers for names.
fn script(folder: &std::path::Path, count: usize) -> std::path::PathBuf {
    let sid = "('bench-' || CAST(:number AS TEXT))";
    let hash = "'nFxaPgB6X9Hy0NPTR8hZB0N8wGz0m1g0B4V6kN8wGz0'";
    let find = POSTGRES_FAMILY.replace("$1", sid);
    let device = device();
    let claim = POSTGRES_CLAIM
        .replace("$1", sid)
        .replace("$2", ":generation")
        .replace("$3", hash)
        .replace("$4", hash)
        .replace("$5", &format!("'{}'", device.address))
        .replace("$6", &format!("'{}'", device.user_agent.replace(':', "")));
    let path = folder.join("refresh.sql");
    let mut file = std::fs::File::create(&path).unwrap();
    write!(file, "\\set number random(1, {count})\n{find} \\gset\n{claim};\n").unwrap();
    path
}

async fn execute(db: &Db, sql: String) {
    let sql = AssertSqlSafe(sql);
    match db {
        Db::Sqlite { write, .. } => drop(sqlx::raw_sql(sql).execute(write).await.unwrap()),
        Db::Postgres { pool, .. } => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
    }
}

/// Sessions in one statement, with these names and this end.
fn rows(count: i64, name: &str, user: &str, expires_at: &str) -> String {
    format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
         expires_at, address, user_agent) WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < \
         {count}) SELECT '{name}-' || n, {user}, 'default', 'first-party', 'https://api.example.com', 1, \
         'nFxaPgB6X9Hy0NPTR8hZB0N8wGz0m1g0B4V6kN8wGz0', 'nFxaPgB6X9Hy0NPTR8hZB0N8wGz0m1g0B4V6kN8wGz0', 1790000000, 1790000000, \
         {expires_at}, '192.0.2.7', 'Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0' FROM numbers"
    )
}

fn tail(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 1_000];
    let longest = times[times.len() - 1];
    format!("{:.1?} / {:.1?} / {longest:.1?} of {}", at(500), at(990), times.len())
}

/// Eight tasks refresh without a pause, before a million expired sessions are pruned and meanwhile.
async fn prune(sessions: &Arc<Sessions>, tokens: &mut Vec<Vec<Token>>) -> String {
    let filled = Instant::now();
    execute(
        &sessions.db,
        // They expire in the order in which they began, each of another user.
        rows(
            EXPIRED,
            "expired",
            "'nobody-' || (CAST(n AS BIGINT) * 7919 % 1000003)",
            "1790000000 + n / 300",
        ),
    )
    .await;
    execute(&sessions.db, "ANALYZE sessions".to_owned()).await;
    // A database does not come into its expired sessions within seconds: the disk has them already.
    assert!(Command::new("sync").status().unwrap().success());
    println!("{EXPIRED} expired sessions made in {:?}", filled.elapsed());
    let pruning = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = tokens
        .drain(..8)
        .map(|mut own| {
            let (sessions, pruning, done) = (Arc::clone(sessions), Arc::clone(&pruning), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut before, mut during) = (Vec::new(), Vec::new());
                for place in (0..own.len()).cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let is_during = pruning.load(Ordering::Relaxed);
                    let started = Instant::now();
                    refresh(&sessions, &mut own[place]).await;
                    let times = if is_during { &mut during } else { &mut before };
                    times.push(started.elapsed());
                }
                (before, during)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    pruning.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let pruned = sessions.housekeeping().prune().await.unwrap();
    let took = started.elapsed();
    done.store(true, Ordering::Relaxed);
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for task in tasks {
        let (own_before, own_during) = task.await.unwrap();
        before.extend(own_before);
        during.extend(own_during);
    }
    let line = format!(
        "{pruned} in {took:.0?} | {} | {} |",
        tail(&mut before),
        tail(&mut during)
    );
    println!("{line}");
    line
}

/// What was measured on one database: rows of the two tables.
struct Measured {
    rates: String,
    pruning: String,
}

async fn measure(name: &str, url: &str, script_folder: &std::path::Path) -> Measured {
    let mut table = String::new();
    let sessions = sessions(url, Algorithm::Es256).await;
    let user = user(&sessions.db).await;
    let most = CONCURRENCY[CONCURRENCY.len() - 1];
    let mut tokens = Vec::new();
    for _ in 0..most {
        tokens.push(log_in(&sessions, &user, SESSIONS_OF_EACH).await);
    }
    let count = most * SESSIONS_OF_EACH;
    let is_postgres = matches!(sessions.db, Db::Postgres { .. });
    let (mut sids, mut text) = (Vec::new(), std::path::PathBuf::new());
    if is_postgres {
        let user = format!("'{}'", user.user.id);
        let rows = rows(i64::try_from(count).unwrap(), "bench", &user, "9000000000");
        execute(&sessions.db, rows).await;
        execute(&sessions.db, "ANALYZE".to_owned()).await;
        text = script(script_folder, count);
    } else {
        for _ in 0..count {
            sids.push(
                sessions
                    .begin(&user, LoginMethod::Password, &device())
                    .await
                    .unwrap()
                    .sid,
            );
        }
    }
    for concurrency in CONCURRENCY {
        let (mut ratios, mut limits, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let limit = if is_postgres {
                let (url, text) = (url.to_owned(), text.clone());
                tokio::task::spawn_blocking(move || pgbench(&url, &text, concurrency))
                    .await
                    .unwrap()
            } else {
                statements(&sessions.db, &sids, concurrency).await
            };
            let rate = refreshes(&sessions, &mut tokens, concurrency).await;
            ratios.push(rate / limit);
            limits.push(limit);
            rates.push(rate);
        }
        let (least, greatest) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, greatest), ratio| {
            (least.min(*ratio), greatest.max(*ratio))
        });
        let ratio = median(ratios);
        let is_met = if ratio >= TARGET { "yes" } else { "**no**" };
        let (rate, limit) = (median(rates), median(limits));
        let row = format!(
            "| {name} | {concurrency} | {rate:.0}/s | {limit:.0}/s | {ratio:.2} ({least:.2} to {greatest:.2}) | {is_met} |\n"
        );
        print!("{row}");
        table.push_str(&row);
    }
    let pruning = if is_asked("rates") {
        String::new()
    } else {
        prune(&sessions, &mut tokens).await
    };
    sessions.db.close().await;
    Measured {
        rates: table,
        pruning: format!("| {name}: {pruning}\n"),
    }
}

const EXPLANATION: &str = "\
# Refreshes

Written by `make bench`, in 7 rounds on the machine of [the speed of one core](results.md). A refresh here is all of it but HTTP: the token is opened and
checked, its successor made, an ES256 access token signed. The limit is the database's own for the same two statements, in turn
with it on the same two cores: `pgbench`, prepared, for PostgreSQL as it is installed, where each commit waits for the disk; for SQLite,
where it does too, the same through the driver, with the server's readers and its one writer. Refreshes that come at once share their
statements, so that they pass the limit of the single ones. Goal: at least 0.8, and growing with how many come at once.

| database | at once | refreshes | limit | ratio (least to greatest) | met |
|---|---|---|---|---|---|
";

const PRUNING: &str = "
While a million expired sessions are forgotten, eight clients refresh without a pause, as they did before:

| pruned | before: p50 / p99 / longest | meanwhile: p50 / p99 / longest |
|---|---|---|
";

/// `-- postgres` leaves the other database out, and `-- rates` the pruning.
fn is_asked(part: &str) -> bool {
    std::env::args().any(|argument| argument == part)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("keyround.db").display());
    let mut measured = Vec::new();
    if !is_asked("postgres") {
        measured.push(runtime.block_on(measure("SQLite", &sqlite, folder.path())));
    }
    match std::env::var("TEST_POSTGRES_URL") {
        Ok(url) => measured.push(runtime.block_on(measure("PostgreSQL", &url, folder.path()))),
        Err(_) => println!("PostgreSQL: not measured, TEST_POSTGRES_URL is not set"),
    }
    // A part must not take the place of the whole.
    if measured.len() == 2 && !is_asked("rates") {
        let (mut rates, mut pruning) = (String::new(), String::new());
        for measured in &measured {
            rates.push_str(&measured.rates);
            pruning.push_str(&measured.pruning);
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance/refresh.md");
        std::fs::write(path, [EXPLANATION, &rates, PRUNING, &pruning].concat()).unwrap();
    }
}
