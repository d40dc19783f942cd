//! The labels of metrics.

use prometheus_client::encoding::EncodeLabelSet;

use crate::jose::alg::Algorithm;

/// Label of everything that is told per algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AlgorithmLabel {
    pub(super) alg: &'static str,
}

/// Labels of the number of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// The algorithm.
    pub alg: &'static str,
    /// The state.
    pub state: &'static str,
}

/// Label of refusals: one of ours, never what was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub(super) reason: &'static str,
}

/// Label of refreshes that went well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    pub(super) outcome: &'static str,
}

/// Label of what the health endpoints look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CheckLabel {
    /// Its name there.
    pub check: &'static str,
}

/// Labels of connections to the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolLabels {
    /// Which of them: those that read, the one that writes, or all.
    pub pool: &'static str,
    /// `in_use` or `idle`.
    pub state: &'static str,
}

/// Label of answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    pub(super) status: u16,
}

/// Label of everything that is told per key: only names of our own keys, so there are not many.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KeyLabel {
    pub(super) kid: String,
}

impl AlgorithmLabel {
    /// The label of this algorithm.
    #[must_use]
    pub const fn new(alg: Algorithm) -> Self {
        Self { alg: alg.name() }
    }
}
