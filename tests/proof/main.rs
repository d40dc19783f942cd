//! What must hold when everything around it fails: real servers, killed, cut off, with a database that hangs and clocks that
//! lie. A binary of its own, because its tests measure: nothing else runs beside them.
//!
//! `make test` runs it beside a throw-away PostgreSQL, named by `TEST_POSTGRES_URL`; without one these tests fail.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic, and so may what it stands on"
)]

#[path = "../it/child.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod child;
#[path = "../it/faketime.rs"]
mod faketime;
#[path = "../it/helpers.rs"]
#[allow(dead_code, unused_macros, reason = "the other binary uses the rest")]
mod helpers;
#[path = "../it/libfaketime.rs"]
mod libfaketime;
#[path = "../it/network.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod network;
#[path = "../it/rows.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod rows;

/// Runs one body on an SQLite database and beside it on a PostgreSQL one: most of the time both only wait.
macro_rules! on_both_databases_at_once {
    ($name:ident, |$database:ident| $body:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            async fn body($database: $crate::helpers::TestDatabase) {
                $body
            }
            let sqlite = tokio::spawn(body($crate::helpers::TestDatabase::sqlite()));
            let postgres = tokio::spawn(body($crate::helpers::TestDatabase::postgres().await));
            sqlite.await.unwrap();
            postgres.await.unwrap();
        }
    };
}

mod clocks;
mod copied;
mod crashes;
mod cut_off;
mod hangs;
mod lifetimes;
mod named_steps;
mod namespace;
mod overdue;
mod set_back;
mod until;
mod verifier;

use until::until;
