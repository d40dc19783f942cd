//! Metrics of password attempts and sessions.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::{OutcomeLabel, ReasonLabel};

/// What proofs by a password tell; clones count together.
#[derive(Clone, Default)]
pub struct LoginMetrics {
    attempts: Family<OutcomeLabel, Counter>,
    unreadable_hashes: Counter,
}

impl LoginMetrics {
    /// Somebody tried to prove to be somebody, with this outcome.
    pub fn tried(&self, outcome: &'static str) {
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// What is stored for a user is no hash of a password.
    pub fn unreadable_hash(&self) {
        self.unreadable_hashes.inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "password_attempts",
            "Attempts to log in, register or change a password, by outcome",
            self.attempts.clone(),
        );
        registry.register(
            "unreadable_password_hashes",
            "Logins refused because what is stored is no hash of a password",
            self.unreadable_hashes.clone(),
        );
    }
}

/// What sessions tell; clones count together.
#[derive(Clone, Default)]
pub struct SessionMetrics {
    started: Counter,
    refreshes: Family<OutcomeLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    ended: Family<ReasonLabel, Counter>,
    reused: Counter,
    rolled_back: Counter,
    pruned: Counter,
}

impl SessionMetrics {
    /// Somebody logged in.
    pub fn started(&self) {
        self.started.inc();
    }

    /// A refresh token got its successor, for the first time.
    pub fn rotated(&self) {
        self.refreshes.get_or_create(&OutcomeLabel { outcome: "rotated" }).inc();
    }

    /// A refresh token got its successor once more.
    pub fn replayed(&self) {
        self.refreshes
            .get_or_create(&OutcomeLabel { outcome: "replayed" })
            .inc();
    }

    /// A refresh token got nothing.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// So many sessions were ended on this node.
    pub fn ended(&self, reason: &'static str, count: u64) {
        self.ended.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }

    /// A used refresh token came again: it may be stolen.
    pub fn reused(&self) {
        self.reused.inc();
    }

    /// A refresh token was newer than the database.
    pub fn rolled_back(&self) {
        self.rolled_back.inc();
    }

    /// So many expired sessions were forgotten by this node.
    pub fn pruned(&self, count: u64) {
        self.pruned.inc_by(count);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("sessions_started", "Logins", self.started.clone());
        registry.register(
            "refreshes",
            "Refresh tokens that got their successor, for the first time or once more",
            self.refreshes.clone(),
        );
        registry.register(
            "refreshes_refused",
            "Refresh tokens that got nothing",
            self.refused.clone(),
        );
        registry.register(
            "sessions_ended",
            "Sessions that were ended before their time, by the reason",
            self.ended.clone(),
        );
        registry.register(
            "refresh_tokens_reused",
            "Used refresh tokens that came again and may be stolen; each ended its session",
            self.reused.clone(),
        );
        registry.register(
            "refresh_tokens_rolled_back",
            "Refresh tokens newer than the database: an older one was put in its place; each ended its session",
            self.rolled_back.clone(),
        );
        registry.register(
            "sessions_pruned",
            "Expired sessions that were forgotten",
            self.pruned.clone(),
        );
    }
}
