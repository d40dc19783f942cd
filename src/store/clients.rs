//! Table `clients`.

use sqlx::FromRow;

use crate::accounts::user::Name;
use crate::clock::{Seconds, UnixTime};
use crate::events::Entry;
use crate::jose::alg::Algorithm;
use crate::jose::jwt::TokenType;
use crate::oauth::claims::RolesClaim;
use crate::oauth::client::{Client, ClientId, ClientKind, Party, SecretDigests};
use crate::oauth::client_keys::ClientKeys;

use super::audit;
use super::{ChangeId, Db, StoreError, Tx, client_keys, in_tx, on_read};

macro_rules! columns {
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT client_id, kind, auth_method, first_party_since, consent, redirect_uris, post_logout_redirect_uris, pkce, \
             client_name, id_token_alg, scope_claims, roles_claim, grants, scope, audiences, serves, alg, token_type, \
             token_ttl, secret_digest, previous_secret_digest, created_at, disabled_at",
            $more,
            $rest
        )
    };
}
const FIND: &str = columns!("", " FROM clients WHERE client_id = $1");
/// In one statement, so that the row is the one of that change.
const FIND_WITH_CHANGE: &str = columns!(", change_id", " FROM clients, client_changes WHERE client_id = $1");
const LIST: &str = columns!("", " FROM clients WHERE client_id > $1 ORDER BY client_id LIMIT $2");
const CHANGE: &str = "SELECT change_id FROM client_changes";
const INSERT: &str = "INSERT INTO clients (client_id, grants, scope, audiences, serves, alg, token_ttl, \
                      secret_digest, created_at, token_type, kind, auth_method, first_party_since, consent, redirect_uris, pkce, \
                      post_logout_redirect_uris, client_name, id_token_alg, scope_claims, roles_claim) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) \
                      ON CONFLICT (client_id) DO NOTHING";
const HAS_ID: &str = "SELECT count(*) FROM clients WHERE client_id = $1";
const AUDIENCES_OF_JWT: &str = "SELECT audiences FROM clients WHERE token_type = 'JWT'";
/// The row stays as it is read until the transaction ends.
const HOLD: &str = columns!("", " FROM clients WHERE client_id = $1 FOR UPDATE");
const UPDATE: &str = "UPDATE clients SET scope = $2, audiences = $3, serves = $4, alg = $5, token_type = $6, token_ttl = $7, \
                      first_party_since = $8, consent = $9, redirect_uris = $10, pkce = $11, post_logout_redirect_uris = $12, \
                      client_name = $13, id_token_alg = $14, scope_claims = $15, roles_claim = $16 WHERE client_id = $1";
const DISABLE: &str = "UPDATE clients SET disabled_at = $2 WHERE client_id = $1 AND disabled_at IS NULL";
const ENABLE: &str = "UPDATE clients SET disabled_at = NULL WHERE client_id = $1 AND disabled_at IS NOT NULL";
const DELETE: &str = "DELETE FROM clients WHERE client_id = $1";
const ADD_SECRET: &str = "UPDATE clients SET previous_secret_digest = secret_digest, secret_digest = $2 WHERE client_id = $1 \
                          AND previous_secret_digest IS NULL AND NOT EXISTS (SELECT 1 FROM client_keys k WHERE k.client_id = $1)";
const END_PREVIOUS_SECRET: &str = "UPDATE clients SET previous_secret_digest = secret_digest, secret_digest = $2 \
                                   WHERE client_id = $1 AND NOT EXISTS (SELECT 1 FROM client_keys k WHERE k.client_id = $1)";
const REPLACE_NEWEST_SECRET: &str = "UPDATE clients SET secret_digest = $2 \
                                     WHERE client_id = $1 AND NOT EXISTS (SELECT 1 FROM client_keys k WHERE k.client_id = $1)";

/// A client with the digests of its secrets.
#[derive(Clone, Debug)]
pub struct StoredClient {
    /// The client.
    pub client: Client,
    /// What its secrets are held against.
    pub secrets: SecretDigests,
}

