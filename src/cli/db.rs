//! `keyround db`: the database itself: its schema, whether it is in order, and what nobody needs any more.

mod copy;
mod upgrade;

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use crate::app::{open_database, open_ledger};
use crate::clock::{Seconds, UnixTime};
use crate::config::{Config, MasterKeySource};
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::keyring::{Ledger, node_in_doubt, trusted_time};
use crate::keys::lifecycle::Keys;
use crate::keys::plan;
use crate::keys::policy::Policy;
use crate::keys::state::State;
use crate::rotation::rewrap::{Census, Under, census};
use crate::rotation::sealing::heartbeat_memory;
use crate::store::nodes::FORGOTTEN_AFTER;
use crate::store::{Db, StoreError, known_schema};
use crate::tasks::housekeeping::{prune, prune_audit, prune_limits};
use crate::values::{Database, parse_duration};

use super::clock;
use super::context::{ACTOR, Context, exists, missing_folder};
use super::failure::Failure;
use super::master_key::master_keys;
use super::output;

#[derive(Subcommand)]
pub enum DatabaseCommand {
    /// Bring the schema up to date, as the first server of a new version does at its start.
    Migrate,
    /// See whether everything is in order, and leave everything as it is; fails when it is not.
    Check {
        /// Instead, before an upgrade and with the binary of the new version: what it would change, who may change it, and whether the servers that run go on.
        #[arg(long)]
        for_upgrade: bool,
    },
    /// Copy everything into another, empty database (SQLite or PostgreSQL), while no server runs; nothing is rotated and no session ends.
    Copy(copy::CopyRequest),
    /// Delete what nothing depends on: nodes not seen for a day, expired sessions and unused limits. Expired keys leave by the schedule alone.
    ///
    /// An SQLite file becomes smaller; the first prune of a file from an earlier version rewrites it, which keeps writers out for about a
    /// second for each 100 MB. PostgreSQL reuses the space by itself.
    Prune {
        /// Delete the records of the audit log that are older than this too, such as 400d. Without it none is ever deleted.
        #[arg(long, value_name = "AGE", value_parser = age)]
        audit_older_than: Option<Seconds>,
    },
}

pub async fn run(context: &Context, command: &DatabaseCommand) -> Result<(), Failure> {
    let config = context.config()?;
    match command {
        DatabaseCommand::Migrate => migrate(context, &config).await,
        DatabaseCommand::Check { for_upgrade } => check(context, &config, *for_upgrade).await,
        DatabaseCommand::Copy(request) => copy::run(context, &config, request).await,
        DatabaseCommand::Prune { audit_older_than } => forget(context, *audit_older_than).await,
    }
}

/// The servers that run on this database.
async fn living_nodes(db: &Db, policy: &Policy, now: UnixTime) -> Result<Vec<String>, Failure> {
    let nodes = db.living_nodes(now, heartbeat_memory(policy)).await?;
    Ok(nodes.iter().map(ToString::to_string).collect())
}

async fn migrate(context: &Context, config: &Config) -> Result<(), Failure> {
    let folder = missing_folder(&config.database);
    let db = open_database(&config.database).await?;
    let from = db.schema_version().await?;
    db.migrate().await?;
    let to = db.schema_version().await?;
    db.require_working_schema().await?;
    if let Some(folder) = folder.filter(|_| !context.json) {
        output::line(&format!("made the folder {}", folder.display()));
    }
    if context.json {
        output::json(&json!({ "from": from, "to": to }));
    } else if to > known_schema() {
        output::line(&format!(
            "nothing is to be done: the schema is of a later version of Keyround, {to}, and works with this one"
        ));
    } else if from == to {
        output::line(&format!("the schema is up to date: version {to}"));
    } else {
        output::line(&format!("the schema was brought from version {from} to version {to}"));
    }
    Ok(())
}

/// Younger records are what an investigation needs first.
const SHORTEST_AUDIT: Seconds = Seconds(86_400);

fn age(text: &str) -> Result<Seconds, String> {
    let age = parse_duration(text).map_err(|refusal| format!("it {refusal}"))?;
    if age < SHORTEST_AUDIT {
        return Err(format!("it is too short; the least is {SHORTEST_AUDIT}"));
    }
    Ok(age)
}

