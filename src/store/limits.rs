//! Table `limits`: how often passwords were tried, on all nodes together.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::accounts::limits::{Attempt, Charge};
use crate::clock::{Clock, Seconds, UnixTime, sleep};

use super::timeout::within;
use super::transaction::Backend;
use super::{Db, StoreError, Tx, in_tx, on_read, on_write};

const READ: &str = "SELECT bucket, tat FROM limits WHERE bucket IN ($1, $2, $3, $4)";
/// The rule of `Limit::charge` as one statement: whoever charges at the same moment waits for the row, and then sees it.
macro_rules! charge {
    ($transaction:expr) => {
        concat!(
            "INSERT INTO limits (bucket, tat) VALUES ($1, $2) ON CONFLICT (bucket) DO UPDATE SET tat = \
             CASE WHEN limits.tat > $3 AND limits.tat <= $4 THEN limits.tat + $5 ELSE excluded.tat END \
             WHERE limits.tat <= $6 OR limits.tat > $4 RETURNING tat, ",
            $transaction
        )
    };
}
macro_rules! give_back {
    ($transaction:expr) => {
        concat!(
            "UPDATE limits SET tat = tat - CASE WHEN tat = $3 THEN $2 ELSE $4 END WHERE bucket = $1 AND tat > $5 RETURNING ",
            $transaction
        )
    };
}
/// The name of the transaction, by which PostgreSQL tells what became of it. A commit of SQLite is always heard.
const SQLITE_CHARGE: &str = charge!("0");
const POSTGRES_CHARGE: &str = charge!("txid_current()");
const SQLITE_GIVE_BACK: &str = give_back!("0");
const POSTGRES_GIVE_BACK: &str = give_back!("txid_current()");
const OUTCOME: &str = "SELECT txid_status($1)";
const REMEMBER: &str =
    "INSERT INTO limits (bucket, tat) VALUES ($1, $2) ON CONFLICT (bucket) DO UPDATE SET tat = excluded.tat";
/// The outer condition is for a row that is charged at this very moment.
const PRUNE: &str =
    "DELETE FROM limits WHERE tat <= $1 AND bucket IN (SELECT bucket FROM limits WHERE tat <= $1 LIMIT $2)";

/// How often a charge is tried that other writers are in the way of.
const TRIES: usize = 3;

/// How long a database is waited for that did not say whether it has committed, a look each second. Until then most charges have drained.
const LOOKS_LATER: usize = 600;
const PAUSE: Duration = Duration::from_secs(1);
/// So many such waits a process has at most: what is over this stays charged.
const MOST_WAITS: usize = 1_000;
static WAITS: Semaphore = Semaphore::const_new(MOST_WAITS);

/// Whether an attempt may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charging {
    /// It was charged to all of its buckets.
    Taken(Charged),
    /// One of them is full; it was charged to none.
    Refused {
        /// When it would not be.
        retry_after: Seconds,
    },
}

/// What an attempt was charged, so that it can be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charged {
    at: UnixTime,
    /// Each with the time of its bucket after the charge.
    charges: Vec<(Charge, i64)>,
}

/// When a charge is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReturnedCharges {
    /// By the request that made it.
    AtOnce,
    /// Others may have been charged since.
    Later,
}

/// What is to be given back.
#[derive(Clone)]
struct Debt {
    charged: Charged,
    /// Whose place is remembered with it.
    known: Option<Attempt>,
    /// When it is.
    at: UnixTime,
}

/// Why it may not be given back yet, by the name of a transaction whose end was not heard.
#[derive(Clone, Copy)]
enum Owed {
    Certainly,
    /// The charge.
    IfCommitted(i64),
    /// What gave it back.
    UnlessCommitted(i64),
}

/// A transaction that failed, with its name if it may have been committed all the same.
struct Failed {
    error: StoreError,
    unheard: Option<i64>,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { error, unheard: None }
    }
}

