//! How often passwords may be tried, as the database counts it.

use std::net::IpAddr;
use std::time::Duration;

use keyround::accounts::client_address::ClientAddress;
use keyround::accounts::limits::{Attempt, AttemptRates, Charge, Rate};
use keyround::clock::{Seconds, UnixTime, sleep};
use keyround::crypto::keyed_hash::HashKey;
use keyround::store::Db;
use keyround::store::limits::{Charged, Charging};

use crate::helpers::{START, TestDatabase};
use crate::rows::Raw;

const fn rate(burst: u32, period: i64) -> Rate {
    Rate {
        burst,
        period: Seconds(period),
    }
}

const RATES: AttemptRates = AttemptRates {
    address: rate(30, 3_000),
    account: rate(10, 1_000),
    address_and_account: rate(5, 500),
};

fn attempt(email: &str, address: &str) -> Attempt {
    attempt_from(email, address.parse::<IpAddr>().unwrap().into())
}

fn attempt_from(email: &str, address: ClientAddress) -> Attempt {
    Attempt::new(email, address, &RATES, &HashKey::from_bytes([7; 32]))
}

async fn taken(db: &Db, attempt: &Attempt, now: UnixTime) -> Charged {
    match db.charge(attempt, now).await.unwrap() {
        Charging::Taken(charged) => charged,
        Charging::Refused { retry_after } => panic!("refused for {retry_after}"),
    }
}

async fn wait(db: &Db, attempt: &Attempt, now: UnixTime) -> Option<i64> {
    match db.charge(attempt, now).await.unwrap() {
        Charging::Taken(_) => None,
        Charging::Refused { retry_after } => Some(retry_after.0),
    }
}

// Charged before the password is looked at, however many come at once, and on whichever node.
crate::on_both_databases!(of_a_hundred_at_once_no_more_than_the_limit_pass, |database| {
    let nodes = [database.open().await, database.open().await];
    for round in 0..3 {
        let attempt = attempt(&format!("{round}@example.com"), "192.0.2.1");
        let mut guesses = tokio::task::JoinSet::new();
        for guess in 0..100 {
            let (db, attempt) = (nodes[guess % 2].clone(), attempt.clone());
            guesses.spawn(async move { wait(&db, &attempt, START).await });
        }
        let waits = guesses.join_all().await;
        assert_eq!(waits.iter().filter(|wait| wait.is_none()).count(), 5);
        assert!(waits.iter().flatten().all(|wait| (1..=100).contains(wait)), "{waits:?}");
    }
    // Who was refused was charged nothing, by none of the buckets.
    let fresh = attempt("fresh@example.com", "192.0.2.1");
    for _ in 0..5 {
        taken(&nodes[0], &fresh, START).await;
    }
});

crate::on_both_databases!(a_refusal_is_temporary_and_outlives_a_restart, |database| {
    let attempt = attempt("a@example.com", "192.0.2.1");
    let db = database.open().await;
    for _ in 0..5 {
        taken(&db, &attempt, START).await;
    }
    assert_eq!(wait(&db, &attempt, START).await, Some(100));
    db.close().await;
    let db = database.open().await;
    assert_eq!(wait(&db, &attempt, START + Seconds(99)).await, Some(1));
    taken(&db, &attempt, START + Seconds(100)).await;
    assert_eq!(wait(&db, &attempt, START + Seconds(100)).await, Some(100));
});

// A stranger who keeps the account's bucket full keeps nobody out who logged in lately from where they are.
crate::on_both_databases!(a_stranger_locks_nobody_out_of_a_known_address, |database| {
    let db = database.open().await;
    let at_home = attempt("owner@example.com", "2001:db8:1:2::a");
    let charged = taken(&db, &at_home, START).await;
    db.succeed(&at_home, &charged, START).await.unwrap();
    let mut now = START;
    for round in 0..20_u32 {
        now = now + Seconds(100);
        for host in 0..11 {
            let elsewhere = attempt_from(
                "owner@example.com",
                std::net::Ipv4Addr::from_bits(0xc000_0200 + 11 * round + host).into(),
            );
            db.charge(&elsewhere, now).await.unwrap();
        }
    }
    let abroad = attempt("owner@example.com", "203.0.113.7");
    assert!(wait(&db, &abroad, now).await.is_some(), "the account's bucket is full");
    let neighbour = attempt("owner@example.com", "2001:db8:1:2:ffff::b");
    for _ in 0..5 {
        taken(&db, &neighbour, now).await;
    }
    assert!(
        wait(&db, &at_home, now).await.is_some(),
        "and the guesses there are counted by themselves"
    );
    let forgotten = START + Seconds(31 * 86_400);
    for host in 0..10_u32 {
        let elsewhere = attempt_from(
            "owner@example.com",
            std::net::Ipv4Addr::from_bits(0xc000_0200 + host).into(),
        );
        taken(&db, &elsewhere, forgotten).await;
    }
    assert!(wait(&db, &at_home, forgotten).await.is_some(), "a month later");
});

