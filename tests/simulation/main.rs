//! The life of signing keys under thousands of random schedules: nodes with skewed clocks, stale snapshots, pauses and
//! crashes, every verifier at once, changing policies, emergencies, outages, clocks that jump.
//!
//! Nothing here does input or output or real cryptography. A schedule follows from its seed alone.

#![expect(clippy::expect_used, reason = "a simulation stops at what cannot be")]

mod invariants;
mod node;
mod properties;
mod random;
mod revocations;
mod rules;
mod sabotage;
mod saboteur;
mod schedule;
mod store;
mod world;

use sabotage::Without;

const SCHEDULES: u64 = 2_000;

#[test]
fn every_invariant_holds_under_every_schedule() {
    let mut total = invariants::Figures::default();
    for seed in 0..SCHEDULES {
        let outcome = schedule::run(seed, Without::Nothing, false);
        if let Some(violation) = outcome.violation {
            let trace = schedule::run(seed, Without::Nothing, true).trace.join("\n");
            panic!(
                "seed {seed}\n{trace}\n{} is violated: {}",
                violation.invariant, violation.what
            );
        }
        total.tokens += outcome.figures.tokens;
        total.verifications += outcome.figures.verifications;
        total.rotations += outcome.figures.rotations;
        total.emergencies += outcome.figures.emergencies;
    }
    println!(
        "{SCHEDULES} schedules, {} tokens verified {} times, {} rotations, {} emergencies",
        total.tokens, total.verifications, total.rotations, total.emergencies
    );
}
