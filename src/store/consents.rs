//! Table `consents`: what a person has allowed a client.

use crate::accounts::user::UserId;
use crate::events::Entry;
use crate::oauth::client::ClientId;
use crate::oauth::scope::Scope;

use super::audit;
use super::transaction::retry;
use super::{Db, StoreError, in_tx, on_read};

const FIND: &str = "SELECT scope FROM consents WHERE user_id = $1 AND client_id = $2 AND audience = $3";
// Of two at once the later one counts, and the person is asked again for what the other allowed.
const REMEMBER: &str = "INSERT INTO consents (user_id, client_id, audience, scope, granted_at) VALUES ($1, $2, $3, $4, $5) \
                        ON CONFLICT (user_id, client_id, audience) DO UPDATE SET scope = excluded.scope, granted_at = excluded.granted_at";

fn scope(client_id: &str, text: &str) -> Result<Scope, StoreError> {
    text.parse().map_err(|_| corrupt(client_id, "its scope"))
}

fn corrupt(client_id: &str, reason: &str) -> StoreError {
    StoreError::Corrupt {
        table: "consents",
        row: client_id.to_owned(),
        reason: reason.to_owned(),
    }
}

impl Db {
    /// What this person has allowed this client to do at this resource; an empty scope without consent.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn consent(&self, user: UserId, client: &ClientId, audience: &str) -> Result<Scope, StoreError> {
        let text: Option<String> = on_read!(self, |pool| sqlx::query_scalar(FIND)
            .bind(user.to_string())
            .bind(client.as_str())
            .bind(audience)
            .fetch_optional(pool)
            .await)?;
        text.map_or_else(|| Ok(Scope::default()), |text| scope(client.as_str(), &text))
    }

    /// Remembers that this person allowed this client these scopes at this resource, beside the earlier ones.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn remember_consent(
        &self,
        user: UserId,
        client: &ClientId,
        audience: &str,
        allowed: &Scope,
        entry: &Entry,
    ) -> Result<(), StoreError> {
        retry(|| self.try_to_remember_consent(user, client, audience, allowed, entry)).await
    }

    async fn try_to_remember_consent(
        &self,
        user: UserId,
        client: &ClientId,
        audience: &str,
        allowed: &Scope,
        entry: &Entry,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let earlier: Option<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(FIND)
            .bind(user.to_string())
            .bind(client.as_str())
            .bind(audience)
            .fetch_optional(connection)
            .await?);
        let earlier = scope(client.as_str(), &earlier.unwrap_or_default())?;
        in_tx!(&mut tx, |connection| sqlx::query(REMEMBER)
            .bind(user.to_string())
            .bind(client.as_str())
            .bind(audience)
            .bind(earlier.and(allowed).to_string())
            .bind(now.0)
            .execute(connection)
            .await
            .map(|_| ())?);
        audit::note(&mut tx, entry, now).await?;
        tx.commit().await
    }
}
