//! Tables `resource_servers` and `scopes`. An operator writes them, and a consent page reads what is there of one resource server.

use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::events::Entry;
use crate::oauth::client::Audience;
use crate::oauth::resource::{MAX_SCOPES, RegisteredScope, ResourceServer, ScopeTexts, ScopeWord};

use super::audit;
use super::{Db, StoreError, in_tx, on_read};

const FIND: &str = "SELECT audience, resource_name, created_at FROM resource_servers WHERE audience = $1";
const LIST: &str = "SELECT audience, resource_name, created_at FROM resource_servers ORDER BY audience";
const INSERT: &str = "INSERT INTO resource_servers (audience, resource_name, created_at) VALUES ($1, $2, $3) ON CONFLICT (audience) DO NOTHING";
const DELETE: &str = "DELETE FROM resource_servers WHERE audience = $1";
const SCOPES: &str = "SELECT scope, audience, texts, created_at FROM scopes ORDER BY audience, scope";
const SCOPES_OF: &str = "SELECT scope, audience, texts, created_at FROM scopes WHERE audience = $1 ORDER BY scope";
const INSERT_SCOPE: &str = "INSERT INTO scopes (scope, audience, texts, created_at) SELECT $1, audience, $3, $4 FROM resource_servers \
                            WHERE audience = $2 AND (SELECT count(*) FROM scopes) < $5 ON CONFLICT (scope) DO NOTHING";
const DELETE_SCOPE: &str = "DELETE FROM scopes WHERE scope = $1 AND audience = $2";

#[derive(FromRow)]
struct ResourceServerRow {
    audience: String,
    resource_name: String,
    created_at: i64,
}

impl TryFrom<ResourceServerRow> for ResourceServer {
    type Error = StoreError;

    fn try_from(row: ResourceServerRow) -> Result<Self, StoreError> {
        let corrupt = |reason| corrupt("resource_servers", &row.audience, reason);
        Ok(Self {
            audience: row.audience.parse().map_err(|_| corrupt("its audience"))?,
            name: row.resource_name.parse().map_err(|_| corrupt("its name"))?,
            created_at: UnixTime(row.created_at),
        })
    }
}

#[derive(FromRow)]
struct ScopeRow {
    scope: String,
    audience: String,
    texts: String,
    created_at: i64,
}

impl TryFrom<ScopeRow> for RegisteredScope {
    type Error = StoreError;

    fn try_from(row: ScopeRow) -> Result<Self, StoreError> {
        let corrupt = |reason| corrupt("scopes", &row.scope, reason);
        let texts = serde_json::from_str(&row.texts).map_err(|_| corrupt("its texts"))?;
        Ok(Self {
            word: row.scope.parse().map_err(|_| corrupt("its word"))?,
            audience: row.audience.parse().map_err(|_| corrupt("its audience"))?,
            texts: ScopeTexts::stored(texts),
            created_at: UnixTime(row.created_at),
        })
    }
}

fn corrupt(table: &'static str, row: &str, reason: &str) -> StoreError {
    StoreError::Corrupt {
        table,
        row: row.to_owned(),
        reason: reason.to_owned(),
    }
}

impl Db {
    /// The resource server of this audience.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn resource_server(&self, audience: &str) -> Result<Option<ResourceServer>, StoreError> {
        let row: Option<ResourceServerRow> = on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(audience)
            .fetch_optional(pool)
            .await)?;
        row.map(ResourceServer::try_from).transpose()
    }

    /// Every resource server, by its audience.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn resource_servers(&self) -> Result<Vec<ResourceServer>, StoreError> {
        let rows: Vec<ResourceServerRow> = on_read!(self, |pool| sqlx::query_as(LIST).fetch_all(pool).await)?;
        rows.into_iter().map(ResourceServer::try_from).collect()
    }

    /// Every scope, by its resource server: at most [`MAX_SCOPES`].
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn registered_scopes(&self) -> Result<Vec<RegisteredScope>, StoreError> {
        let rows: Vec<ScopeRow> = on_read!(self, |pool| sqlx::query_as(SCOPES).fetch_all(pool).await)?;
        rows.into_iter().map(RegisteredScope::try_from).collect()
    }

    /// The scopes of this resource server.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn scopes_of(&self, audience: &str) -> Result<Vec<RegisteredScope>, StoreError> {
        let rows: Vec<ScopeRow> = on_read!(self, |pool| sqlx::query_as(SCOPES_OF)
            .bind(audience)
            .fetch_all(pool)
            .await)?;
        rows.into_iter().map(RegisteredScope::try_from).collect()
    }

    /// Registers a resource server; false when there is one of this audience.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_resource_server(&self, resource: &ResourceServer, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let inserted = in_tx!(&mut tx, |connection| sqlx::query(INSERT)
            .bind(resource.audience.as_str())
            .bind(resource.name.as_str())
            .bind(resource.created_at.0)
            .execute(connection)
            .await?
            .rows_affected());
        if inserted == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(inserted == 1)
    }

    /// Deletes a resource server with its scopes; false when there is none of this audience.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn delete_resource_server(&self, audience: &Audience, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let deleted = in_tx!(&mut tx, |connection| sqlx::query(DELETE)
            .bind(audience.as_str())
            .execute(connection)
            .await?
            .rows_affected());
        if deleted == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(deleted == 1)
    }

    /// Registers a scope; false when its word is taken, its resource server is not registered, or there are [`MAX_SCOPES`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_scope(&self, scope: &RegisteredScope, entry: &Entry) -> Result<bool, StoreError> {
        let texts = serde_json::to_string(scope.texts.all())
            .map_err(|_| corrupt("scopes", scope.word.as_str(), "its texts"))?;
        let mut tx = self.begin().await?;
        let inserted = in_tx!(&mut tx, |connection| sqlx::query(INSERT_SCOPE)
            .bind(scope.word.as_str())
            .bind(scope.audience.as_str())
            .bind(&texts)
            .bind(scope.created_at.0)
            .bind(i64::from(MAX_SCOPES))
            .execute(connection)
            .await?
            .rows_affected());
        if inserted == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(inserted == 1)
    }

    /// Deletes a scope of this resource server; false when it has none of this word.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn delete_scope(&self, word: &ScopeWord, audience: &Audience, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let deleted = in_tx!(&mut tx, |connection| sqlx::query(DELETE_SCOPE)
            .bind(word.as_str())
            .bind(audience.as_str())
            .execute(connection)
            .await?
            .rows_affected());
        if deleted == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(deleted == 1)
    }
}
