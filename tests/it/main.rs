//! One integration binary: a module per endpoint and concern.
//!
//! `make test` runs it beside a throw-away PostgreSQL, named by `TEST_POSTGRES_URL`; without one these tests fail.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic, and so may what it stands on"
)]

mod architecture;
mod command_line;
mod crash;
mod deployment;
mod documents;
mod health;
mod helpers;
mod key_set;
mod logs;
mod metadata;
mod migrations;
mod process;
mod raw;
mod replicas;
mod rotation;
mod rows;
mod runbooks;
mod skeleton;
mod start;
mod store;
mod token;
mod token_refusals;
mod transport;
