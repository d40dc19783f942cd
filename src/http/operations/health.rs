//! What an orchestrator and a dashboard ask: alive, ready to publish, ready to sign, and the metrics.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::clock::{Reading, Seconds, UnixTime};
use crate::http::state::Server;
use crate::jose::alg::Algorithm;
use crate::keyring::{Ledger, Snapshot};
use crate::keys::state::State;
use crate::keys::trusted_time::Doubt;
use crate::store::waits_for_connections;
use crate::telemetry::{AlgorithmLabel, CheckLabel, PoolLabels, StateLabels};

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
    /// Whether a failure leaves this node in service: balancers go by the status, people and `healthcheck` by every check.
    advisory: bool,
}

impl Check {
    fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok,
            detail: detail.into(),
            advisory: false,
        }
    }

    fn advisory(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            advisory: true,
            ..Self::new(name, ok, detail)
        }
    }
}

/// Whether the process answers, and what runs beside its requests is not stuck.
pub async fn live(server: web::Data<Server>) -> HttpResponse {
    answer(vec![Check::new("process", true, "it answers"), tasks(&server)])
}

fn tasks(server: &Server) -> Check {
    let stuck: Vec<String> = server
        .tasks
        .stuck()
        .into_iter()
        .map(|(task, age)| format!("{task} (for {} s)", age.as_secs()))
        .collect();
    let detail = named("all run", "these made no progress; restart the server:", &stuck);
    Check::new("tasks", stuck.is_empty(), detail)
}

/// Whether the key set that this node serves can be trusted to hold every key in time.
pub async fn ready_to_publish(server: web::Data<Server>) -> HttpResponse {
    let (snapshot, reading, _) = moment(&server);
    answer(vec![publishing(&server, &snapshot, reading), serving(&server)])
}

/// Whether this node can sign, clients are found, and rotation works.
pub async fn ready_to_issue(server: web::Data<Server>) -> HttpResponse {
    let looked_up = looked_up(&server).await;
    let (snapshot, reading, now) = moment(&server);
    let mut checks = issuing(&server, &snapshot, reading, now);
    checks.extend(looked_up);
    checks.push(serving(&server));
    answer(checks)
}

/// Whether load balancers may send requests: not while the server stops.
fn serving(server: &Server) -> Check {
    let is_stopping = server.is_stopping();
    let detail = if is_stopping {
        "the server is stopping; send requests to another node"
    } else {
        "the server accepts requests"
    };
    Check::new("serving", !is_stopping, detail)
}

fn issuing(server: &Server, snapshot: &Snapshot, reading: Reading, now: UnixTime) -> Vec<Check> {
    let policy = server.keyring.policy();
    let age = snapshot.age(reading);
    let fresh = age < policy.windows().snapshot_max_age;
    let doubt = snapshot.trusted().doubt();
    let without = snapshot.without_signer(policy, now);
    let overdue = snapshot.overdue(policy, now);
    let progress = server.rotation.progress();
    vec![
        Check::new(
            "snapshot",
            fresh,
            match server.rotation.failed_look() {
                None => format!("the keys were read {age} ago"),
                Some(error) => format!("the keys were read {age} ago; the last try failed: {error}"),
            },
        ),
        Check::new(
            "clock",
            doubt.is_none_or(Doubt::is_harmless),
            doubt.map_or_else(
                || "it agrees with all that it is compared with".to_owned(),
                |doubt| doubt.to_string(),
            ),
        ),
        Check::new(
            "signer",
            without.is_empty(),
            signer(&without, &snapshot.left_out(policy)),
        ),
        Check::new(
            "rotation",
            overdue.is_empty(),
            format!(
                "{}; {} failures in a row{}",
                named("on time", "overdue for", &overdue),
                progress.failures,
                progress
                    .last_error
                    .map(|error| format!(", the last: {error}"))
                    .unwrap_or_default()
            ),
        ),
        Check::new(
            "private_halves",
            snapshot.unopened.is_empty(),
            named(
                "all open under the master key",
                "these do not open:",
                &snapshot.unopened,
            ),
        ),
        ledger(server, snapshot),
        // Every node signs on, and every node sees the same rows: a red status would take all of them out of service.
        Check::advisory("rows", snapshot.vanished.is_empty(), gone(snapshot)),
    ]
}

