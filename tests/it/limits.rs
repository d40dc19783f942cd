//! How often passwords may be tried, as the database counts it.

use std::net::IpAddr;

use keyround::accounts::client_address::ClientAddress;
use keyround::accounts::limits::{Attempt, AttemptRates, Charge, Rate};
use keyround::clock::{Seconds, UnixTime};
use keyround::crypto::keyed_hash::HashKey;
use keyround::store::Db;
use keyround::store::limits::{Charged, Charging};

use crate::helpers::START;
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
