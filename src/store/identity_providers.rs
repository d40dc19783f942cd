//! Table `identity_providers`: the providers that people log in with, and their client secrets in table `secrets`.

use sqlx::FromRow;

use crate::accounts::federation::{Provider, ProviderName};
use crate::clock::UnixTime;
use crate::events::Entry;

use super::audit;
use super::{Db, StoreError, Tx, in_tx, on_read};

const FIND: &str = "SELECT provider, issuer, client_id, scope, links_verified_emails_since, directories, \
                    reads_email_verified_text_since, created_at, disabled_at \
                    FROM identity_providers WHERE provider = $1";
const LIST: &str = "SELECT provider, issuer, client_id, scope, links_verified_emails_since, directories, \
                    reads_email_verified_text_since, created_at, disabled_at \
                    FROM identity_providers ORDER BY provider LIMIT $1";
const INSERT: &str = "INSERT INTO identity_providers \
                      (provider, issuer, client_id, scope, links_verified_emails_since, created_at, directories, \
                      reads_email_verified_text_since) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (provider) DO NOTHING";
// Changes nothing, but nobody becomes known by the provider until the transaction ends.
const HOLD: &str = "UPDATE identity_providers SET issuer = issuer WHERE provider = $1";
const COUNT_PEOPLE: &str = "SELECT count(*) FROM federated_identities WHERE provider = $1";
const COUNT_WITHOUT_ANOTHER_LOGIN: &str = "SELECT count(*) FROM federated_identities f JOIN users u ON u.user_id = f.user_id \
                                           WHERE f.provider = $1 AND u.password_hash IS NULL AND NOT EXISTS (SELECT 1 \
                                           FROM federated_identities o WHERE o.user_id = f.user_id AND o.provider <> $1)";
// From the very settings that were read: another change that was first is not undone.
const UPDATE: &str = "UPDATE identity_providers SET issuer = $2, client_id = $3, scope = $4, links_verified_emails_since = $5, \
                      directories = $6, reads_email_verified_text_since = $7 WHERE provider = $1 AND issuer = $8 AND client_id = $9 \
                      AND scope = $10 AND links_verified_emails_since IS NOT DISTINCT FROM $11 \
                      AND directories IS NOT DISTINCT FROM $12 AND reads_email_verified_text_since IS NOT DISTINCT FROM $13";
const DISABLE: &str = "UPDATE identity_providers SET disabled_at = $2 WHERE provider = $1 AND disabled_at IS NULL";
const ENABLE: &str = "UPDATE identity_providers SET disabled_at = NULL WHERE provider = $1 AND disabled_at IS NOT NULL";
const DELETE: &str = "DELETE FROM identity_providers WHERE provider = $1";
// A provider to come may have the same name and mean other people by the same subjects.
const DELETE_IDENTITIES: &str = "DELETE FROM federated_identities WHERE provider = $1";
const DELETE_LOGINS: &str = "DELETE FROM federated_logins WHERE provider = $1";
const DELETE_SECRET: &str = "DELETE FROM secrets WHERE name = $1";
const SET_SECRET: &str = "INSERT INTO secrets (name, sealed, created_at) VALUES ($1, $2, $3) \
                          ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, created_at = excluded.created_at";

/// More than anybody has; a list is read whole.
const MOST: i64 = 1_000;

#[derive(FromRow)]
struct ProviderRow {
    provider: String,
    issuer: String,
    client_id: String,
    scope: String,
    links_verified_emails_since: Option<i64>,
    directories: Option<String>,
    reads_email_verified_text_since: Option<i64>,
    created_at: i64,
    disabled_at: Option<i64>,
}

impl TryFrom<ProviderRow> for Provider {
    type Error = StoreError;

