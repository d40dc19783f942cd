//! Table `users`: the password of an account.

use std::collections::BTreeSet;

use crate::accounts::password_hash::HashCost;
use crate::accounts::session::EndedBy;
use crate::accounts::user::UserId;
use crate::events::Entry;
use crate::values::SessionId;

use super::transaction::retry;
use super::users::StoredUser;
use super::{Db, StoreError, audit, in_tx, on_read, on_write, sessions};

// Both go from the very hash that was checked: whoever changed it meanwhile, or suspended the account, was first.
const REHASH: &str = "UPDATE users SET password_hash = $3 \
                      WHERE user_id = $1 AND password_hash = $2 AND suspended_at IS NULL";
const CHANGE: &str = "UPDATE users SET password_hash = $3, password_changed_at = $4 \
                      WHERE user_id = $1 AND password_hash = $2 AND suspended_at IS NULL";

// What stands before the salt: `$2b$12$` and `$argon2id$v=19$m=19456,t=2,p=1$`, as the index `users_by_password_cost` has it.
macro_rules! cost {
    () => {
        "CASE WHEN password_hash LIKE '%$2_$__$%' \
         THEN rtrim(password_hash, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.-_=') \
         ELSE rtrim(rtrim(rtrim(password_hash, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.-_='), \
         '$'), 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.-_=') END"
    };
}

/// Goes from each cost to the next one: as many steps in the index as there are costs, however many accounts there are.
pub const COSTS: &str = concat!(
    "WITH RECURSIVE costs (cost) AS (SELECT (SELECT ",
    cost!(),
    " FROM users WHERE password_hash IS NOT NULL ORDER BY ",
    cost!(),
    " LIMIT 1) UNION ALL SELECT (SELECT ",
    cost!(),
    " FROM users WHERE password_hash IS NOT NULL AND ",
    cost!(),
    " > costs.cost ORDER BY ",
    cost!(),
    " LIMIT 1) FROM costs WHERE costs.cost IS NOT NULL) SELECT cost FROM costs WHERE cost IS NOT NULL LIMIT 1000"
);

impl Db {
    /// What checking the stored hashes costs, each cost once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn password_hash_costs(&self) -> Result<BTreeSet<HashCost>, StoreError> {
        let beginnings: Vec<String> = on_read!(self, |pool| sqlx::query_scalar(COSTS).fetch_all(pool).await)?;
        Ok(beginnings.iter().filter_map(|text| HashCost::parse(text)).collect())
    }

    /// Puts another hash of the same password in the place of the one that was checked; false when that has changed since.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn replace_password_hash(&self, user: UserId, checked: &str, hash: &str) -> Result<bool, StoreError> {
        let replaced = on_write!(self, |pool| sqlx::query(REHASH)
            .bind(user.to_string())
            .bind(checked)
            .bind(hash)
            .execute(pool)
            .await?
            .rows_affected());
        Ok(replaced == 1)
    }

    /// Changes the password of a user and ends the sessions, but this one when one is given, in one transaction; answers with those
    /// that had not ended, or with nothing when the account has changed since `user` was read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn change_password(
        &self,
        user: &StoredUser,
        hash: &str,
        except: Option<SessionId>,
        entry: &Entry,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        retry(|| self.try_to_change_password(user, hash, except, entry)).await
    }

    async fn try_to_change_password(
        &self,
        user: &StoredUser,
        hash: &str,
        except: Option<SessionId>,
        entry: &Entry,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        // The account before its sessions: a login that holds the account is waited for, and its session is seen below.
        let changed = in_tx!(&mut tx, |connection| sqlx::query(CHANGE)
            .bind(user.user.id.to_string())
            .bind(user.password_hash.as_deref())
            .bind(hash)
            .bind(now.0)
            .execute(connection)
            .await?
            .rows_affected());
        if changed != 1 {
            return Ok(None);
        }
        let ended = sessions::end_of_user(&mut tx, user.user.id, except, now, EndedBy::PasswordChange).await?;
        sessions::note_ends(&mut tx, &ended, entry, EndedBy::PasswordChange, now).await?;
        audit::note(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(Some(ended))
    }
}
