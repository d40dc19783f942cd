//! Table `revocations`: what was revoked, in the order of the commits. Triggers write it beside `denied_tokens`, `sessions` and `tenants`,
//! so that it names also what an earlier version of Keyround or a person with a database client revokes.
//!
//! A transaction takes the next sequence at its end and holds the row of `revocation_state` until it is committed. So no lower sequence
//! appears after a higher one, and a reader that asks for what follows the newest that it knows misses nothing.

use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::revocations::{Position, Reading, Revoked};

use super::{Db, StoreError, on_read, on_write};

pub(super) const STATE: &str = "SELECT sequence, mark FROM revocation_state WHERE id = 1";
const PAGE: &str = "SELECT sequence, mark, kind, name, until FROM revocations WHERE (sequence, kind, name) > ($1, $2, $3) \
                    ORDER BY sequence, kind, name LIMIT $4";
/// The newest sequence stays: the nodes know it, and would read everything again without it.
const PRUNE_TOKENS: &str =
    "DELETE FROM revocations WHERE until <= $1 AND sequence < (SELECT sequence FROM revocation_state WHERE id = 1)";
const PRUNE_TIMELESS: &str = "DELETE FROM revocations WHERE until IS NULL AND sequence <= $1 \
                              AND sequence < (SELECT sequence FROM revocation_state WHERE id = 1)";

/// Rows that are read at once, each time within the patience for one answer.
const ROWS_OF_PAGE: usize = 50_000;

#[derive(FromRow)]
struct Row {
    sequence: i64,
    mark: i64,
    kind: String,
    name: String,
    until: Option<i64>,
}

impl Row {
    const fn position(&self) -> Position {
        Position {
            sequence: self.sequence,
            mark: self.mark,
        }
    }

    fn revoked(self) -> Result<Revoked, StoreError> {
        match (self.kind.as_str(), self.until) {
            ("token", Some(until)) => Ok(Revoked::Token(self.name.as_str().into(), UnixTime(until))),
            ("session", _) => Ok(Revoked::Session(self.name.as_str().into())),
            ("tenant", _) => Ok(Revoked::Tenant),
            _ => Err(StoreError::Corrupt {
                table: "revocations",
                row: self.name,
                reason: "its kind".to_owned(),
            }),
        }
    }
}

/// Refuses rows that are older than the state that was read before them, as those of a standby that was asked instead of the primary.
fn reaching(state: Position, reading: Reading) -> Result<Reading, StoreError> {
    if reading.reaches(state) {
        return Ok(reading);
    }
    Err(StoreError::NoPrimary(
        "it answers with fewer revocations than it counted a moment ago, as a standby does".to_owned(),
    ))
}

impl Db {
    /// What was revoked since this position; everything where none is known, or where the database does not know it.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub(super) async fn revocations_since(
        &self,
        known: Option<Position>,
        state: Position,
    ) -> Result<Reading, StoreError> {
        if known == Some(state) {
            return Ok(Reading::unchanged(state));
        }
        if let Some(known) = known {
            let mut first = None;
            let reading = self.revocations_from(known.sequence, state, &mut first).await?;
            if known.is_continued_by(first) {
                return reaching(state, reading);
            }
        }
        let all = self.revocations_from(i64::MIN, state, &mut None).await?;
        reaching(state, Reading { is_whole: true, ..all })
    }

    /// Reads the rows from this sequence on, and the position of the first of them.
    async fn revocations_from(
        &self,
        sequence: i64,
        state: Position,
        first: &mut Option<Position>,
    ) -> Result<Reading, StoreError> {
        let mut reading = Reading::unchanged(state);
        let mut after = (sequence, String::new(), String::new());
        loop {
            let page: Vec<Row> = on_read!(self, |pool| sqlx::query_as(PAGE)
                .bind(after.0)
                .bind(&after.1)
                .bind(&after.2)
                .bind(i64::try_from(ROWS_OF_PAGE).unwrap_or(i64::MAX))
                .fetch_all(pool)
                .await?);
            let is_last = page.len() < ROWS_OF_PAGE;
            if let Some(row) = page.first() {
                first.get_or_insert(row.position());
            }
            if let Some(row) = page.last() {
                reading.position = row.position();
                after = (row.sequence, row.kind.clone(), row.name.clone());
            }
            for row in page {
                reading.revoked.push(row.revoked()?);
            }
            if is_last {
                return Ok(reading);
            }
        }
    }

    /// Forgets the tokens that nobody accepts any more from this time on, and the sessions and tenants up to this sequence.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_revocations(&self, now: UnixTime, sequence: Option<i64>) -> Result<u64, StoreError> {
        let tokens = on_write!(self, |pool| sqlx::query(PRUNE_TOKENS)
            .bind(now.0)
            .execute(pool)
            .await?
            .rows_affected());
        let Some(sequence) = sequence else { return Ok(tokens) };
        let timeless = on_write!(self, |pool| sqlx::query(PRUNE_TIMELESS)
            .bind(sequence)
            .execute(pool)
            .await?
            .rows_affected());
        Ok(tokens + timeless)
    }
}
