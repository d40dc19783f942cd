//! Table `users`: the password of an account.

use std::collections::BTreeSet;

use crate::accounts::password_hash::HashCost;
use crate::accounts::session::{EndedBy, SessionId};
use crate::accounts::user::UserId;

use super::audit::Entry;
use super::users::StoredUser;
use super::{Db, StoreError, in_tx, on_read, on_write, sessions};

// Both go from the very hash that was checked: whoever changed it meanwhile, or suspended the account, was first.
const REHASH: &str = "UPDATE users SET password_hash = $3 \
                      WHERE user_id = $1 AND password_hash = $2 AND suspended_at IS NULL";
const CHANGE: &str = "UPDATE users SET password_hash = $3, password_changed_at = $4 \
                      WHERE user_id = $1 AND password_hash = $2 AND suspended_at IS NULL";

// What stands before the salt: `$2b$12$` and `$argon2id$v=19$m=19456,t=2,p=1$`. Both databases strip the same way.
const COSTS: &str = "SELECT DISTINCT CASE WHEN password_hash LIKE '%$argon2%' \
                     THEN rtrim(rtrim(rtrim(password_hash, $1), '$'), $1) ELSE rtrim(password_hash, $1) END \
                     FROM users WHERE password_hash IS NOT NULL LIMIT 1000";
/// The characters of salts and hashes in either function.
const SALT_CHARACTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.";

impl Db {
    /// What checking the stored hashes costs, each cost once. Reads the whole table.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn password_hash_costs(&self) -> Result<BTreeSet<HashCost>, StoreError> {
        let beginnings: Vec<String> = on_read!(self, |pool| sqlx::query_scalar(COSTS)
            .bind(SALT_CHARACTERS)
            .fetch_all(pool)
            .await)?;
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
        sessions::retry(|| self.try_to_change_password(user, hash, except, entry)).await
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
        sessions::note(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(Some(ended))
    }
}
