//! What the outside can watch: structured logs, and metrics in the OpenMetrics format.

mod accounts;
mod format;
mod http;
mod labels;
mod log_queue;
mod logging;
mod process;
mod request;
mod tls;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;

pub use accounts::{LoginMetrics, SessionMetrics};
pub use http::HttpMetrics;
pub use labels::{AlgorithmLabel, CheckLabel, PoolLabels, StateLabels};
use labels::{KeyLabel, ReasonLabel, StatusLabel};
pub use log_queue::{MAX_QUEUED_BYTES, MAX_QUEUED_LINES};
use logging::DROPPED_LOG_LINES;
pub use logging::{LogFormat, Logging, start_logging};
use process::ProcessMetrics;
pub use request::{LONGEST_REQUEST_ID, Request};
use tls::SecondsGauge;
pub use tls::TlsMetrics;

/// Every metric. Counters are counted where things happen; gauges are set when somebody asks.
pub struct Metrics {
    registry: Registry,
    /// Without our prefix.
    process_registry: Registry,
    process: ProcessMetrics,
    /// Requests by endpoint.
    pub http: HttpMetrics,
    /// Connections to the database.
    pub database_connections: Family<PoolLabels, Gauge>,
    /// Transactions that found no idle connection.
    pub database_waits: Counter,
    /// Waits for a connection that took too long.
    pub database_timeouts: Counter,
    tokens_signed: Family<AlgorithmLabel, Counter>,
    signing_duration: Family<AlgorithmLabel, Histogram>,
    refusals: Family<ReasonLabel, Counter>,
    key_set_answers: Family<StatusLabel, Counter>,
    verifications: Family<KeyLabel, Counter>,
    last_verification: Family<KeyLabel, SecondsGauge>,
    /// What the health endpoints look at: 1 when it is in order, else 0.
    pub checks: Family<CheckLabel, Gauge>,
    /// Keys by algorithm and state.
    pub keys: Family<StateLabels, Gauge>,
    /// Published keys that only verify, by algorithm.
    pub imported_keys: Family<AlgorithmLabel, Gauge>,
    /// Time until the next generation signs; negative when it is late.
    pub next_activation: Family<AlgorithmLabel, SecondsGauge>,
    /// Time since the active key began to sign.
    pub key_age: Family<AlgorithmLabel, SecondsGauge>,
    /// When the schedule last did what was due, in Unix seconds.
    pub last_rotation: SecondsGauge,
    /// Failures of the schedule since then.
    pub rotation_failures: Gauge,
    /// Private halves that do not open under the master key.
    pub unopened_keys: Gauge,
    /// Keys that were revoked, though the database trusts them.
    pub distrusted_keys: Gauge,
    /// Revoked keys that the ledger of this node lacks.
    pub unwritten_revocations: Gauge,
    /// Keys whose rows are gone before their time.
    pub vanished_keys: Gauge,
    /// By how much the clock is in doubt; 0 when it is not.
    pub clock_doubt: SecondsGauge,
    /// Records that were written again after the database had lost them.
    pub restored_records: Gauge,
    /// Age of the snapshot that is served.
    pub snapshot_age: SecondsGauge,
    /// Living nodes with another policy.
    pub differing_nodes: Gauge,
    /// Open connections of the public listener.
    pub connections: Gauge,
    /// Connections that ended to make room for others.
    pub displaced_connections: Counter,
    /// TLS of the public listener.
    pub tls: TlsMetrics,
    /// Sessions.
    pub sessions: SessionMetrics,
    /// Proofs by a password.
    pub logins: LoginMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("keyround"),
            process_registry: Registry::default(),
            process: ProcessMetrics::default(),
            http: HttpMetrics::default(),
            database_connections: Family::default(),
            database_waits: Counter::default(),
            database_timeouts: Counter::default(),
            tokens_signed: Family::default(),
            signing_duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(20e-6, 2.0, 14))),
            refusals: Family::default(),
            key_set_answers: Family::default(),
            verifications: Family::default(),
            last_verification: Family::default(),
            checks: Family::default(),
            keys: Family::default(),
            imported_keys: Family::default(),
            next_activation: Family::default(),
            key_age: Family::default(),
            last_rotation: SecondsGauge::default(),
            rotation_failures: Gauge::default(),
            unopened_keys: Gauge::default(),
            unwritten_revocations: Gauge::default(),
            distrusted_keys: Gauge::default(),
            vanished_keys: Gauge::default(),
            clock_doubt: SecondsGauge::default(),
            restored_records: Gauge::default(),
            snapshot_age: SecondsGauge::default(),
            differing_nodes: Gauge::default(),
            tls: TlsMetrics::default(),
            connections: Gauge::default(),
            displaced_connections: Counter::default(),
            sessions: SessionMetrics::default(),
            logins: LoginMetrics::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("tokens_signed", "Tokens signed", self.tokens_signed.clone());
        registry.register_with_unit(
            "signing_duration",
            "Time one signature takes",
            Unit::Seconds,
            self.signing_duration.clone(),
        );
        registry.register("refusals", "Refused requests for tokens", self.refusals.clone());
        registry.register(
            "key_set_answers",
            "Answers with the key set",
            self.key_set_answers.clone(),
        );
        registry.register(
            "verifications",
            "Valid tokens seen at this node's endpoints, by the key that signed them",
            self.verifications.clone(),
        );
        registry.register_with_unit(
            "last_verification_timestamp",
            "When this node last saw a valid token by this key",
            Unit::Seconds,
            self.last_verification.clone(),
        );
        registry.register(
            "check",
            "What the health endpoints look at: 1 when it is in order, else 0",
            self.checks.clone(),
        );
        registry.register("keys", "Keys by algorithm and state", self.keys.clone());
        registry.register(
            "imported_keys",
            "Published keys that only verify, by algorithm",
            self.imported_keys.clone(),
        );
        registry.register_with_unit(
            "next_activation",
            "Time until the next generation signs; negative when it is late",
            Unit::Seconds,
            self.next_activation.clone(),
        );
        registry.register_with_unit(
            "key_age",
            "Time since the active key began to sign",
            Unit::Seconds,
            self.key_age.clone(),
        );
        registry.register_with_unit(
            "last_successful_rotation_timestamp",
            "When the schedule last did what was due",
            Unit::Seconds,
            self.last_rotation.clone(),
        );
        registry.register(
            "rotation_failures",
            "Failures of the schedule in a row",
            self.rotation_failures.clone(),
        );
        registry.register(
            "unopened_keys",
            "Private halves that do not open under the master key",
            self.unopened_keys.clone(),
        );
        registry.register(
            "distrusted_keys",
            "Keys that were revoked though the database trusts them",
            self.distrusted_keys.clone(),
        );
        registry.register(
            "unwritten_revocations",
            "Revoked keys that the ledger of this node lacks, because it cannot be written",
            self.unwritten_revocations.clone(),
        );
        registry.register(
            "restored_records",
            "Denied tokens, ended sessions and disabled tenants that the database had lost and this node wrote again",
            self.restored_records.clone(),
        );
        registry.register(
            "vanished_keys",
            "Keys whose rows are gone before their time",
            self.vanished_keys.clone(),
        );
        registry.register_with_unit(
            "clock_doubt",
            "By how much the clock is off, if it is wrong; 0 when it is not in doubt",
            Unit::Seconds,
            self.clock_doubt.clone(),
        );
        registry.register_with_unit(
            "snapshot_age",
            "Age of the keys that are served",
            Unit::Seconds,
            self.snapshot_age.clone(),
        );
        registry.register(
            "differing_nodes",
            "Living nodes that run with another policy",
            self.differing_nodes.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When the certificate of the public listener expires; 0 without TLS",
            Unit::Seconds,
            self.tls.expiry.clone(),
        );
        registry.register(
            "tls_certificate_refused",
            "1 while the certificate or key in the files is refused and the one before is served, else 0",
            self.tls.refused.clone(),
        );
        registry.register(
            "connections",
            "Open connections of the public listener",
            self.connections.clone(),
        );
        registry.register(
            "displaced_connections",
            "Connections that ended to make room for others",
            self.displaced_connections.clone(),
        );
        registry.register(
            "dropped_log_lines",
            "Log lines that could not be written",
            DROPPED_LOG_LINES.clone(),
        );
        registry.register(
            "database_connections",
            "Connections to the database, in use or idle",
            self.database_connections.clone(),
        );
        registry.register(
            "database_waits",
            "Transactions that found no idle connection to the database and waited for one",
            self.database_waits.clone(),
        );
        registry.register(
            "database_timeouts",
            "Waits for a connection to the database that took too long",
            self.database_timeouts.clone(),
        );
        self.sessions.register(registry);
        self.logins.register(registry);
        self.http.register(registry);
        self.process.register(&mut self.process_registry);
    }

    /// A token was signed, in this time.
    pub fn signed(&self, alg: Algorithm, took: std::time::Duration) {
        let label = AlgorithmLabel::new(alg);
        self.tokens_signed.get_or_create(&label).inc();
        self.signing_duration.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A valid token by this key was seen.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit into the 52 bits")]
    pub fn verified(&self, kid: &Kid, now: UnixTime) {
        let label = KeyLabel { kid: kid.to_string() };
        self.verifications.get_or_create(&label).inc();
        self.last_verification.get_or_create(&label).set(now.0 as f64);
    }

    /// A request for a token was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The key set was asked for.
    pub fn key_set_answered(&self, status: u16) {
        self.key_set_answers.get_or_create(&StatusLabel { status }).inc();
    }

    /// Everything in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        self.process.look();
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.process_registry))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}