fn signer(without: &[Algorithm], left_out: &[Algorithm]) -> String {
    let detail = named("every enabled algorithm has a signer", "no signer for", without);
    if left_out.is_empty() {
        return detail;
    }
    let left_out = named("", "left out of keys.algorithms but not removed:", left_out);
    format!("{detail}; {left_out}")
}

/// Whether a revocation outlives a database that was set back, and whether the database has lost one.
fn ledger(server: &Server, snapshot: &Snapshot) -> Check {
    let failure = server.keyring.ledger().and_then(Ledger::failure);
    let ok = snapshot.distrusted.is_empty() && failure.is_none();
    let mut detail = named(
        "the database trusts no key that was revoked",
        "these were revoked, but the database trusts them:",
        &snapshot.distrusted,
    );
    if let Some(failure) = failure {
        detail = format!("{detail}; {failure}");
    } else if server.keyring.ledger().is_none() {
        detail.push_str("; no ledger is kept, because keys.ledger_file is not set");
    }
    Check::new("ledger", ok, detail)
}

/// Whether the client of a request would be found: the statement of every request, for an id that need not exist.
async fn clients(server: &Server) -> Check {
    match server.registry.probe().await {
        Ok(()) => Check::new("clients", true, "a client can be looked up"),
        Err(error) => Check::new("clients", false, format!("no client can be looked up: {error}")),
    }
}

/// What the database is asked for now, all at once: an answer of this listener is due within 3 s.
async fn looked_up(server: &Server) -> [Check; 6] {
    let (clients, database) = tokio::join!(clients(server), server.database_probe.look());
    // Every node has the same database, and most of their work may go on: a red status would take all of them out of service.
    let check = |name, good: &str, answer: Result<(), String>| match answer {
        Ok(()) => Check::advisory(name, true, good),
        Err(problem) => Check::advisory(name, false, problem),
    };
    let rights = check("rights", "no right that a server needs is missing", database.rights);
    let schema = check("schema", "no part of the schema is missing", database.schema);
    let room = check("room", "no write failed for want of room", database.room);
    let locks = check("locks", "no lock keeps requests from a table", database.locks);
    // Of this node alone: what it writes is lost.
    let file = match database.file {
        Ok(()) => Check::new("file", true, "the open database file is the one at its path"),
        Err(problem) => Check::new("file", false, problem),
    };
    [clients, rights, schema, room, locks, file]
}

/// The metrics, in the OpenMetrics text format.
pub async fn metrics(server: web::Data<Server>) -> HttpResponse {
    let looked_up = looked_up(&server).await;
    let (snapshot, reading, now) = moment(&server);
    gauges(&server, &snapshot, reading, now, looked_up);
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(server.metrics.encode())
}

fn moment(server: &Server) -> (std::sync::Arc<Snapshot>, Reading, UnixTime) {
    let snapshot = server.keyring.snapshot();
    let reading = server.clock.read();
    let now = snapshot.keys_at(reading, server.keyring.policy());
    (snapshot, reading, now)
}

fn publishing(server: &Server, snapshot: &Snapshot, reading: Reading) -> Check {
    let bound = snapshot.publishing_bound(server.keyring.policy());
    let age = snapshot.age(reading);
    let ok = age <= bound && !snapshot.key_set.jwks().is_empty();
    Check::new(
        "key_set",
        ok,
        format!(
            "{} keys, read {age} ago; up to {bound} is safe",
            snapshot.key_set.jwks().len()
        ),
    )
}

fn gone(snapshot: &Snapshot) -> String {
    let kids: Vec<_> = snapshot.vanished.iter().map(|vanished| &vanished.jwk.kid).collect();
    named(
        "none has vanished",
        "gone before their time, and still published:",
        &kids,
    )
}

