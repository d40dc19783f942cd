//! A change of the master key: every sealed text moves under the one that seals, while servers run.
//!
//! Each row moves in a transaction of its own and only from the text that was read, so it may be killed at any moment,
//! run again, or run twice at once.

use std::collections::BTreeMap;

use crate::clock::UnixTime;
use crate::crypto::sealing::{MasterKeyId, MasterKeys, SealError};
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keyring::{binding, secret_binding};
use crate::store::sealed::SealedRow;
use crate::store::{Db, StoreError};

/// What a sealed text lies under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Under {
    /// This master key, and it opens.
    Listed(MasterKeyId),
    /// A master key that is not listed.
    NotListed(MasterKeyId),
    /// It is damaged, or it is from before master keys had names and opens under none that is listed.
    DoesNotOpen,
}

/// How many sealed texts lie under what.
pub type Census = BTreeMap<Under, usize>;

/// What a change of the master key did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// How many lay under what before.
    pub before: Census,
    /// How many lie under what now.
    pub after: Census,
    /// How many were moved by this run.
    pub moved: usize,
}

impl Rewrapped {
    /// How many do not lie under the master key that seals.
    #[must_use]
    pub fn left(&self, master_keys: &MasterKeys) -> usize {
        let sealing = Under::Listed(master_keys.sealing_id());
        let elsewhere = self.after.iter().filter(|(under, _)| **under != sealing);
        elsewhere.map(|(_, count)| count).sum()
    }
}

/// Counts the sealed texts by what they lie under; each is opened to see whether it does.
///
/// # Errors
/// When the database does not answer.
pub async fn census(db: &Db, master_keys: &MasterKeys) -> Result<Census, StoreError> {
    Ok(count(&db.sealed_rows().await?, master_keys))
}

fn count(rows: &[SealedRow], master_keys: &MasterKeys) -> Census {
    let mut census = Census::new();
    for row in rows {
        let under = match open(row, master_keys) {
            Ok((id, _)) => Under::Listed(id),
            Err(SealError::NotListed(id)) => Under::NotListed(id),
            Err(_) => Under::DoesNotOpen,
        };
        *census.entry(under).or_default() += 1;
    }
    census
}

/// Moves every row that opens under the master key that seals. What does not open stays as it is, and is counted.
///
/// # Errors
/// When the database does not answer; what was moved stays moved.
pub async fn rewrap(db: &Db, master_keys: &MasterKeys, actor: &str, now: UnixTime) -> Result<Rewrapped, RewrapError> {
    let rows = db.sealed_rows().await?;
    let before = count(&rows, master_keys);
    let sealing = master_keys.sealing_id();
    let to_move: Vec<&SealedRow> = rows
        .iter()
        .filter(|row| open(row, master_keys).is_ok_and(|(id, _)| id != sealing || is_unnamed(row)))
        .collect();
    let note = |event, reason: String| Entry::new(event, &sealing, now, actor, reason);
    let mut moved = 0;
    if !to_move.is_empty() {
        let reason = format!("{} rows are to move under it", to_move.len());
        db.note(&note(Event::MasterKeyRewrapStarted, reason)).await?;
        for row in to_move {
            moved += usize::from(move_row(db, row, master_keys).await?);
        }
        let reason = format!("{moved} rows moved under it");
        db.note(&note(Event::MasterKeyRewrapped, reason)).await?;
    }
    let after = census(db, master_keys).await?;
    Ok(Rewrapped { before, after, moved })
}

/// Why rows were not moved.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A text could not be sealed.
    #[error("a row could not be sealed: {0}")]
    Seal(#[from] SealError),
}

/// How often a row is tried while others write to the same file.
const ATTEMPTS: usize = 20;

async fn move_row(db: &Db, row: &SealedRow, master_keys: &MasterKeys) -> Result<bool, RewrapError> {
    let (_, plaintext) = open(row, master_keys)?;
    let sealed = with_binding(row, |binding| master_keys.seal(binding, &plaintext))?;
    // What stands in the table must open to the very same secret, or it is not committed.
    let holds = |written: &str| {
        let written = SealedRow {
            sealed: written.to_owned(),
            ..row.clone()
        };
        open(&written, master_keys).is_ok_and(|(id, opened)| id == master_keys.sealing_id() && *opened == *plaintext)
    };
    for _ in 1..ATTEMPTS {
        match db.replace_sealed(row, &sealed, holds).await {
            Err(StoreError::Conflict) => {}
            answer => return Ok(answer?),
        }
    }
    Ok(db.replace_sealed(row, &sealed, holds).await?)
}

fn is_unnamed(row: &SealedRow) -> bool {
    MasterKeyId::named_in(&row.sealed).is_none()
}

type OpenedRow = (MasterKeyId, zeroize::Zeroizing<Vec<u8>>);

fn open(row: &SealedRow, master_keys: &MasterKeys) -> Result<OpenedRow, SealError> {
    with_binding(row, |binding| master_keys.open_and_name(binding, &row.sealed))
}

fn with_binding<T>(
    row: &SealedRow,
    body: impl FnOnce(&crate::crypto::sealing::Binding<'_>) -> Result<T, SealError>,
) -> Result<T, SealError> {
    let Some(alg) = &row.alg else {
        return body(&secret_binding(&row.name));
    };
    let kid: Kid = row.name.parse().map_err(|_| SealError::DoesNotOpen)?;
    let alg: Algorithm = alg.parse().map_err(|_| SealError::DoesNotOpen)?;
    body(&binding(&kid, alg))
}
