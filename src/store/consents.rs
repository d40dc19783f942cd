//! Table `consents`: what a person has allowed a client.

use sqlx::FromRow;

use crate::accounts::session::EndedBy;
use crate::accounts::user::UserId;
use crate::clock::UnixTime;
use crate::events::Entry;
use crate::oauth::client::ClientId;
use crate::oauth::scope::Scope;
use crate::values::SessionId;

use super::transaction::retry;
use super::{Db, StoreError, in_tx, on_read};
use super::{audit, sessions};

const FIND: &str = "SELECT scope FROM consents WHERE user_id = $1 AND client_id = $2 AND audience = $3";
/// What is taken back in this moment does not come back.
const HOLD: &str = "SELECT scope FROM consents WHERE user_id = $1 AND client_id = $2 AND audience = $3 FOR UPDATE";
// Of two at once the later one counts, and the person is asked again for what the other allowed.
// Of a client that is there: one that comes later under the same id inherits nothing.
const REMEMBER: &str = "INSERT INTO consents (user_id, client_id, audience, scope, granted_at) \
                        SELECT $1, client_id, $3, $4, $5 FROM clients WHERE client_id = $2 AND disabled_at IS NULL \
                        ON CONFLICT (user_id, client_id, audience) DO UPDATE SET scope = excluded.scope, granted_at = excluded.granted_at";

const LIST: &str = "SELECT c.client_id, clients.client_name, c.audience, c.scope, c.granted_at FROM consents c \
                    LEFT JOIN clients ON clients.client_id = c.client_id WHERE c.user_id = $1 ORDER BY c.granted_at DESC, c.client_id LIMIT $2";
const WITHDRAW: &str = "DELETE FROM consents WHERE user_id = $1 AND client_id = $2";
// A code that is being redeemed holds its row until its grant is there, which ends with the others then.
const FORGET_CODES: &str = "DELETE FROM authorization_codes WHERE user_id = $1 AND client_id = $2 AND grant_id IS NULL";
const END_GRANTS: &str = "UPDATE sessions SET revoked_at = $3, revoked_for = $4 \
                          WHERE user_id = $1 AND client_id = $2 AND login_session_id <> sid AND revoked_at IS NULL RETURNING sid";

/// The most consents that are listed.
const MAX_LISTED: i64 = 1_000;

/// What a person has allowed a client at a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consented {
    /// The client.
    pub client: ClientId,
    /// What people see of it.
    pub client_name: Option<String>,
    /// The resource.
    pub audience: String,
    /// What it was allowed.
    pub scope: Scope,
    /// When it was last allowed something there.
    pub granted_at: UnixTime,
}

#[derive(FromRow)]
struct ConsentRow {
    client_id: String,
    client_name: Option<String>,
    audience: String,
    scope: String,
    granted_at: i64,
}

impl TryFrom<ConsentRow> for Consented {
    type Error = StoreError;

    fn try_from(row: ConsentRow) -> Result<Self, StoreError> {
        Ok(Self {
            client: row
                .client_id
                .parse()
                .map_err(|_| corrupt(&row.client_id, "its client"))?,
            scope: scope(&row.client_id, &row.scope)?,
            client_name: row.client_name,
            audience: row.audience,
            granted_at: UnixTime(row.granted_at),
        })
    }
}

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

    /// What this person has allowed, the last first.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn consents_of(&self, user: UserId) -> Result<Vec<Consented>, StoreError> {
        let rows: Vec<ConsentRow> = on_read!(self, |pool| sqlx::query_as(LIST)
            .bind(user.to_string())
            .bind(MAX_LISTED)
            .fetch_all(pool)
            .await)?;
        rows.into_iter().map(Consented::try_from).collect()
    }

    /// Takes back what this person has allowed this client, with the grants that came of it; answers with these, or with nothing if the
    /// client was allowed nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn withdraw_consent(
        &self,
        user: UserId,
        client: &ClientId,
        entry: &Entry,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        retry(|| self.try_to_withdraw_consent(user, client, entry)).await
    }

    async fn try_to_withdraw_consent(
        &self,
        user: UserId,
        client: &ClientId,
        entry: &Entry,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let withdrawn = in_tx!(&mut tx, |connection| sqlx::query(WITHDRAW)
            .bind(user.to_string())
            .bind(client.as_str())
            .execute(connection)
            .await?
            .rows_affected());
        let forgotten = in_tx!(&mut tx, |connection| sqlx::query(FORGET_CODES)
            .bind(user.to_string())
            .bind(client.as_str())
            .execute(connection)
            .await?
            .rows_affected());
        let ended: Vec<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(END_GRANTS)
            .bind(user.to_string())
            .bind(client.as_str())
            .bind(now.0)
            .bind(EndedBy::Logout.name())
            .fetch_all(connection)
            .await?);
        let ended: Vec<SessionId> = ended
            .iter()
            .map(|sid| sid.parse().map_err(|_| corrupt(client.as_str(), "the id of a grant")))
            .collect::<Result<_, _>>()?;
        // A client may have grants without a consent, of the time when it was the operator's own.
        if withdrawn == 0 && forgotten == 0 && ended.is_empty() {
            return Ok(None);
        }
        audit::note(&mut tx, entry, now).await?;
        sessions::note_ends(&mut tx, &ended, entry, EndedBy::Logout, now).await?;
        tx.commit().await?;
        Ok(Some(ended))
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
        let text = tx.text(FIND, HOLD);
        let earlier: Option<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(text)
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
