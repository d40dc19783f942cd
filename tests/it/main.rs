//! One integration binary: a module per endpoint and concern.
//!
//! `make test` runs it beside a throw-away PostgreSQL, named by `TEST_POSTGRES_URL`; without one these tests fail.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod crash;
mod helpers;
mod migrations;
mod replicas;
mod rotation;
mod rows;
mod skeleton;
mod store;
