//! Table `tenants`.

use sqlx::FromRow;

use crate::accounts::session::EndedBy;
use crate::accounts::tenant::{Tenant, TenantId};
use crate::clock::UnixTime;
use crate::events::Entry;

use super::audit;
use super::transaction::retry;
use super::{Db, StoreError, in_tx, on_read, on_write};

const FIND: &str = "SELECT tenant_id, name, created_at, disabled_at FROM tenants WHERE tenant_id = $1";
const LIST: &str =
    "SELECT tenant_id, name, created_at, disabled_at FROM tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2";
pub(super) const DISABLED: &str = "SELECT tenant_id FROM tenants WHERE disabled_at IS NOT NULL";
const INSERT: &str =
    "INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (tenant_id) DO NOTHING";
const DISABLE: &str = "UPDATE tenants SET disabled_at = $2 WHERE tenant_id = $1 AND disabled_at IS NULL";
const ENABLE: &str = "UPDATE tenants SET disabled_at = NULL WHERE tenant_id = $1 AND disabled_at IS NOT NULL";
// By the users, who have an index: sessions have none by tenant.
const END_SESSIONS: &str = "UPDATE sessions SET revoked_at = $2, revoked_for = $3 \
                            WHERE user_id IN (SELECT user_id FROM users WHERE tenant_id = $1) AND revoked_at IS NULL";
const END_LOGINS: &str = "UPDATE login_sessions SET revoked_at = $2, revoked_for = $3 \
                          WHERE user_id IN (SELECT user_id FROM users WHERE tenant_id = $1) AND revoked_at IS NULL";

/// A change of a tenant that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantChange {
    /// Nobody of it may do anything from now on, and their sessions have ended.
    Disable,
    /// They may log in again; their sessions stay ended.
    Enable,
}

#[derive(FromRow)]
struct TenantRow {
    tenant_id: String,
    name: String,
    created_at: i64,
    disabled_at: Option<i64>,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = StoreError;

    fn try_from(row: TenantRow) -> Result<Self, StoreError> {
        let id = row.tenant_id.parse().map_err(|_| StoreError::Corrupt {
            table: "tenants",
            row: row.tenant_id.clone(),
            reason: "its id".to_owned(),
        })?;
        Ok(Self {
            id,
            name: row.name,
            created_at: UnixTime(row.created_at),
            disabled_at: row.disabled_at.map(UnixTime),
        })
    }
}

impl Db {
    /// The tenant of this id.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<Tenant>, StoreError> {
        let row: Option<TenantRow> = on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(id.as_str())
            .fetch_optional(pool)
            .await)?;
        row.map(Tenant::try_from).transpose()
    }

    /// Tenants by id, from the one after `after`; at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<Tenant>, StoreError> {
        let rows: Vec<TenantRow> = on_read!(self, |pool| sqlx::query_as(LIST)
            .bind(after.map_or("", TenantId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await)?;
        rows.into_iter().map(Tenant::try_from).collect()
    }

    /// The ids of the tenants that are disabled, in no order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn disabled_tenants(&self) -> Result<Vec<String>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_scalar(DISABLED)
            .fetch_all(pool)
            .await)?)
    }

    /// Makes a tenant; false when its id is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_tenant(&self, tenant: &Tenant, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let inserted = in_tx!(&mut tx, |connection| sqlx::query(INSERT)
            .bind(tenant.id.as_str())
            .bind(&tenant.name)
            .bind(tenant.created_at.0)
            .execute(connection)
            .await?
            .rows_affected());
        if inserted == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(inserted == 1)
    }

    /// Changes a tenant in one transaction; answers with how many sessions it ended, or with nothing when there is no such tenant
    /// or nothing to change.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn change_tenant(
        &self,
        id: &TenantId,
        change: TenantChange,
        entry: &Entry,
    ) -> Result<Option<u64>, StoreError> {
        retry(async || self.try_to_change_tenant(id, change, entry).await).await
    }

    async fn try_to_change_tenant(
        &self,
        id: &TenantId,
        change: TenantChange,
        entry: &Entry,
    ) -> Result<Option<u64>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let changed = in_tx!(&mut tx, |connection| {
            let query = match change {
                TenantChange::Disable => sqlx::query(DISABLE).bind(id.as_str()).bind(now.0),
                TenantChange::Enable => sqlx::query(ENABLE).bind(id.as_str()),
            };
            query.execute(connection).await?.rows_affected()
        });
        if changed != 1 {
            return Ok(None);
        }
        // When it is enabled too: a login that was under way while it was disabled may have left a session that nobody could use.
        let ended = in_tx!(&mut tx, |connection| sqlx::query(END_SESSIONS)
            .bind(id.as_str())
            .bind(now.0)
            .bind(EndedBy::TenantDisabled.name())
            .execute(connection)
            .await?
            .rows_affected());
        // Those that no client has a grant of; the others have ended with their grants.
        in_tx!(&mut tx, |connection| {
            sqlx::query(END_LOGINS)
                .bind(id.as_str())
                .bind(now.0)
                .bind(EndedBy::TenantDisabled.name())
                .execute(connection)
                .await
                .map(|_| ())?;
        });
        audit::note(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(Some(ended))
    }

    /// Sees to it that the tenant is there which everybody who registers belongs to.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ensure_default_tenant(&self, now: UnixTime) -> Result<(), StoreError> {
        on_write!(self, |pool| sqlx::query(INSERT)
            .bind(TenantId::DEFAULT)
            .bind("Default")
            .bind(now.0)
            .execute(pool)
            .await?
            .rows_affected());
        Ok(())
    }
}
