//! One test a rule: without it, the simulation finds a violation. Whoever removes a rule from the core learns here what it
//! was for.

use crate::sabotage::Without;
use crate::schedule;

/// Runs schedules until one is violated.
fn found_within(schedules: u64, without: Without, expected: &[&str]) {
    for seed in 0..schedules {
        if let Some(violation) = schedule::run(seed, without, false).violation {
            println!(
                "{without:?}: {} after {} schedules: {}",
                violation.invariant,
                seed + 1,
                violation.what
            );
            if !expected.contains(&violation.invariant) {
                let trace = schedule::run(seed, without, true).trace.join("\n");
                panic!("{trace}\n{violation:?}, not one of {expected:?}");
            }
            return;
        }
    }
    panic!("{schedules} schedules without {without:?} violate nothing");
}

macro_rules! rules {
    ($($test:ident: $rule:ident violates $($invariant:literal),+;)+) => {
        $(#[test]
        fn $test() {
            found_within(4_000, Without::$rule, &[$($invariant),+]);
        })+
    };
}

rules! {
    keys_are_published_before_they_sign: Prepublication violates "I1", "I2";
    prepublish_holds_the_propagation: PropagationInPrepublish violates "I1";
    prepublish_holds_the_cache: CacheInPrepublish violates "I1";
    prepublish_holds_the_skew: SkewInPrepublish violates "I1";
    the_window_holds_the_snapshot_age: SnapshotAgeInWindow violates "I1";
    the_window_holds_the_token_lifetime: TokenLifetimeInWindow violates "I1";
    the_window_holds_the_leeway: LeewayInWindow violates "I1";
    the_window_holds_the_skew: SkewInWindow violates "I1";
    halves_outlive_the_slowest_clock: DelayedDestruction violates "I2", "I3";
    halves_are_destroyed: Destruction violates "I4";
    the_last_half_stays: LastHalfKept violates "I2", "I3", "I6";
    old_snapshots_do_not_sign: SnapshotAge violates "I1", "I3", "revoked", "emergency";
    a_shorter_prepublish_waits: LongerPrepublishHonoured violates "I1";
    late_commits_are_refused: CommitGuard violates "I1", "I2";
    late_commits_are_refused_in_time: TightCommitGuard violates "I1";
    readiness_counts_the_commit: CommitShareInReadiness violates "I1";
    old_sets_are_not_ready: Readiness violates "I1";
    publishing_outlives_signing: PublishingOutlivesSigning violates "I1", "I2";
    keys_that_sign_at_once_sign_everywhere: SigningAtOnceOnSlowNodes violates "I3";
    signing_at_once_is_back_dated: BackDating violates "I1", "I2", "I3";
    an_emergency_revokes_what_is_pending: EmergencyRevokesPending violates "emergency";
    an_emergency_destroys_superseded_halves: EmergencyDestroysHalves violates "emergency";
    an_emergency_inserts_a_replacement: EmergencyReplacement violates "I2", "I3", "emergency";
    a_replacement_signs_at_once: EmergencySignsAtOnce violates "I2", "I3";
    a_revoked_key_leaves: RevokedLeaves violates "revoked";
    rows_with_a_half_are_not_purged: PurgeWithoutHalf violates "I6";
    only_expired_rows_are_purged: PurgeExpiredOnly violates "I1", "purge order";
    purges_go_oldest_first: PurgeOrder violates "purge order";
    a_doubtful_clock_does_not_plan: DoubtStopsPlanning violates "I1", "I2", "I3", "I4", "I5", "I6", "rotation", "denied";
    a_doubtful_clock_does_not_sign: DoubtStopsSigning violates "I1", "I2", "I3";
    a_jump_is_not_believed: JumpDetection violates "I1", "I2", "I3", "I4", "I5", "I6", "denied";
    a_database_on_the_same_clock_is_no_witness: MonotonicBesideDatabase violates "I1", "I2", "I3", "I4", "I5", "I6", "denied";
    a_start_is_compared_with_the_record: StartsAreCompared violates "I1", "I2", "I3", "I4", "I5", "I6", "denied";
    no_key_signs_because_of_a_start_ahead: KeysWaitForConfirmation violates "I1", "I2", "I3";
    a_step_moves_the_keys: StepsMoveKeys violates "I1", "I2", "I3";
    a_leap_keeps_keys: LeapsKeepKeys violates "I1", "denied";
    a_mark_keeps_keys: MarksKeepKeys violates "I1";
    a_step_keeps_keys: StepsKeepKeys violates "I1", "denied";
    a_leap_keeps_denials: LeapsKeepDenials violates "denied";
    a_node_that_was_away_counts_steps: StepsAreCounted violates "I1", "I2", "I3", "I5", "denied";
    a_clock_in_doubt_forgets_nothing: DoubtStopsForgetting violates "denied";
    the_row_limits_the_lifetime: RowLimitsLifetime violates "I1";
    a_lifetime_never_shrinks: LifetimeNeverShrinks violates "I1";
    after_a_gap_one_key_comes: OneKeyAfterGap violates "I1", "I2", "I5";
    a_key_far_ahead_is_outranked: Outranking violates "rotation";
    the_set_keeps_its_size: Room violates "size";
    the_room_is_looked_at_again: RoomRechecked violates "size";
    a_generation_is_unique: UniqueGeneration violates "I5";
    a_first_start_finds_nothing: FirstStartGuard violates "I3";
    the_first_key_waits: FirstKeyWaits violates "I2";
    an_added_algorithm_is_published_first: AddedAlgorithmPrepublished violates "I1", "I2";
    the_halves_of_a_removed_algorithm_go: RemovedHalvesDestroyed violates "I4";
    a_standby_is_no_look: LooksAreWrites violates "I1", "I2", "I3", "revoked", "emergency";
    what_a_node_knew_is_not_forgotten: KnownRevocationsStay violates "forgotten";
    a_lost_row_is_no_revocation: VanishedStay violates "I1";
    a_lost_import_is_no_revocation: VanishedImportsStay violates "vanished";
    a_lost_lifetime_stays_known: KnownLifetimesStay violates "I1";
    a_removal_is_read_before_it_counts: RemovalLead violates "I1", "I2", "announced";
    an_algorithm_that_is_left_out_goes_on: LeftOutGoesOn violates "I3", "I6";
    a_removal_is_taken_back_in_time: TakenBackInTime violates "I1", "I2", "I3", "I5";
    aliases_of_one_key_go_together: AliasesGoTogether violates "alias";
}