    fn try_from(row: ProviderRow) -> Result<Self, StoreError> {
        let corrupt = |reason: &str| StoreError::Corrupt {
            table: "identity_providers",
            row: row.provider.clone(),
            reason: reason.to_owned(),
        };
        Ok(Self {
            name: row.provider.parse().map_err(|_| corrupt("its name"))?,
            issuer: row.issuer.parse().map_err(|_| corrupt("its issuer"))?,
            client_id: row.client_id.parse().map_err(|_| corrupt("its client id"))?,
            scope: row.scope.parse().map_err(|_| corrupt("its scope"))?,
            links_verified_emails_since: row.links_verified_emails_since.map(UnixTime),
            directories: row
                .directories
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(|_| corrupt("its directories"))?,
            reads_email_verified_text_since: row.reads_email_verified_text_since.map(UnixTime),
            created_at: UnixTime(row.created_at),
            disabled_at: row.disabled_at.map(UnixTime),
        })
    }
}

/// A change of a provider that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderChange {
    /// Nobody logs in with it from now on.
    Disable,
    /// People log in with it again.
    Enable,
    /// It is gone, and with it who its people are here; their accounts stay.
    Delete,
    /// Another client secret, sealed.
    ChangeSecret {
        /// The sealed text.
        sealed: String,
    },
}

/// Other settings for a provider that exists.
#[derive(Clone, Copy, Debug)]
pub struct ProviderUpdate<'a> {
    /// The provider as it was read.
    pub old: &'a Provider,
    /// The provider as it is to be.
    pub new: &'a Provider,
    /// Another client secret, sealed; none leaves it.
    pub sealed: Option<&'a str>,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// It is written.
    Done,
    /// The provider is not as it was read any more; nothing is written.
    Changed,
    /// So many people are known by the issuer that would change; nothing is written.
    People(i64),
}

/// The people who have logged in with a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct People {
    /// All of them.
    pub all: i64,
    /// Those with neither a password nor another provider.
    pub without_another_login: i64,
}

