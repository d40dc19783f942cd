//! Table `federated_identities`: who somebody at another provider is here.

use crate::accounts::federation::Provider;
use crate::accounts::user::UserId;
use crate::clock::UnixTime;
use crate::events::Entry;

use super::audit;
use super::users::{self, StoredUser};
use super::{Db, StoreError, Tx, in_tx, on_read};

// The provider that was asked is still the one of this name, and still enabled.
const FIND: &str = "SELECT f.user_id FROM federated_identities f JOIN identity_providers p ON p.provider = f.provider \
                    WHERE f.provider = $1 AND f.subject = $2 AND p.issuer = $3 AND p.disabled_at IS NULL";
// Changes nothing, but nobody deletes or disables the provider until the transaction ends.
const HOLD: &str =
    "UPDATE identity_providers SET issuer = issuer WHERE provider = $1 AND issuer = $2 AND disabled_at IS NULL";
const HOLD_IF_LINKING: &str = "UPDATE identity_providers SET issuer = issuer WHERE provider = $1 AND issuer = $2 \
                               AND disabled_at IS NULL AND links_verified_emails_since IS NOT NULL";
const INSERT: &str =
    "INSERT INTO federated_identities (provider, subject, user_id, created_at) VALUES ($1, $2, $3, $4)";
// What made the link right must still hold when it is written. One account is not linked to two people of one provider: the
// address may have been given to another one.
const LINK: &str = "INSERT INTO federated_identities (provider, subject, user_id, created_at) \
                    SELECT $1, $2, u.user_id, $4 FROM users u \
                    WHERE u.user_id = $3 AND u.email = $5 AND u.email_verified_at IS NOT NULL AND u.suspended_at IS NULL \
                    AND NOT EXISTS (SELECT 1 FROM federated_identities f WHERE f.provider = $1 AND f.user_id = $3)";

/// Somebody at a provider.
#[derive(Clone, Copy, Debug)]
pub struct FederatedIdentity<'a> {
    /// The provider that was asked.
    pub provider: &'a Provider,
    /// Its name for the person.
    pub subject: &'a str,
}

impl Db {
    /// Who somebody at a provider is here.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn federated_user(&self, identity: FederatedIdentity<'_>) -> Result<Option<UserId>, StoreError> {
        let found: Option<String> = on_read!(self, |pool| sqlx::query_scalar(FIND)
            .bind(identity.provider.name.as_str())
            .bind(identity.subject)
            .bind(identity.provider.issuer.as_str())
            .fetch_optional(pool)
            .await)?;
        let parsed = found.as_deref().map(str::parse).transpose();
        parsed.map_err(|_| StoreError::Corrupt {
            table: "federated_identities",
            row: format!("{} of {}", identity.subject, identity.provider.name),
            reason: "its user".to_owned(),
        })
    }

    /// Makes an account for somebody at a provider; false when its address is taken, or the provider is gone or disabled.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the same person came in the same moment, or when the database does not answer.
    pub async fn create_federated_user(
        &self,
        identity: FederatedIdentity<'_>,
        stored: &StoredUser,
        entries: [&Entry; 2],
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        if !hold(&mut tx, HOLD, identity.provider).await? || !users::insert(&mut tx, stored).await? {
            return Ok(false);
        }
        insert(&mut tx, identity, stored.user.id, stored.user.created_at).await?;
        for entry in entries {
            audit::insert(&mut tx, entry).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Links somebody at a provider to the account of the same verified address; false when one of the conditions does not hold.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the same person came in the same moment, or when the database does not answer.
    pub async fn link_federated_user(
        &self,
        identity: FederatedIdentity<'_>,
        stored: &StoredUser,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        if !hold(&mut tx, HOLD_IF_LINKING, identity.provider).await? {
            return Ok(false);
        }
        let linked = in_tx!(&mut tx, |connection| sqlx::query(LINK)
            .bind(identity.provider.name.as_str())
            .bind(identity.subject)
            .bind(stored.user.id.to_string())
            .bind(entry.happened_at.0)
            .bind(stored.user.email.as_str())
            .execute(connection)
            .await?
            .rows_affected());
        if linked == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(linked == 1)
    }
}

async fn hold(tx: &mut Tx, statement: &'static str, provider: &Provider) -> Result<bool, StoreError> {
    let held = in_tx!(tx, |connection| sqlx::query(statement)
        .bind(provider.name.as_str())
        .bind(provider.issuer.as_str())
        .execute(connection)
        .await?
        .rows_affected());
    Ok(held == 1)
}

async fn insert(tx: &mut Tx, identity: FederatedIdentity<'_>, user: UserId, now: UnixTime) -> Result<(), StoreError> {
    in_tx!(tx, |connection| sqlx::query(INSERT)
        .bind(identity.provider.name.as_str())
        .bind(identity.subject)
        .bind(user.to_string())
        .bind(now.0)
        .execute(connection)
        .await
        .map(|_| ())?);
    Ok(())
}