async fn forget(context: &Context, audit_older_than: Option<Seconds>) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let trusted = trusted_time(&db, &config.keys.policy, &context.clock, None).await?;
    if let Some(doubt) = trusted.doubt() {
        return Err(Failure::Refused(format!(
            "the clock is in doubt, so nothing was deleted: {doubt}"
        )));
    }
    let now = trusted.reached();
    let nodes = db.forget_nodes(now - FORGOTTEN_AFTER, now + FORGOTTEN_AFTER).await?;
    let skew = config.keys.policy.windows().clock_skew;
    let sessions = prune(&db, now - skew * 2, &context.clock).await?;
    let limits = prune_limits(&db, now - skew * 2, &context.clock).await?;
    let audit = match audit_older_than {
        Some(age) => prune_audit(&db, now - age, &context.clock).await?,
        None => 0,
    };
    let reason = format!("{nodes} nodes, {sessions} sessions, {limits} limits, {audit} records of the audit log");
    db.note(&Entry::new(
        Event::DatabasePruned,
        "database",
        now,
        ACTOR.as_str(),
        reason,
    ))
    .await?;
    let space = db.give_space_back().await?;
    if context.json {
        let size = space.map(|(before, after)| json!({ "before": before, "after": after }));
        output::json(
            &json!({ "nodes": nodes, "sessions": sessions, "limits": limits, "audit": audit, "file_size": size }),
        );
    } else {
        output::line(&format!(
            "forgot {nodes} nodes that were not seen for {FORGOTTEN_AFTER}"
        ));
        output::line(&format!("forgot {sessions} sessions that have expired"));
        output::line(&format!("forgot {limits} limits that nobody has used up anything of"));
        if let Some(age) = audit_older_than {
            output::line(&format!(
                "deleted {audit} records of the audit log that are older than {age}"
            ));
        }
        if let Some((before, after)) = space {
            output::line(&format!("the file has {after} octets and had {before}"));
        }
    }
    Ok(())
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Finding {
    fn new(name: &'static str, good: &str, problems: &[String]) -> Self {
        Self {
            name,
            ok: problems.is_empty(),
            detail: if problems.is_empty() {
                good.to_owned()
            } else {
                problems.join("; ")
            },
        }
    }

    fn answer<T>(name: &'static str, good: &str, config: &Config, answer: Result<T, StoreError>) -> Self {
        let role = config.database.role();
        let told = |error: StoreError| match (error.missing_right(role), error.about_file()) {
            (Some(right), _) => format!("the database refuses it: {right}"),
            (None, Some(about)) => format!("the file cannot be used: {about}"),
            (None, None) => error.to_string(),
        };
        let problems: Vec<String> = answer.err().map(told).into_iter().collect();
        Self::new(name, good, &problems)
    }
}

async fn check(context: &Context, config: &Config, for_upgrade: bool) -> Result<(), Failure> {
    if let Database::Sqlite { path } = &config.database
        && !exists(path)?
    {
        return Err(Failure::Refused(format!("there is no database {}", path.display())));
    }
    let db = open_database(&config.database).await?;
    let findings = if for_upgrade {
        upgrade::find(config, &db).await?
    } else {
        find(context, config, &db).await?
    };
    let failed = findings.iter().filter(|finding| !finding.ok).count();
    if context.json {
        output::json(&findings);
    } else {
        let cells: Vec<Vec<String>> = findings
            .iter()
            .map(|finding| {
                let verdict = if finding.ok { "ok" } else { "FAILED" };
                vec![
                    finding.name.to_owned(),
                    verdict.to_owned(),
                    output::printable(&finding.detail),
                ]
            })
            .collect();
        output::line(&output::table(&["CHECK", "", "DETAIL"], &cells));
    }
    if failed > 0 {
        return Err(Failure::Refused(format!(
            "{failed} of {} checks failed",
            findings.len()
        )));
    }
    Ok(())
}

/// Each look only when those before it found nothing: rows of a damaged file or of another schema would only look broken.
async fn find(context: &Context, config: &Config, db: &Db) -> Result<Vec<Finding>, Failure> {
    let mut findings = vec![Finding::new("integrity", "nothing is damaged", &db.damage().await?)];
    findings.push(encoding(db).await?);
    if let Some(source) = db.unfinished_copy().await? {
        let problem =
            format!("a copy from {source} into this database did not finish: run 'keyround db copy' there again");
        findings.push(Finding::new("copy", "", &[problem]));
    }
    if findings.iter().all(|finding| finding.ok) {
        findings.push(schema(db).await?);
    }
    if !findings.iter().all(|finding| finding.ok) {
        return Ok(findings);
    }
    let rights = db.require_rights().await;
    let can_read = !matches!(
        rights,
        Err(StoreError::MissingRights { reads: false, .. } | StoreError::HiddenRows { .. })
    );
    let rights = match rights {
        Ok(()) => db.require_no_more_rights().await,
        refused => refused,
    };
    findings.push(Finding::answer("rights", good_rights(config), config, rights));
    let probe = Entry::new(
        Event::DatabasePruned,
        "database",
        context.clock.read().wall,
        ACTOR.as_str(),
        "probe",
    );
    let written = async {
        db.probe_write().await?;
        db.probe_numbers(&probe).await
    };
    findings.push(Finding::answer(
        "writes",
        "a write was committed",
        config,
        written.await,
    ));
    if can_read {
        findings.extend(rows(context, config, db).await?);
    }
    Ok(findings)
}

