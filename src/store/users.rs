//! Table `users`.

use sqlx::FromRow;

use crate::accounts::email::Email;
use crate::accounts::user::{Role, User, UserId};
use crate::clock::UnixTime;

use super::audit::{self, Entry};
use super::{Db, StoreError, Tx, in_tx, on_read};

const BY_ID: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, suspended_at \
                     FROM users WHERE user_id = $1";
const BY_EMAIL: &str = "SELECT user_id, tenant_id, email, email_verified_at, name, roles, password_hash, created_at, suspended_at \
                        FROM users WHERE email = $1";
const INSERT: &str = "INSERT INTO users (user_id, tenant_id, email, email_verified_at, name, roles, password_hash, \
                      password_changed_at, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (email) DO NOTHING";

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

#[derive(FromRow)]
pub(super) struct Row {
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

impl TryFrom<Row> for StoredUser {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
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
                email: row.email.parse().map_err(|_| corrupt("its e-mail"))?,
                email_verified_at: row.email_verified_at.map(UnixTime),
                name: row.name.parse().map_err(|_| corrupt("its name"))?,
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
        let row: Option<Row> = on_read!(self, |pool| sqlx::query_as(BY_ID)
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
        let row: Option<Row> = on_read!(self, |pool| sqlx::query_as(BY_EMAIL)
            .bind(email.as_str())
            .fetch_optional(pool)
            .await)?;
        row.map(StoredUser::try_from).transpose()
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

/// False when the address is taken.
pub(super) async fn insert(tx: &mut Tx, StoredUser { user, password_hash }: &StoredUser) -> Result<bool, StoreError> {
    let roles: Vec<&str> = user.roles.iter().map(Role::as_str).collect();
    let inserted = in_tx!(tx, |connection| sqlx::query(INSERT)
        .bind(user.id.to_string())
        .bind(user.tenant.as_str())
        .bind(user.email.as_str())
        .bind(user.email_verified_at.map(|at| at.0))
        .bind(user.name.as_str())
        .bind(roles.join(" "))
        .bind(password_hash.as_deref())
        .bind(password_hash.as_ref().map(|_| user.created_at.0))
        .bind(user.created_at.0)
        .execute(connection)
        .await?
        .rows_affected());
    Ok(inserted == 1)
}
