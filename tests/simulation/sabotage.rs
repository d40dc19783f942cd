//! One rule taken out of the simulated node, while the real core stays whole: its answers are changed on their way.

/// The rule that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Every rule holds.
    Nothing,
    /// A new generation signs from the moment of its publication.
    Prepublication,
    /// `prepublish >= P + C + S`, one summand short.
    PropagationInPrepublish,
    CacheInPrepublish,
    SkewInPrepublish,
    /// `verify_window >= J + T + L + S`, one summand short.
    SnapshotAgeInWindow,
    TokenLifetimeInWindow,
    LeewayInWindow,
    SkewInWindow,
    /// The half stays until `superseded_at + J + S`.
    DelayedDestruction,
    /// The half goes at all.
    Destruction,
    /// The last half of an algorithm stays.
    LastHalfKept,
    /// A node signs only with a young snapshot.
    SnapshotAge,
    /// An insert honours the longer `prepublish` of the rows.
    LongerPrepublishHonoured,
    /// A late commit is refused.
    CommitGuard,
    /// A late commit is refused in time for a fast signer: the slack is half of S, not S.
    TightCommitGuard,
    /// The late commit's share of P counts in readiness.
    CommitShareInReadiness,
    /// A node with an old snapshot is not ready.
    Readiness,
    /// A node that cannot load never drops a key by itself.
    PublishingOutlivesSigning,
    /// Keys that sign at once are signed with by slow nodes too: back-dated, or standing in.
    SigningAtOnceOnSlowNodes,
    /// Back-dated activation of keys that sign at once.
    BackDating,
    /// An emergency revokes the pending generations.
    EmergencyRevokesPending,
    /// An emergency destroys the superseded halves.
    EmergencyDestroysHalves,
    /// An emergency inserts a key that signs at once.
    EmergencyReplacement,
    /// The replacement signs at once.
    EmergencySignsAtOnce,
    /// A revoked key leaves the set at once.
    RevokedLeaves,
    /// A row that has its private half is not purged.
    PurgeWithoutHalf,
    /// Only expired rows are purged.
    PurgeExpiredOnly,
    /// Oldest first.
    PurgeOrder,
    /// A node whose clock is off does not plan.
    DoubtStopsPlanning,
    /// A node whose clock is off does not sign.
    DoubtStopsSigning,
    /// A jump on an embedded database is not believed.
    JumpDetection,
    /// Beside a database server the monotonic clock is asked too.
    MonotonicBesideDatabase,
    /// A start is compared with what the database has reached.
    StartsAreCompared,
    /// Keys go by the time that was reached until a clock is confirmed that is ahead at a start.
    KeysWaitForConfirmation,
    /// A confirmed step moves the times of the keys.
    StepsMoveKeys,
    /// Keys of a node that signed in doubt stay for a window once another one is sure.
    LeapsKeepKeys,
    /// No key leaves, not even at a start, that a node in doubt may still sign with.
    MarksKeepKeys,
    /// What is in the set at a confirmed step stays for a window.
    StepsKeepKeys,
    /// A node that was away during a step counts it.
    StepsAreCounted,
    /// Nothing is forgotten while keys are kept after a step or a leap.
    LeapsKeepDenials,
    /// Nothing is forgotten while the clock is in doubt.
    DoubtStopsForgetting,
    /// A token lives no longer than its row allows.
    RowLimitsLifetime,
    /// `max_token_ttl` never shrinks.
    LifetimeNeverShrinks,
    /// After a gap one key is inserted, ahead of its use.
    OneKeyAfterGap,
    /// A pending key far ahead is outranked.
    Outranking,
    /// The set stays below `max_published`.
    Room,
    /// The room is looked at again in the transaction.
    RoomRechecked,
    /// `UNIQUE (alg, generation)`.
    UniqueGeneration,
    /// A first start finds the table empty, in its own transaction.
    FirstStartGuard,
    /// An algorithm's very first key does not stand in.
    FirstKeyWaits,
    /// An algorithm that was added later is pre-published like any other.
    AddedAlgorithmPrepublished,
    /// The halves of a removed algorithm are destroyed.
    RemovedHalvesDestroyed,
    /// A removal takes effect when every node has read it.
    RemovalLead,
    /// The line of an algorithm that the settings leave out goes on until it is removed.
    LeftOutGoesOn,
    /// A removal is taken back only while its last key can sign and is published.
    TakenBackInTime,
    /// A revocation takes every kid of the key material.
    AliasesGoTogether,
    /// A look counts only when the database committed a write in it.
    LooksAreWrites,
    /// A node keeps a revocation that it learnt of, and writes it again when the database has lost it.
    KnownRevocationsStay,
    /// A key that a node published stays when the database has lost its row.
    VanishedStay,
    /// The same of a key that only verifies.
    VanishedImportsStay,
    /// A node keeps how long the tokens of a key may live, and writes it again when the database has lost it.
    KnownLifetimesStay,
}

