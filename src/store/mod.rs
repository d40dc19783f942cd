//! The only SQL: one text for SQLite and PostgreSQL, one file per table.
//!
//! Columns are 64-bit integers and text. Every statement is a constant and is tested on both databases.

mod advice;
pub mod allowance;
pub mod audit;
pub mod authorization_codes;
pub mod backup;
mod change;
pub mod client_keys;
pub mod clients;
mod clock;
pub mod compatibility;
pub mod consents;
pub mod copy;
mod db;
pub mod denied_tokens;
pub mod dump;
mod error;
pub mod federated_identities;
pub mod federated_logins;
mod health;
pub mod identity_providers;
mod kept;
pub mod key_change;
pub mod key_uses;
pub mod limits;
mod locks;
pub mod login_sessions;
pub mod look;
mod migrations;
pub mod nodes;
pub mod outage;
mod pace;
pub mod passwords;
mod pooling;
mod pools;
mod primary;
pub mod resources;
pub mod revocation_changes;
mod rights;
mod room;
mod schema;
pub mod sealed;
pub mod secrets;
mod servers;
pub mod sessions;
mod shape;
pub mod signing_keys;
mod sqlite_file;
mod tables;
pub mod tenants;
mod timeout;
mod transaction;
pub mod users;
pub mod verifying_keys;

use std::time::Duration;

pub use change::ChangeId;
pub use db::Db;
pub use error::StoreError;
pub use kept::KeptConnections;
pub use migrations::known_schema;
pub use pace::ROUND_TRIPS;
pub use pools::{PoolUse, waits_for_connections};
pub use rights::needed_rights;
pub use servers::Servers;
pub use sqlite_file::SqliteFile;
pub use timeout::STATEMENT_TIMEOUT;

pub(crate) use timeout::{on_read, on_write};
pub(crate) use transaction::{Tx, in_tx};

/// For how long a node remembers a change that can be taken back, in case the database loses it. What a failover loses is seconds
/// old.
pub const REMEMBERED: Duration = Duration::from_hours(1);
