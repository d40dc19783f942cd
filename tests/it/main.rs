//! One integration binary: a module per endpoint and concern.
//!
//! `make test` runs it beside a throw-away PostgreSQL, named by `TEST_POSTGRES_URL`; without one these tests fail.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic, and so may what it stands on"
)]

mod applications;
mod architecture;
mod argument_files;
mod auth;
mod backup;
mod blocked_logs;
mod bounds;
mod checks;
#[allow(dead_code, reason = "tests/proof uses the rest")]
mod child;
mod client_assertions;
mod client_kinds;
mod clock_leaps;
mod clocks;
mod command_line;
mod conformance;
mod connections;
mod crash;
mod database;
mod database_connection;
mod database_copy;
mod database_roles;
mod deployment;
mod documents;
mod failover;
mod faked_clocks;
mod faketime;
mod federation;
mod first_minutes;
mod full_disk;
mod gateways;
mod health;
mod helpers;
mod hostile_tokens;
mod imports;
mod input;
mod introspection;
mod key_set;
mod layouts;
mod ledger;
mod libfaketime;
mod limits;
mod locks;
mod logins;
mod logs;
mod master_keys;
mod metadata;
mod migrations;
mod network;
mod observability;
mod oidc;
mod operating;
mod output;
mod owasp;
mod own_postgres;
mod people;
mod pooling;
mod ports;
mod process;
mod public_vectors;
mod raw;
mod registry;
mod remote_key_sets;
mod replicas;
#[path = "../proof/results.rs"]
mod results;
mod revocation_changes;
mod revoked_in_doubt;
mod rotation;
#[allow(dead_code, reason = "tests/proof uses the rest")]
mod rows;
mod runbooks;
mod schema_forms;
mod schema_parts;
mod sessions;
mod set_back;
mod shutdown;
mod skeleton;
mod sqlite_files;
mod start;
mod store;
mod terminal;
mod tls;
mod token;
mod token_commands;
mod token_refusals;
mod transport;
mod user_commands;
mod wrong_settings;