async fn encoding(db: &Db) -> Result<Finding, StoreError> {
    let problem = match db.require_utf8().await {
        Err(error @ StoreError::NotUtf8 { .. }) => Some(error.to_string()),
        answer => answer.map(|()| None)?,
    };
    Ok(Finding::new(
        "encoding",
        "every character can be stored",
        problem.as_slice(),
    ))
}

const fn good_rights(config: &Config) -> &'static str {
    match config.database {
        Database::Postgres(_) => "the role has the rights that a server needs",
        Database::Sqlite { .. } | Database::SqliteInMemory => "SQLite has no rights but those to its file",
    }
}

async fn schema(db: &Db) -> Result<Finding, StoreError> {
    use StoreError::{IncompleteSchema, NewerSchema, OlderSchema};
    let looked = async {
        db.require_compatible_schema().await?;
        db.require_working_schema().await?;
        db.schema_version().await
    };
    let (found, problem) = match looked.await {
        Err(error @ (OlderSchema { .. } | NewerSchema { .. } | IncompleteSchema { .. })) => {
            (0, Some(error.to_string()))
        }
        answer => (answer?, None),
    };
    let known = known_schema();
    let good = if found > known {
        format!(
            "version {found} of a later version of Keyround, which works with this one (version {known}), and nothing that it needs is missing"
        )
    } else {
        format!("version {known}, and nothing of it is missing")
    };
    Ok(Finding::new("schema", &good, problem.as_slice()))
}

async fn rows(context: &Context, config: &Config, db: &Db) -> Result<Vec<Finding>, Failure> {
    let policy = &config.keys.policy;
    let mut findings = vec![Finding::answer(
        "clients",
        "every row can be read",
        config,
        all_clients(db).await,
    )];
    findings.push(mailboxes(db).await?);
    match db.signing_keys().await {
        Err(error @ StoreError::Corrupt { .. }) => {
            findings.push(Finding::new("signing_keys", "", &[error.to_string()]));
        }
        stored => {
            let trusted = trusted_time(db, policy, &context.clock, None).await?;
            let now = trusted.reached();
            let node = node_in_doubt(db, policy, &trusted).await?;
            findings.push(Finding {
                name: "clock",
                ok: clock::is_in_order(&trusted, node.as_ref()),
                detail: clock::described(&trusted, node.as_ref()),
            });
            let keys = stored?.keys();
            findings.push(Finding::new("signing_keys", "every row can be read", &[]));
            findings.push(Finding::new(
                "active_keys",
                &all_active(&keys, policy, now),
                &without_active(&keys, policy, now),
            ));
            findings.push(ledger(config, &keys));
            findings.push(Finding::new(
                "private_halves",
                "none has outlived its key",
                &outlived(&keys, policy, now),
            ));
        }
    }
    findings.push(sealed(config, db).await?);
    Ok(findings)
}

/// Accounts that a person would take for one.
async fn mailboxes(db: &Db) -> Result<Finding, StoreError> {
    let problems: Vec<String> = db
        .accounts_of_one_mailbox()
        .await?
        .iter()
        .map(|(one, other)| {
            format!(
                "{one} and {other} are one mailbox and two accounts, each found by its own spelling: keep the one that is used, and \
                 remove the other with 'keyround users delete'"
            )
        })
        .collect();
    Ok(Finding::new("mailboxes", "no mailbox has two accounts", &problems))
}

async fn all_clients(db: &Db) -> Result<(), StoreError> {
    let mut page = db.clients(None, 500).await?;
    while let Some(last) = page.last() {
        page = db.clients(Some(&last.client.id), 500).await?;
    }
    Ok(())
}

