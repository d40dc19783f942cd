//! `keyround db check --for-upgrade`: what an upgrade to this binary would do to the database and to the servers that run on it.

use crate::config::Config;
use crate::rotation::sealing::heartbeat_memory;
use crate::store::Db;
use crate::store::compatibility::{Compatibility, MigrationStep};

use super::{Failure, Finding, encoding};

/// Nothing is changed, and an older schema is no fault here.
pub async fn find(config: &Config, db: &Db) -> Result<Vec<Finding>, Failure> {
    let mut findings = vec![
        Finding::new("integrity", "nothing is damaged", &db.damage().await?),
        encoding(db).await?,
    ];
    if !findings.iter().all(|finding| finding.ok) {
        return Ok(findings);
    }
    let found = db.schema_version().await?;
    if db.compatibility().await? == Compatibility::Incompatible {
        let refused = db.require_compatible_schema().await;
        findings.push(Finding::answer("schema", "", config, refused));
        return Ok(findings);
    }
    let steps = db.pending_steps().await?;
    let listed: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let plan = match listed.as_slice() {
        [] => format!("version {found}: nothing is to be changed"),
        steps => format!("version {found}; to be made: {}", steps.join(", ")),
    };
    findings.push(Finding::new("schema", &plan, &[]));
    findings.push(servers(config, db, &steps).await?);
    if !steps.is_empty() {
        let may = db.require_creation(found).await;
        findings.push(Finding::answer("rights", "this role may make the changes", config, may));
        findings.push(way_back(found, &steps));
    }
    Ok(findings)
}

/// Whether those that run now go on beside the new version.
async fn servers(config: &Config, db: &Db, steps: &[MigrationStep]) -> Result<Finding, Failure> {
    let found = db.schema_version().await?;
    if found == 0 {
        return Ok(Finding::new("servers", "the database is empty", &[]));
    }
    // Not by the trusted clock: an older schema may lack its rows.
    let since = db.now().await? - heartbeat_memory(&config.keys.policy);
    let running = db.node_ids_seen_since(since).await?;
    let breaking = steps.iter().find(|step| !step.works_with(found));
    let problem = breaking.filter(|_| !running.is_empty()).map(|step| {
        format!(
            "the nodes {} run and do not work with step {step}: stop them before the upgrade",
            running.join(", ")
        )
    });
    let good = match running.len() {
        0 => "none runs".to_owned(),
        count => format!("{count} run, and go on beside this version"),
    };
    Ok(Finding::new("servers", &good, problem.as_slice()))
}

/// Whether the version before may be put back afterwards.
fn way_back(found: i64, steps: &[MigrationStep]) -> Finding {
    let good = match steps.iter().find(|step| !step.says_works_with(found)) {
        None => format!("a version for schema {found} may be put back afterwards"),
        Some(step) => format!(
            "after step {step} a version for schema {found} can be put back with a backup from before only: make one now"
        ),
    };
    Finding::new("way_back", &good, &[])
}