impl Db {
    /// How many people a provider has; none when there is no such provider.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn people_of_provider(&self, name: &ProviderName) -> Result<Option<People>, StoreError> {
        if self.identity_provider(name).await?.is_none() {
            return Ok(None);
        }
        let count = async |statement| -> Result<i64, StoreError> {
            let count: i64 = on_read!(self, |pool| sqlx::query_scalar(statement)
                .bind(name.as_str())
                .fetch_one(pool)
                .await)?;
            Ok(count)
        };
        Ok(Some(People {
            all: count(COUNT_PEOPLE).await?,
            without_another_login: count(COUNT_WITHOUT_ANOTHER_LOGIN).await?,
        }))
    }

    /// Gives a provider other settings. Another issuer is for a provider without people: a subject means a person of one issuer alone.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn update_identity_provider(
        &self,
        update: &ProviderUpdate<'_>,
        entries: &[Entry],
    ) -> Result<Updated, StoreError> {
        let ProviderUpdate { old, new, sealed } = update;
        let name = &old.name;
        let mut tx = self.begin().await?;
        run(&mut tx, HOLD, name.as_str()).await?;
        if old.issuer != new.issuer {
            // Behind the hold, so that it sees whoever became known before it.
            let people: i64 = in_tx!(&mut tx, |connection| sqlx::query_scalar(COUNT_PEOPLE)
                .bind(name.as_str())
                .fetch_one(connection)
                .await?);
            if people > 0 {
                return Ok(Updated::People(people));
            }
            // An answer of the issuer before must not go to the new one.
            run(&mut tx, DELETE_LOGINS, name.as_str()).await?;
        }
        let seconds = |since: Option<UnixTime>| since.map(|since| since.0);
        let updated = in_tx!(&mut tx, |connection| sqlx::query(UPDATE)
            .bind(name.as_str())
            .bind(new.issuer.as_str())
            .bind(new.client_id.as_str())
            .bind(new.scope.as_str())
            .bind(seconds(new.links_verified_emails_since))
            .bind(new.directories.as_ref().map(ToString::to_string))
            .bind(seconds(new.reads_email_verified_text_since))
            .bind(old.issuer.as_str())
            .bind(old.client_id.as_str())
            .bind(old.scope.as_str())
            .bind(seconds(old.links_verified_emails_since))
            .bind(old.directories.as_ref().map(ToString::to_string))
            .bind(seconds(old.reads_email_verified_text_since))
            .execute(connection)
            .await?
            .rows_affected());
        if updated != 1 {
            return Ok(Updated::Changed);
        }
        if let (Some(sealed), Some(entry)) = (sealed, entries.first()) {
            set_secret(&mut tx, name, sealed, entry.happened_at).await?;
        }
        for entry in entries {
            audit::insert(&mut tx, entry).await?;
        }
        tx.commit().await?;
        Ok(Updated::Done)
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn identity_provider(&self, name: &ProviderName) -> Result<Option<Provider>, StoreError> {
        let row: Option<ProviderRow> = on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(name.as_str())
            .fetch_optional(pool)
            .await)?;
        row.map(Provider::try_from).transpose()
    }

    /// Every provider, by name.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn identity_providers(&self) -> Result<Vec<Provider>, StoreError> {
        let rows: Vec<ProviderRow> = on_read!(self, |pool| sqlx::query_as(LIST).bind(MOST).fetch_all(pool).await)?;
        rows.into_iter().map(Provider::try_from).collect()
    }

    /// Registers a provider with its sealed client secret; false when its name is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_identity_provider(
        &self,
        provider: &Provider,
        sealed: &str,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let inserted = in_tx!(&mut tx, |connection| sqlx::query(INSERT)
            .bind(provider.name.as_str())
            .bind(provider.issuer.as_str())
            .bind(provider.client_id.as_str())
            .bind(provider.scope.as_str())
            .bind(provider.links_verified_emails_since.map(|since| since.0))
            .bind(provider.created_at.0)
            .bind(provider.directories.as_ref().map(ToString::to_string))
            .bind(provider.reads_email_verified_text_since.map(|since| since.0))
            .execute(connection)
            .await?
            .rows_affected());
        if inserted == 1 {
            set_secret(&mut tx, &provider.name, sealed, entry.happened_at).await?;
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(inserted == 1)
    }

    /// Changes a provider; false when there is none of this name, or nothing to change.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn change_identity_provider(
        &self,
        name: &ProviderName,
        change: &ProviderChange,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let changed = match change {
            ProviderChange::Disable => {
                let now = entry.happened_at.0;
                in_tx!(&mut tx, |connection| sqlx::query(DISABLE)
                    .bind(name.as_str())
                    .bind(now)
                    .execute(connection)
                    .await?
                    .rows_affected())
            }
            ProviderChange::Enable => run(&mut tx, ENABLE, name.as_str()).await?,
            ProviderChange::Delete => delete(&mut tx, name).await?,
            ProviderChange::ChangeSecret { sealed } => {
                let exists = in_tx!(&mut tx, |connection| {
                    let row: Option<ProviderRow> = sqlx::query_as(FIND)
                        .bind(name.as_str())
                        .fetch_optional(connection)
                        .await?;
                    row.is_some()
                });
                if exists {
                    set_secret(&mut tx, name, sealed, entry.happened_at).await?;
                }
                u64::from(exists)
            }
        };
        if changed == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(changed == 1)
    }
}

async fn delete(tx: &mut Tx, name: &ProviderName) -> Result<u64, StoreError> {
    // First, for it waits for whoever is about to link somebody.
    let deleted = run(tx, DELETE, name.as_str()).await?;
    run(tx, DELETE_IDENTITIES, name.as_str()).await?;
    run(tx, DELETE_LOGINS, name.as_str()).await?;
    run(tx, DELETE_SECRET, &name.secret_name()).await?;
    Ok(deleted)
}

/// A statement of one name.
async fn run(tx: &mut Tx, statement: &'static str, name: &str) -> Result<u64, StoreError> {
    Ok(in_tx!(tx, |connection| sqlx::query(statement)
        .bind(name)
        .execute(connection)
        .await?
        .rows_affected()))
}

async fn set_secret(tx: &mut Tx, name: &ProviderName, sealed: &str, now: UnixTime) -> Result<(), StoreError> {
    in_tx!(tx, |connection| sqlx::query(SET_SECRET)
        .bind(name.secret_name())
        .bind(sealed)
        .bind(now.0)
        .execute(connection)
        .await
        .map(|_| ())?);
    Ok(())
}
