//! What the tests do behind the server's back: SQL of their own on either database, and key pairs.

use keyround::jose::alg::Algorithm;
use keyround::jose::key::{PrivateKey, RsaBits};
use keyround::keyring::binding;
use keyround::store::signing_keys::SealedKey;
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

use crate::helpers::{TestDatabase, master_key};

/// A connection beside the server's.
pub enum Raw {
    /// To an SQLite file.
    Sqlite(SqlitePool),
    /// To PostgreSQL.
    Postgres(PgPool),
}

/// A transaction that is open.
pub enum Held {
    /// Of SQLite: it keeps every other writer out.
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    /// Of PostgreSQL.
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Held {
    /// Gives the locks back.
    pub async fn let_go(self) {
        match self {
            Self::Sqlite(held) => held.rollback().await.unwrap(),
            Self::Postgres(held) => held.rollback().await.unwrap(),
        }
    }
}

/// One body on either pool.
macro_rules! on_raw {
    ($raw:expr, |$pool:ident| $body:expr) => {
        match $raw {
            Raw::Sqlite($pool) => $body,
            Raw::Postgres($pool) => $body,
        }
    };
}

impl Raw {
    /// Connects to a database that exists.
    pub async fn open(database: &TestDatabase) -> Self {
        if database.url.starts_with("sqlite:") {
            Self::Sqlite(SqlitePool::connect(&database.url).await.unwrap())
        } else {
            Self::Postgres(PgPool::connect(&database.url).await.unwrap())
        }
    }

    /// Runs one statement; answers with the number of rows that it changed.
    pub async fn execute(&self, sql: &str) -> u64 {
        let sql = AssertSqlSafe(sql.to_owned());
        on_raw!(self, |pool| sqlx::raw_sql(sql)
            .execute(pool)
            .await
            .unwrap()
            .rows_affected())
    }

    /// The whole number that a query answers with.
    pub async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        on_raw!(self, |pool| sqlx::query_scalar(sql).fetch_one(pool).await.unwrap())
    }

    /// The texts that a query answers with.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        on_raw!(self, |pool| sqlx::query_scalar(sql).fetch_all(pool).await.unwrap())
    }

    /// Runs one statement in a transaction that stays open, with its locks, until the answer is dropped.
    pub async fn hold(&self, sql: &str) -> Held {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Sqlite(pool) => {
                let mut held = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
                sqlx::raw_sql(sql).execute(&mut *held).await.unwrap();
                Held::Sqlite(held)
            }
            Self::Postgres(pool) => {
                let mut held = pool.begin().await.unwrap();
                sqlx::raw_sql(sql).execute(&mut *held).await.unwrap();
                Held::Postgres(held)
            }
        }
    }

    /// Ends the connection.
    pub async fn close(self) {
        on_raw!(&self, |pool| pool.close().await);
    }
}

/// A key pair as the server makes it, sealed under the tests' master key.
pub fn key_pair(alg: Algorithm) -> SealedKey {
    let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
    let jwk = key.public_jwk().unwrap();
    let sealed = master_key()
        .seal(&binding(&jwk.kid, alg), &key.to_pkcs8_der().unwrap())
        .unwrap();
    SealedKey { jwk, sealed }
}