impl Without {
    /// Whether the rule that is missing makes keys sign earlier than the core decided.
    pub fn shortens_the_lead(self) -> bool {
        matches!(
            self,
            Self::Prepublication
                | Self::PropagationInPrepublish
                | Self::CacheInPrepublish
                | Self::SkewInPrepublish
                | Self::LongerPrepublishHonoured
                | Self::OneKeyAfterGap
        )
    }

    /// What a schedule must hold for the rule to matter, where random ones seldom do.
    pub fn focus(self) -> Focus {
        let usual = Focus::default();
        match self {
            Self::TightCommitGuard | Self::CommitShareInReadiness => Focus {
                tight: true,
                events: &[0],
                ..usual
            },
            Self::RemovalLead => Focus {
                events: &[0, 8, 16, 16],
                ..usual
            },
            Self::LeftOutGoesOn => Focus { events: &[8], ..usual },
            Self::TakenBackInTime => Focus {
                events: &[8, 16, 17],
                ..usual
            },
            Self::AliasesGoTogether => Focus {
                events: &[10, 18],
                ..usual
            },
            Self::PublishingOutlivesSigning => Focus {
                far_ahead: true,
                events: &[0],
                ..usual
            },
            Self::Outranking => Focus {
                shrinking: true,
                events: &[8],
                ..usual
            },
            Self::RoomRechecked => Focus {
                crowded: true,
                events: &[11],
                ..usual
            },
            Self::BackDating => Focus {
                events: &[6, 10, 10],
                ..usual
            },
            Self::LooksAreWrites => Focus {
                events: &[19, 19, 8, 10],
                ..usual
            },
            Self::KnownLifetimesStay => Focus {
                events: &[8, 8, 20],
                ..usual
            },
            Self::KnownRevocationsStay | Self::VanishedStay | Self::VanishedImportsStay => {
                Focus { events: &[20], ..usual }
            }
            Self::EmergencySignsAtOnce => Focus { events: &[10], ..usual },
            Self::DoubtStopsPlanning => Focus { events: &[7], ..usual },
            Self::MonotonicBesideDatabase => Focus { events: &[14], ..usual },
            Self::StartsAreCompared
            | Self::KeysWaitForConfirmation
            | Self::StepsKeepKeys
            | Self::StepsMoveKeys
            | Self::DoubtStopsForgetting => Focus {
                events: &[14, 15],
                ..usual
            },
            Self::MarksKeepKeys => Focus {
                events: &[2, 8, 14, 15],
                ..usual
            },
            Self::LeapsKeepKeys | Self::LeapsKeepDenials | Self::StepsAreCounted => Focus {
                events: &[0, 3, 5, 5, 14, 15, 19],
                ..usual
            },
            Self::SnapshotAge | Self::SnapshotAgeInWindow => Focus {
                events: &[0, 0, 8, 10],
                ..usual
            },
            _ => usual,
        }
    }
}

/// A preference for some schedules.
#[expect(
    clippy::struct_excessive_bools,
    reason = "preferences are independent of one another"
)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Focus {
    /// The shortest lead, with clocks that differ by more than a refresh.
    pub tight: bool,
    /// A long lead, so that a node without the database stays ready for long.
    pub far_ahead: bool,
    /// Periods that become much shorter.
    pub shrinking: bool,
    /// A set that is nearly full.
    pub crowded: bool,
    /// The kinds of events that are half of all.
    pub events: &'static [i64],
}