/// The algorithms that should have an active key and have none.
fn without_active(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<String> {
    if keys.iter().next().is_none() {
        return vec!["there are no keys yet: the first 'keyround serve' makes one for each algorithm".to_owned()];
    }
    plan::without_active(keys, policy, now)
        .into_iter()
        .map(|alg| match keys.last_removal(alg) {
            Some((removal, _)) => format!(
                "no {alg} key is active, because it was removed with effect from {}: 'keyround keys keep-algorithm {alg}' takes \
                 that back while its last key is published",
                removal.activates_at
            ),
            None => format!("no {alg} key is active"),
        })
        .collect()
}

/// The enabled algorithms whose first key has not begun to sign, or is not made.
fn waiting(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
    let without = plan::without_active(keys, policy, now);
    let enabled = policy.algorithms().iter().copied();
    enabled
        .filter(|&alg| keys.active(alg, now).is_none() && !without.contains(&alg))
        .collect()
}

/// What is said of active keys when all is well.
fn all_active(keys: &Keys, policy: &Policy, now: UnixTime) -> String {
    let named = |about: &str, algorithms: Vec<Algorithm>| match algorithms.as_slice() {
        [] => String::new(),
        algorithms => {
            let names: Vec<&str> = algorithms.iter().map(|alg| alg.name()).collect();
            format!("{about}{}", names.join(", "))
        }
    };
    let (good, waiting) = match waiting(keys, policy, now) {
        waiting if waiting.is_empty() => ("every enabled algorithm has one", String::new()),
        waiting => (
            "every algorithm that has signed has one",
            named("; no key of these has signed yet: ", waiting),
        ),
    };
    let left_out = named(
        "; left out of keys.algorithms but not removed: ",
        plan::left_out(keys, policy),
    );
    format!("{good}{waiting}{left_out}")
}

/// The keys that the database trusts although they were revoked.
fn lost_revocations(ledger: Option<&Ledger>, keys: &Keys) -> Vec<String> {
    keys.jwks()
        .filter(|(_, revoked_at)| revoked_at.is_none())
        .filter(|(jwk, _)| keys.revokes(jwk) || ledger.is_some_and(|ledger| ledger.names(jwk)))
        .map(|(jwk, _)| {
            format!(
                "key {kid} was revoked, but the database trusts it: run 'keyround keys revoke {kid}'",
                kid = jwk.kid
            )
        })
        .collect()
}

/// Whether the ledger can be written, and whether the database trusts a key that was revoked.
fn ledger(config: &Config, keys: &Keys) -> Finding {
    let ledger = open_ledger(config);
    let mut problems = lost_revocations(ledger.as_ref(), keys);
    let fault = ledger.as_ref().and_then(|ledger| {
        ledger
            .failure()
            .or_else(|| ledger.probe().err().map(|error| error.to_string()))
    });
    problems.extend(fault);
    let good = match &ledger {
        Some(ledger) => {
            let former = config.keys.former_ledger_file.as_ref().filter(|former| former.exists());
            let names = match former {
                None => format!("{} names", ledger.path().display()),
                Some(former) => format!(
                    "{} and {}, which an earlier version wrote, name",
                    ledger.path().display(),
                    former.display()
                ),
            };
            format!(
                "the database trusts none of the {} keys that {names}",
                ledger.known().len()
            )
        }
        None => "no ledger is kept, because keys.ledger_file is not set".to_owned(),
    };
    Finding::new("ledger", &good, &problems)
}

/// Private halves of keys that are expired or revoked.
fn outlived(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<String> {
    keys.iter()
        .filter(|key| key.has_private_half)
        .map(|key| (key, keys.state(key, policy, now)))
        .filter(|(_, state)| matches!(state, State::Expired | State::Revoked))
        .map(|(key, state)| format!("key {} is {state} and still has its private half", key.kid))
        .collect()
}

async fn sealed(config: &Config, db: &Db) -> Result<Finding, Failure> {
    if config.keys.master_key == MasterKeySource::Missing {
        let problem =
            "they were not read, because no master key is set; set keys.master_key_file or keys.master_key".to_owned();
        return Ok(Finding::new("sealed_rows", "", &[problem]));
    }
    let census: Census = census(db, &master_keys(config)?).await?;
    let problems: Vec<String> = census
        .iter()
        .filter_map(|(under, count)| match under {
            Under::Listed(_) => None,
            Under::NotListed(id) => Some(format!("{count} lie under the master key {id}, which is not listed")),
            Under::DoesNotOpen => Some(format!("{count} open under no master key that is listed")),
        })
        .collect();
    let good = format!("all {} open", census.values().sum::<usize>());
    Ok(Finding::new("sealed_rows", &good, &problems))
}