impl Db {
    /// Charges an attempt to all of its buckets or to none. Must come before the password is looked at.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn charge(&self, attempt: &Attempt, now: UnixTime) -> Result<Charging, StoreError> {
        for _ in 0..TRIES {
            let rows = self.limits_of(attempt).await?;
            let time_of = |bucket: &str| rows.iter().find(|(name, _)| name == bucket).map(|(_, tat)| *tat);
            let charges = attempt.charges(time_of(&attempt.known), now);
            let wait = charges
                .iter()
                .filter_map(|charge| charge.limit.charge(time_of(&charge.bucket), now.0).err())
                .max();
            // Who is refused writes nothing: a flood of guesses must not occupy the database's one writer.
            if let Some(wait) = wait {
                return Ok(Charging::Refused {
                    retry_after: Seconds(wait),
                });
            }
            match self.try_to_charge(&charges, now).await {
                Ok(Some(taken)) => return Ok(Charging::Taken(taken)),
                // Others were faster and took the last of it: the next look says how long to wait.
                Ok(None) | Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Charging::Refused {
            retry_after: Seconds(1),
        })
    }

    async fn limits_of(&self, attempt: &Attempt) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_as(READ)
            .bind(attempt.pair.as_ref().map(|charge| &*charge.bucket))
            .bind(attempt.account.as_ref().map(|charge| &*charge.bucket))
            .bind(&attempt.address.bucket)
            .bind(&attempt.known)
            .fetch_all(pool)
            .await)?)
    }

    /// Answers with nothing if one of the buckets is full.
    async fn try_to_charge(&self, charges: &[&Charge], now: UnixTime) -> Result<Option<Charged>, StoreError> {
        let mut tx = self.begin().await?;
        let text = tx.text(SQLITE_CHARGE, POSTGRES_CHARGE);
        let mut transaction = None;
        let mut taken = Charged {
            at: now,
            charges: Vec::with_capacity(charges.len()),
        };
        for &charge in charges {
            let Some((drained_at, name)) = charge_one(&mut tx, text, charge, now).await? else {
                return Ok(None);
            };
            transaction = Some(name);
            taken.charges.push((charge.clone(), drained_at));
        }
        match commit(tx, transaction).await {
            Ok(()) => Ok(Some(taken)),
            Err(Failed { error, unheard }) => {
                if let Some(transaction) = unheard {
                    let debt = Debt {
                        charged: taken,
                        known: None,
                        at: now,
                    };
                    self.give_back_later(debt, Owed::IfCommitted(transaction));
                }
                Err(error)
            }
        }
    }

    /// Gives back what an attempt was charged: it was no guess, for the password was right, or was not looked at.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn give_back(&self, charged: &Charged, now: UnixTime) -> Result<(), StoreError> {
        self.settle(charged, None, now).await
    }

    /// Gives back what an attempt was charged whose password was right, and remembers where it came from.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn succeed(&self, attempt: &Attempt, charged: &Charged, now: UnixTime) -> Result<(), StoreError> {
        self.settle(charged, Some(attempt), now).await
    }

    /// Later if it cannot be done now: people would be locked out by a database that was slow for a while.
    async fn settle(&self, charged: &Charged, known: Option<&Attempt>, at: UnixTime) -> Result<(), StoreError> {
        let debt = Debt {
            charged: charged.clone(),
            known: known.cloned(),
            at,
        };
        let Err(Failed { error, unheard }) = self.try_to_settle(&debt, ReturnedCharges::AtOnce).await else {
            return Ok(());
        };
        self.give_back_later(debt, unheard.map_or(Owed::Certainly, Owed::UnlessCommitted));
        Err(error)
    }

    async fn try_to_settle(&self, debt: &Debt, returned: ReturnedCharges) -> Result<(), Failed> {
        let Debt { charged, known, at } = debt;
        let mut tx = self.begin().await?;
        let text = tx.text(SQLITE_GIVE_BACK, POSTGRES_GIVE_BACK);
        let mut transaction = None;
        for (charge, drained_at) in &charged.charges {
            let alone = charge.limit.owed(*drained_at, at.0);
            let beside_others = match returned {
                ReturnedCharges::AtOnce => alone,
                ReturnedCharges::Later => charge
                    .limit
                    .owed(charged.at.0.saturating_add(charge.limit.interval), at.0),
            };
            let amounts = (alone, *drained_at, beside_others);
            let given = give_back_one(&mut tx, text, &charge.bucket, amounts, *at).await?;
            transaction = given.or(transaction);
        }
        if let Some(attempt) = known {
            remember(&mut tx, attempt, *at).await?;
        }
        commit(tx, transaction).await
    }

    /// Gives back what is owed once the database answers.
    fn give_back_later(&self, mut debt: Debt, mut owed: Owed) {
        let Ok(place) = WAITS.try_acquire() else {
            return;
        };
        let db = self.clone();
        let clock = Clock::system();
        let (asked_at, before) = (debt.at, clock.read().monotonic);
        tokio::spawn(async move {
            let _place = place;
            for _ in 0..LOOKS_LATER {
                sleep(PAUSE).await;
                let passed = clock.read().monotonic.saturating_sub(before).as_secs();
                debt.at = asked_at + Seconds(i64::try_from(passed).unwrap_or(i64::MAX));
                let (transaction, is_owed_if) = match owed {
                    Owed::Certainly => match db.try_to_settle(&debt, ReturnedCharges::Later).await {
                        Ok(()) => return,
                        Err(failed) => {
                            owed = failed.unheard.map_or(Owed::Certainly, Owed::UnlessCommitted);
                            continue;
                        }
                    },
                    Owed::IfCommitted(transaction) => (transaction, true),
                    Owed::UnlessCommitted(transaction) => (transaction, false),
                };
                match db.is_committed(transaction).await {
                    Ok(Some(is_committed)) if is_committed == is_owed_if => owed = Owed::Certainly,
                    Ok(Some(_)) => return,
                    Ok(None) | Err(_) => {}
                }
            }
        });
    }

    /// Whether a transaction was committed; nothing while it goes on. One that a database knows nothing of was lost by it.
    async fn is_committed(&self, transaction: i64) -> Result<Option<bool>, StoreError> {
        let Self::Postgres { pool, patience, .. } = self else {
            return Ok(Some(false));
        };
        let status: Result<Option<String>, StoreError> = within(*patience, async {
            Ok(sqlx::query_scalar(OUTCOME).bind(transaction).fetch_one(pool).await?)
        })
        .await;
        match status.as_ref().map(Option::as_deref) {
            Ok(Some("in progress")) => Ok(None),
            Ok(status) => Ok(Some(status == Some("committed"))),
            Err(StoreError::Unavailable(error)) if is_of_no_transaction(error) => Ok(Some(false)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Forgets at most so many buckets that have drained; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_limits(&self, now: UnixTime, most: u32) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(now.0)
            .bind(i64::from(most))
            .execute(pool)
            .await?
            .rows_affected()))
    }
}