#[derive(FromRow)]
struct Row {
    client_id: String,
    kind: String,
    auth_method: Option<String>,
    first_party_since: Option<i64>,
    consent: String,
    redirect_uris: String,
    post_logout_redirect_uris: String,
    pkce: String,
    client_name: Option<String>,
    id_token_alg: Option<String>,
    scope_claims: String,
    roles_claim: Option<String>,
    grants: String,
    scope: String,
    audiences: String,
    serves: String,
    alg: Option<String>,
    token_type: Option<String>,
    token_ttl: Option<i64>,
    secret_digest: String,
    previous_secret_digest: Option<String>,
    created_at: i64,
    disabled_at: Option<i64>,
}

#[derive(FromRow)]
struct RowWithChange {
    #[sqlx(flatten)]
    row: Row,
    change_id: String,
}

impl TryFrom<Row> for StoredClient {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        fn words<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
            text.split_ascii_whitespace().map(str::parse).collect()
        }
        fn own<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<T>, T::Err> {
            text.map(str::parse).transpose()
        }
        let corrupt = |reason: &str| StoreError::Corrupt {
            table: "clients",
            row: row.client_id.clone(),
            reason: reason.to_owned(),
        };
        Ok(Self {
            client: Client {
                id: row.client_id.parse().map_err(|_| corrupt("its id"))?,
                kind: ClientKind::parse(&row.kind, row.auth_method.as_deref()).map_err(|_| corrupt("its kind"))?,
                party: Party::parse(row.first_party_since.map(UnixTime), &row.consent)
                    .map_err(|_| corrupt("its consent policy"))?,
                redirect_uris: words(&row.redirect_uris).map_err(|_| corrupt("its redirect URIs"))?,
                post_logout_redirect_uris: words(&row.post_logout_redirect_uris)
                    .map_err(|_| corrupt("its redirect URIs after a logout"))?,
                name: own(row.client_name.as_deref()).map_err(|_| corrupt("its name"))?,
                id_token_alg: own(row.id_token_alg.as_deref())
                    .map_err(|_| corrupt("the algorithm of its ID tokens"))?,
                scope_claims: row
                    .scope_claims
                    .parse()
                    .map_err(|_| corrupt("the place of its claims"))?,
                roles_claim: own(row.roles_claim.as_deref()).map_err(|_| corrupt("its claim of roles"))?,
                is_pkce_optional: row.pkce == PKCE_OPTIONAL,
                grants: words(&row.grants).map_err(|_| corrupt("its grants"))?,
                scope: row.scope.parse().map_err(|_| corrupt("its scope"))?,
                audiences: words(&row.audiences).map_err(|_| corrupt("its audiences"))?,
                serves: words(&row.serves).map_err(|_| corrupt("its served resources"))?,
                alg: own(row.alg.as_deref()).map_err(|_| corrupt("its algorithm"))?,
                token_type: row
                    .token_type
                    .as_deref()
                    .map_or(Ok(TokenType::AtJwt), str::parse)
                    .map_err(|_| corrupt("its token type"))?,
                token_ttl: row.token_ttl.map(Seconds),
                created_at: UnixTime(row.created_at),
                disabled_at: row.disabled_at.map(UnixTime),
            },
            secrets: SecretDigests {
                current: row.secret_digest,
                previous: row.previous_secret_digest,
            },
        })
    }
}

/// A change of a client that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientChange {
    /// It may do nothing from now on.
    Disable,
    /// It may act again.
    Enable,
    /// It is gone.
    Delete,
    /// A new secret beside the one before. A client that proves itself with keys gets none.
    ChangeSecret {
        /// The digest of the new secret.
        digest: String,
        /// Which secret it ends.
        ends: EndedSecret,
    },
}

/// Which secret of a client a new one ends: two are valid at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedSecret {
    /// None, so that a client with two gets no third.
    None,
    /// The older one of two.
    Previous,
    /// The newest, which was lost.
    Newest,
}