crate::on_both_databases!(what_was_right_is_given_back_and_no_more, |database| {
    let db = database.open().await;
    let attempt = attempt("a@example.com", "192.0.2.1");
    for _ in 0..4 {
        taken(&db, &attempt, START).await;
    }
    for _ in 0..50 {
        let charged = taken(&db, &attempt, START).await;
        db.succeed(&attempt, &charged, START).await.unwrap();
    }
    let charged = taken(&db, &attempt, START).await;
    assert!(
        wait(&db, &attempt, START).await.is_some(),
        "the four wrong ones still count"
    );
    db.give_back(&charged, START).await.unwrap();
    taken(&db, &attempt, START).await;
    let raw = Raw::open(&database).await;
    let address = &attempt.address.bucket;
    let tat = raw
        .number(&format!("SELECT tat FROM limits WHERE bucket = '{address}'"))
        .await;
    assert_eq!(tat, START.0 + 5 * 100, "four wrong ones and the last");
});

// The address bears what all its guesses cost, for whichever account.
crate::on_both_databases!(one_address_cannot_try_every_account, |database| {
    let db = database.open().await;
    for account in 0..30 {
        taken(&db, &attempt(&format!("{account}@example.com"), "2001:db8::1"), START).await;
    }
    assert_eq!(
        wait(&db, &attempt("next@example.com", "2001:db8::2"), START).await,
        Some(100)
    );
    taken(&db, &attempt("next@example.com", "2001:db8:0:1::2"), START).await;
});

// The statement and the pure rule are one rule.
crate::on_both_databases!(the_database_counts_as_the_rule_says, |database| {
    let db = database.open().await;
    let attempt = attempt("a@example.com", "192.0.2.1");
    let mut expected = [None; 3];
    let mut now = START;
    let mut state: u64 = 42;
    let mut refused = 0;
    for _ in 0..300 {
        // Steps of -5 to 74 seconds, and now and then a jump of a year back: any order will do, as long as it is the same.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let step = i64::try_from((state >> 33) % 80).unwrap() - 5;
        now = now + Seconds(if step == 74 { -365 * 86_400 } else { step });
        let charges: [&Charge; 3] = attempt.charges(None, now).try_into().unwrap();
        let next: Result<Vec<i64>, i64> = charges
            .iter()
            .zip(expected)
            .map(|(charge, tat)| charge.limit.charge(tat, now.0))
            .collect();
        match (next, db.charge(&attempt, now).await.unwrap()) {
            (Ok(next), Charging::Taken(_)) => expected = [Some(next[0]), Some(next[1]), Some(next[2])],
            (Err(_), Charging::Refused { .. }) => refused += 1,
            (rule, database) => panic!("{rule:?}, but {database:?}"),
        }
    }
    assert!((50..250).contains(&refused), "{refused}");
    let raw = Raw::open(&database).await;
    for (charge, tat) in attempt.charges(None, now).into_iter().zip(expected) {
        let bucket = &charge.bucket;
        let stored = raw
            .number(&format!("SELECT tat FROM limits WHERE bucket = '{bucket}'"))
            .await;
        assert_eq!(Some(stored), tat);
    }
});

crate::on_both_databases!(buckets_that_have_drained_are_forgotten_in_batches, |database| {
    let db: Db = database.open().await;
    for account in 0..5 {
        taken(&db, &attempt(&format!("{account}@example.com"), "192.0.2.1"), START).await;
    }
    assert_eq!(db.prune_limits(START + Seconds(99), 100).await.unwrap(), 0);
    assert_eq!(db.prune_limits(START + Seconds(100), 3).await.unwrap(), 3);
    assert_eq!(db.prune_limits(START + Seconds(100), 100).await.unwrap(), 7);
    let raw = Raw::open(&database).await;
    let left = raw.texts("SELECT bucket FROM limits").await;
    assert_eq!(left, [attempt("", "192.0.2.1").address.bucket], "the address");
});

/// Makes each commit of a change to a bucket take longer than a server waits for it, and then succeed or fail.
async fn stall_commits(raw: &Raw, then: &str) {
    raw.execute(&format!(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); {then} RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER stall AFTER INSERT OR UPDATE ON limits DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION stall()"
    ))
    .await;
}

async fn end_the_stall(raw: &Raw) {
    raw.execute("DROP TRIGGER stall ON limits; DROP FUNCTION stall()").await;
}

