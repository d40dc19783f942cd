//! Table `limits`: how often passwords were tried, on all nodes together.

use crate::accounts::limits::{Attempt, Charge};
use crate::clock::{Seconds, UnixTime};

use super::{Db, StoreError, in_tx, on_read, on_write};

const READ: &str = "SELECT bucket, tat FROM limits WHERE bucket IN ($1, $2, $3, $4)";
/// The rule of `Limit::charge` as one statement: whoever charges at the same moment waits for the row, and then sees it.
const CHARGE: &str = "INSERT INTO limits (bucket, tat) VALUES ($1, $2) ON CONFLICT (bucket) DO UPDATE SET tat = \
                      CASE WHEN limits.tat > $3 AND limits.tat <= $4 THEN limits.tat + $5 ELSE excluded.tat END \
                      WHERE limits.tat <= $6 OR limits.tat > $4";
const GIVE_BACK: &str = "UPDATE limits SET tat = tat - $2 WHERE bucket = $1 AND tat > $3";
const REMEMBER: &str =
    "INSERT INTO limits (bucket, tat) VALUES ($1, $2) ON CONFLICT (bucket) DO UPDATE SET tat = excluded.tat";
/// The outer condition is for a row that is charged at this very moment.
const PRUNE: &str =
    "DELETE FROM limits WHERE tat <= $1 AND bucket IN (SELECT bucket FROM limits WHERE tat <= $1 LIMIT $2)";

/// How often a charge is tried that other writers are in the way of.
const TRIES: usize = 3;

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
pub struct Charged(Vec<Charge>);

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
                Ok(true) => return Ok(Charging::Taken(Charged(charges.into_iter().cloned().collect()))),
                // Others were faster and took the last of it: the next look says how long to wait.
                Ok(false) | Err(StoreError::Conflict) => {}
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

    async fn try_to_charge(&self, charges: &[&Charge], now: UnixTime) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        for Charge { bucket, limit } in charges {
            let full = now.0.saturating_add(limit.full);
            let rows = in_tx!(&mut tx, |connection| sqlx::query(CHARGE)
                .bind(bucket)
                .bind(now.0.saturating_add(limit.interval))
                .bind(now.0)
                .bind(full.saturating_add(limit.slack))
                .bind(limit.interval)
                .bind(full.saturating_sub(limit.interval))
                .execute(connection)
                .await?
                .rows_affected());
            if rows == 0 {
                return Ok(false);
            }
        }
        tx.commit().await?;
        Ok(true)
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

    async fn settle(&self, charged: &Charged, known: Option<&Attempt>, now: UnixTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for Charge { bucket, limit } in &charged.0 {
            in_tx!(&mut tx, |connection| sqlx::query(GIVE_BACK)
                .bind(bucket)
                .bind(limit.interval)
                .bind(now.0)
                .execute(connection)
                .await?
                .rows_affected());
        }
        if let Some(attempt) = known {
            in_tx!(&mut tx, |connection| sqlx::query(REMEMBER)
                .bind(&attempt.known)
                .bind(attempt.remembered_until(now).0)
                .execute(connection)
                .await?
                .rows_affected());
        }
        tx.commit().await
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