/// Other settings for a client that exists.
#[derive(Clone, Copy, Debug)]
pub struct ClientUpdate<'a> {
    /// The client as it was read.
    pub old: &'a Client,
    /// The client as it is to be.
    pub new: &'a Client,
    /// Keys in place of those it has and of its secrets; none changes neither.
    pub keys: Option<&'a ClientKeys>,
}

impl Db {
    /// The client of this id.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn client(&self, id: &ClientId) -> Result<Option<StoredClient>, StoreError> {
        let row: Option<Row> = on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(id.as_str())
            .fetch_optional(pool)
            .await)?;
        row.map(StoredClient::try_from).transpose()
    }

    /// Whether a client has this text as its id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_client_id(&self, text: &str) -> Result<bool, StoreError> {
        let count: i64 = on_read!(self, |pool| sqlx::query_scalar(HAS_ID).bind(text).fetch_one(pool).await)?;
        Ok(count > 0)
    }

    /// The last change of any client; the database names each by itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn client_change(&self) -> Result<ChangeId, StoreError> {
        let id: String = on_read!(self, |pool| sqlx::query_scalar(CHANGE).fetch_one(pool).await)?;
        ChangeId::read("client_changes", &id)
    }

    /// The client of this id, with the last change of any client at that moment.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn client_with_change(&self, id: &ClientId) -> Result<Option<(StoredClient, ChangeId)>, StoreError> {
        let row: Option<RowWithChange> = on_read!(self, |pool| sqlx::query_as(FIND_WITH_CHANGE)
            .bind(id.as_str())
            .fetch_optional(pool)
            .await)?;
        row.map(|RowWithChange { row, change_id }| Ok((row.try_into()?, ChangeId::read("client_changes", &change_id)?)))
            .transpose()
    }

    /// Clients by id, from the one after `after`; at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn clients(&self, after: Option<&ClientId>, limit: u32) -> Result<Vec<StoredClient>, StoreError> {
        let rows: Vec<Row> = on_read!(self, |pool| sqlx::query_as(LIST)
            .bind(after.map_or("", ClientId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await)?;
        rows.into_iter().map(StoredClient::try_from).collect()
    }

    /// Registers a client; false when its id is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_client(&self, client: &Client, digest: &str, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let inserted = insert(&mut tx, client, digest).await?;
        if inserted {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(inserted)
    }

    /// Gives a client other settings; false when it is not as it was read any more.
    ///
    /// # Errors
    /// When the database does not answer, or [`StoreError::AmbiguousAudience`].
    pub async fn update_client(&self, update: &ClientUpdate<'_>, entries: &[Entry]) -> Result<bool, StoreError> {
        let ClientUpdate { old, new, keys } = update;
        let mut tx = self.begin().await?;
        let text = tx.text(FIND, HOLD);
        let row: Option<Row> = in_tx!(&mut tx, |connection| sqlx::query_as(text)
            .bind(old.id.as_str())
            .fetch_optional(connection)
            .await?);
        // Another change that was first is not undone.
        let is_as_it_was = match row {
            Some(row) => StoredClient::try_from(row)?.client == **old,
            None => false,
        };
        if !is_as_it_was {
            return Ok(false);
        }
        in_tx!(&mut tx, |connection| sqlx::query(UPDATE)
            .bind(old.id.as_str())
            .bind(new.scope.to_string())
            .bind(words(&new.audiences))
            .bind(words(&new.serves))
            .bind(new.alg.map(Algorithm::name))
            .bind(new.token_type.name())
            .bind(new.token_ttl.map(|ttl| ttl.0))
            .bind(new.party.first_party_since().map(|since| since.0))
            .bind(new.party.consent_name())
            .bind(words(&new.redirect_uris))
            .bind(pkce(new))
            .bind(words(&new.post_logout_redirect_uris))
            .bind(new.name.as_ref().map(Name::as_str))
            .bind(new.id_token_alg.map(Algorithm::name))
            .bind(new.scope_claims.name())
            .bind(new.roles_claim.as_ref().map(RolesClaim::to_string))
            .execute(connection)
            .await
            .map(|_| ())?);
        refuse_ambiguous(&mut tx, new).await?;
        if let Some(keys) = keys {
            client_keys::replace(&mut tx, &new.id, keys).await?;
        }
        for entry in entries {
            audit::insert(&mut tx, entry).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Changes a client; false when there is none of this id, or nothing to change.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn change_client(&self, id: &ClientId, change: &ClientChange, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let changed = in_tx!(&mut tx, |connection| {
            let query = match change {
                ClientChange::Disable => sqlx::query(DISABLE).bind(id.as_str()).bind(entry.happened_at.0),
                ClientChange::Enable => sqlx::query(ENABLE).bind(id.as_str()),
                ClientChange::Delete => sqlx::query(DELETE).bind(id.as_str()),
                ClientChange::ChangeSecret { digest, ends } => {
                    let text = match ends {
                        EndedSecret::None => ADD_SECRET,
                        EndedSecret::Previous => END_PREVIOUS_SECRET,
                        EndedSecret::Newest => REPLACE_NEWEST_SECRET,
                    };
                    sqlx::query(text).bind(id.as_str()).bind(digest)
                }
            };
            query.execute(connection).await?.rows_affected()
        });
        if changed == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(changed == 1)
    }
}

const PKCE_OPTIONAL: &str = "optional";

const fn pkce(client: &Client) -> &'static str {
    if client.is_pkce_optional {
        PKCE_OPTIONAL
    } else {
        "required"
    }
}

fn words<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

/// False when the id is taken.
pub(super) async fn insert(tx: &mut Tx, client: &Client, digest: &str) -> Result<bool, StoreError> {
    let inserted = in_tx!(tx, |connection| sqlx::query(INSERT)
        .bind(client.id.as_str())
        .bind(words(&client.grants))
        .bind(client.scope.to_string())
        .bind(words(&client.audiences))
        .bind(words(&client.serves))
        .bind(client.alg.map(Algorithm::name))
        .bind(client.token_ttl.map(|ttl| ttl.0))
        .bind(digest)
        .bind(client.created_at.0)
        .bind(client.token_type.name())
        .bind(client.kind.name())
        .bind(client.kind.method_name())
        .bind(client.party.first_party_since().map(|since| since.0))
        .bind(client.party.consent_name())
        .bind(words(&client.redirect_uris))
        .bind(pkce(client))
        .bind(words(&client.post_logout_redirect_uris))
        .bind(client.name.as_ref().map(Name::as_str))
        .bind(client.id_token_alg.map(Algorithm::name))
        .bind(client.scope_claims.name())
        .bind(client.roles_claim.as_ref().map(RolesClaim::to_string))
        .execute(connection)
        .await?
        .rows_affected());
    if inserted == 1 {
        refuse_ambiguous(tx, client).await?;
    }
    Ok(inserted == 1)
}

/// Refuses what would let an access token of type JWT look like an ID token (OpenID Connect Core 1.0 section 2): an audience that is a
/// `client_id`. The row is inserted already and so is the count of changes, for which every other registration waits.
async fn refuse_ambiguous(tx: &mut Tx, client: &Client) -> Result<(), StoreError> {
    let refused = |audience: &str| StoreError::AmbiguousAudience {
        audience: audience.to_owned(),
    };
    if client.token_type == TokenType::Jwt {
        for audience in &client.audiences {
            let taken: i64 = in_tx!(tx, |connection| sqlx::query_scalar(HAS_ID)
                .bind(audience.as_str())
                .fetch_one(connection)
                .await?);
            if taken > 0 {
                return Err(refused(audience.as_str()));
            }
        }
    }
    let audiences: Vec<String> = in_tx!(tx, |connection| sqlx::query_scalar(AUDIENCES_OF_JWT)
        .fetch_all(connection)
        .await?);
    let is_audience = |words: &String| {
        words
            .split_ascii_whitespace()
            .any(|audience| audience == client.id.as_str())
    };
    if audiences.iter().any(is_audience) {
        return Err(refused(client.id.as_str()));
    }
    Ok(())
}
