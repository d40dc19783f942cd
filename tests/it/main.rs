//! One integration binary: a module per endpoint and concern.
//!
//! `make test` runs it beside a throw-away PostgreSQL, named by `TEST_POSTGRES_URL`; without one these tests fail.

mod architecture;
mod health;
mod helpers;
mod key_set;
mod logs;
mod metadata;
mod process;
mod raw;
mod skeleton;
mod start;
mod token;
mod token_refusals;
mod transport;
