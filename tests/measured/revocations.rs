//! What a million denied tokens and a million ended sessions cost a node: nothing while nothing changes, beside their room.

use std::fmt::Write as _;
use std::time::Duration;

use keyround::clock::{Clock, UnixTime, sleep};
use keyround::jose::jwt::random_jti;
use keyround::values::SessionId;

use crate::bounds::resident;
use crate::child::{Process, register_clients};
use crate::helpers::TestDatabase;
use crate::results;
use crate::rows::Raw;

const EACH: usize = 1_000_000;
const ROWS_OF_STATEMENT: usize = 10_000;
const IDLE: Duration = Duration::from_secs(30);
const REVOCATIONS: usize = 200;

/// What is asked for.
const SHARE: f64 = 0.01;
const OCTETS: u64 = 100;
const READY: Duration = Duration::from_secs(2);

struct Figures {
    share: f64,
    resident: u64,
    ready: Duration,
    revocation: Duration,
    work: Duration,
}

/// The processor time of a process so far, in ticks of 10 ms.
fn worked(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn measure(database: &TestDatabase, secret: &str, name: &str) -> Figures {
    let clock = Clock::system();
    let began = clock.read().monotonic;
    let mut process = Process::spawn(database, name, &[("log.filter", "warn,keyround::app=info")]);
    let address = process.until_it_serves().await;
    let ready = clock.read().monotonic.saturating_sub(began);
    sleep(Duration::from_secs(10)).await;
    let before = worked(&process);
    sleep(IDLE).await;
    let share = worked(&process).saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64();
    let resident = resident(&process);

    let http = reqwest::Client::new();
    let ask = async |path: &str, form: &[(&str, &str)]| {
        let url = format!("http://{address}/oauth2/{path}");
        let answer = http
            .post(url)
            .basic_auth("ES256", Some(secret))
            .form(form)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    };
    let mut tokens = Vec::new();
    for _ in 0..REVOCATIONS {
        let answer = ask("token", &[("grant_type", "client_credentials")]).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        tokens.push(answer["access_token"].as_str().unwrap().to_owned());
    }
    let worked_before = worked(&process);
    let mut times = Vec::new();
    for token in &tokens {
        let before = clock.read().monotonic;
        ask("revoke", &[("token", token)]).await;
        times.push(clock.read().monotonic.saturating_sub(before));
    }
    let work = worked(&process).saturating_sub(worked_before) / u32::try_from(REVOCATIONS).unwrap();
    times.sort_unstable();
    process.tell_to_stop();
    assert!(process.until_it_ends().await.success());
    Figures {
        share,
        resident,
        ready,
        revocation: times[REVOCATIONS / 2],
        work,
    }
}

/// Writes them as a busy hour leaves them: everything else has been read by every node.
async fn fill(database: &TestDatabase) {
    let raw = Raw::open(database).await;
    let now = Clock::system().read().wall;
    for part in 0..EACH / ROWS_OF_STATEMENT {
        let ago = i64::try_from(part).unwrap() % 600;
        let (until, revoked_at) = (now.0 + 3_600, now.0 - ago);
        let mut denied = String::from("INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES ");
        let mut ended = String::from(
            "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
             expires_at, revoked_at, revoked_for, address, user_agent) VALUES ",
        );
        for row in 0..ROWS_OF_STATEMENT {
            let comma = if row == 0 { "" } else { ", " };
            write!(denied, "{comma}('{}', {until}, {})", random_jti(), now.0).unwrap();
            let sid = SessionId::generate(UnixTime(revoked_at));
            write!(
                ended,
                "{comma}('{sid}', 'nobody', 'default', '', '', 1, '', '', 1, 1, {}, {revoked_at}, 'logout', '', '')",
                now.0 + 86_400
            )
            .unwrap();
        }
        raw.execute(&denied).await;
        raw.execute(&ended).await;
    }
    raw.execute("DELETE FROM revocation_changes").await;
    if let Raw::Postgres(_) = raw {
        raw.execute("VACUUM ANALYZE").await;
    }
    raw.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_node_pays_for_no_revocation() {
    let mut page = format!(
        "# Revocations\n\nWhat `make proof-measured` saw {}, in a {} build: a server beside {EACH} denied tokens and {EACH} ended sessions, and the same \
         server before there was any.\n\n*Idle*: its share of one core while nothing is asked of it. *Octets*: its memory beyond the \
         empty one's, for each token and session. *Ready*: from its start until it serves. *Revocation*: the median of {REVOCATIONS} requests to \
         `/oauth2/revoke`. *Work*: the processor time of the server for one of them.\n\n\
         | Database | Denied and ended | Idle | Octets | Ready | Revocation | Work |\n|---|---|---|---|---|---|---|\n",
        results::of_now(),
        if cfg!(debug_assertions) { "debug" } else { "release" },
    );
    let mut rows = Vec::new();
    for database in [TestDatabase::sqlite(), TestDatabase::postgres().await] {
        let kind = if database.url.starts_with("sqlite") {
            "SQLite"
        } else {
            "PostgreSQL"
        };
        let secret = register_clients(&database, &[]).await;
        let empty = measure(&database, &secret, "empty").await;
        fill(&database).await;
        let full = measure(&database, &secret, "full").await;
        let octets = full.resident.saturating_sub(empty.resident) / (2 * EACH) as u64;
        for (figures, count, octets) in [(&empty, 0, String::new()), (&full, 2 * EACH, octets.to_string())] {
            writeln!(
                page,
                "| {kind} | {count} | {:.2}% | {octets} | {:.2} s | {:.2} ms | {:.2} ms |",
                figures.share * 100.0,
                figures.ready.as_secs_f64(),
                figures.revocation.as_secs_f64() * 1_000.0,
                figures.work.as_secs_f64() * 1_000.0,
            )
            .unwrap();
        }
        rows.push((kind, empty, full, octets));
    }
    println!("{page}");
    results::write("revocations.md", &page);
    for (kind, empty, full, octets) in rows {
        assert!(full.share < SHARE, "{kind}: {}", full.share);
        assert!(octets <= OCTETS, "{kind}: {octets}");
        // A debug build takes much longer for each row.
        assert!(
            full.ready <= READY || cfg!(debug_assertions),
            "{kind}: {:?}",
            full.ready
        );
        let slack = Duration::from_millis(1);
        assert!(
            full.revocation <= empty.revocation * 2 + slack,
            "{kind}: {:?}",
            full.revocation
        );
        assert!(full.work <= empty.work * 2 + slack, "{kind}: {:?}", full.work);
    }
}
