//! Table `users`: the password of an account.

use crate::accounts::session::{EndedBy, SessionId};
use crate::accounts::user::UserId;

use super::audit::Entry;
use super::users::StoredUser;
use super::{Db, StoreError, in_tx, on_write, sessions};

// Both go from the very hash that was checked: whoever changed it meanwhile, or suspended the account, was first.
const REHASH: &str = "UPDATE users SET password_hash = $3 \
                      WHERE user_id = $1 AND password_hash = $2 AND suspended_at IS NULL";
const CHANGE: &str = "UPDATE users SET password_hash = $3, password_changed_at = $4 \
                      WHERE user_id = $1 AND password_hash = $2 AND suspended_at IS NULL";

impl Db {
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
        let now = tx.now(entry.happened_at).await?;
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
