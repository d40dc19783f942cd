//! One integration binary: a module per endpoint and concern.
//!
//! `make test` runs it beside a throw-away PostgreSQL, named by `TEST_POSTGRES_URL`; without one these tests fail.

mod command_line;
mod helpers;
mod skeleton;
