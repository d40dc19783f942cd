//! Table `federated_logins`: logins that are on their way through another provider, each once.

use crate::accounts::federation::ProviderName;
use crate::accounts::federation::return_to::ReturnTo;
use crate::clock::UnixTime;
use crate::values::SessionId;

use super::{Db, StoreError, on_write};

const INSERT: &str = "INSERT INTO federated_logins (state_digest, provider, browser_digest, return_to, expires_at, replaces) \
                      VALUES ($1, $2, $3, $4, $5, $6)";
// All that must fit is in the one statement that uses it up: another browser, or an answer of another provider, does not take
// the login from whom it belongs to.
const TAKE: &str = "DELETE FROM federated_logins WHERE state_digest = $1 AND provider = $2 AND browser_digest = $3 \
                    AND expires_at > $4 RETURNING return_to, replaces";
const PRUNE: &str = "DELETE FROM federated_logins WHERE expires_at <= $1";

/// What makes a login that began the one that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedLogin {
    /// The digest of `state`.
    pub state_digest: String,
    /// The provider that was asked.
    pub provider: ProviderName,
    /// The digest of the browser's secret.
    pub browser_digest: String,
}

impl Db {
    /// Writes down that a login began.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_federated_login(
        &self,
        login: &FederatedLogin,
        return_to: &ReturnTo,
        replaces: Option<SessionId>,
        expires_at: UnixTime,
    ) -> Result<(), StoreError> {
        on_write!(self, |pool| sqlx::query(INSERT)
            .bind(&login.state_digest)
            .bind(login.provider.as_str())
            .bind(&login.browser_digest)
            .bind(return_to.as_str())
            .bind(expires_at.0)
            .bind(replaces.map(|sid| sid.to_string()))
            .execute(pool)
            .await
            .map(|_| ())?);
        Ok(())
    }

    /// Uses a login up, and answers with where it is to lead and which session it replaces; none when it never began, has expired or was used.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_federated_login(
        &self,
        login: &FederatedLogin,
        now: UnixTime,
    ) -> Result<Option<(ReturnTo, Option<SessionId>)>, StoreError> {
        let taken: Option<(String, Option<String>)> = on_write!(self, |pool| sqlx::query_as(TAKE)
            .bind(&login.state_digest)
            .bind(login.provider.as_str())
            .bind(&login.browser_digest)
            .bind(now.0)
            .fetch_optional(pool)
            .await?);
        Ok(taken.map(|(return_to, replaces)| {
            let replaces = replaces.and_then(|sid| sid.parse().ok());
            (ReturnTo::kept(return_to), replaces)
        }))
    }

    /// Forgets the logins that can come back no more; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_federated_logins(&self, now: UnixTime) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(now.0)
            .execute(pool)
            .await?
            .rows_affected()))
    }
}
