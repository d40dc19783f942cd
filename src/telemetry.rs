//! What the outside can watch: structured logs, and metrics in the OpenMetrics format.

mod format;
mod http;
mod log_queue;
mod process;
mod request;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;

use format::{Lines, Quoted};
pub use http::HttpMetrics;
use log_queue::LogQueue;
pub use log_queue::{MAX_QUEUED_BYTES, MAX_QUEUED_LINES};
use process::ProcessMetrics;
pub use request::{LONGEST_REQUEST_ID, Request};

/// There is one log a process, and it may run before there are metrics.
static DROPPED_LOG_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Label of everything that is told per algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AlgorithmLabel {
    alg: &'static str,
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
    reason: &'static str,
}

/// Label of refreshes that went well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    outcome: &'static str,
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
    status: u16,
}

/// Label of everything that is told per key: only names of our own keys, so there are not many.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KeyLabel {
    kid: String,
}

type SecondsGauge = Gauge<f64, AtomicU64>;

/// What TLS of the public listener tells; clones count together.
#[derive(Clone, Default)]
pub struct TlsMetrics {
    expiry: SecondsGauge,
    refused: Gauge,
}

impl TlsMetrics {
    /// A certificate is served that expires then.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit into the 52 bits")]
    pub fn served(&self, expires_at: UnixTime) {
        self.expiry.set(expires_at.0 as f64);
        self.refused.set(0);
    }

    /// What the files hold now is refused.
    pub fn refused(&self) {
        self.refused.set(1);
    }
}

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

    fn register(&self, registry: &mut Registry) {
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

    fn register(&self, registry: &mut Registry) {
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

impl AlgorithmLabel {
    /// The label of this algorithm.
    #[must_use]
    pub const fn new(alg: Algorithm) -> Self {
        Self { alg: alg.name() }
    }
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

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line; control characters in values are escaped.
    Json,
}

/// The log of a server; the last lines are written when it is dropped.
pub struct Logging(LogQueue);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Sends logs to standard error from now on, panics among them.
///
/// # Errors
/// When the system refuses a thread.
pub fn start_logging(format: LogFormat, filter: &str) -> std::io::Result<Logging> {
    let queue = LogQueue::start(std::io::stderr(), DROPPED_LOG_LINES.clone())?;
    let lines = Lines {
        queue: queue.clone(),
        is_json: format == LogFormat::Json,
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter_of(filter))
        .with_writer(lines);
    match format {
        LogFormat::Text => logs.fmt_fields(Quoted).init(),
        LogFormat::Json => logs.json().init(),
    }
    // The hook of the standard library writes to standard error itself, and waits for its reader.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
        tracing::error!(location, backtrace, "panic: {message}");
    }));
    Ok(Logging(queue))
}

/// The filter, without lines of libraries that it does not name: any caller could fill the log with malformed requests, and the pool
/// writes a line for each connection that it gives up while a database is away.
fn filter_of(text: &str) -> EnvFilter {
    let left_out = [
        ("actix_http", "actix_http=off"),
        ("sqlx", "sqlx_core::pool=off"),
        // "relation already exists, skipping", at a start that brings the schema up to date.
        ("sqlx", "sqlx=warn"),
    ];
    let directives = left_out.into_iter().filter(|(name, _)| !text.contains(name));
    directives
        .filter_map(|(_, directive)| directive.parse().ok())
        // Configuration has parsed the text before.
        .fold(EnvFilter::new(text), EnvFilter::add_directive)
}
