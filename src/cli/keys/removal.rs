//! `keys remove-algorithm` and `keys keep-algorithm`: the end of an algorithm, and its reversal.

use clap::Args;
use serde_json::json;

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::left_out;
use crate::keys::policy::Policy;
use crate::rotation::{CannotKeep, CannotRemove};

use super::super::confirm::Confirmation;
use crate::cli::context::{ACTOR, Context};
use crate::cli::failure::Failure;
use crate::cli::output;

#[derive(Args)]
pub struct Remove {
    /// The algorithm.
    algorithm: Algorithm,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = crate::cli::confirm::worded)]
    reason: String,
    /// Say what would happen, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(Args)]
pub struct Keep {
    /// The algorithm.
    algorithm: Algorithm,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = crate::cli::confirm::worded)]
    reason: String,
}

pub async fn remove(context: &Context, request: &Remove) -> Result<(), Failure> {
    let (_, foundation) = context.foundation().await?;
    let rotator = &foundation.rotator;
    let alg = request.algorithm;
    let refused = |error: CannotRemove| Failure::Refused(error.to_string());
    let foreseen = rotator
        .remove_algorithm(alg, &ACTOR, &request.reason, false)
        .await
        .map_err(refused)?;
    let now = foreseen.generation.published_at;
    let time = |at: UnixTime| output::time(at, now);
    let removed = if request.dry_run {
        foreseen
    } else {
        request.confirmation.can_be_given("the removal")?;
        request.confirmation.ask(&format!(
            "The last {alg} key will sign until {}; afterwards nothing is signed with {alg}.",
            time(foreseen.generation.activates_at)
        ))?;
        rotator
            .remove_algorithm(alg, &ACTOR, &request.reason, true)
            .await
            .map_err(refused)?
    };
    if context.json {
        output::json(&json!({
            "dry_run": request.dry_run,
            "alg": alg,
            "removed_from": removed.generation.activates_at.rfc3339(),
            "can_be_kept_until": removed.final_at.rfc3339(),
        }));
        return Ok(());
    }
    if request.dry_run {
        output::line("Nothing was changed. Without --dry-run this would follow:");
    }
    output::line(&format!(
        "the removal of {alg} is announced: its last key signs until {}",
        time(removed.generation.activates_at)
    ));
    output::line(&format!(
        "'keyround keys keep-algorithm {alg}' takes it back until {}",
        time(removed.final_at)
    ));
    Ok(())
}

pub async fn keep(context: &Context, request: &Keep) -> Result<(), Failure> {
    let (_, foundation) = context.foundation().await?;
    let rotator = &foundation.rotator;
    let alg = request.algorithm;
    let kept = rotator
        .keep_algorithm(alg, &ACTOR, &request.reason)
        .await
        .map_err(|error: CannotKeep| Failure::Refused(error.to_string()))?;
    if context.json {
        output::json(&json!({
            "alg": alg,
            "signs": kept.signs,
            "removed_from": kept.removed_from.rfc3339(),
        }));
    } else {
        output::line(&format!("the removal of {alg} is taken back: key {} signs", kept.signs));
    }
    Ok(())
}

/// What a list of keys does not show: algorithms that are only left out, and those that were removed.
pub fn remarks(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<String> {
    let left_out = left_out(keys, policy).into_iter().map(|alg| {
        format!(
            "{alg} is left out of keys.algorithms but not removed: its keys are rotated, and no client gets a token of it; \
             'keyround keys remove-algorithm {alg}' ends it"
        )
    });
    let removed = Algorithm::ALL.into_iter().filter_map(|alg| {
        let (removal, _) = keys.last_removal(alg)?;
        let at = output::time(removal.activates_at, now);
        let is_over = keys.has_line(alg) && keys.active(alg, now).is_some() && removal.activates_at <= now;
        (!is_over).then(|| format!("{alg} is removed with effect from {at}"))
    });
    left_out.chain(removed).collect()
}
