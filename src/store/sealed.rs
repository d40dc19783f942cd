//! What lies under a master key, whichever table it stands in: private halves and other secrets.

use sqlx::FromRow;

use super::{Db, StoreError, Tx, in_tx, on_read};

const ROWS: &str = "SELECT kid AS name, alg, sealed FROM signing_keys WHERE sealed IS NOT NULL \
                    UNION ALL SELECT name, NULL AS alg, sealed FROM secrets ORDER BY name";
// The old text must still stand there: a private half that was destroyed in the meantime must not come back.
const REPLACE_KEY: &str = "UPDATE signing_keys SET sealed = $3 WHERE kid = $1 AND sealed = $2";
const REPLACE_SECRET: &str = "UPDATE secrets SET sealed = $3 WHERE name = $1 AND sealed = $2";
const READ_KEY: &str = "SELECT sealed FROM signing_keys WHERE kid = $1";
const READ_SECRET: &str = "SELECT sealed FROM secrets WHERE name = $1";

/// One sealed text with what it belongs to.
#[derive(Clone, Debug, FromRow)]
pub struct SealedRow {
    /// The kid, or the secret's name.
    pub name: String,
    /// A signing key's algorithm; none for a secret.
    pub alg: Option<String>,
    /// The text.
    pub sealed: String,
}

impl Db {
    /// Every sealed text, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sealed_rows(&self) -> Result<Vec<SealedRow>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_as(ROWS).fetch_all(pool).await)?)
    }

    /// Puts another sealed text in a row's place in one small transaction; `check` sees what the row holds then, and on
    /// false nothing changes. False as well when the row has changed or is gone.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn replace_sealed(
        &self,
        row: &SealedRow,
        sealed: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let replaced = replace(&mut tx, row, sealed).await?;
        let replaced = replaced.as_deref().is_some_and(check);
        if replaced {
            tx.commit().await?;
        }
        Ok(replaced)
    }
}

/// What the row holds after the change; none when it was not as expected.
async fn replace(tx: &mut Tx, row: &SealedRow, sealed: &str) -> Result<Option<String>, StoreError> {
    let (update, read) = if row.alg.is_some() {
        (REPLACE_KEY, READ_KEY)
    } else {
        (REPLACE_SECRET, READ_SECRET)
    };
    Ok(in_tx!(tx, |connection| {
        let changed = sqlx::query(update)
            .bind(&row.name)
            .bind(&row.sealed)
            .bind(sealed)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        if changed == 1 {
            sqlx::query_scalar(read)
                .bind(&row.name)
                .fetch_optional(connection)
                .await?
        } else {
            None
        }
    }))
}
