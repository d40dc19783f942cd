//! Table `users`.

use sqlx::FromRow;

use crate::accounts::email::Email;
use crate::accounts::session::EndedBy;
use crate::accounts::tenant::TenantId;
use crate::accounts::user::{Name, Role, User, UserId};
use crate::clock::UnixTime;
use crate::events::Entry;
use crate::values::SessionId;

use super::audit;
use super::transaction::retry;
use super::{Db, StoreError, Tx, in_tx, on_read, sessions};

const BY_ID: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, suspended_at \
                     FROM users WHERE user_id = $1";
const BY_EMAIL: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, suspended_at \
                        FROM users WHERE email = $1";
const BY_SPELLINGS: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, \
                            suspended_at FROM users WHERE email = $1 OR email = $2";
const COUNT_OF_SPELLING: &str = "SELECT COUNT(*) FROM users WHERE email = $1";
const IN_ASCII: &str = "SELECT email FROM users WHERE email LIKE '%@%xn--%' ORDER BY email";
const INSERT: &str = "INSERT INTO users (user_id, tenant_id, email, email_verified_at, name, roles, password_hash, \
                      password_changed_at, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (email) DO NOTHING";
const LIST: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, suspended_at \
                    FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2";
const LIST_OF_TENANT: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, \
                              suspended_at FROM users WHERE tenant_id = $3 AND user_id > $1 ORDER BY user_id LIMIT $2";
const SUSPEND: &str = "UPDATE users SET suspended_at = $2 WHERE user_id = $1 AND suspended_at IS NULL";
const RESUME: &str = "UPDATE users SET suspended_at = NULL WHERE user_id = $1 AND suspended_at IS NOT NULL";
const SET_PASSWORD: &str = "UPDATE users SET password_hash = $2, password_changed_at = $3 WHERE user_id = $1";
const SET_ROLES: &str = "UPDATE users SET roles = $2 WHERE user_id = $1";
const HOLD: &str = "UPDATE users SET user_id = user_id WHERE user_id = $1";
const DELETE: &str = "DELETE FROM users WHERE user_id = $1";
const DELETE_IDENTITIES: &str = "DELETE FROM federated_identities WHERE user_id = $1";

/// The most users that are read at once.
pub const PAGE: u32 = 100;

/// A user with what the password is held against.
#[derive(Clone)]
pub struct StoredUser {
    /// The user.
    pub user: User,
    /// The hash of the password, as it is stored; none for who logs in by another provider alone.
    pub password_hash: Option<String>,
}

impl std::fmt::Debug for StoredUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredUser({}, hidden)", self.user.id)
    }
}

/// A change of an account that exists.
#[derive(Clone, PartialEq, Eq)]
pub enum UserChange {
    /// It may do nothing from now on, and its sessions have ended.
    Suspend,
    /// It may act again; its sessions stay ended.
    Resume,
    /// Another password, by this hash; every session has ended.
    SetPassword {
        /// The hash, as it is stored.
        hash: String,
    },
    /// Other roles, in access tokens from the next one on.
    SetRoles(Vec<Role>),
    /// Every session has ended.
    EndSessions,
    /// It is gone, with every session and every link to another provider. Of the sessions their ids stay until they expire.
    Delete,
}

impl UserChange {
    /// Why it ends the sessions; none when it leaves them alone.
    const fn ends_sessions(&self) -> Option<EndedBy> {
        match self {
            Self::Suspend => Some(EndedBy::Suspension),
            Self::SetPassword { .. } => Some(EndedBy::PasswordChange),
            Self::EndSessions => Some(EndedBy::Operator),
            Self::Delete => Some(EndedBy::Deletion),
            Self::Resume | Self::SetRoles(_) => None,
        }
    }
}

#[derive(FromRow)]
pub(super) struct UserRow {
    user_id: String,
    tenant_id: String,
    email: String,
    email_verified_at: Option<i64>,
    name: String,
    roles: String,
    password_hash: Option<String>,
    created_at: i64,
    suspended_at: Option<i64>,
}

impl TryFrom<UserRow> for StoredUser {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        let corrupt = |reason: &str| StoreError::Corrupt {
            table: "users",
            row: row.user_id.clone(),
            reason: reason.to_owned(),
        };
        let roles: Result<Vec<Role>, _> = row.roles.split_ascii_whitespace().map(str::parse).collect();
        Ok(Self {
            user: User {
                id: row.user_id.parse().map_err(|_| corrupt("its id"))?,
                tenant: row.tenant_id.parse().map_err(|_| corrupt("its tenant"))?,
                email: Email::stored(&row.email).map_err(|_| corrupt("its e-mail"))?,
                email_verified_at: row.email_verified_at.map(UnixTime),
                name: Name::stored(&row.name).map_err(|_| corrupt("its name"))?,
                roles: roles.map_err(|_| corrupt("its roles"))?,
                created_at: UnixTime(row.created_at),
                suspended_at: row.suspended_at.map(UnixTime),
            },
            password_hash: row.password_hash,
        })
    }
}