/// `invalid_parameter_value`: the name was not given yet, as on a standby that was promoted without the last seconds.
fn is_of_no_transaction(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "22023")
}

/// The time of the bucket and the name of the transaction; nothing if the bucket is full.
async fn charge_one(
    tx: &mut Tx,
    text: &'static str,
    Charge { bucket, limit }: &Charge,
    now: UnixTime,
) -> Result<Option<(i64, i64)>, StoreError> {
    let full = now.0.saturating_add(limit.full);
    Ok(in_tx!(tx, |connection| sqlx::query_as(text)
        .bind(bucket)
        .bind(now.0.saturating_add(limit.interval))
        .bind(now.0)
        .bind(full.saturating_add(limit.slack))
        .bind(limit.interval)
        .bind(full.saturating_sub(limit.interval))
        .fetch_optional(connection)
        .await?))
}

/// The first amount if nothing was charged since the bucket had this time, else the second one.
async fn give_back_one(
    tx: &mut Tx,
    text: &'static str,
    bucket: &str,
    (alone, drained_at, beside_others): (i64, i64, i64),
    at: UnixTime,
) -> Result<Option<i64>, StoreError> {
    Ok(in_tx!(tx, |connection| sqlx::query_scalar(text)
        .bind(bucket)
        .bind(alone)
        .bind(drained_at)
        .bind(beside_others)
        .bind(at.0)
        .fetch_optional(connection)
        .await?))
}

async fn remember(tx: &mut Tx, attempt: &Attempt, at: UnixTime) -> Result<(), StoreError> {
    in_tx!(tx, |connection| sqlx::query(REMEMBER)
        .bind(&attempt.known)
        .bind(attempt.remembered_until(at).0)
        .execute(connection)
        .await?
        .rows_affected());
    Ok(())
}

/// Of SQLite the answer is heard, whatever it is.
async fn commit(tx: Tx, transaction: Option<i64>) -> Result<(), Failed> {
    let is_heard = matches!(tx.on, Backend::Sqlite(_));
    tx.commit().await.map_err(|error| Failed {
        unheard: transaction.filter(|_| !is_heard && !matches!(error, StoreError::Conflict)),
        error,
    })
}