/// What all buckets hold together.
async fn charged_in_all(raw: &Raw) -> i64 {
    raw.number("SELECT CAST(COALESCE(SUM(tat), 0) AS BIGINT) FROM limits")
        .await
}

async fn until_charged(raw: &Raw, expected: i64) {
    for _ in 0..600 {
        if charged_in_all(raw).await == expected {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(charged_in_all(raw).await, expected);
}

// An attempt that got no answer was no guess. Whether it was charged is asked once the database answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_whose_commit_was_not_heard_is_given_back() {
    let database = TestDatabase::postgres().await;
    let db = database.open().await.with_patience();
    let raw = Raw::open(&database).await;
    let attempt = attempt("ada@example.com", "192.0.2.1");
    // The row is there, so that what is given back shows.
    taken(&db, &attempt, START).await;
    let before = charged_in_all(&raw).await;
    let again = || async { db.charge(&attempt, START).await };
    for (then, outcome) in [("", "committed"), ("RAISE EXCEPTION 'the disk failed';", "rolled back")] {
        stall_commits(&raw, then).await;
        assert!(again().await.is_err(), "{outcome}");
        // Waits for the commit that is under way.
        end_the_stall(&raw).await;
        if outcome == "committed" {
            assert!(charged_in_all(&raw).await > before);
        }
        until_charged(&raw, before).await;
    }
    // One that was rolled back is not given back: it would be a guess for nothing.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(charged_in_all(&raw).await, before);
    raw.close().await;
}

// Nor is anything given back twice, or never, when that commit was not heard, or could not begin.
crate::on_both_databases!(what_could_not_be_given_back_is_given_back_later, |database| {
    let db = database.open().await.with_patience();
    let raw = Raw::open(&database).await;
    let attempt = attempt("ada@example.com", "192.0.2.1");
    taken(&db, &attempt, START).await;
    let before = charged_in_all(&raw).await;
    let charged = taken(&db, &attempt, START).await;
    let held = match &raw {
        Raw::Sqlite(_) => raw.hold("SELECT 1").await,
        Raw::Postgres(_) => raw.hold("LOCK TABLE limits").await,
    };
    assert!(db.give_back(&charged, START).await.is_err());
    held.let_go().await;
    until_charged(&raw, before).await;
    if matches!(raw, Raw::Postgres(_)) {
        for then in ["", "RAISE EXCEPTION 'the disk failed';"] {
            let charged = taken(&db, &attempt, START).await;
            stall_commits(&raw, then).await;
            assert!(db.give_back(&charged, START).await.is_err());
            end_the_stall(&raw).await;
            until_charged(&raw, before).await;
            sleep(Duration::from_secs(3)).await;
            assert_eq!(charged_in_all(&raw).await, before, "given back once");
        }
    }
    raw.close().await;
});

// A debt is paid when the database answers again. By then others may have been charged, who owe nothing to it.
crate::on_both_databases!(what_is_given_back_late_lowers_no_later_charge, |database| {
    let db = database.open().await.with_patience();
    let raw = Raw::open(&database).await;
    let attempt = attempt("ada@example.com", "192.0.2.1");
    let tats = async || {
        let sum = "SELECT CAST(SUM(tat) AS BIGINT) FROM limits";
        raw.number(sum).await - 3 * START.0
    };
    let mut owing = Vec::new();
    for _ in 0..5 {
        owing.push(taken(&db, &attempt, START).await);
    }
    assert_eq!(tats().await, 3 * 500);
    let held = match &raw {
        Raw::Sqlite(_) => raw.hold("SELECT 1").await,
        Raw::Postgres(_) => raw.hold("LOCK TABLE limits").await,
    };
    // 600 seconds later all five have drained, and nothing says so in the database.
    let later = START + Seconds(600);
    for charged in &owing {
        assert!(db.give_back(charged, later).await.is_err());
    }
    held.let_go().await;
    taken(&db, &attempt, later).await;
    let after_guess = tats().await;
    assert_eq!(after_guess, 3 * 700);
    // Each debt is looked at again after a second.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(tats().await, after_guess);
    raw.close().await;
});

// Nor does one that is given back at once, after a login that took as long as an interval.
crate::on_both_databases!(what_has_drained_is_not_given_back, |database| {
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let attempt = attempt("ada@example.com", "192.0.2.1");
    let slow = taken(&db, &attempt, START).await;
    let later = START + Seconds(100);
    taken(&db, &attempt, later).await;
    db.succeed(&attempt, &slow, later).await.unwrap();
    let drained_at = raw
        .number(&format!(
            "SELECT tat FROM limits WHERE bucket = '{}'",
            attempt.address.bucket
        ))
        .await;
    assert_eq!(drained_at, (later + Seconds(100)).0);
    raw.close().await;
});