impl Db {
    /// The user of this id.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn user(&self, id: UserId) -> Result<Option<StoredUser>, StoreError> {
        let row: Option<UserRow> = on_read!(self, |pool| sqlx::query_as(BY_ID)
            .bind(id.to_string())
            .fetch_optional(pool)
            .await)?;
        row.map(StoredUser::try_from).transpose()
    }

    /// The user with this address.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn user_by_email(&self, email: &Email) -> Result<Option<StoredUser>, StoreError> {
        let row: Option<UserRow> = match email.spellings() {
            (given, None) => on_read!(self, |pool| sqlx::query_as(BY_EMAIL)
                .bind(given)
                .fetch_optional(pool)
                .await)?,
            (given, Some(other)) => {
                let mut rows: Vec<UserRow> = on_read!(self, |pool| sqlx::query_as(BY_SPELLINGS)
                    .bind(given)
                    .bind(other)
                    .fetch_all(pool)
                    .await)?;
                // Two accounts of an earlier version are still two.
                rows.sort_by_key(|row| row.email != given);
                rows.into_iter().next()
            }
        };
        row.map(StoredUser::try_from).transpose()
    }

    /// Addresses of one mailbox that are the names of two accounts. An earlier version took both spellings of a domain.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn accounts_of_one_mailbox(&self) -> Result<Vec<(String, String)>, StoreError> {
        let in_ascii: Vec<String> = on_read!(self, |pool| sqlx::query_scalar(IN_ASCII).fetch_all(pool).await)?;
        let mut found = Vec::new();
        for address in in_ascii {
            let Ok(email) = address.parse::<Email>() else { continue };
            if email.as_str() == address {
                continue;
            }
            let count: i64 = on_read!(self, |pool| sqlx::query_scalar(COUNT_OF_SPELLING)
                .bind(email.as_str())
                .fetch_one(pool)
                .await)?;
            if count > 0 {
                found.push((address, email.as_str().to_owned()));
            }
        }
        Ok(found)
    }

    /// Makes an account; false when its address is taken.
    ///
    /// # Errors
    /// When the database does not answer, or there is no such tenant.
    pub async fn create_user(&self, stored: &StoredUser, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let inserted = insert(&mut tx, stored).await?;
        if inserted {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(inserted)
    }
}

impl Db {
    /// Users by id, from the one after `after`; of one tenant or of all; at most `limit`, and never more than [`PAGE`].
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn users(
        &self,
        tenant: Option<&TenantId>,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<User>, StoreError> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let limit = i64::from(limit.min(PAGE));
        let rows: Vec<UserRow> = on_read!(self, |pool| match tenant {
            Some(tenant) =>
                sqlx::query_as(LIST_OF_TENANT)
                    .bind(after)
                    .bind(limit)
                    .bind(tenant.as_str())
                    .fetch_all(pool)
                    .await,
            None => sqlx::query_as(LIST).bind(after).bind(limit).fetch_all(pool).await,
        })?;
        rows.into_iter()
            .map(|row| StoredUser::try_from(row).map(|stored| stored.user))
            .collect()
    }

    /// Changes an account in one transaction; answers with the sessions that it ended, or with nothing when there is no such
    /// account or nothing to change. By the database's clock: by it the nodes look for what has ended lately.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn change_user(
        &self,
        id: UserId,
        change: &UserChange,
        entry: &Entry,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        retry(async || self.try_to_change_user(id, change, entry).await).await
    }

    async fn try_to_change_user(
        &self,
        id: UserId,
        change: &UserChange,
        entry: &Entry,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        // The account before its sessions: a login that holds the account is waited for, and its session is seen below.
        if !apply(&mut tx, id, change, now).await? {
            return Ok(None);
        }
        let ended = match change.ends_sessions() {
            Some(why) => sessions::end_of_user(&mut tx, id, None, now, why).await?,
            None => Vec::new(),
        };
        if matches!(change, UserChange::SetPassword { .. }) {
            sessions::note_ends(&mut tx, &ended, entry, EndedBy::PasswordChange, now).await?;
        }
        if *change == UserChange::Delete {
            sessions::blank(&mut tx, id).await?;
            in_tx!(&mut tx, |connection| sqlx::query(DELETE_IDENTITIES)
                .bind(id.to_string())
                .execute(connection)
                .await?
                .rows_affected());
        }
        audit::note(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(Some(ended))
    }
}

/// False when there is no such account, or nothing to change.
async fn apply(tx: &mut Tx, id: UserId, change: &UserChange, now: UnixTime) -> Result<bool, StoreError> {
    let id = id.to_string();
    let changed = in_tx!(tx, |connection| {
        let query = match change {
            UserChange::Suspend => sqlx::query(SUSPEND).bind(id).bind(now.0),
            UserChange::Resume => sqlx::query(RESUME).bind(id),
            UserChange::SetPassword { hash } => sqlx::query(SET_PASSWORD).bind(id).bind(hash).bind(now.0),
            UserChange::SetRoles(roles) => sqlx::query(SET_ROLES).bind(id).bind(words(roles)),
            UserChange::EndSessions => sqlx::query(HOLD).bind(id),
            UserChange::Delete => sqlx::query(DELETE).bind(id),
        };
        query.execute(connection).await?.rows_affected()
    });
    Ok(changed == 1)
}

fn words(roles: &[Role]) -> String {
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(" ")
}

/// False when the address is taken.
pub(super) async fn insert(tx: &mut Tx, StoredUser { user, password_hash }: &StoredUser) -> Result<bool, StoreError> {
    // An account of an earlier version may have the other spelling; none is made with it any more.
    if let (given, Some(other)) = user.email.spellings() {
        for spelling in [given, other] {
            let count: i64 = in_tx!(tx, |connection| sqlx::query_scalar(COUNT_OF_SPELLING)
                .bind(spelling)
                .fetch_one(connection)
                .await?);
            if count > 0 {
                return Ok(false);
            }
        }
    }
    let inserted = in_tx!(tx, |connection| sqlx::query(INSERT)
        .bind(user.id.to_string())
        .bind(user.tenant.as_str())
        .bind(user.email.as_str())
        .bind(user.email_verified_at.map(|at| at.0))
        .bind(user.name.as_str())
        .bind(words(&user.roles))
        .bind(password_hash.as_deref())
        .bind(password_hash.as_ref().map(|_| user.created_at.0))
        .bind(user.created_at.0)
        .execute(connection)
        .await?
        .rows_affected());
    Ok(inserted == 1)
}
