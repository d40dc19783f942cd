//! What is measured, and compared with a measurement of the same run: on a quiet machine, by `make proof-measured`, for a busy one
//! shows its own load.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may panic, and so may what it stands on"
)]

#[path = "../it/child.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod child;
#[path = "../it/helpers.rs"]
#[allow(dead_code, unused_macros, reason = "the other binary uses the rest")]
mod helpers;
#[path = "../it/network.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod network;
#[path = "../it/rows.rs"]
#[allow(dead_code, reason = "the other binary uses the rest")]
mod rows;

mod bounds;
mod hash_costs;
mod lists;
mod login_times;
mod memory;
#[path = "../proof/results.rs"]
mod results;
mod revocations;
#[path = "../proof/until.rs"]
mod until;

use until::until;