fn named<T: ToString>(good: &str, bad: &str, names: &[T]) -> String {
    if names.is_empty() {
        return good.to_owned();
    }
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    format!("{bad} {}", names.join(", "))
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
    checks: Vec<Check>,
}

fn answer(checks: Vec<Check>) -> HttpResponse {
    let ok = checks.iter().all(|check| check.ok);
    let status = if checks.iter().all(|check| check.ok || check.advisory) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(Answer {
            status: if ok { "ok" } else { "failing" },
            checks,
        })
}

fn gauges(server: &Server, snapshot: &Snapshot, reading: Reading, now: UnixTime, looked_up: [Check; 6]) {
    let (metrics, policy) = (&server.metrics, server.keyring.policy());
    for alg in Algorithm::ALL {
        let published = snapshot.keys.verifying().iter();
        let count = published
            .filter(|key| key.jwk.alg == alg && key.state(policy, now).is_published())
            .count();
        metrics
            .imported_keys
            .get_or_create(&AlgorithmLabel::new(alg))
            .set(count_of(count));
    }
    for alg in snapshot.keys.algorithms() {
        for state in State::ALL {
            let count = snapshot
                .keys
                .line(alg)
                .iter()
                .filter(|key| !key.is_keyless() && snapshot.keys.state(key, policy, now) == state)
                .count();
            let labels = StateLabels {
                alg: alg.name(),
                state: state.name(),
            };
            metrics.keys.get_or_create(&labels).set(count_of(count));
        }
        let label = AlgorithmLabel::new(alg);
        if let Some(active) = snapshot.keys.active(alg, now) {
            let age = seconds((now - active.activates_at).0);
            metrics.key_age.get_or_create(&label).set(age);
        }
        if let Some(next) = snapshot.keys.next_activation(alg, policy, now) {
            metrics
                .next_activation
                .get_or_create(&label)
                .set(seconds((next - now).0));
        }
    }
    let mut checks = issuing(server, snapshot, reading, now);
    checks.extend([publishing(server, snapshot, reading), serving(server), tasks(server)]);
    checks.extend(looked_up);
    for Check { name, ok, .. } in checks {
        metrics.checks.get_or_create(&CheckLabel { check: name }).set(ok.into());
    }
    let progress = server.rotation.progress();
    metrics
        .last_rotation
        .set(seconds(progress.last_success.map_or(0, |time| time.0)));
    metrics.rotation_failures.set(i64::from(progress.failures));
    metrics.unopened_keys.set(count_of(snapshot.unopened.len()));
    metrics.distrusted_keys.set(count_of(snapshot.distrusted.len()));
    let unwritten = server.keyring.ledger().map_or(0, Ledger::unwritten);
    metrics.unwritten_revocations.set(count_of(unwritten));
    metrics.vanished_keys.set(count_of(snapshot.vanished.len()));
    let doubted_by = snapshot.trusted().doubt().map_or(Seconds::ZERO, Doubt::length);
    metrics.clock_doubt.set(seconds(doubted_by.0));
    let restored = server.rotation.restored_records();
    metrics
        .restored_records
        .set(i64::try_from(restored).unwrap_or(i64::MAX));
    metrics.snapshot_age.set(seconds(snapshot.age(reading).0));
    for pool in server.db.pools() {
        for (state, connections) in [("in_use", pool.in_use), ("idle", pool.idle)] {
            let labels = PoolLabels { pool: pool.name, state };
            metrics
                .database_connections
                .get_or_create(&labels)
                .set(connections.into());
        }
    }
    let (waits, timeouts) = waits_for_connections();
    // The store counts; an answer beside this one may have taken a part.
    metrics
        .database_waits
        .inc_by(waits.saturating_sub(metrics.database_waits.get()));
    metrics
        .database_timeouts
        .inc_by(timeouts.saturating_sub(metrics.database_timeouts.get()));
    metrics.connections.set(count_of(server.connections.count()));
    metrics.differing_nodes.set(count_of(server.rotation.differing_nodes()));
}

fn count_of(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit into the 52 bits")]
const fn seconds(seconds: i64) -> f64 {
    seconds as f64
}
