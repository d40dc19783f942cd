//! Tables `client_keys` and `client_assertions`: the public keys of clients, and what they have signed already.

use crate::clock::UnixTime;
use crate::events::Entry;
use crate::jose::jwk::PublicJwk;
use crate::keys::keyset::KeySet;
use crate::oauth::client::{Client, ClientId};
use crate::oauth::client_keys::ClientKeys;

use super::audit;
use super::{Db, StoreError, Tx, clients, in_tx, on_read, on_write};

const FIND: &str = "SELECT jwks, jwks_uri FROM client_keys WHERE client_id = $1";
const NO_SECRET: &str = "UPDATE clients SET secret_digest = '', previous_secret_digest = NULL WHERE client_id = $1";
const SET: &str = "INSERT INTO client_keys (client_id, jwks, jwks_uri) VALUES ($1, $2, $3) \
                   ON CONFLICT (client_id) DO UPDATE SET jwks = excluded.jwks, jwks_uri = excluded.jwks_uri";
const USE: &str = "INSERT INTO client_assertions (client_id, jti, expires_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (client_id, jti) DO NOTHING";
const OUTLIVED: &str = "SELECT count(*) FROM client_assertions WHERE expires_at < $1";
const PRUNE: &str = "DELETE FROM client_assertions WHERE expires_at < $1";

impl Db {
    /// The keys of a client; none for one that has a secret, or is unknown.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn client_keys(&self, id: &ClientId) -> Result<Option<ClientKeys>, StoreError> {
        let row: Option<(String, Option<String>)> = on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(id.as_str())
            .fetch_optional(pool)
            .await)?;
        row.map(|(jwks, jwks_uri)| read(id, &jwks, jwks_uri.as_deref()))
            .transpose()
    }

    /// Registers a client that proves itself with these keys; false when its id is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_client_with_keys(
        &self,
        client: &Client,
        keys: &ClientKeys,
        entries: [&Entry; 2],
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        // No secret has the empty digest.
        if !clients::insert(&mut tx, client, "").await? {
            return Ok(false);
        }
        set(&mut tx, &client.id, keys).await?;
        for entry in entries {
            audit::insert(&mut tx, entry).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Gives a client these keys in place of those it has, and takes its secrets; false when there is no such client.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn set_client_keys(&self, id: &ClientId, keys: &ClientKeys, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let known = replace(&mut tx, id, keys).await?;
        if known {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(known)
    }

    /// Notes that an assertion was used; false when it was used before, on whichever node.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn use_assertion(&self, id: &ClientId, jti: &str, until: UnixTime) -> Result<bool, StoreError> {
        let rows = on_write!(self, |pool| sqlx::query(USE)
            .bind(id.as_str())
            .bind(jti)
            .bind(until.0)
            .execute(pool)
            .await?
            .rows_affected());
        Ok(rows == 1)
    }

    /// Forgets assertions that are refused for their age by then; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_assertions(&self, before: UnixTime) -> Result<u64, StoreError> {
        // Most of the time there are none, and a write of nothing waits for other writers all the same.
        let outlived: i64 = on_read!(self, |pool| sqlx::query_scalar(OUTLIVED)
            .bind(before.0)
            .fetch_one(pool)
            .await)?;
        if outlived == 0 {
            return Ok(0);
        }
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(before.0)
            .execute(pool)
            .await?
            .rows_affected()))
    }
}

/// Gives a client these keys and takes its secrets; false when there is no such client.
pub(super) async fn replace(tx: &mut Tx, id: &ClientId, keys: &ClientKeys) -> Result<bool, StoreError> {
    let known = in_tx!(tx, |connection| sqlx::query(NO_SECRET)
        .bind(id.as_str())
        .execute(connection)
        .await?
        .rows_affected());
    if known == 1 {
        set(tx, id, keys).await?;
    }
    Ok(known == 1)
}

async fn set(tx: &mut Tx, id: &ClientId, keys: &ClientKeys) -> Result<(), StoreError> {
    let (jwks, jwks_uri) = match keys {
        ClientKeys::Registered(keys) => (keys.to_json(), None),
        ClientKeys::Published(uri) => (KeySet::default().to_json(), Some(uri.to_string())),
    };
    let _one = in_tx!(tx, |connection| sqlx::query(SET)
        .bind(id.as_str())
        .bind(jwks)
        .bind(jwks_uri)
        .execute(connection)
        .await?
        .rows_affected());
    Ok(())
}

fn read(id: &ClientId, jwks: &str, jwks_uri: Option<&str>) -> Result<ClientKeys, StoreError> {
    let corrupt = |reason: String| StoreError::Corrupt {
        table: "client_keys",
        row: id.to_string(),
        reason,
    };
    if let Some(uri) = jwks_uri {
        let uri = uri.parse().map_err(|_| corrupt("its jwks_uri".to_owned()))?;
        return Ok(ClientKeys::Published(uri));
    }
    let set: serde_json::Value = serde_json::from_str(jwks).map_err(|error| corrupt(error.to_string()))?;
    let keys = set["keys"].as_array().ok_or_else(|| corrupt("no keys".to_owned()))?;
    let jwks: Vec<PublicJwk> = keys
        .iter()
        .map(|key| PublicJwk::parse(&key.to_string()).map_err(|error| corrupt(error.to_string())))
        .collect::<Result<_, _>>()?;
    Ok(ClientKeys::Registered(KeySet::default().union(jwks)))
}
